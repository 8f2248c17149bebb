//! The fourth job: everything is let go of, and every byte of memory is back.

use portcullis_hal::wait_for;

use crate::discovery::System;
use crate::error::{Wrong, ensure};
use crate::platform::Metal;
use crate::uart::println;
use crate::{irq, memory, timer};

/// When the alarm is to come that is tried, and when it must have come.
const ALARM_NS: u64 = 1_000_000;
const ALARM_LIMIT_NS: u64 = 1_000_000_000;

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
    an_alarm_comes()?;
    system.shut_down()?;
    let end = Levels::now();
    ensure!(end.tables == 0, "{} bytes of table memory are not back", end.tables);
    let (taken, stray) = irq::counts();
    ensure!(stray == 0, "{stray} interrupts that nobody wanted");
    let alarms = timer::alarms();
    println!(
        "job 4: {} bytes of tables at work, 0 at the end; buffers and frames as before; {taken} interrupts, {alarms} of them alarms, none stray",
        before.tables
    );
    Ok(())
}

/// The look at what a flood has left behind comes by an alarm. Whether the jobs before needed one is left to chance, so one is set here.
fn an_alarm_comes() -> Result<(), Wrong> {
    let before = timer::alarms();
    timer::set_alarm(ALARM_NS);
    wait_for(&Metal, ALARM_LIMIT_NS, || (timer::alarms() > before).then_some(()))
        .map_err(|_| Wrong("no alarm came".into()))
}
