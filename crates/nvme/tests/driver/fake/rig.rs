//! A machine put together, with a driver to be started on it.

use std::sync::Arc;

use portcullis_core::device::{Device, DeviceInfo};
use portcullis_core::dma::DmaHandle;
use portcullis_core::domain::FlushMode;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::Iommu;
use portcullis_core::unit::IommuUnit;
use portcullis_hal::{BlockLayout, DmaMemory};
use portcullis_nvme::{Config, Interrupts, Nvme, NvmeError, Vector};
use portcullis_types::{Pa, PaRange, SourceId};

use super::controller::BLOCK;
use super::iommu::{Domain, FakeIommu};
use super::{Controller, Machine, Quirks};

pub(crate) struct Rig {
    pub(crate) machine: Arc<Machine>,
    pub(crate) controller: Arc<Controller>,
    iommu: Arc<FakeIommu>,
    dma: DmaHandle<Machine>,
    /// What was given out when there was no driver yet.
    bytes_at_rest: u64,
    lent: core::cell::Cell<u64>,
    _unit: IommuUnit<Machine>,
    _group: Group<Machine>,
}

const STRICT: DefaultDomain = DefaultDomain::Dma(FlushMode::Strict);

impl Rig {
    /// The vector of the I/O queue.
    pub(crate) const IO_VECTOR: u16 = 3;

    pub(crate) fn new(quirks: Quirks) -> Self {
        Self::with(quirks, STRICT, |info| info)
    }

    /// A rig whose unmaps are flushed later.
    pub(crate) fn lazy(quirks: Quirks) -> Self {
        Self::with(quirks, DefaultDomain::Dma(FlushMode::Lazy), |info| info)
    }

    /// A rig whose device's addresses are physical.
    pub(crate) fn physical(quirks: Quirks) -> Self {
        let rig = Self::with(quirks, DefaultDomain::Identity, |info| info);
        rig.domain().let_through();
        rig
    }

    /// A rig whose device does not snoop the CPU's caches.
    pub(crate) fn non_coherent() -> Self {
        Self::with(Quirks::default(), STRICT, |info| DeviceInfo { coherent: false, ..info })
    }

    fn with(quirks: Quirks, default: DefaultDomain, change: impl FnOnce(DeviceInfo) -> DeviceInfo) -> Self {
        let machine = Arc::new(Machine::new());
        let iommu = Arc::new(FakeIommu::default());
        let controller = Arc::new(Controller::new(machine.clone(), iommu.domain.clone(), quirks));
        machine.plug(Arc::downgrade(&controller));
        let driver: Arc<dyn Iommu<Machine>> = iommu.clone();
        let unit = IommuUnit::new(machine.clone(), driver.clone());
        let info = change(DeviceInfo::new("nvme", &[SourceId(8)]));
        let device = unit.add_device(info).expect("a device");
        let group = Group::new(machine.clone(), driver, 0, default).expect("a group");
        group.add_device(&device).expect("a member");
        let dma = group.dma(&device).expect("a handle for a member");
        let bytes_at_rest = machine.live_bytes();
        let lent = core::cell::Cell::new(0);
        Self { machine, controller, iommu, dma, bytes_at_rest, lent, _unit: unit, _group: group }
    }

    pub(crate) fn start(&self, config: &Config) -> Result<Nvme<Machine, Arc<Controller>>, NvmeError> {
        let io =
            Vector { index: Self::IO_VECTOR, interrupt: Arc::new(self.controller.wire(Self::IO_VECTOR)) };
        let interrupts = Interrupts { admin: Arc::new(self.controller.wire(0)), io };
        Nvme::start(self.dma.clone(), self.controller.clone(), &interrupts, config)
    }

    pub(crate) fn device(&self) -> &Device<Machine> {
        self.dma.device()
    }

    /// Has hardware forget what it did not confirm before.
    pub(crate) fn flush(&self) {
        self.dma.flush().expect("the IOMMU confirms");
    }

    pub(crate) fn domain(&self) -> &Domain {
        &self.iommu.domain
    }

    /// Memory of the test's own.
    pub(crate) fn buffer(&self, len_bytes: u64) -> PaRange {
        let layout = BlockLayout::new(len_bytes, 4096).expect("a layout");
        self.lent.set(self.lent.get() + len_bytes);
        PaRange::new(self.machine.alloc_buffer(layout).expect("memory"), len_bytes).expect("a range")
    }

    pub(crate) fn part(&self, of: PaRange, offset: u64, len_bytes: u64) -> PaRange {
        PaRange::new(Pa::new(of.first().get() + offset), len_bytes).expect("a part")
    }

    pub(crate) fn bytes(&self, of: PaRange) -> Vec<u8> {
        let mut bytes = vec![0; of.len_bytes().expect("not everything") as usize];
        self.machine.device_read(of.first().get(), &mut bytes);
        bytes
    }

    pub(crate) fn disk(&self, lba: u64, len_bytes: usize) -> Vec<u8> {
        let first = lba as usize * BLOCK;
        self.controller.state().disk[first..first + len_bytes].to_vec()
    }

    /// A signal of a vector, from nowhere.
    pub(crate) fn signal(&self, vector: u16) {
        self.controller.wire(vector).raise();
    }

    /// Nothing is mapped, no memory is out, and the controller is off.
    pub(crate) fn assert_nothing_is_out(&self) {
        assert!(!self.controller.is_enabled(), "the controller is enabled");
        self.assert_no_memory_is_out();
    }

    pub(crate) fn assert_no_memory_is_out(&self) {
        assert_eq!(self.domain().page_count(), 0, "pages are mapped");
        assert_eq!(self.machine.live_bytes(), self.bytes_at_rest + self.lent.get(), "memory is out");
    }
}
