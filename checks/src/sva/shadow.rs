//! What each process has, and which device may reach it, told by those who change it and not by the code under test.
//!
//! An address space has areas (told by operations), frames (read from its own table with a reader of our own), and *windows*: while an operation
//! changes something, what was there before may still be reached; when it has returned, no more. But what a listener did not confirm stays open until that same listener
//! does, or is gone, and the frames behind it must stay allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model_bus::Bus;
use portcullis::core::mm::{MmId, ProcessTable};
use portcullis::types::{Pa, Pasid, Perms};

use super::tables::{Leaf, look_up};

/// A device, by its number in the rig.
pub type DeviceIndex = usize;

/// One of those who listen to a process.
pub type Listener = u64;

/// What a listener answered that was told of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who.
    pub listener: Listener,
    /// The first address.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Whether hardware has forgotten them.
    pub confirmed: bool,
}

impl Answer {
    fn is_about(&self, page: u64) -> bool {
        (self.first..=self.last).contains(&page)
    }
}

/// Pages that were reachable when an operation began.
#[derive(Clone, Debug, Default)]
struct Window {
    mm: Option<MmId>,
    before: BTreeMap<u64, Leaf>,
    /// Its operation ended: only what is in doubt is left.
    kept: bool,
    /// By page, the listeners whose hardware may still remember it.
    doubters: BTreeMap<u64, BTreeSet<Listener>>,
}

impl Window {
    /// Takes in what a listener answered: of this window's own operation doubts as well, of a later one only that there is none any more.
    fn hear(&mut self, answer: &Answer) {
        if self.kept && !answer.confirmed {
            return;
        }
        for &page in self.before.keys().filter(|&&page| answer.is_about(page)) {
            let doubters = self.doubters.entry(page).or_default();
            if answer.confirmed {
                doubters.remove(&answer.listener);
            } else {
                doubters.insert(answer.listener);
            }
        }
    }

    /// Only what somebody may remember is left of it.
    fn shrink(&mut self) {
        self.kept = true;
        self.doubters.retain(|_, doubters| !doubters.is_empty());
        let Self { before, doubters, .. } = self;
        before.retain(|page, _| doubters.contains_key(page));
    }
}

/// An address space.
#[derive(Clone, Debug)]
struct Space {
    table: ProcessTable,
    page_bytes: u64,
    /// By first address: end, permissions.
    areas: BTreeMap<u64, (u64, Perms)>,
    exited: bool,
}

/// An access by a device, as its translation lets it through.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which device.
    pub device: DeviceIndex,
    /// In which address space.
    pub pasid: Pasid,
    /// At which address.
    pub va: u64,
    /// Where it goes.
    pub pa: Pa,
    /// Whether it writes.
    pub write: bool,
}

/// All of it.
#[derive(Debug)]
pub struct Shadow {
    bus: Arc<Bus>,
    spaces: BTreeMap<MmId, Space>,
    bonds: BTreeMap<(DeviceIndex, Pasid), (MmId, u32)>,
    windows: BTreeMap<u64, Window>,
    next_window: u64,
    ever_in_doubt: bool,
    /// By device, PASID and page of memory: the addresses that were answered to translation requests with it.
    answers: BTreeMap<(DeviceIndex, Pasid, u64), BTreeSet<u64>>,
}

/// Translated addresses are accounted by pages of this size, whatever the tables' granule is.
const PAGE: u64 = 0x1000;

impl Shadow {
    /// Nobody, on `bus`.
    pub fn new(bus: Arc<Bus>) -> Self {
        Self {
            bus,
            spaces: BTreeMap::new(),
            bonds: BTreeMap::new(),
            windows: BTreeMap::new(),
            next_window: 0,
            ever_in_doubt: false,
            answers: BTreeMap::new(),
        }
    }

    /// A process is there.
    pub fn add(&mut self, mm: MmId, table: ProcessTable, page_bytes: u64) {
        self.spaces.insert(mm, Space { table, page_bytes, areas: BTreeMap::new(), exited: false });
    }

    /// The areas of one process are those of another: a fork.
    pub fn copy_areas(&mut self, from: MmId, to: MmId) {
        let areas = self.spaces.get(&from).map(|space| space.areas.clone()).unwrap_or_default();
        if let Some(space) = self.spaces.get_mut(&to) {
            space.areas = areas;
        }
    }

    /// `first..end` has these permissions from now on; none if nothing is mapped there.
    pub fn set_area(&mut self, mm: MmId, first: u64, end: u64, perms: Option<Perms>) {
        let Some(space) = self.spaces.get_mut(&mm) else { return };
        let hit: Vec<_> = space
            .areas
            .range(..end)
            .filter(|(_, (e, _))| *e > first)
            .map(|(&f, &(e, p))| (f, e, p))
            .collect();
        for (old_first, old_end, old_perms) in hit {
            space.areas.remove(&old_first);
            if old_first < first {
                space.areas.insert(old_first, (first, old_perms));
            }
            if old_end > end {
                space.areas.insert(end, (old_end, old_perms));
            }
        }
        if let Some(perms) = perms {
            space.areas.insert(first, (end, perms));
        }
    }

    /// The areas of a process: first address, end, permissions.
    pub fn areas(&self, mm: MmId) -> Vec<(u64, u64, Perms)> {
        let areas = self.spaces.get(&mm).map(|space| &space.areas);
        areas.into_iter().flatten().map(|(&first, &(end, perms))| (first, end, perms)).collect()
    }

    /// A process's exit has returned: nothing of it is reached from now on.
    pub fn exited(&mut self, mm: MmId) {
        if let Some(space) = self.spaces.get_mut(&mm) {
            space.exited = true;
        }
    }

    /// A bind has returned.
    ///
    /// # Errors
    ///
    /// The PASID is another process's.
    pub fn bound(&mut self, device: DeviceIndex, pasid: Pasid, mm: MmId) -> Result<(), String> {
        let elsewhere = self.bonds.iter().find(|((_, held), (other, _))| *held == pasid && *other != mm);
        if let Some(((other, _), _)) = elsewhere {
            return Err(format!(
                "no-reuse: {pasid:?} given to {mm:?} while device {other} means another with it"
            ));
        }
        if pasid.get() == 0 {
            return Err("no-reuse: PASID 0 given out".into());
        }
        self.bonds.entry((device, pasid)).or_insert((mm, 0)).1 += 1;
        Ok(())
    }

    /// An unbind has returned with success. Answers whether that was the last.
    pub fn unbound(&mut self, device: DeviceIndex, pasid: Pasid) -> bool {
        let Some((_, count)) = self.bonds.get_mut(&(device, pasid)) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.bonds.remove(&(device, pasid));
            self.answers.retain(|(d, p, _), _| (*d, *p) != (device, pasid));
        }
        last
    }

    /// The process that a PASID of a device means; none if nobody is bound to it.
    pub fn means(&self, device: DeviceIndex, pasid: Pasid) -> Option<MmId> {
        self.bonds.get(&(device, pasid)).map(|&(mm, _)| mm)
    }

    /// An operation on these runs of addresses begins.
    pub fn open(&mut self, mm: MmId, runs: &[(u64, u64)]) -> u64 {
        let mut window = Window { mm: Some(mm), ..Window::default() };
        if let Some(space) = self.spaces.get(&mm).filter(|space| !space.exited) {
            let step = usize::try_from(space.page_bytes).unwrap_or(usize::MAX);
            let pages =
                runs.iter().flat_map(|&(first, end)| (first & !(space.page_bytes - 1)..end).step_by(step));
            window.before =
                pages.filter_map(|page| Some((page, look_up(&self.bus, &space.table, page)?))).collect();
        }
        self.next_window += 1;
        self.windows.insert(self.next_window, window);
        self.next_window
    }

    /// It has returned; meanwhile listeners have answered this, in this order.
    pub fn close(&mut self, window: u64, answers: &[Answer]) {
        let Some(mm) = self.windows.get(&window).map(|window| window.mm) else { return };
        let mut hit: Vec<_> =
            self.windows.iter_mut().filter(|(id, one)| **id == window || one.kept && one.mm == mm).collect();
        for (_, one) in &mut hit {
            answers.iter().for_each(|answer| one.hear(answer));
            one.shrink();
        }
        self.windows.retain(|_, one| !one.kept || !one.before.is_empty());
        self.ever_in_doubt |= self.windows.contains_key(&window);
    }

    /// A listener is there no more, because its hardware has forgotten all of the process.
    pub fn listens_no_more(&mut self, mm: MmId, listener: Listener) {
        let answer = Answer { listener, first: 0, last: u64::MAX, confirmed: true };
        for window in self.windows.values_mut().filter(|window| window.kept && window.mm == Some(mm)) {
            window.hear(&answer);
            window.shrink();
        }
        self.windows.retain(|_, one| !one.kept || !one.before.is_empty());
    }

    /// A translation request was answered with this.
    pub fn answered(&mut self, device: DeviceIndex, pasid: Pasid, va: u64, pa: Pa, len_bytes: u64) {
        for offset in (0..len_bytes.div_ceil(PAGE)).map(|page| page * PAGE) {
            let key = (device, pasid, (pa.get() + offset) / PAGE);
            self.answers.entry(key).or_default().insert(va + offset);
        }
    }

    /// Whether an access is what some mapping grants.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn judge(&self, seen: &Seen) -> Result<(), String> {
        let Some((mm, _)) = self.bonds.get(&(seen.device, seen.pasid)) else {
            return Err("this PASID of this device means nothing".into());
        };
        let kept = |window: &&Window| window.mm == Some(*mm);
        let space = self.spaces.get(mm).ok_or("nobody knows the process")?;
        let page = seen.va & !(space.page_bytes - 1);
        let hits = |leaf: &Leaf| {
            seen.pa.get() & !(space.page_bytes - 1) == leaf.page.get() && (leaf.writable || !seen.write)
        };
        if self.windows.values().filter(kept).any(|window| window.before.get(&page).is_some_and(hits)) {
            return Ok(());
        }
        if space.exited {
            return Err(format!("{mm:?} has exited"));
        }
        let area = space.areas.range(..=seen.va).next_back().filter(|(_, (end, _))| *end > seen.va);
        let Some((_, (_, perms))) = area else { return Err(format!("{mm:?} has nothing mapped there")) };
        let wanted = if seen.write { Perms::WRITE } else { Perms::READ };
        if !perms.contains(wanted) {
            return Err(format!("{mm:?} may itself not do that there: {perms:?}"));
        }
        match look_up(&self.bus, &space.table, page) {
            Some(leaf) if hits(&leaf) => Ok(()),
            Some(leaf) => Err(format!("{mm:?} has {leaf:?} there")),
            None => Err(format!("{mm:?} has no page there")),
        }
    }

    /// Whether an access by translated address is one that some answer and some mapping still grant.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn judge_translated(
        &self,
        device: DeviceIndex,
        pasid: Pasid,
        pa: Pa,
        write: bool,
    ) -> Result<(), String> {
        let vas = self.answers.get(&(device, pasid, pa.get() / PAGE));
        let mut why = String::from("nobody ever gave it that address");
        for &va in vas.into_iter().flatten() {
            match self.judge(&Seen { device, pasid, va: va | (pa.get() & (PAGE - 1)), pa, write }) {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("va {va:#x}: {error}"),
            }
        }
        Err(why)
    }

    /// Frames of windows that were never confirmed, and that are free all the same.
    pub fn freed_in_doubt(&self) -> Vec<Pa> {
        let kept = self.windows.values().filter(|window| window.kept);
        let pages = kept.flat_map(|window| window.before.values().map(|leaf| leaf.page));
        pages.filter(|&page| !self.bus.cpu().heap().is_live(page, PAGE)).collect()
    }

    /// Whether some operation was not confirmed when it returned: its pages may be kept for ever.
    pub fn in_doubt(&self) -> bool {
        self.ever_in_doubt
    }
}

#[cfg(test)]
mod tests {
    use model_bus::BusOptions;
    use portcullis::types::PaRange;

    use super::*;

    const MM: MmId = MmId(1);

    fn window(pages: &[u64]) -> Window {
        let leaf = |page| Leaf { page: Pa::new(0x4000_0000 + page), writable: true, dirty: true };
        Window {
            mm: Some(MM),
            before: pages.iter().map(|&page| (page, leaf(page))).collect(),
            ..Window::default()
        }
    }

    fn answer(listener: Listener, first: u64, confirmed: bool) -> Answer {
        Answer { listener, first, last: first + 0xfff, confirmed }
    }

    fn left(window: &Window) -> Vec<u64> {
        window.before.keys().copied().collect()
    }

    #[test]
    fn a_page_is_in_doubt_until_the_same_listener_confirms_that_did_not() {
        let mut window = window(&[0x1000, 0x2000, 0x3000]);
        let answers = [
            answer(1, 0x1000, true),
            answer(2, 0x1000, true),
            answer(1, 0x2000, true),
            answer(2, 0x2000, false),
        ];
        answers.iter().for_each(|answer| window.hear(answer));
        window.shrink();
        assert_eq!(left(&window), [0x2000], "of the first all have confirmed, of the last nobody was told");
        window.hear(&answer(1, 0x2000, true));
        window.hear(&answer(3, 0x2000, false));
        window.shrink();
        assert_eq!(
            left(&window),
            [0x2000],
            "another's word is no help, and another's doubt is not about this"
        );
        window.hear(&answer(2, 0x2000, true));
        window.shrink();
        assert_eq!(left(&window), [0; 0]);
    }

    #[test]
    fn who_confirms_what_he_did_not_before_in_one_operation_has_confirmed() {
        let mut window = window(&[0x1000]);
        [answer(1, 0x1000, false), answer(1, 0x1000, true)].iter().for_each(|answer| window.hear(answer));
        window.shrink();
        assert!(window.before.is_empty());
        let mut window = self::window(&[0x1000]);
        [answer(1, 0x1000, true), answer(1, 0x1000, false)].iter().for_each(|answer| window.hear(answer));
        window.shrink();
        assert_eq!(left(&window), [0x1000]);
    }

    #[test]
    fn a_frame_that_is_free_is_told_while_somebody_may_remember_it() {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x10_0000).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, 1));
        let heap = bus.cpu().heap();
        let way: Vec<Pa> = (0..5).map(|_| heap.alloc(PAGE, PAGE).unwrap()).collect();
        // The second entry of each of four tables: P, R/W, U/S.
        way.windows(2).for_each(|two| {
            bus.cpu().store64(Pa::new(two[0].get() + 8), two[1].get() | 7).unwrap();
        });
        let (root, frame) = (way[0], way[4]);
        let page = 0x80_4020_1000;
        let mut shadow = Shadow::new(bus.clone());
        shadow.add(MM, ProcessTable::X86 { root, levels: 4, output_bits: 46, pat: 0 }, PAGE);
        let mut hear = |confirmed| {
            let window = shadow.open(MM, &[(page, page + PAGE)]);
            shadow.close(window, &[answer(1, page, confirmed)]);
            let held = shadow.freed_in_doubt();
            let _ = heap.free(frame, PAGE);
            (held, shadow.freed_in_doubt(), shadow.in_doubt())
        };
        assert_eq!(hear(false), (vec![], vec![frame], true));
        assert_eq!(
            hear(true),
            (vec![], vec![], true),
            "forgotten, and its bond may have been kept all the same"
        );
    }
}
