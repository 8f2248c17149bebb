//! A machine and an IOMMU for tests: everything is recorded, every call can be made to fail, and hardware remembers what it was
//! not told to forget.

mod iommu;
mod lock;
mod machine;

use std::sync::Arc;

pub(crate) use iommu::{Call, FakeIommu, GRANULE};
pub(crate) use lock::{SpinLock, locks_held};
pub(crate) use machine::{Machine, RAM};
use portcullis_core::device::{Device, DeviceInfo, DmaMask};
use portcullis_core::dma::DmaHandle;
use portcullis_core::domain::FlushMode;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::{RegionSource, ReservedKind, ReservedRegion};
use portcullis_core::unit::IommuUnit;
use portcullis_types::{Iova, IovaRange, Pa, PaRange, Perms, Prot, SourceId};

pub(crate) const STRICT: DefaultDomain = DefaultDomain::Dma(FlushMode::Strict);
pub(crate) const LAZY: DefaultDomain = DefaultDomain::Dma(FlushMode::Lazy);

/// One IOMMU, one group.
pub(crate) struct Bench {
    pub(crate) machine: Arc<Machine>,
    pub(crate) iommu: Arc<FakeIommu>,
    pub(crate) unit: IommuUnit<Machine>,
    pub(crate) group: Group<Machine>,
}

pub(crate) fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::from_ends(Iova::new(first), Iova::new(last)).unwrap()
}

pub(crate) fn pa_range(first: u64, len: u64) -> PaRange {
    PaRange::new(Pa::new(first), len).unwrap()
}

pub(crate) fn region(first: u64, last: u64, kind: ReservedKind) -> ReservedRegion {
    let (range, prot) = (range(first, last), Prot::cached(Perms::READ_WRITE));
    ReservedRegion { range, kind, prot, source: RegionSource::DeviceTree }
}

pub(crate) fn bench(default: DefaultDomain) -> Bench {
    bench_with(default, range(0, (1 << 40) - 1))
}

pub(crate) fn bench_with(default: DefaultDomain, aperture: IovaRange) -> Bench {
    let machine = Arc::new(Machine::new());
    let iommu = FakeIommu::new(aperture);
    let unit = IommuUnit::new(machine.clone(), iommu.clone());
    let group = Group::new(machine.clone(), iommu.clone(), 7, default).unwrap();
    Bench { machine, iommu, unit, group }
}

impl Bench {
    /// A device with source id `source`, in no group.
    pub(crate) fn device(&self, source: u32, change: impl FnOnce(&mut DeviceInfo)) -> Arc<Device<Machine>> {
        let mut info = DeviceInfo::new(&format!("dev{source}"), &[SourceId(source)]);
        change(&mut info);
        let device = self.unit.add_device(info).unwrap();
        device.set_dma_mask(DmaMask::BITS_64);
        device.set_coherent_mask(DmaMask::BITS_64);
        device
    }

    pub(crate) fn member(&self, source: u32, change: impl FnOnce(&mut DeviceInfo)) -> Arc<Device<Machine>> {
        let device = self.device(source, change);
        self.group.add_device(&device).unwrap();
        device
    }

    pub(crate) fn handle(&self, change: impl FnOnce(&mut DeviceInfo)) -> DmaHandle<Machine> {
        let device = self.member(1, change);
        self.group.dma(&device).unwrap()
    }
}
