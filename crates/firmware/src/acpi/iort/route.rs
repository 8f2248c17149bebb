//! Where ids lead: from devices to streams of SMMUs, and to ITSs.
//!
//! Spec: Arm DEN0049 E.f, "ID mappings".

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;

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
            (Err(why), _) => return Found::Broken(why),
            (Ok(to), None) => first = Some((mapping, to)),
            (Ok(_), Some(_)) => second = second.or(Some(mapping)),
        }
    }
    match (first, second) {
        (Some((one, _)), Some(two)) => Found::Disputed(one.offset, two.offset),
        (Some((one, to)), None) => Found::One(one, to),
        (None, _) => Found::None,
    }
}

impl Remapping {
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
