//! QEMU as hardware that we did not write.
//!
//! A [`Machine`] is a QEMU whose CPU is parked: nothing runs in it but its devices. Its registers are reached over QEMU's test
//! protocol ([`Qtest`]); its RAM is a file that both processes map ([`Ram`]), so that tables and buffers are plain memory and only
//! registers cross the socket. [`QemuPlatform`] and [`QemuRegisters`] put that behind `hal`'s seams: a driver runs on it
//! unchanged.
//!
//! ```no_run
//! use std::sync::Arc;
//! use portcullis_hal::{Registers, TableMemory, BlockLayout};
//! use portcullis_qemu::{Arch, MachineOptions, Qemu, QemuPlatform};
//! use portcullis_types::{Pa, PaRange, trace::Silence};
//!
//! # fn main() -> Result<(), portcullis_qemu::QemuError> {
//! let qemu = Qemu::find(Arch::Aarch64)?;
//! let options = MachineOptions::virt("iommu=smmuv3").device("edu,dma_mask=0xffffffffffffffff");
//! let machine = Arc::new(qemu.start(&options)?);
//! let platform = Arc::new(QemuPlatform::new(machine, Arc::new(Silence)));
//! let smmu = platform.registers(PaRange::new(Pa::new(0x0905_0000), 0x2_0000).unwrap());
//! println!("IDR0 {:#x}", smmu.read32(0));
//! let table = platform.alloc(BlockLayout::naturally_aligned(12));
//! # let _ = table;
//! # Ok(())
//! # }
//! ```
//!
//! # What ends, and when
//!
//! Every wait has a limit ([`MachineOptions::limit`]). A QEMU that dies, hangs or talks nonsense is a [`QemuError`] with its last
//! words; the first such error sticks to the machine ([`Machine::failure`]), and every later access fails at once: a register
//! read through [`QemuRegisters`] gives all ones then, as a bus without a device does, and the driver's own limits do the rest. A dropped
//! [`Machine`] kills its QEMU and reaps it, on a panic too; if the whole process is killed, the kernel kills QEMU. The files that it
//! was started with are unlinked as soon as it has opened them.
//!
//! # Threads
//!
//! Everything is `Send + Sync`. One lock guards the socket, held for one command and its answer; RAM needs none. The lock of
//! the table memory's allocator is a leaf.
//!
//! # Installing it
//!
//! A QEMU on the path, or one in a Debian tree of its own that need not be entered: see [`Qemu`]. Tests ask [`testing::qemus`].
//!
//! Not here: what the registers mean (the drivers), and what is run (`lab`, `checks`).

mod error;
mod find;
mod machine;
mod options;
mod platform;
pub mod powernv8;
mod process;
pub mod q35;
mod qtest;
mod ram;
mod raw;
mod registers;
mod scratch;
pub mod testing;

pub use error::QemuError;
pub use find::{Arch, Qemu, TREE_VARIABLE, Version};
pub use machine::Machine;
pub use options::{DriveContent, MachineOptions};
pub use platform::QemuPlatform;
pub use qtest::{ByteOrder, Qtest, QtestError, Step, Width};
pub use ram::Ram;
pub use registers::QemuRegisters;
