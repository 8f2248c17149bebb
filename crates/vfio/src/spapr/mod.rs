//! spapr_tce: containers of POWER, whose user makes DMA windows and fills their tables.
//!
//! A [`Spapr`] has the groups that are in its container, and windows that all of them share. All of it is behind the container's turn.
//!
//! | file | what |
//! |---|---|
//! | `attach` | groups come and go, taken from the platform and given back |
//! | `windows` | windows come and go; the default one is made when first needed |
//! | `entries` | maps and unmaps |
//! | `memory` | what may be mapped: memory that is registered (version 2), or a limit that is paid in advance (version 1) |
//! | `area` | registered memory, which the containers of a process share |
//! | `pages` | where an entry's page comes from, and its way back |
//! | `kept` | what hardware has not confirmed that it has forgotten, of containers that are gone |
//! | `info`, `eeh` | what a user is told; freezing |
//!
//! # The default window
//!
//! A container begins without windows. The default one, of 32 bits, is *pending*: it is made by the first map, unmap or creation of another
//! window, or cancelled by a removal. A call that made it and then fails takes it away again.
//!
//! # Pages
//!
//! What an exchange puts out of a table is *due*: its page is let go once, and only when a flush of that table, which covers every group that has it
//! as a window, is confirmed. Until then it stays due with its window, and any later call on the window tries again.
//!
//! # Locking
//!
//! The container's turn, then that of the list of registered memory (`Shared::areas`), then the drivers' own locks.
//!
//! Observed: Linux 7.3, drivers/vfio/vfio_iommu_spapr_tce.c: what is looked at in which order, and the numbers of errors. Where this differs it
//! says so.

mod area;
mod attach;
mod eeh;
mod entries;
mod info;
mod kept;
mod memory;
mod pages;
mod windows;

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::group::Group;
use portcullis_core::table_group::{MAX_WINDOWS, TableGroup};
use portcullis_hal::Platform;
use portcullis_spec::vfio::{
    EEH_PE_OP, IOMMU_DISABLE, IOMMU_ENABLE, IOMMU_MAP_DMA, IOMMU_UNMAP_DMA, SPAPR_REGISTER_MEMORY,
    SPAPR_TCE_CREATE, SPAPR_TCE_GET_INFO, SPAPR_TCE_REMOVE, SPAPR_UNREGISTER_MEMORY, extension,
};
use portcullis_types::IovaRange;

use crate::Errno;
use crate::container::Member;
use crate::registry::Shared;
use crate::user::{Caller, UserMemory};
pub(crate) use area::Areas;
pub(crate) use kept::Kept;
use memory::Allowance;
use windows::Window;

/// How memory is accounted for, and whether windows can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "spapr_tce",
            Self::V2 => "spapr_tce_v2",
        }
    }
}

/// A container's IOMMU.
pub(crate) struct Spapr<P: Platform> {
    shared: Arc<Shared<P>>,
    version: Version,
    members: Vec<Attached<P>>,
    windows: [Option<Window>; MAX_WINDOWS],
    /// Whether the default window is still to be made.
    pending: bool,
    /// The process that uses the container, from its first call on that needs one.
    owner: Option<Arc<dyn UserMemory>>,
    allowance: Allowance,
    /// Whether its user has made errors (EEH), which may still be to come.
    injected: bool,
}

/// A group of the container, taken from the platform.
struct Attached<P: Platform> {
    member: Member<P>,
    tables: Arc<dyn TableGroup>,
    reserved: Reserved,
}

/// What nobody maps for a group, wherever windows reach.
struct Reserved {
    ranges: Vec<IovaRange>,
    /// For which of the group's devices: what [`Group::changes`] said before they were asked.
    changes: u64,
}

impl Reserved {
    /// As the devices are now.
    fn of<P: Platform>(group: &Group<P>) -> Self {
        let changes = group.changes();
        let binding = group.reserved_regions().into_iter().filter(|region| region.kind.binds_users());
        Self { ranges: binding.map(|region| region.range).collect(), changes }
    }
}

/// The windows of a group; none if its hardware has none. All of a group's sources have to be in the same ones.
pub(crate) fn table_group<P: Platform>(group: &Group<P>) -> Option<Arc<dyn TableGroup>> {
    let devices = group.devices();
    let mut sources = devices.iter().flat_map(|device| device.sources().iter().copied());
    let first = group.iommu().table_group(sources.next()?)?;
    let name = first.name();
    let together = |source| group.iommu().table_group(source).is_some_and(|other| other.name() == name);
    sources.all(together).then_some(first)
}

impl<P: Platform> Spapr<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>, version: Version) -> Self {
        Self {
            shared,
            version,
            members: Vec::new(),
            windows: [const { None }; MAX_WINDOWS],
            pending: false,
            owner: None,
            allowance: Allowance::None,
            injected: false,
        }
    }

    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn has_extension(&self, number: u64) -> bool {
        match number {
            extension::SPAPR_TCE | extension::SPAPR_TCE_V2 => true,
            extension::EEH => self.members.iter().all(|held| held.tables.eeh().is_some()),
            _ => false,
        }
    }

    pub(crate) fn ioctl(&mut self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        let memory = caller.memory();
        if self.owner.as_ref().is_some_and(|owner| !same(owner, memory)) {
            return Err(Errno::Eperm);
        }
        let (owner, pending) = (self.owner.clone(), self.pending);
        let done = self.dispatch(memory, request, arg);
        if done.is_err() {
            self.owner = owner;
            self.undo_default(pending);
        }
        done
    }

    fn dispatch(&mut self, memory: &Arc<dyn UserMemory>, request: u32, arg: u64) -> Result<u64, Errno> {
        match (self.version, request) {
            (_, SPAPR_TCE_GET_INFO) => self.get_info(&**memory, arg),
            (_, IOMMU_MAP_DMA) => self.map(&**memory, arg),
            (_, IOMMU_UNMAP_DMA) => self.unmap(&**memory, arg),
            (_, EEH_PE_OP) => self.eeh(&**memory, arg),
            (Version::V1, IOMMU_ENABLE) => self.enable(memory),
            (Version::V1, IOMMU_DISABLE) => self.disable(),
            (Version::V2, SPAPR_REGISTER_MEMORY) => self.register(memory, arg),
            (Version::V2, SPAPR_UNREGISTER_MEMORY) => self.unregister(&**memory, arg),
            (Version::V2, SPAPR_TCE_CREATE) => self.create(memory, arg),
            (Version::V2, SPAPR_TCE_REMOVE) => self.remove(memory, arg),
            _ => Err(Errno::Enotty),
        }
    }

    /// From now on the container is this process's.
    fn own(&mut self, memory: &Arc<dyn UserMemory>) {
        self.owner.get_or_insert_with(|| memory.clone());
    }
}

/// Whether both are the memory of the same process.
fn same(one: &Arc<dyn UserMemory>, other: &Arc<dyn UserMemory>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}
