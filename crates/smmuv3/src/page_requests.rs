//! The PRI queue: pages that devices ask for, and what they are told.
//!
//! # Order
//!
//! The requests of a group come one after the other, so who takes them out keeps the queue for itself until it has passed them on. What it
//! passes them to must not drain the queue again.
//!
//! # Overflow
//!
//! From an overflow until it is acknowledged, hardware writes nothing and answers by itself: last requests with success, the others not at all.
//! So when one is seen, everything up to the write index is passed on, then [`Drained::Overflowed`]: groups whose last request has not come
//! were answered. Then one write of SMMU_PRIQ_CONS frees the slots and acknowledges.
//!
//! Otherwise slots are freed before the requests in them are passed on: an answer lets its device ask again, and where devices were
//! promised the whole queue there must be room for that.
//!
//! When hardware could not write the queue (PRIQ_ABT_ERR) it has answered by itself as well, or lost requests: the next drain says [`Drained::Overflowed`] behind what was written
//! before. What was written after it is of groups that were begun anew.
//!
//! # Interrupts
//!
//! Hardware interrupts when the queue is not empty any more, and not again before it was. So it is looked until there is nothing, as for events (`event_queue`); and who comes away from a flood of stop
//! markers with nothing is told of one request all the same, so that he calls again.
//!
//! # Answers
//!
//! Each last request gets one CMD_PRI_RESP. It carries the PASID if the request had one and the device wants it back. A stop marker gets none and is
//! dropped here. A request of a stream that was never enabled is answered here if it is the last, as invalid.
//!
//! Spec: SMMUv3 H.a, 8 "Page request queue", 8.1 "PRI queue overflow", 8.1.1 "Recovery procedure", 8.2 "Miscellaneous", 4.5.2 "CMD_PRI_RESP".
//! Not here: stalled transactions (`stalls`), bringing pages in, keeping answers that find no room (`core::iopf`).

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use portcullis_core::iopf::{GroupTag, PageRequest, PageResponse, ResponseCode};
use portcullis_core::sva::Drained;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::smmuv3::command::{Command, Resume};
use portcullis_spec::smmuv3::page_request::{PageRequestWord0, PageRequestWord1};
use portcullis_spec::smmuv3::registers::{PRIQ_CONS, PRIQ_PROD, QueueIndex};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, Pa, Pasid, Perms, SourceId, mutant};

use crate::hardware::Hardware;
use crate::ring::Ring;

const ENTRY_LG2: u8 = 4;
/// Requests that are copied out before their slots are freed.
const COPY: usize = 16;

/// CMD_PRI_RESP.Resp: the device is to ask no more.
const RESPONSE_FAILURE: u8 = 0b00;
/// CMD_PRI_RESP.Resp: a page of the group is not to be had.
const RESPONSE_INVALID: u8 = 0b01;
/// CMD_PRI_RESP.Resp: the pages are there.
const RESPONSE_SUCCESS: u8 = 0b10;

/// The PRI queue.
#[derive(Debug)]
pub(crate) struct PageRequestQueue<P: Platform> {
    pub(crate) ring: Ring,
    consumer: Lock<P, Consumer>,
    /// Where requests may have been lost since the last drain: an index, and [`LOST`]; 0 if none were.
    lost: AtomicU32,
}

/// In `lost`: there was a loss. Indexes have 20 bits.
const LOST: u32 = 1 << 31;

#[derive(Debug)]
struct Consumer {
    /// The position of the next request to take.
    next: u64,
    /// The last OVFLG that was seen, which is also what OVACKFLG says.
    overflow: bool,
    /// The memory is gone.
    closed: bool,
}

impl<P: Platform> PageRequestQueue<P> {
    /// A queue of `1 << size_lg2` requests, not yet told to the hardware. None if there is no memory below `1 << output_bits`.
    pub(crate) fn new(platform: &P, output_bits: u8, size_lg2: u8) -> Option<Self> {
        let ring = Ring::alloc(platform, output_bits, size_lg2, ENTRY_LG2)?;
        let consumer = Consumer { next: 0, overflow: false, closed: false };
        Some(Self { ring, consumer: Lock::<P, Consumer>::new(consumer), lost: AtomicU32::new(0) })
    }

    /// Hardware could not write the queue behind what lies before this index.
    pub(crate) fn requests_were_lost(&self, index: u32) {
        self.lost.store(index | LOST, Release);
    }

    /// Gives the memory back. The hardware has been turned off.
    pub(crate) fn free(&self, platform: &P) {
        let mut consumer = self.consumer.lock();
        if !consumer.closed {
            consumer.closed = true;
            self.ring.free(platform);
        }
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Takes the requests that are there, oldest first, and gives each to `to`. Answers how many, without stop markers; but not that there were none if some may be left.
    pub(crate) fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        let Some(queue) = &self.page_requests else { return 0 };
        let mut consumer = queue.consumer.lock();
        let mut taken = 0;
        // A device that asks without end cannot hold a CPU, nor can hardware that says so.
        let most = 2 * queue.ring.len();
        let end = consumer.next + most;
        for _ in 0..most {
            let over = consumer.closed || consumer.next >= end;
            if over || !self.drain_once(queue, &mut consumer, to, &mut taken) {
                break;
            }
        }
        if consumer.next >= end { taken.max(1) } else { taken }
    }

    /// Takes what one look at SMMU_PRIQ_PROD shows. Answers whether there was anything.
    fn drain_once(
        &self,
        queue: &PageRequestQueue<P>,
        consumer: &mut Consumer,
        to: &mut dyn FnMut(Drained),
        taken: &mut usize,
    ) -> bool {
        // Looked at before the index of what is there: all that lies before the loss lies before that.
        let lost = queue.lost.swap(0, AcqRel);
        let prod = QueueIndex::from_bits(self.registers.read32(PRIQ_PROD));
        // Requests are read only after the index that says they are there.
        self.platform.read_barrier();
        let end = queue.ring.position(consumer.next, prod.index());
        if end - consumer.next > queue.ring.len() {
            // No producer that keeps to the book writes such an index; nothing in the queue can be trusted until it does again.
            let _another_loss = queue.lost.compare_exchange(0, lost, AcqRel, Acquire);
            return false;
        }
        let overflowed = prod.overflow() != consumer.overflow;
        let lost = (lost & LOST != 0).then(|| queue.ring.position(consumer.next, lost & !LOST));
        if end == consumer.next && !overflowed && lost.is_none() {
            return false;
        }
        // An overflow is behind all that is there. A loss that is not before the end has been passed already.
        let end = match lost {
            Some(loss) if !overflowed && loss <= end => loss,
            Some(_) if !overflowed => consumer.next,
            _ => end,
        };
        while consumer.next < end {
            let mut copied = [[0; 2]; COPY];
            let mut count = 0;
            while count < COPY && consumer.next < end {
                let at = queue.ring.address(consumer.next);
                copied[count] = [self.platform.load(at), self.platform.load(Pa::new(at.get() + 8))];
                count += 1;
                consumer.next += 1;
            }
            if !overflowed {
                self.free_slots(queue, consumer);
            }
            for &raw in &copied[..count] {
                *taken += usize::from(self.pass_on(decode(raw), to));
            }
        }
        if (overflowed || lost.is_some()) && !mutant!("overflow-kept-from-partial-groups") {
            to(Drained::Overflowed);
        }
        if overflowed {
            consumer.overflow = prod.overflow();
            self.commands.counters.page_request_overflows.fetch_add(1, Relaxed);
            self.platform.event(&Event { source: "smmuv3", name: "page_request_overflow", fields: &[] });
            self.free_slots(queue, consumer);
        }
        true
    }

    /// Hands the slots back that were read, and acknowledges an overflow that was dealt with.
    fn free_slots(&self, queue: &PageRequestQueue<P>, consumer: &Consumer) {
        let cons =
            QueueIndex::new().with_index(queue.ring.index(consumer.next)).with_overflow(consumer.overflow);
        // The slots are handed back only after they were read.
        self.platform.full_barrier();
        self.registers.write32(PRIQ_CONS, cons.into_bits());
    }

    /// Passes a request on. Answers whether it was one.
    fn pass_on(&self, request: PageRequest, to: &mut dyn FnMut(Drained)) -> bool {
        if request.is_stop_marker() {
            return false;
        }
        self.commands.counters.page_requests.fetch_add(1, Relaxed);
        if self.stalls.asker(request.source.0).is_some() {
            to(Drained::Request(request));
        } else if request.last && !mutant!("page-request-of-a-stranger-dropped") {
            let PageRequest { source, pasid, group, .. } = request;
            self.respond(&PageResponse { source, pasid, group, code: ResponseCode::Invalid });
        }
        true
    }

    /// Sends a response, or keeps it until there is room. That it was taken is not waited for: nothing would prove it.
    pub(crate) fn respond(&self, response: &PageResponse) {
        let send = || self.send(response, |command| self.commands.submit(&[command]).is_ok());
        if self.unsent.send_or_keep(response, send, || self.commands.usable().is_ok()) {
            return;
        }
        self.platform.event(&Event {
            source: "smmuv3",
            name: "response_lost",
            fields: &[
                ("sid", Value::Hex(response.source.0.into())),
                ("group", Value::Dec(response.group.number().into())),
            ],
        });
    }

    /// Sends the responses that found no room before, as far as there is some now.
    pub(crate) fn send_unsent(&self) {
        self.unsent.send(|response| self.send(response, |command| self.commands.offer(command)));
    }

    /// Has a response queued, if one is due. False if there is no room for it.
    fn send(&self, response: &PageResponse, queue: impl FnOnce(Command) -> bool) -> bool {
        if self.is_off() {
            return true;
        }
        let stream_id = response.source.0;
        let mut ticket = None;
        let command = match response.group {
            GroupTag::Prg(index) => {
                // Whom nobody enabled is answered as the SMMU itself would.
                let asker = self.stalls.asker(stream_id);
                let wants_it = asker.map_or(self.features.automatic_pasid, |asker| asker.response_pasid);
                let pasid = response.pasid.filter(|_| wants_it).map(Pasid::get);
                Command::pri_resp(stream_id, pasid, index, code(response.code))
            }
            GroupTag::Stall { tag, nth } => {
                ticket = self.stalls.answer(stream_id, tag, nth);
                if ticket.is_none() {
                    // Ended, or answered, already.
                    return true;
                }
                Command::resume(stream_id, tag, fate(response.code))
            }
        };
        let sent = queue(command) || mutant!("answer-without-room-dropped");
        if let (false, Some(ticket)) = (sent, ticket) {
            ticket.take_back();
        }
        sent
    }
}

/// What a record of the queue says.
fn decode(raw: [u64; 2]) -> PageRequest {
    let word0 = PageRequestWord0::from_bits(raw[0]);
    let word1 = PageRequestWord1::from_bits(raw[1]);
    let mut wanted = Perms::empty();
    wanted.set(Perms::READ, word0.r());
    wanted.set(Perms::WRITE, word0.w());
    wanted.set(Perms::EXECUTE, word0.x());
    wanted.set(Perms::PRIVILEGED, word0.privileged());
    PageRequest {
        source: SourceId(word0.stream_id()),
        pasid: if word0.ssv() { Pasid::new(word0.substream_id()) } else { None },
        group: GroupTag::Prg(word1.prg_index()),
        last: word0.last(),
        wanted,
        address: Iova::new(word1.page() << 12),
    }
}

/// Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP", Resp.
fn code(code: ResponseCode) -> u8 {
    match code {
        ResponseCode::Success => RESPONSE_SUCCESS,
        ResponseCode::Invalid => RESPONSE_INVALID,
        ResponseCode::Failure => RESPONSE_FAILURE,
    }
}

/// Spec: SMMUv3 H.a, 4.7.1 "CMD_RESUME", Ac and Ab.
fn fate(code: ResponseCode) -> Resume {
    match code {
        ResponseCode::Success => Resume::Retry,
        ResponseCode::Invalid | ResponseCode::Failure => Resume::Abort,
    }
}

#[cfg(test)]
mod tests;
