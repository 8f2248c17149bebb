//! The platform form: two ports, and accesses that are stalled.
//!
//! Spec: docs/accelerator.md, "When a page is not there", platform.

use core::fmt;
use std::sync::Arc;

use model_bus::{
    Bus, Clocked, DmaError, Fabric, Mmio, Moved, Occupied, Port, Stall, StallState, Traffic, Translator,
    Width,
};
use portcullis_types::trace::Sink;
use portcullis_types::{Iova, Pa, PaRange, Pasid, SourceId};

use super::engine::Engine;
use super::memory::Memory;
use super::registers::REGISTER_BYTES;
use super::{AcceleratorCounts, AcceleratorOptions};
use crate::pcie::{Access, Refused, Ticket};

/// An accelerator on the system bus. Connect it, and let the bus step it.
pub struct PlatformAccelerator {
    ports: Arc<Ports>,
    engine: Engine,
}

struct Ports {
    reads: Port,
    writes: Port,
    pasid_bits: u8,
}

impl fmt::Debug for PlatformAccelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlatformAccelerator")
            .field("reads", &self.ports.reads)
            .field("writes", &self.ports.writes)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl PlatformAccelerator {
    /// An accelerator that reads as the first of `sources` and writes as the second.
    ///
    /// # Panics
    ///
    /// If an option is outside what its description allows, or asks for stop markers, which need PCIe.
    pub fn new(
        options: &AcceleratorOptions,
        sources: [SourceId; 2],
        translator: &Arc<dyn Translator>,
        fabric: &Arc<dyn Fabric>,
        sink: Arc<dyn Sink>,
    ) -> Arc<Self> {
        options.check();
        assert!(!options.stop_marker, "stop markers are messages on PCIe");
        let [reads, writes] = sources.map(|source| Port::new(source, translator.clone(), fabric.clone()));
        let ports = Arc::new(Ports { reads, writes, pasid_bits: options.pasid_bits });
        Arc::new(Self { engine: Engine::new(options, Box::new(ports.clone()), sink), ports })
    }

    /// Lets its registers answer on `bus`, from `at`.
    ///
    /// # Errors
    ///
    /// Something else answers there.
    ///
    /// # Panics
    ///
    /// If they would pass the end of the address space.
    pub fn connect(self: &Arc<Self>, bus: &Bus, at: Pa) -> Result<(), Occupied> {
        let range = PaRange::new(at, REGISTER_BYTES).expect("the registers lie in the address space");
        bus.add_registers("accelerator", range, self.clone())
    }

    /// What its jobs came to.
    pub fn counts(&self) -> AcceleratorCounts {
        self.engine.counts()
    }

    /// What has gone between it and memory, through both ports.
    pub fn traffic(&self) -> Traffic {
        let (reads, writes) = (self.ports.reads.traffic(), self.ports.writes.traffic());
        Traffic {
            read_bytes: reads.read_bytes + writes.read_bytes,
            written_bytes: reads.written_bytes + writes.written_bytes,
            messages: reads.messages + writes.messages,
            failed: reads.failed + writes.failed,
            ignored: reads.ignored + writes.ignored,
        }
    }

    /// The same in one address space.
    pub fn moved(&self, pasid: Pasid) -> Moved {
        Moved {
            read_bytes: self.ports.reads.moved(pasid).read_bytes,
            written_bytes: self.ports.writes.moved(pasid).written_bytes,
        }
    }
}

impl Ports {
    fn allows(&self, pasid: Option<Pasid>) -> bool {
        pasid.is_none_or(|pasid| pasid.get() >> self.pasid_bits == 0)
    }
}

fn access_of(result: Result<(), DmaError>) -> Access {
    match result {
        Ok(()) => Access::Done,
        Err(DmaError::Stalled { stall, .. }) => Access::Stalled(stall),
        Err(_) => Access::Failed,
    }
}

impl Memory for Arc<Ports> {
    fn ready(&self) -> bool {
        true
    }

    fn read(&self, pasid: Option<Pasid>, at: Iova, into: &mut [u8]) -> Access {
        if self.allows(pasid) { access_of(self.reads.read(pasid, at, into)) } else { Access::Failed }
    }

    fn write(&self, pasid: Option<Pasid>, at: Iova, from: &[u8]) -> Access {
        if self.allows(pasid) { access_of(self.writes.write(pasid, at, from)) } else { Access::Failed }
    }

    fn request(&self, _: Option<Pasid>, _: &[Iova], _: bool) -> Result<Ticket, Refused> {
        Err(Refused::Off)
    }

    fn stalled(&self, stall: Stall, write: bool) -> StallState {
        if write { self.writes.stalled(stall) } else { self.reads.stalled(stall) }
    }

    fn stop_marker(&self, _: Pasid) {}

    fn note_retry(&self) {}

    fn step(&self) -> bool {
        false
    }
}

impl Mmio for PlatformAccelerator {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.engine.read_register(offset, width)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        self.engine.write_register(offset, width, value);
    }
}

impl Clocked for PlatformAccelerator {
    fn step(&self, _: u64) -> bool {
        self.engine.step()
    }
}
