//! Fault reasons: their numbers, whether FPD silences them, and what a translation request is answered.
//!
//! Spec: VT-d 5.10, 7.1.3 "Fault Conditions and Remapping Hardware Behavior for Various Requests", Table 30; 5.1.4.1 "Interrupt Remapping Fault
//! Conditions", Table 15. The comment at each is the book's condition code.

/// Why a request was blocked. The numbers are those of FRCD_REG.FR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// LRT.2: root entry not present.
    RootNotPresent = 0x01,
    /// LCT.2: context entry not present.
    ContextNotPresent = 0x02,
    /// LCT.4: context entry programmed wrongly.
    ContextInvalid = 0x03,
    /// LGN.1: address too wide.
    Address = 0x04,
    /// LGN.2: no permission to write.
    Write = 0x05,
    /// LGN.3: no permission to read.
    Read = 0x06,
    /// LSS.1: a second-stage table cannot be read.
    PagingAccess = 0x07,
    /// LRT.1: the root table cannot be read.
    RootAccess = 0x08,
    /// LCT.1: the context table cannot be read.
    ContextAccess = 0x09,
    /// LRT.3: reserved bits in a root entry.
    RootReserved = 0x0a,
    /// LCT.3: reserved bits in a context entry.
    ContextReserved = 0x0b,
    /// LSS.2: reserved bits in a paging entry.
    PagingReserved = 0x0c,
    /// LCT.5: translation and translated requests are blocked.
    AtsBlocked = 0x0d,
    /// LGN.4: the result is an interrupt address.
    InterruptRange = 0x0e,
    /// 5.1.4.1: reserved fields in a remappable request.
    InterruptReserved = 0x20,
    /// 5.1.4.1: index beyond the table.
    InterruptIndex = 0x21,
    /// 5.1.4.1: IRTE not present.
    InterruptNotPresent = 0x22,
    /// 5.1.4.1: the table cannot be read.
    InterruptAccess = 0x23,
    /// 5.1.4.1: reserved fields in an IRTE.
    InterruptEntryReserved = 0x24,
    /// 5.1.4.1: compatibility format, blocked.
    InterruptCompatibility = 0x25,
    /// 5.1.4.1: source-id verification failed.
    InterruptSource = 0x26,
    /// 5.1.4.1: a request to the interrupt range that is no interrupt.
    InterruptMalformed = 0x29,
    /// RTA.1: RTADDR_REG programmed wrongly.
    RootPointerInvalid = 0x30,
    /// RTA.2: a PASID in legacy mode.
    PasidInLegacy = 0x31,
    /// RTA.3: a page request in legacy mode.
    PageRequestInLegacy = 0x32,
    /// RTA.4: abort-dma mode.
    AbortDma = 0x33,
    /// RTA.5: execute requested, from major version 8 on.
    ExecuteRequested = 0x34,
    /// SRT.1: the root table cannot be read.
    ScalableRootAccess = 0x38,
    /// SRT.2: half of a root entry not present.
    ScalableRootNotPresent = 0x39,
    /// SRT.3: reserved bits in a root entry.
    ScalableRootReserved = 0x3a,
    /// SCT.1: the context table cannot be read.
    ScalableContextAccess = 0x40,
    /// SCT.2: context entry not present.
    ScalableContextNotPresent = 0x41,
    /// SCT.3: reserved bits in a context entry.
    ScalableContextReserved = 0x42,
    /// SCT.4: context entry programmed wrongly.
    ScalableContextInvalid = 0x43,
    /// SCT.5: DTE is 0.
    DeviceTlbOff = 0x44,
    /// SCT.6: PASIDE is 0.
    PasidOff = 0x45,
    /// SCT.7: PASID beyond the directory.
    PasidBeyondDirectory = 0x46,
    /// SCT.8: PRE is 0.
    PageRequestsOff = 0x47,
    /// SCT.9: the PASID is RID_PASID.
    PasidIsRidPasid = 0x48,
    /// SCT.10: EPTR is 0.
    TranslatedPasidOff = 0x49,
    /// SPD.1: the PASID directory cannot be read.
    DirectoryAccess = 0x50,
    /// SPD.2: directory entry not present.
    DirectoryNotPresent = 0x51,
    /// SPD.3: reserved bits in a directory entry.
    DirectoryReserved = 0x52,
    /// SPT.1: the PASID table cannot be read.
    PasidAccess = 0x58,
    /// SPT.2: PASID-table entry not present.
    PasidNotPresent = 0x59,
    /// SPT.3: reserved bits in a PASID-table entry.
    PasidReserved = 0x5a,
    /// SPT.4: PASID-table entry programmed wrongly.
    PasidInvalid = 0x5b,
    /// SPT.5: execute requested, up to major version 7.
    ExecuteUnsupported = 0x5c,
    /// SPT.6: SRE is 0.
    SupervisorOff = 0x5d,
    /// SFS.1: a first-stage table cannot be read.
    FirstAccess = 0x70,
    /// SFS.2: first-stage entry not present.
    FirstNotPresent = 0x71,
    /// SFS.3: reserved bits in a first-stage entry.
    FirstReserved = 0x72,
    /// SFS.4: the first-stage root table cannot be read.
    FirstRootAccess = 0x73,
    /// SFS.5: a guest address in a first-stage entry is too wide.
    FirstAddress = 0x74,
    /// SFS.6: the second stage does not let the first-stage root be read.
    FirstRootBlocked = 0x75,
    /// SFS.7: the second stage does not let a first-stage entry be read.
    FirstBlocked = 0x76,
    /// SFS.8: the second stage does not let a flag be written.
    FirstUpdateBlocked = 0x77,
    /// SSS.1: a second-stage table cannot be read.
    SecondAccess = 0x78,
    /// SSS.2: second-stage entry not present.
    SecondNotPresent = 0x79,
    /// SSS.3: reserved bits in a second-stage entry.
    SecondReserved = 0x7a,
    /// SSS.4: the second-stage root table cannot be read.
    SecondRootAccess = 0x7b,
    /// SSS.5: a flag is to be set, but walks do not snoop.
    SecondUpdateUnsnooped = 0x7c,
    /// SSS.6: a flag could not be set.
    SecondUpdateFailed = 0x7d,
    /// SGN.1: not canonical.
    NotCanonical = 0x80,
    /// SGN.2: a supervisor's page.
    Privilege = 0x81,
    /// SGN.4: a host address too wide.
    HostAddress = 0x83,
    /// SGN.5: a second-stage address too wide.
    GuestAddress = 0x84,
    /// SGN.6: no permission to write.
    ScalableWrite = 0x85,
    /// SGN.7: no permission to read.
    ScalableRead = 0x86,
    /// SGN.8: the result is an interrupt address.
    ScalableInterruptRange = 0x87,
    /// SGN.10: PASID beyond PSS.
    PasidTooWide = 0x89,
    /// SFS.9: a flag is to be set, but walks do not snoop.
    FirstUpdateUnsnooped = 0x90,
    /// SFS.10: a flag could not be set.
    FirstUpdateFailed = 0x91,
}

/// What a translation request is answered that meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Unsupported,
    Abort,
    /// Success, with no permission: the device's to see, and not software's.
    Nothing,
    /// Success, with those permissions that there are.
    Effective,
}

impl Reason {
    /// The number in FRCD_REG.FR.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether FPD keeps it from being reported.
    pub const fn is_qualified(self) -> bool {
        !matches!(
            self,
            Self::RootNotPresent
                | Self::RootAccess
                | Self::RootReserved
                | Self::ContextAccess
                | Self::InterruptReserved
                | Self::InterruptIndex
                | Self::InterruptAccess
                | Self::InterruptCompatibility
                | Self::InterruptMalformed
                | Self::RootPointerInvalid
                | Self::PasidInLegacy
                | Self::PageRequestInLegacy
                | Self::AbortDma
                | Self::ExecuteRequested
                | Self::ScalableRootAccess
                | Self::ScalableRootNotPresent
                | Self::ScalableRootReserved
                | Self::ScalableContextAccess
                | Self::DirectoryAccess
                | Self::PasidAccess
        )
    }

    /// What a translation request is answered.
    pub(crate) const fn answer(self) -> Answer {
        match self {
            Self::RootNotPresent
            | Self::ContextNotPresent
            | Self::AtsBlocked
            | Self::PasidInLegacy
            | Self::AbortDma
            | Self::ExecuteRequested
            | Self::ScalableRootNotPresent
            | Self::ScalableContextNotPresent
            | Self::DeviceTlbOff
            | Self::PasidOff
            | Self::PasidBeyondDirectory
            | Self::PasidIsRidPasid
            | Self::PasidTooWide => Answer::Unsupported,
            Self::Address
            | Self::DirectoryNotPresent
            | Self::PasidNotPresent
            | Self::ExecuteUnsupported
            | Self::SupervisorOff
            | Self::FirstAccess
            | Self::FirstNotPresent
            | Self::FirstReserved
            | Self::FirstRootAccess
            | Self::FirstAddress
            | Self::FirstRootBlocked
            | Self::FirstBlocked
            | Self::FirstUpdateBlocked
            | Self::FirstUpdateUnsnooped
            | Self::FirstUpdateFailed
            | Self::SecondNotPresent
            | Self::NotCanonical
            | Self::Privilege
            | Self::HostAddress
            | Self::GuestAddress => Answer::Nothing,
            Self::Write | Self::Read | Self::ScalableWrite | Self::ScalableRead => Answer::Effective,
            _ => Answer::Abort,
        }
    }

    /// Whether it is a permission that is lacking.
    pub(crate) const fn is_permission(self) -> bool {
        matches!(self, Self::Write | Self::Read | Self::ScalableWrite | Self::ScalableRead)
    }

    /// Whether it was met in the first stage: then caching mode does not cache it.
    pub(crate) const fn is_first_stage(self) -> bool {
        matches!(self.code(), 0x70..=0x77 | 0x80 | 0x81 | 0x90 | 0x91)
    }
}
