//! Addresses: what `reg` says, seen from the CPU; what DMA addresses are, seen from memory.
//!
//! A bus gives its children addresses of its own; `ranges` says what they are one level up, `dma-ranges` the same for the
//! addresses that children put on the bus.
//!
//! Spec: Devicetree Specification 0.4, 2.3.5 "#address-cells and #size-cells" to 2.3.9 "dma-ranges".

use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_types::{Iova, IovaRange, Pa, PaRange};

use crate::error::{FirmwareError, PropertyFault};
use crate::pci::DmaRange;
use crate::tree::Node;

/// More cells than this no address or size has.
const MAX_CELLS: u32 = 4;

/// How long addresses and sizes are on a bus, in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusCells {
    pub(crate) address: u32,
    pub(crate) size: u32,
}

impl BusCells {
    /// Cells of an entry of `reg`.
    fn entry(self) -> usize {
        (self.address + self.size) as usize
    }
}

/// How addresses of the children of `bus` are written.
pub(crate) fn bus_cells(bus: Node<'_, '_>) -> Result<BusCells, FirmwareError> {
    let get = |name, default| {
        let cells = bus.u32(name)?.unwrap_or(default);
        let fault = PropertyFault::Value(cells.into());
        if cells <= MAX_CELLS { Ok(cells) } else { Err(bus.fault(name, fault)) }
    };
    Ok(BusCells {
        address: get(dt::ADDRESS_CELLS, dt::DEFAULT_ADDRESS_CELLS)?,
        size: get(dt::SIZE_CELLS, dt::DEFAULT_SIZE_CELLS)?,
    })
}

/// The entries of a node's `reg`, as the bus that the node is on numbers them: address and size. None without `reg`.
pub(crate) fn reg(node: Node<'_, '_>) -> Result<Vec<(u64, u64)>, FirmwareError> {
    let (Some(bus), Some(mut cells)) = (node.parent(), node.cells(dt::REG)?) else { return Ok(Vec::new()) };
    let width = bus_cells(bus)?;
    cells.whole_entries(width.entry())?;
    let mut entries = Vec::new();
    while !cells.is_empty() {
        entries.push((cells.number(width.address)?, cells.number(width.size)?));
    }
    Ok(entries)
}

/// One entry of `ranges` or `dma-ranges` of a bus that is not PCI's.
#[derive(Clone, Copy, Debug)]
struct Window {
    child: u64,
    parent: u64,
    size: u64,
}

/// What `ranges` or `dma-ranges` says.
enum Windows {
    /// There is no such property.
    Absent,
    /// It is empty: addresses are the same on both sides.
    Same,
    Some(Vec<Window>),
}

fn windows(bus: Node<'_, '_>, property: &'static str) -> Result<Windows, FirmwareError> {
    let Some(mut cells) = bus.cells(property)? else { return Ok(Windows::Absent) };
    let Some(above) = bus.parent().filter(|_| !cells.is_empty()) else { return Ok(Windows::Same) };
    let (child, parent) = (bus_cells(bus)?, bus_cells(above)?);
    cells.whole_entries(child.entry() + parent.address as usize)?;
    let mut windows = Vec::new();
    while !cells.is_empty() {
        windows.push(Window {
            child: cells.number(child.address)?,
            parent: cells.number(parent.address)?,
            size: cells.number(child.size)?,
        });
    }
    Ok(Windows::Some(windows))
}

impl Window {
    /// What `first..=last` of the bus is one level up, if it lies in this window.
    fn up(self, first: u64, last: u64) -> Option<u64> {
        let offset = first.checked_sub(self.child)?;
        let end = last.checked_sub(self.child)?;
        if end >= self.size { None } else { self.parent.checked_add(offset) }
    }
}

/// What `size` bytes from `address` on `bus` are at the root, going up by `property`.
///
/// None if a bus on the way does not let its children's addresses through; only `ranges` can say so by its absence.
pub(crate) fn to_root(
    bus: Node<'_, '_>,
    property: &'static str,
    address: u64,
    size: u64,
) -> Result<Option<u64>, FirmwareError> {
    let mut first = address;
    for bus in core::iter::once(bus).chain(bus.ancestors()) {
        if bus.parent().is_none() {
            break;
        }
        let last = first.checked_add(size.saturating_sub(1));
        let last = last.ok_or_else(|| bus.fault(property, PropertyFault::TooLarge))?;
        match windows(bus, property)? {
            Windows::Absent if property == dt::RANGES => return Ok(None),
            Windows::Absent | Windows::Same => {}
            Windows::Some(windows) => {
                let up = windows.iter().find_map(|window| window.up(first, last));
                first = up.ok_or_else(|| bus.fault(property, PropertyFault::OutsideRanges(first)))?;
            }
        }
    }
    Ok(Some(first))
}

/// Where the CPU finds the registers or memory of a node: its `reg`, through the `ranges` above it.
///
/// Empty without `reg`, and if a bus above does not let addresses through: the CPU cannot reach such a device directly.
pub(crate) fn cpu_ranges(node: Node<'_, '_>) -> Result<Vec<PaRange>, FirmwareError> {
    let (Some(bus), entries) = (node.parent(), reg(node)?) else { return Ok(Vec::new()) };
    let mut ranges = Vec::new();
    for (address, size) in entries {
        let Some(first) = to_root(bus, dt::RANGES, address, size)? else { return Ok(Vec::new()) };
        let fault = if size == 0 { PropertyFault::Value(0) } else { PropertyFault::TooLarge };
        let range = PaRange::new(Pa::new(first), size);
        ranges.push(range.ok_or_else(|| node.fault(dt::REG, fault))?);
    }
    Ok(ranges)
}

/// As [`cpu_ranges`], for a node that must have at least one range.
pub(crate) fn required_cpu_ranges(node: Node<'_, '_>) -> Result<Vec<PaRange>, FirmwareError> {
    let ranges = cpu_ranges(node)?;
    if ranges.is_empty() { Err(node.fault(dt::REG, PropertyFault::Missing)) } else { Ok(ranges) }
}

/// One stretch of DMA addresses of `bus` as memory sees it.
pub(crate) fn dma_range(
    bus: Node<'_, '_>,
    first: u64,
    parent_first: u64,
    size: u64,
) -> Result<DmaRange, FirmwareError> {
    let fault = |fault| bus.fault(dt::DMA_RANGES, fault);
    let range = IovaRange::new(Iova::new(first), size);
    let range = range
        .ok_or_else(|| fault(if size == 0 { PropertyFault::Value(0) } else { PropertyFault::TooLarge }))?;
    let cpu = match bus.parent() {
        Some(above) => to_root(above, dt::DMA_RANGES, parent_first, size)?.unwrap_or(parent_first),
        None => parent_first,
    };
    let cpu_first = Pa::new(cpu);
    PaRange::new(cpu_first, size).ok_or_else(|| fault(PropertyFault::TooLarge))?;
    Ok(DmaRange { bus: range, cpu_first })
}

/// What a device on `bus` can reach: the nearest `dma-ranges` that says something. None if nothing limits it.
pub(crate) fn dma_ranges_from(bus: Node<'_, '_>) -> Result<Option<Vec<DmaRange>>, FirmwareError> {
    for bus in core::iter::once(bus).chain(bus.ancestors()) {
        if let Windows::Some(windows) = windows(bus, dt::DMA_RANGES)? {
            let range = |window: &Window| dma_range(bus, window.child, window.parent, window.size);
            return windows.iter().map(range).collect::<Result<_, _>>().map(Some);
        }
    }
    Ok(None)
}

/// Whether a device's accesses are coherent with the CPU's caches: the nearest word on it, its own or of a bus above.
///
/// Choice: Linux, too, lets a bus speak for its children (`of_dma_is_coherent`); a tree that says nothing means no.
pub(crate) fn is_dma_coherent(node: Node<'_, '_>) -> Result<bool, FirmwareError> {
    for node in core::iter::once(node).chain(node.ancestors()) {
        match (node.flag(dt::DMA_COHERENT)?, node.flag(dt::DMA_NONCOHERENT)?) {
            (true, true) => {
                return Err(node.fault(dt::DMA_COHERENT, PropertyFault::Contradicts(dt::DMA_NONCOHERENT)));
            }
            (true, false) => return Ok(true),
            (false, true) => return Ok(false),
            (false, false) => {}
        }
    }
    Ok(false)
}
