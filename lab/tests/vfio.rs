//! A disk handed to user space and back, on every machine, and the ways in which that must fail.

mod policies;

use std::sync::Arc;

use model_smmuv3::Policy;
use portcullis_lab::RunError;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::report::VfioCounters;
use portcullis_lab::trace::Memory;
use portcullis_lab::workload::vfio::{Job, Outcome, run};

use self::policies::with_policy;

/// Less than a block, one block, around a page, and more than all buffers in flight hold for one round.
const SIZES: [usize; 9] = [0, 1, 511, 512, 513, 4095, 4096, 4097, 300 << 10];

fn go(spec: MachineSpec, bytes: usize, seed: u64, kill: bool) -> Result<(Outcome, Vec<String>), RunError> {
    let sink = Arc::new(Memory::default());
    let input = Opened::beginning_of_sample(bytes);
    let job = Job {
        spec,
        device_tree: None,
        input: &input,
        seed,
        unsafe_interrupts: false,
        kill,
        sink: sink.clone(),
        tamper: None,
        progress: None,
    };
    Ok((run(&job)?, sink.lines()))
}

fn counters(outcome: &Outcome) -> VfioCounters {
    outcome.counters.vfio.expect("the run handed a device over")
}

/// Those whose containers are of type 1.
fn machines() -> impl Iterator<Item = MachineSpec> {
    builtin::all().into_iter().filter(|spec| spec.phb3s().next().is_none())
}

#[test]
fn every_machine_hands_its_disk_over_with_inputs_of_every_size() {
    for spec in machines() {
        for bytes in SIZES {
            let name = spec.name.clone();
            let (outcome, _) = go(spec.clone(), bytes, 1, false)
                .unwrap_or_else(|error| panic!("{name}, {bytes} bytes: {error}"));
            let vfio = counters(&outcome);
            assert!(vfio.user_bytes >= bytes as u64, "{name}, {bytes} bytes: {vfio:?}");
            assert!(vfio.maps >= 10 && vfio.maps == vfio.unmaps, "{name}: {vfio:?}");
            assert!(vfio.signals > 0 && vfio.signals <= outcome.counters.interrupts, "{name}: {vfio:?}");
            // A small page and a disk's registers: the table of messages is in another page. A large one: it is not.
            assert_eq!(vfio.mapped_registers, spec.page.bytes() == 4096, "{name}");
            assert!(vfio.claims_refused >= 8 && vfio.maps_refused >= 8, "{name}: {vfio:?}");
            assert_eq!(outcome.counters.probes, outcome.counters.probes_blocked, "{name}");
        }
    }
}

#[test]
fn every_machine_bears_every_policy_that_the_book_allows() {
    for spec in machines() {
        for (policy_name, policy) in
            [("stale", Policy::stale()), ("eager", Policy::eager()), ("hostile", Policy::hostile())]
        {
            for seed in 2..4 {
                let name = spec.name.clone();
                go(with_policy(spec.clone(), policy), 1_100_000, seed, false)
                    .unwrap_or_else(|error| panic!("{name}, {policy_name}, seed {seed}: {error}"));
            }
        }
    }
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_nothing_and_the_kernel_gets_the_disk_back() {
    for spec in machines() {
        for (policy_name, policy) in [("default", Policy::default()), ("hostile", Policy::hostile())] {
            let name = spec.name.clone();
            let (outcome, _) = go(with_policy(spec.clone(), policy), 300 << 10, 5, true)
                .unwrap_or_else(|error| panic!("{name}, {policy_name}: {error}"));
            let vfio = counters(&outcome);
            assert!(vfio.killed && vfio.maps - vfio.unmaps == 9, "queues and buffers were left: {vfio:?}");
            assert_eq!(outcome.counters.probes, outcome.counters.probes_blocked, "{name}");
        }
    }
}

#[test]
fn one_seed_is_one_trace_to_the_byte() {
    let spec = builtin::find("arm").unwrap();
    let trace = |seed| go(with_policy(spec.clone(), Policy::hostile()), 30_000, seed, false).unwrap().1;
    // Owners are places in this computer's memory, which differ.
    let without_owners = |lines: Vec<String>| -> Vec<String> {
        let words = |line: String| {
            line.split(' ').filter(|word| !word.starts_with("owner=")).collect::<Vec<_>>().join(" ")
        };
        lines.into_iter().map(words).collect()
    };
    let first = without_owners(trace(11));
    assert!(first.len() > 100, "{} events", first.len());
    assert_eq!(first, without_owners(trace(11)));
    assert_ne!(first, without_owners(trace(12)), "the seed decides nothing");
}

#[test]
fn each_change_of_ownership_is_told_in_its_order() {
    let (_, lines) = go(builtin::find("arm").unwrap(), 5000, 1, false).unwrap();
    let steps = [
        "core dma_use: dev=0000:01:00.0",
        "core claim: dev= ",
        "core dma_unuse: dev=0000:01:00.0",
        "core attach: dev=0000:01:00.0 group=2 domain=blocked",
        "core claim: dev= ",
        "vfio vfio_set_container: group=2 result=ok",
        "core attach: dev=0000:01:00.0 group=2 domain=unmanaged",
        "vfio vfio_set_iommu",
        "core release: dev= ",
        "core dma_use: dev=0000:01:00.0",
    ];
    let mut rest = lines.iter();
    for step in steps {
        assert!(rest.any(|line| line.starts_with(step)), "{step} is missing behind those before it");
    }
}
