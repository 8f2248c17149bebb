//! Boot: from the firmware tables and nothing else to devices that drivers can be bound to.
//!
//! What a kernel that embeds Portcullis does at start, in its order: read the tables; bring up each IOMMU, so that everything
//! behind it is blocked; enumerate PCI; make known to its IOMMU every function and every other device, and put it into its group, attached to the group's DMA domain.
//! Only then may a driver let its device be a bus master.
//!
//! | file | what |
//! |---|---|
//! | `acpi` | where ACPI's tables are |
//! | `cpus` | what all CPUs can do, and the kernel's choices |
//! | `drivers` | drivers that are bound |
//! | `irq` | interrupts that are messages |
//! | `messages`, `presenter` | those of a PHB3 |
//! | `vectors` | those of a PC's CPUs |
//! | `sender` | as whom devices send those |
//! | `words` | those that are words of memory |
//! | `unit` | an IOMMU |
//! | `smmu`, `smmuv2`, `vtd`, `phb3` | what its kind needs |
//! | `slot` | how a PHB3's devices are reset |
//! | `pci` | what is below a host bridge |
//! | `fixed` | devices that firmware tells of |
//! | `sharing` | devices that get processes' memory |
//!
//! Not here: models (`machine`), drivers' work (`workload`).

pub mod acpi;
mod cpus;
mod drivers;
mod fixed;
mod irq;
mod messages;
mod pci;
mod phb3;
mod presenter;
mod sender;
mod sharing;
mod slot;
mod smmu;
mod smmuv2;
mod unit;
mod vectors;
mod vtd;
mod words;

use std::sync::Arc;

use model_bus::Bus;
use model_devices::apic::LocalApics;
use model_devices::its::Its;
use portcullis::core::device::Device;
use portcullis::core::domain::FlushMode;
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::AddDeviceError;
use portcullis::core::pasid::MmPasids;
use portcullis::firmware;
use portcullis::hal::Platform;
use portcullis::types::Pa;

pub use cpus::CpuSet;
pub use drivers::{Binding, Bound, unbind};
pub use fixed::FixedDevice;
pub use irq::{Interrupts, Line};
pub use messages::Messages;
pub use pci::{Endpoint, HostBridge};
pub use sharing::{Sharer, Why, why};
pub use unit::{Hardware, OwnLines, Unit};

use self::acpi::PcFacts;
use self::presenter::Presenter;
use self::vectors::FirstCpu;
use crate::error::RunError;
use crate::machine::Machine;
use crate::machine::qemu::Icp;
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
    /// Devices that are not PCI's and do DMA.
    pub fixed: Vec<FixedDevice>,
    /// The CPUs.
    pub cpus: CpuSet,
    /// The PASIDs of all processes.
    pub pasids: Arc<MmPasids<<LabPlatform as Platform>::Mutex>>,
    /// Interrupts that arrive as messages.
    pub interrupts: Arc<Interrupts>,
}

/// Whether a device can do DMA.
#[derive(Debug)]
pub enum Standing {
    /// Through an IOMMU.
    Behind {
        /// As its IOMMU and its group know it.
        device: Arc<Device<LabPlatform>>,
        /// Its group.
        group: Arc<Group<LabPlatform>>,
    },
    /// No IOMMU that is up covers it. It is not used: untranslated access is nothing that anybody gets by omission.
    Uncovered(&'static str),
}

/// What boots.
pub struct BootRequest<'a> {
    /// The machine's bus.
    pub bus: &'a Arc<Bus>,
    /// The machine's interrupt controllers, by the addresses of their registers.
    pub itses: Vec<(Pa, Arc<Its>)>,
    /// The machine's PHB3s, by the addresses of their registers.
    pub phbs: Vec<(Pa, Arc<model_ioda2::Phb3>)>,
    /// Who presents the interrupts of a PHB3 that is no model, by the address of its registers.
    pub icp: Option<(Pa, Icp)>,
    /// Whether messages are words of memory, where no model takes them.
    pub words: bool,
    /// Whether the kernel's devices may go around a PHB3's translation, by its window 1.
    pub bypass: bool,
    /// The machine's CPUs, and the kernel's page size.
    pub cpus: CpuSet,
    /// What firmware hands over: a flattened device tree, or the area with ACPI's tables.
    pub tables: &'a [u8],
    /// What firmware tells besides, where it has ACPI's tables.
    pub pc: Option<PcFacts>,
    /// A PC's local APICs, if they are a model.
    pub apics: Option<Arc<LocalApics>>,
    /// Where a PC's first CPU counts its interrupts, if it is no model.
    pub counters: Option<Pa>,
    /// Who hears what happens.
    pub sink: SharedSink,
    /// Who falsifies what the CPU does, in tests of the tests.
    pub tamper: Option<Arc<dyn Tamper>>,
    /// When unmapped addresses are flushed.
    pub mode: FlushMode,
}

impl<'a> BootRequest<'a> {
    /// For a machine of models: nobody falsifies, and unmapped addresses are flushed at once.
    pub fn new(machine: &'a Machine, tables: &'a [u8], sink: SharedSink) -> Self {
        Self {
            bus: &machine.bus,
            itses: machine.interrupt_controllers(),
            phbs: machine.bridges(),
            icp: machine.qemu.as_ref().and_then(|behind| behind.icp),
            words: machine.qemu.is_some(),
            bypass: false,
            cpus: CpuSet::new(machine.cpus.clone(), machine.spec.page),
            tables,
            pc: PcFacts::of(&machine.spec),
            apics: machine.apics.clone(),
            counters: machine.qemu.as_ref().and_then(|behind| behind.counters),
            sink,
            tamper: None,
            mode: FlushMode::Strict,
        }
    }
}

impl System {
    /// Boots.
    ///
    /// # Errors
    ///
    /// [`RunError::BadInput`]: the device tree is broken. [`RunError::Refused`]: it asks for what cannot be done here.
    /// [`RunError::Wrong`]: hardware did not do what it was told.
    pub fn boot(request: BootRequest<'_>) -> Result<Self, RunError> {
        let firmware = match &request.pc {
            Some(pc) => pc.machine(request.tables),
            None => firmware::Machine::from_fdt(request.tables).map_err(|error| {
                RunError::bad_input("device tree", error, "correct the tree, or name a built-in machine")
            })?,
        };
        let platform = Arc::new(LabPlatform::new(request.bus.clone(), request.sink, request.tamper));
        let words = request.words.then(|| Arc::new(words::MemoryWords::new(platform.clone())));
        let counting = |counters| FirstCpu::Counting(vectors::Counting::new(platform.clone(), counters));
        let first_cpu = request.apics.map(FirstCpu::Model).or_else(|| request.counters.map(counting));
        let interrupts = Arc::new(Interrupts::new(&firmware, request.itses, first_cpu, words));
        let cpu_facts = request.cpus.facts();
        let models = request.phbs.into_iter().map(|(at, model)| (at, Presenter::Model(model)));
        let others = request.icp.into_iter().map(|(at, icp)| (at, Presenter::Icp(icp)));
        let chip = phb3::Chip { bridges: models.chain(others).collect(), bypass: request.bypass };
        let mut system = Self {
            platform,
            firmware,
            units: Vec::new(),
            groups: Vec::new(),
            hosts: Vec::new(),
            fixed: Vec::new(),
            cpus: request.cpus,
            pasids: Arc::new(MmPasids::new()),
            interrupts,
        };
        // What ACPI's tables say of units' devices is known once those have been found.
        let mut found: Vec<Option<pci::Found>> = Vec::new();
        for index in 0..system.firmware.pci_hosts.len() {
            found.push(request.pc.as_ref().map(|_| pci::find(&mut system, index)));
        }
        for index in 0..system.firmware.iommus.len() {
            let unit = unit::bring_up(&system, cpu_facts, &chip, index)?;
            system.units.extend(unit);
        }
        for (index, early) in found.into_iter().enumerate() {
            let found = early.unwrap_or_else(|| pci::find(&mut system, index));
            let host = pci::bring_up(&system, index, found, request.mode)?;
            system.groups.extend(host.groups.iter().cloned());
            system.hosts.push(host);
        }
        system.remap_interrupts();
        for index in 0..system.firmware.devices.len() {
            let device = fixed::bring_up(&system, index, request.mode)?;
            system.groups.extend(device.as_ref().and_then(FixedDevice::group));
            system.fixed.extend(device);
        }
        Ok(system)
    }

    /// From now on interrupts of functions that a VT-d unit covers are what its table says.
    fn remap_interrupts(&self) {
        for (host, endpoint) in self.endpoints() {
            let Standing::Behind { device, .. } = &endpoint.standing else { continue };
            let Some(Hardware::Vtd(vtd)) = self.unit_of(device.iommu().name()).map(|unit| &unit.driver)
            else {
                continue;
            };
            if vtd.interrupts().is_some()
                && let Some(device_id) = endpoint.msi.and_then(|msi| msi.device_id)
                && let Some(sender) = sender::sender(&host.topology, endpoint.function)
            {
                self.interrupts.remap(device_id, vtd, sender);
            }
        }
    }

    /// A new group of devices behind an IOMMU, with a domain for the DMA API.
    fn new_group(&self, unit: &Unit, id: u32, mode: FlushMode) -> Result<Arc<Group<LabPlatform>>, RunError> {
        let iommu = unit.unit.iommu().clone();
        let group = Group::new(self.platform.clone(), iommu, id, DefaultDomain::Dma(mode));
        let group = group.map_err(|error| {
            let what = format!("no domain for a group: {error:?}");
            RunError::wrong(unit.name(), what, "give the machine more memory")
        })?;
        Ok(Arc::new(group))
    }

    /// The number of the next group.
    fn next_group_id(&self) -> u32 {
        self.groups.iter().map(|group| group.id() + 1).max().unwrap_or(0)
    }

    /// The IOMMU with this index in the firmware's list; none if it was not brought up.
    pub fn unit(&self, iommu: usize) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.index == iommu)
    }

    /// Reads the events of the IOMMUs, whether or not their interrupts came. Answers how many faults there were.
    pub fn service_iommus(&self) -> usize {
        self.units.iter().map(|unit| unit.service().faults).sum()
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
        let fixed = core::mem::take(&mut self.fixed).into_iter();
        let gone = fixed.map(|device| let_go(&self.units, &device.name, device.standing));
        let gone = gone.fold(Ok(()), Result::and);
        let hosts = core::mem::take(&mut self.hosts).into_iter();
        hosts.map(|host| pci::let_go(&self.units, host)).fold(gone, Result::and)
    }

    /// Lets go of every device and switches the IOMMUs off, closed: what is behind them is aborted from then on.
    ///
    /// # Errors
    ///
    /// As for [`detach`](Self::detach).
    pub fn shut_down(mut self) -> Result<(), RunError> {
        let detached = self.detach();
        drop(self.groups);
        let down = self.units.iter().map(|unit| unit.shut_down(&self.platform)).fold(detached, Result::and);
        self.interrupts.shut_down();
        down
    }
}

/// A device was not made known to its IOMMU: for whom that is to correct.
fn not_added(name: &str, error: &AddDeviceError) -> RunError {
    let lie = match error {
        AddDeviceError::OutOfRange { source, bits } => {
            format!("its id {source} is beyond the {bits} bits that its IOMMU tells apart")
        }
        AddDeviceError::Taken { source, by } => format!("its id {source} at its IOMMU is that of {by}"),
        _ => {
            let what = format!("it was not added: {error:?}");
            return RunError::wrong(name, what, "run with -v to see the SMMU's commands");
        }
    };
    RunError::bad_input(name, lie, "correct the tree, or name a built-in machine")
}

/// Takes a device out of its group and away from its IOMMU.
fn let_go(units: &[Unit], name: &str, standing: Standing) -> Result<(), RunError> {
    let Standing::Behind { device, group } = standing else { return Ok(()) };
    let wrong = |error: String| RunError::wrong(name, error, "run with -v to see the SMMU's commands");
    let unit = units.iter().find(|unit| unit.unit.iommu().name() == device.iommu().name());
    let left =
        group.remove_device(&device).map_err(|error| wrong(format!("it did not leave its group: {error:?}")));
    left.and_then(|()| match unit {
        Some(unit) => {
            unit.unit.remove_device(&device).map_err(|error| wrong(format!("it was not removed: {error:?}")))
        }
        None => Ok(()),
    })
}
