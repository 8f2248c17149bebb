//! One remapping unit: probe, teardown, and what core asks of it.
//!
//! # Locks
//!
//! `configuration` is held while entries change, waits included; under it come the lives of processes. What entries no longer lead to forgets its sources under it, so that
//! nobody leads them there again before. Domains and processes are dropped under no lock: dropping one may wait for the hardware.
//!
//! Not here: the order of stores and invalidations (`switch`), bringing the unit up (`reset`), sharing processes' memory (`sharing`).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    MapError, RegionSource, ReservedKind, ReservedRegion, SyncError, Target,
};
use portcullis_core::nested::{GuestTable, GuestTables, NestedDomain, NestedError};
use portcullis_core::sva::SvaIommu;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::vtd::{INTERRUPT_WINDOW_FIRST, INTERRUPT_WINDOW_LAST};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Pa, Perms, Prot, SourceId, mutant};

use crate::config::{BootRegion, Config};
use crate::context::Tables;
use crate::counters::Counts;
use crate::devices::{Attachment, Devices, FIRMWARE, Source, distinct, plain};
use crate::domain::Domain;
use crate::fault::Faults;
use crate::features::{Features, ProbeError};
use crate::hardware::Hardware;
use crate::interrupt::InterruptRemapping;
use crate::lead::{Lead, To};
use crate::nested::{self, Nested};
use crate::page_requests::PageRequestQueue;
use crate::process::{self, Held, Process, held_of};
use crate::queue::Queue;
use crate::reset::take_over;
use crate::sharing::Sharing;
use crate::table;

/// The most leaves that a table for memory as it is may have, as log2.
const IDENTITY_LEAVES_LG2: u8 = 18;

type Guard<'a, P, T> = portcullis_hal::lock_api::MutexGuard<'a, <P as Platform>::Mutex, T>;

/// A remapping unit that was brought up.
pub struct Vtd<P: Platform, R: Registers + 'static> {
    pub(crate) hardware: Arc<Hardware<P, R>>,
    pub(crate) configuration: Lock<P, Configuration<P>>,
    interrupts: Option<InterruptRemapping<P, R>>,
    faults: Faults<P>,
    /// The domain-id of entries that let requests pass.
    passing: u16,
}

/// What changes when devices come, go, or are attached.
pub(crate) struct Configuration<P: Platform> {
    pub(crate) tables: Tables<P>,
    pub(crate) devices: Devices<P>,
    /// Memory as it is, where hardware cannot let requests pass. Made when it is first asked for.
    identity: Option<Arc<dyn HwDomain<P>>>,
    /// Somebody has begun to turn the unit off: the root table leads nowhere, so that nobody comes or is led anywhere any more.
    pub(crate) closing: bool,
    pub(crate) gone: bool,
}

impl<P: Platform, R: Registers> fmt::Debug for Vtd<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vtd").field("name", &self.hardware.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Vtd<P, R> {
    /// Takes a unit over from firmware and brings it up. On return it translates: every source is blocked, but for those that firmware reserved memory for, which reach
    /// that memory and nothing else.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says. Then the unit does not translate, unless it did before and would not stop.
    pub fn probe(platform: Arc<P>, registers: Arc<R>, config: Config) -> Result<Self, ProbeError> {
        let features = Features::read(&*registers, &config)?;
        let wants_x2apic = config.interrupts.is_some_and(|interrupts| interrupts.x2apic);
        if wants_x2apic && features.extended.ir() && !features.extended.eim() {
            return Err(ProbeError::Missing("EIM"));
        }
        let format = table::choose(&features)
            .ok_or(ProbeError::Absurd { field: "MGAW", value: features.input_bits.into() })?;
        take_over(&*platform, &*registers, &features, config.wait_limit_ns)?;
        let queue = Queue::new(
            platform.clone(),
            registers.clone(),
            config.queue_lg2,
            &features,
            config.wait_limit_ns,
        );
        let queue = queue.ok_or(ProbeError::NoMemory)?;
        let shares = config.cpus.is_some() && features.pasid_bits > 0 && features.extended.prs();
        let page_requests = if shares {
            match PageRequestQueue::new(&*platform, config.page_request_queue_lg2, features.coherent) {
                Some(requests) => Some(requests),
                None => {
                    queue.free();
                    return Err(ProbeError::NoMemory);
                }
            }
        } else {
            None
        };
        let hardware = Hardware::new(platform, registers, features, config, format, queue, page_requests);
        Self::start(Arc::new(hardware))
    }

    fn start(hardware: Arc<Hardware<P, R>>) -> Result<Self, ProbeError> {
        let features = &hardware.features;
        let tables = Tables::new(hardware.platform.clone(), features.scalable, features.coherent);
        let Some(tables) = tables else {
            hardware.free_queues();
            return Err(ProbeError::NoMemory);
        };
        let wanted = hardware.config.interrupts.filter(|_| features.extended.ir());
        let interrupts = wanted.map(|config| InterruptRemapping::new(hardware.clone(), config));
        let no_memory = matches!(interrupts, Some(None));
        let devices = Devices::new();
        let configuration = Configuration { tables, devices, identity: None, closing: false, gone: false };
        let passing = hardware.ids.lock().take().unwrap_or(0);
        let unit = Self {
            interrupts: interrupts.flatten(),
            faults: Faults::new(),
            configuration: Lock::<P, Configuration<P>>::new(configuration),
            passing,
            hardware,
        };
        let outcome = if no_memory { Err(ProbeError::NoMemory) } else { unit.bring_up() };
        outcome.inspect_err(|_| unit.give_up())?;
        Ok(unit)
    }

    fn bring_up(&self) -> Result<(), ProbeError> {
        let hardware = &self.hardware;
        hardware.start_queue()?;
        let root = self.configuration.lock().tables.root.get();
        hardware.set_root(root)?;
        if let Some(interrupts) = &self.interrupts {
            hardware.start_interrupts(interrupts)?;
        }
        if let Some(requests) = &hardware.page_requests {
            requests.open(&*hardware.registers);
        }
        self.attach_boot_regions()?;
        hardware.start_events();
        hardware.start_translation()
    }

    /// Makes memory that firmware goes on using reachable for those who use it: each such source gets a domain with just its regions.
    fn attach_boot_regions(&self) -> Result<(), ProbeError> {
        let regions = &self.hardware.config.boot_regions;
        let mut sids: Vec<u16> = regions.iter().flat_map(|region| distinct(&region.sources)).collect();
        sids.sort_unstable();
        sids.dedup();
        let firmware: Arc<str> = Arc::from(FIRMWARE);
        for sid in sids {
            let source = SourceId(sid.into());
            let domain = Domain::new(self.hardware.clone()).map_err(|_| ProbeError::NoMemory)?;
            let theirs = |region: &&BootRegion| {
                region.sources.contains(&source) && !mutant!("vtd-boot-region-not-mapped")
            };
            let ranges = regions.iter().filter(theirs).map(|region| region.range);
            joined(ranges).into_iter().try_for_each(|range| map_region(&*domain, range))?;
            let mut configuration = self.configuration.lock();
            let Configuration { tables, devices, .. } = &mut *configuration;
            let known = self.hardware.know(tables, devices, &firmware, &[sid]);
            drop(configuration);
            known.ok_or(ProbeError::NoMemory)?;
            self.attach(&[source], &Target::Domain(domain)).map_err(|error| match error {
                AttachError::Sync(error) | AttachError::LeftBlocked(error) => ProbeError::Sync(error),
                _ => ProbeError::NoMemory,
            })?;
        }
        Ok(())
    }

    /// After a probe that failed: stops what was started, and keeps what hardware may read if it does not stop.
    fn give_up(&self) {
        let Hardware { platform, registers, features, config, queue, .. } = &*self.hardware;
        queue.close();
        if take_over(&**platform, &**registers, features, config.wait_limit_ns).is_err() {
            return;
        }
        self.hardware.turned_off();
        let mut configuration = self.configuration.lock();
        configuration.gone = true;
        configuration.tables.free();
        self.drop_all(configuration);
    }

    /// Lets go of everything, once hardware knows nothing of it any more.
    fn drop_all(&self, mut configuration: Guard<'_, P, Configuration<P>>) {
        let identity = configuration.identity.take();
        let (sources, sharing, lost) = configuration.devices.take_all();
        let attached = sources.iter().map(|(&sid, source)| (sid, &source.attached));
        let lost_too = lost.iter().map(|(sid, attached)| (*sid, attached));
        attached.chain(lost_too).for_each(|(sid, attached)| self.let_go(sid, attached));
        // Processes know the entries in the directories until then, and make them not present when they exit.
        let shared: Vec<_> = sharing.into_values().flat_map(Sharing::abandon::<R>).collect();
        drop(configuration);
        for (_, mut source) in sources {
            if let Some(directory) = source.directory.take() {
                directory.free(&*self.hardware.platform);
            }
        }
        drop((identity, lost, shared));
        self.hardware.settle();
        self.interrupts.iter().for_each(InterruptRemapping::free);
        self.hardware.free_queues();
    }

    /// Turns the unit off, for good. Every request is blocked from then on, interrupts are no longer remapped. Domains that are left work on as page tables that
    /// nobody walks. A second call does nothing.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm. Its tables are kept then, since it may still read them, and no device can come or be attached; a later call asks again.
    pub fn teardown(&self) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        if configuration.gone {
            return Ok(());
        }
        configuration.closing = true;
        configuration.devices.all_sharing().for_each(|sharing| sharing.pause_ats(&self.hardware));
        self.hardware.shut_down(&configuration.tables)?;
        self.hardware.turned_off();
        configuration.gone = true;
        configuration.tables.free_contexts();
        self.drop_all(configuration);
        Ok(())
    }

    /// What the hardware can do.
    pub fn features(&self) -> &Features {
        &self.hardware.features
    }

    /// What the driver did since probe.
    pub fn counts(&self) -> Counts {
        self.hardware.queue.counters.snapshot()
    }

    /// How interrupts are remapped; none if they are not.
    pub fn interrupts(&self) -> Option<&InterruptRemapping<P, R>> {
        self.interrupts.as_ref()
    }

    /// How many bytes root, context and PASID tables take.
    pub fn table_bytes(&self) -> u64 {
        let configuration = self.configuration.lock();
        let directories = configuration.devices.iter().filter_map(|(_, source)| source.directory.as_ref());
        configuration.tables.bytes() + directories.map(crate::pasid::Directory::bytes).sum::<u64>()
    }

    /// Whether memory can be passed as it is.
    fn has_identity(&self) -> bool {
        self.hardware.features.extended.pt() || self.identity_leaf().is_some()
    }

    /// The leaf with which a table maps all memory to itself: its size as log2. None if it would take too many.
    fn identity_leaf(&self) -> Option<u8> {
        let features = &self.hardware.features;
        let leaf = features.page_sizes.iter().last()?.get();
        let last = self.hardware.format.aperture().last().get();
        let fits = last >> (features.output_bits - 1) != 0;
        (fits && features.output_bits.saturating_sub(leaf) <= IDENTITY_LEAVES_LG2).then_some(leaf)
    }

    /// A domain that maps all memory to itself.
    fn identity_domain(&self) -> Result<Arc<dyn HwDomain<P>>, AttachError> {
        let mut configuration = self.configuration.lock();
        if let Some(domain) = &configuration.identity {
            return Ok(domain.clone());
        }
        self.identity_leaf().ok_or(AttachError::Unsupported)?;
        let domain: Arc<dyn HwDomain<P>> =
            Domain::new(self.hardware.clone()).map_err(|_| AttachError::NoMemory)?;
        let aperture = domain.aperture().last().get();
        let last = aperture.min((1 << self.hardware.features.output_bits) - 1);
        let all = domain.map(Iova::new(0), Pa::new(0), last + 1, Prot::cached(Perms::READ_WRITE));
        all.map_err(|error| unconfirmed(error).map_or(AttachError::NoMemory, AttachError::Sync))?;
        configuration.identity = Some(domain.clone());
        Ok(domain)
    }

    /// What `target` is for this unit, and where an entry leads that leads there.
    pub(crate) fn resolve(&self, target: &Target<P>) -> Result<(Attachment<P>, Option<Lead>), AttachError> {
        match target {
            Target::Blocked => Ok((Attachment::Blocked, None)),
            Target::Identity if self.hardware.features.extended.pt() => {
                Ok((plain(target), Some(Lead { did: self.passing, to: To::Memory })))
            }
            Target::Identity => {
                let domain = self.identity_domain()?;
                let lead = self.ours(&domain).and_then(Domain::lead);
                Ok((Attachment::Identity(Some(domain)), lead))
            }
            Target::Domain(domain) => {
                let ours = self.ours(domain).ok_or(AttachError::ForeignDomain)?;
                Ok((plain(target), Some(ours.lead().ok_or(AttachError::NoMemory)?)))
            }
            Target::Process(process) => {
                let ours = process.as_any().downcast_ref::<Process<P, R>>();
                let ours = ours.filter(|it| it.is_of(&self.hardware)).ok_or(AttachError::ForeignDomain)?;
                Ok((plain(target), Some(ours.lead())))
            }
            Target::Nested(nested) => {
                let ours = nested.as_any().downcast_ref::<Nested<P, R>>();
                let ours = ours.filter(|it| it.is_of(&self.hardware)).ok_or(AttachError::ForeignDomain)?;
                Ok((plain(target), Some(ours.lead())))
            }
        }
    }

    /// The domain, if it is one of this unit's.
    pub(crate) fn ours<'a>(&self, domain: &'a Arc<dyn HwDomain<P>>) -> Option<&'a Domain<P, R>> {
        Domain::ours(&self.hardware, domain)
    }

    /// Before entries of these sources lead to `attached`: it is to know them. It is among `held` if it is a process.
    fn expect(
        &self,
        devices: &Devices<P>,
        sids: &[u16],
        attached: &Attachment<P>,
        held: &[Held<'_, P, R>],
    ) -> Result<(), AttachError> {
        if let Some(domain) = attached.domain().and_then(|domain| self.ours(domain)) {
            sids.iter().for_each(|&sid| domain.expect(sid));
        }
        if let Attachment::Nested(nested) = attached
            && let Some(nested) = nested.as_any().downcast_ref::<Nested<P, R>>()
        {
            sids.iter().for_each(|&sid| nested.expect(sid));
        }
        let Some(process) = attached.process().and_then(|process| held_of(held, &**process)) else {
            return Ok(());
        };
        let places =
            sids.iter().filter_map(|&sid| Some((sid, devices.get(sid)?.directory.as_ref()?.whole())));
        process.expect_whole(places)
    }

    /// After no entry of this source leads to `attached` any more. Whoever calls this holds the configuration, so that nobody attaches the source to it again meanwhile;
    /// what is attached is dropped without.
    pub(crate) fn let_go(&self, sid: u16, attached: &Attachment<P>) {
        if let Some(domain) = attached.domain().and_then(|domain| self.ours(domain)) {
            domain.forget(sid);
        }
        if let Attachment::Nested(nested) = attached
            && let Some(nested) = nested.as_any().downcast_ref::<Nested<P, R>>()
        {
            nested.forget(sid);
        }
        if let Some(process) = attached.process().and_then(|it| it.as_any().downcast_ref::<Process<P, R>>()) {
            process.hold().forget_whole(sid);
        }
    }

    /// Makes the entries of sources lead to `attached`.
    fn lead(&self, sids: &[u16], attached: &Attachment<P>, lead: Option<Lead>) -> Result<(), AttachError> {
        let mut configuration = self.configuration.lock();
        let Configuration { tables, devices, closing, gone, .. } = &mut *configuration;
        if *gone || *closing && lead.is_some() {
            return Err(AttachError::Unsupported);
        }
        if let Some(&unknown) = sids.iter().find(|&&sid| !devices.contains(sid)) {
            return Err(AttachError::UnknownSource(SourceId(unknown.into())));
        }
        let shares = devices.any_shares(sids);
        if shares {
            let sharing = devices.sharing(sids).ok_or(AttachError::Unsupported)?;
            if sharing.in_use() && lead.is_some() {
                return Err(AttachError::PasidsInUse);
            }
            if matches!(attached, Attachment::Process(_)) {
                // A device that shares has PASIDs for that.
                return Err(AttachError::Unsupported);
            }
        }
        // From before an entry leads to a process until nothing of it does any more the process does not exit: it would find no entry, or one that is another's by then.
        let used = devices.used_by(sids).chain([attached]).filter_map(Attachment::process);
        let processes = process::distinct(used);
        let held: Vec<_> = processes.iter().filter_map(|process| process::hold(&**process)).collect();
        self.expect(devices, sids, attached, &held)?;
        devices.sharing(sids).into_iter().for_each(|sharing| sharing.pause_ats(&self.hardware));
        let ended = ended(devices, sids, &held);
        let outcome = self.hardware.switch(tables, devices, sids, lead, &ended);
        let mut gone = Vec::new();
        for &sid in sids {
            let Some(source) = devices.get_mut(sid) else { continue };
            match outcome {
                Ok(()) => gone.push((sid, core::mem::replace(&mut source.attached, attached.clone()))),
                Err(AttachError::Sync(_)) => {
                    if let Some(process) = source.attached.process().filter(|_| ended.contains(&sid)) {
                        held_of(&held, &**process).into_iter().for_each(|process| process.hush_whole(sid));
                    }
                    gone.push((sid, attached.clone()));
                }
                Err(_) => devices.lose(sid, attached),
            }
        }
        gone.retain(|(sid, it)| !devices.may_use(*sid, it));
        gone.append(&mut devices.find());
        let of_held = |(sid, it): &(u16, Attachment<P>)| {
            let process = it.process().and_then(|process| held_of(&held, &**process));
            process.map(|process| process.forget_whole(*sid)).is_some()
        };
        let (done, others): (Vec<_>, Vec<_>) = gone.into_iter().partition(of_held);
        drop(held);
        others.iter().for_each(|(sid, old)| self.let_go(*sid, old));
        let first = sids.first().and_then(|&first| devices.get(first));
        if first.is_some_and(|source| source.lead.is_some()) {
            devices.sharing(sids).into_iter().for_each(|sharing| sharing.resume_ats(&self.hardware));
        }
        drop(configuration);
        drop((done, others, processes));
        outcome
    }

    fn remove(&self, sids: &[u16]) -> Result<Vec<(u16, Source<P>)>, SyncError> {
        let mut configuration = self.configuration.lock();
        let Configuration { tables, devices, gone, .. } = &mut *configuration;
        if *gone {
            return Ok(Vec::new());
        }
        let known: Vec<u16> = sids.iter().copied().filter(|&sid| devices.contains(sid)).collect();
        let shares = devices.sharing(&known).is_some();
        devices.sharing(&known).into_iter().for_each(|sharing| sharing.pause_ats(&self.hardware));
        if let Err(error) = self.hardware.switch(tables, devices, &known, None, &[]) {
            known.iter().for_each(|&sid| devices.lose(sid, &Attachment::Blocked));
            return Err(match error {
                AttachError::LeftBlocked(error) | AttachError::Sync(error) => error,
                _ => SyncError::Failed { code: 0 },
            });
        }
        let sharing = known.first().filter(|_| shares).and_then(|&first| devices.unshare(first));
        self.hardware.askers.lock().remove(&known);
        let removed: Vec<_> = known.iter().filter_map(|&sid| Some((sid, devices.remove(sid)?))).collect();
        removed.iter().for_each(|(sid, source)| self.let_go(*sid, &source.attached));
        let found = devices.find();
        found.iter().for_each(|(sid, attached)| self.let_go(*sid, attached));
        let shared = sharing.map(Sharing::abandon::<R>);
        drop(configuration);
        drop((found, shared));
        Ok(removed)
    }
}

/// Which of these sources are attached to a process that has exited.
fn ended<P: Platform, R: Registers>(devices: &Devices<P>, sids: &[u16], held: &[Held<'_, P, R>]) -> Vec<u16> {
    let has_ended = |sid: &u16| {
        let process = devices.get(*sid).and_then(|source| source.attached.process());
        process.and_then(|process| held_of(held, &**process)).is_some_and(|process| !process.lives())
    };
    sids.iter().copied().filter(has_ended).collect()
}

/// Whoever lets go of a unit turns it off.
impl<P: Platform, R: Registers + 'static> Drop for Vtd<P, R> {
    fn drop(&mut self) {
        if self.teardown().is_err() {
            // Hardware may still read what entries lead to: it is lost rather than given to somebody else.
            let configuration = self.configuration.get_mut();
            core::mem::forget((configuration.identity.take(), configuration.devices.take_all()));
        }
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    fn free_queues(&self) {
        self.queue.close();
        self.queue.free();
        self.page_requests.iter().for_each(|requests| requests.free(&self.platform));
    }
}

/// What hardware did not confirm, if that is why a range was not mapped.
fn unconfirmed(error: MapError) -> Option<SyncError> {
    let MapError::Unconfirmed { waiting_for } = error else { return None };
    Some(SyncError::Timeout { waiting_for, last: 0 })
}

/// These ranges in order, those that overlap as one: regions of one device may.
fn joined(ranges: impl Iterator<Item = IovaRange>) -> Vec<IovaRange> {
    let mut ranges: Vec<IovaRange> = ranges.collect();
    ranges.sort_unstable();
    let mut joined: Vec<IovaRange> = Vec::new();
    for range in ranges {
        match joined.last_mut().filter(|before| before.overlaps(range)) {
            Some(before) => *before = before.hull(range),
            None => joined.push(range),
        }
    }
    joined
}

/// Maps memory that firmware reserved to itself: at once, since firmware may say that it needs very much.
fn map_region<P: Platform>(domain: &dyn HwDomain<P>, range: IovaRange) -> Result<(), ProbeError> {
    let first = range.first();
    let bad = ProbeError::BadRegion { first: first.get() };
    let is_sayable = range.is_aligned(0x1000) && domain.aperture().covers(range);
    let Some(len_bytes) = range.len_bytes().filter(|_| is_sayable) else { return Err(bad) };
    let mapped = domain.map(first, Pa::new(first.get()), len_bytes, Prot::cached(Perms::READ_WRITE));
    mapped.map_err(|error| match error {
        MapError::NoTableMemory => ProbeError::NoMemory,
        error => unconfirmed(error).map_or(bad, ProbeError::Sync),
    })
}

impl<P: Platform, R: Registers> Iommu<P> for Vtd<P, R> {
    fn name(&self) -> &str {
        &self.hardware.name
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Domain::capabilities(&self.hardware);
        capabilities.coherent_walk = self.hardware.features.coherent_walk;
        capabilities.identity = self.has_identity();
        capabilities.isolated_interrupts = self.interrupts.is_some();
        capabilities
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        let mut configuration = self.configuration.lock();
        if configuration.gone || configuration.closing {
            let waiting_for = "a unit that is on";
            return Err(AddDeviceError::Sync(SyncError::Timeout { waiting_for, last: 0 }));
        }
        let ids = configuration.devices.admit(name, sources)?;
        let Configuration { tables, devices, .. } = &mut *configuration;
        self.hardware.know(tables, devices, &Arc::from(name), &ids).ok_or(AddDeviceError::NoMemory)
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        for (_, mut source) in self.remove(&distinct(sources))? {
            if let Some(directory) = source.directory.take() {
                directory.free(&*self.hardware.platform);
            }
        }
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(Domain::new(self.hardware.clone())?)
    }

    fn guest_tables(&self) -> GuestTables {
        nested::guest_tables(&self.hardware.features)
    }

    fn new_parent(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        if self.guest_tables().is_empty() {
            return Err(DomainError::Unsupported);
        }
        Ok(Domain::parent(self.hardware.clone())?)
    }

    fn new_nested(
        &self,
        parent: &Arc<dyn HwDomain<P>>,
        table: &GuestTable,
    ) -> Result<Arc<dyn NestedDomain>, NestedError> {
        Ok(Arc::new(Nested::new(&self.hardware, parent, table)?))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<P>) -> Result<(), AttachError> {
        if let Some(&unknown) = sources.iter().find(|source| u16::try_from(source.0).is_err()) {
            return Err(AttachError::UnknownSource(unknown));
        }
        let sids = distinct(sources);
        let (attached, lead) = self.resolve(target)?;
        if !self.hardware.features.scalable && matches!(attached, Attachment::Process(_)) {
            return Err(AttachError::Unsupported);
        }
        self.lead(&sids, &attached, lead)?;
        self.hardware.platform.event(&Event {
            source: "vtd",
            name: "attach",
            fields: &[
                ("sid", Value::Hex(sids.first().copied().unwrap_or(0).into())),
                ("sources", Value::Dec(sids.len() as u64)),
                ("to", Value::Str(target.name())),
                ("did", Value::Dec(lead.map_or(0, |lead| lead.did.into()))),
            ],
        });
        Ok(())
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        let window =
            IovaRange::from_ends(Iova::new(INTERRUPT_WINDOW_FIRST), Iova::new(INTERRUPT_WINDOW_LAST));
        let mut regions = vec![ReservedRegion {
            range: window.expect("the ends are in order"),
            kind: ReservedKind::Msi,
            prot: Prot::device(Perms::WRITE),
            source: RegionSource::Iommu,
        }];
        let theirs = |region: &&BootRegion| region.sources.iter().any(|source| sources.contains(source));
        regions.extend(self.hardware.config.boot_regions.iter().filter(theirs).map(|region| {
            ReservedRegion {
                range: region.range,
                kind: if region.relaxable { ReservedKind::DirectRelaxable } else { ReservedKind::Direct },
                prot: Prot::cached(Perms::READ_WRITE),
                source: RegionSource::Dmar,
            }
        }));
        regions
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        if self.hardware.is_off() { 0 } else { self.faults.drain(&self.hardware, to) }
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        if self.hardware.is_off() {
            return Vec::new();
        }
        let errors = self.hardware.queue.repair();
        self.hardware.send_unsent();
        let mut configuration = self.configuration.lock();
        if !configuration.gone {
            let _still_doubted = self.hardware.say_again(&mut configuration.devices);
            configuration.devices.settle(&self.hardware.platform);
            let found = configuration.devices.find();
            found.iter().for_each(|(sid, attached)| self.let_go(*sid, attached));
            // Dropping a domain may wait for the hardware: under no lock.
            drop(configuration);
            drop(found);
            self.hardware.settle();
            self.interrupts.iter().for_each(InterruptRemapping::settle);
        }
        errors
    }

    fn sva(&self) -> Option<&dyn SvaIommu<P>> {
        // What a unit lacks for it, `check` says.
        Some(self)
    }
}

#[cfg(test)]
mod tests;
