//! Our models against QEMU's, input by input.
//!
//! A seed draws [`Case`](case::Case)s: a memory image (stream table, entries, context descriptors, translation tables), what the registers
//! say, and accesses of ten devices. [`Ours`](ours::Ours) and [`Theirs`](theirs::Theirs) take the same image and the same register writes, made by hand and
//! not by our driver, and each says of each access where it went and what was recorded. Whatever differs is our model's mistake, and is mended,
//! or it is a row of [`known::ROWS`], with the clause of the book that decides, and a test that shows that QEMU still does so. The rest is
//! a failure, told with the smallest case that shows it.
//!
//! | compared | how |
//! |---|---|
//! | address reached, or not | by the bytes that were written, or read: every word of memory says where it is |
//! | records | each of the four words; one access has one record |
//! | stream table | linear, two levels of every SPLIT, spans, sizes, entries that cannot be fetched |
//! | entries | abort, bypass, stage 1, stage 2, nested; every field that makes an entry bad, in turn |
//! | context descriptors | likewise; both halves, EPD, TBI, HAD, AFFD, R, sizes |
//! | translation tables | 4K, 16K, 64K, every level, every kind of descriptor; tables and CDs behind stage 2 |
//! | addresses | at the ends of pages, blocks, groups, tables and address spaces; with something in the top byte |
//! | caches | most accesses with nothing cached, others with what earlier ones left there |
//! | invalidation | CFGI_ALL, TLBI_NSNH_ALL and CMD_SYNC between accesses |
//!
//! | not compared | why |
//! |---|---|
//! | substreams, ATS, page requests, stalls, hardware updates, broadcasts | QEMU's SMMUv3 has none of them |
//! | the privileged, instruction fetches | its devices ask for neither; where QEMU takes all for privileged, half of the cases have our model do so, too |
//! | memory attributes, MSIs, the regimes of EL2, 52-bit addresses | QEMU has none |
//! | invalidation by address, ASID, VMID, stream | not yet: golden words, and the tests of the model |
//! | reserved bits in entries | the book leaves it open; our model sees them |
//! | which entries a contiguous group may be cached with | QEMU ignores the hint; only groups that are sound are drawn |
//!
//! For what is not compared, golden words and the book carry alone.
//!
//! It is run by `cargo xtask differential`, `cargo xtask differential phb3`, `… vtd`, `… vtd-first` and `… vtd-interrupts`; a short run is a test (`tests/short.rs`).
//!
//! [`phb3`] does the same for POWER's TVEs and TCE walks, as far as QEMU has them.
//!
//! [`vtd`] does it for a PC's unit, by entries and tables of either stage, and for the messages that it remaps.
//!
//! Not here: starting QEMU (`portcullis-qemu`).
#![forbid(unsafe_code)]

pub mod addresses;
pub mod answer;
pub mod case;
pub mod descriptor;
mod devices;
mod draw;
pub mod entries;
pub mod generate;
pub mod image;
pub mod known;
pub mod layout;
pub mod ours;
pub mod phb3;
mod plain;
pub mod program;
pub mod report;
pub mod run;
pub mod streams;
pub mod tables;
pub mod tally;
pub mod theirs;
pub mod vtd;
