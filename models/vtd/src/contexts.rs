//! From a request to what is done with it: root, context, PASID directory and PASID table.
//!
//! Spec: VT-d 5.10, 3.4.2 "Legacy Mode Address Translation", 3.4.3 "Scalable Mode Address Translation", 6.2.2 "Context-Cache", 6.2.3 "PASID-Cache",
//! 7.1.3, Table 30.
//! Not here: what entries mean (`entry`), walks (`first`, `second`).

use crate::bits::field;
use crate::caches::{AnyContext, CachedContext, CachedPasid};
use crate::engine::{Asked, Engine, Fault, Form};
use crate::entry::{
    self, Context, Granular, PasidEntry, ScalableContext, Type, is_present, is_silent, pointer,
};
use crate::first::First;
use crate::iotlb::Made;
use crate::reason::Reason;
use crate::second::Second;
use crate::strict::clause;

/// How a request is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regime {
    pub(crate) legacy: bool,
    pub(crate) made: Made,
    pub(crate) domain: u16,
    /// That of the request, or RID_PASID; 0 in legacy mode.
    pub(crate) pasid: u32,
    pub(crate) first: Option<First>,
    pub(crate) second: Option<Second>,
    /// SRE.
    pub(crate) supervisor: bool,
    /// RID_PRIV.
    pub(crate) rid_priv: bool,
    pub(crate) silent: bool,
}

impl Engine<'_> {
    /// What the mode has against a request. Table 30, RTA.
    pub(crate) fn check_mode(&self, asked: &Asked) -> Result<(), Fault> {
        let reason = match self.root.mode {
            0 if self.root.io_permissions => Reason::RootPointerInvalid,
            0 if asked.form == Form::PageRequest => Reason::PageRequestInLegacy,
            0 if asked.pasid.is_some() => Reason::PasidInLegacy,
            0 => return Ok(()),
            1 if self.config.scalable.is_some() => {
                if asked.execute && self.config.version.0 >= 8 {
                    Reason::ExecuteRequested
                } else {
                    return Ok(());
                }
            }
            3 if self.config.abort_dma => Reason::AbortDma,
            _ => Reason::RootPointerInvalid,
        };
        Err(Fault::loud(reason))
    }

    /// The context entry of a source, cached or read.
    pub(crate) fn context(&mut self, source: u16) -> CachedContext {
        if !self.fresh
            && let Some(&cached) = self.caches.contexts.get(&source)
        {
            return cached;
        }
        let loaded = self.load_context(source);
        if !self.fresh {
            self.judge_context(source, &loaded);
            if loaded.meaning.is_ok() || self.config.caching_mode {
                self.caches.contexts.insert(source, loaded);
            }
        }
        loaded
    }

    /// The context entry of a source, as memory has it now.
    pub(crate) fn load_context(&mut self, source: u16) -> CachedContext {
        let mut silent = false;
        let meaning = if self.root.is_scalable() {
            self.load_scalable_context(source, &mut silent).map(AnyContext::Scalable)
        } else {
            self.load_legacy_context(source, &mut silent).map(AnyContext::Legacy)
        };
        CachedContext { meaning, silent }
    }

    fn load_legacy_context(&mut self, source: u16, silent: &mut bool) -> Result<Context, Reason> {
        let coherent = self.config.coherent;
        let at = self.root.table + 16 * u64::from(source >> 8);
        let root: [u64; 2] = self.read_words(at, coherent).map_err(|_| Reason::RootAccess)?;
        if !is_present(root[0]) {
            return Err(Reason::RootNotPresent);
        }
        if entry::root_reserved(root[0], self.config) || root[1] != 0 {
            return Err(Reason::RootReserved);
        }
        let at = pointer(root[0]) + 16 * u64::from(source & 0xff);
        let words: [u64; 2] = self.read_words(at, coherent).map_err(|_| Reason::ContextAccess)?;
        *silent = is_silent(words[0]);
        if !is_present(words[0]) {
            return Err(Reason::ContextNotPresent);
        }
        Context::decode(words, self.config)
    }

    fn load_scalable_context(&mut self, source: u16, silent: &mut bool) -> Result<ScalableContext, Reason> {
        let coherent = self.config.coherent;
        let at = self.root.table + 16 * u64::from(source >> 8);
        let root: [u64; 2] = self.read_words(at, coherent).map_err(|_| Reason::ScalableRootAccess)?;
        // Devices 16 to 31 are in the upper table.
        let half = root[usize::from(source >> 7 & 1)];
        if !is_present(half) {
            return Err(Reason::ScalableRootNotPresent);
        }
        if entry::root_reserved(half, self.config) {
            return Err(Reason::ScalableRootReserved);
        }
        let at = pointer(half) + 32 * u64::from(source & 0x7f);
        let words: [u64; 4] = self.read_words(at, coherent).map_err(|_| Reason::ScalableContextAccess)?;
        *silent = is_silent(words[0]);
        if !is_present(words[0]) {
            return Err(Reason::ScalableContextNotPresent);
        }
        ScalableContext::decode(words, self.config)
    }

    /// The PASID-table entry of a PASID, cached or read.
    fn pasid_entry(&mut self, source: u16, context: &ScalableContext, pasid: u32) -> CachedPasid {
        if !self.fresh
            && let Some(&cached) = self.caches.pasids.get(&(source, pasid))
        {
            return cached;
        }
        let mut silent = false;
        let meaning = self.load_pasid(context, pasid, &mut silent);
        let loaded = CachedPasid { meaning, silent };
        if !self.fresh {
            if let Ok(entry) = &meaning {
                self.judge_pasid(source, pasid, entry);
            }
            if meaning.is_ok() || self.config.caching_mode {
                self.caches.pasids.insert((source, pasid), loaded);
            }
        }
        loaded
    }

    fn load_pasid(
        &mut self,
        context: &ScalableContext,
        pasid: u32,
        silent: &mut bool,
    ) -> Result<PasidEntry, Reason> {
        let coherent = self.config.coherent;
        let at = context.directory + 8 * u64::from(pasid >> 6);
        let [directory] = self.read_words(at, coherent).map_err(|_| Reason::DirectoryAccess)?;
        *silent = is_silent(directory);
        if !is_present(directory) {
            return Err(Reason::DirectoryNotPresent);
        }
        if entry::directory_reserved(directory, self.config) {
            return Err(Reason::DirectoryReserved);
        }
        let at = pointer(directory) + 64 * u64::from(pasid & 0x3f);
        let words: [u64; 8] = self.read_words(at, coherent).map_err(|_| Reason::PasidAccess)?;
        *silent |= is_silent(words[0]);
        if !is_present(words[0]) {
            return Err(Reason::PasidNotPresent);
        }
        PasidEntry::decode(&words, self.config)
    }

    /// How a request is translated. The mode was checked.
    pub(crate) fn regime(&mut self, asked: &Asked) -> Result<Regime, Fault> {
        let cached = self.context(asked.source);
        let silent = cached.silent;
        let fault = |reason| Fault { reason, silent };
        match cached.meaning.map_err(fault)? {
            AnyContext::Legacy(context) => self.legacy_regime(&context, asked, silent),
            AnyContext::Scalable(context) => {
                self.check_scalable_context(&context, asked).map_err(fault)?;
                self.scalable_regime(&context, asked, silent)
            }
        }
    }

    fn legacy_regime(&self, context: &Context, asked: &Asked, silent: bool) -> Result<Regime, Fault> {
        if asked.form != Form::Untranslated && context.kind != Type::WithAts {
            return Err(Fault { reason: Reason::AtsBlocked, silent });
        }
        let through = context.kind == Type::PassThrough;
        let second = Second {
            domain: context.domain,
            root: context.root,
            levels: context.levels,
            dirty: false,
            snooped: self.config.coherent,
            legacy: true,
            io_permissions: false,
        };
        Ok(Regime {
            legacy: true,
            made: if through { Made::PassThrough } else { Made::Second },
            domain: context.domain,
            pasid: 0,
            first: None,
            second: (!through).then_some(second),
            supervisor: true,
            rid_priv: false,
            silent,
        })
    }

    /// What a scalable-mode context entry has against a request: SCT.5 to SCT.10, SGN.10.
    pub(crate) fn check_scalable_context(
        &self,
        context: &ScalableContext,
        asked: &Asked,
    ) -> Result<(), Reason> {
        if matches!(asked.form, Form::Translation | Form::Translated) && !context.device_tlb {
            return Err(Reason::DeviceTlbOff);
        }
        if asked.form == Form::PageRequest && !context.page_requests {
            return Err(Reason::PageRequestsOff);
        }
        let Some(pasid) = asked.pasid else { return Ok(()) };
        let bits = self.config.scalable.and_then(|mode| mode.pasid_bits).unwrap_or(0);
        if asked.form == Form::Translated && !context.translated_pasids {
            Err(Reason::TranslatedPasidOff)
        } else if !context.pasids {
            Err(Reason::PasidOff)
        } else if pasid >= context.pasid_end {
            Err(Reason::PasidBeyondDirectory)
        } else if pasid == context.rid_pasid {
            Err(Reason::PasidIsRidPasid)
        } else if pasid >> bits != 0 {
            Err(Reason::PasidTooWide)
        } else {
            Ok(())
        }
    }

    fn scalable_regime(
        &mut self,
        context: &ScalableContext,
        asked: &Asked,
        silent: bool,
    ) -> Result<Regime, Fault> {
        let pasid = asked.pasid.unwrap_or(context.rid_pasid);
        let cached = self.pasid_entry(asked.source, context, pasid);
        let silent = silent || cached.silent;
        let fault = |reason| Fault { reason, silent };
        let entry = cached.meaning.map_err(fault)?;
        if asked.execute && asked.form != Form::PageRequest {
            return Err(fault(Reason::ExecuteUnsupported));
        }
        let privileged = if asked.pasid.is_some() { asked.privileged } else { context.rid_priv };
        if privileged && !entry.supervisor && asked.form != Form::PageRequest {
            return Err(fault(Reason::SupervisorOff));
        }
        let snooped = entry.walks_snoop;
        let second = Second {
            domain: entry.domain,
            root: entry.second_root,
            levels: entry.second_levels,
            dirty: entry.second_dirty,
            snooped,
            legacy: false,
            io_permissions: self.root.io_permissions,
        };
        let second = (entry.second_levels != 0).then_some(second);
        let first = First {
            domain: entry.domain,
            pasid,
            root: entry.first_root,
            levels: entry.first_levels,
            extended: entry.extended_accessed,
            snooped,
            write_protect: entry.write_protect,
            nested: second,
        };
        Ok(Regime {
            legacy: false,
            made: match entry.kind {
                Granular::First => Made::First,
                Granular::Second => Made::Second,
                Granular::Nested => Made::Nested,
                Granular::PassThrough => Made::PassThrough,
            },
            domain: entry.domain,
            pasid,
            first: (entry.first_levels != 0).then_some(first),
            second: second.filter(|_| entry.first_levels == 0),
            supervisor: entry.supervisor,
            rid_priv: context.rid_priv,
            silent,
        })
    }

    /// Notes what is wrong with a context entry beside those that are cached.
    fn judge_context(&mut self, source: u16, loaded: &CachedContext) {
        let Ok(AnyContext::Legacy(new)) = loaded.meaning else { return };
        if new.domain == 0 && self.config.caching_mode {
            self.notes.record(clause::DOMAIN_ZERO, format!("source {source:#06x}"));
        }
        if new.kind == Type::PassThrough {
            if 9 * new.levels + 12 != self.config.depths.widest() {
                self.notes.record(clause::PASS_THROUGH_WIDTH, format!("source {source:#06x}"));
            }
            return;
        }
        let differs = |old: &Context| {
            old.kind != Type::PassThrough
                && old.domain == new.domain
                && (old.root, old.levels) != (new.root, new.levels)
        };
        let other = self.caches.contexts.iter().find_map(|(&theirs, cached)| match cached.meaning {
            Ok(AnyContext::Legacy(old)) if theirs != source && differs(&old) => Some((theirs, old)),
            _ => None,
        });
        if let Some((theirs, old)) = other {
            let detail = format!(
                "domain {:#x}: source {theirs:#06x} has {:#x}, source {source:#06x} has {:#x}",
                new.domain, old.root, new.root
            );
            self.notes.record(clause::DOMAIN_SHARED, detail);
        }
    }

    /// Notes what is wrong with a PASID-table entry beside those that are cached.
    fn judge_pasid(&mut self, source: u16, pasid: u32, new: &PasidEntry) {
        /// A look at all of them has its price: at those next to it, the same in every run.
        const MOST: usize = 256;
        if new.domain == 0 && self.config.caching_mode {
            self.notes.record(clause::DOMAIN_ZERO, format!("source {source:#06x}, PASID {pasid}"));
        }
        let second = |entry: &PasidEntry| entry.second_levels != 0;
        let mut wrong = None;
        let own = (source, pasid);
        let others = self.caches.pasids.range(own..).chain(self.caches.pasids.range(..own));
        for (&(theirs, their_pasid), cached) in others.take(MOST) {
            let Ok(old) = &cached.meaning else { continue };
            if old.domain != new.domain || (theirs, their_pasid) == own {
                continue;
            }
            let roots = |entry: &PasidEntry| (entry.second_root, entry.second_levels);
            let firsts = |entry: &PasidEntry| (entry.kind, entry.first_levels, entry.first_root);
            if second(old) != second(new) {
                wrong = Some(clause::DOMAIN_KINDS);
            } else if second(new) && roots(old) != roots(new) {
                wrong = Some(clause::DOMAIN_SHARED);
            } else if their_pasid == pasid && new.first_levels != 0 && firsts(old) != firsts(new) {
                wrong = Some(clause::PASID_SHARED);
            }
        }
        if let Some(clause) = wrong {
            let detail = format!("domain {:#x}, source {source:#06x}, PASID {pasid}", new.domain);
            self.notes.record(clause, detail);
        }
    }

    /// Compares what is cached of a source with memory, and notes a present entry that was changed in part.
    pub(crate) fn audit(&mut self, source: u16) {
        if let Some(cached) = self.caches.contexts.get(&source).copied() {
            self.audit_against(source, &cached);
        }
    }

    /// The same of what was cached of a source until now.
    pub(crate) fn audit_against(&mut self, source: u16, cached: &CachedContext) {
        let Ok(AnyContext::Legacy(old)) = cached.meaning else { return };
        let Ok(AnyContext::Legacy(new)) = self.load_context(source).meaning else { return };
        let tables = |context: &Context| (context.kind, context.root, context.levels);
        if old.domain == new.domain && tables(&old) != tables(&new) {
            let detail = format!("source {source:#06x}: {old:x?} became {new:x?}");
            self.notes.record(clause::ENTRY_UPDATE, detail);
        }
    }
}

/// The index of an entry of `level` for an address, in bytes.
pub(crate) fn offset(address: u64, level: u32) -> u64 {
    let shift = crate::structures::shift(level);
    field(address, shift + 8, shift) << 3
}
