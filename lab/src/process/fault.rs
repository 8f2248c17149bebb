//! What a page fault does.
//!
//! Look: under the lock, find out whether the page can be made reachable as it is, or what is missing (a zeroed page, a page of a file, a
//! copy). Fetch: without the lock, get it. Look again: if it is still what is missing, put it in.

use core::mem::replace;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use portcullis::core::mm::{MmFault, MmFaultError, check_area};
use portcullis::hal::Barriers;
use portcullis::pgtable::{MapError, Marks, PageTable};
use portcullis::types::{Iova, IovaRange, Pa, Perms, Prot};

use super::area::{Area, Source};
use super::change::{TakenOut, note_dirty};
use super::file::File;
use super::form::Form;
use super::frame::Frame;
use super::process::{FilePage, Page, Process, State};

/// What is missing.
#[derive(Clone)]
enum Need {
    /// A page of zeroes.
    Zeroes,
    /// A page of a file.
    OfFile(Arc<File>, u64),
    /// A copy of a page.
    CopyOf(Frame),
}

/// What was missing, and has been got.
struct Supply {
    need: Need,
    frame: Frame,
}

/// An area for an access.
struct Found {
    /// Where it begins, once it has grown.
    start: u64,
    /// Where it begins now, if it is to grow.
    grows_from: Option<u64>,
    area: Area,
}

/// What an entry is to say.
#[derive(Clone, Copy)]
struct NewEntry {
    perms: Perms,
    marks: Marks,
}

enum Look {
    Done,
    Missing(Need),
}

/// How often a fault looks before it lets others have a turn.
const LOOKS: usize = 16;

impl Need {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Zeroes, Self::Zeroes) => true,
            (Self::OfFile(file, index), Self::OfFile(other, other_index)) => {
                Arc::ptr_eq(file, other) && index == other_index
            }
            (Self::CopyOf(frame), Self::CopyOf(other)) => Arc::ptr_eq(frame, other),
            _ => false,
        }
    }
}

impl Process {
    /// Makes the access of `fault` possible, for somebody who need not be inside: none is torn down under the lock that a quick answer takes.
    pub(super) fn fault_from_outside(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        let mut state = self.state();
        if state.is_exiting() {
            return Err(MmFaultError::Exited);
        }
        let Look::Missing(need) = self.look(&mut state, fault, None)? else { return Ok(()) };
        let _inside = self.come_in(&mut state);
        drop(state);
        self.bring_in(fault, need)
    }

    /// Makes the access of `fault` possible. The caller is inside.
    pub(super) fn fault_in(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        let look = self.look(&mut self.state(), fault, None)?;
        match look {
            Look::Done => Ok(()),
            Look::Missing(need) => self.bring_in(fault, need),
        }
    }

    fn bring_in(&self, fault: &MmFault, mut need: Need) -> Result<(), MmFaultError> {
        for _ in 0..LOOKS {
            let supply = self.supply(need)?;
            let look = self.look(&mut self.state(), fault, Some(supply))?;
            match look {
                Look::Done => return Ok(()),
                Look::Missing(next) => need = next,
            }
        }
        Err(MmFaultError::Retry)
    }

    /// What it gets, hardware sees.
    fn supply(&self, need: Need) -> Result<Supply, MmFaultError> {
        let frame = match &need {
            Need::Zeroes => self.kernel.frames().zeroed().ok_or(MmFaultError::NoMemory)?,
            Need::OfFile(file, index) => file.page(*index)?,
            Need::CopyOf(frame) => self.kernel.frames().copy(frame).ok_or(MmFaultError::NoMemory)?,
        };
        // What the page holds must be visible before what leads to it.
        self.kernel.platform().write_barrier();
        Ok(Supply { need, frame })
    }

    fn look(
        &self,
        state: &mut State,
        fault: &MmFault,
        mut supply: Option<Supply>,
    ) -> Result<Look, MmFaultError> {
        let found = self.find_area(state, fault)?;
        let number = fault.address.get() / self.kernel.page_bytes();
        let wanted = fault.wanted.difference(Perms::PRIVILEGED);
        if wanted.is_empty() {
            return Ok(Look::Done);
        }
        if let Source::Registers { first } = found.area.source {
            let entered = self.enter_registers(state, number, &found, first);
            // Whoever looked for accesses may have taken the mark away.
            return entered.inspect(|_| self.mark_used(state, number, wanted));
        }
        if let Some(look) = self.look_at_page(state, number, &found, wanted, &mut supply) {
            return look;
        }
        let (need, shared) = self.need_of(&found, number);
        let copy = shared.is_none() && wanted.contains(Perms::WRITE);
        let stocked = || self.kernel.frames().stocked(&mut state.reserve);
        let frame = match first_page(&mut supply, need, copy, stocked) {
            Ok(frame) => frame,
            Err(need) => return Ok(Look::Missing(need)),
        };
        self.settle(state, self.page_range(number))?;
        let mut page = Page::new(frame, shared);
        let entry = self.entry_for(&page, found.area.perms, wanted);
        self.set_entry(&mut state.table, number, &mut page, entry)?;
        if let Some(start) = found.grows_from {
            state.areas.grow_down(start, found.start);
        }
        state.pages.insert(number, page);
        Ok(Look::Done)
    }

    /// The same for a page that the process has; none if it does not have it.
    fn look_at_page(
        &self,
        state: &mut State,
        number: u64,
        found: &Found,
        wanted: Perms,
        supply: &mut Option<Supply>,
    ) -> Option<Result<Look, MmFaultError>> {
        let page = state.pages.get(&number)?;
        if page.mapped.is_some_and(|mapped| mapped.contains(wanted)) {
            self.mark_used(state, number, wanted);
            return Some(Ok(Look::Done));
        }
        if wanted.contains(Perms::WRITE) && page.shared.is_none() && !page.is_own() {
            let need = Need::CopyOf(page.frame.clone());
            let Some(copy) = accept(supply, &need) else { return Some(Ok(Look::Missing(need))) };
            let entry = NewEntry { perms: found.area.perms, marks: Marks::USED };
            return Some(self.replace(state, number, copy, entry).map(|()| Look::Done));
        }
        let entry = self.entry_for(page, found.area.perms, wanted);
        Some(self.enter_page(state, number, entry).map(|()| Look::Done))
    }

    /// The area of an access, which allows it; perhaps a stack that is to grow.
    fn find_area(&self, state: &State, fault: &MmFault) -> Result<Found, MmFaultError> {
        let at = fault.address.get();
        if let Some((start, area)) = state.areas.find(at) {
            check_area(area.perms, fault.wanted)?;
            return Ok(Found { start, grows_from: None, area: area.clone() });
        }
        let (start, area) = state.areas.next_above(at).ok_or(MmFaultError::NoArea)?;
        let Source::Stack { limit_bytes } = area.source else { return Err(MmFaultError::NoArea) };
        let page_bytes = self.kernel.page_bytes();
        let new_start = at / page_bytes * page_bytes;
        let floor =
            state.areas.last_below(at).map_or(self.lowest(), |(_, below)| below.end + self.stack_gap());
        if new_start < floor || area.end - new_start > limit_bytes {
            return Err(MmFaultError::NoArea);
        }
        check_area(area.perms, fault.wanted)?;
        Ok(Found { start: new_start, grows_from: Some(start), area: area.clone() })
    }

    /// What a page that was never touched is made from, and, if its changes are everybody's, of which file it is.
    fn need_of(&self, found: &Found, number: u64) -> (Need, Option<FilePage>) {
        let index = |offset_bytes: u64| self.file_page(offset_bytes, found.start, number);
        match &found.area.source {
            Source::Private { file, offset_bytes } => {
                (Need::OfFile(file.clone(), index(*offset_bytes)), None)
            }
            Source::Shared { file, offset_bytes } => {
                let page = FilePage { file: file.clone(), index: index(*offset_bytes) };
                (Need::OfFile(page.file.clone(), page.index), Some(page))
            }
            Source::Anonymous | Source::SharedAnonymous | Source::Stack { .. } | Source::Registers { .. } => {
                (Need::Zeroes, None)
            }
            Source::Huge => unreachable!("huge pages are there from the beginning"),
        }
    }

    /// Makes the entry of a page of registers that begin with the area at `first`.
    fn enter_registers(
        &self,
        state: &mut State,
        number: u64,
        found: &Found,
        first: Pa,
    ) -> Result<Look, MmFaultError> {
        self.settle(state, self.page_range(number))?;
        let page_bytes = self.kernel.page_bytes();
        let pa = Pa::new(first.get() + (number * page_bytes - found.start));
        let Some(table) = &mut state.table else { return Err(MmFaultError::Retry) };
        let (platform, at) = (&**self.kernel.platform(), Iova::new(number * page_bytes));
        // Entries of registers say all that their area allows, so one that is there already is right, unless protection has changed.
        match table.map_marked(platform, at, pa, page_bytes, Prot::device(found.area.perms), Marks::USED) {
            Ok(()) | Err(MapError::Mapped(_)) => Ok(Look::Done),
            Err(MapError::NoTableMemory) => Err(MmFaultError::NoMemory),
            Err(error) => panic!("no entry for registers at {at} of {self:?}: {error:?}"),
        }
    }

    /// Which page of its file a page of an area is.
    fn file_page(&self, offset_bytes: u64, area_start: u64, number: u64) -> u64 {
        let page_bytes = self.kernel.page_bytes();
        (offset_bytes + number * page_bytes - area_start) / page_bytes
    }

    /// Puts a copy in the place of a page that is others' too.
    fn replace(
        &self,
        state: &mut State,
        number: u64,
        copy: Frame,
        entry: NewEntry,
    ) -> Result<(), MmFaultError> {
        let taken = self.take_page_out(state, number)?;
        let State { table, pages, .. } = state;
        let Some(page) = pages.get_mut(&number) else { return Err(MmFaultError::Retry) };
        let old = replace(&mut page.frame, copy);
        let entered = self.set_entry(table, number, page, entry);
        if entered.is_err() {
            page.frame = old.clone();
        }
        self.copies.fetch_add(u64::from(entered.is_ok()), Relaxed);
        let let_go = self.let_go(state, taken, vec![old]);
        debug_assert!(let_go.is_ok(), "page {number:#x} of {self:?} was in doubt, and has an entry");
        entered
    }

    /// Makes the entry of a page that the process has, through zero if there is one that says something else.
    fn enter_page(&self, state: &mut State, number: u64, entry: NewEntry) -> Result<(), MmFaultError> {
        let taken = self.take_page_out(state, number)?;
        let State { table, pages, .. } = state;
        let Some(page) = pages.get_mut(&number) else { return Err(MmFaultError::Retry) };
        let entered = self.set_entry(table, number, page, entry);
        let let_go = self.let_go(state, taken, Vec::new());
        debug_assert!(let_go.is_ok(), "page {number:#x} of {self:?} was in doubt, and has an entry");
        entered
    }

    /// Takes the entry of a page out, if it has one, or had one that somebody may remember. What is taken is let go after its successor is there: a table that was left empty is
    /// taken back into use by it. If somebody does not confirm, there is to be none: the page stays the process's own, and has no entry.
    fn take_page_out(&self, state: &mut State, number: u64) -> Result<TakenOut, MmFaultError> {
        let range = self.page_range(number);
        if state.pages.get(&number).is_none_or(|page| page.mapped.is_none()) {
            return self.settle(state, range).map(|()| TakenOut::default());
        }
        let taken = self.take_out(state, range);
        if state.in_doubt.overlaps(range) {
            // Nothing is kept but tables.
            let _ = self.let_go(state, taken, Vec::new());
            return Err(MmFaultError::Io);
        }
        Ok(taken)
    }

    /// Writes an entry where there is none. Hardware sees what the page holds already.
    fn set_entry(
        &self,
        table: &mut Option<PageTable<Form>>,
        number: u64,
        page: &mut Page,
        NewEntry { perms, marks }: NewEntry,
    ) -> Result<(), MmFaultError> {
        let Some(table) = table else { return Err(MmFaultError::Retry) };
        let page_bytes = self.kernel.page_bytes();
        let at = Iova::new(number * page_bytes);
        let prot = Prot::cached(perms);
        match table.map_marked(&**self.kernel.platform(), at, page.frame.at(), page_bytes, prot, marks) {
            Ok(()) => {
                page.mapped = Some(perms);
                if marks.dirty && perms.contains(Perms::WRITE) {
                    note_dirty(Some(page));
                }
                self.faults.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(MapError::NoTableMemory) => Err(MmFaultError::NoMemory),
            Err(error) => panic!("no entry for page {at} of {self:?}: {error:?}"),
        }
    }

    /// How a page is entered for an access: with what its area allows, but writing only if the page is the process's own, or everybody's and
    /// either written now or watched for writes.
    fn entry_for(&self, page: &Page, area: Perms, wanted: Perms) -> NewEntry {
        let written = wanted.contains(Perms::WRITE);
        let writable = match page.shared {
            Some(_) => written || self.kernel.keeps_dirty(),
            None => page.is_own(),
        };
        NewEntry {
            perms: if writable { area } else { area.difference(Perms::WRITE) },
            marks: Marks { accessed: true, dirty: written || page.shared.is_none() },
        }
    }

    pub(super) fn page_range(&self, number: u64) -> IovaRange {
        let page_bytes = self.kernel.page_bytes();
        IovaRange::new(Iova::new(number * page_bytes), page_bytes)
            .expect("pages lie below the end of 52 bits")
    }
}

/// The first page in a place where none was, or what is missing for it. If `copy`, a page of a file is copied at once.
fn first_page(
    supply: &mut Option<Supply>,
    need: Need,
    copy: bool,
    stocked: impl FnOnce() -> Option<Frame>,
) -> Result<Frame, Need> {
    if let (true, Need::OfFile(file, index)) = (copy, &need) {
        let is_copy =
            |supply: &mut Supply| matches!(&supply.need, Need::CopyOf(of) if file.holds(*index, of));
        if let Some(supply) = supply.take_if(is_copy) {
            return Ok(supply.frame);
        }
        let cached = accept(supply, &need).ok_or(need)?;
        return Err(Need::CopyOf(cached));
    }
    let zeroes = matches!(need, Need::Zeroes);
    accept(supply, &need).or_else(|| if zeroes { stocked() } else { None }).ok_or(need)
}

/// The frame, if it is what is missing.
fn accept(supply: &mut Option<Supply>, need: &Need) -> Option<Frame> {
    supply.take_if(|supply| supply.need.is(need)).map(|supply| supply.frame)
}
