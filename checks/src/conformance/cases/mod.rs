//! The cases, by what they are about.

mod commands;
mod contexts;
mod events;
mod invalidation;
mod mapping;
mod permissions;
mod power;
mod streams;

use super::bed::Bed;
use super::common::AT;
use super::suite::Case;

/// Every case.
pub fn all<B: Bed>() -> Vec<Case<B>> {
    // Streams first: QEMU takes a linear table for one until it has seen one of two levels.
    let mut cases = streams::cases();
    cases.extend(mapping::cases());
    cases.extend(permissions::cases());
    cases.extend(contexts::cases());
    cases.extend(invalidation::cases());
    cases.extend(events::cases());
    cases.extend(commands::cases());
    cases.extend(power::cases());
    cases
}

/// Where nothing answers on any bed: above all memory and all windows, and below 36 bits.
const NOWHERE: u64 = 0x0000_000c_0000_0000;
