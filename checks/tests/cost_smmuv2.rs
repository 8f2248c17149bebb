//! What operations of SMMUv2's driver cost: registers by what they do, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_smmuv2`.

use model_smmuv2::{Config as Hardware, Policy};
use portcullis::core::nested::GuestTable;
use portcullis::pgtable::arm::MAIR;
use portcullis::smmuv2::{Config, Smmu};
use portcullis::types::{Gpa, PaRange, SizeLg2};
use portcullis_checks::cost::script::Script;
use portcullis_checks::cost::table::{self, Table, taken_bytes, told};
use portcullis_lab::machine::builtin;
use portcullis_lab::platform::{LabPlatform, RegisterWindow};

/// The driver of an SMMU that was brought up.
fn script(hardware: Hardware) -> Script<LabPlatform, Smmu<LabPlatform, RegisterWindow>, Table> {
    let mut spec = builtin::find("smmuv2").unwrap();
    let smmu = &mut spec.smmuv2s[0];
    // Hardware that does everything at once: figures that do not depend on dice.
    smmu.config = Hardware { policy: Policy::eager(), ..hardware };
    let registers = PaRange::new(smmu.base, smmu.config.size_bytes()).unwrap();
    let probe = |platform, registers| Smmu::probe(platform, registers, Config::new("smmu")).unwrap();
    table::script(spec, registers, probe)
}

/// The table of costs with an SMMU.
fn table(hardware: Hardware) -> String {
    let mut script = script(hardware);
    script.run(true);
    script.notes.text().to_owned()
}

/// What nested translation costs.
fn nested(hardware: Hardware) -> String {
    let mut script = script(hardware);
    let device = script.device("first", 0x08);
    let table = GuestTable::Vmsa64 {
        root: Gpa::new(0x1000),
        granule: SizeLg2::KIB_4,
        input_bits: 39,
        output_bits: 40,
        mair: MAIR,
    };
    script.nest(&device, &table);
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

#[test]
fn costs_of_a_guests_table() {
    insta::assert_snapshot!("nested", nested(Hardware::default()));
}

#[test]
fn what_a_guest_forgets_is_told_address_by_address_up_to_some_and_ends_in_one_sync() {
    let table = nested(Hardware::default());
    assert_eq!(told(&table, "guest forgets a page"), "1 TLBIVAL, 1 TLBSYNC");
    assert_eq!(told(&table, "guest forgets a table"), "1 TLBIVA, 1 TLBSYNC");
    assert_eq!(told(&table, "guest forgets 16 pages"), "16 TLBIVAL, 1 TLBSYNC");
    // A guest's entries may be global, and then an ASID does not forget them.
    for all in ["guest forgets 2 MiB", "guest forgets all"] {
        assert_eq!(told(&table, all), "1 TLBIALL, 1 TLBSYNC", "{all}");
    }
}
