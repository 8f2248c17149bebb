//! A tree of functions whose configuration space is words in memory: for tests.
//!
//! Requests are routed by the bus numbers in the bridges, as they are at that moment. Words are put in by hand, from the book.

extern crate std;

use alloc::vec::Vec;
use std::sync::Mutex;

use portcullis_spec::pcie::Bdf;

use crate::ConfigAccess;

/// Configuration space of one function.
#[derive(Clone)]
pub(crate) struct FakeFunction {
    words: Vec<u32>,
    /// Bits that keep what is written.
    writable: Vec<u32>,
    /// Bits that are cleared by writing ones.
    clearing: Vec<u32>,
}

pub(crate) struct Fake {
    root_bus: u8,
    functions: Mutex<Vec<(Option<usize>, u8, FakeFunction)>>,
}

/// Full access control in the capability word: SV, TB, RR, CR, UF.
pub(crate) const ACS_FULL: u32 = 0x1f;

pub(crate) const ROOT_PORT: u32 = 4;
pub(crate) const UPSTREAM: u32 = 5;
pub(crate) const DOWNSTREAM: u32 = 6;
pub(crate) const TO_PCI: u32 = 7;

impl FakeFunction {
    fn new(id: u32, class: u32) -> Self {
        let zeroes = || alloc::vec![0u32; 1024];
        let mut function = Self { words: zeroes(), writable: zeroes(), clearing: zeroes() };
        function.words[0] = id;
        function.words[1] = 0;
        function.words[2] = class;
        function.writable[1] = 0x0547;
        function.clearing[1] = 0xf900_0000;
        function
    }

    pub(crate) fn endpoint() -> Self {
        Self::new(0x0010_1b36, 0x0108_0202)
    }

    /// A bridge with a 64-bit prefetchable window and a 32-bit I/O window.
    pub(crate) fn bridge() -> Self {
        let mut bridge = Self::new(0x000c_1b36, 0x0604_0000);
        bridge.words[3] = 0x0001_0000;
        bridge.writable[6] = 0x00ff_ffff;
        bridge.words[7] = 0x0000_0101;
        bridge.writable[7] = 0x0000_f0f0;
        bridge.clearing[7] = 0xf900_0000;
        bridge.writable[8] = 0xfff0_fff0;
        bridge.words[9] = 0x0001_0001;
        bridge.writable[9] = 0xfff0_fff0;
        bridge.writable[10] = u32::MAX;
        bridge.writable[11] = u32::MAX;
        bridge.writable[12] = u32::MAX;
        bridge
    }

    pub(crate) fn multi_function(self) -> Self {
        let layout = self.words[3];
        self.word(0x0c, layout | 0x0080_0000)
    }

    /// Sets a word of which nothing can be written.
    pub(crate) fn word(mut self, offset: usize, word: u32) -> Self {
        self.words[offset / 4] = word;
        self.writable[offset / 4] = 0;
        self
    }

    pub(crate) fn clearing(mut self, offset: usize, bits: u32) -> Self {
        self.clearing[offset / 4] = bits;
        self
    }

    pub(crate) fn writable(mut self, offset: usize, bits: u32) -> Self {
        self.writable[offset / 4] = bits;
        self
    }

    /// Sets status bits that are cleared by writing ones, at the offset of command and status.
    pub(crate) fn status(mut self, bits: u32) -> Self {
        self.words[1] |= bits;
        self
    }

    pub(crate) fn bar32(self, index: usize, size: u32) -> Self {
        self.word(0x10 + 4 * index, 0).writable(0x10 + 4 * index, !(size - 1))
    }

    pub(crate) fn bar64(self, index: usize, size: u64, prefetchable: bool) -> Self {
        let mask = !(size - 1);
        self.word(0x10 + 4 * index, if prefetchable { 0xc } else { 0x4 })
            .writable(0x10 + 4 * index, mask as u32)
            .word(0x14 + 4 * index, 0)
            .writable(0x14 + 4 * index, (mask >> 32) as u32)
    }

    pub(crate) fn bar_io(self, index: usize, size: u32) -> Self {
        self.word(0x10 + 4 * index, 1).writable(0x10 + 4 * index, !(size - 1))
    }

    /// Adds a PCI Express capability at 0x40, the only one, of this port type.
    pub(crate) fn express(self, port_type: u32) -> Self {
        self.status(0x0010_0000).word(0x34, 0x40).word(0x40, (2 | port_type << 4) << 16 | 0x10)
    }

    /// Adds an ACS capability at 0x100, the only one.
    pub(crate) fn acs(self, can: u32) -> Self {
        self.word(0x100, 0x0001_000d).word(0x104, can).writable(0x104, (can & 0x7f) << 16)
    }
}

impl Fake {
    pub(crate) fn new(root_bus: u8) -> Self {
        Self { root_bus, functions: Mutex::new(Vec::new()) }
    }

    /// Adds a function right below the host bridge.
    pub(crate) fn root(&self, devfn: u8, function: FakeFunction) -> usize {
        self.push(None, devfn, function)
    }

    /// Adds a function below a bridge.
    pub(crate) fn below(&self, bridge: usize, devfn: u8, function: FakeFunction) -> usize {
        self.push(Some(bridge), devfn, function)
    }

    fn push(&self, above: Option<usize>, devfn: u8, function: FakeFunction) -> usize {
        let mut functions = self.functions.lock().unwrap();
        functions.push((above, devfn, function));
        functions.len() - 1
    }

    /// A word of a function, whether or not requests get there.
    pub(crate) fn raw(&self, function: usize, offset: usize) -> u32 {
        self.functions.lock().unwrap()[function].2.words[offset / 4]
    }

    /// Sets a word of a function from its own side.
    pub(crate) fn poke(&self, function: usize, offset: usize, word: u32) {
        self.functions.lock().unwrap()[function].2.words[offset / 4] = word;
    }

    /// From now on a word of a function keeps nothing that is written.
    pub(crate) fn fix(&self, function: usize, offset: usize) {
        self.functions.lock().unwrap()[function].2.writable[offset / 4] = 0;
    }

    /// Which functions a memory request that comes down from the host bridge reaches, and behind which register.
    pub(crate) fn route_memory(&self, address: u64) -> Vec<(usize, usize)> {
        let functions = self.functions.lock().unwrap();
        let mut hits = Vec::new();
        for (index, (above, _, function)) in functions.iter().enumerate() {
            let mut above = *above;
            let mut reaches = true;
            while let Some(bridge) = above {
                reaches &= functions[bridge].2.passes_down(address);
                above = functions[bridge].0;
            }
            if reaches && function.words[1] & 2 != 0 {
                hits.extend(function.claims(address).into_iter().map(|bar| (index, bar)));
            }
        }
        hits
    }
}

impl FakeFunction {
    fn passes_down(&self, address: u64) -> bool {
        let w = &self.words;
        let window = |word: u32, upper_base: u32, upper_limit: u32| {
            let base = u64::from(upper_base) << 32 | u64::from(word & 0xfff0) << 16;
            let limit = u64::from(upper_limit) << 32 | u64::from(word & 0xfff0_0000) | 0xf_ffff;
            (base..=limit).contains(&address)
        };
        w[1] & 2 != 0 && (window(w[8], 0, 0) || window(w[9], w[10], w[11]))
    }

    /// Behind which memory registers an address is.
    fn claims(&self, address: u64) -> Vec<usize> {
        let count = if self.words[3] & 0x007f_0000 == 0 { 6 } else { 2 };
        let mut bars = Vec::new();
        let mut index = 0;
        while index < count {
            let (low, mask) = (self.words[4 + index], self.writable[4 + index]);
            let wide = low & 0b111 == 0b100;
            if low & 1 == 0 && (mask != 0 || wide) {
                let high =
                    if wide { (self.words[5 + index], self.writable[5 + index]) } else { (0, u32::MAX) };
                let base = u64::from(high.0) << 32 | u64::from(low & !0xf);
                let mask = u64::from(high.1) << 32 | u64::from(mask);
                if address & mask == base {
                    bars.push(index);
                }
            }
            index += if wide { 2 } else { 1 };
        }
        bars
    }
}

/// The function that a configuration request reaches.
fn route(root_bus: u8, functions: &[(Option<usize>, u8, FakeFunction)], at: Bdf) -> Option<usize> {
    let secondary = |bridge: usize| functions[bridge].2.words[6].to_le_bytes()[1];
    let passes = |bridge: usize| {
        let [_, secondary, subordinate, _] = functions[bridge].2.words[6].to_le_bytes();
        secondary != 0 && (secondary..=subordinate).contains(&at.bus())
    };
    functions.iter().position(|&(above, devfn, _)| {
        let on_bus = above.map_or(root_bus, secondary) == at.bus();
        let mut gets_there = on_bus && devfn == at.devfn();
        let mut above = above;
        while let Some(bridge) = above {
            gets_there &= passes(bridge);
            above = functions[bridge].0;
        }
        gets_there
    })
}

impl ConfigAccess for Fake {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 4096);
        let functions = self.functions.lock().unwrap();
        match route(self.root_bus, &functions, at) {
            Some(function) => functions[function].2.words[usize::from(offset / 4)],
            None => u32::MAX,
        }
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        assert!(offset.is_multiple_of(4) && offset < 4096);
        let mut functions = self.functions.lock().unwrap();
        if let Some(function) = route(self.root_bus, &functions, at) {
            let function = &mut functions[function].2;
            let place = usize::from(offset / 4);
            let (writable, clearing) = (function.writable[place], function.clearing[place]);
            let word = &mut function.words[place];
            *word = (*word & !writable | value & writable) & !(value & clearing);
        }
    }
}
