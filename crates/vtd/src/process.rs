//! The memory of a process as this unit sees it: PASID table entries that lead to the process's own page table, and what makes the hardware forget what it read
//! from there.
//!
//! # Locks and order
//!
//! `life` is held while an entry for this process changes, waits included: attaching, detaching and the process's exit come one after the other. Where a device is attached
//! as a whole, and where it was, that is [`Held`]. `uses` is held for
//! moments only, so that an invalidation never waits for an attach. A source is in `uses` from before its entry is present until after it is not, and an
//! invalidation reads `uses` after the change that it is about: whoever could have read an old entry is told to forget it.
//!
//! # Exit
//!
//! When the process exits its entries become not present, with FPD: the device's accesses fail, and are not recorded. Then, in this order, the PASID cache, the
//! IOTLB and the devices' TLBs forget. When a PASID is detached its entry becomes the same, the same is forgotten, page requests that the unit had received are pushed into their
//! queue, and then the entry becomes zero: until then nobody is to blame for a request that was under way.
//!
//! # Without a PASID
//!
//! A device can be attached to a process as a whole: then the entry for requests without PASID leads to the process.
//!
//! Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", FPD; 6.5.3.3 "Guidance to Software for Invalidations", Table 28; 7.7 "Page Request Draining".
//! Not here: which devices may (`sharing`).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_core::mm::{ProcessMemory, ProcessTable};
use portcullis_core::sva::{AttachPasidError, ProcessDomain, ProcessDomainError};
use portcullis_hal::lock_api::MutexGuard;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::vtd::pasid::{FSPM_4_LEVELS, FSPM_5_LEVELS, PasidWord0};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{IovaRange, Pa, mutant};

use crate::descriptor::Descriptor;
use crate::domain::RID_PASID;
use crate::hardware::Hardware;
use crate::lead::{Lead, To};
use crate::left::{Kept, Left};
use crate::span::Span;
use crate::switch::not_present_pasid;

/// The memory of a process, for the devices behind one unit.
pub struct Process<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    mm: Arc<dyn ProcessMemory>,
    lead: Lead,
    life: Lock<P, Life>,
    /// Where the entries lie that lead here, by source and PASID.
    uses: Lock<P, BTreeMap<(u16, u32), Pa>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    /// Exits, but hardware has not confirmed for all devices.
    Exits,
    Exited,
}

impl<P: Platform, R: Registers> fmt::Debug for Process<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("mm", &self.mm.id())
            .field("did", &self.lead.did)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Process<P, R> {
    pub(crate) fn new(
        hardware: Arc<Hardware<P, R>>,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Self, ProcessDomainError> {
        let to = walk(&hardware, &mm.table()).ok_or(ProcessDomainError::UnsupportedTable)?;
        let did = hardware.ids.lock().take().ok_or(ProcessDomainError::NoIds)?;
        Ok(Self {
            lead: Lead { did, to },
            mm,
            life: Lock::<P, Life>::new(Life::Lives),
            uses: Lock::<P, BTreeMap<(u16, u32), Pa>>::new(BTreeMap::new()),
            hardware,
        })
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The domain-id that tags what hardware remembers of it.
    pub fn id(&self) -> u16 {
        self.lead.did
    }

    pub(crate) fn lead(&self) -> Lead {
        self.lead
    }

    /// Makes `pasid` of these sources, whose entries lie there, lead here. On failure to confirm, the entries are known here: they must be detached.
    pub(crate) fn attach(&self, places: &[(u16, Pa)], pasid: u32) -> Result<(), AttachPasidError> {
        let life = self.life.lock();
        if *life != Life::Lives {
            return Err(AttachPasidError::Exited);
        }
        // Known to invalidations before an entry is present.
        let mut uses = self.uses.lock();
        if places.iter().any(|&(sid, _)| uses.contains_key(&(sid, pasid))) {
            return Err(AttachPasidError::Taken);
        }
        uses.extend(places.iter().map(|&(sid, at)| ((sid, pasid), at)));
        drop(uses);
        let words = self.lead.pasid(&self.hardware.features);
        places.iter().for_each(|&(_, at)| self.hardware.store_entry(at, &words));
        self.hardware.show(&not_present_pasid(self.lead.did, pasid)).map_err(AttachPasidError::Sync)
    }

    /// Makes `pasid` of these sources mean nothing. On success hardware has forgotten it.
    pub(crate) fn detach(&self, sids: &[u16], pasid: u32) -> Result<(), SyncError> {
        let _life = self.life.lock();
        let uses: Vec<(u16, Pa)> = {
            let uses = self.uses.lock();
            sids.iter().filter_map(|&sid| Some((sid, *uses.get(&(sid, pasid))?))).collect()
        };
        if uses.is_empty() {
            return Ok(());
        }
        // Requests that are under way still are nobody's fault.
        if !mutant!("vtd-detached-pasid-forgotten-while-present") {
            uses.iter().for_each(|&(_, at)| self.hardware.store_word(at, quiet()));
        }
        self.forget(&[pasid])?;
        let devices: Vec<_> =
            uses.iter().map(|&(sid, _)| (sid, Descriptor::pasid_device_tlb(sid, pasid, None))).collect();
        if !mutant!("vtd-atc-remembers-a-detached-pasid") {
            self.hardware.run_on_devices(&devices, !mutant!("vtd-detach-drains-nothing"))?;
        }
        // Not present either way, so that hardware has nothing to forget; what comes from now on is a fault.
        uses.iter().for_each(|&(_, at)| self.hardware.store_word(at, 0));
        // Known to invalidations until its entry is gone.
        let mut known = self.uses.lock();
        known.retain(|&(sid, used), _| used != pasid || !sids.contains(&sid));
        Ok(())
    }

    /// Keeps it from exiting, and whoever else changes its entries from that, until what comes back is dropped.
    pub(crate) fn hold(&self) -> Held<'_, P, R> {
        Held { process: self, life: self.life.lock() }
    }

    /// The source is gone, with its entries.
    pub(crate) fn forget_source(&self, sid: u16) {
        let _life = self.life.lock();
        self.uses.lock().retain(|&(used, _), _| used != sid);
    }

    /// The PASIDs that mean this process, each once.
    fn pasids(&self) -> Vec<u32> {
        let mut pasids: Vec<u32> = self.uses.lock().keys().map(|&(_, pasid)| pasid).collect();
        pasids.sort_unstable();
        pasids.dedup();
        pasids
    }

    /// Makes the PASID cache and the IOTLB forget entries that are not present any more.
    fn forget(&self, pasids: &[u32]) -> Result<(), SyncError> {
        let did = self.lead.did;
        let mut forget: Vec<_> = pasids.iter().map(|&pasid| Descriptor::pasid_cache(did, pasid)).collect();
        forget.extend(pasids.iter().map(|&pasid| Descriptor::iotlb_pasid(did, pasid)));
        self.hardware.run(&forget)
    }

    /// Makes devices forget a range, or everything.
    fn forget_devices(&self, span: Option<Span>) -> Result<(), SyncError> {
        let devices: Vec<_> = {
            let uses = self.uses.lock();
            uses.keys().map(|&(sid, pasid)| (sid, Descriptor::pasid_device_tlb(sid, pasid, span))).collect()
        };
        self.hardware.run_on_devices(&devices, false)
    }

    fn say(&self, name: &'static str, range: Option<IovaRange>) {
        if !self.hardware.platform.listening() {
            return;
        }
        let pasid = self.pasids().first().copied().unwrap_or(0);
        let range = range.unwrap_or_else(IovaRange::all);
        self.hardware.platform.event(&Event {
            source: "vtd",
            name,
            fields: &[
                ("pasid", Value::Dec(pasid.into())),
                ("start", Value::Hex(range.first().get())),
                ("last", Value::Hex(range.last().get())),
            ],
        });
    }
}

/// A process whose entries for requests without PASID change, and which does not exit meanwhile.
pub(crate) struct Held<'a, P: Platform, R: Registers + 'static> {
    process: &'a Process<P, R>,
    life: MutexGuard<'a, P::Mutex, Life>,
}

impl<P: Platform, R: Registers> Held<'_, P, R> {
    /// Whether it is this one.
    pub(crate) fn is(&self, process: &dyn ProcessDomain) -> bool {
        process.as_any().downcast_ref().is_some_and(|it| core::ptr::eq(it, self.process))
    }

    /// Whether entries may lead to it.
    pub(crate) fn lives(&self) -> bool {
        *self.life == Life::Lives
    }

    /// Entries for requests without PASID are about to lead here.
    pub(crate) fn expect_whole(&self, places: impl Iterator<Item = (u16, Pa)>) -> Result<(), AttachError> {
        if !self.lives() {
            return Err(AttachError::Exited);
        }
        let mut uses = self.process.uses.lock();
        uses.extend(places.map(|(sid, at)| ((sid, RID_PASID), at)));
        Ok(())
    }

    /// The entry for requests of this source without PASID is again what its exit made of it.
    pub(crate) fn hush_whole(&self, sid: u16) {
        let at = self.process.uses.lock().get(&(sid, RID_PASID)).copied();
        at.into_iter().for_each(|at| self.process.hardware.store_word(at, quiet()));
    }

    /// No entry for requests of this source without PASID leads here any more.
    pub(crate) fn forget_whole(&self, sid: u16) {
        self.process.uses.lock().remove(&(sid, RID_PASID));
    }
}

/// Each process once.
pub(crate) fn distinct<'a>(
    processes: impl Iterator<Item = &'a Arc<dyn ProcessDomain>>,
) -> Vec<Arc<dyn ProcessDomain>> {
    let mut distinct: Vec<Arc<dyn ProcessDomain>> = Vec::new();
    for process in processes {
        if distinct.iter().all(|other| !Arc::ptr_eq(other, process)) {
            distinct.push(process.clone());
        }
    }
    distinct
}

/// The process, held; none if it is no unit of this kind's.
pub(crate) fn hold<P: Platform, R: Registers>(process: &dyn ProcessDomain) -> Option<Held<'_, P, R>> {
    process.as_any().downcast_ref::<Process<P, R>>().map(Process::hold)
}

/// The one of `held` that this is.
pub(crate) fn held_of<'a, 'b, P: Platform, R: Registers>(
    held: &'a [Held<'b, P, R>],
    process: &dyn ProcessDomain,
) -> Option<&'a Held<'b, P, R>> {
    held.iter().find(|held| held.is(process))
}

impl<P: Platform, R: Registers> ProcessDomain for Process<P, R> {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.say("mm_invalidate", Some(range));
        let span = Span::covering(range);
        let largest = self.hardware.features.largest_mask;
        let pages = span.filter(|span| largest.is_some_and(|mask| span.mask <= mask));
        let did = self.lead.did;
        let forget: Vec<_> = self
            .pasids()
            .into_iter()
            .map(|pasid| match pages {
                Some(span) => Descriptor::iotlb_pasid_pages(did, pasid, span, false),
                None => Descriptor::iotlb_pasid(did, pasid),
            })
            .collect();
        self.hardware.run(&forget)?;
        self.forget_devices(span)
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        let mut life = self.life.lock();
        if *life == Life::Exited {
            return Ok(());
        }
        self.say("mm_release", None);
        *life = Life::Exits;
        let places: Vec<Pa> = self.uses.lock().values().copied().collect();
        places.into_iter().for_each(|at| self.hardware.store_word(at, quiet()));
        // What devices hold is asked for though the unit did not confirm the rest.
        let forgotten = self.forget(&self.pasids());
        forgotten.and(self.forget_devices(None))?;
        *life = Life::Exited;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Process<P, R> {
    fn drop(&mut self) {
        // Every PASID was detached, and forgotten by that; what is tagged with the id alone is forgotten here.
        let did = self.lead.did;
        self.hardware.bury(Left { did, forget: Descriptor::iotlb_domain(did), kept: Kept::Nothing });
    }
}

/// The first word of an entry that is not present, and of which no fault is recorded.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", FPD.
fn quiet() -> u64 {
    PasidWord0::new().with_fpd(!mutant!("vtd-exited-process-faults-loudly")).into_bits()
}

/// How this hardware walks a table like this one; none if it cannot.
///
/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry", FSPM, PAT; 11.4.2 "Capability Register", FS5LP.
fn walk<P: Platform, R>(hardware: &Hardware<P, R>, table: &ProcessTable) -> Option<To> {
    let &ProcessTable::X86 { root, levels, output_bits, pat } = table else { return None };
    let features = &hardware.features;
    let fspm = match levels {
        4 => FSPM_4_LEVELS,
        5 if features.capability.fs5lp() => FSPM_5_LEVELS,
        _ => return None,
    };
    if output_bits > features.output_bits
        || !root.is_aligned(0x1000)
        || root.get() >> features.output_bits != 0
    {
        return None;
    }
    Some(To::First { root, fspm, pat: short_pat(pat), process: true })
}

/// Eight memory types of 8 bits each, as CPUs have them, in 4 bits each.
pub(crate) fn short_pat(pat: u64) -> u32 {
    pat.to_le_bytes().iter().rev().fold(0, |short, kind| short << 4 | u32::from(kind & 0xf))
}

#[cfg(test)]
mod unit_tests {
    #[test]
    fn memory_types_are_packed_in_their_order() {
        assert_eq!(super::short_pat(0x0007_0406_0007_0406), 0x0746_0746);
    }
}
