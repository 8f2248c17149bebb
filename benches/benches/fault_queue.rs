//! Page requests handled per second, from the fault queue to the response, by one worker and by two.
//!
//! The requests are prepared beforehand: every device has its queue full of page requests, each a group of its own, for pages of a process that were
//! never touched, and the kernel has stocked zeroed pages. What is measured is everything from there to the response: taking a group from the queue, the
//! process's fault (its area, a page, the entry with its barrier), and the answer. The memory is that of the models, but stores are direct: the model of a
//! store buffer has one lock for all CPUs, which is not what is asked here.
//!
//! Bar: two workers handle 1.7 times as many as one, with a process for each device. Also printed, without a bar: pages that are zeroed by the fault, through
//! the one lock of the model's heap; one process for all devices, whose faults share its lock; and handlers that do nothing, which is the queue alone.
//!
//! The best of many rounds is taken, since it needs both CPUs at once.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use model_bus::{Bus, BusOptions, Stores};
use model_cpu::{CpuFeatures, Cpus, TlbPolicy};
use portcullis::core::iopf::{
    FaultQueue, GroupTag, Handled, Limits, MmHandler, PageRequest, PageRequestHandler, PageRequester,
    PageResponse, Reported, Responder, ResponseCode,
};
use portcullis::types::{Iova, Pa, PaRange, Pasid, Perms, SizeLg2, SourceId};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::process::{Kernel, KernelOptions, Mapping, Process, Source};
use portcullis_lab::trace;

const PAGE: u64 = 0x1000;
const DEVICES: usize = 32;
/// As many as a device may have waiting.
const GROUPS: usize = 512;
/// Groups that a worker handles of a device before it goes on to the next.
const TURN: usize = 16;
const ROUNDS: usize = 100;
const BAR: f64 = 1.7;

fn main() -> ExitCode {
    println!("page requests handled per second, {DEVICES} devices, {GROUPS} requests of each");
    println!("{:<38}{:>12}{:>12}   2 : 1", "", "1 worker", "2 workers");
    let own = row("a process for each device", &mut Yard::new(DEVICES, true));
    row("the same, pages zeroed by the fault", &mut Yard::new(DEVICES, false));
    row("one process for all devices", &mut Yard::new(1, true));
    row("handlers that do nothing", &mut Yard::new(0, false));
    println!("two workers handle {own:.2} times as many as one (bar: {BAR})");
    if own >= BAR { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line and answers how many times as many two workers handle.
fn row(name: &str, yard: &mut Yard) -> f64 {
    // In turns, so that what else the machine does hits both alike.
    let (mut one, mut two) = (0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        one = one.max(yard.round(1));
        two = two.max(yard.round(2));
    }
    println!("{name:<38}{one:>12.0}{two:>12.0}   {:.2}", two / one);
    two / one
}

/// Counts answers, in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Answers(AtomicUsize);

impl Responder for Answers {
    fn respond(&self, response: &PageResponse) {
        assert_eq!(response.code, ResponseCode::Success);
        self.0.fetch_add(1, Relaxed);
    }
}

/// A machine with processes, and devices in one fault queue.
struct Yard {
    queue: FaultQueue<LabPlatform>,
    devices: Vec<Arc<PageRequester<LabPlatform>>>,
    processes: Vec<Arc<Process>>,
    answers: Vec<Arc<Answers>>,
    kernel: Arc<Kernel>,
    stocked: bool,
}

impl Yard {
    /// With so many processes; none for handlers that do nothing. `stocked` says whether zeroed pages are prepared as well.
    fn new(processes: usize, stocked: bool) -> Self {
        let ram = PaRange::new(Pa::new(0x4000_0000), 512 << 20).expect("in order");
        let bus = Bus::new(&BusOptions { stores: Stores::Direct, ..BusOptions::new(ram, 1) });
        let cpus = Cpus::new(bus.clone(), &[CpuFeatures::COMMON; 2], TlbPolicy::seeded(1));
        let platform = Arc::new(LabPlatform::new(bus, trace::shared(None), None));
        let kernel = Kernel::new(platform.clone(), cpus, KernelOptions::new(SizeLg2::KIB_4, 1));
        let kernel = kernel.expect("the CPUs can do this");
        let processes: Vec<_> =
            (0..processes).map(|_| Process::new(&kernel).expect("memory for a table")).collect();
        let answers: Vec<Arc<Answers>> = (0..DEVICES).map(|_| Arc::default()).collect();
        let device = |answers: &Arc<Answers>| {
            PageRequester::new(platform.clone(), "device", Some(answers.clone()), Limits::default())
        };
        let devices: Vec<_> = answers.iter().map(device).collect();
        let queue = FaultQueue::new();
        for (index, device) in devices.iter().enumerate() {
            let handler: Arc<dyn PageRequestHandler> = match processes.get(index % processes.len().max(1)) {
                Some(process) => Arc::new(MmHandler::new(process.clone())),
                None => Arc::new(|_: &PageRequest| Handled::Resolved),
            };
            device.set_handler(Some(PASID), handler).expect("there is none yet");
            queue.add_device(device).expect("it is in no queue");
        }
        Self { queue, devices, processes, answers, kernel, stocked }
    }

    /// Fills the queue, has `workers` empty it, and answers how many requests a second that were.
    fn round(&mut self, workers: usize) -> f64 {
        let len_bytes = (DEVICES * GROUPS) as u64 * PAGE;
        let mapping = Mapping { at: None, len_bytes, perms: Perms::READ_WRITE, source: Source::Anonymous };
        let ranges: Vec<_> =
            self.processes.iter().map(|process| process.map(&mapping).expect("room")).collect();
        for (index, device) in self.devices.iter().enumerate() {
            let base = ranges.get(index % ranges.len().max(1)).map_or(0, |range| range.first().get());
            for group in 0..GROUPS {
                let address = base + (index * GROUPS + group) as u64 * PAGE;
                let reported = device.report(&request(index, group, address));
                assert_eq!(reported, Reported::Ready);
            }
        }
        if self.stocked {
            self.kernel.stock_pages(DEVICES * GROUPS);
        }
        self.answers.iter().for_each(|answers| answers.0.store(0, Relaxed));
        // They spin until all are there: a thread that sleeps comes late.
        let ready = AtomicUsize::new(0);
        let work = || {
            ready.fetch_add(1, Relaxed);
            while ready.load(Relaxed) < workers {
                core::hint::spin_loop();
            }
            let start = Instant::now();
            while self.queue.work_turn(TURN) {}
            (start, Instant::now())
        };
        let turns: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("workers do not panic")).collect()
        });
        let start = turns.iter().map(|turn| turn.0).min().expect("a worker");
        let end = turns.iter().map(|turn| turn.1).max().expect("a worker");
        let took = end - start;
        let answered: usize = self.answers.iter().map(|answers| answers.0.load(Relaxed)).sum();
        assert_eq!(answered, DEVICES * GROUPS, "one answer each");
        for (process, range) in self.processes.iter().zip(ranges) {
            process.unmap(range).expect("nobody listens");
        }
        answered as f64 / took.as_secs_f64()
    }
}

const PASID: Pasid = Pasid::new(1).expect("20 bits");

fn request(device: usize, group: usize, address: u64) -> PageRequest {
    PageRequest {
        source: SourceId(u32::try_from(device).expect("a few")),
        pasid: Some(PASID),
        group: GroupTag::Prg(u16::try_from(group).expect("9 bits")),
        last: true,
        wanted: Perms::WRITE,
        address: Iova::new(address),
    }
}
