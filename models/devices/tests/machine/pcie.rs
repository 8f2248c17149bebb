//! The root complex, bridges and slots, through configuration space and windows.

use std::sync::Arc;

use model_bus::{PageResponse, Width};
use model_devices::accelerator::{AcceleratorOptions, PcieAccelerator};
use model_devices::nvme::{MemoryMedium, Nvme, NvmeOptions};
use model_devices::pcie::{
    Acs, BridgeOptions, Function, Host, PortKind, RequestError, Rid, RidMap, RidRange, SlotTaken,
};
use portcullis_types::{Iova, SourceId};

use crate::accelerator_rig::Mmu;
use crate::rig::{BAR, DISK, DiskRig, Gate, HIGH_WINDOW, RAM, Rig, WINDOW};

fn disk(rig: &Rig) -> Arc<Nvme> {
    Nvme::new(NvmeOptions::default(), Box::new(MemoryMedium::new(vec![0; 512])), rig.ear.clone())
}

#[test]
fn where_no_function_is_configuration_reads_all_ones() {
    let rig = Rig::new();
    assert_eq!(rig.read_config(Rid::new(0, 8), 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(rig.read_config(Rid::new(3, 0), 0, Width::Bits16), 0xffff);
    rig.write_config(Rid::new(3, 0), 4, Width::Bits16, 6);
    rig.add_port();
    assert_eq!(rig.read_config(Rid::new(0, 8), 0, Width::Bits32), 0x000c_1b36);
    assert_eq!(rig.read_config(Rid::new(0, 9), 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(rig.read_config(Rid::new(1, 0), 0, Width::Bits32), 0xffff_ffff);
}

#[test]
fn a_bridge_is_a_type_1_header_whose_buses_and_windows_can_be_written() {
    let rig = Rig::new();
    rig.root.root_bus().add_bridge(8, BridgeOptions::default()).unwrap();
    let bridge = Rid::new(0, 8);
    assert_eq!(rig.read_config(bridge, 0x0e, Width::Bits8), 1);
    assert_eq!(rig.read_config(bridge, 0x08, Width::Bits32), 0x0604_0000);
    rig.write_config(bridge, 0x18, Width::Bits32, 0xffff_ffff);
    assert_eq!(rig.read_config(bridge, 0x18, Width::Bits32), 0x00ff_ffff);
    rig.write_config(bridge, 0x20, Width::Bits32, 0xffff_ffff);
    assert_eq!(rig.read_config(bridge, 0x20, Width::Bits32), 0xfff0_fff0);
    rig.write_config(bridge, 0x24, Width::Bits32, 0);
    assert_eq!(rig.read_config(bridge, 0x24, Width::Bits32), 0x0001_0001);
    assert_eq!(rig.read_config(bridge, 0x100, Width::Bits32), 0x0001_000d);
    assert_eq!(rig.read_config(bridge, 0x104, Width::Bits32), 0x0000_001d);
}

#[test]
fn a_bridge_without_acs_has_no_extended_capability() {
    let rig = Rig::new();
    let options = BridgeOptions { acs: None, ..BridgeOptions::default() };
    rig.root.root_bus().add_bridge(8, options).unwrap();
    assert_eq!(rig.read_config(Rid::new(0, 8), 0x100, Width::Bits32), 0);
    let some = BridgeOptions { acs: Some(Acs { services: 0x7f }), ..options };
    rig.root.root_bus().add_bridge(16, some).unwrap();
    assert_eq!(rig.read_config(Rid::new(0, 16), 0x104, Width::Bits32), 0x7f);
}

#[test]
fn configuration_reaches_the_buses_in_a_bridges_range() {
    let rig = Rig::new();
    let port = rig.add_port();
    let inner = port.secondary().add_bridge(0, BridgeOptions::default()).unwrap();
    inner.secondary().plug(0, disk(&rig)).unwrap();
    let there = |bus| rig.read_config(Rid::new(bus, 0), 0, Width::Bits32);
    assert_eq!((there(1), there(2)), (0x000c_1b36, 0xffff_ffff));
    rig.write_config(Rid::new(1, 0), 0x18, Width::Bits32, 0x0002_0201);
    assert_eq!(there(2), 0xffff_ffff);
    rig.write_config(Rid::new(0, 8), 0x18, Width::Bits32, 0x0002_0100);
    assert_eq!(there(2), 0x0010_1b36);
}

#[test]
fn behind_a_port_only_device_0_answers_unless_ari_is_forwarded() {
    let rig = Rig::new();
    let port = rig.add_port();
    port.secondary().plug(8, disk(&rig)).unwrap();
    let there = || rig.read_config(Rid::new(1, 8), 0, Width::Bits32);
    assert_eq!(there(), 0xffff_ffff);
    rig.write_config(Rid::new(0, 8), 0x40 + 0x28, Width::Bits16, 0x20);
    assert_eq!(there(), 0x0010_1b36);
}

#[test]
fn memory_reaches_a_bar_only_through_enabled_bridges_and_functions() {
    let disk = DiskRig::new(vec![0; 512]);
    let version = || disk.rig.read32(BAR + 8);
    assert_eq!(version(), 0x0001_0400);
    disk.rig.write_config(DISK, 4, Width::Bits16, 0x0004);
    assert_eq!(version(), 0xffff_ffff);
    assert!(disk.rig.ear.heard("model.pcie unsupported_request: access=read address=0x0000000010000008"));
    disk.rig.write_config(DISK, 4, Width::Bits16, 0x0006);
    assert_eq!(version(), 0x0001_0400);
    disk.rig.write_config(Rid::new(0, 8), 4, Width::Bits16, 0x0004);
    assert_eq!(version(), 0xffff_ffff);
    disk.rig.write_config(Rid::new(0, 8), 4, Width::Bits16, 0x0006);
    disk.rig.write_config(Rid::new(0, 8), 0x20, Width::Bits32, 0x1ff0_1010);
    assert_eq!(version(), 0xffff_ffff);
}

#[test]
fn a_64_bit_bar_is_reached_through_the_prefetchable_window() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.rig.write_config(DISK, 0x10, Width::Bits32, 0x0010_0000);
    disk.rig.write_config(DISK, 0x14, Width::Bits32, 0x70);
    assert_eq!(disk.rig.read32(HIGH_WINDOW + 0x10_0008), 0xffff_ffff);
    let bridge = Rid::new(0, 8);
    disk.rig.write_config(bridge, 0x24, Width::Bits32, 0x0010_0010);
    disk.rig.write_config(bridge, 0x28, Width::Bits32, 0x70);
    disk.rig.write_config(bridge, 0x2c, Width::Bits32, 0x70);
    assert_eq!(disk.rig.read32(HIGH_WINDOW + 0x10_0008), 0x0001_0400);
    assert_eq!(disk.rig.read32(WINDOW + 8), 0xffff_ffff);
}

#[test]
fn requests_stop_where_bus_mastering_is_off() {
    let disk = DiskRig::new(vec![0; 512]);
    let requester = disk.nvme.requester().unwrap();
    let read = || requester.read(None, Iova::new(RAM), &mut [0; 4]);
    let message = || requester.message(Iova::new(crate::rig::ITS + 0x1_0040), 0);
    assert_eq!((read(), message()), (Ok(()), Ok(())));
    disk.rig.write_config(DISK, 4, Width::Bits16, 0x0002);
    assert_eq!((read(), message()), (Err(RequestError::NotMaster), Err(RequestError::NotMaster)));
    disk.rig.write_config(DISK, 4, Width::Bits16, 0x0006);
    disk.rig.write_config(Rid::new(0, 8), 4, Width::Bits16, 0x0002);
    assert_eq!((read(), message()), (Err(RequestError::NotMaster), Err(RequestError::NotMaster)));
}

#[test]
fn a_function_learns_its_bus_from_configuration_writes() {
    let rig = Rig::new();
    let port = rig.add_port();
    let nvme = disk(&rig);
    port.secondary().plug(1, nvme.clone()).unwrap();
    nvme.config().write(4, Width::Bits16, 6);
    let read = || nvme.requester().unwrap().read(None, Iova::new(RAM), &mut [0; 4]);
    read().unwrap();
    rig.write_config(Rid::new(1, 1), 4, Width::Bits16, 6);
    read().unwrap();
    rig.write_config(Rid::new(0, 8), 0x18, Width::Bits32, 0x0007_0700);
    rig.write_config(Rid::new(7, 1), 4, Width::Bits16, 6);
    read().unwrap();
    let sources = [SourceId(0x1_0001), SourceId(0x1_0101), SourceId(0x1_0701)];
    assert_eq!(*rig.gate.sources.lock().unwrap(), sources);
}

#[test]
fn functions_come_and_go_while_the_machine_runs() {
    let disk = DiskRig::new(vec![0; 512]);
    assert_eq!(disk.port.secondary().plug(0, disk.nvme.clone()), Err(SlotTaken { devfn: 0 }));
    assert!(disk.port.secondary().unplug(0).is_some());
    assert_eq!(disk.rig.read_config(DISK, 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(disk.rig.read32(BAR + 8), 0xffff_ffff);
    let read = disk.nvme.requester().unwrap().read(None, Iova::new(RAM), &mut [0; 4]);
    assert_eq!(read, Err(RequestError::Unplugged));
    assert!(disk.port.secondary().unplug(0).is_none());
    disk.port.secondary().plug(0, disk.nvme.clone()).unwrap();
    assert_eq!(disk.rig.read_config(DISK, 0, Width::Bits32), 0x0010_1b36);
    assert!(disk.rig.ear.heard("model.pcie unplug: device=0 function=0"));
}

#[test]
fn a_function_level_reset_takes_everything_back() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.enable();
    let express = disk.capability(0x10);
    disk.rig.write_config(DISK, express + 8, Width::Bits16, 0x8000);
    assert_eq!(disk.rig.read_config(DISK, express + 8, Width::Bits16), 0);
    assert_eq!(disk.rig.read_config(DISK, 4, Width::Bits16), 0);
    assert_eq!(disk.rig.read_config(DISK, 0x10, Width::Bits32), 4);
    disk.rig.write_config(DISK, 0x10, Width::Bits32, BAR);
    disk.rig.write_config(DISK, 4, Width::Bits16, 2);
    assert_eq!((disk.csts(), disk.rig.read32(BAR + 0x14), disk.rig.read32(BAR + 0x28)), (0, 0, 0));
    assert_eq!(disk.rig.read32(BAR + 0x200c), 1);
}

#[test]
fn a_secondary_bus_reset_reaches_what_is_behind_the_bridge_and_keeps_the_link_down_while_it_lasts() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.enable();
    let port = Rid::new(0, 8);
    // Link Capabilities bit 20, Link Status bit 13.
    let link = || disk.rig.read_config(port, 0x40 + 0x12, Width::Bits16) & 0x2000;
    assert_eq!(disk.rig.read_config(port, 0x40 + 0x0c, Width::Bits32) & 0x10_0000, 0x10_0000);
    assert_eq!(link(), 0x2000);
    disk.rig.write_config(port, 0x3e, Width::Bits16, 0x40);
    assert_eq!(link(), 0);
    assert_eq!(disk.rig.read_config(DISK, 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(disk.rig.read32(BAR), 0xffff_ffff);
    disk.rig.write_config(DISK, 4, Width::Bits16, 6);
    disk.rig.write_config(port, 0x3e, Width::Bits16, 0);
    assert_eq!((link(), disk.rig.read_config(DISK, 4, Width::Bits16)), (0x2000, 0));
    assert_eq!(disk.rig.read_config(DISK, 0x10, Width::Bits32), 4);
    assert_eq!(disk.rig.read_config(port, 4, Width::Bits16), 6);
}

#[test]
fn a_link_with_nobody_at_its_end_is_down() {
    let rig = Rig::new();
    let port = rig.add_port();
    let link = || rig.read_config(Rid::new(0, 8), 0x40 + 0x12, Width::Bits16) & 0x2000;
    assert_eq!(link(), 0);
    port.secondary().plug(0, disk(&rig)).unwrap();
    assert_eq!(link(), 0x2000);
    port.secondary().unplug(0);
    assert_eq!(link(), 0);
}

#[test]
fn slots_held_in_reset_lose_everything_and_are_out_of_reach_until_they_are_released() {
    let disk = DiskRig::new(vec![0; 512]);
    disk.enable();
    let (port, msix) = (Rid::new(0, 8), disk.capability(0x11));
    let link = || disk.rig.read_config(port, 0x40 + 0x12, Width::Bits16) & 0x2000;
    let reach = || disk.nvme.requester().unwrap().read(None, Iova::new(RAM), &mut [0; 4]);
    let buses = disk.rig.read_config(port, 0x18, Width::Bits32);
    // MSI-X on, vector 0 unmasked.
    assert_eq!(
        (disk.rig.read_config(DISK, msix + 2, Width::Bits16), disk.rig.read32(BAR + 0x200c)),
        (0x8010, 0)
    );
    assert!(disk.rig.root.has_link() && reach().is_ok());
    disk.rig.root.hold_slots(true);
    assert_eq!((link(), disk.rig.root.has_link()), (0, false));
    assert_eq!(disk.rig.read_config(DISK, 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(disk.rig.read32(BAR + 8), 0xffff_ffff);
    assert_eq!(reach(), Err(RequestError::NotMaster));
    // Neither what is written meanwhile nor another reset counts.
    disk.rig.write_config(DISK, 4, Width::Bits16, 6);
    [0x40, 0].into_iter().for_each(|control| disk.rig.write_config(port, 0x3e, Width::Bits16, control));
    assert_eq!(link(), 0);
    disk.rig.root.hold_slots(false);
    assert_eq!((link(), disk.rig.root.has_link()), (0x2000, true));
    let config = [4, 0x10, msix + 2].map(|register| disk.rig.read_config(DISK, register, Width::Bits16));
    assert_eq!(config, [0, 4, 0x0010], "no command, no BAR, no MSI-X");
    assert_eq!(reach(), Err(RequestError::NotMaster));
    let kept =
        (disk.rig.read_config(port, 4, Width::Bits16), disk.rig.read_config(port, 0x18, Width::Bits32));
    assert_eq!(kept, (6, buses), "the port is not below itself");
    disk.rig.write_config(DISK, 0x10, Width::Bits32, BAR);
    disk.rig.write_config(DISK, 4, Width::Bits16, 2);
    assert_eq!((disk.csts(), disk.rig.read32(BAR + 0x14), disk.rig.read32(BAR + 0x24)), (0, 0, 0));
    assert_eq!(disk.rig.read32(BAR + 0x200c), 1, "the vector is masked");
}

#[test]
fn slots_without_anybody_have_no_link_whoever_releases_them() {
    let rig = Rig::new();
    let port = rig.add_port();
    rig.root.hold_slots(true);
    rig.root.hold_slots(false);
    assert!(!rig.root.has_link());
    rig.root.hold_slots(true);
    port.secondary().plug(0, disk(&rig)).unwrap();
    assert!(!rig.root.has_link(), "somebody who is held");
    rig.root.hold_slots(false);
    assert!(rig.root.has_link());
}

/// The host of another IOMMU: its stream ids are requester ids plus 0x5_0000.
fn other_host(rig: &Rig, gate: &Arc<Gate>) -> Host {
    Host {
        translator: gate.clone(),
        fabric: rig.bus.clone(),
        stream_ids: RidMap::offset(0x5_0000),
        device_ids: RidMap::offset(0x2_0000),
        sink: rig.ear.clone(),
    }
}

#[test]
fn what_is_in_a_slot_that_is_led_elsewhere_goes_by_that_iommu_and_so_does_all_below() {
    let rig = Rig::new();
    let gate = Arc::new(Gate::default());
    let host = rig.root.add_host(other_host(&rig, &gate));
    rig.root.root_bus().lead(1 << 3, &host);
    let port = rig.add_port();
    let [inside, outside] = [(); 2].map(|()| disk(&rig));
    port.secondary().plug(0, inside.clone()).unwrap();
    rig.root.root_bus().plug(2 << 3, outside.clone()).unwrap();
    rig.write_config(Rid::new(1, 0), 4, Width::Bits16, 6);
    rig.write_config(Rid::new(0, 16), 4, Width::Bits16, 6);
    let sources = [&inside, &outside].map(|disk| disk.requester().unwrap().source());
    assert_eq!(sources, [Some(SourceId(0x5_0100)), Some(SourceId(0x1_0010))]);
    let read = |disk: &Nvme| disk.requester().unwrap().read(None, Iova::new(RAM), &mut [0]).is_ok();
    gate.shut(RAM);
    assert!(!read(&inside) && read(&outside));
    gate.open();
    rig.gate.shut(RAM);
    assert!(read(&inside) && !read(&outside));
}

#[test]
fn a_deeper_slot_can_be_led_elsewhere_than_the_bridge_above_it() {
    let rig = Rig::new();
    let gate = Arc::new(Gate::default());
    let host = rig.root.add_host(other_host(&rig, &gate));
    let port = rig.add_port();
    port.secondary().lead(0, &host);
    let inside = disk(&rig);
    port.secondary().plug(0, inside.clone()).unwrap();
    rig.write_config(Rid::new(1, 0), 4, Width::Bits16, 6);
    assert_eq!(inside.requester().unwrap().source(), Some(SourceId(0x5_0100)));
}

#[test]
fn what_is_on_a_conventional_bus_is_found_there_and_sends_by_the_name_of_the_bus() {
    let rig = Rig::new();
    let port = rig.add_port();
    let bridge = port.secondary().add_bridge(0, BridgeOptions::to_pci()).unwrap();
    let options = NvmeOptions { port: PortKind::Conventional, ..NvmeOptions::default() };
    let disks = [1, 2].map(|device| {
        let medium = Box::new(MemoryMedium::new(vec![0; 512]));
        let disk = Nvme::new(options.clone(), medium, rig.ear.clone());
        bridge.secondary().plug(device << 3, disk.clone()).unwrap();
        disk
    });
    rig.write_config(Rid::new(0, 8), 0x18, Width::Bits32, 0x0002_0100);
    rig.write_config(Rid::new(1, 0), 0x18, Width::Bits32, 0x0002_0201);
    rig.write_config(Rid::new(1, 0), 4, Width::Bits16, 6);
    // Type 1, and PCI Express to PCI: 7 in bits 7:4 behind the capability's header.
    assert_eq!(rig.read_config(Rid::new(1, 0), 0x42, Width::Bits16), 0x0072);
    for (device, disk) in [1, 2].into_iter().zip(&disks) {
        let at = Rid::new(2, device << 3);
        assert_eq!(rig.read_config(at, 0, Width::Bits32), 0x0010_1b36, "without a link there is no ARI");
        rig.write_config(at, 4, Width::Bits16, 6);
        let requester = disk.requester().unwrap();
        assert_eq!(requester.source(), Some(SourceId(0x1_0200)));
        assert!(requester.read(None, Iova::new(RAM), &mut [0]).is_ok());
    }
    let nobody = rig.read_config(Rid::new(2, 0), 0, Width::Bits32);
    assert_eq!(nobody, 0xffff_ffff);
    // Held in reset, nobody is there; its bridge has no link to say so by.
    rig.write_config(Rid::new(1, 0), 0x3e, Width::Bits16, 1 << 6);
    assert_eq!(rig.read_config(Rid::new(2, 8), 0, Width::Bits32), 0xffff_ffff);
    assert_eq!(rig.read_config(Rid::new(1, 0), 0x52, Width::Bits16) & 1 << 13, 0);
    rig.write_config(Rid::new(1, 0), 0x3e, Width::Bits16, 0);
    assert_eq!(rig.read_config(Rid::new(2, 8), 0, Width::Bits32), 0x0010_1b36);
    assert_eq!(rig.read_config(Rid::new(1, 0), 0x52, Width::Bits16) & 1 << 13, 0);
}

#[test]
fn messages_of_an_iommu_reach_what_is_behind_it_and_nobody_else() {
    let rig = Rig::new();
    let mmus = [1u8, 2].map(|slot| {
        let mmu = Arc::new(Mmu::default());
        let host = rig.root.add_host(Host {
            translator: mmu.clone(),
            fabric: rig.bus.clone(),
            stream_ids: RidMap::offset(0),
            device_ids: RidMap::offset(0),
            sink: rig.ear.clone(),
        });
        rig.root.root_bus().lead(slot << 3, &host);
        let device = PcieAccelerator::new(&AcceleratorOptions::default(), rig.ear.clone());
        rig.root.root_bus().plug(slot << 3, device).unwrap();
        mmu
    });
    let reaches = |mmu: &Mmu, rid: u32| {
        let response = PageResponse { source: SourceId(rid), pasid: None, group: 0, code: 0 };
        mmu.down().page_response(&response)
    };
    assert_eq!(
        mmus.each_ref().map(|mmu| [reaches(mmu, 8), reaches(mmu, 16)]),
        [[true, false], [false, true]]
    );
    assert!(rig.ear.heard("model.pcie unsupported_request: message=page_response"));
}

#[test]
fn of_those_whose_source_is_one_an_iommu_reaches_who_is_behind_it() {
    let rig = Rig::new();
    let mmu = Arc::new(Mmu::default());
    let everybody = |slot: u8| RidRange { first: Rid::new(0, slot << 3), count: 1, to: SourceId(7) };
    let host = rig.root.add_host(Host {
        translator: mmu.clone(),
        fabric: rig.bus.clone(),
        stream_ids: RidMap::new(vec![everybody(1), everybody(2)]),
        device_ids: RidMap::offset(0),
        sink: rig.ear.clone(),
    });
    rig.root.root_bus().lead(2 << 3, &host);
    for slot in [1u8, 2] {
        let device = PcieAccelerator::new(&AcceleratorOptions::default(), rig.ear.clone());
        rig.root.root_bus().plug(slot << 3, device).unwrap();
    }
    let response = PageResponse { source: SourceId(7), pasid: None, group: 0, code: 0 };
    assert!(mmu.down().page_response(&response));
}
