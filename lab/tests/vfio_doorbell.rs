//! With the cookie's mapping taken out, the job hangs up with an error, not with bytes.

use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use portcullis::core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, Flushed, Gather, GlobalError,
    HwDomain, Iommu, MapError, ReservedRegion, SyncError, Target, UnmapError,
};
use portcullis::types::{Iova, IovaRange, Pa, PageSizes, Prot, SourceId};
use portcullis_lab::input::Opened;
use portcullis_lab::machine::builtin;
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::tamper::Tamper;
use portcullis_lab::workload::vfio::{Job, run};
use portcullis_lab::{RunError, trace};

/// Where a user's domain has its doorbells.
const WINDOW: core::ops::RangeInclusive<u64> = 0x800_0000..=0x80f_ffff;

/// Leaves the mapping of doorbells in the window out, and says that it was made.
struct NoDoorbell(Arc<AtomicBool>);

impl Tamper for NoDoorbell {
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        Arc::new(Liar { driver, left_out: self.0.clone() })
    }
}

struct Liar<T: ?Sized> {
    left_out: Arc<AtomicBool>,
    driver: Arc<T>,
}

impl<T: ?Sized> core::fmt::Debug for Liar<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Liar")
    }
}

impl Iommu<LabPlatform> for Liar<dyn Iommu<LabPlatform>> {
    fn name(&self) -> &str {
        self.driver.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    fn add_device(&self, name: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.driver.add_device(name, sources)
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        self.driver.remove_device(sources)
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<LabPlatform>>, DomainError> {
        Ok(Arc::new(Liar { left_out: self.left_out.clone(), driver: self.driver.new_domain()? }))
    }

    fn attach(&self, sources: &[SourceId], target: &Target<LabPlatform>) -> Result<(), AttachError> {
        self.driver.attach(sources, target)
    }

    fn reserved_regions(&self, sources: &[SourceId]) -> Vec<ReservedRegion> {
        self.driver.reserved_regions(sources)
    }

    fn drain_events(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        self.driver.drain_events(to)
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        self.driver.handle_errors()
    }
}

impl HwDomain<LabPlatform> for Liar<dyn HwDomain<LabPlatform>> {
    fn aperture(&self) -> IovaRange {
        self.driver.aperture()
    }

    fn page_sizes(&self) -> PageSizes {
        self.driver.page_sizes()
    }

    fn map(&self, iova: Iova, pa: Pa, len_bytes: u64, prot: Prot) -> Result<(), MapError> {
        if WINDOW.contains(&iova.get()) {
            self.left_out.store(true, SeqCst);
            return Ok(());
        }
        self.driver.map(iova, pa, len_bytes, prot)
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<u64, UnmapError> {
        self.driver.unmap(range, gather)
    }

    fn sync(&self, gather: &mut Gather) -> Result<Flushed, SyncError> {
        self.driver.sync(gather)
    }

    fn flush_all(&self) -> Result<Flushed, SyncError> {
        self.driver.flush_all()
    }

    fn lookup(&self, iova: Iova) -> Option<(Pa, Prot)> {
        self.driver.lookup(iova)
    }

    fn as_any(&self) -> &dyn Any {
        self.driver.as_any()
    }
}

#[test]
fn without_the_doorbells_mapping_the_driver_in_user_space_hangs_up_and_gets_no_bytes() {
    for name in ["arm", "arm-stage2", "arm-64k", "arm-noncoherent", "arm-small"] {
        let left_out = Arc::new(AtomicBool::new(false));
        let input = Opened::beginning_of_sample(5000);
        let error = run(&Job {
            spec: builtin::find(name).unwrap(),
            device_tree: None,
            input: &input,
            seed: 1,
            unsafe_interrupts: false,
            kill: false,
            sink: trace::shared(None),
            tamper: Some(Arc::new(NoDoorbell(left_out.clone()))),
            progress: None,
        })
        .unwrap_err();
        assert!(left_out.load(SeqCst), "{name}: the mapping was left out");
        assert!(matches!(error, RunError::Wrong(_)), "{name}: {error:?}");
        let said = error.to_string();
        for word in ["no interrupt of queue 0", "hanging up", "F_TRANSLATION at 0x8000040"] {
            assert!(said.contains(word), "{name}: `{word}` is not in: {said}");
        }
    }
}
