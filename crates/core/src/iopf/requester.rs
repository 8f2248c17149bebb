//! A device that asks for pages: what it has asked, who handles it, and how it gets its answers.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use portcullis_hal::{Lock, Platform, wait_for};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pasid, mutant};

use crate::iopf::state::{Job, Ring, State, Verdict};
use crate::iopf::{Limits, PageRequest, PageRequestHandler, Responder, ResponseCode, SetHandlerError};

/// A device that asks for pages.
pub struct PageRequester<P: Platform> {
    platform: Arc<P>,
    name: String,
    responder: Option<Arc<dyn Responder>>,
    limits: Limits,
    /// Whether some queue has it as a member.
    member: AtomicBool,
    pub(super) state: Lock<P, State<P>>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    requests: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
    answers: [AtomicU64; 3],
}

/// What has come from a device and gone back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests, stop markers not counted.
    pub requests: u64,
    /// Requests other than last ones that were forgotten at once: nobody handles them, or there were too many.
    pub dropped: u64,
    /// How often a handler asked for a group to be taken up again.
    pub retries: u64,
    /// Groups answered with success.
    pub success: u64,
    /// Groups answered as invalid.
    pub invalid: u64,
    /// Groups answered with failure.
    pub failure: u64,
}

/// What became of a request that was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Kept until its group is complete.
    Stored,
    /// Its group is complete: a worker is to call [`FaultQueue::work`](crate::iopf::FaultQueue::work).
    Ready,
    /// It was the last of its group, which has been answered.
    Answered(ResponseCode),
    /// Forgotten: it is not the last of its group, which gets its answer when that comes.
    Dropped,
    /// It was a stop marker, which gets no answer.
    StopMarker,
}

/// Groups that were to be waited for are not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushTimeout {
    /// How long was waited, in nanoseconds.
    pub waited_ns: u64,
}

impl<P: Platform> fmt::Debug for PageRequester<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequester").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P: Platform> PageRequester<P> {
    /// The device called `name` in events, in no queue and with no handlers. Without a responder it can be in no queue: its IOMMU
    /// cannot answer it.
    pub fn new(
        platform: Arc<P>,
        name: &str,
        responder: Option<Arc<dyn Responder>>,
        limits: Limits,
    ) -> Arc<Self> {
        let state = Lock::<P, _>::new(State::new());
        let (name, member) = (name.into(), AtomicBool::new(false));
        Arc::new(Self { platform, name, responder, limits, member, state, tally: Tally::default() })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What has come and gone so far.
    pub fn counts(&self) -> Counts {
        let [success, invalid, failure] = self.tally.answers.each_ref().map(|count| count.load(Relaxed));
        Counts {
            requests: self.tally.requests.load(Relaxed),
            dropped: self.tally.dropped.load(Relaxed),
            retries: self.tally.retries.load(Relaxed),
            success,
            invalid,
            failure,
        }
    }

    /// Has `handler` handle the requests for `pasid`; none stands for accesses without PASID.
    ///
    /// # Errors
    ///
    /// As [`SetHandlerError`] says; then nothing has changed.
    pub fn set_handler(
        &self,
        pasid: Option<Pasid>,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<(), SetHandlerError> {
        // A handler that is refused is dropped with the lock released: much may hang on it.
        self.state.lock().handlers.set(pasid, handler.clone())
    }

    /// Takes the handler for `pasid` away. Requests are answered as invalid from then on, also those of groups that no worker has
    /// begun. A worker may be in it still: [`flush`](Self::flush) waits for that.
    pub fn clear_handler(&self, pasid: Option<Pasid>) -> Option<Arc<dyn PageRequestHandler>> {
        self.state.lock().handlers.clear(pasid)
    }

    /// Takes a request from the IOMMU's driver. Answers at once what needs no handler. The requests of one source are to be reported
    /// one after the other, in the order in which they came.
    pub fn report(self: &Arc<Self>, request: &PageRequest) -> Reported {
        if request.is_stop_marker() && !mutant!("stop-marker-taken-for-a-request") {
            return Reported::StopMarker;
        }
        self.tally.requests.fetch_add(1, Relaxed);
        self.say_fault(request);
        let verdict = self.state.lock().take_in(self, request, self.limits);
        match verdict {
            Verdict::Stored => Reported::Stored,
            Verdict::Ready => Reported::Ready,
            Verdict::Answer(code) => {
                self.answer(request, code);
                Reported::Answered(code)
            }
            Verdict::Dropped => {
                self.tally.dropped.fetch_add(1, Relaxed);
                Reported::Dropped
            }
        }
    }

    /// Waits until every group for `pasid` that was complete before the call is answered, and forgets the incomplete ones. Groups that no
    /// worker has begun are handled by the caller. Groups for other PASIDs, and those that come later, are not waited for.
    ///
    /// Before a PASID is given to another process, its last holder stops the device from using it, has the driver report what the
    /// IOMMU still queued, and then flushes. Not to be called from a handler.
    ///
    /// # Errors
    ///
    /// Some group was not answered within `limit_ns` nanoseconds.
    pub fn flush(self: &Arc<Self>, pasid: Option<Pasid>, limit_ns: u64) -> Result<(), FlushTimeout> {
        let until = self.state.lock().start_flush(pasid);
        let flushed = wait_for(&*self.platform, limit_ns, || {
            let job = self.state.lock().begin_for(pasid, until);
            if let Some(job) = job {
                self.run(job, |_| None);
            }
            let flushed = self.state.lock().is_flushed(pasid, until) || mutant!("flush-waits-for-nobody");
            flushed.then_some(())
        });
        flushed.map_err(|elapsed| FlushTimeout { waited_ns: elapsed.waited_ns })
    }

    /// Makes it a member of a queue. False if it is one already.
    pub(super) fn enlist(&self) -> bool {
        self.member.compare_exchange(false, true, AcqRel, Acquire).is_ok()
    }

    pub(super) fn discharge(&self) {
        self.member.store(false, Release);
    }

    pub(super) fn has_responder(&self) -> bool {
        self.responder.is_some()
    }

    /// Handles up to `most` groups, for a worker that found this requester in the ring.
    pub(super) fn work(self: &Arc<Self>, membership: u64, most: usize) {
        let mut job = self.state.lock().begin(self, membership);
        for nth in 1.. {
            let Some(begun) = job else { return };
            job = self.run(begun, |state| if nth < most { state.begin_next(membership) } else { None });
        }
    }

    /// Handles a group, and answers what `next` begins when the group is answered, under the same lock.
    fn run(self: &Arc<Self>, job: Job, next: impl FnOnce(&mut State<P>) -> Option<Job>) -> Option<Job> {
        let Job { mut group, handler } = job;
        let code = group.handle(handler.as_deref());
        // Nothing of the handler's is in use any more when the group is answered.
        drop(handler);
        let Some(code) = code else {
            self.tally.retries.fetch_add(1, Relaxed);
            self.state.lock().put_back(self, group);
            return None;
        };
        if !self.state.lock().may_answer(&group) {
            return None;
        }
        self.answer(&group.last, code);
        let mut state = self.state.lock();
        state.answered(&group);
        next(&mut state)
    }

    /// Leaves the queue with this ring: every group that has no answer gets one. None if it is not there, or somebody else was
    /// first; false if some worker is not done answering.
    pub(super) fn leave(&self, ring: &Arc<Ring<P>>, limit_ns: u64) -> Option<bool> {
        if !self.state.lock().start_leaving(self, ring) {
            return None;
        }
        loop {
            let Some(last) = self.state.lock().take_unanswered() else { break };
            if !mutant!("removed-device-left-waiting") {
                self.answer(&last, ResponseCode::Invalid);
            }
        }
        let quiet = wait_for(&*self.platform, limit_ns, || (!self.state.lock().is_answering()).then_some(()));
        if quiet.is_err() {
            return Some(false);
        }
        self.state.lock().leave().then_some(true)
    }

    fn answer(&self, last: &PageRequest, code: ResponseCode) {
        self.tally.answers[usize::from(code.number())].fetch_add(1, Relaxed);
        // First: the device may be back with its next request before `respond` returns.
        self.say_response(last, code);
        if let Some(responder) = &self.responder {
            responder.respond(&last.response(code));
        }
    }

    /// Observed: Linux 5.7 with the SVA series, trace point `dev_fault`: type 2 is a page request; flags: 1 with PASID, 2 last; prot: 1 read,
    /// 2 write, 4 execute, 8 privileged.
    fn say_fault(&self, request: &PageRequest) {
        let flags = u64::from(request.pasid.is_some()) | u64::from(request.is_last()) << 1;
        self.say(
            "dev_fault",
            &[
                ("IOMMU:", Value::Str(&self.name)),
                ("type", Value::Dec(2)),
                ("reason", Value::Dec(0)),
                ("addr", Value::Addr(request.address.get())),
                ("pasid", pasid(request)),
                ("group", Value::Dec(request.group.number().into())),
                ("flags", Value::Dec(flags)),
                ("prot", Value::Dec(request.wanted.bits().into())),
            ],
        );
    }

    /// Observed: as above, trace point `dev_page_response`.
    fn say_response(&self, last: &PageRequest, code: ResponseCode) {
        self.say(
            "dev_page_response",
            &[
                ("IOMMU:", Value::Str(&self.name)),
                ("code", Value::Dec(code.number().into())),
                ("pasid", pasid(last)),
                ("group", Value::Dec(last.group.number().into())),
            ],
        );
    }

    fn say(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.platform.listening() {
            self.platform.event(&Event { source: "core", name, fields });
        }
    }
}

/// As a field of an event: 0 where there is none.
fn pasid(request: &PageRequest) -> Value<'static> {
    Value::Dec(request.pasid.map_or(0, |pasid| pasid.get().into()))
}
