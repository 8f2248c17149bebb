//! A queue: opened for an address space, and closed before that goes.
//!
//! # Order
//!
//! PASID, base and size are written and read back while the queue is off; then it starts. It counts as taken until the device has said that
//! it is off: one that the device does not let go is not given to somebody else before the device is reset.

use alloc::sync::Arc;
use core::fmt;

use portcullis_core::sva::Bond;
use portcullis_hal::{Elapsed, Platform, Registers, wait_for};
use portcullis_types::{Iova, Pasid};

use crate::accelerator::{Accelerator, NoQueue, READY_LIMIT_NS};
use crate::error::{NotOpened, OpenError, QueueFailure, StillOpen};
use crate::job::ENTRY_BYTES;
use crate::registers::{
    ABORT, BASE, CONTROL, DOORBELL_HEAD, DOORBELL_TAIL, ERROR, PASID, PASID_VALID, SIZE, START, STOP, State,
    doorbell_register, queue_register,
};

/// How long an abort may take: the device waits for nothing.
const ABORT_LIMIT_NS: u64 = 1_000_000;

/// What a queue works in.
pub trait Space {
    /// The PASID of its accesses; none if they carry none.
    fn pasid(&self) -> Option<Pasid>;
}

/// The memory of a process.
impl<P: Platform> Space for Arc<Bond<P>> {
    fn pasid(&self) -> Option<Pasid> {
        Some(Bond::pasid(self))
    }
}

/// The device's own address space: for a kernel that gives it work itself, by addresses of the DMA API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unshared;

impl Space for Unshared {
    fn pasid(&self) -> Option<Pasid> {
        None
    }
}

/// A queue that is open.
///
/// Dropping it aborts it; what it worked in is then lost, which for a bond means that nobody can end it: close it.
#[must_use = "a queue works until it is closed"]
pub struct Queue<P: Platform, R: Registers, S> {
    accelerator: Arc<Accelerator<P, R>>,
    index: u8,
    size_lg2: u8,
    /// None once it has been given back.
    space: Option<S>,
}

/// A queue that has come to an end.
#[derive(Debug)]
#[must_use = "what the queue worked in is to be given back"]
pub struct Closed<S> {
    /// What it worked in: a bond may now be given back.
    pub space: S,
    /// How it came to its end.
    pub how: HowClosed,
}

/// How a queue came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HowClosed {
    /// The device stopped it. It said so when every page request had its response and no access was under way.
    Stopped,
    /// The device stopped it, and sent a stop marker behind the last page request. Responses may be owed; unbinding gives them.
    StoppedAtOnce,
    /// It had failed before.
    Failed(QueueFailure),
    /// It was off before: somebody reset the device.
    Off,
    /// The device does not answer: somebody took it out. It comes back as after power on.
    Gone,
    /// It was aborted. Accesses may be under way, for which the IOMMU waits when the PASID is detached.
    Aborted,
}

impl<P: Platform, R: Registers> Accelerator<P, R> {
    /// Opens a queue in `space`, with a ring of `1 << size_lg2` entries at `ring`, an address of that space. The ring belongs to whoever
    /// gives it work; it need not be there yet.
    ///
    /// # Errors
    ///
    /// As [`OpenError`] says. The device knows nothing of `space` then, which is given back; or it does not let go of it, and the queue that has it comes instead.
    pub fn open_queue<S: Space>(
        self: &Arc<Self>,
        space: S,
        ring: Iova,
        size_lg2: u8,
    ) -> Result<Queue<P, R, S>, NotOpened<P, R, S>> {
        let pasid = space.pasid();
        let index = match self.check(pasid, ring, size_lg2).and_then(|()| self.find_queue()) {
            Ok(index) => index,
            Err(error) => return Err(NotOpened { error, space: Ok(space) }),
        };
        let started = self.configure(index, pasid, ring, size_lg2).and_then(|()| self.start_queue(index));
        let Err(error) = started else { return Ok(self.queue(index, size_lg2, space)) };
        let off = self.abort_queue(index).is_ok();
        if off || matches!(error, OpenError::NotOff(_)) {
            // One that was not off was not told of the space.
            self.give_queue(index, off);
            return Err(NotOpened { error, space: Ok(space) });
        }
        Err(NotOpened { error, space: Err(self.queue(index, size_lg2, space)) })
    }

    fn find_queue(&self) -> Result<u8, OpenError> {
        self.take_queue().map_err(|why| match why {
            NoQueue::ShutDown => OpenError::NotStarted,
            NoQueue::AllTaken => OpenError::NoQueue,
        })
    }

    fn queue<S>(self: &Arc<Self>, index: u8, size_lg2: u8, space: S) -> Queue<P, R, S> {
        Queue { accelerator: self.clone(), index, size_lg2, space: Some(space) }
    }

    fn check(&self, pasid: Option<Pasid>, ring: Iova, size_lg2: u8) -> Result<(), OpenError> {
        let capabilities = self.capabilities();
        let (most, bits) = (capabilities.max_size_lg2, capabilities.pasid_bits);
        if size_lg2 == 0 || size_lg2 > most {
            return Err(OpenError::Size { size_lg2, most });
        }
        let entry_bytes = ENTRY_BYTES as u64;
        if !ring.get().is_multiple_of(entry_bytes) {
            return Err(OpenError::Misaligned(ring));
        }
        if ring.get().checked_add((entry_bytes << size_lg2) - 1).is_none() {
            return Err(OpenError::PastTheEnd(ring));
        }
        match pasid {
            Some(pasid) if pasid.get() >> bits != 0 => Err(OpenError::Pasid { pasid, bits }),
            _ => Ok(()),
        }
    }

    fn configure(&self, index: u8, pasid: Option<Pasid>, ring: Iova, size_lg2: u8) -> Result<(), OpenError> {
        match self.state(index) {
            State::Off => {}
            other => return Err(OpenError::NotOff(other)),
        }
        let registers = self.registers();
        let pasid = pasid.map_or(0, |pasid| pasid.get() | PASID_VALID);
        registers.write32(queue_register(index, PASID), pasid);
        registers.write64(queue_register(index, BASE), ring.get());
        registers.write32(queue_register(index, SIZE), size_lg2.into());
        // A device that works with another PASID than it was given reaches somebody else's memory.
        let kept = [
            (PASID, u64::from(pasid), registers.read32(queue_register(index, PASID)).into()),
            (BASE, ring.get(), registers.read64(queue_register(index, BASE))),
            (SIZE, size_lg2.into(), registers.read32(queue_register(index, SIZE)).into()),
        ];
        match kept.into_iter().find(|(_, wrote, read)| wrote != read) {
            Some((register, wrote, read)) => {
                Err(OpenError::NotKept { register: queue_register(index, register), wrote, read })
            }
            None => Ok(()),
        }
    }

    fn start_queue(&self, index: u8) -> Result<(), OpenError> {
        // What the ring's owner wrote before is there when the device looks.
        self.platform().write_barrier();
        self.registers().write32(queue_register(index, CONTROL), START);
        let begun = || match self.state(index) {
            State::Running => Some(Ok(())),
            State::Failed => Some(Err(OpenError::Failed(self.queue_failure(index)))),
            State::Off | State::Stopping | State::Gone | State::Unknown(_) => None,
        };
        wait_for(self.platform(), READY_LIMIT_NS, begun).unwrap_or_else(|Elapsed { waited_ns }| {
            Err(OpenError::NotRunning { state: self.state(index), waited_ns })
        })
    }

    fn abort_queue(&self, index: u8) -> Result<(), Elapsed> {
        self.registers().write32(queue_register(index, CONTROL), ABORT);
        wait_for(self.platform(), ABORT_LIMIT_NS, || (self.state(index) == State::Off).then_some(()))
    }

    fn queue_failure(&self, index: u8) -> QueueFailure {
        QueueFailure::decode(self.registers().read64(queue_register(index, ERROR)))
    }
}

impl<P: Platform, R: Registers, S> Queue<P, R, S> {
    /// Which of the device's queues it is.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The number of its entries, as a power of two.
    pub fn size_lg2(&self) -> u8 {
        self.size_lg2
    }

    /// What it works in.
    ///
    /// # Panics
    ///
    /// Never: it is given back only when the queue ends.
    pub fn space(&self) -> &S {
        self.space.as_ref().expect("an open queue has its space")
    }

    /// Where its doorbell is in the device's registers, [`DOORBELL_BYTES`](crate::DOORBELL_BYTES) long: what its process is to reach.
    pub fn doorbell(&self) -> usize {
        doorbell_register(self.index, 0)
    }

    /// What it does.
    pub fn state(&self) -> State {
        self.accelerator.state(self.index)
    }

    /// Why it failed, if it has.
    pub fn failure(&self) -> Option<QueueFailure> {
        (self.state() == State::Failed).then(|| self.accelerator.queue_failure(self.index))
    }

    /// Says in the process's stead that jobs up to `tail` are there, as [`Slot::tail`](crate::Slot::tail) counts. What was written to the ring before is visible to the device first.
    pub fn ring_tail(&self, tail: u32) {
        self.accelerator.platform().write_barrier();
        self.accelerator.registers().write32(doorbell_register(self.index, DOORBELL_TAIL), tail);
    }

    /// Behind which job the device has done the last.
    pub fn head(&self) -> u32 {
        let head = self.accelerator.registers().read32(doorbell_register(self.index, DOORBELL_HEAD));
        self.accelerator.platform().read_barrier();
        head
    }

    /// Stops the queue and waits until the device says that it is off.
    ///
    /// # Errors
    ///
    /// [`StillOpen`] after `limit_ns`: above all while the device waits for the answer to a page request or a stall. The queue comes back, to
    /// be closed again.
    pub fn close(self, limit_ns: u64) -> Result<Closed<S>, StillOpen<P, R, S>> {
        self.close_while(limit_ns, || {})
    }

    /// As [`close`](Self::close), and calls `meanwhile` in every turn of the wait: to answer page requests where no other CPU does.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_while(
        mut self,
        limit_ns: u64,
        mut meanwhile: impl FnMut(),
    ) -> Result<Closed<S>, StillOpen<P, R, S>> {
        let mut how = if self.accelerator.capabilities().stop_marker {
            HowClosed::StoppedAtOnce
        } else {
            HowClosed::Stopped
        };
        match self.state() {
            State::Off => how = HowClosed::Off,
            State::Failed => {
                how = HowClosed::Failed(self.accelerator.queue_failure(self.index));
                self.control(STOP);
            }
            _ => self.control(STOP),
        }
        let off = || match self.state() {
            State::Off => Some(how),
            State::Gone => Some(HowClosed::Gone),
            state => {
                if state == State::Failed {
                    // Also one that fails while it stops.
                    how = HowClosed::Failed(self.accelerator.queue_failure(self.index));
                    self.control(STOP);
                }
                meanwhile();
                None
            }
        };
        match wait_for(self.accelerator.platform(), limit_ns, off) {
            Ok(how) => Ok(Closed { space: self.let_go(how != HowClosed::Gone), how }),
            Err(Elapsed { waited_ns }) => Err(StillOpen { state: self.state(), waited_ns, queue: self }),
        }
    }

    /// Ends the queue whatever it does: the last resort. Jobs are dropped, and accesses of theirs may be under way; unbinding waits for them, and
    /// gives the responses that the device no longer waits for.
    ///
    /// # Errors
    ///
    /// [`StillOpen`]: the device does not obey. Reset it.
    pub fn abort(mut self) -> Result<Closed<S>, StillOpen<P, R, S>> {
        match self.accelerator.abort_queue(self.index) {
            Ok(()) => Ok(Closed { space: self.let_go(true), how: HowClosed::Aborted }),
            Err(Elapsed { waited_ns }) => Err(StillOpen { state: self.state(), waited_ns, queue: self }),
        }
    }

    fn control(&self, command: u32) {
        self.accelerator.registers().write32(queue_register(self.index, CONTROL), command);
    }

    /// The queue has ended; if the device says that it is off, somebody else may have it.
    fn let_go(&mut self, off: bool) -> S {
        self.accelerator.give_queue(self.index, off);
        self.space.take().expect("an open queue has its space")
    }
}

impl<P: Platform, R: Registers, S> Drop for Queue<P, R, S> {
    fn drop(&mut self) {
        if self.space.is_some() {
            self.accelerator.give_queue(self.index, self.accelerator.abort_queue(self.index).is_ok());
        }
    }
}

impl<P: Platform, R: Registers, S> fmt::Debug for Queue<P, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("index", &self.index)
            .field("size_lg2", &self.size_lg2)
            .finish_non_exhaustive()
    }
}
