//! One SMMU as its domains see it: what they need to invalidate, and what outlives `Smmu`.
//!
//! Domains hold on to this, so that the last of them can still make the hardware forget it.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::iommu::SyncError;
use portcullis_core::iopf::Unsent;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_paging::{Estate, Ids};
use portcullis_spec::smmuv3::command::{Command, TlbiTarget};
use portcullis_types::SizeLg2;
use portcullis_types::trace::{Event, Value};

use crate::asids::Asids;
use crate::batch::Batch;
use crate::command_queue::CommandQueue;
use crate::config::Config;
use crate::context::{ContextShape, ContextTable};
use crate::entry::World;
use crate::event_queue::EventQueue;
use crate::features::Features;
use crate::left::Left;
use crate::page_requests::PageRequestQueue;
use crate::stalls::Stalls;
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
    /// There is one only where processes are shared and the hardware has page requests.
    pub(crate) page_requests: Option<PageRequestQueue<P>>,
    pub(crate) stalls: Stalls<P>,
    pub(crate) unsent: Unsent<P::Mutex>,
    pub(crate) asids: Lock<P, Asids>,
    pub(crate) vmids: Lock<P, Ids>,
    pub(crate) left: Estate<P::Mutex, Left<P>>,
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
        page_requests: Option<PageRequestQueue<P>>,
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
            page_requests,
            stalls: Stalls::new(features.stall_max.into()),
            unsent: Unsent::new(),
            asids: Lock::<P, Asids>::new(Asids::new(features.asid_bits)),
            vmids: Lock::<P, Ids>::new(Ids::new(features.vmid_bits)),
            left: Estate::default(),
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

    /// Whether the streams' world is EL2-E2H: their TLB entries are tagged as those of the CPUs are, whose kernel runs there.
    ///
    /// Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", STRW; 6.3.12 "SMMU_CR2", E2H.
    pub(crate) fn e2h(&self) -> bool {
        let there = self.features.hyp && self.features.stage1 && !self.stage2;
        there && self.config.cpus.is_some_and(|cpus| cpus.vhe)
    }

    /// Whether the SMMU hears what CPUs broadcast, in a way that means the same to both.
    pub(crate) fn hears_broadcasts(&self) -> bool {
        let wanted = self.config.broadcast && self.features.broadcast && self.coherent() && !self.stage2;
        wanted && self.config.cpus.is_some_and(|cpus| cpus.broadcast && cpus.vhe == self.e2h())
    }

    /// What stage 1 entries of this SMMU have in common.
    pub(crate) fn world(&self) -> World<'_> {
        World { features: &self.features, coherent: self.coherent(), e2h: self.e2h() }
    }

    /// The shape of a table of contexts for so many bits of SubstreamID, or for as many as the configuration says.
    pub(crate) fn context_shape(&self, substream_bits: Option<u8>) -> ContextShape {
        let bits = substream_bits.unwrap_or(self.config.substream_bits).min(self.features.substream_bits);
        ContextShape::choose(bits, self.config.context_table, self.features.two_level_contexts)
    }

    /// An empty table of contexts; none if there is no memory that the hardware reaches.
    pub(crate) fn new_contexts(&self, shape: ContextShape) -> Option<ContextTable<P>> {
        ContextTable::new(self.platform.clone(), self.features.output_bits, shape, self.coherent())
    }

    /// The command that makes the TLB forget an ASID.
    pub(crate) fn forget_asid(&self, asid: u16) -> Command {
        if self.e2h() { Command::tlbi_el2_asid(asid) } else { Command::tlbi_nh_asid(0, asid) }
    }

    /// The command that makes the TLB forget what a domain's entries are tagged with.
    pub(crate) fn forget_tag(&self, id: u16) -> Command {
        if self.stage2 { Command::tlbi_s12_vmall(id) } else { self.forget_asid(id) }
    }

    /// The command that makes the TLB forget addresses of an ASID.
    pub(crate) fn forget_va(&self, asid: u16, target: TlbiTarget) -> Command {
        if self.e2h() { Command::tlbi_el2_va(asid, target) } else { Command::tlbi_nh_va(0, asid, target) }
    }

    /// An id for a new domain's entries in TLBs: an ASID, or a VMID if domains are stage 2.
    pub(crate) fn take_tag(&self) -> Option<u16> {
        if self.stage2 { self.vmids.lock().take() } else { self.asids.lock().take() }
    }

    /// Gives an id back that the hardware has forgotten.
    pub(crate) fn give_tag_back(&self, id: u16) {
        if self.stage2 {
            self.vmids.lock().give_back(id);
        } else {
            self.asids.lock().give_back(id);
        }
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
