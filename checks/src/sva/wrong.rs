//! Drivers that get one thing wrong about sharing, made from the right one: commands that are left out or changed, descriptors that say something else, and a
//! driver that says it did what core asked, and did not.
//!
//! [`catch`] runs seeds of the schedule until the judge says what is wrong.

use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::Width;
use portcullis::core::iommu::{Iommu, SyncError};
use portcullis::core::iopf::PageResponse;
use portcullis::core::mm::ProcessMemory;
use portcullis::core::sva::{
    AttachPasidError, DeviceSvaFacts, DeviceSwitches, DisableSvaError, Drained, EnableSvaError,
    ProcessDomain, ProcessDomainError, SvaIommu, SvaLimits, SvaRefusal,
};
use portcullis::hal::BlockLayout;
use portcullis::types::{IovaRange, Pa, Pasid, SourceId};
use portcullis_lab::platform::LabPlatform;
use portcullis_lab::seam;
use portcullis_lab::tamper::{Hands, Tamper};

use super::plan::Plan;
use super::schedule::{Manner, run_with};
use crate::wrong::commands::{Commands, NOTHING, Words, opcode};
use crate::wrong::view::{Place, View};

/// Opcodes of what sharing needs. Spec: SMMUv3 H.a, 4.1.1 "Command opcodes".
pub mod op {
    /// CMD_CFGI_CD.
    pub const CFGI_CD: u64 = 0x05;
    /// CMD_TLBI_NH_ASID.
    pub const TLBI_NH_ASID: u64 = 0x11;
    /// CMD_TLBI_NH_VA.
    pub const TLBI_NH_VA: u64 = 0x12;
    /// CMD_TLBI_EL2_ASID.
    pub const TLBI_EL2_ASID: u64 = 0x21;
    /// CMD_TLBI_EL2_VA.
    pub const TLBI_EL2_VA: u64 = 0x22;
    /// CMD_ATC_INV.
    pub const ATC_INV: u64 = 0x40;
    /// CMD_PRI_RESP.
    pub const PRI_RESP: u64 = 0x41;
    /// CMD_RESUME.
    pub const RESUME: u64 = 0x44;
}

/// Runs seeds until something is wrong. Answers with which, and what is; none if all went well.
pub fn catch(
    seeds: core::ops::Range<u64>,
    plan: impl Fn(u64) -> Plan,
    manner: Manner,
    tamper: impl Fn() -> Arc<dyn Tamper>,
) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let plan = plan(seed);
        let tamper = tamper();
        // A panic is the lab's way to say that a CPU did what ends in an abort or in a broken heap.
        let run = core::panic::AssertUnwindSafe(move || run_with(plan, manner, Some(tamper)));
        let said = match std::panic::catch_unwind(run) {
            Ok(report) => (!report.wrongs.is_empty()).then(|| report.wrongs.join("; ")),
            Err(panic) => Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
        };
        said.map(|said| (seed, said))
    })
}

/// Demands that it is caught within some seeds, that what is said has one of the words, and that nothing is said of the right driver in the same run.
///
/// # Panics
///
/// If it is not, or something else is said, or of both.
pub fn caught(
    plan: impl Fn(u64) -> Plan,
    manner: Manner,
    tamper: impl Fn() -> Arc<dyn Tamper>,
    words: &[&str],
) {
    let (seed, said) = catch(0..24, &plan, manner, tamper).expect("nobody noticed it");
    assert!(words.iter().any(|word| said.contains(word)), "none of {words:?} in: {said}");
    let of_the_right_one = run_with(plan(seed), manner, None).wrongs;
    assert!(of_the_right_one.is_empty(), "of the right driver, too: {of_the_right_one:?}");
}

/// What was to be forgotten by the TLB first is forgotten by ATCs first, which may then ask the TLB again: CMD_ATC_INV for all of `stream` goes out where the
/// CMD_TLBI was, and the other way round.
pub fn atcs_first(stream: u64) -> impl Tamper {
    let owed: Mutex<Option<Words>> = Mutex::new(None);
    Commands::new(move |batch: &mut [Words]| {
        let mut owed = owed.lock().unwrap_or_else(PoisonError::into_inner);
        for words in batch.iter_mut() {
            match opcode(*words) {
                op::TLBI_NH_VA | op::TLBI_NH_ASID => {
                    // ASID: 63:48 of word 0. ATC_INV without SSV, Size 52: everything.
                    let first = owed.replace([op::TLBI_NH_ASID | words[0] & 0xffff << 48, 0]).is_none();
                    *words = if first { [op::ATC_INV | stream << 32, 52] } else { NOTHING };
                }
                op::ATC_INV => *words = owed.take().unwrap_or(*words),
                _ => {}
            }
        }
    })
}

/// Words of tables that are something else than what the driver stored, which is what it is shown.
pub struct Descriptors {
    is_one: fn(u64) -> bool,
    change: fn(u64) -> u64,
    shadow: Mutex<BTreeMap<u64, u64>>,
}

/// Context descriptors of processes are known by their first word: V, AA64 and EPD1, which only they have together. Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
const CD_KEY: u64 = 1 << 31 | 1 << 41 | 1 << 30;

impl Descriptors {
    /// The first words of context descriptors of processes, with this change.
    pub fn new(change: fn(u64) -> u64) -> Self {
        Self::known_by(|word| word & CD_KEY == CD_KEY, change)
    }

    /// Words that are known by something, with this change.
    pub fn known_by(is_one: fn(u64) -> bool, change: fn(u64) -> u64) -> Self {
        Self { is_one, change, shadow: Mutex::default() }
    }
}

impl Tamper for Descriptors {
    fn load(&self, hands: Hands<'_>, at: Pa) -> u64 {
        let shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner).get(&at.get()).copied();
        shadow.unwrap_or_else(|| hands.load(at))
    }

    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        let mut shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        shadow.remove(&at.get());
        let changed = if (self.is_one)(word) { (self.change)(word) } else { word };
        if changed != word {
            shadow.insert(at.get(), word);
        }
        hands.store(at, changed);
    }
}

/// Stream table entries in which S1DSS, 1:0 of word 1, is this where it was 2. The driver is shown what it stored.
///
/// Spec: SMMUv3 H.a, 5.2 "Stream Table Entry", S1DSS: 0 ends what comes without a substream, 1 bypasses it, 2 uses descriptor 0.
pub struct WithoutSubstream {
    s1dss: u64,
    view: View,
    shadow: Mutex<BTreeMap<u64, u64>>,
}

impl WithoutSubstream {
    /// With this value.
    pub fn new(s1dss: u64) -> Self {
        Self { s1dss, view: View::default(), shadow: Mutex::default() }
    }
}

impl Tamper for WithoutSubstream {
    fn load(&self, hands: Hands<'_>, at: Pa) -> u64 {
        let shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner).get(&at.get()).copied();
        shadow.unwrap_or_else(|| hands.load(at))
    }

    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        let is_it = matches!(self.view.word_stored(at, word), Place::Entry(_, 1)) && word & 3 == 2;
        let mut shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        shadow.remove(&at.get());
        if is_it {
            shadow.insert(at.get(), word);
        }
        hands.store(at, if is_it { word & !3 | self.s1dss } else { word });
    }

    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        self.view.register_written(at, value);
        hands.write_register(at, width, value);
    }
}

/// The first block of memory that the driver gives back stays out.
#[derive(Debug, Default)]
pub struct Hoarding(AtomicBool);

impl Tamper for Hoarding {
    fn free(&self, hands: Hands<'_>, first: Pa, layout: BlockLayout) {
        if self.0.swap(true, Relaxed) {
            hands.free(first, layout);
        }
    }
}

/// What a driver does not do, or does twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Ranges are not invalidated.
    Invalidate,
    /// Ranges are invalidated, and that hardware did not confirm is not told.
    InvalidateResult,
    /// A process that exits is not quiesced.
    Quiesce,
    /// That hardware did not confirm a quiesce is not told.
    QuiesceResult,
    /// PASIDs are not detached.
    Detach,
    /// Page requests are taken, and every third is dropped.
    DropRequests,
    /// Responses are sent twice.
    RespondTwice,
    /// Overflows are not told.
    HideOverflow,
    /// Responses are for the first source of the device, whichever asked.
    RespondToFirst,
}

/// Stands between core and the driver.
pub struct Liar(pub Lie);

impl Tamper for Liar {
    fn between_core_and(&self, driver: Arc<dyn Iommu<LabPlatform>>) -> Arc<dyn Iommu<LabPlatform>> {
        seam::through(driver.clone(), Arc::new(Lying { lie: self.0, driver, seen: Mutex::new(0) }))
    }
}

struct Lying {
    lie: Lie,
    driver: Arc<dyn Iommu<LabPlatform>>,
    seen: Mutex<u64>,
}

impl Lying {
    fn real(&self) -> &dyn SvaIommu<LabPlatform> {
        self.driver.sva().expect("the IOMMU shares")
    }
}

impl seam::Liar for Lying {
    fn sva<'a>(&'a self, _: &'a dyn Iommu<LabPlatform>) -> Option<&'a dyn SvaIommu<LabPlatform>> {
        Some(self)
    }
}

impl SvaIommu<LabPlatform> for Lying {
    fn check(&self, sources: &[SourceId], device: &DeviceSvaFacts) -> Result<SvaLimits, SvaRefusal> {
        self.real().check(sources, device)
    }

    fn enable(
        &self,
        sources: &[SourceId],
        device: &DeviceSvaFacts,
        switches: Arc<dyn DeviceSwitches>,
    ) -> Result<SvaLimits, EnableSvaError> {
        self.real().enable(sources, device, switches)
    }

    fn disable(&self, sources: &[SourceId]) -> Result<(), DisableSvaError> {
        self.real().disable(sources)
    }

    fn new_process_domain(
        &self,
        mm: Arc<dyn ProcessMemory>,
    ) -> Result<Arc<dyn ProcessDomain>, ProcessDomainError> {
        let domain = self.real().new_process_domain(mm)?;
        Ok(Arc::new(LyingDomain { lie: self.lie, domain }))
    }

    fn attach_pasid(
        &self,
        sources: &[SourceId],
        pasid: Pasid,
        domain: &Arc<dyn ProcessDomain>,
    ) -> Result<(), AttachPasidError> {
        self.real().attach_pasid(sources, pasid, domain)
    }

    fn detach_pasid(&self, sources: &[SourceId], pasid: Pasid) -> Result<(), SyncError> {
        if self.lie == Lie::Detach { Ok(()) } else { self.real().detach_pasid(sources, pasid) }
    }

    fn drain_page_requests(&self, to: &mut dyn FnMut(Drained)) -> usize {
        self.real().drain_page_requests(&mut |drained| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen += 1;
            let dropped = self.lie == Lie::DropRequests && seen.is_multiple_of(3);
            let hidden = self.lie == Lie::HideOverflow && matches!(drained, Drained::Overflowed);
            if !dropped && !hidden {
                to(drained);
            }
        })
    }

    fn respond(&self, response: &PageResponse) {
        let source = match self.lie {
            // Platform devices have an even and an odd one.
            Lie::RespondToFirst if response.source.0 >= 0x1000 => SourceId(response.source.0 & !1),
            _ => response.source,
        };
        let response = PageResponse { source, ..*response };
        self.real().respond(&response);
        if self.lie == Lie::RespondTwice {
            self.real().respond(&response);
        }
    }
}

#[derive(Debug)]
struct LyingDomain {
    lie: Lie,
    domain: Arc<dyn ProcessDomain>,
}

impl ProcessDomain for LyingDomain {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        match self.lie {
            Lie::Invalidate => Ok(()),
            Lie::InvalidateResult => self.domain.invalidate(range).or(Ok(())),
            _ => self.domain.invalidate(range),
        }
    }

    fn quiesce(&self) -> Result<(), SyncError> {
        match self.lie {
            Lie::Quiesce => Ok(()),
            Lie::QuiesceResult => self.domain.quiesce().or(Ok(())),
            _ => self.domain.quiesce(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self.domain.as_any()
    }
}
