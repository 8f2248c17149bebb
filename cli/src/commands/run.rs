//! `portcullis run`: a workload, or each there is, on a machine.

use std::path::Path;

use portcullis_lab::workload::{self, sva};
use portcullis_lab::{Input, MachineChoice, Report, RunError, RunRequest, SvaOptions, VfioOptions};

use crate::args::{On, RunOptions, WorkArguments};
use crate::failure::{self, Failure};
use crate::output::events::Events;
use crate::output::progress::Progress;
use crate::output::{self, report};

/// Runs `workload`, or each one that the default machine can do if none is named, and shows each result as soon as it is verified.
///
/// The trace file, if one is asked for, covers all of it, and appears also when the work went wrong: that is when it is wanted.
pub(crate) fn run(
    workload: Option<&str>,
    file: Option<&Path>,
    work: WorkArguments,
    options: &RunOptions,
) -> Result<(), Failure> {
    if work.device.is_some() && workload == Some(sva::NAME) && options.on == Some(On::Qemu) {
        let why = "on QEMU a process shares its memory with the disk: there is no accelerator";
        return Err(RunError::refused(sva::NAME, why, "leave out `--device`, or `--on qemu`").into());
    }
    let work = work.options(workload).map_err(Failure::Usage)?;
    let events = Events::open(options, file)?;
    let outcome = match workload {
        Some(name) => one(name, file, work, options, &events).and_then(|report| show(&report, options)),
        None => each(options, &events),
    };
    let closed = events.close();
    outcome.and(closed)
}

/// Every workload on its sample. One that fails is reported and does not keep the others from running.
fn each(options: &RunOptions, events: &Events) -> Result<(), Failure> {
    let mut first = None;
    for (count, name) in all_of(options).into_iter().enumerate() {
        if count > 0 && !options.json {
            output::print("\n")?;
        }
        match one(name, None, Default::default(), options, events) {
            Ok(report) => show(&report, options)?,
            Err(failure) => {
                failure::say(&format_args!("{name}: {failure}"));
                first.get_or_insert(failure.code());
            }
        }
    }
    first.map_or(Ok(()), |code| Err(Failure::Reported(code)))
}

/// The workloads that are meant where none is named.
fn all_of(options: &RunOptions) -> Vec<&'static str> {
    match options.on {
        Some(On::Qemu) if names_x86(options) => workload::on_qemu_x86(),
        Some(On::Qemu) => workload::on_qemu(),
        Some(On::Models) | None => workload::unnamed(),
    }
}

fn names_x86(options: &RunOptions) -> bool {
    matches!(&options.machine, Some(MachineChoice::Name(name)) if name == "x86")
}

fn one(
    name: &str,
    file: Option<&Path>,
    (sva, vfio): (SvaOptions, VfioOptions),
    options: &RunOptions,
    events: &Events,
) -> Result<Report, Failure> {
    let progress = Progress::on_terminal(name, options.verbose);
    let request = RunRequest {
        workload: name.to_owned(),
        input: file.map_or(Input::Sample, |path| Input::File(path.to_owned())),
        machine: machine(name, options)?,
        sva,
        vfio,
        seed: options.seed,
        sink: events.sink(),
        progress: progress.as_ref().map(Progress::callback),
    };
    let outcome = portcullis_lab::run(request);
    if let Some(progress) = progress {
        progress.clear();
    }
    Ok(outcome?)
}

fn machine(workload: &str, options: &RunOptions) -> Result<MachineChoice, Failure> {
    match (&options.machine, options.on) {
        (Some(_), Some(On::Qemu)) if names_x86(options) => Ok(MachineChoice::QemuX86),
        (Some(_), Some(On::Qemu)) => Err(Failure::Usage(
            "of the machines, only x86 is one of QEMU's, too: leave out --machine or --on".into(),
        )),
        (None, Some(On::Qemu)) => Ok(MachineChoice::Qemu),
        (Some(machine), _) => Ok(machine.clone()),
        (None, _) => Ok(MachineChoice::Name(workload::default_machine(workload).into())),
    }
}

fn show(report: &Report, options: &RunOptions) -> Result<(), Failure> {
    output::print(&if options.json { report::json(report)? } else { report::table(report) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn without_a_name_each_workload_is_meant_that_the_hardware_has() {
        let meant = |arguments: &[&str]| {
            all_of(&Cli::try_parse_from([&["portcullis"][..], arguments].concat()).unwrap().options)
        };
        assert_eq!(meant(&[]), ["dma", "sva", "vfio"]);
        assert_eq!(meant(&["--machine", "x86"]), ["dma", "sva", "vfio"]);
        assert_eq!(meant(&["--on", "qemu"]), ["dma", "sva", "vfio"]);
        assert_eq!(meant(&["--on", "qemu", "--machine", "x86"]), ["dma", "vfio"]);
    }
}
