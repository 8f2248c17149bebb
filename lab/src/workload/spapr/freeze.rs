//! A user whose endpoint stopped: he sees it, resets his device, sets it up again, and goes on in his old window.
//!
//! Once he has the error made on purpose, in a read by the device of his own mapped page; once the device reaches outside of his window by itself. The neighbour in another group
//! sees nothing of either.
//!
//! Not here: unfreezing without a reset (`sweep`).

use model_bus::Outcome as Became;
use portcullis::types::Access;

use super::program::{Program, WINDOW_BYTES};
use super::uapi::{Shape, eeh};
use super::{Failed, Scene};
use crate::error::RunError;
use crate::workload::proof::Watch;

/// Observed: Linux 7.3, include/uapi/linux/vfio.h, `VFIO_EEH_PE_STATE_…`.
const NORMAL: u64 = 0;
const RESET: u64 = 1;
const STOPPED: u64 = 2;
/// Observed: Linux 7.3, include/uapi/asm/eeh.h, `EEH_ERR_FUNC_DMA_RD_ADDR`.
const DMA_READ: u32 = 12;

/// Does it, in a window that is gone afterwards. Answers how many resets there were: none where nothing can reset this endpoint alone.
pub(super) fn recover(
    scene: &Scene<'_>,
    program: &mut Program<'_>,
    watch: &mut Watch<'_>,
) -> Result<u64, RunError> {
    let (run, system) = (scene.run, scene.system);
    let failed = |failed: Failed| run.wrong(format!("recovering from a stop: {failed}"));
    let shape = Shape { page_shift: 16, bytes: WINDOW_BYTES, levels: 1 };
    let start = program.create(shape).map_err(failed)?.ok_or_else(|| run.wrong("no window".into()))?;
    let at = start + 0x40_0000;
    let mapped = program.map_marked(at, 0x1_0000, 0x3c).map_err(failed)?;
    mapped.map_err(|errno| failed(errno.on("mapping")))?;
    let to = scene.reaches(scene.source, "a page before the stop", at)?;

    let mut resets = 0;
    program.inject(DMA_READ, at, !0xffff).map_err(failed)?;
    for (reset, trespass) in [(eeh::RESET_HOT, at), (eeh::RESET_FUNDAMENTAL, start + WINDOW_BYTES)] {
        let (became, _) = scene.access(scene.source, trespass, Access::READ)?;
        if became == Became::Done {
            return Err(
                run.wrong(format!("an access that is to stop the endpoint, {trespass:#x}: {became:?}"))
            );
        }
        watch.note_refused(system, 1, 0);
        is_in(scene, program, STOPPED)?;
        if !program.reset(reset).map_err(failed)? {
            // No bridge leads to this endpoint alone: it is unfrozen as it is.
            program.thaw().map_err(failed)?;
            scene.reaches(scene.source, "a page after a stop", at)?;
            continue;
        }
        resets += 1;
        is_in(scene, program, RESET)?;
        if scene.access(scene.source, at, Access::READ)?.0 == Became::Done {
            return Err(run.wrong("a device in reset reaches memory".into()));
        }
        program.eeh(eeh::RESET_DEACTIVATE).map_err(failed)?;
        program.eeh(eeh::CONFIGURE).map_err(failed)?;
        is_in(scene, program, NORMAL)?;
        if scene.reaches(scene.source, "a page after a reset", at)? != to {
            return Err(run.wrong("a window leads elsewhere after a reset".into()));
        }
    }
    program.unmap(at, 0x1_0000).map_err(failed)?;
    watch.probe_unmapped(system);
    program.remove(start).map_err(failed)?;
    Ok(resets)
}

fn is_in(scene: &Scene<'_>, program: &Program<'_>, wanted: u64) -> Result<(), RunError> {
    let state = program.state().map_err(|failed| scene.failed(&failed))?;
    if state == wanted {
        return Ok(());
    }
    Err(scene.run.wrong(format!("the endpoint's state is {state}, and {wanted} was to come")))
}
