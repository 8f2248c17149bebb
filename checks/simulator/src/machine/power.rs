//! POWER8's bridge in a simulated machine: what its model and driver are like, and what goes wrong between the two.
//!
//! A bridge that is *silent* answers every load with ones and hears no store, until the operation ends in which it became so.
//! A bit of a TCE that flips does so on the way to the bridge, and always takes a permission away: what a bit that gives one opens is nobody's promise.
//!
//! Observed: skiboot include/phb3-regs.h: offsets.
//! Not here: the model (`model_ioda2`), lives (`life::vfio`).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Bus, BusError, Chance, Fabric, Width, Write};
use model_ioda2::{Config as Model, Policy};
use portcullis::hal::Registers;
use portcullis::ioda2::Config as Driver;
use portcullis::types::Pa;

use crate::fault::FaultKind;
use crate::hub::{Hub, Place};
use crate::oracle::Shadow;

/// Where the bridge's registers are, and its messages.
pub(crate) const BRIDGE: u64 = 0x3_fffe_4000_0000;
/// Where there is room for another bridge, and its messages.
pub(crate) const SPARE_BRIDGE: u64 = 0x3_fffe_4020_0000;
pub(crate) const SPARE_DOORBELL: u64 = 0x3_fffe_4030_0000;
const DOORBELL: u64 = 0x3_fffe_4010_0000;
/// PHB_TCE_KILL, and PHB_PHB3_CONFIG, by which a driver asks whether all has arrived.
const TCE_KILL: usize = 0x210;
/// In TCE_KILL: one entry is forgotten, and not all of a PE.
const KILL_ONE: u64 = 1 << 61;
const CONFIG: usize = 0x160;
/// PHB_CONTROL, and what firmware stores there.
const CONTROL: usize = 0x810;
const CONTROL_VALUE: u64 = 0xf3a8_0edb_0000_0000;

/// The bridge of a machine: its model and its driver, and whether the kernel's devices may go around translation.
pub(crate) fn draw(chance: &Chance, end: u64) -> (Model, Driver) {
    let mut model = Model::new(Pa::new(DOORBELL));
    model.policy = [Policy::stale(), Policy::stale(), Policy::eager(), Policy::hostile()][chance.below(4)];
    let mut driver = Driver::new("phb");
    driver.default_levels = [1, 2, 3][chance.below(3)];
    // Tables of small windows, so that making one does not take all of a life.
    driver.window32_bytes = [1 << 24, 1 << 26][chance.below(2)];
    driver.bypass_end = chance.once_in(2).then_some(Pa::new(end));
    (model, driver)
}

/// The bridge's registers.
#[derive(Clone)]
pub(crate) struct BridgeRegisters {
    at: u64,
    bus: Arc<Bus>,
    hub: Arc<Hub>,
    silent: Arc<AtomicBool>,
}

impl BridgeRegisters {
    /// Out of firmware's hands.
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self::of(hub, BRIDGE)
    }

    /// Those of another bridge.
    pub(crate) fn spare(hub: &Arc<Hub>) -> Self {
        Self::of(hub, SPARE_BRIDGE)
    }

    fn of(hub: &Arc<Hub>, at: u64) -> Self {
        let registers = Self { at, bus: hub.bus.clone(), hub: hub.clone(), silent: Arc::default() };
        registers.write64(CONTROL, CONTROL_VALUE);
        registers
    }

    /// The operation has returned: the bridge answers again.
    pub(crate) fn speak(&self) {
        self.silent.store(false, Relaxed);
    }

    /// Whether it answers nothing now.
    pub(crate) fn are_silent(&self) -> bool {
        self.silent.load(Relaxed)
    }

    fn is_silent(&self, offset: usize) -> bool {
        let asked = offset == TCE_KILL || offset == CONFIG;
        if asked && !self.silent.load(Relaxed) && self.hub.faults.fires(FaultKind::NoSync) {
            self.silent.store(true, Relaxed);
        }
        self.silent.load(Relaxed)
    }
}

impl Registers for BridgeRegisters {
    fn read32(&self, offset: usize) -> u32 {
        u32::try_from(self.read64(offset) & 0xffff_ffff).expect("32 bits")
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write64(offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        if self.is_silent(offset) {
            return u64::MAX;
        }
        self.bus.read_register(Pa::new(self.at + offset as u64), Width::Bits64).unwrap_or(u64::MAX)
    }

    fn write64(&self, offset: usize, value: u64) {
        if !self.is_silent(offset) {
            if offset == TCE_KILL && self.at == BRIDGE && value & KILL_ONE == 0 {
                self.hub.shadow(Shadow::told_to_flush);
            }
            let _gone = self.bus.write_register(Pa::new(self.at + offset as u64), Width::Bits64, value);
        }
        self.hub.turn(Place::Register);
    }
}

/// The bridge's way to memory.
pub(crate) struct BridgeWire {
    bus: Arc<Bus>,
    hub: Arc<Hub>,
}

impl BridgeWire {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self { bus: hub.bus.clone(), hub: hub.clone() }
    }
}

/// Permissions lie in the last byte of a TCE, which is big-endian: reading, and writing.
const LAST_BYTE: usize = 7;

impl Fabric for BridgeWire {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        Fabric::read(&*self.bus, at, into)?;
        // TCEs are read one by one, or a line at once; what devices move comes here by neither.
        let of_tables = matches!(into.len(), 8 | 128) && self.hub.faults.is_armed(FaultKind::BitFlip);
        let met = of_tables && self.hub.faults.current().has_turns();
        if met && self.hub.faults.fires(FaultKind::BitFlip) {
            let (bit, pick) = (1 << self.hub.below(2), self.hub.below(into.len() as u64 / 8));
            let tce = 8 * usize::try_from(pick).unwrap_or(0);
            into[tce + LAST_BYTE] &= !bit;
            self.hub.flipped();
        }
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        Fabric::write(&*self.bus, write)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        Fabric::compare_exchange(&*self.bus, at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.bus.now_ns()
    }
}
