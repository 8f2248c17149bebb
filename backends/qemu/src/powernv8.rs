//! Firmware's part of `powernv8`: its first bridge's place on the chip's bus, which is set up by XSCOM.
//!
//! Real firmware does it before any driver of the bridge runs; the parked CPU has none. The same numbers for interrupts as skiboot gives them, and other windows.
//!
//! Observed: skiboot hw/phb3.c, `phb3_probe_pbcq`, `phb3_init_ioda2` (Init_14); include/xscom.h; QEMU 7.2 and 11.1, hw/pci-host/pnv_phb3_pbcq.c.
//! Not here: everything that a driver of the bridge does: M32, tables, windows.

use portcullis_types::Pa;

use crate::qtest::{Step, Width};
use crate::{Machine, QemuError};

/// The registers of the first bridge, 4 KiB: 64 bits each, big-endian, but for [`CONFIG_DATA`].
pub const REGISTERS: u64 = 0x3_fffe_4000_0000;
/// The only register of 32 bits, which is little-endian, as is all that is in the bridge's window: its offset.
pub const CONFIG_DATA: u64 = 0x130;
/// Where the bridge's window of memory is for the CPU.
pub const WINDOW: u64 = 0x3fe0_0000_0000;
/// How large it is.
pub const WINDOW_BYTES: u64 = 1 << 31;
/// Where the bridge shall put it on PCI.
pub const WINDOW_PCI: u64 = 0x8000_0000;
/// The chip's number of the bridge's first interrupt.
pub const FIRST_INTERRUPT: u32 = 0x1000;
/// The first CPU, for interrupts.
pub const SERVER: u16 = 8;
/// Where its interrupts are presented (ICP): 32 bits each, big-endian. Observed: QEMU 7.2 and 11.1, hw/intc/xics_pnv.c.
pub const PRESENTER: u64 = 0x3_ffff_8000_8000;

/// XSCOM of the first chip, and the nest registers of its first bridge.
const XSCOM: u64 = 0x3_fc00_0000_0000;
const NEST: u64 = 0x201_2000;
const MMIO_BAR0: u64 = 0x40;
const PHB_BAR: u64 = 0x42;
const MMIO_MASK0: u64 = 0x43;
const BAR_ENABLE: u64 = 0x45;
const IRSN_COMPARE: u64 = 0x1a;
const IRSN_MASK: u64 = 0x1b;
const LSI_SOURCE: u64 = 0x1f;
/// The lines are the last of 256 times 8 interrupts, for the chip's bus and for the bridge.
const LAST_LINES: u64 = 0xff << 56;
const OWN_LSI_SOURCE: u64 = 0x100;
const OWN_LAST_LINES: u64 = 0xff << 51;

/// An address of XSCOM is a register's number, split around four bits, times 8.
fn nest(register: u64) -> u64 {
    let number = NEST + register;
    XSCOM + ((number & !0xf) << 4 | (number & 0xf) << 3)
}

/// Has the bridge answer at [`REGISTERS`] and [`WINDOW`], and send its interrupts to the presenters as numbers from [`FIRST_INTERRUPT`] on.
///
/// # Errors
///
/// [`QemuError`]: the machine does not answer.
pub fn bring_up(machine: &Machine) -> Result<(), QemuError> {
    let stores = [
        (nest(PHB_BAR), REGISTERS << 14),
        (nest(MMIO_BAR0), WINDOW << 14),
        (nest(MMIO_MASK0), !((WINDOW_BYTES - 1) << 14)),
        (nest(IRSN_COMPARE), u64::from(FIRST_INTERRUPT) << 45),
        (nest(IRSN_MASK), 0xff << 56),
        (nest(LSI_SOURCE), LAST_LINES),
        // The first window, the registers, and interrupts both ways.
        (nest(BAR_ENABLE), 1 << 63 | 1 << 61 | 1 << 60 | 1 << 59),
        (REGISTERS + OWN_LSI_SOURCE, OWN_LAST_LINES),
    ];
    let step = |(at, value)| Step::Store(Pa::new(at), Width::Bits64, value);
    machine.batch(&stores.map(step)).map(drop)
}
