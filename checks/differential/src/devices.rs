//! QEMU's devices for tests, and what a machine is asked for while one case runs.
//!
//! `iommu-testdev` writes at once when told, and looks for what it wrote at the physical address that it is told. `edu` moves bytes into its buffer and out of it.
//!
//! Not here: PHB3's, behind which a CPU's words are turned round ([`phb3`](crate::phb3)); `edu`'s interrupts ([`vtd::interrupts`](crate::vtd::interrupts)).
//!
//! Observed: QEMU 11.1, docs/specs/iommu-testdev.rst, docs/specs/edu.rst.

use portcullis_qemu::{Machine, QemuError, Step as Op, Width};
use portcullis_types::Pa;

/// The writing device's word for a write that was refused.
pub(crate) const WRITE_FAILED: u64 = 0xdead_0002;
/// What it writes, again and again.
pub(crate) const WRITTEN: u32 = 0x1234_5678;

/// How much the buffer of the other holds.
pub(crate) const BUFFER_BYTES: u64 = 0x1000;

/// Registers of `iommu-testdev`.
mod itd {
    pub(super) const TRIGGER: u64 = 0x00;
    pub(super) const ADDRESS: u64 = 0x04;
    pub(super) const LEN: u64 = 0x0c;
    pub(super) const RESULT: u64 = 0x10;
    pub(super) const ARM: u64 = 0x14;
    pub(super) const PHYSICAL: u64 = 0x1c;
}

/// Registers of `edu`.
mod edu {
    pub(super) const FROM: u64 = 0x80;
    pub(super) const TO: u64 = 0x88;
    pub(super) const COUNT: u64 = 0x90;
    pub(super) const COMMAND: u64 = 0x98;
    /// Begin; from memory into the buffer.
    pub(super) const READ: u64 = 1;
    /// Begin; from the buffer to memory.
    pub(super) const WRITE: u64 = 3;
    /// Where the buffer is.
    pub(super) const BUFFER: u64 = 0x4_0000;
}

/// What is asked for while one case runs.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) ops: Vec<Op>,
    /// What the loads so far have read.
    pub(crate) values: Vec<u64>,
    /// Loads that were asked for.
    loads: usize,
}

impl Script {
    /// Loads a word. Answers which load it is.
    pub(crate) fn load(&mut self, at: u64, width: Width) -> usize {
        self.ops.push(Op::Load(Pa::new(at), width));
        self.loads += 1;
        self.loads - 1
    }

    pub(crate) fn store32(&mut self, at: u64, value: u64) {
        self.ops.push(Op::Store(Pa::new(at), Width::Bits32, value & 0xffff_ffff));
    }

    pub(crate) fn store64(&mut self, at: u64, value: u64) {
        self.ops.push(Op::Store(Pa::new(at), Width::Bits64, value));
    }

    pub(crate) fn play(&mut self, machine: &Machine) -> Result<(), QemuError> {
        self.values.extend(machine.batch(&self.ops)?);
        self.ops.clear();
        debug_assert_eq!(self.values.len(), self.loads, "each load has its value");
        Ok(())
    }

    /// Has the device with these registers write, and look for it at `expected`. Answers which load has the result.
    pub(crate) fn write(&mut self, bar: u64, address: u64, len: u32, expected: u64) -> usize {
        self.store32(bar + itd::ADDRESS, address);
        self.store32(bar + itd::ADDRESS + 4, address >> 32);
        self.store32(bar + itd::LEN, len.into());
        self.store32(bar + itd::PHYSICAL, expected);
        self.store32(bar + itd::PHYSICAL + 4, expected >> 32);
        self.store32(bar + itd::ARM, 1);
        self.load(bar + itd::TRIGGER, Width::Bits32);
        self.load(bar + itd::RESULT, Width::Bits32)
    }

    /// Has the device with these registers read into its buffer, and waits for it.
    pub(crate) fn read(
        &mut self,
        machine: &Machine,
        bar: u64,
        address: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), QemuError> {
        self.transfer(machine, bar, (address, edu::BUFFER + offset), len, edu::READ)
    }

    /// Has it write the beginning of its buffer to memory, and waits for it.
    pub(crate) fn read_back(
        &mut self,
        machine: &Machine,
        bar: u64,
        to: u64,
        len: u64,
    ) -> Result<(), QemuError> {
        self.transfer(machine, bar, (edu::BUFFER, to), len, edu::WRITE)
    }

    fn transfer(
        &mut self,
        machine: &Machine,
        bar: u64,
        (from, to): (u64, u64),
        len: u64,
        command: u64,
    ) -> Result<(), QemuError> {
        self.store64(bar + edu::FROM, from);
        self.store64(bar + edu::TO, to);
        self.store64(bar + edu::COUNT, len);
        self.store64(bar + edu::COMMAND, command);
        self.play(machine)?;
        // Its own limit is the clock's jump; this one is for a QEMU that goes wrong.
        for _ in 0..100_000 {
            if machine.load(Pa::new(bar + edu::COMMAND), Width::Bits64)? & 1 == 0 {
                return Ok(());
            }
        }
        panic!("a DMA of QEMU's device at {bar:#x} does not end");
    }
}
