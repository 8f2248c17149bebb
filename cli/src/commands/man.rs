//! `portcullis man`: the manual page.

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output;

/// Prints the page, as `man` reads it.
pub(crate) fn run() -> Result<(), Failure> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut bytes).map_err(Failure::Output)?;
    output::print_bytes(&bytes)
}
