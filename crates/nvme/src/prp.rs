//! Physical region pages: how a command says where its data is.
//!
//! A [`Cutter`] takes a scatter list apart into commands: each a run of whole blocks, no longer than a command may be, that PRPs can
//! say. A [`List`] is the memory in which a command's PRP list lies.
//!
//! PRPs can say a run of bytes if only its first piece begins, and only its last ends, inside a page. Where a scatter list has a
//! gap in the middle of a page, a command ends and the next begins; if that would cut a block in two, the list is refused.
//!
//! Spec: NVMe Base 2.0, 4.1.1 "Physical Region Page Entry and List".

use alloc::vec::Vec;

use portcullis_core::dma::{DmaHandle, DmaMapError, DmaUnmapError, Segment};
use portcullis_hal::Platform;
use portcullis_types::mutant;

use crate::buffer::Buffer;
use crate::controller::Stuck;
use crate::error::NvmeError;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 8;

/// The two PRP fields of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Prps {
    /// The first piece; may begin inside a page.
    pub(crate) first: u64,
    /// The second page, or a list of the second and all after it, or 0.
    pub(crate) second: u64,
}

impl Prps {
    /// Data in one page.
    pub(crate) const fn one(page: u64) -> Self {
        Self { first: page, second: 0 }
    }
}

/// How a scatter list may be cut. All are powers of two but `max_bytes`, which is a multiple of `block_bytes`, above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// A memory page, `CC.MPS`.
    pub(crate) page_bytes: u64,
    /// A block.
    pub(crate) block_bytes: u64,
    /// The most bytes of one command.
    pub(crate) max_bytes: u64,
}

impl Limits {
    /// The most PRP entries that a command can need: data that begins in the last bytes of a page.
    const fn max_entries(&self) -> u64 {
        self.max_bytes.div_ceil(self.page_bytes) + 1
    }

    /// How many entries fit in a page of a list.
    const fn entries_per_page(&self) -> u64 {
        self.page_bytes / ENTRY_BYTES
    }

    /// How many pages the longest list takes. All but the last give their last entry to the pointer to the next.
    pub(crate) const fn list_pages(&self) -> u64 {
        let entries = self.max_entries() - 1;
        if entries <= self.entries_per_page() {
            return 1;
        }
        (entries - 1).div_ceil(self.entries_per_page() - 1)
    }
}

/// Takes a scatter list apart, from its beginning, a command at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Cutter {
    segment: usize,
    offset: u64,
}

impl Cutter {
    /// The next command's worth: its bytes; `pages` then holds the address of each piece. None at the end of the list.
    ///
    /// # Errors
    ///
    /// [`NvmeError::Misaligned`] where no command can be made.
    pub(crate) fn next(
        &mut self,
        segments: &[Segment],
        limits: &Limits,
        pages: &mut Vec<u64>,
    ) -> Result<Option<u64>, NvmeError> {
        pages.clear();
        let mut ahead = *self;
        let mut total = 0;
        while total < limits.max_bytes {
            let Some((address, room)) = ahead.piece(segments, limits.page_bytes) else { break };
            let inside = address % limits.page_bytes;
            let sayable = if total == 0 { address.is_multiple_of(4) } else { inside == 0 };
            if !sayable {
                break;
            }
            let end = if mutant!("page-list-runs-past-the-segment") { u64::MAX } else { room };
            let len_bytes = end.min(limits.page_bytes - inside).min(limits.max_bytes - total);
            pages.push(address);
            total += len_bytes;
            ahead.advance(segments, len_bytes);
            if inside + len_bytes != limits.page_bytes {
                break;
            }
        }
        self.commit(segments, limits, pages, total)
    }

    /// Cuts back to whole blocks and goes on behind them.
    fn commit(
        &mut self,
        segments: &[Segment],
        limits: &Limits,
        pages: &mut Vec<u64>,
        total: u64,
    ) -> Result<Option<u64>, NvmeError> {
        let Some((address, _)) = self.piece(segments, 0) else { return Ok(None) };
        let whole = total - total % limits.block_bytes;
        if whole == 0 {
            return Err(NvmeError::Misaligned { iova: address });
        }
        let needed = (address % limits.page_bytes + whole).div_ceil(limits.page_bytes);
        pages.truncate(usize::try_from(needed).unwrap_or(usize::MAX));
        self.advance(segments, whole);
        Ok(Some(whole))
    }

    /// Where the next byte is, and how many follow it without a gap, across segments too; it counts no further than
    /// `enough_bytes`.
    fn piece(&self, segments: &[Segment], enough_bytes: u64) -> Option<(u64, u64)> {
        let (first, rest) = segments.get(self.segment..)?.split_first()?;
        let address = first.iova.get() + self.offset;
        let mut room = first.len_bytes - self.offset;
        for next in rest {
            if room >= enough_bytes || next.iova.get() != address + room {
                break;
            }
            room += next.len_bytes;
        }
        Some((address, room))
    }

    fn advance(&mut self, segments: &[Segment], len_bytes: u64) {
        self.offset += len_bytes;
        while let Some(segment) = segments.get(self.segment)
            && self.offset >= segment.len_bytes
        {
            self.offset -= segment.len_bytes;
            self.segment += 1;
        }
    }
}

/// The memory for the PRP lists of all commands that can be in flight.
pub(crate) struct Lists<P: Platform> {
    memory: Buffer<P>,
    limits: Limits,
}

impl<P: Platform> Lists<P> {
    /// Room for a list of the longest kind for each of `slots` commands.
    pub(crate) fn new(
        dma: &DmaHandle<P>,
        stuck: &Stuck,
        limits: Limits,
        slots: u16,
    ) -> Result<Self, DmaMapError> {
        let len_bytes = u64::from(slots) * limits.list_pages() * limits.page_bytes;
        Ok(Self { memory: Buffer::new(dma, stuck, len_bytes, limits.page_bytes)?, limits })
    }

    /// The PRP fields for data at `pages` (at least one), with the list in the memory of `slot` if there must be one.
    pub(crate) fn describe(&self, slot: u16, pages: &[u64]) -> Prps {
        match *pages {
            [first] => Prps::one(first),
            [first, second] => Prps { first, second },
            [first, ref rest @ ..] => Prps { first, second: self.write_list(slot, rest) },
            [] => Prps::default(),
        }
    }

    /// Writes a list and answers where it begins.
    fn write_list(&self, slot: u16, mut entries: &[u64]) -> u64 {
        let start = u64::from(slot) * self.limits.list_pages() * self.limits.page_bytes;
        let per_page = usize::try_from(self.limits.entries_per_page()).unwrap_or(usize::MAX);
        let mut page = start;
        let mut bytes = Vec::with_capacity(per_page.min(entries.len()) * 8);
        while !entries.is_empty() {
            let last = entries.len() <= per_page;
            let (here, rest) = entries.split_at(if last { entries.len() } else { per_page - 1 });
            bytes.clear();
            here.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
            if !last {
                bytes.extend_from_slice(&self.memory.iova(page + self.limits.page_bytes).to_le_bytes());
            }
            self.memory.write(page, &bytes);
            page += self.limits.page_bytes;
            entries = rest;
        }
        self.memory.iova(start)
    }

    /// Gives the memory back.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm that it forgot the mapping. Core keeps the memory back then.
    pub(crate) fn free(self) -> Result<(), DmaUnmapError> {
        self.memory.free()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use portcullis_types::Iova;

    use super::*;

    const LIMITS: Limits = Limits { page_bytes: 4096, block_bytes: 512, max_bytes: 0x1_0000 };

    fn list(segments: &[(u64, u64)]) -> Vec<Segment> {
        segments.iter().map(|&(iova, len_bytes)| Segment { iova: Iova::new(iova), len_bytes }).collect()
    }

    /// Every command: its bytes and its pieces.
    fn cut(segments: &[(u64, u64)], limits: Limits) -> Result<Vec<(u64, Vec<u64>)>, NvmeError> {
        let segments = list(segments);
        let (mut cutter, mut pages, mut commands) = (Cutter::default(), Vec::new(), Vec::new());
        while let Some(bytes) = cutter.next(&segments, &limits, &mut pages)? {
            commands.push((bytes, pages.clone()));
        }
        Ok(commands)
    }

    #[test]
    fn a_run_inside_a_page_is_one_piece() {
        assert_eq!(cut(&[(0x1200, 0x400)], LIMITS), Ok(vec![(0x400, vec![0x1200])]));
    }

    #[test]
    fn a_run_over_pages_is_a_piece_for_each() {
        let commands = cut(&[(0x1e00, 0x1400)], LIMITS);
        assert_eq!(commands, Ok(vec![(0x1400, vec![0x1e00, 0x2000, 0x3000])]));
    }

    #[test]
    fn whole_pages_from_anywhere_are_one_command() {
        let commands = cut(&[(0x1800, 0x800), (0x9000, 0x1000), (0x5000, 0x600)], LIMITS);
        assert_eq!(commands, Ok(vec![(0x1e00, vec![0x1800, 0x9000, 0x5000])]));
    }

    #[test]
    fn segments_that_touch_inside_a_page_are_one_piece() {
        let commands = cut(&[(0x1000, 0x300), (0x1300, 0x100), (0x1400, 0xc00)], LIMITS);
        assert_eq!(commands, Ok(vec![(0x1000, vec![0x1000])]));
    }

    #[test]
    fn a_gap_inside_a_page_ends_the_command() {
        let commands = cut(&[(0x1000, 0x200), (0x9000, 0x1000)], LIMITS);
        assert_eq!(commands, Ok(vec![(0x200, vec![0x1000]), (0x1000, vec![0x9000])]));
        let commands = cut(&[(0x1000, 0x1000), (0x9200, 0x200)], LIMITS);
        assert_eq!(commands, Ok(vec![(0x1000, vec![0x1000]), (0x200, vec![0x9200])]));
    }

    #[test]
    fn a_gap_inside_a_block_is_refused() {
        assert_eq!(
            cut(&[(0x1000, 0x100), (0x9000, 0x100)], LIMITS),
            Err(NvmeError::Misaligned { iova: 0x1000 })
        );
    }

    #[test]
    fn a_gap_behind_a_part_of_a_block_is_refused_where_the_part_begins() {
        assert_eq!(
            cut(&[(0x1000, 0x300), (0x9000, 0x100)], LIMITS),
            Err(NvmeError::Misaligned { iova: 0x1200 })
        );
    }

    #[test]
    fn an_address_that_is_no_multiple_of_4_is_refused() {
        assert_eq!(cut(&[(0x1002, 0x200)], LIMITS), Err(NvmeError::Misaligned { iova: 0x1002 }));
    }

    #[test]
    fn a_long_run_is_cut_at_the_limit() {
        let commands = cut(&[(0x1200, 0x2_0000)], LIMITS).unwrap();
        let bytes: Vec<u64> = commands.iter().map(|command| command.0).collect();
        assert_eq!(bytes, [0x1_0000, 0x1_0000]);
        assert_eq!(commands[0].1.len(), 17);
        assert_eq!((commands[1].1[0], commands[1].1[1]), (0x1_1200, 0x1_2000));
    }

    #[test]
    fn what_is_cut_back_to_whole_blocks_keeps_only_the_pieces_it_needs() {
        let limits = Limits { block_bytes: 4096, ..LIMITS };
        // The third segment is a part of a block with a gap behind it.
        let commands = cut(&[(0x1000, 0x2000), (0x8000, 0x800)], limits);
        assert_eq!(commands, Err(NvmeError::Misaligned { iova: 0x8000 }));
        let (mut cutter, mut pages) = (Cutter::default(), Vec::new());
        let segments = list(&[(0x1000, 0x2000), (0x8000, 0x800)]);
        assert_eq!(cutter.next(&segments, &limits, &mut pages), Ok(Some(0x2000)));
        assert_eq!(pages, [0x1000, 0x2000]);
    }

    #[test]
    fn list_pages_hold_the_longest_list() {
        let pages = |max_bytes| Limits { max_bytes, ..LIMITS }.list_pages();
        // 512 entries to a page; data of n pages needs n entries in the list, since the first piece is not in it.
        assert_eq!((pages(4096), pages(512 * 4096)), (1, 1));
        assert_eq!((pages(513 * 4096), pages(1023 * 4096), pages(1024 * 4096)), (2, 2, 3));
    }
}
