//! A strict executable model of Arm SMMUv3: the judge of the driver.
//!
//! An [`Smmu`] has the registers, queues, walks, caches, events and messages of the real thing, for the Non-secure state. A
//! cooperative device cannot tell it from silicon; a wrong driver cannot get past it: it keeps stale entries for as long as the
//! book allows, and lists everything software does that the book forbids ([`Unpredictable`]). It is written from the
//! book, and not from the driver.
//!
//! | the book | here |
//! |---|---|
//! | StreamID, SubstreamID | `stream`, `substream`; in a `model_bus::Request` `source`, `pasid` |
//! | STE, CD | `Ste`, `Cd` |
//! | stage 1, stage 2 | the same |
//! | event | [`EventKind`] |
//! | StreamWorld | `World` |
//! | ATS Translation Request, Translated transaction, PRI message | `model_bus::{TranslationRequest, TranslatedRequest, PageRequest}` |
//! | ATS Invalidate Request, PRG Response | `model_bus::{Invalidation, PageResponse}` |
//!
//! Where to look: what happens to an access `translate`, its configuration `stream_table` and `contexts`, its walk `walk`;
//! what is wrong with an STE `ste`, with a CD `cd`, with a command `command`; what a command removes `scope` and `cache`;
//! when it does `execute`; what devices with an ATC ask `ats`, and are told `atc`; page requests `pri`; what registers do `program`;
//! what the hardware does unasked `mischief`; what accesses are held back `hold` and `stall`; what walks store `update`; what CPUs broadcast `broadcast`;
//! all forbidden things [`clause`].
//!
//! Spec: SMMUv3 H.a is Arm IHI 0070 H.a; tables are those of Arm DDI 0487 (A-profile), VMSAv8-64.
//! Not here, yet: ATS with a device permission table, recording of ATS's configuration errors, Secure and Realm states, 32-bit and 128-bit tables.
#![forbid(unsafe_code)]

mod atc;
mod ats;
mod broadcast;
mod cache;
mod cd;
mod command;
mod config;
mod contexts;
mod counters;
mod cr;
mod descriptor;
mod downstream;
mod engine;
mod event;
mod execute;
mod geometry;
mod hold;
mod micro;
mod mischief;
mod policy;
mod pri;
mod program;
mod queue;
mod registers;
mod report;
mod scope;
mod smmu;
mod stall;
mod state;
mod ste;
mod stream_table;
mod strict;
mod tlb;
mod translate;
mod update;
mod walk;

pub use broadcast::{Broadcast, BroadcastRegime, BroadcastScope};
pub use config::{Config, HardwareUpdate, StallModel};
pub use counters::Counters;
pub use event::{Class, EventKind};
pub use model_bus::Unpredictable;
pub use policy::Policy;
pub use smmu::{Outlook, Smmu};
pub use state::Lines;
pub use strict::clause;

/// The room that trace events of this crate name.
pub(crate) const SOURCE: &str = "model.smmuv3";
