//! IOMMUs of a simulated machine from all sides: what one is made of ([`Parts`]), its model ([`Iron`]), its driver ([`Driver`]).
//!
//! Whoever lives on a machine asks these, and knows no vendor.
//!
//! | file | what |
//! |---|---|
//! | `smmuv3`, `smmuv2` | Arm's |
//! | `vtd` | Intel's |
//!
//! Not here: what goes wrong on the way to one (`fault`), POWER8's bridge (`power`), whose users see more of it.

mod smmuv2;
mod smmuv3;
mod vtd;

use core::fmt::Debug;
use core::panic::RefUnwindSafe;
use std::sync::{Arc, Mutex};

use model_bus::{Bus, Clocked, Doorbell, Mmio, Request, Translator, Unpredictable};
use portcullis::core::iommu::{Iommu, SyncError};
use portcullis::core::sva::CpuFacts;
use portcullis::types::{Pa, PaRange, SizeLg2, SourceId};
use portcullis::vtd::InterruptRemapping;

use super::platform::{SimPlatform, SimRegisters};
use super::spec::Draw;
use crate::fault::Tap;
use crate::hub::{Hub, locked};
use crate::oracle::tables::{Tables, Tagged, Way as Found};

pub(super) use smmuv2::Frame;

/// What an access would meet if hardware looked now and had nothing cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It would be let through to this address.
    Allowed(Pa),
    /// It would be refused, as somebody may have wanted it.
    Refused,
    /// It would meet what nobody can have wanted: this fault.
    Mixed(String),
}

/// A bit of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bit {
    pub(crate) at: u64,
    pub(crate) bit: u32,
}

/// Bits of an address at which no machine has memory.
pub(crate) const FAR: core::ops::Range<u32> = 36..48;

/// Bits of a word.
pub(crate) fn bits_of(at: u64, bits: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Bit> {
    bits.into_iter().map(move |bit| Bit { at, bit })
}

/// What every model is: it translates devices' accesses, has registers, and does something as time passes.
pub(crate) trait Model: Translator + Mmio + Clocked {}

impl<T: Translator + Mmio + Clocked> Model for T {}

/// A model, and what its vendor knows of it.
pub(crate) trait Iron: Send + Sync {
    /// The model.
    fn model(&self) -> Arc<dyn Model>;
    /// What an access would meet.
    fn sight(&self, at: &Place<'_>, request: &Request) -> Sight;
    /// Where the entry of a source leads, as an audit reads it.
    fn way(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Found;
    /// Bits of a source's entry that can flip: validity, kind, pointers.
    fn entry_bits(&self, _at: &Place<'_>, _source: SourceId, _tables: &Tables<'_>) -> Vec<Bit> {
        Vec::new()
    }
    /// The same of the word that leads to a source's entry, and to those of its neighbours.
    fn outer_bits(&self, _at: &Place<'_>, _source: SourceId) -> Vec<Bit> {
        Vec::new()
    }
    /// The same of what an entry leads to, before the page table; and whether that is the device's own.
    fn inner_bits(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> (Vec<Bit>, bool) {
        (self.entry_bits(at, source, tables), true)
    }
    /// The PASIDs of an entry, but that of requests without one, that mean something: each with where its table is, unless it is closed.
    fn contexts(&self, _at: &Place<'_>, _entry: Pa, _tables: &Tables<'_>) -> Vec<(u32, Option<u64>)> {
        Vec::new()
    }
    /// By what a source's entries in the TLB are told apart, with the tables that they are of.
    fn tags(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Vec<Tagged>;
    /// What software did against the book since the last call.
    fn take_unpredictable(&self) -> Vec<Unpredictable>;
    /// Whether something on that list may be there although no driver is wrong: `tap` has done it, or (`doubted`) hardware has ever not confirmed something.
    fn is_excused(&self, one: &Unpredictable, tap: &dyn Tap, doubted: bool) -> bool;
    /// Fault records that were lost.
    fn events_lost(&self) -> u64;
    /// Page requests that were lost.
    fn page_requests_lost(&self) -> u64 {
        0
    }
    /// Who takes devices' messages, where an IOMMU does.
    fn bell(&self) -> Option<Arc<dyn Doorbell>> {
        None
    }
}

/// Where a unit is.
pub(crate) struct Place<'a> {
    pub(crate) hub: &'a Hub,
    /// Its number.
    pub(crate) unit: usize,
    /// Where its registers are.
    pub(crate) registers: u64,
}

impl Place<'_> {
    fn bus(&self) -> &Bus {
        &self.hub.bus
    }
}

/// A table that says what devices' messages mean.
pub(crate) type Remapping = InterruptRemapping<SimPlatform, SimRegisters>;

/// A driver.
pub(crate) trait Driver: Iommu<SimPlatform> {
    /// Turns the hardware off.
    fn teardown(&self) -> Result<(), SyncError>;
    /// How interrupts are remapped; none if they are not.
    fn remapping(&self) -> Option<&Remapping> {
        None
    }
}

/// A driver that is probed.
pub(crate) struct Probe {
    pub(crate) platform: Arc<SimPlatform>,
    pub(crate) registers: SimRegisters,
    /// What the CPUs do with page tables, where processes share theirs.
    pub(crate) cpus: Option<CpuFacts>,
    /// The longest wait for the hardware.
    pub(crate) wait_limit_ns: u64,
}

/// The turns of a model that is on the bus for a while only.
#[derive(Default)]
pub(crate) struct Guest(Mutex<Option<Arc<dyn Clocked>>>);

impl Guest {
    /// From now on `model` has a turn in every step; or nobody.
    pub(crate) fn is(&self, model: Option<Arc<dyn Clocked>>) {
        *locked(&self.0) = model;
    }
}

impl Clocked for Guest {
    fn step(&self, now_ns: u64) -> bool {
        let model = locked(&self.0).clone();
        model.is_some_and(|model| model.step(now_ns))
    }

    fn is_idle(&self) -> bool {
        locked(&self.0).as_ref().is_none_or(|model| model.is_idle())
    }
}

/// What an IOMMU is made of.
pub(crate) trait Parts: Debug + Send + Sync + RefUnwindSafe {
    /// Bytes of its registers.
    fn window_bytes(&self) -> u64;
    /// Its model. `coherent`: tables are read through the CPUs' caches.
    fn build(&self, hub: &Arc<Hub>, coherent: bool, seed: u64) -> Arc<dyn Iron>;
    /// Its driver.
    ///
    /// # Errors
    ///
    /// In the driver's words.
    fn probe(&self, with: Probe) -> Result<Arc<dyn Driver>, String>;
    /// What stands between the two; `registers` says where.
    fn tap(&self, registers: u64) -> Box<dyn Tap>;
    /// How a device names its sources to core.
    fn named(&self, sources: &[SourceId]) -> Vec<SourceId> {
        sources.to_vec()
    }
    /// Addresses that are interrupts and no memory.
    fn interrupts(&self) -> Option<(u64, u64)> {
        None
    }
    /// Whether a response to a page request has the PASID of the request, so that devices must take one there.
    fn responds_with_pasids(&self) -> bool {
        false
    }
    /// Blocks of memory that stay where they are once it is turned off, because it goes on reading there.
    fn keeps(&self) -> usize {
        0
    }
    /// Whether sources may have ten bits, so that several tables have the entries of a machine.
    fn spreads(&self) -> bool {
        false
    }
    /// A source that no table has room for.
    fn no_source(&self) -> SourceId {
        SourceId(1 << 24)
    }
}

/// An SMMUv3.
pub(super) fn smmuv3(
    draw: &Draw,
    index: usize,
    granule: SizeLg2,
    coherent: bool,
    shared: bool,
) -> Arc<dyn Parts> {
    Arc::new(smmuv3::draw(draw, index, granule, coherent, shared))
}

/// An SMMUv2 in a frame of registers that all of its machine have.
pub(super) fn smmuv2(
    draw: &Draw,
    index: usize,
    granule: SizeLg2,
    coherent: bool,
    frame: Frame,
) -> Arc<dyn Parts> {
    Arc::new(smmuv2::draw(draw, index, granule, coherent, frame))
}

/// A VT-d unit.
pub(super) fn vtd(draw: &Draw, index: usize, coherent: bool, shared: bool) -> Arc<dyn Parts> {
    Arc::new(vtd::draw(draw, index, coherent, shared))
}

/// A window of registers.
pub(crate) fn window(registers: u64, bytes: u64) -> PaRange {
    PaRange::new(Pa::new(registers), bytes).expect("registers do not wrap")
}
