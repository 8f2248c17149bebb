//! `cargo xtask differential`: our models against QEMU's, for as long as is wanted.

use std::process::ExitCode;

use crate::shell;

/// Runs it, optimised: it is made to be run long. `arguments` are its own.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let mut command = shell::cargo();
    command
        .args(["run", "--release", "--quiet", "--package", "portcullis-differential", "--"])
        .args(arguments);
    shell::exit_code("differential", shell::run(&mut command))
}
