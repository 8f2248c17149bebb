//! A PC with several VT-d units, in two segments: each device is behind the one that firmware's table says, and gets by no other's leave anywhere.
//!
//! What a device does here it does by its own way up, through the bridges above it and the unit that hardware has there, and not as whom it would like.

mod screen;

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use model_bus::Translator;
use model_devices::nvme::Nvme;
use model_devices::pcie::{Function, RequestError};
use portcullis::core::device::Device;
use portcullis::core::domain::FlushMode;
use portcullis::core::group::Group;
use portcullis::core::iommu::ReservedKind;
use portcullis::types::{Access, Iova, SourceId};
use portcullis_lab::boot::{BootRequest, Endpoint, HostBridge, Standing, System};
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec, acpi, builtin};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::workload::{dma, sva, vfio};
use portcullis_lab::{DeviceKind, RunError, trace};

use self::screen::{Firmware, Use};

/// Every disk of the machine, in the order of its models, and the index of its unit.
const DISKS: [(&str, usize); 7] = [
    ("0000:00:01.0", 0),
    ("0000:01:00.0", 2),
    ("0000:02:00.0", 0),
    ("0000:05:01.0", 1),
    ("0000:05:02.0", 1),
    ("0000:06:00.0", 2),
    ("0001:00:01.0", 3),
];
/// The accelerator behind a port that passes translation requests on, and the one behind a port that does not.
const ACCELERATORS: [(&str, usize); 2] = [("0000:03:00.0", 1), ("0000:07:00.0", 2)];
/// The two that share a name: they are behind a bridge down to a conventional bus.
const SAME: [usize; 2] = [3, 4];

fn spec() -> MachineSpec {
    builtin::find("x86-units").unwrap()
}

/// A machine and what booted on it.
struct Bench {
    machine: Machine,
    system: System,
}

impl Bench {
    fn new(spec: MachineSpec) -> Self {
        let tables = acpi::emit(&spec, spec.pc.as_ref().unwrap()).unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap();
        let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
        Self { machine, system }
    }

    fn endpoint(&self, name: &str) -> (&HostBridge, &Endpoint) {
        self.system.endpoints().find(|(_, endpoint)| endpoint.name == name).unwrap()
    }

    fn behind(&self, name: &str) -> (Arc<Device<LabPlatform>>, Arc<Group<LabPlatform>>) {
        match &self.endpoint(name).1.standing {
            Standing::Behind { device, group } => (device.clone(), group.clone()),
            Standing::Uncovered(why) => panic!("{name}: {why}"),
        }
    }

    /// From now on the function may send.
    fn let_send(&self, name: &str) {
        let (host, endpoint) = self.endpoint(name);
        host.topology.enable_bus_master(&*host.config, endpoint.function);
    }

    fn refused(&self) -> Vec<u64> {
        self.machine.vtds.iter().map(|unit| unit.counters().refused).collect()
    }

    fn finish(self) {
        self.system.shut_down().unwrap();
        let wrong: Vec<_> = self.machine.vtds.iter().flat_map(|unit| unit.take_unpredictable()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

/// The function reads a byte by its own way up.
fn reads(disk: &Nvme, at: Iova) -> bool {
    let read = disk.requester().unwrap().read(None, at, &mut [0]);
    assert!(!matches!(read, Err(RequestError::NotMaster | RequestError::Unplugged)), "{read:?}");
    read.is_ok()
}

#[test]
fn the_three_workloads_verify_on_a_pc_with_several_units() {
    let input = Opened::beginning_of_sample(100_000);
    for mode in [FlushMode::Strict, FlushMode::Lazy] {
        let sink = trace::shared(None);
        let (tamper, progress, device_tree) = (None, None, None);
        let job =
            dma::Job { spec: spec(), device_tree, input: &input, seed: 5, mode, sink, tamper, progress };
        let outcome = dma::run(&job).unwrap();
        assert_eq!(outcome.digest, input.measure().digest);
        assert!(outcome.counters.probes > 0 && outcome.counters.probes == outcome.counters.probes_blocked);
    }
    for kill in [false, true] {
        let outcome = vfio::run(&vfio::Job {
            spec: spec(),
            device_tree: None,
            input: &input,
            seed: 5,
            unsafe_interrupts: false,
            kill,
            sink: trace::shared(None),
            tamper: None,
            progress: None,
        });
        let counters = outcome.unwrap().counters;
        assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
        let outcome = sva::run(&sva::Job {
            spec: spec(),
            device_tree: None,
            input: &input,
            seed: 5,
            device: DeviceKind::Pcie,
            kill,
            sink: trace::shared(None),
            tamper: None,
            progress: None,
        });
        let counters = outcome.unwrap().counters.sva.unwrap();
        assert!(counters.page_requests > 0, "{counters:?}");
    }
}

#[test]
fn each_device_is_behind_the_unit_that_names_it_by_whatever_way_or_else_behind_its_segments_last() {
    let bench = Bench::new(spec());
    assert_eq!(bench.system.firmware.acpi_faults, []);
    let named: Vec<String> =
        bench.machine.spec.disks().map(|disk| bench.machine.spec.device_name(&disk)).collect();
    assert_eq!(named, DISKS.map(|(name, _)| name));
    for (name, unit) in DISKS.into_iter().chain(ACCELERATORS) {
        let (device, group) = bench.behind(name);
        assert_eq!(device.iommu().name(), format!("dmar{unit}"), "{name}");
        let members = group.devices().len();
        let alone = !SAME.map(|index| DISKS[index].0).contains(&name) && name != "0000:06:00.0";
        assert_eq!(members == 1, alone, "{name}");
    }
    let places: Vec<_> = bench.machine.spec.disks().collect();
    let wired = places.iter().map(|place| bench.machine.spec.unit_of(place.bridge, &place.way));
    assert!(wired.eq(DISKS.iter().map(|(_, unit)| Some(*unit))), "hardware is as the table says");
    bench.finish();
}

#[test]
fn no_device_reaches_what_is_mapped_for_one_behind_another_unit() {
    let bench = Bench::new(spec());
    let disks = &bench.machine.disks;
    DISKS.iter().for_each(|(name, _)| bench.let_send(name));
    for (owner, (name, unit)) in DISKS.into_iter().enumerate() {
        let (device, group) = bench.behind(name);
        let handle = group.dma(&device).unwrap();
        let buffer = handle.alloc_coherent(0x1000).unwrap();
        for (other, disk) in disks.iter().enumerate() {
            let granted: Vec<u64> = bench.machine.vtds.iter().map(|unit| unit.counters().granted).collect();
            let refused = bench.refused();
            let own = other == owner || SAME.contains(&other) && SAME.contains(&owner);
            assert_eq!(reads(disk, buffer.iova()), own, "{} at what is {name}'s", DISKS[other].0);
            // Its own unit has judged it, and no other has seen it.
            for (index, model) in bench.machine.vtds.iter().enumerate() {
                let judged = u64::from(index == DISKS[other].1);
                let now = model.counters();
                let seen = now.granted + now.refused - granted[index] - refused[index];
                assert_eq!(seen, judged, "unit {index}");
            }
        }
        let at = buffer.iova();
        handle.free_coherent(buffer).unwrap();
        assert!(!reads(&disks[owner], at), "unit {unit} has forgotten it");
    }
    bench.finish();
}

#[test]
fn a_name_that_two_segments_have_is_another_device_at_the_unit_of_each() {
    let bench = Bench::new(spec());
    let [one, two] = [DISKS[0].0, DISKS[6].0];
    let sources = [one, two].map(|name| bench.behind(name).0.sources().to_vec());
    assert_eq!(sources, [[SourceId(8)], [SourceId(8)]]);
    let lines = [one, two].map(|name| {
        let (_, endpoint) = bench.endpoint(name);
        bench.let_send(name);
        bench.system.interrupts.line(name, endpoint.msi.unwrap(), 0).unwrap()
    });
    let ring = |disk: usize, line: usize| {
        let message = Iova::new(lines[line].doorbell.get());
        bench.machine.disks[disk].requester().unwrap().message(message, lines[line].data).is_ok()
    };
    for (disk, line) in [(0, 0), (6, 1)] {
        assert!(ring(disk, line) && lines[line].take() && !lines[1 - line].take());
    }
    // The entry with this number is, at the other unit, the other device's own, or nobody's.
    ring(0, 1);
    assert!(!lines[1].take());
    lines[0].take();
    ring(6, 0);
    assert!(!lines[0].take());
    bench.finish();
}

#[test]
fn devices_behind_a_pci_bridge_send_as_one_and_are_handed_out_as_one() {
    let bench = Bench::new(spec());
    let [one, two] = SAME.map(|index| DISKS[index].0);
    let groups = [one, two].map(|name| bench.behind(name).1);
    assert!(Arc::ptr_eq(&groups[0], &groups[1]));
    // Of the ids that a group has, one goes with each, and the name that both carry with the bridge or the first of them.
    let names: Vec<_> = groups[0].devices().iter().map(|device| device.name().to_owned()).collect();
    assert_eq!(names, ["0000:04:00.0", one, two]);
    let sources: Vec<_> = groups[0].devices().iter().flat_map(|device| device.sources().to_vec()).collect();
    assert!(sources.contains(&SourceId(0x500)), "{sources:?}");
    let carried = SAME.map(|index| bench.machine.disks[index].requester().unwrap().source());
    assert_eq!(carried, [Some(SourceId(0x500)); 2]);
    // Messages of both arrive, and nobody else's.
    SAME.iter().for_each(|&index| bench.let_send(DISKS[index].0));
    bench.let_send(ACCELERATORS[0].0);
    let (_, endpoint) = bench.endpoint(two);
    let line = bench.system.interrupts.line(two, endpoint.msi.unwrap(), 0).unwrap();
    let to = Iova::new(line.doorbell.get());
    let ring = |function: &dyn Function| function.requester().unwrap().message(to, line.data).is_ok();
    assert!(ring(&*bench.machine.disks[4]) && line.take());
    assert!(!ring(&*bench.machine.pcie_accelerators[0]) && !line.take(), "behind the same unit");
    bench.finish();
}

#[test]
fn ats_is_on_only_behind_ports_that_firmware_names() {
    const ATS: u16 = 0x000f;
    const ENABLE: u16 = 1 << 15;
    let bench = Bench::new(spec());
    let control = |name: &str| {
        let (host, endpoint) = bench.endpoint(name);
        let at = host.topology.functions[endpoint.function].at;
        let mut capability = 0x100;
        while host.config.read16(at, capability) != ATS {
            capability = host.config.read16(at, capability + 2) >> 4;
            assert_ne!(capability, 0, "{name} has no ATS");
        }
        host.config.read16(at, capability + 6) & ENABLE
    };
    let [(named, _), (other, _)] = ACCELERATORS;
    let (host, endpoint) = bench.endpoint(named);
    let sharer = bench.system.share_function(host, endpoint).unwrap();
    assert_eq!(control(named), ENABLE);
    let (other_host, other_endpoint) = bench.endpoint(other);
    let refused = bench.system.share_function(other_host, other_endpoint);
    assert!(matches!(refused, Err(RunError::Refused(_))), "{refused:?}");
    assert_eq!(control(other), 0);
    bench.system.unshare(sharer, Some(host)).unwrap();
    assert_eq!(control(named), 0);
    bench.finish();
}

#[test]
fn an_integrated_device_has_ats_where_firmware_vouches_for_it_or_for_nobody() {
    let shares = |satc: Option<Vec<(usize, u8)>>| {
        let mut spec = builtin::find("x86").unwrap();
        spec.pc.as_mut().unwrap().satc = satc;
        let bench = Bench::new(spec);
        assert_eq!(bench.system.firmware.acpi_faults, []);
        let (host, endpoint) = bench.endpoint("0000:00:03.0");
        let shared = bench.system.share_function(host, endpoint);
        let shares = shared.is_ok();
        shared.into_iter().for_each(|sharer| bench.system.unshare(sharer, Some(host)).unwrap());
        bench.finish();
        shares
    };
    assert!(shares(None) && shares(Some(vec![(0, 3)])));
    assert!(!shares(Some(vec![(0, 1)])), "another is vouched for");
}

#[test]
fn memory_that_firmware_keeps_is_kept_for_whose_it_is_at_its_own_unit() {
    let bench = Bench::new(spec());
    let kept = [("0000:00:01.0", 0x3fff_0000), ("0000:06:00.0", 0x3ffd_0000)];
    for (name, _) in DISKS {
        let (device, _) = bench.behind(name);
        let regions = device.reserved_regions();
        let direct = regions.iter().filter(|region| region.kind == ReservedKind::Direct);
        let mut direct: Vec<u64> = direct.map(|region| region.range.first().get()).collect();
        // Firmware's table and the unit's driver both say it.
        direct.dedup();
        let wanted: Vec<u64> = kept.iter().filter(|(of, _)| *of == name).map(|&(_, first)| first).collect();
        assert_eq!(direct, wanted, "{name}");
    }
    for (disk, (name, _)) in bench.machine.disks.iter().zip(DISKS) {
        bench.let_send(name);
        for (of, first) in kept {
            let reached = reads(disk, Iova::new(first + 0xffff));
            assert_eq!(reached, of == name, "{name} at what is kept for {of}");
        }
    }
    bench.finish();
}

#[test]
fn a_device_of_the_name_space_is_behind_its_unit_as_whom_the_table_says() {
    const ID: SourceId = SourceId(0xf8f8);
    let bench = Bench::new(spec());
    let [fixed] = &bench.system.fixed[..] else { panic!("{:?}", bench.system.fixed) };
    let Standing::Behind { device, group } = &fixed.standing else { panic!("{:?}", fixed.standing) };
    assert_eq!((device.iommu().name(), device.sources()), ("dmar2", &[ID][..]));
    let handle = group.dma(device).unwrap();
    let buffer = handle.alloc_coherent(0x1000).unwrap();
    let reaches = |unit: usize, source| {
        let request = model_bus::Request {
            source,
            pasid: None,
            iova: buffer.iova(),
            len_bytes: 1,
            access: Access::READ,
        };
        bench.machine.vtds[unit].access(&request, &mut |_| Ok(())) == model_bus::Outcome::Done
    };
    assert!(reaches(2, ID) && !reaches(1, ID) && !reaches(2, SourceId(0x600)));
    handle.free_coherent(buffer).unwrap();
    drop(handle);
    bench.finish();
}

#[test]
fn a_device_of_the_name_space_that_is_told_to_be_a_function_is_not_used_and_the_function_is() {
    let mut spec = spec();
    let taken = SourceId(0x600);
    spec.accelerators[0].sources = [taken; 2];
    let bench = Bench::new(spec);
    let [fixed] = &bench.system.fixed[..] else { panic!("{:?}", bench.system.fixed) };
    assert!(matches!(fixed.standing, Standing::Uncovered(_)), "{:?}", fixed.standing);
    let (device, _) = bench.behind("0000:06:00.0");
    assert_eq!((device.iommu().name(), device.sources()), ("dmar2", &[taken][..]));
    bench.finish();
}

#[test]
fn what_no_unit_covers_stays_shut_though_hardware_would_let_it_through() {
    let mut spec = spec();
    spec.accelerators.clear();
    spec.reserved.truncate(1);
    spec.pc.as_mut().unwrap().units.remove(2);
    let bench = Bench::new(spec);
    let uncovered: Vec<_> = bench
        .system
        .endpoints()
        .filter(|(_, endpoint)| matches!(endpoint.standing, Standing::Uncovered(_)))
        .map(|(_, endpoint)| endpoint.name.as_str())
        .collect();
    let ports = ["0000:00:02.0", "0000:00:04.0", "0000:00:06.0", "0000:00:07.0", "0000:00:08.0"];
    let ends = ["0000:01:00.0", "0000:06:00.0", "0000:07:00.0"];
    assert!(ports.iter().chain(&ends).all(|name| uncovered.contains(name)), "{uncovered:?}");
    assert_eq!(uncovered.len(), ports.len() + ends.len(), "{uncovered:?}");
    assert_eq!(bench.system.firmware.acpi_faults.len(), uncovered.len(), "each is named");
    for disk in [1, 5] {
        let read = bench.machine.disks[disk].requester().unwrap().read(None, Iova::new(0x10_0000), &mut [0]);
        assert_eq!(read, Err(RequestError::NotMaster));
    }
    // That it is the kernel's doing, and not hardware's.
    let (host, endpoint) = bench.endpoint("0000:01:00.0");
    host.topology.enable_bus_master(&*host.config, endpoint.function);
    assert!(reads(&bench.machine.disks[1], Iova::new(0x10_0000)));
    bench.finish();
}

/// The area with something in its DMAR in the place of something of the same length, the first that there is.
fn with_dmar(mut area: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let start = area.windows(4).position(|word| word == b"DMAR").unwrap();
    let at = area[start..].windows(old.len()).position(|bytes| bytes == old).expect("it is there");
    area[start + at..][..new.len()].copy_from_slice(new);
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    area[start + 9] = area[start + 9].wrapping_add(sum(old)).wrapping_sub(sum(new));
    area
}

/// Scope entries: the function in slot 1 of the root bus, and device 0 of the name space as f8:1f.0.
const SLOT_1: [u8; 8] = [1, 8, 0, 0, 0, 0, 1, 0];
const NAMED: [u8; 8] = [5, 8, 0, 0, 0, 0xf8, 0x1f, 0];

#[test]
fn memory_that_firmware_keeps_for_a_device_of_the_name_space_is_reached_by_it_at_every_step() {
    const ID: SourceId = SourceId(0xf8f8);
    const KEPT: [u64; 2] = [0x3fff_0000, 0x3fff_ffff];
    let spec = spec();
    let tables = acpi::emit(&spec, spec.pc.as_ref().unwrap()).unwrap();
    // What is kept for the disk in slot 1 is kept for the device: an RMRR's ends, then its scope.
    let ends = KEPT.map(u64::to_le_bytes).concat();
    let tables = with_dmar(tables, &[&ends[..], &SLOT_1].concat(), &[&ends[..], &NAMED].concat());
    let machine = Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap();
    let using = Use { disk: ID, kept: KEPT, others: [None, Some(ID)], nobodys: 0x2000_0000 };
    let firmware = Firmware::new(machine.vtds[2].clone(), using);
    let request = BootRequest::new(&machine, &tables, trace::shared(None));
    let system = System::boot(BootRequest { tamper: Some(firmware.clone()), ..request }).unwrap();
    assert_eq!(system.firmware.acpi_faults, []);
    // Another unit is up before this one is touched. An entry that leads elsewhere is not present for a moment, once.
    let [before, after] = firmware.met();
    assert_eq!((before.refused.load(Relaxed), after.refused.load(Relaxed) <= 1), (0, true), "{after:?}");
    assert!(after.closed.load(Relaxed) > 0, "it is up: {after:?}");
    let [fixed] = &system.fixed[..] else { panic!("{:?}", system.fixed) };
    let Standing::Behind { device, .. } = &fixed.standing else { panic!("{:?}", fixed.standing) };
    let kept: Vec<_> = device.reserved_regions();
    let mut direct = kept.iter().filter(|region| region.kind == ReservedKind::Direct);
    assert!(direct.any(|region| region.range.first().get() == KEPT[0]), "{kept:?}");
    system.shut_down().unwrap();
}

#[test]
fn a_device_of_the_name_space_that_two_units_name_is_not_used() {
    let spec = spec();
    let tables = acpi::emit(&spec, spec.pc.as_ref().unwrap()).unwrap();
    // The first unit names it in the place of the disk in slot 1, and the third does as before.
    let tables = with_dmar(tables, &SLOT_1, &NAMED);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &trace::shared(None)).unwrap();
    let system = System::boot(BootRequest::new(&machine, &tables, trace::shared(None))).unwrap();
    let [fixed] = &system.fixed[..] else { panic!("{:?}", system.fixed) };
    assert!(matches!(fixed.standing, Standing::Uncovered(_)), "{:?}", fixed.standing);
    system.shut_down().unwrap();
}

#[test]
fn a_function_that_is_let_go_masters_its_bus_no_more() {
    let bench = Bench::new(spec());
    let Bench { machine, mut system } = bench;
    for (name, _) in DISKS {
        let (host, endpoint) = system.endpoints().find(|(_, endpoint)| endpoint.name == name).unwrap();
        host.topology.enable_bus_master(&*host.config, endpoint.function);
    }
    let asks = |disk: &Nvme| disk.requester().unwrap().read(None, Iova::new(0x10_0000), &mut [0]);
    assert!(machine.disks.iter().all(|disk| asks(disk) != Err(RequestError::NotMaster)));
    system.detach().unwrap();
    for (disk, (name, _)) in machine.disks.iter().zip(DISKS) {
        assert_eq!(asks(disk), Err(RequestError::NotMaster), "{name}");
    }
    system.shut_down().unwrap();
}
