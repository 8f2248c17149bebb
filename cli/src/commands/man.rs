//! `portcullis man`: the manual page.

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output;

/// How a section of options begins, which each page has once.
const OPTIONS: &str = ".SH OPTIONS\n";

/// Prints the page, as `man` reads it: the whole command, then the options of each of its commands that has more than help.
pub(crate) fn run() -> Result<(), Failure> {
    let mut bytes = Vec::new();
    Man::new(Cli::command()).render(&mut bytes).map_err(Failure::Output)?;
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let mut section = Vec::new();
        Man::new(command.clone()).render_options_section(&mut section).map_err(Failure::Output)?;
        let text = String::from_utf8_lossy(&section);
        if let Some((_, options)) = text.split_once(OPTIONS).filter(|_| command.get_arguments().count() > 0) {
            let title = command.get_name().to_uppercase();
            bytes.extend_from_slice(format!(".SH OPTIONS OF {title}\n{options}").as_bytes());
        }
    }
    output::print_bytes(&bytes)
}
