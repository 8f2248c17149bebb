//! Windows of every page size and with every number of levels, one after the other: made, used, unmapped, removed.
//!
//! A page as large as the window's is mapped at both ends of each window. Memory in smaller pieces than that is refused.

use portcullis::hal::DmaMemory;
use portcullis::types::{Access, Pa};

use super::super::proof::Watch;
use super::program::{Program, WINDOW_BYTES};
use super::uapi::{Info, Shape};
use super::{Became, Failed, PAGE_SHIFTS, Scene, by_disk};
use crate::error::RunError;
use crate::report::SpaprCounters;

/// More levels than these no hardware has.
pub(super) const TRIED_LEVELS: u32 = 7;

/// Whether there can be such a table: what a walk resolves has fewer than 55 bits, and there are 5 levels at most.
///
/// Observed: Linux 4.20, `pnv_pci_ioda2_table_alloc_pages`.
pub(super) fn possible(shape: Shape, cpu_page_shift: u32) -> bool {
    let entries = shape.bytes.trailing_zeros() - shape.page_shift;
    let level = (entries.div_ceil(shape.levels) + 3).max(cpu_page_shift);
    shape.levels <= 5 && (level - 3) * shape.levels + shape.page_shift < 55
}

/// A page size as people write it.
pub(super) fn page_name(shift: u32) -> String {
    if shift < 20 { format!("{} KiB", 1 << (shift - 10)) } else { format!("{} MiB", 1 << (shift - 20)) }
}

/// All of them.
pub(super) fn all(
    scene: &Scene<'_>,
    program: &mut Program<'_>,
    watch: &mut Watch<'_>,
    info: Info,
    counters: &mut SpaprCounters,
) -> Result<(), RunError> {
    let cpu_page = u32::from(scene.run.job.spec.page.get());
    for page_shift in PAGE_SHIFTS {
        if info.page_sizes >> page_shift & 1 == 0 {
            return Err(scene.run.wrong(format!("no pages of 2^{page_shift} bytes in {info:?}")));
        }
        let mut was_possible = true;
        for levels in 1..=TRIED_LEVELS {
            let shape = Shape { page_shift, bytes: WINDOW_BYTES, levels };
            let made = program.create(shape).map_err(|failed| trouble(scene, shape, &failed))?;
            match (made, possible(shape, cpu_page)) {
                (Some(start), true) => {
                    one(scene, program, watch, shape, start)?;
                    counters.shapes += 1;
                    counters.reached += 2;
                }
                (None, false) => counters.levels_refused += u64::from(was_possible),
                (made, _) => {
                    return Err(scene.run.wrong(format!("a window of {shape:?} is answered {made:?}")));
                }
            }
            was_possible = possible(shape, cpu_page);
        }
    }
    Ok(())
}

fn trouble(scene: &Scene<'_>, shape: Shape, failed: &Failed) -> RunError {
    scene.run.wrong(format!("a window of {shape:?}: {failed}"))
}

fn one(
    scene: &Scene<'_>,
    program: &Program<'_>,
    watch: &mut Watch<'_>,
    shape: Shape,
    start: u64,
) -> Result<(), RunError> {
    let failed = |failed: Failed| trouble(scene, shape, &failed);
    let (page, system) = (1 << shape.page_shift, scene.system);
    // Where nobody but the disk can ask the bridge.
    let disk = watch.lone_disk();
    let ends = [start, start + shape.bytes - page];
    let inside = [start, start + shape.bytes - page, start + shape.bytes - 1];
    watch.probe_addresses(system, "an address of an empty window", inside.into_iter());
    if page > 1 << scene.run.job.spec.page.get() {
        program.must_not_map_small(start, page).map_err(failed)?;
    }
    for (mark, at) in (1..).zip(ends) {
        let mapped = program.map_marked(at, page, mark).map_err(failed)?;
        mapped.map_err(|errno| failed(errno.on("mapping")))?;
        match &disk {
            Some(disk) => by_disk::leads_to_user(scene, program, disk, shape, at, mark)?,
            None => leads_to_user(scene, shape, at, mark)?,
        }
    }
    match &disk {
        Some(_) => {
            let beside = [start + page, start + shape.bytes - page - 1];
            watch.probe_addresses(system, "an address beside what is mapped", beside.into_iter());
        }
        None => outside(scene, program, watch, shape, start)?,
    }
    ends.into_iter().try_for_each(|at| program.unmap(at, page)).map_err(failed)?;
    watch.probe_unmapped(system);
    watch.probe_addresses(system, "an address that was unmapped", inside.into_iter());
    program.remove(start).map_err(failed)?;
    watch.probe_addresses(system, "an address of a window that is gone", inside.into_iter());
    Ok(())
}

/// A page of the user's, all of which was marked, is reached, and no other.
fn leads_to_user(scene: &Scene<'_>, shape: Shape, at: u64, mark: u8) -> Result<(), RunError> {
    let page = 1 << shape.page_shift;
    let to = scene.reaches(scene.source, "a mapped page", at)?;
    let mut found = [0];
    DmaMemory::read(&*scene.system.platform, Pa::new(to), &mut found);
    if found != [mark] {
        let what = format!("{at:#x} of {shape:?} leads to {to:#x}, which is not the user's");
        return Err(scene.run.wrong(what));
    }
    let last = scene.reaches(scene.source, "the last byte of a page", at + page - 1)?;
    if last != to + (page - 1) {
        return Err(scene.run.wrong(format!("a page of {shape:?} leads to {to:#x} and {last:#x}")));
    }
    Ok(())
}

/// Out of the window, with pages mapped: the endpoint freezes, as its user can see and undo.
fn outside(
    scene: &Scene<'_>,
    program: &Program<'_>,
    watch: &mut Watch<'_>,
    shape: Shape,
    start: u64,
) -> Result<(), RunError> {
    let failed = |failed: Failed| trouble(scene, shape, &failed);
    let (outside, _) = scene.access(scene.source, start + shape.bytes, Access::WRITE)?;
    let state = program.state().map_err(failed)?;
    if outside == Became::Done || state == 0 {
        let what = format!("an access outside of {shape:?}: {outside:?}, state {state}");
        return Err(scene.run.wrong(what));
    }
    let (frozen, _) = scene.access(scene.source, start, Access::READ)?;
    if frozen == Became::Done {
        return Err(scene.run.wrong("a frozen endpoint reaches memory".into()));
    }
    watch.note_refused(scene.system, 1, 1);
    program.thaw().map_err(failed)?;
    if program.state().map_err(failed)? != 0 {
        return Err(scene.run.wrong("an endpoint stays frozen".into()));
    }
    scene.reaches(scene.source, "a mapped page, unfrozen", start).map(drop)
}
