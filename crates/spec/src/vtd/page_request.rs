//! Page requests, as the unit writes them, and page group responses, as the invalidation queue takes them.
//!
//! Spec: VT-d 5.10, 7.4.1.1 "Page Request Descriptor", 7.6.1 "Page Group Response Descriptor".

use bitfield_struct::bitfield;

use super::invalidation::TYPE_PAGE_GROUP_RESPONSE;

/// Type of a page request descriptor, the only one there is.
///
/// Spec: VT-d 5.10, 7.4.1.1 "Page Request Descriptor", Type.
pub const TYPE_PAGE_REQUEST: u8 = 0x01;

/// Page request, bits 63:0.
///
/// Spec: VT-d 5.10, 7.4.1.1 "Page Request Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestWord0 {
    /// Type: [`TYPE_PAGE_REQUEST`].
    pub kind: u8,
    /// PP: the request has a PASID.
    pub pp: bool,
    #[bits(7)]
    __: u8,
    /// RID: the requester-id.
    pub rid: u16,
    /// PASID; undefined where PP is clear.
    #[bits(20)]
    pub pasid: u32,
    /// EXR: the page is to be executed.
    pub exr: bool,
    /// PMR: the request is privileged.
    pub pmr: bool,
    #[bits(10)]
    __: u16,
}

/// Page request, bits 127:64; 255:128 are reserved.
///
/// Spec: VT-d 5.10, 7.4.1.1 "Page Request Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageRequestWord1 {
    /// RDR: the page is to be read.
    pub rdr: bool,
    /// WRR: the page is to be written.
    pub wrr: bool,
    /// LPIG: the last request of its group, which wants a response.
    pub lpig: bool,
    /// PRGI: the group.
    #[bits(9)]
    pub prgi: u16,
    /// Address: bits 63:12 of it.
    #[bits(52)]
    pub addr: u64,
}
page_pointer!(PageRequestWord1, addr, with_addr => address, with_address);

/// RC: all requests of the group were served.
///
/// Spec: VT-d 5.10, 7.6.1 "Page Group Response Descriptor", Table 32 "Response Codes".
pub const RESPONSE_SUCCESS: u8 = 0x0;
/// RC: a request of the group was not served.
pub const RESPONSE_INVALID: u8 = 0x1;
/// RC: the device stops making page requests.
pub const RESPONSE_FAILURE: u8 = 0xf;

/// Page group response, bits 63:0.
///
/// Spec: VT-d 5.10, 7.6.1 "Page Group Response Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageGroupResponseWord0 {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_PAGE_GROUP_RESPONSE)]
    pub type_low: u8,
    /// PP: as in the request.
    pub pp: bool,
    #[bits(7)]
    __: u8,
    /// RC: [`RESPONSE_SUCCESS`] and its kin.
    #[bits(4)]
    pub rc: u8,
    /// RID: as in the request.
    pub rid: u16,
    /// PASID: as in the request.
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
}

/// Page group response, bits 127:64; 255:128 are reserved.
///
/// Spec: VT-d 5.10, 7.6.1 "Page Group Response Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageGroupResponseWord1 {
    #[bits(2)]
    __: u8,
    /// IGN: ignored.
    pub ign: bool,
    /// PRGI: as in the request.
    #[bits(9)]
    pub prgi: u16,
    #[bits(52)]
    __: u64,
}
