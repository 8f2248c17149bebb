//! One SMMU as its domains see it: what they need to invalidate, and what outlives `Smmu`.
//!
//! Domains hold on to this, so that the last of them can still make the hardware forget it.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_types::SizeLg2;
use portcullis_types::trace::{Event, Value};

use crate::batch::Batch;
use crate::command_queue::CommandQueue;
use crate::config::Config;
use crate::event_queue::EventQueue;
use crate::features::Features;
use crate::ids::Ids;
use crate::table::TableFormat;

/// What is settled at probe and shared.
pub(crate) struct Hardware<P: Platform, R> {
    pub(crate) name: String,
    pub(crate) platform: Arc<P>,
    pub(crate) registers: Arc<R>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    /// Whether domains are stage 2.
    pub(crate) stage2: bool,
    /// The granule of page tables.
    pub(crate) granule: SizeLg2,
    pub(crate) format: TableFormat,
    pub(crate) commands: CommandQueue<P, R>,
    pub(crate) events: EventQueue<P>,
    pub(crate) asids: Lock<P, Ids>,
    pub(crate) vmids: Lock<P, Ids>,
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
        config: Config,
        features: Features,
        stage2: bool,
        granule: SizeLg2,
        format: TableFormat,
        commands: CommandQueue<P, R>,
        events: EventQueue<P>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            platform: commands.platform.clone(),
            registers: commands.registers.clone(),
            stage2,
            granule,
            format,
            commands,
            events,
            asids: Lock::<P, Ids>::new(Ids::new(features.asid_bits)),
            vmids: Lock::<P, Ids>::new(Ids::new(features.vmid_bits)),
            off: AtomicBool::new(false),
            features,
            config,
        }
    }

    /// Whether the SMMU's accesses and the CPUs' caches agree.
    pub(crate) fn coherent(&self) -> bool {
        self.commands.coherent
    }

    /// Whether ranges are invalidated by range.
    pub(crate) fn by_range(&self) -> bool {
        self.features.range_invalidation && self.config.range_invalidation
    }

    /// Queues the commands that `fill` adds, and a sync, and waits until all have completed.
    ///
    /// Hardware that has been turned off remembers nothing: then there is nothing to wait for.
    pub(crate) fn run(&self, fill: impl FnOnce(&mut Batch<'_, P, R>)) -> Result<(), SyncError> {
        if self.is_off() {
            return Ok(());
        }
        let mut batch = self.commands.batch();
        fill(&mut batch);
        let start_ns = self.platform.now_ns();
        let outcome = batch.sync();
        if self.platform.listening() {
            let word = if outcome.is_ok() { "complete" } else { "failed" };
            self.platform.event(&Event {
                source: "smmuv3",
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

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    pub(crate) fn turned_off(&self) {
        self.off.store(true, Ordering::Release);
    }
}
