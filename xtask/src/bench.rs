//! `cargo xtask bench`: the figures, each with its peer in the same run.

use std::process::ExitCode;

use crate::shell;

/// Runs every bench of the `benches` room. `arguments` go to the benches, so that one can be chosen by a part of its name.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let mut command = shell::cargo();
    command.args(["bench", "--quiet", "--package", "portcullis-benches", "--benches"]);
    if !arguments.is_empty() {
        command.arg("--").args(arguments);
    }
    shell::exit_code("bench", shell::run(&mut command))
}
