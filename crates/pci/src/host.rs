//! What is above all functions.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use portcullis_spec::pcie::HostWindow;

/// A host bridge, as firmware describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBridge {
    /// Its segment.
    pub segment: u16,
    /// The numbers of its buses: the first is the bus right below it.
    pub buses: RangeInclusive<u8>,
    /// What the CPU reaches through it. One that has addresses of another before it is not used: firmware may be wrong.
    pub windows: Vec<HostWindow>,
    /// Who is told apart by his addresses below 4 GiB: registers right below the host bridge, and windows of bridges, begin and end there at multiples of this, a
    /// power of two. 1 where they are not told apart so.
    ///
    /// Observed: Linux 6.x, `pnv_pci_window_alignment`: the segments of a PHB's M32.
    pub segment_bytes: u64,
}
