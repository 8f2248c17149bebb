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

use model_devices::nvme::Nvme as Disk;
use model_smmuv3::Smmu;
use portcullis::core::device::{Device, DmaMask};
use portcullis::core::domain::FlushMode;
use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::nvme::{Config, Direction, Interrupts, Nvme, Request, Vector};
use portcullis::pci::{Message, MsixCapability, MsixTable};
use portcullis::types::{Pa, PaRange};
use sha2::{Digest, Sha256};

use super::TRY_VERBOSE;
use super::counting::add_smmu_counters;
use super::proof::{Watch, no_errors, nothing_left, with_testimony};
use super::witness::Witness;
use crate::boot::{BootRequest, Endpoint, HostBridge, Line, Standing, System};
use crate::error::RunError;
use crate::input::{Measure, Opened, hex};
use crate::machine::{DiskContent, Machine, MachineSpec, fdt};
use crate::platform::{LabPlatform, RegisterWindow, Tamper};
use crate::report::Counters;
use crate::trace::SharedSink;

/// The workload's name.
pub const NAME: &str = "dma";

/// How much is read by one command.
const PIECE_BYTES: u64 = 128 << 10;
/// How many commands are in flight.
const IN_FLIGHT: usize = 8;
/// What a command that completes makes the disk write besides its data. Spec: NVMe Base 2.0, 3.3.3.2 "Completion Queue Entry".
const COMPLETION_BYTES: u64 = 16;

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
    let content = match job.input {
        // A disk without blocks is none: an empty input is read from a blank one.
        opened if opened.measure().bytes == 0 => DiskContent::Blank,
        Opened::File(path, _) => DiskContent::File(path.clone()),
        Opened::Sample(bytes, _) => DiskContent::Bytes(bytes.clone()),
    };
    let device_tree = match &job.device_tree {
        Some(tree) => tree.clone(),
        None => fdt::emit(&job.spec)
            .map_err(|error| RunError::bad_input(&job.spec.name, error, "change the machine"))?,
    };
    let disk_name = first_disk_name(&job.spec)?;
    let witness = Arc::new(Witness::new(&disk_name, job.sink.clone()));
    let sink: SharedSink = witness.clone();
    let machine = Machine::build(job.spec.clone(), content, job.seed, &sink)?;
    let worked = work(job, &machine, &device_tree, &disk_name, &witness, &sink);
    let proved = worked.and_then(|(platform, outcome)| {
        nothing_left(&machine, &platform, &witness)?;
        Ok(outcome)
    });
    proved.map_err(|error| with_testimony(error, &machine, &witness))
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
    let bound = bind(&system, disk_name)?;
    let disk = bound.device.clone();
    watch.device(&system, &disk, smmu_before_disk(job, machine));
    watch.check_direct(&disk)?;
    watch.touch_mapped(&disk)?;
    let start = Instant::now();
    let mut reader = Reader::new(job, machine, bound)?;
    let read = reader.read_all(&system, &mut watch);
    let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let closed = reader.close();
    let digest = read?;
    closed?;
    if job.mode == FlushMode::Strict {
        watch.probe_unmapped(&system);
    }
    watch.probe_neighbours(&system);
    let platform = system.platform.clone();
    let mut counters = Counters::default();
    add_core_counters(&mut counters, &system);
    drop(disk);
    system.detach()?;
    watch.probe_detached(&system);
    let Counters { probes, probes_blocked, .. } = watch.verdict()?;
    no_errors(&system)?;
    system.shut_down()?;
    add_model_counters(&mut counters, machine, &platform);
    Ok((platform, Outcome { counters: Counters { probes, probes_blocked, ..counters }, digest, elapsed_ns }))
}

/// The model in front of the first disk.
fn smmu_before_disk(job: &Job<'_>, machine: &Machine) -> Option<Arc<Smmu>> {
    let (bridge, _) = job.spec.disks().next()?;
    let (smmu, _) = job.spec.host_bridges[bridge].smmu?;
    machine.smmus.get(smmu).cloned()
}

/// The disk with the input: the first slot's.
fn first_disk_name(spec: &MachineSpec) -> Result<String, RunError> {
    let (bridge, slot) = spec.disks().next().ok_or_else(|| {
        RunError::refused(
            &spec.name,
            "it has no NVMe disk",
            "choose a machine with one: see `portcullis machines`",
        )
    })?;
    Ok(spec.device_name(bridge, slot))
}

/// A disk that can be driven.
struct Bound {
    nvme: Nvme<LabPlatform, RegisterWindow>,
    device: Arc<Device<LabPlatform>>,
}

fn bind(system: &System, disk_name: &str) -> Result<Bound, RunError> {
    let refused =
        |what: &str| RunError::refused(disk_name, what, "choose another machine: see `portcullis machines`");
    let wrong = |what: String| RunError::wrong(disk_name, what, TRY_VERBOSE);
    let found = system.endpoints().find(|(_, endpoint)| endpoint.name == disk_name);
    let (host, endpoint) = found.ok_or_else(|| wrong("enumeration did not find it".into()))?;
    let (device, group) = match &endpoint.standing {
        Standing::Behind { device, group } => (device, group),
        Standing::Uncovered(why) => return Err(refused(&format!("no IOMMU covers it: {why}"))),
    };
    device.set_dma_mask(DmaMask::BITS_64);
    device.set_coherent_mask(DmaMask::BITS_64);
    let dma = group.dma(device).ok_or_else(|| wrong("it is not in its group".into()))?;
    let function = &host.topology.functions[endpoint.function];
    let registers = function
        .bar(0)
        .and_then(|bar| bar.cpu_range())
        .ok_or_else(|| wrong("its registers were not placed".into()))?;
    let lines = lines(system, host, endpoint, registers, &|line| {
        dma.compose_msi(line.doorbell, line.data)
            .map_err(|error| wrong(format!("no message for its interrupt: {error:?}")))
    })?;
    host.topology.enable_bus_master(&*host.config, endpoint.function);
    let [admin, io] = lines;
    let interrupts = Interrupts { admin: Arc::new(admin), io: Vector { index: 1, interrupt: Arc::new(io) } };
    let register_bytes = usize::try_from(registers.len_bytes().unwrap_or(0)).unwrap_or(usize::MAX);
    let config = Config { register_bytes, queue_depth: 32, ..Config::default() };
    let window = system.platform.registers(registers);
    let nvme = Nvme::start(dma, window, &interrupts, &config)
        .map_err(|error| wrong(format!("the disk's driver did not start: {error}")))?;
    Ok(Bound { nvme, device: device.clone() })
}

/// Programs the first two vectors of a function's MSI-X table.
fn lines(
    system: &System,
    host: &HostBridge,
    endpoint: &Endpoint,
    registers: PaRange,
    compose: &dyn Fn(&Line) -> Result<portcullis::core::dma::MsiMessage, RunError>,
) -> Result<[Line; 2], RunError> {
    let name = &endpoint.name;
    let refused =
        |what: &str| RunError::refused(name, what, "choose another machine: see `portcullis machines`");
    let wrong = |error: &dyn core::fmt::Debug| {
        RunError::wrong(name, format!("its MSI-X table: {error:?}"), TRY_VERBOSE)
    };
    let target = endpoint.msi.ok_or_else(|| refused("firmware does not say where its messages go"))?;
    let function = &host.topology.functions[endpoint.function];
    let found = MsixCapability::find(&*host.config, function).map_err(|error| wrong(&error))?;
    let msix = found
        .filter(|msix| msix.bar() == 0)
        .ok_or_else(|| refused("it has no MSI-X table beside its registers"))?;
    msix.enable_masked(&*host.config);
    let table = MsixTable::new(&msix, system.platform.registers(registers));
    let line = |vector: u16| {
        let line = system.interrupts.line(name, target, vector.into())?;
        let message = compose(&line)?;
        let message = Message { address: message.address.get(), data: message.data };
        table
            .set(vector, message)
            .and_then(|()| table.set_masked(vector, false))
            .map_err(|error| wrong(&error))?;
        Ok::<Line, RunError>(line)
    };
    let lines = [line(0)?, line(1)?];
    msix.set_function_mask(&*host.config, false);
    Ok(lines)
}

/// Reads the disk.
struct Reader<'a> {
    job: &'a Job<'a>,
    disk: Arc<Disk>,
    platform: Arc<LabPlatform>,
    bound: Bound,
    buffers: Vec<Pa>,
    layout: BlockLayout,
}

impl<'a> Reader<'a> {
    fn new(job: &'a Job<'a>, machine: &'a Machine, bound: Bound) -> Result<Self, RunError> {
        let platform = bound.device.platform().clone();
        let layout = BlockLayout::naturally_aligned(17);
        let buffers: Vec<Pa> = (0..IN_FLIGHT).map_while(|_| platform.alloc_buffer(layout)).collect();
        let disk = machine.disks[0].clone();
        let reader = Self { job, disk, platform, bound, buffers, layout };
        if reader.buffers.len() < IN_FLIGHT {
            reader.close()?;
            return Err(RunError::refused(
                &job.spec.name,
                "too little memory for the buffers",
                "use a machine with more",
            ));
        }
        Ok(reader)
    }

    /// Reads everything. Answers the digest of what arrived, which is the input's.
    fn read_all(&mut self, system: &System, watch: &mut Watch<'_>) -> Result<String, RunError> {
        let Measure { bytes: total, digest } = self.job.input.measure().clone();
        let before = self.disk.traffic();
        let commands_before = self.bound.nvme.stats().commands;
        let block = self.bound.nvme.namespace().block_bytes;
        let (mut hash, mut done) = (Sha256::new(), 0);
        while done < total {
            let pieces = self.pieces(done, total, block);
            self.read_pieces(&pieces)?;
            for piece in &pieces {
                piece.hash(&self.platform, total, &mut hash);
                done = (piece.at + piece.len).min(total);
            }
            watch.service(system);
            if self.job.mode == FlushMode::Strict {
                watch.probe_unmapped(system);
            }
            if let Some(progress) = self.job.progress {
                progress(done, total);
            }
        }
        let found = hex(&hash.finalize());
        let name = self.job.input.name();
        if found != digest {
            let what = format!("the bytes that were read differ: sha256 {found} instead of {digest}");
            return Err(RunError::wrong(name, what, TRY_VERBOSE));
        }
        let commands = self.bound.nvme.stats().commands - commands_before;
        let wanted = total.next_multiple_of(block) + COMPLETION_BYTES * commands;
        let through = self.disk.traffic().written_bytes - before.written_bytes;
        if through != wanted {
            let what =
                format!("the disk wrote {through} bytes through the IOMMU, and {wanted} were to be written");
            return Err(RunError::wrong(name, what, TRY_VERBOSE));
        }
        Ok(found)
    }

    /// The next pieces, one for each buffer. Every other one is scattered over its buffer's pages, last page first.
    fn pieces(&self, done: u64, total: u64, block: u64) -> Vec<Piece> {
        let starts = (done..total).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
        let piece = |(index, (at, &buffer)): (usize, (u64, &Pa))| {
            let len = (total - at).min(PIECE_BYTES).next_multiple_of(block);
            Piece {
                at,
                len,
                buffers: if index % 2 == 0 { whole(buffer, len) } else { scattered(buffer, len) },
            }
        };
        starts.zip(&self.buffers).enumerate().map(piece).collect()
    }

    fn read_pieces(&mut self, pieces: &[Piece]) -> Result<(), RunError> {
        let block = self.bound.nvme.namespace().block_bytes;
        let request = |piece: &'_ Piece| (piece.at / block, piece.buffers.clone());
        let requests: Vec<(u64, Vec<PaRange>)> = pieces.iter().map(request).collect();
        let requests: Vec<Request<'_>> = requests
            .iter()
            .map(|(lba, buffers)| Request { direction: Direction::Read, lba: *lba, buffers })
            .collect();
        self.bound.nvme.transfer(&requests).map_err(|error| {
            RunError::wrong(self.bound.device.name(), format!("reading failed: {error}"), TRY_VERBOSE)
        })
    }

    fn close(self) -> Result<(), RunError> {
        let name = self.bound.device.name().to_owned();
        let closed = self.bound.nvme.shutdown();
        self.buffers.into_iter().for_each(|buffer| self.platform.free_buffer(buffer, self.layout));
        closed.map_err(|error| {
            RunError::wrong(name, format!("the disk's driver did not stop: {error}"), TRY_VERBOSE)
        })
    }
}

/// What one command reads, and into what.
struct Piece {
    at: u64,
    len: u64,
    buffers: Vec<PaRange>,
}

impl Piece {
    /// Adds the bytes that arrived, as far as they are the input's.
    fn hash(&self, platform: &LabPlatform, total: u64, hash: &mut Sha256) {
        let mut left = (total - self.at).min(self.len);
        let mut bytes = Vec::new();
        for buffer in &self.buffers {
            let len = left.min(buffer.len_bytes().unwrap_or(0));
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            platform.read(buffer.first(), &mut bytes);
            hash.update(&bytes);
            left -= len;
        }
    }
}

fn whole(buffer: Pa, len: u64) -> Vec<PaRange> {
    PaRange::new(buffer, len).into_iter().collect()
}

fn scattered(buffer: Pa, len: u64) -> Vec<PaRange> {
    const PAGE: u64 = 4096;
    let pages = len.div_ceil(PAGE);
    let page = |index: u64| {
        let len = (len - index * PAGE).min(PAGE);
        PaRange::new(Pa::new(buffer.get() + (pages - 1 - index) * PAGE), len)
    };
    (0..pages).filter_map(page).collect()
}

fn add_core_counters(counters: &mut Counters, system: &System) {
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

fn add_model_counters(counters: &mut Counters, machine: &Machine, platform: &LabPlatform) {
    add_smmu_counters(counters, machine, platform);
    let traffic = machine.disks[0].traffic();
    counters.device_wrote_bytes = traffic.written_bytes;
    counters.device_read_bytes = traffic.read_bytes;
    counters.interrupts = traffic.messages;
}
