//! What a process has open.

use alloc::sync::Arc;
use core::fmt;

use portcullis_hal::Platform;
use portcullis_types::PaRange;

use crate::Errno;
use crate::container::Container;
use crate::device::DeviceFile;
use crate::group::GroupFile;
use crate::user::Caller;

/// An open file of VFIO's. Cloned, it is the same open file under another number; dropped for the last time, it is closed.
pub enum File<P: Platform> {
    /// A container: `/dev/vfio/vfio`.
    Container(ContainerHandle<P>),
    /// A group: `/dev/vfio/7`.
    Group(GroupHandle<P>),
    /// A device, opened from its group.
    Device(DeviceHandle<P>),
}

/// An open container.
pub struct ContainerHandle<P: Platform>(pub(crate) Arc<Container<P>>);
/// An open group.
pub struct GroupHandle<P: Platform>(pub(crate) Arc<GroupFile<P>>);
/// An open device.
pub struct DeviceHandle<P: Platform>(pub(crate) Arc<DeviceFile<P>>);

impl<P: Platform> Clone for File<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Container(handle) => Self::Container(ContainerHandle(handle.0.clone())),
            Self::Group(handle) => Self::Group(GroupHandle(handle.0.clone())),
            Self::Device(handle) => Self::Device(DeviceHandle(handle.0.clone())),
        }
    }
}

impl<P: Platform> fmt::Debug for File<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container(_) => "Container",
            Self::Group(_) => "Group",
            Self::Device(_) => "Device",
        })
    }
}

impl<P: Platform> File<P> {
    /// `ioctl(file, request, arg)`.
    ///
    /// # Errors
    ///
    /// As the request says; then nothing has changed.
    pub fn ioctl(&self, caller: &dyn Caller<P>, request: u32, arg: u64) -> Result<u64, Errno> {
        match self {
            Self::Container(ContainerHandle(container)) => container.ioctl(caller, request, arg),
            Self::Group(GroupHandle(group)) => GroupFile::ioctl(group, caller, request, arg),
            Self::Device(DeviceHandle(device)) => device.ioctl(caller, request, arg),
        }
    }

    /// `pread(file, at, len_bytes, offset)`: reads registers or configuration space of a device into the process's memory at `at`. Answers how
    /// many bytes.
    ///
    /// # Errors
    ///
    /// EINVAL if the file is not a device, or there is nothing to read; EFAULT; EIO if the device does not answer.
    pub fn read(&self, caller: &dyn Caller<P>, at: u64, len_bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.device()?.read(caller, at, len_bytes, offset)
    }

    /// `pwrite(file, at, len_bytes, offset)`: writes registers or configuration space of a device.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn write(&self, caller: &dyn Caller<P>, at: u64, len_bytes: u64, offset: u64) -> Result<u64, Errno> {
        self.device()?.write(caller, at, len_bytes, offset)
    }

    /// `mmap(len_bytes, file, offset)`: where the CPU finds registers of a device, for the embedder to map into the process. The embedder
    /// takes them out again when the file is closed: the mapping holds a clone of the file. While the device is reset they answer nobody, and on some machines a CPU that reads
    /// there is stopped: of a PCI function's resets whoever maps is told by [`Mappings`](crate::pci::Mappings).
    ///
    /// # Errors
    ///
    /// EINVAL if this is not for mapping.
    pub fn mmap(&self, caller: &dyn Caller<P>, len_bytes: u64, offset: u64) -> Result<PaRange, Errno> {
        self.device()?.mmap(caller, len_bytes, offset)
    }

    fn device(&self) -> Result<&DeviceFile<P>, Errno> {
        match self {
            Self::Device(DeviceHandle(device)) => Ok(device),
            Self::Container(_) | Self::Group(_) => Err(Errno::Einval),
        }
    }
}
