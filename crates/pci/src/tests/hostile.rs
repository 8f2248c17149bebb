//! Configuration spaces that mean harm: nothing hangs, nothing panics, nothing is believed.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portcullis_spec::pcie::Bdf;

use super::{bdf, host};
use crate::fake::{Fake, FakeFunction};
use crate::{
    Capabilities, CapabilityFault, ConfigAccess, Fault, HostBridge, MsiCapability, MsixCapability, enumerate,
};

/// The same word everywhere.
struct Same(u32);

impl ConfigAccess for Same {
    fn read32(&self, _: Bdf, _: u16) -> u32 {
        self.0
    }

    fn write32(&self, _: Bdf, _: u16, _: u32) {}
}

#[test]
fn nothing_is_found_in_ones_or_zeroes_or_where_nobody_is_ready() {
    for word in [0, u32::MAX, 0x0000_ffff, 0xffff_0000, 0xffff_0001] {
        let topology = enumerate(&Same(word), &host());
        assert_eq!((topology.functions.len(), topology.problems.len()), (0, 0), "{word:#x}");
    }
}

/// Every function there could be is there, and is a bridge with many functions that keeps everything that is written.
struct BridgesOnly;

impl ConfigAccess for BridgesOnly {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        match offset {
            0x00 => 0x1234_1234,
            0x08 => 0x0604_0000,
            0x0c => 0x0081_0000,
            // As if the numbers had been kept: the next number, and the last.
            0x18 => u32::from(at.bus()),
            _ => 0,
        }
    }

    fn write32(&self, _: Bdf, _: u16, _: u32) {}
}

#[test]
fn bridges_without_end_come_to_an_end() {
    let topology = enumerate(&BridgesOnly, &HostBridge { buses: 0..=3, ..host() });
    // Their numbers are not kept, so only the first bus is looked at.
    assert_eq!(topology.functions.len(), 256);
    assert!(topology.problems.iter().all(|problem| matches!(problem.fault, Fault::BusNumbersNotKept { .. })));
    assert_eq!(topology.groups().len(), 32);
}

/// As [`BridgesOnly`], and bus numbers are kept.
struct KeepingBridges(Vec<AtomicU64>);

impl ConfigAccess for KeepingBridges {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        match offset {
            0x18 => self.0[usize::from(at.requester_id())].load(Relaxed) as u32,
            _ => BridgesOnly.read32(at, offset),
        }
    }

    fn write32(&self, at: Bdf, offset: u16, value: u32) {
        if offset == 0x18 {
            self.0[usize::from(at.requester_id())].store(value.into(), Relaxed);
        }
    }
}

#[test]
fn every_function_that_can_be_is_looked_at_once() {
    let config = KeepingBridges((0..0x1_0000).map(|_| AtomicU64::new(0)).collect());
    let topology = enumerate(&config, &host());
    assert_eq!(topology.functions.len(), 0x1_0000);
    let mut places: Vec<Bdf> = topology.functions.iter().map(|function| function.at).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 0x1_0000);
    assert_eq!(topology.groups().len(), 32, "the root bus's devices, each with all below");
}

#[test]
fn lists_of_capabilities_that_bite_their_tails_are_refused() {
    let read = |function: FakeFunction| {
        let fake = Fake::new(0);
        fake.root(0, function);
        Capabilities::read(&fake, bdf(0, 0, 0)).unwrap_err()
    };
    let listed = || FakeFunction::endpoint().status(0x0010_0000);
    assert_eq!(read(listed().word(0x34, 0x40).word(0x40, 0x4001)), CapabilityFault::Loop { offset: 0x40 });
    let two = listed().word(0x34, 0x40).word(0x40, 0x5001).word(0x50, 0x4005);
    assert_eq!(read(two), CapabilityFault::Loop { offset: 0x40 });
    assert_eq!(read(listed().word(0x34, 0x3c)), CapabilityFault::Outside { offset: 0x3c });
    assert_eq!(read(listed().word(0x34, 0x40).word(0x40, 0x2001)), CapabilityFault::Outside { offset: 0x20 });
    assert_eq!(read(listed().word(0x34, 0x40).word(0x40, u32::MAX)), CapabilityFault::Gone);
    let extended = || FakeFunction::endpoint().express(0);
    assert_eq!(read(extended().word(0x100, 0x1001_000d)), CapabilityFault::Loop { offset: 0x100 });
    assert_eq!(read(extended().word(0x100, 0x0401_000d)), CapabilityFault::Outside { offset: 0x40 });
    assert_eq!(read(extended().word(0x100, 0xffc1_000d).word(0xffc, u32::MAX)), CapabilityFault::Gone);
}

#[test]
fn the_longest_lists_there_can_be_are_read_to_the_end() {
    let mut function = FakeFunction::endpoint().express(0).word(0x40, 0x0002_4410);
    for offset in (0x44..0x100).step_by(4) {
        function =
            function.word(offset, if offset == 0xfc { 0x0009 } else { ((offset as u32 + 4) << 8) | 9 });
    }
    for offset in (0x100..0x1000).step_by(4) {
        let next = if offset == 0xffc { 0 } else { offset as u32 + 4 };
        function = function.word(offset, next << 20 | 0x1_000b);
    }
    let fake = Fake::new(0);
    fake.root(0, function);
    let capabilities = Capabilities::read(&fake, bdf(0, 0, 0)).unwrap();
    assert_eq!((capabilities.list().len(), capabilities.extended().len()), (48, 960));
}

#[test]
fn extended_capabilities_of_conventional_functions_are_not_looked_for() {
    let fake = Fake::new(0);
    fake.root(0, FakeFunction::endpoint().acs(0x1f));
    assert_eq!(Capabilities::read(&fake, bdf(0, 0, 0)).unwrap().extended(), []);
}

/// Words that follow from a seed and where they are; writes are kept, or not, as the seed will have it.
struct Noise {
    seed: u64,
    reads: AtomicU64,
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl ConfigAccess for Noise {
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        // Every so often the same place answers differently.
        let reads = self.reads.fetch_add(1, Relaxed) >> (self.seed % 8);
        let place = u64::from(at.requester_id()) << 16 | u64::from(offset);
        let word = mix(self.seed ^ mix(place ^ reads << 40)) as u32;
        match (offset, self.seed % 3) {
            (0x00, _) => 0x1234_1234,
            (0x0c, 0) => word & 0x0081_0000,
            _ => word,
        }
    }

    fn write32(&self, _: Bdf, _: u16, _: u32) {}
}

#[test]
fn noise_never_panics_and_never_hangs() {
    for seed in 0..60 {
        let noise = Noise { seed, reads: AtomicU64::new(0) };
        let topology = enumerate(&noise, &HostBridge { buses: 0..=7, ..host() });
        assert!(topology.functions.len() <= 8 * 256);
        let grouped: usize = topology.groups().iter().map(Vec::len).sum();
        assert_eq!(grouped, topology.functions.len());
        for (index, function) in topology.functions.iter().enumerate() {
            let _ = (MsiCapability::find(&noise, function), MsixCapability::find(&noise, function));
            assert_eq!(topology.requester_ids(index)[0], function.at);
            assert!(function.bars.iter().all(|bar| bar.size_bytes.is_power_of_two()));
        }
    }
}
