//! Devices for user space: what mapping user memory costs beside the page table, how it grows, and what a hand-over costs.
//!
//! The requests are made as a process makes them: a number and bytes, on an open file. Under them is a container with one domain whose page table is
//! a real one (Arm stage 1, 4 KiB granule) in an arena, behind hardware that forgets at once; the process's pages are there, and pinning one counts it
//! in a list of pages, as a kernel does. So what is seen is the software, and hardware costs nothing on either side.
//!
//! 2 MiB: 512 pages, no two of which lie one behind the other. The page-table work alone is the same runs, mapped and unmapped in a table of the same shape.
//! 1 GiB contiguous: calls that reach the hardware's driver are counted.
//! 65,535 mappings: one of 4 KiB is mapped in their middle, and unmapped, beside 10 and beside 65,535 others, no two of which touch. Looking
//! up is a map that is refused because something is there.
//! 32 devices: a group is claimed and released; each way each device is attached to another domain.
//!
//! Bars: within 2 times of the page-table work; one operation; within 3 times of 10 mappings; under 20 µs.

use core::any::Any;
use core::hint::black_box;
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use portcullis::core::bus::Place;
use portcullis::core::device::{Device, DeviceInfo};
use portcullis::core::domain::FlushMode;
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis::core::owner::{Owner, Released};
use portcullis::core::unit::IommuUnit;
use portcullis::vfio::{
    Caller, DeviceFacts, Errno, Fd, File, IrqChange, Irqs, MapArea, OverLimit, Region, UserFault, UserMemory,
    Vfio, VfioDevice,
};
use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_pgtable::PageTable;
use portcullis_pgtable::arm::{Config, Stage1};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Iova, IovaRange, Pa, PaRange, PageSizes, Perms, Prot, SizeLg2, SourceId};

const PAGE: u64 = 0x1000;
const GIB: u64 = 1 << 30;
const TWO_MIB: u64 = 2 << 20;
const MANY: u64 = 65_535;
const DEVICES: u32 = 32;
/// The process's memory.
const VA: u64 = 0x10_0000_0000;
/// Where its pages are: one behind the other in 1 GiB from here on, and scattered from there on.
const CONTIGUOUS: u64 = 0x80_0000_0000;
const SCATTERED: u64 = 0x90_0000_0000;

fn main() -> ExitCode {
    let holds = [two_mib(), one_gib(), many(), claims()];
    if holds == [true; 4] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::cast_precision_loss, reason = "runs take seconds at most")]
fn nanoseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

fn two_mib() -> bool {
    const TURNS: u32 = 20;
    let bench = Bench::new();
    bench.memory.scatter();
    let ours = || {
        for _ in 0..TURNS {
            bench.map(black_box(0x4000_0000), VA, TWO_MIB).expect("nothing is there");
            bench.unmap(0x4000_0000, TWO_MIB);
        }
    };
    let machine = Machine::new();
    let mut table = table(&machine);
    let mut alone = || {
        for _ in 0..TURNS {
            let pages = (0..TWO_MIB).step_by(4096);
            for offset in pages {
                let (iova, pa) =
                    (Iova::new(black_box(0x4000_0000 + offset)), Pa::new(SCATTERED + 2 * offset));
                table
                    .map(&*machine, iova, pa, PAGE, Prot::cached(Perms::READ_WRITE))
                    .expect("nothing is there");
            }
            let range = range(0x4000_0000, TWO_MIB);
            let gone = table.unmap(&*machine, range).expect("all of it");
            gone.retired.free(&format(), &*machine);
        }
    };
    let best = (0..200).fold((f64::INFINITY, f64::INFINITY), |best, _| {
        (best.0.min(nanoseconds(ours)), best.1.min(nanoseconds(&mut alone)))
    });
    let (ours, alone) = (best.0 / f64::from(TURNS), best.1 / f64::from(TURNS));
    println!("map + unmap 2 MiB of user memory, scattered pages: {ours:.0} ns");
    bar("page-table work alone", ours, alone, 2.0)
}

/// Prints a figure beside its peer, and answers whether it is within so many times of it.
fn bar(name: &str, ours: f64, peer: f64, most: f64) -> bool {
    let ratio = ours / peer;
    println!("  {name} {peer:.0} ns: {ratio:.2} times that (bar: {most})");
    ratio <= most
}

fn one_gib() -> bool {
    let bench = Bench::new();
    let before = bench.hw.maps.load(Relaxed);
    bench.map(GIB, VA, GIB).expect("nothing is there");
    let maps = bench.hw.maps.load(Relaxed) - before;
    bench.unmap(GIB, GIB);
    println!("map 1 GiB contiguous: {maps} table operations (bar: 1)");
    maps == 1
}

fn many() -> bool {
    let one = |count: u64| {
        let bench = Bench::new();
        // One is left for what is measured.
        let at = |number: u64| 0x1_0000_0000 + 2 * PAGE * number;
        (0..count - 1).for_each(|number| bench.map(at(number), VA, PAGE).expect("nothing is there"));
        // Beside tables that are there, in the middle.
        let free = at(count / 2) + PAGE;
        let turns = 20_000u32;
        let changes = (0..15).map(|_| {
            nanoseconds(|| {
                for _ in 0..turns {
                    bench.map(black_box(free), VA, PAGE).expect("nothing is there");
                    bench.unmap(free, PAGE);
                }
            })
        });
        let changes = changes.fold(f64::INFINITY, f64::min) / f64::from(turns);
        let looks = (0..15).map(|_| {
            nanoseconds(|| {
                for _ in 0..turns {
                    assert_eq!(bench.map(black_box(at(count / 2)), VA, PAGE), Err(Errno::Eexist));
                }
            })
        });
        (changes, looks.fold(f64::INFINITY, f64::min) / f64::from(turns))
    };
    let (few, many) = (one(10), one(MANY));
    println!("insert + remove one mapping beside {} others: {:.0} ns", MANY - 1, many.0);
    let changes = bar("beside 9", many.0, few.0, 3.0);
    println!("look one up among {}: {:.0} ns", MANY - 1, many.1);
    bar("among 9", many.1, few.1, 3.0) && changes
}

fn claims() -> bool {
    let bench = Bench::new();
    let group = bench.group(2, DEVICES);
    let me = Arc::new(0u8);
    let turns = 500u32;
    let run = || {
        for _ in 0..turns {
            group.claim_group(Owner::of(&me)).expect("nobody has it");
            assert_eq!(group.release_group(Owner::of(&me)), Ok(Released::Free));
        }
    };
    let ns = (0..20).map(|_| nanoseconds(run)).fold(f64::INFINITY, f64::min) / f64::from(turns);
    println!("claim + release of a group of {DEVICES} devices: {:.2} µs (bar: 20)", ns / 1000.0);
    ns < 20_000.0
}

// --- what is under it -----------------------------------------------------------------------------------------------------------------

/// A pool for tables, barriers as a coherent machine needs them, and a clock.
struct Machine {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    start: Instant,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self { arena: Arena::on_heap(Pa::new(0x4000_0000), 25), start: Instant::now() })
    }
}

impl TableMemory for Machine {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.arena.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        self.arena.store_run(at, first, step, count);
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl Barriers for Machine {
    fn write_barrier(&self) {
        fence(Release);
    }

    fn read_barrier(&self) {}

    fn full_barrier(&self) {}
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

impl Sink for Machine {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

const NO_BUFFERS: &str = "nobody uses the DMA API here";

impl DmaMemory for Machine {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_BUFFERS}")
    }

    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_BUFFERS}")
    }

    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{NO_BUFFERS}")
    }

    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{NO_BUFFERS}")
    }

    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{NO_BUFFERS}")
    }

    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{NO_BUFFERS}")
    }

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Platform for Machine {
    type Mutex = spin::Mutex<()>;
}

fn format() -> Stage1 {
    let page_sizes = PageSizes::from_bits(u64::MAX);
    Stage1::new(Config { input_bits: 48, page_sizes, ..Config::new(SizeLg2::KIB_4) })
        .expect("a legal configuration")
}

fn table(machine: &Machine) -> PageTable<Stage1> {
    PageTable::new(format(), machine).expect("memory for a root")
}

fn range(first: u64, len_bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), len_bytes).expect("a range that does not wrap")
}

impl core::fmt::Debug for Machine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Machine")
    }
}

/// Hardware that forgets at once.
#[derive(Debug)]
struct Hw {
    maps: AtomicU64,
}

struct HwTable {
    machine: Arc<Machine>,
    hw: Arc<Hw>,
    table: spin::Mutex<PageTable<Stage1>>,
}

impl core::fmt::Debug for HwTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HwTable")
    }
}

struct FlatIommu {
    machine: Arc<Machine>,
    hw: Arc<Hw>,
}

impl core::fmt::Debug for FlatIommu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlatIommu")
    }
}

impl Iommu<Machine> for FlatIommu {
    fn name(&self) -> &str {
        "flat"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(range(0, 1 << 48), PageSizes::from_bits(PAGE | TWO_MIB | GIB))
    }

    fn add_device(&self, _: &str, _: &[SourceId]) -> Result<(), AddDeviceError> {
        Ok(())
    }

    fn remove_device(&self, _: &[SourceId]) -> Result<(), SyncError> {
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        let table = spin::Mutex::new(table(&self.machine));
        Ok(Arc::new(HwTable { machine: self.machine.clone(), hw: self.hw.clone(), table }))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        black_box((sources, target));
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        Vec::new()
    }

    fn drain_events(&self, _: &mut dyn FnMut(&FaultRecord)) -> usize {
        0
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}

impl HwDomain<Machine> for HwTable {
    fn aperture(&self) -> IovaRange {
        range(0, 1 << 48)
    }

    fn page_sizes(&self) -> PageSizes {
        PageSizes::from_bits(PAGE | TWO_MIB | GIB)
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        self.hw.maps.fetch_add(1, Relaxed);
        self.table.lock().map(&*self.machine, iova, pa, len_bytes, prot).map_err(|_| MapError::BadLength)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        let gone = self.table.lock().unmap(&*self.machine, range);
        let gone = gone.map_err(|_| UnmapError::Misaligned { granule: SizeLg2::KIB_4 })?;
        gather.add(range, SizeLg2::KIB_4, gone.tables);
        gone.retired.free(&format(), &*self.machine);
        Ok(gone.bytes)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        *gather = Gather::new();
        Ok(Flushed::completed())
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        Ok(Flushed::completed())
    }

    fn lookup(&self, _: Iova) -> Option<(Pa, Prot)> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A process's memory: 1 GiB of pages that are there, each with its count of pins; and some bytes for arguments at 0.
struct Memory {
    pins: Box<[AtomicU32]>,
    /// Whether no two pages lie one behind the other.
    scattered: core::sync::atomic::AtomicBool,
    bytes: Mutex<[u8; 64]>,
    locked: AtomicU64,
}

impl Memory {
    fn new() -> Self {
        Self {
            pins: (0..GIB / PAGE).map(|_| AtomicU32::new(0)).collect(),
            scattered: Default::default(),
            bytes: Mutex::new([0; 64]),
            locked: AtomicU64::new(0),
        }
    }

    fn scatter(&self) {
        self.scattered.store(true, Relaxed);
    }

    fn counts(&self, first: u64, len_bytes: u64) -> &[AtomicU32] {
        let index = |bytes: u64| usize::try_from(bytes / PAGE).unwrap_or(usize::MAX);
        &self.pins[index(first)..index(first + len_bytes)]
    }
}

impl UserMemory for Memory {
    fn page_size(&self) -> SizeLg2 {
        SizeLg2::KIB_4
    }

    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), UserFault> {
        let at = usize::try_from(at).map_err(|_| UserFault)?;
        into.copy_from_slice(&self.bytes.lock().expect("nobody panics")[at..at + into.len()]);
        Ok(())
    }

    fn copy_out(&self, at: u64, from: &[u8]) -> Result<(), UserFault> {
        let at = usize::try_from(at).map_err(|_| UserFault)?;
        self.bytes.lock().expect("nobody panics")[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn pin(&self, at: u64, len_bytes: u64, _: bool) -> Result<PaRange, UserFault> {
        let first = at.checked_sub(VA).ok_or(UserFault)?;
        let scattered = self.scattered.load(Relaxed);
        let len = if scattered { PAGE } else { len_bytes };
        self.counts(first, len).iter().for_each(|count| {
            count.fetch_add(1, Relaxed);
        });
        let pa = if scattered { SCATTERED + 2 * first } else { CONTIGUOUS + first };
        PaRange::new(Pa::new(pa), len).ok_or(UserFault)
    }

    fn unpin(&self, pages: PaRange, _: bool) {
        let first = pages.first().get();
        let offset = if first >= SCATTERED { (first - SCATTERED) / 2 } else { first - CONTIGUOUS };
        let len = pages.len_bytes().unwrap_or(0);
        self.counts(offset, len).iter().for_each(|count| {
            count.fetch_sub(1, Relaxed);
        });
    }

    fn charge(&self, page_count: u64) -> Result<(), OverLimit> {
        self.locked.fetch_add(page_count, Relaxed);
        Ok(())
    }

    fn uncharge(&self, page_count: u64) {
        self.locked.fetch_sub(page_count, Relaxed);
    }
}

/// A device that does nothing.
struct Nothing;

impl VfioDevice<Machine> for Nothing {
    fn open(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn close(&self) {}

    fn facts(&self) -> DeviceFacts {
        DeviceFacts { flags: 0, region_count: 0, irq_count: 0 }
    }

    fn region(&self, _: u32, _: SizeLg2) -> Result<Region, Errno> {
        Err(Errno::Einval)
    }

    fn irqs(&self, _: u32) -> Result<Irqs, Errno> {
        Err(Errno::Einval)
    }

    fn set_irqs(&self, _: IrqChange) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn reset(&self) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn read(&self, _: u32, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::Einval)
    }

    fn address(&self, _: u32, _: MapArea) -> Option<PaRange> {
        None
    }
}

/// A process with one container, in which is one group.
struct Bench {
    machine: Arc<Machine>,
    hw: Arc<Hw>,
    unit: IommuUnit<Machine>,
    memory: Arc<Memory>,
    user_memory: Arc<dyn UserMemory>,
    container: File<Machine>,
    _group: Option<File<Machine>>,
}

impl Caller<Machine> for Bench {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.user_memory
    }

    fn fd(&self, _: i32) -> Option<Fd<Machine>> {
        Some(Fd::Vfio(self.container.clone()))
    }

    fn install(&self, _: File<Machine>) -> Result<i32, Errno> {
        Err(Errno::Emfile)
    }
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new();
        let hw = Arc::new(Hw { maps: AtomicU64::new(0) });
        let iommu = Arc::new(FlatIommu { machine: machine.clone(), hw: hw.clone() });
        let unit = IommuUnit::new(machine.clone(), iommu);
        let memory = Arc::new(Memory::new());
        let vfio = Vfio::new(machine.clone());
        let container = vfio.open_container();
        let user_memory = memory.clone();
        let mut bench = Self { machine, hw, unit, memory, user_memory, container, _group: None };
        let group = bench.group(1, 1);
        let device: Arc<Device<Machine>> = group.devices()[0].clone();
        let registered = vfio.register(&Place { device, group }, Arc::new(Nothing)).expect("a new name");
        let file = vfio.open("/dev/vfio/1").expect("it is registered");
        bench.put(&[0; 4]);
        file.ioctl(&bench, 0x3b68, 0).expect("nobody has the group");
        bench.container.ioctl(&bench, 0x3b66, 3).expect("type 1, version 2");
        bench._group = Some(file);
        // Registered for as long as the program runs.
        core::mem::forget(registered);
        bench
    }

    fn group(&self, id: u32, devices: u32) -> Arc<Group<Machine>> {
        let default = DefaultDomain::Dma(FlushMode::Strict);
        let group = Group::new(self.machine.clone(), self.unit.iommu().clone(), id, default);
        let group = Arc::new(group.expect("memory for a table"));
        for number in 0..devices {
            let mut info = DeviceInfo::new(&format!("device {id}.{number}"), &[SourceId(id << 16 | number)]);
            info.isolated_interrupts = true;
            let device = self.unit.add_device(info).expect("a new source");
            group.add_device(&device).expect("a new device");
        }
        group
    }

    fn put(&self, bytes: &[u8]) {
        self.memory.copy_out(0, bytes).expect("there is room");
    }

    fn map(&self, iova: u64, va: u64, len: u64) -> Result<(), Errno> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&[32, 0, 0, 0, 3, 0, 0, 0]);
        for (place, word) in bytes[8..].as_chunks_mut::<8>().0.iter_mut().zip([va, iova, len]) {
            *place = word.to_ne_bytes();
        }
        self.put(&bytes);
        self.container.ioctl(self, 0x3b71, 0).map(drop)
    }

    fn unmap(&self, iova: u64, len: u64) {
        let mut bytes = [0; 24];
        bytes[0] = 24;
        bytes[8..16].copy_from_slice(&iova.to_ne_bytes());
        bytes[16..].copy_from_slice(&len.to_ne_bytes());
        self.put(&bytes);
        self.container.ioctl(self, 0x3b72, 0).expect("it is mapped");
        let mut after = [0; 8];
        self.memory.copy_in(16, &mut after).expect("it is there");
        assert_eq!(u64::from_ne_bytes(after), len, "all of it was unmapped");
    }
}
