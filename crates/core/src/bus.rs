//! Binding drivers to devices: when a driver's device gets the DMA API, and when it has it no more. The same for every bus.
//!
//! A [`DriverBinding`] is one device's place for a driver. [`bind`](DriverBinding::bind) does, in this order,
//!
//! 1. `dma_configure`: addressing as firmware says; then, unless the driver is [`driver_managed_dma`](Driver::driver_managed_dma), the group
//!    is the kernel's from here on ([`DmaUse`]);
//! 2. probe;
//! 3. after a failed probe, `dma_cleanup`: what 1 took is given back.
//!
//! [`unbind`](DriverBinding::unbind) stops the driver and then does `dma_cleanup`.
//!
//! A driver that manages DMA itself (one for user space, a PCI bridge's, a port's) is asked for nothing and stands in nobody's way. It decides how
//! the IOMMU is used; that does not say that it does no DMA.
//!
//! # Locking
//!
//! No lock is held while a driver is probed or stopped. Meanwhile whoever else would bind, unbind or remove the device is refused, and may ask
//! again: nobody waits, hence nobody waits in a circle.
//!
//! Choice: addressing comes before the claim, so that what fails first has taken nothing.
//! Observed: Linux 7.3, `really_probe`, `pci_dma_configure`: the same order; the first version of the series had it the other way round.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use portcullis_hal::{Lock, Platform};
use portcullis_types::mutant;

use crate::device::{Device, DeviceInfo};
use crate::dma::DmaHandle;
use crate::group::{Group, GroupError};
use crate::iommu::AddDeviceError;
use crate::owner::{Errno, UseError};
use crate::unit::{IommuUnit, RemoveDeviceError};

/// What the bus must know of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its name, for messages.
    pub name: String,
    /// Whether the driver decides itself how the IOMMU is used; most do not, and use the DMA API.
    pub driver_managed_dma: bool,
}

impl Driver {
    /// A driver that uses the DMA API.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), driver_managed_dma: false }
    }

    /// A driver that decides itself: one that hands devices to user space, or a bridge's.
    pub fn managing_dma(name: &str) -> Self {
        Self { name: name.into(), driver_managed_dma: true }
    }
}

/// A device behind an IOMMU, in its group.
#[derive(Debug)]
pub struct Place<P: Platform> {
    /// The device.
    pub device: Arc<Device<P>>,
    /// Its group.
    pub group: Arc<Group<P>>,
}

impl<P: Platform> Clone for Place<P> {
    fn clone(&self) -> Self {
        Self { device: self.device.clone(), group: self.group.clone() }
    }
}

/// A driver's use of the DMA API, counted by the group. `dma_cleanup` is dropping it.
#[derive(Debug)]
#[must_use = "dropping it gives the group back"]
pub struct DmaUse<P: Platform>(Place<P>);

impl<P: Platform> Drop for DmaUse<P> {
    fn drop(&mut self) {
        if mutant!("driver-gone-and-still-counted") {
            return;
        }
        let given_back = self.0.group.unuse_default_domain(&self.0.device);
        debug_assert!(given_back.is_ok(), "counted when this was made");
    }
}

/// Why a device's DMA is not configured. Nothing is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigureError<E> {
    /// Addressing, as firmware says, was not set up.
    Addressing(E),
    /// The group is not for the DMA API.
    Use(UseError),
}

/// Sets up a device's addressing and then, for a driver that uses the DMA API, has its group counted as the kernel's. Also called with no
/// driver, when an IOMMU is found: then for addressing alone. With no place, the device is behind no IOMMU and there is nothing to count.
///
/// # Errors
///
/// As [`ConfigureError`] says.
pub fn dma_configure<P: Platform, E>(
    place: Option<&Place<P>>,
    driver: Option<&Driver>,
    addressing: impl FnOnce() -> Result<(), E>,
) -> Result<Option<DmaUse<P>>, ConfigureError<E>> {
    addressing().map_err(ConfigureError::Addressing)?;
    let ordinary = driver.filter(|driver| !driver.driver_managed_dma);
    let (Some(place), Some(driver)) = (place, ordinary) else { return Ok(None) };
    place.group.use_default_domain(&place.device, &driver.name).map_err(ConfigureError::Use)?;
    Ok(Some(DmaUse(place.clone())))
}

/// One device's place for a driver. `D` is what a bound driver leaves with the bus: itself, as it drives this device.
pub struct DriverBinding<P: Platform, D> {
    place: Option<Place<P>>,
    slot: Lock<P, Slot<P, D>>,
}

enum Slot<P: Platform, D> {
    Unbound,
    /// Somebody binds, unbinds or removes at this moment.
    Busy,
    Bound(Bound<P, D>),
    Gone,
}

struct Bound<P: Platform, D> {
    driver: Driver,
    /// Declared, and so dropped, before the use.
    drives: D,
    dma: Option<DmaUse<P>>,
}

/// Why a driver is not bound. Nothing is counted, and another can be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError<E> {
    /// This driver is bound. EBUSY.
    Bound(String),
    /// Somebody binds, unbinds or removes the device at this moment: ask again. EBUSY.
    Busy,
    /// The device is gone. ENODEV.
    Gone,
    /// Its DMA was not configured.
    Configure(ConfigureError<E>),
    /// The driver did not want it.
    Probe(E),
}

impl<E> BindError<E> {
    /// The error number; none where the bus's own addressing, or the driver, says why.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Bound(_) | Self::Busy => Some(Errno::Ebusy),
            Self::Gone => Some(Errno::Enodev),
            Self::Configure(ConfigureError::Use(error)) => Some(error.errno()),
            Self::Configure(ConfigureError::Addressing(_)) | Self::Probe(_) => None,
        }
    }
}

/// Why no driver was unbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnbindError {
    /// None is bound. ENODEV.
    Unbound,
    /// Somebody binds, unbinds or removes the device at this moment: ask again. EBUSY.
    Busy,
    /// The device is gone. ENODEV.
    Gone,
}

/// Why a device that was plugged in has no place. Nothing is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HotAddError {
    /// Its IOMMU did not take it.
    Unit(AddDeviceError),
    /// Its group did not take it.
    Group(GroupError),
    /// Its group did not take it, and its IOMMU did not let it go: it stays known there, and blocked.
    Stranded(GroupError, RemoveDeviceError),
}

/// Why a device is not removed. Its driver is gone; ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HotRemoveError {
    /// Somebody binds, unbinds or removes the device at this moment; and its driver is not gone. EBUSY.
    Busy,
    /// It was removed. ENODEV.
    Gone,
    /// Its group did not let it go.
    Group(GroupError),
    /// Its IOMMU did not let it go. It is in no group, and blocked.
    Unit(RemoveDeviceError),
}

impl<P: Platform, D> fmt::Debug for DriverBinding<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.place.as_ref().map(|place| place.device.name());
        f.debug_struct("DriverBinding")
            .field("device", &device)
            .field("driver", &self.driver())
            .finish_non_exhaustive()
    }
}

impl<P: Platform, D> DriverBinding<P, D> {
    /// The place of a device that is in its group; none for one that is behind no IOMMU. A device has one of these.
    pub fn new(place: Option<Place<P>>) -> Self {
        Self { place, slot: Lock::<P, _>::new(Slot::Unbound) }
    }

    /// Makes a device that was plugged in known to its IOMMU, and a member of its group: in whose hands that is, in those it is.
    ///
    /// # Errors
    ///
    /// As [`HotAddError`] says.
    pub fn hot_add(unit: &IommuUnit<P>, group: Arc<Group<P>>, info: DeviceInfo) -> Result<Self, HotAddError> {
        let device = unit.add_device(info).map_err(HotAddError::Unit)?;
        match group.add_device(&device) {
            Ok(()) => Ok(Self::new(Some(Place { device, group }))),
            Err(refused) => Err(match unit.remove_device(&device) {
                Ok(()) => HotAddError::Group(refused),
                Err(kept) => HotAddError::Stranded(refused, kept),
            }),
        }
    }

    /// The device and its group; none if it is behind no IOMMU.
    pub fn place(&self) -> Option<&Place<P>> {
        self.place.as_ref()
    }

    /// The driver that is bound.
    pub fn driver(&self) -> Option<Driver> {
        match &*self.slot.lock() {
            Slot::Bound(bound) => Some(bound.driver.clone()),
            Slot::Unbound | Slot::Busy | Slot::Gone => None,
        }
    }

    /// Binds a driver. `addressing` is the bus's, `probe` the driver's, which is given the DMA API unless it manages DMA itself or the device is
    /// behind no IOMMU.
    ///
    /// # Errors
    ///
    /// As [`BindError`] says; then no driver is bound that was not.
    pub fn bind<E>(
        &self,
        driver: Driver,
        addressing: impl FnOnce() -> Result<(), E>,
        probe: impl FnOnce(Option<DmaHandle<P>>) -> Result<D, E>,
    ) -> Result<(), BindError<E>> {
        let turn = self.begin_bind()?;
        let dma = dma_configure(self.place(), Some(&driver), addressing).map_err(BindError::Configure)?;
        let handle = dma.as_ref().and_then(|DmaUse(place)| place.group.dma(&place.device));
        // If probe fails, or does not come back, `dma` is dropped: that is the cleanup. Then the turn ends.
        let drives = probe(handle).map_err(BindError::Probe)?;
        turn.end(Slot::Bound(Bound { driver, drives, dma }));
        Ok(())
    }

    fn begin_bind<E>(&self) -> Result<Turn<'_, P, D>, BindError<E>> {
        let mut slot = self.slot.lock();
        match &*slot {
            Slot::Unbound => *slot = Slot::Busy,
            Slot::Bound(bound) => return Err(BindError::Bound(bound.driver.name.clone())),
            Slot::Busy => return Err(BindError::Busy),
            Slot::Gone => return Err(BindError::Gone),
        }
        Ok(Turn(self))
    }

    /// Unbinds the driver: `stop` has it let go of the device, so that the device does no more DMA.
    ///
    /// # Errors
    ///
    /// As [`UnbindError`] says.
    pub fn unbind(&self, stop: impl FnOnce(D)) -> Result<(), UnbindError> {
        let bound = self.begin_unbind()?;
        let turn = Turn(self);
        let Bound { drives, dma, .. } = bound.ok_or(UnbindError::Unbound)?;
        stop(drives);
        drop(dma);
        drop(turn);
        Ok(())
    }

    /// The driver that was bound, if there is one. From here on it is the caller's turn.
    fn begin_unbind(&self) -> Result<Option<Bound<P, D>>, UnbindError> {
        let mut slot = self.slot.lock();
        let bound = match core::mem::replace(&mut *slot, Slot::Busy) {
            Slot::Unbound => None,
            Slot::Bound(bound) => Some(bound),
            Slot::Busy => return Err(UnbindError::Busy),
            Slot::Gone => {
                *slot = Slot::Gone;
                return Err(UnbindError::Gone);
            }
        };
        Ok(bound)
    }

    /// Removes a device that is being unplugged: has its driver, if there is one, stopped; takes the device out of its group and away from
    /// `unit`, which is its IOMMU.
    ///
    /// # Errors
    ///
    /// As [`HotRemoveError`] says.
    pub fn hot_remove(&self, unit: &IommuUnit<P>, stop: impl FnOnce(D)) -> Result<(), HotRemoveError> {
        let bound = self.begin_unbind().map_err(|error| match error {
            UnbindError::Busy => HotRemoveError::Busy,
            UnbindError::Unbound | UnbindError::Gone => HotRemoveError::Gone,
        })?;
        let turn = Turn(self);
        if let Some(Bound { drives, dma, .. }) = bound {
            stop(drives);
            drop(dma);
        }
        if let Some(Place { device, group }) = self.place() {
            match group.remove_device(device) {
                // No member: an earlier try has come as far as that.
                Ok(()) | Err(GroupError::NotMember) => {}
                Err(error) => return Err(HotRemoveError::Group(error)),
            }
            unit.remove_device(device).map_err(HotRemoveError::Unit)?;
        }
        turn.end(Slot::Gone);
        Ok(())
    }
}

/// The right to change a slot. Dropped without an end, also because a driver panicked, it leaves the slot unbound.
struct Turn<'a, P: Platform, D>(&'a DriverBinding<P, D>);

impl<P: Platform, D> Turn<'_, P, D> {
    fn end(self, slot: Slot<P, D>) {
        *self.0.slot.lock() = slot;
        // The next turn may have begun already: this one must not end it.
        core::mem::forget(self);
    }
}

impl<P: Platform, D> Drop for Turn<'_, P, D> {
    fn drop(&mut self) {
        let mut slot = self.0.slot.lock();
        if matches!(*slot, Slot::Busy) {
            *slot = Slot::Unbound;
        }
    }
}
