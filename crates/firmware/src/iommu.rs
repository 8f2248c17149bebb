//! IOMMUs, and who is behind them.
//!
//! Spec: binding iommu/iommu.txt; binding iommu/arm,smmu-v3.yaml. For an SMMUv2 see `smmuv2`, for a PHB3 `phb3`.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_types::{PaRange, SourceId};

use crate::address::{cpu_ranges, is_dma_coherent, required_cpu_ranges};
use crate::error::{FirmwareError, PropertyFault};
use crate::idmap::{IdMap, IdMapEntry};
use crate::interrupt::{Interrupt, interrupts};
use crate::msi::{MsiControllers, MsiTarget};
use crate::phb3;
use crate::smmuv2;
use crate::tree::Node;

/// More cells than this no IOMMU's specifier has.
const MAX_SPECIFIER_CELLS: u32 = 8;

/// Which binding an IOMMU follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IommuKind {
    /// `arm,smmu-v3`.
    SmmuV3,
    /// `arm,smmu-v2`, of no design that is known.
    SmmuV2,
    /// `arm,mmu-500`, which is an SMMUv2.
    Mmu500,
    /// `ibm,ioda2-phb`: a PHB3, which is the host bridge and the IOMMU of what is below it.
    Phb3,
    /// A VT-d unit, from ACPI's DMAR.
    Vtd,
    /// One that is not known here. Devices behind it are behind an IOMMU nevertheless.
    Other,
}

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuNode {
    /// Where firmware says it is: `/smmuv3@9050000`.
    pub path: String,
    /// Its number. Without one, nothing can be behind it.
    pub phandle: Option<u32>,
    /// Which bindings it follows, the most specific first.
    pub compatible: Vec<String>,
    /// Which of them is known here.
    pub kind: IommuKind,
    /// How many cells say who asks. Of an SMMUv3 always 1, the StreamID; of an SMMUv2 1 or 2, the StreamID and which bits of it do not matter.
    pub cells: u32,
    /// Of an SMMUv2, which bits of every StreamID do not matter, where there is one cell; 0 for all others.
    pub stream_mask: u16,
    /// Of an SMMUv2, how many of [`interrupts`](Self::interrupts), the first ones, are of global faults; 0 for all others.
    pub global_interrupts: usize,
    /// Its registers.
    pub registers: Vec<PaRange>,
    /// Its wired interrupts; empty for a kind that is not known.
    pub interrupts: Vec<Interrupt>,
    /// Where its own messages go; empty for a kind that is not known.
    pub msi: Vec<MsiTarget>,
    /// Whether its accesses to tables and queues are coherent with the CPU's caches.
    pub dma_coherent: bool,
    /// Of an SMMUv3, what it can do whatever its registers say.
    pub overrides: Overrides,
    /// Whether it is there to be used. If not, its devices are still behind it, and nobody knows what it does with them.
    pub enabled: bool,
}

/// What firmware knows better than an SMMUv3's identification registers, which cannot always be made to tell the truth. It only ever adds.
///
/// Spec: Arm DEN0049 E.f, "SMMUv3 node", Flags, COHACC override and HTTU override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Its accesses to tables and queues are coherent, whatever SMMU_IDR0.COHACC says.
    pub coherent: bool,
    /// It sets the access flag of entries, whatever SMMU_IDR0.HTTU says.
    pub access_flag: bool,
    /// It notes that entries are dirty, likewise.
    pub dirty_state: bool,
}

/// A device's place at an IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Index into [`Machine::iommus`](crate::Machine::iommus).
    pub iommu: usize,
    /// Who the device is there, in the IOMMU's own words; at an SMMUv2, the StreamID in the low half and which bits of it do not matter in the high
    /// half of one word, whatever said so.
    pub specifier: Vec<u32>,
}

impl Stream {
    /// Who the device is there, if that is one number, as with an SMMUv3 or an SMMUv2.
    pub fn source(&self) -> Option<SourceId> {
        match *self.specifier {
            [source] => Some(SourceId(source)),
            _ => None,
        }
    }
}

/// What happens to the DMA of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Translation {
    /// An IOMMU translates it.
    Behind {
        /// Index into [`Machine::iommus`](crate::Machine::iommus).
        iommu: usize,
        /// Who the function is there.
        source: SourceId,
    },
    /// The host bridge has no `iommu-map`: DMA reaches memory untranslated.
    NoIommu,
    /// The host bridge has an `iommu-map`, and this function is not in it: nothing is known about its DMA.
    Uncovered,
}

impl IommuNode {
    /// The interrupt that the IOMMU calls `name`: of an SMMUv3 `eventq`, `gerror`, `priq`, `cmdq-sync`, `combined`.
    pub fn interrupt(&self, name: &str) -> Option<&Interrupt> {
        self.interrupts.iter().find(|interrupt| interrupt.name.as_deref() == Some(name))
    }

    /// Reads an IOMMU; none if the node is something else.
    pub(crate) fn read(
        node: Node<'_, '_>,
        controllers: MsiControllers<'_>,
    ) -> Result<Option<Self>, FirmwareError> {
        if phb3::is_one(node)? {
            return Self::of_phb3(node).map(Some);
        }
        if let Some(kind) = smmuv2::kind(node)? {
            return smmuv2::read(node, kind).map(Some);
        }
        let is_smmu = node.is_compatible(dt::ARM_SMMU_V3)?;
        let cells = node.u32(dt::IOMMU_CELLS)?;
        if !is_smmu && cells.is_none() {
            return Ok(None);
        }
        let cells = cells.ok_or_else(|| node.fault(dt::IOMMU_CELLS, PropertyFault::Missing))?;
        if cells > MAX_SPECIFIER_CELLS || is_smmu && cells != 1 {
            return Err(node.fault(dt::IOMMU_CELLS, PropertyFault::Value(cells.into())));
        }
        let (registers, interrupts, msi) = if is_smmu {
            (required_cpu_ranges(node)?, interrupts(node)?, controllers.parents_of(node)?)
        } else {
            (cpu_ranges(node)?, Vec::new(), Vec::new())
        };
        Ok(Some(Self {
            path: node.path(),
            phandle: node.phandle(),
            compatible: node.texts(dt::COMPATIBLE)?.into_iter().map(String::from).collect(),
            kind: if is_smmu { IommuKind::SmmuV3 } else { IommuKind::Other },
            cells,
            stream_mask: 0,
            global_interrupts: 0,
            registers,
            interrupts,
            msi,
            dma_coherent: is_dma_coherent(node)?,
            overrides: Overrides::default(),
            enabled: node.is_enabled()?,
        }))
    }
}

impl IommuNode {
    /// A PHB3: sources are requester ids. Its devices and its own accesses snoop, as everything does on POWER.
    fn of_phb3(node: Node<'_, '_>) -> Result<Self, FirmwareError> {
        Ok(Self {
            path: node.path(),
            phandle: node.phandle(),
            compatible: node.texts(dt::COMPATIBLE)?.into_iter().map(String::from).collect(),
            kind: IommuKind::Phb3,
            cells: 1,
            stream_mask: 0,
            global_interrupts: 0,
            registers: required_cpu_ranges(node)?,
            interrupts: Vec::new(),
            msi: Vec::new(),
            dma_coherent: true,
            overrides: Overrides::default(),
            enabled: node.is_enabled()?,
        })
    }
}

impl IommuNode {
    /// A specifier, in the words that [`Stream::specifier`] has.
    fn in_own_words(&self, specifier: Vec<u32>) -> Result<Vec<u32>, PropertyFault> {
        match self.kind {
            IommuKind::SmmuV2 | IommuKind::Mmu500 => Ok([smmuv2::source(self, &specifier)?].into()),
            _ => Ok(specifier),
        }
    }
}

/// The IOMMUs of a machine by phandle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iommus<'m>(pub(crate) &'m [IommuNode]);

impl Iommus<'_> {
    /// Finds an IOMMU for an entry of a property of `node`.
    fn find(self, node: Node<'_, '_>, phandle: u32) -> Result<usize, PropertyFault> {
        let found = self.0.iter().position(|iommu| iommu.phandle == Some(phandle));
        found.ok_or(match node.tree().by_phandle(phandle) {
            Some(_) => PropertyFault::WrongNode(phandle),
            None => PropertyFault::NoSuchPhandle(phandle),
        })
    }

    /// The IOMMU that is the node at this path.
    pub(crate) fn at(self, path: &str) -> Option<usize> {
        self.0.iter().position(|iommu| iommu.path == path)
    }

    /// An `iommu-map` of `node`, in the words that [`Stream::specifier`] has.
    pub(crate) fn in_own_words(self, node: Node<'_, '_>, map: IdMap) -> Result<IdMap, FirmwareError> {
        let is_smmuv2 = |iommu: usize| matches!(self.0[iommu].kind, IommuKind::SmmuV2 | IommuKind::Mmu500);
        let too_large =
            |entry: &&IdMapEntry| is_smmuv2(entry.target) && entry.base + (entry.count - 1) > 0xffff;
        if let Some(entry) = map.entries().iter().find(too_large) {
            return Err(node.fault(dt::IOMMU_MAP, PropertyFault::Value(entry.base.into())));
        }
        Ok(map.with_bits(|iommu| u32::from(self.0[iommu].stream_mask) << 16))
    }

    /// Finds an IOMMU for an entry of an `iommu-map`, which has room for one cell.
    pub(crate) fn find_for_map(self, node: Node<'_, '_>, phandle: u32) -> Result<usize, PropertyFault> {
        let iommu = self.find(node, phandle)?;
        if self.0[iommu].cells == 1 { Ok(iommu) } else { Err(PropertyFault::WrongNode(phandle)) }
    }

    /// A device's places, from its `iommus`; empty without that property.
    pub(crate) fn streams_of(self, node: Node<'_, '_>) -> Result<Vec<Stream>, FirmwareError> {
        let mut streams = Vec::new();
        let Some(mut cells) = node.cells(dt::IOMMUS)? else { return Ok(streams) };
        cells.whole_entries(1)?;
        while !cells.is_empty() {
            let iommu = self.find(node, cells.u32()?).map_err(|fault| cells.fault(fault))?;
            let specifier = (0..self.0[iommu].cells).map(|_| cells.u32()).collect::<Result<Vec<_>, _>>()?;
            let specifier = self.0[iommu].in_own_words(specifier).map_err(|fault| cells.fault(fault))?;
            streams.push(Stream { iommu, specifier });
        }
        Ok(streams)
    }
}
