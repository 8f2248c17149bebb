//! `portcullis sim`: whole lives of a machine, drawn from a seed, under every fault, before an oracle.

use core::time::Duration;
use std::io::{self, IsTerminal};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use portcullis_simulator::{FaultKind, OpKind, Options, Promise, Summary, run_while};
use serde_json::json;

use crate::args::SimArguments;
use crate::failure::Failure;
use crate::output::{self, grouped};

/// Steps that are done where nobody says how many, nor how long.
const STEPS: u64 = 1_000_000;

/// Runs lives, and shows what they came to.
pub(crate) fn run(arguments: &SimArguments) -> Result<(), Failure> {
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let steps = arguments.steps.unwrap_or(if arguments.minutes.is_some() { u64::MAX } else { STEPS });
    let mut options = Options::new(seed, steps);
    options.machine = arguments.machine;
    options.faults = !arguments.no_faults;
    let limit = arguments.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let bar = bar();
    let began = Instant::now();
    let outcome = run_while(&options, &mut |summary| {
        bar.set_message(line(summary, began.elapsed()));
        limit.is_none_or(|limit| began.elapsed() < limit)
    });
    bar.finish_and_clear();
    match outcome {
        Ok(summary) if arguments.json => output::print(&as_json(&summary, seed, began.elapsed())),
        Ok(summary) => output::print(&table(&summary, seed, began.elapsed())),
        Err(objection) => {
            output::print(&format!("{objection}\n"))?;
            Err(Failure::Broken { promise: objection.promise.name(), seed: objection.seed })
        }
    }
}

/// A seed that nobody has chosen.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs() << 20
}

/// What goes on, in one line on a terminal.
fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

fn rate(summary: &Summary, elapsed: Duration) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a figure for people")]
    let rate = (summary.steps as f64 / elapsed.as_secs_f64().max(1e-9)) as u64;
    rate
}

fn line(summary: &Summary, elapsed: Duration) -> String {
    let (met, all) = summary.coverage.pairs();
    let faults: u64 = FaultKind::ALL.into_iter().map(|fault| summary.coverage.fired(fault)).sum();
    format!(
        "{} steps, {} lives, {} faults met, {met} of {all} pairs, {} checks, {} steps/s",
        grouped(summary.steps),
        grouped(summary.lives),
        grouped(faults),
        grouped(summary.checks()),
        grouped(rate(summary, elapsed)),
    )
}

fn table(summary: &Summary, seed: u64, elapsed: Duration) -> String {
    let mut rows = vec![
        ["seed".to_owned(), format!("{seed:#x}")],
        ["steps".to_owned(), grouped(summary.steps)],
        ["lives".to_owned(), grouped(summary.lives)],
        ["accesses judged".to_owned(), grouped(summary.accesses)],
        ["accesses refused".to_owned(), grouped(summary.refused)],
        ["trace".to_owned(), format!("{:#018x}", summary.hash)],
        ["time".to_owned(), format!("{:.1} s", elapsed.as_secs_f64())],
        ["steps a second".to_owned(), grouped(rate(summary, elapsed))],
    ];
    let checks = Promise::ALL
        .into_iter()
        .map(|promise| [format!("checked {promise}"), grouped(summary.checks_of(promise))]);
    rows.extend(checks);
    format!("{}\n{}\n", output::columns(&rows), summary.coverage)
}

fn as_json(summary: &Summary, seed: u64, elapsed: Duration) -> String {
    let checks: serde_json::Map<String, serde_json::Value> = Promise::ALL
        .into_iter()
        .map(|promise| (promise.name().into(), summary.checks_of(promise).into()))
        .collect();
    let faults: serde_json::Map<String, serde_json::Value> = FaultKind::ALL
        .into_iter()
        .map(|fault| (fault.name().into(), summary.coverage.fired(fault).into()))
        .collect();
    let operations: serde_json::Map<String, serde_json::Value> =
        OpKind::ALL.into_iter().map(|op| (op.name().into(), summary.coverage.of(op).0.into())).collect();
    let (met, all) = summary.coverage.pairs();
    let object = json!({
        "seed": seed,
        "steps": summary.steps,
        "lives": summary.lives,
        "accesses": summary.accesses,
        "refused": summary.refused,
        "trace": format!("{:#018x}", summary.hash),
        "seconds": elapsed.as_secs_f64(),
        "steps_per_second": rate(summary, elapsed),
        "pairs_met": met,
        "pairs": all,
        "checks": checks,
        "faults": faults,
        "operations": operations,
    });
    format!("{object}\n")
}
