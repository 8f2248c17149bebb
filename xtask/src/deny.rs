//! Licences, sources and bans of dependencies, by `cargo-deny` where it is installed.

use crate::shell::{self, answers, cargo, root};
use crate::stage::Passed;

/// Checks `deny.toml`. Advisories are left out: their list must be fetched, and a check that needs the network would fail for
/// reasons that are not ours; `cargo deny check advisories` asks them.
///
/// # Errors
///
/// `cargo-deny` objects, or there is no `deny.toml`.
pub(crate) fn check() -> Result<Passed, String> {
    if !root().join("deny.toml").is_file() {
        return Err("there is no deny.toml at the root".into());
    }
    if !answers(cargo().args(["deny", "--version"])) {
        return Ok(Passed::Skipped("cargo-deny is not installed".into()));
    }
    shell::run(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    Ok(Passed::Done("without advisories, which need the network".into()))
}
