//! What sharing a process's memory with devices costs, on a machine of models with the real driver.
//!
//! | figure | bar |
//! |---|---|
//! | page fault round trip: from a device's request that finds no page to its access that is let through, by page requests (ATS, PRI) and by stalls | 3 us of CPU time |
//! | bind + unbind of a process that is bound already | 200 ns |
//! | bind of one more process with 10 and with 1,000 bound; of one more device with 1 and with 63 bound | 2 times |
//! | tables of context descriptors that have room for 2^20 PASIDs | in proportion to those in use |
//! | unmapping 1 GiB of a process, in commands | as many as for 2 MiB |
//!
//! The device's part is done at the translator, without the work of the device itself. One thread does everything, so its time is CPU time; the best of some
//! rounds is taken. The kernel has stocked zeroed pages. The SMMU's model does what it is told at once and throws no dice, since its mischief is not what is
//! asked here; stores go through the model of a store buffer.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use model_bus::{
    Downstream, Invalidation, Outcome, PageRequest, PageResponse, Request, StallState, TranslatedRequest,
    TranslationAnswer, TranslationRequest, Translator,
};
use model_smmuv3::{Policy, StallModel};
use portcullis::core::mm::ProcessMemory;
use portcullis::core::sva::{Bond, DeviceSvaFacts, NoSwitches, SvaDevice};
use portcullis::types::{Access, Iova, IovaRange, Pa, Perms, SourceId};
use portcullis_lab::boot::{BootRequest, Hardware, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::process::{Kernel, Mapping, Process, Source};
use portcullis_lab::trace;

const PAGE: u64 = 0x1000;
const BY_PAGE_REQUEST: DeviceSvaFacts =
    DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 20, can_stall: false };
const BY_STALL: DeviceSvaFacts =
    DeviceSvaFacts { ats: false, pri: false, response_pasid: false, pasid_bits: 20, can_stall: true };

type Device = Arc<SvaDevice<LabPlatform>>;
type Mm = Arc<dyn ProcessMemory>;

fn main() -> ExitCode {
    let figures = [round_trips(), bind_again(), many_bonds(), context_memory(), large_unmap()];
    if figures.iter().all(|&holds| holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A machine that has booted, and a kernel.
struct Yard {
    machine: Machine,
    system: System,
    kernel: Arc<Kernel>,
}

impl Yard {
    /// With so many platform devices.
    fn new(devices: usize) -> Self {
        let sink = trace::shared(None);
        let mut spec = builtin::find(builtin::DEFAULT).expect("there is a default machine");
        let config = &mut spec.smmus[0].config;
        (config.stall, config.ats, config.pri, config.page_queue_lg2) =
            (StallModel::Configurable, true, true, 8);
        // Figures must not depend on dice; and the SMMU works when it is its turn, not at each look at a register.
        config.policy = Policy { work_on_reads: false, ..Policy::eager() };
        // Nothing else that would want its turn at each step.
        spec.host_bridges[0].slots.clear();
        spec.reserved.clear();
        // The commands are what is counted.
        config.broadcast = false;
        let first = spec.accelerators[0];
        let device = |nth: usize| {
            let nth = u32::try_from(nth).expect("a few");
            let mut device = first;
            device.base = Pa::new(first.base.get() + u64::from(nth) * 0x1_0000);
            device.sources = [SourceId(0x800 + 2 * nth), SourceId(0x801 + 2 * nth)];
            device.pasid_bits = 20;
            device
        };
        spec.accelerators = (0..devices).map(device).collect();
        let tree = fdt::emit(&spec).expect("the machine has a device tree");
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).expect("the machine can be built");
        let system = System::boot(BootRequest::new(&machine, &tree, sink)).expect("the machine boots");
        let options = system.cpus.kernel_options(1).expect("there are CPUs");
        let kernel = Kernel::new(system.platform.clone(), machine.cpus.clone(), options);
        Self { machine, system, kernel: kernel.expect("the CPUs can do this") }
    }

    fn process(&self) -> Arc<Process> {
        Process::new(&self.kernel).expect("memory for a table")
    }

    /// The platform devices, able to share.
    fn devices(&self, facts: &DeviceSvaFacts) -> Vec<Device> {
        let enable = |standing: &Standing| match standing {
            Standing::Behind { device, group } => {
                let sva = &self.system.units[0].sva;
                sva.enable(device, group, facts, Arc::new(NoSwitches)).expect("nothing is missing")
            }
            Standing::Uncovered(why) => panic!("{why}"),
        };
        self.system.fixed.iter().map(|fixed| enable(&fixed.standing)).collect()
    }

    /// Lets the SMMU work.
    fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(ready) = ready() {
                return ready;
            }
            self.machine.bus.step();
        }
    }
}

fn map(process: &Process, len_bytes: u64) -> IovaRange {
    let mapping = Mapping { at: None, len_bytes, perms: Perms::READ_WRITE, source: Source::Anonymous };
    process.map(&mapping).expect("room")
}

fn mm(process: &Arc<Process>) -> Mm {
    process.clone()
}

#[expect(clippy::cast_precision_loss, reason = "rounds take seconds at most")]
fn nanoseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

fn best(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// What a round trip is made of.
const STAGES: [&str; 5] = ["request", "queue", "fault + answer", "response arrives", "retry"];
/// Nanoseconds of each.
type Stages = [f64; STAGES.len()];
const FAULTS: u64 = 256;

fn round_trips() -> bool {
    println!("page fault round trip, ns        {}", STAGES.map(|stage| format!("{stage:>17}")).concat());
    let yard = Yard::new(2);
    let inbox = Arc::new(Inbox::default());
    let downstream: Arc<dyn Downstream> = inbox.clone();
    yard.machine.smmus[0].connect(Arc::downgrade(&downstream));
    let mut sva = yard.devices(&BY_PAGE_REQUEST).into_iter();
    let device = sva.next().expect("two devices");
    drop(sva);
    let requests = trip_row("  by page request", &yard, &device, |source, bond, at, lap| {
        by_page_request(&yard, &inbox, source, bond, at, lap);
    });
    let other = Yard::new(1);
    let device = other.devices(&BY_STALL).swap_remove(0);
    let stalls = trip_row("  by stall", &other, &device, |source, bond, at, lap| {
        by_stall(&other, source, bond, at, lap);
    });
    requests && stalls
}

/// Notes that a stage is over.
type Lap<'a> = &'a mut dyn FnMut(usize);

fn trip_row(
    name: &str,
    yard: &Yard,
    device: &Device,
    mut fault: impl FnMut(SourceId, &Bond<LabPlatform>, Iova, Lap<'_>),
) -> bool {
    let process = yard.process();
    let bond = device.bind(&mm(&process)).expect("it can be bound");
    let source = device.device().sources()[0];
    let mut stages = [f64::INFINITY; STAGES.len()];
    let mut total = f64::INFINITY;
    for _ in 0..40 {
        let split = batch(yard, &process, |at, stages| {
            let mut since = Instant::now();
            fault(source, &bond, at, &mut |stage| {
                let now = Instant::now();
                stages[stage] += (now - since).as_secs_f64() * 1e9;
                since = now;
            });
        });
        if split.iter().sum::<f64>() < stages.iter().sum() {
            stages = split;
        }
        // The whole without the looks at the clock in between.
        let whole = batch(yard, &process, |at, stages| {
            stages[0] += nanoseconds(|| fault(source, &bond, at, &mut |_| {}));
        });
        total = total.min(whole[0]);
    }
    println!("{name:<33}{}", stages.map(|stage| format!("{stage:>17.0}")).concat());
    println!("{name}: {total:.0} ns (bar: 3000)");
    device.unbind(&bond).expect("nothing is under way");
    process.exit();
    total < 3000.0
}

/// Has faults at pages that were never touched, and answers what each took on average, as `fault` adds it up.
fn batch(yard: &Yard, process: &Process, mut fault: impl FnMut(Iova, &mut Stages)) -> Stages {
    let range = map(process, FAULTS * PAGE);
    yard.kernel.stock_pages(usize::try_from(FAULTS).expect("a few"));
    let mut stages = Stages::default();
    for page in 0..FAULTS {
        fault(Iova::new(range.first().get() + page * PAGE), &mut stages);
    }
    process.unmap(range).expect("hardware forgets");
    stages.map(|sum| sum / FAULTS as f64)
}

/// A device with an ATC, which forgets at once, and hears the responses to its page requests.
#[derive(Default)]
struct Inbox {
    responses: Mutex<Vec<PageResponse>>,
    smmu: Mutex<Option<Weak<dyn Translator>>>,
}

impl Downstream for Inbox {
    fn invalidate(&self, message: &Invalidation) -> bool {
        let smmu = self.smmu.lock().expect("nobody panics").as_ref().and_then(Weak::upgrade);
        if let Some(smmu) = smmu {
            smmu.invalidation_done(&model_bus::InvalidationDone {
                source: message.source,
                tags: 1 << message.tag,
            });
        }
        true
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.responses.lock().expect("nobody panics").push(*message);
        true
    }
}

fn by_page_request(
    yard: &Yard,
    inbox: &Inbox,
    source: SourceId,
    bond: &Bond<LabPlatform>,
    iova: Iova,
    lap: Lap<'_>,
) {
    let smmu = &yard.machine.smmus[0];
    let translator: Arc<dyn Translator> = smmu.clone();
    inbox.smmu.lock().expect("nobody panics").get_or_insert_with(|| Arc::downgrade(&translator));
    let pasid = Some(bond.pasid());
    let ask = TranslationRequest { source, pasid, iova, no_write: false, execute: false, privileged: false };
    let TranslationAnswer::Translated(answer) = smmu.translate(&ask) else { panic!("ATS is on") };
    assert!(!answer.write);
    smmu.request_page(&PageRequest {
        source,
        pasid,
        privileged: false,
        execute: false,
        iova,
        group: 1,
        last: true,
        read: true,
        write: true,
    });
    lap(0);
    let unit = &yard.system.units[0];
    yard.until(|| (unit.sva.service().requests > 0).then_some(()));
    lap(1);
    assert!(unit.sva.queue().work());
    lap(2);
    let response = yard.until(|| inbox.responses.lock().expect("nobody panics").pop());
    assert_eq!((response.code, response.group), (0, 1));
    lap(3);
    let TranslationAnswer::Translated(answer) = smmu.translate(&ask) else { panic!("ATS is on") };
    assert!(answer.write);
    let access = TranslatedRequest { source, pasid, at: answer.pa, len_bytes: 64, access: Access::WRITE };
    assert_eq!(smmu.access_translated(&access, &mut |_| Ok(())), Outcome::Done);
    lap(4);
}

fn by_stall(yard: &Yard, source: SourceId, bond: &Bond<LabPlatform>, iova: Iova, lap: Lap<'_>) {
    let smmu = &yard.machine.smmus[0];
    let request = Request { source, pasid: Some(bond.pasid()), iova, len_bytes: 64, access: Access::WRITE };
    let Outcome::Stalled(stall) = smmu.access(&request, &mut |_| Ok(())) else { panic!("it stalls") };
    lap(0);
    let unit = &yard.system.units[0];
    yard.until(|| {
        unit.sva.service().requests.checked_sub(1).or_else(|| unit.sva.queue().work().then_some(0))
    });
    lap(1);
    while unit.sva.queue().work() {}
    lap(2);
    let state = yard.until(|| Some(smmu.stalled(stall)).filter(|state| *state != StallState::Waiting));
    assert_eq!(state, StallState::Retry);
    lap(3);
    assert_eq!(smmu.access(&request, &mut |_| Ok(())), Outcome::Done);
    lap(4);
}

fn bind_again() -> bool {
    let yard = Yard::new(1);
    let device = yard.devices(&BY_STALL).swap_remove(0);
    let process = mm(&yard.process());
    let held = device.bind(&process).expect("it can be bound");
    let ns = best(200, || {
        let turns = nanoseconds(|| {
            for _ in 0..1000 {
                let bond = device.bind(&process).expect("it is bound");
                device.unbind(&bond).expect("it is bound");
            }
        });
        turns / 1000.0
    });
    device.unbind(&held).expect("nothing is under way");
    println!("bind + unbind of a bound process: {ns:.0} ns (bar: 200)");
    ns < 200.0
}

/// Nanoseconds for one more bind, the best of some.
fn bind_ns(device: &Device, mm: &Mm) -> f64 {
    best(30, || {
        let mut bond = None;
        let took = nanoseconds(|| bond = Some(device.bind(mm).expect("it can be bound")));
        device.unbind(&bond.expect("bound")).expect("nothing is under way");
        took
    })
}

fn many_bonds() -> bool {
    let yard = Yard::new(64);
    let devices = yard.devices(&BY_STALL);
    let extra = mm(&yard.process());
    let processes: Vec<Mm> = (0..1000).map(|_| mm(&yard.process())).collect();
    let mut bonds: Vec<_> = processes[..10].iter().map(|mm| devices[0].bind(mm).expect("bound")).collect();
    let ten = bind_ns(&devices[0], &extra);
    bonds.extend(processes[10..].iter().map(|mm| devices[0].bind(mm).expect("bound")));
    let thousand = bind_ns(&devices[0], &extra);
    let mut shared = vec![devices[1].bind(&extra).expect("bound")];
    let second = bind_ns(&devices[63], &extra);
    shared.extend(devices[2..63].iter().map(|device| device.bind(&extra).expect("bound")));
    let last = bind_ns(&devices[63], &extra);
    println!(
        "bind of one more process: {ten:.0} ns with 10 bound, {thousand:.0} with 1,000, {:.2} times (bar: 2)",
        thousand / ten
    );
    println!(
        "bind of one more device: {second:.0} ns with 1 bound, {last:.0} with 62, {:.2} times (bar: 2)",
        last / second
    );
    println!("  against 10 processes and 1 device: {:.2} times (bar: 2)", last / ten);
    for bond in bonds.iter().chain(&shared) {
        bond.device().unbind(bond).expect("nothing is under way");
    }
    thousand <= 2.0 * ten && last <= 2.0 * second && last <= 2.0 * ten
}

/// Bytes for a descriptor, and for a table of pointers to tables of 64 descriptors.
const DESCRIPTOR: u64 = 64;
const POINTERS: u64 = (1 << 20) / 64 * 8;

fn context_memory() -> bool {
    let yard = Yard::new(1);
    let platform = yard.system.platform.clone();
    let before = platform.live_table_bytes();
    let device = yard.devices(&BY_STALL).swap_remove(0);
    let mut held = Vec::new();
    let mut used = platform.live_table_bytes() - before;
    println!("tables of context descriptors, 2^20 PASIDs");
    let mut holds = true;
    for count in [1, 100, 1_000, 10_000] {
        let more: Vec<Mm> = (held.len()..count).map(|_| mm(&yard.process())).collect();
        let processes_use = platform.live_table_bytes();
        for mm in more {
            held.push(device.bind(&mm).expect("it can be bound"));
        }
        used += platform.live_table_bytes() - processes_use;
        let count = count as u64;
        // Those of PASID 0's table, which is there always, and a table that is not full.
        let bar = POINTERS + DESCRIPTOR * (count + 128);
        println!("  {count:>6} in use: {used:>9} bytes, {POINTERS} of them pointers (bar: {bar})");
        holds &= used <= bar;
    }
    held.iter().for_each(|bond| device.unbind(bond).expect("nothing is under way"));
    holds
}

fn large_unmap() -> bool {
    let yard = Yard::new(1);
    let device = yard.devices(&BY_STALL).swap_remove(0);
    let process = yard.process();
    let bond = device.bind(&mm(&process)).expect("it can be bound");
    let Hardware::Smmu(smmu) = &yard.system.units[0].driver else { panic!("the machine has an SMMU") };
    let commands = |len_bytes: u64| {
        let range = map(&process, len_bytes);
        for at in (0..len_bytes).step_by(8 * 0x1000) {
            process.write(Iova::new(range.first().get() + at), &[1]).expect("memory");
        }
        let before = smmu.counts();
        process.unmap(range).expect("hardware forgets");
        smmu.counts().since(&before).all_commands()
    };
    let (small, large) = (commands(2 << 20), commands(1 << 30));
    device.unbind(&bond).expect("nothing is under way");
    println!("unmapping 1 GiB of a process: {large} commands, 2 MiB: {small} (bar: 2 more)");
    large <= small + 2
}
