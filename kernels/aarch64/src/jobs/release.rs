//! The fourth job: everything is let go of, and every byte of memory is back.

use crate::discovery::System;
use crate::error::{Wrong, ensure};
use crate::uart::println;
use crate::{irq, memory};

/// How much of each pool is given out.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    tables: u64,
    buffers: u64,
    frames: u64,
}

impl Levels {
    pub(super) fn now() -> Self {
        Self {
            tables: memory::tables().live_bytes(),
            buffers: memory::buffers().live_bytes(),
            frames: memory::frames().live_bytes(),
        }
    }
}

/// `before` is from when the IOMMU was up and no job had begun.
pub(super) fn run(system: System, before: Levels) -> Result<(), Wrong> {
    let after = Levels::now();
    ensure!(
        after.buffers == before.buffers,
        "{} bytes of buffers, and {} before",
        after.buffers,
        before.buffers
    );
    ensure!(after.frames == before.frames, "{} bytes of frames, and {} before", after.frames, before.frames);
    system.shut_down()?;
    let end = Levels::now();
    ensure!(end.tables == 0, "{} bytes of table memory are not back", end.tables);
    let (taken, stray) = irq::counts();
    ensure!(stray == 0, "{stray} interrupts that nobody wanted");
    println!(
        "job 4: {} bytes of tables at work, 0 at the end; buffers and frames as before; {taken} interrupts, none stray",
        before.tables
    );
    Ok(())
}
