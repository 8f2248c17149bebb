//! Descriptors of the invalidation queue: their words, and what they ask for.
//!
//! Spec: VT-d 5.10, 6.5.2.1 to 6.5.2.9, 7.6.1 "Page Group Response Descriptor", Table 26 "List of Valid Descriptor Types for Each Mode".

use crate::bits::{bit, byte, field, half, high, low, mask};
use crate::caches::{ContextScope, InterruptScope, IotlbScope, PasidScope, pages};
use crate::config::Config;
use crate::strict::clause;

/// IQERCD_REG.IQEI: what is wrong with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum QueueError {
    Tail = 1,
    Fetch = 2,
    Type = 3,
    Reserved = 4,
    Width = 5,
    TailAlignment = 6,
    Mode = 7,
}

/// An invalidation of the unit's own caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Invalidate {
    Contexts(ContextScope),
    Pasids(PasidScope),
    Translations { scope: IotlbScope, drains: bool },
    Interrupts(InterruptScope),
}

/// Which addresses of whose device TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceScope {
    pub(crate) source: u16,
    pub(crate) pasid: Option<u32>,
    pub(crate) global: bool,
    pub(crate) first: u64,
    pub(crate) size_lg2: u8,
}

/// A wait descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitFor {
    /// SW: where to write what.
    pub(crate) status: Option<(u64, u32)>,
    /// IF.
    pub(crate) interrupt: bool,
    /// FN.
    pub(crate) fence: bool,
    /// PD.
    pub(crate) drains_requests: bool,
}

/// A page group response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) source: u16,
    pub(crate) pasid: Option<u32>,
    pub(crate) group: u16,
    pub(crate) code: u8,
}

/// What a descriptor asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    Invalidate(Invalidate),
    Device(DeviceScope),
    Wait(WaitFor),
    Respond(Response),
}

/// The type: bits 11:9 and 3:0.
pub(crate) fn kind(word: u64) -> u8 {
    byte(field(word, 11, 9) << 4 | field(word, 3, 0), 0)
}

/// What a descriptor is read with.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) config: &'a Config,
    /// Descriptors are of 256 bits.
    pub(crate) wide: bool,
    /// TTM is legacy: else scalable or abort-dma.
    pub(crate) legacy: bool,
}

impl Reader<'_> {
    /// Reads a descriptor. Answers a rule besides that it breaks without being wrong.
    pub(crate) fn read(&self, words: &[u64; 4]) -> Result<(Descriptor, Option<&'static str>), QueueError> {
        let kind = kind(words[0]);
        if !self.allows(kind) {
            return Err(QueueError::Type);
        }
        if words.iter().zip(self.reserved(kind)).any(|(word, reserved)| word & reserved != 0) {
            return Err(QueueError::Reserved);
        }
        let word = words[0];
        let plain = |descriptor| Ok((descriptor, None));
        let granularity = field(word, 5, 4);
        let domain = half(word, 16) & self.config.domain_mask();
        match kind {
            1 => plain(Descriptor::Invalidate(Invalidate::Contexts(contexts(word, domain)?))),
            2 => self.translations(words, granularity, domain),
            3 => plain(Descriptor::Device(device(half(word, 32), None, false, words[1], bit(words[1], 0)))),
            4 => self.interrupts(word),
            5 => plain(Descriptor::Wait(WaitFor {
                status: bit(word, 5).then(|| (words[1] & !self.config.beyond_host() & !3, high(word))),
                interrupt: bit(word, 4),
                fence: bit(word, 6),
                drains_requests: bit(word, 7),
            })),
            6 => pasid_translations(words, granularity, domain),
            7 => {
                let pasid = low(field(word, 51, 32));
                let scope = match granularity {
                    0 => PasidScope::Domain(domain),
                    1 => PasidScope::Pasid { domain, pasid },
                    3 => PasidScope::Global,
                    _ => return Err(QueueError::Reserved),
                };
                plain(Descriptor::Invalidate(Invalidate::Pasids(scope)))
            }
            8 => {
                let pasid = low(field(word, 51, 32));
                plain(Descriptor::Device(device(
                    half(word, 16),
                    Some(pasid),
                    bit(words[1], 0),
                    words[1],
                    bit(words[1], 11),
                )))
            }
            _ => {
                let code = byte(field(word, 15, 12), 0);
                let response = Response {
                    source: half(word, 16),
                    pasid: bit(word, 4).then_some(low(field(word, 51, 32))),
                    group: half(field(words[1], 11, 3), 0),
                    code,
                };
                // Success, Invalid Request, Response Failure.
                let broken = (!matches!(code, 0 | 1 | 15)).then_some(clause::RESPONSE_CODE);
                Ok((Descriptor::Respond(response), broken))
            }
        }
    }

    /// Table 26, and what needs a feature.
    fn allows(&self, kind: u8) -> bool {
        let there = match kind {
            1 | 2 | 5 => true,
            3 => self.config.device_tlbs,
            4 => self.config.interrupt_remapping,
            6 | 7 => !self.legacy,
            8 => !self.legacy && self.config.device_tlbs,
            9 => !self.legacy && self.config.scalable_has(|mode| mode.page_requests),
            // A, of host permission tables, is never there.
            _ => false,
        };
        there && (self.legacy || self.wide)
    }

    fn reserved(&self, kind: u8) -> [u64; 4] {
        let mut words = always_reserved(kind);
        // PD: "implementations reporting Page-request draining as not supported treat this field as reserved."
        if kind == 5 && !self.config.scalable_has(|mode| mode.page_request_drain) {
            words[0] |= 1 << 7;
        }
        words
    }

    fn translations(
        &self,
        words: &[u64; 4],
        granularity: u64,
        domain: u16,
    ) -> Result<(Descriptor, Option<&'static str>), QueueError> {
        // "Hardware implementations with Major Version 2 or higher will ignore this flag and always drain."
        let asked = bit(words[0], 6) || bit(words[0], 7);
        let drains = self.config.drains && (asked || self.config.version.0 >= 2);
        let address_mask = low(field(words[1], 5, 0));
        let mut broken = None;
        let scope = match (granularity, self.config.page_selective) {
            (1, _) => IotlbScope::Global,
            (2, _) => IotlbScope::Domain(domain),
            (3, Some(most)) => {
                if address_mask > u32::from(most) {
                    broken = Some(clause::ADDRESS_MASK);
                }
                let address = words[1] & mask(u32::from(self.config.guest_bits) - 1, 12);
                let addresses = pages(address, address_mask);
                IotlbScope::Pages { domain, addresses, leaf_only: bit(words[1], 6) }
            }
            _ => return Err(QueueError::Reserved),
        };
        Ok((Descriptor::Invalidate(Invalidate::Translations { scope, drains }), broken))
    }

    fn interrupts(&self, word: u64) -> Result<(Descriptor, Option<&'static str>), QueueError> {
        let mask = byte(field(word, 31, 27), 0);
        let broken = (bit(word, 4) && mask > self.config.index_mask).then_some(clause::INDEX_MASK);
        let scope = if bit(word, 4) {
            InterruptScope::Index { index: half(word, 32), mask }
        } else {
            InterruptScope::Global
        };
        Ok((Descriptor::Invalidate(Invalidate::Interrupts(scope)), broken))
    }
}

/// The reserved bits of the four words, by type, on a part that has everything.
fn always_reserved(kind: u8) -> [u64; 4] {
    let all = u64::MAX;
    let (first, second) = match kind {
        1 => (mask(8, 6) | mask(15, 12) | mask(63, 50), all),
        2 => (1 << 8 | mask(15, 12) | mask(63, 32), mask(11, 7)),
        // PFSID is reserved without DIT.
        3 => (mask(8, 4) | mask(15, 12) | mask(31, 21) | mask(63, 48), mask(11, 1)),
        4 => (mask(8, 5) | mask(26, 12) | mask(63, 48), all),
        5 => (1 << 8 | mask(31, 12), mask(1, 0)),
        6 => (mask(8, 6) | mask(15, 12) | mask(63, 52), mask(11, 7)),
        7 => (mask(8, 6) | mask(15, 12) | mask(63, 52), all),
        8 => (mask(15, 12) | mask(63, 52), mask(10, 1)),
        _ => (mask(8, 5) | mask(63, 52), mask(63, 12) | mask(1, 0)),
    };
    [first, second, all, all]
}

fn contexts(word: u64, domain: u16) -> Result<ContextScope, QueueError> {
    context_scope(field(word, 5, 4), domain, half(word, 32), byte(field(word, 49, 48), 0))
        .ok_or(QueueError::Reserved)
}

/// CIRG, or G of a context-cache invalidation.
pub(crate) fn context_scope(
    granularity: u64,
    domain: u16,
    source: u16,
    function_mask: u8,
) -> Option<ContextScope> {
    match granularity {
        1 => Some(ContextScope::Global),
        2 => Some(ContextScope::Domain(domain)),
        3 => Some(ContextScope::Device { domain, source, function_mask }),
        _ => None,
    }
}

fn pasid_translations(
    words: &[u64; 4],
    granularity: u64,
    domain: u16,
) -> Result<(Descriptor, Option<&'static str>), QueueError> {
    let pasid = low(field(words[0], 51, 32));
    let scope = match granularity {
        2 => IotlbScope::Pasid { domain, pasid },
        3 => {
            let addresses = pages(words[1] & mask(63, 12), low(field(words[1], 5, 0)));
            IotlbScope::PasidPages { domain, pasid, addresses, leaf_only: bit(words[1], 6) }
        }
        _ => return Err(QueueError::Reserved),
    };
    // "PASID-based-IOTLB invalidations must always drain."
    Ok((Descriptor::Invalidate(Invalidate::Translations { scope, drains: true }), None))
}

/// PCIe 6.0, 10.3.1: with S, the lowest bit of the address that is 0 says how large the range is.
fn device(source: u16, pasid: Option<u32>, global: bool, word: u64, large: bool) -> DeviceScope {
    let page = word >> 12;
    let size_lg2 = if large { (13 + page.trailing_ones()).min(64) } else { 12 };
    let first = if size_lg2 >= 64 { 0 } else { word >> size_lg2 << size_lg2 };
    DeviceScope { source, pasid, global, first, size_lg2: u8::try_from(size_lg2).unwrap_or(64) }
}
