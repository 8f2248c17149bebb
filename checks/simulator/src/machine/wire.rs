//! An SMMU's way to memory, on which a message of its own can be lost.

use std::sync::Arc;

use model_bus::{Bus, BusError, Fabric, Write};
use portcullis::types::Pa;

use crate::fault::FaultKind;
use crate::hub::Hub;

/// The way. It goes through the CPUs' caches, or past them.
pub(crate) struct Wire {
    bus: Arc<dyn Fabric>,
    hub: Arc<Hub>,
}

impl Wire {
    pub(crate) fn new(bus: Arc<Bus>, hub: Arc<Hub>, coherent: bool) -> Self {
        let bus = if coherent { bus } else { bus.non_snooping() };
        Self { bus, hub }
    }
}

impl Fabric for Wire {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.bus.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        // Messages are words of 32 bits; records are longer.
        if write.bytes.len() == 4 && self.hub.faults.fires(FaultKind::MessageLost) {
            return Ok(());
        }
        self.bus.write(write)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.bus.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        self.bus.now_ns()
    }
}
