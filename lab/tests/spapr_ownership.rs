//! A group behind a PHB3 is taken and given back, over and over, and with every allocation of memory for tables and buffers failing once.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Outcome, Request, Translator};
use portcullis::core::device::Device;
use portcullis::core::dma::Direction;
use portcullis::core::group::Group;
use portcullis::core::iommu::Gather;
use portcullis::core::owner::{Owner, Released};
use portcullis::core::table_group::{TableEntry, TableSpec};
use portcullis::hal::BlockLayout;
use portcullis::types::{Access, Iova, IovaRange, Pa, Perms, SizeLg2, SourceId};
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::platform::{LabPlatform, Tamper};
use portcullis_lab::tamper::Hands;
use portcullis_lab::trace;

const DISK: SourceId = SourceId(0x100);
const AROUND: u64 = 0x0800_0000_0000_0000;
const AT: u64 = 0x30_0000;

/// Memory for tables or buffers is refused once, after so many allocations; never at `u64::MAX`.
struct Failing(AtomicU64);

impl Failing {
    fn refuses(&self) -> bool {
        let left = self.0.load(Relaxed);
        if left != u64::MAX {
            self.0.store(left.wrapping_sub(1), Relaxed);
        }
        left == 0
    }
}

impl Tamper for Failing {
    fn alloc(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        if self.refuses() { None } else { hands.alloc(layout) }
    }

    fn alloc_buffer(&self, hands: Hands<'_>, layout: BlockLayout) -> Option<Pa> {
        if self.refuses() { None } else { hands.alloc_buffer(layout) }
    }
}

struct Bench {
    machine: Machine,
    system: System,
    failing: Arc<Failing>,
    device: Arc<Device<LabPlatform>>,
    group: Arc<Group<LabPlatform>>,
}

impl Bench {
    fn new() -> Self {
        let sink = trace::shared(None);
        let spec = builtin::find("power8").unwrap();
        let device_tree = fdt::emit(&spec).unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let failing = Arc::new(Failing(AtomicU64::new(u64::MAX)));
        let tamper: Option<Arc<dyn Tamper>> = Some(failing.clone());
        let request = BootRequest::new(&machine, &device_tree, sink);
        let system = System::boot(BootRequest { tamper, bypass: true, ..request }).unwrap();
        let is_disk = |standing: &Standing| match standing {
            Standing::Behind { device, group } if device.sources() == [DISK] => {
                Some((device.clone(), group.clone()))
            }
            _ => None,
        };
        let (device, group) = system.endpoints().find_map(|(_, at)| is_disk(&at.standing)).unwrap();
        Self { machine, system, failing, device, group }
    }

    fn reaches(&self, at: u64) -> bool {
        let access = |access| {
            let request = Request { source: DISK, pasid: None, iova: Iova::new(at), len_bytes: 1, access };
            self.machine.phbs[0].access(&request, &mut |_| Ok(()))
        };
        [Access::READ, Access::WRITE].map(access) == [Outcome::Done; 2]
    }

    /// What a user does. An error is that of an allocation.
    fn use_it(&self) -> Result<(), String> {
        let told = |error: &dyn core::fmt::Debug| format!("{error:?}");
        let tables = self.group.iommu().table_group(DISK).unwrap();
        let ops = tables.tables().unwrap();
        let spec = TableSpec { window: 0, page: SizeLg2::KIB_64, window_bytes: 1 << 30, levels: 2 };
        let table = ops.create_table(spec).map_err(|error| told(&error))?;
        ops.set_window(&table).map_err(|error| told(&error))?;
        let range = IovaRange::new(Iova::new(AT), 0x1_0000).unwrap();
        let used = table.prepare(range).map_err(|error| told(&error));
        if used.is_ok() {
            let set = |new| {
                let mut gather = Gather::new();
                table.exchange(Iova::new(AT), new).unwrap();
                gather.add(range, SizeLg2::KIB_64, false);
                let _flushed = table.flush(&mut gather).unwrap();
            };
            let pa = self.machine.spec.ram.first();
            set(Some(TableEntry { pa, perms: Perms::READ_WRITE, user: 0 }));
            assert!(self.reaches(AT), "the user's page");
            set(None);
        }
        ops.unset_window(0).unwrap();
        used
    }

    /// What the kernel does with its window: buffers, and memory of its own. An error is that of an allocation, after which all is as before.
    fn kernel_uses_it(&self) -> Result<(), String> {
        let told = |error: &dyn core::fmt::Debug| format!("{error:?}");
        let dma = self.group.dma(&self.device).unwrap();
        let buffer = dma.alloc_coherent(0x1_0000).map_err(|error| told(&error))?;
        let mapped = dma.map_single(self.machine.spec.ram.first(), 0x1_0000, Direction::Bidirectional);
        let mapped = mapped.map_err(|error| told(&error));
        let done = mapped.map(|mapped| dma.unmap_single(mapped).unwrap());
        dma.free_coherent(buffer).unwrap();
        done
    }

    /// Takes the group, uses it, and gives it back; and again if that was refused. Before and after, the kernel uses it. Answers what allocation has failed, if one has.
    fn round(&self) -> Option<String> {
        let before = self.kernel_uses_it().err();
        let during = self.hand_over();
        before.or(during).or(self.kernel_uses_it().err())
    }

    fn hand_over(&self) -> Option<String> {
        let user = Arc::new(0u8);
        if let Err(error) = self.group.claim_group(Owner::of(&user)) {
            return Some(format!("{error:?}"));
        }
        let failed = self.use_it().err();
        match self.group.release_group(Owner::of(&user)).unwrap() {
            Released::Free => failed,
            Released::Blocked(stuck) => {
                assert!(!self.reaches(AROUND | self.machine.spec.ram.first().get()), "blocked");
                self.thaw();
                self.group.detach().unwrap();
                Some(format!("{stuck:?}"))
            }
            other @ Released::Held(_) => panic!("{other:?}"),
        }
    }

    fn thaw(&self) {
        use portcullis::core::table_group::Freeze;
        let tables = self.group.iommu().table_group(DISK).unwrap();
        let eeh = tables.eeh().unwrap();
        eeh.unfreeze(Freeze::Io).and_then(|()| eeh.unfreeze(Freeze::Dma)).unwrap();
    }

    /// The kernel's window and its way around translation work.
    fn kernel_works(&self) {
        let dma = self.group.dma(&self.device).unwrap();
        let buffer = dma.alloc_coherent(4096).unwrap();
        assert!(self.reaches(buffer.iova().get()), "the kernel's window");
        assert!(self.reaches(AROUND | self.machine.spec.ram.first().get()), "the way around translation");
        dma.free_coherent(buffer).unwrap();
    }

    fn done(self) {
        let Self { machine, system, device, group, .. } = self;
        let platform = system.platform.clone();
        drop((device, group));
        system.shut_down().unwrap();
        assert_eq!((platform.live_table_bytes(), platform.live_buffer_bytes()), (0, 0));
        assert_eq!(machine.bus.cpu().ram().freed_use_count(), 0);
        assert_eq!(machine.phbs[0].take_unpredictable(), []);
    }
}

#[test]
fn a_group_is_taken_and_given_back_a_thousand_times_and_nothing_is_left() {
    let bench = Bench::new();
    assert_eq!(bench.round(), None);
    bench.kernel_works();
    let before = bench.system.platform.live_table_bytes();
    for _ in 0..1000 {
        assert_eq!(bench.round(), None);
    }
    bench.kernel_works();
    assert_eq!(bench.system.platform.live_table_bytes(), before);
    bench.done();
}

#[test]
fn with_any_allocation_failing_a_group_comes_back_and_nothing_is_left() {
    let bench = Bench::new();
    assert_eq!(bench.round(), None);
    bench.kernel_works();
    let before = bench.system.platform.live_table_bytes();
    let mut failures = Vec::new();
    for after in 0.. {
        bench.failing.0.store(after, Relaxed);
        let failed = bench.round();
        let reached = bench.failing.0.swap(u64::MAX, Relaxed) == u64::MAX;
        assert_eq!(failed.is_some(), reached, "allocation {after}: {failed:?}");
        bench.kernel_works();
        assert_eq!(bench.system.platform.live_table_bytes(), before, "allocation {after}: {failed:?}");
        match failed {
            Some(failed) => failures.push(failed),
            None => break,
        }
    }
    // The user's table, a level of it, and the kernel's table on the way back; a coherent buffer before and after.
    assert!(failures.len() >= 5, "{failures:#?}");
    assert!(failures.iter().any(|failed| failed.contains("NoMemory")), "{failures:#?}");
    bench.done();
}
