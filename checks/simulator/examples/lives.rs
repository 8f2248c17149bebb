//! Lives from a seed, for whoever works on the simulator: `cargo run --release --example lives -- SEED STEPS MACHINE [all|none|confirmed] [short|THREADS]`. The
//! fourth word says that no faults are armed, or only those after which hardware still confirms everything; `short`, that traces are made shorter and shown.

use std::time::Instant;

use portcullis_simulator::{FaultKind, MachineKind, Options, Summary, run_while};

fn main() {
    let mut words = std::env::args().skip(1);
    let parse = |word: String| match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    let mut number = |otherwise: u64| words.next().and_then(parse).unwrap_or(otherwise);
    let mut options = Options { shrink: false, ..Options::new(number(1), 0) };
    let wanted = number(100_000);
    options.machine = words.next().and_then(|word| word.parse().ok()).unwrap_or(MachineKind::Smmuv3);
    match words.next().as_deref() {
        Some("none") => options.faults = false,
        Some("confirmed") => {
            options.spared = &[FaultKind::AtcNever, FaultKind::CommandError, FaultKind::NoSync];
        }
        _ => {}
    }
    match words.next().as_deref() {
        Some("short") => options.shrink = true,
        Some(count) => options.threads = count.parse().unwrap_or(1),
        None => {}
    }
    let (began, mut sum, mut wrong) = (Instant::now(), Summary::default(), 0);
    while sum.steps < wanted {
        let rest = Options { steps: wanted - sum.steps, ..options };
        let mut so_far = Summary::default();
        let outcome = run_while(&rest, &mut |summary| {
            so_far.clone_from(summary);
            true
        });
        if sum.lives == 0 {
            sum = so_far;
        } else {
            sum.add(&so_far);
        }
        let Err(objection) = outcome else { break };
        // The lives behind it are lived all the same.
        if options.shrink {
            println!("{objection}");
        } else {
            println!("{:#x}: {}: {}", objection.seed, objection.promise, objection.what);
        }
        wrong += 1;
        options.seed = objection.seed + 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = |count: u64| count as f64 / seconds;
    println!("{}", sum.coverage);
    println!(
        "{} steps, {} lives, {wrong} objections, {} accesses, {} refused, {} checks, hash {:#x}",
        sum.steps,
        sum.lives,
        sum.accesses,
        sum.refused,
        sum.checks(),
        sum.hash
    );
    println!(
        "{:.0} steps/s, {:.0} accesses/s, {:.0} steps of drivers/s, {} operations of another CPU",
        rate(sum.steps),
        rate(sum.accesses + sum.refused),
        rate(sum.hooks),
        sum.nested
    );
}
