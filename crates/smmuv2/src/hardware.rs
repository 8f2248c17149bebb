//! One SMMU as its domains see it: its registers, its context banks, and what outlives `Smmu`.
//!
//! Domains hold on to this, so that the last of them can still make the hardware forget it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_hal::{Lock, Platform, Registers};
use portcullis_paging::{Estate, Mappings};
use portcullis_pgtable::arm::{Stage1, Stage2};
use portcullis_types::SizeLg2;

use crate::bank::Banks;
use crate::config::Config;
use crate::counters::{Counters, Operation};
use crate::faults::Looks;
use crate::features::Features;
use crate::left::Left;
use crate::table::TableFormat;

/// What a domain maps.
pub(crate) type Mapped<P> = Mappings<<P as Platform>::Mutex, Stage1, Stage2>;

/// What is settled at probe and shared.
pub(crate) struct Hardware<P: Platform, R: Registers + 'static> {
    pub(crate) platform: Arc<P>,
    pub(crate) registers: R,
    pub(crate) features: Features,
    pub(crate) config: Config,
    /// Whether domains are stage 2. Those in which guests' tables are nested always are.
    pub(crate) stage2: bool,
    /// The granule of page tables.
    pub(crate) granule: SizeLg2,
    pub(crate) format: TableFormat,
    /// The format of domains in which guests' tables are nested; none if none can be.
    pub(crate) parents: Option<TableFormat>,
    pub(crate) counters: Counters,
    pub(crate) banks: Lock<P, Banks>,
    pub(crate) left: Estate<P::Mutex, Left<P>>,
    /// What the domains map that have banks, for faults that wait for an answer. Not the domains: faults may be taken in an interrupt, and whoever is the last to have a domain waits for the
    /// hardware to forget it.
    pub(crate) mapped: Lock<P, BTreeMap<usize, Arc<Mapped<P>>>>,
    /// Held by who syncs in a bank.
    pub(crate) bank_sync: Vec<Lock<P, ()>>,
    /// Held by who syncs globally.
    pub(crate) global_sync: Lock<P, ()>,
    /// Held by who takes faults out of registers.
    pub(crate) taking: Lock<P, Looks>,
    /// A sync did not end, and nobody has been told.
    pub(crate) hung: AtomicBool,
    /// The hardware has been turned off, and confirmed it: it reads no table any more.
    off: AtomicBool,
}

impl<P: Platform, R: Registers> fmt::Debug for Hardware<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hardware").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    pub(crate) fn new(
        platform: Arc<P>,
        registers: R,
        features: Features,
        config: Config,
        stage2: bool,
        granule: SizeLg2,
        format: TableFormat,
        parents: Option<TableFormat>,
    ) -> Self {
        Self {
            platform,
            registers,
            stage2,
            granule,
            format,
            parents,
            counters: Counters::new(),
            banks: Lock::<P, Banks>::new(Banks::new(&features)),
            left: Estate::default(),
            mapped: Lock::<P, _>::new(BTreeMap::new()),
            bank_sync: (0..features.banks).map(|_| Lock::<P, ()>::new(())).collect(),
            global_sync: Lock::<P, ()>::new(()),
            taking: Lock::<P, Looks>::new(Looks::default()),
            hung: AtomicBool::new(false),
            off: AtomicBool::new(false),
            features,
            config,
        }
    }

    /// Writes a register of Global Register Space 1.
    pub(crate) fn write_global1(&self, register: usize, value: u32) {
        self.registers.write32(self.features.frame.global1(register), value);
    }

    pub(crate) fn read_global1(&self, register: usize) -> u32 {
        self.registers.read32(self.features.frame.global1(register))
    }

    /// Writes a register of a context bank.
    pub(crate) fn write_bank(&self, bank: usize, register: usize, value: u32) {
        self.registers.write32(self.features.frame.bank(bank, register), value);
    }

    pub(crate) fn write_bank64(&self, bank: usize, register: usize, value: u64) {
        self.registers.write64(self.features.frame.bank(bank, register), value);
    }

    pub(crate) fn read_bank(&self, bank: usize, register: usize) -> u32 {
        self.registers.read32(self.features.frame.bank(bank, register))
    }

    pub(crate) fn read_bank64(&self, bank: usize, register: usize) -> u64 {
        self.registers.read64(self.features.frame.bank(bank, register))
    }

    pub(crate) fn count(&self, operation: Operation) {
        self.counters.count(operation);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    pub(crate) fn turned_off(&self) {
        self.off.store(true, Ordering::Release);
    }
}
