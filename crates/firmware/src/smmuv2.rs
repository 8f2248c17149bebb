//! SMMUv2s and MMU-500s in a device tree.
//!
//! A source is one number: the StreamID in its low half, in its high half which bits of it do not matter. Two cells say both; with one cell the node says
//! the second for all of its devices, or nobody does.
//!
//! Spec: binding iommu/arm,smmu.yaml.
//! Not here: SMMUv1 and its designs, and designs that others made without saying whose they behave like. Devices behind these are behind an IOMMU that is not
//! known.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;

use crate::address::{is_dma_coherent, required_cpu_ranges};
use crate::error::{FirmwareError, PropertyFault};
use crate::interrupt::interrupts;
use crate::iommu::{IommuKind, IommuNode, Overrides};
use crate::tree::Node;

/// Which SMMUv2 a node is; none if it is none.
pub(crate) fn kind(node: Node<'_, '_>) -> Result<Option<IommuKind>, FirmwareError> {
    Ok(if node.is_compatible(dt::ARM_MMU_500)? {
        Some(IommuKind::Mmu500)
    } else if node.is_compatible(dt::ARM_SMMU_V2)? {
        Some(IommuKind::SmmuV2)
    } else {
        None
    })
}

/// Reads an SMMUv2.
pub(crate) fn read(node: Node<'_, '_>, kind: IommuKind) -> Result<IommuNode, FirmwareError> {
    if node.property(dt::MMU_MASTERS).is_some() {
        // Devices would look as if no IOMMU covered them.
        let instead = PropertyFault::GivenUp("devices are to say `iommus`, and their bridges `iommu-map`");
        return Err(node.fault(dt::MMU_MASTERS, instead));
    }
    let cells = node.u32(dt::IOMMU_CELLS)?;
    let cells = cells.ok_or_else(|| node.fault(dt::IOMMU_CELLS, PropertyFault::Missing))?;
    if !matches!(cells, 1 | 2) {
        return Err(node.fault(dt::IOMMU_CELLS, PropertyFault::Value(cells.into())));
    }
    let interrupts = interrupts(node)?;
    Ok(IommuNode {
        path: node.path(),
        phandle: node.phandle(),
        compatible: node.texts(dt::COMPATIBLE)?.into_iter().map(String::from).collect(),
        kind,
        cells,
        stream_mask: stream_mask(node, cells)?,
        global_interrupts: global_interrupts(node, interrupts.len())?,
        registers: required_cpu_ranges(node)?,
        interrupts,
        msi: Vec::new(),
        dma_coherent: is_dma_coherent(node)?,
        overrides: Overrides::default(),
        enabled: node.is_enabled()?,
    })
}

/// Where there are two cells each device says it, and the property means nothing.
fn stream_mask(node: Node<'_, '_>, cells: u32) -> Result<u16, FirmwareError> {
    let mask = node.u32(dt::STREAM_MATCH_MASK)?.unwrap_or(0);
    let mask = u16::try_from(mask)
        .map_err(|_| node.fault(dt::STREAM_MATCH_MASK, PropertyFault::Value(mask.into())))?;
    Ok(if cells == 1 { mask } else { 0 })
}

fn global_interrupts(node: Node<'_, '_>, all: usize) -> Result<usize, FirmwareError> {
    let count = node.u32(dt::GLOBAL_INTERRUPTS)?;
    let count = count.ok_or_else(|| node.fault(dt::GLOBAL_INTERRUPTS, PropertyFault::Missing))?;
    let small = usize::try_from(count).ok().filter(|&count| count <= all);
    small.ok_or_else(|| node.fault(dt::GLOBAL_INTERRUPTS, PropertyFault::Value(count.into())))
}

/// A specifier as one number.
pub(crate) fn source(smmu: &IommuNode, specifier: &[u32]) -> Result<u32, PropertyFault> {
    let (id, mask) = match *specifier {
        [id, mask] => (id, mask),
        [id] => (id, smmu.stream_mask.into()),
        _ => return Err(PropertyFault::Missing),
    };
    for half in [id, mask] {
        if half > 0xffff {
            return Err(PropertyFault::Value(half.into()));
        }
    }
    Ok(id | mask << 16)
}
