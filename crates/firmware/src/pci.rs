//! PCI host bridges.
//!
//! Spec: binding pci/host-generic-pci.yaml; binding pci/pci.txt; PCI Bus Binding to Open Firmware 2.1, 2.2.1.1 "Numerical
//! Representation", for addresses of three cells.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use portcullis_spec::dt::{self, pci_address};
use portcullis_spec::pcie::{Bdf, ECAM_BYTES_PER_BUS, HostWindow, Space};
use portcullis_types::{IovaRange, Pa, PaRange, SourceId};

use crate::address::{BusCells, bus_cells, dma_range, is_dma_coherent, required_cpu_ranges, to_root};
use crate::cells::Cells;
use crate::error::{FirmwareError, PropertyFault};
use crate::idmap::IdMap;
use crate::iommu::{Iommus, Translation};
use crate::msi::{MsiControllers, MsiTarget};
use crate::phb3::{self, Phb3Host};
use crate::tree::Node;

/// Cells of an address on a PCI bus.
pub(crate) const ADDRESS_CELLS: u32 = 3;

/// A PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciHost {
    /// Where firmware says it is: `/pcie@10000000`.
    pub path: String,
    /// The segment that names of its functions begin with. Of a bridge that does not say: its place among the bridges.
    pub segment: u16,
    /// The numbers of its buses. Fewer than `bus-range` says if the ECAM has no room for all.
    pub buses: RangeInclusive<u8>,
    /// How its configuration space is reached.
    pub config: PciConfig,
    /// What the CPU reaches through it.
    pub windows: Vec<HostWindow>,
    /// What its functions reach through it, as they say it and as it is beyond; none if nothing limits them.
    pub dma_ranges: Option<Vec<DmaRange>>,
    /// Whether accesses of its functions are coherent with the CPU's caches.
    pub dma_coherent: bool,
    /// Which of its functions are behind which IOMMU; none if none is.
    pub iommu_map: Option<IdMap>,
    /// Where messages of its functions go.
    pub msi: PciMsi,
    /// Whether it passes what ATS needs. Without that word of firmware's, no function below is to use ATS.
    pub ats_supported: bool,
    /// How many bits of PASID it passes on; none if firmware does not say.
    pub pasid_bits: Option<u8>,
    /// Functions whose translation requests it does not pass all the same.
    pub no_ats: Vec<Bdf>,
    /// Which of its ports lead out of the machine.
    pub external: ExternalPorts,
}

/// How the configuration space of a host bridge is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciConfig {
    /// By an ECAM: where it is, from the first bus on.
    Ecam(PaRange),
    /// By the registers of a PHB3.
    Phb3(Phb3Host),
}

/// Which ports of a host bridge lead out of the machine, so that everything below is what somebody plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalPorts {
    /// These, right below the host bridge; none if there are none.
    ///
    /// Choice: a port further down that leads out makes the port above it, right below the host bridge, one of these: bus numbers of firmware's
    /// need not be those of enumeration, and who trusts less than he could does no harm.
    Ports(Vec<Bdf>),
    /// All: firmware says so of the host bridge itself, or of a port below whose place cannot be known.
    All,
}

/// A stretch of addresses that devices can put on their bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRange {
    /// The addresses as devices say them.
    pub bus: IovaRange,
    /// What the first of them is beyond all buses: what an IOMMU translates, or what memory sees without one.
    pub cpu_first: Pa,
}

/// Where messages of the functions of a host bridge go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciMsi {
    /// Nowhere that firmware knows.
    None,
    /// All to one controller, with the requester id as device id. The index is into
    /// [`Machine::msi_controllers`](crate::Machine::msi_controllers).
    Parent(usize),
    /// As a map from requester ids says, whose targets are indexes into the same list.
    Map(IdMap),
}

impl PciHost {
    /// What happens to the DMA of a function.
    pub fn translation(&self, function: Bdf) -> Translation {
        match self.iommu_map.as_ref().map(|map| map.lookup(function)) {
            None => Translation::NoIommu,
            Some(None) => Translation::Uncovered,
            Some(Some((iommu, source))) => Translation::Behind { iommu, source: SourceId(source) },
        }
    }

    /// Whether translation requests of a function get through.
    pub fn passes_ats(&self, function: Bdf) -> bool {
        self.ats_supported && !self.no_ats.contains(&function)
    }

    /// Where messages of a function go; none if firmware does not say. A controller that does not tell devices apart ignores the
    /// device id.
    pub fn msi_target(&self, function: Bdf) -> Option<MsiTarget> {
        let (controller, device_id) = match &self.msi {
            PciMsi::None => return None,
            PciMsi::Parent(controller) => (*controller, function.requester_id().into()),
            PciMsi::Map(map) => map.lookup(function)?,
        };
        Some(MsiTarget { controller, device_id: Some(device_id) })
    }

    /// Reads a host bridge; none if the node is something else, or not to be used.
    pub(crate) fn read(
        node: Node<'_, '_>,
        place: u16,
        iommus: Iommus<'_>,
        controllers: MsiControllers<'_>,
    ) -> Result<Option<Self>, FirmwareError> {
        let Some(above) = node.parent() else { return Ok(None) };
        if phb3::is_one(node)? && node.is_enabled()? {
            let host = Phb3Host::read(node)?;
            let (Some(iommu), Some(controller)) = (iommus.at(&node.path()), controllers.at(&node.path()))
            else {
                return Ok(None);
            };
            let buses = bus_range(node)?;
            return Ok(Some(Self {
                path: node.path(),
                segment: host.segment,
                buses: buses.clone(),
                windows: PciCells::read(node, above)?.windows(node, above)?,
                dma_ranges: None,
                dma_coherent: true,
                iommu_map: Some(IdMap::same(iommu)),
                msi: PciMsi::Parent(controller),
                ats_supported: false,
                pasid_bits: None,
                no_ats: Vec::new(),
                external: external_ports(node, *buses.start())?,
                config: PciConfig::Phb3(host),
            }));
        }
        if !node.is_compatible(dt::PCI_HOST_ECAM_GENERIC)? || !node.is_enabled()? {
            return Ok(None);
        }
        let ecam = required_cpu_ranges(node)?[0];
        let cells = PciCells::read(node, above)?;
        let find_iommu = |phandle| iommus.find_for_map(node, phandle);
        let iommu_map = IdMap::read(node, dt::IOMMU_MAP, dt::IOMMU_MAP_MASK, find_iommu)?;
        let iommu_map = iommu_map.map(|map| iommus.in_own_words(node, map)).transpose()?;
        let buses = buses(node, ecam)?;
        Ok(Some(Self {
            path: node.path(),
            segment: segment(node)?.unwrap_or(place),
            buses: buses.clone(),
            config: PciConfig::Ecam(ecam),
            windows: cells.windows(node, above)?,
            dma_ranges: cells.dma_ranges(node)?,
            dma_coherent: is_dma_coherent(node)?,
            iommu_map,
            msi: msi(node, controllers)?,
            ats_supported: node.flag(dt::ATS_SUPPORTED)?,
            pasid_bits: None,
            no_ats: Vec::new(),
            external: external_ports(node, *buses.start())?,
        }))
    }
}

fn segment(node: Node<'_, '_>) -> Result<Option<u16>, FirmwareError> {
    let Some(segment) = node.u32(dt::LINUX_PCI_DOMAIN)? else { return Ok(None) };
    let fault = PropertyFault::Value(segment.into());
    u16::try_from(segment).map(Some).map_err(|_| node.fault(dt::LINUX_PCI_DOMAIN, fault))
}

fn bus_range(node: Node<'_, '_>) -> Result<RangeInclusive<u8>, FirmwareError> {
    let Some(mut cells) = node.cells(dt::BUS_RANGE)? else { return Ok(0..=0xff) };
    cells.exactly(2)?;
    let (first, last) = (cells.u32()?, cells.u32()?);
    let small = u8::try_from(first).ok().zip(u8::try_from(last).ok()).filter(|(a, b)| a <= b);
    let (first, last) = small.ok_or_else(|| node.fault(dt::BUS_RANGE, PropertyFault::Value(last.into())))?;
    Ok(first..=last)
}

/// Choice: an ECAM that has no room for all of `bus-range` ends the buses, as in Linux (`pci_ecam_create`). Functions beyond cannot be
/// found, so nobody attaches them to anything.
fn buses(node: Node<'_, '_>, ecam: PaRange) -> Result<RangeInclusive<u8>, FirmwareError> {
    let (first, last) = bus_range(node)?.into_inner();
    let room = ecam.len_bytes().map_or(u64::MAX, |len_bytes| len_bytes / ECAM_BYTES_PER_BUS);
    let Some(further) = room.checked_sub(1) else {
        let len_bytes = ecam.len_bytes().unwrap_or_default();
        return Err(node.fault(dt::REG, PropertyFault::Value(len_bytes)));
    };
    let last = u8::try_from(u64::from(first).saturating_add(further)).unwrap_or(u8::MAX).min(last);
    Ok(first..=last)
}

/// How entries of a host bridge's `ranges` and `dma-ranges` are written.
struct PciCells {
    own: BusCells,
    above: BusCells,
}

/// One such entry.
struct PciEntry {
    high: u32,
    bus: u64,
    above: u64,
    size: u64,
}

impl PciCells {
    fn read(node: Node<'_, '_>, above: Node<'_, '_>) -> Result<Self, FirmwareError> {
        let (own, above) = (bus_cells(node)?, bus_cells(above)?);
        let wanted = [(dt::ADDRESS_CELLS, own.address, ADDRESS_CELLS), (dt::SIZE_CELLS, own.size, 2)];
        for (name, cells, wanted) in wanted {
            if cells != wanted {
                return Err(node.fault(name, PropertyFault::Value(cells.into())));
            }
        }
        Ok(Self { own, above })
    }

    fn entries(&self, mut cells: Cells<'_, '_>) -> Result<Vec<PciEntry>, FirmwareError> {
        cells.whole_entries((self.own.address + self.above.address + self.own.size) as usize)?;
        let mut entries = Vec::new();
        while !cells.is_empty() {
            entries.push(PciEntry {
                high: cells.u32()?,
                bus: cells.number(2)?,
                above: cells.number(self.above.address)?,
                size: cells.number(self.own.size)?,
            });
        }
        Ok(entries)
    }

    fn windows(&self, node: Node<'_, '_>, above: Node<'_, '_>) -> Result<Vec<HostWindow>, FirmwareError> {
        let cells = node.cells(dt::RANGES)?.ok_or_else(|| node.fault(dt::RANGES, PropertyFault::Missing))?;
        let window = |entry: PciEntry| {
            let cpu = to_root(above, dt::RANGES, entry.above, entry.size)?;
            let cpu = cpu.ok_or_else(|| node.fault(dt::RANGES, PropertyFault::OutsideRanges(entry.above)))?;
            entry.window(Pa::new(cpu)).map_err(|fault| node.fault(dt::RANGES, fault))
        };
        self.entries(cells)?.into_iter().map(window).collect()
    }

    fn dma_ranges(&self, node: Node<'_, '_>) -> Result<Option<Vec<DmaRange>>, FirmwareError> {
        let Some(cells) = node.cells(dt::DMA_RANGES)?.filter(|cells| !cells.is_empty()) else {
            return Ok(None);
        };
        let range = |entry: PciEntry| match entry.high & pci_address::SPACE {
            pci_address::MEMORY_32 | pci_address::MEMORY_64 => {
                dma_range(node, entry.bus, entry.above, entry.size)
            }
            _ => Err(node.fault(dt::DMA_RANGES, PropertyFault::Value(entry.high.into()))),
        };
        self.entries(cells)?.into_iter().map(range).collect::<Result<_, _>>().map(Some)
    }
}

impl PciEntry {
    fn window(&self, cpu_first: Pa) -> Result<HostWindow, PropertyFault> {
        let (space, highest) = match self.high & pci_address::SPACE {
            pci_address::IO => (Space::Io, u64::from(u32::MAX)),
            pci_address::MEMORY_32 => (Space::Memory32, u64::from(u32::MAX)),
            pci_address::MEMORY_64 => (Space::Memory64, u64::MAX),
            _ => return Err(PropertyFault::Value(self.high.into())),
        };
        if self.size == 0 {
            return Err(PropertyFault::Value(0));
        }
        let bus_last = self.bus.checked_add(self.size - 1).filter(|&last| last <= highest);
        if bus_last.is_none() || PaRange::new(cpu_first, self.size).is_none() {
            return Err(PropertyFault::TooLarge);
        }
        let prefetchable = self.high & pci_address::PREFETCHABLE != 0;
        Ok(HostWindow { space, prefetchable, bus_first: self.bus, cpu_first, size_bytes: self.size })
    }
}

fn msi(node: Node<'_, '_>, controllers: MsiControllers<'_>) -> Result<PciMsi, FirmwareError> {
    let find = |phandle| controllers.find(node, phandle);
    if let Some(map) = IdMap::read(node, dt::MSI_MAP, dt::MSI_MAP_MASK, find)? {
        return Ok(PciMsi::Map(map));
    }
    let Some(mut cells) = node.cells(dt::MSI_PARENT)? else { return Ok(PciMsi::None) };
    let controller = find(cells.u32()?).map_err(|fault| cells.fault(fault))?;
    // The binding has no use for a specifier here: a requester id is its own device id. Some trees write a 0.
    if !cells.is_empty() {
        cells.exactly(1)?;
        let specifier = cells.u32()?;
        if specifier != 0 {
            return Err(cells.fault(PropertyFault::Value(specifier.into())));
        }
    }
    Ok(PciMsi::Parent(controller))
}

/// Disabled nodes count as well: what is plugged in asks nobody whether the port is to be used.
fn external_ports(host: Node<'_, '_>, first_bus: u8) -> Result<ExternalPorts, FirmwareError> {
    let mut ports = Vec::new();
    for node in
        host.tree().nodes().filter(|node| *node == host || node.ancestors().any(|above| above == host))
    {
        if !node.flag(dt::EXTERNAL_FACING)? {
            continue;
        }
        let top = core::iter::once(node).chain(node.ancestors()).find(|node| node.parent() == Some(host));
        match top.map(|top| child_function(top, first_bus)).transpose()?.flatten() {
            Some(port) if !ports.contains(&port) => ports.push(port),
            Some(_) => {}
            None => return Ok(ExternalPorts::All),
        }
    }
    Ok(ExternalPorts::Ports(ports))
}

/// Which function a node right below a host bridge stands for; none if it has no `reg`.
///
/// Choice: it is on the first bus, where the book has it, whatever bus the node says. Observed: Linux 6.x, `of_pci_get_devfn`, looks at device and function alone, so that
/// nothing keeps a tree from saying 0.
pub(crate) fn child_function(node: Node<'_, '_>, first_bus: u8) -> Result<Option<Bdf>, FirmwareError> {
    let Some(mut cells) = node.cells(dt::REG)? else { return Ok(None) };
    let high = cells.u32()?;
    let function =
        function_on(first_bus, high).ok_or_else(|| cells.fault(PropertyFault::Value(high.into())))?;
    Ok(Some(function))
}

/// Which function of a bus the first cell of a node's `reg` names; none if it is no address of configuration space.
fn function_on(bus: u8, high: u32) -> Option<Bdf> {
    let [_, _, devfn, _] = high.to_be_bytes();
    let is_function = high & pci_address::SPACE == pci_address::CONFIGURATION;
    is_function.then(|| Bdf::from_requester_id(u16::from_be_bytes([bus, devfn])))
}

/// Device and function of a node below a bridge of PCI's. None if it stands for no function there: behind a function there may be other buses than PCI's.
pub(crate) fn function_behind(node: Node<'_, '_>) -> Option<(u8, u8)> {
    let on_pci = bus_cells(node.parent()?).is_ok_and(|cells| cells.address == ADDRESS_CELLS);
    let high = node.cells(dt::REG).ok()??.u32().ok()?;
    // Which number its bus has is known when it has been found.
    let at = function_on(0, high).filter(|_| on_pci)?;
    Some((at.device(), at.function()))
}
