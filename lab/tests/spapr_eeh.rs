//! Endpoints behind a PHB3 freeze one by one, in both directions, and are reset.

use std::sync::Arc;

use model_bus::{Mmio, Outcome, Request, Translator, Width};
use portcullis::core::device::Device;
use portcullis::core::group::Group;
use portcullis::core::iommu::{FaultReason, SyncError};
use portcullis::core::table_group::{Eeh, EehError, ErrorInjection, Freeze, PeState, Reset, TableGroup};
use portcullis::hal::Registers;
use portcullis::pci::Bdf;
use portcullis::types::{Access, Iova, SourceId};
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, builtin, fdt};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::trace::{self, Memory};

const ONES: u32 = u32::MAX;
/// NVMe: version 1.4 at 8; its admin queues' sizes at 0x24.
const VERSION: usize = 0x08;
const QUEUE_SIZES: usize = 0x24;
/// Configuration space.
const COMMAND: u16 = 0x04;
const MEMORY_AND_MASTER: u16 = 6;

struct Bench {
    machine: Machine,
    system: System,
    heard: Arc<Memory>,
}

/// A disk: as what it is known, and its registers.
struct Disk {
    source: SourceId,
    at: Bdf,
    bar: u64,
    registers: RegisterWindow,
    device: Arc<Device<LabPlatform>>,
    group: Arc<Group<LabPlatform>>,
    tables: Arc<dyn TableGroup>,
}

impl Disk {
    fn eeh(&self) -> &dyn Eeh {
        self.tables.eeh().unwrap()
    }

    fn version(&self) -> u32 {
        self.registers.read32(VERSION)
    }

    fn unfreeze(&self) {
        [Freeze::Io, Freeze::Dma].into_iter().for_each(|what| self.eeh().unfreeze(what).unwrap());
    }
}

fn power8() -> MachineSpec {
    builtin::find("power8").unwrap()
}

impl Bench {
    fn new(spec: MachineSpec) -> Self {
        let heard = Arc::new(Memory::default());
        let sink = trace::shared(Some(heard.clone()));
        let device_tree = fdt::emit(&spec).unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let system = System::boot(BootRequest::new(&machine, &device_tree, sink)).unwrap();
        Self { machine, system, heard }
    }

    /// How often the slot's signal was pulled, and how often let go.
    fn signals(&self) -> [usize; 2] {
        let lines = self.heard.lines();
        let count = |end| {
            lines.iter().filter(|line| line.contains("fundamental_reset") && line.ends_with(end)).count()
        };
        ["held=1", "held=0"].map(count)
    }

    fn disks(&self) -> Vec<Disk> {
        let disk =
            |(host, endpoint): (&portcullis_lab::boot::HostBridge, &portcullis_lab::boot::Endpoint)| {
                let function = &host.topology.functions[endpoint.function];
                let Standing::Behind { device, group } = &endpoint.standing else { return None };
                let bar = function.bar(0).filter(|_| function.is_nvme())?;
                let source = device.sources()[0];
                Some(Disk {
                    source,
                    at: function.at,
                    bar: bar.cpu_range()?.first().get(),
                    registers: self.system.platform.registers(bar.cpu_range()?),
                    device: device.clone(),
                    group: group.clone(),
                    tables: group.iommu().table_group(source)?,
                })
            };
        self.system.endpoints().filter_map(disk).collect()
    }

    fn reaches(&self, disk: &Disk, at: u64) -> bool {
        let request = Request {
            source: disk.source,
            pasid: None,
            iova: Iova::new(at),
            len_bytes: 1,
            access: Access::READ,
        };
        self.machine.phbs[0].access(&request, &mut |_| Ok(())) == Outcome::Done
    }

    fn config16(&self, at: Bdf, offset: u16) -> u16 {
        self.system.hosts[0].config.read16(at, offset)
    }

    fn done(self) {
        let Self { machine, system, .. } = self;
        assert_eq!(machine.phbs[0].take_unpredictable(), []);
        let platform = system.platform.clone();
        system.shut_down().unwrap();
        assert_eq!((platform.live_table_bytes(), platform.live_buffer_bytes()), (0, 0));
    }
}

#[test]
fn registers_of_a_frozen_endpoint_read_as_ones_and_those_of_another_do_not() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let versions = || [disks[0].version(), disks[1].version()];
    let whole = versions();
    assert!(whole.iter().all(|&version| version != ONES && version != 0), "{whole:x?}");
    for (frozen, seen) in [(0, [ONES, whole[1]]), (1, [whole[0], ONES])] {
        assert!(!bench.reaches(&disks[frozen], 0x5000), "nothing is mapped");
        assert_eq!((disks[frozen].eeh().state(), versions()), (PeState::Stopped, seen));
        // Stores are gone.
        disks[frozen].registers.write32(QUEUE_SIZES, 0x0007_0007);
        disks[frozen].eeh().unfreeze(Freeze::Io).unwrap();
        assert_eq!((disks[frozen].eeh().state(), versions()), (PeState::StoppedDma, whole));
        assert_eq!(disks[frozen].registers.read32(QUEUE_SIZES), 0);
        disks[frozen].eeh().unfreeze(Freeze::Dma).unwrap();
        assert_eq!(disks[frozen].eeh().state(), PeState::Normal);
    }
    drop(disks);
    bench.done();
}

#[test]
fn each_disk_has_segments_of_its_own() {
    let bench = Bench::new(power8());
    let first = bench.machine.spec.host_bridges[0].window_32.first().get();
    let segments = bench.disks().iter().map(|disk| (disk.bar - first) / 0x80_0000).collect::<Vec<_>>();
    assert_eq!(segments.len(), 2);
    assert_ne!(segments[0], segments[1]);
    bench.done();
}

#[test]
fn an_error_made_in_a_load_or_store_freezes_the_endpoint_whose_register_it_is() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let whole = [disks[0].version(), disks[1].version()];
    let error =
        |function| ErrorInjection { wide: false, function, address: disks[0].bar + VERSION as u64, mask: !0 };
    for function in [0, 6] {
        disks[0].eeh().inject(error(function)).unwrap();
        // Another's, and another register, are not hit.
        assert_eq!(
            (disks[1].version(), disks[0].registers.read32(0)),
            (whole[1], disks[0].registers.read32(0))
        );
        assert_eq!(disks[0].eeh().state(), PeState::Normal);
        if function == 0 {
            assert_eq!(disks[0].version(), ONES);
        } else {
            assert_eq!(disks[0].version(), whole[0], "a load is not what is hit");
            disks[0].registers.write32(VERSION, 0);
        }
        assert_eq!((disks[0].eeh().state(), disks[1].eeh().state()), (PeState::Stopped, PeState::Normal));
        assert_eq!((disks[0].version(), disks[1].version()), (ONES, whole[1]));
        disks[0].unfreeze();
        assert_eq!((disks[0].version(), disks[0].eeh().state()), (whole[0], PeState::Normal));
    }
    drop(disks);
    bench.done();
}

#[test]
fn a_fault_record_says_who_tried_what_where() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let records = || {
        let mut records = Vec::new();
        disks[0].group.iommu().drain_events(&mut |record| records.push(*record));
        records
    };
    for (at, write) in [(0x5123, false), (0x9000, true)] {
        let access = if write { Access::WRITE } else { Access::READ };
        let (source, iova) = (disks[1].source, Iova::new(at));
        let request = Request { source, pasid: None, iova, len_bytes: 1, access };
        assert_ne!(bench.machine.phbs[0].access(&request, &mut |_| Ok(())), Outcome::Done);
        let told = records();
        assert_eq!(told.len(), 1);
        let record = &told[0];
        assert_eq!((record.source, record.iova, record.access), (Some(source), Some(iova), Some(access)));
        assert_eq!(record.reason, FaultReason::NotMapped);
        disks[1].unfreeze();
        // One that software freezes has done nothing.
        disks[1].eeh().freeze(Freeze::Io).unwrap();
        assert_eq!(records().first().and_then(|record| record.iova), Some(Iova::new(0)));
        disks[1].unfreeze();
    }
    drop(disks);
    bench.done();
}

/// What a user sees: an error, a stopped endpoint, a reset, and a device like new.
fn reset_and_see(bench: &Bench, disk: &Disk, reset: Reset) {
    let config = |offset| bench.system.hosts[0].config.read32(disk.at, offset);
    let dma = disk.group.dma(&disk.device).unwrap();
    let buffer = dma.alloc_coherent(4096).unwrap();
    let mapped = buffer.iova().get();
    let bars = [config(0x10), config(0x14)];
    let bridge = Bdf::new(0, u8::try_from(disk.source.0 >> 8).unwrap() - 1, 0).unwrap();
    let windows = bench.system.hosts[0].config.read32(bridge, 0x20);
    bench.system.hosts[0].config.write16(disk.at, COMMAND, MEMORY_AND_MASTER);
    disk.registers.write32(QUEUE_SIZES, 0x0007_0007);
    assert_eq!(disk.registers.read32(QUEUE_SIZES), 0x0007_0007);
    assert!(bench.reaches(disk, mapped) && !bench.reaches(disk, 0x5000));
    assert_eq!(disk.eeh().state(), PeState::Stopped);

    disk.eeh().reset(reset).unwrap();
    assert_eq!(disk.eeh().state(), PeState::Reset);
    assert_eq!(disk.version(), ONES, "nobody reaches what is half set up");
    assert!(!bench.reaches(disk, mapped));
    disk.eeh().reset(Reset::Deactivate).unwrap();
    assert_eq!(disk.eeh().state(), PeState::Normal);
    disk.eeh().configure().unwrap();
    assert_eq!(disk.registers.read32(QUEUE_SIZES), 0, "it was reset");
    assert_ne!(disk.version(), ONES);
    assert_eq!(([config(0x10), config(0x14)], bench.config16(disk.at, COMMAND) & 7), (bars, 2));
    assert_eq!(bench.system.hosts[0].config.read32(bridge, 0x20), windows);
    assert!(bench.reaches(disk, mapped), "its window is what it was");
    dma.free_coherent(buffer).unwrap();
}

#[test]
fn after_a_reset_a_disk_is_like_new_in_its_old_windows_and_another_has_not_noticed() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    disks[1].registers.write32(QUEUE_SIZES, 0x000f_000f);
    for reset in [Reset::Hot, Reset::Fundamental] {
        reset_and_see(&bench, &disks[0], reset);
        assert_eq!(disks[1].registers.read32(QUEUE_SIZES), 0x000f_000f);
        assert_eq!(disks[1].eeh().state(), PeState::Normal);
    }
    assert_eq!(bench.signals(), [0, 0], "it is for everybody below, so it is not pulled");
    drop(disks);
    bench.done();
}

#[test]
fn what_is_below_the_only_root_port_is_reset_either_way() {
    let mut spec = power8();
    spec.host_bridges[0].slots.truncate(1);
    let bench = Bench::new(spec);
    let disks = bench.disks();
    for (reset, signals) in [(Reset::Hot, [0, 0]), (Reset::Fundamental, [1, 1])] {
        reset_and_see(&bench, &disks[0], reset);
        assert_eq!(bench.signals(), signals, "the slot's signal is for fundamental resets");
    }
    drop(disks);
    bench.done();
}

#[test]
fn a_disk_that_does_not_come_back_stays_stopped() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let slot = bench.machine.disks[0].clone();
    let config = &bench.system.hosts[0].config;
    // Link Disable would do as well; here the bridge forgets where the bus is, so that nobody answers.
    let bridge = Bdf::new(0, 0, 0).unwrap();
    let buses = config.read32(bridge, 0x18);
    config.write32(bridge, 0x18, 0);
    let silent = |end| matches!(end, Err(EehError::Sync(SyncError::Timeout { .. })));
    assert!(silent(disks[0].eeh().reset(Reset::Hot)));
    assert_eq!((disks[0].eeh().state(), disks[0].version()), (PeState::Reset, ONES));
    assert!(silent(disks[0].eeh().reset(Reset::Deactivate)));
    assert_eq!(disks[0].eeh().state(), PeState::Reset);
    config.write32(bridge, 0x18, buses);
    disks[0].eeh().reset(Reset::Hot).unwrap();
    disks[0].eeh().reset(Reset::Deactivate).unwrap();
    assert_ne!(disks[0].version(), ONES);
    drop((slot, disks));
    bench.done();
}

#[test]
fn an_error_made_in_configuration_space_freezes_the_endpoint_whose_it_is() {
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let command = |disk: &Disk| bench.config16(disk.at, COMMAND);
    let whole = [command(&disks[0]), command(&disks[1])];
    // A load, a store; where no function is named, it is the endpoint's own.
    for (function, written) in [(4, false), (10, true)] {
        disks[1].eeh().inject(ErrorInjection { wide: false, function, address: 0, mask: 0 }).unwrap();
        assert_eq!((command(&disks[0]), disks[1].eeh().state()), (whole[0], PeState::Normal));
        if written {
            assert_eq!(command(&disks[1]), whole[1], "a load is not what is hit");
            bench.system.hosts[0].config.write16(disks[1].at, COMMAND, 0);
        } else {
            assert_eq!(command(&disks[1]), 0xffff);
        }
        assert_eq!((disks[0].eeh().state(), disks[1].eeh().state()), (PeState::Normal, PeState::Stopped));
        assert_eq!((disks[0].version() != ONES, disks[1].version()), (true, ONES));
        disks[1].unfreeze();
        assert_eq!(command(&disks[1]), whole[1], "the store did not arrive, and the error is made once");
    }
    // Who sets devices up goes past freezes: what was to be made hits nobody then.
    disks[1].eeh().inject(ErrorInjection { wide: false, function: 4, address: 0, mask: 0 }).unwrap();
    disks[1].eeh().configure().unwrap();
    assert_eq!((command(&disks[0]), disks[1].eeh().state()), (whole[0], PeState::Normal));
    drop(disks);
    bench.done();
}

#[test]
fn perst_takes_everything_from_a_disk_and_its_link_is_down_until_it_is_released() {
    const RESET: u64 = 0x808;
    const LINK: u64 = 0x640;
    const NO_PERST: u64 = 1 << 61;
    const UP: u64 = 1 << 40;
    let bench = Bench::new(power8());
    let disks = bench.disks();
    let phb = bench.machine.phbs[0].clone();
    let load = |at| Mmio::read(&*phb, at, Width::Bits64);
    let seen = |disk: &Disk| {
        let config = &bench.system.hosts[0].config;
        (config.read16(disk.at, COMMAND), config.read32(disk.at, 0x10) & !0xf)
    };
    let old = [seen(&disks[0]), seen(&disks[1])];
    disks[0].registers.write32(QUEUE_SIZES, 0x0007_0007);
    assert!(old.iter().all(|&(command, bar)| command != 0 && bar != 0) && load(LINK) & UP != 0);
    let released = load(RESET);
    phb.write(RESET, Width::Bits64, released & !NO_PERST);
    assert_eq!((load(LINK) & UP, seen(&disks[0])), (0, (0xffff, 0xffff_fff0)));
    assert_eq!((disks[0].version(), disks[1].version()), (ONES, ONES));
    phb.write(RESET, Width::Bits64, released);
    assert_eq!((load(LINK) & UP, seen(&disks[0]), seen(&disks[1])), (UP, (0, 0), (0, 0)));
    // Where they were, they are found once software says where that is; and they know nothing more.
    for (disk, (command, bar)) in disks.iter().zip(old) {
        let config = &bench.system.hosts[0].config;
        config.write32(disk.at, 0x10, bar);
        config.write16(disk.at, COMMAND, command);
        assert_eq!((disk.version() != ONES, disk.registers.read32(QUEUE_SIZES)), (true, 0));
    }
    drop(disks);
    bench.done();
}
