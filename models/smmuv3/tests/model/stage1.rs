//! Stage 1: walks of every granule, and every fault.

use model_smmuv3::{Config, clause};
use portcullis_types::AccessKind;

use crate::harness::{CD, CD_39, Got, L1, L2, L3, Machine, PAGE, plain};

/// The Contiguous bit.
const HINT: u64 = 1 << 52;

#[test]
fn a_page_is_found_and_the_offset_kept() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1abc), Got::At(0x30_0abc));
    assert_eq!(machine.write(1, 0x1000), Got::At(0x30_0000));
    machine.assert_clean();
}

/// Granule, T0SZ, the tables on the way to `address`, what they lead to.
struct Walk {
    name: &'static str,
    config: Config,
    /// Low 32 bits of the CD's first word but for EPD1 and V.
    low: u64,
    upper: [u64; 2],
    address: u64,
    words: &'static [(u64, u64)],
    output: u64,
}

fn walks() -> Vec<Walk> {
    const ROOT: u64 = 0x40_0000;
    const NEXT: u64 = 0x41_0000;
    const THIRD: u64 = 0x42_0000;
    const FOURTH: u64 = 0x43_0000;
    const BLOCK: u64 = PAGE & !2;
    let case = |name, low, address, words, output| Walk {
        name,
        config: plain(),
        low,
        upper: [ROOT, 0],
        address,
        words,
        output,
    };
    let large = |walk: Walk| Walk { config: Config { policy: plain().policy, ..Config::large() }, ..walk };
    vec![
        case(
            "4K, 48 bits, page",
            0x10,
            0x8080_4020_1abc,
            &[
                (ROOT + 0x101 * 8, NEXT | 3),
                (NEXT + 8, THIRD | 3),
                (THIRD + 8, FOURTH | 3),
                (FOURTH + 8, 0x1234_5000 | PAGE),
            ],
            0x1234_5abc,
        ),
        case(
            "4K, 2 MiB block",
            0x19,
            0x7f_ffe0_1234,
            &[(ROOT + 0x1ff * 8, NEXT | 3), (NEXT + 0x1ff * 8, 0x1_2340_0000 | BLOCK)],
            0x1_2340_1234,
        ),
        case("4K, 1 GiB block", 0x19, 0x4012_3456, &[(ROOT + 8, 0xc0_0000_0000 | BLOCK)], 0xc0_0012_3456),
        case(
            "4K, 25 bits, start at level 2",
            0x27,
            0x60_1abc,
            &[(ROOT + 3 * 8, NEXT | 3), (NEXT + 8, 0x5000 | PAGE)],
            0x5abc,
        ),
        case(
            "16K, 47 bits, page",
            0x91,
            0x4000_4321,
            &[(ROOT, NEXT | 3), (NEXT + 0x20 * 8, THIRD | 3), (THIRD + 8, 0x1234_4000 | PAGE)],
            0x1234_4321,
        ),
        case(
            "16K, 48 bits, start at level 0",
            0x90,
            0x8000_0000_0042,
            &[(ROOT + 8, NEXT | 3), (NEXT, THIRD | 3), (THIRD, FOURTH | 3), (FOURTH, 0x1234_4000 | PAGE)],
            0x1234_4042,
        ),
        case(
            "16K, 32 MiB block",
            0x99,
            0x0212_3456,
            &[(ROOT, NEXT | 3), (NEXT + 8, 0x1400_0000 | BLOCK)],
            0x1412_3456,
        ),
        case(
            "64K, 42 bits, page",
            0x56,
            0x2001_1234,
            &[(ROOT + 8, NEXT | 3), (NEXT + 8, 0x1234_0000 | PAGE)],
            0x1234_1234,
        ),
        case(
            "64K, 48 bits, start at level 1",
            0x50,
            0x0400_0000_0042,
            &[(ROOT + 8, NEXT | 3), (NEXT, THIRD | 3), (THIRD, 0x1234_0000 | PAGE)],
            0x1234_0042,
        ),
        case("64K, 512 MiB block", 0x56, 0x2123_4567, &[(ROOT + 8, 0x4000_0000 | BLOCK)], 0x4123_4567),
        large(Walk {
            upper: [ROOT, 0x0400_0000_0000_0000],
            ..case(
                "4K with DS, 52 bits, start at level -1",
                0x0c,
                0x0001_0000_0000_0042,
                &[
                    (ROOT + 8, NEXT | 3),
                    (NEXT, THIRD | 3),
                    (THIRD, FOURTH | 3),
                    (FOURTH, 0x44_0003),
                    (0x44_0000, 0x0003_0000_0000_1f43),
                ],
                0x000f_0000_0000_1042,
            )
        }),
        large(case(
            "64K, 52 bits in and out",
            0x4c,
            0x0008_0000_0000_0042,
            &[(ROOT + 0x200 * 8, NEXT | 3), (NEXT, THIRD | 3), (THIRD, 0x0000_0000_0001_ff43)],
            0x000f_0000_0001_0042,
        )),
        large(case(
            "64K, 4 TiB block",
            0x4c,
            0x0423_4567_89ab,
            &[(ROOT + 8, 0x0800_0000_0f41)],
            0x0823_4567_89ab,
        )),
    ]
}

#[test]
fn every_granule_walks_to_its_pages_and_blocks() {
    for walk in walks() {
        let machine = Machine::stage1(walk.config);
        // IPS=6, capped by OAS.
        machine.words(CD, &[0x0001_6206_c000_0000 | walk.low, walk.upper[0], walk.upper[1], 0xff]);
        for &(at, word) in walk.words {
            machine.words(at, &[word]);
        }
        assert_eq!(machine.read(1, walk.address), Got::At(walk.output), "{}", walk.name);
        machine.assert_clean();
        assert_eq!(machine.smmu.counters().descriptor_reads, walk.words.len() as u64, "{}", walk.name);
    }
}

#[test]
fn a_block_at_a_level_that_has_none_is_a_translation_fault() {
    // 4 KiB: none at level 0; 16 KiB: none at level 1; 64 KiB with 48 bits: none at level 1.
    for (low, address) in [(0x10, 0), (0x91, 0), (0x50, 0)] {
        let machine = Machine::stage1(plain());
        machine.words(CD, &[0x0001_6205_c000_0000 | low, L1, 0, 0xff]);
        machine.words(L1, &[0xf41]);
        assert_eq!(machine.read(1, address), Got::Abort);
        assert_eq!(machine.event()[0], 0x0000_0001_0000_0010, "{low:#x}");
    }
}

/// Word 1 of an event of stage 1 with CLASS=IN: RnW of a read.
const READ_IN: u64 = 0x0000_0208_0000_0000;

#[test]
fn an_address_without_a_descriptor_is_a_translation_fault() {
    let machine = Machine::stage1(plain());
    // Level 3, level 2, level 1 not valid; a block where only pages can be.
    machine.words(L3 + 0x20, &[0x30_0000 | PAGE & !2]);
    for address in [0x2008, 0x20_0000, 0x4000_0000, 0x4000] {
        assert_eq!(machine.read(1, address), Got::Abort);
        assert_eq!(machine.event(), [0x0000_0001_0000_0010, READ_IN, address, 0]);
    }
    machine.assert_clean();
}

#[test]
fn faults_say_what_the_access_was() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.write(1, 0x2000), Got::Abort);
    assert_eq!(machine.event()[1], 0x0000_0200_0000_0000);
    assert_eq!(machine.fetch(1, 0x2000), Got::Abort);
    assert_eq!(machine.event()[1], 0x0000_020c_0000_0000);
    assert_eq!(machine.privileged(AccessKind::Read, 0x2000), Got::Abort);
    assert_eq!(machine.event()[1], 0x0000_020a_0000_0000);
}

#[test]
fn an_address_outside_the_range_is_a_translation_fault() {
    let machine = Machine::stage1(plain());
    // 39 bits: beyond; the top byte set without TBI; the upper half is disabled.
    for address in [0x80_0000_1000, 0x0100_0000_0000_1000, 0xffff_ffff_ffff_1000] {
        assert_eq!(machine.read(1, address), Got::Abort);
        assert_eq!(machine.event(), [0x0000_0001_0000_0010, READ_IN, address, 0], "{address:#x}");
    }
}

#[test]
fn the_upper_half_has_its_own_tables() {
    let machine = Machine::stage1(plain());
    // EPD1 clear, TG1=2 (4 KiB), T1SZ=25; TTB1 at 0x11_0000.
    machine.words(CD, &[0x0001_6205_8099_0019, L1, 0x11_0000, 0xff]);
    machine.words(0x11_0000 + 0x1ff * 8, &[0x11_1003]);
    machine.words(0x11_1000 + 0x1ff * 8, &[0x11_2003]);
    machine.words(0x11_2000 + 0x1ff * 8, &[0x40_0000 | PAGE]);
    assert_eq!(machine.read(1, 0xffff_ffff_ffff_f123), Got::At(0x40_0123));
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.read(1, 0xffff_ff7f_ffff_f000), Got::Abort, "below the upper half");
    // The two halves do not share walk entries: level 3 of each is its own.
    assert_eq!(machine.read(1, 0x7f_ffff_f000), Got::Abort);
    machine.assert_clean();
}

#[test]
fn an_ignored_top_byte_is_ignored_in_both_halves() {
    let machine = Machine::stage1(plain());
    // TBI0 and TBI1.
    machine.words(CD, &[0x0001_62c5_8099_0019, L1, 0x11_0000, 0xff]);
    machine.words(0x11_0000 + 0x1ff * 8, &[0x11_1003]);
    machine.words(0x11_1000 + 0x1ff * 8, &[0x11_2003]);
    machine.words(0x11_2000 + 0x1ff * 8, &[0x40_0000 | PAGE]);
    assert_eq!(machine.read(1, 0xab00_0000_0000_1234), Got::At(0x30_0234));
    assert_eq!(machine.read(1, 0x1234), Got::At(0x30_0234));
    assert_eq!(machine.read(1, 0x12ff_ffff_ffff_f123), Got::At(0x40_0123));
    assert_eq!(machine.smmu.cached_translations(), 2, "the tag has no top byte");
    assert_eq!(machine.read(1, 0xab01_0000_0000_1000), Got::Abort, "bits 55 to 39 still count");
    assert_eq!(machine.event()[2], 0xab01_0000_0000_1000, "the event has the address as it came");
}

#[test]
fn an_output_beyond_ips_is_an_address_size_fault() {
    let machine = Machine::stage1(plain());
    // IPS=0: 32 bits. A page, a block, and a table beyond.
    machine.words(CD, &[0x0001_6200_c000_0019, L1, 0, 0xff]);
    machine.words(L3 + 0x10, &[0x1_0000_0000 | PAGE]);
    machine.words(L2 + 8, &[0x1_0000_0000 | PAGE & !2, 0x1_0000_0003]);
    for address in [0x2000, 0x20_0000, 0x40_0000] {
        assert_eq!(machine.read(1, address), Got::Abort);
        assert_eq!(machine.event(), [0x0000_0001_0000_0011, READ_IN, address, 0]);
    }
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
}

#[test]
fn ips_is_capped_by_the_output_size() {
    let machine = Machine::stage1(Config { output_bits: 36, ..plain() });
    machine.words(L3 + 0x10, &[0x10_0000_0000 | PAGE]);
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0011);
}

#[test]
fn a_page_never_accessed_is_an_access_fault_unless_that_is_off() {
    let machine = Machine::stage1(plain());
    machine.words(L3 + 0x10, &[0x30_1000 | PAGE & !0x400]);
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0012, READ_IN, 0x2000, 0]);
    machine.words(CD, &[CD_39[0] | 0x8_0000_0000]); // AFFD
    machine.flush_cd();
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_1000));
}

#[test]
fn what_the_page_does_not_allow_is_a_permission_fault() {
    let machine = Machine::stage1(plain());
    // Page 2: all read-only; page 3: privileged only; page 4: not executable.
    machine.words(L3 + 0x10, &[0x30_1fc3, 0x30_2f03, 0x0060_0000_0030_3f43]);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_1000));
    assert_eq!(machine.write(1, 0x2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0013, 0x0000_0200_0000_0000, 0x2000, 0]);
    assert_eq!(machine.read(1, 0x3000), Got::Abort);
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0013);
    assert_eq!(machine.privileged(AccessKind::Write, 0x3000), Got::At(0x30_2000));
    assert_eq!(machine.fetch(1, 0x4000), Got::Abort);
    assert_eq!(machine.event()[1], 0x0000_020c_0000_0000);
    assert_eq!(machine.fetch(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(
        machine.privileged(AccessKind::Execute, 0x1000),
        Got::Abort,
        "what users may write, the privileged never execute"
    );
    machine.assert_clean();
}

#[test]
fn wxn_and_pan_take_rights_away() {
    let machine = Machine::stage1(plain());
    machine.words(CD, &[CD_39[0] | 0x110_0000_0000]); // WXN, PAN
    assert_eq!(machine.fetch(1, 0x1000), Got::Abort);
    assert_eq!(machine.privileged(AccessKind::Read, 0x1000), Got::Abort);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
}

#[test]
fn tables_limit_what_is_below_unless_that_is_off() {
    let machine = Machine::stage1(plain());
    machine.words(L2, &[L3 | 3 | 1 << 62]); // APTable: read-only
    assert_eq!(machine.write(1, 0x1000), Got::Abort);
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0013);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.words(CD + 8, &[L1 | 2]); // HAD0
    machine.flush_cd();
    machine.flush_tlb();
    assert_eq!(machine.write(1, 0x1000), Got::At(0x30_0000));
    // Where HAD is not implemented, the bit is ignored.
    let machine = Machine::stage1(Config { hierarchical_disable: false, ..plain() });
    machine.words(L2, &[L3 | 3 | 1 << 62]);
    machine.words(CD + 8, &[L1 | 2]);
    assert_eq!(machine.write(1, 0x1000), Got::Abort);
}

#[test]
fn a_descriptor_that_cannot_be_read_is_a_walk_abort() {
    let machine = Machine::stage1(plain());
    machine.hole(L3 + 8..=L3 + 15);
    assert_eq!(machine.read(1, 0x1abc), Got::Abort);
    // S2=0, CLASS=TT.
    assert_eq!(machine.event(), [0x0000_0001_0000_000b, 0x0000_0108_0000_0000, 0x1abc, L3 + 8]);
    machine.fill_holes();
    assert_eq!(machine.read(1, 0x1abc), Got::At(0x30_0abc), "a failed walk is not remembered");
}

#[test]
fn a_and_r_decide_how_a_fault_ends_and_whether_it_is_told() {
    // (A, R) and what becomes of a translation fault.
    for (bits, got, events) in [
        (0x6000_0000_0000, Got::Abort, 1),
        (0x4000_0000_0000, Got::Abort, 0),
        (0x2000_0000_0000, Got::Ignored, 1),
        (0, Got::Ignored, 0),
    ] {
        let machine = Machine::stage1(plain());
        machine.words(CD, &[CD_39[0] & !0x6000_0000_0000 | bits]);
        assert_eq!(machine.read(1, 0x2000), got, "{bits:#x}");
        assert_eq!(machine.events().len(), events, "{bits:#x}");
        machine.hole(L3..=L3 + 0xfff);
        assert_eq!(machine.read(1, 0x3000), Got::Abort, "a walk abort always aborts");
        assert_eq!(machine.events().len(), 1, "and is always told");
    }
}

#[test]
fn overrides_of_the_entry_change_what_is_asked() {
    let machine = Machine::stage1(plain());
    machine.words(L3 + 0x10, &[0x30_2f03]); // privileged only
    machine.ste(1, &[0x5_000b, 0x0003_0000_0000_0000, 0, 0, 0, 0, 0, 0]); // PRIVCFG: privileged
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(machine.read(1, 0x2004), Got::At(0x30_2004), "when found by the short way, too");
    machine.ste(1, &[0x5_000b, 0x000e_0000_0000_0000, 0, 0, 0, 0, 0, 0]); // INSTCFG: instruction, PRIVCFG: unprivileged
    machine.flush_ste(1);
    assert_eq!(machine.privileged(AccessKind::Read, 0x3000), Got::Abort);
    assert_eq!(machine.event()[1], 0x0000_020c_0000_0000);
    assert_eq!(machine.privileged(AccessKind::Write, 0x3000), Got::Abort, "writes are data always");
    assert_eq!(machine.event()[1], 0x0000_0200_0000_0000);
    let machine = Machine::stage1(Config { attribute_overrides: false, ..plain() });
    machine.words(L3 + 0x10, &[0x30_2f03]);
    machine.ste(1, &[0x5_000b, 0x0003_0000_0000_0000, 0, 0, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x2000), Got::Abort, "where there are no overrides, none happens");
}

#[test]
fn a_contiguous_group_is_one_translation() {
    let machine = Machine::stage1(plain());
    let group: Vec<u64> = (0..16).map(|i| (0x0010_0000_0031_0000 + i * 0x1000) | PAGE).collect();
    machine.words(L3 + 16 * 8, &group);
    assert_eq!(machine.read(1, 0x1_0000), Got::At(0x31_0000));
    let reads = machine.smmu.counters().descriptor_reads;
    assert_eq!(machine.read(1, 0x1_f123), Got::At(0x31_f123));
    assert_eq!(machine.smmu.counters().descriptor_reads, reads, "found in the cache");
    machine.assert_clean();
}

#[test]
fn a_contiguous_group_that_ends_beyond_the_output_size_hides_no_fault() {
    let machine = Machine::stage1(plain());
    // IPS=0: 32 bits. Sixteen blocks of 1 GiB from 0 on, of which four are below that.
    machine.words(CD, &[0x0001_6200_c000_0019]);
    let group: Vec<u64> = (0..16u64).map(|i| 0x0010_0000_0000_0f41 | i << 30).collect();
    machine.words(L1 + 16 * 8, &group);
    assert_eq!(machine.read(1, 0x4_c000_0000), Got::At(0xc000_0000));
    assert_eq!(machine.read(1, 0x5_0000_0000), Got::Abort, "also when its neighbour is cached");
    assert_eq!(machine.event()[0], 0x0000_0001_0000_0011);
    assert_eq!(machine.read(1, 0x4_0000_0000), Got::At(0));
    machine.assert_clean();
}

#[test]
fn entries_of_a_contiguous_group_that_differ_are_noted() {
    let entry = |i: u64| (0x0010_0000_0031_0000 + i * 0x1000) | PAGE;
    let clauses = |level: u8, bad: u64| {
        let machine = Machine::stage1(Config { break_before_make_level: level, ..plain() });
        machine.words(L3 + 16 * 8, &(0..16).map(entry).collect::<Vec<_>>());
        machine.words(L3 + 19 * 8, &[bad]);
        assert_eq!(machine.read(1, 0x1_0000), Got::At(0x31_0000));
        machine.clauses()
    };
    // One that leads elsewhere; one read-only; one without the hint as well.
    for bad in [entry(5), entry(3) | 0x80, (entry(3) | 0x80) & !HINT] {
        for level in 0..3 {
            assert_eq!(clauses(level, bad), [clause::CONTIGUOUS], "{bad:#x}, level {level}");
        }
    }
    assert_eq!(clauses(0, entry(3) & !HINT), [clause::CONTIGUOUS], "no hint, and it must not change");
}

#[test]
fn a_contiguous_group_that_is_being_cleared_under_a_device_is_nobodys_mistake_and_no_longer_one_translation()
{
    for level in 0..3 {
        let machine = Machine::stage1(Config { break_before_make_level: level, ..plain() });
        let entry = |i: u64| (0x0010_0000_0031_0000 + i * 0x1000) | PAGE;
        machine.words(L3 + 16 * 8, &(0..16).map(entry).collect::<Vec<_>>());
        machine.words(L3 + 19 * 8, &[0]);
        assert_eq!(machine.read(1, 0x1_0000), Got::At(0x31_0000));
        assert!(
            !matches!(machine.read(1, 0x1_3000), Got::At(_)),
            "what is not there is not reached by the others"
        );
        assert_eq!(machine.clauses(), [""; 0], "level {level}");
    }
}

#[test]
fn a_hint_is_changed_entry_by_entry_under_a_device_where_no_break_is_needed() {
    for level in [1, 2] {
        let machine = Machine::stage1(Config { break_before_make_level: level, ..plain() });
        let entry = |i: u64| (HINT + 0x31_0000 + i * 0x1000) | PAGE;
        machine.words(L3 + 16 * 8, &(0..16).map(entry).collect::<Vec<_>>());
        for i in 0..16 {
            machine.words(L3 + (16 + i) * 8, &[entry(i) & !HINT]);
            for page in 0..16 {
                let at = page * 0x1000;
                assert_eq!(machine.read(1, 0x1_0000 + at), Got::At(0x31_0000 + at), "level {level}");
            }
            // What is cached of one step is not what the next one finds.
            machine.command(0x10, 0);
            machine.sync();
        }
        machine.assert_clean();
    }
}

#[test]
fn the_hypervisors_own_regime_has_one_half_and_no_asid() {
    let machine = Machine::stage1(Config { hyp: true, ..plain() });
    machine.ste(1, &[0x5_000b, 0x8000_0000, 0, 0, 0, 0, 0, 0]); // STRW=0b10
    // EPD0 is ignored; AP[1] is ignored.
    machine.words(CD, &[CD_39[0] | 0x4000]);
    machine.words(L3 + 0x10, &[0x30_2f03]);
    assert_eq!(machine.read(1, 0x2000), Got::At(0x30_2000));
    assert_eq!(machine.read(1, 0xffff_ffff_ffff_f000), Got::Abort);
    // NH commands leave it, the EL2 one finds it whatever the ASID.
    machine.command(0x30, 0);
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 1);
    machine.command(0x22, 0x2001);
    machine.sync();
    assert_eq!(machine.smmu.cached_translations(), 0);
    machine.assert_clean();
}
