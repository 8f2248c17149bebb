//! Processes that bind, launch jobs, unmap, protect, fork and die under DMA, with somebody who watches.
//!
//! Promises: isolation, reclaim, one-answer, no-reuse, no-leak (and that results are right, and that jobs come to an end). A failing seed is a whole run.

use model_cpu::TlbPolicy;
use model_smmuv3::{Policy, StallModel};
use portcullis::types::SizeLg2;
use portcullis_checks::sva::plan::{Plan, accelerator};
use portcullis_checks::sva::schedule::{Manner, Report, run};

/// What several runs came to, all of them without a wrong.
fn all_right(seeds: core::ops::Range<u64>, plan: impl Fn(u64) -> Plan, manner: Manner) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        let report = run(plan(seed), manner);
        assert_eq!(report.wrongs, [] as [String; 0], "seed {seed}");
        sum.checked += report.checked;
        sum.wild += report.wild;
        sum.accesses.0 += report.accesses.0;
        sum.accesses.1 += report.accesses.1;
        sum.faults += report.faults;
        sum.automatic += report.automatic;
    }
    sum
}

#[test]
fn processes_come_share_change_and_die_and_every_promise_is_kept() {
    let sum = all_right(0..20, Plan::new, Manner::default());
    assert!(sum.checked > 100 && sum.wild > 200, "{sum:?}");
    assert!(sum.accesses.0 > 2000 && sum.accesses.1 > 1000 && sum.faults > 500, "{sum:?}");
}

#[test]
fn several_devices_of_each_form_share_the_same_processes() {
    let plan = |seed| {
        let mut plan = Plan::new(seed);
        plan.pcie = vec![accelerator(seed), accelerator(seed + 1)];
        plan.pcie[1].stop_marker = true;
        plan.pcie[1].response_needs_pasid = false;
        plan.platform = vec![accelerator(seed + 2), accelerator(seed + 3)];
        plan
    };
    all_right(100..110, plan, Manner { late: 6, ..Manner::default() });
}

#[test]
fn hardware_that_forgets_fetches_ahead_and_delays_changes_nothing() {
    let plan = |seed| Plan::new(seed).policy(Policy::hostile());
    all_right(200..208, plan, Manner { late: 3, ..Manner::default() });
}

#[test]
fn short_queues_overflow_and_every_request_has_its_one_answer() {
    let plan = |seed| {
        let mut plan = Plan::new(seed).policy(Policy { event_ticks: 5, ..Policy::stale() });
        (plan.page_queue_lg2, plan.event_queue_lg2) = (1, 1);
        plan.pcie = vec![accelerator(seed), accelerator(seed + 1)];
        plan
    };
    let sum = all_right(300..308, plan, Manner { late: 4, impatient: true, ..Manner::default() });
    assert!(sum.automatic > 10, "the queue overflows: {sum:?}");
}

#[test]
fn part_14_broadcasts_alone_keep_what_commands_kept() {
    let plan = |seed| Plan { tlbs: TlbPolicy::holding, ..Plan::new(seed).broadcasting() };
    all_right(400..408, plan, Manner::default());
}

#[test]
fn part_22_devices_that_always_stall_keep_every_promise() {
    let plan = |seed| Plan::new(seed).platform_only().smmu(|config| config.stall = StallModel::Forced);
    all_right(500..506, plan, Manner::default());
}

#[test]
fn part_19_entries_that_hardware_marks_keep_every_promise() {
    all_right(600..606, |seed| Plan::new(seed).marking(), Manner::default());
}

#[test]
fn part_11_every_granule_52_bits_and_vhe_keep_every_promise() {
    let few = Manner { operations: 200, ..Manner::default() };
    all_right(700..702, |seed| Plan::new(seed).pages_of(SizeLg2::KIB_16), few);
    all_right(710..712, |seed| Plan::new(seed).pages_of(SizeLg2::KIB_64), few);
    all_right(720..723, |seed| Plan::new(seed).large(), few);
    all_right(730..733, |seed| Plan::new(seed).vhe(), few);
    all_right(740..743, |seed| Plan::new(seed).vhe().broadcasting(), few);
    all_right(750..752, |seed| Plan::new(seed).smmu(|config| config.range_invalidation = false), few);
}

/// A PC whose unit uses its freedom like this.
fn pc(policy: model_vtd::Policy) -> impl Fn(u64) -> Plan {
    move |seed| Plan::x86(seed).unit(|unit| unit.policy = policy)
}

#[test]
fn behind_a_vtd_unit_every_promise_is_kept_too() {
    let sum = all_right(1000..1012, Plan::x86, Manner::default());
    assert!(sum.checked > 20 && sum.wild > 100, "{sum:?}");
    assert!(sum.accesses.1 > 500 && sum.faults > 200, "{sum:?}");
    let late = Manner { late: 4, ..Manner::default() };
    all_right(1100..1106, pc(model_vtd::Policy::hostile()), late);
    all_right(1200..1204, pc(model_vtd::Policy::eager()), late);
    let several = |seed| {
        let mut plan = pc(model_vtd::Policy::stale())(seed);
        plan.pcie.push(accelerator(seed + 1));
        plan.pcie[1].stop_marker = true;
        plan
    };
    all_right(1300..1306, several, late);
    let few = Manner { operations: 200, ..Manner::default() };
    all_right(1400..1403, |seed| Plan::x86(seed).unit(|unit| unit.caching_mode = true), few);
    all_right(1500..1503, |seed| Plan { by_range: false, ..Plan::x86(seed) }, few);
}

#[test]
fn behind_a_vtd_unit_devices_that_do_not_answer_keep_pages_from_other_uses() {
    let plan = |seed| Plan { wait_limit_ns: 10_000_000, ..Plan::x86(seed) };
    all_right(1600..1606, plan, Manner { silent: true, operations: 200, ..Manner::default() });
}

#[test]
fn devices_that_forge_requests_harm_nobody() {
    let plan = |seed| {
        let mut plan = Plan::new(seed);
        plan.page_queue_lg2 = 4;
        plan
    };
    all_right(800..808, plan, Manner { forging: true, late: 4, ..Manner::default() });
}

#[test]
fn devices_that_do_not_answer_keep_pages_from_other_uses() {
    let plan = |seed| Plan { wait_limit_ns: 10_000_000, ..Plan::new(seed) };
    all_right(900..908, plan, Manner { silent: true, operations: 200, ..Manner::default() });
}
