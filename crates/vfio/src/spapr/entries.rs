//! Maps and unmaps: all of a range, or nothing.
//!
//! What could be refused is looked at first; table memory is made before the first entry changes, and room for what an entry puts out before it does. An entry
//! that cannot be made after all takes those before it back, with what was there.

use alloc::vec::Vec;

use portcullis_core::table_group::TableEntry;
use portcullis_hal::Platform;
use portcullis_spec::vfio::{MapDma, MapDmaFlags, UnmapDma};
use portcullis_types::trace::Value;
use portcullis_types::{Iova, IovaRange, Perms, mutant};

use super::memory::Allowance;
use super::windows::Window;
use super::{Spapr, Version};
use crate::Errno;
use crate::trace::say;
use crate::user::{UserMemory, read, room};

/// What is to be mapped.
struct Wanted {
    range: IovaRange,
    vaddr: u64,
    count: u64,
    perms: Perms,
}

impl<P: Platform> Spapr<P> {
    pub(super) fn map(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        self.allowance.allows()?;
        let MapDma { argsz, flags, vaddr, iova, size } = MapDma::from_bytes(&read(memory, arg)?);
        let mut perms = Perms::empty();
        perms.set(Perms::READ, flags & MapDmaFlags::READ != 0);
        perms.set(Perms::WRITE, flags & MapDmaFlags::WRITE != 0);
        let unknown = flags & !MapDmaFlags::ALL_KNOWN != 0;
        if (argsz as usize) < MapDma::BYTES || unknown || perms.is_empty() {
            return Err(Errno::Einval);
        }
        self.make_default()?;
        let found = self.find(Iova::new(iova)).ok_or(Errno::Enxio)?;
        let window = self.windows[found].as_ref().ok_or(Errno::Enxio)?;
        let Some(range) = within(window, iova, size, vaddr)? else { return Ok(0) };
        // Choice: Linux maps there, and devices get something else.
        if self.is_reserved(range) {
            return Err(Errno::Einval);
        }
        let Self { windows, allowance, version, .. } = self;
        let window = windows[found].as_mut().ok_or(Errno::Enxio)?;
        vaddr.checked_add(size - 1).ok_or(Errno::Einval)?;
        if *version == Version::V2 {
            allowance.covers(vaddr, size, window.page())?;
        }
        window.table.prepare(range).map_err(|error| error.errno())?;
        let wanted = Wanted { range, vaddr, count: size >> window.page().get(), perms };
        window.map(memory, &wanted, allowance)?;
        let fields = [("iova", Value::Addr(iova)), ("len", Value::Dec(size)), ("vaddr", Value::Addr(vaddr))];
        say(&*self.shared.platform, "vfio_map", &fields);
        Ok(0)
    }

    pub(super) fn unmap(&mut self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        self.allowance.allows()?;
        let UnmapDma { argsz, flags, iova, size } = UnmapDma::from_bytes(&read(memory, arg)?);
        if (argsz as usize) < UnmapDma::BYTES || flags != 0 {
            return Err(Errno::Einval);
        }
        self.make_default()?;
        let found = self.find(Iova::new(iova)).ok_or(Errno::Enxio)?;
        let Self { windows, allowance, .. } = self;
        let window = windows[found].as_mut().ok_or(Errno::Enxio)?;
        let Some(range) = within(window, iova, size, 0)? else { return Ok(0) };
        window.clear(range, allowance)?;
        window.flush(allowance)?;
        let fields = [("iova", Value::Addr(iova)), ("len", Value::Dec(size))];
        say(&*self.shared.platform, "vfio_unmap", &fields);
        Ok(0)
    }
}

/// The range, of whole pages of the window; none if it is empty.
///
/// Choice: what begins inside a page or runs past the end is refused. Linux answers 1 to the first, and writes past the table for the second.
fn within(window: &Window, iova: u64, size: u64, vaddr: u64) -> Result<Option<IovaRange>, Errno> {
    if !(iova | size | vaddr).is_multiple_of(window.page().bytes()) {
        return Err(Errno::Einval);
    }
    if size == 0 {
        return Ok(None);
    }
    let range = IovaRange::new(Iova::new(iova), size).filter(|&range| window.table.range().covers(range));
    range.map(Some).ok_or(Errno::Einval)
}

impl Window {
    fn map(
        &mut self,
        memory: &dyn UserMemory,
        wanted: &Wanted,
        allowance: &mut Allowance,
    ) -> Result<(), Errno> {
        let mut done = 0;
        let mut replaced = Vec::new();
        let mapped = (0..wanted.count).try_for_each(|index| {
            // Each entry that is put back makes one page due, and so does each that is not.
            let so_far = usize::try_from(index + 1).map_err(|_| Errno::Enomem)?;
            self.dues.room(memory, so_far)?;
            room(memory, &mut replaced, 1)?;
            self.map_one(wanted, index, allowance, &mut replaced)?;
            done += 1;
            Ok(())
        });
        let flushed = mapped.and_then(|()| {
            // Not settled yet: what was replaced is not noted, and may have to come back.
            self.table.flush(&mut self.gather).map(drop).map_err(|_| Errno::Eio)
        });
        let page = self.page();
        match flushed {
            Ok(()) => {
                replaced.iter().for_each(|&(_, old)| allowance.due(old, page, &mut self.dues));
                allowance.settle(&mut self.dues);
                Ok(())
            }
            Err(errno) => {
                if !mutant!("failed-map-stays-half-done") {
                    self.undo(wanted, done, &replaced, allowance);
                }
                Err(errno)
            }
        }
    }

    fn map_one(
        &mut self,
        wanted: &Wanted,
        index: u64,
        allowance: &mut Allowance,
        replaced: &mut Vec<(Iova, TableEntry)>,
    ) -> Result<(), Errno> {
        let (page, offset) = (self.page(), index << self.page().get());
        let (iova, user) = (Iova::new(wanted.range.first().get() + offset), wanted.vaddr + offset);
        let pa = allowance.acquire(user, page, wanted.perms)?;
        let new = TableEntry { pa, perms: wanted.perms, user };
        match self.exchange(iova, Some(new)) {
            Ok(old) => {
                replaced.extend(old.map(|old| (iova, old)));
                Ok(())
            }
            Err(errno) => {
                allowance.unused(new, page);
                Err(errno)
            }
        }
    }

    /// Puts the first `done` entries back to what they were. What they were meanwhile is due.
    fn undo(
        &mut self,
        wanted: &Wanted,
        done: u64,
        replaced: &[(Iova, TableEntry)],
        allowance: &mut Allowance,
    ) {
        let page = self.page();
        let mut replaced = replaced.iter().peekable();
        for index in 0..done {
            let iova = Iova::new(wanted.range.first().get() + (index << page.get()));
            let before = replaced.next_if(|(at, _)| *at == iova).map(|&(_, old)| old);
            // An entry that could not be put back stays as it is, and what was there before is due instead.
            let out = self.exchange(iova, before).unwrap_or(before);
            out.into_iter().for_each(|out| allowance.due(out, page, &mut self.dues));
        }
        // What is refused stays due.
        let _ = self.flush(allowance);
    }
}
