//! The commands, one file for each.

pub(crate) mod completions;
pub(crate) mod machine;
pub(crate) mod machines;
pub(crate) mod man;
pub(crate) mod run;
pub(crate) mod sim;
