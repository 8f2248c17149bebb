//! What every PCIe function is to the bus above it.

use std::sync::Arc;

use model_bus::{Invalidation, PageResponse, Width};

use super::bar::Bar;
use super::config::ConfigSpace;
use super::pci_bus::PciBus;
use super::requester::Requester;

/// A function in a slot.
///
/// Reads and writes come from CPUs and from other devices, at any time, also from inside the function's own requests: they must
/// take no lock that is held while the function makes one.
pub trait Function: Send + Sync {
    /// Its configuration space.
    fn config(&self) -> &Arc<ConfigSpace>;

    /// Its base address registers.
    fn bars(&self) -> &[Bar];

    /// Reads in a BAR.
    fn read_bar(&self, bar: usize, offset: u64, width: Width) -> u64;

    /// Writes in a BAR.
    fn write_bar(&self, bar: usize, offset: u64, width: Width, value: u64);

    /// Its way to memory, if it makes requests.
    fn requester(&self) -> Option<&Requester> {
        None
    }

    /// The bus behind it, if it is a bridge.
    fn below(&self) -> Option<&Arc<PciBus>> {
        None
    }

    /// Looks at what software has just written at `offset` of the configuration space.
    fn config_written(&self, offset: usize) {
        let _ = offset;
    }

    /// Takes an invalidation to its ATC. False if it has none, or it is off: an Unsupported Request.
    fn invalidate(&self, message: &Invalidation) -> bool {
        let _ = message;
        false
    }

    /// Takes a response to a group of its page requests. False if it never makes any.
    fn page_response(&self, message: &PageResponse) -> bool {
        let _ = message;
        false
    }

    /// Returns to the state after power-up: configuration space and everything else.
    fn reset(&self);
}
