//! `cargo xtask fuzz`: looks for inputs that break what the targets of `checks/fuzzed` hold against the code.
//!
//! It runs cargo-fuzz, which needs a nightly toolchain and is not installed here: where one of them is missing, it says what to install. New inputs go to
//! `fuzz/target/corpus`, beside those in the tree (`fuzz/corpus`), which stay few; `--minimise` makes the tree's corpus anew of both.
//!
//! Not here: the targets (`checks/fuzzed`), and their quick run in `cargo xtask test`, which needs neither.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::shell::{self, answers, program, root};

/// How long each target is fuzzed if nothing else is said.
const SECONDS: u64 = 60;
/// How many inputs of a target the tree keeps.
const KEPT: usize = 50;
/// How long an input may be.
const MOST_BYTES: u32 = 4096;
/// How long an input may take, in seconds: longer is a hang.
const HANG_SECONDS: u32 = 20;

/// What is fuzzed has no unsafe code: sanitizers would find nothing, and slow everything down.
const SANITIZER: &str = "--sanitizer=none";

const INSTALL_NIGHTLY: &str = "no nightly toolchain: `rustup toolchain install nightly` installs one";
const INSTALL_CARGO_FUZZ: &str = "cargo-fuzz is not installed: `cargo install cargo-fuzz` installs it";

/// What is asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    targets: Vec<String>,
    seconds: u64,
    minimise: bool,
}

impl Options {
    fn parse(arguments: &[String], known: &[String]) -> Result<Self, String> {
        let mut options = Self { targets: Vec::new(), seconds: SECONDS, minimise: false };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--seconds" => {
                    let value = rest.next().ok_or("--seconds wants a number")?;
                    options.seconds =
                        value.parse().map_err(|_| format!("--seconds {value}: not a number"))?;
                }
                "--minimise" => options.minimise = true,
                option if option.starts_with('-') => return Err(format!("no option `{option}`")),
                name if known.iter().any(|target| target == name) => options.targets.push(name.to_owned()),
                name => return Err(format!("no target `{name}`; there are {}", known.join(", "))),
            }
        }
        if options.targets.is_empty() {
            options.targets = known.to_vec();
        }
        Ok(options)
    }
}

/// Fuzzes the targets that are named, or all, one after the other. Answers 0 if nothing was found, 1 if something was, 2 if it could not begin.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let options = targets().and_then(|known| Options::parse(arguments, &known));
    let begun = options.and_then(|options| tools().map(|()| options));
    match begun {
        Ok(options) => fuzz_all(&options),
        Err(what) => {
            eprintln!("xtask fuzz: {what}");
            ExitCode::from(2)
        }
    }
}

/// The targets there are, by name.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// Says what is missing, if something is.
fn tools() -> Result<(), String> {
    if !answers(nightly().arg("--version")) {
        return Err(INSTALL_NIGHTLY.into());
    }
    if !answers(nightly().args(["fuzz", "--version"])) {
        return Err(INSTALL_CARGO_FUZZ.into());
    }
    Ok(())
}

/// The nightly toolchain's cargo. The one that started us is another's.
fn nightly() -> Command {
    let mut command = program("cargo");
    command.arg("+nightly");
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

fn fuzz_all(options: &Options) -> ExitCode {
    let mut broken = Vec::new();
    for target in &options.targets {
        println!("{target}: {} s", options.seconds);
        let done = fuzz(target, options.seconds)
            .and_then(|()| if options.minimise { minimise(target) } else { Ok(()) });
        if let Err(what) = done {
            eprintln!("xtask fuzz: {target}: {what}");
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "xtask fuzz: {} of {} targets: {}; the inputs are in fuzz/artifacts",
        broken.len(),
        options.targets.len(),
        broken.join(", ")
    );
    ExitCode::FAILURE
}

/// Where inputs of a target are that are not in the tree.
fn found(target: &str) -> PathBuf {
    root().join("fuzz/target/corpus").join(target)
}

fn kept(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

fn fuzz(target: &str, seconds: u64) -> Result<(), String> {
    let found = found(target);
    fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
    let mut command = nightly();
    command.args(["fuzz", "run", SANITIZER, target]).arg(&found).arg(kept(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={MOST_BYTES}")).arg(format!("-timeout={HANG_SECONDS}"));
    // Deep states take many bytes: inputs need not begin short.
    shell::run(command.arg("-len_control=0"))
}

/// Makes the tree's corpus of a target anew: the fewest and shortest inputs that come by everything that is known to be reached, and of those the
/// [`KEPT`] shortest.
fn minimise(target: &str) -> Result<(), String> {
    let merged = root().join("fuzz/target/merged").join(target);
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |error| format!("{path}: {error}")
    };
    // That there was none before is no error.
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged).map_err(io(&merged))?;
    let mut command = nightly();
    command.args(["fuzz", "run", SANITIZER, target]).arg(&merged).arg(found(target)).arg(kept(target));
    command.args(["--", "-merge=1"]).arg(format!("-max_len={MOST_BYTES}"));
    shell::run(&mut command)?;
    let entries = fs::read_dir(&merged).map_err(io(&merged))?;
    let mut inputs: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| Some((entry.as_ref().ok()?.metadata().ok()?.len(), entry.ok()?.path())))
        .collect();
    inputs.sort();
    let kept = kept(target);
    for old in fs::read_dir(&kept).map_err(io(&kept))?.flatten() {
        fs::remove_file(old.path()).map_err(io(&old.path()))?;
    }
    for (_, input) in inputs.iter().take(KEPT) {
        let name = input.file_name().unwrap_or_default();
        fs::copy(input, kept.join(name)).map_err(io(input))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        Options::parse(&owned(arguments), &owned(&["dmar", "fdt"]))
    }

    #[test]
    fn targets_are_those_named_or_all() {
        assert_eq!(parse(&[]).unwrap().targets, ["dmar", "fdt"]);
        let options = parse(&["fdt", "--seconds", "5"]).unwrap();
        assert_eq!((options.targets, options.seconds, options.minimise), (vec!["fdt".to_owned()], 5, false));
        assert!(parse(&["fdx"]).unwrap_err().contains("there are dmar, fdt"));
        assert!(parse(&["--seconds", "many"]).unwrap_err().contains("not a number"));
    }

    #[test]
    fn every_target_of_the_tree_has_a_corpus() {
        let targets = targets().unwrap();
        assert!(targets.len() >= 7);
        assert!(targets.iter().all(|target| kept(target).is_dir()));
    }
}
