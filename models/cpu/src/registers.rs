//! Loads and stores by physical address: of memory, and of devices' registers.
//!
//! Spec: Arm ARM DDI 0487, B2.7.2 "Device memory": an access is done once, in the size that the program says, and in order. An access that is not
//! aligned to its size is a fault. D24.2 "MAIR_EL1, Memory Attribute Indirection Register (EL1)": an attribute of 0b0000xxxx is Device memory.
//! Choice: what is longer than 8 bytes, or not of a size that a load has, aborts; so does an access of RAM as Device memory, which no
//! machine here has, and of registers as Normal memory.

use model_bus::{Bus, Width};
use portcullis_types::Pa;

/// What kind of memory an access is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Normal,
    Device,
}

impl Memory {
    /// What attribute `index` of `mair` says.
    pub(crate) fn of(mair: u64, index: u8) -> Self {
        let attribute = mair.to_le_bytes()[usize::from(index & 7)];
        if attribute & 0xf0 == 0 { Self::Device } else { Self::Normal }
    }

    /// Loads what is there. Answers whether it answered.
    pub(crate) fn load(self, bus: &Bus, at: Pa, into: &mut [u8]) -> bool {
        match self {
            Self::Normal => bus.cpu().read(at, into).is_ok(),
            Self::Device => load(bus, at, into),
        }
    }

    /// Stores there. Answers whether it answered.
    pub(crate) fn store(self, bus: &Bus, at: Pa, from: &[u8]) -> bool {
        match self {
            Self::Normal => bus.cpu().write(at, from).is_ok(),
            Self::Device => store(bus, at, from),
        }
    }
}

fn width(len: usize) -> Option<Width> {
    Some(match len {
        1 => Width::Bits8,
        2 => Width::Bits16,
        4 => Width::Bits32,
        8 => Width::Bits64,
        _ => return None,
    })
}

fn load(bus: &Bus, at: Pa, into: &mut [u8]) -> bool {
    let Some(Ok(value)) = width(into.len()).map(|width| bus.read_register(at, width)) else { return false };
    let len = into.len();
    into.copy_from_slice(&value.to_le_bytes()[..len]);
    true
}

fn store(bus: &Bus, at: Pa, from: &[u8]) -> bool {
    let mut bytes = [0; 8];
    let Some(width) = width(from.len()) else { return false };
    bytes[..from.len()].copy_from_slice(from);
    bus.write_register(at, width, u64::from_le_bytes(bytes)).is_ok()
}
