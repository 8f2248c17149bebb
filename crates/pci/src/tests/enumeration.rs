//! Who is found, and as what.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::{bdf, host};
use crate::fake::{DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, UPSTREAM};
use crate::{ConfigAccess, Fault, HostBridge, Kind, Topology, enumerate};

/// A root port with a switch of two ports, a second root port with nothing, and an endpoint beside them.
fn switch() -> Fake {
    let fake = Fake::new(0);
    let port = fake.root(0x08, FakeFunction::bridge().express(ROOT_PORT));
    let up = fake.below(port, 0, FakeFunction::bridge().express(UPSTREAM));
    let left = fake.below(up, 0x00, FakeFunction::bridge().express(DOWNSTREAM));
    let right = fake.below(up, 0x08, FakeFunction::bridge().express(DOWNSTREAM));
    fake.below(left, 0, FakeFunction::endpoint());
    fake.below(right, 0, FakeFunction::endpoint());
    fake.root(0x10, FakeFunction::bridge().express(ROOT_PORT));
    fake.root(0x18, FakeFunction::endpoint());
    fake
}

fn places(topology: &Topology) -> Vec<(alloc::string::String, Option<usize>)> {
    topology.functions.iter().map(|function| (function.at.to_string(), function.above)).collect()
}

#[test]
fn buses_are_numbered_depth_first() {
    let fake = switch();
    let topology = enumerate(&fake, &host());
    let expected = [
        ("00:01.0", None),
        ("01:00.0", Some(0)),
        ("02:00.0", Some(1)),
        ("03:00.0", Some(2)),
        ("02:01.0", Some(1)),
        ("04:00.0", Some(4)),
        ("00:02.0", None),
        ("00:03.0", None),
    ];
    assert_eq!(places(&topology), expected.map(|(at, above)| (at.to_string(), above)));
    assert_eq!(topology.problems, []);
    // Latency timer, subordinate, secondary, primary.
    let numbers: Vec<u32> = [0, 1, 2, 3, 6].into_iter().map(|bridge| fake.raw(bridge, 0x18)).collect();
    assert_eq!(numbers, [0x0004_0100, 0x0004_0201, 0x0003_0302, 0x0004_0402, 0x0005_0500]);
}

#[test]
fn numbers_that_firmware_left_in_a_bridge_lead_nobody_behind_it_while_another_is_numbered() {
    let fake = Fake::new(0);
    let endpoint = |id: u32| FakeFunction::endpoint().word(0, id << 16 | 0x1b36);
    let [first, second] =
        [0x08, 0x10].map(|devfn| fake.root(devfn, FakeFunction::bridge().express(ROOT_PORT)));
    fake.below(second, 0, endpoint(2));
    fake.below(first, 0, endpoint(1));
    // The other way round: the second one has the number that the first one gets.
    fake.poke(first, 0x18, 0x0002_0200);
    fake.poke(second, 0x18, 0x0001_0100);
    let topology = enumerate(&fake, &host());
    let expected = [("00:01.0", None), ("01:00.0", Some(0)), ("00:02.0", None), ("02:00.0", Some(2))];
    assert_eq!(places(&topology), expected.map(|(at, above)| (at.to_string(), above)));
    assert_eq!([1, 3].map(|index: usize| topology.functions[index].device), [1, 2]);
}

#[test]
fn a_bridge_that_does_not_keep_its_last_number_leads_nowhere_in_the_end() {
    let fake = Fake::new(0);
    // The last number can be all ones alone, which it is to be at first.
    let port = || FakeFunction::bridge().express(ROOT_PORT);
    let stuck = fake.root(0x08, port().word(0x18, 0x00ff_0000).writable(0x18, 0x0000_ffff));
    fake.below(stuck, 0, FakeFunction::endpoint());
    let next = fake.root(0x10, port());
    let topology = enumerate(&fake, &host());
    let fault = Fault::BusNumbersNotKept { wrote: 0x0001_0100, read: 0x00ff_0100 };
    assert_eq!(topology.problems, [crate::Problem { at: bdf(0, 1, 0), fault }]);
    assert_eq!([stuck, next].map(|bridge| fake.raw(bridge, 0x18) & 0xff00), [0, 0x0200]);
}

#[test]
fn virtual_functions_that_firmware_left_on_are_ended() {
    let fake = Fake::new(0);
    let function = FakeFunction::endpoint().express(0).word(0x100, 0x0001_0010);
    // Control: VF Enable and VF MSE. A bit of the status is cleared by writing one.
    let function = function.word(0x108, 0x0001_0009).writable(0x108, 0x1f).clearing(0x108, 0x0001_0000);
    let on = fake.root(0x08, function);
    enumerate(&fake, &host());
    assert_eq!(fake.raw(on, 0x108), 0x0001_0000);
}

#[test]
fn what_a_function_is_comes_from_its_words() {
    let topology = enumerate(&switch(), &host());
    let endpoint = &topology.functions[3];
    assert_eq!((endpoint.vendor, endpoint.device), (0x1b36, 0x0010));
    assert!(endpoint.is_nvme() && endpoint.kind == Kind::Endpoint);
    let class = topology.functions[0].class;
    assert_eq!((class.base_class(), class.subclass(), class.interface(), class.revision()), (6, 4, 0, 0));
    assert_eq!(topology.name(endpoint.at).to_string(), "0000:03:00.0");
    assert_eq!(topology.find(bdf(4, 0, 0)), Some(5));
    assert_eq!(topology.bridges_above(5).collect::<Vec<_>>(), [4, 1, 0]);
}

#[test]
fn buses_begin_where_the_host_bridge_says() {
    let fake = Fake::new(0x40);
    let port = fake.root(0, FakeFunction::bridge().express(ROOT_PORT));
    fake.below(port, 0, FakeFunction::endpoint());
    let topology = enumerate(&fake, &HostBridge { buses: 0x40..=0x4f, ..host() });
    assert_eq!(places(&topology), [("40:00.0".to_string(), None), ("41:00.0".to_string(), Some(0))]);
}

#[test]
fn functions_beyond_0_are_looked_for_only_where_function_0_says_so() {
    let fake = Fake::new(0);
    fake.root(0x08, FakeFunction::endpoint().multi_function());
    fake.root(0x0b, FakeFunction::endpoint());
    fake.root(0x10, FakeFunction::endpoint());
    fake.root(0x11, FakeFunction::endpoint());
    fake.root(0x19, FakeFunction::endpoint());
    let found = enumerate(&fake, &host());
    let found: Vec<_> = found.functions.iter().map(|function| function.at.devfn()).collect();
    assert_eq!(found, [0x08, 0x0b, 0x10]);
}

#[test]
fn a_link_has_one_device_and_a_conventional_bus_has_many() {
    let fake = Fake::new(0);
    let port = fake.root(0x00, FakeFunction::bridge().express(ROOT_PORT));
    let conventional = fake.root(0x08, FakeFunction::bridge());
    for bridge in [port, conventional] {
        fake.below(bridge, 0x00, FakeFunction::endpoint());
        fake.below(bridge, 0x08, FakeFunction::endpoint());
    }
    let found: Vec<_> = enumerate(&fake, &host()).functions.iter().map(|function| function.at).collect();
    assert_eq!(found, [bdf(0, 0, 0), bdf(1, 0, 0), bdf(0, 1, 0), bdf(2, 0, 0), bdf(2, 1, 0)]);
}

#[test]
fn a_bridge_without_a_bus_number_left_is_closed_and_named() {
    let fake = Fake::new(0);
    let first = fake.root(0x00, FakeFunction::bridge());
    fake.below(first, 0, FakeFunction::endpoint());
    let second = fake.root(0x08, FakeFunction::bridge());
    fake.below(second, 0, FakeFunction::endpoint());
    let topology = enumerate(&fake, &HostBridge { buses: 0..=1, ..host() });
    assert_eq!(topology.functions.len(), 3);
    assert_eq!(topology.problems.len(), 1);
    assert_eq!((topology.problems[0].at, topology.problems[0].fault), (bdf(0, 1, 0), Fault::NoBusNumber));
    assert_eq!(topology.functions[2].bridge().unwrap().secondary, None);
    assert_eq!(fake.raw(second, 0x18), 0);
}

#[test]
fn a_bridge_that_forgets_its_bus_numbers_is_not_followed() {
    let fake = Fake::new(0);
    let bridge = fake.root(0, FakeFunction::bridge().writable(0x18, 0x0000_ffff));
    fake.below(bridge, 0, FakeFunction::endpoint());
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.functions.len(), 1);
    let fault = Fault::BusNumbersNotKept { wrote: 0x00ff_0100, read: 0x0000_0100 };
    assert_eq!(topology.problems[0].fault, fault);
    assert_eq!(fake.raw(bridge, 0x18), 0, "and nothing is passed down");
}

#[test]
fn an_unknown_header_is_named_and_left_alone() {
    let fake = Fake::new(0);
    fake.root(0, FakeFunction::endpoint().word(0x0c, 0x0002_0000).bar32(0, 0x1000));
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.functions[0].kind, Kind::Unknown);
    assert_eq!(topology.problems[0].fault, Fault::Layout(2));
    assert_eq!(fake.raw(0, 0x10), 0);
    assert_eq!(topology.functions[0].bars, []);
}

#[test]
fn nobody_is_bus_master_until_asked_and_then_the_whole_way_is() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, FakeFunction::bridge().express(ROOT_PORT));
    let endpoint = fake.below(port, 0, FakeFunction::endpoint().bar32(0, 0x1000));
    let other = fake.root(0x10, FakeFunction::endpoint());
    // Left on by firmware.
    fake.write32(bdf(0, 1, 0), 0x04, 0x0007);
    fake.write32(bdf(0, 2, 0), 0x04, 0x0006);
    let topology = enumerate(&fake, &host());
    let master = |function: usize| fake.raw(function, 4) & 4 != 0;
    assert_eq!([port, endpoint, other].map(master), [false; 3]);
    assert_eq!(fake.raw(endpoint, 4) & 0xffff, 0x0402, "memory space, no INTx");
    let index = topology.find(bdf(1, 0, 0)).unwrap();
    topology.enable_bus_master(&fake, index);
    assert_eq!([port, endpoint, other].map(master), [true, true, false]);
    topology.disable_bus_master(&fake, index);
    assert_eq!([port, endpoint, other].map(master), [true, false, false]);
}

#[test]
fn errors_in_the_status_register_survive_enumeration() {
    let fake = Fake::new(0);
    let function = fake.root(0, FakeFunction::endpoint().status(0xf900_0000).bar32(0, 0x1000));
    enumerate(&fake, &host());
    assert_eq!(fake.raw(function, 4) & 0xf900_0000, 0xf900_0000);
}

#[test]
fn a_conventional_bridge_lends_its_id_to_what_is_below() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, FakeFunction::bridge().express(ROOT_PORT));
    let to_pci = fake.below(port, 0, FakeFunction::bridge().express(crate::fake::TO_PCI));
    let inner = fake.below(to_pci, 0x08, FakeFunction::bridge());
    fake.below(inner, 0x10, FakeFunction::endpoint());
    let topology = enumerate(&fake, &host());
    let ids = |at| topology.requester_ids(topology.find(at).unwrap());
    assert_eq!(ids(bdf(3, 2, 0)), [bdf(3, 2, 0), bdf(2, 1, 0), bdf(2, 0, 0)]);
    assert_eq!(ids(bdf(2, 1, 0)), [bdf(2, 1, 0), bdf(2, 0, 0)]);
    assert_eq!(ids(bdf(1, 0, 0)), [bdf(1, 0, 0)]);
    assert_eq!(topology.requester_ids(99), []);
}

#[test]
fn ports_and_switches_pass_ids_on_as_they_are() {
    let topology = enumerate(&switch(), &host());
    assert_eq!(topology.requester_ids(3), [bdf(3, 0, 0)]);
}
