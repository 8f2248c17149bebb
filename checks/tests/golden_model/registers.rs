//! What registers do to the model: enables, interrupts by message, global errors, the event queue's overflow.

use model_bus::Width::{Bits32, Bits64};
use model_bus::{Mmio, Outcome};
use model_smmuv3::Policy;
use portcullis_checks::golden::scenes::{Answer, Ask, Does, NOWHERE, Part, STREAM, Scene};

use crate::stage::Stage;

/// Nothing but the usual registers; the stream bypasses.
const BYPASS: Scene = Scene {
    name: "bypass",
    part: Part::Usual,
    ste: [0x0000_0000_0000_0009, 0, 0, 0, 0, 0, 0, 0],
    registers: &[],
    memory: &[],
    asks: &[],
};

const ADDRESS: u64 = 0x0000_0000_80A0_0120;
/// Opcode 0x14 is reserved.
const ILLEGAL: [u64; 2] = [0x0000_0000_0000_0014, 0];

fn reads(stream: u32, answer: Answer) -> Ask {
    Ask { stream, substream: None, address: ADDRESS, does: Does::Reads, answer }
}

/// A stream beyond the table of 16: C_BAD_STREAMID.
fn provoke_an_event(stage: &Stage) {
    assert_eq!(stage.ask(&reads(0x10, Answer::Aborts)), (Outcome::Aborted, None));
}

/// Reads enough registers for whatever is under way to come through.
fn settle(stage: &Stage) {
    for _ in 0..1000 {
        stage.smmu.read(0x00, Bits32);
    }
}

/// 6.3.14 "SMMU_GBPA", 0x44: Update [31], ABORT [20].
#[test]
fn gbpa_aborts_where_smmuen_is_clear() {
    let mut stage = Stage::set(&BYPASS, Policy::stale());
    stage.smmu.write(0x20, Bits32, 0x0000_000C);
    stage.await_register(0x24, 0x0000_000C);
    stage.smmu.write(0x44, Bits32, 0x8010_0000);
    stage.await_register(0x44, 0x0010_0000);
    stage.play(&reads(STREAM, Answer::Aborts), "ABORT");
    // Bits beside ABORT: SHCFG [13:12], MTCFG [4], MemAttr [3:0], ALLOCCFG [11:8].
    stage.smmu.write(0x44, Bits32, 0x8000_3F1F);
    stage.await_register(0x44, 0x0000_3F1F);
    stage.play(&reads(STREAM, Answer::Passes(ADDRESS)), "no ABORT");
}

/// 6.3.16 "SMMU_IRQ_CTRL", 0x50: GERROR_IRQEN [0], EVENTQ_IRQEN [2]. 6.3.21 "SMMU_GERROR_IRQ_CFG0", 0x68; "SMMU_EVENTQ_IRQ_CFG0", 0xB0:
/// ADDR [51:2]; CFG1 after them: DATA.
#[test]
fn messages_go_where_irq_cfg_says_if_they_are_enabled() {
    for (enabled, gerror_word, event_word) in
        [(0x0, 0, 0), (0x1, 0x1234_5678, 0), (0x4, 0, 0x9ABC_DEF0), (0x5, 0x1234_5678, 0x9ABC_DEF0)]
    {
        let stage = Stage::set(&BYPASS, Policy::stale());
        stage.smmu.write(0x68, Bits64, 0x0000_0000_80B0_0020);
        stage.smmu.write(0x70, Bits32, 0x1234_5678);
        stage.smmu.write(0x74, Bits32, 0x0000_0000);
        stage.smmu.write(0xB0, Bits64, 0x0000_0000_80B0_0028);
        stage.smmu.write(0xB8, Bits32, 0x9ABC_DEF0);
        stage.smmu.write(0xBC, Bits32, 0x0000_0000);
        stage.smmu.write(0x50, Bits32, enabled);
        stage.await_register(0x54, enabled);
        provoke_an_event(&stage);
        stage.submit(&[ILLEGAL]);
        settle(&stage);
        assert_eq!(stage.load(0x80B0_0020), gerror_word, "GERROR, IRQ_CTRL {enabled:#x}");
        assert_eq!(stage.load(0x80B0_0028), event_word, "EVENTQ, IRQ_CTRL {enabled:#x}");
    }
}

/// 6.3.18 "SMMU_GERROR", 0x60: CMDQ_ERR [0], EVENTQ_ABT_ERR [2], MSI_CMDQ_ABT_ERR [4], MSI_EVENTQ_ABT_ERR [5], MSI_GERROR_ABT_ERR [7].
#[test]
fn global_errors_are_these_bits() {
    let gerror = |stage: &Stage, value| stage.await_register(0x60, value);

    // CERROR_ABT, code 2 in CMDQ_CONS.ERR [30:24]: the queue lies where nothing answers.
    let stage = Stage::set(&BYPASS, Policy::stale());
    stage.smmu.write(0x20, Bits32, 0x0000_0000);
    stage.await_register(0x24, 0x0000_0000);
    stage.smmu.write(0x90, Bits64, NOWHERE | 0x4);
    stage.smmu.write(0x98, Bits32, 0x0000_0000);
    stage.smmu.write(0x9C, Bits32, 0x0000_0000);
    stage.smmu.write(0x20, Bits32, 0x0000_0008);
    stage.await_register(0x24, 0x0000_0008);
    stage.smmu.write(0x98, Bits32, 0x0000_0001);
    stage.await_register(0x9C, 0x0200_0000);
    gerror(&stage, 0x0000_0001);

    // An event record that cannot be written.
    let nowhere = Scene { registers: &[(0x00A0, NOWHERE | 0x4)], ..BYPASS };
    let stage = Stage::set(&nowhere, Policy::stale());
    provoke_an_event(&stage);
    gerror(&stage, 0x0000_0004);

    // The message of a CMD_SYNC that cannot be written.
    let stage = Stage::set(&BYPASS, Policy::stale());
    stage.command(&[[0xFEED_F00D_0FC0_1046, NOWHERE]]);
    gerror(&stage, 0x0000_0010);

    // The event queue's message.
    let stage = Stage::set(&BYPASS, Policy::stale());
    stage.smmu.write(0xB0, Bits64, NOWHERE);
    stage.smmu.write(0x50, Bits32, 0x0000_0004);
    stage.await_register(0x54, 0x0000_0004);
    provoke_an_event(&stage);
    gerror(&stage, 0x0000_0020);

    // The message of a global error: CMDQ_ERR is there as well.
    let stage = Stage::set(&BYPASS, Policy::stale());
    stage.smmu.write(0x68, Bits64, NOWHERE);
    stage.smmu.write(0x50, Bits32, 0x0000_0001);
    stage.await_register(0x54, 0x0000_0001);
    stage.submit(&[ILLEGAL]);
    gerror(&stage, 0x0000_0081);
}

/// 7.4 "Event queue overflow": OVFLG, EVENTQ_PROD [31], toggles unless it already differs from OVACKFLG, EVENTQ_CONS [31].
#[test]
fn the_event_queue_overflows_into_bit_31() {
    // Two entries: index [0], wrap [1].
    let small = Scene { registers: &[(0x00A0, 0x0000_0000_8000_2001)], ..BYPASS };
    let stage = Stage::set(&small, Policy::stale());
    let prod = |value| stage.await_register(0x1_00A8, value);
    provoke_an_event(&stage);
    prod(0x0000_0001);
    provoke_an_event(&stage);
    prod(0x0000_0002);
    provoke_an_event(&stage);
    prod(0x8000_0002);
    // Not acknowledged: a second overflow changes nothing, and a free place is used.
    provoke_an_event(&stage);
    settle(&stage);
    prod(0x8000_0002);
    stage.smmu.write(0x1_00AC, Bits32, 0x0000_0001);
    provoke_an_event(&stage);
    prod(0x8000_0003);
    // Acknowledged: the next overflow shows, by the flag going back.
    stage.smmu.write(0x1_00AC, Bits32, 0x8000_0002);
    provoke_an_event(&stage);
    prod(0x8000_0000);
    provoke_an_event(&stage);
    prod(0x0000_0000);
}
