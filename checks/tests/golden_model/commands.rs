//! What commands do, word by word: which cached things they remove, which they leave, and how they fail.
//!
//! A command that hits must remove. One that misses by a single parameter may remove by the book, too, as an
//! implementation may invalidate more than it is asked; the model under its stale policy does not, and so a
//! parameter read at the wrong place shows.

use model_bus::Mmio;
use model_bus::Width::Bits32;
use model_smmuv3::Policy;
use portcullis_checks::golden::scenes::{Answer, Ask, Does, Part, STREAM, Scene};

use crate::stage::Stage;

const VA: u64 = 0x0000_0012_3456_7ABC;
const IPA: u64 = 0x0000_00A1_2345_6788;
const SYNC: [u64; 2] = [0x0000_0000_0000_0046, 0x0000_0000_0000_0000];
const NSNH_ALL: [u64; 2] = [0x0000_0000_0000_0030, 0x0000_0000_0000_0000];

/// Stage 1 with 4K and 39 bits; S2VMID 7, ASID 0x2A, nG.
const STAGE_1: Scene = Scene {
    name: "stage 1",
    part: Part::Usual,
    ste: [0x0000_0000_8000_300B, 0x0000_0000_0000_00D4, 0x0000_0000_0000_0007, 0, 0, 0, 0, 0],
    registers: &[],
    memory: &[
        (0x8000_3000, 0x002A_E205_C000_3519),
        (0x8000_3008, 0x0000_0000_8001_0000),
        (0x8000_3018, 0x0000_0000_0004_44FF),
        (0x8001_0240, 0x0000_0000_8001_1003),
        (0x8001_1D10, 0x0000_0000_8001_2003),
        (0x8001_2B38, 0x0060_0000_80A0_0F43),
    ],
    asks: &[],
};

/// Stage 2 with 4K and 40 bits; VMID 7.
const STAGE_2: Scene = Scene {
    name: "stage 2",
    ste: [0x0000_0000_0000_000D, 0, 0x040D_3558_0000_0007, 0x0000_0000_8008_0000, 0, 0, 0, 0],
    memory: &[
        (0x8008_1420, 0x0000_0000_8008_2003),
        (0x8008_28D0, 0x0000_0000_8008_3003),
        (0x8008_32B0, 0x0040_0000_80A2_07FF),
    ],
    ..STAGE_1
};

fn reads(address: u64, to: u64) -> Ask {
    Ask { stream: STREAM, substream: None, address, does: Does::Reads, answer: Answer::Passes(to) }
}

/// Plays `ask`, stores `change`, gives `commands` and a CMD_SYNC, and asks again: the answer must lead to `new` if the
/// commands are to remove what is cached, else where it led before.
fn after_asking(scene: &Scene, change: (u64, u64), ask: Ask, new: u64, commands: &[[u64; 2]], removes: bool) {
    let what = format!("{}, {commands:#018x?}", scene.name);
    let mut stage = Stage::set(scene, Policy::stale());
    stage.play(&ask, &what);
    stage.store(change.0, change.1);
    stage.play(&ask, &format!("{what}: before the commands"));
    stage.command(commands);
    stage.command(&[SYNC]);
    let answer = if removes { Answer::Passes(new) } else { ask.answer };
    stage.play(&Ask { answer, ..ask }, &what);
}

/// The same with a read of [`STREAM`]: its address, where it leads at first, and where after the change.
fn after(scene: &Scene, change: (u64, u64), ways: [u64; 3], commands: &[[u64; 2]], removes: bool) {
    let [address, old, new] = ways;
    after_asking(scene, change, reads(address, old), new, commands, removes);
}

/// The page of [`VA`] moves to 0x80A1_0000.
fn stage_1_page_moves(command: [u64; 2], removes: bool) {
    let change = (0x8001_2B38, 0x0060_0000_80A1_0F43);
    after(&STAGE_1, change, [VA, 0x80A0_0ABC, 0x80A1_0ABC], &[command], removes);
}

/// The page of [`IPA`] moves to 0x80A3_0000.
fn stage_2_page_moves(command: [u64; 2], removes: bool) {
    let change = (0x8008_32B0, 0x0040_0000_80A3_07FF);
    after(&STAGE_2, change, [IPA, 0x80A2_0788, 0x80A3_0788], &[command], removes);
}

#[test]
fn tlb_commands_remove_stage_1_by_vmid_asid_and_address() {
    // 4.4.2.1 "CMD_TLBI_NH_ALL(VMID)".
    stage_1_page_moves([0x0000_0007_0000_0010, 0], true);
    stage_1_page_moves([0x0000_0006_0000_0010, 0], false);
    // 4.4.2.2 "CMD_TLBI_NH_ASID(VMID, ASID)".
    stage_1_page_moves([0x002A_0007_0000_0011, 0], true);
    stage_1_page_moves([0x002B_0007_0000_0011, 0], false);
    stage_1_page_moves([0x002A_0006_0000_0011, 0], false);
    // 4.4.2.4 "CMD_TLBI_NH_VA(VMID, ASID, Addr, Leaf)".
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_7000], true);
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_7001], true);
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_6000], false);
    stage_1_page_moves([0x002A_0007_0000_0012, 0x8000_0012_3456_7000], false);
    stage_1_page_moves([0x002B_0007_0000_0012, 0x0000_0012_3456_7000], false);
    stage_1_page_moves([0x002A_0006_0000_0012, 0x0000_0012_3456_7000], false);
    // 4.4.2.3 "CMD_TLBI_NH_VAA(VMID, Addr, Leaf)".
    stage_1_page_moves([0x0000_0007_0000_0013, 0x0000_0012_3456_7000], true);
    stage_1_page_moves([0x0000_0006_0000_0013, 0x0000_0012_3456_7000], false);
    // 4.4.3.2 "CMD_TLBI_S12_VMALL(VMID)", 4.4.4.1 "CMD_TLBI_NSNH_ALL".
    stage_1_page_moves([0x0000_0007_0000_0028, 0], true);
    stage_1_page_moves([0x0000_0006_0000_0028, 0], false);
    stage_1_page_moves(NSNH_ALL, true);
    // 4.4.3.1 "CMD_TLBI_S2_IPA(VMID, Addr, Leaf)" is of stage 2.
    stage_1_page_moves([0x0000_0007_0000_002A, 0x0000_0012_3456_7000], false);
    // 4.3 "Configuration structure invalidation" is of no translation.
    stage_1_page_moves([0x0000_0000_0000_0004, 0x0000_0000_0000_001F], false);
}

/// 4.4.1.1 "Range-based invalidation and level hint": (NUM + 1) << SCALE granules of TG, from Address.
#[test]
fn ranges_and_level_hints_lie_where_the_book_says() {
    // 8 pages from 0x12_3456_0000: NUM 1, SCALE 2, TG 4K. The eighth is the page.
    stage_1_page_moves([0x002A_0007_0020_1012, 0x0000_0012_3456_0400], true);
    // 4 pages: NUM 0; SCALE 1.
    stage_1_page_moves([0x002A_0007_0020_0012, 0x0000_0012_3456_0400], false);
    stage_1_page_moves([0x002A_0007_0010_1012, 0x0000_0012_3456_0400], false);
    // 32 pages: NUM 31, SCALE 0.
    stage_1_page_moves([0x002A_0007_0001_F012, 0x0000_0012_3456_0400], true);
    // 2^16 pages, NUM 0, SCALE 16, from 0x12_3000_0000.
    stage_1_page_moves([0x002A_0007_0100_0012, 0x0000_0012_3000_0400], true);
    // TTL 3 is the page's level; 512 pages from 0x12_3440_0000 with TTL 2 are not.
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_7700], true);
    stage_1_page_moves([0x002A_0007_0090_0012, 0x0000_0012_3440_0700], true);
    stage_1_page_moves([0x002A_0007_0090_0012, 0x0000_0012_3440_0600], false);
    // TG 64K and 16K: other granules than the page's.
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_0F00], false);
    stage_1_page_moves([0x002A_0007_0000_0012, 0x0000_0012_3456_4B00], false);
}

#[test]
fn tlb_commands_remove_stage_2_by_vmid_and_address() {
    // 4.4.3.1 "CMD_TLBI_S2_IPA(VMID, Addr, Leaf)".
    stage_2_page_moves([0x0000_0007_0000_002A, 0x0000_00A1_2345_6000], true);
    stage_2_page_moves([0x0000_0007_0000_002A, 0x0000_00A1_2345_6001], true);
    stage_2_page_moves([0x0000_0007_0000_002A, 0x0000_00A1_2345_7000], false);
    stage_2_page_moves([0x0000_0006_0000_002A, 0x0000_00A1_2345_6000], false);
    stage_2_page_moves([0x0000_0007_0020_102A, 0x0000_00A1_2345_0400], true);
    stage_2_page_moves([0x0000_0007_0020_002A, 0x0000_00A1_2345_0400], false);
    stage_2_page_moves([0x0000_0007_0000_0028, 0], true);
    stage_2_page_moves([0x0000_0006_0000_0028, 0], false);
    stage_2_page_moves(NSNH_ALL, true);
}

/// Leaf clear: the level 2 table moves to 0x8002_1000, and leads to 0x80A1_0000.
#[test]
fn leaf_leaves_what_is_known_of_tables() {
    let scene = Scene {
        memory: &[
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
            (0x8002_1D10, 0x0000_0000_8002_2003),
            (0x8002_2B38, 0x0060_0000_80A1_0F43),
        ],
        ..STAGE_1
    };
    let ways = [VA, 0x80A0_0ABC, 0x80A1_0ABC];
    let change = (0x8001_0240, 0x0000_0000_8002_1003);
    after(&scene, change, ways, &[[0x002A_0007_0000_0012, 0x0000_0012_3456_7000]], true);
    after(&scene, change, ways, &[[0x002A_0007_0000_0012, 0x0000_0012_3456_7001]], false);
}

/// The STE comes to bypass, which only a new fetch of it shows.
fn ste_changes(command: [u64; 2], removes: bool) {
    let change = (0x8000_0140, 0x0000_0000_0000_0009);
    after(&STAGE_1, change, [VA, 0x80A0_0ABC, VA], &[command, NSNH_ALL], removes);
}

/// The CD comes to point to other tables, which only a new fetch of it shows.
fn cd_changes(command: [u64; 2], removes: bool) {
    let scene = Scene {
        memory: &[
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
            (0x8002_0240, 0x0000_0000_8002_1003),
            (0x8002_1D10, 0x0000_0000_8002_2003),
            (0x8002_2B38, 0x0060_0000_80A1_0F43),
        ],
        ..STAGE_1
    };
    let change = (0x8000_3008, 0x0000_0000_8002_0000);
    after(&scene, change, [VA, 0x80A0_0ABC, 0x80A1_0ABC], &[command, NSNH_ALL], removes);
}

#[test]
fn configuration_commands_remove_by_stream_and_substream() {
    // 4.3.1 "CMD_CFGI_STE(StreamID, SSec, Leaf)".
    ste_changes([0x0000_0005_0000_0003, 1], true);
    ste_changes([0x0000_0005_0000_0003, 0], true);
    ste_changes([0x0000_0004_0000_0003, 1], false);
    // 4.3.2 "CMD_CFGI_STE_RANGE(StreamID, SSec, Range)": 2^(Range + 1) streams, aligned.
    ste_changes([0x0000_0006_0000_0004, 1], true);
    ste_changes([0x0000_0006_0000_0004, 0], false);
    ste_changes([0x0000_0000_0000_0004, 0x1F], true);
    // 4.3.3 "CMD_CFGI_CD(StreamID, SSec, SubstreamID, Leaf)", 4.3.4 "CMD_CFGI_CD_ALL(StreamID, SSec)": of no STE.
    ste_changes([0x0000_0005_0000_0005, 1], false);
    ste_changes([0x0000_0005_0000_0006, 0], false);
    cd_changes([0x0000_0005_0000_0005, 1], true);
    cd_changes([0x0000_0005_0000_1005, 1], false);
    cd_changes([0x0000_0004_0000_0005, 1], false);
    cd_changes([0x0000_0005_0000_0006, 0], true);
    cd_changes([0x0000_0004_0000_0006, 0], false);
    // "This command invalidates all Context Descriptors that were cached using the given StreamID."
    cd_changes([0x0000_0005_0000_0003, 1], true);
    cd_changes([0x0000_0006_0000_0004, 1], true);
    cd_changes(NSNH_ALL, false);
}

/// Leaf clear: what is known of first levels goes, too.
#[test]
fn leaf_leaves_what_is_known_of_first_levels() {
    // Two levels, SPLIT 6: L1STD 3 leads to STEs at 0x8000_9000, then to those at 0x8000_B000, where stream 0xC5 has tables of stage 1.
    let streams = Scene {
        registers: &[(0x0080, 0x0000_0000_8000_8000), (0x0088, 0x0001_0188)],
        memory: &[
            (0x8000_8018, 0x0000_0000_8000_9007),
            (0x8000_9140, 0x0000_0000_0000_0009),
            (0x8000_B140, 0x0000_0000_8000_300B),
            (0x8000_B148, 0x0000_0000_0000_00D4),
            (0x8000_3000, 0x002A_E205_C000_3519),
            (0x8000_3008, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
        ],
        ..STAGE_1
    };
    let ask = Ask { stream: 0xC5, ..reads(VA, VA) };
    let change = (0x8000_8018, 0x0000_0000_8000_B007);
    let ste = |leaf: u64| [[0x0000_00C5_0000_0003, leaf], NSNH_ALL];
    after_asking(&streams, change, ask, 0x80A0_0ABC, &ste(0), true);
    after_asking(&streams, change, ask, 0x80A0_0ABC, &ste(1), false);
    // L1CD 1 leads to CDs at 0x8000_5000, then to those at 0x8000_6000.
    let substreams = Scene {
        ste: [0x4000_0000_8000_401B, 0x0000_0000_0000_00D5, 0x0000_0000_0000_0007, 0, 0, 0, 0, 0],
        memory: &[
            (0x8000_4008, 0x0000_0000_8000_5001),
            (0x8000_5080, 0x002A_E205_C000_3519),
            (0x8000_5088, 0x0000_0000_8001_0000),
            (0x8001_0240, 0x0000_0000_8001_1003),
            (0x8001_1D10, 0x0000_0000_8001_2003),
            (0x8001_2B38, 0x0060_0000_80A0_0F43),
            (0x8000_6080, 0x002A_E205_C000_3519),
            (0x8000_6088, 0x0000_0000_8002_0000),
            (0x8002_0240, 0x0000_0000_8002_1003),
            (0x8002_1D10, 0x0000_0000_8002_2003),
            (0x8002_2B38, 0x0060_0000_80A1_0F43),
        ],
        ..STAGE_1
    };
    let ask = Ask { substream: Some(0x42), ..reads(VA, 0x80A0_0ABC) };
    let change = (0x8000_4008, 0x0000_0000_8000_6001);
    let cd = |leaf: u64| [[0x0000_0005_0004_2005, leaf], NSNH_ALL];
    after_asking(&substreams, change, ask, 0x80A1_0ABC, &cd(0), true);
    after_asking(&substreams, change, ask, 0x80A1_0ABC, &cd(1), false);
}

/// 4.7.3 "CMD_SYNC(ComplSignal, MSIAddress, MSIData, MSIWriteAttributes)", SIG_IRQ.
#[test]
fn a_sync_writes_its_message() {
    let stage = Stage::set(&STAGE_1, Policy::stale());
    stage.command(&[[0xFEED_F00D_0FC0_1046, 0x0000_0000_80B0_0010]]);
    assert_eq!(stage.load(0x80B0_0010), 0x0000_0000_FEED_F00D);
    // SIG_NONE writes nothing, whatever address is there.
    stage.command(&[[0xDEAD_BEEF_0FC0_0046, 0x0000_0000_80B0_0018]]);
    assert_eq!(stage.load(0x80B0_0018), 0);
}

/// 7.1 "Command queue errors": RD stays at the command, ERR says why, GERROR.CMDQ_ERR becomes active.
#[test]
fn commands_that_cannot_be_done_are_cerror_ill() {
    let illegal: [[u64; 2]; 10] = [
        [0x0000_0000_0000_0000, 0], // opcode 0x00: reserved
        [0x0000_0000_0000_0014, 0], // opcode 0x14: reserved
        [0x0000_0000_0000_0018, 0], // CMD_TLBI_EL3_ALL: Secure queue only
        [0x0000_0000_0000_0020, 0], // CMD_TLBI_EL2_ALL where IDR0.Hyp is 0
        [0x0000_0000_0000_0040, 0], // CMD_ATC_INV where IDR0.ATS is 0
        [0x0000_0000_0000_0041, 0], // CMD_PRI_RESP where IDR0.PRI is 0
        [0x0000_0000_0000_0044, 0], // CMD_RESUME where IDR0.STALL_MODEL is 1
        [0x0000_0000_0000_0045, 0], // CMD_STALL_TERM, likewise
        [0x0000_0005_0000_0403, 1], // CMD_CFGI_STE with SSec
        [0x0000_0000_0000_3046, 0], // CMD_SYNC with CS 0b11
    ];
    for command in illegal {
        let stage = Stage::set(&STAGE_1, Policy::stale());
        // Three commands were consumed before; this is the fourth, at index 3.
        stage.submit(&[command]);
        stage.await_register(0x9C, 0x0100_0003);
        assert_eq!(stage.smmu.read(0x60, Bits32), 0x0000_0001, "GERROR, {command:#018x?}");
        // Replaced by a CMD_SYNC and acknowledged, the queue goes on.
        stage.overwrite_command(3, SYNC);
        stage.smmu.write(0x64, Bits32, 0x0000_0001);
        let went_on = (0..1000).any(|_| stage.smmu.read(0x9C, Bits32) & 0x000F_FFFF == 4);
        assert!(went_on, "{command:#018x?}");
    }
}

/// 4.4.1.1: NUM, SCALE and TTL all 0 with TG given is reserved.
#[test]
fn a_granule_without_range_or_level_is_cerror_ill() {
    let stage = Stage::set(&STAGE_1, Policy::stale());
    stage.submit(&[[0x002A_0007_0000_0012, 0x0000_0012_3456_7400]]);
    stage.await_register(0x9C, 0x0100_0003);
}
