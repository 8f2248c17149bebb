//! A strict executable model of Arm SMMUv2: the judge of the driver.
//!
//! An [`Smmu`] has the registers, stream mapping, context banks, walks, TLB, faults and interrupt lines of the real thing, for an implementation with one Security
//! state. A cooperative device cannot tell it from silicon; a wrong driver cannot get past it: it keeps stale entries for as long as the
//! book allows, and lists everything software does that the book forbids ([`Unpredictable`]). It is written from the
//! book, and not from the driver.
//!
//! | the book | here |
//! |---|---|
//! | StreamID | `stream`; in a `model_bus::Request` `source` |
//! | stream mapping register group (SMR, S2CR) | group |
//! | translation context bank | bank |
//! | stage 1, stage 2 | the same |
//! | IPA | intermediate address |
//! | report a fault (CFRE, GFRE) | an access is aborted, rather than read as zero and ignored |
//! | HYPC | hypervisor |
//!
//! Where to look: where a stream goes `stream`; what banks' registers mean `regime`; what happens to an access `verdict`, `translate`, `walk`; what is cached `tlb`; when it is
//! removed `maintenance`; what registers do `program` and `program_bank`; what is told of a fault `fault` and `verdict`; what is held back `stall`; interrupts [`InterruptLines`];
//! what the hardware does unasked `mischief`; what CPUs broadcast [`Broadcast`]; what it may choose [`Policy`]; all forbidden things [`clause`].
//!
//! Spec: SMMUv2 D.c is Arm IHI 0062 D.c; tables are those of Arm DDI 0487 (A-profile), VMSAv8-64, and of the AArch32 Long-descriptor scheme.
//! Not here: the Short-descriptor scheme, two Security states, extended stream matching and compressed indexing, address translation operations, E2H contexts, hardware
//! update of the access flag, performance monitors, global stalls, memory attributes (which change no address).
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "fields are narrower than what they are kept in, and hosts have 64 bits"
)]

mod bank;
mod bits;
mod broadcast;
mod config;
mod counters;
mod descriptor;
mod fault;
mod geometry;
mod lines;
mod maintenance;
mod mischief;
mod policy;
mod program;
mod program_bank;
mod regime;
mod registers;
mod smmu;
mod stall;
mod state;
mod stream;
mod strict;
mod tlb;
mod translate;
mod verdict;
mod walk;

pub use broadcast::Broadcast;
pub use config::Config;
pub use counters::Counters;
pub use fault::FaultKind;
pub use lines::{InterruptLines, Line};
pub use model_bus::Unpredictable;
pub use policy::Policy;
pub use smmu::{Outlook, Smmu};
pub use strict::clause;

/// The room that trace events of this crate name.
pub(crate) const SOURCE: &str = "model.smmuv2";
