//! A device that shares processes' memory, and a process, for this crate's own tests.

#![expect(clippy::cast_possible_truncation, reason = "registers are 32 bits wide")]

extern crate std;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::Mutex;

use portcullis_core::iommu::{HwDomain, Iommu, SyncError, Target};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis_core::sva::{
    CpuFacts, DeviceSvaFacts, DeviceSwitches, EnableSvaError, ProcessDomain, SvaIommu, SvaLimits,
};
use portcullis_spec::smmuv3::registers::*;
use portcullis_types::{IovaRange, Pa, Pasid, SizeLg2, SourceId};

use crate::config::Config;
use crate::smmu::Smmu;
use crate::testing::{Fake, ste};

/// The memory of a process that has no memory, only an ASID and a place for its table.
#[derive(Debug)]
pub(crate) struct FakeMm {
    pub(crate) table: ProcessTable,
    pub(crate) asid: u16,
    pub(crate) pins: AtomicU64,
    slot: PasidSlot,
    listeners: Mutex<Listeners>,
    /// Faults that were handled.
    pub(crate) faults: AtomicU64,
}

impl FakeMm {
    /// A process with tables of 4 KiB at 0x1_2345_6000.
    pub(crate) fn new(asid: u16) -> Arc<Self> {
        Self::with_table(asid, FakeMm::table(0x1_2345_6000))
    }

    pub(crate) fn with_table(asid: u16, table: ProcessTable) -> Arc<Self> {
        Arc::new(Self {
            table,
            asid,
            pins: AtomicU64::new(0),
            listeners: Mutex::default(),
            faults: AtomicU64::new(0),
            slot: PasidSlot::new(),
        })
    }

    pub(crate) fn table(root: u64) -> ProcessTable {
        ProcessTable::Vmsa64 {
            root: Pa::new(root),
            granule: SizeLg2::KIB_4,
            input_bits: 48,
            output_bits: 48,
            large_descriptors: false,
            mair: 0x0004_ff44,
        }
    }
}

impl ProcessMemory for FakeMm {
    fn id(&self) -> MmId {
        MmId(self.asid.into())
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.slot
    }

    fn table(&self) -> ProcessTable {
        self.table
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        self.pins.fetch_add(1, SeqCst);
        Ok(self.asid)
    }

    fn unpin_asid(&self) {
        assert!(self.pins.fetch_sub(1, SeqCst) > 0, "nothing was pinned");
    }

    fn handle_fault(&self, _: &MmFault) -> Result<(), MmFaultError> {
        self.faults.fetch_add(1, SeqCst);
        if self.listeners.lock().unwrap().exited { Err(MmFaultError::Exited) } else { Ok(()) }
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
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
        let removed = self.listeners.lock().unwrap().all.remove(&id.0);
        drop(removed);
    }
}

/// Who listens to a process.
#[derive(Default)]
struct Listeners {
    exited: bool,
    next: u64,
    all: BTreeMap<u64, Arc<dyn MmListener>>,
}

impl core::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Listeners").field("all", &self.all.len()).finish_non_exhaustive()
    }
}

impl FakeMm {
    /// Tells of the exit. Answers what the listeners say, pages being kept if any says an error.
    pub(crate) fn exit(&self) -> Result<(), SyncError> {
        let listeners = {
            let mut listeners = self.listeners.lock().unwrap();
            listeners.exited = true;
            core::mem::take(&mut listeners.all)
        };
        listeners.into_values().try_for_each(|listener| listener.release())
    }

    /// Tells of a change.
    pub(crate) fn change(&self, range: IovaRange) -> Result<(), SyncError> {
        let listeners: Vec<_> = self.listeners.lock().unwrap().all.values().cloned().collect();
        listeners.into_iter().try_for_each(|listener| listener.invalidate(range))
    }

    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.lock().unwrap().all.len()
    }
}

/// A device's ATS switch, with what was there when it was turned: the entry of its stream 8.
#[derive(Debug)]
pub(crate) struct FakeSwitches {
    pub(crate) fake: Arc<Fake>,
    pub(crate) turned: Mutex<Vec<(bool, [u64; 8])>>,
    /// CR0, and how many commands had been queued, modulo the queue's length.
    pub(crate) when: Mutex<Vec<(u64, u64)>>,
}

impl FakeSwitches {
    pub(crate) fn new(fake: &Arc<Fake>) -> Arc<Self> {
        Arc::new(Self { fake: fake.clone(), turned: Mutex::default(), when: Mutex::default() })
    }
}

impl DeviceSwitches for FakeSwitches {
    fn set_ats(&self, on: bool) {
        self.turned.lock().unwrap().push((on, ste(&self.fake, 8)));
        self.when.lock().unwrap().push((self.fake.get(CR0), self.fake.get(CMDQ_PROD)));
    }
}

/// The kind of machine that a device shares on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// ATS and page requests, no stalls.
    Pcie,
    /// Stalls that can be switched off.
    Platform,
    /// Stalls that cannot.
    Forced,
}

/// A device, `disk`, with streams 8 and 9, in a domain, on hardware that can share with 16-bit PASIDs.
pub(crate) struct Shared {
    pub(crate) fake: Arc<Fake>,
    pub(crate) smmu: Arc<Smmu<Fake, Arc<Fake>>>,
    pub(crate) base: Arc<dyn HwDomain<Fake>>,
    pub(crate) switches: Arc<FakeSwitches>,
    pub(crate) facts: DeviceSvaFacts,
}

impl Shared {
    pub(crate) const SOURCES: [SourceId; 2] = [SourceId(8), SourceId(9)];

    /// The device is not enabled yet.
    pub(crate) fn plain(machine: Machine, change: impl FnOnce(&mut Idr0, &mut Config)) -> Self {
        let fake = Fake::new();
        let pcie = machine == Machine::Pcie;
        let mut idr0 = Idr0::from_bits(fake.get(IDR0) as u32).with_ats(pcie).with_pri(pcie).with_stall_model(
            match machine {
                Machine::Pcie => 1,
                Machine::Platform => 0,
                Machine::Forced => 2,
            },
        );
        fake.set(IDR1, Idr1::from_bits(fake.get(IDR1) as u32).with_priqs(5).into_bits());
        fake.set(IDR5, Idr5::from_bits(fake.get(IDR5) as u32).with_stall_max(4).into_bits());
        let mut config = Fake::config();
        config.cpus = Some(CpuFacts::new(SizeLg2::KIB_4));
        change(&mut idr0, &mut config);
        fake.set(IDR0, idr0.into_bits());
        let smmu = Smmu::probe(fake.clone(), fake.clone(), config).unwrap();
        smmu.add_device("disk", &Self::SOURCES).unwrap();
        let base = smmu.new_domain().unwrap();
        smmu.attach(&Self::SOURCES, &Target::Domain(base.clone())).unwrap();
        let mut facts = DeviceSvaFacts::default();
        (facts.ats, facts.pri, facts.can_stall, facts.pasid_bits) = (pcie, pcie, !pcie, 20);
        let switches = FakeSwitches::new(&fake);
        fake.take_log();
        Self { fake, smmu, base, switches, facts }
    }

    pub(crate) fn on(machine: Machine) -> Self {
        Self::with(machine, |_, _| {})
    }

    pub(crate) fn with(machine: Machine, change: impl FnOnce(&mut Idr0, &mut Config)) -> Self {
        let shared = Self::plain(machine, change);
        shared.enable().unwrap();
        shared.fake.take_log();
        shared
    }

    pub(crate) fn sva(&self) -> &dyn SvaIommu<Fake> {
        self.smmu.sva().expect("the CPUs are known")
    }

    pub(crate) fn enable(&self) -> Result<SvaLimits, EnableSvaError> {
        self.sva().enable(&Self::SOURCES, &self.facts, self.switches.clone())
    }

    pub(crate) fn process(&self, mm: &Arc<FakeMm>) -> Arc<dyn ProcessDomain> {
        self.sva().new_process_domain(mm.clone()).unwrap()
    }

    /// A process with this ASID behind this PASID.
    pub(crate) fn bound(&self, asid: u16, pasid: u32) -> (Arc<FakeMm>, Arc<dyn ProcessDomain>) {
        let mm = FakeMm::new(asid);
        let process = self.process(&mm);
        self.sva().attach_pasid(&Self::SOURCES, Pasid::new(pasid).unwrap(), &process).unwrap();
        (mm, process)
    }

    pub(crate) fn detach(&self, pasid: u32) -> Result<(), SyncError> {
        self.sva().detach_pasid(&Self::SOURCES, Pasid::new(pasid).unwrap())
    }
}
