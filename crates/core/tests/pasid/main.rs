//! Parts 1 to 3: PASIDs, their references and states, and the one that a process has.

mod process;
mod races;
mod states;

use core::ops::RangeInclusive;

use portcullis_types::Pasid;

fn pasid(id: u32) -> Pasid {
    Pasid::new(id).unwrap()
}

fn range(first: u32, last: u32) -> RangeInclusive<Pasid> {
    pasid(first)..=pasid(last)
}
