//! A run: a workload, an input, a machine.

use std::sync::Arc;

use portcullis::core::domain::FlushMode;
use portcullis::types::trace::Sink;

use crate::error::RunError;
use crate::input::Input;
use crate::machines::{self, MachineChoice};
use crate::report::Report;
use crate::trace;
use crate::workload::dma;

/// What is to be run.
pub struct RunRequest {
    /// The workload's name: one of [`workload::names`](crate::workload::names).
    pub workload: String,
    /// What it works on.
    pub input: Input,
    /// The machine.
    pub machine: MachineChoice,
    /// Decides everything that models are free to decide: the same seed gives the same run.
    pub seed: u64,
    /// Who hears every event.
    pub sink: Option<Arc<dyn Sink>>,
    /// Who is told of bytes done, of how many.
    pub progress: Option<Box<dyn Fn(u64, u64) + Send + Sync>>,
}

/// Runs it.
///
/// # Errors
///
/// As [`RunError`] says. A report is always that of a verified run.
pub fn run(request: RunRequest) -> Result<Report, RunError> {
    if request.workload != dma::NAME {
        let hint = format!("the workloads are {}", crate::workload::names().join(", "));
        return Err(RunError::refused(&request.workload, "there is no such workload", hint));
    }
    let (spec, device_tree) = machines::choose(&request.machine)?;
    let input = request.input.open()?;
    let machine = spec.name.clone();
    let job = dma::Job {
        spec,
        device_tree,
        input: &input,
        seed: request.seed,
        mode: FlushMode::Strict,
        sink: trace::shared(request.sink),
        tamper: None,
        progress: request.progress.as_deref(),
    };
    let outcome = dma::run(&job)?;
    Ok(Report {
        machine,
        workload: dma::NAME,
        seed: request.seed,
        input: input.name(),
        bytes: input.measure().bytes,
        digest: input.measure().digest.clone(),
        equal: outcome.digest == input.measure().digest,
        counters: outcome.counters,
        elapsed_ns: outcome.elapsed_ns,
    })
}
