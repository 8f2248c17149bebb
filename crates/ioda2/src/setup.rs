//! What the two windows of a PE are, and changing that: the order of stores, confirmation, and what happens if none comes.
//!
//! Windows that close are closed before windows open. Tables are linked to the PE before its TVE points to them, and unlinked, at the earliest let
//! go, when the bridge has confirmed to have forgotten them. Where it never does, they are kept with the PE (`stale`) until it does.
//!
//! What a window is that was stored and not confirmed nobody knows (`doubtful`): the bridge may have cached TCEs of a table that was never noted. It is closed, and that
//! confirmed, before it becomes anything else. One that is noted as open and doubtful is one whose removal was not confirmed ([`Failing::Keep`]): nothing opens it again.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_core::table_group::MAX_WINDOWS;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::ioda2::tables::TABLE_TVT;
use portcullis_types::mutant;

use crate::bridge::Bridge;
use crate::table::Table;
use crate::tve;

/// What two windows are.
pub(crate) struct Setup<P: Platform, R: Registers + 'static> {
    pub(crate) tables: [Option<Arc<Table<P, R>>>; MAX_WINDOWS],
    /// The TVE of a window that has no table.
    pub(crate) untranslated: [u64; MAX_WINDOWS],
}

impl<P: Platform, R: Registers> Clone for Setup<P, R> {
    fn clone(&self) -> Self {
        Self { tables: self.tables.clone(), untranslated: self.untranslated }
    }
}

impl<P: Platform, R: Registers> Setup<P, R> {
    /// No windows.
    pub(crate) const CLOSED: Self =
        Self { tables: [const { None }; MAX_WINDOWS], untranslated: [tve::DISABLED; MAX_WINDOWS] };

    fn tves(&self) -> [u64; MAX_WINDOWS] {
        core::array::from_fn(|window| {
            self.tables[window].as_ref().map_or(self.untranslated[window], |table| table.tve())
        })
    }

    fn has(&self, window: usize, table: &Arc<Table<P, R>>) -> bool {
        self.tables[window].as_ref().is_some_and(|own| Arc::ptr_eq(own, table))
    }

    /// The tables that `other` has not as the same windows.
    fn beyond(&self, other: &Self) -> impl Iterator<Item = &Arc<Table<P, R>>> {
        let all = self.tables.iter().enumerate();
        all.filter_map(|(window, table)| table.as_ref().filter(|table| !other.has(window, table)))
    }
}

/// What to do where the bridge does not confirm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Go back; if that is not confirmed either, close all windows.
    Restore,
    /// Go back as far as stores go, and keep what was noted.
    Undo,
    /// Leave the windows closed, and note it so.
    Close,
    /// Leave the windows as stored, and keep what was noted, for another try.
    Keep,
}

/// Why the windows were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NoMemory,
    /// The windows are as they were noted before.
    Sync(SyncError),
    /// All are closed, as far as stores go, and noted so.
    Closed(SyncError),
}

impl From<Refused> for AttachError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoMemory => Self::NoMemory,
            Refused::Sync(error) => Self::Sync(error),
            Refused::Closed(error) => Self::LeftBlocked(error),
        }
    }
}

/// The windows of one PE.
pub(crate) struct Windows<P: Platform, R: Registers + 'static> {
    pe: u8,
    setup: Setup<P, R>,
    /// Tables that the bridge may remember for this PE. They are linked.
    stale: Vec<Arc<Table<P, R>>>,
    /// Which windows may not be what was noted.
    doubtful: [bool; MAX_WINDOWS],
}

impl<P: Platform, R: Registers> Windows<P, R> {
    pub(crate) fn new(pe: u8) -> Self {
        Self { pe, setup: Setup::CLOSED, stale: Vec::new(), doubtful: [false; MAX_WINDOWS] }
    }

    pub(crate) fn setup(&self) -> &Setup<P, R> {
        &self.setup
    }

    /// Whether the bridge has confirmed that these are the windows.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.stale.is_empty() && !self.doubtful.contains(&true)
    }

    /// What was noted, but for what nobody knows, which is closed: from here other changes start.
    pub(crate) fn known(&self) -> Setup<P, R> {
        let mut known = self.setup.clone();
        for window in (0..MAX_WINDOWS).filter(|&window| self.doubtful[window]) {
            known.tables[window] = None;
            known.untranslated[window] = tve::DISABLED;
        }
        known
    }

    /// Whether they are noted as closed, all of them.
    pub(crate) fn is_closed(&self) -> bool {
        self.setup.tves().iter().all(|&tve| tve == tve::DISABLED)
    }

    /// Makes the windows `next`.
    pub(crate) fn switch(
        &mut self,
        bridge: &Bridge<P, R>,
        next: Setup<P, R>,
        failing: Failing,
    ) -> Result<(), Refused> {
        // Room for the tables of both, so that a failure later on finds where to keep them.
        self.stale.try_reserve(2 * MAX_WINDOWS).map_err(|_| Refused::NoMemory)?;
        self.link(&next)?;
        let before = self.known();
        match self.store(bridge, &next) {
            Ok(()) => {
                self.are_now(next);
                Ok(())
            }
            Err(error) => Err(self.unconfirmed(bridge, before, &next, failing, error)),
        }
    }

    fn unconfirmed(
        &mut self,
        bridge: &Bridge<P, R>,
        before: Setup<P, R>,
        next: &Setup<P, R>,
        failing: Failing,
        error: SyncError,
    ) -> Refused {
        let back = match failing {
            Failing::Keep => return Refused::Sync(error),
            Failing::Close => false,
            Failing::Restore | Failing::Undo => self.store(bridge, &before).is_ok(),
        };
        if back {
            if !mutant!("refused-window-stays-linked") {
                next.beyond(&self.setup).for_each(|table| table.unlink(self.pe));
            }
            self.are_now(before);
            return Refused::Sync(error);
        }
        self.stale.extend(next.beyond(&self.setup).cloned());
        if failing == Failing::Undo {
            return Refused::Sync(error);
        }
        let _ = self.store(bridge, &Setup::CLOSED);
        let noted = core::mem::replace(&mut self.setup, Setup::CLOSED);
        self.stale.extend(noted.tables.into_iter().flatten());
        Refused::Closed(error)
    }

    fn link(&self, next: &Setup<P, R>) -> Result<(), Refused> {
        let mut linked = Vec::new();
        linked.try_reserve(MAX_WINDOWS).map_err(|_| Refused::NoMemory)?;
        for table in next.beyond(&self.setup) {
            if !table.link(self.pe) {
                linked.into_iter().for_each(|table: &Arc<Table<P, R>>| table.unlink(self.pe));
                return Err(Refused::NoMemory);
            }
            linked.push(table);
        }
        Ok(())
    }

    /// The bridge has confirmed that these are the windows, and to have forgotten all others.
    fn are_now(&mut self, setup: Setup<P, R>) {
        let before = core::mem::replace(&mut self.setup, setup);
        before.beyond(&self.setup).for_each(|table| table.unlink(self.pe));
        self.stale.drain(..).for_each(|table| table.unlink(self.pe));
    }

    fn store(&mut self, bridge: &Bridge<P, R>, setup: &Setup<P, R>) -> Result<(), SyncError> {
        let (noted, tves) = (self.setup.tves(), setup.tves());
        let stored = self.close_doubtful(bridge, tves).and_then(|()| self.tell(bridge, tves));
        for (window, doubtful) in self.doubtful.iter_mut().enumerate() {
            *doubtful = stored.is_err() && (*doubtful || tves[window] != noted[window]);
        }
        stored
    }

    /// Closes what nobody knows and is to be open, so that nothing is found in a window that was cached of another.
    fn close_doubtful(&self, bridge: &Bridge<P, R>, mut tves: [u64; MAX_WINDOWS]) -> Result<(), SyncError> {
        let opens = |window: usize| self.doubtful[window] && tves[window] != tve::DISABLED;
        let closing = core::array::from_fn::<_, MAX_WINDOWS, _>(opens);
        if !closing.contains(&true) || mutant!("doubtful-window-reused") {
            return Ok(());
        }
        let noted = self.setup.tves();
        for (window, tve) in tves.iter_mut().enumerate() {
            *tve = if closing[window] { tve::DISABLED } else { noted[window] };
        }
        self.tell(bridge, tves)
    }

    fn tell(&self, bridge: &Bridge<P, R>, tves: [u64; MAX_WINDOWS]) -> Result<(), SyncError> {
        // Tables are complete before anything points to them.
        bridge.platform.write_barrier();
        for closing in [true, false] {
            for (window, &tve) in (0u16..).zip(&tves) {
                if (tve == tve::DISABLED) == closing {
                    bridge.ioda_write(TABLE_TVT, 2 * u16::from(self.pe) + window, tve);
                }
            }
        }
        if !mutant!("window-changed-and-not-killed") {
            bridge.kill_pe(self.pe);
        }
        bridge.confirm()
    }
}
