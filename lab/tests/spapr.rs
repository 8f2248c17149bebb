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
use portcullis_lab::workload::spapr::{MACHINE, run};
use portcullis_lab::workload::vfio::{Job, Outcome};

fn power8() -> MachineSpec {
    builtin::find(MACHINE).unwrap()
}

fn go(spec: MachineSpec, bytes: usize, seed: u64) -> Result<Outcome, RunError> {
    go_wrong(spec, bytes, seed, None)
}

fn go_wrong(
    spec: MachineSpec,
    bytes: usize,
    seed: u64,
    tamper: Option<Arc<dyn Tamper>>,
) -> Result<Outcome, RunError> {
    let input = Opened::beginning_of_sample(bytes);
    run(&Job {
        spec,
        device_tree: None,
        input: &input,
        seed,
        unsafe_interrupts: false,
        kill: false,
        sink: Arc::new(Memory::default()),
        tamper,
        progress: None,
    })
}

#[test]
fn a_user_reads_inputs_of_every_size_through_windows_of_his_own() {
    for bytes in [0, 1, 511, 512, 4096, 4097, 1_100_000] {
        let outcome = go(power8(), bytes, 1).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        let (vfio, spapr) = (outcome.counters.vfio.unwrap(), outcome.counters.spapr.unwrap());
        assert!(vfio.user_bytes >= bytes as u64 && vfio.maps == vfio.unmaps, "{bytes}: {vfio:?}");
        // 4K pages by 1 to 3 levels, 64K and 16M ones by 1 and 2; the next of each is refused.
        assert_eq!((spapr.shapes, spapr.levels_refused, spapr.groups), (7, 3, 2), "{bytes}: {spapr:?}");
        assert!(spapr.freezes > 0 && outcome.counters.probes == outcome.counters.probes_blocked);
    }
}

#[test]
fn every_policy_that_a_bridge_may_have_is_borne() {
    for policy in [Policy::stale(), Policy::eager(), Policy::hostile()] {
        for seed in 2..5 {
            let mut spec = power8();
            let BridgeKind::Phb3(phb) = &mut spec.host_bridges[0].kind else { panic!("power8 has a PHB3") };
            phb.config.policy = policy;
            go(spec, 40_000, seed).unwrap_or_else(|error| panic!("{policy:?}, seed {seed}: {error}"));
        }
    }
}

#[test]
fn a_machine_with_one_disk_has_one_group_in_its_windows() {
    let mut spec = power8();
    spec.host_bridges[0].slots.truncate(1);
    let spapr = go(spec, 5000, 1).unwrap().counters.spapr.unwrap();
    assert_eq!((spapr.shapes, spapr.groups), (7, 1));
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
    let outcome = go_wrong(power8(), 5000, 1, Some(losing.clone()));
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
