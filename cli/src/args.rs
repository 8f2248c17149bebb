//! What may be written after `portcullis`: the one definition from which help, man page and completions come.

use core::time::Duration;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use portcullis_lab::workload::{spapr, sva, vfio};
use portcullis_lab::{DeviceKind, MachineChoice, SvaOptions, VfioOptions, Windows, machines, workload};
use portcullis_simulator::MachineKind;

use crate::output::listed;

/// What the help says of exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0  done and verified
  1  the work went wrong: bytes differ, a promise is broken
  2  wrong command line: unknown option, workload or machine
  3  bad input: a file or device tree is missing, unreadable or broken
  4  refused: this machine or device cannot do it";

/// An IOMMU at work on this computer: real drivers, strict models of the hardware, your data through both.
///
/// Without a command it does what `portcullis run` does: each workload, on a built-in sample.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a machine, move data through its IOMMU, and verify every byte.
    #[command(after_help = EXIT_CODES)]
    Run {
        /// What to do; all that the default machine can do, if it is left out.
        #[arg(value_parser = PossibleValuesParser::new(workload::names()))]
        workload: Option<String>,
        /// What to do it with; a built-in sample, if it is left out.
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        #[command(flatten)]
        work: WorkArguments,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Live whole lives of machines, drawn from a seed, under every fault, before an oracle that holds everything against the promises.
    #[command(after_help = EXIT_CODES)]
    Sim(SimArguments),
    /// List the built-in machines.
    Machines,
    /// Draw a machine: IOMMUs, bridges, devices, stream ids, groups, reserved regions.
    Machine {
        /// A built-in machine, or a device tree in a file.
        #[arg(value_name = "NAME|FILE.dtb", value_parser = machine_choice)]
        machine: MachineChoice,
    },
    /// Write completions for a shell to standard output.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual page to standard output.
    #[command(hide = true)]
    Man,
}

/// What only some workloads understand.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct WorkArguments {
    /// With `run sva`: the accelerator, as a PCIe function (ATS, PASID, PRI) or as a platform device (stall) [default: pcie].
    #[arg(long, value_enum)]
    pub(crate) device: Option<Device>,
    /// With `run sva`: the process kills itself right after it has given its job, while a fault is under way. With `run vfio` and `run spapr`: the
    /// process is killed while the disk reads.
    #[arg(long)]
    pub(crate) kill: bool,
    /// With `run vfio`: user space may have a disk whose interrupts are not isolated from those of others.
    #[arg(long)]
    pub(crate) unsafe_interrupts: bool,
    /// With `run spapr`: the page size of the windows that FILE is read through [default: each of them, one after the other].
    #[arg(long, value_enum, value_name = "PAGE")]
    pub(crate) window: Option<Page>,
    /// With `run spapr`: the levels of the windows' tables [default: the most that can be].
    #[arg(long, value_name = "N")]
    pub(crate) levels: Option<u32>,
    /// With `run spapr`: a container of version 1, which has the default window only.
    #[arg(long, conflicts_with_all = ["window", "levels"])]
    pub(crate) v1: bool,
}

/// Page sizes of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// 4 KiB.
    #[value(name = "4k")]
    K4,
    /// 64 KiB.
    #[value(name = "64k")]
    K64,
    /// 16 MiB.
    #[value(name = "16m")]
    M16,
}

/// The forms of the accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A PCIe function, which asks for pages.
    Pcie,
    /// A platform device, which is stalled where a page is missing.
    Platform,
}

impl WorkArguments {
    /// What the lab is to be told; an error, in words, if another workload, or each there is, is to be run with them.
    pub(crate) fn options(self, workload: Option<&str>) -> Result<(SvaOptions, VfioOptions), String> {
        let given: [(bool, &str, &[&str]); 6] = [
            (self.device.is_some(), "--device", &[sva::NAME]),
            (self.kill, "--kill", &[sva::NAME, vfio::NAME, spapr::NAME]),
            (self.unsafe_interrupts, "--unsafe-interrupts", &[vfio::NAME]),
            (self.window.is_some(), "--window", &[spapr::NAME]),
            (self.levels.is_some(), "--levels", &[spapr::NAME]),
            (self.v1, "--v1", &[spapr::NAME]),
        ];
        for (_, option, names) in given.into_iter().filter(|(given, ..)| *given) {
            if !workload.is_some_and(|workload| names.contains(&workload)) {
                let runs: Vec<_> = names.iter().map(|name| format!("`portcullis run {name}`")).collect();
                return Err(format!("{option} goes with {} only", listed(&runs, "or")));
            }
        }
        let device = match self.device.unwrap_or(Device::Pcie) {
            Device::Pcie => DeviceKind::Pcie,
            Device::Platform => DeviceKind::Platform,
        };
        let page_shift = self.window.map(|page| match page {
            Page::K4 => 12,
            Page::K64 => 16,
            Page::M16 => 24,
        });
        let windows = Windows { page_shift, levels: self.levels, version1: self.v1 };
        let vfio = VfioOptions { unsafe_interrupts: self.unsafe_interrupts, kill: self.kill, windows };
        Ok((SvaOptions { device, kill: self.kill }, vfio))
    }
}

/// What a machine is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum On {
    /// Strict models.
    Models,
    /// QEMU's `virt`, with `--machine x86` its `q35`, for `spapr` its `powernv8`: an SMMUv3, a VT-d unit or a PHB3, and an NVMe disk, that are not ours.
    Qemu,
}

/// How a run is to be done and shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    /// The machine: a built-in one, or a device tree in a file [default: arm; power8 for `run spapr`].
    #[arg(long, value_name = "NAME|FILE.dtb", value_parser = machine_choice)]
    pub(crate) machine: Option<MachineChoice>,
    /// What the machine is made of [default: models, strict ones of ours].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on: Option<On>,
    /// Decides everything that hardware is free to decide; the same number gives the same run.
    #[arg(long, value_name = "N", value_parser = seed, default_value = "1", allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Write every event to a file, as JSON lines. It appears when it is complete.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace: Option<PathBuf>,
    /// Print the result for scripts: a JSON object on a line of its own for each workload.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show every event as it happens.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// How lives are to be drawn.
#[derive(Clone, Debug, Args)]
pub(crate) struct SimArguments {
    /// The seed of the first life; the same seed is the same life [default: a fresh one, which is told].
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// How many operations, over all lives [default: 1,000,000, or as many as the time allows].
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) steps: Option<u64>,
    /// On which machines: any, smmuv3, sva, vfio, power8, smmuv2, x86, x86-sva.
    #[arg(long, value_name = "NAME", default_value = "any")]
    pub(crate) machine: MachineKind,
    /// How long.
    #[arg(long, value_name = "M", value_parser = minutes, allow_negative_numbers = true)]
    pub(crate) minutes: Option<Duration>,
    /// Nothing goes wrong.
    #[arg(long)]
    pub(crate) no_faults: bool,
    /// On so many threads at once, without a schedule and without faults: a failure may not come again. On smmuv3, if no machine is named; not on vfio and power8.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
    /// Print the result for scripts: a JSON object on a line of its own.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A built-in machine's name, or a path: whatever ends in `.dtb` or has a directory in it.
fn machine_choice(text: &str) -> Result<MachineChoice, String> {
    let names: Vec<_> = machines::list().into_iter().map(|machine| machine.name).collect();
    if machines::exists(text) {
        return Ok(MachineChoice::Name(text.to_owned()));
    }
    let path = Path::new(text);
    if path.extension().is_some_and(|extension| extension == "dtb") || path.components().count() > 1 {
        return Ok(MachineChoice::Dtb(path.to_owned()));
    }
    Err(format!(
        "no such machine; there are {}, those with an SMMU also with {} behind the name, or give a device tree FILE.dtb",
        names.join(", "),
        machines::WITH_ACPI
    ))
}

/// A number, in decimal or, after `0x`, in hexadecimal.
fn seed(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    number(digits, radix).ok_or_else(|| {
        "a number from 0 to 2^64 - 1 is wanted, in decimal or after 0x in hexadecimal".to_owned()
    })
}

/// How many.
fn count(text: &str) -> Result<u64, String> {
    number(text, 10).ok_or_else(|| "a whole number is wanted, from 0 to 2^64 - 1, in digits alone".to_owned())
}

/// A number in digits alone: `from_str_radix` takes a sign, too.
fn number(digits: &str, radix: u32) -> Option<u64> {
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// A number of minutes that can be waited for.
fn minutes(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(|minutes| 60.0 * minutes);
    let parsed = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    parsed.ok_or_else(|| "a number of minutes is wanted, 0 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_seed_is_decimal_or_hexadecimal() {
        assert_eq!((seed("17"), seed("0xff")), (Ok(17), Ok(255)));
        for wrong in ["-1", "+1", "", "0x", "0x+1", "1e3", "18446744073709551616"] {
            assert!(seed(wrong).unwrap_err().starts_with("a number from 0 to 2^64 - 1"), "{wrong}");
        }
    }

    #[test]
    fn a_count_is_digits_alone() {
        assert_eq!((count("0"), count("18446744073709551615")), (Ok(0), Ok(u64::MAX)));
        for wrong in ["-1", "+1", "", "0x1", "1.0", "18446744073709551616"] {
            assert!(count(wrong).unwrap_err().starts_with("a whole number is wanted"), "{wrong}");
        }
    }

    #[test]
    fn minutes_are_no_fewer_than_none_and_no_more_than_can_be_waited_for() {
        assert_eq!((minutes("0"), minutes("0.5")), (Ok(Duration::ZERO), Ok(Duration::from_secs(30))));
        for wrong in ["-1", "nan", "inf", "1e300", "", "x"] {
            assert_eq!(minutes(wrong).unwrap_err(), "a number of minutes is wanted, 0 or more", "{wrong}");
        }
    }

    #[test]
    fn a_machine_is_a_known_name_or_a_path() {
        let dtb = |text: &str| MachineChoice::Dtb(text.into());
        assert_eq!(machine_choice(machines::DEFAULT), Ok(MachineChoice::Name(machines::DEFAULT.into())));
        assert_eq!(machine_choice("some.dtb"), Ok(dtb("some.dtb")));
        assert_eq!(machine_choice("./virt"), Ok(dtb("./virt")));
        assert!(machine_choice("nonesuch").unwrap_err().contains(machines::DEFAULT));
    }
}
