//! Capability registers, commands, invalidation by register, protected memory, and what is against the rules.

use std::sync::Arc;

use model_bus::SparseMemory;
use model_vtd::{Config, Depths, Policy, clause};

use crate::harness::*;

#[test]
fn capability_registers_say_what_was_chosen() {
    let machine = Machine::new(plain());
    assert_eq!(machine.read32(0), 0x50);
    // DRD DWD MAMV=18 NFR=7 PSI SSLPS=3 FRO=100h ZLR MGAW=56 SAGAW=1110b ND=6; FS5LP, FS1GP.
    assert_eq!(machine.read64(8), 0x11d2_078d_0078_0e06);
    let config = Config {
        version: (1, 2),
        domain_bits: 8,
        guest_bits: 48,
        depths: Depths { three: true, four: true, five: false },
        caching_mode: true,
        pages_1g: false,
        ..Config::legacy()
    };
    let machine = Machine::new(config);
    assert_eq!(machine.read32(0), 0x12);
    let cap = machine.read64(8);
    assert_eq!((cap & 7, cap >> 7 & 1, cap >> 8 & 0x1f, cap >> 16 & 0x3f, cap >> 34 & 0xf), (2, 1, 6, 47, 1));
    let ecap = machine.read64(0x10);
    assert_eq!((ecap >> 43 & 1, ecap & 0x1f, ecap >> 8 & 0x3ff), (0, 0x1f, 0x50));
}

#[test]
fn a_command_is_done_when_the_status_says_so() {
    let policy = Policy { acknowledge_ticks: 3, work_on_reads: false, ..Policy::eager() };
    let machine = Machine::new(Config { policy, ..Config::default() });
    machine.write64(0x20, ROOT);
    machine.write32(0x18, 1 << 30);
    machine.ticks();
    assert_eq!(machine.read32(0x1c), 1 << 30);
    assert_eq!(machine.read(0x1000), Got::At(0x1000), "translation is off");
}

#[test]
fn what_the_book_forbids_of_commands_is_noted() {
    let machine = Machine::new(plain());
    machine.write32(0x18, 1 << 31);
    assert_eq!(machine.broken(), [clause::ENABLE_WITHOUT_ROOT]);
    let machine = Machine::new(plain());
    machine.write64(0x20, ROOT);
    machine.command(30, true);
    machine.command(31, true);
    assert_eq!(machine.broken(), [clause::ROOT_NOT_INVALIDATED]);
    let machine = Machine::new(plain());
    machine.write32(0x18, 1 << 26 | 1 << 23);
    assert_eq!(machine.broken(), [clause::COMMAND_SEVERAL]);
    let machine = Machine::legacy(plain());
    machine.write64(0x20, ROOT | 1 << 10);
    machine.command(30, true);
    assert_eq!(machine.broken(), [clause::MODE_CHANGED]);
    let machine = Machine::legacy(plain());
    machine.write64(0x90, QUEUE | 0x10);
    assert_eq!(machine.broken(), [clause::REGISTER_RESERVED]);
}

#[test]
fn registers_invalidate_in_legacy_mode_of_old_parts_only() {
    for (version, works) in [((5, 0), true), ((6, 0), false)] {
        let machine = Machine::new(Config { version, ..plain() });
        machine.set(ROOT, &[CONTEXTS | 1, 0]);
        machine.set(CONTEXTS + 16 * 8, &[SS4 | 5, 0x502]);
        machine.set(SS4, &[SS3 | 3]);
        machine.set(SS3, &[SS2 | 3]);
        machine.set(SS2, &[SS1 | 3]);
        machine.set(SS1 + 8, &[0x80_0003]);
        machine.write64(0x20, ROOT);
        machine.command(30, true);
        machine.write64(0x28, 1 << 63 | 1 << 61);
        assert_eq!(machine.read64(0x28) >> 59, if works { 5 } else { 4 }, "CIRG and CAIG, ICC clear");
        machine.write64(IVA + 8, 1 << 63 | 1 << 60);
        machine.command(31, true);
        assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
        machine.set(SS1 + 8, &[0x90_0003]);
        machine.write64(IVA, 0x1000);
        machine.write64(IVA + 8, 1 << 63 | 3 << 60 | 5 << 32);
        let iotlb = machine.read64(IVA + 8);
        assert_eq!((iotlb >> 63, iotlb >> 57 & 3), (0, if works { 3 } else { 0 }));
        assert_eq!(machine.read(0x1000), Got::At(if works { 0x90_0000 } else { 0x80_0000 }));
        // An address mask beyond MAMV.
        machine.write64(IVA, 0x13);
        machine.write64(IVA + 8, 1 << 63 | 3 << 60 | 5 << 32);
        assert_eq!(machine.read64(IVA + 8) >> 57 & 3, 0);
    }
}

#[test]
fn protected_memory_is_nobodys_and_is_not_reported() {
    let machine = Machine::legacy(Config { protected_memory: true, ..plain() });
    machine.write32(0x68, 0x80_0000);
    machine.write32(0x6c, 0x80_0000);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    // The high range is empty only if its limit is below its base.
    machine.write64(0x70, 0x4000_0000);
    machine.write32(0x64, 1 << 31);
    assert_eq!(machine.read32(0x64), 1 << 31 | 1);
    assert_eq!((machine.read(0x1000), machine.fault()), (Got::Abort, None));
    machine.write32(0x64, 0);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
}

#[test]
fn a_disabled_queue_starts_again_at_0_and_reset_forgets_everything() {
    let machine = Machine::legacy(plain());
    assert_ne!(machine.read64(0x80), 0);
    machine.command(26, false);
    assert_eq!(machine.read64(0x80), 0);
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.unit.reset();
    assert_eq!((machine.read32(0x1c), machine.unit.cached_translations()), (0, 0));
}

#[test]
fn a_part_that_does_not_snoop_reads_what_was_written_back_and_its_queue_is_snooped_all_the_same() {
    for coherent in [true, false] {
        let (cached, behind) = (Arc::new(SparseMemory::new(46)), Arc::new(SparseMemory::new(46)));
        let mut machine = Machine::over(Config { coherent, ..plain() }, cached, behind);
        machine.set(ROOT, &[CONTEXTS | 1, 0]);
        machine.set(CONTEXTS + 16 * 8, &[0x9, 0x503]);
        machine.start(0, false);
        let expected = if coherent { (Got::At(0x5000), None) } else { (Got::Abort, Some(1)) };
        assert_eq!((machine.read(0x5000), machine.reason()), expected);
    }
}

#[test]
fn remapping_is_on_when_the_accesses_before_it_are_back() {
    let machine = Machine::legacy(plain());
    machine.write64(0xb8, IRT | 7);
    machine.command(24, true);
    machine.invalidate(&[0x4]);
    for control in [31, 25] {
        machine.command(31, false);
        machine.during_a_write(|| {
            machine.write32(0x18, 1 << 26 | 1 << control);
            machine.ticks();
            assert_eq!(machine.read32(0x1c) >> control & 1, 0, "an access is under way");
        });
        machine.ticks();
        assert_eq!(machine.read32(0x1c) >> control & 1, 1);
    }
}

#[test]
fn memory_is_protected_when_the_accesses_before_it_are_back() {
    let machine = Machine::legacy(Config { protected_memory: true, ..plain() });
    machine.write64(0x70, 0x4000_0000);
    machine.during_a_write(|| {
        machine.write32(0x64, 1 << 31);
        machine.ticks();
        assert_eq!(machine.read32(0x64), 1 << 31, "PRS is not set");
    });
    machine.ticks();
    assert_eq!(machine.read32(0x64), 1 << 31 | 1);
}

#[test]
fn an_invalidation_by_register_is_over_when_the_accesses_before_it_are_back() {
    let machine = Machine::new(plain());
    machine.during_a_write(|| {
        machine.write64(IVA + 8, 1 << 63 | 1 << 60);
        machine.ticks();
        assert_eq!(machine.read64(IVA + 8) >> 63, 1, "IVT");
    });
    machine.ticks();
    assert_eq!(machine.read64(IVA + 8) >> 63, 0);
}

#[test]
fn no_more_translations_are_kept_than_the_policy_has_room_for() {
    let policy = Policy { translations: 2, ..Policy::eager() };
    let machine = Machine::legacy(Config { policy, ..plain() });
    for page in 1..=5 {
        machine.set(SS1 + 8 * page, &[0x80_0003]);
        assert_eq!(machine.read(page << 12), Got::At(0x80_0000));
        assert_eq!(machine.unit.cached_translations() as u64, page.min(2));
    }
}
