//! Which functions must share a group: those that can reach each other without passing the IOMMU, and those whose requests look
//! the same to it.
//!
//! - A conventional bridge, one between PCI and PCI Express, and everything below: on a bus everyone hears everyone, and
//!   requests may carry the bridge's id.
//! - A root port without full access control, and everything below.
//! - A switch with a downstream port without it, or with anything else where only downstream ports can be, and everything below.
//! - The functions of a device, if one of them does not keep to itself, and everything below those that are bridges.
//! - Functions whose requests may carry the same id, be it one's own or nobody's.
//!
//! Choice: Linux until 6.18 groups a switch's downstream ports one by one, and functions of a device only if both lack access control; what
//! reaches another that way reaches it whatever the other one can. We group whole switches and whole devices.
//! Choice: single-function devices right below the host bridge are taken to be apart, as everywhere else: the book says nothing of
//! the paths inside a root complex.
//!
//! Spec: PCIe 6.0, 6.12 "Access Control Services (ACS)".

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;
use portcullis_spec::pcie::express::PortType;
use portcullis_types::mutant;

use crate::topology::Topology;

/// Sets that can be joined.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// The lowest member of a member's set.
    fn lowest(&mut self, member: usize) -> usize {
        let mut at = member;
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.lowest(a), self.lowest(b));
        self.0[a.max(b)] = a.min(b);
    }
}

impl Topology {
    /// The functions in groups, as indexes into [`functions`](Self::functions), each in rising order; groups by their first members.
    ///
    /// Each function is in one group. Bridges are in groups, too.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut sets = Sets::new(self.functions.len());
        self.join_siblings(&mut sets);
        (0..self.functions.len()).for_each(|function| self.join_below(&mut sets, function));
        self.join_aliases(&mut sets);
        let mut groups: Vec<Vec<usize>> = (0..self.functions.len()).map(|_| Vec::new()).collect();
        for function in 0..self.functions.len() {
            groups[sets.lowest(function)].push(function);
        }
        groups.retain(|group| !group.is_empty());
        groups
    }

    /// Joins the functions of every device that has one which does not keep to itself, with what is below them: what reaches a bridge from beside it goes down.
    fn join_siblings(&self, sets: &mut Sets) {
        let mut devices: BTreeMap<Option<Bdf>, Vec<usize>> = BTreeMap::new();
        for (index, function) in self.functions.iter().enumerate() {
            devices.entry(function.at.sibling(0)).or_default().push(index);
        }
        let isolates = |&function: &usize| {
            self.functions[function].isolates_from_siblings() || mutant!("functions-of-a-device-kept-apart")
        };
        for device in
            devices.values().filter(|functions| functions.len() > 1 && !functions.iter().all(isolates))
        {
            for &function in device {
                sets.join(device[0], function);
                self.below(function).for_each(|other| sets.join(function, other));
            }
        }
    }

    /// Joins functions that cannot be told apart.
    fn join_aliases(&self, sets: &mut Sets) {
        let mut users = BTreeMap::new();
        for function in 0..self.functions.len() {
            for id in self.requester_ids(function) {
                sets.join(*users.entry(id).or_insert(function), function);
            }
        }
    }

    /// Joins a bridge that does not keep apart what is below it with that.
    fn join_below(&self, sets: &mut Sets, function: usize) {
        let own = &self.functions[function];
        let is_bridge = own.bridge().is_some();
        let inside = own.above.filter(|&above| self.functions[above].port == Some(PortType::UPSTREAM_PORT));
        let top = match (own.port, inside) {
            (Some(PortType::DOWNSTREAM_PORT), _) if is_bridge && own.isolates_below() => return,
            // Requests from below this port can turn to every other port of the switch.
            (Some(PortType::DOWNSTREAM_PORT), _) if mutant!("open-port-of-a-switch-grouped-alone") => {
                function
            }
            // Inside a switch are downstream ports alone: what else is there may turn requests around, or reach all ports itself.
            (_, Some(switch)) => switch,
            (Some(PortType::UPSTREAM_PORT), None) => return,
            (Some(PortType::ROOT_PORT), None) if own.isolates_below() => return,
            (Some(PortType::DOWNSTREAM_PORT), None) if is_bridge => own.above.unwrap_or(function),
            (_, None) if is_bridge => function,
            (_, None) => return,
        };
        self.below(top).for_each(|other| sets.join(top, other));
    }

    /// What is below a bridge. Depth first, it follows the bridge; its buses are the bridge's.
    fn below(&self, top: usize) -> impl Iterator<Item = usize> {
        let bridge = self.functions[top].bridge();
        let buses = bridge.and_then(|bridge| Some(bridge.secondary?..=bridge.subordinate));
        (top + 1..self.functions.len()).take_while(move |&other| {
            buses.as_ref().is_some_and(|buses| buses.contains(&self.functions[other].at.bus()))
        })
    }
}
