//! RAM: what memory holds, behind every buffer and cache.
//!
//! A [`Ram`] is a few regions of physical addresses. Storage comes in chunks of 64 KiB when something other than zero
//! is first written there, so that a machine of many gigabytes costs what is used of it.
//!
//! Storage can also be somebody else's, memory that hardware outside of this process reads and writes too ([`Ram::over`]).
//!
//! Each 64 bytes carry a mark that says whether the block they belong to was freed ([`Heap`](crate::Heap) sets it). A
//! use of marked memory is let through and remembered: a [`FreedUse`].
//!
//! Words are little-endian: bit 0 of a word lies in its first byte. Aligned words are read and written in one step, and a
//! writer's earlier words are visible to who sees its later ones.
//!
//! Not here: who sees what when (`store_buffer`, `cache`).

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use portcullis_types::{Pa, PaRange};

use crate::BusError;

const CHUNK_BYTES: u64 = 64 * 1024;
const CHUNK_WORDS: usize = 8192;
/// How many bytes share one mark.
pub(crate) const MARK_BYTES: u64 = 64;
const MARK_WORDS: usize = (CHUNK_BYTES / MARK_BYTES / 64) as usize;
const FREED_USES_KEPT: usize = 64;

/// Physical memory.
pub struct Ram {
    regions: Vec<Region>,
    freed_uses: Mutex<Vec<FreedUse>>,
    freed_use_count: AtomicUsize,
}

/// Memory was used after it was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedUse {
    /// The first byte of the use.
    pub at: Pa,
    /// How many bytes.
    pub len_bytes: u64,
    /// Who used it.
    pub by: User,
    /// Whether it was written.
    pub write: bool,
}

/// Who uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// A CPU.
    Cpu,
    /// A device, an IOMMU, any other hardware.
    Hardware,
}

struct Region {
    range: PaRange,
    chunks: Box<[OnceLock<Chunk>]>,
}

/// Words that are somebody else's: those of one region, in their order.
pub type Words = dyn AsRef<[AtomicU64]> + Send + Sync;

struct Chunk {
    storage: Storage,
    freed: [AtomicU64; MARK_WORDS],
}

enum Storage {
    Own(Box<[AtomicU64]>),
    /// From this word on.
    Shared(Arc<Words>, usize),
}

impl Chunk {
    fn zeroed() -> Self {
        let words = vec![0; CHUNK_WORDS].into_iter().map(AtomicU64::new).collect();
        Self::of(Storage::Own(words))
    }

    fn of(storage: Storage) -> Self {
        Self { storage, freed: [const { AtomicU64::new(0) }; MARK_WORDS] }
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.storage {
            Storage::Own(words) => words,
            Storage::Shared(words, first) => &(**words).as_ref()[*first..*first + CHUNK_WORDS],
        }
    }
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

/// One word of a run of bytes: which of the word's bytes are meant, and where they lie in the run.
struct Piece {
    word: usize,
    bytes: Range<usize>,
    run: Range<usize>,
}

impl Piece {
    fn is_whole(&self) -> bool {
        self.bytes.len() == 8
    }
}

/// Some marks of a chunk, both ends included.
#[derive(Clone, Copy)]
struct Marks {
    first: usize,
    last: usize,
}

impl Marks {
    /// The words in which they lie, and which of their bits they are.
    fn words(self) -> impl Iterator<Item = (usize, u64)> {
        let Self { first, last } = self;
        (first / 64..=last / 64).map(move |index| {
            let low = if index == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if index == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            (index, low & high)
        })
    }
}

impl Ram {
    /// RAM at these addresses, all zero.
    ///
    /// # Panics
    ///
    /// If a region does not begin and end on multiples of 64 KiB, or two of them overlap.
    pub fn new(regions: &[PaRange]) -> Self {
        for (index, region) in regions.iter().enumerate() {
            assert!(region.is_aligned(CHUNK_BYTES), "RAM at {region} is not made of 64 KiB chunks");
            let clash = regions[..index].iter().find(|other| other.overlaps(*region));
            assert!(clash.is_none(), "RAM at {region} is there twice");
        }
        Self {
            regions: regions.iter().copied().map(Region::new).collect(),
            freed_uses: Mutex::default(),
            freed_use_count: AtomicUsize::new(0),
        }
    }

    /// RAM at `range` that is `words`: what they hold is what is there, and who changes them changes it.
    ///
    /// # Panics
    ///
    /// If the range does not begin and end on multiples of 64 KiB, or has another length than `words`.
    pub fn over(range: PaRange, words: &Arc<Words>) -> Self {
        let ram = Self::new(&[range]);
        let chunks = &ram.regions[0].chunks;
        assert!((**words).as_ref().len() == chunks.len() * CHUNK_WORDS, "{range} has other words");
        for (index, chunk) in chunks.iter().enumerate() {
            let shared = Storage::Shared(words.clone(), index * CHUNK_WORDS);
            assert!(chunk.set(Chunk::of(shared)).is_ok(), "a new region has no chunks");
        }
        ram
    }

    /// Where there is RAM.
    pub fn regions(&self) -> impl Iterator<Item = PaRange> + '_ {
        self.regions.iter().map(|region| region.range)
    }

    /// Whether there is RAM at every byte of `len_bytes` from `at`.
    pub fn holds(&self, at: Pa, len_bytes: u64) -> bool {
        PaRange::new(at, len_bytes)
            .is_some_and(|run| self.regions.iter().any(|region| region.range.covers(run)))
    }

    /// How much storage the RAM has taken from the host so far, in bytes.
    pub fn storage_bytes(&self) -> u64 {
        let used = |region: &Region| region.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        self.regions.iter().map(used).sum::<usize>() as u64 * CHUNK_BYTES
    }

    /// Reads bytes.
    ///
    /// # Errors
    ///
    /// The run is not all inside one region.
    pub fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        let (region, mut offset) = self.find(at, into.len())?;
        let mut rest = into;
        while !rest.is_empty() {
            let (chunk, within, len) = region.split(offset, rest.len());
            let (now, later) = rest.split_at_mut(len);
            match region.chunks[chunk].get() {
                Some(chunk) => chunk.read(within, now),
                None => now.fill(0),
            }
            offset += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// The run is not all inside one region; then nothing was written.
    pub fn write(&self, at: Pa, from: &[u8]) -> Result<(), BusError> {
        let (region, mut offset) = self.find(at, from.len())?;
        let mut rest = from;
        while !rest.is_empty() {
            let (chunk, within, len) = region.split(offset, rest.len());
            let (now, later) = rest.split_at(len);
            region.chunks[chunk].get_or_init(Chunk::zeroed).write(within, now);
            offset += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Sets `len_bytes` bytes to `byte`.
    ///
    /// # Errors
    ///
    /// The run is not all inside one region; then nothing was written.
    pub fn fill(&self, at: Pa, len_bytes: u64, byte: u8) -> Result<(), BusError> {
        let len = usize::try_from(len_bytes).map_err(|_| BusError { at })?;
        if len == 0 {
            return Ok(());
        }
        let (region, mut offset) = self.find(at, len)?;
        let mut left = len;
        while left > 0 {
            let (chunk, within, len) = region.split(offset, left);
            region.chunks[chunk].get_or_init(Chunk::zeroed).fill(within, len, byte);
            offset += len as u64;
            left -= len;
        }
        Ok(())
    }

    /// The word at `at`, a multiple of 8.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn load(&self, at: Pa) -> Result<u64, BusError> {
        let (region, chunk, word) = self.find_word(at)?;
        Ok(region.chunks[chunk].get().map_or(0, |chunk| chunk.words()[word].load(Ordering::Acquire)))
    }

    /// Stores the bytes of `value` that `mask` has ones for into the word at `at`, a multiple of 8, in one step.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn store_masked(&self, at: Pa, value: u64, mask: u64) -> Result<(), BusError> {
        let (region, chunk, word) = self.find_word(at)?;
        region.chunks[chunk].get_or_init(Chunk::zeroed).store(word, value, mask);
        Ok(())
    }

    /// Stores `new` into the word at `at`, a multiple of 8, if `current` is there, and answers what was there.
    ///
    /// # Errors
    ///
    /// No RAM there, or `at` is no multiple of 8.
    pub fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError> {
        let (region, chunk, word) = self.find_word(at)?;
        let word = &region.chunks[chunk].get_or_init(Chunk::zeroed).words()[word];
        let (Ok(found) | Err(found)) =
            word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
        Ok(found)
    }

    /// Marks a run as freed, or as in use again. Ends on multiples of 64 bytes.
    pub(crate) fn mark_freed(&self, run: PaRange, freed: bool) {
        let Some(len) = run.len_bytes() else { return };
        let Ok((region, first)) = self.find(run.first(), usize::try_from(len).unwrap_or(usize::MAX)) else {
            return;
        };
        region.chunks_of(first, first + len - 1).for_each(|(chunk, marks)| match (chunk.get(), freed) {
            (None, false) => (),
            (Some(chunk), false) => chunk.mark(marks, false),
            (_, true) => chunk.get_or_init(Chunk::zeroed).mark(marks, true),
        });
    }

    /// Remembers a use of memory if some of it was freed.
    pub(crate) fn note_use(&self, at: Pa, len_bytes: usize, by: User, write: bool) {
        let Ok((region, offset)) = self.find(at, len_bytes) else { return };
        if len_bytes == 0 || !region.any_freed(offset, offset + len_bytes as u64 - 1) {
            return;
        }
        self.freed_use_count.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.freed_uses.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < FREED_USES_KEPT {
            kept.push(FreedUse { at, len_bytes: len_bytes as u64, by, write });
        }
    }

    /// How often freed memory was used.
    pub fn freed_use_count(&self) -> usize {
        self.freed_use_count.load(Ordering::Relaxed)
    }

    /// The first uses of freed memory, oldest first; no more than 64 of them.
    pub fn freed_uses(&self) -> Vec<FreedUse> {
        self.freed_uses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, at: Pa, len: usize) -> Result<(&Region, u64), BusError> {
        let run = PaRange::new(at, len.max(1) as u64).ok_or(BusError { at })?;
        let region = self.regions.iter().find(|region| region.range.covers(run)).ok_or(BusError { at })?;
        Ok((region, at.get() - region.range.first().get()))
    }

    fn find_word(&self, at: Pa) -> Result<(&Region, usize, usize), BusError> {
        if !at.is_aligned(8) {
            return Err(BusError { at });
        }
        let (region, offset) = self.find(at, 8)?;
        Ok((region, (offset / CHUNK_BYTES) as usize, (offset % CHUNK_BYTES / 8) as usize))
    }
}

impl Region {
    fn new(range: PaRange) -> Self {
        let count = range.last().get() / CHUNK_BYTES - range.first().get() / CHUNK_BYTES + 1;
        Self { range, chunks: (0..count).map(|_| OnceLock::new()).collect() }
    }

    /// The chunk that `offset` lies in, where in it, and how many of `len` bytes fit there.
    fn split(&self, offset: u64, len: usize) -> (usize, usize, usize) {
        let within = (offset % CHUNK_BYTES) as usize;
        ((offset / CHUNK_BYTES) as usize, within, len.min(CHUNK_BYTES as usize - within))
    }

    /// The chunks of the bytes from `first` to `last`, and which marks of each are theirs.
    fn chunks_of(&self, first: u64, last: u64) -> impl Iterator<Item = (&OnceLock<Chunk>, Marks)> {
        (first / CHUNK_BYTES..=last / CHUNK_BYTES).map(move |index| {
            let base = index * CHUNK_BYTES;
            let mark = |offset: u64| ((offset - base) / MARK_BYTES) as usize;
            let marks = Marks { first: mark(first.max(base)), last: mark(last.min(base + CHUNK_BYTES - 1)) };
            (&self.chunks[index as usize], marks)
        })
    }

    fn any_freed(&self, first: u64, last: u64) -> bool {
        self.chunks_of(first, last)
            .any(|(chunk, marks)| chunk.get().is_some_and(|chunk| chunk.any_freed(marks)))
    }
}

impl Chunk {
    fn read(&self, within: usize, into: &mut [u8]) {
        let words = &self.words()[within / 8..];
        if within.is_multiple_of(8) {
            let (whole, tail) = into.as_chunks_mut::<8>();
            for (bytes, word) in whole.iter_mut().zip(words) {
                *bytes = word.load(Ordering::Acquire).to_le_bytes();
            }
            if !tail.is_empty() {
                let word = words[whole.len()].load(Ordering::Acquire).to_le_bytes();
                tail.copy_from_slice(&word[..tail.len()]);
            }
            return;
        }
        for piece in pieces(within, into.len()) {
            let word = self.words()[piece.word].load(Ordering::Acquire).to_le_bytes();
            into[piece.run].copy_from_slice(&word[piece.bytes]);
        }
    }

    fn write(&self, within: usize, from: &[u8]) {
        if within.is_multiple_of(8) && from.len().is_multiple_of(8) {
            let (whole, _) = from.as_chunks::<8>();
            for (bytes, word) in whole.iter().zip(&self.words()[within / 8..]) {
                word.store(u64::from_le_bytes(*bytes), Ordering::Release);
            }
            return;
        }
        for piece in pieces(within, from.len()) {
            let whole = piece.is_whole();
            let (mut value, mut mask) = ([0; 8], [0; 8]);
            value[piece.bytes.clone()].copy_from_slice(&from[piece.run]);
            mask[piece.bytes].fill(0xff);
            let mask = if whole { u64::MAX } else { u64::from_le_bytes(mask) };
            self.store(piece.word, u64::from_le_bytes(value), mask);
        }
    }

    fn fill(&self, within: usize, len: usize, byte: u8) {
        let value = u64::from_le_bytes([byte; 8]);
        if within.is_multiple_of(8) && len.is_multiple_of(8) {
            let words = &self.words()[within / 8..(within + len) / 8];
            return words.iter().for_each(|word| word.store(value, Ordering::Release));
        }
        for piece in pieces(within, len) {
            let mut mask = [0; 8];
            mask[piece.bytes].fill(0xff);
            self.store(piece.word, value, u64::from_le_bytes(mask));
        }
    }

    fn store(&self, word: usize, value: u64, mask: u64) {
        let word = &self.words()[word];
        if mask == u64::MAX {
            return word.store(value, Ordering::Release);
        }
        let merged = |old: u64| Some(old & !mask | value & mask);
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, merged).expect("merging never declines");
    }

    fn mark(&self, marks: Marks, freed: bool) {
        for (index, bits) in marks.words() {
            if freed {
                self.freed[index].fetch_or(bits, Ordering::Relaxed);
            } else {
                self.freed[index].fetch_and(!bits, Ordering::Relaxed);
            }
        }
    }

    fn any_freed(&self, marks: Marks) -> bool {
        marks.words().any(|(index, bits)| self.freed[index].load(Ordering::Relaxed) & bits != 0)
    }
}

/// Cuts a run of `len` bytes that begins `within` bytes into a chunk at the borders of words.
fn pieces(within: usize, len: usize) -> impl Iterator<Item = Piece> {
    let end = within + len;
    (within / 8..end.div_ceil(8)).map(move |word| {
        let (first, last) = ((8 * word).max(within), (8 * word + 8).min(end));
        Piece { word, bytes: first - 8 * word..last - 8 * word, run: first - within..last - within }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, len_bytes: u64) -> PaRange {
        PaRange::new(Pa::new(first), len_bytes).unwrap()
    }

    fn ram() -> Ram {
        Ram::new(&[range(0x4000_0000, 1 << 32), range(0x80_0000_0000, 0x2_0000)])
    }

    #[test]
    fn storage_is_taken_only_where_something_is_written() {
        let ram = ram();
        let mut bytes = [1; 100];
        ram.read(Pa::new(0x8000_0000), &mut bytes).unwrap();
        assert_eq!((bytes, ram.storage_bytes()), ([0; 100], 0));
        ram.write(Pa::new(0x1_3fff_ffff), &[7]).unwrap();
        assert_eq!(ram.storage_bytes(), 0x1_0000);
    }

    #[test]
    fn memory_of_somebody_elses_is_what_he_sees() {
        struct Theirs(Box<[AtomicU64]>);
        impl AsRef<[AtomicU64]> for Theirs {
            fn as_ref(&self) -> &[AtomicU64] {
                &self.0
            }
        }
        let theirs = Arc::new(Theirs((0..2 * CHUNK_WORDS as u64).map(AtomicU64::new).collect()));
        let words: Arc<Words> = theirs.clone();
        let ram = Ram::over(range(0x4000_0000, 0x2_0000), &words);
        assert_eq!(ram.load(Pa::new(0x4001_0008)), Ok(CHUNK_WORDS as u64 + 1));
        ram.write(Pa::new(0x4000_fffc), &[1; 8]).unwrap();
        assert_eq!(theirs.0[CHUNK_WORDS - 1].load(Ordering::SeqCst), 0x0101_0101_0000_1fff);
        theirs.0[7].store(9, Ordering::SeqCst);
        assert_eq!(ram.compare_exchange(Pa::new(0x4000_0038), 9, 8), Ok(9));
        assert_eq!(theirs.0[7].load(Ordering::SeqCst), 8);
    }

    #[test]
    fn every_small_run_reads_back_and_leaves_its_neighbours_alone() {
        let base = 0x4000_fff0u64;
        for first in 0..16 {
            for len in 0..20usize {
                let ram = ram();
                ram.fill(Pa::new(base), 64, 0xee).unwrap();
                let bytes: Vec<u8> = (1..).take(len).collect();
                ram.write(Pa::new(base + first), &bytes).unwrap();
                let mut all = [0; 64];
                ram.read(Pa::new(base), &mut all).unwrap();
                let mut expected = [0xee; 64];
                expected[first as usize..first as usize + len].copy_from_slice(&bytes);
                assert_eq!(all, expected, "{first} {len}");
                let mut part = vec![0; len];
                ram.read(Pa::new(base + first), &mut part).unwrap();
                assert_eq!(part, bytes);
            }
        }
    }

    #[test]
    fn a_run_is_filled_to_its_ends_and_no_further() {
        // Within words, and over a border of chunks.
        let base = 0x4000_fff0u64;
        for first in 0..16 {
            for len in 0..24 {
                let ram = ram();
                ram.write(Pa::new(base), &[1; 40]).unwrap();
                ram.fill(Pa::new(base + first as u64), len as u64, 0xee).unwrap();
                let mut all = [0; 40];
                ram.read(Pa::new(base), &mut all).unwrap();
                let mut expected = [1; 40];
                expected[first..first + len].fill(0xee);
                assert_eq!(all, expected, "{first} {len}");
            }
        }
        // From within a chunk through all of the next into the one behind it.
        let ram = ram();
        ram.fill(Pa::new(0x4000_8000), 0x2_0000, 0x5a).unwrap();
        let found =
            [0x4000_7ff8, 0x4000_8000, 0x4001_0000, 0x4002_7ff8, 0x4002_8000].map(|at| ram.load(Pa::new(at)));
        let full = Ok(0x5a5a_5a5a_5a5a_5a5a);
        assert_eq!(found, [Ok(0), full, full, full, Ok(0)]);
        assert_eq!(ram.fill(Pa::new(0), 0, 7), Ok(()), "nothing fits anywhere");
    }

    #[test]
    fn words_are_little_endian() {
        let ram = ram();
        ram.write(Pa::new(0x4000_0008), &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!(ram.load(Pa::new(0x4000_0008)), Ok(0x0807_0605_0403_0201));
        ram.store_masked(Pa::new(0x4000_0008), 0xaaaa_bbbb_cccc_dddd, 0xffff_ffff).unwrap();
        assert_eq!(ram.load(Pa::new(0x4000_0008)), Ok(0x0807_0605_cccc_dddd));
        assert_eq!(ram.compare_exchange(Pa::new(0x4000_0008), 1, 2), Ok(0x0807_0605_cccc_dddd));
        assert_eq!(
            ram.compare_exchange(Pa::new(0x4000_0008), 0x0807_0605_cccc_dddd, 2),
            Ok(0x0807_0605_cccc_dddd)
        );
        assert_eq!(ram.load(Pa::new(0x4000_0008)), Ok(2));
    }

    #[test]
    fn nothing_answers_beside_the_regions() {
        let ram = ram();
        let at = Pa::new(0x8001_fffc);
        assert!(ram.holds(at, 4));
        let top = Pa::new(0x80_0001_fffc);
        assert_eq!(ram.read(top, &mut [0; 5]), Err(BusError { at: top }));
        assert_eq!(ram.write(top, &[0; 5]), Err(BusError { at: top }));
        assert_eq!(ram.fill(top, 5, 0), Err(BusError { at: top }));
        assert_eq!(ram.load(Pa::new(0x3fff_fff8)), Err(BusError { at: Pa::new(0x3fff_fff8) }));
        assert_eq!(ram.load(Pa::new(0x4000_0004)), Err(BusError { at: Pa::new(0x4000_0004) }));
        assert_eq!(ram.read(Pa::new(u64::MAX), &mut [0; 2]), Err(BusError { at: Pa::new(u64::MAX) }));
    }

    #[test]
    fn a_use_of_freed_memory_is_remembered_to_the_64_bytes() {
        let ram = ram();
        ram.mark_freed(range(0x4000_ffc0, 0x80), true);
        ram.note_use(Pa::new(0x4000_ff80), 0x40, User::Hardware, false);
        ram.note_use(Pa::new(0x4001_0040), 0x40, User::Hardware, false);
        assert_eq!(ram.freed_use_count(), 0);
        ram.note_use(Pa::new(0x4000_0000), 0x1_0000, User::Hardware, true);
        ram.note_use(Pa::new(0x4001_003f), 1, User::Cpu, false);
        let first =
            FreedUse { at: Pa::new(0x4000_0000), len_bytes: 0x1_0000, by: User::Hardware, write: true };
        let second = FreedUse { at: Pa::new(0x4001_003f), len_bytes: 1, by: User::Cpu, write: false };
        assert_eq!(ram.freed_uses(), [first, second]);
        ram.mark_freed(range(0x4000_ffc0, 0x80), false);
        ram.note_use(Pa::new(0x4000_0000), 0x1_0000, User::Hardware, true);
        assert_eq!(ram.freed_use_count(), 2);
    }

    #[test]
    fn a_long_run_is_marked_to_its_ends_and_no_further() {
        let ram = ram();
        let used = |first: u64| {
            let before = ram.freed_use_count();
            ram.note_use(Pa::new(first), 0x40, User::Cpu, false);
            ram.freed_use_count() != before
        };
        // From within a chunk through all of the next into the one behind it.
        let (first, end) = (0x4000_f0c0, 0x4002_2f40);
        ram.mark_freed(range(first, end - first), true);
        let freed: Vec<u64> = (0x4000_0000..0x4004_0000).step_by(0x40).filter(|&at| used(at)).collect();
        assert_eq!(freed, (first..end).step_by(0x40).collect::<Vec<_>>());
        ram.mark_freed(range(0x4000_ffc0, 0x1_0080), false);
        let kept = (first..0x4000_ffc0).chain(0x4002_0040..end).step_by(0x40);
        let freed: Vec<u64> = (0x4000_0000..0x4004_0000).step_by(0x40).filter(|&at| used(at)).collect();
        assert_eq!(freed, kept.collect::<Vec<_>>());
    }
}
