//! A machine for processes, and a device that shares their tables.

use std::sync::{Arc, Mutex};

use model_bus::{Bus, BusOptions, HeapUse};
use model_cpu::{Context, Cpu, CpuFeatures, Cpus, Fault, FaultKind, TlbPolicy, Tlbi};
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{ListenerId, MmFault, MmFaultError, MmListener, ProcessMemory};
use portcullis::types::{AccessKind, Iova, IovaRange, Pa, PaRange, Perms, SizeLg2};

use crate::platform::{LabPlatform, Tamper};
use crate::process::cores::CoreContext;
use crate::process::{Kernel, KernelOptions, Mapping, Process, Source};

pub(super) const RW: Perms = Perms::READ_WRITE;
pub(super) const R: Perms = Perms::READ;

pub(super) struct Bench {
    pub(super) bus: Arc<Bus>,
    pub(super) kernel: Arc<Kernel>,
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(KernelOptions::new(SizeLg2::KIB_4, seed), CpuFeatures::COMMON, 0x4000_0000)
    }

    pub(super) fn with(options: KernelOptions, features: CpuFeatures, ram: u64) -> Self {
        let ram = PaRange::new(Pa::new(ram), 0x0800_0000).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, options.seed));
        let cpus = Cpus::new(bus.clone(), &[features; 2], TlbPolicy::seeded(options.seed));
        let platform = Arc::new(LabPlatform::new(bus.clone(), crate::trace::shared(None), None));
        let kernel = Kernel::new(platform, cpus, options).unwrap();
        Self { bus, kernel }
    }

    /// The same, with somebody between the CPU and its tables.
    pub(super) fn watched_by(tamper: impl FnOnce(&Arc<Bus>) -> Arc<dyn Tamper>, seed: u64) -> Self {
        let Self { bus, kernel } = Self::new(seed);
        let tamper = tamper(&bus);
        let platform = LabPlatform::new(bus.clone(), crate::trace::shared(None), Some(tamper));
        let kernel = Kernel::new(Arc::new(platform), kernel.cpus().clone(), *kernel.options()).unwrap();
        Self { bus, kernel }
    }

    pub(super) fn process(&self) -> Arc<Process> {
        Process::new(&self.kernel).unwrap()
    }

    /// The registers of an Arm CPU that runs it under `asid`.
    pub(super) fn arm_context(&self, process: &Process, asid: u16) -> Context {
        let CoreContext::Arm(context) = self.kernel.context(process.root(), asid) else {
            panic!("this bench's CPUs are x86's")
        };
        context
    }

    pub(super) fn used(&self) -> HeapUse {
        self.bus.cpu().heap().used()
    }

    /// Nothing is out, nobody used what was freed, and no CPU saw anything unpredictable.
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.bus.cpu().heap().live(), [], "everything is back");
        assert_eq!(self.bus.cpu().ram().freed_use_count(), 0);
        assert_eq!(self.kernel.cpus().unpredictable(), []);
    }
}

/// Something of the kind that `source` says, anywhere.
pub(super) fn mapping(len_bytes: u64, perms: Perms, source: Source) -> Mapping {
    Mapping { at: None, len_bytes, perms, source }
}

pub(super) fn at(range: IovaRange, offset: u64) -> Iova {
    Iova::new(range.first().get() + offset)
}

pub(super) fn part(range: IovaRange, offset: u64, len: u64) -> IovaRange {
    IovaRange::new(at(range, offset), len).unwrap()
}

pub(super) fn read(process: &Process, from: Iova, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    process.read(from, &mut bytes).unwrap();
    bytes
}

/// A device with a TLB of its own that hears no broadcasts, only what it is told as a listener.
#[derive(Debug)]
pub(super) struct Device {
    cpu: Cpu,
    asid: u16,
    process: std::sync::Weak<Process>,
    /// What it answers instead of success.
    pub(super) failing: Mutex<Option<SyncError>>,
}

impl Device {
    pub(super) fn bind(bench: &Bench, process: &Arc<Process>, policy: TlbPolicy) -> (Arc<Self>, ListenerId) {
        let cpus = Cpus::new(
            bench.bus.clone(),
            &[bench.kernel.cpus().arm().unwrap().cpu(0).unwrap().features()],
            policy,
        );
        let cpu = cpus.cpu(0).unwrap();
        let asid = process.pin_asid().unwrap();
        cpu.switch_to(Some(bench.arm_context(process, asid)));
        let process_ref = Arc::downgrade(process);
        let device = Arc::new(Self { cpu, asid, process: process_ref, failing: Mutex::default() });
        let id = process.add_listener(device.clone()).unwrap();
        (device, id)
    }

    pub(super) fn write(&self, to: Iova, from: &[u8]) -> Result<(), MmFaultError> {
        self.access(to, |cpu, va, done| cpu.store(va, &from[done..]))?;
        // A device's writes are visible when they are done.
        self.cpu.cpus().bus().cpu().write_barrier();
        Ok(())
    }

    pub(super) fn read(&self, from: Iova, into: &mut [u8]) -> Result<(), MmFaultError> {
        self.access(from, |cpu, va, done| cpu.load(va, &mut into[done..]))
    }

    fn access(
        &self,
        at: Iova,
        mut access: impl FnMut(&Cpu, u64, usize) -> Result<(), Fault>,
    ) -> Result<(), MmFaultError> {
        let mut va = at.get();
        for _ in 0..1000 {
            let Err(fault) = access(&self.cpu, va, (va - at.get()) as usize) else { return Ok(()) };
            assert!(matches!(fault.kind, FaultKind::Translation | FaultKind::Permission), "{fault:?}");
            va = fault.va;
            let wanted = if fault.access == AccessKind::Write { Perms::WRITE } else { Perms::READ };
            let process = self.process.upgrade().ok_or(MmFaultError::Exited)?;
            process.handle_fault(&MmFault { address: Iova::new(va), wanted })?;
        }
        panic!("{at} faults again and again");
    }

    fn answer(&self) -> Result<(), SyncError> {
        self.failing.lock().unwrap().map_or(Ok(()), Err)
    }

    pub(super) fn unpredictable(&self) -> usize {
        self.cpu.cpus().unpredictable().len()
    }
}

impl MmListener for Device {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.answer()?;
        let (first, last) = (range.first().get(), range.last().get());
        self.cpu.tlbi(Tlbi::Range { asid: self.asid, first, last, last_level_only: false });
        self.cpu.barrier();
        Ok(())
    }

    fn release(&self) -> Result<(), SyncError> {
        self.answer()?;
        self.cpu.switch_to(None);
        self.cpu.tlbi(Tlbi::All);
        self.cpu.barrier();
        Ok(())
    }
}
