//! How nodes become what they mean, and what is refused on the way.
//!
//! Nodes that ids are mapped to come first: who refers to one may lie before it. A node that is left out keeps its place among the targets, with the reason: who is
//! mapped to it is broken for that reason.

use alloc::vec::Vec;

use portcullis_types::{Pa, PaRange, mutant};

use super::mapping::IdMapping;
use super::remapping::{
    Component, Counted, Counters, ItsGroup, Remapping, ReservedRegion, RmrAccess, RootComplex, Smmu,
    SmmuKind, SmmuV2, StreamRange,
};
use super::route::{Mapping, Target, to_its};
use super::{
    ComponentNode, CountersNode, Iort, IortError, IortFault, MemoryAccess, Messages, Node, NodeKind,
    ReservedNode, RootComplexNode, SmmuV2Node, SmmuV3Node,
};

/// Pages of registers of an SMMU of version 3, and of reserved memory.
const PAGE_BYTES: u64 = 1 << 16;
/// Pages of other registers.
const SMALL_PAGE_BYTES: u64 = 1 << 12;
/// Spec: PCIe 6.0, 6.20 "PASID TLP Prefix".
const MOST_PASID_BITS: u8 = 20;
/// An SMMU that has one page of registers where others have two. Observed: Linux 6.1, arm_smmu_v3_resource_size.
const CN99XX: u32 = 2;

/// Which nodes there are, by offset: those that ids can be mapped to, and devices.
struct Places {
    targets: Vec<(usize, Result<Target, IortError>)>,
    devices: Vec<usize>,
}

impl Remapping {
    /// What the table at the start of `bytes` says. `usable` is the memory that the firmware's memory map gives to the operating system, in which no reserved region
    /// should lie; empty where that is not known.
    ///
    /// # Errors
    ///
    /// The table's framing does not hold. What is wrong beyond that is in [`faults`](Self::faults).
    pub fn read(bytes: &[u8], usable: &[PaRange]) -> Result<Self, IortError> {
        let iort = Iort::read(bytes)?;
        let mut read = Self::default();
        let mut places = Places { targets: Vec::new(), devices: Vec::new() };
        for node in iort.nodes() {
            let to = match node.kind {
                NodeKind::ItsGroup(group) => read.take_its_group(node.offset, group.identifiers().collect()),
                NodeKind::SmmuV2(smmu) => read.take_smmu_v2(node.offset, smmu),
                NodeKind::SmmuV3(smmu) => read.take_smmu_v3(node.offset, smmu),
                NodeKind::RootComplex(_) | NodeKind::Component(_) => {
                    places.devices.push(node.offset);
                    continue;
                }
                NodeKind::Counters(_) | NodeKind::Reserved(_) => continue,
            };
            places.targets.push((node.offset, to));
        }
        for node in iort.nodes() {
            match node.kind {
                NodeKind::SmmuV2(_) | NodeKind::SmmuV3(_) => read.take_streams(node, &places),
                NodeKind::RootComplex(root) => read.take_root_complex(node, root, &places),
                NodeKind::Component(component) => read.take_component(node, component, &places),
                NodeKind::Counters(counters) => read.take_counters(node, counters, &places),
                NodeKind::Reserved(reserved) => read.take_reserved(node, reserved, &places, usable),
                NodeKind::ItsGroup(_) => {}
            }
        }
        read.tell_overlaps();
        Ok(read)
    }

    fn fault(&mut self, offset: usize, fault: IortFault) -> IortError {
        let error = IortError { offset, fault };
        self.faults.push(error);
        error
    }

    fn take_its_group(&mut self, offset: usize, identifiers: Vec<u32>) -> Result<Target, IortError> {
        if identifiers.is_empty() {
            return Err(self.fault(offset, IortFault::EmptyGroup));
        }
        self.its_groups.push(ItsGroup { identifiers });
        Ok(Target::Its(self.its_groups.len() - 1))
    }

    fn take_smmu_v2(&mut self, offset: usize, smmu: SmmuV2Node<'_>) -> Result<Target, IortError> {
        let kind = SmmuKind::V2(SmmuV2 {
            model: smmu.model,
            dvm: smmu.dvm,
            coherent_walk: smmu.coherent_walk,
            global: smmu.global,
            config: smmu.config,
            contexts: smmu.contexts().collect(),
            counters: smmu.counters().collect(),
        });
        self.take_smmu(offset, smmu.base, smmu.span, SMALL_PAGE_BYTES, kind)
    }

    fn take_smmu_v3(&mut self, offset: usize, smmu: SmmuV3Node) -> Result<Target, IortError> {
        let page_count = if smmu.model == CN99XX { 1 } else { 2 };
        let kind = SmmuKind::V3 { node: smmu, messages: Messages::Nobody };
        self.take_smmu(offset, smmu.base, page_count * PAGE_BYTES, PAGE_BYTES, kind)
    }

    /// An SMMU whose registers are `len_bytes` at `base`, in pages of `page_bytes`.
    fn take_smmu(
        &mut self,
        offset: usize,
        base: Pa,
        len_bytes: u64,
        page_bytes: u64,
        kind: SmmuKind,
    ) -> Result<Target, IortError> {
        let registers = PaRange::new(base, len_bytes).filter(|_| is_page(base, page_bytes));
        let Some(registers) = registers else {
            return Err(self.fault(offset, IortFault::Registers(base)));
        };
        if self.smmus.iter().any(|smmu| smmu.registers.overlaps(registers)) {
            return Err(self.fault(offset, IortFault::SharedRegisters(registers)));
        }
        self.smmus.push(Smmu { registers, kind, mappings: Vec::new() });
        Ok(Target::Smmu(self.smmus.len() - 1))
    }

    /// The mappings of an SMMU, which has been taken if it could be.
    fn take_streams(&mut self, node: Node<'_>, places: &Places) {
        let Some(Ok(Target::Smmu(index))) = places.target(node.offset) else { return };
        let own_index = match node.kind {
            NodeKind::SmmuV3(smmu) => smmu.own_mapping,
            _ => None,
        };
        let own_place = own_index.and_then(|own| node.mappings().nth(usize::try_from(own).ok()?));
        if let (Some(own), None) = (own_index, own_place) {
            // Tables of machines whose SMMU sends no messages hold no mapping at all.
            if node.mappings().next().is_some() {
                self.fault(node.offset, IortFault::NoSuchMapping(own));
            }
        }
        let mut mappings = Vec::new();
        let mut own = Messages::Nobody;
        for mapping in node.mappings() {
            let is_own = own_place.is_some_and(|own| own.offset == mapping.offset);
            if mapping.single && is_own {
                own = self.take_own_messages(mapping, places);
            } else if mapping.single {
                self.fault(mapping.offset, IortFault::SingleMapping);
            } else {
                // Also where the index is of one with ids: firmware that left it at 0 means no mapping of its own.
                mappings.push(self.take_mapping(mapping, places, is_its));
            }
        }
        let Some(smmu) = self.smmus.get_mut(index) else { return };
        smmu.mappings = mappings;
        if let SmmuKind::V3 { messages, .. } = &mut smmu.kind {
            *messages = own;
        }
    }

    /// Where a node's own messages go, by the mapping for them.
    fn take_own_messages(&mut self, mapping: IdMapping, places: &Places) -> Messages {
        match self.take_mapping(mapping, places, is_its).to {
            Ok(to) => to_its(to, mapping.output),
            Err(why) => Messages::Broken(why),
        }
    }

    /// A mapping and where it leads, which must be a node such as `may_be` says.
    fn take_mapping(
        &mut self,
        mapping: IdMapping,
        places: &Places,
        may_be: impl Fn(Target) -> bool,
    ) -> Mapping {
        let IdMapping { offset, first, more, output, reference, single } = mapping;
        let ends = [first, output].map(|start| start.checked_add(more));
        let to = match usize::try_from(reference).ok().and_then(|reference| places.target(reference)) {
            _ if !single && ends.contains(&None) => {
                let start = if ends[0].is_none() { first } else { output };
                Err(self.fault(offset, IortFault::Ids { first: start, more }))
            }
            // Left out, and told already.
            Some(Err(why)) => Err(why),
            Some(Ok(to)) if may_be(to) => {
                let more = if single { 0 } else { more };
                if self.is_beyond(to, output, more) {
                    Err(self.fault(offset, IortFault::Ids { first: output, more }))
                } else {
                    Ok(to)
                }
            }
            Some(Ok(_)) => Err(self.fault(offset, IortFault::WrongTarget(reference))),
            None if places.is_device(reference) => Err(self.fault(offset, IortFault::WrongTarget(reference))),
            None => Err(self.fault(offset, IortFault::NoSuchNode(reference))),
        };
        let (first, last) = if single { (0, u32::MAX) } else { (first, first.saturating_add(more)) };
        let last = last.saturating_add(u32::from(mutant!("iort-one-id-too-many")));
        Mapping { offset, first, last, single, output, to }
    }

    /// Whether StreamIDs are beyond those of their SMMU. Spec: SMMUv2 D.c, 2.2 "Stream identification": a StreamID has at most 16 bits.
    fn is_beyond(&self, to: Target, first: u32, more: u32) -> bool {
        let Target::Smmu(smmu) = to else { return false };
        let is_v2 = matches!(self.smmus.get(smmu), Some(Smmu { kind: SmmuKind::V2(_), .. }));
        is_v2 && first.saturating_add(more) > u16::MAX.into()
    }

    fn take_root_complex(&mut self, node: Node<'_>, root: RootComplexNode, places: &Places) {
        let mappings = node.mappings().map(|mapping| self.take_mapping(mapping, places, |_| true)).collect();
        let Ok(segment) = u16::try_from(root.segment) else {
            self.fault(node.offset, IortFault::Segment(root.segment));
            return;
        };
        self.tell_coherency(node.offset, root.memory);
        let address_bits = root.address_bits.and_then(|bits| self.address_bits(node.offset, bits));
        let pasid_bits = root.pasid_bits.map(|bits| self.pasid_bits(node.offset, bits));
        self.root_complexes.push(RootComplex {
            segment,
            memory: root.memory,
            ats: root.ats & 1 != 0,
            pri: root.ats & 2 != 0,
            pasid_forwarding: root.ats & 4 != 0,
            address_bits,
            pasid_bits,
            mappings,
        });
    }

    fn take_component(&mut self, node: Node<'_>, component: ComponentNode<'_>, places: &Places) {
        let mappings = node.mappings().map(|mapping| self.take_mapping(mapping, places, |_| true)).collect();
        let Some(name) = component.name() else {
            self.fault(node.offset, IortFault::Name);
            return;
        };
        self.tell_coherency(node.offset, component.memory);
        let address_bits = self.address_bits(node.offset, component.address_bits);
        let pasid_bits = self.pasid_bits(node.offset, component.pasid_bits);
        self.components.push(Component {
            name: name.into(),
            memory: component.memory,
            stall: component.stall,
            pasid_bits,
            address_bits,
            mappings,
        });
    }

    fn tell_coherency(&mut self, offset: usize, memory: MemoryAccess) {
        if memory.coherency > 1 {
            self.fault(offset, IortFault::Coherency(memory.coherency));
        }
    }

    fn address_bits(&mut self, offset: usize, bits: u8) -> Option<u8> {
        let can_be = (1..=64).contains(&bits);
        if !can_be {
            self.fault(offset, IortFault::AddressBits(bits));
        }
        can_be.then_some(bits)
    }

    fn pasid_bits(&mut self, offset: usize, bits: u8) -> u8 {
        if bits > MOST_PASID_BITS {
            self.fault(offset, IortFault::PasidBits(bits));
        }
        bits.min(MOST_PASID_BITS)
    }

    fn take_counters(&mut self, node: Node<'_>, counters: CountersNode, places: &Places) {
        let CountersNode { page0, page1, overflow, reference } = counters;
        let pages = core::iter::once(page0).chain(page1);
        if let Some(at) = pages.into_iter().find(|&at| !is_page(at, SMALL_PAGE_BYTES)) {
            self.fault(node.offset, IortFault::Registers(at));
            return;
        }
        let at = usize::try_from(reference).unwrap_or(usize::MAX);
        let of = match places.target(at) {
            Some(Ok(Target::Smmu(index))) => Counted::Smmu(index),
            // Left out, and told already.
            Some(Err(_)) => return,
            None if places.is_device(reference) => Counted::Device(at),
            other => {
                let fault = match other {
                    None => IortFault::NoSuchNode(reference),
                    Some(_) => IortFault::WrongTarget(reference),
                };
                self.fault(node.offset, fault);
                return;
            }
        };
        let messages = match node.mappings().next() {
            Some(mapping) if overflow == 0 => self.take_own_messages(mapping, places),
            _ => Messages::Nobody,
        };
        self.counters.push(Counters { page0, page1, overflow, of, messages });
    }

    fn take_reserved(
        &mut self,
        node: Node<'_>,
        reserved: ReservedNode<'_>,
        places: &Places,
        usable: &[PaRange],
    ) {
        let mut streams = Vec::new();
        for mapping in node.mappings() {
            let taken = self.take_mapping(mapping, places, |to| matches!(to, Target::Smmu(_)));
            if let Ok(Target::Smmu(smmu)) = taken.to {
                let more = if mapping.single { 0 } else { mapping.more };
                streams.push(StreamRange {
                    smmu,
                    first: mapping.output,
                    last: mapping.output.saturating_add(more),
                });
            }
        }
        if node.mappings().next().is_none() {
            self.fault(node.offset, IortFault::CoversNothing);
        }
        if streams.is_empty() {
            return;
        }
        let flags = reserved.flags;
        let access = RmrAccess { privileged: flags & 2 != 0, attributes: (flags >> 2).to_le_bytes()[0] };
        for (offset, base, len_bytes) in reserved.ranges() {
            let range = PaRange::new(Pa::new(base), len_bytes).filter(|range| range.is_aligned(PAGE_BYTES));
            let Some(range) = range else {
                self.fault(offset, IortFault::Region { base, len_bytes });
                continue;
            };
            if usable.iter().any(|ram| ram.overlaps(range)) {
                self.fault(offset, IortFault::RegionInRam(range));
            }
            self.reserved.push(ReservedRegion {
                range,
                remappable: flags & 1 != 0,
                access: (node.revision >= 3).then_some(access),
                streams: streams.clone(),
            });
        }
    }

    /// Tells of mappings that have ids of others before them, among those that are asked together.
    fn tell_overlaps(&mut self) {
        let mut found = Vec::new();
        let roots = &self.root_complexes;
        for (index, root) in roots.iter().enumerate() {
            if roots[..index].iter().all(|before| before.segment != root.segment) {
                let same = roots[index..].iter().filter(|other| other.segment == root.segment);
                overlaps(same.flat_map(|root| &root.mappings), &mut found);
            }
        }
        let components = &self.components;
        for (index, component) in components.iter().enumerate() {
            if components[..index].iter().all(|before| before.name != component.name) {
                let same = components[index..].iter().filter(|other| other.name == component.name);
                overlaps(same.flat_map(|one| &one.mappings).filter(|mapping| !mapping.single), &mut found);
            }
        }
        self.smmus.iter().for_each(|smmu| overlaps(smmu.mappings.iter(), &mut found));
        found.sort_unstable();
        let errors = found.into_iter().map(|offset| IortError { offset, fault: IortFault::Overlap });
        self.faults.extend(errors);
    }
}

impl Places {
    fn target(&self, offset: usize) -> Option<Result<Target, IortError>> {
        self.targets.iter().find_map(|&(at, to)| (at == offset).then_some(to))
    }

    fn is_device(&self, reference: u32) -> bool {
        usize::try_from(reference).is_ok_and(|at| self.devices.contains(&at))
    }
}

fn is_its(to: Target) -> bool {
    matches!(to, Target::Its(_))
}

fn is_page(at: Pa, page_bytes: u64) -> bool {
    at.get() != 0 && at.get().is_multiple_of(page_bytes)
}

/// The offsets of mappings that have ids of ones which begin before them, or where they begin but lie before them.
fn overlaps<'a>(mappings: impl Iterator<Item = &'a Mapping>, found: &mut Vec<usize>) {
    let mut mappings: Vec<&Mapping> = mappings.collect();
    mappings.sort_unstable_by_key(|mapping| (mapping.first, mapping.offset));
    let mut farthest: Option<&Mapping> = None;
    for mapping in mappings {
        if farthest.is_some_and(|before| before.overlaps(mapping)) {
            found.push(mapping.offset);
        }
        if farthest.is_none_or(|before| before.last <= mapping.last) {
            farthest = Some(mapping);
        }
    }
}
