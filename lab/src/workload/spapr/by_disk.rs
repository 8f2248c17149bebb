//! What is proved of windows where nobody but the disk can ask the bridge: it is no model.
//!
//! No driver has the disk meanwhile. It is told that a queue of commands is at the address, and one of completions too: what it fetches is what the user wrote there, and what it posts
//! the user sees in his memory. Where it must not reach, it gives up.
//!
//! Not here: what such hardware does not show (`machine::qemu`), reading (`reading`).

use portcullis::hal::{Barriers, BlockLayout, DmaMemory};
use portcullis::types::{Iova, Pa};

use super::super::prober::{ANSWER, Detached, answer, command};
use super::program::{Program, SECOND};
use super::uapi::Shape;
use super::{Failed, Scene};
use crate::error::RunError;

/// A queue lies in a page of so many bytes.
const QUEUE_BYTES: u64 = 0x1000;
/// The id of a command in the kernel's memory.
const MARK: u16 = 0x6b;

/// Window 1 without translation leads to the memory of the same address.
pub(super) fn bypass(scene: &Scene<'_>, disk: &Detached) -> Result<(), RunError> {
    let platform = &*scene.system.platform;
    let layout = BlockLayout::naturally_aligned(12);
    let page = platform.alloc_buffer(layout).ok_or_else(|| scene.run.wrong("no memory".into()))?;
    platform.write(page, &command(MARK));
    platform.write_barrier();
    let reached = disk.answers(Iova::new(SECOND | page.get()), &mut || {
        platform.read_barrier();
        Ok(platform.read32(Pa::new(page.get() + ANSWER)) == answer(MARK))
    });
    platform.free_buffer(page, layout);
    if reached? { Ok(()) } else { Err(scene.run.wrong("the way around translation is not open".into())) }
}

/// A page of the user's is reached at both ends, each with ids that follow from `mark`.
pub(super) fn leads_to_user(
    scene: &Scene<'_>,
    program: &Program<'_>,
    disk: &Detached,
    shape: Shape,
    at: u64,
    mark: u8,
) -> Result<(), RunError> {
    let failed = |failed: Failed| scene.run.wrong(format!("a window of {shape:?}: {failed}"));
    let (page, id) = (1 << shape.page_shift, 2 * u16::from(mark));
    for (id, offset) in [(id, 0), (id + 1, page - QUEUE_BYTES)] {
        program.put(page, offset, &command(id)).map_err(failed)?;
        let mut is_there = || Ok(program.get32(page, offset + ANSWER).map_err(failed)? == answer(id));
        if !disk.answers(Iova::new(at + offset), &mut is_there)? {
            let what = format!("{:#x} of {shape:?} does not lead to the user's memory", at + offset);
            return Err(scene.run.wrong(what));
        }
    }
    Ok(())
}
