//! What operations cost: commands by kind, syncs, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost`.

use core::fmt::Write;
use std::sync::Arc;

use model_smmuv3::Policy;
use portcullis::smmuv3::{Config, Counts, Smmu};
use portcullis::types::PaRange;
use portcullis_checks::cost::commands;
use portcullis_checks::cost::meter::{Counted, Meter};
use portcullis_checks::cost::script::{Notes, Script};
use portcullis_lab::machine::{DiskContent, Machine, builtin};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::trace;

/// The table, as it is written.
struct Table {
    _machine: Machine,
    meter: Arc<Meter>,
    text: String,
}

impl Notes for Table {
    fn begin(&mut self) {
        self.meter.take();
    }

    fn note(&mut self, operation: &str, spent: &Counts) {
        let Counted { allocated_bytes, freed_bytes, stores, register_reads, register_writes, .. } =
            self.meter.take();
        let line = format!(
            "{operation:<26}{allocated_bytes:>9}{freed_bytes:>9}{stores:>9}{register_reads:>7}{register_writes:>7}  {}",
            commands(spent)
        );
        writeln!(self.text, "{}", line.trim_end()).unwrap();
    }
}

/// The driver of a machine that was brought up.
fn script(machine: &str) -> Script<LabPlatform, RegisterWindow, Table> {
    let mut spec = builtin::find(machine).unwrap();
    // Hardware that does everything at once: figures that do not depend on dice.
    spec.smmus[0].config.policy = Policy::eager();
    let base = spec.smmus[0].base;
    let sink = trace::shared(None);
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let meter = Arc::new(Meter::default());
    let platform = Arc::new(LabPlatform::new(machine.bus.clone(), sink, Some(meter.clone())));
    let frame = PaRange::new(base, 0x2_0000).unwrap();
    let driver = Smmu::probe(platform.clone(), platform.registers(frame), Config::new("smmu")).unwrap();
    let text = format!(
        "{:<26}{:>9}{:>9}{:>9}{:>7}{:>7}  {}\n",
        "operation", "bytes +", "bytes -", "stores", "reads", "writes", "commands"
    );
    let mut table = Table { _machine: machine, meter, text };
    table.note("probe", &driver.counts());
    Script::new(platform, driver, table)
}

const PAGE: u64 = 4096;

/// The table of costs on a machine.
fn table(machine: &str) -> String {
    let mut script = script(machine);
    script.run(true);
    script.notes.text
}

/// The line of an operation.
fn line<'a>(table: &'a str, operation: &str) -> &'a str {
    table.lines().find(|line| line.split("  ").next() == Some(operation)).unwrap()
}

#[test]
fn costs_with_range_invalidation() {
    insta::assert_snapshot!("arm", table("arm"));
}

#[test]
fn costs_without_range_invalidation() {
    insta::assert_snapshot!("arm-v31", table("arm-v31"));
}

#[test]
fn costs_at_stage_2() {
    insta::assert_snapshot!("arm-stage2", table("arm-stage2"));
}

#[test]
fn one_gibibyte_is_unmapped_by_one_range_and_one_sync() {
    for (machine, command) in [("arm", "CMD_TLBI_NH_VA"), ("arm-stage2", "CMD_TLBI_S2_IPA")] {
        let table = table(machine);
        for operation in ["unmap 1 GiB", "unmap 1 GiB as 2 MiB", "unmap 1 GiB as pages"] {
            let line = line(&table, operation);
            assert!(line.ends_with(&format!("  1 {command}, 1 CMD_SYNC")), "{machine}: {line}");
        }
    }
}

#[test]
fn blocks_of_1_gib_take_a_table_page_per_level_at_most() {
    let table = table("arm");
    let bytes = |operation: &str| -> u64 {
        let figures = line(&table, operation)[26..].split_whitespace().next().unwrap();
        figures.parse().unwrap()
    };
    assert!(bytes("map 1 GiB") <= 3 * PAGE);
    assert!(bytes("map 1 GiB as 2 MiB") <= 4 * PAGE);
}

#[test]
fn one_device_among_16_bit_stream_ids_takes_less_than_20_kib() {
    let mut script = script("arm");
    assert_eq!(script.driver.features().stream_bits, 16);
    script.device("only", 0x1234);
    let bytes = script.driver.table_bytes().stream_table;
    assert!(bytes < 20 << 10, "{bytes} bytes");
}
