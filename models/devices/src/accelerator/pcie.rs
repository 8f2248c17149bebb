//! The PCIe form: translations in an ATC, pages by request.
//!
//! Spec: docs/accelerator.md, "When a page is not there", PCIe.

use core::fmt;
use std::sync::Arc;

use model_bus::{
    Clocked, Invalidation, Moved, PageResponse, Stall, StallState, Traffic, Unpredictable, Width,
};
use portcullis_types::trace::Sink;
use portcullis_types::{Iova, Pasid};

use super::engine::Engine;
use super::memory::Memory;
use super::registers::REGISTER_BYTES;
use super::{AcceleratorCounts, AcceleratorOptions};
use crate::pcie::{
    Access, Atc, AtcOptions, Ats, Bar, ConfigBuilder, ConfigSpace, DEVICE_CAPABILITIES_2, DEVICE_CONTROL,
    Function, INITIATE_RESET, Identity, PASSES_PREFIXES, PageRequests, Pages, PasidControl, Pasids, Refused,
    Requester, Ticket, express,
};

/// Class, vendor and device of the book.
const IDENTITY: Identity = Identity { vendor: 0x1234, device: 0x5a1f, revision: 0, class: 0x12_00_00 };

/// An accelerator on PCIe. Put it into a slot, and let the bus step it.
pub struct PcieAccelerator {
    config: Arc<ConfigSpace>,
    /// Where its PCI Express capability is; none for one on a conventional bus.
    express: Option<usize>,
    bar: [Bar; 1],
    ways: Arc<Ways>,
    engine: Engine,
}

/// What its accesses go through.
struct Ways {
    config: Arc<ConfigSpace>,
    requester: Arc<Requester>,
    atc: Atc,
    pages: Pages,
    pasids: PasidControl,
}

impl fmt::Debug for PcieAccelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcieAccelerator")
            .field("atc", &self.ways.atc)
            .field("pages", &self.ways.pages)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl PcieAccelerator {
    /// An accelerator, in no slot yet.
    ///
    /// # Panics
    ///
    /// If an option is outside what its description allows.
    pub fn new(options: &AcceleratorOptions, sink: Arc<dyn Sink>) -> Arc<Self> {
        options.check();
        let mut builder = ConfigBuilder::new(IDENTITY, 0);
        let bar = Bar { index: 0, size_bytes: REGISTER_BYTES, wide: true, prefetchable: false };
        bar.lay_out(&mut builder);
        let express = express(&mut builder, options.port);
        if let Some(at) = express {
            builder.set32(at + DEVICE_CAPABILITIES_2, PASSES_PREFIXES);
        }
        let global_invalidate = options.global_invalidate;
        let ats = Ats { queue_depth: 32, global_invalidate }.lay_out(&mut builder);
        let requests = PageRequests {
            capacity: options.page_requests,
            response_needs_pasid: options.response_needs_pasid,
        };
        let pri = requests.lay_out(&mut builder);
        let pasids =
            Pasids { width: options.pasid_bits, execute: false, privileged: false }.lay_out(&mut builder);
        let config = Arc::new(builder.build());
        let requester = Arc::new(Requester::new(config.clone()));
        let atc_options = AtcOptions {
            entries: options.atc_entries,
            seed: options.seed,
            global_invalidate,
            behaviour: options.behaviour,
        };
        let ways = Arc::new(Ways {
            atc: Atc::new(config.clone(), ats, requester.clone(), atc_options, sink.clone()),
            pages: Pages::new(config.clone(), pri, requester.clone(), sink.clone()),
            pasids: PasidControl::new(config.clone(), pasids, sink.clone()),
            config: config.clone(),
            requester,
        });
        let engine = Engine::new(options, Box::new(ways.clone()), sink);
        Arc::new(Self { config, express, bar: [bar], ways, engine })
    }

    /// Its ATC: what it did, and how it is to behave.
    pub fn atc(&self) -> &Atc {
        &self.ways.atc
    }

    /// Its page requests: what was sent and received, and how it is to behave.
    pub fn pages(&self) -> &Pages {
        &self.ways.pages
    }

    /// What software did with its PASIDs, its ATC and its page requests that the book forbids, since the last call.
    pub fn take_unpredictable(&self) -> Vec<Unpredictable> {
        let Ways { pasids, atc, pages, .. } = &*self.ways;
        [pasids.take_unpredictable(), atc.take_unpredictable(), pages.take_unpredictable()].concat()
    }

    /// What its jobs came to.
    pub fn counts(&self) -> AcceleratorCounts {
        self.engine.counts()
    }

    /// What has gone between it and memory since it was put into its slot.
    pub fn traffic(&self) -> Traffic {
        self.ways.requester.traffic()
    }

    /// The same in one address space.
    pub fn moved(&self, pasid: Pasid) -> Moved {
        self.ways.requester.moved(pasid)
    }
}

impl Memory for Arc<Ways> {
    fn ready(&self) -> bool {
        self.config.master_enabled()
    }

    fn read(&self, pasid: Option<Pasid>, at: Iova, into: &mut [u8]) -> Access {
        if self.pasids.allows(pasid) { self.atc.read(pasid, at, into) } else { Access::Failed }
    }

    fn write(&self, pasid: Option<Pasid>, at: Iova, from: &[u8]) -> Access {
        if self.pasids.allows(pasid) { self.atc.write(pasid, at, from) } else { Access::Failed }
    }

    fn request(&self, pasid: Option<Pasid>, pages: &[Iova], write: bool) -> Result<Ticket, Refused> {
        let most = self.pages.group_limit() as usize;
        let (first, behind) = pages.split_first().ok_or(Refused::Off)?;
        let behind = behind.iter().filter(|&&page| !self.atc.holds(pasid, page, write));
        let wanted: Vec<Iova> = core::iter::once(first).chain(behind).take(most).copied().collect();
        if wanted.is_empty() {
            return Err(Refused::Off);
        }
        self.pages.request(pasid, &wanted, write)
    }

    fn stalled(&self, stall: Stall, _: bool) -> StallState {
        self.requester.stalled(stall)
    }

    fn stop_marker(&self, pasid: Pasid) {
        if self.pasids.allows(Some(pasid)) {
            self.pages.stop_marker(pasid);
        }
    }

    fn note_retry(&self) {
        self.pages.note_retry();
    }

    fn step(&self) -> bool {
        self.atc.step()
    }
}

impl Function for PcieAccelerator {
    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn bars(&self) -> &[Bar] {
        &self.bar
    }

    fn read_bar(&self, _: usize, offset: u64, width: Width) -> u64 {
        self.engine.read_register(offset, width)
    }

    fn write_bar(&self, _: usize, offset: u64, width: Width, value: u64) {
        self.engine.write_register(offset, width, value);
    }

    fn requester(&self) -> Option<&Requester> {
        Some(&self.ways.requester)
    }

    fn config_written(&self, offset: usize) {
        let Some(control) = self.express.map(|at| at + DEVICE_CONTROL) else { return };
        if offset & !3 == control && self.config.read16(control) & INITIATE_RESET != 0 {
            self.reset();
            return;
        }
        self.ways.pasids.config_written(self.ways.atc.enabled());
        self.ways.atc.config_written();
        self.ways.pages.config_written();
    }

    fn invalidate(&self, message: &Invalidation) -> bool {
        self.ways.atc.invalidate(message)
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        self.ways.pages.response(message);
        true
    }

    fn reset(&self) {
        self.config.reset();
        self.ways.atc.reset();
        self.ways.pages.reset();
        self.ways.pasids.reset();
        self.engine.reset();
    }
}

impl Clocked for PcieAccelerator {
    fn step(&self, _: u64) -> bool {
        self.engine.step()
    }
}
