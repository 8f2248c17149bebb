//! The input is read by the user, and what arrived is proved; or he dies in the middle.

use std::time::Instant;

use super::super::disk::check_bytes;
use super::super::proof::Watch;
use super::super::vfio::program::drive::Told;
use super::Scene;
use super::program::Program;
use crate::error::RunError;
use crate::vfio::Task;

/// What reading gave, all times together.
pub(super) struct Reading {
    /// How often it is to be done.
    of: u64,
    /// How often it was.
    pub(super) times: u64,
    /// Through windows with which page sizes: bits.
    pub(super) page_sizes: u64,
    /// What came of the last.
    pub(super) told: Option<Told>,
    /// What the disk wrote.
    pub(super) bytes: u64,
    pub(super) signals: u64,
    pub(super) elapsed_ns: u64,
}

impl Reading {
    /// To be done `times` times.
    pub(super) fn new(times: usize) -> Self {
        let of = times as u64;
        Self { of, times: 0, page_sizes: 0, told: None, bytes: 0, signals: 0, elapsed_ns: 0 }
    }

    /// The disk is up: the user reads everything, which is proved, and stops it.
    pub(super) fn read(
        &mut self,
        scene: &Scene<'_>,
        program: &mut Program<'_>,
        watch: &mut Watch<'_>,
        page_shift: u32,
    ) -> Result<(), RunError> {
        let run = scene.run;
        let start = Instant::now();
        let before = run.written();
        let (mut done, total) = (0, run.job.input.measure().bytes);
        while done < total {
            done = program.read_on(done, total).map_err(|failed| scene.failed(&failed))?;
            watch.service(scene.system);
            if let Some(progress) = run.job.progress {
                progress(self.times * total + done, self.of * total);
            }
        }
        let through = run.written().zip(before).map(|(now, before)| now - before);
        self.elapsed_ns += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let told = program.stop().map_err(|failed| scene.failed(&failed))?;
        check_bytes(run.job.input, told.digest.clone(), through, told.block_bytes, told.commands)?;
        self.bytes += through.unwrap_or(0);
        self.signals += told.signals;
        self.times += 1;
        self.page_sizes |= 1 << page_shift;
        self.told = Some(told);
        Ok(())
    }

    /// The user is killed with commands in flight, and all that he has mapped.
    pub(super) fn begin_and_die(
        &mut self,
        scene: &Scene<'_>,
        program: &mut Program<'_>,
        task: &Task,
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError> {
        let run = scene.run;
        let before = run.written();
        let submitted = program.submit(0, run.job.input.measure().bytes);
        submitted.map_err(|failed| scene.failed(&failed))?;
        watch.service(scene.system);
        task.kill();
        self.bytes += run.written().zip(before).map_or(0, |(now, before)| now - before);
        Ok(())
    }
}
