//! Message-signalled interrupts: which event of which device is which line, and which lines have signalled.
//!
//! A kernel has an interrupt controller driver here. The lab maps events at the ITS models directly, and takes from them what is pending
//! whenever somebody asks for a line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_devices::its::Its;
use portcullis::firmware::{self, MsiTarget};
use portcullis::nvme;
use portcullis::types::{Pa, SourceId};

use crate::error::RunError;

/// The first interrupt number that a message can mean. Spec: GICv3 IHI 0069 H, 2.2 "INTIDs" (LPIs).
const FIRST_LPI: u32 = 8192;

/// The interrupts of a machine.
#[derive(Debug)]
pub struct Interrupts {
    /// By index in the firmware's list: the doorbell, and the controller behind it. None for a kind that the lab has no model of.
    controllers: Vec<Option<(Pa, Arc<Its>)>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    given: u32,
    pending: BTreeSet<u32>,
    /// Who is called instead.
    handlers: BTreeMap<u32, Handler>,
}

/// Who is called when an interrupt arrives.
#[derive(Clone)]
struct Handler(Arc<dyn Fn() + Send + Sync>);

impl core::fmt::Debug for Handler {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Handler")
    }
}

/// One event of one device.
#[derive(Clone, Debug)]
pub struct Line {
    interrupts: Arc<Interrupts>,
    lpi: u32,
    /// Where the device is to write, as memory sees it.
    pub doorbell: Pa,
    /// What it is to write.
    pub data: u32,
}

impl Interrupts {
    pub(super) fn new(firmware: &firmware::Machine, itses: Vec<(Pa, Arc<Its>)>) -> Self {
        let model = |controller: &firmware::MsiController| {
            let base = controller.registers.first()?.first();
            let (_, its) = itses.iter().find(|(at, _)| *at == base)?;
            Some((controller.doorbell()?, its.clone()))
        };
        Self { controllers: firmware.msi_controllers.iter().map(model).collect(), state: Mutex::default() }
    }

    /// A line for `event` of the device that `target` speaks of.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`]: no model stands behind that controller, or it does not tell devices apart.
    pub fn line(self: &Arc<Self>, device: &str, target: MsiTarget, event: u32) -> Result<Line, RunError> {
        let refused =
            |what: &str| RunError::refused(device, what, "give its messages an arm,gic-v3-its with one cell");
        let controller = self.controllers.get(target.controller).and_then(Option::as_ref);
        let (doorbell, its) = controller
            .ok_or_else(|| refused("its interrupt controller is none that the lab has a model of"))?;
        let device_id = target
            .device_id
            .ok_or_else(|| refused("its interrupt controller does not tell devices apart"))?;
        let lpi = {
            let mut state = self.state();
            state.given += 1;
            FIRST_LPI + state.given - 1
        };
        its.map(SourceId(device_id), event, lpi).map_err(|error| refused(&error.to_string()))?;
        Ok(Line { interrupts: self.clone(), lpi, doorbell: *doorbell, data: event })
    }

    /// From now on `event` of the device that `target` speaks of means nothing.
    pub fn forget(&self, target: MsiTarget, event: u32) {
        let controller = self.controllers.get(target.controller).and_then(Option::as_ref);
        if let (Some((_, its)), Some(device_id)) = (controller, target.device_id) {
            its.discard(SourceId(device_id), event);
        }
    }

    /// Takes what has arrived, and calls those who want to be called: what a CPU does when it is interrupted.
    pub fn deliver(&self) {
        let called: Vec<Handler> = {
            let mut state = self.state();
            self.collect(&mut state)
        };
        called.iter().for_each(|Handler(call)| call());
    }

    /// Notes what has arrived. Answers who is to be called.
    fn collect(&self, state: &mut State) -> Vec<Handler> {
        let mut called = Vec::new();
        for (_, its) in self.controllers.iter().flatten() {
            while let Some(arrived) = its.take_pending() {
                match state.handlers.get(&arrived) {
                    Some(handler) => called.push(handler.clone()),
                    None => drop(state.pending.insert(arrived)),
                }
            }
        }
        called
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, lpi: u32) -> bool {
        self.deliver();
        self.state().pending.remove(&lpi)
    }
}

impl Line {
    /// Whether it has signalled since this was last asked.
    pub fn take(&self) -> bool {
        self.interrupts.take(self.lpi)
    }

    /// From now on `handler` is called when it signals, and [`take`](Self::take) finds nothing.
    pub fn on_signal(&self, handler: impl Fn() + Send + Sync + 'static) {
        self.interrupts.state().handlers.insert(self.lpi, Handler(Arc::new(handler)));
    }

    /// Nobody is called any more.
    pub fn no_handler(&self) {
        let gone = self.interrupts.state().handlers.remove(&self.lpi);
        // Dropped without the lock: what it holds may be about anything.
        drop(gone);
    }
}

impl nvme::Interrupt for Line {
    fn take(&self) -> bool {
        Self::take(self)
    }
}
