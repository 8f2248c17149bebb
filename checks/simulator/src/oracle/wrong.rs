//! What is wrong: which promise, and what was seen.

use crate::promise::Promise;

/// Something that must not be.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

impl Wrong {
    pub(crate) fn new(promise: Promise, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }

    /// From a line that begins with the promise's name, as `checks::sva` has it.
    pub(crate) fn from_line(line: &str) -> Self {
        let (name, what) = line.split_once(": ").unwrap_or(("", line));
        match Promise::named(name) {
            Some(promise) => Self::new(promise, what),
            None if name == "forbidden" => Self::new(Promise::Book, what),
            None => Self::new(Promise::Service, line),
        }
    }
}
