//! `vfio`: a disk is handed to a driver in user space and back.
//!
//! The machine boots; the kernel's driver reads the input from the disk with the DMA API. Then it is unbound, the group goes to a process, and a driver
//! in that process (`program`), which can do nothing but make system calls and load and store, reads the input again, by DMA into its own
//! memory, told of each completion by an interrupt that arrives through the domain's doorbell page. Then it gives all back, and the kernel's driver
//! reads the input once more. It is proved that
//!
//! - the bytes that arrived are the input's each time, and went through translated accesses of the disk, to the byte;
//! - who has the group has it alone: other users and drivers are refused, and the refusal says who is in the way (`held`);
//! - in between, the disk reaches nothing: its stream id is tried while the group is blocked, at every address that the user unmapped, and at
//!   every address that he ever used once the group is the kernel's again;
//! - what must not be mapped is refused, and the user's interrupts are exactly those that the disk sent;
//! - at the end nothing is pinned, charged, connected or mapped, and all memory is back.
//!
//! If the process is to die, it is killed while commands are in flight, and all of this must hold even so.
//!
//! | file | what |
//! |---|---|
//! | `hand` | which disk, and why it cannot be handed over |
//! | `held` | what is tried while somebody has the group |
//! | `program` | the driver in user space |
//!
//! Not here: the kernel's side of system calls (`crate::vfio`).

mod hand;
pub(super) mod held;
pub(super) mod program;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use model_devices::apic::LocalApics;
use portcullis::core::bus::Place;
use portcullis::core::domain::FlushMode;
use portcullis::types::Pa;
use portcullis_qemu::Qemu;

use self::program::{Failed, Program, Told};
use super::TRY_VERBOSE;
use super::counting::add_driver_counters;
use super::disk::{KernelDisk, check_bytes, find, not_bound};
use super::dma::{add_core_counters, add_model_counters};
use super::front::Front;
use super::proof::{Watch, no_errors, places, proved};
use super::witness::Witness;
use crate::boot::{BootRequest, System, unbind};
use crate::error::RunError;
use crate::input::Opened;
use crate::machine::{DiskContent, Machine, MachineSpec, qemu, tables_of};
use crate::platform::{LabPlatform, Tamper};
use crate::report::{Counters, SpaprCounters, VfioCounters};
use crate::trace::SharedSink;
use crate::vfio::{self, Task, UserKernel};

/// The workload's name.
pub const NAME: &str = "vfio";

/// The bit of addresses with which a PHB3's kernel goes around translation. Observed: skiboot include/phb3.h, TVEs by PPC bit 4.
const AROUND: u64 = 1 << 59;
/// The bit of addresses that are messages to a PHB3. Observed: skiboot hw/phb3.c, `phb3_get_msi_64`.
const MESSAGES: u64 = 1 << 60;

/// What to do.
pub struct Job<'a> {
    /// The machine.
    pub spec: MachineSpec,
    /// Its device tree, if it came from somewhere else.
    pub device_tree: Option<Vec<u8>>,
    /// The input.
    pub input: &'a Opened,
    /// Decides what models are free to decide.
    pub seed: u64,
    /// Whether a user may have a disk that can raise others' interrupts.
    pub unsafe_interrupts: bool,
    /// Whether the process is killed while commands are in flight.
    pub kill: bool,
    /// Who hears what happens.
    pub sink: SharedSink,
    /// Who falsifies what the CPU does.
    pub tamper: Option<Arc<dyn Tamper>>,
    /// Who is told of bytes done, of how many.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Send + Sync)>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it took.
    pub counters: Counters,
    /// SHA-256 of what arrived in user space, in hexadecimal; of what the kernel read afterwards, if the process was killed.
    pub digest: String,
    /// How long the reading in user space took on this computer, in nanoseconds.
    pub elapsed_ns: u64,
}

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says. An outcome is always a verified one.
pub fn run(job: &Job<'_>) -> Result<Outcome, RunError> {
    if job.spec.phb3s().next().is_some() {
        let what = "its containers are not of type 1: users make their own windows";
        return Err(RunError::refused(&job.spec.name, what, "use `run spapr`, or choose another machine"));
    }
    run_with(job, &|run, system, kernel, place, watch| run.user_turn(system, kernel, place, watch), false)
}

/// The same on QEMU's hardware. What that cannot show is said in [`qemu::NOT_SHOWN`]; and while a user has the disk nobody else can ask it.
///
/// # Errors
///
/// As [`RunError`] says.
pub fn run_on_qemu(qemu: &Qemu, job: &qemu::Job<'_>, kill: bool) -> Result<Outcome, RunError> {
    let user: UserTurn<'_> = &|run, system, kernel, place, watch| run.user_turn(system, kernel, place, watch);
    run_on_qemu_with(qemu, job, kill, user, false)
}

/// The same with something else done by the user, as [`run_with`].
pub(super) fn run_on_qemu_with(
    qemu: &Qemu,
    job: &qemu::Job<'_>,
    kill: bool,
    user: UserTurn<'_>,
    bypass: bool,
) -> Result<Outcome, RunError> {
    let (machine, device_tree) = Machine::on_qemu(qemu, DiskContent::holding(job.input), job.seed)?;
    let job = Job {
        spec: machine.spec.clone(),
        device_tree: None,
        input: job.input,
        seed: job.seed,
        unsafe_interrupts: false,
        kill,
        sink: job.sink.clone(),
        tamper: job.tamper.clone(),
        progress: job.progress,
    };
    let (index, disk_name) = hand::choose(&job.spec)?;
    let witness = Arc::new(Witness::without_models(&disk_name, job.sink.clone()));
    Run { job: &job, machine: &machine, index, disk_name: &disk_name, witness: &witness, user, bypass }
        .prove(&device_tree)
}

/// The same with something else done by the user. With `bypass`, the kernel's devices may go around translation where hardware can.
pub(super) fn run_with(job: &Job<'_>, user: UserTurn<'_>, bypass: bool) -> Result<Outcome, RunError> {
    let device_tree = tables_of(&job.spec, job.device_tree.as_deref())?;
    let (index, disk_name) = hand::choose(&job.spec)?;
    let witness = Arc::new(Witness::new(&disk_name, job.sink.clone()));
    let sink: SharedSink = witness.clone();
    let mut contents = vec![DiskContent::Blank; index];
    contents.push(DiskContent::holding(job.input));
    let machine = Machine::with_disks(job.spec.clone(), contents, job.seed, &sink)?;
    Run { job, machine: &machine, index, disk_name: &disk_name, witness: &witness, user, bypass }
        .prove(&device_tree)
}

/// What the whole run is about.
pub(super) struct Run<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) machine: &'a Machine,
    /// The disk, by its place among the machine's.
    pub(super) index: usize,
    pub(super) disk_name: &'a str,
    pub(super) witness: &'a Arc<Witness>,
    user: UserTurn<'a>,
    bypass: bool,
}

/// What the process does once the group can be had, and what is tried meanwhile.
pub(super) type UserTurn<'a> = &'a dyn Fn(
    &Run<'_>,
    &System,
    &Arc<UserKernel>,
    &Place<LabPlatform>,
    &mut Watch<'_>,
) -> Result<Turn, RunError>;

/// What a user's turn gave.
pub(super) struct Turn {
    pub(super) told: Option<Told>,
    pub(super) counters: VfioCounters,
    pub(super) spapr: Option<SpaprCounters>,
    pub(super) elapsed_ns: u64,
}

impl Run<'_> {
    /// Does the work, and says what is known if it goes wrong.
    fn prove(&self, device_tree: &[u8]) -> Result<Outcome, RunError> {
        let sink: SharedSink = self.witness.clone();
        proved(self.work(device_tree, &sink), self.machine, self.witness)
    }

    /// Everything from boot to shutdown.
    fn work(&self, device_tree: &[u8], sink: &SharedSink) -> Result<(Arc<LabPlatform>, Outcome), RunError> {
        let request = BootRequest::new(self.machine, device_tree, sink.clone());
        let tamper = self.job.tamper.clone();
        let bypass = self.bypass;
        let mut system = System::boot(BootRequest { tamper, mode: FlushMode::Strict, bypass, ..request })?;
        let mut watch = Watch::new(self.machine, self.witness);
        let place = hand::check(&system, self.disk_name, self.job.unsafe_interrupts)?;
        let front = Front::of_disk(&self.job.spec, self.machine, self.index);
        watch.device(&system, &place.device, front);

        let kernels = KernelDisk::bind(&system, self.disk_name, self.machine.disks.get(self.index))?;
        let mut refused = held::by_the_kernel(&place, self.disk_name)?;
        refused += held::by_firmware(&system)?;
        self.read_in_kernel(&system, kernels, &mut watch)?;
        watch.probe_neighbours(&system);

        let Turn { told, mut counters, spapr, elapsed_ns } = self.hand_over(&system, &place, &mut watch)?;
        counters.claims_refused += refused;
        watch.call_disk(&system, self.disk_name)?;
        self.probe_everything(&system, &mut watch);
        watch.probe_unmapped(&system);
        watch.dismiss_disk(&system)?;

        let kernels = KernelDisk::bind(&system, self.disk_name, self.machine.disks.get(self.index))?;
        let again = self.read_in_kernel(&system, kernels, &mut watch)?;
        watch.probe_neighbours(&system);
        let platform = system.platform.clone();
        let mut outcome = Counters { vfio: Some(counters), spapr, ..Counters::default() };
        add_core_counters(&mut outcome, &system);
        if self.machine.qemu.is_some() {
            add_driver_counters(&mut outcome, self.witness, &system);
        }
        drop(place);
        system.detach()?;
        watch.probe_detached(&system);
        let Counters { probes, probes_blocked, .. } = watch.verdict()?;
        no_errors(&system)?;
        system.shut_down()?;
        add_model_counters(&mut outcome, self.machine, self.index, &platform);
        let counters = Counters { probes, probes_blocked, ..outcome };
        let digest = told.map_or(again, |told| told.digest);
        Ok((platform, Outcome { counters, digest, elapsed_ns }))
    }

    /// The kernel's driver reads everything, and is unbound. Answers the digest, which is the input's.
    fn read_in_kernel(
        &self,
        system: &System,
        kernels: KernelDisk,
        watch: &mut Watch<'_>,
    ) -> Result<String, RunError> {
        watch.touch_mapped(kernels.device())?;
        let read = kernels.read_all(self.job.input, &mut |_, _| {
            watch.service(system);
            watch.probe_unmapped(system);
        });
        let unbound = kernels.unbind(system);
        let read = read.and_then(|digest| unbound.map(|()| digest))?;
        watch.call_disk(system, self.disk_name)?;
        watch.probe_unmapped(system);
        watch.dismiss_disk(system)?;
        Ok(read)
    }

    /// The group goes to a process and comes back.
    fn hand_over(
        &self,
        system: &System,
        place: &Place<LabPlatform>,
        watch: &mut Watch<'_>,
    ) -> Result<Turn, RunError> {
        let kernel = UserKernel::new(system, self.job.seed).map_err(|error| {
            RunError::refused(
                &self.job.spec.name,
                format!("no processes: {error:?}"),
                "choose another machine",
            )
        })?;
        kernel.vfio().allow_unsafe_interrupts(self.job.unsafe_interrupts);
        self.bind_vfio(system, &kernel, place)?;
        let turn = (self.user)(self, system, &kernel, place, watch);
        // Also after a failure: what is bound is unbound, and what is left is told by it.
        let unbound = self.unbind_vfio(system, place);
        let turn = turn?;
        unbound?;
        held::nothing_kept(&kernel, self.disk_name)?;
        Ok(turn)
    }

    /// Unbinds `vfio-pci` from every device of the group that has it.
    pub(super) fn unbind_vfio(&self, system: &System, place: &Place<LabPlatform>) -> Result<(), RunError> {
        self.each_of_group(system, place).try_for_each(|name| {
            find(system, &name).and_then(|(_, endpoint)| match endpoint.binding.driver() {
                Some(driver) if driver.name == vfio::DRIVER => unbind(&endpoint.binding),
                _ => Ok(()),
            })
        })
    }

    /// Binds `vfio-pci` to every device of the group but bridges, whose drivers stand in nobody's way.
    pub(super) fn bind_vfio(
        &self,
        system: &System,
        kernel: &UserKernel,
        place: &Place<LabPlatform>,
    ) -> Result<(), RunError> {
        for name in self.each_of_group(system, place) {
            let at = find(system, &name)?;
            if at.1.binding.driver().is_none() {
                vfio::bind(system, kernel.vfio(), kernel.user_interrupts(), at)
                    .map_err(|error| not_bound(&name, vfio::DRIVER, error))?;
            }
        }
        Ok(())
    }

    pub(super) fn each_of_group(
        &self,
        system: &System,
        place: &Place<LabPlatform>,
    ) -> impl Iterator<Item = String> {
        let members = place.group.devices();
        let known = move |name: &String| members.iter().any(|member| member.name() == name);
        let names: Vec<String> = system.endpoints().map(|(_, endpoint)| endpoint.name.clone()).collect();
        names.into_iter().filter(known)
    }

    /// What the process does, and what is tried meanwhile.
    fn user_turn(
        &self,
        system: &System,
        kernel: &Arc<UserKernel>,
        place: &Place<LabPlatform>,
        watch: &mut Watch<'_>,
    ) -> Result<Turn, RunError> {
        let spawn = || kernel.spawn().map_err(|error| self.wrong(format!("no process: {error:?}")));
        let failed = |failed: Failed| self.wrong(format!("the driver in user space failed: {failed}"));
        let task = spawn()?;
        let group = place.group.id();
        let mut program = Program::join(&task, group).map_err(|error| self.not_joined(place, &error))?;
        watch.probe_blocked(system, [0, 0x5000, 0xffff_f000].into_iter());
        let mut refused = held::by_a_user(system, place)?;
        let other = spawn()?;
        Program::must_not_get(&other, group).map_err(failed)?;
        drop(other);
        refused += 1;
        program.set_iommu().map_err(failed)?;
        let maps_refused = program.try_forbidden().map_err(failed)?;
        watch.probe_unmapped(system);
        program.start(self.disk_name).map_err(failed)?;
        watch.touch_mapped(&place.device)?;
        refused += held::by_a_user(system, place)?;

        let start = Instant::now();
        let before = self.written();
        let told = if self.job.kill {
            self.read_and_die(&task, &mut program, watch, system).map(|()| None)
        } else {
            self.read(&mut program, watch, system, before).map(Some)
        };
        let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let told = told?;
        let user_bytes = self.written().zip(before).map_or(0, |(now, before)| now - before);
        if told.is_some() {
            watch.probe_unmapped(system);
            program.leave().map_err(failed)?;
        } else {
            drop(program);
        }
        drop(task);
        watch.probe_unmapped(system);
        let counters = VfioCounters {
            user_bytes,
            signals: told.as_ref().map_or(0, |told| told.signals),
            claims_refused: refused,
            maps_refused,
            ..self.counted(kernel, place, told.as_ref())
        };
        Ok(Turn { told, counters, spapr: None, elapsed_ns })
    }

    /// What kernel and witness counted of a user, and what he told at last.
    pub(super) fn counted(
        &self,
        kernel: &UserKernel,
        place: &Place<LabPlatform>,
        told: Option<&Told>,
    ) -> VfioCounters {
        let (maps, unmaps) = self.witness.users_maps();
        VfioCounters {
            group: place.group.id(),
            calls: kernel.calls(),
            ioctls: kernel.ioctls(),
            maps,
            unmaps,
            most_pinned_pages: kernel.ledger().most_pinned(),
            mapped_registers: told.is_some_and(|told| told.mapped_registers),
            killed: self.job.kill,
            ..VfioCounters::default()
        }
    }

    /// How many bytes the disk has written, if somebody counts.
    pub(super) fn written(&self) -> Option<u64> {
        self.machine.disks.get(self.index).map(|disk| disk.traffic().written_bytes)
    }

    /// Reads everything, and proves it.
    fn read(
        &self,
        program: &mut Program<'_>,
        watch: &mut Watch<'_>,
        system: &System,
        written_before: Option<u64>,
    ) -> Result<Told, RunError> {
        let failed = |failed: Failed| self.wrong(format!("the driver in user space failed: {failed}"));
        let total = self.job.input.measure().bytes;
        let mut done = 0;
        while done < total {
            program.submit(done, total).map_err(failed)?;
            done = program.collect().map_err(failed)?;
            watch.service(system);
            watch.probe_unmapped(system);
            if let Some(progress) = self.job.progress {
                progress(done, total);
            }
        }
        let through = self.written().zip(written_before).map(|(now, before)| now - before);
        let told = program.stop().map_err(failed)?;
        check_bytes(self.job.input, told.digest.clone(), through, told.block_bytes, told.commands)?;
        Ok(told)
    }

    /// The process is killed with commands in flight.
    fn read_and_die(
        &self,
        task: &Task,
        program: &mut Program<'_>,
        watch: &mut Watch<'_>,
        system: &System,
    ) -> Result<(), RunError> {
        let total = self.job.input.measure().bytes;
        let submitted = program.submit(0, total);
        submitted.map_err(|failed| self.wrong(format!("the driver in user space failed: {failed}")))?;
        watch.service(system);
        task.kill();
        Ok(())
    }

    /// The group is the kernel's again: whatever a user ever used is closed, and where doorbells were mapped for him too.
    fn probe_everything(&self, system: &System, watch: &mut Watch<'_>) {
        let ranges = self.witness.users_ranges();
        let mut pages: Vec<u64> = ranges.into_iter().flat_map(places).collect();
        // Where a user was again and again, one try is enough.
        pages.sort_unstable();
        pages.dedup();
        let doorbells = self.witness.users_doorbells();
        // What the kernel may go around translation with is closed with the disk's detachment alone.
        let around = |at: &u64| self.bypass && at & AROUND != 0;
        // Observed: QEMU 7.2, pnv_phb3_msi_read: where a PHB3 takes messages a read is answered with ones. A model refuses it.
        let answered = |at: &u64| self.machine.qemu.is_some() && at & MESSAGES != 0;
        // A PC's doorbells are no addresses that anything translates: what is written there is an interrupt, or is blocked as one.
        let decoded = |at: &u64| self.machine.spec.pc.is_some() && LocalApics::range().contains(Pa::new(*at));
        let tried = pages.into_iter().chain(doorbells);
        let tried = tried.filter(|at| !around(at) && !answered(at) && !decoded(at));
        watch.probe_addresses(system, "an address that a user had", tried);
    }

    /// Why a user did not get the group, with who is in the way.
    fn not_joined(&self, place: &Place<LabPlatform>, failed: &Failed) -> RunError {
        let users = place.group.ownership().kernel_users;
        let in_the_way: Vec<String> =
            users.iter().map(|user| format!("{} (driver {})", user.device, user.driver)).collect();
        let mut what = format!("the driver in user space failed: {failed}");
        if !in_the_way.is_empty() {
            what.push_str(&format!("; in the way: {}", in_the_way.join(", ")));
        }
        self.wrong(what)
    }

    pub(super) fn wrong(&self, what: String) -> RunError {
        RunError::wrong(self.disk_name, what, TRY_VERBOSE)
    }
}
