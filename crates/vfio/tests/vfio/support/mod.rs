//! A machine with IOMMUs, groups with disks, and processes.

mod function;
mod iommu;
#[path = "../../../../core/tests/core/support/lock.rs"]
mod lock;
mod machine;
mod process;
mod spapr;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use function::{BAR_BYTES, BAR_PA, Controller, DOORBELL, Disk, TABLE, VECTORS};
pub(crate) use iommu::{Call, FakeIommu, Hardware};
pub(crate) use lock::locks_held;
pub(crate) use machine::Machine;
use portcullis_core::bus::Place;
use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::domain::FlushMode;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::{RegionSource, ReservedKind, ReservedRegion};
use portcullis_core::unit::IommuUnit;
use portcullis_types::{Iova, IovaRange, PageSizes, Perms, Prot, SourceId};
use portcullis_vfio::pci::{PciDevice, PciParts};
use portcullis_vfio::{Errno, Registered, Vfio};
pub(crate) use process::{Ask, Event, NOWHERE, PAGE, Process, SCRATCH};
pub(crate) use spapr::{power, power_alone};
pub(crate) use windows::{FakeTable, FakeTableGroup, Offer};

pub(crate) const READ: u32 = 1;
pub(crate) const WRITE: u32 = 2;
/// Where a process's buffers are, and their memory.
pub(crate) const BUFFER: u64 = 0x7f00_0000_0000;
pub(crate) const RAM: u64 = 0x4_0000_0000;

pub(crate) fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

pub(crate) fn region(first: u64, last: u64, kind: ReservedKind) -> ReservedRegion {
    let (range, prot) = (range(first, last), Prot::cached(Perms::READ_WRITE));
    ReservedRegion { range, kind, prot, source: RegionSource::Iommu }
}

/// Bytes of words of 32 bits, lowest first.
pub(crate) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The two halves of a number, as words.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// Bytes of words, then of numbers of 64 bits.
pub(crate) fn structure(words: &[u32], numbers: &[u64]) -> Vec<u8> {
    let numbers: Vec<u32> = numbers.iter().flat_map(|&number| halves(number)).collect();
    bytes(&[words, &numbers].concat())
}

pub(crate) struct World {
    pub(crate) machine: Arc<Machine>,
    pub(crate) hardware: Arc<Hardware>,
    pub(crate) vfio: Arc<Vfio<Machine>>,
    pub(crate) iommu: Arc<FakeIommu>,
    unit: IommuUnit<Machine>,
    pub(crate) groups: BTreeMap<u32, Arc<Group<Machine>>>,
    pub(crate) devices: Vec<Arc<Device<Machine>>>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) controller: Arc<Controller>,
    pub(crate) registered: Vec<Registered<Machine>>,
}

/// An IOMMU with 48 bits, and group 7 with the disk 0000:00:01.0, source 1, which its VFIO driver has registered.
pub(crate) fn world() -> World {
    world_with(range(0, (1 << 48) - 1), PageSizes::from_bits(0x4020_1000), |_| ())
}

pub(crate) fn world_with(
    aperture: IovaRange,
    sizes: PageSizes,
    change: impl FnOnce(&mut DeviceInfo),
) -> World {
    let mut world = bare(aperture, sizes);
    world.add(7, 1, change).unwrap();
    world
}

/// An IOMMU, and no groups.
pub(crate) fn bare(aperture: IovaRange, sizes: PageSizes) -> World {
    let (machine, hardware) = (Arc::new(Machine::default()), Arc::<Hardware>::default());
    let iommu = FakeIommu::new(&hardware, "iommu0", aperture, sizes);
    iommu.regions.lock().unwrap().push(region(0x800_0000, 0x80f_ffff, ReservedKind::SoftwareMsi));
    let unit = IommuUnit::new(machine.clone(), iommu.clone());
    World {
        vfio: Arc::new(Vfio::new(machine.clone())),
        machine,
        hardware,
        iommu,
        unit,
        groups: BTreeMap::new(),
        devices: Vec::new(),
        disk: Disk::new(true),
        controller: Arc::default(),
        registered: Vec::new(),
    }
}

impl World {
    /// From now on, groups are made behind another IOMMU.
    pub(crate) fn next_iommu(&mut self, name: &str, aperture: IovaRange, sizes: PageSizes) {
        self.iommu = FakeIommu::new(&self.hardware, name, aperture, sizes);
        self.unit = IommuUnit::new(self.machine.clone(), self.iommu.clone());
    }

    /// A device of a group, which is made if it is not there, and registered.
    pub(crate) fn add(
        &mut self,
        group: u32,
        source: u32,
        change: impl FnOnce(&mut DeviceInfo),
    ) -> Result<(), Errno> {
        let device = self.device(group, source, change);
        let (function, services) = self.disk.enumerated();
        let function = self.function(&device, function).keeping(services);
        let place = Place { device, group: self.groups[&group].clone() };
        self.registered.push(self.vfio.register(&place, Arc::new(function))?);
        Ok(())
    }

    /// The disk as a function for users, of which enumeration says this.
    pub(crate) fn function(
        &self,
        device: &Arc<Device<Machine>>,
        function: portcullis_pci::Function,
    ) -> PciDevice<Machine> {
        let parts = PciParts {
            device: device.clone(),
            function,
            config: self.disk.clone(),
            bars: [Some(self.disk.clone()), None, None, None, None, None],
            interrupts: self.controller.clone(),
        };
        PciDevice::new(self.machine.clone(), parts).unwrap()
    }

    /// A device of a group that no VFIO driver drives.
    pub(crate) fn device(
        &mut self,
        group: u32,
        source: u32,
        change: impl FnOnce(&mut DeviceInfo),
    ) -> Arc<Device<Machine>> {
        let (machine, iommu) = (self.machine.clone(), self.iommu.clone());
        let group = self.groups.entry(group).or_insert_with(|| {
            let default = DefaultDomain::Dma(FlushMode::Strict);
            Arc::new(Group::new(machine, iommu, group, default).unwrap())
        });
        let mut info = DeviceInfo::new(&format!("0000:00:{source:02x}.0"), &[SourceId(source)]);
        info.pci = true;
        info.isolated_interrupts = true;
        change(&mut info);
        let device = self.unit.add_device(info).unwrap();
        group.add_device(&device).unwrap();
        self.devices.push(device.clone());
        device
    }

    pub(crate) fn process(&self) -> Process {
        Process::new(&self.vfio, &self.hardware)
    }

    /// A process with a container, and group 7 in it, as type 1 of this version (1 or 3). Answers it with both files.
    pub(crate) fn user(&self, version: u64) -> (Process, i32, i32) {
        let process = self.process();
        let (container, group) = process.join(7).unwrap();
        process.ioctl(container, 0x3b66, version).unwrap();
        (process, container, group)
    }

    /// The same, and the device open.
    pub(crate) fn driver(&self) -> (Process, i32, i32) {
        let (process, container, group) = self.user(3);
        let device = process.device(group, "0000:00:01.0").unwrap();
        (process, container, device)
    }
}

impl Process {
    /// A new container, and a group in it.
    pub(crate) fn join(&self, number: u32) -> Result<(i32, i32), Errno> {
        let container = self.open("/dev/vfio/vfio").unwrap();
        Ok((container, self.join_to(container, number)?))
    }

    /// A group in a container.
    pub(crate) fn join_to(&self, container: i32, number: u32) -> Result<i32, Errno> {
        let group = self.open(&format!("/dev/vfio/{number}"))?;
        self.set_container(group, container).inspect_err(|_| self.close(group)).map(|()| group)
    }

    pub(crate) fn set_container(&self, group: i32, container: i32) -> Result<(), Errno> {
        self.ioctl_with(group, 0x3b68, &container.to_le_bytes()).map(drop)
    }

    pub(crate) fn device(&self, group: i32, name: &str) -> Result<i32, Errno> {
        let at = self.put(format!("{name}\0").as_bytes());
        self.ioctl(group, 0x3b6a, at).map(|fd| fd as i32)
    }

    pub(crate) fn map(
        &self,
        container: i32,
        iova: u64,
        vaddr: u64,
        size: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        let request = structure(&[32, flags], &[vaddr, iova, size]);
        let after = self.ioctl_with(container, 0x3b71, &request)?;
        assert_eq!(after, request, "nothing is answered");
        Ok(())
    }

    pub(crate) fn unmap(&self, container: i32, iova: u64, size: u64) -> Result<u64, Errno> {
        let after = self.ioctl_with(container, 0x3b72, &structure(&[24, 0], &[iova, size]))?;
        Ok(double(&after, 16))
    }

    pub(crate) fn unmap_all(&self, container: i32) -> Result<u64, Errno> {
        let after = self.ioctl_with(container, 0x3b72, &structure(&[24, 2], &[0, 0]))?;
        Ok(double(&after, 16))
    }

    /// Memory for `pages` pages at [`BUFFER`], in one run from [`RAM`].
    pub(crate) fn buffer(&self, pages: u64) {
        self.memory.populate(BUFFER, RAM, pages * PAGE, true);
    }

    /// Valid ranges, as the process is told.
    pub(crate) fn ranges(&self, container: i32) -> Vec<(u64, u64)> {
        let mut request = bytes(&[1024]);
        request.resize(1024, 0);
        let info = self.ioctl_with(container, 0x3b70, &request).unwrap();
        let mut at = word(&info, 16) as usize;
        loop {
            let (id, next) = (word(&info, at) & 0xffff, word(&info, at + 4) as usize);
            if id == 1 {
                let count = word(&info, at + 8) as usize;
                let one = |index: usize| at + 16 + 16 * index;
                return (0..count)
                    .map(|index| (double(&info, one(index)), double(&info, one(index) + 8)))
                    .collect();
            }
            assert!(next > at, "the chain ends with the ranges");
            at = next;
        }
    }
}
