//! Reserved memory, and addresses that devices may not use, or use already.
//!
//! Spec: Devicetree Specification 0.4, 3.5 "/reserved-memory Node"; binding reserved-memory/reserved-memory.yaml
//! (`iommu-addresses`).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_spec::pcie::Bdf;
use portcullis_types::{Iova, IovaRange, PaRange, Perms, Prot};

use crate::address::{bus_cells, cpu_ranges, to_root};
use crate::cells::Cells;
use crate::error::{FirmwareError, PropertyFault};
use crate::pci::ADDRESS_CELLS;
use crate::tree::{Node, Tree};

/// A piece of reserved memory, or (without memory) of reserved addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedMemory {
    /// Where firmware says it is: `/reserved-memory/framebuffer@80000000`.
    pub path: String,
    /// The memory; empty if it is for the operating system to choose, or if there is none.
    pub memory: Vec<PaRange>,
    /// Whether the CPU must not map the memory.
    pub no_map: bool,
    /// Which devices' addresses it concerns.
    pub addresses: Vec<IommuAddresses>,
}

/// Addresses of one device that are not for mapping at will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuAddresses {
    /// Whose addresses.
    pub device: DeviceRef,
    /// Which.
    pub range: IovaRange,
    /// Why.
    pub used: ReservedUse,
    /// How a region that is used directly is to be mapped; nothing is allowed for others.
    pub prot: Prot,
}

/// What addresses are reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservedUse {
    /// The device uses this memory already, by the same addresses: it must be mapped 1:1 before translation begins.
    Direct,
    /// The same, but it may be given up when a driver in user space takes the device.
    ///
    /// No device tree's binding has a word for it; IORT has one, and of DMAR's regions see [`Machine::place_functions`](crate::Machine::place_functions).
    DirectRelaxable,
    /// Nothing may be mapped there.
    ///
    /// Choice: addresses of a region that has memory elsewhere are also this. The binding asks for a mapping that is not 1:1;
    /// Linux 6.3 and later reserve the addresses instead (`iommu_resv_region_get_type`).
    Reserved,
}

/// A device that a part of the tree speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceRef {
    /// An index into [`Machine::devices`](crate::Machine::devices).
    Platform(usize),
    /// Every function of a host bridge: an index into [`Machine::pci_hosts`](crate::Machine::pci_hosts).
    PciHost(usize),
    /// One function of a host bridge.
    PciFunction {
        /// An index into [`Machine::pci_hosts`](crate::Machine::pci_hosts).
        host: usize,
        /// The function.
        function: Bdf,
    },
    /// One function behind a bridge, by the way to it, which is all that a tree says: bus numbers behind bridges are the embedder's choice. When he has found it,
    /// [`Machine::place_functions`](crate::Machine::place_functions) makes a [`PciFunction`](Self::PciFunction) of it.
    PciBehind {
        /// An index into [`Machine::pci_hosts`](crate::Machine::pci_hosts).
        host: usize,
        /// Device and function of each bridge on the way from the host bridge, and of itself.
        path: Vec<(u8, u8)>,
    },
    /// A node that is no device of this machine, by its path: one that is not to be used, for instance.
    Other(String),
}

/// Which node is which device.
pub(crate) type DeviceNodes = BTreeMap<usize, DeviceRef>;

/// All reserved memory.
pub(crate) fn read(tree: &Tree<'_>, devices: &DeviceNodes) -> Result<Vec<ReservedMemory>, FirmwareError> {
    let is_region = |node: &Node<'_, '_>| {
        let parent = node.parent();
        parent
            .is_some_and(|node| node.base_name() == dt::RESERVED_MEMORY && node.parent() == Some(tree.root()))
    };
    let mut regions = Vec::new();
    for node in tree.nodes().filter(is_region) {
        if node.is_enabled()? {
            regions.push(region(node, devices)?);
        }
    }
    Ok(regions)
}

fn region(node: Node<'_, '_>, devices: &DeviceNodes) -> Result<ReservedMemory, FirmwareError> {
    let memory = cpu_ranges(node)?;
    if memory.is_empty() && node.property(dt::REG).is_some() {
        let parent = node.parent().unwrap_or(node);
        return Err(parent.fault(dt::RANGES, PropertyFault::Missing));
    }
    let addresses = match node.cells(dt::IOMMU_ADDRESSES)? {
        Some(cells) => addresses(node, cells, &memory, devices)?,
        None => Vec::new(),
    };
    Ok(ReservedMemory { path: node.path(), memory, no_map: node.flag(dt::NO_MAP)?, addresses })
}

fn addresses(
    node: Node<'_, '_>,
    mut cells: Cells<'_, '_>,
    memory: &[PaRange],
    devices: &DeviceNodes,
) -> Result<Vec<IommuAddresses>, FirmwareError> {
    cells.whole_entries(1)?;
    let mut addresses = Vec::new();
    while !cells.is_empty() {
        let phandle = cells.u32()?;
        let target = node.tree().by_phandle(phandle);
        let target = target.ok_or_else(|| cells.fault(PropertyFault::NoSuchPhandle(phandle)))?;
        let range = device_range(target, phandle, &mut cells)?;
        let is_same = |memory: &PaRange| {
            (memory.first().get(), memory.last().get()) == (range.first().get(), range.last().get())
        };
        let used = if memory.iter().any(is_same) { ReservedUse::Direct } else { ReservedUse::Reserved };
        let device = devices.get(&target.index()).cloned().unwrap_or_else(|| DeviceRef::Other(target.path()));
        let prot = match used {
            // Choice: no binding says how; devices that firmware uses are mostly coherent, and mapped so nothing of theirs is lost.
            ReservedUse::Direct | ReservedUse::DirectRelaxable => Prot::cached(Perms::READ_WRITE),
            ReservedUse::Reserved => Prot::default(),
        };
        addresses.push(IommuAddresses { device, range, used, prot });
    }
    Ok(addresses)
}

/// An address and a size, as the bus that the device is on writes them.
///
/// Choice: the binding says "the values of the #address-cells and #size-cells properties of the device", which for a device with
/// a bus of its own could be read as that bus; Linux (`of_translate_dma_region`) takes the bus that the device is on, and so do we.
fn device_range(
    device: Node<'_, '_>,
    phandle: u32,
    cells: &mut Cells<'_, '_>,
) -> Result<IovaRange, FirmwareError> {
    let bus = device.parent().ok_or_else(|| cells.fault(PropertyFault::WrongNode(phandle)))?;
    let width = bus_cells(bus)?;
    let on_pci = width.address == ADDRESS_CELLS;
    if on_pci {
        cells.u32()?;
    }
    let first = cells.number(if on_pci { 2 } else { width.address })?;
    let size = cells.number(width.size)?;
    let first = if on_pci { first } else { to_root(bus, dt::DMA_RANGES, first, size)?.unwrap_or(first) };
    let fault = if size == 0 { PropertyFault::Value(0) } else { PropertyFault::TooLarge };
    IovaRange::new(Iova::new(first), size).ok_or_else(|| cells.fault(fault))
}
