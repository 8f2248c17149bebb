//! `sva`: a process hands its pointers to a compression accelerator.
//!
//! The machine boots; the accelerator's driver starts; a process maps the input and memory for the output, and touches neither. It is bound to the
//! device, writes a job with its own stores, and rings. The accelerator deflates one buffer into the other by the process's own addresses, with its PASID,
//! through the process's own page table; pages that are not there are brought in by the workers of the fault queue. The process sees the
//! job end, reads the output, and it is proved (`verify`) that all of it is right and went through the IOMMU. Then it unmaps, is unbound, and exits.
//!
//! | file | what |
//! |---|---|
//! | `device` | the accelerator and its model |
//! | `before` | the model of the IOMMU before it |
//! | `client` | the process |
//! | `kernel` | interrupts, and the workers of the fault queue |
//! | `verify` | what has to be proved |
//! | `kill` | the process that kills itself in the middle |
//! | `chronicle` | what happened step by step |
//! | `gate` | files that come late |

mod before;
mod chronicle;
mod client;
mod device;
mod gate;
mod kernel;
mod kill;
mod verify;
pub mod whole;

use std::sync::Arc;
use std::time::Instant;

use portcullis::accel::{HowClosed, Outcome as JobOutcome, Queue, State};
use portcullis::core::domain::FlushMode;
use portcullis::core::sva::{Bond, SvaDevice};
use portcullis::types::{Pa, Pasid, SourceId};

use self::chronicle::{Chronicle, Step};
use self::client::{Client, RING_LG2};
use self::device::{Driver, Found, Model};
use self::gate::Bytes;
use self::kernel::{Duty, Patience};
use self::verify::Prober;
use super::TRY_VERBOSE;
use super::counting::add_smmu_counters;
use super::proof::{no_errors, proved};
use super::witness::Witness;
use crate::boot::{BootRequest, Sharer, System};
use crate::error::RunError;
use crate::input::Opened;
use crate::machine::{DiskContent, Machine, MachineSpec, tables_of};
use crate::platform::{LabPlatform, RegisterWindow, Tamper};
use crate::process::{Backing, Kernel, RealFile};
use crate::report::{Counters, SvaCounters};
use crate::trace::SharedSink;

/// The workload's name.
pub const NAME: &str = "sva";

/// How long a queue may take to stop, in nanoseconds of the machine's.
const STOP_LIMIT_NS: u64 = 1_000_000_000;

/// Which form of the accelerator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The PCIe function: ATS, PASID, PRI.
    #[default]
    Pcie,
    /// The platform device: stalled where a page is missing.
    Platform,
}

impl DeviceKind {
    /// Every kind, the default first.
    pub const ALL: [Self; 2] = [Self::Pcie, Self::Platform];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcie => "pcie",
            Self::Platform => "platform",
        }
    }
}

/// What to do.
pub struct Job<'a> {
    /// The machine.
    pub spec: MachineSpec,
    /// Its device tree, if it came from somewhere else.
    pub device_tree: Option<Vec<u8>>,
    /// The input.
    pub input: &'a Opened,
    /// Decides what models are free to decide.
    pub seed: u64,
    /// Which accelerator.
    pub device: DeviceKind,
    /// Whether the process kills itself right after it has given the job, while a fault is under way.
    pub kill: bool,
    /// Who hears what happens.
    pub sink: SharedSink,
    /// Who falsifies what the CPU does.
    pub tamper: Option<Arc<dyn Tamper>>,
    /// Who is told of bytes done, of how many.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Send + Sync)>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it took.
    pub counters: Counters,
    /// SHA-256 of the output, inflated, in hexadecimal. None if the process was killed, as it was to be: then there is no output.
    pub digest: Option<String>,
    /// How long the work took on this computer, in nanoseconds.
    pub elapsed_ns: u64,
}

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says. An outcome is always a verified one.
pub fn run(job: &Job<'_>) -> Result<Outcome, RunError> {
    check_room(job)?;
    let device_tree = tables_of(&job.spec, job.device_tree.as_deref())?;
    let witness = Arc::new(Witness::new("", job.sink.clone()));
    let chronicle = Arc::new(Chronicle::new(witness.clone()));
    let sink: SharedSink = chronicle.clone();
    let machine = Machine::build(job.spec.clone(), DiskContent::Blank, job.seed, &sink)?;
    proved(work(job, &machine, &device_tree, &witness, &chronicle, &sink), &machine, &witness)
}

/// Input and output lie in the machine's memory, the output perhaps a bit larger than the input.
fn check_room(job: &Job<'_>) -> Result<(), RunError> {
    let bytes = job.input.measure().bytes;
    let wanted = bytes.saturating_add(client::room_for(bytes)).saturating_add(16 << 20);
    match job.spec.ram.len_bytes() {
        Some(ram) if ram < wanted => {
            let what = format!("it has {} MiB of memory, and the job may take {}", ram >> 20, wanted >> 20);
            Err(RunError::refused(&job.spec.name, what, "give a smaller file, or use a machine with more"))
        }
        _ => Ok(()),
    }
}

/// Everything from boot to shutdown.
fn work(
    job: &Job<'_>,
    machine: &Machine,
    device_tree: &[u8],
    witness: &Witness,
    chronicle: &Chronicle,
    sink: &SharedSink,
) -> Result<(Arc<LabPlatform>, Outcome), RunError> {
    let request = BootRequest::new(machine, device_tree, sink.clone());
    let request = BootRequest { tamper: job.tamper.clone(), mode: FlushMode::Strict, ..request };
    let system = System::boot(request)?;
    let model = Model::find(machine, job.device)?;
    let stage = Stage { job, machine, system: &system, model: &model, witness, chronicle };
    let mut outcome = stage.run()?;
    no_errors(&system)?;
    let platform = system.platform.clone();
    let ids = system.pasids.in_use();
    system.shut_down()?;
    let left = [
        ("PASIDs", ids as u64),
        ("unpredictable uses of tables by CPUs", machine.cpus.unpredictable_count()),
    ];
    if let Some((what, count)) = left.into_iter().find(|&(_, count)| count > 0) {
        return Err(RunError::wrong("no-leak", format!("{count} {what} after shutdown"), TRY_VERBOSE));
    }
    add_smmu_counters(&mut outcome.counters, machine, &platform);
    Ok((platform, outcome))
}

/// Where it happens.
struct Stage<'a> {
    job: &'a Job<'a>,
    machine: &'a Machine,
    system: &'a System,
    model: &'a Model,
    witness: &'a Witness,
    chronicle: &'a Chronicle,
}

/// A process that is bound to the accelerator and has a queue there.
struct Session<'a> {
    stage: &'a Stage<'a>,
    duty: Duty<'a>,
    device: Arc<SvaDevice<LabPlatform>>,
    client: Client,
    queue: Queue<LabPlatform, RegisterWindow, Arc<Bond<LabPlatform>>>,
    pasid: Pasid,
}

impl<'a> Stage<'a> {
    fn run(&self) -> Result<Outcome, RunError> {
        let found = Found::find(self.system, &self.machine.spec, self.job.device)?;
        let sharer = found.share(self.system)?;
        let driver = found.start(self.system)?;
        let kernel = kernel::start(self.system, &self.machine.cpus, self.job.seed)?;
        let outcome = if self.job.kill {
            kill::run(self, &found, &sharer, &driver, &kernel)
        } else {
            self.compress(&found, &sharer, &driver, &kernel)
        }?;
        let off = driver.shut_down();
        off.map_err(|error| self.wrong(format!("its driver did not stop: {error}")))?;
        self.system.unshare(sharer, found.host())?;
        Ok(outcome)
    }

    /// The whole of it, without an accident.
    fn compress(
        &self,
        found: &Found<'_>,
        sharer: &Sharer,
        driver: &Arc<Driver>,
        kernel: &Arc<Kernel>,
    ) -> Result<Outcome, RunError> {
        let client = Client::new(kernel, self.input()?, None)?;
        let mut session = Session::open(self, sharer, driver, found.registers_at(self.system)?, client)?;
        let (start, input) = (Instant::now(), self.job.input.measure());
        session.begin()?;
        let ended = session.wait()?;
        verify::job(&ended, input)?;
        let inflated = session.client.inflate(ended.produced)?;
        let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        verify::output(&inflated, &ended, &self.job.input.name(), input)?;
        verify::bytes(self.model, session.pasid, &ended, &self.machine.disks)?;
        let counters = self.counters(&session, ended.produced);
        let sources = found.sources().ok_or_else(|| self.wrong("it has no stream id".into()))?;
        let (probes, probes_blocked) = session.end(sources)?;
        let counters = Counters { probes, probes_blocked, ..counters };
        Ok(Outcome { counters, digest: Some(inflated.digest), elapsed_ns })
    }

    fn input(&self) -> Result<Box<dyn Backing>, RunError> {
        Ok(match self.job.input {
            Opened::File(path, _) => Box::new(RealFile::open(path).map_err(|error| {
                let what = format!("cannot be read ({error})");
                RunError::bad_input(path.display(), what, "give the path of a regular file that you may read")
            })?),
            Opened::Sample(bytes, _) => Box::new(Bytes(bytes.clone())),
        })
    }

    /// What the session has come to so far.
    fn counters(&self, session: &Session<'_>, output_bytes: u64) -> Counters {
        let moved = self.model.moved_in_all();
        let by_pasid = self.model.moved(session.pasid);
        let counts = session.device.requester().counts();
        Counters {
            device_read_bytes: moved.read,
            device_wrote_bytes: moved.written,
            sva: Some(SvaCounters {
                device: self.job.device.name(),
                killed: self.job.kill,
                pasid: session.pasid.get(),
                pasid_read_bytes: by_pasid.read,
                pasid_wrote_bytes: by_pasid.written,
                output_bytes,
                page_requests: counts.requests,
                responses_success: counts.success,
                responses_invalid: counts.invalid,
                responses_failure: counts.failure,
                retries: self.model.retries(),
                ..SvaCounters::default()
            }),
            ..Counters::default()
        }
    }

    fn wrong(&self, what: String) -> RunError {
        RunError::wrong("accelerator", what, TRY_VERBOSE)
    }
}

impl<'a> Session<'a> {
    /// Binds the process and opens a queue for it.
    fn open(
        stage: &'a Stage<'a>,
        sharer: &Sharer,
        driver: &Arc<Driver>,
        registers: Pa,
        mut client: Client,
    ) -> Result<Self, RunError> {
        let device = sharer.device.clone();
        let unit = stage.system.unit_of(device.device().iommu().name());
        let unit = unit.ok_or_else(|| stage.wrong("its IOMMU is not up".into()))?;
        let bond = device
            .bind(&client.memory())
            .map_err(|error| stage.wrong(format!("the process was not bound: {error:?}")))?;
        let pasid = bond.pasid();
        let queue = driver.open_queue(bond, client.ring_at(), RING_LG2);
        let queue = queue.map_err(|refused| stage.wrong(format!("no queue: {}", refused.error)))?;
        // Pages larger than the doorbells' half of the registers would give away the kernel's half.
        if kernel_pages_are_apart(client.process().kernel().page_bytes()) {
            client.map_doorbell(Pa::new(registers.get() + queue.doorbell() as u64))?;
        }
        Ok(Self { stage, duty: Duty { system: stage.system, unit }, device, client, queue, pasid })
    }

    /// Writes the job and rings.
    fn begin(&mut self) -> Result<(), RunError> {
        let tail = self.client.write_job()?;
        if !self.client.ring_doorbell(tail)? {
            self.queue.ring_tail(tail);
        }
        Ok(())
    }

    /// Waits until the job has ended.
    fn wait(&self) -> Result<JobOutcome, RunError> {
        let total = self.stage.job.input.measure().bytes;
        let mut patience = Patience::default();
        loop {
            self.duty.turn();
            if let Some(outcome) = self.client.poll()? {
                return Ok(outcome);
            }
            if self.queue.state() != State::Running {
                let why = self.queue.failure().map_or_else(String::new, |failure| format!(": {failure}"));
                return Err(self.stage.wrong(format!("its queue stopped{why}")));
            }
            patience.turn(self.stage.model, self.pasid, self.client.process())?;
            if let Some(progress) = self.stage.job.progress {
                progress(self.stage.model.moved(self.pasid).read.min(total), total);
            }
        }
    }

    /// Unmaps, unbinds, exits, and proves that what was given back is closed. Answers how many accesses were tried, and blocked.
    fn end(self, sources: [SourceId; 2]) -> Result<(u64, u64), RunError> {
        let Self { stage, duty, device, client, queue, pasid } = self;
        let counts = device.requester().counts();
        if counts.invalid + counts.failure > 0 {
            return Err(stage.wrong(format!("page requests of it were refused: {counts:?}")));
        }
        let (model, witness) = (stage.model, stage.witness);
        let mut prober =
            Prober { duty: &duty, model, witness, sources, pasid, tried: 0, blocked: 0, recorded: 0 };
        client.unmap_buffers()?;
        prober.unmapped(&client)?;
        let closed = queue.close_while(STOP_LIMIT_NS, || {
            duty.serve();
        });
        let closed = closed.map_err(|open| stage.wrong(format!("its queue does not stop: {open}")))?;
        if closed.how != HowClosed::Stopped {
            return Err(stage.wrong(format!("its queue was to be stopped, and was {:?}", closed.how)));
        }
        let unbound = device.unbind(&closed.space);
        unbound.map_err(|error| stage.wrong(format!("the process is bound still: {error:?}")))?;
        drop(closed);
        prober.unbound(&client)?;
        client.process().exit();
        verify::answers(&device.requester().counts(), model)?;
        verify::events(model, prober.recorded)?;
        let (tried, blocked) = (prober.tried, prober.blocked);
        stage.check_steps()?;
        Ok((tried, blocked))
    }
}

/// Where the doorbells begin in the registers. Spec: docs/accelerator.md, "Registers".
const FIRST_DOORBELL: u64 = 0x8000;

/// Whether no page of this size holds both doorbells and registers of the kernel's.
fn kernel_pages_are_apart(page_bytes: u64) -> bool {
    FIRST_DOORBELL.is_multiple_of(page_bytes)
}

impl Stage<'_> {
    /// The steps of a run without an accident.
    fn check_steps(&self) -> Result<(), RunError> {
        let steps = self.chronicle.steps();
        if let Some(what) = chronicle::unanswered(&steps) {
            return Err(RunError::wrong("fault queue", format!("one-answer: {what}"), TRY_VERBOSE));
        }
        let count = |wanted: Step| steps.iter().filter(|&&step| step == wanted).count();
        let counts = (count(Step::Bind), count(Step::Unbind), count(Step::Release));
        if counts == (1, 1, 0) && steps.first() == Some(&Step::Bind) && steps.last() == Some(&Step::Unbind) {
            return Ok(());
        }
        Err(self.wrong(format!("one bind first and one unbind last were to be, and are {counts:?}")))
    }
}
