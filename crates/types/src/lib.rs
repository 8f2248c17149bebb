//! Addresses, ids, ranges, permissions and trace events: the words that every room shares.
//!
//! An address is always an address *in a space*: [`Iova`] is what a device says, [`Gpa`] what stage 1
//! makes of it, [`Pa`] where memory answers. They are types, so that two spaces cannot be swapped.
//! A range is an [`IovaRange`], [`GpaRange`] or [`PaRange`], `first..=last`, because the last address exists.
//!
//! Depends on nothing but `core`. Not here: anything that acts; layouts of hardware words (`spec`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "mutants")]
extern crate std;

mod access;
mod addr;
mod id;
pub mod mutant;
mod page;
mod prot;
mod range;
pub mod trace;

pub use access::{Access, AccessKind};
pub use addr::{Address, Gpa, Iova, Pa};
pub use id::{Pasid, SourceId};
pub use page::{PageSizes, SizeLg2};
pub use prot::{Cacheability, Perms, Prot};
pub use range::{AddressRange, GpaRange, IovaRange, PaRange};
