//! `vfio-pci`: the driver that hands PCI functions to user space.
//!
//! It manages DMA itself: bound, it stands in no user's way, and no group is the kernel's because of it.

use std::sync::Arc;

use portcullis::core::bus::{BindError, Driver};
use portcullis::hal::Registers;
use portcullis::pci::set_bus_master;
use portcullis::vfio::pci::{PciDevice, PciParts};
use portcullis::vfio::{Registered, Vfio};

use super::UserInterrupts;
use crate::boot::{Bound, Endpoint, HostBridge, Standing, System};
use crate::error::RunError;
use crate::platform::LabPlatform;

/// The driver's name.
pub const DRIVER: &str = "vfio-pci";

/// A function that users can have.
struct Handed(Registered<LabPlatform>);

impl Bound for Handed {
    /// Whoever has it open finds it gone, and it is stopped.
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        drop(self.0);
        Ok(())
    }
}

/// Binds the driver to a function.
///
/// # Errors
///
/// As [`BindError`] says; the driver's own is about what the function lacks.
pub fn bind(
    system: &System,
    vfio: &Vfio<LabPlatform>,
    interrupts: &Arc<UserInterrupts>,
    (host, endpoint): (&HostBridge, &Endpoint),
) -> Result<(), BindError<RunError>> {
    let name = &endpoint.name;
    let refused = |what: String| {
        RunError::refused(name, what, "choose another machine or device: see `portcullis machines`")
    };
    let probe = || -> Result<Box<dyn Bound>, RunError> {
        let place = endpoint.binding.place().ok_or_else(|| match endpoint.standing {
            Standing::Uncovered(why) => refused(format!("no IOMMU covers it: {why}")),
            Standing::Behind { .. } => refused("it has no place".into()),
        })?;
        let function = host.topology.functions[endpoint.function].clone();
        let bars = core::array::from_fn(|index| {
            let bar = u8::try_from(index).ok().and_then(|index| function.bar(index));
            let registers = system.platform.registers(bar?.cpu_range()?);
            Some(Arc::new(registers) as Arc<dyn Registers>)
        });
        // Requests pass the bridges above; whether the function sends any is its user's to say.
        for bridge in host.topology.bridges_above(endpoint.function) {
            set_bus_master(&*host.config, host.topology.functions[bridge].at, true);
        }
        let parts = PciParts {
            device: place.device.clone(),
            function,
            config: host.config.clone(),
            bars,
            interrupts: interrupts.clone(),
        };
        let device = PciDevice::new(system.platform.clone(), parts)
            .map_err(|fault| refused(format!("its MSI-X table: {fault:?}")))?;
        let registered = vfio
            .register(place, Arc::new(device))
            .map_err(|errno| refused(format!("it is not registered (errno {})", errno.code())))?;
        Ok(Box::new(Handed(registered)))
    };
    endpoint.binding.bind(Driver::managing_dma(DRIVER), || Ok(()), |_| probe())
}
