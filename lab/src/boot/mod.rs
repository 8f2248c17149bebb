//! Boot: from the firmware tables and nothing else to devices that drivers can be bound to.
//!
//! What a kernel that embeds Portcullis does at start, in its order: read the tables; bring up each IOMMU, so that everything
//! behind it is blocked; enumerate PCI; make known to its IOMMU every function, and put it into its group, attached to the group's DMA domain.
//! Only then may a driver let its device be a bus master.
//!
//! Not here: models (`machine`), drivers' work (`workload`).

mod irq;
mod pci;
mod smmu;

use std::sync::Arc;

use model_bus::Bus;
use model_devices::its::Its;
use portcullis::core::group::Group;
use portcullis::firmware;

pub use irq::{Interrupts, Line};
pub use pci::{Endpoint, HostBridge, Standing};
pub use smmu::Unit;

use crate::error::RunError;
use crate::platform::{LabPlatform, Tamper};
use crate::trace::SharedSink;

/// A machine that has booted.
#[derive(Debug)]
pub struct System {
    /// The CPU.
    pub platform: Arc<LabPlatform>,
    /// What firmware says.
    pub firmware: firmware::Machine,
    /// The IOMMUs that were brought up, by their index in the firmware's list.
    pub units: Vec<Unit>,
    /// The groups.
    pub groups: Vec<Arc<Group<LabPlatform>>>,
    /// The PCI host bridges.
    pub hosts: Vec<HostBridge>,
    /// Interrupts that arrive as messages.
    pub interrupts: Arc<Interrupts>,
}

/// What boots.
pub struct BootRequest<'a> {
    /// The machine's bus.
    pub bus: &'a Arc<Bus>,
    /// The machine's interrupt controllers, by the addresses of their registers.
    pub itses: Vec<(portcullis::types::Pa, Arc<Its>)>,
    /// The flattened device tree.
    pub device_tree: &'a [u8],
    /// Who hears what happens.
    pub sink: SharedSink,
    /// Who falsifies what the CPU does, in tests of the tests.
    pub tamper: Option<Arc<dyn Tamper>>,
    /// When unmapped addresses are flushed.
    pub mode: portcullis::core::domain::FlushMode,
}

impl System {
    /// Boots.
    ///
    /// # Errors
    ///
    /// [`RunError::BadInput`]: the device tree is broken. [`RunError::Refused`]: it asks for what cannot be done here.
    /// [`RunError::Wrong`]: hardware did not do what it was told.
    pub fn boot(request: BootRequest<'_>) -> Result<Self, RunError> {
        let firmware = firmware::Machine::from_fdt(request.device_tree).map_err(|error| {
            RunError::bad_input("device tree", error, "correct the tree, or name a built-in machine")
        })?;
        let platform = Arc::new(LabPlatform::new(request.bus.clone(), request.sink, request.tamper));
        let interrupts = Arc::new(Interrupts::new(&firmware, request.itses));
        let mut system =
            Self { platform, firmware, units: Vec::new(), groups: Vec::new(), hosts: Vec::new(), interrupts };
        for index in 0..system.firmware.iommus.len() {
            let unit = smmu::bring_up(&system.platform, &system.firmware, index, &system.interrupts)?;
            system.units.extend(unit);
        }
        for index in 0..system.firmware.pci_hosts.len() {
            let host = pci::bring_up(&system, index, request.mode)?;
            system.groups.extend(host.groups.iter().cloned());
            system.hosts.push(host);
        }
        Ok(system)
    }

    /// The IOMMU with this index in the firmware's list; none if it was not brought up.
    pub fn unit(&self, iommu: usize) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.index == iommu)
    }

    /// Reads the events of the IOMMUs, whether or not their interrupts came. Answers how many faults there were.
    pub fn service_iommus(&self) -> usize {
        self.units.iter().map(Unit::service).sum()
    }

    /// Every endpoint, with its host bridge.
    pub fn endpoints(&self) -> impl Iterator<Item = (&HostBridge, &Endpoint)> {
        self.hosts.iter().flat_map(|host| host.endpoints.iter().map(move |endpoint| (host, endpoint)))
    }

    /// Lets go of every device: from then on its accesses are aborted. The groups stay, without devices. A second call does nothing.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: hardware did not confirm. The rest is done in spite of it, and the first error is answered.
    pub fn detach(&mut self) -> Result<(), RunError> {
        let hosts = core::mem::take(&mut self.hosts).into_iter();
        hosts.map(|host| pci::let_go(&self.units, host)).fold(Ok(()), Result::and)
    }

    /// Lets go of every device and switches the IOMMUs off, closed: what is behind them is aborted from then on.
    ///
    /// # Errors
    ///
    /// As for [`detach`](Self::detach).
    pub fn shut_down(mut self) -> Result<(), RunError> {
        let detached = self.detach();
        drop(self.groups);
        self.units.iter().map(Unit::shut_down).fold(detached, Result::and)
    }
}
