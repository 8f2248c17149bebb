//! What must be known before a process can be shared with a device: what the CPUs do, what the device can do, and what is missing.
//!
//! [`CpuFacts`] are the sanitised features of all CPUs together: a process may run on any of them, so the lowest common denominator
//! decides. [`DeviceSvaFacts`] come from the bus and from firmware. An IOMMU's driver holds both against its own hardware
//! ([`SvaIommu::check`](super::SvaIommu::check)) and answers with [`SvaLimits`], or with a [`SvaRefusal`] that names what is missing.

use portcullis_types::{PageSizes, Pasid, SizeLg2, SourceId};

/// What the CPUs do with the page tables that they share: true of every one of them.
///
/// Spec: Arm ARM DDI 0487, "ID_AA64MMFR0_EL1" and its neighbours; Intel SDM volume 3A, 4.1.4 "Enumeration of Paging Features by CPUID", 4.10.1
/// "Process-Context Identifiers (PCIDs)": as the least that all CPUs of a machine have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuFacts {
    /// The granules that processes' tables may have.
    pub granules: PageSizes,
    /// How many bits of an address of a process are translated, at most.
    pub input_bits: u8,
    /// How many bits an output address has (PARange), 32 to 52.
    pub output_bits: u8,
    /// How many bits the number has that tags what TLBs remember of a process: an ASID has 8 or 16, a PCID 12.
    pub asid_bits: u8,
    /// Whether the kernel runs at EL2 with its TLB entries tagged as EL2-E2H (VHE).
    pub vhe: bool,
    /// Whether the CPUs' TLB maintenance is broadcast to where the IOMMU can hear it.
    pub broadcast: bool,
    /// The level of break-before-make that the kernel relies on when it changes the size of a live block: 0 if it always breaks first.
    pub break_before_make_level: u8,
}

impl CpuFacts {
    /// CPUs with this granule, 48 bits of input and output and 16-bit ASIDs, a kernel at EL1 that breaks before it makes, and
    /// nothing broadcast.
    pub fn new(granule: SizeLg2) -> Self {
        Self {
            granules: PageSizes::default().with(granule),
            input_bits: 48,
            output_bits: 48,
            asid_bits: 16,
            vhe: false,
            broadcast: false,
            break_before_make_level: 0,
        }
    }

    /// What is true of both: the lowest common denominator. A kernel runs at EL2 on all its CPUs or on none; if these disagree, what
    /// depends on it ([`broadcast`](Self::broadcast)) is off.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self {
            granules: PageSizes::from_bits(self.granules.bits() & other.granules.bits()),
            input_bits: self.input_bits.min(other.input_bits),
            output_bits: self.output_bits.min(other.output_bits),
            asid_bits: self.asid_bits.min(other.asid_bits),
            vhe: self.vhe && other.vhe,
            broadcast: self.broadcast && other.broadcast && self.vhe == other.vhe,
            break_before_make_level: self.break_before_make_level.max(other.break_before_make_level),
        }
    }
}

/// What a device can do, of what sharing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DeviceSvaFacts {
    /// It has an ATC and everything above it passes translation requests and invalidations (PCIe ATS).
    pub ats: bool,
    /// It can ask for pages (PCIe PRI).
    pub pri: bool,
    /// It wants the PASID of a request on the response, where the request had one (PRG Response PASID Required).
    pub response_pasid: bool,
    /// How many bits its PASIDs have: what its capability or `pasid-num-bits` says. 0 if it has none.
    pub pasid_bits: u8,
    /// Its accesses can be stalled without harm (`dma-can-stall`). Never true of a PCIe device, whose link would deadlock.
    pub can_stall: bool,
}

/// Within which limits a device can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvaLimits {
    /// The highest PASID that device and IOMMU can use. The lowest is 1.
    pub last_pasid: Pasid,
}

/// Which side lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The device, or what is above it on its bus.
    Device,
    /// The IOMMU.
    Iommu,
}

/// What is missing, so that a device cannot share a process's memory. EOPNOTSUPP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SvaRefusal {
    /// The source was never added. ENODEV.
    UnknownSource(SourceId),
    /// The IOMMU's driver was not told what the CPUs do.
    CpusUnknown,
    /// The IOMMU does not walk tables through the CPUs' caches.
    NotCoherent,
    /// The IOMMU has no first stage, or its domains do not use it.
    NoFirstStage,
    /// The IOMMU cannot walk tables of this granule, which the CPUs use.
    Granule(SizeLg2),
    /// The CPUs translate more bits of an address than the IOMMU can.
    InputSize {
        /// Bits of the CPUs.
        cpu: u8,
        /// Bits of the IOMMU.
        iommu: u8,
    },
    /// The CPUs can put a page where the IOMMU cannot reach it.
    OutputSize {
        /// Bits of the CPUs.
        cpu: u8,
        /// Bits of the IOMMU.
        iommu: u8,
    },
    /// The CPUs' ASIDs do not fit into the IOMMU's.
    AsidSize {
        /// Bits of the CPUs.
        cpu: u8,
        /// Bits of the IOMMU.
        iommu: u8,
    },
    /// The CPUs change live blocks in a way that the IOMMU's TLB does not bear.
    BreakBeforeMake {
        /// The level that the CPUs' kernel relies on.
        cpu: u8,
        /// The level of the IOMMU.
        iommu: u8,
    },
    /// No PASIDs.
    NoPasids(Side),
    /// The device's accesses may be stalled, but the IOMMU cannot stall. (Without stall it would need ATS and PRI.)
    NoStall,
    /// No translation requests (ATS), and the device may not be stalled either.
    NoAts(Side),
    /// No page requests (PRI), and the device may not be stalled either.
    NoPri(Side),
    /// The device takes no PASID in the response to a page request (PRG Response PASID Required is clear), and the IOMMU puts that of the request there.
    ResponsePasid,
}

#[cfg(test)]
mod tests {
    //! Part 10: the lowest common denominator of the CPUs decides.
    use super::*;

    #[test]
    fn part_10_of_two_cpus_the_lesser_decides_feature_by_feature() {
        let mut big = CpuFacts::new(SizeLg2::KIB_4);
        big.granules = big.granules.with(SizeLg2::KIB_64);
        (big.output_bits, big.vhe, big.broadcast, big.break_before_make_level) = (52, true, true, 2);
        let mut little = CpuFacts::new(SizeLg2::KIB_4);
        (little.output_bits, little.asid_bits, little.vhe, little.broadcast) = (40, 8, true, true);
        for common in [big.common(little), little.common(big)] {
            assert_eq!(common.granules, PageSizes::default().with(SizeLg2::KIB_4));
            assert_eq!((common.input_bits, common.output_bits, common.asid_bits), (48, 40, 8));
            assert!(common.vhe && common.broadcast);
            assert_eq!(common.break_before_make_level, 2, "what one CPU relies on is relied on");
        }
    }

    #[test]
    fn part_10_cpus_whose_tlb_entries_are_tagged_differently_broadcast_nothing() {
        let mut host = CpuFacts::new(SizeLg2::KIB_4);
        (host.vhe, host.broadcast) = (true, true);
        let mut other = host;
        other.vhe = false;
        assert!(!host.common(other).broadcast && host.common(host).broadcast);
        other = host;
        other.broadcast = false;
        assert!(!host.common(other).broadcast);
    }
}
