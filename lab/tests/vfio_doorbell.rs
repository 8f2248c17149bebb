//! With the cookie's mapping taken out, the job hangs up with an error, not with bytes.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use portcullis::core::iommu::{HwDomain, Iommu, MapError};
use portcullis::types::{Iova, Pa, Prot};
use portcullis_lab::input::Opened;
use portcullis_lab::machine::builtin;
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::seam::{Liar, through};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::workload::vfio::{Job, run};
use portcullis_lab::{RunError, trace};

/// Where a user's domain has its doorbells.
const WINDOW: core::ops::RangeInclusive<u64> = 0x800_0000..=0x80f_ffff;

/// Leaves the mapping of doorbells in the window out, and says that it was made.
struct NoDoorbell(Arc<AtomicBool>);

impl Tamper for NoDoorbell {
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        through(driver, Arc::new(LeftOut(self.0.clone())))
    }
}

struct LeftOut(Arc<AtomicBool>);

impl Liar for LeftOut {
    fn map(
        &self,
        domain: &dyn HwDomain<LabPlatform>,
        iova: Iova,
        pa: Pa,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        if WINDOW.contains(&iova.get()) {
            self.0.store(true, SeqCst);
            return Ok(());
        }
        domain.map(iova, pa, len_bytes, prot)
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
