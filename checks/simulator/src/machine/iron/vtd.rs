//! A VT-d unit of a simulated machine.

use std::sync::Arc;

use model_bus::{Doorbell, Request, Unpredictable, Width};
use model_vtd::{
    Config as ModelConfig, Interrupt, Interrupts, Memory, Outlook, Policy, Reason, Scalable, Vtd as Model,
};
use portcullis::core::iommu::SyncError;
use portcullis::types::{Pa, SourceId};
use portcullis::vtd::{Config as DriverConfig, InterruptConfig, Mode, Msi, Vtd};
use portcullis_lab::trace;

use super::{Bit, Driver, FAR, Iron, Parts, Place, Probe, Remapping, Sight, bits_of};
use crate::fault::{DescriptorTap, FaultKind, Tap};
use crate::hub::Hub;
use crate::machine::platform::{SimPlatform, SimRegisters};
use crate::machine::spec::Draw;
use crate::oracle::Raised;
use crate::oracle::tables::{Tables, Tagged, Way as Found};

/// The range of addresses that are interrupts. Spec: VT-d 5.10, 3.15 "Handling Requests to Interrupt Address Range".
const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// GSTS_REG, and TES in it.
const STATUS: u64 = 0x1c;
const TRANSLATES: u64 = 1 << 31;
/// RTADDR_REG.
const ROOT_TABLE: u64 = 0x20;

/// Interrupts that a unit remaps, as log2: few, so that all may be taken.
const ENTRIES_LG2: u8 = 8;

/// What one is made of.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    model: ModelConfig,
    driver: DriverConfig,
}

/// Draws one. `shared`: processes share their memory with devices.
pub(super) fn draw(draw: &Draw, index: usize, coherent: bool, shared: bool) -> Unit {
    let mut model = draw.of(&[ModelConfig::default(), ModelConfig::legacy()]);
    if shared {
        model = ModelConfig::default();
    }
    model.policy = draw.of(&[Policy::stale(), Policy::stale(), Policy::eager(), Policy::hostile()]);
    model.coherent = coherent;
    if let Some(mode) = &mut model.scalable {
        let full = Scalable { coherent_walks: coherent, ..Scalable::full() };
        let second = Scalable { first_stage: false, rid_pasid: false, pasid_bits: None, ..full };
        *mode = if shared {
            draw.of(&[full, Scalable { second_stage: false, ..full }])
        } else {
            draw.of(&[full, full, second])
        };
    }
    model.caching_mode = draw.once_in(3);
    model.write_buffers = draw.once_in(3);
    model.domain_bits = draw.of(&[16, 8]);
    model.page_selective = draw.of(&[Some(18), Some(9), None]);
    model.fault_records = draw.of(&[1, 2, 8]);
    model.version = draw.of(&[(1, 0), (5, 0), (6, 0)]);
    model.drains = draw.once_in(2);
    model.root_invalidates = draw.once_in(2);
    model.depths.five = draw.once_in(2);
    (model.pages_2m, model.pages_1g) = draw.of(&[(true, true), (true, false), (false, false)]);
    model.pass_through = draw.once_in(2);
    model.snoop_control = draw.once_in(2);
    model.zero_length_reads = draw.once_in(2);
    model.interrupt_remapping = !draw.once_in(8);
    model.interrupt_table_invalidates = draw.once_in(2);
    model.wide_apic_ids = draw.once_in(2);
    model.index_mask = draw.of(&[15, 3, 0]);
    let mut driver = DriverConfig::new(format!("dmar{index}"));
    driver.host_address_bits = model.host_bits;
    driver.mode = if shared { Mode::Auto } else { draw.of(&[Mode::Auto, Mode::Auto, Mode::Legacy]) };
    driver.page_selective = !draw.once_in(4);
    driver.queue_lg2 = draw.of(&[7, 8]);
    driver.input_bits = draw.of(&[None, Some(39), Some(48)]);
    let msi = Msi { address: INTERRUPTS.0, fault_data: 0x41, page_request_data: 0x42 };
    driver.msi = draw.once_in(2).then_some(msi);
    let x2apic = model.wide_apic_ids && draw.once_in(2);
    driver.interrupts = (!draw.once_in(8)).then_some(InterruptConfig { entries_lg2: ENTRIES_LG2, x2apic });
    Unit { model, driver }
}

/// The CPUs, to whom interrupts go: a unit's own, though everybody polls all the same, and devices'.
struct Cpus {
    hub: Arc<Hub>,
    /// Whether the unit's driver has it say what devices' messages mean. Otherwise they mean what devices say.
    remaps: bool,
}

impl Interrupts for Cpus {
    fn deliver(&self, interrupt: &Interrupt) {
        match interrupt.source {
            Some(source) if self.remaps => {
                let &Interrupt { destination, logical, vector, .. } = interrupt;
                self.hub.interrupt(source.0, Raised { destination, logical, vector });
            }
            Some(_) => {}
            None if self.hub.faults.fires(FaultKind::MessageLost) => {}
            None => self.hub.trace(|trace| trace.note(&[interrupt.vector.into()])),
        }
    }
}

impl Parts for Unit {
    fn window_bytes(&self) -> u64 {
        Model::REGISTER_BYTES
    }

    fn build(&self, hub: &Arc<Hub>, _: bool, seed: u64) -> Arc<dyn Iron> {
        let memory = Memory { snooped: hub.bus.clone(), unsnooped: hub.bus.non_snooping() };
        let remaps = self.model.interrupt_remapping && self.driver.interrupts.is_some();
        let cpus = Arc::new(Cpus { hub: hub.clone(), remaps });
        Arc::new(Hardware(Arc::new(Model::new(self.model, memory, cpus, seed, trace::shared(None)))))
    }

    fn probe(&self, with: Probe) -> Result<Arc<dyn Driver>, String> {
        let mut config = self.driver.clone();
        (config.cpus, config.wait_limit_ns) = (with.cpus, with.wait_limit_ns);
        let driver = Vtd::probe(with.platform, Arc::new(with.registers), config);
        Ok(Arc::new(driver.map_err(|error| format!("{error:?}"))?))
    }

    fn tap(&self, registers: u64) -> Box<dyn Tap> {
        Box::new(DescriptorTap::new(registers))
    }

    fn spreads(&self) -> bool {
        true
    }

    fn responds_with_pasids(&self) -> bool {
        true
    }

    /// The root table, with nothing in it: a unit that does not translate lets everything through.
    fn keeps(&self) -> usize {
        1
    }

    fn interrupts(&self) -> Option<(u64, u64)> {
        Some(INTERRUPTS)
    }
}

impl Driver for Vtd<SimPlatform, SimRegisters> {
    fn teardown(&self) -> Result<(), SyncError> {
        Self::teardown(self)
    }

    fn remapping(&self) -> Option<&Remapping> {
        self.interrupts()
    }
}

/// P, TT and AW, or in scalable mode P; the pointer. Not the domain-id, with which others' entries are tagged. Spec: VT-d 5.10, 9.3 "Context Entry", 9.4 "Scalable-Mode
/// Context-Entry".
fn of_context(entry: u64, scalable: bool) -> Vec<Bit> {
    match scalable {
        true => bits_of(entry, FAR.chain([0])).collect(),
        false => bits_of(entry, FAR.chain([0, 2, 3])).chain(bits_of(entry + 8, 0..3)).collect(),
    }
}

/// P, AW and PGTT; the pointer. Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry".
fn of_pasid(entry: u64) -> Vec<Bit> {
    bits_of(entry, FAR.chain([0, 2, 3, 4, 6, 7, 8])).collect()
}

struct Hardware(Arc<Model>);

impl Hardware {
    /// TTM, bits 11:10 of RTADDR_REG.
    fn is_scalable(&self, at: &Place<'_>) -> bool {
        let root = at.bus().read_register(Pa::new(at.registers + ROOT_TABLE), Width::Bits64);
        root.is_ok_and(|root| root >> 10 & 3 == 1)
    }
}

/// Whether a reason says that an entry, or what it leads to, makes no sense.
fn is_mixed(reason: Reason) -> bool {
    use Reason as R;
    let reserved = matches!(
        reason,
        R::RootReserved
            | R::ContextReserved
            | R::PagingReserved
            | R::InterruptReserved
            | R::InterruptEntryReserved
            | R::ScalableRootReserved
            | R::ScalableContextReserved
            | R::DirectoryReserved
            | R::PasidReserved
            | R::FirstReserved
            | R::SecondReserved
    );
    let invalid = matches!(
        reason,
        R::ContextInvalid | R::RootPointerInvalid | R::ScalableContextInvalid | R::PasidInvalid
    );
    let unreadable = matches!(
        reason,
        R::RootAccess
            | R::ContextAccess
            | R::PagingAccess
            | R::InterruptAccess
            | R::ScalableRootAccess
            | R::ScalableContextAccess
            | R::DirectoryAccess
            | R::PasidAccess
            | R::FirstAccess
            | R::FirstRootAccess
            | R::SecondAccess
            | R::SecondRootAccess
    );
    let of_pasids = matches!(reason, R::PasidIsRidPasid | R::PasidBeyondDirectory);
    reserved || invalid || unreadable || of_pasids || reason == R::HostAddress
}

impl Iron for Hardware {
    fn model(&self) -> Arc<dyn super::Model> {
        self.0.clone()
    }

    fn sight(&self, _: &Place<'_>, request: &Request) -> Sight {
        match self.0.outlook(request) {
            Outlook::Allowed(pa) => Sight::Allowed(pa),
            Outlook::Refused(Some(reason)) if is_mixed(reason) => Sight::Mixed(format!("{reason:?}")),
            Outlook::Refused(_) => Sight::Refused,
        }
    }

    fn way(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Found {
        let read = |offset, width| at.bus().read_register(Pa::new(at.registers + offset), width);
        match (read(STATUS, Width::Bits32), read(ROOT_TABLE, Width::Bits64)) {
            (Ok(status), Ok(root)) if status & TRANSLATES != 0 => tables.requester(root, source.0),
            _ => Found::Everywhere,
        }
    }

    fn entry_bits(&self, at: &Place<'_>, source: SourceId, _: &Tables<'_>) -> Vec<Bit> {
        let entry = at.hub.entry_of(at.unit, source.0).map(Pa::get);
        entry.into_iter().flat_map(|entry| of_context(entry, self.is_scalable(at))).collect()
    }

    fn inner_bits(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> (Vec<Bit>, bool) {
        let entry = at.hub.entry_of(at.unit, source.0).filter(|_| self.is_scalable(at));
        match entry.map(|entry| tables.pasid_entry(entry.get())) {
            Some(Ok(Some(entry))) => (of_pasid(entry), true),
            _ => (self.entry_bits(at, source, tables), true),
        }
    }

    fn contexts(&self, at: &Place<'_>, entry: Pa, tables: &Tables<'_>) -> Vec<(u32, Option<u64>)> {
        if self.is_scalable(at) { tables.pasids(entry.get()) } else { Vec::new() }
    }

    fn tags(&self, at: &Place<'_>, source: SourceId, tables: &Tables<'_>) -> Vec<Tagged> {
        let root = at.bus().read_register(Pa::new(at.registers + ROOT_TABLE), Width::Bits64);
        root.map_or(Vec::new(), |root| tables.requester_tags(root, source.0))
    }

    fn take_unpredictable(&self) -> Vec<Unpredictable> {
        self.0.take_unpredictable()
    }

    /// A descriptor that was falsified on its way is not the driver's. IQEI 3: "invalid descriptor type".
    fn is_excused(&self, one: &Unpredictable, tap: &dyn Tap, _: bool) -> bool {
        one.clause.contains("a descriptor that is not valid")
            && one.detail.ends_with("IQEI 3")
            && tap.has_falsified(&one.detail)
    }

    fn events_lost(&self) -> u64 {
        self.0.faults_lost()
    }

    fn page_requests_lost(&self) -> u64 {
        self.0.page_requests_lost()
    }

    fn bell(&self) -> Option<Arc<dyn Doorbell>> {
        Some(self.0.clone())
    }
}
