//! Registers: what they read as, who may write them when, Updates, and what is noted at enabling.

use model_bus::{Mmio, Width};
use model_smmuv3::{Config, Policy, clause};

use crate::harness::{CD, CD_39, COMMANDS, EVENTS, Got, Machine, STE_BYPASS, STE_S1, STREAMS, low32, plain};

#[test]
fn identification_reads_as_configured_and_cannot_be_written() {
    let machine = Machine::bare(Config::default());
    let ids = [
        (0x00, 0x094c_301b),
        (0x04, 0x0507_0010),
        (0x0c, 0x1414),
        (0x14, 0x75),
        (0x1c, 2),
        (0xff0, 0x0d),
        (0xffc, 0xb1),
    ];
    for (offset, value) in ids {
        machine.w32(offset, 0xffff_ffff);
        assert_eq!(machine.r32(offset), value, "{offset:#x}");
    }
    assert_eq!(machine.r32(0x300), 0, "nothing there");
    machine.w32(0x300, 1);
    machine.assert_clean();
}

#[test]
fn wide_registers_are_accessed_whole_or_in_halves() {
    let machine = Machine::bare(plain());
    for offset in [0x80, 0x90, 0xa0] {
        machine.w64(offset, 0x0000_1234_5678_9fc0);
        assert_eq!(machine.r64(offset), 0x0000_1234_5678_9fc0);
        assert_eq!((machine.r32(offset), machine.r32(offset + 4)), (0x5678_9fc0, 0x1234));
        machine.w32(offset + 4, 0x4321);
        machine.w32(offset, 0x8765_4fc0);
        assert_eq!(machine.r64(offset), 0x0000_4321_8765_4fc0);
    }
    machine.w64(0x68, 0xffff_ffff_ffff_ffff);
    assert_eq!(machine.r64(0x68), 0x000f_ffff_ffff_fffc, "only the field is kept");
    machine.assert_clean();
}

#[test]
fn other_widths_and_alignments_are_noted_and_do_nothing() {
    let machine = Machine::bare(plain());
    let odd = [
        (0x20, Width::Bits64),
        (0x98, Width::Bits64),
        (0x20, Width::Bits16),
        (0x20, Width::Bits8),
        (0x80, Width::Bits8),
        (0x84, Width::Bits64),
        (0x22, Width::Bits32),
    ];
    for (offset, width) in odd {
        machine.smmu.write(offset, width, u64::MAX);
        assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH], "write {offset:#x}");
        assert_eq!(machine.smmu.read(offset, width), 0);
        assert_eq!(machine.clauses(), [clause::REGISTER_WIDTH], "read {offset:#x}");
    }
    assert_eq!((machine.r32(0x20), machine.r32(0x98), machine.r64(0x80)), (0, 0, 0));
}

#[test]
fn event_indexes_in_page_0_are_noted() {
    let machine = Machine::bare(plain());
    machine.w32(0xac, 1);
    assert_eq!(machine.r32(0xa8), 0);
    assert_eq!(machine.clauses(), [clause::PAGE_ONE; 2]);
    assert_eq!(machine.r32(0x1_00ac), 0);
}

#[test]
fn what_is_enabled_cannot_be_reconfigured() {
    // Register, what enables it, and the value that must stay.
    let rows = [
        (0x80, true),
        (0x88, false),
        (0x90, true),
        (0x9c, false),
        (0xa0, true),
        (0x1_00a8, false),
        (0x68, true),
        (0x70, false),
        (0x74, false),
        (0xb0, true),
        (0xb8, false),
        (0xbc, false),
        (0x28, false),
        (0x2c, false),
    ];
    for (offset, wide) in rows {
        let machine = Machine::new(plain());
        machine.w32(0x50, 0b101);
        machine.settle();
        let value = || if wide { machine.r64(offset) } else { machine.r32(offset).into() };
        let before = value();
        if wide {
            machine.w64(offset, !before)
        } else {
            machine.w32(offset, !low32(before))
        }
        assert_eq!(value(), before, "{offset:#x}");
        assert!(machine.clauses().contains(&clause::WRITE_WHILE_ENABLED), "{offset:#x}");
    }
}

#[test]
fn the_same_registers_can_be_written_while_off() {
    let machine = Machine::bare(Config { broadcast: true, ..plain() });
    for (offset, value) in [
        (0x88, 0x0001_0206),
        (0x9c, 0x17),
        (0x1_00a8, 0x8000_0007),
        (0x28, 0xfff),
        (0x2c, 0x6),
        (0x70, 5),
        (0x74, 0x3f),
    ] {
        machine.w32(offset, value);
        assert_eq!(machine.r32(offset), value, "{offset:#x}");
    }
    machine.assert_clean();
}

#[test]
fn without_messages_their_registers_do_not_exist() {
    let machine = Machine::bare(Config { msi: false, ..plain() });
    for offset in [0x68, 0x70, 0xb0, 0xb8] {
        machine.w32(offset, 0xffff_fffc);
        assert_eq!(machine.r32(offset), 0, "{offset:#x}");
    }
}

#[test]
fn each_half_of_cr1_has_its_own_guard() {
    let machine = Machine::bare(plain());
    machine.w64(0x90, COMMANDS | 4);
    machine.w32(0x20, 8);
    machine.settle();
    machine.w32(0x28, 0xfc0);
    assert_eq!(machine.r32(0x28), 0xfc0);
    machine.assert_clean();
    machine.w32(0x28, 0xfff);
    assert_eq!(machine.r32(0x28), 0xfc0);
    assert_eq!(machine.clauses(), [clause::WRITE_WHILE_ENABLED]);
}

fn slow() -> Config {
    Config {
        policy: Policy { acknowledge_ticks: 20, work_on_reads: false, ..Policy::eager() },
        ..Config::default()
    }
}

#[test]
fn updates_take_their_time_and_the_guard_holds_meanwhile() {
    let (mut slow_ones, mut longest) = (0, 0);
    for round in 0..20 {
        let machine = Machine::bare(slow());
        (0..round).for_each(|_| machine.w32(0x44, 0x8000_0000)); // throw some dice
        machine.settle();
        machine.notes();
        machine.w64(0x90, COMMANDS | 4);
        machine.w32(0x20, 8);
        if machine.r32(0x24) == 0 {
            slow_ones += 1;
            machine.w64(0x90, 0);
            assert_eq!(machine.clauses(), [clause::WRITE_WHILE_ENABLED]);
            // Another field may be written meanwhile; the same one may not.
            machine.w32(0x20, 0xc);
            machine.assert_clean();
            machine.w32(0x20, 0x4);
            assert_eq!(machine.clauses(), [clause::UPDATE_IN_PROGRESS]);
        } else {
            machine.w32(0x20, 0xc);
        }
        let mut steps = 0;
        while machine.r32(0x24) != 0xc {
            machine.smmu_step();
            steps += 1;
        }
        longest = longest.max(steps);
        assert_eq!(machine.r32(0x20), 0xc);
        assert_eq!(machine.r64(0x90), COMMANDS | 4);
    }
    assert!(slow_ones > 5 && longest > 5 && longest <= 21, "{slow_ones}, {longest}");
}

#[test]
fn updates_may_be_done_at_once() {
    let policy = Policy { work_on_reads: false, ..Policy::eager() };
    let machine = Machine::bare(Config { policy, ..Config::default() });
    machine.w32(0x20, 0b1100);
    machine.w32(0x50, 0b101);
    machine.w32(0x44, 0x8010_0000);
    assert_eq!((machine.r32(0x24), machine.r32(0x54), machine.r32(0x44)), (0b1100, 0b101, 0x0010_0000));
    let counters = machine.smmu.counters();
    assert_eq!((counters.register_writes, counters.register_reads), (3, 3));
}

#[test]
fn interrupt_enables_are_updates_too() {
    let mut slow_ones = 0;
    for round in 0..20 {
        let machine = Machine::bare(slow());
        (0..round).for_each(|_| machine.w32(0x44, 0x8000_0000));
        machine.settle();
        machine.notes();
        machine.w32(0x50, 0b101);
        if machine.r32(0x54) == 0 {
            slow_ones += 1;
            machine.w32(0x50, 0b100);
            assert_eq!(machine.clauses(), [clause::UPDATE_IN_PROGRESS]);
        }
        machine.settle();
        assert_eq!(machine.r32(0x54), 0b101);
    }
    assert!(slow_ones > 5);
}

#[test]
fn fields_that_do_not_exist_are_not_enabled() {
    let machine = Machine::bare(plain());
    machine.w32(0x20, 0xffff_fffe);
    machine.w32(0x50, 0xffff_ffff);
    machine.settle();
    assert_eq!((machine.r32(0x24), machine.r32(0x54)), (0b1100, 0b101));
}

#[test]
fn gbpa_is_written_with_its_update_bit() {
    let machine = Machine::bare(plain());
    machine.w32(0x44, 0x0010_0000);
    assert_eq!(machine.clauses(), [clause::GBPA_UPDATE]);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000), "not enabled: let through");
    machine.w32(0x44, 0x8010_0000);
    machine.settle();
    assert_eq!(machine.r32(0x44), 0x0010_0000);
    assert_eq!(machine.read(1, 0x1000), Got::Abort, "GBPA.ABORT");
    assert_eq!(machine.events(), [[0; 4]; 0]);
    let machine = Machine::bare(slow());
    while machine.r32(0x44) & 0x8000_0000 == 0 {
        machine.w32(0x44, 0x8010_0000);
    }
    machine.w32(0x44, 0x8000_0000);
    assert_eq!(machine.clauses(), [clause::GBPA_UPDATE], "while an Update is under way");
}

#[test]
fn an_error_that_is_not_active_cannot_be_acknowledged() {
    let machine = Machine::bare(plain());
    machine.w32(0x64, 1);
    assert_eq!(machine.clauses(), [clause::GERRORN_INACTIVE]);
    assert_eq!(machine.r32(0x64), 0);
}

/// Sets up as usual but for one register, and enables.
fn enabled_with(offset: u64, wide: bool, value: u64) -> (Machine, Vec<&'static str>) {
    let machine = Machine::bare(plain());
    machine.w64(0x80, STREAMS);
    machine.w32(0x88, 6);
    machine.w64(0x90, COMMANDS | 4);
    machine.w64(0xa0, EVENTS | 3);
    if wide {
        machine.w64(offset, value)
    } else {
        machine.w32(offset, low32(value))
    }
    machine.w32(0x20, 0b1100);
    machine.settle();
    let prod = machine.r32(0x98);
    machine.command(0x04, 0x1f);
    machine.command(0x30, 0);
    let _ = prod;
    machine.enable();
    let clauses = machine.clauses();
    (machine, clauses)
}

#[test]
fn what_is_wrong_at_enabling_is_noted() {
    let rows = [
        (0x90, true, COMMANDS | 0x80 | 4, clause::QUEUE_ALIGNMENT),
        (0x90, true, COMMANDS | 9, clause::QUEUE_SIZE),
        (0xa0, true, EVENTS | 0x80 | 3, clause::QUEUE_ALIGNMENT),
        (0xa0, true, EVENTS | 8, clause::QUEUE_SIZE),
        (0x1_00a8, false, 12, clause::QUEUE_INDEXES),
        (0x80, true, STREAMS + 0x40, clause::STREAM_TABLE_ALIGNMENT),
        (0x88, false, 17, clause::STREAM_TABLE_SIZE),
        (0x88, false, 0x2_0006, clause::STREAM_TABLE_FORMAT),
        (0x88, false, 0x1_01c8, clause::STREAM_TABLE_FORMAT),
    ];
    for (offset, wide, value, rule) in rows {
        let (_, clauses) = enabled_with(offset, wide, value);
        // A table of another size may be misaligned in consequence.
        assert!(clauses.contains(&rule), "{offset:#x} = {value:#x}: {clauses:?}");
    }
    assert_eq!(enabled_with(0x80, true, STREAMS).1, [""; 0]);
}

#[test]
fn a_misaligned_stream_table_is_used_aligned() {
    let (machine, _) = enabled_with(0x80, true, STREAMS + 0x40);
    machine.ste(1, &STE_BYPASS);
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
}

#[test]
fn a_two_level_table_needs_the_feature() {
    let machine = Machine::bare(Config { two_level_streams: false, ..plain() });
    machine.w32(0x88, 0x1_0188);
    machine.w64(0x80, 0x10_0000);
    machine.w32(0x20, 1);
    machine.settle();
    assert!(machine.clauses().contains(&clause::STREAM_TABLE_FORMAT));
}

#[test]
fn enabling_before_everything_was_invalidated_is_noted() {
    // Without either; with one of the two.
    for commands in [&[][..], &[(0x04, 0x1f)], &[(0x30, 0)]] {
        let machine = Machine::bare(plain());
        machine.w64(0x80, STREAMS);
        machine.w32(0x88, 6);
        machine.w64(0x90, COMMANDS | 4);
        machine.w32(0x20, 8);
        machine.settle();
        commands.iter().for_each(|&(low, high)| machine.command(low, high));
        machine.w32(0x20, 9);
        machine.settle();
        assert_eq!(machine.clauses(), [clause::ENABLED_BEFORE_INVALIDATION]);
    }
}

#[test]
fn a_stream_led_to_el2_before_its_caches_were_invalidated_is_noted() {
    const STRW_EL2: u64 = 2 << 30;
    // Whether CMD_TLBI_EL2_ALL was there, the stream's regime, whether that is wrong.
    for (invalidated, regime, wrong) in [(false, 0, false), (false, STRW_EL2, true), (true, STRW_EL2, false)]
    {
        let machine = Machine::bare(Config { hyp: true, ..plain() });
        machine.w64(0x80, STREAMS);
        machine.w32(0x88, 6);
        machine.w64(0x90, COMMANDS | 4);
        machine.w32(0x20, 8);
        machine.settle();
        machine.command(0x04, 0x1f);
        machine.command(0x30, 0);
        if invalidated {
            machine.command(0x20, 0);
        }
        machine.sync();
        machine.w32(0x20, 9);
        machine.settle();
        machine.assert_clean();
        machine.ste(1, &[STE_S1[0], regime, 0, 0, 0, 0, 0, 0]);
        machine.words(CD, &CD_39);
        machine.tables();
        assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
        let expected = if wrong { vec![clause::ENABLED_BEFORE_INVALIDATION] } else { vec![] };
        assert_eq!(machine.clauses(), expected);
    }
}

#[test]
fn a_reset_brings_everything_back() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(1, 0x1000), Got::At(0x30_0000));
    machine.smmu.reset();
    assert_eq!((machine.r32(0x24), machine.r64(0x90), machine.smmu.cached_translations()), (0, 0, 0));
    assert_eq!(machine.read(1, 0x1000), Got::At(0x1000));
    assert_eq!(machine.smmu.counters().granted, 1, "counters stay");
}
