//! An SMMUv3's command queue: whole flushes are counted, commands falsified, and the queue's index held back.
//!
//! Spec: SMMUv3 H.a, 6.1 "Memory map", 3.5.1 "SMMU circular queues", 4.1.1 "Command opcodes".

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use model_bus::{Bus, Width};
use portcullis::types::Pa;
use portcullis_checks::conformance::sight::stream_entry;
use portcullis_checks::wrong::view::slots;

use super::{FaultKind, Faults, Hold, Taken, Tap, Written};

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
pub(crate) struct CommandTap {
    registers: u64,
    base: AtomicU64,
    lg2: AtomicU32,
    prod: AtomicU32,
    held: Hold<u32>,
    streams: AtomicU64,
    streams_config: AtomicU32,
}

impl CommandTap {
    pub(crate) fn new(registers: u64) -> Self {
        Self {
            registers,
            base: AtomicU64::new(0),
            lg2: AtomicU32::new(0),
            prod: AtomicU32::new(0),
            held: Hold::default(),
            streams: AtomicU64::new(0),
            streams_config: AtomicU32::new(0),
        }
    }

    /// Looks at the commands that are new, and spoils one if that is armed. Answers whether one makes hardware forget everything of a domain, or of all.
    fn look_at(&self, bus: &Bus, faults: &Faults, prod: u32) -> bool {
        let (base, lg2) = (self.base.load(Relaxed), self.lg2.load(Relaxed));
        let old = self.prod.swap(prod, Relaxed);
        let mut flushes = false;
        for slot in slots(base, lg2, old, prod) {
            let Ok(word) = bus.cpu().load64(slot) else { continue };
            match word & 0xff {
                // CMD_TLBI_NH_ALL, NH_ASID, EL2_ALL, EL2_ASID, S12_VMALL, NSNH_ALL.
                0x10 | 0x11 | 0x20 | 0x21 | 0x28 | 0x30 => flushes = true,
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
        flushes
    }

    fn pass(&self, bus: &Bus, prod: Option<u32>) {
        let at = Pa::new(self.registers + CMDQ_PROD as u64);
        if let Some(prod) = prod {
            let _there = bus.write_register(at, Width::Bits32, u64::from(prod));
        }
    }
}

impl Tap for CommandTap {
    fn written(&self, bus: &Bus, faults: &Faults, written: Written) -> Taken {
        let Written { offset, value } = written;
        let low = u32::try_from(value & 0xffff_ffff).expect("32 bits");
        match offset {
            CMDQ_BASE => {
                self.base.store(value & ADDRESS, Relaxed);
                self.lg2.store(low & 0x1f, Relaxed);
                self.prod.store(0, Relaxed);
            }
            CMDQ_PROD => {
                let flushes = self.look_at(bus, faults, low);
                let passes = self.held.hold(faults, low, |held, prod| *held = prod);
                return Taken { passes: passes.map(u64::from), flushes };
            }
            STRTAB_BASE => self.streams.store(value & ADDRESS, Relaxed),
            STRTAB_BASE_CFG => self.streams_config.store(low, Relaxed),
            _ => {}
        }
        Taken::passed(value)
    }

    fn waited(&self, bus: &Bus) {
        let prod = self.held.waited();
        self.pass(bus, prod);
    }

    fn release(&self, bus: &Bus) {
        let prod = self.held.release();
        self.pass(bus, prod);
    }

    fn is_held(&self) -> bool {
        self.held.is_held()
    }

    fn entry_of(&self, bus: &Bus, source: u32) -> Option<Pa> {
        let (base, config) = (self.streams.load(Relaxed), self.streams_config.load(Relaxed));
        if base == 0 {
            return None;
        }
        stream_entry(base, config, source, |at| bus.cpu().ram().load(at).unwrap_or(0))
    }
}
