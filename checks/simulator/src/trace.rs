//! What happened, as a running hash, and as lines if somebody wants to read it.

/// Stirs `value` into `hash`.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// A life's trace.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that also keeps its lines, if `lines`.
    pub(crate) fn new(lines: bool) -> Self {
        Self { hash: 0, lines: lines.then(Vec::new) }
    }

    /// Notes numbers that say what happened.
    pub(crate) fn note(&mut self, values: &[u64]) {
        self.hash = values.iter().fold(self.hash, |hash, &value| mix(hash, value));
    }

    /// Keeps a line, if lines are kept.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.replace(Vec::new()).unwrap_or_default()
    }
}
