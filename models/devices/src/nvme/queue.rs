//! Queues: rings of entries in the driver's memory, and what the controller knows of them.
//!
//! Spec: NVMe 1.4, 4.1 "Submission Queue & Completion Queue Definition".

use portcullis_types::Iova;

use super::command::{CQE_BYTES, Command, SQE_BYTES};

/// How many entries lie between two places of a ring.
pub(crate) fn distance(from: u32, to: u32, entries: u32) -> u32 {
    (to + entries - from) % entries
}

/// A submission queue. It is empty when head and tail meet.
#[derive(Clone, Debug)]
pub(crate) struct SubmissionQueue {
    pub(crate) base: u64,
    pub(crate) entries: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    /// The completion queue that its commands complete to.
    pub(crate) cq: u16,
}

impl SubmissionQueue {
    pub(crate) fn new(base: u64, entries: u32, cq: u16) -> Self {
        Self { base, entries, head: 0, tail: 0, cq }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// How many commands there is room for: one entry stays free.
    pub(crate) fn free(&self) -> u32 {
        self.entries - 1 - distance(self.head, self.tail, self.entries)
    }

    /// Where the next command lies.
    pub(crate) fn next(&self) -> Iova {
        Iova::new(self.base.wrapping_add(SQE_BYTES as u64 * u64::from(self.head)))
    }

    pub(crate) fn advance(&mut self) {
        self.head = (self.head + 1) % self.entries;
    }
}

/// A completion queue. It is full when the tail is one entry behind the head.
#[derive(Clone, Debug)]
pub(crate) struct CompletionQueue {
    pub(crate) base: u64,
    pub(crate) entries: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    /// What the phase bit of the next entry is: 1 in the first pass, then the other one at each wrap.
    pub(crate) phase: bool,
    /// The interrupt vector; none if the queue has interrupts off.
    pub(crate) vector: Option<u16>,
    /// Whether entries were posted since the last interrupt.
    pub(crate) interrupt_due: bool,
}

impl CompletionQueue {
    pub(crate) fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self { base, entries, head: 0, tail: 0, phase: true, vector, interrupt_due: false }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// How many entries can be posted.
    pub(crate) fn free(&self) -> u32 {
        self.entries - 1 - self.occupied()
    }

    /// How many entries the driver has not said it consumed.
    pub(crate) fn occupied(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    /// Takes the next entry: where it lies, and its phase.
    pub(crate) fn take(&mut self) -> (Iova, bool) {
        let at = self.base.wrapping_add(CQE_BYTES as u64 * u64::from(self.tail));
        let phase = self.phase;
        self.tail = (self.tail + 1) % self.entries;
        self.phase ^= self.tail == 0;
        self.interrupt_due = true;
        (Iova::new(at), phase)
    }
}

/// A command that was fetched and has not completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) sq: u16,
    pub(crate) command: Command,
    /// Another command of the queue with the same id had not completed when it was fetched.
    pub(crate) conflict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_changes_at_each_wrap_and_a_full_queue_keeps_one_entry_free() {
        let mut queue = CompletionQueue::new(0x1000, 3, None);
        assert_eq!(queue.take(), (Iova::new(0x1000), true));
        assert!(!queue.is_full());
        assert_eq!(queue.take(), (Iova::new(0x1010), true));
        assert!(queue.is_full() && queue.occupied() == 2);
        queue.head = 2;
        assert_eq!(queue.take(), (Iova::new(0x1020), true));
        assert_eq!(queue.take(), (Iova::new(0x1000), false));
        assert!(queue.is_full() && queue.occupied() == 2);
    }

    #[test]
    fn a_submission_queue_wraps() {
        let mut queue = SubmissionQueue::new(0x1000, 2, 0);
        assert!(queue.is_empty());
        queue.tail = 1;
        assert_eq!((queue.is_empty(), queue.next()), (false, Iova::new(0x1000)));
        queue.advance();
        assert_eq!((queue.is_empty(), queue.next()), (true, Iova::new(0x1040)));
        queue.advance();
        assert_eq!(queue.next(), Iova::new(0x1000));
    }
}
