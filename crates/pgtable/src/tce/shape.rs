//! Which tables there can be: the rule of level sizes, and what a table costs.

use portcullis_hal::BlockLayout;
use portcullis_types::SizeLg2;

/// The most levels that hardware walks. Observed: skiboot include/phb3-regs.h, `IODA2_TVE_5_LEVELS`.
pub const MAX_LEVELS: u8 = 5;

/// How many bits a walk may resolve, one more than allowed. Observed: Linux 4.20, `pnv_pci_ioda2_table_alloc_pages`.
const TOO_MANY_BITS: u32 = 55;

/// What a table looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TceShape {
    page: SizeLg2,
    window_lg2: u8,
    levels: u8,
    level_lg2: u8,
}

/// Why there is no such table. EINVAL, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TceShapeError {
    /// The page is smaller than 4 KiB.
    PageSize(SizeLg2),
    /// The window is empty, no power of two, or smaller than a page.
    WindowSize(u64),
    /// No level, or more than hardware walks.
    Levels(u8),
    /// Levels of this size resolve more address bits than hardware has.
    TooDeep {
        /// log2 of the bytes of a level.
        level_lg2: u8,
        /// How many levels.
        levels: u8,
    },
}

impl TceShape {
    /// A window of `window_bytes` bytes in pages of `page`, by `levels` levels, each a multiple of the CPU's page, `cpu_page`.
    ///
    /// Observed: Linux 4.20, `pnv_pci_ioda2_table_alloc_pages`: the entries' bits are shared out evenly, rounded up; a level is no smaller than
    /// a page of the CPU; what resolves 55 bits or more is refused.
    ///
    /// # Errors
    ///
    /// As [`TceShapeError`] says.
    pub fn new(
        page: SizeLg2,
        window_bytes: u64,
        levels: u8,
        cpu_page: SizeLg2,
    ) -> Result<Self, TceShapeError> {
        if page.get() < 12 {
            return Err(TceShapeError::PageSize(page));
        }
        if !window_bytes.is_power_of_two() || window_bytes < page.bytes() {
            return Err(TceShapeError::WindowSize(window_bytes));
        }
        if levels == 0 || levels > MAX_LEVELS {
            return Err(TceShapeError::Levels(levels));
        }
        let window_lg2 = window_bytes.trailing_zeros();
        let entries_lg2 = window_lg2 - u32::from(page.get());
        let level_lg2 = (entries_lg2.div_ceil(u32::from(levels)) + 3).max(u32::from(cpu_page.get())).max(12);
        let bits = (level_lg2 - 3) * u32::from(levels) + u32::from(page.get());
        let level_lg2 = u8::try_from(level_lg2).expect("64 + 3 at most");
        if bits >= TOO_MANY_BITS {
            return Err(TceShapeError::TooDeep { level_lg2, levels });
        }
        let window_lg2 = u8::try_from(window_lg2).expect("below 64");
        Ok(Self { page, window_lg2, levels, level_lg2 })
    }

    /// The page size.
    pub const fn page(self) -> SizeLg2 {
        self.page
    }

    /// How many levels, from 1.
    pub const fn levels(self) -> u8 {
        self.levels
    }

    /// log2 of the bytes of each level: what hardware is told of the first.
    pub const fn level_lg2(self) -> u8 {
        self.level_lg2
    }

    /// The window's bytes.
    pub const fn window_bytes(self) -> u64 {
        1 << self.window_lg2
    }

    /// How many entries the window has.
    pub const fn entries(self) -> u64 {
        1 << (self.window_lg2 - self.page.get())
    }

    /// log2 of the entries of a level.
    pub(crate) const fn fan_lg2(self) -> u32 {
        self.level_lg2 as u32 - 3
    }

    /// A level.
    pub(crate) const fn layout(self) -> BlockLayout {
        BlockLayout::naturally_aligned(self.level_lg2)
    }

    /// What the table costs where a user pays for it: every level at full size, twice, for hardware's table and the user's view of it.
    ///
    /// Observed: Linux 4.20, `pnv_pci_ioda2_get_table_size`; 1 GiB of 64 KiB pages costs 256, 264, 272, 280 KiB by one to four levels.
    pub fn accounted_bytes(self) -> u64 {
        let level_bytes = 1u64 << self.level_lg2;
        let mut at_this_level = self.entries().saturating_mul(8).max(0x1000);
        let mut bytes = 0u64;
        for _ in 0..self.levels {
            let whole = at_this_level.checked_next_multiple_of(level_bytes).unwrap_or(u64::MAX);
            bytes = bytes.saturating_add(whole);
            at_this_level = ((at_this_level >> self.level_lg2) << 3).max(level_bytes);
        }
        bytes.saturating_mul(2)
    }
}
