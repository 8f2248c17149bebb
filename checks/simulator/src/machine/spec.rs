//! What a machine is like, drawn from a seed: IOMMUs and how they use their freedom, devices and what firmware says of them.

use std::sync::Arc;

use model_bus::Chance;
use portcullis::core::sva::CpuFacts;
use portcullis::types::SizeLg2;

use super::engine::Form;
use super::iron::{self, Driver, Frame, Iron, Parts, Probe};
use super::platform::SimPlatform;
use crate::hub::Hub;
use crate::options::MachineKind;

/// Where the registers of the first IOMMU are; each has its own 2 MiB.
const UNIT_BASE: u64 = 0x0900_0000;
/// How many devices a machine may have.
pub(crate) const MOST_DEVICES: usize = 8;

/// The longest wait of a driver for its hardware.
const WAIT_LIMIT_NS: u64 = 2_000_000;

/// An IOMMU.
#[derive(Clone, Debug)]
pub(crate) struct UnitSpec {
    pub(crate) registers: u64,
    pub(crate) parts: Arc<dyn Parts>,
    /// The longest wait of its driver.
    pub(crate) wait_limit_ns: u64,
}

impl UnitSpec {
    fn new(index: usize, parts: Arc<dyn Parts>) -> Self {
        Self { registers: UNIT_BASE + 0x20_0000 * index as u64, parts, wait_limit_ns: WAIT_LIMIT_NS }
    }

    /// Its model, with its registers on the bus.
    ///
    /// # Errors
    ///
    /// Something else is there.
    pub(crate) fn build(&self, hub: &Arc<Hub>, coherent: bool, seed: u64) -> Result<Arc<dyn Iron>, String> {
        let iron = self.parts.build(hub, coherent, seed);
        let window = iron::window(self.registers, self.parts.window_bytes());
        hub.bus.add_registers("iommu", window, iron.model()).map_err(|error| error.to_string())?;
        Ok(iron)
    }

    /// Its driver, where it is IOMMU `unit` of a machine.
    ///
    /// # Errors
    ///
    /// In the driver's words.
    pub(crate) fn probe(
        &self,
        unit: usize,
        platform: &Arc<SimPlatform>,
        cpus: Option<CpuFacts>,
    ) -> Result<Arc<dyn Driver>, String> {
        let window = iron::window(self.registers, self.parts.window_bytes());
        let registers = platform.registers(unit, window);
        let with = Probe { platform: platform.clone(), registers, cpus, wait_limit_ns: self.wait_limit_ns };
        self.parts.probe(with)
    }
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
    /// The IOMMU of each group, and whether its domain is lazy.
    pub(crate) groups: Vec<(usize, bool)>,
    /// Whether the IOMMUs snoop the CPUs' caches; where they do not, tables are cleaned to memory.
    pub(crate) coherent: bool,
    /// The most hooks between two turns; 0 for no turns.
    pub(crate) span: u32,
    /// Whether operations happen at once, on threads.
    pub(crate) crowded: bool,
}

/// What is drawn.
pub(super) struct Draw(Chance);

impl Draw {
    pub(super) fn of<T: Clone>(&self, among: &[T]) -> T {
        among[self.0.below(among.len())].clone()
    }

    pub(super) fn once_in(&self, count: usize) -> bool {
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
                    1 => MachineKind::Smmuv2,
                    3 => MachineKind::Vfio,
                    5 if seed >> 3 & 1 == 1 => MachineKind::X86Sva,
                    5 => MachineKind::X86,
                    7 => MachineKind::Power8,
                    _ => drawn,
                }
            }
            kind => kind,
        };
        let shared = kind.shares();
        let users = matches!(kind, MachineKind::Vfio | MachineKind::Power8);
        let granule = if shared || users || kind.is_pc() {
            SizeLg2::KIB_4
        } else {
            draw.of(&[SizeLg2::KIB_4, SizeLg2::KIB_4, SizeLg2::KIB_4, SizeLg2::KIB_16, SizeLg2::KIB_64])
        };
        let unit_count = if draw.once_in(4) { 2 } else { 1 };
        // Processes' tables are the CPUs', and nobody cleans them.
        let coherent = shared || users || !draw.once_in(4);
        let frame = (kind == MachineKind::Smmuv2).then(|| Frame::draw(&draw));
        let parts = |index| match frame {
            None if kind.is_pc() => iron::vtd(&draw, index, coherent, shared),
            Some(frame) => iron::smmuv2(&draw, index, granule, coherent, frame),
            None => iron::smmuv3(&draw, index, granule, coherent, shared),
        };
        let units: Vec<_> = (0..unit_count).map(|index| UnitSpec::new(index, parts(index))).collect();
        let (mut devices, groups) = devices(&draw, unit_count, kind);
        if !users && units.iter().all(|unit| unit.parts.spreads()) {
            devices
                .iter_mut()
                .flat_map(|device| &mut device.sources)
                .for_each(|source| *source = spread(*source));
        }
        let span = draw.of(&[0, 6, 20, 60]);
        Self { kind, granule, units, devices, groups, coherent, span, crowded: false }
    }
}

/// A source in one of several tables: on a PC in both halves of two buses, each function where it was.
fn spread(source: u32) -> u32 {
    match source >> 3 & 3 {
        1 => source | 0x80,
        2 => source | 0x300,
        _ => source,
    }
}

fn devices(draw: &Draw, unit_count: usize, kind: MachineKind) -> (Vec<DeviceSpec>, Vec<(usize, bool)>) {
    let count = 1 + draw.0.below(MOST_DEVICES);
    let (mut devices, mut groups): (Vec<DeviceSpec>, Vec<(usize, bool)>) = (Vec::new(), Vec::new());
    for index in 0..count {
        let joins = !groups.is_empty() && draw.once_in(4);
        if !joins {
            groups.push((draw.0.below(unit_count), draw.once_in(3)));
        }
        let group = groups.len() - 1;
        let first = 8 * (u32::try_from(index).expect("few devices") + 1);
        // A VT-d unit holds no access back.
        let other = if kind.is_pc() { Form::Pcie } else { Form::Stalling };
        let forms = [Form::Pcie, Form::Pcie, other, Form::Plain];
        let form = if kind.shares() { draw.of(&forms) } else { Form::Plain };
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
