//! Table entries of `portcullis-spec` against the golden words: each getter and setter, in both directions.

use portcullis_checks::accessors;
use portcullis_checks::golden::hold;
use portcullis_checks::golden::smmuv3::{CD, L1CD, L1STD, PRI_REQUEST, STE};
use portcullis_spec::smmuv3::page_request::{PageRequestWord0, PageRequestWord1};
use portcullis_spec::smmuv3::tables::{
    CdWord0, CdWord1, CdWord2, CdWord3, L1Cd, L1Std, SteWord0, SteWord1, SteWord2, SteWord3,
};

#[test]
fn level_1_descriptors_lie_where_the_book_says() {
    hold(&L1STD, 0, !0, accessors! {L1Std; "Span" => span with_span, "L2Ptr" => l2_ptr with_l2_ptr,}, &[]);
    hold(&L1CD, 0, !0, accessors! {L1Cd; "V" => v with_v, "L2Ptr" => l2_ptr with_l2_ptr,}, &[]);
}

#[test]
fn ste_word_0_lies_where_the_book_says() {
    let accessors = accessors! {SteWord0;
        "V" => v with_v,
        "Config" => config with_config,
        "S1Fmt" => s1_fmt with_s1_fmt,
        "S1ContextPtr" => s1_context_ptr with_s1_context_ptr,
        "S1CDMax" => s1_cd_max with_s1_cd_max,
    };
    hold(&STE, 0, !0, accessors, &[]);
}

#[test]
fn ste_word_1_lies_where_the_book_says() {
    let accessors = accessors! {SteWord1;
        "S1DSS" => s1_dss with_s1_dss,
        "S1CIR" => s1_cir with_s1_cir,
        "S1COR" => s1_cor with_s1_cor,
        "S1CSH" => s1_csh with_s1_csh,
        "S2HWU59" "S2HWU60" "S2HWU61" "S2HWU62" => s2_hwu with_s2_hwu,
        "DRE" => dre with_dre,
        "CONT" => cont with_cont,
        "DCP" => dcp with_dcp,
        "PPAR" => ppar with_ppar,
        "MEV" => mev with_mev,
        "SW_RESERVED" => software with_software,
        "S2FWB" => s2_fwb with_s2_fwb,
        "S1MPAM" => s1_mpam with_s1_mpam,
        "S1STALLD" => s1_stalld with_s1_stalld,
        "EATS" => eats with_eats,
        "STRW" => strw with_strw,
        "MemAttr" => mem_attr with_mem_attr,
        "MTCFG" => mtcfg with_mtcfg,
        "ALLOCCFG" => alloccfg with_alloccfg,
        "SHCFG" => shcfg with_shcfg,
        "NSCFG" => nscfg with_nscfg,
        "PRIVCFG" => privcfg with_privcfg,
        "INSTCFG" => instcfg with_instcfg,
        "IMPDEF_116" => impdef with_impdef,
    };
    // Permission indirection of stage 1 is not in the crate.
    hold(&STE, 1, !0, accessors, &["S1PIE"]);
}

#[test]
fn ste_word_2_lies_where_the_book_says() {
    let accessors = accessors! {SteWord2;
        "S2VMID" => s2_vmid with_s2_vmid,
        "IMPDEF_144" => impdef with_impdef,
        "S2T0SZ" => s2_t0sz with_s2_t0sz,
        "S2SL0" => s2_sl0 with_s2_sl0,
        "S2IR0" => s2_ir0 with_s2_ir0,
        "S2OR0" => s2_or0 with_s2_or0,
        "S2SH0" => s2_sh0 with_s2_sh0,
        "S2TG" => s2_tg with_s2_tg,
        "S2PS" => s2_ps with_s2_ps,
        "S2AA64" => s2_aa64 with_s2_aa64,
        "S2ENDI" => s2_endi with_s2_endi,
        "S2AFFD" => s2_affd with_s2_affd,
        "S2PTW" => s2_ptw with_s2_ptw,
        "S2HD" => s2_hd with_s2_hd,
        "S2HA" => s2_ha with_s2_ha,
        "S2S" => s2_s with_s2_s,
        "S2R" => s2_r with_s2_r,
        "S2HAFT" => s2_haft with_s2_haft,
        "S2PIE" => s2_pie with_s2_pie,
        "S2POE" => s2_poe with_s2_poe,
        "DPT_VMATCH" => dpt_vmatch with_dpt_vmatch,
    };
    hold(&STE, 2, !0, accessors, &[]);
}

#[test]
fn ste_word_3_lies_where_the_book_says() {
    let accessors = accessors! {SteWord3;
        "S2NSW" => s2_nsw with_s2_nsw,
        "S2NSA" => s2_nsa with_s2_nsa,
        "S2SL0_2" => s2_sl0_2 with_s2_sl0_2,
        "S2DS" => s2_ds with_s2_ds,
        "S2TTB" => s2_ttb with_s2_ttb,
    };
    // Skipped levels belong to 128-bit descriptors.
    hold(&STE, 3, !0, accessors, &["S2SKL"]);
}

#[test]
fn cd_word_0_lies_where_the_book_says() {
    let accessors = accessors! {CdWord0;
        "T0SZ" => t0sz with_t0sz,
        "TG0" => tg0 with_tg0,
        "IR0" => ir0 with_ir0,
        "OR0" => or0 with_or0,
        "SH0" => sh0 with_sh0,
        "EPD0" => epd0 with_epd0,
        "ENDI" => endi with_endi,
        "T1SZ" => t1sz with_t1sz,
        "TG1" => tg1 with_tg1,
        "IR1" => ir1 with_ir1,
        "OR1" => or1 with_or1,
        "SH1" => sh1 with_sh1,
        "EPD1" => epd1 with_epd1,
        "V" => v with_v,
        "IPS" => ips with_ips,
        "AFFD" => affd with_affd,
        "WXN" => wxn with_wxn,
        "UWXN" => uwxn with_uwxn,
        "TBI0" => tbi0 with_tbi0,
        "TBI1" => tbi1 with_tbi1,
        "PAN" => pan with_pan,
        "AA64" => aa64 with_aa64,
        "HD" => hd with_hd,
        "HA" => ha with_ha,
        "S" => s with_s,
        "R" => r with_r,
        "A" => a with_a,
        "ASET" => aset with_aset,
        "ASID" => asid with_asid,
    };
    hold(&CD, 0, !0, accessors, &[]);
}

#[test]
fn cd_words_1_to_3_lie_where_the_book_says() {
    let word_1 = accessors! {CdWord1;
        "NSCFG0" => nscfg0 with_nscfg0,
        "HAD0" => had0 with_had0,
        "E0PD0" => e0pd0 with_e0pd0,
        "HAFT" => haft with_haft,
        "TTB0" => ttb0 with_ttb0,
        "PnCH" => pnch with_pnch,
        "EPAN" => epan with_epan,
        "HWU059" "HWU060" "HWU061" "HWU062" => hwu0 with_hwu0,
    };
    hold(&CD, 1, !0, word_1, &[]);
    let word_2 = accessors! {CdWord2;
        "NSCFG1" => nscfg1 with_nscfg1,
        "HAD1" => had1 with_had1,
        "E0PD1" => e0pd1 with_e0pd1,
        "AIE" => aie with_aie,
        "TTB1" => ttb1 with_ttb1,
        "DS" => ds with_ds,
        "PIE" => pie with_pie,
        "HWU159" "HWU160" "HWU161" "HWU162" => hwu1 with_hwu1,
    };
    hold(&CD, 2, !0, word_2, &[]);
    hold(&CD, 3, !0, accessors! {CdWord3; "MAIR0" "MAIR1" => mair with_mair,}, &[]);
}

#[test]
fn page_requests_lie_where_the_book_says() {
    let word_0 = accessors! {PageRequestWord0;
        "StreamID" => stream_id with_stream_id,
        "SubstreamID" => substream_id with_substream_id,
        "Priv" => privileged with_privileged,
        "X" => x with_x,
        "R" => r with_r,
        "W" => w with_w,
        "Last" => last with_last,
        "SSV" => ssv with_ssv,
    };
    hold(&PRI_REQUEST, 0, !0, word_0, &[]);
    let word_1 = accessors! {PageRequestWord1;
        "PRGIndex" => prg_index with_prg_index,
        "Address[63:12]" => page with_page,
    };
    hold(&PRI_REQUEST, 1, !0, word_1, &[]);
}

/// Entries as sharing writes them, whole: typed by hand from the book's positions, and read back by name.
#[test]
fn entries_of_shared_memory_read_as_they_were_meant() {
    // A process: T0SZ 16, IR0 and OR0 0b01, SH0 0b11, EPD1, V, IPS 0b101, AA64, HD, HA, R, A, ASID 0x0042; ASET clear.
    let lives = CdWord0::from_bits(0x0042_6E05_C000_3510);
    assert_eq!((lives.t0sz(), lives.tg0(), lives.ir0(), lives.or0(), lives.sh0()), (16, 0, 1, 1, 3));
    assert!(lives.v() && lives.epd1() && !lives.epd0() && lives.aa64() && lives.r() && lives.a());
    assert!(lives.hd() && lives.ha() && !lives.s() && !lives.aset());
    assert_eq!((lives.ips(), lives.asid()), (5, 0x42));
    // The same where faults stall (S, bit 44), and after it has exited: EPD0, bit 14, without S and R.
    assert_eq!(lives.with_s(true).into_bits(), 0x0042_7E05_C000_3510);
    assert_eq!(lives.with_epd0(true).with_s(false).with_r(false).into_bits(), 0x0042_4E05_C000_7510);
    // A private address space has ASET, bit 47.
    assert_eq!(lives.with_aset(true).with_hd(false).with_ha(false).into_bits(), 0x0042_E205_C000_3510);
    // 52-bit addresses with small granules: DS is bit 186. TTB0 lies as it is, up to bit 51.
    assert_eq!(CdWord2::new().with_ds(true).into_bits(), 0x0400_0000_0000_0000);
    assert_eq!(CdWord1::new().with_ttb0_address(0x000F_0000_1234_0000).into_bits(), 0x000F_0000_1234_0000);

    // A device with ATS and PASIDs of 16 bits: V, Config 0b101, S1Fmt 0b01, table at 0x8000_2000, S1CDMax 16.
    let ste = SteWord0::from_bits(0x8000_0000_8000_201B);
    assert_eq!((ste.config(), ste.s1_fmt(), ste.s1_cd_max()), (0b101, 0b01, 16));
    assert_eq!(ste.s1_context_ptr_address(), 0x8000_2000);
    // S1DSS 0b10, S1CIR and S1COR 0b01, S1CSH 0b11, PPAR, S1STALLD, EATS 0b01, STRW 0b10.
    let word_1 = SteWord1::from_bits(0x0000_0000_9804_00D6);
    assert_eq!((word_1.s1_dss(), word_1.s1_cir(), word_1.s1_cor(), word_1.s1_csh()), (2, 1, 1, 3));
    assert!(word_1.ppar() && word_1.s1_stalld());
    assert_eq!((word_1.eats(), word_1.strw()), (0b01, 0b10));
    // Traffic without a PASID passes: S1DSS 0b01, SHCFG 0b01.
    let passes = SteWord1::new().with_s1_dss(1).with_shcfg(1).with_eats(1);
    assert_eq!(passes.into_bits(), 0x0000_1000_1000_0001);
}

#[test]
fn page_requests_read_as_they_were_meant() {
    // Stream 0x18, PASID 0x5, read (60) and write (61), the last (62) of its group, SSV (63); group 74, page 0xffff_860e_6.
    let word_0 = PageRequestWord0::from_bits(0xF000_0005_0000_0018);
    assert_eq!((word_0.stream_id(), word_0.substream_id()), (0x18, 5));
    assert!(word_0.ssv() && word_0.last() && word_0.w() && word_0.r() && !word_0.x() && !word_0.privileged());
    let word_1 = PageRequestWord1::from_bits(0x0000_FFFF_860E_604A);
    assert_eq!((word_1.prg_index(), word_1.page()), (74, 0x000F_FFF8_60E6));
    // A stop marker: LWR 0b100, with a PASID.
    let stop = PageRequestWord0::from_bits(0xC000_0005_0000_0018);
    assert!(stop.ssv() && stop.last() && !stop.w() && !stop.r());
    // Privileged (58) execute (59), without a PASID.
    let fetch = PageRequestWord0::from_bits(0x0C00_0000_0000_0018);
    assert!(fetch.x() && fetch.privileged() && !fetch.ssv() && !fetch.last());
}

/// Whole addresses, not fields: the bits of an address keep their positions in the word.
#[test]
fn addresses_keep_their_bits() {
    assert_eq!(L1Std::new().with_l2_ptr_address(0x00AB_CDEF_0123_4540).into_bits(), 0x00AB_CDEF_0123_4540);
    assert_eq!(L1Cd::new().with_l2_ptr_address(0x00AB_CDEF_0123_4000).into_bits(), 0x00AB_CDEF_0123_4000);
    assert_eq!(
        SteWord0::new().with_s1_context_ptr_address(0x00AB_CDEF_0123_4540).into_bits(),
        0x00AB_CDEF_0123_4540
    );
    assert_eq!(SteWord3::new().with_s2_ttb_address(0x00AB_CDEF_0123_4550).into_bits(), 0x00AB_CDEF_0123_4550);
    assert_eq!(CdWord1::new().with_ttb0_address(0x00AB_CDEF_0123_4550).into_bits(), 0x00AB_CDEF_0123_4550);
    // And back, with every other bit of the word set.
    assert_eq!(L1Std::from_bits(0xFF00_0000_0123_453F).l2_ptr_address(), 0x0000_0000_0123_4500);
    assert_eq!(L1Cd::from_bits(0xFF00_0000_0123_4FFF).l2_ptr_address(), 0x0000_0000_0123_4000);
    assert_eq!(SteWord0::from_bits(0xFF00_0000_0123_453F).s1_context_ptr_address(), 0x0123_4500);
    assert_eq!(SteWord3::from_bits(0xFF00_0000_0123_455F).s2_ttb_address(), 0x0123_4550);
    assert_eq!(CdWord1::from_bits(0xFF00_0000_0123_455F).ttb0_address(), 0x0123_4550);
}

#[test]
fn named_values_of_entries_are_the_books() {
    use portcullis_spec::smmuv3::tables as spec;
    use portcullis_spec::smmuv3::{self, address_bits};
    // 5.2 "STE, Stream Table Entry", Config, S1Fmt, S1DSS, EATS, STRW, SHCFG.
    assert_eq!(
        [
            spec::CONFIG_ABORT,
            spec::CONFIG_BYPASS,
            spec::CONFIG_STAGE_1,
            spec::CONFIG_STAGE_2,
            spec::CONFIG_NESTED
        ],
        [0b000, 0b100, 0b101, 0b110, 0b111]
    );
    assert_eq!([spec::CONFIG_STAGE_1_BIT, spec::CONFIG_STAGE_2_BIT], [0b001, 0b010]);
    assert_eq!([spec::S1FMT_LINEAR, spec::S1FMT_4K_L2, spec::S1FMT_64K_L2], [0b00, 0b01, 0b10]);
    assert_eq!([spec::S1DSS_TERMINATE, spec::S1DSS_BYPASS, spec::S1DSS_SSID0], [0b00, 0b01, 0b10]);
    assert_eq!([spec::EATS_OFF, spec::EATS_FULL, spec::EATS_SPLIT], [0b00, 0b01, 0b10]);
    assert_eq!([spec::STRW_NS_EL1, spec::STRW_EL2, spec::SHCFG_INCOMING], [0b00, 0b10, 0b01]);
    // 5.4 "CD, Context Descriptor", TG0: 64 KB before 16 KB. IR0.
    assert_eq!([spec::TG0_4K, spec::TG0_64K, spec::TG0_16K], [0b00, 0b01, 0b10]);
    assert_eq!([spec::WALK_NON_CACHEABLE, spec::WALK_WRITE_BACK], [0b00, 0b01]);
    // 6.3.11 "SMMU_CR1", TABLE_OC, TABLE_SH.
    assert_eq!(
        [smmuv3::CACHE_NON_CACHEABLE, smmuv3::CACHE_WRITE_BACK, smmuv3::CACHE_WRITE_THROUGH],
        [0b00, 0b01, 0b10]
    );
    assert_eq!([smmuv3::SHARE_NON, smmuv3::SHARE_OUTER, smmuv3::SHARE_INNER], [0b00, 0b10, 0b11]);
    // Arm ARM, "Stage 2 memory type and Cacheability attributes when FWB is disabled", MemAttr[3:0].
    assert_eq!(
        [
            smmuv3::MEM_ATTR_DEVICE_NGNRNE,
            smmuv3::MEM_ATTR_DEVICE_NGNRE,
            smmuv3::MEM_ATTR_NON_CACHEABLE,
            smmuv3::MEM_ATTR_WRITE_BACK
        ],
        [0b0000, 0b0001, 0b0101, 0b1111]
    );
    // 6.3.6 "SMMU_IDR5", OAS; 5.4, IPS; 5.2, S2PS.
    let sizes = [Some(32), Some(36), Some(40), Some(42), Some(44), Some(48), Some(52), Some(56), None];
    for (field, bits) in (0..).zip(sizes) {
        assert_eq!(address_bits(field), bits, "field {field:#05b}");
    }
}
