//! What core's seam promises, of every vendor's driver on its hardware.
//!
//! A [`Case`](suite::Case) here knows no vendor: it maps, attaches, has engines read and write, and looks at memory and at the records that the driver gave core. What
//! differs between books a [`Vendor`] says: which kinds of tables there are ([`Vendor::settings`]), what a refused access is called ([`Vendor::names`]), and what else
//! its book promises ([`Vendor::cases`]).
//!
//! | vendor | beds |
//! |---|---|
//! | [`vtd`] | our model in legacy mode, in scalable mode, with caching mode, without coherent walks, hostile; QEMU's `q35` |
//! | [`smmuv2`] | our model with stream matching, stream indexing, stage 2 alone, hostile |
//!
//! Guests' tables before domains' are asked of those vendors that nest ([`nested`]), in tables that are written here word by word ([`guest`]).
//!
//! Not here: SMMUv3, whose suite (`conformance::cases`) asks the same and much more; the beds themselves (`conformance::beds`).

pub mod cases;
pub mod guest;
pub mod nested;
pub mod rig;
pub mod smmuv2;
pub mod suite;
pub mod vendor;
pub mod vtd;
pub mod vtd_cases;
pub mod vtd_sight;

pub use vendor::{Refusal, Vendor};
