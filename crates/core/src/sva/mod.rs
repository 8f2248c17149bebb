//! Shared virtual addressing: the seam between core and a driver whose hardware can walk a process's page table.
//!
//! An IOMMU that can share answers [`Iommu::sva`](crate::iommu::Iommu::sva) with an [`SvaIommu`]. Core tells it
//!
//! 1. [`enable`](SvaIommu::enable): this device will share, if nothing is missing ([`SvaRefusal`]);
//! 2. [`new_process_domain`](SvaIommu::new_process_domain): this process is shared; one [`ProcessDomain`] for each process and IOMMU;
//! 3. [`attach_pasid`](SvaIommu::attach_pasid): from now on this PASID of this device means that process;
//! 4. [`ProcessDomain::invalidate`] and [`ProcessDomain::quiesce`]: what the process's memory says to its listeners;
//! 5. [`detach_pasid`](SvaIommu::detach_pasid), [`disable`](SvaIommu::disable): the way back.
//!
//! What drivers of devices call is [`SvaUnit::enable`], [`SvaDevice::bind`] and [`SvaDevice::unbind`].
//!
//! Page requests come out of [`drain_page_requests`](SvaIommu::drain_page_requests), whether a device asked (PRI) or was
//! stalled, and go back as [`respond`](SvaIommu::respond).
//!
//! # Locking
//!
//! `invalidate` and `quiesce` are called with locks of the address space held and must not sleep. The other methods may call the
//! [`ProcessMemory`]'s `pin_asid`, `unpin_asid` and `table`, hence must not be called under such locks. A driver never calls back into core.
//!
//! Not here: process memory (`mm`), page requests on their way to it (`iopf`), PASIDs (`pasid`).

mod bond;
mod counted;
mod facts;
mod listening;

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use portcullis_hal::Platform;
use portcullis_types::{IovaRange, Pasid, SourceId};

pub(crate) use bond::ProcessSpace;
pub use bond::{BindError, Bond, EnableError, Serviced, SvaDevice, SvaUnit, UnbindError};
pub use facts::{CpuFacts, DeviceSvaFacts, Side, SvaLimits, SvaRefusal};
pub(crate) use listening::LetGo;

use crate::iommu::SyncError;
use crate::iopf::{PageRequest, PageResponse};
use crate::mm::{PinAsidError, ProcessMemory};

/// An IOMMU that can walk processes' page tables.
pub trait SvaIommu<P: Platform>: Send + Sync {
    /// Whether a device with these facts could share, and within which limits. Changes nothing.
    ///
    /// # Errors
    ///
    /// What is missing.
    fn check(&self, sources: &[SourceId], device: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal>;

    /// Prepares a device for sharing: it gets room for PASIDs, and may send translation requests if it has an ATC. What it is
    /// attached to stays so, without a gap. `sources` are all sources of the device.
    ///
    /// # Errors
    ///
    /// As [`EnableSvaError`] says; then nothing has changed.
    fn enable(
        &self,
        sources: &[SourceId],
        device: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError>;

    /// Takes [`enable`](Self::enable) back.
    ///
    /// # Errors
    ///
    /// As [`DisableSvaError`] says; then the device can still share.
    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError>;

    /// A domain for the memory of a process: one for each process and IOMMU, which all its devices behind that IOMMU share. Pins the
    /// process's ASID for as long as the domain lives. The caller makes it a listener of the process.
    ///
    /// What devices are attached to is not this, but stands for it ([`ProcessDomain::as_any`] is this one's), and listens for as long as anybody has it. Another may be made for a process of which
    /// the driver keeps one for hardware that has not confirmed that a device has left it.
    ///
    /// # Errors
    ///
    /// As [`ProcessDomainError`] says; then nothing is pinned.
    fn new_process_domain(
        &self,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Arc<dyn ProcessDomain>, ProcessDomainError>;

    /// Makes `pasid` of a device mean `domain`. On return hardware uses it. `sources` are those that the device was enabled with.
    ///
    /// # Errors
    ///
    /// As [`AttachPasidError`] says; then, unless hardware did not confirm, the PASID means nothing, as before.
    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError>;

    /// Makes `pasid` of a device mean nothing. On return hardware has forgotten it, the device's ATC included. The device has stopped using
    /// it. Does nothing if it meant nothing.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: the PASID must not be given to another process, and the domain is kept.
    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError>;

    /// Takes the page requests of devices that are enabled, oldest first, and gives each to `to`. Answers how many. Stop markers are left out. In a flood some are left; then it does not
    /// answer that there were none.
    /// Called by the embedder when the page-request interrupt comes, and after each [`drain_events`](crate::iommu::Iommu::drain_events),
    /// which is where stalled transactions come from. What was there at the call is given, or it is said that some was left ([`Drained::Left`]).
    ///
    /// `to` may respond, but must not drain again: requests come in order, one caller at a time.
    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize;

    /// Tells a device what became of a group that it asked for. A response that hardware does not take is said as an event.
    fn respond(&self, response: &PageResponse);
}

/// What comes out of a queue of page requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// A request.
    Request(PageRequest),
    /// Requests were lost here, and hardware has answered their groups: partial groups that began before are to be forgotten.
    Overflowed,
    /// Requests that hardware may have queued were left there, because too many answers wait for room.
    Left,
}

/// The memory of one process as one IOMMU sees it. Dropped when no PASID means it any more; then the process's ASID is unpinned, after hardware
/// has forgotten it.
///
/// Its driver keeps what it was given while hardware may use it, whether or not a PASID or a device is said to lead there: the process tells of changes until the driver lets go. It does that in none of the
/// two calls below, and may do it with any lock of core's held.
pub trait ProcessDomain: Any + Send + Sync + fmt::Debug {
    /// Makes hardware forget what it remembers of entries in `range`: its TLB, then the ATCs of all devices that have a PASID here.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: pages that were reachable through the range must be kept.
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError>;

    /// The process exits: on return no hardware walks its table or reaches its memory, nor will again. PASIDs stay attached: accesses fail
    /// without an error about configuration, until they are detached. A second call does nothing if the first succeeded.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: pages and tables of the process must be kept.
    fn quiesce(&self) -> Result<(), SyncError>;

    /// For the driver, to see that a domain is its own kind.
    fn as_any(&self) -> &dyn Any;
}

/// The switches of a device that are on its own side of the bus; whoever owns its configuration space has them.
pub trait DeviceSwitches: Send + Sync + fmt::Debug {
    /// Lets the device send translation requests and keep what they answer, or makes it stop. Called only for a device with ATS. Off, the device has
    /// stopped on return; on, its ATC is empty.
    ///
    /// Spec: PCIe 6.0, 10.5.1 "ATS Extended Capability", Enable.
    fn set_ats(&self, on: bool);
}

/// Switches of a device that has none: a platform device that is stalled.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSwitches;

impl DeviceSwitches for NoSwitches {
    fn set_ats(&self, _: bool) {}
}

/// Why a device was not prepared for sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnableSvaError {
    /// Something is missing. EOPNOTSUPP.
    Refused(SvaRefusal),
    /// It is prepared already. EBUSY.
    Enabled,
    /// These are some of a device's sources, or sources of several, or they are attached to different things. EINVAL.
    NotOneDevice,
    /// It is attached to a process as a whole, and has no PASIDs besides. EBUSY.
    Process,
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// The hardware did not confirm. EIO.
    Sync(SyncError),
    /// The hardware did not confirm, nor going back: the device is blocked. EIO.
    LeftBlocked(SyncError),
}

/// Why a device can still share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisableSvaError {
    /// It was never enabled. EINVAL.
    NotEnabled,
    /// PASIDs of it mean something. EBUSY.
    PasidsInUse,
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// The hardware did not confirm. EIO.
    Sync(SyncError),
    /// The hardware did not confirm, nor going back: the device is blocked. EIO.
    LeftBlocked(SyncError),
}

/// Why a process has no domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessDomainError {
    /// Something is missing that no device could make up for. EOPNOTSUPP.
    Refused(SvaRefusal),
    /// The process's ASID could not be pinned.
    Pin(PinAsidError),
    /// The process's ASID is in use for something else, which cannot give way. ENOSPC.
    NoIds,
    /// The hardware cannot walk a table like this one. EINVAL.
    UnsupportedTable,
    /// The hardware did not confirm that it forgot what the ASID meant before. EIO.
    Sync(SyncError),
}

/// Why a PASID does not mean a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachPasidError {
    /// The device was not enabled, or with other sources. ENODEV.
    NotEnabled,
    /// The device is blocked as a whole. EINVAL.
    Blocked,
    /// PASID 0, or above the device's limit. EOVERFLOW.
    OutOfRange(SvaLimits),
    /// The PASID means something already. EBUSY.
    Taken,
    /// The domain belongs to another IOMMU. EINVAL.
    ForeignDomain,
    /// The process has exited. ESRCH.
    Exited,
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// The hardware did not confirm. The PASID may mean the process all the same, until it has been detached with success. EIO.
    Sync(SyncError),
}
