//! Everything the model remembers, behind its one lock.

use std::collections::VecDeque;

use model_bus::{Dice, Fabric, Flights, Notes};
use portcullis_types::trace::{Event, Sink, Value};

use crate::cache::TceCache;
use crate::config::Config;
use crate::counters::Counters;
use crate::freeze::Freezes;
use crate::message::{Interrupt, Ivc};
use crate::posted::Posted;
use crate::registers::Registers;
use crate::rtc::Rtc;
use crate::tables::Tables;
use crate::walk::Walker;
use crate::xscom::Xscom;

/// What surrounds the state, and is not behind the lock.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) flights: &'a Flights,
}

impl Around<'_> {
    pub(crate) fn trace(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: crate::SOURCE, name, fields });
        }
    }
}

pub(crate) struct State {
    pub(crate) registers: Registers,
    pub(crate) tables: Tables,
    pub(crate) xscom: Xscom,
    pub(crate) freezes: Freezes,
    pub(crate) rtc: Rtc,
    pub(crate) cache: TceCache,
    pub(crate) ivc: Ivc,
    pub(crate) notes: Notes,
    pub(crate) counters: Counters,
    pub(crate) dice: Dice,
    /// Stores that have not taken effect, with the ticks that are left.
    pub(crate) posted: VecDeque<(Posted, u32)>,
    /// Accesses with smaller numbers began before the last change of what accesses may do.
    pub(crate) fence: u64,
    /// The same for DMARD_SYNC, once it was started.
    pub(crate) sync: Option<u64>,
    pub(crate) interrupts: VecDeque<Interrupt>,
}

impl State {
    pub(crate) fn new(config: &Config, seed: u64, notes: Notes) -> Self {
        Self {
            registers: Registers::new(config.version),
            tables: Tables::new(),
            xscom: Xscom::new(),
            freezes: Freezes::new(),
            rtc: Rtc::default(),
            cache: TceCache::default(),
            ivc: Ivc::default(),
            notes,
            counters: Counters::default(),
            dice: Dice::new(seed),
            posted: VecDeque::new(),
            fence: 0,
            sync: None,
            interrupts: VecDeque::new(),
        }
    }

    /// What a reset of the bridge leaves of it: not the chip's side, nor what was counted and noted.
    pub(crate) fn reset(&mut self, around: Around<'_>) {
        let fresh = Self::new(around.config, 0, Notes::discarded());
        let old = core::mem::replace(self, fresh);
        self.xscom = old.xscom;
        self.notes = old.notes;
        self.counters = old.counters;
        self.dice = old.dice;
        self.interrupts = old.interrupts;
        self.fence = around.flights.next();
    }

    /// Whether the bridge answers by memory, and lets devices through.
    pub(crate) fn is_open(&self) -> bool {
        !self.xscom.fenced() && !self.xscom.in_reset()
    }

    /// The walker on the state's own caches.
    pub(crate) fn walker<'a>(&'a mut self, around: Around<'a>) -> Walker<'a> {
        Walker {
            registers: &self.registers,
            tables: &self.tables,
            fabric: around.fabric,
            rtc: &mut self.rtc,
            cache: &mut self.cache,
            notes: &mut self.notes,
            counters: &mut self.counters,
            policy: &around.config.policy,
        }
    }
}
