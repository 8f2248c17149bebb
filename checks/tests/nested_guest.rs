//! The life of a guest that has an IOMMU of its own, from its monitor's side: core, the shipped drivers, and strict models. The guest writes its tables into its own memory
//! with the formats of `pgtable`; the device on x86 keeps translations itself.
//!
//! Not here: each promise by itself and in words written by hand (`conformance::seam::nested`).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use model_bus::{
    Downstream, Invalidation, PageResponse, Port, Translation, TranslationAnswer, TranslationRequest,
    Translator,
};
use portcullis::core::device::{Device, DeviceInfo};
use portcullis::core::dma::compose_msi;
use portcullis::core::domain::{Domain, FlushMode};
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iommu::{FaultReason, FaultRecord, Gather, Iommu};
use portcullis::core::nested::{GuestInvalidation, GuestTable};
use portcullis::core::owner::{Owner, Released};
use portcullis::core::sva::{CpuFacts, DeviceSvaFacts, DeviceSwitches};
use portcullis::core::unit::IommuUnit;
use portcullis::hal::{Barriers, BlockLayout, DmaMemory, TableMemory};
use portcullis::pgtable::vtd::{FirstConfig, FirstStage, PAT};
use portcullis::pgtable::{Format, PageTable, arm};
use portcullis::smmuv2::Smmu;
use portcullis::types::{Gpa, Iova, IovaRange, Pa, PaRange, Perms, Prot, SizeLg2, SourceId};
use portcullis::vtd::Vtd;
use portcullis_lab::machine::{DiskContent, Machine, builtin};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::trace;

const SOURCE: SourceId = SourceId(0x08);
/// The guest's memory: guest-physical from 0 on, of which the upper half is for its tables.
const RAM_LG2: u8 = 20;
const TABLES: u64 = 1 << 19;
/// Where the guest maps things, and two pages of its memory.
const AT: u64 = 0x12_3450_0000;
const PAGE: u64 = 0x5000;
const OTHER: u64 = 0x9000;
const RW: Prot = Prot::cached(Perms::READ_WRITE);

/// The guest's memory as the guest's kernel sees it: its physical addresses are the host's less the beginning.
struct GuestMemory {
    host: Arc<LabPlatform>,
    ram: Pa,
    next: AtomicU64,
}

impl GuestMemory {
    fn at(&self, gpa: Pa) -> Pa {
        assert!(gpa.get() < 1 << RAM_LG2, "the guest has no memory at {gpa}");
        Pa::new(self.ram.get() + gpa.get())
    }
}

impl TableMemory for GuestMemory {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        let bytes = layout.size_bytes();
        let first = self.next.load(SeqCst).next_multiple_of(bytes);
        self.next.store(first + bytes, SeqCst);
        (first + bytes <= 1 << RAM_LG2).then(|| Pa::new(first))
    }

    fn free(&self, _: Pa, _: BlockLayout) {}

    fn load(&self, at: Pa) -> u64 {
        self.host.load(self.at(at))
    }

    fn store(&self, at: Pa, word: u64) {
        self.host.store(self.at(at), word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.host.compare_exchange(self.at(at), current, new)
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        self.host.clean_table(self.at(at), len_bytes);
    }
}

impl Barriers for GuestMemory {
    fn write_barrier(&self) {
        self.host.write_barrier();
    }

    fn read_barrier(&self) {
        self.host.read_barrier();
    }

    fn full_barrier(&self) {
        self.host.full_barrier();
    }
}

/// A device that keeps what it is told of addresses, while its ATS is on, until it is told to forget it.
struct Atc {
    port: Port,
    on: AtomicBool,
    kept: Mutex<BTreeMap<u64, Translation>>,
}

impl Atc {
    /// Writes eight bytes. Whether it could.
    fn write(&self, at: u64, bytes: &[u8; 8]) -> bool {
        if !self.on.load(SeqCst) {
            return self.port.write(None, Iova::new(at), bytes).is_ok();
        }
        let page = at & !0xfff;
        let kept = self.kept.lock().unwrap().get(&page).copied();
        let translation = match kept {
            Some(kept) => kept,
            None => {
                let ask = TranslationRequest {
                    source: SOURCE,
                    pasid: None,
                    iova: Iova::new(page),
                    no_write: false,
                    execute: false,
                    privileged: false,
                };
                match self.port.translate(&ask) {
                    TranslationAnswer::Translated(answer) if answer.write => answer,
                    _ => return false,
                }
            }
        };
        self.kept.lock().unwrap().insert(page, translation);
        let to = translation.pa.get() + (at - translation.first.get());
        self.port.write_translated(None, Pa::new(to), bytes).is_ok()
    }

    fn keeps(&self, at: u64) -> bool {
        self.kept.lock().unwrap().contains_key(&(at & !0xfff))
    }
}

impl core::fmt::Debug for Atc {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Atc")
    }
}

impl Downstream for Atc {
    fn invalidate(&self, message: &Invalidation) -> bool {
        assert!(self.on.load(SeqCst), "a device whose ATS is off was asked to forget");
        let first = message.first.get();
        let last = if message.size_lg2 == 64 { u64::MAX } else { first + ((1 << message.size_lg2) - 1) };
        self.kept.lock().unwrap().retain(|&page, _| page < first || page > last);
        self.port.complete_invalidations(1 << message.tag);
        true
    }

    fn page_response(&self, _: &PageResponse) -> bool {
        false
    }
}

impl DeviceSwitches for Atc {
    fn set_ats(&self, on: bool) {
        self.kept.lock().unwrap().clear();
        self.on.store(on, SeqCst);
    }
}

/// A guest, its monitor and a device.
struct Vm {
    platform: Arc<LabPlatform>,
    unit: IommuUnit<LabPlatform>,
    group: Group<LabPlatform>,
    device: Arc<Device<LabPlatform>>,
    owner: Owner,
    atc: Arc<Atc>,
    ram: Pa,
    memory: Arc<Domain<LabPlatform>>,
    heard: Arc<Mutex<Vec<(u64, FaultReason)>>>,
    /// The last, so that it outlives the drivers.
    _machine: Machine,
}

impl Vm {
    fn new(
        machine: Machine,
        platform: Arc<LabPlatform>,
        iommu: Arc<dyn Iommu<LabPlatform>>,
        translator: Arc<dyn Translator>,
    ) -> Self {
        let ram = platform.alloc_buffer(BlockLayout::naturally_aligned(RAM_LG2)).unwrap();
        platform.write(ram, &vec![0; 1 << RAM_LG2]);
        let port = Port::new(SOURCE, translator.clone(), machine.bus.clone());
        let atc = Arc::new(Atc { port, on: AtomicBool::new(false), kept: Mutex::default() });
        let weak: std::sync::Weak<dyn Downstream> = Arc::downgrade(&(atc.clone() as Arc<dyn Downstream>));
        translator.connect(weak);
        let unit = IommuUnit::new(platform.clone(), iommu.clone());
        let group =
            Group::new(platform.clone(), iommu.clone(), 1, DefaultDomain::Dma(FlushMode::Strict)).unwrap();
        let device = unit.add_device(DeviceInfo::new("gpu", &[SOURCE])).unwrap();
        group.add_device(&device).unwrap();
        let memory = Domain::new_parent(iommu).unwrap();
        memory.map(Iova::new(0), ram, 1 << RAM_LG2, RW).unwrap();
        let owner = Owner::of(&atc);
        let heard = Arc::default();
        Self { platform, unit, group, device, owner, atc, ram, memory, heard, _machine: machine }
    }

    fn guest(&self) -> GuestMemory {
        GuestMemory { host: self.platform.clone(), ram: self.ram, next: AtomicU64::new(TABLES) }
    }

    /// A guest's table before its memory, with somebody who hears of its faults.
    fn nested(&self, table: &GuestTable) -> Arc<Domain<LabPlatform>> {
        let nested = Domain::new_nested(&self.memory, table).unwrap();
        let heard = self.heard.clone();
        nested.set_fault_handler(Some(Arc::new(move |_: &Device<LabPlatform>, record: &FaultRecord| {
            heard.lock().unwrap().push((record.iova.map_or(0, Iova::get), record.reason));
        })));
        nested
    }

    /// Has the device write, and demands that it lands there.
    fn lands(&self, at: u64, to: Pa) {
        let bytes = (at ^ 0x5a5a_0000_1234_5678).to_le_bytes();
        assert!(self.atc.write(at, &bytes), "{at:#x} is refused: {:x?}", self.faults());
        let mut seen = [0; 8];
        self.platform.read(to, &mut seen);
        assert_eq!(seen, bytes, "{at:#x} went elsewhere");
        self.platform.write(to, &[0; 8]);
    }

    /// Has the device write, and demands that nothing of `page` changes.
    fn is_refused(&self, at: u64, page: Pa) {
        assert!(!self.atc.write(at, &[0xee; 8]), "{at:#x} is not refused");
        let mut seen = [0; 8];
        self.platform.read(page, &mut seen);
        assert_eq!(seen, [0; 8], "{at:#x} was refused, and yet");
    }

    fn faults(&self) -> Vec<(u64, FaultReason)> {
        self.unit.dispatch_faults();
        core::mem::take(&mut self.heard.lock().unwrap())
    }

    fn at(&self, gpa: u64) -> Pa {
        Pa::new(self.ram.get() + gpa)
    }

    /// The monitor takes a page of memory from the guest.
    fn balloon(&self, gpa: u64) {
        let mut gather = Gather::new();
        assert_eq!(self.memory.unmap(page(gpa), &mut gather), Ok(0x1000));
        let _flushed = self.memory.sync(&mut gather).unwrap();
    }
}

fn page(at: u64) -> IovaRange {
    IovaRange::new(Iova::new(at), 0x1000).unwrap()
}

/// What any guest goes through. The guest's table maps two pages, which its kernel changes as any kernel does.
fn lives<F: Format>(vm: &Vm, format: F, says: impl Fn(u64) -> GuestTable) -> Arc<Domain<LabPlatform>> {
    let guest = vm.guest();
    let mut table = PageTable::new(format, &guest).unwrap();
    let map = |table: &mut PageTable<F>, at, gpa| {
        table.map(&guest, Iova::new(at), Pa::new(gpa), 0x1000, RW).unwrap();
    };
    map(&mut table, AT, PAGE);
    map(&mut table, AT + 0x1000, OTHER);
    let (here, there) = (vm.at(PAGE), vm.at(OTHER));

    vm.group.claim_group(vm.owner).unwrap();
    vm.group.attach_as(vm.owner, &vm.memory).unwrap();
    vm.lands(PAGE, here);
    // The guest turns its IOMMU on.
    let nested = vm.nested(&says(table.root().get()));
    vm.group.replace_as(vm.owner, &nested).unwrap();
    for (at, to) in [(AT, here), (AT + 0x1000, there), (AT + 8, Pa::new(here.get() + 8))] {
        vm.lands(at, to);
    }
    vm.is_refused(PAGE, here);
    let told = vm.faults();
    assert!(told.iter().all(|&(at, reason)| (at, reason) == (PAGE, FaultReason::NotMapped)), "{told:x?}");

    // The monitor takes a page away: at once, whatever the device keeps.
    vm.balloon(PAGE);
    assert!(!vm.atc.keeps(AT), "the device goes on by what both tables said");
    vm.is_refused(AT, here);
    vm.lands(AT + 0x1000, there);
    let told = vm.faults();
    assert!(told.iter().all(|&(at, _)| at & !0xfff == AT), "the guest's address: {told:x?}");
    // And gives another for it, of which the guest sees nothing.
    let new = vm.platform.alloc_buffer(BlockLayout::naturally_aligned(12)).unwrap();
    vm.platform.write(new, &[0; 0x1000]);
    vm.memory.map(Iova::new(PAGE), new, 0x1000, RW).unwrap();
    vm.lands(AT, new);

    // The guest takes a mapping away, and says so.
    vm.lands(AT + 0x1000, there);
    let removed = table.unmap(&guest, page(AT + 0x1000)).unwrap();
    assert_eq!(removed.bytes, 0x1000);
    let leaves_only = !removed.tables;
    nested.invalidate(GuestInvalidation::Range { range: page(AT + 0x1000), leaves_only }).unwrap();
    assert_eq!(vm.atc.keeps(AT), vm.atc.on.load(SeqCst), "the other page is none of its business");
    vm.is_refused(AT + 0x1000, there);
    vm.lands(AT, new);
    vm.faults();
    nested
}

/// The user is gone: his claim is released, his domains are dropped, and the device is where the kernel wants it.
fn dies(vm: &Vm, nested: Arc<Domain<LabPlatform>>) {
    let gone = (Arc::downgrade(&nested), Arc::downgrade(&vm.memory));
    assert_eq!(vm.group.release_group(vm.owner), Ok(Released::Free));
    assert_eq!(vm.memory.nested_count(), Some(1));
    drop(nested);
    assert_eq!((vm.memory.nested_count(), gone.0.upgrade().is_none()), (Some(0), true));
    vm.is_refused(AT, vm.at(PAGE));
    vm.is_refused(PAGE, vm.at(PAGE));
    assert!(gone.1.upgrade().is_some(), "the monitor's own");
}

#[test]
fn on_x86_a_guest_translates_for_a_device_that_keeps_translations_and_its_monitor_has_the_last_word() {
    let mut spec = builtin::find("x86").unwrap();
    spec.pc.as_mut().unwrap().units[0].config = model_vtd::Config::default();
    let base = spec.pc.as_ref().unwrap().units[0].base;
    let sink = trace::shared(None);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, None));
    let model = machine.vtds[0].clone();
    let registers = PaRange::new(base, model_vtd::Vtd::REGISTER_BYTES).unwrap();
    let mut config = portcullis::vtd::Config::new("unit");
    config.host_address_bits = model.config().host_bits;
    let mut cpus = CpuFacts::new(SizeLg2::KIB_4);
    cpus.output_bits = config.host_address_bits;
    config.cpus = Some(cpus);
    let unit = Vtd::probe(platform.clone(), Arc::new(platform.registers(registers)), config).unwrap();
    let unit: Arc<dyn Iommu<LabPlatform>> = Arc::new(unit);
    let vm = Vm::new(machine, platform, unit.clone(), model.clone());
    let facts =
        DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 20, can_stall: false };
    unit.sva().unwrap().enable(&[SOURCE], &facts, vm.atc.clone()).unwrap();
    let format = FirstStage::new(FirstConfig::new(4)).unwrap();
    let nested = lives(&vm, format, |root| GuestTable::X86 {
        root: Gpa::new(root),
        levels: 4,
        pat: x86_pat(),
        write_protect: true,
        extended_accessed: false,
    });
    assert!(vm.atc.on.load(SeqCst) && vm.atc.keeps(AT), "its TLB was in use all along");
    dies(&vm, nested);
    assert_eq!(model.take_unpredictable(), []);
}

/// IA32_PAT with the memory kinds that the format counts on, which has them in 4 bits each.
fn x86_pat() -> u64 {
    (0..8).fold(0, |pat, kind| pat | u64::from(PAT >> (4 * kind) & 0xf) << (8 * kind))
}

#[test]
fn on_smmuv2_a_guest_translates_and_its_devices_doorbell_is_mapped_by_its_monitor() {
    let spec = builtin::find("smmuv2").unwrap();
    let base = spec.smmuv2s[0].base;
    let sink = trace::shared(None);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, None));
    let model = machine.smmuv2s[0].clone();
    let registers = PaRange::new(base, model.config().size_bytes()).unwrap();
    let config = portcullis::smmuv2::Config::new("smmu");
    let smmu: Arc<dyn Iommu<LabPlatform>> =
        Smmu::probe(platform.clone(), platform.registers(registers), config).unwrap();
    let vm = Vm::new(machine, platform, smmu, model.clone());
    let stage1 = arm::Config { input_bits: 39, output_bits: 40, ..arm::Config::new(SizeLg2::KIB_4) };
    let format = arm::Stage1::new(stage1).unwrap();
    let says = |root| GuestTable::Vmsa64 {
        root: Gpa::new(root),
        granule: SizeLg2::KIB_4,
        input_bits: 39,
        output_bits: 40,
        mair: arm::MAIR,
    };
    let nested = lives(&vm, format, says);
    // The doorbell is a page at which the device's interrupts are written. The monitor's window for such is in the guest's physical memory, where the guest maps it 1:1.
    let doorbell = vm.platform.alloc_buffer(BlockLayout::naturally_aligned(12)).unwrap();
    vm.platform.write(doorbell, &[0; 0x1000]);
    let window = vm.device.reserved_regions()[0].range;
    vm.memory.set_msi_window(window).unwrap();
    let message = compose_msi(&vm.device, &nested, Pa::new(doorbell.get() + 0x40), 7).unwrap();
    assert!(window.contains(message.address));
    let guest = GuestMemory { next: AtomicU64::new(TABLES + (1 << 18)), ..vm.guest() };
    let mut table = PageTable::new(format, &guest).unwrap();
    let target = message.address.get() & !0xfff;
    vm.is_refused(message.address.get(), Pa::new(doorbell.get() + 0x40));
    let device = Prot::device(Perms::READ_WRITE);
    table.map(&guest, Iova::new(target), Pa::new(target), 0x1000, device).unwrap();
    let with_doorbell = vm.nested(&says(table.root().get()));
    vm.group.replace_as(vm.owner, &with_doorbell).unwrap();
    vm.lands(message.address.get(), Pa::new(doorbell.get() + 0x40));
    drop(nested);
    dies(&vm, with_doorbell);
    assert_eq!(model.take_unpredictable(), []);
}
