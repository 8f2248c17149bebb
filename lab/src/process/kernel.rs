//! What the processes of a machine have in common: CPUs, frames, ASIDs, and the shape of their tables.
//!
//! What a table's registers are is said beside its format (`pgtable::arm`), for CPUs and SMMUs alike.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::Chance;
use model_cpu::{Context, Cpu, Cpus, Tlbi};
use portcullis::core::asid::{AsidContext, AsidSpace, AsidSpaceError};
use portcullis::core::mm::{MmId, ProcessTable};
use portcullis::pgtable::BreakBeforeMake;
use portcullis::pgtable::arm::{Config, ConfigError, HardwareUpdate, MAIR, Stage1, ttbr};
use portcullis::types::{Pa, PageSizes, SizeLg2};

use super::file::{Backing, File};
use super::frame::Frames;
use crate::platform::LabPlatform;

/// How a kernel sets its processes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// The page size: 4, 16 or 64 KiB.
    pub granule: SizeLg2,
    /// Bits of an address in a process.
    pub input_bits: u8,
    /// Bits of a physical address at most: 32, 36, 40, 42, 44, 48 or 52.
    pub output_bits: u8,
    /// Large descriptors (TCR.DS): 52 bits with 4 and 16 KiB pages.
    pub large_descriptors: bool,
    /// ASIDs of 16 bits rather than 8 (TCR.AS).
    pub wide_asids: bool,
    /// Each process has a pair of ASIDs, and runs with the odd one (kernel page-table isolation).
    pub asid_pairs: bool,
    /// Which marks entries have that devices or CPUs set by themselves. It does not matter whether the CPUs can: what one cannot, the kernel does
    /// for it when it faults.
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
}

/// Why there is no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// Tables of this shape cannot be.
    Table(ConfigError),
    /// There are not enough ASIDs for so many CPUs.
    Asids(AsidSpaceError),
    /// There is no CPU.
    NoCpu,
}

/// Under which ASID a process's entries are.
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
    cpus: Arc<Cpus>,
    asids: AsidSpace<spin::Mutex<()>>,
    options: KernelOptions,
    format: Stage1,
    /// Which marks the CPUs set.
    able: HardwareUpdate,
    frames: Frames,
    /// By CPU: held by who runs on it.
    running: Vec<Mutex<()>>,
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
        cpus: Arc<Cpus>,
        options: KernelOptions,
    ) -> Result<Arc<Self>, KernelError> {
        let config = Config {
            input_bits: options.input_bits,
            output_bits: options.output_bits,
            large: options.large_descriptors,
            hardware_update: options.hardware_update,
            break_before_make: BreakBeforeMake::Always,
            page_sizes: PageSizes::default().with(options.granule),
            ..Config::new(options.granule)
        };
        let format = Stage1::new(config).map_err(KernelError::Table)?;
        if cpus.count() == 0 {
            return Err(KernelError::NoCpu);
        }
        let asid_bits = if options.wide_asids { 16 } else { 8 };
        let asids =
            AsidSpace::new(asid_bits, cpus.count(), options.asid_pairs).map_err(KernelError::Asids)?;
        Ok(Arc::new(Self {
            frames: Frames::new(platform.clone(), options.granule),
            running: (0..cpus.count()).map(|_| Mutex::default()).collect(),
            chance: Chance::new(options.seed ^ 0x9e0),
            able: marks_of(&cpus),
            platform,
            cpus,
            asids,
            options,
            format,
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
    pub fn cpus(&self) -> &Arc<Cpus> {
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

    pub(super) fn format(&self) -> Stage1 {
        self.format
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
    pub(super) fn run_on<T>(&self, index: usize, root: Pa, tag: &Tag, work: impl FnOnce(&Cpu) -> T) -> T {
        let _turn = self.running[index].lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = self.cpu(index);
        let activation = self.asids.activate(index, &tag.id).expect("processes run on CPUs that there are");
        tag.last.store(activation.asid, SeqCst);
        if activation.flush {
            cpu.tlbi_local(Tlbi::All);
            cpu.barrier();
        }
        let context = self.context(root, activation.asid);
        if cpu.context() != Some(context) {
            cpu.switch_to(Some(context));
        }
        work(&cpu)
    }

    /// No CPU translates by tables at `root` any more.
    pub(super) fn switch_away_from(&self, mut is_dying: impl FnMut(&Context) -> bool) {
        for (index, running) in self.running.iter().enumerate() {
            let _turn = running.lock().unwrap_or_else(PoisonError::into_inner);
            let cpu = self.cpu(index);
            if cpu.context().is_some_and(|context| is_dying(&context)) {
                cpu.switch_to(None);
            }
        }
    }

    pub(super) fn cpu(&self, index: usize) -> Cpu {
        self.cpus.cpu(index).expect("processes run on CPUs that there are")
    }

    /// What core is told of a table with this root.
    pub(super) fn process_table(&self, root: Pa) -> ProcessTable {
        ProcessTable::Vmsa64 {
            root,
            granule: self.options.granule,
            input_bits: self.options.input_bits,
            output_bits: self.options.output_bits,
            large_descriptors: self.options.large_descriptors,
            mair: MAIR,
        }
    }

    /// The registers for a table with this root.
    pub(super) fn context(&self, root: Pa, asid: u16) -> Context {
        let ttbr0 = ttbr(root, self.format.wide()) | u64::from(asid) << 48;
        let tcr = self.format.tcr(self.able) | u64::from(self.options.wide_asids) << 36;
        Context { ttbr0, tcr, mair: MAIR }
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

/// Which marks all CPUs can set. Where one cannot, none does: a process may run on any.
pub(crate) fn marks_of(cpus: &Arc<Cpus>) -> HardwareUpdate {
    let each = (0..cpus.count()).filter_map(|index| cpus.cpu(index)).map(|cpu| {
        match cpu.features().hardware_update {
            model_cpu::HardwareUpdate::None => HardwareUpdate::None,
            model_cpu::HardwareUpdate::Access => HardwareUpdate::Access,
            model_cpu::HardwareUpdate::AccessAndDirty => HardwareUpdate::AccessAndDirty,
        }
    });
    each.min().unwrap_or_default()
}
