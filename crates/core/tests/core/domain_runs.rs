//! Many runs of memory, mapped at once: all of them or none.

use std::sync::Arc;

use crate::support::{Bench, Call, Machine, RAM, STRICT, bench, range};
use portcullis_core::domain::{Domain, DomainMapError, DomainType};
use portcullis_core::iommu::MapError;
use portcullis_types::{Iova, Pa, Perms, Prot, SizeLg2};

const RW: Prot = Prot::cached(Perms::READ_WRITE);
/// Three runs of two pages, one page and one page.
const RUNS: [(u64, u64); 3] = [(RAM + 0x8000, 0x2000), (RAM, 0x1000), (RAM + 0x3000, 0x1000)];

fn user(bench: &Bench) -> Arc<Domain<Machine>> {
    Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap()
}

fn fill(user: &Domain<Machine>, first: u64, last: u64, runs: &[(u64, u64)]) -> Result<(), DomainMapError> {
    user.map_runs(range(first, last), &mut runs.iter().map(|&(pa, len)| (Pa::new(pa), len)), RW)
}

#[test]
fn runs_lie_one_behind_the_other_with_one_operation_each() {
    let bench = bench(STRICT);
    let user = user(&bench);
    fill(&user, 0x4000, 0x7fff, &RUNS).unwrap();
    let hardware = bench.iommu.domain(1);
    let there = [(0x4000, RAM + 0x8000), (0x5000, RAM + 0x9000), (0x6000, RAM), (0x7000, RAM + 0x3000)];
    assert_eq!((hardware.mapped(), hardware.map_calls()), (there.to_vec(), 3));
    assert!(matches!(fill(&user, 0x7000, 0x7fff, &RUNS[..1]), Err(DomainMapError::Map(MapError::Mapped(_)))));
    assert_eq!(user.lookup(Iova::new(0x6123)), Some(Pa::new(RAM + 0x123)));
}

#[test]
fn a_run_that_is_refused_takes_those_before_it_back() {
    for (failing, error) in [(0, "first"), (1, "second"), (2, "third")] {
        let bench = bench(STRICT);
        let user = user(&bench);
        bench.iommu.fail(Call::Map, failing, 1);
        assert!(fill(&user, 0x4000, 0x7fff, &RUNS).is_err(), "{error}");
        let hardware = bench.iommu.domain(1);
        assert_eq!((hardware.mapped(), hardware.stale_count()), (Vec::new(), 0), "{error}");
        fill(&user, 0x4000, 0x7fff, &RUNS).expect("the range is free again");
    }
}

#[test]
fn runs_are_shown_to_hardware_once_and_those_that_it_does_not_see_are_taken_back() {
    let bench = bench(STRICT);
    let user = user(&bench);
    bench.iommu.fail(Call::Show, 0, 1);
    let unseen = DomainMapError::Map(MapError::Unconfirmed { waiting_for: "a look" });
    assert_eq!(fill(&user, 0x4000, 0x7fff, &RUNS), Err(unseen));
    let hardware = bench.iommu.domain(1);
    assert_eq!((hardware.mapped(), hardware.stale_count(), hardware.shown()), (vec![], 0, vec![]));
    fill(&user, 0x4000, 0x7fff, &RUNS).expect("the range is free again");
    assert_eq!(hardware.shown(), [(range(0x4000, 0x7fff), 6)], "the three of before, and these three");
}

#[test]
fn runs_that_do_not_fit_their_range_leave_nothing() {
    let bench = bench(STRICT);
    let user = user(&bench);
    let wrong = |error| Err(DomainMapError::Map(error));
    let misaligned = |value| wrong(MapError::Misaligned { value, granule: SizeLg2::KIB_4 });
    assert_eq!(fill(&user, 0x4000, 0x8fff, &RUNS), wrong(MapError::BadLength), "too short");
    assert_eq!(fill(&user, 0x4000, 0x6fff, &RUNS), wrong(MapError::BadLength), "too long");
    assert_eq!(fill(&user, 0x4000, 0x4fff, &RUNS), wrong(MapError::BadLength), "the first is too long");
    assert_eq!(fill(&user, 0x4000, 0x4fff, &[]), wrong(MapError::BadLength), "none");
    assert_eq!(fill(&user, 0x4000, 0x5fff, &[(RAM, 0x1000), (RAM, 0)]), wrong(MapError::BadLength), "empty");
    assert_eq!(fill(&user, 0x4000, 0x5fff, &[(RAM, 0x1000), (RAM + 8, 0x1000)]), misaligned(RAM + 8));
    assert_eq!(fill(&user, 0x4800, 0x57ff, &[(RAM, 0x1000)]), misaligned(0x4800));
    let hardware = bench.iommu.domain(1);
    assert_eq!((hardware.mapped(), hardware.stale_count()), (Vec::new(), 0));
    fill(&user, 0x4000, 0x7fff, &RUNS).expect("nothing was left in the way");
}

#[test]
fn what_hardware_does_not_confirm_keeps_the_range() {
    let bench = bench(STRICT);
    let user = user(&bench);
    bench.iommu.fail(Call::Map, 1, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(fill(&user, 0x4000, 0x7fff, &RUNS).is_err());
    assert!(matches!(fill(&user, 0x4000, 0x7fff, &RUNS), Err(DomainMapError::Map(MapError::Mapped(_)))));
}
