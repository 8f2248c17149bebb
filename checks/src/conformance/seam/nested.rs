//! What holds of guests' tables before their parents', of every vendor that nests.
//!
//! Each case is asked for each way in which a guest may write its tables there ([`Vendor::dialects`]). What an access does is judged by the host's memory; whose fault a refusal
//! is, by what the driver recorded: always with the address that the engine sent, which is the guest's.
//!
//! Not here: how a guest writes its tables (`guest`).

use portcullis::core::iommu::{Iommu, Target};
use portcullis::core::nested::GuestInvalidation;
use portcullis::types::Perms;

use super::guest::{Dialect, Guest};
use super::rig::Rig;
use super::suite::{Bench, Case};
use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::common::AT;
use crate::conformance::floor::{read, write};
use crate::ensure;

/// An address of the guest's whose tables lie apart from those for [`AT`], in the lower half of every dialect.
const FAR: u64 = 0x3_4000_0000;

/// The case that a driver fails which forgets nothing of what came from both tables.
pub const PARENTS_UNMAP: &str =
    "what the parent unmaps is closed at once to who went through a guest's table";

pub(super) fn all<B: Bed, V: Vendor>() -> Vec<Case<B, V>> {
    let cases = [
        Case::new("through a guest's table and its parent's, accesses land where both say", lands),
        Case::new("what either of both tables forbids is refused, and what both allow is not", permissions),
        Case::new("what either of both tables does not map is refused, with the guest's address", holes),
        Case::new(PARENTS_UNMAP, unmapped),
        Case::new("what the parent maps anew is where it says to who went through a guest's table", moved),
        Case::new("a guest whose tables were taken away reaches nothing", tables_gone),
        Case::new("what a guest changes and invalidates is so, page by page and table by table", invalidated),
        Case::new("what a guest changes and invalidates as a whole is so", invalidated_whole),
        Case::new("a guest's table that lies leads nowhere, least of all to the host's memory", lies),
        Case::new("a device goes from its guest's table to the parent's and back at once", back_and_forth),
        Case::new(
            "two address spaces of one guest are apart, and what the parent unmaps is closed to both",
            two,
        ),
        Case::new("two guests reach nothing of each other's by the same addresses", strangers),
        Case::new("a guest's table with the number of one that is gone sees nothing of it", reused),
    ];
    cases.into_iter().map(|case| case.unless(missing)).collect()
}

fn missing<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Option<String> {
    V::nests_nothing(&*bench.bed, bench.setting)
}

/// Runs a case in each dialect, each on a rig of its own.
fn each<B: Bed, V: Vendor>(bench: &Bench<B, V>, act: impl Fn(&Rig<B, V>, &Dialect) -> Outcome) -> Outcome {
    let mut dialects = 1;
    let mut at = 0;
    while at < dialects {
        bench.with(|rig| {
            let known = V::dialects(&rig.driver.guest_tables());
            ensure!(!known.is_empty(), "the driver walks no guest's table");
            dialects = known.len();
            act(rig, &known[at]).map_err(|what| format!("{}: {what}", known[at].name))
        })?;
        at += 1;
    }
    Ok(())
}

fn lands<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let granule = dialect.granule.bytes();
        let pages =
            [guest.page(Perms::READ_WRITE)?, guest.page(Perms::READ_WRITE)?, guest.page(Perms::READ_WRITE)?];
        // Mapped while the hardware may look already, in an order of the guest's own.
        let at = [AT + granule, AT, FAR];
        for (&at, &(gpa, _)) in at.iter().zip(&pages) {
            guest.map(at, gpa, true)?;
        }
        for _ in 0..2 {
            for (&at, &(_, page)) in at.iter().zip(&pages) {
                rig.passes(write(at), page)?;
                rig.passes(read(at), page)?;
            }
        }
        Ok(())
    })
}

fn permissions<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let granule = dialect.granule.bytes();
        let (open, page_of_open) = guest.page(Perms::READ_WRITE)?;
        let (shut, page_of_shut) = guest.page(Perms::READ)?;
        guest.map(AT, open, true)?;
        guest.map(AT + granule, open, false)?;
        guest.map(AT + 2 * granule, shut, true)?;
        rig.passes(write(AT), page_of_open)?;
        for (at, page) in [(AT + granule, page_of_open), (AT + 2 * granule, page_of_shut)] {
            // The second time with what is cached by then.
            for _ in 0..2 {
                rig.passes(read(at), page)?;
                rig.faults(Refusal::Forbidden, write(at), page)?;
            }
        }
        rig.passes(write(AT), page_of_open)
    })
}

fn holes<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let granule = dialect.granule.bytes();
        let ((gpa, page), hole) = (guest.page(Perms::READ_WRITE)?, guest.hole());
        guest.map(AT, gpa, true)?;
        guest.map(AT + granule, hole, true)?;
        rig.faults(Refusal::NotMapped, write(AT + 2 * granule), page)?;
        rig.faults(Refusal::NotMapped, read(AT + granule), page)?;
        rig.passes(write(AT), page)?;
        // A page that is the parent's from now on needs no word of the guest's.
        let late = rig.page()?;
        guest.back(hole, late, Perms::READ_WRITE)?;
        rig.passes(write(AT + granule), late)
    })
}

fn unmapped<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let granule = dialect.granule.bytes();
        let pages = [guest.page(Perms::READ_WRITE)?, guest.page(Perms::READ_WRITE)?];
        // At addresses that are nothing like the guest-physical ones, one of them twice.
        for (at, (gpa, page)) in [(AT, pages[0]), (FAR, pages[0]), (AT + granule, pages[1])] {
            guest.map(at, gpa, true)?;
            rig.passes(write(at), page)?;
        }
        guest.take_away(pages[0].0)?;
        for at in [AT, FAR] {
            rig.faults(Refusal::NotMapped, write(at), pages[0].1)?;
            rig.faults(Refusal::NotMapped, read(at), pages[0].1)?;
        }
        rig.passes(write(AT + granule), pages[1].1)
    })
}

fn moved<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let (gpa, first) = guest.page(Perms::READ_WRITE)?;
        let second = rig.page()?;
        guest.map(AT, gpa, true)?;
        rig.passes(write(AT), first)?;
        for page in [second, first, second] {
            guest.take_away(gpa)?;
            guest.back(gpa, page, Perms::READ_WRITE)?;
            rig.passes(write(AT), page)?;
            rig.passes(read(AT), page)?;
        }
        Ok(())
    })
}

fn tables_gone<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let _nested = guest.led()?;
        let (gpa, page) = guest.page(Perms::READ_WRITE)?;
        guest.map(AT, gpa, true)?;
        guest.map(FAR, gpa, true)?;
        rig.passes(write(AT), page)?;
        guest.take_tables_away()?;
        // Both that which was reached before and that which was not.
        for at in [AT, FAR] {
            rig.faults_as(V::lying(), write(at), page)?;
        }
        Ok(())
    })
}

fn invalidated<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let nested = guest.led()?;
        let told = |what| nested.invalidate(what).map_err(|error| format!("{what:?}: {error:?}"));
        let (one, two) = (guest.page(Perms::READ_WRITE)?, guest.page(Perms::READ_WRITE)?);
        let entry = guest.entry(AT, 0)?;
        for (gpa, page) in [one, two, one] {
            guest.write(entry, (dialect.page)(gpa, true));
            rig.passes(write(AT), page)?;
            // Break before make: the guest's CPU asks for the same.
            guest.write(entry, 0);
            told(guest.one_page(AT, true))?;
            rig.faults(Refusal::NotMapped, write(AT), page)?;
        }
        // Another table in the place of the one that the page was in.
        guest.write(entry, (dialect.page)(one.0, true));
        rig.passes(write(AT), one.1)?;
        let above = guest.entry(AT, 1)?;
        let table = guest.new_table()?;
        guest.write(table + 8 * guest.index(AT, 0), (dialect.page)(two.0, true));
        guest.write(above, 0);
        told(guest.one_page(AT, false))?;
        rig.faults(Refusal::NotMapped, write(AT), one.1)?;
        guest.write(above, (dialect.table)(table));
        rig.passes(write(AT), two.1)
    })
}

fn invalidated_whole<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let nested = guest.led()?;
        let (gpa, page) = guest.page(Perms::READ_WRITE)?;
        let at = [AT, AT + dialect.granule.bytes(), FAR];
        for at in at {
            guest.map(at, gpa, true)?;
            rig.passes(write(at), page)?;
        }
        at.into_iter().try_for_each(|at| {
            guest.write(guest.entry(at, 0)?, 0);
            Ok::<(), String>(())
        })?;
        nested.invalidate(GuestInvalidation::All).map_err(|error| format!("all: {error:?}"))?;
        at.into_iter().try_for_each(|at| rig.faults(Refusal::NotMapped, write(at), page))
    })
}

fn lies<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let (victim, (gpa, page)) = (rig.page()?, guest.page(Perms::READ_WRITE)?);
        let nested = guest.led()?;
        // A page where the host's memory is, by the host's address.
        guest.map(AT, victim.get(), true)?;
        rig.faults_as(V::lying(), write(AT), victim)?;
        rig.faults_as(V::lying(), read(AT), victim)?;
        // A table that the host's memory holds, by the host's address: one that would lead to the page.
        let table = rig.memory(dialect.granule.get())?;
        let word = (dialect.page)(gpa, true);
        rig.fill(table, &vec![0; 1 << dialect.granule.get()]);
        let place = table.get() + 8 * guest.index(FAR, 0);
        rig.fill(portcullis::types::Pa::new(place), &word.to_le_bytes());
        guest.write(guest.entry(FAR, 1)?, (dialect.table)(table.get()));
        rig.faults_as(V::lying(), write(FAR), page)?;
        // A page and a table where nothing is at all.
        let honest = guest.entry(AT, 0)?;
        guest.write(honest, (dialect.page)(guest.hole(), true));
        nested.invalidate(GuestInvalidation::All).map_err(|error| format!("all: {error:?}"))?;
        rig.faults_as(V::lying(), write(AT), page)?;
        // And a root.
        let lost = guest.nested_from(guest.hole())?;
        guest.lead(&lost)?;
        rig.faults_as(V::lying(), write(AT), page)?;
        // The honest one is none the worse for it.
        guest.write(honest, (dialect.page)(gpa, true));
        guest.lead(&nested)?;
        rig.passes(write(AT), page)
    })
}

fn back_and_forth<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let guest = Guest::new(rig, dialect)?;
        let nested = guest.nested()?;
        let (gpa, page) = guest.page(Perms::READ_WRITE)?;
        guest.map(AT, gpa, true)?;
        for _ in 0..2 {
            rig.lead(&guest.parent)?;
            rig.passes(write(gpa), page)?;
            rig.faults(Refusal::NotMapped, write(FAR), page)?;
            guest.lead(&nested)?;
            rig.passes(write(AT), page)?;
            rig.faults(Refusal::NotMapped, write(gpa), page)?;
        }
        rig.attach(rig.stream(0), &Target::Blocked)?;
        rig.faults(Refusal::Blocked, write(AT).by(0), page)?;
        rig.passes(write(AT).by(1), page)
    })
}

fn two<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let one = Guest::new(rig, dialect)?;
        let two = one.sibling()?;
        for (engine, guest) in [(0, &one), (1, &two)] {
            rig.attach(rig.stream(engine), &Target::Nested(guest.nested()?))?;
        }
        let (shared, own) = (one.page(Perms::READ_WRITE)?, two.page(Perms::READ_WRITE)?);
        one.map(AT, shared.0, true)?;
        two.map(AT, own.0, true)?;
        two.map(FAR, shared.0, true)?;
        rig.passes(write(AT).by(0), shared.1)?;
        rig.passes(write(AT).by(1), own.1)?;
        rig.passes(write(FAR).by(1), shared.1)?;
        rig.faults(Refusal::NotMapped, write(FAR).by(0), shared.1)?;
        one.take_away(shared.0)?;
        rig.faults(Refusal::NotMapped, write(AT).by(0), shared.1)?;
        rig.faults(Refusal::NotMapped, write(FAR).by(1), shared.1)?;
        rig.passes(write(AT).by(1), own.1)
    })
}

fn strangers<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let (one, two) = (Guest::new(rig, dialect)?, Guest::new(rig, dialect)?);
        let pages = [one.page(Perms::READ_WRITE)?, two.page(Perms::READ_WRITE)?];
        ensure!(pages[0].0 == pages[1].0, "both have it at the same guest-physical address");
        for (engine, guest) in [(0, &one), (1, &two)] {
            guest.map(AT, pages[engine].0, true)?;
            rig.attach(rig.stream(engine), &Target::Nested(guest.nested()?))?;
        }
        for _ in 0..2 {
            rig.passes(write(AT).by(0), pages[0].1)?;
            rig.passes(write(AT).by(1), pages[1].1)?;
        }
        one.take_away(pages[0].0)?;
        rig.faults(Refusal::NotMapped, write(AT).by(0), pages[0].1)?;
        rig.passes(write(AT).by(1), pages[1].1)
    })
}

fn reused<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    each(bench, |rig, dialect| {
        let mut before = None;
        for _ in 0..3 {
            let guest = Guest::new(rig, dialect)?;
            let _nested = guest.led()?;
            let (gpa, page) = guest.page(Perms::READ_WRITE)?;
            rig.faults(Refusal::NotMapped, write(AT), before.unwrap_or(page))?;
            guest.map(AT, gpa, true)?;
            rig.passes(write(AT), page)?;
            for stream in rig.streams() {
                rig.attach(stream, &Target::Blocked)?;
            }
            before = Some(page);
        }
        Ok(())
    })
}
