//! Parts 6 and 7: ASIDs of CPUs, their generations, and those that are pinned. Each test runs against TLBs that remember.
#![expect(clippy::cast_possible_truncation, reason = "test numbers are small")]

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::collections::BTreeMap;

use portcullis_core::asid::{
    Activation, AsidContext, AsidSpace, AsidSpaceError, NoSuchCpu, NotPinned, PinError,
};
use proptest::prelude::*;

type Space = AsidSpace<spin::Mutex<()>>;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// An address space on a CPU.
    Run(usize, usize),
    Pin(usize),
    Unpin(usize),
}

/// Address spaces, the CPUs that run them, and everything that any TLB may remember of them.
struct World {
    space: Space,
    contexts: Vec<AsidContext>,
    /// What each CPU's TLB holds: ASID, and whose entries.
    tlbs: Vec<BTreeMap<u16, usize>>,
    /// What each CPU runs.
    running: Vec<Option<(usize, u16)>>,
    /// What devices' TLBs hold: ASID of each pinned address space, and how often it is pinned.
    pinned: BTreeMap<usize, (u16, u32)>,
    /// The last ASID of each address space.
    last: Vec<Option<u16>>,
}

impl World {
    fn new(bits: u8, cpus: usize, pairs: bool, contexts: usize) -> Self {
        Self {
            space: Space::new(bits, cpus, pairs).unwrap(),
            contexts: (0..contexts).map(|_| AsidContext::new()).collect(),
            tlbs: vec![BTreeMap::new(); cpus],
            running: vec![None; cpus],
            pinned: BTreeMap::new(),
            last: vec![None; contexts],
        }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Run(who, cpu) => self.run(who, cpu),
            Op::Pin(who) => self.pin(who),
            Op::Unpin(who) => self.unpin(who),
        }
        self.assert_nobody_shares();
    }

    fn run(&mut self, who: usize, cpu: usize) {
        let Activation { asid, flush } = self.space.activate(cpu, &self.contexts[who]).unwrap();
        if flush {
            self.tlbs[cpu].clear();
        }
        let remembered = self.tlbs[cpu].insert(asid, who);
        assert!(remembered.is_none_or(|other| other == who), "stale entries of {remembered:?} for {who}");
        self.running[cpu] = Some((who, asid));
        // So that what is broadcast for it reaches every CPU that runs it.
        assert!(
            self.running.iter().flatten().all(|&(other, its)| other != who || its == asid),
            "two ASIDs for {who}"
        );
        self.last[who] = Some(asid);
        if let Some((pinned, _)) = self.pinned.get(&who) {
            assert_eq!(*pinned, asid, "pinned");
        }
    }

    fn pin(&mut self, who: usize) {
        let limit = self.space.most_pinned();
        match self.space.pin(&self.contexts[who]) {
            Ok(asid) => {
                let (pinned, count) = self.pinned.entry(who).or_insert((asid, 0));
                assert_eq!(*pinned, asid);
                *count += 1;
                self.last[who] = Some(asid);
                assert!(self.pinned.len() <= limit);
            }
            Err(error) => {
                assert_eq!(error, PinError::TooMany { limit });
                assert!(self.pinned.len() == limit && !self.pinned.contains_key(&who));
            }
        }
    }

    fn unpin(&mut self, who: usize) {
        let expected = self.pinned.get_mut(&who).map(|(_, count)| {
            *count -= 1;
            *count
        });
        assert_eq!(self.space.unpin(&self.contexts[who]), expected.map(|_| ()).ok_or(NotPinned));
        if expected == Some(0) {
            self.pinned.remove(&who);
        }
    }

    /// Those who have an ASID now: of this generation, on a CPU, or pinned.
    fn assert_nobody_shares(&self) {
        let current = (0..self.contexts.len()).filter(|&who| self.space.asid_gen_match(&self.contexts[who]));
        let current = current.map(|who| (who, self.last[who].unwrap()));
        let running = self.running.iter().copied().flatten();
        let pinned = self.pinned.iter().map(|(&who, &(asid, _))| (who, asid));
        let mut owners = BTreeMap::new();
        for (who, asid) in current.chain(running).chain(pinned) {
            assert_ne!(asid, 0);
            let owner = *owners.entry(asid).or_insert(who);
            assert_eq!(owner, who, "both have ASID {asid}");
        }
    }
}

/// Every sequence of `depth` operations.
fn every_history(depth: usize, make: impl Fn() -> World) {
    let sample = make();
    let (contexts, cpus) = (sample.contexts.len(), sample.tlbs.len());
    let mut ops: Vec<Op> =
        (0..contexts).flat_map(|who| (0..cpus).map(move |cpu| Op::Run(who, cpu))).collect();
    ops.extend((0..contexts).flat_map(|who| [Op::Pin(who), Op::Unpin(who)]));
    for number in 0..ops.len().pow(depth as u32) {
        let mut world = make();
        let mut rest = number;
        for _ in 0..depth {
            world.act(ops[rest % ops.len()]);
            rest /= ops.len();
        }
    }
}

#[test]
fn in_every_short_history_on_one_cpu_no_tlb_holds_anothers_entries() {
    every_history(5, || World::new(2, 1, false, 4));
}

#[test]
fn in_every_short_history_on_two_cpus_no_tlb_holds_anothers_entries() {
    every_history(5, || World::new(2, 2, false, 3));
}

fn ops(contexts: usize, cpus: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..contexts, 0..cpus).prop_map(|(who, cpu)| Op::Run(who, cpu)),
        1 => (0..contexts).prop_map(Op::Pin),
        1 => (0..contexts).prop_map(Op::Unpin),
    ];
    proptest::collection::vec(op, 1..300)
}

proptest! {
    #[test]
    fn in_any_long_history_no_tlb_holds_anothers_entries(ops in ops(20, 3), pairs: bool) {
        let mut world = World::new(if pairs { 5 } else { 4 }, 3, pairs, 20);
        ops.into_iter().for_each(|op| world.act(op));
    }
}

#[test]
fn a_generation_ends_when_all_are_used_and_every_cpu_flushes_once() {
    let space = Space::new(4, 2, false).unwrap();
    let contexts: Vec<AsidContext> = (0..17).map(|_| AsidContext::new()).collect();
    let run = |cpu: usize, who: usize| space.activate(cpu, &contexts[who]).unwrap();
    for (who, context) in contexts.iter().enumerate().take(15) {
        assert!(!space.asid_gen_match(context));
        assert_eq!(run(0, who), Activation { asid: who as u16 + 1, flush: false });
        assert!(space.asid_gen_match(context));
    }
    assert!(!run(1, 3).flush);
    // The 16th begins a new generation. What the CPUs run (14 and 3) keeps its ASID.
    assert_eq!(run(0, 15), Activation { asid: 1, flush: true });
    assert!((0..15).all(|who| !space.asid_gen_match(&contexts[who])));
    assert_eq!(run(1, 3), Activation { asid: 4, flush: true });
    assert_eq!(run(1, 14), Activation { asid: 15, flush: false });
    assert_eq!(run(0, 0), Activation { asid: 2, flush: false }, "its old one is taken");
    assert_eq!(run(0, 5), Activation { asid: 6, flush: false }, "its old one is free");
}

#[test]
fn what_a_cpu_keeps_running_keeps_its_asid_over_many_generations_on_every_cpu() {
    let mut world = World::new(4, 2, false, 60);
    world.act(Op::Run(0, 0));
    for round in 0..4 {
        // More than there are, while CPU 0 stays where it is.
        (1..60).for_each(|who| world.act(Op::Run(who, 1)));
        assert!(!world.space.asid_gen_match(&world.contexts[0]), "round {round}");
        world.act(Op::Run(0, 1));
        assert_eq!(world.last[0], Some(1));
    }
}

#[test]
fn a_pinned_asid_survives_rollovers_until_the_last_unpin() {
    let mut world = World::new(4, 1, false, 40);
    world.pin(0);
    world.pin(0);
    let pinned = world.last[0];
    (1..40).for_each(|who| world.act(Op::Run(who, 0)));
    world.act(Op::Run(0, 0));
    assert_eq!(world.last[0], pinned);
    world.act(Op::Unpin(0));
    (1..40).for_each(|who| world.act(Op::Run(who, 0)));
    assert!(
        (1..40).all(|who| !world.space.asid_gen_match(&world.contexts[who]) || world.last[who] != pinned)
    );
    world.act(Op::Unpin(0));
    assert_eq!(world.space.unpin(&world.contexts[0]), Err(NotPinned));
    (1..40).cycle().take(400).for_each(|who| world.act(Op::Run(who, 0)));
    assert!((1..40).any(|who| world.last[who] == pinned), "it is given out again");
}

#[test]
fn all_but_one_for_each_cpu_and_two_can_be_pinned_and_others_still_run() {
    for (bits, cpus, pairs, limit) in
        [(4, 2, false, 12), (4, 2, true, 4), (8, 8, false, 246), (16, 4, true, 32762)]
    {
        let mut world = World::new(bits, cpus, pairs, limit + 20);
        assert_eq!(world.space.most_pinned(), limit);
        (0..limit).for_each(|who| world.pin(who));
        assert_eq!(world.space.pin(&world.contexts[limit]), Err(PinError::TooMany { limit }));
        if limit < 300 {
            for who in limit..limit + 20 {
                (0..cpus).for_each(|cpu| world.act(Op::Run(who, cpu)));
            }
        }
        world.unpin(0);
        assert!(world.space.pin(&world.contexts[limit]).is_ok());
    }
}

#[test]
fn with_pairs_the_processs_half_is_told() {
    let space = Space::new(4, 1, true).unwrap();
    let (a, b) = (AsidContext::new(), AsidContext::new());
    assert_eq!(space.pin(&a), Ok(3));
    assert_eq!(space.activate(0, &a), Ok(Activation { asid: 3, flush: false }));
    assert_eq!(space.activate(0, &b), Ok(Activation { asid: 5, flush: false }));
}

#[test]
fn too_few_asids_and_cpus_that_are_not_there_are_refused() {
    assert_eq!(Space::new(2, 3, false).unwrap_err(), AsidSpaceError::TooFew { count: 4, cpus: 3 });
    assert_eq!(
        Space::new(4, usize::MAX, false).unwrap_err(),
        AsidSpaceError::TooFew { count: 16, cpus: usize::MAX }
    );
    assert_eq!(Space::new(0, 1, false).unwrap_err(), AsidSpaceError::BadWidth { bits: 0 });
    assert_eq!(Space::new(17, 1, false).unwrap_err(), AsidSpaceError::BadWidth { bits: 17 });
    let space = Space::new(4, 2, false).unwrap();
    assert_eq!(space.activate(2, &AsidContext::new()), Err(NoSuchCpu(2)));
}

#[test]
fn every_asid_of_a_wide_space_is_given_out_before_a_rollover() {
    let space = Space::new(16, 4, false).unwrap();
    let first = AsidContext::new();
    assert_eq!(space.activate(0, &first).unwrap().asid, 1);
    for n in 2..=0xffffu32 {
        let activation = space.activate(1, &AsidContext::new()).unwrap();
        assert_eq!(activation, Activation { asid: n as u16, flush: false });
    }
    assert!(space.activate(1, &AsidContext::new()).unwrap().flush);
    assert!(!space.asid_gen_match(&first));
    assert_eq!(space.activate(0, &first), Ok(Activation { asid: 1, flush: true }), "it was running");
}

#[test]
fn cpus_that_switch_at_the_same_time_never_see_anothers_entries() {
    const CPUS: usize = 4;
    let space = Space::new(4, CPUS, false).unwrap();
    let contexts: Vec<AsidContext> = (0..24).map(|_| AsidContext::new()).collect();
    let pinned: Vec<u16> = contexts[..3].iter().map(|context| space.pin(context).unwrap()).collect();
    let go = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (space, contexts, pinned, go) = (&space, &contexts, &pinned, &go);
            scope.spawn(move || {
                let mut tlb = BTreeMap::new();
                let mut dice = 0x9e37_79b9u32.wrapping_mul(cpu as u32 + 1);
                while !go.load(SeqCst) {
                    std::thread::yield_now();
                }
                for _ in 0..100_000 {
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let who = (dice >> 16) as usize % contexts.len();
                    let Activation { asid, flush } = space.activate(cpu, &contexts[who]).unwrap();
                    if flush {
                        tlb.clear();
                    }
                    let remembered = tlb.insert(asid, who).filter(|&other| other != who);
                    assert_eq!(remembered, None, "on CPU {cpu}");
                    assert!(who >= 3 || pinned[who] == asid);
                    assert!(who < 3 || !pinned.contains(&asid));
                }
            });
        }
        go.store(true, SeqCst);
    });
}
