//! A reader of IOMMUs' tables as they lie in memory, of its own: neither the drivers' nor the models'.
//!
//! [`Tables`] reads words. Where a source's traffic goes is a [`Way`], which the files below find; [`Tables::leaves`] says what the tables there let it reach.
//!
//! | file | what |
//! |---|---|
//! | `smmuv3` | stream table entries, context descriptors |
//! | `smmuv2` | stream mapping, context banks |
//! | `vtd` | root, context and PASID entries; VT-d's page tables |
//! | `power` | TVEs of a POWER8 bridge, tables of TCEs |
//! | `arm` | Arm's page tables |
//!
//! Not here: what ought to be there (`audit`).

mod arm;
mod power;
mod smmuv2;
mod smmuv3;
mod vtd;

pub(crate) use smmuv2::Streams;

/// Reads bytes from a multiple of 8 on; false where some of them is no memory.
type Run<'a> = &'a dyn Fn(u64, &mut [u8]) -> bool;

/// Reads words of memory.
pub(crate) struct Tables<'a> {
    /// None where there is no memory.
    load: &'a dyn Fn(u64) -> Option<u64>,
    /// Where there is a quicker way to many words.
    run: Option<Run<'a>>,
}

/// Where a source's traffic goes that carries no PASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nowhere: it ends in an abort.
    Nowhere,
    /// Past translation.
    Everywhere,
    /// Through a table.
    Through(Root),
    /// Nobody can say: the entry makes no sense.
    Nonsense(&'static str),
}

/// A page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Where its first table lies.
    pub(crate) at: u64,
    /// Of a stage 2.
    pub(crate) second: bool,
    kind: Kind,
    granule: u32,
    levels: u32,
    bits: u32,
}

/// Whose tables they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Arm,
    Intel,
}

impl Root {
    fn of_intel(at: u64, second: bool, levels: u32) -> Self {
        Self { at, second, kind: Kind::Intel, granule: 12, levels, bits: 12 + 9 * levels }
    }

    /// Whether it is one of Arm's.
    pub(crate) fn is_of_arm(&self) -> bool {
        self.kind == Kind::Arm
    }
}

/// What a descriptor allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) iova: u64,
    pub(crate) len: u64,
    pub(crate) pa: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// By what hardware tells entries of a TLB apart. Where it is the same, the table must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tag {
    /// An ASID, of a first stage; on an SMMUv2 with the VMID above it, from bit 16 on.
    Asid(u64),
    /// A VMID, of a second stage.
    Vmid(u64),
    /// A domain-id; with a PASID, of a first stage.
    Domain(u64, Option<u32>),
}

/// A tag, and where the first table lies that is walked under it.
pub(crate) type Tagged = (Tag, u64);

/// A word that hardware reads on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) at: u64,
    /// A block or a page.
    pub(crate) leaf: bool,
}

impl<'a> Tables<'a> {
    /// Words one by one.
    pub(crate) fn by_word(load: &'a dyn Fn(u64) -> Option<u64>) -> Self {
        Self { load, run: None }
    }

    /// The same words, of whole tables many at once.
    pub(crate) fn by_table(load: &'a dyn Fn(u64) -> Option<u64>, run: Run<'a>) -> Self {
        Self { load, run: Some(run) }
    }

    fn word(&self, at: u64) -> u64 {
        (self.load)(at).unwrap_or(0)
    }

    /// The words of a table that are not zero, each with its number: most of a table is.
    fn each(&self, at: u64, count: usize, mut act: impl FnMut(u64, u64)) {
        const PIECE: usize = 512;
        let mut bytes = [0; 8 * PIECE];
        for first in (0..count).step_by(PIECE) {
            let piece = &mut bytes[..8 * PIECE.min(count - first)];
            let place = at + 8 * first as u64;
            let whole = place & 7 == 0 && self.run.is_some_and(|run| run(place, &mut *piece));
            for (index, word) in (0u64..).zip(piece.as_chunks::<8>().0) {
                let word = if whole { u64::from_le_bytes(*word) } else { self.word(place + 8 * index) };
                if word != 0 {
                    act(first as u64 + index, word);
                }
            }
        }
    }

    /// All that a table lets through, in the order of addresses.
    pub(crate) fn leaves(&self, root: &Root) -> Vec<Leaf> {
        match root.kind {
            Kind::Arm => self.arm_leaves(root),
            Kind::Intel => self.intel_leaves(root),
        }
    }

    /// The words that a walk of an address reads, the last one that there is included.
    pub(crate) fn path(&self, root: &Root, iova: u64) -> Vec<Word> {
        match root.kind {
            Kind::Arm => self.arm_path(root, iova),
            Kind::Intel => self.intel_path(root, iova),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_read_at_once_says_what_its_words_say_also_where_memory_ends_in_it() {
        let load = |at: u64| (at < 0x3800).then_some(if at.is_multiple_of(24) { at } else { 0 });
        let run = |at: u64, into: &mut [u8]| {
            let words = (at..).step_by(8).zip(into.as_chunks_mut::<8>().0);
            words.into_iter().all(|(at, bytes)| load(at).map(|word| *bytes = word.to_le_bytes()).is_some())
        };
        let found = |tables: &Tables<'_>, at| {
            let mut found = Vec::new();
            tables.each(at, 1600, |index, word| found.push((index, word)));
            found
        };
        let (words, runs) = (Tables::by_word(&load), Tables::by_table(&load, &run));
        for at in [0x1000, 0x1008, 0x1004] {
            assert_eq!(found(&words, at), found(&runs, at), "{at:#x}");
        }
        let all = found(&runs, 0x1000);
        assert_eq!((all[0], all.last()), ((1, 0x1008), Some(&(1279, 0x37f8))));
    }
}
