//! A plan: the operations of a life, drawn with weights that are drawn first. It looks at nothing but the seed.

use model_bus::Chance;

use super::focus::{self, Pair};
use super::irq::{BLOCKS, Forge, MOST_LG2};
use super::op::{Op, OpKind, Pick};
use super::sva::{AREAS, BONDS, PROCESSES};
use super::vfio;
use super::world::{DOMAINS, SLOTS, USERS};
use crate::fault::FaultKind;
use crate::machine::MOST_DEVICES as DEVICES;
use crate::options::{MachineKind, Options};

/// An operation, and its place in the plan that was drawn: what is left out changes no number behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) index: u32,
    pub(crate) op: Op,
}

/// Ways to draw an operation; each has a weight of its own.
pub(super) type Draw = fn(&Dice<'_>) -> Op;

pub(super) struct Dice<'a>(pub(super) &'a Chance);

impl Dice<'_> {
    pub(super) fn below(&self, bound: usize) -> u64 {
        self.0.below(bound) as u64
    }

    pub(super) fn byte(&self, bound: usize) -> u8 {
        u8::try_from(self.below(bound)).expect("bounds of bytes fit")
    }

    pub(super) fn word(&self, bound: usize) -> u16 {
        u16::try_from(self.below(bound)).expect("bounds of words fit")
    }

    pub(super) fn flag(&self) -> bool {
        self.0.once_in(2)
    }

    pub(super) fn pick(&self) -> Pick {
        match self.below(16) {
            0..9 => Pick::Live(self.word(1 << 16)),
            9..12 => Pick::Stale(self.byte(8)),
            12 | 13 => Pick::Edge(self.word(1 << 16)),
            14 => Pick::Wild(self.0.next()),
            _ => Pick::Physical(self.word(1 << 12)),
        }
    }
}

/// What every machine does: how often, on average, and how.
const PLAIN: [(u32, Draw); 29] = [
    (60, |d| Op::Map {
        device: d.byte(DEVICES),
        slot: d.byte(SLOTS),
        pages: 1 + if d.0.once_in(8) { d.byte(16) } else { d.byte(3) },
        offset: if d.0.once_in(3) { d.word(4096) } else { 0 },
        direction: d.byte(3),
    }),
    (20, |d| Op::Scatter {
        device: d.byte(DEVICES),
        slot: d.byte(SLOTS),
        count: 1 + d.byte(6),
        shape: u32::try_from(d.0.next() >> 32).expect("32 bits"),
        direction: d.byte(3),
    }),
    (60, |d| Op::Unmap { slot: d.byte(SLOTS) }),
    (12, |d| Op::Coherent { device: d.byte(DEVICES), slot: d.byte(SLOTS), bytes: 1 + d.word(20_000) }),
    (12, |d| Op::FreeCoherent { slot: d.byte(SLOTS) }),
    (4, |d| Op::Flush { device: d.byte(DEVICES) }),
    (6, |d| Op::Poll { device: d.byte(DEVICES), micros: d.word(12_000) }),
    (3, |d| Op::Message { device: d.byte(DEVICES) }),
    (8, |d| Op::BindDriver { device: d.byte(DEVICES) }),
    (2, |d| Op::UnbindDriver { device: d.byte(DEVICES) }),
    (5, |d| Op::Claim { device: d.byte(DEVICES), user: d.byte(USERS), whole: d.flag() }),
    (4, |d| Op::Release { device: d.byte(DEVICES), user: d.byte(USERS), whole: d.flag() }),
    (4, |d| Op::NewDomain { domain: d.byte(DOMAINS), device: d.byte(DEVICES) }),
    (2, |d| Op::DropDomain { domain: d.byte(DOMAINS) }),
    (40, |d| Op::UserMap {
        domain: d.byte(DOMAINS),
        page: d.word(1024),
        pages: 1 + d.byte(if d.0.once_in(6) { 40 } else { 4 }),
        perms: d.byte(3),
        runs: 1 + d.byte(3),
    }),
    (40, |d| Op::UserUnmap {
        domain: d.byte(DOMAINS),
        page: d.word(1024),
        pages: 1 + d.byte(if d.0.once_in(3) { 100 } else { 6 }),
        sync: !d.0.once_in(3),
    }),
    (8, |d| Op::UserSync { domain: d.byte(DOMAINS) }),
    (8, |d| Op::Attach { device: d.byte(DEVICES), domain: d.byte(DOMAINS), user: d.byte(USERS + 1) }),
    (5, |d| Op::Detach { device: d.byte(DEVICES), user: d.byte(USERS + 1) }),
    (1, |d| Op::SetType { device: d.byte(DEVICES), lazy: d.flag() }),
    (1, |d| Op::Remove { device: d.byte(DEVICES) }),
    (3, |d| Op::Add { device: d.byte(DEVICES) }),
    (500, |d| Op::Dma {
        device: d.byte(DEVICES),
        source: d.byte(2),
        pick: d.pick(),
        write: d.flag(),
        offset: d.word(4096),
        len: 1 + d.byte(64),
    }),
    (16, |d| Op::Step { turns: 1 + d.byte(16) }),
    (8, |d| Op::Serve { unit: d.byte(2) }),
    (1, |d| Op::Die { user: d.byte(USERS) }),
    (1, |d| Op::Reset { device: d.byte(DEVICES) }),
    (1, |d| Op::Probe { shape: d.byte(4) }),
    (4, |d| Op::Translated { device: d.byte(DEVICES), pick: d.pick(), write: d.flag() }),
];

/// What machines with processes do besides.
const SHARED: [(u32, Draw); 13] = [
    (4, |d| Op::Spawn { process: d.byte(PROCESSES) }),
    (8, |d| Op::ProcessMap { process: d.byte(PROCESSES), area: d.byte(AREAS), pages: 1 + d.byte(8) }),
    (20, |d| Op::ProcessUnmap {
        process: d.byte(PROCESSES),
        area: d.byte(AREAS),
        page: d.byte(8),
        pages: 1 + d.byte(4),
    }),
    (12, |d| Op::Protect {
        process: d.byte(PROCESSES),
        area: d.byte(AREAS),
        page: d.byte(8),
        pages: 1 + d.byte(4),
        perms: d.byte(3),
    }),
    (20, |d| Op::Touch { process: d.byte(PROCESSES), area: d.byte(AREAS), page: d.byte(8), write: d.flag() }),
    (4, |d| Op::Fork { process: d.byte(PROCESSES), child: d.byte(PROCESSES) }),
    (2, |d| Op::Exit { process: d.byte(PROCESSES) }),
    (16, |d| Op::Bind { device: d.byte(DEVICES), process: d.byte(PROCESSES), bond: d.byte(BONDS) }),
    (8, |d| Op::Unbind { bond: d.byte(BONDS) }),
    (4, |d| Op::Enable { device: d.byte(DEVICES) }),
    (1, |d| Op::Disable { device: d.byte(DEVICES) }),
    (300, |d| Op::SharedDma {
        bond: d.byte(BONDS),
        area: d.byte(AREAS),
        page: d.byte(9),
        write: d.flag(),
        offset: d.word(4096),
    }),
    (6, |d| Op::PageRequest { device: d.byte(DEVICES), bits: d.0.next(), count: 1 + d.byte(32) }),
];

/// What machines whose IOMMUs remap interrupts do besides.
const REMAPPED: [(u32, Draw); 5] = [
    (8, |d| Op::TakeIrqs {
        device: d.byte(DEVICES),
        place: d.byte(BLOCKS),
        count_lg2: if d.0.once_in(4) { d.byte(MOST_LG2 + 1) } else { d.byte(3) },
        bits: d.word(1 << 16),
    }),
    (30, |d| Op::MoveIrq { place: d.byte(BLOCKS), index: d.byte(256), bits: d.word(1 << 16) }),
    (8, |d| Op::ClearIrq { place: d.byte(BLOCKS), index: d.byte(256) }),
    (6, |d| Op::FreeIrqs { place: d.byte(BLOCKS) }),
    (100, |d| Op::RaiseIrq {
        device: d.byte(DEVICES),
        source: d.byte(2),
        place: d.byte(BLOCKS),
        index: d.byte(256),
        forge: match d.below(8) {
            0 | 1 => Forge::Others,
            2 => Forge::Entry(d.word(300)),
            3 => Forge::Compatible(d.word(1 << 16)),
            _ => Forge::Nothing,
        },
    }),
];

/// Faults that operations arm; the others happen by operations of their own. What devices do wrong happens in the middle of another operation where it was
/// armed, and by an operation of its own besides.
pub(super) const ARMED: [FaultKind; 17] = [
    FaultKind::AllocationFails,
    FaultKind::CommandError,
    FaultKind::LateSync,
    FaultKind::NoSync,
    FaultKind::MessageLost,
    FaultKind::AtcSlow,
    FaultKind::AtcTwice,
    FaultKind::AtcNever,
    FaultKind::LyingFirmware,
    FaultKind::WrongPasid,
    FaultKind::WrongGroup,
    FaultKind::NoLast,
    FaultKind::NoCredits,
    FaultKind::AfterStop,
    FaultKind::Flood,
    FaultKind::ForgedTranslated,
    FaultKind::BitFlip,
];

/// Weights that are drawn: each about what it is on average, and now and then nothing, so that some lives do without.
fn weigh(chance: &Chance, table: &[(u32, Draw)], into: &mut Vec<(u64, Draw)>) {
    let mut sum = into.last().map_or(0, |(sum, _)| *sum);
    for &(average, draw) in table {
        let scale = [0, 1, 2, 4, 4, 4, 8, 12][chance.below(8)];
        sum += u64::from(average) * scale;
        into.push((sum, draw));
    }
}

/// What is drawn on a machine of a kind.
fn tables(kind: MachineKind) -> Vec<&'static [(u32, Draw)]> {
    match kind {
        MachineKind::Sva => vec![&PLAIN, &SHARED],
        MachineKind::Vfio => vec![&vfio::CALLS],
        MachineKind::Power8 => vec![&vfio::CALLS, &vfio::POWER],
        MachineKind::X86 => vec![&PLAIN, &REMAPPED],
        MachineKind::X86Sva => vec![&PLAIN, &REMAPPED, &SHARED],
        MachineKind::Any | MachineKind::Smmuv3 | MachineKind::Smmuv2 => vec![&PLAIN],
    }
}

/// The plan of a life: at most `most` operations.
pub(crate) fn draw(seed: u64, kind: MachineKind, options: &Options, most: usize) -> Vec<Step> {
    let (chance, faults) = (Chance::new(seed ^ 0x91a4_5eed), options.faults);
    let mut weights = Vec::new();
    for table in tables(kind) {
        weigh(&chance, table, &mut weights);
    }
    let total = weights.last().map_or(1, |(sum, _)| *sum).max(1);
    let arm_one_in = if faults { [40, 100, 300, 1000][chance.below(4)] } else { usize::MAX };
    let dice = Dice(&chance);
    let op = || {
        if faults && chance.once_in(arm_one_in) {
            return arm(&dice, options.spared, focus::flips(seed));
        }
        let at = dice.below(usize::try_from(total).unwrap_or(usize::MAX));
        let place = weights.partition_point(|(sum, _)| *sum <= at);
        (weights[place.min(weights.len() - 1)].1)(&dice)
    };
    let aside = Aside::new(seed, kind, options);
    let mut ops = Vec::with_capacity(most + 2);
    while ops.len() < most {
        ops.push(op());
        aside.pair(&mut ops);
    }
    ops.truncate(most.saturating_sub(1));
    ops.extend(aside.last());
    ops.into_iter().zip(0..).map(|(op, index)| Step { index, op }).collect()
}

/// What is put between the operations of a plan: a fault, and at once an operation that it is to meet.
struct Aside {
    chance: Chance,
    pairs: Vec<(FaultKind, Draw)>,
    /// What the end of the life is to meet.
    end: Option<FaultKind>,
}

/// A pair is put behind one in so many operations.
const PAIR_ONE_IN: usize = 24;

impl Aside {
    fn new(seed: u64, kind: MachineKind, options: &Options) -> Self {
        let pairs = if options.faults { focus::of(seed, kind) } else { Vec::new() };
        let pairs = pairs.into_iter().filter(|(_, fault)| !options.spared.contains(fault));
        let (at_end, between): (Vec<Pair>, Vec<Pair>) = pairs.partition(|(op, _)| *op == OpKind::Teardown);
        let drawn = |(op, fault): Pair| draw_of(op, kind).map(|draw| (fault, draw));
        Self {
            chance: Chance::new(seed ^ 0xa51de),
            pairs: between.into_iter().filter_map(drawn).collect(),
            end: at_end.first().map(|&(_, fault)| fault),
        }
    }

    /// The last step of the plan.
    fn last(&self) -> Option<Op> {
        self.end.map(|fault| Op::Arm { fault, n: 1 + Dice(&self.chance).word(3) })
    }

    fn pair(&self, ops: &mut Vec<Op>) {
        if self.pairs.is_empty() || !self.chance.once_in(PAIR_ONE_IN) {
            return;
        }
        let (fault, draw) = self.pairs[self.chance.below(self.pairs.len())];
        let dice = Dice(&self.chance);
        let n = 1 + if dice.0.once_in(3) { dice.word(6) } else { 0 };
        let op = draw(&dice);
        if let Op::Touch { process, .. } = op {
            // Only what is shared with a child is taken away from devices when it is written.
            ops.push(Op::Fork { process, child: dice.byte(PROCESSES) });
        }
        if let (Op::Serve { .. }, FaultKind::LateSync | FaultKind::NoSync) = (op, fault) {
            // Hardware is told something as errors are handled only if it could not be told before.
            ops.push(Op::Arm { fault: FaultKind::NoSync, n: 1 });
            ops.push(Op::Claim { device: dice.byte(DEVICES), user: dice.byte(USERS), whole: true });
        }
        if let (Op::Call(call), FaultKind::AllocationFails) = (op, fault) {
            ops.extend(vfio::before(call));
        }
        ops.push(Op::Arm { fault, n });
        ops.push(op);
    }
}

/// The way in which operations of a kind are drawn; none for the end of a life, which is not drawn.
fn draw_of(op: OpKind, kind: MachineKind) -> Option<Draw> {
    let chance = Chance::new(0);
    let dice = Dice(&chance);
    let all = tables(kind).into_iter().flatten();
    all.map(|&(_, draw)| draw).find(|draw| draw(&dice).kind() == Some(op))
}

fn arm(dice: &Dice<'_>, spared: &[FaultKind], flips: bool) -> Op {
    let fault = ARMED[dice.0.below(ARMED.len())];
    let n = match fault {
        FaultKind::AllocationFails => 1 + if dice.0.once_in(4) { dice.word(40) } else { dice.word(5) },
        _ => 1 + dice.word(4),
    };
    // What is spared is drawn all the same, so that the rest of the plan is what it would be.
    if spared.contains(&fault) || fault == FaultKind::BitFlip && !flips {
        Op::Step { turns: 1 }
    } else {
        Op::Arm { fault, n }
    }
}
