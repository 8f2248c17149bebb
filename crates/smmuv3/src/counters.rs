//! What the driver did, in numbers.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_spec::smmuv3::command::{Command, Opcode};

const OPCODES: usize = 0x50;

/// Counters that every CPU adds to.
#[derive(Debug)]
pub(crate) struct Counters {
    commands: [AtomicU64; OPCODES],
    pub(crate) events: AtomicU64,
    pub(crate) event_overflows: AtomicU64,
    pub(crate) command_errors: AtomicU64,
    pub(crate) page_requests: AtomicU64,
    pub(crate) page_request_overflows: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            commands: [const { AtomicU64::new(0) }; OPCODES],
            events: AtomicU64::new(0),
            event_overflows: AtomicU64::new(0),
            command_errors: AtomicU64::new(0),
            page_requests: AtomicU64::new(0),
            page_request_overflows: AtomicU64::new(0),
        }
    }

    pub(crate) fn command(&self, command: Command) {
        if let Some(count) = self.commands.get(usize::from(command.opcode().0)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Counts {
        Counts {
            commands: core::array::from_fn(|opcode| self.commands[opcode].load(Relaxed)),
            events: self.events.load(Relaxed),
            event_overflows: self.event_overflows.load(Relaxed),
            command_errors: self.command_errors.load(Relaxed),
            page_requests: self.page_requests.load(Relaxed),
            page_request_overflows: self.page_request_overflows.load(Relaxed),
        }
    }
}

/// What the driver did since probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    commands: [u64; OPCODES],
    /// Event records taken from the queue.
    pub events: u64,
    /// How often the event queue had overflowed.
    pub event_overflows: u64,
    /// Commands that the hardware refused.
    pub command_errors: u64,
    /// Page requests taken from the PRI queue, stop markers not counted.
    pub page_requests: u64,
    /// How often the PRI queue had overflowed.
    pub page_request_overflows: u64,
}

impl Counts {
    /// Commands of this kind that were queued.
    pub fn commands(&self, opcode: Opcode) -> u64 {
        self.commands.get(usize::from(opcode.0)).copied().unwrap_or(0)
    }

    /// Syncs that were queued.
    pub fn syncs(&self) -> u64 {
        self.commands(Opcode::SYNC)
    }

    /// All commands that were queued, syncs included.
    pub fn all_commands(&self) -> u64 {
        self.commands.iter().sum()
    }

    /// Each kind of command that was queued at all, and how often.
    pub fn by_command(&self) -> impl Iterator<Item = (Opcode, u64)> + '_ {
        (0u8..)
            .zip(self.commands)
            .filter(|&(_, count)| count > 0)
            .map(|(opcode, count)| (Opcode(opcode), count))
    }

    /// What was done after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            commands: core::array::from_fn(|opcode| self.commands[opcode] - earlier.commands[opcode]),
            events: self.events - earlier.events,
            event_overflows: self.event_overflows - earlier.event_overflows,
            command_errors: self.command_errors - earlier.command_errors,
            page_requests: self.page_requests - earlier.page_requests,
            page_request_overflows: self.page_request_overflows - earlier.page_request_overflows,
        }
    }
}

/// How much memory the driver's own tables take, page tables not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableBytes {
    /// The stream table, both levels.
    pub stream_table: u64,
    /// Command queue, event queue, and the words that syncs are signalled in.
    pub queues: u64,
}
