//! The kernel's driver of a disk: bound to its place on the bus, reading all of the disk with the DMA API, unbound.
//!
//! Being bound is what makes the group the kernel's: no user gets it until the driver is unbound.
//!
//! Not here: what is proved of the IOMMU meanwhile (`proof`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_devices::nvme::Nvme as Disk;
use portcullis::core::bus::{BindError, ConfigureError, Driver};
use portcullis::core::device::{Device, DmaMask};
use portcullis::core::dma::{DmaHandle, MsiMessage};
use portcullis::firmware::MsiTarget;
use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::nvme::{Config, Direction, Interrupts, Nvme, Request, Vector};
use portcullis::pci::{Bdf, ConfigAccess, Message, MsixCapability, MsixTable, set_bus_master};
use portcullis::types::{Pa, PaRange};
use sha2::{Digest, Sha256};

use super::TRY_VERBOSE;
use crate::boot::{self, Bound, Endpoint, HostBridge, Line, Standing, System};
use crate::error::RunError;
use crate::input::{Measure, Opened, hex};
use crate::platform::{LabPlatform, RegisterWindow};

/// The driver's name.
pub(super) const DRIVER: &str = "nvme";

/// How much is read by one command.
const PIECE_BYTES: u64 = 128 << 10;
/// How many commands are in flight.
const IN_FLIGHT: usize = 8;
/// What a command that completes makes the disk write besides its data. Spec: NVMe Base 2.0, 3.3.3.2 "Completion Queue Entry".
const COMPLETION_BYTES: u64 = 16;

type Driven = Nvme<LabPlatform, RegisterWindow>;

/// A function by its name.
///
/// # Errors
///
/// [`RunError::Wrong`]: enumeration did not find it.
pub(super) fn find<'a>(system: &'a System, name: &str) -> Result<(&'a HostBridge, &'a Endpoint), RunError> {
    let found = system.endpoints().find(|(_, endpoint)| endpoint.name == name);
    found.ok_or_else(|| RunError::wrong(name, "enumeration did not find it", TRY_VERBOSE))
}

/// A disk that the kernel drives.
pub(super) struct KernelDisk {
    nvme: Arc<Mutex<Option<Driven>>>,
    device: Arc<Device<LabPlatform>>,
    /// Who counts what goes through the disk's port; QEMU's disk does not.
    model: Option<Arc<Disk>>,
    platform: Arc<LabPlatform>,
}

/// The driver as the bus knows it.
struct Stop {
    nvme: Arc<Mutex<Option<Driven>>>,
    name: String,
    config: Arc<dyn ConfigAccess + Send + Sync>,
    at: Bdf,
    msix: MsixCapability,
    interrupts: Arc<boot::Interrupts>,
    target: MsiTarget,
}

impl Bound for Stop {
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        let nvme = lock(&self.nvme).take();
        let stopped = nvme.map_or(Ok(()), Nvme::shutdown);
        set_bus_master(&*self.config, self.at, false);
        self.msix.disable(&*self.config);
        (0..2).for_each(|vector| self.interrupts.forget(self.target, vector));
        stopped.map_err(|error| {
            RunError::wrong(&self.name, format!("the disk's driver did not stop: {error}"), TRY_VERBOSE)
        })
    }
}

fn lock(nvme: &Mutex<Option<Driven>>) -> MutexGuard<'_, Option<Driven>> {
    nvme.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to say when a driver is not bound: which device, which driver, and who is in the way.
pub(super) fn not_bound(device: &str, driver: &str, error: BindError<RunError>) -> RunError {
    let what = match error {
        BindError::Probe(error) | BindError::Configure(ConfigureError::Addressing(error)) => return error,
        BindError::Bound(other) => format!("{driver} is not bound, because {other} is"),
        BindError::Configure(ConfigureError::Use(error)) => {
            format!("{driver} is not bound: {error:?} (errno {})", error.errno().code())
        }
        other => format!("{driver} is not bound: {other:?}"),
    };
    RunError::wrong(device, what, TRY_VERBOSE)
}

impl KernelDisk {
    /// Binds the driver to the disk of this name, behind which `model` is, if it is a model.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`]: no IOMMU covers it, or its interrupts go nowhere. [`RunError::Wrong`]: it is not bound.
    pub(super) fn bind(system: &System, name: &str, model: Option<&Arc<Disk>>) -> Result<Self, RunError> {
        let (host, endpoint) = find(system, name)?;
        let device = match &endpoint.standing {
            Standing::Behind { device, .. } => device.clone(),
            Standing::Uncovered(why) => return Err(refused(name, &format!("no IOMMU covers it: {why}"))),
        };
        let nvme = Arc::new(Mutex::new(None));
        let probe = |dma: Option<DmaHandle<LabPlatform>>| -> Result<Box<dyn Bound>, RunError> {
            let dma = dma.ok_or_else(|| RunError::wrong(name, "it is not in its group", TRY_VERBOSE))?;
            let (started, stop) = start(system, host, endpoint, dma, &nvme)?;
            *lock(&nvme) = Some(started);
            Ok(Box::new(stop))
        };
        let bound = endpoint.binding.bind(Driver::new(DRIVER), || Ok(()), probe);
        bound.map_err(|error| {
            // What the IOMMU recorded meanwhile is the first thing to be asked.
            system.service_iommus();
            not_bound(name, DRIVER, error)
        })?;
        Ok(Self { nvme, device, model: model.cloned(), platform: system.platform.clone() })
    }

    pub(super) fn device(&self) -> &Arc<Device<LabPlatform>> {
        &self.device
    }

    /// Unbinds the driver.
    ///
    /// # Errors
    ///
    /// It did not stop.
    pub(super) fn unbind(self, system: &System) -> Result<(), RunError> {
        let (_, endpoint) = find(system, self.device.name())?;
        boot::unbind(&endpoint.binding)
    }

    /// Reads everything; after each round `each` is told how many bytes are done, of how many. Answers the digest of what arrived, which
    /// is the input's.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`]: there is no memory for the buffers. [`RunError::Wrong`]: the bytes are not the input's, or did not go through the
    /// disk's port.
    pub(super) fn read_all(
        &self,
        input: &Opened,
        each: &mut dyn FnMut(u64, u64),
    ) -> Result<String, RunError> {
        let layout = BlockLayout::naturally_aligned(17);
        let buffers: Vec<Pa> = (0..IN_FLIGHT).map_while(|_| self.platform.alloc_buffer(layout)).collect();
        let read = if buffers.len() < IN_FLIGHT {
            let what = "too little memory for the buffers";
            Err(RunError::refused(self.device.name(), what, "use a machine with more"))
        } else {
            self.read_into(&buffers, input, each)
        };
        buffers.into_iter().for_each(|buffer| self.platform.free_buffer(buffer, layout));
        read
    }

    fn read_into(
        &self,
        buffers: &[Pa],
        input: &Opened,
        each: &mut dyn FnMut(u64, u64),
    ) -> Result<String, RunError> {
        let mut driven = lock(&self.nvme);
        let gone = || RunError::wrong(self.device.name(), "its driver is gone", TRY_VERBOSE);
        let nvme = driven.as_mut().ok_or_else(gone)?;
        let total = input.measure().bytes;
        let traffic = || self.model.as_ref().map(|model| model.traffic().written_bytes);
        let before = traffic();
        let commands_before = nvme.stats().commands;
        let block = nvme.namespace().block_bytes;
        let (mut hash, mut done) = (Sha256::new(), 0);
        while done < total {
            let pieces = pieces(buffers, done, total, block);
            self.read_pieces(nvme, &pieces)?;
            for piece in &pieces {
                piece.hash(&self.platform, total, &mut hash);
                done = (piece.at + piece.len).min(total);
            }
            each(done, total);
        }
        let commands = nvme.stats().commands - commands_before;
        let through = traffic().zip(before).map(|(now, before)| now - before);
        check_bytes(input, hex(&hash.finalize()), through, block, commands)
    }

    fn read_pieces(&self, nvme: &mut Driven, pieces: &[Piece]) -> Result<(), RunError> {
        let block = nvme.namespace().block_bytes;
        let request = |piece: &'_ Piece| (piece.at / block, piece.buffers.clone());
        let requests: Vec<(u64, Vec<PaRange>)> = pieces.iter().map(request).collect();
        let requests: Vec<Request<'_>> = requests
            .iter()
            .map(|(lba, buffers)| Request { direction: Direction::Read, lba: *lba, buffers })
            .collect();
        nvme.transfer(&requests).map_err(|error| {
            RunError::wrong(self.device.name(), format!("reading failed: {error}"), TRY_VERBOSE)
        })
    }
}

/// That what arrived is the input, and, where somebody counts, that each byte of it went through the disk's port: blocks, and an entry for each
/// command. Answers the digest.
///
/// # Errors
///
/// [`RunError::Wrong`]: it is not so.
pub(super) fn check_bytes(
    input: &Opened,
    digest: String,
    through: Option<u64>,
    block: u64,
    commands: u64,
) -> Result<String, RunError> {
    let Measure { bytes: total, digest: wanted } = input.measure();
    let wrong = |what: String| Err(RunError::wrong(input.name(), what, TRY_VERBOSE));
    if digest != *wanted {
        return wrong(format!("the bytes that were read differ: sha256 {digest} instead of {wanted}"));
    }
    let wanted = total.next_multiple_of(block) + COMPLETION_BYTES * commands;
    if let Some(through) = through.filter(|&through| through != wanted) {
        return wrong(format!(
            "the disk wrote {through} bytes through the IOMMU, and {wanted} were to be written"
        ));
    }
    Ok(digest)
}

fn refused(name: &str, what: &str) -> RunError {
    RunError::refused(name, what, "choose another machine: see `portcullis machines`")
}

/// Starts the driver: interrupts, bus mastering, queues.
fn start(
    system: &System,
    host: &HostBridge,
    endpoint: &Endpoint,
    dma: DmaHandle<LabPlatform>,
    nvme: &Arc<Mutex<Option<Driven>>>,
) -> Result<(Driven, Stop), RunError> {
    let name = &endpoint.name;
    let wrong = |what: String| RunError::wrong(name, what, TRY_VERBOSE);
    dma.device().set_dma_mask(DmaMask::BITS_64);
    dma.device().set_coherent_mask(DmaMask::BITS_64);
    let function = &host.topology.functions[endpoint.function];
    let registers = function
        .bar(0)
        .and_then(|bar| bar.cpu_range())
        .ok_or_else(|| wrong("its registers were not placed".into()))?;
    let (lines, msix, target) = lines(system, host, endpoint, registers, &|line| {
        dma.compose_msi(line.doorbell, line.data)
            .map_err(|error| wrong(format!("no message for its interrupt: {error:?}")))
    })?;
    host.topology.enable_bus_master(&*host.config, endpoint.function);
    let [admin, io] = lines;
    let interrupts = Interrupts { admin: Arc::new(admin), io: Vector { index: 1, interrupt: Arc::new(io) } };
    let register_bytes = usize::try_from(registers.len_bytes().unwrap_or(0)).unwrap_or(usize::MAX);
    let config = Config { register_bytes, queue_depth: 32, ..Config::default() };
    let window = system.platform.registers(registers);
    let started = Nvme::start(dma, window, &interrupts, &config)
        .map_err(|error| wrong(format!("the disk's driver did not start: {error}")))?;
    let stop = Stop {
        nvme: nvme.clone(),
        name: name.clone(),
        config: host.config.clone(),
        at: function.at,
        msix,
        interrupts: system.interrupts.clone(),
        target,
    };
    Ok((started, stop))
}

/// Programs the first two vectors of a function's MSI-X table.
fn lines(
    system: &System,
    host: &HostBridge,
    endpoint: &Endpoint,
    registers: PaRange,
    compose: &dyn Fn(&Line) -> Result<MsiMessage, RunError>,
) -> Result<([Line; 2], MsixCapability, MsiTarget), RunError> {
    let name = &endpoint.name;
    let refused = |what: &str| refused(name, what);
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
    Ok((lines, msix, target))
}

/// The next pieces, one for each buffer. Every other one is scattered over its buffer's pages, last page first.
fn pieces(buffers: &[Pa], done: u64, total: u64, block: u64) -> Vec<Piece> {
    let starts = (done..total).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
    let piece = |(index, (at, &buffer)): (usize, (u64, &Pa))| {
        let len = (total - at).min(PIECE_BYTES).next_multiple_of(block);
        Piece { at, len, buffers: if index % 2 == 0 { whole(buffer, len) } else { scattered(buffer, len) } }
    };
    starts.zip(buffers).enumerate().map(piece).collect()
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
