//! What sharing costs: commands and syncs of each operation, register accesses of the driver. A change shows as a diff of a snapshot.
//!
//! To accept one: `INSTA_UPDATE=always cargo test -p portcullis-checks --test cost_sharing`.

use core::fmt::Write;
use std::sync::Arc;

use model_smmuv3::Policy;
use portcullis::accel::{Algorithm, Status};
use portcullis::types::{Iova, IovaRange};
use portcullis_checks::cost::meter::{Counted, Meter};
use portcullis_checks::cost::spent::Spent;
use portcullis_checks::sva::plan::Plan;
use portcullis_checks::sva::rig::Rig;
use portcullis_checks::sva::watched::Watched;
use portcullis_checks::sva::work::{Client, bind, job, unbind};
use portcullis_lab::trace;

struct Bench {
    rig: Rig,
    meter: Arc<Meter>,
    table: String,
}

impl Bench {
    fn new(plan: Plan) -> Self {
        let meter = Arc::new(Meter::default());
        let rig = Rig::with(plan.policy(Policy::eager()), Some(meter.clone()), trace::shared(None)).unwrap();
        let table =
            format!("{:<36}{:>7}{:>7}{:>7}  {}\n", "operation", "stores", "reads", "writes", "commands");
        Self { rig, meter, table }
    }

    /// Does something, and notes what it cost.
    fn cost<T>(&mut self, operation: &str, work: impl FnOnce(&Rig) -> T) -> T {
        let before = self.rig.driver.smmu().counts();
        self.meter.take();
        let done = work(&self.rig);
        let Counted { stores, register_reads, register_writes, .. } = self.meter.take();
        let commands = Spent::from(self.rig.driver.smmu().counts().since(&before));
        let line = format!("{operation:<36}{stores:>7}{register_reads:>7}{register_writes:>7}  {commands}");
        writeln!(self.table, "{}", line.trim_end()).unwrap();
        done
    }
}

fn process(rig: &Rig) -> Watched {
    Watched::new(&rig.kernel, &rig.judge).unwrap()
}

const GIB: u64 = 1 << 30;

/// What each operation costs with device `index`.
fn rows(bench: &mut Bench, index: usize) {
    let what = ["PCIe", "platform"][index];
    bench.cost(&format!("{what}: disable"), |rig| rig.disable(index).unwrap());
    bench.cost(&format!("{what}: enable"), |rig| rig.enable(index).unwrap());
    let one = process(&bench.rig);
    let bond = bench.cost(&format!("{what}: bind"), |rig| bind(rig, &one, index).unwrap());
    let again = bench.cost(&format!("{what}: bind again"), |rig| bind(rig, &one, index).unwrap());
    bench.cost(&format!("{what}: unbind, not the last"), |rig| unbind(rig, index, &again).unwrap());
    let mut client = Client::open(&bench.rig, &one, index).unwrap();
    let page = one.map_zeroes(0x1000).unwrap();
    let fill = |at: Iova| job(Algorithm::Fill(1), at, 64, at, 64);
    assert_eq!(client.run(&bench.rig, fill(page.first())).unwrap().status, Status::Done, "the ring is there");
    let next = one.map_zeroes(0x1000).unwrap();
    let outcome = bench.cost(&format!("{what}: page fault"), |rig| client.run(rig, fill(next.first())));
    assert_eq!(outcome.unwrap().status, Status::Done);
    bench.cost(&format!("{what}: unmap 1 page"), |_| one.unmap(page).unwrap());
    let large = one.map_zeroes(2 * GIB).unwrap();
    let gib = IovaRange::new(Iova::new((large.first().get() + GIB - 1) & !(GIB - 1)), GIB).unwrap();
    assert_eq!(client.run(&bench.rig, fill(gib.first())).unwrap().status, Status::Done);
    bench.cost(&format!("{what}: unmap 1 GiB"), |_| one.unmap(gib).unwrap());
    client.close(&bench.rig).unwrap();
    bench.cost(&format!("{what}: unbind, the last"), |rig| unbind(rig, index, &bond).unwrap());
    drop((bond, again));
    let other = process(&bench.rig);
    let bond = bind(&bench.rig, &other, index).unwrap();
    bench.cost(&format!("{what}: exit while bound"), |_| other.exit());
    bench.cost(&format!("{what}: unbind after exit"), |rig| unbind(rig, index, &bond).unwrap());
    bench.cost(&format!("{what}: exit, not bound"), |_| one.exit());
}

fn table(plan: Plan) -> String {
    let mut bench = Bench::new(plan);
    rows(&mut bench, 0);
    rows(&mut bench, 1);
    assert_eq!(bench.rig.finish(), [] as [String; 0]);
    bench.table
}

/// The commands of an operation.
fn commands<'a>(table: &'a str, operation: &str) -> &'a str {
    let line = table.lines().find(|line| line.split("  ").next() == Some(operation)).unwrap();
    line.get(59..).unwrap_or("")
}

#[test]
fn costs_of_sharing_with_range_invalidation() {
    insta::assert_snapshot!("range", table(Plan::new(1)));
}

#[test]
fn costs_of_sharing_without_range_invalidation() {
    insta::assert_snapshot!("no-range", table(Plan::new(1).smmu(|config| config.range_invalidation = false)));
}

#[test]
fn costs_of_sharing_with_broadcasts() {
    insta::assert_snapshot!("broadcast", table(Plan::new(1).broadcasting()));
}

#[test]
fn a_gibibyte_costs_as_many_commands_as_a_page() {
    for plan in [
        Plan::new(2),
        Plan::new(2).smmu(|config| config.range_invalidation = false),
        Plan::new(2).broadcasting(),
    ] {
        let table = table(plan);
        for form in ["PCIe", "platform"] {
            let count = |operation: &str| -> u64 {
                let commands = commands(&table, &format!("{form}: {operation}"));
                commands.split(", ").filter_map(|one| one.split(' ').next()?.parse::<u64>().ok()).sum()
            };
            assert_eq!(count("unmap 1 GiB"), count("unmap 1 page"), "{form}:\n{table}");
        }
    }
}

#[test]
fn a_bind_that_is_known_costs_nothing() {
    let table = table(Plan::new(3));
    for form in ["PCIe", "platform"] {
        for operation in ["bind again", "unbind, not the last"] {
            let line = table.lines().find(|line| line.starts_with(&format!("{form}: {operation}"))).unwrap();
            let figures: Vec<&str> = line[36..].split_whitespace().collect();
            assert_eq!(figures, ["0", "0", "0"], "{line}");
        }
    }
}
