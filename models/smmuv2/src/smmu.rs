//! The model as a whole: its lock, and the faces it shows to the bus.
//!
//! One mutex guards the [`State`]. It is held while the model thinks and reads tables, but not while a device's bytes move, nor while interrupt lines are told.
//! An access that was let through is under way until its bytes have moved; a synchronization does not complete before those that began before it are done.
//!
//! Should a table lie, by somebody's mistake, on the model's own registers, the model would wait for itself: see [`Guarded`].

use std::sync::{Arc, MutexGuard};

use model_bus::{
    BusError, Clocked, Fabric, Flights, Guarded, Mmio, Notes, Outcome, Passage, Request, Stall, StallState,
    Translator, Unpredictable, Width,
};
use portcullis_types::Pa;
use portcullis_types::trace::{Sink, Value};

use crate::bits::ones;
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::{Asked, FaultKind};
use crate::lines::{InterruptLines, Line, Wires};
use crate::regime::on_bus;
use crate::registers::cr0;
use crate::state::{Around, State};
use crate::stream::Route;
use crate::tlb::Tlb;
use crate::translate::check_input;
use crate::verdict::Verdict;
use crate::walk::Engine;

/// What a request would meet if nothing were cached and no fault were outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It would be let through to this address.
    Allowed(Pa),
    /// It would be refused, with this fault.
    Refused(FaultKind),
}

/// An SMMUv2.
pub struct Smmu {
    config: Config,
    fabric: Arc<dyn Fabric>,
    sink: Arc<dyn Sink>,
    pub(crate) flights: Flights,
    wires: Wires,
    state: Guarded<State>,
}

impl Smmu {
    /// An SMMU out of reset, with these features, behind which is `fabric`. `seed` decides what the policy leaves open.
    ///
    /// # Panics
    ///
    /// The configuration has a [`problem`](Config::problem).
    pub fn new(config: Config, fabric: Arc<dyn Fabric>, seed: u64, sink: Arc<dyn Sink>) -> Self {
        assert_eq!(config.problem(), None, "no SMMU is like that");
        let state = State::new(&config, seed, Notes::new(crate::SOURCE, Arc::clone(&sink)));
        Self {
            config,
            fabric,
            sink,
            flights: Flights::default(),
            wires: Wires::default(),
            state: Guarded::new(state),
        }
    }

    /// The features.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Wires the interrupt lines. Lines that are asserted are told at once.
    pub fn connect_lines(&self, to: Arc<dyn InterruptLines>) {
        self.wires.connect(to);
        self.settle_lines();
    }

    /// The interrupt lines that are asserted.
    pub fn asserted_lines(&self) -> Vec<Line> {
        self.lock().map(|state| state.levels().asserted()).unwrap_or_default()
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.lock().map(|state| state.counters.clone()).unwrap_or_default()
    }

    /// How many faults found another that was not cleared yet, and left no record of their own.
    pub fn faults_lost(&self) -> u64 {
        self.lock().map_or(0, |state| state.counters.faults_lost)
    }

    /// Everything software did against the book since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.lock().map(|mut state| state.notes.take()).unwrap_or_default()
    }

    /// What a register of 32 or 64 bits says. Changes and records nothing, and no time passes: for who audits what software has made.
    pub fn peek(&self, offset: u64, width: Width) -> u64 {
        self.lock().map_or(0, |state| state.peek(offset, width, &self.config))
    }

    /// Pairs of stream mapping register groups that match some StreamID both. The book forbids that for streams that are active.
    pub fn conflicting_groups(&self) -> Vec<(usize, usize)> {
        self.lock().map(|state| state.registers.conflicts(&self.config)).unwrap_or_default()
    }

    /// How many translations are cached.
    pub fn cached_translations(&self) -> usize {
        self.lock().map(|state| state.tlb.len()).unwrap_or_default()
    }

    /// From now on no new synchronization ends, or, for false, all do again: broken hardware, switched on and off. One that was begun meanwhile stays stuck.
    pub fn jam_syncs(&self, jammed: bool) {
        if let Some(mut state) = self.lock() {
            state.maintenance.jammed = jammed;
        }
    }

    /// Puts the model back to what it is out of reset. Counters, the list of what was wrong, and the dice stay; accesses that were held back are aborted.
    pub fn reset(&self) {
        if let Some(mut state) = self.lock() {
            state.reset(&self.config);
        }
        self.settle_lines();
    }

    /// What `request` would meet now if nothing were cached, as after an invalidation of everything, and no bank told of a fault. Changes and
    /// records nothing: for tests that look at the tables after every store.
    pub fn outlook(&self, request: &Request) -> Outlook {
        let Some(state) = self.lock() else { return Outlook::Refused(FaultKind::External) };
        let _memory = self.state.accessing_memory();
        let mut notes = Notes::discarded();
        let asked = asked(request, &state, &self.config);
        if request.pasid.is_some() && !state.registers.is_on(cr0::CLIENTPD) {
            return Outlook::Refused(FaultKind::UnsupportedUpstream);
        }
        let (first, second, asked) = match state.registers.route(&asked, &self.config, 0, &mut notes) {
            Err(fault) => return Outlook::Refused(fault.kind),
            Ok(Route::Bypass) => {
                let output = on_bus(asked.address, &self.config).0 & ones(self.config.output_bits.into());
                return Outlook::Allowed(Pa::new(output));
            }
            Ok(Route::Banks { first, second, asked }) => (first, second, asked),
        };
        let Some(regime) = state.registers.regime(first, second, &self.config, &mut notes) else {
            return Outlook::Refused(FaultKind::UnimplementedBank);
        };
        if let Some(fault) = check_input(&regime, on_bus(asked.address, &self.config).0) {
            return Outlook::Refused(fault.kind);
        }
        let mut engine = Engine {
            config: &self.config,
            fabric: &*self.fabric,
            tlb: &mut Tlb::default(),
            notes: &mut notes,
            counters: &mut Counters::default(),
            fresh: true,
            demand: false,
        };
        match engine.translate(&regime, &asked) {
            Ok(grant) => Outlook::Allowed(Pa::new(grant.output)),
            Err(fault) => Outlook::Refused(fault.kind),
        }
    }

    pub(crate) fn around(&self) -> Around<'_> {
        Around { config: &self.config, fabric: &*self.fabric, sink: &*self.sink }
    }

    /// The state; none if this very thread holds it and waits for memory.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.lock()
    }

    /// Tells the interrupt lines that changed. Without the lock.
    fn settle_lines(&self) {
        self.wires.settle(|| self.lock().map(|state| state.levels()).unwrap_or_default());
    }

    /// Counts an access as under way, gives the lock back, and lets its bytes move.
    fn let_through(
        &self,
        mut state: MutexGuard<'_, State>,
        request: &Request,
        output: u64,
        banks: bool,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        if banks {
            state.counters.granted += 1;
            state.counters.granted_bytes += u64::from(request.len_bytes);
        } else {
            state.counters.bypassed += 1;
        }
        let under_way = self.flights.begin();
        drop(state);
        let moved = commit(Passage { pa: Pa::new(output) });
        drop(under_way);
        match moved {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }

    /// One tick. Answers whether there is something to wait for.
    fn tick(&self, state: &mut State) -> bool {
        let _memory = self.state.accessing_memory();
        state.fetch_idly(self.around());
        state.maintain(&self.flights)
    }

    fn hold(&self, state: &mut State, asked: &Asked, bank: u8, faulted: bool) -> Stall {
        state.counters.stalls += 1;
        let fields = [
            ("bank", Value::Dec(bank.into())),
            ("sid", Value::Hex(asked.stream.into())),
            ("addr", Value::Addr(asked.address)),
        ];
        self.around().trace("stall", &fields);
        state.stalls.hold(bank, faulted)
    }
}

/// The request as it comes in. A StreamID has as many bits as there are wires.
fn asked(request: &Request, state: &State, config: &Config) -> Asked {
    Asked {
        stream: request.source.0 & config.stream_mask(state.registers.extended()),
        address: request.iova.get(),
        kind: request.access.kind,
        privileged: request.access.privileged,
        access_never: false,
    }
}

impl Translator for Smmu {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        let Some(mut state) = self.lock() else { return Outcome::Aborted };
        let asked = asked(request, &state, &self.config);
        let memory = self.state.accessing_memory();
        let verdict = state.judge(&asked, request.pasid.is_some(), self.around());
        drop(memory);
        let outcome = match verdict {
            Verdict::Pass { output, banks } => {
                return self.let_through(state, request, output, banks, commit);
            }
            Verdict::Hold { bank, faulted } => Outcome::Stalled(self.hold(&mut state, &asked, bank, faulted)),
            Verdict::Abort => Outcome::Aborted,
            Verdict::Ignore => Outcome::Ignored,
        };
        state.counters.refused += u64::from(!matches!(outcome, Outcome::Stalled(_)));
        drop(state);
        self.settle_lines();
        outcome
    }

    fn stalled(&self, stall: Stall) -> StallState {
        self.lock().map_or(StallState::Waiting, |mut state| state.stalls.tell(stall))
    }
}

impl Mmio for Smmu {
    fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(mut state) = self.lock() else { return 0 };
        if self.config.policy.work_on_reads {
            self.tick(&mut state);
        }
        let value = state.read_register(offset, width, self.around());
        drop(state);
        // A register that is not there may be a fault.
        if self.config.configuration_faults {
            self.settle_lines();
        }
        value
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(mut state) = self.lock() else { return };
        state.write_register(offset, width, value, self.around(), &self.flights);
        drop(state);
        self.settle_lines();
    }
}

impl Clocked for Smmu {
    fn step(&self, _now_ns: u64) -> bool {
        self.lock().is_some_and(|mut state| self.tick(&mut state))
    }
}

impl core::fmt::Debug for Smmu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Smmu").field("config", &self.config).finish_non_exhaustive()
    }
}
