//! What a run has to prove.
//!
//! - What the process read back, inflated, is the input: length, CRC-32, SHA-256.
//! - The device's ports carried, with the process's PASID, each byte of input once, each byte of output once, and the job; and nothing without it.
//! - Every group of page requests, and every stall, had one answer; nothing is outstanding.
//! - What was unmapped is closed: to the device's own ATC, and to its stream ids at the IOMMU with the PASID. What was unbound is closed altogether.
//! - No other event was recorded, and no other device moved a byte.
//!
//! Not here: what is left at the very end (`proof`).

use model_bus::{Outcome as Judged, Request, StallState};
use model_devices::nvme::Nvme;
use model_devices::pcie::Access as Tried;
use portcullis::accel::{ENTRY_BYTES, Outcome, Status};
use portcullis::core::iopf::Counts;
use portcullis::types::trace::{Event, Sink, Value};
use portcullis::types::{Access, Iova, Pasid, SourceId};
use std::sync::Arc;

use super::super::TRY_VERBOSE;
use super::super::witness::Witness;
use super::client::{Client, Inflated};
use super::device::{Model, Moved};
use super::kernel::Duty;
use crate::error::RunError;
use crate::input::Measure;

/// What the device writes when it ends a job. Spec: docs/accelerator.md, "Jobs".
const ENDING_BYTES: u64 = 24;

/// How many turns a stalled try may take to be answered.
const TURNS: usize = 1000;

fn wrong(at: &str, what: String) -> RunError {
    RunError::wrong(at, what, TRY_VERBOSE)
}

/// The job is done, and what it says of itself fits.
pub(super) fn job(outcome: &Outcome, input: &Measure) -> Result<(), RunError> {
    if outcome.status != Status::Done {
        return Err(wrong("accelerator", format!("the job failed: {}", outcome.status)));
    }
    if outcome.consumed != input.bytes {
        let what = format!("it used {} of {} bytes of input", outcome.consumed, input.bytes);
        return Err(wrong("accelerator", what));
    }
    Ok(())
}

/// What came out is what went in.
pub(super) fn output(
    inflated: &Inflated,
    outcome: &Outcome,
    name: &str,
    input: &Measure,
) -> Result<(), RunError> {
    let Measure { bytes, digest } = input;
    if inflated.bytes != *bytes || inflated.digest != *digest {
        let what = format!(
            "the output inflates to {} bytes with sha256 {} instead of {bytes} with {digest}",
            inflated.bytes, inflated.digest
        );
        return Err(wrong(name, what));
    }
    if inflated.sum != outcome.sum {
        let what = format!("the device says CRC-32 {:#010x}, and it is {:#010x}", outcome.sum, inflated.sum);
        return Err(wrong(name, what));
    }
    Ok(())
}

/// The bytes that went through the IOMMU, to the byte.
pub(super) fn bytes(
    model: &Model,
    pasid: Pasid,
    outcome: &Outcome,
    disks: &[Arc<Nvme>],
) -> Result<(), RunError> {
    let wanted =
        Moved { read: outcome.consumed + ENTRY_BYTES as u64, written: outcome.produced + ENDING_BYTES };
    let (moved, all) = (model.moved(pasid), model.moved_in_all());
    if moved != wanted {
        let what =
            format!("through the IOMMU with PASID {pasid} went {moved:?}, and {wanted:?} was to be moved");
        return Err(wrong("accelerator", what));
    }
    if all != moved {
        let what = format!("it moved {all:?} in all, and {moved:?} of it with the process's PASID");
        return Err(wrong("accelerator", what));
    }
    let others = disks
        .iter()
        .map(|disk| disk.traffic())
        .find(|traffic| traffic.read_bytes + traffic.written_bytes > 0);
    others.map_or(Ok(()), |traffic| {
        Err(wrong("disk", format!("it moved bytes in somebody else's run: {traffic:?}")))
    })
}

/// Each request had its answer.
pub(super) fn answers(counts: &Counts, model: &Model) -> Result<(), RunError> {
    if counts.dropped > 0 {
        return Err(wrong("fault queue", format!("{} page requests were dropped", counts.dropped)));
    }
    match model.requests_in_doubt() {
        0 => Ok(()),
        count => Err(wrong(
            "accelerator",
            format!("one-answer: {count} page requests or answers without the other"),
        )),
    }
}

/// Tries what must be closed.
pub(super) struct Prober<'a> {
    pub(super) duty: &'a Duty<'a>,
    pub(super) model: &'a Model,
    pub(super) witness: &'a Witness,
    /// Who the device is when it reads, and when it writes.
    pub(super) sources: [SourceId; 2],
    pub(super) pasid: Pasid,
    pub(super) tried: u64,
    pub(super) blocked: u64,
    /// Events that these tries were to leave.
    pub(super) recorded: u64,
}

impl Prober<'_> {
    /// What was unmapped: every page through the device's ATC, the first and the last of each buffer past it.
    pub(super) fn unmapped(&mut self, client: &Client) -> Result<(), RunError> {
        let page = client.process().kernel().page_bytes();
        for (range, written) in client.buffers() {
            let pages = range.first().get()..=range.last().get();
            for at in pages.step_by(usize::try_from(page).unwrap_or(usize::MAX)).map(Iova::new) {
                self.through_atc(at, written)?;
            }
            self.past_atc("an unmapped address", range.first(), written)?;
            self.past_atc("an unmapped address", range.last(), written)?;
        }
        Ok(())
    }

    /// What was unbound: the PASID means nothing any more, whatever is mapped there for the process.
    pub(super) fn unbound(&mut self, client: &Client) -> Result<(), RunError> {
        self.past_atc("an address of a process that is bound no more", client.ring_at(), false)?;
        self.past_atc("an address of a process that is bound no more", client.ring_at(), true)
    }

    fn through_atc(&mut self, at: Iova, write: bool) -> Result<(), RunError> {
        let mut tried = self.model.try_through_atc(self.pasid, at, write);
        while tried == Some(Tried::Busy) {
            self.duty.turn();
            tried = self.model.try_through_atc(self.pasid, at, write);
        }
        let Some(tried) = tried else { return Ok(()) };
        self.judge(tried != Tried::Done, "an unmapped address, by the device's own translation", at)
    }

    fn past_atc(&mut self, what: &str, at: Iova, write: bool) -> Result<(), RunError> {
        let source = self.sources[usize::from(write)];
        let access = if write { Access::WRITE } else { Access::READ };
        self.say(what, at, write);
        let request = Request { source, pasid: Some(self.pasid), iova: at, len_bytes: 1, access };
        let mut through = false;
        let outcome = self.witness.expecting(|| {
            self.model.before.translator().access(&request, &mut |_| {
                through = true;
                Ok(())
            })
        });
        let ended = match outcome {
            Judged::Stalled(stall) => {
                let mut state = StallState::Waiting;
                for _ in 0..TURNS {
                    state = self.model.before.translator().stalled(stall);
                    if state != StallState::Waiting {
                        break;
                    }
                    self.duty.turn();
                }
                state == StallState::Aborted
            }
            Judged::Aborted => {
                self.recorded += 1;
                true
            }
            _ => false,
        };
        self.duty.system.platform.bus().settle(64);
        self.duty.serve();
        self.judge(ended && !through, what, at)
    }

    /// Says that what follows is a try.
    fn say(&self, what: &str, at: Iova, write: bool) {
        let fields = [
            ("what", Value::Str(what)),
            ("addr", Value::Addr(at.get())),
            ("pasid", Value::Dec(self.pasid.get().into())),
            ("access", Value::Str(if write { "write" } else { "read" })),
        ];
        self.duty.system.platform.event(&Event { source: "lab", name: "probe", fields: &fields });
    }

    fn judge(&mut self, blocked: bool, what: &str, at: Iova) -> Result<(), RunError> {
        self.tried += 1;
        self.blocked += u64::from(blocked);
        if blocked {
            Ok(())
        } else {
            Err(wrong("IOMMU", format!("isolation: an access to {what} was let through, {at}")))
        }
    }
}

/// Events that were neither stalls nor the prober's.
pub(super) fn events(model: &Model, expected: u64) -> Result<(), RunError> {
    let others = model.before.reported();
    if others == expected {
        return Ok(());
    }
    let what = format!("{others} events were recorded where {expected} were expected");
    Err(wrong("IOMMU", what))
}
