//! The shape of translation tables: granules, levels, where a walk begins.
//!
//! Spec: Arm DDI 0487, D8.2 "Translation process", D8.1.1 "Translation granules", AArch64.S1StartLevel, AArch64.S2InconsistentSL.

/// The size of a page, which is the size of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Granule {
    Kib4,
    Kib16,
    Kib64,
}

/// The level of the last lookup.
pub(crate) const LAST_LEVEL: i8 = 3;

impl Granule {
    /// STE.S2TG and CD.TG0.
    pub(crate) fn from_tg0(code: u64) -> Option<Self> {
        [Some(Self::Kib4), Some(Self::Kib64), Some(Self::Kib16), None][usize::try_from(code & 3).ok()?]
    }

    /// CD.TG1, which is coded differently.
    pub(crate) fn from_tg1(code: u64) -> Option<Self> {
        [None, Some(Self::Kib16), Some(Self::Kib4), Some(Self::Kib64)][usize::try_from(code & 3).ok()?]
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

    /// Bits of the address below what an entry of `level` resolves: the log2 of what it covers.
    pub(crate) fn shift(self, level: i8) -> u32 {
        self.bits() + u32::try_from(LAST_LEVEL - level).unwrap_or(0) * self.stride()
    }

    /// Whether a block may lie at `level`. `large` says that the granule's 52-bit form is in use.
    ///
    /// Spec: Arm DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats".
    pub(crate) fn block_at(self, level: i8, large: bool) -> bool {
        match self {
            Self::Kib4 => level == 1 || level == 2 || (level == 0 && large),
            Self::Kib16 | Self::Kib64 => level == 2 || (level == 1 && large),
        }
    }

    /// Entries in one contiguous group at `level`; 1 where the hint has no meaning.
    ///
    /// Spec: Arm DDI 0487, D8.7.1 "The Contiguous bit".
    pub(crate) fn contiguous_entries(self, level: i8) -> u64 {
        match (self, level) {
            (Self::Kib4, 1..=3) => 16,
            (Self::Kib16, 2) | (Self::Kib64, 2 | 3) => 32,
            (Self::Kib16, 3) => 128,
            _ => 1,
        }
    }

    /// Where a stage 1 walk of `input_bits` begins.
    pub(crate) fn stage1_start(self, input_bits: u32) -> i8 {
        let resolved = input_bits.saturating_sub(1).saturating_sub(self.bits());
        LAST_LEVEL - i8::try_from(resolved / self.stride()).unwrap_or(4)
    }

    /// Where a stage 2 walk begins; none if SL0 (with S2SL0_2 above it) is reserved for this granule.
    ///
    /// Spec: Arm DDI 0487, AArch64.S2InvalidSL, AArch64.S2StartLevel.
    pub(crate) fn stage2_start(self, sl0: u64, oas: u32, small_tables: bool, ds: bool) -> Option<i8> {
        match (self, sl0) {
            (Self::Kib4, 0) => Some(2),
            (Self::Kib4, 1) => Some(1),
            (Self::Kib4, 2) if oas >= 44 => Some(0),
            (Self::Kib4, 3) if small_tables => Some(3),
            (Self::Kib4, 4) if oas >= 52 => Some(-1),
            (Self::Kib16 | Self::Kib64, 0) => Some(3),
            (Self::Kib16 | Self::Kib64, 1) => Some(2),
            (Self::Kib16, 2) if oas >= 42 => Some(1),
            (Self::Kib16, 3) if ds && oas >= 52 => Some(0),
            (Self::Kib64, 2) if oas >= 44 => Some(1),
            _ => None,
        }
    }

    /// Whether up to sixteen concatenated tables at `start` resolve just `input_bits`.
    ///
    /// Spec: Arm DDI 0487, AArch64.S2InconsistentSL.
    pub(crate) fn stage2_consistent(self, start: i8, input_bits: u32) -> bool {
        let least = self.shift(start) + 1;
        (least..=least + self.stride() - 1 + 4).contains(&input_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_begin_where_the_architecture_says() {
        assert_eq!(Granule::Kib4.stage1_start(48), 0);
        assert_eq!(Granule::Kib4.stage1_start(39), 1);
        assert_eq!(Granule::Kib4.stage1_start(52), -1);
        assert_eq!(Granule::Kib4.stage1_start(25), 2);
        assert_eq!(Granule::Kib16.stage1_start(48), 0);
        assert_eq!(Granule::Kib16.stage1_start(47), 1);
        assert_eq!(Granule::Kib64.stage1_start(48), 1);
        assert_eq!(Granule::Kib64.stage1_start(52), 1);
        assert_eq!(Granule::Kib64.stage1_start(42), 2);
    }

    #[test]
    fn concatenation_goes_up_to_sixteen_tables() {
        // 4 KiB, level 1: 30 + 1 to 39 + 4 bits.
        assert!(Granule::Kib4.stage2_consistent(1, 31) && Granule::Kib4.stage2_consistent(1, 43));
        assert!(!Granule::Kib4.stage2_consistent(1, 30) && !Granule::Kib4.stage2_consistent(1, 44));
    }

    #[test]
    fn each_start_level_of_stage_2_needs_what_the_architecture_says() {
        // Granule, SL0, output bits, small tables, DS, where the walk begins.
        let rows = [
            (Granule::Kib4, 0, 32, false, false, Some(2)),
            (Granule::Kib4, 1, 32, false, false, Some(1)),
            (Granule::Kib4, 2, 44, false, false, Some(0)),
            (Granule::Kib4, 2, 42, false, false, None),
            (Granule::Kib4, 3, 48, true, false, Some(3)),
            (Granule::Kib4, 3, 48, false, false, None),
            (Granule::Kib4, 4, 52, false, true, Some(-1)),
            (Granule::Kib4, 4, 48, false, true, None),
            (Granule::Kib4, 5, 52, true, true, None),
            (Granule::Kib16, 0, 32, false, false, Some(3)),
            (Granule::Kib16, 1, 32, false, false, Some(2)),
            (Granule::Kib16, 2, 42, false, false, Some(1)),
            (Granule::Kib16, 2, 40, false, false, None),
            (Granule::Kib16, 3, 52, false, true, Some(0)),
            (Granule::Kib16, 3, 52, false, false, None),
            (Granule::Kib16, 3, 48, false, true, None),
            (Granule::Kib64, 0, 32, false, false, Some(3)),
            (Granule::Kib64, 1, 32, false, false, Some(2)),
            (Granule::Kib64, 2, 44, false, false, Some(1)),
            (Granule::Kib64, 2, 42, false, false, None),
            (Granule::Kib64, 3, 52, false, true, None),
        ];
        for (granule, sl0, oas, small_tables, ds, start) in rows {
            assert_eq!(
                granule.stage2_start(sl0, oas, small_tables, ds),
                start,
                "{granule:?} {sl0} {oas} {small_tables} {ds}"
            );
        }
    }

    #[test]
    fn granule_codes_differ_between_the_two_fields() {
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
