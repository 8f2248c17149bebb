//! What the controller knows: registers, queues, commands under way.
//!
//! The state is locked for moments only, never while the controller uses the bus: a driver's register access, or a
//! device's, may come from inside the controller's own request.

use super::events::Events;
use super::features::Features;
use super::log::Logs;
use super::queue::{CompletionQueue, InFlight, SubmissionQueue};
use super::registers::{CC_ENABLE, CC_SHUTDOWN, CSTS_FATAL, CSTS_READY, CSTS_SHUTDOWN_DONE};

/// What does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most entries of a queue.
    pub(crate) queue_entries: u32,
    /// The most I/O queues of each kind.
    pub(crate) io_queues: u16,
    /// CAP.DSTRD.
    pub(crate) doorbell_stride: u8,
    /// The largest memory page as CC.MPS says it.
    pub(crate) page_max: u8,
    /// How many interrupt vectors there are.
    pub(crate) vectors: u16,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limits: Limits,
    pub(crate) cc: u32,
    pub(crate) csts: u32,
    pub(crate) aqa: u32,
    pub(crate) asq: u64,
    pub(crate) acq: u64,
    pub(crate) interrupt_mask: u32,
    /// CC.EN went from 1 to 0, and the controller has not yet noticed.
    pub(crate) reset_due: bool,
    /// Changes when the queues do not mean what they meant: what was fetched before is void.
    pub(crate) generation: u64,
    /// By queue id; 0 is the admin queue.
    pub(crate) sqs: Vec<Option<SubmissionQueue>>,
    pub(crate) cqs: Vec<Option<CompletionQueue>>,
    pub(crate) in_flight: Vec<InFlight>,
    pub(crate) events: Events,
    pub(crate) features: Features,
    pub(crate) logs: Logs,
    /// What software has just done against the book, and nobody has noted yet: the clause, and what it was.
    pub(crate) misuse: Vec<(&'static str, String)>,
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        let queues = usize::from(limits.io_queues) + 1;
        Self {
            limits,
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            interrupt_mask: 0,
            reset_due: false,
            generation: 0,
            sqs: vec![None; queues],
            cqs: vec![None; queues],
            in_flight: Vec::new(),
            events: Events::default(),
            features: Features::new(limits),
            logs: Logs::default(),
            misuse: Vec::new(),
        }
    }

    /// Whether commands are carried out.
    pub(crate) fn is_running(&self) -> bool {
        self.csts & (CSTS_READY | CSTS_FATAL | CSTS_SHUTDOWN_DONE) == CSTS_READY && !self.reset_due
    }

    /// Bytes in a memory page: 4 KiB shifted by CC.MPS.
    pub(crate) fn page_bytes(&self) -> usize {
        4096 << (self.cc >> 7 & 0xf)
    }

    /// A controller reset. What software configured of the admin queues stays, and no shutdown of before goes on.
    /// Spec: NVMe 1.4, 7.3.2 "Controller Level Reset".
    pub(crate) fn reset(&mut self) {
        let (generation, cc, logs) =
            (self.generation.wrapping_add(1), self.cc & !CC_SHUTDOWN, core::mem::take(&mut self.logs));
        let kept = Self { aqa: self.aqa, asq: self.asq, acq: self.acq, cc, logs, ..Self::new(self.limits) };
        *self = Self { generation, ..kept };
    }

    /// Everything as after power-up.
    pub(crate) fn power_up(&mut self) {
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::new(self.limits) };
    }

    /// Makes the admin queues and becomes ready, if what was configured can be.
    ///
    /// Choice: the book leaves open what comes of a page size, a command set, an arbitration or a queue size that is not
    /// supported; here the controller reports a fatal status.
    pub(crate) fn enable(&mut self) -> bool {
        let (page, set, arbitration) = (self.cc >> 7 & 0xf, self.cc >> 4 & 7, self.cc >> 11 & 7);
        let (submission, completion) = (self.aqa & 0xfff, self.aqa >> 16 & 0xfff);
        let supported = page <= u32::from(self.limits.page_max) && set == 0 && arbitration == 0;
        if !supported || submission == 0 || completion == 0 {
            self.csts |= CSTS_FATAL;
            return false;
        }
        self.sqs[0] = Some(SubmissionQueue::new(self.asq, submission + 1, 0));
        self.cqs[0] = Some(CompletionQueue::new(self.acq, completion + 1, Some(0)));
        self.csts |= CSTS_READY;
        true
    }

    /// Whether software wants the controller enabled and it is neither that nor broken.
    pub(crate) fn wants_enable(&self) -> bool {
        self.cc & CC_ENABLE != 0 && self.csts & (CSTS_READY | CSTS_FATAL) == 0
    }

    pub(crate) fn sq(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    pub(crate) fn cq(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// Whether a completion for the commands of `sq` can be posted now.
    pub(crate) fn has_room(&mut self, sq: u16) -> bool {
        self.room(sq) > 0
    }

    /// How many completions for the commands of `sq` can be posted now.
    pub(crate) fn room(&mut self, sq: u16) -> u32 {
        let Some(cq) = self.sq(sq).map(|sq| sq.cq) else { return 0 };
        self.cq(cq).map_or(0, |cq| cq.free())
    }
}
