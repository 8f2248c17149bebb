//! One IOMMU as core knows it: its driver, its devices, and the way of a fault from hardware to whoever cares.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_hal::{Lock, Platform};
use portcullis_types::SourceId;

use crate::device::{Device, DeviceInfo, Standing};
use crate::fault;
use crate::iommu::{AddDeviceError, GlobalError, Iommu, SyncError};
use crate::sva::LetGo;

/// An IOMMU and the devices behind it.
pub struct IommuUnit<P: Platform> {
    platform: Arc<P>,
    iommu: Arc<dyn Iommu<P>>,
    devices: Lock<P, BTreeMap<SourceId, Weak<Device<P>>>>,
    unclaimed_faults: AtomicU64,
    let_go: Arc<LetGo<P>>,
}

impl<P: Platform> fmt::Debug for IommuUnit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuUnit").field("iommu", &self.iommu).finish_non_exhaustive()
    }
}

/// Why a device was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveDeviceError {
    /// It is behind another IOMMU. ENODEV.
    Foreign,
    /// It is in a group still, or about to join one. EBUSY.
    InGroup,
    /// The hardware did not confirm; the device stays known, and blocked. EIO.
    Sync(SyncError),
}

impl<P: Platform> IommuUnit<P> {
    /// The IOMMU that `iommu` drives, with no devices yet.
    pub fn new(platform: Arc<P>, iommu: Arc<dyn Iommu<P>>) -> Self {
        let devices = Lock::<P, _>::new(BTreeMap::new());
        let let_go = Arc::new(LetGo::new());
        Self { platform, iommu, devices, unclaimed_faults: AtomicU64::new(0), let_go }
    }

    /// The platform.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// The driver.
    pub fn iommu(&self) -> &Arc<dyn Iommu<P>> {
        &self.iommu
    }

    /// Makes a device known. Its accesses are blocked until it joins a group.
    ///
    /// # Errors
    ///
    /// As [`AddDeviceError`] says; then it is not known.
    pub fn add_device(&self, info: DeviceInfo) -> Result<Arc<Device<P>>, AddDeviceError> {
        self.iommu.add_device(&info.name, &info.sources)?;
        let (platform, iommu) = (self.platform.clone(), self.iommu.clone());
        let device = Arc::new(Device::new(platform, iommu, info, self.let_go.clone()));
        let mut devices = self.devices.lock();
        devices.extend(device.sources().iter().map(|&source| (source, Arc::downgrade(&device))));
        drop(devices);
        Ok(device)
    }

    /// Forgets a device that is gone and in no group. Does nothing if it was forgotten before.
    ///
    /// # Errors
    ///
    /// As [`RemoveDeviceError`] says; then it stays known.
    pub fn remove_device(&self, device: &Device<P>) -> Result<(), RemoveDeviceError> {
        // Who has its source ids here is another.
        if !Arc::ptr_eq(device.iommu(), &self.iommu) {
            return Err(RemoveDeviceError::Foreign);
        }
        match device.take() {
            Standing::Free => {}
            Standing::Taken => return Err(RemoveDeviceError::InGroup),
            Standing::Gone => return Ok(()),
        }
        let removed = self.iommu.remove_device(device.sources()).map_err(RemoveDeviceError::Sync);
        device.stands(if removed.is_ok() { Standing::Gone } else { Standing::Free });
        removed?;
        let mut devices = self.devices.lock();
        for source in device.sources() {
            // Whoever was plugged in meanwhile, and says that he is the same, stays.
            if devices.get(source).is_some_and(|held| core::ptr::eq(held.as_ptr(), device)) {
                devices.remove(source);
            }
        }
        drop(devices);
        self.let_go.settle();
        Ok(())
    }

    /// What its driver has let go of.
    pub(crate) fn let_go(&self) -> &Arc<LetGo<P>> {
        &self.let_go
    }

    /// The device whose accesses say that they are `source`.
    pub fn device(&self, source: SourceId) -> Option<Arc<Device<P>>> {
        self.devices.lock().get(&source)?.upgrade()
    }

    /// Takes what faults hardware has recorded and brings each to its device's domain. Answers how many. Called by the embedder when
    /// the event interrupt comes, or by polling. In a flood some are left, for which hardware may not interrupt: a call that answered more than 0 is followed by another,
    /// by a worker or a timer.
    pub fn dispatch_faults(&self) -> usize {
        self.iommu.drain_events(&mut |record| match record.source.and_then(|source| self.device(source)) {
            Some(device) => fault::deliver(&*self.platform, &device, record),
            None => {
                self.unclaimed_faults.fetch_add(1, Relaxed);
                fault::say(&*self.platform, "", record);
            }
        })
    }

    /// How many faults came from nobody that is known.
    pub fn unclaimed_faults(&self) -> u64 {
        self.unclaimed_faults.load(Relaxed)
    }

    /// Has the driver look at the hardware's global errors and repair what it can. Answers what was found. Called by the embedder
    /// when the error interrupt comes, or by polling. It waits if hardware has not confirmed something earlier ([`Iommu::handle_errors`]).
    pub fn handle_errors(&self) -> Vec<GlobalError> {
        self.iommu.handle_errors()
    }
}
