//! The words of SMMUv3: entries in memory, registers, commands, records.
//!
//! Spec: SMMUv3, chapters 4 to 8. Read in edition G.b (2025-04), whose titles and positions the openings of H.a
//! repeat as far as they could be seen. Numbers and titles stand at each table.
//!
//! Positions of fields in commands, records and page requests stand mostly in drawings, and the text at hand lacked
//! some of those. Where neither text nor drawing gave a position, other software did; `Observed:` says which.

mod commands;
mod entries;
mod records;
mod registers;

pub use commands::COMMANDS;
pub use entries::{CD, L1CD, L1STD, STE};
pub use records::{EVENTS, PRI_REQUEST};
pub use registers::REGISTERS;
