//! A device that asks, a driver that answers and remembers it, and a machine that hears events.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use portcullis_core::iopf::{
    FaultQueue, GroupTag, Handled, Limits, PageRequest, PageRequestHandler, PageRequester, PageResponse,
    Reported, Responder, ResponseCode,
};
use portcullis_hal::lock_api::RawMutex;
use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Iova, Pa, Pasid, Perms, SourceId};

/// A lock whose every step shuttle may interrupt. Shuttle runs one thread at a time, and switches only where it is asked.
#[derive(Debug)]
pub(crate) struct Scheduled(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, because of the exchange.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for Scheduled {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = portcullis_hal::lock_api::GuardNoSend;

    fn lock(&self) {
        shuttle::thread::yield_now();
        while !self.try_lock() {
            shuttle::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, SeqCst);
    }
}

/// What a polling loop does in each turn.
pub(crate) trait Relax {
    fn relax();
}

impl Relax for Spin {
    fn relax() {
        std::thread::yield_now();
    }
}

impl Relax for Scheduled {
    fn relax() {
        shuttle::thread::yield_now();
    }
}

/// What a lock must be for these tests.
pub(crate) trait TestMutex: RawMutex + Relax + Send + Sync + core::fmt::Debug + 'static {}

impl<M: RawMutex + Relax + Send + Sync + core::fmt::Debug + 'static> TestMutex for M {}

/// A machine of which only the clock and the ear for events are used.
#[derive(Debug)]
pub(crate) struct Machine<M> {
    now_ns: AtomicU64,
    /// How long a turn of a polling loop takes, by the clock.
    turn_ns: u64,
    pub(crate) events: Mutex<Vec<String>>,
    pub(crate) deaf: AtomicBool,
    mutex: core::marker::PhantomData<fn(M)>,
}

impl<M> Machine<M> {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_turns_of_ns(1000)
    }

    /// For whoever waits for seconds: each turn lets other threads run, and a machine that is busy with others has it wait for them.
    pub(crate) fn with_turns_of_ns(turn_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            now_ns: AtomicU64::new(0),
            turn_ns,
            events: Mutex::default(),
            deaf: AtomicBool::new(false),
            mutex: core::marker::PhantomData,
        })
    }
}

impl<M: TestMutex> Platform for Machine<M> {
    type Mutex = M;
}

impl<M: TestMutex> Clock for Machine<M> {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(SeqCst)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(self.turn_ns, SeqCst);
        M::relax();
    }
}

impl<M: 'static> Sink for Machine<M> {
    fn listening(&self) -> bool {
        !self.deaf.load(SeqCst)
    }

    fn event(&self, event: &Event<'_>) {
        self.events.lock().unwrap().push(event.to_string());
    }
}

impl<M: 'static> Barriers for Machine<M> {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

const NO_MEMORY: &str = "page requests need no memory that hardware reads";

impl<M: 'static> DmaMemory for Machine<M> {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_MEMORY}")
    }
    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_MEMORY}")
    }
    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{NO_MEMORY}")
    }
    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{NO_MEMORY}")
    }
    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{NO_MEMORY}")
    }
    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{NO_MEMORY}")
    }
    fn clean(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }
    fn invalidate(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }
}

impl<M: 'static> TableMemory for Machine<M> {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_MEMORY}")
    }
    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_MEMORY}")
    }
    fn load(&self, _: Pa) -> u64 {
        unreachable!("{NO_MEMORY}")
    }
    fn store(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }
    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("{NO_MEMORY}")
    }
    fn clean_table(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }
}

/// Remembers what it was told to send.
#[derive(Default)]
pub(crate) struct Answers(Mutex<Vec<PageResponse>>);

impl Answers {
    /// Since the last call.
    pub(crate) fn take(&self) -> Vec<PageResponse> {
        core::mem::take(&mut self.0.lock().unwrap())
    }

    /// Tags and codes since the last call.
    pub(crate) fn codes(&self) -> Vec<(u16, ResponseCode)> {
        self.take().iter().map(|response| (response.group.number(), response.code)).collect()
    }
}

impl Responder for Answers {
    fn respond(&self, response: &PageResponse) {
        self.0.lock().unwrap().push(*response);
    }
}

pub(crate) type Spin = spin::Mutex<()>;

/// A device in a queue.
pub(crate) struct Bench<M: TestMutex> {
    pub(crate) machine: Arc<Machine<M>>,
    pub(crate) queue: FaultQueue<Machine<M>>,
    pub(crate) device: Arc<PageRequester<Machine<M>>>,
    pub(crate) answers: Arc<Answers>,
}

impl<M: TestMutex> Bench<M> {
    pub(crate) fn with(limits: Limits) -> Self {
        let machine = Machine::new();
        let answers = Arc::new(Answers::default());
        let device = PageRequester::new(machine.clone(), "0000:00:03.0", Some(answers.clone()), limits);
        let queue = FaultQueue::new();
        queue.add_device(&device).unwrap();
        Self { machine, queue, device, answers }
    }

    /// Another device in the same queue.
    pub(crate) fn another(&self, name: &str) -> (Arc<PageRequester<Machine<M>>>, Arc<Answers>) {
        let answers = Arc::new(Answers::default());
        let device = PageRequester::new(self.machine.clone(), name, Some(answers.clone()), Limits::default());
        self.queue.add_device(&device).unwrap();
        (device, answers)
    }

    pub(crate) fn handle(&self, id: u32, handler: impl PageRequestHandler + 'static) {
        self.device.set_handler(pasid(id), Arc::new(handler)).unwrap();
    }

    pub(crate) fn report(&self, request: PageRequest) -> Reported {
        self.device.report(&request)
    }

    pub(crate) fn work_all(&self) {
        while self.queue.work() {}
    }
}

pub(crate) fn bench() -> Bench<Spin> {
    Bench::with(Limits::default())
}

/// A handler that resolves everything, and the addresses that it saw.
pub(crate) fn witness() -> (Arc<Mutex<Vec<u64>>>, impl PageRequestHandler) {
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let to = seen.clone();
    (seen, move |request: &PageRequest| {
        to.lock().unwrap().push(request.address.get());
        Handled::Resolved
    })
}

pub(crate) fn pasid(id: u32) -> Option<Pasid> {
    Pasid::new(id)
}

/// The last request of a group, for PASID 1, to write.
pub(crate) fn last(group: u16, address: u64) -> PageRequest {
    PageRequest {
        source: SourceId(0x18),
        pasid: pasid(1),
        group: GroupTag::Prg(group),
        last: true,
        wanted: Perms::WRITE,
        address: Iova::new(address),
    }
}

/// A request of a group that is not its last.
pub(crate) fn partial(group: u16, address: u64) -> PageRequest {
    PageRequest { last: false, ..last(group, address) }
}
