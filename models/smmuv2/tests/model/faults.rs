//! What faults do to accesses that come after, to the device, and to the interrupt lines.

use model_smmuv2::{Config, FaultKind, Line, Outlook, clause};
use portcullis_types::{Access, Iova, Pa, SourceId};

use crate::harness::{FSR, Got, L3, Machine, PAGE, SCTLR, plain};

/// CFRE, CFIE, HUPCF.
const CFRE: u32 = 1 << 5;
const HUPCF: u32 = 1 << 8;

#[test]
fn without_cfre_the_device_is_not_told() {
    let machine = Machine::stage1(plain());
    machine.cb(0, SCTLR, 0x67 & !CFRE);
    assert_eq!(machine.read(5, 0x2000), Got::Ignored);
    assert_eq!(machine.rcb(0, FSR), 0x402);
}

#[test]
fn a_bank_with_a_fault_ends_everything_unless_it_hits_under_fault() {
    let machine = Machine::stage1(plain());
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    assert_eq!(machine.read(5, 0x1000), Got::Abort, "although it is mapped");
    assert_eq!(machine.read(5, 0x3000), Got::Abort);
    assert_eq!(machine.rcb(0, FSR), 0x402, "and nothing is recorded of it");
    machine.cb(0, SCTLR, 0x67 | HUPCF);
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    assert_eq!(machine.read(5, 0x3000), Got::Abort);
    // MULTI; the first is still told.
    assert_eq!(machine.fault(0), (0x8000_0402, 0x3, 0x2000, 5));
    assert_eq!(machine.smmu.faults_lost(), 1, "what ended before it was translated is no fault");
    assert_eq!(machine.rcb(0, FSR), 0x400, "cleared");
    machine.assert_clean();
}

#[test]
fn the_fault_of_one_bank_is_nothing_to_another() {
    let machine = Machine::stage1(plain());
    machine.bank1(2, 0x0001_f308);
    machine.stream(1, 6, 0, 2);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    assert_eq!(machine.read(6, 0x1000), Got::At(0x30_0000));
}

#[test]
fn a_fault_of_stage_2_ends_all_that_share_it() {
    let machine = Machine::nested(plain());
    machine.bank1(2, 0x0003_0107);
    machine.stream(1, 6, 0, 2);
    machine.words(L3 + 16, &[0x40_5000 | PAGE]);
    assert_eq!(machine.read(5, 0x2000), Got::Abort);
    assert_eq!(machine.read(6, 0x1000), Got::Abort);
    assert_eq!((machine.rcb(0, FSR), machine.rcb(2, FSR), machine.rcb(1, FSR)), (0x400, 0x400, 0x402));
    machine.cb(1, FSR, 2);
    assert_eq!(machine.read(6, 0x1000), Got::At(0x30_0000));
}

#[test]
fn a_line_is_asserted_while_its_register_says_so() {
    let machine = Machine::stage1(plain());
    machine.lines.take();
    machine.read(5, 0x2000);
    assert_eq!(machine.lines.take(), [(Line::Context(0), true)]);
    assert_eq!(machine.smmu.asserted_lines(), [Line::Context(0)]);
    machine.cb(0, FSR, 2);
    assert_eq!(machine.lines.take(), [(Line::Context(0), false)]);
    machine.read(9, 0x2000);
    assert_eq!(machine.lines.take(), [(Line::Global, true)]);
    // GFIE off and on.
    machine.w32(0x00, 0x0020_0402);
    machine.w32(0x00, 0x0020_0406);
    assert_eq!(machine.lines.take(), [(Line::Global, false), (Line::Global, true)]);
    machine.w32(0x48, 2);
    assert_eq!(machine.lines.take(), [(Line::Global, false)]);
    // CFIE off: no line, though there is a fault.
    machine.cb(0, SCTLR, 0x27);
    machine.read(5, 0x2000);
    assert_eq!((machine.lines.take(), machine.rcb(0, FSR)), (vec![], 0x402));
    machine.cb(0, SCTLR, 0x67);
    assert_eq!(machine.lines.take(), [(Line::Context(0), true)]);
    machine.smmu.reset();
    assert_eq!(machine.lines.take(), [(Line::Context(0), false)]);
}

#[test]
fn a_fault_that_software_restores_interrupts_too() {
    let machine = Machine::stage1(plain());
    machine.cb(0, 0x5c, 0xffff_ffff);
    // All but SS and what is reserved.
    assert_eq!(machine.rcb(0, FSR), 0x8000_05be);
    assert_eq!(machine.lines.take().last(), Some(&(Line::Context(0), true)));
}

#[test]
fn registers_that_are_not_there_can_be_configuration_access_faults() {
    let machine = Machine::new(Config { configuration_faults: true, ..plain() });
    machine.w32(0x00, 0x0020_0426); // GCFGFIE
    assert_eq!(machine.r32(0x3f0), 0);
    // CAF at its offset.
    assert_eq!((machine.r32(0x48), machine.r64(0x40), machine.r32(0x50)), (0x20, 0x3f0, 0));
    assert_eq!(machine.smmu.asserted_lines(), [Line::Configuration]);
    machine.w32(0x48, 0x20);
    machine.w32(0x1a00, 1);
    assert_eq!((machine.r32(0x48), machine.r64(0x40), machine.r32(0x50)), (0x20, 0x1a00, 2));
    assert_eq!(machine.clauses(), [clause::UNIMPLEMENTED]);
    let machine = Machine::new(plain());
    assert_eq!((machine.r32(0x3f0), machine.r32(0x48)), (0, 0));
}

#[test]
fn an_outlook_sees_what_the_tables_say_and_changes_nothing() {
    let machine = Machine::stage1(plain());
    let outlook = |stream, address| {
        machine.smmu.outlook(&model_bus::Request {
            source: SourceId(stream),
            pasid: None,
            iova: Iova::new(address),
            len_bytes: 4,
            access: Access::READ,
        })
    };
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000));
    machine.words(L3 + 8, &[0x80_0000 | PAGE]);
    assert_eq!(outlook(5, 0x1234), Outlook::Allowed(Pa::new(0x80_0234)));
    assert_eq!(outlook(5, 0x2000), Outlook::Refused(FaultKind::Translation));
    assert_eq!(outlook(6, 0x1000), Outlook::Refused(FaultKind::UnidentifiedStream));
    assert_eq!(machine.read(5, 0x1000), Got::At(0x30_0000), "what is cached lives");
    assert_eq!((machine.rcb(0, FSR), machine.r32(0x48)), (0x400, 0));
}
