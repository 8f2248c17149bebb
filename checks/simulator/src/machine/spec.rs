//! What a machine is like, drawn from a seed: SMMUs and how they use their freedom, devices and what firmware says of them.

use model_bus::Chance;
use model_smmuv3::{Config as ModelConfig, Policy, StallModel};
use portcullis::smmuv3::{Completion, Config as DriverConfig, Stage, TableShape};
use portcullis::types::SizeLg2;

use super::engine::Form;
use crate::options::MachineKind;

/// Where the registers of the first SMMU are; each has its own 2 MiB.
const SMMU_BASE: u64 = 0x0900_0000;
/// How many devices a machine may have.
pub(crate) const MOST_DEVICES: usize = 8;

/// An SMMU.
#[derive(Clone, Debug)]
pub(crate) struct UnitSpec {
    pub(crate) registers: u64,
    pub(crate) model: ModelConfig,
    pub(crate) driver: DriverConfig,
}

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSpec {
    pub(crate) unit: usize,
    pub(crate) group: usize,
    pub(crate) sources: Vec<u32>,
    pub(crate) form: Form,
    pub(crate) pci: bool,
    pub(crate) mask_bits: u8,
    pub(crate) max_segment: u64,
    pub(crate) boundary: Option<SizeLg2>,
    /// Addresses that nobody may map for it.
    pub(crate) reserved: Option<(u64, u64)>,
    /// The page of memory that firmware works in, by its number in the pool.
    pub(crate) direct: Option<u64>,
    /// Whether a user may take it in spite of that.
    pub(crate) relaxable: bool,
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: MachineKind,
    pub(crate) granule: SizeLg2,
    pub(crate) units: Vec<UnitSpec>,
    pub(crate) devices: Vec<DeviceSpec>,
    /// The SMMU of each group, and whether its domain is lazy.
    pub(crate) groups: Vec<(usize, bool)>,
    /// Whether the SMMUs snoop the CPUs' caches; where they do not, tables are cleaned to memory.
    pub(crate) coherent: bool,
    /// The most hooks between two turns; 0 for no turns.
    pub(crate) span: u32,
}

struct Draw(Chance);

impl Draw {
    fn of<T: Clone>(&self, among: &[T]) -> T {
        among[self.0.below(among.len())].clone()
    }

    fn once_in(&self, count: usize) -> bool {
        self.0.once_in(count)
    }
}

impl Spec {
    /// The machine that belongs to a seed.
    pub(crate) fn draw(seed: u64, kind: MachineKind) -> Self {
        let draw = Draw(Chance::new(seed ^ 0x3ac_417e));
        let kind = match kind {
            MachineKind::Any => {
                let drawn = draw.of(&[MachineKind::Smmuv3, MachineKind::Smmuv3, MachineKind::Sva]);
                // A quarter of all lives is lived with users.
                match seed & 7 {
                    3 => MachineKind::Vfio,
                    7 => MachineKind::Power8,
                    _ => drawn,
                }
            }
            kind => kind,
        };
        let shared = kind == MachineKind::Sva;
        let users = matches!(kind, MachineKind::Vfio | MachineKind::Power8);
        let granule = if shared || users {
            SizeLg2::KIB_4
        } else {
            draw.of(&[SizeLg2::KIB_4, SizeLg2::KIB_4, SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64])
        };
        let unit_count = if draw.once_in(4) { 2 } else { 1 };
        // Processes' tables are the CPUs', and nobody cleans them.
        let coherent = shared || users || !draw.once_in(4);
        let units = (0..unit_count)
            .map(|index| {
                let mut unit = unit(&draw, index, granule, shared);
                (unit.model.coherent, unit.driver.coherent) = (coherent, coherent);
                unit
            })
            .collect();
        let (devices, groups) = devices(&draw, unit_count, shared);
        let span = draw.of(&[0, 6, 20, 60]);
        Self { kind, granule, units, devices, groups, coherent, span }
    }
}

fn unit(draw: &Draw, index: usize, granule: SizeLg2, shared: bool) -> UnitSpec {
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
    driver.wait_limit_ns = 2_000_000;
    UnitSpec { registers: SMMU_BASE + 0x20_0000 * index as u64, model, driver }
}

fn devices(draw: &Draw, unit_count: usize, shared: bool) -> (Vec<DeviceSpec>, Vec<(usize, bool)>) {
    let count = 1 + draw.0.below(MOST_DEVICES);
    let (mut devices, mut groups): (Vec<DeviceSpec>, Vec<(usize, bool)>) = (Vec::new(), Vec::new());
    for index in 0..count {
        let joins = !groups.is_empty() && draw.once_in(4);
        if !joins {
            groups.push((draw.0.below(unit_count), draw.once_in(3)));
        }
        let group = groups.len() - 1;
        let first = 8 * (u32::try_from(index).expect("few devices") + 1);
        let forms = [Form::Pcie, Form::Pcie, Form::Stalling, Form::Plain];
        let form = if shared { draw.of(&forms) } else { Form::Plain };
        let two = form != Form::Pcie && draw.once_in(3);
        let sources = if two { vec![first, first + 1] } else { vec![first] };
        let reserved = draw.once_in(3).then(|| {
            let first = draw.of(&[0x0010_0000u64, 0xf000_0000, 0x1_0000_0000]);
            (first, first + 0x10_0000 - 1)
        });
        devices.push(DeviceSpec {
            unit: groups[group].0,
            group,
            sources,
            form,
            pci: draw.once_in(2),
            mask_bits: draw.of(&[28, 32, 48, 64]),
            max_segment: draw.of(&[u64::MAX, u64::MAX, 0x8000]),
            boundary: draw.once_in(3).then_some(SizeLg2::new(19).expect("19 is a size")),
            reserved,
            direct: draw.once_in(8).then_some(index as u64),
            relaxable: draw.once_in(2),
        });
    }
    (devices, groups)
}
