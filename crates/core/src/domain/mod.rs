//! Domains: what a device's accesses become.
//!
//! A [`Domain`] blocks, passes addresses as they are, or translates them. Translations are filled either by the DMA API
//! ([`DomainType::Dma`]) or by a user, a VFIO container say ([`DomainType::Unmanaged`]), with [`Domain::map`], [`Domain::unmap`] and
//! [`Domain::sync`]. A translation that nobody fills is a process's own memory ([`DomainType::Process`]), whose table its CPUs walk, too:
//! [`SvaUnit::domain`](crate::sva::SvaUnit::domain) makes one.
//!
//! One that its user fills only in part is a guest's table before an unmanaged domain ([`DomainType::Nested`], [`nested`](crate::nested)).
//!
//! Before a group attaches its devices, the domain is made ready for each: reserved regions are kept free of mappings, direct regions
//! are mapped 1:1. An attach that fails undoes that.
//!
//! # Locking
//!
//! Every method may be called from several CPUs and in interrupt context. What is mapped in an unmanaged domain, and which regions
//! bind it, lie behind one lock, so that an attach and a map that contradict each other cannot both succeed; hardware
//! is called outside that lock.
//!
//! Not here: whose devices are attached (`group`), the DMA API (`dma`).

mod nested;
mod prepare;
mod user;

use alloc::sync::Arc;
use core::fmt;

use portcullis_hal::Platform;
use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Prot};

pub(crate) use prepare::Prepared;
pub(crate) use user::within;

use crate::dma::{DmaSpace, DmaStats};
use crate::fault::{FaultHandler, Faults};
use crate::iommu::{DomainError, Flushed, Gather, HwDomain, Iommu, MapError, SyncError, Target, UnmapError};
use crate::sva::ProcessSpace;
use nested::NestedSpace;
use user::UserSpace;

/// What kind of domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainType {
    /// Every access is aborted.
    Blocked,
    /// Addresses are physical.
    Identity,
    /// Translated, for the kernel's DMA API.
    Dma(FlushMode),
    /// Translated, for a user who maps what he likes.
    Unmanaged,
    /// Translated by a process's own table.
    Process,
    /// Translated by a guest's own table, and then by an unmanaged domain.
    Nested,
}

/// When a domain of the DMA API makes hardware forget an unmapped streaming buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushMode {
    /// At each unmap, before it returns.
    Strict,
    /// Some time later, many at once: the device can reach the buffer until then, 10 ms at most if the embedder polls. Coherent
    /// buffers are flushed before their memory is given back even so.
    Lazy,
}

/// What the accesses of attached devices become.
pub struct Domain<P: Platform> {
    iommu: Arc<dyn Iommu<P>>,
    kind: Kind<P>,
    faults: Arc<Faults<P>>,
}

#[expect(clippy::large_enum_variant, reason = "a domain is made once, and lies where it was made")]
pub(crate) enum Kind<P: Platform> {
    Blocked,
    Identity,
    Dma(DmaSpace<P>),
    Unmanaged(UserSpace<P>),
    Process(ProcessSpace<P>),
    Nested(NestedSpace<P>),
}

impl<P: Platform> fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("type", &self.domain_type()).finish_non_exhaustive()
    }
}

/// Why a user's range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainMapError {
    /// The domain does not translate, or its addresses are the DMA API's. EINVAL.
    NotUsers,
    /// Part of the range is reserved for an attached device. EINVAL.
    Reserved(IovaRange),
    /// The table refused.
    Map(MapError),
}

/// Why a user's range was not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainUnmapError {
    /// The domain does not translate, or its addresses are the DMA API's. EINVAL.
    NotUsers,
    /// Part of the range is where doorbells get mapped. EINVAL.
    Reserved(IovaRange),
    /// The table refused; everything is mapped as before.
    Unmap(UnmapError),
}

/// Why hardware still remembers what a user unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainSyncError {
    /// The domain does not translate, or its addresses are the DMA API's. EINVAL.
    NotUsers,
    /// Hardware did not confirm. EIO.
    Sync(SyncError),
}

/// Why a domain got no place for doorbells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CookieError {
    /// The domain is not the user's. EINVAL.
    NotUsers,
    /// It has one. EEXIST.
    Exists,
    /// The user has mapped something there. EBUSY.
    Mapped(IovaRange),
    /// The range does not hold whole pages within the aperture. EINVAL.
    BadRange(IovaRange),
}

impl<P: Platform> Domain<P> {
    /// A domain for devices behind `iommu`.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says: [`DomainError::Unsupported`] for [`DomainType::Process`], which is made of a process, and for [`DomainType::Nested`], which is made of
    /// a guest's table ([`new_nested`](Self::new_nested)).
    pub fn new(
        platform: Arc<P>,
        iommu: Arc<dyn Iommu<P>>,
        domain_type: DomainType,
    ) -> Result<Arc<Self>, DomainError> {
        let kind = match domain_type {
            DomainType::Blocked => Kind::Blocked,
            DomainType::Identity => Kind::Identity,
            DomainType::Dma(mode) => Kind::Dma(DmaSpace::new(platform, iommu.new_kernel_domain()?, mode)?),
            DomainType::Unmanaged => Kind::Unmanaged(UserSpace::new(iommu.new_domain()?)?),
            DomainType::Process | DomainType::Nested => return Err(DomainError::Unsupported),
        };
        Ok(Self::of_kind(iommu, kind))
    }

    fn of_kind(iommu: Arc<dyn Iommu<P>>, kind: Kind<P>) -> Arc<Self> {
        Arc::new(Self { iommu, kind, faults: Arc::new(Faults::new()) })
    }

    /// The memory of a process, for devices behind `iommu`.
    pub(crate) fn of_process(iommu: Arc<dyn Iommu<P>>, process: ProcessSpace<P>) -> Arc<Self> {
        Self::of_kind(iommu, Kind::Process(process))
    }

    /// What kind of domain it is.
    pub fn domain_type(&self) -> DomainType {
        match &self.kind {
            Kind::Blocked => DomainType::Blocked,
            Kind::Identity => DomainType::Identity,
            Kind::Dma(space) => DomainType::Dma(space.mode()),
            Kind::Unmanaged(_) => DomainType::Unmanaged,
            Kind::Process(_) => DomainType::Process,
            Kind::Nested(_) => DomainType::Nested,
        }
    }

    /// Makes a domain of the DMA API lazy, with all that is mapped there. Answers false if it is not one.
    pub(crate) fn make_lazy(&self) -> bool {
        match &self.kind {
            Kind::Dma(space) => {
                space.make_lazy();
                true
            }
            Kind::Blocked | Kind::Identity | Kind::Unmanaged(_) | Kind::Process(_) | Kind::Nested(_) => false,
        }
    }

    /// The IOMMU it belongs to.
    pub fn iommu(&self) -> &Arc<dyn Iommu<P>> {
        &self.iommu
    }

    /// How many faults devices have caused while they were attached.
    pub fn fault_count(&self) -> u64 {
        self.faults.count()
    }

    /// From now on, `handler` is told of each fault; or nobody, who is the default.
    pub fn set_fault_handler(&self, handler: Option<Arc<dyn FaultHandler<P>>>) {
        self.faults.set_handler(handler);
    }

    pub(crate) fn faults(&self) -> &Arc<Faults<P>> {
        &self.faults
    }

    pub(crate) fn kind(&self) -> &Kind<P> {
        &self.kind
    }

    /// What the driver is told to attach devices to.
    pub(crate) fn target(&self) -> Target<P> {
        match &self.kind {
            Kind::Blocked => Target::Blocked,
            Kind::Identity => Target::Identity,
            Kind::Dma(_) | Kind::Unmanaged(_) => {
                Target::Domain(self.hw().expect("these kinds translate").clone())
            }
            Kind::Process(process) => Target::Process(process.domain()),
            Kind::Nested(nested) => Target::Nested(nested.hw().clone()),
        }
    }

    /// The translation that is filled by calls; none if there is none.
    pub(crate) fn hw(&self) -> Option<&Arc<dyn HwDomain<P>>> {
        match &self.kind {
            Kind::Blocked | Kind::Identity | Kind::Process(_) | Kind::Nested(_) => None,
            Kind::Dma(space) => Some(space.hw()),
            Kind::Unmanaged(space) => Some(space.hw()),
        }
    }

    /// Which addresses can be mapped; none if none can.
    pub fn aperture(&self) -> Option<IovaRange> {
        Some(self.hw()?.aperture())
    }

    /// In which sizes; none if nothing can be mapped.
    pub fn page_sizes(&self) -> Option<PageSizes> {
        Some(self.hw()?.page_sizes())
    }

    fn user(&self) -> Option<&UserSpace<P>> {
        match &self.kind {
            Kind::Unmanaged(space) => Some(space),
            Kind::Blocked | Kind::Identity | Kind::Dma(_) | Kind::Process(_) | Kind::Nested(_) => None,
        }
    }

    /// For the user of an unmanaged domain: maps `len_bytes` bytes from `iova` to `pa`, all multiples of the smallest page.
    ///
    /// # Errors
    ///
    /// As [`DomainMapError`] says; then nothing is mapped that was not before. If hardware did not confirm that it forgot what was mapped
    /// for a moment, the range counts as mapped until it is unmapped.
    pub fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), DomainMapError> {
        self.user().ok_or(DomainMapError::NotUsers)?.map(iova, pa, len_bytes, prot)
    }

    /// The same for runs of memory, each with its length, that fill `range` one behind the other: all of them are mapped, or none.
    ///
    /// # Errors
    ///
    /// As [`DomainMapError`] says; `MapError::BadLength` also if the runs do not fill the range, or pass its end.
    pub fn map_runs(
        &self,
        range: IovaRange,
        runs: &mut dyn Iterator<Item = (Pa, u64)>,
        prot: Prot,
    ) -> Result<(), DomainMapError> {
        self.user().ok_or(DomainMapError::NotUsers)?.map_runs(range, runs, prot)
    }

    /// For the user of an unmanaged domain: takes every mapping out of `range`. Answers how many bytes were mapped; holes are no
    /// error. What was mapped must stay the user's until [`sync`](Self::sync) has succeeded with the gather, and nothing else may be mapped there before:
    /// hardware may do as it likes with addresses that lead to two places (break-before-make).
    ///
    /// # Errors
    ///
    /// As [`DomainUnmapError`] says; then everything is mapped as before.
    pub fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, DomainUnmapError> {
        self.user().ok_or(DomainUnmapError::NotUsers)?.unmap(range, gather)
    }

    /// For the user of an unmanaged domain: makes hardware forget what `gather` holds.
    ///
    /// # Errors
    ///
    /// As [`DomainSyncError`] says; the gather is as it was, and what was unmapped must not be reused.
    pub fn sync(&self, gather: &mut Gather) -> Result<Flushed, DomainSyncError> {
        let space = self.user().ok_or(DomainSyncError::NotUsers)?;
        space.hw().sync(gather).map_err(DomainSyncError::Sync)
    }

    /// What `iova` becomes, as the table says; the same address where it is not translated, none where nothing gets through. Of a process's memory only the
    /// process knows, of a guest's table only the guest: none.
    pub fn lookup(&self, iova: Iova) -> Option<Pa> {
        match &self.kind {
            Kind::Blocked | Kind::Process(_) | Kind::Nested(_) => None,
            Kind::Identity => Some(Pa::new(iova.get())),
            Kind::Dma(_) | Kind::Unmanaged(_) => Some(self.hw()?.lookup(iova)?.0),
        }
    }

    /// For the embedder's timer: in a lazy domain of the DMA API, flushes if something has waited for 10 ms.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm; what waited still waits.
    pub fn poll(&self) -> Result<(), SyncError> {
        match &self.kind {
            Kind::Dma(space) => space.poll(),
            Kind::Blocked | Kind::Identity | Kind::Unmanaged(_) | Kind::Process(_) | Kind::Nested(_) => {
                Ok(())
            }
        }
    }

    /// What the DMA API did here so far; nothing if it is not the DMA API's.
    pub fn dma_stats(&self) -> DmaStats {
        match &self.kind {
            Kind::Dma(space) => space.stats(),
            Kind::Blocked | Kind::Identity | Kind::Unmanaged(_) | Kind::Process(_) | Kind::Nested(_) => {
                DmaStats::default()
            }
        }
    }

    /// Gives an unmanaged domain a place where doorbells get mapped (an MSI-only cookie): whole pages that the user must leave alone.
    /// Messages for its devices can be composed from then on. What is reserved there for a device that is attached, and not for doorbells, is left out.
    ///
    /// # Errors
    ///
    /// As [`CookieError`] says.
    pub fn set_msi_window(&self, range: IovaRange) -> Result<(), CookieError> {
        self.user().ok_or(CookieError::NotUsers)?.set_msi_window(range)
    }
}
