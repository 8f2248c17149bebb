//! The operations of a driver whose cost is measured: on the models (`tests/cost*.rs`) and, of SMMUv3, on any bed (`conformance::cost`), the same
//! ones by the same names.

use std::sync::Arc;

use portcullis::core::device::{Device, DeviceInfo, DmaMask};
use portcullis::core::dma::{Direction, DmaHandle};
use portcullis::core::domain::{Domain, DomainType, FlushMode};
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::{Gather, Iommu};
use portcullis::core::nested::{GuestInvalidation, GuestTable};
use portcullis::core::owner::{Owner, Released};
use portcullis::core::unit::IommuUnit;
use portcullis::hal::Platform;
use portcullis::types::{Iova, IovaRange, Pa, PaRange, Perms, Prot, SourceId};

use super::spent::{Spends, Spent};

/// Who counts besides the driver, and notes what an operation cost.
pub trait Notes {
    /// An operation begins: what was counted before is none of its.
    fn begin(&mut self);
    /// It has ended, and the driver has spent this.
    fn note(&mut self, operation: &str, spent: &Spent);
}

/// A driver whose operations are measured.
pub struct Script<P: Platform, D, N> {
    platform: Arc<P>,
    /// The driver.
    pub driver: Arc<D>,
    unit: Arc<IommuUnit<P>>,
    /// What was noted.
    pub notes: N,
}

const PAGE: u64 = 4096;
const MIB_2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

impl<P: Platform, D: Iommu<P> + Spends + 'static, N: Notes> Script<P, D, N> {
    /// Of a driver that was brought up.
    pub fn new(platform: Arc<P>, driver: Arc<D>, notes: N) -> Self {
        let unit = Arc::new(IommuUnit::new(platform.clone(), driver.clone() as Arc<dyn Iommu<P>>));
        Self { platform, driver, unit, notes }
    }

    /// Does something and notes what it cost.
    fn cost<T>(&mut self, operation: &str, act: impl FnOnce() -> T) -> T {
        let before = self.driver.spent();
        self.notes.begin();
        let done = act();
        self.notes.note(operation, &self.driver.spent().since(&before));
        done
    }

    /// Adds a device.
    ///
    /// # Panics
    ///
    /// Here and below: if an operation fails.
    pub fn device(&mut self, name: &str, stream: u32) -> Arc<Device<P>> {
        let mut info = DeviceInfo::new(name, &[SourceId(stream)]);
        info.pci = true;
        let unit = self.unit.clone();
        let added = self.cost(&format!("add the {name} device"), || unit.add_device(info));
        let device = added.expect("a device is added");
        device.set_dma_mask(DmaMask::BITS_64);
        device
    }

    fn group(&self, id: u32, mode: FlushMode) -> Group<P> {
        let iommu = self.unit.iommu().clone();
        Group::new(self.platform.clone(), iommu, id, DefaultDomain::Dma(mode)).expect("a group")
    }

    fn map_and_unmap(&mut self, dma: &DmaHandle<P>, what: &str, pa: u64, len_bytes: u64) {
        let map = || dma.map_single(Pa::new(pa), len_bytes, Direction::Bidirectional);
        let mapping = self.cost(&format!("map {what}"), map).expect("a mapping");
        self.cost(&format!("unmap {what}"), || dma.unmap_single(mapping)).expect("an unmap");
    }

    /// All of them, on a driver with 4 KiB pages. A gibibyte as pages is a quarter of a million stores: only with `gib_as_pages`.
    ///
    /// # Panics
    ///
    /// If an operation fails.
    pub fn run(&mut self, gib_as_pages: bool) {
        let first = self.device("first", 0x08);
        let group = self.group(0, FlushMode::Strict);
        self.cost("attach DMA", || group.add_device(&first)).expect("an attach");
        let (platform, iommu) = (self.platform.clone(), self.unit.iommu().clone());
        let identity = Domain::new(platform, iommu, DomainType::Identity).expect("a domain");
        self.cost("attach identity", || group.attach(&identity)).expect("an attach");
        self.cost("attach blocked", || group.attach(&group.blocked_domain().clone())).expect("an attach");
        self.cost("attach DMA again", || group.detach()).expect("an attach");
        self.maps(&group.dma(&first).expect("a handle"), gib_as_pages);
        self.lazily();
    }

    /// What a guest's table before a domain costs, what the guest's invalidations become, and what those of its monitor do. The table's root lies in the first 64 KiB of the guest's memory.
    ///
    /// # Panics
    ///
    /// If an operation fails.
    pub fn nest(&mut self, device: &Arc<Device<P>>, table: &GuestTable) {
        const GUEST_AT: u64 = 0x12_3440_0000;
        let prot = Prot::cached(Perms::READ_WRITE);
        let (iommu, owner) = (self.unit.iommu().clone(), Owner::of(&self.driver));
        let group = self.group(0, FlushMode::Strict);
        group.add_device(device).expect("an attach");
        group.claim_group(owner).expect("nobody else has it");
        let parent = self.cost("make a parent", || Domain::new_parent(iommu)).expect("a domain");
        let map = || parent.map(Iova::new(0), Pa::new(0x4800_1000), 16 * PAGE, prot);
        self.cost("parent maps 16 pages", map).expect("a mapping");
        let nested = self.cost("nest a guest's table", || Domain::new_nested(&parent, table));
        let nested = nested.expect("a domain");
        self.cost("attach nested", || group.attach_as(owner, &nested)).expect("an attach");
        let range = |len_bytes| IovaRange::new(Iova::new(GUEST_AT), len_bytes).expect("it does not wrap");
        let forgets = [
            ("guest forgets a page", range(PAGE), true),
            ("guest forgets a table", range(PAGE), false),
            ("guest forgets 16 pages", range(16 * PAGE), true),
            ("guest forgets 2 MiB", range(MIB_2), true),
        ];
        for (operation, range, leaves_only) in forgets {
            let forget = || nested.invalidate(GuestInvalidation::Range { range, leaves_only });
            self.cost(operation, forget).expect("an invalidation");
        }
        let forget = || nested.invalidate(GuestInvalidation::All);
        self.cost("guest forgets all", forget).expect("an invalidation");
        let unmap = || {
            let (mut gather, page) = (Gather::new(), IovaRange::new(Iova::new(8 * PAGE), PAGE));
            parent.unmap(page.expect("it does not wrap"), &mut gather).expect("an unmap");
            parent.sync(&mut gather).map(drop)
        };
        self.cost("parent unmaps 4 KiB", unmap).expect("a sync");
        self.cost("attach the parent", || group.replace_as(owner, &parent)).expect("an attach");
        self.cost("drop the guest's table", || drop(nested));
        assert_eq!(group.release_group(owner), Ok(Released::Free));
    }

    fn maps(&mut self, dma: &DmaHandle<P>, gib_as_pages: bool) {
        self.map_and_unmap(dma, "4 KiB, table cold", 0x4800_0000, PAGE);
        // Something that stays keeps the tables in place.
        let kept = dma.map_single(Pa::new(0x4700_0000), PAGE, Direction::ToDevice).expect("a mapping");
        self.map_and_unmap(dma, "4 KiB", 0x4800_0000, PAGE);
        self.map_and_unmap(dma, "2 MiB", 0x4800_0000, MIB_2);
        self.map_and_unmap(dma, "2 MiB as pages", 0x4800_1000, MIB_2);
        self.map_and_unmap(dma, "1 GiB", 0x8000_0000, GIB);
        self.map_and_unmap(dma, "1 GiB as 2 MiB", 0x8020_0000, GIB);
        if gib_as_pages {
            self.map_and_unmap(dma, "1 GiB as pages", 0x8000_1000, GIB);
        }
        let page = |number| PaRange::new(Pa::new(0x4800_0000 + 2 * PAGE * number), PAGE).expect("a page");
        let pages: Vec<PaRange> = (0..16).map(page).collect();
        let list = self.cost("map list of 16 pages", || dma.map_sg(&pages, Direction::FromDevice));
        let list = list.expect("a mapping");
        self.cost("unmap list of 16 pages", || dma.unmap_sg(list)).expect("an unmap");
        let buffer = self.cost("alloc coherent 4 pages", || dma.alloc_coherent(4 * PAGE)).expect("a buffer");
        self.cost("free coherent 4 pages", || dma.free_coherent(buffer)).expect("an unmap");
        let doorbell = Pa::new(0x0809_0040);
        self.cost("MSI, first", || dma.compose_msi(doorbell, 1)).expect("a message");
        self.cost("MSI, second", || dma.compose_msi(doorbell, 2)).expect("a message");
        dma.unmap_single(kept).expect("an unmap");
    }

    fn lazily(&mut self) {
        let second = self.device("second", 0x10);
        let group = self.group(1, FlushMode::Lazy);
        group.add_device(&second).expect("an attach");
        let dma = group.dma(&second).expect("a handle");
        let mapping = dma.map_single(Pa::new(0x4800_0000), PAGE, Direction::ToDevice).expect("a mapping");
        self.cost("unmap 4 KiB, lazily", || dma.unmap_single(mapping)).expect("an unmap");
        self.cost("flush", || dma.flush()).expect("a flush");
    }
}
