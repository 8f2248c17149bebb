//! A machine, as firmware describes it; here from a device tree, in `acpi` from ACPI's tables.

use alloc::collections::btree_map::Entry;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Pa, PaRange};

use crate::acpi::dmar::{DmarError, Remapping};
use crate::acpi::iort::IortError;
use crate::acpi::{AcpiFault, FoundFunction, Streams};
use crate::address::reg;
use crate::blob::Blob;
use crate::device::PlatformDevice;
use crate::error::{FirmwareError, PropertyFault};
use crate::interrupt::InterruptController;
use crate::iommu::{IommuNode, Iommus};
use crate::meaningless::{self, Meaningless, WhyMeaningless};
use crate::msi::{MsiController, MsiControllers};
use crate::pci::{PciHost, child_function, function_behind};
use crate::reserved::{self, DeviceNodes, DeviceRef, IommuAddresses, ReservedMemory};
use crate::tree::{Node, Tree};

/// A machine, as firmware describes it. Lists are in firmware's order, and others refer to their members by index.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Machine {
    /// What it is called; empty if firmware does not say.
    pub model: String,
    /// Which bindings it follows, the most specific first.
    pub compatible: Vec<String>,
    /// Its memory.
    pub memory: Vec<PaRange>,
    /// Memory that the blob's own reservation block keeps for firmware.
    pub reservations: Vec<PaRange>,
    /// Memory and device addresses with a purpose.
    pub reserved_memory: Vec<ReservedMemory>,
    /// Its IOMMUs.
    pub iommus: Vec<IommuNode>,
    /// What takes its message-signalled interrupts.
    pub msi_controllers: Vec<MsiController>,
    /// What takes its wired interrupts, as far as the kind is known here.
    pub interrupt_controllers: Vec<InterruptController>,
    /// Its PCI host bridges.
    pub pci_hosts: Vec<PciHost>,
    /// Its other devices.
    pub devices: Vec<PlatformDevice>,
    /// What does DMA, or decides about it, by a binding that is not known here. Nothing is known about what that does.
    pub unsupported: Vec<Unsupported>,
    /// Properties that are not heeded because they mean nothing where they are.
    pub meaningless: Vec<Meaningless>,
    /// What is wrong with ACPI's tables, and what they leave uncovered.
    pub acpi_faults: Vec<AcpiFault>,
    /// What DMAR says, for functions that are yet to be found.
    pub(crate) remapping: Option<Remapping>,
    /// Why there is a DMAR that says nothing.
    pub(crate) unreadable: Option<DmarError>,
    /// What IORT says, or why it says nothing.
    pub(crate) streams: Option<Result<Streams, IortError>>,
}

/// A part of a machine that is not understood here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where firmware says it is.
    pub path: String,
    /// Which bindings it follows.
    pub compatible: Vec<String>,
}

impl Machine {
    /// The machine that a flattened device tree describes. `blob` may be longer than the tree.
    ///
    /// # Errors
    ///
    /// The blob is broken, or a property does not say what its binding demands: see [`FirmwareError`].
    pub fn from_fdt(blob: &[u8]) -> Result<Self, FirmwareError> {
        let tree = Tree::new(Blob::read(blob)?)?;
        let mut machine = Self {
            model: text(tree.root(), dt::MODEL)?,
            compatible: compatible(tree.root())?,
            memory: memory(&tree)?,
            reservations: tree.reservations().to_vec(),
            ..Self::default()
        };
        let mut known = DeviceNodes::new();
        machine.read_controllers(&tree, &mut known)?;
        machine.read_hosts(&tree, &mut known)?;
        machine.read_devices(&tree, &mut known)?;
        machine.reserved_memory = reserved::read(&tree, &known)?;
        Ok(machine)
    }

    /// Addresses that are reserved for one device, and the piece of reserved memory that says so. For a PCI function, those of its
    /// host bridge are among them.
    pub fn reserved_for(
        &self,
        device: &DeviceRef,
    ) -> impl Iterator<Item = (&ReservedMemory, &IommuAddresses)> {
        let concerns = move |of: &DeviceRef| match (of, device) {
            (DeviceRef::PciHost(of), DeviceRef::PciFunction { host, .. }) => of == host,
            (of, device) => of == device,
        };
        self.reserved_memory
            .iter()
            .flat_map(|memory| memory.addresses.iter().map(move |addresses| (memory, addresses)))
            .filter(move |(_, addresses)| concerns(&addresses.device))
    }

    /// What a device tree says of functions behind bridges is these functions', now that they have been found.
    pub(crate) fn place_behind_bridges(&mut self, host: usize, found: &[FoundFunction]) {
        for addresses in self.reserved_memory.iter_mut().flat_map(|memory| &mut memory.addresses) {
            let DeviceRef::PciBehind { host: own, path } = &addresses.device else { continue };
            let function = found.iter().find(|one| *own == host && one.path == *path);
            if let Some(function) = function.map(|one| one.at) {
                addresses.device = DeviceRef::PciFunction { host, function };
            }
        }
    }

    /// A function of a host bridge, as [`reserved_for`](Self::reserved_for) takes it.
    pub fn pci_function(host: usize, function: Bdf) -> DeviceRef {
        DeviceRef::PciFunction { host, function }
    }

    /// MSI controllers first: IOMMUs refer to them.
    fn read_controllers(&mut self, tree: &Tree<'_>, known: &mut DeviceNodes) -> Result<(), FirmwareError> {
        for node in tree.nodes() {
            if let Some(controller) = MsiController::read(node)? {
                known.insert(node.index(), DeviceRef::Other(node.path()));
                self.msi_controllers.push(controller);
            }
            if let Some(controller) = InterruptController::read(node)? {
                known.insert(node.index(), DeviceRef::Other(node.path()));
                self.interrupt_controllers.push(controller);
            }
        }
        for node in tree.nodes() {
            if let Some(iommu) = IommuNode::read(node, MsiControllers(&self.msi_controllers))? {
                known.insert(node.index(), DeviceRef::Other(node.path()));
                self.iommus.push(iommu);
            }
        }
        Ok(())
    }

    fn read_hosts(&mut self, tree: &Tree<'_>, known: &mut DeviceNodes) -> Result<(), FirmwareError> {
        for node in tree.nodes() {
            let place = u16::try_from(self.pci_hosts.len()).unwrap_or(u16::MAX);
            let (iommus, controllers) = (Iommus(&self.iommus), MsiControllers(&self.msi_controllers));
            if let Some(host) = PciHost::read(node, place, iommus, controllers)? {
                self.meaningless.extend(meaningless::of(node, WhyMeaningless::Pci));
                self.add_segment(node, host.segment)?;
                known.insert(node.index(), DeviceRef::PciHost(self.pci_hosts.len()));
                self.pci_hosts.push(host);
            } else if is_unknown_master(node)? {
                known.insert(node.index(), DeviceRef::Other(node.path()));
                self.unsupported.push(Unsupported { path: node.path(), compatible: compatible(node)? });
            }
        }
        Ok(())
    }

    /// Two bridges with one segment would give two functions one name.
    fn add_segment(&self, node: Node<'_, '_>, segment: u16) -> Result<(), FirmwareError> {
        if self.pci_hosts.iter().any(|host| host.segment == segment) {
            let fault = PropertyFault::Overlap(segment.into());
            return Err(node.fault(dt::LINUX_PCI_DOMAIN, fault));
        }
        Ok(())
    }

    fn read_devices(&mut self, tree: &Tree<'_>, known: &mut DeviceNodes) -> Result<(), FirmwareError> {
        for node in tree.nodes() {
            let pci_above = node.ancestors().find_map(|above| match known.get(&above.index()) {
                Some(DeviceRef::PciHost(host)) => Some((*host, above)),
                _ => None,
            });
            if let Some((host, above)) = pci_above {
                self.meaningless.extend(meaningless::of(node, WhyMeaningless::Pci));
                let function = if node.parent() == Some(above) {
                    let first_bus = *self.pci_hosts[host].buses.start();
                    child_function(node, first_bus)?.map(|function| DeviceRef::PciFunction { host, function })
                } else {
                    behind(node, known)
                };
                function.into_iter().for_each(|function| _ = known.insert(node.index(), function));
            } else if let Entry::Vacant(entry) = known.entry(node.index()) {
                let (iommus, controllers) = (Iommus(&self.iommus), MsiControllers(&self.msi_controllers));
                if let Some(device) = PlatformDevice::read(node, iommus, controllers)? {
                    if device.streams.is_empty() {
                        self.meaningless.extend(meaningless::of(node, WhyMeaningless::NoIommu));
                    }
                    entry.insert(DeviceRef::Platform(self.devices.len()));
                    self.devices.push(device);
                }
            }
        }
        Ok(())
    }
}

/// A function behind a bridge that is known, parents being looked at before their children. None if the node stands for none.
fn behind(node: Node<'_, '_>, known: &DeviceNodes) -> Option<DeviceRef> {
    let (host, mut path) = match known.get(&node.parent()?.index())? {
        DeviceRef::PciFunction { host, function } => (*host, vec![(function.device(), function.function())]),
        DeviceRef::PciBehind { host, path } => (*host, path.clone()),
        _ => return None,
    };
    path.push(function_behind(node)?);
    Some(DeviceRef::PciBehind { host, path })
}

fn text(node: Node<'_, '_>, property: &'static str) -> Result<String, FirmwareError> {
    match node.texts(property)?.as_slice() {
        [] => Ok(String::new()),
        [text] => Ok(String::from(*text)),
        _ => Err(node.fault(property, PropertyFault::NotText)),
    }
}

fn compatible(node: Node<'_, '_>) -> Result<Vec<String>, FirmwareError> {
    Ok(node.texts(dt::COMPATIBLE)?.into_iter().map(String::from).collect())
}

/// Spec: Devicetree Specification 0.4, 3.4 "/memory node". Pieces of no bytes are nothing.
fn memory(tree: &Tree<'_>) -> Result<Vec<PaRange>, FirmwareError> {
    let mut ranges = Vec::new();
    for node in tree.nodes() {
        let is_memory = text(node, dt::DEVICE_TYPE)? == "memory" && node.parent() == Some(tree.root());
        if !is_memory || !node.is_enabled()? {
            continue;
        }
        for (first, size) in reg(node)?.into_iter().filter(|&(_, size)| size > 0) {
            let range = PaRange::new(Pa::new(first), size);
            ranges.push(range.ok_or_else(|| node.fault(dt::REG, PropertyFault::TooLarge))?);
        }
    }
    Ok(ranges)
}

/// Whether a node does DMA on behalf of others by a binding that is not known here: a PCI host bridge of its own kind, or
/// anything else with an `iommu-map`.
fn is_unknown_master(node: Node<'_, '_>) -> Result<bool, FirmwareError> {
    let is_pci = |node: Node<'_, '_>| Ok(text(node, dt::DEVICE_TYPE)? == "pci");
    let below_pci = match node.parent() {
        Some(parent) => is_pci(parent)?,
        None => false,
    };
    let is_host = is_pci(node)? && !below_pci;
    Ok((is_host || node.property(dt::IOMMU_MAP).is_some()) && node.is_enabled()?)
}
