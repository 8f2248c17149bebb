//! Portcullis: an IOMMU subsystem. It decides which device may reach which memory.
//!
//! This is the front door. It holds no code of its own; each room keeps its name.
//!
//! | you have | you want | room |
//! |---|---|---|
//! | a kernel, a hypervisor | to describe your machine to Portcullis | [`hal`] |
//! | firmware tables | to know who is behind which IOMMU | [`firmware`] |
//! | a PCIe host bridge | devices, capabilities, groups | [`pci`] |
//! | an SMMUv3 | a driver for it | [`smmuv3`] |
//! | an SMMUv2 or MMU-500 | a driver for it | [`smmuv2`] |
//! | a POWER8 host bridge, PHB3 | a driver for it | [`ioda2`] |
//! | an x86 machine with VT-d | a driver for its remapping units | [`vtd`] |
//! | a device | memory that it can reach, interrupts that arrive | [`core`], above all [`core::dma`] |
//! | a device, and a process | the device to work by the process's own addresses | [`core::sva`], [`core::mm`]; [`accel`] is a driver that does |
//! | a device, and a driver for it in user space | Linux's system calls of VFIO | [`vfio`] |
//! | a machine monitor whose guest has an IOMMU of its own | hardware to walk the guest's table | [`core::nested`], and below |
//! | an NVMe disk | a driver to begin with | [`nvme`] |
//! | an IOMMU that is not here | to write a driver | [`core::iommu`], [`paging`], [`pgtable`], [`spec`] |
//!
//! Addresses, ids and trace events are in [`types`]; who may use which address is decided by [`iova`], which [`core`] uses.
//!
//! The order in which an embedder uses them: implement [`hal::Platform`]; read the firmware tables; probe each IOMMU; enumerate PCI;
//! make a [`core`] device and a group for what is found; give drivers the DMA API.
//!
//! # A guest with an IOMMU of its own
//!
//! A monitor has given its guest a device, and the guest an IOMMU that it emulates. While the guest does not use it the device sends guest-physical addresses; when it
//! does, hardware walks the guest's own table before the monitor's, and the monitor has nothing to shadow ([`core::nested`]).
//!
//! ```
//! use std::sync::Arc;
//!
//! use portcullis::core::domain::Domain;
//! use portcullis::core::group::Group;
//! use portcullis::core::iommu::Gather;
//! use portcullis::core::nested::{GuestInvalidation, GuestTable};
//! use portcullis::core::owner::{Errno, Owner};
//! use portcullis::hal::Platform;
//! use portcullis::types::{Iova, IovaRange, Pa, Perms, Prot};
//!
//! struct Vm<P: Platform> {
//!     owner: Owner,
//!     group: Arc<Group<P>>,
//!     /// Guest-physical to physical: the parent.
//!     memory: Arc<Domain<P>>,
//!     /// The guest's table before it, while the guest translates.
//!     guest: Option<Arc<Domain<P>>>,
//! }
//!
//! impl<P: Platform> Vm<P> {
//!     /// The guest's memory is one run, from guest-physical 0 on.
//!     fn start(owner: Owner, group: Arc<Group<P>>, first: Pa, bytes: u64) -> Result<Self, Errno> {
//!         // What hardware walks is told to the guest by the IOMMU that it sees. Where there is nothing, the monitor has to shadow.
//!         if group.iommu().guest_tables().is_empty() {
//!             return Err(Errno::Einval);
//!         }
//!         group.claim_group(owner).map_err(|error| error.errno())?;
//!         let memory = Domain::new_parent(group.iommu().clone()).map_err(|error| error.errno())?;
//!         let all = Prot::cached(Perms::READ_WRITE);
//!         memory.map(Iova::new(0), first, bytes, all).map_err(|error| error.errno())?;
//!         group.attach_as(owner, &memory).map_err(|error| error.errno())?;
//!         Ok(Self { owner, group, memory, guest: None })
//!     }
//!
//!     /// The guest turns translation on, or to another table.
//!     fn translates(&mut self, table: &GuestTable) -> Result<(), Errno> {
//!         let guest = Domain::new_nested(&self.memory, table).map_err(|error| error.errno())?;
//!         self.group.replace_as(self.owner, &guest).map_err(|error| error.errno())?;
//!         self.guest = Some(guest);
//!         Ok(())
//!     }
//!
//!     /// The guest turns it off.
//!     fn passes(&mut self) -> Result<(), Errno> {
//!         self.group.replace_as(self.owner, &self.memory).map_err(|error| error.errno())?;
//!         self.guest = None;
//!         Ok(())
//!     }
//!
//!     /// The guest has its IOMMU forget a range. Its own wait ends when this returns, and not before.
//!     fn invalidates(&self, range: IovaRange, leaves_only: bool) -> Result<(), Errno> {
//!         let Some(guest) = &self.guest else { return Ok(()) };
//!         guest.invalidate(GuestInvalidation::Range { range, leaves_only }).map_err(|error| error.errno())
//!     }
//!
//!     /// Memory is taken from the guest (a balloon): on return no device reaches it, whatever stands in the guest's table.
//!     fn gives_back(&self, range: IovaRange) -> Result<(), Errno> {
//!         let mut gather = Gather::new();
//!         self.memory.unmap(range, &mut gather).map_err(|error| error.errno())?;
//!         self.memory.sync(&mut gather).map(drop).map_err(|error| error.errno())
//!     }
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub use portcullis_accel as accel;
pub use portcullis_core as core;
pub use portcullis_firmware as firmware;
pub use portcullis_hal as hal;
pub use portcullis_ioda2 as ioda2;
pub use portcullis_iova as iova;
pub use portcullis_nvme as nvme;
pub use portcullis_paging as paging;
pub use portcullis_pci as pci;
pub use portcullis_pgtable as pgtable;
pub use portcullis_smmuv2 as smmuv2;
pub use portcullis_smmuv3 as smmuv3;
pub use portcullis_spec as spec;
pub use portcullis_types as types;
pub use portcullis_vfio as vfio;
pub use portcullis_vtd as vtd;
