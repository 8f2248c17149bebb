//! What a page fault does.
//!
//! Look: under the lock, find out whether the page can be made reachable as it is, or what is missing (a zeroed page, a page of a file, a
//! copy). Fetch: without the lock, get it. Look again: if it is still what is missing, put it in.

use core::mem::replace;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use portcullis::core::mm::{MmFault, MmFaultError, check_area};
use portcullis::hal::Barriers;
use portcullis::pgtable::MapError;
use portcullis::types::{Iova, IovaRange, Perms, Prot};

use super::area::{Area, Source};
use super::change::TakenOut;
use super::file::File;
use super::frame::Frame;
use super::process::{Page, Process, State};

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
    /// Makes the access of `fault` possible. The caller is inside.
    pub(super) fn fault_in(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        let mut supply = None;
        for _ in 0..LOOKS {
            let look = self.look(&mut self.state(), fault, supply.take())?;
            match look {
                Look::Done => return Ok(()),
                Look::Missing(need) => supply = Some(self.supply(need)?),
            }
        }
        Err(MmFaultError::Retry)
    }

    fn supply(&self, need: Need) -> Result<Supply, MmFaultError> {
        let frame = match &need {
            Need::Zeroes => self.kernel.frames().zeroed().ok_or(MmFaultError::NoMemory)?,
            Need::OfFile(file, index) => file.page(*index)?,
            Need::CopyOf(frame) => self.kernel.frames().copy(frame).ok_or(MmFaultError::NoMemory)?,
        };
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
        if state.pages.contains_key(&number) {
            return self.look_at_page(state, number, &found, wanted, supply);
        }
        let (need, shared) = self.need_of(&found, number);
        let copy = !shared && wanted.contains(Perms::WRITE);
        let frame = match first_page(&mut supply, need, copy) {
            Ok(frame) => frame,
            Err(need) => return Ok(Look::Missing(need)),
        };
        if let Some(start) = found.grows_from {
            state.areas.grow_down(start, found.start);
        }
        state.pages.insert(number, Page { frame, shared, mapped: None });
        let look = self.look_at_page(state, number, &found, wanted, supply);
        if look.is_err() {
            state.pages.remove(&number);
            if let Some(start) = found.grows_from {
                state.areas.grow_down(found.start, start);
            }
        }
        look
    }

    /// The same for a page that the process has.
    fn look_at_page(
        &self,
        state: &mut State,
        number: u64,
        found: &Found,
        wanted: Perms,
        mut supply: Option<Supply>,
    ) -> Result<Look, MmFaultError> {
        let Some(page) = state.pages.get(&number) else { return Err(MmFaultError::Retry) };
        if page.mapped.is_some_and(|mapped| mapped.contains(wanted)) {
            return Ok(Look::Done);
        }
        let writes = wanted.contains(Perms::WRITE);
        let own = !page.shared && Arc::strong_count(&page.frame) == 1;
        if writes && !page.shared && !own {
            let need = Need::CopyOf(page.frame.clone());
            let Some(copy) = accept(&mut supply, &need) else { return Ok(Look::Missing(need)) };
            return self.replace(state, number, copy, found.area.perms).map(|()| Look::Done);
        }
        let mut perms = found.area.perms;
        if !(own || page.shared && writes) {
            perms.remove(Perms::WRITE);
        }
        if let (true, Source::Shared { file, offset_bytes }) = (page.shared && writes, &found.area.source) {
            file.mark_dirty(self.file_page(*offset_bytes, found.start, number));
        }
        self.enter_page(state, number, perms).map(|()| Look::Done)
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

    /// What a page that was never touched is made from, and whether its changes are everybody's.
    fn need_of(&self, found: &Found, number: u64) -> (Need, bool) {
        let index = |offset_bytes: u64| self.file_page(offset_bytes, found.start, number);
        match &found.area.source {
            Source::Private { file, offset_bytes } => {
                (Need::OfFile(file.clone(), index(*offset_bytes)), false)
            }
            Source::Shared { file, offset_bytes } => (Need::OfFile(file.clone(), index(*offset_bytes)), true),
            Source::Anonymous | Source::SharedAnonymous | Source::Stack { .. } => (Need::Zeroes, false),
        }
    }

    /// Which page of its file a page of an area is.
    fn file_page(&self, offset_bytes: u64, area_start: u64, number: u64) -> u64 {
        let page_bytes = self.kernel.page_bytes();
        (offset_bytes + number * page_bytes - area_start) / page_bytes
    }

    /// Puts a copy in the place of a page that is others' too.
    fn replace(&self, state: &mut State, number: u64, copy: Frame, perms: Perms) -> Result<(), MmFaultError> {
        let taken = self.take_page_out(state, number);
        let Some(page) = state.pages.get_mut(&number) else { return Err(MmFaultError::Retry) };
        let old = replace(&mut page.frame, copy);
        let entered = self.set_entry(state, number, perms);
        if let (Err(_), Some(page)) = (entered, state.pages.get_mut(&number)) {
            page.frame = old.clone();
        }
        self.copies.fetch_add(u64::from(entered.is_ok()), Relaxed);
        // An invalidation that was not confirmed only means that the old page is kept: the access itself is possible now.
        let _ = self.let_go(state, taken, vec![old]);
        entered
    }

    /// Makes the entry of a page that the process has, through zero if there is one that says something else.
    fn enter_page(&self, state: &mut State, number: u64, perms: Perms) -> Result<(), MmFaultError> {
        let taken = self.take_page_out(state, number);
        let entered = self.set_entry(state, number, perms);
        // The page stays the process's own: there is nothing to keep if a listener did not confirm, but for tables.
        let _ = self.let_go(state, taken, Vec::new());
        entered
    }

    /// Takes the entry of a page out, if it has one. What is taken is let go after its successor is there: a table that was left empty is
    /// taken back into use by it.
    fn take_page_out(&self, state: &mut State, number: u64) -> TakenOut {
        match state.pages.get(&number).and_then(|page| page.mapped) {
            Some(_) => self.take_out(state, self.page_range(number)),
            None => TakenOut::default(),
        }
    }

    /// Writes an entry where there is none.
    fn set_entry(&self, state: &mut State, number: u64, perms: Perms) -> Result<(), MmFaultError> {
        let platform = self.kernel.platform();
        let (Some(page), Some(table)) = (state.pages.get_mut(&number), &mut state.table) else {
            return Err(MmFaultError::Retry);
        };
        // What the page holds must be visible before what leads to it.
        platform.write_barrier();
        let page_bytes = self.kernel.page_bytes();
        let at = Iova::new(number * page_bytes);
        match table.map(&**platform, at, page.frame.at(), page_bytes, Prot::cached(perms)) {
            Ok(()) => {
                page.mapped = Some(perms);
                self.faults.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(MapError::NoTableMemory) => Err(MmFaultError::NoMemory),
            Err(error) => panic!("no entry for page {at} of {self:?}: {error:?}"),
        }
    }

    fn page_range(&self, number: u64) -> IovaRange {
        let page_bytes = self.kernel.page_bytes();
        IovaRange::new(Iova::new(number * page_bytes), page_bytes)
            .expect("pages lie below the end of 52 bits")
    }
}

/// The first page in a place where none was, or what is missing for it. If `copy`, a page of a file is copied at once.
fn first_page(supply: &mut Option<Supply>, need: Need, copy: bool) -> Result<Frame, Need> {
    if let (true, Need::OfFile(file, index)) = (copy, &need) {
        let is_copy =
            |supply: &mut Supply| matches!(&supply.need, Need::CopyOf(of) if file.holds(*index, of));
        if let Some(supply) = supply.take_if(is_copy) {
            return Ok(supply.frame);
        }
        let cached = accept(supply, &need).ok_or(need)?;
        return Err(Need::CopyOf(cached));
    }
    accept(supply, &need).ok_or(need)
}

/// The frame, if it is what is missing.
fn accept(supply: &mut Option<Supply>, need: &Need) -> Option<Frame> {
    supply.take_if(|supply| supply.need.is(need)).map(|supply| supply.frame)
}
