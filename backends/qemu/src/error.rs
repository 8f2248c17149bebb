//! What can go wrong with a QEMU.

use core::error::Error;
use core::fmt;
use core::time::Duration;

use crate::find::{Arch, TREE_VARIABLE};

/// What went wrong with a QEMU. One line each; the last words of a process that ended follow on lines of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QemuError {
    /// There is none for this architecture.
    Absent {
        /// The architecture.
        arch: Arch,
    },
    /// The program at this path is not a QEMU that says its version.
    NotQemu {
        /// What was started.
        program: String,
        /// What came of it.
        what: String,
    },
    /// The host did not do what starting takes: a directory, a file, a mapping, a process.
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the host said.
        what: String,
    },
    /// It ended by itself.
    Died {
        /// What was being done.
        doing: String,
        /// How it ended, and the end of what it wrote to standard error.
        last_words: String,
    },
    /// It did not answer in time.
    Hung {
        /// What it was asked.
        doing: String,
        /// For how long was waited.
        limit: Duration,
        /// The end of what it wrote to standard error.
        last_words: String,
    },
    /// It answered what the protocol does not know.
    Nonsense {
        /// What it was asked.
        doing: String,
        /// The beginning of the answer.
        answer: String,
    },
}

impl QemuError {
    pub(crate) fn host(doing: &'static str, what: &dyn fmt::Display) -> Self {
        Self::Host { doing, what: what.to_string() }
    }
}

impl fmt::Display for QemuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { arch } => write!(
                f,
                "there is no {}: install Debian's package {}, or name a Debian tree that has it in {TREE_VARIABLE}",
                arch.program(),
                arch.package()
            ),
            Self::NotQemu { program, what } => write!(f, "{program} is not a QEMU: {what}"),
            Self::Host { doing, what } => write!(f, "{doing}: {what}"),
            Self::Died { doing, last_words } => {
                write!(f, "QEMU ended at `{doing}`: {last_words}")
            }
            Self::Hung { doing, limit, last_words } => {
                write!(f, "QEMU did not answer `{doing}` within {:.1} s", limit.as_secs_f64())?;
                if last_words.is_empty() { Ok(()) } else { write!(f, "; its last words: {last_words}") }
            }
            Self::Nonsense { doing, answer } => write!(f, "QEMU answered `{doing}` with `{answer}`"),
        }
    }
}

impl Error for QemuError {}
