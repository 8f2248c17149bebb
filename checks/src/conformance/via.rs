//! What stands between the driver and a bed: it counts, changes single words on their way, and makes wrong drivers.
//!
//! The driver that is judged is the shipped one over a [`Via`] and a [`ViaRegisters`]. Both pass everything on unless a [`Hand`] is in the
//! way: of the case (one that makes an entry invalid on its way to memory), or of a wrong driver ([`super::wrong`]). So a misprogrammed
//! word is invalidated and synced by the driver as a right one would be, and no case depends on what hardware has cached.
//!
//! Hands are called under no lock: one may have engines do DMA in the middle of an update.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis::hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis::types::Pa;
use portcullis::types::trace::{Event, Sink};

/// What reaches the machine in the end.
pub trait Machine: Send + Sync {
    /// Loads a word.
    fn load(&self, at: Pa) -> u64;
    /// Stores a word, as the driver would.
    fn store(&self, at: Pa, word: u64);
    /// Stores a word past every hand, and makes it visible to a walker that does not snoop.
    fn poke(&self, at: Pa, word: u64);
    /// Everything stored before is visible before what is stored after.
    fn barrier(&self);
    /// Writes a register of 4 or 8 bytes.
    fn write_register(&self, offset: usize, bytes: usize, value: u64);
}

/// Somebody who may change what the driver does. Every method that is not overridden passes it on.
pub trait Hand: Send + Sync {
    /// A store of a word.
    fn store(&self, machine: &dyn Machine, at: Pa, word: u64) {
        machine.store(at, word);
    }

    /// A write of a register.
    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        machine.write_register(offset, bytes, value);
    }

    /// Whether barriers do anything.
    fn orders(&self) -> bool {
        true
    }

    /// Whether what is cleaned is.
    fn cleans(&self) -> bool {
        true
    }

    /// How far from where it should a block of table memory begins that is being allocated, of this size.
    fn off_by(&self, _size_bytes: u64) -> u64 {
        0
    }
}

/// Register accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Accesses {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The hands, and what was counted.
#[derive(Default)]
pub struct Between {
    hands: Mutex<Vec<Arc<dyn Hand>>>,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Between {
    /// Puts a hand in the way, nearer to the machine than those that are there.
    pub fn put(&self, hand: Arc<dyn Hand>) {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).push(hand);
    }

    /// Takes out the hand that was put last.
    pub fn take_out(&self) {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).pop();
    }

    /// Register accesses since the last call.
    pub fn take_accesses(&self) -> Accesses {
        Accesses { reads: self.reads.swap(0, Relaxed), writes: self.writes.swap(0, Relaxed) }
    }

    fn hands(&self) -> Vec<Arc<dyn Hand>> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The machine with hands in front of it, the driver's nearest first.
struct Behind<'a> {
    hands: &'a [Arc<dyn Hand>],
    machine: &'a dyn Machine,
}

impl Machine for Behind<'_> {
    fn load(&self, at: Pa) -> u64 {
        self.machine.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        match self.hands {
            [] => self.machine.store(at, word),
            [first, rest @ ..] => first.store(&Behind { hands: rest, machine: self.machine }, at, word),
        }
    }

    fn poke(&self, at: Pa, word: u64) {
        self.machine.poke(at, word);
    }

    fn barrier(&self) {
        self.machine.barrier();
    }

    fn write_register(&self, offset: usize, bytes: usize, value: u64) {
        match self.hands {
            [] => self.machine.write_register(offset, bytes, value),
            [first, rest @ ..] => {
                first.write_register(&Behind { hands: rest, machine: self.machine }, offset, bytes, value);
            }
        }
    }
}

/// The bed itself.
struct Bare<P, R> {
    platform: Arc<P>,
    registers: R,
    coherent: bool,
}

impl<P: Platform, R: Registers> Machine for Bare<P, R> {
    fn load(&self, at: Pa) -> u64 {
        self.platform.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.platform.store(at, word);
    }

    fn poke(&self, at: Pa, word: u64) {
        self.platform.store(at, word);
        if !self.coherent {
            self.platform.clean_table(at, 8);
        }
        self.platform.full_barrier();
    }

    fn barrier(&self) {
        self.platform.full_barrier();
    }

    fn write_register(&self, offset: usize, bytes: usize, value: u64) {
        if bytes == 8 {
            self.registers.write64(offset, value);
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "a register of 32 bits")]
            self.registers.write32(offset, value as u32);
        }
    }
}

/// A platform with hands in the way.
pub struct Via<P> {
    inner: Arc<P>,
    machine: Arc<dyn Machine>,
    between: Arc<Between>,
    /// Blocks that do not begin where they should: what was allocated for each.
    moved: Mutex<BTreeMap<Pa, (Pa, BlockLayout)>>,
}

/// Registers with hands in the way.
pub struct ViaRegisters<R> {
    inner: R,
    machine: Arc<dyn Machine>,
    between: Arc<Between>,
}

/// Puts a [`Between`] in front of a platform and registers.
pub fn between<P: Platform, R: Registers + Clone + 'static>(
    platform: Arc<P>,
    registers: R,
    coherent: bool,
) -> (Arc<Via<P>>, ViaRegisters<R>, Arc<Between>) {
    let between = Arc::new(Between::default());
    let bare = Bare { platform: platform.clone(), registers: registers.clone(), coherent };
    let machine: Arc<dyn Machine> = Arc::new(bare);
    let moved = Mutex::default();
    let via = Arc::new(Via { inner: platform, machine: machine.clone(), between: between.clone(), moved });
    (via, ViaRegisters { inner: registers, machine, between: between.clone() }, between)
}

impl<P> Via<P> {
    /// The machine, past every hand.
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }
}

impl<P> Via<P> {
    fn in_order(&self) -> bool {
        self.between.hands().iter().all(|hand| hand.orders())
    }
}

impl<P: fmt::Debug> fmt::Debug for Via<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Via").field(&self.inner).finish()
    }
}

impl<P: Platform> TableMemory for Via<P> {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let off_by: u64 = self.between.hands().iter().map(|hand| hand.off_by(layout.size_bytes())).sum();
        if off_by == 0 {
            return self.inner.alloc(layout);
        }
        let size_bytes = (layout.size_bytes() + off_by).next_power_of_two();
        let more = BlockLayout::new(size_bytes, size_bytes)?;
        let whole = self.inner.alloc(more)?;
        let first = Pa::new(whole.get() + off_by);
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(first, (whole, more));
        Some(first)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner).remove(&first);
        let (first, layout) = moved.unwrap_or((first, layout));
        self.inner.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.inner.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        let hands = self.between.hands();
        Behind { hands: &hands, machine: &*self.machine }.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.inner.compare_exchange(at, current, new)
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        if self.between.hands().is_empty() {
            return self.inner.store_run(at, first, step, count);
        }
        let mut word = first;
        for index in 0..count as u64 {
            self.store(Pa::new(at.get() + 8 * index), word);
            word = word.wrapping_add(step);
        }
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        if self.between.hands().iter().all(|hand| hand.cleans()) {
            self.inner.clean_table(at, len_bytes);
        }
    }
}

impl<P: Platform> DmaMemory for Via<P> {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.inner.alloc_buffer(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.inner.free_buffer(first, layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        self.inner.read(at, into);
    }

    fn write(&self, at: Pa, from: &[u8]) {
        self.inner.write(at, from);
    }

    fn read32(&self, at: Pa) -> u32 {
        self.inner.read32(at)
    }

    fn write32(&self, at: Pa, word: u32) {
        self.inner.write32(at, word);
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        self.inner.clean(at, len_bytes);
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        self.inner.invalidate(at, len_bytes);
    }
}

impl<P: Platform> Barriers for Via<P> {
    fn write_barrier(&self) {
        if self.in_order() {
            self.inner.write_barrier();
        }
    }

    fn read_barrier(&self) {
        self.inner.read_barrier();
    }

    fn full_barrier(&self) {
        if self.in_order() {
            self.inner.full_barrier();
        }
    }
}

impl<P: Platform> Clock for Via<P> {
    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }

    fn relax(&self) {
        self.inner.relax();
    }
}

impl<P: Platform> Sink for Via<P> {
    fn listening(&self) -> bool {
        self.inner.listening()
    }

    fn event(&self, event: &Event<'_>) {
        self.inner.event(event);
    }
}

impl<P: Platform> Platform for Via<P> {
    type Mutex = P::Mutex;
}

impl<R: Registers> ViaRegisters<R> {
    fn write(&self, offset: usize, bytes: usize, value: u64) {
        self.between.writes.fetch_add(1, Relaxed);
        Behind { hands: &self.between.hands(), machine: &*self.machine }.write_register(offset, bytes, value);
    }
}

impl<R: Registers> Registers for ViaRegisters<R> {
    fn read32(&self, offset: usize) -> u32 {
        self.between.reads.fetch_add(1, Relaxed);
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.between.reads.fetch_add(1, Relaxed);
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, 8, value);
    }
}
