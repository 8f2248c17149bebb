//! Everything the model remembers, behind its one lock.

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, Ordering};

use model_bus::{Dice, Fabric, Notes};
use portcullis_types::trace::{Event as TraceEvent, Sink, Value};

use crate::atc::AtcInvalidations;
use crate::broadcast::Broadcast;
use crate::command::{Completion, Invalidate};
use crate::config::Config;
use crate::counters::Counters;
use crate::cr::{PTM, SMMUEN};
use crate::downstream::Outgoing;
use crate::engine::{Caches, Engine, Setup};
use crate::event::Record;
use crate::micro::Micro;
use crate::registers::Registers;
use crate::stall::Stalls;

/// What surrounds the state, and is not behind the lock.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) traffic: &'a Traffic,
}

impl Around<'_> {
    pub(crate) fn trace(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&TraceEvent { source: crate::SOURCE, name, fields });
        }
    }
}

/// What is under way outside the lock.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Accesses let through whose bytes are still moving, in two halves: a CMD_SYNC turns to the other half, and waits for
    /// the first to run dry. Accesses are counted in under the lock, so that none slips into the half that is waited for.
    under_way: [AtomicU32; 2],
    /// Messages, to memory and to devices, taken out of the state and not yet sent.
    messages: AtomicU32,
}

impl Traffic {
    pub(crate) fn enter(&self, half: usize) -> Access<'_> {
        let count = &self.under_way[half & 1];
        count.fetch_add(1, Ordering::Relaxed);
        Access(count)
    }

    pub(crate) fn is_dry(&self, half: usize) -> bool {
        self.under_way[half & 1].load(Ordering::Acquire) == 0
    }

    pub(crate) fn take_messages(&self, count: u32) {
        self.messages.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn message_written(&self) {
        self.messages.fetch_sub(1, Ordering::Release);
    }

    pub(crate) fn has_messages(&self) -> bool {
        self.messages.load(Ordering::Acquire) != 0
    }
}

/// An access that is under way; gone when dropped.
pub(crate) struct Access<'a>(&'a AtomicU32);

impl Drop for Access<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// An interrupt of the SMMU on its way to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
    /// The bit of GERROR that says that it could not be written.
    pub(crate) failure: u32,
}

/// Interrupt lines: edges that rose since they were last taken. A part without messages has nothing else; one with messages
/// may be wired, too.
///
/// Spec: SMMUv3 H.a, 3.18 "Interrupts and notifications".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The event queue is no longer empty.
    pub event: bool,
    /// The PRI queue has something to say, as PRIQ_IRQ_CFG2.LO has it.
    pub page_request: bool,
    /// A global error became active.
    pub gerror: bool,
    /// A CMD_SYNC with CS=1 completed.
    pub sync: bool,
}

/// An invalidation that was consumed, and may wait for the CMD_SYNC behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Tlb(Invalidate),
    Ste { stream: u32, leaf: bool },
    SteRange { stream: u32, range: u32 },
    Cd { stream: u32, substream: u32, leaf: bool },
    CdAll { stream: u32 },
}

impl Pending {
    /// The streams whose entries it invalidates.
    pub(crate) fn streams(&self) -> Option<RangeInclusive<u32>> {
        match *self {
            Self::Ste { stream, .. } => Some(stream..=stream),
            Self::SteRange { stream, range } => {
                let within = u32::MAX >> (31 - range.min(31));
                Some(stream & !within..=stream | within)
            }
            _ => None,
        }
    }
}

/// A CMD_SYNC at the head of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sync {
    pub(crate) completion: Completion,
    /// The half of the traffic that must run dry.
    pub(crate) half: usize,
}

/// Which caches have been invalidated whole since reset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Invalidated {
    pub(crate) configuration: bool,
    pub(crate) translations: bool,
}

/// Accesses until the hardware does something of its own accord.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mischief {
    pub(crate) evict: u32,
    pub(crate) prefetch: u32,
    pub(crate) audit: u32,
    /// Accesses left until one of them is due.
    pub(crate) quiet: u32,
    /// What `quiet` was when it was set.
    pub(crate) span: u32,
}

pub(crate) struct State {
    pub(crate) registers: Registers,
    pub(crate) setup: Setup,
    pub(crate) caches: Caches,
    pub(crate) micro: Micro,
    pub(crate) notes: Notes,
    pub(crate) counters: Counters,
    pub(crate) dice: Dice,
    pub(crate) pending: Vec<Pending>,
    pub(crate) sync: Option<Sync>,
    /// Into which half of the traffic new accesses are counted.
    pub(crate) half: usize,
    /// The command queue's indexes contradicted each other: nothing is consumed until it is disabled.
    pub(crate) stuck: bool,
    pub(crate) atc: AtcInvalidations,
    pub(crate) outbox: Vec<Outgoing>,
    pub(crate) lines: Lines,
    pub(crate) late_events: Vec<(u32, Record)>,
    pub(crate) stalls: Stalls,
    /// CR2.PTM was 0 when SMMUEN was last set, and there are broadcasts at all.
    pub(crate) participates: bool,
    /// Broadcast operations that wait.
    pub(crate) broadcasts: Vec<Broadcast>,
    /// Streams whose configuration was invalidated since the last CMD_SYNC.
    pub(crate) unsynced: Vec<RangeInclusive<u32>>,
    pub(crate) invalidated: Invalidated,
    pub(crate) mischief: Mischief,
    /// The stream that asked last, or that CMD_CFGI_STE named since, to guess who will ask next.
    pub(crate) last_stream: u32,
}

impl State {
    pub(crate) fn new(config: &Config, seed: u64, notes: Notes) -> Self {
        let mut state = Self {
            registers: Registers::new(),
            setup: Setup::default(),
            caches: Caches::default(),
            micro: Micro::new(),
            notes,
            counters: Counters::default(),
            dice: Dice::new(seed),
            pending: Vec::new(),
            sync: None,
            half: 0,
            stuck: false,
            atc: AtcInvalidations::default(),
            outbox: Vec::new(),
            lines: Lines::default(),
            late_events: Vec::new(),
            stalls: Stalls::default(),
            participates: false,
            broadcasts: Vec::new(),
            unsynced: Vec::new(),
            invalidated: Invalidated::default(),
            mischief: Mischief { evict: 0, prefetch: 0, audit: 0, quiet: u32::MAX, span: u32::MAX },
            last_stream: 0,
        };
        // 6.3.12: "Arm recommends PTM is reset to 1 where it is supported, but software cannot rely on this value."
        if config.broadcast {
            state.registers.cr2 = PTM;
        }
        state.plan_mischief(config);
        state
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.registers.cr0.is_on(SMMUEN)
    }

    /// The engine on the state's own caches.
    pub(crate) fn engine<'a>(&'a mut self, around: Around<'a>) -> Engine<'a> {
        Engine {
            config: around.config,
            setup: self.setup,
            fabric: around.fabric,
            caches: &mut self.caches,
            notes: &mut self.notes,
            counters: &mut self.counters,
            fresh: false,
            demand: true,
        }
    }
}
