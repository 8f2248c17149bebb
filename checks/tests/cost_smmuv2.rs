//! What operations of SMMUv2's driver cost: registers by what they do, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_smmuv2`.

use model_smmuv2::{Config as Hardware, Policy};
use portcullis::smmuv2::{Config, Smmu};
use portcullis::types::PaRange;
use portcullis_checks::cost::table::{self, taken_bytes, told};
use portcullis_lab::machine::builtin;

/// The table of costs with an SMMU.
fn table(hardware: Hardware) -> String {
    let mut spec = builtin::find("smmuv2").unwrap();
    let smmu = &mut spec.smmuv2s[0];
    // Hardware that does everything at once: figures that do not depend on dice.
    smmu.config = Hardware { policy: Policy::eager(), ..hardware };
    let registers = PaRange::new(smmu.base, smmu.config.size_bytes()).unwrap();
    let probe = |platform, registers| Smmu::probe(platform, registers, Config::new("smmu")).unwrap();
    let mut script = table::script(spec, registers, probe);
    script.run(true);
    script.notes.text().to_owned()
}

#[test]
fn costs_with_stream_matching() {
    insta::assert_snapshot!("matching", table(Hardware::default()));
}

#[test]
fn costs_with_stream_indexing() {
    insta::assert_snapshot!("indexed", table(Hardware::indexed()));
}

#[test]
fn costs_at_stage_2() {
    insta::assert_snapshot!("stage2", table(Hardware::stage2_only()));
}

#[test]
fn a_page_is_unmapped_strictly_by_one_invalidation_of_its_address_and_one_sync_of_its_bank() {
    let kinds = [
        (Hardware::default(), "TLBIVAL"),
        (Hardware::indexed(), "TLBIVAL"),
        (Hardware::stage2_only(), "TLBIIPAS2L"),
    ];
    for (hardware, register) in kinds {
        let table = table(hardware);
        assert_eq!(told(&table, "unmap 4 KiB"), format!("1 {register}, 1 TLBSYNC"));
        assert_eq!(told(&table, "map 4 KiB"), "");
    }
}

#[test]
fn a_gibibyte_is_unmapped_by_one_invalidation_and_one_sync() {
    for (hardware, all) in [(Hardware::default(), "TLBIASID"), (Hardware::stage2_only(), "TLBIVMID")] {
        let table = table(hardware);
        // There is no invalidation of a range: a block goes by its address, more than a few pages with all that the domain has.
        for operation in ["unmap 1 GiB as 2 MiB", "unmap 1 GiB as pages"] {
            let told = told(&table, operation);
            assert!(told.starts_with(&format!("1 {all}, 1 ")), "{operation}: {told}");
        }
        assert!(taken_bytes(&table, "map 1 GiB") <= 3 * 4096);
    }
}
