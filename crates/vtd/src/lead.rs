//! Where an entry leads: the words of context and PASID table entries.
//!
//! Spec: VT-d 5.10, 9.3 "Context Entry", 9.6 "Scalable-Mode PASID Table Entry".

use portcullis_spec::vtd::context::{ContextWord0, ContextWord1, TT_PASS_THROUGH, TT_UNTRANSLATED};
use portcullis_spec::vtd::pasid::*;
use portcullis_types::{Gpa, Pa, mutant};

use crate::descriptor::Descriptor;
use crate::features::Features;

/// A present entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// The domain-id: what tags what hardware remembers.
    pub(crate) did: u16,
    pub(crate) to: To,
}

/// What requests go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Nothing.
    Memory,
    /// A second-stage table.
    Second {
        /// Where it lies.
        root: Pa,
        /// Its width.
        aw: u8,
    },
    /// A first-stage table.
    First {
        /// Where it lies.
        root: Pa,
        /// [`FSPM_4_LEVELS`] or [`FSPM_5_LEVELS`].
        fspm: u8,
        /// The memory types that it refers to.
        pat: u32,
        /// Whether privileged accesses obey read-only entries too, as a process's do.
        process: bool,
    },
    /// A guest's first-stage table, and a second-stage table for its addresses.
    Nested {
        /// Where the guest's lies.
        root: Gpa,
        /// [`FSPM_4_LEVELS`] or [`FSPM_5_LEVELS`].
        fspm: u8,
        /// The memory types that it refers to.
        pat: u32,
        /// Whether privileged accesses obey read-only entries too.
        write_protect: bool,
        /// Whether hardware sets the extended accessed flag.
        extended_accessed: bool,
        /// Where the second stage's lies.
        second: Pa,
        /// Its width.
        aw: u8,
    },
}

impl Lead {
    /// The context entry of legacy mode; none for a first stage, which it does not have.
    pub(crate) fn context(&self, features: &Features) -> Option<[u64; 2]> {
        let (tt, root, aw) = match self.to {
            To::Memory => (TT_PASS_THROUGH, 0, features.widest_aw),
            To::Second { root, aw } => (TT_UNTRANSLATED, root.get(), aw),
            To::First { .. } | To::Nested { .. } => return None,
        };
        let word0 = ContextWord0::new().with_p(true).with_tt(tt).with_ssptptr_address(root);
        let word1 = ContextWord1::new().with_aw(aw).with_did(self.did);
        Some([word0.into_bits(), word1.into_bits()])
    }

    /// The PASID table entry of scalable mode.
    ///
    /// PWSNP says that walks snoop, PGSNP that accesses do whatever the device asks for; both where hardware can.
    ///
    /// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry": PWSNP is reserved where SMPWCS is clear, PGSNP
    /// where SC is, PAT where MTS is.
    pub(crate) fn pasid(&self, features: &Features) -> [u64; PASID_ENTRY_WORDS] {
        let present = PasidWord0::new().with_p(true);
        let word1 = PasidWord1::new().with_did(self.did).with_pwsnp(features.extended.smpwcs());
        let mut words = [0; PASID_ENTRY_WORDS];
        match self.to {
            To::Memory => {
                // Spec: VT-d 5.10, 9.6, AW: reserved without a second stage, and ignored where requests pass.
                let aw = if features.extended.ssts() { features.widest_aw } else { 0 };
                words[0] = present.with_pgtt(PGTT_PASS_THROUGH).with_aw(aw).into_bits();
                words[1] = word1.into_bits();
            }
            To::Second { root, aw } => {
                let word0 = present.with_pgtt(PGTT_SECOND_STAGE).with_aw(aw);
                words[0] = word0.with_ssptptr_address(root.get()).into_bits();
                words[1] = word1.into_bits();
            }
            To::First { root, fspm, pat, process } => {
                words[0] = present.with_pgtt(PGTT_FIRST_STAGE).into_bits();
                let pat = if features.extended.mts() { pat } else { 0 };
                words[1] = word1.with_pgsnp(features.extended.sc()).with_pat(pat).into_bits();
                let word2 = PasidWord2::new().with_fspm(fspm).with_wpe(process);
                words[2] = word2.with_fsptptr_address(root.get()).into_bits();
            }
            To::Nested { root, fspm, pat, write_protect, extended_accessed, second, aw } => {
                let kind = if mutant!("vtd-nested-without-the-second-stage") {
                    PGTT_FIRST_STAGE
                } else {
                    PGTT_NESTED
                };
                let word0 = present.with_pgtt(kind).with_aw(aw);
                words[0] = word0.with_ssptptr_address(second.get()).into_bits();
                let pat = if features.extended.mts() { pat } else { 0 };
                words[1] = word1.with_pgsnp(features.extended.sc()).with_pat(pat).into_bits();
                let word2 = PasidWord2::new().with_fspm(fspm).with_wpe(write_protect);
                let word2 = word2.with_eafe(extended_accessed && features.extended.eafs());
                words[2] = word2.with_fsptptr_address(root.get()).into_bits();
            }
        }
        words
    }

    /// What the IOTLB has to forget of this entry.
    ///
    /// Spec: VT-d 5.10, 6.5.3.3 "Guidance to Software for Invalidations", Table 28.
    pub(crate) fn forget_iotlb(&self, scalable: bool, pasid: u32) -> Descriptor {
        match self.to {
            To::Memory | To::First { .. } if scalable => Descriptor::iotlb_pasid(self.did, pasid),
            _ => Descriptor::iotlb_domain(self.did),
        }
    }
}
