//! Table groups: groups whose user makes translation tables himself, and the windows in which they count.
//!
//! Some hardware translates by *windows*: ranges of addresses, each with a table of its own page size and depth. Who takes such a
//! [`TableGroup`] gets no ready-made domain; he creates tables, sets them as windows, and fills them entry by entry. The seam:
//!
//! ```text
//!  container ── create_table ──► DmaTable ──── exchange, flush
//!      │                            │
//!      └── join ── set_window ──────┘   one table may be a window of several groups
//! ```
//!
//! # Who owns a group
//!
//! Taking ([`Ownership::take_ownership`]) puts a group out of the platform's hands: no way around translation, none of the platform's
//! windows, its table freed when nothing is mapped in it. Releasing gives it back: the platform's table is made again, set, and the way around restored. What cannot be
//! made leaves the group blocked, says so, and can be tried again. A driver does the same when core attaches a group to the blocked domain
//! and to another one, so that a group is protected whoever claims it; taking what is taken already does nothing.
//!
//! Hardware without tables on demand has one table for good. A user takes it over whole ([`WholeTable`]). A group that offers ownership
//! but no tables is neither, and refused ([`kind`]).
//!
//! # No table is read after it is unset
//!
//! A window holds its table. [`TableOps::unset_window`] gives it back, after hardware has forgotten it: what the caller clears, counts and drops
//! afterwards is his own. A table gives its memory back when the last who holds it lets go.
//!
//! # Order of letting go
//!
//! 1. [`DmaTable::exchange`] answers what was mapped, once.
//! 2. [`DmaTable::flush`], or `unset_window` on every group, makes hardware forget it.
//! 3. Only then is a page unpinned.
//!
//! Not here: accounting and pinning (`portcullis-vfio`), the layout of tables (`portcullis-pgtable`).

mod eeh;
mod error;
mod share;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use portcullis_types::{Iova, IovaRange, Pa, PageSizes, Perms, SizeLg2};

pub use eeh::{Eeh, EehError, ErrorInjection, Freeze, PeState, Reset, Slot};
pub use error::{EntryError, OwnershipError, TableError, WindowError};
pub use share::{JoinError, join, leave};

use crate::iommu::{Flushed, Gather, SyncError};

/// The most windows that a group has.
pub const MAX_WINDOWS: usize = 2;

/// What a group offers, settled at probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableGroupInfo {
    /// Where the platform's window of 32 bits lies, and how large it is.
    pub window32: IovaRange,
    /// Where each window begins; none where there is no such window.
    pub windows: [Option<Iova>; MAX_WINDOWS],
    /// In which page sizes tables can be.
    pub page_sizes: PageSizes,
    /// The most levels that a table has.
    pub max_levels: u8,
}

/// What a table is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Which window it is for: that settles its addresses.
    pub window: usize,
    /// The page size.
    pub page: SizeLg2,
    /// The bytes of the window, a power of two.
    pub window_bytes: u64,
    /// How many levels, from 1.
    pub levels: u8,
}

/// What is mapped at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Where the page lies.
    pub pa: Pa,
    /// What devices may do there. What may be written may be read.
    pub perms: Perms,
    /// The address by which the user knows the page; 0 for none.
    pub user: u64,
}

/// A group of devices that has windows.
pub trait TableGroup: Send + Sync + fmt::Debug {
    /// A name for people.
    fn name(&self) -> String;

    /// What it offers.
    fn info(&self) -> TableGroupInfo;

    /// Taking it and giving it back; none where the driver knows nothing of that.
    fn ownership(&self) -> Option<&dyn Ownership>;

    /// Making tables and windows; none where tables are what they are.
    fn tables(&self) -> Option<&dyn TableOps>;

    /// The one table that there is for good; none where tables are made.
    fn whole(&self) -> Option<&dyn WholeTable>;

    /// Freezing and recovering; none where hardware does not freeze.
    fn eeh(&self) -> Option<&dyn Eeh>;
}

/// Taking a group from the platform, and giving it back.
pub trait Ownership {
    /// Blocks the group, and gives the platform's table up. Does nothing if it is taken.
    ///
    /// # Errors
    ///
    /// As [`OwnershipError`] says; then the group is the platform's as before, or blocked if it says so.
    fn take_ownership(&self) -> Result<(), OwnershipError>;

    /// Gives the group back to the platform, whose window and way around translation are as before the take. Does nothing if it was not taken
    /// here.
    ///
    /// # Errors
    ///
    /// As [`OwnershipError`] says; then the group stays taken, and blocked, and this can be tried again.
    fn release_ownership(&self) -> Result<(), OwnershipError>;
}

/// Making tables and windows.
pub trait TableOps {
    /// What such a table costs its user: every level at full size, and his view of it.
    ///
    /// # Errors
    ///
    /// As [`TableError`] says.
    fn table_bytes(&self, spec: TableSpec) -> Result<u64, TableError>;

    /// Makes an empty table. It is no window yet.
    ///
    /// # Errors
    ///
    /// As [`TableError`] says.
    fn create_table(&self, spec: TableSpec) -> Result<Arc<dyn DmaTable>, TableError>;

    /// Makes a table the window that it is for. On return devices translate by it.
    ///
    /// # Errors
    ///
    /// As [`WindowError`] says; then there is no such window.
    fn set_window(&self, table: &Arc<dyn DmaTable>) -> Result<(), WindowError>;

    /// Removes a window and answers the table that it was. On return hardware has forgotten it, as far as this group goes.
    ///
    /// # Errors
    ///
    /// As [`WindowError`] says. If hardware did not confirm, devices get nothing more by this window; its table stays with it, and this can be
    /// tried again.
    fn unset_window(&self, window: usize) -> Result<Arc<dyn DmaTable>, WindowError>;

    /// The table that a window is.
    fn window(&self, window: usize) -> Option<Arc<dyn DmaTable>>;
}

/// The one table of a group whose hardware or driver makes none.
pub trait WholeTable {
    /// Takes the table over: the way around translation is closed, the platform maps nothing more there.
    ///
    /// # Errors
    ///
    /// [`OwnershipError::Live`] if anything but what is reserved is mapped; then nothing has changed.
    fn take_table(&self) -> Result<Arc<dyn DmaTable>, OwnershipError>;

    /// Gives it back: what is reserved is there again, and so is the way around.
    ///
    /// # Errors
    ///
    /// As [`OwnershipError`] says: the user clears his entries first. Then the group stays taken.
    fn give_back_table(&self) -> Result<(), OwnershipError>;
}

/// A translation table that a user fills.
///
/// Every method may be called from several CPUs.
pub trait DmaTable: Any + Send + Sync + fmt::Debug {
    /// What it is.
    fn spec(&self) -> TableSpec;

    /// Which addresses it translates.
    fn range(&self) -> IovaRange;

    /// What it costs its user.
    fn accounted_bytes(&self) -> u64;

    /// What it has of memory now.
    fn memory_bytes(&self) -> u64;

    /// How many entries are mapped.
    fn live(&self) -> u64;

    /// Makes what memory the entries of `range` need, so that exchanging them cannot fail for want of it.
    ///
    /// # Errors
    ///
    /// As [`EntryError`] says.
    fn prepare(&self, range: IovaRange) -> Result<(), EntryError>;

    /// Maps the page at `iova` to something else, or to nothing, and answers what was there. Hardware may use the old one until a
    /// [`flush`](Self::flush), and may not see the new one before.
    ///
    /// # Errors
    ///
    /// As [`EntryError`] says; then the entry is as it was.
    fn exchange(&self, iova: Iova, new: Option<TableEntry>) -> Result<Option<TableEntry>, EntryError>;

    /// What the page that holds `iova` is mapped to.
    fn entry(&self, iova: Iova) -> Option<TableEntry>;

    /// The first mapped page at or after `iova`, and where it is. None if there is none.
    fn next(&self, iova: Iova) -> Option<(Iova, TableEntry)>;

    /// The first mapped page that begins in `range`, and where it is. None if there is none. A driver need not look at what lies behind the range.
    fn next_in(&self, range: IovaRange) -> Option<(Iova, TableEntry)> {
        self.next(range.first()).filter(|&(iova, _)| range.contains(iova))
    }

    /// Makes hardware forget what it knew of the ranges of `gather`, in every group that has the table as a window, and waits until it has.
    /// Needed after exchanges, whether they mapped or unmapped. The gather is empty then; with nothing in it, nothing is done.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: the gather is as it was, for another try, and nothing may be unpinned.
    fn flush(&self, gather: &mut Gather) -> Result<Flushed, SyncError>;

    /// For the driver, to see that a table is its own kind.
    fn as_any(&self) -> &dyn Any;
}

/// How a group is taken.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// Tables and windows come and go as the user likes.
    OnDemand(&'a dyn Ownership, &'a dyn TableOps),
    /// The user takes over the table that is there.
    Whole(&'a dyn WholeTable),
}

impl fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnDemand(..) => "OnDemand",
            Self::Whole(_) => "Whole",
        })
    }
}

/// How `group` is taken, by what its driver offers.
///
/// # Errors
///
/// [`OwnershipError::Incomplete`]: ownership is offered, but neither tables nor windows can be made, so that a user who took it could do nothing.
pub fn kind(group: &dyn TableGroup) -> Result<Kind<'_>, OwnershipError> {
    match (group.ownership(), group.tables(), group.whole()) {
        (Some(ownership), Some(tables), _) => Ok(Kind::OnDemand(ownership, tables)),
        (None, _, Some(whole)) => Ok(Kind::Whole(whole)),
        _ => Err(OwnershipError::Incomplete),
    }
}
