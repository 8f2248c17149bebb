//! `cargo xtask test`: the whole check, the same at the desk and in CI.

use std::process::ExitCode;

use crate::qemu::Wish;
use crate::shell::{self, answers, cargo};
use crate::stage::{Passed, Stage, run_all};
use crate::{bare, deny, kernel, lives, mutants, qemu, rules};

/// Every stage, cheap and telling ones first.
const STAGES: [Stage; 12] = [
    Stage { name: "fmt", about: "every file is formatted", check: |_| formatting() },
    Stage { name: "rules", about: "each room uses only what it may", check: |_| rules::check() },
    Stage { name: "clippy", about: "no lint speaks, in any target", check: |_| clippy() },
    Stage { name: "no_std", about: "what is embedded builds without std", check: |_| bare::check() },
    Stage { name: "tests", about: "every test passes", check: |_| tests() },
    Stage {
        name: "lives",
        about: "machines' lives from fresh seeds break no promise",
        check: |_| lives::fresh(),
    },
    Stage { name: "qemu", about: "what runs on QEMU's hardware passes there", check: qemu::tests },
    Stage { name: "mutants", about: "a few bugs, re-made, are caught", check: |_| mutants::sample() },
    Stage { name: "doctest", about: "every example in the documentation runs", check: |_| doc_tests() },
    Stage { name: "doc", about: "the documentation builds without a warning", check: |_| documentation() },
    Stage { name: "deny", about: "licences, sources and bans of dependencies", check: |_| deny::check() },
    Stage {
        name: "kernel",
        about: "the bare-metal kernel boots and does its jobs",
        check: |_| kernel::check(),
    },
];

/// The stages that are named, or all, in the order in which they run.
fn chosen(names: &[String]) -> Result<Vec<&'static Stage>, String> {
    if let Some(unknown) = names.iter().find(|name| STAGES.iter().all(|stage| stage.name != name.as_str())) {
        return Err(format!("no stage `{unknown}`; there are {}", stage_names()));
    }
    Ok(STAGES
        .iter()
        .filter(|stage| names.is_empty() || names.iter().any(|name| name == stage.name))
        .collect())
}

/// What `arguments` ask for: which QEMU, and the names of stages.
fn parsed(arguments: &[String]) -> Result<(Wish, Vec<&'static Stage>), String> {
    let mut wish = Wish::Found;
    let mut names = Vec::new();
    for argument in arguments {
        match Wish::from_flag(argument) {
            Some(flag) => wish = flag?,
            None => names.push(argument.clone()),
        }
    }
    Ok((wish, chosen(&names)?))
}

/// Runs the stages that are named, or all, and answers the exit code: 0 all passed, 1 one failed, 2 no such stage or flag.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match parsed(arguments) {
        Ok((wish, stages)) => {
            let wanted = stages.iter().any(|stage| stage.name == "qemu");
            let found = if wanted { qemu::prepare(wish) } else { qemu::Found::default() };
            run_all(stages.into_iter(), &found)
        }
        Err(what) => {
            eprintln!("xtask test: {what}");
            ExitCode::from(2)
        }
    }
}

/// Prints the stages.
pub(crate) fn list() -> ExitCode {
    STAGES.iter().for_each(|stage| println!("{:<8} {}", stage.name, stage.about));
    ExitCode::SUCCESS
}

fn stage_names() -> String {
    STAGES.map(|stage| stage.name).join(", ")
}

fn formatting() -> Result<Passed, String> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Passed::PLAIN)
}

fn clippy() -> Result<Passed, String> {
    shell::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Passed::PLAIN)
}

/// Every test but those in the documentation and those on QEMU. Nextest where it is installed: it runs each test in a process of its own.
fn tests() -> Result<Passed, String> {
    if answers(cargo().args(["nextest", "--version"])) {
        let others = format!("not test(/{}/)", qemu::TESTS);
        let run = ["nextest", "run", "--workspace", "--no-fail-fast", "-E", &others];
        shell::run(cargo().args(run).args(NEXTEST_OUTPUT))?;
        return Ok(Passed::Done("with cargo nextest".into()));
    }
    shell::run(cargo().args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
        "--examples",
        "--",
        "--skip",
        qemu::TESTS,
    ]))?;
    Ok(Passed::Done("with cargo test: cargo nextest is not installed".into()))
}

/// Names of tests that fail or are slow, not of the thousands that pass; the last line counts them all.
const NEXTEST_OUTPUT: [&str; 2] = ["--status-level=slow", "--final-status-level=fail"];

/// Nextest does not run these, so they are a stage of their own either way.
fn doc_tests() -> Result<Passed, String> {
    shell::run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    Ok(Passed::PLAIN)
}

fn documentation() -> Result<Passed, String> {
    shell::run(
        cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    Ok(Passed::PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_every_stage() {
        assert_eq!(chosen(&[]).unwrap().len(), STAGES.len());
    }

    #[test]
    fn a_flag_may_stand_among_the_stages() {
        let arguments = ["fmt", "--with-qemu=11", "doc"].map(String::from);
        let (wish, stages) = parsed(&arguments).unwrap();
        assert_eq!((wish, stages.len()), (Wish::Tree, 2));
        assert_eq!(parsed(&[]).unwrap().0, Wish::Found);
        assert!(parsed(&["--with-qemu=3".into()]).is_err() && parsed(&["--with".into()]).is_err());
    }

    #[test]
    fn named_stages_run_in_their_own_order() {
        let names = chosen(&["doc".into(), "fmt".into()]).unwrap();
        assert_eq!(names.iter().map(|stage| stage.name).collect::<Vec<_>>(), ["fmt", "doc"]);
    }

    #[test]
    fn an_unknown_stage_is_refused_with_the_known_ones() {
        let error = chosen(&["lint".into()]).err().unwrap();
        assert!(error.contains("`lint`") && error.contains("clippy"), "{error}");
    }
}
