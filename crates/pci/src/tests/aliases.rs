//! Functions whose requests carry another id than their own.

use alloc::vec::Vec;

use portcullis_spec::pcie::Bdf;

use super::{bdf, host};
use crate::fake::{ACS_FULL, DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, TO_PCI, UPSTREAM};
use crate::{ALIASES, Alias, AliasQuirk, Topology, enumerate, enumerate_with};

/// A port type of a bridge that leads from conventional PCI to PCI Express.
const FROM_PCI: u32 = 8;

fn found(fake: &Fake) -> Topology {
    enumerate(fake, &host())
}

fn ids(topology: &Topology, at: Bdf) -> Vec<Bdf> {
    topology.requester_ids(topology.find(at).unwrap())
}

/// An endpoint that keeps to itself as far as access control goes. The word is device and vendor.
fn endpoint(id: u32) -> FakeFunction {
    FakeFunction::endpoint().word(0x00, id).multi_function().express(0).acs(0)
}

fn isolating_port(port_type: u32) -> FakeFunction {
    FakeFunction::bridge().express(port_type).acs(ACS_FULL)
}

#[test]
fn a_function_that_sends_as_function_0_shares_its_group() {
    let fake = Fake::new(0);
    for (devfn, id) in [(0x08, 0x1111_1180), (0x09, 0xe832_1180), (0x0a, 0x1111_1180)] {
        fake.root(devfn, endpoint(id));
    }
    let topology = found(&fake);
    assert_eq!(ids(&topology, bdf(0, 1, 0)), [bdf(0, 1, 0)]);
    assert_eq!(ids(&topology, bdf(0, 1, 1)), [bdf(0, 1, 1), bdf(0, 1, 0)]);
    assert_eq!(topology.groups(), [Vec::from([0, 1]), Vec::from([2])]);
}

#[test]
fn function_0_of_a_device_that_sends_as_function_0_has_no_alias() {
    let fake = Fake::new(0);
    fake.root(0x08, endpoint(0xe832_1180));
    assert_eq!(ids(&found(&fake), bdf(0, 1, 0)), [bdf(0, 1, 0)]);
}

#[test]
fn an_id_that_nobody_has_is_its_users_all_the_same() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, isolating_port(ROOT_PORT));
    fake.below(port, 0x00, endpoint(0x9230_1b4b));
    let topology = found(&fake);
    assert_eq!(ids(&topology, bdf(1, 0, 0)), [bdf(1, 0, 0), bdf(1, 0, 1)]);
    assert_eq!(topology.groups(), [[0], [1]]);
    assert_eq!(topology.distinct_ids(&[1]), [[bdf(1, 0, 0), bdf(1, 0, 1)]]);
}

#[test]
fn an_id_that_nobody_has_joins_those_who_use_it() {
    let fake = Fake::new(0);
    for (devfn, id) in [(0x08, 0x9230_1b4b), (0x0a, 0x9230_1b4b), (0x0b, 0x1111_1b4b)] {
        fake.root(devfn, endpoint(id));
    }
    assert_eq!(found(&fake).groups(), [Vec::from([0, 1]), Vec::from([2])]);
}

#[test]
fn a_card_is_known_by_its_subsystem() {
    for (subsystem, known) in
        [(0x02bb_9005, true), (0x02bc_9005, true), (0x02bd_9005, false), (0x02bb_9004, false)]
    {
        let fake = Fake::new(0);
        let port = fake.root(0x08, isolating_port(ROOT_PORT));
        let bridge = fake.below(port, 0, FakeFunction::bridge().express(TO_PCI));
        fake.below(bridge, 0x70, FakeFunction::endpoint().word(0, 0x0285_9005).word(0x2c, subsystem));
        let mut wanted = Vec::from([bdf(2, 14, 0)]);
        wanted.extend(known.then_some(bdf(2, 1, 0)));
        wanted.push(bdf(2, 0, 0));
        assert_eq!(ids(&found(&fake), bdf(2, 14, 0)), wanted, "{subsystem:#x}");
    }
}

#[test]
fn a_device_may_use_several_ids() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, isolating_port(ROOT_PORT));
    fake.below(port, 0, endpoint(0x2260_8086));
    let wanted = [bdf(1, 0, 0), bdf(1, 16, 0), bdf(1, 17, 0), bdf(1, 18, 3)];
    assert_eq!(ids(&found(&fake), bdf(1, 0, 0)), wanted);
}

#[test]
fn the_embedder_adds_what_it_knows_by_number_or_for_one_function() {
    let fake = Fake::new(0);
    for devfn in [0x08, 0x09, 0x0a] {
        fake.root(devfn, endpoint(0x5678_1234));
    }
    fake.root(0x10, endpoint(0x5679_1234));
    let quirk = |alias| AliasQuirk { vendor: 0x1234, device: 0x5679, subsystem: None, alias };
    let mut topology = enumerate_with(&fake, &host(), &[quirk(Alias::Fixed(1, 2))]);
    assert_eq!(topology.groups(), [Vec::from([0]), Vec::from([1]), Vec::from([2, 3])]);
    topology.add_alias(1, bdf(0, 1, 0));
    topology.add_alias(1, bdf(0, 1, 0));
    topology.add_alias(9, bdf(0, 1, 0));
    assert_eq!(topology.requester_ids(1), [bdf(0, 1, 1), bdf(0, 1, 0)]);
    assert_eq!(topology.groups(), [[0, 1], [2, 3]]);
    let nonsense = [quirk(Alias::Fixed(32, 0)), quirk(Alias::Function(8))];
    assert_eq!(ids(&enumerate_with(&fake, &host(), &nonsense), bdf(0, 2, 0)), [bdf(0, 2, 0)]);
}

#[test]
fn every_known_device_is_known_once_and_its_id_can_be() {
    for (index, quirk) in ALIASES.iter().enumerate() {
        assert!(!ALIASES[..index].contains(quirk), "{quirk:?}");
        let fake = Fake::new(0);
        let id = u32::from(quirk.device) << 16 | u32::from(quirk.vendor);
        let (vendor, card) = quirk.subsystem.unwrap_or_default();
        let card = u32::from(card) << 16 | u32::from(vendor);
        fake.root(0x18, endpoint(0x1111_1111));
        fake.root(0x1a, endpoint(id).word(0x2c, card));
        let alias = match quirk.alias {
            Alias::Function(function) => bdf(0, 3, function),
            Alias::Fixed(device, function) => bdf(0, device, function),
        };
        assert!(ids(&found(&fake), bdf(0, 3, 2)).contains(&alias), "{quirk:?}");
    }
}

#[test]
fn a_bridge_from_express_lends_the_id_of_its_bus_also_to_what_is_below_a_switch_there() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, isolating_port(ROOT_PORT));
    let down = fake.below(port, 0, FakeFunction::bridge().express(TO_PCI));
    // Down to PCI, and from there to PCI Express again.
    let back = fake.below(down, 0x18, FakeFunction::bridge().express(FROM_PCI));
    let up = fake.below(back, 0, isolating_port(UPSTREAM));
    let port = fake.below(up, 0, isolating_port(DOWNSTREAM));
    fake.below(port, 0, FakeFunction::endpoint().express(0));
    let topology = found(&fake);
    let lent = [bdf(2, 3, 0), bdf(2, 0, 0)];
    assert_eq!(ids(&topology, bdf(5, 0, 0)), [[bdf(5, 0, 0)].as_slice(), &lent].concat());
    assert_eq!(ids(&topology, bdf(2, 3, 0)), lent, "the bridge back is a function of the conventional bus");
    assert_eq!(topology.groups(), [Vec::from([0]), Vec::from([1, 2, 3, 4, 5])]);
}

#[test]
fn a_bridge_that_hides_that_it_comes_from_express_may_lend_either_id() {
    for (port_type, both) in [(ROOT_PORT, true), (DOWNSTREAM, true), (TO_PCI, false), (FROM_PCI, true)] {
        let fake = Fake::new(0);
        let above = fake.root(0x08, FakeFunction::bridge().express(port_type));
        let hiding = fake.below(above, 0, FakeFunction::bridge());
        fake.below(hiding, 0x08, FakeFunction::endpoint());
        let found = ids(&found(&fake), bdf(2, 1, 0));
        assert_eq!(found[..2], [bdf(2, 1, 0), bdf(1, 0, 0)]);
        assert_eq!(found.contains(&bdf(2, 0, 0)), both, "below a port of type {port_type}");
    }
    let fake = Fake::new(0);
    let bridge = fake.root(0x08, FakeFunction::bridge());
    fake.below(bridge, 0x08, FakeFunction::endpoint());
    assert_eq!(ids(&found(&fake), bdf(1, 1, 0)), [bdf(1, 1, 0), bdf(0, 1, 0)]);
}

#[test]
fn what_comes_later_below_a_bridge_has_its_ids_when_buses_are_looked_at_again() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, isolating_port(ROOT_PORT));
    let bridge = fake.below(port, 0, FakeFunction::bridge().express(TO_PCI));
    fake.below(bridge, 0x08, FakeFunction::endpoint());
    let before = found(&fake);
    // The id that stands for the bus is a function's own from now on.
    fake.below(bridge, 0x00, FakeFunction::endpoint());
    fake.below(bridge, 0x10, FakeFunction::endpoint());
    let after = found(&fake);
    assert_eq!(before.groups(), [Vec::from([0]), Vec::from([1, 2])]);
    assert_eq!(after.groups(), [Vec::from([0]), Vec::from([1, 2, 3, 4])]);
    assert_eq!(
        before.distinct_ids(&[1, 2]),
        [Vec::from([bdf(1, 0, 0)]), Vec::from([bdf(2, 1, 0), bdf(2, 0, 0)])]
    );
    let each = [bdf(1, 0, 0), bdf(2, 0, 0), bdf(2, 1, 0), bdf(2, 2, 0)].map(|id| Vec::from([id]));
    assert_eq!(after.distinct_ids(&[1, 2, 3, 4]), each);
}

#[test]
fn an_id_of_several_is_with_the_one_whose_own_it_is_or_else_with_the_first() {
    let fake = Fake::new(0);
    // The first sends as the second, and the third and fourth both as nobody.
    for (devfn, id) in [(0x08, 0x9230_1b4b), (0x09, 0x1111_1111), (0x10, 0x9230_1b4b), (0x12, 0x9230_1b4b)] {
        fake.root(devfn, endpoint(id));
    }
    let topology = found(&fake);
    assert_eq!(topology.groups(), [[0, 1], [2, 3]]);
    assert_eq!(topology.distinct_ids(&[0, 1]), [[bdf(0, 1, 0)], [bdf(0, 1, 1)]]);
    assert_eq!(
        topology.distinct_ids(&[2, 3]),
        [Vec::from([bdf(0, 2, 0), bdf(0, 2, 1)]), Vec::from([bdf(0, 2, 2)])]
    );
    assert_eq!(topology.distinct_ids(&[99]), [[]]);
}
