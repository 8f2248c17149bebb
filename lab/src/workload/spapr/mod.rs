//! `spapr`: a disk is handed to a driver in user space that makes its own DMA windows, and back.
//!
//! Everything is as in `vfio` but for what the user does (`program`): his container is a spapr_tce one of version 2. He cancels the default window, registers
//! memory, makes windows with every page size and number of levels that there is (`sweep`), has another group share them (`share`), reads the input through two of
//! them, once for each page size or by those that [`Windows`] names (`reading`), and removes them. It is proved that
//!
//! - each mapped page is reached through each window, and leads to the user's bytes;
//! - what is unmapped, outside of a window, or in a window that was removed, freezes the endpoint, and no byte moves;
//! - an endpoint that was stopped is reset and set up again, and its old window works (`freeze`);
//! - one level too many is refused as impossible (EINVAL), and so is all else that must be;
//! - a second group reaches what is mapped when it joins, and nothing when it has left, while the first still does;
//! - the kernel's way around translation works before, not while the user has the group, and again afterwards, as does the kernel's window: it reads the disk.
//!
//! With a container of version 1 there is the default window alone (`version1`). A user who is killed has the disk at work and everything mapped.
//!
//! On QEMU's PHB3 the disk itself asks (`by_disk`). There are no freezes there, and no second disk to share windows with.
//!
//! Not here: what is the same for every user of a group (`vfio`).

mod by_disk;
mod freeze;
mod program;
mod reading;
mod share;
mod sweep;
mod uapi;
mod version1;

use std::sync::Arc;

use model_bus::{Outcome as Became, Request};
use portcullis::core::bus::Place;
use portcullis::types::{Access, Iova, SourceId};
use portcullis_qemu::Qemu;

use self::program::{Program, SECOND, WINDOW_BYTES};
use self::reading::Reading;
use self::uapi::Shape;
use super::front::Front;
use super::proof::Watch;
use super::vfio::program::sys::Failed;
use super::vfio::program::uapi::SPAPR_TCE_V2;
use super::vfio::{Job, Outcome, Run, Turn, held, run_on_qemu_with, run_with};
use crate::boot::System;
use crate::error::RunError;
use crate::machine::qemu;
use crate::platform::LabPlatform;
use crate::report::{SpaprCounters, VfioCounters};
use crate::vfio::UserKernel;

/// The workload's name.
pub const NAME: &str = "spapr";

/// The machine of a run that names none.
pub const MACHINE: &str = "power8";

/// The page sizes of windows, as log2.
pub const PAGE_SHIFTS: [u32; 3] = [12, 16, 24];

/// What windows the input is read through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// log2 of their page size; none for each of [`PAGE_SHIFTS`], one after the other.
    pub page_shift: Option<u32>,
    /// The levels of their tables; none for the most that can be.
    pub levels: Option<u32>,
    /// Whether the container is of version 1. Then there is the default window alone, and nothing else to choose.
    pub version1: bool,
}

/// Does it.
///
/// # Errors
///
/// As [`RunError`] says. An outcome is always a verified one.
pub fn run(job: &Job<'_>, windows: Windows) -> Result<Outcome, RunError> {
    if job.spec.phb3s().next().is_none() {
        let hint = "choose the machine power8: it has windows that users make";
        return Err(RunError::refused(&job.spec.name, "it has no PHB3", hint));
    }
    if windows.version1 {
        return run_with(job, &version1::turn, true);
    }
    run_with(job, &|run, system, kernel, place, watch| turn(windows, run, system, kernel, place, watch), true)
}

/// The same on QEMU's PHB3. What that cannot show is said in [`qemu::NOT_SHOWN`] and [`qemu::NOT_SHOWN_OF_PHB3`].
///
/// # Errors
///
/// As [`RunError`] says.
pub fn run_on_qemu(
    qemu: &Qemu,
    job: &qemu::Job<'_>,
    windows: Windows,
    kill: bool,
) -> Result<Outcome, RunError> {
    if windows.version1 {
        let what = "version 1's one window is tried by the model, which QEMU's hardware is not";
        return Err(RunError::refused(NAME, what, "leave out `--v1`, or `--on qemu`"));
    }
    run_on_qemu_with(
        qemu,
        job,
        kill,
        &|run, system, kernel, place, watch| turn(windows, run, system, kernel, place, watch),
        true,
    )
}

/// What a user's turn is about.
struct Scene<'a> {
    run: &'a Run<'a>,
    system: &'a System,
    kernel: &'a Arc<UserKernel>,
    place: &'a Place<LabPlatform>,
    /// The model in front of the disk; none on QEMU.
    front: Option<Front>,
    source: SourceId,
}

impl<'a> Scene<'a> {
    fn new(
        run: &'a Run<'a>,
        system: &'a System,
        kernel: &'a Arc<UserKernel>,
        place: &'a Place<LabPlatform>,
    ) -> Result<Self, RunError> {
        let front = Front::of_disk(&run.job.spec, run.machine, run.index);
        let source = place.device.sources().first().copied();
        let source = source.ok_or_else(|| run.wrong("it has no requester id".into()))?;
        Ok(Self { run, system, kernel, place, front, source })
    }

    fn failed(&self, failed: &Failed) -> RunError {
        self.run.wrong(format!("the driver in user space failed: {failed}"))
    }

    fn access(&self, source: SourceId, at: u64, access: Access) -> Result<(Became, u64), RunError> {
        let request = Request { source, pasid: None, iova: Iova::new(at), len_bytes: 1, access };
        let front = self.front.as_ref().ok_or_else(|| self.run.wrong("no model is in front of it".into()))?;
        Ok(self.run.witness.expecting(|| front.access(&request)))
    }

    /// An access must lead to memory. Answers where.
    fn reaches(&self, source: SourceId, what: &str, at: u64) -> Result<u64, RunError> {
        let (read, to) = self.access(source, at, Access::READ)?;
        let (write, _) = self.access(source, at, Access::WRITE)?;
        match (read, write) {
            (Became::Done, Became::Done) => Ok(to),
            other => Err(self.run.wrong(format!("{what}, {at:#x}, is not reached: {other:?}"))),
        }
    }

    /// An address with which the kernel goes around translation.
    fn around(&self) -> u64 {
        SECOND | self.run.job.spec.ram.first().get()
    }

    /// Window 1 without translation leads to the memory of the same address.
    fn bypass(&self, watch: &Watch<'_>) -> Result<(), RunError> {
        if let Some(disk) = watch.lone_disk() {
            return by_disk::bypass(self, &disk);
        }
        let at = self.run.job.spec.ram.first().get();
        match self.reaches(self.source, "the way around translation", self.around())? {
            to if to == at => Ok(()),
            to => Err(self.run.wrong(format!("the way around translation leads from {at:#x} to {to:#x}"))),
        }
    }

    /// What the turn gave.
    fn turn(&self, reading: Reading, spapr: SpaprCounters, refused: u64, maps_refused: u64) -> Turn {
        let counted = self.run.machine.phbs.iter().map(|phb| phb.counters());
        let (kills, freezes) =
            counted.fold((0, 0), |(kills, freezes), one| (kills + one.kills(), freezes + one.freezes));
        let counters = VfioCounters {
            user_bytes: reading.bytes,
            signals: reading.signals,
            claims_refused: refused,
            maps_refused,
            ..self.run.counted(self.kernel, self.place, reading.told.as_ref())
        };
        let (reads, read_page_sizes) = (reading.times, reading.page_sizes);
        let spapr = SpaprCounters { reads, read_page_sizes, kills, freezes, ..spapr };
        Turn { told: reading.told, counters, spapr: Some(spapr), elapsed_ns: reading.elapsed_ns }
    }
}

fn turn(
    windows: Windows,
    run: &Run<'_>,
    system: &System,
    kernel: &Arc<UserKernel>,
    place: &Place<LabPlatform>,
    watch: &mut Watch<'_>,
) -> Result<Turn, RunError> {
    let scene = Scene::new(run, system, kernel, place)?;
    let failed = |failed: Failed| scene.failed(&failed);
    let shapes = shapes(run, windows);
    scene.bypass(watch)?;
    let task = kernel.spawn().map_err(|error| run.wrong(format!("no process: {error:?}")))?;
    let mut program = Program::join(&task, place.group.id(), SPAPR_TCE_V2).map_err(failed)?;
    watch.probe_blocked(system, [0, 0x5000, scene.around()].into_iter());
    let mut refused = held::by_a_user(system, place)?;
    let info = program.set_iommu().map_err(failed)?;
    watch.probe_addresses(system, "an address before there was a window", [0, scene.around()].into_iter());
    let mut maps_refused = program.register(1 << run.job.spec.page.get()).map_err(failed)?;

    shapes.iter().try_for_each(|&(queues, _)| can_be(&scene, &mut program, queues))?;

    let mut counters = SpaprCounters { version: 2, groups: 1, ..SpaprCounters::default() };
    if !run.job.kill {
        sweep::all(&scene, &mut program, watch, info, &mut counters)?;
        counters.groups = share::share(&scene, &mut program, watch)?;
        if scene.front.is_some() {
            counters.resets = freeze::recover(&scene, &mut program, watch)?;
        }
    }
    let mut reading = Reading::new(shapes.len());
    for (queues, data) in shapes {
        maps_refused += program.start(run.disk_name, queues, data).map_err(failed)?;
        refused += held::by_a_user(system, place)?;
        watch.touch_mapped(&place.device)?;
        if run.job.kill {
            reading.begin_and_die(&scene, &mut program, &task, watch)?;
            break;
        }
        reading.read(&scene, &mut program, watch, queues.page_shift)?;
        watch.probe_unmapped(system);
        let gone = [0, scene.around()].into_iter();
        watch.probe_addresses(system, "an address of a window that is gone", gone);
    }
    counters.windows = program.windows;
    if !run.job.kill {
        program.leave().map_err(failed)?;
    }
    drop(task);
    watch.probe_unmapped_but(system, SECOND);
    scene.bypass(watch)?;
    Ok(scene.turn(reading, counters, refused, maps_refused))
}

/// That there can be such a window at all; who asked for it is told.
fn can_be(scene: &Scene<'_>, program: &mut Program<'_>, shape: Shape) -> Result<(), RunError> {
    let failed = |failed: Failed| scene.failed(&failed);
    if let Some(start) = program.create(shape).map_err(failed)? {
        return program.remove(start).map_err(failed);
    }
    let Shape { page_shift, levels, .. } = shape;
    let what = format!(
        "a window of 1 GiB in pages of {} by {levels} levels is refused (EINVAL): there is no such table",
        sweep::page_name(page_shift)
    );
    Err(RunError::refused(&scene.run.job.spec.name, what, "choose other --levels: 1 always can be"))
}

/// The windows to read through, two at a time: for the disk's queues and for data. Of a user who is killed the two are of different kinds.
fn shapes(run: &Run<'_>, windows: Windows) -> Vec<(Shape, Shape)> {
    let cpu_page = u32::from(run.job.spec.page.get());
    let shape = |page_shift: u32| {
        let of = |levels| Shape { page_shift, bytes: WINDOW_BYTES, levels };
        let most = (1..=sweep::TRIED_LEVELS).rev().find(|&levels| sweep::possible(of(levels), cpu_page));
        let most = most.unwrap_or(0);
        of(windows.levels.unwrap_or(most))
    };
    let pages = windows.page_shift.map_or(PAGE_SHIFTS.to_vec(), |page| vec![page]);
    let each: Vec<Shape> = pages.into_iter().map(shape).collect();
    match (run.job.kill, each.first(), each.last()) {
        (true, Some(&first), Some(&last)) => vec![(first, last)],
        _ => each.into_iter().map(|shape| (shape, shape)).collect(),
    }
}
