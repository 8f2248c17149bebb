//! The model, seen from outside: registers, memory and requests, with words written by hand from the book.
//!
//! Nothing here uses the model's own decoders: an entry, a descriptor or a fault record is a hex literal.
#![expect(clippy::cast_possible_truncation, reason = "offsets in a page fit anything")]

mod faults;
#[expect(dead_code, reason = "tests of other modes use the rest")]
mod harness;
