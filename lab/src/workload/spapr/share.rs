//! Another group of the bridge joins the container, reaches what is mapped, and leaves.

use model_bus::Outcome as Became;
use portcullis::core::bus::Place;
use portcullis::types::{Access, SourceId};

use super::super::disk::find;
use super::super::proof::Watch;
use super::program::{Program, WINDOW_BYTES};
use super::uapi::Shape;
use super::{Failed, Scene};
use crate::boot::Standing;
use crate::error::RunError;
use crate::platform::LabPlatform;

/// Another disk of the machine that is in a group, and its requester id. None if there is none.
pub(super) fn other(scene: &Scene<'_>) -> Result<Option<(Place<LabPlatform>, SourceId)>, RunError> {
    let (run, spec) = (scene.run, &scene.run.job.spec);
    let other = spec.disks().enumerate().find(|(index, _)| *index != run.index);
    let Some((_, disk)) = other else { return Ok(None) };
    let name = spec.device_name(&disk);
    let (_, endpoint) = find(scene.system, &name)?;
    let Standing::Behind { device, group } = &endpoint.standing else { return Ok(None) };
    let source = device.sources().first().copied();
    let source = source.ok_or_else(|| run.wrong(format!("{name} has no id")))?;
    Ok(Some((Place { device: device.clone(), group: group.clone() }, source)))
}

/// Answers how many groups shared the windows; one where the machine has no other disk.
pub(super) fn share(
    scene: &Scene<'_>,
    program: &mut Program<'_>,
    watch: &mut Watch<'_>,
) -> Result<u64, RunError> {
    let (run, system) = (scene.run, scene.system);
    let failed = |failed: Failed| run.wrong(format!("sharing windows: {failed}"));
    let Some((place, source)) = other(scene)? else { return Ok(1) };
    run.bind_vfio(system, scene.kernel, &place)?;

    let shape = Shape { page_shift: 16, bytes: WINDOW_BYTES, levels: 1 };
    let start = program.create(shape).map_err(failed)?.ok_or_else(|| run.wrong("no window".into()))?;
    let at = start + 0x30_0000;
    let mapped = program.map_marked(at, 0x1_0000, 0x5a).map_err(failed)?;
    mapped.map_err(|errno| failed(errno.on("mapping")))?;
    program.add(place.group.id()).map_err(failed)?;
    let ways = [scene.source, source].map(|source| scene.reaches(source, "a page of a shared window", at));
    let [Ok(one), Ok(other)] = ways else {
        return Err(run.wrong("a shared window leads one group nowhere".into()));
    };
    if one != other {
        return Err(run.wrong(format!("a shared window leads to {one:#x} and to {other:#x}")));
    }
    program.drop_last().map_err(failed)?;
    // The kernel's window is open to it again, in which nothing is mapped.
    watch.probe_neighbours(system);
    if scene.access(source, at, Access::READ)?.0 == Became::Done {
        return Err(run.wrong(format!("a group that has left reaches {at:#x} of the windows")));
    }
    watch.note_refused(system, 1, 0);
    watch.probe_neighbours(system);
    scene.reaches(scene.source, "a page of a window that another group has left", at)?;
    program.unmap(at, 0x1_0000).map_err(failed)?;
    watch.probe_unmapped(system);
    program.remove(start).map_err(failed)?;
    run.unbind_vfio(system, &place)?;
    Ok(2)
}
