//! Wrong drivers on every bed: which back end sees which.
//!
//! The bugs are those that others shipped, as far as they are an SMMUv3 driver's. Each is the shipped driver with a [`Hand`] in its way, so that it can
//! be put on any bed; the suite runs until a case fails. What each bed sees is pinned (`tests/conformance/wrong.rs`).
//!
//! | bug | models | QEMU |
//! |---|---|---|
//! | no configuration is invalidated after an entry was written | seen | seen |
//! | an unmap invalidates nothing | seen | seen |
//! | a domain's flush invalidates nothing | seen | seen |
//! | invalidations take effect one late: a sync is not waited for | seen | seen |
//! | invalidations by address name the ASID or VMID of another | seen | seen |
//! | the queue of commands begins off its alignment | seen | not: QEMU masks no address |
//! | an entry's first word is stored first | seen, by stage 2 | seen, by stage 2: not on 7 |
//! | nothing is ordered | seen | not: QEMU's SMMU sees stores as they come |
//! | tables are not cleaned for a walker that does not snoop | seen where nothing snoops | not: QEMU has no caches of data |
//! | events are taken and their slots never handed back | seen | seen |
//!
//! Not here: device TLBs, which no engine of a bed has (`checks::sva`), and bugs above the driver (`checks::wrong`, `vfio`).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis::types::Pa;

use super::bench::MakeHand;
use super::hands::{OnCommands, OnRegister, leaving_out};
use super::sight::offset;
use super::via::{Hand, Machine};
use crate::wrong::commands::{NOTHING, Words, is_by_address, is_invalidation, op, opcode};
use crate::wrong::view::{Place, SMMU_BASE, View};

/// A wrong driver.
pub struct Bug {
    /// What is wrong with it.
    pub name: &'static str,
    /// What makes it so.
    pub make: Arc<MakeHand>,
}

/// Every wrong driver.
pub fn bugs() -> Vec<Bug> {
    let bug = |name, make: Arc<MakeHand>| Bug { name, make };
    vec![
        bug(
            "no configuration is invalidated after an entry was written",
            Arc::new(|| leaving_out(|words| opcode(words) == op::CFGI_STE)),
        ),
        bug("an unmap invalidates nothing", Arc::new(|| leaving_out(is_by_address))),
        bug(
            "a domain's flush invalidates nothing",
            Arc::new(|| leaving_out(|words| matches!(opcode(words), op::TLBI_NH_ASID | op::TLBI_S12_VMALL))),
        ),
        bug("invalidations take effect one late", Arc::new(one_late)),
        bug("invalidations by address name the ASID or VMID of another", Arc::new(another_id)),
        bug("the queue of commands begins off its alignment", Arc::new(|| Arc::new(Misaligned::default()))),
        bug("an entry's first word is stored first", Arc::new(|| Arc::new(FirstWordFirst::default()))),
        bug("nothing is ordered", Arc::new(|| Arc::new(Unordered))),
        bug("tables are not cleaned for a walker that does not snoop", Arc::new(|| Arc::new(Unclean))),
        bug(
            "events are taken and their slots never handed back",
            Arc::new(|| Arc::new(OnRegister { offset: offset::EVENTQ_CONS, change: |_| 0 })),
        ),
    ]
}

/// Each invalidation of translations takes the place of the one before it.
fn one_late() -> Arc<dyn Hand> {
    let before = Mutex::new(NOTHING);
    Arc::new(OnCommands::new(move |batch: &mut [Words]| {
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |words: &&mut Words| is_invalidation(**words) && opcode(**words) >= 0x10;
        batch.iter_mut().filter(late).for_each(|words| core::mem::swap(&mut *before, words));
    }))
}

/// ASID is bits 63:48, VMID 47:32.
fn another_id() -> Arc<dyn Hand> {
    Arc::new(OnCommands::new(|batch: &mut [Words]| {
        for words in batch.iter_mut().filter(|words| is_by_address(**words)) {
            let bit = if opcode(*words) == op::TLBI_NH_VA { 48 } else { 32 };
            words[0] ^= 0x55 << bit;
        }
    }))
}

/// The first block of 4 KiB is the command queue's: 256 commands of 16 bytes. It begins half its size late.
#[derive(Default)]
struct Misaligned(AtomicBool);

impl Hand for Misaligned {
    fn off_by(&self, size_bytes: u64) -> u64 {
        if size_bytes == 0x1000 && !self.0.swap(true, Relaxed) { 0x800 } else { 0 }
    }
}

/// Words of an entry wait until its first one is there.
#[derive(Default)]
struct FirstWordFirst {
    view: View,
    waiting: Mutex<BTreeMap<u64, u64>>,
}

impl FirstWordFirst {
    fn let_go(&self, machine: &dyn Machine) {
        let waiting = core::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(|(at, word)| machine.store(Pa::new(at), word));
    }
}

impl Hand for FirstWordFirst {
    fn store(&self, machine: &dyn Machine, at: Pa, word: u64) {
        match self.view.word_stored(at, word) {
            Place::Entry(_, 0) => {
                machine.store(at, word);
                self.let_go(machine);
            }
            Place::Entry(..) => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(at.get(), word);
            }
            _ => machine.store(at, word),
        }
    }

    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        self.view.register_written(Pa::new(SMMU_BASE + offset as u64), value);
        machine.write_register(offset, bytes, value);
    }
}

struct Unordered;

impl Hand for Unordered {
    fn orders(&self) -> bool {
        false
    }
}

struct Unclean;

impl Hand for Unclean {
    fn cleans(&self) -> bool {
        false
    }
}
