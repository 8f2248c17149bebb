//! The same for POWER: our PHB3 against QEMU's `powernv8`, TVEs and TCE walks.
//!
//! A case is a memory image (RTT, tables of TCEs), TVEs, and accesses of five devices below a root port. What is compared is the address that an access reaches, and
//! whether it reaches any: QEMU's bridge neither freezes nor records. Our model's answer is that of an access with nothing cached and nothing frozen, and
//! has a cause where it refuses; [`ROWS`] are the causes that QEMU does not know. There is no public book: what decides is what skiboot and Linux make of the
//! hardware (`model-ioda2`, where each is cited).
//!
//! Not compared: messages, freezes and error registers, kills, M32 and M64, what the TCE cache holds: QEMU has no cache, no freezing and no bounds.

mod draw;
mod ours;
mod run;
mod theirs;

pub use draw::{Access, Case, case};
pub use model_ioda2::Cause;
pub use ours::{Ours, Verdict};
pub use run::{Tally, run};
pub use theirs::Theirs;

/// RAM begins at 0.
pub const RAM_MIB: u64 = 1024;
/// The table of requesters: two bytes each.
pub const RTT: u64 = 0x0200_0000;
/// Tables of TCEs.
pub const TABLES: u64 = 0x0400_0000;
/// The end of the tables.
pub const TABLES_END: u64 = 0x0700_0000;
/// What devices read and write.
pub const DATA: u64 = 0x0800_0000;
/// The end of it.
pub const DATA_END: u64 = 0x0880_0000;
/// Where what a reader has read comes to lie: a page each.
pub const READ_BACK: u64 = 0x0a00_0000;
/// Nothing answers from here on, as far as a test goes.
pub const NOWHERE: u64 = 0x40_0000_0000;
/// The end of that.
pub const NOWHERE_END: u64 = 0x400_0000_0000;
/// Requesters that write: bus 1, devices 0 to 2.
pub const WRITERS: [u16; 3] = [0x100, 0x108, 0x110];
/// Requesters that read: bus 1, devices 3 and 4.
pub const READERS: [u16; 2] = [0x118, 0x120];

/// What our model refuses and QEMU lets through.
pub const ROWS: [(Cause, &str); 2] = [
    (
        Cause::OutOfWindow,
        "looks at no bounds: addresses beyond a window wrap, bypass windows have no ends, and window 0 may bypass below 4 GiB",
    ),
    (Cause::TveInvalid, "takes sizes of pages that PHB3 does not have"),
];

/// The bytes that lie in the data before any device has written: each word says where it is, in memory order.
pub fn pattern_bytes(at: u64, len: u64) -> Vec<u8> {
    crate::layout::pattern_bytes(at, len)
}

/// Whether all of it is data.
pub fn is_data(at: u64, len: u64) -> bool {
    at >= DATA && at + len <= DATA_END
}

/// Whether nothing answers in all of it.
pub fn is_nowhere(at: u64, len: u64) -> bool {
    at >= NOWHERE && at + len <= NOWHERE_END
}
