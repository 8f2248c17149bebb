//! `portcullis run`: a workload, or each there is, on a machine.

use std::path::Path;

use portcullis_lab::{Input, MachineChoice, Report, RunRequest, SvaOptions, VfioOptions, workload};

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
    let names = if options.on == Some(On::Qemu) { workload::on_qemu() } else { workload::unnamed() };
    for (count, name) in names.into_iter().enumerate() {
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
        (Some(MachineChoice::Name(name)), Some(On::Qemu)) if name == "x86" => Ok(MachineChoice::QemuX86),
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
