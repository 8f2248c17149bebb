//! What is measured for the tables of costs, and how.
//!
//! | module | what |
//! |---|---|
//! | [`script`] | the SMMUv3 driver's operations, by the names that every table calls them |
//! | [`meter`] | accesses of a driver on the models, counted |
//!
//! Not here: the tables and their snapshots (`tests/cost*.rs`), and the comparison with QEMU's hardware (`conformance::cost`).

use portcullis::smmuv3::Counts;

pub mod meter;
pub mod script;

/// Commands in numbers and names.
///
/// # Panics
///
/// If the driver sent a command that has no name.
pub fn commands(spent: &Counts) -> String {
    let each = spent
        .by_command()
        .map(|(op, count)| format!("{count} {}", op.name().expect("a command of the driver has a name")));
    each.collect::<Vec<_>>().join(", ")
}
