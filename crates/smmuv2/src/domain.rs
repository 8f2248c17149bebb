//! One translation: a page table, the context bank that walks it, and what makes the TLB forget.
//!
//! # Locks and order
//!
//! The page table is under one lock, held while entries are changed, never while waiting. A change ends with a write barrier, so that it is visible
//! before the call returns. Mapping needs no invalidation: the hardware remembers nothing that faulted.
//!
//! Tables that an unmap emptied are *retired*: nobody can reach them from the root any more, but the hardware may remember a pointer to them. They are
//! freed after a completed invalidation, without the leaf hint, of the range that they were retired from; if it fails they stay retired, for the
//! next one.
//!
//! When a domain is dropped no stream leads to its bank. The bank is turned off and the hardware made to forget its tag, and only if it confirms are bank
//! and tables given back; otherwise both are kept for good.
//!
//! Spec: SMMUv2 D.c, 5.1 "Updating the state of a context bank", 5.4.1 "Scope of the TLB maintenance operations".
//! Not here: the page-table format (`pgtable`), which invalidations a range needs (`invalidate`).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::Retired;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Access, AccessKind, Iova, IovaRange, Pa, PageSizes, Perms, Prot, SizeLg2, mutant};

use crate::hardware::Hardware;
use crate::invalidate::{Step, steps};
use crate::table::Table;

/// A translation that streams of one SMMU can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    bank: usize,
    table: Lock<P, Option<Table>>,
    retired: Lock<P, Vec<(IovaRange, Retired)>>,
}

impl<P: Platform, R: Registers> fmt::Debug for Domain<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("smmu", &self.hardware.config.name)
            .field("bank", &self.bank)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Domain<P, R> {
    pub(crate) fn new(hardware: Arc<Hardware<P, R>>) -> Result<Arc<Self>, DomainError> {
        if hardware.is_off() {
            return Err(DomainError::Unsupported);
        }
        let bank = hardware.banks.lock().take().ok_or(DomainError::NoIds)?;
        let Some(table) = Table::new(hardware.format, &*hardware.platform) else {
            hardware.banks.lock().give_back(bank);
            return Err(DomainError::NoMemory);
        };
        hardware.set_up_bank(bank, &table.bank_words());
        let domain = Arc::new(Self {
            bank,
            table: Lock::<P, Option<Table>>::new(Some(table)),
            retired: Lock::<P, Vec<(IovaRange, Retired)>>::new(Vec::new()),
            hardware,
        });
        let weak: Weak<Self> = Arc::downgrade(&domain);
        domain.hardware.domains.lock().insert(bank, weak);
        Ok(domain)
    }

    /// What all domains of an SMMU can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The number of the context bank.
    pub fn bank(&self) -> usize {
        self.bank
    }

    /// Whether an access of this kind to `iova` would not fault now.
    pub(crate) fn allows(&self, iova: Iova, access: Access) -> bool {
        let wanted = match access.kind {
            AccessKind::Read => Perms::READ,
            AccessKind::Write => Perms::WRITE,
            AccessKind::Execute => Perms::EXECUTE,
        };
        self.lookup(iova).is_some_and(|(_, prot)| prot.perms.contains(wanted))
    }

    /// Makes the hardware forget these ranges, and waits until it has; everything, once, if that is cheaper for one of them.
    fn forget_ranges(&self, gather: &Gather, leaf: SizeLg2) -> Result<(), SyncError> {
        let granule = self.hardware.granule;
        let of = |range| steps(range, granule, leaf, gather.tables());
        let everything = || gather.ranges().any(|range| of(range).next() == Some(Step::All));
        if !self.hardware.config.wide_writes || everything() {
            return self.hardware.forget_bank(self.bank);
        }
        self.hardware.sync_bank(self.bank, || {
            for step in gather.ranges().flat_map(of) {
                if let Step::Address { iova, leaf } = step {
                    self.hardware.post_address(self.bank, iova, leaf);
                }
            }
        })
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
            Err(error) if mutant!("smmuv2-tables-freed-though-the-sync-failed") => {
                self.settle(retired, Ok(())).and(Err(error))
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
        let outcome = self.forget_ranges(gather, leaf);
        let flushed = self.settle(retired, outcome)?;
        *gather = Gather::new();
        Ok(flushed)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        let retired = self.take_retired(|_| true);
        let outcome = self.hardware.forget_bank(self.bank);
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
        let bank = self.bank;
        self.hardware.domains.lock().remove(&bank);
        if !self.hardware.is_off() {
            self.hardware.turn_bank_off(bank);
        }
        match self.flush_all() {
            Ok(flushed) => {
                let _: Flushed = flushed;
                table.destroy(&*self.hardware.platform);
                self.hardware.leave_bank(bank);
                self.hardware.banks.lock().give_back(bank);
            }
            Err(_) => {
                // Whatever the TLB still holds under this tag must never mean anything else.
                // A page table that is dropped and not destroyed keeps its memory, and so do retired tables.
                self.hardware.banks.lock().lose(bank);
                self.hardware.platform.event(&Event {
                    source: "smmuv2",
                    name: "domain_kept",
                    fields: &[("bank", Value::Dec(bank as u64))],
                });
            }
        }
    }
}
