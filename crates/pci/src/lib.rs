//! PCI Express: configuration space, enumeration, interrupts, address services, and which functions must share a group.
//!
//! [`enumerate`] takes a [`ConfigAccess`] (an [`Ecam`], for instance) and a [`HostBridge`], numbers the buses, sizes and places
//! what base address registers ask for, turns on access control, and answers with a [`Topology`]: every function there is,
//! what is above it, where its registers are, and what was wrong. [`Topology::groups`] says who cannot be kept apart from whom,
//! [`Topology::requester_ids`] as whom a function's requests arrive, also where it does not use its own id ([`AliasQuirk`]).
//!
//! [`Below`] resets what is below a bridge and sets it up again.
//!
//! [`AddressServices`] are ATS, page requests and PASIDs of a function: what it has of them, why not the others, and how they are turned on and off.
//!
//! # Who may do what, when
//!
//! After enumeration every function answers to memory requests (if all its registers found room) and **none may send any**: bus
//! mastering is off, whatever firmware left on, and there are no virtual functions. [`Topology::enable_bus_master`] turns it on for one function and the bridges
//! above it, and belongs after that function has been attached to something. Access control is on before that.
//!
//! # What is not believed
//!
//! Configuration space belongs to the device. Lists of capabilities end or are refused; sizes that cannot be are refused; a bridge that does
//! not keep its bus numbers is not followed. Such a function is listed among [`Topology::problems`], its registers are not placed, and
//! where isolation is concerned the worst is assumed of it. Enumeration always ends: it looks at each of 65536 functions at most once.
//!
//! # Words
//!
//! | here | PCI Express |
//! |---|---|
//! | function | function, or device where it has one function |
//! | requester id, source id | routing id of a request: bus, device, function |
//! | window | base and limit of a bridge; memory or I/O range of a host bridge |
//!
//! Spec: PCIe 6.0. Not here: layouts (`spec::pcie`), who is behind which IOMMU (`firmware`), groups as core knows them (`core`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod acs;
mod assign;
mod bar;
mod bridge;
mod capability;
mod config;
mod ecam;
mod groups;
mod host;
mod msi;
mod msix;
mod name;
mod problem;
mod quirks;
mod reset;
mod scan;
mod services;
mod topology;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "words are cut from longer numbers on purpose")]
mod fake;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "words are cut from longer numbers on purpose")]
mod tests;

pub use acs::Acs;
pub use bar::{Bar, Placed};
pub use bridge::{IoWidth, PrefetchableWidth};
pub use capability::{Capabilities, CapabilityFault};
pub use config::{ConfigAccess, is_there, set_bus_master, set_interrupt_disable, set_memory_space};
pub use ecam::Ecam;
pub use host::HostBridge;
pub use msi::{Message, MsiCapability, MsiFault};
pub use msix::{MsixCapability, MsixFault, MsixTable};
pub use name::{FunctionName, NotAName};
pub use portcullis_spec::pcie::{Bdf, HostWindow, Space};
pub use problem::{BarFault, Fault, Problem};
pub use quirks::{ALIASES, Alias, AliasQuirk, ISOLATING, Isolation};
pub use reset::{Below, ResetError};
pub use services::{
    AddressServices, Ats, AtsSwitch, HostTrust, Missing, PasidPermissions, Pasids, Pri, SavedServices,
    ServiceError,
};
pub use topology::{Bridge, Function, Kind, Topology};

/// Finds every function below `host`, and makes it ready: buses numbered, registers placed, access control on, bus mastering off.
///
/// What is wrong with single functions is in [`Topology::problems`].
pub fn enumerate(config: &(impl ConfigAccess + ?Sized), host: &HostBridge) -> Topology {
    enumerate_with(config, host, &[])
}

/// The same, where the embedder knows devices that use other ids than their own, besides those in [`ALIASES`].
pub fn enumerate_with(
    config: &(impl ConfigAccess + ?Sized),
    host: &HostBridge,
    aliases: &[AliasQuirk],
) -> Topology {
    let mut topology = scan::scan(config, host);
    quirks::note_aliases(config, &mut topology, aliases);
    assign::assign(config, host, &mut topology);
    acs::enable_all(config, &mut topology);
    topology
}
