//! Extended capabilities that decide about isolation and translation: ACS, ARI, ATS, PASID, page requests; and what ends virtual functions.
//!
//! Offsets are from the start of the capability.

use bitfield_struct::bitfield;

/// Access control services: [`AcsCapability`], 16 bits.
pub const ACS_CAPABILITY: u16 = 0x04;
/// Access control services: [`AcsControl`], 16 bits.
pub const ACS_CONTROL: u16 = 0x06;
/// Alternative routing-id interpretation: [`AriCapability`], 16 bits.
pub const ARI_CAPABILITY: u16 = 0x04;
/// Address translation services: [`AtsCapability`], 16 bits.
pub const ATS_CAPABILITY: u16 = 0x04;
/// Address translation services: [`AtsControl`], 16 bits.
pub const ATS_CONTROL: u16 = 0x06;
/// Process address space ids: [`PasidCapability`], 16 bits.
pub const PASID_CAPABILITY: u16 = 0x04;
/// Process address space ids: [`PasidControl`], 16 bits.
pub const PASID_CONTROL: u16 = 0x06;
/// Page requests: [`PriControl`], 16 bits. The status after it has bits that are cleared by writing ones.
pub const PRI_CONTROL: u16 = 0x04;
/// Page requests: [`PriStatus`], 16 bits.
pub const PRI_STATUS: u16 = 0x06;
/// Page requests: how many the function can have under way at most, 32 bits, read-only.
pub const PRI_CAPACITY: u16 = 0x08;
/// Page requests: how many the function may have under way, 32 bits.
pub const PRI_ALLOCATION: u16 = 0x0c;
/// Single-root I/O virtualization: the control register, 16 bits, whose zeroes end all virtual functions. The status after it has bits that are cleared by
/// writing ones.
///
/// Spec: PCIe 6.0, 9.3.3.3 "SR-IOV Control Register (Offset 08h)".
pub const SR_IOV_CONTROL: u16 = 0x08;

/// What a port or function can keep apart.
///
/// Spec: PCIe 6.0, 7.7.11.2 "ACS Capability Register (Offset 04h)"; 6.12 "Access Control Services (ACS)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AcsCapability {
    /// Bit 0: checks that requests from below carry a bus number from below.
    pub source_validation: bool,
    /// Bit 1: blocks requests that claim to be translated.
    pub translation_blocking: bool,
    /// Bit 2: sends peer-to-peer requests up.
    pub request_redirect: bool,
    /// Bit 3: sends peer-to-peer completions up.
    pub completion_redirect: bool,
    /// Bit 4: sends requests that would be turned around at this port up.
    pub upstream_forwarding: bool,
    /// Bit 5: can block peer-to-peer requests by target.
    pub egress_control: bool,
    /// Bit 6: lets translated requests go directly in spite of redirection.
    pub direct_translated: bool,
    /// Bit 7: has the enhanced controls.
    pub enhanced: bool,
    /// Bits 15:8: bits in the egress control vector.
    pub egress_vector_size: u8,
}

/// What a port or function keeps apart.
///
/// Spec: PCIe 6.0, 7.7.11.3 "ACS Control Register (Offset 06h)"; 6.12 "Access Control Services (ACS)".
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AcsControl {
    /// Bit 0: checks that requests from below carry a bus number from below.
    pub source_validation: bool,
    /// Bit 1: blocks requests that claim to be translated.
    pub translation_blocking: bool,
    /// Bit 2: sends peer-to-peer requests up.
    pub request_redirect: bool,
    /// Bit 3: sends peer-to-peer completions up.
    pub completion_redirect: bool,
    /// Bit 4: sends requests that would be turned around at this port up.
    pub upstream_forwarding: bool,
    /// Bit 5: blocks peer-to-peer requests by target.
    pub egress_control: bool,
    /// Bit 6: lets translated requests go directly in spite of redirection.
    pub direct_translated: bool,
    /// Bit 7: blocks I/O requests from below.
    pub io_request_blocking: bool,
    /// Bits 9:8: what happens to requests to a downstream port's own memory.
    #[bits(2)]
    pub downstream_target: u8,
    /// Bits 11:10: what happens to requests to an upstream port's own memory.
    #[bits(2)]
    pub upstream_target: u8,
    /// Bit 12: sends requests up that no port claims.
    pub unclaimed_redirect: bool,
    #[bits(3)]
    __: u8,
}

/// How the functions of a device are found with 8-bit function numbers.
///
/// Spec: PCIe 6.0, 7.8.8 "ARI Extended Capability", ARI Capability Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AriCapability {
    /// Bit 0: functions are in groups for arbitration.
    pub mfvc_function_groups: bool,
    /// Bit 1: functions are in groups for egress control.
    pub acs_function_groups: bool,
    #[bits(6)]
    __: u8,
    /// Bits 15:8: the next function's number; 0 ends the list.
    pub next_function: u8,
}

/// What a function's translation cache can do.
///
/// Spec: PCIe 6.0, 10.5.1 "ATS Extended Capability", ATS Capability Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AtsCapability {
    /// Bits 4:0: how many invalidations it takes before it pushes back; 0 is 32.
    #[bits(5)]
    pub invalidate_queue_depth: u8,
    /// Bit 5: its requests are always page-aligned.
    pub page_aligned_request: bool,
    /// Bit 6: knows invalidations for all PASIDs at once.
    pub global_invalidate: bool,
    /// Bit 7: translation requests may have the relaxed ordering attribute.
    pub relaxed_ordering: bool,
    #[bits(8)]
    __: u8,
}

/// How a function's translation cache is used.
///
/// Spec: PCIe 6.0, 10.5.1 "ATS Extended Capability", ATS Control Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct AtsControl {
    /// Bits 4:0: the smallest translation has `4096 << this` bytes.
    #[bits(5)]
    pub smallest_translation_unit: u8,
    #[bits(10)]
    __: u16,
    /// Bit 15: on.
    pub enable: bool,
}

/// What a function can do with process address space ids.
///
/// Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability", PASID Capability Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct PasidCapability {
    __: bool,
    /// Bit 1: can ask for execute permission.
    pub execute: bool,
    /// Bit 2: can send requests in privileged mode.
    pub privileged: bool,
    #[bits(5)]
    __: u8,
    /// Bits 12:8: how many bits its PASIDs have, 0 to 20.
    #[bits(5)]
    pub max_width: u8,
    #[bits(3)]
    __: u8,
}

/// How a function uses process address space ids.
///
/// Spec: PCIe 6.0, 7.8.9 "PASID Extended Capability", PASID Control Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct PasidControl {
    /// Bit 0: on.
    pub enable: bool,
    /// Bit 1: may ask for execute permission.
    pub execute: bool,
    /// Bit 2: may send requests in privileged mode.
    pub privileged: bool,
    #[bits(13)]
    __: u16,
}

/// How a function sends page requests.
///
/// Spec: PCIe 6.0, 10.5.2 "Page Request Extended Capability Structure", Page Request Control Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct PriControl {
    /// Bit 0: on.
    pub enable: bool,
    /// Bit 1: forgets all that is under way; only while off.
    pub reset: bool,
    #[bits(14)]
    __: u16,
}

/// How a function's page requests are going.
///
/// Spec: PCIe 6.0, 10.5.2 "Page Request Extended Capability Structure", Page Request Status Register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct PriStatus {
    /// Bit 0: received a response of failure; cleared by writing 1.
    pub response_failure: bool,
    /// Bit 1: received a response to a group it does not know; cleared by writing 1.
    pub unexpected_group: bool,
    #[bits(6)]
    __: u8,
    /// Bit 8: has stopped; nothing more will be sent.
    pub stopped: bool,
    #[bits(6)]
    __: u8,
    /// Bit 15: responses must carry the PASID of the request.
    pub response_pasid_required: bool,
}
