//! The program: a driver in user space that makes its own DMA windows.
//!
//! It has the queues of the disk in one window and the data in another, with pages of different sizes, and memory of its own that it registered. The disk itself
//! it drives as the program of `vfio` does (`drive`).

use super::super::vfio::program::drive::{Drive, PIECE_BYTES, Told, not_open};
use super::super::vfio::program::nvme::{CONTROL_BYTES, IN_FLIGHT, Shared};
use super::super::vfio::program::sys::{Errno, Failed, Sys};
use super::super::vfio::program::uapi::{SPAPR_TCE, SPAPR_TCE_V2};
use super::uapi::{Info, Shape, eeh};
use crate::vfio::Instructions;

/// Memory for queues and data, in the CPU's pages.
const SMALL_BYTES: u64 = CONTROL_BYTES + PIECE_BYTES * IN_FLIGHT as u64;
/// Huge pages are of so many bytes, as log2. There is one for queues and one for data.
const HUGE_SHIFT: u32 = 24;
const HUGE: u64 = 1 << HUGE_SHIFT;
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
    kind: u64,
    container: u64,
    groups: Vec<u64>,
    info: Info,
    cpu_page: u64,
    /// Small pages, and huge ones: where, and how much.
    small: (u64, u64),
    huge: (u64, u64),
    data: [Shared; IN_FLIGHT],
    /// What is mapped for the disk: addresses and lengths.
    mapped: Vec<(u64, u64)>,
    drive: Option<Drive>,
    /// Windows that were made.
    pub(super) windows: u64,
}

/// That an answer is this error.
pub(super) fn wanted<T: core::fmt::Debug>(
    what: &str,
    answer: Result<T, Errno>,
    errno: Errno,
) -> Result<(), Failed> {
    match answer {
        Err(other) if other == errno => Ok(()),
        other => Err(Failed(format!("{what} is answered {other:?}, and {errno:?} was to come"))),
    }
}

impl<'a> Program<'a> {
    /// Opens a container, and puts the group into it.
    pub(super) fn join(cpu: &'a dyn Instructions, group: u32, kind: u64) -> Result<Self, Failed> {
        let sys = Sys::new(cpu)?;
        let container = sys.open_container(kind)?;
        let nowhere = Shared { va: 0, iova: 0 };
        let mut program = Self {
            sys,
            kind,
            container,
            groups: Vec::new(),
            info: Info::default(),
            cpu_page: 0,
            small: (0, 0),
            huge: (0, 0),
            data: [nowhere; IN_FLIGHT],
            mapped: Vec::new(),
            drive: None,
            windows: 0,
        };
        program.add(group)?;
        Ok(program)
    }

    /// Puts one more group into the container.
    pub(super) fn add(&mut self, group: u32) -> Result<(), Failed> {
        self.groups.push(self.sys.take_group(group, self.container)?);
        Ok(())
    }

    /// For another group of a container of version 1: that it does not join.
    pub(super) fn must_not_add(&mut self, group: u32) -> Result<(), Failed> {
        let path = format!("/dev/vfio/{group}");
        let group = self.sys.open(&path)?.map_err(|errno| errno.on(&format!("opening {path}")))?;
        wanted("a second group", self.sys.set_container(group, self.container)?, Errno::EBUSY)?;
        self.sys.close(group).map_err(|errno| errno.on("closing a group"))
    }

    /// Lets go the group that came last.
    pub(super) fn drop_last(&mut self) -> Result<(), Failed> {
        let group = self.groups.pop().ok_or(Failed("there is no group".into()))?;
        self.sys.unset_container(group).map_err(|errno| errno.on("letting a group go"))?;
        self.sys.close(group).map_err(|errno| errno.on("closing a group"))
    }

    /// Gives the container its IOMMU, and asks what windows there can be.
    pub(super) fn set_iommu(&mut self) -> Result<Info, Failed> {
        self.sys.set_iommu(self.container, self.kind).map_err(|errno| errno.on("setting the IOMMU"))?;
        self.info = self.sys.window_info(self.container)?;
        let as_many = match self.kind {
            SPAPR_TCE => self.info.flags == 0,
            _ => self.info.flags & 1 != 0 && self.info.windows == 2,
        };
        if !as_many || self.info.first_32 != 0 {
            return Err(Failed(format!("windows cannot be made as they should be: {:?}", self.info)));
        }
        Ok(self.info)
    }

    /// Maps the program's memory, on a CPU with such pages.
    fn take_memory(&mut self, cpu_page: u64) -> Result<(), Failed> {
        let on = |errno: Errno| errno.on("memory");
        wanted("huge pages that there are not", self.sys.map_huge(HUGE, HUGE_SHIFT + 1), Errno::EINVAL)?;
        self.cpu_page = cpu_page;
        self.small = (self.sys.map_memory(SMALL_BYTES).map_err(on)?, SMALL_BYTES);
        self.huge = (self.sys.map_huge(2 * HUGE, HUGE_SHIFT).map_err(on)?, 2 * HUGE);
        Ok(())
    }

    /// Registers the program's memory; before, tries what must not be. Answers how many tries were refused.
    pub(super) fn register(&mut self, cpu_page: u64) -> Result<u64, Failed> {
        self.take_memory(cpu_page)?;
        let Self { sys, container, small: (memory, len), .. } = self;
        let (container, memory, len) = (*container, *memory, *len);
        wanted(
            "mapping what is not registered",
            sys.map_dma(container, memory, 0, CONTROL_BYTES)?,
            Errno::EPERM,
        )?;
        wanted("version 1's call", sys.enable_v1(container), ENOTTY)?;
        wanted("registering nothing", sys.register(container, memory, 0)?, Errno::EINVAL)?;
        wanted("registering from within a page", sys.register(container, memory + 8, len)?, Errno::EINVAL)?;
        wanted("registering what is not there", sys.register(container, 0, CONTROL_BYTES)?, Errno::EFAULT)?;
        for (memory, len) in [self.small, self.huge] {
            sys.register(container, memory, len)?.map_err(|errno| errno.on("registering memory"))?;
            wanted("registering again", sys.register(container, memory, len)?, Errno::EBUSY)?;
        }
        // The default window was not made yet: it is cancelled.
        sys.remove(container, 0)?.map_err(|errno| errno.on("cancelling the default window"))?;
        wanted("mapping without a window", sys.map_dma(container, memory, 0, CONTROL_BYTES)?, ENXIO)?;
        wanted("removing what is not there", sys.remove(container, 0)?, Errno::EINVAL)?;
        Ok(9)
    }

    /// Memory in pieces of `page` bytes: small pages if they are large enough.
    fn memory(&self, page: u64) -> (u64, u64) {
        if page > self.cpu_page { self.huge } else { self.small }
    }

    /// Memory in pages that are smaller than a window's: that it is not mapped there, though it is registered.
    pub(super) fn must_not_map_small(&self, iova: u64, page: u64) -> Result<(), Failed> {
        let on = |errno: Errno| errno.on("memory in small pages");
        let (sys, container) = (&self.sys, self.container);
        let all = sys.map_memory(2 * page).map_err(on)?;
        let memory = all.next_multiple_of(page);
        // Whatever the order in which the kernel hands pages out, these do not follow each other.
        for at in [1, 0, 2] {
            sys.store(memory + at * self.cpu_page, &[1])?;
        }
        sys.register(container, memory, page)?.map_err(on)?;
        let answer = sys.map_dma(container, memory, iova, page)?;
        wanted("mapping small pages as a large one", answer, Errno::EINVAL)?;
        sys.unregister(container, memory, page)?.map_err(on)?;
        sys.unmap(all, 2 * page).map_err(on)
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

    /// Maps one page of the program's memory at `iova`, as large as the window's, and writes `mark` into it.
    pub(super) fn map_marked(&self, iova: u64, page: u64, mark: u8) -> Result<Result<(), Errno>, Failed> {
        let (memory, _) = self.memory(page);
        self.sys.store(memory, &[mark; 16])?;
        self.sys.map_dma(self.container, memory, iova, page)
    }

    /// Stores into what [`map_marked`](Self::map_marked) maps, `offset` bytes from its beginning.
    pub(super) fn put(&self, page: u64, offset: u64, bytes: &[u8]) -> Result<(), Failed> {
        let (memory, _) = self.memory(page);
        self.sys.store(memory + offset, bytes)?;
        self.sys.barrier();
        Ok(())
    }

    /// Loads from there.
    pub(super) fn get32(&self, page: u64, offset: u64) -> Result<u32, Failed> {
        let (memory, _) = self.memory(page);
        self.sys.barrier();
        self.sys.load32(memory + offset)
    }

    pub(super) fn unmap(&self, iova: u64, len: u64) -> Result<(), Failed> {
        self.sys.unmap_tce(self.container, iova, len)?.map_err(|errno| errno.on("unmapping"))
    }

    /// The state of the container's endpoints.
    pub(super) fn state(&self) -> Result<u64, Failed> {
        self.sys.eeh(self.container, eeh::GET_STATE)?.map_err(|errno| errno.on("an endpoint's state"))
    }

    /// Begins to reset them. False where that cannot be done (EINVAL): nothing leads to these endpoints and to no other.
    pub(super) fn reset(&self, op: u32) -> Result<bool, Failed> {
        match self.sys.eeh(self.container, op)? {
            Ok(_) => Ok(true),
            Err(errno) if errno == Errno::EINVAL => Ok(false),
            Err(errno) => Err(errno.on("resetting an endpoint")),
        }
    }

    /// Has something done with them.
    pub(super) fn eeh(&self, op: u32) -> Result<(), Failed> {
        let done = self.sys.eeh(self.container, op)?;
        done.map(drop).map_err(|errno| errno.on(&format!("operation {op} on an endpoint")))
    }

    /// Has an error made in what a device or a CPU does.
    pub(super) fn inject(&self, function: u32, address: u64, mask: u64) -> Result<(), Failed> {
        let made = self.sys.inject(self.container, function, address, mask)?;
        made.map(drop).map_err(|errno| errno.on("having an error made"))
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
        let (queue_page, data_page, end) =
            (1 << queues.page_shift, 1 << data.page_shift, second + data.bytes);
        let control = self.lay_out((first, queue_page), (end, data_page))?;
        let (sys, container) = (&self.sys, self.container);
        let ((queues, _), (memory, len)) = (self.memory(queue_page), self.memory(data_page));
        let beyond = sys.map_dma(container, memory, end - data_page, 2 * data_page)?;
        wanted("mapping across a window's end", beyond, Errno::EINVAL)?;
        wanted("mapping outside", sys.map_dma(container, queues, end, queue_page)?, ENXIO)?;
        let gone = sys.unregister(container, memory, len)?;
        wanted("unregistering what is mapped", gone, Errno::EBUSY)?;
        self.open_drive(name, control)?;
        Ok(4)
    }

    /// Maps memory for queues low in the window that begins at `first`, and for data below `end`, each in the window's pages. Answers where the queues are.
    fn lay_out(
        &mut self,
        (first, queue_page): (u64, u64),
        (end, data_page): (u64, u64),
    ) -> Result<Shared, Failed> {
        let control_len = CONTROL_BYTES.next_multiple_of(queue_page);
        let control = Shared { va: self.memory(queue_page).0, iova: first + control_len };
        // What completions of an earlier reading left must not be taken for new ones.
        self.sys.store(control.va, &vec![0; usize::try_from(CONTROL_BYTES).unwrap_or(0)])?;
        self.map(control, control_len)?;
        let (base, len) = self.memory(data_page);
        let base = if len == SMALL_BYTES { base + CONTROL_BYTES } else { base + HUGE };
        // As many pieces lie in one mapping as a page holds.
        let unit = PIECE_BYTES.max(data_page);
        for slot in 0..IN_FLIGHT {
            let at = slot as u64 * PIECE_BYTES;
            let (number, inside) = (at / unit, at % unit);
            let iova = end - (number + 1) * unit;
            if inside == 0 {
                self.map(Shared { va: base + at, iova }, unit)?;
            }
            self.data[slot] = Shared { va: base + at, iova: iova + inside };
        }
        Ok(control)
    }

    fn open_drive(&mut self, name: &str, control: Shared) -> Result<(), Failed> {
        self.drive = Some(Drive::open(&self.sys, self.groups[0], name, control, true)?);
        Ok(())
    }

    fn map(&mut self, at: Shared, len: u64) -> Result<(), Failed> {
        let mapped = self.sys.map_dma(self.container, at.va, at.iova, len)?;
        mapped.map_err(|errno| errno.on(&format!("mapping {len} bytes at {:#x}", at.iova)))?;
        self.mapped.push((at.iova, len));
        Ok(())
    }

    // --- version 1 ----------------------------------------------------------------------------------------------------------

    /// Pays for the default window.
    pub(super) fn enable(&self) -> Result<u64, Errno> {
        self.sys.enable_v1(self.container)
    }

    /// Takes everything out of the default window, and pays for it no more. The second time does nothing.
    pub(super) fn disable(&self) -> Result<(), Failed> {
        let disable = || self.sys.disable_v1(self.container);
        disable().and_then(|_| disable()).map_err(|errno| errno.on("disabling the container"))?;
        let (memory, _) = self.small;
        let again = self.sys.map_dma(self.container, memory, 0, CONTROL_BYTES)?;
        wanted("mapping in a container that was disabled", again, Errno::EPERM)
    }

    /// What must not be before the container is enabled, and enables it. Answers how many tries were refused.
    pub(super) fn try_forbidden_v1(&mut self) -> Result<u64, Failed> {
        let memory = self.sys.map_memory(SMALL_BYTES).map_err(|errno| errno.on("memory"))?;
        self.small = (memory, SMALL_BYTES);
        let (sys, container, len) = (&self.sys, self.container, SMALL_BYTES);
        let early = sys.map_dma(container, memory, 0, CONTROL_BYTES)?;
        wanted("mapping before anything is paid for", early, Errno::EPERM)?;
        wanted("registering with version 1", sys.register(container, memory, len)?, ENOTTY)?;
        let shape = Shape { page_shift: 16, bytes: WINDOW_BYTES, levels: 1 };
        wanted("a window with version 1", sys.create(container, shape)?, ENOTTY)?;
        wanted("removing a window with version 1", sys.remove(container, 0)?, ENOTTY)?;
        sys.enable_v1(container).map_err(|errno| errno.on("enabling the container"))?;
        wanted("enabling it again", sys.enable_v1(container), Errno::EBUSY)?;
        Ok(5)
    }

    /// Maps memory in the default window, which has such pages, and brings the disk up. Answers how many tries were refused meanwhile.
    pub(super) fn start_v1(&mut self, name: &str, page: u64) -> Result<u64, Failed> {
        // Small pages do for the window's.
        self.cpu_page = page;
        let (first, end) =
            (u64::from(self.info.first_32), u64::from(self.info.first_32) + u64::from(self.info.bytes_32));
        let control = self.lay_out((first, page), (end, page))?;
        let (memory, _) = self.small;
        let beyond = self.sys.map_dma(self.container, memory, end - page, 2 * page)?;
        wanted("mapping across the window's end", beyond, Errno::EINVAL)?;
        wanted("mapping outside", self.sys.map_dma(self.container, memory, end, page)?, ENXIO)?;
        self.open_drive(name, control)?;
        Ok(2)
    }

    // --- reading ------------------------------------------------------------------------------------------------------------

    /// Has the disk read what comes next, as far as there is room. Nothing is waited for.
    pub(super) fn submit(&mut self, done: u64, total: u64) -> Result<(), Failed> {
        let Self { drive, sys, data, .. } = self;
        drive.as_mut().ok_or_else(not_open)?.submit(sys, done, total, data)
    }

    /// Has the disk read what comes next, and takes it. Answers how many bytes are done.
    pub(super) fn read_on(&mut self, done: u64, total: u64) -> Result<u64, Failed> {
        self.submit(done, total)?;
        let Self { drive, sys, data, .. } = self;
        drive.as_mut().ok_or_else(not_open)?.collect(sys, data)
    }

    /// Stops the disk, and takes the mappings and, if they were made, the windows away.
    pub(super) fn stop(&mut self) -> Result<Told, Failed> {
        let mut drive = self.drive.take().ok_or_else(not_open)?;
        let told = drive.stop(&self.sys)?;
        drive.close(&self.sys)?;
        core::mem::take(&mut self.mapped).into_iter().try_for_each(|(iova, len)| self.unmap(iova, len))?;
        if self.kind == SPAPR_TCE_V2 {
            self.remove(SECOND)?;
            self.remove(0)?;
        }
        Ok(told)
    }

    /// Unregisters the memory, lets the groups go, and closes the rest.
    pub(super) fn leave(mut self) -> Result<(), Failed> {
        if self.kind == SPAPR_TCE_V2 {
            for (memory, len) in [self.small, self.huge] {
                let gone = self.sys.unregister(self.container, memory, len)?;
                gone.map_err(|errno| errno.on("unregistering"))?;
            }
        }
        while !self.groups.is_empty() {
            self.drop_last()?;
        }
        self.sys.close(self.container).map_err(|errno| errno.on("closing the container"))
    }
}
