//! The seam at which `checks` makes a wrong driver out of the right one, without a line of it being changed.
//!
//! A [`Tamper`] stands between the driver and the machine, and between core and the driver. Each method says what really happens when
//! something is asked for, and has [`Hands`] to do it with: the truth, if it is not overridden.
//!
//! Not here: standing between core and the driver (`seam`), the tampers themselves (`checks`).

use std::sync::Arc;

use model_bus::Width;
use portcullis::core::iommu::Iommu;
use portcullis::hal::BlockLayout;
use portcullis::types::Pa;

use crate::platform::LabPlatform;

/// Which barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Stores before it are visible before stores behind it.
    Write,
    /// Loads before it are done before loads behind it.
    Read,
    /// Everything before it is done before anything behind it.
    Full,
}

/// What a CPU can do to its machine.
#[derive(Clone, Copy, Debug)]
pub struct Hands<'a>(pub(crate) &'a LabPlatform);

impl Hands<'_> {
    /// Loads a word of table memory.
    pub fn load(&self, at: Pa) -> u64 {
        self.0.load_word(at)
    }

    /// Stores a word to table memory.
    pub fn store(&self, at: Pa, word: u64) {
        self.0.store_word(at, word);
    }

    /// A barrier.
    pub fn barrier(&self, barrier: Barrier) {
        self.0.pass_barrier(barrier);
    }

    /// Writes back what the CPU's cache holds of table memory.
    pub fn clean(&self, at: Pa, len_bytes: u64) {
        self.0.clean_words(at, len_bytes);
    }

    /// Takes table memory.
    pub fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.0.alloc_tables(layout)
    }

    /// Gives table memory back.
    pub fn free(&self, first: Pa, layout: BlockLayout) {
        self.0.free_tables(first, layout);
    }

    /// Takes memory for buffers.
    pub fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.0.alloc_buffers(layout)
    }

    /// Reads a register. Nobody there: all ones, as from a host bridge.
    pub fn read_register(&self, at: Pa, width: Width) -> u64 {
        self.0.bus().read_register(at, width).unwrap_or(u64::MAX)
    }

    /// Writes a register. Nobody there: the write is gone, as on a host bridge.
    pub fn write_register(&self, at: Pa, width: Width, value: u64) {
        let _gone = self.0.bus().write_register(at, width, value);
    }

    /// Lets the models work for a while.
    pub fn relax(&self) {
        self.0.bus().step();
    }
}

/// Falsifies what the CPU does to the machine, and what core asks of the driver. Every method that is not overridden tells the truth.
pub trait Tamper: Send + Sync {
    /// A load of a word of table memory.
    fn load(&self, hands: Hands<'_>, at: Pa) -> u64 {
        hands.load(at)
    }

    /// A store of a word to table memory.
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        hands.store(at, word);
    }

    /// A barrier.
    fn barrier(&self, hands: Hands<'_>, barrier: Barrier) {
        hands.barrier(barrier);
    }

    /// A write-back of table memory.
    fn clean(&self, hands: Hands<'_>, at: Pa, len_bytes: u64) {
        hands.clean(at, len_bytes);
    }

    /// An allocation of table memory.
    fn alloc(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        hands.alloc(layout)
    }

    /// Table memory is given back.
    fn free(&self, hands: Hands<'_>, first: Pa, layout: BlockLayout) {
        hands.free(first, layout);
    }

    /// An allocation of memory for buffers: coherent ones, and processes' pages.
    fn alloc_buffer(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        hands.alloc_buffer(layout)
    }

    /// A read of a register.
    fn read_register(&self, hands: Hands<'_>, at: Pa, width: Width) -> u64 {
        hands.read_register(at, width)
    }

    /// A write of a register.
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        hands.write_register(at, width, value);
    }

    /// An IOMMU's driver, on its way to core. What is answered is what core will know.
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        driver
    }
}
