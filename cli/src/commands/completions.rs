//! `portcullis completions SHELL`: what a shell needs to complete our command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output;

/// Prints the completions.
pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut bytes);
    output::print_bytes(&bytes)
}
