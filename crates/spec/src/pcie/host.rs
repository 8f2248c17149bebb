//! What a host bridge lets through.

use portcullis_types::Pa;

/// Which of PCI's address spaces.
///
/// Spec: PCIe 6.0, 2.2.1.1 "TLP Types" (memory and I/O requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// I/O ports.
    Io,
    /// Memory, addresses below 4 GiB.
    Memory32,
    /// Memory, addresses anywhere.
    Memory64,
}

/// A run of PCI addresses that the CPU can reach through a host bridge, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostWindow {
    /// Which space the PCI addresses are in.
    pub space: Space,
    /// Whether reads through the window may be prefetched: what is not prefetchable must not be placed here.
    pub prefetchable: bool,
    /// The first PCI address.
    pub bus_first: u64,
    /// Where the CPU sees the first PCI address.
    pub cpu_first: Pa,
    /// How many bytes; above 0, and neither side passes the end of 64 bits.
    pub size_bytes: u64,
}

impl HostWindow {
    /// The last PCI address.
    pub const fn bus_last(&self) -> u64 {
        self.bus_first.saturating_add(self.size_bytes.saturating_sub(1))
    }

    /// Where the CPU sees a PCI address of this window; none if the address is outside.
    pub const fn to_cpu(&self, bus_address: u64) -> Option<Pa> {
        if bus_address < self.bus_first || bus_address > self.bus_last() {
            return None;
        }
        self.cpu_first.checked_add(bus_address - self.bus_first)
    }
}
