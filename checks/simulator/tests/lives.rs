//! Lives from fresh seeds, and from seeds that once failed.

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_simulator::{FaultKind, MachineKind, Objection, Options, Summary, run};

/// Operations of each run over fresh seeds.
const STEPS: u64 = 30_000;

fn steps(seed: u64, machine: MachineKind, steps: u64) -> Result<Summary, Objection> {
    run(&Options { machine, ..Options::new(seed, steps) })
}

fn told(name: &str, seed: u64, summary: &Summary) {
    let faults: u64 = FaultKind::ALL.into_iter().map(|fault| summary.coverage.fired(fault)).sum();
    println!(
        "{name}: seed {seed:#x}, {} steps, {} lives, {} accesses, {faults} faults, {} checks",
        summary.steps,
        summary.lives,
        summary.accesses,
        summary.checks()
    );
}

fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs() << 20
}

#[test]
fn lives_from_fresh_seeds_keep_every_promise() {
    for machine in [MachineKind::Smmuv3, MachineKind::Sva] {
        let seed = fresh();
        match steps(seed, machine, STEPS) {
            Ok(summary) => told(machine.name(), seed, &summary),
            Err(objection) => panic!("{objection}"),
        }
    }
}

#[test]
fn seeds_that_once_failed_do_so_no_more() {
    let list = include_str!("../seeds.txt");
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let machine = words.next().and_then(|word| word.parse().ok());
        let (Some(seed), Some(machine)) = (seed, machine) else { panic!("not a seed and a machine: {line}") };
        if let Err(objection) = steps(seed, machine, 6000) {
            panic!("{objection}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    for machine in [MachineKind::Smmuv3, MachineKind::Sva] {
        let hash = |seed| steps(seed, machine, 4000).map(|summary| (summary.hash, summary.steps, summary.accesses)).ok();
        assert_eq!(hash(77), hash(77));
        assert_ne!(hash(77), hash(78));
    }
}
