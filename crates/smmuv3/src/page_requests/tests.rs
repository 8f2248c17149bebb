//! Parts 23 to 25: page requests out of the queue, stop markers, overflow, and responses in every code. Part 22: answers to stalls.

use alloc::vec;
use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, GlobalError, Iommu, SyncError, Target};
use portcullis_core::sva::{AttachPasidError, CpuFacts};
use portcullis_hal::Clock;
use portcullis_spec::smmuv3::command::Opcode;
use portcullis_spec::smmuv3::registers::{CMDQ_PROD, CR0, GERROR, GERRORN, IDR3, IRQ_CTRL, Idr3};
use portcullis_types::SizeLg2;

use super::*;
use crate::smmu::Smmu;
use crate::testing::{Fake, FakeMm, Machine, Shared, put_event, put_page_request, ste};

/// A request of stream 9, PASID 5, for group 74: last (62) and SSV (63), read (60), write (61).
const SSV: u64 = 1 << 63;
const LAST: u64 = 1 << 62;
const WRITE: u64 = 1 << 61;
const READ: u64 = 1 << 60;

fn raw(flags: u64, group: u64) -> [u64; 2] {
    [flags | 5 << 32 | 9, 0xffff_860e_6000 | group]
}

fn drain(shared: &Shared) -> Vec<Drained> {
    let mut seen = Vec::new();
    shared.sva().drain_page_requests(&mut |drained| seen.push(drained));
    seen
}

fn request(last: bool, wanted: Perms, group: u16) -> Drained {
    Drained::Request(PageRequest {
        source: SourceId(9),
        pasid: Pasid::new(5),
        group: GroupTag::Prg(group),
        last,
        wanted,
        address: Iova::new(0xffff_860e_6000),
    })
}

fn sent(shared: &Shared) -> Vec<[u64; 2]> {
    shared.fake.work(16);
    shared.fake.take_log().iter().map(|command| command.0).collect()
}

#[test]
fn part_25_the_queue_is_on_where_processes_are_shared_and_only_there() {
    let shared = Shared::on(Machine::Pcie);
    // SMMUEN, PRIQEN, EVENTQEN, CMDQEN, ATSCHK; global errors, PRI queue, event queue.
    assert_eq!((shared.fake.get(CR0), shared.fake.get(IRQ_CTRL)), (0b1_1111, 0b111));
    let plain = Shared::plain(Machine::Pcie, |_, config| config.cpus = None);
    assert_eq!((plain.fake.get(CR0), plain.fake.get(IRQ_CTRL)), (0b1_1101, 0b101));
    assert!(plain.smmu.sva().is_none());
    shared.smmu.teardown().unwrap();
    assert_eq!((shared.fake.get(CR0), drain(&shared)), (0, Vec::new()));
}

#[test]
fn part_25_requests_come_out_in_order_once_and_leave_room_behind() {
    let shared = Shared::on(Machine::Pcie);
    for round in 0..3 {
        put_page_request(&shared.fake, raw(SSV | READ, 74));
        put_page_request(&shared.fake, raw(SSV | WRITE, 143));
        put_page_request(&shared.fake, raw(SSV | LAST | READ | WRITE, 74));
        let wanted = [
            request(false, Perms::READ, 74),
            request(false, Perms::WRITE, 143),
            request(true, Perms::READ_WRITE, 74),
        ];
        assert_eq!(drain(&shared), wanted, "round {round}");
        assert_eq!(shared.fake.get(PRIQ_CONS), shared.fake.get(PRIQ_PROD));
        assert_eq!(drain(&shared), []);
    }
    assert_eq!(shared.smmu.counts().page_requests, 9);
    // Execute is bit 59, privileged bit 58; no SubstreamID.
    put_page_request(&shared.fake, raw(1 << 59 | 1 << 58, 1));
    let Drained::Request(odd) = drain(&shared)[0] else { panic!("a request") };
    assert_eq!((odd.pasid, odd.wanted), (None, Perms::EXECUTE | Perms::PRIVILEGED));
}

#[test]
fn part_24_stop_markers_are_dropped_and_not_answered() {
    let shared = Shared::on(Machine::Pcie);
    put_page_request(&shared.fake, raw(SSV | LAST, 74));
    assert_eq!((drain(&shared), sent(&shared)), (vec![], vec![]));
    put_page_request(&shared.fake, raw(LAST, 74));
    assert_eq!(drain(&shared).len(), 1, "the same without a PASID is a request");
}

#[test]
fn part_24_who_is_kept_by_a_flood_of_stop_markers_is_not_told_that_nothing_is_there() {
    let shared = Shared::on(Machine::Pcie);
    let marker = raw(SSV | LAST, 74);
    put_page_request(&shared.fake, marker);
    shared.fake.with(|state| state.endless_request = Some(marker));
    let drain = || shared.sva().drain_page_requests(&mut |drained| panic!("{drained:?} is none"));
    // Hardware interrupts for a queue that was empty only: nobody else would come.
    assert_eq!(drain(), 1);
    shared.fake.with(|state| state.endless_request = None);
    put_page_request(&shared.fake, marker);
    assert_eq!(drain(), 0);
    assert_eq!(shared.fake.get(PRIQ_CONS), shared.fake.get(PRIQ_PROD));
}

#[test]
fn part_25_an_overflow_is_told_after_what_was_queued_and_acknowledged_in_one_write() {
    let shared = Shared::on(Machine::Pcie);
    put_page_request(&shared.fake, raw(SSV | READ, 74));
    let prod = u32::try_from(shared.fake.get(PRIQ_PROD)).unwrap();
    shared.fake.set(PRIQ_PROD, prod | 1 << 31);
    shared.fake.with(|state| state.writes.clear());
    assert_eq!(drain(&shared), [request(false, Perms::READ, 74), Drained::Overflowed]);
    let writes = shared.fake.with(|state| state.writes.clone());
    assert_eq!(writes, [(PRIQ_CONS, u64::from(prod | 1 << 31))]);
    assert_eq!((drain(&shared), shared.smmu.counts().page_request_overflows), (vec![], 1));
    shared.fake.set(PRIQ_PROD, prod);
    assert_eq!(drain(&shared), [Drained::Overflowed], "the next one, with nothing behind it");
}

#[test]
fn part_25_slots_are_free_before_a_device_can_be_answered() {
    let shared = Shared::on(Machine::Pcie);
    // More than are copied out at once; from a stream that was never enabled, so that each is answered as it comes.
    for group in 0..20 {
        put_page_request(&shared.fake, [LAST | READ | 7, 0x1000 | group]);
    }
    shared.fake.with(|state| state.writes.clear());
    assert_eq!(drain(&shared), []);
    let writes = shared.fake.with(|state| state.writes.clone());
    let freed = |position: usize| {
        writes[..position].iter().rev().find(|&&(at, _)| at == PRIQ_CONS).map_or(0, |&(_, value)| value)
    };
    let answers: Vec<_> = (0..writes.len()).filter(|&at| writes[at].0 == CMDQ_PROD).collect();
    assert_eq!(answers.len(), 20);
    for (nth, position) in (1..).zip(answers) {
        assert!(freed(position) >= nth, "answer {nth} with {} slots free", freed(position));
    }
    assert_eq!(shared.fake.get(PRIQ_CONS), shared.fake.get(PRIQ_PROD));
    let mut freed_when_seen = 0;
    put_page_request(&shared.fake, raw(SSV | READ, 74));
    shared.sva().drain_page_requests(&mut |_| freed_when_seen = shared.fake.get(PRIQ_CONS));
    assert_eq!(freed_when_seen, shared.fake.get(PRIQ_PROD), "whoever is told can answer at once");
}

#[test]
fn part_25_groups_that_were_begun_are_forgotten_when_the_queue_could_not_be_written() {
    let shared = Shared::on(Machine::Pcie);
    put_page_request(&shared.fake, raw(SSV | READ, 74));
    assert_eq!(drain(&shared), [request(false, Perms::READ, 74)]);
    // PRIQ_ABT_ERR is bit 3.
    shared.fake.set(GERROR, 1 << 3);
    assert_eq!(shared.smmu.handle_errors(), [GlobalError::QueueAbort("PRI queue")]);
    assert_eq!(shared.fake.get(GERRORN), 1 << 3);
    put_page_request(&shared.fake, raw(SSV | LAST | WRITE, 143));
    assert_eq!(drain(&shared), [Drained::Overflowed, request(true, Perms::WRITE, 143)]);
    assert_eq!((drain(&shared), shared.smmu.counts().page_request_overflows), (vec![], 0));
}

#[test]
fn part_25_a_group_that_was_begun_when_the_queue_can_be_written_again_is_none_of_those_that_are_forgotten() {
    let shared = Shared::on(Machine::Pcie);
    let (before, anew) = (raw(SSV | READ, 74), raw(SSV | WRITE, 74));
    // The second time it comes when there is something before it in the queue no more.
    for taken in [false, true] {
        put_page_request(&shared.fake, before);
        let first = if taken { drain(&shared) } else { vec![] };
        // PRIQ_ABT_ERR is bit 3, and a toggle.
        shared.fake.set(GERROR, u32::from(!taken) << 3);
        shared.fake.with(|state| state.acknowledged_request = Some(anew));
        assert_eq!(shared.smmu.handle_errors(), [GlobalError::QueueAbort("PRI queue")]);
        let told = [first, drain(&shared)].concat();
        let wanted = [request(false, Perms::READ, 74), Drained::Overflowed, request(false, Perms::WRITE, 74)];
        assert_eq!(told, wanted, "{taken}");
    }
}

#[test]
fn part_25_a_loss_is_told_though_the_index_made_no_sense_meanwhile() {
    let shared = Shared::on(Machine::Pcie);
    put_page_request(&shared.fake, raw(SSV | READ, 74));
    shared.fake.set(GERROR, 1 << 3);
    shared.smmu.handle_errors();
    // More than the queue of 32 holds.
    shared.fake.set(PRIQ_PROD, 33);
    assert_eq!(drain(&shared), []);
    shared.fake.set(PRIQ_PROD, 1);
    assert_eq!(drain(&shared), [request(false, Perms::READ, 74), Drained::Overflowed]);
}

#[test]
fn part_25_where_nothing_can_be_shared_hardware_answers_by_itself() {
    let incoherent = Shared::plain(Machine::Pcie, |idr0, _| idr0.set_cohacc(false));
    assert_eq!((incoherent.fake.get(CR0), incoherent.fake.get(IRQ_CTRL)), (0b1_1101, 0b101));
    let second = Shared::plain(Machine::Pcie, |_, config| config.stage = crate::Stage::Two);
    assert_eq!(second.fake.get(CR0), 0b1_1101);
    assert_eq!(drain(&second), []);
}

#[test]
fn part_25_what_hardware_answers_by_itself_carries_the_pasid_that_the_device_wants_back() {
    for (response_pasid, wanted) in [(false, 0), (true, 1)] {
        let mut shared = Shared::plain(Machine::Pcie, |_, _| {});
        shared.facts.response_pasid = response_pasid;
        shared.enable().unwrap();
        // PPAR is bit 82: 18 of word 1.
        assert_eq!(ste(&shared.fake, 8)[1] >> 18 & 1, wanted);
        assert_eq!(ste(&shared.fake, 9)[1] >> 18 & 1, wanted);
        shared.sva().disable(&Shared::SOURCES).unwrap();
        assert_eq!(ste(&shared.fake, 8)[1] >> 18 & 1, 0);
    }
    let mut stalling = Shared::plain(Machine::Platform, |_, _| {});
    stalling.facts.response_pasid = true;
    stalling.enable().unwrap();
    assert_eq!(ste(&stalling.fake, 8)[1] >> 18 & 1, 0, "reserved where there are no page requests");
}

#[test]
fn part_25_nonsense_in_the_index_yields_no_requests() {
    let shared = Shared::on(Machine::Pcie);
    shared.fake.set(PRIQ_PROD, 33);
    assert_eq!(drain(&shared), []);
}

#[test]
fn part_25_every_code_has_the_number_of_the_book() {
    for (code, number) in [(ResponseCode::Failure, 0), (ResponseCode::Invalid, 1), (ResponseCode::Success, 2)]
    {
        for response_pasid in [false, true] {
            let mut shared = Shared::plain(Machine::Pcie, |_, _| {});
            shared.facts.response_pasid = response_pasid;
            shared.enable().unwrap();
            shared.fake.take_log();
            let (source, group) = (SourceId(9), GroupTag::Prg(74));
            shared.sva().respond(&PageResponse { source, pasid: Pasid::new(5), group, code });
            // SSV bit 11, SubstreamID 31:12; PRGIndex 8:0, Resp 13:12.
            let ssid = if response_pasid { 0x5800 } else { 0 };
            assert_eq!(sent(&shared), [[9 << 32 | ssid | 0x41, number << 12 | 74]]);
            shared.sva().respond(&PageResponse { source, pasid: None, group, code });
            assert_eq!(sent(&shared)[0][0], 9 << 32 | 0x41, "what had no PASID gets none");
        }
    }
}

#[test]
fn part_25_who_was_never_enabled_gets_one_answer_for_each_last_request() {
    for pps in [false, true] {
        let fake = Shared::plain(Machine::Pcie, |_, _| {}).fake;
        let idr3 = Idr3::from_bits(u32::try_from(fake.get(IDR3)).unwrap()).with_pps(pps);
        fake.set(IDR3, idr3.into_bits());
        let mut config = Fake::config();
        config.cpus = Some(CpuFacts::new(SizeLg2::KIB_4));
        let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        fake.take_log();
        put_page_request(&fake, raw(SSV | READ, 74));
        put_page_request(&fake, raw(SSV | LAST | READ, 74));
        put_page_request(&fake, raw(SSV | LAST, 74));
        let taken = smmu.sva().unwrap().drain_page_requests(&mut |drained| panic!("{drained:?}"));
        fake.work(16);
        // As the SMMU itself would: with the PASID if IDR3.PPS says so.
        let ssid = if pps { 0x5800 } else { 0 };
        let sent: Vec<_> = fake.take_log().iter().map(|command| command.0).collect();
        assert_eq!((taken, sent), (2, vec![[9 << 32 | ssid | 0x41, 1 << 12 | 74]]));
    }
}

#[test]
fn part_23_requests_that_come_while_others_are_taken_are_not_left_for_an_interrupt_that_never_comes() {
    let shared = Shared::on(Machine::Pcie);
    put_page_request(&shared.fake, raw(SSV | LAST | READ, 74));
    let late = |group| shared.fake.with(|state| state.late_request = Some(raw(SSV | LAST | READ, group)));
    late(75);
    let mut groups = Vec::new();
    shared.sva().drain_page_requests(&mut |drained| {
        let Drained::Request(request) = drained else { panic!("{drained:?}") };
        groups.push(request.group.number());
        // Its device asks again, and again while that is looked for.
        if groups.len() < 5 {
            late(75 + groups.len() as u64);
        }
    });
    assert_eq!(groups, [74, 75, 76, 77, 78, 79]);
    let index = |register| shared.fake.get(register) & 0xf_ffff;
    assert_eq!(index(PRIQ_PROD), index(PRIQ_CONS));
}

#[test]
fn part_22_a_stall_becomes_a_request_and_is_answered_at_the_stream_that_stalled() {
    for machine in [Machine::Platform, Machine::Forced] {
        let shared = Shared::on(machine);
        // Ac is bit 12, Ab bit 13.
        for (nth, code, action) in [
            (0, ResponseCode::Success, 1 << 12),
            (1, ResponseCode::Invalid, 1 << 13),
            (2, ResponseCode::Failure, 1 << 13),
        ] {
            // F_TRANSLATION of stream 9 (the device's second), substream 5, a stalled write with tag 0x42.
            put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | 0x42, 0x1234, 0]);
            assert_eq!(shared.smmu.drain_events(&mut |record| panic!("{record:?} is no fault yet")), 1);
            let [Drained::Request(request)] = drain(&shared)[..] else { panic!("one request") };
            assert_eq!((request.source, request.group), (SourceId(9), GroupTag::Stall { tag: 0x42, nth }));
            assert_eq!((request.wanted, request.address), (Perms::WRITE, Iova::new(0x1234)));
            assert_eq!(sent(&shared), Vec::<[u64; 2]>::new(), "nothing is answered before it is handled");
            let PageRequest { source, pasid, group, .. } = request;
            shared.sva().respond(&PageResponse { source, pasid, group, code });
            assert_eq!(sent(&shared), [[9 << 32 | action | 0x44, 0x42]]);
            shared.sva().respond(&PageResponse { source, pasid, group, code });
            assert_eq!(sent(&shared), Vec::<[u64; 2]>::new(), "one answer, not two");
        }
    }
}

#[test]
fn part_22_stalls_of_others_are_aborted_at_once_and_told_as_faults() {
    let shared = Shared::on(Machine::Forced);
    for word0 in [0x0000_0009_0000_0010u64, 0x0000_0007_0000_5810] {
        put_event(&shared.fake, [word0, 1 << 31 | 0x42, 0x1234, 0]);
        let mut faults = 0;
        shared.smmu.drain_events(&mut |_| faults += 1);
        assert_eq!((faults, drain(&shared)), (1, vec![]));
        assert_eq!(sent(&shared), [[word0 >> 32 << 32 | 1 << 13 | 0x44, 0x42]]);
    }
}

#[test]
fn part_22_who_drains_finds_a_stall_behind_a_fault_that_another_is_busy_with() {
    let shared = Shared::on(Machine::Platform);
    // F_TRANSLATION of a stranger, not stalled; then a stall of the device's.
    put_event(&shared.fake, [0x0000_0007_0000_0010, 0, 0x1234, 0]);
    put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | 0x42, 0x1234, 0]);
    let (mut faults, mut found) = (0, Vec::new());
    shared.smmu.drain_events(&mut |_| {
        faults += 1;
        // What an unbind on another CPU does meanwhile: then nothing more may come for its PASID.
        shared.smmu.drain_events(&mut |record| panic!("{record:?} was taken"));
        found = drain(&shared);
    });
    assert_eq!((faults, found.len(), drain(&shared)), (1, 1, vec![]));
}

#[test]
fn part_22_more_stalls_than_hardware_can_have_are_aborted() {
    let shared = Shared::on(Machine::Platform);
    for tag in 0..5u64 {
        put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | tag, 0x1234, 0]);
    }
    shared.smmu.drain_events(&mut |_| {});
    assert_eq!(drain(&shared).len(), 4);
    assert_eq!(sent(&shared), [[9 << 32 | 1 << 13 | 0x44, 4]]);
}

#[test]
fn part_22_blocking_a_device_ends_its_stalls_after_its_entry_is_in_force() {
    let shared = Shared::on(Machine::Platform);
    shared.smmu.attach(&Shared::SOURCES, &portcullis_core::iommu::Target::Blocked).unwrap();
    let log = shared.fake.take_log();
    let entry = log.iter().rposition(|command| command.opcode() == Opcode::CFGI_STE).unwrap();
    let terms: Vec<_> = (0..log.len()).filter(|&at| log[at].opcode() == Opcode::STALL_TERM).collect();
    assert_eq!(log[entry + 1].opcode(), Opcode::SYNC);
    assert!(terms.len() == 2 && terms.iter().all(|&at| at > entry + 1), "{terms:?}");
    // Of stalls that were ended nobody hears any more, and no answer to them is sent: hardware may use their tags anew.
    let shared = Shared::on(Machine::Platform);
    let stall = |tag: u64| put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | tag, 0x1234, 0]);
    let drain_events = || shared.smmu.drain_events(&mut |record| panic!("{record:?} was ended"));
    stall(1);
    drain_events();
    let [Drained::Request(told)] = drain(&shared)[..] else { panic!("one request") };
    stall(2);
    drain_events();
    stall(3);
    put_event(&shared.fake, [0x0000_0008_0000_0010, 1 << 31 | 4, 0x1234, 0]);
    shared.smmu.attach(&Shared::SOURCES, &portcullis_core::iommu::Target::Blocked).unwrap();
    shared.fake.take_log();
    drain_events();
    assert_eq!(drain(&shared), []);
    let PageRequest { source, pasid, group, .. } = told;
    shared.sva().respond(&PageResponse { source, pasid, group, code: ResponseCode::Success });
    assert_eq!(sent(&shared), Vec::<[u64; 2]>::new());
    stall(1);
    drain_events();
    assert_eq!(drain(&shared).len(), 1, "what comes later is another stall");
    let pcie = Shared::on(Machine::Pcie);
    pcie.smmu.attach(&Shared::SOURCES, &portcullis_core::iommu::Target::Blocked).unwrap();
    let illegal = pcie.fake.take_log().iter().any(|command| command.opcode() == Opcode::STALL_TERM);
    assert!(!illegal, "where nothing stalls the command is illegal");
}

#[test]
fn part_22_stalls_end_only_when_no_answer_is_on_its_way() {
    let shared = Shared::on(Machine::Platform);
    put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | 0x42, 0x1234, 0]);
    shared.smmu.drain_events(&mut |record| panic!("{record:?} is no fault yet"));
    let on_its_way = shared.smmu.hardware.stalls.answer(9, 0x42, 0).expect("it is due");
    let block = || shared.smmu.attach(&Shared::SOURCES, &portcullis_core::iommu::Target::Blocked);
    let late = SyncError::Timeout { waiting_for: "answers to stalls", last: 1 };
    assert_eq!(block(), Err(portcullis_core::iommu::AttachError::LeftBlocked(late)));
    let ended = || shared.fake.take_log().iter().any(|command| command.opcode() == Opcode::STALL_TERM);
    assert!(!ended());
    drop(on_its_way);
    block().unwrap();
    assert!(ended());
}

fn attach(shared: &Shared, target: Target<Fake>) -> Result<(), AttachError> {
    shared.smmu.attach(&Shared::SOURCES, &target)
}

/// What has an SMMU asked again of what it did not confirm.
const AGAIN: [fn(&Shared); 4] = [
    |shared| drop(shared.smmu.handle_errors()),
    |shared| attach(shared, Target::Blocked).unwrap(),
    |shared| attach(shared, Target::Domain(shared.base.clone())).unwrap(),
    |shared| shared.smmu.remove_device(&Shared::SOURCES).unwrap(),
];

#[test]
fn part_22_stalls_whose_end_was_not_confirmed_are_ended_before_anything_else_is_made_of_their_device() {
    for (disabled, again) in [false, true].into_iter().flat_map(|is| AGAIN.map(|again| (is, again))) {
        let shared = Shared::on(Machine::Platform);
        answer(&shared, Machine::Platform, 70);
        shared.fake.with(|state| state.illegal.push(Opcode::STALL_TERM));
        let refused = Err(AttachError::LeftBlocked(SyncError::Failed { code: 1 }));
        assert_eq!(attach(&shared, Target::Blocked), refused);
        if disabled {
            shared.sva().disable(&Shared::SOURCES).unwrap();
        }
        shared.smmu.handle_errors();
        assert_eq!(attach(&shared, Target::Blocked), refused, "nobody else answers them");
        assert_eq!(attach(&shared, Target::Domain(shared.base.clone())), refused);
        assert_eq!(shared.smmu.remove_device(&Shared::SOURCES), Err(SyncError::Failed { code: 1 }));
        assert_eq!(ste(&shared.fake, 8)[0], 1, "blocked all the while");
        shared.fake.work(64);
        shared.fake.with(|state| state.illegal.clear());
        shared.fake.take_log();
        again(&shared);
        let log = shared.fake.take_log();
        let entry = log.iter().position(|command| command.opcode() == Opcode::CFGI_STE);
        let ended = |stream| log.iter().position(|command| *command == Command::stall_term(stream));
        assert!([8, 9].into_iter().all(|stream| ended(stream).is_some()), "{log:?}");
        assert!(entry.is_none_or(|entry| [8, 9].into_iter().all(|stream| ended(stream) < Some(entry))));
        shared.smmu.handle_errors();
        assert_eq!(shared.fake.take_log(), [], "once");
    }
}

#[test]
fn part_22_stalls_of_a_device_whose_block_was_not_confirmed_are_ended_once_it_is() {
    for again in AGAIN {
        let shared = Shared::on(Machine::Platform);
        answer(&shared, Machine::Platform, 70);
        shared.fake.with(|state| state.illegal.push(Opcode::CFGI_STE));
        let refused = Err(AttachError::LeftBlocked(SyncError::Failed { code: 1 }));
        assert_eq!(attach(&shared, Target::Blocked), refused);
        shared.smmu.handle_errors();
        shared.fake.work(64);
        let told = shared.fake.take_log();
        let too_early = told.iter().any(|command| command.opcode() == Opcode::STALL_TERM);
        assert!(!too_early, "hardware may use an entry that lets it stall: {told:?}");
        shared.fake.with(|state| state.illegal.clear());
        again(&shared);
        let log = shared.fake.take_log();
        let [first, second] = [8, 9].map(|stream| Command::cfgi_ste(stream, false));
        assert_eq!(log[..3], [first, second, Command::sync()], "its old entry is forgotten");
        let ends: Vec<_> = (0..log.len()).filter(|&at| log[at].opcode() == Opcode::STALL_TERM).collect();
        assert_eq!(ends.iter().map(|&at| log[at]).collect::<Vec<_>>(), [8, 9].map(Command::stall_term));
        let led = log.iter().rposition(|command| command.opcode() == Opcode::CFGI_STE);
        let is_led = ste(&shared.fake, 8)[0] != 1;
        assert!(!is_led || led > Some(ends[1]), "before its entry leads elsewhere: {log:?}");
        shared.smmu.handle_errors();
        assert_eq!(shared.fake.take_log(), [], "once");
    }
}

#[test]
fn part_22_where_all_stall_and_records_were_lost_blocking_a_device_ends_its_stalls() {
    let shared = Shared::plain(Machine::Forced, |_, _| {});
    let attach = |target| attach(&shared, target).unwrap();
    let ended = || {
        let log = shared.fake.take_log();
        log.into_iter().filter(|command| command.opcode() == Opcode::STALL_TERM).collect::<Vec<_>>()
    };
    attach(Target::Blocked);
    assert_eq!(ended(), [], "each is ended as its record comes");
    attach(Target::Domain(shared.base.clone()));
    // EVENTQ_ABT_ERR is bit 2.
    shared.fake.set(GERROR, 1 << 2);
    assert_eq!(shared.smmu.handle_errors(), [GlobalError::QueueAbort("event queue")]);
    attach(Target::Blocked);
    assert_eq!(ended(), [8, 9].map(Command::stall_term));
}

/// Has stream 9 ask for a page, and answers what it is to be told.
fn answer(shared: &Shared, machine: Machine, group: u16) -> PageResponse {
    if machine == Machine::Pcie {
        put_page_request(&shared.fake, raw(SSV | LAST | READ, group.into()));
    } else {
        put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | u64::from(group), 0x1234, 0]);
        shared.smmu.drain_events(&mut |record| panic!("{record:?} is no fault yet"));
    }
    let [Drained::Request(asked)] = drain(shared)[..] else { panic!("one request") };
    let PageRequest { source, pasid, group, .. } = asked;
    PageResponse { source, pasid, group, code: ResponseCode::Success }
}

#[test]
fn part_25_hardware_that_stands_still_keeps_who_answers_for_as_long_as_one_answer_takes() {
    let shared = Shared::with(Machine::Pcie, |_, config| config.command_queue_lg2 = 2);
    let limit_ns = shared.smmu.hardware.config.wait_limit_ns;
    let answers: Vec<_> = (70..80).map(|group| answer(&shared, Machine::Pcie, group)).collect();
    shared.fake.with(|state| state.asleep = true);
    let before = shared.fake.now_ns();
    answers.iter().for_each(|answer| shared.sva().respond(answer));
    let waited = shared.fake.now_ns() - before;
    assert!((limit_ns..2 * limit_ns).contains(&waited), "{waited} of {limit_ns}, for six that found no room");
}

#[test]
fn part_25_requests_stay_with_hardware_while_more_answers_wait_than_may() {
    let shared = Shared::with(Machine::Pcie, |_, config| config.command_queue_lg2 = 2);
    let first = answer(&shared, Machine::Pcie, 74);
    shared.fake.with(|state| state.asleep = true);
    (0..0x8010).for_each(|_| shared.sva().respond(&first));
    put_page_request(&shared.fake, raw(SSV | LAST | READ, 75));
    assert_eq!(drain(&shared), [Drained::Left]);
    shared.fake.with(|state| state.asleep = false);
    for _ in 0..32 {
        shared.smmu.handle_errors();
        let _took = sent(&shared);
    }
    assert_eq!(drain(&shared).len(), 1);
}

#[test]
fn part_25_an_answer_for_which_there_will_never_be_room_is_said_to_be_lost() {
    let shared = Shared::on(Machine::Pcie);
    let answer = answer(&shared, Machine::Pcie, 74);
    shared.smmu.hardware.commands.kill();
    let lost = || {
        let names = shared.fake.events.lock().unwrap();
        names.iter().filter(|&&name| name == "response_lost").count()
    };
    assert_eq!(lost(), 0);
    shared.sva().respond(&answer);
    assert_eq!((lost(), shared.smmu.hardware.unsent.is_empty()), (1, true));
}

#[test]
fn part_25_an_answer_that_finds_no_room_is_sent_when_there_is_some() {
    for machine in [Machine::Pcie, Machine::Platform] {
        for by_errors in [false, true] {
            let shared = Shared::with(machine, |_, config| config.command_queue_lg2 = 2);
            let answers: Vec<_> = (70..76).map(|group| answer(&shared, machine, group)).collect();
            shared.fake.with(|state| state.asleep = true);
            answers.iter().for_each(|answer| shared.sva().respond(answer));
            shared.fake.with(|state| state.asleep = false);
            assert_eq!(sent(&shared).len(), 4, "what the queue holds");
            // Whoever answers twice answers once, also while the answer waits.
            if machine == Machine::Platform {
                shared.sva().respond(&answers[0]);
            }
            if by_errors {
                assert!(shared.smmu.handle_errors().is_empty());
            } else {
                assert_eq!(drain(&shared), []);
            }
            let groups: Vec<u64> = sent(&shared).iter().map(|words| words[1] & 0x1ff).collect();
            assert_eq!(groups, [74, 75], "{machine:?}");
            assert_eq!(drain(&shared), []);
            assert!(sent(&shared).is_empty());
        }
    }
}

#[test]
fn part_22_a_pasid_means_nothing_new_while_an_answer_to_a_stall_of_it_finds_no_room() {
    let shared = Shared::with(Machine::Platform, |_, config| config.command_queue_lg2 = 2);
    let (_mm, _process) = shared.bound(0x42, 5);
    let answers: Vec<_> = (70..76).map(|group| answer(&shared, Machine::Platform, group)).collect();
    shared.detach(5).unwrap();
    shared.fake.with(|state| state.asleep = true);
    answers.iter().for_each(|answer| shared.sva().respond(answer));
    let next = shared.process(&FakeMm::new(0x43));
    let attach = |number| shared.sva().attach_pasid(&Shared::SOURCES, Pasid::new(number).unwrap(), &next);
    let stalls = SyncError::Timeout { waiting_for: "answers to stalls of a PASID", last: 5 };
    assert_eq!(attach(5), Err(AttachPasidError::Sync(stalls)), "its transaction would look there");
    shared.fake.with(|state| state.asleep = false);
    let _took = sent(&shared);
    attach(5).unwrap();
    let log = shared.fake.take_log();
    let last_answer = log.iter().rposition(|command| command.opcode() == Opcode::RESUME).unwrap();
    let first_of_it = log.iter().position(|command| command.opcode() == Opcode::CFGI_CD).unwrap();
    assert!(last_answer < first_of_it, "{log:?}");
}

#[test]
fn part_25_the_end_of_a_stall_that_nobody_wants_is_sent_when_there_is_room_for_it() {
    for by_errors in [false, true] {
        let shared = Shared::plain(Machine::Forced, |_, config| config.command_queue_lg2 = 2);
        shared.fake.with(|state| state.asleep = true);
        let (before, limit_ns) = (shared.fake.now_ns(), shared.smmu.hardware.config.wait_limit_ns);
        for tag in 70..76 {
            put_event(&shared.fake, [0x0000_0009_0000_0010, 1 << 31 | tag, 0x1234, 0]);
        }
        let mut faults = 0;
        assert_eq!(shared.smmu.drain_events(&mut |_| faults += 1), 6);
        assert_eq!(faults, 6, "they are told of all the same");
        assert!(shared.fake.now_ns() - before < 2 * limit_ns, "nobody waits for room twice");
        shared.fake.with(|state| state.asleep = false);
        assert_eq!(sent(&shared).len(), 4, "what the queue holds");
        if by_errors {
            assert!(shared.smmu.handle_errors().is_empty());
        } else {
            assert_eq!(shared.smmu.drain_events(&mut |record| panic!("{record:?} was told")), 0);
        }
        let ends = [74, 75].map(|tag| [9 << 32 | 1 << 13 | 0x44, tag]);
        assert_eq!(sent(&shared), ends);
        assert!(shared.smmu.hardware.unsent.is_empty());
    }
}

#[test]
fn part_25_an_answer_that_hardware_refuses_is_sent_again() {
    for machine in [Machine::Pcie, Machine::Platform] {
        let shared = Shared::on(machine);
        let ask = || {
            if machine == Machine::Pcie {
                put_page_request(&shared.fake, raw(SSV | LAST | READ, 74));
            } else {
                put_event(&shared.fake, [0x0000_0009_0000_5810, 1 << 31 | 0x42, 0x1234, 0]);
                shared.smmu.drain_events(&mut |record| panic!("{record:?} is no fault yet"));
            }
            let [Drained::Request(asked)] = drain(&shared)[..] else { panic!("one request") };
            let PageRequest { source, pasid, group, .. } = asked;
            shared.sva().respond(&PageResponse { source, pasid, group, code: ResponseCode::Success });
        };
        let repaired = || {
            // Each refusal stops the queue until somebody has repaired it.
            let mut errors = 0;
            for _ in 0..8 {
                shared.fake.work(16);
                errors += shared.smmu.handle_errors().len();
            }
            (sent(&shared), errors)
        };
        ask();
        let answer = sent(&shared);
        shared.fake.with(|state| state.illegal_once = Some(Command(answer[0])));
        ask();
        assert_eq!(repaired(), (answer.clone(), 1), "once");
        // What hardware never takes holds nobody up for ever.
        let opcode = Command(answer[0]).opcode();
        shared.fake.with(|state| state.illegal.push(opcode));
        ask();
        let (log, errors) = repaired();
        assert!(log.iter().all(|&words| Command(words).opcode() == Opcode::SYNC), "{log:x?}");
        assert_eq!(errors, 4, "it was tried four times");
        shared.fake.with(|state| state.illegal.clear());
        ask();
        assert_eq!(repaired(), (answer, 0));
    }
}
