//! What machines with users do: how often, on average, and how.

use super::Call;
use super::world::USERS;
use crate::life::Op;
use crate::life::plan::Draw;
use crate::machine::MOST_DEVICES as DEVICES;

/// What every machine with users does.
pub(crate) const CALLS: [(u32, Draw); 23] = [
    (24, |d| Op::Map {
        device: d.byte(DEVICES),
        slot: d.byte(16),
        pages: 1 + d.byte(4),
        offset: 0,
        direction: d.byte(3),
    }),
    (24, |d| Op::Unmap { slot: d.byte(16) }),
    (2, |d| Op::BindDriver { device: d.byte(DEVICES) }),
    (8, |d| Op::UnbindDriver { device: d.byte(DEVICES) }),
    (500, |d| Op::Dma {
        device: d.byte(DEVICES),
        source: d.byte(2),
        pick: d.pick(),
        write: d.flag(),
        offset: d.word(4096),
        len: 1 + d.byte(64),
    }),
    (16, |d| Op::Step { turns: 1 + d.byte(16) }),
    (1, |d| Op::Die { user: d.byte(USERS) }),
    (2, |d| Op::Reset { device: d.byte(DEVICES) }),
    (8, |d| Op::Call(Call::OpenContainer { user: d.byte(USERS) })),
    (16, |d| Op::Call(Call::OpenGroup { user: d.byte(USERS), group: d.byte(DEVICES) })),
    (40, |d| {
        Op::Call(Call::SetContainer { user: d.byte(USERS), group: d.byte(DEVICES), container: d.byte(2) })
    }),
    (3, |d| Op::Call(Call::UnsetContainer { user: d.byte(USERS), group: d.byte(DEVICES) })),
    (30, |d| Op::Call(Call::SetIommu { user: d.byte(USERS), container: d.byte(2), kind: d.byte(16) })),
    (8, |d| Op::Call(Call::OpenDevice { user: d.byte(USERS), device: d.byte(DEVICES) })),
    (3, |d| Op::Call(Call::Close { user: d.byte(USERS), pick: d.byte(16) })),
    (4, |d| Op::Call(Call::DeviceReset { user: d.byte(USERS), device: d.byte(DEVICES) })),
    (6, |d| Op::Call(Call::SetIrqs { user: d.byte(USERS), device: d.byte(DEVICES), bits: d.byte(256) })),
    (20, |d| Op::Call(Call::Region { user: d.byte(USERS), device: d.byte(DEVICES), bits: d.0.next() })),
    (100, |d| {
        Op::Call(Call::MapDma {
            user: d.byte(USERS),
            container: d.byte(2),
            place: d.word(256),
            page: d.byte(58),
            pages: 1 + d.byte(if d.0.once_in(4) { 32 } else { 4 }),
            flags: 1 + d.byte(3),
        })
    }),
    (60, |d| {
        Op::Call(Call::UnmapDma {
            user: d.byte(USERS),
            container: d.byte(2),
            pick: d.word(1 << 12),
            bits: d.byte(256),
        })
    }),
    (4, |d| Op::Call(Call::UnmapAll { user: d.byte(USERS), container: d.byte(2) })),
    (12, |d| {
        Op::Call(Call::BadBytes {
            user: d.byte(USERS),
            pick: d.byte(16),
            request: d.byte(24),
            bits: d.0.next(),
        })
    }),
    (3, |_| Op::Call(Call::Reclaim)),
];

/// What users do besides where they make their windows themselves.
pub(crate) const POWER: [(u32, Draw); 9] = [
    (24, |d| {
        Op::Call(Call::RegisterMemory {
            user: d.byte(USERS),
            container: d.byte(2),
            page: 16 * d.byte(4),
            pages: 16 * (1 + d.byte(3)),
        })
    }),
    (12, |d| Op::Call(Call::UnregisterMemory { user: d.byte(USERS), container: d.byte(2), pick: d.byte(8) })),
    (16, |d| {
        Op::Call(Call::CreateWindow { user: d.byte(USERS), container: d.byte(2), bits: d.word(1 << 12) })
    }),
    (8, |d| Op::Call(Call::RemoveWindow { user: d.byte(USERS), container: d.byte(2), which: d.byte(2) })),
    (20, |d| Op::Call(Call::TceEnable { user: d.byte(USERS), container: d.byte(2), on: !d.0.once_in(4) })),
    (6, |d| Op::Remove { device: d.byte(DEVICES) }),
    (12, |d| Op::Add { device: d.byte(DEVICES) }),
    (1, |d| Op::Probe { shape: d.byte(8) }),
    (24, |d| Op::Call(Call::Eeh { user: d.byte(USERS), container: d.byte(2), op: d.byte(12) })),
];

/// What is done first so that a call may lack memory: a new window has room to note few pages, and then more are in it that do not lie together.
pub(crate) fn before(call: Call) -> Vec<Op> {
    let Call::RemoveWindow { user, container, which: 0 } = call else { return Vec::new() };
    let first = [
        call,
        Call::CreateWindow { user, container, bits: 0 },
        Call::RegisterMemory { user, container, page: 0, pages: 16 },
        Call::RegisterMemory { user, container, page: 16, pages: 16 },
    ];
    let maps = (0..6).map(|index: u16| Call::MapDma {
        user,
        container,
        place: index << 2,
        page: if index & 1 == 0 { 0 } else { 16 },
        pages: 1,
        flags: 3,
    });
    first.into_iter().chain(maps).map(Op::Call).collect()
}
