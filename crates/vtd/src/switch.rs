//! Changing where the entries of sources lead.
//!
//! # Order
//!
//! 1. The old entries lose their present bit, all of them; a barrier.
//! 2. The caches forget them, in one run: context cache (legacy mode) or PASID cache, then IOTLB, by the domain-id that the entries had. Device TLBs are empty: ATS
//!    is off meanwhile (`sharing`).
//! 3. The new entries are stored, the present bit last; hardware that caches what is not present, or has a write buffer, is told.
//!
//! If step 2 is not confirmed the old entries are put back, unless the sources were to be blocked, or what they led to is a process that has exited: then nothing is
//! put back. Sources whose entries were taken away
//! without a confirmation are *doubted*: hardware may go on by the old ones. The next change of theirs, also one to nothing, first makes the caches forget everything,
//! whatever memory says; so do the next look at the unit's errors, and a PASID's end while they are blocked.
//!
//! Spec: VT-d 5.10, 6.5.3.3 "Guidance to Software for Invalidations", Table 28 "Changes to a context-table entry", "Present bit transition from 1 to 0 in a
//! scalable-mode PASID-table entry"; 6.2.2 "Context-Cache" and 6.2.3 "PASID-Cache", domain-id 0 for what is not present.
//! Not here: what sources are attached to (`vtd`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::vtd::context::ScalableContextWord1;
use portcullis_types::{Pa, mutant};

use crate::context::Tables;
use crate::descriptor::Descriptor;
use crate::devices::{Devices, Source};
use crate::domain::RID_PASID;
use crate::hardware::Hardware;
use crate::lead::Lead;
use crate::pasid::Directory;

/// What tags entries that are not present, in caching mode.
const NOT_PRESENT: u16 = 0;

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Makes sources known as those of a device, with room for their entries, so that no change of where they lead lacks memory: least of all one that is undone. Changes nothing
    /// that hardware could follow. None if there is no memory: then nothing is known and nothing there that was not before.
    pub(crate) fn know(
        &self,
        tables: &mut Tables<P>,
        devices: &mut Devices<P>,
        name: &Arc<str>,
        sids: &[u16],
    ) -> Option<()> {
        let lacks = |sid: &&u16| devices.get(**sid).is_none_or(|source| source.directory.is_none());
        let lacking: Vec<u16> =
            sids.iter().filter(lacks).filter(|_| self.features.scalable).copied().collect();
        let mut made = Vec::new();
        made.extend(lacking.iter().map_while(|_| Directory::new(self)));
        if made.len() < lacking.len() || tables.ensure(self, sids).is_none() {
            made.into_iter().for_each(|directory| directory.free(&*self.platform));
            return None;
        }
        sids.iter().for_each(|&sid| devices.insert(name, sid));
        for (sid, directory) in lacking.into_iter().zip(made) {
            if let Some(source) = devices.get_mut(sid) {
                source.directory = Some(directory);
            }
        }
        Some(())
    }

    /// Says again that everything is to be forgotten, if hardware has not confirmed it of some source, now that the queue may work. What is not confirmed now either stays
    /// doubted.
    pub(crate) fn say_again(&self, devices: &mut Devices<P>) -> Result<(), SyncError> {
        let doubted = devices.all_doubted();
        if !doubted.is_empty() {
            self.forget_everything()?;
            devices.doubt(&doubted, false);
        }
        Ok(())
    }

    /// Makes the entries of these sources, which are known, lead to `next`, or nowhere. ATS of their devices is off. What those of `ended` lead to is not there any
    /// more: they are not led back to it.
    pub(crate) fn switch(
        &self,
        tables: &Tables<P>,
        devices: &mut Devices<P>,
        sids: &[u16],
        next: Option<Lead>,
        ended: &[u16],
    ) -> Result<(), AttachError> {
        let before: Vec<(u16, Option<Lead>)> =
            sids.iter().map(|&sid| (sid, devices.get(sid).and_then(|source| source.lead))).collect();
        let cut = self.cut(tables, devices, &before);
        if let Err(error) = cut {
            if next.is_none() {
                self.leave_blocked(tables, devices, &before);
                return Err(AttachError::LeftBlocked(error));
            }
            let back: Vec<_> = before.iter().copied().filter(|(sid, _)| !ended.contains(sid)).collect();
            return match self.lead_all(tables, devices, &back) {
                // What hardware may remember is what is there again; of who had nothing it remembers what it did.
                Ok(()) => Err(AttachError::Sync(error)),
                Err(_) => {
                    self.clear_all(tables, devices, &before);
                    self.leave_blocked(tables, devices, &before);
                    Err(AttachError::LeftBlocked(error))
                }
            };
        }
        devices.doubt(sids, false);
        if next.is_none() {
            // Requests with PASID are blocked by this, too.
            self.note(devices, &before, |_| None);
            return self.close(tables, devices, sids).map_err(AttachError::LeftBlocked);
        }
        let after: Vec<_> = sids.iter().map(|&sid| (sid, next)).collect();
        if let Err(error) = self.lead_all(tables, devices, &after) {
            self.clear_all(tables, devices, &after);
            self.leave_blocked(tables, devices, &after);
            return Err(AttachError::LeftBlocked(error));
        }
        self.note(devices, &after, |lead| lead);
        Ok(())
    }

    /// Their entries lead nowhere any more, and hardware has not confirmed it. In scalable mode their context entries go, too: a present one lets requests with PASID
    /// through, and translated ones wherever they say.
    fn leave_blocked(&self, tables: &Tables<P>, devices: &mut Devices<P>, leads: &[(u16, Option<Lead>)]) {
        self.note(devices, leads, |_| None);
        for &(sid, _) in leads {
            if let Some(at) = tables.find(sid).filter(|_| self.features.scalable) {
                self.store_word(at, 0);
            }
            devices.doubt(&[sid], true);
        }
    }

    fn note(
        &self,
        devices: &mut Devices<P>,
        leads: &[(u16, Option<Lead>)],
        what: impl Fn(Option<Lead>) -> Option<Lead>,
    ) {
        for &(sid, lead) in leads {
            if let Some(source) = devices.get_mut(sid) {
                source.lead = what(lead);
            }
        }
    }

    /// Where the entry of a source lies that says where requests without PASID go.
    fn entry_of(&self, tables: &Tables<P>, devices: &Devices<P>, sid: u16) -> Option<Pa> {
        if self.features.scalable {
            devices.get(sid)?.directory.as_ref().map(Directory::whole)
        } else {
            tables.find(sid)
        }
    }

    fn clear_all(&self, tables: &Tables<P>, devices: &Devices<P>, leads: &[(u16, Option<Lead>)]) {
        for &(sid, _) in leads {
            if let Some(at) = self.entry_of(tables, devices, sid) {
                self.store_word(at, 0);
            }
        }
    }

    /// Steps 1 and 2.
    fn cut(
        &self,
        tables: &Tables<P>,
        devices: &Devices<P>,
        before: &[(u16, Option<Lead>)],
    ) -> Result<(), SyncError> {
        let led: Vec<(u16, Lead)> = before.iter().filter_map(|&(sid, lead)| Some((sid, lead?))).collect();
        let sids: Vec<u16> = before.iter().map(|&(sid, _)| sid).collect();
        let doubted = devices.any_doubted(&sids);
        if led.is_empty() && !doubted {
            return Ok(());
        }
        self.clear_all(tables, devices, before);
        let scalable = self.features.scalable;
        if doubted {
            // By what domain-ids hardware remembers what it should have forgotten, nobody knows any more; and this is rare.
            return self.forget_everything();
        }
        let mut forget: Vec<Descriptor> = Vec::new();
        for &(sid, lead) in &led {
            let entry = if scalable {
                Descriptor::pasid_cache(lead.did, RID_PASID)
            } else {
                Descriptor::context(lead.did, sid)
            };
            push_once(&mut forget, entry);
        }
        if !mutant!("vtd-old-domain-remembered") {
            led.iter().for_each(|(_, lead)| push_once(&mut forget, lead.forget_iotlb(scalable, RID_PASID)));
        }
        self.run(&forget)
    }

    /// Step 3.
    fn lead_all(
        &self,
        tables: &Tables<P>,
        devices: &Devices<P>,
        leads: &[(u16, Option<Lead>)],
    ) -> Result<(), SyncError> {
        let mut forget = Vec::new();
        let mut tags = Vec::new();
        for &(sid, lead) in leads {
            let (Some(lead), Some(at)) = (lead, self.entry_of(tables, devices, sid)) else { continue };
            if self.features.scalable {
                self.store_entry(at, &lead.pasid(&self.features));
                self.open(tables, devices, sid, &mut forget);
                not_present_pasid(lead.did, RID_PASID).into_iter().for_each(|it| push_once(&mut tags, it));
            } else if let Some(words) = lead.context(&self.features) {
                self.store_entry(at, &words);
                push_once(&mut forget, Descriptor::context(NOT_PRESENT, sid));
            }
            push_once(&mut tags, lead.forget_iotlb(self.features.scalable, RID_PASID));
        }
        forget.append(&mut tags);
        if forget.is_empty() { Ok(()) } else { self.show(&forget) }
    }

    /// Makes the context entry of a source lead to its directory, if it does not yet.
    fn open(&self, tables: &Tables<P>, devices: &Devices<P>, sid: u16, forget: &mut Vec<Descriptor>) {
        let word0 = devices.get(sid).and_then(Source::context_word);
        let (Some(at), Some(word0)) = (tables.find(sid), word0) else { return };
        if self.platform.load(at) != 0 {
            return;
        }
        let word1 = ScalableContextWord1::new().with_rid_pasid(RID_PASID).into_bits();
        self.store_entry(at, &[word0, word1, 0, 0]);
        push_once(forget, Descriptor::context(NOT_PRESENT, sid));
    }

    /// Brings the first word of the context entries of sources up to date, where they are present.
    ///
    /// Spec: VT-d 5.10, 6.5.3.3, Table 28 "Changes to a scalable-mode context-table entry".
    pub(crate) fn update_contexts(
        &self,
        tables: &Tables<P>,
        devices: &mut Devices<P>,
        sids: &[u16],
    ) -> Result<(), SyncError> {
        self.change_contexts(tables, devices, sids, Source::context_word)
    }

    /// Takes the context entries of sources in scalable mode away: nothing of theirs gets through, with PASID or without. On success hardware knows neither them nor
    /// their directories.
    fn close(&self, tables: &Tables<P>, devices: &mut Devices<P>, sids: &[u16]) -> Result<(), SyncError> {
        if !self.features.scalable {
            return Ok(());
        }
        self.change_contexts(tables, devices, sids, |_| Some(0))
    }

    fn change_contexts(
        &self,
        tables: &Tables<P>,
        devices: &mut Devices<P>,
        sids: &[u16],
        word: impl Fn(&Source<P>) -> Option<u64>,
    ) -> Result<(), SyncError> {
        let mut forget = Vec::new();
        for &sid in sids {
            let word = devices.get(sid).and_then(&word);
            let (Some(at), Some(word)) = (tables.find(sid), word) else { continue };
            if self.platform.load(at) != 0 {
                self.store_word(at, word);
                forget.push(Descriptor::context(NOT_PRESENT, sid));
            }
        }
        if forget.is_empty() {
            return Ok(());
        }
        // The domains of all PASIDs are affected, and this is rare.
        forget.push(Descriptor::pasid_cache_all());
        forget.push(Descriptor::iotlb_all());
        let outcome = self.run(&forget);
        devices.doubt(sids, outcome.is_err());
        outcome
    }
}

/// What makes a unit in caching mode forget that the entry of a PASID was not present, wherever it is: by the domain-id that tags such entries, and by that of the entry
/// that is there now.
///
/// Spec: VT-d 5.10, 6.2.3 "PASID-Cache": "the reserved domain-id value of 0 is used to tag the cached entries that would result in a fault". Observed: QEMU 11, `vtd_pasid_cache_sync_locked`
/// takes up an entry only if the invalidation has its domain-id.
pub(crate) fn not_present_pasid(did: u16, pasid: u32) -> [Descriptor; 2] {
    [Descriptor::pasid_cache(NOT_PRESENT, pasid), Descriptor::pasid_cache(did, pasid)]
}

fn push_once(list: &mut Vec<Descriptor>, descriptor: Descriptor) {
    if !list.contains(&descriptor) {
        list.push(descriptor);
    }
}
