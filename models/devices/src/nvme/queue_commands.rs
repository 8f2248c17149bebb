//! Creating and deleting I/O queues.
//!
//! Spec: NVMe 1.4, 5.3 "Create I/O Completion Queue command"; 5.4 "Create I/O Submission Queue command"; 5.5 "Delete I/O
//! Completion Queue command"; 5.6 "Delete I/O Submission Queue command".

use super::Nvme;
use super::command::Command;
use super::queue::{CompletionQueue, SubmissionQueue};
use super::registers::{CQE_LG2, SQE_LG2};
use super::state::State;
use super::status::Status;

const PHYSICALLY_CONTIGUOUS: u32 = 1;
const INTERRUPTS_ENABLED: u32 = 1 << 1;

impl State {
    /// QID in bits 15:0, QSIZE, 0's based, in 31:16 of CDW10: the id if it is free and below `limit`, and the entries.
    fn new_queue(&self, command: &Command, taken: bool, limit: u16) -> Result<(u16, u32), Status> {
        let (id, entries) = (command.cdw(10) as u16, (command.cdw(10) >> 16) + 1);
        if id == 0 || id > limit || taken {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if entries < 2 || entries > self.limits.queue_entries {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        Ok((id, entries))
    }

    /// PRP1 if the queue is contiguous, as CAP.CQR demands, and begins with a page.
    fn queue_base(&self, command: &Command) -> Result<u64, Status> {
        if command.cdw(11) & PHYSICALLY_CONTIGUOUS == 0 || command.psdt() != 0 {
            return Err(Status::INVALID_FIELD);
        }
        if command.prp1() & (self.page_bytes() as u64 - 1) != 0 {
            return Err(Status::PRP_OFFSET);
        }
        Ok(command.prp1())
    }

    /// Choice: the book has no code of its own for an entry size in CC that the controller does not have; queues of such entries
    /// are of an invalid size.
    fn check_entry_size(&self, shift: u32, lg2: u32) -> Result<(), Status> {
        if self.cc >> shift & 0xf == lg2 { Ok(()) } else { Err(Status::INVALID_QUEUE_SIZE) }
    }

    pub(super) fn create_cq(&mut self, command: &Command) -> Result<(), Status> {
        let taken = self.cq(command.cdw(10) as u16).is_some();
        let (id, entries) = self.new_queue(command, taken, self.features.completion_queues)?;
        self.check_entry_size(20, CQE_LG2)?;
        let vector = (command.cdw(11) >> 16) as u16;
        if vector >= self.limits.vectors {
            return Err(Status::INVALID_VECTOR);
        }
        let base = self.queue_base(command)?;
        let vector = (command.cdw(11) & INTERRUPTS_ENABLED != 0).then_some(vector);
        self.cqs[usize::from(id)] = Some(CompletionQueue::new(base, entries, vector));
        Ok(())
    }

    pub(super) fn create_sq(&mut self, command: &Command) -> Result<(), Status> {
        let taken = self.sq(command.cdw(10) as u16).is_some();
        let (id, entries) = self.new_queue(command, taken, self.features.submission_queues)?;
        self.check_entry_size(16, SQE_LG2)?;
        let cq = (command.cdw(11) >> 16) as u16;
        if cq == 0 || cq > self.features.completion_queues {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self.cq(cq).is_none() {
            return Err(Status::INVALID_CQ);
        }
        let base = self.queue_base(command)?;
        self.sqs[usize::from(id)] = Some(SubmissionQueue::new(base, entries, cq));
        Ok(())
    }

    pub(super) fn delete_cq(&mut self, command: &Command) -> Result<(), Status> {
        let id = command.cdw(10) as u16;
        if id == 0 || self.cq(id).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self.sqs.iter().flatten().any(|sq| sq.cq == id) {
            return Err(Status::INVALID_DELETION);
        }
        self.cqs[usize::from(id)] = None;
        Ok(())
    }
}

impl Nvme {
    /// Commands that were fetched and not completed complete as aborted, if there is room to say so; those that were not fetched are gone.
    pub(super) fn delete_sq(&self, command: &Command) -> Result<(), Status> {
        let id = command.cdw(10) as u16;
        let mut state = self.state();
        if id == 0 || state.sq(id).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let (gone, kept) =
            core::mem::take(&mut state.in_flight).into_iter().partition(|under| under.sq == id);
        state.in_flight = kept;
        drop(state);
        let gone: Vec<_> = gone;
        for under in gone {
            self.complete(under.sq, &under.command, Status::QUEUE_DELETED, 0);
        }
        self.state().sqs[usize::from(id)] = None;
        Ok(())
    }
}
