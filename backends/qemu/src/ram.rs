//! A machine's RAM, in this process too.

use core::num::NonZeroUsize;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::fs::File;
use std::sync::Arc;

use portcullis_types::{Pa, PaRange};

use crate::QemuError;
use crate::raw::Mapping;

/// A machine's RAM, mapped. Whatever its size, an access here is one or more accesses to naturally aligned 64-bit words, each
/// single-copy atomic, unordered among themselves: order is the barriers' business.
#[derive(Debug)]
pub struct Ram {
    range: PaRange,
    mapping: Mapping,
}

impl Ram {
    /// Maps `file` as the RAM that begins at `base`. Its length is the RAM's.
    pub(crate) fn map(file: &File, base: Pa) -> Result<Self, QemuError> {
        let refuse = |what: &dyn core::fmt::Display| QemuError::host("mapping QEMU's memory", what);
        let len_bytes = file.metadata().map_err(|error| refuse(&error))?.len();
        let words = usize::try_from(len_bytes).ok().and_then(NonZeroUsize::new);
        let (Some(len), Some(range)) = (words, PaRange::new(base, len_bytes)) else {
            return Err(refuse(&format!("{len_bytes} bytes at {base} are not a size")));
        };
        let mapping = Mapping::of(file, len).map_err(|error| refuse(&error))?;
        Ok(Self { range, mapping })
    }

    /// Where it lies.
    pub fn range(&self) -> PaRange {
        self.range
    }

    fn word(&self, at: Pa) -> &AtomicU64 {
        let offset = at.get().wrapping_sub(self.range.first().get());
        match usize::try_from(offset / 8).ok().and_then(|index| self.mapping.words().get(index)) {
            Some(word) => word,
            None => panic!("there is no memory at {at}"),
        }
    }

    /// The little-endian word at `at`, a multiple of 8.
    ///
    /// # Panics
    ///
    /// Here and below: if the access is not aligned, or not all of it is RAM.
    pub fn load64(&self, at: Pa) -> u64 {
        assert!(at.is_aligned(8), "{at} is not a multiple of 8");
        u64::from_le(self.word(at).load(Relaxed))
    }

    /// Stores a little-endian word at `at`, a multiple of 8.
    pub fn store64(&self, at: Pa, word: u64) {
        assert!(at.is_aligned(8), "{at} is not a multiple of 8");
        self.word(at).store(word.to_le(), Relaxed);
    }

    /// Stores `new` at `at`, a multiple of 8, if `current` is there.
    ///
    /// # Errors
    ///
    /// The word that was found instead.
    pub fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        assert!(at.is_aligned(8), "{at} is not a multiple of 8");
        let exchanged = self.word(at).compare_exchange(current.to_le(), new.to_le(), Relaxed, Relaxed);
        exchanged.map(u64::from_le).map_err(u64::from_le)
    }

    /// The little-endian 32-bit word at `at`, a multiple of 4.
    pub fn load32(&self, at: Pa) -> u32 {
        assert!(at.is_aligned(4), "{at} is not a multiple of 4");
        let word = self.load64(at.align_down(8));
        #[expect(clippy::cast_possible_truncation, reason = "one half of the word")]
        let half = (word >> (8 * at.offset_in(8))) as u32;
        half
    }

    /// Stores a little-endian 32-bit word at `at`, a multiple of 4, in one access.
    pub fn store32(&self, at: Pa, word: u32) {
        assert!(at.is_aligned(4), "{at} is not a multiple of 4");
        let first = usize::from(at.offset_in(8) != 0) * 4;
        self.patch(at.align_down(8), first..first + 4, &word.to_le_bytes());
    }

    /// Copies memory from `at` on.
    pub fn read(&self, at: Pa, into: &mut [u8]) {
        let mut rest = into;
        for (word_at, bytes) in words_of(at, rest.len()) {
            let (part, behind) = rest.split_at_mut(bytes.len());
            part.copy_from_slice(&self.load64(word_at).to_le_bytes()[bytes]);
            rest = behind;
        }
    }

    /// Copies bytes to memory from `at` on. Bytes beside them are not changed, not even for a moment.
    pub fn write(&self, at: Pa, from: &[u8]) {
        let mut rest = from;
        for (word_at, bytes) in words_of(at, rest.len()) {
            let (part, behind) = rest.split_at(bytes.len());
            self.patch(word_at, bytes, part);
            rest = behind;
        }
    }

    /// Changes some bytes of the word at `at`. The others stay what the device made them meanwhile.
    fn patch(&self, at: Pa, bytes: Range<usize>, from: &[u8]) {
        if let Ok(whole) = from.try_into() {
            return self.store64(at, u64::from_le_bytes(whole));
        }
        let mut found = self.load64(at);
        loop {
            let mut word = found.to_le_bytes();
            word[bytes.clone()].copy_from_slice(from);
            match self.compare_exchange(at, found, u64::from_le_bytes(word)) {
                Ok(_) => return,
                Err(other) => found = other,
            }
        }
    }

    /// A part of it as words: `part` lies in it, both ends on multiples of 8.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn part(self: &Arc<Self>, part: PaRange) -> RamPart {
        assert!(self.range.covers(part) && part.is_aligned(8), "{part} is not a part of {}", self.range);
        let index = |at: Pa| ((at.get() - self.range.first().get()) / 8) as usize;
        RamPart { words: index(part.first())..index(part.last()) + 1, ram: self.clone() }
    }
}

/// The words that hold `len` bytes from `at` on: each word's address, and which of its bytes.
fn words_of(at: Pa, len: usize) -> impl Iterator<Item = (Pa, Range<usize>)> {
    let (mut next, mut left) = (at.get(), len);
    core::iter::from_fn(move || {
        let first = (next % 8) as usize;
        let count = left.min(8 - first);
        let word = Pa::new(next - first as u64);
        next = next.wrapping_add(count as u64);
        left -= count;
        (count > 0).then_some((word, first..first + count))
    })
}

/// Some words of a RAM, for an allocator to hand out.
#[derive(Clone, Debug)]
pub struct RamPart {
    ram: Arc<Ram>,
    words: Range<usize>,
}

impl AsRef<[AtomicU64]> for RamPart {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.ram.mapping.words()[self.words.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn ram() -> (Scratch, Arc<Ram>) {
        let scratch = Scratch::new().unwrap();
        let path = scratch.write("ram", &[0; 0x2000]).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        (scratch, Arc::new(Ram::map(&file, Pa::new(0x4000_0000)).unwrap()))
    }

    fn at(offset: u64) -> Pa {
        Pa::new(0x4000_0000 + offset)
    }

    #[test]
    fn bytes_lie_as_little_endian_words_do() {
        let (_scratch, ram) = ram();
        ram.write(at(5), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(ram.load64(at(0)), 0x0302_0100_0000_0000);
        assert_eq!(ram.load64(at(8)), 0x0b0a_0908_0706_0504);
        assert_eq!(ram.load64(at(16)), 0xc);
        assert_eq!((ram.load32(at(8)), ram.load32(at(12))), (0x0706_0504, 0x0b0a_0908));
        ram.store32(at(12), 0x1234_5678);
        assert_eq!(ram.load64(at(8)), 0x1234_5678_0706_0504);
        let mut bytes = [0; 7];
        ram.read(at(7), &mut bytes);
        assert_eq!(bytes, [3, 4, 5, 6, 7, 0x78, 0x56]);
    }

    #[test]
    fn two_mappings_of_a_file_are_one_memory() {
        let (scratch, ram) = ram();
        let file = File::options().read(true).write(true).open(scratch.at("ram")).unwrap();
        let other = Ram::map(&file, Pa::new(0)).unwrap();
        ram.store64(at(0x1ff8), 7);
        assert_eq!(other.load64(Pa::new(0x1ff8)), 7);
        assert_eq!(ram.compare_exchange(at(0x1ff8), 8, 9), Err(7));
        assert_eq!(other.compare_exchange(Pa::new(0x1ff8), 7, 9), Ok(7));
        assert_eq!(ram.load64(at(0x1ff8)), 9);
    }

    #[test]
    #[should_panic(expected = "no memory at")]
    fn a_byte_behind_the_end_is_refused() {
        ram().1.write(at(0x1fff), &[1, 2]);
    }

    #[test]
    fn an_empty_file_is_no_memory() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.write("ram", &[]).unwrap();
        let error = Ram::map(&File::open(path).unwrap(), Pa::new(0)).unwrap_err();
        assert!(error.to_string().contains("0 bytes at 0x0 are not a size"), "{error}");
    }
}
