//! Processes that can exit, and an IOMMU that shares them in a few lines, whose word can be withheld.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::support::{FakeIommu, Machine, locks_held, range};
use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    ReservedRegion, SyncError, Target,
};
use portcullis_core::iopf::{PageRequest, PageResponse};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis_core::sva::{
    AttachPasidError, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained, EnableSvaError,
    ProcessDomain, ProcessDomainError, SvaIommu, SvaLimits, SvaRefusal,
};
use portcullis_types::{IovaRange, Pa, Pasid, SizeLg2, SourceId};

/// A process that can exit.
pub(super) struct Process {
    id: u64,
    slot: PasidSlot,
    pub(super) listeners: Mutex<Listeners>,
    /// What somebody else does while it next makes a page present.
    meanwhile: Mutex<Meanwhile>,
}

#[derive(Default)]
pub(super) struct Listeners {
    pub(super) exited: bool,
    next: u64,
    pub(super) all: BTreeMap<u64, Arc<dyn MmListener>>,
}

impl core::fmt::Debug for Process {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        no_lock_is_held();
    }
}

impl Process {
    pub(super) fn numbered(id: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            slot: PasidSlot::new(),
            listeners: Mutex::default(),
            meanwhile: Mutex::default(),
        })
    }

    pub(super) fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(act));
    }

    /// How many listen.
    pub(super) fn listener_count(&self) -> usize {
        self.listeners.lock().unwrap().all.len()
    }

    /// Takes the range out of its table, and tells all who listen. Answers whether each confirmed it.
    pub(super) fn unmaps(&self, range: IovaRange) -> Result<(), SyncError> {
        let all: Vec<_> = self.listeners.lock().unwrap().all.values().cloned().collect();
        all.iter().map(|listener| listener.invalidate(range)).fold(Ok(()), Result::and)
    }

    pub(super) fn exit(&self) {
        let all = {
            let mut listeners = self.listeners.lock().unwrap();
            listeners.exited = true;
            core::mem::take(&mut listeners.all)
        };
        all.values().for_each(|listener| listener.release().unwrap());
    }
}

impl ProcessMemory for Process {
    fn id(&self) -> MmId {
        MmId(self.id)
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.slot
    }

    fn table(&self) -> ProcessTable {
        ProcessTable::Vmsa64 {
            root: Pa::new(0x1000),
            granule: SizeLg2::KIB_4,
            input_bits: 48,
            output_bits: 48,
            large_descriptors: false,
            mair: 0xff,
        }
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        Ok(1)
    }

    fn unpin_asid(&self) {}

    fn handle_fault(&self, _: &MmFault) -> Result<(), MmFaultError> {
        no_lock_is_held();
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|act| act());
        Ok(())
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        no_lock_is_held();
        let mut listeners = self.listeners.lock().unwrap();
        if listeners.exited {
            return Err(Exited);
        }
        listeners.next += 1;
        let id = listeners.next;
        listeners.all.insert(id, listener);
        Ok(ListenerId(id))
    }

    fn remove_listener(&self, id: ListenerId) {
        no_lock_is_held();
        let removed = self.listeners.lock().unwrap().all.remove(&id.0);
        drop(removed);
    }
}

/// A process, and a driver for it, may have to wait for another CPU.
fn no_lock_is_held() {
    assert_eq!(locks_held(), 0, "with a spin lock held");
}

type Meanwhile = Option<Box<dyn FnOnce() + Send>>;

/// An IOMMU whose devices can be bound.
pub(super) struct Sharing {
    pub(super) plain: Arc<FakeIommu>,
    /// By source and PASID: which process.
    pub(super) bound: Mutex<BTreeMap<(SourceId, Pasid), MmId>>,
    /// How many changes of a PASID are not confirmed, after how many that are.
    pub(super) silent: Mutex<(usize, usize)>,
    /// What somebody else does once the next change of a device is made, or it has its next answer.
    pub(super) meanwhile: Mutex<Meanwhile>,
    pub(super) requests: Mutex<Vec<PageRequest>>,
    /// How many drains leave the requests where they are.
    pub(super) leaves: Mutex<usize>,
    pub(super) responses: Mutex<Vec<PageResponse>>,
    /// By first source: the processes that hardware may use for the whole device.
    pub(super) wholes: Mutex<BTreeMap<SourceId, Vec<Arc<dyn ProcessDomain>>>>,
    /// How many devices that are attached next are left blocked, without hardware's word.
    pub(super) leaves_blocked: Mutex<usize>,
    /// What hardware was made to forget of processes, and whether it confirms that.
    pub(super) forgotten: Arc<Forgotten>,
}

/// What hardware was made to forget of processes.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    pub(super) ranges: Mutex<Vec<IovaRange>>,
    /// Processes that have exited.
    pub(super) exits: Mutex<Vec<MmId>>,
    /// Whether hardware does not confirm it.
    pub(super) silent: AtomicBool,
}

impl core::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sharing")
    }
}

impl Sharing {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            plain: FakeIommu::new(range(0, (1 << 40) - 1)),
            bound: Mutex::default(),
            silent: Mutex::default(),
            meanwhile: Mutex::default(),
            requests: Mutex::default(),
            leaves: Mutex::default(),
            responses: Mutex::default(),
            wholes: Mutex::default(),
            leaves_blocked: Mutex::default(),
            forgotten: Arc::default(),
        })
    }

    fn changed(&self) {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|act| act());
    }

    fn confirms(&self) -> Result<(), SyncError> {
        let (pass, fail) = &mut *self.silent.lock().unwrap();
        if *pass > 0 || *fail == 0 {
            *pass = pass.saturating_sub(1);
            return Ok(());
        }
        *fail -= 1;
        Err(SyncError::Failed { code: 1 })
    }

    pub(super) fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(act));
    }
}

impl Iommu<Machine> for Sharing {
    fn name(&self) -> &str {
        "sharing"
    }

    fn capabilities(&self) -> Capabilities {
        self.plain.capabilities()
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.plain.add_device(name, sources)
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        self.plain.remove_device(sources)?;
        self.bound.lock().unwrap().retain(|(source, _), _| !sources.contains(source));
        let gone = self.wholes.lock().unwrap().remove(&sources[0]);
        drop(gone);
        self.changed();
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        self.plain.new_domain()
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        let process = if let Target::Process(process) = target { Some(process.clone()) } else { None };
        let refused = {
            let mut left = self.leaves_blocked.lock().unwrap();
            let refused = *left > 0;
            *left = left.saturating_sub(1);
            refused
        };
        if refused {
            self.plain.attach(sources, &Target::Blocked)?;
            // Hardware may use what the device had, and what it was to have.
            self.wholes.lock().unwrap().entry(sources[0]).or_default().extend(process);
            return Err(AttachError::LeftBlocked(SyncError::Failed { code: 1 }));
        }
        match process {
            // It has no tables of its own to be looked at.
            Some(_) => self.plain.attach(sources, &Target::Identity)?,
            None => self.plain.attach(sources, target)?,
        }
        let before = self.wholes.lock().unwrap().insert(sources[0], process.into_iter().collect());
        drop(before);
        Ok(())
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        self.plain.reserved_regions(sources)
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.plain.drain_events(to)
    }

    /// Hardware has confirmed what it had not.
    fn handle_errors(&self) -> Vec<GlobalError> {
        let kept = core::mem::take(&mut *self.wholes.lock().unwrap());
        drop(kept);
        Vec::new()
    }

    fn sva(&self) -> Option<&dyn SvaIommu<Machine>> {
        Some(self)
    }
}

#[derive(Debug)]
struct Shared(MmId, Arc<Forgotten>);

impl Shared {
    fn confirms(&self) -> Result<(), SyncError> {
        if self.1.silent.load(SeqCst) { Err(SyncError::Failed { code: 1 }) } else { Ok(()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        no_lock_is_held();
    }
}

impl ProcessDomain for Shared {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.1.ranges.lock().unwrap().push(range);
        self.confirms()
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        self.1.exits.lock().unwrap().push(self.0);
        self.confirms()
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

const LIMITS: SvaLimits = SvaLimits { last_pasid: Pasid::new(9).unwrap() };

impl SvaIommu<Machine> for Sharing {
    fn check(&self, _: &[SourceId], _: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
        Ok(LIMITS)
    }

    fn enable(
        &self,
        _: &[SourceId],
        _: &DeviceSvaFacts,
        _: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError> {
        no_lock_is_held();
        self.changed();
        self.confirms().map_err(EnableSvaError::Sync)?;
        Ok(LIMITS)
    }

    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError> {
        no_lock_is_held();
        if self.bound.lock().unwrap().keys().any(|(source, _)| sources.contains(source)) {
            return Err(DisableSvaError::PasidsInUse);
        }
        self.changed();
        Ok(())
    }

    fn new_process_domain(
        &self,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Arc<dyn ProcessDomain>, ProcessDomainError> {
        no_lock_is_held();
        Ok(Arc::new(Shared(mm.id(), self.forgotten.clone())))
    }

    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError> {
        no_lock_is_held();
        let Shared(id, _) = domain.as_any().downcast_ref().unwrap();
        for &source in sources {
            let before = self.bound.lock().unwrap().insert((source, pasid), *id);
            assert_eq!(before, None, "{pasid:?} means a process still");
        }
        self.changed();
        self.confirms().map_err(AttachPasidError::Sync)
    }

    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError> {
        no_lock_is_held();
        self.confirms()?;
        self.bound.lock().unwrap().retain(|(source, bound), _| !sources.contains(source) || *bound != pasid);
        Ok(())
    }

    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        no_lock_is_held();
        let leaves = {
            let mut left = self.leaves.lock().unwrap();
            let leaves = *left > 0;
            *left = left.saturating_sub(1);
            leaves
        };
        if leaves {
            to(Drained::Left);
            return 0;
        }
        let requests = core::mem::take(&mut *self.requests.lock().unwrap());
        requests.iter().for_each(|&request| to(Drained::Request(request)));
        requests.len()
    }

    fn respond(&self, response: &PageResponse) {
        no_lock_is_held();
        self.responses.lock().unwrap().push(*response);
        self.changed();
    }
}
