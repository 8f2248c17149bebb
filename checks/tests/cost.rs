//! What operations of SMMUv3's driver cost: commands by kind, syncs, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost`.

use model_smmuv3::Policy;
use portcullis::smmuv3::{Config, Smmu};
use portcullis::types::PaRange;
use portcullis_checks::cost::script::Script;
use portcullis_checks::cost::table::{self, Table, line, taken_bytes};
use portcullis_lab::machine::builtin;
use portcullis_lab::platform::{LabPlatform, RegisterWindow};

/// The driver of a machine that was brought up.
fn script(machine: &str) -> Script<LabPlatform, Smmu<LabPlatform, RegisterWindow>, Table> {
    let mut spec = builtin::find(machine).unwrap();
    // Hardware that does everything at once: figures that do not depend on dice.
    spec.smmus[0].config.policy = Policy::eager();
    let registers = PaRange::new(spec.smmus[0].base, 0x2_0000).unwrap();
    let probe = |platform, registers| Smmu::probe(platform, registers, Config::new("smmu")).unwrap();
    table::script(spec, registers, probe)
}

const PAGE: u64 = 4096;

/// The table of costs on a machine.
fn table(machine: &str) -> String {
    let mut script = script(machine);
    script.run(true);
    script.notes.text().to_owned()
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
    assert!(taken_bytes(&table, "map 1 GiB") <= 3 * PAGE);
    assert!(taken_bytes(&table, "map 1 GiB as 2 MiB") <= 4 * PAGE);
}

#[test]
fn one_device_among_16_bit_stream_ids_takes_less_than_20_kib() {
    let mut script = script("arm");
    assert_eq!(script.driver.features().stream_bits, 16);
    script.device("only", 0x1234);
    let bytes = script.driver.table_bytes().stream_table;
    assert!(bytes < 20 << 10, "{bytes} bytes");
}
