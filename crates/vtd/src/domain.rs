//! One translation: a page table, the domain-id that tags what the IOTLB remembers of it, and what makes the IOTLB forget.
//!
//! # Locks and order
//!
//! The page table is under one lock, held while entries are changed, never while waiting. A change ends with a write barrier, so that it is visible
//! before the call returns; hardware that caches what is not present, or has a write buffer, is told of it as well. Tables that an unmap emptied are *retired*: nobody can
//! reach them from the root any more, but hardware may remember a pointer to them. They are freed after a completed invalidation, without the hint that only leaves
//! changed, of the range that they were retired from; if it fails they stay retired, for the next one.
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

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::Retired;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot, SizeLg2, mutant};

use crate::descriptor::Descriptor;
use crate::hardware::Hardware;
use crate::lead::Lead;
use crate::span::Span;
use crate::table::Table;

/// The PASID of requests that have none.
pub(crate) const RID_PASID: u32 = 0;

/// A translation that sources of one unit can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    id: u16,
    table: Lock<P, Option<Table>>,
    retired: Lock<P, Vec<(IovaRange, Retired)>>,
    /// The sources whose entries lead here, or are about to, or did a moment ago; and whether their device may have translations.
    uses: Lock<P, BTreeMap<u16, bool>>,
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
        let Some(table) = Table::new(hardware.format, &*hardware.platform) else {
            hardware.ids.lock().give_back(id);
            return Err(DomainError::NoMemory);
        };
        Ok(Arc::new(Self {
            id,
            table: Lock::<P, Option<Table>>::new(Some(table)),
            retired: Lock::<P, Vec<(IovaRange, Retired)>>::new(Vec::new()),
            uses: Lock::<P, BTreeMap<u16, bool>>::new(BTreeMap::new()),
            hardware,
        }))
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
        Some(Lead { did: self.id, to: self.table.lock().as_ref()?.lead() })
    }

    /// An entry of this source is about to lead here.
    pub(crate) fn expect(&self, sid: u16, device_tlb: bool) {
        self.uses.lock().insert(sid, device_tlb);
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
        let with_tlb: Vec<u16> =
            self.uses.lock().iter().filter(|(_, device_tlb)| **device_tlb).map(|(&sid, _)| sid).collect();
        if with_tlb.is_empty() || mutant!("vtd-device-tlb-never-flushed") {
            return Ok(());
        }
        let mut descriptors = Vec::new();
        for &sid in &with_tlb {
            match ranges {
                None => descriptors.push(Descriptor::device_tlb(sid, None)),
                Some(gather) => descriptors
                    .extend(gather.ranges().map(|range| Descriptor::device_tlb(sid, Span::covering(range)))),
            }
        }
        self.hardware.run(&descriptors)
    }

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
            Err(error) if mutant!("vtd-tables-freed-though-the-wait-failed") => {
                self.settle(retired, Ok(())).and(Err(error))
            }
            Err(error) => {
                self.retired.lock().extend(retired);
                Err(error)
            }
        }
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
        let platform = &*self.hardware.platform;
        match self.table.lock().as_mut() {
            Some(table) => table.map(platform, iova, pa, len_bytes, prot)?,
            None => return Err(MapError::NoTableMemory),
        }
        self.show(iova, len_bytes)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        let mut table = self.table.lock();
        let Some(table) = table.as_mut() else { return Ok(0) };
        let removed = table.unmap(&*self.hardware.platform, range)?;
        let tables = removed.tables || !removed.retired.is_empty();
        if (removed.leaf.is_some() || tables) && !mutant!("vtd-unmap-without-invalidation") {
            gather.add(range, removed.leaf.unwrap_or(SizeLg2::KIB_4), tables);
        }
        if !removed.retired.is_empty() {
            self.retired.lock().push((range, removed.retired));
        }
        Ok(removed.bytes)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        if gather.is_empty() {
            return Ok(Flushed::completed());
        }
        let covered = |range: IovaRange| gather.tables() && gather.ranges().any(|held| held.covers(range));
        let retired = self.take_retired(covered);
        let forgetting = self
            .forgetting(gather.ranges(), !gather.tables() || mutant!("vtd-tables-gone-and-leaves-forgotten"));
        let outcome = self.hardware.run(forgetting.descriptors());
        let outcome = outcome.and_then(|()| self.forget_devices(Some(gather)));
        let flushed = self.settle(retired, outcome)?;
        *gather = Gather::new();
        Ok(flushed)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        let retired = self.take_retired(|_| true);
        let outcome = self.hardware.run(&[self.everything()]);
        let outcome = outcome.and_then(|()| self.forget_devices(None));
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
                self.hardware.ids.lock().give_back(self.id);
                table.destroy(&*self.hardware.platform);
            }
            Err(_) => {
                // Whatever the IOTLB still holds under this id must never mean anything else. A page table that is dropped and not destroyed keeps its memory, and so
                // do retired tables.
                self.hardware.platform.event(&Event {
                    source: "vtd",
                    name: "domain_kept",
                    fields: &[("id", Value::Dec(self.id.into()))],
                });
            }
        }
    }
}
