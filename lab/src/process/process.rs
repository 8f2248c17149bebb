//! An address space: made, forked, changed, ended.

use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, AtomicUsize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use portcullis::core::asid::PinError;
use portcullis::core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis::iova::RangeSet;
use portcullis::pgtable::{PageTable, Retired};
use portcullis::types::{Iova, IovaRange, Pa, Perms};

use super::area::{Area, Areas, Source};
use super::error::MmError;
use super::file::File;
use super::form::Form;
use super::frame::Frame;
use super::kernel::{Kernel, Tag};
use super::listeners::Listeners;

/// What a process wants mapped.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Where, a multiple of the page size; none for wherever there is room.
    pub at: Option<Iova>,
    /// How much. Rounded up to whole pages.
    pub len_bytes: u64,
    /// What the process may do with it. Writing and executing go with reading. Nothing at all is fine.
    pub perms: Perms,
    /// What it holds.
    pub source: Source,
}

/// What a process uses, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Areas.
    pub areas: usize,
    /// Pages that the process has, mapped at the moment or not.
    pub resident_pages: usize,
    /// Faults that made an entry, so far.
    pub faults: u64,
    /// Pages that were mapped for reading and copied before they were written, so far.
    pub copies: u64,
}

/// A process's memory.
pub struct Process {
    id: MmId,
    /// Itself, for the files that it maps.
    me: Weak<Self>,
    pub(super) kernel: Arc<Kernel>,
    root: Pa,
    home: AtomicUsize,
    pub(super) state: Mutex<State>,
    pub(super) listeners: Listeners,
    pub(super) faults: AtomicU64,
    pub(super) copies: AtomicU64,
    pasid: PasidSlot,
    tag: Tag,
}

/// What a process has.
pub(super) struct State {
    pub(super) areas: Areas,
    /// By page number.
    pub(super) pages: BTreeMap<u64, Page>,
    /// Zeroed pages that the process has taken from the stock ahead.
    pub(super) reserve: Vec<Frame>,
    /// None once it is torn down.
    pub(super) table: Option<PageTable<Form>>,
    /// What some listener's hardware may still reach.
    pub(super) doubts: Vec<Doubt>,
    /// Where it may: addresses at which some listener did not confirm that its hardware has forgotten an entry. Until one confirms, they may be reached as that entry
    /// said, and have none (`change`).
    pub(super) in_doubt: RangeSet,
    /// Who is inside; the process itself counts as one until it exits.
    users: usize,
    exiting: bool,
    /// A listener did not confirm its release.
    pub(super) kept_for_ever: bool,
    top: u64,
}

impl State {
    pub(super) fn is_exiting(&self) -> bool {
        self.exiting
    }

    /// What is still in doubt is lost: its hardware never confirmed.
    fn forget_doubts(&mut self) {
        for doubt in core::mem::take(&mut self.doubts) {
            doubt.frames.iter().for_each(|frame| frame.lose());
        }
    }
}

/// A page that the process has.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) frame: Frame,
    /// The file that it is a page of, if changes are everybody's.
    pub(super) shared: Option<FilePage>,
    /// What its entry allows; none if there is no entry.
    pub(super) mapped: Option<Perms>,
}

impl Page {
    /// A page without an entry.
    pub(super) fn new(frame: Frame, shared: Option<FilePage>) -> Self {
        Self { frame, shared, mapped: None }
    }

    /// Whether the process may write the page as it is: nobody else holds it, nor may another's hardware reach it for ever. Who has it pinned holds it for the
    /// process (`pin`). Huge pages are never shared (`huge`).
    pub(super) fn is_own(&self) -> bool {
        let others = || self.frame.is_lost() || Arc::strong_count(&self.frame) > 1 + self.frame.pin_count();
        self.shared.is_none() && (self.frame.is_part() || !others())
    }
}

/// A page of a file.
#[derive(Clone, Debug)]
pub(super) struct FilePage {
    pub(super) file: Arc<File>,
    pub(super) index: u64,
}

/// What was taken out and not confirmed.
pub(super) struct Doubt {
    pub(super) frames: Vec<Frame>,
    pub(super) retired: Retired,
    pub(super) doubters: Vec<ListenerId>,
}

/// Somebody inside a process. Whoever leaves last tears it down, if it has exited.
pub(super) struct Inside<'a>(&'a Process);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("id", &self.id).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Process {
    /// A process with nothing mapped.
    ///
    /// # Errors
    ///
    /// [`MmError::NoMemory`].
    pub fn new(kernel: &Arc<Kernel>) -> Result<Arc<Self>, MmError> {
        let top = kernel.top_of_mappings();
        Self::with(kernel, Areas::default(), top)
    }

    fn with(kernel: &Arc<Kernel>, areas: Areas, top: u64) -> Result<Arc<Self>, MmError> {
        let table = PageTable::new(kernel.form(), &**kernel.platform()).ok_or(MmError::NoMemory)?;
        let root = table.root();
        let state = State {
            areas,
            pages: BTreeMap::new(),
            reserve: Vec::new(),
            table: Some(table),
            doubts: Vec::new(),
            in_doubt: RangeSet::new(),
            users: 1,
            exiting: false,
            kept_for_ever: false,
            top,
        };
        Ok(Arc::new_cyclic(|me| Self {
            id: kernel.new_mm(),
            me: me.clone(),
            kernel: kernel.clone(),
            root,
            home: AtomicUsize::new(kernel.next_cpu()),
            state: Mutex::new(state),
            listeners: Listeners::default(),
            faults: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            pasid: PasidSlot::new(),
            tag: Tag::default(),
        }))
    }

    /// The kernel.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Lets the process run on another CPU from now on. Does nothing if there is no such CPU.
    pub fn run_on(&self, cpu: usize) {
        if cpu < self.kernel.cpus().count() {
            self.home.store(cpu, Relaxed);
        }
    }

    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            areas: state.areas.len(),
            resident_pages: state.pages.len(),
            faults: self.faults.load(Relaxed),
            copies: self.copies.load(Relaxed),
        }
    }

    /// Whether it has exited, torn down or not.
    pub fn has_exited(&self) -> bool {
        self.state().exiting
    }

    /// Maps something. Nothing is read, and no memory is taken, until it is touched; but huge pages are taken at once.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`BadRange`](MmError::BadRange), [`Occupied`](MmError::Occupied), [`NoSpace`](MmError::NoSpace),
    /// [`Unsupported`](MmError::Unsupported), [`ReadOnlyFile`](MmError::ReadOnlyFile), [`NoMemory`](MmError::NoMemory).
    pub fn map(&self, mapping: &Mapping) -> Result<IovaRange, MmError> {
        check_perms(mapping.perms)?;
        let unit = mapping.source.unit(self.kernel.page_bytes());
        let len = mapping.len_bytes.checked_next_multiple_of(unit).filter(|&len| len > 0);
        let len = len.ok_or(MmError::BadRange)?;
        let source = self.check_source(mapping, len)?;
        let huge = if matches!(source, Source::Huge) { self.huge_frames(len)? } else { Vec::new() };
        if let Source::Shared { file, .. } = &source {
            file.add_mapper(&self.me);
        }
        let mut state = self.live()?;
        let start = match mapping.at {
            Some(at) => {
                let range = IovaRange::new(at, len).filter(|range| range.is_aligned(unit));
                let range = range.ok_or(MmError::BadRange)?;
                let (start, end) = self.ends(range)?;
                state
                    .areas
                    .overlapping(start, end)
                    .map_or(Ok(start), |at| Err(MmError::Occupied(Iova::new(at))))
            }
            None => {
                let gap = self.stack_gap();
                state.areas.place(len, unit, self.lowest(), state.top, gap).ok_or(MmError::NoSpace)
            }
        }?;
        state.areas.insert(start, Area { end: start + len, perms: mapping.perms, source });
        let first = start / self.kernel.page_bytes();
        state.pages.extend((first..).zip(huge.into_iter().map(|frame| Page::new(frame, None))));
        IovaRange::new(Iova::new(start), len).ok_or(MmError::BadRange)
    }

    /// Makes itself known to the files that it maps so that changes are everybody's.
    fn note_files(&self, state: &State) {
        for (_, area) in state.areas.within(0, u64::MAX) {
            if let Source::Shared { file, .. } = &area.source {
                file.add_mapper(&self.me);
            }
        }
    }

    fn check_source(&self, mapping: &Mapping, len: u64) -> Result<Source, MmError> {
        let writes = mapping.perms.contains(Perms::WRITE);
        match &mapping.source {
            Source::Private { offset_bytes, .. } | Source::Shared { offset_bytes, .. }
                if !offset_bytes.is_multiple_of(self.kernel.page_bytes())
                    || offset_bytes.checked_add(len).is_none() =>
            {
                Err(MmError::BadRange)
            }
            Source::Shared { file, .. } if writes && !file.is_writable() => Err(MmError::ReadOnlyFile),
            Source::Registers { first }
                if !first.is_aligned(self.kernel.page_bytes()) || first.checked_add(len - 1).is_none() =>
            {
                Err(MmError::BadRange)
            }
            Source::SharedAnonymous => {
                Ok(Source::Shared { file: self.kernel.nameless_file(len), offset_bytes: 0 })
            }
            source => Ok(source.clone()),
        }
    }

    /// Takes whatever is mapped in `range` out; holes are fine.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`BadRange`](MmError::BadRange), [`Unconfirmed`](MmError::Unconfirmed).
    pub fn unmap(&self, range: IovaRange) -> Result<(), MmError> {
        let (start, end) = self.ends(range)?;
        let mut state = self.live()?;
        state.areas.check_cuts(start, end)?;
        state.areas.remove(start, end);
        let taken = self.take_out(&mut state, range);
        let frames = self.drop_pages(&mut state, start, end);
        self.let_go(&mut state, taken, frames).map_err(MmError::Unconfirmed)
    }

    /// Gives all of `range` other permissions.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`BadRange`](MmError::BadRange), [`Unsupported`](MmError::Unsupported), [`NotMapped`](MmError::NotMapped),
    /// [`ReadOnlyFile`](MmError::ReadOnlyFile), [`Unconfirmed`](MmError::Unconfirmed).
    pub fn protect(&self, range: IovaRange, perms: Perms) -> Result<(), MmError> {
        check_perms(perms)?;
        let (start, end) = self.ends(range)?;
        let mut state = self.live()?;
        state.areas.check_cuts(start, end)?;
        if let Some(hole) = state.areas.first_hole(start, end) {
            return Err(MmError::NotMapped(Iova::new(hole)));
        }
        let read_only =
            |area: &Area| matches!(&area.source, Source::Shared { file, .. } if !file.is_writable());
        if perms.contains(Perms::WRITE) && state.areas.within(start, end).any(|(_, area)| read_only(area)) {
            return Err(MmError::ReadOnlyFile);
        }
        state.areas.protect(start, end, perms);
        let page = self.kernel.page_bytes();
        let too_much = |page: &Page| page.mapped.is_some_and(|mapped| !perms.contains(mapped));
        // What may do more now finds out when it faults.
        let registers =
            state.areas.within(start, end).any(|(_, area)| matches!(area.source, Source::Registers { .. }));
        if !registers && !state.pages.range(start / page..end / page).any(|(_, page)| too_much(page)) {
            return Ok(());
        }
        let taken = self.take_out(&mut state, range);
        self.let_go(&mut state, taken, Vec::new()).map_err(MmError::Unconfirmed)
    }

    /// Another process with the same areas and, for now, the same pages; whoever writes one that is not shared gets its own. Of pages that are pinned
    /// or huge it has copies at once, and of registers nothing.
    ///
    /// # Errors
    ///
    /// [`MmError::Exited`], [`NoMemory`](MmError::NoMemory), [`NotForked`](MmError::NotForked).
    pub fn fork(&self) -> Result<Arc<Self>, MmError> {
        let mut state = self.live()?;
        let child = Self::with(&self.kernel, state.areas.forked(), state.top)?;
        // Copies last: nobody writes the pinned pages by the process's table any more.
        let prepared = self.take_writes_out(&mut state).map_err(MmError::NotForked);
        let copies = prepared.and_then(|()| self.copies_of_pinned(&state));
        let copies = match copies.and_then(|pinned| Ok((pinned, self.copies_of_huge(&state)?))) {
            Ok(copies) => copies,
            Err(error) => {
                drop(state);
                child.exit();
                return Err(error);
            }
        };
        let copy = |page: &Page| Page::new(page.frame.clone(), page.shared.clone());
        let mut pages: BTreeMap<u64, Page> =
            state.pages.iter().map(|(&number, page)| (number, copy(page))).collect();
        let (pinned, huge) = copies;
        pages.extend(pinned.into_iter().chain(huge));
        child.state().pages = pages;
        child.note_files(&child.state());
        Ok(child)
    }

    /// Ends the process: tells every listener, refuses whoever comes from now on, and, when nobody is inside any more, gives all of its memory
    /// back. Nobody waits: it may be called from anywhere but a listener. The second time it does nothing.
    pub fn exit(&self) {
        {
            let mut state = self.state();
            if core::mem::replace(&mut state.exiting, true) {
                return;
            }
        }
        let (confirmed, doubters) = self.listeners.release();
        self.settle_doubts(&confirmed, doubters.ids.is_empty());
        self.leave();
    }

    /// Comes in; none once the process has exited.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state();
        if state.exiting { None } else { Some(self.come_in(&mut state)) }
    }

    /// Comes in; the process has not exited.
    pub(super) fn come_in(&self, state: &mut State) -> Inside<'_> {
        state.users += 1;
        Inside(self)
    }

    /// Lets go of what only listeners could reach that have confirmed their release. If some listener did not, its hardware may still walk the table: then
    /// nothing of the process is ever given back.
    fn settle_doubts(&self, confirmed: &[ListenerId], all_confirmed: bool) {
        let mut state = self.state();
        state.kept_for_ever = !all_confirmed;
        for mut doubt in core::mem::take(&mut state.doubts) {
            doubt.doubters.retain(|id| !confirmed.contains(id));
            if doubt.doubters.is_empty() {
                doubt.retired.free(&self.kernel.form(), &**self.kernel.platform());
            } else {
                state.doubts.push(doubt);
            }
        }
    }

    fn leave(&self) {
        let mut state = self.state();
        state.users -= 1;
        match (state.users, state.kept_for_ever) {
            (0, false) => self.tear_down(&mut state),
            // The table stays; what it says of files is known now or never.
            (0, true) => {
                let State { table, pages, .. } = &*state;
                table.iter().for_each(|table| self.collect_marks(table, pages));
            }
            _ => {}
        }
    }

    fn tear_down(&self, state: &mut State) {
        let Some(table) = state.table.take() else { return };
        self.forget_asid();
        self.collect_marks(&table, &state.pages);
        table.destroy(&**self.kernel.platform());
        state.pages.clear();
        state.reserve = Vec::new();
        state.areas = Areas::default();
        state.forget_doubts();
    }

    /// The pages of `start..end`, which the process has no more.
    fn drop_pages(&self, state: &mut State, start: u64, end: u64) -> Vec<Frame> {
        let page = self.kernel.page_bytes();
        let numbers: Vec<u64> =
            state.pages.range(start / page..end / page).map(|(&number, _)| number).collect();
        numbers.iter().filter_map(|number| state.pages.remove(number)).map(|page| page.frame).collect()
    }

    /// Where a range of whole pages begins and ends, if areas may be there.
    pub(super) fn ends(&self, range: IovaRange) -> Result<(u64, u64), MmError> {
        let limit = 1u64 << self.kernel.options().input_bits;
        let (start, last) = (range.first().get(), range.last().get());
        let fits = range.is_aligned(self.kernel.page_bytes()) && start >= self.lowest() && last < limit;
        if fits { Ok((start, last + 1)) } else { Err(MmError::BadRange) }
    }

    /// The lowest address that may be mapped: not 0, so that a null pointer faults.
    pub(super) fn lowest(&self) -> u64 {
        self.kernel.page_bytes().max(0x1_0000)
    }

    pub(super) fn stack_gap(&self) -> u64 {
        self.kernel.options().stack_gap_pages * self.kernel.page_bytes()
    }

    pub(super) fn home(&self) -> usize {
        self.home.load(Relaxed)
    }

    pub(super) fn root(&self) -> Pa {
        self.root
    }

    pub(super) fn tag(&self) -> &Tag {
        &self.tag
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> Result<MutexGuard<'_, State>, MmError> {
        let state = self.state();
        if state.exiting { Err(MmError::Exited) } else { Ok(state) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.exit();
        let mut state = self.state();
        if state.kept_for_ever {
            state.pages.values().for_each(|page| page.frame.lose());
            state.forget_doubts();
        }
    }
}

/// Choice: an entry of stage 1 cannot say "write only", and one that says "execute only" gives devices nothing: both are refused, so that areas and
/// entries always say the same.
fn check_perms(perms: Perms) -> Result<(), MmError> {
    let beyond_read = perms.intersects(Perms::WRITE | Perms::EXECUTE) && !perms.contains(Perms::READ);
    if beyond_read || perms.contains(Perms::PRIVILEGED) { Err(MmError::Unsupported(perms)) } else { Ok(()) }
}

impl ProcessMemory for Process {
    fn id(&self) -> MmId {
        self.id
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.pasid
    }

    fn table(&self) -> ProcessTable {
        self.kernel.process_table(self.root)
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        let _inside = self.enter().ok_or(PinAsidError::Exited)?;
        if !self.kernel.cpus().share_tags() {
            return Err(PinAsidError::Unsupported);
        }
        let pinned = self.kernel.asids().pin(&self.tag.id);
        let asid = pinned.map_err(|error| match error {
            PinError::TooMany { .. } => PinAsidError::NoIds,
            _ => PinAsidError::Unsupported,
        })?;
        self.tag.last.store(asid, SeqCst);
        Ok(asid)
    }

    fn unpin_asid(&self) {
        let unpinned = self.kernel.asids().unpin(&self.tag.id);
        debug_assert!(unpinned.is_ok(), "{self:?} was unpinned more often than pinned");
    }

    fn handle_fault(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        self.fault_from_outside(fault)
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        self.listeners.add(listener)
    }

    fn remove_listener(&self, id: ListenerId) {
        self.listeners.remove(id);
    }
}
