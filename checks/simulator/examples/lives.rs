//! Lives from a seed, for whoever works on the simulator: `cargo run --release --example lives -- SEED STEPS MACHINE`.

use std::time::Instant;

use portcullis_simulator::{MachineKind, Options, run};

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |otherwise: u64| words.next().and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let mut options = Options::new(number(1), number(100_000));
    options.machine = words.next().and_then(|word| word.parse().ok()).unwrap_or(MachineKind::Smmuv3);
    options.faults = words.next().is_none();
    let began = Instant::now();
    match run(&options) {
        Ok(summary) => {
            let seconds = began.elapsed().as_secs_f64();
            println!("{}", summary.coverage);
            println!(
                "{} steps, {} lives, {} accesses, {} refused, {} checks, hash {:#x}, {:.0} steps/s",
                summary.steps,
                summary.lives,
                summary.accesses,
                summary.refused,
                summary.checks(),
                summary.hash,
                summary.steps as f64 / seconds
            );
        }
        Err(objection) => println!("{objection}\n{:.1} s", began.elapsed().as_secs_f64()),
    }
}
