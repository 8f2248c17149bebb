//! Batches of commands, and how their end is noticed.
//!
//! A sync ends either by an MSI that the SMMU writes to a word in memory, one word for each slot; or by SMMU_CMDQ_CONS passing the sync. The
//! register is looked at in both cases now and then, because a command error stops the queue: who sees one repairs it
//! ([`CommandQueue::recover`]).
//!
//! A completed sync proves nothing for a batch in which a command failed: [`Batch::sync`] says so.
//!
//! Spec: SMMUv3 H.a, 4.7.3 "CMD_SYNC", 7.1 "Command queue errors".

use core::sync::atomic::Ordering;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::command::{Command, Opcode};
use portcullis_spec::smmuv3::registers::{CMDQ_CONS, CmdqCons};
use portcullis_types::mutant;

use crate::command_queue::{BATCH, CommandQueue, signal_value};

/// While waiting for an MSI, the register is looked at once in so many turns.
const LOOK_EVERY: u32 = 16;

/// What a producer needs to wait for its sync: the positions of its first command and of the sync, and whether devices must answer.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    first: u64,
    sync: u64,
    atc: bool,
    failures_before: u64,
}

impl<P: Platform, R: Registers> CommandQueue<P, R> {
    /// Looks at SMMU_CMDQ_CONS, notes what has been consumed, and repairs an error. Answers what was read.
    pub(crate) fn look(&self) -> u32 {
        let head = self.head.load(Ordering::Acquire);
        // The position counts from a head that is not younger than what is read; else it would be a whole lap off.
        self.platform.read_barrier();
        let raw = self.registers.read32(CMDQ_CONS);
        let cons = CmdqCons::from_bits(raw);
        let position = self.ring.position(head, cons.rd());
        if position <= self.reserved() {
            self.platform.read_barrier();
            self.head.fetch_max(position, Ordering::AcqRel);
        }
        if cons.err() != 0 {
            self.recover();
        }
        raw
    }

    /// The position that an index of SMMU_CMDQ_CONS means, if it is one that can be waiting to be consumed.
    pub(crate) fn waiting_position(&self, index: u32) -> Option<u64> {
        let position = self.ring.position(self.head.load(Ordering::Acquire), index);
        (position < self.reserved()).then_some(position)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), SyncError> {
        if mutant!("sync-not-waited-for") {
            return Ok(());
        }
        let mut last = 0;
        let mut turn = 0u32;
        let signals = self.look_at_signals();
        let mut done = |look: bool| {
            if look {
                last = self.look();
            }
            self.head.load(Ordering::Acquire) > ticket.sync
                || signals.is_some() && self.was_signalled(ticket.sync)
        };
        let waited = self.wait_until(|for_the_last_time| {
            turn = turn.wrapping_add(1);
            let look = self.signals.is_none() || turn.is_multiple_of(LOOK_EVERY) || for_the_last_time;
            if done(look) { Some(Ok(())) } else { self.usable().err().map(Err) }
        });
        let timeout =
            SyncError::Timeout { waiting_for: "SMMU_CMDQ_CONS to pass a CMD_SYNC", last: last.into() };
        waited.unwrap_or(Err(timeout))?;
        self.platform.read_barrier();
        self.judge(ticket)
    }

    fn was_signalled(&self, position: u64) -> bool {
        let Some(word) = self.signal(position) else { return false };
        #[expect(clippy::cast_possible_truncation, reason = "the MSI is the low half")]
        let seen = self.platform.load(word) as u32;
        // A later sync in the same slot, one or more laps on, has overwritten this one's: then this one was consumed before.
        seen.wrapping_sub(signal_value(position)) < u32::MAX / 2
    }

    /// A sync completed: did everything in its batch?
    fn judge(&self, ticket: Ticket) -> Result<(), SyncError> {
        let failures = self.failure_count.load(Ordering::Acquire);
        if failures == ticket.failures_before || mutant!("failed-command-taken-for-done") {
            return Ok(());
        }
        match self.failures.lock().code_for(ticket.first, ticket.sync, ticket.atc) {
            Some(code) => Err(SyncError::Failed { code }),
            None => Ok(()),
        }
    }
}

/// Commands on their way into the queue, to be ended by a sync.
#[must_use = "commands that nobody waits for have not happened"]
pub(crate) struct Batch<'q, P: Platform, R> {
    queue: &'q CommandQueue<P, R>,
    commands: [Command; BATCH],
    len: usize,
    first: Option<u64>,
    /// There is an ATC invalidation in it.
    atc: bool,
    failures_before: u64,
    error: Option<SyncError>,
}

impl<'q, P: Platform, R: Registers> Batch<'q, P, R> {
    pub(crate) fn new(queue: &'q CommandQueue<P, R>) -> Self {
        Self {
            queue,
            commands: [Command([0; 2]); BATCH],
            len: 0,
            first: None,
            atc: false,
            failures_before: queue.failure_count.load(Ordering::Acquire),
            error: None,
        }
    }

    /// Adds a command. An error on the way is told by [`sync`](Self::sync).
    pub(crate) fn add(&mut self, command: Command) {
        if self.len == BATCH.min(self.queue.ring.slots()) {
            self.push(false);
        }
        self.atc |= command.opcode() == Opcode::ATC_INV;
        self.commands[self.len] = command;
        self.len += 1;
    }

    fn push(&mut self, sync: bool) {
        if self.error.is_some() {
            self.len = 0;
            return;
        }
        match self.queue.push_waiting(&self.commands[..self.len], sync) {
            Ok(first) => self.first = self.first.or(Some(first)),
            Err(error) => self.error = Some(error),
        }
        self.len = 0;
    }

    /// Queues the rest and a sync, and waits until it has completed. Success says that every command of the batch has.
    pub(crate) fn sync(mut self) -> Result<(), SyncError> {
        let room = self.queue.ring.slots().min(BATCH + 1);
        if self.len + 1 > room {
            self.push(false);
        }
        let behind = self.len as u64;
        let mut sync_at = 0;
        if self.error.is_none() {
            match self.queue.push_waiting(&self.commands[..self.len], true) {
                Ok(first) => {
                    sync_at = first + behind;
                    self.first = self.first.or(Some(first));
                }
                Err(error) => self.error = Some(error),
            }
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        let ticket = Ticket {
            first: self.first.unwrap_or(sync_at),
            sync: sync_at,
            atc: self.atc,
            failures_before: self.failures_before,
        };
        self.queue.wait(ticket)
    }
}
