//! Stage 2 alone, and stage 1 through stage 2.

use model_smmuv3::{Config, clause};

use crate::harness::{
    CD, CD_39, Got, L1, L3, Machine, PAGE, S2_L1, S2_L3, S2_PAGE, STE_NESTED, STE_S2, plain,
};

fn stage2() -> Machine {
    let machine = Machine::new(plain());
    machine.ste(1, &STE_S2);
    machine.tables2();
    machine
}

/// Stage 1 tables and descriptor at intermediate addresses that stage 2 maps 1:1.
fn nested() -> Machine {
    let machine = stage2();
    machine.ste(1, &STE_NESTED);
    machine.words(CD, &CD_39);
    machine.tables();
    machine
}

/// Word 1 of an event of stage 2, a read: CLASS=IN, CLASS=TT, CLASS=CD.
const IN: u64 = 0x0000_0288_0000_0000;
const TT: u64 = 0x0000_0188_0000_0000;
const CD_CLASS: u64 = 0x0000_0088_0000_0000;

#[test]
fn intermediate_addresses_are_translated() {
    let machine = stage2();
    assert_eq!(machine.read(1, 0x40_1234), Got::At(0x50_0234));
    assert_eq!(machine.read(1, 0x1234), Got::At(0x1234));
    machine.assert_clean();
}

#[test]
fn up_to_sixteen_tables_are_concatenated() {
    let machine = stage2();
    // The second of the two level 1 tables.
    machine.words(S2_L1 + 0x200 * 8, &[0x40_0000_0000 | S2_PAGE & !2]);
    assert_eq!(machine.read(1, 0x80_0012_3456), Got::At(0x40_0012_3456));
    machine.assert_clean();
}

#[test]
fn stage_2_faults_say_the_intermediate_address() {
    let machine = stage2();
    // No descriptor; beyond 40 bits; AF clear; read-only; not executable.
    machine.words(
        S2_L3 + 0x18,
        &[0x60_0000 | S2_PAGE & !0x400, 0x60_0000 | S2_PAGE & !0x80, 0x0040_0000_0060_0000 | S2_PAGE],
    );
    let row = |got: Got, number: u64, attributes: u64, address: u64| {
        assert_eq!(got, Got::Abort, "{address:#x}");
        assert_eq!(machine.event(), [0x0000_0001_0000_0000 | number, attributes, address, address & !0xfff]);
    };
    row(machine.read(1, 0x40_2abc), 0x10, IN, 0x40_2abc);
    row(machine.read(1, 0x100_0000_0000), 0x10, IN, 0x100_0000_0000);
    row(machine.read(1, 0x40_3000), 0x12, IN, 0x40_3000);
    row(machine.write(1, 0x40_4123), 0x13, 0x0000_0280_0000_0000, 0x40_4123);
    row(machine.fetch(1, 0x40_5000), 0x13, 0x0000_028c_0000_0000, 0x40_5000);
    machine.assert_clean();
}

#[test]
fn an_output_beyond_s2ps_is_an_address_size_fault() {
    let machine = Machine::new(plain());
    // S2PS=1: 36 bits.
    machine.ste(1, &[STE_S2[0], 0, 0x0409_0058_0000_0001, S2_L1, 0, 0, 0, 0]);
    machine.tables2();
    machine.words(S2_L3 + 0x10, &[0x10_0000_0000 | S2_PAGE]);
    assert_eq!(machine.read(1, 0x40_2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0011, IN, 0x40_2000, 0x40_2000]);
}

#[test]
fn the_access_flag_of_stage_2_can_be_ignored() {
    let machine = stage2();
    machine.ste(1, &[STE_S2[0], 0, STE_S2[2] | 0x0020_0000_0000_0000, S2_L1, 0, 0, 0, 0]);
    machine.words(S2_L3 + 0x18, &[0x60_0000 | S2_PAGE & !0x400]);
    assert_eq!(machine.read(1, 0x40_3000), Got::At(0x60_0000));
}

#[test]
fn a_stage_2_descriptor_that_cannot_be_read_is_a_walk_abort() {
    let machine = stage2();
    machine.hole(S2_L3 + 8..=S2_L3 + 15);
    assert_eq!(machine.read(1, 0x40_1abc), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_000b, IN, 0x40_1abc, S2_L3 + 8]);
}

#[test]
fn stage_2_faults_are_told_only_if_s2r_says_so_and_always_abort() {
    let machine = stage2();
    machine.ste(1, &[STE_S2[0], 0, STE_S2[2] & !0x0400_0000_0000_0000, S2_L1, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x40_2000), Got::Abort);
    assert_eq!(machine.events(), [[0; 4]; 0]);
    machine.hole(S2_L3..=S2_L3 + 0xfff);
    assert_eq!(machine.read(1, 0x40_3000), Got::Abort);
    assert_eq!(machine.event()[0] & 0xff, 0x0b, "a walk abort is always told");
}

#[test]
fn an_address_beyond_what_there_is_is_a_stage_1_size_fault_when_stage_1_is_bypassed() {
    let machine = Machine::new(Config { output_bits: 44, ..plain() });
    // S2PS=4.
    machine.ste(1, &[STE_S2[0], 0, 0x040c_0058_0000_0001, S2_L1, 0, 0, 0, 0]);
    machine.ste(2, &[9, 0, 0, 0, 0, 0, 0, 0]);
    for stream in [1, 2] {
        assert_eq!(machine.read(stream, 0x1000_0000_0000), Got::Abort);
        assert_eq!(
            machine.event(),
            [u64::from(stream) << 32 | 0x11, 0x0000_0208_0000_0000, 0x1000_0000_0000, 0]
        );
    }
    assert_eq!(machine.read(2, 0x0fff_ffff_f000), Got::At(0x0fff_ffff_f000));
    machine.disable();
    assert_eq!(machine.read(2, 0x1000_0000_0000), Got::Abort, "off, it is aborted, too");
    assert_eq!(machine.events(), [[0; 4]; 0], "in silence");
}

#[test]
fn both_stages_are_walked_one_through_the_other() {
    let machine = nested();
    machine.words(L3 + 0x10, &[0x40_1000 | PAGE]);
    assert_eq!(machine.read(1, 0x1234), Got::At(0x30_0234));
    assert_eq!(machine.read(1, 0x2abc), Got::At(0x50_0abc));
    machine.assert_clean();
}

#[test]
fn a_translation_of_both_stages_is_no_larger_than_either() {
    let machine = nested();
    // A 2 MiB block of stage 1 over pages of stage 2: only one of those pages is there.
    machine.words(L1 + 0x1000 + 0x10, &[0x40_0000 | PAGE & !2]);
    assert_eq!(machine.read(1, 0x40_1234), Got::At(0x50_0234));
    assert_eq!(machine.read(1, 0x40_2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, IN, 0x40_2000, 0x40_2000]);
}

#[test]
fn stage_2_faults_of_the_walk_itself_say_so() {
    // The CD, then the root table, at an intermediate address without a descriptor.
    let machine = nested();
    machine.ste(1, &[0x60_000f, 0, STE_NESTED[2], S2_L1, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, CD_CLASS, 0x1234, 0x60_0000]);
    let machine = nested();
    machine.words(CD + 8, &[0x60_0000]);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, TT, 0x1234, 0x60_0000]);
    // Not readable at stage 2: the descriptor of a table. TTRnW is set.
    let machine = nested();
    machine.words(S2_L3 + 0x10, &[0x60_0000 | S2_PAGE & !0x40]);
    machine.words(CD + 8, &[0x40_2000]);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0013, TT | 0x1000_0000_0000, 0x1234, 0x40_2000]);
    // The same for the CD.
    let machine = nested();
    machine.words(S2_L3 + 0x10, &[0x60_0000 | S2_PAGE & !0x40]);
    machine.ste(1, &[0x40_200f, 0, STE_NESTED[2], S2_L1, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0013, CD_CLASS, 0x1234, 0x40_2000]);
}

#[test]
fn walk_aborts_name_the_stage_and_the_physical_address() {
    let machine = nested();
    // A stage 1 descriptor, after stage 2 translated where it is: stage 1.
    machine.words(S2_L3 + 0x10, &[0x60_0000 | S2_PAGE]);
    machine.words(CD + 8, &[0x40_2000]);
    machine.hole(0x60_0000..=0x60_0007);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_000b, 0x0000_0108_0000_0000, 0x1234, 0x60_0000]);
    // A stage 2 descriptor on the way to a stage 1 one: stage 2, CLASS=TT.
    let machine = nested();
    machine.words(CD + 8, &[0x40_2000]);
    machine.hole(S2_L3 + 0x10..=S2_L3 + 0x17);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_000b, TT, 0x1234, S2_L3 + 0x10]);
    // The CD's own bytes.
    let machine = nested();
    machine.hole(CD..=CD + 0x3f);
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0009, 0, 0, CD]);
}

#[test]
fn a_protected_walk_does_not_go_through_device_memory() {
    let machine = nested();
    machine.words(S2_L3 + 0x10, &[0x60_0000 | S2_PAGE & !0x3c]); // Device-nGnRnE
    machine.words(0x60_0000, &[(L1 + 0x1000) | 3]);
    machine.words(CD + 8, &[0x40_2000]);
    assert_eq!(machine.read(1, 0x1234), Got::At(0x30_0234), "without S2PTW it does");
    machine.ste(1, &[STE_NESTED[0], 0, STE_NESTED[2] | 0x0040_0000_0000_0000, S2_L1, 0, 0, 0, 0]);
    machine.flush_ste(1);
    machine.flush_tlb();
    assert_eq!(machine.read(1, 0x1234), Got::Abort);
    assert_eq!(machine.event()[..2], [0x0000_0001_0000_0013, TT | 0x1000_0000_0000]);
}

#[test]
fn a_stage_1_fault_comes_before_one_of_stage_2() {
    let machine = nested();
    // Read-only at stage 1, not there at stage 2.
    machine.words(L3 + 0x10, &[0x60_0000 | PAGE | 0x80]);
    assert_eq!(machine.write(1, 0x2000), Got::Abort);
    assert_eq!(machine.event()[..2], [0x0000_0001_0000_0013, 0x0000_0200_0000_0000]);
    assert_eq!(machine.read(1, 0x2000), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0010, IN, 0x2000, 0x60_0000]);
}

#[test]
fn a_cached_translation_of_both_stages_still_tells_whose_permission_failed() {
    let machine = nested();
    machine.words(L3 + 0x10, &[0x40_3000 | PAGE]);
    machine.words(S2_L3 + 0x18, &[0x60_0000 | S2_PAGE & !0x80]);
    assert_eq!(machine.read(1, 0x2123), Got::At(0x60_0123));
    assert_eq!(machine.write(1, 0x2123), Got::Abort);
    assert_eq!(machine.event(), [0x0000_0001_0000_0013, 0x0000_0280_0000_0000, 0x2123, 0x40_3000]);
}

#[test]
fn a_misaligned_stage_2_root_is_aligned_and_noted() {
    let machine = stage2();
    // Two concatenated tables are 8 KiB.
    machine.ste(1, &[STE_S2[0], 0, STE_S2[2], S2_L1 + 0x1000, 0, 0, 0, 0]);
    assert_eq!(machine.read(1, 0x40_1000), Got::At(0x50_0000));
    assert_eq!(machine.clauses(), [clause::ROOT_ALIGNMENT]);
}

#[test]
fn stage_2_walks_every_granule() {
    // S2TG, S2SL0, S2T0SZ in bits 47:32; address; tables; output.
    type Row = (u64, u64, &'static [(u64, u64)], u64);
    let rows: [Row; 3] = [
        (
            0x4059,
            0x2001_1234,
            &[(0x40_0000 + 8, 0x41_0003), (0x41_0000 + 8, 0x1234_0000 | S2_PAGE)],
            0x1234_1234,
        ),
        (
            0x8099,
            0x0200_4321,
            &[(0x40_0000, 0x41_0003), (0x41_0000 + 8, 0x42_0003), (0x42_0000 + 8, 0x1234_4000 | S2_PAGE)],
            0x1234_4321,
        ),
        (
            0x0090,
            0x8000_0000_1234,
            &[
                (0x40_0000 + 0x100 * 8, 0x41_0003),
                (0x41_0000, 0x42_0003),
                (0x42_0000, 0x43_0003),
                (0x43_0000 + 8, 0x5000 | S2_PAGE),
            ],
            0x5234,
        ),
    ];
    for (fields, address, tables, output) in rows {
        let machine = Machine::new(plain());
        machine.ste(1, &[STE_S2[0], 0, 0x040d_0000_0000_0001 | fields << 32, 0x40_0000, 0, 0, 0, 0]);
        for &(at, word) in tables {
            machine.words(at, &[word]);
        }
        assert_eq!(machine.read(1, address), Got::At(output), "{fields:#x}");
        machine.assert_clean();
    }
}
