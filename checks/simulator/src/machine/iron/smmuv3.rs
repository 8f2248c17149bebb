//! An SMMUv3 of a simulated machine.

use std::sync::Arc;

use model_bus::{Fabric, Request, Unpredictable};
use model_smmuv3::{Config as ModelConfig, Outlook, Policy, Smmu as Model, StallModel};
use portcullis::core::iommu::SyncError;
use portcullis::smmuv3::{Completion, Config as DriverConfig, Smmu, Stage, TableShape};
use portcullis::types::{Pa, SizeLg2, SourceId};
use portcullis_lab::trace;

use super::{Bit, Driver, FAR, Iron, Parts, Place, Probe, Sight, bits_of};
use crate::fault::{CommandTap, Tap};
use crate::hub::Hub;
use crate::machine::platform::{SimPlatform, SimRegisters};
use crate::machine::spec::Draw;
use crate::machine::wire::Wire;
use crate::oracle::tables::{Tables, Tagged, Way as Found};

/// What one is made of.
#[derive(Clone, Debug)]
pub(super) struct Smmuv3 {
    model: ModelConfig,
    driver: DriverConfig,
}

/// Draws one. `shared`: processes share their memory with devices.
pub(super) fn draw(draw: &Draw, index: usize, granule: SizeLg2, coherent: bool, shared: bool) -> Smmuv3 {
    let policy = draw.of(&[Policy::stale(), Policy::stale(), Policy::eager(), Policy::hostile()]);
    let mut model = ModelConfig { policy, stream_id_bits: 8, command_queue_lg2: 8, ..ModelConfig::default() };
    let stages = draw.of(&[(true, true), (true, true), (true, false), (false, true)]);
    (model.stage1, model.stage2) = if shared { (true, true) } else { stages };
    model.two_level_contexts &= model.stage1;
    model.asid_16_bits = draw.once_in(2);
    model.vmid_16_bits = draw.once_in(2);
    model.range_invalidation = draw.once_in(2);
    model.break_before_make_level = draw.of(&[0, 1, 2, 2]);
    model.msi = draw.once_in(2);
    model.two_level_streams = draw.once_in(2);
    if model.two_level_streams && !shared {
        // More than one table of the second level has entries for.
        model.stream_id_bits = 10;
    }
    model.event_queue_lg2 = draw.of(&[3, 5, 7]);
    if shared {
        model.substream_id_bits = 16;
        (model.ats, model.pri) = (true, true);
        model.page_queue_lg2 = draw.of(&[3, 5, 7]);
        model.stall = StallModel::Configurable;
        model.asid_16_bits = true;
    }
    let mut driver = DriverConfig::new(format!("smmu{index}"));
    driver.granule = Some(granule);
    driver.stage = if shared { Stage::One } else { draw.of(&[Stage::Auto, Stage::Auto, Stage::Two]) };
    if !model.stage2 {
        driver.stage = Stage::Auto;
    }
    driver.completion = draw.of(&[Completion::Auto, Completion::Poll]);
    driver.stream_table = draw.of(&[TableShape::Auto, TableShape::Linear, TableShape::TwoLevel]);
    driver.command_queue_lg2 = draw.of(&[3, 5, 8]);
    driver.event_queue_lg2 = draw.of(&[3, 7]);
    driver.range_invalidation = draw.once_in(2);
    (model.coherent, driver.coherent) = (coherent, coherent);
    Smmuv3 { model, driver }
}

impl Parts for Smmuv3 {
    fn window_bytes(&self) -> u64 {
        0x2_0000
    }

    fn build(&self, hub: &Arc<Hub>, coherent: bool, seed: u64) -> Arc<dyn Iron> {
        let fabric: Arc<dyn Fabric> = Arc::new(Wire::new(hub.bus.clone(), hub.clone(), coherent));
        Arc::new(Hardware(Arc::new(Model::new(self.model.clone(), fabric, seed, trace::shared(None)))))
    }

    fn probe(&self, with: Probe) -> Result<Arc<dyn Driver>, String> {
        let mut config = self.driver.clone();
        (config.cpus, config.wait_limit_ns) = (with.cpus, with.wait_limit_ns);
        let driver = Smmu::probe(with.platform, with.registers, config);
        Ok(driver.map_err(|error| format!("{error:?}"))?)
    }

    fn tap(&self, registers: u64) -> Box<dyn Tap> {
        Box::new(CommandTap::new(registers))
    }

    fn spreads(&self) -> bool {
        self.model.stream_id_bits >= 10
    }
}

impl Driver for Smmu<SimPlatform, SimRegisters> {
    fn teardown(&self) -> Result<(), SyncError> {
        Self::teardown(self)
    }
}

/// V and Config, pointers, S1DSS, EATS, S2T0SZ and S2SL0. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
fn of_entry(entry: u64, second: bool) -> Vec<Bit> {
    let both = bits_of(entry, 0..4).chain(bits_of(entry + 8, [0, 1, 28, 29]));
    match second {
        true => both.chain(bits_of(entry + 16, 32..40)).chain(bits_of(entry + 24, FAR)).collect(),
        false => both.chain(bits_of(entry, FAR)).collect(),
    }
}

/// L2Ptr, and bits of Span that are set: with more of them entries would be read where other memory is. Spec: SMMUv3 H.a, 5.1 "L1STD, Level 1 Stream Table
/// Descriptor".
fn of_descriptor(descriptor: u64, word: u64) -> Vec<Bit> {
    bits_of(descriptor, (0..5).filter(|&bit| word >> bit & 1 == 1)).chain(bits_of(descriptor, FAR)).collect()
}

/// EPD0, EPD1, V, AA64, R, and TTB0. Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
fn of_context(cd: u64) -> Vec<Bit> {
    bits_of(cd, [14, 30, 31, 41, 45]).chain(bits_of(cd + 8, FAR)).collect()
}

struct Hardware(Arc<Model>);

impl Iron for Hardware {
    fn model(&self) -> Arc<dyn super::Model> {
        self.0.clone()
    }

    fn sight(&self, at: &Place<'_>, request: &Request) -> Sight {
        let kind = match self.0.outlook(request) {
            Outlook::Allowed(pa) => return Sight::Allowed(pa),
            Outlook::Refused(None) => return Sight::Refused,
            Outlook::Refused(Some(kind)) => kind.name(),
        };
        let mixed = matches!(kind, "C_BAD_STE" | "C_BAD_CD" | "F_STE_FETCH" | "F_CD_FETCH" | "F_WALK_EABT");
        // An entry that does not say that it is valid ends every access on purpose.
        if mixed && at.hub.entry_is_valid(at.unit, request.source.0) {
            Sight::Mixed(kind.into())
        } else {
            Sight::Refused
        }
    }

    fn way(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Found {
        at.hub.entry_of(at.unit, source.0).map_or(Found::Nowhere, |entry| tables.stream(entry))
    }

    fn entry_bits(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Vec<Bit> {
        let Some(entry) = at.hub.entry_of(at.unit, source.0) else { return Vec::new() };
        of_entry(entry.get(), matches!(tables.stream(entry), Found::Through(root) if root.second))
    }

    fn outer_bits(&self, at: &Place<'_>, source: SourceId) -> Vec<Bit> {
        let Some(descriptor) = at.hub.descriptor_of(at.unit, source.0) else { return Vec::new() };
        let word = at.bus().cpu().ram().load(descriptor).unwrap_or(0);
        of_descriptor(descriptor.get(), word)
    }

    fn inner_bits(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> (Vec<Bit>, bool) {
        let entry = at.hub.entry_of(at.unit, source.0);
        match entry.and_then(|entry| tables.context_of(entry)) {
            Some(cd) => (of_context(cd), false),
            None => (self.entry_bits(at, source, tables), true),
        }
    }

    fn contexts(&self, _: &Place<'_>, entry: Pa, tables: &Tables<'_>) -> Vec<(u32, Option<u64>)> {
        tables.contexts(entry)
    }

    fn tags(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Vec<Tagged> {
        at.hub.entry_of(at.unit, source.0).map_or(Vec::new(), |entry| tables.tags(entry))
    }

    fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.0.take_unpredictable()
    }

    /// A command that was falsified on its way is not the driver's; and an entry whose invalidation hardware did not confirm has to be closed all the same.
    fn is_excused(&self, one: &Unpredictable, tap: &dyn Tap, doubted: bool) -> bool {
        let closed = doubted && one.clause.contains("changed in more than one word");
        closed || one.clause.contains("CERROR_ILL") && tap.has_falsified(&one.detail)
    }

    fn events_lost(&self) -> u64 {
        self.0.events_lost()
    }

    fn page_requests_lost(&self) -> u64 {
        self.0.page_requests_lost()
    }
}
