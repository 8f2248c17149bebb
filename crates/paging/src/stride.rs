//! How far apart the addresses are by which hardware forgets a range, where there is one command for each.
//!
//! Not here: the commands, and when there are so many that everything is forgotten instead (the drivers).

use portcullis_types::SizeLg2;

/// The distance for a range that was mapped with this granule, in leaves of `leaf` bytes and more.
///
/// `tables` says that tables above the leaves went too, perhaps such as had smaller leaves, of which hardware has not confirmed that it forgot them. What walks remember of tables
/// is forgotten by an address below each: then no step leaps over one that maps pages.
pub fn stride(granule: SizeLg2, leaf: SizeLg2, tables: bool) -> SizeLg2 {
    // A table of pages has as many of them as 8-byte entries fill one.
    let below = SizeLg2::new(granule.get() + (granule.get() - 3)).filter(|_| tables);
    leaf.min(below.unwrap_or(leaf)).max(granule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_tables_went_it_is_at_most_what_one_of_pages_maps_and_never_less_than_a_page() {
        let size = |lg2| SizeLg2::new(lg2).unwrap();
        for (granule, table) in [(SizeLg2::KIB_4, 21), (SizeLg2::KIB_16, 25), (SizeLg2::KIB_64, 29)] {
            assert_eq!(stride(granule, size(42), false), size(42), "leaves alone");
            assert_eq!(stride(granule, size(42), true), size(table));
            assert_eq!(stride(granule, granule, true), granule);
            assert_eq!(stride(granule, size(9), true), granule, "no leaf is smaller than a page");
        }
    }
}
