//! A disk behind a VT-d unit: read by the kernel's driver, handed to user space and back.

use std::sync::Arc;

use portcullis::core::domain::FlushMode;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::builtin;
use portcullis_lab::machine::spec::MachineSpec;
use portcullis_lab::trace::Memory;
use portcullis_lab::workload::{dma, vfio};

fn x86() -> MachineSpec {
    builtin::find("x86").unwrap()
}

/// The same, but the unit has no scalable mode.
fn legacy() -> MachineSpec {
    let mut spec = x86();
    spec.pc
        .iter_mut()
        .flat_map(|pc| &mut pc.units)
        .for_each(|unit| unit.config = model_vtd::Config::legacy());
    spec
}

#[test]
fn a_disk_is_read_through_a_unit_in_scalable_and_in_legacy_mode() {
    for (spec, bytes) in [(x86(), 0), (x86(), 4097), (x86(), 300 << 10), (legacy(), 4097)] {
        let sink = Arc::new(Memory::default());
        let input = Opened::beginning_of_sample(bytes);
        for mode in [FlushMode::Strict, FlushMode::Lazy] {
            let job = dma::Job {
                spec: spec.clone(),
                device_tree: None,
                input: &input,
                seed: 3,
                mode,
                sink: sink.clone(),
                tamper: None,
                progress: None,
            };
            let outcome = dma::run(&job).unwrap();
            assert_eq!(outcome.digest, input.measure().digest);
            let counters = outcome.counters;
            assert!(counters.probes > 0 && counters.probes == counters.probes_blocked, "{counters:?}");
            assert!(counters.interrupts > 0 && counters.faults == 0, "{counters:?}");
        }
    }
}

#[test]
fn a_user_gets_a_disk_whose_interrupts_are_remapped_and_gives_it_back_or_dies() {
    for (spec, kill) in [(x86(), false), (x86(), true), (legacy(), false)] {
        let input = Opened::beginning_of_sample(300 << 10);
        let job = vfio::Job {
            spec,
            device_tree: None,
            input: &input,
            seed: 3,
            unsafe_interrupts: false,
            kill,
            sink: Arc::new(Memory::default()),
            tamper: None,
            progress: None,
        };
        let outcome = vfio::run(&job).unwrap();
        let counters = outcome.counters;
        assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
    }
}

mod on_qemu {
    use portcullis_lab::machine::qemu::Job;
    use portcullis_lab::trace;
    use portcullis_qemu::Arch;
    use portcullis_qemu::testing::qemus;

    use super::*;

    #[test]
    fn a_disk_is_read_and_handed_to_a_user_through_a_unit_that_is_not_ours() {
        for qemu in qemus(Arch::X86_64) {
            let input = Opened::beginning_of_sample(20_000);
            let job =
                || Job { input: &input, seed: 1, sink: trace::shared(None), tamper: None, progress: None };
            let read = dma::run_on_qemu(&qemu, &job()).unwrap();
            assert_eq!(read.digest, input.measure().digest, "{qemu}");
            for kill in [false, true] {
                let outcome = vfio::run_on_qemu(&qemu, &job(), kill).unwrap();
                let counters = outcome.counters;
                assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
                assert!(counters.interrupts > 0, "{qemu}: {counters:?}");
            }
        }
    }
}
