//! A map from small numbers to values that can also choose the number: the lowest that is free.
//!
//! An [`IdMap`] is a radix tree of 64 ways. A node knows which of its children have nothing free, so that looking up, choosing, inserting
//! and removing each take one step a level, however many ids are in use. Nodes exist only above ids that are in use: memory is in
//! proportion to them. Every allocation can fail, and leaves the map as it was then.
//!
//! Not here: locks; what ids are for (`pasid`, `iopf`, a driver's ASIDs).

use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

const WAYS: usize = 64;
const WAYS_LG2: u32 = 6;
const LAST_WAY: u32 = 63;

/// Values by id.
pub struct IdMap<T> {
    root: Option<Node<T>>,
    id_bits: u32,
    len: usize,
}

struct Node<T> {
    /// Which slots hold something.
    present: u64,
    /// Under which slots no id is free. The same as `present` where the slots hold values.
    full: u64,
    slots: Slots<T>,
}

enum Slots<T> {
    Nodes(Vec<Option<Node<T>>>),
    Values(Vec<Option<T>>),
}

/// Why no id was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChooseIdError {
    /// All in the range are in use.
    NoneFree,
    /// No memory for a node.
    NoMemory,
}

/// Why a value was not inserted at the id that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertIdError {
    /// The id is in use.
    Taken,
    /// The map has no such id.
    Beyond,
    /// No memory for a node.
    NoMemory,
}

struct NoMemory;

impl<T> fmt::Debug for IdMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdMap")
            .field("id_bits", &self.id_bits)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<T> IdMap<T> {
    /// An empty map for ids of `id_bits` bits, 1 to 32 (others are taken for the nearest of these). Allocates nothing.
    pub fn new(id_bits: u8) -> Self {
        Self { root: None, id_bits: u32::from(id_bits).clamp(1, u32::BITS), len: 0 }
    }

    /// The highest id that there can be.
    pub fn last_id(&self) -> u32 {
        u32::MAX >> (u32::BITS - self.id_bits)
    }

    /// How many ids are in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `id`.
    pub fn get(&self, id: u32) -> Option<&T> {
        if id > self.last_id() {
            return None;
        }
        let mut node = self.root.as_ref()?;
        let mut level = self.top_level();
        loop {
            let at = slot(id, level);
            match &node.slots {
                Slots::Nodes(nodes) => node = nodes[at].as_ref()?,
                Slots::Values(values) => return values[at].as_ref(),
            }
            level -= 1;
        }
    }

    /// The value at `id`, to be changed.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        if id > self.last_id() {
            return None;
        }
        let mut level = self.top_level();
        let mut node = self.root.as_mut()?;
        loop {
            let at = slot(id, level);
            match &mut node.slots {
                Slots::Nodes(nodes) => node = nodes[at].as_mut()?,
                Slots::Values(values) => return values[at].as_mut(),
            }
            level -= 1;
        }
    }

    /// Inserts at the lowest id in `range` that is free, and answers which that is.
    ///
    /// # Errors
    ///
    /// As [`ChooseIdError`] says; then the value is dropped.
    pub fn insert_lowest(&mut self, range: RangeInclusive<u32>, value: T) -> Result<u32, ChooseIdError> {
        let id = self.lowest_free(range).ok_or(ChooseIdError::NoneFree)?;
        self.place(id, value).map_err(|NoMemory| ChooseIdError::NoMemory)?;
        Ok(id)
    }

    /// Inserts at `id`.
    ///
    /// # Errors
    ///
    /// As [`InsertIdError`] says; then the value is dropped.
    pub fn insert(&mut self, id: u32, value: T) -> Result<(), InsertIdError> {
        if id > self.last_id() {
            return Err(InsertIdError::Beyond);
        }
        if self.get(id).is_some() {
            return Err(InsertIdError::Taken);
        }
        self.place(id, value).map_err(|NoMemory| InsertIdError::NoMemory)
    }

    /// Takes the value at `id` out; the id is free then.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        if id > self.last_id() {
            return None;
        }
        let level = self.top_level();
        let root = self.root.as_mut()?;
        let value = root.take(level, id)?;
        if root.present == 0 {
            self.root = None;
        }
        self.len -= 1;
        Some(value)
    }

    fn lowest_free(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let (from, last) = (*range.start(), (*range.end()).min(self.last_id()));
        if from > last {
            return None;
        }
        let lowest = match &self.root {
            None => Some(from),
            Some(root) => root.lowest_free(self.top_level(), from),
        };
        lowest.filter(|&id| id <= last)
    }

    fn place(&mut self, id: u32, value: T) -> Result<(), NoMemory> {
        let level = self.top_level();
        match &mut self.root {
            Some(root) => root.place(level, id, value)?,
            None => self.root = Some(Node::with(level, id, value)?),
        }
        self.len += 1;
        Ok(())
    }

    /// The level of the root; values are at level 0.
    fn top_level(&self) -> u32 {
        (self.id_bits - 1) / WAYS_LG2
    }
}

/// Which slot of a node at `level` leads to `id`.
fn slot(id: u32, level: u32) -> usize {
    (id >> (level * WAYS_LG2)) as usize % WAYS
}

fn empty<S>() -> Result<Vec<Option<S>>, NoMemory> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(WAYS).map_err(|_| NoMemory)?;
    slots.resize_with(WAYS, || None);
    Ok(slots)
}

impl<T> Node<T> {
    /// A node at `level` that holds nothing but `value`.
    fn with(level: u32, id: u32, value: T) -> Result<Self, NoMemory> {
        let slots = if level == 0 { Slots::Values(empty()?) } else { Slots::Nodes(empty()?) };
        let mut node = Self { present: 0, full: 0, slots };
        node.place(level, id, value)?;
        Ok(node)
    }

    /// Puts a value where none is.
    fn place(&mut self, level: u32, id: u32, value: T) -> Result<(), NoMemory> {
        let at = slot(id, level);
        let full = match &mut self.slots {
            Slots::Values(values) => {
                values[at] = Some(value);
                true
            }
            Slots::Nodes(nodes) => match &mut nodes[at] {
                Some(child) => {
                    child.place(level - 1, id, value)?;
                    child.full == u64::MAX
                }
                none => {
                    *none = Some(Self::with(level - 1, id, value)?);
                    false
                }
            },
        };
        self.present |= 1 << at;
        self.full |= u64::from(full) << at;
        Ok(())
    }

    /// Takes a value out, and with it each node that it leaves empty, this one excepted.
    fn take(&mut self, level: u32, id: u32) -> Option<T> {
        let at = slot(id, level);
        let (value, emptied) = match &mut self.slots {
            Slots::Values(values) => (values[at].take()?, true),
            Slots::Nodes(nodes) => {
                let child = nodes[at].as_mut()?;
                let value = child.take(level - 1, id)?;
                let emptied = child.present == 0;
                if emptied {
                    nodes[at] = None;
                }
                (value, emptied)
            }
        };
        self.full &= !(1 << at);
        self.present &= !(u64::from(emptied) << at);
        Some(value)
    }

    /// The lowest free id under this node that is at least `from`, which is under it too. Whole ids: the bits above this node are `from`'s.
    fn lowest_free(&self, level: u32, from: u32) -> Option<u32> {
        let shift = level * WAYS_LG2;
        let at = slot(from, level);
        if self.full & (1 << at) == 0
            && let Some(id) = self.lowest_free_in(level, at, from)
        {
            return Some(id);
        }
        let later = !self.full & (u64::MAX << at << 1);
        if later == 0 {
            return None;
        }
        let next = later.trailing_zeros();
        let below_child = (1u32 << shift) - 1;
        // The bits above this node stay, this node's become `next`, those below 0. At the top level of 32-bit ids there are
        // fewer than 64 children that exist; what lies beyond them is no id.
        let in_place = next << shift;
        if in_place >> shift != next {
            return None;
        }
        let above = from & !below_child & !(LAST_WAY << shift);
        self.lowest_free_in(level, next as usize, above | in_place)
    }

    /// The same, under the slot `at`, to which `from` leads.
    fn lowest_free_in(&self, level: u32, at: usize, from: u32) -> Option<u32> {
        match &self.slots {
            Slots::Values(_) => Some(from),
            Slots::Nodes(nodes) => match &nodes[at] {
                None => Some(from),
                Some(child) => child.lowest_free(level - 1, from),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_chosen_from_the_bottom_and_freed_ones_first() {
        let mut map = IdMap::new(20);
        let ids: Vec<u32> = (0..200).map(|n| map.insert_lowest(1..=0xf_ffff, n).unwrap()).collect();
        assert_eq!(ids, (1..=200).collect::<Vec<_>>());
        assert_eq!([70, 3, 3].map(|id| map.remove(id)), [Some(69), Some(2), None]);
        assert_eq!(map.insert_lowest(4..=0xf_ffff, 7), Ok(70));
        assert_eq!(map.insert_lowest(1..=0xf_ffff, 8), Ok(3));
        assert_eq!((map.get(70), map.get(3), map.get(201), map.len()), (Some(&7), Some(&8), None, 200));
    }

    #[test]
    fn every_id_of_the_map_can_be_in_use_and_none_beyond() {
        for bits in [1, 4, 6, 7, 12, 13] {
            let mut map = IdMap::new(bits);
            let last = (1u32 << bits) - 1;
            assert_eq!(map.last_id(), last);
            for id in 0..=last {
                assert_eq!(map.insert_lowest(0..=u32::MAX, id), Ok(id));
            }
            assert_eq!(map.insert_lowest(0..=u32::MAX, 0), Err(ChooseIdError::NoneFree));
            assert_eq!(map.insert(last, 0), Err(InsertIdError::Taken));
            assert_eq!(map.insert(last + 1, 0), Err(InsertIdError::Beyond));
            assert!((0..=last).all(|id| map.remove(id) == Some(id)) && map.is_empty());
            assert!(map.root.is_none(), "no node is left");
        }
    }

    #[test]
    fn the_last_of_all_32_bit_ids_exists() {
        let mut map = IdMap::new(32);
        for id in [u32::MAX, u32::MAX - 1, u32::MAX - 64, 0] {
            assert_eq!(map.insert_lowest(id..=u32::MAX, id), Ok(id));
        }
        assert_eq!(map.insert_lowest(u32::MAX - 1..=u32::MAX, 0), Err(ChooseIdError::NoneFree));
        let (from, below) = (u32::MAX, u32::MAX - 1);
        assert_eq!(map.insert_lowest(from..=below, 0), Err(ChooseIdError::NoneFree));
        assert_eq!(map.get(u32::MAX), Some(&u32::MAX));
        assert_eq!(map.get_mut(1), None);
        assert_eq!(map.remove(u32::MAX), Some(u32::MAX));
    }

    fn nodes<T>(node: &Node<T>) -> usize {
        match &node.slots {
            Slots::Values(_) => 1,
            Slots::Nodes(below) => 1 + below.iter().flatten().map(nodes).sum::<usize>(),
        }
    }

    #[test]
    fn nodes_are_in_proportion_to_the_ids_in_use() {
        let mut map = IdMap::new(20);
        assert!((0..1024).all(|n| map.insert_lowest(1..=0xf_ffff, n).is_ok()));
        assert_eq!(map.root.as_ref().map(nodes), Some(17 + 1 + 1 + 1));
        assert!((2..=1024).all(|id| map.remove(id).is_some()));
        assert_eq!(map.root.as_ref().map(nodes), Some(4));
    }

    proptest! {
        #[test]
        fn any_history_agrees_with_a_search_from_the_bottom(
            steps in proptest::collection::vec((0u8..4, 0u32..9000, 0u32..9000), 1..400),
        ) {
            let mut map = IdMap::new(13);
            let mut oracle = BTreeMap::new();
            for (n, (what, a, b)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => {
                        let lowest = (a..=b.min(8191)).find(|id| !oracle.contains_key(id));
                        prop_assert_eq!(map.insert_lowest(a..=b, n).ok(), lowest);
                        lowest.map(|id| oracle.insert(id, n));
                    }
                    2 => {
                        let fits = a < 8192 && !oracle.contains_key(&a);
                        prop_assert_eq!(map.insert(a, n).is_ok(), fits);
                        if fits {
                            oracle.insert(a, n);
                        }
                    }
                    _ => {
                        // Mostly ids that are there.
                        let id = oracle.keys().copied().nth(b as usize % (oracle.len() + 1)).unwrap_or(b);
                        prop_assert_eq!(map.remove(id), oracle.remove(&id));
                    }
                }
                prop_assert_eq!(map.get(a), oracle.get(&a));
                prop_assert_eq!(map.len(), oracle.len());
            }
        }
    }
}
