//! One SMMU: probe, teardown, and the seam to core.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    RegionSource, ReservedKind, ReservedRegion, SyncError, Target,
};
use portcullis_core::sva::{ProcessDomain, SvaIommu};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::smmuv3::registers::CMDQ_CONS;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot, SizeLg2, SourceId};

use crate::command_queue::CommandQueue;
use crate::config::{Completion, Config, Stage};
use crate::counters::{Counts, TableBytes};
use crate::domain::{Domain, UseShape};
use crate::entry::{self, Ste};
use crate::event_queue::EventQueue;
use crate::features::{Features, IdRegisters, ProbeError};
use crate::hardware::Hardware;
use crate::page_requests::PageRequestQueue;
use crate::process::Process;
use crate::reset::Bench;
use crate::sharing::Sharing;
use crate::stream_table::{StreamTable, StreamTableShape};
use crate::streams::{Attachment, Streams, distinct};
use crate::substreams::Contexts;
use crate::table::{self, TableFormat, Wanted};

/// Where doorbells get mapped: 1 MiB that no device is likely to have RAM at.
///
/// Observed: Linux 7.3, `MSI_IOVA_BASE` and `MSI_IOVA_LENGTH` of its SMMU drivers, which user space has come to expect.
const SOFTWARE_MSI: (u64, u64) = (0x0800_0000, 0x10_0000);

/// One SMMUv3.
pub struct Smmu<P: Platform, R: Registers + 'static> {
    pub(crate) hardware: Arc<Hardware<P, R>>,
    pub(crate) configuration: Lock<P, Configuration<P>>,
}

/// What hardware, firmware and embedder agree on.
struct Chosen {
    features: Features,
    stage2: bool,
    granule: SizeLg2,
    format: TableFormat,
    coherent: bool,
}

impl Chosen {
    fn of(ids: &IdRegisters, config: &Config) -> Result<Self, ProbeError> {
        let features = Features::decode(ids)?.with(config.overrides);
        check_doorbell(config, features.output_bits)?;
        let stage2 = choose_stage(&features, config.stage)?;
        let granule = choose_granule(&features, config.granule);
        let coherent = features.coherent && config.coherent;
        let wanted = Wanted { stage2, granule, input_bits: config.input_bits, coherent };
        let format = table::choose(&features, wanted).ok_or(ProbeError::NoGranule)?;
        Ok(Self { features, stage2, granule, format, coherent })
    }
}

/// What attaching changes, under one lock.
pub(crate) struct Configuration<P: Platform> {
    pub(crate) table: StreamTable<P>,
    pub(crate) streams: Streams<P>,
    /// It has translated by these tables, so that accesses may be under way that it led somewhere.
    translated: bool,
    /// Translation has been turned off, and hardware has confirmed that what was under way then is over.
    over: bool,
    /// Somebody has begun to turn the SMMU off: no command is taken any more, and nothing is translated.
    pub(crate) closing: bool,
    /// The tables were given back: the SMMU is no longer in use.
    gone: bool,
}

/// Streams have been led elsewhere.
struct Led<P: Platform> {
    /// What is not used any more, to be dropped under no lock.
    old: Vec<Attachment<P>>,
    /// Whether what waited behind stalls was ended, where they are blocked.
    ended: Result<(), SyncError>,
}

impl<P: Platform, R: Registers> fmt::Debug for Smmu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smmu").field("name", &self.hardware.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Brings up the SMMU behind `registers`, page 0 first. On return every stream is blocked but those of [`Config::boot_streams`].
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says. Where the hardware is an SMMUv3 at all, traffic is aborted then.
    pub fn probe(platform: Arc<P>, registers: R, config: Config) -> Result<Arc<Self>, ProbeError> {
        let registers = Arc::new(registers);
        let bench = Bench { platform: &*platform, registers: &*registers, limit_ns: config.wait_limit_ns };
        let chosen = match Chosen::of(&IdRegisters::read(&*registers), &config) {
            Ok(chosen) => chosen,
            Err(error @ ProbeError::NotSmmuv3 { .. }) => return Err(error),
            Err(error) => {
                // Whoever had it before may have left it open, or on.
                bench.quiesce()?;
                return Err(error);
            }
        };
        let quiet = if config.boot_streams.is_empty() { bench.quiesce() } else { bench.quiesce_open() };
        let build = |()| Self::build(platform.clone(), registers.clone(), config, chosen);
        let smmu = match quiet.map_err(ProbeError::from).and_then(build) {
            Ok(smmu) => smmu,
            Err(error) => {
                // It may have been left open for streams of firmware's.
                bench.abort_bypass()?;
                return Err(error);
            }
        };
        smmu.start()?;
        Ok(smmu)
    }

    /// Tables and queues of hardware that is quiet.
    fn build(
        platform: Arc<P>,
        registers: Arc<R>,
        config: Config,
        chosen: Chosen,
    ) -> Result<Arc<Self>, ProbeError> {
        let Chosen { features, stage2, granule, format, coherent } = chosen;
        let signalled = coherent && features.msi && config.completion != Completion::Poll;
        let commands = CommandQueue::new(
            platform.clone(),
            registers,
            features.output_bits,
            config.command_queue_lg2.min(features.command_queue_lg2),
            signalled,
            coherent,
            config.wait_limit_ns,
        )
        .ok_or(ProbeError::NoMemory)?;
        let event_queue_lg2 = config.event_queue_lg2.min(features.event_queue_lg2);
        let Some(events) = EventQueue::new(&*platform, features.output_bits, event_queue_lg2) else {
            commands.free(true);
            return Err(ProbeError::NoMemory);
        };
        // Where nothing can be shared nobody's requests could be met: without a queue each gets a failure from hardware.
        let asked = config.cpus.is_some() && features.page_requests && coherent && !stage2;
        let requests = asked.then(|| {
            let size_lg2 = config.page_request_queue_lg2.min(features.page_request_queue_lg2);
            PageRequestQueue::new(&*platform, features.output_bits, size_lg2)
        });
        if matches!(requests, Some(None)) {
            commands.free(true);
            events.free(&platform);
            return Err(ProbeError::NoMemory);
        }
        let requests = requests.flatten();
        let shape =
            StreamTableShape::choose(features.stream_bits, config.stream_table, features.two_level_streams);
        let table = StreamTable::new(platform.clone(), features.output_bits, shape, coherent);
        let Some(table) = table else {
            commands.free(true);
            events.free(&platform);
            requests.iter().for_each(|requests| requests.free(&platform));
            return Err(ProbeError::NoMemory);
        };
        let hardware = Hardware::new(config, features, stage2, granule, format, commands, events, requests);
        let hardware = Arc::new(hardware);
        let configuration = Configuration {
            table,
            streams: Streams::new(),
            translated: false,
            over: false,
            closing: false,
            gone: false,
        };
        Ok(Arc::new(Self { hardware, configuration: Lock::<P, Configuration<P>>::new(configuration) }))
    }

    fn start(&self) -> Result<(), ProbeError> {
        let placed = self.hardware.place_boot_streams(&mut self.configuration.lock().table);
        let started = placed.and_then(|()| self.hardware.bring_up(&self.configuration.lock().table));
        self.configuration.lock().translated = started.is_ok() || self.hardware.translates();
        if let Err(error) = started {
            // If even this is not confirmed, the memory stays where the hardware may look for it.
            let _ = self.teardown();
            return Err(error);
        }
        let features = &self.hardware.features;
        self.hardware.platform.event(&Event {
            source: "smmuv3",
            name: "probe",
            fields: &[
                ("smmu", Value::Str(&self.hardware.name)),
                ("version", Value::Dec(features.version_minor.into())),
                ("stage", Value::Dec(if self.hardware.stage2 { 2 } else { 1 })),
                ("sid_bits", Value::Dec(features.stream_bits.into())),
                ("oas", Value::Dec(features.output_bits.into())),
                ("ril", Value::Dec(features.range_invalidation.into())),
            ],
        });
        Ok(())
    }

    /// Turns the SMMU off and gives its tables back. All traffic is aborted from then on. Domains that are left work on as page tables that
    /// nobody walks. A second call does nothing.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm that it is off, or that all that it had translated is over: accesses of devices may be under way to what was mapped for them. Tables, ids and
    /// what domains have unmapped are kept then, since hardware may still use them, and no device can come or be attached; a later call asks again.
    pub fn teardown(&self) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        if configuration.gone {
            return Ok(());
        }
        configuration.closing = true;
        // Devices with an ATC stop before translation does; one that does not answer is aborted like all others.
        // Spec: SMMUv3 H.a, 3.9.1 "ATS Interface".
        for sharing in configuration.streams.all_sharing() {
            let _ = self.hardware.pause_ats(Some(sharing));
        }
        // An error that nobody put right would hold the last sync up.
        self.hardware.commands.look();
        self.hardware.commands.close();
        self.hardware.end_translation()?;
        let Configuration { translated, over, .. } = &mut *configuration;
        // Once: who turned off too slowly the last time has no queue any more with which to be asked.
        *over = *over || self.hardware.end_accesses(*translated);
        if *translated && !*over {
            let last = self.hardware.registers.read32(CMDQ_CONS).into();
            return Err(SyncError::Timeout { waiting_for: "the end of accesses that were under way", last });
        }
        // None is on its way of a probe that came to no command.
        let signals_have_come = *over || self.hardware.commands.reserved() == 0;
        self.hardware.shut_down()?;
        self.hardware.turned_off();
        configuration.gone = true;
        configuration.table.free();
        let (streams, sharing, lost) = configuration.streams.take_all();
        drop(configuration);
        sharing.into_values().for_each(|sharing| drop(sharing.abandon::<R>()));
        drop((streams, lost));
        self.hardware.settle();
        self.hardware.commands.free(signals_have_come);
        self.hardware.events.free(&self.hardware.platform);
        self.hardware.page_requests.iter().for_each(|requests| requests.free(&self.hardware.platform));
        Ok(())
    }

    /// What the hardware can do.
    pub fn features(&self) -> &Features {
        &self.hardware.features
    }

    /// Whether domains are stage 2.
    pub fn uses_stage2(&self) -> bool {
        self.hardware.stage2
    }

    /// What the driver did since probe.
    pub fn counts(&self) -> Counts {
        self.hardware.commands.counters.snapshot()
    }

    /// How much memory the driver's own tables take.
    pub fn table_bytes(&self) -> TableBytes {
        TableBytes {
            stream_table: self.configuration.lock().table.bytes(),
            queues: self.hardware.commands.bytes()
                + self.hardware.events.ring.bytes()
                + self.hardware.page_requests.as_ref().map_or(0, |requests| requests.ring.bytes()),
        }
    }

    /// The shape of the stream table.
    pub fn stream_table_shape(&self) -> StreamTableShape {
        self.configuration.lock().table.shape
    }

    /// The entry that leads these streams to `target`, and what it keeps alive.
    pub(crate) fn entry_for(
        &self,
        target: &Target<P>,
        streams: &[u32],
        how: UseShape,
    ) -> Result<(Ste, Attachment<P>), AttachError> {
        let domain = match target {
            Target::Blocked => return Ok((entry::abort(), Attachment::Blocked)),
            Target::Identity => return self.identity_for(streams, how),
            Target::Process(process) => return self.process_for(process, streams, how),
            // Choice: nothing is nested here. Where stage 2 is used as well, what stage 1 begins with is not a table but a context descriptor, which is the guest's too.
            // Spec: SMMUv3 H.a, 5.2 "Stream Table Entry", S1ContextPtr.
            Target::Nested(_) => return Err(AttachError::Unsupported),
            Target::Domain(domain) => domain,
        };
        let ours = domain.as_any().downcast_ref::<Domain<P, R>>().filter(|ours| ours.is_of(&self.hardware));
        let ours = ours.ok_or(AttachError::ForeignDomain)?;
        let (ste, contexts) = ours.entry(streams, how).ok_or(AttachError::NoMemory)?;
        Ok((ste, Attachment::Domain { domain: domain.clone(), contexts }))
    }

    /// The entry with which all traffic goes to a process's memory, which knows the streams from now on.
    fn process_for(
        &self,
        process: &Arc<dyn ProcessDomain>,
        streams: &[u32],
        how: UseShape,
    ) -> Result<(Ste, Attachment<P>), AttachError> {
        if how.substream_bits.is_some() {
            // A device that shares has PASIDs for that.
            return Err(AttachError::Unsupported);
        }
        let ours = self.ours(process).ok_or(AttachError::ForeignDomain)?;
        let (ste, contexts) = ours.entry(streams)?;
        Ok((ste, Attachment::Process { process: process.clone(), contexts }))
    }

    /// The process, if it is one of this SMMU's.
    pub(crate) fn ours<'a>(&self, process: &'a Arc<dyn ProcessDomain>) -> Option<&'a Process<P, R>> {
        let process = process.as_any().downcast_ref::<Process<P, R>>();
        process.filter(|process| process.is_of(&self.hardware))
    }

    /// The entry with which traffic passes, unless it has a PASID, for which there is a table if the device shares.
    fn identity_for(&self, streams: &[u32], how: UseShape) -> Result<(Ste, Attachment<P>), AttachError> {
        let hardware = &self.hardware;
        let Some(bits) = how.substream_bits else {
            return Ok((entry::bypass(&hardware.features), Attachment::Identity { contexts: None }));
        };
        let shape = hardware.context_shape(Some(bits));
        let table = hardware.new_contexts(shape);
        let table = table.ok_or(AttachError::NoMemory)?;
        let ste = entry::substreams_only(hardware.world(), table.root(), shape, how.allowed);
        let contexts = Some(Arc::new(Contexts::new(streams.to_vec(), table)));
        Ok((ste, Attachment::Identity { contexts }))
    }
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// How these streams use what they are attached to. A device that shares is attached as a whole, and while PASIDs of it mean something, it can only be
    /// blocked.
    fn use_shape(streams: &mut Streams<P>, ids: &[u32], target: &Target<P>) -> Result<UseShape, AttachError> {
        if !streams.any_shares(ids) {
            return Ok(UseShape::default());
        }
        let sharing = streams.sharing(ids).ok_or(AttachError::Unsupported)?;
        if sharing.in_use() && !matches!(target, Target::Blocked) {
            return Err(AttachError::PasidsInUse);
        }
        Ok(sharing.shape())
    }

    /// Makes `ste` the entry of streams, which leads to `attachment`.
    fn lead(
        &self,
        configuration: &mut Configuration<P>,
        ids: &[u32],
        ste: &Ste,
        attachment: &Attachment<P>,
    ) -> Result<Led<P>, AttachError> {
        let blocks = matches!(attachment, Attachment::Blocked);
        let Configuration { table, streams, closing, gone, .. } = configuration;
        if *gone || *closing && !blocks {
            return Err(AttachError::Unsupported);
        }
        if let Some(&unknown) = ids.iter().find(|&&id| !streams.contains(id)) {
            return Err(AttachError::UnknownSource(SourceId(unknown)));
        }
        if !blocks {
            // Of streams with stalls that are to end all are blocked.
            self.end_what_is_stalled(table, streams, ids).map_err(AttachError::LeftBlocked)?;
        }
        let may_stall = self.may_stall(streams, ids);
        // One that does not answer can still be blocked: an entry that aborts lets nothing through.
        if let Err(error) = self.hardware.pause_ats(streams.sharing(ids))
            && !blocks
        {
            self.resume_ats(streams, ids);
            return Err(AttachError::Sync(error));
        }
        let outcome = self.hardware.install_all(table, ids, ste);
        let old = match outcome {
            Ok(()) => streams.replace(ids, attachment),
            Err(AttachError::Sync(error)) => {
                self.resume_ats(streams, ids);
                return Err(AttachError::Sync(error));
            }
            Err(error) => {
                streams.lose(ids, attachment);
                if may_stall {
                    // They are blocked, and once hardware has confirmed that, what waits there can be ended.
                    streams.note_end_of_stalls(ids, false);
                }
                return Err(error);
            }
        };
        old.iter().for_each(Attachment::cut_off);
        self.resume_ats(streams, ids);
        let ended = match (blocks, may_stall) {
            (true, true) => self.end_stalls(streams, ids),
            (true, false) => self.end_what_is_stalled(table, streams, ids),
            (false, _) => Ok(()),
        };
        Ok(Led { old, ended })
    }

    /// Whether transactions of these streams may wait behind a stall that only their block ends: of a device that shares by stalling, and, where all stall, of any of which the record of
    /// one may have been lost. All others are ended as their records come.
    fn may_stall(&self, streams: &mut Streams<P>, ids: &[u32]) -> bool {
        let unknown = self.hardware.features.stall_forced && self.hardware.stalls.may_be_unknown();
        unknown || streams.sharing(ids).is_some_and(|sharing| sharing.stalls())
    }

    /// Ends what waits behind stalls of streams that are blocked. If hardware does not confirm that, it is asked again before anything else is made of them.
    fn end_stalls(&self, streams: &mut Streams<P>, ids: &[u32]) -> Result<(), SyncError> {
        let ended = self.hardware.end_stalls(ids);
        streams.note_end_of_stalls(ids, ended.is_ok());
        ended
    }

    /// Asks again of those streams among `ids` of which hardware has not confirmed it.
    ///
    /// Spec: SMMUv3 H.a, 4.7.2 "CMD_STALL_TERM": only while their entries abort, and hardware has forgotten others.
    fn end_what_is_stalled(
        &self,
        table: &mut StreamTable<P>,
        streams: &mut Streams<P>,
        ids: &[u32],
    ) -> Result<(), SyncError> {
        let mut stalled = streams.all_stalled();
        stalled.retain(|id| ids.contains(id));
        if stalled.is_empty() {
            return Ok(());
        }
        self.hardware.forget_doubted(table, &stalled)?;
        self.end_stalls(streams, &stalled)
    }

    /// Has hardware confirm what it did not of these streams, before anything else is made of them, and lets go of what was kept for that: a process knows a device once,
    /// also one for which it is kept.
    fn settle_streams(&self, ids: &[u32]) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        let Configuration { table, streams, .. } = &mut *configuration;
        if !ids.iter().all(|&id| streams.contains(id)) {
            return Ok(());
        }
        self.hardware.forget_doubted(table, ids)?;
        let found = streams.find(|id| ids.contains(&id));
        found.iter().for_each(Attachment::cut_off);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(found);
        Ok(())
    }

    /// Says again that entries are to be forgotten of which hardware did not confirm it, and ends stalls of which it did not, now that the queue may work. What was kept for
    /// entries that are in doubt no more, whoever had them confirmed, is let go of.
    fn say_again(&self) {
        let mut configuration = self.configuration.lock();
        let Configuration { table, streams, gone, .. } = &mut *configuration;
        if *gone {
            return;
        }
        // What is not confirmed now either stays in doubt.
        let _ = self.hardware.forget_doubted(table, &table.all_in_doubt());
        let found = streams.find(|id| !table.is_in_doubt(id));
        found.iter().for_each(Attachment::cut_off);
        let mut stalled = streams.all_stalled();
        stalled.retain(|&id| !table.is_in_doubt(id));
        // What does not end now either is asked of the next time.
        let _ = self.end_what_is_stalled(table, streams, &stalled);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(found);
    }

    /// Lets a device that shares translate again, if its entry leads somewhere.
    pub(crate) fn resume_ats(&self, streams: &mut Streams<P>, ids: &[u32]) {
        let first = ids.first().and_then(|&first| streams.get(first));
        let translated = first.is_some_and(|stream| stream.attached.contexts().is_some());
        if let Some(sharing) = streams.sharing(ids).filter(|_| translated) {
            sharing.resume_ats();
        }
    }
}

/// Whoever lets go of an SMMU turns it off.
impl<P: Platform, R: Registers + 'static> Drop for Smmu<P, R> {
    fn drop(&mut self) {
        if self.teardown().is_err() {
            // Hardware may still read what streams lead to: it is lost rather than given to somebody else.
            core::mem::forget(self.configuration.get_mut().streams.take_all());
        }
    }
}

/// The address comes from firmware. Spec: SMMUv3 H.a, 6.3.21 "SMMU_GERROR_IRQ_CFG0": ADDR is bits 55:2, of those the ones that the output size has, and
/// 0 sends none.
fn check_doorbell(config: &Config, output_bits: u8) -> Result<(), ProbeError> {
    let sayable =
        |doorbell: Pa| doorbell.get() != 0 && doorbell.is_aligned(4) && doorbell.get() >> output_bits == 0;
    match config.msi {
        Some(msi) if !sayable(msi.doorbell) => Err(ProbeError::BadDoorbell),
        _ => Ok(()),
    }
}

fn choose_stage(features: &Features, wish: Stage) -> Result<bool, ProbeError> {
    match wish {
        Stage::Auto => Ok(!features.stage1),
        Stage::One if features.stage1 => Ok(false),
        Stage::Two if features.stage2 => Ok(true),
        Stage::One | Stage::Two => Err(ProbeError::NoSuchStage),
    }
}

fn choose_granule(features: &Features, wish: Option<SizeLg2>) -> SizeLg2 {
    let wished = wish.filter(|&granule| features.granules.contains(granule));
    wished.or_else(|| features.granules.smallest()).unwrap_or(SizeLg2::KIB_4)
}

impl<P: Platform, R: Registers> Iommu<P> for Smmu<P, R> {
    fn name(&self) -> &str {
        &self.hardware.name
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Domain::capabilities(&self.hardware);
        capabilities.coherent_walk = self.hardware.coherent();
        capabilities
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        let mut configuration = self.configuration.lock();
        let Configuration { table, streams, closing, gone, .. } = &mut *configuration;
        if *gone || *closing {
            return Err(AddDeviceError::Sync(SyncError::Timeout {
                waiting_for: "an SMMU that is on",
                last: 0,
            }));
        }
        let ids = streams.admit(name, sources, table.shape.stream_bits)?;
        let new: Vec<u32> = ids.into_iter().filter(|&id| !streams.contains(id)).collect();
        if !table.ensure_all(&new) {
            return Err(AddDeviceError::NoMemory);
        }
        // Those that firmware uses go on until they are attached.
        let blocked: Vec<u32> = new.iter().copied().filter(|&id| !table.passes_since_boot(id)).collect();
        self.hardware.install_all(table, &blocked, &entry::abort()).map_err(|error| match error {
            AttachError::Sync(error) | AttachError::LeftBlocked(error) => AddDeviceError::Sync(error),
            _ => AddDeviceError::NoMemory,
        })?;
        let device: Arc<str> = Arc::from(name);
        for &id in &new {
            table.take_boot_stream(id);
            streams.insert(&device, id);
        }
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        let Configuration { table, streams, gone, .. } = &mut *configuration;
        if *gone {
            return Ok(());
        }
        let ids: Vec<u32> = distinct(sources).into_iter().filter(|&id| streams.contains(id)).collect();
        self.end_what_is_stalled(table, streams, &ids)?;
        // One that does not answer is cut off all the same: an entry that is not valid lets nothing through.
        let _ = self.hardware.pause_ats(streams.sharing(&ids));
        for &id in &ids {
            if let Err(error) = self.hardware.install(table, id, &entry::INVALID) {
                ids.iter().for_each(|&id| self.hardware.block_unconfirmed(table, id));
                streams.lose(&ids, &Attachment::Blocked);
                return Err(error);
            }
        }
        let sharing = if streams.sharing(&ids).is_some() { streams.unshare(ids[0]) } else { None };
        let removed: Vec<_> = ids.iter().filter_map(|&id| streams.remove(id)).collect();
        if sharing.is_some() {
            removed.iter().for_each(|stream| stream.attached.cut_off());
        }
        let found = streams.find(|id| ids.contains(&id));
        found.iter().for_each(Attachment::cut_off);
        self.hardware.stalls.ignore(&ids);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(sharing.map(Sharing::abandon::<R>));
        drop((removed, found));
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(Domain::new(self.hardware.clone())?)
    }

    fn attach(&self, sources: &[SourceId], target: &Target<P>) -> Result<(), AttachError> {
        let ids = distinct(sources);
        // Of streams in doubt all are blocked.
        self.settle_streams(&ids).map_err(AttachError::LeftBlocked)?;
        // How the device uses what it is attached to does not change before its entry says so.
        let mut configuration = self.configuration.lock();
        let how = Self::use_shape(&mut configuration.streams, &ids, target)?;
        let (ste, attachment) = self.entry_for(target, &ids, how)?;
        let Led { old, ended } = self.lead(&mut configuration, &ids, &ste, &attachment)?;
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(old);
        ended.map_err(AttachError::LeftBlocked)?;
        self.hardware.platform.event(&Event {
            source: "smmuv3",
            name: "attach",
            fields: &[
                ("sid", Value::Hex(ids.first().copied().unwrap_or(0).into())),
                ("streams", Value::Dec(ids.len() as u64)),
                ("to", Value::Str(target.name())),
            ],
        });
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        let (first, len_bytes) = SOFTWARE_MSI;
        let range = IovaRange::new(Iova::new(first), len_bytes).expect("1 MiB above 128 MiB does not wrap");
        let (kind, prot) = (ReservedKind::SoftwareMsi, Prot::device(Perms::WRITE));
        vec![ReservedRegion { range, kind, prot, source: RegionSource::Iommu }]
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        if self.hardware.is_off() {
            return 0;
        }
        let hardware = &self.hardware;
        hardware.send_unsent();
        hardware.events.drain(&hardware.commands, &hardware.stalls, &|answer| hardware.respond(answer), to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        if self.hardware.is_off() {
            return Vec::new();
        }
        let errors = self.hardware.commands.handle_errors(|active| self.hardware.note_losses(active));
        self.say_again();
        self.hardware.settle();
        self.hardware.send_unsent();
        errors
    }

    fn sva(&self) -> Option<&dyn SvaIommu<P>> {
        self.hardware.config.cpus.is_some().then_some(self)
    }
}

#[cfg(test)]
mod tests;
