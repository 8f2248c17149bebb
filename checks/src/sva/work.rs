//! Queues and jobs: a process that gives an accelerator work in its own memory, and looks whether it was done right.

use std::sync::Arc;

use portcullis::accel::{Algorithm, ENTRY_BYTES, Job, Outcome, Queue, Ring, Status};
use portcullis::core::sva::{Bond, UnbindError};
use portcullis::types::{Iova, IovaRange, Pasid};
use portcullis_lab::platform::{LabPlatform, RegisterWindow};

use super::rig::Rig;
use super::watched::Watched;

/// A bond of the rig's.
pub type RigBond = Arc<Bond<LabPlatform>>;
type RigQueue = Queue<LabPlatform, RegisterWindow, RigBond>;

const SIZE_LG2: u8 = 4;
/// How many turns a job may take, with others on their CPUs.
const TURNS: usize = 200_000;
/// How long a queue may take to stop, on the bus's clock.
const CLOSE_LIMIT_NS: u64 = 20_000_000;
/// The same where others let the bus's time go by.
const CLOSE_LIMIT_WITH_OTHERS_NS: u64 = 60_000_000_000;

/// A queue of a process at a device.
pub struct Client {
    /// Whose.
    pub process: Watched,
    /// Which device.
    pub device: usize,
    /// The PASID of its bond.
    pub pasid: Pasid,
    queue: Option<RigQueue>,
    ring: IovaRange,
    book: Ring,
    close_limit_ns: u64,
    /// What was given and has not ended, by the place of its entry.
    jobs: Vec<(usize, Job)>,
}

/// A job that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it was.
    pub job: Job,
    /// What became of it.
    pub outcome: Outcome,
}

/// Binds a process to a device, and tells the judge.
///
/// # Errors
///
/// How it failed.
pub fn bind(rig: &Rig, process: &Watched, device: usize) -> Result<RigBond, String> {
    let shared = rig.shared(device).ok_or("the device does not share")?;
    let bond = shared.bind(&process.memory()).map_err(|error| format!("{error:?}"))?;
    let bound = rig.judge.shadow(|shadow| shadow.bound(device, bond.pasid(), process.id()));
    bound.unwrap_or_else(|wrong| rig.judge.note(wrong));
    Ok(bond)
}

/// Gives a bond back; if that was the last of it, nothing may be owed to the device any more.
///
/// # Errors
///
/// As [`SvaDevice::unbind`](portcullis::core::sva::SvaDevice::unbind).
pub fn unbind(rig: &Rig, device: usize, bond: &RigBond) -> Result<(), UnbindError> {
    if !rig.judge.is_strict() {
        // On several threads the PASID may be another process's before this one can say so; what is owed is told at the end.
        rig.judge.shadow(|shadow| shadow.unbound(device, bond.pasid()));
        return bond.device().clone().unbind(bond);
    }
    bond.device().clone().unbind(bond)?;
    if rig.judge.shadow(|shadow| shadow.unbound(device, bond.pasid())) {
        // Responses are fire and forget: commands are consumed in their time.
        rig.step(16);
        for what in rig.judge.pending(device, Some(bond.pasid())) {
            rig.judge.note(format!("one-answer: unbound from device {device}, and no answer to {what}"));
        }
    }
    Ok(())
}

impl Client {
    /// Binds, and opens a queue.
    ///
    /// # Errors
    ///
    /// How it failed; then nothing is bound, unless the device does not let go.
    pub fn open(rig: &Rig, process: &Watched, device: usize) -> Result<Self, String> {
        let ring =
            process.map_zeroes((ENTRY_BYTES as u64) << SIZE_LG2).map_err(|error| format!("{error:?}"))?;
        let bond = match bind(rig, process, device) {
            Ok(bond) => bond,
            Err(error) => {
                let _ = process.unmap(ring);
                return Err(error);
            }
        };
        let pasid = bond.pasid();
        match rig.accels[device].driver.open_queue(bond, ring.first(), SIZE_LG2) {
            Ok(queue) => Ok(Self {
                process: process.clone(),
                device,
                pasid,
                queue: Some(queue),
                ring,
                book: Ring::new(SIZE_LG2).expect("a size that is"),
                close_limit_ns: if rig.judge.is_strict() {
                    CLOSE_LIMIT_NS
                } else {
                    CLOSE_LIMIT_WITH_OTHERS_NS
                },
                jobs: Vec::new(),
            }),
            Err(not) => {
                let Ok(bond) = not.space else { return Err(format!("{not:?}")) };
                let _ = process.unmap(ring);
                unbind(rig, device, &bond).map_err(|error| format!("{error:?}"))?;
                Err(format!("{:?}", not.error))
            }
        }
    }

    /// Jobs that have not ended.
    pub fn under_way(&self) -> usize {
        self.jobs.len()
    }

    /// Whether the queue is of no use any more.
    pub fn failed(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.failure().is_some())
    }

    /// Gives it a job. False if there is no room, or the process cannot write its ring.
    pub fn submit(&mut self, job: Job) -> bool {
        let Some(queue) = &self.queue else { return false };
        let Some(slot) = self.book.push() else { return false };
        let entry = job.encode().expect("jobs of the rig make sense");
        let at = Iova::new(self.ring.first().get() + slot.offset as u64);
        if self.process.write(at, &entry).is_err() {
            return false;
        }
        queue.ring_tail(slot.tail);
        self.jobs.push((slot.offset, job));
        true
    }

    /// What has ended since this was last asked.
    pub fn ended(&mut self) -> Vec<Ended> {
        let Some(queue) = &self.queue else { return Vec::new() };
        let head = queue.head();
        let Ok(done) = self.book.advance(head) else { return Vec::new() };
        let done: Vec<usize> = done.collect();
        let mut ended = Vec::new();
        for offset in done {
            let Some(place) = self.jobs.iter().position(|(at, _)| *at == offset) else { continue };
            let (_, job) = self.jobs.remove(place);
            let at = Iova::new(self.ring.first().get() + offset as u64);
            let Ok(bytes) = self.process.read(at, ENTRY_BYTES) else { continue };
            let entry: [u8; ENTRY_BYTES] = bytes.try_into().expect("as many as were asked for");
            ended.extend(Outcome::decode(&entry).map(|outcome| Ended { job, outcome }));
        }
        ended
    }

    /// Does one job, serving the machine meanwhile.
    ///
    /// # Errors
    ///
    /// It did not come to an end, or not this way.
    pub fn run(&mut self, rig: &Rig, job: Job) -> Result<Outcome, String> {
        if !self.submit(job) {
            return Err("no room for a job".into());
        }
        let mut outcome = None;
        rig.run_until(TURNS, || {
            outcome = outcome.or(self.ended().first().map(|ended| ended.outcome));
            outcome.is_some() || self.failed()
        });
        outcome.ok_or_else(|| match self.queue.as_ref().and_then(|queue| queue.failure()) {
            Some(failure) => format!("the queue failed: {failure:?}"),
            None => format!("liveness: {job:?} does not end"),
        })
    }

    /// Stops the queue, or aborts it, and answers its bond. `meanwhile` happens in every turn of the wait.
    ///
    /// # Errors
    ///
    /// The device does not stop; then it is closed by nothing but a reset.
    pub fn stop(&mut self, abort: bool, meanwhile: impl FnMut()) -> Result<RigBond, String> {
        let queue = self.queue.take().ok_or("closed already")?;
        let closed = if abort { queue.abort() } else { queue.close_while(self.close_limit_ns, meanwhile) };
        match closed {
            Ok(closed) => {
                let _ = self.process.unmap(self.ring);
                Ok(closed.space)
            }
            Err(open) => {
                let said = format!("{:?} after {} ns", open.state, open.waited_ns);
                self.queue = Some(open.queue);
                Err(format!("liveness: the queue does not stop: {said}"))
            }
        }
    }

    /// Stops the queue and ends the bond.
    ///
    /// # Errors
    ///
    /// How it failed.
    pub fn close(mut self, rig: &Rig) -> Result<(), String> {
        let bond = self.stop(false, || rig.serve())?;
        unbind(rig, self.device, &bond).map_err(|error| format!("unbind: {error:?}"))
    }
}

/// A job without looking ahead.
pub fn job(algorithm: Algorithm, source: Iova, source_bytes: u64, dest: Iova, dest_bytes: u64) -> Job {
    Job { algorithm, ahead_lg2: 0, source, source_bytes, dest, dest_bytes }
}

/// CRC-32 as the device's book has it (IEEE 802.3), bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// Bytes that compress somewhat, differently for each seed.
pub fn text(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at.wrapping_mul(at / 7 + 13 + seed) >> 5) & 0x3f) as u8).collect()
}

/// Whether a job did what it says, its memory being as it was when it was given. None if it was not done, and so says nothing.
pub fn did_right(process: &Watched, ended: &Ended) -> Option<Result<(), String>> {
    let Ended { job, outcome } = ended;
    if outcome.status != Status::Done {
        return None;
    }
    let read = |at: Iova, len: u64| process.read(at, usize::try_from(len).unwrap_or(0)).ok();
    let source = || read(job.source, job.source_bytes);
    let right = match job.algorithm {
        Algorithm::Copy => read(job.dest, job.source_bytes)? == source()?,
        Algorithm::Fill(byte) => read(job.dest, job.source_bytes)?.iter().all(|&found| found == byte),
        Algorithm::Sum => outcome.sum == crc32(&source()?),
        Algorithm::Deflate => outcome.sum == crc32(&source()?) && outcome.consumed == job.source_bytes,
        Algorithm::Inflate => crc32(&read(job.dest, outcome.produced)?) == outcome.sum,
    };
    Some(if right {
        Ok(())
    } else {
        Err(format!("data: {job:x?} ended with {outcome:?}, and memory is otherwise"))
    })
}
