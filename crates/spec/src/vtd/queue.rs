//! Registers of the queues: invalidation and page requests.
//!
//! Heads and tails are offsets in bytes; the fields here are without the low bits that are always 0.
//!
//! Spec: VT-d 5.10, 11.4.9 "Invalidation Queue Interface", 11.4.11 "Page Request Queue Interface".

use bitfield_struct::bitfield;

/// IQH_REG and IQT_REG.
///
/// Spec: VT-d 5.10, 11.4.9.1 "Invalidation Queue Head Register", 11.4.9.2 "Invalidation Queue Tail Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidationQueueIndex {
    #[bits(4)]
    __: u8,
    /// QH or QT: bits 18:4 of the offset of a descriptor. Bit 4 is reserved where descriptors have 256 bits.
    #[bits(15)]
    pub offset: u16,
    #[bits(45)]
    __: u64,
}

/// IQA_REG.
///
/// Spec: VT-d 5.10, 11.4.9.3 "Invalidation Queue Address Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidationQueueAddress {
    /// QS: `1 << qs` pages of 4 KiB.
    #[bits(3)]
    pub qs: u8,
    __: u8,
    /// DW: descriptors have 256 bits, as scalable mode needs.
    pub dw: bool,
    /// IQA: bits 63:12 of the queue's address.
    #[bits(52)]
    pub iqa: u64,
}
page_pointer!(InvalidationQueueAddress, iqa, with_iqa => iqa_address, with_iqa_address);

/// ICS_REG.
///
/// Spec: VT-d 5.10, 11.4.9.4 "Invalidation Completion Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InvalidationCompletionStatus {
    /// IWC: a wait descriptor with IF has completed; written as 1 to clear.
    pub iwc: bool,
    #[bits(31)]
    __: u32,
}

/// IQERCD_REG.
///
/// Spec: VT-d 5.10, 11.4.9.9 "Invalidation Queue Error Record Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InvalidationQueueErrorRecord {
    /// IQEI: [`IQEI_TAIL`] and its kin, where FSTS_REG.IQE is set.
    #[bits(4)]
    pub iqei: u8,
    #[bits(28)]
    __: u32,
    /// ITESID: whose invalidation timed out, where FSTS_REG.ITE is set.
    pub itesid: u16,
    /// ICESID: whose completion was wrong, where FSTS_REG.ICE is set.
    pub icesid: u16,
}

/// IQEI: nothing is known.
pub const IQEI_NONE: u8 = 0;
/// IQEI: the tail is invalid.
pub const IQEI_TAIL: u8 = 1;
/// IQEI: a descriptor could not be fetched.
pub const IQEI_FETCH: u8 = 2;
/// IQEI: a descriptor has an invalid type.
pub const IQEI_TYPE: u8 = 3;
/// IQEI: a descriptor has reserved fields set.
pub const IQEI_RESERVED: u8 = 4;
/// IQEI: the width of descriptors does not suit the mode.
pub const IQEI_WIDTH: u8 = 5;
/// IQEI: the tail is not aligned to the width of descriptors.
pub const IQEI_ALIGNMENT: u8 = 6;
/// IQEI: RTADDR_REG.TTM is invalid.
pub const IQEI_TTM: u8 = 7;

/// Bytes of a page request descriptor.
///
/// Spec: VT-d 5.10, 7.4.1 "Handling of Page Requests": 256 bits.
pub const PAGE_REQUEST_BYTES: u64 = 32;

/// PQH_REG and PQT_REG.
///
/// Spec: VT-d 5.10, 11.4.11.1 "Page Request Queue Head Register", 11.4.11.2 "Page Request Queue Tail Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestQueueIndex {
    #[bits(5)]
    __: u8,
    /// PQH or PQT: bits 18:5 of the offset of a descriptor.
    #[bits(14)]
    pub offset: u16,
    #[bits(45)]
    __: u64,
}

/// PQA_REG.
///
/// Spec: VT-d 5.10, 11.4.11.3 "Page Request Queue Address Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestQueueAddress {
    /// PQS: `1 << pqs` pages of 4 KiB.
    #[bits(3)]
    pub pqs: u8,
    #[bits(9)]
    __: u16,
    /// PQA: bits 63:12 of the queue's address.
    #[bits(52)]
    pub pqa: u64,
}
page_pointer!(PageRequestQueueAddress, pqa, with_pqa => pqa_address, with_pqa_address);

/// PRS_REG. Both fields are written as 1 to clear.
///
/// Spec: VT-d 5.10, 11.4.11.4 "Page Request Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PageRequestStatus {
    /// PPR: there are page requests.
    pub ppr: bool,
    /// PRO: page requests were lost.
    pub pro: bool,
    #[bits(30)]
    __: u32,
}
