//! What entries say of the use of their pages: collected, cleared, and set where hardware cannot.
//!
//! A page of a shared file is entered clean when it is read first: whoever writes it, CPU or device, makes the entry dirty by itself, with no fault. A CPU or
//! device that cannot faults, and the kernel makes the entry dirty for it. What an entry says is collected when it is taken out, when the file
//! is written back, and when the process ends.
//!
//! A mark that is cleared is cleared in the entry first; then all forget the entry (`tell`); only then are the page's bytes looked at. So a write
//! is in what is looked at, or makes a new mark.

use core::ops::Range;
use std::collections::BTreeMap;
use std::io;

use portcullis::pgtable::{Marks, PageTable};
use portcullis::types::{Iova, IovaRange, Perms};

use super::area::Source;
use super::change::note_dirty;
use super::error::MmError;
use super::file::File;
use super::form::Form;
use super::process::{FilePage, Page, Process, State};

const DIRTY: Marks = Marks { accessed: false, dirty: true };

impl Process {
    /// Writes what was changed of the shared files in `range` back (`msync`). Answers how many pages were written.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`BadRange`](MmError::BadRange), [`NotMapped`](MmError::NotMapped), [`Io`](MmError::Io).
    pub fn write_back(&self, range: IovaRange) -> Result<usize, MmError> {
        let (start, end) = self.ends(range)?;
        let parts: Vec<FilePart> = {
            let state = self.live()?;
            if let Some(hole) = state.areas.first_hole(start, end) {
                return Err(MmError::NotMapped(Iova::new(hole)));
            }
            let page = self.kernel.page_bytes();
            let part = |(at, area): (u64, &super::area::Area)| match &area.source {
                Source::Shared { file, offset_bytes } => {
                    let index = |address: u64| (offset_bytes + address - at) / page;
                    Some((file.clone(), index(start.max(at))..index(end.min(area.end))))
                }
                _ => None,
            };
            state.areas.within(start, end).filter_map(part).collect()
        };
        let written: io::Result<usize> =
            parts.into_iter().map(|(file, indexes)| file.write_back_pages(indexes)).sum();
        written.map_err(|error| MmError::Io(error.kind()))
    }

    /// The pages of `range` that were touched since the last scan, or since they were entered.
    ///
    /// Where entries do not say it, a page was touched if it has an entry, and the scan takes the entry out.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`BadRange`](MmError::BadRange), [`Unconfirmed`](MmError::Unconfirmed).
    pub fn scan_accessed(&self, range: IovaRange) -> Result<Vec<Iova>, MmError> {
        let (start, end) = self.ends(range)?;
        let mut state = self.live()?;
        let page = self.kernel.page_bytes();
        if !self.kernel.keeps_accessed() {
            let mapped =
                state.pages.range(start / page..end / page).filter(|(_, page)| page.mapped.is_some());
            let touched = mapped.map(|(number, _)| Iova::new(number * page)).collect();
            let taken = self.take_out(&mut state, range);
            return self
                .let_go(&mut state, taken, Vec::new())
                .map(|()| touched)
                .map_err(MmError::Unconfirmed);
        }
        let mut touched = Vec::new();
        if let Some(table) = &mut state.table {
            let which = Marks { accessed: true, dirty: false };
            table.clear_marks(&**self.kernel.platform(), range, which, |page, _| touched.push(page.first()));
        }
        if !touched.is_empty()
            && let Some(error) = self.tell(range, true).error
        {
            return Err(MmError::Unconfirmed(error));
        }
        Ok(touched)
    }

    /// Makes the entries of a file's pages clean, and the file know which were dirty. Answers those that some hardware may go on to write without
    /// making them dirty again.
    pub(super) fn make_clean(&self, file: &File, indexes: &Range<u64>) -> Vec<u64> {
        let mut state = self.state();
        let mut doubtful = Vec::new();
        let State { table: Some(table), pages, in_doubt, .. } = &mut *state else { return doubtful };
        for (&number, page) in pages.iter() {
            let range = self.page_range(number);
            let remembered = in_doubt.overlaps(range);
            let Some(index) = written_page(page, file, remembered).filter(|index| indexes.contains(index))
            else {
                continue;
            };
            if remembered {
                doubtful.push(index);
            }
            let mut dirty = false;
            table.clear_marks(&**self.kernel.platform(), range, DIRTY, |_, _| dirty = true);
            if dirty {
                file.mark_dirty(index);
                if self.tell(range, true).error.is_some() {
                    doubtful.push(index);
                }
            }
        }
        doubtful
    }

    /// At the end of the process, when nobody goes through its table any more: the files learn what is dirty.
    pub(super) fn collect_marks(&self, table: &PageTable<Form>, pages: &BTreeMap<u64, Page>) {
        if !self.kernel.keeps_dirty() {
            return;
        }
        for (number, page) in pages.iter().filter(|(_, page)| page.mapped.is_some()) {
            let at = Iova::new(number * self.kernel.page_bytes());
            if table.marks(&**self.kernel.platform(), at).is_some_and(|marks| marks.dirty) {
                note_dirty(Some(page));
            }
        }
    }

    /// Somebody faulted at a page whose entry allows what was wanted: the entry gets the marks that hardware would have set.
    pub(super) fn mark_used(&self, state: &mut State, number: u64, wanted: Perms) {
        if !self.kernel.keeps_accessed() {
            return;
        }
        let range = self.page_range(number);
        let marks = Marks { accessed: true, dirty: wanted.contains(Perms::WRITE) };
        let Some(table) = &mut state.table else { return };
        let had = table.set_marks(&**self.kernel.platform(), range.first(), marks);
        // An entry without the access flag is remembered by nobody; a clean one is, as one that cannot be written.
        if had.is_some_and(|had| marks.dirty && !had.dirty) {
            // Who does not confirm keeps less than there is.
            let _ = self.tell(range, true);
        }
    }
}

/// A file, and which pages of it.
type FilePart = (std::sync::Arc<File>, Range<u64>);

/// Which page of `file` this is, if it is one and can be written: by the entry that it has, or one that somebody may remember.
fn written_page(page: &Page, file: &File, remembered: bool) -> Option<u64> {
    let FilePage { file: of, index } = page.shared.as_ref()?;
    let writable = page.mapped.is_some_and(|mapped| mapped.contains(Perms::WRITE));
    ((writable || remembered) && core::ptr::eq(&**of, file)).then_some(*index)
}
