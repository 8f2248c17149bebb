//! What was compared, and how often.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use crate::answer::{Answer, fault_name};
use crate::descriptor::{Granule, Kind, Stage, kinds};
use crate::known::Context;

/// The faults that QEMU has, and of which a run must have seen enough.
pub const FAULTS: [&str; 21] = [
    "C_BAD_STREAMID",
    "F_STE_FETCH",
    "C_BAD_STE",
    "F_CD_FETCH",
    "C_BAD_CD",
    "F_WALK_EABT, stage 1, TT",
    "F_WALK_EABT, stage 2, CD",
    "F_WALK_EABT, stage 2, IN",
    "F_TRANSLATION, stage 1, IN",
    "F_TRANSLATION, stage 2, CD",
    "F_TRANSLATION, stage 2, TT",
    "F_TRANSLATION, stage 2, IN",
    "F_ADDR_SIZE, stage 1, IN",
    "F_ADDR_SIZE, stage 2, CD",
    "F_ADDR_SIZE, stage 2, IN",
    "F_ACCESS, stage 1, IN",
    "F_ACCESS, stage 2, CD",
    "F_ACCESS, stage 2, IN",
    "F_PERMISSION, stage 1, IN",
    "F_PERMISSION, stage 2, CD",
    "F_PERMISSION, stage 2, IN",
];

/// What streams are told: Config, as it is counted.
pub const CONFIGS: [&str; 5] = ["abort", "bypass", "stage 1", "stage 2", "nested"];

/// What a count is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// A descriptor on the way of an access.
    Descriptor(Kind, Stage, Granule),
    /// The first record of an access.
    Fault(String),
    /// Config of its stream.
    Config(&'static str),
    /// Something else.
    Other(&'static str),
}

/// The counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases.
    pub cases: u64,
    /// Accesses that were not made: they would have reached what differs between the machines.
    pub left_out: u64,
    /// Accesses of which both say the same, word by word.
    pub same: u64,
    /// Accesses of which both say the same once QEMU's record is corrected.
    pub corrected: u64,
    /// Accesses whose answers differ as a row explains.
    pub explained: u64,
    /// How often each row of what QEMU does otherwise counted.
    pub rows: BTreeMap<&'static str, u64>,
    /// Of those that are the same, corrected or not.
    pub cells: BTreeMap<Cell, u64>,
}

impl Tally {
    /// Accesses of which both say the same, corrected or not.
    pub fn agreed(&self) -> u64 {
        self.same + self.corrected
    }

    /// Counts an access of which both say the same.
    pub fn agree(&mut self, context: &Context<'_>, answer: &Answer, corrections: &[&'static str]) {
        *(if corrections.is_empty() { &mut self.same } else { &mut self.corrected }) += 1;
        corrections.iter().for_each(|row| *self.rows.entry(row).or_default() += 1);
        let of = |step: &crate::known::Step| {
            let table = step.table;
            let kinds = kinds(table.stage, table.granule, table.level, step.raw);
            kinds.into_iter().map(move |kind| Cell::Descriptor(kind, table.stage, table.granule))
        };
        let mut cells: BTreeSet<Cell> = context.steps().iter().flat_map(of).collect();
        cells.extend(answer.records.first().map(|record| Cell::Fault(fault_name(record))));
        let config = context.stream().map_or(0, |stream| stream.ste[0] >> 1 & 7);
        cells.insert(Cell::Config(CONFIGS[usize::try_from(config.saturating_sub(3)).unwrap_or(0)]));
        cells.insert(Cell::Other(if context.access.write { "writes" } else { "reads" }));
        cells.insert(Cell::Other(if context.access.flush { "nothing cached" } else { "something cached" }));
        cells.insert(Cell::Other(if answer.reached.is_some() { "let through" } else { "refused" }));
        cells.into_iter().for_each(|cell| *self.cells.entry(cell).or_default() += 1);
    }

    /// Counts an access whose answers differ as a row explains.
    pub fn explain(&mut self, row: &'static str) {
        self.explained += 1;
        *self.rows.entry(row).or_default() += 1;
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.left_out += other.left_out;
        self.same += other.same;
        self.corrected += other.corrected;
        self.explained += other.explained;
        other.rows.iter().for_each(|(row, count)| *self.rows.entry(row).or_default() += count);
        for (cell, count) in &other.cells {
            *self.cells.entry(cell.clone()).or_default() += count;
        }
    }

    fn of(&self, cell: &Cell) -> u64 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// The cells that a run must fill, and that have fewer than `least`.
    pub fn short(&self, least: u64) -> Vec<String> {
        let few = |cell: &Cell| self.of(cell) < least;
        let mut short = Vec::new();
        for (stage, granule) in places() {
            let kinds =
                Kind::COUNTED.into_iter().filter(|&kind| few(&Cell::Descriptor(kind, stage, granule)));
            short.extend(kinds.map(|kind| format!("{}, stage {stage:?}, {}", kind.name(), granule.name())));
        }
        let faults = FAULTS.into_iter().filter(|fault| few(&Cell::Fault((*fault).to_owned())));
        short.extend(faults.map(str::to_owned));
        short.extend(CONFIGS.into_iter().filter(|config| few(&Cell::Config(config))).map(str::to_owned));
        short
    }
}

fn places() -> impl Iterator<Item = (Stage, Granule)> {
    [Stage::One, Stage::Two].into_iter().flat_map(|stage| Granule::ALL.map(|granule| (stage, granule)))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cases                  {:>9}", self.cases)?;
        writeln!(f, "accesses that agree    {:>9}", self.agreed())?;
        writeln!(f, "  word by word         {:>9}", self.same)?;
        writeln!(f, "  a record corrected   {:>9}", self.corrected)?;
        writeln!(f, "explained by a row     {:>9}", self.explained)?;
        writeln!(f, "left out               {:>9}", self.left_out)?;
        writeln!(
            f,
            "\n{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "descriptor", "1, 4K", "1, 16K", "1, 64K", "2, 4K", "2, 16K", "2, 64K"
        )?;
        for kind in Kind::COUNTED {
            write!(f, "{:<26}", kind.name())?;
            for (stage, granule) in places() {
                write!(f, "{:>9}", self.of(&Cell::Descriptor(kind, stage, granule)))?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (cell, count) in &self.cells {
            match cell {
                Cell::Descriptor(..) => {}
                Cell::Fault(name) => writeln!(f, "{name:<35}{count:>9}")?,
                Cell::Config(name) | Cell::Other(name) => writeln!(f, "{name:<35}{count:>9}")?,
            }
        }
        writeln!(f, "\nwhat QEMU does otherwise, how often")?;
        self.rows.iter().try_for_each(|(row, count)| writeln!(f, "{row:<35}{count:>9}"))
    }
}
