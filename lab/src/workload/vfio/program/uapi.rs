//! VFIO as a program sees it: request numbers and bytes, typed from the header by hand, so that a layout that the kernel's side has wrong shows.
//!
//! Observed: Linux 7.3, include/uapi/linux/vfio.h.

use super::sys::{Errno, Failed, Sys};

const GET_API_VERSION: u64 = 0x3b64;
const CHECK_EXTENSION: u64 = 0x3b65;
const SET_IOMMU: u64 = 0x3b66;
const GROUP_GET_STATUS: u64 = 0x3b67;
const GROUP_SET_CONTAINER: u64 = 0x3b68;
const GROUP_UNSET_CONTAINER: u64 = 0x3b69;
const GROUP_GET_DEVICE_FD: u64 = 0x3b6a;
const DEVICE_GET_INFO: u64 = 0x3b6b;
const DEVICE_GET_REGION_INFO: u64 = 0x3b6c;
const DEVICE_GET_IRQ_INFO: u64 = 0x3b6d;
const DEVICE_SET_IRQS: u64 = 0x3b6e;
const DEVICE_RESET: u64 = 0x3b6f;
const IOMMU_GET_INFO: u64 = 0x3b70;
const IOMMU_MAP_DMA: u64 = 0x3b71;
const IOMMU_UNMAP_DMA: u64 = 0x3b72;

/// The kinds of containers.
pub(in crate::workload) const TYPE1V2: u64 = 3;
pub(in crate::workload) const SPAPR_TCE: u64 = 2;
pub(in crate::workload) const SPAPR_TCE_V2: u64 = 7;
const DMA_CC: u64 = 4;
const MAP_READ_WRITE: u32 = 3;
const UNMAP_ALL: u32 = 2;
const MSIX: u32 = 2;
const CONFIG: u32 = 7;
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 0b110;

/// What the IOMMU of a container can map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::workload) struct IommuInfo {
    /// Bits of page sizes.
    pub(in crate::workload) page_sizes: u64,
    /// First to last.
    pub(in crate::workload) ranges: Vec<(u64, u64)>,
    /// How many more mappings there can be.
    pub(in crate::workload) available: u32,
}

/// A region of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::workload) struct Region {
    pub(in crate::workload) size: u64,
    /// Where it is in the device's file.
    pub(in crate::workload) offset: u64,
    /// Which parts can be mapped: where they begin, and how long they are.
    pub(in crate::workload) areas: Vec<(u64, u64)>,
}

pub(in crate::workload) fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(in crate::workload) fn request(head: &[u32], rest: &[u64]) -> Vec<u8> {
    let mut bytes = words32(head);
    bytes.extend(rest.iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

pub(in crate::workload) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes(four.try_into().unwrap_or([0; 4])))
}

pub(in crate::workload) fn double(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| u64::from_ne_bytes(eight.try_into().unwrap_or([0; 8])))
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The capabilities of a chain: id, and where its body begins.
fn chain(bytes: &[u8], first: u32) -> Result<Vec<(u16, usize)>, Failed> {
    let (mut found, mut at) = (Vec::new(), index(first));
    while at != 0 {
        if at % 8 != 0 || at + 8 > bytes.len() || found.len() > 16 {
            return Err(Failed(format!("a capability is said to be at {at}")));
        }
        found.push((word(bytes, at).to_ne_bytes()[..2].try_into().map_or(0, u16::from_ne_bytes), at + 8));
        at = index(word(bytes, at + 4));
    }
    Ok(found)
}

impl Sys<'_> {
    // --- containers and groups --------------------------------------------------------------------------------------------------

    /// Opens a container, and sees that it can be of this kind.
    pub(in crate::workload) fn open_container(&self, kind: u64) -> Result<u64, Failed> {
        let fd = self.open("/dev/vfio/vfio")?.map_err(|errno| errno.on("opening /dev/vfio/vfio"))?;
        match self.ioctl(fd, GET_API_VERSION, 0) {
            Ok(0) => {}
            other => return Err(Failed(format!("the interface's version is {other:?}"))),
        }
        match self.ioctl(fd, CHECK_EXTENSION, kind) {
            Ok(1) => Ok(fd),
            other => Err(Failed(format!("containers of kind {kind}: {other:?}"))),
        }
    }

    /// Whether nobody stands in a user's way.
    pub(in crate::workload) fn is_viable(&self, group: u64) -> Result<bool, Failed> {
        let mut status = words32(&[8, 0]);
        self.ask(group, GROUP_GET_STATUS, &mut status)?.map_err(|errno| errno.on("the group's status"))?;
        Ok(word(&status, 4) & 1 != 0)
    }

    pub(in crate::workload) fn set_container(
        &self,
        group: u64,
        container: u64,
    ) -> Result<Result<u64, Errno>, Failed> {
        let number = u32::try_from(container).map_err(|_| Failed("no number of a file".into()))?;
        self.ask(group, GROUP_SET_CONTAINER, &mut number.to_ne_bytes())
    }

    /// Opens a group that nobody stands in the way of, and puts it into a container. Answers the group's file.
    pub(in crate::workload) fn take_group(&self, number: u32, container: u64) -> Result<u64, Failed> {
        let path = format!("/dev/vfio/{number}");
        let group = self.open(&path)?.map_err(|errno| errno.on(&format!("opening {path}")))?;
        if !self.is_viable(group)? {
            return Err(Failed(format!("{path} is in use by the kernel")));
        }
        self.set_container(group, container)?.map_err(|errno| errno.on("taking the group"))?;
        Ok(group)
    }

    pub(in crate::workload) fn unset_container(&self, group: u64) -> Result<(), Errno> {
        self.ioctl(group, GROUP_UNSET_CONTAINER, 0).map(drop)
    }

    pub(in crate::workload) fn set_iommu(&self, container: u64, kind: u64) -> Result<(), Errno> {
        self.ioctl(container, SET_IOMMU, kind).map(drop)
    }

    /// Whether devices of the container snoop caches.
    pub(in crate::workload) fn is_coherent(&self, container: u64) -> Result<bool, Errno> {
        self.ioctl(container, CHECK_EXTENSION, DMA_CC).map(|answer| answer == 1)
    }

    // --- type 1, and mapping of every kind -----------------------------------------------------------------------------------------------------------------

    /// What can be mapped: asked twice, first to learn how long the answer is.
    pub(in crate::workload) fn iommu_info(&self, container: u64) -> Result<IommuInfo, Failed> {
        let mut short = words32(&[24, 0, 0, 0, 0, 0]);
        let on = |errno: Errno| errno.on("what can be mapped");
        self.ask(container, IOMMU_GET_INFO, &mut short)?.map_err(on)?;
        let (needed, offset) = (word(&short, 0), word(&short, 16));
        if word(&short, 4) != 3 || needed <= 24 || offset != 0 {
            return Err(Failed(format!("a short answer says {needed} bytes, capabilities at {offset}")));
        }
        let mut bytes = words32(&[needed]);
        bytes.resize(index(needed), 0);
        self.ask(container, IOMMU_GET_INFO, &mut bytes)?.map_err(on)?;
        let mut info = IommuInfo { page_sizes: double(&bytes, 8), ..IommuInfo::default() };
        for (id, at) in chain(&bytes, word(&bytes, 16))? {
            match id {
                1 => {
                    let pair = |n: usize| (double(&bytes, at + 8 + 16 * n), double(&bytes, at + 16 + 16 * n));
                    info.ranges = (0..index(word(&bytes, at))).map(pair).collect();
                }
                3 => info.available = word(&bytes, at),
                _ => {}
            }
        }
        if info.ranges.is_empty() || info.page_sizes == 0 {
            return Err(Failed("nothing can be mapped".into()));
        }
        Ok(info)
    }

    /// Maps with these flags.
    pub(in crate::workload) fn map_dma_as(
        &self,
        container: u64,
        flags: u32,
        va: u64,
        iova: u64,
        len: u64,
    ) -> Result<Result<(), Errno>, Failed> {
        let mut bytes = request(&[32, flags], &[va, iova, len]);
        Ok(self.ask(container, IOMMU_MAP_DMA, &mut bytes)?.map(drop))
    }

    /// Maps for reading and writing.
    pub(in crate::workload) fn map_dma(
        &self,
        container: u64,
        va: u64,
        iova: u64,
        len: u64,
    ) -> Result<Result<(), Errno>, Failed> {
        self.map_dma_as(container, MAP_READ_WRITE, va, iova, len)
    }

    /// Takes a mapping away: all of it, and nothing else.
    pub(in crate::workload) fn unmap_dma(&self, container: u64, iova: u64, len: u64) -> Result<(), Failed> {
        let mut bytes = request(&[24, 0], &[iova, len]);
        self.ask(container, IOMMU_UNMAP_DMA, &mut bytes)?.map_err(|errno| errno.on("unmapping"))?;
        match double(&bytes, 16) {
            done if done == len => Ok(()),
            done => Err(Failed(format!("{done} bytes were unmapped at {iova:#x}, and {len} were mapped"))),
        }
    }

    /// Takes everything away. Answers how many bytes that was.
    pub(in crate::workload) fn unmap_all(&self, container: u64) -> Result<u64, Failed> {
        let mut bytes = request(&[24, UNMAP_ALL], &[0, 0]);
        self.ask(container, IOMMU_UNMAP_DMA, &mut bytes)?.map_err(|errno| errno.on("unmapping all"))?;
        Ok(double(&bytes, 16))
    }

    // --- devices ----------------------------------------------------------------------------------------------------------------

    pub(in crate::workload) fn open_device(&self, group: u64, name: &str) -> Result<u64, Failed> {
        let mut bytes = format!("{name}\0").into_bytes();
        let opened = self.ask(group, GROUP_GET_DEVICE_FD, &mut bytes)?;
        opened.map_err(|errno| errno.on(&format!("opening device {name}")))
    }

    /// Resets the device, if it can be. It has to be a PCI function.
    pub(in crate::workload) fn reset_device(&self, device: u64) -> Result<(), Failed> {
        let mut bytes = words32(&[24, 0, 0, 0, 0, 0]);
        self.ask(device, DEVICE_GET_INFO, &mut bytes)?.map_err(|errno| errno.on("what the device is"))?;
        let flags = word(&bytes, 4);
        if flags & 2 == 0 || word(&bytes, 8) <= CONFIG || word(&bytes, 12) <= MSIX {
            return Err(Failed(format!("the device is no PCI function with MSI-X (flags {flags:#x})")));
        }
        if flags & 1 != 0 {
            self.ioctl(device, DEVICE_RESET, 0).map_err(|errno| errno.on("resetting the device"))?;
        }
        Ok(())
    }

    pub(in crate::workload) fn region(&self, device: u64, number: u32) -> Result<Region, Failed> {
        let on = |errno: Errno| errno.on("where a region is");
        let mut bytes = request(&[32, 0, number, 0], &[0, 0]);
        self.ask(device, DEVICE_GET_REGION_INFO, &mut bytes)?.map_err(on)?;
        let needed = word(&bytes, 0);
        if needed > 32 {
            bytes.resize(index(needed), 0);
            self.ask(device, DEVICE_GET_REGION_INFO, &mut bytes)?.map_err(on)?;
        }
        let (flags, size) = (word(&bytes, 4), double(&bytes, 16));
        let mut areas = if flags & 4 != 0 { vec![(0, size)] } else { Vec::new() };
        if flags & 8 != 0 {
            for (id, at) in chain(&bytes, word(&bytes, 12))?.into_iter().filter(|(id, _)| *id == 1) {
                let _ = id;
                let pair = |n: usize| (double(&bytes, at + 8 + 16 * n), double(&bytes, at + 16 + 16 * n));
                areas = (0..index(word(&bytes, at))).map(pair).collect();
            }
        }
        Ok(Region { size, offset: double(&bytes, 24), areas })
    }

    /// From now on MSI-X vectors from 0 on signal these event files.
    pub(in crate::workload) fn set_msix(&self, device: u64, events: &[u64]) -> Result<(), Failed> {
        let mut info = words32(&[16, 0, MSIX, 0]);
        self.ask(device, DEVICE_GET_IRQ_INFO, &mut info)?.map_err(|errno| errno.on("how many interrupts"))?;
        let count = word(&info, 12);
        if word(&info, 4) & 1 == 0 || index(count) < events.len() {
            return Err(Failed(format!("the device has {count} MSI-X vectors for event files")));
        }
        let numbers = events.iter().map(|&fd| u32::try_from(fd).unwrap_or(u32::MAX));
        let used = u32::try_from(events.len()).unwrap_or(u32::MAX);
        // An event file for each, signalled when it comes.
        let mut words = vec![20 + 4 * used, 0b10_0100, MSIX, 0, used];
        words.extend(numbers);
        let set = self.ask(device, DEVICE_SET_IRQS, &mut words32(&words))?;
        set.map(drop).map_err(|errno| errno.on("interrupts to event files"))
    }

    /// No vector signals anything from now on.
    pub(in crate::workload) fn no_msix(&self, device: u64) -> Result<(), Failed> {
        // No data, a count of 0.
        let set = self.ask(device, DEVICE_SET_IRQS, &mut words32(&[20, 0b10_0001, MSIX, 0, 0]))?;
        set.map(drop).map_err(|errno| errno.on("taking interrupts out of use"))
    }

    /// Lets the device send requests.
    pub(in crate::workload) fn enable_bus_master(&self, device: u64) -> Result<(), Failed> {
        let config = self.region(device, CONFIG)?;
        let mut command = [0; 2];
        self.read_file(device, config.offset + COMMAND, &mut command)?;
        let value = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
        self.write_file(device, config.offset + COMMAND, &value.to_le_bytes())
    }
}
