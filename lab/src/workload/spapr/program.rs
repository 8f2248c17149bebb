//! The program: a driver in user space that makes its own DMA windows.
//!
//! It has the queues of the disk in one window and the data in another, with pages of different sizes, and memory of its own that it registered. The disk itself
//! it drives as the program of `vfio` does (`drive`).

use super::super::vfio::program::drive::{Drive, PIECE_BYTES, Told, not_open};
use super::super::vfio::program::nvme::{CONTROL_BYTES, IN_FLIGHT, Shared};
use super::super::vfio::program::sys::{Errno, Failed, Sys};
use super::super::vfio::program::uapi::SPAPR_TCE_V2;
use super::uapi::{Info, Shape, eeh};
use crate::vfio::Instructions;

/// All memory that the program registers.
pub(super) const MEMORY_BYTES: u64 = CONTROL_BYTES + PIECE_BYTES * IN_FLIGHT as u64;
/// A window's size.
pub(super) const WINDOW_BYTES: u64 = 1 << 30;
/// Where the second window begins.
pub(super) const SECOND: u64 = 0x0800_0000_0000_0000;

const ENOSPC: Errno = Errno(28);
const ENXIO: Errno = Errno(6);
const ENOTTY: Errno = Errno(25);

/// A program that runs.
pub(super) struct Program<'a> {
    sys: Sys<'a>,
    container: u64,
    groups: Vec<u64>,
    info: Info,
    memory: u64,
    control: Shared,
    data: [Shared; IN_FLIGHT],
    drive: Option<Drive>,
    /// Windows that were made.
    pub(super) windows: u64,
}

fn wanted<T: core::fmt::Debug>(what: &str, answer: Result<T, Errno>, errno: Errno) -> Result<(), Failed> {
    match answer {
        Err(other) if other == errno => Ok(()),
        other => Err(Failed(format!("{what} is answered {other:?}, and {errno:?} was to come"))),
    }
}

impl<'a> Program<'a> {
    /// Opens a container, and puts the group into it.
    pub(super) fn join(cpu: &'a dyn Instructions, group: u32) -> Result<Self, Failed> {
        let sys = Sys::new(cpu)?;
        let container = sys.open_container(SPAPR_TCE_V2)?;
        let nowhere = Shared { va: 0, iova: 0 };
        let mut program = Self {
            sys,
            container,
            groups: Vec::new(),
            info: Info::default(),
            memory: 0,
            control: nowhere,
            data: [nowhere; IN_FLIGHT],
            drive: None,
            windows: 0,
        };
        program.add(group)?;
        Ok(program)
    }

    /// Puts one more group into the container.
    pub(super) fn add(&mut self, group: u32) -> Result<(), Failed> {
        let path = format!("/dev/vfio/{group}");
        let group = self.sys.open(&path)?.map_err(|errno| errno.on(&format!("opening {path}")))?;
        if !self.sys.is_viable(group)? {
            return Err(Failed(format!("{path} is in use by the kernel")));
        }
        self.sys.set_container(group, self.container)?.map_err(|errno| errno.on("taking the group"))?;
        self.groups.push(group);
        Ok(())
    }

    /// Lets go the group that came last.
    pub(super) fn drop_last(&mut self) -> Result<(), Failed> {
        let group = self.groups.pop().ok_or(Failed("there is no group".into()))?;
        self.sys.unset_container(group).map_err(|errno| errno.on("letting a group go"))?;
        self.sys.close(group).map_err(|errno| errno.on("closing a group"))
    }

    /// Gives the container its IOMMU, and asks what windows there can be.
    pub(super) fn set_iommu(&mut self) -> Result<Info, Failed> {
        self.sys.set_iommu(self.container, SPAPR_TCE_V2).map_err(|errno| errno.on("setting the IOMMU"))?;
        self.info = self.sys.window_info(self.container)?;
        if self.info.flags & 1 == 0 || self.info.windows != 2 || self.info.first_32 != 0 {
            return Err(Failed(format!("windows cannot be made: {:?}", self.info)));
        }
        Ok(self.info)
    }

    /// Registers the program's memory; before, tries what must not be. Answers how many tries were refused.
    pub(super) fn register(&mut self) -> Result<u64, Failed> {
        let Self { sys, container, .. } = self;
        let container = *container;
        let memory = sys.map_memory(MEMORY_BYTES).map_err(|errno| errno.on("memory"))?;
        wanted(
            "mapping what is not registered",
            sys.map_tce(container, memory, 0, CONTROL_BYTES)?,
            Errno::EPERM,
        )?;
        wanted("version 1's call", sys.enable_v1(container), ENOTTY)?;
        wanted("registering nothing", sys.register(container, memory, 0)?, Errno::EINVAL)?;
        wanted(
            "registering from within a page",
            sys.register(container, memory + 8, MEMORY_BYTES)?,
            Errno::EINVAL,
        )?;
        wanted("registering what is not there", sys.register(container, 0, CONTROL_BYTES)?, Errno::EFAULT)?;
        sys.register(container, memory, MEMORY_BYTES)?.map_err(|errno| errno.on("registering memory"))?;
        wanted("registering again", sys.register(container, memory, MEMORY_BYTES)?, Errno::EBUSY)?;
        // The default window was not made yet: it is cancelled.
        sys.remove(container, 0)?.map_err(|errno| errno.on("cancelling the default window"))?;
        wanted("mapping without a window", sys.map_tce(container, memory, 0, CONTROL_BYTES)?, ENXIO)?;
        wanted("removing what is not there", sys.remove(container, 0)?, Errno::EINVAL)?;
        self.memory = memory;
        Ok(8)
    }

    /// Makes a window. None if it is refused as no possible one.
    pub(super) fn create(&mut self, shape: Shape) -> Result<Option<u64>, Failed> {
        match self.sys.create(self.container, shape)? {
            Ok(start) => {
                self.windows += 1;
                Ok(Some(start))
            }
            Err(Errno::EINVAL) => Ok(None),
            Err(errno) => Err(errno.on(&format!("making a window of {shape:?}"))),
        }
    }

    pub(super) fn remove(&self, start: u64) -> Result<(), Failed> {
        self.sys.remove(self.container, start)?.map_err(|errno| errno.on("removing a window"))
    }

    /// Maps some of the program's memory at `iova`, from its beginning on, and writes `mark` into it.
    pub(super) fn map_marked(&self, iova: u64, len: u64, mark: u8) -> Result<Result<(), Errno>, Failed> {
        self.sys.store(self.memory, &[mark; 16])?;
        self.sys.map_tce(self.container, self.memory, iova, len)
    }

    pub(super) fn unmap(&self, iova: u64, len: u64) -> Result<(), Failed> {
        self.sys.unmap_tce(self.container, iova, len)?.map_err(|errno| errno.on("unmapping"))
    }

    /// The state of the container's endpoints.
    pub(super) fn state(&self) -> Result<u64, Failed> {
        self.sys.eeh(self.container, eeh::GET_STATE)?.map_err(|errno| errno.on("an endpoint's state"))
    }

    /// Unfreezes them.
    pub(super) fn thaw(&self) -> Result<(), Failed> {
        for op in [eeh::ENABLE, eeh::UNFREEZE_IO, eeh::UNFREEZE_DMA] {
            self.sys.eeh(self.container, op)?.map_err(|errno| errno.on("unfreezing an endpoint"))?;
        }
        Ok(())
    }

    /// Makes two windows, with the disk's queues in the one and data in the other, and brings the disk up. Answers how many tries were refused meanwhile.
    pub(super) fn start(&mut self, name: &str, queues: Shape, data: Shape) -> Result<u64, Failed> {
        let not_made = |shape: Shape| Failed(format!("no window of {shape:?}"));
        let first = self.create(queues)?.ok_or_else(|| not_made(queues))?;
        let second = self.create(data)?.ok_or_else(|| not_made(data))?;
        if (first, second) != (0, SECOND) {
            return Err(Failed(format!("windows begin at {first:#x} and {second:#x}")));
        }
        wanted("a third window", self.sys.create(self.container, data)?, ENOSPC)?;
        self.control = Shared { va: self.memory, iova: first + CONTROL_BYTES };
        self.map(self.control, CONTROL_BYTES)?;
        let end = second + data.bytes;
        for (slot, number) in (0..IN_FLIGHT).zip(1..) {
            let va = self.memory + CONTROL_BYTES + PIECE_BYTES * slot as u64;
            self.data[slot] = Shared { va, iova: end - number * PIECE_BYTES };
            self.map(self.data[slot], PIECE_BYTES)?;
        }
        let beyond = self.sys.map_tce(self.container, self.memory, end - CONTROL_BYTES, 2 * CONTROL_BYTES)?;
        wanted("mapping across a window's end", beyond, Errno::EINVAL)?;
        wanted("mapping outside", self.sys.map_tce(self.container, self.memory, end, CONTROL_BYTES)?, ENXIO)?;
        wanted(
            "unregistering what is mapped",
            self.sys.unregister(self.container, self.memory, MEMORY_BYTES)?,
            Errno::EBUSY,
        )?;
        self.drive = Some(Drive::open(&self.sys, self.groups[0], name, self.control, true)?);
        Ok(4)
    }

    fn map(&self, at: Shared, len: u64) -> Result<(), Failed> {
        let mapped = self.sys.map_tce(self.container, at.va, at.iova, len)?;
        mapped.map_err(|errno| errno.on(&format!("mapping {len} bytes at {:#x}", at.iova)))
    }

    /// Has the disk read what comes next, and takes it. Answers how many bytes are done.
    pub(super) fn read_on(&mut self, done: u64, total: u64) -> Result<u64, Failed> {
        let Self { drive, sys, data, .. } = self;
        let drive = drive.as_mut().ok_or_else(not_open)?;
        drive.submit(sys, done, total, data)?;
        drive.collect(sys, data)
    }

    /// Stops the disk, and takes the mappings and windows away.
    pub(super) fn stop(&mut self) -> Result<Told, Failed> {
        let mut drive = self.drive.take().ok_or_else(not_open)?;
        let told = drive.stop(&self.sys)?;
        drive.close(&self.sys)?;
        self.unmap(self.control.iova, CONTROL_BYTES)?;
        self.data.iter().try_for_each(|data| self.unmap(data.iova, PIECE_BYTES))?;
        self.remove(SECOND)?;
        self.remove(0)?;
        Ok(told)
    }

    /// Unregisters the memory, lets the groups go, and closes the rest.
    pub(super) fn leave(mut self) -> Result<(), Failed> {
        let gone = self.sys.unregister(self.container, self.memory, MEMORY_BYTES)?;
        gone.map_err(|errno| errno.on("unregistering"))?;
        while !self.groups.is_empty() {
            self.drop_last()?;
        }
        self.sys.close(self.container).map_err(|errno| errno.on("closing the container"))
    }
}
