//! Processes that can exit, and an IOMMU that shares them in a few lines, whose word can be withheld.

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
        Arc::new(Self { id, slot: PasidSlot::new(), listeners: Mutex::default() })
    }

    /// How many listen.
    pub(super) fn listener_count(&self) -> usize {
        self.listeners.lock().unwrap().all.len()
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
        self.changed();
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Machine>>, DomainError> {
        self.plain.new_domain()
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Machine>) -> Result<(), AttachError> {
        match target {
            // It has no tables of its own to be looked at.
            Target::Process(_) => self.plain.attach(sources, &Target::Identity),
            target => self.plain.attach(sources, target),
        }
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        self.plain.reserved_regions(sources)
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.plain.drain_events(to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }

    fn sva(&self) -> Option<&dyn SvaIommu<Machine>> {
        Some(self)
    }
}

#[derive(Debug)]
struct Shared(MmId);

impl Drop for Shared {
    fn drop(&mut self) {
        no_lock_is_held();
    }
}

impl ProcessDomain for Shared {
    fn invalidate(&self, _: IovaRange) -> Result<(), SyncError> {
        Ok(())
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        Ok(())
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
        Ok(Arc::new(Shared(mm.id())))
    }

    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError> {
        no_lock_is_held();
        let Shared(id) = domain.as_any().downcast_ref().unwrap();
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
