//! Invalidations of device TLBs: which are under way, and which devices did not answer.
//!
//! Spec: VT-d 5.10, 4.3 "Handling of Device-TLB Invalidations", 6.5.2.11 "Hardware Handling of Queued Invalidation Interface Errors". A device that does
//! not answer is one that never does, that is not there, or that sends the request back: the request is posted, and nobody tells.

use model_bus::{Invalidation, InvalidationDone};
use portcullis_types::{Iova, Pasid, SourceId};

use crate::bits::mask;
use crate::descriptor::DeviceScope;
use crate::registers::{COMPLETION_ERROR, TIMEOUT_ERROR};
use crate::state::{Around, Outgoing, State};

/// What an ITag stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnderWay {
    source: u16,
    serial: u64,
    since_ns: u64,
}

/// The 32 ITags.
#[derive(Debug, Default)]
pub(crate) struct DeviceTlbs {
    tags: [Option<UnderWay>; 32],
    serial: u64,
}

impl DeviceTlbs {
    fn free(&self) -> Option<usize> {
        // Tags go round, so that a late answer rarely meets the next request.
        let from = usize::try_from(self.serial % 32).unwrap_or(0);
        (from..from + 32).map(|tag| tag % 32).find(|&tag| self.tags[tag].is_none())
    }

    /// The number that the next invalidation will have.
    pub(crate) fn next(&self) -> u64 {
        self.serial
    }

    /// Whether every invalidation with a smaller number has ended.
    pub(crate) fn are_done(&self, before: u64) -> bool {
        !self.tags.iter().flatten().any(|under_way| under_way.serial < before)
    }
}

impl State {
    /// Whether a device TLB invalidation must wait for a free tag.
    pub(crate) fn device_tlb_must_wait(&self) -> bool {
        self.tlbs.free().is_none()
    }

    /// Sends an invalidation to a device. The caller saw to a free tag.
    pub(crate) fn invalidate_device(&mut self, scope: &DeviceScope, around: Around<'_>) {
        let Some(tag) = self.tlbs.free() else { return };
        let since_ns = around.memory.snooped.now_ns();
        self.tlbs.tags[tag] = Some(UnderWay { source: scope.source, serial: self.tlbs.serial, since_ns });
        self.tlbs.serial += 1;
        self.counters.device_invalidations += 1;
        self.outbox.push(Outgoing::Invalidate(Invalidation {
            source: SourceId(scope.source.into()),
            pasid: scope.pasid.and_then(Pasid::new),
            global: scope.global && scope.pasid.is_some(),
            first: Iova::new(scope.first),
            size_lg2: scope.size_lg2,
            tag: u8::try_from(tag).unwrap_or(0),
        }));
    }

    /// A device answers.
    pub(crate) fn device_tlb_done(&mut self, done: &InvalidationDone) {
        // 4.2.1: while translation is off, completions are Unsupported Requests.
        if !self.is_enabled() {
            return;
        }
        let mut wrong = false;
        for tag in (0..32).filter(|tag| done.tags >> tag & 1 == 1) {
            let slot = &mut self.tlbs.tags[tag];
            if slot.is_some_and(|under_way| u32::from(under_way.source) == done.source.0) {
                *slot = None;
            } else {
                wrong = true;
            }
        }
        if wrong {
            if self.registers.fsts & COMPLETION_ERROR == 0 {
                let source = u64::from(done.source.0) & 0xffff;
                self.registers.iqercd = self.registers.iqercd & !mask(63, 48) | source << 48;
            }
            self.raise_error(COMPLETION_ERROR);
        }
    }

    /// Gives up what was not answered in time: then no wait descriptor that waits will ever complete. Answers whether there was any.
    pub(crate) fn expire_device_tlbs(&mut self, around: Around<'_>) -> bool {
        let now_ns = around.memory.snooped.now_ns();
        let limit_ns = around.config.policy.device_tlb_timeout_ns;
        let mut late = None;
        for slot in &mut self.tlbs.tags {
            if let Some(UnderWay { source, since_ns, .. }) = *slot
                && now_ns.saturating_sub(since_ns) > limit_ns
            {
                *slot = None;
                late = late.or(Some(source));
                self.counters.device_timeouts += 1;
            }
        }
        let Some(source) = late else { return false };
        if self.registers.fsts & TIMEOUT_ERROR == 0 {
            self.registers.iqercd = self.registers.iqercd & !mask(47, 32) | u64::from(source) << 32;
        }
        self.waits.clear();
        self.raise_error(TIMEOUT_ERROR);
        true
    }
}
