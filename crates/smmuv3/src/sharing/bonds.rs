//! Part 17: bonds between processes and devices, over this driver: the same handle, counted; exit and unbind in every order. Part 16: disabling. Part 4:
//! requests on their way.

extern crate std;

use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::dma::{MsiError, compose_msi};
use portcullis_core::domain::{DomainType, FlushMode};
use portcullis_core::group::{DefaultDomain, Group, GroupError, PasidError};
use portcullis_core::iommu::Iommu;
use portcullis_core::iopf::FaultQueue;
use portcullis_core::pasid::MmPasids;
use portcullis_core::sva::{
    BindError, Bond, DisableSvaError, EnableError, EnableSvaError, SvaDevice, SvaUnit, UnbindError,
};
use portcullis_core::unit::IommuUnit;
use portcullis_spec::smmuv3::command::Opcode;
use portcullis_types::{Iova, IovaRange};

use super::*;
use crate::testing::{Fake, FakeMm, FakeSwitches, Machine, Shared, cd, put_event, put_page_request, ste};

/// A machine with devices that share, each in a group of its own.
struct Bench {
    fake: Arc<Fake>,
    smmu: Arc<Smmu<Fake, Arc<Fake>>>,
    unit: Arc<SvaUnit<Fake>>,
    iommu: Arc<IommuUnit<Fake>>,
    pasids: Arc<MmPasids<spin::Mutex<()>>>,
    facts: DeviceSvaFacts,
}

type Dev = (Arc<SvaDevice<Fake>>, Arc<Device<Fake>>, Arc<Group<Fake>>);

impl Bench {
    fn new(machine: Machine) -> Self {
        let patient = |_: &mut _, config: &mut crate::Config| config.wait_limit_ns = Fake::PATIENT_NS;
        let Shared { fake, smmu, facts, .. } = Shared::plain(machine, patient);
        smmu.remove_device(&Shared::SOURCES).unwrap();
        let driver: Arc<dyn Iommu<Fake>> = smmu.clone();
        let iommu = Arc::new(IommuUnit::new(fake.clone(), driver));
        let pasids = Arc::new(MmPasids::new());
        let unit = SvaUnit::new(iommu.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
        Self { fake, smmu, unit, iommu, pasids, facts }
    }

    fn device(&self, name: &str, sources: &[SourceId]) -> Dev {
        let device = self.iommu.add_device(DeviceInfo::new(name, sources)).unwrap();
        let driver: Arc<dyn Iommu<Fake>> = self.smmu.clone();
        let group = Group::new(self.fake.clone(), driver, 1, DefaultDomain::Dma(FlushMode::Strict)).unwrap();
        let group = Arc::new(group);
        group.add_device(&device).unwrap();
        let switches = FakeSwitches::new(&self.fake);
        let enabled = self.unit.enable(&device, &group, &self.facts, switches).unwrap();
        self.fake.take_log();
        (enabled, device, group)
    }

    fn disk(&self) -> Dev {
        self.device("disk", &Shared::SOURCES)
    }

    fn heard(&self, name: &str) -> usize {
        self.fake.events.lock().unwrap().iter().filter(|&&heard| heard == name).count()
    }

    /// A request of the disk's for a page of this PASID, and all that follows. Answers what was sent back.
    fn ask(&self, pasid: Pasid) -> Vec<[u64; 2]> {
        self.fake.take_log();
        let ssid = u64::from(pasid.get());
        if self.facts.can_stall {
            put_event(&self.fake, [ssid << 12 | 0x9_0000_0810, 1 << 31 | 0x42, 0x1234, 0]);
        } else {
            put_page_request(&self.fake, [0b1111 << 60 | ssid << 32 | 9, 0x1000 | 74]);
        }
        self.unit.service();
        while self.unit.queue().work() {}
        self.fake.work(16);
        let answers = [Opcode::PRI_RESP, Opcode::RESUME];
        let log = self.fake.take_log();
        log.into_iter().filter(|c| answers.contains(&c.opcode())).map(|c| c.0).collect()
    }
}

fn memory(mm: &Arc<FakeMm>) -> Arc<dyn ProcessMemory> {
    mm.clone()
}

fn bind(device: &Dev, mm: &Arc<FakeMm>) -> Arc<Bond<Fake>> {
    device.0.bind(&memory(mm)).unwrap()
}

/// Word 0 of the descriptor of this PASID of stream 8.
fn word0(bench: &Bench, pasid: Pasid) -> u64 {
    cd(&bench.fake, 8, pasid.get().into()).unwrap()[0]
}

const VALID: u64 = 1 << 31;
const EPD0: u64 = 1 << 14;

#[test]
fn part_17_the_same_pair_is_the_same_bond_and_the_last_unbind_ends_it() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let first = bind(&disk, &mm);
    let second = bind(&disk, &mm);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((first.pasid().get(), bench.heard("smmu_bind_alloc")), (1, 1));
    disk.0.unbind(&first).unwrap();
    assert!(word0(&bench, first.pasid()) & VALID != 0, "one of two");
    assert_eq!(bench.heard("smmu_unbind_free"), 0);
    disk.0.unbind(&second).unwrap();
    assert!(word0(&bench, first.pasid()) & VALID == 0);
    assert_eq!(bench.heard("smmu_unbind_free"), 1);
    assert_eq!((mm.pins.load(SeqCst), mm.listener_count()), (0, 1), "the PASID stays the process's");
    assert_eq!(disk.0.unbind(&second), Err(UnbindError::NotBound));
    let third = bind(&disk, &mm);
    assert_eq!(disk.0.unbind(&second), Err(UnbindError::NotBound), "an old handle ends no new bond");
    assert_eq!(third.pasid(), first.pasid());
    disk.0.unbind(&third).unwrap();
}

#[test]
fn part_1_a_process_has_one_pasid_one_domain_and_one_pin_for_all_its_devices() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, net) = (bench.disk(), bench.device("net", &[SourceId(12)]));
    let (mm, other) = (FakeMm::new(0x42), FakeMm::new(0x43));
    let bonds = [bind(&disk, &mm), bind(&net, &mm), bind(&net, &other)];
    assert_eq!(bonds.each_ref().map(|bond| bond.pasid().get()), [1, 1, 2]);
    assert_eq!((mm.pins.load(SeqCst), mm.listener_count()), (1, 2));
    bench.fake.take_log();
    mm.change(IovaRange::new(Iova::new(0x1000), 0x1000).unwrap()).unwrap();
    let streams: Vec<u64> = bench
        .fake
        .take_log()
        .iter()
        .filter(|c| c.opcode() == Opcode::ATC_INV)
        .map(|c| c.0[0] >> 32)
        .collect();
    assert_eq!(streams, [8, 9, 12], "one invalidation for the TLB, and one for each stream of both devices");
    disk.0.unbind(&bonds[0]).unwrap();
    assert_eq!((mm.pins.load(SeqCst), bench.pasids.in_use()), (1, 2));
    net.0.unbind(&bonds[1]).unwrap();
    net.0.unbind(&bonds[2]).unwrap();
    assert_eq!((mm.pins.load(SeqCst), other.pins.load(SeqCst)), (0, 0));
}

#[test]
fn part_17_exit_before_unbind_is_quiet_and_answers_what_comes() {
    for machine in [Machine::Pcie, Machine::Forced] {
        let bench = Bench::new(machine);
        let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
        let bond = bind(&disk, &mm);
        let success = if machine == Machine::Pcie { 2 << 12 | 74 } else { 0x42 };
        assert_eq!(bench.ask(bond.pasid()).len(), 1);
        assert_eq!(bench.ask(bond.pasid())[0][1], success, "{machine:?}");
        mm.exit().unwrap();
        assert_eq!(bench.heard("smmu_mm_release"), 1);
        let word = word0(&bench, bond.pasid());
        assert!(word & VALID != 0 && word & EPD0 != 0, "{machine:?}");
        let refused = bench.ask(bond.pasid());
        let invalid = if machine == Machine::Pcie {
            [9 << 32 | 0x41, 1 << 12 | 74]
        } else {
            [9 << 32 | 1 << 13 | 0x44, 0x42]
        };
        assert_eq!(refused, [invalid], "{machine:?}");
        assert_eq!(disk.0.bind(&memory(&mm)).unwrap_err(), BindError::Exited, "known, but too late");
        disk.0.unbind(&bond).unwrap();
        assert_eq!((bench.heard("smmu_unbind_free"), bench.pasids.in_use(), mm.pins.load(SeqCst)), (1, 0, 0));
        assert_eq!(disk.0.bind(&memory(&mm)).unwrap_err(), BindError::Exited);
        assert_eq!(bench.ask(bond.pasid()).len(), 1, "who asks too late is answered all the same");
    }
}

#[test]
fn part_17_unbind_before_exit_leaves_nothing_to_do() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = bind(&disk, &mm);
    disk.0.unbind(&bond).unwrap();
    bench.fake.take_log();
    mm.exit().unwrap();
    assert_eq!(
        (bench.fake.take_log(), bench.pasids.in_use(), bench.heard("smmu_mm_release")),
        (Vec::new(), 0, 0)
    );
}

#[test]
fn part_17_exit_and_unbind_at_once_end_in_the_same_way() {
    for _ in 0..12 {
        let bench = Bench::new(Machine::Pcie);
        let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
        bench.fake.restless.store(true, SeqCst);
        let bond = bind(&disk, &mm);
        std::thread::scope(|scope| {
            scope.spawn(|| mm.exit().unwrap());
            scope.spawn(|| disk.0.unbind(&bond).unwrap());
            scope.spawn(|| match disk.0.bind(&memory(&mm)) {
                Ok(again) => disk.0.unbind(&again).unwrap(),
                Err(error) => assert_eq!(error, BindError::Exited),
            });
        });
        assert_eq!((bench.pasids.in_use(), mm.pins.load(SeqCst), mm.listener_count()), (0, 0, 0));
        disk.0.disable().unwrap();
    }
}

#[test]
fn part_17_a_bond_that_hardware_does_not_let_go_can_be_given_back_again() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = bind(&disk, &mm);
    bench.fake.with(|state| state.atc_silent = true);
    assert_eq!(disk.0.unbind(&bond), Err(UnbindError::Sync(SyncError::Failed { code: 3 })));
    assert_eq!((bench.pasids.in_use(), mm.pins.load(SeqCst)), (1, 1));
    bench.fake.with(|state| state.atc_silent = false);
    disk.0.unbind(&bond).unwrap();
    assert_eq!(mm.pins.load(SeqCst), 0);
}

#[test]
fn part_17_a_bond_that_hardware_does_not_let_go_is_nobody_elses() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = bind(&disk, &mm);
    bench.fake.with(|state| state.atc_silent = true);
    assert_eq!(disk.0.unbind(&bond), Err(UnbindError::Sync(SyncError::Failed { code: 3 })));
    bench.fake.with(|state| state.atc_silent = false);
    // Its PASID means nothing any more: who would be told that he is bound is not.
    assert_eq!(disk.0.bind(&memory(&mm)).unwrap_err(), BindError::Busy);
    // The one that holds it is counted once.
    disk.0.unbind(&bond).unwrap();
    assert_eq!(mm.pins.load(SeqCst), 0);
    let again = bind(&disk, &mm);
    assert!(cd(&bench.fake, 8, again.pasid().get().into()).is_some_and(|cd| cd[0] >> 31 & 1 == 1));
    disk.0.unbind(&again).unwrap();
}

#[test]
fn part_17_a_bind_that_fails_leaves_everything_as_it_was() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bytes = bench.fake.live_bytes();
    let exited = FakeMm::new(0x43);
    exited.exit().unwrap();
    assert_eq!(disk.0.bind(&memory(&exited)).unwrap_err(), BindError::Exited);
    bench.fake.with(|state| state.illegal.push(Opcode::TLBI_NH_ASID));
    // A private ASID, whose domain cannot give way.
    let private = u16::try_from(cd(&bench.fake, 8, 0).unwrap()[0] >> 48).unwrap();
    let seized = FakeMm::new(private);
    assert!(matches!(disk.0.bind(&memory(&seized)).unwrap_err(), BindError::Process(_)));
    bench.fake.with(|state| state.illegal.clear());
    assert_eq!((seized.pins.load(SeqCst), exited.pins.load(SeqCst), bench.fake.live_bytes()), (0, 0, bytes));
    disk.2.hold_pasid(Pasid::new(2).unwrap(), None).unwrap();
    // The process that failed keeps PASID 1; the next one gets 2, which the group holds.
    assert_eq!(disk.0.bind(&memory(&mm)).unwrap_err(), BindError::Group(PasidError::Taken));
    assert_eq!((mm.pins.load(SeqCst), bench.fake.live_bytes()), (0, bytes));
    disk.2.drop_pasid(Pasid::new(2).unwrap()).unwrap();
    let bond = bind(&disk, &mm);
    assert_eq!(bond.pasid().get(), 2);
    disk.0.unbind(&bond).unwrap();
}

#[test]
fn part_17_a_bind_that_is_neither_confirmed_nor_undone_lingers_until_it_can_be_undone() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let silent = |on: bool| {
        let opcodes: &[_] = if on { &[Opcode::CFGI_CD, Opcode::TLBI_NH_ASID] } else { &[] };
        bench.fake.with(|state| state.illegal = opcodes.to_vec());
    };
    let fail = || {
        silent(true);
        let failed = disk.0.bind(&memory(&mm)).unwrap_err();
        assert!(matches!(failed, BindError::Attach(AttachPasidError::Sync(_))), "{failed:?}");
    };
    fail();
    let held = || (bench.pasids.in_use(), mm.pins.load(SeqCst), mm.listener_count());
    assert_eq!(held(), (1, 1, 2), "hardware may use it; the PASID listens, and the domain");
    assert!(matches!(disk.0.settle(), Err(UnbindError::Sync(_))));
    assert_eq!(disk.0.disable(), Err(DisableSvaError::PasidsInUse));
    assert_eq!(held(), (1, 1, 2));
    fail();
    assert_eq!(held(), (1, 1, 2), "the second try did not get further than the first");
    silent(false);
    let bond = bind(&disk, &mm);
    assert_eq!(held(), (1, 1, 2));
    disk.0.unbind(&bond).unwrap();
    assert_eq!(held(), (1, 0, 1), "a process keeps its number until it ends");
    fail();
    silent(false);
    disk.0.disable().unwrap();
    assert_eq!(held(), (1, 0, 1), "disabling settles as well");
}

#[test]
fn part_18_a_device_that_never_answers_is_given_up_and_nothing_of_it_is_kept() {
    let bench = Bench::new(Machine::Pcie);
    let ((disk, device, group), mm) = (bench.disk(), FakeMm::new(0x42));
    let bytes = bench.fake.live_bytes();
    let bond = disk.bind(&memory(&mm)).unwrap();
    // Another bind that is not confirmed, nor its undoing: nobody has a handle of that.
    let other = FakeMm::new(0x43);
    bench.fake.with(|state| {
        state.illegal = [Opcode::CFGI_CD].to_vec();
        state.atc_silent = true;
    });
    assert_eq!(
        disk.bind(&memory(&other)).unwrap_err(),
        BindError::Attach(AttachPasidError::Sync(SyncError::Failed { code: 1 }))
    );
    bench.fake.with(|state| state.illegal.clear());
    assert_eq!(disk.unbind(&bond), Err(UnbindError::Sync(SyncError::Failed { code: 3 })));
    assert_eq!(disk.settle(), Err(UnbindError::Sync(SyncError::Failed { code: 3 })));
    assert_eq!(disk.disable(), Err(DisableSvaError::PasidsInUse));

    disk.give_up().unwrap();
    assert_eq!(ste(&bench.fake, 8)[0], 1, "valid, and everything is aborted");
    assert!(Arc::ptr_eq(&device.domain().unwrap(), group.blocked_domain()));
    disk.unbind(&bond).unwrap();
    disk.disable().unwrap();
    assert_eq!((mm.pins.load(SeqCst), other.pins.load(SeqCst)), (0, 0));
    group.use_default_domain(&device, "nvme").unwrap();
    assert!(
        !Arc::ptr_eq(&device.domain().unwrap(), group.blocked_domain()),
        "its next driver finds it in order"
    );
    group.unuse_default_domain(&device).unwrap();
    assert!(bench.fake.live_bytes() < bytes, "the table of a device that shares is larger");
}

#[test]
fn part_18_the_silence_of_a_device_counts_until_hardware_confirms_that_it_is_blocked() {
    let bench = Bench::new(Machine::Pcie);
    let ((disk, device, group), mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = disk.bind(&memory(&mm)).unwrap();
    bench.fake.with(|state| {
        state.illegal = [Opcode::CFGI_STE].to_vec();
        state.atc_silent = true;
    });
    disk.give_up().unwrap();
    assert!(Arc::ptr_eq(&device.domain().unwrap(), group.blocked_domain()));
    assert_eq!(
        disk.unbind(&bond),
        Err(UnbindError::Sync(SyncError::Failed { code: 3 })),
        "the old entry may live"
    );
    bench.fake.with(|state| state.illegal.clear());
    disk.unbind(&bond).unwrap();
    disk.disable().unwrap();
}

#[test]
fn part_4_requests_reach_their_device_and_an_overflow_ends_what_was_begun() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = bind(&disk, &mm);
    let ssid = u64::from(bond.pasid().get());
    // The first of group 74, and then an overflow: hardware has answered the group.
    put_page_request(&bench.fake, [0b1001 << 60 | ssid << 32 | 9, 0x1000 | 74]);
    let prod = u32::try_from(bench.fake.get(portcullis_spec::smmuv3::registers::PRIQ_PROD)).unwrap();
    bench.fake.set(portcullis_spec::smmuv3::registers::PRIQ_PROD, prod | 1 << 31);
    assert_eq!(bench.unit.service().requests, 1);
    assert_eq!(bench.ask(bond.pasid()), [[9 << 32 | 0x41, 2 << 12 | 74]]);
    assert_eq!(mm.faults.load(SeqCst), 1, "the request from before the overflow is forgotten");
    assert_eq!(disk.0.requester().counts().success, 1);
    disk.0.unbind(&bond).unwrap();
}

#[test]
fn part_4_what_an_unbind_takes_from_hardware_of_others_is_answered() {
    let bench = Bench::new(Machine::Pcie);
    let (disk, net) = (bench.disk(), bench.device("net", &[SourceId(12)]));
    let (mm, other) = (FakeMm::new(0x42), FakeMm::new(0x43));
    let (bond, theirs) = (bind(&disk, &mm), bind(&net, &other));
    let ssid = u64::from(theirs.pasid().get());
    put_page_request(&bench.fake, [0b1111 << 60 | ssid << 32 | 12, 0x1000 | 74]);
    disk.0.unbind(&bond).unwrap();
    // The interrupt finds nothing any more, and has no worker come.
    assert_eq!(bench.unit.service().requests, 0);
    assert_eq!((other.faults.load(SeqCst), net.0.requester().counts().success), (1, 1));
    net.0.unbind(&theirs).unwrap();
}

#[test]
fn part_16_disabling_waits_for_bonds_and_then_the_device_is_as_before() {
    let bench = Bench::new(Machine::Platform);
    let (disk, mm) = (bench.disk(), FakeMm::new(0x42));
    let bond = bind(&disk, &mm);
    assert_eq!(disk.0.disable(), Err(DisableSvaError::PasidsInUse));
    disk.0.unbind(&bond).unwrap();
    disk.0.disable().unwrap();
    assert_eq!(disk.0.bind(&memory(&mm)).unwrap_err(), BindError::Attach(AttachPasidError::NotEnabled));
    let again = bench.unit.enable(&disk.1, &disk.2, &bench.facts, FakeSwitches::new(&bench.fake));
    assert!(again.is_ok());
    let mut poor = bench.facts;
    poor.pasid_bits = 0;
    let net = bench.device("net", &[SourceId(12)]);
    net.0.disable().unwrap();
    let refused = bench.unit.enable(&net.1, &net.2, &poor, FakeSwitches::new(&bench.fake)).unwrap_err();
    let missing = SvaRefusal::NoPasids(Side::Device);
    assert_eq!(refused, EnableError::Driver(EnableSvaError::Refused(missing)));
}

/// A device that does not share, alone in a group of the DMA API's.
fn group_of_a_disk(bench: &Bench) -> (Arc<Device<Fake>>, Group<Fake>) {
    let device = bench.iommu.add_device(DeviceInfo::new("disk", &Shared::SOURCES)).unwrap();
    let driver: Arc<dyn Iommu<Fake>> = bench.smmu.clone();
    let group = Group::new(bench.fake.clone(), driver, 1, DefaultDomain::Dma(FlushMode::Strict)).unwrap();
    group.add_device(&device).unwrap();
    (device, group)
}

#[test]
fn a_group_is_given_to_a_process_as_a_whole_and_taken_back_with_everything_it_held() {
    let bench = Bench::new(Machine::Pcie);
    let (device, group) = group_of_a_disk(&bench);
    let (before, mm) = (bench.fake.live_bytes(), FakeMm::new(0x42));

    let domain = bench.unit.domain(&memory(&mm)).unwrap();
    group.attach(&domain).unwrap();
    assert_eq!((domain.domain_type(), domain.aperture()), (DomainType::Process, None));
    assert_eq!(cd(&bench.fake, 8, 0).unwrap()[1], 0x1_2345_6000, "the process's own table");
    assert_eq!((mm.listener_count(), mm.pins.load(SeqCst)), (1, 1));
    let doorbell = portcullis_types::Pa::new(0x809_0040);
    assert_eq!(compose_msi(&device, &domain, doorbell, 0), Err(MsiError::Blocked));
    bench.fake.take_log();
    mm.change(IovaRange::new(Iova::new(0x5000), 0x1000).unwrap()).unwrap();
    assert_eq!(bench.fake.take_log().first().map(|c| c.opcode()), Some(Opcode::TLBI_NH_VA));

    group.detach().unwrap();
    drop(domain);
    assert_eq!((mm.listener_count(), mm.pins.load(SeqCst)), (0, 0));
    assert_eq!(bench.fake.live_bytes(), before);

    // One that exits while it has the group: the group is where it was, and reaches nothing.
    let domain = bench.unit.domain(&memory(&mm)).unwrap();
    group.attach(&domain).unwrap();
    mm.exit().unwrap();
    assert_eq!(cd(&bench.fake, 8, 0).unwrap()[0] >> 14 & 1, 1, "EPD0");
    assert_eq!(bench.unit.domain(&memory(&mm)).unwrap_err(), BindError::Exited);
    group.detach().unwrap();
    let late = group.attach(&domain);
    let exited = GroupError::Attach { device: "disk".into(), error: AttachError::Exited };
    assert_eq!(late, Err(exited));
    drop(domain);
    assert_eq!((bench.fake.live_bytes(), mm.pins.load(SeqCst)), (before, 0));
}

#[test]
fn a_process_tells_hardware_that_has_not_confirmed_where_a_group_is_and_that_nobody_else_tells() {
    let bench = Bench::new(Machine::Pcie);
    let (device, group) = group_of_a_disk(&bench);
    let (before, mm) = (bench.fake.live_bytes(), FakeMm::new(0x42));
    let silent = |on: bool| {
        let opcodes: &[_] = if on { &[Opcode::CFGI_STE] } else { &[] };
        bench.fake.with(|state| state.illegal = opcodes.to_vec());
    };
    let told_of_a_page = || {
        bench.fake.take_log();
        mm.change(IovaRange::new(Iova::new(0x5000), 0x1000).unwrap()).unwrap();
        // What hardware did not confirm of the entries is in the queue before that.
        bench.fake.take_log().iter().any(|c| c.opcode() == Opcode::TLBI_NH_VA)
    };
    let nobody_listens = || {
        assert_eq!((mm.listener_count(), mm.pins.load(SeqCst)), (0, 0));
        assert_eq!(bench.fake.live_bytes(), before);
    };

    // One that was to come.
    let domain = bench.unit.domain(&memory(&mm)).unwrap();
    silent(true);
    assert!(matches!(group.attach(&domain), Err(GroupError::Stranded { .. })));
    silent(false);
    drop(domain);
    assert!(told_of_a_page(), "hardware may have seen the entry");
    group.detach().unwrap();
    nobody_listens();

    // One that has left.
    let domain = bench.unit.domain(&memory(&mm)).unwrap();
    group.attach(&domain).unwrap();
    silent(true);
    group.remove_device(&device).unwrap();
    silent(false);
    group.detach().unwrap();
    drop(domain);
    assert!(told_of_a_page(), "hardware may have the entry still");
    bench.fake.take_log();
    mm.exit().unwrap();
    assert!(
        bench.fake.take_log().iter().any(|c| c.opcode() == Opcode::CFGI_CD),
        "nor does it reach a dead process"
    );
    group.add_device(&device).unwrap();
    nobody_listens();
}

#[test]
fn a_process_that_is_bound_by_pasid_and_given_a_group_has_one_domain_for_both() {
    let bench = Bench::new(Machine::Pcie);
    let device = bench.disk();
    let mm = FakeMm::new(0x42);
    let bond = bind(&device, &mm);
    let domain = bench.unit.domain(&memory(&mm)).unwrap();
    // Whoever keeps PASIDs listens, too.
    assert_eq!((mm.listener_count(), mm.pins.load(SeqCst)), (2, 1));
    device.0.unbind(&bond).unwrap();
    drop(bond);
    assert_eq!(
        (mm.listener_count(), mm.pins.load(SeqCst)),
        (2, 1),
        "the domain holds it, and it keeps its PASID"
    );
    drop(domain);
    assert_eq!((mm.listener_count(), mm.pins.load(SeqCst)), (1, 0));
}

#[test]
fn part_16_a_driver_takes_a_device_that_enable_or_disable_left_blocked_to_where_its_group_is() {
    for machine in [Machine::Pcie, Machine::Platform] {
        let bench = Bench::new(machine);
        let (shares, device, group) = bench.disk();
        let silent = |on: bool| {
            let opcodes: &[_] = if on { &[Opcode::CFGI_STE] } else { &[] };
            bench.fake.with(|state| state.illegal = opcodes.to_vec());
        };
        let is_blocked = || Arc::ptr_eq(&device.domain().unwrap(), group.blocked_domain());
        let taken_back = || {
            assert!(is_blocked());
            silent(false);
            group.use_default_domain(&device, "nvme").unwrap();
            assert!(!is_blocked() && ste(&bench.fake, 8)[0] != 1);
            group.unuse_default_domain(&device).unwrap();
        };
        silent(true);
        assert!(matches!(shares.disable(), Err(DisableSvaError::LeftBlocked(_))));
        taken_back();
        shares.disable().unwrap();
        silent(true);
        let enabled = bench.unit.enable(&device, &group, &bench.facts, FakeSwitches::new(&bench.fake));
        assert!(matches!(enabled, Err(EnableError::Driver(EnableSvaError::LeftBlocked(_)))));
        taken_back();
    }
}
