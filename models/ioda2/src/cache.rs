//! The TCE cache: what walks found, kept until it is killed.
//!
//! Entries are tagged with the TVE's number, which is the PE's, and the DMA address; so a kill by PE finds those of both windows. Nothing else removes
//! an entry but eviction: neither a store to the table, nor one to the TVT.
//!
//! TCEs of the lowest level lie in lines of 16, as a fetch of 128 bytes brings them: that is how they are looked for, and no more. Each comes and goes by itself.
//!
//! Observed: Linux 4.20, pnv_pci_phb3_tce_invalidate: kills name a PE, and a DMA address with the bit that chooses the window.
//! Choice: entries of upper levels are kept, too, and a kill by entry leaves them: what it names is one TCE.

use std::collections::BTreeMap;

use crate::tve::{PAGE_LG2, WINDOW_BITS};

/// TCEs of a line.
const LINE: u64 = 16;

/// A line of TCEs of the lowest level: TVE, and the number of its first page in the window over [`LINE`].
type LineTag = (u16, u64);
/// A TCE of an upper level: TVE, levels below it, and the address above them.
type TableTag = (u16, u8, u64);

/// What a cached TCE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) tce: u64,
    /// The TVE under which it was fetched.
    pub(crate) tve: u64,
}

/// TCEs that lie side by side, of which at least one is cached.
#[derive(Clone, Debug)]
struct Line {
    /// A bit for each that is cached.
    there: u16,
    kept: [Kept; LINE as usize],
}

impl Line {
    fn empty() -> Box<Self> {
        Box::new(Self { there: 0, kept: [Kept { tce: 0, tve: 0 }; LINE as usize] })
    }

    fn get(&self, place: usize) -> Option<Kept> {
        (self.there >> place & 1 != 0).then(|| self.kept[place])
    }

    fn len(&self) -> usize {
        self.there.count_ones() as usize
    }
}

/// The lines of one page size.
type Lines = BTreeMap<LineTag, Box<Line>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct TceCache {
    /// By page size, in the order of [`PAGE_LG2`].
    lines: [Lines; PAGE_LG2.len()],
    /// How many TCEs are in them.
    count: usize,
    tables: BTreeMap<TableTag, Kept>,
}

const fn offset_in_window(address: u64) -> u64 {
    address & (u64::MAX >> (64 - WINDOW_BITS))
}

/// The place of a page size in [`PAGE_LG2`].
fn size(page_lg2: u32) -> Option<usize> {
    PAGE_LG2.iter().position(|&lg2| lg2 == page_lg2)
}

/// The line of a page, and its place there.
const fn split(page: u64) -> (u64, usize) {
    (page / LINE, (page % LINE) as usize)
}

impl TceCache {
    /// The TCE that translates `address`, and log2 of its page. One with the window's own page size comes before those of a window that was.
    pub(crate) fn find(&self, tve: u16, address: u64, page_lg2: u32) -> Option<(Kept, u32)> {
        let at = offset_in_window(address);
        let own = size(page_lg2).and_then(|size| self.get(size, tve, at));
        own.or_else(|| (0..PAGE_LG2.len()).find_map(|size| self.get(size, tve, at)))
    }

    fn get(&self, size: usize, tve: u16, at: u64) -> Option<(Kept, u32)> {
        let (line, place) = split(at >> PAGE_LG2[size]);
        let kept = self.lines[size].get(&(tve, line))?.get(place)?;
        Some((kept, PAGE_LG2[size]))
    }

    pub(crate) fn keep(&mut self, tve: u16, address: u64, page_lg2: u32, kept: Kept) {
        let Some(size) = size(page_lg2) else { return };
        let (line, place) = split(offset_in_window(address) >> page_lg2);
        let line = self.lines[size].entry((tve, line)).or_insert_with(Line::empty);
        let before = line.len();
        line.there |= 1 << place;
        line.kept[place] = kept;
        self.count += line.len() - before;
    }

    /// Keeps a line that was fetched whole, of the TCEs around `address`: that of the address whatever was there, and of its neighbours those for which nothing is
    /// cached, of any page size. `keeps` says which are worth it.
    pub(crate) fn keep_line(
        &mut self,
        tve: u16,
        address: u64,
        page_lg2: u32,
        fetched: &[Kept; LINE as usize],
        keeps: impl Fn(&Kept) -> bool,
    ) {
        let Some(size) = size(page_lg2) else { return };
        let at = offset_in_window(address);
        let (number, wanted) = split(at >> page_lg2);
        let others = (0..PAGE_LG2.len()).any(|other| other != size && !self.lines[other].is_empty());
        let first = (number * LINE) << page_lg2;
        let mut taken = 0u16;
        if others {
            for place in (0..LINE as usize).filter(|&place| place != wanted) {
                let at = first + ((place as u64) << page_lg2);
                let found =
                    (0..PAGE_LG2.len()).any(|other| other != size && self.get(other, tve, at).is_some());
                taken |= u16::from(found) << place;
            }
        }
        let there = self.lines[size].get(&(tve, number)).map_or(0, |line| line.there);
        taken |= there & !(1 << wanted);
        let new = fetched.iter().enumerate().filter(|(place, kept)| taken >> place & 1 == 0 && keeps(kept));
        let new = new.fold(0u16, |new, (place, _)| new | 1 << place);
        if new == 0 {
            return;
        }
        let line = self.lines[size].entry((tve, number)).or_insert_with(Line::empty);
        for place in (0..LINE as usize).filter(|place| new >> place & 1 != 0) {
            line.kept[place] = fetched[place];
        }
        line.there |= new;
        self.count += (new & !there).count_ones() as usize;
    }

    pub(crate) fn find_table(&self, tve: u16, below: u32, prefix: u64) -> Option<Kept> {
        self.tables.get(&(tve, below as u8, prefix)).copied()
    }

    pub(crate) fn keep_table(&mut self, tve: u16, below: u32, prefix: u64, kept: Kept) {
        self.tables.insert((tve, below as u8, prefix), kept);
    }

    /// Removes everything. Answers how many TCEs of the lowest level it was.
    pub(crate) fn kill_all(&mut self) -> usize {
        let count = self.count;
        *self = Self::default();
        count
    }

    /// Removes what is tagged with either window of the PE.
    pub(crate) fn kill_pe(&mut self, pe: u8) -> usize {
        let before = self.count;
        let others = |tve: u16| tve >> 1 != u16::from(pe);
        for lines in &mut self.lines {
            lines.retain(|&(tve, _), line| {
                let stays = others(tve);
                self.count -= if stays { 0 } else { line.len() };
                stays
            });
        }
        self.tables.retain(|&(tve, ..), _| others(tve));
        before - self.count
    }

    /// Removes the TCE that translates `address`, bit 59 of which chooses the window.
    pub(crate) fn kill_one(&mut self, pe: u8, address: u64) -> usize {
        let tve = u16::from(pe) << 1 | (address >> WINDOW_BITS & 1) as u16;
        let at = offset_in_window(address);
        (0..PAGE_LG2.len()).filter(|&size| self.remove(size, tve, at >> PAGE_LG2[size])).count()
    }

    /// Removes the TCE of a page. Answers whether there was one.
    fn remove(&mut self, size: usize, tve: u16, page: u64) -> bool {
        let (number, place) = split(page);
        let lines = &mut self.lines[size];
        let Some(line) = lines.get_mut(&(tve, number)).filter(|line| line.get(place).is_some()) else {
            return false;
        };
        line.there &= !(1 << place);
        if line.there == 0 {
            lines.remove(&(tve, number));
        }
        self.count -= 1;
        true
    }

    /// Throws out one entry: the first at or behind a place that `pick` chooses, in the order of TVEs, page sizes and pages.
    pub(crate) fn evict(&mut self, pick: u64) {
        let from = ((pick & 0x1ff) as u16, (pick >> 16 & 31) as u32, pick >> 32);
        let first = |from| (0..PAGE_LG2.len()).filter_map(|size| self.first_from(size, from)).min();
        if let Some((tve, page_lg2, page)) = first(from).or_else(|| first((0, 0, 0)))
            && let Some(size) = size(page_lg2)
        {
            self.remove(size, tve, page);
        }
    }

    /// The first TCE of a page size that is at or behind a place.
    fn first_from(&self, size: usize, (tve, lg2, page): (u16, u32, u64)) -> Option<(u16, u32, u64)> {
        let own = PAGE_LG2[size];
        let (tve, page) = match own.cmp(&lg2) {
            // Behind it is only the next TVE.
            core::cmp::Ordering::Less => (tve + 1, 0),
            core::cmp::Ordering::Equal => (tve, page),
            core::cmp::Ordering::Greater => (tve, 0),
        };
        let (number, place) = split(page);
        let mut lines = self.lines[size].range((tve, number)..);
        lines.find_map(|(&(of, line), kept)| {
            let hidden = if (of, line) == (tve, number) { place } else { 0 };
            let left = kept.there >> hidden << hidden;
            (left != 0).then(|| (of, own, line * LINE + u64::from(left.trailing_zeros())))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use model_bus::Dice;

    use super::*;

    /// The same, as a plain list of entries in their order.
    #[derive(Default)]
    struct Plain(BTreeMap<(u16, u32, u64), Kept>);

    impl Plain {
        fn find(&self, tve: u16, address: u64, page_lg2: u32) -> Option<(Kept, u32)> {
            let at = offset_in_window(address);
            let find = |lg2: u32| self.0.get(&(tve, lg2, at >> lg2)).map(|&kept| (kept, lg2));
            find(page_lg2).or_else(|| PAGE_LG2.into_iter().find_map(find))
        }

        fn keep_line(&mut self, tve: u16, address: u64, page_lg2: u32, fetched: &[Kept; 16]) {
            let page = offset_in_window(address) >> page_lg2;
            for (place, kept) in (0..).zip(fetched) {
                let at = page & !15 | place;
                let free = self.find(tve, at << page_lg2, page_lg2).is_none();
                if (at == page || free) && kept.tce & 3 != 0 {
                    self.0.insert((tve, page_lg2, at), *kept);
                }
            }
        }

        fn kill_one(&mut self, pe: u8, address: u64) -> usize {
            let tve = u16::from(pe) << 1 | (address >> WINDOW_BITS & 1) as u16;
            let at = offset_in_window(address);
            PAGE_LG2.iter().filter(|&&lg2| self.0.remove(&(tve, lg2, at >> lg2)).is_some()).count()
        }

        fn kill_pe(&mut self, pe: u8) -> usize {
            let before = self.0.len();
            self.0.retain(|&(tve, ..), _| tve >> 1 != u16::from(pe));
            before - self.0.len()
        }

        fn evict(&mut self, pick: u64) {
            let from = ((pick & 0x1ff) as u16, (pick >> 16 & 31) as u32, pick >> 32);
            let found = self.0.range(from..).next().or_else(|| self.0.iter().next());
            if let Some(tag) = found.map(|(&tag, _)| tag) {
                self.0.remove(&tag);
            }
        }
    }

    #[test]
    fn whatever_comes_and_goes_each_entry_is_by_itself() {
        let mut dice = Dice::new(5);
        let (mut cache, mut plain) = (TceCache::default(), Plain::default());
        for step in 0..20_000u64 {
            let bits = dice.next_bits();
            let tve = (bits & 3) as u16;
            let lg2 = PAGE_LG2[[0, 0, 0, 1, 1, 2, 3, 3][(bits >> 8 & 7) as usize]];
            let address = u64::from(tve & 1) << WINDOW_BITS | bits >> 16 & 0x1f_ffff;
            match bits >> 40 & 15 {
                0..6 => {
                    let fetched = core::array::from_fn(|place| Kept {
                        tce: step << 12 | bits >> place & 3,
                        tve: u64::from(tve),
                    });
                    cache.keep_line(tve, address, lg2, &fetched, |kept| kept.tce & 3 != 0);
                    plain.keep_line(tve, address, lg2, &fetched);
                }
                6..9 => {
                    let kept = Kept { tce: step << 12, tve: 0 };
                    cache.keep(tve, address, lg2, kept);
                    plain.0.insert((tve, lg2, offset_in_window(address) >> lg2), kept);
                }
                9..12 => {
                    let pe = (tve >> 1) as u8;
                    assert_eq!(cache.kill_one(pe, address), plain.kill_one(pe, address));
                }
                12 => assert_eq!(cache.kill_pe((tve >> 1) as u8), plain.kill_pe((tve >> 1) as u8)),
                _ => {
                    let pick = u64::from(tve) | (bits >> 20 & 31) << 16 | (bits >> 30 & 0x1ff) << 32;
                    cache.evict(pick);
                    plain.evict(pick);
                }
            }
            assert_eq!(cache.len(), plain.0.len(), "{step}");
            assert_eq!(cache.find(tve, address, lg2), plain.find(tve, address, lg2), "{step}");
        }
        assert!(cache.kill_all() > 0 && cache.len() == 0);
    }
}
