//! IORT: a table of a real machine, what nodes of every kind mean, and tables that are broken.

mod broken;
pub(crate) mod builder;
mod meaning;
mod virt;
