//! What operations of VT-d's driver cost: descriptors by type, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_vtd`.

use std::sync::Arc;

use model_vtd::{Config as Unit, Policy};
use portcullis::types::PaRange;
use portcullis::vtd::{Config, Mode, Vtd};
use portcullis_checks::cost::table::{self, taken_bytes, told};
use portcullis_lab::machine::builtin;

const PAGE: u64 = 4096;

/// The table of costs with a unit.
fn table(unit: Unit, mode: Mode) -> String {
    let mut spec = builtin::find("x86").unwrap();
    let at = &mut spec.pc.as_mut().unwrap().units[0];
    // Hardware that does everything at once: figures that do not depend on dice.
    at.config = Unit { policy: Policy::eager(), ..unit };
    let registers = PaRange::new(at.base, 0x2000).unwrap();
    let mut script = table::script(spec, registers, |platform, registers| {
        let mut config = Config::new("unit");
        config.mode = mode;
        // Bits of a host address, as DMAR says them.
        config.host_address_bits = 46;
        Arc::new(Vtd::probe(platform, Arc::new(registers), config).unwrap())
    });
    script.run(true);
    script.notes.text().to_owned()
}

fn caching() -> Unit {
    Unit { caching_mode: true, ..Unit::legacy() }
}

/// Every kind of unit: what it is called, what it has, and which tables lead to domains.
fn units() -> [(&'static str, Unit, Mode); 4] {
    [
        ("legacy", Unit::legacy(), Mode::Auto),
        ("caching", caching(), Mode::Auto),
        ("scalable", Unit::default(), Mode::Scalable),
        ("legacy-of-scalable", Unit::default(), Mode::Legacy),
    ]
}

#[test]
fn costs_in_legacy_mode() {
    insta::assert_snapshot!("legacy", table(Unit::legacy(), Mode::Auto));
}

#[test]
fn costs_in_scalable_mode() {
    insta::assert_snapshot!("scalable", table(Unit::default(), Mode::Scalable));
}

#[test]
fn costs_in_caching_mode() {
    insta::assert_snapshot!("caching", table(caching(), Mode::Auto));
}

#[test]
fn a_page_is_unmapped_strictly_by_one_iotlb_invalidation_and_one_wait() {
    for (name, unit, mode) in units() {
        let table = table(unit, mode);
        assert_eq!(told(&table, "unmap 4 KiB"), "1 IOTLB, 1 wait", "{name}");
        // In caching mode what was not present may be cached, too, so that a map costs the same; and nothing else does.
        let map = if unit.caching_mode { "1 IOTLB, 1 wait" } else { "" };
        assert_eq!(told(&table, "map 4 KiB"), map, "{name}");
    }
}

#[test]
fn a_gibibyte_is_unmapped_by_one_iotlb_invalidation_and_one_wait() {
    for (name, unit, mode) in units() {
        let table = table(unit, mode);
        for operation in ["unmap 1 GiB", "unmap 1 GiB as 2 MiB", "unmap 1 GiB as pages"] {
            assert_eq!(told(&table, operation), "1 IOTLB, 1 wait", "{name}: {operation}");
        }
    }
}

#[test]
fn blocks_of_1_gib_take_a_table_page_per_level_at_most() {
    let table = table(Unit::legacy(), Mode::Auto);
    assert!(taken_bytes(&table, "map 1 GiB") <= 3 * PAGE);
    assert!(taken_bytes(&table, "map 1 GiB as 2 MiB") <= 4 * PAGE);
}
