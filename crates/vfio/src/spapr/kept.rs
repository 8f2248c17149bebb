//! A group that leaves: what has to be confirmed before it is the platform's again, and before its user's pages are let go.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::table_group::{DmaTable, Kind, MAX_WINDOWS, TableGroup, kind};
use portcullis_hal::Platform;

use super::attach::unset_all;
use super::eeh::hand_back;
use super::memory::Allowance;
use super::windows::Window;
use crate::Errno;
use crate::registry::Shared;
use crate::user::UserMemory;

/// What a group that has left, or did not join, has to be rid of.
pub(crate) struct Kept {
    group: Arc<dyn TableGroup>,
    /// Windows that others still have.
    shared: Vec<Arc<dyn DmaTable>>,
    /// Windows that were the last group's, and what was mapped there.
    windows: [Option<Window>; MAX_WINDOWS],
    allowance: Allowance,
    /// Whether it was a user's, who may have left its devices stopped.
    used: bool,
    /// Whether he has made errors.
    injected: bool,
}

impl Kept {
    /// A group that was a user's.
    pub(super) fn of(group: Arc<dyn TableGroup>, shared: Vec<Arc<dyn DmaTable>>, injected: bool) -> Self {
        let windows = [const { None }; MAX_WINDOWS];
        Self { group, shared, windows, allowance: Allowance::None, used: true, injected }
    }

    /// A group that was taken for a user and is not his.
    pub(super) fn unused(group: Arc<dyn TableGroup>, shared: Vec<Arc<dyn DmaTable>>) -> Self {
        Self { used: false, ..Self::of(group, shared, false) }
    }

    /// All that a container without groups leaves.
    pub(super) fn inherit(&mut self, windows: [Option<Window>; MAX_WINDOWS], allowance: Allowance) {
        (self.windows, self.allowance) = (windows, allowance);
    }

    /// Tries to finish. Answers what is left.
    pub(crate) fn reclaim<P: Platform>(mut self, shared: &Shared<P>) -> Option<Self> {
        let closed = self.close();
        if closed.is_ok() {
            self.allowance.let_go(&shared.areas);
            // Before it is the platform's, whose drivers may use it from then on.
            if self.used {
                hand_back(&*self.group, self.injected);
            }
        }
        let released = closed.and_then(|()| release(&*self.group));
        released.is_err().then_some(self)
    }

    fn close(&mut self) -> Result<(), Errno> {
        let unset = unset_all(&*self.group, &self.shared);
        let mut closed = unset;
        for place in &mut self.windows {
            let Some(window) = place else { continue };
            let done = window.close(core::iter::once(&*self.group), &mut self.allowance);
            if done.is_ok() {
                *place = None;
            }
            closed = closed.and(done);
        }
        closed
    }

    /// Whether it is this group that is held.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.group.name() == name
    }

    /// How many pages are held for it.
    pub(crate) fn page_count(&self) -> u64 {
        // Where nothing may be mapped, no page is pinned; the tables are paid for even so.
        let page = self.allowance.memory().map(|memory| memory.page_size());
        let windows: u64 = self.windows.iter().flatten().map(|window| window.held_pages(page)).sum();
        windows + self.allowance.held_pages()
    }
}

/// Gives a group back to the platform, which has none of its user's windows any more.
fn release(group: &dyn TableGroup) -> Result<(), Errno> {
    let released = match kind(group) {
        Ok(Kind::OnDemand(ownership, _)) => ownership.release_ownership(),
        Ok(Kind::Whole(whole)) => whole.give_back_table(),
        Err(_) => Ok(()),
    };
    released.map_err(|error| error.errno())
}

impl Allowance {
    /// Whose memory it is.
    pub(super) fn memory(&self) -> Option<&Arc<dyn UserMemory>> {
        match self {
            Self::None => None,
            Self::Paid { memory, .. } => Some(memory),
            Self::Registered(held) => held.iter().next().map(|registration| registration.area.memory()),
        }
    }

    /// How many pages are registered.
    fn held_pages(&self) -> u64 {
        match self {
            Self::None | Self::Paid { .. } => 0,
            Self::Registered(held) => held.iter().map(|registration| registration.area.page_count()).sum(),
        }
    }
}
