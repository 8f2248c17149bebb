//! The command queue: many producers, none of which waits for another longer than a full queue lasts.
//!
//! # How commands get in
//!
//! `tail` is the next free position, and one bit that says whether some producer *owns* the tail, that is, will publish what is reserved.
//!
//! 1. A producer reserves a run of slots with one compare-exchange on `tail`, which sets the owner bit. Who found the bit clear is the owner.
//! 2. It writes its commands into its slots, makes them visible, and marks the slots valid: one bit each, whose meaning flips with every
//!    time around, so that nobody has to clear it.
//! 3. The owner waits for the owner before it to have published, clears the owner bit (whoever reserves from now on has a new owner), waits until
//!    every slot reserved so far is valid, and writes SMMU_CMDQ_PROD for all of them.
//!
//! Steps 1 to 3 run under a lock of the CPU's own. It is never contended where CPUs are told apart; it is there because the platform's
//! lock keeps interrupts out, and a handler that queued a command on top of a half-done owner would wait for itself.
//!
//! Ordering: the store of a command is before the write barrier, that is before the release of the valid bit; the owner acquires the
//! bits, and a second barrier stands before the register write. A slot is reused only after its consumption was seen.
//!
//! Spec: SMMUv3 H.a, 3.21.2 "Queues", 4.1.2 "Submitting commands to the Command queue", 7.1 "Command queue errors".
//! Not here: waiting for a sync (`batch`); which commands (`invalidate`, `update`); the other global errors (`errors`).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{BlockLayout, Lock, Platform, Registers, wait_for};
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::registers::{
    CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CmdqCons, GERROR, GERRORN, Gerror,
};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::answers::Answers;
use crate::atomics::{AtomicU8, AtomicU64};
use crate::batch::Batch;
use crate::counters::Counters;
use crate::errors::Failures;
use crate::reach::alloc_within;
use crate::ring::Ring;

/// Commands that a batch holds before it is queued.
pub(crate) const BATCH: usize = 64;

/// The bit of `tail` that says that it has an owner.
pub(crate) const OWNED: u64 = 1 << 63;

const ENTRY_LG2: u8 = 4;
const SIGNAL_LG2: u8 = 3;

/// What the state is of a queue that works; the bits of one that does not.
const RUNNING: u8 = 0;
const CLOSED: u8 = 1 << 0;
const DEAD: u8 = 1 << 1;

/// The command queue.
pub(crate) struct CommandQueue<P: Platform, R> {
    pub(crate) platform: Arc<P>,
    pub(crate) registers: Arc<R>,
    pub(crate) ring: Ring,
    /// One word for each slot, where the SMMU writes the low half of a sync's position plus one.
    pub(crate) signals: Option<Pa>,
    pub(crate) coherent: bool,
    pub(crate) limit_ns: u64,
    tail: AtomicU64,
    published: AtomicU64,
    /// Everything before this position has been consumed.
    pub(crate) head: AtomicU64,
    valid: Box<[AtomicU64]>,
    pub(crate) answers: Answers,
    gates: Box<[Lock<P, ()>]>,
    state: AtomicU8,
    /// How many may be looking at `signals`.
    lookers: AtomicU64,
    pub(crate) failures: Lock<P, Failures>,
    /// How often a command failed. Changes before the queue goes on, so that who sees the queue go on sees the change.
    pub(crate) failure_count: AtomicU64,
    /// How often a queue that stood still was put right, and may go on.
    pub(crate) repairs: AtomicU64,
    pub(crate) counters: Counters,
}

impl<P: Platform, R> fmt::Debug for CommandQueue<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandQueue").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> CommandQueue<P, R> {
    /// A queue of `1 << size_lg2` commands, not yet told to the hardware; syncs are signalled in memory if `signalled`. None if there is no memory
    /// below `1 << output_bits`.
    pub(crate) fn new(
        platform: Arc<P>,
        registers: Arc<R>,
        output_bits: u8,
        size_lg2: u8,
        signalled: bool,
        coherent: bool,
        limit_ns: u64,
    ) -> Option<Self> {
        let ring = Ring::alloc(&*platform, output_bits, size_lg2, ENTRY_LG2)?;
        let signals = if signalled {
            let words = alloc_within(&*platform, Self::signal_layout(&ring), output_bits);
            if words.is_none() {
                ring.free(&*platform);
                return None;
            }
            words
        } else {
            None
        };
        let words = ring.slots().div_ceil(64);
        let cpus = platform.cpu_count().max(1);
        Some(Self {
            answers: Answers::new(&ring),
            ring,
            signals,
            coherent,
            limit_ns,
            tail: AtomicU64::new(0),
            published: AtomicU64::new(0),
            head: AtomicU64::new(0),
            valid: (0..words).map(|_| AtomicU64::new(0)).collect(),
            gates: (0..cpus).map(|_| Lock::<P, ()>::new(())).collect(),
            state: AtomicU8::new(RUNNING),
            lookers: AtomicU64::new(0),
            failures: Lock::<P, Failures>::new(Failures::new()),
            failure_count: AtomicU64::new(0),
            repairs: AtomicU64::new(0),
            counters: Counters::new(),
            platform,
            registers,
        })
    }

    fn signal_layout(ring: &Ring) -> BlockLayout {
        let bytes = ring.len() << SIGNAL_LG2;
        BlockLayout::new(bytes.max(64), 64).expect("64 is a power of two")
    }

    /// How many bytes of memory the queue takes, with the words for signals.
    pub(crate) fn bytes(&self) -> u64 {
        let signals = if self.signals.is_some() { Self::signal_layout(&self.ring).size_bytes() } else { 0 };
        self.ring.bytes() + signals
    }

    /// Refuses commands from now on. Those who wait get an answer at once.
    pub(crate) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// The hardware cannot use the queue any more: every command is refused from now on.
    pub(crate) fn kill(&self) {
        self.state.fetch_or(DEAD, Ordering::Release);
    }

    /// Has hardware do `command`, the last of all, and waits until it is complete. False if that is not confirmed. The queue has been closed, and is on.
    ///
    /// From then on no signal of a sync is on its way any more: what has been consumed may be signalled later, also when the queue is off.
    ///
    /// Spec: SMMUv3 H.a, 3.18.1 "MSI synchronization", 6.3.9.3 "CMDQEN".
    pub(crate) fn end_with(&self, command: Command) -> bool {
        // Who was in the middle of a push is through.
        self.gates.iter().for_each(|gate| drop(gate.lock()));
        if self.state.load(Ordering::Acquire) & DEAD != 0 {
            return false;
        }
        let wait = |ready: &dyn Fn() -> bool| {
            wait_for(&*self.platform, self.limit_ns, || ready().then_some(())).is_ok()
        };
        // Slots that were reserved and not published are nobody's any more.
        let mut end = self.published.load(Ordering::Acquire);
        for command in [command, Command::sync()] {
            if !wait(&|| self.not_consumed(end) < self.ring.len()) {
                return false;
            }
            self.write(end, command);
            self.platform.write_barrier();
            end += 1;
            self.registers.write32(CMDQ_PROD, self.ring.index(end));
            self.published.store(end, Ordering::Release);
        }
        wait(&|| self.not_consumed(end) == 0)
    }

    /// Makes the queue, which has been closed and which hardware has turned off, an empty one: what hardware has not consumed is nobody's any more. An error for which it stood still
    /// is over. It is said where the queue lies, too: whoever took the hardware over meanwhile had another.
    ///
    /// Spec: SMMUv3 H.a, 3.21.2 "Queues": commands that hardware has cached are forgotten with that; 7.1 "Command queue errors".
    pub(crate) fn empty(&self) {
        let _no_repair = self.failures.lock();
        let index = self.ring.index(self.published.load(Ordering::Acquire));
        self.registers.write64(CMDQ_BASE, self.ring.base_register());
        self.registers.write32(CMDQ_PROD, index);
        self.registers.write32(CMDQ_CONS, index);
        let acknowledged = Gerror::from_bits(self.registers.read32(GERRORN));
        let errors = Gerror::from_bits(self.registers.read32(GERROR));
        self.registers.write32(GERRORN, acknowledged.with_cmdq_err(errors.cmdq_err()).into_bits());
        self.state.fetch_and(!DEAD, Ordering::AcqRel);
    }

    /// How many commands before this position hardware has not consumed; more than there can be if it says nonsense.
    fn not_consumed(&self, end: u64) -> u64 {
        let rd = CmdqCons::from_bits(self.registers.read32(CMDQ_CONS)).rd();
        end.wrapping_sub(rd.into()) & (2 * self.ring.len() - 1)
    }

    /// Gives the memory back. The queue has been closed, and the hardware turned off. If signals may be on their way, their words are hardware's for good.
    pub(crate) fn free(&self, signals_have_come: bool) {
        // Who was in the middle of a push or a repair is through; nobody begins one any more.
        self.gates.iter().for_each(|gate| drop(gate.lock()));
        drop(self.failures.lock());
        self.ring.free(&*self.platform);
        let Some(words) = self.signals else { return };
        // Who waits for a sync finds the queue closed in his next turn. If one has none, the words are his for good.
        let looks = || self.lookers.load(Ordering::SeqCst) > 0;
        if signals_have_come && wait_for(&*self.platform, self.limit_ns, || (!looks()).then_some(())).is_ok()
        {
            self.platform.free(words, Self::signal_layout(&self.ring));
        }
    }

    /// While the answer lives the words in which syncs are signalled are there to be looked at. None of a queue that was closed.
    ///
    /// Ordering: here the count goes up before the state is read, and who closes the queue writes that before he reads the count: one sees the other.
    pub(crate) fn look_at_signals(&self) -> Option<Looker<'_>> {
        self.lookers.fetch_add(1, Ordering::SeqCst);
        let looker = Looker(&self.lookers);
        (self.state.load(Ordering::SeqCst) & CLOSED == 0).then_some(looker)
    }

    /// Queues commands in order, without waiting for what they do. A batch that is larger than the queue is queued in parts.
    pub(crate) fn submit(&self, commands: &[Command]) -> Result<(), SyncError> {
        let most = BATCH.min(self.ring.slots());
        commands.chunks(most).try_for_each(|part| self.push_waiting(part, false).map(drop))
    }

    /// Queues a command if there is room for it now, and waits for nothing. Answers whether there was.
    pub(crate) fn offer(&self, command: Command) -> bool {
        self.look();
        matches!(self.push(&[command], false), Ok(Some(_)))
    }

    /// Starts a batch of commands that ends with a sync.
    pub(crate) fn batch(&self) -> Batch<'_, P, R> {
        Batch::new(self)
    }

    /// Queues `command` with a sync behind it, and waits until both have completed.
    pub(crate) fn run(&self, command: Command) -> Result<(), SyncError> {
        let mut batch = self.batch();
        batch.add(command);
        batch.sync()
    }

    pub(crate) fn usable(&self) -> Result<(), SyncError> {
        match self.state.load(Ordering::Acquire) {
            RUNNING => Ok(()),
            state => {
                Err(SyncError::Timeout { waiting_for: "a command queue that works", last: state.into() })
            }
        }
    }

    /// The position behind everything that is reserved: nothing from there on can have been consumed.
    pub(crate) fn reserved(&self) -> u64 {
        self.tail.load(Ordering::Acquire) & !OWNED
    }

    /// Queues a run of commands, and a sync if asked for, once there is room. Answers the position of the first.
    pub(crate) fn push_waiting(&self, commands: &[Command], sync: bool) -> Result<u64, SyncError> {
        let (mut failed, mut last, mut full) = (None, 0, false);
        let pushed = self.wait_until(|_| {
            // Looked first: who was kept from looking until the limit was over (an interrupt, another's turn) finds the room that there is by now.
            if full {
                last = self.look();
            }
            full = true;
            match self.push(commands, sync) {
                Ok(first) => first,
                Err(error) => {
                    failed = Some(error);
                    Some(0)
                }
            }
        });
        match (failed, pushed) {
            (Some(error), _) => Err(error),
            (None, Some(first)) => Ok(first),
            (None, None) => {
                Err(SyncError::Timeout { waiting_for: "room in the command queue", last: last.into() })
            }
        }
    }

    /// Polls `ready` until it answers; none if it does not in as long as hardware may take. It is told when it is asked for the last time. A queue that stood still until somebody put an
    /// error right has all of its time from then on: that can be the last look of who was kept from looking.
    pub(crate) fn wait_until<T>(&self, mut ready: impl FnMut(bool) -> Option<T>) -> Option<T> {
        loop {
            let repairs = self.repairs.load(Ordering::Acquire);
            let waited = wait_for(&*self.platform, self.limit_ns, || ready(false)).ok();
            let waited = waited.or_else(|| ready(true));
            if waited.is_some() || self.repairs.load(Ordering::Acquire) == repairs {
                return waited;
            }
        }
    }

    /// One try to queue a run of commands, and a sync if asked for; none if there is no room.
    fn push(&self, commands: &[Command], sync: bool) -> Result<Option<u64>, SyncError> {
        let gate = &self.gates[self.platform.current_cpu() % self.gates.len()];
        let _interrupts_are_out = gate.lock();
        self.usable()?;
        let count = commands.len() as u64 + u64::from(sync);
        let Some((first, owner)) = self.reserve(count) else { return Ok(None) };
        for (position, &command) in (first..).zip(commands) {
            self.write(position, command);
        }
        if sync {
            let position = first + commands.len() as u64;
            self.write(position, self.sync_command(position));
        }
        if !mutant!("commands-published-without-barrier") {
            self.platform.write_barrier();
        }
        self.mark_valid(first..first + count);
        if owner {
            self.publish(first)?;
        }
        Ok(Some(first))
    }

    /// Reserves `count` slots. Answers the first position and whether the caller is now the owner; none if there is no room.
    fn reserve(&self, count: u64) -> Option<(u64, bool)> {
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            let first = tail & !OWNED;
            // Acquire: what was seen consumed is not written over before. It may lie beyond `first`: who was away since he read that finds in the exchange that others
            // have been here.
            let waiting = first.saturating_sub(self.head.load(Ordering::Acquire));
            let room = self.ring.len() << u32::from(mutant!("full-queue-written-over"));
            if waiting + count > room {
                return None;
            }
            let next = (first + count) | OWNED;
            match self.tail.compare_exchange_weak(tail, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some((first, tail & OWNED == 0)),
                Err(found) => tail = found,
            }
        }
    }

    fn write(&self, position: u64, command: Command) {
        self.counters.command(command);
        if self.platform.listening() {
            let name = command.opcode().name().unwrap_or("unknown");
            self.platform.event(&Event {
                source: "smmuv3",
                name: "cmd",
                fields: &[
                    ("op", Value::Str(name)),
                    ("word0", Value::Hex(command.0[0])),
                    ("word1", Value::Hex(command.0[1])),
                ],
            });
        }
        self.answers.keep(&self.ring, position, command);
        self.store(position, command);
    }

    pub(crate) fn store(&self, position: u64, command: Command) {
        let at = self.ring.address(position);
        self.platform.store(at, command.0[0]);
        self.platform.store(Pa::new(at.get() + 8), command.0[1]);
        if !self.coherent {
            self.platform.clean_table(at, 1 << ENTRY_LG2);
        }
    }

    /// The sync for this position. Its word in memory is set to what it is not.
    fn sync_command(&self, position: u64) -> Command {
        match self.signal(position) {
            Some(word) => {
                self.platform.store(word, u64::from(signal_value(position).wrapping_sub(1)));
                Command::sync_with_msi(word.get(), signal_value(position))
            }
            None => Command::sync(),
        }
    }

    pub(crate) fn signal(&self, position: u64) -> Option<Pa> {
        let words = self.signals?;
        Some(Pa::new(words.get() + ((self.ring.slot(position) as u64) << SIGNAL_LG2)))
    }

    /// Marks slots valid: flips their bits, which then hold the lap.
    fn mark_valid(&self, positions: core::ops::Range<u64>) {
        let mut position = positions.start;
        while position < positions.end {
            let slot = self.ring.slot(position);
            let in_word = (64 - slot % 64).min(self.ring.slots() - slot) as u64;
            let count = in_word.min(positions.end - position);
            let bits = (u64::MAX >> (64 - count)) << (slot % 64);
            self.valid[slot / 64].fetch_xor(bits, Ordering::Release);
            position += count;
        }
    }

    fn is_valid(&self, position: u64) -> bool {
        let slot = self.ring.slot(position);
        let bit = self.valid[slot / 64].load(Ordering::Acquire) >> (slot % 64) & 1;
        (bit == 1) == self.ring.lap(position)
    }

    /// What the owner does: tells the hardware of everything that is reserved, once it is all there.
    ///
    /// The waits are for other CPUs that are in the middle of `push`, with interrupts out.
    fn publish(&self, first: u64) -> Result<(), SyncError> {
        self.wait_for_cpus(|| self.published.load(Ordering::Acquire) == first)?;
        let end = self.tail.fetch_and(!OWNED, Ordering::AcqRel) & !OWNED;
        let mut position = first;
        self.wait_for_cpus(|| {
            while position < end && self.is_valid(position) {
                position += 1;
            }
            position == end
        })?;
        if !mutant!("commands-published-without-barrier") {
            self.platform.write_barrier();
        }
        self.registers.write32(CMDQ_PROD, self.ring.index(end));
        self.published.store(end, Ordering::Release);
        Ok(())
    }

    fn wait_for_cpus(&self, mut ready: impl FnMut() -> bool) -> Result<(), SyncError> {
        let mut wait = || {
            wait_for(&*self.platform, self.limit_ns, || {
                if ready() {
                    return Some(Ok(()));
                }
                self.usable().err().map(Err)
            })
        };
        // Twice: if the machine as a whole stood still, the time is over at once, and the others have had none of it.
        wait().or_else(|_| wait()).unwrap_or_else(|elapsed| {
            // A producer is gone with slots that nobody will fill: nothing behind them can ever be published.
            self.kill();
            Err(SyncError::Timeout { waiting_for: "another producer's commands", last: elapsed.waited_ns })
        })
    }
}

/// Somebody who looks at the words in which syncs are signalled.
#[must_use]
pub(crate) struct Looker<'q>(&'q AtomicU64);

impl Drop for Looker<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What the sync at this position writes: never what an untouched word holds.
#[expect(clippy::cast_possible_truncation, reason = "compared with wrapping")]
pub(crate) fn signal_value(position: u64) -> u32 {
    (position as u32).wrapping_add(1)
}

#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;
