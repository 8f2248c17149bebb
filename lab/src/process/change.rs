//! Taking entries out, in the order that the rules demand.
//!
//! 1. Entries are zeroed, and a barrier makes that visible to every walker.
//! 2. CPUs forget, and that is waited for (TLBI and a barrier, or a shootdown): none goes through the old entries, nor any device that hears broadcasts.
//! 3. Listeners: no device does.
//! 4. Only now may frames go, and tables that were left empty; and only now may there be an entry again.
//!
//! A listener that does not confirm leaves addresses in doubt: there is no entry at them, whatever is mapped there meanwhile, until all listeners have been told again and
//! confirmed. Who touches one until then is refused.
//!
//! Spec: Arm ARM DDI 0487, D8.17.1 "Using break-before-make when updating translation table entries"; Intel SDM volume 3A, 4.10.4.2 "Recommended Invalidation".

use portcullis::core::iommu::SyncError;
use portcullis::core::mm::MmFaultError;
use portcullis::pgtable::Retired;
use portcullis::types::{Iova, IovaRange, Perms};

use super::cores::Forget;
use super::frame::Frame;
use super::listeners::Doubters;
use super::process::{Doubt, FilePage, Page, Process, State};

/// What has been taken out, and what is left to be let go.
#[derive(Default)]
#[must_use = "tables and frames are to be let go, or kept, by what the listeners said"]
pub(super) struct TakenOut {
    retired: Retired,
    doubters: Doubters,
}

/// The file learns that this page of it is dirty, if it is one.
pub(super) fn note_dirty(page: Option<&Page>) {
    if let Some(FilePage { file, index }) = page.and_then(|page| page.shared.as_ref()) {
        file.mark_dirty(*index);
    }
}

impl Process {
    /// Steps 1 to 3 for every entry in `range`. Says nothing to anybody if there was none, and no address there is in doubt.
    pub(super) fn take_out(&self, state: &mut State, range: IovaRange) -> TakenOut {
        let page_bytes = self.kernel.page_bytes();
        let Some(table) = &mut state.table else { return TakenOut::default() };
        let numbers = range.first().get() / page_bytes..=range.last().get() / page_bytes;
        state.pages.range_mut(numbers).for_each(|(_, page)| page.mapped = None);
        let pages = &state.pages;
        let platform = &**self.kernel.platform();
        let gone = if self.kernel.keeps_dirty() {
            table.unmap_marked(platform, range, |page, marks| {
                if marks.dirty {
                    note_dirty(pages.get(&(page.first().get() / page_bytes)));
                }
            })
        } else {
            table.unmap(platform, range)
        };
        let gone = gone.expect("areas lie inside the table, and there are no blocks to split");
        let only_pages = !gone.tables && gone.retired.is_empty();
        if gone.bytes == 0 && only_pages && !state.in_doubt.overlaps(range) {
            return TakenOut::default();
        }
        let doubters = self.tell(range, only_pages);
        if doubters.error.is_some() {
            state.in_doubt.insert(range);
        } else {
            state.in_doubt.remove(range);
        }
        TakenOut { retired: gone.retired, doubters }
    }

    /// That nobody remembers an entry that `range` had, so that it may have another: all are told again where somebody may.
    pub(super) fn settle(&self, state: &mut State, range: IovaRange) -> Result<(), MmFaultError> {
        if !state.in_doubt.overlaps(range) {
            return Ok(());
        }
        if self.tell(range, false).error.is_some() {
            return Err(MmFaultError::Io);
        }
        state.in_doubt.remove(range);
        Ok(())
    }

    /// Steps 2 and 3: CPUs, then listeners, forget `range`.
    pub(super) fn tell(&self, range: IovaRange, last_level_only: bool) -> Doubters {
        self.kernel.forget(self.home(), self.tag(), Forget::Range { range, leaves_only: last_level_only });
        self.listeners.invalidate(range)
    }

    /// Step 4, or, if some listener did not confirm, the keeping of all that it may reach.
    pub(super) fn let_go(
        &self,
        state: &mut State,
        taken: TakenOut,
        frames: Vec<Frame>,
    ) -> Result<(), SyncError> {
        let TakenOut { retired, doubters } = taken;
        if state.kept_for_ever {
            frames.iter().for_each(|frame| frame.lose());
            return Ok(());
        }
        let Some(error) = doubters.error else {
            retired.free(&self.kernel.form(), &**self.kernel.platform());
            return Ok(());
        };
        state.doubts.push(Doubt { frames, retired, doubters: doubters.ids });
        Err(error)
    }

    /// Takes out every entry through which a page can be written that a fork will share; those too that somebody may remember.
    pub(super) fn take_writes_out(&self, state: &mut State) -> Result<(), SyncError> {
        for range in self.private_writable_runs(state) {
            let taken = self.take_out(state, range);
            self.let_go(state, taken, Vec::new())?;
        }
        Ok(())
    }

    /// Runs of pages that the process may write, or somebody who did not confirm that he forgot, and that are its own.
    fn private_writable_runs(&self, state: &State) -> Vec<IovaRange> {
        let page_bytes = self.kernel.page_bytes();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (&number, page) in &state.pages {
            let writable = page.mapped.is_some_and(|perms| perms.contains(Perms::WRITE));
            let range = self.page_range(number);
            if page.shared.is_some() || !(writable || state.in_doubt.overlaps(range)) {
                continue;
            }
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => runs.push((number, number)),
            }
        }
        let range = |(first, last)| {
            IovaRange::from_ends(Iova::new(first * page_bytes), Iova::new((last + 1) * page_bytes - 1))
        };
        runs.into_iter().filter_map(range).collect()
    }

    /// After this no CPU walks the table or holds anything of it.
    pub(super) fn forget_asid(&self) {
        self.kernel.switch_away_from(self.root());
        self.kernel.forget(self.home(), self.tag(), Forget::All);
    }
}
