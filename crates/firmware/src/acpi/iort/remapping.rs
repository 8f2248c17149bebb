//! What a table means: SMMUs, groups of ITSs, devices, reserved memory.
//!
//! Not here: where ids lead (`route`), how nodes are taken and what is refused (`take`), how they lie (`node`).

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::{Pa, PaRange, mutant};

use super::route::Mapping;
use super::{IortError, MemoryAccess, Messages, SmmuV3Node, Wire};

/// What an IORT table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remapping {
    /// The SMMUs, in the table's order.
    pub smmus: Vec<Smmu>,
    /// The groups of ITSs.
    pub its_groups: Vec<ItsGroup>,
    /// The PCI root complexes. Several may share a segment.
    pub root_complexes: Vec<RootComplex>,
    /// Devices of the ACPI name space.
    pub components: Vec<Component>,
    /// Memory that firmware keeps for devices.
    pub reserved: Vec<ReservedRegion>,
    /// Groups of performance counters.
    pub counters: Vec<Counters>,
    /// What is wrong with the table, and was left out or, where that is said, kept all the same.
    pub faults: Vec<IortError>,
}

/// An SMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smmu {
    /// Its registers.
    pub registers: PaRange,
    /// Which it is, and what only such ones have.
    pub kind: SmmuKind,
    /// Where its streams' messages go.
    pub(super) mappings: Vec<Mapping>,
}

/// What only SMMUs of a version have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmmuKind {
    /// Version 1 or 2.
    V2(SmmuV2),
    /// Version 3.
    V3 {
        /// What the node says.
        node: SmmuV3Node,
        /// Where its own messages go.
        messages: Messages,
    },
}

/// An SMMU of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmmuV2 {
    /// Which it is: 0 version 1, 1 version 2, 2 MMU-400, 3 MMU-500, 4 MMU-401, 5 Cavium ThunderX.
    pub model: u32,
    /// It takes part in broadcast invalidations.
    pub dvm: bool,
    /// Its table walks are coherent.
    pub coherent_walk: bool,
    /// Interrupt of global faults.
    pub global: Wire,
    /// Interrupt of faults of its configuration port.
    pub config: Wire,
    /// Interrupts of its context banks.
    pub contexts: Vec<Wire>,
    /// Interrupts of its performance counters.
    pub counters: Vec<Wire>,
}

/// ITSs that share their device ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItsGroup {
    /// The ids of its ITSs, as MADT has them.
    pub identifiers: Vec<u32>,
}

/// A PCI root complex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootComplex {
    /// The PCI segment.
    pub segment: u16,
    /// How it reaches memory.
    pub memory: MemoryAccess,
    /// Translation requests of its functions reach the SMMU.
    pub ats: bool,
    /// And so do page requests.
    pub pri: bool,
    /// And translation requests with PASID.
    pub pasid_forwarding: bool,
    /// How many bits of address its functions can put out, if that is known.
    pub address_bits: Option<u8>,
    /// How many bits of PASID it passes on, 0 if none, if that is told.
    pub pasid_bits: Option<u8>,
    pub(super) mappings: Vec<Mapping>,
}

/// A device of the ACPI name space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its full path in the name space.
    pub name: String,
    /// How it reaches memory.
    pub memory: MemoryAccess,
    /// It can be stalled.
    pub stall: bool,
    /// How many bits of PASID it has; 0 if none.
    pub pasid_bits: u8,
    /// How many bits of address it can put out, if that is known.
    pub address_bits: Option<u8>,
    pub(super) mappings: Vec<Mapping>,
}

/// Memory that firmware keeps for devices: to be mapped 1:1 for them before they are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// Where it is: whole pages of 64 KiB.
    pub range: PaRange,
    /// It need not stay mapped once a driver has its device: remapping permitted. Such a region is direct-relaxable, another one direct.
    pub remappable: bool,
    /// How it is to be mapped; not told before revision 3.
    pub access: Option<RmrAccess>,
    /// Whose it is.
    pub streams: Vec<StreamRange>,
}

/// How reserved memory is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmrAccess {
    /// By privileged accesses alone.
    pub privileged: bool,
    /// As memory of this type: 0 Device-nGnRnE, 1 Device-nGnRE, 2 Device-nGRE, 3 Device-GRE, 4 Normal non-cacheable, 5 Normal write-back.
    pub attributes: u8,
}

/// A run of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRange {
    /// The SMMU's index in [`Remapping::smmus`].
    pub smmu: usize,
    /// The first StreamID.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// A group of performance counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Its first page of registers.
    pub page0: Pa,
    /// Its second one, if it is told.
    pub page1: Option<Pa>,
    /// Its interrupt, or 0 where it is a message or not there.
    pub overflow: u32,
    /// What it counts for.
    pub of: Counted,
    /// Where its messages go.
    pub messages: Messages,
}

/// What counters count for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counted {
    /// An SMMU: an index into [`Remapping::smmus`].
    Smmu(usize),
    /// A device: the offset of its node.
    Device(usize),
}

impl Remapping {
    /// The memory that firmware keeps for this stream.
    pub fn reserved_for(&self, smmu: usize, stream: u32) -> impl Iterator<Item = &ReservedRegion> {
        let its = move |range: &StreamRange| {
            let its_smmu = range.smmu == smmu || mutant!("iort-reserved-memory-of-another-smmus-stream");
            its_smmu && (range.first..=range.last).contains(&stream)
        };
        self.reserved.iter().filter(move |region| region.streams.iter().any(its))
    }
}
