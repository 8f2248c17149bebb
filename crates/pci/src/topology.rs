//! Every function below a host bridge, and what is above it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use portcullis_spec::pcie::express::PortType;
use portcullis_spec::pcie::header::{CLASS_NVME, ClassRevision};
use portcullis_spec::pcie::{Bdf, Space};
use portcullis_types::mutant;

use crate::acs::Acs;
use crate::bar::Bar;
use crate::bridge::{IoWidth, PrefetchableWidth};
use crate::capability::Capabilities;
use crate::config::{ConfigAccess, set_bus_master};
use crate::name::FunctionName;
use crate::problem::Problem;
use crate::scan::is_link_below;

/// Every function below a host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Topology {
    /// The host bridge's segment.
    pub segment: u16,
    /// The functions, depth first: a bridge comes before what is below it, and that before what is beside it.
    pub functions: Vec<Function>,
    /// What is wrong with single functions.
    pub problems: Vec<Problem>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub at: Bdf,
    /// The bridge above it, as an index into [`Topology::functions`]; none right below the host bridge.
    pub above: Option<usize>,
    /// Who made it.
    pub vendor: u16,
    /// Which of the vendor's devices it is.
    pub device: u16,
    /// What it does, and its revision.
    pub class: ClassRevision,
    /// Whether it is an endpoint or a bridge.
    pub kind: Kind,
    /// What kind of port or endpoint it is; none for conventional PCI, and where capabilities cannot be listed.
    pub port: Option<PortType>,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// What its base address registers ask for, and where they are.
    pub bars: Vec<Bar>,
    /// What it keeps apart; none if it cannot.
    pub acs: Option<Acs>,
    /// Ids that its requests may carry besides its own, by no rule of the book ([`AliasQuirk`](crate::AliasQuirk)).
    pub aliases: Vec<Bdf>,
}

/// Whether a function is an endpoint or a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An endpoint.
    Endpoint,
    /// A bridge, root ports and switch ports included.
    Bridge(Bridge),
    /// Neither: its header has a layout that is not known.
    Unknown,
}

/// What is below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus right below; none if it has no bus number, and nothing below was looked at.
    pub secondary: Option<u8>,
    /// The highest bus below; meaningless without `secondary`.
    pub subordinate: u8,
    /// Its prefetchable window.
    pub prefetchable: PrefetchableWidth,
    /// Its I/O window.
    pub io: IoWidth,
}

impl Function {
    /// The bridge in it, if it is one.
    pub fn bridge(&self) -> Option<Bridge> {
        match self.kind {
            Kind::Bridge(bridge) => Some(bridge),
            Kind::Endpoint | Kind::Unknown => None,
        }
    }

    /// The base address register with this number.
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// Whether all its memory registers have been placed, so that it answers memory requests.
    pub fn is_placed(&self) -> bool {
        self.bars.iter().all(|bar| bar.space == Space::Io || bar.placed.is_some())
    }

    /// Whether it says that it is an NVMe controller.
    pub fn is_nvme(&self) -> bool {
        [self.class.base_class(), self.class.subclass(), self.class.interface()] == CLASS_NVME
    }
}

impl Topology {
    /// The full name of a function: `0000:00:01.0`.
    pub fn name(&self, at: Bdf) -> FunctionName {
        FunctionName { segment: self.segment, at }
    }

    /// The function at `at`, as an index into [`functions`](Self::functions).
    pub fn find(&self, at: Bdf) -> Option<usize> {
        self.functions.iter().position(|function| function.at == at)
    }

    /// The bridge above a function, the one above that, and so on, as indexes. Empty if there is no such function.
    pub fn bridges_above(&self, function: usize) -> impl Iterator<Item = usize> {
        let above = |index: usize| self.functions.get(index).and_then(|function| function.above);
        core::iter::successors(above(function), move |&bridge| above(bridge))
    }

    /// Lets a function and every bridge above it send requests. Does nothing if there is no such function.
    ///
    /// The function must be attached to something before, or its requests go where nobody decided that they may.
    pub fn enable_bus_master(&self, config: &(impl ConfigAccess + ?Sized), function: usize) {
        let bridges: Vec<usize> = self.bridges_above(function).collect();
        for function in bridges.into_iter().rev().chain([function]) {
            if let Some(function) = self.functions.get(function) {
                set_bus_master(config, function.at, true);
            }
        }
    }

    /// Keeps a function from sending requests. Bridges above it may serve others, and are left as they are.
    pub fn disable_bus_master(&self, config: &(impl ConfigAccess + ?Sized), function: usize) {
        if let Some(function) = self.functions.get(function) {
            set_bus_master(config, function.at, false);
        }
    }

    /// As whom requests of a function may arrive at the top: itself first, then its aliases, then bridges that put their own id on what they
    /// pass up.
    ///
    /// Empty if there is no such function. An id may be another function's, or nobody's.
    ///
    /// Spec: PCI Express to PCI/PCI-X Bridge Specification 1.0, 2.3 "Assignment of Requester ID and Tag by the Bridge" (the id is
    /// the secondary bus's number, device 0, function 0). A conventional bridge, and one from PCI up to PCI Express, may use its own id.
    pub fn requester_ids(&self, function: usize) -> Vec<Bdf> {
        let Some(own) = self.functions.get(function) else { return Vec::new() };
        let mut ids = alloc::vec![own.at];
        ids.extend(own.aliases.iter().filter(|_| !mutant!("aliases-of-a-function-overlooked")));
        for id in self.bridges_above(function).flat_map(|bridge| self.lent_ids(bridge)).flatten() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// What a bridge may put on requests that it passes up: its own id, and the one that stands for the bus below.
    ///
    /// Choice: a bridge right below a link that says nothing of PCI Express cannot be what it says, since a link ends in PCI Express: it leads
    /// down from there, and may use either.
    /// Observed: Linux 6.18, drivers/pci/quirks.c, `quirk_use_pcie_bridge_dma_alias`: bridges of ASMedia, Tundra, ITE and Intel are like that.
    fn lent_ids(&self, bridge: usize) -> [Option<Bdf>; 2] {
        let function = &self.functions[bridge];
        let of_bus = function.bridge().and_then(|bridge| Bdf::new(bridge.secondary?, 0, 0));
        let ends_a_link = function.above.is_some_and(|above| is_link_below(self.functions[above].port));
        match function.port {
            Some(PortType::ROOT_PORT | PortType::UPSTREAM_PORT | PortType::DOWNSTREAM_PORT) => [None, None],
            Some(PortType::EXPRESS_TO_PCI_BRIDGE) if mutant!("id-of-a-bridge-overlooked") => [None, None],
            Some(PortType::EXPRESS_TO_PCI_BRIDGE) => [None, of_bus],
            None if ends_a_link => [Some(function.at), of_bus],
            _ => [Some(function.at), None],
        }
    }

    /// The requester ids of functions that are in one group, each id once, in the functions' order: an id that is a function's own is with that function, and
    /// one that several may carry with the first of them.
    ///
    /// An IOMMU knows an id as one device's. That is enough, for the members of a group go together wherever they go. It means that an id goes when
    /// the device goes that it is with: if others of the group stay, it is to be given to one of them.
    pub fn distinct_ids(&self, group: &[usize]) -> Vec<Vec<Bdf>> {
        let own: BTreeSet<Bdf> = self.functions.iter().map(|function| function.at).collect();
        let mut taken = BTreeSet::new();
        let distinct = |&function: &usize| {
            let mut ids = self.requester_ids(function);
            let at = ids.first().copied();
            ids.retain(|&id| (Some(id) == at || !own.contains(&id)) && taken.insert(id));
            ids
        };
        group.iter().map(distinct).collect()
    }
}
