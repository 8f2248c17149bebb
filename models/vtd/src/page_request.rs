//! Page requests: into the queue, or answered by the hardware.
//!
//! One that has arrived is *received*; it is *accepted*, in the order of arrival, some ticks later, or when a wait descriptor with PD completes:
//! then it is judged, and written or dropped.
//!
//! Spec: VT-d 5.10, 7.4.1 "Handling of Page Requests", Table 31 "Page Request Error Conditions", 7.4.1.1 "Page Request Descriptor", 7.5 "Recoverable Fault
//! Event", 7.7 "Page Request Ordering and Draining", 6.5.3.1 "Implicit Invalidation on Page Requests".

use model_bus::{PageRequest, PageResponse, Write};
use portcullis_types::{Pa, Pasid};

use crate::bits::{field, half, mask};
use crate::caches::{IotlbScope, pages};
use crate::contexts::Regime;
use crate::engine::{Asked, Fault, Form};
use crate::event::Which;
use crate::iotlb::Made;
use crate::registers::{PAGE_REQUEST_OVERFLOW, PAGE_REQUEST_PENDING};
use crate::state::{Around, Outgoing, State};

/// Response Code: Success.
const SUCCESS: u8 = 0;
/// Response Code: Invalid Request.
const INVALID: u8 = 1;

/// The most page requests that wait to be accepted.
const MOST_RECEIVED: usize = 32;

/// A page request that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    request: PageRequest,
    /// After how many ticks it is accepted, once it is the first.
    ticks: u32,
}

impl State {
    /// Receives a page request.
    pub(crate) fn request_page(&mut self, request: &PageRequest, around: Around<'_>) {
        let ticks = self.dice.up_to(around.config.policy.page_request_ticks);
        self.received.push_back(Received { request: *request, ticks });
        while self.received.len() > MOST_RECEIVED {
            self.accept_next(around);
        }
        self.accept_due(around);
    }

    /// A tick has passed. Answers whether anything was accepted or waits.
    pub(crate) fn age_requests(&mut self, around: Around<'_>) -> bool {
        let Some(first) = self.received.front_mut() else { return false };
        first.ticks = first.ticks.saturating_sub(1);
        self.accept_due(around);
        true
    }

    /// Accepts all that were received.
    pub(crate) fn accept_all(&mut self, around: Around<'_>) {
        while !self.received.is_empty() {
            self.accept_next(around);
        }
    }

    fn accept_due(&mut self, around: Around<'_>) {
        while self.received.front().is_some_and(|first| first.ticks == 0) {
            self.accept_next(around);
        }
    }

    fn accept_next(&mut self, around: Around<'_>) {
        if let Some(Received { request, .. }) = self.received.pop_front() {
            self.accept(&request, around);
        }
    }

    fn accept(&mut self, request: &PageRequest, around: Around<'_>) {
        if !self.is_enabled() || !around.config.device_tlbs {
            self.counters.page_requests_dropped += 1;
            return;
        }
        let asked = Asked {
            form: Form::PageRequest,
            source: half(request.source.0.into(), 0),
            pasid: request.pasid.map(Pasid::get),
            address: request.iova.get(),
            write: request.write,
            execute: request.execute,
            privileged: request.privileged,
            empty: false,
        };
        match self.page_request_regime(&asked, around) {
            Err(fault) => {
                self.record_fault(&asked, fault, around);
                self.drop_request(request, INVALID);
            }
            Ok(_) if self.registers.prs & PAGE_REQUEST_OVERFLOW != 0 => {
                self.counters.page_requests_lost += 1;
                self.drop_request(request, SUCCESS);
            }
            Ok(_) if self.page_queue_is_full() => {
                let before = self.registers.prs;
                self.registers.prs |= PAGE_REQUEST_OVERFLOW;
                if before == 0 {
                    self.raise(Which::PageRequest);
                }
                self.counters.page_requests_lost += 1;
                self.drop_request(request, SUCCESS);
            }
            Ok(regime) => {
                self.forget_for(&regime, asked.address);
                self.enqueue(request, &asked, around);
            }
        }
    }

    fn page_request_regime(&mut self, asked: &Asked, around: Around<'_>) -> Result<Regime, Fault> {
        let mut engine = self.engine(around);
        engine.check_mode(asked)?;
        engine.regime(asked)
    }

    /// Table 31. A stop marker needs no response.
    fn drop_request(&mut self, request: &PageRequest, code: u8) {
        self.counters.page_requests_dropped += 1;
        if request.last && !is_stop_marker(request) {
            self.counters.own_page_responses += 1;
            let PageRequest { source, pasid, group, .. } = *request;
            self.outbox.push(Outgoing::Respond(PageResponse { source, pasid, group, code }));
        }
    }

    fn page_queue_bytes(&self) -> u64 {
        4096 << field(self.registers.pqa, 2, 0)
    }

    fn page_queue_is_full(&self) -> bool {
        (self.registers.pqt + 32) % self.page_queue_bytes() == self.registers.pqh
    }

    /// Table 27: what software need not invalidate itself.
    fn forget_for(&mut self, regime: &Regime, address: u64) {
        let Regime { domain, pasid, .. } = *regime;
        let addresses = pages(address, 0);
        self.caches.forget_translations(&match regime.made {
            Made::First => IotlbScope::PasidPages { domain, pasid, addresses, leaf_only: false },
            Made::Second | Made::PassThrough => IotlbScope::Pages { domain, addresses, leaf_only: false },
            Made::Nested => IotlbScope::Domain(domain),
        });
    }

    fn enqueue(&mut self, request: &PageRequest, asked: &Asked, around: Around<'_>) {
        let words = descriptor(request, asked);
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let at =
            Pa::new(around.config.base_of(self.registers.pqa) + self.registers.pqt % self.page_queue_bytes());
        let written = around.memory.snooped.write(Write { at, bytes: &bytes, source: None });
        if written.is_err() {
            // The book does not say. Choice: as if the queue were full, without saying so.
            self.drop_request(request, INVALID);
            return;
        }
        self.registers.pqt = (self.registers.pqt + 32) % self.page_queue_bytes();
        self.counters.page_requests += 1;
        if request.last && !is_stop_marker(request) {
            *self.groups.entry((asked.source, asked.pasid, request.group & 0x1ff)).or_default() += 1;
        }
        let before = self.registers.prs;
        self.registers.prs |= PAGE_REQUEST_PENDING;
        if before == 0 {
            self.raise(Which::PageRequest);
        }
    }
}

fn is_stop_marker(request: &PageRequest) -> bool {
    request.pasid.is_some() && !request.read && !request.write
}

/// page_req_dsc.
fn descriptor(request: &PageRequest, asked: &Asked) -> [u64; 4] {
    let flag = |set: bool, n: u32| u64::from(set) << n;
    let tagged = asked.pasid.is_some();
    let executes = tagged && request.read && request.execute;
    let low = 1
        | flag(tagged, 8)
        | u64::from(asked.source) << 16
        | u64::from(asked.pasid.unwrap_or(0)) << 32
        | flag(executes, 52)
        | flag(tagged && request.privileged, 53);
    let high = flag(request.read, 0)
        | flag(request.write, 1)
        | flag(request.last, 2)
        | u64::from(request.group & 0x1ff) << 3
        | asked.address & mask(63, 12);
    [low, high, 0, 0]
}
