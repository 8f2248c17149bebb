//! Runs cases until enough accesses agree, or one does not.
//!
//! Two machines of QEMU run side by side: one with linear stream tables, one with two-level ones, for QEMU does not turn back from the second to the
//! first. Each takes half of the accesses, from case numbers of its own, so that the seed alone decides what is run.

use std::thread;

use portcullis_qemu::QemuError;

use crate::answer::Answer;
use crate::case::{Access, Case};
use crate::generate;
use crate::known::{self, Context};
use crate::ours::{Ours, Verdict};
use crate::report;
use crate::streams::Form;
use crate::tally::Tally;
use crate::theirs::Theirs;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What decides everything.
    pub seed: u64,
    /// How many accesses must agree.
    pub accesses: u64,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Failure {
    /// An access of which both say something else, and no row why.
    Difference(String),
    /// QEMU did not do what it was told.
    Qemu {
        /// In which case.
        number: u64,
        /// What went wrong.
        error: QemuError,
    },
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Difference(text) => f.write_str(text),
            Self::Qemu { number, error } => write!(f, "in case {number}: {error}"),
        }
    }
}

/// Runs both forms, and adds up.
///
/// # Errors
///
/// The first [`Failure`] of either.
pub fn run(options: Options) -> Result<Tally, Failure> {
    let half = Options { accesses: options.accesses.div_ceil(2), ..options };
    thread::scope(|scope| {
        let other = scope.spawn(move || form(half, Form::TwoLevel));
        let mut tally = form(half, Form::Linear)?;
        match other.join() {
            Ok(two_level) => tally.add(&two_level?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(tally)
    })
}

/// Runs one form.
fn form(options: Options, form: Form) -> Result<Tally, Failure> {
    let theirs = Theirs::start().map_err(|error| Failure::Qemu { number: 0, error })?;
    let mut machines = Machines { ours: Ours::new(), theirs, form };
    let mut tally = Tally::default();
    let mut number = 0;
    while tally.agreed() < options.accesses {
        let case = generate::case(options.seed, number, form);
        machines.compare(&case, &mut tally)?;
        number += 1;
    }
    Ok(tally)
}

/// Both machines.
struct Machines {
    ours: Ours,
    theirs: Theirs,
    form: Form,
}

/// What both say of one access.
type Both = (Verdict, Option<Answer>);

impl Machines {
    fn both(&mut self, case: &Case) -> Result<Vec<Both>, Failure> {
        let verdicts = self.ours.run(case);
        let answers = self.theirs.run(case, &verdicts);
        let answers = answers.map_err(|error| Failure::Qemu { number: case.number, error })?;
        Ok(verdicts.into_iter().zip(answers).collect())
    }

    fn compare(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Failure> {
        tally.cases += 1;
        for (index, (ours, theirs)) in self.both(case)?.iter().enumerate() {
            let context = Context { case, access: &case.accesses[index], ours };
            let Some(theirs) = theirs else {
                tally.left_out += 1;
                continue;
            };
            let (corrected, corrections) = known::corrected(&context, theirs);
            if corrected == ours.answer {
                tally.agree(&context, &corrected, &corrections);
            } else if let Some(row) = known::explanation(&context, &corrected) {
                tally.explain(row);
            } else {
                return Err(self.smallest(case, index, theirs)?);
            }
        }
        Ok(())
    }

    /// The smallest case that still makes the difference, in words.
    fn smallest(&mut self, case: &Case, index: usize, theirs: &Answer) -> Result<Failure, Failure> {
        let access = case.accesses[index];
        let alone = case.with(&[Access { flush: true, ..access }]);
        let before = &case.accesses[..=index];
        let own: Vec<Access> = before.iter().copied().filter(|other| other.stream == access.stream).collect();
        for smaller in [alone, case.with(&own), case.with(before)] {
            let last = smaller.accesses.len() - 1;
            let (ours, theirs) = self.both(&smaller)?.swap_remove(last);
            let context = Context { case: &smaller, access: &smaller.accesses[last], ours: &ours };
            if let Some(theirs) = theirs
                && is_difference(&context, &theirs)
            {
                return Ok(Failure::Difference(report::difference(&context, self.form, &theirs, last)));
            }
        }
        let last_words =
            format!("a difference that does not come again: case {}, access {index}: {theirs}", case.number);
        Ok(Failure::Difference(last_words))
    }
}

fn is_difference(context: &Context<'_>, theirs: &Answer) -> bool {
    let (corrected, _) = known::corrected(context, theirs);
    corrected != context.ours.answer && known::explanation(context, &corrected).is_none()
}
