//! One SMMU: probe, teardown, and the seam to core.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    RegionSource, ReservedKind, ReservedRegion, SyncError, Target,
};
use portcullis_core::nested::{GuestTable, GuestTables, NestedDomain, NestedError};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, Perms, Prot, SizeLg2, SourceId, mutant};

use crate::bank::asid;
use crate::config::{Config, Stage};
use crate::counters::Counts;
use crate::domain::Domain;
use crate::features::{Features, IdRegisters, ProbeError};
use crate::groups::Path;
use crate::hardware::Hardware;
use crate::nested::{self, Nested};
use crate::streams::{Attachment, Group, Streams};
use crate::table::{self, Wanted};

/// Where doorbells get mapped: 1 MiB that no device is likely to have RAM at.
///
/// Observed: Linux 6.12, `MSI_IOVA_BASE` and `MSI_IOVA_LENGTH` of its SMMU drivers, which user space has come to expect.
const SOFTWARE_MSI: (u64, u64) = (0x0800_0000, 0x10_0000);

/// One SMMUv2.
pub struct Smmu<P: Platform, R: Registers + 'static> {
    hardware: Arc<Hardware<P, R>>,
    configuration: Lock<P, Configuration<P>>,
}

/// What attaching changes, under one lock.
struct Configuration<P: Platform> {
    streams: Streams<P>,
    /// Somebody has begun to turn the SMMU off: there are no groups any more that a stream could be led by, and banks do not translate.
    closing: bool,
    /// The SMMU is no longer in use.
    gone: bool,
}

impl<P: Platform> Configuration<P> {
    /// Takes out what streams lead to, and what that keeps alive.
    fn take_streams(&mut self) -> Streams<P> {
        core::mem::replace(&mut self.streams, Streams::new(1))
    }
}

/// Whoever lets go of an SMMU turns it off.
impl<P: Platform, R: Registers + 'static> Drop for Smmu<P, R> {
    fn drop(&mut self) {
        if self.teardown().is_err() {
            // Hardware may still read what streams lead to: it is lost rather than given to somebody else.
            core::mem::forget(self.configuration.get_mut().take_streams());
        }
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Smmu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smmu").field("name", &self.hardware.config.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Brings up the SMMU behind `registers`. On return every stream is blocked, but for those that the configuration lets keep what they have.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says. Where the hardware is an SMMUv2 at all and was touched, traffic faults then.
    pub fn probe(platform: Arc<P>, registers: R, config: Config) -> Result<Arc<Self>, ProbeError> {
        let features = Features::decode(&IdRegisters::read(&registers))?;
        let stage2 = choose_stage(&features, config.stage)?;
        let granule = choose_granule(&features, config.granule);
        let coherent = features.coherent && config.coherent;
        let wanted = Wanted { stage2, granule, input_bits: config.input_bits, coherent };
        let format = table::choose(&features, wanted).ok_or(ProbeError::NoGranule)?;
        let parents = nested::possible(&features)
            .then(|| table::choose(&features, Wanted { stage2: true, ..wanted }))
            .flatten();
        let hardware = Hardware::new(platform, registers, features, config, stage2, granule, format, parents);
        let mut streams = Streams::new(features.groups);
        hardware.bring_up(&mut streams)?;
        let configuration = Configuration { streams, closing: false, gone: false };
        let configuration = Lock::<P, Configuration<P>>::new(configuration);
        Ok(Arc::new(Self { hardware: Arc::new(hardware), configuration }))
    }

    /// Turns the SMMU off, so that all traffic faults. Domains that are left work on as page tables that nobody walks. A second call does nothing.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm. Domains keep their tables then, since it may still read them. Traffic faults all the same, and no device can come or be attached; a later call
    /// asks again.
    pub fn teardown(&self) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        if configuration.gone {
            return Ok(());
        }
        configuration.closing = true;
        self.hardware.shut_down(&configuration.streams)?;
        self.hardware.turned_off();
        configuration.gone = true;
        let left = configuration.take_streams();
        drop(configuration);
        drop(left);
        self.hardware.settle();
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
        self.hardware.counters.snapshot()
    }

    /// Stream mapping register groups that are valid.
    pub fn groups_in_use(&self) -> usize {
        self.configuration.lock().streams.valid().count()
    }

    fn attachment(&self, target: &Target<P>) -> Result<Attachment<P>, AttachError> {
        let domain = match target {
            Target::Blocked => return Ok(Attachment::Blocked),
            Target::Identity => return Ok(Attachment::Identity),
            // Streams have no PASIDs here, and the CPUs' ids mean nothing to this hardware.
            Target::Process(_) => return Err(AttachError::Unsupported),
            Target::Nested(nested) => {
                let ours = nested.as_any().downcast_ref::<Nested<P, R>>();
                let ours =
                    ours.filter(|ours| ours.is_of(&self.hardware)).ok_or(AttachError::ForeignDomain)?;
                return Ok(Attachment::Nested { domain: nested.clone(), bank: asid(ours.bank()) });
            }
            Target::Domain(domain) => domain,
        };
        let ours = Domain::ours(&self.hardware, domain).ok_or(AttachError::ForeignDomain)?;
        Ok(Attachment::Domain { domain: domain.clone(), bank: asid(ours.bank()) })
    }

    /// Leads groups elsewhere. Answers what they led to, of which nothing is under way on return. If the hardware does not confirm that, they lead there
    /// again; but groups that were to be blocked are, and hold on to it until it does.
    fn lead(
        &self,
        streams: &mut Streams<P>,
        groups: &[usize],
        next: &Attachment<P>,
    ) -> Result<Vec<Attachment<P>>, SyncError> {
        let mut old = Vec::new();
        for &at in groups {
            let Some(group) = streams.groups[at].as_mut() else { continue };
            self.hardware.lead_group(streams.mapping, at, next.path());
            old.push(core::mem::replace(&mut group.attached, next.clone()));
        }
        self.end_stalled(streams, groups, &old, next);
        let Err(error) = self.forget_old(&old) else {
            self.end_stalled(streams, groups, &old, next);
            return Ok(old);
        };
        self.doubt(next);
        for (&at, old) in groups.iter().zip(old) {
            let Some(group) = streams.groups[at].as_mut() else { continue };
            if matches!(next, Attachment::Blocked) {
                group.attached = old.unconfirmed();
            } else {
                self.hardware.lead_group(streams.mapping, at, old.path());
                group.attached = old;
            }
        }
        Err(error)
    }

    /// Ends what of these groups waits in banks that they have left.
    fn end_stalled(
        &self,
        streams: &Streams<P>,
        groups: &[usize],
        old: &[Attachment<P>],
        next: &Attachment<P>,
    ) {
        if !self.hardware.config.stall {
            return;
        }
        let leaving = groups.iter().filter_map(|&at| streams.groups[at].as_ref());
        let leaves = |stream: u16| leaving.clone().any(|group| group.streams.matches(stream));
        let source_of = |stream: u16| streams.source_of(stream).unwrap_or(SourceId(stream.into()));
        let paths = old.iter().map(Attachment::under_way).filter(|path| *path != next.path());
        for path in paths {
            if let Path::Bank(bank) = path {
                self.hardware.end_stalled(bank.into(), &leaves, &source_of);
            }
        }
    }

    /// Streams were led there, and are led away again: what arrived in between may be under way.
    fn doubt(&self, attached: &Attachment<P>) {
        match attached {
            Attachment::Domain { domain, .. } => {
                Domain::ours(&self.hardware, domain).into_iter().for_each(Domain::doubt);
            }
            Attachment::Nested { domain, .. } => {
                let ours = domain.as_any().downcast_ref::<Nested<P, R>>();
                ours.into_iter().for_each(Nested::doubt);
            }
            Attachment::Blocked | Attachment::Identity | Attachment::Boot(_) | Attachment::Unconfirmed(_) => {
            }
        }
    }

    /// What was under way by these has ended when this returns, and nothing of it is remembered.
    fn forget_old(&self, old: &[Attachment<P>]) -> Result<(), SyncError> {
        if mutant!("smmuv2-old-domain-not-waited-for") {
            return Ok(());
        }
        let mut banks: Vec<u8> = Vec::new();
        for attached in old {
            match attached {
                Attachment::Blocked => {}
                // No tag is theirs, or more than one may be.
                Attachment::Identity | Attachment::Boot(_) | Attachment::Unconfirmed(_) => {
                    return self.hardware.forget_everything();
                }
                Attachment::Domain { bank, .. } | Attachment::Nested { bank, .. } => banks.push(*bank),
            }
        }
        banks.sort_unstable();
        banks.dedup();
        banks.into_iter().try_for_each(|bank| self.hardware.forget_bank(bank.into()))
    }

    /// Asks again of streams that were left blocked without the hardware's word, and of banks that were firmware's.
    fn ask_again(&self) {
        let mut configuration = self.configuration.lock();
        if configuration.closing {
            return;
        }
        let streams = &mut configuration.streams;
        let is_doubted = |group: &Group<P>| matches!(group.attached, Attachment::Unconfirmed(_));
        let doubted: Vec<usize> =
            streams.valid().filter(|(_, group)| is_doubted(group)).map(|(at, _)| at).collect();
        let old = self.lead(streams, &doubted, &Attachment::Blocked);
        if old.is_ok() {
            self.hardware.release_boot_banks(streams);
        }
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(old);
    }

    fn say_attach(&self, sources: &[SourceId], target: &Target<P>) {
        self.hardware.platform.event(&Event {
            source: "smmuv2",
            name: "attach",
            fields: &[
                ("sid", Value::Hex(sources.first().map_or(0, |source| source.0.into()))),
                ("streams", Value::Dec(sources.len() as u64)),
                ("to", Value::Str(target.name())),
            ],
        });
    }
}

fn choose_stage(features: &Features, wish: Stage) -> Result<bool, ProbeError> {
    match wish {
        Stage::Auto if features.stage1 => Ok(false),
        Stage::One if features.stage1 => Ok(false),
        Stage::Auto | Stage::Two if features.stage2 => Ok(true),
        _ => Err(ProbeError::NoSuchStage),
    }
}

fn choose_granule(features: &Features, wish: Option<SizeLg2>) -> SizeLg2 {
    let wished = wish.filter(|&granule| features.granules.contains(granule));
    wished.or_else(|| features.granules.smallest()).unwrap_or(SizeLg2::KIB_4)
}

impl<P: Platform, R: Registers> Iommu<P> for Smmu<P, R> {
    fn name(&self) -> &str {
        &self.hardware.config.name
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Domain::capabilities(&self.hardware);
        capabilities.coherent_walk = self.hardware.features.coherent && self.hardware.config.coherent;
        capabilities
    }

    /// Streams that keep what firmware gave them, and are exactly this device's, keep it until the first `attach`.
    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        let mut configuration = self.configuration.lock();
        if configuration.closing {
            return Err(AddDeviceError::Sync(SyncError::Timeout {
                waiting_for: "an SMMU that is on",
                last: 0,
            }));
        }
        let streams = &mut configuration.streams;
        let placement = streams.place(name, sources)?;
        let device: Arc<str> = Arc::from(name);
        if !placement.evicted.is_empty() {
            // They stay, blocked, if that is not confirmed: nobody's, as they were.
            self.lead(streams, &placement.evicted, &Attachment::Blocked).map_err(AddDeviceError::Sync)?;
        }
        for &at in &placement.evicted {
            self.hardware.close_group(streams.mapping, at);
            streams.groups[at] = None;
        }
        for (at, entry) in placement.opened {
            self.hardware.open_group(streams.mapping, at, entry, Path::Fault);
            streams.groups[at] =
                Some(Group { streams: entry, device: Some(device.clone()), attached: Attachment::Blocked });
        }
        for at in placement.adopted {
            if let Some(group) = streams.groups[at].as_mut() {
                group.device = Some(device.clone());
            }
        }
        streams.own(&device, sources);
        self.hardware.release_boot_banks(streams);
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        let mut configuration = self.configuration.lock();
        if configuration.gone {
            return Ok(());
        }
        let streams = &mut configuration.streams;
        let Ok(groups) = streams.groups_of(sources) else { return Ok(()) };
        let old = self.lead(streams, &groups, &Attachment::Blocked)?;
        for &at in &groups {
            self.hardware.close_group(streams.mapping, at);
            streams.groups[at] = None;
        }
        streams.disown(sources);
        self.hardware.release_boot_banks(streams);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(old);
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(Domain::new(self.hardware.clone())?)
    }

    fn guest_tables(&self) -> GuestTables {
        nested::guest_tables(&self.hardware)
    }

    fn new_parent(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(Domain::parent(self.hardware.clone())?)
    }

    fn new_nested(
        &self,
        parent: &Arc<dyn HwDomain<P>>,
        table: &GuestTable,
    ) -> Result<Arc<dyn NestedDomain>, NestedError> {
        Ok(Arc::new(Nested::new(&self.hardware, parent, table)?))
    }

    /// A device is attached as a whole, so all of its sources must be named.
    fn attach(&self, sources: &[SourceId], target: &Target<P>) -> Result<(), AttachError> {
        let next = self.attachment(target)?;
        let blocks = matches!(next, Attachment::Blocked);
        let mut configuration = self.configuration.lock();
        if configuration.gone || configuration.closing && !blocks {
            return Err(AttachError::Unsupported);
        }
        let streams = &mut configuration.streams;
        let groups = streams.groups_of(sources).map_err(|unknown| match unknown {
            Some(source) => AttachError::UnknownSource(source),
            None => AttachError::Unsupported,
        })?;
        let old = self.lead(streams, &groups, &next).map_err(|error| {
            if blocks { AttachError::LeftBlocked(error) } else { AttachError::Sync(error) }
        })?;
        self.hardware.release_boot_banks(streams);
        // Dropping a domain may wait for the hardware: under no lock.
        drop(configuration);
        drop(old);
        self.say_attach(sources, target);
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
        let source_of = |stream_id: u16| {
            let known = self.configuration.lock().streams.source_of(stream_id);
            known.unwrap_or(SourceId(stream_id.into()))
        };
        self.hardware.drain_faults(&source_of, to)
    }

    /// A sync that did not end is the one error that concerns the SMMU as a whole. What else its global interrupt is about are faults.
    fn handle_errors(&self) -> Vec<GlobalError> {
        self.ask_again();
        self.hardware.settle();
        let hung = self.hardware.hung.swap(false, Ordering::AcqRel);
        if hung { vec![GlobalError::ServiceFailure] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests;
