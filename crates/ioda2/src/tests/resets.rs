//! Resets of a PE's devices, and the signal of the only slot.

use std::sync::Mutex;
use std::vec::Vec;

use portcullis_core::iommu::SyncError;
use portcullis_core::table_group::{EehError, ErrorInjection, Freeze, PeState, Reset, Slot};
use portcullis_hal::Clock;

use super::*;
use crate::phb3::AssignError;

/// A slot that notes what is asked of it, and which halves of PE 1 are frozen then.
#[derive(Debug)]
struct Noting {
    fake: Arc<Fake>,
    notes: Mutex<Vec<(&'static str, bool, bool)>>,
    fails: Mutex<Option<SyncError>>,
}

impl Noting {
    fn new(fake: &Arc<Fake>) -> Arc<Self> {
        Arc::new(Self { fake: fake.clone(), notes: Mutex::default(), fails: Mutex::default() })
    }

    fn note(&self, what: &'static str) -> Result<(), SyncError> {
        let frozen = |table| self.fake.entry(table, 1) >> 63 != 0;
        self.notes.lock().unwrap().push((what, frozen(7), frozen(8)));
        self.fails.lock().unwrap().take().map_or(Ok(()), Err)
    }

    fn notes(&self) -> Vec<(&'static str, bool, bool)> {
        core::mem::take(&mut self.notes.lock().unwrap())
    }
}

impl Slot for Noting {
    fn hot_reset(&self) -> Result<(), SyncError> {
        self.note("hot")
    }

    fn fundamental_reset(&self) -> Result<(), SyncError> {
        self.note("fundamental")
    }

    fn set_up(&self) -> Result<(), SyncError> {
        self.note("set up")
    }
}

fn machine() -> (Machine, Arc<dyn TableGroup>, Arc<Noting>) {
    let machine = Machine::new(&[DISK, CARD], |_| ());
    let slot = Noting::new(&machine.fake);
    machine.bridge.set_slot(source(DISK), slot.clone()).unwrap();
    let group = machine.table_group(DISK);
    (machine, group, slot)
}

const LINK: SyncError = SyncError::Timeout { waiting_for: "link", last: 0x43 };

#[test]
fn a_pe_is_frozen_while_its_devices_are_reset_and_set_up_before_it_goes_on() {
    let (machine, group, slot) = machine();
    let eeh = group.eeh().unwrap();
    for (reset, name) in [(Reset::Hot, "hot"), (Reset::Fundamental, "fundamental")] {
        eeh.inject(ErrorInjection { wide: false, function: 12, address: 0x5000, mask: !0 }).unwrap();
        eeh.reset(reset).unwrap();
        assert_eq!(slot.notes(), [(name, true, true)]);
        assert_eq!((eeh.state(), machine.fake.register(0x2b0)), (PeState::Reset, 0));
        eeh.reset(Reset::Deactivate).unwrap();
        assert_eq!(slot.notes(), [("set up", true, true)]);
        assert_eq!(eeh.state(), PeState::Normal);
        eeh.configure().unwrap();
        assert_eq!(slot.notes(), [("set up", false, false)]);
    }
    // There is nothing to end.
    eeh.reset(Reset::Deactivate).unwrap();
    machine.fake.access(DISK, 0x5000, true);
    eeh.reset(Reset::Deactivate).unwrap();
    assert_eq!((slot.notes(), eeh.state()), (Vec::new(), PeState::Stopped));
}

#[test]
fn an_error_that_was_to_be_made_is_not_made_while_devices_are_set_up() {
    let (machine, group, slot) = machine();
    let eeh = group.eeh().unwrap();
    eeh.inject(ErrorInjection { wide: false, function: 4, address: 0, mask: 0 }).unwrap();
    assert_ne!(machine.fake.register(0x2b0), 0);
    *slot.fails.lock().unwrap() = Some(LINK);
    assert_eq!(eeh.configure(), Err(EehError::Sync(LINK)));
    assert_eq!(
        [0x2b0, 0x2b8, 0x2c0].map(|offset| machine.fake.register(offset)),
        [0; 3],
        "even if that fails"
    );
}

#[test]
fn windows_outlive_a_reset() {
    let (machine, group, _) = machine();
    machine.group(0).claim_group(user()).unwrap();
    let tables = group.tables().unwrap();
    let table = tables.create_table(spec(0, 16, 1 << 30, 2)).unwrap();
    tables.set_window(&table).unwrap();
    table.prepare(range(0x3_0000, 0x1_0000)).unwrap();
    table.exchange(Iova::new(0x3_0000), Some(page(0x4100_0000))).unwrap();
    flush(&*table, range(0x3_0000, 0x1_0000));
    let eeh = group.eeh().unwrap();
    machine.fake.access(DISK, 0x9_0000, false);
    eeh.reset(Reset::Hot).unwrap();
    assert_eq!(machine.fake.access(DISK, 0x3_0008, true), None, "in reset");
    eeh.reset(Reset::Deactivate).unwrap();
    assert_eq!(machine.fake.access(DISK, 0x3_0008, true), Some(0x4100_0008));
}

#[test]
fn a_reset_that_fails_leaves_the_pe_stopped_and_can_be_tried_again() {
    let (_machine, group, slot) = machine();
    let eeh = group.eeh().unwrap();
    let fail = || *slot.fails.lock().unwrap() = Some(LINK);
    fail();
    assert_eq!(eeh.reset(Reset::Hot), Err(EehError::Sync(LINK)));
    assert_eq!(eeh.state(), PeState::Reset);
    eeh.reset(Reset::Hot).unwrap();
    fail();
    assert_eq!(eeh.reset(Reset::Deactivate), Err(EehError::Sync(LINK)));
    assert_eq!(eeh.state(), PeState::Reset);
    let wanted = [("hot", true, true), ("hot", true, true), ("set up", true, true)];
    assert_eq!(slot.notes(), wanted);
    eeh.reset(Reset::Deactivate).unwrap();
    assert_eq!(eeh.state(), PeState::Normal);
    fail();
    assert_eq!(eeh.configure(), Err(EehError::Sync(LINK)));
}

#[test]
fn only_who_has_a_slot_is_reset_and_the_others_go_on() {
    let (machine, group, slot) = machine();
    let other = machine.table_group(CARD);
    let other = other.eeh().unwrap();
    for reset in [Reset::Hot, Reset::Fundamental] {
        assert_eq!(other.reset(reset), Err(EehError::Unsupported));
    }
    assert_eq!((other.reset(Reset::Deactivate), other.configure()), (Ok(()), Ok(())));
    assert_eq!((other.state(), slot.notes()), (PeState::Normal, Vec::new()));
    group.eeh().unwrap().reset(Reset::Hot).unwrap();
    assert_eq!(other.state(), PeState::Normal);
    let stranger = machine.bridge.set_slot(source(0x333), slot);
    assert_eq!(stranger, Err(AssignError::Unknown(source(0x333))));
}

#[test]
fn a_slot_whose_devices_have_left_is_not_reset_by_who_has_their_pe_still() {
    let (machine, group, slot) = machine();
    let (home, device) = &machine.groups[0];
    home.claim_group(user()).unwrap();
    group.ownership().unwrap().take_ownership().unwrap();
    home.remove_device(device).unwrap();
    machine.unit.remove_device(device).unwrap();
    let eeh = group.eeh().unwrap();
    assert_eq!(eeh.reset(Reset::Hot), Err(EehError::Unsupported), "another device may be there");
    assert_eq!((eeh.reset(Reset::Deactivate), eeh.configure()), (Ok(()), Ok(())));
    assert_eq!(slot.notes(), []);
    group.ownership().unwrap().release_ownership().unwrap();
    assert_eq!(machine.bridge.assign(&[source(0x0300)]), Ok(1), "its number is free");
}

#[test]
fn what_a_bridge_had_that_is_shut_down_is_given_back() {
    for whole in [false, true] {
        let machine = Machine::new(&[DISK], |config| config.tables_on_demand = !whole);
        let group = machine.table_group(DISK);
        machine.group(0).claim_group(user()).unwrap();
        let table = if whole {
            group.whole().unwrap().take_table().unwrap()
        } else {
            group.ownership().unwrap().take_ownership().unwrap();
            let tables = group.tables().unwrap();
            let table = tables.create_table(spec(0, 16, 1 << 30, 2)).unwrap();
            tables.set_window(&table).unwrap();
            table
        };
        machine.bridge.teardown().unwrap();
        assert!(group.tables().is_none_or(|tables| tables.window(0).is_none()));
        drop(table);
        let given = match group.whole() {
            Some(whole) => whole.give_back_table(),
            None => group.ownership().unwrap().release_ownership(),
        };
        assert_eq!(given, Ok(()), "who has to give it back may stop trying");
    }
}

#[test]
fn the_bridge_that_does_not_answer_resets_nobody() {
    let (machine, group, slot) = machine();
    machine.fake.answers(Some(0));
    let eeh = group.eeh().unwrap();
    assert!(matches!(eeh.reset(Reset::Hot), Err(EehError::Sync(_))));
    assert_eq!((slot.notes(), eeh.state()), (Vec::new(), PeState::Unavailable));
    machine.fake.answers(None);
    assert_ne!(eeh.state(), PeState::Reset);
    eeh.unfreeze(Freeze::Io).unwrap();
}

/// PERST is PPC bit 2 of 0x808, held while it is 0; the link is PPC bit 23 of 0x640.
#[test]
fn the_slots_signal_is_held_for_a_second_and_then_the_link_is_waited_for() {
    let machine = Machine::new(&[DISK], |_| ());
    machine.fake.poke(0x808, 0xe000_0000_0000_0001);
    machine.fake.poke(0x640, 0x0000_0100_0000_0000);
    let port = machine.bridge.root_port();
    assert!(port.link_is_up());
    port.reset_slot().unwrap();
    let resets = machine.fake.state().resets.clone();
    let [(held, from), (let_go, until)] = resets[..] else { panic!("{resets:?}") };
    assert_eq!((held, let_go), (0xc000_0000_0000_0001, 0xe000_0000_0000_0001));
    assert!(until - from >= 1_000_000_000, "{from} to {until}");
    let looked = machine.fake.now_ns();
    assert!(looked - until >= 1_000_000_000, "links bounce at first: {until} to {looked}");
    machine.fake.poke(0x640, 0x0000_1000_0000_0000);
    assert!(!port.link_is_up());
    let down = SyncError::Timeout { waiting_for: "PHB_PCIE_DLP_TRAIN_CTL", last: 0x0000_1000_0000_0000 };
    assert_eq!(port.reset_slot(), Err(down));
    assert_eq!(machine.fake.register(0x808) >> 61 & 1, 1, "the slot is not left in reset");
    machine.fake.answers(Some(0));
    assert!(!port.link_is_up(), "ones are no link");
}
