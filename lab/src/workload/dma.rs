//! `dma`: a file, read from an NVMe disk with the DMA API.
//!
//! The machine boots; the disk that holds the input gets its driver; the driver reads all of it, in pieces, into buffers that are mapped for the
//! time of one command, and interrupts arrive as messages that the IOMMU translated. Then it is proved that
//!
//! - the bytes that arrived are the input's (SHA-256);
//! - each of them went through a translated access of the disk: the port counts, and the count must fit;
//! - what was unmapped cannot be reached any more: the disk's own stream id is tried on every such address, and the IOMMU must abort
//!   the access and record a fault;
//! - what firmware keeps mapped for the disk is reached 1:1, and once the disk is detached nothing is;
//! - nothing else faulted, the IOMMU's model has nothing to say against the driver, and at the end all memory is back (`proof`).

use std::sync::Arc;
use std::time::Instant;

use portcullis::core::domain::FlushMode;
use portcullis_qemu::Qemu;

use super::counting::{add_driver_counters, add_smmu_counters};
use super::disk::KernelDisk;
use super::front::Front;
use super::proof::{Watch, no_errors, proved};
use super::witness::Witness;
use crate::boot::{BootRequest, Standing, System};
use crate::error::RunError;
use crate::input::Opened;
use crate::machine::{DiskContent, Machine, MachineSpec, qemu, tables_of};
use crate::platform::{LabPlatform, Tamper};
use crate::report::Counters;
use crate::trace::SharedSink;

/// The workload's name.
pub const NAME: &str = "dma";

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
    /// When unmapped addresses are flushed.
    pub mode: FlushMode,
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
    /// SHA-256 of what arrived, in hexadecimal.
    pub digest: String,
    /// How long the reading took on this computer, in nanoseconds.
    pub elapsed_ns: u64,
}

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says. An outcome is always a verified one.
pub fn run(job: &Job<'_>) -> Result<Outcome, RunError> {
    let content = DiskContent::holding(job.input);
    let device_tree = tables_of(&job.spec, job.device_tree.as_deref())?;
    let disk_name = first_disk_name(&job.spec)?;
    let witness = Arc::new(Witness::new(&disk_name, job.sink.clone()));
    let sink: SharedSink = witness.clone();
    let machine = Machine::build(job.spec.clone(), content, job.seed, &sink)?;
    prove(job, &machine, &device_tree, &disk_name, &witness)
}

/// The same on QEMU's hardware. What that cannot show is said in [`qemu::NOT_SHOWN`].
///
/// # Errors
///
/// As [`RunError`] says.
pub fn run_on_qemu(qemu: &Qemu, job: &qemu::Job<'_>) -> Result<Outcome, RunError> {
    let (machine, device_tree) = Machine::on_qemu(qemu, DiskContent::holding(job.input), job.seed)?;
    let job = Job {
        spec: machine.spec.clone(),
        device_tree: None,
        input: job.input,
        seed: job.seed,
        mode: FlushMode::Strict,
        sink: job.sink.clone(),
        tamper: job.tamper.clone(),
        progress: job.progress,
    };
    let disk_name = first_disk_name(&job.spec)?;
    let witness = Arc::new(Witness::without_models(&disk_name, job.sink.clone()));
    prove(&job, &machine, &device_tree, &disk_name, &witness)
}

/// Does the work on a machine, and says what is known if it goes wrong.
fn prove(
    job: &Job<'_>,
    machine: &Machine,
    device_tree: &[u8],
    disk_name: &str,
    witness: &Arc<Witness>,
) -> Result<Outcome, RunError> {
    let sink: SharedSink = witness.clone();
    proved(work(job, machine, device_tree, disk_name, witness, &sink), machine, witness)
}

/// Everything from boot to shutdown.
fn work(
    job: &Job<'_>,
    machine: &Machine,
    device_tree: &[u8],
    disk_name: &str,
    witness: &Arc<Witness>,
    sink: &SharedSink,
) -> Result<(Arc<LabPlatform>, Outcome), RunError> {
    let request = BootRequest::new(machine, device_tree, sink.clone());
    let tamper = job.tamper.clone();
    let mut system = System::boot(BootRequest { tamper, mode: job.mode, ..request })?;
    let mut watch = Watch::new(machine, witness);
    let kernels = KernelDisk::bind(&system, disk_name, machine.disks.first())?;
    let disk = kernels.device().clone();
    watch.device(&system, &disk, Front::of_disk(&job.spec, machine, 0));
    watch.check_direct(&disk)?;
    watch.touch_mapped(&disk)?;
    let start = Instant::now();
    let read = kernels.read_all(job.input, &mut |done, total| {
        watch.service(&system);
        if job.mode == FlushMode::Strict {
            watch.probe_unmapped(&system);
        }
        if let Some(progress) = job.progress {
            progress(done, total);
        }
    });
    let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let closed = kernels.unbind(&system);
    let digest = read?;
    closed?;
    watch.call_disk(&system, disk_name)?;
    if job.mode == FlushMode::Strict {
        watch.probe_unmapped(&system);
    }
    watch.probe_neighbours(&system);
    watch.dismiss_disk(&system)?;
    let platform = system.platform.clone();
    let mut counters = Counters::default();
    add_core_counters(&mut counters, &system);
    if machine.qemu.is_some() {
        add_driver_counters(&mut counters, witness, &system);
    }
    drop(disk);
    system.detach()?;
    watch.probe_detached(&system);
    let Counters { probes, probes_blocked, .. } = watch.verdict()?;
    no_errors(&system)?;
    system.shut_down()?;
    add_model_counters(&mut counters, machine, 0, &platform);
    Ok((platform, Outcome { counters: Counters { probes, probes_blocked, ..counters }, digest, elapsed_ns }))
}

/// The disk with the input: the first slot's.
pub(super) fn first_disk_name(spec: &MachineSpec) -> Result<String, RunError> {
    let disk = spec.disks().next().ok_or_else(|| {
        RunError::refused(
            &spec.name,
            "it has no NVMe disk",
            "choose a machine with one: see `portcullis machines`",
        )
    })?;
    Ok(spec.device_name(&disk))
}

/// What core counted.
pub(super) fn add_core_counters(counters: &mut Counters, system: &System) {
    for (_, endpoint) in system.endpoints() {
        let Standing::Behind { device, group } = &endpoint.standing else { continue };
        let first = group.devices().first().is_some_and(|first| Arc::ptr_eq(first, device));
        // Groups share a domain: counted once.
        if let Some(dma) = group.dma(device).filter(|_| first) {
            counters.maps += dma.stats().maps;
            counters.unmaps += dma.stats().unmaps;
        }
    }
}

/// What the models counted; `disk` is the one that was worked on.
pub(super) fn add_model_counters(
    counters: &mut Counters,
    machine: &Machine,
    disk: usize,
    platform: &LabPlatform,
) {
    add_smmu_counters(counters, machine, platform);
    let Some(disk) = machine.disks.get(disk) else { return };
    let traffic = disk.traffic();
    counters.device_wrote_bytes = traffic.written_bytes;
    counters.device_read_bytes = traffic.read_bytes;
    counters.interrupts = traffic.messages;
}
