//! A CPU of the machine, as the drivers see it: the `hal` seams over the models' bus.
//!
//! Everything that a driver does to the world passes here. Most of it is a place where others get their turn: a device moves bytes between two stores
//! of an unmap, another CPU does something while this one waits. And some of it fails, if a fault is armed.
//!
//! Not here: what is done in such a turn (`life::turn`), which faults there are (`fault`).

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Bus, BusError, Width};
use portcullis::hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis::types::trace::{Event, Sink};
use portcullis::types::{Pa, PaRange};

use super::lock::SimMutex;
use crate::fault::FaultKind;
use crate::hub::{Hub, Place};

/// A CPU.
pub(crate) struct SimPlatform {
    hub: Arc<Hub>,
    bus: Arc<Bus>,
    /// How often in a row a wait that might have leapt did not.
    vain: AtomicU32,
}

/// After so many in a row it is looked for a leap once in so many: some hardware never rests.
const VAIN: u32 = 64;

impl fmt::Debug for SimPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimPlatform")
    }
}

/// An access of ours to what is no RAM: on silicon an abort of the CPU.
fn in_ram<T>(result: Result<T, BusError>) -> T {
    result.unwrap_or_else(|error| panic!("the CPU reached for memory at {}, where none is", error.at))
}

impl SimPlatform {
    pub(crate) fn new(hub: Arc<Hub>) -> Arc<Self> {
        let bus = hub.bus.clone();
        Arc::new(Self { hub, bus, vain: AtomicU32::new(0) })
    }

    /// The registers of IOMMU `unit` in `window`.
    pub(crate) fn registers(self: &Arc<Self>, unit: usize, window: PaRange) -> SimRegisters {
        SimRegisters { platform: self.clone(), unit, window }
    }

    fn take(&self, layout: BlockLayout) -> Option<Pa> {
        if self.hub.faults.fires(FaultKind::AllocationFails) {
            return None;
        }
        self.bus.cpu().alloc(layout.size_bytes(), layout.align_bytes())
    }

    fn give(&self, first: Pa, layout: BlockLayout, told: impl FnOnce(&Hub, PaRange)) {
        told(&self.hub, PaRange::new(first, layout.size_bytes()).expect("a block of RAM does not wrap"));
        if let Err(error) = self.bus.cpu().free(first, layout.size_bytes()) {
            panic!("freeing {layout:?} at {first}: {error}");
        }
    }
}

impl TableMemory for SimPlatform {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.take(layout)
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.give(first, layout, Hub::freed);
    }

    fn load(&self, at: Pa) -> u64 {
        in_ram(self.bus.cpu().load64(at))
    }

    fn store(&self, at: Pa, word: u64) {
        in_ram(self.bus.cpu().store64(at, word));
        self.hub.turn(Place::Store);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        let found = in_ram(self.bus.cpu().compare_exchange(at, current, new));
        if found == current { Ok(found) } else { Err(found) }
    }

    fn store_run(&self, at: Pa, first: u64, step: u64, count: usize) {
        in_ram(self.bus.cpu().store_run(at, first, step, count));
        self.hub.turn(Place::Store);
    }

    fn clean_table(&self, at: Pa, len_bytes: u64) {
        in_ram(self.bus.cpu().clean(at, len_bytes));
    }
}

impl DmaMemory for SimPlatform {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        let first = self.take(layout)?;
        self.hub.buffer(first.get(), layout.size_bytes());
        Some(first)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.give(first, layout, Hub::buffer_freed);
    }

    fn read(&self, at: Pa, into: &mut [u8]) {
        in_ram(self.bus.cpu().read(at, into));
    }

    fn write(&self, at: Pa, from: &[u8]) {
        in_ram(self.bus.cpu().write(at, from));
    }

    fn read32(&self, at: Pa) -> u32 {
        in_ram(self.bus.cpu().load32(at))
    }

    fn write32(&self, at: Pa, word: u32) {
        in_ram(self.bus.cpu().store32(at, word));
    }

    fn clean(&self, at: Pa, len_bytes: u64) {
        in_ram(self.bus.cpu().clean(at, len_bytes));
    }

    fn invalidate(&self, at: Pa, len_bytes: u64) {
        in_ram(self.bus.cpu().invalidate(at, len_bytes));
    }
}

impl Barriers for SimPlatform {
    fn write_barrier(&self) {
        self.bus.cpu().write_barrier();
        self.hub.turn(Place::Barrier);
    }

    fn read_barrier(&self) {
        self.bus.cpu().read_barrier();
    }

    fn full_barrier(&self) {
        self.bus.cpu().full_barrier();
        self.hub.turn(Place::Barrier);
    }
}

impl Clock for SimPlatform {
    fn now_ns(&self) -> u64 {
        self.bus.now_ns()
    }

    fn relax(&self) {
        self.hub.relaxed();
        self.bus.step();
        self.hub.turn(Place::Wait);
    }

    fn relax_until(&self, until_ns: u64) {
        let vain = self.vain.load(Relaxed);
        let looks = vain < VAIN || vain.is_multiple_of(VAIN);
        // Most of a reset is that nothing happens, and nobody has a turn.
        let waits = if looks { self.bus.step_idly(self.hub.waits_before_turn().into(), until_ns) } else { 0 };
        self.vain.store(if waits == 0 { vain.wrapping_add(1) } else { 0 }, Relaxed);
        match waits {
            0 => self.relax(),
            waits => self.hub.waited_idly(waits),
        }
    }
}

impl Sink for SimPlatform {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for SimPlatform {
    type Mutex = SimMutex;
}

/// A window of an IOMMU's registers.
#[derive(Clone, Debug)]
pub(crate) struct SimRegisters {
    platform: Arc<SimPlatform>,
    unit: usize,
    window: PaRange,
}

impl SimRegisters {
    fn at(&self, offset: usize) -> Pa {
        let at = self.window.first().checked_add(offset as u64).filter(|&at| self.window.contains(at));
        at.unwrap_or_else(|| panic!("register {offset:#x} is outside its window {}", self.window))
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        let value = self.platform.bus.read_register(self.at(offset), width).unwrap_or(u64::MAX);
        self.platform.hub.register_read(self.unit, offset, value)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let at = self.at(offset);
        let passes = self.platform.hub.register_written(self.unit, offset, value);
        if let Some(value) = passes {
            let _gone = self.platform.bus.write_register(at, width, value);
        }
        self.platform.hub.turn(Place::Register);
    }
}

impl Registers for SimRegisters {
    fn read32(&self, offset: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a 32-bit read")]
        let value = self.read(offset, Width::Bits32) as u32;
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, Width::Bits32, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, Width::Bits64)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, Width::Bits64, value);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::sync::Mutex;

    use model_bus::{BusOptions, Clocked};
    use portcullis::hal::pause;

    use super::*;
    use crate::fault::{SyncTap, Tap};
    use crate::hub::{Turns, locked};

    /// Hardware that has nothing to do, and counts how often it was asked.
    #[derive(Default)]
    struct Asked(AtomicU64);

    impl Clocked for Asked {
        fn step(&self, _: u64) -> bool {
            self.0.fetch_add(1, Relaxed);
            false
        }

        fn is_idle(&self) -> bool {
            true
        }
    }

    /// When who had a turn, or watched.
    struct Noted(Arc<Bus>, Mutex<Vec<(Option<Place>, u64)>>);

    impl Turns for Noted {
        fn turn(&self, place: Place) {
            locked(&self.1).push((Some(place), self.0.now_ns()));
        }

        fn watch(&self) {
            locked(&self.1).push((None, self.0.now_ns()));
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Beside {
        Nothing,
        Watching,
        AStore,
        ALateSync,
    }

    /// Waits for 20 ms, and a little more. Answers what everybody saw of it, and how often hardware was asked.
    fn waits(span: u32, beside: Beside, wait: fn(&SimPlatform)) -> (impl PartialEq + core::fmt::Debug, u64) {
        let range = PaRange::new(Pa::new(0x4000_0000), 0x10_0000).expect("it does not wrap");
        let bus = Bus::new(&BusOptions::new(range, 3));
        let tap: Box<dyn Tap> = Box::new(SyncTap::new(0, 0x1000, 0x8000));
        let hub = Hub::new(bus.clone(), vec![tap], false);
        let asked = [Arc::new(Asked::default()), Arc::new(Asked::default())];
        asked.iter().for_each(|one| bus.add_clocked(one.clone()));
        let platform = SimPlatform::new(hub.clone());
        let noted = Arc::new(Noted(bus.clone(), Mutex::default()));
        let turns: Arc<dyn Turns> = noted.clone();
        hub.give_turns(Arc::downgrade(&turns), span);
        hub.begin(9);
        match beside {
            Beside::Nothing => {}
            Beside::Watching => hub.watch(true),
            Beside::AStore => platform.store(range.first(), 7),
            // SMMU_sTLBGSYNC.
            Beside::ALateSync => {
                hub.faults.arm(FaultKind::LateSync, 1);
                assert_eq!(hub.register_written(0, 0x70, 0), None);
            }
        }
        wait(&platform);
        let (held, asked) = (hub.is_held(), asked[0].0.load(Relaxed));
        (0..3).for_each(|_| platform.relax());
        let noted = locked(&noted.1).clone();
        ((bus.now_ns(), hub.hooks(), held, bus.cpu().pending_words(), hub.below(1 << 20), noted), asked)
    }

    #[test]
    fn a_leap_over_a_wait_in_which_nothing_happens_is_seen_by_nobody() {
        const NS: u64 = 20_000_000;
        for beside in [Beside::Nothing, Beside::Watching, Beside::AStore, Beside::ALateSync] {
            for span in [0, 1, 6, 60] {
                let (leapt, seldom) = waits(span, beside, |platform| pause(platform, NS));
                let (walked, often) = waits(span, beside, |platform| {
                    let until_ns = platform.now_ns() + NS;
                    while platform.now_ns() <= until_ns {
                        platform.relax();
                    }
                });
                assert_eq!(leapt, walked, "{beside:?}, {span}");
                let leaps = seldom < often / 2;
                assert_eq!(leaps, span != 1 && !matches!(beside, Beside::Watching), "{beside:?}, {span}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a wait without end")]
    fn a_wait_without_end_is_one_whether_it_leaps_or_not() {
        let range = PaRange::new(Pa::new(0x4000_0000), 0x10_0000).expect("it does not wrap");
        let hub = Hub::new(Bus::new(&BusOptions::new(range, 3)), Vec::new(), false);
        let platform = SimPlatform::new(hub.clone());
        hub.begin(9);
        pause(&*platform, u64::MAX >> 1);
    }
}
