//! A machine with nothing but memory and a PHB3.
//!
//! | where | what |
//! |---|---|
//! | 0x2_0000 | RTT: requester 0x100 is of PE 1, 0x200 of PE 2, all others of PE 255 |
//! | 0x4_0000 | PELT-V |
//! | 0x4_2000 | PEST |
//! | 0x8_0000 | IVT: 0x800 entries of 128 bytes |
//! | 0x10_0000 | PE 1's table: one level, 8192 TCEs of 4K |
//! | 0x11_0000 | PE 2's table, the same |
//! | 0xf000_0000 | the doorbell |

use core::ops::RangeInclusive;
use std::sync::{Arc, OnceLock, Weak};

use model_bus::{
    BusError, Clocked, Doorbell, Fabric, Mmio, Outcome, Request, SparseMemory, Translator, Width, Write,
};
use model_ioda2::{Config, Phb3, Policy, Unpredictable};
use portcullis_types::trace::Silence;
use portcullis_types::{Access, Iova, Pa, SourceId};

pub(crate) const RTT: u64 = 0x2_0000;
pub(crate) const PELTV: u64 = 0x4_0000;
pub(crate) const PEST: u64 = 0x4_2000;
pub(crate) const IVT: u64 = 0x8_0000;
pub(crate) const TABLE: u64 = 0x10_0000;
pub(crate) const TABLE_2: u64 = 0x11_0000;
pub(crate) const DOORBELL: u64 = 0xf000_0000;

/// The table at 0x10_0000, one level of 64 KiB, 4K pages: 32 MiB.
pub(crate) const TVE: u64 = 0x0000_0000_0100_0501;
pub(crate) const TVE_2: u64 = 0x0000_0000_0110_0501;

/// Selects of IODA_ADDR, with auto-increment.
pub(crate) const TVT: u64 = 0x8009_0000_0000_0000;
pub(crate) const PESTA: u64 = 0x8007_0000_0000_0000;
pub(crate) const PESTB: u64 = 0x8008_0000_0000_0000;
pub(crate) const PEEV: u64 = 0x8014_0000_0000_0000;
pub(crate) const LXIVT: u64 = 0x8002_0000_0000_0000;
pub(crate) const M64BT: u64 = 0x8010_0000_0000_0000;
pub(crate) const M32DT: u64 = 0x8011_0000_0000_0000;

pub(crate) const KILL: u64 = 0x210;
pub(crate) const KILL_ALL: u64 = 1 << 63;
pub(crate) const KILL_PE: u64 = 1 << 62;
pub(crate) const KILL_ONE: u64 = 1 << 61;

/// Memory, and the bridge's doorbell in it.
pub(crate) struct Ram {
    memory: SparseMemory,
    phb: OnceLock<Weak<Phb3>>,
}

impl Fabric for Ram {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.memory.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        if write.at.get() & !0xffff == DOORBELL {
            let phb = self.phb.get().and_then(Weak::upgrade).unwrap();
            return phb.ring(write.at.get() & 0xffff, write.bytes, write.source);
        }
        self.memory.write(write)
    }

    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, BusError> {
        Err(BusError { at })
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

pub(crate) struct Machine {
    pub(crate) ram: Arc<Ram>,
    pub(crate) phb: Arc<Phb3>,
}

impl Machine {
    /// A bridge out of reset: no table is set up.
    pub(crate) fn bare(policy: Policy) -> Self {
        let ram = Arc::new(Ram { memory: SparseMemory::new(50), phb: OnceLock::new() });
        let config = Config { policy, ..Config::new(Pa::new(DOORBELL)) };
        let phb = Arc::new(Phb3::new(config, ram.clone(), 1, Arc::new(Silence)));
        ram.phb.set(Arc::downgrade(&phb)).unwrap();
        Self { ram, phb }
    }

    /// As firmware and a kernel leave it: tables in memory, both PEs with a window of 32 MiB at 0 in which nothing is mapped.
    pub(crate) fn with(policy: Policy) -> Self {
        let machine = Self::bare(policy);
        machine.put(RTT, &[0, 255].repeat(0x1_0000));
        machine.put(RTT + 0x200, &[0, 1]);
        machine.put(RTT + 0x400, &[0, 2]);
        machine.store(0x168, RTT | 1 << 63);
        machine.store(0x188, PELTV | 1 << 63);
        machine.store(0x1a8, PEST | 1 << 63);
        machine.store(0x150, IVT | 0x800 | 1 << 63);
        // IVEs of 128 bytes; both kinds of messages, M32.
        machine.store(0x810, 0xf3a8_0edb_0000_0000);
        machine.store(0x160, 0x0082_8000_0000_0000);
        machine.ioda(TVT | 2, &[TVE, 0, TVE_2, 0]);
        machine.kill(KILL_ALL);
        machine
    }

    pub(crate) fn new() -> Self {
        Self::with(Policy::stale())
    }

    pub(crate) fn load(&self, offset: u64) -> u64 {
        self.phb.read(offset, Width::Bits64)
    }

    pub(crate) fn store(&self, offset: u64, value: u64) {
        self.phb.write(offset, Width::Bits64, value);
    }

    /// Stores a kill, and waits for it.
    pub(crate) fn kill(&self, value: u64) {
        self.store(KILL, value);
        assert_eq!(self.load(KILL), 0);
    }

    /// Stores entries of a table on the chip, from the one on that `address` selects.
    pub(crate) fn ioda(&self, address: u64, values: &[u64]) {
        self.store(0x220, address);
        values.iter().for_each(|&value| self.store(0x228, value));
    }

    /// Loads an entry of a table on the chip.
    pub(crate) fn ioda_load(&self, address: u64) -> u64 {
        self.store(0x220, address);
        self.load(0x228)
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write(Write { at: Pa::new(at), bytes, source: None }).unwrap();
    }

    /// Stores a word of a table in memory: they are big-endian.
    pub(crate) fn put_be(&self, at: u64, word: u64) {
        self.put(at, &word.to_be_bytes());
    }

    pub(crate) fn get_be(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(Pa::new(at), &mut bytes).unwrap();
        u64::from_be_bytes(bytes)
    }

    /// Nothing answers there any more.
    pub(crate) fn hole(&self, range: RangeInclusive<u64>) {
        self.ram.memory.hole(range);
    }

    /// An access of 8 bytes: where it went, if it was let through.
    pub(crate) fn access(&self, rid: u32, address: u64, access: Access) -> Option<u64> {
        let mut went = None;
        let outcome = self.phb.access(&request(rid, address, 8, access), &mut |passage| {
            went = Some(passage.pa.get());
            Ok(())
        });
        assert_eq!(went.is_some(), outcome == Outcome::Done, "{outcome:?}");
        went
    }

    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        self.access(0x100, address, Access::READ)
    }

    pub(crate) fn write(&self, address: u64) -> Option<u64> {
        self.access(0x100, address, Access::WRITE)
    }

    /// A message of 4 bytes. Whether it arrived.
    pub(crate) fn message(&self, rid: u32, address: u64, data: u32) -> bool {
        let outcome = self.phb.access(&request(rid, address, 4, Access::WRITE), &mut |passage| {
            self.ram.write(Write { at: passage.pa, bytes: &data.to_le_bytes(), source: None })
        });
        outcome == Outcome::Done
    }

    /// Makes both PEs whole.
    pub(crate) fn unfreeze(&self) {
        for pe in [1, 2, 255] {
            self.ioda(PESTA | pe, &[0]);
            self.ioda(PESTB | pe, &[0]);
        }
    }

    pub(crate) fn settle(&self) {
        (0..100).for_each(|now| {
            self.phb.step(now);
        });
    }

    pub(crate) fn clauses(&self) -> Vec<&'static str> {
        self.phb.take_unpredictable().into_iter().map(|Unpredictable { clause, .. }| clause).collect()
    }
}

pub(crate) fn request(rid: u32, address: u64, len_bytes: u32, access: Access) -> Request {
    Request { source: SourceId(rid), pasid: None, iova: Iova::new(address), len_bytes, access }
}
