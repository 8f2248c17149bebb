//! Anything at all, from software and devices: the model never panics, never hangs, and lets nobody out of its windows.

use model_bus::{Clocked, Mmio, Translator, Width, Write};
use model_ioda2::{Policy, Unit};
use portcullis_types::{Access, AccessKind};
use proptest::prelude::*;

use crate::harness::{IVT, Machine, PELTV, PEST, RTT, TABLE, TVT, request};

#[derive(Clone, Debug)]
enum Action {
    Load(u64, Width),
    Store(u64, Width, u64),
    Ioda(u64, u64, u64),
    Memory(u64, u64),
    Access(u32, u64, u32, AccessKind),
    Message(u32, u64, u32),
    Scom(u8, u64, Option<u64>),
    Mmio(u64, bool),
    Step,
    Reject(u16),
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![
        Just(Width::Bits64),
        Just(Width::Bits64),
        Just(Width::Bits32),
        Just(Width::Bits16),
        Just(Width::Bits8)
    ]
}

/// Words with few or many bits, or that lead somewhere.
fn word() -> impl Strategy<Value = u64> {
    let place = prop_oneof![Just(RTT), Just(PELTV), Just(PEST), Just(IVT), Just(TABLE)];
    prop_oneof![
        any::<u64>(),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b),
        (0..64_u32).prop_map(|bit| 1 << bit),
        (place.clone(), 0..8_u64).prop_map(|(place, low)| place | 1 << 63 | low),
        // A TVE, or a TCE.
        (place, 0..6_u64, 0..4_u64, prop_oneof![Just(1_u64), Just(5), Just(13), Just(17)])
            .prop_map(|(place, levels, size, page)| place << 4 | levels << 13 | size << 8 | page),
        (0..0x40_u64, 0..4_u64).prop_map(|(page, low)| (TABLE + page * 0x1000) | low),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x400_0000_u64,
        (0..0x400_0000_u64).prop_map(|low| 1 << 59 | low),
        (0..0x1_0000_u64).prop_map(|low| 0xffff_0000 | low),
        (0..0x1_0000_u64).prop_map(|low| 1 << 60 | low << 4),
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..512_u64).prop_map(|register| 8 * register),
        0..0x1010_u64,
        (0x20..0x5a_u64).prop_map(|r| 8 * r)
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let kind = prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Execute)];
    let rid = prop_oneof![Just(0x100_u32), Just(0x200), Just(0x100), 0..0x1_0001_u32];
    prop_oneof![
        2 => (offset(), width()).prop_map(|(at, width)| Action::Load(at, width)),
        4 => (offset(), width(), word()).prop_map(|(at, width, value)| Action::Store(at, width, value)),
        4 => (0..24_u64, 0..8_u64, word()).prop_map(|(table, index, value)| Action::Ioda(table, index, value)),
        4 => (prop_oneof![0x2_0000..0x14_0000_u64, TABLE..TABLE + 0x2000], word())
            .prop_map(|(at, word)| Action::Memory(at & !7, word)),
        8 => (rid.clone(), address(), 0..5000_u32, kind).prop_map(|(rid, at, len, kind)| Action::Access(rid, at, len, kind)),
        2 => (rid, address(), any::<u32>()).prop_map(|(rid, at, data)| Action::Message(rid, at, data)),
        1 => (0..3_u8, 0..0x48_u64, proptest::option::of(word())).prop_map(|(unit, register, value)| {
            Action::Scom(unit, register, value)
        }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(at, write)| Action::Mmio(at, write)),
        2 => Just(Action::Step),
        1 => any::<u16>().prop_map(Action::Reject),
    ]
}

fn act(machine: &Machine, action: &Action) {
    match *action {
        Action::Load(at, width) => {
            machine.phb.read(at, width);
        }
        Action::Store(at, width, value) => machine.phb.write(at, width, value),
        Action::Ioda(table, index, value) => machine.ioda(table << 48 | index, &[value]),
        Action::Memory(at, word) => machine.put_be(at, word),
        Action::Access(rid, at, len, kind) => {
            let request = request(rid, at, len, Access { kind, privileged: false });
            let _outcome = machine.phb.access(&request, &mut |passage| {
                assert_eq!(passage.pa.get() >> 50, 0, "beyond real addresses");
                Ok(())
            });
            machine.phb.outlook(&request);
        }
        Action::Message(rid, at, data) => {
            let request = request(rid, at, 4, Access::WRITE);
            let _outcome = machine.phb.access(&request, &mut |passage| {
                let bytes = data.to_le_bytes();
                model_bus::Fabric::write(&*machine.ram, Write { at: passage.pa, bytes: &bytes, source: None })
            });
        }
        Action::Scom(unit, register, value) => {
            let unit = [Unit::Nest, Unit::Pci, Unit::Spci][usize::from(unit)];
            let registers = machine.phb.xscom(unit);
            match value {
                Some(value) => registers.write(8 * register, Width::Bits64, value),
                None => {
                    registers.read(8 * register, Width::Bits64);
                }
            }
        }
        Action::Mmio(at, write) => {
            machine.phb.admits(portcullis_types::Pa::new(at), write);
        }
        Action::Step => {
            machine.phb.step(0);
        }
        Action::Reject(source) => machine.phb.reject(source),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_anybody_does_makes_it_panic(actions in proptest::collection::vec(action(), 1..120)) {
        for policy in [Policy::stale(), Policy::hostile(), Policy::eager()] {
            let machine = Machine::with(policy);
            actions.iter().for_each(|action| act(&machine, action));
        }
    }

    /// A walk of our own, over whatever is in memory.
    #[test]
    fn an_eager_bridge_does_what_the_tables_say(
        levels in 1..=5_usize,
        page in 0..4_usize,
        entries in proptest::collection::vec((0..0x1000_u64, 0..0x10_u64, 0..4_u64), 0..200),
        accesses in proptest::collection::vec((proptest::collection::vec(0..4_u64, 5), any::<bool>()), 1..40),
    ) {
        let (page_lg2, code) = [(12, 1), (16, 5), (24, 13), (28, 17)][page];
        prop_assume!(page_lg2 + 9 * levels < 55);
        let below = levels as u64 - 1;
        let machine = Machine::with(Policy::eager());
        // Sixteen tables that lead to each other: small indexes, so that walks meet.
        for &(place, to, permissions) in &entries {
            let at = TABLE + (place >> 8) * 0x1000 + 8 * (place & 3);
            machine.put_be(at, (TABLE + to * 0x1000) | permissions);
        }
        machine.ioda(TVT | 2, &[TABLE << 4 | below << 13 | 0x100 | code]);
        for (indexes, write) in &accesses {
            let address = indexes.iter().take(levels).fold(0, |address, index| address << 9 | index) << page_lg2;
            let mut table = TABLE;
            let mut expected = None;
            for (level, index) in indexes.iter().take(levels).enumerate() {
                let entry = machine.get_be(table + 8 * index);
                if entry & 3 == 0 {
                    break;
                }
                if level + 1 == levels && entry & (1 << u32::from(*write)) != 0 {
                    expected = Some(entry & (!0 << page_lg2));
                }
                table = entry & !0xfff;
            }
            machine.kill(1 << 63);
            let went = machine.access(0x100, address, if *write { Access::WRITE } else { Access::READ });
            prop_assert_eq!(went, expected);
            prop_assert_eq!(machine.phb.is_dma_frozen(1), expected.is_none());
            machine.unfreeze();
        }
    }
}
