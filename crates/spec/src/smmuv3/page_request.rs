//! Records of the PRI queue: pages that a device asks for.
//!
//! Spec: SMMUv3 H.a, 8 "Page request queue".

use bitfield_struct::bitfield;

/// Bytes of a record.
pub const PAGE_REQUEST_BYTES: u64 = 16;

/// The first word of a page request: who asks, and for what.
///
/// Spec: SMMUv3 H.a, 8 "Page request queue".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestWord0 {
    /// The StreamID.
    pub stream_id: u32,
    /// The SubstreamID; unknown where `ssv` is clear.
    #[bits(20)]
    pub substream_id: u32,
    #[bits(6)]
    __: u8,
    /// Permission asked for: privileged.
    pub privileged: bool,
    /// Permission asked for: execute.
    pub x: bool,
    /// Permission asked for: read.
    pub r: bool,
    /// Permission asked for: write.
    pub w: bool,
    /// The last request of its group.
    pub last: bool,
    /// The request has a SubstreamID.
    pub ssv: bool,
}

/// The second word of a page request: which group, which page.
///
/// Spec: SMMUv3 H.a, 8 "Page request queue".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestWord1 {
    /// PRGIndex: the group.
    #[bits(9)]
    pub prg_index: u16,
    #[bits(3)]
    __: u8,
    /// Bits 63:12 of the address.
    #[bits(52)]
    pub page: u64,
}
