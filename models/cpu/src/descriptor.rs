//! Stage 1 descriptors: what a word of a table means at its level.
//!
//! Spec: Arm ARM, D8.3 "Translation table descriptor formats"; permissions from D8.4 "Memory access control".

use portcullis_types::Pa;

use crate::context::{Form, Granule, Stage1};

/// A word, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// Nothing is there.
    Invalid,
    /// The table of the next level.
    Table(Table),
    /// A block or a page.
    Leaf(Leaf),
}

/// A table of the next level, and what it takes away from everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) at: Pa,
    pub(crate) limits: Limits,
}

/// What the tables of a walk take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Nothing for user code (APTable bit 0).
    pub(crate) no_user: bool,
    /// No writes (APTable bit 1).
    pub(crate) no_write: bool,
    /// No fetches by user code (UXNTable).
    pub(crate) no_user_execute: bool,
}

impl Limits {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            no_user: self.no_user || other.no_user,
            no_write: self.no_write || other.no_write,
            no_user_execute: self.no_user_execute || other.no_user_execute,
        }
    }
}

/// A block or a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) at: Pa,
    pub(crate) size_lg2: u8,
    /// AP bit 1: user code may read, and write if not `read_only`.
    pub(crate) user: bool,
    /// AP bit 2.
    pub(crate) read_only: bool,
    /// DBM: if read-only, it may be made writable by hardware that tracks what is dirty.
    pub(crate) dirty_tracked: bool,
    pub(crate) user_never_execute: bool,
    pub(crate) accessed: bool,
    pub(crate) not_global: bool,
    pub(crate) contiguous: bool,
    pub(crate) memory_index: u8,
}

/// AF, which hardware sets.
pub(crate) const ACCESSED: u64 = 1 << 10;
/// AP bit 2, which hardware clears when it makes a clean page dirty.
pub(crate) const READ_ONLY: u64 = 1 << 7;

const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 != 0
}

const fn ones(first: u8, end: u8) -> u64 {
    (1 << end) - (1 << first)
}

impl Descriptor {
    /// What `word` means in a table of `level`.
    pub(crate) fn decode(word: u64, level: i8, stage1: &Stage1) -> Self {
        if !bit(word, 0) {
            return Self::Invalid;
        }
        match (bit(word, 1), level) {
            (true, 3) => Self::Leaf(leaf(word, level, stage1)),
            (true, _) => Self::Table(table(word, stage1)),
            (false, _) if may_be_block(level, stage1) => Self::Leaf(leaf(word, level, stage1)),
            (false, _) => Self::Invalid,
        }
    }
}

fn may_be_block(level: i8, stage1: &Stage1) -> bool {
    match (stage1.granule, stage1.form) {
        (Granule::Kib4, Form::LargeDs) => (0..=2).contains(&level),
        (Granule::Kib4, _) | (Granule::Kib16, Form::LargeDs) | (Granule::Kib64, Form::Large64k) => {
            (1..=2).contains(&level)
        }
        (Granule::Kib16 | Granule::Kib64, _) => level == 2,
    }
}

/// The address in a word, of something that begins on a multiple of `1 << lg2`.
fn address(word: u64, lg2: u8, form: Form) -> Pa {
    Pa::new(match form {
        Form::Plain => word & ones(lg2, 48),
        Form::Large64k => word & ones(lg2, 48) | (word >> 12 & 0xf) << 48,
        Form::LargeDs => word & ones(lg2, 50) | (word >> 8 & 3) << 50,
    })
}

fn table(word: u64, stage1: &Stage1) -> Table {
    let limits = Limits { no_user_execute: bit(word, 60), no_user: bit(word, 61), no_write: bit(word, 62) };
    Table {
        at: address(word, stage1.granule.lg2(), stage1.form),
        limits: if stage1.hierarchy_ignored { Limits::default() } else { limits },
    }
}

fn leaf(word: u64, level: i8, stage1: &Stage1) -> Leaf {
    let size_lg2 = stage1.granule.entry_lg2(level);
    Leaf {
        at: address(word, size_lg2, stage1.form),
        size_lg2,
        user: bit(word, 6),
        read_only: bit(word, 7),
        dirty_tracked: bit(word, 51),
        user_never_execute: bit(word, 54),
        accessed: bit(word, 10),
        not_global: bit(word, 11),
        contiguous: bit(word, 52),
        memory_index: (word >> 2 & 7) as u8,
    }
}

/// How many entries of `level`, as an exponent, a run with the contiguous bit has.
///
/// Spec: Arm ARM, D8.7.1 "The Contiguous bit"
pub(crate) fn contiguous_lg2(granule: Granule, level: i8) -> u8 {
    match (granule, level) {
        (Granule::Kib4, _) => 4,
        (Granule::Kib16, 3) => 7,
        (Granule::Kib16 | Granule::Kib64, _) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, CpuFeatures};

    fn stage1(tcr: u64) -> Stage1 {
        Context { ttbr0: 0, tcr, mair: 0 }.decode(&CpuFeatures::LARGE).unwrap()
    }

    const K4: u64 = 0x5_0000_0010;
    const K16: u64 = 0x5_0000_8010;
    const K64: u64 = 0x6_0000_4010;
    const K4_DS: u64 = 0x0800_0006_0000_0010;
    const K16_DS: u64 = 0x0800_0006_0000_8010;

    fn page(word: u64, level: i8, tcr: u64) -> (u64, u8) {
        match Descriptor::decode(word, level, &stage1(tcr)) {
            Descriptor::Leaf(leaf) => (leaf.at.get(), leaf.size_lg2),
            other => panic!("{word:#x} at level {level} is {other:?}"),
        }
    }

    fn next(word: u64, level: i8, tcr: u64) -> u64 {
        match Descriptor::decode(word, level, &stage1(tcr)) {
            Descriptor::Table(table) => table.at.get(),
            other => panic!("{word:#x} at level {level} is {other:?}"),
        }
    }

    #[test]
    fn addresses_lie_where_the_book_puts_them() {
        assert_eq!(page(0x0060_8765_4321_0fc3, 3, K4), (0x8765_4321_0000, 12));
        assert_eq!(page(0x0060_8765_4320_0fc1, 2, K4), (0x8765_4320_0000, 21));
        assert_eq!(page(0x0060_8765_4000_0fc1, 1, K4), (0x8765_4000_0000, 30));
        assert_eq!(page(0x0060_8765_4321_4fc3, 3, K16), (0x8765_4321_4000, 14));
        assert_eq!(page(0x0060_8765_4200_0fc1, 2, K16), (0x8765_4200_0000, 25));
        assert_eq!(page(0x0060_8765_4321_afc3, 3, K64), (0xa_8765_4321_0000, 16));
        assert_eq!(page(0x0060_8765_6000_afc1, 2, K64), (0xa_8765_6000_0000, 29));
        assert_eq!(page(0x0060_8400_0000_afc1, 1, K64), (0xa_8400_0000_0000, 42));
        assert_eq!(page(0x0063_8765_4321_0dc3, 3, K4_DS), (0x7_8765_4321_0000, 12));
        assert_eq!(page(0x0063_8700_0000_0cc1, 0, K4_DS), (0x3_8700_0000_0000 & !0x7f_ffff_ffff, 39));
        assert_eq!(page(0x0060_8770_0000_0dc1, 1, K16_DS), (0x4_8770_0000_0000, 36));
        assert_eq!(next(0x8765_4321_0003, 0, K4), 0x8765_4321_0000);
        assert_eq!(next(0x8765_4321_c003, 1, K16), 0x8765_4321_c000);
        assert_eq!(next(0x8765_4321_f003, 1, K64), 0xf_8765_4321_0000);
        assert_eq!(next(0x0003_8765_4321_0203, -1, K4_DS), 0xb_8765_4321_0000);
    }

    #[test]
    fn blocks_are_only_at_the_levels_that_have_them() {
        let is_leaf =
            |level, tcr| matches!(Descriptor::decode(0x1, level, &stage1(tcr)), Descriptor::Leaf(_));
        let levels = |tcr| (-1..=3).filter(|&level| is_leaf(level, tcr)).collect::<Vec<_>>();
        assert_eq!((levels(K4), levels(K16), levels(K64)), (vec![1, 2], vec![2], vec![1, 2]));
        assert_eq!((levels(K4_DS), levels(K16_DS)), (vec![0, 1, 2], vec![1, 2]));
        let small = Context { ttbr0: 0, tcr: K64, mair: 0 }.decode(&CpuFeatures::COMMON).unwrap();
        assert_eq!(Descriptor::decode(1, 1, &small), Descriptor::Invalid);
    }

    #[test]
    fn without_the_valid_bit_there_is_nothing() {
        for level in 0..=3 {
            assert_eq!(Descriptor::decode(!1, level, &stage1(K4)), Descriptor::Invalid);
        }
    }

    #[test]
    fn attributes_lie_where_the_book_puts_them() {
        let leaf = |word: u64| match Descriptor::decode(word | 3, 3, &stage1(K4)) {
            Descriptor::Leaf(leaf) => leaf,
            other => panic!("{other:?}"),
        };
        let none = leaf(0);
        assert_eq!(leaf(1 << 6), Leaf { user: true, ..none });
        assert_eq!(leaf(1 << 7), Leaf { read_only: true, ..none });
        assert_eq!(leaf(1 << 10), Leaf { accessed: true, ..none });
        assert_eq!(leaf(1 << 11), Leaf { not_global: true, ..none });
        assert_eq!(leaf(1 << 51), Leaf { dirty_tracked: true, ..none });
        assert_eq!(leaf(1 << 52), Leaf { contiguous: true, ..none });
        assert_eq!(leaf(1 << 53), none);
        assert_eq!(leaf(1 << 54), Leaf { user_never_execute: true, ..none });
        assert_eq!(leaf(5 << 2), Leaf { memory_index: 5, ..none });
    }

    #[test]
    fn tables_take_away_what_their_bits_say_unless_that_is_switched_off() {
        let limits = |word: u64, tcr| match Descriptor::decode(word | 3, 0, &stage1(tcr)) {
            Descriptor::Table(table) => table.limits,
            other => panic!("{other:?}"),
        };
        let none = Limits::default();
        assert_eq!(limits(1 << 60, K4), Limits { no_user_execute: true, ..none });
        assert_eq!(limits(1 << 61, K4), Limits { no_user: true, ..none });
        assert_eq!(limits(1 << 62, K4), Limits { no_write: true, ..none });
        assert_eq!(limits(7 << 60, K4 | 1 << 41), none);
    }

    #[test]
    fn contiguous_runs_have_the_lengths_of_the_book() {
        use Granule::{Kib4, Kib16, Kib64};
        let bytes = |granule: Granule, level| contiguous_lg2(granule, level) + granule.entry_lg2(level);
        // 64K, 32M, 16G; 2M, 1G; 2M, 16G.
        assert_eq!([bytes(Kib4, 3), bytes(Kib4, 2), bytes(Kib4, 1)], [16, 25, 34]);
        assert_eq!([bytes(Kib16, 3), bytes(Kib16, 2)], [21, 30]);
        assert_eq!([bytes(Kib64, 3), bytes(Kib64, 2)], [21, 34]);
    }
}
