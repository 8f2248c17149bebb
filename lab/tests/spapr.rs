//! A disk in the hands of a user who makes his own windows.

use std::sync::Arc;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use model_bus::Width;
use model_ioda2::Policy;
use portcullis::types::Pa;
use portcullis_lab::RunError;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::spec::BridgeKind;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::platform::Tamper;
use portcullis_lab::tamper::Hands;
use portcullis_lab::trace::Memory;
use portcullis_lab::workload::spapr::{MACHINE, Windows, run};
use portcullis_lab::workload::vfio::{Job, Outcome};

fn power8() -> MachineSpec {
    builtin::find(MACHINE).unwrap()
}

fn go(spec: MachineSpec, bytes: usize, seed: u64) -> Result<Outcome, RunError> {
    go_on(spec, bytes, seed, Asked::default())
}

/// What is not as usual.
#[derive(Default)]
struct Asked {
    windows: Windows,
    kill: bool,
    tamper: Option<Arc<dyn Tamper>>,
    sink: Arc<Memory>,
}

fn go_on(
    spec: MachineSpec,
    bytes: usize,
    seed: u64,
    Asked { windows, kill, tamper, sink }: Asked,
) -> Result<Outcome, RunError> {
    let input = Opened::beginning_of_sample(bytes);
    let job = Job {
        spec,
        device_tree: None,
        input: &input,
        seed,
        unsafe_interrupts: false,
        kill,
        sink,
        tamper,
        progress: None,
    };
    run(&job, windows)
}

fn by(page_shift: u32, levels: u32) -> Asked {
    let windows = Windows { page_shift: Some(page_shift), levels: Some(levels), version1: false };
    Asked { windows, ..Asked::default() }
}

/// Page sizes, and the most levels that a window of 1 GiB has with each.
const MOST: [(u32, u32); 3] = [(12, 3), (16, 2), (24, 2)];

#[test]
fn a_user_reads_inputs_of_every_size_through_windows_of_his_own() {
    for bytes in [0, 1, 512, 4097, 1_100_000] {
        let outcome = go(power8(), bytes, 1).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        let (vfio, spapr) = (outcome.counters.vfio.unwrap(), outcome.counters.spapr.unwrap());
        assert!(vfio.user_bytes >= 3 * bytes as u64 && vfio.maps == vfio.unmaps, "{bytes}: {vfio:?}");
        assert_eq!((spapr.reads, spapr.read_page_sizes), (3, 0x101_1000), "{bytes}: {spapr:?}");
        // 4K pages by 1 to 3 levels, 64K and 16M ones by 1 and 2; the next of each is refused.
        assert_eq!((spapr.shapes, spapr.levels_refused, spapr.groups), (7, 3, 2), "{bytes}: {spapr:?}");
        assert!(spapr.freezes > 0 && outcome.counters.probes == outcome.counters.probes_blocked);
    }
}

#[test]
fn the_input_is_read_through_windows_of_every_page_size_and_number_of_levels() {
    for (page_shift, most) in MOST {
        for levels in 1..=most {
            let outcome = go_on(power8(), 1_200_000, 1, by(page_shift, levels));
            let outcome = outcome.unwrap_or_else(|error| panic!("2^{page_shift}, {levels} levels: {error}"));
            let (vfio, spapr) = (outcome.counters.vfio.unwrap(), outcome.counters.spapr.unwrap());
            assert_eq!((spapr.reads, spapr.read_page_sizes), (1, 1 << page_shift));
            assert!((1_200_000..2_400_000).contains(&vfio.user_bytes), "{vfio:?}");
        }
    }
}

#[test]
fn a_level_too_many_and_none_at_all_are_refused_as_impossible() {
    for (page_shift, most) in MOST {
        for levels in [0, most + 1, 6, u32::MAX] {
            let refused = go_on(power8(), 100, 1, by(page_shift, levels)).unwrap_err();
            assert!(matches!(refused, RunError::Refused(_)), "{refused}");
            assert!(
                refused.to_string().contains(&format!("by {levels} levels is refused (EINVAL)")),
                "{refused}"
            );
        }
    }
}

#[test]
fn a_user_of_version_1_reads_through_the_default_window_which_he_has_paid_for() {
    let windows = Windows { version1: true, ..Windows::default() };
    for bytes in [0, 1, 70_003, 1_100_000] {
        let outcome = go_on(power8(), bytes, 1, Asked { windows, ..Asked::default() });
        let outcome = outcome.unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        let (vfio, spapr) = (outcome.counters.vfio.unwrap(), outcome.counters.spapr.unwrap());
        assert!(vfio.user_bytes >= bytes as u64, "{vfio:?}");
        assert_eq!((spapr.version, spapr.reads, spapr.read_page_sizes), (1, 1, 0x1000));
        // The page that was mapped when the container was disabled was not unmapped by name.
        assert_eq!(vfio.maps, vfio.unmaps + 1);
    }
}

#[test]
fn a_user_who_is_killed_leaves_nothing_pinned_and_his_group_to_the_kernel() {
    let kinds = MOST.map(|(page_shift, most)| by(page_shift, most).windows);
    let version1 = Windows { version1: true, ..Windows::default() };
    for windows in kinds.into_iter().chain([Windows::default(), version1]) {
        for seed in 1..4 {
            let outcome = go_on(power8(), 700_000, seed, Asked { windows, kill: true, ..Asked::default() });
            let outcome = outcome.unwrap_or_else(|error| panic!("{windows:?}, seed {seed}: {error}"));
            let (vfio, spapr) = (outcome.counters.vfio.unwrap(), outcome.counters.spapr.unwrap());
            assert!(vfio.killed && vfio.most_pinned_pages > 0 && vfio.maps > vfio.unmaps, "{vfio:?}");
            assert_eq!(spapr.reads, 0);
        }
    }
}

#[test]
fn every_policy_that_a_bridge_may_have_is_borne() {
    for policy in [Policy::stale(), Policy::eager(), Policy::hostile()] {
        for (seed, (page_shift, most)) in (2..).zip(MOST) {
            let mut spec = power8();
            let BridgeKind::Phb3(phb) = &mut spec.host_bridges[0].kind else { panic!("power8 has a PHB3") };
            phb.config.policy = policy;
            go_on(spec, 40_000, seed, by(page_shift, most))
                .unwrap_or_else(|error| panic!("{policy:?}, seed {seed}: {error}"));
        }
    }
}

#[test]
fn a_machine_with_one_disk_has_one_group_in_its_windows() {
    let mut spec = power8();
    spec.host_bridges[0].slots.truncate(1);
    let spapr = go(spec, 5000, 1).unwrap().counters.spapr.unwrap();
    assert_eq!((spapr.shapes, spapr.groups, spapr.resets), (7, 1, 2));
}

#[test]
fn one_seed_is_one_trace_and_another_puts_processes_elsewhere() {
    let trace = |seed| {
        let mut spec = power8();
        let BridgeKind::Phb3(phb) = &mut spec.host_bridges[0].kind else { panic!("power8 has a PHB3") };
        phb.config.policy = Policy::hostile();
        let asked = by(16, 2);
        let sink = asked.sink.clone();
        go_on(spec, 30_000, seed, asked).unwrap();
        // Owners are places in this computer's memory, which differ.
        let told = |line: String| {
            line.split(' ').filter(|word| !word.starts_with("owner=")).collect::<Vec<_>>().join(" ")
        };
        sink.lines().into_iter().map(told).collect::<Vec<_>>()
    };
    let first = trace(11);
    assert!(first.len() > 100, "{} events", first.len());
    assert_eq!(first, trace(11));
    assert_ne!(first, trace(12), "the seed decides nothing");
}

/// Registers of the machine's PHB3: kills, and the way to tables on the chip.
const TCE_KILL: u64 = 0x3_fffe_4000_0210;
const IODA_ADDR: u64 = 0x3_fffe_4000_0220;
const IODA_DATA: u64 = 0x3_fffe_4000_0228;

/// A CPU whose stores to some registers are gone.
struct Losing {
    /// Whether this store is lost: register, value, and which table on the chip is selected.
    lost: fn(u64, u64, u64) -> bool,
    selected: AtomicU64,
    /// How many were.
    count: AtomicU64,
}

impl Tamper for Losing {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        if at.get() == IODA_ADDR {
            self.selected.store(value >> 48 & 0x1f, Relaxed);
        }
        if (self.lost)(at.get(), value, self.selected.load(Relaxed)) {
            self.count.fetch_add(1, Relaxed);
        } else {
            hands.write_register(at, width, value);
        }
    }
}

fn caught(lost: fn(u64, u64, u64) -> bool) -> String {
    let losing = Arc::new(Losing { lost, selected: AtomicU64::new(0), count: AtomicU64::new(0) });
    let tampered = Asked { tamper: Some(losing.clone()), ..Asked::default() };
    let outcome = go_on(power8(), 5000, 1, tampered);
    assert!(losing.count.load(Relaxed) > 0, "nothing was lost");
    outcome.expect_err("a run that must not verify").to_string()
}

#[test]
fn a_driver_whose_kills_are_lost_does_not_verify() {
    caught(|at, _, _| at == TCE_KILL);
}

#[test]
fn a_driver_whose_windows_never_close_does_not_verify() {
    let said = caught(|at, value, selected| at == IODA_DATA && selected == 9 && value == 0);
    assert!(said.contains("isolation"), "{said}");
}
