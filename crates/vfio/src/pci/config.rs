//! Configuration space as a user sees it.
//!
//! What is not named here is read from the function and cannot be written.
//!
//! | register | reads | writes |
//! |---|---|---|
//! | command | as last written | bus mastering goes to the function, unless that is lost; the rest is noted |
//! | base address registers | as last written, in the function's sizes | noted |
//! | expansion ROM | zeroes | nothing |
//! | interrupt line | as last written | noted |
//! | interrupt pin | 0: there is no INTx | nothing |
//! | device control | as it is | a reset of the function; nothing else |
//!
//! Observed: Linux 7.3, drivers/vfio/pci/vfio_pci_config.c: which registers are virtual.

use portcullis_hal::Platform;
use portcullis_pci::set_bus_master;
use portcullis_spec::pcie::Space;
use portcullis_spec::pcie::express::{DEVICE_CONTROL, DeviceControl};
use portcullis_spec::pcie::header::{
    BAR0, Bar, COMMAND, Command, INTERRUPT_LINE, TYPE0_BAR_COUNT, TYPE0_EXPANSION_ROM,
};

use super::{PciDevice, State};
use crate::Errno;

/// What is kept for the user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Virtual {
    pub(super) command: Command,
    bars: [u32; 6],
    line: u8,
    pub(super) before: Before,
}

/// What the function was like when the user got it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) command: Command,
    line: u8,
}

const LAST_BAR: u16 = BAR0 + 4 * (TYPE0_BAR_COUNT as u16 - 1);
const INTERRUPT_WORD: u16 = INTERRUPT_LINE & !3;

impl<P: Platform> PciDevice<P> {
    /// What is there before a new user gets the function, and before it is reset for him.
    pub(super) fn before(&self) -> Before {
        let (config, at) = (&self.parts.config, self.parts.function.at);
        Before { command: Command::from(config.read16(at, COMMAND)), line: config.read8(at, INTERRUPT_LINE) }
    }

    /// What a new user finds, after the reset.
    pub(super) fn virtual_config(&self, before: Before) -> Virtual {
        let (config, at) = (&self.parts.config, self.parts.function.at);
        let bars = core::array::from_fn(|index| config.read32(at, bar_offset(index)));
        // Registers can be used at once; requests are sent when the user says so.
        let command = Command::new().with_memory_space(true);
        Virtual { command, bars, line: before.line, before }
    }

    pub(super) fn read_config(&self, state: &State, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let first = self.in_config(offset, into.len())?;
        for (byte, at) in into.iter_mut().zip(first..) {
            *byte = self.config_word(state, at & !3).to_le_bytes()[usize::from(at & 3)];
        }
        Ok(())
    }

    fn in_config(&self, offset: u64, len_bytes: usize) -> Result<u16, Errno> {
        let end = offset.checked_add(len_bytes as u64).filter(|&end| end <= self.config_bytes().into());
        end.and(u16::try_from(offset).ok()).ok_or(Errno::Einval)
    }

    /// A word as the user reads it.
    fn config_word(&self, state: &State, offset: u16) -> u32 {
        let real = self.parts.config.read32(self.parts.function.at, offset);
        match offset {
            COMMAND => real & 0xffff_0000 | u32::from(u16::from(state.config.command)),
            BAR0..=LAST_BAR => state.config.bars[usize::from((offset - BAR0) / 4)],
            TYPE0_EXPANSION_ROM => 0,
            // The pin is the second byte.
            INTERRUPT_WORD => real & 0xffff_0000 | u32::from(state.config.line),
            _ => real,
        }
    }

    pub(super) fn write_config(&self, state: &mut State, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let first = self.in_config(offset, from.len())?;
        let mut rest = from;
        let mut at = first;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(usize::from(4 - (at & 3))));
            let shift = 8 * u32::from(at & 3);
            let merge = |all: u32, byte: &u8| all << 8 | u32::from(*byte);
            let value = now.iter().rev().fold(0, merge) << shift;
            let mask = now.iter().fold(0, |all, _| all << 8 | 0xff) << shift;
            self.write_config_word(state, at & !3, value, mask)?;
            at += u16::try_from(now.len()).expect("at most 4");
            rest = later;
        }
        Ok(())
    }

    fn write_config_word(&self, state: &mut State, offset: u16, value: u32, mask: u32) -> Result<(), Errno> {
        let control = self.express.map(|express| express + DEVICE_CONTROL);
        match offset {
            COMMAND => {
                let merged = merge(u16::from(state.config.command).into(), value, mask);
                state.config.command = Command::from(low_half(merged));
                // One that is lost may lack what keeps it from reaching others.
                let on = state.config.command.bus_master() && !state.lost;
                set_bus_master(&*self.parts.config, self.parts.function.at, on);
            }
            BAR0..=LAST_BAR => {
                let index = usize::from((offset - BAR0) / 4);
                let merged = merge(state.config.bars[index], value, mask);
                state.config.bars[index] = self.fitting_bar(index, merged);
            }
            INTERRUPT_WORD if mask & 0xff != 0 => state.config.line = value.to_le_bytes()[0],
            _ if control == Some(offset) && DeviceControl::from(low_half(value)).initiate_reset() => {
                return self.reset_by_write(state);
            }
            _ => {}
        }
        Ok(())
    }

    /// As for hardware: a function that cannot be reset ignores it.
    fn reset_by_write(&self, state: &mut State) -> Result<(), Errno> {
        if self.can_reset { self.reset_for_user(state) } else { Ok(()) }
    }

    /// What a base address register keeps of what is written: the address in the register's size, and the bits that say what it is.
    fn fitting_bar(&self, index: usize, written: u32) -> u32 {
        let own = |at: usize| u8::try_from(at).ok().and_then(|at| self.parts.function.bar(at));
        if let Some(bar) = own(index) {
            let kind = match bar.space {
                Space::Io => Bar::IO,
                Space::Memory64 => Bar::TYPE_64,
                _ => Bar::TYPE_32,
            };
            let prefetchable = if bar.prefetchable { Bar::PREFETCHABLE } else { 0 };
            let size_mask = u32::try_from(!(bar.size_bytes - 1) & u64::from(u32::MAX)).unwrap_or(0);
            return written & size_mask | kind | prefetchable;
        }
        match index.checked_sub(1).and_then(own) {
            Some(bar) if bar.space == Space::Memory64 => {
                written & u32::try_from(!(bar.size_bytes - 1) >> 32).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

fn merge(old: u32, value: u32, mask: u32) -> u32 {
    old & !mask | value & mask
}

fn low_half(word: u32) -> u16 {
    u16::try_from(word & 0xffff).expect("cut to 16 bits")
}

/// Where a base address register is.
pub(super) fn bar_offset(index: usize) -> u16 {
    BAR0 + 4 * u16::try_from(index).expect("at most 6 registers")
}
