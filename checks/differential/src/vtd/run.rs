//! Runs cases until enough accesses agree, or one does not.

use core::fmt;
use std::collections::BTreeMap;

use super::{Access, Answer, Case, Ours, Stage, Theirs, Verdict, case, mended};
use crate::run::{Failure, Options};

/// The counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases.
    pub cases: u64,
    /// Accesses that both let through to the same place, by mode.
    pub through: BTreeMap<&'static str, u64>,
    /// Accesses that both refuse with the same record, by mode and reason.
    pub refused: BTreeMap<(&'static str, String), u64>,
    /// Among them, those of which QEMU's record had to be corrected, by row.
    pub corrected: BTreeMap<&'static str, u64>,
    /// Accesses that were not made.
    pub left_out: u64,
}

impl Tally {
    /// Accesses of which both say the same.
    pub fn agreed(&self) -> u64 {
        self.through.values().chain(self.refused.values()).sum()
    }

    fn take(&mut self, mode: &'static str, ours: &Answer) {
        let reason =
            ours.reason().map_or("nothing answers, or silence".to_owned(), |reason| format!("{reason:#04x}"));
        match ours.reached {
            Some(_) => *self.through.entry(mode).or_default() += 1,
            None => *self.refused.entry((mode, reason)).or_default() += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cases                  {:>9}", self.cases)?;
        writeln!(f, "accesses that agree    {:>9}", self.agreed())?;
        self.through
            .iter()
            .try_for_each(|(mode, count)| writeln!(f, "  {mode:<16} let through  {count:>8}"))?;
        self.refused
            .iter()
            .try_for_each(|((mode, reason), count)| writeln!(f, "  {mode:<16} {reason:<27}{count:>8}"))?;
        writeln!(f, "corrected by a row")?;
        self.corrected.iter().try_for_each(|(what, count)| writeln!(f, "  {count:>8} {what}"))?;
        writeln!(f, "left out               {:>9}", self.left_out)
    }
}

/// Runs cases until so many accesses agree.
///
/// # Errors
///
/// The first [`Failure`].
pub fn run(stage: Stage, options: Options) -> Result<Tally, Failure> {
    let failed = |number| move |error| Failure::Qemu { number, error };
    let (mut ours, mut theirs) = (Ours::new(stage), Theirs::start(stage).map_err(failed(0))?);
    let mut tally = Tally::default();
    while tally.agreed() < options.accesses {
        let number = tally.cases;
        let case = case(stage, options.seed, number);
        let verdicts = ours.run(&case);
        let answers = theirs.run(&case, &verdicts).map_err(failed(number))?;
        for ((access, verdict), answer) in case.accesses.iter().zip(&verdicts).zip(&answers) {
            let Some(theirs) = answer else {
                tally.left_out += 1;
                continue;
            };
            let (mended, rows) = mended(&case, access, &verdict.answer, theirs);
            if mended == verdict.answer {
                tally.take(mode(&case, access), &verdict.answer);
                rows.iter().for_each(|row| *tally.corrected.entry(row.what).or_default() += 1);
            } else {
                let place = format!("seed {:#x}, case {number}", options.seed);
                return Err(Failure::Difference(told(&place, &case, access, verdict, theirs)));
            }
        }
        tally.cases += 1;
    }
    Ok(tally)
}

/// In which mode what is done.
fn mode(case: &Case, access: &Access) -> &'static str {
    match (case.scalable, access.write) {
        (false, false) => "legacy, read",
        (false, true) => "legacy, write",
        (true, false) => "scalable, read",
        (true, true) => "scalable, write",
    }
}

/// A difference that nothing explains, with the words that an access may meet.
fn told(place: &str, case: &Case, access: &Access, verdict: &Verdict, theirs: &Answer) -> String {
    let words: Vec<String> = case.words.iter().map(|(at, word)| format!("{at:#x}: {word:#018x}")).collect();
    format!(
        "{place}, {}: {access:x?}\nour model: {:x?}\nQEMU:      {theirs:x?}\n{}",
        if case.scalable { "scalable mode" } else { "legacy mode" },
        verdict.answer,
        words.join("\n")
    )
}
