//! One bridge: probe, PEs, and the seam to core.
//!
//! # Locking
//!
//! `state` is held while PEs change, hardware included; the loads that confirm are its only waits. Under it, in this order: a domain's slot, a table's
//! links, the IODA registers or those of errors that are to be made. Mapping and invalidating take none but a slot, links, and IODA registers. Which PEs were reported
//! frozen has a lock of its own, taken under `state` or alone, and under it come the IODA registers.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    RegionSource, ReservedKind, ReservedRegion, SyncError, Target,
};
use portcullis_core::table_group::TableGroup;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::ioda2::tables::{
    M32Domain, MSI32_FIRST, MSI32_LAST, MSI64_FIRST, MSI64_LAST, PE_COUNT, TABLE_M32DT, TABLE_PESTA,
    TABLE_PESTB,
};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, IovaRange, PageSizes, Perms, Prot, SourceId, mutant};

use crate::bridge::Bridge;
use crate::bringup::{self, ProbeError};
use crate::config::Config;
use crate::domain::Domain;
use crate::events::Reported;
use crate::group::{GONE, Group};
use crate::pe::{Pe, Place};
use crate::routes::{NOBODYS_MMIO, Routes};

/// One PHB3.
pub struct Phb3<P: Platform, R: Registers + 'static> {
    this: Weak<Self>,
    pub(crate) bridge: Arc<Bridge<P, R>>,
    state: Lock<P, State<P, R>>,
    pub(crate) reported: Lock<P, Reported>,
}

pub(crate) struct State<P: Platform, R: Registers + 'static> {
    /// None once the bridge was shut down.
    pub(crate) routes: Option<Routes>,
    pub(crate) pes: BTreeMap<u8, Pe<P, R>>,
    /// In which PE a request id is.
    places: BTreeMap<u16, u8>,
}

impl<P: Platform, R: Registers> fmt::Debug for Phb3<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phb3").field("name", &self.bridge.config.name).finish_non_exhaustive()
    }
}

/// Why sources were not put into one PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssignError {
    /// Not a request id of 16 bits.
    OutOfRange(SourceId),
    /// It is in a PE already.
    Assigned(SourceId),
    /// All PEs are in use.
    NoPes,
    /// The source is in no PE.
    Unknown(SourceId),
    /// There are no sources.
    Nobody,
    /// The bridge was shut down.
    ShutDown,
}

impl<P: Platform, R: Registers> Phb3<P, R> {
    /// Brings up the bridge behind `registers`, which firmware has trained and reset. On return every source is blocked.
    ///
    /// # Errors
    ///
    /// As [`ProbeError`] says.
    pub fn probe(platform: Arc<P>, registers: R, config: Config) -> Result<Arc<Self>, ProbeError> {
        let bridge = Arc::new(Bridge::new(platform, registers, config));
        bringup::check(&bridge)?;
        let routes = Routes::new(&*bridge.platform).ok_or(ProbeError::NoMemory)?;
        if let Err(error) = bringup::bring_up(&bridge, &routes) {
            // The bridge may have learnt where the tables are: only if it confirms to have forgotten is the memory ours again.
            if bringup::shut_down(&bridge).is_ok() {
                routes.free(&*bridge.platform);
            }
            return Err(error);
        }
        bridge.platform.event(&Event {
            source: "ioda2",
            name: "probe",
            fields: &[("phb", Value::Str(&bridge.config.name)), ("pes", Value::Dec(PE_COUNT.into()))],
        });
        let state = State { routes: Some(routes), pes: BTreeMap::new(), places: BTreeMap::new() };
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            bridge,
            state: Lock::<P, _>::new(state),
            reported: Lock::<P, _>::new(Reported::default()),
        }))
    }

    /// Puts sources that cannot be told apart, or kept apart, into one PE, before their devices are added; and answers its number. A device that is
    /// added without gets a PE for itself.
    ///
    /// # Errors
    ///
    /// As [`AssignError`] says; then none is in a PE that was not before.
    pub fn assign(&self, sources: &[SourceId]) -> Result<u8, AssignError> {
        let mut state = self.state.lock();
        let rids = rids(sources).map_err(AssignError::OutOfRange)?;
        if rids.is_empty() {
            return Err(AssignError::Nobody);
        }
        if state.routes.is_none() {
            return Err(AssignError::ShutDown);
        }
        if let Some(&rid) = rids.iter().find(|rid| state.places.contains_key(rid)) {
            return Err(AssignError::Assigned(SourceId(rid.into())));
        }
        let number = self.take_number(&mut state).ok_or(AssignError::NoPes)?;
        state.join(&self.bridge, number, &rids);
        Ok(number)
    }

    /// The PE of a source.
    pub fn pe_of(&self, source: SourceId) -> Option<u8> {
        self.state.lock().place(source)
    }

    /// Says that some of the 256 equal segments of M32 hold registers of this source's PE: they freeze with it, and no longer with another that they were given to.
    /// A segment that nobody was given freezes with nobody; it goes back to nobody when the PE's last device is removed.
    ///
    /// # Errors
    ///
    /// [`AssignError::Unknown`]; then nothing has changed.
    pub fn assign_m32(&self, source: SourceId, segments: RangeInclusive<u8>) -> Result<(), AssignError> {
        let unknown = AssignError::Unknown(source);
        let mut state = self.state.lock();
        let number = state.place(source).ok_or(unknown)?;
        // One that waits for the bridge's word must not give back what another has by then.
        state.pes.values_mut().for_each(|pe| pe.segments.retain(|segment| !segments.contains(segment)));
        let pe = state.pes.get_mut(&number).ok_or(unknown)?;
        for segment in segments {
            give_m32(&self.bridge, segment, number);
            pe.segments.push(segment);
        }
        Ok(())
    }

    /// Takes all windows away and gives all memory back. Every source is blocked from then on, and nothing can be attached any more.
    ///
    /// # Errors
    ///
    /// The bridge did not confirm: what it may still read stays allocated; this can be tried again.
    pub fn teardown(&self) -> Result<(), SyncError> {
        let mut state = self.state.lock();
        if state.routes.is_none() {
            return Ok(());
        }
        // One that is not confirmed leaves none of the others open. Each switches again at the next try.
        let close = |pe: &mut Pe<P, R>| {
            let blocked = pe.enter(&self.bridge, Place::Blocked).and_then(|()| pe.close(&self.bridge));
            blocked.map_err(refusal)
        };
        state.pes.values_mut().map(close).fold(Ok(()), Result::and)?;
        bringup::shut_down(&self.bridge)?;
        state.places.clear();
        state.pes.clear();
        if let Some(routes) = state.routes.take() {
            routes.free(&*self.bridge.platform);
        }
        Ok(())
    }

    /// A number for a PE. Whoever had it before may have been left frozen, and be noted so: the next is not.
    ///
    /// Observed: Linux 6.x, `pnv_ioda_init_pe`.
    fn take_number(&self, state: &mut State<P, R>) -> Option<u8> {
        let number = state.free_number(&self.bridge)?;
        state.routes.iter().for_each(|routes| self.wake(routes, number));
        Some(number)
    }

    /// Lets a PE go on that is nobody's, and forgets what stopped it.
    pub(crate) fn wake(&self, routes: &Routes, number: u8) {
        [0, 1].iter().for_each(|&half| routes.forget_state(&*self.bridge.platform, number, half));
        for table in [TABLE_PESTA, TABLE_PESTB] {
            self.bridge.ioda_write(table, number.into(), 0);
        }
        self.reported.lock().forget(number);
    }

    /// Calls `act` with a PE and the tables in memory; none if it is gone.
    pub(crate) fn with_pe<T>(&self, number: u8, act: impl FnOnce(&mut Pe<P, R>, &Routes) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let State { routes, pes, .. } = &mut *state;
        Some(act(pes.get_mut(&number)?, routes.as_ref()?))
    }

    /// The same for somebody who gives it back: with no members left it is nobody's then.
    pub(crate) fn with_pe_given_back<T>(
        &self,
        number: u8,
        act: impl FnOnce(&mut Pe<P, R>, &Routes) -> T,
    ) -> Option<T> {
        let done = self.with_pe(number, act);
        if !mutant!("pe-without-devices-stays-taken") {
            self.state.lock().bury(&self.bridge, number);
        }
        done
    }

    /// Calls `act` with the tables in memory; none if the bridge was shut down.
    pub(crate) fn with_routes<T>(&self, act: impl FnOnce(&Routes) -> T) -> Option<T> {
        self.state.lock().routes.as_ref().map(act)
    }

    fn place_of(&self, target: &Target<P>) -> Result<Place<P, R>, AttachError> {
        match target {
            Target::Blocked => Ok(Place::Blocked),
            Target::Identity if self.bridge.config.identity_end.is_none() => Err(AttachError::Unsupported),
            Target::Identity => Ok(Place::Identity),
            Target::Process(_) | Target::Nested(_) => Err(AttachError::Unsupported),
            Target::Domain(domain) => {
                // A domain comes as the trait's object; ours is behind an `Arc` of its own.
                let own = domain.as_any().downcast_ref::<Domain<P, R>>().ok_or(AttachError::ForeignDomain)?;
                let own = own.shared().filter(|own| own.belongs_to(&self.bridge));
                own.map(Place::Domain).ok_or(AttachError::ForeignDomain)
            }
        }
    }

    /// Calls `act` with the PE of some sources, and with their request ids.
    fn of_one_pe(
        &self,
        sources: &[SourceId],
        act: impl FnOnce(&mut Pe<P, R>, &Routes, &[u16]) -> Result<(), AttachError>,
    ) -> Result<(), AttachError> {
        let Some(&first) = sources.first() else { return Ok(()) };
        let number = self.pe_of(first).ok_or(AttachError::UnknownSource(first))?;
        let rids = rids(sources).map_err(AttachError::UnknownSource)?;
        let done = self.with_pe(number, |pe, routes| {
            let stranger = rids.iter().find(|&&rid| pe.members.iter().all(|member| member.rid != rid));
            match stranger {
                Some(&rid) => Err(AttachError::UnknownSource(SourceId(rid.into()))),
                None => act(pe, routes, &rids),
            }
        });
        done.unwrap_or(Err(AttachError::UnknownSource(first)))
    }

    fn domain(&self, kernel: bool) -> Arc<dyn HwDomain<P>> {
        Domain::new(self.bridge.clone(), kernel)
    }
}

impl<P: Platform, R: Registers + 'static> Drop for Phb3<P, R> {
    fn drop(&mut self) {
        if self.teardown().is_err() {
            // Hardware may still read the tables: they are lost rather than given to somebody else.
            core::mem::forget(core::mem::take(&mut self.state.get_mut().pes));
        }
    }
}

fn refusal(refused: crate::setup::Refused) -> SyncError {
    use crate::setup::Refused;
    match refused {
        Refused::Sync(error) | Refused::Closed(error) => error,
        Refused::NoMemory => SyncError::Failed { code: 0 },
    }
}

fn give_m32<P: Platform, R: Registers>(bridge: &Bridge<P, R>, segment: u8, pe: u8) {
    bridge.ioda_write(TABLE_M32DT, segment.into(), M32Domain::new().with_pe(pe).into_bits());
}

/// The request ids of sources.
fn rids(sources: &[SourceId]) -> Result<Vec<u16>, SourceId> {
    sources.iter().map(|&source| u16::try_from(source.0).map_err(|_| source)).collect()
}

impl<P: Platform, R: Registers> State<P, R> {
    fn place(&self, source: SourceId) -> Option<u8> {
        self.places.get(&u16::try_from(source.0).ok()?).copied()
    }

    /// Choice: not PE 0, which is what tables that nobody wrote say.
    fn free_pe(&self) -> Option<u8> {
        (1..NOBODYS_MMIO).find(|number| !self.pes.contains_key(number))
    }

    fn join(&mut self, bridge: &Bridge<P, R>, number: u8, rids: &[u16]) {
        if let Some(routes) = &self.routes {
            routes.freeze_with(&*bridge.platform, number, number, true);
        }
        let pe = self.pes.entry(number).or_insert_with(|| Pe::new(number));
        for &rid in rids {
            // Firmware may say it twice.
            if pe.members.iter().all(|member| member.rid != rid) {
                pe.add(rid);
            }
        }
        self.places.extend(rids.iter().map(|&rid| (rid, number)));
    }

    /// Takes members out of their PE; and the PE away with the last, if it is in nobody's hands.
    fn part(&mut self, bridge: &Bridge<P, R>, number: u8, rids: &[u16]) {
        self.places.retain(|rid, _| !rids.contains(rid));
        let Some(pe) = self.pes.get_mut(&number) else { return };
        pe.members.retain(|member| !rids.contains(&member.rid));
        // In the slot may be another's device soon, though a user has the PE still.
        if pe.members.is_empty() {
            pe.slot = None;
        }
        self.bury(bridge, number);
    }

    /// Takes a PE away that has no members and is in nobody's hands, once the bridge has confirmed that it has no window left: if not before, then now. Until then it stays,
    /// and is tried again before the next gets a number.
    fn bury(&mut self, bridge: &Bridge<P, R>, number: u8) {
        let Some(pe) = self.pes.get_mut(&number).filter(|pe| pe.is_left()) else { return };
        let stays = mutant!("pe-that-was-not-confirmed-stays-for-good") && !pe.windows.is_confirmed();
        // Whoever gets its number takes it for one that has none.
        if stays || pe.enter(bridge, Place::Blocked).is_err() {
            return;
        }
        pe.segments.iter().for_each(|&segment| give_m32(bridge, segment, NOBODYS_MMIO));
        self.pes.remove(&number);
        if let Some(routes) = &self.routes {
            routes.freeze_with(&*bridge.platform, number, number, false);
            bridge.platform.write_barrier();
        }
    }

    /// A number for a PE, of those too that only waited for the bridge's word.
    fn free_number(&mut self, bridge: &Bridge<P, R>) -> Option<u8> {
        let is_left = |pe: &Pe<P, R>| pe.is_left() && !mutant!("pe-without-devices-stays-taken");
        let left: Vec<u8> =
            self.pes.iter().filter(|(_, pe)| is_left(pe)).map(|(&number, _)| number).collect();
        left.into_iter().for_each(|number| self.bury(bridge, number));
        self.free_pe()
    }
}

impl<P: Platform, R: Registers> Iommu<P> for Phb3<P, R> {
    fn name(&self) -> &str {
        &self.bridge.config.name
    }

    fn capabilities(&self) -> Capabilities {
        let config = &self.bridge.config;
        let aperture = IovaRange::new(Iova::new(0), config.window32_bytes).expect("checked at probe");
        let mut capabilities = Capabilities::new(aperture, PageSizes::from_bits(config.default_page.bytes()));
        capabilities.identity = config.identity_end.is_some();
        capabilities
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        let mut state = self.state.lock();
        let rids = rids(sources).map_err(|source| AddDeviceError::OutOfRange { source, bits: 16 })?;
        if rids.is_empty() {
            // It sends nothing, and is in no PE.
            return Ok(());
        }
        if state.routes.is_none() {
            return Err(AddDeviceError::Sync(GONE));
        }
        let mut number = None;
        for &rid in &rids {
            let Some(&place) = state.places.get(&rid) else { continue };
            let member = state.pes[&place].members.iter().find(|member| member.rid == rid);
            let taken = member.and_then(|member| member.device.clone());
            if taken.is_some() || number.is_some_and(|number| number != place) {
                let by = taken.unwrap_or_default();
                return Err(AddDeviceError::Taken { source: SourceId(rid.into()), by });
            }
            number = Some(place);
        }
        let number = number.or_else(|| self.take_number(&mut state)).ok_or(AddDeviceError::NoMemory)?;
        let fresh: Vec<u16> = rids.iter().copied().filter(|rid| !state.places.contains_key(rid)).collect();
        state.join(&self.bridge, number, &fresh);
        let State { routes, pes, .. } = &mut *state;
        let (Some(pe), Some(routes)) = (pes.get_mut(&number), routes.as_ref()) else {
            return Err(AddDeviceError::Sync(GONE));
        };
        let open = !pe.is_taken();
        if let Err(error) = pe.route(&self.bridge, routes, open) {
            state.part(&self.bridge, number, &fresh);
            return Err(AddDeviceError::Sync(error));
        }
        let ours = pe.members.iter_mut().filter(|member| rids.contains(&member.rid));
        ours.for_each(|member| member.device = Some(name.into()));
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        let mut state = self.state.lock();
        let Ok(rids) = rids(sources) else { return Ok(()) };
        let Some(number) = sources.first().and_then(|&source| state.place(source)) else { return Ok(()) };
        let State { routes, pes, .. } = &mut *state;
        if let (Some(pe), Some(routes)) = (pes.get_mut(&number), routes.as_ref()) {
            pe.expel(&self.bridge, routes, &rids)?;
        }
        state.part(&self.bridge, number, &rids);
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(self.domain(false))
    }

    fn new_kernel_domain(&self) -> Result<Arc<dyn HwDomain<P>>, DomainError> {
        Ok(self.domain(true))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<P>) -> Result<(), AttachError> {
        let place = self.place_of(target)?;
        self.of_one_pe(sources, |pe, routes, rids| {
            let newcomers = pe.note_joined(rids, true);
            let attached = match place {
                Place::Blocked => pe.block(&self.bridge, routes, rids),
                place => pe.open(&self.bridge, routes, rids, place),
            };
            attached.inspect_err(|_| drop(pe.note_joined(&newcomers, false)))
        })
    }

    fn leave_group(&self, sources: &[SourceId]) -> Result<(), AttachError> {
        self.of_one_pe(sources, |pe, routes, rids| {
            let leaving = pe.note_joined(rids, false);
            let left = pe.block(&self.bridge, routes, rids);
            match left {
                // It has left, and nothing in memory leads it back: the bridge confirms it now, or when it is next asked.
                Err(AttachError::LeftBlocked(_)) => drop(pe.expel(&self.bridge, routes, rids)),
                Err(_) => drop(pe.note_joined(&leaving, true)),
                Ok(()) => {}
            }
            left
        })
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        let msi = |first, last| ReservedRegion {
            range: IovaRange::from_ends(Iova::new(first), Iova::new(last)).expect("in order"),
            kind: ReservedKind::Msi,
            prot: Prot::device(Perms::WRITE),
            source: RegionSource::Iommu,
        };
        [msi(MSI32_FIRST, MSI32_LAST), msi(MSI64_FIRST, MSI64_LAST)].into()
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.drain(to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        if self.bridge.is_gone() {
            return [GlobalError::ServiceFailure].into();
        }
        let mut state = self.state.lock();
        let State { routes, pes, .. } = &mut *state;
        if let Some(routes) = routes {
            pes.values_mut().for_each(|pe| pe.say_again(&self.bridge, routes));
        }
        Vec::new()
    }

    fn table_group(&self, source: SourceId) -> Option<Arc<dyn TableGroup>> {
        let pe = self.pe_of(source)?;
        Some(Arc::new(Group::new(self.this.upgrade()?, pe)))
    }
}
