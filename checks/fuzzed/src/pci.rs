//! Configuration space that is the devices' own: trees of functions and bridges, any words of which are what the input says, keep what is written or do
//! not, and at some moment may all read as ones.
//!
//! What must hold, whatever they say:
//!
//! - enumeration ends, within a bound of accesses for every function there can be; it lists each function once, below a bridge that was listed before;
//! - a bridge's numbers are the host bridge's, below its own bus, and no two bridges share any but those above;
//! - registers are placed on multiples of their size, within windows of the host bridge, and nowhere twice;
//! - no function may send requests that keeps what is written to its command register;
//! - groups are every function, once; functions as one of which another's requests can arrive are in one group, and an id is one device's;
//! - a reset of what is below a bridge ends.
//!
//! Not here: what a sound tree comes to (`crates/pci/src/tests`).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use portcullis::hal::Clock;
use portcullis::pci::{
    AddressServices, Bdf, Below, ConfigAccess, HostBridge, HostTrust, HostWindow, MsiCapability,
    MsixCapability, Space, Topology, enumerate,
};
use portcullis::types::Pa;

use crate::bytes::Bytes;

const WORDS: usize = 1024;
const BUSES: u8 = 7;
/// For each function that there can be: the longest lists of capabilities several times, and everything else.
const MOST_ACCESSES: u64 = (BUSES as u64 + 1) * 256 * 10_000;
const COMMAND: u16 = 4;
const BUS_MASTER: u32 = 4;

pub(crate) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let config = Config::new(&mut bytes);
    let host = host();
    let topology = enumerate(&config, &host);
    assert!(config.accesses.load(Relaxed) < MOST_ACCESSES, "it takes for ever");
    check_tree(&topology);
    check_registers(&topology, &host);
    check_groups(&topology);
    for function in topology.functions.iter().filter(|function| config.keeps_commands(function.at)) {
        assert_eq!(
            config.read32(function.at, COMMAND) & BUS_MASTER,
            0,
            "{:?} may send requests",
            function.at
        );
    }
    use_functions(&config, &topology);
}

/// As QEMU's `virt` has it.
fn host() -> HostBridge {
    let window = |space, bus_first, cpu, size_bytes| HostWindow {
        space,
        prefetchable: false,
        bus_first,
        cpu_first: Pa::new(cpu),
        size_bytes,
    };
    let windows = vec![
        window(Space::Io, 0, 0x3eff_0000, 0x1_0000),
        window(Space::Memory32, 0x1000_0000, 0x7000_0000, 0x2eff_0000),
        window(Space::Memory64, 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000),
    ];
    HostBridge { segment: 0, buses: 0..=BUSES, windows, segment_bytes: 1 }
}

/// A function's words, and which of their bits keep what is written.
struct Function {
    above: Option<usize>,
    devfn: u8,
    words: Vec<u32>,
    writable: Vec<u32>,
    /// The input has its hand in the command register.
    command_changed: bool,
}

/// Functions, found by the bus numbers that bridges have at that moment.
struct Config {
    functions: Mutex<Vec<Function>>,
    accesses: AtomicU64,
    /// From this access on, everything reads as ones.
    gone_at: u64,
}

impl Config {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let count = 1 + bytes.below(12);
        let mut functions: Vec<Function> = Vec::new();
        for index in 0..count {
            let above = (index > 0 && bytes.flag()).then(|| usize::from(bytes.below(index)));
            functions.push(Function::new(bytes, above));
        }
        let gone_at = if bytes.one_in(16) { u64::from(bytes.u16()) } else { u64::MAX };
        while !bytes.is_empty() {
            let function = usize::from(bytes.below(count));
            functions[function].change(bytes);
        }
        Self { functions: Mutex::new(functions), accesses: AtomicU64::new(0), gone_at }
    }

    fn is_gone(&self) -> bool {
        self.accesses.fetch_add(1, Relaxed) >= self.gone_at
    }

    fn keeps_commands(&self, at: Bdf) -> bool {
        let functions = self.functions.lock().unwrap();
        self.gone_at == u64::MAX
            && find(&functions, at).is_some_and(|index| !functions[index].command_changed)
    }
}

/// The function to which a request is routed.
fn find(functions: &[Function], at: Bdf) -> Option<usize> {
    (0..functions.len()).find(|&index| {
        let function = &functions[index];
        let bus = match function.above {
            None => 0,
            Some(above) => functions[above].secondary(),
        };
        let mut above = function.above;
        let reachable = core::iter::from_fn(|| {
            let index = above?;
            above = functions[index].above;
            Some(index)
        })
        .all(|index| functions[index].leads_to(at.bus()));
        reachable
            && bus == at.bus()
            && function.devfn == at.devfn()
            && (at.bus() > 0 || function.above.is_none())
    })
}

impl ConfigAccess for Config {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        if self.is_gone() {
            return u32::MAX;
        }
        let functions = self.functions.lock().unwrap();
        find(&functions, at).map_or(u32::MAX, |index| functions[index].words[usize::from(offset) / 4 % WORDS])
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if self.is_gone() {
            return;
        }
        let mut functions = self.functions.lock().unwrap();
        if let Some(index) = find(&functions, at) {
            functions[index].write(usize::from(offset) / 4 % WORDS, value);
        }
    }
}

/// Spec: PCIe 6.0, 7.5.1 "PCI-Compatible Configuration Registers", 7.5.3 "PCI Express Capability Structure".
impl Function {
    /// An endpoint, a port, or a conventional bridge.
    fn new(bytes: &mut Bytes<'_>, above: Option<usize>) -> Self {
        let kind = bytes.below(8);
        let mut function = Self {
            above,
            devfn: bytes.pick(&[0, 1, 8, 9, 16, 24, 248, 255]),
            words: vec![0; WORDS],
            writable: vec![0; WORDS],
            command_changed: false,
        };
        function.words[0] = bytes.pick(&[0x0010_1b36, 0x1105_8086, 0x1080_1b21, 0x9230_1b4b]);
        function.writable[1] = 0x0547;
        if bytes.flag() {
            function.words[3] = 0x0080_0000;
        }
        let port = [None, Some(0), Some(0), Some(4), Some(5), Some(6), Some(7), None][usize::from(kind)];
        if kind >= 3 {
            function.make_bridge();
        } else {
            function.words[2] = 0x0108_0202;
            function.bars(bytes);
        }
        if let Some(port) = port {
            function.words[1] |= 0x0010_0000;
            function.words[0x34 / 4] = 0x40;
            function.words[0x40 / 4] = (2 | port << 4) << 16 | 0x10;
            function.words[0x44 / 4] = 0x1000_8000;
            function.extended(bytes);
        }
        function
    }

    fn make_bridge(&mut self) {
        self.words[2] = 0x0604_0000;
        self.words[3] |= 0x0001_0000;
        let writable = [(6, 0x00ff_ffff), (7, 0xf0f0), (8, 0xfff0_fff0), (9, 0xfff0_fff0)];
        writable.into_iter().for_each(|(word, bits)| self.writable[word] = bits);
        (10..=12).for_each(|word| self.writable[word] = u32::MAX);
        (self.words[7], self.words[9]) = (0x0101, 0x0001_0001);
    }

    fn bars(&mut self, bytes: &mut Bytes<'_>) {
        let mut index = 4;
        while index < 10 {
            let size = 12 + bytes.below(22);
            match bytes.below(5) {
                0 | 1 => {}
                2 => self.writable[index] = u32::MAX << size.min(31),
                3 => (self.words[index], self.writable[index]) = (1, 0xffff_ff00),
                _ if index == 9 => {}
                _ => {
                    let mask = u64::MAX << size;
                    self.words[index] = if size & 1 == 0 { 0xc } else { 4 };
                    (self.writable[index], self.writable[index + 1]) =
                        (mask as u32 & !0xf, (mask >> 32) as u32);
                    index += 1;
                }
            }
            index += 1;
        }
    }

    /// ACS, ATS, page requests and PASIDs, each or not.
    fn extended(&mut self, bytes: &mut Bytes<'_>) {
        let which = bytes.u8();
        let all = [
            (0x000d, 0x1f, 0x1f_0000),
            (0x000f, 0x20, 0x801f_0000),
            (0x0013, 0, 0x3),
            (0x001b, 0x1406, 7 << 16),
        ];
        let there: Vec<_> = (0..4).filter(|bit| which >> bit & 1 == 1).map(|bit| all[bit]).collect();
        for (index, (id, capability, control)) in there.iter().enumerate() {
            let at = 0x100 / 4 + 8 * index;
            let next = if index + 1 == there.len() { 0 } else { 4 * (at as u32 + 8) };
            self.words[at] = next << 20 | 0x1_0000 | id;
            (self.words[at + 1], self.writable[at + 1]) = (*capability, *control);
            (self.words[at + 2], self.writable[at + 3]) = (64, u32::MAX);
        }
    }

    /// A word is something else, or keeps other bits.
    fn change(&mut self, bytes: &mut Bytes<'_>) {
        let at = match bytes.below(4) {
            0 => usize::from(bytes.u16()) % WORDS,
            1 => 0x100 / 4 + usize::from(bytes.below(40)),
            _ => usize::from(bytes.below(64)),
        };
        self.command_changed |= at == 1;
        match bytes.below(3) {
            0 => self.words[at] = bytes.word() as u32,
            1 => self.writable[at] = bytes.word() as u32,
            _ => self.words[at] ^= 1 << bytes.below(32),
        }
    }

    fn write(&mut self, word: usize, value: u32) {
        let writable = self.writable[word];
        self.words[word] = self.words[word] & !writable | value & writable;
    }

    fn secondary(&self) -> u8 {
        self.words[6].to_le_bytes()[1]
    }

    fn leads_to(&self, bus: u8) -> bool {
        let [_, secondary, subordinate, _] = self.words[6].to_le_bytes();
        (secondary..=subordinate).contains(&bus)
    }
}

fn check_tree(topology: &Topology) {
    let mut seen = BTreeSet::new();
    let mut buses: BTreeMap<u8, usize> = BTreeMap::new();
    for (index, function) in topology.functions.iter().enumerate() {
        assert!(seen.insert(function.at), "{:?} twice", function.at);
        match function.above {
            None => assert_eq!(function.at.bus(), 0),
            Some(above) => {
                assert!(above < index, "a bridge comes before what is below it");
                let bridge = topology.functions[above].bridge().expect("it is one");
                assert_eq!(bridge.secondary, Some(function.at.bus()));
            }
        }
        let Some((bridge, secondary)) = function.bridge().and_then(|it| Some((it, it.secondary?))) else {
            continue;
        };
        assert!(
            function.at.bus() < secondary && secondary <= bridge.subordinate && bridge.subordinate <= BUSES
        );
        assert_eq!(buses.insert(secondary, index), None, "bus {secondary} is below two bridges");
        for above in topology.bridges_above(index) {
            let outer = topology.functions[above].bridge().expect("it is one");
            assert!(outer.subordinate >= bridge.subordinate, "it leads out of what leads to it");
        }
    }
}

fn check_registers(topology: &Topology, host: &HostBridge) {
    let mut taken: Vec<(bool, u64, u64)> = Vec::new();
    for bar in topology.functions.iter().flat_map(|function| &function.bars) {
        assert!(bar.size_bytes.is_power_of_two() && bar.index < 6);
        let Some(placed) = bar.placed else { continue };
        let (first, last) = (placed.bus_address, placed.bus_address + (bar.size_bytes - 1));
        assert!(first.is_multiple_of(bar.size_bytes), "not on a multiple of its size");
        let io = bar.space == Space::Io;
        let inside = |window: &&HostWindow| {
            (window.space == Space::Io) == io && window.bus_first <= first && last <= window.bus_last()
        };
        let window = host.windows.iter().find(inside).expect("it lies in a window");
        assert_eq!(window.to_cpu(first), Some(placed.cpu_first));
        assert!(bar.space != Space::Memory32 || last <= u64::from(u32::MAX));
        let apart =
            |&(other_io, other, end): &(bool, u64, u64)| other_io != io || last < other || end < first;
        assert!(taken.iter().all(apart), "{first:#x} is placed twice");
        taken.push((io, first, last));
    }
}

fn check_groups(topology: &Topology) {
    let groups = topology.groups();
    let mut group_of = vec![usize::MAX; topology.functions.len()];
    for (number, group) in groups.iter().enumerate() {
        for &function in group {
            assert_eq!(core::mem::replace(&mut group_of[function], number), usize::MAX, "in two groups");
        }
        let distinct = topology.distinct_ids(group);
        let ids: BTreeSet<Bdf> = distinct.iter().flatten().copied().collect();
        assert_eq!(ids.len(), distinct.iter().map(Vec::len).sum::<usize>(), "an id of two devices");
        let all: BTreeSet<Bdf> =
            group.iter().flat_map(|&function| topology.requester_ids(function)).collect();
        let elsewhere = |id: &&Bdf| topology.find(**id).is_none_or(|owner| group.contains(&owner));
        assert!(all.iter().filter(elsewhere).all(|id| ids.contains(id)), "an id that nobody has");
    }
    assert!(group_of.iter().all(|&group| group != usize::MAX), "in no group");
    let mut owner: BTreeMap<Bdf, usize> = BTreeMap::new();
    for (function, &group) in group_of.iter().enumerate() {
        for id in topology.requester_ids(function) {
            let first = *owner.entry(id).or_insert(group);
            assert_eq!(first, group, "requests as {id:?} are of two groups");
        }
    }
}

/// Time that passes while it is waited for.
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn relax(&self) {
        self.0.fetch_add(50_000_000, Relaxed);
    }
}

/// What an embedder does with functions. None of it may do harm.
fn use_functions(config: &Config, topology: &Topology) {
    let trust = HostTrust { ats_supported: true, ..HostTrust::default() };
    let clock = Ticks(AtomicU64::new(0));
    for (index, function) in topology.functions.iter().enumerate() {
        let _ = MsiCapability::find(config, function);
        if let Ok(Some(msix)) = MsixCapability::find(config, function) {
            let of = function.bar(msix.bar()).and_then(|bar| bar.cpu_range());
            assert!(
                msix.table().is_none_or(|table| of.is_some_and(|bar| bar.covers(table))),
                "a table elsewhere"
            );
        }
        let services = AddressServices::find(config, topology, index, &trust);
        let facts = services.sva_facts();
        assert!(facts.pasid_bits <= 20 && (facts.ats || !facts.pri));
        let saved = services.save(config);
        let _ = services.restore(config, &saved);
        if let Some(mut below) = Below::new(config, topology, index) {
            assert!(
                below
                    .functions()
                    .all(|function| topology.bridges_above(function).any(|above| above == index))
            );
            below.prepare(config);
            below.hot_reset(config, &clock);
            let _ = below.await_ready(config, &clock).and_then(|()| below.set_up(config, &clock));
            let _ = below.was_reset(config);
        }
    }
}
