//! `portcullis machine NAME`: a machine as a tree.

use portcullis_lab::{MachineChoice, machines};

use crate::failure::Failure;
use crate::output::{self, tree};

/// Draws the machine.
pub(crate) fn run(machine: &MachineChoice) -> Result<(), Failure> {
    let root = machines::tree(machine)?;
    output::print(&tree::draw(&root))
}
