//! What the hardware does of its own accord, because the book lets it: throw out, fetch ahead, look again.
//!
//! Spec: SMMUv3 H.a, 3.21.3: "An implementation is permitted to fetch or prefetch any reachable structure at any time."

use crate::config::Config;
use crate::event::Asked;
use crate::state::{Around, Mischief, State};
use crate::translate::Grant;
use portcullis_types::AccessKind;

impl Asked {
    /// An access that nobody makes: the hardware's own guess, or a command's.
    pub(crate) fn prefetch(stream: u32, substream: Option<u32>, address: u64) -> Self {
        Self { stream, substream, address, kind: AccessKind::Read, privileged: false }
    }
}

impl State {
    /// Sets when the next of each is due.
    pub(crate) fn plan_mischief(&mut self, config: &Config) {
        let policy = &config.policy;
        self.mischief.evict = self.some_time(policy.evict_one_in);
        self.mischief.prefetch = self.some_time(policy.prefetch_one_in);
        self.mischief.audit = self.some_time(policy.audit_one_in);
        self.rest();
    }

    /// A number of accesses that is `one_in` on average; never, for 0.
    fn some_time(&mut self, one_in: u32) -> u32 {
        if one_in == 0 { u32::MAX } else { 1 + self.dice.up_to(one_in.saturating_mul(2).saturating_sub(2)) }
    }

    fn rest(&mut self) {
        let Mischief { evict, prefetch, audit, .. } = self.mischief;
        let span = evict.min(prefetch).min(audit);
        self.mischief.quiet = span;
        self.mischief.span = span;
    }

    /// Does what is due after an access that was let through.
    pub(crate) fn make_mischief(&mut self, asked: &Asked, grant: &Grant, around: Around<'_>) {
        let policy = around.config.policy;
        let passed = self.mischief.span;
        let due = |left: &mut u32| {
            if *left != u32::MAX {
                *left -= passed.min(*left);
            }
            *left == 0
        };
        let (evict, prefetch, audit) =
            (due(&mut self.mischief.evict), due(&mut self.mischief.prefetch), due(&mut self.mischief.audit));
        if audit {
            self.mischief.audit = self.some_time(policy.audit_one_in);
            if let Some(live) = grant.translation.filter(|_| grant.hit) {
                let offset = asked.address & (u64::MAX >> (64 - live.size_lg2));
                self.audit(&live, live.first + offset, around);
            }
        }
        if evict {
            self.mischief.evict = self.some_time(policy.evict_one_in);
            let pick = self.dice.next_bits();
            self.caches.tlb.evict(pick);
            self.micro.clear();
        }
        if prefetch {
            self.mischief.prefetch = self.some_time(policy.prefetch_one_in);
            let pages = u64::from(self.dice.up_to(16)) * 4096;
            let address = if self.dice.one_in(2) {
                asked.address.wrapping_add(pages)
            } else {
                asked.address.wrapping_sub(pages)
            };
            self.prefetch_address(&Asked { address, ..*asked }, around);
        }
        self.rest();
    }

    /// Fills the translation of an address, if there is one. Nothing is recorded.
    pub(crate) fn prefetch_address(&mut self, asked: &Asked, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let mut engine = self.engine(around);
        engine.demand = false;
        if let Ok(regime) = engine.regime(asked) {
            // Only valid translations are cached; a fault leaves nothing.
            let _walked = engine.find_or_walk(&regime, asked, crate::descriptor::Rights(0));
        }
    }

    /// Fetches the configuration of a stream, if it is reachable.
    pub(crate) fn prefetch_configuration(&mut self, stream: u32, substream: Option<u32>, around: Around<'_>) {
        if !self.is_enabled() {
            return;
        }
        let asked = Asked::prefetch(stream, substream.filter(|&id| id != 0), 0);
        let mut engine = self.engine(around);
        engine.demand = false;
        let _regime = engine.regime(&asked);
    }

    /// Fetches the configuration of some stream: the one that asked last or that a command named last, one near it, or one below another
    /// level 1 descriptor near its own.
    pub(crate) fn prefetch_some_stream(&mut self, around: Around<'_>) {
        let near = self.dice.up_to(8);
        let step = match self.dice.up_to(2) {
            0 => 0,
            1 => near,
            _ => near << self.setup.split.unwrap_or(0),
        };
        let stream = if self.dice.one_in(2) {
            self.last_stream.saturating_add(step)
        } else {
            self.last_stream.saturating_sub(step)
        };
        if u64::from(stream) >> self.setup.lg2 == 0 {
            self.prefetch_configuration(stream, None, around);
        }
    }
}
