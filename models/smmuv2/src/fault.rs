//! Faults: what went wrong with an access, and the registers in which it is told.
//!
//! A fault is global, when no context bank is there to tell it ([`GlobalFault`]), or of a context bank ([`Fault`]). The first is recorded in full; while it is
//! not cleared, further ones are MULTI, or nothing.
//!
//! Spec: SMMUv2 D.c, 3.7.2 "Recording a context fault", 3.8.1 "Recording a global fault", 9.6.15 "SMMU_sGFSR", 16.5.9 "SMMU_CBn_FSR", 16.5.11 and
//! 17.3.1 "SMMU_CBn_FSYNRm".
//! Not here: whether an access ends or waits (`verdict`).

use portcullis_types::AccessKind;

/// What kind of fault. Their order means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// ICF: the stream, or the bank, is configured to fault, or the bank's configuration makes no sense.
    InvalidContext,
    /// USF: no entry of the stream mapping table matches.
    UnidentifiedStream,
    /// SMCF: several do.
    StreamMatchConflict,
    /// UCBF: the context bank does not exist.
    UnimplementedBank,
    /// CAF: a register does not exist.
    ConfigurationAccess,
    /// UUT: the upstream bus says what cannot be said downstream.
    UnsupportedUpstream,
    /// TF: no translation.
    Translation,
    /// AFF: the access flag is 0.
    AccessFlag,
    /// PF: not allowed.
    Permission,
    /// EF: memory did not answer a walk.
    External,
    /// TLBMCF: two translations are cached.
    TlbConflict,
    /// ASF: an output address is too large.
    AddressSize,
}

impl FaultKind {
    /// Its bit of sGFSR.
    pub(crate) fn global_bit(self) -> u32 {
        match self {
            Self::UnidentifiedStream => 1 << 1,
            Self::StreamMatchConflict => 1 << 2,
            Self::UnimplementedBank => 1 << 3,
            Self::ConfigurationAccess => 1 << 5,
            Self::UnsupportedUpstream => 1 << 8,
            _ => 1,
        }
    }

    /// Its bit of CBn_FSR.
    pub(crate) fn context_bit(self) -> u32 {
        match self {
            Self::AccessFlag => 1 << 2,
            Self::Permission => 1 << 3,
            Self::External => 1 << 4,
            Self::TlbConflict => 1 << 5,
            Self::AddressSize => 1 << 7,
            Self::UnsupportedUpstream => 1 << 8,
            _ => 1 << 1,
        }
    }

    /// The book's abbreviation.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidContext => "ICF",
            Self::UnidentifiedStream => "USF",
            Self::StreamMatchConflict => "SMCF",
            Self::UnimplementedBank => "UCBF",
            Self::ConfigurationAccess => "CAF",
            Self::UnsupportedUpstream => "UUT",
            Self::Translation => "TF",
            Self::AccessFlag => "AFF",
            Self::Permission => "PF",
            Self::External => "EF",
            Self::TlbConflict => "TLBMCF",
            Self::AddressSize => "ASF",
        }
    }
}

/// sGFSR.MULTI and CBn_FSR.MULTI.
pub(crate) const MULTI: u32 = 1 << 31;
/// CBn_FSR.SS.
pub(crate) const STALLED: u32 = 1 << 30;
/// Bits of sGFSR that software can clear, and restore.
pub(crate) const GLOBAL_BITS: u32 = MULTI | 0x12f;
/// Bits of CBn_FSR that software can clear, and restore: all but SS and Format.
pub(crate) const CONTEXT_BITS: u32 = MULTI | 0x1be;

/// An access as a device makes it, after the stream mapping table has had its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) stream: u32,
    pub(crate) address: u64,
    pub(crate) kind: AccessKind,
    pub(crate) privileged: bool,
    /// PRIVCFG is Privileged Access Never.
    pub(crate) access_never: bool,
}

impl Asked {
    pub(crate) fn is_write(&self) -> bool {
        self.kind == AccessKind::Write
    }

    /// sGFSYNR0 but for Nested: IND, PNU, WNR.
    pub(crate) fn global_syndrome(&self) -> u32 {
        u32::from(self.kind == AccessKind::Execute) << 3
            | u32::from(self.privileged) << 2
            | u32::from(self.is_write()) << 1
    }

    /// CBn_FSYNR0: IND, PNU, WNR.
    pub(crate) fn context_syndrome(&self) -> u32 {
        u32::from(self.kind == AccessKind::Execute) << 6
            | u32::from(self.privileged) << 5
            | u32::from(self.is_write()) << 4
    }
}

/// A fault that no context bank tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GlobalFault {
    pub(crate) kind: FaultKind,
    /// sGFSYNR0.Nested.
    pub(crate) nested: bool,
}

/// A fault of a context bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// The bank of stage 2 tells it.
    pub(crate) stage2: bool,
    /// FSYNR0.PLVL.
    pub(crate) level: u8,
    /// FSYNR0.S1PTWF: stage 1's walk met it.
    pub(crate) in_stage1_walk: bool,
    /// The intermediate address that faulted at stage 2.
    pub(crate) ipa: u64,
}

impl Fault {
    /// One of stage 1.
    pub(crate) fn stage1(kind: FaultKind, level: u8) -> Self {
        Self { kind, stage2: false, level, in_stage1_walk: false, ipa: 0 }
    }

    /// One of stage 2 at an intermediate address.
    pub(crate) fn stage2(kind: FaultKind, level: u8, ipa: u64) -> Self {
        Self { kind, stage2: true, level, in_stage1_walk: false, ipa }
    }
}
