//! The `portcullis` command: an IOMMU at work on this computer.
//!
//! One file for each command (`commands`), one definition of what may be written after `portcullis` (`args`), from which help, man page and
//! completions come. What a run does, and what it finds, is the lab's business; here it is only asked for and shown.
//!
//! Standard output carries results and nothing else; everything that is said on the way goes to standard error.
//! Each failure is one line there, and an exit code: [`failure::Failure`].

mod args;
mod commands;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, WorkArguments};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::of_command_line(&error),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        // `portcullis` alone does the main job: `portcullis run`, with whatever options were given.
        None => commands::run::run(None, None, WorkArguments::default(), &cli.options),
        Some(Command::Run { workload, file, work, options }) => {
            commands::run::run(workload.as_deref(), file.as_deref(), work, &options)
        }
        Some(Command::Sim(arguments)) => commands::sim::run(&arguments),
        Some(Command::Machines) => commands::machines::run(),
        Some(Command::Machine { machine }) => commands::machine::run(&machine),
        Some(Command::Completions { shell }) => commands::completions::run(shell),
        Some(Command::Man) => commands::man::run(),
    }
}
