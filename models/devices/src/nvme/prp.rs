//! Physical region pages: where a command's data lies.
//!
//! The first entry may begin inside a page, every other one is a whole page. If the second entry's worth of data is more than a page, it
//! points to a list; the last entry of a full list page points to the next one.
//!
//! Spec: NVMe 1.4, 4.3 "Physical Region Page Entry and List".

use portcullis_types::Iova;

use super::status::Status;
use crate::pcie::Requester;

/// A run of memory on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) at: Iova,
    pub(crate) len: usize,
}

/// Reads lists of entries.
pub(crate) trait ReadList {
    fn read(&self, at: Iova, into: &mut [u8]) -> Result<(), Status>;
}

impl ReadList for Requester {
    fn read(&self, at: Iova, into: &mut [u8]) -> Result<(), Status> {
        Requester::read(self, None, at, into).map_err(|_| Status::TRANSFER_ERROR)
    }
}

/// The memory that holds `len` bytes of data, in order, for pages of `page` bytes.
///
/// # Errors
///
/// PRP Offset Invalid for an entry that does not begin where it must, Data Transfer Error if a list cannot be read.
pub(crate) fn resolve(
    lists: &impl ReadList,
    prp1: u64,
    prp2: u64,
    len: usize,
    page: usize,
) -> Result<Vec<Segment>, Status> {
    if prp1 & 3 != 0 {
        return Err(Status::PRP_OFFSET);
    }
    let first = len.min(page - (prp1 as usize & (page - 1)));
    let mut segments = vec![Segment { at: Iova::new(prp1), len: first }];
    let rest = len - first;
    if rest == 0 {
        return Ok(segments);
    }
    if rest <= page {
        segments.push(whole_page(prp2, rest, page)?);
        return Ok(segments);
    }
    let mut list = prp2;
    let mut left = rest;
    while left > 0 {
        let entries = read_list(lists, list, left.div_ceil(page), page)?;
        let (pages, next) = match entries.split_last() {
            Some((&next, pages)) if entries.len() < left.div_ceil(page) => (pages, Some(next)),
            _ => (&entries[..], None),
        };
        for &entry in pages {
            let len = left.min(page);
            segments.push(whole_page(entry, len, page)?);
            left -= len;
        }
        if let Some(next) = next {
            // A list that another one points to begins with its page, or a chain of pointers alone could go on for ever.
            list = whole_page(next, 0, page)?.at.get();
        }
    }
    Ok(segments)
}

fn whole_page(entry: u64, len: usize, page: usize) -> Result<Segment, Status> {
    if entry & (page as u64 - 1) != 0 {
        return Err(Status::PRP_OFFSET);
    }
    Ok(Segment { at: Iova::new(entry), len })
}

/// As many entries from `list` on as are wanted, or as there are to the end of the page.
fn read_list(lists: &impl ReadList, list: u64, wanted: usize, page: usize) -> Result<Vec<u64>, Status> {
    if list & 7 != 0 {
        return Err(Status::PRP_OFFSET);
    }
    let room = (page - (list as usize & (page - 1))) / 8;
    let mut bytes = vec![0; 8 * wanted.min(room)];
    lists.read(Iova::new(list), &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Lists(HashMap<u64, u64>);

    impl ReadList for Lists {
        fn read(&self, at: Iova, into: &mut [u8]) -> Result<(), Status> {
            for (index, entry) in into.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let word = self.0.get(&(at.get() + 8 * index as u64)).ok_or(Status::TRANSFER_ERROR)?;
                *entry = word.to_le_bytes();
            }
            Ok(())
        }
    }

    fn lists(entries: impl IntoIterator<Item = (u64, u64)>) -> Lists {
        Lists(entries.into_iter().collect())
    }

    fn segment(at: u64, len: usize) -> Segment {
        Segment { at: Iova::new(at), len }
    }

    #[test]
    fn one_page_needs_one_entry() {
        let none = lists([]);
        assert_eq!(resolve(&none, 0x1000, 0xbad, 4096, 4096), Ok(vec![segment(0x1000, 4096)]));
        assert_eq!(resolve(&none, 0x1e00, 0xbad, 512, 4096), Ok(vec![segment(0x1e00, 512)]));
        assert_eq!(resolve(&none, 0x1e02, 0, 16, 4096), Err(Status::PRP_OFFSET));
        assert_eq!(resolve(&none, 0x1000, 0xbad, 65536, 65536), Err(Status::PRP_OFFSET));
    }

    #[test]
    fn two_pages_need_two_entries_the_second_a_whole_page() {
        let none = lists([]);
        let two = vec![segment(0x1e00, 512), segment(0x5000, 4096)];
        assert_eq!(resolve(&none, 0x1e00, 0x5000, 4608, 4096), Ok(two));
        assert_eq!(resolve(&none, 0x1e00, 0x5008, 4608, 4096), Err(Status::PRP_OFFSET));
    }

    #[test]
    fn three_pages_need_a_list_that_may_begin_inside_a_page() {
        let list = lists([(0x9f10, 0x2000), (0x9f18, 0x7000)]);
        let three = vec![segment(0x1800, 2048), segment(0x2000, 4096), segment(0x7000, 1)];
        assert_eq!(resolve(&list, 0x1800, 0x9f10, 2048 + 4096 + 1, 4096), Ok(three));
        assert_eq!(resolve(&list, 0x1800, 0x9f14, 2048 + 4096 + 1, 4096), Err(Status::PRP_OFFSET));
        assert_eq!(resolve(&list, 0x1800, 0x9f00, 2048 + 4096 + 1, 4096), Err(Status::TRANSFER_ERROR));
    }

    #[test]
    fn the_last_entry_of_a_list_page_is_data_if_it_is_the_last_page_and_a_pointer_if_not() {
        let list = lists([(0x9ff0, 0x2000), (0x9ff8, 0xa000), (0xa000, 0x3000), (0xa008, 0x4000)]);
        let ended = vec![segment(0, 4096), segment(0x2000, 4096), segment(0xa000, 4096)];
        assert_eq!(resolve(&list, 0, 0x9ff0, 3 * 4096, 4096), Ok(ended));
        let chained =
            vec![segment(0, 4096), segment(0x2000, 4096), segment(0x3000, 4096), segment(0x4000, 4096)];
        assert_eq!(resolve(&list, 0, 0x9ff0, 4 * 4096, 4096), Ok(chained));
    }

    #[test]
    fn an_entry_that_is_not_a_whole_page_is_refused_wherever_it_lies() {
        let data = lists([(0x9000, 0x2000), (0x9008, 0x3004)]);
        assert_eq!(resolve(&data, 0, 0x9000, 3 * 4096, 4096), Err(Status::PRP_OFFSET));
        let chain = lists([(0x9ff8, 0x9ff0)]);
        assert_eq!(resolve(&chain, 0, 0x9ff8, 3 * 4096, 4096), Err(Status::PRP_OFFSET));
    }

    #[test]
    fn a_list_that_points_to_itself_ends_with_the_data() {
        let own = lists((0..512).map(|index| (0x9000 + 8 * index, 0x9000)));
        let segments = resolve(&own, 0, 0x9000, 1024 * 4096, 4096).unwrap();
        assert_eq!(segments.len(), 1024);
    }
}
