//! Configuration space: 4096 bytes, and what a write does to each of their bits.
//!
//! A bit is read-only, or takes what is written, or is cleared by writing a one. A [`ConfigBuilder`] lays out the header
//! and the capabilities; a [`ConfigSpace`] is what software then reads and writes.
//!
//! Spec: PCIe 6.0, 7.5.1 "PCI-Compatible Configuration Registers".

use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model_bus::Width;

/// Bytes in a configuration space.
pub const CONFIG_BYTES: usize = 4096;

/// `Command`: Memory Space Enable. Spec: PCIe 6.0, 7.5.1.1.3 "Command Register".
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// `Command`: Bus Master Enable.
pub const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND: usize = 0x04;
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_MASTER | 1 << 6 | 1 << 8 | 1 << 10;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Signalled and detected errors: set by hardware, cleared by a one.
const STATUS_ERRORS: u16 = 0xf900;
const CAPABILITIES_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
const FIRST_EXTENDED: usize = 0x100;

/// One function's configuration space.
pub struct ConfigSpace {
    bytes: Mutex<Box<[u8; CONFIG_BYTES]>>,
    rules: Rules,
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vendor, device) = (self.read16(0), self.read16(2));
        write!(f, "ConfigSpace({vendor:04x}:{device:04x})")
    }
}

struct Rules {
    initial: Box<[u8; CONFIG_BYTES]>,
    writable: Box<[u8; CONFIG_BYTES]>,
    ones_clear: Box<[u8; CONFIG_BYTES]>,
}

impl ConfigSpace {
    fn bytes(&self) -> MutexGuard<'_, Box<[u8; CONFIG_BYTES]>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What software reads at `offset`, which is aligned to `width`; all ones beyond the end.
    pub fn read(&self, offset: usize, width: Width) -> u64 {
        let len = width.bytes() as usize;
        let mut value = [0; 8];
        match self.bytes().get(offset..offset.saturating_add(len)) {
            Some(bytes) => value[..len].copy_from_slice(bytes),
            None => value[..len].fill(0xff),
        }
        u64::from_le_bytes(value)
    }

    /// What software writes at `offset`, which is aligned to `width`. Read-only bits stay.
    pub fn write(&self, offset: usize, width: Width, value: u64) {
        let mut bytes = self.bytes();
        for (index, new) in value.to_le_bytes().into_iter().take(width.bytes() as usize).enumerate() {
            let at = offset.saturating_add(index);
            let Some(byte) = bytes.get_mut(at) else { return };
            let (writable, clears) = (self.rules.writable[at], self.rules.ones_clear[at]);
            *byte = *byte & !writable & !(new & clears) | new & writable;
        }
    }

    /// The 16-bit register at `offset`.
    pub fn read16(&self, offset: usize) -> u16 {
        self.read(offset, Width::Bits16) as u16
    }

    /// The 32-bit register at `offset`.
    pub fn read32(&self, offset: usize) -> u32 {
        self.read(offset, Width::Bits32) as u32
    }

    /// Hardware changes the 16-bit register at `offset`, whatever the rules for software.
    pub(crate) fn update16(&self, offset: usize, change: impl FnOnce(u16) -> u16) {
        let mut bytes = self.bytes();
        let place = &mut bytes[offset..offset + 2];
        let new = change(u16::from_le_bytes([place[0], place[1]]));
        place.copy_from_slice(&new.to_le_bytes());
    }

    /// Hardware changes the 32-bit register at `offset`, whatever the rules for software.
    pub(crate) fn update32(&self, offset: usize, change: impl FnOnce(u32) -> u32) {
        let mut bytes = self.bytes();
        let place = &mut bytes[offset..offset + 4];
        let new = change(u32::from_le_bytes([place[0], place[1], place[2], place[3]]));
        place.copy_from_slice(&new.to_le_bytes());
    }

    /// Whether the function answers memory requests.
    pub fn memory_enabled(&self) -> bool {
        self.read16(COMMAND) & COMMAND_MEMORY != 0
    }

    /// Whether the function may make requests.
    pub fn master_enabled(&self) -> bool {
        self.read16(COMMAND) & COMMAND_MASTER != 0
    }

    /// Everything as it was at first.
    pub fn reset(&self) {
        **self.bytes() = *self.rules.initial;
    }
}

/// Lays out a configuration space.
pub struct ConfigBuilder {
    rules: Rules,
    next_capability: usize,
    last_pointer: usize,
    next_extended: usize,
    last_extended: Option<usize>,
}

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `Vendor ID`.
    pub vendor: u16,
    /// `Device ID`.
    pub device: u16,
    /// `Revision ID`.
    pub revision: u8,
    /// `Class Code`: base class, sub-class, programming interface, as `0xbbsspp`.
    pub class: u32,
}

fn zeroes() -> Box<[u8; CONFIG_BYTES]> {
    vec![0; CONFIG_BYTES].into_boxed_slice().try_into().expect("the size of a configuration space")
}

impl ConfigBuilder {
    /// A header of this `kind` (0 for a function, 1 for a bridge), without BARs or capabilities.
    pub fn new(identity: Identity, kind: u8) -> Self {
        let rules = Rules { initial: zeroes(), writable: zeroes(), ones_clear: zeroes() };
        let mut builder = Self {
            rules,
            next_capability: FIRST_CAPABILITY,
            last_pointer: CAPABILITIES_POINTER,
            next_extended: FIRST_EXTENDED,
            last_extended: None,
        };
        builder.set16(0x00, identity.vendor).set16(0x02, identity.device);
        builder.set32(0x08, identity.class << 8 | u32::from(identity.revision));
        builder.set8(0x0e, kind).allow16(COMMAND, COMMAND_WRITABLE);
        builder.clearable16(STATUS, STATUS_ERRORS);
        // Cache Line Size and Interrupt Line are for software to keep notes in.
        builder.rules.writable[0x0c] = 0xff;
        builder.rules.writable[0x3c] = 0xff;
        builder
    }

    /// Says that the device has more than one function.
    pub fn multi_function(&mut self) -> &mut Self {
        self.rules.initial[0x0e] |= 0x80;
        self
    }

    /// Adds a capability of `len` bytes, header included; its place.
    ///
    /// # Panics
    ///
    /// If there is no room left.
    pub fn capability(&mut self, id: u8, len: usize) -> usize {
        let at = self.next_capability;
        self.next_capability = (at + len).next_multiple_of(4);
        assert!(self.next_capability <= FIRST_EXTENDED, "no room for capability {id:#x}");
        self.rules.initial[self.last_pointer] = at as u8;
        self.last_pointer = at + 1;
        self.set16(STATUS, STATUS_CAPABILITIES);
        self.set8(at, id);
        at
    }

    /// Adds an extended capability of `len` bytes, header included; its place.
    ///
    /// # Panics
    ///
    /// If there is no room left.
    pub fn extended_capability(&mut self, id: u16, version: u8, len: usize) -> usize {
        let at = self.next_extended;
        self.next_extended = (at + len).next_multiple_of(4);
        assert!(self.next_extended <= CONFIG_BYTES, "no room for extended capability {id:#x}");
        if let Some(last) = self.last_extended.replace(at) {
            let header =
                u32::from_le_bytes(self.rules.initial[last..last + 4].try_into().expect("four bytes"));
            self.set32(last, header | (at as u32) << 20);
        }
        self.set32(at, u32::from(id) | u32::from(version) << 16);
        at
    }

    /// Sets a byte's first value.
    pub fn set8(&mut self, at: usize, value: u8) -> &mut Self {
        self.rules.initial[at] = value;
        self
    }

    /// Sets a 16-bit register's first value.
    pub fn set16(&mut self, at: usize, value: u16) -> &mut Self {
        self.rules.initial[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Sets a 32-bit register's first value.
    pub fn set32(&mut self, at: usize, value: u32) -> &mut Self {
        self.rules.initial[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Lets software write the bits of `mask` of a 16-bit register.
    pub fn allow16(&mut self, at: usize, mask: u16) -> &mut Self {
        self.rules.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
        self
    }

    /// Lets software write the bits of `mask` of a 32-bit register.
    pub fn allow32(&mut self, at: usize, mask: u32) -> &mut Self {
        self.rules.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
        self
    }

    /// Lets software clear the bits of `mask` of a 16-bit register by writing ones.
    pub fn clearable16(&mut self, at: usize, mask: u16) -> &mut Self {
        self.rules.ones_clear[at..at + 2].copy_from_slice(&mask.to_le_bytes());
        self
    }

    /// The space as laid out.
    pub fn build(self) -> ConfigSpace {
        ConfigSpace { bytes: Mutex::new(self.rules.initial.clone()), rules: self.rules }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ConfigBuilder {
        ConfigBuilder::new(Identity { vendor: 0x1b36, device: 0x0010, revision: 2, class: 0x01_08_02 }, 0)
    }

    #[test]
    fn the_header_says_who_it_is() {
        let config = builder().build();
        assert_eq!(config.read32(0x00), 0x0010_1b36);
        assert_eq!(config.read32(0x08), 0x0108_0202);
        assert_eq!(config.read(0x0e, Width::Bits8), 0);
        assert_eq!(config.read(0x0b, Width::Bits8), 0x01);
    }

    #[test]
    fn only_the_command_bits_that_mean_something_can_be_set() {
        let config = builder().build();
        config.write(0x04, Width::Bits16, 0xffff);
        assert_eq!(config.read16(0x04), 0x0546);
        assert!(config.memory_enabled() && config.master_enabled());
        config.write(0x00, Width::Bits32, 0);
        assert_eq!(config.read32(0x00), 0x0010_1b36);
        config.reset();
        assert!(!config.memory_enabled() && !config.master_enabled());
    }

    #[test]
    fn an_error_in_status_goes_away_by_writing_a_one() {
        let config = builder().build();
        config.update16(0x06, |status| status | 0x3000);
        config.write(0x06, Width::Bits16, 0x1000);
        assert_eq!(config.read16(0x06), 0x2000);
    }

    #[test]
    fn capabilities_are_chained() {
        let mut builder = builder();
        let (first, second) = (builder.capability(0x10, 0x3c), builder.capability(0x11, 12));
        let (ats, pasid) = (builder.extended_capability(0xf, 1, 8), builder.extended_capability(0x1b, 1, 8));
        let config = builder.build();
        assert_eq!((first, second, ats, pasid), (0x40, 0x7c, 0x100, 0x108));
        assert_eq!(config.read16(0x06), 0x0010);
        assert_eq!(config.read(0x34, Width::Bits8), 0x40);
        assert_eq!((config.read16(0x40), config.read16(0x7c)), (0x7c10, 0x0011));
        assert_eq!((config.read32(0x100), config.read32(0x108)), (0x1081_000f, 0x0001_001b));
    }

    #[test]
    fn beyond_the_end_there_are_ones() {
        let config = builder().build();
        assert_eq!(config.read(4096, Width::Bits32), 0xffff_ffff);
        config.write(4096, Width::Bits32, 0);
    }
}
