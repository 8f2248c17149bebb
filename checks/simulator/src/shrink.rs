//! From a life in which a promise was broken to the shortest one that can be found in which it still is.
//!
//! Operations are left out in ever smaller runs, as long as the same promise is broken without them. The machine stays what it is.

use core::time::Duration;
use std::time::Instant;

use crate::life::{self, Manner, Step};
use crate::options::{Objection, Options};
use crate::oracle::Wrong;

/// How long a trace may be made shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells an objection, with a short trace.
pub(crate) fn told(options: &Options, manner: Manner, plan: &[Step], wrong: Wrong, at: u64) -> Objection {
    let mut short: Vec<Step> = plan.iter().take(steps_again(plan, at)).copied().collect();
    if options.shrink {
        short = shrink(manner, short, &wrong);
    }
    let again = life::live(Manner { lines: true, ..manner }, &short);
    let mut lines = again.lines;
    if again.wrong.is_none() {
        lines.push("(it does not show by these operations alone)".into());
    }
    let replay = format!(
        "portcullis sim --seed {:#x} --steps {} --machine {}{}",
        manner.seed,
        steps_again(plan, at),
        options.machine.name(),
        if options.faults { "" } else { " --no-faults" }
    );
    let Wrong { promise, what } = wrong;
    Objection { promise, step: at, what, seed: manner.seed, trace: lines, replay }
}

/// How many operations are to be done so that all of this comes again. Somebody may object after the last one of a plan: then there are to be no more. And what is done at the
/// end of an operation depends on which the next one is.
fn steps_again(plan: &[Step], at: u64) -> usize {
    let end = plan.partition_point(|step| u64::from(step.index) <= at);
    let next = plan[end..].iter().position(|step| step.op.kind().is_some());
    (end + next.map_or(0, |place| place + 1)).max(1)
}

/// Whether the same promise is broken by this plan.
fn still(manner: Manner, plan: &[Step], wrong: &Wrong) -> bool {
    let report = life::live(manner, plan);
    report
        .wrong
        .is_some_and(|(found, _)| found.promise == wrong.promise && kind(&found.what) == kind(&wrong.what))
}

/// What an objection says without its numbers, as far as it tells one from another.
fn kind(what: &str) -> String {
    what.chars()
        .filter(|letter| letter.is_alphabetic())
        .filter(|letter| !letter.is_ascii_hexdigit())
        .take(24)
        .collect()
}

fn shrink(manner: Manner, mut plan: Vec<Step>, wrong: &Wrong) -> Vec<Step> {
    let began = Instant::now();
    let mut run = plan.len().div_ceil(2).max(1);
    while began.elapsed() < PATIENCE {
        let mut at = 0;
        let mut shorter = false;
        while at < plan.len() && began.elapsed() < PATIENCE {
            let without: Vec<Step> =
                plan[..at].iter().chain(&plan[(at + run).min(plan.len())..]).copied().collect();
            if without.len() < plan.len() && still(manner, &without, wrong) {
                plan = without;
                shorter = true;
            } else {
                at += run;
            }
        }
        match (run, shorter) {
            (1, false) => break,
            (1, true) => {}
            _ => run = run.div_ceil(2),
        }
    }
    plan
}

#[cfg(test)]
mod unit_tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::life::Op;

    #[test]
    fn a_life_is_lived_again_as_far_as_anybody_saw_of_it_and_with_its_end_if_that_was_it() {
        let (passes, arms) = (Op::Step { turns: 1 }, Op::Arm { fault: FaultKind::NoSync, n: 1 });
        let ops = [passes, passes, arms, passes, passes];
        let plan: Vec<Step> = ops.into_iter().zip(0..).map(|(op, index)| Step { index, op }).collect();
        let again = [0, 1, 3, 4, 5].map(|at| steps_again(&plan, at));
        assert_eq!(again, [2, 4, 5, 5, 5]);
        assert_eq!(steps_again(&[], 0), 1, "it was never born");
    }
}
