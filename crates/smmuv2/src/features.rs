//! What the hardware can do, read from its identification registers.
//!
//! Spec: SMMUv2 D.c, 9.6.1 "SMMU_IDR0-7, Identification registers".

use portcullis_core::iommu::SyncError;
use portcullis_hal::Registers;
use portcullis_spec::smmuv2::global::{
    IDR0, IDR1, IDR2, IDR7, Idr0, Idr1, Idr2, Idr7, MOST_BANKS, MOST_GROUPS,
};
use portcullis_spec::smmuv2::{Frame, address_bits, upstream_bits};
use portcullis_types::{PageSizes, SizeLg2};

/// The identification registers as they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegisters {
    /// SMMU_IDR0.
    pub idr0: Idr0,
    /// SMMU_IDR1.
    pub idr1: Idr1,
    /// SMMU_IDR2.
    pub idr2: Idr2,
    /// SMMU_IDR7.
    pub idr7: Idr7,
}

impl IdRegisters {
    /// Reads them.
    pub fn read(registers: &impl Registers) -> Self {
        Self {
            idr0: Idr0::from_bits(registers.read32(IDR0)),
            idr1: Idr1::from_bits(registers.read32(IDR1)),
            idr2: Idr2::from_bits(registers.read32(IDR2)),
            idr7: Idr7::from_bits(registers.read32(IDR7)),
        }
    }
}

/// What the hardware can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// The implementation's version, rXpY.
    pub version: (u8, u8),
    /// Stage 1 is there, and a bank for it.
    pub stage1: bool,
    /// Stage 2 is there.
    pub stage2: bool,
    /// Stage 1 followed by stage 2 is there.
    pub nested: bool,
    /// Streams are matched; else a StreamID is the number of its group.
    pub matching: bool,
    /// Stream mapping register groups.
    pub groups: usize,
    /// Bits of a StreamID, where 16-bit ones are not enabled.
    pub stream_bits: u8,
    /// StreamIDs can have 16 bits.
    pub extended_ids: bool,
    /// Translation context banks.
    pub banks: usize,
    /// So many of them, the first ones, can be of stage 2 only.
    pub stage2_only_banks: usize,
    /// Context interrupts that banks can be given; none if each has its own.
    pub interrupts: Option<u8>,
    /// Table walks can be coherent with the CPUs' caches.
    pub coherent: bool,
    /// Bits of an address of stage 1's input.
    pub input_bits: u8,
    /// Bits of an intermediate physical address.
    pub ipa_bits: u8,
    /// Bits of an output address.
    pub output_bits: u8,
    /// The granules of 64-bit formats, a set of page sizes.
    pub granules: PageSizes,
    /// Where the registers are.
    pub frame: Frame,
}

impl Features {
    /// What these registers say.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says: something that this driver needs is not there, or a field holds a reserved value.
    pub fn decode(ids: &IdRegisters) -> Result<Self, ProbeError> {
        let IdRegisters { idr0, idr1, idr2, idr7 } = *ids;
        if !idr0.s1ts() && !idr0.s2ts() {
            return Err(ProbeError::NoTranslation);
        }
        let frame = Frame::new(idr1);
        let banks = usize::from(idr1.numcb());
        let stage2_only_banks = usize::from(idr1.nums2cb());
        let groups = usize::from(idr0.numsmrg());
        if banks > MOST_BANKS || banks > frame.pages || stage2_only_banks > banks {
            return Err(ProbeError::Reserved { register: "SMMU_IDR1", value: idr1.into_bits() });
        }
        if groups > MOST_GROUPS {
            return Err(ProbeError::Reserved { register: "SMMU_IDR0", value: idr0.into_bits() });
        }
        if banks == 0 || groups == 0 {
            return Err(ProbeError::Nothing { groups: idr0.numsmrg(), banks: idr1.numcb() });
        }
        let reserved = ProbeError::Reserved { register: "SMMU_IDR2", value: idr2.into_bits() };
        let bits = |code| address_bits(code).ok_or(reserved);
        let (ipa_bits, output_bits) = (bits(idr2.ias())?, bits(idr2.oas())?);
        let input_bits = upstream_bits(idr2.ubs()).ok_or(reserved)?.min(48);
        let granules = granules(idr2);
        if granules.is_empty() {
            return Err(ProbeError::NoGranule);
        }
        Ok(Self {
            version: (idr7.major(), idr7.minor()),
            stage1: idr0.s1ts() && stage2_only_banks < banks,
            stage2: idr0.s2ts(),
            nested: idr0.nts(),
            matching: idr0.sms(),
            groups,
            stream_bits: idr0.numsidb(),
            extended_ids: idr0.exids() && idr0.sms(),
            banks,
            stage2_only_banks: if idr0.s2ts() { stage2_only_banks } else { 0 },
            interrupts: (idr0.numirpt() > 1).then_some(idr0.numirpt()),
            coherent: idr0.cttw(),
            input_bits,
            ipa_bits,
            output_bits,
            granules,
            frame,
        })
    }
}

fn granules(idr2: Idr2) -> PageSizes {
    [
        (idr2.ptfsv8_4kb(), SizeLg2::KIB_4),
        (idr2.ptfsv8_16kb(), SizeLg2::KIB_16),
        (idr2.ptfsv8_64kb(), SizeLg2::KIB_64),
    ]
    .into_iter()
    .filter(|&(there, _)| there)
    .fold(PageSizes::default(), |set, (_, size)| set.with(size))
}

/// Why an SMMU was not brought up. Where it was touched at all, its traffic faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// Neither stage translates. A bus where nothing answers reads so as well.
    NoTranslation,
    /// There are no stream mapping register groups or no context banks, or Secure software has kept all of them.
    Nothing {
        /// Stream mapping register groups.
        groups: u8,
        /// Context banks.
        banks: u8,
    },
    /// A field holds a value that the book reserves.
    Reserved {
        /// The register.
        register: &'static str,
        /// What it said.
        value: u32,
    },
    /// There is no granule of a 64-bit format: an SMMUv1, or one that knows 32-bit formats only.
    NoGranule,
    /// The stage that was asked for is not there.
    NoSuchStage,
    /// Streams that are to keep what they have do not fit: a StreamID that cannot be, or more than there are groups.
    BootStreams,
    /// The hardware did not confirm.
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// What was last seen there.
        last: u64,
    },
}

impl From<SyncError> for ProbeError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Timeout { waiting_for, last } => Self::Timeout { waiting_for, last },
            _ => Self::Timeout { waiting_for: "an invalidation", last: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An MMU-500 as one is built: r2p4, both stages, 48 groups, 16 banks, 15-bit StreamIDs, 4 and 64 KiB granules.
    fn ids() -> IdRegisters {
        IdRegisters {
            idr0: Idr0::from_bits(0x7c01_5e30),
            idr1: Idr1::from_bits(0xb000_8010),
            idr2: Idr2::from_bits(0x0000_5555),
            idr7: Idr7::from_bits(0x24),
        }
    }

    #[test]
    fn the_registers_decide_everything() {
        let features = Features::decode(&ids()).unwrap();
        assert!(features.stage1 && features.stage2 && features.nested && features.matching);
        assert_eq!((features.groups, features.banks, features.stage2_only_banks), (48, 16, 0));
        assert_eq!((features.stream_bits, features.extended_ids, features.coherent), (15, false, true));
        assert_eq!((features.input_bits, features.ipa_bits, features.output_bits), (48, 48, 48));
        assert_eq!(
            features.granules.iter().collect::<alloc::vec::Vec<_>>(),
            [SizeLg2::KIB_4, SizeLg2::KIB_64]
        );
        assert_eq!((features.version, features.interrupts), ((2, 4), None));
        assert_eq!(
            (features.frame.page_lg2, features.frame.pages, features.frame.bytes()),
            (16, 16, 0x20_0000)
        );
    }

    #[test]
    fn what_the_driver_cannot_do_without_is_missed_by_name() {
        let with = |change: fn(&mut IdRegisters)| {
            let mut ids = ids();
            change(&mut ids);
            Features::decode(&ids).unwrap_err()
        };
        let none = with(|ids| ids.idr0 = ids.idr0.with_s1ts(false).with_s2ts(false));
        assert_eq!(none, ProbeError::NoTranslation);
        assert_eq!(
            with(|ids| ids.idr2 = ids.idr2.with_ptfsv8_4kb(false).with_ptfsv8_64kb(false)),
            ProbeError::NoGranule
        );
        assert_eq!(
            with(|ids| ids.idr0 = ids.idr0.with_numsmrg(0)),
            ProbeError::Nothing { groups: 0, banks: 16 }
        );
        let more_banks_than_pages = with(|ids| ids.idr1 = ids.idr1.with_numcb(17));
        assert!(matches!(more_banks_than_pages, ProbeError::Reserved { register: "SMMU_IDR1", .. }));
        let odd = with(|ids| ids.idr2 = ids.idr2.with_oas(9));
        assert!(matches!(odd, ProbeError::Reserved { register: "SMMU_IDR2", .. }));
    }

    #[test]
    fn a_bus_where_nothing_answers_is_no_smmu() {
        let reserved = ProbeError::Reserved { register: "SMMU_IDR1", value: u32::MAX };
        for (word, error) in [(0, ProbeError::NoTranslation), (u32::MAX, reserved)] {
            let ids = IdRegisters {
                idr0: Idr0::from_bits(word),
                idr1: Idr1::from_bits(word),
                idr2: Idr2::from_bits(word),
                idr7: Idr7::from_bits(word),
            };
            assert_eq!(Features::decode(&ids), Err(error), "{word:#x}");
        }
    }

    #[test]
    fn stage_1_needs_a_bank_that_can_be_of_stage_1() {
        let mut ids = ids();
        ids.idr1 = ids.idr1.with_nums2cb(16);
        assert!(!Features::decode(&ids).unwrap().stage1);
    }
}
