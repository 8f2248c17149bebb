//! Resets of what is below a bridge.

extern crate std;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use portcullis_hal::Clock;
use portcullis_spec::pcie::Bdf;

use super::{bdf, host};
use crate::fake::{DOWNSTREAM, Fake, FakeFunction, ROOT_PORT, UPSTREAM};
use crate::{Below, ConfigAccess, ResetError, Topology, enumerate};

const MS: u64 = 1_000_000;

/// A tree whose first function, a root port, has a link that takes time.
struct Tree {
    fake: Fake,
    now_ns: AtomicU64,
    port: usize,
    below: Vec<usize>,
    state: Mutex<State>,
    /// How long the link is down after a reset, and then the functions are silent; in nanoseconds.
    train_ns: u64,
    silent_ns: u64,
    /// How long the link of a port further down is down after that, above bus 3; in nanoseconds.
    inner_ns: u64,
    /// Whether a reset reaches the functions.
    deaf: bool,
}

#[derive(Default)]
struct State {
    held_since: Option<u64>,
    let_go: Option<u64>,
    /// When a configuration request arrived too early: how long after the link was up.
    early_ns: Vec<u64>,
    /// How long resets were held.
    held_ns: Vec<u64>,
    /// Which addresses were moved while somebody might have reached them.
    moved_live: Vec<(Bdf, u16)>,
    /// Whose device status got ones, which clear errors that nobody has seen.
    cleared: Vec<Bdf>,
}

/// Link capabilities and status of a port that says whether its link is up.
fn reporting(function: FakeFunction) -> FakeFunction {
    function.word(0x4c, 0x0010_0043).word(0x50, 0x2043_0000)
}

fn bridge(kind: u32) -> FakeFunction {
    FakeFunction::bridge().express(kind).writable(0x3c, 0x0043_00ff).writable(0x48, 0x0000_7fff)
}

impl Tree {
    fn new() -> Self {
        let fake = Fake::new(0);
        let port = fake.root(0x08, reporting(bridge(ROOT_PORT)).writable(0x3c, 0x0043_00ff));
        let up = fake.below(port, 0, bridge(UPSTREAM));
        let left = fake.below(up, 0x00, reporting(bridge(DOWNSTREAM).acs(crate::fake::ACS_FULL)));
        let a = fake.below(
            left,
            0,
            FakeFunction::endpoint()
                .bar64(0, 0x4000, false)
                .express(0)
                .writable(0x48, 0x0000_7fff)
                .writable(0x68, 0x0000_ffff),
        );
        let right = fake.below(up, 0x08, bridge(DOWNSTREAM));
        let b = fake.below(
            right,
            0,
            FakeFunction::endpoint().bar32(0, 0x10).bar_io(5, 0x20).writable(0x3c, 0xff),
        );
        let now_ns = AtomicU64::new(0);
        let (state, below) = (Mutex::default(), Vec::from([up, left, a, right, b]));
        Self { fake, now_ns, port, below, state, train_ns: 30 * MS, silent_ns: 0, inner_ns: 0, deaf: false }
    }

    fn topology(&self) -> Topology {
        enumerate(&self.fake, &host())
    }

    /// All words of everything below that are not zero: which function's, at which offset.
    fn words(&self) -> Vec<(usize, usize, u32)> {
        let offsets = (0..0x1000).step_by(4);
        let words = self.below.iter().flat_map(|&function| {
            offsets.clone().map(move |offset| (function, offset, self.fake.raw(function, offset)))
        });
        words.filter(|(.., word)| *word != 0).collect()
    }

    /// Registers of everything below are as out of reset.
    fn forget(&self) {
        for &function in self.below.iter().filter(|_| !self.deaf) {
            let kept = |offset: usize| matches!(offset, 0 | 8 | 0x34 | 0x40 | 0x44 | 0x4c | 0x50 | 0x100);
            let offsets = (0..0x200).step_by(4).filter(|&offset| !kept(offset));
            for offset in offsets {
                let word = self.fake.raw(function, offset);
                // Header type, capabilities, kinds of registers and windows stay.
                let endpoint = [self.below[2], self.below[4]].contains(&function);
                let kept = match offset {
                    4 => 0xffff_0000,
                    0xc => 0x00ff_0000,
                    0x10 | 0x14 | 0x18 | 0x1c | 0x20 | 0x24 if endpoint => 0xf,
                    0x1c => 0x0f0f,
                    0x24 => 0x000f_000f,
                    0x104 => 0xffff,
                    _ => 0,
                };
                self.fake.poke(function, offset, word & kept);
            }
        }
    }

    fn link_is_up(&self, state: &State) -> bool {
        state.held_since.is_none()
            && state.let_go.is_none_or(|at| self.now_ns.load(Relaxed) >= at + self.train_ns)
    }

    fn reaches(&self, at: Bdf) -> bool {
        let mut state = self.state.lock().unwrap();
        if at.bus() == 0 {
            return true;
        }
        if !self.link_is_up(&state) {
            state.early_ns.push(0);
            return false;
        }
        let Some(up_since) = state.let_go.map(|at| at + self.train_ns) else { return true };
        let up_ns = self.now_ns.load(Relaxed) - up_since;
        if up_ns < 100 * MS {
            state.early_ns.push(up_ns);
        }
        if at.bus() == 3 && up_ns < self.inner_ns + 100 * MS {
            state.early_ns.push(up_ns);
        }
        up_ns >= self.silent_ns && (at.bus() != 3 || up_ns >= self.inner_ns)
    }

    /// Whether the link above bus 3 is up.
    fn inner_is_up(&self, state: &State) -> bool {
        let up = |at| self.now_ns.load(Relaxed) >= at + self.train_ns + self.inner_ns;
        state.let_go.is_none_or(up)
    }
}

impl ConfigAccess for Tree {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        if !self.reaches(at) {
            return u32::MAX;
        }
        let word = self.fake.read32(at, offset);
        let state = self.state.lock().unwrap();
        let root = at == bdf(0, 1, 0) && !self.link_is_up(&state);
        let inner = at == bdf(2, 0, 0) && !self.inner_is_up(&state);
        let down = offset == 0x50 && (root || inner);
        if down { word & !0x2000_0000 } else { word }
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if !self.reaches(at) {
            return;
        }
        let moves = (0x10..0x28).contains(&offset) && self.fake.read32(at, offset) != value;
        if moves && self.fake.read32(at, 4) & 3 != 0 {
            self.state.lock().unwrap().moved_live.push((at, offset));
        }
        if offset == 0x48 && value >> 16 != 0 {
            self.state.lock().unwrap().cleared.push(at);
        }
        self.fake.write32(at, offset, value);
        if at == bdf(0, 1, 0) && offset == 0x3c {
            let now = self.now_ns.load(Relaxed);
            let mut state = self.state.lock().unwrap();
            match (value & 0x0040_0000 != 0, state.held_since) {
                (true, None) => {
                    state.held_since = Some(now);
                    drop(state);
                    self.forget();
                }
                (false, Some(since)) => {
                    state.held_ns.push(now - since);
                    (state.held_since, state.let_go) = (None, Some(now));
                }
                _ => {}
            }
        }
    }
}

impl Clock for Tree {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn relax(&self) {
        self.now_ns.fetch_add(MS / 10, Relaxed);
    }
}

#[test]
fn after_a_reset_everything_below_is_configured_as_before() {
    let tree = Tree::new();
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    assert_eq!(below.functions().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let before = tree.words();
    topology.enable_bus_master(&tree, 3);
    below.prepare(&tree);
    below.hot_reset(&tree, &tree);
    assert_ne!(tree.words(), before);
    below.await_ready(&tree, &tree).unwrap();
    assert!(below.was_reset(&tree));
    below.set_up(&tree, &tree).unwrap();
    assert!(!below.was_reset(&tree));
    let mut wanted = before;
    // Bridges pass requests up again. The endpoint sends none before somebody says so.
    let bridges = [tree.below[0], tree.below[1]];
    let commands =
        wanted.iter_mut().filter(|(function, offset, _)| bridges.contains(function) && *offset == 4);
    commands.for_each(|(.., word)| *word |= 4);
    assert_eq!(tree.words(), wanted);
    // Once more changes nothing.
    below.set_up(&tree, &tree).unwrap();
    assert_eq!(tree.words(), wanted);
    let state = tree.state.lock().unwrap();
    assert!(state.held_ns.len() == 1 && state.held_ns[0] >= MS, "{:?}", state.held_ns);
    assert_eq!(state.early_ns, []);
}

#[test]
fn a_link_that_stays_down_and_a_function_that_stays_silent_are_told_in_time() {
    let mut tree = Tree::new();
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    let mut ready = |tree: &Tree| {
        below.prepare(tree);
        below.hot_reset(tree, tree);
        below.await_ready(tree, tree)
    };
    tree.silent_ns = 900 * MS;
    assert_eq!(ready(&tree), Ok(()));
    tree.silent_ns = u64::MAX;
    assert_eq!(ready(&tree), Err(ResetError::Silent(bdf(1, 0, 0))));
    (tree.train_ns, tree.silent_ns) = (10_000 * MS, 0);
    assert_eq!(ready(&tree), Err(ResetError::Link { port: bdf(0, 1, 0), status: 0x0043 }));
    assert!(tree.now_ns.load(Relaxed) < 10_000 * MS);
}

#[test]
fn bridges_that_do_not_answer_are_set_up_by_what_was_known_of_them() {
    let mut tree = Tree::new();
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    // The left one passes requests up, the right one does not.
    topology.enable_bus_master(&tree, 3);
    below.prepare(&tree);
    tree.silent_ns = u64::MAX;
    below.hot_reset(&tree, &tree);
    assert_eq!(below.await_ready(&tree, &tree), Err(ResetError::Silent(bdf(1, 0, 0))));
    // Tried again: all ones say nothing.
    below.prepare(&tree);
    tree.silent_ns = 0;
    below.hot_reset(&tree, &tree);
    below.await_ready(&tree, &tree).unwrap();
    below.set_up(&tree, &tree).unwrap();
    let masters = [0, 1, 3].map(|bridge| tree.fake.raw(tree.below[bridge], 4) & 4);
    assert_eq!(masters, [4, 4, 0]);
}

#[test]
fn a_port_that_keeps_nothing_apart_after_a_reset_is_not_set_up() {
    let tree = Tree::new();
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    topology.enable_bus_master(&tree, 3);
    below.prepare(&tree);
    below.hot_reset(&tree, &tree);
    below.await_ready(&tree, &tree).unwrap();
    tree.fake.fix(tree.below[1], 0x104);
    assert_eq!(below.set_up(&tree, &tree), Err(ResetError::NotApart(bdf(2, 0, 0))));
    assert_eq!(tree.fake.raw(tree.below[1], 4) & 7, 0, "it passes nothing on, in neither direction");
}

#[test]
fn what_is_behind_another_link_is_left_alone_until_that_had_its_time() {
    let mut tree = Tree::new();
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    tree.inner_ns = 400 * MS;
    below.prepare(&tree);
    below.hot_reset(&tree, &tree);
    below.await_ready(&tree, &tree).unwrap();
    below.set_up(&tree, &tree).unwrap();
    assert_eq!(tree.state.lock().unwrap().early_ns, []);
    assert!(tree.now_ns.load(Relaxed) >= 530 * MS);
}

#[test]
fn a_port_that_leads_to_nobody_has_no_link_to_wait_for() {
    let tree = Tree::new();
    // Its link is down for good.
    let empty = bridge(DOWNSTREAM).word(0x4c, 0x0010_0043).word(0x50, 0x0043_0000);
    tree.fake.below(tree.below[0], 0x10, empty);
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    assert_eq!(below.functions().count(), 6);
    below.prepare(&tree);
    below.hot_reset(&tree, &tree);
    below.await_ready(&tree, &tree).unwrap();
    assert_eq!(below.set_up(&tree, &tree), Ok(()));
}

#[test]
fn addresses_move_while_nobody_is_reached_by_them() {
    let mut tree = Tree::new();
    // Nobody was reset, and all have moved since: they answer by other addresses.
    tree.deaf = true;
    let topology = tree.topology();
    let below = Below::new(&tree, &topology, 0).unwrap();
    let endpoint = tree.below[2];
    let at = tree.fake.raw(endpoint, 0x10);
    assert_eq!(tree.fake.raw(endpoint, 4) & 2, 2);
    tree.fake.poke(endpoint, 0x10, at + 0x10_0000);
    below.set_up(&tree, &tree).unwrap();
    assert_eq!((tree.fake.raw(endpoint, 0x10), tree.fake.raw(endpoint, 4) & 2), (at, 2));
    assert_eq!(tree.state.lock().unwrap().moved_live, []);
}

#[test]
fn an_endpoint_that_could_send_when_it_was_looked_at_is_set_up_silent() {
    let tree = Tree::new();
    let topology = tree.topology();
    topology.enable_bus_master(&tree, 3);
    let masters = || [1, 2].map(|function| tree.fake.raw(tree.below[function], 4) & 4);
    assert_eq!(masters(), [4, 4]);
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    below.prepare(&tree);
    below.set_up(&tree, &tree).unwrap();
    assert_eq!(masters(), [4, 0], "its bridge passes up what it will send");
}

#[test]
fn bridges_that_were_not_reset_pass_requests_up_as_they_did() {
    let tree = Tree::new();
    let topology = tree.topology();
    let below = Below::new(&tree, &topology, 0).unwrap();
    topology.enable_bus_master(&tree, 3);
    below.set_up(&tree, &tree).unwrap();
    let masters = [0, 1, 2, 3].map(|function| tree.fake.raw(tree.below[function], 4) & 4);
    assert_eq!(masters, [4, 4, 0, 0]);
}

#[test]
fn errors_that_devices_have_noted_are_not_cleared() {
    let tree = Tree::new();
    let topology = tree.topology();
    let below = Below::new(&tree, &topology, 0).unwrap();
    let device = tree.below[2];
    tree.fake.poke(device, 0x48, tree.fake.raw(device, 0x48) | 0x000f_0000);
    below.set_up(&tree, &tree).unwrap();
    assert_eq!(tree.state.lock().unwrap().cleared, []);
}

#[test]
fn a_second_control_register_is_set_up_where_there_is_one() {
    // A capability of version 1 ends before it: what is at its place is another's.
    for (version, wanted) in [(2, 0x0001_0016), (1, 0x0001_0000)] {
        let tree = Tree::new();
        let device = tree.below[2];
        let flags = tree.fake.raw(device, 0x40) & !0x000f_0000;
        tree.fake.poke(device, 0x40, flags | version << 16);
        tree.fake.poke(device, 0x68, 0x0001_0016);
        let topology = tree.topology();
        let below = Below::new(&tree, &topology, 0).unwrap();
        tree.fake.poke(device, 0x68, 0x0001_0000);
        below.set_up(&tree, &tree).unwrap();
        assert_eq!(tree.fake.raw(device, 0x68), wanted, "version {version}");
    }
}

#[test]
fn who_answers_or_sends_anything_was_not_reset() {
    let tree = Tree::new();
    let topology = tree.topology();
    let below = Below::new(&tree, &topology, 0).unwrap();
    for (command, reset) in [(0, true), (1, false), (2, false), (4, false), (0x540, true)] {
        tree.fake.poke(tree.below[0], 4, command);
        assert_eq!(below.was_reset(&tree), reset, "{command:#x}");
    }
}

#[test]
fn a_signal_that_reaches_nobody_is_seen() {
    let mut tree = Tree::new();
    tree.deaf = true;
    let topology = tree.topology();
    let mut below = Below::new(&tree, &topology, 0).unwrap();
    below.prepare(&tree);
    below.hot_reset(&tree, &tree);
    below.await_ready(&tree, &tree).unwrap();
    assert!(!below.was_reset(&tree));
}

#[test]
fn what_leads_nowhere_has_nothing_below() {
    let fake = Fake::new(0);
    fake.root(0x08, FakeFunction::bridge().express(ROOT_PORT));
    fake.root(0x10, FakeFunction::endpoint());
    let topology = enumerate(&fake, &host());
    assert!((0..4).all(|function| Below::new(&fake, &topology, function).is_none()));
    let tree = Tree::new();
    let topology = tree.topology();
    assert_eq!(Below::new(&tree, &topology, 4).unwrap().functions().collect::<Vec<_>>(), [5]);
    assert_eq!(tree.fake.raw(tree.port, 0x3c) & 0x40_0000, 0);
}
