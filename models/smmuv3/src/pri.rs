//! Page requests: the PRI queue, what the SMMU answers by itself, and CMD_PRI_RESP.
//!
//! A request gets into the queue, or it is lost: then a device that waits for an answer is answered by the SMMU, unless more of the same group is to
//! come. A stop marker is never answered.
//!
//! | why it is lost | who is answered | with |
//! |---|---|---|
//! | PRIQEN or SMMUEN is 0, PRIQ_ABT_ERR is active | every request | Response Failure |
//! | this very write is aborted | the same | Response Failure |
//! | the queue overflows, or an overflow is not acknowledged | the last of its group | Success, or Failure if its STE cannot be asked |
//!
//! ATSCHK and STE.EATS are not looked at.
//!
//! Spec: SMMUv3 H.a, 8 "Page request queue", 4.5.2 "CMD_PRI_RESP", 6.3.36 "SMMU_PRIQ_IRQ_CFG2".

use model_bus::{PageRequest, PageResponse, Write};
use portcullis_types::trace::Value;
use portcullis_types::{Pa, Pasid, SourceId};

use crate::cr::{PRIQ_IRQEN, PRIQEN, SMMUEN};
use crate::downstream::Outgoing;
use crate::event::Asked;
use crate::queue::OVERFLOW;
use crate::registers::Interrupt;
use crate::report::gerror;
use crate::state::{Around, State};
use crate::ste;
use crate::strict::clause;

/// PRIQ_IRQ_CFG2.LO: an interrupt for the last request of each group, rather than for the first in the queue.
pub(crate) const LAST_ONLY: u32 = 1 << 31;

/// Response Codes on the link. Spec: SMMUv3 H.a, 8.3 "PRG Response Message codes".
const SUCCESS: u8 = 0;
const INVALID_REQUEST: u8 = 1;
const RESPONSE_FAILURE: u8 = 15;

/// What a CMD_PRI_RESP says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) stream: u32,
    /// SSV and SubstreamID.
    pub(crate) substream: Option<u32>,
    pub(crate) group: u16,
    /// The code on the link.
    pub(crate) code: u8,
}

/// The code on the link of a command's Resp; none for the reserved one. Spec: SMMUv3 H.a, 4.5.2 "CMD_PRI_RESP", Resp.
pub(crate) fn link_code(resp: u64) -> Option<u8> {
    match resp {
        0 => Some(RESPONSE_FAILURE),
        1 => Some(INVALID_REQUEST),
        2 => Some(SUCCESS),
        _ => None,
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Queued,
    /// An overflow is present.
    Overflow,
    /// The queue is off or broken.
    Broken,
}

/// "LWR == 0b100", with a PASID.
fn is_stop_marker(request: &PageRequest) -> bool {
    request.pasid.is_some() && request.last && !request.read && !request.write
}

impl State {
    /// Takes a page request.
    pub(crate) fn request_page(&mut self, request: &PageRequest, around: Around<'_>) {
        self.counters.page_requests += 1;
        let fate = self.queue_page_request(request, around);
        let result = match fate {
            Fate::Queued => "queued",
            Fate::Overflow => "overflow",
            Fate::Broken => "broken",
        };
        around.trace(
            "page_request",
            &[
                ("sid", Value::Hex(request.source.0.into())),
                ("addr", Value::Addr(request.iova.get())),
                ("prgi", Value::Hex(request.group.into())),
                ("last", Value::Dec(request.last.into())),
                ("result", Value::Str(result)),
            ],
        );
        self.counters.page_requests_lost += u64::from(fate != Fate::Queued);
        let answered = !is_stop_marker(request) && (fate == Fate::Broken || request.last);
        match fate {
            Fate::Queued => {}
            Fate::Broken if answered => self.auto_respond(request, None, RESPONSE_FAILURE, around),
            Fate::Overflow if answered => {
                let (pasid, code) = self.overflow_response(request, around);
                self.auto_respond(request, pasid, code, around);
            }
            _ => {}
        }
    }

    fn queue_page_request(&mut self, request: &PageRequest, around: Around<'_>) -> Fate {
        let cr0 = &self.registers.cr0;
        if !cr0.is_on(PRIQEN) || !cr0.is_on(SMMUEN) || self.is_active(gerror::PRIQ_ABT_ERR) {
            return Fate::Broken;
        }
        let lg2 = self.registers.pages.lg2(around.config.page_queue_lg2);
        let queue = &mut self.registers.pages;
        // "An active overflow condition inhibits new entries": unlike the event queue, even if there is room.
        let overflown = (queue.prod ^ queue.cons) & OVERFLOW != 0;
        let full = queue.is_full(lg2) || !queue.is_consistent(lg2);
        if overflown || full {
            if !overflown {
                queue.prod ^= OVERFLOW;
            }
            // "When the message is discarded because of a PRI queue overflow, the interrupt is generated."
            if self.last_only() && request.last {
                self.page_interrupt(around);
            }
            return Fate::Overflow;
        }
        let was_empty = queue.is_empty(lg2);
        let slot = u64::from(queue.write_index(lg2) & ((1 << lg2) - 1));
        let at = (queue.aligned(lg2, 16) + slot * 16) & ((1 << around.config.oas()) - 1);
        let mut bytes = [0; 16];
        for (chunk, word) in
            bytes.chunks_exact_mut(8).zip(record(request, around.config.substream_id_bits.min(20)))
        {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        // Choice: "synchronous or asynchronous" is left open; we are synchronous, and PROD stays.
        if around.fabric.write(Write { at: Pa::new(at), bytes: &bytes, source: None }).is_err() {
            self.raise(gerror::PRIQ_ABT_ERR, around);
            return Fate::Broken;
        }
        self.registers.pages.produce(lg2);
        if if self.last_only() { request.last } else { was_empty } {
            self.page_interrupt(around);
        }
        Fate::Queued
    }

    fn last_only(&self) -> bool {
        self.registers.page_message.attributes & LAST_ONLY != 0
    }

    fn page_interrupt(&mut self, around: Around<'_>) {
        if self.registers.irq_ctrl.is_on(PRIQ_IRQEN) {
            self.lines.page_request = true;
            self.interrupt(Interrupt::Page, gerror::MSI_PRIQ_ABT_ERR, around);
        }
    }

    /// What the last request of a group that was lost to an overflow is answered. Spec: SMMUv3 H.a, 8.1 "PRI queue overflow".
    fn overflow_response(&mut self, request: &PageRequest, around: Around<'_>) -> (Option<Pasid>, u8) {
        // "When PASIDs are not supported, an automatic response does not have a PASID prefix and STE.PPAR is not used."
        if request.pasid.is_none() || around.config.substream_id_bits == 0 {
            return (None, SUCCESS);
        }
        if around.config.responds_with_pasid() {
            return (request.pasid, SUCCESS);
        }
        let asked = Asked::prefetch(request.source.0, None, request.iova.get());
        // REC_CFG_ATS is not there: nothing is recorded.
        if self.engine(around).ste(&asked).is_err() {
            return (None, RESPONSE_FAILURE);
        }
        let cached = self.caches.config.ste(request.source.0);
        let with_pasid = cached.is_some_and(|cached| ste::responds_with_pasid(&cached.raw));
        (request.pasid.filter(|_| with_pasid), SUCCESS)
    }

    fn auto_respond(&mut self, request: &PageRequest, pasid: Option<Pasid>, code: u8, around: Around<'_>) {
        self.counters.auto_responses += 1;
        self.respond(PageResponse { source: request.source, pasid, group: request.group, code }, around);
    }

    /// CMD_PRI_RESP.
    pub(crate) fn respond_page(&mut self, response: &Response, around: Around<'_>) {
        // "If SSV == 1, ...: the command has no effect."
        if response.substream.is_some() && around.config.substream_id_bits == 0 {
            self.notes.record(clause::ATS_SUBSTREAM, format!("{response:x?}"));
            return;
        }
        // "IGNORED if SMMUEN is 0."
        if self.is_enabled() {
            let message = PageResponse {
                source: SourceId(response.stream),
                pasid: response.substream.and_then(Pasid::new),
                group: response.group,
                code: response.code,
            };
            self.respond(message, around);
        }
    }

    fn respond(&mut self, message: PageResponse, around: Around<'_>) {
        let mut fields = vec![("sid", Value::Hex(message.source.0.into()))];
        fields.extend(message.pasid.map(|pasid| ("ssid", Value::Hex(pasid.get().into()))));
        fields
            .extend([("prgi", Value::Hex(message.group.into())), ("code", Value::Hex(message.code.into()))]);
        around.trace("page_response", &fields);
        self.outbox.push(Outgoing::Respond(message));
    }
}

/// A request as it lies in the queue. Spec: SMMUv3 H.a, 8 "Page request queue": StreamID 31:0, SubstreamID 51:32, Priv 58, X 59, R 60, W 61, L 62,
/// SSV 63, PRGIndex 72:64, address 127:76.
fn record(request: &PageRequest, substream_id_bits: u8) -> [u64; 2] {
    // "SSV is also 0 when Substreams are not supported. When SSV == 0, the X and Priv bits are both 0."
    let pasid = request.pasid.filter(|_| substream_id_bits != 0);
    // 3.9: "the PASID might be truncated to the SubstreamID size".
    let substream = pasid.map_or(0, |pasid| u64::from(pasid.get()) & ((1 << substream_id_bits) - 1));
    let tagged = pasid.is_some();
    let bit = |position: u32, set: bool| u64::from(set) << position;
    let first = u64::from(request.source.0)
        | substream << 32
        | bit(58, tagged && request.privileged)
        | bit(59, tagged && request.execute)
        | bit(60, request.read)
        | bit(61, request.write)
        | bit(62, request.last)
        | bit(63, tagged);
    [first, request.iova.get() & !0xfff | u64::from(request.group & 0x1ff)]
}
