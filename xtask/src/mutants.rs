//! `cargo xtask mutants`: real bugs, re-made one at a time, and the tests that must catch each.
//!
//! The lists in `checks/mutants/` say of each mutant what is wrong, which promise that breaks, and which tests must fail. The tests are built
//! once, with the feature `mutants` of `portcullis-types`. They are run as they are first, and must pass; then each mutant's tests with the
//! mutant's name in the environment, each in a process of its own, and must fail. Tests that pass all the same are missing a test beside them: a
//! survivor. So is a mutant whose line no test came by, which is told apart.
//!
//! A mutant that makes its test hang is caught as well: by the limit ([`LIMIT`]).
//!
//! Not here: the switch in the code (`portcullis_types::mutant`), what the lists look like ([`list`]), how tests are built and run ([`mod@bench`]), and
//! which mutants the simulator finds, knowing nothing of them ([`simulator`]).

mod bench;
mod list;
mod simulator;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use bench::{Bench, Ran};
use list::{Mutant, TestName};

use crate::random::{Random, fresh_seed};
use crate::shell::{self, root};
use crate::stage::Passed;

pub(crate) use list::check_hooks;

/// How long a test may take. With a mutant it may hang.
const LIMIT: Duration = Duration::from_secs(120);
/// How many mutants the stage of `cargo xtask test` draws.
const SAMPLE: usize = 8;

/// What is asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    names: Vec<String>,
    sample: Option<usize>,
    seed: Option<u64>,
    only_list: bool,
    simulator: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || {
                let value = rest.next().ok_or(format!("{argument} wants a number"))?;
                value.parse::<u64>().map_err(|_| format!("{argument} {value}: not a number"))
            };
            match argument.as_str() {
                "--sample" => options.sample = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
                "--seed" => options.seed = Some(number()?),
                "--list" => options.only_list = true,
                "--simulator" => options.simulator = true,
                option if option.starts_with('-') => return Err(format!("no option `{option}`")),
                name => options.names.push(name.to_owned()),
            }
        }
        Ok(options)
    }

    /// The mutants that are meant, in the order of the lists.
    fn choose(&self, all: Vec<Mutant>) -> Result<Vec<Mutant>, String> {
        if let Some(unknown) = self.names.iter().find(|name| all.iter().all(|mutant| mutant.name != **name)) {
            return Err(format!("no mutant `{unknown}` in checks/mutants"));
        }
        let named = |mutant: &Mutant| self.names.is_empty() || self.names.contains(&mutant.name);
        let mut chosen: Vec<Mutant> = all.into_iter().filter(named).collect();
        if let Some(count) = self.sample {
            let seed = self.seed.unwrap_or_else(fresh_seed);
            println!("{count} mutants drawn with --seed {seed}");
            draw(&mut chosen, count, seed);
        }
        Ok(chosen)
    }
}

/// Keeps `count` of `from`, which ones the seed decides.
fn draw<T>(from: &mut Vec<T>, count: usize, seed: u64) {
    let mut random = Random::new(seed);
    while from.len() > count {
        let at = random.next() % from.len() as u64;
        from.remove(usize::try_from(at).expect("below a length"));
    }
}

/// Runs the command, and answers the exit code: 0 all caught, 1 one survived or something went wrong, 2 nonsense was asked for.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let chosen = Options::parse(arguments).and_then(|options| {
        let mutants = options.choose(list::read(&root())?)?;
        Ok((options, mutants))
    });
    let (options, mutants) = match chosen {
        Ok(chosen) => chosen,
        Err(what) => {
            eprintln!("xtask mutants: {what}");
            return ExitCode::from(2);
        }
    };
    let done = if options.only_list {
        let line = |mutant: &Mutant| format!("{:<44} {:<10} {}", mutant.name, mutant.breaks, mutant.wrong);
        Ok(mutants.iter().map(line).collect::<Vec<_>>().join("\n"))
    } else if options.simulator {
        simulator::hunt(&mutants)
    } else {
        hunt(mutants)
    };
    shell::exit_code("mutants", done.map(|note| println!("{note}")))
}

/// The stage of `cargo xtask test`: a few mutants of those that unit tests catch, so that little has to be built twice.
///
/// # Errors
///
/// As for the command.
pub(crate) fn sample() -> Result<Passed, String> {
    let cheap = |mutant: &Mutant| {
        mutant
            .caught
            .iter()
            .all(|test| test.package() != "portcullis-lab" && !test.package().contains("checks"))
    };
    let mut mutants: Vec<Mutant> = list::read(&root())?.into_iter().filter(cheap).collect();
    let seed = fresh_seed();
    draw(&mut mutants, SAMPLE, seed);
    let names: Vec<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    println!("seed {seed}; the same again: cargo xtask mutants {}", names.join(" "));
    hunt(mutants).map(Passed::Done)
}

/// How it went with a mutant and one of its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Caught,
    /// The test ran past its limit, and would not without the mutant.
    Hung,
    Survived,
    /// The test never came by the mutant's line.
    NotReached,
}

impl Verdict {
    fn of(ran: &Ran, name: &str) -> Self {
        match (ran.passed, ran.reached(name)) {
            _ if ran.hung => Self::Hung,
            (_, false) => Self::NotReached,
            (true, true) => Self::Survived,
            (false, true) => Self::Caught,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Hung => "caught (hung)",
            Self::Survived => "SURVIVED",
            Self::NotReached => "NOT REACHED",
        }
    }

    const fn is_caught(self) -> bool {
        matches!(self, Self::Caught | Self::Hung)
    }
}

/// A mutant, a test of its, and how that went.
struct Hunted<'a> {
    mutant: &'a Mutant,
    test: &'a TestName,
    verdict: Verdict,
    took: Duration,
}

/// Builds, runs without mutants, runs with each, and prints a line for each. Answers the summary.
fn hunt(mutants: Vec<Mutant>) -> Result<String, String> {
    let start = Instant::now();
    let tests: BTreeSet<&TestName> = mutants.iter().flat_map(|mutant| &mutant.caught).collect();
    let bench = Bench::build(&tests)?;
    let built = start.elapsed();
    // Every one of them comes by a mutant's place, where a name that no list has is refused.
    let first = tests.first().ok_or("no mutant is meant")?;
    if bench.run(first, Some("no-such-mutant"), LIMIT)?.passed {
        return Err(format!("{first}: passes with a mutant that stands in no list"));
    }
    baseline(&bench, &tests)?;
    let pairs: Vec<(&Mutant, &TestName)> =
        mutants.iter().flat_map(|mutant| mutant.caught.iter().map(move |test| (mutant, test))).collect();
    let hunted = side_by_side(&pairs, |&(mutant, test)| {
        let begun = Instant::now();
        let ran = bench.run(test, Some(&mutant.name), LIMIT)?;
        let one = Hunted { mutant, test, verdict: Verdict::of(&ran, &mutant.name), took: begun.elapsed() };
        println!("{}", line(&one));
        Ok(one)
    })?;
    summary(&hunted, built, start.elapsed())
}

/// Every test passes as long as no mutant is on.
fn baseline(bench: &Bench, tests: &BTreeSet<&TestName>) -> Result<(), String> {
    let tests: Vec<&TestName> = tests.iter().copied().collect();
    println!("{} tests without a mutant", tests.len());
    let ran = side_by_side(&tests, |test| Ok((*test, bench.run(test, None, LIMIT)?)))?;
    let mut failed = ran.into_iter().filter(|(_, ran)| !ran.passed).peekable();
    if failed.peek().is_none() {
        return Ok(());
    }
    let names: Vec<String> = failed.map(|(test, ran)| format!("{test}:\n{}", ran.said)).collect();
    Err(format!("without a mutant these fail:\n{}", names.join("\n")))
}

fn line(one: &Hunted<'_>) -> String {
    let Hunted { mutant, test, verdict, took } = one;
    format!(
        "{:<14} {:<44} {:<10} {:>5.1} s  {test}",
        verdict.word(),
        mutant.name,
        mutant.breaks,
        took.as_secs_f64()
    )
}

/// How many were caught of which promise; an error that names the survivors, if there are any.
fn summary(hunted: &[Hunted<'_>], built: Duration, all: Duration) -> Result<String, String> {
    let mut by_promise: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in hunted {
        by_promise.entry(&one.mutant.breaks).or_default().insert(&one.mutant.name);
    }
    let count: usize = by_promise.values().map(BTreeSet::len).sum();
    let promises: Vec<String> =
        by_promise.iter().map(|(promise, names)| format!("{promise} {}", names.len())).collect();
    let survivors: Vec<String> = hunted.iter().filter(|one| !one.verdict.is_caught()).map(line).collect();
    let time = format!("{:.1} s, {:.1} s of it building", all.as_secs_f64(), built.as_secs_f64());
    if survivors.is_empty() {
        Ok(format!("{count} mutants caught ({}) in {time}", promises.join(", ")))
    } else {
        Err(format!(
            "{} of {} tests did not catch their mutant ({time}):\n{}",
            survivors.len(),
            hunted.len(),
            survivors.join("\n")
        ))
    }
}

/// Does `work` for all of `items`, on as many threads as there are CPUs. Answers come in the items' order; the first error ends it.
fn side_by_side<T: Sync, U: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<U, String> + Sync,
) -> Result<Vec<U>, String> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<U, String>>> = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let answer = work(item);
                    done.lock().expect("no thread panics with it").insert(at, answer);
                }
            });
        }
    });
    done.into_inner().expect("no thread panicked").into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn names_and_options_are_told_apart_and_nonsense_is_refused() {
        let options = Options::parse(&words(&["one", "--sample", "3", "two", "--seed", "7"])).unwrap();
        assert_eq!(options.names, ["one", "two"]);
        assert_eq!((options.sample, options.seed), (Some(3), Some(7)));
        assert!(Options::parse(&words(&["--sample"])).is_err());
        assert!(Options::parse(&words(&["--sample", "few"])).is_err());
        assert!(Options::parse(&words(&["--smaple", "3"])).is_err());
    }

    #[test]
    fn a_seed_draws_the_same_again_and_another_others() {
        let drawn = |seed| {
            let mut all: Vec<u32> = (0..1000).collect();
            draw(&mut all, 10, seed);
            all
        };
        assert_eq!(drawn(1).len(), 10);
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }

    #[test]
    fn a_test_that_fails_without_coming_by_the_mutant_has_not_caught_it() {
        let ran = |passed, said: &str| Ran { passed, hung: false, said: said.to_owned() };
        assert_eq!(Verdict::of(&ran(false, "mutant x reached\n"), "x"), Verdict::Caught);
        assert_eq!(Verdict::of(&ran(true, "mutant x reached\n"), "x"), Verdict::Survived);
        assert_eq!(Verdict::of(&ran(false, "mutant xy reached\n"), "x"), Verdict::NotReached);
        assert_eq!(Verdict::of(&ran(true, ""), "x"), Verdict::NotReached);
    }

    #[test]
    fn work_is_answered_in_order_and_an_error_is_an_error() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(side_by_side(&items, |&item| Ok(2 * item)).unwrap()[99], 198);
        assert!(side_by_side(&items, |&item| if item == 50 { Err("no".into()) } else { Ok(item) }).is_err());
    }
}
