//! The driver on a machine small enough to be seen through, with core's own DMA API between them.
#![expect(clippy::cast_possible_truncation, reason = "the machine is small: every number in it fits")]

mod fake;
mod transfers;
mod trouble;
