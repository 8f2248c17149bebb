//! Who must share a group.

use alloc::vec::Vec;

use super::host;
use crate::enumerate;
use crate::fake::{ACS_FULL, DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, TO_PCI, UPSTREAM};

fn groups(fake: &Fake) -> Vec<Vec<usize>> {
    enumerate(fake, &host()).groups()
}

fn port(port_type: u32) -> FakeFunction {
    FakeFunction::bridge().express(port_type)
}

/// A root port, a switch, and an endpoint below each of its two ports; the numbers are the order in which they are found:
/// 0 root port, 1 upstream, 2 left, 3 below left, 4 right, 5 below right.
fn switch(root_acs: u32, left_acs: u32, right_acs: u32) -> Fake {
    let with = |function: FakeFunction, acs| if acs == 0 { function } else { function.acs(acs) };
    let fake = Fake::new(0);
    let root = fake.root(0x08, with(port(ROOT_PORT), root_acs));
    let up = fake.below(root, 0, port(UPSTREAM));
    for (devfn, acs) in [(0x00, left_acs), (0x08, right_acs)] {
        let down = fake.below(up, devfn, with(port(DOWNSTREAM), acs));
        fake.below(down, 0, FakeFunction::endpoint().express(0));
    }
    fake
}

#[test]
fn with_access_control_everywhere_everyone_is_alone() {
    assert_eq!(groups(&switch(ACS_FULL, ACS_FULL, ACS_FULL)), [[0], [1], [2], [3], [4], [5]]);
}

#[test]
fn one_switch_port_without_access_control_makes_the_switch_a_group() {
    for (left, right) in [(0, ACS_FULL), (ACS_FULL, 0), (0, 0)] {
        assert_eq!(groups(&switch(ACS_FULL, left, right)), [Vec::from([0]), Vec::from([1, 2, 3, 4, 5])]);
    }
}

#[test]
fn every_control_of_a_switch_port_counts() {
    // Source validation, request redirect, completion redirect, upstream forwarding; not translation blocking.
    for missing in [1 << 0, 1 << 2, 1 << 3, 1 << 4] {
        assert_eq!(groups(&switch(ACS_FULL, ACS_FULL & !missing, ACS_FULL)).len(), 2, "{missing:#x}");
    }
    assert_eq!(groups(&switch(ACS_FULL, ACS_FULL & !(1 << 1), ACS_FULL)).len(), 6);
}

#[test]
fn a_root_port_without_access_control_takes_all_below_with_it() {
    assert_eq!(groups(&switch(0, ACS_FULL, ACS_FULL)), [[0, 1, 2, 3, 4, 5]]);
}

#[test]
fn a_root_port_needs_only_the_controls_that_it_has() {
    assert_eq!(groups(&switch(1 << 0, ACS_FULL, ACS_FULL)).len(), 6);
    assert_eq!(groups(&switch(ACS_FULL & !1, ACS_FULL, ACS_FULL)).len(), 1, "source validation it must have");
}

#[test]
fn a_control_that_does_not_stay_on_does_not_count() {
    for stuck in [1 << 0, 1 << 2, 1 << 3, 1 << 4] {
        let fake = Fake::new(0);
        // Can everything, but one control cannot be turned on.
        let writable = (ACS_FULL & !stuck) << 16;
        let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL).writable(0x104, writable));
        fake.below(root, 0, FakeFunction::endpoint().express(0));
        assert_eq!(groups(&fake), [[0, 1]], "{stuck:#x}");
    }
    for stuck in [1 << 2, 1 << 3] {
        let fake = Fake::new(0);
        for (devfn, stuck) in [(0x08, stuck), (0x09, 0)] {
            let function = FakeFunction::endpoint().multi_function().express(0).acs(0xc);
            fake.root(devfn, function.writable(0x104, (0xc & !stuck) << 16));
        }
        assert_eq!(groups(&fake), [[0, 1]], "{stuck:#x}");
    }
}

#[test]
fn direct_translated_requests_count_against_a_port() {
    let fake = Fake::new(0);
    // The control word cannot be written, and has direct translated on beside all that is wanted.
    let root = fake.root(0x08, port(ROOT_PORT).acs(0x5f).word(0x104, 0x005d_005f));
    fake.below(root, 0, FakeFunction::endpoint().express(0));
    assert_eq!(groups(&fake), [[0, 1]]);
}

#[test]
fn access_control_is_written_as_the_book_has_it() {
    let fake = switch(ACS_FULL, ACS_FULL, ACS_FULL);
    enumerate(&fake, &host());
    // Capability in the lower half, control in the upper: SV, RR, CR, UF on, translation blocking off.
    assert_eq!(fake.raw(0, 0x104), 0x001d_001f);
}

#[test]
fn functions_of_one_device_are_together_unless_each_keeps_to_itself() {
    let device = |acs: [Option<u32>; 2]| {
        let fake = Fake::new(0);
        for (devfn, acs) in [0x08, 0x09].into_iter().zip(acs) {
            let function = FakeFunction::endpoint().multi_function().express(0);
            fake.root(devfn, acs.map_or(function.clone(), |can| function.acs(can)));
        }
        fake.root(0x10, FakeFunction::endpoint().express(0));
        groups(&fake).len()
    };
    assert_eq!(device([None, None]), 2);
    assert_eq!(device([None, Some(0)]), 2);
    assert_eq!(device([Some(0), None]), 2);
    assert_eq!(device([Some(0), Some(0)]), 3, "both say that they do not talk to siblings");
    assert_eq!(device([Some(0xc), Some(0xc)]), 3, "both can be told not to");
}

#[test]
fn root_ports_in_one_device_need_access_control_to_be_apart() {
    for (acs, expected) in [
        (ACS_FULL, Vec::from([Vec::from([0]), Vec::from([1]), Vec::from([2]), Vec::from([3])])),
        (0, Vec::from([Vec::from([0, 1, 2, 3])])),
    ] {
        let fake = Fake::new(0);
        for devfn in [0x08, 0x09] {
            let root = port(ROOT_PORT).multi_function();
            let root = fake.root(devfn, if acs == 0 { root } else { root.acs(acs) });
            fake.below(root, 0, FakeFunction::endpoint().express(0));
        }
        assert_eq!(groups(&fake), expected);
    }
}

#[test]
fn what_is_below_the_functions_of_a_device_that_are_not_apart_is_with_them() {
    // Two root ports in one device, of which the first keeps apart what is below it, and the second does not.
    for swapped in [false, true] {
        let fake = Fake::new(0);
        for (devfn, acs) in [(0x08, !swapped), (0x09, swapped)] {
            let root = port(ROOT_PORT).multi_function();
            let root = fake.root(devfn, if acs { root.acs(ACS_FULL) } else { root });
            fake.below(root, 0, FakeFunction::endpoint().express(0));
        }
        assert_eq!(groups(&fake), [[0, 1, 2, 3]]);
    }
    // A switch, and an engine beside its upstream port that reaches whatever the port leads to.
    for engine_acs in [None, Some(0)] {
        let fake = Fake::new(0);
        let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL));
        let up = fake.below(root, 0, port(UPSTREAM).multi_function().acs(0));
        for devfn in [0x00, 0x08] {
            let down = fake.below(up, devfn, port(DOWNSTREAM).acs(ACS_FULL));
            fake.below(down, 0, FakeFunction::endpoint().express(0));
        }
        let engine = FakeFunction::endpoint().express(0);
        fake.below(root, 1, engine_acs.map_or(engine.clone(), |can| engine.acs(can)));
        match engine_acs {
            None => assert_eq!(groups(&fake), [Vec::from([0]), Vec::from([1, 2, 3, 4, 5, 6])]),
            Some(_) => assert_eq!(groups(&fake).len(), 7, "both say that they do not talk to siblings"),
        }
    }
}

#[test]
fn a_switch_in_which_there_is_anything_but_ports_that_keep_apart_is_a_group() {
    let endpoint = || FakeFunction::endpoint().express(0);
    // The only capability is followed by itself.
    let unreadable = |function: FakeFunction| function.word(0x40, 0x0062_4010);
    let inside = [
        ("an endpoint", endpoint().acs(ACS_FULL)),
        ("a port whose capabilities cannot be read", unreadable(port(DOWNSTREAM).acs(ACS_FULL))),
        ("a root port", port(ROOT_PORT).acs(ACS_FULL)),
        ("a bridge to conventional PCI", port(TO_PCI)),
        ("a header that is not known", endpoint().word(0x0c, 0x0002_0000)),
    ];
    for (what, inside) in inside {
        let fake = Fake::new(0);
        let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL));
        let up = fake.below(root, 0, port(UPSTREAM));
        let down = fake.below(up, 0x00, port(DOWNSTREAM).acs(ACS_FULL));
        fake.below(down, 0, endpoint());
        fake.below(up, 0x08, inside);
        fake.root(0x10, endpoint());
        assert_eq!(groups(&fake), [Vec::from([0]), Vec::from([1, 2, 3, 4]), Vec::from([5])], "{what}");
    }
}

#[test]
fn a_conventional_bus_is_one_group_with_its_bridge() {
    for bridge in [FakeFunction::bridge(), port(TO_PCI)] {
        let fake = Fake::new(0);
        let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL));
        let bridge = fake.below(root, 0, bridge);
        fake.below(bridge, 0x00, FakeFunction::endpoint());
        fake.below(bridge, 0x08, FakeFunction::endpoint());
        fake.root(0x10, FakeFunction::endpoint());
        assert_eq!(groups(&fake), [Vec::from([0]), Vec::from([1, 2, 3]), Vec::from([4])]);
    }
}

#[test]
fn access_control_below_a_conventional_bridge_helps_nobody() {
    let fake = Fake::new(0);
    let conventional = fake.root(0x08, FakeFunction::bridge());
    let root = fake.below(conventional, 0, port(8));
    fake.below(root, 0, FakeFunction::endpoint().express(0).acs(ACS_FULL));
    assert_eq!(groups(&fake), [[0, 1, 2]]);
}

#[test]
fn a_port_whose_capabilities_cannot_be_read_isolates_nobody() {
    let fake = Fake::new(0);
    // The only capability is followed by itself.
    let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL).word(0x40, 0x0042_4010));
    fake.below(root, 0, FakeFunction::endpoint().express(0));
    assert_eq!(groups(&fake), [[0, 1]]);
}

/// An Ampere root port, without the capability.
const AMPERE: u32 = 0xe005_1def;

/// An Intel I350.
const I350: u32 = 0x1521_8086;

#[test]
fn a_root_port_that_is_known_to_isolate_does_so_without_saying_it() {
    for (id, apart) in [(AMPERE, true), (0xe00c_1def, true), (0xe00d_1def, false), (0xe004_1def, false)] {
        let fake = Fake::new(0);
        let root = fake.root(0x08, port(ROOT_PORT).word(0, id));
        fake.below(root, 0, FakeFunction::endpoint().express(0));
        assert_eq!(groups(&fake).len(), if apart { 2 } else { 1 }, "{id:#x}");
    }
}

#[test]
fn what_is_plugged_in_and_claims_to_be_such_a_port_is_not_believed() {
    // A downstream port right below a link is the worst of switches: all above its port is in it.
    for (port_type, expected) in [(ROOT_PORT, 2), (DOWNSTREAM, 1)] {
        let fake = Fake::new(0);
        let root = fake.root(0x08, port(ROOT_PORT).acs(ACS_FULL));
        let liar = fake.below(root, 0, port(port_type).word(0, AMPERE));
        fake.below(liar, 0, FakeFunction::endpoint().express(0));
        assert_eq!(groups(&fake).len(), expected, "port type {port_type}");
    }
}

#[test]
fn a_root_port_that_has_the_capability_is_believed_that_and_no_more() {
    let fake = Fake::new(0);
    let root = fake.root(0x08, port(ROOT_PORT).word(0, AMPERE).acs(ACS_FULL & !1));
    fake.below(root, 0, FakeFunction::endpoint().express(0));
    assert_eq!(groups(&fake).len(), 1);
}

#[test]
fn functions_that_are_known_to_keep_to_themselves_are_apart() {
    for (ids, count) in [([I350, I350], 2), ([I350, 0x1525_8086], 1), ([AMPERE, AMPERE], 1)] {
        let fake = Fake::new(0);
        for (devfn, id) in [0x08, 0x09].into_iter().zip(ids) {
            fake.root(devfn, FakeFunction::endpoint().multi_function().express(0).word(0, id));
        }
        assert_eq!(groups(&fake).len(), count, "{ids:x?}");
    }
}
