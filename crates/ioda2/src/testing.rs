//! A platform and just enough of a PHB3 for this crate's own tests: tables behind registers, caches that remember, and PEs that freeze.
//!
//! It translates by the words that the driver left, with the driver's reading of them: what real hardware makes of those is judged elsewhere, by a
//! model that others wrote.

extern crate std;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;

use portcullis_hal::{Arena, Barriers, BlockLayout, Clock, DmaMemory, Platform, Registers, TableMemory};
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Sink};

use crate::config::Config;
use crate::phb3::Phb3;

pub(crate) type Bridge = Phb3<Fake, Arc<Fake>>;

/// Platform and hardware in one.
pub(crate) struct Fake {
    arena: Arena<spin::Mutex<()>, Box<[AtomicU64]>>,
    time: AtomicU64,
    /// So many allocations succeed still.
    pub(crate) allocations_left: AtomicUsize,
    pub(crate) allocations: AtomicUsize,
    /// Words were stored, or zeroes by a new block, and no barrier passed since.
    unsettled: AtomicBool,
    state: Mutex<State>,
}

/// What happens in between.
pub(crate) type Hook = Box<dyn FnOnce() + Send>;

/// The hardware's side.
#[derive(Default)]
pub(crate) struct State {
    registers: BTreeMap<usize, u64>,
    tables: BTreeMap<u8, Vec<u64>>,
    /// Cached TCEs by PE and page.
    cache: BTreeMap<(u8, u64), u64>,
    /// Cached PEs by request id.
    routes: BTreeMap<u16, u8>,
    /// What was written to the TCE kill register.
    pub(crate) kills: Vec<u64>,
    /// What was written to the register that resets the slot, and when.
    pub(crate) resets: Vec<(u64, u64)>,
    /// Reads that answer still, before all answer ones.
    pub(crate) answers_left: Option<usize>,
    /// So many reads answer ones, and then all answer again.
    pub(crate) reads_missed: usize,
    /// A request id whose PE is looked up whenever a window opens, and what was found.
    pub(crate) watched: Option<u16>,
    pub(crate) seen: Vec<u8>,
    /// Stores that are heard still, before it neither hears nor answers.
    pub(crate) stores_left: Option<usize>,
    /// A PE and an address that one of its devices tries whenever a window opens or closes, and what it reached.
    pub(crate) tries: Option<(u8, u64)>,
    pub(crate) tried: Vec<Option<u64>>,
    pub(crate) tried_closing: Vec<Option<u64>>,
    /// What happens, once, behind the store of this value to this register.
    pub(crate) behind_store: Option<(usize, u64, Hook)>,
    /// What happens, once, behind the load of the last entry of this table.
    pub(crate) behind_load: Option<(u8, Hook)>,
    /// How many registers were read or written by the wrong width, at a wrong place, or when they should not be.
    pub(crate) wrong: usize,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

const SIZES: [(u8, usize); 6] = [(7, 256), (8, 256), (9, 512), (17, 256), (20, 4), (6, 8)];

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            // Whoever was here before left something everywhere.
            tables: SIZES.into_iter().map(|(table, size)| (table, vec![u64::MAX; size])).collect(),
            ..State::default()
        };
        let fake = Self {
            arena: Arena::on_heap(Pa::new(0x4000_0000), 24),
            time: AtomicU64::new(0),
            allocations_left: AtomicUsize::new(usize::MAX),
            allocations: AtomicUsize::new(0),
            unsettled: AtomicBool::new(false),
            state: Mutex::new(state),
        };
        fake.state().registers.insert(0x800, 0x0000_00a3_0000_0005);
        Arc::new(fake)
    }

    pub(crate) fn bridge(self: &Arc<Self>, change: impl FnOnce(&mut Config)) -> Arc<Bridge> {
        let mut config = Config::new("phb");
        change(&mut config);
        Phb3::probe(self.clone(), self.clone(), config).unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn register(&self, offset: usize) -> u64 {
        self.state().registers.get(&offset).copied().unwrap_or(0)
    }

    /// Hardware's own change of a register.
    pub(crate) fn poke(&self, offset: usize, value: u64) {
        self.state().registers.insert(offset, value);
    }

    pub(crate) fn entry(&self, table: u8, index: usize) -> u64 {
        self.state().tables[&table][index]
    }

    pub(crate) fn take_kills(&self) -> Vec<u64> {
        core::mem::take(&mut self.state().kills)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.arena.live_bytes()
    }

    /// The bridge does not answer any more after so many reads; or it does again.
    pub(crate) fn answers(&self, left: Option<usize>) {
        self.state().answers_left = left;
    }

    /// The word at an address, as hardware reads it: the first byte is the most significant.
    fn big_endian(&self, at: u64) -> u64 {
        self.arena.load(Pa::new(at)).swap_bytes()
    }

    /// What a device's access reaches; none if it froze its PE, or finds it frozen.
    pub(crate) fn access(&self, rid: u16, address: u64, write: bool) -> Option<u64> {
        let mut state = self.state();
        let pe = self.route(&mut state, rid);
        if state.tables[&8][usize::from(pe)] >> 63 != 0 {
            return None;
        }
        let found = self.translate(&mut state, pe, address, write);
        found.map_err(|cause| state.freeze(pe, rid, address, write, cause)).ok()
    }

    /// The PE of a request id, as the bridge knows it.
    fn route(&self, state: &mut State, rid: u16) -> u8 {
        let rtt = state.registers[&0x168] & !(1 << 63);
        *state.routes.entry(rid).or_insert_with(|| {
            let word = self.big_endian((rtt + 2 * u64::from(rid)) & !7);
            u8::try_from(word >> (48 - 16 * (u64::from(rid) & 3)) & 0xffff).unwrap()
        })
    }

    fn translate(&self, state: &mut State, pe: u8, address: u64, write: bool) -> Result<u64, u64> {
        const IODA_ERROR: u64 = 1 << 47;
        const PAGE_FAULT: u64 = 1 << 45;
        const ACCESS_FAULT: u64 = 1 << 44;
        let tve = state.tables[&9][2 * usize::from(pe) + usize::from(address >> 59 != 0)];
        let offset = address & ((1 << 59) - 1);
        let (page, size, levels) = (tve & 0x1f, tve >> 8 & 0x1f, (tve >> 13 & 7) + 1);
        if page == 0 {
            let end = (tve >> 16 & 0xff_ffff) << 24;
            return if tve >> 12 & 1 == 1 && offset < end { Ok(offset) } else { Err(IODA_ERROR) };
        }
        let (page_lg2, fan) = (page + 11, size + 8);
        if offset >> (page_lg2 + fan * levels) != 0 {
            return Err(IODA_ERROR);
        }
        let number = address >> page_lg2;
        if !state.cache.contains_key(&(pe, number)) {
            let mut at = tve >> 16 << 12;
            for height in (1..levels).rev() {
                let entry =
                    self.big_endian(at + 8 * (offset >> (page_lg2 + fan * height) & ((1 << fan) - 1)));
                if entry & 3 != 3 {
                    return Err(PAGE_FAULT);
                }
                at = entry & !0xfff;
            }
            // A line of eight.
            for neighbour in number & !7..=number | 7 {
                let entry = self.big_endian(at + 8 * (neighbour & ((1 << fan) - 1)));
                state.cache.entry((pe, neighbour)).or_insert(entry);
            }
        }
        match state.cache[&(pe, number)] {
            entry if entry & 3 == 0 => Err(PAGE_FAULT),
            entry if entry & if write { 2 } else { 1 } == 0 => Err(ACCESS_FAULT),
            entry => Ok(entry & !((1 << page_lg2) - 1) | offset & ((1 << page_lg2) - 1)),
        }
    }
}

impl State {
    fn freeze(&mut self, pe: u8, rid: u16, address: u64, write: bool, cause: u64) {
        let transaction = if write { 0 } else { 2u64 << 56 };
        self.put(7, usize::from(pe), 1 << 63 | transaction | cause | u64::from(rid) << 16);
        self.put(8, usize::from(pe), 1 << 63 | address);
    }

    fn put(&mut self, table: u8, index: usize, entry: u64) {
        self.tables.get_mut(&table).expect("a table")[index] = entry;
        if table == 7 || table == 8 {
            let frozen = (self.tables[&7][index] | self.tables[&8][index]) >> 63 != 0;
            let word = &mut self.tables.get_mut(&20).expect("a table")[index / 64];
            *word = *word & !(1 << (63 - index % 64)) | u64::from(frozen) << (63 - index % 64);
        }
    }

    /// The entry that the address register selects; counts up.
    fn selected(&mut self) -> Option<(u8, usize)> {
        let address = self.registers.get(&0x220).copied().unwrap_or(0);
        let (table, index) = (u8::try_from(address >> 48 & 0x1f).unwrap(), address & 0x1ff);
        let size = self.tables.get(&table)?.len() as u64;
        if address >> 63 != 0 {
            self.registers.insert(0x220, address & !0x1ff | ((index + 1) % size));
        }
        (index < size).then(|| (table, usize::try_from(index).unwrap()))
    }

    fn kill(&mut self, word: u64) {
        self.kills.push(word);
        let pe = u8::try_from(word & 0xff).unwrap();
        let address = word & 0x0fff_ffff_ffff_f000;
        match word >> 61 {
            0b100 => self.cache.clear(),
            0b010 => self.cache.retain(|&(cached, _), _| cached != pe),
            0b001 => {
                let sizes = [12, 16, 24, 28];
                self.cache.retain(|&(cached, number), _| {
                    cached != pe || sizes.iter().all(|&lg2| number != address >> lg2)
                });
            }
            _ => self.wrong += 1,
        }
    }
}

impl Registers for Fake {
    fn read32(&self, _: usize) -> u32 {
        self.state().wrong += 1;
        u32::MAX
    }

    fn write32(&self, _: usize, _: u32) {
        self.state().wrong += 1;
    }

    fn read64(&self, offset: usize) -> u64 {
        let mut state = self.state();
        match &mut state.answers_left {
            Some(0) => return u64::MAX,
            Some(left) => *left -= 1,
            None => {}
        }
        if state.reads_missed > 0 {
            state.reads_missed -= 1;
            return u64::MAX;
        }
        if offset == 0x228 {
            let Some((table, index)) = state.selected() else { return 0 };
            let (entry, is_last) = (state.tables[&table][index], index + 1 == state.tables[&table].len());
            let behind = state.behind_load.take_if(|(of, _)| is_last && *of == table);
            drop(state);
            behind.into_iter().for_each(|(_, act)| act());
            return entry;
        }
        state.registers.get(&offset).copied().unwrap_or(0)
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.state();
        if [0x168, 0x188, 0x1a8, 0x208, 0x210].contains(&offset) {
            assert!(
                !self.unsettled.load(SeqCst),
                "register {offset:#x} is written while stores are on their way"
            );
        }
        match &mut state.stores_left {
            Some(0) => state.answers_left = Some(0),
            Some(left) => *left -= 1,
            None => {}
        }
        if state.answers_left == Some(0) {
            return;
        }
        match offset {
            0x228 => match state.selected() {
                Some((table, index)) => {
                    let opens = table == 9 && value != 0;
                    assert!(
                        !opens || !self.unsettled.load(SeqCst),
                        "a window opens before its table is there"
                    );
                    if let Some(rid) = state.watched.filter(|_| table == 9 && value != 0) {
                        let pe = self.route(&mut state, rid);
                        state.seen.push(pe);
                    }
                    state.put(table, index, value);
                    if let Some((pe, address)) = state.tries.filter(|_| table == 9) {
                        let reached = self.translate(&mut state, pe, address, true).ok();
                        if opens { state.tried.push(reached) } else { state.tried_closing.push(reached) }
                    }
                }
                None => state.wrong += 1,
            },
            0x208 if value >> 63 != 0 => state.routes.clear(),
            0x210 => state.kill(value),
            0x808 => {
                let now_ns = self.time.load(SeqCst);
                state.resets.push((value, now_ns));
                state.registers.insert(offset, value);
            }
            // Half of what is to be hit may hit anybody: the control register is off meanwhile.
            0x2b8 | 0x2c0 => {
                state.wrong += usize::from(state.registers.get(&0x2b0).is_some_and(|&control| control != 0));
                state.registers.insert(offset, value);
            }
            _ => drop(state.registers.insert(offset, value)),
        }
        let behind = state.behind_store.take_if(|(of, word, _)| (*of, *word) == (offset, value));
        drop(state);
        behind.into_iter().for_each(|(_, _, act)| act());
    }
}

impl TableMemory for Fake {
    fn alloc(&self, layout: BlockLayout) -> Option<Pa> {
        self.allocations.fetch_add(1, SeqCst);
        let left = self.allocations_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        self.unsettled.store(true, SeqCst);
        left.ok().and_then(|_| self.arena.alloc(layout))
    }

    fn free(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn load(&self, at: Pa) -> u64 {
        self.arena.load(at)
    }

    fn store(&self, at: Pa, word: u64) {
        self.unsettled.store(true, SeqCst);
        self.arena.store(at, word);
    }

    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, u64> {
        self.arena.compare_exchange(at, current, new)
    }

    fn clean_table(&self, _: Pa, _: u64) {}
}

impl DmaMemory for Fake {
    fn alloc_buffer(&self, layout: BlockLayout) -> Option<Pa> {
        self.arena.alloc(layout)
    }

    fn free_buffer(&self, first: Pa, layout: BlockLayout) {
        self.arena.free(first, layout);
    }

    fn read(&self, _: Pa, _: &mut [u8]) {}

    fn write(&self, _: Pa, _: &[u8]) {}

    fn read32(&self, _: Pa) -> u32 {
        0
    }

    fn write32(&self, _: Pa, _: u32) {}

    fn clean(&self, _: Pa, _: u64) {}

    fn invalidate(&self, _: Pa, _: u64) {}
}

impl Barriers for Fake {
    fn write_barrier(&self) {
        self.unsettled.store(false, SeqCst);
    }

    fn read_barrier(&self) {}

    fn full_barrier(&self) {
        self.write_barrier();
    }
}

impl Clock for Fake {
    fn now_ns(&self) -> u64 {
        self.time.load(SeqCst)
    }

    fn relax(&self) {
        self.time.fetch_add(100, SeqCst);
    }
}

impl Sink for Fake {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Platform for Fake {
    type Mutex = spin::mutex::Mutex<(), Spin>;
}

/// How often somebody looked at a lock that another had.
static SPINS: AtomicUsize = AtomicUsize::new(0);

/// Waits for a lock.
pub(crate) struct Spin;

impl spin::RelaxStrategy for Spin {
    fn relax() {
        SPINS.fetch_add(1, SeqCst);
        std::thread::yield_now();
    }
}

/// Another CPU does this. Comes back when it has, or when it waits for a lock.
pub(crate) fn other_cpu<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let spins = SPINS.load(SeqCst);
    let cpu = std::thread::spawn(act);
    while !cpu.is_finished() && SPINS.load(SeqCst) == spins {
        std::thread::yield_now();
    }
    cpu
}
