//! Context descriptors: finding one, and every way in which one can be wrong.

use model_smmuv3::{Config, clause};
use portcullis_types::Access;

use crate::harness::{CD, CD_39, Got, L1, Machine, STE_S1, plain};

/// A rule, the part, the word and bits in which a sound descriptor is changed: set, cleared.
struct Wrong(&'static str, Config, usize, u64, u64);

/// Every cause of C_BAD_CD.
fn wrong_descriptors() -> Vec<Wrong> {
    let half1 = 0x4000_0000;
    vec![
        Wrong("reserved bits set in a CD", plain(), 1, 0x0010_0000_0000_0000, 0),
        Wrong("reserved bits set in a CD", plain(), 1, 0x8, 0),
        Wrong("reserved bits set in a CD", plain(), 2, 0x0800_0000_0000_0000, 0),
        Wrong("reserved bits set in a CD", plain(), 5, 0x0100_0000_0000_0000, 0),
        Wrong("reserved bits set in a CD", plain(), 6, 1, 0),
        Wrong("reserved bits set in a CD", plain(), 7, 1, 0),
        Wrong("A clear", Config { terminate_aborts: true, ..plain() }, 0, 0, 0x4000_0000_0000),
        Wrong("S set", plain(), 0, 0x1000_0000_0000, 0),
        Wrong("ENDI", plain(), 0, 0x8000, 0),
        Wrong("AA64", plain(), 0, 0, 0x200_0000_0000),
        Wrong("HA or HD", plain(), 0, 0x400_0000_0000, 0),
        Wrong("HA or HD", plain(), 0, 0x800_0000_0000, 0),
        Wrong("ASID of 16 bits", Config { asid_16_bits: false, ..plain() }, 0, 0x0100_0000_0000_0000, 0),
        // T0SZ 40, and 15.
        Wrong("T0SZ or T1SZ", plain(), 0, 0x28, 0x3f),
        Wrong("T0SZ or T1SZ", plain(), 0, 0x0f, 0x3f),
        // 64 KiB without 52 bits: 15 is too small, too.
        Wrong("T0SZ or T1SZ", plain(), 0, 0x4f, 0x3f),
        // TTB1 with T1SZ=0; TG1=2 is 4 KiB.
        Wrong("T0SZ or T1SZ", plain(), 0, 0x80_0000, half1),
        Wrong("TG0 or TG1", plain(), 0, 0xc0, 0),
        Wrong("TG0 or TG1", Config { granule_64k: false, ..plain() }, 0, 0x40, 0),
        Wrong("TG0 or TG1", Config { granule_16k: false, ..plain() }, 0, 0x80, 0),
        // TTB1 with T1SZ=25 and TG1=0, which is reserved.
        Wrong("TG0 or TG1", plain(), 0, 0x19_0000, half1),
        Wrong("TTB0 or TTB1", plain(), 1, 0x0001_0000_0000_0000, 0),
    ]
}

#[test]
fn each_cause_of_a_bad_cd_is_found_and_named() {
    for Wrong(rule, config, word, set, clear) in wrong_descriptors() {
        let machine = Machine::stage1(config);
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "{rule}");
        machine.flush_cd();
        machine.flush_tlb();
        let mut cd = CD_39;
        cd[word] = cd[word] & !clear | set;
        machine.words(CD, &cd);
        machine.flush_cd();
        assert_eq!(machine.read(1, 0x1000), Got::Abort, "{rule}");
        assert_eq!(machine.event(), [0x0000_0001_0000_000a, 0, 0, 0], "{rule}");
        let clauses = machine.clauses();
        assert!(clauses.len() == 1 && clauses[0].contains(rule), "{rule}: {clauses:?}");
    }
}

#[test]
fn the_root_of_the_upper_half_is_checked_against_its_size_too() {
    // EPD1 clear, TG1=2 (4 KiB), T1SZ=25, IPS=1 (36 bits), TTB1 at 2^36.
    let machine = Machine::stage1(plain());
    machine.words(CD, &[0x0001_6201_8099_0019, L1, 0x10_0000_0000, 0xff]);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    assert_eq!(machine.event()[0], 0x0000_0001_0000_000a);
    assert!(machine.clauses()[0].contains("TTB0 or TTB1"));
}

#[test]
fn a_descriptor_that_is_not_valid_is_bad_but_breaks_no_rule() {
    let machine = Machine::stage1(plain());
    machine.words(CD, &[CD_39[0] & !0x8000_0000, u64::MAX, u64::MAX]);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_000a, 0, 0, 0]);
    machine.assert_clean();
}

#[test]
fn a_disabled_half_is_not_checked_and_faults() {
    // EPD0 set with a T0SZ, TG0 and TTB0 that would not do.
    let machine = Machine::stage1(plain());
    machine.words(CD, &[CD_39[0] | 0x40ff, 0x000f_ffff_ffff_fff0]);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x10);
    machine.assert_clean();
}

#[test]
fn a_fetch_of_a_descriptor_that_fails_says_where() {
    let machine = Machine::stage1(plain());
    machine.hole(CD..=CD + 0x3f);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0009, 0, 0, CD]);
    machine.fill_holes();
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "a failed fetch is not remembered");
}

fn substreams() -> Config {
    Config { substream_id_bits: 8, ..plain() }
}

/// Stream 1 with four descriptors (S1CDMax=2) and this S1DSS; substream 2 has the usual tables, ASID 7.
fn four_contexts(s1dss: u64) -> Machine {
    let machine = Machine::stage1(substreams());
    machine.ste(1, &[0x1000_0000_0005_000b, s1dss, 0, 0, 0, 0, 0, 0]);
    machine.words(CD + 2 * 64, &[0x0007_6205_c000_0019, L1, 0, 0xff]);
    machine
}

#[test]
fn substreams_choose_their_descriptor() {
    let machine = four_contexts(2);
    assert_eq!(machine.access(1, Some(2), 0x1000, Access::READ), Got::At(0x30_0000));
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000), "without one, descriptor 0");
    machine.assert_clean();
    assert_eq!(machine.access(1, Some(3), 0x1000, Access::READ), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_380a, 0, 0, 0], "the event says which substream");
}

#[test]
fn what_comes_without_a_substream_follows_s1dss() {
    for code in [0, 3] {
        let machine = four_contexts(code);
        assert_eq!(machine.read(1, 0x1000), Got::Abort, "terminated");
        assert_eq!(machine.event(), [0x0000_0001_0000_0006, 0, 0, 0]);
        let _ = machine.access(1, Some(0), 0x1000, Access::READ);
        assert_eq!(machine.events(), [[0; 4]; 0], "substream 0 is one like others");
    }
    let machine = four_contexts(1);
    assert_eq!(machine.read(1, 0x1234), Got::At(0x1234), "bypassed");
    let machine = four_contexts(2);
    assert_eq!(machine.access(1, Some(0), 0x1000, Access::READ), Got::Abort, "descriptor 0 is reserved");
    assert_eq!(machine.event(), [0x0000_0001_0000_0006, 0, 0, 0]);
}

#[test]
fn each_cause_of_a_bad_substream_is_found() {
    let bad = |machine: &Machine, stream: u32, pasid: u32| {
        assert_eq!(machine.access(stream, Some(pasid), 0x1000, Access::READ), Got::Abort);
        let record = machine.event();
        assert_eq!(record, [u64::from(stream) << 32 | u64::from(pasid) << 12 | 8, 0, 0, 0]);
    };
    let machine = four_contexts(0);
    bad(&machine, 1, 4); // SubstreamID >= 2^S1CDMax
    machine.ste(2, &[9, 0, 0, 0, 0, 0, 0, 0]);
    bad(&machine, 2, 1); // stage 1 disabled
    machine.ste(3, &STE_S1);
    bad(&machine, 3, 1); // S1CDMax == 0
    let machine = Machine::stage1(plain());
    machine.ste(1, &[0x1000_0000_0005_000b, 0, 0, 0, 0, 0, 0, 0]);
    bad(&machine, 1, 1); // SSIDSIZE == 0
}

/// Stream 1 with 256 descriptors in two levels, leaf tables of 4 KiB: level 1 at 0x6_0000, one leaf at 0x7_0000 for 64 to 127.
fn two_level(l1cd: u64) -> Machine {
    let machine = Machine::stage1(substreams());
    machine.ste(1, &[0x4000_0000_0006_001b, 2, 0, 0, 0, 0, 0, 0]);
    machine.words(0x6_0008, &[l1cd]);
    machine.words(0x7_0000 + 3 * 64, &CD_39);
    machine
}

#[test]
fn a_two_level_table_of_descriptors_is_walked() {
    let machine = two_level(0x7_0001);
    assert_eq!(machine.access(1, Some(67), 0x1000, Access::READ), Got::At(0x30_0000));
    machine.assert_clean();
    // Leaf tables of 64 KiB hold 1024.
    machine.ste(2, &[0x4000_0000_0008_002b, 2, 0, 0, 0, 0, 0, 0]);
    machine.words(0x8_0000, &[0x9_0001]);
    machine.words(0x9_0000 + 67 * 64, &CD_39);
    assert_eq!(machine.access(2, Some(67), 0x1000, Access::READ), Got::At(0x30_0000));
    machine.assert_clean();
}

#[test]
fn a_level_1_descriptor_that_will_not_do_makes_a_bad_substream() {
    // Not valid; out of range.
    for l1cd in [0x7_0000, 0x0001_0000_0000_0001] {
        let machine = two_level(l1cd);
        assert_eq!(machine.access(1, Some(67), 0x1000, Access::READ), Got::Abort);
        assert_eq!(machine.event(), [0x0000_0001_0004_3008, 0, 0, 0]);
    }
    // Without a substream, descriptor 0 was meant.
    let machine = two_level(0x7_0001);
    assert_eq!(machine.read(1, 0x1000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0008, 0, 0, 0]);
    machine.hole(0x6_0008..=0x6_000f);
    assert_eq!(machine.access(1, Some(67), 0x1000, Access::READ), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0004_3809, 0, 0, 0x6_0008]);
}

#[test]
fn misaligned_tables_of_descriptors_are_aligned_and_noted() {
    // Four linear descriptors are 256 bytes.
    let machine = four_contexts(2);
    machine.ste(1, &[0x1000_0000_0005_004b, 2, 0, 0, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::CD_ALIGNMENT]);
    // A leaf table of 1024 descriptors is 64 KiB.
    let machine = Machine::stage1(substreams());
    machine.ste(1, &[0x4000_0000_0006_002b, 2, 0, 0, 0, 0, 0, 0]);
    machine.words(0x6_0000, &[0x7_1001]);
    machine.words(0x7_0000, &CD_39);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::CD_ALIGNMENT]);
}

#[test]
fn a_misaligned_root_is_aligned_and_noted() {
    let machine = Machine::stage1(plain());
    machine.words(CD + 8, &[L1 + 0x40]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::ROOT_ALIGNMENT]);
}

#[test]
fn two_descriptors_of_one_address_space_must_agree() {
    let machine = Machine::stage1(plain());
    let stream2 = [0x5_100b, 0, 0, 0, 0, 0, 0, 0];
    machine.ste(2, &stream2);
    // R and A may differ: a TLB does not keep them.
    machine.words(CD + 0x1000, &[CD_39[0] & !0x6000_0000_0000, L1, 0, 0xff]);
    assert_eq!([machine.read(1, 0x1000), machine.read(2, 0x1000)], [Got::At(0x30_0000); 2]);
    machine.assert_clean();
    for other in
        [[CD_39[0], 0x11_0000, 0, 0xff], [CD_39[0], L1, 0, 0x44], [CD_39[0] | 0x10_0000_0000, L1, 0, 0xff]]
    {
        let machine = Machine::stage1(plain());
        machine.ste(2, &stream2);
        machine.words(CD + 0x1000, &other);
        let _ = [machine.read(1, 0x1000), machine.read(2, 0x1000)];
        assert_eq!(machine.clauses(), [clause::SHARED_ASID], "{other:x?}");
    }
    // Another ASID is another address space.
    let machine = Machine::stage1(plain());
    machine.ste(2, &stream2);
    machine.words(CD + 0x1000, &[CD_39[0] | 0x0002_0000_0000_0000, 0x11_0000, 0, 0xff]);
    let _ = [machine.read(1, 0x1000), machine.read(2, 0x1000)];
    machine.assert_clean();
}
