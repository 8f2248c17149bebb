//! One unit as its domains see it: what they need to invalidate, and what outlives `Vtd`.
//!
//! # Global commands
//!
//! GCMD_REG takes one change at a time, with everything else as GSTS_REG says it is, and the next only when the last shows in GSTS_REG. `commanding` is held
//! over that.
//!
//! Spec: VT-d 5.10, 11.4.4.1 "Global Command Register", 6.8 "Write Buffer Flushing".

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::iommu::SyncError;
use portcullis_core::iopf::Unsent;
use portcullis_hal::{Lock, Platform, Registers, wait_for};
use portcullis_paging::{Estate, Ids};
use portcullis_spec::vtd::registers::{GCMD, GSTS, GlobalStatus, ONE_SHOT};
use portcullis_types::Pa;
use portcullis_types::trace::{Event, Value};

use crate::atc::Atcs;
use crate::config::Config;
use crate::counters::Counters;
use crate::descriptor::Descriptor;
use crate::features::Features;
use crate::left::Left;
use crate::page_requests::PageRequestQueue;
use crate::queue::Queue;
use crate::sharing::Askers;
use crate::table::TableFormat;

/// What is settled at probe and shared.
pub(crate) struct Hardware<P: Platform, R> {
    pub(crate) name: String,
    pub(crate) platform: Arc<P>,
    pub(crate) registers: Arc<R>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    pub(crate) format: TableFormat,
    pub(crate) queue: Queue<P, R>,
    pub(crate) ids: Lock<P, Ids>,
    pub(crate) left: Estate<P::Mutex, Left<P>>,
    /// There is one only where processes are shared.
    pub(crate) page_requests: Option<PageRequestQueue<P>>,
    pub(crate) askers: Lock<P, Askers>,
    pub(crate) unsent: Unsent<P::Mutex>,
    pub(crate) atcs: Lock<P, Atcs>,
    commanding: Lock<P, ()>,
    /// The root table leads nowhere, and the hardware has confirmed that it knows nothing else any more.
    pub(crate) emptied: AtomicBool,
    /// The hardware has been turned off, and confirmed it: it reads no table any more.
    off: AtomicBool,
}

impl<P: Platform, R> fmt::Debug for Hardware<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hardware").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    pub(crate) fn new(
        platform: Arc<P>,
        registers: Arc<R>,
        features: Features,
        config: Config,
        format: TableFormat,
        queue: Queue<P, R>,
        page_requests: Option<PageRequestQueue<P>>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            format,
            queue,
            ids: Lock::<P, Ids>::new(Ids::new(features.domain_id_bits)),
            left: Estate::default(),
            page_requests,
            askers: Lock::<P, Askers>::new(Askers::new()),
            unsent: Unsent::new(),
            atcs: Lock::<P, Atcs>::new(Atcs::default()),
            commanding: Lock::<P, ()>::new(()),
            emptied: AtomicBool::new(false),
            off: AtomicBool::new(false),
            platform,
            registers,
            features,
            config,
        }
    }

    /// Sends descriptors, and waits until all have completed. Hardware that has been turned off remembers nothing: then there is nothing to wait for.
    pub(crate) fn run(&self, descriptors: &[Descriptor]) -> Result<(), SyncError> {
        self.run_and_drain(descriptors, false)
    }

    /// The same; if `drain`, also until the page requests that had been received are in their queue.
    ///
    /// Spec: VT-d 5.10, 11.4.3 "Extended Capability Register", PDS.
    pub(crate) fn run_and_drain(&self, descriptors: &[Descriptor], drain: bool) -> Result<(), SyncError> {
        if self.is_off() || descriptors.is_empty() && !drain {
            return Ok(());
        }
        let start_ns = self.platform.now_ns();
        let outcome = self.queue.run(descriptors, drain && self.features.extended.pds());
        if self.platform.listening() {
            let word = if outcome.is_ok() { "complete" } else { "failed" };
            self.platform.event(&Event {
                source: "vtd",
                name: "sync",
                fields: &[
                    ("outcome", Value::Str(word)),
                    ("ns", Value::Dec(self.platform.now_ns().saturating_sub(start_ns))),
                ],
            });
        }
        // Turned off while we waited: what was to be forgotten is.
        if self.is_off() { Ok(()) } else { outcome }
    }

    /// After entries were stored that were not present before: they are visible to hardware on return. `forget` is what a unit that caches what is not
    /// present has to forget: nothing, after a change that it never caches.
    ///
    /// Spec: VT-d 5.10, 6.1 "Caching Mode", 6.8 "Write Buffer Flushing": an invalidation flushes the write buffer as well.
    pub(crate) fn show(&self, forget: &[Descriptor]) -> Result<(), SyncError> {
        if self.features.caching_mode() && !forget.is_empty() {
            self.run(forget)
        } else if self.features.capability.rwbf() {
            self.flush_write_buffer()
        } else {
            Ok(())
        }
    }

    pub(crate) fn flush_write_buffer(&self) -> Result<(), SyncError> {
        if self.is_off() {
            return Ok(());
        }
        Counters::add(&self.queue.counters.write_buffer_flushes);
        let flush = GlobalStatus::new().with_wbfs(true);
        // Ready when the bit is clear again.
        let flushed = self.command(flush, GlobalStatus::new(), |status| !status.wbfs());
        flushed.map_err(|last| SyncError::Timeout { waiting_for: "GSTS_REG.WBFS", last: last.into() })
    }

    /// Changes GCMD_REG by `set` and `clear`, whose bits lie as in GSTS_REG, and waits until `ready`. On failure, what GSTS_REG said last.
    pub(crate) fn command(
        &self,
        set: GlobalStatus,
        clear: GlobalStatus,
        ready: impl Fn(GlobalStatus) -> bool,
    ) -> Result<(), u32> {
        let _one_at_a_time = self.commanding.lock();
        command(&*self.platform, &*self.registers, self.config.wait_limit_ns, set, clear, ready)
    }

    /// Stores words of one of the unit's own tables, the first last and behind a barrier, so that hardware never sees its present bit with what was there
    /// before.
    pub(crate) fn store_entry(&self, at: Pa, words: &[u64]) {
        for (offset, &word) in (0u64..).step_by(8).zip(words).skip(1) {
            self.platform.store(Pa::new(at.get() + offset), word);
        }
        self.clean(at, words.len());
        self.platform.write_barrier();
        self.store_word(at, words[0]);
    }

    /// Stores one word of one of the unit's own tables, visible behind what comes after.
    pub(crate) fn store_word(&self, at: Pa, word: u64) {
        self.platform.store(at, word);
        self.clean(at, 1);
        self.platform.write_barrier();
    }

    pub(crate) fn clean(&self, at: Pa, words: usize) {
        if !self.features.coherent {
            self.platform.clean_table(at, 8 * words as u64);
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    pub(crate) fn turned_off(&self) {
        self.off.store(true, Ordering::Release);
    }
}

/// As [`Hardware::command`], where nobody else can be commanding.
pub(crate) fn command(
    clock: &impl portcullis_hal::Clock,
    registers: &impl Registers,
    limit_ns: u64,
    set: GlobalStatus,
    clear: GlobalStatus,
    ready: impl Fn(GlobalStatus) -> bool,
) -> Result<(), u32> {
    let status = || registers.read32(GSTS);
    registers.write32(GCMD, status() & !ONE_SHOT & !clear.into_bits() | set.into_bits());
    let mut last = 0;
    let waited = wait_for(clock, limit_ns, || {
        last = status();
        ready(GlobalStatus::from_bits(last)).then_some(())
    });
    waited.map_err(|_| last)
}
