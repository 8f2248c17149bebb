//! The table of costs of a driver on a built-in machine of models: what the snapshots pin.

use core::fmt::Write;
use std::sync::Arc;

use portcullis::core::iommu::Iommu;
use portcullis::types::PaRange;
use portcullis_lab::machine::{DiskContent, Machine, MachineSpec};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::trace;

use super::meter::{Counted, Meter};
use super::script::{Notes, Script};
use super::spent::{Spends, Spent};

/// Where an operation's figures begin in its line.
const FIGURES: usize = 26;

/// The table, as it is written.
pub struct Table {
    machine: Machine,
    meter: Arc<Meter>,
    text: String,
}

impl Table {
    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The table so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Notes for Table {
    fn begin(&mut self) {
        self.meter.take();
    }

    fn note(&mut self, operation: &str, spent: &Spent) {
        let Counted { allocated_bytes, freed_bytes, stores, register_reads, register_writes, .. } =
            self.meter.take();
        let line = format!(
            "{operation:<FIGURES$}{allocated_bytes:>9}{freed_bytes:>9}{stores:>9}{register_reads:>7}{register_writes:>7}  {spent}"
        );
        writeln!(self.text, "{}", line.trim_end()).expect("a string takes everything");
    }
}

/// The driver of a machine that was brought up by `probe`, with what that cost noted.
///
/// # Panics
///
/// If the machine cannot be built.
pub fn script<D: Iommu<LabPlatform> + Spends + 'static>(
    spec: MachineSpec,
    registers: PaRange,
    probe: impl FnOnce(Arc<LabPlatform>, RegisterWindow) -> Arc<D>,
) -> Script<LabPlatform, D, Table> {
    let sink = trace::shared(None);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).expect("a machine of the lab");
    let meter = Arc::new(Meter::over(registers));
    let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, Some(meter.clone())));
    let driver = probe(platform.clone(), platform.registers(registers));
    let text = format!(
        "{:<FIGURES$}{:>9}{:>9}{:>9}{:>7}{:>7}  {}\n",
        "operation", "bytes +", "bytes -", "stores", "reads", "writes", "commands"
    );
    let mut table = Table { machine, meter, text };
    table.note("probe", &driver.spent());
    Script::new(platform, driver, table)
}

/// The line of an operation.
///
/// # Panics
///
/// If there is none.
pub fn line<'a>(table: &'a str, operation: &str) -> &'a str {
    let found = table.lines().find(|line| line.split("  ").next() == Some(operation));
    found.unwrap_or_else(|| panic!("no operation is called {operation}"))
}

/// What an operation told the hardware.
///
/// # Panics
///
/// If there is no such operation.
pub fn told<'a>(table: &'a str, operation: &str) -> &'a str {
    line(table, operation).get(FIGURES + 3 * 9 + 2 * 7..).unwrap_or("").trim()
}

/// Bytes of table memory that an operation took.
///
/// # Panics
///
/// If there is no such operation.
pub fn taken_bytes(table: &str, operation: &str) -> u64 {
    let figures = line(table, operation)[FIGURES..].split_whitespace().next();
    figures.and_then(|bytes| bytes.parse().ok()).expect("a line has figures")
}
