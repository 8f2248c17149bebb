//! How the devices of a group are reset: by the bridge above them, if nobody else is below it.
//!
//! A bridge's reset goes by configuration space, which PCI's driver does; the signal of a PHB3's only slot, and what that says of its link, are the host bridge's. Here the two
//! meet.
//!
//! Choice: a signal that leaves devices as they were does not lead to them; then they are reset by their link.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::core::iommu::SyncError;
use portcullis::core::table_group::Slot;
use portcullis::ioda2::RootPort;
use portcullis::pci::{Below, ConfigAccess, ResetError};

use super::pci::HostBridge;
use crate::platform::{LabPlatform, RegisterWindow};

/// A bridge below which there is one group, and nobody else.
pub(super) struct BusSlot {
    platform: Arc<LabPlatform>,
    config: Arc<dyn ConfigAccess + Send + Sync>,
    below: Mutex<Below>,
    /// The host bridge's root port, if that is the bridge and there is no other.
    root: Option<RootPort<LabPlatform, RegisterWindow>>,
}

impl core::fmt::Debug for BusSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BusSlot").field("root", &self.root).finish_non_exhaustive()
    }
}

impl BusSlot {
    /// The slot of a group, by its functions' indexes. None if no bridge leads to all of its devices and to nobody else.
    pub(super) fn of(
        platform: &Arc<LabPlatform>,
        found: &HostBridge,
        group: &[usize],
        root: impl FnOnce() -> RootPort<LabPlatform, RegisterWindow>,
    ) -> Option<Self> {
        let functions = &found.topology.functions;
        let devices: Vec<usize> =
            group.iter().copied().filter(|&member| functions[member].bridge().is_none()).collect();
        let first = *devices.first()?;
        let leads_to = |&bridge: &usize| {
            let below = Below::new(&*found.config, &found.topology, bridge)?;
            let whole = devices.iter().all(|device| below.functions().any(|at| at == *device));
            let alone = below.functions().all(|at| group.contains(&at));
            (whole && alone).then_some((bridge, below))
        };
        let (bridge, below) = found.topology.bridges_above(first).find_map(|bridge| leads_to(&bridge))?;
        let only = functions.iter().filter(|function| function.above.is_none()).count() == 1;
        let root = (functions[bridge].above.is_none() && only).then(root);
        Some(Self {
            platform: platform.clone(),
            config: found.config.clone(),
            below: Mutex::new(below),
            root,
        })
    }

    fn below(&self) -> MutexGuard<'_, Below> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset_link(&self, below: &mut Below) -> Result<(), SyncError> {
        below.prepare(&*self.config);
        below.hot_reset(&*self.config, &*self.platform);
        below.await_ready(&*self.config, &*self.platform).map_err(failed)
    }
}

fn failed(error: ResetError) -> SyncError {
    match error {
        ResetError::Link { status, .. } => SyncError::Timeout { waiting_for: "link", last: status.into() },
        ResetError::Silent(at) => {
            SyncError::Timeout { waiting_for: "an answer after a reset", last: at.requester_id().into() }
        }
        _ => SyncError::Failed { code: 0 },
    }
}

impl Slot for BusSlot {
    fn hot_reset(&self) -> Result<(), SyncError> {
        self.reset_link(&mut self.below())
    }

    fn fundamental_reset(&self) -> Result<(), SyncError> {
        let mut below = self.below();
        let Some(root) = &self.root else { return self.reset_link(&mut below) };
        below.prepare(&*self.config);
        root.reset_slot()?;
        below.await_ready(&*self.config, &*self.platform).map_err(failed)?;
        if below.was_reset(&*self.config) { Ok(()) } else { self.reset_link(&mut below) }
    }

    fn set_up(&self) -> Result<(), SyncError> {
        self.below().set_up(&*self.config, &*self.platform).map_err(failed)
    }
}
