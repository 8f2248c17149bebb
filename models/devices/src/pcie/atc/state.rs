//! What an ATC keeps count of under its lock: entries, accesses and requests under way, and answers that are owed.
//!
//! An access *uses* an entry from before its bytes move until after. An invalidation takes entries away at once, and is answered when the uses
//! that it hit are over. A translation request that is under way is told of every invalidation that comes meanwhile, and its answer is dropped
//! if one hits it.
//!
//! Spec: PCIe 6.0, 10.3 "ATS Invalidation"; 10.3.3 "Invalidate Completion Semantics".

use portcullis_types::Pasid;

use super::Behaviour;
use super::cache::{Cache, Entry, Scope, Span};

/// An access that is under way.
#[derive(Debug)]
struct Use {
    id: u64,
    pasid: Option<Pasid>,
    span: Span,
}

/// A translation request that is under way, and what was invalidated since it was sent.
#[derive(Debug)]
struct Asking {
    id: u64,
    forgotten: Vec<Scope>,
}

/// An invalidation that has no answer yet.
#[derive(Debug)]
struct Owed {
    tag: u8,
    /// The uses that it waits for.
    uses: Vec<u64>,
    due_step: u64,
}

#[derive(Debug)]
pub(super) struct State {
    /// ATS Enable and the Smallest Translation Unit, as they were when last looked at.
    pub(super) enabled: bool,
    pub(super) unit: u8,
    pub(super) cache: Cache,
    pub(super) behaviour: Behaviour,
    uses: Vec<Use>,
    asking: Vec<Asking>,
    owed: Vec<Owed>,
    step: u64,
    next_id: u64,
}

/// What is to be done about an invalidation now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Now,
    Later,
    Never,
}

impl State {
    pub(super) fn new(cache: Cache, behaviour: Behaviour) -> Self {
        Self {
            enabled: false,
            unit: 0,
            cache,
            behaviour,
            uses: Vec::new(),
            asking: Vec::new(),
            owed: Vec::new(),
            step: 0,
            next_id: 0,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Begins to use the entry for `address`, if there is one that allows it.
    pub(super) fn begin_use(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        write: bool,
    ) -> Option<(u64, Entry)> {
        let entry = *self.cache.find(pasid, address)?;
        if !entry.allows(write) {
            return None;
        }
        let id = self.id();
        self.uses.push(Use { id, pasid, span: entry.span });
        Some((id, entry))
    }

    /// A use is over. Answers the tags of the invalidations that are due now.
    pub(super) fn end_use(&mut self, id: u64) -> u32 {
        self.uses.retain(|under| under.id != id);
        self.owed.iter_mut().for_each(|owed| owed.uses.retain(|&waited| waited != id));
        self.due()
    }

    pub(super) fn begin_asking(&mut self) -> u64 {
        let id = self.id();
        self.asking.push(Asking { id, forgotten: Vec::new() });
        id
    }

    /// A translation request has its answer. Answers what was invalidated meanwhile; none if it is not known any more: ATS was switched.
    pub(super) fn end_asking(&mut self, id: u64) -> Option<Vec<Scope>> {
        let at = self.asking.iter().position(|asking| asking.id == id)?;
        Some(self.asking.swap_remove(at).forgotten)
    }

    pub(super) fn invalidate(&mut self, tag: u8, scope: Scope) -> Answer {
        let mut uses = Vec::new();
        if !self.behaviour.keep_stale {
            self.cache.forget(&scope);
            self.asking.iter_mut().for_each(|asking| asking.forgotten.push(scope));
            let hit = self.uses.iter().filter(|under| scope.hits(under.pasid, under.span));
            uses.extend(hit.map(|under| under.id));
        }
        if self.behaviour.never_answer {
            return Answer::Never;
        }
        let delay = u64::from(self.behaviour.answer_after_steps);
        if delay == 0 && uses.is_empty() {
            return Answer::Now;
        }
        self.owed.push(Owed { tag, uses, due_step: self.step + delay });
        Answer::Later
    }

    /// A step passes. Answers the tags that are due, and whether any other only waits for time to pass.
    pub(super) fn step(&mut self) -> (u32, bool) {
        self.step += 1;
        let due = self.due();
        (due, self.owed.iter().any(|owed| owed.due_step > self.step))
    }

    fn due(&mut self) -> u32 {
        let step = self.step;
        let ripe = |owed: &Owed| owed.uses.is_empty() && owed.due_step <= step;
        let tags = self.owed.iter().filter(|owed| ripe(owed)).fold(0, |tags, owed| tags | 1 << owed.tag);
        self.owed.retain(|owed| !ripe(owed));
        tags
    }

    /// How many invalidations have no answer yet.
    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Holds nothing, and takes nothing in that was asked for before. Uses go on: nobody can call bytes back.
    pub(super) fn clear(&mut self) {
        self.cache.clear();
        self.asking.clear();
    }

    /// As after power-up. Nobody expects answers of before any more.
    pub(super) fn reset(&mut self) {
        self.clear();
        self.owed.clear();
        self.enabled = false;
        self.unit = 0;
    }
}
