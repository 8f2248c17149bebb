//! Bonds between processes and devices: bind, unbind, and what happens when the process exits in between.
//!
//! A [`SvaUnit`] is an IOMMU that shares; a [`SvaDevice`] one of its devices that was enabled; a [`Bond`] a process bound to it. The same process bound
//! to the same device again is the same bond, counted. All bonds of a process have the same PASID ([`MmPasids`]); all its bonds behind one
//! IOMMU share one [`ProcessDomain`], which listens to the process.
//!
//! # Order
//!
//! Bind: the PASID is held, the process's domain listens, the group knows of the PASID, faults have a handler, and only then hardware
//! translates. Unbind goes the same way back: hardware has forgotten the PASID, what it had queued is reported, every request is answered, and
//! only then the rest goes, the PASID last. The device's driver has made it stop using the PASID before.
//!
//! A bind that hardware does not confirm, or that comes too late, and that is not undone either, leaves what hardware may still use: it lingers, and is undone when the device is
//! next bound or disabled, or by [`SvaDevice::settle`]. Until then the device cannot be disabled, and the PASID is nobody else's.
//!
//! # Devices that do not answer
//!
//! A device whose ATC does not answer keeps its bonds: what it remembers may be used. It may answer when it is asked again; if it never will, somebody gives it up
//! ([`SvaDevice::give_up`]): it is blocked, the IOMMU lets nothing through that it remembers, and from then on its silence keeps nothing back.
//!
//! Choice: that is for its driver to say, or for whoever hears that it was pulled out. It takes the device from all who use it, and a time limit that was missed once
//! is no reason for that.
//!
//! Spec: SMMUv3 H.a, 3.9.1.4 "ATS Invalidation timeout".
//!
//! A device that has no PASIDs can be given to a process as a whole: [`SvaUnit::domain`] is the process's memory as a domain that groups are attached to.
//!
//! Exit may come before, between and after: the listener makes hardware stop walking the table, and what the device still does
//! fails, until the bond is gone.
//!
//! # Locks
//!
//! None is held while the process, the driver or a handler is called. Who would make or unmake what another is about to, waits for it.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};

use portcullis_hal::{Lock, Platform, wait_for};
use portcullis_types::{Pasid, SourceId, mutant};

use super::counted::{Counted, CountedError};
use super::listening::Listening;
use super::{
    AttachPasidError, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained, EnableSvaError,
    ProcessDomain, ProcessDomainError, SvaIommu, SvaLimits,
};
use crate::device::Device;
use crate::domain::Domain;
use crate::group::{Group, GroupError, PasidError, end_sharing};
use crate::iommu::{AttachError, Iommu, SyncError};
use crate::iopf::{
    AddRequesterError, FaultQueue, FlushTimeout, Limits, MmHandler, PageRequest, PageRequester, PageResponse,
    Responder, ResponseCode, SetHandlerError,
};
use crate::mm::{Exited, MmId, ProcessMemory};
use crate::pasid::{HoldPasidError, MmPasids};
use crate::unit::IommuUnit;

/// How long an unbind waits for the answers to what the device had asked: longer than a handler takes to read a page.
const FLUSH_LIMIT_NS: u64 = 10_000_000_000;

/// An IOMMU that shares processes' memory with devices.
pub struct SvaUnit<P: Platform> {
    unit: Arc<IommuUnit<P>>,
    pasids: Arc<MmPasids<P::Mutex>>,
    queue: Arc<FaultQueue<P>>,
    processes: Counted<P, MmId, Arc<SharedProcess<P>>>,
    /// Who asks for pages, by source. Not the device: whoever passes a request on, in interrupt context perhaps, is never the last who has it.
    askers: Lock<P, BTreeMap<SourceId, Weak<PageRequester<P>>>>,
}

/// A device that can share.
pub struct SvaDevice<P: Platform> {
    device: Arc<Device<P>>,
    group: Arc<Group<P>>,
    unit: Arc<SvaUnit<P>>,
    requester: Arc<PageRequester<P>>,
    limits: SvaLimits,
    /// It was disabled: whoever has it still means a device that somebody else may have enabled anew.
    disabled: AtomicBool,
    bonds: Counted<P, MmId, Arc<Bond<P>>>,
    /// Bonds that nobody has, and hardware may.
    lingering: Lock<P, Vec<Arc<Bond<P>>>>,
}

/// A process that is bound to a device.
pub struct Bond<P: Platform> {
    device: Arc<SvaDevice<P>>,
    mm: Arc<dyn ProcessMemory>,
    /// None when the bond has ended: a handle that somebody keeps holds nothing.
    process: Lock<P, Option<Arc<SharedProcess<P>>>>,
    exited: Arc<AtomicBool>,
    /// Hardware was told to forget it, whether or not it has confirmed: the device reaches nothing by it any more.
    ends: AtomicBool,
    pasid: Pasid,
}

/// A process that is shared with devices behind one IOMMU.
struct SharedProcess<P: Platform> {
    /// None only while it is dropped, which is with no lock held.
    listening: Option<Arc<Listening<P>>>,
    exited: Arc<AtomicBool>,
}

impl<P: Platform> SharedProcess<P> {
    /// What the driver gets. It may keep it for longer than this lives.
    fn domain(&self) -> Arc<dyn ProcessDomain> {
        let listening = self.listening.clone();
        listening.expect("it lives")
    }
}

impl<P: Platform> Drop for SharedProcess<P> {
    fn drop(&mut self) {
        self.listening.take().into_iter().for_each(Listening::end);
    }
}

/// The memory of a process as a domain of its own: shared as for a bond, for as long as the domain lives.
pub(crate) struct ProcessSpace<P: Platform> {
    unit: Arc<SvaUnit<P>>,
    mm: Arc<dyn ProcessMemory>,
    /// None only while it is dropped.
    process: Option<Arc<SharedProcess<P>>>,
}

impl<P: Platform> ProcessSpace<P> {
    pub(crate) fn domain(&self) -> Arc<dyn ProcessDomain> {
        self.process.as_ref().expect("it lives").domain()
    }
}

impl<P: Platform> Drop for ProcessSpace<P> {
    fn drop(&mut self) {
        self.unit.unshare(&self.mm, self.process.take());
    }
}

/// The way back to devices.
struct Answers<P: Platform>(Arc<dyn Iommu<P>>);

impl<P: Platform> Responder for Answers<P> {
    fn respond(&self, response: &PageResponse) {
        if let Some(sva) = self.0.sva() {
            sva.respond(response);
        }
    }
}

/// Why a device was not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnableError {
    /// Its IOMMU does not share at all. EOPNOTSUPP.
    NoSupport,
    /// It is behind another IOMMU, or in another group. ENODEV.
    NotMember,
    /// Its group has so many devices, of which one could be taken for another. EINVAL.
    Shared(usize),
    /// The driver's word.
    Driver(EnableSvaError),
    /// Its page requests found no place.
    Queue(AddRequesterError),
}

/// Why a process was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// The process has exited. ESRCH.
    Exited,
    /// It has no PASID that the device can use.
    Pasid(HoldPasidError),
    /// The device's group does not allow it: the PASID is held, or a user holds the group.
    Group(PasidError),
    /// It has no domain.
    Process(ProcessDomainError),
    /// Its faults have no handler.
    Handler(SetHandlerError),
    /// The driver's word.
    Attach(AttachPasidError),
    /// Somebody else binds or unbinds the same, and does not come to an end, or hardware has not confirmed that. EBUSY.
    Busy,
}

/// Why a bond is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnbindError {
    /// It was given back already. EINVAL.
    NotBound,
    /// The hardware did not confirm that it forgot the PASID. EIO.
    Sync(SyncError),
    /// A request of the device was not answered in time. EBUSY.
    Flush(FlushTimeout),
    /// Somebody else binds or unbinds the same, and does not come to an end. EBUSY.
    Busy,
}

/// What a call of [`SvaUnit::service`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serviced {
    /// Faults that nobody can put right.
    pub faults: usize,
    /// Requests for pages. If there were any, workers are to call [`FaultQueue::work`].
    pub requests: usize,
}

impl<P: Platform> SvaUnit<P> {
    /// An IOMMU with no devices enabled yet. Its page requests go to `queue`; `pasids` are those of the whole machine.
    pub fn new(
        unit: Arc<IommuUnit<P>>,
        pasids: Arc<MmPasids<P::Mutex>>,
        queue: Arc<FaultQueue<P>>,
    ) -> Arc<Self> {
        let processes = Counted::new(unit.platform().clone());
        let askers = Lock::<P, _>::new(BTreeMap::new());
        Arc::new(Self { unit, pasids, queue, processes, askers })
    }

    /// The queue that workers take its page requests from.
    pub fn queue(&self) -> &Arc<FaultQueue<P>> {
        &self.queue
    }

    fn sva(&self) -> Option<&dyn SvaIommu<P>> {
        self.unit.iommu().sva()
    }

    /// Enables a device of this IOMMU, alone in its group, which nobody joins from then on until it is disabled.
    ///
    /// # Errors
    ///
    /// As [`EnableError`] says; then nothing has changed, or hardware has left the device blocked, which its group knows.
    pub fn enable(
        self: &Arc<Self>,
        device: &Arc<Device<P>>,
        group: &Arc<Group<P>>,
        facts: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<Arc<SvaDevice<P>>, EnableError> {
        if !Arc::ptr_eq(device.iommu(), self.unit.iommu()) {
            return Err(EnableError::NotMember);
        }
        group.begin_sharing(device).map_err(|error| match error {
            GroupError::Shared(count) => EnableError::Shared(count),
            _ => EnableError::NotMember,
        })?;
        self.enable_alone(device, group, facts, switches).inspect_err(|_| end_sharing(device))
    }

    fn enable_alone(
        self: &Arc<Self>,
        device: &Arc<Device<P>>,
        group: &Arc<Group<P>>,
        facts: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<Arc<SvaDevice<P>>, EnableError> {
        let sva = self.sva().ok_or(EnableError::NoSupport)?;
        let platform = self.unit.platform().clone();
        let answers: Arc<dyn Responder> = Arc::new(Answers(self.unit.iommu().clone()));
        let requester = PageRequester::new(platform.clone(), device.name(), Some(answers), Limits::default());
        // First, because undoing it needs nobody's word.
        self.queue.add_device(&requester).map_err(EnableError::Queue)?;
        let limits = sva.enable(device.sources(), facts, switches).map_err(|error| {
            // It has asked for nothing yet.
            let _ = self.queue.remove_device(&requester);
            if let EnableSvaError::LeftBlocked(_) = error {
                group.left_blocked(device);
            }
            EnableError::Driver(error)
        })?;
        let enabled = Arc::new(SvaDevice {
            device: device.clone(),
            group: group.clone(),
            unit: self.clone(),
            requester,
            limits,
            disabled: AtomicBool::new(false),
            bonds: Counted::new(platform),
            lingering: Lock::<P, _>::new(Vec::new()),
        });
        let mut askers = self.askers.lock();
        askers.extend(device.sources().iter().map(|&source| (source, Arc::downgrade(&enabled.requester))));
        drop(askers);
        Ok(enabled)
    }

    /// The memory of a process as a domain: a group that is attached to it uses the process's own addresses for everything, without a PASID, and has nothing else. For a
    /// device without PASIDs that is handed to one process as a whole. Its faults are nobody's to resolve: what the process has not made present, the device does
    /// not reach.
    ///
    /// # Errors
    ///
    /// As [`BindError`] says; then nothing has changed.
    pub fn domain(self: &Arc<Self>, mm: &Arc<dyn ProcessMemory>) -> Result<Arc<Domain<P>>, BindError> {
        let process = self.share(mm)?;
        let exited = process.exited.load(Acquire);
        let space = ProcessSpace { unit: self.clone(), mm: mm.clone(), process: Some(process) };
        if exited {
            return Err(BindError::Exited);
        }
        Ok(Domain::of_process(self.unit.iommu().clone(), space))
    }

    /// Takes what hardware has queued, faults and page requests, and brings it where it belongs. Called by the embedder when the event or
    /// page-request interrupt comes, or by polling; one caller at a time sees requests in order. In a flood some are left, for which hardware may not interrupt: a call
    /// that found something is followed by another, by a worker or a timer.
    pub fn service(&self) -> Serviced {
        self.bring().0
    }

    /// The same. Answers also whether everything was brought that hardware had queued before.
    fn bring(&self) -> (Serviced, bool) {
        let faults = self.unit.dispatch_faults();
        let mut all = true;
        let requests = self.sva().map_or(0, |sva| {
            sva.drain_page_requests(&mut |drained| {
                all &= drained != Drained::Left;
                self.take(sva, drained);
            })
        });
        (Serviced { faults, requests }, all)
    }

    /// The same, and handles the requests: whoever has workers come for them is not told of those that are found here, whosever they are.
    fn service_here(&self) -> bool {
        let (serviced, all) = self.bring();
        if serviced.requests > 0 {
            let work = || (!self.queue.work()).then_some(());
            // Devices that ask without end keep nobody for longer.
            let _ = wait_for(&**self.unit.platform(), FLUSH_LIMIT_NS, work);
        }
        all
    }

    /// Brings and handles everything that hardware has queued until now, also if answers to others have to find room first.
    fn service_all(&self) -> Result<(), FlushTimeout> {
        let all = || self.service_here().then_some(());
        wait_for(&**self.unit.platform(), FLUSH_LIMIT_NS, all)
            .map_err(|elapsed| FlushTimeout { waited_ns: elapsed.waited_ns })
    }

    fn take(&self, sva: &dyn SvaIommu<P>, drained: Drained) {
        match drained {
            Drained::Left => {}
            Drained::Overflowed => {
                self.queue.discard_partial();
            }
            Drained::Request(request) => {
                let asker = self.askers.lock().get(&request.source).and_then(Weak::upgrade);
                match asker {
                    Some(asker) => {
                        asker.report(&request);
                    }
                    None if request.is_last() && !request.is_stop_marker() => sva.respond(&invalid(&request)),
                    None => {}
                }
            }
        }
    }

    /// The domain of a process, made and listening if this is the first device here that it is bound to.
    fn share(&self, mm: &Arc<dyn ProcessMemory>) -> Result<Arc<SharedProcess<P>>, BindError> {
        // What drivers have let go of has its ASID and its place among the listeners still.
        self.unit.let_go().settle();
        let made = self.processes.get(mm.id(), || {
            let sva = self.sva().ok_or(BindError::Attach(AttachPasidError::NotEnabled))?;
            let domain = sva.new_process_domain(mm.clone()).map_err(BindError::Process)?;
            let exited = Arc::new(AtomicBool::new(false));
            let listening = Listening::new(domain, mm, &exited, self.unit.let_go());
            let listening = Some(listening.map_err(|Exited| BindError::Exited)?);
            Ok(Arc::new(SharedProcess { listening, exited }))
        });
        made.map_err(bind_error)
    }

    /// Gives [`share`](Self::share) back, and before that what it answered: with the last who gives it back, it goes, and the process tells no more, unless the driver has to keep it.
    fn unshare(&self, mm: &Arc<dyn ProcessMemory>, process: Option<Arc<SharedProcess<P>>>) {
        drop(process);
        let put = self.processes.put(mm.id(), |_| true, |_| Ok::<(), core::convert::Infallible>(()));
        debug_assert!(put.is_ok(), "what a bond holds is held");
        self.unit.let_go().settle();
    }
}

fn invalid(request: &PageRequest) -> PageResponse {
    let &PageRequest { source, pasid, group, .. } = request;
    PageResponse { source, pasid, group, code: ResponseCode::Invalid }
}

fn bind_error(error: CountedError<BindError>) -> BindError {
    match error {
        CountedError::Failed(error) => error,
        CountedError::Busy | CountedError::NotHeld => BindError::Busy,
    }
}

impl<P: Platform> SvaDevice<P> {
    /// The device.
    pub fn device(&self) -> &Arc<Device<P>> {
        &self.device
    }

    /// Within which limits it shares.
    pub fn limits(&self) -> SvaLimits {
        self.limits
    }

    /// What it has asked for, and how it was answered.
    pub fn requester(&self) -> &Arc<PageRequester<P>> {
        &self.requester
    }

    /// Binds a process: the device can use its addresses with the bond's PASID. The same process again is the same bond, counted.
    ///
    /// # Errors
    ///
    /// As [`BindError`] says; then nothing has changed, or what hardware did not confirm lingers ([`settle`](Self::settle)).
    pub fn bind(self: &Arc<Self>, mm: &Arc<dyn ProcessMemory>) -> Result<Arc<Bond<P>>, BindError> {
        let bond = self.bonds.get(mm.id(), || self.make(mm)).map_err(bind_error)?;
        if bond.exited.load(Acquire) {
            // Known, but too late.
            self.give_back(&bond);
            return Err(BindError::Exited);
        }
        if bond.ends.load(Acquire) {
            // Whoever could not give it back still has it, and tries again.
            self.give_back(&bond);
            return Err(BindError::Busy);
        }
        Ok(bond)
    }

    /// Gives back the count that a bind has just taken. If that is the last meanwhile, the bond ends; nobody has a handle to try again with, so what hardware does not
    /// confirm lingers.
    fn give_back(&self, bond: &Arc<Bond<P>>) {
        let end = |bond: &Arc<Bond<P>>| {
            if self.unmake(bond).is_err() {
                self.lingering.lock().push(bond.clone());
            }
            Ok::<(), core::convert::Infallible>(())
        };
        let put = self.bonds.put(bond.mm.id(), |held| Arc::ptr_eq(held, bond), end);
        debug_assert!(put.is_ok(), "what was counted is held");
    }

    /// Undoes what lingers of binds that hardware did not confirm. Answers that nothing lingers any more; at once, if nothing did.
    ///
    /// # Errors
    ///
    /// The first bond that could not be undone, as for [`unbind`](Self::unbind). The others were tried as well.
    pub fn settle(&self) -> Result<(), UnbindError> {
        let lingering = core::mem::take(&mut *self.lingering.lock());
        let mut settled = Ok(());
        for bond in lingering {
            if let Err(error) = self.unmake(&bond) {
                settled = settled.and(Err(error));
                self.lingering.lock().push(bond);
            }
        }
        settled
    }

    /// Whether the IOMMU knows the device still. One that was removed shares nothing any more, and who has its source ids now is another.
    fn is_there(&self) -> bool {
        let known = |&source: &SourceId| self.unit.unit.device(source);
        let known = self.device.sources().first().and_then(known);
        known.is_some_and(|known| Arc::ptr_eq(&known, &self.device))
    }

    fn make(self: &Arc<Self>, mm: &Arc<dyn ProcessMemory>) -> Result<Arc<Bond<P>>, BindError> {
        if self.disabled.load(Acquire) || !self.is_there() {
            return Err(BindError::Attach(AttachPasidError::NotEnabled));
        }
        let settled = self.settle();
        if let Err(error) = settled
            && self.lingering.lock().iter().any(|bond| bond.mm.id() == mm.id())
        {
            return Err(match error {
                UnbindError::Sync(error) => BindError::Attach(AttachPasidError::Sync(error)),
                _ => BindError::Busy,
            });
        }
        let unit = &self.unit;
        let first = Pasid::new(1).expect("20 bits hold 1");
        let pasid = unit.pasids.hold(mm, first..=self.limits.last_pasid).map_err(|error| match error {
            HoldPasidError::Exited => BindError::Exited,
            error => BindError::Pasid(error),
        })?;
        let process = unit.share(mm).inspect_err(|_| self.put_pasid(pasid))?;
        let handled = self.group.hold_pasid(pasid, None).map_err(BindError::Group).and_then(|()| {
            let handler = Arc::new(MmHandler::new(mm.clone()));
            self.requester.set_handler(Some(pasid), handler).map_err(|error| {
                let _ = self.group.drop_pasid(pasid);
                BindError::Handler(error)
            })
        });
        if let Err(error) = handled {
            unit.unshare(mm, Some(process));
            self.put_pasid(pasid);
            return Err(error);
        }
        let domain = process.domain();
        let exited = process.exited.clone();
        let process = Lock::<P, _>::new(Some(process));
        let ends = AtomicBool::new(false);
        let bond = Arc::new(Bond { device: self.clone(), mm: mm.clone(), process, exited, ends, pasid });
        let attached = self.attach(pasid, &domain);
        drop(domain);
        match attached {
            Ok(()) => Ok(bond),
            Err(error) => {
                if mutant!("refused-bind-keeps-its-pasid") || self.unmake(&bond).is_err() {
                    // Hardware may use the PASID: nothing of the bond is given back.
                    self.lingering.lock().push(bond);
                }
                Err(BindError::Attach(error))
            }
        }
    }

    fn attach(&self, pasid: Pasid, domain: &Arc<dyn ProcessDomain>) -> Result<(), AttachPasidError> {
        let sva = self.unit.sva().ok_or(AttachPasidError::NotEnabled)?;
        sva.attach_pasid(self.device.sources(), pasid, domain)
    }

    /// Gives a bond back. The last who does ends it: on return nothing of the device's reaches the process, every request of its has been answered,
    /// and the PASID is free if no other device holds it. The device's driver has made the device stop using the PASID.
    ///
    /// # Errors
    ///
    /// As [`UnbindError`] says; then the bond is still there, to be given back again.
    pub fn unbind(&self, bond: &Arc<Bond<P>>) -> Result<(), UnbindError> {
        if !core::ptr::eq(Arc::as_ptr(&bond.device), self) {
            return Err(UnbindError::NotBound);
        }
        match self.bonds.put(bond.mm.id(), |held| Arc::ptr_eq(held, bond), |bond| self.unmake(bond)) {
            Ok(_) => Ok(()),
            Err(CountedError::Failed(error)) => Err(error),
            Err(CountedError::NotHeld) => Err(UnbindError::NotBound),
            Err(CountedError::Busy) => Err(UnbindError::Busy),
        }
    }

    fn unmake(&self, bond: &Bond<P>) -> Result<(), UnbindError> {
        let pasid = bond.pasid;
        bond.ends.store(true, Release);
        if let Some(sva) = self.unit.sva().filter(|_| self.is_there()) {
            let detached = sva.detach_pasid(self.device.sources(), pasid).map_err(UnbindError::Sync);
            detached.or_else(
                |error| if mutant!("unbind-without-hardwares-word") { Ok(()) } else { Err(error) },
            )?;
        }
        // What stayed with hardware would be taken for a request of whoever has the PASID next.
        self.unit.service_all().map_err(UnbindError::Flush)?;
        if !mutant!("unbind-without-flush") {
            self.requester.flush(Some(pasid), FLUSH_LIMIT_NS).map_err(UnbindError::Flush)?;
        }
        drop(self.requester.clear_handler(Some(pasid)));
        let dropped = self.group.drop_pasid(pasid);
        debug_assert!(dropped.is_ok(), "the bond noted it");
        let process = bond.process.lock().take();
        self.unit.unshare(&bond.mm, process);
        self.put_pasid(pasid);
        Ok(())
    }

    fn put_pasid(&self, pasid: Pasid) {
        let put = self.unit.pasids.put(pasid);
        debug_assert!(put.is_ok(), "a reference was held");
    }

    /// Gives the device up, which does not answer any more: it is blocked, until its group next moves or a driver is bound to it. Bonds are still to be given back, and
    /// the device to be disabled; both can be from now on, whatever it still remembers.
    ///
    /// # Errors
    ///
    /// The driver's word; then the device is where it was.
    pub fn give_up(&self) -> Result<(), AttachError> {
        self.group.give_up(&self.device)
    }

    /// Takes [`SvaUnit::enable`] back.
    ///
    /// # Errors
    ///
    /// As [`DisableSvaError`] says: above all while a bond lives or lingers. Then the device can still share.
    pub fn disable(&self) -> Result<(), DisableSvaError> {
        if self.disabled.load(Acquire) {
            return Err(DisableSvaError::NotEnabled);
        }
        if !self.bonds.is_empty() || self.settle().is_err() || !self.lingering.lock().is_empty() {
            return Err(DisableSvaError::PasidsInUse);
        }
        let sva = self.unit.sva().ok_or(DisableSvaError::NotEnabled)?;
        if self.is_there() {
            sva.disable(self.device.sources()).inspect_err(|error| {
                if let DisableSvaError::LeftBlocked(_) = error {
                    self.group.left_blocked(&self.device);
                }
            })?;
        }
        self.disabled.store(true, Release);
        end_sharing(&self.device);
        let mut askers = self.unit.askers.lock();
        for source in self.device.sources() {
            // Who enabled the device anew meanwhile is asked from now on.
            if askers.get(source).is_some_and(|held| core::ptr::eq(held.as_ptr(), &*self.requester)) {
                askers.remove(source);
            }
        }
        drop(askers);
        // It is in the queue, and nothing more is reported: what is left are answers, which a queue that is dropped waits for as well.
        let _ = self.unit.queue.remove_device(&self.requester);
        Ok(())
    }
}

impl<P: Platform> Bond<P> {
    /// The PASID with which the device means the process.
    pub fn pasid(&self) -> Pasid {
        self.pasid
    }

    /// The device.
    pub fn device(&self) -> &Arc<SvaDevice<P>> {
        &self.device
    }

    /// The process.
    pub fn mm(&self) -> &Arc<dyn ProcessMemory> {
        &self.mm
    }
}

impl<P: Platform> fmt::Debug for Bond<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bond")
            .field("device", &self.device)
            .field("pasid", &self.pasid)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> fmt::Debug for SvaDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvaDevice").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

impl<P: Platform> fmt::Debug for SvaUnit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvaUnit").field("unit", &self.unit).finish_non_exhaustive()
    }
}
