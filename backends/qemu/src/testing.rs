//! For tests that want a QEMU: which there are, and what to do where there is none.
//!
//! A test of this kind lies in a module called `on_qemu`: the build tool runs those one at a time, since they take real time.

use std::env;

use crate::find::{Arch, Qemu};

/// The environment variable that says what tests make of QEMU: `off`, none is used; `require`, a test that finds none fails. Without it,
/// they use what they find.
pub const TESTS_VARIABLE: &str = "PORTCULLIS_QEMU";

/// Every QEMU for a test to run on, one after the other. Where there is none, that is said on standard error, with the reason.
///
/// # Panics
///
/// If there is none, and [`TESTS_VARIABLE`] says that there must be.
pub fn qemus(arch: Arch) -> Vec<Qemu> {
    let wish = env::var(TESTS_VARIABLE).unwrap_or_default();
    if wish == "off" {
        eprintln!("skipped: {TESTS_VARIABLE} is off");
        return Vec::new();
    }
    let found = Qemu::all(arch);
    if found.is_empty() {
        let why = Qemu::find(arch).map_or_else(|error| error.to_string(), |qemu| format!("{qemu} vanished"));
        assert!(wish != "require", "{TESTS_VARIABLE} requires one, and {why}");
        eprintln!("skipped: {why}");
    }
    found
}
