//! Every built-in machine, with inputs of every awkward size, under every policy of the models.

mod policies;

use std::sync::Arc;

use model_smmuv3::Policy;
use portcullis::core::domain::FlushMode;
use portcullis_lab::RunError;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::trace::Memory;
use portcullis_lab::workload::dma::{Job, Outcome, run};

use self::policies::with_policy;

/// Less than a block, one block, around a page, and more than all buffers in flight hold for one round.
const SIZES: [usize; 9] = [0, 1, 511, 512, 513, 4095, 4096, 4097, 300 << 10];

fn go(
    spec: MachineSpec,
    bytes: usize,
    seed: u64,
    mode: FlushMode,
) -> Result<(Outcome, Vec<String>), RunError> {
    let sink = Arc::new(Memory::default());
    let input = Opened::beginning_of_sample(bytes);
    let job = Job {
        spec,
        device_tree: None,
        input: &input,
        seed,
        mode,
        sink: sink.clone(),
        tamper: None,
        progress: None,
    };
    Ok((run(&job)?, sink.lines()))
}

#[test]
fn every_machine_reads_inputs_of_every_size() {
    for spec in builtin::all() {
        for bytes in SIZES {
            let name = spec.name.clone();
            let (outcome, _) = go(spec.clone(), bytes, 1, FlushMode::Strict)
                .unwrap_or_else(|error| panic!("{name}, {bytes} bytes: {error}"));
            let counted = outcome.counters;
            assert!(counted.device_wrote_bytes >= bytes as u64, "{name}, {bytes} bytes: {counted:?}");
            assert!(counted.probes > 0 && counted.probes == counted.probes_blocked, "{name}: {counted:?}");
        }
    }
}

#[test]
fn every_machine_bears_every_policy_that_the_book_allows() {
    for spec in builtin::all() {
        for (policy_name, policy) in
            [("stale", Policy::stale()), ("eager", Policy::eager()), ("hostile", Policy::hostile())]
        {
            for seed in 2..5 {
                let name = spec.name.clone();
                go(with_policy(spec.clone(), policy), 40_000, seed, FlushMode::Strict)
                    .unwrap_or_else(|error| panic!("{name}, {policy_name}, seed {seed}: {error}"));
            }
        }
    }
}

#[test]
fn every_machine_reads_lazily_too() {
    for spec in builtin::all() {
        let name = spec.name.clone();
        let lazy = |policy| go(with_policy(spec.clone(), policy), 300 << 10, 7, FlushMode::Lazy);
        lazy(Policy::stale()).unwrap_or_else(|error| panic!("{name}: {error}"));
        lazy(Policy::hostile()).unwrap_or_else(|error| panic!("{name}, hostile: {error}"));
    }
}

#[test]
fn one_seed_is_one_trace_to_the_byte() {
    for spec in builtin::all() {
        let trace = |seed| {
            go(with_policy(spec.clone(), Policy::hostile()), 30_000, seed, FlushMode::Strict).unwrap().1
        };
        let first = trace(11);
        assert!(first.len() > 100, "{}: {} events", spec.name, first.len());
        assert_eq!(first, trace(11), "{}", spec.name);
        // What a PHB3's dice decide, no event of this workload tells. Those of `spapr` tell where processes are.
        if spec.phb3s().next().is_none() {
            assert_ne!(first, trace(12), "{}: the seed decides nothing", spec.name);
        }
    }
}
