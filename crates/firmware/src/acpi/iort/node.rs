//! The nodes that an IORT table is made of, as they lie there.
//!
//! Here a node has the length that its type and revision demand, its lists lie in it, and nothing else has been checked: that is `remapping`'s.
//!
//! Spec: Arm DEN0049 E.f, "IORT node format" and the format of each type.

use portcullis_types::Pa;

use super::mapping::{IdMapping, List, MAPPING_BYTES};
use super::{IortError, IortFault};
use crate::acpi::bytes::{name, u8_at, u16_at, u32_at, u64_at};

/// Bytes that every node begins with.
pub(super) const HEADER_BYTES: usize = 16;

/// A node of a known type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// Where it lies in the table, in bytes: by this it is referred to.
    pub offset: usize,
    /// The revision of its format.
    pub revision: u8,
    /// What it is.
    pub kind: NodeKind<'a>,
    mappings: List<'a>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind<'a> {
    /// ITSs that share their device ids: type 0.
    ItsGroup(ItsGroupNode<'a>),
    /// A device of the ACPI name space: type 1.
    Component(ComponentNode<'a>),
    /// A PCI root complex: type 2.
    RootComplex(RootComplexNode),
    /// An SMMU of version 1 or 2: type 3.
    SmmuV2(SmmuV2Node<'a>),
    /// An SMMU of version 3: type 4.
    SmmuV3(SmmuV3Node),
    /// A group of performance counters: type 5.
    Counters(CountersNode),
    /// Memory that firmware keeps for devices: type 6.
    Reserved(ReservedNode<'a>),
}

/// ITSs that share their device ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItsGroupNode<'a> {
    list: List<'a>,
}

/// How a device reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAccess {
    /// The word for coherency (CCA): 1 if the device is coherent, 0 if it is not.
    pub coherency: u32,
    /// Allocation hints, as they lie there.
    pub hints: u8,
    /// The way to memory is coherent: CPM.
    pub coherent_path: bool,
    /// Its accesses are cacheable and shareable: DACS.
    pub cacheable: bool,
    /// Its accesses are coherent whatever its translations and No Snoop say: CANWBS.
    pub always_write_back: bool,
}

/// A device of the ACPI name space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentNode<'a> {
    /// It can be stalled.
    pub stall: bool,
    /// How many bits of PASID it has; 0 if none.
    pub pasid_bits: u8,
    /// How it reaches memory.
    pub memory: MemoryAccess,
    /// How many bits of address it has.
    pub address_bits: u8,
    /// Its name and what follows, to its mappings or the end of the node.
    name: &'a [u8],
}

/// A PCI root complex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootComplexNode {
    /// How it reaches memory.
    pub memory: MemoryAccess,
    /// ATS attribute: bit 0 ATS, bit 1 PRI, bit 2 translation requests with PASID are passed on.
    pub ats: u32,
    /// The PCI segment.
    pub segment: u32,
    /// How many bits of address it has. Not told before revision 1.
    pub address_bits: Option<u8>,
    /// How many bits of PASID it passes on, 0 if it passes none on. Not told before revision 4.
    pub pasid_bits: Option<u8>,
}

/// A wired interrupt of an SMMU of version 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Its number: GSIV.
    pub gsiv: u32,
    /// It is edge triggered, not level sensitive.
    pub edge: bool,
}

/// An SMMU of version 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmmuV2Node<'a> {
    /// Where its registers are.
    pub base: Pa,
    /// How many bytes they take.
    pub span: u64,
    /// Which it is: 0 version 1, 1 version 2, 2 MMU-400, 3 MMU-500, 4 MMU-401, 5 Cavium ThunderX.
    pub model: u32,
    /// It takes part in broadcast invalidations: DVM.
    pub dvm: bool,
    /// Its table walks are coherent.
    pub coherent_walk: bool,
    /// Of global faults: NSgIrpt.
    pub global: Wire,
    /// Of faults of its configuration port: NSgCfgIrpt.
    pub config: Wire,
    contexts: List<'a>,
    counters: List<'a>,
}

/// An SMMU of version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmmuV3Node {
    /// Where its registers are.
    pub base: Pa,
    /// It is coherent whatever its SMMU_IDR0.COHACC says: COHACC override.
    pub coherent: bool,
    /// 1 access flag, 2 and dirty state, whatever its SMMU_IDR0.HTTU says if that is less; two bits: HTTU override.
    pub httu: u8,
    /// Where its address translation operations are for a guest; 0 if nowhere.
    pub vatos: Pa,
    /// Which it is: 0 any, 1 HiSilicon Hi161x, 2 Cavium CN99xx.
    pub model: u32,
    /// Interrupt of the event queue, or 0 where it is a message or not there.
    pub event: u32,
    /// Interrupt of the PRI queue, likewise.
    pub pri: u32,
    /// Interrupt of global errors, likewise.
    pub gerror: u32,
    /// Interrupt of completed CMD_SYNCs, likewise.
    pub sync: u32,
    /// The proximity domain, as SRAT numbers them, if it is told.
    pub proximity: Option<u32>,
    /// Which of its mappings is the one of its own messages, if it has one.
    pub own_mapping: Option<u32>,
}

/// A group of performance counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountersNode {
    /// Where its first page of registers is.
    pub page0: Pa,
    /// Where its second one is, if it is told.
    pub page1: Option<Pa>,
    /// Its interrupt, or 0 where it is a message or not there.
    pub overflow: u32,
    /// The offset of the node that it counts for.
    pub reference: u32,
}

/// Memory that firmware keeps for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedNode<'a> {
    /// Flags, as they lie there.
    pub flags: u32,
    ranges: List<'a>,
}

impl<'a> Node<'a> {
    /// Its mappings, in their order.
    pub fn mappings(self) -> impl Iterator<Item = IdMapping> + Clone + 'a {
        self.mappings.mappings()
    }
}

impl<'a> ItsGroupNode<'a> {
    /// The ids of its ITSs, as MADT has them.
    pub fn identifiers(self) -> impl Iterator<Item = u32> + 'a {
        self.list.records().filter_map(|(_, bytes)| u32_at(bytes, 0))
    }
}

impl<'a> ComponentNode<'a> {
    /// Its full path in the name space. None if it is not ASCII that a zero byte ends.
    pub fn name(self) -> Option<&'a str> {
        name(self.name)
    }
}

impl<'a> SmmuV2Node<'a> {
    /// Interrupts of its context banks.
    pub fn contexts(self) -> impl Iterator<Item = Wire> + 'a {
        self.contexts.records().filter_map(|(_, bytes)| wire(bytes, 0))
    }

    /// Interrupts of its performance counters.
    pub fn counters(self) -> impl Iterator<Item = Wire> + 'a {
        self.counters.records().filter_map(|(_, bytes)| wire(bytes, 0))
    }
}

impl<'a> ReservedNode<'a> {
    /// Offset in the table, first address and length of each range.
    pub fn ranges(self) -> impl Iterator<Item = (usize, u64, u64)> + 'a {
        let range = |(offset, bytes)| Some((offset, u64_at(bytes, 0)?, u64_at(bytes, 8)?));
        self.ranges.records().filter_map(range)
    }
}

/// The node of this type in `bytes`, which lie at `offset` of the table and are a header long at least. None for types that are not known.
///
/// # Errors
///
/// It is shorter than its type and revision, or a list is not in it.
pub(super) fn parse(offset: usize, bytes: &[u8]) -> Result<Option<Node<'_>>, IortError> {
    let error = |fault| IortError { offset, fault };
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let short = error(IortFault::Length(length));
    let (kind, revision) = (u8_at(bytes, 0).ok_or(short)?, u8_at(bytes, 3).ok_or(short)?);
    let fixed_bytes = match (kind, revision) {
        (0, _) => 20,
        (1, _) => 29,
        (2, 0) => 32,
        (2, _) => 36,
        (3, _) | (4, 0) => 60,
        (4, _) => 68,
        (5, 0) => 32,
        (5, _) => 40,
        (6, _) => 28,
        _ => return Ok(None),
    };
    if bytes.len() < fixed_bytes {
        return Err(short);
    }
    let lists = Lists { bytes, offset, fixed_bytes };
    let count = u32_at(bytes, 8).ok_or(short)?;
    let mappings = lists.list(u32_at(bytes, 12).ok_or(short)?, count, MAPPING_BYTES)?;
    let kind = match kind {
        0 => Some(NodeKind::ItsGroup(its_group(lists)?)),
        1 => component(bytes).map(NodeKind::Component),
        2 => root_complex(bytes, revision).map(NodeKind::RootComplex),
        3 => smmu_v2(lists)?.map(NodeKind::SmmuV2),
        4 => smmu_v3(bytes, revision).map(NodeKind::SmmuV3),
        5 => counters(bytes, revision).map(NodeKind::Counters),
        _ => Some(NodeKind::Reserved(reserved(lists)?)),
    };
    Ok(Some(Node { offset, revision, kind: kind.ok_or(short)?, mappings }))
}

/// A node whose lists are to be read.
#[derive(Clone, Copy)]
struct Lists<'a> {
    bytes: &'a [u8],
    offset: usize,
    fixed_bytes: usize,
}

impl<'a> Lists<'a> {
    /// `count` records at `at`, which lie after the fixed part. Where there are none, `at` means nothing.
    fn list(self, at: u32, count: u32, record_bytes: usize) -> Result<List<'a>, IortError> {
        let error = |fault| IortError { offset: self.offset, fault };
        if count == 0 {
            return Ok(List::empty());
        }
        if usize::try_from(at).is_ok_and(|at| at < self.fixed_bytes) {
            return Err(error(IortFault::ListOffset(at)));
        }
        List::new(self.bytes, self.offset, at, count, record_bytes).ok_or(error(IortFault::Truncated))
    }
}

fn wire(bytes: &[u8], offset: usize) -> Option<Wire> {
    Some(Wire { gsiv: u32_at(bytes, offset)?, edge: u32_at(bytes, offset + 4)? & 1 != 0 })
}

fn memory_access(bytes: &[u8], offset: usize) -> Option<MemoryAccess> {
    let flags = u8_at(bytes, offset + 7)?;
    Some(MemoryAccess {
        coherency: u32_at(bytes, offset)?,
        hints: u8_at(bytes, offset + 4)?,
        coherent_path: flags & 1 != 0,
        cacheable: flags & 2 != 0,
        always_write_back: flags & 4 != 0,
    })
}

fn its_group(lists: Lists<'_>) -> Result<ItsGroupNode<'_>, IortError> {
    let count = u32_at(lists.bytes, 16).unwrap_or(0);
    Ok(ItsGroupNode { list: lists.list(20, count, 4)? })
}

fn component(bytes: &[u8]) -> Option<ComponentNode<'_>> {
    let flags = u32_at(bytes, 16)?;
    let mapped = u32_at(bytes, 8)? != 0;
    let name_end = if mapped { usize::try_from(u32_at(bytes, 12)?).ok()? } else { bytes.len() };
    Some(ComponentNode {
        stall: flags & 1 != 0,
        pasid_bits: five_bits(flags >> 1),
        memory: memory_access(bytes, 20)?,
        address_bits: u8_at(bytes, 28)?,
        name: bytes.get(29..name_end)?,
    })
}

fn five_bits(word: u32) -> u8 {
    u8::try_from(word & 0x1f).unwrap_or(0)
}

fn root_complex(bytes: &[u8], revision: u8) -> Option<RootComplexNode> {
    // Flags came with revision 4, after the 36 bytes of revisions 1 to 3; tables are seen that say 4 and have 36.
    let mapped = u32_at(bytes, 8)? != 0;
    let before_mappings = if mapped { u32_at(bytes, 12)? } else { u32::MAX };
    let flags = u32_at(bytes, 36).filter(|_| revision >= 4 && before_mappings >= 40);
    let capabilities = u16_at(bytes, 33).unwrap_or(0);
    let pasid_bits = flags.map(|flags| if flags & 1 != 0 { five_bits(capabilities.into()) } else { 0 });
    Some(RootComplexNode {
        memory: memory_access(bytes, 16)?,
        ats: u32_at(bytes, 24)?,
        segment: u32_at(bytes, 28)?,
        address_bits: u8_at(bytes, 32).filter(|_| revision >= 1),
        pasid_bits,
    })
}

fn smmu_v2(lists: Lists<'_>) -> Result<Option<SmmuV2Node<'_>>, IortError> {
    let bytes = lists.bytes;
    let word = |offset| u32_at(bytes, offset).unwrap_or(0);
    // Two interrupts of eight bytes, the ones that are always there.
    let global = lists.list(word(40), 2, 8)?;
    let contexts = lists.list(word(48), word(44), 8)?;
    let counters = lists.list(word(56), word(52), 8)?;
    let mut global = global.records().filter_map(|(_, bytes)| wire(bytes, 0));
    let (Some(base), Some(span), Some(fault), Some(config)) =
        (u64_at(bytes, 16), u64_at(bytes, 24), global.next(), global.next())
    else {
        return Ok(None);
    };
    Ok(Some(SmmuV2Node {
        base: Pa::new(base),
        span,
        model: word(32),
        dvm: word(36) & 1 != 0,
        coherent_walk: word(36) & 2 != 0,
        global: fault,
        config,
        contexts,
        counters,
    }))
}

fn smmu_v3(bytes: &[u8], revision: u8) -> Option<SmmuV3Node> {
    let flags = u32_at(bytes, 24)?;
    let [event, pri, gerror, sync] =
        [u32_at(bytes, 44)?, u32_at(bytes, 48)?, u32_at(bytes, 52)?, u32_at(bytes, 56)?];
    // Revision 5 has a flag; before it the index counted unless each interrupt is wired.
    let has_own = match revision {
        0 => false,
        1..5 => [event, pri, gerror, sync].contains(&0),
        5.. => flags & 1 << 4 != 0,
    };
    Some(SmmuV3Node {
        base: Pa::new(u64_at(bytes, 16)?),
        coherent: flags & 1 != 0,
        httu: u8::try_from(flags >> 1 & 3).unwrap_or(0),
        vatos: Pa::new(u64_at(bytes, 32)?),
        model: u32_at(bytes, 40)?,
        event,
        pri,
        gerror,
        sync,
        proximity: u32_at(bytes, 60).filter(|_| revision >= 1 && flags & 1 << 3 != 0),
        own_mapping: u32_at(bytes, 64).filter(|_| has_own),
    })
}

fn counters(bytes: &[u8], revision: u8) -> Option<CountersNode> {
    Some(CountersNode {
        page0: Pa::new(u64_at(bytes, 16)?),
        overflow: u32_at(bytes, 24)?,
        reference: u32_at(bytes, 28)?,
        page1: u64_at(bytes, 32).filter(|&at| revision >= 1 && at != 0).map(Pa::new),
    })
}

fn reserved(lists: Lists<'_>) -> Result<ReservedNode<'_>, IortError> {
    let word = |offset| u32_at(lists.bytes, offset).unwrap_or(0);
    Ok(ReservedNode { flags: word(16), ranges: lists.list(word(24), word(20), 20)? })
}
