//! Cases that both suites ask, in the words of memory alone: what an access reaches, and what it does not.
//!
//! Not here: what must be recorded of it, for which each suite has words of its own (`cases`, `seam::cases`).

use core::ops::Deref;

use portcullis::core::iommu::{Iommu, Target};
use portcullis::types::{Iova, Pa, Perms};

use super::bed::Bed;
use super::bench::Outcome;
use super::floor::{Access, read, write};
use super::ground::Ground;
use super::via::Via;
use crate::ensure;

/// An address of cases that need no more than one: a multiple of every granule, and of 2 MiB.
pub const AT: u64 = 0x1000_0000;

/// A rig of either suite.
pub trait Judge: Deref<Target = Ground<Self::Bed, Self::Driver>> {
    /// Where it stands.
    type Bed: Bed;
    /// Whose driver it has.
    type Driver: Iommu<Via<<Self::Bed as Bed>::Platform>>;

    /// Demands that an access goes to `landing`, and that nothing is recorded.
    ///
    /// # Errors
    ///
    /// It does not.
    fn passes(&self, access: Access, landing: Pa) -> Outcome;

    /// Demands that an access does not reach `landing`, whatever is recorded.
    ///
    /// # Errors
    ///
    /// It does.
    fn is_refused(&self, access: Access, landing: Pa) -> Outcome;
}

/// A mapped page is read and written where it leads, and the table says so.
///
/// # Errors
///
/// That is not so.
pub fn page<R: Judge>(rig: &R) -> Outcome {
    let (domain, page) = (rig.led()?, rig.page()?);
    rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
    for offset in [0, 8, rig.granule.bytes() - 8] {
        rig.passes(write(AT + offset), Pa::new(page.get() + offset))?;
        rig.passes(read(AT + offset), Pa::new(page.get() + offset))?;
    }
    let found = domain.lookup(Iova::new(AT + 8)).map(|(pa, _)| pa);
    ensure!(found == Some(Pa::new(page.get() + 8)), "the table says {found:?}");
    Ok(())
}

/// Pages that lie apart in memory are reached as neighbours.
///
/// # Errors
///
/// That is not so.
pub fn scattered<R: Judge>(rig: &R) -> Outcome {
    let domain = rig.led()?;
    let granule = rig.granule.bytes();
    let memory = rig.memory(rig.granule.get() + 2)?;
    let page = |index: u64| Pa::new(memory.get() + index * granule);
    for (slot, index) in [3, 0, 2, 1].into_iter().enumerate() {
        rig.map(&domain, AT + slot as u64 * granule, page(index), granule, Perms::READ_WRITE)?;
    }
    for (slot, index) in [3, 0, 2, 1].into_iter().enumerate() {
        rig.passes(write(AT + slot as u64 * granule), page(index))?;
    }
    Ok(())
}

/// The first and the last page of the aperture can be used.
///
/// # Errors
///
/// That is not so.
pub fn aperture<R: Judge>(rig: &R) -> Outcome {
    let (domain, low, high) = (rig.led()?, rig.page()?, rig.page()?);
    let granule = rig.granule.bytes();
    let aperture = domain.aperture();
    let last = aperture.last().get() - (granule - 1);
    ensure!(aperture.first().get() == 0, "the aperture begins at {}", aperture.first());
    rig.map(&domain, 0, low, granule, Perms::READ_WRITE)?;
    rig.map(&domain, last, high, granule, Perms::READ_WRITE)?;
    rig.passes(write(0), low)?;
    rig.passes(write(aperture.last().get() - 3), Pa::new(high.get() + granule - 4))?;
    rig.passes(read(last), high)
}

/// A whole table of pages leads to each.
///
/// # Errors
///
/// That is not so.
pub fn many<R: Judge>(rig: &R) -> Outcome {
    let domain = rig.led()?;
    let granule = rig.granule.bytes();
    let memory = rig.memory(rig.granule.get() + 3)?;
    // One more than a table holds; every eighth leads to the same page of memory.
    let entries = granule / 8 + 1;
    for index in 0..entries {
        let to = Pa::new(memory.get() + index % 8 * granule);
        rig.map(&domain, AT + index * granule, to, granule, Perms::READ_WRITE)?;
    }
    for index in [0, 1, 7, 8, entries / 2, entries - 2, entries - 1] {
        rig.passes(write(AT + index * granule), Pa::new(memory.get() + index % 8 * granule))?;
    }
    rig.unmap(&domain, AT, entries * granule)?;
    for index in [0, 1, entries / 2, entries - 2, entries - 1] {
        rig.is_refused(write(AT + index * granule), Pa::new(memory.get() + index % 8 * granule))?;
    }
    Ok(())
}

/// Two engines in two domains each reach their own memory.
///
/// # Errors
///
/// That is not so.
pub fn two_domains<R: Judge>(rig: &R) -> Outcome {
    let (one, two) = (rig.domain()?, rig.domain()?);
    let (page_one, page_two) = (rig.page()?, rig.page()?);
    rig.map(&one, AT, page_one, rig.granule.bytes(), Perms::READ_WRITE)?;
    rig.map(&two, AT, page_two, rig.granule.bytes(), Perms::READ_WRITE)?;
    rig.attach(rig.stream(0), &Target::Domain(one))?;
    rig.attach(rig.stream(1), &Target::Domain(two.clone()))?;
    rig.attach(rig.stream(2), &Target::Domain(two))?;
    for _ in 0..2 {
        rig.passes(write(AT).by(0), page_one)?;
        rig.passes(write(AT).by(1), page_two)?;
        rig.passes(write(AT).by(2), page_two)?;
    }
    Ok(())
}

/// A write that runs off a mapped page is refused from there on. Answers what is to be recorded of: the address behind the page.
///
/// # Errors
///
/// That is not so.
pub fn crossing<R: Judge>(rig: &R) -> Result<Access, String> {
    let (domain, memory) = (rig.led()?, rig.memory(rig.granule.get() + 1)?);
    let granule = rig.granule.bytes();
    rig.map(&domain, AT, memory, granule, Perms::READ_WRITE)?;
    let edge = Pa::new(memory.get() + granule - 8);
    rig.fill(edge, &[0xee; 12]);
    let sent = rig.ask(write(AT + granule - 8), 12).bytes;
    let after = rig.bytes(edge, 12);
    ensure!(after[8..] == [0xee; 4], "what is behind the page was written: {after:x?}");
    ensure!(after[..8] == sent[..8], "what is on the page was not written: {after:x?}");
    Ok(write(AT + granule))
}
