//! A VT-d unit's invalidation queue: whole flushes are counted, descriptors falsified, and the queue's tail held back.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", 11.4.5 "Root Table Address Register", 11.4.9 "Queued Invalidation Interface Registers".

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::Mutex;

use model_bus::{Bus, Width};
use portcullis::types::Pa;

use super::{Faults, Hold, Taken, Tap, Written, falsify, numbers};
use crate::hub::locked;
use crate::oracle::tables::Tables;

/// GCMD_REG.
const COMMAND: usize = 0x18;
/// RTADDR_REG.
const ROOT_TABLE: usize = 0x20;
/// IQT_REG.
const TAIL: usize = 0x88;
/// IQA_REG.
const ADDRESS: usize = 0x90;
/// A type that no descriptor has.
const NO_DESCRIPTOR: u64 = 0xe;
/// The Invalidation Wait Descriptor.
const WAIT: u64 = 5;

/// What is known of one unit's queue, and what is held back of it.
#[derive(Debug)]
pub(crate) struct DescriptorTap {
    /// IQA_REG, RTADDR_REG and IQT_REG as they were last written.
    address: AtomicU64,
    root: AtomicU64,
    tail: AtomicU64,
    /// QIE.
    enabled: AtomicBool,
    held: Hold,
    /// Where descriptors are that were falsified, as IQH_REG says it, and how many there that no model has told of yet: the queue may have come round since.
    falsified: Mutex<BTreeMap<u64, u32>>,
}

impl DescriptorTap {
    pub(crate) fn new(registers: u64) -> Self {
        let [address, root, tail] = Default::default();
        let held = Hold::new(registers, Width::Bits64);
        Self { address, root, tail, enabled: AtomicBool::new(false), held, falsified: Mutex::default() }
    }

    /// Looks at the descriptors that are new, and spoils one if that is armed. Answers whether one makes hardware forget everything of a domain, or of all.
    fn look_at(&self, bus: &Bus, faults: &Faults, tail: u64) -> bool {
        let address = self.address.load(Relaxed);
        // QS, bits 2:0: pages of 4 KiB as log2; DW, bit 11: descriptors of 32 bytes.
        let (bytes, step) = (0x1000u64 << (address & 7), if address >> 11 & 1 == 1 { 32 } else { 16 });
        let mut at = self.tail.swap(tail, Relaxed);
        let mut flushes = false;
        while at != tail && at < bytes && tail < bytes {
            let (head, slot) = (at, Pa::new((address & !0xfff) + at));
            at = (at + step) % bytes;
            let Ok(word) = bus.cpu().load64(slot) else { continue };
            // Type, bits 11:9 and 3:0; granularity, bits 5:4. IOTLB: global and of a domain; with PASID: of a PASID.
            let kind = word >> 5 & 0x70 | word & 0xf;
            if kind != WAIT && falsify(bus, faults, slot, word & !0xe0f | NO_DESCRIPTOR) {
                *locked(&self.falsified).entry(head).or_default() += 1;
            } else {
                flushes |= matches!((kind, word >> 4 & 3), (2, 1 | 2) | (6, 2));
            }
        }
        flushes
    }
}

impl Tap for DescriptorTap {
    fn written(&self, bus: &Bus, faults: &Faults, written: Written) -> Taken {
        let Written { offset, value } = written;
        match offset {
            ADDRESS => self.address.store(value, Relaxed),
            COMMAND => {
                self.enabled.store(value >> 26 & 1 == 1, Relaxed);
                if value >> 26 & 1 == 0 {
                    self.tail.store(0, Relaxed);
                }
            }
            ROOT_TABLE => self.root.store(value, Relaxed),
            TAIL if self.enabled.load(Relaxed) => {
                let flushes = self.look_at(bus, faults, value);
                return Taken { passes: self.held.hold_index(faults, written), flushes };
            }
            TAIL => self.held.forget_indexes(),
            _ => {}
        }
        Taken::passed(value)
    }

    fn held(&self) -> &Hold {
        &self.held
    }

    /// A descriptor is told by where it is, and is excused once.
    fn has_falsified(&self, told: &str) -> bool {
        let Some(head) = numbers(told).next() else { return false };
        let mut falsified = locked(&self.falsified);
        let left = falsified.get_mut(&head).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    fn entry_of(&self, bus: &Bus, source: u32) -> Option<Pa> {
        let root = self.root.load(Relaxed);
        let load = |at: u64| bus.cpu().ram().load(Pa::new(at & !7)).ok();
        if root == 0 { None } else { Tables::by_word(&load).context_entry(root, source).map(Pa::new) }
    }
}

#[cfg(test)]
mod unit_tests {
    use super::super::Bench;
    use super::*;
    use crate::fault::FaultKind;

    #[test]
    fn a_descriptor_is_excused_as_often_as_one_was_falsified_at_its_place() {
        let bench = Bench::new(DescriptorTap::new(0x900_0000));
        bench.write(ADDRESS, 0x4000_0000);
        bench.write(COMMAND, 1 << 26);
        // Twice the first place of 256, and once round in between.
        for tail in [0x10, 0, 0x10] {
            if tail != 0 {
                bench.faults.arm(FaultKind::CommandError, 1);
            }
            bench.write(TAIL, tail);
        }
        let excused = [(); 3].map(|()| bench.tap.has_falsified("head 0x0, IQEI 3"));
        assert_eq!(excused, [true, true, false]);
        assert!(!bench.tap.has_falsified("head 0x10, IQEI 3"));
    }

    #[test]
    fn what_was_falsified_makes_hardware_forget_nothing() {
        let bench = Bench::new(DescriptorTap::new(0x900_0000));
        bench.write(ADDRESS, 0x4000_0000);
        bench.write(COMMAND, 1 << 26);
        // Two invalidations of all of the IOTLB.
        for slot in [0, 0x10] {
            bench.bus.cpu().store64(Pa::new(0x4000_0000 + slot), 0x12).expect("it lies in RAM");
        }
        assert!(bench.write(TAIL, 0x10).flushes);
        bench.faults.arm(FaultKind::CommandError, 1);
        assert!(!bench.write(TAIL, 0x20).flushes);
    }
}
