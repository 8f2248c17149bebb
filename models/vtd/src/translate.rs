//! What becomes of one request: from the device's address to a physical one, or a fault.
//!
//! Spec: VT-d 5.10, 6.2.7 "Translating Address Using Caches in Legacy Mode", 6.2.4.1 "Details of IOTLB Use", 7.1.3 "Fault Conditions".

use crate::caches::AnyContext;
use crate::contexts::Regime;
use crate::engine::{Asked, Engine, Fault, Form, is_interrupt_address};
use crate::entry::Type;
use crate::first::allows_write;
use crate::iotlb::{SecondRights, Translation};
use crate::reason::Reason;
use crate::strict::clause;

/// What a request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) translation: Translation,
    /// It was cached.
    pub(crate) hit: bool,
}

impl Engine<'_> {
    /// Judges a request that is to be translated.
    pub(crate) fn translate(&mut self, asked: &Asked) -> Result<Grant, Fault> {
        self.check_mode(asked)?;
        // The context decides whether ATS is allowed at all; an untranslated request that finds its translation needs none.
        let early = match asked.form {
            Form::Untranslated => None,
            _ => Some(self.regime(asked)?),
        };
        if let Some(translation) = self.cached(asked) {
            self.check(&translation, asked).map_err(|reason| Fault { reason, silent: translation.silent })?;
            return Ok(Grant { translation, hit: true });
        }
        let regime = match early {
            Some(regime) => regime,
            None => self.regime(asked)?,
        };
        let fault = |reason| Fault { reason, silent: regime.silent };
        let walked = self.walk(&regime, asked);
        let checked = walked.and_then(|translation| self.check(&translation, asked).map(|()| translation));
        self.remember(&regime, asked, walked.ok(), checked.err());
        checked.map(|translation| Grant { translation, hit: false }).map_err(fault)
    }

    /// A cached translation that will do.
    fn cached(&self, asked: &Asked) -> Option<Translation> {
        // Whether somebody may execute no translation says: SPT.5 blocks it whatever is cached.
        if self.fresh || asked.execute {
            return None;
        }
        let &found = self.caches.iotlb.find(asked.source, asked.pasid, asked.address, self.choice)?;
        // A flag is still to be set in memory.
        let must_walk =
            asked.write && !found.dirty && found.fault.is_none() && self.check(&found, asked).is_ok();
        (!must_walk).then_some(found)
    }

    /// Keeps what a walk found. Without caching mode, only what did not end in a fault.
    fn remember(
        &mut self,
        regime: &Regime,
        asked: &Asked,
        walked: Option<Translation>,
        fault: Option<Reason>,
    ) {
        if self.fresh {
            return;
        }
        let most = self.config.policy.translations;
        match (walked, fault) {
            (Some(translation), None) => self.caches.iotlb.keep(asked.source, asked.pasid, translation, most),
            (walked, Some(reason)) if self.config.caching_mode && !reason.is_first_stage() => {
                let page = Translation {
                    first: asked.address & !0xfff,
                    size_lg2: 12,
                    output: 0,
                    fault: Some(reason),
                    ..blank(regime)
                };
                // What was walked to its end keeps its permissions; anything else is only its fault.
                let kept = walked.filter(|_| reason.is_permission()).unwrap_or(page);
                self.caches.iotlb.keep(asked.source, asked.pasid, kept, most);
            }
            _ => {}
        }
    }

    /// Walks the tables.
    fn walk(&mut self, regime: &Regime, asked: &Asked) -> Result<Translation, Reason> {
        let Asked { address, write, .. } = *asked;
        let blank = blank(regime);
        let privileged = if asked.pasid.is_some() { asked.privileged } else { regime.rid_priv };
        match (&regime.first, &regime.second) {
            (None, None) => {
                if address >> self.config.host_bits != 0 {
                    return Err(if regime.legacy { Reason::Address } else { Reason::HostAddress });
                }
                let first = address & !0xfff;
                Ok(Translation { first, size_lg2: 12, output: first, ..blank })
            }
            (None, Some(second)) => {
                let leaf = self.walk_second(second, address, write)?;
                Ok(Translation {
                    first: leaf.first,
                    size_lg2: leaf.size_lg2,
                    output: leaf.output,
                    second_rights: Some(leaf.rights),
                    dirty: leaf.dirty,
                    ..blank
                })
            }
            (Some(first), _) => {
                let leaf = self.walk_first(first, address, write, privileged)?;
                let found = Translation {
                    first: leaf.first,
                    size_lg2: leaf.size_lg2,
                    output: leaf.output,
                    first_rights: Some(leaf.rights),
                    dirty: leaf.dirty,
                    ..blank
                };
                let Some(second) = &first.nested else { return Ok(found) };
                let guest = found.output_of(address);
                let below = self.walk_second(second, guest, write)?;
                // The smaller of the two pages.
                let size_lg2 = leaf.size_lg2.min(below.size_lg2);
                let start = address >> size_lg2 << size_lg2;
                Ok(Translation {
                    first: start,
                    size_lg2,
                    output: below.output_of(guest >> size_lg2 << size_lg2),
                    second_rights: Some(below.rights),
                    dirty: leaf.dirty && below.dirty,
                    ..found
                })
            }
        }
    }

    /// What a translation has against a request.
    fn check(&self, found: &Translation, asked: &Asked) -> Result<(), Reason> {
        let lacking = |write| match (found.legacy, write) {
            (true, true) => Reason::Write,
            (true, false) => Reason::Read,
            (false, true) => Reason::ScalableWrite,
            (false, false) => Reason::ScalableRead,
        };
        match found.fault {
            Some(reason) if reason.is_permission() => return Err(lacking(asked.write)),
            Some(reason) => return Err(reason),
            None => {}
        }
        let privileged = if asked.pasid.is_some() { asked.privileged } else { found.rid_priv };
        if privileged && !found.supervisor {
            return Err(Reason::SupervisorOff);
        }
        if let Some(rights) = found.first_rights {
            if !privileged && !rights.user {
                return Err(Reason::Privilege);
            }
            if asked.write && !allows_write(rights, privileged) {
                return Err(lacking(true));
            }
        }
        if let Some(SecondRights { read, write }) = found.second_rights {
            // 3.14: a read of nothing needs no permission to read where ZLR is set.
            let reads = !(asked.write || asked.empty && self.config.zero_length_reads && write);
            if asked.write && !write || reads && !read {
                return Err(lacking(asked.write));
            }
        }
        if is_interrupt_address(found.output_of(asked.address)) {
            return Err(if found.legacy { Reason::InterruptRange } else { Reason::ScalableInterruptRange });
        }
        Ok(())
    }

    /// Judges a request by a translated address: whether it may go where it says.
    ///
    /// Spec: VT-d 5.10, 4.2.5 "Handling of Translated Requests".
    pub(crate) fn translated(&mut self, asked: &Asked) -> Result<(), Fault> {
        self.check_mode(asked)?;
        let cached = self.context(asked.source);
        let fault = |reason| Fault { reason, silent: cached.silent };
        let (range, width) = match cached.meaning.map_err(fault)? {
            AnyContext::Legacy(context) if context.kind == Type::WithAts => {
                (Reason::InterruptRange, Reason::Address)
            }
            AnyContext::Legacy(_) => return Err(fault(Reason::AtsBlocked)),
            AnyContext::Scalable(context) => {
                self.check_scalable_context(&context, asked).map_err(fault)?;
                (Reason::ScalableInterruptRange, Reason::HostAddress)
            }
        };
        if is_interrupt_address(asked.address) {
            return Err(fault(range));
        }
        if asked.address >> self.config.host_bits != 0 {
            return Err(fault(width));
        }
        Ok(())
    }

    /// Notes a paging entry that maps to the interrupt range.
    pub(crate) fn judge_fault(&mut self, asked: &Asked, fault: Fault) {
        let mapped = matches!(fault.reason, Reason::InterruptRange | Reason::ScalableInterruptRange);
        if mapped && asked.form != Form::Translated && !is_interrupt_address(asked.address) {
            let detail = format!("source {:#06x}, address {:#x}", asked.source, asked.address);
            self.notes.record(clause::INTERRUPT_RANGE, detail);
        }
    }
}

/// A translation of nothing, with everything allowed.
fn blank(regime: &Regime) -> Translation {
    Translation {
        made: regime.made,
        legacy: regime.legacy,
        domain: regime.domain,
        pasid: regime.pasid,
        first: 0,
        size_lg2: 12,
        output: 0,
        first_rights: None,
        second_rights: None,
        supervisor: regime.supervisor,
        rid_priv: regime.rid_priv,
        dirty: true,
        silent: regime.silent,
        fault: None,
    }
}
