//! The shape of translation tables: granules, levels, where a walk begins.
//!
//! Spec: SMMUv2 D.c, 2.6.4 "The algorithm for finding the translation table descriptors".

/// The size of a page, which is the size of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Granule {
    Kib4,
    Kib16,
    Kib64,
}

/// The level of the last lookup.
pub(crate) const LAST_LEVEL: u8 = 3;

impl Granule {
    /// TCR.TG0 of either stage. Spec: SMMUv2 D.c, 16.5.38 "SMMU_CBn_TCR", TG0.
    pub(crate) fn from_tg0(code: u64) -> Option<Self> {
        match code & 3 {
            0 => Some(Self::Kib4),
            1 => Some(Self::Kib64),
            2 => Some(Self::Kib16),
            _ => None,
        }
    }

    /// TCR.TG1, which is coded differently. Spec: SMMUv2 D.c, 16.5.38 "SMMU_CBn_TCR", TG1.
    pub(crate) fn from_tg1(code: u64) -> Option<Self> {
        match code & 3 {
            1 => Some(Self::Kib16),
            2 => Some(Self::Kib4),
            3 => Some(Self::Kib64),
            _ => None,
        }
    }

    /// Bits of an offset in a page.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
            Self::Kib64 => 16,
        }
    }

    /// Bits of the address that one level resolves.
    pub(crate) const fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// log2 of what an entry of `level` covers.
    pub(crate) fn shift(self, level: u8) -> u32 {
        self.bits() + u32::from(LAST_LEVEL - level) * self.stride()
    }

    /// Whether a block may lie at `level`.
    pub(crate) fn block_at(self, level: u8) -> bool {
        match self {
            Self::Kib4 => level == 1 || level == 2,
            Self::Kib16 | Self::Kib64 => level == 2,
        }
    }

    /// Entries in one contiguous group at `level`; 1 where the hint has no meaning.
    ///
    /// Spec: Arm DDI 0487, D8.7.1 "The Contiguous bit".
    pub(crate) fn contiguous_entries(self, level: u8) -> u64 {
        match (self, level) {
            (Self::Kib4, 1..=3) => 16,
            (Self::Kib16, 2) | (Self::Kib64, 2 | 3) => 32,
            (Self::Kib16, 3) => 128,
            _ => 1,
        }
    }

    /// Where a stage 1 walk of `input_bits` begins.
    pub(crate) fn stage1_start(self, input_bits: u32) -> u8 {
        let resolved = input_bits.saturating_sub(1).saturating_sub(self.bits());
        LAST_LEVEL - u8::try_from(resolved / self.stride()).unwrap_or(LAST_LEVEL).min(LAST_LEVEL)
    }

    /// Where a stage 2 walk begins; none if SL0 is reserved for this granule.
    ///
    /// Spec: SMMUv2 D.c, 17.3.8 "SMMU_CBn_TCR", SL0.
    pub(crate) fn stage2_start(self, sl0: u64) -> Option<u8> {
        match (self, sl0) {
            (Self::Kib4, 0) => Some(2),
            (Self::Kib4, 1) => Some(1),
            (Self::Kib4, 2) => Some(0),
            (Self::Kib16 | Self::Kib64, 0) => Some(3),
            (Self::Kib16 | Self::Kib64, 1) => Some(2),
            (Self::Kib16 | Self::Kib64, 2) => Some(1),
            _ => None,
        }
    }

    /// Whether up to sixteen concatenated tables at `start` resolve just `input_bits`.
    ///
    /// Spec: Arm DDI 0487, AArch64.S2InconsistentSL; SMMUv2 D.c, 2.6.4, Tables 2-9 to 2-11.
    pub(crate) fn stage2_consistent(self, start: u8, input_bits: u32) -> bool {
        let least = self.shift(start) + 1;
        (least..=least + self.stride() - 1 + 4).contains(&input_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_begin_where_the_tables_of_the_book_say() {
        // Table 2-9: TnSZ 16 to 24 level 0, 25 to 33 level 1, 34 to 39 level 2.
        let starts = |granule: Granule, sizes: [u32; 6]| sizes.map(|size| granule.stage1_start(64 - size));
        assert_eq!(starts(Granule::Kib4, [16, 24, 25, 33, 34, 39]), [0, 0, 1, 1, 2, 2]);
        // Table 2-10: 16 level 0, 17 to 27 level 1, 28 to 38 level 2.
        assert_eq!(starts(Granule::Kib16, [16, 17, 27, 28, 38, 39]), [0, 1, 1, 2, 2, 3]);
        // Table 2-11: 16 to 21 level 1, 22 to 34 level 2, 35 to 39 level 3.
        assert_eq!(starts(Granule::Kib64, [16, 21, 22, 34, 35, 39]), [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn concatenated_tables_go_up_to_sixteen() {
        // 4 KiB, level 1: T0SZ 21 to 33; level 2: T0SZ 30 to 42.
        assert!(Granule::Kib4.stage2_consistent(1, 64 - 21) && Granule::Kib4.stage2_consistent(1, 64 - 33));
        assert!(!Granule::Kib4.stage2_consistent(1, 64 - 20) && !Granule::Kib4.stage2_consistent(1, 64 - 34));
        assert!(
            Granule::Kib64.stage2_consistent(2, 64 - 18) && !Granule::Kib64.stage2_consistent(2, 64 - 17)
        );
    }

    #[test]
    fn start_levels_and_granules_are_coded_as_the_book_has_them() {
        let start = |granule: Granule| [0, 1, 2, 3].map(|sl0| granule.stage2_start(sl0));
        assert_eq!(start(Granule::Kib4), [Some(2), Some(1), Some(0), None]);
        assert_eq!(start(Granule::Kib64), [Some(3), Some(2), Some(1), None]);
        assert_eq!(
            [0, 1, 2, 3].map(Granule::from_tg0),
            [Some(Granule::Kib4), Some(Granule::Kib64), Some(Granule::Kib16), None]
        );
        assert_eq!(
            [0, 1, 2, 3].map(Granule::from_tg1),
            [None, Some(Granule::Kib16), Some(Granule::Kib4), Some(Granule::Kib64)]
        );
    }
}
