//! An SMMUv3's command queue: whole flushes are counted, commands falsified, and the queue's index held back.
//!
//! Spec: SMMUv3 H.a, 6.1 "Memory map", 3.5.1 "SMMU circular queues", 4.1.1 "Command opcodes", 6.3.9.3 "CMDQEN".

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use model_bus::{Bus, Width};
use portcullis::types::Pa;
use portcullis_checks::conformance::sight::stream_entry;
use portcullis_checks::wrong::view::slots;

use super::{Faults, Hold, Taken, Tap, Written, falsify, numbers};

/// SMMU_CR0.
const CR0: usize = 0x20;
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
    base: AtomicU64,
    lg2: AtomicU32,
    prod: AtomicU32,
    /// CMDQEN.
    enabled: AtomicBool,
    held: Hold,
    streams: AtomicU64,
    streams_config: AtomicU32,
}

impl CommandTap {
    pub(crate) fn new(registers: u64) -> Self {
        Self {
            base: AtomicU64::new(0),
            lg2: AtomicU32::new(0),
            prod: AtomicU32::new(0),
            enabled: AtomicBool::new(false),
            held: Hold::new(registers, Width::Bits32),
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
            // A sync that is refused says nothing either, but is no command that has failed.
            let falsified = word & 0xff != 0x46 && falsify(bus, faults, slot, word & !0xff | NO_COMMAND);
            // CMD_TLBI_NH_ALL, NH_ASID, EL2_ALL, EL2_ASID, S12_VMALL, NSNH_ALL.
            flushes |= !falsified && matches!(word & 0xff, 0x10 | 0x11 | 0x20 | 0x21 | 0x28 | 0x30);
        }
        flushes
    }
}

impl Tap for CommandTap {
    fn written(&self, bus: &Bus, faults: &Faults, written: Written) -> Taken {
        let Written { offset, value } = written;
        let low = u32::try_from(value & 0xffff_ffff).expect("32 bits");
        match offset {
            CR0 => self.enabled.store(low >> 3 & 1 == 1, Relaxed),
            CMDQ_BASE => {
                self.base.store(value & ADDRESS, Relaxed);
                self.lg2.store(low & 0x1f, Relaxed);
                self.prod.store(0, Relaxed);
            }
            CMDQ_PROD if !self.enabled.load(Relaxed) => {
                self.prod.store(low, Relaxed);
                // Hardware may stop now as well as later.
                let _held = self.held.hold_index(faults, written);
                self.held.forget_indexes();
            }
            CMDQ_PROD => {
                let flushes = self.look_at(bus, faults, low);
                return Taken { passes: self.held.hold_index(faults, written), flushes };
            }
            STRTAB_BASE => self.streams.store(value & ADDRESS, Relaxed),
            STRTAB_BASE_CFG => self.streams_config.store(low, Relaxed),
            _ => {}
        }
        Taken::passed(value)
    }

    fn held(&self) -> &Hold {
        &self.held
    }

    /// A command is told with its words, of which the first has the opcode.
    fn has_falsified(&self, told: &str) -> bool {
        numbers(told).next().is_some_and(|word| word & 0xff == NO_COMMAND)
    }

    fn entry_of(&self, bus: &Bus, source: u32) -> Option<Pa> {
        let (base, config) = (self.streams.load(Relaxed), self.streams_config.load(Relaxed));
        if base == 0 {
            return None;
        }
        stream_entry(base, config, source, |at| bus.cpu().ram().load(at).unwrap_or(0))
    }

    /// Spec: SMMUv3 H.a, 6.3.24 "SMMU_STRTAB_BASE", 6.3.25 "SMMU_STRTAB_BASE_CFG", FMT and SPLIT.
    fn descriptor_of(&self, source: u32) -> Option<Pa> {
        let (base, config) = (self.streams.load(Relaxed), self.streams_config.load(Relaxed));
        let (bits, split, two_levels) = (config & 0x3f, config >> 6 & 0x1f, config >> 16 & 3 == 1);
        let is_there = base != 0 && two_levels && source.checked_shr(bits).unwrap_or(0) == 0;
        is_there.then(|| Pa::new(base + 8 * u64::from(source >> split)))
    }
}

#[cfg(test)]
mod unit_tests {
    use super::super::Bench;
    use super::*;
    use crate::fault::FaultKind;
    use crate::hub::locked;

    #[test]
    fn what_was_falsified_makes_hardware_forget_nothing() {
        let bench = Bench::new(CommandTap::new(0x900_0000));
        // 16 commands, of which two are CMD_TLBI_NSNH_ALL.
        bench.write(CMDQ_BASE, 0x4000_0000 | 4);
        bench.write(CR0, 1 << 3);
        for slot in [0, 0x10] {
            bench.bus.cpu().store64(Pa::new(0x4000_0000 + slot), 0x30).expect("it lies in RAM");
        }
        assert!(bench.write(CMDQ_PROD, 1).flushes);
        bench.faults.arm(FaultKind::CommandError, 1);
        assert!(!bench.write(CMDQ_PROD, 2).flushes);
    }

    #[test]
    fn a_queue_that_is_begun_anew_while_hardware_is_held_back_has_the_index_that_it_was_given() {
        let bench = Bench::new(CommandTap::new(0x900_0000));
        bench.write(CMDQ_BASE, 0x4000_0000 | 4);
        bench.write(CR0, 1 << 3);
        bench.faults.arm(FaultKind::NoSync, 1);
        assert_eq!(bench.write(CMDQ_PROD, 2).passes, None, "nothing is consumed");
        let held = || locked(&bench.tap.held.held).as_ref().map(|held| held.writes.len());
        assert_eq!(held(), Some(1));
        bench.write(CR0, 0);
        bench.write(CMDQ_BASE, 0x4000_0000 | 4);
        // Nobody does these.
        bench.faults.arm(FaultKind::CommandError, 1);
        bench.bus.cpu().store64(Pa::new(0x4000_0000), 0x30).expect("it lies in RAM");
        let taken = bench.write(CMDQ_PROD, 2);
        assert_eq!((taken.passes, taken.flushes), (Some(2), false));
        assert_eq!(held(), Some(0), "no index of before comes behind it");
        assert!(bench.faults.is_armed(FaultKind::CommandError));
        bench.write(CR0, 1 << 3);
        assert_eq!(
            (bench.write(CMDQ_PROD, 4).passes, held()),
            (None, Some(1)),
            "hardware is held back still"
        );
    }
}
