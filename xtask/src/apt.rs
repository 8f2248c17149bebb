//! Debian's packages, installed where that was asked for: as root, without a question, and not for ever.

use std::process::Command;

use crate::shell::{self, program};

/// Longer than any install takes, in seconds.
const LIMIT: &str = "900";
/// Installs the packages whose names follow, and what they cannot do without.
pub(crate) const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

/// Installs packages on this machine.
///
/// # Errors
///
/// We are not root, or there is no such package, or no way to it.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    need_root()?;
    shell::run(without_questions(&mut within("apt-get")).arg("update"))?;
    shell::run(without_questions(&mut within("apt-get")).args(INSTALL).args(packages))
}

/// Answers an error unless we are root.
///
/// # Errors
///
/// We are not.
pub(crate) fn need_root() -> Result<(), String> {
    let user = shell::output(program("id").arg("-u"))?;
    if user.trim() == "0" { Ok(()) } else { Err("installing takes root".into()) }
}

/// A program that is ended after the time that an install may take.
pub(crate) fn within(name: &str) -> Command {
    let mut command = program("timeout");
    command.args(["--kill-after=10", LIMIT, name]);
    command
}

/// `apt-get` asks nobody, and speaks English.
pub(crate) fn without_questions(command: &mut Command) -> &mut Command {
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C")
}
