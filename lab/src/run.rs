//! A run: a workload, an input, a machine.

use std::sync::Arc;

use portcullis::core::domain::FlushMode;
use portcullis::types::trace::Sink;

use crate::error::RunError;
use crate::input::{Input, Opened};
use crate::machine::qemu;
use crate::machines::{self, MachineChoice};
use crate::report::{Counters, Report};
use crate::trace;
use crate::workload::{self, dma, spapr, sva, vfio};

/// What is to be run.
pub struct RunRequest {
    /// The workload's name: one of [`workload::names`](crate::workload::names).
    pub workload: String,
    /// What it works on.
    pub input: Input,
    /// The machine.
    pub machine: MachineChoice,
    /// How the workload `sva` is to be done. Others do not look at it.
    pub sva: SvaOptions,
    /// How the workloads `vfio` and `spapr` are to be done. Others do not look at it.
    pub vfio: VfioOptions,
    /// Decides everything that models are free to decide: the same seed gives the same run.
    pub seed: u64,
    /// Who hears every event.
    pub sink: Option<Arc<dyn Sink>>,
    /// Who is told of bytes done, of how many.
    pub progress: Option<Box<dyn Fn(u64, u64) + Send + Sync>>,
}

/// How the workload `sva` is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SvaOptions {
    /// Which accelerator.
    pub device: sva::DeviceKind,
    /// Whether the process kills itself in the middle.
    pub kill: bool,
}

/// How the workloads `vfio` and `spapr` are to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfioOptions {
    /// Whether a user may have a disk that could raise others' interrupts.
    pub unsafe_interrupts: bool,
    /// Whether the process is killed in the middle.
    pub kill: bool,
    /// What windows the user of `spapr` makes. `vfio` does not look at it.
    pub windows: spapr::Windows,
}

/// Runs it.
///
/// # Errors
///
/// As [`RunError`] says. A report is always that of a verified run.
pub fn run(request: RunRequest) -> Result<Report, RunError> {
    let Some(workload) = workload::names().into_iter().find(|name| *name == request.workload) else {
        let hint = format!("the workloads are {}", workload::names().join(", "));
        return Err(RunError::refused(&request.workload, "there is no such workload", hint));
    };
    if matches!(request.machine, MachineChoice::Qemu | MachineChoice::QemuX86) {
        return run_on_qemu(&request, workload);
    }
    let (spec, device_tree) = machines::choose(&request.machine)?;
    let input = request.input.open()?;
    let machine = spec.name.clone();
    let sink = trace::shared(request.sink.clone());
    let came = if workload == sva::NAME {
        let outcome = sva::run(&sva::Job {
            spec,
            device_tree,
            input: &input,
            seed: request.seed,
            device: request.sva.device,
            kill: request.sva.kill,
            sink,
            tamper: None,
            progress: request.progress.as_deref(),
        })?;
        (outcome.counters, outcome.digest, outcome.elapsed_ns)
    } else if workload == vfio::NAME || workload == spapr::NAME {
        let job = vfio::Job {
            spec,
            device_tree,
            input: &input,
            seed: request.seed,
            unsafe_interrupts: request.vfio.unsafe_interrupts,
            kill: request.vfio.kill,
            sink,
            tamper: None,
            progress: request.progress.as_deref(),
        };
        let own_windows = workload == spapr::NAME;
        let outcome = if own_windows { spapr::run(&job, request.vfio.windows)? } else { vfio::run(&job)? };
        (outcome.counters, Some(outcome.digest), outcome.elapsed_ns)
    } else {
        let outcome = dma::run(&dma::Job {
            spec,
            device_tree,
            input: &input,
            seed: request.seed,
            mode: FlushMode::Strict,
            sink,
            tamper: None,
            progress: request.progress.as_deref(),
        })?;
        (outcome.counters, Some(outcome.digest), outcome.elapsed_ns)
    };
    Ok(report(machine, workload, request.seed, &input, came, Vec::new()))
}

/// What is to be told of a run that gave these counters, digest and time.
fn report(
    machine: String,
    workload: &'static str,
    seed: u64,
    input: &Opened,
    (counters, digest, elapsed_ns): (Counters, Option<String>, u64),
    not_shown: Vec<&'static str>,
) -> Report {
    Report {
        machine,
        workload,
        seed,
        input: input.name(),
        bytes: input.measure().bytes,
        equal: digest.is_some_and(|digest| digest == input.measure().digest),
        digest: input.measure().digest.clone(),
        counters,
        elapsed_ns,
        not_shown,
    }
}

/// The same on QEMU's hardware.
fn run_on_qemu(request: &RunRequest, workload: &'static str) -> Result<Report, RunError> {
    let input = request.input.open()?;
    let job = qemu::Job {
        input: &input,
        seed: request.seed,
        sink: trace::shared(request.sink.clone()),
        tamper: None,
        progress: request.progress.as_deref(),
    };
    if request.sva.kill && workload == sva::NAME {
        let why = "on QEMU the process that shares its memory exits in every run, with the disk attached";
        return Err(RunError::refused(workload, why, "leave out `--kill`"));
    }
    let is_x86 = request.machine == MachineChoice::QemuX86;
    if is_x86 && !workload::on_qemu_x86().contains(&workload) {
        let hint = format!("on QEMU's `q35` there are {}", workload::on_qemu_x86().join(" and "));
        return Err(RunError::refused(workload, "QEMU's `q35` cannot do it", hint));
    }
    let (name, qemu) = match workload {
        _ if is_x86 => ("q35", qemu::find_x86()?),
        spapr::NAME => ("powernv8", qemu::find_power8()?),
        _ => ("virt", qemu::find()?),
    };
    let mut not_shown = qemu::NOT_SHOWN.to_vec();
    let came = match workload {
        vfio::NAME => {
            let outcome = vfio::run_on_qemu(&qemu, &job, request.vfio.kill)?;
            (outcome.counters, Some(outcome.digest), outcome.elapsed_ns)
        }
        spapr::NAME => {
            not_shown.extend(qemu::NOT_SHOWN_OF_PHB3);
            let VfioOptions { windows, kill, .. } = request.vfio;
            let outcome = spapr::run_on_qemu(&qemu, &job, windows, kill)?;
            (outcome.counters, Some(outcome.digest), outcome.elapsed_ns)
        }
        sva::NAME => {
            not_shown.extend(sva::whole::NOT_SHOWN);
            let outcome = sva::whole::run_on_qemu(&qemu, &job)?;
            (outcome.counters, outcome.digest, outcome.elapsed_ns)
        }
        _ => {
            let outcome = dma::run_on_qemu(&qemu, &job)?;
            (outcome.counters, Some(outcome.digest), outcome.elapsed_ns)
        }
    };
    let machine = format!("{name} of {qemu}");
    Ok(report(machine, workload, request.seed, &input, came, not_shown))
}
