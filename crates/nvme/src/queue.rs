//! A submission queue and its completion queue, as one pair of rings in coherent memory.
//!
//! A command in flight has a slot; its id is the slot's number and how often the slot has been used, so that a completion
//! that comes twice or late is known for what it is. There are fewer slots than entries, so neither ring can overflow.
//!
//! Spec: NVMe Base 2.0, 3.3.1 "Memory-based Transport Queue Model (PCIe)"; 3.3.3.2 "Common Completion Queue Entry", P.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::dma::{DmaHandle, DmaMapError, DmaUnmapError};
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_types::mutant;

use crate::buffer::Buffer;
use crate::command::{self, Command};
use crate::completion::{self, Completion, PHASE_OFFSET};
use crate::config::{Interrupt, Vector};
use crate::controller::{Controller, Stuck};
use crate::error::{BadCompletion, NvmeError, Wait};

/// How many bits of a command id are the slot's number; the rest count the slot's uses.
const SLOT_BITS: u32 = 10;

/// The most slots. One less than the bits can say, so that no id is 0xffff, which the specification keeps for itself.
pub(crate) const MAX_SLOTS: u16 = (1 << SLOT_BITS) - 1;

/// A pair of queues of one id.
pub(crate) struct Queue<P: Platform> {
    id: u16,
    entries: u16,
    submission: Buffer<P>,
    completion: Buffer<P>,
    vector: Vector,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Where the next command goes.
    tail: u16,
    /// How far the controller was told that commands are there.
    rung: u16,
    /// How far the controller has fetched, as it last said.
    fetched: u16,
    /// Where the next completion will be.
    head: u16,
    /// The phase that it will have.
    phase: bool,
    interrupts: u64,
}

/// A place for a command in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// How often it was used, as far as the id can say.
    uses: u16,
    /// The opcode and the submitter's mark; none if the slot is free.
    command: Option<(u8, usize)>,
}

/// A command that is no longer in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// What its submitter marked it with.
    pub(crate) mark: usize,
    /// Its opcode.
    pub(crate) opcode: u8,
    /// What the controller answered.
    pub(crate) completion: Completion,
}

impl<P: Platform> Queue<P> {
    /// Zeroed queues of `entries` entries, at least 2, with room for `entries - 1` commands in flight.
    pub(crate) fn new(
        dma: &DmaHandle<P>,
        stuck: &Stuck,
        id: u16,
        entries: u16,
        page_bytes: u64,
        vector: Vector,
    ) -> Result<Self, DmaMapError> {
        let bytes = |entry_bytes: usize| u64::from(entries) * entry_bytes as u64;
        let slot_count = entries - 1;
        Ok(Self {
            id,
            entries,
            submission: Buffer::new(dma, stuck, bytes(command::ENTRY_BYTES), page_bytes)?,
            completion: Buffer::new(dma, stuck, bytes(completion::ENTRY_BYTES), page_bytes)?,
            vector,
            slots: (0..slot_count).map(|_| Slot::default()).collect(),
            free: (0..slot_count).rev().collect(),
            tail: 0,
            rung: 0,
            fetched: 0,
            head: 0,
            phase: true,
            interrupts: 0,
        })
    }

    /// How many entries each ring has.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// How many commands can be in flight.
    pub(crate) fn slot_count(&self) -> u16 {
        self.entries - 1
    }

    /// Where the submission ring is for the device.
    pub(crate) fn submission_base(&self) -> u64 {
        self.submission.iova(0)
    }

    /// Where the completion ring is for the device.
    pub(crate) fn completion_base(&self) -> u64 {
        self.completion.iova(0)
    }

    /// How many interrupts were taken so far.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// Whether no command is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The slot that the next command will have; none if all are in flight.
    pub(crate) fn next_slot(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Puts a command into the next slot. The controller is told by [`ring`](Self::ring). Answers whether there was a slot.
    pub(crate) fn submit(&mut self, command: &Command, mark: usize) -> bool {
        if self.is_idle() {
            // A signal from before is not about this command.
            self.vector.interrupt.take();
        }
        let Some(index) = self.free.pop() else { return false };
        let slot = &mut self.slots[usize::from(index)];
        slot.uses = (slot.uses + 1) & (u16::MAX >> SLOT_BITS);
        slot.command = Some((command.opcode, mark));
        let id = slot.uses << SLOT_BITS | index;
        let place = u64::from(self.tail) * command::ENTRY_BYTES as u64;
        self.submission.write(place, &command.encode(id));
        self.tail = (self.tail + 1) % self.entries;
        true
    }

    /// Tells the controller of everything submitted since the last time.
    pub(crate) fn ring<R: Registers>(&mut self, controller: &Controller<P, R>) {
        if self.rung != self.tail {
            controller.ring_tail(self.id, self.tail);
            self.rung = self.tail;
        }
    }

    /// Waits until the vector signals and at least one command is finished; adds what is finished to `finished`.
    ///
    /// # Errors
    ///
    /// Within `limit_ns`, nothing came, or no interrupt for what came, or something came that makes no sense.
    pub(crate) fn wait<R: Registers>(
        &mut self,
        controller: &Controller<P, R>,
        limit_ns: u64,
        finished: &mut Vec<Finished>,
    ) -> Result<(), NvmeError> {
        let interrupt: Arc<dyn Interrupt> = self.vector.interrupt.clone();
        let look = || {
            if !interrupt.take() {
                return None;
            }
            self.interrupts += 1;
            match self.reap(controller, finished) {
                // Signalled for what an earlier signal's look has found already.
                Ok(0) => None,
                Ok(_) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        };
        wait_for(controller.platform(), limit_ns, look).unwrap_or_else(|_| Err(self.silence(controller)))
    }

    /// Why the wait ended: is the completion there, and only its interrupt missing?
    fn silence<R: Registers>(&self, controller: &Controller<P, R>) -> NvmeError {
        if self.arrived() {
            return NvmeError::LostInterrupt { queue: self.id, vector: self.vector.index };
        }
        controller.silence(Wait::Completion { queue: self.id })
    }

    /// Takes every completion that has arrived. Answers how many.
    fn reap<R: Registers>(
        &mut self,
        controller: &Controller<P, R>,
        finished: &mut Vec<Finished>,
    ) -> Result<usize, NvmeError> {
        let mut count = 0;
        // A ring full of entries in the right phase is all there can be; more would be a controller that writes on and on.
        while count < usize::from(self.entries) && self.arrived() {
            // The phase was read; what it vouches for is read after it.
            controller.platform().read_barrier();
            finished.push(self.take()?);
            count += 1;
        }
        if count > 0 {
            // The entries' words have been judged by now, so no load of theirs is still to come when their places are given back.
            controller.ring_head(self.id, self.head);
        }
        Ok(count)
    }

    /// Whether there is a completion where the next one will be.
    fn arrived(&self) -> bool {
        completion::phase(self.completion.read32(self.head_offset() + PHASE_OFFSET)) == self.phase
    }

    fn head_offset(&self) -> u64 {
        u64::from(self.head) * completion::ENTRY_BYTES as u64
    }

    /// Takes the completion at the head, which has arrived.
    fn take(&mut self) -> Result<Finished, NvmeError> {
        let mut bytes = [0; completion::ENTRY_BYTES];
        self.completion.read(self.head_offset(), &mut bytes);
        let words: [u32; 4] = core::array::from_fn(|at| {
            u32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]])
        });
        let finished =
            self.judge(words).map_err(|why| NvmeError::BadCompletion { queue: self.id, why, words })?;
        self.head = (self.head + 1) % self.entries;
        self.phase ^= self.head == 0;
        Ok(finished)
    }

    /// Believes a completion only if it is for this queue, a command in flight, and entries that were submitted.
    fn judge(&mut self, words: [u32; 4]) -> Result<Finished, BadCompletion> {
        let completion = Completion::decode(words);
        if completion.sq_id != self.id {
            return Err(BadCompletion::Queue);
        }
        let ahead = |to: u16| (to + self.entries - self.fetched) % self.entries;
        if completion.sq_head >= self.entries || ahead(completion.sq_head) > ahead(self.rung) {
            return Err(BadCompletion::Head);
        }
        let index = completion.command_id & MAX_SLOTS;
        let slot = self.slots.get_mut(usize::from(index)).ok_or(BadCompletion::Command)?;
        if slot.uses != completion.command_id >> SLOT_BITS {
            return Err(BadCompletion::Command);
        }
        let command = if mutant!("completion-believed-twice") { slot.command } else { slot.command.take() };
        let (opcode, mark) = command.ok_or(BadCompletion::Command)?;
        self.free.push(index);
        self.fetched = completion.sq_head;
        Ok(Finished { mark, opcode, completion })
    }

    /// One command, from submission to its answer. The queue is idle before and after.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and if the controller refuses the command.
    pub(crate) fn execute<R: Registers>(
        &mut self,
        controller: &Controller<P, R>,
        limit_ns: u64,
        command: &Command,
    ) -> Result<Completion, NvmeError> {
        self.submit(command, 0);
        self.ring(controller);
        let mut finished = Vec::with_capacity(1);
        self.wait(controller, limit_ns, &mut finished)?;
        finished.first().map_or(Err(NvmeError::Stopped), |first| self.accept(first))
    }

    /// The answer to a finished command, if the controller did it.
    pub(crate) fn accept(&self, finished: &Finished) -> Result<Completion, NvmeError> {
        let status = finished.completion.status;
        if status.is_success() {
            return Ok(finished.completion);
        }
        Err(NvmeError::Command { queue: self.id, opcode: finished.opcode, status })
    }

    /// Gives the memory back. The controller no longer knows it.
    ///
    /// # Errors
    ///
    /// The first of both refusals; core keeps the memory back then.
    pub(crate) fn free(self) -> Result<(), DmaUnmapError> {
        let submission = self.submission.free();
        self.completion.free().and(submission)
    }
}
