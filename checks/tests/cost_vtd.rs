//! What operations of VT-d's driver cost: descriptors by type, memory for tables, register accesses. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_vtd`.

use std::sync::Arc;

use model_bus::{Downstream, Invalidation, PageResponse, Port, Translator};
use model_vtd::{Config as Unit, Policy};
use portcullis::core::iommu::Iommu;
use portcullis::core::nested::GuestTable;
use portcullis::core::sva::{CpuFacts, DeviceSvaFacts, DeviceSwitches};
use portcullis::types::{Gpa, PaRange, SizeLg2, SourceId};
use portcullis::vtd::{Config, Mode, Vtd};
use portcullis_checks::cost::script::Script;
use portcullis_checks::cost::table::{self, Table, taken_bytes, told};
use portcullis_lab::machine::builtin;
use portcullis_lab::platform::{LabPlatform, RegisterWindow};

const PAGE: u64 = 4096;

/// The driver of a unit that was brought up; if `shares`, to share processes' memory as well.
fn script(
    unit: Unit,
    mode: Mode,
    shares: bool,
) -> Script<LabPlatform, Vtd<LabPlatform, RegisterWindow>, Table> {
    let mut spec = builtin::find("x86").unwrap();
    let at = &mut spec.pc.as_mut().unwrap().units[0];
    // Hardware that does everything at once: figures that do not depend on dice.
    at.config = Unit { policy: Policy::eager(), ..unit };
    let registers = PaRange::new(at.base, 0x2000).unwrap();
    table::script(spec, registers, |platform, registers| {
        let mut config = Config::new("unit");
        config.mode = mode;
        // Bits of a host address, as DMAR says them.
        config.host_address_bits = 46;
        let mut cpus = CpuFacts::new(SizeLg2::KIB_4);
        cpus.output_bits = 46;
        config.cpus = shares.then_some(cpus);
        Arc::new(Vtd::probe(platform, Arc::new(registers), config).unwrap())
    })
}

/// The table of costs with a unit.
fn table(unit: Unit, mode: Mode) -> String {
    let mut script = script(unit, mode, false);
    script.run(true);
    script.notes.text().to_owned()
}

/// A device that has a TLB, with nothing in it.
struct Atc(Port);

impl Downstream for Atc {
    fn invalidate(&self, message: &Invalidation) -> bool {
        self.0.complete_invalidations(1 << message.tag);
        true
    }

    fn page_response(&self, _: &PageResponse) -> bool {
        false
    }
}

#[derive(Debug)]
struct Switches;

impl DeviceSwitches for Switches {
    fn set_ats(&self, _: bool) {}
}

/// What nested translation costs, for a device with a TLB or without.
fn nested(has_tlb: bool) -> String {
    const SOURCE: SourceId = SourceId(0x08);
    let mut script = script(Unit::default(), Mode::Scalable, has_tlb);
    let device = script.device("first", SOURCE.0);
    let unit: Arc<dyn Translator> = script.notes.machine().vtds[0].clone();
    let bus = script.notes.machine().bus.clone();
    let atc: Arc<dyn Downstream> = Arc::new(Atc(Port::new(SOURCE, unit.clone(), bus)));
    unit.connect(Arc::downgrade(&atc));
    if has_tlb {
        let facts =
            DeviceSvaFacts { ats: true, pri: true, response_pasid: true, pasid_bits: 20, can_stall: false };
        script.driver.sva().unwrap().enable(&[SOURCE], &facts, Arc::new(Switches)).unwrap();
    }
    script.nest(
        &device,
        &GuestTable::X86 {
            root: Gpa::new(0x1000),
            levels: 4,
            pat: 0x0007_0406_0007_0406,
            write_protect: true,
            extended_accessed: false,
        },
    );
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
fn a_list_of_pages_is_mapped_by_one_iotlb_invalidation_and_one_wait_in_caching_mode_and_by_nothing_elsewhere()
{
    for (name, unit, mode) in units() {
        let table = table(unit, mode);
        let map = if unit.caching_mode { "1 IOTLB, 1 wait" } else { "" };
        assert_eq!(told(&table, "map list of 16 pages"), map, "{name}");
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

#[test]
fn costs_of_a_guests_table() {
    insta::assert_snapshot!("nested", nested(false));
}

#[test]
fn costs_of_a_guests_table_and_a_device_with_a_tlb() {
    insta::assert_snapshot!("nested-atc", nested(true));
}

#[test]
fn what_a_guest_forgets_is_one_invalidation_and_one_wait_and_for_a_device_with_a_tlb_one_of_each_more() {
    let (without, with) = (nested(false), nested(true));
    for what in ["a page", "a table", "16 pages", "2 MiB", "all"] {
        let operation = format!("guest forgets {what}");
        assert_eq!(told(&without, &operation), "1 PASID-based IOTLB, 1 wait", "{operation}");
        let more = told(&with, &operation);
        assert_eq!(more, "1 PASID-based IOTLB, 1 device-TLB, 2 wait", "{operation}");
    }
}
