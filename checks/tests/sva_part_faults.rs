//! Requests, stalls and answers, with the shipped driver on the models: parts 4, 12, 16, 17, 20, 22 to 25.

use std::sync::Arc;

use model_bus::{PageRequest, Width};
use model_devices::pcie::Function;
use model_smmuv3::StallModel;
use model_vtd::Reason;
use portcullis::accel::{Accelerator, Algorithm, Status, Unshared};
use portcullis::core::device::{DeviceInfo, DmaMask};
use portcullis::core::iommu::AddDeviceError;
use portcullis::core::sva::DisableSvaError;
use portcullis::hal::DmaMemory;
use portcullis::types::{Iova, Pa, Pasid, SourceId};
use portcullis_checks::sva::before::Model;
use portcullis_checks::sva::plan::{Plan, accelerator};
use portcullis_checks::sva::rig::Rig;
use portcullis_checks::sva::watched::Watched;
use portcullis_checks::sva::work::{Client, bind, job, text, unbind};
use portcullis_lab::trace::Memory;

const RIGHT: [String; 0] = [];

/// An entry of a PASID, or of the directory that leads to it, is not present; or the PASID is the one for requests without.
const MEANS_NOTHING: [Reason; 3] =
    [Reason::DirectoryNotPresent, Reason::PasidNotPresent, Reason::PasidIsRidPasid];

/// A machine of each vendor.
const MACHINES: [fn(u64) -> Plan; 2] = [Plan::new, Plan::x86];

fn process(rig: &Rig) -> Watched {
    Watched::new(&rig.kernel, &rig.judge).unwrap()
}

#[test]
fn part_12_a_private_asid_gives_way_under_dma_and_loses_no_invalidation() {
    let sink = Arc::new(Memory::default());
    let rig = Rig::with(Plan::new(1).platform_only(), None, sink.clone()).unwrap();
    // A queue of the kernel's own, in the group's private domain, at work on a long copy.
    let accel = &rig.accels[0];
    accel.device.set_dma_mask(DmaMask::BITS_64);
    let handle = accel.group.dma(&accel.device).unwrap();
    const LEN: u64 = 0x10_0000;
    let [ring, source, dest] = [0x1000, LEN, LEN].map(|len| handle.alloc_coherent(len).unwrap());
    let bytes = text(3, LEN);
    rig.platform.write(source.pa(), &bytes);
    let queue = Accelerator::open_queue(&accel.driver, Unshared, ring.iova(), 4).unwrap();
    let entry = job(Algorithm::Copy, source.iova(), LEN, dest.iova(), LEN).encode().unwrap();
    rig.platform.write(ring.pa(), &entry);
    queue.ring_tail(1);
    rig.step(20);
    assert_eq!(queue.head(), 0, "it is at work");
    // Every process that is bound takes an ASID; some of them are private ones.
    let processes: Vec<Watched> = (0..3).map(|_| process(&rig)).collect();
    let bonds: Vec<_> = processes.iter().map(|process| bind(&rig, process, 0).unwrap()).collect();
    let moved = sink.lines().iter().filter(|line| line.contains("asid_moved")).count();
    assert!(moved > 0, "some private ASID gave way");
    assert_eq!(queue.head(), 0, "it is still at work");
    assert!(rig.run_until(2000, || queue.head() == 1));
    let mut copied = vec![0; bytes.len()];
    rig.platform.read(dest.pa(), &mut copied);
    assert!(copied == bytes, "the copy went on");
    // An unmap that comes after the move is heard under the new ASID.
    let (gone, at) = (dest.iova(), dest.pa());
    handle.free_coherent(dest).unwrap();
    let late = job(Algorithm::Fill(1), gone, 64, gone, 64).encode().unwrap();
    rig.platform.write(Pa::new(ring.pa().get() + 64), &late);
    queue.ring_tail(2);
    assert!(rig.run_until(200, || queue.head() == 2));
    let mut status = [0; 4];
    rig.platform.read(Pa::new(ring.pa().get() + 64 + 60), &mut status);
    assert_eq!(Status::decode(u32::from_le_bytes(status)), Some(Status::DestFault), "{at}");
    let Unshared = queue.abort().unwrap().space;
    bonds.iter().for_each(|bond| unbind(&rig, 0, bond).unwrap());
    drop(bonds);
    processes.iter().for_each(Watched::exit);
    [ring, source].into_iter().for_each(|buffer| handle.free_coherent(buffer).unwrap());
    drop(handle);
    assert_eq!(rig.finish(), RIGHT);
}

#[test]
fn what_the_book_of_pcie_forbids_is_said_at_the_end() {
    // ATS, page requests and PASIDs are extended capabilities of 8, 16 and 8 bytes, from 0x100.
    const PASID_CONTROL: usize = 0x118 + 6;
    for plan in MACHINES {
        let rig = Rig::new(plan(1)).unwrap();
        let model = rig.accels[0].pcie().unwrap().clone();
        // Off and on again, while ATS is on.
        for enable in [0, 1] {
            model.config().write(PASID_CONTROL, Width::Bits16, enable);
            model.config_written(PASID_CONTROL);
        }
        let wrongs = rig.finish();
        let told =
            |wrong: &String| wrong.starts_with("forbidden: ") && wrong.contains("PASID Control Register");
        assert!(wrongs.len() == 2 && wrongs.iter().all(told), "{wrongs:?}");
    }
}

/// In which order a bond and its process end.
#[derive(Clone, Copy, Debug)]
enum End {
    Exit,
    Stop,
    Unbind,
}

#[test]
fn part_17_exit_and_unbind_in_every_order_and_in_mid_job() {
    use End::{Exit, Stop, Unbind};
    let orders = [[Stop, Unbind, Exit], [Stop, Exit, Unbind], [Exit, Stop, Unbind]];
    let devices = |machine: fn(u64) -> Plan| 0..machine(0).pcie.len() + machine(0).platform.len();
    let each = MACHINES.into_iter().flat_map(|machine| devices(machine).map(move |device| (machine, device)));
    for (machine, device) in each {
        for (order, abort) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
            for steps in 0..6 {
                let mut plan = machine(steps);
                plan.pcie[0].stop_marker = steps % 2 == 1;
                ends_in_mid_job(plan, order, device, abort, steps);
            }
        }
    }
}

/// A job is under way for so many turns when a bond and its process end in this order.
fn ends_in_mid_job(plan: Plan, order: [End; 3], device: usize, abort: bool, turns: u64) {
    let rig = Rig::new(plan).unwrap();
    let process = process(&rig);
    let (source, dest) = (process.map_zeroes(0x8000).unwrap(), process.map_zeroes(0x8000).unwrap());
    let mut client = Client::open(&rig, &process, device).unwrap();
    assert!(client.submit(job(Algorithm::Copy, source.first(), 0x8000, dest.first(), 0x8000)));
    for _ in 0..turns {
        rig.step(2);
        rig.serve();
    }
    rig.step(1);
    let mut bond = None;
    for end in order {
        match end {
            End::Exit => process.exit(),
            End::Stop => bond = Some(client.stop(abort, || rig.serve()).unwrap()),
            End::Unbind => unbind(&rig, device, bond.as_ref().unwrap()).unwrap(),
        }
        rig.step(2);
    }
    drop(bond);
    assert_eq!(rig.finish(), RIGHT, "{order:?}, device {device}, abort {abort}, {turns} turns");
}

#[test]
fn a_bond_that_is_never_given_back_is_a_leak() {
    for machine in MACHINES {
        let rig = Rig::new(machine(3)).unwrap();
        let process = process(&rig);
        let bond = bind(&rig, &process, 0).unwrap();
        process.exit();
        let wrongs = rig.finish();
        assert!(wrongs.contains(&"no-leak: 1 PASIDs are in use".into()), "{wrongs:?}");
        drop(bond);
    }
}

#[test]
fn part_16_nothing_is_disabled_while_a_bond_lives_and_all_can_be_enabled_again() {
    for machine in MACHINES {
        let rig = Rig::new(machine(2)).unwrap();
        for device in 0..rig.accels.len() {
            let process = process(&rig);
            let bond = bind(&rig, &process, device).unwrap();
            assert_eq!(rig.disable(device), Err(DisableSvaError::PasidsInUse));
            process.exit();
            assert_eq!(rig.disable(device), Err(DisableSvaError::PasidsInUse), "an exit does not end a bond");
            let late = bind(&rig, &process, device).unwrap_err();
            assert!(late.contains("Exited"), "known, but too late: {late}");
            unbind(&rig, device, &bond).unwrap();
            drop(bond);
            rig.disable(device).unwrap();
            rig.enable(device).unwrap();
        }
        assert_eq!(rig.finish(), RIGHT);
    }
}

#[test]
fn part_20_a_device_with_several_streams_is_one_device_and_no_stream_is_two_devices() {
    let rig = Rig::new(Plan::new(3).platform_only()).unwrap();
    let twice = rig.unit.add_device(DeviceInfo::new("impostor", &[SourceId(0x1001)])).unwrap_err();
    let taken =
        matches!(&twice, AddDeviceError::Taken { source: SourceId(0x1001), by } if *by == rig.accels[0].name);
    assert!(taken, "{twice:?}");
    // It reads as one stream and writes as the other; stalls of both are answered where they came from.
    let process = process(&rig);
    let (source, dest) = (process.map_zeroes(0x4000).unwrap(), process.map_zeroes(0x4000).unwrap());
    let mut client = Client::open(&rig, &process, 0).unwrap();
    let copy = job(Algorithm::Copy, source.first(), 0x4000, dest.first(), 0x4000);
    assert_eq!(client.run(&rig, copy).unwrap().status, Status::Done);
    let counters = rig.iommu.smmu().counters();
    assert!(counters.stalls >= 8 && counters.resumed >= 8, "{counters:?}");
    client.close(&rig).unwrap();
    process.exit();
    assert_eq!(rig.finish(), RIGHT);
}

#[test]
fn part_22_stalls_are_resumed_or_aborted_whether_they_are_chosen_or_forced() {
    for stall in [StallModel::Configurable, StallModel::Forced] {
        let rig = Rig::new(Plan::new(4).platform_only().smmu(|config| config.stall = stall)).unwrap();
        let process = process(&rig);
        let dest = process.map_zeroes(0x3000).unwrap();
        let mut client = Client::open(&rig, &process, 0).unwrap();
        let fill = |at: Iova| job(Algorithm::Fill(5), at, 0x3000, at, 0x3000);
        assert_eq!(client.run(&rig, fill(dest.first())).unwrap().status, Status::Done);
        let ended = rig.iommu.smmu().counters().terminated;
        assert_eq!(client.run(&rig, fill(Iova::new(0x7000_0000))).unwrap().status, Status::DestFault);
        assert_eq!(rig.iommu.smmu().counters().terminated, ended + 1, "{stall:?}");
        process.unmap(dest).unwrap();
        assert!(client.submit(fill(dest.first())));
        rig.step(4);
        process.exit();
        // Quiet where stalls can be switched off; else every later access is a stall that is aborted.
        let bond = client.stop(false, || rig.serve()).unwrap();
        unbind(&rig, 0, &bond).unwrap();
        drop(bond);
        assert_eq!(rig.finish(), RIGHT, "{stall:?}");
    }
}

#[test]
fn part_22_an_access_that_waits_when_its_process_is_unbound_ends_there() {
    let rig = Rig::new(Plan::new(5).platform_only()).unwrap();
    let process = process(&rig);
    let dest = process.map_zeroes(0x1000).unwrap();
    let mut client = Client::open(&rig, &process, 0).unwrap();
    assert!(client.submit(job(Algorithm::Fill(1), dest.first(), 64, dest.first(), 64)));
    rig.step(8);
    assert!(rig.iommu.smmu().counters().stalls > 0, "it waits");
    let bond = client.stop(true, || {}).unwrap();
    unbind(&rig, 0, &bond).unwrap();
    let counters = rig.iommu.smmu().counters();
    assert_eq!(counters.stalls, counters.resumed + counters.terminated);
    drop(bond);
    process.exit();
    assert_eq!(rig.finish(), RIGHT);
}

#[test]
fn part_24_an_overflow_is_acknowledged_and_everything_is_answered_once() {
    let mut plan = Plan::new(6).pcie_only();
    plan.page_queue_lg2 = 1;
    plan.pcie = vec![accelerator(1), accelerator(2)];
    let rig = Rig::new(plan).unwrap();
    let process = process(&rig);
    let dests = [process.map_zeroes(0x2_0000).unwrap(), process.map_zeroes(0x2_0000).unwrap()];
    let mut clients = [0, 1].map(|device| Client::open(&rig, &process, device).unwrap());
    for round in 0..3u8 {
        for (client, dest) in clients.iter_mut().zip(dests) {
            let mut fill = job(Algorithm::Fill(round), dest.first(), 0x2_0000, dest.first(), 0x2_0000);
            fill.ahead_lg2 = 2;
            assert!(client.submit(fill));
        }
        let mut done = 0;
        rig.run_until(5000, || {
            done += clients.iter_mut().map(|client| client.ended().len()).sum::<usize>();
            done == 2
        });
        assert_eq!(done, 2, "round {round}");
        dests.iter().for_each(|&dest| process.unmap(dest).unwrap());
        for &dest in &dests {
            assert_eq!(process.map(&at(dest)), Ok(dest));
        }
    }
    let counters = rig.iommu.smmu().counters();
    assert!(counters.auto_responses > 0, "it overflowed: {counters:?}");
    assert!(rig.driver.page_request_overflows() > 1, "and was acknowledged, or it would have once only");
    clients.into_iter().for_each(|client| client.close(&rig).unwrap());
    process.exit();
    assert_eq!(rig.finish(), RIGHT);
}

fn at(range: portcullis::types::IovaRange) -> portcullis_lab::process::Mapping {
    portcullis_lab::process::Mapping {
        at: Some(range.first()),
        len_bytes: range.last().get() - range.first().get() + 1,
        perms: portcullis::types::Perms::READ_WRITE,
        source: portcullis_lab::process::Source::Anonymous,
    }
}

#[test]
fn part_25_stop_markers_get_no_answer_and_late_answers_do_no_harm() {
    for machine in MACHINES {
        let mut plan = machine(7).pcie_only();
        plan.pcie[0].stop_marker = true;
        let rig = Rig::new(plan).unwrap();
        let model = rig.accels[0].pcie().unwrap().clone();
        for _ in 0..4 {
            let process = process(&rig);
            let dest = process.map_zeroes(0x4000).unwrap();
            let mut client = Client::open(&rig, &process, 0).unwrap();
            assert!(client.submit(job(Algorithm::Fill(1), dest.first(), 0x4000, dest.first(), 0x4000)));
            rig.step(6);
            client.close(&rig).unwrap();
            process.exit();
        }
        assert_eq!(model.pages().counts().stop_markers, 4);
        assert_eq!(model.pages().counts().unexpected, 0);
        assert_eq!(rig.finish(), RIGHT);
    }
}

/// What is said against a run in which a device forged requests. Where hardware looks at the entry of a PASID before it takes a request, one for a PASID that means nothing is a fault that it
/// records; and nothing else is.
fn but_for_forged(rig: Rig) -> Vec<String> {
    let Model::Vtd(vtd) = rig.iommu.clone() else { return rig.finish() };
    let mut wrongs = rig.finish();
    wrongs.retain(|wrong| !wrong.starts_with("quiet: "));
    let others = vtd.counters().faults.into_keys().filter(|reason| !MEANS_NOTHING.contains(reason));
    wrongs.extend(others.map(|reason| format!("quiet: {reason:?}")));
    wrongs
}

/// What a device is told for a page that is there, one that is not, and one of a PASID that means nothing; and that what is not the last is told nothing.
#[test]
fn part_25_each_request_is_answered_with_the_code_that_is_its_due() {
    const SUCCESS: Option<u8> = Some(0);
    const INVALID: Option<u8> = Some(1);
    for machine in MACHINES {
        let rig = Rig::new(machine(8).pcie_only()).unwrap();
        let process = process(&rig);
        let there = process.map_zeroes(0x1000).unwrap();
        let bond = bind(&rig, &process, 0).unwrap();
        let source = SourceId(8);
        let ask = |pasid: Option<Pasid>, iova: Iova, group: u16, last: bool| {
            rig.accels[0].forge(pasid, iova, group, last);
            rig.step(8);
            rig.serve();
            rig.step(8);
            rig.judge.response(source, group)
        };
        let (pasid, nowhere) = (Some(bond.pasid()), Iova::new(0x6000_0000));
        assert_eq!(ask(pasid, there.first(), 0x11, true), SUCCESS);
        assert_eq!(ask(pasid, nowhere, 0x12, true), INVALID);
        assert_eq!(ask(Pasid::new(77), there.first(), 0x13, true), INVALID, "no such process");
        assert_eq!(ask(None, there.first(), 0x14, true), INVALID, "no process at all");
        assert_eq!(ask(pasid, there.first(), 0x15, false), None, "not the last");
        assert_eq!(ask(pasid, nowhere, 0x15, true), INVALID, "one of the group is not there");
        assert_eq!(ask(pasid, nowhere, 0x17, false), None, "not the last");
        assert_eq!(ask(pasid, there.first(), 0x17, true), INVALID, "and it is the first that is not there");
        unbind(&rig, 0, &bond).unwrap();
        assert_eq!(ask(pasid, there.first(), 0x16, true), INVALID, "bound no more");
        drop(bond);
        process.exit();
        assert_eq!(but_for_forged(rig), RIGHT);
    }
}

/// A million requests that nobody asked for keep nobody from working, and take no memory.
#[test]
fn part_4_a_flood_of_requests_is_borne() {
    MACHINES.into_iter().for_each(|machine| flood(machine(9)));
}

fn flood(mut plan: Plan) {
    if plan.platform.is_empty() {
        plan.pcie.push(accelerator(10));
    }
    let rig = Rig::new(plan).unwrap();
    let process = process(&rig);
    let dest = process.map_zeroes(0x4000).unwrap();
    let bond = bind(&rig, &process, 0).unwrap();
    let model = rig.accels[0].pcie().unwrap().clone();
    let before = rig.bus.cpu().heap().used().live_bytes;
    for number in 0..30_000u64 {
        let request = PageRequest {
            source: SourceId(8),
            pasid: Pasid::new((number % 5) as u32),
            privileged: false,
            execute: number % 7 == 0,
            iova: Iova::new(number << 12 & 0xffff_ffff_f000),
            group: (number % 512) as u16,
            last: number % 11 == 0,
            read: true,
            write: number % 3 == 0,
        };
        model.pages().forge(&request);
        if number % 64 == 0 {
            rig.serve();
            rig.step(1);
        }
    }
    rig.serve();
    let mut other = Client::open(&rig, &process, 1).unwrap();
    let fill = job(Algorithm::Fill(1), dest.first(), 0x4000, dest.first(), 0x4000);
    assert_eq!(other.run(&rig, fill).unwrap().status, Status::Done, "the other device works");
    other.close(&rig).unwrap();
    let _ = process.unmap(dest);
    unbind(&rig, 0, &bond).unwrap();
    drop(bond);
    assert!(rig.bus.cpu().heap().used().live_bytes < before + 0x20_0000);
    process.exit();
    assert_eq!(but_for_forged(rig), RIGHT);
}
