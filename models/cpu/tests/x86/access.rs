//! What an access reaches, and what it is refused for.

use model_cpu::TlbPolicy;
use model_cpu::x86::{Context, Cpu, CpuFeatures, Fault, FaultKind};
use portcullis_types::{AccessKind, Pa};

use crate::bench::{Bench, CONTEXT, PAGE_RW, PD, PDPT, PML4, PML5, PT, goes, refusal};

#[test]
fn what_is_stored_by_linear_address_lies_at_the_physical_one() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).store(0x123, b"hello").unwrap();
    let mut bytes = [0; 5];
    bench.bus.cpu().read(Pa::new(0x4020_0123), &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    bench.bus.cpu().write(Pa::new(0x4020_0124), b"a").unwrap();
    bench.cpu(1).load(0x123, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hallo");
}

#[test]
fn an_access_across_pages_goes_on_where_the_next_page_is_and_stops_where_there_is_none() {
    let bench = Bench::common();
    bench.word(PT, PAGE_RW);
    bench.word_now(PT + 8, 0x8000_0000_4030_0067);
    bench.cpu(0).store(0xffe, &[1, 2, 3, 4]).unwrap();
    let mut bytes = [0; 2];
    bench.bus.cpu().read(Pa::new(0x4030_0000), &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4]);
    let fault = bench.cpu(0).store(0x1ffe, &[5; 4]).unwrap_err();
    let (access, kind) = (AccessKind::Write, FaultKind::NotPresent);
    assert_eq!(fault, Fault { va: 0x2000, access, kind, level: 1, tells_fetches: true });
    assert_eq!(fault.error_code(), Some(0x06));
    bench.cpu(0).load(0x1fff, &mut bytes[..1]).unwrap();
    assert_eq!(bytes[0], 5);
}

#[test]
fn a_missing_entry_is_a_fault_of_its_level() {
    let bench = Bench::common();
    let cpu = bench.cpu(0);
    for (va, level) in [(0x1000, 1), (0x20_0000, 2), (0x4000_0000, 3), (0x80_0000_0000, 4)] {
        assert_eq!(refusal(cpu.load(va, &mut [0])), (FaultKind::NotPresent, level), "{va:#x}");
    }
    assert_eq!(refusal(cpu.load(0xffff_8000_0000_0000, &mut [0])), (FaultKind::NotPresent, 4));
}

#[test]
fn an_address_that_is_not_canonical_is_no_page_fault() {
    let bench = Bench::common();
    let fault = bench.cpu(0).load(0x8000_0000_0000, &mut [0]).unwrap_err();
    assert_eq!((fault.kind, fault.error_code()), (FaultKind::NotCanonical, None));
}

#[test]
fn large_pages_translate_all_their_addresses() {
    let bench = Bench::common();
    bench.word(PD + 8, 0x8000_0000_4040_00e7);
    bench.word_now(PDPT + 8, 0x8000_0000_4000_00e7);
    let translate = |va| bench.cpu(0).translate(va, AccessKind::Write).map(|to| (to.pa.get(), to.level));
    assert_eq!(translate(0x3f_fff8), Ok((0x405f_fff8, 2)));
    assert_eq!(translate(0x4765_4321), Ok((0x4765_4321, 3)));
}

#[test]
fn user_code_may_what_every_entry_on_the_way_lets_it() {
    // Flags R/W, U/S, XD of one entry while all others allow everything: what user code may.
    let cases = [
        (0x0000_0000_0000_0006, "rwx"),
        (0x8000_0000_0000_0006, "rw-"),
        (0x0000_0000_0000_0004, "r-x"),
        (0x8000_0000_0000_0004, "r--"),
        (0x0000_0000_0000_0002, "---"),
        (0x0000_0000_0000_0000, "---"),
    ];
    let entries = [(PML4, 0x4010_1021), (PDPT, 0x4010_2021), (PD, 0x4010_3021), (PT, 0x4020_0061)];
    for (flags, wanted) in cases {
        for (at, entry) in entries {
            let bench = Bench::common();
            bench.word(PT, 0x4020_0067);
            bench.word_now(at, entry | flags);
            assert_eq!(may(&bench.cpu(0)), wanted, "{flags:#x} in {at:#x}");
            assert_eq!(may(&bench.cpu(0)), wanted, "the same again, with what is held");
        }
    }
}

fn may(cpu: &Cpu) -> String {
    let kinds =
        [(AccessKind::Read, 'r', 0x05), (AccessKind::Write, 'w', 0x07), (AccessKind::Execute, 'x', 0x15)];
    kinds
        .into_iter()
        .map(|(kind, letter, code)| match cpu.translate(0, kind) {
            Ok(_) => letter,
            Err(fault) => {
                assert_eq!((fault.kind, fault.error_code()), (FaultKind::Permission, Some(code)));
                '-'
            }
        })
        .collect()
}

#[test]
fn a_reserved_bit_is_a_fault_that_says_so() {
    let bench = Bench::common();
    // A bit above 46; PS in a PML4 entry; a low address bit of a large page.
    bench.word(PT, 0x0000_4000_4020_0067);
    bench.word(PML4 + 8, 0x4010_10a7);
    bench.word(PDPT + 8, 0x4000_20e7);
    bench.word_now(PD + 8, 0x4040_20e7);
    for (va, level) in [(0, 1), (0x20_0000, 2), (0x4000_0000, 3), (0x80_0000_0000, 4)] {
        let fault = bench.cpu(0).store(va, &[1]).unwrap_err();
        assert_eq!((fault.kind, fault.level, fault.error_code()), (FaultKind::Reserved, level, Some(0x0f)));
    }
}

#[test]
fn without_nxe_bit_63_is_reserved_and_every_page_can_be_executed() {
    let bench = Bench::common();
    bench.word(PT, 0x4020_0067);
    bench.word_now(PT + 8, PAGE_RW);
    bench.cpu(0).switch_to(Some(Context { efer: 0x500, ..CONTEXT }));
    assert!(bench.cpu(0).fetch(0).is_ok());
    let fault = bench.cpu(0).fetch(0x1000).unwrap_err();
    assert_eq!((fault.kind, fault.error_code()), (FaultKind::Reserved, Some(0x0d)));
}

#[test]
fn a_fetch_may_begin_anywhere_and_cross_pages() {
    let bench = Bench::common();
    bench.bus.cpu().write(Pa::new(0x4020_0ffd), &[0x90, 0x0f, 0x0b]).unwrap();
    bench.bus.cpu().write(Pa::new(0x4030_0000), &[0xc3]).unwrap();
    bench.word(PT, 0x4020_0025);
    bench.word_now(PT + 8, 0x4030_0025);
    assert_eq!(bench.cpu(0).fetch(0xffd), Ok(0xc30b_0f90));
    bench.word_now(PT + 16, 0x8000_0000_4030_0025);
    let fault = bench.cpu(0).fetch(0x1ffd).unwrap_err();
    assert_eq!((fault.va, fault.kind), (0x2000, FaultKind::Permission));
}

#[test]
fn five_levels_begin_at_the_pml5_table() {
    let bench = Bench::new(CpuFeatures::LARGE, TlbPolicy::holding(1));
    bench.word(PML5 + 8 * 255, 0x4010_0027);
    bench.word(PML5 + 8 * 511, 0x4010_0027);
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).switch_to(Some(Context { cr3: PML5 | 7, cr4: 0x2_10a0, efer: 0xd00 }));
    assert_eq!(goes(&bench.cpu(0), 255 << 48 | 0x10), Ok(0x4020_0010));
    assert_eq!(goes(&bench.cpu(0), 0xffff << 48 | 0x20), Ok(0x4020_0020));
    assert_eq!(refusal(bench.cpu(0).load(0, &mut [0])), (FaultKind::NotPresent, 5));
    assert_eq!(refusal(bench.cpu(0).load(256 << 48, &mut [0])), (FaultKind::NotCanonical, 0));
}

#[test]
fn what_does_not_answer_is_an_abort_on_the_walk_or_of_the_access() {
    let bench = Bench::common();
    bench.word(PT, 0x8000_0000_9020_0067);
    bench.word_now(PD + 8, 0x9010_3027);
    assert_eq!(refusal(bench.cpu(0).store(8, &[1])), (FaultKind::Abort, 1));
    assert_eq!(refusal(bench.cpu(0).load(0x20_0000, &mut [0])), (FaultKind::AbortOnWalk, 1));
}

#[test]
fn the_walker_does_not_see_a_store_before_something_serializes() {
    for serialize in [
        (|cpu| cpu.barrier()) as fn(&Cpu),
        |cpu| cpu.switch_to(Some(CONTEXT.keeping())),
        |cpu| cpu.invalidate(model_cpu::x86::Invalidation::Page { va: 0x5000 }),
    ] {
        let bench = Bench::common();
        bench.word(PT, PAGE_RW);
        assert_eq!(goes(&bench.cpu(0), 0), Err(FaultKind::NotPresent));
        serialize(&bench.cpu(0));
        assert_eq!(goes(&bench.cpu(0), 0), Ok(0x4020_0000));
    }
}

#[test]
fn memory_types_come_by_the_number_that_pat_pcd_and_pwt_make() {
    let bench = Bench::common();
    bench.word(PT, 0x4020_0067);
    bench.word(PT + 8, 0x4020_006f);
    bench.word(PT + 16, 0x4020_0077);
    bench.word(PT + 24, 0x4020_00e7);
    bench.word_now(PD + 8, 0x4040_10e7);
    let index = |va| bench.cpu(0).translate(va, AccessKind::Read).unwrap().memory_index;
    assert_eq!([index(0), index(0x1000), index(0x2000), index(0x3000), index(0x20_0000)], [0, 1, 2, 4, 4]);
}

#[test]
fn a_cpu_that_runs_nothing_reaches_nothing() {
    let bench = Bench::common();
    bench.word_now(PT, PAGE_RW);
    bench.cpu(0).switch_to(None);
    let fault = bench.cpu(0).load(0, &mut [0]).unwrap_err();
    assert_eq!((fault.kind, fault.level), (FaultKind::NotPresent, 0));
    assert_eq!(bench.cpus.unpredictable_count(), 0);
}
