//! How fast lives are lived: operations of plans a second, on one CPU, with the oracle, faults and audits.
//!
//! Operations that found nothing to do, and those of another CPU in the middle of one, are not counted. Faults are those after which hardware still confirms, so that
//! every run is as long. Device accesses and drivers' steps (stores, barriers, register writes, waits) are beside them. The best of some runs, because the machine has
//! other things to do.
//!
//! Bar: 200,000 operations a second on each kind of machine.

use std::process::ExitCode;
use std::time::Instant;

use portcullis_simulator::{FaultKind, MachineKind, Options, run};

const STEPS: u64 = 300_000;
const RUNS: u64 = 5;
const BAR: f64 = 200_000.0;

fn main() -> ExitCode {
    println!("{:<10} {:>14} {:>14} {:>16}", "machine", "operations/s", "accesses/s", "drivers' steps/s");
    let held = [MachineKind::Smmuv3, MachineKind::Sva, MachineKind::Smmuv2, MachineKind::X86].map(row);
    if held.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Answers whether the bar holds.
#[expect(clippy::cast_precision_loss, reason = "counts of seconds' work")]
fn row(machine: MachineKind) -> bool {
    let spared: &[FaultKind] = &[FaultKind::AtcNever, FaultKind::CommandError, FaultKind::NoSync];
    let mut best = [0.0f64; 3];
    for seed in 0..RUNS {
        let options = Options { machine, spared, shrink: false, ..Options::new(0x1000 * (seed + 1), STEPS) };
        let began = Instant::now();
        match run(&options) {
            Ok(summary) => {
                let seconds = began.elapsed().as_secs_f64();
                let counts = [summary.steps, summary.accesses + summary.refused, summary.hooks];
                if summary.steps as f64 / seconds > best[0] {
                    best = counts.map(|count| count as f64 / seconds);
                }
            }
            Err(objection) => println!("{objection}"),
        }
    }
    let [steps, accesses, hooks] = best;
    println!("{:<10} {steps:>14.0} {accesses:>14.0} {hooks:>16.0}", machine.name());
    steps >= BAR
}
