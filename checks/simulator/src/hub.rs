//! Where everything of a life meets: the bus, the shadow, the faults, the trace, and the turns that others get while somebody works.
//!
//! One thread plays everybody. Its schedule is this: at every store, barrier, register access and wait of a driver a counter goes down, and where it
//! reaches zero somebody else gets a turn ([`Turns`]): a device that moves bytes, or another CPU. How far the counter counts is drawn from the seed.
//!
//! # Locks
//!
//! Each is held for a few lines and never while anything else is called.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use model_bus::{Bus, Chance, Passage, TranslatedRequest};
use portcullis::types::{Pa, PaRange};

use crate::fault::{Faults, Tap, Written};
use crate::oracle::tables::Tables;
use crate::oracle::{Raised, Seen, Shadow, SpaceId, Token, Vectors, Wrong};
use crate::promise::Promise;
use crate::trace::Trace;

/// Where a driver is when somebody else gets a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has stored a word.
    Store,
    /// It has passed a barrier.
    Barrier,
    /// It has written a register.
    Register,
    /// It waits.
    Wait,
}

/// Who gets turns.
pub(crate) trait Turns: Send + Sync {
    /// A device does something, or another CPU.
    fn turn(&self, place: Place);
    /// An entry may be changing: look whether hardware sees the old one or the new one.
    fn watch(&self);
}

/// A lock that is never poisoned: who panics ends the life.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where everything meets.
pub(crate) struct Hub {
    pub(crate) bus: Arc<Bus>,
    pub(crate) faults: Faults,
    /// Decides what happens in turns. Seeded anew for each operation, so that an operation that is left out changes no other.
    pub(crate) chance: Mutex<Chance>,
    shadow: Mutex<Shadow>,
    vectors: Mutex<Vectors>,
    trace: Mutex<Trace>,
    wrong: AtomicBool,
    flipped: AtomicBool,
    first_wrong: Mutex<Option<Wrong>>,
    /// One for each IOMMU.
    taps: Vec<Box<dyn Tap>>,
    countdown: AtomicU32,
    /// The most hooks that pass between two turns.
    span: AtomicU32,
    in_turn: AtomicBool,
    watching: AtomicBool,
    turns: Mutex<Option<Weak<dyn Turns>>>,
    accesses: AtomicU64,
    /// Stores, barriers, register writes and waits of drivers.
    hooks: AtomicU64,
    waits: AtomicU32,
    /// How many operations of the plan have begun.
    serial: AtomicU64,
    /// For whom a buffer is that is allocated now.
    arriving: Mutex<Option<(SpaceId, Token)>>,
}

/// An operation that waits more often than that waits for ever.
const MOST_WAITS: u32 = 2_000_000;

impl Hub {
    /// `taps` stand before the IOMMUs.
    pub(crate) fn new(bus: Arc<Bus>, taps: Vec<Box<dyn Tap>>, lines: bool) -> Arc<Self> {
        Arc::new(Self {
            bus,
            faults: Faults::default(),
            chance: Mutex::new(Chance::new(0)),
            shadow: Mutex::default(),
            vectors: Mutex::default(),
            trace: Mutex::new(Trace::new(lines)),
            wrong: AtomicBool::new(false),
            flipped: AtomicBool::new(false),
            first_wrong: Mutex::new(None),
            taps,
            countdown: AtomicU32::new(0),
            span: AtomicU32::new(0),
            in_turn: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            turns: Mutex::new(None),
            accesses: AtomicU64::new(0),
            hooks: AtomicU64::new(0),
            waits: AtomicU32::new(0),
            serial: AtomicU64::new(0),
            arriving: Mutex::new(None),
        })
    }

    /// Looks at the shadow, or changes it.
    pub(crate) fn shadow<T>(&self, work: impl FnOnce(&mut Shadow) -> T) -> T {
        work(&mut locked(&self.shadow))
    }

    /// A reader of tables in memory, as hardware sees it: what a driver has stored and not ordered, or not cleaned, is not there.
    pub(crate) fn reading<T>(&self, read: impl FnOnce(&Tables<'_>) -> T) -> T {
        let ram = self.bus.cpu().ram();
        let load = |at: u64| ram.load(Pa::new(at & !7)).ok();
        let run = |at: u64, into: &mut [u8]| ram.read(Pa::new(at), into).is_ok();
        read(&Tables::by_table(&load, &run))
    }

    /// Looks at who may raise which interrupt, or changes it.
    pub(crate) fn vectors<T>(&self, work: impl FnOnce(&mut Vectors) -> T) -> T {
        work(&mut locked(&self.vectors))
    }

    /// An interrupt of a device is delivered: is it its own?
    pub(crate) fn interrupt(&self, source: u32, raised: Raised) {
        self.trace(|trace| trace.note(&[source.into(), raised.destination.into(), raised.vector.into()]));
        self.shadow(|shadow| shadow.check(Promise::Isolation));
        let delivered = self.vectors(|vectors| vectors.delivered(source, raised));
        self.judged(delivered);
    }

    /// Looks at the trace, or adds to it.
    pub(crate) fn trace<T>(&self, work: impl FnOnce(&mut Trace) -> T) -> T {
        work(&mut locked(&self.trace))
    }

    /// Objects. The first objection is the one that counts.
    pub(crate) fn object(&self, wrong: Wrong) {
        if self.wrong.swap(true, Relaxed) {
            return;
        }
        self.trace(|trace| trace.say(|| format!("        {}: {}", wrong.promise, wrong.what)));
        *locked(&self.first_wrong) = Some(wrong);
    }

    /// Objects if there is something to object to.
    pub(crate) fn judged(&self, result: Result<(), Wrong>) {
        if let Err(wrong) = result {
            self.object(wrong);
        }
    }

    /// Objects unless something holds.
    pub(crate) fn hold(&self, promise: Promise, holds: bool, what: impl FnOnce() -> String) {
        self.shadow(|shadow| shadow.check(promise));
        if !holds {
            self.object(Wrong::new(promise, what()));
        }
    }

    pub(crate) fn is_wrong(&self) -> bool {
        self.wrong.load(Relaxed)
    }

    pub(crate) fn first_wrong(&self) -> Option<Wrong> {
        locked(&self.first_wrong).clone()
    }

    /// How many accesses were let through.
    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.load(Relaxed)
    }

    /// How often a driver stored, ordered, wrote a register or waited.
    pub(crate) fn hooks(&self) -> u64 {
        self.hooks.load(Relaxed)
    }

    /// A number below `bound`, for what happens in a turn.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        locked(&self.chance).below(usize::try_from(bound).unwrap_or(usize::MAX)) as u64
    }

    /// Lets somebody else have a turn about every `span` hooks; never, for 0.
    pub(crate) fn give_turns(&self, to: Weak<dyn Turns>, span: u32) {
        *locked(&self.turns) = Some(to);
        self.span.store(span, Relaxed);
    }

    /// Nobody has turns any more.
    pub(crate) fn dismantle(&self) {
        *locked(&self.turns) = None;
        self.span.store(0, Relaxed);
    }

    /// An operation begins: what happens in turns meanwhile is decided by `salt` alone.
    pub(crate) fn begin(&self, salt: u64) {
        *locked(&self.chance) = Chance::new(salt);
        self.waits.store(0, Relaxed);
        self.serial.fetch_add(1, Relaxed);
        let span = self.span.load(Relaxed);
        let first = if span == 0 { 0 } else { 1 + self.below(span.into()) };
        self.countdown.store(u32::try_from(first).unwrap_or(1), Relaxed);
    }

    /// An operation begins beside others.
    pub(crate) fn begin_beside(&self) {
        self.waits.store(0, Relaxed);
        self.serial.fetch_add(1, Relaxed);
    }

    /// Which operation of the plan is under way: a number that no other has.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Relaxed)
    }

    /// An operation has returned: hardware that was held back goes on.
    pub(crate) fn end(&self) {
        self.taps.iter().for_each(|tap| tap.held().release(&self.bus));
    }

    /// Whether some SMMU is held back at this moment.
    pub(crate) fn is_held(&self) -> bool {
        self.taps.iter().any(|tap| tap.held().is_held())
    }

    /// From now on each store is looked at; or no more.
    pub(crate) fn watch(&self, watch: bool) {
        self.watching.store(watch, Relaxed);
    }

    fn who(&self) -> Option<Arc<dyn Turns>> {
        locked(&self.turns).as_ref().and_then(Weak::upgrade)
    }

    /// A driver has come to a place where others may get a turn.
    pub(crate) fn turn(&self, place: Place) {
        // One thread counts; on several some are missed.
        self.hooks.store(self.hooks.load(Relaxed) + 1, Relaxed);
        if self.watching.load(Relaxed)
            && let Some(who) = self.who()
        {
            who.watch();
        }
        let left = self.countdown.load(Relaxed);
        if left == 0 {
            return;
        }
        self.countdown.store(left - 1, Relaxed);
        if left > 1 || self.in_turn.swap(true, Relaxed) {
            return;
        }
        let next = 1 + self.below(self.span.load(Relaxed).into());
        self.countdown.store(u32::try_from(next).unwrap_or(1), Relaxed);
        if let Some(who) = self.who() {
            who.turn(place);
        }
        self.in_turn.store(false, Relaxed);
    }

    /// A driver is about to wait for one turn of the bus.
    pub(crate) fn relaxed(&self) {
        self.taps.iter().for_each(|tap| tap.held().waited(&self.bus));
        let waits = self.waits.fetch_add(1, Relaxed);
        // Whoever is let go after that has waits of his own.
        assert!(waits < MOST_WAITS || self.is_wrong(), "a wait without end");
    }

    /// How many waits in a row are sure to give nobody a turn, and let nothing go that is held back.
    pub(crate) fn waits_before_turn(&self) -> u32 {
        if self.watching.load(Relaxed) || self.is_held() {
            return 0;
        }
        let left = self.countdown.load(Relaxed);
        let waits = if left == 0 { u32::MAX } else { left - 1 };
        waits.min(MOST_WAITS.saturating_sub(self.waits.load(Relaxed)))
    }

    /// So many of them have been.
    pub(crate) fn waited_idly(&self, waits: u64) {
        self.hooks.store(self.hooks.load(Relaxed) + waits, Relaxed);
        let waits = u32::try_from(waits).unwrap_or(u32::MAX);
        self.waits.fetch_add(waits, Relaxed);
        self.countdown.store(self.countdown.load(Relaxed).saturating_sub(waits), Relaxed);
    }

    /// A register of an IOMMU is about to be written. Answers what hardware gets; none if nothing now.
    pub(crate) fn register_written(&self, unit: usize, offset: usize, value: u64) -> Option<u64> {
        let taken = self.taps[unit].written(&self.bus, &self.faults, Written { offset, value });
        if taken.flushes {
            self.shadow(Shadow::told_to_flush);
        }
        taken.passes
    }

    /// What stands before an IOMMU.
    pub(crate) fn tap(&self, unit: usize) -> &dyn Tap {
        &*self.taps[unit]
    }

    /// A register of an IOMMU was read. Answers what its driver gets.
    pub(crate) fn register_read(&self, unit: usize, offset: usize, value: u64) -> u64 {
        self.taps[unit].answered(offset, value)
    }

    /// Whether the entry of a source says that it is valid, as an IOMMU would see it now: one that does not ends every access, on purpose.
    ///
    /// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", V.
    pub(crate) fn entry_is_valid(&self, unit: usize, source: u32) -> bool {
        let load = |at| self.bus.cpu().ram().load(at).unwrap_or(0);
        self.entry_of(unit, source).is_some_and(|entry| load(entry) & 1 == 1)
    }

    /// Where the entry of a source lies; none if it has none in memory.
    pub(crate) fn entry_of(&self, unit: usize, source: u32) -> Option<Pa> {
        self.taps[unit].entry_of(&self.bus, source)
    }

    /// Where the word lies that leads to the entry of a source, and to those of its neighbours; none if no word does.
    pub(crate) fn descriptor_of(&self, unit: usize, source: u32) -> Option<Pa> {
        self.taps[unit].descriptor_of(source)
    }

    /// A bit of a table has flipped in this life.
    pub(crate) fn flipped(&self) {
        self.flipped.store(true, Relaxed);
    }

    /// Whether one has.
    pub(crate) fn has_flipped(&self) -> bool {
        self.flipped.load(Relaxed)
    }

    /// Whether what a source reaches is nobody's promise: then its bytes do not move, so that nobody else loses any.
    pub(crate) fn is_spoiled(&self, source: u32) -> bool {
        self.has_flipped() && self.shadow(|shadow| shadow.is_source_spoiled(source))
    }

    /// Says for whom buffers are that are allocated from now on. Answers for whom they were.
    pub(crate) fn arriving(&self, whose: Option<(SpaceId, Token)>) -> Option<(SpaceId, Token)> {
        core::mem::replace(&mut *locked(&self.arriving), whose)
    }

    /// A buffer was allocated.
    pub(crate) fn buffer(&self, first: u64, len_bytes: u64) {
        let whose = *locked(&self.arriving);
        if let Some((space, token)) = whose {
            self.shadow(|shadow| shadow.arrives(space, token, first, len_bytes));
        }
    }

    /// Memory is about to go back to the heap.
    pub(crate) fn freed(&self, range: PaRange) {
        let freed = self.shadow(|shadow| shadow.freed(range.first().get(), range.last().get()));
        self.judged(freed);
    }

    /// A buffer is about to go back to the heap.
    pub(crate) fn buffer_freed(&self, range: PaRange) {
        let freed = self.shadow(|shadow| shadow.buffer_freed(range.first().get(), range.last().get()));
        self.judged(freed);
    }

    /// An access is let through: is it one that somebody was granted?
    pub(crate) fn judge(&self, seen: &Seen) {
        let judged = self.shadow(|shadow| shadow.judge(seen));
        self.judged(judged);
    }

    /// Notes an access that is let through.
    pub(crate) fn let_through(&self, source: u32, iova: u64, pa: u64) {
        self.accesses.fetch_add(1, Relaxed);
        self.trace(|trace| trace.note(&[u64::from(source), iova, pa]));
    }

    /// Notes an access by translated address that is let through.
    pub(crate) fn translated(&self, request: &TranslatedRequest, passage: Passage) {
        self.let_through(request.source.0, request.at.get(), passage.pa.get());
    }
}
