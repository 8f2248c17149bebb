//! What Arm's MMU-500, an implementation of SMMUv2, has in registers that the architecture leaves to it.
//!
//! Spec: MMU-500 r2p4 TRM, ARM DDI 0517F, 3.5.1 "Auxiliary Configuration registers", 3.7 "Auxiliary Control registers".

use bitfield_struct::bitfield;

/// SMMU_ACR of an MMU-500.
///
/// Spec: MMU-500 r2p4 TRM, 3.5.1 "Auxiliary Configuration registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Acr {
    __: u8,
    /// SMTNMB_TLBEN: TLBs keep traffic that matches nothing and passes.
    pub smtnmb_tlben: bool,
    /// MMUDISB_TLBEN: TLBs keep traffic that passes because a bank's translation is off.
    pub mmudisb_tlben: bool,
    /// S2CRB_TLBEN: TLBs keep traffic that SMMU_S2CRn lets pass.
    pub s2crb_tlben: bool,
    #[bits(15)]
    __: u16,
    /// CACHE_LOCK: SMMU_CBn_ACTLR cannot be written. From r2p0 on.
    pub cache_lock: bool,
    #[bits(5)]
    __: u8,
}

/// SMMU_CBn_ACTLR of an MMU-500.
///
/// Spec: MMU-500 r2p4 TRM, 3.7 "Auxiliary Control registers".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Actlr {
    /// CMTLB: TLBs of the units at the devices keep this bank's translations.
    pub cmtlb: bool,
    /// CPRE: the next page is translated ahead.
    pub cpre: bool,
    #[bits(30)]
    __: u32,
}
