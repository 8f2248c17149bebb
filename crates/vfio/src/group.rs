//! Groups, as a user sees them: put into a container, and asked for devices.
//!
//! A group's file is open once. Devices that are opened from it hold it open.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::group::Group;
use portcullis_core::owner::Owner;
use portcullis_hal::{Lock, Platform};
use portcullis_spec::vfio::{
    GROUP_GET_DEVICE_FD, GROUP_GET_STATUS, GROUP_SET_CONTAINER, GROUP_UNSET_CONTAINER, GroupStatus,
    GroupStatusFlags,
};
use portcullis_types::mutant;
use portcullis_types::trace::Value;

use crate::Errno;
use crate::container::{Container, Member};
use crate::device::{DeviceFile, DeviceSlot};
use crate::file::{ContainerHandle, DeviceHandle, File};
use crate::registry::Shared;
use crate::trace::say;
use crate::turns::Turns;
use crate::user::{Caller, Fd, UserMemory, read};

/// A name has fewer bytes, its end included.
const NAME_BYTES: usize = 4096;
/// A name is read in pieces of this size at most, so that no byte is asked for beyond the page in which it ends.
const PIECE_BYTES: usize = 64;

/// A group of which devices are registered.
pub(crate) struct GroupSlot<P: Platform> {
    pub(crate) group: Arc<Group<P>>,
    pub(crate) devices: Lock<P, Vec<Arc<DeviceSlot<P>>>>,
    open: AtomicBool,
}

impl<P: Platform> GroupSlot<P> {
    pub(crate) fn new(group: Arc<Group<P>>) -> Self {
        Self { group, devices: Lock::<P, _>::new(Vec::new()), open: AtomicBool::new(false) }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// That a device of it is registered still: the group's file may have been opened before the last was taken back.
    fn has_devices(&self) -> Result<(), Errno> {
        if self.devices.lock().is_empty() { Err(Errno::Enodev) } else { Ok(()) }
    }

    fn device(&self, name: &str) -> Option<Arc<DeviceSlot<P>>> {
        self.devices.lock().iter().find(|device| device.name() == name).cloned()
    }
}

/// A group's open file.
pub(crate) struct GroupFile<P: Platform> {
    shared: Arc<Shared<P>>,
    slot: Arc<GroupSlot<P>>,
    state: Turns<P, State<P>>,
}

struct State<P: Platform> {
    container: Option<Arc<Container<P>>>,
    /// How many files of devices are open.
    devices: usize,
}

impl<P: Platform> GroupFile<P> {
    /// Opens a group that nobody has open.
    pub(crate) fn open(shared: Arc<Shared<P>>, slot: Arc<GroupSlot<P>>) -> Result<Self, Errno> {
        if slot.open.swap(true, Ordering::Acquire) && !mutant!("group-open-for-two") {
            return Err(Errno::Ebusy);
        }
        let state = Turns::new(shared.platform.clone(), State { container: None, devices: 0 });
        Ok(Self { shared, slot, state })
    }

    /// Who the user of this group is: the group's slot lives for as long as he holds it.
    fn owner(&self) -> Owner {
        Owner::of(&self.slot)
    }

    pub(crate) fn ioctl(
        this: &Arc<Self>,
        caller: &dyn Caller<P>,
        request: u32,
        arg: u64,
    ) -> Result<u64, Errno> {
        match request {
            GROUP_GET_STATUS => this.get_status(&**caller.memory(), arg),
            GROUP_SET_CONTAINER => this.set_container(caller, arg),
            GROUP_UNSET_CONTAINER => this.unset_container(),
            GROUP_GET_DEVICE_FD => Self::get_device_fd(this, caller, arg),
            _ => Err(Errno::Enotty),
        }
    }

    fn get_status(&self, memory: &dyn UserMemory, arg: u64) -> Result<u64, Errno> {
        let mut status = GroupStatus::from_bytes(&read(memory, arg)?);
        if (status.argsz as usize) < GroupStatus::BYTES {
            return Err(Errno::Einval);
        }
        self.slot.has_devices()?;
        status.flags = if self.state.take().container.is_some() {
            GroupStatusFlags::VIABLE | GroupStatusFlags::CONTAINER_SET
        } else if self.slot.group.ownership().count == 0 {
            GroupStatusFlags::VIABLE
        } else {
            0
        };
        memory.copy_out(arg, &status.to_bytes())?;
        Ok(0)
    }

    fn set_container(&self, caller: &dyn Caller<P>, arg: u64) -> Result<u64, Errno> {
        let fd = i32::from_ne_bytes(read(&**caller.memory(), arg)?);
        // Dropped after the turn: it may be the last one, if another thread closes the file meanwhile.
        let file = caller.fd(fd).ok_or(Errno::Ebadf)?;
        let mut state = self.state.take();
        if state.container.is_some() {
            return Err(Errno::Einval);
        }
        self.slot.has_devices()?;
        let Fd::Vfio(File::Container(ContainerHandle(container))) = &file else {
            return Err(Errno::Ebadfd);
        };
        let joined = container.join(Member::new(self.slot.group.clone(), self.owner()));
        self.say("vfio_set_container", if joined.is_ok() { "ok" } else { "refused" });
        joined?;
        state.container = Some(container.clone());
        Ok(0)
    }

    fn unset_container(&self) -> Result<u64, Errno> {
        let mut state = self.state.take();
        if state.container.is_none() {
            return Err(Errno::Einval);
        }
        if state.devices > 0 && !mutant!("group-leaves-under-its-open-devices") {
            return Err(Errno::Ebusy);
        }
        self.leave(&mut state);
        Ok(0)
    }

    fn leave(&self, state: &mut State<P>) {
        if let Some(container) = state.container.take() {
            container.leave(self.owner());
            self.say("vfio_unset_container", "ok");
        }
    }

    fn get_device_fd(this: &Arc<Self>, caller: &dyn Caller<P>, arg: u64) -> Result<u64, Errno> {
        let name = read_name(&**caller.memory(), arg)?;
        let device = this.slot.device(&name).ok_or(Errno::Enodev)?;
        let mut state = this.state.take();
        let container = state.container.as_ref().ok_or(Errno::Einval)?;
        container.may_open(&this.slot.group, device.device())?;
        let opened = DeviceSlot::open(&device);
        state.devices += usize::from(opened.is_ok());
        drop(state);
        opened?;
        let file = DeviceFile::new(device, this.clone());
        let fd = caller.install(File::Device(DeviceHandle(Arc::new(file))))?;
        u64::try_from(fd).map_err(|_| Errno::Emfile)
    }

    /// A device's file is closed, and the device has been.
    pub(crate) fn device_closed(&self) {
        self.state.take().devices -= 1;
    }

    fn say(&self, name: &'static str, result: &'static str) {
        let group = Value::Dec(self.slot.group.id().into());
        say(&*self.shared.platform, name, &[("group", group), ("result", Value::Str(result))]);
    }
}

impl<P: Platform> Drop for GroupFile<P> {
    fn drop(&mut self) {
        self.leave(&mut self.state.take());
        self.slot.open.store(false, Ordering::Release);
    }
}

/// A name that ends with a zero byte. What is not UTF-8 is no device's name.
fn read_name(memory: &dyn UserMemory, at: u64) -> Result<String, Errno> {
    let mut name = Vec::new();
    let mut next = at;
    while name.len() < NAME_BYTES {
        let mut piece = [0; PIECE_BYTES];
        let beyond = next % (PIECE_BYTES as u64);
        let room = PIECE_BYTES - usize::try_from(beyond).expect("below the size of a piece");
        let piece = &mut piece[..room];
        memory.copy_in(next, piece)?;
        if let Some(end) = piece.iter().position(|&byte| byte == 0) {
            name.extend_from_slice(&piece[..end]);
            return String::from_utf8(name).map_err(|_| Errno::Enodev);
        }
        name.extend_from_slice(piece);
        next = next.checked_add(room as u64).ok_or(Errno::Efault)?;
    }
    Err(Errno::Einval)
}
