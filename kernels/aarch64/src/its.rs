//! The ITS: which message of which device is which interrupt.
//!
//! It is told by commands in a ring. What it remembers lies in tables that it was given, and is not ours to read. All messages go to one collection, which is
//! this CPU.
//!
//! Spec: GICv3 IHI 0069 H, 5.3 "ITS commands", 12.18 "The ITS register map", 12.19 "ITS register descriptions".

use alloc::collections::BTreeMap;

use portcullis_hal::{BlockLayout, Registers, TableMemory};
use portcullis_types::{Pa, PaRange};

use crate::cpu;
use crate::gic::{Gic, GicError, wait};
use crate::memory;
use crate::mmio::Window;

const CTLR: usize = 0x0;
const TYPER: usize = 0x8;
const CBASER: usize = 0x80;
const CWRITER: usize = 0x88;
const CREADR: usize = 0x90;
const BASER: usize = 0x100;

const ENABLED: u32 = 1;
const QUIESCENT: u32 = 1 << 31;
const VALID: u64 = 1 << 63;
/// Inner write-back (CBASER 61:59, BASER 61:59) and inner shareable (11:10).
const ATTRIBUTES: u64 = 7 << 59 | 1 << 10;
const TYPE_DEVICES: u64 = 1;
const TYPE_COLLECTIONS: u64 = 4;
const STALLED: u64 = 1;

/// The ring: 128 commands of 32 bytes.
const RING: BlockLayout = BlockLayout::naturally_aligned(12);
const RING_BYTES: u64 = 4096;
const COMMAND_BYTES: u64 = 32;

const SYNC: u64 = 0x05;
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const INV: u64 = 0x0c;
const DISCARD: u64 = 0x0f;

/// The one collection.
const COLLECTION: u64 = 0;
/// Device ids that a table has room for: what a PCI segment can have.
const DEVICE_BITS: u64 = 16;
/// Bits of an event's number that each device gets.
const EVENT_BITS: u64 = 5;

/// An ITS, up.
pub(crate) struct Its {
    registers: Window,
    ring: Pa,
    /// Where the next command goes.
    next: u64,
    typer: u64,
    target: u64,
    /// The table of events of each device.
    devices: BTreeMap<u32, Pa>,
}

impl Its {
    /// Brings up the ITS with these registers. Every message that is mapped will go to the CPU of `gic`.
    pub(crate) fn start(registers: PaRange, gic: &Gic) -> Result<Self, GicError> {
        let ring = memory::buffers().alloc(RING).ok_or(GicError("no memory for the ITS's commands"))?;
        let window = Window::new(registers);
        let typer = window.read64(TYPER);
        let target = gic.target(typer >> 19 & 1 == 1) << 16;
        let mut its = Self { registers: window, ring, next: 0, typer, target, devices: BTreeMap::new() };
        window.write32(CTLR, 0);
        wait("GITS_CTLR.Quiescent", || window.read32(CTLR) & QUIESCENT != 0)?;
        (0..8).try_for_each(|index| its.give_table(BASER + 8 * index))?;
        window.write64(CBASER, VALID | ATTRIBUTES | ring.get() | (RING_BYTES / 4096 - 1));
        window.write64(CWRITER, 0);
        cpu::full_barrier();
        window.write32(CTLR, ENABLED);
        its.run(&[[MAPC, 0, VALID | its.target | COLLECTION, 0], its.sync()])?;
        Ok(its)
    }

    /// Gives the ITS the memory that one of its table registers asks for.
    fn give_table(&self, register: usize) -> Result<(), GicError> {
        let wanted = self.registers.read64(register);
        let entry_bytes = (wanted >> 48 & 0x1f) + 1;
        let entries = match wanted >> 56 & 0b111 {
            TYPE_DEVICES => 1 << DEVICE_BITS.min((self.typer >> 13 & 0x1f) + 1),
            TYPE_COLLECTIONS => 1,
            _ => return Ok(()),
        };
        let bytes = (entries * entry_bytes).next_multiple_of(4096);
        let layout = BlockLayout::new(bytes, 4096).ok_or(GicError("a table of no bytes"))?;
        let table = memory::buffers().alloc(layout).ok_or(GicError("no memory for the ITS's tables"))?;
        // One level of pages of 4 KiB.
        self.registers.write64(register, VALID | ATTRIBUTES | table.get() | (bytes / 4096 - 1));
        let pages = self.registers.read64(register) >> 8 & 0b11;
        if pages == 0 { Ok(()) } else { Err(GicError("the ITS does not take pages of 4 KiB")) }
    }

    fn sync(&self) -> [u64; 4] {
        [SYNC, 0, self.target, 0]
    }

    /// Has the ITS run commands, and waits until it has.
    fn run(&mut self, commands: &[[u64; 4]]) -> Result<(), GicError> {
        for command in commands {
            for (word, &value) in (0..).zip(command) {
                memory::buffers().store(Pa::new(self.ring.get() + self.next + 8 * word), value);
            }
            self.next = (self.next + COMMAND_BYTES) % RING_BYTES;
        }
        cpu::store_barrier();
        self.registers.write64(CWRITER, self.next);
        let done = || self.registers.read64(CREADR) & !STALLED == self.next;
        wait("the ITS to run its commands", done)?;
        if self.registers.read64(CREADR) & STALLED != 0 {
            Err(GicError("the ITS refused a command"))
        } else {
            Ok(())
        }
    }

    /// From now on `event` of `device` is the interrupt `lpi`, which `gic` lets in.
    pub(crate) fn map(&mut self, gic: &Gic, device: u32, event: u32, lpi: u32) -> Result<(), GicError> {
        if u64::from(event) >> EVENT_BITS != 0 {
            return Err(GicError("more events than a device gets"));
        }
        if !self.devices.contains_key(&device) {
            self.add_device(device)?;
        }
        gic.configure_message(lpi, true);
        let (device, event) = (u64::from(device) << 32, u64::from(event));
        let map = [MAPTI | device, u64::from(lpi) << 32 | event, COLLECTION, 0];
        self.run(&[map, [INV | device, event, 0, 0], self.sync()])
    }

    fn add_device(&mut self, device: u32) -> Result<(), GicError> {
        let table = memory::buffers()
            .alloc(self.events_layout())
            .ok_or(GicError("no memory for a device's events"))?;
        self.run(&[[MAPD | u64::from(device) << 32, EVENT_BITS - 1, VALID | table.get(), 0], self.sync()])?;
        self.devices.insert(device, table);
        Ok(())
    }

    fn events_layout(&self) -> BlockLayout {
        let bytes = ((self.typer >> 4 & 0xf) + 1) << EVENT_BITS;
        BlockLayout::new(bytes.next_power_of_two().max(256), 256).expect("not empty")
    }

    /// From now on `event` of `device` means nothing.
    pub(crate) fn discard(&mut self, device: u32, event: u32) -> Result<(), GicError> {
        self.run(&[[DISCARD | u64::from(device) << 32, event.into(), 0, 0], self.sync()])
    }

    /// From now on no event of `device` means anything; its table is given back.
    pub(crate) fn remove_device(&mut self, device: u32) -> Result<(), GicError> {
        self.run(&[[MAPD | u64::from(device) << 32, 0, 0, 0], self.sync()])?;
        if let Some(table) = self.devices.remove(&device) {
            memory::buffers().free(table, self.events_layout());
        }
        Ok(())
    }
}
