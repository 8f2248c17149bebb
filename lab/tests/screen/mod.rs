//! Firmware, which uses a disk behind everything that the kernel does to a register while it boots: what it keeps must be reached at every step, and by nobody else.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::{Outcome, Request, Translator, Width};
use portcullis::core::iommu::Iommu;
use portcullis::types::{Access, Iova, Pa, SourceId};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::tamper::{Hands, Tamper};

/// Whether an access gets through, which then leads to the same address.
pub(crate) fn reaches(iommu: &dyn Translator, source: SourceId, at: u64, access: Access) -> bool {
    let request = Request { source, pasid: None, iova: Iova::new(at), len_bytes: 1, access };
    let mut to = None;
    let outcome = iommu.access(&request, &mut |passage| {
        to = Some(passage.pa.get());
        Ok(())
    });
    assert!(outcome != Outcome::Done || to == Some(at), "{at:#x} leads to {to:x?}");
    outcome == Outcome::Done
}

/// What firmware uses: which disk, both ends of what it keeps for that, and who else tries an address that nobody has, before the IOMMU is up and from then on.
pub(crate) struct Use {
    pub(crate) disk: SourceId,
    pub(crate) kept: [u64; 2],
    pub(crate) others: [Option<SourceId>; 2],
    pub(crate) nobodys: u64,
}

/// How often it was tried, how often firmware did not get through, and how often others did and did not.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) tried: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) closed: AtomicU64,
}

pub(crate) struct Firmware {
    iommu: Arc<dyn Translator>,
    using: Use,
    is_up: AtomicBool,
    /// Before the IOMMU is up, and from then on.
    tallies: [Tally; 2],
}

impl Firmware {
    pub(crate) fn new(iommu: Arc<dyn Translator>, using: Use) -> Arc<Self> {
        let (is_up, tallies) = Default::default();
        Arc::new(Self { iommu, using, is_up, tallies })
    }

    /// What it met before the IOMMU was up, and from then on.
    pub(crate) fn met(&self) -> &[Tally; 2] {
        &self.tallies
    }

    fn uses_the_disk(&self) {
        let Use { disk, kept, others, nobodys } = self.using;
        let reaches = |source, at, access| reaches(&*self.iommu, source, at, access);
        let phase = usize::from(self.is_up.load(Relaxed));
        let tally = &self.tallies[phase];
        let own = reaches(disk, kept[0], Access::READ) && reaches(disk, kept[1], Access::WRITE);
        tally.tried.fetch_add(1, Relaxed);
        tally.refused.fetch_add(u64::from(!own), Relaxed);
        if let Some(other) = others[phase] {
            let open = reaches(other, nobodys, Access::READ);
            tally.open.fetch_add(open.into(), Relaxed);
            tally.closed.fetch_add((!open).into(), Relaxed);
        }
    }
}

impl Tamper for Firmware {
    fn read_register(&self, hands: Hands<'_>, at: Pa, width: Width) -> u64 {
        let value = hands.read_register(at, width);
        self.uses_the_disk();
        value
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        hands.write_register(at, width, value);
        self.uses_the_disk();
    }

    /// The IOMMU is up, and the disk nobody's yet.
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        self.uses_the_disk();
        self.is_up.store(true, Relaxed);
        self.uses_the_disk();
        driver
    }
}
