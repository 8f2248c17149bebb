//! What drivers told their hardware: commands, descriptors, or writes of registers that invalidate, by the book's names.

use core::fmt;

use portcullis::hal::{Platform, Registers};
use portcullis::smmuv3::{self, Counts};
use portcullis::{smmuv2, vtd};

/// A driver that counts what it tells its hardware.
pub trait Spends {
    /// What it told it since it was brought up.
    fn spent(&self) -> Spent;
}

/// What a driver told its hardware, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent(Vec<(&'static str, u64)>);

impl Spent {
    /// How often this was told.
    pub fn of(&self, name: &str) -> u64 {
        self.0.iter().find(|(other, _)| *other == name).map_or(0, |&(_, count)| count)
    }

    /// What was told after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let later = self.0.iter().map(|&(name, count)| (name, count - earlier.of(name)));
        Self(later.filter(|&(_, count)| count > 0).collect())
    }
}

/// In numbers and names.
impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.0.iter().filter(|&&(_, count)| count > 0);
        for (index, (name, count)) in told.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

impl From<Counts> for Spent {
    /// Commands of SMMUv3.
    ///
    /// # Panics
    ///
    /// If one has no name.
    fn from(counts: Counts) -> Self {
        let each = counts.by_command();
        Self(
            each.map(|(op, count)| (op.name().expect("a command of the driver has a name"), count)).collect(),
        )
    }
}

impl<P: Platform, R: Registers> Spends for smmuv3::Smmu<P, R> {
    fn spent(&self) -> Spent {
        self.counts().into()
    }
}

/// Descriptors of VT-d, by their types. Spec: VT-d 5.10, 6.5.2 "Queued Invalidation Interface", Table 21.
const DESCRIPTORS: [(u8, &str); 9] = [
    (0x1, "context-cache"),
    (0x7, "PASID-cache"),
    (0x2, "IOTLB"),
    (0x6, "PASID-based IOTLB"),
    (0x3, "device-TLB"),
    (0x8, "PASID-based device-TLB"),
    (0x4, "interrupt-entry-cache"),
    (0x9, "page group response"),
    (0x5, "wait"),
];

impl<P: Platform, R: Registers> Spends for vtd::Vtd<P, R> {
    fn spent(&self) -> Spent {
        let counts = self.counts();
        let told = DESCRIPTORS.map(|(kind, name)| (name, counts.descriptors(kind)));
        let known: u64 = told.iter().map(|(_, count)| count).sum();
        assert_eq!(known, counts.all_descriptors(), "a descriptor has a type that the book has");
        let flushes = ("write-buffer flush", counts.write_buffer_flushes);
        Spent(told.into_iter().chain([flushes]).collect())
    }
}

/// Registers of SMMUv2 whose writes do something, as the book calls them.
const REGISTERS: [(smmuv2::Operation, &str); 13] = [
    (smmuv2::Operation::Bank, "context bank"),
    (smmuv2::Operation::StreamMatch, "SMR"),
    (smmuv2::Operation::StreamContext, "S2CR"),
    (smmuv2::Operation::TlbiVa, "TLBIVA"),
    (smmuv2::Operation::TlbiVal, "TLBIVAL"),
    (smmuv2::Operation::TlbiAsid, "TLBIASID"),
    (smmuv2::Operation::TlbiStage1, "TLBIALL"),
    (smmuv2::Operation::TlbiIpas2, "TLBIIPAS2"),
    (smmuv2::Operation::TlbiIpas2l, "TLBIIPAS2L"),
    (smmuv2::Operation::TlbiVmid, "TLBIVMID"),
    (smmuv2::Operation::TlbiAll, "TLBIALLNSNH"),
    (smmuv2::Operation::BankSync, "TLBSYNC"),
    (smmuv2::Operation::GlobalSync, "sTLBGSYNC"),
];

impl<P: Platform, R: Registers> Spends for smmuv2::Smmu<P, R> {
    fn spent(&self) -> Spent {
        let counts = self.counts();
        Spent(REGISTERS.map(|(operation, name)| (name, counts.of(operation))).to_vec())
    }
}
