//! The program: a driver in user space that reads a disk.
//!
//! It runs in a process, and all that it has is a CPU's [`Instructions`]. It knows neither kernel nor models; it is told a group's number, a
//! device's name and how many bytes to read, as a program is by its arguments, and tells what came of it.
//!
//! It goes in steps so that whoever watches can look in between: [`join`](Program::join), [`set_iommu`](Program::set_iommu),
//! [`try_forbidden`](Program::try_forbidden), [`start`](Program::start), [`submit`](Program::submit) and [`collect`](Program::collect) in turns,
//! [`stop`](Program::stop), [`leave`](Program::leave).
//!
//! | file | what |
//! |---|---|
//! | `sys` | system calls, memory |
//! | `uapi` | VFIO by numbers and bytes |
//! | `nvme` | the disk |
//! | `drive` | the disk through VFIO: opened, read, closed |
//!
//! # Addresses
//!
//! It maps queues low and data high in what the kernel says can be mapped. A buffer moves to an address of its own after each round, from the
//! very last one downwards, so that many addresses are used, left, and never used again.

pub(in crate::workload) mod drive;
pub(in crate::workload) mod nvme;
pub(in crate::workload) mod sys;
pub(in crate::workload) mod uapi;

use crate::vfio::Instructions;
pub(super) use drive::Told;
use drive::{Drive, PIECE_BYTES, not_open};
use nvme::{CONTROL_BYTES, IN_FLIGHT, Shared};
pub(super) use sys::Failed;
use sys::{Errno, Sys};
use uapi::{IommuInfo, TYPE1V2};

/// The lowest address that is used.
const LOWEST: u64 = 0x1_0000;
/// A program that runs.
pub(super) struct Program<'a> {
    sys: Sys<'a>,
    container: u64,
    group: u64,
    info: IommuInfo,
    coherent: bool,
    control: Shared,
    data: [Shared; IN_FLIGHT],
    /// How many places for data were used.
    places: u64,
    drive: Option<Drive>,
}

impl<'a> Program<'a> {
    /// Opens a container and the group, and puts the one into the other.
    pub(super) fn join(cpu: &'a dyn Instructions, group: u32) -> Result<Self, Failed> {
        let sys = Sys::new(cpu)?;
        let container = sys.open_container(TYPE1V2)?;
        let group = sys.take_group(group, container)?;
        let nowhere = Shared { va: 0, iova: 0 };
        Ok(Self {
            sys,
            container,
            group,
            info: IommuInfo::default(),
            coherent: true,
            control: nowhere,
            data: [nowhere; IN_FLIGHT],
            places: 0,
            drive: None,
        })
    }

    /// For another user of the same group: that he does not get it.
    pub(super) fn must_not_get(cpu: &dyn Instructions, group: u32) -> Result<(), Failed> {
        let opened = Sys::new(cpu)?.open(&format!("/dev/vfio/{group}"))?;
        match opened {
            Err(Errno::EBUSY) => Ok(()),
            other => Err(Failed(format!("a second user opens the group: {other:?}"))),
        }
    }

    /// For a user of a group that the kernel uses: that he does not get it.
    #[cfg(test)]
    pub(super) fn must_be_refused(cpu: &dyn Instructions, group: u32) -> Result<(), Failed> {
        let sys = Sys::new(cpu)?;
        let container = sys.open_container(TYPE1V2)?;
        let group =
            sys.open(&format!("/dev/vfio/{group}"))?.map_err(|errno| errno.on("opening the group"))?;
        if sys.is_viable(group)? {
            return Err(Failed("a group that the kernel uses is said to be viable".into()));
        }
        match sys.set_container(group, container)? {
            Err(Errno::EPERM) => Ok(()),
            other => Err(Failed(format!("taking a group that the kernel uses: {other:?}"))),
        }
    }

    /// Gives the container its IOMMU, and asks which addresses can be used.
    pub(super) fn set_iommu(&mut self) -> Result<(), Failed> {
        self.sys.set_iommu(self.container, TYPE1V2).map_err(|errno| errno.on("setting the IOMMU"))?;
        self.coherent = self.sys.is_coherent(self.container).map_err(|errno| errno.on("coherence"))?;
        self.info = self.sys.iommu_info(self.container)?;
        Ok(())
    }

    fn page(&self) -> u64 {
        self.info.page_sizes & self.info.page_sizes.wrapping_neg()
    }

    /// Tries to map what must not be mapped. Answers how many tries were refused: all, and each for the right reason.
    pub(super) fn try_forbidden(&self) -> Result<u64, Failed> {
        let page = self.page();
        let on = |errno: Errno| errno.on("memory");
        let memory = self.sys.map_memory(2 * page).map_err(on)?;
        let read_only = self.sys.map_read_only(page).map_err(on)?;
        let &(first, last) = self.info.ranges.first().ok_or(Failed("nothing can be mapped".into()))?;
        let &(_, highest) = self.info.ranges.last().ok_or(Failed("nothing can be mapped".into()))?;
        let good = first.max(LOWEST).next_multiple_of(page);
        let mut tries = vec![
            ("an address that is no page's", 3, memory, good + 1, page, Errno::EINVAL),
            ("memory that begins in a page", 3, memory + 8, good, page, Errno::EINVAL),
            ("an unknown flag", 0x103, memory, good, page, Errno::EINVAL),
            ("neither reading nor writing", 0, memory, good, page, Errno::EINVAL),
            ("nothing", 3, memory, good, 0, Errno::EINVAL),
            ("memory that is not there", 3, 0, good, page, Errno::EFAULT),
            ("memory that may not be written", 2, read_only, good, page, Errno::EFAULT),
        ];
        if last < u64::MAX {
            tries.push(("a page across the end", 3, memory, last + 1 - page, 2 * page, Errno::EINVAL));
            tries.push(("a page that is reserved", 3, memory, last + 1, page, Errno::EINVAL));
        }
        if highest < u64::MAX {
            tries.push(("a page beyond all", 3, memory, highest + 1, page, Errno::EINVAL));
        }
        for &(what, flags, va, iova, len, wanted) in &tries {
            match self.sys.map_dma_as(self.container, flags, va, iova, len)? {
                Err(errno) if errno == wanted => {}
                other => return Err(Failed(format!("mapping {what} is answered {other:?}"))),
            }
        }
        self.sys.map_dma(self.container, memory, good, page)?.map_err(|errno| errno.on("mapping"))?;
        match self.sys.map_dma(self.container, memory + page, good, page)? {
            Err(Errno::EEXIST) => {}
            other => return Err(Failed(format!("mapping what is mapped is answered {other:?}"))),
        }
        self.sys.unmap_dma(self.container, good, page)?;
        let after = self.sys.iommu_info(self.container)?;
        if after != self.info {
            return Err(Failed("what was refused has changed something".into()));
        }
        self.sys.unmap(memory, 2 * page).map_err(on)?;
        self.sys.unmap(read_only, page).map_err(on)?;
        Ok(tries.len() as u64 + 1)
    }

    /// Maps the program's memory for the device, opens the device, and brings the disk up.
    pub(super) fn start(&mut self, name: &str) -> Result<(), Failed> {
        let on = |errno: Errno| errno.on("memory for the device");
        self.control.va = self.sys.map_memory(CONTROL_BYTES).map_err(on)?;
        self.control.iova = self.place_low()?;
        self.map(self.control, CONTROL_BYTES)?;
        for slot in 0..IN_FLIGHT {
            self.data[slot].va = self.sys.map_memory(PIECE_BYTES).map_err(on)?;
            self.data[slot].iova = self.place_high()?;
            self.map(self.data[slot], PIECE_BYTES)?;
        }
        self.drive = Some(Drive::open(&self.sys, self.group, name, self.control, self.coherent)?);
        Ok(())
    }

    fn map(&self, at: Shared, len: u64) -> Result<(), Failed> {
        let mapped = self.sys.map_dma(self.container, at.va, at.iova, len)?;
        mapped.map_err(|errno| errno.on(&format!("mapping {len} bytes at {:#x}", at.iova)))
    }

    /// Where queues go.
    fn place_low(&self) -> Result<u64, Failed> {
        let at = |&(first, _): &(u64, u64)| first.max(LOWEST).checked_next_multiple_of(CONTROL_BYTES);
        let fits = |&(_, last): &(u64, u64), at: u64| {
            at.checked_add(CONTROL_BYTES - 1).is_some_and(|end| end <= last)
        };
        let places = self.info.ranges.iter().filter_map(|range| at(range).filter(|&at| fits(range, at)));
        places.min().ok_or(Failed("no room for queues".into()))
    }

    /// Where the next buffer goes: below the one before, from the last address of all on.
    fn place_high(&mut self) -> Result<u64, Failed> {
        let &(first, last) = self.info.ranges.last().ok_or(Failed("nothing can be mapped".into()))?;
        // The first place may be the queues'.
        let low = first.max(LOWEST) + CONTROL_BYTES;
        let count = (last - low) / PIECE_BYTES;
        if count <= IN_FLIGHT as u64 {
            return Err(Failed("no room for data".into()));
        }
        let number = self.places % count;
        self.places += 1;
        Ok(last - (number + 1) * PIECE_BYTES + 1)
    }

    /// Has the disk read what comes next: as many pieces as there are buffers. Nothing is waited for.
    pub(super) fn submit(&mut self, done: u64, total: u64) -> Result<(), Failed> {
        let Self { drive, sys, data, .. } = self;
        drive.as_mut().ok_or_else(not_open)?.submit(sys, done, total, data)
    }

    /// Waits for what is in flight, takes it, and moves a buffer to another address. Answers how many bytes are done.
    pub(super) fn collect(&mut self) -> Result<u64, Failed> {
        let Self { drive, sys, data, .. } = self;
        let done = drive.as_mut().ok_or_else(not_open)?.collect(sys, data)?;
        let slot = usize::try_from(self.places).unwrap_or(0) % IN_FLIGHT;
        self.sys.unmap_dma(self.container, self.data[slot].iova, PIECE_BYTES)?;
        self.data[slot].iova = self.place_high()?;
        self.map(self.data[slot], PIECE_BYTES)?;
        Ok(done)
    }

    /// Stops the disk, and takes everything back that was mapped for it. It stays open. Answers what came of it.
    pub(super) fn stop(&mut self) -> Result<Told, Failed> {
        let told = self.drive.as_mut().ok_or_else(not_open)?.stop(&self.sys)?;
        self.sys.unmap_dma(self.container, self.control.iova, CONTROL_BYTES)?;
        let rest = self.sys.unmap_all(self.container)?;
        match rest == PIECE_BYTES * IN_FLIGHT as u64 {
            true => Ok(told),
            false => Err(Failed(format!("{rest} bytes were mapped for data"))),
        }
    }

    /// Closes the device, lets the group go, and closes the rest.
    pub(super) fn leave(mut self) -> Result<(), Failed> {
        let on = |errno: Errno| errno.on("closing");
        if let Some(drive) = self.drive.take() {
            drive.close(&self.sys)?;
        }
        self.sys.unset_container(self.group).map_err(|errno| errno.on("letting the group go"))?;
        self.sys.close(self.group).and_then(|()| self.sys.close(self.container)).map_err(on)
    }
}
