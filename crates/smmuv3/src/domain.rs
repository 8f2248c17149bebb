//! One translation: a page table, the id that tags what the TLB remembers of it, and what makes the TLB forget.
//!
//! # Locks and order
//!
//! The page table is under one lock, held while entries are changed, never while waiting. A change ends with a write barrier, so that it is visible
//! before the call returns. Tables that an unmap emptied are *retired*: nobody can reach them from the root any more, but the hardware may
//! remember a pointer to them. They are freed after a completed invalidation, without the leaf hint, of the range that they were retired from; if it
//! fails they stay retired, for the next one.
//!
//! # Ids
//!
//! A stage 1 domain has an ASID (its VMID is 0), a stage 2 domain a VMID (never 0). When a domain is dropped, the hardware is made to forget the id, and
//! only if it confirms is the id given back, with the tables; otherwise both are kept for good.
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance", 3.21.1 "Translation tables and TLB
//! invalidation completion behavior".
//! Not here: the page-table format (`pgtable`), which commands a range needs (`invalidate`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::Retired;
use portcullis_spec::smmuv3::command::{Command, TlbiTarget};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2};

use crate::batch::Batch;
use crate::context::{ContextShape, ContextTable};
use crate::entry::{self, Ste};
use crate::hardware::Hardware;
use crate::invalidate::{Step, steps};
use crate::table::{self, Table};

/// A translation that streams of one SMMU can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    id: u16,
    table: Lock<P, Option<Table>>,
    retired: Lock<P, Vec<(IovaRange, Retired)>>,
}

impl<P: Platform, R: Registers> fmt::Debug for Domain<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("smmu", &self.hardware.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Domain<P, R> {
    pub(crate) fn new(hardware: Arc<Hardware<P, R>>) -> Result<Self, DomainError> {
        let ids = if hardware.stage2 { &hardware.vmids } else { &hardware.asids };
        let id = ids.lock().take().ok_or(DomainError::NoIds)?;
        let Some(table) = Table::new(hardware.format, &*hardware.platform) else {
            ids.lock().give_back(id);
            return Err(DomainError::NoMemory);
        };
        Ok(Self {
            id,
            table: Lock::<P, Option<Table>>::new(Some(table)),
            retired: Lock::<P, Vec<(IovaRange, Retired)>>::new(Vec::new()),
            hardware,
        })
    }

    /// What all domains of an SMMU can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The stream table entry that leads here, with the context table that it points to for stage 1. None if there is no memory.
    pub(crate) fn entry(&self) -> Option<(Ste, Option<ContextTable<P>>)> {
        let hardware = &self.hardware;
        let table = self.table.lock();
        let table = match table.as_ref()? {
            Table::One(table) => table,
            Table::Two(table) => {
                let (word2, word3) = table::stage2_words(hardware, table, self.id);
                return Some((entry::stage2(&hardware.features, word2, word3), None));
            }
        };
        let config = &hardware.config;
        let bits = config.substream_bits.min(hardware.features.substream_bits);
        let shape = ContextShape::choose(bits, config.context_table, hardware.features.two_level_contexts);
        let mut contexts = ContextTable::new(hardware.platform.clone(), shape, hardware.coherent())?;
        let cd = table::context(hardware, table, self.id);
        if !contexts.store_unreachable(0, &cd) {
            return None;
        }
        hardware.platform.event(&Event {
            source: "smmuv3",
            name: "cd_update",
            fields: &[
                ("asid", Value::Dec(self.id.into())),
                ("word0", Value::Hex(cd[0])),
                ("word1", Value::Hex(cd[1])),
            ],
        });
        let ste = entry::stage1(&hardware.features, hardware.coherent(), contexts.root(), shape);
        Some((ste, Some(contexts)))
    }

    /// The ASID of a stage 1 domain, the VMID of a stage 2 domain.
    pub fn id(&self) -> u16 {
        self.id
    }

    fn add_all(&self, batch: &mut Batch<'_, P, R>) {
        batch.add(if self.hardware.stage2 {
            Command::tlbi_s12_vmall(self.id)
        } else {
            Command::tlbi_nh_asid(0, self.id)
        });
    }

    fn add_target(&self, batch: &mut Batch<'_, P, R>, target: TlbiTarget) {
        batch.add(if self.hardware.stage2 {
            Command::tlbi_s2_ipa(self.id, target)
        } else {
            Command::tlbi_nh_va(0, self.id, target)
        });
    }

    /// Adds what makes the hardware forget these ranges; everything, once, if that is cheaper for one of them.
    fn add_ranges(&self, batch: &mut Batch<'_, P, R>, gather: &Gather, leaf: SizeLg2) {
        let granule = self.hardware.granule;
        let by_range = self.hardware.by_range();
        let of = |range| steps(range, granule, leaf, gather.tables(), by_range);
        if gather.ranges().any(|range| of(range).next() == Some(Step::All)) {
            return self.add_all(batch);
        }
        for step in gather.ranges().flat_map(of) {
            if let Step::Target(target) = step {
                self.add_target(batch, target);
            }
        }
    }

    /// Takes out what was retired from within these ranges.
    fn take_retired(&self, covered: impl Fn(IovaRange) -> bool) -> Vec<(IovaRange, Retired)> {
        let mut retired = self.retired.lock();
        let (taken, kept) =
            core::mem::take(&mut *retired).into_iter().partition(|(range, _)| covered(*range));
        *retired = kept;
        taken
    }

    /// What was retired can be freed, if the hardware has confirmed; else it waits for the next time.
    fn settle(
        &self,
        retired: Vec<(IovaRange, Retired)>,
        outcome: Result<(), SyncError>,
    ) -> Result<Flushed, SyncError> {
        match outcome {
            Ok(()) => {
                let Hardware { platform, format, .. } = &*self.hardware;
                retired.into_iter().for_each(|(_, tables)| format.free(tables, &**platform));
                Ok(Flushed::completed())
            }
            Err(error) => {
                self.retired.lock().extend(retired);
                Err(error)
            }
        }
    }
}

impl<P: Platform, R: Registers> HwDomain<P> for Domain<P, R> {
    fn aperture(&self) -> IovaRange {
        self.hardware.format.aperture()
    }

    fn page_sizes(&self) -> PageSizes {
        self.hardware.format.page_sizes()
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        let platform = &*self.hardware.platform;
        match self.table.lock().as_mut() {
            Some(table) => table.map(platform, iova, pa, len_bytes, prot),
            None => Err(MapError::NoTableMemory),
        }
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        let mut table = self.table.lock();
        let Some(table) = table.as_mut() else { return Ok(0) };
        let removed = table.unmap(&*self.hardware.platform, range)?;
        let tables = removed.tables || !removed.retired.is_empty();
        if removed.leaf.is_some() || tables {
            gather.add(range, removed.leaf.unwrap_or(self.hardware.granule), tables);
        }
        if !removed.retired.is_empty() {
            self.retired.lock().push((range, removed.retired));
        }
        Ok(removed.bytes)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        let Some(leaf) = gather.leaf() else { return Ok(Flushed::completed()) };
        let covered = |range: IovaRange| gather.tables() && gather.ranges().any(|held| held.covers(range));
        let retired = self.take_retired(covered);
        let outcome = self.hardware.run(|batch| self.add_ranges(batch, gather, leaf));
        let flushed = self.settle(retired, outcome)?;
        *gather = Gather::new();
        Ok(flushed)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        let retired = self.take_retired(|_| true);
        let outcome = self.hardware.run(|batch| self.add_all(batch));
        self.settle(retired, outcome)
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.table.lock().as_ref()?.lookup(&*self.hardware.platform, iova)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Domain<P, R> {
    fn drop(&mut self) {
        let Some(table) = self.table.get_mut().take() else { return };
        match self.flush_all() {
            Ok(flushed) => {
                let _: Flushed = flushed;
                let ids = if self.hardware.stage2 { &self.hardware.vmids } else { &self.hardware.asids };
                ids.lock().give_back(self.id);
                table.destroy(&*self.hardware.platform);
            }
            Err(_) => {
                // Whatever the TLB still holds under this id must never mean anything else.
                // A page table that is dropped and not destroyed keeps its memory, and so do retired tables.
                self.hardware.platform.event(&Event {
                    source: "smmuv3",
                    name: "domain_kept",
                    fields: &[("id", Value::Dec(self.id.into()))],
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
