//! Making a domain ready for a device, before hardware attaches it; and undoing that.
//!
//! What is made ready for a domain of the DMA API stays when the device leaves: reservations and 1:1 mappings harm nobody, and
//! another device may have been promised the same. Nor is anything undone that a device needs which is there, or comes at the same time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_types::IovaRange;

use super::user::{Attachment, UserSpace};
use super::{Domain, Kind};
use crate::device::Device;
use crate::iommu::{AttachError, ReservedKind, ReservedRegion};

/// What was made ready for one device, to be undone if it is not attached after all.
#[derive(Debug, Default)]
#[must_use = "undo it if the device is not attached"]
pub(crate) struct Prepared {
    /// Parts of the IOVA space that were not reserved before.
    pub(crate) reserved: Vec<IovaRange>,
    /// Ranges that were not mapped 1:1 before.
    pub(crate) direct: Vec<IovaRange>,
    /// Doorbells that hardware decodes and that were not known before.
    pub(crate) doorbells: Vec<IovaRange>,
}

impl<P: Platform> Domain<P> {
    /// Makes the domain ready for `device`.
    pub(crate) fn prepare(&self, device: &Device<P>) -> Result<Prepared, AttachError> {
        if !Arc::ptr_eq(&self.iommu, device.iommu()) {
            return Err(AttachError::ForeignDomain);
        }
        let regions = device.reserved_regions();
        match &self.kind {
            // Firmware's own accesses to the region would be cut off.
            // Choice: other regions do not bind a process, whose addresses are where they are, with or without a PASID.
            Kind::Blocked | Kind::Process(_) => {
                match regions.iter().find(|region| region.kind == ReservedKind::Direct) {
                    Some(direct) => Err(AttachError::Reserved(direct.range)),
                    None => Ok(Prepared::default()),
                }
            }
            Kind::Identity if !self.iommu.capabilities().identity => Err(AttachError::Unsupported),
            Kind::Identity => Ok(Prepared::default()),
            Kind::Dma(space) => {
                space.prepare(self.attachment(device).device, &regions, &device.info().bridge_windows)
            }
            Kind::Unmanaged(space) => self.bind(space, device, &regions),
            Kind::Nested(nested) => self.bind(nested.space(), device, &regions),
        }
    }

    /// Keeps the regions of `device` free in the space of a user, here or in the parent, for as long as the device is attached here.
    fn bind(
        &self,
        space: &UserSpace<P>,
        device: &Device<P>,
        regions: &[ReservedRegion],
    ) -> Result<Prepared, AttachError> {
        space.bind(self.attachment(device), regions).map(|()| Prepared::default())
    }

    /// Undoes what was made ready for `device`, which was not attached.
    pub(crate) fn unprepare(&self, device: &Device<P>, prepared: Prepared) {
        match &self.kind {
            Kind::Dma(space) => space.unprepare(self.attachment(device).device, prepared),
            Kind::Blocked | Kind::Identity | Kind::Unmanaged(_) | Kind::Process(_) | Kind::Nested(_) => {
                self.released(device);
            }
        }
    }

    /// `device` was attached and is no more.
    pub(crate) fn released(&self, device: &Device<P>) {
        match &self.kind {
            Kind::Unmanaged(space) => space.release(self.attachment(device)),
            Kind::Nested(nested) => nested.space().release(self.attachment(device)),
            Kind::Dma(space) => space.released(self.attachment(device).device),
            Kind::Blocked | Kind::Identity | Kind::Process(_) => {}
        }
    }

    fn attachment(&self, device: &Device<P>) -> Attachment {
        Attachment { device: core::ptr::from_ref(device).addr(), domain: core::ptr::from_ref(self).addr() }
    }
}
