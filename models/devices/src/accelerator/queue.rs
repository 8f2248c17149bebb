//! A queue's registers, and the states it goes through.
//!
//! A queue's *generation* changes whenever what was under way for it is to be dropped: whoever works for it compares before each access, and before
//! each change here.
//!
//! Spec: docs/accelerator.md, "Start, stop, abort".

use portcullis_types::{Iova, Pasid};

use super::job::ENTRY_BYTES;

/// `PASID`: VALID.
const VALID: u32 = 1 << 31;
const PASID_BITS: u32 = 0xf_ffff;

/// `STATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum QueueState {
    #[default]
    Off = 0,
    Running = 1,
    Stopping = 2,
    Failed = 3,
}

/// `ERROR`: why a queue failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueError {
    /// The ring could not be read or written, in the page of this address.
    Ring(u64),
    Tail,
    BaseOrSize,
}

impl QueueError {
    const fn word(self) -> u64 {
        match self {
            Self::Ring(at) => at & !0xfff | 1,
            Self::Tail => 2,
            Self::BaseOrSize => 3,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    pasid: u32,
    base: u64,
    size_lg2: u32,
    pub(super) state: QueueState,
    error: u64,
    tail: u32,
    head: u32,
    pub(super) generation: u64,
}

/// A queue as somebody found it who is going to work for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    pub(super) state: QueueState,
    pub(super) generation: u64,
    pub(super) pasid: Option<Pasid>,
}

impl Queue {
    pub(super) fn snapshot(&self) -> Snapshot {
        let pasid = (self.pasid & VALID != 0).then(|| Pasid::new(self.pasid & PASID_BITS)).flatten();
        Snapshot { state: self.state, generation: self.generation, pasid }
    }

    /// Where the next job's entry lies, if there is one.
    pub(super) fn next_entry(&self) -> Option<Iova> {
        let index = u64::from(self.head & ((1 << self.size_lg2) - 1));
        (self.head != self.tail).then(|| Iova::new(self.base + index * ENTRY_BYTES as u64))
    }

    /// Counts a job as done.
    pub(super) fn job_done(&mut self) {
        self.head = self.head.wrapping_add(1) & self.index_mask();
    }

    /// Indexes count modulo twice the size.
    fn index_mask(&self) -> u32 {
        (2 << self.size_lg2) - 1
    }

    pub(super) fn read(&self, offset: u64) -> u64 {
        match offset {
            0x00 => u64::from(self.pasid),
            0x08 => self.base,
            0x10 => u64::from(self.size_lg2),
            0x20 => self.state as u64,
            0x28 => self.error,
            _ => 0,
        }
    }

    /// Software writes one of the registers that can only be written while the queue is off.
    pub(super) fn write(&mut self, offset: u64, value: u64) {
        if self.state != QueueState::Off {
            return;
        }
        match offset {
            0x00 => self.pasid = value as u32 & (VALID | PASID_BITS),
            0x08 => self.base = value,
            0x10 => self.size_lg2 = value as u32 & 0xf,
            _ => (),
        }
    }

    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// Software says how far there are jobs. Answers the error if that cannot be.
    pub(super) fn ring(&mut self, tail: u32) -> Option<QueueError> {
        if self.state != QueueState::Running {
            return None;
        }
        let count = tail.wrapping_sub(self.head) & self.index_mask();
        if tail > self.index_mask() || count > 1 << self.size_lg2 {
            return Some(QueueError::Tail);
        }
        self.tail = tail;
        None
    }

    /// Starts the queue if it is off. Answers the error if it cannot run.
    pub(super) fn start(&mut self, largest_lg2: u8) -> Option<QueueError> {
        if self.state != QueueState::Off {
            return None;
        }
        (self.head, self.tail, self.error) = (0, 0, 0);
        let ring_bytes = (ENTRY_BYTES as u64) << self.size_lg2;
        let sized = (1..=u32::from(largest_lg2)).contains(&self.size_lg2);
        let placed =
            self.base.is_multiple_of(ENTRY_BYTES as u64) && self.base.checked_add(ring_bytes - 1).is_some();
        if !sized || !placed {
            return Some(QueueError::BaseOrSize);
        }
        self.generation += 1;
        self.state = QueueState::Running;
        None
    }

    /// Begins to stop; a queue that failed has nothing to wait for.
    pub(super) fn stop(&mut self) {
        match self.state {
            QueueState::Running => self.state = QueueState::Stopping,
            QueueState::Failed => self.off(),
            QueueState::Off | QueueState::Stopping => (),
        }
    }

    /// Off, whatever was under way.
    pub(super) fn off(&mut self) {
        self.state = QueueState::Off;
        self.generation += 1;
    }

    pub(super) fn fail(&mut self, error: QueueError) {
        self.state = QueueState::Failed;
        self.error = error.word();
        self.generation += 1;
    }

    /// As after power on, but for the generation.
    pub(super) fn reset(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(size_lg2: u64) -> Queue {
        let mut queue = Queue::default();
        queue.write(0x08, 0x4_0000);
        queue.write(0x10, size_lg2);
        assert_eq!(queue.start(12), None);
        queue
    }

    #[test]
    fn a_tail_may_be_a_queue_ahead_and_no_further() {
        let mut queue = running(1);
        assert_eq!(queue.ring(3), Some(QueueError::Tail));
        assert_eq!(queue.ring(4), Some(QueueError::Tail));
        assert_eq!(queue.ring(2), None);
        assert_eq!(queue.next_entry(), Some(Iova::new(0x4_0000)));
        queue.job_done();
        assert_eq!(queue.next_entry(), Some(Iova::new(0x4_0040)));
        assert_eq!(queue.ring(0), Some(QueueError::Tail));
        assert_eq!(queue.ring(3), None);
        (0..2).for_each(|_| queue.job_done());
        assert_eq!((queue.head(), queue.next_entry()), (3, None));
        assert_eq!(queue.ring(1), None);
        (0..2).for_each(|_| queue.job_done());
        assert_eq!((queue.head(), queue.tail()), (1, 1));
    }

    #[test]
    fn a_queue_starts_only_with_a_base_and_a_size() {
        for (base, size) in [(0x20, 4), (0, 0), (0, 13), (u64::MAX - 0x3f, 1)] {
            let mut queue = Queue::default();
            queue.write(0x08, base);
            queue.write(0x10, size);
            assert_eq!(queue.start(12), Some(QueueError::BaseOrSize), "{base:#x} {size}");
        }
        let mut last = Queue::default();
        last.write(0x08, u64::MAX - 0x7f);
        last.write(0x10, 1);
        assert_eq!(last.start(12), None);
    }

    #[test]
    fn registers_take_what_is_written_only_while_the_queue_is_off() {
        let mut queue = running(4);
        queue.write(0x00, u64::MAX);
        queue.write(0x08, 0);
        queue.write(0x10, 1);
        assert_eq!([0, 8, 0x10].map(|at| queue.read(at)), [0, 0x4_0000, 4]);
        queue.off();
        queue.write(0x00, u64::MAX);
        assert_eq!(queue.read(0), 0x800f_ffff);
        assert_eq!(queue.snapshot().pasid, Pasid::new(0xf_ffff));
    }

    #[test]
    fn every_end_of_what_was_under_way_is_another_generation() {
        let mut queue = running(4);
        let mut last = queue.generation;
        for end in [Queue::off, Queue::reset, |queue: &mut Queue| queue.fail(QueueError::Ring(0x1234))] {
            end(&mut queue);
            assert!(queue.generation > last);
            last = queue.generation;
        }
        assert_eq!((queue.read(0x20), queue.read(0x28)), (3, 0x1001));
        queue.stop();
        assert_eq!(queue.state, QueueState::Off);
    }
}
