//! What the simulator says of a mutant. `cargo xtask mutants --simulator` asks; without one, tests/lives.rs says the same and more.

use portcullis_simulator::{FaultKind, MachineKind, Options, run};

/// Faults of which something is open still on a machine (`seeds.txt`): without a mutant nobody must object.
const fn open(machine: MachineKind) -> &'static [FaultKind] {
    match machine {
        MachineKind::Power8
        | MachineKind::Smmuv2
        | MachineKind::Smmuv3
        | MachineKind::Sva
        | MachineKind::Vfio
        | MachineKind::X86 => &[],
        _ => &[FaultKind::AtcNever, FaultKind::CommandError, FaultKind::NoSync],
    }
}

/// Operations on each kind of machine.
const STEPS: u64 = 10_000;

#[test]
#[ignore = "cargo xtask mutants --simulator runs it"]
fn nobody_objects() {
    for machine in MachineKind::DRAWN {
        let options = Options { machine, spared: open(machine), shrink: false, ..Options::new(0x100, STEPS) };
        if let Err(objection) = run(&options) {
            panic!("objection: {} in step {}: {}", objection.promise, objection.step, objection.what);
        }
    }
}
