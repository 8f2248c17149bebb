//! VFIO's system calls: request numbers, and the structures that go through user memory.
//!
//! A request is a number that is issued on an open file: on a container, on a group, on a device. The same number can mean different
//! things on different files, so it is always a pair of [`On`] and number that says what is meant; [`REQUESTS`] lists all.
//!
//! A structure is read from and written to memory with `from_bytes` and `to_bytes`, in the byte order of the CPU. Each begins with
//! `argsz`, how many bytes the caller has room for, and `flags`. Where answers can grow, they are followed by a chain of
//! capabilities ([`Capability`]).
//!
//! Observed: Linux 7.3, include/uapi/linux/vfio.h, whose comments are the interface's documentation.
//! Not here: what a request does (`portcullis-vfio`).

#[macro_use]
mod layout;

mod device;
mod group;
#[cfg(test)]
mod layout_tests;
pub mod pci;
mod spapr;
mod type1;

pub use device::{
    DeviceInfo, DeviceInfoFlags, IrqInfo, IrqInfoFlags, IrqSet, IrqSetFlags, RegionInfo, RegionInfoFlags,
    SparseArea, SparseMmap,
};
pub use group::{GroupStatus, GroupStatusFlags};
pub use spapr::{CreateWindow, EehPeOp, RegisterMemory, RemoveWindow, SpaprInfo, SpaprInfoFlags, eeh_op};
pub use type1::{
    AvailableDma, Bitmap, DirtyPages, DirtyPagesFlags, DirtyRange, IommuInfo, IommuInfoFlags, IovaArea,
    IovaRanges, MapDma, MapDmaFlags, Migration, UnmapDma, UnmapDmaFlags,
};

/// The version of the interface.
pub const API_VERSION: u64 = 0;

/// `_IO(';', number)`: no direction, no size.
const fn io(number: u32) -> u32 {
    (b';' as u32) << 8 | number
}

/// Answers [`API_VERSION`].
pub const GET_API_VERSION: u32 = io(0x64);
/// Asks whether an [`extension`] is there. The argument is its number.
pub const CHECK_EXTENSION: u32 = io(0x65);
/// Gives a container an IOMMU. The argument is the number of its [`extension`].
pub const SET_IOMMU: u32 = io(0x66);
/// Asks whether a group can be used: [`GroupStatus`].
pub const GROUP_GET_STATUS: u32 = io(0x67);
/// Puts a group into a container. The argument points to the container's file, a 32-bit number.
pub const GROUP_SET_CONTAINER: u32 = io(0x68);
/// Takes a group out of its container.
pub const GROUP_UNSET_CONTAINER: u32 = io(0x69);
/// Opens a device. The argument points to its name, ended by a zero byte. Answers the device's file.
pub const GROUP_GET_DEVICE_FD: u32 = io(0x6a);
/// What a device is: [`DeviceInfo`].
pub const DEVICE_GET_INFO: u32 = io(0x6b);
/// Where a region of a device is: [`RegionInfo`].
pub const DEVICE_GET_REGION_INFO: u32 = io(0x6c);
/// How many interrupts of a kind a device has: [`IrqInfo`].
pub const DEVICE_GET_IRQ_INFO: u32 = io(0x6d);
/// What becomes of a device's interrupts: [`IrqSet`] and data.
pub const DEVICE_SET_IRQS: u32 = io(0x6e);
/// Resets a device.
pub const DEVICE_RESET: u32 = io(0x6f);
/// On a container of type 1: what can be mapped: [`IommuInfo`].
pub const IOMMU_GET_INFO: u32 = io(0x70);
/// On a container of type 1: maps user memory: [`MapDma`].
pub const IOMMU_MAP_DMA: u32 = io(0x71);
/// On a container of type 1: takes mappings away: [`UnmapDma`].
pub const IOMMU_UNMAP_DMA: u32 = io(0x72);
/// On a container of spapr_tce, version 1: lets devices in.
pub const IOMMU_ENABLE: u32 = io(0x73);
/// On a container of spapr_tce, version 1: keeps devices out.
pub const IOMMU_DISABLE: u32 = io(0x74);
/// On a container of type 1: which pages devices have written: [`DirtyPages`].
pub const IOMMU_DIRTY_PAGES: u32 = io(0x75);

/// On a container of spapr_tce: which windows there are: [`SpaprInfo`].
pub const SPAPR_TCE_GET_INFO: u32 = io(0x70);
/// On a container of spapr_tce, version 2: memory may be mapped from now on: [`RegisterMemory`].
pub const SPAPR_REGISTER_MEMORY: u32 = io(0x75);
/// On a container of spapr_tce, version 2: memory may be mapped no more: [`RegisterMemory`].
pub const SPAPR_UNREGISTER_MEMORY: u32 = io(0x76);
/// On a container of spapr_tce, version 2: makes a window: [`CreateWindow`].
pub const SPAPR_TCE_CREATE: u32 = io(0x77);
/// On a container of spapr_tce, version 2: removes a window: [`RemoveWindow`].
pub const SPAPR_TCE_REMOVE: u32 = io(0x78);
/// On a container of spapr_tce: what to do with PEs that freeze: [`EehPeOp`].
pub const EEH_PE_OP: u32 = io(0x79);

/// What a container can do, by number; some are IOMMUs for [`SET_IOMMU`].
pub mod extension {
    /// Type 1, whose unmaps may cut mappings.
    pub const TYPE1: u64 = 1;
    /// POWER's TCE tables.
    pub const SPAPR_TCE: u64 = 2;
    /// Type 1, whose unmaps may not.
    pub const TYPE1_V2: u64 = 3;
    /// The IOMMU makes all accesses coherent.
    pub const DMA_CC: u64 = 4;
    /// Error handling of POWER.
    pub const EEH: u64 = 5;
    /// POWER's TCE tables, with windows that come and go.
    pub const SPAPR_TCE_V2: u64 = 7;
    /// [`UnmapDmaFlags::ALL`](super::UnmapDmaFlags::ALL).
    pub const UNMAP_ALL: u64 = 9;
}

/// On which kind of file a request is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum On {
    /// A container, whatever its IOMMU.
    Container,
    /// A group.
    Group,
    /// A device.
    Device,
    /// A container whose IOMMU is type 1.
    Type1,
    /// A container whose IOMMU is spapr_tce, of either version.
    Spapr,
}

/// Every request, by file and number, with its name.
pub const REQUESTS: &[(On, u32, &str)] = &[
    (On::Container, GET_API_VERSION, "GET_API_VERSION"),
    (On::Container, CHECK_EXTENSION, "CHECK_EXTENSION"),
    (On::Container, SET_IOMMU, "SET_IOMMU"),
    (On::Group, GROUP_GET_STATUS, "GROUP_GET_STATUS"),
    (On::Group, GROUP_SET_CONTAINER, "GROUP_SET_CONTAINER"),
    (On::Group, GROUP_UNSET_CONTAINER, "GROUP_UNSET_CONTAINER"),
    (On::Group, GROUP_GET_DEVICE_FD, "GROUP_GET_DEVICE_FD"),
    (On::Device, DEVICE_GET_INFO, "DEVICE_GET_INFO"),
    (On::Device, DEVICE_GET_REGION_INFO, "DEVICE_GET_REGION_INFO"),
    (On::Device, DEVICE_GET_IRQ_INFO, "DEVICE_GET_IRQ_INFO"),
    (On::Device, DEVICE_SET_IRQS, "DEVICE_SET_IRQS"),
    (On::Device, DEVICE_RESET, "DEVICE_RESET"),
    (On::Type1, IOMMU_GET_INFO, "IOMMU_GET_INFO"),
    (On::Type1, IOMMU_MAP_DMA, "IOMMU_MAP_DMA"),
    (On::Type1, IOMMU_UNMAP_DMA, "IOMMU_UNMAP_DMA"),
    (On::Type1, IOMMU_DIRTY_PAGES, "IOMMU_DIRTY_PAGES"),
    (On::Spapr, SPAPR_TCE_GET_INFO, "SPAPR_TCE_GET_INFO"),
    (On::Spapr, IOMMU_MAP_DMA, "SPAPR_MAP_DMA"),
    (On::Spapr, IOMMU_UNMAP_DMA, "SPAPR_UNMAP_DMA"),
    (On::Spapr, IOMMU_ENABLE, "IOMMU_ENABLE"),
    (On::Spapr, IOMMU_DISABLE, "IOMMU_DISABLE"),
    (On::Spapr, SPAPR_REGISTER_MEMORY, "SPAPR_REGISTER_MEMORY"),
    (On::Spapr, SPAPR_UNREGISTER_MEMORY, "SPAPR_UNREGISTER_MEMORY"),
    (On::Spapr, SPAPR_TCE_CREATE, "SPAPR_TCE_CREATE"),
    (On::Spapr, SPAPR_TCE_REMOVE, "SPAPR_TCE_REMOVE"),
    (On::Spapr, EEH_PE_OP, "EEH_PE_OP"),
];

layout! {
    /// The head of a capability in a chain. What follows it depends on the id, and ids are each structure's own.
    pub struct Capability: 8 {
        /// Which capability.
        id: u16 @ 0,
        /// The version of its layout.
        version: u16 @ 2,
        /// Where the next one begins, in bytes from the beginning of the structure that the chain follows; 0 ends the chain.
        next: u32 @ 4,
    }
}
