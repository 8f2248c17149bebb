//! Registers: widths, what is kept, and what strict mode says.

use model_bus::{Mmio, Width};
use model_smmuv2::{Config, Policy, clause};

use crate::harness::{CBAR_S1, FSR, L1, Machine, SCTLR, SCTLR_ON, TCR, TLBIALL, TTBR0, lazy, plain};

#[test]
fn what_cannot_be_set_is_not_kept() {
    let machine = Machine::bare(plain());
    machine.w32(0x00, 0x0fff_f7ff);
    // No EXIDENABLE, GCFGFRE, GCFGFIE, GSE; PTM and VMIDPNE read as one without BTM.
    assert_eq!(machine.r32(0x00), 0x0fff_fdc7);
    machine.assert_clean();
    machine.w32(0x00, 0xf000_0001);
    assert_eq!((machine.r32(0x00), machine.clauses()), (0x1801, vec![clause::RESERVED_BITS]));
    let machine = Machine::bare(Config {
        broadcast: true,
        extended_ids: true,
        vmid_16_bits: true,
        match_mask: 0xffff,
        ..plain()
    });
    machine.w32(0x00, 0x8000_0009);
    assert_eq!(machine.r32(0x00), 0x8000_0009);
    machine.assert_clean();
}

#[test]
fn stream_match_bits_that_are_not_there_read_as_zero() {
    let machine = Machine::bare(Config { stream_id_bits: 10, match_mask: 0x3f, ..plain() });
    machine.w32(0x804, 0x7fff_7fff);
    assert_eq!(machine.r32(0x804), 0x003f_03ff);
    machine.assert_clean();
    machine.w32(0x804, 0x8000);
    machine.w32(0x800 + 32 * 4, 0);
    assert_eq!(machine.clauses(), [clause::RESERVED_BITS, clause::UNIMPLEMENTED]);
}

#[test]
fn read_only_registers_stay_and_the_write_is_noted() {
    let machine = Machine::bare(plain());
    let before = machine.r32(0x20);
    machine.w32(0x20, 0);
    machine.w32(0x74, 1);
    machine.cb(0, 0x7f4, 1);
    assert_eq!((machine.r32(0x20), machine.r32(0x74)), (before, 0));
    assert_eq!(machine.clauses(), [clause::READ_ONLY; 3]);
}

#[test]
fn registers_have_their_width() {
    let machine = Machine::bare(plain());
    machine.cb64(0, TTBR0, 0x1234_5678_9abc_d000);
    assert_eq!([machine.rcb(0, TTBR0), machine.rcb(0, TTBR0 + 4)], [0x9abc_d000, 0x1234_5678]);
    machine.cb(0, TTBR0 + 4, 0xffff_0000);
    assert_eq!(machine.rcb64(0, TTBR0), 0xffff_0000_9abc_d000);
    machine.w64(0x40, 0x1_2345_6789);
    assert_eq!((machine.r32(0x40), machine.r32(0x44), machine.r64(0x40)), (0x2345_6789, 1, 0x1_2345_6789));
    machine.assert_clean();
    machine.w64(0x00, 0);
    machine.smmu.write(0x00, Width::Bits8, 0);
    machine.smmu.write(0x48, Width::Bits16, 0);
    assert_eq!(machine.rcb64(0, 0x38), 0, "two registers of 32 bits");
    assert_eq!(machine.r32(0x00), 0x1801, "untouched");
    assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH; 4]);
    let machine = Machine::bare(Config { split_global_accesses: false, ..plain() });
    machine.r32(0x44);
    assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH]);
}

#[test]
fn registers_of_the_other_format_are_not_there() {
    let machine = Machine::new(plain());
    machine.w32(0x1000, 7);
    machine.cb(0, 0x10, 5);
    machine.cb(0, TLBIALL, 0);
    assert_eq!((machine.rcb(0, 0x10), machine.rcb(0, TCR) >> 31), (0, 1));
    machine.w32(0x1004, CBAR_S1);
    machine.cb64(1, 0x630, 0);
    assert_eq!(machine.clauses(), [clause::WRONG_FORMAT; 3]);
    assert_eq!(machine.smmu.counters().operation("TLBIALL"), 0);
}

#[test]
fn letting_clients_in_before_all_groups_are_written_is_noted() {
    for seed in 0..8 {
        let config = Config { policy: Policy::stale(), ..Config::default() };
        let ram: std::sync::Arc<dyn model_bus::Fabric> = Machine::bare(plain()).ram.clone();
        let sink = std::sync::Arc::new(portcullis_types::trace::Silence);
        let smmu = model_smmuv2::Smmu::new(config, ram, seed, sink);
        for group in 0..31 {
            smmu.write(0x800 + group * 4, Width::Bits32, 0);
        }
        smmu.write(0x00, Width::Bits32, 0x0020_0400);
        let clauses: Vec<_> = smmu.take_unpredictable().iter().map(|note| note.clause).collect();
        assert_eq!(clauses, [clause::UNINITIALIZED_STREAMS], "seed {seed}");
    }
}

#[test]
fn a_bank_in_use_that_was_not_written_is_noted_once() {
    let machine = Machine::new(plain());
    machine.tables();
    machine.w32(0x1000, CBAR_S1);
    machine.w32(0x1800, 1);
    machine.cb(0, TCR, 0x80_3519);
    machine.cb(0, TTBR0, 0x10_0000);
    machine.cb(0, SCTLR, SCTLR_ON);
    machine.stream(0, 5, 0, 0);
    machine.read(5, 0x1000);
    machine.read(5, 0x1000);
    let notes = machine.smmu.take_unpredictable();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].clause, clause::UNINITIALIZED_BANK);
    assert_eq!(notes[0].detail, "bank 0: TCR2, TTBR0[63:32], MAIR0");
}

#[test]
fn a_tlb_in_use_that_was_never_invalidated_is_noted() {
    let machine = Machine::bare(plain());
    machine.tables();
    for group in 0..32 {
        machine.w32(0x800 + group * 4, 0);
    }
    machine.cb(0, SCTLR, 0);
    machine.bank1(0, CBAR_S1);
    machine.stream(0, 5, 0, 0);
    machine.w32(0x00, 0x0020_0406);
    machine.read(5, 0x1000);
    assert_eq!(machine.clauses(), [clause::TLB_NOT_INVALIDATED]);
}

#[test]
fn a_tlb_in_use_whose_invalidation_was_not_synchronized_is_noted() {
    // What is done after TLBIALLNSNH; whether that is enough.
    type Row = (fn(&Machine), bool);
    let rows: [Row; 3] = [(|_| (), false), (|m| m.sync(0), false), (Machine::gsync, true)];
    for (synchronize, enough) in rows {
        let machine = Machine::bare(plain());
        machine.tables();
        for group in 0..32 {
            machine.w32(0x800 + group * 4, 0);
        }
        machine.cb(0, SCTLR, 0);
        machine.w32(0x68, 0);
        synchronize(&machine);
        machine.bank1(0, CBAR_S1);
        machine.stream(0, 5, 0, 0);
        machine.w32(0x00, 0x0020_0406);
        machine.read(5, 0x1000);
        let expected = if enough { vec![] } else { vec![clause::TLB_NOT_INVALIDATED] };
        assert_eq!(machine.clauses(), expected);
    }
}

#[test]
fn more_than_one_register_of_a_live_bank_is_noted() {
    let machine = Machine::stage1(plain());
    machine.cb64(0, TTBR0, 3 << 48 | 0x19_0000);
    machine.cb64(0, TTBR0, 3 << 48 | L1);
    machine.cb(0, TCR, 0x80_3519);
    machine.assert_clean();
    machine.cb(0, TCR, 0x80_3518);
    assert_eq!(machine.clauses(), [clause::CONTEXT_UPDATE]);
    // The halves of a table base are two.
    let machine = Machine::stage1(plain());
    machine.cb(0, TTBR0, 0x19_0000);
    machine.assert_clean();
    machine.cb(0, TTBR0 + 4, 4 << 16);
    assert_eq!(machine.clauses(), [clause::CONTEXT_UPDATE]);
}

#[test]
fn a_bank_is_free_again_after_invalidation_and_synchronization() {
    type Row = (&'static str, fn(&Machine), bool);
    let rows: [Row; 6] = [
        ("nothing", |_| (), false),
        ("invalidated, not synchronized", |m| m.cb(0, 0x610, 3), false),
        (
            "by ASID",
            |m| {
                m.cb(0, 0x610, 3);
                m.sync(0);
            },
            true,
        ),
        (
            "by another ASID",
            |m| {
                m.cb(0, 0x610, 4);
                m.sync(0);
            },
            false,
        ),
        (
            "by VMID, synchronized elsewhere",
            |m| {
                m.w32(0x64, 7);
                m.sync(0);
            },
            false,
        ),
        (
            "by VMID",
            |m| {
                m.w32(0x64, 7);
                m.gsync();
            },
            true,
        ),
    ];
    for (name, quieten, free) in rows {
        let machine = Machine::stage1(plain());
        machine.cb(0, SCTLR, 0);
        quieten(&machine);
        machine.cb64(0, TTBR0, 9 << 48 | 0x19_0000);
        let expected = if free { vec![] } else { vec![clause::CONTEXT_REUSE] };
        assert_eq!(machine.clauses(), expected, "{name}");
    }
    // Invalidated too early: M was still 1.
    let machine = Machine::stage1(plain());
    machine.cb(0, 0x610, 3);
    machine.sync(0);
    machine.cb(0, SCTLR, 0);
    machine.cb(0, TCR, 0);
    assert_eq!(machine.clauses(), [clause::CONTEXT_REUSE]);
}

#[test]
fn values_that_no_bank_can_have_are_noted_when_it_is_used() {
    /// TCR, TCR2, TTBR0, VA64.
    type Row = (u32, u32, u64, u32, &'static str);
    let rows: [Row; 6] = [
        (0x80_350f, 0x3_8015, L1, 1, clause::REGION_SIZE),
        (0x80_f519, 0x3_8015, L1, 1, clause::GRANULE),
        (0x80_3519, 0x3_8017, L1, 1, clause::OUTPUT_SIZE),
        (0x80_3519, 0x3_8015, L1 + 0x800, 1, clause::TABLE_ALIGNMENT),
        (0x0000_0000, 0, L1, 0, clause::SHORT_DESCRIPTORS),
        (0x80_9519, 0x3_8015, L1, 1, clause::GRANULE),
    ];
    for (tcr, tcr2, ttbr, wide, expected) in rows {
        let machine = Machine::new(Config { granule_16k: false, ..plain() });
        machine.tables();
        machine.w32(0x1000, CBAR_S1);
        machine.w32(0x1800, wide);
        machine.cb(0, TCR, tcr);
        machine.cb(0, 0x10, tcr2);
        machine.cb64(0, TTBR0, ttbr);
        machine.cb(0, 0x38, 0xff);
        machine.cb(0, SCTLR, SCTLR_ON);
        machine.stream(0, 5, 0, 0);
        machine.read(5, 0x1000);
        assert_eq!(machine.clauses(), [expected], "TCR {tcr:#x}");
    }
}

#[test]
fn asids_of_eight_bits_have_eight_bits() {
    let machine = Machine::stage1(plain());
    machine.cb(0, 0x10, 0x0003_8005);
    machine.clauses();
    machine.cb(0, 0x610, 0x103);
    machine.cb64(0, 0x620, 0x103 << 48 | 1);
    assert_eq!(machine.clauses(), [clause::ASID_WIDTH; 2]);
}

#[test]
fn sixteen_bits_of_vmid_are_elsewhere() {
    let machine = Machine::new(Config { vmid_16_bits: true, ..plain() });
    machine.tables();
    machine.w32(0x00, 0x8020_0406);
    machine.bank1(0, CBAR_S1);
    machine.cb(0, SCTLR, 0);
    machine.w32(0x68, 0);
    machine.gsync();
    machine.w32(0x1800, 0x1234_0001);
    machine.cb(0, SCTLR, SCTLR_ON);
    machine.stream(0, 5, 0, 0);
    machine.read(5, 0x1000);
    machine.words(crate::harness::L3 + 8, &[0]);
    machine.w32(0x64, 7);
    machine.gsync();
    assert_eq!(machine.read(5, 0x1000), crate::harness::Got::At(0x30_0000));
    machine.w32(0x64, 0x1234);
    machine.gsync();
    assert_eq!(machine.read(5, 0x1000), crate::harness::Got::Abort);
    machine.assert_clean();
    assert_eq!(machine.rcb(0, FSR), 0x402);
}

#[test]
fn out_of_reset_what_is_unknown_is_anything() {
    let config = || Config { policy: Policy::stale(), ..Config::default() };
    let machine = Machine::bare(config());
    let smr: Vec<u32> = (0..32).map(|group| machine.r32(0x800 + group * 4)).collect();
    assert!(smr.iter().any(|value| value >> 31 == 1) && smr.iter().any(|value| value >> 31 == 0));
    assert_eq!(machine.r32(0x00) & 0x3f, 1, "but clients bypass, and nothing interrupts");
    assert_eq!(machine.smmu.asserted_lines(), []);
    machine.new_is_clean();
}

impl Machine {
    /// Setting up a part with unknown values does nothing wrong.
    fn new_is_clean(&self) {
        let machine = Self::stage1(Config { policy: Policy::stale(), ..Config::default() });
        assert_eq!(machine.read(5, 0x1000), crate::harness::Got::At(0x30_0000));
        machine.assert_clean();
    }
}

#[test]
fn a_bank_whose_m_is_unknown_needs_not_be_switched_off_before_it_is_set_up() {
    for seed in 0..8 {
        let sink = std::sync::Arc::new(portcullis_types::trace::Silence);
        let ram: std::sync::Arc<dyn model_bus::Fabric> = Machine::bare(plain()).ram.clone();
        let smmu = model_smmuv2::Smmu::new(Config::default(), ram, seed, sink);
        // CBAR first: it says of which format the others are.
        smmu.write(0x1000, Width::Bits32, CBAR_S1.into());
        for (at, value) in [(TCR, 0x80_3519), (0x10, 0x3_8015), (0x38, 0xff), (SCTLR, SCTLR_ON)] {
            smmu.write(0x2_0000 + at, Width::Bits32, value.into());
        }
        assert_eq!(smmu.take_unpredictable(), [], "seed {seed}");
    }
}

#[test]
fn vmids_may_not_change_their_width_while_anything_is_cached() {
    for (cached, expected) in [(false, vec![]), (true, vec![clause::VMID_WIDTH])] {
        let machine = Machine::stage1(Config { vmid_16_bits: true, ..plain() });
        if cached {
            machine.read(5, 0x1000);
        }
        machine.w32(0x00, 0x8020_0406);
        assert_eq!(machine.clauses(), expected);
    }
}

#[test]
fn a_hypervisor_bank_has_no_walk_to_disable() {
    let machine = Machine::new(plain());
    machine.tables();
    machine.bank1(0, CBAR_S1 | 0x400);
    machine.cb(0, SCTLR, 0);
    machine.w32(0x6c, 0);
    machine.gsync();
    machine.cb(0, TCR, 0x3599); // EPD0
    machine.cb(0, SCTLR, SCTLR_ON);
    machine.stream(0, 5, 0, 0);
    assert_eq!(machine.read(5, 0x1000), crate::harness::Got::Abort);
    assert_eq!(machine.clauses(), [clause::WALK_DISABLE_HYPERVISOR]);
}

#[test]
fn a_bank_is_not_to_be_changed_under_an_access_that_waits() {
    let machine = Machine::stage1(plain());
    machine.cb(0, SCTLR, SCTLR_ON | 0x80);
    machine.held(0x2000);
    machine.w32(0x1000, CBAR_S1);
    machine.assert_clean();
    machine.w32(0x1000, CBAR_S1 + 1);
    assert_eq!(machine.clauses(), [clause::FAULT_OUTSTANDING]);
}

#[test]
fn a_look_at_a_register_says_what_a_read_does_and_is_none() {
    let machine = Machine::stage1(lazy());
    let before = machine.smmu.counters();
    for offset in [0x00, 0x20, 0x800, 0xc00] {
        assert_eq!(machine.smmu.peek(offset, Width::Bits32), u64::from(machine.r32(offset)), "{offset:#x}");
    }
    let after = machine.smmu.counters();
    assert_eq!(after.register_reads, before.register_reads + 4);
    // A register that is not there is no fault for who only looks.
    assert_eq!(machine.smmu.peek(0xff8, Width::Bits64), 0);
    assert_eq!(machine.smmu.counters(), after);
    assert_eq!(machine.smmu.take_unpredictable(), []);
}
