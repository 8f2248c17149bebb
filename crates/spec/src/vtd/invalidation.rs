//! Descriptors of the invalidation queue.
//!
//! A descriptor has 128 bits, or 256 where IQA_REG.DW is set; one of two words is then followed by two of zeroes. Those for PASIDs, and page group
//! responses, are there in 256 bits only. `new()` of a first word has its type.
//!
//! Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface".
//! Not here: page group responses ([`page_request`](super::page_request)).

use bitfield_struct::bitfield;

pub use super::registers::{
    CONTEXT_DEVICE, CONTEXT_DOMAIN, CONTEXT_GLOBAL, IOTLB_DOMAIN, IOTLB_GLOBAL, IOTLB_PAGES,
};

/// Type of a context-cache invalidation.
///
/// Spec: VT-d 5.10, 6.5.2.1 "Context-cache Invalidate Descriptor".
pub const TYPE_CONTEXT: u8 = 0x1;
/// Type of an IOTLB invalidation.
pub const TYPE_IOTLB: u8 = 0x2;
/// Type of a device TLB invalidation.
pub const TYPE_DEVICE_TLB: u8 = 0x3;
/// Type of an interrupt entry cache invalidation.
pub const TYPE_INTERRUPT: u8 = 0x4;
/// Type of an invalidation wait.
pub const TYPE_WAIT: u8 = 0x5;
/// Type of a PASID-based IOTLB invalidation.
pub const TYPE_PASID_IOTLB: u8 = 0x6;
/// Type of a PASID-cache invalidation.
pub const TYPE_PASID_CACHE: u8 = 0x7;
/// Type of a PASID-based device TLB invalidation.
pub const TYPE_PASID_DEVICE_TLB: u8 = 0x8;
/// Type of a page group response.
pub const TYPE_PAGE_GROUP_RESPONSE: u8 = 0x9;

/// What every descriptor has in its first word.
///
/// Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface": bits 11:9 and 3:0.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DescriptorWord0 {
    /// Type\[3:0\].
    #[bits(4)]
    pub type_low: u8,
    #[bits(5)]
    __: u8,
    /// Type\[6:4\]: 0 in all that the book has.
    #[bits(3)]
    pub type_high: u8,
    #[bits(52)]
    __: u64,
}

impl DescriptorWord0 {
    /// The type: [`TYPE_CONTEXT`] and its kin.
    pub const fn descriptor_type(self) -> u8 {
        self.type_high() << 4 | self.type_low()
    }
}

/// Context-cache invalidation, bits 63:0; 127:64 are reserved.
///
/// Spec: VT-d 5.10, 6.5.2.1 "Context-cache Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_CONTEXT)]
    pub type_low: u8,
    /// G: [`CONTEXT_GLOBAL`] and its kin.
    #[bits(2)]
    pub g: u8,
    #[bits(10)]
    __: u16,
    /// DID: the domain; ignored in scalable mode.
    pub did: u16,
    /// SID: the source-id.
    pub sid: u16,
    /// FM: how the function number of SID is masked: 1 bit 2, 2 bits 2:1, 3 bits 2:0.
    #[bits(2)]
    pub fm: u8,
    #[bits(14)]
    __: u16,
}

/// G of a PASID-cache invalidation: one domain.
///
/// Spec: VT-d 5.10, 6.5.2.2 "PASID-cache Invalidate Descriptor", G.
pub const PASID_CACHE_DOMAIN: u8 = 0b00;
/// G of a PASID-cache invalidation: one PASID of a domain.
pub const PASID_CACHE_PASID: u8 = 0b01;
/// G of a PASID-cache invalidation: all of it.
pub const PASID_CACHE_GLOBAL: u8 = 0b11;

/// PASID-cache invalidation, bits 63:0; 255:64 are reserved.
///
/// Spec: VT-d 5.10, 6.5.2.2 "PASID-cache Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidCacheInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_PASID_CACHE)]
    pub type_low: u8,
    /// G: [`PASID_CACHE_DOMAIN`] and its kin.
    #[bits(2)]
    pub g: u8,
    #[bits(10)]
    __: u16,
    /// DID: the domain.
    pub did: u16,
    /// PASID.
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
}

/// IOTLB invalidation, bits 63:0.
///
/// Spec: VT-d 5.10, 6.5.2.3 "IOTLB Invalidate".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_IOTLB)]
    pub type_low: u8,
    /// G: [`IOTLB_GLOBAL`] and its kin.
    #[bits(2)]
    pub g: u8,
    /// DW: drain writes.
    pub dw: bool,
    /// DR: drain reads.
    pub dr: bool,
    __: u8,
    /// DID: the domain.
    pub did: u16,
    __: u32,
}

/// IOTLB invalidation and PASID-based IOTLB invalidation, bits 127:64.
///
/// Spec: VT-d 5.10, 6.5.2.3 "IOTLB Invalidate", 6.5.2.4 "PASID-based IOTLB Invalidate Descriptor (P_IOTLB)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbPages {
    /// AM: `1 << am` pages of 4 KiB.
    #[bits(6)]
    pub am: u8,
    /// IH: only leaves were changed.
    pub ih: bool,
    #[bits(5)]
    __: u8,
    /// Address: bits 63:12 of it, a multiple of the size that AM says.
    #[bits(52)]
    pub addr: u64,
}
page_pointer!(IotlbPages, addr, with_addr => address, with_address);

/// G of a PASID-based IOTLB invalidation: one PASID.
///
/// Spec: VT-d 5.10, 6.5.2.4 "PASID-based IOTLB Invalidate Descriptor (P_IOTLB)", G.
pub const PASID_IOTLB_PASID: u8 = 0b10;
/// G of a PASID-based IOTLB invalidation: pages of a PASID.
pub const PASID_IOTLB_PAGES: u8 = 0b11;

/// PASID-based IOTLB invalidation, bits 63:0. Bits 127:64 are [`IotlbPages`], 255:128 are reserved.
///
/// Spec: VT-d 5.10, 6.5.2.4 "PASID-based IOTLB Invalidate Descriptor (P_IOTLB)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidIotlbInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_PASID_IOTLB)]
    pub type_low: u8,
    /// G: [`PASID_IOTLB_PASID`] and its kin.
    #[bits(2)]
    pub g: u8,
    #[bits(10)]
    __: u16,
    /// DID: the domain.
    pub did: u16,
    /// PASID.
    #[bits(20)]
    pub pasid: u32,
    #[bits(12)]
    __: u16,
}

/// Device TLB invalidation, bits 63:0.
///
/// Spec: VT-d 5.10, 6.5.2.5 "Device-TLB Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTlbInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_DEVICE_TLB)]
    pub type_low: u8,
    __: u8,
    /// PFSID\[3:0\].
    #[bits(4)]
    pub pfsid_low: u8,
    /// MIP: how many invalidations the device takes at once; 0 for 32.
    #[bits(5)]
    pub mip: u8,
    #[bits(11)]
    __: u16,
    /// SID: the source-id.
    pub sid: u16,
    #[bits(4)]
    __: u8,
    /// PFSID\[15:4\].
    #[bits(12)]
    pub pfsid_high: u16,
}

impl DeviceTlbInvalidate {
    /// With the source-id of the physical function.
    pub const fn with_pfsid(self, pfsid: u16) -> Self {
        self.with_pfsid_low((pfsid & 0xf) as u8).with_pfsid_high(pfsid >> 4)
    }
}

/// Device TLB invalidation, bits 127:64.
///
/// Spec: VT-d 5.10, 6.5.2.5 "Device-TLB Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTlbPages {
    /// S: more than 4 KiB; how much is in the address, as ATS has it.
    pub s: bool,
    #[bits(11)]
    __: u16,
    /// Address: bits 63:12 of it.
    #[bits(52)]
    pub addr: u64,
}
page_pointer!(DeviceTlbPages, addr, with_addr => address, with_address);

/// PASID-based device TLB invalidation, bits 63:0.
///
/// Spec: VT-d 5.10, 6.5.2.6 "PASID-based-Device-TLB Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidDeviceTlbInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_PASID_DEVICE_TLB)]
    pub type_low: u8,
    /// MIP: how many invalidations the device takes at once; 0 for 32.
    #[bits(5)]
    pub mip: u8,
    #[bits(3)]
    __: u8,
    /// PFSID\[3:0\].
    #[bits(4)]
    pub pfsid_low: u8,
    /// SID: the source-id.
    pub sid: u16,
    /// PASID.
    #[bits(20)]
    pub pasid: u32,
    /// PFSID\[15:4\].
    #[bits(12)]
    pub pfsid_high: u16,
}

impl PasidDeviceTlbInvalidate {
    /// With the source-id of the physical function.
    pub const fn with_pfsid(self, pfsid: u16) -> Self {
        self.with_pfsid_low((pfsid & 0xf) as u8).with_pfsid_high(pfsid >> 4)
    }
}

/// PASID-based device TLB invalidation, bits 127:64; 255:128 are reserved.
///
/// Spec: VT-d 5.10, 6.5.2.6 "PASID-based-Device-TLB Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PasidDeviceTlbPages {
    /// GI: of all PASIDs.
    pub gi: bool,
    #[bits(10)]
    __: u16,
    /// S: more than 4 KiB; how much is in the address, as ATS has it.
    pub s: bool,
    /// Address: bits 63:12 of it.
    #[bits(52)]
    pub addr: u64,
}
page_pointer!(PasidDeviceTlbPages, addr, with_addr => address, with_address);

/// Interrupt entry cache invalidation, bits 63:0; 127:64 are reserved.
///
/// Spec: VT-d 5.10, 6.5.2.8 "Interrupt Entry Cache Invalidate Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptInvalidate {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_INTERRUPT)]
    pub type_low: u8,
    /// G: only the entries that IIDX and IM say.
    pub g: bool,
    #[bits(22)]
    __: u32,
    /// IM: `1 << im` entries.
    #[bits(5)]
    pub im: u8,
    /// IIDX: the first entry.
    pub iidx: u16,
    __: u16,
}

/// Invalidation wait, bits 63:0.
///
/// Spec: VT-d 5.10, 6.5.2.9 "Invalidation Wait Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct WaitWord0 {
    /// Type\[3:0\].
    #[bits(4, default = TYPE_WAIT)]
    pub type_low: u8,
    /// IF: an interrupt says that it is done.
    pub interrupt_flag: bool,
    /// SW: a write says that it is done.
    pub sw: bool,
    /// FN: descriptors behind it wait for it.
    pub fence: bool,
    /// PD: what says that it is done comes behind all page requests that had been received.
    pub pd: bool,
    #[bits(24)]
    __: u32,
    /// Status Data: the 32 bits that are written.
    pub status_data: u32,
}

/// Invalidation wait, bits 127:64.
///
/// Spec: VT-d 5.10, 6.5.2.9 "Invalidation Wait Descriptor".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct WaitWord1 {
    #[bits(2)]
    __: u8,
    /// Status Address: bits 63:2 of where the status is written.
    #[bits(62)]
    pub status: u64,
}

impl WaitWord1 {
    /// With Status Address for `address`, a multiple of 4.
    pub const fn with_status_address(self, address: u64) -> Self {
        self.with_status(address >> 2)
    }

    /// The address in Status Address.
    pub const fn status_address(self) -> u64 {
        self.status() << 2
    }
}
