//! Commands of `portcullis-spec` against the golden words: opcodes, fields, and what each constructor makes.

use portcullis_checks::accessors;
use portcullis_checks::golden::smmuv3::COMMANDS;
use portcullis_checks::golden::{Table, hold};
use portcullis_spec::smmuv3::command::{
    Command, Opcode, Resume, SIG_IRQ, SIG_NONE, SIG_SEV, StreamWord, SyncWord0, TG_4K, TG_16K, TG_64K,
    TG_ANY, TlbiTarget, TlbiWord0, TlbiWord1,
};

fn golden(name: &str) -> &'static Table {
    COMMANDS.iter().find(|table| table.name == name).expect("the book has this command")
}

/// The command with these fields all ones and all others zero.
fn words(name: &str, fields: &[&str]) -> [u64; 2] {
    let table = golden(name);
    let mut words = [u64::from(table.code.expect("a command has an opcode")), 0];
    for field in fields {
        let field = table.field(field);
        words[field.word()] |= field.ones;
    }
    words
}

#[test]
fn opcodes_are_the_books() {
    for code in 0..=u8::MAX {
        let golden = COMMANDS.iter().find(|table| table.code == Some(code)).map(|table| table.name);
        // The crate also names the two that only the Secure queue takes: 0x18 and 0x1A.
        let golden = match code {
            0x18 => Some("CMD_TLBI_EL3_ALL"),
            0x1A => Some("CMD_TLBI_EL3_VA"),
            _ => golden,
        };
        assert_eq!(Opcode(code).name(), golden, "opcode {code:#04x}");
    }
}

#[test]
fn words_of_commands_lie_where_the_book_says() {
    let stream = accessors! {StreamWord;
        "Opcode" => opcode with_opcode,
        "SSec" => ssec with_ssec,
        "SSV" => ssv with_ssv,
        "SubstreamID" => substream_id with_substream_id,
        "StreamID" => stream_id with_stream_id,
    };
    hold(golden("CMD_PREFETCH_CONFIG"), 0, !0, stream, &[]);
    let tlbi_0 = accessors! {TlbiWord0;
        "Opcode" => opcode with_opcode,
        "NUM" => num with_num,
        "SCALE" => scale with_scale,
        "VMID" => vmid with_vmid,
        "ASID" => asid with_asid,
    };
    hold(golden("CMD_TLBI_NH_VA"), 0, !0, tlbi_0, &[]);
    let tlbi_1 = accessors! {TlbiWord1;
        "Leaf" => leaf with_leaf,
        "TTL128" => ttl128 with_ttl128,
        "TTL" => ttl with_ttl,
        "TG" => tg with_tg,
        "Address" => address with_address,
    };
    hold(golden("CMD_TLBI_NH_VA"), 1, !0, tlbi_1, &[]);
    let sync = accessors! {SyncWord0;
        "Opcode" => opcode with_opcode,
        "CS" => cs with_cs,
        "MSH" => msh with_msh,
        "MSIAttr" => msi_attr with_msi_attr,
        "MSIData" => msi_data with_msi_data,
    };
    hold(golden("CMD_SYNC"), 0, !0, sync, &[]);
}

#[test]
fn configuration_invalidations_put_each_argument_in_its_field() {
    let max = u32::MAX;
    assert_eq!(Command::cfgi_ste(0, false).0, words("CMD_CFGI_STE", &[]));
    assert_eq!(Command::cfgi_ste(max, false).0, words("CMD_CFGI_STE", &["StreamID"]));
    assert_eq!(Command::cfgi_ste(0, true).0, words("CMD_CFGI_STE", &["Leaf"]));
    assert_eq!(Command::cfgi_ste_range(max, 0).0, words("CMD_CFGI_STE_RANGE", &["StreamID"]));
    assert_eq!(Command::cfgi_ste_range(0, 0x1F).0, words("CMD_CFGI_STE_RANGE", &["Range"]));
    assert_eq!(Command::cfgi_cd(max, 0, false).0, words("CMD_CFGI_CD", &["StreamID"]));
    assert_eq!(Command::cfgi_cd(0, 0xF_FFFF, false).0, words("CMD_CFGI_CD", &["SubstreamID"]));
    assert_eq!(Command::cfgi_cd(0, 0, true).0, words("CMD_CFGI_CD", &["Leaf"]));
    assert_eq!(Command::cfgi_cd_all(max).0, words("CMD_CFGI_CD_ALL", &["StreamID"]));
    // 4.3.6 "CMD_CFGI_ALL(SSec)": CMD_CFGI_STE_RANGE with Range 31.
    assert_eq!(Command::cfgi_all().0, [0x0000_0000_0000_0004, 0x0000_0000_0000_001F]);
    // Whole words, typed by hand.
    assert_eq!(Command::cfgi_ste(0x1234_5678, true).0, [0x1234_5678_0000_0003, 0x0000_0000_0000_0001]);
    assert_eq!(Command::cfgi_cd(0x1234, 0xABCDE, true).0, [0x0000_1234_ABCD_E005, 0x0000_0000_0000_0001]);
}

#[test]
fn tlb_invalidations_put_each_argument_in_its_field() {
    let max = u16::MAX;
    let none = TlbiTarget::default();
    assert_eq!(Command::tlbi_nh_all(max).0, words("CMD_TLBI_NH_ALL", &["VMID"]));
    assert_eq!(Command::tlbi_nh_asid(max, 0).0, words("CMD_TLBI_NH_ASID", &["VMID"]));
    assert_eq!(Command::tlbi_nh_asid(0, max).0, words("CMD_TLBI_NH_ASID", &["ASID"]));
    assert_eq!(Command::tlbi_nh_va(max, 0, none).0, words("CMD_TLBI_NH_VA", &["VMID"]));
    assert_eq!(Command::tlbi_nh_va(0, max, none).0, words("CMD_TLBI_NH_VA", &["ASID"]));
    assert_eq!(Command::tlbi_nh_vaa(max, none).0, words("CMD_TLBI_NH_VAA", &["VMID"]));
    assert_eq!(Command::tlbi_el2_all().0, words("CMD_TLBI_EL2_ALL", &[]));
    assert_eq!(Command::tlbi_el2_asid(max).0, words("CMD_TLBI_EL2_ASID", &["ASID"]));
    assert_eq!(Command::tlbi_el2_va(max, none).0, words("CMD_TLBI_EL2_VA", &["ASID"]));
    assert_eq!(Command::tlbi_s12_vmall(max).0, words("CMD_TLBI_S12_VMALL", &["VMID"]));
    assert_eq!(Command::tlbi_s2_ipa(max, none).0, words("CMD_TLBI_S2_IPA", &["VMID"]));
    assert_eq!(Command::tlbi_nsnh_all().0, words("CMD_TLBI_NSNH_ALL", &[]));
    type Make = fn(TlbiTarget) -> Command;
    let by_address: [(&str, Make); 4] = [
        ("CMD_TLBI_NH_VA", |target| Command::tlbi_nh_va(0, 0, target)),
        ("CMD_TLBI_NH_VAA", |target| Command::tlbi_nh_vaa(0, target)),
        ("CMD_TLBI_EL2_VA", |target| Command::tlbi_el2_va(0, target)),
        ("CMD_TLBI_S2_IPA", |target| Command::tlbi_s2_ipa(0, target)),
    ];
    for (name, make) in by_address {
        let top = if name == "CMD_TLBI_S2_IPA" { 0x00FF_FFFF_FFFF_F000 } else { 0xFFFF_FFFF_FFFF_F000 };
        assert_eq!(make(none).0, words(name, &[]), "{name}");
        assert_eq!(make(TlbiTarget { address: top, ..none }).0, words(name, &["Address"]), "{name}");
        assert_eq!(make(TlbiTarget { leaf: true, ..none }).0, words(name, &["Leaf"]), "{name}");
        assert_eq!(make(TlbiTarget { tg: 3, ..none }).0, words(name, &["TG"]), "{name}");
        assert_eq!(make(TlbiTarget { ttl: 3, ..none }).0, words(name, &["TTL"]), "{name}");
        assert_eq!(make(TlbiTarget { num: 0x1F, ..none }).0, words(name, &["NUM"]), "{name}");
        assert_eq!(make(TlbiTarget { scale: 0x3F, ..none }).0, words(name, &["SCALE"]), "{name}");
    }
    // 1 GiB from 0x8000_0000 as 4K leaves: (NUM 0 + 1) << SCALE 18 granules, level 3. TG 1, TTL 3, Leaf.
    let gibibyte = TlbiTarget { address: 0x8000_0000, leaf: true, tg: TG_4K, ttl: 3, num: 0, scale: 18 };
    assert_eq!(
        Command::tlbi_nh_va(0x0007, 0x0042, gibibyte).0,
        [0x0042_0007_0120_0012, 0x0000_0000_8000_0701]
    );
}

#[test]
fn ats_and_page_commands_put_each_argument_in_its_field() {
    let max = u32::MAX;
    assert_eq!(Command::atc_inv(max, None, 0, 0).0, words("CMD_ATC_INV", &["StreamID"]));
    assert_eq!(Command::atc_inv(0, Some(0), 0, 0).0, words("CMD_ATC_INV", &["SSV"]));
    assert_eq!(Command::atc_inv(0, Some(0xF_FFFF), 0, 0).0, words("CMD_ATC_INV", &["SSV", "SubstreamID"]));
    assert_eq!(Command::atc_inv(0, None, !0xFFF, 0).0, words("CMD_ATC_INV", &["Address"]));
    assert_eq!(Command::atc_inv(0, None, 0, 0x3F).0, words("CMD_ATC_INV", &["Size"]));
    // Everything: a size of 52.
    assert_eq!(Command::atc_inv(0x10, None, 0, 52).0, [0x0000_0010_0000_0040, 0x0000_0000_0000_0034]);
    assert_eq!(Command::pri_resp(max, None, 0, 0).0, words("CMD_PRI_RESP", &["StreamID"]));
    assert_eq!(Command::pri_resp(0, Some(0xF_FFFF), 0, 0).0, words("CMD_PRI_RESP", &["SSV", "SubstreamID"]));
    assert_eq!(Command::pri_resp(0, None, 0x1FF, 0).0, words("CMD_PRI_RESP", &["PRGIndex"]));
    assert_eq!(Command::pri_resp(0, None, 0, 3).0, words("CMD_PRI_RESP", &["Resp"]));
    // 4.5.2: Success is 0b10.
    assert_eq!(Command::pri_resp(0x10, None, 5, 2).0, [0x0000_0010_0000_0041, 0x0000_0000_0000_2005]);
}

#[test]
fn stall_and_sync_commands_put_each_argument_in_its_field() {
    assert_eq!(Command::resume(0, 0, Resume::Terminate).0, words("CMD_RESUME", &[]));
    assert_eq!(Command::resume(u32::MAX, 0, Resume::Terminate).0, words("CMD_RESUME", &["StreamID"]));
    assert_eq!(Command::resume(0, u16::MAX, Resume::Terminate).0, words("CMD_RESUME", &["STAG"]));
    assert_eq!(Command::resume(0, 0, Resume::Retry).0, words("CMD_RESUME", &["Ac"]));
    assert_eq!(Command::resume(0, 0, Resume::Abort).0, words("CMD_RESUME", &["Ab"]));
    assert_eq!(Command::stall_term(u32::MAX).0, words("CMD_STALL_TERM", &["StreamID"]));
    assert_eq!(Command::sync().0, [0x0000_0000_0000_0046, 0]);
    // SIG_IRQ 0b01, inner shareable 0b11, write-back 0b1111.
    assert_eq!(
        Command::sync_with_msi(0x0012_3456_789A_BCD4, 0xFEED_F00D).0,
        [0xFEED_F00D_0FC0_1046, 0x0012_3456_789A_BCD4]
    );
    let all = Command::sync_with_msi(0x00FF_FFFF_FFFF_FFFC, 0).0;
    assert_eq!(all[1], words("CMD_SYNC", &["MSIAddress"])[1]);
}

/// Commands of sharing, whole: typed by hand.
#[test]
fn commands_of_shared_memory_are_the_words_of_the_book() {
    // CMD_ATC_INV: StreamID 0x18, SSV, SubstreamID 5, two pages (Size 1) at 0xffff_860e_6000.
    assert_eq!(
        Command::atc_inv(0x18, Some(5), 0xFFFF_860E_6000, 1).0,
        [0x0000_0018_0000_5840, 0x0000_FFFF_860E_6001]
    );
    // Without a SubstreamID, Global clear.
    assert_eq!(Command::atc_inv(0x18, None, 0xFFFF_860E_6000, 1).0[0], 0x0000_0018_0000_0040);
    // CMD_PRI_RESP: group 74. Failure 0b00, invalid request 0b01, success 0b10 at 77:76.
    for (code, word_1) in [(0, 0x0000_004A), (1, 0x0000_104A), (2, 0x0000_204A)] {
        assert_eq!(Command::pri_resp(0x18, Some(5), 74, code).0, [0x0000_0018_0000_5841, word_1]);
    }
    // CMD_RESUME: stream 0x0200, tag 0x0042. Retry is Ac (12), abort Ab (13).
    assert_eq!(Command::resume(0x200, 0x42, Resume::Retry).0, [0x0000_0200_0000_1044, 0x0000_0042]);
    assert_eq!(Command::resume(0x200, 0x42, Resume::Abort).0, [0x0000_0200_0000_2044, 0x0000_0042]);
    assert_eq!(Command::resume(0x200, 0x42, Resume::Terminate).0, [0x0000_0200_0000_0044, 0x0000_0042]);
    assert_eq!(Command::stall_term(0x200).0, [0x0000_0200_0000_0045, 0]);
    // EL2: ASID 0x0042; 2 pages of 4K (NUM 0, SCALE 1, TG 1) at 0xffff_860e_6000.
    let two = TlbiTarget { address: 0xFFFF_860E_6000, tg: TG_4K, scale: 1, ..TlbiTarget::default() };
    assert_eq!(Command::tlbi_el2_va(0x42, two).0, [0x0042_0000_0010_0022, 0x0000_FFFF_860E_6400]);
    assert_eq!(Command::tlbi_el2_asid(0x42).0, [0x0042_0000_0000_0021, 0]);
    assert_eq!(Command::tlbi_el2_all().0, [0x0000_0000_0000_0020, 0]);
    // CMD_CFGI_CD of a PASID, L1CD included.
    assert_eq!(Command::cfgi_cd(0x18, 5, false).0, [0x0000_0018_0000_5005, 0]);
}

#[test]
fn named_values_of_commands_are_the_books() {
    // 4.4.1.1 "Range-based invalidation and level hint", TG: not in the order of CD.TG0.
    assert_eq!([TG_ANY, TG_4K, TG_16K, TG_64K], [0b00, 0b01, 0b10, 0b11]);
    // 4.7.3 "CMD_SYNC(ComplSignal, MSIAddress, MSIData, MSIWriteAttributes)", CS.
    assert_eq!([SIG_NONE, SIG_IRQ, SIG_SEV], [0b00, 0b01, 0b10]);
}
