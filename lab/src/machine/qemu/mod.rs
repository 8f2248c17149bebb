//! QEMU's machines as machines of the lab: hardware that we did not write, on the models' bus.
//!
//! The bus is the lab's own: its CPUs, the store buffer that keeps stores back until a barrier, the heap that knows what was freed. Behind it
//! is QEMU: its RAM is the bus's RAM, every address that is not RAM is a register of QEMU's, and the bus's time is the wall's. So boot, drivers
//! and processes are the same objects, at work in the same way, and a store that the driver forgot to order is still late.
//!
//! What models tell of themselves, QEMU does not: see [`NOT_SHOWN`] and [`NOT_SHOWN_OF_PHB3`].
//!
//! | file | what |
//! |---|---|
//! | `virt` | Arm's, with an SMMUv3: QEMU's device tree is read |
//! | `q35` | a PC with VT-d: firmware's part is done here, and QEMU's own ACPI tables are read |
//! | `power8` | `powernv8`, with a PHB3: firmware's part is done here |
//!
//! Not here: starting QEMU, and its registers' protocol (`portcullis-qemu`).

mod power8;
mod q35;
mod virt;

use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use model_bus::{Bus, BusOptions, Clocked, Mmio, Ram, Width, Words};
use portcullis::types::{Pa, PaRange};
use portcullis_qemu::{self as qemu, Arch, ByteOrder, DriveContent, Qemu, QemuError};

use super::build::DiskContent;
use super::spec::MachineSpec;
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

/// What else a run on QEMU's PHB3 cannot show. What is refused there, the disk says itself, which gives up.
///
/// Observed: QEMU 7.2 and 11.1, hw/pci-host/pnv_phb3.c.
pub const NOT_SHOWN_OF_PHB3: [&str; 4] = [
    "freezes, their records and recovery: QEMU's PHB3 refuses an access and remembers nothing",
    "kills, given or forgotten: QEMU's PHB3 keeps no TCEs, and counts nothing",
    "windows' ends by addresses beyond them: in QEMU's PHB3 they wrap",
    "a window shared by two groups: the machine has one disk",
];

/// A QEMU that is a machine of the lab, and how to ask it.
#[derive(Debug)]
pub struct Behind {
    /// The machine.
    pub machine: Arc<qemu::Machine>,
    /// By which its PHB3's interrupts are presented, and where that PHB3's registers are.
    pub icp: Option<(Pa, Icp)>,
    /// Where its CPU counts interrupts, if it does.
    pub counters: Option<Pa>,
}

/// A chip's presentation controller, for one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Icp {
    /// Its registers.
    pub registers: PaRange,
    /// The CPU's number.
    pub server: u16,
    /// The number that the bridge's first source has on the chip.
    pub first: u32,
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

/// How long a turn of a polling loop takes: about as long as an access to a register.
const TURN: Duration = Duration::from_micros(20);
/// How long a turn takes once QEMU is gone.
const AFTERWARDS_NS: u64 = 1_000_000_000;
/// QEMU with Arm's CPUs, if there is one.
///
/// # Errors
///
/// [`RunError::Refused`]: there is none, or what is by that name is not.
pub fn find() -> Result<Qemu, RunError> {
    find_with(Arch::Aarch64)
}

/// QEMU with POWER's CPUs, if there is one.
///
/// # Errors
///
/// As for [`find`].
pub fn find_power8() -> Result<Qemu, RunError> {
    find_with(Arch::Ppc64)
}

/// QEMU with x86's CPUs, if there is one.
///
/// # Errors
///
/// As for [`find`].
pub fn find_x86() -> Result<Qemu, RunError> {
    find_with(Arch::X86_64)
}

fn find_with(arch: Arch) -> Result<Qemu, RunError> {
    let hint = "leave out `--on qemu` to run on models";
    Qemu::find(arch).map_err(|error| RunError::refused("QEMU", error, hint))
}

/// QEMU itself failed.
pub(crate) fn failed(error: &QemuError) -> RunError {
    RunError::wrong("QEMU", error, "try again, or another QEMU")
}

/// Starts QEMU with a disk that holds `content`: `powernv8` if its CPUs are POWER's, `q35` if they are x86's, else `virt`.
///
/// # Errors
///
/// [`RunError::Wrong`]: it did not start, with its last words.
pub(super) fn start(qemu: &Qemu, content: DiskContent, seed: u64) -> Result<Started, RunError> {
    let content = match content {
        DiskContent::Blank => DriveContent::Bytes(vec![0; 1 << 16]),
        DiskContent::Bytes(bytes) => DriveContent::Bytes(bytes),
        DiskContent::File(path) => DriveContent::ReadOnly(path),
    };
    match qemu.arch() {
        Arch::Ppc64 => power8::start(qemu, content, seed),
        Arch::Aarch64 => virt::start(qemu, content, seed),
        Arch::X86_64 => q35::start(qemu, content, seed),
    }
}

/// The bytes' order of a register.
type Order = fn(Pa, Width) -> ByteOrder;

/// The bus over QEMU's memory and registers. The upper half of memory is given out: in the lower the parked CPU has its loop.
fn bus(machine: &Arc<qemu::Machine>, order: Order, seed: u64) -> Result<Arc<Bus>, RunError> {
    connect(machine, order, seed).map_err(|error| RunError::wrong("QEMU", error, "try another QEMU"))
}

fn connect(machine: &Arc<qemu::Machine>, order: Order, seed: u64) -> Result<Arc<Bus>, String> {
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
        let (machine, clock) = (machine.clone(), clock.clone());
        let registers = Arc::new(Registers { machine, base: range.first(), order, clock });
        bus.add_registers("qemu", range, registers).map_err(|error| error.to_string())?;
    }
    bus.add_clocked(clock);
    Ok(bus)
}

/// One behind the highest physical address.
const ADDRESSES: u64 = 1 << 50;

/// Every register of QEMU's. What it does not answer, or not any more, reads as all ones.
struct Registers {
    machine: Arc<qemu::Machine>,
    base: Pa,
    order: Order,
    clock: Arc<WallClock>,
}

impl Registers {
    /// From the order in which QEMU's numbers are read to the register's, and back.
    fn ordered(&self, at: Pa, width: Width, value: u64) -> u64 {
        self.machine.ordered((self.order)(at, width), width_of(width), value)
    }
}

impl Mmio for Registers {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let at = Pa::new(self.base.get() + offset);
        let ones = u64::MAX >> (64 - 8 * width_of(width).bytes());
        let value = self.machine.load(at, width_of(width)).unwrap_or(ones);
        self.clock.tick();
        self.ordered(at, width, value)
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let at = Pa::new(self.base.get() + offset);
        // The failure stays with the machine, which is asked at the end.
        let _ = self.machine.store(at, width_of(width), self.ordered(at, width, value));
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
