//! A kernel for QEMU's `virt` that embeds Portcullis, with nothing between it and the hardware.
//!
//! It boots, finds its IOMMU and its disk in the device tree and on PCI, does a few jobs through the IOMMU (`jobs`), says on the serial port
//! what it did, and switches off with a status. `cargo xtask kernel` builds it, boots it, and holds what it said against what was on the disk.
//!
//! | file | what | an operating system has its own |
//! |---|---|---|
//! | `boot`, `vectors`, `cpu` | the first instructions, exceptions, system registers | yes |
//! | `mmu`, `memory`, `heap`, `lock` | address spaces, pools, the heap, a lock | yes |
//! | `uart`, `timer`, `power` | the serial port, the clock with its alarm, the end | yes |
//! | `gic`, `its`, `irq` | interrupts, messages of devices | yes |
//! | `mmio`, `platform` | **Portcullis's seams**: registers, and everything else | reads this |
//! | `discovery` | **from the device tree to groups of devices** | reads this |
//! | `disk` | **a driver bound to a device, with interrupts through the IOMMU** | reads this |
//! | `process` | a process at EL0, and **its memory as Portcullis sees it** | reads this |
//! | `view` | memory by a device's addresses: a driver for the jobs that say addresses themselves | no |
//! | `jobs` | what is shown | no |
//!
//! `docs/embedding.md` walks through it. Unsafe code is where Rust's words end: in the files that say `expect(unsafe_code)`, each use with its reason.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cpu;
mod discovery;
mod disk;
mod error;
mod gic;
mod heap;
mod irq;
mod its;
mod jobs;
mod lock;
mod memory;
mod mmio;
mod mmu;
mod platform;
mod power;
mod process;
mod timer;
mod uart;
mod vectors;
mod view;

use alloc::vec::Vec;

use portcullis_firmware::Machine;
use portcullis_types::Pa;

use error::{Wrong, doing};
use uart::println;

mod entry {
    #![expect(unsafe_code, reason = "called from the boot code")]

    use super::{Pa, main};

    // SAFETY: the name is the one that the boot code calls, and no other's.
    #[unsafe(no_mangle)]
    extern "C" fn kernel_main(device_tree: u64) -> ! {
        main(Pa::new(device_tree))
    }
}

/// Where the boot code leads: in the upper half, with a stack and a table for the first two gigabytes.
fn main(device_tree: Pa) -> ! {
    match run(device_tree) {
        Ok(()) => {
            println!("all jobs done");
            power::off(0)
        }
        Err(wrong) => {
            println!("FAILED: {wrong}");
            power::off(1)
        }
    }
}

fn run(device_tree: Pa) -> Result<(), Wrong> {
    let firmware = start_memory(device_tree)?;
    println!("portcullis kernel on {}", firmware.compatible.join(", "));
    jobs::run(discovery::System::discover(firmware)?)
}

/// Reads the device tree and puts memory into order: pools, and the kernel's own table.
fn start_memory(device_tree: Pa) -> Result<Machine, Wrong> {
    let (blob, place) = memory::device_tree(device_tree)
        .ok_or_else(|| Wrong("the boot loader left no device tree in x0".into()))?;
    let firmware = Machine::from_fdt(blob).map_err(doing("reading the device tree"))?;
    let reserved = firmware.reserved_memory.iter().flat_map(|reserved| reserved.memory.iter().copied());
    let mut taken = Vec::from([mmu::image_range(), place]);
    taken.extend(firmware.reservations.iter().copied().chain(reserved));
    memory::start(&firmware.memory, &taken).ok_or_else(|| Wrong("too little memory for the pools".into()))?;
    mmu::start(&firmware.memory).map_err(doing("making the kernel's table"))?;
    Ok(firmware)
}
