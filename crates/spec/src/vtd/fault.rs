//! Faults: the status register, the records, and why.
//!
//! Spec: VT-d 5.10, 11.4.7 "Fault Reporting Interface", 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", 5.1.4.1 "Interrupt
//! Remapping Fault Conditions".

use bitfield_struct::bitfield;

/// Bytes of a fault recording register.
pub const FAULT_RECORD_BYTES: usize = 16;

/// FSTS_REG. All fields but FRI and PPF are written as 1 to clear.
///
/// Spec: VT-d 5.10, 11.4.7.1 "Fault Status Register".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStatus {
    /// PFO: faults were lost.
    pub pfo: bool,
    /// PPF: a record has F set.
    pub ppf: bool,
    #[bits(2)]
    __: u8,
    /// IQE: the invalidation queue has stopped at an error.
    pub iqe: bool,
    /// ICE: a device answered an invalidation wrongly.
    pub ice: bool,
    /// ITE: a device did not answer an invalidation.
    pub ite: bool,
    __: bool,
    /// FRI: the first record, where PPF is set.
    pub fri: u8,
    __: u16,
}

/// Fault record, bits 63:0.
///
/// Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FaultWord0 {
    #[bits(12)]
    __: u16,
    /// FI: bits 63:12 of the address; of an interrupt, the index in bits 63:48.
    #[bits(52)]
    pub fi: u64,
}
page_pointer!(FaultWord0, fi, with_fi => address, with_address);

impl FaultWord0 {
    /// The interrupt index, where the reason is one of an interrupt and has one.
    pub const fn interrupt_index(self) -> u16 {
        (self.into_bits() >> 48) as u16
    }
}

/// AT: an untranslated request.
///
/// Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]", AT.
pub const AT_UNTRANSLATED: u8 = 0b00;
/// AT: a translation request.
pub const AT_TRANSLATION: u8 = 0b01;
/// AT: a translated request.
pub const AT_TRANSLATED: u8 = 0b10;

/// Fault record, bits 127:64.
///
/// Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FaultWord1 {
    /// SID: who asked.
    pub sid: u16,
    #[bits(12)]
    __: u16,
    /// T2: with T1, a page request (T1 clear) or an atomic operation.
    pub t2: bool,
    /// PRIV: privileged, where PP is set.
    pub privileged: bool,
    /// EXE: to be executed, where PP is set.
    pub exe: bool,
    /// PP: the request had a PASID.
    pub pp: bool,
    /// FR: why, a [`FaultReason`].
    pub fr: u8,
    /// PV: the PASID, where PP is set.
    #[bits(20)]
    pub pv: u32,
    /// AT: [`AT_UNTRANSLATED`] and its kin.
    #[bits(2)]
    pub at: u8,
    /// T1: a read or an atomic operation.
    pub t1: bool,
    /// F: there is a fault here; written as 1 to clear.
    pub f: bool,
}

impl FaultWord1 {
    /// Why.
    pub const fn reason(self) -> FaultReason {
        FaultReason(self.fr())
    }
}

/// Why a request was blocked. Numbers that the book does not name are kept.
///
/// Spec: VT-d 5.10, 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", Table 30; 5.1.4.1 "Interrupt Remapping Fault
/// Conditions", Table 15.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultReason(pub u8);

/// One row: number, constant, the book's code of the condition, whether FPD can keep it from being recorded, and what it means.
macro_rules! reasons {
    ($($number:literal $name:ident $code:literal $qualified:literal $what:literal)*) => {
        impl FaultReason {
            $(#[doc = $what]
            pub const $name: Self = Self($number);)*

            /// The book's code of the condition, without its last part where several share a number; none for a number that it does not name.
            pub const fn code(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($number => $code,)*
                    _ => return None,
                })
            }

            /// Whether FPD in an entry can keep it from being recorded; false for a number that the book does not name.
            pub const fn qualified(self) -> bool {
                match self.0 {
                    $($number => $qualified,)*
                    _ => false,
                }
            }
        }
    };
}

reasons! {
    0x01 ROOT_NOT_PRESENT "LRT.2" false "The root entry is not present."
    0x02 CONTEXT_NOT_PRESENT "LCT.2" true "The context entry is not present."
    0x03 CONTEXT_INVALID "LCT.4" true "The context entry says what the unit cannot do, or its table cannot be read."
    0x04 ADDRESS_TOO_LARGE "LGN.1" true "The address is too large, in legacy mode."
    0x05 WRITE_DENIED "LGN.2" true "A write without permission, in legacy mode."
    0x06 READ_DENIED "LGN.3" true "A read without permission, in legacy mode."
    0x07 TABLE_ACCESS "LSS.1" true "A second-stage table cannot be read, in legacy mode."
    0x08 ROOT_ACCESS "LRT.1" false "The root table cannot be read."
    0x09 CONTEXT_ACCESS "LCT.1" false "The context table cannot be read."
    0x0a ROOT_RESERVED "LRT.3" false "The root entry has reserved bits set."
    0x0b CONTEXT_RESERVED "LCT.3" true "The context entry has reserved bits set."
    0x0c TABLE_RESERVED "LSS.2" true "A second-stage entry has reserved bits set, in legacy mode."
    0x0d CONTEXT_BLOCKS "LCT.5" true "The context entry blocks requests of this kind."
    0x0e OUTPUT_IN_INTERRUPT_WINDOW "LGN.4" true "The output address lies among interrupts, in legacy mode."
    0x20 INTERRUPT_RESERVED "20h" false "The interrupt request has reserved bits set."
    0x21 INTERRUPT_INDEX "21h" false "The interrupt index is too large."
    0x22 IRTE_NOT_PRESENT "22h" true "The interrupt remapping entry is not present."
    0x23 IRTE_ACCESS "23h" false "The interrupt remapping table cannot be read."
    0x24 IRTE_RESERVED "24h" true "The interrupt remapping entry has reserved bits set."
    0x25 INTERRUPT_COMPATIBILITY "25h" false "Interrupt requests of the compatibility format are blocked."
    0x26 INTERRUPT_SOURCE "26h" true "The requester may not use the interrupt remapping entry."
    0x27 POSTED_ACCESS "27h" true "The posted interrupt descriptor cannot be read."
    0x28 POSTED_RESERVED "28h" true "The posted interrupt descriptor has reserved bits set."
    0x29 INTERRUPT_MALFORMED "29h" false "A request into the interrupt window is no interrupt."
    0x2a INTERRUPT_MODE "2Ah" false "Extended interrupt mode is required and not enabled."
    0x2b INTERRUPT_REMAPPING_OFF "2Bh" false "Interrupt remapping is required and not enabled."
    0x30 ROOT_REGISTER "RTA.1" false "RTADDR_REG says what the unit cannot do."
    0x31 LEGACY_PASID "RTA.2" false "A request with PASID, in legacy mode."
    0x32 LEGACY_PAGE_REQUEST "RTA.3" false "A page request, in legacy mode."
    0x33 ABORTED "RTA.4" false "All requests are aborted."
    0x34 EXECUTE_REQUEST "RTA.5" false "A request to execute."
    0x38 SCALABLE_ROOT_ACCESS "SRT.1" false "The scalable-mode root table cannot be read."
    0x39 SCALABLE_ROOT_NOT_PRESENT "SRT.2" false "The scalable-mode root entry is not present."
    0x3a SCALABLE_ROOT_RESERVED "SRT.3" false "The scalable-mode root entry has reserved bits set."
    0x40 SCALABLE_CONTEXT_ACCESS "SCT.1" false "The scalable-mode context table cannot be read."
    0x41 SCALABLE_CONTEXT_NOT_PRESENT "SCT.2" true "The scalable-mode context entry is not present."
    0x42 SCALABLE_CONTEXT_RESERVED "SCT.3" true "The scalable-mode context entry has reserved bits set."
    0x43 SCALABLE_CONTEXT_INVALID "SCT.4" true "The scalable-mode context entry contradicts itself."
    0x44 DEVICE_TLB_OFF "SCT.5" true "A translation or translated request, where DTE is clear."
    0x45 PASID_OFF "SCT.6" true "A request with PASID, where PASIDE is clear."
    0x46 PASID_BEYOND_DIRECTORY "SCT.7" true "The PASID is larger than the directory."
    0x47 PAGE_REQUEST_OFF "SCT.8" true "A page request, where PRE is clear."
    0x48 PASID_IS_RID_PASID "SCT.9" true "The PASID is that of requests without one."
    0x49 TRANSLATED_PASID_OFF "SCT.10" true "A translated request with PASID, where EPTR is clear."
    0x50 PASID_DIRECTORY_ACCESS "SPD.1" false "The PASID directory cannot be read."
    0x51 PASID_DIRECTORY_NOT_PRESENT "SPD.2" true "The PASID directory entry is not present."
    0x52 PASID_DIRECTORY_RESERVED "SPD.3" true "The PASID directory entry has reserved bits set."
    0x58 PASID_TABLE_ACCESS "SPT.1" false "The PASID table cannot be read."
    0x59 PASID_NOT_PRESENT "SPT.2" true "The PASID table entry is not present."
    0x5a PASID_RESERVED "SPT.3" true "The PASID table entry has reserved bits set."
    0x5b PASID_INVALID "SPT.4" true "The PASID table entry says what the unit cannot do."
    0x5c EXECUTE_UNSUPPORTED "SPT.5" true "A request to execute, where ERS is clear."
    0x5d SUPERVISOR_OFF "SPT.6" true "A privileged request, where SRE is clear."
    0x60 BEYOND_HPT "SPT.9" true "The address of a translated request is larger than the host permission table."
    0x70 FIRST_STAGE_ACCESS "SFS.1" true "A first-stage table cannot be read."
    0x71 FIRST_STAGE_NOT_PRESENT "SFS.2" true "A first-stage entry is not present."
    0x72 FIRST_STAGE_RESERVED "SFS.3" true "A first-stage entry has reserved bits set."
    0x73 FIRST_STAGE_ROOT_ACCESS "SFS.4" true "The first-stage root cannot be read."
    0x74 FIRST_STAGE_ADDRESS "SFS.5" true "An address in a first-stage entry is larger than the second stage's, nested."
    0x75 FIRST_STAGE_ROOT_DENIED "SFS.6" true "The second stage denies a read of the first-stage root."
    0x76 FIRST_STAGE_READ_DENIED "SFS.7" true "The second stage denies a read of a first-stage table."
    0x77 FIRST_STAGE_MARK_DENIED "SFS.8" true "The second stage denies a mark in a first-stage table."
    0x78 SECOND_STAGE_ACCESS "SSS.1" true "A second-stage table cannot be read, in scalable mode."
    0x79 SECOND_STAGE_NOT_PRESENT "SSS.2" true "A second-stage entry allows nothing, in scalable mode."
    0x7a SECOND_STAGE_RESERVED "SSS.3" true "A second-stage entry has reserved bits set, in scalable mode."
    0x7b SECOND_STAGE_ROOT_ACCESS "SSS.4" true "The second-stage root cannot be read, in scalable mode."
    0x7c SECOND_STAGE_MARK_NOT_SNOOPED "SSS.5" true "A mark is due in a second-stage table that is not snooped."
    0x7d SECOND_STAGE_MARK "SSS.6" true "A mark in a second-stage table failed."
    0x80 NOT_CANONICAL "SGN.1" true "The address is not canonical."
    0x81 PRIVILEGE "SGN.2" true "A user's request through a supervisor's first-stage entry."
    0x83 HOST_ADDRESS_TOO_LARGE "SGN.4" true "A host address is too large."
    0x84 SECOND_STAGE_ADDRESS_TOO_LARGE "SGN.5" true "The address is larger than the second stage's."
    0x85 SCALABLE_WRITE_DENIED "SGN.6" true "A write without permission, in scalable mode."
    0x86 SCALABLE_READ_DENIED "SGN.7" true "A read without permission, in scalable mode."
    0x87 SCALABLE_OUTPUT_IN_INTERRUPT_WINDOW "SGN.8" true "The output address lies among interrupts, in scalable mode."
    0x89 PASID_TOO_LARGE "SGN.10" true "The PASID has more bits than the unit supports."
    0x90 FIRST_STAGE_MARK_NOT_SNOOPED "SFS.9" true "A mark is due in a first-stage table that is not snooped."
    0x91 FIRST_STAGE_MARK "SFS.10" true "A mark in a first-stage table failed."
    0xa0 HPT_ACCESS "HPT.1" true "A host permission table cannot be read."
    0xa1 HPT_RESERVED "HPT.2" true "A host permission table entry has reserved bits set."
    0xa2 HPT_ROOT_ACCESS "HPT.3" true "The host permission table's root cannot be read."
    0xa3 HPT_NOTHING "HPT.4" true "The host permission table says nothing, for a read of no bytes."
    0xa4 HPT_WRITE_DENIED "HPT.5" true "The host permission table denies a write."
    0xa5 HPT_READ_DENIED "HPT.6" true "The host permission table denies a read."
}
