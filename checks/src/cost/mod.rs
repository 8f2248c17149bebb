//! What is measured for the tables of costs, and how.
//!
//! | module | what |
//! |---|---|
//! | [`spent`] | what a driver told its hardware, by the book's names, whichever book |
//! | [`script`] | the operations, by the names that every table calls them |
//! | [`meter`] | accesses of a driver on the models, counted |
//! | [`table`] | what one machine's operations cost, as text |
//!
//! Not here: the tables and their snapshots (`tests/cost*.rs`), and the comparison with QEMU's hardware (`conformance::cost`).

pub mod meter;
pub mod script;
pub mod spent;
pub mod table;
