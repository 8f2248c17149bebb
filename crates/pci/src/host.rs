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
    /// What the CPU reaches through it. They do not overlap.
    pub windows: Vec<HostWindow>,
}
