//! MSI, MSI-X, and configuration space in memory.

extern crate std;

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use portcullis_hal::Registers;
use portcullis_types::PaRange;

use super::{bdf, host};
use crate::fake::{Fake, FakeFunction};
use crate::{
    ConfigAccess, Ecam, Message, MsiCapability, MsiFault, MsixCapability, MsixFault, MsixTable, Topology,
    enumerate,
};

/// Registers that remember what was written where.
#[derive(Default)]
struct Writes(Mutex<Vec<(usize, u32)>>);

impl Registers for Writes {
    fn read32(&self, offset: usize) -> u32 {
        u32::try_from(offset).unwrap()
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.lock().unwrap().push((offset, value));
    }

    fn read64(&self, _: usize) -> u64 {
        panic!("nothing here has 64 bits")
    }

    fn write64(&self, _: usize, _: u64) {
        panic!("nothing here has 64 bits")
    }
}

/// An endpoint with one capability at 0x40, whose first word is `header`, and which keeps `control` of that.
fn with_capability(header: u32, control: u32, words: &[(usize, u32, u32)]) -> (Fake, Topology) {
    let mut function = FakeFunction::endpoint().status(0x0010_0000).word(0x34, 0x40).bar32(0, 0x4000);
    function = function.word(0x40, header).writable(0x40, control);
    for &(offset, word, writable) in words {
        function = function.word(offset, word).writable(offset, writable);
    }
    let fake = Fake::new(0);
    fake.root(0, function);
    let topology = enumerate(&fake, &host());
    (fake, topology)
}

/// MSI-X with 5 vectors, the table at 0x2000 and the pending bits at 0x3000 of register 0.
fn msix() -> (Fake, Topology) {
    with_capability(0x0004_0011, 0xc000_0000, &[(0x44, 0x2000, 0), (0x48, 0x3000, 0)])
}

#[test]
fn msix_is_found_where_its_words_say() {
    let (fake, topology) = msix();
    let capability = MsixCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    assert_eq!((capability.vectors(), capability.bar(), capability.table_offset()), (5, 0, 0x2000));
    let bar = topology.functions[0].bar(0).unwrap().cpu_range().unwrap();
    let table = PaRange::new(bar.first().checked_add(0x2000).unwrap(), 5 * 16);
    assert_eq!(capability.table(), table);
}

#[test]
fn msix_is_turned_on_masked_and_then_unmasked() {
    let (fake, topology) = msix();
    let capability = MsixCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    capability.enable_masked(&fake);
    assert_eq!(fake.raw(0, 0x40), 0xc004_0011);
    capability.set_function_mask(&fake, false);
    assert_eq!(fake.raw(0, 0x40), 0x8004_0011);
    capability.disable(&fake);
    assert_eq!(fake.raw(0, 0x40), 0x0004_0011);
}

#[test]
fn a_vector_is_masked_while_it_changes() {
    let (fake, topology) = msix();
    let capability = MsixCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    let registers = Arc::new(Writes::default());
    let table = MsixTable::new(&capability, registers.clone());
    table.set(4, Message { address: 0x12_0808_0040, data: 0x77 }).unwrap();
    table.set_masked(4, false).unwrap();
    let writes = core::mem::take(&mut *registers.0.lock().unwrap());
    assert_eq!(writes, [(0x204c, 1), (0x2040, 0x0808_0040), (0x2044, 0x12), (0x2048, 0x77), (0x204c, 0)]);
    assert_eq!(table.set_masked(5, true), Err(MsixFault::NoSuchVector(5)));
    assert_eq!(table.set(0, Message { address: 2, data: 0 }), Err(MsixFault::Address(2)));
    assert_eq!(*registers.0.lock().unwrap(), []);
}

#[test]
fn msix_outside_its_register_is_refused() {
    let find = |table: u32, pending: u32, size: u32| {
        let words = [(0x44, table, 0), (0x48, pending, 0)];
        let (fake, topology) = with_capability(size << 16 | 0x11, 0xc000_0000, &words);
        MsixCapability::find(&fake, &topology.functions[0]).map(|capability| capability.is_some())
    };
    assert_eq!(find(0x3ff0, 0, 0), Ok(true));
    assert_eq!(find(0x3ff0, 0, 1), Err(MsixFault::OutsideBar { bar: 0, offset: 0x3ff0 }));
    assert_eq!(find(0xffff_fff8, 0, 0), Err(MsixFault::OutsideBar { bar: 0, offset: 0xffff_fff8 }));
    assert_eq!(find(0, 0x3ff8, 63), Ok(true));
    assert_eq!(find(0, 0x3ff8, 64), Err(MsixFault::OutsideBar { bar: 0, offset: 0x3ff8 }));
    assert_eq!(find(1, 0, 0), Err(MsixFault::NoSuchBar(1)));
    assert_eq!(find(7, 0, 0), Err(MsixFault::NoSuchBar(7)));
    assert_eq!(find(0, 6, 0), Err(MsixFault::NoSuchBar(6)));
}

#[test]
fn msi_with_64_bits_is_programmed_word_by_word() {
    // 64-bit, maskable, 8 messages.
    let words = [(0x44, 0, !3), (0x48, 0, u32::MAX), (0x4c, 0, 0xffff), (0x50, 0, 0xff)];
    let (fake, topology) = with_capability(0x0186_0005, 0x0071_0000, &words);
    let capability = MsiCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    assert_eq!((capability.count_lg2(), capability.can_mask()), (3, true));
    capability.program(&fake, Message { address: 0x12_0808_0040, data: 0x78 }, 2).unwrap();
    assert_eq!(fake.raw(0, 0x40), 0x01a6_0005, "4 messages, off");
    assert_eq!([0x44, 0x48, 0x4c].map(|offset| fake.raw(0, offset)), [0x0808_0040, 0x12, 0x78]);
    capability.set_mask(&fake, 0b1010);
    assert_eq!(fake.raw(0, 0x50), 0b1010);
    capability.set_enable(&fake, true);
    assert_eq!(fake.raw(0, 0x40), 0x01a7_0005, "4 messages, on");
    capability.set_enable(&fake, false);
    assert_eq!(fake.raw(0, 0x40), 0x01a6_0005);
}

#[test]
fn msi_with_32_bits_has_no_room_for_more() {
    let (fake, topology) = with_capability(0x0000_0005, 0x0071_0000, &[(0x44, 0, !3), (0x48, 0, 0xffff)]);
    let capability = MsiCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    let program = |address, data, count| capability.program(&fake, Message { address, data }, count);
    assert_eq!(program(0x1_0000_0000, 0, 0), Err(MsiFault::Address(0x1_0000_0000)));
    assert_eq!(program(0x1002, 0, 0), Err(MsiFault::Address(0x1002)));
    assert_eq!(program(0x1000, 0x1_0000, 0), Err(MsiFault::Data(0x1_0000)));
    assert_eq!(program(0x1000, 0, 1), Err(MsiFault::TooMany(1)));
    assert_eq!((fake.raw(0, 0x44), fake.raw(0, 0x48)), (0, 0));
    program(0x0808_0040, 0x55, 0).unwrap();
    assert_eq!((fake.raw(0, 0x44), fake.raw(0, 0x48)), (0x0808_0040, 0x55));
}

#[test]
fn the_low_bits_of_several_messages_are_the_functions() {
    let words = [(0x44, 0, !3), (0x48, 0, u32::MAX), (0x4c, 0, 0xffff)];
    let (fake, topology) = with_capability(0x008a_0005, 0x0071_0000, &words);
    let capability = MsiCapability::find(&fake, &topology.functions[0]).unwrap().unwrap();
    assert_eq!(capability.program(&fake, Message { address: 0, data: 0x71 }, 2), Err(MsiFault::Data(0x71)));
    assert_eq!(capability.program(&fake, Message { address: 0, data: 0x60 }, 5), Ok(()));
    let (fake, topology) = with_capability(0x008c_0005, 0x0071_0000, &[]);
    assert_eq!(MsiCapability::find(&fake, &topology.functions[0]), Err(MsiFault::MessageCount(6)));
}

#[test]
fn an_ecam_has_4096_bytes_for_each_function_from_its_first_bus_on() {
    let registers = Arc::new(Writes::default());
    let ecam = Ecam::new(registers.clone(), 0x20..=0x21);
    assert_eq!(ecam.read32(bdf(0x20, 0, 0), 0), 0);
    assert_eq!(ecam.read32(bdf(0x21, 2, 3), 0x104), 0x10_0000 + 0x1_3000 + 0x104);
    for (at, offset) in
        [(bdf(0x22, 0, 0), 0), (bdf(0x1f, 0, 0), 0), (bdf(0x20, 0, 0), 0x1000), (bdf(0x20, 0, 0), 2)]
    {
        assert_eq!(ecam.read32(at, offset), u32::MAX);
        ecam.write32(at, offset, 0);
    }
    assert_eq!(*registers.0.lock().unwrap(), []);
    assert_eq!(ecam.read16(bdf(0x20, 0, 0), 0x1001), u16::MAX);
    assert_eq!(ecam.read8(bdf(0x20, 0, 1), 0x01), 0x10);
    assert_eq!(ecam.read16(bdf(0x20, 1, 0), 0x102), 0x0000);
    ecam.write16(bdf(0x20, 0, 0), 0x42, 0xabcd);
    ecam.write8(bdf(0x20, 0, 0), 0x41, 0x99);
    ecam.write16(bdf(0x20, 0, 0), 0x43, 0xabcd);
    assert_eq!(*registers.0.lock().unwrap(), [(0x40, 0xabcd_0040), (0x40, 0x0000_9940)]);
}
