//! Where registers are placed, and whether requests get there.

use alloc::vec::Vec;

use portcullis_spec::pcie::Space;

use super::{bdf, host, window};
use crate::fake::{DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, UPSTREAM};
use crate::{BarFault, ConfigAccess, Fault, HostBridge, Topology, enumerate};

/// Every placed memory register is aligned, lies in a window of the host bridge, and a request for its first and its last byte
/// reaches it alone; the function that has it is found by its place in the fake, which is in the order of `functions`.
pub(crate) fn check_routing(fake: &Fake, topology: &Topology, host: &HostBridge, functions: &[usize]) {
    for (function, &raw) in topology.functions.iter().zip(functions) {
        for bar in function.bars.iter().filter(|bar| bar.space != Space::Io) {
            let Some(placed) = bar.placed else { continue };
            let (first, last) = (placed.bus_address, placed.bus_address + (bar.size_bytes - 1));
            assert!(first.is_multiple_of(bar.size_bytes) && first != 0);
            let holds = |window: &&portcullis_spec::pcie::HostWindow| {
                window.space != Space::Io && window.bus_first <= first && last <= window.bus_last()
            };
            let window = host.windows.iter().find(holds).expect("in a window");
            assert_eq!(placed.cpu_first.get() - window.cpu_first.get(), first - window.bus_first);
            assert!(bar.prefetchable || !window.prefetchable);
            for address in [first, last] {
                assert_eq!(fake.route_memory(address), [(raw, usize::from(bar.index))], "{address:#x}");
            }
        }
    }
}

#[test]
fn every_register_behind_a_switch_can_be_reached() {
    let fake = Fake::new(0);
    let port = fake.root(0x08, FakeFunction::bridge().express(ROOT_PORT).bar32(0, 0x1000));
    let up = fake.below(port, 0, FakeFunction::bridge().express(UPSTREAM));
    let left = fake.below(up, 0x00, FakeFunction::bridge().express(DOWNSTREAM));
    let a =
        fake.below(left, 0, FakeFunction::endpoint().bar64(0, 0x4000, false).bar64(2, 0x1_0000_0000, true));
    let right = fake.below(up, 0x08, FakeFunction::bridge().express(DOWNSTREAM).bar64(0, 0x10_0000, true));
    let b = fake.below(right, 0, FakeFunction::endpoint().bar32(0, 0x10).bar32(3, 0x40_0000).bar_io(5, 0x20));
    let c = fake.root(0x10, FakeFunction::endpoint().bar64(4, 0x20_0000, true).bar32(0, 0x100));
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.problems, []);
    check_routing(&fake, &topology, &host(), &[port, up, left, a, right, b, c]);
    assert!(topology.functions.iter().all(|function| function.bars.iter().all(|bar| bar.placed.is_some())));
    let prefetchable = topology.functions[3].bar(2).unwrap().placed.unwrap();
    assert!(prefetchable.bus_address >= 0x80_0000_0000);
    // The CPU sees the 32-bit window elsewhere.
    let small = topology.functions[5].bar(0).unwrap().placed.unwrap();
    assert_eq!(small.cpu_first.get(), small.bus_address + 0x6000_0000);
    assert_eq!(fake.raw(b, 4) & 3, 3, "answers in both spaces");
    assert_eq!(
        fake.raw(b, 0x24),
        topology.functions[5].bar(5).unwrap().placed.unwrap().bus_address as u32 | 1
    );
}

#[test]
fn the_windows_of_a_bridge_are_the_books_words() {
    let fake = Fake::new(0);
    let port = fake.root(0, FakeFunction::bridge().express(ROOT_PORT));
    fake.below(port, 0, FakeFunction::endpoint().bar32(0, 0x20_0000).bar64(2, 0x1000, true).bar_io(1, 0x10));
    enumerate(&fake, &host());
    // 0x1000_0000 to 0x101f_ffff; 0x80_0000_0000 to 0x80_000f_ffff; I/O 0x1000 to 0x1fff.
    assert_eq!(fake.raw(port, 0x20), 0x1010_1000);
    assert_eq!(fake.raw(port, 0x24), 0x0001_0001);
    assert_eq!((fake.raw(port, 0x28), fake.raw(port, 0x2c)), (0x80, 0x80));
    assert_eq!(fake.raw(port, 0x1c) & 0xffff, 0x1111);
    assert_eq!(fake.raw(port, 0x30), 0);
}

#[test]
fn what_is_below_a_bridge_that_answers_nothing_has_no_place() {
    // A register of its own for which there is no room; or of which nobody knows how much it wants.
    let bridge = || FakeFunction::bridge().express(ROOT_PORT);
    for port in [bridge().bar32(0, 0x4000_0000), bridge().word(0x10, 0x6).writable(0x10, 0xffff_f000)] {
        let fake = Fake::new(0);
        let port = fake.root(0x08, port);
        let up = fake.below(port, 0, FakeFunction::bridge().express(UPSTREAM));
        let down = fake.below(up, 0, FakeFunction::bridge().express(DOWNSTREAM));
        let a = fake.below(down, 0, FakeFunction::endpoint().bar64(0, 0x4000, false).bar64(2, 0x4000, true));
        let b = fake.root(0x10, FakeFunction::endpoint().bar32(0, 0x1000));
        let topology = enumerate(&fake, &host());
        check_routing(&fake, &topology, &host(), &[port, up, down, a, b]);
        let placed = topology.functions.iter().map(|function| function.is_placed());
        assert_eq!(placed.skip(1).collect::<Vec<_>>(), [true, true, false, true]);
        assert_eq!((fake.raw(port, 4) & 2, fake.raw(a, 4) & 2), (0, 0));
        assert_eq!([0x10, 0x14, 0x18, 0x1c].map(|offset| fake.raw(a, offset)), [4, 0, 0xc, 0]);
        let told = topology.problems.iter().filter(|problem| problem.at == topology.functions[3].at);
        assert_eq!(told.count(), 2);
    }
}

#[test]
fn windows_with_nothing_to_hold_stay_closed() {
    let fake = Fake::new(0);
    let port = fake.root(0, FakeFunction::bridge().express(ROOT_PORT));
    fake.below(port, 0, FakeFunction::endpoint());
    enumerate(&fake, &host());
    // Base above limit.
    assert_eq!(fake.raw(port, 0x20), 0x0000_fff0);
    assert_eq!(fake.raw(port, 0x24), 0x0001_fff1);
    assert_eq!((fake.raw(port, 0x28), fake.raw(port, 0x2c)), (0, 0));
    assert_eq!(fake.raw(port, 0x1c) & 0xffff, 0x01f1);
}

#[test]
fn without_a_64_bit_window_in_a_bridge_prefetchable_memory_goes_below_4_gib() {
    let fake = Fake::new(0);
    let port = fake.root(0, FakeFunction::bridge().express(ROOT_PORT).word(0x24, 0));
    let endpoint = fake.below(port, 0, FakeFunction::endpoint().bar64(0, 0x10_0000, true));
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.functions[1].bar(0).unwrap().placed.unwrap().bus_address, 0x1000_0000);
    check_routing(&fake, &topology, &host(), &[port, endpoint]);
}

#[test]
fn a_64_bit_register_right_below_the_host_bridge_may_go_up_when_there_is_no_room_below() {
    let fake = Fake::new(0);
    let function =
        fake.root(0, FakeFunction::endpoint().bar64(0, 0x4000_0000, false).bar64(2, 0x1000, false));
    let topology = enumerate(&fake, &host());
    check_routing(&fake, &topology, &host(), &[function]);
    let at = |index| topology.functions[0].bar(index).unwrap().placed.unwrap().bus_address;
    assert_eq!((at(0), at(2)), (0x80_0000_0000, 0x1000_0000));
}

#[test]
fn what_two_windows_have_is_given_to_nobody_twice() {
    let first = window(Space::Memory32, false, 0x1000_0000, 0x7000_0000, 0x10_0000);
    for second in [
        first,
        window(Space::Memory64, false, 0x1008_0000, 0x8000_0000, 0x10_0000),
        window(Space::Memory32, false, 0x0ff8_0000, 0x8000_0000, 0x10_0000),
        // Others on PCI, and the same for the CPU.
        window(Space::Memory32, false, 0x2000_0000, 0x7000_0000, 0x10_0000),
        window(Space::Io, false, 0, 0x7000_0000, 0x1_0000),
    ] {
        let fake = Fake::new(0);
        let of = || FakeFunction::endpoint().bar32(0, 0x8_0000).bar32(1, 0x8_0000).bar_io(2, 0x10);
        let raw = [fake.root(0, of()), fake.root(8, of())];
        let host = HostBridge { windows: Vec::from([first, second]), ..host() };
        let topology = enumerate(&fake, &host);
        check_routing(&fake, &topology, &host, &raw);
        let mut places: Vec<(u64, u64)> = Vec::new();
        for bar in topology.functions.iter().flat_map(|function| &function.bars) {
            let Some(range) = bar.cpu_range() else { continue };
            let (first, last) = (range.first().get(), range.last().get());
            assert!(places.iter().all(|&(other, end)| last < other || end < first), "{second:?}");
            places.push((first, last));
        }
        assert_eq!(places.len(), 2, "{second:?}");
    }
    // I/O and memory may have the same numbers.
    let both = [first, window(Space::Io, false, 0x1000_0000, 0x8000_0000, 0x10_0000)];
    let fake = Fake::new(0);
    fake.root(0, FakeFunction::endpoint().bar32(0, 0x1000).bar_io(1, 0x10));
    let topology = enumerate(&fake, &HostBridge { windows: Vec::from(both), ..host() });
    assert!(topology.functions[0].bars.iter().all(|bar| bar.placed.is_some()));
}

#[test]
fn what_must_not_be_prefetched_is_not_placed_where_it_may_be() {
    let host = HostBridge {
        windows: Vec::from([window(Space::Memory32, true, 0x1000_0000, 0x1000_0000, 0x1000_0000)]),
        ..host()
    };
    let fake = Fake::new(0);
    fake.root(0, FakeFunction::endpoint().bar32(0, 0x1000).bar64(2, 0x1000, true));
    let topology = enumerate(&fake, &host);
    let fault = Fault::NoRoom { bar: 0, space: Space::Memory32, size_bytes: 0x1000 };
    assert_eq!(topology.problems.iter().map(|problem| problem.fault).collect::<Vec<_>>(), [fault]);
    assert!(topology.functions[0].bar(2).unwrap().placed.is_some());
}

#[test]
fn a_function_without_room_for_all_it_wants_does_not_answer() {
    let fake = Fake::new(0);
    let port = fake.root(0, FakeFunction::bridge().express(ROOT_PORT));
    let greedy = fake.below(port, 0, FakeFunction::endpoint().bar32(0, 0x8000_0000).bar32(1, 0x1000));
    let topology = enumerate(&fake, &host());
    let fault = Fault::NoRoom { bar: 0, space: Space::Memory32, size_bytes: 0x8000_0000 };
    assert_eq!((topology.problems[0].at, topology.problems[0].fault), (bdf(1, 0, 0), fault));
    assert!(!topology.functions[1].is_placed());
    assert_eq!(fake.raw(greedy, 4) & 3, 0);
    assert_eq!(fake.raw(greedy, 0x10), 0);
}

#[test]
fn one_functions_greed_does_not_starve_the_others() {
    let fake = Fake::new(0);
    let port = fake.root(0, FakeFunction::bridge());
    fake.below(port, 0x00, FakeFunction::endpoint().bar64(0, 1 << 63, true).bar64(2, 1 << 63, false));
    fake.below(port, 0x08, FakeFunction::endpoint().bar64(0, 0x4000, false));
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.problems.len(), 2);
    assert!(topology.functions[2].is_placed());
    assert!(!topology.functions[1].is_placed());
}

#[test]
fn registers_that_cannot_be_are_named_and_the_function_stays_quiet() {
    let cases = [
        (0x10, 0x0000_0002, !0xfff, BarFault::ReservedType(0b010)),
        (0x10, 0x0000_0006, !0xfff, BarFault::ReservedType(0b110)),
        (0x10, 0x0000_0003, !0xfff, BarFault::ReservedType(0b011)),
        (0x10, 0x0000_0000, 0xf0ff_f000, BarFault::Mask(0xf0ff_f000)),
        // The upper half is the register after it, which has its low bits hardwired.
        (0x10, 0x0000_0004, 0xffff_f000, BarFault::Mask(0xffff_f000_ffff_f000)),
        (0x10, 0x0000_0008, 0x0000_0000, BarFault::Mask(0)),
        (0x24, 0x0000_0004, 0xffff_f000, BarFault::NoUpperHalf),
        (0x10, 0x0000_0001, 0x0000_ff0c, BarFault::Mask(0xff0c)),
    ];
    for (offset, word, mask, fault) in cases {
        let fake = Fake::new(0);
        let bad = FakeFunction::endpoint()
            .bar32(1, 0x1000)
            .word(offset, word)
            .writable(offset, mask & !0xf | mask & 0xc & !word);
        fake.root(0, bad);
        let topology = enumerate(&fake, &host());
        let bar = u8::try_from((offset - 0x10) / 4).unwrap();
        assert_eq!(
            topology.problems.iter().map(|problem| problem.fault).collect::<Vec<_>>(),
            [Fault::Bar { bar, fault }]
        );
        assert_eq!(topology.functions[0].bars, []);
        assert_eq!(fake.raw(0, 4) & 7, 0);
    }
}

#[test]
fn a_bridge_whose_own_registers_cannot_be_passes_nothing_down() {
    let fake = Fake::new(0);
    let bridge = fake.root(0, FakeFunction::bridge().express(ROOT_PORT).word(0x10, 2).writable(0x10, !0xfff));
    fake.below(bridge, 0, FakeFunction::endpoint().bar32(0, 0x1000));
    let topology = enumerate(&fake, &host());
    let fault = Fault::Bar { bar: 0, fault: BarFault::ReservedType(0b010) };
    let below = Fault::NoRoom { bar: 0, space: Space::Memory32, size_bytes: 0x1000 };
    assert_eq!(topology.problems.iter().map(|problem| problem.fault).collect::<Vec<_>>(), [fault, below]);
    assert_eq!(fake.raw(bridge, 4) & 7, 0);
}

#[test]
fn windows_that_are_no_multiple_of_their_alignment_are_packed_aligned() {
    let fake = Fake::new(0);
    let outer = fake.root(0, FakeFunction::bridge());
    let mut functions = Vec::from([outer]);
    for devfn in [0x00, 0x08] {
        let inner = fake.below(outer, devfn, FakeFunction::bridge());
        let endpoint = FakeFunction::endpoint().bar32(0, 0x20_0000).bar32(1, 0x10_0000);
        functions.extend([inner, fake.below(inner, 0, endpoint)]);
    }
    let topology = enumerate(&fake, &host());
    assert_eq!(topology.problems, []);
    check_routing(&fake, &topology, &host(), &functions);
}

#[test]
fn sizing_leaves_a_register_as_it_was_until_it_is_placed() {
    let fake = Fake::new(0);
    fake.root(0, FakeFunction::endpoint().bar32(0, 0x1000));
    fake.write32(bdf(0, 0, 0), 0x10, 0x5555_5000);
    let topology = enumerate(&fake, &HostBridge { windows: Vec::new(), ..host() });
    assert_eq!(topology.problems.len(), 1);
    assert_eq!(fake.raw(0, 0x10), 0, "not where firmware had it, if it cannot be anywhere");
}

#[test]
fn an_expansion_rom_is_turned_off() {
    let fake = Fake::new(0);
    let function = FakeFunction::endpoint().word(0x30, 0xfee0_0001).writable(0x30, 0xffff_f801);
    let function = fake.root(0, function);
    enumerate(&fake, &host());
    assert_eq!(fake.raw(function, 0x30), 0);
}

#[test]
fn a_bridge_that_is_16_bits_wide_gets_no_io_above_64_kib() {
    let host = HostBridge {
        windows: Vec::from([window(Space::Io, false, 0x1_0000, 0x3eff_0000, 0x1_0000)]),
        ..host()
    };
    for (io, placed) in [(0x0000_0000, false), (0x0000_0101, true)] {
        let fake = Fake::new(0);
        let bridge = FakeFunction::bridge().express(ROOT_PORT).word(0x1c, io).writable(0x1c, 0xf0f0);
        let bridge = fake.root(0, bridge);
        fake.below(bridge, 0, FakeFunction::endpoint().bar_io(0, 0x20));
        let topology = enumerate(&fake, &host);
        assert_eq!(topology.functions[1].bar(0).unwrap().placed.is_some(), placed);
        assert_eq!(topology.problems.is_empty(), placed);
        if placed {
            assert_eq!((fake.raw(bridge, 0x1c) & 0xffff, fake.raw(bridge, 0x30)), (0x0101, 0x0001_0001));
        }
    }
}

#[test]
fn no_two_bridges_lead_into_one_segment_of_a_host_bridge() {
    const SEGMENT: u64 = 0x80_0000;
    let host = HostBridge {
        windows: Vec::from([window(Space::Memory32, false, 0x8000_0000, 0x8000_0000, 0x7fff_0000)]),
        segment_bytes: SEGMENT,
        ..host()
    };
    let fake = Fake::new(0);
    let port = fake.root(0x00, FakeFunction::bridge().express(ROOT_PORT).bar32(0, 0x1000));
    let up = fake.below(port, 0, FakeFunction::bridge().express(UPSTREAM));
    let left = fake.below(up, 0x00, FakeFunction::bridge().express(DOWNSTREAM));
    let a = fake.below(left, 0, FakeFunction::endpoint().bar64(0, 0x4000, false).bar64(2, 0x2000, true));
    let right = fake.below(up, 0x08, FakeFunction::bridge().express(DOWNSTREAM));
    let b = fake.below(right, 0, FakeFunction::endpoint().bar32(0, 0x100).bar32(1, 0x100_0000));
    let c = fake.root(0x10, FakeFunction::endpoint().bar32(0, 0x100));
    let d = fake.root(0x18, FakeFunction::endpoint().bar32(0, 0x100).bar32(1, 0x100));
    let topology = enumerate(&fake, &host);
    assert_eq!(topology.problems, []);
    check_routing(&fake, &topology, &host, &[port, up, left, a, right, b, c, d]);
    let segments = |function: usize| -> Vec<u64> {
        let placed =
            topology.functions[function].bars.iter().map(|bar| (bar.placed.unwrap(), bar.size_bytes));
        let of = |(at, size): (crate::Placed, u64)| {
            at.bus_address / SEGMENT..=(at.bus_address + size - 1) / SEGMENT
        };
        placed.flat_map(of).collect()
    };
    for one in 0..8 {
        let shared = segments(one)
            .into_iter()
            .find(|at| (0..8).any(|other| other != one && segments(other).contains(at)));
        assert_eq!(shared, None, "function {one}");
    }
    // The memory window of each bridge.
    for bridge in [port, up, left, right] {
        let word = fake.raw(bridge, 0x20);
        let (base, limit) = (u64::from(word & 0xfff0) << 16, u64::from(word & 0xfff0_0000) | 0xf_ffff);
        assert!(base.is_multiple_of(SEGMENT) && (limit + 1).is_multiple_of(SEGMENT), "{word:#x}");
    }
}
