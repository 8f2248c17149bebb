//! Messages: who may send them, and what becomes of them.

use model_bus::{BusError, Clocked, Outcome, Translator, Write};
use model_ioda2::{Cause, Interrupt, Transaction, clause};
use portcullis_types::{Access, Pa};

use crate::harness::{DOORBELL, IVT, Machine, PEST, PESTB, TABLE, request};

/// Server 0x12 (0x48 with its link bits), priority 5, PE 1.
const IVE: u64 = 0x0000_4805_0000_0001;

/// The entry of source 0x47 is IVE.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.put_be(IVT + 0x47 * 128, IVE);
    machine
}

/// Source 0x47: its low 5 bits are the data, the others lie in the address.
const AT: u64 = 0x1000_0000_0000_0400;
const DATA: u32 = 0x7;

fn entry(machine: &Machine) -> u64 {
    machine.get_be(IVT + 0x47 * 128)
}

#[test]
fn a_message_of_64_bits_is_presented_and_sets_p() {
    let machine = machine();
    assert!(machine.message(0x100, AT, DATA));
    let expected = Interrupt { number: 0x47, source: 0x47, server: 0x12, priority: 5 };
    assert_eq!(machine.phb.take_interrupts(), [expected]);
    assert_eq!(entry(&machine), 0x0000_4805_0100_0001);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
}

#[test]
fn a_message_of_32_bits_means_the_same() {
    let machine = machine();
    assert!(machine.message(0x100, 0xffff_0400, DATA));
    assert_eq!(machine.phb.take_interrupts()[0].source, 0x47);
}

#[test]
fn addresses_of_messages_are_windows_where_messages_are_off() {
    let machine = machine();
    machine.store(0x160, 0x0002_8000_0000_0000);
    // One level of 21 bits over 4K: 8 GiB. 24 - 11 is 13.
    machine.ioda(crate::harness::TVT | 2, &[0x0000_0000_1000_0d01]);
    machine.kill(1 << 63);
    machine.put_be(0x100_0000 + 8 * 0xf_fff0, 0x700_0003);
    assert_eq!(machine.write(0xffff_0400), Some(0x700_0400));
}

#[test]
fn numbers_begin_where_the_chip_says() {
    let machine = machine();
    let nest = machine.phb.xscom(model_ioda2::Unit::Nest);
    nest.write(0x1a * 8, model_bus::Width::Bits64, 0x1800 << 45);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts()[0].number, 0x1847);
}

#[test]
fn a_message_that_comes_again_waits_in_q_and_then_is_dropped() {
    let machine = machine();
    (0..3).for_each(|_| assert!(machine.message(0x100, AT, DATA)));
    assert_eq!(machine.phb.take_interrupts().len(), 1);
    assert_eq!(entry(&machine), 0x0000_4805_0101_0001);
    // Served as skiboot does: P off in memory, generation 1; the same in the cache; Q off in both, and the message is forced.
    machine.put(IVT + 0x47 * 128 + 4, &[2]);
    machine.store(0x2a8, 0x8c00_0000_4000_0047);
    machine.put(IVT + 0x47 * 128 + 5, &[0]);
    machine.store(0x2a8, 0x4000_0000_0000_0047);
    assert_eq!(machine.load(0x240), 0);
    machine.store(0x238, 0x47 << 4 | 1 << 60);
    assert_eq!(machine.load(0x240), 0, "the lock was given back");
    assert_eq!(machine.phb.take_interrupts().len(), 1);
    assert_eq!(entry(&machine), 0x0000_4805_0300_0001);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
}

#[test]
fn forcing_an_interrupt_takes_the_lock() {
    let machine = machine();
    assert_eq!(machine.load(0x240), 0);
    assert_eq!(machine.load(0x240), 1 << 63, "taken");
    machine.store(0x238, 0x47 << 4);
    assert_eq!(machine.clauses(), [] as [&str; 0]);
    machine.store(0x238, 0x47 << 4);
    assert_eq!(machine.clauses(), [clause::FFI_UNLOCKED]);
}

#[test]
fn a_masked_source_remembers_in_q() {
    let machine = machine();
    machine.put_be(IVT + 0x47 * 128, 0x0000_48ff_0000_0001);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts(), []);
    assert_eq!(entry(&machine), 0x0000_48ff_0001_0001);
}

#[test]
fn entries_stay_cached_until_software_says() {
    let machine = machine();
    machine.put_be(IVT + 0x47 * 128, 0x0000_48ff_0000_0001);
    assert!(machine.message(0x100, AT, DATA));
    machine.put_be(IVT + 0x47 * 128, IVE);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts(), [], "masked when it was fetched");
    // Another source.
    machine.store(0x2a0, 0x0000_0048_0000_0000);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts(), []);
    machine.store(0x2a0, 0x0000_0047_0000_0000);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts().len(), 1);
    machine.put_be(IVT + 0x47 * 128, IVE);
    machine.store(0x2a0, 1 << 63);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts().len(), 1);
}

#[test]
fn server_and_priority_can_be_changed_in_the_cache() {
    let machine = machine();
    machine.put_be(IVT + 0x47 * 128, 0x0000_48ff_0000_0001);
    assert!(machine.message(0x100, AT, DATA));
    // Server 0x50 with its link bits, priority 3; Q off.
    machine.store(0x2a8, 0x7000_5003_0000_0047);
    assert!(machine.message(0x100, AT, DATA));
    let [interrupt] = machine.phb.take_interrupts()[..] else { panic!("one") };
    assert_eq!((interrupt.server, interrupt.priority), (0x14, 3));
}

#[test]
fn a_device_of_another_pe_cannot_interrupt() {
    let machine = machine();
    assert!(!machine.message(0x200, AT, DATA));
    assert_eq!(machine.phb.take_interrupts(), []);
    assert_eq!(entry(&machine), IVE);
    let first = machine.phb.first_error(2).unwrap();
    assert_eq!((first.cause, first.transaction, first.data), (Cause::MessagePe, Transaction::Message, 7));
    // A message, IODA2 error, LEM bit 43, requester 0x200, data 7.
    assert_eq!(machine.get_be(PEST + 32), 0x0100_802b_0200_0007);
    assert!(!machine.phb.is_dma_frozen(1));
    assert_eq!(machine.phb.counters().messages_refused, 1);
}

#[test]
fn a_frozen_pe_sends_no_messages() {
    let machine = machine();
    machine.ioda(PESTB | 1, &[1 << 63]);
    assert!(!machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts(), []);
}

#[test]
fn what_is_no_message_freezes_the_pe() {
    let machine = machine();
    let refused = |address, len, access, what: &str| {
        let outcome = machine.phb.access(&request(0x100, address, len, access), &mut |_| panic!("{what}"));
        assert_eq!(outcome, Outcome::Aborted, "{what}");
        assert_eq!(machine.phb.first_error(1).unwrap().cause, Cause::MessageForm, "{what}");
        machine.unfreeze();
    };
    refused(AT, 4, Access::READ, "a read");
    refused(AT, 8, Access::WRITE, "8 bytes");
    refused(AT | 4, 4, Access::WRITE, "an address between two sources");
    refused(AT | 1 << 20, 4, Access::WRITE, "a bit that no source has");
    refused(0xffff_0404, 4, Access::WRITE, "the same with 32 bits");
}

#[test]
fn sources_beyond_the_ivt_are_refused() {
    let machine = machine();
    assert!(!machine.message(0x100, 0x1000_0000_0000_8000, 0), "source 0x800");
    assert_eq!(machine.phb.first_error(1).unwrap().cause, Cause::MessageSource);
    machine.unfreeze();
    machine.store(0x150, IVT | 0xfff | 1 << 63);
    machine.put_be(IVT + 0x800 * 128, IVE);
    assert!(!machine.message(0x100, 0x1000_0000_0000_8000, 0), "however long the IVT is");
    machine.unfreeze();
    machine.store(0x150, IVT | 0x40 | 1 << 63);
    assert!(!machine.message(0x100, AT, DATA), "the IVT has 0x40 entries");
    machine.unfreeze();
    machine.store(0x150, 0);
    assert!(!machine.message(0x100, AT, DATA));
    assert_eq!(machine.clauses(), [clause::IVT_DISABLED]);
}

#[test]
fn entries_have_16_bytes_unless_control_says_128() {
    let machine = Machine::new();
    machine.store(0x810, 0xf3a8_0e5b_0000_0000);
    machine.put_be(IVT + 0x47 * 16, IVE);
    assert!(machine.message(0x100, AT, DATA));
    assert_eq!(machine.phb.take_interrupts().len(), 1);
}

#[test]
fn nobody_rings_the_doorbell_past_the_bridge() {
    let machine = machine();
    let ring = || {
        let bytes = DATA.to_le_bytes();
        let write = Write { at: Pa::new(DOORBELL), bytes: &bytes, source: None };
        model_bus::Fabric::write(&*machine.ram, write)
    };
    assert_eq!(ring(), Err(BusError { at: Pa::new(DOORBELL) }), "a CPU");
    // A device by DMA: its page is the doorbell's.
    machine.put_be(TABLE, DOORBELL | 3);
    let outcome = machine.phb.access(&request(0x100, 0, 4, Access::WRITE), &mut |_| ring());
    assert_eq!(outcome, Outcome::BusError(BusError { at: Pa::new(DOORBELL) }));
    // One message is worth one write.
    let outcome =
        machine.phb.access(&request(0x100, AT, 4, Access::WRITE), &mut |_| ring().and_then(|()| ring()));
    assert_eq!(outcome, Outcome::BusError(BusError { at: Pa::new(DOORBELL) }));
    assert_eq!(machine.phb.take_interrupts().len(), 1);
    // Nor has another thread part in it.
    let outcome = machine.phb.access(&request(0x100, AT, 4, Access::WRITE), &mut |_| {
        let other = std::thread::scope(|scope| scope.spawn(ring).join().unwrap());
        assert_eq!(other, Err(BusError { at: Pa::new(DOORBELL) }));
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    // Nor is one that was never written kept for later.
    let outcome = machine.phb.access(&request(0x100, AT, 4, Access::WRITE), &mut |_| Ok(()));
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(ring(), Err(BusError { at: Pa::new(DOORBELL) }));
}

#[test]
fn what_a_server_rejects_comes_again() {
    let machine = machine();
    assert!(machine.message(0x100, AT, DATA));
    let first = machine.phb.take_interrupts();
    assert!(machine.phb.is_idle());
    machine.phb.reject(0x47);
    assert!(!machine.phb.is_idle());
    machine.settle();
    assert!(machine.phb.is_idle());
    assert_eq!(machine.phb.take_interrupts(), first);
    machine.settle();
    assert_eq!(machine.phb.take_interrupts(), []);
}
