//! What comes from CPUs: loads and stores of registers, CONFIG_DATA, the chip's side; and the turns that time gives.
//!
//! Not here: what a register does (`program`), devices behind the bridge (`outbound`).

use std::sync::{Arc, MutexGuard, PoisonError};

use model_bus::{Clocked, Mmio, Width};

use crate::outbound::ConfigTarget;
use crate::phb::{Phb3, ones};
use crate::registers::{CA_BDFN, CA_REGISTER, CONFIG_ADDRESS, CONFIG_DATA, DLP_TRAIN_CTL, DLP_UP, RESET};
use crate::state::State;
use crate::strict::clause;
use crate::tables::RBA;
use crate::xscom::{ASB_DATA, Effect, Unit};

impl Phb3 {
    /// A load of 64 bits: what was posted before it is done, and what was under way is back.
    fn load(&self, offset: u64) -> u64 {
        let Some(mut state) = self.lock() else { return u64::MAX };
        state.do_posted(true, self.around());
        let before = state.fence.max(state.sync.unwrap_or(0));
        drop(state);
        self.flights.wait(before);
        let down = offset == DLP_TRAIN_CTL && self.target().is_some_and(|target| !target.has_link());
        let Some(mut state) = self.lock() else { return u64::MAX };
        let value = state.load(offset, self.around());
        if down { value & !DLP_UP } else { value }
    }

    fn store(&self, mut state: MutexGuard<'_, State>, offset: u64, value: u64) {
        let memory = self.accessing_memory();
        state.store(offset, value, self.around());
        drop(memory);
        drop(state);
        if offset == RESET {
            self.settle_slot();
        }
    }

    /// The function and register that CONFIG_ADDRESS names; none if it is off, the PE is frozen or freezes now, or the access is none that CONFIG_DATA takes.
    fn config_place(&self, offset: u64, width: Width, write: bool) -> Option<(u16, u16)> {
        let mut state = self.lock()?;
        let _memory = self.accessing_memory();
        state.counters.config_accesses += 1;
        let address = state.registers.get(CONFIG_ADDRESS);
        let fits = width != Width::Bits64 && offset.is_multiple_of(width.bytes());
        if !fits {
            state.notes.record(clause::REGISTER_WIDTH, format!("CONFIG_DATA with {} bytes", width.bytes()));
        }
        let reachable = fits && state.admits_config(write, self.around());
        let register = CA_REGISTER.get(address) & !3 | offset & 3;
        reachable.then_some((CA_BDFN.get(address) as u16, register as u16))
    }

    pub(crate) fn target(&self) -> Option<Arc<dyn ConfigTarget>> {
        self.target.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether an access is of the only width that registers have.
fn fits(state: &mut State, offset: u64, width: Width, what: &str) -> bool {
    let fits = width == Width::Bits64 && offset.is_multiple_of(8);
    if !fits {
        let detail = format!("{what} of {} bytes at {offset:#x}", width.bytes());
        state.notes.record(clause::REGISTER_WIDTH, detail);
    }
    fits
}

impl Mmio for Phb3 {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(mut state) = self.lock() else { return ones(width) };
        state.counters.register_reads += 1;
        if offset & !3 == CONFIG_DATA {
            drop(state);
            let place = self.config_place(offset, width, false);
            return match place.zip(self.target()) {
                Some(((rid, register), target)) => target.read(rid, register, width) & ones(width),
                None => ones(width),
            };
        }
        if !state.is_open() || !fits(&mut state, offset, width, "load") {
            return ones(width);
        }
        drop(state);
        self.load(offset)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(mut state) = self.lock() else { return };
        state.counters.register_writes += 1;
        let open = state.is_open();
        if !open {
            state.notes.record(clause::FENCED, format!("store of {value:#x} at {offset:#x}"));
        }
        if offset & !3 == CONFIG_DATA {
            drop(state);
            let place = self.config_place(offset, width, true);
            if let Some(((rid, register), target)) = place.zip(self.target()) {
                target.write(rid, register, width, value & ones(width));
            }
        } else if open && fits(&mut state, offset, width, "store") {
            self.store(state, offset, value);
        }
    }
}

impl Clocked for Phb3 {
    fn step(&self, _now_ns: u64) -> bool {
        let Some(mut state) = self.lock() else { return false };
        let _memory = self.accessing_memory();
        let around = self.around();
        let posted = state.tick_posted(around);
        posted | state.present_rejected(around)
    }

    fn is_idle(&self) -> bool {
        self.lock().is_some_and(|state| state.posted.is_empty() && state.tables.is_clear(RBA))
    }
}

/// A run of the chip's registers.
pub(crate) struct Scom {
    pub(crate) phb: Arc<Phb3>,
    pub(crate) unit: Unit,
}

impl Mmio for Scom {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(mut state) = self.phb.lock() else { return ones(width) };
        if !fits(&mut state, offset, width, "XSCOM load") {
            return ones(width);
        }
        if self.unit == Unit::Spci && offset / 8 == ASB_DATA {
            let (address, in_reset) = (state.xscom.asb_address(), state.xscom.in_reset());
            drop(state);
            return if in_reset { u64::MAX } else { self.phb.load(address) };
        }
        state.xscom.read(self.unit, offset / 8)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(mut state) = self.phb.lock() else { return };
        if !fits(&mut state, offset, width, "XSCOM store") {
            return;
        }
        if self.unit == Unit::Spci && offset / 8 == ASB_DATA {
            let (address, in_reset) = (state.xscom.asb_address(), state.xscom.in_reset());
            drop(state);
            if !in_reset && let Some(state) = self.phb.lock() {
                self.phb.store(state, address, value);
            }
            return;
        }
        match state.xscom.write(self.unit, offset / 8, value) {
            Effect::None => (),
            Effect::Reset => state.reset(self.phb.around()),
            Effect::LiveBar => {
                state.notes.record(clause::XSCOM_BAR, format!("{value:#x} at {:#x}", offset / 8));
            }
        }
        drop(state);
        self.phb.settle_slot();
    }
}
