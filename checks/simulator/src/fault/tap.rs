//! What stands between a driver's command queue and its SMMU: it counts flushes, falsifies commands, and holds the queue's index back.
//!
//! An SMMU whose SMMU_CMDQ_PROD is held back has stopped consuming, as far as its driver can see.
//!
//! Spec: SMMUv3 H.a, 6.1 "Memory map", 3.5.1 "SMMU circular queues", 4.1.1 "Command opcodes".

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use model_bus::{Bus, Width};
use portcullis::types::Pa;
use portcullis_checks::conformance::sight::stream_entry;
use portcullis_checks::wrong::view::slots;

use super::{FaultKind, Faults};
use crate::hub::locked;

/// SMMU_STRTAB_BASE.
const STRTAB_BASE: usize = 0x80;
/// SMMU_STRTAB_BASE_CFG.
const STRTAB_BASE_CFG: usize = 0x88;
/// SMMU_CMDQ_BASE.
const CMDQ_BASE: usize = 0x90;
/// SMMU_CMDQ_PROD.
const CMDQ_PROD: usize = 0x98;
/// An opcode that no command has.
const NO_COMMAND: u64 = 0xff;
const ADDRESS: u64 = 0x000f_ffff_ffff_ffe0;

/// What is known of one SMMU's command queue, and what is held back of it.
#[derive(Debug)]
pub(crate) struct Tap {
    registers: u64,
    base: AtomicU64,
    lg2: AtomicU32,
    prod: AtomicU32,
    held: Mutex<Option<Held>>,
    streams: AtomicU64,
    streams_config: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    prod: u32,
    /// How many turns of a wait are left; none: until the operation returns.
    turns: Option<u32>,
    waited: bool,
}

/// What a batch of commands held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Batch {
    /// Commands that make hardware forget everything of a domain, or of all.
    pub(crate) flushes: u32,
}

impl Tap {
    pub(crate) fn new(registers: u64) -> Self {
        Self {
            registers,
            base: AtomicU64::new(0),
            lg2: AtomicU32::new(0),
            prod: AtomicU32::new(0),
            held: Mutex::new(None),
            streams: AtomicU64::new(0),
            streams_config: AtomicU32::new(0),
        }
    }

    /// A register is about to be written. Answers what hardware gets; none if nothing now.
    pub(crate) fn written(
        &self,
        bus: &Bus,
        faults: &Faults,
        offset: usize,
        value: u64,
    ) -> (Option<u64>, Batch) {
        let low = u32::try_from(value & 0xffff_ffff).expect("32 bits");
        match offset {
            CMDQ_BASE => {
                self.base.store(value & ADDRESS, Relaxed);
                self.lg2.store(low & 0x1f, Relaxed);
                self.prod.store(0, Relaxed);
                (Some(value), Batch::default())
            }
            CMDQ_PROD => {
                let batch = self.look_at(bus, faults, low);
                let passes = self.hold(faults, low);
                (passes.map(u64::from), batch)
            }
            STRTAB_BASE => {
                self.streams.store(value & ADDRESS, Relaxed);
                (Some(value), Batch::default())
            }
            STRTAB_BASE_CFG => {
                self.streams_config.store(low, Relaxed);
                (Some(value), Batch::default())
            }
            _ => (Some(value), Batch::default()),
        }
    }

    /// Whether the entry of a stream says that it is valid, as hardware sees it now: one that does not ends every access, on purpose.
    ///
    /// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", V.
    pub(crate) fn stream_is_valid(&self, bus: &Bus, stream: u32) -> bool {
        let load = |at| bus.cpu().ram().load(at).unwrap_or(0);
        self.entry_of(bus, stream).is_some_and(|entry| load(entry) & 1 == 1)
    }

    /// Where the entry of a stream lies, as hardware sees it now; none if the table does not lead to one.
    pub(crate) fn entry_of(&self, bus: &Bus, stream: u32) -> Option<Pa> {
        let (base, config) = (self.streams.load(Relaxed), self.streams_config.load(Relaxed));
        if base == 0 {
            return None;
        }
        stream_entry(base, config, stream, |at| bus.cpu().ram().load(at).unwrap_or(0))
    }

    /// Looks at the commands that are new, and spoils one if that is armed.
    fn look_at(&self, bus: &Bus, faults: &Faults, prod: u32) -> Batch {
        let (base, lg2) = (self.base.load(Relaxed), self.lg2.load(Relaxed));
        let old = self.prod.swap(prod, Relaxed);
        let mut batch = Batch::default();
        for slot in slots(base, lg2, old, prod) {
            let Ok(word) = bus.cpu().load64(slot) else { continue };
            match word & 0xff {
                // CMD_TLBI_NH_ALL, NH_ASID, EL2_ALL, EL2_ASID, S12_VMALL, NSNH_ALL.
                0x10 | 0x11 | 0x20 | 0x21 | 0x28 | 0x30 => batch.flushes += 1,
                _ => {}
            }
            // A sync that is refused says nothing either, but is no command that has failed.
            if word & 0xff != 0x46
                && faults.is_armed(FaultKind::CommandError)
                && faults.fires(FaultKind::CommandError)
            {
                let _in_ram = bus.cpu().store64(slot, word & !0xff | NO_COMMAND);
                bus.cpu().write_barrier();
                let _out_of_the_cache = bus.cpu().clean(slot, 8);
            }
        }
        batch
    }

    fn hold(&self, faults: &Faults, prod: u32) -> Option<u32> {
        let mut held = locked(&self.held);
        if let Some(held) = &mut *held {
            held.prod = prod;
            return None;
        }
        let turns = if faults.fires(FaultKind::NoSync) {
            None
        } else if faults.fires(FaultKind::LateSync) {
            Some(3)
        } else {
            return Some(prod);
        };
        *held = Some(Held { prod, turns, waited: false });
        None
    }

    /// Somebody has waited for a turn.
    pub(crate) fn waited(&self, bus: &Bus) {
        let mut guard = locked(&self.held);
        let Some(held) = &mut *guard else { return };
        held.waited = true;
        match &mut held.turns {
            Some(0) => {
                let prod = held.prod;
                *guard = None;
                drop(guard);
                self.pass(bus, prod);
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    /// The operation has returned: hardware goes on.
    pub(crate) fn release(&self, bus: &Bus) {
        let held = locked(&self.held).take();
        if let Some(held) = held {
            self.pass(bus, held.prod);
        }
    }

    /// Whether hardware is held back.
    pub(crate) fn is_held(&self) -> bool {
        locked(&self.held).is_some()
    }

    fn pass(&self, bus: &Bus, prod: u32) {
        let at = Pa::new(self.registers + CMDQ_PROD as u64);
        let _there = bus.write_register(at, Width::Bits32, u64::from(prod));
    }
}
