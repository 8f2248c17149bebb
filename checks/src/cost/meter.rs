//! What passes between a driver and the models, counted and passed on.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model_bus::Width;
use portcullis::hal::BlockLayout;
use portcullis::types::{Pa, PaRange};
use portcullis_lab::tamper::{Barrier, Hands, Tamper};

use crate::wrong::view::SMMU_BASE;

/// Counts, and falsifies nothing.
#[derive(Debug)]
pub struct Meter {
    /// The registers that count.
    registers: PaRange,
    allocated_bytes: AtomicU64,
    freed_bytes: AtomicU64,
    stores: AtomicU64,
    barriers: AtomicU64,
    register_reads: AtomicU64,
    register_writes: AtomicU64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counted {
    /// Bytes of table memory that were taken.
    pub allocated_bytes: u64,
    /// Bytes of table memory that were given back.
    pub freed_bytes: u64,
    /// Words stored.
    pub stores: u64,
    /// Barriers of any kind.
    pub barriers: u64,
    /// Registers read.
    pub register_reads: u64,
    /// Registers written.
    pub register_writes: u64,
}

impl Default for Meter {
    /// The registers of the built-in machines' SMMUv3.
    fn default() -> Self {
        Self::over(PaRange::new(Pa::new(SMMU_BASE), 0x2_0000).expect("a range that does not wrap"))
    }
}

impl Meter {
    /// Of registers that are here.
    pub const fn over(registers: PaRange) -> Self {
        Self {
            registers,
            allocated_bytes: AtomicU64::new(0),
            freed_bytes: AtomicU64::new(0),
            stores: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            register_reads: AtomicU64::new(0),
            register_writes: AtomicU64::new(0),
        }
    }

    /// What was counted since the last call.
    pub fn take(&self) -> Counted {
        let take = |count: &AtomicU64| count.swap(0, Relaxed);
        Counted {
            allocated_bytes: take(&self.allocated_bytes),
            freed_bytes: take(&self.freed_bytes),
            stores: take(&self.stores),
            barriers: take(&self.barriers),
            register_reads: take(&self.register_reads),
            register_writes: take(&self.register_writes),
        }
    }
}

impl Tamper for Meter {
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        self.stores.fetch_add(1, Relaxed);
        hands.store(at, word);
    }

    fn barrier(&self, hands: Hands<'_>, barrier: Barrier) {
        self.barriers.fetch_add(1, Relaxed);
        hands.barrier(barrier);
    }

    fn alloc(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        self.allocated_bytes.fetch_add(layout.size_bytes(), Relaxed);
        hands.alloc(layout)
    }

    fn free(&self, hands: Hands<'_>, first: Pa, layout: BlockLayout) {
        self.freed_bytes.fetch_add(layout.size_bytes(), Relaxed);
        hands.free(first, layout);
    }

    fn read_register(&self, hands: Hands<'_>, at: Pa, width: Width) -> u64 {
        self.register_reads.fetch_add(u64::from(self.registers.contains(at)), Relaxed);
        hands.read_register(at, width)
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.register_writes.fetch_add(u64::from(self.registers.contains(at)), Relaxed);
        hands.write_register(at, width, value);
    }
}
