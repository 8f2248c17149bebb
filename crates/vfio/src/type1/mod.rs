//! Type 1: a user's memory, mapped where he likes, for all groups of a container.
//!
//! A [`Type1`] has mappings, and a domain for each kind of IOMMU in it; each domain has every mapping. All of it is behind the
//! container's turn.
//!
//! | file | what |
//! |---|---|
//! | `attach` | groups come and go, and domains with them |
//! | `map`, `unmap` | mappings come and go |
//! | `pages` | user memory that is pinned, and its way back |
//! | `forget` | hardware forgets, and the proof of it |
//! | `dirty`, `info` | what a user is told |
//!
//! # Pages
//!
//! Pages are pinned and charged once for a mapping, however many domains map them. They are given back against a
//! [`Forgotten`](forget::Forgotten) only, which every domain's completed invalidation makes together.
//!
//! Observed: Linux 7.3, drivers/vfio/vfio_iommu_type1.c: what is looked at in which order, and the numbers of errors.

mod attach;
mod dirty;
mod forget;
mod info;
mod map;
mod pages;
mod unmap;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use portcullis_core::domain::Domain;
use portcullis_hal::Platform;
use portcullis_iova::RangeSet;
use portcullis_spec::vfio::{IOMMU_DIRTY_PAGES, IOMMU_GET_INFO, IOMMU_MAP_DMA, IOMMU_UNMAP_DMA, extension};
use portcullis_types::{Iova, IovaRange, PageSizes, Perms, SizeLg2};

use crate::Errno;
use crate::container::Member;
use crate::registry::Shared;
use crate::user::Caller;
pub(crate) use forget::Kept;
use pages::Pinned;

/// How unmaps treat mappings that they cover in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "type1",
            Self::V2 => "type1v2",
        }
    }
}

/// A container's IOMMU.
pub(crate) struct Type1<P: Platform> {
    shared: Arc<Shared<P>>,
    version: Version,
    translations: Vec<Translation<P>>,
    /// Domains that nobody is attached to any more, of which hardware has not confirmed that it has forgotten what they mapped.
    lost: Vec<Arc<Domain<P>>>,
    /// Addresses that cannot be mapped: outside an aperture, or reserved.
    forbidden: RangeSet,
    mappings: Mappings,
    mapping_limit: usize,
    /// Whether a user wants to know which pages are written.
    watching: bool,
}

/// A domain, and who is attached.
struct Translation<P: Platform> {
    domain: Arc<Domain<P>>,
    /// Whether its devices snoop the CPU's caches.
    coherent: bool,
    members: Vec<Member<P>>,
}

/// Mappings by first address. They do not overlap.
#[derive(Default)]
struct Mappings(BTreeMap<Iova, Mapping>);

/// User memory that is mapped.
struct Mapping {
    range: IovaRange,
    perms: Perms,
    pages: Pinned,
    /// Not mapped any more, or not in every domain; hardware has not confirmed that it has forgotten. Waits for a next unmap.
    stale: bool,
}

impl Mappings {
    /// Those that have an address in `range`, lowest first.
    fn overlapping(&self, range: IovaRange) -> impl Iterator<Item = &Mapping> {
        let before =
            self.0.range(..range.first()).next_back().filter(|(_, mapping)| mapping.range.overlaps(range));
        before.into_iter().chain(self.0.range(range.first()..=range.last())).map(|(_, mapping)| mapping)
    }

    /// The one that has this address.
    fn at(&self, iova: Iova) -> Option<&Mapping> {
        self.0.range(..=iova).next_back().map(|(_, mapping)| mapping).filter(|held| held.range.contains(iova))
    }

    fn all(&self) -> impl Iterator<Item = &Mapping> {
        self.0.values()
    }
}

impl<P: Platform> Type1<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>, version: Version) -> Self {
        let mapping_limit = usize::try_from(shared.mapping_limit.load(Relaxed)).unwrap_or(usize::MAX);
        Self {
            shared,
            version,
            translations: Vec::new(),
            lost: Vec::new(),
            forbidden: RangeSet::new(),
            mappings: Mappings::default(),
            mapping_limit,
            watching: false,
        }
    }

    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn has_extension(&self, number: u64) -> bool {
        match number {
            extension::TYPE1 | extension::TYPE1_V2 | extension::UNMAP_ALL => true,
            extension::DMA_CC => self.is_coherent(),
            _ => false,
        }
    }

    pub(crate) fn ioctl(&mut self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        match request {
            IOMMU_GET_INFO => self.get_info(&**caller.memory(), arg),
            IOMMU_MAP_DMA => self.map(caller.memory(), arg),
            IOMMU_UNMAP_DMA => self.unmap(&**caller.memory(), arg),
            IOMMU_DIRTY_PAGES => self.dirty_pages(&**caller.memory(), arg),
            _ => Err(Errno::Enotty),
        }
    }

    /// Whether all devices snoop the CPU's caches.
    fn is_coherent(&self) -> bool {
        self.translations.iter().all(|translation| translation.coherent)
    }

    /// Page sizes that every domain has, in the eyes of a process: smaller ones than its pages are one, its own.
    fn page_sizes(&self, process_page: SizeLg2) -> PageSizes {
        let sizes = self.translations.iter().filter_map(|translation| translation.domain.page_sizes());
        let all = sizes.fold(PageSizes::from_bits(u64::MAX), PageSizes::intersection);
        if all.smallest().is_some_and(|smallest| smallest < process_page) {
            let larger = all.bits() & !(process_page.bytes() - 1);
            return PageSizes::from_bits(larger).with(process_page);
        }
        all
    }

    /// What everything mapped is a multiple of.
    fn granule(&self, process_page: SizeLg2) -> Result<SizeLg2, Errno> {
        self.page_sizes(process_page).smallest().ok_or(Errno::Einval)
    }

    /// How many more mappings there can be.
    fn available(&self) -> usize {
        self.mapping_limit.saturating_sub(self.mappings.0.len())
    }
}
