//! Stage 1: walks of every granule and scheme, and every fault.

use model_smmuv2::{Config, clause};
use portcullis_types::AccessKind;

use crate::harness::{CBAR_S1, Got, L1, L2, L3, Machine, PAGE, SCTLR, SCTLR_ON, TCR, TTBR0, plain};

const BLOCK: u64 = PAGE & !2;
const ROOT: u64 = 0x40_0000;
const NEXT: u64 = 0x41_0000;
const THIRD: u64 = 0x42_0000;
const FOURTH: u64 = 0x43_0000;

#[test]
fn a_page_is_found_and_the_offset_kept() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(5, 0x1abc), Got::At(0x30_0abc));
    assert_eq!(machine.write(5, 0x1000), Got::At(0x30_0000));
    let counters = machine.smmu.counters();
    assert_eq!((counters.misses, counters.hits, counters.descriptor_reads), (1, 1, 3));
    machine.assert_clean();
}

/// TCR, TCR2, both TTBRs, the tables on the way to an address, what they lead to.
struct Walk {
    name: &'static str,
    wide: bool,
    tcr: u32,
    tcr2: u32,
    address: u64,
    words: &'static [(u64, u64)],
    output: u64,
}

fn walks() -> Vec<Walk> {
    let wide = |name, tcr, address, words, output| Walk {
        name,
        wide: true,
        tcr,
        tcr2: 0x0003_8005,
        address,
        words,
        output,
    };
    let narrow =
        |name, tcr, address, words, output| Walk { wide: false, ..wide(name, tcr, address, words, output) };
    vec![
        wide(
            "4K, 48 bits, page",
            0x80_0010,
            0x8080_4020_1abc,
            &[
                (ROOT + 0x101 * 8, NEXT | 3),
                (NEXT + 8, THIRD | 3),
                (THIRD + 8, FOURTH | 3),
                (FOURTH + 8, 0x1234_5000 | PAGE),
            ],
            0x1234_5abc,
        ),
        wide(
            "4K, 2 MiB block",
            0x80_0019,
            0x7f_ffe0_1234,
            &[(ROOT + 0x1ff * 8, NEXT | 3), (NEXT + 0x1ff * 8, 0x1_2340_0000 | BLOCK)],
            0x1_2340_1234,
        ),
        wide(
            "4K, 1 GiB block",
            0x80_0019,
            0x4012_3456,
            &[(ROOT + 8, 0xc0_0000_0000 | BLOCK)],
            0xc0_0012_3456,
        ),
        wide(
            "4K, 25 bits, from level 2",
            0x80_0027,
            0x60_1abc,
            &[(ROOT + 3 * 8, NEXT | 3), (NEXT + 8, 0x5000 | PAGE)],
            0x5abc,
        ),
        wide(
            "16K, 47 bits, page",
            0x80_8011,
            0x4000_4321,
            &[(ROOT, NEXT | 3), (NEXT + 0x20 * 8, THIRD | 3), (THIRD + 8, 0x1234_4000 | PAGE)],
            0x1234_4321,
        ),
        wide(
            "16K, 48 bits, from level 0",
            0x80_8010,
            0x8000_0000_4321,
            &[(ROOT + 8, NEXT | 3), (NEXT, THIRD | 3), (THIRD, FOURTH | 3), (FOURTH + 8, 0x1234_4000 | PAGE)],
            0x1234_4321,
        ),
        wide("16K, 32 MiB block", 0x80_801c, 0x0212_3456, &[(ROOT + 8, 0x1000_0000 | BLOCK)], 0x1012_3456),
        wide(
            "64K, 42 bits, page",
            0x80_4016,
            0x2001_4321,
            &[(ROOT + 8, NEXT | 3), (NEXT + 8, 0x1235_0000 | PAGE)],
            0x1235_4321,
        ),
        wide("64K, 512 MiB block", 0x80_4016, 0x2012_3456, &[(ROOT + 8, 0x4000_0000 | BLOCK)], 0x4012_3456),
        // TG1 4K, T1SZ 25, EPD0: the upper half, which the bus of 49 bits carries with its sign.
        wide(
            "4K, upper half",
            0x8019_0080,
            0xffff_ffff_ffff_f004,
            &[
                (ROOT + 0x1ff * 8, NEXT | 3),
                (NEXT + 0x1ff * 8, THIRD | 3),
                (THIRD + 0x1ff * 8, 0x6000 | PAGE),
            ],
            0x6004,
        ),
        narrow(
            "AArch32, 32 bits, page",
            0x8000_0000,
            0xc020_1abc,
            &[(ROOT + 3 * 8, NEXT | 3), (NEXT + 8, THIRD | 3), (THIRD + 8, 0x12_3456_7000 | PAGE)],
            0x12_3456_7abc,
        ),
        // T0SZ 2: 30 bits below from level 2; the rest is TTBR1's, from level 1.
        narrow(
            "AArch32, T0SZ 2, lower",
            0x8000_0002,
            0x3fe0_0010,
            &[(ROOT + 0x1ff * 8, 0x1000_0000 | BLOCK)],
            0x1000_0010,
        ),
        narrow(
            "AArch32, T0SZ 2, upper",
            0x8000_0002,
            0x4000_0010,
            &[(ROOT + 8, 0x8000_0000 | BLOCK)],
            0x8000_0010,
        ),
        // T1SZ 3: the upper 2^29 bytes are TTBR1's, from level 2.
        narrow(
            "AArch32, T1SZ 3, upper",
            0x8003_0000,
            0xe020_0010,
            &[(ROOT + 8, 0x1020_0000 | BLOCK)],
            0x1020_0010,
        ),
    ]
}

#[test]
fn every_granule_and_scheme_walks_as_the_book_says() {
    for walk in walks() {
        let machine = Machine::new(plain());
        machine.w32(0x1000, CBAR_S1);
        machine.w32(0x1800, u32::from(walk.wide));
        machine.cb(0, TCR, walk.tcr);
        machine.cb(0, 0x10, walk.tcr2);
        machine.cb64(0, TTBR0, ROOT);
        machine.cb64(0, 0x28, ROOT);
        machine.cb(0, 0x38, 0xff);
        machine.cb(0, SCTLR, SCTLR_ON);
        machine.stream(0, 5, 0, 0);
        for &(at, word) in walk.words {
            machine.words(at, &[word]);
        }
        assert_eq!(machine.read(5, walk.address), Got::At(walk.output), "{}", walk.name);
        assert_eq!(machine.read(5, walk.address), Got::At(walk.output), "{} cached", walk.name);
        assert_eq!(machine.clauses(), Vec::<&str>::new(), "{}", walk.name);
    }
}

#[test]
fn translation_faults_have_the_level_of_the_table_that_gave_them() {
    let machine = Machine::stage1(plain());
    // Level 3, 2, 1, then outside of T0SZ and in the half that EPD1 closes: level 0.
    for (address, level) in
        [(0x2000, 3), (0x20_0000, 2), (0x4000_0000, 1), (0x80_0000_0000, 0), (0xffff_ffff_ffff_f000, 0)]
    {
        assert_eq!(machine.read(5, address), Got::Abort);
        // AArch64, TF; the address without sign extension.
        assert_eq!(machine.fault(0), (0x402, level, address & 0x1_ffff_ffff_ffff, 5), "{address:#x}");
    }
    machine.assert_clean();
}

#[test]
fn permissions_are_those_of_the_page_and_the_tables_above() {
    let machine = Machine::stage1(plain());
    // AP=0b11: read only; AP=0b00: privileged only; XN.
    machine.words(L3 + 16, &[0x40_0000 | PAGE | 0x80, 0x50_0000 | PAGE & !0x40, 0x60_0000 | PAGE | 1 << 54]);
    assert_eq!([machine.read(5, 0x2000), machine.write(5, 0x2000)], [Got::At(0x40_0000), Got::Abort]);
    // PF; WNR, level 3.
    assert_eq!(machine.fault(0), (0x408, 0x13, 0x2000, 5));
    assert_eq!(machine.privileged(AccessKind::Write, 0x3000), Got::At(0x50_0000));
    assert_eq!(machine.read(5, 0x3000), Got::Abort);
    assert_eq!(machine.fault(0), (0x408, 0x3, 0x3000, 5));
    assert_eq!(machine.fetch(5, 0x4000), Got::Abort);
    // IND.
    assert_eq!(machine.fault(0), (0x408, 0x43, 0x4000, 5));
    // APTable[1] two levels up: read only. "The final level of translation table used."
    machine.words(L1 + 8, &[0x44_0000 | 3 | 1 << 62]);
    machine.words(0x44_0000, &[0x1000_0000 | BLOCK]);
    assert_eq!(machine.write(5, 0x4000_0000), Got::Abort);
    assert_eq!(machine.fault(0), (0x408, 0x12, 0x4000_0000, 5));
    machine.assert_clean();
}

#[test]
fn hierarchical_attributes_can_be_switched_off_where_that_is_there() {
    for (there, got) in [(false, Got::Abort), (true, Got::At(0x30_0000))] {
        let machine = Machine::stage1(Config { hierarchical_disable: there, ..plain() });
        machine.words(L1, &[L2 | 3 | 1 << 61]);
        machine.cb(0, 0x10, 0x0003_8115); // HAD0
        assert_eq!(machine.read(5, 0x1000), got);
    }
}

#[test]
fn the_access_flag_faults_unless_affd_says_otherwise() {
    let machine = Machine::stage1(plain());
    machine.words(L3 + 16, &[0x40_0000 | PAGE & !0x400]);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    assert_eq!(machine.fault(0), (0x404, 0x3, 0x2000, 5));
    machine.cb(0, SCTLR, SCTLR_ON | 8);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    machine.assert_clean();
}

#[test]
fn addresses_beyond_the_size_are_address_size_faults() {
    let machine = Machine::stage1(plain());
    machine.cb(0, 0x10, 0x0003_8010); // PASize 32 bits
    machine.words(L3 + 16, &[0x1_0000_0000 | PAGE]);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    assert_eq!(machine.fault(0), (0x480, 0x3, 0x2000, 5));
    machine.words(L1 + 8, &[0x2_0000_0000 | 3]);
    assert_eq!(machine.read(5, 0x4000_0000), Got::Abort);
    assert_eq!(machine.fault(0), (0x480, 0x1, 0x4000_0000, 5));
    machine.assert_clean();
    let machine = Machine::stage1(plain());
    machine.cb(0, 0x10, 0x0003_8010);
    machine.cb64(0, TTBR0, 3 << 48 | 0x1_0000_0000);
    assert_eq!(machine.read(5, 0x1000), Got::Abort, "the table base, too");
    assert_eq!(machine.fault(0), (0x480, 0x0, 0x1000, 5));
}

#[test]
fn a_walk_that_memory_does_not_answer_is_an_external_fault() {
    let machine = Machine::stage1(plain());
    machine.hole(L2..=L2 + 0xfff);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    // EF; PTWF, level 2.
    assert_eq!(machine.fault(0), (0x410, 0x402, 0x1000, 5));
}

#[test]
fn an_aarch32_context_takes_no_address_above_32_bits() {
    let machine = Machine::stage1(plain());
    machine.cb(0, SCTLR, 0);
    machine.w32(0x68, 0);
    machine.gsync();
    machine.w32(0x1800, 0);
    for sctlr in [SCTLR_ON, SCTLR_ON & !1] {
        machine.cb(0, SCTLR, sctlr);
        assert_eq!(machine.read(5, 0x1_0000_1000), Got::Abort);
        // AArch32 long descriptors; level 1.
        assert_eq!(machine.fault(0), (0x202, 0x1, 0x1_0000_1000, 5));
    }
}

#[test]
fn a_bank_that_is_off_translates_nothing_and_checks_the_size() {
    let machine = Machine::stage1(Config { ipa_bits: 44, output_bits: 44, ..plain() });
    machine.cb(0, SCTLR, SCTLR_ON & !1);
    assert_eq!(machine.read(5, 0x7777_1000), Got::At(0x7777_1000));
    assert_eq!(machine.read(5, 0x1000_0000_0000), Got::Abort);
    assert_eq!(machine.fault(0).0, 0x480);
    machine.assert_clean();
}

#[test]
fn sign_extension_is_where_sep_says() {
    let machine = Machine::stage1(plain());
    // SEP 1: bit 35. What is above it must be zero.
    machine.cb(0, SCTLR, 0);
    machine.w32(0x68, 0);
    machine.gsync();
    machine.cb(0, 0x10, 0x0000_8015);
    machine.cb(0, TCR, 0x9d80_351d | 0x001d_0000); // both halves of 35 bits, EPD1
    machine.words(L1, &[L2 | 3]);
    machine.cb(0, SCTLR, SCTLR_ON);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.read(5, 0x10_0000_1000), Got::Abort, "bit 36");
    assert_eq!(machine.fault(0), (0x402, 0, 0x10_0000_1000, 5));
    machine.assert_clean();
    machine.cb(0, 0x10, 0x0003_8015);
    assert_eq!(machine.clauses(), [clause::SIGN_EXTENSION]);
}

#[test]
fn hypervisor_contexts_have_one_privilege_and_no_asid() {
    let machine = Machine::new(plain());
    machine.tables();
    machine.bank1(0, CBAR_S1 | 0x400);
    machine.cb(0, TCR, 0x3519);
    machine.clauses();
    machine.stream(0, 5, 0, 0);
    machine.words(L3 + 16, &[0x40_0000 | PAGE & !0x40]);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000), "no AP[1]");
    // TLBIALLNSNH leaves it, TLBIALLH takes it.
    machine.words(L3 + 16, &[0]);
    machine.w32(0x68, 0);
    machine.gsync();
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    machine.w64(0xc0, 2);
    machine.gsync();
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    machine.assert_clean();
    machine.cb(0, 0x610, 3);
    assert_eq!(machine.clauses(), [clause::HYPERVISOR_OPERATION]);
}

#[test]
fn tables_can_be_big_endian() {
    let machine = Machine::stage1(plain());
    machine.words(L1, &[(L2 | 3).swap_bytes()]);
    machine.words(L2, &[(L3 | 3).swap_bytes()]);
    machine.words(L3 + 8, &[(0x30_0000 | PAGE).swap_bytes()]);
    machine.cb(0, SCTLR, SCTLR_ON | 0x10);
    assert_eq!(machine.read(5, 0x1004), Got::At(0x30_0004));
}

#[test]
fn a_contiguous_group_is_one_translation_if_all_of_it_agrees() {
    let machine = Machine::stage1(plain());
    let group: Vec<u64> = (0..16).map(|i| (0x70_0000 + i * 0x1000) | PAGE | 1 << 52).collect();
    machine.words(L3 + 16 * 8, &group);
    assert_eq!(machine.read(5, 0x1_0000), Got::At(0x70_0000));
    let reads = machine.smmu.counters().descriptor_reads;
    assert_eq!(machine.read(5, 0x1_f000), Got::At(0x70_f000));
    assert_eq!(machine.smmu.counters().descriptor_reads, reads, "cached with the rest");
    machine.assert_clean();
    // One that leads elsewhere.
    machine.words(L3 + 32 * 8, &group[..15]);
    machine.words(L3 + 47 * 8, &group[3..4]);
    machine.read(5, 0x2_0000);
    assert_eq!(machine.clauses(), [clause::CONTIGUOUS]);
}

#[test]
fn a_contiguous_group_that_is_being_cleared_under_a_device_is_nobodys_mistake_and_no_longer_one_translation()
{
    let machine = Machine::stage1(plain());
    let group: Vec<u64> = (0..15).map(|i| (0x70_0000 + i * 0x1000) | PAGE | 1 << 52).collect();
    machine.words(L3 + 32 * 8, &group);
    assert_eq!(machine.read(5, 0x2_0000), Got::At(0x70_0000));
    assert!(
        !matches!(machine.read(5, 0x2_f000), Got::At(_)),
        "what is not there is not reached by the others"
    );
    machine.assert_clean();
}

#[test]
fn upstream_addresses_that_do_not_fit_can_be_faults() {
    let machine = Machine::stage1(Config { upstream_faults: true, ..plain() });
    assert_eq!(machine.read(5, 0x0004_0000_0000_1000), Got::Abort);
    assert_eq!(machine.fault(0).0, 0x500);
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(5, 0x0004_0000_0000_1000), Got::At(0x30_0000), "or cut");
}
