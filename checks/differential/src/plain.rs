//! Memory of a model that does nothing but what it is asked: no time passes.
//!
//! Not here: the memory that notes what a walk reads (`ours`).

use model_bus::{BusError, Fabric, Ram, Write};
use portcullis_types::{Pa, PaRange};

/// RAM from 0 on, and nothing else.
pub(crate) struct Plain(Ram);

impl Plain {
    pub(crate) fn new(mib: u64) -> Self {
        Self(Ram::new(&[PaRange::new(Pa::new(0), mib << 20).expect("RAM ends")]))
    }

    /// Stores bytes of an image.
    ///
    /// # Panics
    ///
    /// If it does not lie in RAM.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.0.write(Pa::new(at), bytes).expect("an image lies in RAM");
    }
}

impl Fabric for Plain {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        self.0.read(at, into)
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        self.0.write(write.at, write.bytes)
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        self.0.compare_exchange(at, current, new)
    }

    fn now_ns(&self) -> u64 {
        0
    }
}
