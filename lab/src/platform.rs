//! The `hal` seams over the models' bus: what a kernel would write for its hardware.
//!
//! A [`LabPlatform`] is a CPU of a machine, of models or of QEMU's (`machine::qemu`), which is behind the same bus. Every turn of a polling loop ([`Clock::relax`]) lets the models work, so hardware is
//! neither faster nor slower than it is asked to be, and a run is decided by its seed alone.
//!
//! A [`Tamper`] may stand between and falsify what passes (`tamper`).

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Bus, BusError, Width};
use portcullis::hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis::types::trace::{Event, Sink};
use portcullis::types::{Pa, PaRange};

use crate::tamper::Hands;
use crate::trace::SharedSink;

pub use crate::tamper::{Barrier, Tamper};

/// A CPU of a modelled machine.
pub struct LabPlatform {
    bus: Arc<Bus>,
    sink: SharedSink,
    tamper: Option<Arc<dyn Tamper>>,
    tables: Usage,
    buffers: Usage,
    kept_bytes: AtomicU64,
    register_accesses: AtomicU64,
}

/// How much memory is given out, and the most that ever was.
#[derive(Debug, Default)]
struct Usage {
    live_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl Usage {
    fn take(&self, bytes: u64) {
        let live = self.live_bytes.fetch_add(bytes, Relaxed) + bytes;
        self.peak_bytes.fetch_max(live, Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.live_bytes.fetch_sub(bytes, Relaxed);
    }
}

impl fmt::Debug for LabPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabPlatform")
            .field("bus", &self.bus)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl LabPlatform {
    /// A CPU on `bus` that says what happens to `sink`.
    pub fn new(bus: Arc<Bus>, sink: SharedSink, tamper: Option<Arc<dyn Tamper>>) -> Self {
        let (tables, buffers) = Default::default();
        Self {
            bus,
            sink,
            tamper,
            tables,
            buffers,
            kept_bytes: AtomicU64::new(0),
            register_accesses: AtomicU64::new(0),
        }
    }

    /// The bus.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// How many bytes of table memory are given out.
    pub fn live_table_bytes(&self) -> u64 {
        self.tables.live_bytes.load(Relaxed)
    }

    /// Hardware that is switched off keeps so much table memory for ever, to be closed by.
    pub(crate) fn note_kept(&self, bytes: u64) {
        self.kept_bytes.fetch_add(bytes, Relaxed);
    }

    /// How many bytes of table memory hardware keeps that is switched off.
    pub fn kept_table_bytes(&self) -> u64 {
        self.kept_bytes.load(Relaxed)
    }

    /// The most bytes of table memory that were given out at one time.
    pub fn peak_table_bytes(&self) -> u64 {
        self.tables.peak_bytes.load(Relaxed)
    }

    /// How many bytes of coherent buffers are given out.
    pub fn live_buffer_bytes(&self) -> u64 {
        self.buffers.live_bytes.load(Relaxed)
    }

    /// How often a register was read or written.
    pub fn register_accesses(&self) -> u64 {
        self.register_accesses.load(Relaxed)
    }

    /// The registers in `window`, as this CPU reaches them.
    pub fn registers(self: &Arc<Self>, window: PaRange) -> RegisterWindow {
        RegisterWindow { platform: self.clone(), window }
    }

    fn memory(&self) -> &model_bus::CpuMemory {
        self.bus.cpu()
    }

    fn take_block(&self, layout: BlockLayout, usage: &Usage) -> Option<Pa> {
        let first = self.memory().alloc(layout.size_bytes(), layout.align_bytes())?;
        usage.take(layout.size_bytes());
        Some(first)
    }

    fn give_back(&self, first: Pa, layout: BlockLayout, usage: &Usage) {
        usage.give_back(layout.size_bytes());
        if let Err(error) = self.memory().free(first, layout.size_bytes()) {
            panic!("freeing {layout:?} at {first}: {error:?}");
        }
    }

    /// Who falsifies, if somebody does.
    pub(crate) fn tamper(&self) -> Option<&Arc<dyn Tamper>> {
        self.tamper.as_ref()
    }

    fn barrier(&self, barrier: Barrier) {
        match &self.tamper {
            Some(tamper) => tamper.barrier(Hands(self), barrier),
            None => self.pass_barrier(barrier),
        }
    }
}

/// What really happens: what a [`Tamper`] has in its [`Hands`].
impl LabPlatform {
    pub(crate) fn load_word(&self, at: Pa) -> u64 {
        in_ram(self.memory().load64(at))
    }

    pub(crate) fn store_word(&self, at: Pa, word: u64) {
        in_ram(self.memory().store64(at, word));
    }

    pub(crate) fn clean_words(&self, at: Pa, len_bytes: u64) {
        in_ram(self.memory().clean(at, len_bytes));
    }

    pub(crate) fn pass_barrier(&self, barrier: Barrier) {
        match barrier {
            Barrier::Write => self.memory().write_barrier(),
            Barrier::Read => self.memory().read_barrier(),
            Barrier::Full => self.memory().full_barrier(),
        }
    }

    pub(crate) fn alloc_tables(&self, layout: BlockLayout) -> Option<Pa> {
        self.take_block(layout, &self.tables)
    }

    pub(crate) fn alloc_buffers(&self, layout: BlockLayout) -> Option<Pa> {
        self.take_block(layout, &self.buffers)
    }

    pub(crate) fn free_tables(&self, first: Pa, layout: BlockLayout) {
        self.give_back(first, layout, &self.tables);
    }
}

/// An access of ours to something that is not RAM: on silicon a synchronous abort of the CPU, here a panic with the address.
fn in_ram<T>(result: Result<T, BusError>) -> T {
    result.unwrap_or_else(|error| panic!("the CPU reached for memory at {}, where none is", error.at))
}

impl TableMemory for LabPlatform {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        match &self.tamper {
            Some(tamper) => tamper.alloc(Hands(self), layout),
            None => self.alloc_tables(layout),
        }
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        match &self.tamper {
            Some(tamper) => tamper.free(Hands(self), first, layout),
            None => self.free_tables(first, layout),
        }
    }

    fn load(&self, at: Pa) -> u64 {
        match &self.tamper {
            Some(tamper) => tamper.load(Hands(self), at),
            None => self.load_word(at),
        }
    }

    fn store(&self, at: Pa, word: u64) {
        match &self.tamper {
            Some(tamper) => tamper.store(Hands(self), at, word),
            None => self.store_word(at, word),
        }
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        let found = in_ram(self.memory().compare_exchange(at, current, new));
        if found == current { Ok(found) } else { Err(found) }
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        if self.tamper.is_none() {
            return in_ram(self.memory().store_run(at, first, step, count));
        }
        let words = (0..count as u64)
            .map(|index| (Pa::new(at.get() + 8 * index), first.wrapping_add(step.wrapping_mul(index))));
        words.for_each(|(at, word)| self.store(at, word));
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        match &self.tamper {
            Some(tamper) => tamper.clean(Hands(self), at, len_bytes),
            None => self.clean_words(at, len_bytes),
        }
    }
}

impl DmaMemory for LabPlatform {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        match &self.tamper {
            Some(tamper) => tamper.alloc_buffer(Hands(self), layout),
            None => self.alloc_buffers(layout),
        }
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.give_back(first, layout, &self.buffers);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        in_ram(self.memory().read(at, into));
    }

    fn write(&self, at: Pa, from: &[u8]) {
        in_ram(self.memory().write(at, from));
    }

    fn read32(&self, at: Pa) -> u32 {
        in_ram(self.memory().load32(at))
    }

    fn write32(&self, at: Pa, word: u32) {
        in_ram(self.memory().store32(at, word));
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        in_ram(self.memory().clean(at, len_bytes));
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        in_ram(self.memory().invalidate(at, len_bytes));
    }
}

impl Barriers for LabPlatform {
    fn write_barrier(&self) {
        self.barrier(Barrier::Write);
    }

    fn read_barrier(&self) {
        self.barrier(Barrier::Read);
    }

    fn full_barrier(&self) {
        self.barrier(Barrier::Full);
    }
}

impl Clock for LabPlatform {
    fn now_ns(&self) -> u64 {
        self.bus.now_ns()
    }

    fn relax(&self) {
        self.bus.step();
    }
}

impl Sink for LabPlatform {
    fn listening(&self) -> bool {
        self.sink.listening()
    }

    fn event(&self, event: &Event<'_>) {
        self.sink.event(event);
    }
}

impl Platform for LabPlatform {
    type Mutex = spin::Mutex<()>;
}

/// A window of registers on a machine's bus.
#[derive(Clone, Debug)]
pub struct RegisterWindow {
    platform: Arc<LabPlatform>,
    window: PaRange,
}

impl RegisterWindow {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.platform.register_accesses.fetch_add(1, Relaxed);
        let (at, hands) = (self.at(offset), Hands(&self.platform));
        match &self.platform.tamper {
            Some(tamper) => tamper.read_register(hands, at, width),
            None => hands.read_register(at, width),
        }
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.platform.register_accesses.fetch_add(1, Relaxed);
        let (at, hands) = (self.at(offset), Hands(&self.platform));
        match &self.platform.tamper {
            Some(tamper) => tamper.write_register(hands, at, width, value),
            None => hands.write_register(at, width, value),
        }
    }

    fn at(&self, offset: usize) -> Pa {
        let at = self.window.first().checked_add(offset as u64).filter(|&at| self.window.contains(at));
        at.unwrap_or_else(|| panic!("register {offset:#x} is outside its window {}", self.window))
    }
}

impl Registers for RegisterWindow {
    fn read32(&self, offset: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a 32-bit read")]
        let value = self.read(offset, Width::Bits32) as u32;
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, Width::Bits32, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, Width::Bits64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, Width::Bits64, value);
    }
}
