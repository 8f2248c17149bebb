//! The wire from a VT-d unit to the local APICs: from the unit's words to those of a message; and the wire to the unit, from devices behind it.
//!
//! Both models are written by people of their own; here is the one place that knows both.
//!
//! Spec: Intel SDM volume 3A, 11.11 "Message Signalled Interrupts".

use std::sync::Arc;

use model_bus::{BusError, Doorbell, Fabric, Write};
use model_devices::apic::LocalApics;
use model_vtd::{Interrupt, Interrupts, Vtd};
use portcullis::types::Pa;

/// The APICs behind a unit.
pub(super) struct Wire(pub(super) Arc<LocalApics>);

impl Interrupts for Wire {
    fn deliver(&self, interrupt: &Interrupt) {
        let Some((offset, data)) = message(interrupt) else { return };
        // They take everything that has a place.
        let _ = self.0.ring(offset, &data.to_le_bytes(), None);
    }
}

/// What devices behind a unit send into: memory, and where messages go, the unit.
pub(super) struct BehindUnit {
    pub(super) unit: Arc<Vtd>,
    pub(super) fabric: Arc<dyn Fabric>,
}

impl Fabric for BehindUnit {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.fabric.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        let messages = LocalApics::range();
        if !messages.contains(write.at) {
            return self.fabric.write(write);
        }
        self.unit.ring(write.at.get() - messages.first().get(), write.bytes, write.source)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.fabric.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.fabric.now_ns()
    }
}

/// Where in the interrupt address range the message of an interrupt is written, and what. None for a CPU whose id a message cannot say: no machine here has one.
fn message(interrupt: &Interrupt) -> Option<(u64, u32)> {
    let destination = u8::try_from(interrupt.destination).ok()?;
    let offset = u64::from(destination) << 12
        | u64::from(interrupt.redirected) << 3
        | u64::from(interrupt.logical) << 2;
    let data = u32::from(interrupt.vector)
        | u32::from(interrupt.delivery & 7) << 8
        | u32::from(interrupt.level) << 15;
    Some((offset, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_delivers_is_the_message_that_means_it() {
        let plain = Interrupt::from_message(None, 0xfee0_3000, 0, 0x41);
        assert_eq!(message(&plain), Some((0x3000, 0x41)));
        let other = Interrupt { logical: true, delivery: 1, level: true, ..plain };
        assert_eq!(message(&other), Some((0x3004, 0x8141)));
        assert_eq!(message(&Interrupt { destination: 0x100, ..plain }), None);
    }
}
