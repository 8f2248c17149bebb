//! Where the structures of an SMMUv3 lie, learnt from what is written to its registers and to the first level of its stream table.
//!
//! The offsets are typed from the book, not taken from `spec`.
//!
//! Spec: SMMUv3 H.a, 6.1 "Memory map", 5.1 "L1STD, Level 1 Stream Table Descriptor".

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis::types::Pa;

/// Where every built-in machine has its SMMU.
pub const SMMU_BASE: u64 = 0x0905_0000;

/// Offsets of registers.
pub mod offset {
    /// SMMU_CR0.
    pub const CR0: u64 = 0x20;
    /// SMMU_STRTAB_BASE.
    pub const STRTAB_BASE: u64 = 0x80;
    /// SMMU_STRTAB_BASE_CFG.
    pub const STRTAB_BASE_CFG: u64 = 0x88;
    /// SMMU_CMDQ_BASE.
    pub const CMDQ_BASE: u64 = 0x90;
    /// SMMU_CMDQ_PROD.
    pub const CMDQ_PROD: u64 = 0x98;
    /// SMMU_CMDQ_CONS.
    pub const CMDQ_CONS: u64 = 0x9c;
    /// SMMU_EVENTQ_BASE.
    pub const EVENTQ_BASE: u64 = 0xa0;
    /// SMMU_EVENTQ_CONS, in page 1.
    pub const EVENTQ_CONS: u64 = 0x1_00ac;
}

/// What a word of memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A slot of the command queue.
    Command,
    /// A level 1 descriptor of the stream table.
    Level1,
    /// An entry of the stream table: where the entry begins, and which word of it.
    Entry(Pa, usize),
    /// Something else: page tables, context descriptors, words of syncs.
    Other,
}

/// What has been learnt.
#[derive(Debug, Default)]
pub struct View(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    command_queue: u64,
    command_queue_lg2: u32,
    stream_table: u64,
    stream_table_lg2: u32,
    /// None for a linear table.
    split: Option<u32>,
    /// Second-level tables: first address, and how many bytes.
    leaves: BTreeMap<u64, u64>,
}

/// The offset of a register of the SMMU.
pub fn register(at: Pa) -> Option<u64> {
    at.get().checked_sub(SMMU_BASE).filter(|&offset| offset < 0x2_0000)
}

const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;

impl View {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from the write of a register.
    pub fn register_written(&self, at: Pa, value: u64) {
        let mut known = self.known();
        match register(at) {
            Some(offset::CMDQ_BASE) => {
                known.command_queue = value & ADDRESS;
                known.command_queue_lg2 = low(value, 5);
            }
            Some(offset::STRTAB_BASE) => known.stream_table = value & ADDRESS,
            Some(offset::STRTAB_BASE_CFG) => {
                known.stream_table_lg2 = low(value, 6);
                known.split = (value >> 16 & 3 == 1).then(|| low(value >> 6, 5));
            }
            _ => {}
        }
    }

    /// What a word belongs to that is stored. Learns from level 1 descriptors.
    pub fn word_stored(&self, at: Pa, word: u64) -> Place {
        let place = self.place(at);
        if place == Place::Level1 {
            self.known().leaves.insert(word & ADDRESS, 64 << low(word, 5).saturating_sub(1));
        }
        place
    }

    /// What a word belongs to.
    pub fn place(&self, at: Pa) -> Place {
        let known = self.known();
        let at = at.get();
        let within = |first: u64, len: u64| first != 0 && at >= first && at - first < len;
        if within(known.command_queue, 16 << known.command_queue_lg2) {
            return Place::Command;
        }
        match known.split {
            None if within(known.stream_table, 64 << known.stream_table_lg2) => return entry(at),
            Some(split) if within(known.stream_table, 8 << known.stream_table_lg2.saturating_sub(split)) => {
                return Place::Level1;
            }
            _ => {}
        }
        match known.leaves.range(..=at).next_back() {
            Some((&first, &len)) if within(first, len) => entry(at),
            _ => Place::Other,
        }
    }

    /// The slots of the command queue from one index to another, as SMMU_CMDQ_PROD counts them.
    pub fn slots(&self, from: u32, to: u32) -> Vec<Pa> {
        let known = self.known();
        slots(known.command_queue, known.command_queue_lg2, from, to).collect()
    }
}

/// The slots of a command queue of `1 << lg2` commands from one index to another, as SMMU_CMDQ_PROD counts them.
pub fn slots(queue: u64, lg2: u32, from: u32, to: u32) -> impl Iterator<Item = Pa> {
    let mask = (1u32 << lg2) - 1;
    let wrap = 2 * mask + 1;
    let count = to.wrapping_sub(from) & wrap;
    (0..count).map(move |index| Pa::new(queue + 16 * u64::from(from.wrapping_add(index) & mask)))
}

fn entry(at: u64) -> Place {
    Place::Entry(Pa::new(at & !63), low_half(at & 63) as usize / 8)
}

fn low(value: u64, bits: u32) -> u32 {
    low_half(value & ((1 << bits) - 1))
}

/// The low 32 bits.
pub fn low_half(value: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "as the name says")]
    let low = value as u32;
    low
}
