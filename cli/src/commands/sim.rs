//! `portcullis sim`: whole lives of a machine, drawn from a seed, under every fault, before an oracle.

use core::time::Duration;
use std::io::{self, IsTerminal, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use portcullis_simulator::{FaultKind, MachineKind, OpKind, Options, Promise, Summary, run_while};
use serde_json::json;

use crate::args::SimArguments;
use crate::failure::{self, Failure};
use crate::output::{self, grouped};

/// Steps that are done where nobody says how many, nor how long.
const STEPS: u64 = 1_000_000;

/// Runs lives, and shows what they came to.
pub(crate) fn run(arguments: &SimArguments) -> Result<(), Failure> {
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let steps = arguments.steps.unwrap_or(if arguments.minutes.is_some() { u64::MAX } else { STEPS });
    let mut options = Options::new(seed, steps);
    options.faults = !arguments.no_faults;
    options.threads = arguments.threads.into();
    options.machine = if options.threads > 1 { on_threads(arguments.machine)? } else { arguments.machine };
    if arguments.seed.is_none() {
        // Now: a run that is killed, or that hangs, tells nothing at its end.
        failure::say(&format_args!("the first life has seed {seed:#x}"));
    }
    let limit = arguments.minutes;
    let bar = bar();
    let began = Instant::now();
    let mut watch = Watch::default();
    let outcome = run_while(&options, &mut |summary| {
        if watch.looks(began.elapsed()) {
            let line = line(summary, began.elapsed(), watch.now);
            match bar.is_hidden() {
                false => bar.set_message(line),
                true if watch.says(began.elapsed()) => {
                    // Nobody has to read it.
                    let _ = writeln!(io::stderr(), "{:>6} s  {line}", began.elapsed().as_secs());
                }
                true => {}
            }
        }
        limit.is_none_or(|limit| began.elapsed() < limit)
    });
    bar.finish_and_clear();
    watch.look();
    match outcome {
        Ok(summary) if arguments.json => output::print(&as_json(&summary, seed, began.elapsed(), &watch)),
        Ok(summary) => output::print(&table(&summary, seed, began.elapsed(), &watch)),
        Err(objection) => {
            output::print(&format!("{objection}\n"))?;
            Err(Failure::Broken { promise: objection.promise.name(), seed: objection.seed })
        }
    }
}

/// The machine on which several threads live at once: an SMMUv3, where nobody says.
fn on_threads(machine: MachineKind) -> Result<MachineKind, Failure> {
    match machine {
        MachineKind::Any => Ok(MachineKind::Smmuv3),
        MachineKind::Vfio | MachineKind::Power8 => Err(Failure::Usage(format!(
            "--threads does not go with --machine {}: users of VFIO live on one thread",
            machine.name()
        ))),
        machine => Ok(machine),
    }
}

/// How much memory the process has, looked at now and then: a run of a night must not grow.
#[derive(Default)]
struct Watch {
    looked: Duration,
    said: Duration,
    /// In bytes; none where the system does not say.
    now: Option<u64>,
    /// After the first minute, when everything that is kept is there.
    settled: Option<u64>,
    most: u64,
}

impl Watch {
    /// Whether a second has passed since it last looked; then it looks.
    fn looks(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.looked + Duration::from_secs(1) {
            return false;
        }
        self.looked = elapsed;
        self.look();
        if elapsed > Duration::from_secs(60) {
            self.settled = self.settled.or(self.now);
        }
        true
    }

    /// Whether a minute has passed since something was last said.
    fn says(&mut self, elapsed: Duration) -> bool {
        let due = elapsed >= self.said + Duration::from_secs(60);
        if due {
            self.said = elapsed;
        }
        due
    }

    fn look(&mut self) {
        self.now = resident_bytes();
        self.most = self.most.max(self.now.unwrap_or(0));
    }

    fn words(&self) -> String {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let now = self.now.map_or("unknown".into(), |bytes| format!("{} at the end", mib(bytes)));
        let settled =
            self.settled.map(|bytes| format!(", {} after a minute", mib(bytes))).unwrap_or_default();
        format!("{now}{settled}, {} at most", mib(self.most))
    }
}

/// What the process has in RAM. Observed: Linux, proc(5), `/proc/PID/statm`: the second word, in pages.
fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let words = std::fs::read_to_string("/proc/self/statm").ok()?;
    words.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * PAGE_BYTES)
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

fn rate(count: u64, elapsed: Duration) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a figure for people")]
    let rate = (count as f64 / elapsed.as_secs_f64().max(1e-9)) as u64;
    rate
}

fn line(summary: &Summary, elapsed: Duration, resident: Option<u64>) -> String {
    let (met, all) = summary.coverage.pairs();
    let faults: u64 = FaultKind::ALL.into_iter().map(|fault| summary.coverage.fired(fault)).sum();
    format!(
        "{} steps, {} lives, {} faults met, {met} of {all} pairs, {} checks, {} steps/s, {} MiB",
        grouped(summary.steps),
        grouped(summary.lives),
        grouped(faults),
        grouped(summary.checks()),
        grouped(rate(summary.steps, elapsed)),
        resident.map_or(0, |bytes| bytes >> 20),
    )
}

fn table(summary: &Summary, seed: u64, elapsed: Duration, watch: &Watch) -> String {
    let mut rows = vec![
        ["seed".to_owned(), format!("{seed:#x}")],
        ["steps".to_owned(), grouped(summary.steps)],
        ["of another CPU".to_owned(), grouped(summary.nested)],
        ["lives".to_owned(), grouped(summary.lives)],
        ["accesses judged".to_owned(), grouped(summary.accesses)],
        ["accesses refused".to_owned(), grouped(summary.refused)],
        ["trace".to_owned(), format!("{:#018x}", summary.hash)],
        ["time".to_owned(), format!("{:.1} s", elapsed.as_secs_f64())],
        ["steps a second".to_owned(), grouped(rate(summary.steps, elapsed))],
        ["accesses a second".to_owned(), grouped(rate(summary.accesses + summary.refused, elapsed))],
        ["drivers' a second".to_owned(), grouped(rate(summary.hooks, elapsed))],
        ["a night of 10^9".to_owned(), night(rate(summary.steps, elapsed))],
        ["memory".to_owned(), watch.words()],
    ];
    let checks = Promise::ALL
        .into_iter()
        .map(|promise| [format!("checked {promise}"), grouped(summary.checks_of(promise))]);
    rows.extend(checks);
    format!("{}\n{}\n", output::columns(&rows), summary.coverage)
}

/// How long 10^9 steps take at a rate.
fn night(rate: u64) -> String {
    format!("{:.1} hours of one CPU", 1e9 / rate.max(1) as f64 / 3600.0)
}

fn as_json(summary: &Summary, seed: u64, elapsed: Duration, watch: &Watch) -> String {
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
        "steps_per_second": rate(summary.steps, elapsed),
        "accesses_per_second": rate(summary.accesses + summary.refused, elapsed),
        "driver_steps_per_second": rate(summary.hooks, elapsed),
        "nested": summary.nested,
        "resident_bytes": watch.now,
        "resident_bytes_at_most": watch.most,
        "pairs_met": met,
        "pairs": all,
        "checks": checks,
        "faults": faults,
        "operations": operations,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_live_on_the_machine_that_was_asked_for_or_nowhere() {
        let on = |machine| on_threads(machine).map_err(|failure| failure.code());
        assert_eq!(on(MachineKind::Any), Ok(MachineKind::Smmuv3));
        assert_eq!(on(MachineKind::X86Sva), Ok(MachineKind::X86Sva));
        assert_eq!(on(MachineKind::Vfio), Err(2));
        assert_eq!(on(MachineKind::Power8), Err(2));
    }
}
