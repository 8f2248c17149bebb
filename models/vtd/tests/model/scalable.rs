//! Scalable mode: entries, first stage, nesting, flags, invalidation by PASID.

use model_vtd::{Config, Scalable};
use portcullis_types::AccessKind;

use crate::harness::*;

const CONTEXT: u64 = CONTEXTS + 32 * 8;

/// A word is wrong: the reason that an access of PASID 1 to 0x3000 meets.
fn with(at: u64, word: u64) -> Option<u64> {
    let machine = Machine::scalable(plain());
    machine.set(at, &[word]);
    assert_eq!(machine.read_in(1, 0x3000), Got::Abort, "{at:#x} {word:#x}");
    machine.reason()
}

#[test]
fn each_type_of_entry_translates_its_way() {
    let machine = Machine::scalable(plain());
    assert_eq!(machine.read(0x1000), Got::At(0x80_0000), "second stage");
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000), "first stage");
    assert_eq!(machine.write_in(2, 0x3008), Got::At(0x80_0008), "nested");
    assert_eq!(machine.write_in(3, 0x5000), Got::At(0x5000), "pass-through");
    assert_eq!((machine.fault(), machine.notes()), (None, vec![]));
}

#[test]
fn entries_that_are_wrong_have_their_reasons() {
    let pasid = PASIDS + 64;
    for (at, word, reason) in [
        (ROOT, 0, 0x39),
        (ROOT, CONTEXTS | 3, 0x3a),
        (CONTEXT, 0, 0x41),
        (CONTEXT, DIRECTORY | 0x9d, 0x42),
        (CONTEXT + 8, 1 << 21, 0x42),
        (CONTEXT + 16, 1, 0x42),
        // PRE without DTE; RID_PASID beyond the directory.
        (CONTEXT, DIRECTORY | 0x19, 0x43),
        (CONTEXT + 8, 0x2000, 0x43),
        (CONTEXT, DIRECTORY | 0x15, 0x45),
        // RID_PASID 1.
        (CONTEXT + 8, 1, 0x48),
        (DIRECTORY, 0, 0x51),
        (DIRECTORY, PASIDS | 5, 0x52),
        (pasid, 0, 0x59),
        (pasid, 0x61, 0x5a),
        (pasid + 24, 1, 0x5a),
        (pasid + 16, FS4 | 3, 0x5a),
        // PGTT 0 and 7; FSPM 2.
        (pasid, 0x1, 0x5b),
        (pasid, 0x1c1, 0x5b),
        (pasid + 16, FS4 | 9, 0x5b),
        (FS4, 0, 0x71),
        (FS2, 0, 0x71),
        (FS1 + 24, 0x1006, 0x71),
        (FS4, FS3 | 0x87, 0x72),
        (FS2, 0x2087, 0x72),
        (FS1 + 24, 1 << 46 | 7, 0x72),
        (FS1 + 24, 0x1003, 0x81),
        (FS1 + 24, 0xfee0_0007, 0x87),
    ] {
        assert_eq!(with(at, word), Some(reason), "{at:#x} {word:#x}");
    }
}

#[test]
fn tables_that_cannot_be_read_have_their_reasons() {
    for (at, reason) in [
        (ROOT, 0x38),
        (CONTEXTS, 0x40),
        (DIRECTORY, 0x50),
        (PASIDS, 0x58),
        (FS4, 0x73),
        (FS3, 0x70),
        (FS1, 0x70),
    ] {
        let machine = Machine::scalable(plain());
        machine.ram.hole(at..=at + 0xfff);
        assert_eq!((machine.read_in(1, 0x3000), machine.reason()), (Got::Abort, Some(reason)), "{at:x}");
    }
    for (at, reason) in [(SS4, 0x7b), (SS2, 0x78)] {
        let machine = Machine::scalable(plain());
        machine.ram.hole(at..=at + 0xfff);
        assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(reason)));
    }
}

#[test]
fn addresses_and_pasids_have_limits() {
    let machine = Machine::scalable(plain());
    assert_eq!((machine.read_in(1, 1 << 47), machine.reason()), (Got::Abort, Some(0x80)));
    assert_eq!((machine.read_in(3, 1 << 46), machine.reason()), (Got::Abort, Some(0x83)));
    assert_eq!((machine.read(1 << 48), machine.reason()), (Got::Abort, Some(0x84)));
    assert_eq!((machine.read_in(0x2000, 0), machine.reason()), (Got::Abort, Some(0x46)));
    let mode = Scalable { pasid_bits: Some(4), ..Scalable::full() };
    let machine = Machine::scalable(Config { scalable: Some(mode), ..plain() });
    assert_eq!((machine.read_in(16, 0), machine.reason()), (Got::Abort, Some(0x89)));
}

#[test]
fn second_stage_permissions_have_reasons_of_their_own() {
    let machine = Machine::scalable(plain());
    machine.set(SS1 + 16, &[0x90_0001, 0x90_0002]);
    assert_eq!((machine.write(0x2000), machine.reason()), (Got::Abort, Some(0x85)));
    assert_eq!((machine.read(0x3000), machine.reason()), (Got::Abort, Some(0x86)));
    assert_eq!((machine.read(0x4000), machine.reason()), (Got::Abort, Some(0x79)));
    machine.set(SS1 + 32, &[1 << 46 | 3]);
    assert_eq!((machine.read(0x4000), machine.reason()), (Got::Abort, Some(0x7a)));
}

#[test]
fn a_supervisor_reads_its_pages_and_writes_what_wpe_lets_it() {
    let (read, write) = (Machine::supervisor(AccessKind::Read), Machine::supervisor(AccessKind::Write));
    let machine = Machine::scalable(plain());
    machine.set(FS1 + 24, &[0x1001]);
    assert_eq!(machine.access(Some(1), 0x3000, read), Got::At(0x1000));
    assert_eq!(machine.access(Some(1), 0x3000, write), Got::At(0x1000));
    assert_eq!((machine.read_in(1, 0x3000), machine.reason()), (Got::Abort, Some(0x81)));
    // WPE.
    let machine = Machine::scalable(plain());
    machine.set(FS1 + 24, &[0x1001]);
    machine.pasid(1, [0x41, 0x80_0006, FS4 | 0x11]);
    assert_eq!((machine.access(Some(1), 0x3000, write), machine.reason()), (Got::Abort, Some(0x85)));
    // SRE.
    let machine = Machine::scalable(plain());
    machine.pasid(1, [0x41, 0x80_0006, FS4]);
    assert_eq!((machine.access(Some(1), 0x3000, read), machine.reason()), (Got::Abort, Some(0x5d)));
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
}

#[test]
fn a_walk_sets_accessed_and_a_write_sets_dirty() {
    let machine = Machine::scalable(plain());
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
    assert_eq!([FS4, FS3, FS2, FS1 + 24].map(|at| machine.get(at) & 0x460), [0x20; 4]);
    assert_eq!(machine.write_in(1, 0x3000), Got::At(0x1000));
    assert_eq!(machine.get(FS1 + 24), 0x1067);
    assert_eq!(machine.get(FS2) & 0x40, 0);
    // EAFE.
    let machine = Machine::scalable(plain());
    machine.pasid(1, [0x41, 0x80_0006, FS4 | 0x81]);
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
    assert_eq!(machine.get(FS1 + 24), 0x1427);
    // SSADE, in the second stage.
    let machine = Machine::scalable(plain());
    machine.pasid(0, [SS4 | 0x289, 0x80_0005, 0]);
    assert_eq!(machine.write(0x1000), Got::At(0x80_0000));
    assert_eq!((machine.get(SS1 + 8), machine.get(SS2)), (0x80_0303, SS1 | 0x103));
}

#[test]
fn flags_cannot_be_set_where_walks_do_not_snoop() {
    let machine = Machine::scalable(plain());
    machine.pasid(1, [0x41, 0x6, FS4 | 1]);
    assert_eq!((machine.read_in(1, 0x3000), machine.reason()), (Got::Abort, Some(0x90)));
    for at in [FS4, FS3, FS2, FS1 + 24] {
        machine.set(at, &[machine.get(at) | 0x20]);
    }
    assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
    assert_eq!((machine.write_in(1, 0x3000), machine.reason()), (Got::Abort, Some(0x90)));
    machine.pasid(0, [SS4 | 0x289, 0x5, 0]);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0x7c)));
}

#[test]
fn nested_tables_need_the_second_stage() {
    // The page of the first stage's tables: not readable, not writable, not there.
    for (entry, reason) in [(0x20_0082, 0x75), (0x20_0081, 0x77), (0, 0x79)] {
        let machine = Machine::scalable(plain());
        machine.set(SS2 + 8, &[entry]);
        assert_eq!((machine.read_in(2, 0x3000), machine.reason()), (Got::Abort, Some(reason)));
    }
    let machine = Machine::scalable(plain());
    machine.set(SS1 + 8, &[0x80_0001]);
    assert_eq!(machine.read_in(2, 0x3000), Got::At(0x80_0000));
    assert_eq!((machine.write_in(2, 0x3000), machine.reason()), (Got::Abort, Some(0x85)));
}

#[test]
fn first_stage_translations_are_forgotten_by_pasid_and_not_by_another() {
    for (words, gone) in [
        // All of PASID 1 in domain 6; page 0x3000 of it; another page; another PASID; another domain.
        ([0x1_0006_0026, 0], true),
        ([0x1_0006_0036, 0x3040], true),
        ([0x1_0006_0036, 0x4040], false),
        ([0x2_0006_0026, 0], false),
        ([0x1_0005_0026, 0], false),
        // An IOTLB invalidation of the domain, or of any page of it.
        ([0x6_0022, 0], true),
        ([0x6_0032, 0x9000], true),
        ([0x5_0022, 0], false),
    ] {
        let machine = Machine::scalable(plain());
        assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
        machine.set(FS1 + 24, &[0x9007]);
        machine.invalidate(&words);
        let expected = if gone { 0x9000 } else { 0x1000 };
        assert_eq!(machine.read_in(1, 0x3000), Got::At(expected), "{words:x?}");
    }
}

#[test]
fn a_pasid_entry_stays_until_the_pasid_cache_is_invalidated() {
    for (words, gone) in
        [(0x37, true), (0x6_0007, true), (0x1_0006_0017, true), (0x2_0006_0017, false), (0x5_0007, false)]
    {
        let machine = Machine::scalable(plain());
        assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000));
        machine.pasid(1, [0, 0, 0]);
        machine.invalidate(&[words]);
        assert_eq!(machine.read_in(1, 0x3000), Got::At(0x1000), "the IOTLB still has it");
        machine.invalidate(&[0x12]);
        let expected = if gone { Got::Abort } else { Got::At(0x1000) };
        assert_eq!(machine.read_in(1, 0x3000), expected, "{words:x}");
    }
}

#[test]
fn fpd_of_any_entry_on_the_way_silences() {
    for at in [CONTEXT, DIRECTORY, PASIDS + 64] {
        let machine = Machine::scalable(plain());
        machine.set(at, &[machine.get(at) | 2]);
        assert_eq!((machine.read_in(1, 0x7000), machine.fault()), (Got::Abort, None));
    }
    // A PASID that is being torn down: not present, and quiet.
    let machine = Machine::scalable(plain());
    machine.pasid(1, [2, 0, 0]);
    assert_eq!((machine.read_in(1, 0x3000), machine.fault()), (Got::Abort, None));
}

#[test]
fn abort_dma_mode_is_reason_33h() {
    let mut machine = Machine::new(plain());
    machine.start(3, true);
    assert_eq!((machine.read(0x1000), machine.reason()), (Got::Abort, Some(0x33)));
}

#[test]
fn descriptors_of_128_bits_are_refused_in_scalable_mode() {
    let machine = Machine::legacy(plain());
    machine.write64(0x20, ROOT | 1 << 10);
    machine.command(30, true);
    machine.submit(&[0x12]);
    machine.ticks();
    assert_eq!(machine.read64(0xb0) & 0xf, 5);
}
