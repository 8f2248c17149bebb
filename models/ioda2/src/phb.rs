//! The model as a whole: its lock, and the faces it shows to the bus.
//!
//! One mutex guards the [`State`]. It is held while the model thinks, and while it reads and writes its tables in memory, but not while a device's bytes move, nor while
//! a load waits for accesses under way, nor while configuration space is accessed or the slot is reset: what those reach may come back to the model's registers.
//!
//! Should a table lie, by somebody's mistake, on the model's own registers, the model would wait for itself: see [`Guarded`].
//!
//! Not here: the faces themselves (`inbound`, `access`).

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use model_bus::{
    Bus, Fabric, Flights, Guarded, Marked, Mmio, Notes, Occupied, Request, Unpredictable, Width,
};
use portcullis_types::trace::{Sink, Value};
use portcullis_types::{AccessKind, Pa, PaRange, SourceId};

use crate::access::Scom;
use crate::cache::TceCache;
use crate::cause::{Cause, FirstError, Transaction};
use crate::config::Config;
use crate::counters::Counters;
use crate::message::Interrupt;
use crate::outbound::{ConfigTarget, Path, guard};
use crate::rtc::Rtc;
use crate::state::{Around, State};
use crate::walk::{Asked, Grant, Walker};
use crate::xscom::Unit;

/// What a request would meet if nothing were cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It would be let through to this address.
    Allowed(Pa),
    /// It would be taken for a message.
    Message,
    /// It would be refused.
    Refused(Cause),
}

/// Word of a message that a thread is about to write to the doorbell.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    pub(crate) thread: usize,
    pub(crate) pe: u8,
    pub(crate) asked: Asked,
    pub(crate) source_high: u32,
}

/// A PHB3.
pub struct Phb3 {
    config: Config,
    pub(crate) fabric: Arc<dyn Fabric>,
    sink: Arc<dyn Sink>,
    pub(crate) flights: Flights,
    words: Mutex<Vec<Word>>,
    pub(crate) target: RwLock<Option<Arc<dyn ConfigTarget>>>,
    /// Whether PERST was asserted when the target was last told. Taken before the state's lock, and held while the target is told: the last word is what stands.
    slot: Mutex<bool>,
    state: Guarded<State>,
}

pub(crate) fn ones(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width.bytes())
}

impl fmt::Debug for Phb3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phb3").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Phb3 {
    /// How many addresses the registers take. Observed: skiboot include/phb3.h: "the 4K MMIO registers window".
    pub const REGISTER_BYTES: u64 = 0x1000;

    /// A bridge out of reset, behind which is `fabric`. `seed` decides what the policy leaves open.
    pub fn new(config: Config, fabric: Arc<dyn Fabric>, seed: u64, sink: Arc<dyn Sink>) -> Self {
        let state = State::new(&config, seed, Notes::new(crate::SOURCE, Arc::clone(&sink)));
        Self {
            config,
            fabric,
            sink,
            flights: Flights::default(),
            words: Mutex::default(),
            target: RwLock::default(),
            slot: Mutex::new(false),
            state: Guarded::new(state),
        }
    }

    /// Lets the bridge answer on `bus`: its registers from `registers` on, its doorbell where the configuration says; and gives it its turn in every step.
    ///
    /// # Errors
    ///
    /// Something else answers there.
    ///
    /// # Panics
    ///
    /// If one of the two would pass the end of the address space.
    pub fn connect(self: &Arc<Self>, bus: &Bus, registers: Pa) -> Result<(), Occupied> {
        let run = |first, bytes| PaRange::new(first, bytes).expect("the bridge lies in the address space");
        bus.add_registers("phb3", run(registers, Self::REGISTER_BYTES), self.clone())?;
        bus.add_doorbell("phb3 messages", run(self.config.doorbell, Config::DOORBELL_BYTES), self.clone())?;
        bus.add_clocked(self.clone());
        Ok(())
    }

    /// Where CONFIG_DATA leads. The target must not own the bridge.
    pub fn set_config_target(&self, target: Arc<dyn ConfigTarget>) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// `inner`, which lies from `first` on among the CPU's addresses, as CPUs reach it through the bridge: all ones while the PE of an address is frozen.
    pub fn guard(self: &Arc<Self>, first: Pa, inner: Arc<dyn Mmio>) -> Arc<dyn Mmio> {
        guard(self.clone(), first, inner)
    }

    /// One of the chip's runs of registers, each 8 bytes.
    pub fn xscom(self: &Arc<Self>, unit: Unit) -> Arc<dyn Mmio> {
        Arc::new(Scom { phb: self.clone(), unit })
    }

    /// What it is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.lock().map(|state| state.counters.clone()).unwrap_or_default()
    }

    /// Everything software did since the last call that nobody said the hardware takes.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.lock().map(|mut state| state.notes.take()).unwrap_or_default()
    }

    /// The interrupts presented since the last call, in their order.
    pub fn take_interrupts(&self) -> Vec<Interrupt> {
        self.lock().map(|mut state| state.interrupts.drain(..).collect()).unwrap_or_default()
    }

    /// A server rejected an interrupt of this source: it comes again.
    pub fn reject(&self, source: u16) {
        if let Some(mut state) = self.lock() {
            state.reject(source);
        }
    }

    /// Puts the bridge back to what it is out of reset. Counters, the list of what was wrong, interrupts presented and the chip's side stay.
    pub fn reset(&self) {
        if let Some(mut state) = self.lock() {
            state.reset(self.around());
        }
        self.settle_slot();
    }

    /// Tells the slot of its reset line, if that has changed.
    ///
    /// Choice: a bridge that is held in reset by the chip's side holds its slot, too.
    pub(crate) fn settle_slot(&self) {
        let mut told = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = self.lock() else { return };
        let held = state.registers.holds_slot() || state.xscom.in_reset();
        drop(state);
        if *told != held {
            *told = held;
            if let Some(target) = self.target() {
                target.hold(held);
            }
        }
    }

    /// The PE of a requester, as the RTT in memory says now.
    pub fn pe_of(&self, source: SourceId) -> Option<u8> {
        let rid = u16::try_from(source.0).ok()?;
        self.freshly(|walker| walker.pe(rid).ok()).flatten()
    }

    /// Whether CPUs cannot reach the devices of a PE.
    pub fn is_mmio_frozen(&self, pe: u8) -> bool {
        self.lock().is_some_and(|state| state.freezes.mmio(pe))
    }

    /// The TVEs of a PE, as they are on the chip now: for who audits what it may reach.
    pub fn tves(&self, pe: u8) -> [u64; 2] {
        let number = u16::from(pe) << 1;
        self.lock().map_or([0; 2], |state| [state.tables.tve(number), state.tables.tve(number | 1)])
    }

    /// Whether the devices of a PE cannot reach memory.
    pub fn is_dma_frozen(&self, pe: u8) -> bool {
        self.lock().is_some_and(|state| state.freezes.dma(pe))
    }

    /// What froze a PE first. None if it is not frozen, or software froze it.
    pub fn first_error(&self, pe: u8) -> Option<FirstError> {
        self.lock().and_then(|state| state.freezes.first(pe))
    }

    /// Whether a CPU's access at this address reaches a device. It pushes what was stored before it.
    pub fn admits(&self, at: Pa, write: bool) -> bool {
        let Some(mut state) = self.lock() else { return false };
        let _memory = self.accessing_memory();
        state.do_posted(true, self.around());
        state.admits(at.get(), write, self.around())
    }

    /// How many TCEs are cached.
    pub fn cached_entries(&self) -> usize {
        self.lock().map(|state| state.cache.len()).unwrap_or_default()
    }

    /// What `request` would meet now if nothing were cached and no PE frozen, as after a kill of everything. Changes and records nothing: for tests that look at the
    /// tables after every store.
    pub fn outlook(&self, request: &Request) -> Outlook {
        let Ok(asked) = ask(request) else { return Outlook::Refused(Cause::RequestForm) };
        let looked = self.freshly(|walker| {
            let pe = walker.pe(asked.rid)?;
            walker.translate(pe, &asked)
        });
        match looked {
            None => Outlook::Refused(Cause::Fenced),
            Some(Ok(Grant::Memory { output, .. })) => Outlook::Allowed(Pa::new(output)),
            Some(Ok(Grant::Message { .. })) => Outlook::Message,
            Some(Err(cause)) => Outlook::Refused(cause),
        }
    }

    /// Looks with empty caches, and leaves no trace.
    fn freshly<T>(&self, look: impl FnOnce(&mut Walker<'_>) -> T) -> Option<T> {
        let state = self.lock()?;
        let _memory = self.accessing_memory();
        let policy = crate::policy::Policy::eager();
        let mut walker = Walker {
            registers: &state.registers,
            tables: &state.tables,
            fabric: &*self.fabric,
            rtc: &mut Rtc::default(),
            cache: &mut TceCache::default(),
            notes: &mut Notes::discarded(),
            counters: &mut Counters::default(),
            policy: &policy,
        };
        Some(look(&mut walker))
    }

    pub(crate) fn around(&self) -> Around<'_> {
        Around { config: &self.config, fabric: &*self.fabric, sink: &*self.sink, flights: &self.flights }
    }

    /// The state; none if this very thread holds it and waits for memory.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.lock()
    }

    /// Leaves the mark, for as long as the answer lives. Only with the lock held.
    pub(crate) fn accessing_memory(&self) -> Marked<'_> {
        self.state.accessing_memory()
    }

    /// Judges a request, with the lock held.
    pub(crate) fn judge(&self, state: &mut State, request: &Request) -> Result<(u8, Asked, Grant), Cause> {
        let asked = ask(request)?;
        if !state.is_open() {
            return Err(Cause::Fenced);
        }
        let _memory = self.accessing_memory();
        let around = self.around();
        let pe = match state.walker(around).pe(asked.rid) {
            Ok(pe) => pe,
            Err(cause) => {
                state.report(None, error_of(&asked, cause, 0), around);
                return Err(cause);
            }
        };
        if state.freezes.dma(pe) {
            return Err(Cause::Frozen);
        }
        let judged = if state.injects(Path::Inbound, asked.address, asked.write) {
            Err(Cause::Injected)
        } else {
            state.walker(around).translate(pe, &asked)
        };
        let policy = &self.config.policy;
        if state.dice.one_in(policy.evict_one_in) || state.cache.len() > policy.entries {
            let spare = state.cache.len().saturating_sub(policy.entries).max(1);
            for _ in 0..spare {
                let pick = state.dice.next_bits();
                state.cache.evict(pick);
            }
        }
        match judged {
            Ok(grant) => Ok((pe, asked, grant)),
            Err(cause) => {
                state.report(Some(pe), error_of(&asked, cause, 0), around);
                Err(cause)
            }
        }
    }

    pub(crate) fn tell(&self, request: &Request, judged: &Result<(u8, Asked, Grant), Cause>) {
        if !self.config.verbose {
            return;
        }
        let (result, output) = match judged {
            Ok((_, _, Grant::Memory { output, .. })) => ("granted", *output),
            Ok((_, _, Grant::Message { .. })) => ("message", 0),
            Err(cause) => (cause.name(), 0),
        };
        let fields = [
            ("rid", Value::Hex(request.source.0.into())),
            ("addr", Value::Addr(request.iova.get())),
            ("result", Value::Str(result)),
            ("pa", Value::Addr(output)),
        ];
        self.around().trace("tce_walk", &fields);
    }

    pub(crate) fn words(&self) -> MutexGuard<'_, Vec<Word>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(request: &Request) -> Result<Asked, Cause> {
    let rid = u16::try_from(request.source.0).map_err(|_| Cause::RequestForm)?;
    let fits = request.len_bytes != 0 && request.iova.offset_in(4096) + u64::from(request.len_bytes) <= 4096;
    if request.pasid.is_some() || !fits {
        return Err(Cause::RequestForm);
    }
    let write = request.access.kind == AccessKind::Write;
    Ok(Asked { rid, address: request.iova.get(), len_bytes: request.len_bytes, write })
}

pub(crate) fn error_of(asked: &Asked, cause: Cause, data: u16) -> FirstError {
    let transaction = match cause {
        Cause::MessageForm | Cause::MessagePe | Cause::MessageSource => Transaction::Message,
        _ if asked.write => Transaction::DmaWrite,
        _ => Transaction::DmaRead,
    };
    FirstError { cause, transaction, rid: asked.rid, address: asked.address, data }
}
