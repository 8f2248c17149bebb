//! Tables that the hardware updates: the Access flag and the dirty state, of both stages.

use core::sync::atomic::{AtomicBool, Ordering};

use model_bus::{Fabric, Outcome, Request, TranslationRequest, Translator};
use model_smmuv3::{Config, HardwareUpdate, Outlook, Policy, clause};
use portcullis_types::{Access, Iova, Pa, SourceId};

use crate::endpoint::{given, rwx, wish};
use crate::harness::{
    CD, CD_39, Got, L1, L2, L3, Machine, PAGE, S2_L1, S2_L2, S2_L3, S2_PAGE, STE_NESTED, STE_S1, STE_S2,
    plain,
};

/// CD.HD is bit 42, CD.HA bit 43.
const HD: u64 = 1 << 42;
const HA: u64 = 1 << 43;
/// CD.AFFD.
const AFFD: u64 = 1 << 35;
/// CD.IR0 and CD.OR0, write-back.
const WRITE_BACK: u64 = 0x500;
/// STE.S2HD is bit 183, STE.S2HA bit 184.
const S2HD: u64 = 1 << 55;
const S2HA: u64 = 1 << 56;
/// STE.S2IR0 and STE.S2OR0, write-back.
const S2_WRITE_BACK: u64 = 0x500_0000_0000;

const AF: u64 = 1 << 10;
const DBM: u64 = 1 << 51;
/// AP[2] of stage 1: read-only.
const READ_ONLY: u64 = 1 << 7;
/// A page that may be written and has not been.
const CLEAN: u64 = PAGE | READ_ONLY | DBM;
/// The same at stage 2: S2AP=0b01.
const S2_CLEAN: u64 = S2_PAGE & !READ_ONLY | DBM;

fn updating() -> Config {
    Config { hardware_update: HardwareUpdate::AccessAndDirty, ..plain() }
}

fn cd(flags: u64) -> [u64; 8] {
    let mut words = CD_39;
    words[0] |= WRITE_BACK | flags;
    words
}

/// Stream 1 with these bits in its CD: page 0x2000 is what `entry` says, at 0x30_2000.
fn machine(config: Config, flags: u64, entry: u64) -> Machine {
    let machine = Machine::stage1(config);
    machine.words(CD, &cd(flags));
    machine.words(L3 + 0x10, &[0x30_2000 | entry]);
    machine
}

fn entry(machine: &Machine) -> u64 {
    machine.word(L3 + 0x10) & !0x30_2000
}

#[test]
fn an_access_sets_the_access_flag_and_nothing_else() {
    let machine = machine(updating(), HA, PAGE & !AF);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(entry(&machine), PAGE);
    assert_eq!(machine.smmu.counters().access_flag_updates, 1);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    assert_eq!((machine.smmu.counters().access_flag_updates, machine.smmu.counters().dirty_updates), (1, 0));
    machine.assert_clean();
}

#[test]
fn without_ha_the_flag_is_a_fault_or_ignored_and_affd_counts_only_then() {
    for (flags, got, after) in [
        (0, Got::Abort, PAGE & !AF),
        (AFFD, Got::At(0x30_2000), PAGE & !AF),
        (HA | AFFD, Got::At(0x30_2000), PAGE),
    ] {
        let machine = machine(updating(), flags, PAGE & !AF);
        assert_eq!((machine.read(1, 0x2000), entry(&machine)), (got, after), "{flags:#x}");
    }
}

#[test]
fn the_first_write_to_a_clean_page_makes_it_dirty() {
    let machine = machine(updating(), HA | HD, CLEAN & !AF);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(entry(&machine), CLEAN, "a read does not");
    // The translation is cached, and still the write must say so in the table.
    assert_eq!(machine.smmu.cached_translations(), 1);
    assert_eq!(machine.write(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(entry(&machine), CLEAN & !READ_ONLY, "DBM stays");
    assert_eq!(machine.smmu.cached_translations(), 1);
    assert_eq!(machine.write(1, 0x2ff8), Got::At(0x30_2ff8));
    let counters = machine.smmu.counters();
    assert_eq!((counters.access_flag_updates, counters.dirty_updates), (1, 1));
    machine.assert_clean();
}

#[test]
fn a_write_that_comes_first_sets_both_at_once() {
    let machine = machine(updating(), HA | HD, CLEAN & !AF);
    assert_eq!(machine.write(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(entry(&machine), CLEAN & !READ_ONLY);
    let counters = machine.smmu.counters();
    assert_eq!((counters.access_flag_updates, counters.dirty_updates), (1, 1));
}

#[test]
fn a_page_becomes_dirty_only_where_nothing_else_refuses_the_write() {
    let kept = |flags: u64, before: u64| {
        let machine = machine(updating(), flags, before);
        assert_eq!(machine.write(1, 0x2000), Got::Abort);
        assert_eq!(machine.event()[0] & 0xff, 0x13, "F_PERMISSION");
        assert_eq!(entry(&machine) & !AF, before & !AF);
        assert_eq!(machine.smmu.counters().dirty_updates, 0);
        machine.assert_clean();
    };
    kept(HA | HD, PAGE | READ_ONLY); // no DBM
    kept(HA, CLEAN); // no HD
    kept(0, CLEAN);
    kept(HA | HD, CLEAN & !0x40); // AP[1]: not for the unprivileged
    // APTable[1] of the table above: read-only, whatever the leaf says.
    let limited = machine(updating(), HA | HD, CLEAN);
    limited.words(L2, &[L3 | 3 | 1 << 62]);
    assert_eq!(limited.write(1, 0x2000), Got::Abort);
    assert_eq!(entry(&limited), CLEAN);
}

#[test]
fn a_clean_page_counts_as_writable_for_execution() {
    // WXN, bit 36: what may be written may not be executed.
    for (flags, got) in [(0, Got::At(0x30_2000)), (HA | HD, Got::Abort)] {
        let machine = machine(updating(), flags | 1 << 36, CLEAN);
        assert_eq!(machine.fetch(1, 0x2000), got);
        assert_eq!(entry(&machine), CLEAN);
    }
}

#[test]
fn guesses_of_the_hardware_may_set_the_access_flag_and_never_make_a_page_dirty() {
    let machine = machine(updating(), HA | HD, CLEAN & !AF);
    machine.command(0x1_0000_0002, 0x2000); // CMD_PREFETCH_ADDR
    machine.sync();
    assert_eq!(entry(&machine), CLEAN);
    // All the time, by itself, while a device writes beside it.
    let policy = Policy { prefetch_one_in: 1, ..Policy::hostile() };
    let config = Config { policy, ..updating() };
    let machine = Machine::stage1(config);
    machine.words(CD, &cd(HA | HD));
    let pages: Vec<u64> = (0..16).map(|i| (0x30_0000 + i * 0x1000) | CLEAN & !AF).collect();
    machine.words(L3, &pages);
    for _ in 0..200 {
        assert_eq!(machine.write(1, 0x7000), Got::At(0x30_7000));
    }
    let dirty = (0..16).filter(|i| machine.word(L3 + i * 8) & READ_ONLY == 0).collect::<Vec<_>>();
    let accessed = (0..16).filter(|i| machine.word(L3 + i * 8) & AF != 0).count();
    assert_eq!(dirty, [7]);
    assert!(accessed > 1, "{accessed}");
    machine.assert_clean();
}

#[test]
fn a_look_sees_what_the_update_would_make_and_makes_nothing() {
    let machine = machine(updating(), HA | HD, CLEAN & !AF);
    let request = Request {
        source: SourceId(1),
        pasid: None,
        iova: Iova::new(0x2000),
        len_bytes: 4,
        access: Access::WRITE,
    };
    assert_eq!(machine.smmu.outlook(&request), Outlook::Allowed(Pa::new(0x30_2000)));
    assert_eq!(entry(&machine), CLEAN & !AF);
    assert_eq!(machine.smmu.counters().access_flag_updates, 0);
}

#[test]
fn hd_without_ha_does_nothing_and_is_noted() {
    let machine = machine(updating(), HD, CLEAN & !AF);
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    assert_eq!(entry(&machine), CLEAN & !AF);
    assert_eq!(machine.clauses(), [clause::DIRTY_WITHOUT_ACCESS]);
}

#[test]
fn what_the_part_does_not_update_must_not_be_asked_of_it() {
    let good = |hardware_update, flags, stage2: u64| {
        let machine = Machine::new(Config { hardware_update, ..plain() });
        let mut ste = STE_NESTED;
        ste[2] |= S2_WRITE_BACK | stage2;
        machine.ste(1, &ste);
        machine.words(CD, &cd(flags));
        machine.tables();
        machine.tables2();
        let got = machine.read(1, 0x1000);
        assert_eq!(got == Got::At(0x30_0000), machine.clauses().is_empty(), "{got:?}");
        got == Got::At(0x30_0000)
    };
    use HardwareUpdate::{Access, AccessAndDirty, None};
    assert_eq!([good(None, HA, 0), good(None, HD, 0), good(None, 0, S2HA), good(None, 0, S2HD)], [false; 4]);
    assert_eq!([good(Access, HA, 0), good(Access, 0, S2HA)], [true; 2]);
    assert_eq!([good(Access, HA | HD, 0), good(Access, 0, S2HA | S2HD)], [false; 2]);
    assert!(good(AccessAndDirty, HA | HD, S2HA | S2HD));
}

#[test]
fn tables_that_are_not_write_back_cannot_be_updated() {
    for attributes in [0x000, 0x100, 0x400, 0x600, 0x900, 0xa00] {
        let machine = Machine::stage1(updating());
        let mut words = cd(HA);
        words[0] = words[0] & !0xf00 | attributes;
        machine.words(CD, &words);
        machine.words(L3 + 0x10, &[0x30_2000 | PAGE & !AF]);
        assert_eq!(machine.read(1, 0x2000), Got::Abort, "{attributes:#x}");
        // F_WALK_EABT, CLASS=TT, with the place of the descriptor.
        let event = machine.event();
        assert_eq!((event[0] & 0xff, event[1], event[3]), (0x0b, 0x0000_0108_0000_0000, L3 + 0x10));
        assert_eq!(entry(&machine), PAGE & !AF);
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "no update, no harm");
    }
    for attributes in [0x500, 0x700, 0xd00, 0xf00] {
        let machine = Machine::stage1(updating());
        let mut words = cd(HA);
        words[0] = words[0] & !0xf00 | attributes;
        machine.words(CD, &words);
        machine.words(L3 + 0x10, &[0x30_2000 | PAGE & !AF]);
        assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000), "{attributes:#x}");
    }
}

/// Stream 1 with stage 2 only: intermediate 0x40_1000 is what `entry` says, at 0x50_0000.
fn stage2(flags: u64, entry: u64) -> Machine {
    let machine = Machine::new(updating());
    let mut ste = STE_S2;
    ste[2] |= S2_WRITE_BACK | flags;
    machine.ste(1, &ste);
    machine.tables2();
    machine.words(S2_L3 + 8, &[0x50_0000 | entry]);
    machine
}

#[test]
fn stage_2_is_updated_as_stage_1_is() {
    let machine = stage2(S2HA | S2HD, S2_CLEAN & !AF);
    assert_eq!(machine.read(1, 0x40_1000), Got::At(0x50_0000));
    assert_eq!(machine.word(S2_L3 + 8), 0x50_0000 | S2_CLEAN);
    assert_eq!(machine.write(1, 0x40_1000), Got::At(0x50_0000));
    assert_eq!(machine.word(S2_L3 + 8), 0x50_0000 | S2_CLEAN | READ_ONLY, "S2AP[1] is set");
    let counters = machine.smmu.counters();
    assert_eq!((counters.access_flag_updates, counters.dirty_updates), (1, 1));
    machine.assert_clean();
    for (flags, before) in [(S2HA, S2_CLEAN), (S2HA | S2HD, S2_CLEAN & !DBM), (0, S2_CLEAN)] {
        let machine = stage2(flags, before);
        assert_eq!(machine.write(1, 0x40_1000), Got::Abort);
        assert_eq!(machine.word(S2_L3 + 8), 0x50_0000 | before);
    }
    let machine = stage2(S2HD, S2_CLEAN);
    assert_eq!(machine.write(1, 0x40_1000), Got::Abort);
    assert_eq!(machine.clauses(), [clause::DIRTY_WITHOUT_ACCESS]);
}

/// A nested stream, with the stage 1 table of level 3 in a page of its own of stage 2, 0x40_3000 at 0x50_3000, that says `table`, and the page
/// 0x2000 at intermediate 0x40_2000, that says `page` at stage 2 and `entry` at stage 1.
fn nested(stage1: u64, stage2: u64, entry: u64, table: u64, page: u64) -> Machine {
    let machine = Machine::new(updating());
    let mut ste = STE_NESTED;
    ste[2] |= S2_WRITE_BACK | stage2;
    machine.ste(1, &ste);
    machine.words(CD, &cd(stage1));
    machine.words(L1, &[L2 | 3]);
    machine.words(L2, &[0x40_3003]);
    machine.tables2();
    machine.words(S2_L3 + 0x10, &[0x50_2000 | page, 0x50_3000 | table]);
    machine.words(0x50_3010, &[0x40_2000 | entry]);
    machine
}

#[test]
fn one_write_may_update_all_that_it_goes_through() {
    let machine = nested(HA | HD, S2HA | S2HD, CLEAN & !AF, S2_CLEAN & !AF, S2_CLEAN & !AF);
    assert_eq!(machine.write(1, 0x2000), Got::At(0x50_2000));
    assert_eq!(machine.word(0x50_3010), 0x40_2000 | CLEAN & !READ_ONLY);
    let dirty = S2_CLEAN | READ_ONLY;
    assert_eq!(
        [machine.word(S2_L3 + 0x10), machine.word(S2_L3 + 0x18)],
        [0x50_2000 | dirty, 0x50_3000 | dirty]
    );
    machine.assert_clean();
}

#[test]
fn an_update_of_stage_1_is_a_write_to_stage_2_and_a_read_of_it_is_not() {
    // Nothing to update at stage 1: the table's page stays clean.
    let machine = nested(HA | HD, S2HA | S2HD, PAGE, S2_CLEAN, S2_PAGE);
    assert_eq!(machine.write(1, 0x2000), Got::At(0x50_2000));
    assert_eq!(machine.word(S2_L3 + 0x18), 0x50_3000 | S2_CLEAN);
    // The table's page may not be written: a fault of stage 2, CLASS=TT, TTRnW=0, with the descriptor's intermediate address.
    let machine = nested(HA, S2HA, PAGE & !AF, S2_CLEAN, S2_PAGE);
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0013, 0x0000_0188_0000_0000, 0x2000, 0x40_3000]);
    assert_eq!(machine.word(0x50_3010), 0x40_2000 | PAGE & !AF);
    machine.assert_clean();
}

#[test]
fn a_stage_2_page_behind_a_read_only_one_stays_clean() {
    let machine = nested(HA | HD, S2HA | S2HD, PAGE | READ_ONLY, S2_PAGE, S2_CLEAN);
    assert_eq!(machine.write(1, 0x2000), Got::Abort);
    assert_eq!(machine.word(S2_L3 + 0x10), 0x50_2000 | S2_CLEAN);
}

#[test]
fn fetching_a_cd_sets_the_access_flag_of_its_page_and_never_makes_it_dirty() {
    let machine = Machine::new(updating());
    let mut ste = STE_NESTED;
    ste[0] = 0x40_400f;
    ste[2] |= S2_WRITE_BACK | S2HA | S2HD;
    machine.ste(1, &ste);
    machine.words(0x50_4000, &cd(0));
    machine.tables();
    machine.tables2();
    machine.words(S2_L3 + 0x20, &[0x50_4000 | S2_CLEAN & !AF]);
    assert_eq!(machine.write(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.word(S2_L3 + 0x20), 0x50_4000 | S2_CLEAN);
    machine.assert_clean();
}

#[test]
fn the_pages_of_a_contiguous_group_may_differ_in_what_the_hardware_updates() {
    const CONTIGUOUS: u64 = 1 << 52;
    let group = |flags: u64| {
        let machine = Machine::stage1(updating());
        machine.words(CD, &cd(flags));
        let pages: Vec<u64> = (0..16)
            .map(|i| {
                let state = if i % 2 == 0 { CLEAN } else { CLEAN & !READ_ONLY };
                (0x30_0000 + i * 0x1000) | CONTIGUOUS | state & if i % 3 == 0 { !AF } else { u64::MAX }
            })
            .collect();
        machine.words(L3, &pages);
        machine
    };
    let machine = group(HA | HD);
    assert_eq!(machine.write(1, 0x6000), Got::At(0x30_6000));
    assert_eq!(machine.word(L3 + 0x30), 0x30_6000 | CONTIGUOUS | CLEAN & !READ_ONLY);
    assert_eq!(machine.smmu.cached_translations(), 1);
    machine.assert_clean();
    // To a reader that does not update, they are pages of different rights.
    let machine = group(0);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_1000));
    assert_eq!(machine.clauses(), [clause::CONTIGUOUS]);
}

#[test]
fn two_descriptors_of_one_address_space_must_agree_on_what_is_updated() {
    let machine = machine(updating(), HA, PAGE);
    machine.ste(2, &[0x5_100b, 0, 0, 0, 0, 0, 0, 0]);
    machine.words(CD + 0x1000, &cd(0));
    assert_eq!([machine.read(1, 0x2000), machine.read(2, 0x2000)], [Got::At(0x30_2000); 2]);
    assert_eq!(machine.clauses(), [clause::SHARED_ASID]);
}

#[test]
fn an_update_that_finds_another_word_begins_again() {
    // Meanwhile the page moved, and is dirty already; then, it is not there any more.
    let moved = machine(updating(), HA | HD, CLEAN);
    moved.ram.meddling.lock().unwrap().push((L3 + 0x10, 0x30_8000 | CLEAN & !READ_ONLY));
    assert_eq!(moved.write(1, 0x2000), Got::At(0x30_8000));
    assert_eq!(moved.word(L3 + 0x10), 0x30_8000 | CLEAN & !READ_ONLY);
    assert_eq!(moved.smmu.counters().dirty_updates, 0);
    let gone = machine(updating(), HA | HD, CLEAN);
    gone.ram.meddling.lock().unwrap().push((L3 + 0x10, 0));
    assert_eq!(gone.write(1, 0x2000), Got::Abort);
    assert_eq!((gone.event()[0] & 0xff, gone.word(L3 + 0x10)), (0x10, 0));
    // Somebody who never stops: the access ends, and the model with it does not hang.
    let never = machine(updating(), HA | HD, CLEAN);
    let words = (0..1000u64).map(|i| (L3 + 0x10, (i & 0xf) << 55 | 0x30_2000 | CLEAN));
    never.ram.meddling.lock().unwrap().extend(words);
    assert_eq!(never.write(1, 0x2000), Got::Abort);
    assert_eq!(never.event()[0] & 0xff, 0x0b);
}

#[test]
fn an_update_that_meets_another_begins_again_and_loses_nothing() {
    const UPDATES: u64 = 60;
    let machine = machine(updating(), HA | HD, CLEAN & !AF);
    let stop = AtomicBool::new(false);
    // Software counts in bits 58:55, which are its own, and takes AF and the dirty state away, as a pager does.
    let at = Pa::new(L3 + 0x10);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let request = Request {
                source: SourceId(1),
                pasid: None,
                iova: Iova::new(0x2000),
                len_bytes: 4,
                access: Access::WRITE,
            };
            while !stop.load(Ordering::Acquire) {
                assert_eq!(machine.smmu.access(&request, &mut |_| Ok(())), Outcome::Done);
                // Each write finds the table anew.
                machine.command(0x0001_0000_0000_0012, 0x2001);
                machine.sync();
            }
        });
        let mut round = 0;
        while machine.smmu.counters().dirty_updates < UPDATES {
            round += 1;
            loop {
                let now = machine.word(L3 + 0x10);
                let next = now & !(0xf << 55) & !AF | READ_ONLY | (round & 0xf) << 55;
                if machine.ram.compare_exchange(at, now, next) == Ok(now) {
                    break;
                }
            }
            let now = machine.word(L3 + 0x10);
            assert_eq!(now >> 55 & 0xf, round & 0xf, "the hardware wrote over what software wrote");
        }
        stop.store(true, Ordering::Release);
    });
    machine.assert_clean();
}

/// Full ATS of stream 1 with page 0x2000 as `entry` says: what a request is answered, and the page then.
fn requested(flags: u64, before: u64, no_write: bool) -> (String, u64) {
    let machine = machine(Config { ats: true, ..updating() }, flags, before);
    let mut ste = STE_S1;
    ste[1] |= 1 << 28;
    machine.ste(1, &ste);
    machine.w32(0x20, 0b1_1101);
    machine.settle();
    machine.flush_ste(1);
    let found = given(&machine, &TranslationRequest { no_write, ..wish(0x2000) });
    machine.assert_clean();
    (rwx(&found), entry(&machine))
}

#[test]
fn a_translation_request_updates_the_page_as_if_the_access_came() {
    // With the wish to write: the page is dirty before the device may write.
    assert_eq!(requested(HA | HD, CLEAN & !AF, false), ("rw-".into(), CLEAN & !READ_ONLY));
    // Without it: accessed, and clean.
    assert_eq!(requested(HA | HD, CLEAN & !AF, true), ("r--".into(), CLEAN));
    // "If HTTU is only enabled for Access, W == 0."
    assert_eq!(requested(HA, CLEAN & !AF, false), ("r--".into(), CLEAN));
    assert_eq!(requested(HA | HD, (PAGE | READ_ONLY) & !AF, false), ("r--".into(), PAGE | READ_ONLY));
    // Without any: nothing is given for a page without AF.
    assert_eq!(requested(0, CLEAN & !AF, false), ("---".into(), CLEAN & !AF));
}

#[test]
fn a_translation_request_through_a_read_only_stage_1_leaves_stage_2_clean() {
    let machine = Machine::new(Config { ats: true, ..updating() });
    let mut ste = STE_NESTED;
    ste[1] |= 1 << 28;
    ste[2] |= S2_WRITE_BACK | S2HA | S2HD;
    machine.ste(1, &ste);
    machine.words(CD, &cd(HA | HD));
    machine.tables();
    machine.tables2();
    machine.w32(0x20, 0b1_1101);
    machine.settle();
    machine.words(S2_L3 + 0x10, &[0x50_2000 | S2_CLEAN]);
    machine.words(L3 + 0x10, &[0x40_2000 | PAGE | READ_ONLY]);
    assert_eq!(rwx(&given(&machine, &wish(0x2000))), "r--");
    assert_eq!(machine.word(S2_L3 + 0x10), 0x50_2000 | S2_CLEAN);
    // And through a writable one makes it dirty.
    machine.words(L3 + 0x18, &[0x40_2000 | PAGE]);
    assert_eq!(rwx(&given(&machine, &wish(0x3000))), "rw-");
    assert_eq!(machine.word(S2_L3 + 0x10), 0x50_2000 | S2_CLEAN | READ_ONLY);
    machine.assert_clean();
}

#[test]
fn small_blocks_are_updated_where_they_are() {
    // A block of level 2 at stage 1, and of level 2 at stage 2.
    let machine = Machine::new(updating());
    let mut ste = STE_NESTED;
    ste[2] |= S2_WRITE_BACK | S2HA | S2HD;
    machine.ste(1, &ste);
    machine.words(CD, &cd(HA | HD));
    machine.words(L1, &[L2 | 3]);
    machine.words(L2, &[0, CLEAN & !2 & !AF]);
    machine.words(S2_L1, &[S2_L2 | 3]);
    machine.words(S2_L2, &[S2_CLEAN & !2 & !AF]);
    assert_eq!(machine.write(1, 0x20_1000), Got::At(0x1000));
    assert_eq!(machine.word(L2 + 8), CLEAN & !2 & !READ_ONLY);
    assert_eq!(machine.word(S2_L2), S2_CLEAN & !2 | READ_ONLY);
    machine.assert_clean();
}
