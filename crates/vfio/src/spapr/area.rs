//! Registered memory: pinned and charged once, however many containers of its process have it.
//!
//! The list of all of it is behind one turn, which no process holds while its memory is pinned: that may take as long as the process likes, and others wait for the turn.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_hal::Platform;
use portcullis_types::{Pa, PaRange, mutant};

use super::same;
use crate::Errno;
use crate::turns::Turns;
use crate::user::{UserMemory, room};

/// Memory of a process that is pinned.
pub(crate) struct Area {
    memory: Arc<dyn UserMemory>,
    pub(super) vaddr: u64,
    pub(super) size: u64,
    /// Where it is, in the order of the process's addresses, each with its distance from the beginning; no two that follow each other touch.
    runs: Vec<(u64, PaRange)>,
}

impl Area {
    /// Pins `size` bytes at `vaddr`, whole pages that do not wrap.
    fn pin(memory: &Arc<dyn UserMemory>, vaddr: u64, size: u64) -> Result<Self, Errno> {
        let mut area = Self { memory: memory.clone(), vaddr, size, runs: Vec::new() };
        memory.charge(area.page_count())?;
        let mut done = 0;
        while done < size {
            match memory.pin(vaddr + done, size - done, true) {
                Ok(run) => {
                    if let Err(errno) = room(&**memory, &mut area.runs, 1) {
                        memory.unpin(run, false);
                        area.let_go(false);
                        return Err(errno);
                    }
                    area.add(done, run);
                    done += run.len_bytes().unwrap_or(u64::MAX);
                }
                Err(fault) => {
                    area.let_go(false);
                    return Err(fault.into());
                }
            }
        }
        assert!(done == size, "pages of what was asked for");
        Ok(area)
    }

    fn add(&mut self, offset: u64, run: PaRange) {
        if let Some((_, last)) = self.runs.last_mut()
            && let Some(longer) = last.joined(run)
        {
            *last = longer;
        } else {
            self.runs.push((offset, run));
        }
    }

    pub(super) fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.memory
    }

    pub(super) fn page_count(&self) -> u64 {
        self.size >> self.memory.page_size().get()
    }

    fn let_go(&self, dirty: bool) {
        self.runs.iter().for_each(|&(_, run)| self.memory.unpin(run, dirty));
        self.memory.uncharge(self.page_count());
    }

    fn last(&self) -> u64 {
        self.vaddr + (self.size - 1)
    }

    fn overlaps(&self, vaddr: u64, size: u64) -> bool {
        self.vaddr <= vaddr + (size - 1) && vaddr <= self.last()
    }

    pub(super) fn contains(&self, vaddr: u64) -> bool {
        (self.vaddr..=self.last()).contains(&vaddr)
    }

    /// Where the page of `len_bytes` bytes at `vaddr` lies, if it lies in one piece and on a multiple of its size.
    pub(super) fn page(&self, vaddr: u64, len_bytes: u64) -> Option<Pa> {
        let offset = vaddr.checked_sub(self.vaddr)?;
        let at = self.runs.partition_point(|&(first, _)| first <= offset).checked_sub(1)?;
        let (first, run) = self.runs[at];
        let page = PaRange::new(run.first().checked_add(offset - first)?, len_bytes)?;
        (run.covers(page) && page.is_aligned(len_bytes)).then_some(page.first())
    }
}

/// All registered memory, and in how many containers each piece is.
#[derive(Default)]
pub(crate) struct Areas(Vec<(Arc<Area>, usize)>);

/// Counts memory once more, or pins it.
pub(super) fn register<P: Platform>(
    areas: &Turns<P, Areas>,
    memory: &Arc<dyn UserMemory>,
    vaddr: u64,
    size: u64,
) -> Result<Arc<Area>, Errno> {
    if let Some(known) = areas.take().again(memory, vaddr, size)? {
        return Ok(known);
    }
    let pinned = Arc::new(Area::pin(memory, vaddr, size)?);
    let added = areas.take().add(&pinned);
    if !added.as_ref().is_ok_and(|area| Arc::ptr_eq(area, &pinned)) {
        pinned.let_go(false);
    }
    added
}

impl Areas {
    /// Counts memory once more that is known already; none if it is not.
    fn again(
        &mut self,
        memory: &Arc<dyn UserMemory>,
        vaddr: u64,
        size: u64,
    ) -> Result<Option<Arc<Area>>, Errno> {
        let mut own = self.0.iter_mut().filter(|(area, _)| same(&area.memory, memory));
        let Some((area, users)) = own.find(|(area, _)| area.overlaps(vaddr, size)) else { return Ok(None) };
        if (area.vaddr, area.size) != (vaddr, size) {
            return Err(Errno::Einval);
        }
        *users += usize::from(!mutant!("memory-registered-twice-counts-once"));
        Ok(Some(area.clone()))
    }

    /// Takes in what has been pinned; or counts what is the same, which somebody else has registered meanwhile, and answers that.
    fn add(&mut self, pinned: &Arc<Area>) -> Result<Arc<Area>, Errno> {
        let Area { memory, vaddr, size, .. } = &**pinned;
        if let Some(known) = self.again(memory, *vaddr, *size)? {
            return Ok(known);
        }
        room(&**memory, &mut self.0, 1)?;
        self.0.push((pinned.clone(), 1));
        Ok(pinned.clone())
    }

    /// Takes a registration back. With the last, pages are let go: no table maps them any more.
    pub(super) fn unregister(&mut self, area: &Arc<Area>) {
        let Some(at) = self.0.iter().position(|(held, _)| Arc::ptr_eq(held, area)) else { return };
        self.0[at].1 -= 1;
        if self.0[at].1 == 0 {
            self.0.swap_remove(at);
            area.let_go(true);
        }
    }
}
