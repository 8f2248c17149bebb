//! One translation: a page table, the context bank that walks it, and what makes the TLB forget.
//!
//! # Locks and order
//!
//! Those of the page table, and of the tables that an unmap emptied, are [`Mappings`]'. Mapping needs no invalidation: the hardware remembers nothing that
//! faulted.
//!
//! When a domain is dropped no stream leads to its bank. The bank is turned off, once nothing is under way by it, and the hardware made to forget its tag, and only if it confirms are bank
//! and tables given back; otherwise both are left behind (`left`) until it does.
//!
//! # Domains in which guests' tables are nested
//!
//! Those are of stage 2, whatever the others are. What hardware remembers of a guest's table and this domain's together it may have under the address that the device sent
//! alone, so that an invalidation by intermediate address does not find it: while anything is nested here, everything of the VMID is forgotten instead.
//!
//! Choice: so the book is not asked how much of the combined an invalidation by intermediate address takes along. In the architecture whose tables these are it need take nothing.
//!
//! Spec: Arm ARM DDI 0487, C5.5 "TLBI IPAS2E1": not required to apply to caching structures that combine stage 1 and stage 2.
//! Spec: SMMUv2 D.c, 5.1 "Updating the state of a context bank", 5.4.1 "Scope of the TLB maintenance operations".
//! Not here: the page-table format (`pgtable`), which invalidations a range needs (`invalidate`).

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{BlockLayout, Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2, mutant};

use crate::bank::Role;
use crate::hardware::{Hardware, Mapped};
use crate::invalidate::{Step, steps};
use crate::left::{Kept, Left};
use crate::table::{TableFormat, bank_words};

/// A translation that streams of one SMMU can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    bank: usize,
    stage2: bool,
    format: TableFormat,
    /// Whoever takes a fault looks at them, too, also when the domain is gone: there is no table then.
    mappings: Arc<Mapped<P>>,
    /// How many guests' tables are nested in it; none if none can be.
    nested: Option<AtomicUsize>,
    /// Streams were led here, and away again without the hardware's word.
    doubted: AtomicBool,
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
        let (format, stage2) = (hardware.format, hardware.stage2);
        Self::with(hardware, format, stage2, None)
    }

    /// One of stage 2 in which guests' tables can be nested.
    pub(crate) fn parent(hardware: Arc<Hardware<P, R>>) -> Result<Arc<Self>, DomainError> {
        let format = hardware.parents.ok_or(DomainError::Unsupported)?;
        Self::with(hardware, format, true, Some(AtomicUsize::new(0)))
    }

    fn with(
        hardware: Arc<Hardware<P, R>>,
        format: TableFormat,
        stage2: bool,
        nested: Option<AtomicUsize>,
    ) -> Result<Arc<Self>, DomainError> {
        if hardware.is_off() {
            return Err(DomainError::Unsupported);
        }
        let role = if stage2 { Role::Stage2 } else { Role::Stage1 };
        let bank = hardware.banks.lock().take(role).ok_or(DomainError::NoIds)?;
        let mappings = Mappings::new(format, &*hardware.platform);
        let words = mappings.as_ref().and_then(|mappings| mappings.with_table(bank_words));
        let Some((mappings, words)) = mappings.zip(words) else {
            hardware.banks.lock().give_back(bank);
            return Err(DomainError::NoMemory);
        };
        // A fault behind a guest's table tells an address that is not this table's: nobody could say whether to retry.
        let stall = hardware.config.stall && nested.is_none();
        hardware.set_up_bank(bank, role, &words, stall);
        let (mappings, doubted) = (Arc::new(mappings), AtomicBool::new(false));
        hardware.mapped.lock().insert(bank, mappings.clone());
        Ok(Arc::new(Self { bank, stage2, format, mappings, nested, doubted, hardware }))
    }

    /// What all domains of an SMMU can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    /// The domain, if it is one of this SMMU's.
    pub(crate) fn ours<'a>(
        hardware: &Arc<Hardware<P, R>>,
        domain: &'a Arc<dyn HwDomain<P>>,
    ) -> Option<&'a Self> {
        let ours = domain.as_any().downcast_ref::<Self>()?;
        Arc::ptr_eq(&ours.hardware, hardware).then_some(ours)
    }

    /// The number of the context bank.
    pub fn bank(&self) -> usize {
        self.bank
    }

    /// How many guests' tables are nested in it; none if none can be.
    pub(crate) fn nested(&self) -> Option<&AtomicUsize> {
        self.nested.as_ref()
    }

    /// Something may be under way by its bank though no stream leads there.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
    }

    fn has_nested(&self) -> bool {
        let any = self.nested.as_ref().is_some_and(|nested| nested.load(Ordering::SeqCst) > 0);
        any && !mutant!("smmuv2-nested-entries-outlive-the-unmap")
    }

    /// Makes the hardware forget these ranges, and waits until it has; everything, once, if that is cheaper for one of them.
    fn forget_ranges(&self, gather: &Gather, leaf: SizeLg2) -> Result<(), SyncError> {
        let granule = self.hardware.granule;
        let of = |range| steps(range, granule, leaf, gather.tables());
        let everything = || gather.ranges().any(|range| of(range).next() == Some(Step::All));
        if !self.hardware.config.wide_writes || self.has_nested() || everything() {
            return self.hardware.forget_bank(self.bank);
        }
        self.hardware.sync_bank(self.bank, || {
            for step in gather.ranges().flat_map(of) {
                if let Step::Address { iova, leaf } = step {
                    self.hardware.post_address(self.bank, self.stage2, iova, leaf);
                }
            }
        })
    }
}

impl<P: Platform, R: Registers> HwDomain<P> for Domain<P, R> {
    fn aperture(&self) -> IovaRange {
        self.format.aperture()
    }

    fn page_sizes(&self) -> PageSizes {
        self.format.page_sizes()
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        self.mappings.map(&*self.hardware.platform, iova, pa, len_bytes, prot)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.mappings.unmap(&*self.hardware.platform, range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        let forget = |gather: &Gather, leaf| self.forget_ranges(gather, leaf);
        self.mappings.sync(&*self.hardware.platform, gather, forget)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.mappings.flush_all(&*self.hardware.platform, || self.hardware.forget_bank(self.bank))
    }

    fn keep(&self, first: Pa, layout: BlockLayout) {
        self.mappings.keep(first, layout);
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.mappings.lookup(&*self.hardware.platform, iova)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Domain<P, R> {
    fn drop(&mut self) {
        self.hardware.mapped.lock().remove(&self.bank);
        let (under_way, kept) = (*self.doubted.get_mut(), Kept::Tables(self.mappings.take()));
        self.hardware.bury(Left { bank: self.bank, under_way, kept });
    }
}
