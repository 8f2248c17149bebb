//! Registers of `portcullis-spec` against the golden words: each offset, each getter and setter in both directions.

use portcullis_checks::accessors;
use portcullis_checks::golden::smmuv3::REGISTERS;
use portcullis_checks::golden::{Accessor, Register, hold};
use portcullis_spec::smmuv3::registers as spec;

fn golden(name: &str) -> &'static Register {
    REGISTERS.iter().find(|register| register.table.name == name).expect("the book has this register")
}

fn hold_register(name: &str, accessors: &[Accessor], left_out: &[&str]) {
    let register = golden(name);
    let all_ones = if register.bytes == 4 { 0xFFFF_FFFF } else { !0 };
    hold(&register.table, 0, all_ones, accessors, left_out);
}

#[test]
fn every_register_is_where_the_book_says() {
    let offsets = [
        ("IDR0", spec::IDR0),
        ("IDR1", spec::IDR1),
        ("IDR2", spec::IDR2),
        ("IDR3", spec::IDR3),
        ("IDR5", spec::IDR5),
        ("IIDR", spec::IIDR),
        ("AIDR", spec::AIDR),
        ("CR0", spec::CR0),
        ("CR0ACK", spec::CR0ACK),
        ("CR1", spec::CR1),
        ("CR2", spec::CR2),
        ("STATUSR", spec::STATUSR),
        ("GBPA", spec::GBPA),
        ("IRQ_CTRL", spec::IRQ_CTRL),
        ("IRQ_CTRLACK", spec::IRQ_CTRLACK),
        ("GERROR", spec::GERROR),
        ("GERRORN", spec::GERRORN),
        ("GERROR_IRQ_CFG0", spec::GERROR_IRQ_CFG0),
        ("GERROR_IRQ_CFG1", spec::GERROR_IRQ_CFG1),
        ("GERROR_IRQ_CFG2", spec::GERROR_IRQ_CFG2),
        ("STRTAB_BASE", spec::STRTAB_BASE),
        ("STRTAB_BASE_CFG", spec::STRTAB_BASE_CFG),
        ("CMDQ_BASE", spec::CMDQ_BASE),
        ("CMDQ_PROD", spec::CMDQ_PROD),
        ("CMDQ_CONS", spec::CMDQ_CONS),
        ("EVENTQ_BASE", spec::EVENTQ_BASE),
        ("EVENTQ_IRQ_CFG0", spec::EVENTQ_IRQ_CFG0),
        ("EVENTQ_IRQ_CFG1", spec::EVENTQ_IRQ_CFG1),
        ("EVENTQ_IRQ_CFG2", spec::EVENTQ_IRQ_CFG2),
        ("PRIQ_BASE", spec::PRIQ_BASE),
        ("PRIQ_IRQ_CFG0", spec::PRIQ_IRQ_CFG0),
        ("PRIQ_IRQ_CFG1", spec::PRIQ_IRQ_CFG1),
        ("PRIQ_IRQ_CFG2", spec::PRIQ_IRQ_CFG2),
        ("EVENTQ_PROD", spec::EVENTQ_PROD),
        ("EVENTQ_CONS", spec::EVENTQ_CONS),
        ("PRIQ_PROD", spec::PRIQ_PROD),
        ("PRIQ_CONS", spec::PRIQ_CONS),
    ];
    for (name, offset) in offsets {
        assert_eq!(offset as u64, golden(name).offset, "{name}");
    }
    for register in REGISTERS {
        let held = offsets.iter().any(|(name, _)| *name == register.table.name);
        assert!(held, "{} is not held against the table", register.table.name);
    }
}

#[test]
fn idr0_lies_where_the_book_says() {
    let accessors = accessors! {spec::Idr0;
        "S2P" => s2p with_s2p,
        "S1P" => s1p with_s1p,
        "TTF" => ttf with_ttf,
        "COHACC" => cohacc with_cohacc,
        "BTM" => btm with_btm,
        "HTTU" => httu with_httu,
        "DORMHINT" => dormhint with_dormhint,
        "Hyp" => hyp with_hyp,
        "ATS" => ats with_ats,
        "NS1ATS" => ns1ats with_ns1ats,
        "ASID16" => asid16 with_asid16,
        "MSI" => msi with_msi,
        "SEV" => sev with_sev,
        "ATOS" => atos with_atos,
        "PRI" => pri with_pri,
        "VMW" => vmw with_vmw,
        "VMID16" => vmid16 with_vmid16,
        "CD2L" => cd2l with_cd2l,
        "VATOS" => vatos with_vatos,
        "TTENDIAN" => ttendian with_ttendian,
        "ATSRECERR" => atsrecerr with_atsrecerr,
        "STALL_MODEL" => stall_model with_stall_model,
        "TERM_MODEL" => term_model with_term_model,
        "ST_LEVEL" => st_level with_st_level,
        "RME_IMPL" => rme_impl with_rme_impl,
    };
    hold_register("IDR0", accessors, &[]);
}

#[test]
fn idr1_lies_where_the_book_says() {
    let accessors = accessors! {spec::Idr1;
        "SIDSIZE" => sidsize with_sidsize,
        "SSIDSIZE" => ssidsize with_ssidsize,
        "PRIQS" => priqs with_priqs,
        "EVENTQS" => eventqs with_eventqs,
        "CMDQS" => cmdqs with_cmdqs,
        "ATTR_PERMS_OVR" => attr_perms_ovr with_attr_perms_ovr,
        "ATTR_TYPES_OVR" => attr_types_ovr with_attr_types_ovr,
        "REL" => rel with_rel,
        "QUEUES_PRESET" => queues_preset with_queues_preset,
        "TABLES_PRESET" => tables_preset with_tables_preset,
        "ECMDQ" => ecmdq with_ecmdq,
    };
    hold_register("IDR1", accessors, &[]);
}

#[test]
fn idr3_and_idr5_lie_where_the_book_says() {
    let idr3 = accessors! {spec::Idr3;
        "HAD" => had with_had,
        "PBHA" => pbha with_pbha,
        "XNX" => xnx with_xnx,
        "PPS" => pps with_pps,
        "MPAM" => mpam with_mpam,
        "FWB" => fwb with_fwb,
        "STT" => stt with_stt,
        "RIL" => ril with_ril,
        "BBML" => bbml with_bbml,
        "E0PD" => e0pd with_e0pd,
        "PTWNNC" => ptwnnc with_ptwnnc,
        "DPT" => dpt with_dpt,
        "PASIDTT" => pasidtt with_pasidtt,
        "EPAN" => epan with_epan,
        "S1PI" => s1pi with_s1pi,
        "S2PI" => s2pi with_s2pi,
        "S2PO" => s2po with_s2po,
        "THE" => the with_the,
        "MTEPERM" => mteperm with_mteperm,
        "AIE" => aie with_aie,
    };
    hold_register("IDR3", idr3, &[]);
    let idr5 = accessors! {spec::Idr5;
        "OAS" => oas with_oas,
        "GRAN4K" => gran4k with_gran4k,
        "GRAN16K" => gran16k with_gran16k,
        "GRAN64K" => gran64k with_gran64k,
        "DS" => ds with_ds,
        "D128" => d128 with_d128,
        "VAX" => vax with_vax,
        "STALL_MAX" => stall_max with_stall_max,
    };
    hold_register("IDR5", idr5, &[]);
    let aidr = accessors! {spec::Aidr;
        "ArchMinorRev" => arch_minor_rev with_arch_minor_rev,
        "ArchMajorRev" => arch_major_rev with_arch_major_rev,
    };
    hold_register("AIDR", aidr, &[]);
}

#[test]
fn control_registers_lie_where_the_book_says() {
    let cr0 = accessors! {spec::Cr0;
        "SMMUEN" => smmuen with_smmuen,
        "PRIQEN" => priqen with_priqen,
        "EVENTQEN" => eventqen with_eventqen,
        "CMDQEN" => cmdqen with_cmdqen,
        "ATSCHK" => atschk with_atschk,
        "VMW" => vmw with_vmw,
        "DPT_WALK_EN" => dpt_walk_en with_dpt_walk_en,
    };
    hold_register("CR0", cr0, &[]);
    hold_register("CR0ACK", cr0, &[]);
    let cr1 = accessors! {spec::Cr1;
        "QUEUE_IC" => queue_ic with_queue_ic,
        "QUEUE_OC" => queue_oc with_queue_oc,
        "QUEUE_SH" => queue_sh with_queue_sh,
        "TABLE_IC" => table_ic with_table_ic,
        "TABLE_OC" => table_oc with_table_oc,
        "TABLE_SH" => table_sh with_table_sh,
    };
    hold_register("CR1", cr1, &[]);
    let cr2 = accessors! {spec::Cr2;
        "E2H" => e2h with_e2h,
        "RECINVSID" => recinvsid with_recinvsid,
        "PTM" => ptm with_ptm,
        "REC_CFG_ATS" => rec_cfg_ats with_rec_cfg_ats,
    };
    hold_register("CR2", cr2, &[]);
    let gbpa = accessors! {spec::Gbpa;
        "MemAttr" => mem_attr with_mem_attr,
        "MTCFG" => mtcfg with_mtcfg,
        "ALLOCCFG" => alloccfg with_alloccfg,
        "SHCFG" => shcfg with_shcfg,
        "PRIVCFG" => privcfg with_privcfg,
        "INSTCFG" => instcfg with_instcfg,
        "ABORT" => abort with_abort,
        "Update" => update with_update,
    };
    hold_register("GBPA", gbpa, &[]);
}

#[test]
fn interrupts_and_errors_lie_where_the_book_says() {
    let irq_ctrl = accessors! {spec::IrqCtrl;
        "GERROR_IRQEN" => gerror_irqen with_gerror_irqen,
        "PRIQ_IRQEN" => priq_irqen with_priq_irqen,
        "EVENTQ_IRQEN" => eventq_irqen with_eventq_irqen,
    };
    hold_register("IRQ_CTRL", irq_ctrl, &[]);
    hold_register("IRQ_CTRLACK", irq_ctrl, &[]);
    let gerror = accessors! {spec::Gerror;
        "CMDQ_ERR" => cmdq_err with_cmdq_err,
        "EVENTQ_ABT_ERR" => eventq_abt_err with_eventq_abt_err,
        "PRIQ_ABT_ERR" => priq_abt_err with_priq_abt_err,
        "MSI_CMDQ_ABT_ERR" => msi_cmdq_abt_err with_msi_cmdq_abt_err,
        "MSI_EVENTQ_ABT_ERR" => msi_eventq_abt_err with_msi_eventq_abt_err,
        "MSI_PRIQ_ABT_ERR" => msi_priq_abt_err with_msi_priq_abt_err,
        "MSI_GERROR_ABT_ERR" => msi_gerror_abt_err with_msi_gerror_abt_err,
        "SFM_ERR" => sfm_err with_sfm_err,
        "CMDQP_ERR" => cmdqp_err with_cmdqp_err,
        "DPT_ERR" => dpt_err with_dpt_err,
    };
    hold_register("GERROR", gerror, &[]);
    hold_register("GERRORN", gerror, &[]);
    let cfg0 = accessors! {spec::IrqCfg0; "ADDR" => addr with_addr,};
    let cfg2 = accessors! {spec::IrqCfg2; "MemAttr" => mem_attr with_mem_attr, "SH" => sh with_sh,};
    for queue in ["GERROR", "EVENTQ", "PRIQ"] {
        hold_register(&format!("{queue}_IRQ_CFG0"), cfg0, &[]);
    }
    hold_register("GERROR_IRQ_CFG2", cfg2, &[]);
    hold_register("EVENTQ_IRQ_CFG2", cfg2, &[]);
    let priq_cfg2 = accessors! {spec::IrqCfg2;
        "MemAttr" => mem_attr with_mem_attr, "SH" => sh with_sh, "LO" => lo with_lo,
    };
    hold_register("PRIQ_IRQ_CFG2", priq_cfg2, &[]);
}

#[test]
fn the_stream_table_registers_lie_where_the_book_says() {
    let base = accessors! {spec::StrtabBase; "ADDR" => addr with_addr, "RA" => ra with_ra,};
    hold_register("STRTAB_BASE", base, &[]);
    let cfg = accessors! {spec::StrtabBaseCfg;
        "LOG2SIZE" => log2size with_log2size,
        "SPLIT" => split with_split,
        "FMT" => fmt with_fmt,
    };
    hold_register("STRTAB_BASE_CFG", cfg, &[]);
}

#[test]
fn queue_registers_lie_where_the_book_says() {
    let input = accessors! {spec::QueueBase;
        "LOG2SIZE" => log2size with_log2size, "ADDR" => addr with_addr, "RA" => allocate with_allocate,
    };
    hold_register("CMDQ_BASE", input, &[]);
    let output = accessors! {spec::QueueBase;
        "LOG2SIZE" => log2size with_log2size, "ADDR" => addr with_addr, "WA" => allocate with_allocate,
    };
    hold_register("EVENTQ_BASE", output, &[]);
    hold_register("PRIQ_BASE", output, &[]);
    hold_register("CMDQ_PROD", accessors! {spec::QueueIndex; "WR" => index with_index,}, &[]);
    hold_register("CMDQ_CONS", accessors! {spec::CmdqCons; "RD" => rd with_rd, "ERR" => err with_err,}, &[]);
    let prod = accessors! {spec::QueueIndex; "WR" => index with_index, "OVFLG" => overflow with_overflow,};
    let cons = accessors! {spec::QueueIndex; "RD" => index with_index, "OVACKFLG" => overflow with_overflow,};
    for (name, accessors) in
        [("EVENTQ_PROD", prod), ("EVENTQ_CONS", cons), ("PRIQ_PROD", prod), ("PRIQ_CONS", cons)]
    {
        hold_register(name, accessors, &[]);
    }
}

/// Identification and enables of an SMMU that shares, whole: typed by hand.
#[test]
fn registers_of_shared_memory_read_as_they_were_meant() {
    // S1P, TTF 0b10, COHACC, BTM, HTTU 0b10, Hyp, ATS, ASID16, PRI, CD2L, TTENDIAN 0b10, STALL_MODEL 0b10, TERM_MODEL, ST_LEVEL 0b01.
    let idr0 = spec::Idr0::from_bits(0x0E49_16BA);
    assert!(
        idr0.s1p() && !idr0.s2p() && idr0.cohacc() && idr0.btm() && idr0.hyp() && idr0.ats() && idr0.pri()
    );
    assert!(idr0.asid16() && idr0.cd2l() && idr0.term_model() && !idr0.ns1ats() && !idr0.atsrecerr());
    assert_eq!((idr0.httu(), idr0.ttf(), idr0.ttendian()), (0b10, 0b10, 0b10));
    assert_eq!((idr0.stall_model(), idr0.st_level()), (spec::STALL_MODEL_FORCED, spec::ST_LEVEL_2));
    // SIDSIZE 16, SSIDSIZE 20, PRIQS 19, EVENTQS 7, CMDQS 8.
    let idr1 = spec::Idr1::from_bits(0x0107_9D10);
    assert_eq!((idr1.sidsize(), idr1.ssidsize(), idr1.priqs()), (16, 20, 19));
    assert_eq!((idr1.eventqs(), idr1.cmdqs()), (7, 8));
    // PPS is bit 5 of IDR3; STALL_MAX the upper half of IDR5.
    assert_eq!(spec::Idr3::new().with_pps(true).into_bits(), 0x0000_0020);
    assert_eq!(spec::Idr5::from_bits(0x0040_0000).stall_max(), 64);
    // SMMUEN, PRIQEN, EVENTQEN, CMDQEN, ATSCHK.
    let cr0 = spec::Cr0::new().with_smmuen(true).with_eventqen(true).with_cmdqen(true);
    assert_eq!(cr0.with_priqen(true).with_atschk(true).into_bits(), 0x0000_001F);
    // E2H and RECINVSID, hearing broadcasts; PTM is bit 2, REC_CFG_ATS bit 3.
    assert_eq!(spec::Cr2::new().with_e2h(true).with_recinvsid(true).into_bits(), 0x0000_0003);
    assert_eq!(spec::Cr2::new().with_ptm(true).with_rec_cfg_ats(true).into_bits(), 0x0000_000C);
    // GERROR_IRQEN, PRIQ_IRQEN, EVENTQ_IRQEN.
    assert_eq!(spec::IrqCtrl::from_bits(0x0000_0002), spec::IrqCtrl::new().with_priq_irqen(true));
    // 128 requests at 0x8001_0800, write-allocate; an index of 0x85 that acknowledges an overflow.
    let base = spec::QueueBase::new().with_log2size(7).with_addr(0x8001_0800 >> 5).with_allocate(true);
    assert_eq!(base.into_bits(), 0x4000_0000_8001_0807);
    assert_eq!(spec::QueueIndex::new().with_index(0x85).with_overflow(true).into_bits(), 0x8000_0085);
}

#[test]
fn named_values_of_registers_are_the_books() {
    // 6.3.1 "SMMU_IDR0", TTENDIAN, STALL_MODEL, ST_LEVEL.
    assert_eq!([spec::TTENDIAN_MIXED, spec::TTENDIAN_LITTLE, spec::TTENDIAN_BIG], [0b00, 0b10, 0b11]);
    assert_eq!(
        [spec::STALL_MODEL_BOTH, spec::STALL_MODEL_TERMINATE, spec::STALL_MODEL_FORCED],
        [0b00, 0b01, 0b10]
    );
    assert_eq!([spec::ST_LEVEL_LINEAR, spec::ST_LEVEL_2], [0b00, 0b01]);
    // 6.3.25 "SMMU_STRTAB_BASE_CFG", FMT.
    assert_eq!([spec::STRTAB_LINEAR, spec::STRTAB_2_LEVEL], [0b00, 0b01]);
    // 7.1 "Command queue errors".
    assert_eq!(
        [spec::CERROR_NONE, spec::CERROR_ILL, spec::CERROR_ABT, spec::CERROR_ATC_INV_SYNC],
        [0x00, 0x01, 0x02, 0x03]
    );
}
