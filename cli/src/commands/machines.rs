//! `portcullis machines`: the built-in machines, one to a line.

use portcullis_lab::machines;

use crate::failure::Failure;
use crate::output::{self, columns};

/// Prints each machine's name and what is special about it.
pub(crate) fn run() -> Result<(), Failure> {
    let rows: Vec<[String; 2]> = machines::list()
        .into_iter()
        .map(|machine| [machine.name.to_string(), machine.summary.to_string()])
        .collect();
    output::print(&columns(&rows))
}
