//! Who covers a PCI function.
//!
//! A function is named by the way to it from its host bridge, as the table names it: bus numbers behind bridges are the embedder's choice, and
//! change. Functions beyond the eighth of an endpoint (ARI) and virtual functions (SR-IOV) are covered with the physical function whose they are: the
//! embedder asks for that one.
//!
//! Spec: VT-d 5.10, 8.3 "DMA Remapping Hardware Unit Definition Structure", INCLUDE_PCI_ALL; 8.3.1 "Device Scope Structure"; 8.3.2 "Implications for
//! ARI"; 8.3.3 "Implications for SR-IOV".

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;
use portcullis_types::mutant;

use super::{DmarError, Remapping, ScopeEntry, ScopeKind, Unit};

/// A PCI function, by the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DevicePath {
    /// The PCI segment.
    pub segment: u16,
    /// The first bus of its host bridge.
    pub start_bus: u8,
    /// Device and function of each bridge on the way, and of the function.
    pub path: Vec<(u8, u8)>,
}

/// An entry of a device scope, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedDevice {
    /// What it is.
    pub kind: ScopeKind,
    /// Of an I/O APIC its id, of a timer block its number, of a device of the name space its number; else reserved.
    pub enumeration_id: u8,
    /// The first bus of the way.
    pub start_bus: u8,
    /// Device and function of each step.
    pub path: Vec<(u8, u8)>,
}

/// Who covers a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The unit with this index in [`Remapping::units`].
    Unit(usize),
    /// Two units claim it. It is covered by neither.
    ///
    /// Choice: the book lets no device be in two scopes. To take the first would put the device behind a unit that may not see its accesses, which would
    /// then go where nobody looks.
    Disputed(usize, usize),
    /// A unit that was left out claims it: for this reason.
    Broken(DmarError),
    /// Nobody.
    Nobody,
}

/// What a unit that was left out would have covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) why: DmarError,
    pub(super) segment: u16,
    pub(super) include_all: bool,
    pub(super) devices: Vec<ScopedDevice>,
}

impl ScopedDevice {
    pub(super) fn new(entry: ScopeEntry<'_>) -> Self {
        Self {
            kind: entry.kind(),
            enumeration_id: entry.enumeration_id(),
            start_bus: entry.start_bus(),
            path: entry.path().collect(),
        }
    }

    /// Whether it names this function: itself, or the bridge that it is, or a bridge on the way to it.
    pub fn names(&self, function: &DevicePath) -> bool {
        self.names_path(function.start_bus, &function.path)
    }

    fn names_path(&self, start_bus: u8, path: &[(u8, u8)]) -> bool {
        if self.start_bus != start_bus {
            return false;
        }
        match self.kind {
            ScopeKind::Endpoint => self.path == path,
            ScopeKind::SubHierarchy if mutant!("dmar-bridge-without-what-is-behind-it") => self.path == path,
            ScopeKind::SubHierarchy => path.starts_with(&self.path),
            _ => false,
        }
    }

    /// Whether some function is named by both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let pci = self.kind.is_pci() && other.kind.is_pci();
        let names = |one: &Self, two: &Self| one.names_path(two.start_bus, &two.path);
        pci && (names(self, other) || names(other, self))
    }

    /// Whether it is the device of the name space with this number.
    pub(super) fn is_named_device(&self, number: u8) -> bool {
        self.kind == ScopeKind::NamespaceDevice && self.enumeration_id == number
    }

    /// The id of a device of the name space. None where its path is no function of a bus.
    ///
    /// Spec: VT-d 5.10, 8.7 "ACPI Name-space Device Declaration Structure": the first bus and the path are its source-id together.
    fn named_device_id(&self) -> Option<u16> {
        let [(device, function)] = self.path[..] else { return None };
        Bdf::new(self.start_bus, device, function).map(Bdf::requester_id)
    }
}

pub(super) fn named(devices: &[ScopedDevice], function: &DevicePath) -> bool {
    devices.iter().any(|device| device.names(function))
}

impl Remapping {
    /// Who a device of the name space is at which units. None if a unit that was left out claims it, or a scope says of it what is no id.
    pub fn ids_of(&self, number: u8) -> Option<Vec<(usize, u16)>> {
        let mut left_out = self.broken.iter().flat_map(|claim| &claim.devices);
        if left_out.any(|device| device.is_named_device(number)) {
            return None;
        }
        let units = self.units.iter().enumerate();
        let entries = units.flat_map(|(unit, it)| it.devices.iter().map(move |device| (unit, device)));
        let its = entries.filter(|(_, device)| device.is_named_device(number));
        its.map(|(unit, device)| Some((unit, device.named_device_id()?))).collect()
    }

    /// Who covers this function.
    pub fn cover(&self, function: &DevicePath) -> Cover {
        let here = |segment: u16| segment == function.segment || mutant!("dmar-namesake-of-another-segment");
        let broken = self.broken.iter().find(|claim| here(claim.segment) && named(&claim.devices, function));
        if let Some(claim) = broken.filter(|_| !mutant!("dmar-claim-of-a-broken-unit-passed-over")) {
            return Cover::Broken(claim.why);
        }
        let by_name = |unit: &Unit| here(unit.segment) && named(&unit.devices, function);
        let mut claimants = (0..self.units.len()).filter(|&index| by_name(&self.units[index]));
        match (claimants.next(), claimants.next()) {
            (Some(first), Some(_)) if mutant!("dmar-disputed-function-to-the-first-unit") => {
                return Cover::Unit(first);
            }
            (Some(first), Some(second)) => return Cover::Disputed(first, second),
            (Some(only), None) => return Cover::Unit(only),
            (None, _) => {}
        }
        // Two units for all that is left: which of them sees the device, nobody knows.
        if let Some(claim) = self.broken.iter().find(|claim| here(claim.segment) && claim.include_all) {
            return Cover::Broken(claim.why);
        }
        let rest = self.units.iter().position(|unit| here(unit.segment) && unit.include_all);
        rest.map_or(Cover::Nobody, Cover::Unit)
    }
}
