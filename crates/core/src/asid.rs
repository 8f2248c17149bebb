//! Address space ids of CPUs: few numbers for many address spaces, so that each number has an age.
//!
//! A CPU tags what its TLB remembers with an ASID. An [`AsidSpace`] gives each address space ([`AsidContext`]) one when it is
//! [activated](AsidSpace::activate) on a CPU; when they run out, all ASIDs begin a new *generation*: every CPU flushes its TLB before it uses
//! one of it, and address spaces get a new ASID when they are activated next. An address space that is shared with devices has
//! its ASID [pinned](AsidSpace::pin): devices' TLBs know nothing of generations, so a pinned ASID survives them.
//!
//! # Who has an ASID, at any time
//!
//! * An address space whose generation is the current one ([`AsidSpace::asid_gen_match`]): it alone.
//! * One that was running on some CPU when the generation changed: that ASID is reserved until the CPU runs another, so that no other
//!   address space gets it while this one's entries are still being made.
//! * One that is pinned.
//!
//! How many may be pinned is limited, so that after a rollover at least one ASID is free: of all, less one for each CPU's reserved one, less
//! ASID 0, which stands for "none", less the free one.
//!
//! With kernel page-table isolation, ASIDs go in pairs: the even one for when the kernel runs, the odd one for the process. The
//! one that is told, and shared with devices, is the process's.
//!
//! # Ordering
//!
//! One lock for everything but the fast path of `activate`, which has only a compare-exchange on the CPU's active ASID. A rollover takes that
//! away (exchanges it for 0) after it has begun the new generation, so that either the rollover sees the ASID that the fast path has
//! made active, and reserves it, or the fast path finds 0 and takes the slow one.
//!
//! Observed: Linux 5.7 with the SVA series, arm64: generations, reserved ASIDs, pinning, its limit.
//! Not here: hardware's TLBs, and the ASIDs of an IOMMU's own domains (a driver's, in an [`IdMap`](crate::id_map::IdMap)).

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use lock_api::{Mutex, RawMutex};
use portcullis_hal::lock_api;
use portcullis_types::mutant;

/// The ASIDs of a machine's CPUs.
pub struct AsidSpace<M> {
    pairs: bool,
    /// The current one, in the bits above the index.
    generation: AtomicU64,
    /// What each CPU runs: generation and index; 0 after a rollover, until it runs something again.
    active: Vec<AtomicU64>,
    state: Mutex<M, State>,
}

struct State {
    count: usize,
    /// Indexes that are not to be given out in this generation.
    used: Vec<u64>,
    pinned: Vec<u64>,
    pinned_count: usize,
    most_pinned: usize,
    /// Where the search for a free one goes on: those below were given out in this generation.
    cursor: usize,
    cpus: Vec<Cpu>,
}

#[derive(Clone, Copy, Default)]
struct Cpu {
    /// Generation and index of what it ran when the generation last changed.
    reserved: u64,
    flush_pending: bool,
}

/// What an address space has to do with ASIDs. Embedded in it, zero at first.
#[derive(Default)]
pub struct AsidContext {
    /// Generation and index; 0 if it never had one. Changed under the space's lock.
    id: AtomicU64,
    /// How often it is pinned. Changed under the space's lock.
    pins: AtomicU64,
}

/// What a CPU has to do to run an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the TLB may have to be flushed"]
pub struct Activation {
    /// The ASID to run the process with. With pairs, the process's half.
    pub asid: u16,
    /// Whether the CPU must flush all of its TLB first: it holds entries of an older generation.
    pub flush: bool,
}

/// Why there is no space of ASIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AsidSpaceError {
    /// ASIDs have 1 to 16 bits.
    BadWidth {
        /// What was asked for.
        bits: u8,
    },
    /// There are not enough: each CPU can hold one, one stands for "none", and one must be free.
    TooFew {
        /// How many there are, or pairs.
        count: usize,
        /// How many CPUs.
        cpus: usize,
    },
    /// No memory. ENOMEM.
    NoMemory,
}

/// The machine has no such CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchCpu(pub usize);

/// Why an ASID was not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinError {
    /// As many are pinned as may be. ENOSPC.
    TooMany {
        /// How many that is.
        limit: usize,
    },
}

/// The ASID of the address space is not pinned: there were more unpins than pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPinned;

const INDEX_BITS: u32 = 16;
const GENERATION: u64 = 1 << INDEX_BITS;
const INDEX_MASK: u64 = GENERATION - 1;

impl<M: RawMutex> fmt::Debug for AsidSpace<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation.load(SeqCst) / GENERATION;
        f.debug_struct("AsidSpace").field("generation", &generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for AsidContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, pins) = (self.id.load(SeqCst), self.pins.load(SeqCst));
        let mut context = f.debug_struct("AsidContext");
        context
            .field("generation", &(id / GENERATION))
            .field("index", &(id & INDEX_MASK))
            .field("pins", &pins)
            .finish()
    }
}

impl AsidContext {
    /// Of an address space that has no ASID yet.
    pub const fn new() -> Self {
        Self { id: AtomicU64::new(0), pins: AtomicU64::new(0) }
    }
}

impl<M: RawMutex> AsidSpace<M> {
    /// All ASIDs of `bits` bits, for CPUs `0..cpus`. With `pairs`, an address space takes two: kernel page-table isolation.
    ///
    /// # Errors
    ///
    /// As [`AsidSpaceError`] says.
    pub fn new(bits: u8, cpus: usize, pairs: bool) -> Result<Self, AsidSpaceError> {
        if !(1..=16).contains(&bits) {
            return Err(AsidSpaceError::BadWidth { bits });
        }
        let count = (1usize << bits) >> u32::from(pairs);
        let spare = cpus.checked_add(2).and_then(|taken| count.checked_sub(taken));
        let most_pinned = spare.ok_or(AsidSpaceError::TooFew { count, cpus })?;
        let active = filled(cpus, || AtomicU64::new(0))?;
        let words = count.div_ceil(64);
        let mut state = State {
            count,
            used: filled(words, || 0)?,
            pinned: filled(words, || 0)?,
            pinned_count: 0,
            most_pinned,
            cursor: 1,
            cpus: filled(cpus, Cpu::default)?,
        };
        set(&mut state.used, 0);
        Ok(Self { pairs, generation: AtomicU64::new(GENERATION), active, state: Mutex::new(state) })
    }

    /// How many address spaces can be pinned at a time.
    pub fn most_pinned(&self) -> usize {
        self.state.lock().most_pinned
    }

    /// Whether the address space's ASID is of the current generation. Without a lock: may be outdated when it is answered.
    pub fn asid_gen_match(&self, context: &AsidContext) -> bool {
        self.is_current(context.id.load(SeqCst))
    }

    /// Makes an address space the one that `cpu` runs. Called on that CPU, with nothing in between that could run another there.
    ///
    /// # Errors
    ///
    /// There is no such CPU.
    pub fn activate(&self, cpu: usize, context: &AsidContext) -> Result<Activation, NoSuchCpu> {
        let active = self.active.get(cpu).ok_or(NoSuchCpu(cpu))?;
        let (id, running) = (context.id.load(SeqCst), active.load(SeqCst));
        let fast = running != 0
            && self.is_current(id)
            && active.compare_exchange(running, id, SeqCst, SeqCst).is_ok();
        if fast {
            return Ok(Activation { asid: self.asid(id), flush: false });
        }
        let mut state = self.state.lock();
        let id = self.renew(&mut state, context);
        let flush = core::mem::take(&mut state.cpus[cpu].flush_pending);
        active.store(id, SeqCst);
        Ok(Activation { asid: self.asid(id), flush })
    }

    /// Pins the ASID of an address space, so that it stays the same until as many [`unpin`](Self::unpin)s. Answers it; with pairs, the
    /// process's half.
    ///
    /// # Errors
    ///
    /// As [`PinError`] says; then nothing has changed.
    pub fn pin(&self, context: &AsidContext) -> Result<u16, PinError> {
        let mut state = self.state.lock();
        let pins = context.pins.load(SeqCst);
        if pins == 0 {
            if state.pinned_count >= state.most_pinned {
                return Err(PinError::TooMany { limit: state.most_pinned });
            }
            let id = self.renew(&mut state, context);
            set(&mut state.pinned, index(id));
            state.pinned_count += 1;
        }
        context.pins.store(pins + 1, SeqCst);
        Ok(self.asid(context.id.load(SeqCst)))
    }

    /// Takes one [`pin`](Self::pin) back. With the last, the ASID may go to another address space in the next generation; devices must
    /// have forgotten it by now.
    ///
    /// # Errors
    ///
    /// It is not pinned.
    pub fn unpin(&self, context: &AsidContext) -> Result<(), NotPinned> {
        let mut state = self.state.lock();
        let left = context.pins.load(SeqCst).checked_sub(1).ok_or(NotPinned)?;
        context.pins.store(left, SeqCst);
        if left == 0 || mutant!("first-unpin-frees-the-asid") {
            clear(&mut state.pinned, index(context.id.load(SeqCst)));
            state.pinned_count -= 1;
        }
        Ok(())
    }

    fn is_current(&self, id: u64) -> bool {
        (id ^ self.generation.load(SeqCst)) & !INDEX_MASK == 0
    }

    /// Generation and index of an address space, brought into the current generation.
    fn renew(&self, state: &mut State, context: &AsidContext) -> u64 {
        let id = context.id.load(SeqCst);
        if self.is_current(id) {
            return id;
        }
        let renewed = self.keep(state, context, id).unwrap_or_else(|| self.choose(state));
        context.id.store(renewed, SeqCst);
        renewed
    }

    /// The same ASID in this generation, if the address space still has it or nobody else does.
    fn keep(&self, state: &mut State, context: &AsidContext, id: u64) -> Option<u64> {
        if id == 0 {
            return None;
        }
        let renewed = self.generation.load(SeqCst) | id & INDEX_MASK;
        let mut reserved = false;
        for cpu in state.cpus.iter_mut().filter(|cpu| cpu.reserved == id) {
            // It may be running on several.
            cpu.reserved = renewed;
            reserved = true;
        }
        // Pinned ones were put among the used ones when the generation began.
        let ours = reserved || context.pins.load(SeqCst) > 0;
        (ours || set(&mut state.used, index(id))).then_some(renewed)
    }

    /// One that is free; begins a new generation if there is none.
    fn choose(&self, state: &mut State) -> u64 {
        let free = state.next_free().or_else(|| {
            self.roll_over(state);
            state.next_free()
        });
        let index = free.expect("with the limit on pins, a new generation has a free one");
        set(&mut state.used, index);
        state.cursor = index + 1;
        self.generation.load(SeqCst) | index as u64
    }

    fn roll_over(&self, state: &mut State) {
        self.generation.fetch_add(GENERATION, SeqCst);
        state.used.copy_from_slice(&state.pinned);
        if mutant!("rollover-forgets-pinned-asids") {
            state.used.fill(0);
        }
        set(&mut state.used, 0);
        state.cursor = 1;
        for (active, cpu) in self.active.iter().zip(&mut state.cpus) {
            let running = active.swap(0, SeqCst);
            // A CPU that ran nothing new since the last rollover still runs what was reserved then.
            if running != 0 {
                cpu.reserved = running;
            }
            set(&mut state.used, index(cpu.reserved));
            cpu.flush_pending = !mutant!("rollover-without-flush");
        }
    }

    fn asid(&self, id: u64) -> u16 {
        let index = (id & INDEX_MASK) as u16;
        if self.pairs { index << 1 | 1 } else { index }
    }
}

impl State {
    /// The next index that is free in this generation.
    fn next_free(&self) -> Option<usize> {
        let first = self.cursor / 64;
        // What lies before the cursor is taken for used.
        let mut before = (1u64 << (self.cursor % 64)) - 1;
        for (at, &word) in self.used.iter().enumerate().skip(first) {
            let free = !(word | core::mem::take(&mut before));
            if free != 0 {
                return Some(64 * at + free.trailing_zeros() as usize).filter(|&index| index < self.count);
            }
        }
        None
    }
}

fn filled<T>(count: usize, make: impl FnMut() -> T) -> Result<Vec<T>, AsidSpaceError> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| AsidSpaceError::NoMemory)?;
    items.resize_with(count, make);
    Ok(items)
}

fn index(id: u64) -> usize {
    (id & INDEX_MASK) as usize
}

/// Sets a bit; whether it was clear.
fn set(words: &mut [u64], index: usize) -> bool {
    let clear = words[index / 64] & 1 << (index % 64) == 0;
    words[index / 64] |= 1 << (index % 64);
    clear
}

fn clear(words: &mut [u64], index: usize) {
    words[index / 64] &= !(1 << (index % 64));
}
