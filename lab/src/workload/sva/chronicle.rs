//! What a run says step by step, kept in order, to be judged at its end.
//!
//! A sink that passes everything on, and keeps what core and the IOMMU's driver say of bonds, faults and their answers.
//!
//! Not here: what the IOMMU's model says (`witness`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis::types::trace::{Event, Sink};

use super::super::witness::number;
use crate::trace::SharedSink;

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A process was bound.
    Bind,
    /// A device wants a page. The group's last request is to be answered, and no other.
    Fault { group: u64, last: bool },
    /// It was answered: 0 success, 1 invalid, 2 failure.
    Response { group: u64, code: u64 },
    /// Some of a process's entries are to be forgotten.
    Invalidate,
    /// A process exits.
    Release,
    /// A process is bound no more.
    Unbind,
}

/// Code of a response: the page is there.
pub(super) const SUCCESS: u64 = 0;
/// Code of a response: the page is not to be had.
pub(super) const INVALID: u64 = 1;

/// Bit of `flags` in `dev_fault`: the last of its group.
const LAST: u64 = 2;

/// Keeps steps.
pub(super) struct Chronicle {
    next: SharedSink,
    steps: Mutex<Vec<Step>>,
}

impl Chronicle {
    pub(super) fn new(next: SharedSink) -> Self {
        Self { next, steps: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steps so far.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.lock().clone()
    }
}

impl Sink for Chronicle {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        if matches!(event.source, "core" | "smmuv3" | "vtd")
            && let Some(step) = step(event)
        {
            self.lock().push(step);
        }
        if self.next.listening() {
            self.next.event(event);
        }
    }
}

fn step(event: &Event<'_>) -> Option<Step> {
    let field = |name| number(event, name).unwrap_or(u64::MAX);
    Some(match event.name {
        "smmu_bind_alloc" | "bind" => Step::Bind,
        "dev_fault" => Step::Fault { group: field("group"), last: field("flags") & LAST != 0 },
        "dev_page_response" => Step::Response { group: field("group"), code: field("code") },
        "smmu_mm_invalidate" | "mm_invalidate" => Step::Invalidate,
        "smmu_mm_release" | "mm_release" => Step::Release,
        "smmu_unbind_free" | "unbind" => Step::Unbind,
        _ => return None,
    })
}

/// Each last request has exactly one answer behind it, and no other request has any (*one-answer*). What is wrong, if something is.
pub(super) fn unanswered(steps: &[Step]) -> Option<String> {
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Fault { group, last: true } => *open.entry(group).or_default() += 1,
            Step::Response { group, .. } => match open.get_mut(&group) {
                Some(count @ 1..) => *count -= 1,
                _ => return Some(format!("group {group} was answered, and nothing was asked")),
            },
            _ => {}
        }
    }
    open.retain(|_, count| *count > 0);
    open.first_key_value().map(|(group, count)| format!("group {group} has {count} answers too few"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Step = Step::Fault { group: 7, last: true };
    const ANSWER: Step = Step::Response { group: 7, code: SUCCESS };

    #[test]
    fn each_last_request_has_one_answer() {
        let part = Step::Fault { group: 7, last: false };
        assert_eq!(unanswered(&[Step::Bind, part, ASK, ANSWER, ASK, ANSWER]), None);
        assert!(unanswered(&[ASK]).is_some_and(|wrong| wrong.contains("too few")));
        assert!(unanswered(&[ASK, ANSWER, ANSWER]).is_some_and(|wrong| wrong.contains("nothing was asked")));
        assert!(unanswered(&[part, ANSWER]).is_some());
        let other = Step::Response { group: 8, code: SUCCESS };
        assert!(unanswered(&[ASK, other]).is_some());
    }
}
