//! Devices that are not PCI's.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_types::{PaRange, Pasid};

use crate::address::{cpu_ranges, dma_ranges_from, is_dma_coherent};
use crate::error::{FirmwareError, PropertyFault};
use crate::iommu::{Iommus, Stream};
use crate::msi::{MsiControllers, MsiTarget};
use crate::pci::DmaRange;
use crate::tree::Node;

/// Nodes of the root that hold no devices.
const NO_DEVICES: [&str; 5] = ["cpus", "chosen", "aliases", "memory", dt::RESERVED_MEMORY];

/// A device that is not PCI's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformDevice {
    /// Where firmware says it is: `/soc/dma@1000000`.
    pub path: String,
    /// Which bindings it follows, the most specific first.
    pub compatible: Vec<String>,
    /// Its registers; empty if the CPU cannot reach them directly.
    pub registers: Vec<PaRange>,
    /// Its places at IOMMUs, in firmware's order, which its binding may give a meaning; the same place may be there twice. Empty: no IOMMU
    /// covers it, and if it does DMA, that reaches memory untranslated.
    pub streams: Vec<Stream>,
    /// Whether its accesses may wait until a page fault has been handled. Never without [`streams`](Self::streams).
    pub can_stall: bool,
    /// How many bits of process address space id it has, 0 to 20. 0 without [`streams`](Self::streams).
    pub pasid_bits: u8,
    /// Whether its accesses are coherent with the CPU's caches.
    pub dma_coherent: bool,
    /// Which addresses it can put on its bus; none if nothing limits them.
    pub dma_ranges: Option<Vec<DmaRange>>,
    /// Where its messages go.
    pub msi: Vec<MsiTarget>,
}

impl PlatformDevice {
    /// Reads a device that is not anything else; none if the node is no device, or one that is not to be used.
    ///
    /// A device is what has `iommus`, or a `compatible` and registers that the CPU can reach.
    pub(crate) fn read(
        node: Node<'_, '_>,
        iommus: Iommus<'_>,
        controllers: MsiControllers<'_>,
    ) -> Result<Option<Self>, FirmwareError> {
        let Some(bus) = node.parent().filter(|_| !is_below_no_devices(node)) else { return Ok(None) };
        if !node.is_enabled()? {
            return Ok(None);
        }
        let streams = iommus.streams_of(node)?;
        let compatible = node.texts(dt::COMPATIBLE)?;
        // Choice: without `iommus`, a `reg` that makes no sense means that nobody can drive the device, not that the tree
        // is useless: trees of real machines have such nodes.
        let registers =
            if streams.is_empty() { cpu_ranges(node).unwrap_or_default() } else { cpu_ranges(node)? };
        if streams.is_empty() && (compatible.is_empty() || registers.is_empty()) {
            return Ok(None);
        }
        let (can_stall, pasid_bits) = (node.flag(dt::DMA_CAN_STALL)?, pasid_bits(node)?);
        let covered = !streams.is_empty();
        Ok(Some(Self {
            path: node.path(),
            compatible: compatible.into_iter().map(String::from).collect(),
            registers,
            streams,
            can_stall: covered && can_stall,
            pasid_bits: if covered { pasid_bits } else { 0 },
            dma_coherent: is_dma_coherent(node)?,
            dma_ranges: dma_ranges_from(bus)?,
            msi: controllers.parents_of(node)?,
        }))
    }
}

fn is_below_no_devices(node: Node<'_, '_>) -> bool {
    let below_root =
        core::iter::once(node).chain(node.ancestors()).filter(|node| node.parent().is_some()).last();
    below_root.is_some_and(|node| NO_DEVICES.contains(&node.base_name()))
}

fn pasid_bits(node: Node<'_, '_>) -> Result<u8, FirmwareError> {
    let bits = node.u32(dt::PASID_NUM_BITS)?.unwrap_or(0);
    let small = u8::try_from(bits).ok().filter(|&bits| u32::from(bits) <= Pasid::MAX.get().count_ones());
    small.ok_or_else(|| node.fault(dt::PASID_NUM_BITS, PropertyFault::Value(bits.into())))
}
