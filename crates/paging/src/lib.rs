//! What drivers of IOMMUs with page tables have in common, whoever made the hardware.
//!
//! [`Mappings`] is the page table of a domain with what an unmap took out of it, until hardware has forgotten that. A [`Table`] is of one of the two
//! formats that an IOMMU has for its stages. [`Ids`] says who has which of the numbers that tag what TLBs remember. An [`Estate`] is what those who are gone left behind, of which
//! hardware did not confirm that it has forgotten it. [`stride`] says by which addresses hardware forgets a range.
//!
//! Not here: the formats and their walker (`pgtable`); how hardware is made to forget, and what it is told of a table (the drivers).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod estate;
mod ids;
mod mappings;
mod stride;
mod table;

pub use estate::Estate;
pub use ids::Ids;
pub use mappings::Mappings;
pub use stride::stride;
pub use table::{Table, TableFormat};
