//! What the processes of a machine have in common: CPUs, frames, ASIDs, and the shape of their tables.
//!
//! Not here: what differs between kinds of CPUs (`cores`) and of tables (`form`).

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::Chance;
use portcullis::core::asid::{AsidContext, AsidSpace, AsidSpaceError};
use portcullis::core::mm::{MmId, ProcessTable};
use portcullis::pgtable::arm::{ConfigError, HardwareUpdate};
use portcullis::pgtable::vtd;
use portcullis::types::{Pa, SizeLg2};

use super::cores::{Core, CoreContext, Cores, Forget};
use super::file::{Backing, File};
use super::form::Form;
use super::frame::Frames;
use crate::platform::LabPlatform;

/// How a kernel sets its processes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// The page size: 4, 16 or 64 KiB; 4 KiB for x86.
    pub granule: SizeLg2,
    /// Bits of an address in a process; for x86 47, or 56 with 5 levels.
    pub input_bits: u8,
    /// Bits of a physical address at most: 32, 36, 40, 42, 44, 48 or 52; anything from 32 to 52 for x86.
    pub output_bits: u8,
    /// Large descriptors (TCR.DS): 52 bits with 4 and 16 KiB pages.
    pub large_descriptors: bool,
    /// ASIDs of 16 bits rather than 8 (TCR.AS). Of x86's PCIDs 8 bits are used.
    pub wide_asids: bool,
    /// Each process has a pair of ASIDs, and runs with the odd one (kernel page-table isolation).
    pub asid_pairs: bool,
    /// Which marks entries have that devices or CPUs set by themselves. It does not matter whether the CPUs can: what one cannot, the kernel does
    /// for it when it faults. On x86 all are set, whatever this says.
    pub hardware_update: HardwareUpdate,
    /// How many pages below a stack nothing is put, nor the stack grown into.
    pub stack_gap_pages: u64,
    /// What decides where mappings go that do not care.
    pub seed: u64,
}

impl KernelOptions {
    /// 48 bits on both sides, 16-bit ASIDs, and a gap of 1 MiB below stacks.
    pub const fn new(granule: SizeLg2, seed: u64) -> Self {
        Self {
            granule,
            input_bits: 48,
            output_bits: 48,
            large_descriptors: false,
            wide_asids: true,
            asid_pairs: false,
            hardware_update: HardwareUpdate::None,
            stack_gap_pages: 0x10_0000 >> granule.get(),
            seed,
        }
    }

    /// For x86: 4 levels, 46 bits of output.
    pub const fn x86(seed: u64) -> Self {
        Self {
            input_bits: 47,
            output_bits: 46,
            wide_asids: false,
            hardware_update: HardwareUpdate::AccessAndDirty,
            ..Self::new(SizeLg2::KIB_4, seed)
        }
    }
}

/// Why there is no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// Tables of this shape cannot be.
    Table(ConfigError),
    /// The same, of x86.
    X86Table(vtd::ConfigError),
    /// x86 has pages of 4 KiB, and 47 or 56 bits of a process's addresses.
    NoSuchX86Table {
        /// The page size that was wanted.
        granule: SizeLg2,
        /// The bits that were wanted.
        input_bits: u8,
    },
    /// There are not enough ASIDs for so many CPUs.
    Asids(AsidSpaceError),
    /// There is no CPU.
    NoCpu,
}

/// Under which ASID, or PCID, a process's entries are.
#[derive(Debug, Default)]
pub(super) struct Tag {
    pub(super) id: AsidContext,
    /// The last one that it was given; 0 if it never ran. CPUs hold entries of the process under this one only: it changes when no CPU runs the
    /// process, and each CPU forgets what was before when it first runs something of the new generation.
    pub(super) last: AtomicU16,
}

/// What the processes of a machine have in common.
#[derive(Debug)]
pub struct Kernel {
    platform: Arc<LabPlatform>,
    cpus: Cores,
    asids: AsidSpace<spin::Mutex<()>>,
    options: KernelOptions,
    form: Form,
    /// Which marks the CPUs set.
    able: HardwareUpdate,
    frames: Frames,
    /// By CPU: held by who runs on it.
    running: Vec<Mutex<()>>,
    /// By CPU: whether a process has run on it, or is about to walk its first table.
    started: Vec<AtomicBool>,
    chance: Chance,
    next_mm: AtomicU64,
    next_cpu: AtomicUsize,
}

impl Kernel {
    /// A kernel on `platform` whose processes run on `cpus`, both of one bus.
    ///
    /// # Errors
    ///
    /// As [`KernelError`] says.
    pub fn new(
        platform: Arc<LabPlatform>,
        cpus: impl Into<Cores>,
        mut options: KernelOptions,
    ) -> Result<Arc<Self>, KernelError> {
        let cpus = cpus.into();
        let form = Form::of(&cpus, &mut options)?;
        if cpus.count() == 0 {
            return Err(KernelError::NoCpu);
        }
        let asid_bits = if options.wide_asids { 16 } else { 8 };
        let asids =
            AsidSpace::new(asid_bits, cpus.count(), options.asid_pairs).map_err(KernelError::Asids)?;
        Ok(Arc::new(Self {
            frames: Frames::new(platform.clone(), options.granule),
            running: (0..cpus.count()).map(|_| Mutex::default()).collect(),
            started: (0..cpus.count()).map(|_| AtomicBool::default()).collect(),
            chance: Chance::new(options.seed ^ 0x9e0),
            able: cpus.marks(),
            platform,
            cpus,
            asids,
            options,
            form,
            next_mm: AtomicU64::new(1),
            next_cpu: AtomicUsize::new(0),
        }))
    }

    /// A file that processes can map. Nothing is read yet.
    pub fn open(&self, backing: Box<dyn Backing>) -> Arc<File> {
        Arc::new(File::new(self.frames.clone(), backing, self.keeps_dirty()))
    }

    /// Zeroes pages ahead until `count` are in stock, as a kernel does that has nothing else to do: a fault takes one from there. Answers how many
    /// are: fewer if there is no memory.
    pub fn stock_pages(&self, count: usize) -> usize {
        self.frames.stock(count)
    }

    /// How it was set up.
    pub fn options(&self) -> &KernelOptions {
        &self.options
    }

    /// The CPUs.
    pub fn cpus(&self) -> &Cores {
        &self.cpus
    }

    /// The platform.
    pub fn platform(&self) -> &Arc<LabPlatform> {
        &self.platform
    }

    /// The page size in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.options.granule.bytes()
    }

    pub(super) fn asids(&self) -> &AsidSpace<spin::Mutex<()>> {
        &self.asids
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(super) fn nameless_file(&self, len_bytes: u64) -> Arc<File> {
        Arc::new(File::nameless(self.frames.clone(), len_bytes, self.keeps_dirty()))
    }

    pub(super) fn new_mm(&self) -> MmId {
        MmId(self.next_mm.fetch_add(1, Relaxed))
    }

    /// The CPU on which the next process runs: each in its turn.
    pub(super) fn next_cpu(&self) -> usize {
        self.next_cpu.fetch_add(1, Relaxed) % self.running.len()
    }

    /// The first address after those that a process can have, but for some pages at the top that differ from process to process.
    pub(super) fn top_of_mappings(&self) -> u64 {
        let end = 1u64 << self.options.input_bits;
        let slack_pages = (end >> 8) / self.page_bytes();
        let slack = self.chance.below(usize::try_from(slack_pages).unwrap_or(usize::MAX)) as u64;
        end - (1 + slack) * self.page_bytes()
    }

    /// Runs `work` on a CPU that walks the table at `root`.
    pub(super) fn run_on<T>(&self, index: usize, root: Pa, tag: &Tag, work: impl FnOnce(&Core) -> T) -> T {
        let _turn = self.running[index].lock().unwrap_or_else(PoisonError::into_inner);
        let core = self.cpus.core(index);
        let activation = self.asids.activate(index, &tag.id).expect("processes run on CPUs that there are");
        tag.last.store(activation.asid, SeqCst);
        if activation.flush {
            core.forget_all();
        }
        let context = self.context(root, activation.asid);
        if core.context() != Some(context) {
            core.switch_to(Some(context));
        }
        // Known before it walks anything: who does not know of it yet has its stores seen by those walks. And not before it has PCIDs: whoever knows of it has it use them.
        self.started[index].store(true, SeqCst);
        work(&core)
    }

    /// Has every CPU forget what it holds under an ASID. `from` is the CPU that says so.
    pub(super) fn forget(&self, from: usize, tag: &Tag, what: Forget) {
        let started = self.started.iter().enumerate().filter(|(_, started)| started.load(SeqCst));
        self.cpus.forget(from, started.map(|(index, _)| index), tag.last.load(SeqCst), what);
    }

    /// No CPU translates by the table at `root` any more.
    pub(super) fn switch_away_from(&self, root: Pa) {
        let dying = self.context(root, 0);
        for (index, running) in self.running.iter().enumerate() {
            let _turn = running.lock().unwrap_or_else(PoisonError::into_inner);
            let core = self.cpus.core(index);
            if core.context().is_some_and(|context| context.has_table_of(&dying)) {
                core.switch_to(None);
            }
        }
    }

    /// What core is told of a table with this root.
    pub(super) fn process_table(&self, root: Pa) -> ProcessTable {
        self.form.process_table(&self.options, root)
    }

    /// The registers for a table with this root.
    pub(super) fn context(&self, root: Pa, asid: u16) -> CoreContext {
        self.form.context(&self.options, self.able, root, asid)
    }

    /// Whether entries say that their page is dirty.
    pub(super) fn keeps_dirty(&self) -> bool {
        self.options.hardware_update == HardwareUpdate::AccessAndDirty
    }

    /// Whether entries say that their page was accessed.
    pub(super) fn keeps_accessed(&self) -> bool {
        self.options.hardware_update != HardwareUpdate::None
    }
}
