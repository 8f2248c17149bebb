//! Our models against QEMU's, input by input.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod answer;
pub mod case;
pub mod descriptor;
pub mod entries;
pub mod generate;
pub mod image;
pub mod known;
pub mod layout;
pub mod ours;
pub mod program;
pub mod report;
pub mod run;
pub mod streams;
pub mod tables;
pub mod tally;
pub mod theirs;
