//! Devices that share processes' memory: what is checked, how they are prepared, and which of their PASIDs mean what.
//!
//! # Order
//!
//! A device is prepared in steps none of which is a gap for its other traffic: first the entry gets a table of contexts with room for PASIDs and the same
//! descriptor 0, then it allows stalls or translation requests, and only then is the device's own ATS switched on. The way back is the same backwards.
//! Whenever the entry of a device with ATS leads elsewhere, ATS is off in between, and off means: switched off at the device, its ATC
//! invalidated, and a sync, which has waited for what was on its way with the old translations. A device that does not answer stays where it
//! is, except that it can always be blocked, removed, or left behind when the SMMU is torn down: then nothing that it sends translated gets through, and once hardware has
//! confirmed that, nobody waits for its ATC any more.
//!
//! Stalls that wait when a device is blocked end there (CMD_STALL_TERM), and that is their answer: whoever answers one later answers nothing. If hardware does not confirm
//! that, it is asked again when errors are handled, and before the device is anything else than blocked.
//!
//! The lock of the stream map is held over all of this, as for attaching. Process domains are dropped under no lock.
//!
//! Spec: SMMUv3 H.a, 3.9.1 "ATS Interface", 3.9.2 "Changing ATS configuration", 3.12.2 "Stall model", 4.7.2.1 "Notes and usage" (of
//! CMD_STALL_TERM), 5.2 "STE, Stream Table Entry", EATS, PPAR, S1STALLD, S1DSS.
//! Not here: the process (`process`), page requests (`page_requests`, `stalls`).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AttachError, SyncError, Target};
use portcullis_core::iopf::PageResponse;
use portcullis_core::mm::ProcessMemory;
use portcullis_core::sva::{
    AttachPasidError, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained, EnableSvaError,
    ProcessDomain, ProcessDomainError, Side, SvaIommu, SvaLimits, SvaRefusal,
};
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_spec::smmuv3::command::Command;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pasid, SizeLg2, SourceId, mutant};

use crate::atc::AtcSpan;
use crate::config::TableShape;
use crate::context::ContextShape;
use crate::domain::UseShape;
use crate::entry::{self, Features1, Ste};
use crate::features::Features;
use crate::hardware::Hardware;
use crate::process::{Part, Process};
use crate::smmu::{Configuration, Smmu};
use crate::stalls::Asker;
use crate::stream_table::StreamTable;
use crate::streams::{Attachment, distinct};

/// A device that shares processes' memory.
pub(crate) struct Sharing<P: Platform> {
    /// All its streams, in order.
    pub(crate) streams: Vec<u32>,
    facts: DeviceSvaFacts,
    limits: SvaLimits,
    switches: Arc<dyn DeviceSwitches>,
    ats_on: bool,
    pasids: BTreeMap<u32, Arc<dyn ProcessDomain>>,
    _platform: core::marker::PhantomData<P>,
}

impl<P: Platform> Sharing<P> {
    /// How its entries use a domain.
    pub(crate) fn shape(&self) -> UseShape {
        shape(&self.facts, self.limits)
    }

    /// Whether any of its PASIDs means something.
    pub(crate) fn in_use(&self) -> bool {
        !self.pasids.is_empty()
    }

    /// Before its entry leads elsewhere. Answers whether it was on: then the ATC is to be invalidated.
    fn pause_ats(&mut self) -> bool {
        let was_on = core::mem::take(&mut self.ats_on);
        if was_on {
            self.switches.set_ats(false);
        }
        was_on
    }

    /// After its entry leads somewhere that answers translation requests.
    pub(crate) fn resume_ats(&mut self) {
        if self.uses_ats() && !self.ats_on {
            self.ats_on = true;
            self.switches.set_ats(true);
        }
    }

    fn uses_ats(&self) -> bool {
        shape(&self.facts, self.limits).allowed.ats
    }

    /// Whether transactions of it may be waiting behind a stall.
    pub(crate) fn stalls(&self) -> bool {
        self.shape().allowed.stall
    }

    /// Takes what its PASIDs mean, when the device is gone.
    pub(crate) fn abandon<R: Registers + 'static>(mut self) -> Vec<Arc<dyn ProcessDomain>> {
        let _ = self.pause_ats();
        let first = self.streams.first().copied().unwrap_or(0);
        let domains: Vec<_> = self.pasids.into_values().collect();
        for process in domains.iter().filter_map(|domain| domain.as_any().downcast_ref::<Process<P, R>>()) {
            process.forget(first);
        }
        domains
    }
}

/// A device that may be stalled is; otherwise it asks.
fn shape(facts: &DeviceSvaFacts, limits: SvaLimits) -> UseShape {
    #[expect(clippy::cast_possible_truncation, reason = "at most 20")]
    let bits = (32 - limits.last_pasid.get().leading_zeros()) as u8;
    let ats = !facts.can_stall && facts.ats;
    let allowed = Features1 { ats, stall: facts.can_stall, response_pasid: ats && facts.response_pasid };
    UseShape { substream_bits: Some(bits), allowed }
}

/// How many bits of input the hardware translates with this granule.
pub(crate) fn input_bits(features: &Features, granule: SizeLg2) -> u8 {
    if granule == SizeLg2::KIB_64 || features.large_addresses {
        features.input_bits
    } else {
        features.input_bits.min(48)
    }
}

/// Holds the CPUs' tables against the hardware.
fn check_tables<P: Platform, R: Registers>(hardware: &Hardware<P, R>) -> Result<(), SvaRefusal> {
    let features = &hardware.features;
    let cpus = hardware.config.cpus.ok_or(SvaRefusal::CpusUnknown)?;
    if hardware.stage2 || !features.stage1 {
        return Err(SvaRefusal::NoFirstStage);
    }
    if !hardware.coherent() {
        return Err(SvaRefusal::NotCoherent);
    }
    let granules = [SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64];
    for granule in granules.into_iter().filter(|&granule| cpus.granules.contains(granule)) {
        if !features.granules.contains(granule) {
            return Err(SvaRefusal::Granule(granule));
        }
        let iommu = input_bits(features, granule);
        if cpus.input_bits > iommu {
            return Err(SvaRefusal::InputSize { cpu: cpus.input_bits, iommu });
        }
        let wide = granule == SizeLg2::KIB_64 || features.large_addresses;
        let iommu = if wide { features.output_bits } else { features.output_bits.min(48) };
        if cpus.output_bits > iommu {
            return Err(SvaRefusal::OutputSize { cpu: cpus.output_bits, iommu });
        }
    }
    if cpus.asid_bits > features.asid_bits {
        return Err(SvaRefusal::AsidSize { cpu: cpus.asid_bits, iommu: features.asid_bits });
    }
    if cpus.break_before_make_level > features.break_before_make_level {
        let (cpu, iommu) = (cpus.break_before_make_level, features.break_before_make_level);
        return Err(SvaRefusal::BreakBeforeMake { cpu, iommu });
    }
    Ok(())
}

/// Holds a device against the hardware. It gets as many PASIDs as a table of contexts has room for.
fn check_device(
    features: &Features,
    wish: TableShape,
    device: &DeviceSvaFacts,
) -> Result<SvaLimits, SvaRefusal> {
    let missing = |device: bool, iommu: bool, name: fn(Side) -> SvaRefusal| match (device, iommu) {
        (false, _) => Err(name(Side::Device)),
        (true, false) => Err(name(Side::Iommu)),
        (true, true) => Ok(()),
    };
    missing(device.pasid_bits > 0, features.substream_bits > 0, SvaRefusal::NoPasids)?;
    if device.can_stall {
        if !features.stall_configurable && !features.stall_forced {
            return Err(SvaRefusal::NoStall);
        }
    } else {
        missing(device.ats, features.ats, SvaRefusal::NoAts)?;
        missing(device.pri, features.page_requests, SvaRefusal::NoPri)?;
    }
    let bits = device.pasid_bits.min(features.substream_bits).min(20);
    let bits = ContextShape::choose(bits, wish, features.two_level_contexts).substream_bits;
    let last_pasid = Pasid::new((1 << bits) - 1).unwrap_or(Pasid::MAX);
    Ok(SvaLimits { last_pasid })
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Writes entries one after the other, for all streams or for none.
    fn install_steps(
        &self,
        table: &mut StreamTable<P>,
        streams: &[u32],
        old: &Ste,
        entries: &[Ste],
    ) -> Result<(), AttachError> {
        for (at, next) in entries.iter().enumerate() {
            let outcome = self.install_all(table, streams, next);
            let Err(AttachError::Sync(error)) = outcome else {
                outcome?;
                continue;
            };
            // The streams have the entry before this one again; they are to have the first.
            if at == 0 || self.install_all(table, streams, old).is_ok() {
                return Err(AttachError::Sync(error));
            }
            streams.iter().for_each(|&stream_id| self.block_unconfirmed(table, stream_id));
            return Err(AttachError::LeftBlocked(error));
        }
        Ok(())
    }
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Makes the entries of a device those that `how` asks for, leading to what it is attached to now. Answers what is not used any more, to be dropped under no lock.
    fn reshape(
        &self,
        configuration: &mut Configuration<P>,
        streams: &[u32],
        how: UseShape,
    ) -> Result<Vec<Attachment<P>>, AttachError> {
        let Configuration { table, streams: map, .. } = configuration;
        let attached = streams.first().and_then(|first| map.get(*first)).map(|stream| &stream.attached);
        let target = attached.map_or(Target::Blocked, |attached| attached.target());
        let (next, attachment) = self.entry_for(&target, streams, how)?;
        let old = streams.first().and_then(|&first| self.hardware.entry_of(table, first)).unwrap_or(next);
        let between = entry::halfway(&old, &next);
        let way: &[Ste] = if matches!(target, Target::Domain(_)) { &[between, next] } else { &[next] };
        let outcome = self.hardware.install_steps(table, streams, &old, way);
        let replaced = match outcome {
            Ok(()) => map.replace(streams, &attachment),
            Err(AttachError::Sync(error)) => return Err(AttachError::Sync(error)),
            Err(error) => {
                map.lose(streams, &attachment);
                return Err(error);
            }
        };
        replaced.iter().for_each(Attachment::cut_off);
        Ok(replaced)
    }

    /// Whether a device that shares is blocked, and hardware has confirmed it: if not before, then now.
    ///
    /// Spec: SMMUv3 H.a, 3.9.1.3 "Handling of ATS Translated transactions": with ATSCHK 1 an entry that aborts lets no translated access through.
    fn is_cut_off(&self, configuration: &mut Configuration<P>, streams: &[u32]) -> bool {
        let Configuration { table, streams: map, .. } = configuration;
        let attached = streams.first().and_then(|&first| map.get(first)).map(|stream| &stream.attached);
        matches!(attached, Some(Attachment::Blocked)) && self.hardware.forget_doubted(table, streams).is_ok()
    }

    /// Sees that no stall of this PASID waits, which could be of whom it meant before: let go, it would reach whom it means next. An answer that found no room is sent now.
    fn see_no_stalls(&self, streams: &[u32], pasid: Pasid) -> Result<(), SyncError> {
        if self.hardware.stalls.waits(streams, pasid) {
            self.hardware.send_unsent();
        }
        if self.hardware.stalls.waits(streams, pasid) {
            return Err(SyncError::Timeout {
                waiting_for: "answers to stalls of a PASID",
                last: pasid.get().into(),
            });
        }
        Ok(())
    }

    fn say(&self, name: &'static str, first: u32, pasid: Pasid) {
        if !self.hardware.platform.listening() {
            return;
        }
        let device = self.configuration.lock().streams.get(first).map(|stream| stream.device.clone());
        self.hardware.platform.event(&Event {
            source: "smmuv3",
            name,
            fields: &[
                ("dev", Value::Str(device.as_deref().unwrap_or(""))),
                ("pasid", Value::Dec(pasid.get().into())),
            ],
        });
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// After a device was blocked, and under the lock that keeps it blocked: ends what waits behind a stall.
    ///
    /// Spec: SMMUv3 H.a, 4.7.2 "CMD_STALL_TERM": only for a stream whose entry is valid, aborts, and has been forgotten and synced. 4.7.2.1: every
    /// record of such a stall is in the queue by now; those that are still there are to be discarded, as are answers to those that are not.
    pub(crate) fn end_stalls(&self, streams: &[u32]) -> Result<(), SyncError> {
        if mutant!("stalls-of-a-blocked-device-go-on") {
            return Ok(());
        }
        let end = self.events.end(&self.commands);
        self.stalls.end(streams, end);
        // An answer taken before that must not come after the end: it would be one to a stall that is still to come.
        let sent = wait_for(&*self.platform, self.config.wait_limit_ns, || {
            (!self.stalls.is_answering()).then_some(())
        });
        sent.map_err(|_| SyncError::Timeout { waiting_for: "answers to stalls", last: 1 })?;
        self.run(|batch| streams.iter().for_each(|&id| batch.add(Command::stall_term(id))))
    }

    /// Before the entry of a device leads elsewhere: ends its use of ATS, if it uses it.
    ///
    /// Spec: SMMUv3 H.a, 3.9.2 "Changing ATS configuration", "To disable ATS on an existing STE".
    pub(crate) fn pause_ats(&self, sharing: Option<&mut Sharing<P>>) -> Result<(), SyncError> {
        let Some(sharing) = sharing else { return Ok(()) };
        if !sharing.pause_ats() || mutant!("device-remembers-its-old-domain") {
            return Ok(());
        }
        // Without a PASID the command is about all traffic of the stream.
        let streams: Vec<_> = sharing.streams.iter().map(|&stream_id| (stream_id, None)).collect();
        self.forget_atcs(&streams, &[AtcSpan::ALL])
    }
}

impl<P: Platform, R: Registers> SvaIommu<P> for Smmu<P, R> {
    fn check(&self, sources: &[SourceId], device: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
        let configuration = self.configuration.lock();
        let unknown = sources.iter().find(|source| !configuration.streams.contains(source.0));
        unknown.map_or(Ok(()), |&source| Err(SvaRefusal::UnknownSource(source)))?;
        check_tables(&self.hardware)?;
        check_device(&self.hardware.features, self.hardware.config.context_table, device)
    }

    fn enable(
        &self,
        sources: &[SourceId],
        device: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError> {
        let limits = self.check(sources, device).map_err(EnableSvaError::Refused)?;
        let streams = distinct(sources);
        let mut configuration = self.configuration.lock();
        if configuration.closing {
            let waiting_for = "an SMMU that is on";
            return Err(EnableSvaError::Sync(SyncError::Timeout { waiting_for, last: 0 }));
        }
        let map = &mut configuration.streams;
        if map.any_shares(&streams) {
            return Err(EnableSvaError::Enabled);
        }
        if !map.are_one_device(&streams) {
            return Err(EnableSvaError::NotOneDevice);
        }
        let attached = streams.first().and_then(|&first| map.get(first)).map(|stream| &stream.attached);
        if matches!(attached, Some(Attachment::Process { .. })) {
            return Err(EnableSvaError::Process);
        }
        map.share(Sharing {
            streams: streams.clone(),
            facts: *device,
            limits,
            switches,
            ats_on: false,
            pasids: BTreeMap::new(),
            _platform: core::marker::PhantomData,
        });
        let replaced = match self.reshape(&mut configuration, &streams, shape(device, limits)) {
            Ok(replaced) => replaced,
            Err(error) => {
                let refused = configuration.streams.unshare(streams[0]);
                // Its switches are somebody else's to drop: under no lock.
                drop(configuration);
                drop(refused);
                return Err(match error {
                    AttachError::Sync(error) => EnableSvaError::Sync(error),
                    AttachError::LeftBlocked(error) => EnableSvaError::LeftBlocked(error),
                    _ => EnableSvaError::NoMemory,
                });
            }
        };
        let asker = Asker { stalls: device.can_stall, response_pasid: device.response_pasid };
        self.hardware.stalls.listen(&streams, asker);
        self.resume_ats(&mut configuration.streams, &streams);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(replaced);
        Ok(limits)
    }

    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError> {
        let streams = distinct(sources);
        // Nobody attaches it elsewhere before it is as others are.
        let mut configuration = self.configuration.lock();
        let sharing = configuration.streams.sharing(&streams).ok_or(DisableSvaError::NotEnabled)?;
        if sharing.in_use() {
            return Err(DisableSvaError::PasidsInUse);
        }
        if let Err(error) = self.hardware.pause_ats(Some(&mut *sharing)) {
            sharing.resume_ats();
            return Err(DisableSvaError::Sync(error));
        }
        let replaced = match self.reshape(&mut configuration, &streams, UseShape::default()) {
            Ok(replaced) => replaced,
            Err(error) => {
                // The entry is what it was, and so is the device; unless it was left blocked.
                if !matches!(error, AttachError::LeftBlocked(_)) {
                    self.resume_ats(&mut configuration.streams, &streams);
                }
                return Err(match error {
                    AttachError::Sync(error) => DisableSvaError::Sync(error),
                    AttachError::LeftBlocked(error) => DisableSvaError::LeftBlocked(error),
                    _ => DisableSvaError::NoMemory,
                });
            }
        };
        self.hardware.stalls.ignore(&streams);
        let ended = configuration.streams.unshare(streams[0]);
        // Dropping a domain may wait for the hardware, and switches are somebody else's: under no lock.
        drop(configuration);
        drop((replaced, ended));
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
        let process = self.ours(domain).ok_or(AttachPasidError::ForeignDomain)?;
        let streams = distinct(sources);
        {
            let Configuration { streams: map, closing, .. } = &mut *self.configuration.lock();
            let contexts = streams.first().and_then(|&first| map.get(first)?.attached.contexts()).cloned();
            // Of who has begun to be turned off no descriptor would be confirmed.
            let contexts = contexts.filter(|_| !*closing);
            let sharing = map.sharing(&streams).ok_or(AttachPasidError::NotEnabled)?;
            if pasid.get() == 0 || pasid > sharing.limits.last_pasid {
                return Err(AttachPasidError::OutOfRange(sharing.limits));
            }
            if sharing.pasids.contains_key(&pasid.get()) {
                return Err(AttachPasidError::Taken);
            }
            self.see_no_stalls(&streams, pasid).map_err(AttachPasidError::Sync)?;
            let allowed = sharing.shape().allowed;
            let contexts = contexts.ok_or(AttachPasidError::Blocked)?;
            let part = Part { contexts, ats: allowed.ats, stall: allowed.stall };
            match process.attach(&part, pasid) {
                Ok(()) => {}
                Err(AttachPasidError::Sync(error)) => {
                    if process.detach(streams[0]).is_err() {
                        // Hardware may use it: it means the process until a detach succeeds.
                        sharing.pasids.insert(pasid.get(), domain.clone());
                    }
                    return Err(AttachPasidError::Sync(error));
                }
                Err(error) => return Err(error),
            }
            sharing.pasids.insert(pasid.get(), domain.clone());
        }
        self.say("smmu_bind_alloc", streams[0], pasid);
        Ok(())
    }

    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError> {
        let streams = distinct(sources);
        let gone = {
            let mut configuration = self.configuration.lock();
            let blocked = self.is_cut_off(&mut configuration, &streams);
            let Some(sharing) = configuration.streams.sharing(&streams) else { return Ok(()) };
            let Some(domain) = sharing.pasids.get(&pasid.get()) else { return Ok(()) };
            if let Some(process) = domain.as_any().downcast_ref::<Process<P, R>>() {
                if blocked {
                    process.cut_off(streams[0]);
                }
                process.detach(streams[0])?;
            }
            sharing.pasids.remove(&pasid.get())
        };
        self.say("smmu_unbind_free", streams[0], pasid);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(gone);
        Ok(())
    }

    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        if self.hardware.is_off() {
            return 0;
        }
        self.hardware.send_unsent();
        let stalled = self.hardware.stalls.tell(&mut |request| to(Drained::Request(request)));
        // Of stalls there are no more than tags; what devices ask for beside them, hardware answers.
        if self.hardware.unsent.is_crowded() && !mutant!("requests-taken-for-which-no-answer-has-room") {
            if self.hardware.page_requests.is_some() {
                to(Drained::Left);
            }
            return stalled;
        }
        stalled + self.hardware.drain_page_requests(to)
    }

    fn respond(&self, response: &PageResponse) {
        self.hardware.respond(response);
    }
}

#[cfg(test)]
mod bonds;
#[cfg(test)]
mod tests;
