//! What stands between a driver and its IOMMU's registers: it counts flushes, falsifies commands, and holds back what makes hardware confirm.
//!
//! An IOMMU that is held back has stopped, as far as its driver can see: for some turns of a wait, or until the operation returns.
//!
//! | file | what |
//! |---|---|
//! | `commands` | an SMMUv3's command queue |
//! | `descriptors` | a VT-d unit's invalidation queue |
//! | `syncs` | an SMMUv2's registers of TLB maintenance |

mod commands;
mod descriptors;
mod syncs;

use std::sync::Mutex;

use model_bus::{Bus, Width};
use portcullis::types::Pa;

use super::{FaultKind, Faults};
use crate::hub::locked;

pub(crate) use commands::CommandTap;
pub(crate) use descriptors::DescriptorTap;
pub(crate) use syncs::SyncTap;

/// A register that is about to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) offset: usize,
    pub(crate) value: u64,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// What hardware gets; none if nothing now.
    pub(crate) passes: Option<u64>,
    /// Whether it makes hardware forget everything of a domain, or of all.
    pub(crate) flushes: bool,
}

impl Taken {
    fn passed(value: u64) -> Self {
        Self { passes: Some(value), flushes: false }
    }
}

/// What stands there.
pub(crate) trait Tap: Send + Sync {
    /// A register is about to be written.
    fn written(&self, bus: &Bus, faults: &Faults, written: Written) -> Taken;
    /// What is held back.
    fn held(&self) -> &Hold;
    /// A register was read: what the driver gets.
    fn answered(&self, _offset: usize, value: u64) -> u64 {
        value
    }
    /// Whether what a model tells of something that it refused is told of what was falsified here.
    fn has_falsified(&self, _told: &str) -> bool {
        false
    }
    /// Where the entry of a source lies, as hardware sees it now; none if no table leads to one.
    fn entry_of(&self, _bus: &Bus, _source: u32) -> Option<Pa> {
        None
    }
    /// Where the word lies that leads to the entry of a source, and to those of its neighbours; none if no word does.
    fn descriptor_of(&self, _source: u32) -> Option<Pa> {
        None
    }
}

/// Writes of an IOMMU's registers that are held back, once a fault fired that does that, and for how long.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Where the registers are, and how wide those are that are held back.
    registers: u64,
    width: Width,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    writes: Vec<Written>,
    /// How many turns of a wait are left; none: until the operation returns.
    turns: Option<u32>,
}

/// Turns of a wait that a late sync takes.
const LATE_TURNS: u32 = 3;

impl Hold {
    fn new(registers: u64, width: Width) -> Self {
        Self { registers, width, held: Mutex::new(None) }
    }

    /// Holds a write back if it is time for that, behind those that are held already. Answers what passes if not.
    fn hold(&self, faults: &Faults, written: Written) -> Option<u64> {
        self.hold_by(faults, written, Vec::push)
    }

    /// The same of a queue's index: the newest one stands for those that are held already.
    fn hold_index(&self, faults: &Faults, written: Written) -> Option<u64> {
        self.hold_by(faults, written, |writes, written| *writes = vec![written])
    }

    /// A queue that is off is given an index: nothing is read by it, so that it is hardware's at once, and what is held of the queue is none of its indexes any more.
    fn forget_indexes(&self) {
        if let Some(held) = &mut *locked(&self.held) {
            held.writes.clear();
        }
    }

    fn hold_by(
        &self,
        faults: &Faults,
        written: Written,
        add: impl FnOnce(&mut Vec<Written>, Written),
    ) -> Option<u64> {
        let mut held = locked(&self.held);
        if let Some(held) = &mut *held {
            add(&mut held.writes, written);
            return None;
        }
        let turns = if faults.fires(FaultKind::NoSync) {
            None
        } else if faults.fires(FaultKind::LateSync) {
            Some(LATE_TURNS)
        } else {
            return Some(written.value);
        };
        *held = Some(Held { writes: vec![written], turns });
        None
    }

    /// Somebody has waited for a turn.
    pub(crate) fn waited(&self, bus: &Bus) {
        let mut held = locked(&self.held);
        match held.as_mut().and_then(|held| held.turns.as_mut()) {
            Some(0) => {
                let passes = held.take();
                drop(held);
                self.pass(bus, passes);
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    /// The operation has returned: hardware goes on.
    pub(crate) fn release(&self, bus: &Bus) {
        let passes = locked(&self.held).take();
        self.pass(bus, passes);
    }

    /// Whether hardware is held back.
    pub(crate) fn is_held(&self) -> bool {
        locked(&self.held).is_some()
    }

    fn pass(&self, bus: &Bus, held: Option<Held>) {
        for Written { offset, value } in held.into_iter().flat_map(|held| held.writes) {
            let _there = bus.write_register(Pa::new(self.registers + offset as u64), self.width, value);
        }
    }
}

/// Makes what hardware is about to read in `slot` something that it refuses, if that is armed. Answers whether it was.
fn falsify(bus: &Bus, faults: &Faults, slot: Pa, word: u64) -> bool {
    let fires = faults.fires(FaultKind::CommandError);
    if fires {
        let _in_ram = bus.cpu().store64(slot, word);
        bus.cpu().write_barrier();
        let _out_of_the_cache = bus.cpu().clean(slot, 8);
    }
    fires
}

/// The numbers in what somebody told in hexadecimal.
fn numbers(told: &str) -> impl Iterator<Item = u64> {
    let digits = told.split([' ', ',']).filter_map(|word| word.strip_prefix("0x"));
    digits.filter_map(|digits| u64::from_str_radix(digits, 16).ok())
}

/// A tap before nothing, with 64 KiB of memory at 0x4000_0000.
#[cfg(test)]
struct Bench<T> {
    bus: std::sync::Arc<Bus>,
    faults: Faults,
    tap: T,
}

#[cfg(test)]
impl<T: Tap> Bench<T> {
    fn new(tap: T) -> Self {
        let ram = portcullis::types::PaRange::new(Pa::new(0x4000_0000), 0x1_0000).expect("RAM does not wrap");
        let bus = Bus::new(&model_bus::BusOptions::new(ram, 1));
        Self { bus, faults: Faults::default(), tap }
    }

    fn write(&self, offset: usize, value: u64) -> Taken {
        self.tap.written(&self.bus, &self.faults, Written { offset, value })
    }
}
