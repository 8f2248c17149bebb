//! Runs cases until enough accesses agree, or one does not.

use core::fmt;
use std::collections::BTreeMap;

use super::{Ours, ROWS, Theirs, case};
use crate::run::{Failure, Options};

/// The counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases.
    pub cases: u64,
    /// Accesses that both let through to the same place.
    pub through: u64,
    /// Accesses that both refuse, by our model's cause; none where nothing answers.
    pub refused: BTreeMap<String, u64>,
    /// Accesses that QEMU lets through, and why our model does not.
    pub explained: BTreeMap<String, u64>,
    /// Accesses that were not made.
    pub left_out: u64,
}

impl Tally {
    /// Accesses of which both say the same.
    pub fn agreed(&self) -> u64 {
        self.through + self.refused.values().sum::<u64>()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cases                  {:>9}", self.cases)?;
        writeln!(f, "accesses that agree    {:>9}", self.agreed())?;
        writeln!(f, "  let through          {:>9}", self.through)?;
        self.refused.iter().try_for_each(|(cause, count)| writeln!(f, "  {cause:<21}{count:>9}"))?;
        writeln!(f, "QEMU lets through")?;
        self.explained.iter().try_for_each(|(cause, count)| writeln!(f, "  {cause:<21}{count:>9}"))?;
        writeln!(f, "left out               {:>9}", self.left_out)
    }
}

/// Runs cases until so many accesses agree.
///
/// # Errors
///
/// The first [`Failure`].
pub fn run(options: Options) -> Result<Tally, Failure> {
    let failed = |number| move |error| Failure::Qemu { number, error };
    let (mut ours, mut theirs) = (Ours::new(), Theirs::start().map_err(failed(0))?);
    let mut tally = Tally::default();
    while tally.agreed() < options.accesses {
        let number = tally.cases;
        let case = case(options.seed, number);
        let verdicts = ours.run(&case);
        let answers = theirs.run(&case, &verdicts).map_err(failed(number))?;
        for ((access, verdict), answer) in case.accesses.iter().zip(&verdicts).zip(&answers) {
            let cause = verdict.cause.map_or("nothing answers".to_owned(), |cause| format!("{cause:?}"));
            let known = ROWS.iter().any(|row| Some(row.0) == verdict.cause);
            match answer {
                None => tally.left_out += 1,
                Some(theirs) if *theirs == verdict.reached => match theirs {
                    Some(_) => tally.through += 1,
                    None => *tally.refused.entry(cause).or_default() += 1,
                },
                Some(Some(_)) if known => *tally.explained.entry(cause).or_default() += 1,
                Some(theirs) => {
                    let pe = case.pes[&access.requester];
                    let window = (pe & 0xff) << 1 | u16::from(access.address >> 59 & 1 == 1);
                    return Err(Failure::Difference(format!(
                        "seed {:#x}, case {number}: {access:x?}\nPE {pe:#x}, TVE {:#018x}\nour model: {verdict:x?}\nQEMU:      {theirs:x?}",
                        options.seed,
                        case.tves.get(&window).copied().unwrap_or(0),
                    )));
                }
            }
        }
        tally.cases += 1;
    }
    Ok(tally)
}
