//! What the driver's operations cost in register accesses and commands, on any bed.
//!
//! The operations are those of the table of costs (`tests/cost.rs`), by the same names ([`script`](crate::cost::script)). Register accesses are what an
//! operation costs where each crosses a bus, and they must not depend on whose SMMU is at the other end: the same ones on the model and on QEMU.

use std::sync::Arc;

use portcullis::smmuv3::{Config, Smmu};

use super::bed::Bed;
use super::via::{Accesses, Between, between};
use crate::cost::script::{Notes, Script};
use crate::cost::spent::Spent;

/// What one operation cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was done, as the table of costs calls it.
    pub operation: String,
    /// Register accesses.
    pub accesses: Accesses,
    /// Commands, in numbers and names.
    pub commands: String,
}

struct Lines {
    between: Arc<Between>,
    lines: Vec<Line>,
}

impl Notes for Lines {
    fn begin(&mut self) {
        self.between.take_accesses();
    }

    fn note(&mut self, operation: &str, spent: &Spent) {
        let accesses = self.between.take_accesses();
        self.lines.push(Line { operation: operation.into(), accesses, commands: spent.to_string() });
    }
}

/// The costs on a bed with 4 KiB pages. No device does anything meanwhile.
///
/// # Panics
///
/// If an operation fails.
pub fn table<B: Bed>(bed: &B) -> Vec<Line> {
    let (via, registers, between) = between(bed.platform(), bed.registers(), bed.coherent());
    let driver = Smmu::probe(via.clone(), registers, Config::new("smmu")).expect("an SMMU is brought up");
    let mut script = Script::new(via, driver, Lines { between, lines: Vec::new() });
    script.run(false);
    script.driver.teardown().expect("an SMMU is turned off");
    script.notes.lines
}
