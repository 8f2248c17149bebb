//! The kernel at work: time passes, interrupts come, and workers of the fault queue bring pages in.
//!
//! All of it on one thread, so that the seed alone decides what happens when.

use portcullis::core::mm::ProcessMemory;
use portcullis::hal::Clock;
use portcullis::types::Pasid;
use std::sync::Arc;

use super::super::TRY_VERBOSE;
use super::device::{Model, Moved};
use crate::boot::{System, Unit};
use crate::error::RunError;
use crate::process::{Cores, Kernel, Process};

/// The job is given up if nothing has happened in so many turns.
const PATIENCE_TURNS: u32 = 50_000;

/// A kernel, and the IOMMU that its device is behind.
pub(super) struct Duty<'a> {
    pub(super) system: &'a System,
    pub(super) unit: &'a Unit,
}

/// Watches whether anything goes on.
#[derive(Default)]
pub(super) struct Patience {
    last: Option<(Moved, u64)>,
    turns: u32,
}

impl Duty<'_> {
    /// Lets hardware work for a while, and does what its interrupts ask for.
    pub(super) fn turn(&self) {
        self.system.platform.relax();
        if self.unit.signals() {
            self.serve();
        }
    }

    /// Reads events and page requests until there are no more, and handles all that are complete. Answers how many faults were reported.
    pub(super) fn serve(&self) -> usize {
        let mut faults = 0;
        loop {
            let serviced = self.unit.service();
            faults += serviced.faults;
            while self.unit.sva.queue().work() {}
            if serviced.faults + serviced.requests == 0 {
                return faults;
            }
        }
    }
}

impl Patience {
    /// Notes a turn.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: nothing has moved for too long, and no fault was handled.
    pub(super) fn turn(&mut self, model: &Model, pasid: Pasid, process: &Process) -> Result<(), RunError> {
        let now = (model.moved(pasid), process.usage().faults);
        self.turns = if self.last == Some(now) { self.turns + 1 } else { 0 };
        self.last = Some(now);
        if self.turns < PATIENCE_TURNS {
            return Ok(());
        }
        let what = format!("the job does not go on after {} bytes of input", now.0.read);
        Err(RunError::wrong("accelerator", what, TRY_VERBOSE))
    }
}

/// A kernel for processes on this machine.
pub(super) fn start(system: &System, cpus: &Cores, seed: u64) -> Result<Arc<Kernel>, RunError> {
    let hint = "choose another machine: see `portcullis machines`";
    let options = system.kernel_options(seed);
    let options =
        options.ok_or_else(|| RunError::refused("CPUs", "they have no page size in common", hint))?;
    Kernel::new(system.platform.clone(), cpus.clone(), options)
        .map_err(|error| RunError::refused("CPUs", format!("no processes: {error:?}"), hint))
}

/// Whether a process has a PASID still.
pub(super) fn has_pasid(process: &Process) -> bool {
    process.pasid_slot().get().is_some()
}
