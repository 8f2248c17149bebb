//! The page table of a domain, in the driver's words: which format, and what an entry must say about it.
//!
//! Not here: walking, mapping, unmapping (`pgtable`), and the domain's part of that (`paging`).

use portcullis_pgtable::vtd::{FirstConfig, FirstStage, PAT, SecondConfig, SecondStage};

use crate::features::Features;
use crate::lead::To;

/// A page table, of the stage that domains of this unit are.
pub(crate) type Table = portcullis_paging::Table<FirstStage, SecondStage>;

/// The format of a unit's page tables.
pub(crate) type TableFormat = portcullis_paging::TableFormat<FirstStage, SecondStage>;

/// The format for this hardware; none if it has no sizes that a format can say.
pub(crate) fn choose(features: &Features) -> Option<TableFormat> {
    if features.first_stage_domains {
        let config = FirstConfig {
            input_bits: features.input_bits,
            output_bits: features.output_bits,
            coherent: features.coherent_walk,
            page_sizes: features.page_sizes,
            ..FirstConfig::new(features.levels)
        };
        return FirstStage::new(config).ok().map(TableFormat::One);
    }
    let config = SecondConfig {
        input_bits: features.input_bits,
        output_bits: features.output_bits,
        coherent: features.coherent_walk,
        snoop: features.extended.sc(),
        page_sizes: features.page_sizes,
        ..SecondConfig::new(features.levels)
    };
    SecondStage::new(config).ok().map(TableFormat::Two)
}

/// What an entry says to lead to a table.
pub(crate) fn lead(table: &Table) -> To {
    match table {
        Table::One(table) => {
            To::First { root: table.root(), fspm: table.format().fspm(), pat: PAT, process: false }
        }
        Table::Two(table) => To::Second { root: table.root(), aw: table.format().aw() },
    }
}
