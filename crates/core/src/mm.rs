//! Process memory: what core and drivers need of an operating system's address spaces in order to share them with devices.
//!
//! An embedder implements [`ProcessMemory`] for its address spaces. A device that is bound to one walks the process's own page table
//! ([`ProcessTable`]), its faults are handled by the process ([`ProcessMemory::handle_fault`]), and whoever caches what it read from the
//! table is told of each change ([`MmListener`]). An address in a process is an [`Iova`] here: it is what the device says.
//!
//! # What the owner of the memory promises its listeners
//!
//! 1. *Entry, invalidate, page.* Whenever an entry that was valid is cleared, restricted, widened or pointed elsewhere, the entry is
//!    written first, then [`MmListener::invalidate`] is called with a range that covers it, and only when every listener has returned
//!    with success does the page that the entry pointed to, or a table below it, go to another use. An entry that was not valid may
//!    become valid without a call.
//! 2. *One at a time, or not.* Calls for different ranges may come from several CPUs at once, and also while a fault is handled.
//! 3. *Release comes once, and before the tables go.* When the process exits, each listener gets one [`MmListener::release`], and no
//!    table and no page of the process goes to another use before all have returned with success. A listener that is removed before
//!    its turn gets none.
//! 4. *After release, silence.* What is torn down after the release may come without any `invalidate`: the listener must have given
//!    up the whole address space in `release`. Calls that do come must be borne.
//! 5. *Removal is a fence.* When [`ProcessMemory::remove_listener`] returns, no call to the listener is running or will come.
//! 6. *Nothing is freed on doubt.* A listener that answers an error says that hardware may still reach the memory: its pages and tables
//!    are kept for ever, or until a later call for the same range succeeds. Nor is a page that it may still write shared with a child: who forks is refused, or has a copy.
//!    Core's listeners stay while a driver keeps the process's domain for hardware that has not confirmed that it left it, also when nobody else shares the process any more.
//!
//! A listener is called with locks of the address space held: it must neither sleep nor call the [`ProcessMemory`] back. Hence whoever
//! holds a lock that a listener takes must not call `add_listener`, `remove_listener` or `handle_fault` under it.
//!
//! Not here: ids for address spaces (`pasid`, `asid`), the way of a page request to `handle_fault` (`iopf`).

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use portcullis_types::{Iova, IovaRange, Pa, Pasid, Perms, SizeLg2};

use crate::iommu::SyncError;

/// Which address space: a number that no other address space ever has, not even after this one is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmId(pub u64);

impl fmt::Debug for MmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmId({})", self.0)
    }
}

/// The PASID of an address space: none at first, one for all its devices as soon as one is bound, none again when the process exits.
///
/// Embedded in what implements [`ProcessMemory`], which does nothing with it: [`MmPasids`](crate::pasid::MmPasids) fills it in.
#[derive(Default)]
pub struct PasidSlot(AtomicU32);

impl PasidSlot {
    /// Stands for "none": the PASID that no process ever has.
    const NONE: u32 = 0;

    /// A slot with none.
    pub const fn new() -> Self {
        Self(AtomicU32::new(Self::NONE))
    }

    /// The PASID, never 0.
    pub fn get(&self) -> Option<Pasid> {
        Pasid::new(self.0.load(Relaxed)).filter(|pasid| pasid.get() != Self::NONE)
    }

    /// Under the lock of the one who allocates.
    pub(crate) fn set(&self, pasid: Option<Pasid>) {
        self.0.store(pasid.map_or(Self::NONE, Pasid::get), Relaxed);
    }
}

impl fmt::Debug for PasidSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasidSlot").field(&self.get()).finish()
    }
}

/// A listener's place in an address space's list, unique within the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// A process's page table, as the CPU is told to walk it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessTable {
    /// The lower half of a VMSAv8-64 stage 1 (what TTBR0 points to), walked through the CPU's caches.
    ///
    /// Spec: Arm ARM DDI 0487, D8 "The AArch64 Virtual Memory System Architecture".
    Vmsa64 {
        /// The table of the first level, as a plain address: not TTBR0's layout, in which the top bits of a 52-bit address sit low.
        root: Pa,
        /// The translation granule: 4, 16 or 64 KiB.
        granule: SizeLg2,
        /// How many low bits of an address are translated: 64 - T0SZ.
        input_bits: u8,
        /// How many bits an output address has at most: 32 to 52 (IPS).
        output_bits: u8,
        /// Whether descriptors have the form for 52-bit addresses with 4 or 16 KiB granule (TCR.DS).
        large_descriptors: bool,
        /// The memory kinds that entries refer to by index (MAIR).
        mair: u64,
    },
    /// The paging structures of an x86-64 process (what CR3 points to), walked through the CPU's caches. Devices use the lower half.
    ///
    /// Spec: Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging".
    X86 {
        /// The table of the first level: a plain address, without CR3's low bits.
        root: Pa,
        /// 4 or 5.
        levels: u8,
        /// How many bits an output address has at most: 32 to 52 (MAXPHYADDR).
        output_bits: u8,
        /// The memory kinds that entries refer to by index (IA32_PAT).
        pat: u64,
    },
}

/// What a device wants of a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmFault {
    /// Where. Any address within the page.
    pub address: Iova,
    /// What it wants to do, all of it together. With [`Perms::PRIVILEGED`] the device is as privileged as the kernel; without, it
    /// gets what user code gets.
    pub wanted: Perms,
}

/// Why a fault was not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MmFaultError {
    /// No area of the process covers the address.
    NoArea,
    /// An area does, but does not allow all of what is wanted.
    Permission,
    /// The process has exited.
    Exited,
    /// No memory for the page or a table.
    NoMemory,
    /// The page could not be read from where it lies, or may not be entered, since hardware did not confirm that it forgot what was there before.
    Io,
    /// Nothing is wrong, but the work has to begin anew, perhaps after others had a turn.
    Retry,
}

/// The process has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited;

/// Why an address space got no pinned ASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinAsidError {
    /// The process has exited. ESRCH.
    Exited,
    /// As many are pinned as may be. ENOSPC.
    NoIds,
    /// The CPUs of this machine tag their TLBs with nothing that can be shared. EOPNOTSUPP.
    Unsupported,
}

/// The memory of a process.
pub trait ProcessMemory: Send + Sync + fmt::Debug {
    /// Which one.
    fn id(&self) -> MmId;

    /// Where its PASID is kept. The same at each call.
    fn pasid_slot(&self) -> &PasidSlot;

    /// The page table that its CPUs walk. The same at each call, for as long as the process lives.
    fn table(&self) -> ProcessTable;

    /// Pins the address space id (ASID) with which its CPUs tag their TLBs, so that it stays the same until as many
    /// [`unpin_asid`](Self::unpin_asid) as there were pins. Counted.
    ///
    /// # Errors
    ///
    /// As [`PinAsidError`] says; then nothing was counted.
    fn pin_asid(&self) -> Result<u16, PinAsidError>;

    /// Takes back one [`pin_asid`](Self::pin_asid), also after the process exited. Hardware must have forgotten the ASID by then.
    fn unpin_asid(&self);

    /// Does what the CPU's own page fault would have done: finds the area (one that grows down may grow), checks it
    /// ([`check_area`]), brings the page in, copies it if it is shared and to be written. Success means that an access as wanted
    /// would have been possible at some moment during the call, also if the page was there all along. May sleep.
    ///
    /// A call that began before the process exited may succeed after its listeners were told of the exit.
    ///
    /// # Errors
    ///
    /// As [`MmFaultError`] says.
    fn handle_fault(&self, fault: &MmFault) -> Result<(), MmFaultError>;

    /// Tells `listener` of changes from now on.
    ///
    /// # Errors
    ///
    /// The process has exited: the listener was not added and will not be called.
    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited>;

    /// Stops telling a listener: on return, no call to it is running or will come. Does nothing for an id that is not there, or was
    /// released.
    fn remove_listener(&self, id: ListenerId);
}

/// Somebody who caches what a process's page table says. The module says when it is called.
pub trait MmListener: Send + Sync {
    /// Entries in `range` have changed. On return with success, no cache of this listener's holds what they were.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm that it forgot: it may still reach the old pages.
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError>;

    /// The process exits. On return with success, nothing behind this listener reads its table or reaches its memory, nor will again.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: it may still reach tables and pages.
    fn release(&self) -> Result<(), SyncError>;
}

/// Whether an area with the permissions `area` allows all of what is wanted.
///
/// Each of read, write and execute that is wanted must be allowed by itself: write does not imply read, and an instruction fetch
/// needs an executable area. An area with [`Perms::PRIVILEGED`] is for privileged access only; other areas are for both.
///
/// # Errors
///
/// [`MmFaultError::Permission`] if anything is missing.
pub fn check_area(area: Perms, wanted: Perms) -> Result<(), MmFaultError> {
    let kinds = wanted.difference(Perms::PRIVILEGED);
    let trespass = area.contains(Perms::PRIVILEGED) && !wanted.contains(Perms::PRIVILEGED);
    if trespass || !area.contains(kinds) { Err(MmFaultError::Permission) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_address_space_has_no_pasid_and_0_is_none() {
        let slot = PasidSlot::new();
        assert_eq!((slot.get(), PasidSlot::default().get()), (None, None));
        slot.set(Pasid::new(0));
        assert_eq!(slot.get(), None);
        slot.set(Pasid::new(7));
        assert_eq!(slot.get(), Pasid::new(7));
    }

    #[test]
    fn an_area_allows_what_it_has_bit_by_bit_and_no_more() {
        for area in (0..16).map(Perms::from_bits_truncate) {
            for wanted in (0..16).map(Perms::from_bits_truncate) {
                let missing = [Perms::READ, Perms::WRITE, Perms::EXECUTE]
                    .into_iter()
                    .any(|kind| wanted.contains(kind) && !area.contains(kind));
                let kernel_only = area.contains(Perms::PRIVILEGED) && !wanted.contains(Perms::PRIVILEGED);
                assert_eq!(check_area(area, wanted).is_err(), missing || kernel_only, "{area:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn a_fetch_needs_an_executable_area_and_a_write_a_writable_one() {
        assert_eq!(check_area(Perms::READ_WRITE, Perms::EXECUTE), Err(MmFaultError::Permission));
        assert_eq!(
            check_area(Perms::READ | Perms::EXECUTE, Perms::READ_WRITE),
            Err(MmFaultError::Permission)
        );
        assert_eq!(check_area(Perms::WRITE, Perms::READ), Err(MmFaultError::Permission));
        assert_eq!(check_area(Perms::READ, Perms::READ | Perms::PRIVILEGED), Ok(()));
    }
}
