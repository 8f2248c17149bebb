//! Where the page of an entry comes from, and its way back.
//!
//! Version 1 pins a page for each entry; version 2 counts entries of registered memory, which is pinned as a whole.

use alloc::vec::Vec;

use portcullis_core::table_group::TableEntry;
use portcullis_types::{Pa, PaRange, Perms, SizeLg2, mutant};

use super::memory::Allowance;
use crate::Errno;
use crate::user::{UserMemory, room};

/// What is to be let go when hardware has confirmed that it has forgotten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Pinned pages, each once.
    Pins { pages: PaRange, dirty: bool },
    /// So many entries of the registered memory that begins here.
    Uses { area: u64, count: u64 },
}

impl Due {
    /// Joins with what follows, if they are of a kind.
    fn join(&mut self, next: Self) -> bool {
        match (self, next) {
            (Self::Pins { pages, dirty }, Self::Pins { pages: more, dirty: other }) => {
                let joined = pages.joined(more).filter(|_| *dirty == other);
                *pages = joined.unwrap_or(*pages);
                joined.is_some()
            }
            (Self::Uses { area, count }, Self::Uses { area: other, count: more }) if *area == other => {
                *count += more;
                true
            }
            _ => false,
        }
    }
}

/// Room that a list keeps when it is empty.
const KEPT: usize = 64;

/// All that is due, each entry once.
#[must_use = "dropped, pages stay pinned"]
pub(super) struct Dues(Vec<Due>);

impl Dues {
    /// With room for one, so that what is due can always be noted: if not more at a time, then one after the other.
    pub(super) fn new() -> Result<Self, Errno> {
        let mut list = Vec::new();
        list.try_reserve(1).map_err(|_| Errno::Enomem)?;
        Ok(Self(list))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives back what a large map has needed.
    fn trim(&mut self) {
        if self.0.capacity() > KEPT
            && let Ok(small) = Self::new()
        {
            *self = small;
        }
    }

    /// Has room for so many more.
    pub(super) fn room(&mut self, memory: &dyn UserMemory, more: usize) -> Result<(), Errno> {
        room(memory, &mut self.0, more)
    }

    /// There is room.
    fn add(&mut self, due: Due) {
        if !self.0.last_mut().is_some_and(|last| last.join(due)) {
            self.0.push(due);
        }
    }

    /// How many pages of this size version 1 has pinned for it.
    pub(super) fn pinned(&self, page: SizeLg2) -> u64 {
        let bytes = self.0.iter().map(|due| match due {
            Due::Pins { pages, .. } => pages.len_bytes().unwrap_or(u64::MAX),
            Due::Uses { .. } => 0,
        });
        bytes.sum::<u64>() >> page.get()
    }
}

impl Allowance {
    /// That every page of `size` bytes at `vaddr` can be mapped, as far as that can be said before.
    pub(super) fn covers(&self, vaddr: u64, size: u64, page: SizeLg2) -> Result<(), Errno> {
        let mut pages = (0..size >> page.get()).map(|index| vaddr + (index << page.get()));
        match self {
            Self::None => Err(Errno::Eperm),
            Self::Paid { .. } => Ok(()),
            Self::Registered(_) => pages.try_for_each(|vaddr| self.registered(vaddr, page).map(drop)),
        }
    }

    fn registered(&self, vaddr: u64, page: SizeLg2) -> Result<(u64, Pa), Errno> {
        let Self::Registered(held) = self else { return Err(Errno::Eperm) };
        let area = &held.at_or_before(vaddr).ok_or(Errno::Einval)?.area;
        Ok((area.vaddr, area.page(vaddr, page.bytes()).ok_or(Errno::Einval)?))
    }

    /// The page of an entry, counted or pinned for it.
    pub(super) fn acquire(&mut self, vaddr: u64, page: SizeLg2, perms: Perms) -> Result<Pa, Errno> {
        if let Self::Paid { memory, .. } = self {
            let cpu = memory.page_size();
            let inside = vaddr & (cpu.bytes() - 1);
            let wanted = page.max(cpu).bytes();
            let pages = memory.pin(vaddr - inside, wanted, perms.contains(Perms::WRITE))?;
            let pa = Pa::new(pages.first().get() + inside);
            // Smaller pieces than the window's pages cannot be mapped.
            if pages.len_bytes() != Some(wanted) || !pa.is_aligned(page.bytes()) {
                memory.unpin(pages, false);
                return Err(Errno::Eperm);
            }
            return Ok(pa);
        }
        let (area, pa) = self.registered(vaddr, page)?;
        if let Self::Registered(held) = self
            && let Some(registration) = held.get_mut(area)
        {
            registration.mapped += u64::from(!mutant!("entry-of-registered-memory-not-counted"));
        }
        Ok(pa)
    }

    /// Lets go at once what was acquired for an entry that never was in a table.
    pub(super) fn unused(&mut self, entry: TableEntry, page: SizeLg2) {
        if let Some(due) = self.due_of(TableEntry { perms: Perms::READ, ..entry }, page) {
            self.settle_one(due);
        }
    }

    /// Notes what an entry had, whose page may be let go when hardware has forgotten it. There is room.
    pub(super) fn due(&self, entry: TableEntry, page: SizeLg2, dues: &mut Dues) {
        self.due_of(entry, page).into_iter().for_each(|due| dues.add(due));
    }

    fn due_of(&self, entry: TableEntry, page: SizeLg2) -> Option<Due> {
        Some(match self {
            Self::None => return None,
            Self::Paid { memory, .. } => {
                let pinned = page.max(memory.page_size()).bytes();
                let pages = PaRange::new(entry.pa.align_down(pinned), pinned).expect("it was pinned");
                Due::Pins { pages, dirty: entry.perms.contains(Perms::WRITE) }
            }
            Self::Registered(held) => {
                let held = held.at_or_before(entry.user).filter(|held| held.area.contains(entry.user));
                let held = held.expect("registered memory stays while entries map it");
                Due::Uses { area: held.area.vaddr, count: 1 }
            }
        })
    }

    /// Lets go what is due: hardware has confirmed.
    pub(super) fn settle(&mut self, dues: &mut Dues) {
        dues.0.drain(..).for_each(|due| self.settle_one(due));
        dues.trim();
    }

    fn settle_one(&mut self, due: Due) {
        match (due, &mut *self) {
            (Due::Pins { pages, dirty }, Self::Paid { memory, .. }) => memory.unpin(pages, dirty),
            (Due::Uses { area, count }, Self::Registered(held)) => {
                if let Some(registration) = held.get_mut(area) {
                    registration.mapped -= count;
                }
            }
            (Due::Pins { .. } | Due::Uses { .. }, _) => {
                unreachable!("an allowance stays of its kind while something is mapped")
            }
        }
    }
}
