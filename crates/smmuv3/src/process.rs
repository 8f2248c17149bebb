//! The memory of a process as this SMMU sees it: a context descriptor that leads to the process's own page table, and what makes the hardware
//! forget what it read from there.
//!
//! # Locks and order
//!
//! `life` is held while a device's descriptor for this process changes, waits included: attaching, detaching and the process's exit come one
//! after the other. `devices` is held for moments only, so that an invalidation never waits for an attach. A device is in `devices` from before its
//! descriptor is valid until after it is not, and an invalidation reads `devices` after the TLB has forgotten: whoever could have read an old entry is
//! told to forget it.
//!
//! # Exit
//!
//! When the process exits its descriptors stay valid, since accesses through an invalid one are errors of configuration without end. Walks are
//! disabled (EPD0), and unless the hardware always stalls, faults are neither recorded nor stalled any more: the device's
//! accesses end quickly and quietly. All of this is in one word, so the hardware sees the old descriptor or the new one.
//!
//! # Without a PASID
//!
//! A device can be attached to a process as a whole: then the process's descriptor is the one for traffic without a SubstreamID, in a table that the device's
//! entry is led to. The device is in `devices` from before that, and known for as long as somebody has the table: until after its entry leads
//! elsewhere, or for good if hardware did not confirm that it does. Exit quiesces this descriptor as any other.
//!
//! # The same ASID again
//!
//! A process that is shared once more has the ASID that it had. While another domain of its is there, or hardware has not confirmed that it forgot the ASID when that went, TLBs may have what that
//! domain's devices read, and who told them of changes may do so no longer. So before a device first leads to the new one, which is told by then, the ASID is forgotten.
//!
//! Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor"; 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance".
//! Not here: which devices may (`sharing`), ASIDs (`asids`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use portcullis_core::iommu::{AttachError, SyncError};
use portcullis_core::mm::{ProcessMemory, ProcessTable};
use portcullis_core::sva::{AttachPasidError, ProcessDomain, ProcessDomainError};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_pgtable::arm::{address_code, granule_code};
use portcullis_spec::smmuv3::tables::{CD_WORDS, CdWord0, CdWord1, CdWord2, CdWord3, WALK_WRITE_BACK};
use portcullis_spec::smmuv3::{SHARE_INNER, address_bits};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{IovaRange, Pasid, SizeLg2, mutant};

use crate::asids::ShareError;
use crate::atc::AtcSpan;
use crate::entry::{self, Cd, Features1, Ste};
use crate::features::Features;
use crate::hardware::Hardware;
use crate::invalidate::{Step, steps};
use crate::left::Left;
use crate::sharing::input_bits;
use crate::substreams::{Contexts, WriteError};

/// The memory of a process, for the devices behind one SMMU.
pub struct Process<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    mm: Arc<dyn ProcessMemory>,
    asid: u16,
    /// TLBs may have the ASID of another domain of the process's. Changes with `life` held.
    remembered: AtomicBool,
    granule: SizeLg2,
    /// The descriptor, without what depends on the device.
    cd: Cd,
    life: Lock<P, Life>,
    /// By first stream.
    devices: Lock<P, BTreeMap<u32, Arc<Bound<P>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    /// Exits: no device is attached any more, but hardware has not confirmed for all that are.
    Exits,
    Exited,
}

/// A device that reaches the process.
enum Bound<P: Platform> {
    /// By a PASID, until that is detached.
    Pasid { contexts: Arc<Contexts<P>>, pasid: Pasid, ats: bool },
    /// By all that it sends: for as long as it is attached, or hardware may not have forgotten that it was.
    Whole(Weak<Contexts<P>>),
}

impl<P: Platform, R: Registers> fmt::Debug for Process<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("mm", &self.mm.id()).field("asid", &self.asid).finish_non_exhaustive()
    }
}

/// How a device takes part.
#[derive(Clone, Debug)]
pub(crate) struct Part<P: Platform> {
    pub(crate) contexts: Arc<Contexts<P>>,
    pub(crate) ats: bool,
    pub(crate) stall: bool,
}

impl<P: Platform, R: Registers> Process<P, R> {
    /// Pins the process's ASID and makes it shared; a private domain that has it gives way.
    pub(crate) fn new(
        hardware: Arc<Hardware<P, R>>,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Self, ProcessDomainError> {
        let table = mm.table();
        if !can_walk(&hardware.features, &table) {
            return Err(ProcessDomainError::UnsupportedTable);
        }
        let asid = mm.pin_asid().map_err(ProcessDomainError::Pin)?;
        let shared = hardware.share_asid(asid).map_err(|error| {
            if !mutant!("refused-process-stays-pinned") {
                mm.unpin_asid();
            }
            match error {
                ShareError::NoIds => ProcessDomainError::NoIds,
                ShareError::Sync(error) => ProcessDomainError::Sync(error),
            }
        });
        let remembered = AtomicBool::new(shared?);
        Ok(Self {
            cd: descriptor(&hardware.features, &table, asid),
            granule: granule(&table),
            asid,
            remembered,
            mm,
            life: Lock::<P, Life>::new(Life::Lives),
            devices: Lock::<P, BTreeMap<u32, Arc<Bound<P>>>>::new(BTreeMap::new()),
            hardware,
        })
    }

    pub(crate) fn is_of(&self, hardware: &Arc<Hardware<P, R>>) -> bool {
        Arc::ptr_eq(&self.hardware, hardware)
    }

    /// The ASID.
    pub fn asid(&self) -> u16 {
        self.asid
    }

    /// Makes `pasid` of a device lead here. On failure to confirm, the device is still known here: it must be detached.
    pub(crate) fn attach(&self, part: &Part<P>, pasid: Pasid) -> Result<(), AttachPasidError> {
        let life = self.life.lock();
        if *life != Life::Lives {
            return Err(AttachPasidError::Exited);
        }
        self.forget_before().map_err(AttachPasidError::Sync)?;
        let mut cd = self.cd;
        let stall = part.stall || self.hardware.features.stall_forced;
        cd[0] = CdWord0::from_bits(cd[0]).with_s(stall).into_bits();
        let first = part.contexts.streams.first().copied().unwrap_or(0);
        let bound = Bound::Pasid { contexts: part.contexts.clone(), pasid, ats: part.ats };
        // Known to invalidations before its descriptor is valid.
        if !self.note(first, bound) {
            return Err(AttachPasidError::Taken);
        }
        match self.hardware.write_cd(&part.contexts, pasid.get(), &cd) {
            Ok(()) => Ok(()),
            Err(WriteError::NoMemory) => {
                self.devices.lock().remove(&first);
                Err(AttachPasidError::NoMemory)
            }
            Err(WriteError::Sync(error)) => Err(AttachPasidError::Sync(error)),
        }
    }

    /// No entry leads to the table of a device's contexts any more, and hardware has confirmed it: what the device remembers is of no use to it.
    pub(crate) fn cut_off(&self, first: u32) {
        let bound = self.devices.lock().get(&first).cloned();
        bound.and_then(|bound| bound.contexts()).iter().for_each(|contexts| contexts.cut_off());
    }

    /// Makes the PASID of a device mean nothing. On success the hardware has forgotten it.
    pub(crate) fn detach(&self, first: u32) -> Result<(), SyncError> {
        let life = self.life.lock();
        let bound = self.devices.lock().get(&first).cloned();
        let Some(bound) = bound else { return Ok(()) };
        let Bound::Pasid { contexts, pasid, .. } = &*bound else { return Ok(()) };
        self.hardware.clear_cd(contexts, pasid.get())?;
        if *life != Life::Exited && !mutant!("pasid-detached-and-not-forgotten") {
            self.hardware.run(|batch| batch.add(self.hardware.forget_asid(self.asid)))?;
            self.hardware.forget_atcs(&bound.atc_streams(), &[AtcSpan::ALL])?;
        }
        // Known to invalidations until its descriptor is gone.
        self.devices.lock().remove(&first);
        Ok(())
    }

    /// The entry with which all traffic of these streams leads here, and the table that it points to. From now on the device is known here, for as long
    /// as there is the table.
    ///
    /// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", S1CDMax: with 0 there is one descriptor, and a SubstreamID is an error.
    pub(crate) fn entry(&self, streams: &[u32]) -> Result<(Ste, Arc<Contexts<P>>), AttachError> {
        let hardware = &self.hardware;
        let shape = hardware.context_shape(Some(0));
        let table = hardware.new_contexts(shape);
        let mut table = table.ok_or(AttachError::NoMemory)?;
        let forced = hardware.features.stall_forced;
        let mut cd = self.cd;
        cd[0] = CdWord0::from_bits(cd[0]).with_s(forced).into_bits();
        if !table.store_unreachable(0, &cd) {
            return Err(AttachError::NoMemory);
        }
        let ste = entry::stage1(hardware.world(), table.root(), shape, Features1::default());
        let contexts = Arc::new(Contexts::new(streams.to_vec(), table));
        let life = self.life.lock();
        if *life != Life::Lives {
            return Err(AttachError::Exited);
        }
        self.forget_before().map_err(AttachError::Sync)?;
        let bound = Bound::Whole(Arc::downgrade(&contexts));
        if !self.note(streams.first().copied().unwrap_or(0), bound) {
            return Err(AttachError::PasidsInUse);
        }
        Ok((ste, contexts))
    }

    /// Makes TLBs forget what they may have by another domain of the process's. `life` is held.
    fn forget_before(&self) -> Result<(), SyncError> {
        if self.remembered.load(Relaxed) && !mutant!("asid-of-before-not-forgotten") {
            self.hardware.run(|batch| batch.add(self.hardware.forget_asid(self.asid)))?;
            self.remembered.store(false, Relaxed);
        }
        Ok(())
    }

    /// Knows a device from now on. Answers whether it was not known before.
    fn note(&self, first: u32, bound: Bound<P>) -> bool {
        let mut devices = self.devices.lock();
        let is_new = !devices.get(&first).is_some_and(|known| known.is_there());
        if is_new {
            devices.insert(first, Arc::new(bound));
        }
        is_new
    }

    /// Forgets a device that is gone.
    pub(crate) fn forget(&self, first: u32) {
        let _life = self.life.lock();
        self.devices.lock().remove(&first);
    }

    fn bound(&self) -> Vec<Arc<Bound<P>>> {
        self.devices.lock().values().cloned().collect()
    }

    /// The streams whose devices may keep translations, read now.
    fn atc_streams(&self) -> Vec<(u32, Option<Pasid>)> {
        self.devices.lock().values().flat_map(|bound| bound.atc_streams()).collect()
    }

    /// The PASID, for events: a process has the same for all its devices.
    fn pasid(&self) -> Option<Pasid> {
        self.devices.lock().values().find(|bound| bound.is_there()).map(|bound| bound.pasid())
    }

    /// Makes the TLB forget a range, tables above the leaves included.
    fn forget_range(&self, range: IovaRange) -> Result<(), SyncError> {
        let hardware = &self.hardware;
        hardware.run(|batch| {
            for step in steps(range, self.granule, self.granule, true, hardware.by_range()) {
                batch.add(match step {
                    Step::All => hardware.forget_asid(self.asid),
                    Step::Target(target) => hardware.forget_va(self.asid, target),
                });
            }
        })
    }

    fn quiesce_devices(&self) -> Result<(), SyncError> {
        let bound = self.bound();
        let forced = self.hardware.features.stall_forced;
        // A device of which hardware does not confirm it leaves no other one with the process's memory: the first error is answered at the end.
        let mut outcome = Ok(());
        for device in &bound {
            if let Some(contexts) = device.contexts() {
                let pasid = device.pasid().get();
                outcome = outcome.and(self.hardware.change_cd(&contexts, pasid, &|cd| quiet(cd, forced)));
            }
        }
        // Ranges are not told one by one when a process exits, not even where the CPUs' broadcasts are heard.
        if !mutant!("tlb-remembers-who-exited") {
            outcome = outcome.and(self.hardware.run(|batch| batch.add(self.hardware.forget_asid(self.asid))));
        }
        let streams: Vec<_> = bound.iter().flat_map(|device| device.atc_streams()).collect();
        outcome.and(self.hardware.forget_atcs(&streams, &[AtcSpan::ALL]))
    }
}

impl<P: Platform> Bound<P> {
    /// None for a device that was attached as a whole, and is no more.
    fn contexts(&self) -> Option<Arc<Contexts<P>>> {
        match self {
            Self::Pasid { contexts, .. } => Some(contexts.clone()),
            Self::Whole(contexts) => contexts.upgrade(),
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Pasid { .. } => true,
            Self::Whole(contexts) => contexts.strong_count() > 0,
        }
    }

    /// 0 for a device that is attached as a whole.
    fn pasid(&self) -> Pasid {
        match self {
            Self::Pasid { pasid, .. } => *pasid,
            Self::Whole(_) => Pasid::new(0).expect("20 bits hold 0"),
        }
    }

    /// A device that is attached as a whole keeps no translations.
    fn atc_streams(&self) -> Vec<(u32, Option<Pasid>)> {
        match self {
            Self::Pasid { contexts, pasid, ats: true } if !contexts.is_cut_off() => {
                contexts.streams.iter().map(|&stream_id| (stream_id, Some(*pasid))).collect()
            }
            Self::Pasid { .. } | Self::Whole(_) => Vec::new(),
        }
    }
}

impl<P: Platform, R: Registers> ProcessDomain for Process<P, R> {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        if let Some(pasid) = self.pasid().filter(|_| self.hardware.platform.listening()) {
            self.hardware.platform.event(&Event {
                source: "smmuv3",
                name: "smmu_mm_invalidate",
                fields: &[
                    ("pasid", Value::Dec(pasid.get().into())),
                    ("start", Value::Hex(range.first().get())),
                    // The first address after; there is none after the last of all.
                    ("end", Value::Hex(range.last().get().saturating_add(1))),
                ],
            });
        }
        if !self.hardware.hears_broadcasts() {
            self.forget_range(range)?;
        }
        // Read after the TLB has forgotten: a device that is attached later reads what is true now.
        let span = AtcSpan::covering(range, self.hardware.translation_unit());
        self.hardware.forget_atcs(&self.atc_streams(), &[span])
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        let mut life = self.life.lock();
        if *life == Life::Exited {
            return Ok(());
        }
        if let Some(pasid) = self.pasid().filter(|_| *life == Life::Lives) {
            self.hardware.platform.event(&Event {
                source: "smmuv3",
                name: "smmu_mm_release",
                fields: &[("pasid", Value::Dec(pasid.get().into()))],
            });
        }
        *life = Life::Exits;
        self.quiesce_devices()?;
        *life = Life::Exited;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Process<P, R> {
    fn drop(&mut self) {
        if *self.life.get_mut() == Life::Exited {
            // By that the TLB has forgotten it.
            self.hardware.asids.lock().unshare(self.asid);
            self.mm.unpin_asid();
        } else {
            self.hardware.bury(Left::Process { asid: self.asid, mm: self.mm.clone() });
        }
    }
}

/// Whether this hardware can walk a table like this one.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", T0SZ, TG0, TTB0, DS: what makes a descriptor illegal.
fn can_walk(features: &Features, table: &ProcessTable) -> bool {
    let &ProcessTable::Vmsa64 { root, granule, input_bits: input, output_bits, large_descriptors, .. } =
        table
    else {
        return false;
    };
    let wide = large_descriptors || granule == SizeLg2::KIB_64;
    // What CD.IPS will say, and with small granules no more than 48 bits: a root beyond is illegal.
    let reach = address_bits(address_code(output_bits.min(features.output_bits))).unwrap_or(32);
    let reach = if wide { reach } else { reach.min(48) };
    features.granules.contains(granule)
        && (25..=input_bits(features, granule)).contains(&input)
        && (input <= 48 || wide)
        && output_bits <= features.output_bits
        && (!large_descriptors || features.large_addresses && granule != SizeLg2::KIB_64)
        && root.is_aligned(64)
        && root.get() >> reach == 0
}

fn granule(table: &ProcessTable) -> SizeLg2 {
    match table {
        ProcessTable::Vmsa64 { granule, .. } => *granule,
        _ => SizeLg2::KIB_4,
    }
}

/// The descriptor that leads to a process's table.
///
/// TTB0 has the address as it is, unlike TTBR0, in which the top bits of a 52-bit address lie low. Hardware updates of flags are enabled wherever the SMMU
/// has them, whether or not the CPUs have: a kernel that shares tables changes them atomically. ASET is 0, since the ASID is the CPUs'.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
pub(crate) fn descriptor(features: &Features, table: &ProcessTable, asid: u16) -> Cd {
    let &ProcessTable::Vmsa64 { root, granule, input_bits, output_bits, large_descriptors, mair } = table
    else {
        return [0; CD_WORDS];
    };
    let mut cd = [0; CD_WORDS];
    cd[0] = CdWord0::new()
        .with_t0sz(64 - input_bits)
        .with_tg0(granule_code(granule))
        .with_ir0(WALK_WRITE_BACK)
        .with_or0(WALK_WRITE_BACK)
        .with_sh0(SHARE_INNER)
        .with_epd1(true)
        .with_v(true)
        .with_ips(address_code(output_bits.min(features.output_bits)))
        .with_aa64(true)
        .with_ha(features.access_flag)
        .with_hd(features.dirty_state)
        .with_r(true)
        .with_a(true)
        .with_aset(false)
        .with_asid(asid)
        .into_bits();
    cd[1] = CdWord1::new().with_ttb0_address(root.get()).into_bits();
    cd[2] = CdWord2::new().with_ds(large_descriptors).into_bits();
    cd[3] = CdWord3::new().with_mair(mair).into_bits();
    cd
}

/// The descriptor of a process that has exited. Where stalls are forced, S must stay set, and then faults must be recorded, or nobody
/// would know what to answer.
///
/// Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", S, R, EPD0.
pub(crate) fn quiet(mut cd: Cd, stall_forced: bool) -> Cd {
    let word = CdWord0::from_bits(cd[0]).with_epd0(true);
    cd[0] = if stall_forced { word } else { word.with_s(false).with_r(false) }.into_bits();
    cd
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
