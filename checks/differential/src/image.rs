//! The memory image of a case: words at physical addresses, and what tables there are.
//!
//! All else is zero, so that what is not written is an invalid descriptor or entry.

use std::collections::BTreeMap;

use model_bus::Dice;

use crate::descriptor::{Granule, Stage};
use crate::layout::{TABLES, TABLES_END};

/// A translation table, for whoever wants to know what a word in memory is.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// How many bytes.
    pub bytes: u64,
    /// Of which stage.
    pub stage: Stage,
    /// Of which granule.
    pub granule: Granule,
    /// Of which level.
    pub level: i8,
}

/// Words, and the tables that they make up.
#[derive(Clone, Debug, Default)]
pub struct Image {
    words: BTreeMap<u64, u64>,
    tables: BTreeMap<u64, Table>,
    /// The next free byte of the tables.
    free: u64,
}

impl Image {
    /// Nothing yet; the first table will lie where `dice` say.
    pub fn new(dice: &mut Dice) -> Self {
        let free = TABLES + (u64::from(dice.up_to(255)) << 16);
        Self { words: BTreeMap::new(), tables: BTreeMap::new(), free }
    }

    /// Room for `bytes` bytes, aligned to their size; none if there is no more.
    pub fn room(&mut self, bytes: u64, dice: &mut Dice) -> Option<u64> {
        let align = bytes.next_power_of_two().max(64);
        let gap = if dice.one_in(4) { align } else { 0 };
        let at = (self.free + gap).next_multiple_of(align);
        (at + bytes <= TABLES_END).then(|| {
            self.free = at + bytes;
            at
        })
    }

    /// Says what the memory at `at` is.
    pub fn note_table(&mut self, at: u64, table: Table) {
        self.tables.insert(at, table);
    }

    /// The table in which `at` lies.
    pub fn table_of(&self, at: u64) -> Option<Table> {
        let (first, table) = self.tables.range(..=at).next_back()?;
        (at < first + table.bytes).then_some(*table)
    }

    /// The word at `at`.
    pub fn word(&self, at: u64) -> u64 {
        self.words.get(&at).copied().unwrap_or(0)
    }

    /// Sets the word at `at`.
    pub fn set(&mut self, at: u64, word: u64) {
        self.words.insert(at, word);
    }

    /// Sets words from `at` on.
    pub fn set_all(&mut self, at: u64, words: &[u64]) {
        for (offset, &word) in (0..).step_by(8).zip(words) {
            self.set(at + offset, word);
        }
    }

    /// Where these words lie, aligned to their size.
    pub fn find(&self, words: &[u64; 8]) -> Option<u64> {
        let mut places = self.words.range(crate::layout::STREAMS..crate::layout::STREAMS_END);
        places.find_map(|(&at, _)| {
            let same = (0..).step_by(8).zip(words).all(|(offset, &word)| self.word(at + offset) == word);
            (at.is_multiple_of(64) && same).then_some(at)
        })
    }

    /// Every word that is not zero, by address.
    pub fn words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.words.iter().map(|(&at, &word)| (at, word)).filter(|&(_, word)| word != 0)
    }
}
