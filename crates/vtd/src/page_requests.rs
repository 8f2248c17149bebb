//! The page request queue: pages that devices ask for, and what they are told.
//!
//! # Order
//!
//! The requests of a group come one after the other, so who takes them out keeps the queue for itself until it has passed them on. What it passes them to must
//! not drain the queue again. PPR is cleared before the tail is read, so that a request that comes after that interrupts again.
//!
//! # Overflow
//!
//! While PRO is set hardware writes nothing and answers by itself: last requests with success, the others not at all. So everything up to the tail is passed on, then
//! [`Drained::Overflowed`], and then PRO is cleared. While it is set hardware does not interrupt either: so it is looked again whether it was set meanwhile.
//!
//! # Answers
//!
//! Each last request gets one page group response, sent without a wait. One for which the queue has no room is kept, and tried again when requests are drained and
//! when errors are handled; while very many wait, requests stay where they are, and hardware answers what its queue has no room for. A request of a source that was
//! never enabled is answered here if it is the last, as invalid.
//!
//! Spec: VT-d 5.10, 7.4 "Handling of Page Requests", 7.4.1 "Page Request Descriptor", 7.6 "Page Group Responses", 11.4.11 "Page Request Queue Interface".
//! Not here: bringing pages in, keeping answers that find no room (`core::iopf`), who is enabled (`sharing`).

use portcullis_core::iopf::{GroupTag, PageRequest, PageResponse, ResponseCode};
use portcullis_core::sva::Drained;
use portcullis_hal::{BlockLayout, Lock, Platform, Registers};
use portcullis_spec::vtd::page_request::*;
use portcullis_spec::vtd::queue::{
    PAGE_REQUEST_BYTES, PageRequestQueueAddress, PageRequestQueueIndex, PageRequestStatus,
};
use portcullis_spec::vtd::registers::{PQA, PQH, PQT, PRS};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, Pa, Pasid, Perms, SourceId, mutant};

use crate::counters::Counters;
use crate::descriptor::Descriptor;
use crate::hardware::Hardware;

/// How often an overflow is cleared in one go.
const ROUNDS: usize = 16;

/// The page request queue.
#[derive(Debug)]
pub(crate) struct PageRequestQueue<P: Platform> {
    base: Pa,
    size_lg2: u8,
    consumer: Lock<P, Consumer>,
}

#[derive(Debug)]
struct Consumer {
    /// The slot of the next request to take.
    next: u64,
    /// The memory is gone.
    closed: bool,
}

impl<P: Platform> PageRequestQueue<P> {
    /// A queue of `1 << size_lg2` requests, not yet told to the hardware. None if there is no memory.
    pub(crate) fn new(platform: &P, size_lg2: u8, coherent: bool) -> Option<Self> {
        let layout = Self::layout(size_lg2);
        let base = platform.alloc(layout)?;
        if !coherent {
            platform.clean_table(base, layout.size_bytes());
        }
        Some(Self { base, size_lg2, consumer: Lock::<P, Consumer>::new(Consumer { next: 0, closed: false }) })
    }

    fn layout(size_lg2: u8) -> BlockLayout {
        BlockLayout::naturally_aligned(size_lg2 + 5)
    }

    fn slots(&self) -> u64 {
        1 << self.size_lg2
    }

    /// Tells the hardware of it.
    pub(crate) fn open(&self, registers: &impl Registers) {
        let pqs = self.size_lg2 + 5 - 12;
        let address = PageRequestQueueAddress::new().with_pqs(pqs).with_pqa_address(self.base.get());
        registers.write64(PQH, 0);
        registers.write64(PQT, 0);
        registers.write64(PQA, address.into_bits());
        registers.write32(PRS, PageRequestStatus::new().with_ppr(true).with_pro(true).into_bits());
    }

    /// Gives the memory back. The hardware has been turned off.
    pub(crate) fn free(&self, platform: &P) {
        let mut consumer = self.consumer.lock();
        if !consumer.closed {
            consumer.closed = true;
            platform.free(self.base, Self::layout(self.size_lg2));
        }
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Takes the requests that are there, oldest first, and gives each to `to`. Answers how many, without stop markers.
    pub(crate) fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        let Some(queue) = &self.page_requests else { return 0 };
        let mut consumer = queue.consumer.lock();
        if consumer.closed || self.is_off() {
            return 0;
        }
        let mut taken = 0;
        // So often: devices that ask without end cannot hold a CPU.
        for _ in 0..ROUNDS {
            taken += self.drain_to_tail(queue, &mut consumer, to);
            let overflowed = PageRequestStatus::from_bits(self.registers.read32(PRS)).pro();
            if !overflowed || self.unsent.is_crowded() {
                break;
            }
        }
        taken
    }

    fn drain_to_tail(
        &self,
        queue: &PageRequestQueue<P>,
        consumer: &mut Consumer,
        to: &mut dyn FnMut(Drained),
    ) -> usize {
        let status = self.registers.read32(PRS);
        if status == u32::MAX {
            // Nothing is there any more.
            return 0;
        }
        let status = PageRequestStatus::from_bits(status);
        if status.ppr() {
            self.registers.write32(PRS, PageRequestStatus::new().with_ppr(true).into_bits());
        }
        let tail = PageRequestQueueIndex::from_bits(self.registers.read64(PQT)).offset();
        let tail = u64::from(tail) & (queue.slots() - 1);
        // Requests are read only after the index that says they are there.
        self.platform.read_barrier();
        let mut taken = 0;
        while consumer.next != tail {
            let at = Pa::new(queue.base.get() + PAGE_REQUEST_BYTES * consumer.next);
            let raw = [self.platform.load(at), self.platform.load(Pa::new(at.get() + 8))];
            consumer.next = (consumer.next + 1) & (queue.slots() - 1);
            // An answer lets a device ask again: its slot is free by then.
            if !status.pro() {
                self.free_slots(consumer);
            }
            taken += usize::from(self.pass_on(raw, to));
        }
        if status.pro() {
            to(Drained::Overflowed);
            Counters::add(&self.queue.counters.page_request_overflows);
            self.platform.event(&Event { source: "vtd", name: "page_request_overflow", fields: &[] });
            self.free_slots(consumer);
            self.registers.write32(PRS, PageRequestStatus::new().with_pro(true).into_bits());
        }
        taken
    }

    fn free_slots(&self, consumer: &Consumer) {
        // The slots are handed back only after they were read.
        self.platform.full_barrier();
        self.registers.write64(PQH, PAGE_REQUEST_BYTES * consumer.next);
    }

    /// Passes a request on. Answers whether it was one.
    fn pass_on(&self, raw: [u64; 2], to: &mut dyn FnMut(Drained)) -> bool {
        let Some(request) = decode(raw).filter(|request| !request.is_stop_marker()) else { return false };
        Counters::add(&self.queue.counters.page_requests);
        if u16::try_from(request.source.0).is_ok_and(|sid| self.askers.lock().contains(sid)) {
            to(Drained::Request(request));
        } else if request.last {
            let PageRequest { source, pasid, group, .. } = request;
            self.respond(&PageResponse { source, pasid, group, code: ResponseCode::Invalid });
        }
        true
    }

    /// Sends a response, or keeps it until there is room. That it was taken is not waited for: nothing would prove it.
    pub(crate) fn respond(&self, response: &PageResponse) {
        let send = || self.send(response, |descriptor| self.queue.send(descriptor).is_ok());
        if self.unsent.send_or_keep(response, send, || self.queue.usable().is_ok()) {
            return;
        }
        self.platform.event(&Event {
            source: "vtd",
            name: "response_lost",
            fields: &[
                ("sid", Value::Hex(response.source.0.into())),
                ("group", Value::Dec(response.group.number().into())),
            ],
        });
    }

    /// Sends the responses that found no room before, as far as there is some now.
    pub(crate) fn send_unsent(&self) {
        self.unsent.send(|response| self.send(response, |descriptor| self.queue.offer(descriptor)));
    }

    /// Has a response queued, if there is anybody for it. False if there is no room for it.
    fn send(&self, response: &PageResponse, queue: impl FnOnce(Descriptor) -> bool) -> bool {
        let (GroupTag::Prg(group), Ok(sid)) = (response.group, u16::try_from(response.source.0)) else {
            return true;
        };
        if self.is_off() {
            return true;
        }
        let pasid = response.pasid.map(Pasid::get);
        queue(Descriptor::response(sid, pasid, group, code(response.code)))
            || mutant!("vtd-answer-without-room-dropped")
    }
}

/// What a descriptor of the queue says; none if it is not a page request.
fn decode(raw: [u64; 2]) -> Option<PageRequest> {
    let word0 = PageRequestWord0::from_bits(raw[0]);
    let word1 = PageRequestWord1::from_bits(raw[1]);
    if word0.kind() != TYPE_PAGE_REQUEST {
        return None;
    }
    let mut wanted = Perms::empty();
    wanted.set(Perms::READ, word1.rdr());
    wanted.set(Perms::WRITE, word1.wrr());
    // Spec: VT-d 5.10, 7.4.1 "Page Request Descriptor", EXR: counts with a PASID and a read.
    wanted.set(Perms::EXECUTE, word0.pp() && word1.rdr() && word0.exr());
    wanted.set(Perms::PRIVILEGED, word0.pp() && word0.pmr());
    Some(PageRequest {
        source: SourceId(word0.rid().into()),
        pasid: if word0.pp() { Pasid::new(word0.pasid()) } else { None },
        group: GroupTag::Prg(word1.prgi()),
        last: word1.lpig(),
        wanted,
        address: Iova::new(word1.address()),
    })
}

/// Spec: VT-d 5.10, 7.6.1 "Page Group Response Descriptor", Table 32 "Response Codes".
fn code(code: ResponseCode) -> u8 {
    match code {
        ResponseCode::Success => RESPONSE_SUCCESS,
        ResponseCode::Invalid => RESPONSE_INVALID,
        ResponseCode::Failure => RESPONSE_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_who_wants_what_where() {
        // Source 0x108, PASID 5, group 3, last, wants to write 0x7000.
        let request = decode([5 << 32 | 0x108 << 16 | 0x101, 0x7000 | 3 << 3 | 0b110]).unwrap();
        assert_eq!((request.source, request.pasid), (SourceId(0x108), Pasid::new(5)));
        assert_eq!((request.group, request.last), (GroupTag::Prg(3), true));
        assert_eq!((request.wanted, request.address), (Perms::WRITE, Iova::new(0x7000)));
        assert_eq!(decode([0x108 << 16 | 2, 0]), None, "another type is no request");
    }
}
