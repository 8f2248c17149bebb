//! All that the hardware remembers of memory, and what an invalidation removes of it.
//!
//! Nothing is ever brought up to date by itself: an entry stays as it was read until an invalidation covers it (or a [`Policy`](crate::Policy) throws it
//! out). Only what is right is cached, unless caching mode is on.
//!
//! Spec: VT-d 5.10, 6.2 "Address Translation Caches", 6.5.2.1 to 6.5.2.4, 6.5.2.8.

use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use model_bus::KeyMap;

use crate::bits::mask;
use crate::entry::{Context, PasidEntry, ScalableContext};
use crate::iotlb::Iotlb;
use crate::reason::Reason;
use crate::structures::Structures;

/// What a context entry says, of either mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnyContext {
    Legacy(Context),
    Scalable(ScalableContext),
}

/// A cached context entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedContext {
    pub(crate) meaning: Result<AnyContext, Reason>,
    /// FPD.
    pub(crate) silent: bool,
}

impl CachedContext {
    /// The domain that it is tagged with: "the reserved domain-id value of 0 is used to tag the cached context entries that would result in a fault".
    fn domain(&self) -> u16 {
        match self.meaning {
            Ok(AnyContext::Legacy(context)) => context.domain,
            _ => 0,
        }
    }
}

/// A cached PASID-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedPasid {
    pub(crate) meaning: Result<PasidEntry, Reason>,
    /// FPD, its own or the directory entry's.
    pub(crate) silent: bool,
}

impl CachedPasid {
    fn domain(&self) -> u16 {
        self.meaning.map_or(0, |entry| entry.domain)
    }
}

/// Which context entries to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContextScope {
    Global,
    Domain(u16),
    Device { domain: u16, source: u16, function_mask: u8 },
}

/// Which PASID-table entries to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasidScope {
    Global,
    Domain(u16),
    Pasid { domain: u16, pasid: u32 },
}

/// Which translations to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IotlbScope {
    Global,
    Domain(u16),
    Pages { domain: u16, addresses: RangeInclusive<u64>, leaf_only: bool },
    Pasid { domain: u16, pasid: u32 },
    PasidPages { domain: u16, pasid: u32, addresses: RangeInclusive<u64>, leaf_only: bool },
}

/// Which interrupt entries to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterruptScope {
    Global,
    Index { index: u16, mask: u8 },
}

/// A run of pages, aligned to its size, as an address and an address mask name it.
pub(crate) fn pages(address: u64, address_mask: u32) -> RangeInclusive<u64> {
    let within = if address_mask >= 52 { u64::MAX } else { (1 << (12 + address_mask)) - 1 };
    address & !within..=address | within
}

/// The caches.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    pub(crate) contexts: BTreeMap<u16, CachedContext>,
    pub(crate) pasids: BTreeMap<(u16, u32), CachedPasid>,
    pub(crate) iotlb: Iotlb,
    pub(crate) first: Structures,
    pub(crate) second: Structures,
    pub(crate) interrupts: BTreeMap<u16, [u64; 2]>,
    /// Where write buffers are: words as they were when they were last seen. What software stored since may still be on its way.
    pub(crate) unflushed: KeyMap<u64, u64>,
}

impl Caches {
    /// Forgets all of DMA remapping.
    pub(crate) fn clear_translations(&mut self) {
        self.contexts.clear();
        self.pasids.clear();
        self.iotlb.clear();
        self.first.clear();
        self.second.clear();
    }

    /// What software stored has arrived: "hardware performs an implicit write-buffer-flushing as a pre-condition" to every invalidation.
    pub(crate) fn flush_write_buffers(&mut self) {
        self.unflushed.clear();
    }

    pub(crate) fn forget_contexts(&mut self, scope: ContextScope, scalable: bool) {
        self.flush_write_buffers();
        match scope {
            ContextScope::Global => self.contexts.clear(),
            // "Domain-selective context-cache invalidations are processed by hardware as global invalidations when TTM=01b."
            ContextScope::Domain(_) if scalable => self.contexts.clear(),
            ContextScope::Domain(domain) => self.contexts.retain(|_, cached| cached.domain() != domain),
            ContextScope::Device { domain, source, function_mask } => {
                let ignored: u16 = [0, 4, 6, 7][usize::from(function_mask & 3)];
                self.contexts.retain(|&theirs, cached| {
                    theirs & !ignored != source & !ignored || !scalable && cached.domain() != domain
                });
            }
        }
    }

    pub(crate) fn forget_pasids(&mut self, scope: PasidScope) {
        self.flush_write_buffers();
        match scope {
            PasidScope::Global => self.pasids.clear(),
            PasidScope::Domain(domain) => self.pasids.retain(|_, cached| cached.domain() != domain),
            PasidScope::Pasid { domain, pasid } => {
                self.pasids.retain(|&(_, theirs), cached| theirs != pasid || cached.domain() != domain);
            }
        }
    }

    pub(crate) fn forget_translations(&mut self, scope: &IotlbScope) {
        self.flush_write_buffers();
        match scope {
            IotlbScope::Global => {
                self.iotlb.clear();
                self.first.clear();
                self.second.clear();
            }
            &IotlbScope::Domain(domain) => {
                self.iotlb.remove_domain(domain);
                self.first.remove_domain(domain);
                self.second.remove_domain(domain);
            }
            IotlbScope::Pages { domain, addresses, leaf_only } => {
                self.iotlb.remove_pages(*domain, addresses.clone());
                self.iotlb.remove_first_of(*domain);
                self.first.remove_domain(*domain);
                if !leaf_only {
                    self.second.remove_pages(*domain, 0, addresses);
                }
            }
            &IotlbScope::Pasid { domain, pasid } => {
                self.iotlb.remove_pasid(domain, pasid);
                self.first.remove_pasid(domain, pasid);
            }
            IotlbScope::PasidPages { domain, pasid, addresses, leaf_only } => {
                self.iotlb.remove_pasid_pages(*domain, *pasid, addresses.clone());
                if !leaf_only {
                    self.first.remove_pages(*domain, *pasid, addresses);
                }
            }
        }
    }

    pub(crate) fn forget_interrupts(&mut self, scope: InterruptScope) {
        self.flush_write_buffers();
        match scope {
            InterruptScope::Global => self.interrupts.clear(),
            InterruptScope::Index { index, mask: bits } => {
                let within = if bits == 0 { 0 } else { mask(u32::from(bits.min(16)) - 1, 0) };
                let within = u16::try_from(within).unwrap_or(u16::MAX);
                self.interrupts.retain(|theirs, _| theirs & !within != index & !within);
            }
        }
    }
}
