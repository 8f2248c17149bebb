//! What operations cost: commands by kind, syncs, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost`.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::Width;
use model_smmuv3::Policy;
use portcullis::core::device::{Device, DeviceInfo, DmaMask};
use portcullis::core::dma::{Direction, DmaHandle};
use portcullis::core::domain::{Domain, DomainType, FlushMode};
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::Iommu;
use portcullis::core::unit::IommuUnit;
use portcullis::hal::BlockLayout;
use portcullis::smmuv3::{Config, Counts, Smmu};
use portcullis::types::{Pa, PaRange, SourceId};
use portcullis_checks::wrong::view::register;
use portcullis_lab::machine::{DiskContent, Machine, builtin};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::tamper::{Hands, Tamper};
use portcullis_lab::trace;

/// Counts, and falsifies nothing.
#[derive(Debug, Default)]
struct Meter {
    allocated_bytes: AtomicU64,
    freed_bytes: AtomicU64,
    register_reads: AtomicU64,
    register_writes: AtomicU64,
    stores: AtomicU64,
}

impl Tamper for Meter {
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        self.stores.fetch_add(1, Relaxed);
        hands.store(at, word);
    }

    fn alloc(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        self.allocated_bytes.fetch_add(layout.size_bytes(), Relaxed);
        hands.alloc(layout)
    }

    fn free(&self, hands: Hands<'_>, first: Pa, layout: BlockLayout) {
        self.freed_bytes.fetch_add(layout.size_bytes(), Relaxed);
        hands.free(first, layout);
    }

    fn read_register(&self, hands: Hands<'_>, at: Pa, width: Width) -> u64 {
        self.register_reads.fetch_add(u64::from(register(at).is_some()), Relaxed);
        hands.read_register(at, width)
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.register_writes.fetch_add(u64::from(register(at).is_some()), Relaxed);
        hands.write_register(at, width, value);
    }
}

impl Meter {
    /// Bytes allocated, bytes freed, words stored, registers read, registers written, since the last call.
    fn take(&self) -> [u64; 5] {
        let all = [
            &self.allocated_bytes,
            &self.freed_bytes,
            &self.stores,
            &self.register_reads,
            &self.register_writes,
        ];
        all.map(|count| count.swap(0, Relaxed))
    }
}

type Driver = Smmu<LabPlatform, RegisterWindow>;

struct Bench {
    _machine: Machine,
    meter: Arc<Meter>,
    platform: Arc<LabPlatform>,
    driver: Arc<Driver>,
    unit: IommuUnit<LabPlatform>,
    table: String,
}

impl Bench {
    fn new(machine: &str) -> Self {
        let mut spec = builtin::find(machine).unwrap();
        // Hardware that does everything at once: figures that do not depend on dice.
        spec.smmus[0].config.policy = Policy::eager();
        let base = spec.smmus[0].base;
        let sink = trace::shared(None);
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let meter = Arc::new(Meter::default());
        let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, Some(meter.clone())));
        let frame = PaRange::new(base, 0x2_0000).unwrap();
        let driver = Smmu::probe(platform.clone(), platform.registers(frame), Config::new("smmu")).unwrap();
        let unit = IommuUnit::new(platform.clone(), driver.clone() as Arc<dyn Iommu<LabPlatform>>);
        let table = format!(
            "{:<26}{:>9}{:>9}{:>9}{:>7}{:>7}  {}\n",
            "operation", "bytes +", "bytes -", "stores", "reads", "writes", "commands"
        );
        let mut bench = Self { _machine: machine, meter, platform, driver, unit, table };
        let counts = bench.driver.counts();
        let commands = counts.by_command().map(|(op, count)| (op.name().unwrap(), count)).collect();
        bench.note("probe", commands);
        bench
    }

    fn note(&mut self, operation: &str, commands: Vec<(&'static str, u64)>) {
        let [allocated, freed, stores, reads, writes] = self.meter.take();
        let commands: Vec<String> = commands.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let commands = commands.join(", ");
        let line =
            format!("{operation:<26}{allocated:>9}{freed:>9}{stores:>9}{reads:>7}{writes:>7}  {commands}");
        writeln!(self.table, "{}", line.trim_end()).unwrap();
    }

    /// Does something and notes what it cost.
    fn cost<T>(&mut self, operation: &str, act: impl FnOnce() -> T) -> T {
        let before = self.driver.counts();
        self.meter.take();
        let done = act();
        self.note_since(operation, &before);
        done
    }

    fn note_since(&mut self, operation: &str, before: &Counts) {
        let spent = self.driver.counts().since(before);
        self.note(operation, spent.by_command().map(|(op, count)| (op.name().unwrap(), count)).collect());
    }

    fn device(&mut self, name: &str, stream: u32) -> Arc<Device<LabPlatform>> {
        let mut info = DeviceInfo::new(name, &[SourceId(stream)]);
        info.pci = true;
        let before = self.driver.counts();
        self.meter.take();
        let device = self.unit.add_device(info).unwrap();
        self.note_since(&format!("add the {name} device"), &before);
        device.set_dma_mask(DmaMask::BITS_64);
        device
    }

    fn group(&self, id: u32, mode: FlushMode) -> Group<LabPlatform> {
        let iommu = self.unit.iommu().clone();
        Group::new(self.platform.clone(), iommu, id, DefaultDomain::Dma(mode)).unwrap()
    }

    fn map_and_unmap(&mut self, dma: &DmaHandle<LabPlatform>, what: &str, pa: u64, len_bytes: u64) {
        let map = || dma.map_single(Pa::new(pa), len_bytes, Direction::Bidirectional).unwrap();
        let mapping = self.cost(&format!("map {what}"), map);
        self.cost(&format!("unmap {what}"), || dma.unmap_single(mapping).unwrap());
    }
}

const PAGE: u64 = 4096;
const MIB_2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// The table of costs on a machine.
fn table(machine: &str) -> String {
    let mut bench = Bench::new(machine);
    let first = bench.device("first", 0x08);
    let group = bench.group(0, FlushMode::Strict);
    bench.cost("attach DMA", || group.add_device(&first).unwrap());
    let (platform, iommu) = (bench.platform.clone(), bench.unit.iommu().clone());
    let identity = Domain::new(platform, iommu, DomainType::Identity).unwrap();
    bench.cost("attach identity", || group.attach(&identity).unwrap());
    bench.cost("attach blocked", || group.attach(&group.blocked_domain().clone()).unwrap());
    bench.cost("attach DMA again", || group.detach().unwrap());

    let dma = group.dma(&first).unwrap();
    bench.map_and_unmap(&dma, "4 KiB, table cold", 0x4800_0000, PAGE);
    // Something that stays keeps the tables in place.
    let kept = dma.map_single(Pa::new(0x4700_0000), PAGE, Direction::ToDevice).unwrap();
    bench.map_and_unmap(&dma, "4 KiB", 0x4800_0000, PAGE);
    bench.map_and_unmap(&dma, "2 MiB", 0x4800_0000, MIB_2);
    bench.map_and_unmap(&dma, "2 MiB as pages", 0x4800_1000, MIB_2);
    bench.map_and_unmap(&dma, "1 GiB", 0x8000_0000, GIB);
    bench.map_and_unmap(&dma, "1 GiB as 2 MiB", 0x8020_0000, GIB);
    bench.map_and_unmap(&dma, "1 GiB as pages", 0x8000_1000, GIB);
    let pages: Vec<PaRange> =
        (0..16).map(|page| PaRange::new(Pa::new(0x4800_0000 + 2 * PAGE * page), PAGE).unwrap()).collect();
    let list = bench.cost("map list of 16 pages", || dma.map_sg(&pages, Direction::FromDevice).unwrap());
    bench.cost("unmap list of 16 pages", || dma.unmap_sg(list).unwrap());
    let buffer = bench.cost("alloc coherent 4 pages", || dma.alloc_coherent(4 * PAGE).unwrap());
    bench.cost("free coherent 4 pages", || dma.free_coherent(buffer).unwrap());
    let doorbell = Pa::new(0x0809_0040);
    bench.cost("MSI, first", || dma.compose_msi(doorbell, 1).unwrap());
    bench.cost("MSI, second", || dma.compose_msi(doorbell, 2).unwrap());
    dma.unmap_single(kept).unwrap();

    let second = bench.device("second", 0x10);
    let lazy_group = bench.group(1, FlushMode::Lazy);
    lazy_group.add_device(&second).unwrap();
    let lazy = lazy_group.dma(&second).unwrap();
    let mapping = lazy.map_single(Pa::new(0x4800_0000), PAGE, Direction::ToDevice).unwrap();
    bench.cost("unmap 4 KiB, lazily", || lazy.unmap_single(mapping).unwrap());
    bench.cost("flush", || lazy.flush().unwrap());
    bench.table
}

/// The line of an operation.
fn line<'a>(table: &'a str, operation: &str) -> &'a str {
    table.lines().find(|line| line.split("  ").next() == Some(operation)).unwrap()
}

#[test]
fn costs_with_range_invalidation() {
    insta::assert_snapshot!("arm", table("arm"));
}

#[test]
fn costs_without_range_invalidation() {
    insta::assert_snapshot!("arm-v31", table("arm-v31"));
}

#[test]
fn costs_at_stage_2() {
    insta::assert_snapshot!("arm-stage2", table("arm-stage2"));
}

#[test]
fn one_gibibyte_is_unmapped_by_one_range_and_one_sync() {
    for (machine, command) in [("arm", "CMD_TLBI_NH_VA"), ("arm-stage2", "CMD_TLBI_S2_IPA")] {
        let table = table(machine);
        for operation in ["unmap 1 GiB", "unmap 1 GiB as 2 MiB", "unmap 1 GiB as pages"] {
            let line = line(&table, operation);
            assert!(line.ends_with(&format!("  1 {command}, 1 CMD_SYNC")), "{machine}: {line}");
        }
    }
}

#[test]
fn blocks_of_1_gib_take_a_table_page_per_level_at_most() {
    let table = table("arm");
    let bytes = |operation: &str| -> u64 {
        let figures = line(&table, operation)[26..].split_whitespace().next().unwrap();
        figures.parse().unwrap()
    };
    assert!(bytes("map 1 GiB") <= 3 * PAGE);
    assert!(bytes("map 1 GiB as 2 MiB") <= 4 * PAGE);
}

#[test]
fn one_device_among_16_bit_stream_ids_takes_less_than_20_kib() {
    let mut bench = Bench::new("arm");
    assert_eq!(bench.driver.features().stream_bits, 16);
    bench.device("only", 0x1234);
    let bytes = bench.driver.table_bytes().stream_table;
    assert!(bytes < 20 << 10, "{bytes} bytes");
}
