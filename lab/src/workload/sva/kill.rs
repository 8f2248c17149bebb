//! The process that kills itself right after it has given its job, while a fault is under way.
//!
//! A worker has begun to bring a page in, and waits for the disk; that is when the process exits. The worker already has the process's memory, so its
//! answer is success even though the process is gone. From the exit on the device reaches nothing: a device that asks for pages is told that its
//! requests are invalid, by software or by the IOMMU itself; one whose stalls can be switched off fails at once and in silence.
//!
//! Expected, and nothing else: one bind; a fault; the release; success; then, where faults still come, a few that are answered as invalid; one unbind.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use portcullis::accel::{HowClosed, State};
use portcullis::hal::Clock;

use super::chronicle::{INVALID, SUCCESS, Step, unanswered};
use super::client::{Client, room_for};
use super::device::{Driver, Found};
use super::gate::{Gate, Gated, Zeroes};
use super::{DeviceKind, Outcome, STOP_LIMIT_NS, Session, Stage, kernel, verify};
use crate::boot::Sharer;
use crate::error::RunError;
use crate::process::Kernel;

/// How many turns the first fault, and the end of the queue, may take.
const TURNS: usize = 100_000;

/// More faults than this behind the exit are a storm.
const MOST_FAULTS: usize = 8;

/// Runs it.
pub(super) fn run(
    stage: &Stage<'_>,
    found: &Found<'_>,
    sharer: &Sharer,
    driver: &Arc<Driver>,
    kernel: &Arc<Kernel>,
) -> Result<Outcome, RunError> {
    let gate = Arc::new(Gate::default());
    let input = Gated { gate: gate.clone(), file: stage.input()? };
    let room = room_for(input.file.len_bytes());
    let output = Gated { gate: gate.clone(), file: Box::new(Zeroes(room)) };
    let client = Client::new(kernel, Box::new(input), Some(Box::new(output)))?;
    let mut session = Session::open(stage, sharer, driver, found.registers_at(stage.system)?, client)?;
    let start = Instant::now();
    session.begin()?;
    session.await_fault()?;
    session.die_during_fault(&gate)?;
    let moved = stage.model.moved(session.pasid);
    session.await_end()?;
    if stage.model.moved(session.pasid) != moved {
        return Err(stage.wrong("isolation: it moved bytes of a process that had exited".into()));
    }
    let counters = stage.counters(&session, 0);
    session.bury()?;
    let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    verify::events(stage.model, 0)?;
    shape(stage)?;
    Ok(Outcome { counters, digest: None, elapsed_ns })
}

impl Session<'_> {
    /// Lets the device work until it has asked for a page, which nobody brings in yet.
    fn await_fault(&self) -> Result<(), RunError> {
        for _ in 0..TURNS {
            self.duty.system.platform.relax();
            if self.duty.unit.signals() {
                self.duty.unit.service();
            }
            if self.stage.chronicle.steps().iter().any(|step| matches!(step, Step::Fault { last: true, .. }))
            {
                return Ok(());
            }
        }
        Err(self.stage.wrong("it never asked for a page".into()))
    }

    /// A worker begins; the process exits; the worker goes on.
    fn die_during_fault(&self, gate: &Gate) -> Result<(), RunError> {
        let reached = thread::scope(|scope| {
            let worker = scope.spawn(|| self.duty.unit.sva.queue().work());
            let reached = gate.await_reached();
            self.client.process().exit();
            gate.open();
            worker.join().is_ok_and(|worked| worked) && reached
        });
        match reached {
            true => Ok(()),
            false => Err(self.stage.wrong("the fault that it caused was not one of its buffers'".into())),
        }
    }

    /// Serves the device until its queue has come to an end by itself.
    fn await_end(&self) -> Result<(), RunError> {
        for _ in 0..TURNS {
            self.duty.turn();
            if self.queue.state() != State::Running {
                return Ok(());
            }
        }
        Err(self.stage.wrong("its queue goes on although its process has exited".into()))
    }

    /// What the kernel does for a dead process: closes what it had open.
    fn bury(self) -> Result<(), RunError> {
        let Self { stage, duty, device, client, queue, .. } = self;
        let closed = queue.close_while(STOP_LIMIT_NS, || {
            duty.serve();
        });
        let closed = closed.map_err(|open| stage.wrong(format!("its queue does not stop: {open}")))?;
        if !matches!(closed.how, HowClosed::Failed(_)) {
            return Err(stage.wrong(format!("its queue was to fail, and was {:?}", closed.how)));
        }
        let unbound = device.unbind(&closed.space);
        unbound.map_err(|error| stage.wrong(format!("the process is bound still: {error:?}")))?;
        if kernel::has_pasid(client.process()) {
            return Err(stage.wrong("a process that has exited has its PASID still".into()));
        }
        verify::answers(&device.requester().counts(), stage.model)
    }
}

/// Whether what happened is what was to happen.
fn shape(stage: &Stage<'_>) -> Result<(), RunError> {
    let forced = stage.model.before.stalls_always();
    let asks = stage.job.device == DeviceKind::Pcie && !stage.model.before.answers_for_the_dead();
    let faults_after = asks || forced;
    match misshapen(&stage.chronicle.steps(), faults_after) {
        None => Ok(()),
        Some(what) => Err(stage.wrong(format!("after the kill: {what}"))),
    }
}

/// What is wrong with the steps of a killed process, if something is. `faults_after`: whether the device still asks when the process has gone.
fn misshapen(steps: &[Step], faults_after: bool) -> Option<String> {
    if let Some(what) = unanswered(steps) {
        return Some(format!("one-answer: {what}"));
    }
    let [Step::Bind, before @ .., Step::Unbind] = steps else {
        return Some("it does not begin with a bind and end with an unbind".into());
    };
    let releases = before.iter().filter(|&&step| step == Step::Release).count();
    let strange = before.iter().any(|step| matches!(step, Step::Bind | Step::Unbind | Step::Invalidate));
    if releases != 1 || strange {
        return Some(format!("{releases} releases, or a second bind or unbind, or an invalidation"));
    }
    let mut halves = before.split(|&step| step == Step::Release);
    let (alive, dead) = (halves.next()?, halves.next()?);
    if !matches!(alive.last(), Some(Step::Fault { last: true, .. })) {
        return Some("no fault was under way when it exited".into());
    }
    let codes: Vec<u64> = dead
        .iter()
        .filter_map(|step| match step {
            Step::Response { code, .. } => Some(*code),
            _ => None,
        })
        .collect();
    let Some((&first, later)) = codes.split_first() else {
        return Some("the fault under way got no answer".into());
    };
    if first != SUCCESS {
        return Some(format!("the fault under way was answered with {first}, not with success"));
    }
    if let Some(code) = later.iter().find(|&&code| code != INVALID) {
        return Some(format!("a later request was answered with {code}, not as invalid"));
    }
    match (faults_after, later.len()) {
        (true, 0) => Some("no later request was seen".into()),
        (false, 1..) => Some(format!("{} later requests of a device that was to be silent", later.len())),
        (_, count) if count > MOST_FAULTS => Some(format!("{count} later requests are a storm")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(group: u64) -> Step {
        Step::Fault { group, last: true }
    }

    fn answer(group: u64, code: u64) -> Step {
        Step::Response { group, code }
    }

    /// Observed: the trace of a process that kills itself, in the series of SVA for SMMUv3.
    fn reference() -> Vec<Step> {
        let later = [ask(383), answer(383, INVALID)];
        [Step::Bind, ask(259), Step::Release, answer(259, SUCCESS)]
            .into_iter()
            .chain(later)
            .chain([Step::Unbind])
            .collect()
    }

    #[test]
    fn the_reference_is_in_shape() {
        assert_eq!(misshapen(&reference(), true), None);
        let quiet = [Step::Bind, ask(1), Step::Release, answer(1, SUCCESS), Step::Unbind];
        assert_eq!(misshapen(&quiet, false), None);
        assert!(misshapen(&quiet, true).is_some() && misshapen(&reference(), false).is_some());
    }

    #[test]
    fn every_deviation_is_seen() {
        let changed = |change: fn(&mut Vec<Step>)| {
            let mut steps = reference();
            change(&mut steps);
            misshapen(&steps, true)
        };
        assert!(
            changed(|steps| steps[3] = answer(259, INVALID)).is_some(),
            "the one under way has the memory"
        );
        assert!(changed(|steps| steps[5] = answer(383, SUCCESS)).is_some(), "later ones have not");
        assert!(
            changed(|steps| steps.insert(4, Step::Invalidate)).is_some(),
            "nothing is told of dead areas"
        );
        assert!(changed(|steps| steps.insert(4, Step::Release)).is_some());
        assert!(changed(|steps| steps.insert(6, Step::Unbind)).is_some(), "one unbind");
        assert!(changed(|steps| steps.swap(2, 3)).is_some(), "nothing was under way");
        assert!(changed(|steps| steps.truncate(5)).is_some(), "each has its answer, and there is an unbind");
        assert!(
            changed(
                |steps| (0..9).for_each(|_| steps.splice(4..4, [ask(1), answer(1, INVALID)]).for_each(drop))
            )
            .is_some(),
            "a storm"
        );
    }
}
