//! The levels of a table, and which hangs where.

use alloc::vec::Vec;

use portcullis_hal::TableMemory;
use portcullis_types::{Pa, mutant};

use super::entry::TceRaw;
use super::shape::TceShape;
use crate::Memory;

/// Which level.
pub(crate) type Slot = u32;
/// The first level.
pub(crate) const ROOT: Slot = 0;
/// No level.
const NONE: Slot = Slot::MAX;

/// A level: its table, and for the last ones the user's view of it.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) at: Pa,
    pub(crate) view: Option<Pa>,
    /// What hangs in its entries; empty for a last level.
    children: Vec<Slot>,
}

/// All levels of one table. They stay until it is destroyed.
#[derive(Debug)]
pub(crate) struct Levels {
    shape: TceShape,
    views: bool,
    all: Vec<Level>,
}

impl Levels {
    /// The first level; none if there is no memory.
    pub(crate) fn new(shape: TceShape, views: bool, mem: &impl Memory) -> Option<Self> {
        let mut levels = Self { shape, views, all: Vec::new() };
        levels.make(mem, shape.levels() == 1)?;
        mem.write_barrier();
        Some(levels)
    }

    pub(crate) fn get(&self, slot: Slot) -> &Level {
        &self.all[slot as usize]
    }

    /// How many there are, and how many views.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let views = self.all.iter().filter(|level| level.view.is_some()).count();
        (self.all.len() as u64, views as u64)
    }

    /// The last level of entry `index`. Where there is none yet, the first entry behind all that have none for the same reason.
    pub(crate) fn find(&self, index: u64) -> Result<Slot, u64> {
        let mut slot = ROOT;
        for height in (1..self.shape.levels()).rev() {
            slot = self.get(slot).children[self.at_height(index, height)];
            if slot == NONE {
                let entries_lg2 = self.shape.fan_lg2() * u32::from(height);
                return Err(((index >> entries_lg2) + 1) << entries_lg2);
            }
        }
        Ok(slot)
    }

    /// The last level of entry `index`, made where it is missing, with all that leads there. None if there is no memory: levels that were made stay,
    /// empty.
    pub(crate) fn find_or_make(&mut self, mem: &impl Memory, index: u64) -> Option<Slot> {
        let mut slot = ROOT;
        for height in (1..self.shape.levels()).rev() {
            let place = self.at_height(index, height);
            let mut child = self.get(slot).children[place];
            if child == NONE {
                child = self.make(mem, height == 1)?;
                // Its zeroes are there before anything leads to them.
                if !mutant!("tce-level-shown-before-its-zeroes") {
                    mem.write_barrier();
                }
                let entry = Pa::new(self.get(slot).at.get() + 8 * place as u64);
                mem.store(entry, TceRaw::level(self.get(child).at).word());
                self.all[slot as usize].children[place] = child;
            }
            slot = child;
        }
        Some(slot)
    }

    fn make(&mut self, mem: &impl TableMemory, last: bool) -> Option<Slot> {
        let fan = 1usize << self.shape.fan_lg2();
        let mut children = Vec::new();
        self.all.try_reserve(1).ok()?;
        if !last {
            children.try_reserve_exact(fan).ok()?;
            children.resize(fan, NONE);
        }
        let layout = self.shape.layout();
        let at = mem.alloc(layout)?;
        let view = if last && self.views {
            let Some(view) = mem.alloc(layout) else {
                if !mutant!("tce-level-lost-for-want-of-a-view") {
                    mem.free(at, layout);
                }
                return None;
            };
            Some(view)
        } else {
            None
        };
        let slot = Slot::try_from(self.all.len()).ok().filter(|&slot| slot != NONE);
        self.all.push(Level { at, view, children });
        slot
    }

    /// Which entry leads to `index` in a level that is `height` above the last.
    fn at_height(&self, index: u64, height: u8) -> usize {
        let fan_lg2 = self.shape.fan_lg2();
        let place = (index >> (fan_lg2 * u32::from(height))) & ((1 << fan_lg2) - 1);
        usize::try_from(place).expect("an index into memory that is there")
    }

    /// Gives all memory back.
    pub(crate) fn destroy(self, mem: &impl TableMemory) {
        let layout = self.shape.layout();
        for level in self.all {
            mem.free(level.at, layout);
            if let Some(view) = level.view {
                mem.free(view, layout);
            }
        }
    }
}
