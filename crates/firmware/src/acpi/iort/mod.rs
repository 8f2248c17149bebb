//! IORT: which stream of which SMMU a device is, which device its messages come from, and what memory firmware keeps for it.
//!
//! An [`Iort`] is a table whose framing holds: every node has a length that fits, every list lies in its node. [`Iort::nodes`] walks it without copying
//! anything. A [`Remapping`] is what the table means: SMMUs, groups of ITSs, devices, reserved memory, and where ids lead
//! ([`Remapping::function`], [`Remapping::component`]).
//!
//! # What a broken or unusual table leads to
//!
//! - Framing that does not hold, a length of zero above all, is an error, and there is no table ([`IortError`]). No device is then covered.
//! - A node that says what cannot be is left out and listed in [`Remapping::faults`], and so is a mapping. Devices that were mapped by it, or to it, are
//!   [`Dma::Broken`]: they are never covered by something else instead.
//! - A device that two mappings claim is covered by neither ([`Dma::Disputed`]).
//! - A device that nobody claims is [`Dma::Nobody`], and one whose ids go to ITSs without an SMMU on the way is [`Dma::Past`]. What becomes of them is the
//!   embedder's to decide, who is not to let them do DMA in silence.
//! - Types that are not known are skipped; who is mapped to one is broken.
//!
//! Mappings go from devices to SMMUs and ITSs, and from SMMUs to ITSs: a mapping to anything else is a fault. So no way comes back to where it was.
//!
//! Spec: Arm DEN0049 E.f "IO Remapping Table"; read here are the formats of E.b to E.f, and of the first revisions, which tables in use still have.
//! Not here: the SMMUs' registers (`smmuv3`, `smmuv2`), the ITSs (MADT).

mod fault;
mod mapping;
mod node;
mod remapping;
mod route;
mod take;

pub use fault::{IortError, IortFault};
pub use mapping::IdMapping;
pub use node::{
    ComponentNode, CountersNode, ItsGroupNode, MemoryAccess, Node, NodeKind, ReservedNode, RootComplexNode,
    SmmuV2Node, SmmuV3Node, Wire,
};
pub use remapping::{
    Component, Counted, Counters, ItsGroup, Remapping, ReservedRegion, RmrAccess, RootComplex, Smmu,
    SmmuKind, SmmuV2, StreamRange,
};
pub use route::{ComponentRoutes, Dma, Messages, Route};
pub(crate) use route::{Run, Segment};

use super::Table;
use super::bytes::{pieces, u16_at, u32_at};
use node::{HEADER_BYTES, parse};

/// The table's fixed part.
const FIXED_BYTES: usize = 48;

/// An IORT table whose framing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iort<'a> {
    table: Table<'a>,
}

impl<'a> Iort<'a> {
    /// The table at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// Its header, or the length of a node or of a list in one, cannot be.
    pub fn read(bytes: &'a [u8]) -> Result<Self, IortError> {
        let error = |fault| IortError { offset: 0, fault };
        let table =
            Table::read(bytes, *b"IORT", FIXED_BYTES).map_err(|fault| error(IortFault::Table(fault)))?;
        let iort = Self { table };
        let start = iort.word(40);
        if usize::try_from(start).is_ok_and(|start| start < FIXED_BYTES) && iort.node_count() != 0 {
            return Err(error(IortFault::NodeOffset(start)));
        }
        iort.frames()
            .try_for_each(|framed| framed.and_then(|(offset, body)| parse(offset, body).map(|_| ())))?;
        Ok(iort)
    }

    /// The revision of the table's format.
    pub fn revision(self) -> u8 {
        self.table.revision()
    }

    /// How many nodes there are, those of unknown types among them.
    pub fn node_count(self) -> u32 {
        self.word(36)
    }

    fn word(self, offset: usize) -> u32 {
        u32_at(self.table.bytes(), offset).unwrap_or(0)
    }

    /// Its nodes in their order. Those of unknown types are left out.
    pub fn nodes(self) -> impl Iterator<Item = Node<'a>> {
        // `read` has seen each of them: nothing is lost here.
        self.frames().flatten().filter_map(|(offset, body)| parse(offset, body).ok()?)
    }

    /// Offset and bytes of each node. It ends with the first error.
    fn frames(self) -> impl Iterator<Item = Result<(usize, &'a [u8]), IortError>> {
        let start = usize::try_from(self.word(40)).unwrap_or(usize::MAX);
        let nodes = self.table.bytes().get(start..).unwrap_or(&[]);
        let framed = pieces(nodes, start, |rest, offset| Some(frame(rest, offset)));
        (0..self.node_count()).zip(framed).map(|(_, framed)| framed)
    }
}

/// The node at the start of `rest`, which lies at `offset`.
fn frame(rest: &[u8], offset: usize) -> Result<&[u8], IortError> {
    let error = |fault| IortError { offset, fault };
    let length = u16_at(rest, 1).ok_or(error(IortFault::Truncated))?;
    if usize::from(length) < HEADER_BYTES {
        return Err(error(IortFault::Length(length)));
    }
    rest.get(..length.into()).ok_or(error(IortFault::Truncated))
}
