//! From a StreamID to a group, and what a group does.

use model_smmuv2::{Config, clause};
use portcullis_types::{Access, AccessKind};

use crate::harness::{CBAR_S1, Got, L3, Machine, PAGE, plain};

#[test]
fn out_of_reset_everything_goes_through_untranslated() {
    let machine = Machine::bare(Config::default());
    assert_eq!(machine.read(5, 0x1234_5678), Got::At(0x1234_5678));
    assert_eq!(machine.read(5, 0x0001_8000_0000_1000), Got::At(0x8000_0000_1000), "cut to the output size");
    assert_eq!(machine.smmu.counters().bypassed, 2);
}

#[test]
fn a_group_matches_all_bits_that_its_mask_leaves() {
    let machine = Machine::stage1(plain());
    machine.stream(1, 0x40, 0x0f, 0);
    for stream in [5, 0x40, 0x4f] {
        assert_eq!(machine.read(stream, 0x1abc), Got::At(0x30_0abc), "{stream:#x}");
    }
    for stream in [4, 0x50, 0x140] {
        assert_eq!(machine.read(stream, 0x1abc), Got::Abort, "{stream:#x}");
        // USF; stream.
        assert_eq!((machine.r32(0x48), machine.r32(0x54)), (0x2, stream));
        machine.w32(0x48, 0x2);
    }
    machine.assert_clean();
}

#[test]
fn a_stream_without_a_group_passes_if_software_says_so() {
    let machine = Machine::new(plain());
    machine.w32(0x00, 0x0020_0006);
    assert_eq!(machine.read(9, 0x1000), Got::At(0x1000));
    assert_eq!(machine.r32(0x48), 0);
}

#[test]
fn a_global_fault_is_told_with_address_stream_and_kind_of_access() {
    let machine = Machine::new(plain());
    let privileged = Access { kind: AccessKind::Execute, privileged: true };
    assert_eq!(machine.access(9, 0x1_2345_6789, privileged), Got::Abort);
    // USF; IND, PNU; stream 9.
    assert_eq!([0x48, 0x50, 0x54, 0x58].map(|at| machine.r32(at)), [0x2, 0xc, 9, 0]);
    assert_eq!(machine.r64(0x40), 0x1_2345_6789);
    assert_eq!(machine.write(8, 0x1000), Got::Abort);
    assert_eq!((machine.r32(0x48), machine.r32(0x54)), (0x8000_0002, 9), "MULTI, and nothing else");
    assert_eq!(machine.smmu.faults_lost(), 1);
    machine.w32(0x48, 0x8000_0002);
    assert_eq!(machine.write(8, 0x1000), Got::Abort);
    // WNR.
    assert_eq!((machine.r32(0x48), machine.r32(0x50)), (0x2, 0x2));
    machine.w32(0x4c, 0x8000_0009);
    assert_eq!(machine.r32(0x48), 0x8000_0009, "restored");
}

#[test]
fn without_gfre_a_global_fault_is_silence_for_the_device() {
    let machine = Machine::new(plain());
    machine.w32(0x00, 0x0020_0404);
    assert_eq!(machine.read(9, 0x1000), Got::Ignored);
    assert_eq!(machine.r32(0x48), 0x2);
}

#[test]
fn a_stream_of_two_groups_is_a_conflict() {
    let machine = Machine::stage1(plain());
    machine.stream(3, 0x4, 0x3, 0);
    assert_eq!(machine.smmu.conflicting_groups(), [(0, 3)]);
    machine.assert_clean();
    assert_eq!(machine.read(4, 0x1000), Got::At(0x30_0000), "one group");
    machine.assert_clean();
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    assert_eq!((machine.r32(0x48), machine.clauses()), (0x4, vec![clause::MULTIPLE_MATCH]));
    // SMCFCFG 0: past the SMMU.
    machine.w32(0x00, 0x0000_0406);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x1000));
}

#[test]
fn a_part_that_does_not_notice_a_conflict_takes_any_of_the_groups() {
    let machine = Machine::stage1(Config { conflict_detection: false, ..plain() });
    machine.stream(1, 5, 0, 0);
    machine.w32(0xc04, 0x1_0000);
    let seen: Vec<Got> = (0..64).map(|_| machine.read(5, 0x1000)).collect();
    assert!(seen.contains(&Got::At(0x30_0000)) && seen.contains(&Got::At(0x1000)));
    assert_eq!(machine.clauses().len(), 64);
}

#[test]
fn a_stream_can_be_an_index() {
    let machine = Machine::new(Config { policy: plain().policy, ..Config::indexed() });
    machine.tables();
    machine.bank1(0, CBAR_S1);
    machine.w32(0xc00 + 77 * 4, 0);
    assert_eq!(machine.read(77, 0x1000), Got::At(0x30_0000));
    // A group that faults: ICF.
    assert_eq!((machine.read(78, 0x1000), machine.r32(0x48)), (Got::Abort, 0x1));
    machine.assert_clean();
    machine.w32(0x800, 0x8000_0000);
    assert_eq!((machine.r32(0x800), machine.clauses()), (0, vec![clause::UNIMPLEMENTED]));
}

#[test]
fn a_group_bypasses_or_faults() {
    let machine = Machine::stage1(plain());
    machine.w32(0xc00, 0x1_0000);
    assert_eq!(machine.read(5, 0x7777_1000), Got::At(0x7777_1000));
    machine.w32(0xc00, 0x2_0000);
    assert_eq!((machine.read(5, 0x1000), machine.r32(0x48)), (Got::Abort, 0x1));
    machine.assert_clean();
    machine.w32(0xc00, 0x3_0000);
    assert_eq!(machine.read(5, 0x1000), Got::Abort, "treated as a fault context");
    assert_eq!(machine.clauses(), [clause::RESERVED_TYPE]);
}

#[test]
fn extended_ids_have_sixteen_bits_and_their_own_valid_bit() {
    let config = Config { extended_ids: true, match_mask: 0xffff, ..plain() };
    let machine = Machine::stage1(config);
    // Without EXIDENABLE bit 15 is not wired.
    assert_eq!(machine.read(0x8005, 0x1000), Got::At(0x30_0000));
    machine.w32(0x800, 0);
    machine.w32(0x00, 0x0020_040e);
    machine.w32(0x800, 0x00f0_8005);
    machine.w32(0xc00, 0x0000_0400);
    assert_eq!(machine.read(0x80a5, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.read(0x0005, 0x1000), Got::Abort);
    assert_eq!(machine.r32(0x54), 5);
    machine.assert_clean();
    machine.w32(0x00, 0x0020_0406);
    assert_eq!(machine.clauses(), [clause::EXTENDED_IDS]);
}

#[test]
fn s2cr_overrides_privilege_and_instruction() {
    let machine = Machine::stage1(plain());
    // Privileged only, not executable by the unprivileged.
    machine.words(L3 + 16, &[0x40_0000 | PAGE & !0x40 | 1 << 54]);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    machine.fault(0);
    machine.w32(0xc00, 0x0300_0000); // PRIVCFG privileged
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    machine.w32(0xc00, 0x0200_0000); // unprivileged
    assert_eq!(machine.privileged(AccessKind::Read, 0x2000), Got::Abort);
    // PF; level 3, and neither PNU nor IND.
    assert_eq!(machine.fault(0), (0x408, 0x3, 0x2000, 5));
    machine.w32(0xc00, 0x0c00_0000); // INSTCFG instruction: reads only
    machine.words(L3 + 24, &[0x50_0000 | PAGE | 1 << 54]);
    assert_eq!([machine.write(5, 0x3000), machine.read(5, 0x3000)], [Got::At(0x50_0000), Got::Abort]);
    assert_eq!(machine.fault(0), (0x408, 0x43, 0x3000, 5));
    machine.w32(0xc00, 0x0800_0000); // data
    assert_eq!(machine.fetch(5, 0x3000), Got::At(0x50_0000));
    machine.assert_clean();
    machine.w32(0xc00, 0x0100_0000); // reserved: unprivileged
    assert_eq!(machine.read(5, 0x3000), Got::At(0x50_0000));
    assert_eq!(machine.clauses(), [clause::RESERVED_ATTRIBUTE]);
}

#[test]
fn privileged_access_never_is_not_for_what_the_unprivileged_may_reach() {
    let machine = Machine::stage1(Config { privileged_access_never: true, ..plain() });
    machine.words(L3 + 16, &[0x40_0000 | PAGE & !0x40]);
    machine.w32(0xc00, 0x0100_0000);
    assert_eq!(machine.read(5, 0x2000), Got::At(0x40_0000));
    assert_eq!(machine.read(5, 0x1000), Got::Abort);
    // PF; PNU, level 3.
    assert_eq!(machine.fault(0), (0x408, 0x23, 0x1000, 5));
    machine.assert_clean();
}

#[test]
fn substreams_are_nothing_that_this_smmu_knows() {
    use model_bus::{Outcome, Request, Translator};
    use portcullis_types::{Iova, Pasid, SourceId};
    let machine = Machine::stage1(plain());
    let request = Request {
        source: SourceId(5),
        pasid: Pasid::new(1),
        iova: Iova::new(0x1000),
        len_bytes: 4,
        access: Access::READ,
    };
    let outcome = machine.smmu.access(&request, &mut |_| panic!("let through"));
    assert_eq!((outcome, machine.r32(0x48)), (Outcome::Ignored, 0x100));
}
