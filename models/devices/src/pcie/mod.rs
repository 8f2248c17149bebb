//! PCI Express: the root complex, bridges, and what a function is made of.
//!
//! A [`RootComplex`] answers CPUs; below it, [`PciBus`]es hold [`Function`]s in their slots, some of which are [`Bridge`]s to
//! other buses. A function has a [`ConfigSpace`], [`Bar`]s, a [`Requester`] to reach memory with, and [`Messages`] to
//! interrupt with. A function that shares address spaces has an [`Atc`] for translations, [`Pages`] to request what is not there, and a
//! [`PasidControl`] that says which address spaces it may name.

mod atc;
mod bar;
mod bridge;
mod capability;
mod config;
mod function;
mod message;
mod pages;
mod pasids;
mod pci_bus;
mod requester;
mod rid;
mod root;
mod strict;

pub use atc::{Access, Atc, AtcCounts, AtcOptions, Behaviour};
pub use bar::Bar;
pub use bridge::{Bridge, BridgeOptions};
pub use capability::{Acs, Ats, PageRequests, Pasids, PortKind};
pub(crate) use capability::{
    DEVICE_CAPABILITIES_2, DEVICE_CONTROL, INITIATE_RESET, PASSES_PREFIXES, express,
};
pub use config::{COMMAND_MASTER, COMMAND_MEMORY, CONFIG_BYTES, ConfigBuilder, ConfigSpace, Identity};
pub use function::Function;
pub use message::{MessageLayout, Messages, Places, Raised};
pub use pages::{GroupState, PageBehaviour, PageCounts, Pages, Refused, Ticket};
pub use pasids::PasidControl;
pub use pci_bus::{PciBus, SlotTaken};
pub use requester::{Host, RequestError, Requester};
pub use rid::{Rid, RidMap, RidRange};
pub use root::{RootComplex, RootLayout, Window};
pub use strict::clause;
