//! Message-signalled interrupts: which event of which device is which line, and which lines have signalled.
//!
//! A kernel has an interrupt controller driver here. The lab maps events at the ITS models directly, and takes from them what is pending
//! whenever somebody asks for a line. For what a PHB3 needs see `messages`; for a PC's CPUs, `vectors`; for a machine without these models, `words`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_devices::its::Its;
use portcullis::firmware::{self, MsiControllerKind, MsiTarget};
use portcullis::nvme;
use portcullis::types::{Pa, SourceId};
use portcullis::vtd::{Requester, Vtd};

use super::messages::Messages;
use super::vectors::{FirstCpu, Vectors};
use super::words::MemoryWords;
use crate::error::RunError;
use crate::platform::{LabPlatform, RegisterWindow};

/// The first interrupt number that a message can mean. Spec: GICv3 IHI 0069 H, 2.2 "INTIDs" (LPIs).
const FIRST_LPI: u32 = 8192;

/// The interrupts of a machine.
#[derive(Debug)]
pub struct Interrupts {
    /// Where messages go whose controller nobody attends to.
    words: Option<Arc<MemoryWords>>,
    /// By index in the firmware's list. None for a kind that the lab has no model of, and for a host bridge that is not up.
    controllers: Mutex<Vec<Option<Controller>>>,
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

/// What takes messages.
#[derive(Clone, Debug)]
enum Controller {
    /// An ITS, and its doorbell.
    Its(Pa, Arc<Its>),
    /// The local APICs of a PC.
    Apics(Arc<Vectors>),
    /// A PHB3.
    Bridge(Arc<Messages>),
    /// Nobody: messages are words of memory.
    Memory(Arc<MemoryWords>),
}

impl Controller {
    /// `event` of a device means interrupt `number`: where the device is to write, and what.
    fn map(&self, device: u32, event: u32, number: u32) -> Result<(Pa, u32), String> {
        match self {
            Self::Its(doorbell, its) => {
                its.map(SourceId(device), event, number).map_err(|error| error.to_string())?;
                Ok((*doorbell, event))
            }
            Self::Apics(vectors) => vectors.map(device, event, number),
            Self::Bridge(messages) => messages.map(device, event, number).map_err(String::from),
            Self::Memory(words) => words.map(device, event, number).map_err(String::from),
        }
    }

    fn discard(&self, device: u32, event: u32) {
        match self {
            Self::Its(_, its) => drop(its.discard(SourceId(device), event)),
            Self::Apics(vectors) => vectors.discard(device, event),
            Self::Bridge(messages) => messages.discard(device, event),
            Self::Memory(words) => words.discard(device, event),
        }
    }

    fn take_pending(&self) -> Option<u32> {
        match self {
            Self::Its(_, its) => its.take_pending(),
            Self::Apics(vectors) => vectors.take_pending(),
            Self::Bridge(messages) => messages.take_pending(),
            Self::Memory(words) => words.take_pending(),
        }
    }
}

/// One event of one device.
#[derive(Clone, Debug)]
pub struct Line {
    interrupts: Arc<Interrupts>,
    lpi: u32,
    /// Where the device is to write, as memory sees it; where a host bridge takes messages, as the bus sees it, which no IOMMU translates.
    pub doorbell: Pa,
    /// What it is to write.
    pub data: u32,
}

impl Interrupts {
    pub(super) fn new(
        firmware: &firmware::Machine,
        itses: Vec<(Pa, Arc<Its>)>,
        cpu: Option<FirstCpu>,
        words: Option<Arc<MemoryWords>>,
    ) -> Self {
        let vectors = cpu.map(|cpu| Controller::Apics(Arc::new(Vectors::new(cpu))));
        let model = |controller: &firmware::MsiController| {
            if controller.kind == MsiControllerKind::LocalApics {
                return vectors.clone();
            }
            let base = controller.registers.first()?.first();
            let (_, its) = itses.iter().find(|(at, _)| *at == base)?;
            Some(Controller::Its(controller.doorbell()?, its.clone()))
        };
        let memory = |controller: &firmware::MsiController| {
            let words =
                words.clone().filter(|_| controller.kind == MsiControllerKind::Its && controller.enabled);
            words.map(Controller::Memory)
        };
        let controllers = firmware.msi_controllers.iter();
        let controllers = controllers.map(|one| model(one).or_else(|| memory(one))).collect();
        Self { words, controllers: Mutex::new(controllers), state: Mutex::default() }
    }

    /// How many messages were taken, where no model counts them: as words of memory, and from host bridges.
    pub fn taken(&self) -> u64 {
        let of_bridge = |controller: &Controller| match controller {
            Controller::Bridge(messages) => messages.taken(),
            Controller::Apics(vectors) => vectors.taken(),
            Controller::Its(..) | Controller::Memory(_) => 0,
        };
        let of_bridges: u64 = self.controllers().iter().flatten().map(of_bridge).sum();
        self.words.as_ref().map_or(0, |words| words.taken()) + of_bridges
    }

    /// No device sends any more.
    pub(super) fn shut_down(&self) {
        self.words.iter().for_each(|words| words.shut_down());
        for controller in self.controllers().iter().flatten() {
            if let Controller::Apics(vectors) = controller {
                vectors.shut_down();
            }
        }
    }

    /// From now on a device's messages to the CPUs name entries of a unit's table.
    pub(super) fn remap(
        &self,
        device_id: u32,
        unit: &Arc<Vtd<LabPlatform, RegisterWindow>>,
        sender: Requester,
    ) {
        for controller in self.controllers().iter().flatten() {
            if let Controller::Apics(vectors) = controller {
                vectors.remap(device_id, unit, sender);
            }
        }
    }

    /// The host bridge at `path` is up.
    pub(super) fn add_bridge(&self, path: &str, messages: &Arc<Messages>, firmware: &firmware::Machine) {
        let index = firmware.msi_controllers.iter().position(|controller| controller.path == path);
        if let Some(index) = index {
            self.controllers()[index] = Some(Controller::Bridge(messages.clone()));
        }
    }

    fn controllers(&self) -> MutexGuard<'_, Vec<Option<Controller>>> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn controller(&self, target: MsiTarget) -> Option<Controller> {
        self.controllers().get(target.controller).cloned().flatten()
    }

    /// A line for `event` of the device that `target` speaks of.
    ///
    /// # Errors
    ///
    /// [`RunError::Refused`]: no model stands behind that controller, or it does not tell devices apart.
    pub fn line(self: &Arc<Self>, device: &str, target: MsiTarget, event: u32) -> Result<Line, RunError> {
        let refused =
            |what: &str| RunError::refused(device, what, "give its messages an arm,gic-v3-its with one cell");
        let controller = self
            .controller(target)
            .ok_or_else(|| refused("its interrupt controller is none that the lab has a model of"))?;
        let device_id = target
            .device_id
            .ok_or_else(|| refused("its interrupt controller does not tell devices apart"))?;
        let lpi = {
            let mut state = self.state();
            state.given += 1;
            FIRST_LPI + state.given - 1
        };
        let (doorbell, data) = controller.map(device_id, event, lpi).map_err(|error| refused(&error))?;
        Ok(Line { interrupts: self.clone(), lpi, doorbell, data })
    }

    /// From now on `event` of the device that `target` speaks of means nothing.
    pub fn forget(&self, target: MsiTarget, event: u32) {
        if let (Some(controller), Some(device_id)) = (self.controller(target), target.device_id) {
            controller.discard(device_id, event);
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
        for controller in self.controllers().iter().flatten() {
            while let Some(arrived) = controller.take_pending() {
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
