//! The queue: which devices share workers, and what the workers call.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portcullis_hal::{Lock, Platform};

use crate::iopf::PageRequester;
use crate::iopf::state::Ring;

/// Groups of several devices on their way to workers. An embedder has one for each IOMMU, or each of its hardware queues, or one for all.
pub struct FaultQueue<P: Platform> {
    ring: Arc<Ring<P>>,
    members: Lock<P, Vec<Arc<PageRequester<P>>>>,
}

/// Why a device was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddRequesterError {
    /// It is in a queue, this one or another. EBUSY.
    InQueue,
    /// Nobody can answer it. ENODEV.
    NoResponder,
    /// No memory. ENOMEM.
    NoMemory,
}

/// Why a device was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveRequesterError {
    /// It is not in this queue. ENODEV.
    NotInQueue,
    /// Some worker is not done with sending an answer. No more requests are taken in; to be called again. EBUSY.
    StillAnswering,
}

/// How long a removal waits for workers that are about to answer: longer than any wait of a driver's.
const ANSWER_LIMIT_NS: u64 = 2_000_000_000;

impl<P: Platform> fmt::Debug for FaultQueue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultQueue").field("members", &self.members.lock().len()).finish_non_exhaustive()
    }
}

impl<P: Platform> FaultQueue<P> {
    /// A queue with no devices.
    pub fn new() -> Self {
        Self { ring: Arc::new(Ring::new()), members: Lock::<P, _>::new(Vec::new()) }
    }

    /// Has this queue's workers handle the device's groups from now on.
    ///
    /// # Errors
    ///
    /// As [`AddRequesterError`] says; then nothing has changed.
    pub fn add_device(&self, requester: &Arc<PageRequester<P>>) -> Result<(), AddRequesterError> {
        if !requester.has_responder() {
            return Err(AddRequesterError::NoResponder);
        }
        if !requester.enlist() {
            return Err(AddRequesterError::InQueue);
        }
        let mut members = self.members.lock();
        if members.try_reserve(1).is_err() || !self.ring.reserve(members.len() + 1) {
            drop(members);
            requester.discharge();
            return Err(AddRequesterError::NoMemory);
        }
        members.push(requester.clone());
        requester.state.lock().join(self.ring.clone());
        Ok(())
    }

    /// Takes a device out. Its incomplete groups are forgotten, and every other one is answered on return: as invalid, if no worker was
    /// about to send another answer. A handler may be running still, whose outcome is not used. The caller has made sure that nothing more
    /// is reported; what is reported nevertheless is answered as invalid.
    ///
    /// # Errors
    ///
    /// As [`RemoveRequesterError`] says.
    pub fn remove_device(&self, requester: &Arc<PageRequester<P>>) -> Result<(), RemoveRequesterError> {
        match requester.leave(&self.ring, ANSWER_LIMIT_NS) {
            None => Err(RemoveRequesterError::NotInQueue),
            Some(false) => Err(RemoveRequesterError::StillAnswering),
            Some(true) => {
                self.members.lock().retain(|member| !Arc::ptr_eq(member, requester));
                requester.discharge();
                Ok(())
            }
        }
    }

    /// Handles one group of the device whose turn it is. False if there was none. Called by workers, several at once, after
    /// [`Reported::Ready`](crate::iopf::Reported::Ready), until it answers false.
    pub fn work(&self) -> bool {
        self.work_turn(1)
    }

    /// The same with up to `most` groups of the device, one after the other. Each is taken when it is begun, so other workers may have the rest of
    /// them. Workers that stay with a device for some groups are in each other's way less often; devices wait for their turns longer.
    pub fn work_turn(&self, most: usize) -> bool {
        let Some((requester, membership)) = self.ring.pop() else { return false };
        requester.work(membership, most);
        true
    }

    /// Forgets the incomplete groups of all devices, and answers how many requests that were. For when the hardware's queue
    /// overflowed: the requests that would have completed them are lost, and were answered by hardware. To be called after what was
    /// in the queue is reported, and before anything that came after the overflow is.
    pub fn discard_partial(&self) -> usize {
        self.members.lock().iter().map(|member| member.state.lock().discard_partial()).sum()
    }
}

impl<P: Platform> Drop for FaultQueue<P> {
    /// Removes the devices that are left.
    fn drop(&mut self) {
        while let Some(member) = self.members.get_mut().pop() {
            // One that is stuck in its answer stays closed: it takes nothing in, and is in no queue that has workers.
            if member.leave(&self.ring, ANSWER_LIMIT_NS) == Some(true) {
                member.discharge();
            }
        }
    }
}
