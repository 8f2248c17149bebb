//! Registers, tables, the chip's side, accesses and messages of the PHB3 model, by anybody.
//!
//! What must hold:
//!
//! - it comes to rest, whatever it was told;
//! - an access is let through at most once, and is done then, at a real address of 50 bits and across no page of 4 KiB; a message arrives at the doorbell and
//!   nowhere else;
//! - an eager bridge lets nobody through whose PE is frozen, nor freezes one without saying so;
//! - looking at what an access would meet changes nothing;
//! - no more translations are kept than there is room for; out of reset none are, and no PE is frozen;
//! - an input is one run: the same twice, counter by counter.
//!
//! Not here: whether translations are right (the model's own tests, and `checks/conformance`).

use core::cell::Cell;
use std::sync::Arc;

use model_bus::{Clocked, Doorbell, Fabric, Mmio, Outcome, Request, SparseMemory, Translator, Width};
use model_ioda2::{Config, Counters, Phb3, Policy, Unit};
use portcullis::types::trace::Silence;
use portcullis::types::{Access, AccessKind, Iova, Pa, SourceId};

use crate::bytes::Bytes;
use crate::unit;

const RTT: u64 = 0x2_0000;
const PELTV: u64 = 0x4_0000;
const PEST: u64 = 0x4_2000;
const IVT: u64 = 0x8_0000;
const TABLE: u64 = 0x10_0000;
const DOORBELL: u64 = 0xf000_0000;

const KILL: u64 = 0x210;
const IODA_ADDRESS: u64 = 0x220;
const IODA_DATA: u64 = 0x228;
/// Selects of IODA_ADDR, with auto-increment. Observed: skiboot include/phb3-regs.h.
const TVT: u64 = 0x8009_0000_0000_0000;
/// One level of 64 KiB at [`TABLE`], 4K pages.
const TVE: u64 = 0x0000_0000_0100_0501;

pub(crate) fn run(input: &[u8]) {
    assert_eq!(play(input), play(input), "one input, two runs");
}

fn play(input: &[u8]) -> (Counters, usize) {
    let mut bytes = Bytes::new(input);
    let machine = Machine::new(&mut bytes);
    let mut interrupts = 0;
    while !bytes.is_empty() {
        machine.act(&mut bytes);
        interrupts += machine.phb.take_interrupts().len();
    }
    machine.ram.fill_holes();
    machine.settle();
    let counters = machine.phb.counters();
    machine.check_reset();
    (counters, interrupts)
}

struct Machine {
    ram: Arc<SparseMemory>,
    phb: Arc<Phb3>,
    eager: bool,
    /// The table of PEs has not been touched: whose PE a requester has is known.
    sound: Cell<bool>,
}

impl Machine {
    /// As firmware and a kernel leave it: tables in memory, two PEs with a window each.
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let ram = Arc::new(SparseMemory::new(50));
        let (policy, eager) = match bytes.below(3) {
            0 => (Policy::stale(), false),
            1 => (Policy::hostile(), false),
            _ => (Policy::eager(), true),
        };
        let config = Config { policy, ..Config::new(Pa::new(DOORBELL)) };
        let phb = Phb3::new(config, ram.clone() as Arc<dyn Fabric>, bytes.u8().into(), Arc::new(Silence));
        let machine = Self { ram, phb: Arc::new(phb), eager, sound: Cell::new(true) };
        // Requester 0x100 is of PE 1, 0x200 of PE 2; those beside them of PE 0.
        machine.ram.put(RTT + 0x200, &[0x0100]);
        machine.ram.put(RTT + 0x400, &[0x0200]);
        let set_up = [
            (0x168, RTT | 1 << 63),
            (0x188, PELTV | 1 << 63),
            (0x1a8, PEST | 1 << 63),
            (0x150, IVT | 0x800 | 1 << 63),
            (0x810, 0xf3a8_0edb_0000_0000),
            (0x160, 0x0082_8000_0000_0000),
        ];
        set_up.into_iter().for_each(|(offset, value)| machine.store(offset, value));
        machine.ioda(TVT | 2, &[TVE, 0, TVE, 0]);
        machine.store(KILL, 1 << 63);
        machine
    }

    fn store(&self, offset: u64, value: u64) {
        self.phb.write(offset, Width::Bits64, value);
    }

    /// Stores entries of a table on the chip.
    fn ioda(&self, address: u64, values: &[u64]) {
        self.store(IODA_ADDRESS, address);
        values.iter().for_each(|&value| self.store(IODA_DATA, value));
    }

    fn settle(&self) {
        unit::settle(&*self.phb, &self.ram);
    }

    fn word(bytes: &mut Bytes<'_>) -> u64 {
        let places = [RTT, PELTV, PEST, IVT, TABLE];
        match bytes.below(5) {
            0 => bytes.word(),
            1 => bytes.pick(&places) | 1 << 63 | u64::from(bytes.below(8)),
            // A TVE, or a TCE.
            2 => {
                let (place, levels, size) = (bytes.pick(&places), bytes.below(6), bytes.below(4));
                place << 4 | u64::from(levels) << 13 | u64::from(size) << 8 | bytes.pick(&[1, 5, 13, 17])
            }
            _ => (TABLE + u64::from(bytes.below(0x40)) * 0x1000) | u64::from(bytes.below(4)),
        }
    }

    fn act(&self, bytes: &mut Bytes<'_>) {
        match bytes.below(20) {
            0 => drop(self.phb.read(8 * u64::from(bytes.u16() & 0x1ff), Width::Bits64)),
            1 => {
                self.sound.set(false);
                let width = bytes.pick(&[Width::Bits64, Width::Bits32, Width::Bits16, Width::Bits8]);
                self.phb.write(u64::from(bytes.u16() & 0xfff), width, Self::word(bytes));
            }
            2 | 3 => {
                let offset = 8 * u64::from(0x20 + bytes.below(0x3a));
                self.sound.set(self.sound.get() && offset != 0x168);
                self.store(offset, Self::word(bytes));
            }
            4 | 5 => {
                let (table, index) = (u64::from(bytes.below(24)), u64::from(bytes.below(8)));
                self.ioda(table << 48 | index, &[Self::word(bytes)]);
            }
            // What is killed is an entry, a PE's, or everything.
            6 => self.store(
                KILL,
                bytes.pick(&[1 << 63, 1 << 62 | 1, 1 << 61 | 1, 0]) | u64::from(bytes.u16()) << 12,
            ),
            7..=9 => {
                let place = bytes.pick(&[RTT, PELTV, PEST, IVT, TABLE, TABLE, TABLE]);
                self.sound.set(self.sound.get() && place != RTT);
                self.ram.put(place + 8 * u64::from(bytes.u8()), &[Self::word(bytes).to_be()]);
            }
            10 => {
                self.sound.set(false);
                let unit = bytes.pick(&[Unit::Nest, Unit::Pci, Unit::Spci]);
                let (register, value) = (8 * u64::from(bytes.below(0x48)), Self::word(bytes));
                match bytes.flag() {
                    true => self.phb.xscom(unit).write(register, Width::Bits64, value),
                    false => drop(self.phb.xscom(unit).read(register, Width::Bits64)),
                }
            }
            11 => drop(self.phb.admits(Pa::new(Self::word(bytes)), bytes.flag())),
            12 => drop(self.phb.step(0)),
            13 => self.phb.reject(bytes.u16()),
            14 if bytes.one_in(4) => {
                self.sound.set(false);
                let first = bytes.pick(&[RTT, PELTV, PEST, IVT, TABLE]) + u64::from(bytes.u8());
                unit::hole(&self.ram, first, bytes);
            }
            14 if bytes.one_in(8) => {
                self.sound.set(false);
                self.phb.reset();
            }
            14 => self.unfreeze(bytes),
            _ => self.access(bytes),
        }
    }

    /// Makes a PE whole.
    fn unfreeze(&self, bytes: &mut Bytes<'_>) {
        let pe = u64::from(bytes.pick(&[0u8, 1, 2, 255]));
        self.ioda(0x8007_0000_0000_0000 | pe, &[0]);
        self.ioda(0x8008_0000_0000_0000 | pe, &[0]);
    }

    fn request(bytes: &mut Bytes<'_>) -> Request {
        let rid = bytes.pick(&[0x100_u32, 0x100, 0x200, 0x300, 0x1_0000]);
        let low = u64::from(bytes.u16()) << 3 | u64::from(bytes.below(8));
        let base = bytes.pick(&[0, 0x100_0000, 1 << 59, 0xffff_0000, 1 << 60, 1 << 55, u64::MAX << 16]);
        let kind = bytes.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Execute]);
        let len_bytes = bytes.pick(&[1, 4, 4, 8, 64, 4096, 5000, 0]);
        let access = Access { kind, privileged: false };
        Request {
            source: SourceId(rid),
            pasid: None,
            iova: Iova::new(base.wrapping_add(low)),
            len_bytes,
            access,
        }
    }

    fn access(&self, bytes: &mut Bytes<'_>) {
        let request = Self::request(bytes);
        let data = bytes.u32();
        let seen = || (self.phb.counters(), self.phb.cached_entries());
        let _ = unit::look(seen, || self.phb.outlook(&request));
        let pe = self.phb.pe_of(request.source);
        let frozen = pe.is_some_and(|pe| self.phb.is_dma_frozen(pe));
        let mut went = None;
        let outcome = self.phb.access(&request, &mut |passage| {
            assert_eq!(went, None, "let through twice");
            went = Some(passage.pa);
            let at = passage.pa.get();
            match at.checked_sub(DOORBELL).filter(|&offset| offset < Config::DOORBELL_BYTES) {
                Some(offset) if request.access.kind == AccessKind::Write => {
                    self.phb.ring(offset, &data.to_le_bytes(), Some(request.source))
                }
                _ => Ok(()),
            }
        });
        if outcome == Outcome::Done {
            unit::check_reach(went.expect("it was let through"), request.len_bytes, 50);
            assert!(!(self.eager && self.sound.get() && frozen), "a frozen PE reached memory");
        }
        self.check_frozen();
    }

    /// A PE that is frozen for its devices without an error is one that software froze.
    fn check_frozen(&self) {
        for pe in [0, 1, 2, 255] {
            if self.phb.first_error(pe).is_some() {
                assert!(
                    self.phb.is_dma_frozen(pe) || self.phb.is_mmio_frozen(pe),
                    "an error of a PE that is whole"
                );
            }
        }
    }

    fn check_reset(&self) {
        self.phb.reset();
        assert_eq!(self.phb.cached_entries(), 0);
        let frozen = |pe: u8| self.phb.is_dma_frozen(pe) || self.phb.is_mmio_frozen(pe);
        assert!(!(0..=255).any(frozen), "frozen out of reset");
        self.settle();
    }
}
