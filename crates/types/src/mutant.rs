//! Mutants: real bugs, re-made behind a switch, so that the tests are seen to catch them.
//!
//! [`mutant!`](crate::mutant!) stands where a careful author could have gone wrong: `if !mutant!("no-sync-on-unmap") { sync() }`. In every
//! ordinary build it is the constant `false`, and nothing of it is left in the code. Only with the feature `mutants`, which no crate of
//! the workspace switches on, does the process ask once for [`VARIABLE`] and answer `true` for the one name that stands there.
//!
//! A name that no list in `checks/mutants/` has is refused with a panic. The first `true` is said on standard error, so that a mutant
//! that no test came by is told from one that no test minds.
//!
//! Not here: the list, which says what each mutant breaks and what must catch it (`checks/mutants/`); who runs them (`cargo xtask mutants`).

/// Whether this process runs with the mutant of that name: `false`, as a constant, without the feature `mutants`.
///
/// The name must stand in a list of `checks/mutants/`, and nowhere else in the code.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutant::is_on($name)
    };
}

/// The environment variable that names the mutant of a process.
pub const VARIABLE: &str = "PORTCULLIS_MUTANT";

#[cfg(not(feature = "mutants"))]
#[doc(hidden)]
#[inline(always)]
#[must_use]
pub const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(feature = "mutants")]
#[doc(hidden)]
pub use switch::is_on;

#[cfg(feature = "mutants")]
mod switch {
    use std::io::Write;
    use std::string::String;
    use std::sync::{Once, OnceLock};
    use std::{env, format, fs};

    use super::VARIABLE;

    /// Where the lists lie: this is a test's build, on the machine that has the sources.
    const LISTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../checks/mutants");

    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    static REACHED: Once = Once::new();

    /// Whether `name` is what the environment names.
    #[must_use]
    pub fn is_on(name: &str) -> bool {
        let on = CHOSEN.get_or_init(chosen).as_deref() == Some(name);
        if on {
            REACHED.call_once(|| say_reached(name));
        }
        on
    }

    fn chosen() -> Option<String> {
        let name = env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
        assert!(is_listed(&name), "{VARIABLE}: no mutant `{name}` in checks/mutants");
        Some(name)
    }

    fn is_listed(name: &str) -> bool {
        let line = format!("name = \"{name}\"");
        let files = fs::read_dir(LISTS).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_to_string(file.path()).ok())
            .any(|text| text.lines().any(|each| each.trim() == line))
    }

    /// Past the test harness, which keeps what `eprintln!` writes.
    fn say_reached(name: &str) {
        let _ = std::io::stderr().write_all(format!("mutant {name} reached\n").as_bytes());
    }
}

#[cfg(all(test, not(feature = "mutants")))]
mod tests {
    #[test]
    fn without_the_feature_no_mutant_is_on_and_the_compiler_knows_it() {
        const ON: bool = super::is_on("any name at all");
        const { assert!(!ON) }
    }
}
