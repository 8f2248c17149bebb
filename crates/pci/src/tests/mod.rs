//! Tests of the whole: enumeration over a fake tree, and hostile configuration spaces.

extern crate std;

mod aliases;
mod enumeration;
mod groups;
mod hostile;
mod interrupts;
mod placing;
mod resets;
mod services;

use alloc::vec::Vec;

use portcullis_spec::pcie::{Bdf, HostWindow, Space};
use portcullis_types::Pa;

use crate::HostBridge;

pub(crate) fn bdf(bus: u8, device: u8, function: u8) -> Bdf {
    Bdf::new(bus, device, function).unwrap()
}

pub(crate) fn window(space: Space, prefetchable: bool, bus: u64, cpu: u64, size: u64) -> HostWindow {
    HostWindow { space, prefetchable, bus_first: bus, cpu_first: Pa::new(cpu), size_bytes: size }
}

/// A host bridge with the windows of QEMU's `virt`, except that the CPU sees the 32-bit one elsewhere.
pub(crate) fn host() -> HostBridge {
    HostBridge {
        segment: 0,
        buses: 0..=255,
        windows: Vec::from([
            window(Space::Io, false, 0, 0x3eff_0000, 0x1_0000),
            window(Space::Memory32, false, 0x1000_0000, 0x7000_0000, 0x2eff_0000),
            window(Space::Memory64, false, 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000),
        ]),
        segment_bytes: 1,
    }
}
