//! Everything the model remembers, behind its one lock.

use model_bus::{Dice, Fabric, Notes};
use portcullis_types::trace::{Event, Sink, Value};

use crate::bank::Residue;
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::{Asked, FaultKind};
use crate::lines::Levels;
use crate::maintenance::{Issuer, Maintenance, Scope};
use crate::registers::{Registers, cr0};
use crate::stall::Stalls;
use crate::tlb::Tlb;
use crate::walk::Engine;

/// What surrounds the state, and is not behind the lock.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    pub(crate) fabric: &'a dyn Fabric,
    pub(crate) sink: &'a dyn Sink,
}

impl Around<'_> {
    pub(crate) fn trace(&self, name: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if self.sink.listening() {
            self.sink.event(&Event { source: crate::SOURCE, name, fields });
        }
    }
}

/// Which TLBs have been invalidated whole since reset: of HYPC banks, and of all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Initial {
    pub(crate) guests: Residue,
    pub(crate) hypervisor: Residue,
}

impl Default for Initial {
    fn default() -> Self {
        Self { guests: Residue::MayBeCached, hypervisor: Residue::MayBeCached }
    }
}

impl Initial {
    /// An operation was posted. It has done its work when it is synchronized.
    pub(crate) fn posted(&mut self, scope: &Scope, serial: u64, from: Issuer) {
        let residue = match scope {
            Scope::AllNonHypervisor => &mut self.guests,
            Scope::AllHypervisor => &mut self.hypervisor,
            _ => return,
        };
        if *residue == Residue::MayBeCached {
            *residue = Residue::Posted(serial, from);
        }
    }
}

pub(crate) struct State {
    pub(crate) registers: Registers,
    pub(crate) tlb: Tlb,
    pub(crate) maintenance: Maintenance,
    pub(crate) stalls: Stalls,
    pub(crate) notes: Notes,
    pub(crate) counters: Counters,
    pub(crate) dice: Dice,
    pub(crate) initial: Initial,
    /// The banks and the address of the last access that was let through, to guess what will be next.
    pub(crate) last: Option<(u8, Option<u8>, Asked)>,
}

impl State {
    pub(crate) fn new(config: &Config, seed: u64, notes: Notes) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            registers: Registers::new(config, &mut dice),
            tlb: Tlb::default(),
            maintenance: Maintenance::default(),
            stalls: Stalls::default(),
            notes,
            counters: Counters::default(),
            dice,
            initial: Initial::default(),
            last: None,
        }
    }

    /// Back to what it is out of reset. Counters, the list of what was wrong, the dice, and stalls' numbers stay.
    pub(crate) fn reset(&mut self, config: &Config) {
        self.registers = Registers::new(config, &mut self.dice);
        self.tlb = Tlb::default();
        self.maintenance = Maintenance::default();
        self.stalls.abort_all();
        self.initial = Initial::default();
        self.last = None;
    }

    /// The engine on the state's own caches.
    pub(crate) fn engine<'a>(&'a mut self, around: Around<'a>) -> Engine<'a> {
        Engine {
            config: around.config,
            fabric: around.fabric,
            tlb: &mut self.tlb,
            notes: &mut self.notes,
            counters: &mut self.counters,
            fresh: false,
            demand: true,
        }
    }

    /// Which interrupt lines are asserted. Spec: SMMUv2 D.c, 3.6.3 "Interrupt assertion".
    pub(crate) fn levels(&self) -> Levels {
        let access = FaultKind::ConfigurationAccess.global_bit();
        let gfsr = self.registers.gfsr;
        let contexts = self
            .registers
            .banks
            .iter()
            .enumerate()
            .filter(|(_, bank)| bank.interrupts())
            .fold(0, |levels, (index, _)| levels | 1u128 << index);
        Levels {
            global: self.registers.is_on(cr0::GFIE) && gfsr & !access != 0,
            configuration: self.registers.is_on(cr0::GCFGFIE) && gfsr & access != 0,
            contexts,
        }
    }
}
