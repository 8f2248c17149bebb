//! Cached configuration: stream table entries, context descriptors, and the level 1 descriptors above them.
//!
//! Whatever was fetched may stay, valid or not, until a command removes it.
//!
//! Spec: SMMUv3 H.a, 3.21.3 "Configuration structures and configuration invalidation completion", 4.3 "Configuration structure invalidation".

use model_bus::KeyMap;

use crate::cd::{self, Cd, IllegalCd};
use crate::ste::{self, IllegalSte, Ste};

/// A fetched entry: where it was, what lay there, what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedSte {
    pub(crate) at: u64,
    pub(crate) raw: ste::Raw,
    pub(crate) meaning: Result<Ste, IllegalSte>,
    /// CR0.ATSCHK when it was fetched.
    pub(crate) ats_check: bool,
}

/// A fetched descriptor. It is local to the stream through which it was fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedCd {
    pub(crate) at: u64,
    pub(crate) raw: cd::Raw,
    pub(crate) meaning: Result<Cd, IllegalCd>,
    pub(crate) vmid: u16,
}

/// All that is cached of configuration.
#[derive(Default)]
pub(crate) struct ConfigCache {
    stes: KeyMap<u32, CachedSte>,
    /// L1STDs by the upper bits of the StreamID, with the split they were found with.
    stream_tables: KeyMap<(u32, u32), u64>,
    cds: KeyMap<(u32, u32), CachedCd>,
    /// L1CDs by stream and index.
    context_tables: KeyMap<(u32, u32), u64>,
}

impl ConfigCache {
    pub(crate) fn ste(&self, stream: u32) -> Option<&CachedSte> {
        self.stes.get(&stream)
    }

    pub(crate) fn keep_ste(&mut self, stream: u32, ste: CachedSte) {
        self.stes.insert(stream, ste);
    }

    pub(crate) fn stes(&self) -> impl Iterator<Item = (u32, &CachedSte)> {
        self.stes.iter().map(|(&stream, ste)| (stream, ste))
    }

    pub(crate) fn stream_table(&self, upper: u32, split: u32) -> Option<u64> {
        self.stream_tables.get(&(upper, split)).copied()
    }

    pub(crate) fn keep_stream_table(&mut self, upper: u32, split: u32, raw: u64) {
        self.stream_tables.insert((upper, split), raw);
    }

    pub(crate) fn cd(&self, stream: u32, substream: u32) -> Option<&CachedCd> {
        self.cds.get(&(stream, substream))
    }

    pub(crate) fn keep_cd(&mut self, stream: u32, substream: u32, cd: CachedCd) {
        self.cds.insert((stream, substream), cd);
    }

    pub(crate) fn cds(&self) -> impl Iterator<Item = ((u32, u32), &CachedCd)> {
        self.cds.iter().map(|(&place, cd)| (place, cd))
    }

    pub(crate) fn context_table(&self, stream: u32, index: u32) -> Option<u64> {
        self.context_tables.get(&(stream, index)).copied()
    }

    pub(crate) fn keep_context_table(&mut self, stream: u32, index: u32, raw: u64) {
        self.context_tables.insert((stream, index), raw);
    }

    /// CMD_CFGI_STE: the entry, all descriptors fetched through it, and, unless `leaf`, the L1STD above it.
    pub(crate) fn invalidate_ste(&mut self, stream: u32, leaf: bool) {
        self.stes.remove(&stream);
        self.invalidate_cds(stream);
        if !leaf {
            self.stream_tables.retain(|&(upper, split), _| stream.checked_shr(split).unwrap_or(0) != upper);
        }
    }

    /// CMD_CFGI_STE_RANGE: the same for 2^(range + 1) streams. With a range of 31, CMD_CFGI_ALL.
    pub(crate) fn invalidate_range(&mut self, stream: u32, range: u32) {
        let within = |other: u32, below: u32| {
            let bits = (range + 1).max(below);
            u64::from(other) >> bits == u64::from(stream) >> bits
        };
        self.stes.retain(|&other, _| !within(other, 0));
        self.cds.retain(|&(other, _), _| !within(other, 0));
        self.context_tables.retain(|&(other, _), _| !within(other, 0));
        self.stream_tables.retain(|&(upper, split), _| !within(upper.checked_shl(split).unwrap_or(0), split));
    }

    /// CMD_CFGI_CD, with the size of leaf tables as the index of the L1CD needs it.
    pub(crate) fn invalidate_cd(&mut self, stream: u32, substream: u32, leaf: bool) {
        self.cds.remove(&(stream, substream));
        if !leaf {
            // Whether leaf tables hold 64 or 1024 descriptors is the STE's word, which may have changed: both indexes go.
            self.context_tables.remove(&(stream, substream >> 6));
            self.context_tables.remove(&(stream, substream >> 10));
        }
    }

    /// CMD_CFGI_CD_ALL.
    pub(crate) fn invalidate_cds(&mut self, stream: u32) {
        self.cds.retain(|&(other, _), _| other != stream);
        self.context_tables.retain(|&(other, _), _| other != stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams 4 to 7 with an STE, a CD for substreams 0 and 100, an L1CD; the L1STD of split 6.
    fn filled() -> ConfigCache {
        let mut cache = ConfigCache::default();
        for stream in 4..8 {
            cache.keep_ste(
                stream,
                CachedSte { at: 0, raw: [0; 8], meaning: Ok(Ste::Abort), ats_check: false },
            );
            for substream in [0, 100] {
                let meaning = Err(IllegalCd::NotValid);
                cache.keep_cd(stream, substream, CachedCd { at: 0, raw: [0; 8], meaning, vmid: 0 });
                cache.keep_context_table(stream, substream >> 6, 1);
            }
        }
        cache.keep_stream_table(0, 6, 1);
        cache
    }

    /// What is left: entries, descriptors, L1CDs, L1STDs.
    fn left(change: impl Fn(&mut ConfigCache)) -> [usize; 4] {
        let mut cache = filled();
        change(&mut cache);
        [cache.stes.len(), cache.cds.len(), cache.context_tables.len(), cache.stream_tables.len()]
    }

    #[test]
    fn each_command_removes_what_the_book_says_and_nothing_else() {
        assert_eq!(left(|_| ()), [4, 8, 8, 1]);
        assert_eq!(left(|cache| cache.invalidate_ste(4, true)), [3, 6, 6, 1]);
        assert_eq!(left(|cache| cache.invalidate_ste(4, false)), [3, 6, 6, 0]);
        assert_eq!(left(|cache| cache.invalidate_ste(64, false)), [4, 8, 8, 1]);
        assert_eq!(left(|cache| cache.invalidate_range(5, 0)), [2, 4, 4, 0]);
        assert_eq!(left(|cache| cache.invalidate_range(5, 1)), [0, 0, 0, 0]);
        assert_eq!(left(|cache| cache.invalidate_range(64, 1)), [4, 8, 8, 1]);
        assert_eq!(left(|cache| cache.invalidate_range(0xffff_ffff, 31)), [0, 0, 0, 0]);
        assert_eq!(left(|cache| cache.invalidate_cd(4, 100, true)), [4, 7, 8, 1]);
        assert_eq!(left(|cache| cache.invalidate_cd(4, 100, false)), [4, 7, 6, 1]);
        assert_eq!(left(|cache| cache.invalidate_cds(4)), [4, 6, 6, 1]);
    }
}
