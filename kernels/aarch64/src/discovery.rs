//! From the device tree to groups of devices: what a kernel does with Portcullis at start, in its order.
//!
//! 1. Each SMMU is brought up. From then on everything behind it is blocked.
//! 2. Its interrupts get handlers.
//! 3. PCI is enumerated. No function may send requests yet.
//! 4. Every function is made known to the SMMU that is in front of it, and put into its group, which has a domain for the DMA API.
//!
//! Only then may a driver let its device be a bus master (`disk`). A function that no IOMMU covers is not used.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::bus::Place;
use portcullis_core::device::DeviceInfo;
use portcullis_core::domain::FlushMode;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::sva::CpuFacts;
use portcullis_core::unit::IommuUnit;
use portcullis_firmware::{
    GicInterrupt, InterruptController, IommuKind, IommuNode, Machine, MsiControllerKind, PciConfig, PciHost,
    Translation,
};
use portcullis_pci::{self as pci, Bdf, Ecam, HostBridge, Space, Topology};
use portcullis_smmuv3::{Config, Smmu};
use portcullis_types::{Iova, IovaRange, PaRange, SizeLg2, SourceId};

use crate::cpu;
use crate::error::{Wrong, doing, ensure};
use crate::gic::Gic;
use crate::irq::Interrupts;
use crate::its::Its;
use crate::mmio::Window;
use crate::mmu;
use crate::platform::Metal;
use crate::timer;
use crate::uart::println;

/// The machine, as it was found.
pub(crate) struct System {
    pub(crate) platform: Arc<Metal>,
    pub(crate) interrupts: Interrupts,
    pub(crate) smmus: Vec<SmmuUnit>,
    pub(crate) bridges: Vec<Bridge>,
    firmware: Machine,
}

/// An SMMU that is up.
pub(crate) struct SmmuUnit {
    /// Its index in the firmware's list.
    index: usize,
    pub(crate) driver: Arc<Smmu<Metal, Window>>,
    pub(crate) unit: Arc<IommuUnit<Metal>>,
    wires: Vec<GicInterrupt>,
}

/// A PCI host bridge and what is below it.
pub(crate) struct Bridge {
    pub(crate) config: Ecam<Window>,
    pub(crate) topology: Topology,
    pub(crate) functions: Vec<Endpoint>,
}

/// A function that can do DMA through an IOMMU.
pub(crate) struct Endpoint {
    /// Its index in the topology.
    pub(crate) function: usize,
    pub(crate) place: Place<Metal>,
    /// As whom the ITS knows it.
    pub(crate) message_id: u32,
}

impl System {
    /// Finds everything that `firmware` tells of.
    pub(crate) fn discover(firmware: Machine) -> Result<Self, Wrong> {
        let interrupts = start_interrupts(&firmware)?;
        let mut system =
            Self { platform: Arc::new(Metal), interrupts, smmus: Vec::new(), bridges: Vec::new(), firmware };
        for index in 0..system.firmware.iommus.len() {
            if let Some(smmu) = system.bring_up(index)? {
                system.smmus.push(smmu);
            }
        }
        system.look_again();
        for index in 0..system.firmware.pci_hosts.len() {
            let bridge = system.enumerate(index)?;
            system.bridges.push(bridge);
        }
        Ok(system)
    }

    /// Brings up an IOMMU; none for one that firmware has switched off.
    fn bring_up(&self, index: usize) -> Result<Option<SmmuUnit>, Wrong> {
        let node = &self.firmware.iommus[index];
        if !node.enabled {
            return Ok(None);
        }
        ensure!(node.kind == IommuKind::SmmuV3, "{} is no SMMUv3", node.path);
        let frame =
            *node.registers.first().ok_or_else(|| Wrong(format!("{} has no registers", node.path)))?;
        map_device(frame)?;
        let mut config = Config::new(node.path.clone());
        config.coherent = node.dma_coherent;
        let mut cpus = CpuFacts::new(SizeLg2::KIB_4);
        cpus.output_bits = cpu::physical_bits();
        config.cpus = Some(cpus);
        // A device that goes wrong does so often: QEMU's disk makes 129 events of one block.
        config.event_queue_lg2 = 10;
        let driver = Smmu::probe(self.platform.clone(), Window::new(frame), config)
            .map_err(doing("probing the SMMU"))?;
        let unit = Arc::new(IommuUnit::new(self.platform.clone(), driver.clone()));
        let wires = self.connect(node, &unit);
        let features = driver.features();
        println!(
            "smmu {}: v3.{}, {} stream bits, {} address bits, {} interrupts",
            node.path,
            features.version_minor,
            features.stream_bits,
            features.input_bits,
            wires.len()
        );
        Ok(Some(SmmuUnit { index, driver, unit, wires }))
    }

    /// Has the SMMU's interrupts handled as they come: events go to the devices' domains, errors are repaired.
    fn connect(&self, node: &IommuNode, unit: &Arc<IommuUnit<Metal>>) -> Vec<GicInterrupt> {
        let wire = |name| node.interrupt(name).and_then(|interrupt| interrupt.gic());
        let (events, errors) = (unit.clone(), unit.clone());
        let handlers: [(_, Box<dyn Fn() + Send + Sync>); 2] = [
            (wire("eventq"), Box::new(move || take_events(core::slice::from_ref(&events)))),
            (
                wire("gerror"),
                Box::new(move || {
                    errors.handle_errors().iter().for_each(|error| println!("smmu error: {error:?}"))
                }),
            ),
        ];
        let mut wires = Vec::new();
        for (wire, handler) in handlers {
            if let Some(wire) = wire {
                self.interrupts.wire(wire.intid, wire.edge, handler);
                wires.push(wire);
            }
        }
        wires
    }

    /// Has each SMMU looked at again when an alarm comes.
    fn look_again(&self) {
        let units: Vec<_> = self.smmus.iter().map(|smmu| smmu.unit.clone()).collect();
        self.interrupts.alarm(Box::new(move || take_events(&units)));
    }

    /// Enumerates what is below a host bridge, and puts every function that an IOMMU covers into its group.
    fn enumerate(&self, index: usize) -> Result<Bridge, Wrong> {
        let host = &self.firmware.pci_hosts[index];
        let PciConfig::Ecam(space) = host.config else {
            return Err(Wrong(format!("{} has no ECAM", host.path)));
        };
        map_device(space)?;
        let config = Ecam::new(Window::new(space), host.buses.clone());
        let bridge = HostBridge {
            segment: host.segment,
            buses: host.buses.clone(),
            windows: host.windows.clone(),
            segment_bytes: 1,
        };
        let topology = pci::enumerate(&config, &bridge);
        let mut functions = Vec::new();
        for (id, members) in topology.groups().into_iter().enumerate() {
            let ids = topology.distinct_ids(&members);
            let group = GroupMaker { system: self, host, topology: &topology, id };
            functions.extend(group.fill(&members, &ids)?);
        }
        println!(
            "pci {}: {} functions, {} behind an IOMMU",
            host.path,
            topology.functions.len(),
            functions.len()
        );
        Ok(Bridge { config, topology, functions })
    }

    /// Lets go of everything, and switches the SMMUs off, closed. What is behind them is aborted from then on.
    pub(crate) fn shut_down(self) -> Result<(), Wrong> {
        for bridge in self.bridges {
            for Endpoint { function, place: Place { device, group }, .. } in bridge.functions {
                bridge.topology.disable_bus_master(&bridge.config, function);
                group.remove_device(&device).map_err(doing("taking a device out of its group"))?;
                let behind = self.smmus.iter().find(|smmu| Arc::ptr_eq(device.iommu(), smmu.unit.iommu()));
                behind
                    .map_or(Ok(()), |smmu| smmu.unit.remove_device(&device))
                    .map_err(doing("removing a device"))?;
            }
        }
        let wires = self.smmus.iter().flat_map(|smmu| &smmu.wires);
        wires.for_each(|wire| self.interrupts.unwire(wire.intid));
        // Nobody sets it any more.
        timer::stop_alarm();
        self.interrupts.unwire(timer::ALARM);
        for smmu in self.smmus {
            let errors = smmu.unit.handle_errors();
            ensure!(errors.is_empty(), "the SMMU reports {errors:?}");
            smmu.driver.teardown().map_err(doing("switching the SMMU off"))?;
        }
        Ok(())
    }
}

/// How long after events it is looked whether there are more.
const SOON_NS: u64 = 1_000_000;

/// Gives the devices' domains what their SMMUs tell of, and looks again soon if there was anything: an SMMU interrupts for a queue that was empty, and one that is
/// flooded may not be when a call has taken as much as one takes. The rest is the alarm's, so that between two pieces of a flood the CPU does other work.
fn take_events(units: &[Arc<IommuUnit<Metal>>]) {
    let found = units.iter().map(|unit| unit.dispatch_faults()).sum::<usize>();
    if found > 0 {
        timer::set_alarm(SOON_NS);
    }
}

/// Brings up the GIC and its ITS.
fn start_interrupts(firmware: &Machine) -> Result<Interrupts, Wrong> {
    let absent = || Wrong("firmware tells of no GICv3 with an ITS".into());
    let InterruptController { registers, .. } = firmware.interrupt_controllers.first().ok_or_else(absent)?;
    let [distributor, redistributors] = *registers.first_chunk().ok_or_else(absent)?;
    let is_its = |kind| kind == MsiControllerKind::Its;
    let its =
        firmware.msi_controllers.iter().find(|node| node.enabled && is_its(node.kind)).ok_or_else(absent)?;
    let (frame, doorbell) = its.registers.first().copied().zip(its.doorbell()).ok_or_else(absent)?;
    [distributor, redistributors, frame].into_iter().try_for_each(map_device)?;
    let gic = Gic::start(distributor, redistributors).map_err(doing("bringing up the GIC"))?;
    let its = Its::start(frame, &gic).map_err(doing("bringing up the ITS"))?;
    cpu::open_interrupts();
    println!("interrupts: GICv3, messages to {doorbell}");
    Ok(Interrupts::new(gic, its, doorbell))
}

fn map_device(range: PaRange) -> Result<(), Wrong> {
    mmu::map_device(range).map_err(doing("mapping a device's registers"))
}

/// Makes the group of functions that cannot be kept apart.
struct GroupMaker<'a> {
    system: &'a System,
    host: &'a PciHost,
    topology: &'a Topology,
    id: usize,
}

impl<'a> GroupMaker<'a> {
    /// `ids` are, for each member, the requester ids that are its own.
    fn fill(&self, members: &[usize], ids: &[Vec<Bdf>]) -> Result<Vec<Endpoint>, Wrong> {
        let mut group: Option<Arc<Group<Metal>>> = None;
        let mut endpoints = Vec::new();
        for (&function, ids) in members.iter().zip(ids) {
            let Some((smmu, sources)) = self.covering(ids) else { continue };
            let group = match &group {
                Some(group) => group.clone(),
                None => group.insert(self.new_group(smmu)?).clone(),
            };
            ensure!(Arc::ptr_eq(group.iommu(), smmu.unit.iommu()), "a group lies behind two IOMMUs");
            let device =
                smmu.unit.add_device(self.info(function, &sources)).map_err(doing("adding a device"))?;
            group.add_device(&device).map_err(doing("adding a device to its group"))?;
            let at = self.topology.functions[function].at;
            let message_id = self.host.msi_target(at).and_then(|target| target.device_id);
            let message_id = message_id.unwrap_or_else(|| at.requester_id().into());
            endpoints.push(Endpoint { function, place: Place { device, group }, message_id });
        }
        Ok(endpoints)
    }

    /// The SMMU in front of whoever has these ids, and who that is there. None if any of them is not covered: then it is not used at all.
    fn covering(&self, ids: &[Bdf]) -> Option<(&'a SmmuUnit, Vec<SourceId>)> {
        let mut sources = Vec::new();
        let mut covering = None;
        for &id in ids {
            let Translation::Behind { iommu, source } = self.host.translation(id) else { return None };
            sources.push(source);
            let smmu = self.system.smmus.iter().find(|smmu| smmu.index == iommu)?;
            covering =
                Some(smmu).filter(|smmu| covering.is_none_or(|other: &SmmuUnit| other.index == smmu.index));
            covering?;
        }
        Some((covering?, sources))
    }

    fn new_group(&self, smmu: &SmmuUnit) -> Result<Arc<Group<Metal>>, Wrong> {
        let (platform, iommu) = (self.system.platform.clone(), smmu.unit.iommu().clone());
        let id = u32::try_from(self.id).unwrap_or(u32::MAX);
        let group = Group::new(platform, iommu, id, DefaultDomain::Dma(FlushMode::Strict));
        Ok(Arc::new(group.map_err(doing("making a group"))?))
    }

    /// What the bus and firmware know of a function.
    fn info(&self, function: usize, sources: &[SourceId]) -> DeviceInfo {
        let name = format!("{}", self.topology.name(self.topology.functions[function].at));
        let mut info = DeviceInfo::new(&name, sources);
        info.pci = true;
        info.coherent = self.host.dma_coherent;
        info.isolated_interrupts = true;
        let memory = self.host.windows.iter().filter(|window| window.space != Space::Io);
        info.bridge_windows = memory
            .filter_map(|window| IovaRange::new(Iova::new(window.bus_first), window.size_bytes))
            .collect();
        info
    }
}
