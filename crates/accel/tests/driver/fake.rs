//! A register block that does what `docs/accelerator.md` says, and on demand what it does not; a platform with a clock and a log, and no memory.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use portcullis_accel::{Accelerator, Form, Space};
use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Iova, Pa, Pasid};

/// What the driver did to the device, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write(usize, u64),
    WriteBarrier,
    ReadBarrier,
}

/// What the device does against the book.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mischief {
    /// Turns after a change of ENABLE until READY; none: never.
    pub(crate) ready_after: Option<u32>,
    /// ENABLE is not kept.
    pub(crate) stays_disabled: bool,
    /// Bits of PASID, BASE and SIZE that are not kept.
    pub(crate) lost: [u64; 3],
    /// A start is not heeded; or the queue fails with this in ERROR.
    pub(crate) no_start: bool,
    pub(crate) failing_start: Option<u64>,
    /// Turns that a stop takes; none: for ever.
    pub(crate) stop_after: Option<u32>,
    pub(crate) ignores_abort: bool,
    /// Nothing answers.
    pub(crate) gone: bool,
}

#[derive(Clone, Copy, Default)]
struct Queue {
    pasid: u32,
    base: u64,
    size: u32,
    state: u32,
    error: u64,
    tail: u32,
    head: u32,
    stopping_for: u32,
}

struct Block {
    id: u32,
    cap: u32,
    ctrl: u32,
    ready: bool,
    changed_for: u32,
    queues: [Queue; 16],
    mischief: Mischief,
}

/// The device and the platform in one: both do something when time goes by.
pub(crate) struct Machine {
    block: Mutex<Block>,
    log: Mutex<Vec<Op>>,
    now_ns: AtomicU64,
}

/// The device's registers.
#[derive(Clone)]
pub(crate) struct Bus(pub(crate) Arc<Machine>);

/// An address space that is only a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) u32);

impl Space for Process {
    fn pasid(&self) -> Option<Pasid> {
        Pasid::new(self.0)
    }
}

/// How long the tests wait for what comes at once, by the fake clock.
pub(crate) const LIMIT_NS: u64 = 100_000_000;
/// 2 queues of up to 16 entries, PASIDs of 16 bits.
pub(crate) const CAP: u32 = 0x0010_0402;
pub(crate) const STOP_MARKER: u32 = 1 << 24;
pub(crate) const RING: Iova = Iova::new(0xffff_8000_1240);

impl Machine {
    pub(crate) fn new(cap: u32, mischief: Mischief) -> Arc<Self> {
        let mischief = Mischief {
            ready_after: mischief.ready_after.or(Some(3)),
            stop_after: mischief.stop_after.or(Some(2)),
            ..mischief
        };
        Self::exactly(cap, mischief)
    }

    /// As [`new`](Self::new), where no number means never.
    pub(crate) fn exactly(cap: u32, mischief: Mischief) -> Arc<Self> {
        let queues = [Queue::default(); 16];
        let block = Block { id: 0x315a_4350, cap, ctrl: 0, ready: true, changed_for: 0, queues, mischief };
        Arc::new(Self { block: Mutex::new(block), log: Mutex::default(), now_ns: AtomicU64::new(0) })
    }

    pub(crate) fn with_id(self: Arc<Self>, id: u32) -> Arc<Self> {
        self.block.lock().unwrap().id = id;
        self
    }

    pub(crate) fn start(self: &Arc<Self>) -> Arc<Accelerator<Machine, Bus>> {
        Accelerator::start(self.clone(), Bus(self.clone()), Form::Pcie).unwrap()
    }

    pub(crate) fn mischief(&self, change: impl FnOnce(&mut Mischief)) {
        change(&mut self.block.lock().unwrap().mischief);
    }

    /// Fails a running queue.
    pub(crate) fn fail(&self, queue: usize, error: u64) {
        let queue = &mut self.block.lock().unwrap().queues[queue];
        (queue.state, queue.error) = (3, error);
    }

    pub(crate) fn set_state(&self, queue: usize, state: u32) {
        self.block.lock().unwrap().queues[queue].state = state;
    }

    pub(crate) fn set_head(&self, queue: usize, head: u32) {
        self.block.lock().unwrap().queues[queue].head = head;
    }

    /// PASID, BASE, SIZE, STATE of a queue.
    pub(crate) fn queue(&self, queue: usize) -> (u32, u64, u32, u32) {
        let queue = self.block.lock().unwrap().queues[queue];
        (queue.pasid, queue.base, queue.size, queue.state)
    }

    pub(crate) fn enabled(&self) -> bool {
        self.block.lock().unwrap().ctrl & 1 != 0
    }

    pub(crate) fn take_log(&self) -> Vec<Op> {
        core::mem::take(&mut self.log.lock().unwrap())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn log(&self, op: Op) {
        self.log.lock().unwrap().push(op);
    }
}

impl Block {
    fn read(&self, offset: usize) -> u64 {
        if self.mischief.gone {
            return u64::MAX;
        }
        match offset {
            0x0000 => self.id.into(),
            0x0008 => self.cap.into(),
            0x0010 => self.ctrl.into(),
            0x0018 => self.ready.into(),
            0x1000..0x1400 => {
                let queue = &self.queues[(offset - 0x1000) / 0x40];
                match offset % 0x40 {
                    0x00 => queue.pasid.into(),
                    0x08 => queue.base,
                    0x10 => queue.size.into(),
                    0x20 => queue.state.into(),
                    0x28 => queue.error,
                    _ => 0,
                }
            }
            0x8000..0xc000 => {
                let queue = &self.queues[(offset - 0x8000) / 0x400];
                match offset % 0x400 {
                    0x00 => queue.tail.into(),
                    0x08 => queue.head.into(),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "registers of 32 bits")]
    fn write(&mut self, offset: usize, value: u64) {
        match offset {
            0x0010 => self.set_ctrl(value as u32 & 1),
            0x1000..0x1400 => {
                let index = (offset - 0x1000) / 0x40;
                let off = self.queues[index].state == 0;
                let [pasid, base, size] = self.mischief.lost;
                match offset % 0x40 {
                    0x00 if off => self.queues[index].pasid = value as u32 & 0x800f_ffff & !(pasid as u32),
                    0x08 if off => self.queues[index].base = value & !base,
                    0x10 if off => self.queues[index].size = value as u32 & 0xf & !(size as u32),
                    0x18 => self.command(index, value as u32),
                    _ => {}
                }
            }
            0x8000..0xc000 if offset.is_multiple_of(0x400) => {
                self.queues[(offset - 0x8000) / 0x400].tail = value as u32
            }
            _ => {}
        }
    }

    fn set_ctrl(&mut self, ctrl: u32) {
        if self.mischief.stays_disabled {
            return;
        }
        if ctrl != self.ctrl {
            (self.ready, self.changed_for) = (false, 0);
        }
        self.ctrl = ctrl;
        if ctrl == 0 {
            self.queues = [Queue::default(); 16];
        }
    }

    fn command(&mut self, index: usize, command: u32) {
        let marker = self.cap & 1 << 24 != 0;
        let Mischief { no_start, failing_start, ignores_abort, .. } = self.mischief;
        let enabled = self.ctrl != 0;
        let queue = &mut self.queues[index];
        match (command, queue.state) {
            (1, 0) if !no_start && enabled => {
                (queue.state, queue.head, queue.tail) = (1, 0, 0);
                if let Some(error) = failing_start {
                    (queue.state, queue.error) = (3, error);
                }
            }
            (2, 1) if marker => queue.state = 0,
            (2, 1) => (queue.state, queue.stopping_for) = (2, 0),
            (2, 3) => (queue.state, queue.error) = (0, 0),
            (3, _) if !ignores_abort => queue.state = 0,
            _ => {}
        }
    }

    fn step(&mut self) {
        self.changed_for += 1;
        let Mischief { ready_after, stop_after, .. } = self.mischief;
        self.ready |= ready_after.is_some_and(|turns| self.changed_for >= turns);
        for queue in self.queues.iter_mut().filter(|queue| queue.state == 2) {
            queue.stopping_for += 1;
            if stop_after.is_some_and(|turns| queue.stopping_for >= turns) {
                queue.state = 0;
            }
        }
    }
}

impl Registers for Bus {
    #[expect(clippy::cast_possible_truncation, reason = "the low word of a register")]
    fn read32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 0x1_0000);
        self.0.block.lock().unwrap().read(offset) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write64(offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset < 0x1_0000);
        self.0.block.lock().unwrap().read(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset < 0x1_0000);
        self.0.log(Op::Write(offset, value));
        self.0.block.lock().unwrap().write(offset, value);
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(100_000, Relaxed);
        self.block.lock().unwrap().step();
    }
}

impl Barriers for Machine {
    fn write_barrier(&self) {
        self.log(Op::WriteBarrier);
    }

    fn read_barrier(&self) {
        self.log(Op::ReadBarrier);
    }

    fn full_barrier(&self) {
        self.write_barrier();
        self.read_barrier();
    }
}

/// The driver has no memory of its own.
impl TableMemory for Machine {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        None
    }

    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("nothing was allocated")
    }

    fn load(&self, at: Pa) -> u64 {
        unreachable!("{at}")
    }

    fn store(&self, at: Pa, _: u64) {
        unreachable!("{at}")
    }

    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("{at}")
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl DmaMemory for Machine {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        None
    }

    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("nothing was allocated")
    }

    fn read(&self, at: Pa, _: &mut [u8]) {
        unreachable!("{at}")
    }

    fn write(&self, at: Pa, _: &[u8]) {
        unreachable!("{at}")
    }

    fn read32(&self, at: Pa) -> u32 {
        unreachable!("{at}")
    }

    fn write32(&self, at: Pa, _: u32) {
        unreachable!("{at}")
    }

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for Machine {
    type Mutex = spin::Mutex<()>;
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}
