//! What the book forbids, rule by rule: it is noted when it is done, and is not when the same is done right.
//!
//! Not here: rules whose breach also has an answer of the hardware's own, which are beside that (`programming`, `queue`, `faults`, `caches`, `ats`).

use model_vtd::{Config, Policy, clause};
use portcullis_types::Access;

use crate::harness::*;

const CONTEXT: u64 = CONTEXTS + 16 * 8;
/// Nothing is there unless a test puts it there.
const OTHER: u64 = 0x13_0000;

/// Works only when it is told to go on, and takes its time.
fn slow(config: Config) -> Config {
    Config { policy: Policy { acknowledge_ticks: 3, work_on_reads: false, ..Policy::eager() }, ..config }
}

#[test]
fn a_register_is_read_as_wide_as_it_is() {
    let machine = Machine::new(plain());
    let _ = (machine.read64(0x08), machine.read64(FRCD), machine.read32(0x1c));
    assert_eq!(machine.notes(), []);
    machine.read64(0x18);
    assert_eq!(machine.broken(), [clause::REGISTER_WIDTH]);
    machine.write64(0x18, 0);
    assert_eq!(machine.broken(), [clause::REGISTER_WIDTH]);
}

#[test]
fn a_command_waits_for_the_one_before_it() {
    let machine = Machine::new(Config { protected_memory: true, ..slow(plain()) });
    machine.write64(0x20, ROOT);
    machine.write32(0x18, 1 << 30);
    machine.ticks();
    machine.write32(0x18, 1 << 26);
    assert_eq!(machine.notes(), []);
    machine.write32(0x18, 1 << 26 | 1 << 30);
    assert_eq!(machine.broken(), [clause::COMMAND_BUSY]);
    machine.ticks();
    machine.write32(0x64, 1 << 31);
    assert_eq!(machine.notes(), []);
    machine.write32(0x64, 0);
    assert_eq!(machine.broken(), [clause::COMMAND_BUSY]);
}

#[test]
fn a_root_table_has_a_mode_that_the_part_has() {
    let breaks = |config: Config, bits: u64| {
        let machine = Machine::new(config);
        machine.write64(0x20, ROOT | bits);
        machine.command(30, true);
        machine.broken()
    };
    let scalable = Config { io_permissions: true, ..plain() };
    let legacy = Config { scalable: None, abort_dma: false, ..plain() };
    for (config, bits) in
        [(legacy, 0), (scalable, 1 << 10), (scalable, 3 << 10), (scalable, 1 << 10 | 1 << 7)]
    {
        assert_eq!(breaks(config, bits), [""; 0], "{bits:#x}");
    }
    for (config, bits) in [(legacy, 1 << 10), (legacy, 2 << 10), (legacy, 3 << 10), (scalable, 1 << 7)] {
        assert_eq!(breaks(config, bits), [clause::ROOT_POINTER], "{bits:#x}");
    }
}

#[test]
fn interrupts_are_remapped_by_a_table_whose_mode_stays() {
    let machine = Machine::legacy(plain());
    machine.command(25, true);
    assert_eq!(machine.broken(), [clause::ENABLE_WITHOUT_INTERRUPT_TABLE]);
    machine.command(25, false);
    machine.write64(0xb8, IRT | 7);
    machine.command(24, true);
    machine.invalidate(&[0x4]);
    machine.command(25, true);
    machine.command(24, true);
    assert_eq!(machine.notes(), []);
    // EIME.
    machine.write64(0xb8, IRT | 7 | 1 << 11);
    machine.command(24, true);
    assert_eq!(machine.broken(), [clause::INTERRUPT_MODE_CHANGED]);
}

#[test]
fn a_queue_begins_empty_and_is_moved_and_ended_when_it_is_quiet() {
    let machine = Machine::new(plain());
    machine.write64(0x90, QUEUE);
    machine.write64(0x88, 0x10);
    machine.write32(0x18, 1 << 26);
    assert_eq!(machine.broken(), [clause::QUEUE_TAIL]);
    let machine = Machine::legacy(plain());
    machine.write64(0x90, QUEUE);
    assert_eq!(machine.notes(), []);
    machine.submit(&[0x12]);
    machine.write64(0x90, QUEUE);
    assert_eq!(machine.broken(), [clause::QUEUE_MOVED]);
    machine.write32(0x18, 1 << 31);
    assert_eq!(machine.broken(), [clause::QUEUE_DISABLED]);
    let machine = Machine::legacy(plain());
    machine.submit(&[0x12]);
    machine.ticks();
    machine.write32(0x18, 1 << 31);
    assert_eq!(machine.notes(), []);
}

#[test]
fn a_queue_is_not_disabled_while_an_invalidation_or_a_wait_is_under_way() {
    // An invalidation that may wait for the wait descriptor behind it.
    let policy = Policy { lazy_invalidation: true, ..slow(plain()).policy };
    let machine = Machine::new(Config { policy, ..plain() });
    machine.write64(0x90, QUEUE);
    machine.write32(0x18, 1 << 26);
    machine.ticks();
    machine.submit(&[0x12]);
    model_bus::Clocked::step(&*machine.unit, 0);
    assert_eq!(machine.read64(0x80), machine.read64(0x88), "it was fetched");
    machine.write32(0x18, 0);
    assert_eq!(machine.broken(), [clause::QUEUE_DISABLED]);
    // A wait for a device that does not answer.
    let machine = Machine::legacy(plain());
    machine.submit(&[0x8_0000_0003, 0x5000]);
    assert!(!machine.waited());
    machine.write32(0x18, 1 << 31);
    assert_eq!(machine.broken(), [clause::QUEUE_DISABLED]);
}

#[test]
fn an_invalidation_by_register_is_alone() {
    let invalidations = [(0x28, 1 << 63 | 1 << 61), (IVA + 8, 1 << 63 | 1 << 60)];
    for (register, word) in invalidations {
        let machine = Machine::new(slow(plain()));
        machine.write64(register, word);
        assert_eq!(machine.notes(), []);
        machine.write64(register, word);
        assert_eq!(machine.broken(), [clause::REGISTER_BUSY]);
        machine.write32(0x18, 1 << 26);
        assert_eq!(machine.broken(), [clause::QUEUE_ENABLED_EARLY]);
        machine.ticks();
        machine.write64(register, word);
        assert_eq!(machine.broken(), [clause::REGISTER_INVALIDATION], "the queue is on");
        // From major version 6 on there is none.
        let machine = Machine::new(Config { version: (6, 0), ..plain() });
        machine.write64(register, word);
        assert_eq!(machine.broken(), [clause::REGISTER_INVALIDATION]);
    }
}

#[test]
fn address_and_index_masks_are_no_larger_than_the_part_has_them() {
    let machine = Machine::legacy(Config { page_selective: Some(9), index_mask: 3, ..plain() });
    machine.invalidate(&[0x5_0032, 9]);
    machine.invalidate(&[0x14 | 3 << 27]);
    assert_eq!(machine.notes(), []);
    machine.invalidate(&[0x5_0032, 10]);
    assert_eq!(machine.broken(), [clause::ADDRESS_MASK]);
    machine.invalidate(&[0x14 | 4 << 27]);
    assert_eq!(machine.broken(), [clause::INDEX_MASK]);
}

#[test]
fn a_status_is_written_to_memory() {
    let machine = Machine::legacy(plain());
    machine.ram.hole(0x9000..=0x9fff);
    machine.submit(&[0x25, 0x9000]);
    machine.ticks();
    assert_eq!(machine.broken(), [clause::DESCRIPTOR]);
    machine.wait();
    assert_eq!(machine.notes(), [], "the queue goes on");
}

#[test]
fn caching_mode_keeps_domain_0_to_itself() {
    for caching_mode in [false, true] {
        let expected: &[&str] = if caching_mode { &[clause::DOMAIN_ZERO] } else { &[] };
        let machine = Machine::legacy(Config { caching_mode, ..plain() });
        machine.set(CONTEXT, &[SS4 | 5, 0x2]);
        assert_eq!((machine.read(0x1000), machine.broken()), (Got::At(0x80_0000), expected.to_vec()));
        let machine = Machine::scalable(Config { caching_mode, ..plain() });
        machine.pasid(0, [SS4 | 0x89, 0x80_0000, 0]);
        assert_eq!((machine.read(0x1000), machine.broken()), (Got::At(0x80_0000), expected.to_vec()));
    }
}

#[test]
fn a_domain_id_has_one_second_stage_table_and_none_of_another_kind() {
    let machine = Machine::scalable(plain());
    let read_all = || {
        machine.submit(&[0x37]);
        machine.invalidate(&[0x12]);
        let _ = (machine.read(0x1000), machine.read_in(1, 0x3000), machine.read_in(2, 0x3000));
        machine.broken()
    };
    assert_eq!(read_all(), [""; 0]);
    // Nested, with another second-stage table than PASID 0 has.
    machine.pasid(2, [OTHER | 0xc9, 0x80_0005, FS4 | 1]);
    assert_eq!(read_all(), [clause::DOMAIN_SHARED]);
    // The same table, with another depth.
    machine.pasid(2, [SS4 | 0xc5, 0x80_0005, FS4 | 1]);
    assert_eq!(read_all(), [clause::DOMAIN_SHARED]);
    machine.pasid(2, [SS4 | 0xc9, 0x80_0005, FS4 | 1]);
    // First-stage only, in the domain of a second stage.
    machine.pasid(1, [0x41, 0x80_0005, FS4 | 1]);
    assert_eq!(read_all(), [clause::DOMAIN_KINDS]);
}

#[test]
fn a_pasid_of_a_domain_has_one_first_stage_table() {
    let (directory, pasids) = (0x6_0000, 0x6_1000);
    let breaks = |domain: u64, table: u64| {
        let machine = Machine::scalable(plain());
        machine.set(CONTEXTS + 32 * 9, &[directory | 0x1d, 0, 0, 0]);
        machine.set(directory, &[pasids | 1]);
        machine.set(pasids + 64, &[0x41, 0x80_0000 | domain, table | 1, 0, 0, 0, 0, 0]);
        let _ = machine.read_in(1, 0x3000);
        let _ = machine.access_by(9, Some(1), 0x3000, Access::READ);
        machine.broken()
    };
    assert_eq!(breaks(6, FS4), [""; 0]);
    assert_eq!(breaks(7, OTHER), [""; 0], "another domain");
    assert_eq!(breaks(6, OTHER), [clause::PASID_SHARED]);
}

#[test]
fn a_present_entry_gets_another_table_and_another_domain_in_one_step() {
    let policy = Policy { audit_one_in: 1, ..Policy::eager() };
    for (domain, expected) in [(5, &[clause::ENTRY_UPDATE][..]), (6, &[])] {
        let machine = Machine::legacy(Config { policy, ..plain() });
        assert_eq!((machine.read(0x1000), machine.notes()), (Got::At(0x80_0000), vec![]));
        machine.set(CONTEXT, &[OTHER | 5, domain << 8 | 2]);
        assert_eq!(
            (machine.read(0x1000), machine.broken()),
            (Got::At(0x80_0000), expected.to_vec()),
            "cached"
        );
    }
}

#[test]
fn a_present_entry_that_was_changed_in_part_is_noted_when_it_is_forgotten() {
    for (domain, expected) in [(5, &[clause::ENTRY_UPDATE][..]), (6, &[])] {
        // Global, by domain, by device.
        for invalidation in [0x11, 0x5_0021, 0x8_0005_0031] {
            let machine = Machine::legacy(plain());
            assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
            machine.set(CONTEXT, &[OTHER | 5, domain << 8 | 2]);
            assert_eq!((machine.read(0x1000), machine.notes()), (Got::At(0x80_0000), vec![]), "cached");
            machine.invalidate(&[invalidation]);
            assert_eq!(machine.broken(), expected, "{invalidation:#x}");
        }
    }
    // Not present in between, and seen to be so; or while translation is off.
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.set(CONTEXT, &[0]);
    machine.invalidate(&[0x11]);
    machine.set(CONTEXT, &[OTHER | 5, 0x502]);
    machine.invalidate(&[0x11]);
    assert_eq!(machine.notes(), []);
    let machine = Machine::legacy(plain());
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000));
    machine.command(31, false);
    machine.set(CONTEXT, &[OTHER | 5, 0x502]);
    machine.invalidate(&[0x11]);
    assert_eq!(machine.notes(), []);
}

#[test]
fn pass_through_has_the_largest_width() {
    for (width, expected) in [(3, &[][..]), (2, &[clause::PASS_THROUGH_WIDTH])] {
        let machine = Machine::legacy(plain());
        machine.set(CONTEXT, &[0x9, 0x500 | width]);
        assert_eq!((machine.read(0x5000), machine.broken()), (Got::At(0x5000), expected.to_vec()));
    }
}

#[test]
fn protected_memory_stays_where_it_is_while_it_is_protected() {
    let machine = Machine::new(Config { protected_memory: true, ..plain() });
    for register in [0x68, 0x6c, 0x70, 0x78] {
        machine.write32(register, 0x4000_0000);
    }
    assert_eq!(machine.notes(), []);
    machine.write32(0x64, 1 << 31);
    for register in [0x68, 0x6c, 0x70, 0x78] {
        machine.write32(register, 0x4000_0000);
        assert_eq!(machine.broken(), [clause::PROTECTED_CHANGED], "{register:#x}");
    }
}

#[test]
fn an_event_goes_to_an_interrupt_address() {
    for (address, upper, expected) in [
        (0xfee0_3000, 0x100, &[][..]),
        (0xfee0_3000, 1, &[clause::EVENT_ADDRESS]),
        (0x9000, 0, &[clause::EVENT_ADDRESS]),
    ] {
        let machine = Machine::legacy(plain());
        machine.write32(0x3c, 0x31);
        machine.write32(0x40, address);
        machine.write32(0x44, upper);
        machine.write32(0x38, 0);
        assert_eq!((machine.read(0x5000), machine.broken()), (Got::Abort, expected.to_vec()));
        let written = if address == 0x9000 { 0x31 } else { 0 };
        assert_eq!(machine.get(0x9000), written);
        assert_eq!(machine.ears.interrupts.lock().unwrap().len(), usize::from(written == 0));
    }
}
