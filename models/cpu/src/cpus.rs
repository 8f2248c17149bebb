//! The CPUs of a machine, their accesses, and their TLB maintenance.
//!
//! One lock stands around all TLBs. An access holds it from its translation until its last byte in a page has moved, and an operation takes effect under it:
//! hence a completed TLBI has waited for every access that used what it made forgotten.

use core::fmt;
use core::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use model_bus::{Bus, Chance};
use portcullis_types::{AccessKind, Pa};

use crate::conflict::Journal;
use crate::context::Stage1;
use crate::policy::by_chance;
use crate::registers::Memory;
use crate::tlb::{Entry, Tlb, Writable, plain};
use crate::walk::{Purpose, Walker};
use crate::{
    BroadcastListener, Context, CpuFeatures, Fault, FaultKind, Message, Regime, TlbPolicy, Tlbi,
    Unpredictable,
};

/// The CPUs of a machine: one inner shareable domain.
pub struct Cpus {
    bus: Arc<Bus>,
    policy: TlbPolicy,
    chance: Chance,
    state: Mutex<State>,
    listeners: RwLock<Vec<Arc<dyn BroadcastListener>>>,
}

struct State {
    cores: Vec<Core>,
    /// By CPU, like `cores`.
    tlbs: Vec<Tlb>,
    journal: Journal,
}

struct Core {
    features: CpuFeatures,
    context: Option<Context>,
    /// What the context means; none if it breaks a rule, or there is none.
    stage1: Option<Stage1>,
    /// Asked for, and not in effect yet: everywhere, and on this CPU alone.
    pending: Vec<Tlbi>,
    pending_here: Vec<Tlbi>,
}

/// One CPU.
#[derive(Clone)]
pub struct Cpu {
    cpus: Arc<Cpus>,
    index: usize,
}

/// Where an address goes (what an `AT` instruction finds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub pa: Pa,
    /// The attribute byte of its memory, out of MAIR.
    pub memory: u8,
    /// The level of the descriptor, -1 to 3.
    pub level: i8,
}

impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpus").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cpu").field(&self.index).finish()
    }
}

impl Cpus {
    /// CPUs on `bus`, one for each member of `features`, none of them with anything to translate by.
    pub fn new(bus: Arc<Bus>, features: &[CpuFeatures], policy: TlbPolicy) -> Arc<Self> {
        let core = |&features| Core {
            features,
            context: None,
            stage1: None,
            pending: Vec::new(),
            pending_here: Vec::new(),
        };
        let state = State {
            cores: features.iter().map(core).collect(),
            tlbs: features.iter().map(|_| Tlb::new(policy.entries)).collect(),
            journal: Journal::default(),
        };
        Arc::new(Self {
            bus,
            policy,
            chance: Chance::new(policy.seed ^ 0xc90),
            state: Mutex::new(state),
            listeners: RwLock::default(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.state().cores.len()
    }

    /// One of them; none beyond [`count`](Self::count).
    pub fn cpu(self: &Arc<Self>, index: usize) -> Option<Cpu> {
        (index < self.count()).then(|| Cpu { cpus: self.clone(), index })
    }

    /// The bus that they are on.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Lets `listener` hear every TLB operation from now on.
    pub fn add_listener(&self, listener: Arc<dyn BroadcastListener>) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Lets nobody hear any more.
    pub fn dismantle(&self) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The unpredictable things that happened, oldest first, at most 64.
    pub fn unpredictable(&self) -> Vec<Unpredictable> {
        self.state().journal.kept()
    }

    /// How many unpredictable things happened.
    pub fn unpredictable_count(&self) -> u64 {
        self.state().journal.count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the architecture lets happen at any time.
    fn mischief(&self, state: &mut State, index: usize, va: u64) {
        if by_chance(&self.chance, self.policy.evict_one_in) {
            state.tlbs[index].evict(&self.chance);
        }
        if by_chance(&self.chance, self.policy.early_one_in) {
            let early: Vec<Tlbi> = state.cores.iter().flat_map(|core| core.pending.clone()).collect();
            early.iter().for_each(|operation| state.invalidate(operation));
        }
        if by_chance(&self.chance, self.policy.speculate_one_in) {
            let who = self.chance.below(state.cores.len());
            self.speculate(state, who, va);
        }
    }

    fn speculate(&self, state: &mut State, index: usize, va: u64) {
        let Some(stage1) = state.cores[index].stage1 else { return };
        let page = 1 << stage1.granule.lg2();
        let near = va.wrapping_add(page * self.chance.below(8) as u64).wrapping_sub(4 * page);
        if state.tlbs[index].find(stage1.asid, plain(near)).is_none() {
            // What it finds is in the TLB; that it finds nothing has no effect.
            let _ = self.walker(state, index, &stage1).walk(near, Purpose::Speculation);
        }
    }

    fn walker<'a>(&'a self, state: &'a mut State, own: usize, stage1: &'a Stage1) -> Walker<'a> {
        let State { tlbs, journal, .. } = state;
        Walker { fabric: &*self.bus, stage1, chance: &self.chance, tlbs, own, journal }
    }

    /// The entry through which `va` may be accessed, by the TLB or a walk. Walks that are switched off are those that a miss would make: what is held is used.
    ///
    /// Spec: Arm ARM, D24.2 "TCR_EL1, Translation Control Register (EL1)", EPD0.
    fn translate(
        &self,
        state: &mut State,
        index: usize,
        va: u64,
        access: AccessKind,
    ) -> Result<Entry, Fault> {
        let fault = |(kind, level)| Fault { va, access, kind, level };
        let stage1 = state.cores[index].stage1.ok_or(fault((FaultKind::Translation, 0)))?;
        let held = if stage1.top_byte_ignored || plain(va) == va {
            state.tlbs[index].find(stage1.asid, plain(va))
        } else {
            None
        };
        let entry = match held {
            Some(entry) if !(access == AccessKind::Write && entry.writable == Writable::WhenDirty) => entry,
            other => {
                if let Some(clean) = other {
                    state.tlbs[index].drop_entry(stage1.asid, plain(va), &clean);
                }
                self.walker(state, index, &stage1).walk(va, Purpose::Access(access)).map_err(fault)?
            }
        };
        let allowed = match access {
            AccessKind::Read => entry.readable,
            AccessKind::Write => entry.writable == Writable::Yes,
            AccessKind::Execute => entry.executable,
        };
        if allowed { Ok(entry) } else { Err(fault((FaultKind::Permission, entry.level))) }
    }
}

impl State {
    /// Notes an operation that comes before some descriptor is visible to walkers that it makes these CPUs forget. One that names no addresses may be for
    /// others than somebody is just changing.
    ///
    /// Spec: Arm ARM, D8.17.1 "Using break-before-make when updating translation table entries": a DSB is between the store and the TLBI.
    fn check_stores(&mut self, bus: &Bus, operation: &Tlbi, cpus: Range<usize>) {
        if matches!(operation, Tlbi::All | Tlbi::Asid { .. }) {
            return;
        }
        let mut places = self.tlbs[cpus].iter().flat_map(|tlb| tlb.places(operation));
        if places.any(|place| bus.cpu().is_pending(place)) {
            self.journal.note("a TLBI was given before a store that it is for was visible to walkers", 0);
        }
    }

    fn invalidate(&mut self, operation: &Tlbi) {
        self.tlbs.iter_mut().for_each(|tlb| tlb.invalidate(operation));
    }
}

impl Cpu {
    /// Which one, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The CPUs it is one of.
    pub fn cpus(&self) -> &Arc<Cpus> {
        &self.cpus
    }

    /// What it can do.
    pub fn features(&self) -> CpuFeatures {
        self.cpus.state().cores[self.index].features
    }

    /// Translates by `context` from now on, or by nothing: then every access is a translation fault. The TLB stays as it is.
    ///
    /// A context that breaks a rule is noted as unpredictable, and translates nothing.
    pub fn switch_to(&self, context: Option<Context>) {
        let mut state = self.cpus.state();
        let decoded = context.map(|context| context.decode(&state.cores[self.index].features));
        if let Some(Err(clause)) = decoded {
            state.journal.note(clause, 0);
        }
        state.cores[self.index].context = context;
        state.cores[self.index].stage1 = decoded.and_then(Result::ok);
    }

    /// What it translates by.
    pub fn context(&self) -> Option<Context> {
        self.cpus.state().cores[self.index].context
    }

    /// User code loads bytes from `va` on.
    ///
    /// # Errors
    ///
    /// The fault that some byte meets; those before it have been loaded.
    pub fn load(&self, va: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut rest = into;
        self.each_piece(va, rest.len(), AccessKind::Read, |bus, memory, pa, len| {
            let (now, later) = core::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            memory.load(bus, pa, now)
        })
    }

    /// User code stores bytes from `va` on.
    ///
    /// # Errors
    ///
    /// The fault that some byte meets; those before it have been stored.
    pub fn store(&self, va: u64, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        self.each_piece(va, rest.len(), AccessKind::Write, |bus, memory, pa, len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            memory.store(bus, pa, now)
        })
    }

    /// User code fetches the instruction at `va`.
    ///
    /// # Errors
    ///
    /// The fault that it meets.
    pub fn fetch(&self, va: u64) -> Result<u32, Fault> {
        if !va.is_multiple_of(4) {
            let (access, kind) = (AccessKind::Execute, FaultKind::PcAlignment);
            return Err(Fault { va, access, kind, level: 0 });
        }
        let mut word = [0; 4];
        self.each_piece(va, 4, AccessKind::Execute, |bus, _, pa, _| bus.cpu().read(pa, &mut word).is_ok())?;
        Ok(u32::from_le_bytes(word))
    }

    /// Where an access of user code at `va` goes (`AT S1E0R`, `AT S1E0W`).
    ///
    /// # Errors
    ///
    /// The fault that the access would meet.
    pub fn translate(&self, va: u64, access: AccessKind) -> Result<Translation, Fault> {
        let mut state = self.cpus.state();
        let entry = self.cpus.translate(&mut state, self.index, va, access)?;
        let mair = state.cores[self.index].context.map_or(0, |context| context.mair);
        Ok(Translation {
            pa: address(&entry, va),
            memory: mair.to_le_bytes()[usize::from(entry.memory_index)],
            level: entry.level,
        })
    }

    /// Asks every TLB of the machine to forget. Done when the next [`barrier`](Self::barrier) returns. What it is for must be visible to walkers before: it
    /// does not wait for stores, and what they are to replace could come back.
    pub fn tlbi(&self, operation: Tlbi) {
        let regime = {
            let mut state = self.cpus.state();
            let everywhere = 0..state.tlbs.len();
            state.check_stores(&self.cpus.bus, &operation, everywhere);
            let core = &mut state.cores[self.index];
            core.pending.push(operation);
            if core.features.host_at_el2 { Regime::El2Host } else { Regime::El1 }
        };
        for listener in self.listeners() {
            listener.invalidate(&Message { regime, operation });
        }
    }

    /// Asks this CPU's own TLB to forget (the forms without IS), and nobody else. Done when the next [`barrier`](Self::barrier) returns.
    pub fn tlbi_local(&self, operation: Tlbi) {
        let mut state = self.cpus.state();
        state.check_stores(&self.cpus.bus, &operation, self.index..self.index + 1);
        state.cores[self.index].pending_here.push(operation);
    }

    /// `DSB ISH`: its stores are visible to every walker, and what it asked to be forgotten has been, everywhere.
    pub fn barrier(&self) {
        self.cpus.bus.cpu().full_barrier();
        {
            let mut state = self.cpus.state();
            let pending = core::mem::take(&mut state.cores[self.index].pending);
            pending.iter().for_each(|operation| state.invalidate(operation));
            let pending_here = core::mem::take(&mut state.cores[self.index].pending_here);
            pending_here.iter().for_each(|operation| state.tlbs[self.index].invalidate(operation));
        }
        self.listeners().iter().for_each(|listener| listener.sync());
    }

    /// How many translations its TLB holds.
    pub fn tlb_len(&self) -> usize {
        self.cpus.state().tlbs[self.index].len()
    }

    fn listeners(&self) -> Vec<Arc<dyn BroadcastListener>> {
        self.cpus.listeners.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cuts an access at page boundaries and does each piece while its translation is in force.
    fn each_piece(
        &self,
        va: u64,
        len: usize,
        access: AccessKind,
        mut commit: impl FnMut(&Bus, Memory, Pa, usize) -> bool,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let mut state = self.cpus.state();
            let entry = self.cpus.translate(&mut state, self.index, at, access)?;
            let page = 1u64 << entry.leaf_lg2;
            let piece = (page - (at & (page - 1))).min((len - done) as u64) as usize;
            let mair = state.cores[self.index].context.map_or(0, |context| context.mair);
            let memory = Memory::of(mair, entry.memory_index);
            if !commit(&self.cpus.bus, memory, address(&entry, at), piece) {
                return Err(Fault { va: at, access, kind: FaultKind::Abort, level: entry.level });
            }
            done += piece;
            self.cpus.mischief(&mut state, self.index, at);
        }
        Ok(())
    }
}

fn address(entry: &Entry, va: u64) -> Pa {
    Pa::new(entry.pa | plain(va) & ((1 << entry.size_lg2) - 1))
}
