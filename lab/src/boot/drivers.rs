//! Drivers that are bound to devices.
//!
//! Each device of a bus has one place for a driver. Whoever binds one there, ordinary drivers that use the DMA API, drivers that hand
//! devices to user space, and those of bridges, goes through [`Binding`], so that a group never has both kinds of users.
//!
//! Not here: the drivers (`drivers`, `vfio`).

use portcullis::core::bus::DriverBinding;

use crate::error::RunError;
use crate::platform::LabPlatform;

/// A device's place for a driver.
pub type Binding = DriverBinding<LabPlatform, Box<dyn Bound>>;

/// A driver that is bound, as the bus knows it.
pub trait Bound: Send {
    /// Lets go of the device: no more DMA, no more interrupts.
    ///
    /// # Errors
    ///
    /// What went wrong. It has let go in spite of it.
    fn stop(self: Box<Self>) -> Result<(), RunError>;
}

/// The driver of a bridge or a port: it does no DMA.
#[derive(Debug)]
pub(super) struct Port;

impl Bound for Port {
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        Ok(())
    }
}

/// Unbinds whatever driver is bound.
///
/// # Errors
///
/// As [`Bound::stop`].
pub fn unbind(binding: &Binding) -> Result<(), RunError> {
    let mut stopped = Ok(());
    // That none is bound is fine.
    let _ = binding.unbind(|driver| stopped = driver.stop());
    stopped
}
