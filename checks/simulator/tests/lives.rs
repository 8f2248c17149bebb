//! Lives from seeds that are always the same here, and from seeds that once failed.
//!
//! Fresh seeds are lived by a stage of their own of `cargo xtask test`, which draws the first and prints it, and by `portcullis sim`.

use portcullis_simulator::{FaultKind, MachineKind, Objection, OpKind, Options, Summary, impossible, run};

/// Operations of each run.
const STEPS: u64 = 30_000;
/// Each run begins with the life of this seed, and goes on with those of the next.
const FIRST: u64 = 0x100;

/// Every kind of machine.
const ALONE: [MachineKind; MachineKind::DRAWN.len()] = MachineKind::DRAWN;

fn steps(seed: u64, machine: MachineKind, steps: u64) -> Result<Summary, Objection> {
    run(&Options { machine, ..Options::new(seed, steps) })
}

/// Lives on every kind of machine, from a seed on.
fn on_each_machine(first: u64) {
    for machine in ALONE {
        match steps(first, machine, STEPS) {
            Ok(summary) => told(machine.name(), first, &summary),
            Err(objection) => panic!("{objection}"),
        }
    }
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

#[test]
fn lives_keep_every_promise() {
    on_each_machine(FIRST);
}

#[test]
#[ignore = "from a seed that somebody else draws, SIM_SEED: a stage of `cargo xtask test`"]
fn fresh_lives_keep_every_promise() {
    let first = std::env::var("SIM_SEED").expect("SIM_SEED says with which life to begin");
    let first = first.parse().expect("SIM_SEED is a number");
    on_each_machine(first);
}

#[test]
fn threads_without_a_schedule_keep_every_promise() {
    for machine in [MachineKind::Smmuv3, MachineKind::Sva, MachineKind::X86Sva] {
        let options = Options { machine, threads: 4, ..Options::new(FIRST, 12_000) };
        match run(&options) {
            Ok(summary) => told(&format!("four threads on {}", machine.name()), FIRST, &summary),
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
    for machine in ALONE {
        let hash = |seed| {
            steps(seed, machine, 4000).map(|summary| (summary.hash, summary.steps, summary.accesses)).ok()
        };
        assert_eq!(hash(77), hash(77));
        assert_ne!(hash(77), hash(78));
    }
}

#[test]
fn users_map_and_unmap_what_their_devices_reach() {
    for (machine, wanted) in [
        (MachineKind::Vfio, &[OpKind::MapDma, OpKind::UnmapDma]),
        (MachineKind::Power8, &[OpKind::MapDma, OpKind::UnmapDma]),
    ] {
        let summary = steps(0x40, machine, 10_000).unwrap_or_else(|objection| panic!("{objection}"));
        for &op in wanted {
            assert!(summary.coverage.of(op).0 > 0, "{} never succeeds on {}", op.name(), machine.name());
        }
        assert!(summary.accesses > 100, "devices of {} reach memory", machine.name());
    }
}

#[test]
fn devices_behind_either_iommu_share_processes_memory() {
    for machine in [MachineKind::Sva, MachineKind::X86Sva] {
        let summary = steps(0x40, machine, STEPS).unwrap_or_else(|objection| panic!("{objection}"));
        let shared = [
            OpKind::Spawn,
            OpKind::Enable,
            OpKind::Bind,
            OpKind::SharedDma,
            OpKind::PageRequest,
            OpKind::Exit,
            OpKind::Unbind,
            OpKind::Disable,
        ];
        for op in shared {
            assert!(summary.coverage.of(op).0 > 0, "{} never succeeds on {}", op.name(), machine.name());
        }
        assert!(summary.accesses > 100, "devices of {} reach memory", machine.name());
    }
}

#[test]
fn the_document_has_every_fault_and_no_other() {
    let document = include_str!("../../../docs/faults.md");
    let rows =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name));
    let documented: Vec<&str> = rows.collect();
    let known: Vec<&str> = FaultKind::ALL.into_iter().map(FaultKind::name).collect();
    assert_eq!(documented, known);
}

#[test]
fn a_pair_that_cannot_meet_does_not() {
    for machine in ALONE {
        let summary = steps(5, machine, 10_000).unwrap_or_else(|objection| panic!("{objection}"));
        for op in OpKind::ALL {
            for fault in FaultKind::ALL.into_iter().filter(|&fault| impossible(machine, op, fault).is_some())
            {
                let met = summary.coverage.met(op, fault);
                assert_eq!(met, 0, "{} and {} on {}", op.name(), fault.name(), machine.name());
            }
        }
    }
}

#[test]
fn a_pair_can_meet_on_any_machine_if_it_can_on_one() {
    for op in OpKind::ALL {
        for fault in FaultKind::ALL {
            let somewhere = ALONE.into_iter().any(|machine| impossible(machine, op, fault).is_none());
            let any = impossible(MachineKind::Any, op, fault);
            assert_eq!(any.is_none(), somewhere, "{} and {}", op.name(), fault.name());
        }
    }
    // What no machine has both, what some machine keeps apart, and what meets by the way.
    assert!(impossible(MachineKind::Any, OpKind::CreateWindow, FaultKind::CommandError).is_some());
    assert_eq!(
        impossible(MachineKind::Any, OpKind::Step, FaultKind::AllocationFails),
        Some("it takes no memory")
    );
    assert!(impossible(MachineKind::Power8, OpKind::Dma, FaultKind::NoSync).is_none());
    assert!(impossible(MachineKind::Vfio, OpKind::Dma, FaultKind::NoSync).is_some());
}

#[test]
#[ignore = "for whoever looks for failures: SIM_SEED, SIM_LIVES, SIM_MACHINE, SIM_FAULTS"]
fn lives_as_the_environment_says() {
    let word = |name: &str| std::env::var(name).ok();
    let number =
        |name: &str, otherwise: u64| word(name).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let machine = word("SIM_MACHINE").and_then(|word| word.parse().ok()).unwrap_or_default();
    let mut sum = 0;
    for seed in 0..number("SIM_LIVES", 1) {
        let mut options = Options::new(number("SIM_SEED", 1) + seed, number("SIM_STEPS", 6000));
        (options.machine, options.faults) = (machine, number("SIM_FAULTS", 1) == 1);
        match run(&options) {
            Ok(summary) => sum += summary.steps,
            Err(objection) => println!("{objection}"),
        }
    }
    println!("{sum} steps");
}
