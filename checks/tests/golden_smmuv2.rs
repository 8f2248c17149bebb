//! SMMUv2: the layouts in `portcullis-spec` against masks typed by hand.

use portcullis_checks::accessors;
use portcullis_checks::golden::hold;
use portcullis_checks::golden::smmuv2 as golden;
use portcullis_spec::smmuv2::{Frame, address_bits, bank, global, mmu500, upstream_bits};

/// A register of 32 bits.
const WORD: u64 = 0xffff_ffff;

#[test]
fn the_global_registers_lie_where_the_book_says() {
    let accessors = accessors! {global::Idr0;
        "NUMSMRG" => numsmrg with_numsmrg,
        "EXIDS" => exids with_exids,
        "NUMSIDB" => numsidb with_numsidb,
        "BTM" => btm with_btm,
        "CTTW" => cttw with_cttw,
        "EXSMRGS" => exsmrgs with_exsmrgs,
        "NUMIRPT" => numirpt with_numirpt,
        "PTFS" => ptfs with_ptfs,
        "ATOSNS" => atosns with_atosns,
        "SMS" => sms with_sms,
        "NTS" => nts with_nts,
        "S2TS" => s2ts with_s2ts,
        "S1TS" => s1ts with_s1ts,
        "SES" => ses with_ses,
    };
    hold(&golden::IDR0, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Idr1;
        "NUMCB" => numcb with_numcb,
        "NUMSSDNDXB" => numssdndxb with_numssdndxb,
        "SSDTP" => ssdtp with_ssdtp,
        "SMCD" => smcd with_smcd,
        "NUMS2CB" => nums2cb with_nums2cb,
        "HAFDBS" => hafdbs with_hafdbs,
        "NUMPAGENDXB" => numpagendxb with_numpagendxb,
        "PAGESIZE" => pagesize with_pagesize,
    };
    hold(&golden::IDR1, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Idr2;
        "IAS" => ias with_ias,
        "OAS" => oas with_oas,
        "UBS" => ubs with_ubs,
        "PTFSv8_4kB" => ptfsv8_4kb with_ptfsv8_4kb,
        "PTFSv8_16kB" => ptfsv8_16kb with_ptfsv8_16kb,
        "PTFSv8_64kB" => ptfsv8_64kb with_ptfsv8_64kb,
        "VMID16S" => vmid16s with_vmid16s,
        "EXNUMSMRG" => exnumsmrg with_exnumsmrg,
        "E2HS" => e2hs with_e2hs,
        "HADS" => hads with_hads,
        "COMPINDEXS" => compindexs with_compindexs,
        "DIPANS" => dipans with_dipans,
    };
    hold(&golden::IDR2, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Idr7;
        "MINOR" => minor with_minor,
        "MAJOR" => major with_major,
    };
    hold(&golden::IDR7, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Cr0;
        "CLIENTPD" => clientpd with_clientpd,
        "GFRE" => gfre with_gfre,
        "GFIE" => gfie with_gfie,
        "EXIDENABLE" => exidenable with_exidenable,
        "GCFGFRE" => gcfgfre with_gcfgfre,
        "GCFGFIE" => gcfgfie with_gcfgfie,
        "TRANSIENTCFG" => transientcfg with_transientcfg,
        "STALLD" => stalld with_stalld,
        "GSE" => gse with_gse,
        "USFCFG" => usfcfg with_usfcfg,
        "VMIDPNE" => vmidpne with_vmidpne,
        "PTM" => ptm with_ptm,
        "FB" => fb with_fb,
        "BSU" => bsu with_bsu,
        "MemAttr" => mem_attr with_mem_attr,
        "MTCFG" => mtcfg with_mtcfg,
        "SMCFCFG" => smcfcfg with_smcfcfg,
        "SHCFG" => shcfg with_shcfg,
        "RACFG" => racfg with_racfg,
        "WACFG" => wacfg with_wacfg,
        "HYPMODE" => hypmode with_hypmode,
        "VMID16EN" => vmid16en with_vmid16en,
    };
    hold(&golden::CR0, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Gfsr;
        "ICF" => icf with_icf,
        "USF" => usf with_usf,
        "SMCF" => smcf with_smcf,
        "UCBF" => ucbf with_ucbf,
        "UCIF" => ucif with_ucif,
        "CAF" => caf with_caf,
        "EF" => ef with_ef,
        "PF" => pf with_pf,
        "UUT" => uut with_uut,
        "MULTI" => multi with_multi,
    };
    hold(&golden::GFSR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Gfsynr0;
        "Nested" => nested with_nested,
        "WNR" => wnr with_wnr,
        "PNU" => pnu with_pnu,
        "IND" => ind with_ind,
        "NSSTATE" => nsstate with_nsstate,
        "NSATTR" => nsattr with_nsattr,
        "ATS" => ats with_ats,
    };
    hold(&golden::GFSYNR0, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::TlbGstatus;
        "GSACTIVE" => gsactive with_gsactive,
    };
    hold(&golden::TLBGSTATUS, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::S2cr;
        "CBNDX" => cbndx with_cbndx,
        "SHCFG" => shcfg with_shcfg,
        "EXIDVALID" => exidvalid with_exidvalid,
        "MTCFG" => mtcfg with_mtcfg,
        "MemAttr" => mem_attr with_mem_attr,
        "TYPE" => kind with_kind,
        "NSCFG" => nscfg with_nscfg,
        "RACFG" => racfg with_racfg,
        "WACFG" => wacfg with_wacfg,
        "PRIVCFG" => privcfg with_privcfg,
        "INSTCFG" => instcfg with_instcfg,
        "TRANSIENTCFG" => transientcfg with_transientcfg,
    };
    hold(&golden::S2CR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Smr;
        "ID" => id with_id,
        "MASK" => mask with_mask,
        "VALID" => valid with_valid,
    };
    hold(&golden::SMR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::ExtendedSmr;
        "EXID" => exid with_exid,
        "EXMASK" => exmask with_exmask,
    };
    hold(&golden::EXTENDED_SMR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Cbar;
        "VMID" => vmid with_vmid,
        "BPSHCFG" => bpshcfg with_bpshcfg,
        "HYPC" => hypc with_hypc,
        "FB" => fb with_fb,
        "MemAttr" => mem_attr with_mem_attr,
        "TYPE" => kind with_kind,
        "BSU" => bsu with_bsu,
        "RACFG" => racfg with_racfg,
        "WACFG" => wacfg with_wacfg,
        "IRPTNDX" => irptndx with_irptndx,
    };
    hold(&golden::CBAR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::NestedCbar;
        "VMID" => vmid with_vmid,
        "CBNDX" => cbndx with_cbndx,
        "TYPE" => kind with_kind,
        "IRPTNDX" => irptndx with_irptndx,
    };
    hold(&golden::NESTED_CBAR, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::Cba2r;
        "VA64" => va64 with_va64,
        "MONC" => monc with_monc,
        "VMID16" => vmid16 with_vmid16,
    };
    hold(&golden::CBA2R, 0, WORD, accessors, &[]);
    let accessors = accessors! {global::FaultStream;
        "StreamID" => stream_id with_stream_id,
        "SSD_Index" => ssd_index with_ssd_index,
    };
    hold(&golden::CBFRSYNRA, 0, WORD, accessors, &[]);
    let accessors = accessors! {mmu500::Acr;
        "SMTNMB_TLBEN" => smtnmb_tlben with_smtnmb_tlben,
        "MMUDISB_TLBEN" => mmudisb_tlben with_mmudisb_tlben,
        "S2CRB_TLBEN" => s2crb_tlben with_s2crb_tlben,
        "CACHE_LOCK" => cache_lock with_cache_lock,
    };
    hold(&golden::ACR, 0, WORD, accessors, &[]);
    let accessors = accessors! {mmu500::Actlr;
        "CMTLB" => cmtlb with_cmtlb,
        "CPRE" => cpre with_cpre,
    };
    hold(&golden::ACTLR, 0, WORD, accessors, &[]);
}

#[test]
fn banks_registers_lie_where_the_book_says() {
    let accessors = accessors! {bank::Sctlr;
        "M" => m with_m,
        "TRE" => tre with_tre,
        "AFE" => afe with_afe,
        "AFFD" => affd with_affd,
        "E" => e with_e,
        "CFRE" => cfre with_cfre,
        "CFIE" => cfie with_cfie,
        "CFCFG" => cfcfg with_cfcfg,
        "HUPCF" => hupcf with_hupcf,
        "WXN" => wxn with_wxn,
        "UWXN" => uwxn with_uwxn,
        "ASIDPNE" => asidpne with_asidpne,
        "TRANSIENTCFG" => transientcfg with_transientcfg,
        "MemAttr" => mem_attr with_mem_attr,
        "MTCFG" => mtcfg with_mtcfg,
        "SHCFG" => shcfg with_shcfg,
        "RACFG" => racfg with_racfg,
        "WACFG" => wacfg with_wacfg,
        "NSCFG" => nscfg with_nscfg,
        "UCI" => uci with_uci,
    };
    hold(&golden::SCTLR, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::Tcr;
        "T0SZ" => t0sz with_t0sz,
        "EPD0" => epd0 with_epd0,
        "IRGN0" => irgn0 with_irgn0,
        "ORGN0" => orgn0 with_orgn0,
        "SH0" => sh0 with_sh0,
        "TG0" => tg0 with_tg0,
        "T1SZ" => t1sz with_t1sz,
        "A1" => a1 with_a1,
        "EPD1" => epd1 with_epd1,
        "IRGN1" => irgn1 with_irgn1,
        "ORGN1" => orgn1 with_orgn1,
        "SH1" => sh1 with_sh1,
        "TG1" => tg1 with_tg1,
    };
    hold(&golden::TCR, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::Stage2Tcr;
        "T0SZ" => t0sz with_t0sz,
        "SL0" => sl0 with_sl0,
        "IRGN0" => irgn0 with_irgn0,
        "ORGN0" => orgn0 with_orgn0,
        "SH0" => sh0 with_sh0,
        "TG0" => tg0 with_tg0,
        "PASize" => pasize with_pasize,
        "HA" => ha with_ha,
        "HD" => hd with_hd,
    };
    hold(&golden::STAGE2_TCR, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::Tcr2;
        "PASize" => pasize with_pasize,
        "AS" => asid16 with_asid16,
        "TBI0" => tbi0 with_tbi0,
        "TBI1" => tbi1 with_tbi1,
        "HAD0" => had0 with_had0,
        "HAD1" => had1 with_had1,
        "HA" => ha with_ha,
        "HD" => hd with_hd,
        "NSCFG0" => nscfg0 with_nscfg0,
        "SEP" => sep with_sep,
        "NSCFG1" => nscfg1 with_nscfg1,
    };
    hold(&golden::TCR2, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::Ttbr;
        "Base address" => base with_base,
        "ASID" => asid with_asid,
    };
    hold(&golden::TTBR, 0, !0, accessors, &[]);
    let accessors = accessors! {bank::Fsr;
        "TF" => tf with_tf,
        "AFF" => aff with_aff,
        "PF" => pf with_pf,
        "EF" => ef with_ef,
        "TLBMCF" => tlbmcf with_tlbmcf,
        "TLBLKF" => tlblkf with_tlblkf,
        "ASF" => asf with_asf,
        "UUT" => uut with_uut,
        "Format" => format with_format,
        "SS" => ss with_ss,
        "MULTI" => multi with_multi,
    };
    hold(&golden::FSR, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::Fsynr0;
        "PLVL" => plvl with_plvl,
        "NESTED" => nested with_nested,
        "S1PTWF" => s1ptwf with_s1ptwf,
        "WNR" => wnr with_wnr,
        "PNU" => pnu with_pnu,
        "IND" => ind with_ind,
        "NSATTR" => nsattr with_nsattr,
        "ATOF" => atof with_atof,
        "PTWF" => ptwf with_ptwf,
        "AFR" => afr with_afr,
        "S1CBNDX" => s1cbndx with_s1cbndx,
    };
    hold(&golden::FSYNR0, 0, WORD, accessors, &[]);
    let accessors = accessors! {bank::TlbiVa;
        "Address[55:12]" => page with_page,
        "ASID" => asid with_asid,
    };
    hold(&golden::TLBIVA, 0, !0, accessors, &[]);
    let accessors = accessors! {bank::TlbiIpa;
        "Address[47:12]" => page with_page,
    };
    hold(&golden::TLBIIPAS2, 0, !0, accessors, &[]);
    let accessors = accessors! {bank::TlbStatus;
        "SACTIVE" => sactive with_sactive,
    };
    hold(&golden::TLBSTATUS, 0, WORD, accessors, &[]);
}

#[test]
fn every_register_is_where_the_book_says() {
    let global = [
        ("SMMU_CR0", global::CR0),
        ("SMMU_ACR", global::ACR),
        ("SMMU_IDR0", global::IDR0),
        ("SMMU_IDR1", global::IDR1),
        ("SMMU_IDR2", global::IDR2),
        ("SMMU_IDR7", global::IDR7),
        ("SMMU_GFAR", global::GFAR),
        ("SMMU_GFSR", global::GFSR),
        ("SMMU_GFSYNR0", global::GFSYNR0),
        ("SMMU_GFSYNR1", global::GFSYNR1),
        ("SMMU_GFSYNR2", global::GFSYNR2),
        ("SMMU_TLBIVMID", global::TLBIVMID),
        ("SMMU_TLBIALLNSNH", global::TLBIALLNSNH),
        ("SMMU_TLBIALLH", global::TLBIALLH),
        ("SMMU_TLBGSYNC", global::TLBGSYNC),
        ("SMMU_TLBGSTATUS", global::TLBGSTATUS),
        ("SMMU_TLBIVMIDS1", global::TLBIVMIDS1),
        ("SMMU_SMR0", global::smr(0)),
        ("SMMU_SMR1", global::smr(1)),
        ("SMMU_S2CR0", global::s2cr(0)),
        ("SMMU_S2CR1", global::s2cr(1)),
    ];
    assert_eq!(golden::GLOBAL_OFFSETS, global);
    let bank = [
        ("SMMU_CBn_SCTLR", bank::SCTLR),
        ("SMMU_CBn_ACTLR", bank::ACTLR),
        ("SMMU_CBn_RESUME", bank::RESUME),
        ("SMMU_CBn_TCR2", bank::TCR2),
        ("SMMU_CBn_TTBR0", bank::TTBR0),
        ("SMMU_CBn_TTBR1", bank::TTBR1),
        ("SMMU_CBn_TCR", bank::TCR),
        ("SMMU_CBn_MAIR0", bank::MAIR0),
        ("SMMU_CBn_MAIR1", bank::MAIR1),
        ("SMMU_CBn_FSR", bank::FSR),
        ("SMMU_CBn_FAR", bank::FAR),
        ("SMMU_CBn_FSYNR0", bank::FSYNR0),
        ("SMMU_CBn_FSYNR1", bank::FSYNR1),
        ("SMMU_CBn_IPAFAR", bank::IPAFAR),
        ("SMMU_CBn_TLBIVA", bank::TLBIVA),
        ("SMMU_CBn_TLBIVAA", bank::TLBIVAA),
        ("SMMU_CBn_TLBIASID", bank::TLBIASID),
        ("SMMU_CBn_TLBIALL", bank::TLBIALL),
        ("SMMU_CBn_TLBIVAL", bank::TLBIVAL),
        ("SMMU_CBn_TLBIVAAL", bank::TLBIVAAL),
        ("SMMU_CBn_TLBIIPAS2", bank::TLBIIPAS2),
        ("SMMU_CBn_TLBIIPAS2L", bank::TLBIIPAS2L),
        ("SMMU_CBn_TLBSYNC", bank::TLBSYNC),
        ("SMMU_CBn_TLBSTATUS", bank::TLBSTATUS),
    ];
    assert_eq!(golden::BANK_OFFSETS, bank);
    // Table 10-1, in Global Register Space 1.
    assert_eq!((global::cbar(1), global::cbfrsynra(1), global::cba2r(127)), (0x004, 0x404, 0x9fc));
}

#[test]
fn halves_of_the_frame_have_as_many_pages_as_the_book_says() {
    // PAGESIZE 0, NUMPAGENDXB 2: 8 pages of 4 KiB each. 8.1.2: SMMU_CB_BASE is SMMU_BASE + NUMPAGE * PAGESIZE.
    let small = Frame::new(global::Idr1::from_bits(0x2000_0004));
    assert_eq!((small.global1(0x400), small.bank(0, 0), small.bank(3, 0x58)), (0x1400, 0x8000, 0xb058));
    assert_eq!(small.bytes(), 0x1_0000);
    // PAGESIZE 1, NUMPAGENDXB 4: 32 pages of 64 KiB each.
    let large = Frame::new(global::Idr1::from_bits(0xc000_0010));
    assert_eq!((large.global1(0), large.bank(1, 0x7f0), large.bytes()), (0x1_0000, 0x21_07f0, 0x40_0000));
}

#[test]
fn sizes_of_addresses_have_the_codes_of_the_book() {
    let sizes: Vec<_> = (0..16).map(address_bits).collect();
    let wanted = [32, 36, 40, 42, 44, 48].map(Some);
    assert_eq!((&sizes[..6], sizes[6..].iter().all(Option::is_none)), (&wanted[..], true));
    assert_eq!([0, 4, 5, 6, 15].map(upstream_bits), [Some(32), Some(44), Some(49), None, Some(64)]);
}

#[test]
fn a_banks_words_are_those_that_a_reader_of_the_book_would_write() {
    // Stage 1, 48 bits, 4 KiB, write-back walks, inner shareable, nothing for the upper half.
    let tcr = bank::Tcr::new().with_t0sz(16).with_irgn0(1).with_orgn0(1).with_sh0(3).with_epd1(true);
    assert_eq!(tcr.into_bits(), 0x0080_3510);
    // Group matches 0x400 to 0x43f; it goes to bank 5.
    let smr = global::Smr::new().with_id(0x400).with_mask(0x3f).with_valid(true);
    let s2cr = global::S2cr::new().with_kind(global::S2CR_TRANSLATE).with_cbndx(5);
    assert_eq!((smr.into_bits(), s2cr.into_bits()), (0x803f_0400, 0x0000_0005));
    assert_eq!(global::S2cr::new().with_kind(global::S2CR_FAULT).into_bits(), 0x0002_0000);
    // Page 0xdead_b000 of ASID 9.
    let va = bank::TlbiVa::new().with_page(0xd_eadb).with_asid(9);
    assert_eq!(va.into_bits(), 0x0009_0000_000d_eadb);
}

#[test]
fn whole_words_of_streams_and_banks_are_as_worked_out_from_the_book() {
    // Bank 3: stage 1 with stage 2 passed, VMID 7, interrupt 2. Nested in bank 1. Stage 2 alone.
    let cbar = global::Cbar::new().with_vmid(7).with_kind(1).with_irptndx(2);
    assert_eq!(cbar.into_bits(), 0x0201_0007);
    let nested = global::NestedCbar::new().with_vmid(7).with_cbndx(1).with_kind(3);
    assert_eq!(nested.into_bits(), 0x0003_0107);
    assert_eq!(global::Cbar::new().with_vmid(7).with_kind(0).into_bits(), 0x0000_0007);
    // Tables of 64 bits, a VMID of 16.
    assert_eq!(global::Cba2r::new().with_va64(true).with_vmid16(0x1234).into_bits(), 0x1234_0001);
    // A stream that bypasses, one that faults, one that goes to bank 0x42 as unprivileged data.
    assert_eq!(global::S2cr::new().with_kind(1).into_bits(), 0x0001_0000);
    assert_eq!(global::S2cr::new().with_kind(0).with_cbndx(0x42).with_privcfg(2).into_bits(), 0x0200_0042);
    // Extended matching: the mask has 16 bits, and VALID is in S2CR.
    let extended = global::ExtendedSmr::new().with_exid(0xfff0).with_exmask(0x000f);
    assert_eq!(extended.into_bits(), 0x000f_fff0);
    // On, access flags and TEX remap as they are, faults are reported and interrupt; and the transaction ends, or stalls.
    let sctlr = bank::Sctlr::new().with_m(true).with_tre(true).with_afe(true).with_cfre(true).with_cfie(true);
    assert_eq!(sctlr.into_bits(), 0x0000_0067);
    assert_eq!(sctlr.with_cfcfg(true).into_bits(), 0x0000_00e7);
    // Stage 2: 40 bits from level 1 with 4 KiB, write-back walks, inner shareable, 48 bits out.
    let tcr = bank::Stage2Tcr::new().with_t0sz(24).with_sl0(1).with_irgn0(1).with_orgn0(1).with_sh0(3);
    assert_eq!(tcr.with_pasize(5).into_bits(), 0x0005_3558);
    assert_eq!(bank::Tcr2::new().with_pasize(5).with_asid16(true).with_sep(7).into_bits(), 0x0003_8015);
    // The table at 1_2345_6000h of ASID 9.
    let ttbr = bank::Ttbr::from_bits(0x0009_0001_2345_6000);
    assert_eq!((ttbr.asid(), ttbr.base()), (9, 0x1_2345_6000));
    // A translation fault that stalled, and another that was not recorded; of a write by level 2 of stage 2, met on a walk.
    let fsr = bank::Fsr::from_bits(0xc000_0002);
    assert_eq!((fsr.tf(), fsr.pf(), fsr.ss(), fsr.multi()), (true, false, true, true));
    let syndrome = bank::Fsynr0::from_bits(0x0000_041a);
    let said = (syndrome.plvl(), syndrome.s1ptwf(), syndrome.wnr(), syndrome.ptwf());
    assert_eq!(said, (2, true, true, true));
    // Several matched, and a stream that nobody is there for; an unprivileged write by stream 0x123.
    let global = global::Gfsr::from_bits(0x8000_0006);
    assert_eq!((global.usf(), global.smcf(), global.icf(), global.multi()), (true, true, false, true));
    let syndrome = global::Gfsynr0::from_bits(0x0000_0002);
    assert_eq!((syndrome.wnr(), syndrome.pnu(), syndrome.nested()), (true, false, false));
    assert_eq!(global::FaultStream::from_bits(0x0000_0123).stream_id(), 0x123);
}

#[test]
fn kinds_of_streams_and_banks_have_the_numbers_of_the_book() {
    // 9.6.23, TYPE: a bank, bypass, fault. 10.2.1, TYPE: stage 2; stage 1 and stage 2 bypassed, or faulting; both.
    assert_eq!([global::S2CR_TRANSLATE, global::S2CR_BYPASS, global::S2CR_FAULT], [0, 1, 2]);
    let kinds =
        [global::CBAR_STAGE2, global::CBAR_STAGE1_BYPASS, global::CBAR_STAGE1_FAULT, global::CBAR_NESTED];
    assert_eq!(kinds, [0, 1, 2, 3]);
    // Tables 9-1 and 10-1: SMMU_SMR127 at 9fch, SMMU_S2CR127 at dfch, SMMU_CBAR127 at 1fch, SMMU_CBFRSYNRA127 at 5fch.
    let (group, bank) = (global::MOST_GROUPS - 1, global::MOST_BANKS - 1);
    assert_eq!([global::smr(group), global::s2cr(group)], [0x9fc, 0xdfc]);
    assert_eq!([global::cbar(bank), global::cbfrsynra(bank)], [0x1fc, 0x5fc]);
}

#[test]
fn fields_of_banks_take_the_values_of_the_book() {
    // Tables 16-6 and 16-7: SH outer 2, inner 3; RGN not cacheable 0, write-back with write-allocate 1. 16.5.39, SEP: as the bus is, 7.
    assert_eq!([bank::SHARE_OUTER, bank::SHARE_INNER], [2, 3]);
    assert_eq!([bank::WALK_NON_CACHEABLE, bank::WALK_WRITE_BACK, bank::SEP_UPSTREAM], [0, 1, 7]);
    // 16.5.28, TnR: 0 retries, 1 terminates. 10.2.1, BPSHCFG: non-shareable 3.
    assert_eq!([bank::RESUME_RETRY, bank::RESUME_TERMINATE], [0, 1]);
    assert_eq!(global::BPSHCFG_NON_SHAREABLE, 3);
    // Tables 9-3 and 9-5, MemAttr: outer write-back 11b above inner write-back 11b.
    assert_eq!(global::MEM_ATTR_WRITE_BACK, 0xf);
    // 16.5.32 and 17.3.4: a page of ASID fffeh at the top of 56 bits; page 8_7654_3210h of 48.
    assert_eq!(
        bank::TlbiVa::new().with_page(0xfff_ffff_ffff).with_asid(0xfffe).into_bits(),
        0xfffe_0fff_ffff_ffff
    );
    assert_eq!(bank::TlbiIpa::new().with_page(0x8_7654_3210).into_bits(), 0x8_7654_3210);
}
