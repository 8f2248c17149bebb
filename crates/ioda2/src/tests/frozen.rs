//! Frozen PEs.

use portcullis_core::iommu::{FaultReason, FaultRecord, GlobalError};
use portcullis_core::table_group::{EehError, ErrorInjection, Freeze, PeState, Reset};
use portcullis_hal::TableMemory;
use portcullis_types::Access;

use super::*;
use crate::events::decode;
use crate::testing::other_cpu;

fn drained(bridge: &Bridge) -> std::vec::Vec<FaultRecord> {
    let mut records = std::vec::Vec::new();
    bridge.drain_events(&mut |record| records.push(*record));
    records
}

#[test]
fn the_first_error_freezes_and_is_reported_once_until_the_pe_goes_on() {
    let machine = Machine::new(&[DISK, CARD], |_| ());
    assert!(drained(&machine.bridge).is_empty());
    assert_eq!(machine.fake.access(DISK, 0x5123, true), None);
    assert_eq!(machine.fake.access(DISK, 0x9000, false), None);
    let records = drained(&machine.bridge);
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!((record.source, record.iova), (Some(source(DISK)), Some(Iova::new(0x5123))));
    assert_eq!((record.access, record.reason), (Some(Access::WRITE), FaultReason::NotMapped));
    assert!(drained(&machine.bridge).is_empty());
    machine.unfreeze(DISK);
    assert_eq!(machine.fake.access(DISK, 0x9000, false), None);
    assert_eq!(drained(&machine.bridge)[0].iova, Some(Iova::new(0x9000)));
    assert_eq!(machine.unit.unclaimed_faults(), 0);
}

#[test]
fn a_pe_cannot_go_on_between_the_look_at_who_is_frozen_and_its_note() {
    // It would be noted as frozen that no longer is, and not be reported when it freezes again.
    let machine = Machine::new(&[DISK], |_| ());
    machine.fake.access(DISK, 0x5123, true);
    let (said, heard) = std::sync::mpsc::channel();
    let bridge = machine.bridge.clone();
    let look = move || said.send(bridge.reported.try_lock().is_none()).unwrap();
    machine.fake.state().behind_load = Some((20, std::boxed::Box::new(look)));
    assert_eq!(drained(&machine.bridge).len(), 1);
    assert_eq!(heard.try_recv(), Ok(true));
    machine.unfreeze(DISK);
    assert_eq!(machine.fake.access(DISK, 0x9000, true), None);
    assert_eq!(drained(&machine.bridge).len(), 1);
}

#[test]
fn each_who_is_blocked_and_tries_is_heard_of() {
    let machine = Machine::new(&[], |_| ());
    let (fake, bridge) = (&machine.fake, &machine.bridge);
    bridge.assign(&[source(DISK), source(CARD), source(0x0300)]).unwrap();
    let domain = bridge.new_kernel_domain().unwrap();
    for (name, rid) in [("disk", DISK), ("card", CARD), ("other", 0x0300)] {
        bridge.add_device(name, &[source(rid)]).unwrap();
    }
    bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
    for rid in [CARD, 0x0300, CARD] {
        assert_eq!(fake.access(rid, 0x5000, true), None);
        let records = drained(bridge);
        assert_eq!(
            records.iter().map(|record| record.source).collect::<std::vec::Vec<_>>(),
            [Some(source(rid))]
        );
        assert_eq!(fake.access(rid, 0x5000, true), None, "nothing gets through");
        assert_eq!(drained(bridge).len(), 1);
    }
}

#[test]
fn a_number_that_a_frozen_pe_left_is_a_pe_that_works_and_is_reported() {
    let machine = Machine::new(&[], |_| ());
    let (fake, bridge) = (&machine.fake, &machine.bridge);
    bridge.add_device("card", &[source(CARD)]).unwrap();
    bridge.attach(&[source(CARD)], &Target::Blocked).unwrap();
    assert_eq!(fake.access(CARD, 0x5123, true), None);
    assert_eq!(drained(bridge).len(), 1);
    let pest = (fake.register(0x1a8) & !(1 << 63)) + 16;
    let places = [0, 8].map(|offset| Pa::new(pest + offset));
    places.iter().for_each(|&at| fake.store(at, 0x1234_5678));
    bridge.remove_device(&[source(CARD)]).unwrap();
    for assigned in [true, false] {
        if assigned {
            bridge.assign(&[source(DISK)]).unwrap();
        }
        bridge.add_device("disk", &[source(DISK)]).unwrap();
        assert_eq!(bridge.pe_of(source(DISK)), Some(1), "the first is free");
        assert_eq!(machine.table_group(DISK).eeh().unwrap().state(), PeState::Normal);
        assert_eq!(places.map(|at| fake.load(at)), [0, 0], "nothing is known of it");
        assert!(drained(bridge).is_empty());
        let domain = bridge.new_kernel_domain().unwrap();
        domain.map(Iova::new(0), Pa::new(0x8000), 0x1000, READ_WRITE).unwrap();
        bridge.attach(&[source(DISK)], &target(&domain)).unwrap();
        assert_eq!(fake.access(DISK, 0, true), Some(0x8000));
        assert_eq!(fake.access(DISK, 0x9000, true), None);
        assert_eq!(drained(bridge).len(), 1);
        bridge.remove_device(&[source(DISK)]).unwrap();
    }
}

#[test]
fn an_error_that_is_to_be_made_is_not_cleared_by_half() {
    let machine = Machine::new(&[DISK, CARD], |_| ());
    let (group, other) = (machine.table_group(DISK), machine.table_group(CARD));
    let go_on = move || other.eeh().unwrap().unfreeze(Freeze::Io).unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let go_on = move || said.send(other_cpu(go_on)).unwrap();
    // The address; the mask and the control are still to come.
    machine.fake.state().behind_store = Some((0x2b8, 0x5000, std::boxed::Box::new(go_on)));
    let error = ErrorInjection { wide: false, function: 12, address: 0x5000, mask: 0xffff_f000 };
    group.eeh().unwrap().inject(error).unwrap();
    heard.recv().unwrap().join().unwrap();
    let registers = [0x2b0, 0x2b8, 0x2c0].map(|offset| machine.fake.register(offset));
    assert_eq!(registers, [0; 3], "all of it, or it would hit somebody else");
}

#[test]
fn what_memory_says_of_a_pe_is_forgotten_when_all_of_it_goes_on() {
    let machine = Machine::new(&[DISK, CARD], |_| ());
    let group = machine.table_group(DISK);
    // PEST_BAR; PE 1 has its second 16 bytes, PE 2 the ones after.
    let pest = (machine.fake.register(0x1a8) & !(1 << 63)) + 16;
    let places = [0, 8, 16, 24].map(|offset| Pa::new(pest + offset));
    places.iter().for_each(|&at| machine.fake.store(at, 0x1234_5678));
    let words = || places.map(|at| machine.fake.load(at));
    let eeh = group.eeh().unwrap();
    for [first, second] in [[Freeze::Io, Freeze::Dma], [Freeze::Dma, Freeze::Io]] {
        places[..2].iter().for_each(|&at| machine.fake.store(at, 0x1234_5678));
        machine.fake.access(DISK, 0x5000, true);
        eeh.unfreeze(first).unwrap();
        assert_eq!(words(), [0x1234_5678; 4], "it is stopped still, and somebody may ask why");
        eeh.unfreeze(second).unwrap();
        assert_eq!(words(), [0, 0, 0x1234_5678, 0x1234_5678], "another's stays");
    }
}

#[test]
fn a_pe_of_which_one_half_goes_on_is_told_of_once_and_with_what_stopped_it() {
    let machine = Machine::new(&[DISK], |_| ());
    let group = machine.table_group(DISK);
    let eeh = group.eeh().unwrap();
    // As where most of the record lies in memory: PEST_BAR, the second 16 bytes.
    let pest = (machine.fake.register(0x1a8) & !(1 << 63)) + 16;
    let stop = |address: u64| {
        machine.fake.access(DISK, address, true);
        for (table, at) in [(7, pest), (8, pest + 8)] {
            machine.fake.store(Pa::new(at), machine.fake.entry(table, 1).swap_bytes());
        }
    };
    let told = || drained(&machine.bridge).iter().map(|record| record.source).collect::<std::vec::Vec<_>>();
    for [first, second] in [[Freeze::Io, Freeze::Dma], [Freeze::Dma, Freeze::Io]] {
        // Before anybody has looked.
        stop(0x5000);
        eeh.unfreeze(first).unwrap();
        assert_eq!(told(), [Some(source(DISK))]);
        eeh.unfreeze(second).unwrap();
        // And after.
        stop(0x9000);
        assert_eq!(told(), [Some(source(DISK))]);
        eeh.unfreeze(first).unwrap();
        assert_eq!(told(), [], "it is what was told of");
        eeh.unfreeze(second).unwrap();
        assert_eq!(eeh.state(), PeState::Normal);
    }
}

#[test]
fn the_words_of_a_frozen_pe_are_read_as_firmware_reads_them() {
    // Frozen, a DMA read, TCE access fault, request id 0x0110; DMA stopped at an address of window 1.
    let record = decode(7, 0x8200_1000_0110_0000, 0x8800_0000_0001_2345);
    assert_eq!((record.source, record.iova), (Some(SourceId(0x110)), Some(Iova::new(0x0800_0000_0001_2345))));
    assert_eq!((record.access, record.reason), (Some(Access::READ), FaultReason::Permission));
    let reason = |a| decode(7, a, 0).reason;
    assert_eq!(reason(0x8000_2000_0000_0000), FaultReason::NotMapped);
    assert_eq!(reason(0x8000_8000_0000_0000), FaultReason::Configuration);
    assert_eq!(reason(0x8100_0000_0000_0000), FaultReason::Other(1));
}

#[test]
fn a_group_is_stopped_and_goes_on_half_by_half() {
    let machine = Machine::new(&[DISK], |_| ());
    let group = machine.table_group(DISK);
    let eeh = group.eeh().unwrap();
    assert_eq!(eeh.state(), PeState::Normal);
    machine.fake.access(DISK, 0, true);
    assert_eq!(eeh.state(), PeState::Stopped);
    eeh.unfreeze(Freeze::Io).unwrap();
    assert_eq!(eeh.state(), PeState::StoppedDma);
    eeh.unfreeze(Freeze::Dma).unwrap();
    assert_eq!(eeh.state(), PeState::Normal);
    eeh.freeze(Freeze::Io).unwrap();
    assert_eq!(
        (eeh.state(), machine.fake.entry(7, 1), machine.fake.entry(8, 1)),
        (PeState::Stopped, 1 << 63, 0)
    );
    eeh.unfreeze(Freeze::Io).unwrap();
    eeh.freeze(Freeze::Dma).unwrap();
    assert_eq!((eeh.state(), machine.fake.entry(8, 1)), (PeState::StoppedDma, 1 << 63));
    assert_eq!(eeh.reset(Reset::Hot), Err(EehError::Unsupported));
    machine.fake.answers(Some(0));
    assert_eq!(eeh.state(), PeState::Unavailable);
    assert!(matches!(eeh.unfreeze(Freeze::Dma), Err(EehError::Sync(_))));
    assert_eq!(machine.bridge.handle_errors(), [GlobalError::ServiceFailure]);
    assert!(drained(&machine.bridge).is_empty(), "ones are no faults");
}

#[test]
fn errors_are_made_in_dma() {
    let machine = Machine::new(&[DISK], |_| ());
    let group = machine.table_group(DISK);
    let eeh = group.eeh().unwrap();
    let mut error = ErrorInjection { wide: false, function: 12, address: 0x5000, mask: 0xffff_f000 };
    eeh.inject(error).unwrap();
    let registers = || [0x2b0, 0x2b8, 0x2c0].map(|offset| machine.fake.register(offset));
    assert_eq!(registers(), [0x8800_0000_0000_0000, 0x5000, 0xffff_f000]);
    error = ErrorInjection { wide: true, function: 16, address: BYPASS, mask: 0 };
    eeh.inject(error).unwrap();
    assert_eq!(registers(), [0x8400_0000_0000_0000, BYPASS, 0]);
    error.wide = false;
    assert_eq!(eeh.inject(error), Err(EehError::BadAddress(BYPASS)));
    assert_eq!(registers(), [0x8400_0000_0000_0000, BYPASS, 0], "refused, nothing has changed");
    for (wide, address) in [(true, 0), (false, 1 << 60), (true, 1 << 60), (false, u64::MAX)] {
        let nowhere = ErrorInjection { wide, function: 16, address, mask: 0 };
        assert_eq!(eeh.inject(nowhere), Err(EehError::BadAddress(address)), "no window has it");
    }
    assert_eq!(machine.fake.state().wrong, 0, "nobody is hit by half an error");
    machine.fake.state().reads_missed = 1;
    assert!(matches!(eeh.inject(ErrorInjection { wide: true, ..error }), Err(EehError::Sync(_))));
    // What is to happen is forgotten when the PE goes on.
    eeh.unfreeze(Freeze::Io).unwrap();
    assert_eq!(registers(), [0; 3]);
}

const LOADS: [u32; 2] = [0, 1];
const STORES: [u32; 2] = [6, 7];

#[test]
fn errors_are_made_in_a_pes_own_memory_and_nowhere_else() {
    const CPU: u64 = 0x3fe0_0000_0000;
    let m32 = |config: &mut Config| {
        config.m32 = Some(M32 { cpu_first: Pa::new(CPU), pci_first: 0x8000_0000, bytes: 0x8000_0000 });
    };
    let machine = Machine::new(&[DISK, CARD], m32);
    let group = machine.table_group(DISK);
    let eeh = group.eeh().unwrap();
    let registers = || [0x2b0, 0x2b8, 0x2c0].map(|offset| machine.fake.register(offset));
    let of = |function, address, mask| ErrorInjection { wide: false, function, address, mask };
    assert_eq!(eeh.inject(of(0, CPU, 0)), Err(EehError::Unsupported), "no memory is its own");
    machine.bridge.assign_m32(source(DISK), 3..=4).unwrap();
    machine.bridge.assign_m32(source(CARD), 5..=5).unwrap();
    // Segments are 8 MiB. The mask is made to keep the error in the segment.
    for (functions, access) in [(LOADS, 0x4800_0000_0000_0000), (STORES, 0x4400_0000_0000_0000)] {
        for function in functions {
            eeh.inject(of(function, CPU + 0x0200_1000, 0xf000)).unwrap();
            assert_eq!(registers(), [access, CPU + 0x0200_1000, 0x0000_ffff_ff80_f000]);
            // Another's, below the window, and in nobody's: its own first segment.
            for elsewhere in [CPU + 0x0280_0000, 0x1000, 0, CPU + 0x7fff_0000, u64::MAX] {
                eeh.inject(of(function, elsewhere, 0)).unwrap();
                assert_eq!(registers(), [access, CPU + 0x0180_0000, 0x0000_ffff_ff80_0000], "{elsewhere:#x}");
            }
        }
    }
    let wide = ErrorInjection { wide: true, ..of(0, CPU + 0x0200_1000, 0) };
    assert_eq!(eeh.inject(wide), Err(EehError::Unsupported), "nobody has memory above 4 GiB");
    // I/O space, and what there is not.
    for function in [2, 3, 8, 9, 20, u32::MAX] {
        assert_eq!(eeh.inject(of(function, CPU + 0x0200_1000, 0)), Err(EehError::Unsupported), "{function}");
    }
}

#[test]
fn errors_are_made_in_a_pes_own_configuration_space_and_nowhere_else() {
    let machine = Machine::new(&[DISK, CARD], |_| ());
    let group = machine.table_group(CARD);
    let eeh = group.eeh().unwrap();
    let registers = || [0x2b0, 0x2b8, 0x2c0].map(|offset| machine.fake.register(offset));
    let of = |function, address, mask| ErrorInjection { wide: false, function, address, mask };
    for (function, access) in [(4, 0x1800 << 48), (5, 0x1800 << 48), (10, 0x1400 << 48), (11, 0x1400 << 48)] {
        // Bus 1, device 2, function 0: PPC bits 4 to 19. A register, in the bits after these.
        eeh.inject(of(function, 0x0011_0010_0000_0000, 0x0000_0ffc_0000_0000)).unwrap();
        assert_eq!(registers(), [access, 0x0011_0010_0000_0000, 0x0fff_fffc_0000_0000]);
        for elsewhere in [0x0000_8000_0000_0000, 0, u64::MAX] {
            eeh.inject(of(function, elsewhere, 0)).unwrap();
            assert_eq!(registers(), [access, 0x0011_0000_0000_0000, 0x0fff_f000_0000_0000]);
        }
    }
}
