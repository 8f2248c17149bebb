//! A stage of `cargo xtask test`: a name, something to do, and how it went.

use core::time::Duration;
use std::process::ExitCode;
use std::time::Instant;

use crate::qemu::Found;

/// One check.
pub(crate) struct Stage {
    /// The word that chooses it on the command line.
    pub(crate) name: &'static str,
    /// What it asks, for people.
    pub(crate) about: &'static str,
    /// Does it, with the QEMUs that there are.
    pub(crate) check: fn(&Found) -> Result<Passed, String>,
}

/// How a stage that did not fail went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// All of it was checked; the note says how, where there is more than one way. It may be empty.
    Done(String),
    /// Nothing was checked, and why.
    Skipped(String),
}

impl Passed {
    /// Checked, and there is nothing to add.
    pub(crate) const PLAIN: Self = Self::Done(String::new());
}

/// Runs every stage, also after a failure, then prints one line for each. Fails if any did.
pub(crate) fn run_all<'a>(stages: impl Iterator<Item = &'a Stage>, qemus: &Found) -> ExitCode {
    let start = Instant::now();
    let results: Vec<_> = stages.map(|stage| run_one(stage, qemus)).collect();
    println!("\n== summary");
    for (stage, outcome, took) in &results {
        println!("{}", line(stage.name, outcome, *took));
    }
    let failed = results.iter().filter(|(_, outcome, _)| outcome.is_err()).count();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} stages, {failed} failed, {seconds:.1} s in all", results.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Outcome = Result<Passed, String>;

fn run_one<'a>(stage: &'a Stage, qemus: &Found) -> (&'a Stage, Outcome, Duration) {
    println!("\n== {}: {}", stage.name, stage.about);
    let start = Instant::now();
    let outcome = (stage.check)(qemus);
    let took = start.elapsed();
    println!("{}", line(stage.name, &outcome, took));
    (stage, outcome, took)
}

fn line(name: &str, outcome: &Outcome, took: Duration) -> String {
    let (word, note) = match outcome {
        Ok(Passed::Done(note)) => ("ok", note),
        Ok(Passed::Skipped(why)) => ("skipped", why),
        Err(what) => ("FAILED", what),
    };
    let dash = if note.is_empty() { "" } else { "  " };
    format!("{name:<8} {word:<8} {:>6.1} s{dash}{note}", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_stage_the_outcome_and_the_reason() {
        let second = Duration::from_secs(1);
        assert_eq!(line("fmt", &Ok(Passed::PLAIN), second), "fmt      ok          1.0 s");
        assert_eq!(
            line("deny", &Ok(Passed::Skipped("not installed".into())), second),
            "deny     skipped     1.0 s  not installed"
        );
        assert_eq!(line("doc", &Err("broken".into()), second), "doc      FAILED      1.0 s  broken");
    }
}
