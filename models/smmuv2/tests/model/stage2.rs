//! Stage 2, alone and behind stage 1.

use model_smmuv2::{Config, clause};

use crate::harness::{
    CBAR_NESTED, CBAR_S1, CBAR_S2, FSR, Got, IPAFAR, L1, L2, L3, Machine, PAGE, S2_L1, S2_L2, S2_L3, S2_PAGE,
    SCTLR, SCTLR_ON, TCR, TCR_S2, TTBR0, plain,
};

#[test]
fn intermediate_addresses_are_translated() {
    let machine = Machine::stage2(plain());
    assert_eq!(machine.read(5, 0x40_1abc), Got::At(0x50_0abc));
    assert_eq!(machine.read(5, 0x3f_f000), Got::At(0x3f_f000));
    // The second of the two concatenated tables.
    machine.words(S2_L1 + 0x200 * 8, &[0x1_0000_0000 | (S2_PAGE & !2)]);
    assert_eq!(machine.read(5, 0x80_0000_0123), Got::At(0x1_0000_0123));
    machine.assert_clean();
}

/// Of a fault of bank 1: FSR, FSYNR0 without S1CBNDX, FAR, IPAFAR.
fn told(machine: &Machine) -> (u32, u32, u64, u64) {
    let ipa = machine.rcb64(1, IPAFAR);
    let (fsr, syndrome, address, stream) = machine.fault(1);
    assert_eq!(stream, 5);
    (fsr, syndrome & 0xffff, address, ipa)
}

#[test]
fn stage_2_alone_tells_the_intermediate_address_twice() {
    let machine = Machine::stage2(plain());
    machine.words(S2_L3 + 16, &[0x60_0000 | S2_PAGE & !0x80, 0x61_0000 | S2_PAGE & !0x400]);
    assert_eq!(machine.read(5, 0x40_5678), Got::Abort);
    assert_eq!(told(&machine), (0x402, 0x3, 0x40_5678, 0x40_5000));
    assert_eq!(machine.write(5, 0x40_2000), Got::Abort);
    assert_eq!(told(&machine), (0x408, 0x13, 0x40_2000, 0x40_2000));
    assert_eq!(machine.read(5, 0x40_3000), Got::Abort);
    assert_eq!(told(&machine), (0x404, 0x3, 0x40_3000, 0x40_3000));
    // Beyond T0SZ: level 1. Beyond the output: level 1 is where the block lies.
    assert_eq!(machine.read(5, 0x100_0000_0000), Got::Abort);
    assert_eq!(told(&machine), (0x402, 0x1, 0x100_0000_0000, 0x100_0000_0000));
    machine.hole(S2_L2..=S2_L2 + 0xfff);
    assert_eq!(machine.read(5, 0x20_0000), Got::Abort);
    assert_eq!(told(&machine), (0x410, 0x402, 0x20_0000, 0x20_0000));
    machine.assert_clean();
}

#[test]
fn every_granule_walks_as_the_book_says() {
    /// A name, VA64, TCR, an address, the tables on the way to it, what they lead to.
    type Row = (&'static str, u32, u32, u64, &'static [(u64, u64)], u64);
    const ROOT: u64 = 0x80_0000;
    const NEXT: u64 = 0x90_0000;
    const BLOCK: u64 = S2_PAGE & !2;
    let rows: [Row; 6] = [
        (
            "4K, SL0 2, 48 bits",
            1,
            0x5_0090,
            0x8000_4000_1000,
            &[(ROOT + 0x100 * 8, NEXT | 3), (NEXT + 8, 0x4000_0000 | BLOCK)],
            0x4000_1000,
        ),
        (
            "4K, SL0 0, 32 bits, four tables",
            1,
            0x5_0020,
            0xc020_1000,
            &[(ROOT + 0x601 * 8, 0x1020_0000 | BLOCK)],
            0x1020_1000,
        ),
        (
            "16K, SL0 1, 40 bits, sixteen tables",
            1,
            0x5_8058,
            0x80_0000_1000,
            &[(ROOT + 0x4000 * 8, 0x200_0000 | BLOCK)],
            0x200_1000,
        ),
        ("64K, SL0 0, 31 bits", 1, 0x5_4021, 0x1_1234, &[(ROOT + 8, 0x55_0000 | S2_PAGE)], 0x55_1234),
        (
            "AArch32, SL0 1, 40 bits",
            0,
            0x8000_3558,
            0x80_4000_1000,
            &[(ROOT + 0x201 * 8, 0x8000_0000 | BLOCK)],
            0x8000_1000,
        ),
        (
            "AArch32, SL0 0, 30 bits",
            0,
            0x8000_3502,
            0x20_1000,
            &[(ROOT + 8, 0x1020_0000 | BLOCK)],
            0x1020_1000,
        ),
    ];
    for (name, wide, tcr, address, words, output) in rows {
        let machine = Machine::new(plain());
        machine.w32(0x1004, CBAR_S2);
        machine.w32(0x1804, wide);
        machine.cb(1, TCR, tcr);
        machine.cb64(1, TTBR0, ROOT);
        machine.cb(1, SCTLR, SCTLR_ON);
        machine.stream(0, 5, 0, 1);
        for &(at, word) in words {
            machine.words(at, &[word]);
        }
        assert_eq!(machine.read(5, address), Got::At(output), "{name}");
        assert_eq!(machine.clauses(), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn a_start_level_that_does_not_fit_translates_nothing() {
    let machine = Machine::stage2(plain());
    machine.cb(1, TCR, TCR_S2 & !0x3f | 20); // 44 bits would take 32 tables of level 1
    assert_eq!(machine.read(5, 0x40_1000), Got::Abort);
    assert_eq!(told(&machine), (0x402, 0x1, 0x40_1000, 0x40_1000));
    assert_eq!(machine.clauses(), [clause::START_LEVEL]);
}

#[test]
fn both_stages_are_gone_through_and_stage_1_tables_too() {
    let machine = Machine::nested(plain());
    // 0x1000 to 0x30_0000, 1:1 below 4 MiB; 0x2000 to 0x40_1000 to 0x50_0000.
    machine.words(L3 + 16, &[0x40_1000 | PAGE]);
    assert_eq!([machine.read(5, 0x1004), machine.read(5, 0x2008)], [Got::At(0x30_0004), Got::At(0x50_0008)]);
    assert_eq!([machine.read(5, 0x1004), machine.read(5, 0x2008)], [Got::At(0x30_0004), Got::At(0x50_0008)]);
    machine.assert_clean();
    // Stage 1's tables through stage 2: the table of level 3 moves.
    let machine = Machine::nested(plain());
    machine.words(L2, &[0x40_1000 | 3]);
    machine.words(0x50_0008, &[0x20_0000 | PAGE]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x20_0000));
}

#[test]
fn faults_of_stage_2_behind_stage_1_are_told_by_its_bank_with_both_addresses() {
    let machine = Machine::nested(plain());
    machine.words(L3 + 16, &[0x40_5000 | PAGE, 0x40_2000 | PAGE]);
    machine.words(S2_L3 + 16, &[0x60_0000 | S2_PAGE & !0x40]);
    assert_eq!(machine.read(5, 0x2678), Got::Abort);
    // TF; NESTED, level 3, S1CBNDX 0; the address and what stage 1 made of it.
    assert_eq!((machine.rcb(0, FSR), told(&machine)), (0x400, (0x402, 0x7, 0x2678, 0x40_5000)));
    assert_eq!(machine.read(5, 0x3678), Got::Abort);
    let (fsr, syndrome, address, _unknown) = told(&machine);
    assert_eq!((fsr, syndrome, address), (0x408, 0x7, 0x3678));
    // The walk itself: S1PTWF.
    machine.words(L1 + 8, &[0x40_5000 | 3]);
    assert_eq!(machine.read(5, 0x4000_0000), Got::Abort);
    assert_eq!(told(&machine), (0x402, 0xf, 0x4000_0000, 0x40_5000));
    machine.words(L1 + 16, &[0x40_2000 | 3]);
    assert_eq!(machine.read(5, 0x8000_0000), Got::Abort);
    assert_eq!(told(&machine), (0x408, 0xf, 0x8000_0000, 0x40_2000));
    // Memory that does not answer stage 1's walk.
    machine.hole(0x3e_0000..=0x3e_0fff);
    machine.words(L1 + 24, &[0x3e_0000 | 3]);
    assert_eq!(machine.read(5, 0xc000_0000), Got::Abort);
    assert_eq!(told(&machine), (0x410, 0x40e, 0xc000_0000, 0x3e_0000));
    machine.assert_clean();
}

#[test]
fn a_fault_of_stage_1_comes_before_any_of_stage_2() {
    let machine = Machine::nested(plain());
    machine.words(L3 + 16, &[0x40_5000 | PAGE | 0x80]);
    assert_eq!(machine.write(5, 0x2000), Got::Abort);
    assert_eq!((machine.fault(0).0, machine.rcb(1, FSR)), (0x408, 0x400));
}

#[test]
fn stage_1_tables_in_device_memory_are_refused_if_ptw_says_so() {
    let machine = Machine::nested(plain());
    machine.words(S2_L2, &[S2_PAGE & !2 & !0x3c]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    let machine = Machine::nested(plain());
    machine.words(S2_L2, &[S2_PAGE & !2 & !0x3c]);
    machine.cb(1, SCTLR, SCTLR_ON | 1 << 13);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    assert_eq!(told(&machine), (0x408, 0xe, 0x1000, L1));
}

#[test]
fn each_stage_can_be_off() {
    let machine = Machine::nested(plain());
    machine.cb(0, SCTLR, SCTLR_ON & !1);
    assert_eq!(machine.read(5, 0x40_1004), Got::At(0x50_0004));
    assert_eq!(machine.read(5, 0x40_5000), Got::Abort);
    assert_eq!(told(&machine), (0x402, 0x7, 0x40_5000, 0x40_5000));
    let machine = Machine::nested(plain());
    machine.words(L3 + 8, &[0x40_1000 | PAGE]);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x50_0000));
    machine.cb(1, SCTLR, SCTLR_ON & !1);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x40_1000), "M is in no TLB entry");
    machine.assert_clean();
}

#[test]
fn what_stage_2_lets_by_untranslated_must_fit_the_output() {
    let machine = Machine::nested(Config { output_bits: 40, ..plain() });
    machine.cb(1, SCTLR, SCTLR_ON & !1);
    machine.words(L3 + 16, &[0x100_0000_0000 | PAGE]);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    // ASF; NESTED, level 0.
    assert_eq!(told(&machine), (0x480, 0x4, 0x2000, 0x100_0000_0000));
    machine.cb(0, SCTLR, SCTLR_ON & !1);
    assert_eq!(machine.read(5, 0x100_0000_0000), Got::Abort);
    assert_eq!(told(&machine), (0x480, 0x4, 0x100_0000_0000, 0x100_0000_0000));
    machine.assert_clean();
}

#[test]
fn banks_that_make_no_sense_together_are_global_faults() {
    /// CBAR of banks 0 and 1, VA64 of both, what sGFSR and sGFSYNR0 say.
    type Row = (&'static str, Config, [u32; 2], [u32; 2], (u32, u32));
    let few = || Config { banks: 2, ..plain() };
    let rows: [Row; 8] = [
        ("stage 2 fault", few(), [0x2_0007, 7], [1, 1], (0x1, 0x1)),
        ("second bank is stage 1", few(), [CBAR_NESTED, CBAR_S1], [1, 1], (0x1, 0x1)),
        ("second bank not there", few(), [0x3_0907, 7], [1, 1], (0x8, 0x1)),
        ("64 bits before 32", few(), [CBAR_NESTED, 7], [1, 0], (0x1, 0x1)),
        ("no stage 2", Config { policy: plain().policy, ..Config::stage1_only() }, [7, 7], [1, 1], (0, 0)),
        ("stage 2 bank only", Config { stage2_banks: 1, ..few() }, [CBAR_S1, 7], [1, 1], (0, 0)),
        ("no nesting", Config { nested: false, ..few() }, [CBAR_NESTED, 7], [1, 1], (0x1, 0x1)),
        ("32 bits before 64", few(), [CBAR_NESTED, 7], [0, 1], (0, 0)),
    ];
    for (name, config, cbar, wide, (gfsr, syndrome)) in rows {
        let machine = Machine::new(config);
        for (bank, (cbar, wide)) in (0..).zip(cbar.into_iter().zip(wide)) {
            machine.w32(0x1000 + bank * 4, cbar);
            machine.w32(0x1800 + bank * 4, wide);
        }
        machine.stream(0, 5, 0, 0);
        let got = machine.read(5, 0x1000);
        assert_eq!((machine.r32(0x48), machine.r32(0x50)), (gfsr, syndrome), "{name}");
        assert_eq!(got, if gfsr == 0 { Got::At(0x1000) } else { Got::Abort }, "{name}");
    }
    // A bank that is not there at all: UCBF, not nested.
    let machine = Machine::new(few());
    machine.stream(0, 5, 0, 2);
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    assert_eq!((machine.r32(0x48), machine.r32(0x50)), (0x8, 0x0));
}

#[test]
fn types_that_a_bank_cannot_have_are_not_kept() {
    let machine = Machine::new(Config { stage2_banks: 1, ..plain() });
    machine.w32(0x1000, CBAR_NESTED);
    machine.w32(0x1004, CBAR_NESTED);
    assert_eq!([machine.r32(0x1000), machine.r32(0x1004)], [0x0000_0107, CBAR_NESTED]);
    let machine = Machine::new(Config { policy: plain().policy, ..Config::stage1_only() });
    machine.w32(0x1000, CBAR_NESTED);
    assert_eq!(machine.r32(0x1000), 0x0001_0107);
}

#[test]
fn vmids_of_both_stages_must_be_one() {
    let machine = Machine::nested(plain());
    machine.cb(1, SCTLR, 0);
    machine.w32(0x68, 0);
    machine.gsync();
    machine.bank2(1, 0x0000_0009);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.clauses(), [clause::VMID_MISMATCH]);
}
