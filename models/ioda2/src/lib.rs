//! A strict executable model of a POWER8 PHB3 with IODA2: the judge of the driver.
//!
//! A [`Phb3`] has the registers, the IODA tables on the chip and in memory, walks, the TCE cache, messages and freezes of the real thing. It keeps stale TCEs until they are
//! killed, is slow to kill them, and lists everything software does that nobody said the hardware takes ([`Unpredictable`]).
//!
//! There is no public book. What skiboot's and QEMU's headers name, and what skiboot, QEMU and Linux do with it, is the source; each fact says where it was seen
//! (`Observed:`), and where nothing was, what was chosen (`Choice:`). It is not written from our driver.
//!
//! | POWER | here |
//! |---|---|
//! | RID, PE | `source` of a `model_bus::Request`, `pe` |
//! | RTT, RTC | `rtc` |
//! | TVT, TVE | `tables`, `tve` |
//! | TCE, TCE kill | `walk`, `cache`, `posted` |
//! | PESTA, PESTB, PEEV, PEST | `freeze`, [`FirstError`] |
//! | IVT, IVE, IVC; LXIVT | `message`; `report` |
//! | M32, M64BT, CONFIG_ADDRESS, PERST, errors made on purpose | `outbound` |
//! | XSCOM, ASB | `xscom` |
//!
//! Where to look: what happens to an access `inbound`, then `walk`; what its refusal does `cause` and `report`; what registers do `access`, then `program`; what the hardware may do
//! `policy`; all that software should not do [`clause`].
//!
//! Registers have 64 bits and are big-endian. A value of `Mmio` is the number that a CPU means, whatever the order of its bytes on the way; CONFIG_DATA
//! alone is little-endian, as PCI is, and there, too, the value is the number that is meant.
//!
//! Not here: the outbound address translation itself (a machine's windows do it), how a link is trained, UTL, CAPI, the queue for kills in memory, TVEs of fenced or
//! quiesced bridges, parity errors.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "fields are narrower than what they are kept in, and hosts have 64 bits"
)]

mod access;
mod bits;
mod cache;
mod cause;
mod config;
mod counters;
mod freeze;
mod inbound;
mod message;
mod outbound;
mod phb;
mod policy;
mod posted;
mod program;
mod registers;
mod report;
mod rtc;
mod state;
mod strict;
mod tables;
mod tve;
mod walk;
mod xscom;

pub use cause::{Cause, FirstError, Transaction};
pub use config::Config;
pub use counters::Counters;
pub use message::Interrupt;
pub use model_bus::Unpredictable;
pub use outbound::ConfigTarget;
pub use phb::{Outlook, Phb3};
pub use policy::Policy;
pub use strict::clause;
pub use xscom::Unit;

/// The room that trace events of this crate name.
pub(crate) const SOURCE: &str = "model.ioda2";
