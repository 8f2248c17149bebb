//! Devices that share processes' memory: what is checked, how they are prepared, and which of their PASIDs mean what.
//!
//! # Order
//!
//! Preparing a device changes flags of its context entries alone (PASIDE, DTE, PRE), by one store each: its requests without PASID go on. Only then is the
//! device's own ATS switched on; the way back is the same backwards. Whenever the device is attached to something else, its ATS is off in between. Off, its TLB is empty, and
//! it is told nothing (`atc`). So one that does not answer is given up by blocking it: once hardware has confirmed that, what it sends translated is blocked, too, and its PASIDs
//! are given back without it.
//!
//! Spec: VT-d 5.10, 9.4 "Scalable-Mode Context-Entry", 4.1 "Device-TLB Operation".
//! Not here: the process (`process`), page requests (`page_requests`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::SyncError;
use portcullis_core::iopf::PageResponse;
use portcullis_core::mm::ProcessMemory;
use portcullis_core::sva::{
    AttachPasidError, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained, EnableSvaError,
    ProcessDomain, ProcessDomainError, Side, SvaIommu, SvaLimits, SvaRefusal,
};
use portcullis_hal::{Platform, Registers};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, Pasid, SizeLg2, SourceId, mutant};

use crate::devices::{Attachment, Devices, distinct};
use crate::features::Features;
use crate::hardware::Hardware;
use crate::pasid::Room;
use crate::process::Process;
use crate::vtd::{Configuration, Vtd};

/// The sources that may ask for pages.
#[derive(Debug)]
pub(crate) struct Askers(BTreeSet<u16>);

impl Askers {
    pub(crate) fn new() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn contains(&self, sid: u16) -> bool {
        self.0.contains(&sid)
    }

    pub(crate) fn remove(&mut self, sids: &[u16]) {
        self.0.retain(|sid| !sids.contains(sid));
    }
}

/// A device that shares processes' memory.
pub(crate) struct Sharing<P: Platform> {
    /// All its sources, in order.
    pub(crate) sources: Vec<u16>,
    limits: SvaLimits,
    switches: Arc<dyn DeviceSwitches>,
    pasids: BTreeMap<u32, Arc<dyn ProcessDomain>>,
    _platform: core::marker::PhantomData<P>,
}

impl<P: Platform> Sharing<P> {
    /// Whether PASIDs of it mean something.
    pub(crate) fn in_use(&self) -> bool {
        !self.pasids.is_empty()
    }

    /// Makes the device send no translation requests, and forget what they were answered.
    pub(crate) fn pause_ats<R: Registers>(&self, hardware: &Hardware<P, R>) {
        if mutant!("vtd-atc-taken-for-off-while-on") {
            hardware.atcs.lock().turned_off(&self.sources);
        }
        self.switches.set_ats(false);
        hardware.atcs.lock().turned_off(&self.sources);
    }

    /// Lets it send them again.
    pub(crate) fn resume_ats<R: Registers>(&self, hardware: &Hardware<P, R>) {
        hardware.atcs.lock().turn_on(&self.sources);
        self.switches.set_ats(true);
    }

    /// The device is gone: the processes forget it. Answers what is to be dropped under no lock.
    pub(crate) fn abandon<R: Registers + 'static>(self) -> Vec<Arc<dyn ProcessDomain>> {
        let domains: Vec<_> = self.pasids.into_values().collect();
        for process in domains.iter().filter_map(|domain| domain.as_any().downcast_ref::<Process<P, R>>()) {
            self.sources.iter().for_each(|&sid| process.forget_source(sid));
        }
        domains
    }
}

/// Holds the CPUs' tables against the hardware.
fn check_tables<P: Platform, R>(hardware: &Hardware<P, R>) -> Result<(), SvaRefusal> {
    let features = &hardware.features;
    let cpus = hardware.config.cpus.ok_or(SvaRefusal::CpusUnknown)?;
    if !features.scalable || !features.extended.fsts() {
        return Err(SvaRefusal::NoFirstStage);
    }
    if !features.extended.smpwcs() {
        return Err(SvaRefusal::NotCoherent);
    }
    if let Some(granule) = cpus.granules.iter().find(|&granule| granule != SizeLg2::KIB_4) {
        return Err(SvaRefusal::Granule(granule));
    }
    let iommu = if features.capability.fs5lp() { 57 } else { 48 };
    if cpus.input_bits > iommu {
        return Err(SvaRefusal::InputSize { cpu: cpus.input_bits, iommu });
    }
    let iommu = features.output_bits;
    if cpus.output_bits > iommu {
        return Err(SvaRefusal::OutputSize { cpu: cpus.output_bits, iommu });
    }
    Ok(())
}

/// Holds a device against the hardware.
///
/// What a device does that takes no PASID in a response, and gets one, is undefined. The driver could leave it out; but where the queue of requests is full, or an entry is not present, the unit
/// responds by itself, and with the PASID of the request.
///
/// Spec: PCIe 6.0, 10.5.2.3 "Page Request Status Register", PRG Response PASID Required. VT-d 5.10, 7.4 "Handling of Page Requests", 7.6.1 "Page Group Response Descriptor", PP.
///
/// Observed: Linux 6.12, its VT-d driver: page requests and PASIDs are enabled together only where the device takes PASIDs in responses.
fn check_device(features: &Features, device: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
    let missing = |device: bool, iommu: bool, name: fn(Side) -> SvaRefusal| match (device, iommu) {
        (false, _) => Err(name(Side::Device)),
        (true, false) => Err(name(Side::Iommu)),
        (true, true) => Ok(()),
    };
    missing(device.pasid_bits > 0, features.pasid_bits > 0, SvaRefusal::NoPasids)?;
    missing(device.ats, features.extended.dt(), SvaRefusal::NoAts)?;
    missing(device.pri, features.extended.prs(), SvaRefusal::NoPri)?;
    if !device.response_pasid {
        return Err(SvaRefusal::ResponsePasid);
    }
    let bits = device.pasid_bits.min(features.pasid_bits).min(20);
    let last_pasid = Pasid::new((1 << bits) - 1).unwrap_or(Pasid::MAX);
    Ok(SvaLimits { last_pasid })
}

fn set_shares<P: Platform>(devices: &mut Devices<P>, sids: &[u16], shares: bool) {
    for &sid in sids {
        if let Some(source) = devices.get_mut(sid) {
            source.shares = shares;
        }
    }
}

impl<P: Platform, R: Registers> Vtd<P, R> {
    /// The memory that the entries of a PASID lack, for each source; for all of them, or none.
    fn rooms(&self, devices: &Devices<P>, sids: &[u16], pasid: u32) -> Result<Vec<Room>, AttachPasidError> {
        let directory = |sid: &u16| devices.get(*sid).and_then(|source| source.directory.as_ref());
        let directories: Vec<_> = sids.iter().map_while(directory).collect();
        if directories.len() < sids.len() {
            return Err(AttachPasidError::NotEnabled);
        }
        let mut rooms = Vec::new();
        rooms.extend(directories.into_iter().map_while(|directory| directory.room(&self.hardware, pasid)));
        if rooms.len() < sids.len() {
            rooms.into_iter().for_each(|room| room.free(&*self.hardware.platform));
            return Err(AttachPasidError::NoMemory);
        }
        Ok(rooms)
    }

    /// Where the entries of a PASID lie. Directories that are too small grow. Without memory for all of them nothing has changed; what has grown when hardware does not confirm it stays so, since
    /// hardware may use either.
    fn places(
        &self,
        configuration: &mut Configuration<P>,
        sids: &[u16],
        pasid: u32,
    ) -> Result<Vec<(u16, Pa)>, AttachPasidError> {
        let hardware = &self.hardware;
        let Configuration { tables, devices, .. } = configuration;
        let mut rooms = sids.iter().copied().zip(self.rooms(devices, sids, pasid)?);
        let mut places = Vec::new();
        while let Some((sid, mut room)) = rooms.next() {
            let directory = devices.get_mut(sid).and_then(|source| source.directory.as_mut());
            let has_grown = directory.is_some_and(|directory| directory.grow(hardware, &mut room));
            // In doubt it may be using the directory before this one.
            let changes = has_grown || devices.any_doubted(&[sid]);
            if changes && let Err(error) = hardware.update_contexts(tables, devices, &[sid]) {
                rooms.map(|(_, room)| room).chain([room]).for_each(|room| room.free(&*hardware.platform));
                return Err(AttachPasidError::Sync(error));
            }
            devices.settle(&*hardware.platform);
            if let Some(directory) = devices.get_mut(sid).and_then(|source| source.directory.as_mut()) {
                places.push((sid, directory.place(hardware, pasid, room)));
            }
        }
        Ok(places)
    }

    /// If a device that shares is blocked, hardware has confirmed that: if not before, then now. Nobody asks its TLB any more, and by an old context entry what it remembers
    /// would get through.
    ///
    /// Spec: VT-d 5.10, 4.2.5 "Handling of Translated Requests".
    fn cut_off(&self, devices: &mut Devices<P>, sids: &[u16]) -> Result<(), SyncError> {
        let source = sids.first().and_then(|&first| devices.get(first));
        let blocked = source.is_some_and(|source| matches!(source.attached, Attachment::Blocked));
        if blocked && devices.any_doubted(sids) { self.hardware.say_again(devices) } else { Ok(()) }
    }

    fn say(&self, name: &'static str, sids: &[u16], pasid: Pasid) {
        self.hardware.platform.event(&Event {
            source: "vtd",
            name,
            fields: &[
                ("sid", Value::Hex(sids.first().copied().unwrap_or(0).into())),
                ("pasid", Value::Dec(pasid.get().into())),
            ],
        });
    }
}

impl<P: Platform, R: Registers> SvaIommu<P> for Vtd<P, R> {
    fn check(&self, sources: &[SourceId], device: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
        let configuration = self.configuration.lock();
        let known =
            |source: &&SourceId| u16::try_from(source.0).is_ok_and(|sid| configuration.devices.contains(sid));
        let unknown = sources.iter().find(|source| !known(source));
        unknown.map_or(Ok(()), |&source| Err(SvaRefusal::UnknownSource(source)))?;
        check_tables(&self.hardware)?;
        check_device(&self.hardware.features, device)
    }

    fn enable(
        &self,
        sources: &[SourceId],
        device: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError> {
        let limits = self.check(sources, device).map_err(EnableSvaError::Refused)?;
        let sids = distinct(sources);
        let hardware = &self.hardware;
        let mut configuration = self.configuration.lock();
        let Configuration { tables, devices, closing, .. } = &mut *configuration;
        if *closing {
            let waiting_for = "a unit that is on";
            return Err(EnableSvaError::Sync(SyncError::Timeout { waiting_for, last: 0 }));
        }
        if devices.any_shares(&sids) {
            return Err(EnableSvaError::Enabled);
        }
        if !devices.are_one_device(&sids) {
            return Err(EnableSvaError::NotOneDevice);
        }
        let attached = devices.get(sids[0]).map_or(Attachment::Blocked, |source| source.attached.clone());
        if matches!(attached, Attachment::Process(_)) {
            return Err(EnableSvaError::Process);
        }
        set_shares(devices, &sids, true);
        if let Err(error) = hardware.update_contexts(tables, devices, &sids) {
            // The flags alone let nothing through that the device does not ask for, and it does not yet.
            set_shares(devices, &sids, false);
            let _ = hardware.update_contexts(tables, devices, &sids);
            return Err(EnableSvaError::Sync(error));
        }
        hardware.askers.lock().0.extend(&sids);
        let sharing = Sharing {
            sources: sids,
            limits,
            switches,
            pasids: BTreeMap::new(),
            _platform: core::marker::PhantomData,
        };
        sharing.resume_ats(hardware);
        devices.share(sharing);
        Ok(limits)
    }

    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError> {
        let sids = distinct(sources);
        let hardware = &self.hardware;
        let mut configuration = self.configuration.lock();
        let Configuration { tables, devices, .. } = &mut *configuration;
        let sharing = devices.sharing(&sids).ok_or(DisableSvaError::NotEnabled)?;
        if sharing.in_use() {
            return Err(DisableSvaError::PasidsInUse);
        }
        sharing.pause_ats(hardware);
        set_shares(devices, &sids, false);
        if let Err(error) = hardware.update_contexts(tables, devices, &sids) {
            set_shares(devices, &sids, true);
            let _ = hardware.update_contexts(tables, devices, &sids);
            devices.sharing(&sids).into_iter().for_each(|sharing| sharing.resume_ats(hardware));
            return Err(DisableSvaError::Sync(error));
        }
        hardware.askers.lock().remove(&sids);
        devices.unshare(sids[0]);
        Ok(())
    }

    fn new_process_domain(
        &self,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Arc<dyn ProcessDomain>, ProcessDomainError> {
        check_tables(&self.hardware).map_err(ProcessDomainError::Refused)?;
        Ok(Arc::new(Process::new(self.hardware.clone(), mm)?))
    }

    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError> {
        let process = domain.as_any().downcast_ref::<Process<P, R>>();
        let process = process.filter(|it| it.is_of(&self.hardware)).ok_or(AttachPasidError::ForeignDomain)?;
        let sids = distinct(sources);
        let mut configuration = self.configuration.lock();
        let blocked = |configuration: &Configuration<P>| {
            let source = sids.first().and_then(|&first| configuration.devices.get(first));
            source.is_none_or(|source| matches!(source.attached, Attachment::Blocked))
        };
        let is_blocked = configuration.closing || blocked(&configuration);
        let sharing = configuration.devices.sharing(&sids).ok_or(AttachPasidError::NotEnabled)?;
        if pasid.get() == 0 || pasid > sharing.limits.last_pasid {
            return Err(AttachPasidError::OutOfRange(sharing.limits));
        }
        if sharing.pasids.contains_key(&pasid.get()) {
            return Err(AttachPasidError::Taken);
        }
        if is_blocked {
            return Err(AttachPasidError::Blocked);
        }
        if !process.hold().lives() {
            return Err(AttachPasidError::Exited);
        }
        let places = self.places(&mut configuration, &sids, pasid.get())?;
        let outcome = process.attach(&places, pasid.get());
        // If hardware may use it, it means the process until a detach succeeds.
        let means = match outcome {
            Ok(()) => true,
            Err(AttachPasidError::Sync(_)) => process.detach(&sids, pasid.get()).is_err(),
            Err(_) => false,
        };
        if let Some(sharing) = configuration.devices.sharing(&sids).filter(|_| means) {
            sharing.pasids.insert(pasid.get(), domain.clone());
        }
        drop(configuration);
        outcome?;
        self.say("bind", &sids, pasid);
        Ok(())
    }

    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError> {
        let sids = distinct(sources);
        let gone = {
            let devices = &mut self.configuration.lock().devices;
            let Some(sharing) = devices.sharing(&sids) else { return Ok(()) };
            let Some(domain) = sharing.pasids.get(&pasid.get()).cloned() else { return Ok(()) };
            self.cut_off(devices, &sids)?;
            if let Some(process) = domain.as_any().downcast_ref::<Process<P, R>>() {
                process.detach(&sids, pasid.get())?;
            }
            devices.sharing(&sids).and_then(|sharing| sharing.pasids.remove(&pasid.get()))
        };
        self.say("unbind", &sids, pasid);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(gone);
        Ok(())
    }

    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        self.hardware.send_unsent();
        if self.hardware.unsent.is_crowded() && !mutant!("vtd-requests-taken-for-which-no-answer-has-room") {
            if self.hardware.page_requests.is_some() {
                to(Drained::Left);
            }
            return 0;
        }
        self.hardware.drain_page_requests(to)
    }

    fn respond(&self, response: &PageResponse) {
        self.hardware.respond(response);
    }
}

#[cfg(test)]
mod tests;
