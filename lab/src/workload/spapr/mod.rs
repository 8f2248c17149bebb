//! `spapr`: a disk is handed to a driver in user space that makes its own DMA windows, and back.
//!
//! Everything is as in `vfio` but for what the user does (`program`): his container is a spapr_tce one of version 2. He cancels the default window, registers
//! memory, makes windows with every page size and number of levels that there is (`sweep`), has another group share them, reads the input through two of them, and
//! removes them. It is proved that
//!
//! - each mapped page is reached through each window, and leads to the user's bytes;
//! - what is unmapped, outside of a window, or in a window that was removed, freezes the endpoint, and no byte moves;
//! - one level too many is refused as impossible (EINVAL), and so is all else that must be;
//! - a second group reaches what is mapped when it joins, and nothing when it has left, while the first still does;
//! - the kernel's way around translation works before, not while the user has the group, and again afterwards, as does the kernel's window: it reads the disk.
//!
//! Not here: what is the same for every user of a group (`vfio`).

mod program;
mod sweep;
mod uapi;

use std::sync::Arc;
use std::time::Instant;

use model_bus::{Outcome as Became, Request};
use portcullis::core::bus::Place;
use portcullis::types::{Access, Iova, SourceId};

use self::program::{Program, SECOND, WINDOW_BYTES};
use self::uapi::Shape;
use super::disk::{check_bytes, find};
use super::front::Front;
use super::proof::Watch;
use super::vfio::program::sys::Failed;
use super::vfio::{Job, Outcome, Run, Turn, held, run_with};
use crate::boot::{Standing, System};
use crate::error::RunError;
use crate::platform::LabPlatform;
use crate::report::VfioCounters;
use crate::vfio::UserKernel;

/// The workload's name.
pub const NAME: &str = "spapr";

/// The machine of a run that names none.
pub const MACHINE: &str = "power8";

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says. An outcome is always a verified one.
pub fn run(job: &Job<'_>) -> Result<Outcome, RunError> {
    if job.spec.phb3s().next().is_none() {
        let hint = "choose the machine power8: it has windows that users make";
        return Err(RunError::refused(&job.spec.name, "it has no PHB3", hint));
    }
    run_with(job, turn, true)
}

/// The disk's way to memory, for tries.
struct Tries<'a> {
    run: &'a Run<'a>,
    front: Front,
    source: SourceId,
}

impl Tries<'_> {
    fn access(&self, source: SourceId, at: u64, access: Access) -> (Became, u64) {
        let request = Request { source, pasid: None, iova: Iova::new(at), len_bytes: 1, access };
        self.run.witness.expecting(|| self.front.access(&request))
    }

    /// An access must lead to memory. Answers where.
    fn reaches(&self, source: SourceId, what: &str, at: u64) -> Result<u64, RunError> {
        let [(read, to), (write, _)] =
            [Access::READ, Access::WRITE].map(|access| self.access(source, at, access));
        match (read, write) {
            (Became::Done, Became::Done) => Ok(to),
            other => Err(self.run.wrong(format!("{what}, {at:#x}, is not reached: {other:?}"))),
        }
    }

    /// Window 1 without translation leads to the memory of the same address.
    fn bypass(&self) -> Result<(), RunError> {
        let at = self.run.job.spec.ram.first().get();
        match self.reaches(self.source, "the way around translation", SECOND | at)? {
            to if to == at => Ok(()),
            to => Err(self.run.wrong(format!("the way around translation leads from {at:#x} to {to:#x}"))),
        }
    }
}

fn turn(
    run: &Run<'_>,
    system: &System,
    kernel: &Arc<UserKernel>,
    place: &Place<LabPlatform>,
    watch: &mut Watch<'_>,
) -> Result<Turn, RunError> {
    let failed = |failed: Failed| run.wrong(format!("the driver in user space failed: {failed}"));
    let front = Front::of_disk(&run.job.spec, run.machine, run.index);
    let front = front.ok_or_else(|| run.wrong("no IOMMU is in front of it".into()))?;
    let source = place.device.sources().first().copied();
    let source = source.ok_or_else(|| run.wrong("it has no requester id".into()))?;
    let tries = Tries { run, front, source };
    let around = SECOND | run.job.spec.ram.first().get();
    tries.bypass()?;

    let task = kernel.spawn().map_err(|error| run.wrong(format!("no process: {error:?}")))?;
    let group = place.group.id();
    let mut program = Program::join(&task, group).map_err(failed)?;
    watch.probe_blocked(system, [0, 0x5000, around].into_iter());
    let mut refused = held::by_a_user(system, place)?;
    let info = program.set_iommu().map_err(failed)?;
    watch.probe_addresses(system, "an address before there was a window", [0, around].into_iter());
    let maps_refused = program.register().map_err(failed)?;

    let mut counters = sweep::all(&tries, system, &mut program, watch, info)?;
    counters.groups = share(&tries, system, kernel, &mut program, watch)?;

    let queues = Shape { page_shift: 16, bytes: WINDOW_BYTES, levels: 2 };
    let data = Shape { page_shift: 12, bytes: WINDOW_BYTES, levels: 3 };
    let more = program.start(run.disk_name, queues, data).map_err(failed)?;
    refused += held::by_a_user(system, place)?;
    watch.touch_mapped(&place.device)?;
    let start = Instant::now();
    let traffic = || run.machine.disks[run.index].traffic().written_bytes;
    let before = traffic();
    let (mut done, total) = (0, run.job.input.measure().bytes);
    while done < total {
        done = program.read_on(done, total).map_err(failed)?;
        watch.service(system);
        if let Some(progress) = run.job.progress {
            progress(done, total);
        }
    }
    let through = traffic() - before;
    let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let told = program.stop().map_err(failed)?;
    check_bytes(run.job.input, told.digest.clone(), through, told.block_bytes, told.commands)?;
    watch.probe_unmapped(system);
    watch.probe_addresses(system, "an address of a window that is gone", [0, around].into_iter());
    counters.windows = program.windows;
    program.leave().map_err(failed)?;
    drop(task);
    tries.bypass()?;

    let counted = run.machine.phbs.iter().map(|phb| phb.counters());
    (counters.kills, counters.freezes) =
        counted.fold((0, 0), |(kills, freezes), one| (kills + one.kills(), freezes + one.freezes));
    let (maps, unmaps) = run.witness.users_maps();
    let vfio = VfioCounters {
        group,
        calls: kernel.calls(),
        ioctls: kernel.ioctls(),
        maps,
        unmaps,
        most_pinned_pages: kernel.ledger().most_pinned(),
        user_bytes: through,
        signals: told.signals,
        mapped_registers: told.mapped_registers,
        claims_refused: refused,
        maps_refused: maps_refused + more,
        killed: false,
    };
    Ok(Turn { told: Some(told), counters: vfio, spapr: Some(counters), elapsed_ns })
}

/// Another group of the bridge joins and leaves. Answers how many shared the windows; one where the machine has no other disk.
fn share(
    tries: &Tries<'_>,
    system: &System,
    kernel: &Arc<UserKernel>,
    program: &mut Program<'_>,
    watch: &mut Watch<'_>,
) -> Result<u64, RunError> {
    let run = tries.run;
    let failed = |failed: Failed| run.wrong(format!("sharing windows: {failed}"));
    let spec = &run.job.spec;
    let other = spec.disks().enumerate().find(|(index, _)| *index != run.index);
    let Some((_, (bridge, slot))) = other else { return Ok(1) };
    let name = spec.device_name(bridge, slot);
    let (_, endpoint) = find(system, &name)?;
    let Standing::Behind { device, group } = &endpoint.standing else { return Ok(1) };
    let place = Place { device: device.clone(), group: group.clone() };
    let source = device.sources().first().copied().ok_or_else(|| run.wrong(format!("{name} has no id")))?;
    run.bind_vfio(system, kernel, &place)?;

    let shape = Shape { page_shift: 16, bytes: WINDOW_BYTES, levels: 1 };
    let start = program.create(shape).map_err(failed)?.ok_or_else(|| run.wrong("no window".into()))?;
    let at = start + 0x30_0000;
    let mapped = program.map_marked(at, 0x1_0000, 0x5a).map_err(failed)?;
    mapped.map_err(|errno| failed(errno.on("mapping")))?;
    program.add(group.id()).map_err(failed)?;
    let ways = [tries.source, source].map(|source| tries.reaches(source, "a page of a shared window", at));
    let [Ok(one), Ok(other)] = ways else {
        return Err(run.wrong("a shared window leads one group nowhere".into()));
    };
    if one != other {
        return Err(run.wrong(format!("a shared window leads to {one:#x} and to {other:#x}")));
    }
    program.drop_last().map_err(failed)?;
    // The kernel's window is open to it again, in which nothing is mapped.
    watch.probe_neighbours(system);
    if tries.access(source, at, Access::READ).0 == Became::Done {
        return Err(run.wrong(format!("a group that has left reaches {at:#x} of the windows")));
    }
    watch.note_refused(system, 1, 0);
    watch.probe_neighbours(system);
    tries.reaches(tries.source, "a page of a window that another group has left", at)?;
    program.unmap(at, 0x1_0000).map_err(failed)?;
    watch.probe_unmapped(system);
    program.remove(start).map_err(failed)?;
    run.unbind_vfio(system, &place)?;
    Ok(2)
}
