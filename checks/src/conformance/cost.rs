//! What the driver's operations cost in register accesses and commands, on any bed.
//!
//! The operations are those of the table of costs (`tests/cost.rs`), by the same names. Register accesses are what an operation costs where each crosses a
//! bus, and they must not depend on whose SMMU is at the other end: the same ones on the model and on QEMU.

use std::sync::Arc;

use portcullis::core::device::{Device, DeviceInfo, DmaMask};
use portcullis::core::dma::{Direction, DmaHandle};
use portcullis::core::domain::{Domain, DomainType, FlushMode};
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::Iommu;
use portcullis::core::unit::IommuUnit;
use portcullis::smmuv3::{Config, Counts, Smmu};
use portcullis::types::{Pa, PaRange, SourceId};

use super::bed::Bed;
use super::bench::Driver;
use super::via::{Accesses, Between, Via, between};

/// What one operation cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was done, as the table of costs calls it.
    pub operation: String,
    /// Register accesses.
    pub accesses: Accesses,
    /// Commands, in numbers and names.
    pub commands: String,
}

/// A driver whose operations are measured.
struct Meter<B: Bed> {
    via: Arc<Via<B::Platform>>,
    driver: Arc<Driver<B>>,
    unit: IommuUnit<Via<B::Platform>>,
    between: Arc<Between>,
    lines: Vec<Line>,
}

impl<B: Bed> Meter<B> {
    /// Does something and notes what it cost.
    fn cost<T>(&mut self, operation: &str, act: impl FnOnce() -> T) -> T {
        let before = self.begin();
        let done = act();
        self.note(operation, &before);
        done
    }

    fn begin(&self) -> Counts {
        self.between.take_accesses();
        self.driver.counts()
    }

    fn note(&mut self, operation: &str, before: &Counts) {
        let spent = self.driver.counts().since(before);
        let commands: Vec<String> = spent
            .by_command()
            .map(|(op, count)| format!("{count} {}", op.name().expect("a command of the driver has a name")))
            .collect();
        let accesses = self.between.take_accesses();
        self.lines.push(Line { operation: operation.into(), accesses, commands: commands.join(", ") });
    }

    fn device(&mut self, name: &str, stream: u32) -> Arc<Device<Via<B::Platform>>> {
        let mut info = DeviceInfo::new(name, &[SourceId(stream)]);
        info.pci = true;
        let before = self.begin();
        let device = self.unit.add_device(info).expect("a device is added");
        self.note(&format!("add the {name} device"), &before);
        device.set_dma_mask(DmaMask::BITS_64);
        device
    }

    fn group(&self, id: u32, mode: FlushMode) -> Group<Via<B::Platform>> {
        let iommu = self.unit.iommu().clone();
        Group::new(self.via.clone(), iommu, id, DefaultDomain::Dma(mode)).expect("a group")
    }

    fn map_and_unmap(&mut self, dma: &DmaHandle<Via<B::Platform>>, what: &str, pa: u64, len_bytes: u64) {
        let map = || dma.map_single(Pa::new(pa), len_bytes, Direction::Bidirectional);
        let mapping = self.cost(&format!("map {what}"), map).expect("a mapping");
        self.cost(&format!("unmap {what}"), || dma.unmap_single(mapping)).expect("an unmap");
    }
}

const PAGE: u64 = 4096;
const MIB_2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// The costs on a bed with 4 KiB pages. No device does anything meanwhile.
///
/// # Panics
///
/// If an operation fails.
pub fn table<B: Bed>(bed: &B) -> Vec<Line> {
    let (via, registers, between) = between(bed.platform(), bed.registers(), bed.coherent());
    let driver = Smmu::probe(via.clone(), registers, Config::new("smmu")).expect("an SMMU is brought up");
    let unit = IommuUnit::new(via.clone(), driver.clone() as Arc<dyn Iommu<Via<B::Platform>>>);
    let mut meter = Meter::<B> { via, driver, unit, between, lines: Vec::new() };
    let first = meter.device("first", 0x08);
    let group = meter.group(0, FlushMode::Strict);
    meter.cost("attach DMA", || group.add_device(&first)).expect("an attach");
    let identity = Domain::new(meter.via.clone(), meter.unit.iommu().clone(), DomainType::Identity);
    let identity = identity.expect("a domain");
    meter.cost("attach identity", || group.attach(&identity)).expect("an attach");
    meter.cost("attach blocked", || group.attach(&group.blocked_domain().clone())).expect("an attach");
    meter.cost("attach DMA again", || group.detach()).expect("an attach");
    let dma = group.dma(&first).expect("a handle");
    maps(&mut meter, &dma);
    let second = meter.device("second", 0x10);
    let lazy_group = meter.group(1, FlushMode::Lazy);
    lazy_group.add_device(&second).expect("an attach");
    let lazy = lazy_group.dma(&second).expect("a handle");
    let mapping = lazy.map_single(Pa::new(0x4800_0000), PAGE, Direction::ToDevice).expect("a mapping");
    meter.cost("unmap 4 KiB, lazily", || lazy.unmap_single(mapping)).expect("an unmap");
    meter.cost("flush", || lazy.flush()).expect("a flush");
    let lines = core::mem::take(&mut meter.lines);
    drop((dma, lazy));
    meter.driver.teardown().expect("an SMMU is turned off");
    lines
}

fn maps<B: Bed>(meter: &mut Meter<B>, dma: &DmaHandle<Via<B::Platform>>) {
    meter.map_and_unmap(dma, "4 KiB, table cold", 0x4800_0000, PAGE);
    // Something that stays keeps the tables in place.
    let kept = dma.map_single(Pa::new(0x4700_0000), PAGE, Direction::ToDevice).expect("a mapping");
    meter.map_and_unmap(dma, "4 KiB", 0x4800_0000, PAGE);
    meter.map_and_unmap(dma, "2 MiB", 0x4800_0000, MIB_2);
    meter.map_and_unmap(dma, "2 MiB as pages", 0x4800_1000, MIB_2);
    meter.map_and_unmap(dma, "1 GiB", 0x8000_0000, GIB);
    meter.map_and_unmap(dma, "1 GiB as 2 MiB", 0x8020_0000, GIB);
    let pages: Vec<PaRange> = (0..16)
        .map(|page| PaRange::new(Pa::new(0x4800_0000 + 2 * PAGE * page), PAGE).expect("a page"))
        .collect();
    let list = meter.cost("map list of 16 pages", || dma.map_sg(&pages, Direction::FromDevice));
    let list = list.expect("a mapping");
    meter.cost("unmap list of 16 pages", || dma.unmap_sg(list)).expect("an unmap");
    let buffer = meter.cost("alloc coherent 4 pages", || dma.alloc_coherent(4 * PAGE)).expect("a buffer");
    meter.cost("free coherent 4 pages", || dma.free_coherent(buffer)).expect("an unmap");
    let doorbell = Pa::new(0x0809_0040);
    meter.cost("MSI, first", || dma.compose_msi(doorbell, 1)).expect("a message");
    meter.cost("MSI, second", || dma.compose_msi(doorbell, 2)).expect("a message");
    dma.unmap_single(kept).expect("an unmap");
}
