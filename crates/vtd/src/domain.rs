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
//! id, and only if it confirms is the id given back, with the tables; otherwise both are kept for good.
//!
//! # Devices with a TLB
//!
//! A device that keeps translations itself is told to forget them after the IOTLB has. The domain knows each source from before its entry leads here until
//! after it does no longer.
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
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::vtd::{FirstStage, SecondStage};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, mutant};

use crate::descriptor::Descriptor;
use crate::hardware::Hardware;
use crate::lead::Lead;
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
        let id = hardware.ids.lock().take().ok_or(DomainError::NoIds)?;
        let Some(mappings) = Mappings::new(hardware.format, &*hardware.platform) else {
            hardware.ids.lock().give_back(id);
            return Err(DomainError::NoMemory);
        };
        Ok(Arc::new(Self { id, mappings, uses: Lock::<P, BTreeSet<u16>>::new(BTreeSet::new()), hardware }))
    }

    /// What all domains of a unit can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
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

    fn everything(&self) -> Descriptor {
        if self.hardware.features.first_stage_domains {
            Descriptor::iotlb_pasid(self.id, RID_PASID)
        } else {
            Descriptor::iotlb_domain(self.id)
        }
    }

    /// What the IOTLB has to forget of `ranges`: one descriptor for each, or one for everything if a range is larger than a descriptor can say.
    ///
    /// Spec: VT-d 5.10, 11.4.2 "Capability Register", PSI, MAMV.
    fn forgetting(&self, ranges: impl Iterator<Item = IovaRange>, leaves_only: bool) -> Forgetting {
        let mut forgetting = Forgetting { list: [self.everything(); Forgetting::MOST], count: 0 };
        let largest = self.hardware.features.largest_mask;
        for range in ranges {
            let span = Span::covering(range).filter(|span| largest.is_some_and(|mask| span.mask <= mask));
            let Some(span) = span.filter(|_| forgetting.count < Forgetting::MOST) else {
                return Forgetting { list: [self.everything(); Forgetting::MOST], count: 1 };
            };
            forgetting.list[forgetting.count] = if self.hardware.features.first_stage_domains {
                Descriptor::iotlb_pasid_pages(self.id, RID_PASID, span, leaves_only)
            } else {
                Descriptor::iotlb_pages(self.id, span, leaves_only)
            };
            forgetting.count += 1;
        }
        forgetting
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
        self.hardware.run_on_devices(&forget, false)
    }

    /// After a map: takes it back if hardware did not confirm that it sees it.
    fn show(&self, iova: Iova, len_bytes: u64) -> Result<(), MapError> {
        let Some(range) = IovaRange::new(iova, len_bytes) else { return Ok(()) };
        // What was not present in a first stage is never cached.
        let first = self.hardware.features.first_stage_domains;
        let forgetting = self.forgetting(core::iter::once(range), false);
        let forget = if first { &[] } else { forgetting.descriptors() };
        self.hardware.show(forget).map_err(|error| {
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
        self.mappings.map(&*self.hardware.platform, iova, pa, len_bytes, prot)?;
        self.show(iova, len_bytes)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.mappings.unmap(&*self.hardware.platform, range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        self.mappings.sync(&*self.hardware.platform, gather, |gather, _| {
            let leaves_only = !gather.tables() || mutant!("vtd-tables-gone-and-leaves-forgotten");
            self.hardware.run(self.forgetting(gather.ranges(), leaves_only).descriptors())?;
            self.forget_devices(Some(gather))
        })
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.mappings.flush_all(&*self.hardware.platform, || {
            self.hardware.run(&[self.everything()])?;
            self.forget_devices(None)
        })
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
        match self.flush_all() {
            Ok(flushed) => {
                self.hardware.ids.lock().give_back(self.id);
                self.mappings.destroy(&*self.hardware.platform, flushed);
            }
            Err(_) => {
                // Whatever the IOTLB still holds under this id must never mean anything else.
                self.hardware.platform.event(&Event {
                    source: "vtd",
                    name: "domain_kept",
                    fields: &[("id", Value::Dec(self.id.into()))],
                });
            }
        }
    }
}
