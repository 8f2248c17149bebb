//! The `hal` seams over a machine.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Pa, PaRange};

use crate::machine::Machine;
use crate::qtest::ByteOrder;
use crate::ram::{Ram, RamPart};
use crate::registers::QemuRegisters;

/// A host's CPU, as a CPU of the machine: its memory is the machine's RAM, its time the wall's.
///
/// The upper half of the RAM is handed out; the lower half is whoever's uses addresses of his own: the loop that the CPU runs in lies
/// there too, and the device tree, in the first 2 MiB.
pub struct QemuPlatform {
    machine: Arc<Machine>,
    pool: Arena<spin::Mutex<()>, RamPart>,
    sink: Arc<dyn Sink>,
    start: Instant,
    table_bytes: AtomicU64,
    buffer_bytes: AtomicU64,
}

/// How long one turn of a polling loop takes: about as long as one access over the socket.
const TURN: Duration = Duration::from_micros(20);

impl fmt::Debug for QemuPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QemuPlatform")
            .field("machine", &self.machine)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl QemuPlatform {
    /// A CPU of `machine` that says what happens to `sink`.
    ///
    /// # Panics
    ///
    /// If the machine's RAM is not a power of two of bytes at a multiple of half its size.
    pub fn new(machine: Arc<Machine>, sink: Arc<dyn Sink>) -> Self {
        let ram = machine.ram();
        let half = (ram.range().last().get() - ram.range().first().get()) / 2 + 1;
        let upper = PaRange::new(Pa::new(ram.range().first().get() + half), half);
        let pool =
            Arena::new(Pa::new(ram.range().first().get() + half), ram.part(upper.expect("half of it")));
        Self {
            pool,
            machine,
            sink,
            start: Instant::now(),
            table_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The little-endian registers in `window`.
    pub fn registers(&self, window: PaRange) -> QemuRegisters {
        QemuRegisters::new(self.machine.clone(), window, ByteOrder::Little)
    }

    /// How many bytes of table memory are given out.
    pub fn live_table_bytes(&self) -> u64 {
        self.table_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes of coherent buffers are given out.
    pub fn live_buffer_bytes(&self) -> u64 {
        self.buffer_bytes.load(Ordering::Relaxed)
    }

    fn ram(&self) -> &Ram {
        self.machine.ram()
    }
}

impl TableMemory for QemuPlatform {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let first = self.pool.alloc(layout)?;
        self.table_bytes.fetch_add(layout.size_bytes(), Ordering::Relaxed);
        Some(first)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.table_bytes.fetch_sub(layout.size_bytes(), Ordering::Relaxed);
        self.pool.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.pool.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.pool.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.pool.compare_exchange(at, current, new)
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        self.pool.store_run(at, first, step, count);
    }

    /// QEMU's devices read the same memory: there is no cache in between.
    fn clean_table(&self, _: Pa, _: u64) {}
}

impl DmaMemory for QemuPlatform {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        let first = self.pool.alloc(layout)?;
        self.buffer_bytes.fetch_add(layout.size_bytes(), Ordering::Relaxed);
        Some(first)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.buffer_bytes.fetch_sub(layout.size_bytes(), Ordering::Relaxed);
        self.pool.free(first, layout);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        self.ram().read(at, into);
    }

    fn write(&self, at: Pa, from: &[u8]) {
        self.ram().write(at, from);
    }

    fn read32(&self, at: Pa) -> u32 {
        self.ram().load32(at)
    }

    fn write32(&self, at: Pa, word: u32) {
        self.ram().store32(at, word);
    }

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

/// Real fences of the host: QEMU is another process on the same caches.
impl Barriers for QemuPlatform {
    fn write_barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn read_barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Clock for QemuPlatform {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn relax(&self) {
        thread::sleep(TURN);
    }
}

impl Sink for QemuPlatform {
    fn listening(&self) -> bool {
        self.sink.listening()
    }

    fn event(&self, event: &Event<'_>) {
        self.sink.event(event);
    }
}

impl Platform for QemuPlatform {
    type Mutex = spin::Mutex<()>;
}

#[cfg(test)]
#[path = "platform_tests.rs"]
mod tests;
