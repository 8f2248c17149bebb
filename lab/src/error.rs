//! Why a run gave no verified result, sorted by who has to do something about it.

use core::fmt;

/// Why a run gave no verified result. Each says what is wrong, where, and what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// The input is missing, unreadable or broken: a file, a device tree.
    BadInput(Trouble),
    /// This machine cannot do that.
    Refused(Trouble),
    /// The work went wrong: bytes differ, hardware did not answer, a promise is broken.
    Wrong(Trouble),
}

/// What, where, and what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong.
    pub what: String,
    /// Where: a file, a device, a machine.
    pub at: String,
    /// What to try.
    pub hint: String,
}

impl RunError {
    /// What, where, and what to try.
    pub fn trouble(&self) -> &Trouble {
        match self {
            Self::BadInput(trouble) | Self::Refused(trouble) | Self::Wrong(trouble) => trouble,
        }
    }

    /// Bad input.
    pub fn bad_input(at: impl fmt::Display, what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::BadInput(Trouble::new(at, what, hint))
    }

    /// Refused.
    pub fn refused(at: impl fmt::Display, what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::Refused(Trouble::new(at, what, hint))
    }

    /// Went wrong.
    pub fn wrong(at: impl fmt::Display, what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::Wrong(Trouble::new(at, what, hint))
    }
}

impl Trouble {
    fn new(at: impl fmt::Display, what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { what: what.to_string(), at: at.to_string(), hint: hint.to_string() }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { what, at, hint } = self.trouble();
        write!(f, "{at}: {what}; {hint}")
    }
}

impl core::error::Error for RunError {}
