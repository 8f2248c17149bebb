//! A small store of things under keys, which throws something out when it is full.

use core::hash::Hash;
use std::collections::HashMap;

use model_bus::Chance;

/// Up to a number of values, each under its key.
#[derive(Debug)]
pub(crate) struct Pool<K, V> {
    entries: Vec<(K, V)>,
    places: HashMap<K, usize>,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Pool<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Vec::new(), places: HashMap::new(), capacity: capacity.max(1) }
    }

    pub(crate) fn get(&self, key: K) -> Option<V> {
        self.places.get(&key).map(|&place| self.entries[place].1)
    }

    /// Puts `value` in, over what was under the key, else over a random other if there is no room.
    pub(crate) fn insert(&mut self, key: K, value: V, chance: &Chance) {
        if let Some(&place) = self.places.get(&key) {
            self.entries[place].1 = value;
            return;
        }
        if self.entries.len() >= self.capacity {
            self.remove_at(chance.below(self.entries.len()));
        }
        self.places.insert(key, self.entries.len());
        self.entries.push((key, value));
    }

    pub(crate) fn remove(&mut self, key: K) {
        if let Some(&place) = self.places.get(&key) {
            self.remove_at(place);
        }
    }

    pub(crate) fn remove_any(&mut self, chance: &Chance) {
        if !self.entries.is_empty() {
            self.remove_at(chance.below(self.entries.len()));
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        for place in (0..self.entries.len()).rev() {
            let (key, value) = &self.entries[place];
            if !keep(key, value) {
                self.remove_at(place);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove_at(&mut self, place: usize) {
        let (key, _) = self.entries.swap_remove(place);
        self.places.remove(&key);
        if let Some((moved, _)) = self.entries.get(place) {
            self.places.insert(*moved, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_holds_what_it_has_room_for_and_finds_all_of_it() {
        let chance = Chance::new(1);
        let mut pool = Pool::new(8);
        for key in 0..100u32 {
            pool.insert(key, 2 * key, &chance);
            assert_eq!(pool.get(key), Some(2 * key));
            assert!(pool.len() <= 8);
        }
        assert_eq!((0..100).filter(|&key| pool.get(key) == Some(2 * key)).count(), 8);
        pool.retain(|key, _| key % 2 == 0);
        assert!((0..100).all(|key| pool.get(key).is_none_or(|_| key % 2 == 0)));
        let before = pool.len();
        pool.remove_any(&chance);
        assert_eq!(pool.len(), before.saturating_sub(1));
        pool.remove(98);
        assert_eq!(pool.get(98), None);
    }
}
