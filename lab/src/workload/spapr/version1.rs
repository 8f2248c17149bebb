//! A container of version 1: the default window is all there is, and is paid for as a whole before anything is mapped.
//!
//! A user who may not lock that much is refused. One who may reads the input through pages of 4 KiB, and leaves with a page mapped, which is none any more as
//! soon as he disables the container.

use std::sync::Arc;

use portcullis::core::bus::Place;

use super::super::proof::Watch;
use super::super::vfio::program::sys::Errno;
use super::super::vfio::program::uapi::SPAPR_TCE;
use super::super::vfio::{Run, Turn, held};
use super::program::{Program, SECOND, wanted};
use super::reading::Reading;
use super::share::other;
use super::{Failed, Scene};
use crate::boot::System;
use crate::error::RunError;
use crate::platform::LabPlatform;
use crate::report::SpaprCounters;
use crate::vfio::UserKernel;

/// More than the window and its table, and all that else is mapped.
const LOCK_LIMIT_BYTES: u64 = 3 << 30;
/// log2 of the default window's pages.
const PAGE_SHIFT: u32 = 12;
/// A page in the middle of the window.
const AT: u64 = 0x4000_0000;

pub(super) fn turn(
    run: &Run<'_>,
    system: &System,
    kernel: &Arc<UserKernel>,
    place: &Place<LabPlatform>,
    watch: &mut Watch<'_>,
) -> Result<Turn, RunError> {
    let scene = Scene::new(run, system, kernel, place)?;
    let failed = |failed: Failed| scene.failed(&failed);
    let no_process = |error| run.wrong(format!("no process: {error:?}"));
    scene.bypass(watch)?;

    let poor = kernel.spawn().map_err(no_process)?;
    let mut program = Program::join(&poor, place.group.id(), SPAPR_TCE).map_err(failed)?;
    program.set_iommu().map_err(failed)?;
    wanted("more than may be locked", program.enable(), Errno::ENOMEM).map_err(failed)?;
    program.leave().map_err(failed)?;
    drop(poor);
    scene.bypass(watch)?;

    let task = kernel.spawn_locking(LOCK_LIMIT_BYTES).map_err(no_process)?;
    let mut program = Program::join(&task, place.group.id(), SPAPR_TCE).map_err(failed)?;
    watch.probe_blocked(system, [0, 0x5000, scene.around()].into_iter());
    let mut refused = held::by_a_user(system, place)?;
    program.set_iommu().map_err(failed)?;
    alone(&scene, &mut program)?;
    let mut maps_refused = 1 + program.try_forbidden_v1().map_err(failed)?;
    let pages = [0, AT, scene.around()];
    watch.probe_addresses(system, "an address before anything was mapped", pages.into_iter());

    maps_refused += program.start_v1(run.disk_name, 1 << PAGE_SHIFT).map_err(failed)?;
    refused += held::by_a_user(system, place)?;
    watch.touch_mapped(&place.device)?;
    let mut reading = Reading::new(1);
    if run.job.kill {
        reading.begin_and_die(&scene, &mut program, &task, watch)?;
    } else {
        reading.read(&scene, &mut program, watch, PAGE_SHIFT)?;
        watch.probe_unmapped(system);
        let page = 1 << PAGE_SHIFT;
        let mapped = program.map_marked(AT, page, 7).map_err(failed)?;
        mapped.map_err(|errno| failed(errno.on("mapping")))?;
        scene.reaches(scene.source, "a mapped page", AT)?;
        program.disable().map_err(failed)?;
        watch.probe_addresses(system, "an address of a container that was disabled", pages.into_iter());
        program.leave().map_err(failed)?;
    }
    drop(task);
    watch.probe_unmapped_but(system, SECOND);
    scene.bypass(watch)?;
    let counters = SpaprCounters { version: 1, windows: 1, shapes: 1, groups: 1, ..SpaprCounters::default() };
    Ok(scene.turn(reading, counters, refused, maps_refused))
}

/// No other group can join.
fn alone(scene: &Scene<'_>, program: &mut Program<'_>) -> Result<(), RunError> {
    let Some((place, _)) = other(scene)? else { return Ok(()) };
    scene.run.bind_vfio(scene.system, scene.kernel, &place)?;
    let joined = program.must_not_add(place.group.id());
    joined.map_err(|failed| scene.failed(&failed))?;
    scene.run.unbind_vfio(scene.system, &place)
}
