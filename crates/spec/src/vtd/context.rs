//! Root and context entries, of legacy mode and of scalable mode.
//!
//! A root table has 256 entries, one for each bus. In legacy mode an entry leads to 256 context entries, one for each device and function; in scalable
//! mode to two tables of 128 larger ones.
//!
//! Spec: VT-d 5.10, 9.1 "Root Entry" to 9.4 "Scalable-Mode Context-Entry".

use bitfield_struct::bitfield;

/// Bytes of a root entry, in either mode.
pub const ROOT_BYTES: u64 = 16;
/// Bytes of a context entry of legacy mode.
pub const CONTEXT_BYTES: u64 = 16;
/// Bytes of a context entry of scalable mode.
pub const SCALABLE_CONTEXT_BYTES: u64 = 32;

/// Root entry, bits 63:0; 127:64 are reserved.
///
/// Spec: VT-d 5.10, 9.1 "Root Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootWord0 {
    /// P: present.
    pub p: bool,
    #[bits(11)]
    __: u16,
    /// CTP: bits 63:12 of the context table's address.
    #[bits(52)]
    pub ctp: u64,
}
page_pointer!(RootWord0, ctp, with_ctp => ctp_address, with_ctp_address);

/// Scalable-mode root entry: bits 63:0 for devices 0 to 15, and in the same layout bits 127:64 for devices 16 to 31.
///
/// Spec: VT-d 5.10, 9.2 "Scalable-mode Root Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ScalableRootWord {
    /// LP or UP: present.
    pub p: bool,
    #[bits(11)]
    __: u16,
    /// LCTP or UCTP: bits 63:12 of the context table's address.
    #[bits(52)]
    pub ctp: u64,
}
page_pointer!(ScalableRootWord, ctp, with_ctp => ctp_address, with_ctp_address);

/// TT: untranslated requests are translated; others are blocked.
///
/// Spec: VT-d 5.10, 9.3 "Context Entry", TT.
pub const TT_UNTRANSLATED: u8 = 0b00;
/// TT: untranslated requests are translated, and the device may have a TLB.
pub const TT_ATS: u8 = 0b01;
/// TT: untranslated requests pass.
pub const TT_PASS_THROUGH: u8 = 0b10;

/// Context entry, bits 63:0.
///
/// Spec: VT-d 5.10, 9.3 "Context Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextWord0 {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    /// [`TT_UNTRANSLATED`] and its kin.
    #[bits(2)]
    pub tt: u8,
    __: u8,
    /// SSPTPTR: bits 63:12 of the second-stage table's address.
    #[bits(52)]
    pub ssptptr: u64,
}
page_pointer!(ContextWord0, ssptptr, with_ssptptr => ssptptr_address, with_ssptptr_address);

/// Context entry, bits 127:64.
///
/// Spec: VT-d 5.10, 9.3 "Context Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextWord1 {
    /// AW: [`AW_39`](super::AW_39) and its kin; the largest there is where requests pass.
    #[bits(3)]
    pub aw: u8,
    /// IGN: software's.
    #[bits(4)]
    pub ign: u8,
    __: bool,
    /// DID: the domain-id.
    pub did: u16,
    #[bits(40)]
    __: u64,
}

/// Scalable-mode context entry, bits 63:0.
///
/// Spec: VT-d 5.10, 9.4 "Scalable-Mode Context-Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ScalableContextWord0 {
    /// P: present.
    pub p: bool,
    /// FPD: faults are not recorded; counts also where the entry is not present.
    pub fpd: bool,
    /// DTE: the device may have a TLB.
    pub dte: bool,
    /// PASIDE: requests with a PASID are processed.
    pub paside: bool,
    /// PRE: page requests are processed.
    pub pre: bool,
    /// HPTE: translated requests are looked up in the host permission table.
    pub hpte: bool,
    /// EPTR: translated requests may have a PASID.
    pub eptr: bool,
    #[bits(2)]
    __: u8,
    /// PDTS: the PASID directory has `1 << (pdts + 7)` entries.
    #[bits(3)]
    pub pdts: u8,
    /// PASIDDIRPTR: bits 63:12 of the PASID directory's address.
    #[bits(52)]
    pub pasiddirptr: u64,
}
page_pointer!(ScalableContextWord0, pasiddirptr, with_pasiddirptr => pasiddirptr_address, with_pasiddirptr_address);

/// Scalable-mode context entry, bits 127:64; 255:128 are reserved.
///
/// Spec: VT-d 5.10, 9.4 "Scalable-Mode Context-Entry".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ScalableContextWord1 {
    /// RID_PASID: the PASID of requests that have none.
    #[bits(20)]
    pub rid_pasid: u32,
    /// RID_PRIV: requests that have no PASID are privileged.
    pub rid_priv: bool,
    #[bits(43)]
    __: u64,
}
