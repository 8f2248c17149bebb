//! Where ids lead: from devices to streams of SMMUs, and to ITSs.
//!
//! Spec: Arm DEN0049 E.f, "ID mappings".

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;
use portcullis_types::mutant;

use super::{IortError, Remapping};

/// A node that ids are mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An index into [`Remapping::smmus`].
    Smmu(usize),
    /// An index into [`Remapping::its_groups`].
    Its(usize),
}

/// A mapping, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Where it lies in the table.
    pub(super) offset: usize,
    /// The ids that it claims, of a single one all.
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) single: bool,
    pub(super) output: u32,
    pub(super) to: Result<Target, IortError>,
}

/// What a device's accesses go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma {
    /// An SMMU, as a stream of it.
    Smmu {
        /// The SMMU's index in [`Remapping::smmus`].
        smmu: usize,
        /// The StreamID.
        stream: u32,
    },
    /// No SMMU: the table leads its ids to ITSs without one.
    Past,
    /// Two mappings claim it, at these places of the table. It is covered by neither.
    ///
    /// Choice: the book lets no id be in two mappings. To take the first would put the device behind an SMMU, or a stream, where its accesses may not arrive.
    /// Observed: QEMU 7.2 writes one id too many, the number of them where one less should be; Linux 6.1, iort_id_map, then takes the mapping that begins with the id.
    Disputed(usize, usize),
    /// What claims it was left out: for this reason.
    Broken(IortError),
    /// Nothing that the table knows.
    Nobody,
}

/// Where a device's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// To a group of ITSs, as a device of theirs.
    Its {
        /// The group's index in [`Remapping::its_groups`].
        group: usize,
        /// The DeviceID.
        device: u32,
    },
    /// Two mappings claim them, at these places of the table.
    Disputed(usize, usize),
    /// What claims them was left out: for this reason.
    Broken(IortError),
    /// To no ITS that the table knows.
    Nobody,
}

/// Where an id leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What its accesses go through.
    pub dma: Dma,
    /// Where its messages go.
    pub messages: Messages,
}

/// Where a device of the name space leads without ids of its own: by its single mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentRoutes {
    /// Its streams, one for each of its mappings to an SMMU, and what claims more of them but is broken. None if it is behind no SMMU.
    pub dma: Vec<Dma>,
    /// Where its messages go: by its mappings to ITSs; where it has none, by its streams.
    pub messages: Vec<Messages>,
}

impl Mapping {
    fn claims(&self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// What an id of its own is at its target. No sum wraps: mappings that would are broken.
    fn output_of(&self, id: u32) -> u32 {
        if mutant!("iort-id-not-changed-by-its-mapping") {
            return id;
        }
        if self.single { self.output } else { self.output.wrapping_add(id.wrapping_sub(self.first)) }
    }
}

/// The mapping that claims an id.
enum Found<'a> {
    One(&'a Mapping, Target),
    Disputed(usize, usize),
    Broken(IortError),
    None,
}

/// Whose an id is among mappings. A broken one goes before all.
fn find<'a>(mappings: impl Iterator<Item = &'a Mapping>, id: u32) -> Found<'a> {
    let (mut first, mut second) = (None, None);
    for mapping in mappings.filter(|mapping| mapping.claims(id)) {
        match (mapping.to, first) {
            (Err(_), _) if mutant!("iort-broken-mapping-passed-over") => {}
            (Err(why), _) => return Found::Broken(why),
            (Ok(to), None) => first = Some((mapping, to)),
            (Ok(_), Some(_)) => second = second.or(Some(mapping)),
        }
    }
    match (first, second) {
        (Some((one, to)), Some(_)) if mutant!("iort-disputed-id-to-the-first-mapping") => Found::One(one, to),
        (Some((one, _)), Some(two)) => Found::Disputed(one.offset, two.offset),
        (Some((one, to)), None) => Found::One(one, to),
        (None, _) => Found::None,
    }
}

/// Requester ids that one after the other lead to ids one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first, and how many there are.
    pub(crate) first: u16,
    pub(crate) count: u32,
    /// Where the first one leads.
    pub(crate) route: Route,
}

/// Where all requester ids of a segment lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// The table has no root complex of it.
    Unknown,
    /// All of them to one stream, or as one device.
    AsOne(Route),
    /// Each to its own.
    Runs(Vec<Run>),
    /// All of them to one, and some also to another.
    Broken,
}

impl Remapping {
    /// Where all requester ids of a segment lead.
    ///
    /// Choice: a mapping of all ids to one beside others is a table that nobody means. None of its ids leads anywhere.
    pub(crate) fn segment(&self, segment: u16) -> Segment {
        let mut roots = self.root_complexes.iter().filter(|root| root.segment == segment).peekable();
        if roots.peek().is_none() {
            return Segment::Unknown;
        }
        let mappings: Vec<&Mapping> = roots.flat_map(|root| &root.mappings).collect();
        match mappings[..] {
            [one] if one.single => Segment::AsOne(self.function(segment, Bdf::from_requester_id(0))),
            _ if mappings.iter().any(|mapping| mapping.single) => Segment::Broken,
            _ => Segment::Runs(self.runs(segment, &mappings)),
        }
    }

    /// Whether the table leads ids of a segment, if any, to ITSs alone: without an SMMU on the way.
    pub(crate) fn is_past_smmus(&self, segment: u16) -> bool {
        let mut roots = self.root_complexes.iter().filter(|root| root.segment == segment).peekable();
        roots.peek().is_some()
            && roots.flat_map(|root| &root.mappings).all(|mapping| matches!(mapping.to, Ok(Target::Its(_))))
    }

    /// Whether a device of the name space has ids of its own.
    pub(crate) fn has_ids(&self, name: &str) -> bool {
        let nodes = self.components.iter().filter(|component| component.name == name);
        nodes.flat_map(|node| &node.mappings).any(|mapping| !mapping.single)
    }

    fn runs(&self, segment: u16, mappings: &[&Mapping]) -> Vec<Run> {
        // Where something may begin or end: at a mapping's ends, and at those of the mappings that its streams meet.
        let mut edges = BTreeSet::from([0]);
        let mut add = |edge: Option<u32>| edges.extend(edge.and_then(|edge| u16::try_from(edge).ok()));
        for mapping in mappings {
            [Some(mapping.first), mapping.last.checked_add(1)].into_iter().for_each(&mut add);
            let Ok(Target::Smmu(smmu)) = mapping.to else { continue };
            let beyond = self.smmus.get(smmu).map_or(&[][..], |smmu| &smmu.mappings);
            for edge in beyond.iter().flat_map(|next| [Some(next.first), next.last.checked_add(1)]).flatten()
            {
                let offset =
                    edge.checked_sub(mapping.output).filter(|&by| by <= mapping.last - mapping.first);
                add(offset.and_then(|by| mapping.first.checked_add(by)));
            }
        }
        let firsts = edges.iter().copied();
        let ends = edges.iter().skip(1).map(|&edge| u32::from(edge)).chain([0x1_0000]);
        let runs = firsts.zip(ends).map(|(first, end)| Run {
            first,
            count: end - u32::from(first),
            route: self.function(segment, Bdf::from_requester_id(first)),
        });
        runs.collect()
    }

    /// Where a PCI function leads, by the id that its requests carry.
    pub fn function(&self, segment: u16, function: Bdf) -> Route {
        let roots = self.root_complexes.iter().filter(|root| root.segment == segment);
        self.route(roots.flat_map(|root| &root.mappings), function.requester_id().into())
    }

    /// Where a device of the name space leads without ids of its own. None if the table does not know it.
    pub fn component(&self, name: &str) -> Option<ComponentRoutes> {
        let mut nodes = self.components.iter().filter(|component| component.name == name).peekable();
        nodes.peek()?;
        let mut routes = ComponentRoutes { dma: Vec::new(), messages: Vec::new() };
        let mut by_stream = Vec::new();
        for mapping in nodes.flat_map(|node| &node.mappings).filter(|mapping| mapping.single) {
            match mapping.to {
                Err(why) => {
                    routes.dma.push(Dma::Broken(why));
                    by_stream.push(Messages::Broken(why));
                }
                Ok(Target::Smmu(smmu)) => {
                    routes.dma.push(Dma::Smmu { smmu, stream: mapping.output });
                    by_stream.push(self.messages_of(smmu, mapping.output));
                }
                Ok(Target::Its(group)) => {
                    routes.messages.push(Messages::Its { group, device: mapping.output })
                }
            }
        }
        if routes.messages.is_empty() {
            routes.messages = by_stream;
        }
        Some(routes)
    }

    /// Where a device of the name space leads that has ids of its own, which its mappings say: a bus with devices of its own, for instance.
    pub fn component_id(&self, name: &str, id: u32) -> Route {
        let nodes = self.components.iter().filter(|component| component.name == name);
        self.route(nodes.flat_map(|node| &node.mappings).filter(|mapping| !mapping.single), id)
    }

    /// Where the messages of an SMMU's stream go.
    pub fn messages_of(&self, smmu: usize, stream: u32) -> Messages {
        let mappings = self.smmus.get(smmu).map_or(&[][..], |smmu| &smmu.mappings);
        match find(mappings.iter(), stream) {
            Found::One(mapping, to) => to_its(to, mapping.output_of(stream)),
            Found::Disputed(one, two) => Messages::Disputed(one, two),
            Found::Broken(why) => Messages::Broken(why),
            Found::None => Messages::Nobody,
        }
    }

    fn route<'a>(&self, mappings: impl Iterator<Item = &'a Mapping>, id: u32) -> Route {
        match find(mappings, id) {
            Found::One(mapping, Target::Smmu(smmu)) => {
                let stream = mapping.output_of(id);
                Route { dma: Dma::Smmu { smmu, stream }, messages: self.messages_of(smmu, stream) }
            }
            Found::One(mapping, to) => Route { dma: Dma::Past, messages: to_its(to, mapping.output_of(id)) },
            Found::Disputed(one, two) => {
                Route { dma: Dma::Disputed(one, two), messages: Messages::Disputed(one, two) }
            }
            Found::Broken(why) => Route { dma: Dma::Broken(why), messages: Messages::Broken(why) },
            Found::None => Route { dma: Dma::Nobody, messages: Messages::Nobody },
        }
    }
}

pub(super) fn to_its(to: Target, device: u32) -> Messages {
    match to {
        Target::Its(group) => Messages::Its { group, device },
        Target::Smmu(_) => Messages::Nobody,
    }
}
