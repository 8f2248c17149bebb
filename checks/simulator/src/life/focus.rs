//! Which pairs of an operation and a fault a life tries on purpose: by chance alone some would meet once in a night.
//!
//! The pairs follow from the seed and nothing else, so that a life is the same whatever came before it. A run that still lacks some pairs chooses among the next
//! seeds one whose life tries one of them ([`next_seed`]).

use model_bus::Chance;

use super::op::OpKind;
use super::plan::ARMED;
use crate::cover::{Coverage, apart};
use crate::fault::FaultKind;
use crate::machine::Spec;
use crate::options::MachineKind;

/// An operation and a fault.
pub(crate) type Pair = (OpKind, FaultKind);

/// How many pairs a life tries.
const PAIRS: usize = 6;
/// Among so many seeds one is looked for.
const AHEAD: u64 = 64;

/// The pairs that can meet on a machine, of faults that are armed; but for those that do so by the way, which are left to chance.
fn all(kind: MachineKind) -> Vec<Pair> {
    let pairs = OpKind::ALL.into_iter().flat_map(|op| ARMED.into_iter().map(move |fault| (op, fault)));
    pairs.filter(|&(op, fault)| op.is_on(kind) && fault.is_on(kind) && apart(op, fault).is_none()).collect()
}

/// Whether bits flip in the life of a seed: in few, for what is leaked and who stays is not looked at in those.
pub(super) fn flips(seed: u64) -> bool {
    Chance::new(seed ^ 0xf11b).once_in(8)
}

/// Those among which a life may have some: bits flip in it, or not.
fn among(kind: MachineKind, flips: bool) -> Vec<Pair> {
    let mut all = all(kind);
    all.retain(|(_, fault)| flips || *fault != FaultKind::BitFlip);
    all
}

fn drawn(seed: u64, among: &[Pair]) -> impl Iterator<Item = Pair> {
    let chance = Chance::new(seed ^ 0x000f_0c05);
    (0..PAIRS).map(move |_| among[chance.below(among.len())])
}

/// The pairs that the life of a seed tries.
pub(crate) fn of(seed: u64, kind: MachineKind) -> Vec<Pair> {
    drawn(seed, &among(kind, flips(seed))).collect()
}

/// The seed of the next life: the next number, or one soon behind it whose life tries what has not been met.
pub(crate) fn next_seed(seed: u64, machine: MachineKind, met: &Coverage, spared: &[FaultKind]) -> u64 {
    let next = seed.wrapping_add(1);
    let lacks = |pair: &Pair| met.met(pair.0, pair.1) == 0 && !spared.contains(&pair.1);
    if seed.is_multiple_of(2) {
        return next;
    }
    let (of_pairs, all_pairs) = met.pairs();
    if of_pairs == all_pairs {
        return next;
    }
    // What can be drawn is the same for many of them.
    let mut known: Vec<((MachineKind, bool), Vec<Pair>)> = Vec::new();
    let tries = |seed: &u64| {
        let of = (Spec::draw(*seed, machine).kind, flips(*seed));
        let place = known.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            known.push((of, among(of.0, of.1)));
            known.len() - 1
        });
        drawn(*seed, &known[place].1).any(|pair| lacks(&pair))
    };
    (0..AHEAD).map(|ahead| next.wrapping_add(ahead)).find(tries).unwrap_or(next)
}
