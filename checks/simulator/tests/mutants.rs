//! What the simulator says of a mutant. `cargo xtask mutants --simulator` asks; without one, tests/lives.rs says the same and more.

use portcullis_simulator::{MachineKind, Options, run};

/// Operations, half of them on each kind of machine.
const STEPS: u64 = 10_000;

#[test]
#[ignore = "cargo xtask mutants --simulator runs it"]
fn nobody_objects() {
    for machine in [MachineKind::Smmuv3, MachineKind::Sva] {
        let options = Options { machine, shrink: false, ..Options::new(1, STEPS / 2) };
        if let Err(objection) = run(&options) {
            panic!("objection: {} in step {}: {}", objection.promise, objection.step, objection.what);
        }
    }
}
