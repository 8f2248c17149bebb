//! The controller at work: fetch, carry out, complete, interrupt.
//!
//! Only one thread works at a time, and only it moves heads, tails and phases of what the controller owns; the state is
//! locked around each change and free while the bus is used.

use model_bus::Chance;
use portcullis_types::Iova;
use portcullis_types::trace::{Event, Value};

use super::Nvme;
use super::admin::Reply;
use super::command::{Command, Completion, SQE_BYTES};
use super::queue::InFlight;
use super::registers::{CC_SHUTDOWN, CSTS_FATAL, CSTS_SHUTDOWN_DONE};
use super::state::State;
use super::status::Status;
use crate::pcie::Raised;

/// How many commands are fetched, and how many carried out, in a step at most.
const COMMANDS_PER_STEP: usize = 8;
/// How many commands are under way at most.
const IN_FLIGHT_MAX: usize = 64;

/// What belongs to whoever makes the controller work.
#[derive(Debug)]
pub(super) struct Turn {
    chance: Chance,
    /// The queue that was fetched from last.
    last_queue: usize,
}

impl Turn {
    pub(super) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), last_queue: 0 }
    }
}

impl Nvme {
    /// A step's work. Answers whether there was any.
    pub(super) fn work(&self, turn: &mut Turn) -> bool {
        let changed = self.change_state();
        // Without bus mastering nothing can be fetched, written or signalled: all of it waits.
        if !self.config.master_enabled() {
            return changed;
        }
        let mut worked = changed;
        for _ in 0..COMMANDS_PER_STEP {
            worked |= self.fetch(turn);
        }
        for _ in 0..COMMANDS_PER_STEP {
            worked |= self.carry_out(turn);
        }
        worked |= self.tell_event();
        worked |= self.interrupt();
        worked
    }

    /// Resets, becomes ready, or shuts down, as CC asks. Spec: NVMe 1.4, 7.6 "Controller Initialization and Shutdown Processing".
    fn change_state(&self) -> bool {
        let mut state = self.state();
        let name = if state.reset_due {
            state.reset();
            "reset"
        } else if state.wants_enable() {
            if state.enable() { "ready" } else { "fatal" }
        } else if state.cc & CC_SHUTDOWN != 0 && state.csts & CSTS_SHUTDOWN_DONE == 0 {
            state.csts |= CSTS_SHUTDOWN_DONE;
            "shutdown"
        } else {
            return false;
        };
        drop(state);
        self.say(name, &[]);
        true
    }

    /// Fetches one command from the next queue in turn that has one.
    fn fetch(&self, turn: &mut Turn) -> bool {
        let mut state = self.state();
        let count = state.sqs.len();
        if !state.is_running() || state.in_flight.len() >= IN_FLIGHT_MAX {
            return false;
        }
        let mut turns = (1..=count).map(|step| (turn.last_queue + step) % count);
        let waiting = |id: &usize| state.sqs[*id].as_ref().is_some_and(|queue| !queue.is_empty());
        let Some(id) = turns.find(waiting) else { return false };
        turn.last_queue = id;
        let Some(queue) = state.sqs[id].as_mut() else { return false };
        let at = queue.next();
        queue.advance();
        let generation = state.generation;
        drop(state);
        let mut bytes = [0; SQE_BYTES];
        if self.requester.read(None, at, &mut bytes).is_err() {
            self.fail("fetch", at, generation);
            return true;
        }
        self.accept(id as u16, Command::from_bytes(&bytes), generation);
        true
    }

    fn accept(&self, sq: u16, command: Command, generation: u64) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let same = |under: &InFlight| under.sq == sq && under.command.id() == command.id();
        let held = sq == 0 && state.events.is_held(command.id());
        let conflict = held || state.in_flight.iter().any(same);
        state.in_flight.push(InFlight { sq, command, conflict });
        drop(state);
        self.say_command(sq, &command);
    }

    /// Carries out a command: any of those under way, but admin commands in their order.
    fn carry_out(&self, turn: &mut Turn) -> bool {
        let mut state = self.state();
        let Some(under) = pick(&mut state, &turn.chance) else { return false };
        drop(state);
        let outcome = match under {
            InFlight { conflict: true, .. } => Err(Status::ID_CONFLICT),
            InFlight { sq: 0, .. } => self.admin_command(&under.command),
            InFlight { .. } => self.io_command(&under.command).map(Reply::Done),
        };
        // After a reset in between there is no queue to complete to, and nothing is posted.
        match outcome {
            Ok(Reply::Held) => (),
            Ok(Reply::Done(result)) => self.complete(under.sq, &under.command, Status::SUCCESS, result),
            Err(status) => self.complete(under.sq, &under.command, status, 0),
        }
        true
    }

    /// Completes `command`; one that failed also goes to the log.
    pub(super) fn complete(&self, sq: u16, command: &Command, status: Status, result: u32) {
        let phase = self.complete_id(sq, command.id(), status, result);
        if let (Some(phase), false) = (phase, status.is_success()) {
            self.state().logs.error(sq, command, phase, status);
        }
    }

    /// Posts a completion; its phase, if there was room for it.
    pub(super) fn complete_id(&self, sq: u16, command: u16, status: Status, result: u32) -> Option<bool> {
        let mut state = self.state();
        let generation = state.generation;
        let queue = state.sq(sq)?;
        let (cq, sq_head) = (queue.cq, queue.head as u16);
        let (at, phase) = state.cq(cq).filter(|cq| !cq.is_full())?.take();
        drop(state);
        let completion = Completion { result, sq_head, sq, command, phase, status };
        if self.requester.write(None, at, &completion.to_bytes()).is_err() {
            self.fail("completion", at, generation);
            return None;
        }
        self.say(
            "completion",
            &[
                ("sq", Value::Dec(u64::from(sq))),
                ("cid", Value::Dec(u64::from(command))),
                ("status", Value::Hex(u64::from(status.field()))),
            ],
        );
        Some(phase)
    }

    /// Completes a held request with an event, if there are both.
    fn tell_event(&self) -> bool {
        let mut state = self.state();
        if !state.is_running() || !state.has_room(0) {
            return false;
        }
        let Some((command, event)) = state.events.take() else { return false };
        drop(state);
        self.complete_id(0, command, Status::SUCCESS, event);
        true
    }

    /// Interrupts for the queues that got entries, after the entries are written.
    fn interrupt(&self) -> bool {
        let by_mask = !self.messages.msix_enabled();
        let mut state = self.state();
        let mask = if by_mask { state.interrupt_mask } else { 0 };
        let mut vectors = Vec::new();
        for queue in state.cqs.iter_mut().flatten().filter(|queue| queue.interrupt_due) {
            let Some(vector) = queue.vector else {
                queue.interrupt_due = false;
                continue;
            };
            if mask >> vector.min(31) & 1 == 0 {
                queue.interrupt_due = false;
                vectors.push(vector);
            }
        }
        drop(state);
        let mut worked = self.messages.flush(&self.requester);
        for vector in vectors {
            worked = true;
            let raised = self.messages.raise(vector, &self.requester);
            let word = match raised {
                Raised::Sent => "sent",
                Raised::Pending => "pending",
                Raised::Disabled => "disabled",
                Raised::Lost(_) => "lost",
            };
            let fields = &[("vector", Value::Dec(u64::from(vector))), ("message", Value::Str(word))];
            self.say("interrupt", fields);
        }
        worked
    }

    /// The controller cannot talk to the driver through its queues any more.
    /// Spec: NVMe 1.4, 9.5 "Controller Fatal Status Condition".
    fn fail(&self, during: &str, at: Iova, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.csts |= CSTS_FATAL;
        }
        drop(state);
        self.say("fatal", &[("during", Value::Str(during)), ("address", Value::Addr(at.get()))]);
    }

    fn say_command(&self, sq: u16, command: &Command) {
        let id = [("sq", Value::Dec(u64::from(sq))), ("cid", Value::Dec(u64::from(command.id())))];
        let what = ("opcode", Value::Hex(u64::from(command.opcode())));
        if sq == 0 {
            return self.say("admin_command", &[id[0], id[1], what]);
        }
        let lba = ("lba", Value::Dec(command.qword(10)));
        let blocks = ("blocks", Value::Dec(u64::from(command.cdw(12) & 0xffff) + 1));
        self.say("command", &[id[0], id[1], what, lba, blocks]);
    }

    fn say(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: "model.nvme", name, fields });
        }
    }
}

/// Takes a command out of those under way whose completion can be posted.
fn pick(state: &mut State, chance: &Chance) -> Option<InFlight> {
    if !state.is_running() {
        return None;
    }
    let mut ready: Vec<usize> = Vec::new();
    let mut admin_seen = false;
    for index in 0..state.in_flight.len() {
        let sq = state.in_flight[index].sq;
        let in_order = sq != 0 || !core::mem::replace(&mut admin_seen, true);
        if in_order && state.has_room(sq) {
            ready.push(index);
        }
    }
    let chosen = ready.get(chance.below(ready.len())).copied()?;
    Some(state.in_flight.remove(chosen))
}
