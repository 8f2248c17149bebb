//! The seam between core and a hardware driver: an IOMMU and a domain as core sees them.
//!
//! A driver implements [`Iommu`] for one piece of hardware, and [`HwDomain`] for one translation that devices
//! can be attached to. Core decides *what* is to be so (who is attached to what, which ranges are mapped, what may be reclaimed);
//! a driver makes it so, and says when it has become so.
//!
//! # Unmapping is two promises
//!
//! [`HwDomain::unmap`] takes entries out of the table and notes in a [`Gather`] what hardware may still remember.
//! [`HwDomain::sync`] empties the gather, makes hardware forget, and only then answers with a [`Flushed`]. Addresses and
//! pages are given back against a `Flushed`, never before. Table pages that an unmap emptied stay with the driver,
//! which frees them by the same rule.
//!
//! # Locking
//!
//! Every method takes `&self` and may be called from several CPUs. Core calls `attach` for a group's members under that
//! group's lock; `map`, `unmap` and `sync` under none, possibly in interrupt context: concurrent calls are for disjoint ranges, and the
//! driver must bear them. A driver never calls back into core.
//!
//! Not here: what core makes of this (`domain`, `group`, `dma`).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_hal::{BlockLayout, Platform};
use portcullis_types::{Access, Iova, IovaRange, Pa, PageSizes, Pasid, Prot, SizeLg2, SourceId};

use crate::nested::{GuestTable, GuestTables, NestedDomain, NestedError};
use crate::sva::{ProcessDomain, SvaIommu};
use crate::table_group::TableGroup;

/// One IOMMU.
pub trait Iommu<P: Platform>: Send + Sync + fmt::Debug {
    /// A name for people: where firmware says it is.
    fn name(&self) -> &str;

    /// What the hardware can do, settled at probe.
    fn capabilities(&self) -> Capabilities;

    /// Makes the sources of one device known; their traffic is blocked until an `attach`. The name is for messages and events.
    ///
    /// # Errors
    ///
    /// As [`AddDeviceError`] says; then none of the sources is known.
    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError>;

    /// Forgets the sources of a device that is gone; their traffic is blocked from then on.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm: the sources stay known, and blocked.
    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError>;

    /// A new, empty domain that maps what it is told.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says.
    fn new_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError>;

    /// As [`new_domain`](Self::new_domain), for the kernel's own DMA API and nobody else: a driver may, where its embedder wishes so, leave devices
    /// that are attached to it a way around translation.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says.
    fn new_kernel_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        self.new_domain()
    }

    /// Which guests' tables the hardware can walk before a domain's.
    fn guest_tables(&self) -> GuestTables {
        GuestTables::default()
    }

    /// As [`new_domain`](Self::new_domain), for a domain in which others can be nested.
    ///
    /// # Errors
    ///
    /// As [`DomainError`] says: [`DomainError::Unsupported`] where there are no guests' tables.
    fn new_parent(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Err(DomainError::Unsupported)
    }

    /// A guest's table before that of `parent`, which [`new_parent`](Self::new_parent) made. It keeps the parent alive.
    ///
    /// # Errors
    ///
    /// As [`NestedError`] says.
    fn new_nested(
        &self,
        _parent: &Arc<dyn HwDomain<P>>,
        _table: &GuestTable,
    ) -> Result<Arc<dyn NestedDomain>, NestedError> {
        Err(NestedError::Unsupported)
    }

    /// Attaches all sources of one device to `target`. On return the hardware uses it, and no longer what was there before.
    ///
    /// # Errors
    ///
    /// As [`AttachError`] says. Then the sources are attached to what they were attached to before, or, if hardware
    /// refuses even that, they are blocked ([`AttachError::LeftBlocked`]).
    fn attach(&self, sources: &[SourceId], target: &Target<P>) -> Result<(), AttachError>;

    /// The device of these sources leaves its group, which it joined by its first [`attach`](Self::attach): it is blocked, also where those that stay are attached to nothing
    /// and have what a user made for all of the group ([`table_group`](Self::table_group)).
    ///
    /// # Errors
    ///
    /// As for `attach`.
    fn leave_group(&self, sources: &[SourceId]) -> Result<(), AttachError> {
        self.attach(sources, &Target::Blocked)
    }

    /// Ranges that a device behind this IOMMU must not or need not have mapped, by the hardware's nature.
    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion>;

    /// Takes the fault records that hardware has written since the last call, oldest first, and gives each to `to`. Answers how many.
    ///
    /// Called by the embedder when the IOMMU's event interrupt comes, or by polling. In a flood some are left, so that nobody is held here for ever; hardware may not
    /// interrupt for those.
    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize;

    /// Looks at the hardware's global error state, repairs what can be repaired, and answers what was found. Called by the embedder
    /// when the IOMMU's error interrupt comes, or by polling.
    ///
    /// What hardware has not confirmed earlier is asked of again, which waits for it, each wait with the driver's limit. What was kept for that is let go of here: domains, and what the drivers
    /// hold of processes. Nothing else waits: an embedder whose interrupts must be short leaves the call to a thread.
    /// A process that was let go of here tells nobody any more once something is next attached, bound or removed.
    fn handle_errors(&self) -> Vec<GlobalError>;

    /// What the IOMMU offers for sharing processes' memory with devices; none if it cannot.
    fn sva(&self) -> Option<&dyn SvaIommu<P>> {
        None
    }

    /// The group with windows that the device of this source is in; none if hardware has no windows, or the source is not known.
    fn table_group(&self, _source: SourceId) -> Option<Arc<dyn TableGroup>> {
        None
    }
}

/// What a device is attached to.
pub enum Target<P: Platform> {
    /// Nothing: every access is aborted.
    Blocked,
    /// Memory as it is: addresses pass untranslated.
    Identity,
    /// A translation.
    Domain(Arc<dyn HwDomain<P>>),
    /// A process's memory, by the process's own addresses: for everything that carries no PASID.
    Process(Arc<dyn ProcessDomain>),
    /// A guest's memory, by the guest's own table: for everything that carries no PASID.
    Nested(Arc<dyn NestedDomain>),
}

impl<P: Platform> Target<P> {
    /// What it is, in a word, for events.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Identity => "identity",
            Self::Domain(_) => "domain",
            Self::Process(_) => "process",
            Self::Nested(_) => "nested",
        }
    }
}

impl<P: Platform> Clone for Target<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity => Self::Identity,
            Self::Domain(domain) => Self::Domain(domain.clone()),
            Self::Process(domain) => Self::Process(domain.clone()),
            Self::Nested(domain) => Self::Nested(domain.clone()),
        }
    }
}

impl<P: Platform> fmt::Debug for Target<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "Blocked",
            Self::Identity => "Identity",
            Self::Domain(_) => "Domain",
            Self::Process(_) => "Process",
            Self::Nested(_) => "Nested",
        })
    }
}

/// A translation that devices can be attached to: a page table and what invalidates it.
pub trait HwDomain<P: Platform>: Any + Send + Sync {
    /// Which addresses can be mapped.
    fn aperture(&self) -> IovaRange;

    /// In which sizes. Ranges to map and unmap are multiples of the smallest.
    fn page_sizes(&self) -> PageSizes;

    /// Maps `len_bytes` bytes from `iova` to `pa`, all three multiples of the smallest page. Visible to hardware on return.
    ///
    /// # Errors
    ///
    /// As [`MapError`] says; then nothing of the range is mapped that was not before. Parts may have been mapped for a moment,
    /// and hardware may remember them: core makes it forget the range before the addresses are reused.
    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError>;

    /// As [`map`](Self::map), for one of several pieces: hardware need not see it before [`show`](Self::show) of a range that covers it.
    ///
    /// # Errors
    ///
    /// As of [`map`](Self::map).
    fn map_piece(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        self.map(iova, pa, len_bytes, prot)
    }

    /// What was mapped in pieces in `range` is visible to hardware on return. There may be holes. Hardware that has to be told what it sees is told once, and
    /// not for each piece.
    ///
    /// # Errors
    ///
    /// [`MapError::Unconfirmed`]: then nothing of the range is mapped, as after a [`map`](Self::map) that failed.
    fn show(&self, _range: IovaRange) -> Result<(), MapError> {
        Ok(())
    }

    /// Takes every mapping out of `range` and adds to `gather` what hardware may still remember. Answers the bytes that were mapped.
    /// Holes are no error. A block that is partly outside is split, and the rest of it stays mapped at every moment.
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says; then everything in the range is still mapped.
    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError>;

    /// Makes hardware forget what `gather` holds, and waits until it has. The gather is empty then. Of addresses outside the aperture there is nothing to
    /// forget: whoever undoes a map that was refused may name them.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm. What was to be reclaimed must not be; the gather is as it was, for another try.
    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError>;

    /// Makes hardware forget everything it remembers of this domain, and waits until it has. Covers every unmap that returned before
    /// the call.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm.
    fn flush_all(&self) -> Result<Flushed, SyncError>;

    /// Keeps a buffer of the DMA API's ([`DmaMemory::alloc_buffer`](portcullis_hal::DmaMemory::alloc_buffer)) that hardware may reach by what it remembers of this domain, when nobody
    /// will ask again. It goes back to the platform with the tables, when hardware has confirmed that it has forgotten the domain. Where a driver does not know how, it is
    /// nobody's for good.
    fn keep(&self, _first: Pa, _layout: BlockLayout) {}

    /// What `iova` is mapped to, read from the table by software.
    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)>;

    /// For the driver, to see that a domain is its own kind.
    fn as_any(&self) -> &dyn Any;
}

/// What the hardware can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Which addresses a domain can map.
    pub aperture: IovaRange,
    /// In which sizes.
    pub page_sizes: PageSizes,
    /// Whether the IOMMU reads its tables through the CPU's caches.
    pub coherent_walk: bool,
    /// Whether sources can be attached to [`Target::Identity`].
    pub identity: bool,
    /// Whether the IOMMU checks the interrupts of all devices behind it, so that none can forge another's. Where it does not, something else may
    /// ([`DeviceInfo::isolated_interrupts`](crate::device::DeviceInfo::isolated_interrupts)).
    pub isolated_interrupts: bool,
}

impl Capabilities {
    /// Capabilities of an IOMMU that maps `aperture` in `page_sizes`, walks coherently, can pass traffic through, and leaves interrupts alone.
    pub const fn new(aperture: IovaRange, page_sizes: PageSizes) -> Self {
        Self { aperture, page_sizes, coherent_walk: true, identity: true, isolated_interrupts: false }
    }
}

/// What hardware may still remember of mappings that are gone: ranges, and in which steps.
///
/// Holds a few ranges exactly and merges beyond that into their hull: invalidating more than was unmapped is allowed, less is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "hardware still remembers these mappings"]
pub struct Gather {
    ranges: [Option<IovaRange>; Self::RANGES],
    leaf: Option<SizeLg2>,
    tables: bool,
}

impl Gather {
    const RANGES: usize = 4;

    /// Nothing to forget.
    pub const fn new() -> Self {
        Self { ranges: [None; Self::RANGES], leaf: None, tables: false }
    }

    /// Whether there is nothing to forget.
    pub fn is_empty(&self) -> bool {
        self.ranges[0].is_none()
    }

    /// Adds a range that held leaves of `leaf` bytes each and more; `tables` if tables above them went too.
    pub fn add(&mut self, range: IovaRange, leaf: SizeLg2, tables: bool) {
        self.leaf = Some(self.leaf.map_or(leaf, |smallest| smallest.min(leaf)));
        self.tables |= tables;
        let mut range = range;
        // A range that joins with one that is here may bridge it to a third: take out, grow, look again.
        while let Some(at) =
            (0..Self::RANGES).find(|&at| self.ranges[at].is_some_and(|held| held.touches(range)))
        {
            range = range.hull(self.remove(at));
        }
        let free = self.ranges.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            range = (0..Self::RANGES).filter_map(|at| self.ranges[at]).fold(range, IovaRange::hull);
            self.ranges = [None; Self::RANGES];
            0
        });
        self.ranges[at] = Some(range);
    }

    fn remove(&mut self, at: usize) -> IovaRange {
        let taken = self.ranges[at].take().expect("the caller saw a range here");
        self.ranges[at..].rotate_left(1);
        taken
    }

    /// The ranges.
    pub fn ranges(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.ranges.iter().copied().flatten()
    }

    /// What of it lies in `bounds`.
    pub fn within(&self, bounds: IovaRange) -> Self {
        let mut inside = Self { ranges: [None; Self::RANGES], ..*self };
        let parts = self.ranges().filter_map(|range| range.intersection(bounds));
        inside.ranges.iter_mut().zip(parts).for_each(|(place, part)| *place = Some(part));
        inside
    }

    /// The smallest leaf that was taken out: invalidating in steps of this size forgets everything. None if nothing was added.
    pub fn leaf(&self) -> Option<SizeLg2> {
        self.leaf
    }

    /// Whether entries above the leaves were taken out, so that hardware must also forget what it cached of walks.
    pub fn tables(&self) -> bool {
        self.tables
    }
}

/// The proof that hardware has forgotten what was unmapped.
///
/// Only a driver makes one, and only when the invalidation has completed, device TLBs included.
#[derive(Debug)]
#[must_use = "what waited for this flush can be reclaimed now"]
pub struct Flushed(());

impl Flushed {
    /// For drivers: says that the invalidation which the caller just waited for has completed.
    pub fn completed() -> Self {
        Self(())
    }
}

/// An address range that is not for mappings as any other is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// Where.
    pub range: IovaRange,
    /// Why.
    pub kind: ReservedKind,
    /// How a direct or software-MSI region is to be mapped.
    pub prot: Prot,
    /// Who says so.
    pub source: RegionSource,
}

/// Who says that a range is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionSource {
    /// The IOMMU's driver: hardware is like that.
    Iommu,
    /// A `reserved-memory` node of the device tree, by `iommu-addresses`.
    DeviceTree,
    /// An RMR node of ACPI's IORT.
    Iort,
    /// An RMRR structure of ACPI's DMAR.
    Dmar,
    /// An IVMD block of ACPI's IVRS.
    Ivrs,
}

impl RegionSource {
    /// The name of the table, for messages.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Iommu => "IOMMU",
            Self::DeviceTree => "reserved-memory",
            Self::Iort => "IORT",
            Self::Dmar => "DMAR",
            Self::Ivrs => "IVRS",
        }
    }
}

/// Why a range is reserved. In the order in which lists sort regions that start at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservedKind {
    /// Mapped 1:1 before the device does DMA and for as long as it is in a kernel domain: firmware uses it.
    Direct,
    /// The same, but a user may take the device.
    DirectRelaxable,
    /// Never mapped.
    Reserved,
    /// Decoded by hardware as an untranslated MSI doorbell.
    Msi,
    /// Where doorbells get mapped.
    SoftwareMsi,
}

impl ReservedKind {
    /// The word that `reserved_regions` in sysfs uses. Software MSI prints as `msi`.
    pub const fn sysfs_name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectRelaxable => "direct-relaxable",
            Self::Reserved => "reserved",
            Self::Msi | Self::SoftwareMsi => "msi",
        }
    }
}

/// What a device did that the IOMMU refused, as hardware recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Who. None where the record does not say.
    pub source: Option<SourceId>,
    /// In which of its address spaces.
    pub pasid: Option<Pasid>,
    /// At which address. None where the record does not say.
    pub iova: Option<Iova>,
    /// Doing what. None where the record does not say.
    pub access: Option<Access>,
    /// Why it was refused.
    pub reason: FaultReason,
    /// The hardware's own name of the record, as the book spells it, or `unknown`.
    pub name: &'static str,
    /// The record as hardware wrote it.
    pub raw: [u64; 4],
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultReason {
    /// The address is not mapped.
    NotMapped,
    /// It is mapped, but not for this.
    Permission,
    /// It is outside what the tables can say, on the way in or out.
    AddressSize,
    /// The mapping's access flag is clear.
    AccessFlag,
    /// The source is unknown, blocked or wrongly configured.
    Configuration,
    /// The hardware could not read its own tables, or its caches disagree.
    Hardware,
    /// Something else; the number is the hardware's.
    Other(u32),
}

/// An error that concerns the IOMMU as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GlobalError {
    /// A command was refused and has been skipped; its words as they were queued.
    Command {
        /// The hardware's code for what was wrong.
        code: u32,
        /// The command.
        words: [u64; 2],
    },
    /// Records could not be written to the queue of this name: some are lost, and what lies there may be older ones.
    ///
    /// Of an event queue, records of stalled transactions may be among them: transactions that wait for an answer of which nobody knows that it is owed. Devices that share by stalling are
    /// to be [given up](crate::sva::SvaDevice::give_up), which ends what waits, and led elsewhere only when their drivers have stopped them. Where faults always stall, that
    /// is so of every device: whoever blocks one ends what waits.
    ///
    /// Of a queue of page requests, hardware may have answered none of those that were lost: a device that waits for one asks again when its driver has reset it.
    ///
    /// Spec: SMMUv3 H.a, 7.2.2 "Event queue access external abort", 8.2 "Miscellaneous".
    QueueAbort(&'static str),
    /// An MSI of the IOMMU's own, for this purpose, could not be written. Hardware sends no other for what is in that queue already: it is to be looked at.
    MsiAbort(&'static str),
    /// The IOMMU has stopped serving and is to be reset.
    ServiceFailure,
}

/// Hardware did not confirm an invalidation or a change of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncError {
    /// Within the limit, nothing came.
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// What was last seen there.
        last: u64,
    },
    /// Hardware reported that a command on the way failed, so that the sync proves nothing.
    Failed {
        /// The hardware's code.
        code: u32,
    },
}

/// Why a device was not added.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddDeviceError {
    /// The source is beyond what the IOMMU can tell apart. ERANGE.
    OutOfRange {
        /// The source.
        source: SourceId,
        /// How many bits a source id has.
        bits: u8,
    },
    /// The source belongs to another device already. ENODEV.
    Taken {
        /// The source.
        source: SourceId,
        /// Whose it is.
        by: String,
    },
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// The hardware did not confirm. EIO.
    Sync(SyncError),
}

/// Why there is no new domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainError {
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// Every address space id is in use. ENOSPC.
    NoIds,
    /// The hardware has no page size or no address to map. EINVAL.
    Unsupported,
}

/// Why a device was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The source was never added. ENODEV.
    UnknownSource(SourceId),
    /// The domain belongs to another IOMMU. EINVAL.
    ForeignDomain,
    /// The hardware cannot do this. EINVAL.
    Unsupported,
    /// No memory for a table. ENOMEM.
    NoMemory,
    /// The hardware did not confirm; the device is attached as before. EIO.
    Sync(SyncError),
    /// The hardware did not confirm, nor going back: the device is blocked, and hardware that takes no commands is told as soon as it does, by the next
    /// [`Iommu::handle_errors`] at the latest. EIO.
    LeftBlocked(SyncError),
    /// PASIDs of the device mean something, so that it can only be blocked. EBUSY.
    PasidsInUse,
    /// A user has windows there, or has the table. EBUSY.
    WindowsInUse,
    /// The process whose memory it was to be has exited. ESRCH.
    Exited,
    /// The domain maps addresses that are reserved for this device. EINVAL.
    Reserved(IovaRange),
    /// A region that the device needs mapped 1:1 could not be. The errno of the map error.
    Direct {
        /// The part of the region.
        range: IovaRange,
        /// Why.
        error: MapError,
    },
}

/// Why a range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// Not a multiple of the smallest page. EINVAL.
    Misaligned {
        /// The address, output address or length that is not.
        value: u64,
        /// The smallest page.
        granule: SizeLg2,
    },
    /// Length 0, or the end wraps. EINVAL.
    BadLength,
    /// Outside the aperture. ERANGE.
    OutsideAperture(Iova),
    /// The output address is beyond what the table can say. ERANGE.
    OutputTooLarge(Pa),
    /// Something is mapped here already. EEXIST.
    Mapped(Iova),
    /// The table cannot say these permissions or this memory kind. EINVAL.
    Unsupported(Prot),
    /// No memory for a table. ENOMEM.
    NoTableMemory,
    /// A table holds a word that no driver wrote. EIO.
    CorruptTable {
        /// Where the word lies.
        at: Pa,
        /// The word.
        word: u64,
    },
    /// The hardware, which has to be told of new mappings, did not confirm. EIO.
    Unconfirmed {
        /// What was waited for.
        waiting_for: &'static str,
    },
}

/// Why a range was not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnmapError {
    /// Not a multiple of the smallest page. EINVAL.
    Misaligned {
        /// The smallest page.
        granule: SizeLg2,
    },
    /// Outside the aperture. ERANGE.
    OutsideAperture(Iova),
    /// A block lies across an end of the range, and the hardware does not allow splitting one that is live. EINVAL.
    WouldSplit {
        /// Where the block begins.
        iova: Iova,
        /// How large it is.
        size: SizeLg2,
    },
    /// A block had to be split and there was no memory for the table. ENOMEM.
    NoTableMemory,
    /// A table holds a word that no driver wrote. EIO.
    CorruptTable {
        /// Where the word lies.
        at: Pa,
        /// The word.
        word: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
    }

    fn gathered(ranges: &[(u64, u64)]) -> Vec<IovaRange> {
        let mut gather = Gather::new();
        ranges.iter().for_each(|&(first, last)| gather.add(range(first, last), SizeLg2::KIB_4, false));
        gather.ranges().collect()
    }

    #[test]
    fn neighbours_become_one_range() {
        assert_eq!(gathered(&[(0, 9), (10, 19), (40, 49)]), [range(0, 19), range(40, 49)]);
        assert_eq!(gathered(&[(0, 9), (20, 29), (10, 19)]), [range(0, 29)]);
    }

    #[test]
    fn more_ranges_than_fit_become_their_hull() {
        assert_eq!(gathered(&[(0, 0), (10, 10), (20, 20), (30, 30), (50, 50)]), [range(0, 50)]);
    }

    #[test]
    fn what_lies_within_bounds_keeps_its_order_its_leaf_and_its_tables() {
        let mut gather = Gather::new();
        [(0, 9), (20, 29), (40, 49)]
            .iter()
            .for_each(|&(first, last)| gather.add(range(first, last), SizeLg2::MIB_2, true));
        let inside = gather.within(range(25, 44));
        assert_eq!(inside.ranges().collect::<Vec<_>>(), [range(25, 29), range(40, 44)]);
        assert_eq!((inside.leaf(), inside.tables()), (Some(SizeLg2::MIB_2), true));
        assert!(gather.within(range(30, 39)).is_empty());
        assert_eq!(gather.within(range(0, 100)), gather);
    }

    #[test]
    fn the_smallest_leaf_and_any_table_are_remembered() {
        let mut gather = Gather::new();
        assert!(gather.is_empty());
        gather.add(range(0, 0xfff), SizeLg2::MIB_2, true);
        gather.add(range(0x5000, 0x5fff), SizeLg2::KIB_4, false);
        assert_eq!((gather.leaf(), gather.tables(), gather.is_empty()), (Some(SizeLg2::KIB_4), true, false));
    }
}
