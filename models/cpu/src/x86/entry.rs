//! Entries of paging structures: what the words of a table mean.
//!
//! Spec: Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging", tables "Format of a PML5 Entry (PML5E) that References a PML4 Table" to "Format of a Page-Table
//! Entry that Maps a 4-KByte Page"; 4.6 "Access Rights"; 4.9 "Paging and Memory Typing".

use portcullis_types::{AccessKind, Pa};

use super::context::Space;

/// Bit 5 (A).
pub(crate) const ACCESSED: u64 = 1 << 5;
/// Bit 6 (D), where a page is mapped.
pub(crate) const DIRTY: u64 = 1 << 6;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const PAGE_SIZE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// What every entry of a walk so far allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) execute: bool,
}

impl Rights {
    pub(crate) const ALL: Self = Self { write: true, user: true, execute: true };

    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            write: self.write & other.write,
            user: self.user & other.user,
            execute: self.execute & other.execute,
        }
    }

    /// Whether user code may do this.
    pub(crate) const fn allow(self, access: AccessKind) -> bool {
        self.user
            && match access {
                AccessKind::Read => true,
                AccessKind::Write => self.write,
                AccessKind::Execute => self.execute,
            }
    }
}

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    NotPresent,
    /// A bit is set that must not be.
    Reserved,
    /// It leads to a table.
    Table {
        at: Pa,
        rights: Rights,
    },
    /// It maps a page.
    Page(Page),
}

/// A page as its entry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) at: Pa,
    pub(crate) size_lg2: u8,
    pub(crate) rights: Rights,
    pub(crate) global: bool,
    /// Which entry of IA32_PAT its memory type is in.
    pub(crate) memory_index: u8,
}

/// How much an entry of `level` covers, as an exponent.
pub(crate) const fn entry_lg2(level: u8) -> u8 {
    12 + 9 * (level - 1)
}

/// What `word` means in a table of `level`: 1 for a page table up to 5 for a PML5 table.
pub(crate) const fn decode(word: u64, level: u8, space: &Space) -> Meaning {
    if word & PRESENT == 0 {
        return Meaning::NotPresent;
    }
    let large = level > 1 && word & PAGE_SIZE != 0;
    if word & reserved(level, large, space) != 0 {
        return Meaning::Reserved;
    }
    let address = word & ((1 << space.pa_bits) - 1) & !0xfff;
    let rights =
        Rights { write: word & WRITE != 0, user: word & USER != 0, execute: word & EXECUTE_DISABLE == 0 };
    if level > 1 && !large {
        return Meaning::Table { at: Pa::new(address), rights };
    }
    let size_lg2 = entry_lg2(level);
    let pat_at = if large { 12 } else { 7 };
    Meaning::Page(Page {
        at: Pa::new(address & !((1 << size_lg2) - 1)),
        size_lg2,
        rights,
        global: word & GLOBAL != 0 && space.global_pages,
        memory_index: (word >> 3 & 3 | (word >> pat_at & 1) << 2) as u8,
    })
}

/// The bits that must be clear in a present entry.
const fn reserved(level: u8, large: bool, space: &Space) -> u64 {
    let beyond = (1 << 52) - (1 << space.pa_bits);
    let execute = if space.execute_disable { 0 } else { EXECUTE_DISABLE };
    let size = match level {
        4.. => PAGE_SIZE,
        3 if !space.gib_pages => PAGE_SIZE,
        _ => 0,
    };
    // Between PAT and the page's address.
    let below = if large && level <= 3 { (1 << entry_lg2(level)) - (1 << 13) } else { 0 };
    beyond | execute | size | below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::{Context, CpuFeatures};

    fn space(pa_bits: u8, execute_disable: bool, gib_pages: bool) -> Space {
        let features = CpuFeatures { pa_bits, gib_pages, ..CpuFeatures::LARGE };
        let efer = if execute_disable { 0xd00 } else { 0x500 };
        Context { cr3: 0, cr4: 0xa0, efer }.decode(&features).unwrap()
    }

    fn rights(text: &str) -> Rights {
        Rights { write: text.contains('w'), user: text.contains('u'), execute: text.contains('x') }
    }

    #[test]
    fn an_entry_above_the_last_level_leads_to_a_table() {
        let space = space(46, true, true);
        for level in 2..=5 {
            let table = |at, text| Meaning::Table { at: Pa::new(at), rights: rights(text) };
            assert_eq!(decode(0x1234_5067, level, &space), table(0x1234_5000, "wux"));
            assert_eq!(decode(0x8000_3fff_1234_5065, level, &space), table(0x3fff_1234_5000, "u"));
            // Bits 62:52, 11:8 and 6 are ignored.
            assert_eq!(decode(0x7ff0_0000_1234_5f43, level, &space), table(0x1234_5000, "wx"));
            assert_eq!(decode(0x1234_5066, level, &space), Meaning::NotPresent);
        }
    }

    #[test]
    fn pages_of_every_size_lie_where_their_entries_say() {
        let space = space(46, true, true);
        let page = |word, level| match decode(word, level, &space) {
            Meaning::Page(page) => (page.at.get(), page.size_lg2, page.memory_index, page.global),
            other => panic!("{word:#x}: {other:?}"),
        };
        assert_eq!(page(0x1234_5067, 1), (0x1234_5000, 12, 0, false));
        assert_eq!(page(0x1234_51e7, 1), (0x1234_5000, 12, 4, true));
        assert_eq!(page(0x1234_507f, 1), (0x1234_5000, 12, 3, false));
        assert_eq!(page(0x1220_00e7, 2), (0x1220_0000, 21, 0, false));
        assert_eq!(page(0x1220_11ef, 2), (0x1220_0000, 21, 5, true));
        assert_eq!(page(0x3fff_c000_00e7, 3), (0x3fff_c000_0000, 30, 0, false));
        assert_eq!(page(0x3fff_c000_10f7, 3), (0x3fff_c000_0000, 30, 6, false));
    }

    #[test]
    fn reserved_bits_are_those_of_the_book_and_no_others() {
        // What must be clear, by level and whether bit 7 is set, for 46 bits, execute-disable and 1 GiB pages.
        let cases = [
            (1, false, 0x000f_c000_0000_0000),
            (1, true, 0x000f_c000_0000_0000),
            (2, false, 0x000f_c000_0000_0000),
            (2, true, 0x000f_c000_001f_e000),
            (3, false, 0x000f_c000_0000_0000),
            (3, true, 0x000f_c000_3fff_e000),
            (4, false, 0x000f_c000_0000_0080),
            (5, false, 0x000f_c000_0000_0080),
        ];
        let space = space(46, true, true);
        for (level, large, wanted) in cases {
            let plain = if large { 0x81 } else { 0x01 };
            let seen = (0..64)
                .filter(|bit| !(large && *bit == 7))
                .filter(|bit| !(matches!(level, 2 | 3) && !large && *bit == 7))
                .filter(|bit| decode(plain | 1 << bit, level, &space) == Meaning::Reserved)
                .fold(0, |bits, bit| bits | 1u64 << bit);
            assert_eq!(seen, wanted, "level {level}, large {large}");
        }
    }

    #[test]
    fn what_a_cpu_does_not_have_is_reserved() {
        let plain = space(52, false, false);
        assert_eq!(decode(1 << 63 | 1, 1, &plain), Meaning::Reserved);
        assert_eq!(decode(0x81, 3, &plain), Meaning::Reserved);
        assert!(matches!(decode(0x81, 2, &plain), Meaning::Page(_)));
        assert!(matches!(decode(0x000f_ffff_ffff_f001, 1, &plain), Meaning::Page(_)));
        assert!(matches!(decode(0x8000_0000_0000_0000, 1, &plain), Meaning::NotPresent));
    }

    #[test]
    fn user_code_needs_the_user_flag_for_everything() {
        use AccessKind::{Execute, Read, Write};
        let may = |text| [Read, Write, Execute].map(|access| rights(text).allow(access));
        assert_eq!(may("wx"), [false; 3]);
        assert_eq!(may("u"), [true, false, false]);
        assert_eq!(may("uw"), [true, true, false]);
        assert_eq!(may("ux"), [true, false, true]);
    }
}
