//! Properties about page faults and PASIDs where they mean nothing.
//!
//! Such a tree is not refused: nothing that the property says is done, so nobody is less isolated. But who wrote it expected something, and is told.
//!
//! Spec: binding iommu/iommu.txt (`dma-can-stall`, `pasid-num-bits`: of masters with `iommus`).

use alloc::string::String;
use core::fmt;

use portcullis_spec::dt;

use crate::tree::Node;

/// A property that is not heeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaningless {
    /// The node, from the root: `/soc/dma@1000`.
    pub path: String,
    /// The property.
    pub property: &'static str,
    /// Why it means nothing there.
    pub why: WhyMeaningless,
}

/// Why a property means nothing where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhyMeaningless {
    /// No IOMMU covers the device: nothing could stall its accesses or tell its PASIDs apart.
    NoIommu,
    /// The node is PCI's. A link of PCI Express would deadlock behind a stalled access, and PASIDs are said by a function's own capability.
    Pci,
}

const PROPERTIES: [&str; 2] = [dt::DMA_CAN_STALL, dt::PASID_NUM_BITS];

/// The properties of a node that are not heeded, all for one reason.
pub(crate) fn of(node: Node<'_, '_>, why: WhyMeaningless) -> impl Iterator<Item = Meaningless> {
    let there = PROPERTIES.map(|property| node.property(property).map(|_| property));
    let path = node.path();
    there.into_iter().flatten().map(move |property| Meaningless { path: path.clone(), property, why })
}

impl fmt::Display for Meaningless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            WhyMeaningless::NoIommu => "no IOMMU covers the device",
            WhyMeaningless::Pci => "the node is PCI's",
        };
        write!(f, "{}, property {} means nothing: {why}", self.path, self.property)
    }
}
