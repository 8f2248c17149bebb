//! What the architecture does not define, and software did anyway.

/// Something unpredictable happened. The model went on in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unpredictable {
    /// The rule that was broken, as the book names it.
    pub clause: &'static str,
    /// The virtual address, 0 if there is none.
    pub va: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    kept: Vec<Unpredictable>,
    count: u64,
}

const KEPT: usize = 64;

impl Journal {
    pub(crate) fn note(&mut self, clause: &'static str, va: u64) {
        self.count += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Unpredictable { clause, va });
        }
    }

    pub(crate) fn kept(&self) -> Vec<Unpredictable> {
        self.kept.clone()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
