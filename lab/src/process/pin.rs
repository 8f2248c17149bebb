//! Pages that stay where they are while a device may reach them.
//!
//! A pinned page is in memory, belongs to its process alone (unless changes are everybody's), and is not replaced by a copy, whoever else held it
//! before: what the process writes the device reads, and the other way round, for as long as the process has it mapped. The pin outlives the
//! mapping, and the process.
//!
//! - A page that others hold too is copied when it is pinned, for reading as well: later a write of the process would copy it, and
//!   the device would be left with the old one.
//! - A fork gets copies of pinned pages at once, so that parent and device go on with theirs.
//! - Registers are not pinned.
//!
//! Observed: Linux 7.3, mm/gup.c `FOLL_PIN`, `gup_must_unshare`; mm/memory.c `copy_present_page`: the same promises.

use std::sync::Arc;

use portcullis::core::mm::{MmFault, MmFaultError};
use portcullis::hal::Barriers;
use portcullis::types::{Iova, Pa, Perms};

use super::area::Source;
use super::error::MmError;
use super::file::File;
use super::frame::PinnedFrame;
use super::process::{FilePage, Page, Process, State};

/// How often a pin makes a page present before it gives up.
const TRIES: usize = 64;

/// A page that stays where it is. Dropped, it is let go.
#[derive(Debug)]
pub struct Pinned {
    frame: PinnedFrame,
    file: Option<(Arc<File>, u64)>,
}

impl Pinned {
    /// Where it is.
    pub fn at(&self) -> Pa {
        self.frame.at()
    }

    /// It may have been written: its file, if it is one's, has to know.
    pub fn mark_dirty(&self) {
        if let Some((file, index)) = &self.file {
            file.mark_dirty(*index);
        }
    }

    fn new(page: &Page) -> Self {
        let file = page.shared.as_ref().map(|FilePage { file, index }| (file.clone(), *index));
        Self { frame: PinnedFrame::new(&page.frame), file }
    }
}

impl Process {
    /// Pins the page at `at`, which is made present for reading, or, if `write`, for writing.
    ///
    /// # Errors
    ///
    /// As a fault of the process there. [`MmFaultError::NoArea`] also for registers.
    pub fn pin(&self, at: Iova, write: bool) -> Result<Pinned, MmFaultError> {
        let _inside = self.enter().ok_or(MmFaultError::Exited)?;
        let number = at.get() / self.kernel.page_bytes();
        for _ in 0..TRIES {
            let wanted = {
                let mut state = self.state();
                let area = state.areas.find(at.get()).ok_or(MmFaultError::NoArea)?.1.clone();
                if matches!(area.source, Source::Registers { .. }) {
                    return Err(MmFaultError::NoArea);
                }
                portcullis::core::mm::check_area(area.perms, if write { Perms::WRITE } else { Perms::READ })?;
                if let Some(pinned) = try_pin(&mut state, number, write) {
                    return Ok(pinned);
                }
                // Written, a page is the process's own. One that may not be written is copied below.
                if area.perms.contains(Perms::WRITE) { Perms::WRITE } else { Perms::READ }
            };
            self.fault_in(&MmFault { address: at, wanted })?;
            if wanted == Perms::READ {
                self.unshare(number)?;
            }
        }
        Err(MmFaultError::Retry)
    }

    /// A page that the process may not write, and that others hold too, becomes its own.
    fn unshare(&self, number: u64) -> Result<(), MmFaultError> {
        let shared = {
            let state = self.state();
            let page = state.pages.get(&number).filter(|page| page.shared.is_none() && !page.is_own());
            page.map(|page| page.frame.clone())
        };
        let Some(shared) = shared else { return Ok(()) };
        let copy = self.kernel.frames().copy(&shared).ok_or(MmFaultError::NoMemory)?;
        self.kernel.platform().write_barrier();
        let mut state = self.state();
        let same = |page: &&mut Page| Arc::ptr_eq(&page.frame, &shared);
        if state.pages.get_mut(&number).filter(same).is_none() {
            return Ok(());
        }
        let taken = self.take_out(&mut state, self.page_range(number));
        // Whoever is in doubt reaches the old page, not this one.
        let own = Page::new(copy, None);
        let old = state.pages.insert(number, own).map(|page| page.frame);
        // What is not confirmed is kept; the page itself is the process's own now.
        let _ = self.let_go(&mut state, taken, old.into_iter().collect());
        Ok(())
    }

    /// Copies of all pages that are pinned and not everybody's, for a fork.
    pub(super) fn copies_of_pinned(&self, state: &State) -> Result<Vec<(u64, Page)>, MmError> {
        let pinned = state
            .pages
            .iter()
            .filter(|(_, page)| page.shared.is_none() && page.frame.pin_count() > 0 && !page.frame.is_part());
        let copies = pinned.map(|(&number, page)| {
            let frame = self.kernel.frames().copy(&page.frame).ok_or(MmError::NoMemory)?;
            Ok((number, Page::new(frame, None)))
        });
        let copies = copies.collect();
        self.kernel.platform().write_barrier();
        copies
    }
}

/// Pins a page that is there and as it has to be.
fn try_pin(state: &mut State, number: u64, write: bool) -> Option<Pinned> {
    let page = state.pages.get(&number)?;
    let ready = match page.shared {
        Some(_) => !write || page.mapped.is_some_and(|mapped| mapped.contains(Perms::WRITE)),
        None => page.is_own(),
    };
    ready.then(|| Pinned::new(page))
}
