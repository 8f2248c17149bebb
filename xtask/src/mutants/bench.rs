//! Tests that can be run one by one: built with mutants, found, and each started in a process of its own.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::list::TestName;
use crate::metadata::Workspace;
use crate::shell;

/// The feature that lets mutants be switched on.
const FEATURE: &str = "portcullis-types/mutants";
/// The variable that switches one on (`portcullis_types::mutant::VARIABLE`).
const VARIABLE: &str = "PORTCULLIS_MUTANT";
/// How often a test is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A program with tests.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    /// Where its tests expect to be started.
    folder: PathBuf,
}

/// Programs, and the tests in them that were asked for.
#[derive(Debug)]
pub(super) struct Bench {
    programs: BTreeMap<String, Program>,
    /// The full path of each test.
    paths: BTreeMap<TestName, String>,
}

/// How a test went.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) passed: bool,
    /// It took too long and was ended.
    pub(super) hung: bool,
    /// All that it wrote.
    pub(super) said: String,
}

impl Ran {
    /// Whether it came by the place of a mutant.
    pub(super) fn reached(&self, mutant: &str) -> bool {
        let line = format!("mutant {mutant} reached");
        self.said.lines().any(|said| said.ends_with(&line))
    }
}

impl Bench {
    /// Builds the programs that these tests are in, and finds each test.
    pub(super) fn build(tests: &BTreeSet<&TestName>) -> Result<Self, String> {
        // The feature's own package is named as well: Cargo knows a feature only of those that are, and of what they depend on themselves.
        let own = FEATURE.split('/').next();
        let packages: BTreeSet<&str> = tests.iter().map(|test| test.package()).chain(own).collect();
        let mut cargo = shell::cargo();
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics", "--features", FEATURE]);
        cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        cargo.args(tests.iter().map(|test| test.target()).collect::<BTreeSet<_>>().into_iter().flatten());
        println!(
            "building the tests of {} with mutants",
            packages.iter().copied().collect::<Vec<_>>().join(", ")
        );
        let messages = shell::output(&mut cargo)?;
        let workspace = Workspace::read()?;
        let programs: BTreeMap<String, Program> =
            messages.lines().filter_map(|line| program(line, &workspace)).collect();
        let mut bench = Self { programs, paths: BTreeMap::new() };
        for test in tests {
            let path = bench.find(test)?;
            bench.paths.insert((*test).clone(), path);
        }
        Ok(bench)
    }

    fn program(&self, test: &TestName) -> Result<&Program, String> {
        self.programs.get(&test.binary).ok_or(format!("{test}: no tests were built as {}", test.binary))
    }

    /// The full path of a test.
    fn find(&self, test: &TestName) -> Result<String, String> {
        let listed =
            shell::output(Command::new(&self.program(test)?.path).args(["--list", "--format=terse"]))?;
        let paths = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let found: Vec<&str> = paths.filter(|path| test.means(path)).collect();
        match found[..] {
            [path] => Ok(path.to_owned()),
            [] => Err(format!("{test}: there is no such test")),
            _ => Err(format!("{test}: could be {}", found.join(" or "))),
        }
    }

    /// Runs a test, with this mutant or with none.
    pub(super) fn run(&self, test: &TestName, mutant: Option<&str>, limit: Duration) -> Result<Ran, String> {
        let Program { path, folder } = self.program(test)?;
        let mut command = Command::new(path);
        command
            .args([self.paths[test].as_str(), "--exact", "--include-ignored", "--test-threads=1"])
            .current_dir(folder)
            .env("CARGO_MANIFEST_DIR", folder)
            .env(VARIABLE, mutant.unwrap_or_default())
            // What fails on purpose leaves nothing in the tree, and is not made small first.
            .env("INSTA_UPDATE", "no")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("{} could not be started: {error}", path.display()))?;
        let said = [reader(child.stdout.take()), reader(child.stderr.take())];
        let status = wait(&mut child, limit).map_err(|error| format!("{test}: {error}"))?;
        let said: Vec<String> = said.into_iter().map(|thread| thread.join().unwrap_or_default()).collect();
        Ok(Ran {
            passed: status.is_some_and(|status| status.success()),
            hung: status.is_none(),
            said: said.concat(),
        })
    }
}

/// Reads a pipe to its end, so that who writes never waits.
fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was written before the pipe broke is all there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a process; none if it had to be ended.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The program that a line of Cargo's messages announces: the package, and its target behind `::` unless that is the library.
fn program(line: &str, workspace: &Workspace) -> Option<(String, Program)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    let manifest = message["manifest_path"].as_str()?;
    let package = workspace.packages.iter().find(|package| package.manifest_path == manifest)?;
    let kind = message["target"]["kind"][0].as_str()?;
    let binary = if kind == "lib" {
        package.name.clone()
    } else {
        format!("{}::{}", package.name, message["target"]["name"].as_str()?)
    };
    let folder = PathBuf::from(manifest).parent()?.to_owned();
    Some((binary, Program { path: path.into(), folder }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_tests_are_the_packages_and_others_have_their_targets_name() {
        let workspace: Workspace = serde_json::from_value(serde_json::json!({
            "packages": [{ "name": "a-b", "manifest_path": "/w/a/Cargo.toml", "dependencies": [] }],
            "target_directory": "/w/target", "workspace_root": "/w",
        }))
        .unwrap();
        let line = |kind: &str, test: bool| {
            serde_json::json!({
                "executable": "/t/x", "manifest_path": "/w/a/Cargo.toml", "profile": { "test": test },
                "target": { "kind": [kind], "name": "it" },
            })
            .to_string()
        };
        assert_eq!(program(&line("lib", true), &workspace).unwrap().0, "a-b");
        assert_eq!(program(&line("test", true), &workspace).unwrap().0, "a-b::it");
        assert!(program(&line("bin", false), &workspace).is_none());
    }

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait(&mut child, Duration::from_millis(50)).unwrap().is_none());
    }

    #[test]
    fn reached_is_said_of_the_whole_name_only() {
        let ran = Ran { passed: true, hung: false, said: "test x ... mutant a-b reached\n".into() };
        assert!(ran.reached("a-b") && !ran.reached("a"));
    }
}
