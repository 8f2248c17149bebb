//! A correct driver under every policy: it is never wrong, and never noted. And one that leaves invalidations out: it is always caught.

use std::collections::BTreeMap;

use model_smmuv3::{Config, Policy};

use crate::harness::{Got, L3, Machine, PAGE};

/// SplitMix64 of this test's own.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Maps, unmaps and uses pages at random. Answers how often a device reached a page that was not mapped (or not where it leads).
fn run(policy: Policy, seed: u64, invalidates: bool) -> usize {
    let machine = Machine::stage1(Config { policy, ..Config::default() });
    // The entry may have been fetched before it was written.
    machine.flush_ste(1);
    machine.words(L3 + 8, &[0]);
    let mut random = Random(seed);
    let mut pages: BTreeMap<u64, u64> = BTreeMap::new();
    let mut wrong = 0;
    for _ in 0..400 {
        let page = random.below(32);
        match (random.below(4), pages.get(&page).copied()) {
            (0, None) => {
                let output = 0x100_0000 + random.below(256) * 0x1000;
                machine.words(L3 + page * 8, &[output | PAGE]);
                pages.insert(page, output);
            }
            (1, Some(_)) => {
                machine.words(L3 + page * 8, &[0]);
                if invalidates {
                    machine.command(0x0001_0000_0000_0012, page << 12 | 1);
                    machine.sync();
                }
                pages.remove(&page);
            }
            (_, expected) => match (machine.read(1, page << 12 | 0x10), expected) {
                (Got::At(at), Some(output)) => wrong += usize::from(at != output | 0x10),
                (Got::Abort, None) => {}
                // A page that is mapped is always reached: a fault would be a wrong translation, too.
                _ => wrong += 1,
            },
        }
    }
    if invalidates {
        machine.assert_clean();
    }
    wrong
}

#[test]
fn a_correct_driver_is_right_under_every_policy_and_seed() {
    for seed in 0..12 {
        for policy in [Policy::stale(), Policy::eager(), Policy::hostile()] {
            assert_eq!(run(policy, seed, true), 0, "seed {seed}, {policy:?}");
        }
    }
}

#[test]
fn a_driver_that_leaves_out_invalidations_is_caught_under_every_policy_and_seed() {
    for seed in 0..12 {
        for policy in [Policy::stale(), Policy::eager(), Policy::hostile()] {
            assert_ne!(run(policy, seed, false), 0, "seed {seed}, {policy:?}");
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    let trace = |seed: u64| {
        let machine = Machine::stage1(Config { policy: Policy::hostile(), ..Config::default() });
        machine.flush_ste(1);
        let mut random = Random(seed);
        let pages: Vec<u64> = (0..64).map(|i| (0x100_0000 + i * 0x1000) | PAGE).collect();
        machine.words(L3, &pages);
        for _ in 0..200 {
            let _ = machine.read(1, random.below(96) << 12);
            machine.smmu_step();
        }
        (machine.smmu.counters(), machine.smmu.cached_translations())
    };
    assert_eq!(trace(3), trace(3));
}
