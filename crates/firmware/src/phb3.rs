//! A PHB3: the host bridge of a POWER8, which is the IOMMU of what is below it and takes its messages.
//!
//! One node is all three, so that it is in three lists of [`Machine`](crate::Machine): as IOMMU, as MSI controller, and as host bridge, whose functions are
//! behind it by their requester ids. Firmware writes no maps.
//!
//! Observed: skiboot hw/phb3.c, `phb3_add_properties` and `phb3_probe_pbcq`; core/pci.c, for the number: what the node has, in which words. Numbers of two cells are `u64`s.
//! Not here: M64 windows, tables that firmware set up, lines (LSIs).

use portcullis_spec::dt;
use portcullis_types::{PaRange, PageSizes, SizeLg2};

use crate::address::required_cpu_ranges;
use crate::error::{FirmwareError, PropertyFault};
use crate::tree::Node;

/// What firmware says of a PHB3 besides what it says of every host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phb3Host {
    /// Its registers. Configuration space is reached by two of them.
    pub registers: PaRange,
    /// How many partitionable endpoints it has.
    pub pe_count: u32,
    /// The endpoint that is for nobody.
    pub reserved_pe: u32,
    /// The first of its messages' interrupt numbers, and how many there are.
    pub messages: (u32, u32),
    /// Page sizes of its tables.
    pub page_sizes: PageSizes,
    /// Whether its window at 0 can pass addresses as they are.
    pub bypass_32: bool,
    /// The number of the segment.
    pub(crate) segment: u16,
}

/// No PHB3 has more endpoints. Observed: skiboot include/phb3.h, `PHB3_MAX_PE_NUM`.
const MOST_PES: u32 = 256;

/// Page sizes where firmware does not say. Observed: Linux 6.x, `pnv_ioda_parse_tce_sizes`.
const COMMON_SIZES: [SizeLg2; 2] = [SizeLg2::KIB_4, SizeLg2::KIB_64];

/// Whether a node is a PHB3.
pub(crate) fn is_one(node: Node<'_, '_>) -> Result<bool, FirmwareError> {
    node.is_compatible(dt::IBM_IODA2_PHB)
}

impl Phb3Host {
    pub(crate) fn read(node: Node<'_, '_>) -> Result<Self, FirmwareError> {
        let required = |name| node.u32(name)?.ok_or_else(|| node.fault(name, PropertyFault::Missing));
        let pe_count = required(dt::IBM_OPAL_NUM_PES)?;
        if !(1..=MOST_PES).contains(&pe_count) {
            return Err(node.fault(dt::IBM_OPAL_NUM_PES, PropertyFault::Value(pe_count.into())));
        }
        let reserved_pe = required(dt::IBM_OPAL_RESERVED_PE)?;
        if reserved_pe >= pe_count {
            return Err(node.fault(dt::IBM_OPAL_RESERVED_PE, PropertyFault::Value(reserved_pe.into())));
        }
        Ok(Self {
            registers: required_cpu_ranges(node)?[0],
            pe_count,
            reserved_pe,
            messages: messages(node)?,
            page_sizes: page_sizes(node)?,
            bypass_32: node.flag(dt::IBM_32_BIT_BYPASS_SUPPORTED)?,
            segment: segment(node)?,
        })
    }
}

/// Observed: Linux 6.x, `get_phb_number`: the lower half of the number by which firmware knows the bridge. Choice: one that has more bits is refused, so that
/// no two bridges become one.
fn segment(node: Node<'_, '_>) -> Result<u16, FirmwareError> {
    let cells = node.cells(dt::IBM_OPAL_PHBID)?;
    let mut cells = cells.ok_or_else(|| node.fault(dt::IBM_OPAL_PHBID, PropertyFault::Missing))?;
    cells.exactly(2)?;
    let id = cells.number(2)?;
    u16::try_from(id).map_err(|_| node.fault(dt::IBM_OPAL_PHBID, PropertyFault::Value(id)))
}

fn messages(node: Node<'_, '_>) -> Result<(u32, u32), FirmwareError> {
    let Some(mut cells) = node.cells(dt::IBM_OPAL_MSI_RANGES)? else { return Ok((0, 0)) };
    cells.exactly(2)?;
    let (first, count) = (cells.u32()?, cells.u32()?);
    match first.checked_add(count) {
        Some(_) => Ok((first, count)),
        None => Err(node.fault(dt::IBM_OPAL_MSI_RANGES, PropertyFault::Value(count.into()))),
    }
}

fn page_sizes(node: Node<'_, '_>) -> Result<PageSizes, FirmwareError> {
    let Some(mut cells) = node.cells(dt::IBM_SUPPORTED_TCE_SIZES)? else {
        return Ok(PageSizes::from_bits(COMMON_SIZES.iter().map(|size| size.bytes()).sum()));
    };
    let mut bits = 0;
    while !cells.is_empty() {
        let shift = cells.u32()?;
        let size = u8::try_from(shift).ok().and_then(SizeLg2::new).filter(|size| size.get() >= 12);
        let size = size.ok_or_else(|| cells.fault(PropertyFault::Value(shift.into())))?;
        bits |= size.bytes();
    }
    Ok(PageSizes::from_bits(bits))
}
