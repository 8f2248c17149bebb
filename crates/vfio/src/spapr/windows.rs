//! Windows come and go. Each is a table that every group of the container has as a window.

use alloc::sync::Arc;

use portcullis_core::iommu::Gather;
use portcullis_core::table_group::{
    DmaTable, Kind, TableEntry, TableGroup, TableGroupInfo, TableSpec, WindowError, kind,
};
use portcullis_hal::Platform;
use portcullis_spec::vfio::{CreateWindow, RemoveWindow};
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange, PageSizes, SizeLg2, mutant};

use super::memory::Allowance;
use super::pages::Dues;
use super::{Attached, Spapr};
use crate::Errno;
use crate::trace::say;
use crate::user::{UserMemory, read};

/// A window.
pub(super) struct Window {
    pub(super) table: Arc<dyn DmaTable>,
    /// Who pays for the table, and how many pages; none if it is the platform's.
    charged: Option<(Arc<dyn UserMemory>, u64)>,
    /// What hardware may remember of entries that were changed.
    pub(super) gather: Gather,
    pub(super) dues: Dues,
    /// A removal that hardware did not confirm: only removing it again is possible.
    pub(super) closing: bool,
}

impl Window {
    pub(super) fn new(
        table: Arc<dyn DmaTable>,
        charged: Option<(Arc<dyn UserMemory>, u64)>,
        dues: Dues,
    ) -> Self {
        Self { table, charged, gather: Gather::new(), dues, closing: false }
    }

    pub(super) fn page(&self) -> SizeLg2 {
        self.table.spec().page
    }

    /// Maps an entry to something else, and notes that hardware has to be told. Answers what was there.
    pub(super) fn exchange(
        &mut self,
        iova: Iova,
        new: Option<TableEntry>,
    ) -> Result<Option<TableEntry>, Errno> {
        let old = self.table.exchange(iova, new).map_err(|error| error.errno())?;
        if let Some(page) =
            IovaRange::new(iova, self.page().bytes()).filter(|_| old.is_some() || new.is_some())
        {
            self.gather.add(page, self.page(), false);
        }
        Ok(old)
    }

    /// Takes out what is mapped in `range`; its pages are due then, or, where there is no room to note so many, let go already.
    pub(super) fn clear(&mut self, range: IovaRange, allowance: &mut Allowance) -> Result<(), Errno> {
        let mut rest = Some(range);
        while let Some(looked_at) = rest
            && self.table.live() > 0
            && let Some((iova, _)) = self.table.next_in(looked_at)
        {
            if allowance.memory().is_some_and(|memory| self.dues.room(&**memory, 1).is_err()) {
                self.flush(allowance)?;
            }
            if let Some(old) = self.exchange(iova, None)? {
                allowance.due(old, self.page(), &mut self.dues);
            }
            let next = iova.checked_add(self.page().bytes());
            rest = next.and_then(|next| IovaRange::from_ends(next, range.last()));
        }
        Ok(())
    }

    /// Waits until hardware has forgotten what was changed, and lets go what was due.
    pub(super) fn flush(&mut self, allowance: &mut Allowance) -> Result<(), Errno> {
        let _flushed = self.table.flush(&mut self.gather).map_err(|_| Errno::Eio)?;
        allowance.settle(&mut self.dues);
        Ok(())
    }

    /// Takes everything out, and the window from each of `groups`. Then the table is nobody's, and paid for no more.
    ///
    /// If hardware does not confirm, what it may still know stays due, and this can be done again.
    pub(super) fn close<'a>(
        &mut self,
        groups: impl Iterator<Item = &'a dyn TableGroup>,
        allowance: &mut Allowance,
    ) -> Result<(), Errno> {
        self.closing = true;
        let cleared = self.clear(self.table.range(), allowance);
        // Each is tried, also after one has failed: what can be taken away is.
        let unset = groups.map(|group| unset(group, &self.table)).fold(Ok(()), Result::and);
        // Groups that have left may have it still; a window that was unset leaves nothing to flush.
        let flushed = self.table.flush(&mut self.gather).map(drop).map_err(|_| Errno::Eio);
        cleared.and(unset).and(flushed).or_else(|errno| {
            if mutant!("window-gone-though-hardware-is-silent") { Ok(()) } else { Err(errno) }
        })?;
        allowance.settle(&mut self.dues);
        if let Some((memory, pages)) = self.charged.take() {
            memory.uncharge(pages);
        }
        Ok(())
    }

    /// How many pages, of `page` if any can be mapped, are held for what hardware may remember: those that version 1 pinned, and the table's.
    pub(super) fn held_pages(&self, page: Option<SizeLg2>) -> u64 {
        page.map_or(0, |page| self.dues.pinned(page)) + self.charged.as_ref().map_or(0, |&(_, pages)| pages)
    }
}

/// Removes a window from a group, if it is this table.
pub(super) fn unset(group: &dyn TableGroup, table: &Arc<dyn DmaTable>) -> Result<(), Errno> {
    let Some(ops) = group.tables() else { return Ok(()) };
    let window = table.spec().window;
    if !ops.window(window).is_some_and(|set| same_table(&set, table)) {
        return Ok(());
    }
    ops.unset_window(window).map(drop).map_err(|error| error.errno())
}

fn same_table(one: &Arc<dyn DmaTable>, other: &Arc<dyn DmaTable>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl<P: Platform> Spapr<P> {
    /// What every group offers; none without groups.
    pub(super) fn limits(&self) -> Option<TableGroupInfo> {
        let mut each = self.members.iter().map(|held| held.tables.info());
        let first = each.next()?;
        Some(each.fold(first, |all, one| TableGroupInfo {
            page_sizes: all.page_sizes.intersection(one.page_sizes),
            max_levels: all.max_levels.min(one.max_levels),
            ..all
        }))
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &dyn TableGroup> {
        groups(&self.members)
    }

    /// The window that holds an address.
    pub(super) fn find(&self, iova: Iova) -> Option<usize> {
        let holds = |window: &Window| !window.closing && window.table.range().contains(iova);
        self.windows.iter().position(|window| window.as_ref().is_some_and(holds))
    }

    /// Makes the default window, if it is still to be made.
    pub(super) fn make_default(&mut self) -> Result<(), Errno> {
        if !self.pending {
            return Ok(());
        }
        let limits = self.limits().ok_or(Errno::Enxio)?;
        let owner = self.owner.clone().ok_or(Errno::Eperm)?;
        let bytes = limits.window32.len_bytes().ok_or(Errno::Einval)?;
        let page = default_page(limits.page_sizes).ok_or(Errno::Einval)?;
        self.make(&owner, TableSpec { window: 0, page, window_bytes: bytes, levels: 1 })?;
        self.pending = false;
        Ok(())
    }

    /// The call that made the default window has failed.
    pub(super) fn undo_default(&mut self, was_pending: bool) {
        if was_pending && !self.pending {
            // If hardware does not confirm, whoever makes it next tries again.
            let _ = self.close(0);
            self.pending = true;
        }
    }

    /// Makes a table and has every group have it as a window; or none.
    fn make(&mut self, owner: &Arc<dyn UserMemory>, spec: TableSpec) -> Result<Iova, Errno> {
        // What is there is a removal that hardware has not confirmed.
        self.close(spec.window)?;
        let limits = self.limits().ok_or(Errno::Enxio)?;
        if !limits.page_sizes.contains(spec.page) || spec.levels > limits.max_levels {
            return Err(Errno::Einval);
        }
        let first = self.members.first().and_then(|held| held.tables.tables()).ok_or(Errno::Eperm)?;
        let bytes = first.table_bytes(spec).map_err(|error| error.errno())?;
        let mut dues = Dues::new()?;
        dues.room(&**owner, 1)?;
        let pages = bytes.div_ceil(owner.page_size().bytes());
        owner.charge(pages)?;
        let table = first.create_table(spec).map_err(|error| {
            if !mutant!("refused-window-stays-charged") {
                owner.uncharge(pages);
            }
            error.errno()
        })?;
        let start = table.range().first();
        let mut window = Window::new(table, Some((owner.clone(), pages)), dues);
        let set = self.groups().try_for_each(|group| set(group, &window.table));
        if let Err(errno) = set {
            if window.close(groups(&self.members), &mut self.allowance).is_err() {
                self.windows[spec.window] = Some(window);
            }
            return Err(errno);
        }
        self.windows[spec.window] = Some(window);
        self.say_window("vfio_window_set", spec, "ok");
        Ok(start)
    }

    /// Removes a window, and what is mapped there.
    pub(super) fn close(&mut self, number: usize) -> Result<(), Errno> {
        let Self { windows, members, allowance, .. } = self;
        let Some(window) = &mut windows[number] else { return Ok(()) };
        let spec = window.table.spec();
        let closed = window.close(groups(members), allowance);
        if closed.is_ok() {
            windows[number] = None;
        }
        self.say_window("vfio_window_unset", spec, if closed.is_ok() { "ok" } else { "refused" });
        closed
    }

    pub(super) fn create(&mut self, memory: &Arc<dyn UserMemory>, arg: u64) -> Result<u64, Errno> {
        let asked = CreateWindow::from_bytes(&read(&**memory, arg)?);
        if (asked.argsz as usize) < CreateWindow::BYTES || asked.flags != 0 {
            return Err(Errno::Einval);
        }
        // That the answer can be written is seen before anything is done.
        memory.copy_out(arg, &asked.to_bytes())?;
        self.own(memory);
        self.make_default()?;
        let free = self.windows.iter().position(Option::is_none).ok_or(Errno::Enospc)?;
        let page = u8::try_from(asked.page_shift).ok().and_then(SizeLg2::new).ok_or(Errno::Einval)?;
        let levels = u8::try_from(asked.levels).map_err(|_| Errno::Einval)?;
        let spec = TableSpec { window: free, page, window_bytes: asked.window_size, levels };
        let start = self.make(memory, spec)?;
        let answer = CreateWindow { start_addr: start.get(), ..asked };
        if let Err(fault) = memory.copy_out(arg, &answer.to_bytes()) {
            // Should hardware not confirm, it can be removed where the call would have said that it is.
            let _ = self.close(free);
            return Err(fault.into());
        }
        Ok(0)
    }

    pub(super) fn remove(&mut self, memory: &Arc<dyn UserMemory>, arg: u64) -> Result<u64, Errno> {
        let RemoveWindow { argsz, flags, start_addr } = RemoveWindow::from_bytes(&read(&**memory, arg)?);
        if (argsz as usize) < RemoveWindow::BYTES || flags != 0 {
            return Err(Errno::Einval);
        }
        self.own(memory);
        if self.pending && self.limits().is_some_and(|limits| limits.window32.first().get() == start_addr) {
            // One that was made for a call that failed, and that hardware did not let go, is there still.
            self.close(0)?;
            self.pending = false;
            return Ok(0);
        }
        // Choice: by where it begins. Linux takes any address inside.
        let begins = |window: &Window| window.table.range().first().get() == start_addr;
        let found = self.windows.iter().position(|window| window.as_ref().is_some_and(begins));
        self.close(found.ok_or(Errno::Einval)?)?;
        Ok(0)
    }

    /// Takes everything out of a window, which stays.
    pub(super) fn empty(&mut self, number: usize) -> Result<(), Errno> {
        let Some(window) = &mut self.windows[number] else { return Ok(()) };
        window.clear(window.table.range(), &mut self.allowance)?;
        window.flush(&mut self.allowance)
    }

    /// Tries again to have hardware forget what it had not confirmed.
    pub(super) fn settle_all(&mut self) {
        for number in 0..self.windows.len() {
            let Self { windows, allowance, .. } = &mut *self;
            let Some(window) = &mut windows[number] else { continue };
            // What is refused stays due.
            let _ = if window.closing {
                self.close(number)
            } else if window.dues.is_empty() {
                Ok(())
            } else {
                window.flush(allowance)
            };
        }
    }

    fn say_window(&self, name: &'static str, spec: TableSpec, result: &'static str) {
        let fields = [
            ("window", Value::Dec(spec.window as u64)),
            ("page", Value::Dec(spec.page.bytes())),
            ("bytes", Value::Dec(spec.window_bytes)),
            ("levels", Value::Dec(spec.levels.into())),
            ("groups", Value::Dec(self.members.len() as u64)),
            ("result", Value::Str(result)),
        ];
        say(&*self.shared.platform, name, &fields);
    }
}

fn groups<P: Platform>(members: &[Attached<P>]) -> impl Iterator<Item = &dyn TableGroup> {
    members.iter().map(|held| &*held.tables)
}

fn set(group: &dyn TableGroup, table: &Arc<dyn DmaTable>) -> Result<(), Errno> {
    let Ok(Kind::OnDemand(_, ops)) = kind(group) else { return Err(Errno::Eperm) };
    ops.set_window(table).map_err(window_errno)
}

/// Tables of another driver or bridge: they are not for this group.
pub(super) fn window_errno(error: WindowError) -> Errno {
    match error {
        WindowError::Foreign => Errno::Eperm,
        error => error.errno(),
    }
}

/// The page size of the default window: 4 KiB, or the smallest there is.
fn default_page(sizes: PageSizes) -> Option<SizeLg2> {
    if sizes.contains(SizeLg2::KIB_4) { Some(SizeLg2::KIB_4) } else { sizes.smallest() }
}
