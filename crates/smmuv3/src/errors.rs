//! Global errors: what the hardware reports outside its queues, and how the driver goes on.
//!
//! | error | what is done |
//! |---|---|
//! | answer to a device refused | it is sent again [`TRIES`] times, in its slot; then it is lost, and that is told |
//! | other command illegal | its slot is filled with a CMD_SYNC that signals nobody, and the queue goes on; the batch it was in fails |
//! | ATC invalidation timed out | the sync is run again; every batch that asked an ATC before it fails, whose command it was being unknown |
//! | command not fetched | the fetch is tried again [`TRIES`] times; then the queue is dead and says so |
//! | queue or MSI aborted | told, acknowledged; groups of page requests that were begun are forgotten (`page_requests`) |
//! | service failure | told, acknowledged; the command queue is dead |
//!
//! Everybody who waits for the command queue may call [`CommandQueue::recover`], from any CPU; the log of failures is also the lock that
//! lets one do it. What was found is kept until `handle_errors` is called: of refused commands the first [`KEPT`], of everything else each kind.
//!
//! Records of stalled transactions can be lost when the event queue is aborted. Who is told of that must block the devices that stall, which ends
//! their stalls, whoever they are, and lead them nowhere else before what they had under way is over, which only their drivers know ([`GlobalError::QueueAbort`]).
//!
//! Hardware writes nothing into an aborted queue until that is acknowledged. So what follows from an abort is noted before: what comes after it is told from what came before.
//!
//! Spec: SMMUv3 H.a, 7.1 "Command queue errors", 7.2.2 "Event queue access external abort", 7.5 "Global error recording".

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use portcullis_core::iommu::GlobalError;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::registers::{
    CERROR_ABT, CERROR_ATC_INV_SYNC, CMDQ_CONS, CmdqCons, GERROR, GERRORN, Gerror, PRIQ_PROD, QueueIndex,
};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::command_queue::CommandQueue;
use crate::hardware::Hardware;

/// How often in a row fetching the same command may fail, and how often an answer is sent again.
const TRIES: u32 = 3;
/// How many failures are remembered one by one, for those whose batches they were in.
const REMEMBERED: usize = 64;
/// What the PRI queue is called when it was aborted.
const PRI_QUEUE: &str = "PRI queue";
/// How many refused commands are kept for `handle_errors`.
const KEPT: usize = 64;

/// Which commands failed, and what is to be told about it.
#[derive(Debug)]
pub(crate) struct Failures {
    recent: VecDeque<Failure>,
    /// Failures at positions before this one may have been forgotten.
    forgotten_before: u64,
    /// The last position at which something was tried again, and how often in a row.
    again: (u64, u32),
    /// The last position at which the queue stood still, and how often in a row.
    stood_still: (u64, u32),
    untold: Vec<GlobalError>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    position: u64,
    code: u8,
}

impl Failures {
    pub(crate) fn new() -> Self {
        Self {
            recent: VecDeque::with_capacity(REMEMBERED),
            forgotten_before: 0,
            again: (u64::MAX, 0),
            stood_still: (u64::MAX, 0),
            untold: Vec::new(),
        }
    }

    /// Why a batch from `first` to the sync at `sync` proves nothing; none if it proves what it should. `atc` says whether the batch asked ATCs: the
    /// sync of one that did not has waited, when run again, for all that was to be waited for.
    pub(crate) fn code_for(&self, first: u64, sync: u64, atc: bool) -> Option<u32> {
        if first < self.forgotten_before {
            return Some(0);
        }
        let touches = |failure: &&Failure| {
            // Which of the ATC invalidations before the sync timed out is unknown: it may be anybody's.
            let touched = if failure.code == CERROR_ATC_INV_SYNC { atc } else { failure.position <= sync };
            first <= failure.position && touched
        };
        self.recent.iter().find(touches).map(|failure| failure.code.into())
    }

    fn remember(&mut self, position: u64, code: u8) {
        if self.recent.len() == REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten_before = self.forgotten_before.max(oldest.position + 1);
        }
        self.recent.push_back(Failure { position, code });
    }

    /// Whether something at this position may be tried once more.
    fn try_again(&mut self, position: u64) -> bool {
        Self::once_more(&mut self.again, position) <= TRIES
    }

    /// Whether a queue that stands still at this position may go on once it is put right: after all tries its command was replaced, and nothing more can be done for it there.
    fn goes_on(&mut self, position: u64) -> bool {
        Self::once_more(&mut self.stood_still, position) <= TRIES + 1
    }

    fn once_more(last: &mut (u64, u32), position: u64) -> u32 {
        let times = if last.0 == position { last.1.saturating_add(1) } else { 1 };
        *last = (position, times);
        times
    }

    /// Keeps an error for `handle_errors`. However many commands were refused, what somebody must act upon is not lost among them.
    pub(crate) fn tell(&mut self, error: GlobalError) {
        let is_command = matches!(error, GlobalError::Command { .. });
        let kept = if is_command { self.untold.len() < KEPT } else { !self.untold.contains(&error) };
        if kept {
            self.untold.push(error);
        }
    }
}

impl<P: Platform, R: Registers> CommandQueue<P, R> {
    /// If a command error stops the queue, puts it right and lets the queue go on. Answers whether there was one.
    pub(crate) fn recover(&self) -> bool {
        let mut failures = self.failures.lock();
        if self.usable().is_err() {
            return false;
        }
        let acknowledged = Gerror::from_bits(self.registers.read32(GERRORN));
        let errors = Gerror::from_bits(self.registers.read32(GERROR));
        if errors.cmdq_err() == acknowledged.cmdq_err() {
            return false;
        }
        let cons = CmdqCons::from_bits(self.registers.read32(CMDQ_CONS));
        if !self.put_right(&mut failures, cons) {
            return false;
        }
        // The new command and the count of failures are there before the queue goes on.
        self.platform.write_barrier();
        self.registers.write32(GERRORN, acknowledged.with_cmdq_err(errors.cmdq_err()).into_bits());
        true
    }

    /// Deals with the command at `cons.rd()`. Answers whether the queue may go on.
    fn put_right(&self, failures: &mut Failures, cons: CmdqCons) -> bool {
        let Some(position) = self.waiting_position(cons.rd()) else {
            // The index is nonsense: there is no command to skip, and nobody can say which of all that are there has failed.
            failures.forgotten_before = self.reserved();
            self.failure_count.fetch_add(1, AcqRel);
            failures.tell(GlobalError::Command { code: cons.err().into(), words: [0; 2] });
            return true;
        };
        if failures.goes_on(position) {
            self.repairs.fetch_add(1, AcqRel);
        }
        let at = self.ring.address(position);
        let words = [self.platform.load(at), self.platform.load(Pa::new(at.get() + 8))];
        if cons.err() == CERROR_ABT {
            if failures.try_again(position) {
                return true;
            }
            failures.tell(GlobalError::QueueAbort("command queue"));
            self.kill();
            return false;
        }
        let answer = self.answers.at(&self.ring, position).filter(|_| !mutant!("refused-answer-dropped"));
        match answer {
            // Nothing happened yet, and nobody's batch has lost anything.
            Some(answer) if failures.try_again(position) => self.store(position, answer),
            _ => {
                if cons.err() != CERROR_ATC_INV_SYNC {
                    self.store(position, Command::sync());
                }
                failures.remember(position, cons.err());
            }
        }
        failures.tell(GlobalError::Command { code: cons.err().into(), words });
        self.failure_count.fetch_add(1, AcqRel);
        self.counters.command_errors.fetch_add(1, Relaxed);
        self.platform.event(&Event {
            source: "smmuv3",
            name: "cmd_error",
            fields: &[
                ("code", Value::Dec(cons.err().into())),
                ("op", Value::Str(Command(words).opcode().name().unwrap_or("unknown"))),
                ("word0", Value::Hex(words[0])),
                ("word1", Value::Hex(words[1])),
            ],
        });
        true
    }

    /// Repairs and acknowledges every global error that is active, and answers what was found since the last call. `before` is told which are active, those of the command queue left
    /// out, before they are acknowledged.
    pub(crate) fn handle_errors(&self, before: impl FnOnce(Gerror)) -> Vec<GlobalError> {
        // Every recovery skips one command: there cannot be more than the queue is long.
        for _ in 0..self.ring.len() {
            if !self.recover() {
                break;
            }
        }
        let mut failures = self.failures.lock();
        let acknowledged = Gerror::from_bits(self.registers.read32(GERRORN));
        let errors = Gerror::from_bits(self.registers.read32(GERROR));
        let active = Gerror::from_bits(errors.into_bits() ^ acknowledged.into_bits()).with_cmdq_err(false);
        if active.into_bits() != 0 {
            self.note(&mut failures, active);
            before(active);
            self.registers.write32(GERRORN, acknowledged.into_bits() ^ active.into_bits());
        }
        core::mem::take(&mut failures.untold)
    }

    fn note(&self, failures: &mut Failures, active: Gerror) {
        let found = [
            (active.eventq_abt_err(), GlobalError::QueueAbort("event queue")),
            (active.priq_abt_err(), GlobalError::QueueAbort(PRI_QUEUE)),
            (active.msi_cmdq_abt_err(), GlobalError::MsiAbort("CMD_SYNC")),
            (active.msi_eventq_abt_err(), GlobalError::MsiAbort("event queue")),
            (active.msi_priq_abt_err(), GlobalError::MsiAbort("PRI queue")),
            (active.msi_gerror_abt_err(), GlobalError::MsiAbort("global errors")),
            (active.sfm_err(), GlobalError::ServiceFailure),
        ];
        found.into_iter().filter(|&(there, _)| there).for_each(|(_, error)| failures.tell(error));
        if active.sfm_err() {
            self.kill();
        }
        self.platform.event(&Event {
            source: "smmuv3",
            name: "gerror",
            fields: &[("active", Value::Hex(active.into_bits().into()))],
        });
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Notes what may have been lost with queues that are aborted, while hardware writes nothing into them.
    ///
    /// Spec: SMMUv3 H.a, 7.2.2 "Event queue access external abort", 8.2 "Miscellaneous".
    pub(crate) fn note_losses(&self, active: Gerror) {
        if let Some(queue) = self.page_requests.as_ref().filter(|_| active.priq_abt_err()) {
            queue.requests_were_lost(QueueIndex::from_bits(self.registers.read32(PRIQ_PROD)).index());
        }
        if active.eventq_abt_err() {
            self.stalls.records_were_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_spec::smmuv3::registers::CERROR_ILL;

    #[test]
    fn a_failure_touches_the_batches_around_it_and_no_other() {
        let mut failures = Failures::new();
        failures.remember(10, CERROR_ILL);
        assert_eq!(failures.code_for(8, 12, false), Some(1));
        assert_eq!(failures.code_for(10, 10, false), Some(1));
        assert_eq!(failures.code_for(11, 14, false), None);
        assert_eq!(failures.code_for(4, 9, false), None);
    }

    #[test]
    fn an_atc_timeout_touches_everybody_who_asked_an_atc_before_it() {
        let mut failures = Failures::new();
        failures.remember(10, CERROR_ATC_INV_SYNC);
        assert_eq!(failures.code_for(4, 9, true), Some(3));
        assert_eq!(failures.code_for(11, 14, true), None);
        assert_eq!(failures.code_for(4, 12, false), None, "who asked no device has nothing to fear from one");
    }

    #[test]
    fn however_many_commands_were_refused_every_other_error_is_told() {
        let mut failures = Failures::new();
        let refused = GlobalError::Command { code: CERROR_ILL.into(), words: [0; 2] };
        (0..KEPT + 1).for_each(|_| failures.tell(refused));
        let others = [
            GlobalError::QueueAbort(PRI_QUEUE),
            GlobalError::QueueAbort("event queue"),
            GlobalError::ServiceFailure,
        ];
        (0..KEPT).for_each(|_| others.into_iter().for_each(|error| failures.tell(error)));
        assert_eq!(failures.untold.len(), KEPT + others.len(), "each kind once");
        assert_eq!(failures.untold[KEPT..], others);
    }

    #[test]
    fn what_is_forgotten_counts_as_failed() {
        let mut failures = Failures::new();
        (0..REMEMBERED as u64 + 1).for_each(|at| failures.remember(100 + 10 * at, CERROR_ILL));
        assert_eq!(failures.code_for(101, 105, false), None);
        assert_eq!(failures.code_for(100, 105, false), Some(0));
    }
}
