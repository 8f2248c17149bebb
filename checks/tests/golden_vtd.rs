//! VT-d: the layouts in `portcullis-spec` and the words of the page-table formats, against masks typed by hand.

use portcullis_checks::accessors;
use portcullis_checks::golden::vtd as golden;
use portcullis_checks::golden::{Field, hold};
use portcullis_pgtable::vtd::{FirstConfig, FirstStage, SecondConfig, SecondStage};
use portcullis_pgtable::{Format, Marks};
use portcullis_spec::vtd::{
    capability, context, fault, interrupt, invalidation, page_request, pasid, queue, registers,
};
use portcullis_types::{Pa, Perms, Prot};

#[test]
fn entries_lie_where_the_book_says() {
    let accessors = accessors! {context::RootWord0;
        "P" => p with_p,
        "CTP" => ctp with_ctp,
    };
    hold(&golden::ROOT, 0, !0, accessors, &[]);
    let accessors = accessors! {context::ScalableRootWord;
        "LP" => p with_p,
        "LCTP" => ctp with_ctp,
    };
    hold(&golden::SCALABLE_ROOT, 0, !0, accessors, &[]);
    let accessors = accessors! {context::ScalableRootWord;
        "UP" => p with_p,
        "UCTP" => ctp with_ctp,
    };
    hold(&golden::SCALABLE_ROOT, 1, !0, accessors, &[]);
    let accessors = accessors! {context::ContextWord0;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "TT" => tt with_tt,
        "SSPTPTR" => ssptptr with_ssptptr,
    };
    hold(&golden::CONTEXT, 0, !0, accessors, &[]);
    let accessors = accessors! {context::ContextWord1;
        "AW" => aw with_aw,
        "IGN" => ign with_ign,
        "DID" => did with_did,
    };
    hold(&golden::CONTEXT, 1, !0, accessors, &[]);
    let accessors = accessors! {context::ScalableContextWord0;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "DTE" => dte with_dte,
        "PASIDE" => paside with_paside,
        "PRE" => pre with_pre,
        "HPTE" => hpte with_hpte,
        "EPTR" => eptr with_eptr,
        "PDTS" => pdts with_pdts,
        "PASIDDIRPTR" => pasiddirptr with_pasiddirptr,
    };
    hold(&golden::SCALABLE_CONTEXT, 0, !0, accessors, &[]);
    let accessors = accessors! {context::ScalableContextWord1;
        "RID_PASID" => rid_pasid with_rid_pasid,
        "RID_PRIV" => rid_priv with_rid_priv,
    };
    hold(&golden::SCALABLE_CONTEXT, 1, !0, accessors, &[]);
}

#[test]
fn pasid_entries_lie_where_the_book_says() {
    let accessors = accessors! {pasid::PasidDirectoryEntry;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "SMPTBLPTR" => smptblptr with_smptblptr,
    };
    hold(&golden::PASID_DIRECTORY, 0, !0, accessors, &[]);
    let accessors = accessors! {pasid::PasidWord0;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "AW" => aw with_aw,
        "PGTT" => pgtt with_pgtt,
        "SSADE" => ssade with_ssade,
        "SSPTPTR" => ssptptr with_ssptptr,
    };
    hold(&golden::PASID_TABLE, 0, !0, accessors, &[]);
    let accessors = accessors! {pasid::PasidWord1;
        "DID" => did with_did,
        "PWSNP" => pwsnp with_pwsnp,
        "PGSNP" => pgsnp with_pgsnp,
        "CD" => cd with_cd,
        "EMTE" => emte with_emte,
        "PAT" => pat with_pat,
    };
    hold(&golden::PASID_TABLE, 1, !0, accessors, &[]);
    let accessors = accessors! {pasid::PasidWord2;
        "SRE" => sre with_sre,
        "FSPM" => fspm with_fspm,
        "WPE" => wpe with_wpe,
        "IGN" => ign with_ign,
        "EAFE" => eafe with_eafe,
        "FSPTPTR" => fsptptr with_fsptptr,
    };
    hold(&golden::PASID_TABLE, 2, !0, accessors, &[]);
    let accessors = accessors! {pasid::PasidWord4;
        "HPTSZ" => hptsz with_hptsz,
        "HPTPFD" => hptpfd with_hptpfd,
        "HPTPTR" => hptptr with_hptptr,
    };
    hold(&golden::PASID_TABLE, 4, !0, accessors, &[]);
    let accessors = accessors! {pasid::PasidWord5;
        "HPTDID" => hptdid with_hptdid,
    };
    hold(&golden::PASID_TABLE, 5, !0, accessors, &[]);
}

#[test]
fn interrupt_entries_lie_where_the_book_says() {
    let accessors = accessors! {interrupt::IrteWord0;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "DM" => dm with_dm,
        "RH" => rh with_rh,
        "TM" => tm with_tm,
        "DLM" => dlm with_dlm,
        "AVAIL" => avail with_avail,
        "IM" => im with_im,
        "V" => vector with_vector,
        "DST" => destination with_destination,
    };
    hold(&golden::IRTE, 0, !0, accessors, &[]);
    let accessors = accessors! {interrupt::IrteWord1;
        "SID" => sid with_sid,
        "SQ" => sq with_sq,
        "SVT" => svt with_svt,
    };
    hold(&golden::IRTE, 1, !0, accessors, &[]);
    let accessors = accessors! {interrupt::PostedIrteWord0;
        "P" => p with_p,
        "FPD" => fpd with_fpd,
        "AVAIL" => avail with_avail,
        "URG" => urg with_urg,
        "IM" => im with_im,
        "VV" => vector with_vector,
        "PDAL" => pdal with_pdal,
    };
    hold(&golden::IRTE_POSTED, 0, !0, accessors, &[]);
    let accessors = accessors! {interrupt::IrteWord1;
        "SID" => sid with_sid,
        "SQ" => sq with_sq,
        "SVT" => svt with_svt,
        "PDAH" => pdah with_pdah,
    };
    hold(&golden::IRTE_POSTED, 1, !0, accessors, &[]);
}

#[test]
fn descriptors_lie_where_the_book_says() {
    let accessors = accessors! {invalidation::ContextInvalidate;
        "Type" => type_low with_type_low,
        "G" => g with_g,
        "DID" => did with_did,
        "SID" => sid with_sid,
        "FM" => fm with_fm,
    };
    hold(&golden::CC_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::PasidCacheInvalidate;
        "Type" => type_low with_type_low,
        "G" => g with_g,
        "DID" => did with_did,
        "PASID" => pasid with_pasid,
    };
    hold(&golden::PC_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::IotlbInvalidate;
        "Type" => type_low with_type_low,
        "G" => g with_g,
        "DW" => dw with_dw,
        "DR" => dr with_dr,
        "DID" => did with_did,
    };
    hold(&golden::IOTLB_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::IotlbPages;
        "AM" => am with_am,
        "IH" => ih with_ih,
        "ADDR" => addr with_addr,
    };
    hold(&golden::IOTLB_INV, 1, !0, accessors, &[]);
    let accessors = accessors! {invalidation::PasidIotlbInvalidate;
        "Type" => type_low with_type_low,
        "G" => g with_g,
        "DID" => did with_did,
        "PASID" => pasid with_pasid,
    };
    hold(&golden::P_IOTLB_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::IotlbPages;
        "AM" => am with_am,
        "IH" => ih with_ih,
        "ADDR" => addr with_addr,
    };
    hold(&golden::P_IOTLB_INV, 1, !0, accessors, &[]);
    let accessors = accessors! {invalidation::DeviceTlbInvalidate;
        "Type" => type_low with_type_low,
        "PFSID[3:0]" => pfsid_low with_pfsid_low,
        "MIP" => mip with_mip,
        "SID" => sid with_sid,
        "PFSID[15:4]" => pfsid_high with_pfsid_high,
    };
    hold(&golden::DEV_TLB_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::DeviceTlbPages;
        "S" => s with_s,
        "ADDR" => addr with_addr,
    };
    hold(&golden::DEV_TLB_INV, 1, !0, accessors, &[]);
    let accessors = accessors! {invalidation::PasidDeviceTlbInvalidate;
        "Type" => type_low with_type_low,
        "MIP" => mip with_mip,
        "PFSID[3:0]" => pfsid_low with_pfsid_low,
        "SID" => sid with_sid,
        "PASID" => pasid with_pasid,
        "PFSID[15:4]" => pfsid_high with_pfsid_high,
    };
    hold(&golden::P_DEV_TLB_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::PasidDeviceTlbPages;
        "GI" => gi with_gi,
        "S" => s with_s,
        "ADDR" => addr with_addr,
    };
    hold(&golden::P_DEV_TLB_INV, 1, !0, accessors, &[]);
    let accessors = accessors! {invalidation::InterruptInvalidate;
        "Type" => type_low with_type_low,
        "G" => g with_g,
        "IM" => im with_im,
        "IIDX" => iidx with_iidx,
    };
    hold(&golden::IEC_INV, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::WaitWord0;
        "Type" => type_low with_type_low,
        "IF" => interrupt_flag with_interrupt_flag,
        "SW" => sw with_sw,
        "FN" => fence with_fence,
        "PD" => pd with_pd,
        "Status Data" => status_data with_status_data,
    };
    hold(&golden::INV_WAIT, 0, !0, accessors, &[]);
    let accessors = accessors! {invalidation::WaitWord1;
        "Status Address" => status with_status,
    };
    hold(&golden::INV_WAIT, 1, !0, accessors, &[]);
}

#[test]
fn page_requests_and_responses_lie_where_the_book_says() {
    let accessors = accessors! {page_request::PageRequestWord0;
        "Type" => kind with_kind,
        "PP" => pp with_pp,
        "RID" => rid with_rid,
        "PASID" => pasid with_pasid,
        "EXR" => exr with_exr,
        "PMR" => pmr with_pmr,
    };
    hold(&golden::PAGE_REQ, 0, !0, accessors, &[]);
    let accessors = accessors! {page_request::PageRequestWord1;
        "RDR" => rdr with_rdr,
        "WRR" => wrr with_wrr,
        "LPIG" => lpig with_lpig,
        "PRGI" => prgi with_prgi,
        "ADDR" => addr with_addr,
    };
    hold(&golden::PAGE_REQ, 1, !0, accessors, &[]);
    let accessors = accessors! {page_request::PageGroupResponseWord0;
        "Type" => type_low with_type_low,
        "PP" => pp with_pp,
        "RC" => rc with_rc,
        "RID" => rid with_rid,
        "PASID" => pasid with_pasid,
    };
    hold(&golden::PAGE_GRP_RESP, 0, !0, accessors, &[]);
    let accessors = accessors! {page_request::PageGroupResponseWord1;
        "IGN" => ign with_ign,
        "PRGI" => prgi with_prgi,
    };
    hold(&golden::PAGE_GRP_RESP, 1, !0, accessors, &[]);
}

#[test]
fn fault_records_lie_where_the_book_says() {
    let accessors = accessors! {fault::FaultStatus;
        "PFO" => pfo with_pfo,
        "PPF" => ppf with_ppf,
        "IQE" => iqe with_iqe,
        "ICE" => ice with_ice,
        "ITE" => ite with_ite,
        "FRI" => fri with_fri,
    };
    hold(&golden::FSTS, 0, 0xffff_ffff, accessors, &[]);
    let accessors = accessors! {fault::FaultWord0;
        "FI" => fi with_fi,
    };
    hold(&golden::FRCD, 0, !0, accessors, &[]);
    let accessors = accessors! {fault::FaultWord1;
        "SID" => sid with_sid,
        "T2" => t2 with_t2,
        "PRIV" => privileged with_privileged,
        "EXE" => exe with_exe,
        "PP" => pp with_pp,
        "FR" => fr with_fr,
        "PV" => pv with_pv,
        "AT" => at with_at,
        "T1" => t1 with_t1,
        "F" => f with_f,
    };
    hold(&golden::FRCD, 1, !0, accessors, &[]);
}

#[test]
fn registers_lie_where_the_book_says() {
    let accessors = accessors! {registers::GlobalCommand;
        "CFI" => cfi with_cfi,
        "SIRTP" => sirtp with_sirtp,
        "IRE" => ire with_ire,
        "QIE" => qie with_qie,
        "WBF" => wbf with_wbf,
        "SRTP" => srtp with_srtp,
        "TE" => te with_te,
    };
    hold(&golden::GCMD, 0, 0xffff_ffff, accessors, &[]);
    let accessors = accessors! {registers::GlobalStatus;
        "CFIS" => cfis with_cfis,
        "IRTPS" => irtps with_irtps,
        "IRES" => ires with_ires,
        "QIES" => qies with_qies,
        "WBFS" => wbfs with_wbfs,
        "RTPS" => rtps with_rtps,
        "TES" => tes with_tes,
    };
    hold(&golden::GSTS, 0, 0xffff_ffff, accessors, &[]);
    let accessors = accessors! {registers::RootTableAddress;
        "SSIRWE" => ssirwe with_ssirwe,
        "TTM" => ttm with_ttm,
        "RTA" => rta with_rta,
    };
    hold(&golden::RTADDR, 0, !0, accessors, &[]);
    let accessors = accessors! {registers::ContextCommand;
        "DID" => did with_did,
        "SID" => sid with_sid,
        "FM" => fm with_fm,
        "CAIG" => caig with_caig,
        "CIRG" => cirg with_cirg,
        "ICC" => icc with_icc,
    };
    hold(&golden::CCMD, 0, !0, accessors, &[]);
    let accessors = accessors! {registers::IotlbCommand;
        "DID" => did with_did,
        "DW" => dw with_dw,
        "DR" => dr with_dr,
        "IAIG" => iaig with_iaig,
        "IIRG" => iirg with_iirg,
        "IVT" => ivt with_ivt,
    };
    hold(&golden::IOTLB, 0, !0, accessors, &[]);
    let accessors = accessors! {registers::InvalidateAddress;
        "AM" => am with_am,
        "IH" => ih with_ih,
        "ADDR" => addr with_addr,
    };
    hold(&golden::IVA, 0, !0, accessors, &[]);
    let accessors = accessors! {queue::InvalidationQueueAddress;
        "QS" => qs with_qs,
        "DW" => dw with_dw,
        "IQA" => iqa with_iqa,
    };
    hold(&golden::IQA, 0, !0, accessors, &[]);
    let accessors = accessors! {queue::InvalidationQueueErrorRecord;
        "IQEI" => iqei with_iqei,
        "ITESID" => itesid with_itesid,
        "ICESID" => icesid with_icesid,
    };
    hold(&golden::IQERCD, 0, !0, accessors, &[]);
    let accessors = accessors! {interrupt::InterruptTableAddress;
        "S" => s with_s,
        "EIME" => eime with_eime,
        "IRTA" => irta with_irta,
    };
    hold(&golden::IRTA, 0, !0, accessors, &[]);
    let accessors = accessors! {queue::PageRequestQueueAddress;
        "PQS" => pqs with_pqs,
        "PQA" => pqa with_pqa,
    };
    hold(&golden::PQA, 0, !0, accessors, &[]);
    let accessors = accessors! {queue::PageRequestStatus;
        "PPR" => ppr with_ppr,
        "PRO" => pro with_pro,
    };
    hold(&golden::PRS, 0, 0xffff_ffff, accessors, &[]);
}

#[test]
fn capabilities_lie_where_the_book_says() {
    let accessors = accessors! {capability::Capability;
        "ND" => nd with_nd,
        "RWBF" => rwbf with_rwbf,
        "PLMR" => plmr with_plmr,
        "PHMR" => phmr with_phmr,
        "CM" => cm with_cm,
        "SAGAW" => sagaw with_sagaw,
        "MGAW" => mgaw with_mgaw,
        "ZLR" => zlr with_zlr,
        "FRO" => fro with_fro,
        "SSLPS" => sslps with_sslps,
        "PSI" => psi with_psi,
        "NFR" => nfr with_nfr,
        "MAMV" => mamv with_mamv,
        "DWD" => dwd with_dwd,
        "DRD" => drd with_drd,
        "FS1GP" => fs1gp with_fs1gp,
        "PI" => pi with_pi,
        "FS5LP" => fs5lp with_fs5lp,
        "ECMDS" => ecmds with_ecmds,
        "ESIRTPS" => esirtps with_esirtps,
        "ESRTPS" => esrtps with_esrtps,
    };
    hold(&golden::CAP, 0, !0, accessors, &[]);
    let accessors = accessors! {capability::ExtendedCapability;
        "C" => c with_c,
        "QI" => qi with_qi,
        "DT" => dt with_dt,
        "IR" => ir with_ir,
        "EIM" => eim with_eim,
        "PT" => pt with_pt,
        "SC" => sc with_sc,
        "IRO" => iro with_iro,
        "MHMV" => mhmv with_mhmv,
        "MTS" => mts with_mts,
        "NEST" => nest with_nest,
        "PRS" => prs with_prs,
        "ERS" => ers with_ers,
        "SRS" => srs with_srs,
        "NWFS" => nwfs with_nwfs,
        "EAFS" => eafs with_eafs,
        "PSS" => pss with_pss,
        "PASID" => pasid with_pasid,
        "DIT" => dit with_dit,
        "PDS" => pds with_pds,
        "SMTS" => smts with_smts,
        "VCS" => vcs with_vcs,
        "SSADS" => ssads with_ssads,
        "SSTS" => ssts with_ssts,
        "FSTS" => fsts with_fsts,
        "SMPWCS" => smpwcs with_smpwcs,
        "RPS" => rps with_rps,
        "TDXCS" => tdxcs with_tdxcs,
        "PMS" => pms with_pms,
        "ADMS" => adms with_adms,
        "RPRIVS" => rprivs with_rprivs,
        "HPTS" => hpts with_hpts,
        "PTRS" => ptrs with_ptrs,
        "SSIRWS" => ssirws with_ssirws,
        "SMS" => sms with_sms,
        "HPT1GPS" => hpt1gps with_hpt1gps,
        "RDTS" => rdts with_rdts,
        "EIMER" => eimer with_eimer,
        "IRREQ" => irreq with_irreq,
    };
    hold(&golden::ECAP, 0, !0, accessors, &[]);
}

#[test]
fn registers_are_where_the_book_says() {
    use registers::*;
    let ours = [
        ("VER_REG", VER),
        ("CAP_REG", CAP),
        ("ECAP_REG", ECAP),
        ("GCMD_REG", GCMD),
        ("GSTS_REG", GSTS),
        ("RTADDR_REG", RTADDR),
        ("CCMD_REG", CCMD),
        ("FSTS_REG", FSTS),
        ("FECTL_REG", FECTL),
        ("FEDATA_REG", FEDATA),
        ("FEADDR_REG", FEADDR),
        ("FEUADDR_REG", FEUADDR),
        ("PMEN_REG", PMEN),
        ("PLMBASE_REG", PLMBASE),
        ("PLMLIMIT_REG", PLMLIMIT),
        ("PHMBASE_REG", PHMBASE),
        ("PHMLIMIT_REG", PHMLIMIT),
        ("IQH_REG", IQH),
        ("IQT_REG", IQT),
        ("IQA_REG", IQA),
        ("ICS_REG", ICS),
        ("IECTL_REG", IECTL),
        ("IEDATA_REG", IEDATA),
        ("IEADDR_REG", IEADDR),
        ("IEUADDR_REG", IEUADDR),
        ("IQERCD_REG", IQERCD),
        ("IRTA_REG", IRTA),
        ("PQH_REG", PQH),
        ("PQT_REG", PQT),
        ("PQA_REG", PQA),
        ("PRS_REG", PRS),
        ("PECTL_REG", PECTL),
        ("PEDATA_REG", PEDATA),
        ("PEADDR_REG", PEADDR),
        ("PEUADDR_REG", PEUADDR),
    ];
    assert_eq!(ours, golden::OFFSETS);
    // The status is masked with 96FFFFFFh before it is written as a command.
    assert_eq!(ONE_SHOT, 0x6900_0000);
}

#[test]
fn new_descriptors_have_their_type() {
    let kinds = [
        (invalidation::ContextInvalidate::new().into_bits(), golden::CC_INV),
        (invalidation::PasidCacheInvalidate::new().into_bits(), golden::PC_INV),
        (invalidation::IotlbInvalidate::new().into_bits(), golden::IOTLB_INV),
        (invalidation::PasidIotlbInvalidate::new().into_bits(), golden::P_IOTLB_INV),
        (invalidation::DeviceTlbInvalidate::new().into_bits(), golden::DEV_TLB_INV),
        (invalidation::PasidDeviceTlbInvalidate::new().into_bits(), golden::P_DEV_TLB_INV),
        (invalidation::InterruptInvalidate::new().into_bits(), golden::IEC_INV),
        (invalidation::WaitWord0::new().into_bits(), golden::INV_WAIT),
        (page_request::PageGroupResponseWord0::new().into_bits(), golden::PAGE_GRP_RESP),
    ];
    for (word, table) in kinds {
        assert_eq!(Some(word), table.code.map(u64::from), "{}", table.name);
        let found = invalidation::DescriptorWord0::from_bits(word | 0xffff_ffff_ffff_f1f0).descriptor_type();
        assert_eq!(Some(found), table.code, "{}", table.name);
    }
}

#[test]
fn whole_words_are_as_worked_out_from_the_book() {
    // A context entry for domain 7, 48 bits, its table at 1234_5000h.
    let low = context::ContextWord0::new().with_p(true).with_ssptptr_address(0x1234_5000);
    let high = context::ContextWord1::new().with_aw(0b010).with_did(7);
    assert_eq!((low.into_bits(), high.into_bits()), (0x1234_5001, 0x702));
    // Two pages of domain 5 at 7654_2000h, drained.
    let low = invalidation::IotlbInvalidate::new().with_g(0b11).with_dw(true).with_dr(true).with_did(5);
    let high = invalidation::IotlbPages::new().with_am(1).with_address(0x7654_2000);
    assert_eq!((low.into_bits(), high.into_bits()), (0x0005_00f2, 0x7654_2001));
    // A wait that writes 42h to 8000_0010h.
    let low = invalidation::WaitWord0::new().with_sw(true).with_status_data(0x42);
    let high = invalidation::WaitWord1::new().with_status_address(0x8000_0010);
    assert_eq!((low.into_bits(), high.into_bits()), (0x0000_0042_0000_0025, 0x8000_0010));
    // The device TLB of 00:1f.3, whose physical function is 12:06.5.
    let low = invalidation::DeviceTlbInvalidate::new().with_sid(0x00fb).with_pfsid(0x1235);
    assert_eq!(low.into_bits(), 0x1230_00fb_0000_5003);
    let low = invalidation::PasidDeviceTlbInvalidate::new().with_sid(0x00fb).with_pfsid(0x1235).with_pasid(9);
    assert_eq!(low.into_bits(), 0x1230_0009_00fb_5008);
    // Interrupt 8001h, remapped: handle 14:0 in bits 19:5, handle 15 in bit 2.
    let address = interrupt::RemappableAddress::new().with_shv(true).with_handle(0x8001);
    assert_eq!((address.into_bits(), address.handle()), (0xfee0_003c, 0x8001));
    // A write of 00:1f.3 to abcd_e000h with PASID 12345h met a first-stage entry that is not present.
    let record = fault::FaultWord1::from_bits(0x8123_4571_8000_00fb);
    assert_eq!((record.sid(), record.pp(), record.pv(), record.t1()), (0x00fb, true, 0x12345, false));
    assert_eq!(record.reason(), fault::FaultReason::FIRST_STAGE_NOT_PRESENT);
    assert_eq!(fault::FaultWord0::from_bits(0xabcd_e000).address(), 0xabcd_e000);
    assert_eq!(fault::FaultWord0::from_bits(0x1234_0000_0000_0000).interrupt_index(), 0x1234);
}

#[test]
fn whole_entries_are_the_words_of_the_scenes() {
    use golden::scenes::{LEGACY, SCALABLE, SCENES};
    let at = |name: &str, address: u64| -> &[u64] {
        let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
        scene.memory.iter().find(|(at, _)| *at == address).unwrap().1
    };
    let always = |memory: &'static [(u64, &'static [u64])], address| {
        memory.iter().find(|(at, _)| *at == address).unwrap().1
    };
    let root = context::RootWord0::new().with_p(true).with_ctp_address(0x1_1000).into_bits();
    assert_eq!(always(LEGACY, 0x1_0000), [root, 0]);
    let root = context::ScalableRootWord::new().with_p(true).with_ctp_address(0x1_1000).into_bits();
    assert_eq!(always(SCALABLE, 0x1_0000), [root, 0]);
    let low =
        context::ScalableContextWord0::new().with_p(true).with_dte(true).with_paside(true).with_pre(true);
    let low = low.with_pasiddirptr_address(0x1_2000).into_bits();
    let high = context::ScalableContextWord1::new().with_rid_pasid(0x86).into_bits();
    assert_eq!(always(SCALABLE, 0x1_1200), [low, high, 0, 0]);
    let directory = pasid::PasidDirectoryEntry::new().with_p(true).with_smptblptr_address(0x1_3000);
    assert_eq!(always(SCALABLE, 0x1_2010), [directory.into_bits()]);
    let context = |tt, table, aw, did| {
        let low = context::ContextWord0::new().with_p(true).with_tt(tt).with_ssptptr_address(table);
        [low.into_bits(), context::ContextWord1::new().with_aw(aw).with_did(did).into_bits()]
    };
    assert_eq!(at("a page of 4 KiB", 0x1_1100), context(0b00, 0x10_0000, 0b010, 5));
    assert_eq!(at("3 levels", 0x1_1100), context(0b00, 0x10_1000, 0b001, 5));
    assert_eq!(at("5 levels", 0x1_1100), context(0b00, 0x10_4000, 0b011, 5));
    assert_eq!(at("pass-through", 0x1_1100), context(0b10, 0, 0b011, 5));
    let entry = |pgtt, second: Option<u64>, did, first: Option<(u64, u8)>| {
        let mut low = pasid::PasidWord0::new().with_p(true).with_pgtt(pgtt);
        if let Some(table) = second {
            low = low.with_aw(0b010).with_ssptptr_address(table);
        }
        let tags = pasid::PasidWord1::new().with_did(did).with_pwsnp(true);
        let high = first.map_or(0, |(table, fspm)| {
            pasid::PasidWord2::new().with_fspm(fspm).with_fsptptr_address(table).into_bits()
        });
        [low.into_bits(), tags.into_bits(), high, 0, 0, 0, 0, 0]
    };
    let (first, second) = (Some((0x20_0000, pasid::FSPM_4_LEVELS)), Some(0x10_0000));
    let entries = [
        ("first stage, read", entry(pasid::PGTT_FIRST_STAGE, None, 6, first)),
        (
            "first stage, 5 levels",
            entry(pasid::PGTT_FIRST_STAGE, None, 6, Some((0x20_4000, pasid::FSPM_5_LEVELS))),
        ),
        ("second stage", entry(pasid::PGTT_SECOND_STAGE, second, 5, None)),
        ("nested", entry(pasid::PGTT_NESTED, second, 5, first)),
        ("pass-through by PASID", entry(pasid::PGTT_PASS_THROUGH, None, 6, None)),
    ];
    entries.iter().for_each(|(name, words)| assert_eq!(at(name, 0x1_3140), words, "{name}"));
}

#[test]
fn descriptors_of_the_queues_are_as_worked_out_from_the_book() {
    // PASID cache, PASID 85h of domain 6. IOTLB of a PASID, and of a page of it. IOTLB of a domain, and of a page.
    let cache = invalidation::PasidCacheInvalidate::new().with_g(0b01).with_did(6).with_pasid(0x85);
    assert_eq!(cache.into_bits(), 0x0000_0085_0006_0017);
    let of_pasid = |g| invalidation::PasidIotlbInvalidate::new().with_g(g).with_did(6).with_pasid(0x85);
    assert_eq!([0b10, 0b11].map(|g| of_pasid(g).into_bits()), [0x0000_0085_0006_0026, 0x0000_0085_0006_0036]);
    let of_domain = |g| invalidation::IotlbInvalidate::new().with_g(g).with_did(5);
    assert_eq!([0b10, 0b11].map(|g| of_domain(g).into_bits()), [0x0005_0022, 0x0005_0032]);
    // Context cache: globally; of domain 5; of 00:02.0 in domain 5.
    let context = |g, did, sid| invalidation::ContextInvalidate::new().with_g(g).with_did(did).with_sid(sid);
    let words = [context(0b01, 0, 0), context(0b10, 5, 0), context(0b11, 5, 0x10)];
    assert_eq!(words.map(|word| word.into_bits()), [0x11, 0x0005_0021, 0x0000_0010_0005_0031]);
    // Device TLB: a page of 00:02.0, everything of it, four pages of PASID 85h.
    let device = invalidation::DeviceTlbInvalidate::new().with_sid(0x10).into_bits();
    let page = invalidation::DeviceTlbPages::new().with_addr(0x7_6541).into_bits();
    let all = invalidation::DeviceTlbPages::new().with_s(true).with_addr(0x7_ffff_ffff_ffff).into_bits();
    assert_eq!((device, page, all), (0x0000_0010_0000_0003, 0x7654_1000, 0x7fff_ffff_ffff_f001));
    let device = invalidation::PasidDeviceTlbInvalidate::new().with_sid(0x10).with_pasid(0x85).into_bits();
    let pages = invalidation::PasidDeviceTlbPages::new().with_s(true).with_addr(0x7_6541).into_bits();
    assert_eq!((device, pages), (0x0000_0085_0010_0008, 0x7654_1800));
    // Interrupt entry cache: globally; eight entries from 28h on.
    let interrupts =
        |g, im, index| invalidation::InterruptInvalidate::new().with_g(g).with_im(im).with_iidx(index);
    let words = [interrupts(false, 0, 0), interrupts(true, 3, 0x28)].map(|word| word.into_bits());
    assert_eq!(words, [0x4, 0x0000_0028_1800_0014]);
    // A wait that writes, drains page requests and fences.
    let wait =
        invalidation::WaitWord0::new().with_sw(true).with_fence(true).with_pd(true).with_status_data(7);
    assert_eq!(wait.into_bits(), 0x0000_0007_0000_00e5);
    // A response to group 1Fh of PASID 85h of 00:02.0: invalid request. And the request, a read, the last of its group.
    let low =
        page_request::PageGroupResponseWord0::new().with_pp(true).with_rc(1).with_rid(0x10).with_pasid(0x85);
    let high = page_request::PageGroupResponseWord1::new().with_prgi(0x1f);
    assert_eq!((low.into_bits(), high.into_bits()), (0x0000_0085_0010_1019, 0xf8));
    let low = page_request::PageRequestWord0::from_bits(0x0000_0085_0010_0101);
    let high = page_request::PageRequestWord1::from_bits(0x7654_1910_00fd);
    assert_eq!((low.kind(), low.pp(), low.rid(), low.pasid()), (1, true, 0x10, 0x85));
    let flags = (high.rdr(), high.wrr(), high.lpig(), high.prgi(), high.addr());
    assert_eq!(flags, (true, false, true, 0x1f, 0x7_6541_9100));
    // Entries for interrupts: vector 41h of APIC 1 for 00:02.0; vector 42h of APIC 2 for buses 5 to 7.
    let entry = |vector, destination| {
        interrupt::IrteWord0::new().with_p(true).with_vector(vector).with_destination(destination).into_bits()
    };
    assert_eq!((entry(0x41, 0x100), entry(0x42, 0x200)), (0x0000_0100_0041_0001, 0x0000_0200_0042_0001));
    let who = |svt, sid| interrupt::IrteWord1::new().with_svt(svt).with_sid(sid).into_bits();
    assert_eq!((who(0b01, 0x10), who(0b10, 0x0507)), (0x4_0010, 0x8_0507));
}

#[test]
fn fault_records_of_the_scenes_are_read_as_what_they_say() {
    use golden::scenes::{Comes, SCENES};
    let mut read = 0;
    for scene in SCENES {
        let Comes::Recorded(words) = scene.comes else { continue };
        let record = fault::FaultWord1::from_bits(words[1]);
        let said = (record.sid(), record.pp(), record.t1(), record.f(), record.pv());
        let pasid = if scene.tagged { 0x85 } else { 0 };
        assert_eq!(said, (0x10, scene.tagged, !scene.write, true, pasid), "{}", scene.name);
        assert_eq!(
            fault::FaultWord0::from_bits(words[0]).address(),
            scene.address & !0xfff,
            "{}",
            scene.name
        );
        assert!(record.reason().code().is_some(), "{}", scene.name);
        read += 1;
    }
    assert!(read >= 10, "{read}");
}

#[test]
fn reasons_have_the_codes_and_the_qualification_of_the_book() {
    for &(number, code, qualified) in golden::REASONS {
        let reason = fault::FaultReason(number);
        assert_eq!((reason.code(), reason.qualified()), (Some(code), qualified), "{number:#x}");
    }
    // Table 15: 20h to 2Bh, of which 22h, 24h and 26h to 28h are qualified.
    let interrupts = (0x20..=0x2b).filter(|&number| fault::FaultReason(number).qualified());
    assert_eq!(interrupts.collect::<Vec<_>>(), [0x22, 0x24, 0x26, 0x27, 0x28]);
    let named = (0..=0xff).filter(|&number| fault::FaultReason(number).code().is_some()).count();
    assert_eq!(named, golden::REASONS.len() + 12);
}

/// The fields of a word that are not 0.
fn fields(word: u64, fields: &[Field]) -> Vec<(&'static str, u64)> {
    fields.iter().map(|field| (field.name, field.of(&[word]))).filter(|&(_, value)| value != 0).collect()
}

#[test]
fn leaves_of_the_formats_have_the_fields_of_the_book() {
    let leaf = |format: &dyn Fn(u8, Prot) -> u64, height, perms| format(height, Prot::cached(perms));
    let config = SecondConfig { snoop: true, accessed_dirty: true, ..SecondConfig::new(4) };
    let format = SecondStage::new(config).unwrap();
    let second = |height, prot| format.leaf(height, Pa::new(0), format.attributes(prot).unwrap());
    let found = fields(leaf(&second, 1, Perms::READ_WRITE), golden::SS_LEAF);
    assert_eq!(found, [("R", 1), ("W", 1), ("EMT", 6), ("PS", 1), ("A", 1), ("D", 1), ("SNP", 1)]);
    let found = fields(leaf(&second, 0, Perms::READ), golden::SS_LEAF);
    assert_eq!(found, [("R", 1), ("EMT", 6), ("A", 1), ("SNP", 1)]);
    let clean = format.with_marks(leaf(&second, 0, Perms::READ_WRITE), Marks::NONE);
    assert_eq!(fields(clean, golden::SS_LEAF), [("R", 1), ("W", 1), ("EMT", 6), ("SNP", 1)]);
    let format = FirstStage::new(FirstConfig { extended_accessed: true, ..FirstConfig::new(4) }).unwrap();
    let first = |height, prot| format.leaf(height, Pa::new(0), format.attributes(prot).unwrap());
    let found = fields(leaf(&first, 2, Perms::READ_WRITE), golden::FS_LEAF);
    let all = [("P", 1), ("R/W", 1), ("U/S", 1), ("A", 1), ("D", 1), ("PS", 1), ("EA", 1), ("XD", 1)];
    assert_eq!(found, all);
    let found = fields(first(0, Prot::device(Perms::READ | Perms::EXECUTE)), golden::FS_LEAF);
    assert_eq!(found, [("P", 1), ("U/S", 1), ("PWT", 1), ("PCD", 1), ("A", 1), ("EA", 1)]);
}
