//! One translation: a page table, the id that tags what the TLB remembers of it, and what makes the TLB forget.
//!
//! # Locks and order
//!
//! Those of the page table, and of the tables that an unmap emptied, are [`Mappings`]'.
//!
//! # Ids
//!
//! A stage 1 domain has an ASID (its VMID is 0), a stage 2 domain a VMID (never 0). When a domain is dropped, the hardware is made to forget the id, and
//! only if it confirms is the id given back, with the tables; otherwise both are left behind (`left`) until it does.
//!
//! An ASID can be claimed by a process, whose CPUs use it. Then the domain *moves*: it takes another ASID, rewrites its context descriptors
//! while traffic flows, makes the hardware forget the old one, and gives it back. From before the first descriptor changes until the old ASID is
//! forgotten, the domain has both, and every invalidation names both: none is lost, whichever of them an entry was tagged with. Moves of a
//! domain come one after the other.
//!
//! # Devices with an ATC
//!
//! A device that keeps translations itself is told to forget them after the TLB has. The domain knows such a device from before its stream
//! table entry leads here until after it does no longer.
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance", 3.21.1 "Translation tables and TLB
//! invalidation completion behavior".
//! Not here: the page-table format (`pgtable`), which commands a range needs (`invalidate`).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{
    Capabilities, DomainError, Flushed, Gather, HwDomain, MapError, SyncError, UnmapError,
};
use portcullis_hal::{BlockLayout, Lock, Platform, Registers};
use portcullis_paging::Mappings;
use portcullis_pgtable::arm::{Stage1, Stage2};
use portcullis_spec::smmuv3::command::{Command, TlbiTarget};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Pasid, Prot, SizeLg2, mutant};

use crate::asids::{Holder, ShareError};
use crate::atc::AtcSpan;
use crate::batch::Batch;
use crate::entry::{self, Features1, Ste};
use crate::hardware::Hardware;
use crate::invalidate::{Step, steps};
use crate::left::Left;
use crate::substreams::Contexts;
use crate::table::{self, Table};

/// A translation that streams of one SMMU can be attached to.
pub struct Domain<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    tag: Lock<P, Tag<P>>,
    /// Held while the domain moves to another ASID.
    moving: Lock<P, ()>,
    mappings: Mappings<P::Mutex, Stage1, Stage2>,
}

/// What tags the domain's entries in TLBs, and who may have them.
struct Tag<P: Platform> {
    ids: TagIds,
    uses: Vec<Use<P>>,
}

/// The id of a domain, and while it moves, the one that it leaves.
#[derive(Clone, Copy)]
pub(crate) struct TagIds {
    pub(crate) id: u16,
    leaving: Option<u16>,
}

impl TagIds {
    pub(crate) fn each(self) -> impl Iterator<Item = u16> {
        core::iter::once(self.id).chain(self.leaving)
    }
}

/// A device that is attached, or about to be, or was a moment ago.
struct Use<P: Platform> {
    contexts: Weak<Contexts<P>>,
    /// Whether the device has an ATC that may be in use.
    ats: bool,
}

/// How a device uses a stage 1 domain: how many substreams it has besides, and whether it has an ATC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct UseShape {
    /// Bits of SubstreamID; as the configuration says if none.
    pub(crate) substream_bits: Option<u8>,
    /// What its stream table entry allows.
    pub(crate) allowed: Features1,
}

impl<P: Platform, R: Registers> fmt::Debug for Domain<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("smmu", &self.hardware.name)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Domain<P, R> {
    pub(crate) fn new(hardware: Arc<Hardware<P, R>>) -> Result<Arc<Self>, DomainError> {
        let id = hardware.take_tag().ok_or(DomainError::NoIds)?;
        let Some(mappings) = Mappings::new(hardware.format, &*hardware.platform) else {
            hardware.give_tag_back(id);
            return Err(DomainError::NoMemory);
        };
        let tag = Tag { ids: TagIds { id, leaving: None }, uses: Vec::new() };
        let domain = Arc::new(Self {
            tag: Lock::<P, Tag<P>>::new(tag),
            moving: Lock::<P, ()>::new(()),
            mappings,
            hardware,
        });
        if !domain.hardware.stage2 {
            let holder: Arc<dyn Holder> = domain.clone();
            domain.hardware.asids.lock().hold(id, Arc::downgrade(&holder));
        }
        Ok(domain)
    }

    /// What all domains of an SMMU can do.
    pub(crate) fn capabilities(hardware: &Hardware<P, R>) -> Capabilities {
        Capabilities::new(hardware.format.aperture(), hardware.format.page_sizes())
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The stream table entry with which these streams lead here, with the context table that it points to for stage 1. From now on the domain knows
    /// that they may. None if there is no memory.
    pub(crate) fn entry(&self, streams: &[u32], how: UseShape) -> Option<(Ste, Option<Arc<Contexts<P>>>)> {
        self.mappings.with_table(|table| self.entry_to(table, streams, how))?
    }

    fn entry_to(
        &self,
        table: &Table,
        streams: &[u32],
        how: UseShape,
    ) -> Option<(Ste, Option<Arc<Contexts<P>>>)> {
        let hardware = &self.hardware;
        // A move that begins after this sees the new table of contexts.
        let mut tag = self.tag.lock();
        let id = tag.ids.id;
        let table = match table {
            Table::One(table) => table,
            Table::Two(table) => {
                let (word2, word3) = table::stage2_words(hardware, table, id);
                return Some((entry::stage2(&hardware.features, word2, word3), None));
            }
        };
        let shape = hardware.context_shape(how.substream_bits);
        let mut contexts = hardware.new_contexts(shape)?;
        let cd = table::context(hardware, table, id);
        if !contexts.store_unreachable(0, &cd) {
            return None;
        }
        let ste = entry::stage1(hardware.world(), contexts.root(), shape, how.allowed);
        let contexts = Arc::new(Contexts::new(streams.to_vec(), contexts));
        tag.uses.retain(|used| used.contexts.strong_count() > 0);
        tag.uses.push(Use { contexts: Arc::downgrade(&contexts), ats: how.allowed.ats });
        drop(tag);
        hardware.platform.event(&Event {
            source: "smmuv3",
            name: "cd_update",
            fields: &[
                ("asid", Value::Dec(id.into())),
                ("word0", Value::Hex(cd[0])),
                ("word1", Value::Hex(cd[1])),
            ],
        });
        Some((ste, Some(contexts)))
    }

    /// The ASID of a stage 1 domain, the VMID of a stage 2 domain.
    pub fn id(&self) -> u16 {
        self.tag.lock().ids.id
    }

    fn add_all(&self, batch: &mut Batch<'_, P, R>) {
        self.ids().each().for_each(|id| batch.add(self.hardware.forget_tag(id)));
    }

    fn add_target(&self, batch: &mut Batch<'_, P, R>, ids: TagIds, target: TlbiTarget) {
        for id in ids.each() {
            batch.add(if self.hardware.stage2 {
                Command::tlbi_s2_ipa(id, target)
            } else {
                self.hardware.forget_va(id, target)
            });
        }
    }

    /// The ids that tag entries now. Read after the change that hardware is to forget.
    fn ids(&self) -> TagIds {
        self.tag.lock().ids
    }

    /// The streams of devices that may keep translations themselves.
    fn atc_streams(&self) -> Vec<(u32, Option<Pasid>)> {
        let tag = self.tag.lock();
        let with_atc = tag.uses.iter().filter(|used| used.ats).filter_map(|used| used.contexts.upgrade());
        let with_atc = with_atc.filter(|contexts| !contexts.is_cut_off());
        // Without a PASID the command is about all traffic of the stream, also that without one.
        with_atc.flat_map(|contexts| contexts.streams.clone()).map(|stream_id| (stream_id, None)).collect()
    }

    /// Adds what makes the hardware forget these ranges; everything, once, if that is cheaper for one of them.
    fn add_ranges(&self, batch: &mut Batch<'_, P, R>, gather: &Gather, leaf: SizeLg2) {
        let granule = self.hardware.granule;
        let by_range = self.hardware.by_range();
        let of = |range| steps(range, granule, leaf, gather.tables(), by_range);
        if gather.ranges().any(|range| of(range).next() == Some(Step::All)) {
            return self.add_all(batch);
        }
        let ids = self.ids();
        for step in gather.ranges().flat_map(of) {
            if let Step::Target(target) = step {
                self.add_target(batch, ids, target);
            }
        }
    }

    /// Makes devices forget these ranges. The TLB has forgotten them already.
    fn forget_atcs(&self, gather: &Gather) -> Result<(), SyncError> {
        let streams = self.atc_streams();
        if streams.is_empty() {
            return Ok(());
        }
        let unit = self.hardware.translation_unit();
        let spans: Vec<_> = gather.ranges().map(|range| AtcSpan::covering(range, unit)).collect();
        self.hardware.forget_atcs(&streams, &spans)
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
        self.mappings.map(&*self.hardware.platform, iova, pa, len_bytes, prot)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.mappings.unmap(&*self.hardware.platform, range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        self.mappings.sync(&*self.hardware.platform, gather, |gather, leaf| {
            self.hardware.run(|batch| self.add_ranges(batch, gather, leaf))?;
            self.forget_atcs(gather)
        })
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.mappings.flush_all(&*self.hardware.platform, || {
            self.hardware.run(|batch| self.add_all(batch))?;
            self.hardware.forget_atcs(&self.atc_streams(), &[AtcSpan::ALL])
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

impl<P: Platform, R: Registers> Holder for Domain<P, R> {
    fn give_way(&self, asid: u16) -> Result<(), ShareError> {
        let _one_after_the_other = self.moving.lock();
        let Some(uses) = self.begin_move(asid)? else { return Ok(()) };
        let id = self.id();
        for contexts in uses.iter().filter_map(Weak::upgrade) {
            self.hardware
                .change_cd(&contexts, 0, &|cd| entry::with_asid(cd, id))
                .map_err(ShareError::Sync)?;
        }
        // Nobody makes entries with the old number any more.
        if !mutant!("asid-given-up-and-not-forgotten") {
            self.hardware
                .run(|batch| batch.add(self.hardware.forget_asid(asid)))
                .map_err(ShareError::Sync)?;
        }
        self.tag.lock().ids.leaving = None;
        self.hardware.asids.lock().give_back(asid);
        self.hardware.platform.event(&Event {
            source: "smmuv3",
            name: "asid_moved",
            fields: &[("from", Value::Dec(asid.into())), ("to", Value::Dec(id.into()))],
        });
        Ok(())
    }
}

impl<P: Platform, R: Registers> Domain<P, R> {
    /// Takes another ASID and has both from now on. Answers whose descriptors are to be rewritten; none if the domain does not have `asid`. A move that
    /// was not confirmed earlier is taken up again.
    fn begin_move(&self, asid: u16) -> Result<Option<Vec<Weak<Contexts<P>>>>, ShareError> {
        let begun = self.ids();
        if begun.leaving != Some(asid) {
            if begun.id != asid {
                return Ok(None);
            }
            if begun.leaving.is_some() {
                // Of three ids two would have to be told apart from the one that descriptors get.
                return Err(ShareError::NoIds);
            }
            let other = self.hardware.asids.lock().take_beside(asid).ok_or(ShareError::NoIds)?;
            self.tag.lock().ids = TagIds { id: other, leaving: Some(asid) };
        }
        Ok(Some(self.tag.lock().uses.iter().map(|used| used.contexts.clone()).collect()))
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Domain<P, R> {
    fn drop(&mut self) {
        // No entry leads here any more: what devices' ATCs had is forgotten.
        self.hardware.bury(Left::Domain { ids: self.tag.get_mut().ids, mappings: self.mappings.take() });
    }
}

#[cfg(test)]
mod tests;
