//! What an access reaches, and what it is refused for.

use model_cpu::{Context, Cpu, CpuFeatures, Fault, FaultKind, TlbPolicy};
use portcullis_types::{AccessKind, Pa};

use crate::bench::{Bench, L0, L1, L2, L3, MAIR, TCR_4K};

/// A page at 0x4020_0000 for user code: valid, page, index 0, AP 01, inner shareable, AF, nG, never executable.
const PAGE_RW: u64 = 0x0060_0000_4020_0f43;

fn refusal(result: Result<(), Fault>) -> (FaultKind, i8) {
    let fault = result.unwrap_err();
    (fault.kind, fault.level)
}

fn read_at(cpu: &Cpu, va: u64) -> Result<u8, Fault> {
    let mut byte = [0];
    cpu.load(va, &mut byte)?;
    Ok(byte[0])
}

#[test]
fn what_is_stored_by_virtual_address_lies_at_the_physical_one() {
    let bench = Bench::common();
    bench.word_now(L3, PAGE_RW);
    bench.cpu(0).store(0x123, b"hello").unwrap();
    let mut bytes = [0; 5];
    bench.bus.cpu().read(Pa::new(0x4020_0123), &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    bench.bus.cpu().write(Pa::new(0x4020_0124), b"a").unwrap();
    let mut bytes = [0; 5];
    bench.cpu(1).load(0x123, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hallo");
}

#[test]
fn an_access_across_pages_goes_on_where_the_next_page_is_and_stops_where_there_is_none() {
    let bench = Bench::common();
    bench.word(L3, PAGE_RW);
    bench.word_now(L3 + 8, 0x0060_0000_4030_0f43);
    bench.cpu(0).store(0xffe, &[1, 2, 3, 4]).unwrap();
    let mut bytes = [0; 2];
    bench.bus.cpu().read(Pa::new(0x4030_0000), &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4]);
    let fault = bench.cpu(0).store(0x1ffe, &[5; 4]).unwrap_err();
    let wanted = Fault { va: 0x2000, access: AccessKind::Write, kind: FaultKind::Translation, level: 3 };
    assert_eq!(fault, wanted);
    assert_eq!(read_at(&bench.cpu(0), 0x1fff), Ok(5));
}

#[test]
fn a_missing_descriptor_is_a_translation_fault_of_its_level() {
    let bench = Bench::common();
    let cpu = bench.cpu(0);
    assert_eq!(refusal(cpu.load(0x1000, &mut [0])), (FaultKind::Translation, 3));
    assert_eq!(refusal(cpu.load(0x20_0000, &mut [0])), (FaultKind::Translation, 2));
    assert_eq!(refusal(cpu.load(0x4000_0000, &mut [0])), (FaultKind::Translation, 1));
    assert_eq!(refusal(cpu.load(0x80_0000_0000, &mut [0])), (FaultKind::Translation, 0));
    assert_eq!(refusal(cpu.load(0x1_0000_0000_0000, &mut [0])), (FaultKind::Translation, 0));
    assert_eq!(refusal(cpu.load(0xffff_8000_0000_0000, &mut [0])), (FaultKind::Translation, 0));
    // 0b01 at level 3, and a block at level 0, are as good as nothing.
    bench.word(L0 + 8, 0x0060_0000_4020_0f41);
    bench.word_now(L3, 0x0060_0000_4020_0f41);
    assert_eq!(refusal(cpu.load(0, &mut [0])), (FaultKind::Translation, 3));
    assert_eq!(refusal(cpu.load(0x80_0000_0000, &mut [0])), (FaultKind::Translation, 0));
}

#[test]
fn a_clear_access_flag_is_a_fault_of_its_level() {
    let bench = Bench::common();
    bench.word(L2 + 8, 0x0060_0000_4020_0b41);
    bench.word_now(L3, 0x0060_0000_4020_0b43);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::AccessFlag, 3));
    assert_eq!(refusal(bench.cpu(0).load(0x20_0000, &mut [0])), (FaultKind::AccessFlag, 2));
    // Such a fault is not remembered: with the flag set, the access goes through without any TLBI.
    bench.word_now(L3, PAGE_RW);
    assert_eq!(bench.cpu(0).load(0, &mut [0]), Ok(()));
}

#[test]
fn blocks_translate_all_their_addresses() {
    let bench = Bench::common();
    bench.word(L2 + 8, 0x0060_0000_4040_0f41);
    bench.word_now(L1 + 8, 0x0060_0000_4000_0f41);
    let translate = |va| bench.cpu(0).translate(va, AccessKind::Write).map(|to| (to.pa.get(), to.level));
    assert_eq!(translate(0x3f_fff8), Ok((0x405f_fff8, 2)));
    assert_eq!(translate(0x4765_4321), Ok((0x4765_4321, 1)));
}

#[test]
fn permissions_are_what_ap_and_uxn_say_to_user_code() {
    // Each: the word's permission bits, then whether user code may read, write, execute.
    let cases = [
        (0x0000_0000_0000_0000, "--x"),
        (0x0040_0000_0000_0000, "---"),
        (0x0000_0000_0000_0040, "rwx"),
        (0x0040_0000_0000_0040, "rw-"),
        (0x0000_0000_0000_0080, "--x"),
        (0x0000_0000_0000_00c0, "r-x"),
        (0x0040_0000_0000_00c0, "r--"),
        (0x0060_0000_0000_00c0, "r--"),
        (0x0048_0000_0000_00c0, "r--"),
    ];
    for (bits, wanted) in cases {
        let bench = Bench::common();
        bench.word_now(L3, 0x4020_0f03 | bits);
        assert_eq!(may(&bench.cpu(0)), wanted, "{bits:#x}");
    }
}

#[test]
fn tables_take_permissions_away() {
    for (bits, wanted) in [
        (0x1000_0000_0000_0000, "rw-"),
        (0x2000_0000_0000_0000, "--x"),
        (0x4000_0000_0000_0000, "r-x"),
        (0x6000_0000_0000_0000, "--x"),
        (0x0800_0000_0000_0000, "rwx"),
    ] {
        for table in [(L0, 0x4010_1003), (L1, 0x4010_2003), (L2, 0x4010_3003)] {
            let bench = Bench::common();
            bench.word(L3, 0x4020_0f43);
            bench.word_now(table.0, table.1 | bits);
            assert_eq!(may(&bench.cpu(0)), wanted, "{bits:#x} in {:#x}", table.0);
            assert_eq!(may(&bench.cpu(0)), wanted, "the same again, from the TLB");
        }
    }
}

fn may(cpu: &Cpu) -> String {
    let kinds = [(AccessKind::Read, 'r'), (AccessKind::Write, 'w'), (AccessKind::Execute, 'x')];
    kinds
        .into_iter()
        .map(|(kind, letter)| match cpu.translate(0, kind) {
            Ok(_) => letter,
            Err(fault) => {
                assert_eq!((fault.kind, fault.level), (FaultKind::Permission, 3));
                '-'
            }
        })
        .collect()
}

#[test]
fn addresses_that_are_too_large_are_faults_of_the_level_that_has_them() {
    // IPS 32 bits.
    let tcr = TCR_4K & !(7 << 32);
    let bench = Bench::common();
    let switch = |ttbr0| bench.cpu(0).switch_to(Some(Context { ttbr0, tcr, mair: MAIR }));
    switch(0x0007_0000_4010_0000);
    bench.word(L3, 0x0060_0001_4020_0f43);
    bench.word(L2 + 8, 0x0000_0001_4010_3003);
    bench.word_now(L1 + 8, 0x0000_8000_0000_0f41);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::AddressSize, 3));
    assert_eq!(refusal(bench.cpu(0).load(0x20_0000, &mut [0])), (FaultKind::AddressSize, 2));
    assert_eq!(refusal(bench.cpu(0).load(0x4000_0000, &mut [0])), (FaultKind::AddressSize, 1));
    switch(0x0007_0001_4010_0000);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::AddressSize, 0));
}

#[test]
fn what_does_not_answer_is_an_abort_on_the_walk_or_of_the_access() {
    let bench = Bench::common();
    bench.word(L3, 0x0060_0000_9020_0f43);
    bench.word_now(L2 + 8, 0x0000_0000_9010_3003);
    assert_eq!(refusal(bench.cpu(0).store(8, &[1])), (FaultKind::Abort, 3));
    assert_eq!(refusal(bench.cpu(0).load(0x20_0000, &mut [0])), (FaultKind::AbortOnWalk, 3));
}

#[test]
fn a_fetch_needs_an_executable_page_and_an_aligned_address() {
    let bench = Bench::common();
    bench.word(0x4020_0010, 0xd503_201f);
    bench.word(L3, 0x0020_0000_4020_0fc3);
    bench.word_now(L3 + 8, PAGE_RW);
    assert_eq!(bench.cpu(0).fetch(0x10), Ok(0xd503_201f));
    assert_eq!(bench.cpu(0).fetch(0x12).map_err(|fault| fault.kind), Err(FaultKind::PcAlignment));
    assert_eq!(bench.cpu(0).fetch(0x1000).map_err(|fault| fault.kind), Err(FaultKind::Permission));
}

#[test]
fn the_walker_does_not_see_a_store_before_its_barrier() {
    let bench = Bench::common();
    bench.word(L3, PAGE_RW);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::Translation, 3));
    bench.cpu(0).barrier();
    assert_eq!(bench.cpu(0).load(0, &mut [0]), Ok(()));
}

#[test]
fn a_16k_table_is_walked_as_the_book_says() {
    let bench = Bench::new(CpuFeatures::COMMON, TlbPolicy::holding(1));
    // T0SZ 17: 47 bits, so the walk begins at level 1.
    let context = Context { ttbr0: 0x4020_0000, tcr: 0x5_0080_b511, mair: MAIR };
    bench.word(0x4020_0000 + 8 * 3, 0x4020_4003);
    bench.word(0x4020_4000 + 8 * 2047, 0x4020_8003);
    bench.word(0x4020_4000 + 8, 0x0060_0000_4200_0f41);
    bench.word_now(0x4020_8000 + 8 * 5, 0x0060_0000_4030_4f43);
    bench.cpu(0).switch_to(Some(context));
    let translate = |va| bench.cpu(0).translate(va, AccessKind::Read).map(|to| to.pa.get());
    assert_eq!(translate(3 << 36 | 2047 << 25 | 5 << 14 | 0x3abc), Ok(0x4030_7abc));
    assert_eq!(translate(3 << 36 | 1 << 25 | 0x123_4567), Ok(0x4323_4567));
}

#[test]
fn a_64k_table_of_52_bits_is_walked_as_the_book_says() {
    let bench = Bench::new(CpuFeatures::LARGE, TlbPolicy::holding(1));
    // T0SZ 12, TG0 64K, IPS 52 bits.
    let context = Context { ttbr0: 0x4020_0000, tcr: 0x6_0080_750c, mair: MAIR };
    bench.word(0x4020_0000 + 8 * 1023, 0x4021_0003);
    bench.word(0x4021_0000 + 8 * 8191, 0x4022_0003);
    bench.word(0x4021_0000, 0x0060_1234_6000_3f41);
    bench.word_now(0x4022_0000 + 8 * 7, 0x0060_0000_4035_0f43);
    bench.cpu(0).switch_to(Some(context));
    let translate = |va| bench.cpu(0).translate(va, AccessKind::Read).map(|to| to.pa.get());
    assert_eq!(translate(1023 << 42 | 8191 << 29 | 7 << 16 | 0xabcd), Ok(0x4035_abcd));
    assert_eq!(translate(1023 << 42 | 0x1234_5678), Ok(0x3_1234_7234_5678));
}

#[test]
fn a_4k_table_of_52_bits_begins_at_level_minus_one() {
    let bench = Bench::new(CpuFeatures::LARGE, TlbPolicy::holding(1));
    // T0SZ 12, DS, IPS 52 bits.
    let context = Context { ttbr0: 0x4010_4000, tcr: 0x0800_0006_0080_350c, mair: MAIR };
    bench.word(0x4010_4000 + 8 * 15, 0x4010_0003);
    bench.word(L0, 0x4010_1003);
    bench.word(L1, 0x4010_2003);
    bench.word(L2, 0x4010_3003);
    bench.word_now(L3, 0x0060_0000_4020_0c43);
    bench.cpu(0).switch_to(Some(context));
    let translate = |va| bench.cpu(0).translate(va, AccessKind::Read);
    assert_eq!(translate(15 << 48 | 0x10).map(|to| (to.pa.get(), to.level)), Ok((0x4020_0010, 3)));
    assert_eq!(translate(0).map_err(|fault| (fault.kind, fault.level)), Err((FaultKind::Translation, -1)));
}

#[test]
fn memory_kinds_come_out_of_mair_by_index() {
    let bench = Bench::common();
    bench.word(L3, PAGE_RW);
    bench.word(L3 + 8, 0x0060_0000_4020_0f47);
    bench.word_now(L3 + 16, 0x0060_0000_4020_0f4b);
    let memory = |va| bench.cpu(0).translate(va, AccessKind::Read).unwrap().memory;
    assert_eq!([memory(0), memory(0x1000), memory(0x2000)], [0xff, 0x44, 0x04]);
}

#[test]
fn the_top_byte_is_ignored_only_when_told_so() {
    let va = 0x5a00_0000_0000_0000;
    let bench = Bench::common();
    bench.word_now(L3, PAGE_RW);
    assert_eq!(bench.cpu(0).load(0, &mut [0]), Ok(()));
    assert_eq!(refusal(bench.cpu(0).load(va, &mut [0])), (FaultKind::Translation, 0));
    let bench = Bench::with_tables(CpuFeatures::COMMON, TlbPolicy::holding(1), 1 << 37);
    bench.word_now(L3, PAGE_RW);
    assert_eq!(bench.cpu(0).load(va, &mut [0]), Ok(()));
}

#[test]
fn a_cpu_with_no_context_or_with_walks_off_reaches_nothing() {
    let bench = Bench::with_tables(CpuFeatures::COMMON, TlbPolicy::holding(1), 1 << 7);
    bench.word_now(L3, PAGE_RW);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::Translation, 0));
    bench.cpu(0).switch_to(None);
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::Translation, 0));
    assert_eq!(bench.cpus.unpredictable_count(), 0);
}

#[test]
fn a_context_that_breaks_a_rule_is_noted_and_translates_nothing() {
    let bench = Bench::common();
    bench.cpu(0).switch_to(Some(Context { ttbr0: 0, tcr: 0xc010, mair: 0 }));
    assert_eq!(bench.cpus.unpredictable()[0].clause, "TCR.TG0 is reserved or not supported");
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::Translation, 0));
}
