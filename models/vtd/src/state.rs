//! Everything the model remembers, behind its one lock.

use std::collections::{HashMap, VecDeque};

use model_bus::{Dice, Flights, Invalidation, Notes, PageResponse};
use portcullis_types::trace::{Event as TraceEvent, Sink, Value};

use crate::caches::Caches;
use crate::config::Config;
use crate::counters::Counters;
use crate::descriptor::Invalidate;
use crate::device_tlb::DeviceTlbs;
use crate::engine::{Engine, Root};
use crate::event::{Message, Which};
use crate::memory::Memory;
use crate::page_request::Received;
use crate::program::{Job, Waiting};
use crate::queue::Wait;
use crate::registers::{Registers, TRANSLATION};
use crate::remap::InterruptTable;

/// What surrounds the state, and is not behind the lock.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    pub(crate) memory: &'a Memory,
    pub(crate) sink: &'a dyn Sink,
    /// Accesses let through whose bytes are still moving.
    pub(crate) flights: &'a Flights,
}

impl Around<'_> {
    pub(crate) fn trace(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&TraceEvent { source: crate::SOURCE, name, fields });
        }
    }
}

/// Something to be sent when the lock is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// An interrupt of the unit's own.
    Event(Message),
    /// An invalidation, to a device.
    Invalidate(Invalidation),
    /// What became of a group of page requests, to its device.
    Respond(PageResponse),
}

/// Which global invalidation is still to come after the root table pointer was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owed {
    Nothing,
    Iotlb,
    Pasids,
    Contexts,
}

pub(crate) struct State {
    pub(crate) registers: Registers,
    pub(crate) root: Root,
    pub(crate) interrupt_table: InterruptTable,
    pub(crate) caches: Caches,
    pub(crate) notes: Notes,
    pub(crate) counters: Counters,
    pub(crate) dice: Dice,
    /// Commands under way.
    pub(crate) commands: Vec<Waiting>,
    /// Invalidations by register under way.
    pub(crate) jobs: Vec<Job>,
    /// Invalidations fetched and not yet done.
    pub(crate) pending: Vec<Invalidate>,
    /// Wait descriptors that are not complete.
    pub(crate) waits: VecDeque<Wait>,
    /// Accesses before this number are waited for by the next wait descriptor.
    pub(crate) drain: Option<u64>,
    pub(crate) tlbs: DeviceTlbs,
    pub(crate) outbox: Vec<Outgoing>,
    pub(crate) owed: Owed,
    pub(crate) interrupts_owed: bool,
    /// The fault recording register for the next fault.
    pub(crate) next_record: usize,
    /// Groups of page requests that software is to answer, by source, PASID and group: how often.
    pub(crate) groups: HashMap<(u16, Option<u32>, u16), u32>,
    /// Page requests that have arrived, and are not in the queue yet.
    pub(crate) received: VecDeque<Received>,
}

impl State {
    pub(crate) fn new(config: &Config, seed: u64, notes: Notes) -> Self {
        Self {
            registers: Registers::new(config),
            root: Root::default(),
            interrupt_table: InterruptTable::default(),
            caches: Caches::default(),
            notes,
            counters: Counters::default(),
            dice: Dice::new(seed),
            commands: Vec::new(),
            jobs: Vec::new(),
            pending: Vec::new(),
            waits: VecDeque::new(),
            drain: None,
            tlbs: DeviceTlbs::default(),
            outbox: Vec::new(),
            owed: Owed::Nothing,
            interrupts_owed: false,
            next_record: 0,
            groups: HashMap::new(),
            received: VecDeque::new(),
        }
    }

    /// TES.
    pub(crate) fn is_enabled(&self) -> bool {
        self.registers.is_on(TRANSLATION)
    }

    /// The engine on the state's own caches.
    pub(crate) fn engine<'a>(&'a mut self, around: Around<'a>) -> Engine<'a> {
        let choice = if around.config.policy.prefetch_one_in == 0 { 0 } else { self.dice.next_bits() };
        Engine {
            config: around.config,
            root: self.root,
            memory: around.memory,
            caches: &mut self.caches,
            notes: &mut self.notes,
            counters: &mut self.counters,
            choice,
            fresh: false,
        }
    }

    /// An event's condition came up.
    pub(crate) fn raise(&mut self, which: Which) {
        let message = self.registers.events.of(which).raise();
        self.outbox.extend(message.map(Outgoing::Event));
    }
}
