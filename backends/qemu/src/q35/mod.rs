//! Firmware's part of `q35`: where configuration space is, and the ACPI tables that QEMU has made.
//!
//! No firmware runs; what a BIOS does before any kernel is done here, over the test socket: PCIEXBAR is set ([`bring_up`]), and the tables are fetched by `fw_cfg`, put where QEMU's
//! own script says (`loader`), and handed over as a kernel would find them ([`tables`]). The CPU counts interrupts meanwhile (`rom`).
//!
//! Observed: QEMU 7.2 and 11.1, hw/pci-host/q35.c; docs/specs/fw_cfg.rst.
//! Not here: what the tables say (`firmware`).

mod loader;
mod rom;

use portcullis_types::Pa;

use crate::qtest::Width;
use crate::{Machine, QemuError};

pub use rom::{COUNTERS, READY};
pub(crate) use rom::{counting_rom, halting_rom};

/// Where configuration space shall be: 256 buses.
pub const ECAM: u64 = 0xb000_0000;
/// Bytes of it.
pub const ECAM_BYTES: u64 = 0x1000_0000;
/// Where the area begins in which a kernel looks for ACPI's tables.
pub const AREA_FIRST: u64 = 0xe_0000;
/// Bytes of it.
pub const AREA_BYTES: usize = 0x2_0000;

/// The ports of PCI's first mechanism. Spec: PCI 3.0, 3.2.2.3.2 "Software Generation of Configuration Transactions".
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// PCIEXBAR of the host bridge, function 00.0, and what turns 256 buses on.
const PCIEXBAR: u32 = 0x60;
const ENABLE_256: u32 = 1;

/// The ports of `fw_cfg`'s DMA: the high and the low half of an address, both big-endian.
const FW_CFG_DMA: u16 = 0x514;
/// What is asked of it: a record's key above, and what to do.
const SELECT_AND_READ: u32 = 1 << 3 | 1 << 1;
const FAILED: u32 = 1;
/// The key of the list of files.
const DIRECTORY: u16 = 0x19;
/// Bytes of an entry of it, and where its name begins.
const ENTRY_BYTES: u32 = 64;
const NAME: core::ops::Range<usize> = 8..64;

/// Where in low memory, which nobody uses yet, `fw_cfg` is told what to do, and where it puts a file.
const REQUEST: u64 = 0x2000;
const BUFFER: u64 = 0x10_0000;
/// More than any file that is wanted.
const MOST_BYTES: u32 = 0x10_0000;

/// Has configuration space answer at [`ECAM`].
///
/// # Errors
///
/// [`QemuError`]: the machine does not answer.
pub fn bring_up(machine: &Machine) -> Result<(), QemuError> {
    let write = |register: u32, value: u32| {
        machine.store_port(CONFIG_ADDRESS, Width::Bits32, (1 << 31 | register).into())?;
        machine.store_port(CONFIG_DATA, Width::Bits32, value.into())
    };
    let base = u32::try_from(ECAM).expect("it lies below 4 GiB");
    write(PCIEXBAR + 4, 0)?;
    write(PCIEXBAR, base | ENABLE_256)
}

/// The area in which a kernel looks for ACPI's tables, with what QEMU has made. Those depend on [`bring_up`].
///
/// # Errors
///
/// [`QemuError`]: the machine does not answer, or what it has makes no sense.
pub fn tables(machine: &Machine) -> Result<Vec<u8>, QemuError> {
    let directory = fetch(machine, DIRECTORY, 4 + count_of(machine)? * ENTRY_BYTES)?;
    let files = Files { machine, directory };
    let script = files.named("etc/table-loader")?;
    loader::run(&script, AREA_FIRST, AREA_BYTES, |name| files.named(name))
}

struct Files<'a> {
    machine: &'a Machine,
    directory: Vec<u8>,
}

impl Files<'_> {
    fn named(&self, name: &str) -> Result<Vec<u8>, QemuError> {
        let listed = self.directory.get(4..).unwrap_or(&[]).chunks_exact(ENTRY_BYTES as usize);
        let mut own = listed.filter(|entry| text(&entry[NAME]) == name.as_bytes());
        let entry = own.next().ok_or_else(|| nonsense(name))?;
        let len = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
        fetch(self.machine, u16::from_be_bytes([entry[4], entry[5]]), len.min(MOST_BYTES))
    }
}

/// How many files are listed.
fn count_of(machine: &Machine) -> Result<u32, QemuError> {
    let count = fetch(machine, DIRECTORY, 4)?;
    let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
    Ok(count.min(MOST_BYTES / ENTRY_BYTES - 1))
}

/// So much of the file with this key.
fn fetch(machine: &Machine, key: u16, len: u32) -> Result<Vec<u8>, QemuError> {
    let control = u32::from(key) << 16 | SELECT_AND_READ;
    let request = [&control.to_be_bytes()[..], &len.to_be_bytes(), &BUFFER.to_be_bytes()].concat();
    machine.write(Pa::new(REQUEST), &request)?;
    // The ports are big-endian, and the machine's numbers are not.
    let low = u32::try_from(REQUEST).expect("it lies below 4 GiB").swap_bytes();
    machine.store_port(FW_CFG_DMA, Width::Bits32, 0)?;
    machine.store_port(FW_CFG_DMA + 4, Width::Bits32, low.into())?;
    let mut left = [0; 4];
    machine.read(Pa::new(REQUEST), &mut left)?;
    if u32::from_be_bytes(left) & FAILED != 0 {
        return Err(nonsense("fw_cfg"));
    }
    let mut bytes = vec![0; len as usize];
    machine.read(Pa::new(BUFFER), &mut bytes)?;
    Ok(bytes)
}

/// A name without the zeroes behind it.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}

fn nonsense(about: &str) -> QemuError {
    QemuError::Nonsense { doing: "ACPI tables".into(), answer: about.chars().take(60).collect() }
}

#[cfg(test)]
mod tests {
    mod on_qemu {
        use core::time::Duration;
        use std::thread;

        use portcullis_types::Pa;

        use crate::testing::qemus;
        use crate::{Arch, MachineOptions, Width, q35};

        #[test]
        fn its_tables_are_found_where_a_kernel_looks_and_each_sum_is_right() {
            for qemu in qemus(Arch::X86_64) {
                let options = MachineOptions::q35("").device("intel-iommu,intremap=on");
                let machine = qemu.start(&options).unwrap();
                q35::bring_up(&machine).unwrap();
                assert_eq!(machine.load(Pa::new(q35::ECAM), Width::Bits32).unwrap(), 0x29c0_8086, "{qemu}");
                let area = q35::tables(&machine).unwrap();
                let at = |signature: &[u8]| {
                    let found = (0..area.len()).step_by(4).find(|&at| area[at..].starts_with(signature));
                    found.unwrap_or_else(|| panic!("{qemu}: no {}", signature.escape_ascii()))
                };
                let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                let rsdp = at(b"RSD PTR ");
                assert_eq!((rsdp % 16, sum(&area[rsdp..][..20])), (0, 0), "{qemu}");
                for signature in [b"DMAR", b"MCFG", b"APIC"] {
                    let table = &area[at(signature)..];
                    let len = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
                    assert_eq!(sum(&table[..len]), 0, "{qemu}: {}", signature.escape_ascii());
                }
                let mcfg = &area[at(b"MCFG")..];
                assert_eq!(u64::from_le_bytes(mcfg[44..52].try_into().unwrap()), q35::ECAM, "{qemu}");
            }
        }

        #[test]
        fn a_message_to_the_cpu_is_counted_by_its_vector() {
            for qemu in qemus(Arch::X86_64) {
                let machine = qemu.start(&MachineOptions::q35("").counting_interrupts()).unwrap();
                let read = |at: u64| machine.load(Pa::new(at), Width::Bits32).unwrap();
                let wait = |at: u64, wanted: u64| {
                    let arrived = (0..2000).any(|_| {
                        thread::sleep(Duration::from_millis(1));
                        read(at) == wanted
                    });
                    assert!(arrived, "{qemu}: {at:#x} is {}", read(at));
                };
                wait(q35::READY, 1);
                // A message of the socket's is one of nobody's: it needs no device.
                for (count, vector) in [(1, 0x31), (1, 0xfe), (2, 0x31)] {
                    machine.store(Pa::new(0xfee0_0000), Width::Bits32, vector).unwrap();
                    wait(q35::COUNTERS + 4 * vector, count);
                }
                assert_eq!(read(q35::COUNTERS + 4 * 0x32), 0, "{qemu}");
            }
        }
    }
}
