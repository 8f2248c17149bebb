//! Running the cases on a bed, and holding what was left out against what may be.
//!
//! A [`Case`] is a sentence, what it needs, and a function. Where it is about page tables it runs once for each stage and granule. What a bed has
//! not is left out, with the reason; the list of what was left out is pinned in a file per bed, and must be that list exactly: a case more that is left out
//! fails the suite, and so does one fewer.

use core::fmt::Write;
use core::panic::AssertUnwindSafe;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::types::SizeLg2;

use super::bed::Bed;
use super::bench::{Bench, MakeHand, Outcome, Setting};
use super::differences::{Difference, differences_of};
use super::needs::Need;
use super::sight::Ids;

/// Over what a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Once, with what the driver chooses.
    Once,
    /// Every stage and granule.
    Tables,
    /// Stage 1 with every granule.
    Stage1,
    /// Stage 2 with every granule.
    Stage2,
}

/// One thing that holds on every bed that has what it needs.
pub struct Case<B: Bed> {
    /// A sentence that says what.
    pub name: &'static str,
    /// What it needs besides its stage and granule.
    pub needs: &'static [Need],
    /// Over what it runs.
    pub over: Over,
    /// Whether it has the SMMU do what the book forbids software to ask for.
    pub rude: bool,
    /// It.
    pub run: fn(&Bench<B>) -> Outcome,
}

impl<B: Bed> Case<B> {
    /// A case that runs once and needs nothing.
    pub const fn new(name: &'static str, run: fn(&Bench<B>) -> Outcome) -> Self {
        Self { name, needs: &[], over: Over::Once, rude: false, run }
    }

    /// The same case over more.
    #[must_use]
    pub const fn over(self, over: Over) -> Self {
        Self { over, ..self }
    }

    /// The same case with needs.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// The same case, of which a strict model may complain.
    #[must_use]
    pub const fn rude(self) -> Self {
        Self { rude: true, ..self }
    }

    fn settings(&self) -> Vec<Option<Setting>> {
        const GRANULES: [SizeLg2; 3] = [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64];
        let stages: &[bool] = match self.over {
            Over::Once => return vec![None],
            Over::Tables => &[false, true],
            Over::Stage1 => &[false],
            Over::Stage2 => &[true],
        };
        let each = |&stage_2: &bool| GRANULES.map(|granule| Some(Setting { stage_2, granule }));
        stages.iter().flat_map(each).collect()
    }

    fn title(&self, setting: Option<Setting>) -> String {
        match setting {
            None => self.name.into(),
            Some(Setting { stage_2, granule }) => {
                format!("{} (stage {}, {granule})", self.name, 1 + u8::from(stage_2))
            }
        }
    }

    fn needs_with(&self, setting: Option<Setting>) -> Vec<Need> {
        let of_tables = setting.map(|Setting { stage_2, granule }| {
            [if stage_2 { Need::Stage2 } else { Need::Stage1 }, Need::Granule(granule)]
        });
        of_tables.into_iter().flatten().chain(self.needs.iter().copied()).collect()
    }
}

/// What came of a suite.
#[derive(Debug, Default)]
pub struct Report {
    /// How many cases hold.
    pub passed: usize,
    /// What was left out, and why.
    pub skipped: Vec<(String, String)>,
    /// What does not hold, and what was seen.
    pub failed: Vec<(String, String)>,
    /// What is known not to hold on this bed.
    pub differed: Vec<(String, &'static Difference)>,
}

/// Runs every case whose title `pick` likes.
pub fn run<B: Bed>(bed: &Arc<B>, pick: impl Fn(&str) -> bool) -> Report {
    run_with(bed, None, pick)
}

/// Runs cases with a wrong driver until one does not hold: its title, and what was seen. None if all hold that do with the right one.
pub fn first_failure<B: Bed>(
    bed: &Arc<B>,
    wrong: &Arc<MakeHand>,
    pick: impl Fn(&str) -> bool,
) -> Option<(String, String)> {
    run_with(bed, Some(wrong), pick).failed.into_iter().next()
}

/// With the driver made wrong if `wrong` is given, and then no further than to the first failure.
fn run_with<B: Bed>(bed: &Arc<B>, wrong: Option<&Arc<MakeHand>>, pick: impl Fn(&str) -> bool) -> Report {
    let ids = Ids::read(&bed.registers());
    let mut report = Report::default();
    for case in super::cases::all::<B>() {
        for setting in case.settings() {
            let title = case.title(setting);
            if !pick(&title) || wrong.is_some() && !report.failed.is_empty() {
                continue;
            }
            if let Some(reason) = Need::first_missing(&case.needs_with(setting), ids, &**bed) {
                report.skipped.push((title, reason));
                continue;
            }
            let bench = Bench { bed: bed.clone(), ids, setting, wrong: wrong.cloned() };
            report.take(bed.name(), title, outcome(&**bed, case.rude, || (case.run)(&bench)));
        }
    }
    report
}

/// What came of a case: also what panicked is told, and what a strict model says of it, unless it may say something.
pub(super) fn outcome<B: Bed>(bed: &B, rude: bool, run: impl FnOnce() -> Outcome) -> Outcome {
    let outcome = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&said| said.into()))
            .unwrap_or_else(|| "a panic".into())),
    };
    let complaints = bed.complaints();
    match complaints.first() {
        Some(first) if !rude => outcome.and_then(|()| Err(format!("forbidden by the book: {first}"))),
        _ => outcome,
    }
}

impl Report {
    /// Takes what came of a case on the bed of this name, whose differences from the book are known.
    pub(super) fn take(&mut self, bed: &str, title: String, outcome: Outcome) {
        let difference = differences_of(bed).iter().find(|known| known.is_about(&title)).copied();
        match (outcome, difference) {
            (Ok(()), None) => self.passed += 1,
            (Err(said), Some(known)) if known.explains(&said) => self.differed.push((title, known)),
            (Err(said), _) => self.failed.push((title, said)),
            (Ok(()), Some(known)) => {
                let said = format!("holds, although a difference is listed: {}", known.why);
                self.failed.push((title, said));
            }
        }
    }

    /// The list of what was left out, by reason, as the pinned file has it.
    pub fn skips(&self) -> String {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (title, reason) in &self.skipped {
            by_reason.entry(reason).or_default().push(title);
        }
        let mut text = String::new();
        for (reason, titles) in by_reason {
            writeln!(text, "{reason}").expect("a string takes everything");
            titles.iter().for_each(|title| writeln!(text, "    {title}").expect("a string takes everything"));
        }
        text
    }

    /// What is to be said about a suite on a bed: one line of figures, what was left out by reason, known differences, failures.
    pub fn said(&self, bed: &str) -> String {
        let Self { passed, skipped, failed, differed } = self;
        let mut text = format!(
            "{bed}: {passed} hold, {} differ as is known, {} left out, {} fail\n",
            differed.len(),
            skipped.len(),
            failed.len()
        );
        for line in self.skips().lines() {
            writeln!(text, "  left out: {line}").expect("a string takes everything");
        }
        for (title, known) in differed {
            writeln!(text, "  differs: {title}: {}", known.why).expect("a string takes everything");
        }
        for (title, what) in failed {
            writeln!(text, "  FAILS: {title}\n      {what}").expect("a string takes everything");
        }
        text
    }

    /// Demands that everything holds and that exactly the pinned cases were left out. Says what it was.
    ///
    /// The pinned file is written anew where the environment has `CONFORMANCE_PIN`.
    ///
    /// # Panics
    ///
    /// If something does not hold.
    pub fn hold(&self, bed: &str) {
        assert!(self.failed.is_empty(), "{} cases fail: {}", self.failed.len(), self.said(bed));
        let at = pinned(bed);
        let skips = self.skips();
        if std::env::var_os("CONFORMANCE_PIN").is_some() {
            std::fs::write(&at, &skips).expect("the pinned file can be written");
        }
        let may = std::fs::read_to_string(&at).unwrap_or_default();
        for line in skips.lines().filter(|line| !may.lines().any(|other| other == *line)) {
            println!("  not pinned: {line}");
        }
        for line in may.lines().filter(|line| !skips.lines().any(|other| other == *line)) {
            println!("  pinned, and not left out: {line}");
        }
        assert_eq!(skips, may, "what {bed} leaves out is not what {} has", at.display());
        let idle = differences_of(bed)
            .into_iter()
            .filter(|known| !self.differed.iter().any(|(_, seen)| core::ptr::eq(*seen, *known)));
        let idle: Vec<_> = idle.map(|known| known.case).collect();
        assert!(idle.is_empty(), "differences that no case showed on {bed}: {idle:?}");
    }
}

/// Where the cases are listed that a bed may leave out.
fn pinned(bed: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance").join(format!("{bed}.skips"))
}
