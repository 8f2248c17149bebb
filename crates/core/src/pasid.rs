//! PASIDs: which are in use, by whom, and when one may be used again.
//!
//! A [`Pasids`] gives out the lowest that is free, with a value that can be looked up, and counts references. An [`MmPasids`] gives each
//! process one PASID, for all devices that the process is bound to.
//!
//! # The life of a PASID
//!
//! ```text
//!            alloc                      free
//!   free ──────────► active (1 ref) ──────────► inactive ─┐
//!    ▲                │  get: +1                 │  get, find: refused
//!    │                │  put: -1                 │  put: -1
//!    └── no refs left ┴──────────────────────────┘
//! ```
//!
//! Who frees a PASID takes it from everybody who does not hold a reference already; those who do keep it from being given out again
//! until they have put theirs: promise `no-reuse`. A `get` or `put` by somebody who holds nothing is an error that is said.
//!
//! 0 is never given out: a device that uses no PASID may be seen as using 0. Nor is all ones, which is beyond 20 bits.
//!
//! Not here: what hardware is told of a PASID (`iommu`).

use alloc::sync::{Arc, Weak};
use core::fmt;
use core::num::NonZeroU32;
use core::ops::RangeInclusive;

use lock_api::{Mutex, RawMutex};
use portcullis_hal::lock_api;
use portcullis_types::{IovaRange, Pasid, mutant};

use crate::id_map::{ChooseIdError, IdMap};
use crate::iommu::SyncError;
use crate::mm::{Exited, MmListener, ProcessMemory};

/// PASIDs in use, and a value for each.
pub struct Pasids<M, T> {
    entries: Mutex<M, IdMap<Entry<T>>>,
}

struct Entry<T> {
    references: NonZeroU32,
    active: bool,
    value: T,
}

/// Whether a reference that was dropped was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Others hold the PASID still.
    Held,
    /// Nobody does: it is free, and may be given out again.
    Reclaimed,
}

/// Why no PASID was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocPasidError {
    /// All in the range are in use. ENOSPC.
    NoneFree,
    /// No memory. ENOMEM.
    NoMemory,
}

/// Why something was not done with a PASID. Each is a fault of the caller's. EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasidError {
    /// Nobody holds it.
    NotInUse(Pasid),
    /// It was freed, and waits for its last reference to go.
    Inactive(Pasid),
    /// It has as many references as can be counted.
    TooManyReferences(Pasid),
}

impl<M: RawMutex, T> fmt::Debug for Pasids<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pasids").field("in_use", &self.in_use()).finish_non_exhaustive()
    }
}

impl<M: RawMutex, T> Pasids<M, T> {
    /// None in use.
    pub fn new() -> Self {
        Self { entries: Mutex::new(IdMap::new(20)) }
    }

    /// How many are in use, active or not.
    pub fn in_use(&self) -> usize {
        self.entries.lock().len()
    }

    /// Gives out the lowest PASID within `range` that is free, 0 excepted. The caller holds the one reference.
    ///
    /// # Errors
    ///
    /// As [`AllocPasidError`] says.
    pub fn alloc(&self, range: RangeInclusive<Pasid>, value: T) -> Result<Pasid, AllocPasidError> {
        let ids = range.start().get().max(1)..=range.end().get();
        let entry = Entry { references: NonZeroU32::MIN, active: true, value };
        match self.entries.lock().insert_lowest(ids, entry) {
            Ok(id) => Ok(Pasid::new(id).expect("the map has 20 bits")),
            Err(ChooseIdError::NoneFree) => Err(AllocPasidError::NoneFree),
            Err(ChooseIdError::NoMemory) => Err(AllocPasidError::NoMemory),
        }
    }

    /// Takes one more reference to an active PASID.
    ///
    /// # Errors
    ///
    /// As [`PasidError`] says; then none was taken.
    pub fn get(&self, pasid: Pasid) -> Result<(), PasidError> {
        let mut entries = self.entries.lock();
        let entry = active(&mut entries, pasid)?;
        let more = entry.references.checked_add(1);
        entry.references = more.ok_or(PasidError::TooManyReferences(pasid))?;
        Ok(())
    }

    /// Drops a reference. The PASID may be inactive.
    ///
    /// # Errors
    ///
    /// [`PasidError::NotInUse`] if nobody holds one.
    pub fn put(&self, pasid: Pasid) -> Result<Dropped, PasidError> {
        let mut entries = self.entries.lock();
        entries.get_mut(pasid.get()).ok_or(PasidError::NotInUse(pasid))?;
        Ok(drop_reference(entries, pasid))
    }

    /// Drops the caller's reference and makes the PASID inactive: from now on nobody finds it or gets another reference.
    ///
    /// # Errors
    ///
    /// As [`PasidError`] says: it was not active, and no reference was dropped.
    pub fn free(&self, pasid: Pasid) -> Result<Dropped, PasidError> {
        let mut entries = self.entries.lock();
        active(&mut entries, pasid)?.active = false;
        Ok(drop_reference(entries, pasid))
    }
}

impl<M: RawMutex, T: Clone> Pasids<M, T> {
    /// The value of an active PASID. Takes no reference.
    ///
    /// # Errors
    ///
    /// As [`PasidError`] says: it is not active.
    pub fn find(&self, pasid: Pasid) -> Result<T, PasidError> {
        active(&mut self.entries.lock(), pasid).map(|entry| entry.value.clone())
    }
}

fn active<T>(entries: &mut IdMap<Entry<T>>, pasid: Pasid) -> Result<&mut Entry<T>, PasidError> {
    match entries.get_mut(pasid.get()) {
        None => Err(PasidError::NotInUse(pasid)),
        Some(entry) if !entry.active => Err(PasidError::Inactive(pasid)),
        Some(entry) => Ok(entry),
    }
}

/// Drops a reference to a PASID that is in use. The value of one that is reclaimed is dropped with the lock released.
fn drop_reference<M: RawMutex, T>(
    mut entries: lock_api::MutexGuard<'_, M, IdMap<Entry<T>>>,
    pasid: Pasid,
) -> Dropped {
    let entry = entries.get_mut(pasid.get()).expect("the caller saw it in use");
    if let Some(left) = NonZeroU32::new(entry.references.get() - 1)
        && (entry.active || !mutant!("pasid-freed-under-a-bond"))
    {
        entry.references = left;
        return Dropped::Held;
    }
    let last = entries.remove(pasid.get());
    drop(entries);
    drop(last);
    Dropped::Reclaimed
}

/// One PASID for each process that is bound to a device, the same for all devices.
///
/// A process gets its PASID when it is first bound, and keeps it until it exits, also while nothing is bound to it. On exit the PASID
/// becomes inactive, and is free when the last bond has put its reference.
///
/// # Locks
///
/// One. It is taken when a process exits, that is, with the process's own locks held; none of the process's methods that lock is called
/// with it held.
pub struct MmPasids<M> {
    pasids: Pasids<M, Weak<dyn ProcessMemory>>,
    /// Held while a process's slot is looked at and filled or emptied.
    slots: Mutex<M, ()>,
}

/// Why a process has no PASID that a device can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldPasidError {
    /// It has one already, and the device cannot use that. EOVERFLOW.
    OutsideLimits {
        /// The one that it has.
        pasid: Pasid,
        /// The lowest that the device can use.
        min: Pasid,
        /// The highest.
        max: Pasid,
    },
    /// All that the device can use are in use. ENOSPC.
    NoneFree,
    /// No memory. ENOMEM.
    NoMemory,
    /// The process has exited. ESRCH.
    Exited,
    /// It has one, with as many references as can be counted. EBUSY.
    TooManyReferences,
}

impl<M: RawMutex> fmt::Debug for MmPasids<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmPasids").field("in_use", &self.pasids.in_use()).finish_non_exhaustive()
    }
}

impl<M: RawMutex + Send + Sync + 'static> MmPasids<M> {
    /// No process has one.
    pub fn new() -> Self {
        Self { pasids: Pasids::new(), slots: Mutex::new(()) }
    }

    /// How many PASIDs are in use, those of processes that exited while bound included.
    pub fn in_use(&self) -> usize {
        self.pasids.in_use()
    }

    /// A reference to the PASID of `mm`, for a device that can use those in `limits`; allocated within these if the process has none.
    /// The caller gives it back with [`put`](Self::put) when hardware and queues no longer know the PASID.
    ///
    /// # Errors
    ///
    /// As [`HoldPasidError`] says; then no reference was taken.
    pub fn hold(
        self: &Arc<Self>,
        mm: &Arc<dyn ProcessMemory>,
        limits: RangeInclusive<Pasid>,
    ) -> Result<Pasid, HoldPasidError> {
        let (pasid, new) = self.get_or_alloc(mm, limits)?;
        if new && let Err(Exited) = self.watch(mm, pasid) {
            self.put(pasid).expect("a reference was taken for the caller");
            return Err(HoldPasidError::Exited);
        }
        Ok(pasid)
    }

    /// Has the new PASID of `mm` freed when that exits; if it has already, now. Somebody else may hold it by then: for him it becomes
    /// inactive.
    fn watch(self: &Arc<Self>, mm: &Arc<dyn ProcessMemory>, pasid: Pasid) -> Result<(), Exited> {
        let exit = Arc::new(Exit { pasids: self.clone(), mm: Arc::downgrade(mm), pasid });
        let watched = mm.add_listener(exit.clone());
        watched.map(|_| ()).inspect_err(|Exited| exit.make_inactive())
    }

    /// The PASID of `mm`, with a reference for the caller; and whether it is new, and so has one for the process too.
    fn get_or_alloc(
        &self,
        mm: &Arc<dyn ProcessMemory>,
        limits: RangeInclusive<Pasid>,
    ) -> Result<(Pasid, bool), HoldPasidError> {
        let _slots = self.slots.lock();
        let held = mm.pasid_slot().get();
        if let Some(pasid) = held.filter(|pasid| !limits.contains(pasid)) {
            let (min, max) = limits.into_inner();
            return Err(HoldPasidError::OutsideLimits { pasid, min, max });
        }
        let pasid = match held {
            Some(pasid) => pasid,
            None => self.pasids.alloc(limits, Arc::downgrade(mm)).map_err(|error| match error {
                AllocPasidError::NoneFree => HoldPasidError::NoneFree,
                AllocPasidError::NoMemory => HoldPasidError::NoMemory,
            })?,
        };
        match self.pasids.get(pasid) {
            Ok(()) => {}
            Err(PasidError::TooManyReferences(_)) => return Err(HoldPasidError::TooManyReferences),
            // The slot is emptied before its PASID is freed, both under this lock.
            Err(error) => unreachable!("the process holds its own PASID: {error:?}"),
        }
        mm.pasid_slot().set(Some(pasid));
        Ok((pasid, held.is_none()))
    }

    /// Gives a reference of [`hold`](Self::hold) back. Also after the process exited.
    ///
    /// # Errors
    ///
    /// [`PasidError::NotInUse`] if nobody holds one.
    pub fn put(&self, pasid: Pasid) -> Result<Dropped, PasidError> {
        self.pasids.put(pasid)
    }

    /// The process whose PASID this is, if it has not exited.
    pub fn find(&self, pasid: Pasid) -> Option<Arc<dyn ProcessMemory>> {
        self.pasids.find(pasid).ok()?.upgrade()
    }
}

/// Frees a process's PASID when it exits.
struct Exit<M> {
    pasids: Arc<MmPasids<M>>,
    mm: Weak<dyn ProcessMemory>,
    pasid: Pasid,
}

impl<M: RawMutex + Send + Sync + 'static> Exit<M> {
    /// Drops the process's own reference. Does nothing the second time.
    fn make_inactive(&self) {
        let mm = self.mm.upgrade();
        let slots = self.pasids.slots.lock();
        if let Some(mm) = &mm {
            mm.pasid_slot().set(None);
        }
        let freed = self.pasids.pasids.free(self.pasid);
        drop(slots);
        debug_assert!(freed.is_ok(), "a process exits once");
    }
}

impl<M: RawMutex + Send + Sync + 'static> MmListener for Exit<M> {
    fn invalidate(&self, _: IovaRange) -> Result<(), SyncError> {
        Ok(())
    }

    fn release(&self) -> Result<(), SyncError> {
        self.make_inactive();
        Ok(())
    }
}
