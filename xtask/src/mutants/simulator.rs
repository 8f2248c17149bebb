//! Which mutants the simulator finds. It knows of none: it lives lives of a machine, and objects when a promise is broken.
//!
//! A mutant that it does not find is no failure, for it draws few machines and few of the calls there are. One to which it objects for another
//! promise than the list foretold is told apart.

use std::collections::BTreeSet;
use std::fmt;

use super::bench::{Bench, Ran};
use super::list::{Mutant, TestName};
use super::{LIMIT, side_by_side};

/// The test that says what the simulator objects to.
const TEST: &str = "portcullis-simulator::mutants nobody_objects";

/// What the simulator made of a mutant.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It objects, for this promise.
    Objection(String),
    /// It ended without one, or not at all.
    Died,
    Nothing,
    /// No life came by the mutant's line.
    NotReached,
}

impl Found {
    fn of(ran: &Ran, name: &str) -> Self {
        if !ran.reached(name) {
            return Self::NotReached;
        }
        let objection = ran.said.lines().find_map(|line| line.split_once("objection: "));
        match objection.and_then(|(_, rest)| rest.split_once(' ')) {
            Some((promise, _)) => Self::Objection(promise.to_owned()),
            None if ran.passed => Self::Nothing,
            None => Self::Died,
        }
    }

    fn is_as_foretold(&self, mutant: &Mutant) -> bool {
        matches!(self, Self::Objection(promise) if *promise == mutant.breaks)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objection(promise) => write!(f, "objects: {promise}"),
            Self::Died => f.write_str("died"),
            Self::Nothing => f.write_str("no objection"),
            Self::NotReached => f.write_str("not reached"),
        }
    }
}

/// Runs the simulator with each, prints a line for each, and answers how many it found.
///
/// # Errors
///
/// It could not be built, or objects without a mutant.
pub(super) fn hunt(mutants: &[Mutant]) -> Result<String, String> {
    let test = TestName::parse(TEST).expect("a package and a name");
    let bench = Bench::build(&BTreeSet::from([&test]))?;
    let without = bench.run(&test, None, LIMIT)?;
    if !without.passed {
        return Err(format!("the simulator objects without a mutant:\n{}", without.said));
    }
    let found = side_by_side(mutants, |mutant| {
        let found = Found::of(&bench.run(&test, Some(&mutant.name), LIMIT)?, &mutant.name);
        println!("{:<22} {:<44} {}", found.to_string(), mutant.name, mutant.breaks);
        Ok(found)
    })?;
    let reached = found.iter().filter(|found| **found != Found::NotReached).count();
    let seen = found.iter().filter(|found| matches!(found, Found::Objection(_) | Found::Died)).count();
    let foretold = found.iter().zip(mutants).filter(|(found, mutant)| found.is_as_foretold(mutant)).count();
    Ok(format!(
        "of {} mutants the simulator comes by {reached} and finds {seen}, {foretold} for the promise foretold",
        mutants.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objection_counts_only_if_the_mutant_was_reached() {
        let ran = |passed, said: &str| Ran { passed, hung: false, said: said.to_owned() };
        let said = "mutant x reached\nobjection: reclaim in step 7: a page";
        assert_eq!(Found::of(&ran(false, said), "x"), Found::Objection("reclaim".into()));
        assert_eq!(Found::of(&ran(false, said), "y"), Found::NotReached);
        assert_eq!(Found::of(&ran(false, "mutant x reached\n"), "x"), Found::Died);
        assert_eq!(Found::of(&ran(true, "mutant x reached\n"), "x"), Found::Nothing);
    }

    #[test]
    fn only_the_promise_of_the_list_was_foretold() {
        let mutant = Mutant { breaks: "reclaim".into(), ..Mutant::default() };
        assert!(Found::Objection("reclaim".into()).is_as_foretold(&mutant));
        assert!(!Found::Objection("alive".into()).is_as_foretold(&mutant));
        assert!(!Found::Died.is_as_foretold(&mutant));
    }
}
