//! What the simulator says of a mutant. `cargo xtask mutants --simulator` asks; without one, tests/lives.rs says the same and more.

use portcullis_simulator::{MachineKind, Options, run};

/// Operations on each kind of machine.
const STEPS: u64 = 10_000;

#[test]
#[ignore = "cargo xtask mutants --simulator runs it"]
fn nobody_objects() {
    for machine in MachineKind::DRAWN {
        let options = Options { machine, shrink: false, ..Options::new(0x100, STEPS) };
        if let Err(objection) = run(&options) {
            panic!("objection: {} in step {}: {}", objection.promise, objection.step, objection.what);
        }
    }
}
