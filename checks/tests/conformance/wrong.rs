//! A wrong driver is seen by some bed, and by which: each of the bugs that others shipped, run through the suite.

use std::sync::Arc;

use portcullis_checks::conformance::bed::Bed;
use portcullis_checks::conformance::beds::model::ModelBed;
use portcullis_checks::conformance::suite::first_failure;
use portcullis_checks::conformance::wrong::{Bug, bugs};

/// The cases that are enough to see everything that can be seen, in the order in which they are tried.
fn telling(title: &str) -> bool {
    let once = !title.contains("(stage") || title.ends_with("4 KiB)");
    once && [
        "what is blocked",
        "what was unmapped is closed",
        "a flush of a domain",
        "what is attached elsewhere",
        "while an entry changes",
        "while an entry is blocked",
        "each of many faults",
        "a mapped page is read",
        "a page that is mapped to another",
        "a context of another ASID",
        "two engines in two domains",
        "a short command queue",
    ]
    .iter()
    .any(|begins| title.starts_with(begins))
}

/// Which case sees a bug on a bed.
fn seen<B: Bed>(bed: B, bug: &Bug) -> Option<(String, String)> {
    first_failure(&Arc::new(bed), &bug.make, telling)
}

#[test]
fn the_right_driver_is_not_taken_for_a_wrong_one() {
    let bed = Arc::new(ModelBed::builtin("arm"));
    let report = portcullis_checks::conformance::suite::run(&bed, telling);
    assert!(report.failed.is_empty() && report.passed >= 12, "{}", report.said(bed.name()));
}

#[test]
fn every_wrong_driver_is_seen_by_a_model() {
    let mut unseen = Vec::new();
    for bug in bugs() {
        let machine = if bug.name.contains("does not snoop") { "arm-noncoherent" } else { "arm" };
        let seen = seen(ModelBed::builtin(machine), &bug)
            .or_else(|| seen(ModelBed::builtin("arm-stage2"), &bug))
            .or_else(|| seen(ModelBed::hostile("arm"), &bug));
        println!("{}: {seen:?}", bug.name);
        unseen.extend(seen.is_none().then_some(bug.name));
    }
    assert!(unseen.is_empty(), "nobody saw {unseen:?}");
}

mod on_qemu {
    use portcullis_checks::conformance::bed::Bed;
    use portcullis_checks::conformance::beds::qemu::QemuBed;
    use portcullis_checks::conformance::sight::Ids;
    use portcullis_qemu::testing::qemus;

    use super::{bugs, seen};

    /// What QEMU's SMMU does not show: it looks at no alignment, at no cache, and at memory as the CPU last wrote it.
    const UNSEEN: [&str; 3] = [
        "the queue of commands begins off its alignment",
        "nothing is ordered",
        "tables are not cleaned for a walker that does not snoop",
    ];
    /// What takes stage 2: of stage 1 an entry's first word is all that leads anywhere.
    const UNSEEN_BY_STAGE_1: &str = "an entry's first word is stored first";

    #[test]
    fn every_wrong_driver_is_seen_by_qemu_but_for_what_it_does_not_look_at() {
        let mut wrong = Vec::new();
        for qemu in qemus(QemuBed::ARCH) {
            for bug in bugs() {
                let bed = QemuBed::start(&qemu).unwrap_or_else(|error| panic!("{error}"));
                // SMMU_IDR0.S2P.
                let has_stage_2 = Ids::read(&bed.registers()).idr0 & 1 == 1;
                let seen = seen(bed, &bug);
                println!("{qemu}: {}: {seen:?}", bug.name);
                let stage_1 = !has_stage_2 && bug.name == UNSEEN_BY_STAGE_1;
                if seen.is_none() != (stage_1 || UNSEEN.contains(&bug.name)) {
                    wrong.push(format!("{qemu}: {}: {seen:?}", bug.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
