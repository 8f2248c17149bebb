//! What a requester's lock protects: the lists that a request passes through.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::{Lock, Platform};
use portcullis_types::{Pasid, mutant};

use crate::iopf::handler::Handlers;
use crate::iopf::{Handled, PageRequest, PageRequestHandler, PageRequester, ResponseCode};

/// How much a device can make this machine remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests whose group is not complete. One more is dropped, which costs the device another request for the same page.
    pub partials: usize,
    /// Complete groups that are not answered. One more is answered with [`ResponseCode::Failure`] at once.
    pub groups: usize,
}

impl Default for Limits {
    /// Enough for every group index that one source has.
    fn default() -> Self {
        Self { partials: 512, groups: 1024 }
    }
}

/// A complete group.
pub(super) struct Group {
    ticket: u64,
    pub(super) last: PageRequest,
    /// What came before the last, in that order.
    earlier: Vec<PageRequest>,
    /// How many of all are resolved.
    resolved: usize,
}

impl Group {
    /// Has its requests handled, from where it stopped. None if it is to be taken up again.
    pub(super) fn handle(&mut self, handler: Option<&dyn PageRequestHandler>) -> Option<ResponseCode> {
        let Some(handler) = handler else { return Some(ResponseCode::Invalid) };
        for request in self.earlier.iter().chain([&self.last]).skip(self.resolved) {
            match handler.handle(request) {
                Handled::Resolved => self.resolved += 1,
                Handled::Invalid => return Some(ResponseCode::Invalid),
                Handled::Failure => return Some(ResponseCode::Failure),
                Handled::Retry => return None,
            }
        }
        Some(ResponseCode::Success)
    }
}

/// A group that a worker has.
struct Running {
    ticket: u64,
    last: PageRequest,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// With its handler. Whoever changes this has the right to answer.
    Handling,
    /// The worker answers.
    Answering,
    /// Somebody else has answered, the worker must not.
    Answered,
}

/// A group for a worker, and who handles it.
pub(super) struct Job {
    pub(super) group: Group,
    pub(super) handler: Option<Arc<dyn PageRequestHandler>>,
}

/// What becomes of a request that is reported.
pub(super) enum Verdict {
    /// Kept until its group is complete.
    Stored,
    /// Its group is ready for a worker.
    Ready,
    /// Nothing: it is no last one.
    Dropped,
    /// It is to be answered at once.
    Answer(ResponseCode),
}

/// Requesters of one queue that have ready groups, in the order of their turns; each with the number of its membership, so that
/// an entry that outlived it is known.
pub(super) struct Ring<P: Platform>(Lock<P, VecDeque<Turn<P>>>);

type Turn<P> = (Arc<PageRequester<P>>, u64);

impl<P: Platform> Ring<P> {
    pub(super) fn new() -> Self {
        Self(Lock::<P, _>::new(VecDeque::new()))
    }

    /// Makes room for `members` requesters. False if there is no memory.
    #[must_use]
    pub(super) fn reserve(&self, members: usize) -> bool {
        let mut line = self.0.lock();
        let more = members.saturating_sub(line.len());
        line.try_reserve(more).is_ok()
    }

    pub(super) fn pop(&self) -> Option<Turn<P>> {
        self.0.lock().pop_front()
    }

    /// The requester is in no ring: there is room, reserved when it became a member.
    fn push(&self, requester: &Arc<PageRequester<P>>, membership: u64) {
        self.0.lock().push_back((requester.clone(), membership));
    }

    fn remove(&self, requester: &PageRequester<P>) {
        self.0.lock().retain(|(other, _)| !core::ptr::eq(&**other, requester));
    }
}

/// The lists of one requester.
pub(super) struct State<P: Platform> {
    /// The ring of the queue that it is in.
    ring: Option<Arc<Ring<P>>>,
    /// Whether it is on the way out of that queue.
    leaving: bool,
    membership: u64,
    in_ring: bool,
    pub(super) handlers: Handlers,
    partial: Vec<PageRequest>,
    ready: VecDeque<Group>,
    running: Vec<Running>,
    next_ticket: u64,
}

impl<P: Platform> State<P> {
    pub(super) fn new() -> Self {
        Self {
            ring: None,
            leaving: false,
            membership: 0,
            in_ring: false,
            handlers: Handlers::new(),
            partial: Vec::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            next_ticket: 0,
        }
    }

    pub(super) fn join(&mut self, ring: Arc<Ring<P>>) {
        self.ring = Some(ring);
        self.membership += 1;
    }

    /// Takes in no more, and gives up what is not complete. False if it is not in the queue with this ring.
    pub(super) fn start_leaving(&mut self, requester: &PageRequester<P>, ring: &Arc<Ring<P>>) -> bool {
        if !self.ring.as_ref().is_some_and(|own| Arc::ptr_eq(own, ring)) {
            return false;
        }
        self.leaving = true;
        // A worker that has taken this requester out of the ring already finds that it comes too late.
        self.membership += 1;
        self.in_ring = false;
        ring.remove(requester);
        self.partial = Vec::new();
        true
    }

    /// The next group that nobody answers yet; the caller does.
    pub(super) fn take_unanswered(&mut self) -> Option<PageRequest> {
        if let Some(group) = self.ready.pop_front() {
            return Some(group.last);
        }
        let running = self.running.iter_mut().find(|running| running.phase == Phase::Handling)?;
        running.phase = Phase::Answered;
        Some(running.last)
    }

    pub(super) fn is_answering(&self) -> bool {
        self.running.iter().any(|running| running.phase == Phase::Answering)
    }

    /// False if somebody else was first.
    pub(super) fn leave(&mut self) -> bool {
        self.leaving = false;
        self.ring.take().is_some()
    }

    pub(super) fn discard_partial(&mut self) -> usize {
        if mutant!("partial-groups-counted-not-emptied") {
            self.partial.len()
        } else {
            core::mem::take(&mut self.partial).len()
        }
    }

    /// Takes a request in.
    pub(super) fn take_in(
        &mut self,
        requester: &Arc<PageRequester<P>>,
        request: &PageRequest,
        limits: Limits,
    ) -> Verdict {
        let welcome = self.ring.is_some() && !self.leaving && self.handlers.get(request.pasid).is_some();
        match (welcome, request.is_last()) {
            (true, true) => self.complete(requester, request, limits),
            (true, false) => self.store(request, limits),
            (false, true) if !mutant!("request-that-nobody-handles-dropped") => {
                self.partial.retain(|partial| !partial.groups_with(request));
                Verdict::Answer(ResponseCode::Invalid)
            }
            (false, _) => Verdict::Dropped,
        }
    }

    fn store(&mut self, request: &PageRequest, limits: Limits) -> Verdict {
        if self.partial.len() >= limits.partials || self.partial.try_reserve(1).is_err() {
            return Verdict::Dropped;
        }
        self.partial.push(*request);
        Verdict::Stored
    }

    fn complete(&mut self, requester: &Arc<PageRequester<P>>, last: &PageRequest, limits: Limits) -> Verdict {
        let Some(earlier) = self.gather(last) else { return Verdict::Answer(ResponseCode::Failure) };
        // A group is for one address space. Choice: one that is not is the device's mistake, and nobody's pages are brought in for it.
        if earlier.iter().any(|request| request.pasid != last.pasid) {
            return Verdict::Answer(ResponseCode::Invalid);
        }
        if self.ready.len() + self.running.len() >= limits.groups || !self.reserve_group() {
            return Verdict::Answer(ResponseCode::Failure);
        }
        self.ready.push_back(Group { ticket: self.next_ticket, last: *last, earlier, resolved: 0 });
        self.next_ticket += 1;
        self.wake(requester);
        Verdict::Ready
    }

    /// Takes the earlier requests of the group out of the partial ones. None, with these gone, if there is no memory.
    fn gather(&mut self, last: &PageRequest) -> Option<Vec<PageRequest>> {
        let count = self.partial.iter().filter(|partial| partial.groups_with(last)).count();
        let mut earlier = Vec::new();
        let room = earlier.try_reserve_exact(count).is_ok();
        self.partial.retain(|partial| {
            let ours = partial.groups_with(last);
            if ours && room {
                earlier.push(*partial);
            }
            !ours
        });
        room.then_some(earlier)
    }

    /// Makes room for one more group, so that moving it between ready and running, either way, needs no memory.
    fn reserve_group(&mut self) -> bool {
        let (ready, running) = (self.ready.len(), self.running.len());
        self.ready.try_reserve(running + 1).is_ok() && self.running.try_reserve(ready + 1).is_ok()
    }

    /// Has a worker come, now that a group is ready.
    fn wake(&mut self, requester: &Arc<PageRequester<P>>) {
        if let Some(ring) = &self.ring
            && !self.in_ring
            && !self.leaving
        {
            self.in_ring = true;
            ring.push(requester, self.membership);
        }
    }

    /// The next group, for a worker that took this requester out of the ring.
    pub(super) fn begin(&mut self, requester: &Arc<PageRequester<P>>, membership: u64) -> Option<Job> {
        if self.membership != membership {
            return None;
        }
        self.in_ring = false;
        let group = self.ready.pop_front()?;
        if !self.ready.is_empty() {
            self.wake(requester);
        }
        Some(self.start(group))
    }

    /// The next group, for a worker whose turn with this requester goes on. The requester may be in the ring: whoever takes it out of there may find
    /// nothing left.
    pub(super) fn begin_next(&mut self, membership: u64) -> Option<Job> {
        let group = if self.membership == membership { self.ready.pop_front() } else { None };
        group.map(|group| self.start(group))
    }

    /// The next group for `pasid` with a ticket below `until`.
    pub(super) fn begin_for(&mut self, pasid: Option<Pasid>, until: u64) -> Option<Job> {
        let wanted = |group: &Group| group.last.pasid == pasid && group.ticket < until;
        let at = self.ready.iter().position(wanted)?;
        let group = self.ready.remove(at)?;
        Some(self.start(group))
    }

    fn start(&mut self, group: Group) -> Job {
        self.running.push(Running { ticket: group.ticket, last: group.last, phase: Phase::Handling });
        let handler = self.handlers.get(group.last.pasid).cloned();
        Job { group, handler }
    }

    /// Whether the worker that has `group` is the one to answer. Then it calls [`answered`](Self::answered) when it has.
    pub(super) fn may_answer(&mut self, group: &Group) -> bool {
        let Some(at) = self.place(group) else { return false };
        let handling = self.running[at].phase == Phase::Handling || mutant!("group-answered-by-two");
        if handling {
            self.running[at].phase = Phase::Answering;
        } else {
            self.running.swap_remove(at);
        }
        handling
    }

    pub(super) fn answered(&mut self, group: &Group) {
        if let Some(at) = self.place(group) {
            self.running.swap_remove(at);
        }
    }

    /// Puts a group back, to be taken up again after the others; or drops it if it was answered.
    pub(super) fn put_back(&mut self, requester: &Arc<PageRequester<P>>, group: Group) {
        let Some(at) = self.place(&group) else { return };
        if self.running.swap_remove(at).phase == Phase::Handling {
            self.ready.push_back(group);
            self.wake(requester);
        }
    }

    fn place(&self, group: &Group) -> Option<usize> {
        self.running.iter().position(|running| running.ticket == group.ticket)
    }

    /// Forgets incomplete groups of `pasid`, and answers the first ticket that is not given out yet.
    pub(super) fn start_flush(&mut self, pasid: Option<Pasid>) -> u64 {
        self.partial.retain(|partial| partial.pasid != pasid || mutant!("flush-keeps-partial-groups"));
        self.next_ticket
    }

    /// Whether no group of `pasid` with a ticket below `until` is left.
    pub(super) fn is_flushed(&self, pasid: Option<Pasid>, until: u64) -> bool {
        let ready = self.ready.iter().map(|group| (group.ticket, group.last.pasid));
        let running = self.running.iter().map(|running| (running.ticket, running.last.pasid));
        !ready.chain(running).any(|(ticket, of)| ticket < until && of == pasid)
    }
}
