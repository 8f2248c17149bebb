//! Stream mapping register groups: SMMU_SMRn with its SMMU_S2CRn.
//!
//! What a group does with its streams is one word, so that it changes in one write: nobody is ever between two targets. Which streams it is about
//! is changed only while it is not valid. A group that is nobody's is not valid and says "fault" besides.
//!
//! With 16-bit StreamIDs whether a group is valid stands in SMMU_S2CRn; otherwise in SMMU_SMRn.
//!
//! Spec: SMMUv2 D.c, 9.6.23 "SMMU_S2CRn, Stream-to-Context Register", 9.6.25 "SMMU_SMRn, Stream Match Register".
//! Not here: whose groups they are (`streams`).

use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv2::global::{
    ExtendedSmr, S2CR_BYPASS, S2CR_FAULT, S2CR_TRANSLATE, S2cr, Smr, s2cr, smr,
};

use crate::counters::Operation;
use crate::hardware::Hardware;
use crate::matching::StreamMatch;

/// How StreamIDs find their group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// A StreamID is the number of its group.
    Indexing,
    /// Groups match StreamIDs.
    Matching {
        /// StreamIDs have 16 bits.
        extended: bool,
    },
}

/// What the hardware does with the streams of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// They fault.
    Fault,
    /// They pass.
    Bypass,
    /// A context bank translates.
    Bank(u8),
}

impl Path {
    /// What it is called in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Bypass => "bypass",
            Self::Bank(_) => "bank",
        }
    }

    fn word(self) -> S2cr {
        match self {
            Self::Fault => S2cr::new().with_kind(S2CR_FAULT),
            Self::Bypass => S2cr::new().with_kind(S2CR_BYPASS),
            Self::Bank(bank) => S2cr::new().with_kind(S2CR_TRANSLATE).with_cbndx(bank),
        }
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// The streams of a group that is valid, and where they go; none if it is not.
    pub(crate) fn read_group(&self, mapping: Mapping, group: usize) -> Option<(StreamMatch, Path)> {
        let to = S2cr::from_bits(self.registers.read32(s2cr(group)));
        // Where streams are indexed there are no such registers.
        let word = || self.registers.read32(smr(group));
        let (valid, streams) = match mapping {
            Mapping::Indexing => (true, StreamMatch::new(u16::try_from(group).unwrap_or(u16::MAX), 0)),
            Mapping::Matching { extended: true } => {
                let smr = ExtendedSmr::from_bits(word());
                (to.exidvalid(), StreamMatch::new(smr.exid(), smr.exmask()))
            }
            Mapping::Matching { extended: false } => {
                let smr = Smr::from_bits(word());
                (smr.valid(), StreamMatch::new(smr.id(), smr.mask()))
            }
        };
        let path = match to.kind() {
            S2CR_TRANSLATE => Path::Bank(to.cbndx()),
            S2CR_BYPASS => Path::Bypass,
            _ => Path::Fault,
        };
        valid.then_some((streams, path))
    }

    /// Makes a group that is not valid valid, for these streams.
    pub(crate) fn open_group(&self, mapping: Mapping, group: usize, streams: StreamMatch, path: Path) {
        let Mapping::Matching { extended } = mapping else {
            return self.write_s2cr(group, path.word());
        };
        if extended {
            let smr = ExtendedSmr::new().with_exid(streams.id()).with_exmask(streams.mask());
            self.write_smr(group, smr.into_bits());
            self.write_s2cr(group, path.word().with_exidvalid(true));
        } else {
            // Where they go is there before they match.
            self.write_s2cr(group, path.word());
            let smr = Smr::new().with_id(streams.id()).with_mask(streams.mask()).with_valid(true);
            self.write_smr(group, smr.into_bits());
        }
    }

    /// Leads the streams of a valid group elsewhere, and does not come back before the hardware has taken it.
    pub(crate) fn lead_group(&self, mapping: Mapping, group: usize, path: Path) {
        let extended = mapping == Mapping::Matching { extended: true };
        self.write_s2cr(group, path.word().with_exidvalid(extended));
        // A read that comes back says that the write before it has arrived.
        self.registers.read32(s2cr(group));
    }

    /// Makes a group nobody's.
    pub(crate) fn close_group(&self, mapping: Mapping, group: usize) {
        if mapping == (Mapping::Matching { extended: false }) {
            self.write_smr(group, 0);
        }
        self.write_s2cr(group, Path::Fault.word());
        if mapping == (Mapping::Matching { extended: true }) {
            self.write_smr(group, 0);
        }
        self.registers.read32(s2cr(group));
    }

    /// Which bits of a StreamID, and of a mask, a group that is not valid can hold.
    pub(crate) fn probe_group(&self, extended: bool, group: usize) -> (u16, u16) {
        let ones = if extended { u16::MAX } else { 0x7fff };
        let held = |id, mask| {
            // A mask may hide bits of the ID, so that each is tried without the other.
            if extended {
                self.registers
                    .write32(smr(group), ExtendedSmr::new().with_exid(id).with_exmask(mask).into_bits());
                let held = ExtendedSmr::from_bits(self.registers.read32(smr(group)));
                (held.exid(), held.exmask())
            } else {
                self.registers.write32(smr(group), Smr::new().with_id(id).with_mask(mask).into_bits());
                let held = Smr::from_bits(self.registers.read32(smr(group)));
                (held.id(), held.mask())
            }
        };
        let bits = (held(ones, 0).0, held(0, ones).1);
        self.registers.write32(smr(group), 0);
        bits
    }

    fn write_smr(&self, group: usize, word: u32) {
        self.count(Operation::StreamMatch);
        self.registers.write32(smr(group), word);
    }

    fn write_s2cr(&self, group: usize, word: S2cr) {
        self.count(Operation::StreamContext);
        self.registers.write32(s2cr(group), word.into_bits());
    }
}
