//! The CPUs of a machine: what they share, and what happens to all of them.
//!
//! Not here: what one CPU does for who runs on it (`cpu`), the walk (`walk`).

use core::fmt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Bus, Chance};
use portcullis_types::{AccessKind, Pa};

use super::context::Space;
use super::tlb::{Entry, Tlb};
use super::walk::{Purpose, Walker};
use super::{Context, Cpu, CpuFeatures, Fault, FaultKind, Invalidation};
use crate::conflict::Journal;
use crate::policy::by_chance;
use crate::{TlbPolicy, Unpredictable};

/// The CPUs of a machine.
pub struct Cpus {
    bus: Arc<Bus>,
    policy: TlbPolicy,
    chance: Chance,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) cores: Vec<Core>,
    pub(crate) journal: Journal,
}

/// One of them.
pub(crate) struct Core {
    pub(crate) features: CpuFeatures,
    pub(crate) context: Option<Context>,
    /// What the context means; none if it breaks a rule, or there is none.
    pub(crate) space: Option<Space>,
    /// The last space that there was: whose PCID is the current one, and how the rest of CR4 is.
    last: Option<Space>,
    pub(crate) tlb: Tlb,
    /// Of which table entries may be held, by PCID.
    roots: HashMap<u16, Pa>,
}

impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpus").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Cpus {
    /// CPUs on `bus`, one for each member of `features`, none of them with anything to translate by.
    pub fn new(bus: Arc<Bus>, features: &[CpuFeatures], policy: TlbPolicy) -> Arc<Self> {
        let core = |&features| Core::new(features, policy.entries);
        let state = State { cores: features.iter().map(core).collect(), journal: Journal::default() };
        Arc::new(Self { bus, policy, chance: Chance::new(policy.seed ^ 0x86), state: Mutex::new(state) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.state().cores.len()
    }

    /// One of them; none beyond [`count`](Self::count).
    pub fn cpu(self: &Arc<Self>, index: usize) -> Option<Cpu> {
        (index < self.count()).then(|| Cpu::new(self.clone(), index))
    }

    /// The bus that they are on.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Interrupts each CPU of `targets`, one after another, and has it execute every one of `what`. On return all have; a number that no CPU has is
    /// passed over. Stores made before are visible to walkers.
    ///
    /// Spec: Intel SDM volume 3A, 4.10.5 "Propagation of Paging-Structure Changes to Multiple Processors".
    pub fn shoot_down(&self, targets: impl IntoIterator<Item = usize>, what: &[Invalidation]) {
        for index in targets {
            self.bus.cpu().full_barrier();
            let mut state = self.state();
            if index < state.cores.len() {
                what.iter().for_each(|invalidation| self.invalidate(&mut state, index, invalidation));
            }
        }
    }

    /// The rules that were broken, oldest first, at most 64.
    pub fn unpredictable(&self) -> Vec<Unpredictable> {
        self.state().journal.kept()
    }

    /// How many rules were broken.
    pub fn unpredictable_count(&self) -> u64 {
        self.state().journal.count()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the architecture lets happen at any time.
    pub(crate) fn mischief(&self, state: &mut State, index: usize, va: u64) {
        if by_chance(&self.chance, self.policy.evict_one_in) {
            state.cores[index].tlb.evict(&self.chance);
        }
        if by_chance(&self.chance, self.policy.speculate_one_in) {
            let who = self.chance.below(state.cores.len());
            self.speculate(state, who, va);
        }
    }

    fn speculate(&self, state: &mut State, index: usize, va: u64) {
        let Some(space) = state.cores[index].space else { return };
        let near = va.wrapping_add(0x1000 * self.chance.below(8) as u64).wrapping_sub(0x4000);
        if space.is_canonical(near) && state.cores[index].tlb.find(space.pcid, near).is_none() {
            // What it finds is in the TLB; that it finds nothing has no effect.
            let _ = self.walker(state, index, &space).walk(near, Purpose::Speculation);
        }
    }

    fn walker<'a>(&'a self, state: &'a mut State, own: usize, space: &'a Space) -> Walker<'a> {
        let State { cores, journal } = state;
        Walker { fabric: &*self.bus, space, chance: &self.chance, cores, own, journal }
    }

    /// The entry through which user code may access `va` on a CPU, by the TLB or a walk.
    ///
    /// An entry in the TLB that does not allow the access is a page fault, even if the tables allow it by now; so is what a walk finds from a remembered
    /// table. A page fault makes the CPU forget what it went by: it comes at most once if the tables allow the access.
    ///
    /// Spec: Intel SDM volume 3A, 4.10.4.1 "Operations that Invalidate TLBs and Paging-Structure Caches".
    pub(crate) fn translate(
        &self,
        state: &mut State,
        index: usize,
        va: u64,
        access: AccessKind,
    ) -> Result<Entry, Fault> {
        let fault = |(kind, level), tells_fetches| Fault { va, access, kind, level, tells_fetches };
        let Some(space) = state.cores[index].space else {
            return Err(fault((FaultKind::NotPresent, 0), false));
        };
        if !space.is_canonical(va) {
            return Err(fault((FaultKind::NotCanonical, 0), space.execute_disable));
        }
        let found = match state.cores[index].tlb.find(space.pcid, va) {
            Some(entry) if !entry.rights.allow(access) => Err((FaultKind::Permission, entry.level())),
            Some(entry) if access != AccessKind::Write || entry.dirty => Ok(entry),
            _ => self.walker(state, index, &space).walk(va, Purpose::Access(access)),
        };
        found.map_err(|refusal| {
            state.cores[index].forget_for_fault(space.pcid, va);
            fault(refusal, space.execute_disable)
        })
    }

    /// A CPU executes `invalidation`.
    pub(crate) fn invalidate(&self, state: &mut State, index: usize, invalidation: &Invalidation) {
        let core = &mut state.cores[index];
        let named = match *invalidation {
            Invalidation::Address { pcid, .. } | Invalidation::Context { pcid } => pcid,
            _ => 0,
        };
        let pcids = core.last.is_some_and(|space| space.pcids);
        if named > 0xfff || named != 0 && !pcids {
            state.journal.note("INVPCID names a PCID that there cannot be", 0);
            return;
        }
        if by_chance(&self.chance, self.policy.early_one_in) {
            core.forget_all();
        }
        core.invalidate(invalidation);
    }
}

impl Core {
    pub(crate) fn new(features: CpuFeatures, entries: usize) -> Self {
        let tlb = Tlb::new(entries);
        Self { features, context: None, space: None, last: None, tlb, roots: HashMap::new() }
    }

    /// Under which PCID it runs the table at `root` now.
    pub(crate) fn pcid_of(&self, root: Pa) -> Option<u16> {
        self.space.filter(|space| space.root == root).map(|space| space.pcid)
    }

    /// MOV to CR3, with CR4 and EFER as they are wanted. None is some table of the kernel's, with nothing forgotten.
    pub(crate) fn switch_to(&mut self, context: Option<Context>, journal: &mut Journal) {
        let decoded = context.map(|context| context.decode(&self.features));
        if let Some(Err(clause)) = decoded {
            journal.note(clause, 0);
        }
        self.context = context.map(Context::held);
        self.space = decoded.and_then(Result::ok);
        let (Some(context), Some(space)) = (context, self.space) else { return };
        if self.last.is_some_and(|last| space.forgets_all_after(&last)) {
            self.forget_all();
        }
        if !context.keeps() {
            self.forget_pcid(space.pcid);
        }
        let before = self.roots.insert(space.pcid, space.root);
        if before.is_some_and(|before| before != space.root) {
            journal.note("MOV to CR3 kept what was held of a PCID for another table", 0);
        }
        self.last = Some(space);
    }

    fn invalidate(&mut self, invalidation: &Invalidation) {
        match *invalidation {
            Invalidation::Page { va } => {
                let pcid = self.last.map_or(0, |space| space.pcid);
                self.tlb.forget_page(pcid, va);
                self.tlb.forget_global_page(va);
                self.tlb.forget_steps(pcid);
            }
            Invalidation::Address { pcid, va } => {
                self.tlb.forget_page(pcid, va);
                self.tlb.forget_steps_to(pcid, va);
            }
            Invalidation::Context { pcid } => self.forget_pcid(pcid),
            Invalidation::AllWithGlobals => self.forget_all(),
            Invalidation::All => {
                self.tlb.forget_all_but_globals();
                self.roots.clear();
            }
        }
    }

    fn forget_pcid(&mut self, pcid: u16) {
        self.tlb.forget_pcid(pcid);
        self.roots.remove(&pcid);
    }

    fn forget_all(&mut self) {
        self.tlb.forget_all();
        self.roots.clear();
    }

    fn forget_for_fault(&mut self, pcid: u16, va: u64) {
        self.tlb.forget_page(pcid, va);
        self.tlb.forget_global_page(va);
        self.tlb.forget_steps_to(pcid, va);
    }
}
