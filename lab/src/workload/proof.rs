//! What a run has to prove, whatever the work was: that the IOMMU stood between the device and memory all the time.
//!
//! The device's own stream id is tried at the IOMMU's model, as the device would use it, on addresses
//!
//! - that were unmapped, which must be aborted and recorded (*isolation*);
//! - that firmware keeps mapped for the device, which must lead to the memory of the same address (*reserved*);
//! - that were mapped when the device was detached, which must be aborted from then on (*isolation*);
//! - any, while its group is blocked on its way from one owner to another (*one-owner*).
//!
//! Every other device has an access tried too, before it is detached and after: nothing is mapped for it, and a record shows that it is
//! where it is said to be, for an abort of the entry's own would leave none.
//!
//! On QEMU nobody but a device can ask its IOMMU. There the disk itself tries (`prober`), when no driver has it: what was unmapped by then, and what
//! the book says must leave a record must leave one, of that address. The others cannot be tried. QEMU's PHB3 keeps no records: of what it refuses the disk itself must say that it
//! failed.
//!
//! Not here: the work (`dma`), knowing what was unmapped (`witness`).

use std::collections::BTreeSet;
use std::sync::Arc;

use model_bus::{Outcome, Request, StallState};
use portcullis::core::device::Device;
use portcullis::core::iommu::ReservedKind;
use portcullis::core::table_group::Freeze;
use portcullis::types::{Access, Iova, IovaRange, SourceId};

use super::TRY_VERBOSE;
use super::front::Front;
use super::prober::{Detached, Prober};
use super::witness::Witness;
use crate::boot::{Endpoint, Standing, System, Unit};
use crate::error::RunError;
use crate::machine::{Machine, qemu};
use crate::platform::LabPlatform;
use crate::report::Counters;

/// Events are read often enough for the shortest queue.
const FAULTS_IN_FLIGHT: u64 = 4;

/// How often events are read for the answer to a stall.
const STALL_ROUNDS: usize = 64;

/// The smallest page that any IOMMU maps.
const PAGE_BYTES: usize = 4096;

/// Watches a device and the IOMMUs while the work goes on.
pub(super) struct Watch<'a> {
    machine: &'a Machine,
    witness: &'a Witness,
    /// The model in front of the device.
    front: Option<Front>,
    /// The disk itself, where there is no model to ask.
    disk: Option<Asked>,
    /// Whether the hardware keeps no record of what it refuses.
    unrecorded: bool,
    /// Whether the device's IOMMU records what a blocked device tries.
    records_blocked: bool,
    source: Option<SourceId>,
    /// The other devices behind the same model.
    neighbours: Vec<SourceId>,
    direct: Vec<IovaRange>,
    /// Faults that were recorded.
    faults: u64,
    probes: Probes,
}

/// How the disk is asked.
enum Asked {
    /// As its driver.
    Driven(Prober),
    /// By nobody: nothing is mapped for it.
    Alone(Detached),
}

/// What became of the tries.
#[derive(Clone, Debug, Default)]
struct Probes {
    tried: u64,
    aborted: u64,
    /// Of these, those that an entry aborted that leaves no record.
    silent: u64,
    /// The first that was let through: what it was, and where.
    through: Option<(&'static str, Iova)>,
    /// Why a try could not be made.
    failed: Option<RunError>,
}

impl<'a> Watch<'a> {
    /// Watches nobody yet: only faults are counted.
    pub(super) fn new(machine: &'a Machine, witness: &'a Witness) -> Self {
        Self {
            machine,
            witness,
            front: None,
            disk: None,
            unrecorded: machine.qemu.is_some() && machine.spec.phb3s().next().is_some(),
            records_blocked: false,
            source: None,
            neighbours: Vec::new(),
            direct: Vec::new(),
            faults: 0,
            probes: Probes::default(),
        }
    }

    /// From now on watches `device`, which is behind `front`.
    pub(super) fn device(&mut self, system: &System, device: &Device<LabPlatform>, front: Option<Front>) {
        let regions = device.reserved_regions().into_iter();
        let direct = |kind| matches!(kind, ReservedKind::Direct | ReservedKind::DirectRelaxable);
        self.direct = regions.filter(|region| direct(region.kind)).map(|region| region.range).collect();
        self.source = device.sources().first().copied();
        self.front = front;
        self.records_blocked = system.unit_of(device.iommu().name()).is_some_and(Unit::records_blocked);
        let behind = |endpoint: &'_ Endpoint| match &endpoint.standing {
            Standing::Behind { device: other, .. } if other.iommu().name() == device.iommu().name() => {
                other.sources().first().copied()
            }
            _ => None,
        };
        let sources = system.endpoints().filter_map(|(_, endpoint)| behind(endpoint));
        self.neighbours = sources.filter(|&source| Some(source) != self.source).collect();
    }

    pub(super) fn service(&mut self, system: &System) {
        self.faults += system.service_iommus() as u64;
    }

    /// One access of the device: what became of it, and where it was let through to.
    fn access(&self, at: Iova, access: Access) -> Option<(Outcome, u64)> {
        self.access_as(self.source?, at, access)
    }

    fn access_as(&self, source: SourceId, at: Iova, access: Access) -> Option<(Outcome, u64)> {
        let request = Request { source, pasid: None, iova: at, len_bytes: 1, access };
        Some(self.front.as_ref()?.access(&request))
    }

    /// Tries every page that was unmapped since the last call and is not mapped again, and the last byte.
    pub(super) fn probe_unmapped(&mut self, system: &System) {
        if self.machine.qemu.is_some() && !matches!(self.disk, Some(Asked::Driven(_))) {
            // Once the disk can be asked.
            return;
        }
        let gone = self.witness.take_gone().into_iter();
        let at = gone.flat_map(places);
        self.must_abort(system, "an unmapped address", at);
    }

    /// The same, once the kernel's devices go around translation again: but for addresses with that bit, which lead to memory now.
    pub(super) fn probe_unmapped_but(&mut self, system: &System, around: u64) {
        let gone = self.witness.take_gone().into_iter();
        let at = gone.flat_map(places).filter(|at| at & around == 0);
        self.must_abort(system, "an address that a dead user had", at);
    }

    /// Where only the disk can ask: no driver has it any more, so from now on it is asked.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: it does not reach what it may.
    pub(super) fn call_disk(&mut self, system: &System, name: &str) -> Result<(), RunError> {
        if self.machine.qemu.is_some() {
            self.disk = Some(Asked::Driven(Prober::bind(system, name)?));
        }
        Ok(())
    }

    /// The disk is needed, or detached: after [`call_disk`](Self::call_disk).
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: it did not stop.
    pub(super) fn dismiss_disk(&mut self, system: &System) -> Result<(), RunError> {
        let Some(Asked::Driven(prober)) = self.disk.take() else { return Ok(()) };
        self.disk = Some(Asked::Alone(prober.detached()));
        prober.unbind(system)
    }

    /// The disk, where only it can ask, while no driver has it.
    pub(super) fn lone_disk(&self) -> Option<Detached> {
        match &self.disk {
            Some(Asked::Alone(disk)) => Some(disk.clone()),
            _ => None,
        }
    }

    /// One access by the disk itself. It was refused if there are records of it and of nothing else, or, where none is to be, if the disk says that it
    /// failed. Hardware may make several accesses of one, and a record for each: all of them are one fault here.
    ///
    /// Observed: QEMU 7.2 and 11.1, an access that is refused is made again in parts of 4 bytes, each with a record.
    fn ask_disk(&mut self, system: &System, what: &'static str, at: Iova, access: Access, recorded: bool) {
        let (Some(disk), None) = (&self.disk, &self.probes.failed) else { return };
        self.witness.take_fault_pages();
        let (asked, faults) = self.witness.expecting(|| {
            let asked = match (disk, access) {
                (Asked::Driven(prober), _) if self.unrecorded => prober.is_refused(at, access),
                (Asked::Driven(prober), _) => prober.access(at, access).map(|()| false),
                (Asked::Alone(disk), Access::READ) if self.unrecorded => disk.is_refused(at),
                (Asked::Alone(disk), Access::READ) => disk.fetch(at),
                (Asked::Alone(_), _) => return (None, 0),
            };
            (Some(asked), system.service_iommus() as u64)
        });
        let failed = match asked {
            Some(Ok(failed)) => failed,
            Some(Err(error)) => return self.probes.failed = Some(error),
            None => return,
        };
        self.faults += faults.min(1);
        self.probes.tried += 1;
        // Of a device that it does not know, an IOMMU records no address: the disk has to say that it failed, too.
        let alone = matches!(disk, Asked::Alone(_));
        let there =
            self.witness.take_fault_pages() == BTreeSet::from([at.align_down(PAGE_BYTES as u64).get()]);
        self.probes.silent += u64::from(self.unrecorded);
        let refused = match (alone, recorded) {
            _ if self.unrecorded => failed,
            (false, _) => faults > 0 && there,
            (true, true) => faults > 0 && failed,
            (true, false) => failed,
        };
        if refused {
            self.probes.aborted += 1;
        } else {
            self.probes.through.get_or_insert((what, at));
        }
    }

    /// The device has been detached: tries what was mapped until then.
    pub(super) fn probe_detached(&mut self, system: &System) {
        let direct = self.direct.iter().map(|range| range.first().get());
        let mapped: Vec<u64> = direct.chain(self.witness.doorbells()).collect();
        self.must_abort(
            system,
            "an address that was mapped when the device was detached",
            mapped.into_iter(),
        );
        self.probe_neighbours(system);
    }

    /// Tries these addresses, which the device must not reach: each must be aborted and recorded.
    pub(super) fn probe_addresses(
        &mut self,
        system: &System,
        what: &'static str,
        at: impl Iterator<Item = u64>,
    ) {
        self.must_abort(system, what, at);
    }

    /// The device's group is blocked: tries these addresses. Each must be aborted, and recorded where its IOMMU does that ([`Unit::records_blocked`]).
    pub(super) fn probe_blocked(&mut self, system: &System, at: impl Iterator<Item = u64>) {
        let Some(source) = self.source else { return };
        self.service(system);
        let before = self.probes.tried;
        let recorded = self.records_blocked;
        for at in at.map(Iova::new) {
            for access in [Access::READ, Access::WRITE] {
                self.ask_disk(system, "an address of a blocked device", at, access, recorded);
                self.try_one(system, "an address of a blocked device", source, at, access);
            }
        }
        if !recorded && !self.unrecorded {
            self.probes.silent += self.probes.tried - before;
        }
        self.settle(system);
    }

    /// Reaches every page that is mapped: what hardware may remember of it, it remembers from then on.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: a page that the DMA API mapped is not reached.
    pub(super) fn touch_mapped(&self, device: &Device<LabPlatform>) -> Result<(), RunError> {
        let pages =
            self.witness.mapped().into_iter().flat_map(|(first, last)| (first..=last).step_by(PAGE_BYTES));
        let mut pages = pages.map(Iova::new);
        let unreached =
            |at: &Iova| self.access(*at, Access::READ).is_some_and(|(went, _)| went != Outcome::Done);
        match pages.find(unreached) {
            Some(at) => {
                let what = format!("{at} is mapped, and an access of it is refused");
                Err(RunError::wrong(device.name(), what, TRY_VERBOSE))
            }
            None => Ok(()),
        }
    }

    /// Tries an access of every other device, none of which has anything mapped.
    pub(super) fn probe_neighbours(&mut self, system: &System) {
        if self.front.is_none() {
            return;
        }
        self.service(system);
        for source in self.neighbours.clone() {
            self.try_one(system, "another device's unmapped address", source, Iova::new(0), Access::READ);
        }
        self.settle(system);
    }

    fn must_abort(&mut self, system: &System, what: &'static str, at: impl Iterator<Item = u64>) {
        let Some(source) = self.source else { return };
        self.service(system);
        for at in at.map(Iova::new) {
            for access in [Access::READ, Access::WRITE] {
                self.ask_disk(system, what, at, access, true);
                self.try_one(system, what, source, at, access);
            }
        }
        self.settle(system);
    }

    fn try_one(&mut self, system: &System, what: &'static str, source: SourceId, at: Iova, access: Access) {
        let frozen = self.front.as_ref().is_some_and(|front| front.is_frozen(source));
        let Some((outcome, _)) = self.witness.expecting(|| self.access_as(source, at, access)) else {
            return;
        };
        let outcome = self.ended(system, outcome);
        self.probes.tried += 1;
        self.probes.silent += u64::from(frozen);
        if outcome == Outcome::Aborted {
            self.probes.aborted += 1;
        } else {
            self.probes.through.get_or_insert((what, at));
        }
        let one = self.front.as_ref().is_some_and(Front::keeps_one_record);
        if one || self.probes.tried.is_multiple_of(FAULTS_IN_FLIGHT) {
            self.settle(system);
        }
    }

    /// What became of an access that was held back, once software has answered; of any other, what became of it at once.
    fn ended(&mut self, system: &System, outcome: Outcome) -> Outcome {
        let (Outcome::Stalled(stall), Some(front)) = (outcome, self.front.clone()) else { return outcome };
        for _ in 0..STALL_ROUNDS {
            self.settle(system);
            match front.stalled(stall) {
                StallState::Aborted => return Outcome::Aborted,
                StallState::Ignored => return Outcome::Ignored,
                StallState::Waiting | StallState::Retry => {}
            }
        }
        outcome
    }

    /// Lets late events arrive, and reads them.
    fn settle(&mut self, system: &System) {
        self.machine.bus.settle(64);
        self.service(system);
        self.thaw(system);
    }

    /// Somebody else has seen accesses refused that must not be: so many that are recorded, and so many that a freeze kept silent.
    pub(super) fn note_refused(&mut self, system: &System, recorded: u64, silent: u64) {
        self.service(system);
        self.probes.tried += recorded + silent;
        self.probes.aborted += recorded + silent;
        self.probes.silent += silent;
    }

    /// Unfreezes what was frozen by being tried, as who recovers a device does. What no device has stays frozen.
    fn thaw(&self, system: &System) {
        let Some(front) = self.front.as_ref().filter(|front| front.freezes()) else { return };
        let tried = self.source.iter().chain(&self.neighbours);
        for &source in tried.filter(|&&source| front.is_frozen(source)) {
            let groups = system.units.iter().filter_map(|unit| unit.unit.iommu().table_group(source));
            for group in groups {
                let Some(eeh) = group.eeh() else { continue };
                // One that stays frozen shows in the count of what was recorded.
                let _ = eeh.unfreeze(Freeze::Io).and_then(|()| eeh.unfreeze(Freeze::Dma));
            }
        }
    }

    /// What firmware keeps for the device must lead to the memory of the same address.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: some of it does not.
    pub(super) fn check_direct(&self, device: &Device<LabPlatform>) -> Result<(), RunError> {
        let ends = self.direct.iter().flat_map(|range| [range.first(), range.last()]);
        let wrong = |at: &Iova| {
            let there =
                |access| self.access(*at, access).is_none_or(|went| went == (Outcome::Done, at.get()));
            !there(Access::READ) || !there(Access::WRITE)
        };
        match ends.into_iter().find(wrong) {
            Some(at) => {
                let what =
                    format!("reserved: {at} is firmware's, and not mapped to the memory of that address");
                Err(RunError::wrong(device.name(), what, TRY_VERBOSE))
            }
            None => Ok(()),
        }
    }

    /// Each try must have been aborted, and each must have been recorded, and nothing else.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`] says which promise is broken.
    pub(super) fn verdict(&self) -> Result<Counters, RunError> {
        let Probes { tried, aborted, silent, through, failed } = self.probes.clone();
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some((what, at)) = through {
            let what = format!(
                "isolation: {} of {tried} accesses were let through, the first to {what}, {at}",
                tried - aborted
            );
            return Err(RunError::wrong("IOMMU", what, TRY_VERBOSE));
        }
        let wanted = tried - silent;
        if self.faults != wanted {
            let what = format!(
                "{} faults were recorded where {wanted} accesses were tried that must fault",
                self.faults
            );
            return Err(RunError::wrong("IOMMU", what, TRY_VERBOSE));
        }
        Ok(Counters { probes: tried, probes_blocked: aborted, ..Counters::default() })
    }
}

/// Where a range that is closed is tried: at every page, and its last byte; of one that is larger than 2 MiB, at 64 pages.
pub(super) fn places((first, last): (u64, u64)) -> impl Iterator<Item = u64> {
    let part = usize::try_from((last - first) >> 6).unwrap_or(usize::MAX).next_multiple_of(PAGE_BYTES);
    let step = if last - first >= 2 << 20 { part } else { PAGE_BYTES };
    (first..last).step_by(step).chain([last])
}

/// No IOMMU reports an error.
///
/// # Errors
///
/// [`RunError::Wrong`]: one does.
pub(super) fn no_errors(system: &System) -> Result<(), RunError> {
    match system.units.iter().flat_map(|unit| unit.errors()).next() {
        Some(error) => Err(RunError::wrong("IOMMU", format!("it reports an error: {error:?}"), TRY_VERBOSE)),
        None => Ok(()),
    }
}

/// What came of work that answers a CPU of its machine, once nothing is left of it; of what went wrong, what the models know as well.
///
/// # Errors
///
/// What went wrong, or [`RunError::Wrong`]: something is left.
pub(super) fn proved<T>(
    worked: Result<(Arc<LabPlatform>, T), RunError>,
    machine: &Machine,
    witness: &Witness,
) -> Result<T, RunError> {
    let proved = worked.and_then(|(platform, outcome)| {
        nothing_left(machine, &platform, witness)?;
        Ok(outcome)
    });
    proved.map_err(|error| with_testimony(error, machine, witness))
}

/// After shutdown: nothing mapped, nothing kept, nothing to be said against the driver.
///
/// # Errors
///
/// [`RunError::Wrong`]: something is.
fn nothing_left(machine: &Machine, platform: &LabPlatform, witness: &Witness) -> Result<(), RunError> {
    let of_smmus: usize = machine.smmus.iter().map(|smmu| smmu.take_unpredictable().len()).sum();
    let of_smmuv2s: usize = machine.smmuv2s.iter().map(|smmu| smmu.take_unpredictable().len()).sum();
    let of_bridges: usize = machine.phbs.iter().map(|phb| phb.take_unpredictable().len()).sum();
    let of_vtds: usize = machine.vtds.iter().map(|vtd| vtd.take_unpredictable().len()).sum();
    let accelerators = machine.pcie_accelerators.iter().map(|function| function.take_unpredictable().len());
    let disks = machine.disks.iter().map(|disk| disk.take_unpredictable().len());
    let of_functions: usize = accelerators.chain(disks).sum();
    let all = [
        ("SMMU", of_smmus),
        ("SMMUv2", of_smmuv2s),
        ("VT-d unit", of_vtds),
        ("PHB3", of_bridges),
        ("PCIe function", of_functions),
    ];
    for (what, count) in all {
        if count > 0 {
            let said = format!("the driver did {count} things that the book forbids");
            return Err(RunError::wrong(what, said, TRY_VERBOSE));
        }
    }
    let left = [
        ("uses of freed memory", machine.bus.cpu().ram().freed_use_count() as u64),
        ("bytes of tables", platform.live_table_bytes().abs_diff(platform.kept_table_bytes())),
        ("bytes of coherent buffers", platform.live_buffer_bytes()),
        ("mappings", witness.live() as u64),
    ];
    match left.into_iter().find(|&(_, count)| count > 0) {
        Some((what, count)) => {
            Err(RunError::wrong("no-leak", format!("{count} {what} after shutdown"), TRY_VERBOSE))
        }
        None => Ok(()),
    }
}

/// Adds to what went wrong what the models know about it.
fn with_testimony(error: RunError, machine: &Machine, witness: &Witness) -> RunError {
    if let Some(failure) = machine.qemu.as_ref().and_then(|behind| behind.machine.failure()) {
        return qemu::failed(failure);
    }
    let RunError::Wrong(mut trouble) = error else { return error };
    trouble.what.push_str(&witness.testimony());
    if let Some(first) = machine.bus.cpu().ram().freed_uses().first() {
        trouble.what.push_str(&format!("; freed memory was used: {first:?}"));
    }
    RunError::Wrong(trouble)
}

#[cfg(test)]
mod unit_tests {
    use model_bus::Width;
    use model_devices::pcie::Function;

    use super::*;
    use crate::machine::{DiskContent, builtin};
    use crate::trace::{self, SharedSink};

    #[test]
    fn what_is_done_to_a_function_that_the_book_forbids_fails_a_run() {
        // ATS, page requests and PASIDs are extended capabilities of 8, 16 and 8 bytes, from 0x100.
        let (ats_control, pasid_control) = (0x106, 0x118 + 6);
        let spec = builtin::find("arm").unwrap();
        let witness = Arc::new(Witness::new("", trace::shared(None)));
        let sink: SharedSink = witness.clone();
        let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
        let end = || {
            let platform = LabPlatform::new(machine.bus.clone(), sink.clone(), None);
            proved(Ok((Arc::new(platform), ())), &machine, &witness)
        };
        end().unwrap();
        // PASIDs come on while ATS is.
        let function = &machine.pcie_accelerators[0];
        for (control, value) in [(ats_control, 0x8000), (pasid_control, 1)] {
            function.config().write(control, Width::Bits16, value);
            function.config_written(control);
        }
        let Err(RunError::Wrong(trouble)) = end() else { panic!("it is not asked") };
        assert_eq!(trouble.at, "PCIe function");
        assert!(trouble.what.contains("PASID Control Register"), "{trouble:?}");
        end().unwrap();
    }
}
