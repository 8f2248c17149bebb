//! The root port's own means: the slot's signal, and whether the link is up.
//!
//! Not here: the root port's configuration space, by which the link is reset (`portcullis-pci`).

use alloc::sync::Arc;
use core::fmt;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers, pause, wait_for};
use portcullis_spec::ioda2::registers::{RESET, RESET_RELEASED, TRAIN_CTL, TRAIN_LINK_ACTIVE};

use crate::bridge::Bridge;
use crate::phb3::Phb3;

/// How long the signal is held, and how long the link is not looked at afterwards. Observed: skiboot hw/phb3.c, `phb3_freset`.
const HOLD_NS: u64 = 1_000_000_000;
/// How long the link may take. Observed: skiboot hw/phb3.c, `phb3_poll_link`: 2 s until somebody is seen, and 2 s more.
const LINK_NS: u64 = 4_000_000_000;

/// The one root port that a PHB3 has. Everything below the bridge is below it.
pub struct RootPort<P: Platform, R: Registers> {
    bridge: Arc<Bridge<P, R>>,
}

impl<P: Platform, R: Registers> fmt::Debug for RootPort<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootPort").field("bridge", &self.bridge).finish()
    }
}

impl<P: Platform, R: Registers> Phb3<P, R> {
    /// Its root port.
    pub fn root_port(&self) -> RootPort<P, R> {
        RootPort { bridge: self.bridge.clone() }
    }
}

impl<P: Platform, R: Registers> RootPort<P, R> {
    /// Whether the link is up.
    pub fn link_is_up(&self) -> bool {
        let status = self.bridge.registers.read64(TRAIN_CTL);
        !self.bridge.is_gone() && status & TRAIN_LINK_ACTIVE != 0
    }

    /// Resets everything below by the slot's signal (PERST), and waits for the link.
    ///
    /// # Errors
    ///
    /// The link did not come up.
    pub fn reset_slot(&self) -> Result<(), SyncError> {
        let Bridge { registers, platform, .. } = &*self.bridge;
        let others = registers.read64(RESET) & !RESET_RELEASED;
        registers.write64(RESET, others);
        pause(&**platform, HOLD_NS);
        registers.write64(RESET, others | RESET_RELEASED);
        pause(&**platform, HOLD_NS);
        let up = || self.link_is_up().then_some(());
        let down = |_| SyncError::Timeout {
            waiting_for: "PHB_PCIE_DLP_TRAIN_CTL",
            last: registers.read64(TRAIN_CTL),
        };
        wait_for(&**platform, LINK_NS, up).map_err(down)
    }
}
