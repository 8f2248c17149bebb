//! What fault registers say, in core's words.
//!
//! Spec: SMMUv2 D.c, 16.5.9 "SMMU_CBn_FSR", 16.5.11 "SMMU_CBn_FSYNRm", 9.6.15 "SMMU_sGFSR", 9.6.17 "SMMU_sGFSYNR0".
//! Not here: taking faults out of registers (`faults`).

use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_spec::smmuv2::bank::{Fsr, Fsynr0};
use portcullis_spec::smmuv2::global::{Gfsr, Gfsynr0};
use portcullis_types::{Access, AccessKind, Iova, SourceId};

/// The meaning of a context fault: SMMU_CBn_FSR, SMMU_CBn_FSYNR0, SMMU_CBn_FAR, and who. Total. The record's own words are kept.
pub fn context(fsr: Fsr, fsynr0: Fsynr0, far: u64, source: SourceId) -> FaultRecord {
    let (name, reason) = context_reason(fsr);
    // A fault that came later than its access says nothing of it, and one on a bit of MULTI alone was not recorded at all.
    let known = !fsynr0.afr() && name != "MULTI";
    FaultRecord {
        source: known.then_some(source),
        pasid: None,
        iova: known.then_some(Iova::new(far)),
        access: known.then(|| access(fsynr0.wnr(), fsynr0.ind(), fsynr0.pnu())),
        reason,
        name,
        raw: [fsr.into_bits().into(), fsynr0.into_bits().into(), far, source.0.into()],
    }
}

/// The hardware records one fault; several bits name the one that was first, worst first.
fn context_reason(fsr: Fsr) -> (&'static str, FaultReason) {
    let reasons = [
        (fsr.ef(), "EF", FaultReason::Hardware),
        (fsr.tlbmcf(), "TLBMCF", FaultReason::Hardware),
        (fsr.tlblkf(), "TLBLKF", FaultReason::Hardware),
        (fsr.uut(), "UUT", FaultReason::Configuration),
        (fsr.asf(), "ASF", FaultReason::AddressSize),
        (fsr.tf(), "TF", FaultReason::NotMapped),
        (fsr.aff(), "AFF", FaultReason::AccessFlag),
        (fsr.pf(), "PF", FaultReason::Permission),
        (fsr.multi(), "MULTI", FaultReason::Other(fsr.into_bits())),
    ];
    first(&reasons, fsr.into_bits())
}

/// The meaning of a global fault: SMMU_GFSR, SMMU_GFSYNR0, SMMU_GFAR, and who. Total. The record's own words are kept.
pub fn global(gfsr: Gfsr, gfsynr0: Gfsynr0, gfar: u64, source: SourceId) -> FaultRecord {
    let reasons = [
        (gfsr.usf(), "USF", FaultReason::Configuration),
        (gfsr.smcf(), "SMCF", FaultReason::Configuration),
        (gfsr.icf(), "ICF", FaultReason::Configuration),
        (gfsr.ucbf(), "UCBF", FaultReason::Configuration),
        (gfsr.ucif(), "UCIF", FaultReason::Configuration),
        (gfsr.uut(), "UUT", FaultReason::Configuration),
        (gfsr.pf(), "PF", FaultReason::Permission),
        (gfsr.ef(), "EF", FaultReason::Hardware),
        (gfsr.caf(), "CAF", FaultReason::Other(gfsr.into_bits())),
        (gfsr.multi(), "MULTI", FaultReason::Other(gfsr.into_bits())),
    ];
    let (name, reason) = first(&reasons, gfsr.into_bits());
    // Of an external abort nothing is known but that it was; a configuration access is the CPU's, at an offset.
    let known = !matches!(name, "EF" | "CAF" | "MULTI" | "unknown");
    FaultRecord {
        source: known.then_some(source),
        pasid: None,
        iova: known.then_some(Iova::new(gfar)),
        access: known.then(|| access(gfsynr0.wnr(), gfsynr0.ind(), gfsynr0.pnu())),
        reason,
        name,
        raw: [gfsr.into_bits().into(), gfsynr0.into_bits().into(), gfar, source.0.into()],
    }
}

fn first(reasons: &[(bool, &'static str, FaultReason)], word: u32) -> (&'static str, FaultReason) {
    let found = reasons.iter().find(|(there, _, _)| *there);
    found.map_or(("unknown", FaultReason::Other(word)), |&(_, name, reason)| (name, reason))
}

fn access(write: bool, instruction: bool, privileged: bool) -> Access {
    let kind = match (write, instruction) {
        (true, _) => AccessKind::Write,
        (false, true) => AccessKind::Execute,
        (false, false) => AccessKind::Read,
    };
    Access { kind, privileged }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: SourceId = SourceId(0x42);

    fn of(fsr: u32, fsynr0: u32) -> FaultRecord {
        context(Fsr::from_bits(fsr), Fsynr0::from_bits(fsynr0), 0xdead_b040, WHO)
    }

    #[test]
    fn a_translation_fault_says_who_where_and_how() {
        // TF in AArch64's format; a privileged write, at level 3.
        let record = of(0x402, 0x33);
        assert_eq!((record.name, record.reason), ("TF", FaultReason::NotMapped));
        assert_eq!((record.source, record.iova), (Some(WHO), Some(Iova::new(0xdead_b040))));
        assert_eq!(record.access, Some(Access { kind: AccessKind::Write, privileged: true }));
        assert_eq!(record.raw, [0x402, 0x33, 0xdead_b040, 0x42]);
    }

    #[test]
    fn each_bit_has_its_reason() {
        let reasons = [
            (1, FaultReason::NotMapped),
            (2, FaultReason::AccessFlag),
            (3, FaultReason::Permission),
            (4, FaultReason::Hardware),
            (5, FaultReason::Hardware),
            (6, FaultReason::Hardware),
            (7, FaultReason::AddressSize),
            (8, FaultReason::Configuration),
        ];
        for (bit, reason) in reasons {
            assert_eq!(of(1 << bit, 0).reason, reason, "bit {bit}");
            assert_eq!(
                of(1 << bit | 1 << 31 | 1 << 30 | 0x400, 0).reason,
                reason,
                "MULTI, SS and Format are no reason"
            );
        }
    }

    #[test]
    fn what_was_not_recorded_is_not_told() {
        let lost = of(0x8000_0400, 0x30);
        assert_eq!((lost.name, lost.source, lost.iova, lost.access), ("MULTI", None, None, None));
        let late = of(0x10, 1 << 11);
        assert_eq!((late.name, late.iova, late.access), ("EF", None, None));
    }

    #[test]
    fn a_global_fault_tells_a_stream_that_nobody_knows_from_one_that_is_blocked() {
        let global = |gfsr, gfsynr0| global(Gfsr::from_bits(gfsr), Gfsynr0::from_bits(gfsynr0), 0x1000, WHO);
        let unknown = global(0x2, 0x2);
        assert_eq!((unknown.name, unknown.reason), ("USF", FaultReason::Configuration));
        assert_eq!(unknown.access, Some(Access { kind: AccessKind::Write, privileged: false }));
        let blocked = global(0x8000_0001, 0x8);
        assert_eq!((blocked.name, blocked.source), ("ICF", Some(WHO)));
        assert_eq!(blocked.access.map(|access| access.kind), Some(AccessKind::Execute));
        let configuration = global(0x20, 0);
        assert_eq!((configuration.name, configuration.source, configuration.iova), ("CAF", None, None));
        for bits in 0..0x200 {
            let record = global(bits | 1 << 20, u32::MAX);
            assert_eq!(record.raw[0], u64::from(bits | 1 << 20));
        }
    }
}
