//! Page requests, the PRI queue, what the SMMU answers by itself, CMD_PRI_RESP.

use core::sync::atomic::Ordering;

use model_bus::{PageRequest, PageResponse, Translator};
use model_smmuv3::{Config, Lines, clause};
use portcullis_types::{Iova, Pasid, SourceId};

use crate::endpoint::{Endpoint, Manner, PAGES, enable, last, plug, with_ats};
use crate::harness::{DOORBELL, Machine, STE_ABORT, STE_S1};
use std::sync::Arc;

/// SMMUEN, PRIQEN, EVENTQEN, CMDQEN.
const ON: u32 = 0b1111;

/// Stream 1 with a device; the PRI queue on.
fn machine(config: Config) -> (Machine, Arc<Endpoint>) {
    let machine = Machine::stage1(config);
    let endpoint = plug(&machine, 1, Manner::Prompt);
    enable(&machine, ON);
    (machine, endpoint)
}

fn request(machine: &Machine, request: &PageRequest) {
    machine.smmu.request_page(request);
}

fn prod(machine: &Machine) -> u32 {
    machine.r32(0x1_00c8)
}

/// Takes all records out of the queue.
fn records(machine: &Machine) -> Vec<[u64; 2]> {
    let (mut cons, prod) = (machine.r32(0x1_00cc), prod(machine));
    let mut found = Vec::new();
    while (cons ^ prod) & 0xf != 0 {
        let at = PAGES + u64::from(cons & 7) * 16;
        found.push([machine.word(at), machine.word(at + 8)]);
        cons = (cons + 1) & 0xf;
    }
    machine.w32(0x1_00cc, cons | prod & 1 << 31);
    found
}

fn response(pasid: Option<u32>, group: u16, code: u8) -> PageResponse {
    PageResponse { source: SourceId(1), pasid: pasid.and_then(Pasid::new), group, code }
}

fn stop_marker() -> PageRequest {
    PageRequest { read: false, ..last(0, Some(5)) }
}

/// Not the last of its group.
fn part(group: u16) -> PageRequest {
    PageRequest { last: false, ..last(group, None) }
}

/// Fills the queue, and overflows it by a request that nobody answers.
fn overflow(machine: &Machine) {
    (0..9).for_each(|_| request(machine, &part(1)));
    assert_eq!(prod(machine), 0x8000_0008);
}

#[test]
fn a_request_lies_in_the_queue_as_the_book_has_it() {
    let (machine, endpoint) = machine(with_ats());
    let all = PageRequest {
        source: SourceId(0x12_3456),
        pasid: Pasid::new(0xab),
        privileged: true,
        execute: true,
        iova: Iova::new(0xffff_8000_1234_5000),
        group: 0x1ff,
        last: true,
        read: true,
        write: true,
    };
    request(&machine, &all);
    request(&machine, &PageRequest { pasid: None, write: false, ..all });
    request(&machine, &PageRequest { last: false, read: false, execute: false, ..all });
    request(&machine, &PageRequest { privileged: false, group: 1, ..all });
    request(&machine, &PageRequest { pasid: Pasid::new(0x1_23cd), ..all });
    let expected = [
        [0xfc00_00ab_0012_3456, 0xffff_8000_1234_51ff],
        // "When SSV == 0, the X and Priv bits are both 0."
        [0x5000_0000_0012_3456, 0xffff_8000_1234_51ff],
        [0xa400_00ab_0012_3456, 0xffff_8000_1234_51ff],
        [0xf800_00ab_0012_3456, 0xffff_8000_1234_5001],
        // "Truncated to the SubstreamID size."
        [0xfc00_00cd_0012_3456, 0xffff_8000_1234_51ff],
    ];
    assert_eq!(records(&machine), expected);
    assert!(endpoint.responses().is_empty());
    assert_eq!(machine.smmu.counters().page_requests, 5);
    machine.assert_clean();
}

#[test]
fn a_part_without_substreams_records_none() {
    let (machine, _) = machine(Config { substream_id_bits: 0, ..with_ats() });
    request(&machine, &PageRequest { execute: true, privileged: true, ..last(3, Some(5)) });
    assert_eq!(records(&machine), [[0x5000_0000_0000_0001, 0x7003]]);
}

#[test]
fn the_queue_wraps() {
    let (machine, _) = machine(with_ats());
    for round in 0..10u16 {
        (0..5).for_each(|n| request(&machine, &last(round * 5 + n, None)));
        let groups: Vec<u64> = records(&machine).iter().map(|record| record[1] & 0x1ff).collect();
        let first = u64::from(round) * 5;
        assert_eq!(groups, (first..first + 5).collect::<Vec<_>>());
    }
    machine.assert_clean();
}

#[test]
fn atschk_and_eats_do_not_matter() {
    let (machine, endpoint) = machine(with_ats());
    machine.ste(1, &STE_ABORT);
    enable(&machine, ON | 1 << 4);
    request(&machine, &last(1, None));
    assert_eq!(records(&machine).len(), 1);
    assert!(endpoint.responses().is_empty());
}

#[test]
fn an_overflow_inhibits_the_queue_until_it_is_acknowledged() {
    let (machine, endpoint) = machine(with_ats());
    (0..8).for_each(|_| request(&machine, &last(1, None)));
    assert_eq!(prod(&machine), 8, "full, not overflown");
    request(&machine, &last(2, None));
    request(&machine, &last(3, None));
    assert_eq!(prod(&machine), 0x8000_0008, "OVFLG toggled once");
    assert_eq!(endpoint.responses(), [response(None, 2, 0), response(None, 3, 0)]);
    // Places free, but nothing gets in.
    machine.w32(0x1_00cc, 4);
    request(&machine, &last(4, None));
    assert_eq!(prod(&machine), 0x8000_0008);
    assert_eq!(endpoint.responses(), [response(None, 4, 0)]);
    machine.w32(0x1_00cc, 0x8000_0008);
    request(&machine, &last(5, None));
    assert_eq!(prod(&machine), 0x8000_0009);
    assert!(endpoint.responses().is_empty());
    let counters = machine.smmu.counters();
    assert_eq!((counters.page_requests_lost, counters.auto_responses), (3, 3));
    machine.assert_clean();
}

#[test]
fn what_is_not_the_last_of_its_group_is_lost_in_silence_and_so_is_a_stop_marker() {
    let (machine, endpoint) = machine(with_ats());
    overflow(&machine);
    request(&machine, &part(2));
    request(&machine, &stop_marker());
    assert!(endpoint.responses().is_empty());
    // Without a PASID the same bits are a request.
    request(&machine, &PageRequest { pasid: None, ..stop_marker() });
    assert_eq!(endpoint.responses(), [response(None, 0, 0)]);
}

#[test]
fn a_stop_marker_is_queued_like_a_request() {
    let (machine, _) = machine(with_ats());
    request(&machine, &stop_marker());
    assert_eq!(records(&machine), [[0xc000_0005_0000_0001, 0x7000]]);
}

#[test]
fn the_answer_to_an_overflow_has_the_pasid_if_the_entry_says_so() {
    let (machine, endpoint) = machine(with_ats());
    overflow(&machine);
    request(&machine, &last(2, Some(5)));
    assert_eq!(endpoint.responses(), [response(None, 2, 0)], "PPAR=0");
    // PPAR, bit 82; of a stream that aborts, too.
    machine.ste(1, &[STE_ABORT[0], 1 << 18, 0, 0, 0, 0, 0, 0]);
    machine.flush_ste(1);
    request(&machine, &last(3, Some(5)));
    assert_eq!(endpoint.responses(), [response(Some(5), 3, 0)]);
    request(&machine, &last(4, None));
    assert_eq!(endpoint.responses(), [response(None, 4, 0)]);
}

#[test]
fn ppar_is_live_in_every_entry() {
    let (machine, _endpoint) = machine(with_ats());
    machine.ste(2, &STE_ABORT);
    assert_eq!(machine.read(2, 0), crate::harness::Got::Abort);
    // PPAR and Config at once, in two words.
    machine.ste(2, &[0x9, 1 << 18, 0, 0, 0, 0, 0, 0]);
    machine.flush_ste(2);
    assert_eq!(machine.clauses(), [clause::STE_UPDATE]);
}

#[test]
fn the_answer_to_an_overflow_is_failure_if_the_entry_cannot_be_asked() {
    let (machine, endpoint) = machine(with_ats());
    overflow(&machine);
    machine.ste(1, &[0, 1 << 18, 0, 0, 0, 0, 0, 0]);
    request(&machine, &last(2, Some(5)));
    assert_eq!(endpoint.responses(), [response(None, 2, 15)]);
    request(&machine, &last(3, None));
    assert_eq!(endpoint.responses(), [response(None, 3, 0)], "without a PASID nobody asks");
    assert!(machine.events().is_empty(), "and nothing is recorded");
}

#[test]
fn a_part_may_answer_with_the_pasid_always() {
    let (machine, endpoint) = machine(Config { pasid_on_auto_response: true, ..with_ats() });
    overflow(&machine);
    machine.ste(1, &[0; 8]);
    request(&machine, &last(2, Some(5)));
    assert_eq!(endpoint.responses(), [response(Some(5), 2, 0)], "PPAR is not looked at");
}

#[test]
fn a_part_without_substreams_answers_without_a_pasid() {
    let (machine, endpoint) = machine(Config { substream_id_bits: 0, ..with_ats() });
    overflow(&machine);
    machine.ste(1, &[0; 8]);
    request(&machine, &last(2, Some(5)));
    assert_eq!(endpoint.responses(), [response(None, 2, 0)]);
}

#[test]
fn while_the_queue_is_off_every_request_fails() {
    let all_fail = |machine: &Machine, endpoint: &Endpoint| {
        request(machine, &last(2, Some(5)));
        request(machine, &part(3));
        request(machine, &stop_marker());
        assert_eq!(endpoint.responses(), [response(None, 2, 15), response(None, 3, 15)]);
        assert_eq!(prod(machine), 0);
    };
    let (machine, endpoint) = machine(Config { pasid_on_auto_response: true, ..with_ats() });
    for cr0 in [0b1101, 0b1110] {
        machine.w32(0x20, cr0);
        machine.settle();
        all_fail(&machine, &endpoint);
    }
    assert_eq!(machine.r32(0x24), 0b1110, "PRIQEN is acknowledged as it is");
    machine.w32(0x20, ON);
    machine.settle();
    machine.hole(PAGES..=PAGES + 15);
    all_fail(&machine, &endpoint);
    assert_eq!(machine.r32(0x60), 1 << 3, "PRIQ_ABT_ERR");
    machine.fill_holes();
    all_fail(&machine, &endpoint);
    machine.w32(0x64, 1 << 3);
    request(&machine, &last(2, None));
    assert_eq!(records(&machine).len(), 1);
    machine.assert_clean();
}

#[test]
fn a_part_without_pri_fails_every_request() {
    let machine = Machine::stage1(Config { pri: false, ..with_ats() });
    let endpoint = plug(&machine, 1, Manner::Prompt);
    machine.w32(0x20, ON);
    machine.settle();
    assert_eq!(machine.r32(0x24), 0b1101, "PRIQEN is not there");
    request(&machine, &last(2, Some(5)));
    assert_eq!(endpoint.responses(), [response(None, 2, 15)]);
    for offset in [0xc0, 0xd8, 0xdc, 0x1_00c8, 0x1_00cc] {
        machine.w32(offset, 0xffff_ffff);
        assert_eq!(machine.r32(offset), 0, "{offset:#x}");
    }
    machine.w32(0x50, 0b111);
    machine.settle();
    assert_eq!(machine.r32(0x54), 0b101, "nor is PRIQ_IRQEN");
}

/// The machine with PRI queue messages; `attributes` into PRIQ_IRQ_CFG2.
fn with_messages(attributes: u32) -> (Machine, Arc<Endpoint>) {
    let (machine, endpoint) = machine(with_ats());
    machine.w64(0xd0, DOORBELL + 0x20);
    machine.w32(0xd8, 0x99);
    machine.w32(0xdc, attributes);
    machine.w64(0x68, DOORBELL);
    machine.w32(0x70, 0x77);
    machine.w32(0x50, 0b011);
    machine.settle();
    assert_eq!(machine.r32(0x54), 0b011);
    (machine, endpoint)
}

fn messages(machine: &Machine) -> Vec<(u64, u32)> {
    core::mem::take(&mut machine.ram.messages.lock().unwrap())
}

const TOLD: (u64, u32) = (DOORBELL + 0x20, 0x99);

#[test]
fn a_message_tells_when_the_queue_is_no_longer_empty() {
    let (machine, _) = with_messages(0x3f);
    request(&machine, &part(1));
    request(&machine, &last(1, None));
    assert_eq!(messages(&machine), [TOLD]);
    assert_eq!(machine.smmu.take_lines(), Lines { page_request: true, ..Lines::default() });
    records(&machine);
    request(&machine, &part(1));
    assert_eq!(messages(&machine), [TOLD]);
    machine.w32(0x50, 0);
    machine.settle();
    records(&machine);
    machine.smmu.take_lines();
    request(&machine, &part(1));
    assert!(messages(&machine).is_empty(), "not while disabled");
    assert_eq!(machine.smmu.take_lines(), Lines::default());
    machine.assert_clean();
}

#[test]
fn a_message_may_tell_of_the_last_of_each_group_only() {
    let (machine, _) = with_messages(0x8000_0000);
    request(&machine, &part(1));
    assert!(messages(&machine).is_empty());
    request(&machine, &last(1, None));
    request(&machine, &last(2, None));
    assert_eq!(messages(&machine), [TOLD, TOLD], "one each");
    (0..6).for_each(|_| request(&machine, &part(3)));
    assert!(messages(&machine).is_empty());
    assert_eq!(prod(&machine), 0x8000_0008);
    request(&machine, &last(3, None));
    assert_eq!(messages(&machine), [TOLD], "also if it is lost to an overflow");
    machine.w32(0x20, 0b1101);
    machine.settle();
    request(&machine, &last(3, None));
    assert!(messages(&machine).is_empty(), "but not if it is lost for another reason");
}

#[test]
fn an_overflow_says_nothing_where_the_first_request_does() {
    let (machine, _) = with_messages(0);
    overflow(&machine);
    assert_eq!(messages(&machine), [TOLD]);
    request(&machine, &last(3, None));
    assert!(messages(&machine).is_empty());
}

#[test]
fn a_message_that_cannot_be_written_is_a_global_error() {
    let (machine, _) = with_messages(0);
    machine.hole(DOORBELL + 0x20..=DOORBELL + 0x23);
    request(&machine, &last(1, None));
    assert_eq!(machine.r32(0x60), 1 << 6, "MSI_PRIQ_ABT_ERR");
    assert_eq!(messages(&machine), [(DOORBELL, 0x77)]);
}

#[test]
fn without_messages_the_line_still_follows_last_only() {
    let (machine, _) = machine(Config { msi: false, ..with_ats() });
    machine.w32(0xdc, 0xffff_ffff);
    machine.w32(0xd8, 0x99);
    assert_eq!((machine.r32(0xd8), machine.r32(0xdc)), (0, 0x8000_0000));
    machine.w32(0x50, 0b010);
    machine.settle();
    request(&machine, &part(1));
    assert!(!machine.smmu.take_lines().page_request);
    request(&machine, &last(1, None));
    assert!(machine.smmu.take_lines().page_request);
}

#[test]
fn only_the_pri_queue_may_be_told_of_the_last() {
    let machine = Machine::bare(with_ats());
    for offset in [0x74, 0xbc, 0xdc] {
        machine.w32(offset, 0xffff_ffff);
    }
    assert_eq!([machine.r32(0x74), machine.r32(0xbc), machine.r32(0xdc)], [0x3f, 0x3f, 0x8000_003f]);
}

#[test]
fn registers_are_guarded_while_the_queue_is_on() {
    let (machine, _) = with_messages(0);
    let before = [machine.r64(0xc0), prod(&machine).into(), machine.r64(0xd0), machine.r32(0xd8).into()];
    machine.w32(0x20, 0b1110);
    machine.settle();
    for (offset, value) in [(0xc0, 0), (0x1_00c8, 5), (0xd0, 0x1000), (0xd8, 1), (0xdc, 0)] {
        machine.w32(offset, value);
        assert_eq!(machine.clauses(), [clause::WRITE_WHILE_ENABLED], "{offset:#x}");
    }
    let after = [machine.r64(0xc0), prod(&machine).into(), machine.r64(0xd0), machine.r32(0xd8).into()];
    assert_eq!(before, after);
    // CR1.QUEUE_* by PRIQEN alone.
    machine.w32(0x20, 0b0010);
    machine.settle();
    machine.w32(0x28, 0x3f);
    assert_eq!(machine.clauses(), [clause::WRITE_WHILE_ENABLED]);
    machine.w32(0x20, 0);
    machine.w32(0x50, 0);
    machine.settle();
    machine.w64(0xc0, 0x4000_0000_1234_5fe5);
    machine.w32(0x1_00c8, 0x8000_0005);
    machine.w32(0xd8, 1);
    assert_eq!(machine.r64(0xc0), 0x4000_0000_1234_5fe5);
    assert_eq!((prod(&machine), machine.r32(0xd8)), (0x8000_0005, 1));
    assert_eq!(machine.r32(0xc8), 0);
    assert_eq!(machine.clauses(), [clause::PAGE_ONE]);
}

#[test]
fn a_queue_that_cannot_be_is_noted() {
    let machine = Machine::stage1(with_ats());
    machine.w64(0xc0, 0x3_0020 | 4);
    machine.w32(0x1_00cc, 2);
    machine.w32(0x20, ON);
    machine.settle();
    let clauses = machine.clauses();
    assert_eq!(clauses, [clause::QUEUE_SIZE, clause::QUEUE_ALIGNMENT, clause::QUEUE_INDEXES]);
    machine.w32(0x1_00cc, 1);
    assert_eq!(machine.clauses(), [clause::QUEUE_INDEXES], "past PROD");
    request(&machine, &last(1, None));
    assert_eq!(prod(&machine), 0x8000_0000, "treated as full while inconsistent");
}

#[test]
fn software_answers_a_group_with_the_codes_of_the_link() {
    let (machine, endpoint) = machine(with_ats());
    machine.command(0x0000_0001_0000_5841, 0x0000_01ab); // Failure
    machine.command(0x0000_0001_0000_0041, 0x0000_1001); // Invalid, no SSV
    machine.command(0x0000_0001_0000_5841, 0x0000_2002); // Success
    machine.command(0x0000_0009_0000_0041, 0x0000_2002); // nobody is there
    let expected = [response(Some(5), 0x1ab, 15), response(None, 1, 1), response(Some(5), 2, 0)];
    assert_eq!(endpoint.responses(), expected);
    assert_eq!(machine.smmu.counters().command("CMD_PRI_RESP"), 4);
    assert_eq!(machine.smmu.counters().auto_responses, 0);
    machine.assert_clean();
    machine.command(0x0000_0001_0000_0041, 0x0000_3001);
    assert_eq!(machine.r32(0x9c) >> 24, 1, "the reserved code is CERROR_ILL");
}

#[test]
fn answers_are_ignored_while_the_smmu_is_off() {
    let (machine, endpoint) = machine(with_ats());
    machine.disable();
    machine.command(0x0000_0001_0000_0041, 0x0000_2002);
    machine.sync();
    assert!(endpoint.responses().is_empty());
}

#[test]
fn answers_in_a_substream_where_there_are_none_have_no_effect() {
    let (machine, endpoint) = machine(Config { substream_id_bits: 0, ..with_ats() });
    machine.command(0x0000_0001_0000_5841, 0x0000_2002);
    assert_eq!(machine.clauses(), [clause::ATS_SUBSTREAM]);
    assert!(endpoint.responses().is_empty());
}

#[test]
fn answers_out_of_range_are_noted() {
    let (machine, _) = machine(with_ats());
    machine.command(0x0001_0000_0000_0041, 0x2002);
    machine.command(0x0000_0001_0010_0841, 0x2002);
    assert_eq!(machine.clauses(), [clause::COMMAND_RANGE, clause::COMMAND_RANGE]);
}

#[test]
fn a_device_may_come_back_from_within_an_answer() {
    let (machine, endpoint) = machine(with_ats());
    endpoint.curious.store(true, Ordering::Relaxed);
    overflow(&machine);
    request(&machine, &last(2, None));
    machine.command(0x0000_0001_0000_0041, 0x0000_2003);
    assert_eq!(endpoint.responses(), [response(None, 2, 0), response(None, 3, 0)]);
}

#[test]
fn ways_down_are_tried_in_turn_and_dead_ones_skipped() {
    let (machine, first) = machine(with_ats());
    let second = plug(&machine, 2, Manner::Prompt);
    machine.command(0x0000_0002_0000_0041, 0x0000_2003);
    assert_eq!((first.responses().len(), second.responses().len()), (0, 1));
    drop(first);
    machine.command(0x0000_0001_0000_0041, 0x0000_2003);
    machine.command(0x0000_0002_0000_0041, 0x0000_2003);
    assert_eq!(second.responses().len(), 1);
}

#[test]
fn a_reset_empties_the_registers_and_keeps_the_ways_down() {
    let (machine, endpoint) = machine(with_ats());
    overflow(&machine);
    machine.smmu.reset();
    assert_eq!((prod(&machine), machine.r64(0xc0), machine.r32(0x24)), (0, 0, 0));
    request(&machine, &last(2, None));
    assert_eq!(endpoint.responses(), [response(None, 2, 15)]);
    machine.set_up();
    machine.enable();
    machine.ste(1, &STE_S1);
    enable(&machine, ON);
    request(&machine, &last(3, None));
    assert_eq!(records(&machine).len(), 1);
}
