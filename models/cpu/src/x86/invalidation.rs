//! What one CPU is told to forget.
//!
//! Spec: Intel SDM volume 3A, 4.10.4.1 "Operations that Invalidate TLBs and Paging-Structure Caches"; volume 2A, "INVPCID", "INVLPG".

/// What is to be forgotten, on the CPU that is told. More may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// INVLPG: what translates an address in the current PCID, global or not, and all paging-structure caches of the current PCID.
    Page {
        /// Any address of the page.
        va: u64,
    },
    /// INVPCID of type 0: what translates an address in a PCID but its global entries, and what paging-structure caches hold for that address.
    Address {
        /// Whose.
        pcid: u16,
        /// Any address of the page.
        va: u64,
    },
    /// INVPCID of type 1: everything of a PCID but its global entries.
    Context {
        /// Whose.
        pcid: u16,
    },
    /// INVPCID of type 2: everything.
    AllWithGlobals,
    /// INVPCID of type 3: everything but global entries.
    All,
}

/// A range of more pages than this is forgotten with its PCID. Choice: as others have it.
const MOST_PAGES: u64 = 32;

impl Invalidation {
    /// What makes a CPU forget each page of 4 KiB of `first..=last` in a PCID, and tables on the way to it. Global entries stay.
    pub fn of_range(pcid: u16, first: u64, last: u64) -> Vec<Self> {
        let (first, last) = (first >> 12, last >> 12);
        if last < first {
            return Vec::new();
        }
        if last - first >= MOST_PAGES {
            return vec![Self::Context { pcid }];
        }
        (first..=last).map(|page| Self::Address { pcid, va: page << 12 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_range_is_forgotten_page_by_page_and_a_long_one_with_its_pcid() {
        let pages = Invalidation::of_range(7, 0x1fff, 0x3000);
        let at = |va| Invalidation::Address { pcid: 7, va };
        assert_eq!(pages, [at(0x1000), at(0x2000), at(0x3000)]);
        assert_eq!(Invalidation::of_range(7, 0, 0x1_ffff).len(), 32);
        assert_eq!(Invalidation::of_range(7, 0, 0x2_0000), [Invalidation::Context { pcid: 7 }]);
        assert_eq!(Invalidation::of_range(7, 0, u64::MAX), [Invalidation::Context { pcid: 7 }]);
        assert_eq!(Invalidation::of_range(7, 0x2000, 0x1000), []);
    }
}
