//! `sva` on hardware without PASIDs, QEMU's: a disk as a whole shares a process's page table.
//!
//! The process has queues and buffers among its own addresses, made present before, since nobody could be asked for a page. The disk's entry leads
//! to the process's own table; a driver in the process's place (`client`) tells the disk the process's pointers, and the process loads what
//! the disk stored. It is proved that
//!
//! - the bytes that the process loaded are the input's;
//! - what the process has mapped and not touched the disk does not reach, and once the process has touched it, it does;
//! - what the process may only read the disk cannot write, and what the process unmaps is closed before the unmap returns;
//! - when the process has exited its disk reaches nothing, and nothing is recorded any more;
//! - nothing else faulted, and at the end all memory is back.
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance".

mod client;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use portcullis::core::bus::Driver;
use portcullis::core::domain::FlushMode;
use portcullis::core::mm::ProcessMemory;
use portcullis::pci::set_bus_master;
use portcullis::types::{Access, Iova, IovaRange, Perms};
use portcullis_qemu::Qemu;
use sha2::{Digest, Sha256};

use self::client::Client;
use super::super::TRY_VERBOSE;
use super::super::counting::{add_driver_counters, add_smmu_counters};
use super::super::disk::{check_bytes, find, not_bound};
use super::super::dma::first_disk_name;
use super::super::proof::{no_errors, proved};
use super::super::witness::Witness;
use super::{Outcome, kernel};
use crate::boot::{self, BootRequest, Bound, Standing, System};
use crate::error::RunError;
use crate::input::hex;
use crate::machine::{DiskContent, Machine, qemu};
use crate::platform::LabPlatform;
use crate::process::{Mapping, Process, Source};
use crate::report::Counters;
use crate::trace::SharedSink;

const DRIVER: &str = "nvme-shared";
const PAGE: u64 = 4096;

/// What this run cannot show besides.
pub const NOT_SHOWN: [&str; 1] = [
    "PASIDs, page requests and stalls: QEMU's SMMUv3 has none; the whole disk shares, its pages made present before",
];

/// The driver as the bus knows it: what there is to stop, the process stops.
struct Shared;

impl Bound for Shared {
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        Ok(())
    }
}

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says.
pub fn run_on_qemu(qemu: &Qemu, job: &qemu::Job<'_>) -> Result<Outcome, RunError> {
    let (machine, device_tree) = Machine::on_qemu(qemu, DiskContent::holding(job.input), job.seed)?;
    let name = first_disk_name(&machine.spec)?;
    let witness = Arc::new(Witness::without_models(&name, job.sink.clone()));
    let work = Work { job, machine: &machine, name: &name, witness: &witness };
    proved(work.run(&device_tree), &machine, &witness)
}

struct Work<'a> {
    job: &'a qemu::Job<'a>,
    machine: &'a Machine,
    name: &'a str,
    witness: &'a Arc<Witness>,
}

impl Work<'_> {
    /// Everything from boot to shutdown.
    fn run(&self, device_tree: &[u8]) -> Result<(Arc<LabPlatform>, Outcome), RunError> {
        let sink: SharedSink = self.witness.clone();
        let request = BootRequest::new(self.machine, device_tree, sink);
        let tamper = self.job.tamper.clone();
        let mut system = System::boot(BootRequest { tamper, mode: FlushMode::Strict, ..request })?;
        let kernel = kernel::start(&system, &self.machine.cpus, self.job.seed)?;
        let process = Process::new(&kernel).map_err(|error| self.wrong(format!("no process: {error:?}")))?;
        let shared = self.share(&system, &process);
        // Also after a failure: nothing of the process may outlive the system.
        process.exit();
        drop(process);
        drop(kernel);
        let (digest, refused, elapsed_ns) = shared?;
        let mut counters = Counters::default();
        add_driver_counters(&mut counters, self.witness, &system);
        let platform = system.platform.clone();
        system.detach()?;
        no_errors(&system)?;
        system.shut_down()?;
        add_smmu_counters(&mut counters, self.machine, &platform);
        (counters.probes, counters.probes_blocked) = (refused, refused);
        Ok((platform, Outcome { counters, digest: Some(digest), elapsed_ns }))
    }

    /// The disk goes to the process and comes back.
    fn share(&self, system: &System, process: &Arc<Process>) -> Result<(String, u64, u64), RunError> {
        let (host, endpoint) = find(system, self.name)?;
        let (device, group) = match &endpoint.standing {
            Standing::Behind { device, group } => (device, group),
            Standing::Uncovered(why) => return Err(self.wrong(format!("no IOMMU covers it: {why}"))),
        };
        let unit = system.unit_of(device.iommu().name());
        let unit = unit.ok_or_else(|| self.wrong("its IOMMU is not up".into()))?;
        let mm: Arc<dyn ProcessMemory> = process.clone();
        let domain = unit.sva.domain(&mm);
        let domain = domain.map_err(|error| self.wrong(format!("the process is not shared: {error:?}")))?;
        let probe = |_| Ok::<_, RunError>(Box::new(Shared) as Box<dyn Bound>);
        let bound = endpoint.binding.bind(Driver::managing_dma(DRIVER), || Ok(()), probe);
        bound.map_err(|error| not_bound(self.name, DRIVER, error))?;
        group.attach(&domain).map_err(|error| self.wrong(format!("it was not attached: {error:?}")))?;
        let function = &host.topology.functions[endpoint.function];
        let registers = function.bar(0).and_then(|bar| bar.cpu_range());
        let registers = registers.ok_or_else(|| self.wrong("its registers were not placed".into()))?;
        host.topology.enable_bus_master(&*host.config, endpoint.function);
        let window = system.platform.registers(registers);
        let started = Client::start(system.platform.clone(), window, process.clone());
        let mut client = started.map_err(|what| self.wrong(what))?;
        let worked = self.work(system, process, &mut client);
        let stopped = client.stop().map_err(|what| self.wrong(what));
        set_bus_master(&*host.config, function.at, false);
        let back = group.detach().map_err(|error| self.wrong(format!("it did not come back: {error:?}")));
        let unbound = boot::unbind(&endpoint.binding);
        let worked = worked?;
        stopped.and(back).and(unbound).map(|()| worked)
    }

    /// The process reads everything, and is tried; at the end it exits.
    fn work(
        &self,
        system: &System,
        process: &Arc<Process>,
        client: &mut Client,
    ) -> Result<(String, u64, u64), RunError> {
        let start = Instant::now();
        let digest = self.read_all(client)?;
        let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut refused = self.try_pages(system, process, client)?;
        process.exit();
        let failed = client.fetch_from(client.buffer().first()).map_err(|what| self.wrong(what))?;
        if !failed || system.service_iommus() > 0 {
            return Err(
                self.wrong("isolation: a dead process's memory is reached, or a record is made".into())
            );
        }
        refused += 1;
        Ok((digest, refused, elapsed_ns))
    }

    fn read_all(&self, client: &mut Client) -> Result<String, RunError> {
        let total = self.job.input.measure().bytes;
        let (mut hash, mut done) = (Sha256::new(), 0);
        while done < total {
            let len = (total - done).min(client.buffer_bytes());
            let bytes = client.read(done, len).map_err(|what| self.wrong(what))?;
            hash.update(&bytes);
            done += len;
            if let Some(progress) = self.job.progress {
                progress(done, total);
            }
        }
        check_bytes(self.job.input, hex(&hash.finalize()), None, 1, 0)
    }

    /// Pages of every kind that a process can have. Answers how many accesses were refused.
    fn try_pages(
        &self,
        system: &System,
        process: &Arc<Process>,
        client: &mut Client,
    ) -> Result<u64, RunError> {
        let failed = |what: &dyn core::fmt::Debug| self.wrong(format!("the process failed: {what:?}"));
        let mut refused = 0;
        let mapping =
            Mapping { at: None, len_bytes: 4 * PAGE, perms: Perms::READ_WRITE, source: Source::Anonymous };
        let area = process.map(&mapping).map_err(|error| failed(&error))?;
        let page = |index: u64| Iova::new(area.first().get() + index * PAGE);
        let range = |index: u64| IovaRange::new(page(index), PAGE).expect("a page within the area");
        self.must_refuse(system, client, "a page that is not present", page(0), Access::WRITE, &mut refused)?;
        self.must_refuse(system, client, "a page that is not present", page(1), Access::READ, &mut refused)?;
        for index in 0..4 {
            process.write(page(index), &[0xee; 8]).map_err(|error| failed(&error))?;
            self.must_reach(system, client, page(index), Access::WRITE)?;
            self.must_reach(system, client, page(index), Access::READ)?;
        }
        process.protect(range(2), Perms::READ).map_err(|error| failed(&error))?;
        // The kernel has taken the entry out; it comes back when the process reads.
        process.read(page(2), &mut [0; 8]).map_err(|error| failed(&error))?;
        self.must_reach(system, client, page(2), Access::READ)?;
        self.must_refuse(system, client, "a page that is only read", page(2), Access::WRITE, &mut refused)?;
        process.unmap(range(3)).map_err(|error| failed(&error))?;
        for access in [Access::READ, Access::WRITE] {
            self.must_refuse(system, client, "a page that was unmapped", page(3), access, &mut refused)?;
        }
        self.must_reach(system, client, page(1), Access::WRITE)?;
        Ok(refused)
    }

    fn must_reach(
        &self,
        system: &System,
        client: &mut Client,
        at: Iova,
        access: Access,
    ) -> Result<(), RunError> {
        client.access(at, access).map_err(|what| self.wrong(what))?;
        match system.service_iommus() {
            0 => Ok(()),
            _ => Err(self.wrong(format!("the process has {at}, and an access of it is refused"))),
        }
    }

    fn must_refuse(
        &self,
        system: &System,
        client: &mut Client,
        what: &str,
        at: Iova,
        access: Access,
        refused: &mut u64,
    ) -> Result<(), RunError> {
        self.witness.take_fault_pages();
        let faults = self.witness.expecting(|| {
            let accessed = client.access(at, access);
            accessed.map(|()| system.service_iommus())
        });
        let faults = faults.map_err(|what| self.wrong(what))?;
        let there = self.witness.take_fault_pages() == BTreeSet::from([at.align_down(PAGE).get()]);
        if faults == 0 || !there {
            return Err(self.wrong(format!("isolation: an access to {what} was let through, {at}")));
        }
        *refused += 1;
        Ok(())
    }

    fn wrong(&self, what: String) -> RunError {
        RunError::wrong(self.name, what, TRY_VERBOSE)
    }
}
