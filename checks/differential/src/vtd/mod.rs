//! The same for a PC: our VT-d unit against that of QEMU's `q35`, by root, context and PASID entries and tables of either stage.
//!
//! A case is a memory image, what RTADDR_REG says, writes of four devices and reads of two. What is compared is the address that an access reaches, or that it reaches none, and
//! both words of the fault record. Where QEMU does otherwise than the book there is a row in [`ROWS`].
//!
//! | compared | how |
//! |---|---|
//! | modes | legacy and scalable, in turns on the same unit |
//! | entries | root, context, PASID directory and PASID table entries: not present, every width, every kind of translation, reserved bits, tables that cannot be read, FPD |
//! | first-stage tables | those of 4 levels for requests without PASID, on a unit that has no second stage: the same, users and supervisors, canonical addresses |
//! | second-stage tables | 3 and 4 levels, pages of 4 KiB, 2 MiB and 1 GiB, permissions on each level, reserved bits, tables that cannot be read, outputs among interrupts |
//! | addresses | within a table's width and beyond, on both sides of the interrupt window |
//! | caches | three in four accesses with nothing cached, others with what earlier ones left there |
//!
//! [`interrupts`] does it for messages that are remapped.
//!
//! Not compared: nested stages, PASIDs of requests, ATS, page requests (QEMU's devices for tests send none, and its first stage comes without a second),
//! selective invalidations. Golden words, the conformance suite and the book carry these.

mod draw;
pub mod interrupts;
mod known;
mod ours;
mod program;
mod run;
mod theirs;

pub use draw::{Access, Case, Stage, case};
pub use known::{ROWS, Row, mended};
pub use ours::{Answer, Ours, Verdict, config};
pub use run::{Tally, run};
pub use theirs::Theirs;

/// RAM begins at 0.
pub const RAM_MIB: u64 = 256;
/// The root table.
pub const ROOT: u64 = 0x0100_0000;
/// The context table of bus 0, of devices 0 to 15 in scalable mode.
pub const CONTEXTS: u64 = 0x0100_1000;
/// PASID directories, a page each.
pub const DIRECTORIES: u64 = 0x0101_0000;
/// PASID tables, a page each.
pub const PASIDS: u64 = 0x0102_0000;
/// The invalidation queue, and where waits tell that they are over.
pub const QUEUE: u64 = 0x0103_0000;
/// Behind it.
pub const STATUS: u64 = 0x0104_0000;
/// What readers have read, a page each.
pub const READ_BACK: u64 = 0x0106_0000;
/// Tables of either stage.
pub const TABLES: u64 = 0x0200_0000;
/// What devices write and read.
pub const DATA: u64 = 0x0800_0000;
/// The end of it.
pub const DATA_END: u64 = 0x0880_0000;
/// Nothing answers from here on, as far as a test goes.
pub const NOWHERE: u64 = 0x40_0000_0000;
/// The end of that.
pub const NOWHERE_END: u64 = 0x400_0000_0000;
/// Who writes: bus 0, devices 1 to 4.
pub const WRITERS: [u16; 4] = [0x08, 0x10, 0x18, 0x20];
/// Who reads: devices 5 and 6.
pub const READERS: [u16; 2] = [0x28, 0x30];
/// Bits of a physical address on both machines, and of what a second stage takes.
pub const HOST_BITS: u8 = 48;

/// Whether all of it is data.
pub fn is_data(at: u64, len: u64) -> bool {
    at >= DATA && at + len <= DATA_END
}

/// Whether nothing answers in all of it.
pub fn is_nowhere(at: u64, len: u64) -> bool {
    at >= NOWHERE && at + len <= NOWHERE_END
}
