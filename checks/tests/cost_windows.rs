//! What DMA windows cost behind a PHB3: table memory, TCEs stored, registers read and written, kills by kind. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_windows`.

use core::fmt::Write;
use std::sync::Arc;

use portcullis::core::group::Group;
use portcullis::core::iommu::Gather;
use portcullis::core::owner::{Owner, Released};
use portcullis::core::table_group::{DmaTable, TableEntry, TableGroup, TableSpec};
use portcullis::types::{Iova, IovaRange, Pa, Perms, SizeLg2, SourceId};
use portcullis_checks::cost::meter::{Counted, Meter};
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::platform::{LabPlatform, Tamper};
use portcullis_lab::trace;

/// The requester ids of the machine's two disks.
const DISKS: [SourceId; 2] = [SourceId(0x100), SourceId(0x200)];
const GIB: u64 = 1 << 30;

struct Bench {
    machine: Machine,
    _system: System,
    meter: Arc<Meter>,
    groups: [Arc<Group<LabPlatform>>; 2],
    table: String,
}

impl Bench {
    fn new() -> Self {
        let sink = trace::shared(None);
        let spec = builtin::find("power8").unwrap();
        let device_tree = fdt::emit(&spec).unwrap();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let meter = Arc::new(Meter::default());
        let tamper: Option<Arc<dyn Tamper>> = Some(meter.clone());
        let request = BootRequest::new(&machine, &device_tree, sink);
        let system = System::boot(BootRequest { tamper, bypass: true, ..request }).unwrap();
        let groups = DISKS.map(|disk| {
            let of_disk = |standing: &Standing| match standing {
                Standing::Behind { device, group } if device.sources() == [disk] => Some(group.clone()),
                _ => None,
            };
            system.endpoints().find_map(|(_, at)| of_disk(&at.standing)).unwrap()
        });
        let table = format!(
            "{:<34}{:>9}{:>9}{:>8}{:>9}{:>7}{:>7}  {}\n",
            "operation", "bytes +", "bytes -", "stores", "barriers", "reads", "writes", "kills"
        );
        Self { machine, _system: system, meter, groups, table }
    }

    fn tables(&self, which: usize) -> Arc<dyn TableGroup> {
        self.groups[which].iommu().table_group(DISKS[which]).unwrap()
    }

    /// Does something and notes what it cost.
    fn cost<T>(&mut self, operation: &str, act: impl FnOnce() -> T) -> T {
        let before = self.machine.phbs[0].counters();
        self.meter.take();
        let done = act();
        let after = self.machine.phbs[0].counters();
        let Counted { allocated_bytes, freed_bytes, stores, barriers, .. } = self.meter.take();
        let reads = after.register_reads - before.register_reads;
        let writes = after.register_writes - before.register_writes;
        let kills = [
            (after.kills_one - before.kills_one, "by entry"),
            (after.kills_pe - before.kills_pe, "by PE"),
            (after.kills_all - before.kills_all, "of all"),
        ];
        let kills: Vec<String> = kills
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        let line = format!(
            "{operation:<34}{allocated_bytes:>9}{freed_bytes:>9}{stores:>8}{barriers:>9}{reads:>7}{writes:>7}  {}",
            kills.join(", ")
        );
        writeln!(self.table, "{}", line.trim_end()).unwrap();
        done
    }

    /// Has pages of a window, from its beginning on, mapped one behind the other or not at all, in one go, as a container does.
    fn set(&mut self, operation: &str, table: &dyn DmaTable, pages: u64, mapped: bool) {
        let (page, first) = (table.spec().page, table.range().first().get());
        let ram = self.machine.spec.ram.first().get();
        let range = IovaRange::new(Iova::new(first), pages << page.get()).unwrap();
        self.cost(operation, || {
            if mapped {
                table.prepare(range).unwrap();
            }
            let mut gather = Gather::new();
            for number in 0..pages {
                let at = Iova::new(first + (number << page.get()));
                let pa = Pa::new(ram + (number << page.get()));
                let new = TableEntry { pa, perms: Perms::READ_WRITE, user: number << page.get() };
                table.exchange(at, mapped.then_some(new)).unwrap();
                gather.add(IovaRange::new(at, page.bytes()).unwrap(), page, false);
            }
            table.flush(&mut gather).map(drop).unwrap();
        });
    }
}

fn spec(window: usize, page: u8, levels: u8) -> TableSpec {
    TableSpec { window, page: SizeLg2::new(page).unwrap(), window_bytes: GIB, levels }
}

/// The table of costs.
fn table() -> String {
    let mut bench = Bench::new();
    let user = Arc::new(0u8);
    let group = bench.groups[0].clone();
    bench.cost("take", || group.claim_group(Owner::of(&user)).unwrap());
    let tables = bench.tables(0);
    let ops = tables.tables().unwrap();
    for (name, window, page, levels) in [
        ("4K, 1 level", 0, 12, 1),
        ("4K, 3 levels", 0, 12, 3),
        ("64K, 1 level", 0, 16, 1),
        ("16M, 2 levels", 0, 24, 2),
    ] {
        let table =
            bench.cost(&format!("create {name}"), || ops.create_table(spec(window, page, levels)).unwrap());
        bench.cost(&format!("drop {name}"), || drop(table));
    }
    let table = ops.create_table(spec(0, 16, 2)).unwrap();
    bench.cost("set a window", || ops.set_window(&table).unwrap());
    bench.set("map 1 page, table cold", &*table, 1, true);
    bench.set("unmap 1 page", &*table, 1, false);
    bench.set("map 1 page", &*table, 1, true);
    bench.set("map 1 page over another", &*table, 1, true);
    bench.set("unmap 1 page again", &*table, 1, false);
    bench.set("map 8 pages", &*table, 8, true);
    bench.set("unmap 8 pages", &*table, 8, false);
    bench.set("map 9 pages", &*table, 9, true);
    bench.set("unmap 9 pages", &*table, 9, false);
    bench.set("map 1 GiB", &*table, GIB >> 16, true);
    bench.set("unmap 1 GiB", &*table, GIB >> 16, false);

    let second = bench.groups[1].clone();
    second.claim_group(Owner::of(&user)).unwrap();
    let others = bench.tables(1);
    bench.cost("set it for a second group", || others.tables().unwrap().set_window(&table).unwrap());
    bench.set("map 1 page for two groups", &*table, 1, true);
    bench.set("unmap 1 page for two groups", &*table, 1, false);
    bench.set("map 1 GiB for two groups", &*table, GIB >> 16, true);
    bench.set("unmap 1 GiB for two groups", &*table, GIB >> 16, false);
    bench.cost("unset it for the second", || others.tables().unwrap().unset_window(0).unwrap());
    assert_eq!(second.release_group(Owner::of(&user)), Ok(Released::Free));

    let large = bench.cost("create 16M in window 1", || ops.create_table(spec(1, 24, 1)).unwrap());
    ops.set_window(&large).unwrap();
    bench.set("map 1 GiB of 16M", &*large, GIB >> 24, true);
    bench.set("unmap 1 GiB of 16M", &*large, GIB >> 24, false);
    drop(large);
    bench.cost("unset a window", || drop(ops.unset_window(1).unwrap()));
    ops.unset_window(0).unwrap();
    drop(table);
    let released = bench.cost("release", || group.release_group(Owner::of(&user)));
    assert_eq!(released, Ok(Released::Free));
    bench.table
}

/// What kills an operation took.
fn kills<'a>(table: &'a str, operation: &str) -> &'a str {
    let line = table.lines().find(|line| line.split("  ").next() == Some(operation)).unwrap();
    line.get(85..).unwrap_or("")
}

#[test]
fn costs_of_windows() {
    insta::assert_snapshot!("power8", table());
}

#[test]
fn a_bulk_map_is_one_kill_for_each_endpoint_and_none_by_entry() {
    let table = table();
    for operation in ["map 1 GiB", "unmap 1 GiB", "map 1 GiB of 16M", "unmap 1 GiB of 16M", "map 9 pages"] {
        assert_eq!(kills(&table, operation), "1 by PE", "{operation} in\n{table}");
    }
    for operation in ["map 1 GiB for two groups", "unmap 1 GiB for two groups"] {
        assert_eq!(kills(&table, operation), "2 by PE", "{operation} in\n{table}");
    }
    // Eight entries, a line of the bridge's cache, and fewer are killed one by one.
    for (operation, count) in
        [("map 1 page", 1), ("unmap 1 page", 1), ("map 8 pages", 8), ("unmap 8 pages", 8)]
    {
        assert_eq!(kills(&table, operation), format!("{count} by entry"), "{operation} in\n{table}");
    }
}

#[test]
fn making_a_table_that_is_no_window_tells_hardware_nothing() {
    let table = table();
    for operation in ["create 4K, 3 levels", "drop 4K, 3 levels"] {
        assert_eq!(kills(&table, operation), "", "{operation} in\n{table}");
        let line = table.lines().find(|line| line.starts_with(operation)).unwrap();
        assert_eq!(&line[69..83], "      0      0", "registers: {line}");
    }
}
