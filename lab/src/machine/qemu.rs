//! QEMU's `virt` as a machine of the lab: hardware that we did not write, on the models' bus.
//!
//! The bus is the lab's own: its CPUs, the store buffer that keeps stores back until a barrier, the heap that knows what was freed. Behind it
//! is QEMU: its RAM is the bus's RAM, every address that is not RAM is a register of QEMU's, and the bus's time is the wall's. So boot, drivers
//! and processes are the same objects, at work in the same way, and a store that the driver forgot to order is still late.
//!
//! What models tell of themselves, QEMU does not: see [`NOT_SHOWN`].
//!
//! Not here: starting QEMU, and its registers' protocol (`portcullis-qemu`).

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use model_bus::{Bus, BusOptions, Clocked, Mmio, Ram, Width, Words};
use model_cpu::CpuFeatures;
use portcullis::types::{Pa, PaRange, SizeLg2};
use portcullis_qemu::{self as qemu, Arch, DriveContent, MachineOptions, Qemu, QemuError};

use super::build::DiskContent;
use super::spec::{BridgeKind, HostBridgeSpec, MachineSpec, Plugged, Slot};
use crate::error::RunError;
use crate::input::Opened;
use crate::platform::Tamper;
use crate::trace::SharedSink;

/// What a run on QEMU cannot show, and one on models does.
pub const NOT_SHOWN: [&str; 4] = [
    "how many bytes the disk's own accesses moved: QEMU does not count them",
    "what the book forbids and hardware lets pass: QEMU does not say",
    "that nobody but the CPU uses freed memory: QEMU's accesses are not seen",
    "other devices' accesses: the machine has none that does DMA",
];

/// A QEMU that is a machine of the lab, and how to ask it.
#[derive(Debug)]
pub struct Behind {
    /// The machine.
    pub machine: Arc<qemu::Machine>,
    /// Its QEMU, in words: `QEMU 7.2`.
    pub name: String,
}

/// What is to be done on QEMU, whatever the work.
pub struct Job<'a> {
    /// The input.
    pub input: &'a Opened,
    /// Decides what the CPU's side is free to decide.
    pub seed: u64,
    /// Who hears what happens.
    pub sink: SharedSink,
    /// Who falsifies what the CPU does.
    pub tamper: Option<Arc<dyn Tamper>>,
    /// Who is told of bytes done, of how many.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Send + Sync)>,
}

/// What is needed to build a machine over a QEMU that runs.
pub(super) struct Started {
    pub(super) spec: MachineSpec,
    pub(super) bus: Arc<Bus>,
    pub(super) behind: Behind,
    pub(super) device_tree: Vec<u8>,
}

const RAM_MIB: u64 = 512;
/// The slot of the disk. Its place on the root bus is said to QEMU, too.
const DISK_SLOT: u8 = 1;
/// How long a turn of a polling loop takes: about as long as an access to a register.
const TURN: Duration = Duration::from_micros(20);
/// How long a turn takes once QEMU is gone.
const AFTERWARDS_NS: u64 = 1_000_000_000;
/// QEMU's `cortex-a57`. Observed: QEMU 7.2, its ID_AA64MMFR0_EL1 0x1124: 44 bits, pages of 4 and 64 KiB.
const CPU: CpuFeatures = CpuFeatures { pa_bits: 44, granule_16k: false, ..CpuFeatures::COMMON };
/// Where `virt` has things. Observed: QEMU 7.2, hw/arm/virt.c. The device tree says it too, and it alone is what boot reads.
const ECAM: (u64, u64) = (0x40_1000_0000, 0x1000_0000);
const WINDOW_32: (u64, u64) = (0x1000_0000, 0x2eff_0000);
const WINDOW_64: (u64, u64) = (0x80_0000_0000, 0x80_0000_0000);

/// QEMU, if there is one.
///
/// # Errors
///
/// [`RunError::Refused`]: there is none, or what is by that name is not.
pub fn find() -> Result<Qemu, RunError> {
    let hint = "leave out `--on qemu` to run on models";
    Qemu::find(Arch::Aarch64).map_err(|error| RunError::refused("QEMU", error, hint))
}

/// QEMU itself failed.
pub(crate) fn failed(error: &QemuError) -> RunError {
    RunError::wrong("QEMU", error, "try again, or another QEMU")
}

/// Starts QEMU with a disk that holds `content`.
///
/// # Errors
///
/// [`RunError::Wrong`]: it did not start, with its last words.
pub(super) fn start(qemu: &Qemu, content: DiskContent, seed: u64) -> Result<Started, RunError> {
    let options = options(content);
    let device_tree = qemu.device_tree(&options).map_err(|error| failed(&error))?;
    let machine = Arc::new(qemu.start(&options).map_err(|error| failed(&error))?);
    let spec = spec(qemu, machine.ram().range());
    let bus = bus(&machine, seed).map_err(|error| RunError::wrong("QEMU", error, "try another QEMU"))?;
    Ok(Started { spec, bus, behind: Behind { machine, name: qemu.to_string() }, device_tree })
}

fn options(content: DiskContent) -> MachineOptions {
    let content = match content {
        DiskContent::Blank => DriveContent::Bytes(vec![0; 1 << 16]),
        DiskContent::Bytes(bytes) => DriveContent::Bytes(bytes),
        DiskContent::File(path) => DriveContent::ReadOnly(path),
    };
    MachineOptions::virt("iommu=smmuv3")
        .ram_mib(RAM_MIB)
        .drive("disk", content)
        .device(&format!("nvme,serial=portcullis,drive=disk,addr={DISK_SLOT:02x}.0"))
}

/// What the machine is, as far as work asks: its disk's place. All else boot finds out.
fn spec(qemu: &Qemu, ram: PaRange) -> MachineSpec {
    let range = |(first, len)| PaRange::new(Pa::new(first), len).expect("no window of `virt` wraps");
    MachineSpec {
        name: format!("virt of {qemu}"),
        summary: "QEMU's virt with its SMMUv3 and its NVMe disk".into(),
        ram,
        cpus: vec![CPU],
        page: SizeLg2::KIB_4,
        smmus: Vec::new(),
        itses: Vec::new(),
        host_bridges: vec![HostBridgeSpec {
            kind: BridgeKind::Ecam(range(ECAM)),
            last_bus: 255,
            window_32: range(WINDOW_32),
            window_64: Some(range(WINDOW_64)),
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: vec![Slot { device: DISK_SLOT, what: Plugged::Disk }],
        }],
        accelerators: Vec::new(),
        reserved: Vec::new(),
    }
}

/// The bus over QEMU's memory and registers. The upper half of memory is given out: in the lower the parked CPU has its loop.
fn bus(machine: &Arc<qemu::Machine>, seed: u64) -> Result<Arc<Bus>, String> {
    let ram = machine.ram().range();
    let words: Arc<Words> = Arc::new(machine.ram().part(ram));
    let half = (ram.last().get() - ram.first().get()) / 2 + 1;
    let upper = PaRange::new(Pa::new(ram.first().get() + half), half);
    let options = BusOptions { heap: upper.into_iter().collect(), ..BusOptions::new(ram, seed) };
    let bus = Bus::over(&options, Arc::new(Ram::over(ram, &words)));
    let below = ram.first().checked_sub(1).and_then(|last| PaRange::from_ends(Pa::new(0), last));
    let above = ram.last().checked_add(1).and_then(|first| PaRange::from_ends(first, Pa::new(ADDRESSES - 1)));
    let clock = Arc::new(WallClock {
        machine: machine.clone(),
        bus: Arc::downgrade(&bus),
        last: Mutex::new(Instant::now()),
    });
    for range in below.into_iter().chain(above) {
        let registers =
            Arc::new(Registers { machine: machine.clone(), base: range.first(), clock: clock.clone() });
        bus.add_registers("qemu", range, registers).map_err(|error| error.to_string())?;
    }
    bus.add_clocked(clock);
    Ok(bus)
}

/// One behind the highest physical address.
const ADDRESSES: u64 = 1 << 48;

/// Every register of QEMU's. What it does not answer, or not any more, reads as all ones.
struct Registers {
    machine: Arc<qemu::Machine>,
    base: Pa,
    clock: Arc<WallClock>,
}

impl Mmio for Registers {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let width = width_of(width);
        let ones = u64::MAX >> (64 - 8 * width.bytes());
        let value = self.machine.load(Pa::new(self.base.get() + offset), width).unwrap_or(ones);
        self.clock.tick();
        value
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        // The failure stays with the machine, which is asked at the end.
        let _ = self.machine.store(Pa::new(self.base.get() + offset), width_of(width), value);
        self.clock.tick();
    }
}

fn width_of(width: Width) -> qemu::Width {
    match width {
        Width::Bits8 => qemu::Width::Bits8,
        Width::Bits16 => qemu::Width::Bits16,
        Width::Bits32 => qemu::Width::Bits32,
        Width::Bits64 => qemu::Width::Bits64,
    }
}

/// Keeps the bus's time with the wall's, and gives QEMU the time to work.
///
/// Time goes on with each access to a register, too: were it moved by steps alone, a wait that begins after many accesses would find, with its first step,
/// that its limit has passed.
///
/// When QEMU is gone, time passes quickly: nothing that is waited for will come, and every wait is to end.
struct WallClock {
    machine: Arc<qemu::Machine>,
    bus: Weak<Bus>,
    last: Mutex<Instant>,
}

impl WallClock {
    fn tick(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = now.duration_since(*last);
        *last = now;
        if let Some(bus) = self.bus.upgrade() {
            bus.advance_ns(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

impl Clocked for WallClock {
    fn step(&self, _: u64) -> bool {
        if self.machine.check().is_err() {
            self.bus.upgrade().iter().for_each(|bus| bus.advance_ns(AFTERWARDS_NS));
            return true;
        }
        thread::sleep(TURN);
        self.tick();
        // Had it answered that there was no work, the bus would move time on by more and more.
        true
    }
}
