//! Other programs: found, started, and believed only by their exit status.
//!
//! Their output goes where ours goes, so that a reader sees what a tool said in its own words, test counts included.

use core::iter::once;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// The `cargo` that started us, or the one on the path. It never reads standard input.
pub(crate) fn cargo() -> Command {
    program(std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from))
}

/// `name` as a command that never reads standard input, run at the root of the workspace.
pub(crate) fn program(name: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(name.into());
    command.stdin(Stdio::null()).current_dir(root());
    command
}

/// The root of the workspace: the parent of this crate's folder.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), PathBuf::from)
}

/// Where Cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |name| root().join(name))
}

/// Runs a command to its end.
///
/// # Errors
///
/// What could not be started, or how it ended: one line.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    println!("$ {}", line_of(command));
    let name = name_of(command);
    let status = command.status().map_err(|error| cannot_start(&name, &error))?;
    if status.success() { Ok(()) } else { Err(format!("`{name}` ended with {status}")) }
}

/// What one of our commands ends with. Says what went wrong, if something did.
pub(crate) fn exit_code(command: &str, outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("xtask {command}: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command and answers what it wrote to standard output; its standard error goes where ours goes.
///
/// # Errors
///
/// As [`run`], and when the output is not text.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let name = name_of(command);
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| cannot_start(&name, &error))?;
    if !output.status.success() {
        return Err(format!("`{name}` ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{name}` wrote something that is not text"))
}

/// Whether a command can be started and succeeds, all its output dropped: for asking whether a tool is installed.
pub(crate) fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn cannot_start(name: &str, error: &io::Error) -> String {
    format!("`{name}` could not be started: {error}")
}

/// Enough of a command to know it by in a summary: the program and its first argument.
fn name_of(command: &Command) -> String {
    let line = line_of(command);
    let mut words = line.split(' ');
    let name: Vec<&str> = words.by_ref().take(2).collect();
    if words.next().is_some() { format!("{} …", name.join(" ")) } else { name.join(" ") }
}

fn line_of(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_an_error_that_names_it() {
        let error = run(program("false").args(["of", "course", "not"])).unwrap_err();
        assert!(error.starts_with("`false of …` ended with"), "{error}");
        let error = run(&mut program("no-such-program-here")).unwrap_err();
        assert!(error.contains("could not be started"), "{error}");
    }

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }
}
