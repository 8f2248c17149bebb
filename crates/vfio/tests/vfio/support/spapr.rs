//! A machine of POWER, and a process's calls to spapr_tce.

use std::sync::Arc;

use portcullis_types::PageSizes;
use portcullis_vfio::Errno;

use super::windows::{FakeTableGroup, Offer};
use super::{Process, World, bare, double, range, structure};

impl World {
    /// A group of one source behind the IOMMU at hand, with windows.
    pub(crate) fn add_windows(&mut self, group: u32, source: u32, tables: &Arc<FakeTableGroup>) {
        self.iommu.window_groups.lock().unwrap().insert(source, tables.clone());
        self.add(group, source, |_| ()).unwrap();
    }

    /// A process with a container, and group 7 in it, as spapr_tce of this version (2 or 7).
    pub(crate) fn tce_user(&self, version: u64) -> (Process, i32, i32) {
        self.user(version)
    }
}

/// Groups 7 and 8 behind one bridge, with sources 1 and 2.
pub(crate) fn power() -> (World, [Arc<FakeTableGroup>; 2]) {
    let (mut world, first) = power_alone(Offer::OnDemand);
    let second = FakeTableGroup::new(&world.hardware, 0, 2, Offer::OnDemand, true);
    world.add_windows(8, 2, &second);
    (world, [first, second])
}

/// Group 7, with source 1, of which the driver offers this.
pub(crate) fn power_alone(offer: Offer) -> (World, Arc<FakeTableGroup>) {
    let mut world = bare(range(0, (1 << 60) - 1), PageSizes::from_bits(0x1101_1000));
    world.iommu.regions.lock().unwrap().clear();
    let group = FakeTableGroup::new(&world.hardware, 0, 1, offer, true);
    world.add_windows(7, 1, &group);
    (world, group)
}

impl Process {
    pub(crate) fn register(&self, container: i32, vaddr: u64, size: u64) -> Result<(), Errno> {
        self.ioctl_with(container, 0x3b75, &structure(&[24, 0], &[vaddr, size])).map(drop)
    }

    pub(crate) fn unregister(&self, container: i32, vaddr: u64, size: u64) -> Result<(), Errno> {
        self.ioctl_with(container, 0x3b76, &structure(&[24, 0], &[vaddr, size])).map(drop)
    }

    /// Answers where the window begins.
    pub(crate) fn create(&self, container: i32, shift: u32, size: u64, levels: u32) -> Result<u64, Errno> {
        let mut request = structure(&[40, 0, shift, 0], &[size]);
        request.extend(structure(&[levels, 0], &[0x5555]));
        self.ioctl_with(container, 0x3b77, &request).map(|answer| double(&answer, 32))
    }

    pub(crate) fn remove(&self, container: i32, start: u64) -> Result<(), Errno> {
        self.ioctl_with(container, 0x3b78, &structure(&[16, 0], &[start])).map(drop)
    }

    /// Unmaps. Nothing is answered.
    pub(crate) fn unmap_tce(&self, container: i32, iova: u64, size: u64) -> Result<(), Errno> {
        let request = structure(&[24, 0], &[iova, size]);
        let after = self.ioctl_with(container, 0x3b72, &request)?;
        assert_eq!(after, request, "nothing is answered");
        Ok(())
    }

    pub(crate) fn enable(&self, container: i32) -> Result<u64, Errno> {
        self.ioctl(container, 0x3b73, 0)
    }

    pub(crate) fn disable(&self, container: i32) -> Result<u64, Errno> {
        self.ioctl(container, 0x3b74, 0)
    }

    /// One of EEH's operations, in 12 bytes.
    pub(crate) fn eeh(&self, container: i32, operation: u32) -> Result<u64, Errno> {
        let at = self.put(&super::bytes(&[12, 0, operation]));
        self.ioctl(container, 0x3b79, at)
    }
}
