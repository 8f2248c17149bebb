//! Registers of a machine's hardware.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use portcullis_hal::Registers;
use portcullis_types::{Pa, PaRange};

use crate::machine::Machine;
use crate::qtest::{ByteOrder, Width};

/// A window of registers, reached over the socket. Clones share a count of accesses.
///
/// A machine that failed reads as all ones and takes no writes ([`Machine::failure`] says why).
#[derive(Clone, Debug)]
pub struct QemuRegisters {
    machine: Arc<Machine>,
    window: PaRange,
    order: ByteOrder,
    accesses: Arc<AtomicU64>,
}

impl QemuRegisters {
    /// The registers in `window`, whose bytes lie in `order`: little-endian for Arm's and PCI's, big-endian for POWER's.
    pub fn new(machine: Arc<Machine>, window: PaRange, order: ByteOrder) -> Self {
        Self { machine, window, order, accesses: Arc::default() }
    }

    /// How often a register was read or written.
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Relaxed)
    }

    /// Reads a register of any width.
    ///
    /// # Panics
    ///
    /// Here and below: if `offset` is outside the window.
    pub fn load(&self, offset: usize, width: Width) -> u64 {
        self.accesses.fetch_add(1, Relaxed);
        let value = self.machine.load(self.at(offset, width), width).unwrap_or(u64::MAX);
        self.machine.ordered(self.order, width, value)
    }

    /// Writes a register of any width.
    pub fn store(&self, offset: usize, width: Width, value: u64) {
        self.accesses.fetch_add(1, Relaxed);
        // The failure stays with the machine.
        let _ =
            self.machine.store(self.at(offset, width), width, self.machine.ordered(self.order, width, value));
    }

    fn at(&self, offset: usize, width: Width) -> Pa {
        let first = self.window.first().checked_add(offset as u64);
        let all = first.and_then(|first| PaRange::new(first, width.bytes() as u64));
        match all.filter(|&all| self.window.covers(all)) {
            Some(all) => all.first(),
            None => panic!("register {offset:#x} is outside its window {}", self.window),
        }
    }
}

impl Registers for QemuRegisters {
    fn read32(&self, offset: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a 32-bit read")]
        let value = self.load(offset, Width::Bits32) as u32;
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.store(offset, Width::Bits32, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.load(offset, Width::Bits64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.store(offset, Width::Bits64, value);
    }
}
