//! What VFIO knows: groups with devices that its drivers have registered, and what they share.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use portcullis_core::bus::Place;
use portcullis_hal::{Lock, Platform};

use crate::Errno;
use crate::container::Container;
use crate::device::{DeviceSlot, VfioDevice};
use crate::file::{ContainerHandle, File, GroupHandle};
use crate::group::{GroupFile, GroupSlot};
use crate::spapr::{self, Areas};
use crate::turns::Turns;
use crate::type1;

/// How many mappings a container can have unless told otherwise.
const MAPPING_LIMIT: u32 = 65_535;

/// What every container needs to know.
pub(crate) struct Shared<P: Platform> {
    pub(crate) platform: Arc<P>,
    pub(crate) unsafe_interrupts: AtomicBool,
    pub(crate) mapping_limit: AtomicU32,
    /// Whether a group with windows was ever registered, and whether one without.
    windows: AtomicBool,
    others: AtomicBool,
    /// Memory that processes have registered.
    pub(crate) areas: Turns<P, Areas>,
    /// What hardware has not confirmed that it has forgotten, of containers that are gone.
    kept: Turns<P, Vec<Kept<P>>>,
}

impl<P: Platform> Shared<P> {
    /// Whether there is hardware with windows, and whether there is other; other, as long as there is none.
    pub(crate) fn hardware(&self) -> (bool, bool) {
        let windows = self.windows.load(Relaxed);
        (windows, self.others.load(Relaxed) || !windows)
    }

    /// Keeps something for a later try.
    pub(crate) fn keep(&self, kept: Option<Kept<P>>) {
        self.kept.take().extend(kept);
    }

    /// Tries again to be rid of everything that is kept. Answers how many pages are left.
    fn reclaim(&self) -> u64 {
        let mut kept = self.kept.take();
        *kept = core::mem::take(&mut *kept).into_iter().filter_map(|one| one.reclaim(self)).collect();
        kept.iter().map(Kept::page_count).sum()
    }

    /// Tries that, too, and answers whether a group with windows is still held by what its last user left.
    pub(crate) fn is_held(&self, tables: &str) -> bool {
        self.reclaim();
        self.kept.take().iter().any(|kept| matches!(kept, Kept::Spapr(kept) if kept.holds(tables)))
    }
}

/// What a container left behind.
pub(crate) enum Kept<P: Platform> {
    Type1(type1::Kept<P>),
    Spapr(Box<spapr::Kept>),
}

impl<P: Platform> From<spapr::Kept> for Kept<P> {
    fn from(kept: spapr::Kept) -> Self {
        Self::Spapr(Box::new(kept))
    }
}

impl<P: Platform> Kept<P> {
    fn reclaim(self, shared: &Shared<P>) -> Option<Self> {
        match self {
            Self::Type1(kept) => kept.reclaim().map(Self::Type1),
            Self::Spapr(kept) => kept.reclaim(shared).map(Self::from),
        }
    }

    fn page_count(&self) -> u64 {
        match self {
            Self::Type1(kept) => kept.page_count(),
            Self::Spapr(kept) => kept.page_count(),
        }
    }
}

/// Devices for user space.
pub struct Vfio<P: Platform> {
    shared: Arc<Shared<P>>,
    groups: Arc<Groups<P>>,
}

/// By number.
type Groups<P> = Lock<P, BTreeMap<u32, Arc<GroupSlot<P>>>>;

impl<P: Platform> fmt::Debug for Vfio<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vfio").field("groups", &self.groups()).finish_non_exhaustive()
    }
}

impl<P: Platform> Vfio<P> {
    /// With no groups yet.
    pub fn new(platform: Arc<P>) -> Self {
        let shared = Shared {
            areas: Turns::new(platform.clone(), Areas::default()),
            kept: Turns::new(platform.clone(), Vec::new()),
            platform,
            windows: AtomicBool::new(false),
            others: AtomicBool::new(false),
            unsafe_interrupts: AtomicBool::new(false),
            mapping_limit: AtomicU32::new(MAPPING_LIMIT),
        };
        Self { shared: Arc::new(shared), groups: Arc::new(Lock::<P, _>::new(BTreeMap::new())) }
    }

    /// Whether users may have devices that can forge others' interrupts (`allow_unsafe_interrupts`). At first they may not. Holds for
    /// groups that are attached from now on.
    pub fn allow_unsafe_interrupts(&self, allow: bool) {
        self.shared.unsafe_interrupts.store(allow, Relaxed);
    }

    /// How many mappings a container can have (`dma_entry_limit`), for containers whose IOMMU is set from now on; 65,535 at first.
    pub fn set_mapping_limit(&self, limit: u32) {
        self.shared.mapping_limit.store(limit, Relaxed);
    }

    /// For a VFIO driver's probe: users can have this device from now on, until what is answered is dropped.
    ///
    /// # Errors
    ///
    /// EEXIST: a device of this name is registered in the group.
    pub fn register(&self, place: &Place<P>, device: Arc<dyn VfioDevice<P>>) -> Result<Registered<P>, Errno> {
        // Before the locks, so that it is let go after them if it is not taken in.
        let slot = Arc::new(DeviceSlot::new(self.shared.platform.clone(), place.device.clone(), device));
        let mut groups = self.groups.lock();
        let id = place.group.id();
        let group = groups.entry(id).or_insert_with(|| Arc::new(GroupSlot::new(place.group.clone()))).clone();
        let mut devices = group.devices.lock();
        if devices.iter().any(|held| held.name() == slot.name()) {
            return Err(Errno::Eexist);
        }
        devices.push(slot.clone());
        drop(devices);
        drop(groups);
        let has = spapr::table_group(&place.group).is_some();
        (if has { &self.shared.windows } else { &self.shared.others }).store(true, Relaxed);
        Ok(Registered { groups: self.groups.clone(), group, slot })
    }

    /// The numbers of the groups that can be opened, open ones included.
    pub fn groups(&self) -> Vec<u32> {
        self.groups.lock().keys().copied().collect()
    }

    /// Whether a user has the group open: for who would rather not take its devices from him. False if there is no such group.
    pub fn is_open(&self, id: u32) -> bool {
        self.groups.lock().get(&id).is_some_and(|group| group.is_open())
    }

    /// `open(path)`: `/dev/vfio/vfio` is a new container, `/dev/vfio/7` the group with this number.
    ///
    /// # Errors
    ///
    /// ENOENT: there is no such file. EBUSY: the group is open, which it can be once.
    pub fn open(&self, path: &str) -> Result<File<P>, Errno> {
        match path.strip_prefix("/dev/vfio/") {
            Some("vfio") => Ok(self.open_container()),
            Some(number) => self.open_group(group_number(number).ok_or(Errno::Enoent)?),
            None => Err(Errno::Enoent),
        }
    }

    /// A new container.
    pub fn open_container(&self) -> File<P> {
        File::Container(ContainerHandle(Arc::new(Container::new(self.shared.clone()))))
    }

    /// Opens a group.
    ///
    /// # Errors
    ///
    /// ENOENT: there is no such group. EBUSY: it is open.
    pub fn open_group(&self, id: u32) -> Result<File<P>, Errno> {
        let slot = self.groups.lock().get(&id).cloned().ok_or(Errno::Enoent)?;
        Ok(File::Group(GroupHandle(Arc::new(GroupFile::open(self.shared.clone(), slot)?))))
    }

    /// Tries again to have hardware forget what containers that are gone had mapped, and lets those pages go of which it confirms it; and to give groups
    /// with windows back to the platform. Answers how many pages are left. For the embedder's timer, or when an IOMMU has been repaired.
    ///
    /// A group that was blocked for this is taken to its default domain when a driver of the kernel next uses it.
    pub fn reclaim(&self) -> u64 {
        self.shared.reclaim()
    }
}

/// A group's number as the name of its file has it: each number has one name.
fn group_number(name: &str) -> Option<u32> {
    let first = name.bytes().next()?;
    let plain = first.is_ascii_digit() && (first != b'0' || name.len() == 1);
    name.parse().ok().filter(|_| plain)
}

/// A device that users can have. Dropped, they can no more: whoever has it open finds it gone, and it is stopped. Registers that were
/// [mapped](crate::File::mmap) into a process are the embedder's to take out before, or when [`Mappings`](crate::pci::Mappings) tells him.
pub struct Registered<P: Platform> {
    groups: Arc<Groups<P>>,
    group: Arc<GroupSlot<P>>,
    slot: Arc<DeviceSlot<P>>,
}

impl<P: Platform> fmt::Debug for Registered<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("device", &self.slot.name()).finish_non_exhaustive()
    }
}

impl<P: Platform> Registered<P> {
    /// Takes the device back if no user has it open: for who unbinds a driver in peace.
    ///
    /// Choice: Linux waits for the user here. To wait is the embedder's.
    ///
    /// # Errors
    ///
    /// A user has it open (EBUSY): it stays registered.
    pub fn unregister(self) -> Result<(), Self> {
        if self.slot.retire_unless_open() { Ok(()) } else { Err(self) }
    }

    /// Whether a user has it open.
    pub fn is_open(&self) -> bool {
        self.slot.is_open()
    }
}

impl<P: Platform> Drop for Registered<P> {
    fn drop(&mut self) {
        let mut groups = self.groups.lock();
        let mut devices = self.group.devices.lock();
        devices.retain(|held| !Arc::ptr_eq(held, &self.slot));
        let id = self.group.group.id();
        if devices.is_empty() && groups.get(&id).is_some_and(|held| Arc::ptr_eq(held, &self.group)) {
            groups.remove(&id);
        }
        drop(devices);
        drop(groups);
        self.slot.retire();
    }
}
