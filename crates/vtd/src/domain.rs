//! One translation: a page table, the domain-id that tags what the IOTLB remembers of it, and what makes the IOTLB forget.
//!
//! # Locks and order
//!
//! Those of the page table, and of the tables that an unmap emptied, are [`Mappings`]'. Hardware that caches what is not present, or has a write buffer, is told of
//! what was mapped before the call returns.
//!
//! # Ids
//!
//! Each domain has a domain-id of its own, never 0, which hardware in caching mode keeps for itself. When a domain is dropped, the hardware is made to forget the
//! id, and only if it confirms is the id given back, with the tables; otherwise both are left behind (`left`) until it does.
//!
//! # Devices with a TLB
//!
//! A device that keeps translations itself is told to forget them after the IOTLB has. The domain knows each source from before its entry leads here until
//! after it does no longer.
//!
//! # Domains in which others are nested
//!
//! What the hardware remembers of a guest's table and this domain's together it remembers under the nested domain's id, and tagged with addresses of the guest's. So when something is
//! forgotten of this domain, everything is under those ids, and device TLBs that hold such translations forget all of them (`nested`).
//!
//! Spec: VT-d 5.10, 6.5.3.3 "Guidance to Software for Invalidations", Table 28; 6.1 "Caching Mode".
//! Not here: the page-table format (`pgtable`).

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{BlockLayout, Lock, Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::vtd::{FirstStage, SecondStage};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Perms, Prot, mutant};

use crate::descriptor::Descriptor;
use crate::hardware::Hardware;
use crate::lead::Lead;
use crate::left::{Kept, Left};
use crate::nested::Children;
use crate::span::Span;
use crate::table;

/// The PASID of requests that have none.
pub(crate) const RID_PASID: u32 = 0;

/// A translation that sources of one unit can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    id: u16,
    mappings: Mappings<P::Mutex, FirstStage, SecondStage>,
    /// The sources whose entries lead here, or are about to, or did a moment ago.
    uses: Lock<P, BTreeSet<u16>>,
    /// What is nested in it; none if nothing can be.
    children: Option<Lock<P, Children>>,
}

impl<P: Platform, R: Registers> fmt::Debug for Domain<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("unit", &self.hardware.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Domain<P, R> {
    pub(crate) fn new(hardware: Arc<Hardware<P, R>>) -> Result<Arc<Self>, DomainError> {
        Self::with(hardware, None)
    }

    /// One in which others can be nested.
    pub(crate) fn parent(hardware: Arc<Hardware<P, R>>) -> Result<Arc<Self>, DomainError> {
        Self::with(hardware, Some(Lock::<P, Children>::new(Children::default())))
    }

    fn with(
        hardware: Arc<Hardware<P, R>>,
        children: Option<Lock<P, Children>>,
    ) -> Result<Arc<Self>, DomainError> {
        let id = hardware.ids.lock().take().ok_or(DomainError::NoIds)?;
        let Some(mappings) = Mappings::new(hardware.format, &*hardware.platform) else {
            hardware.ids.lock().give_back(id);
            return Err(DomainError::NoMemory);
        };
        let uses = Lock::<P, BTreeSet<u16>>::new(BTreeSet::new());
        Ok(Arc::new(Self { id, mappings, uses, children, hardware }))
    }

    /// What all domains of a unit can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    /// The domain, if it is one of this unit's.
    pub(crate) fn ours<'a>(
        hardware: &Arc<Hardware<P, R>>,
        domain: &'a Arc<dyn HwDomain<P>>,
    ) -> Option<&'a Self> {
        let ours = domain.as_any().downcast_ref::<Self>()?;
        Arc::ptr_eq(&ours.hardware, hardware).then_some(ours)
    }

    /// The domain-id.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Where an entry leads that leads here.
    pub(crate) fn lead(&self) -> Option<Lead> {
        Some(Lead { did: self.id, to: self.mappings.with_table(table::lead)? })
    }

    /// An entry of this source is about to lead here.
    pub(crate) fn expect(&self, sid: u16) {
        self.uses.lock().insert(sid);
    }

    /// No entry of this source leads here any more, and hardware has confirmed it.
    pub(crate) fn forget(&self, sid: u16) {
        self.uses.lock().remove(&sid);
    }

    /// What is nested in it; none if nothing can be.
    pub(crate) fn children(&self) -> Option<&Lock<P, Children>> {
        self.children.as_ref()
    }

    /// The domain-ids of what is nested in it.
    fn nested_ids(&self) -> Vec<u16> {
        let children = self.children.as_ref().filter(|_| !mutant!("vtd-nested-entries-outlive-the-unmap"));
        children.map_or(Vec::new(), |children| children.lock().ids())
    }

    fn everything(&self, id: u16) -> Descriptor {
        if self.hardware.features.first_stage_domains {
            Descriptor::iotlb_pasid(id, RID_PASID)
        } else {
            Descriptor::iotlb_domain(id)
        }
    }

    /// What the IOTLB has to forget of `ranges` under a domain-id: one descriptor for each, or one for everything if a range is larger than a descriptor can say. Of what is
    /// nested under the id, each of them forgets all.
    ///
    /// Spec: VT-d 5.10, 11.4.2 "Capability Register", PSI, MAMV; 6.5.2.3 "IOTLB Invalidate", Table 23.
    fn forgetting(&self, id: u16, ranges: impl Iterator<Item = IovaRange>, leaves_only: bool) -> Forgetting {
        let everything = [self.everything(id); Forgetting::MOST];
        let mut forgetting = Forgetting { list: everything, count: 0 };
        let largest = self.hardware.features.largest_mask;
        for range in ranges {
            let span = Span::covering(range).filter(|span| largest.is_some_and(|mask| span.mask <= mask));
            let Some(span) = span.filter(|_| forgetting.count < Forgetting::MOST) else {
                return Forgetting { list: everything, count: 1 };
            };
            forgetting.list[forgetting.count] = if self.hardware.features.first_stage_domains {
                Descriptor::iotlb_pasid_pages(id, RID_PASID, span, leaves_only)
            } else {
                Descriptor::iotlb_pages(id, span, leaves_only)
            };
            forgetting.count += 1;
        }
        forgetting
    }

    /// What the IOTLB has to forget of everything under a domain-id; and what is under way by it is drained, whatever its addresses are.
    ///
    /// Spec: VT-d 5.10, 6.5.4 "Draining of Requests to Memory": with an invalidation of pages hardware guarantees that of requests whose untranslated address is one
    /// of them.
    fn forgetting_all(&self, id: u16) -> Forgetting {
        Forgetting { list: [self.everything(id); Forgetting::MOST], count: 1 }
    }

    /// Does with the descriptors that forget under this domain's id, and, if something is nested in it, under all of those ids, what `run` says.
    fn forget_by(
        &self,
        own: &[Descriptor],
        under: impl Fn(u16) -> Forgetting,
        run: impl FnOnce(&[Descriptor]) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        let nested = self.nested_ids();
        if nested.is_empty() {
            return run(own);
        }
        let mut all = own.to_vec();
        nested.into_iter().for_each(|id| all.extend_from_slice(under(id).descriptors()));
        run(&all)
    }

    /// Makes devices forget these ranges, or everything. The IOTLB has forgotten them already.
    fn forget_devices(&self, ranges: Option<&Gather>) -> Result<(), SyncError> {
        if mutant!("vtd-device-tlb-never-flushed") {
            return Ok(());
        }
        let mut forget = Vec::new();
        for &sid in &*self.uses.lock() {
            let on = |span| (sid, Descriptor::device_tlb(sid, span));
            match ranges {
                None => forget.push(on(None)),
                Some(gather) => forget.extend(gather.ranges().map(Span::covering).map(on)),
            }
        }
        if let Some(children) = &self.children
            && !mutant!("vtd-nested-device-tlbs-outlive-the-unmap")
        {
            // What they hold is tagged with addresses of the guest's.
            let children = children.lock();
            forget.extend(children.sources().map(|sid| (sid, Descriptor::device_tlb(sid, None))));
        }
        self.hardware.run_on_devices(&forget, false)
    }

    /// After a map, or all pieces of one: takes it back if hardware did not confirm that it sees it. One invalidation is for all of the range: of the smallest span of pages that
    /// covers it, or, if there is none that a descriptor can say, of everything of the domain.
    ///
    /// Spec: VT-d 5.10, 6.1 "Caching Mode": an explicit invalidation after any update but those of first stages; 6.5.2.3 "IOTLB Invalidate", G: any of global,
    /// domain-selective and page-selective, and hardware may invalidate more.
    fn make_seen(&self, range: IovaRange) -> Result<(), MapError> {
        // What was not present in a first stage is never cached.
        let first = self.hardware.features.first_stage_domains;
        let under = |id| self.forgetting(id, core::iter::once(range), false);
        let own = under(self.id);
        let forget = if first { &[] } else { own.descriptors() };
        let shown = self.forget_by(forget, under, |forget| self.hardware.show(forget));
        shown.map_err(|error| {
            let mut gather = Gather::new();
            // Whoever frees the domain or syncs this range makes hardware forget it.
            let _ = self.unmap(range, &mut gather);
            let waiting_for = match error {
                SyncError::Timeout { waiting_for, .. } => waiting_for,
                _ => "an invalidation",
            };
            MapError::Unconfirmed { waiting_for }
        })
    }
}

/// A few descriptors.
struct Forgetting {
    list: [Descriptor; Self::MOST],
    count: usize,
}

impl Forgetting {
    /// As many ranges as a gather holds.
    const MOST: usize = 4;

    fn descriptors(&self) -> &[Descriptor] {
        &self.list[..self.count]
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
        self.map_piece(iova, pa, len_bytes, prot)?;
        IovaRange::new(iova, len_bytes).map_or(Ok(()), |range| self.make_seen(range))
    }

    fn map_piece(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        let read_only = !prot.perms.contains(Perms::WRITE);
        if read_only && self.children.is_some() && !self.hardware.config.read_only_parents {
            return Err(MapError::Unsupported(prot));
        }
        self.mappings.map(&*self.hardware.platform, iova, pa, len_bytes, prot)
    }

    fn show(&self, range: IovaRange) -> Result<(), MapError> {
        if mutant!("vtd-pieces-of-a-map-unseen") {
            return Ok(());
        }
        self.make_seen(range)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.mappings.unmap(&*self.hardware.platform, range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        self.mappings.sync(&*self.hardware.platform, gather, |gather, _| {
            let leaves_only = !gather.tables() || mutant!("vtd-tables-gone-and-leaves-forgotten");
            let own = self.forgetting(self.id, gather.ranges(), leaves_only);
            // Requests under way below a guest's table have its addresses, which these ranges are not.
            let under = |id| self.forgetting_all(id);
            if mutant!("vtd-atc-told-before-the-iotlb") {
                self.forget_devices(Some(gather))?;
                return self.forget_by(own.descriptors(), under, |forget| self.hardware.run(forget));
            }
            self.forget_by(own.descriptors(), under, |forget| self.hardware.run(forget))?;
            self.forget_devices(Some(gather))
        })
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.mappings.flush_all(&*self.hardware.platform, || {
            let under = |id| self.forgetting_all(id);
            self.forget_by(under(self.id).descriptors(), under, |forget| self.hardware.run(forget))?;
            self.forget_devices(None)
        })
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
        // No entry leads here any more, and nothing is nested here: what devices' TLBs had, and what was under guests' ids, is forgotten.
        let (forget, kept) = (self.everything(self.id), Kept::Tables(self.mappings.take()));
        self.hardware.bury(Left { did: self.id, forget, kept });
    }
}
