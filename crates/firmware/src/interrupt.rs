//! Wired interrupts and the controllers that they go to.
//!
//! Spec: Devicetree Specification 0.4, 2.4 "Interrupts and Interrupt Mapping"; binding interrupt-controller/arm,gic-v3.yaml.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_types::PaRange;

use crate::address::required_cpu_ranges;
use crate::cells::Cells;
use crate::error::{FirmwareError, PropertyFault};
use crate::tree::Node;

/// More cells than this no interrupt has.
const MAX_INTERRUPT_CELLS: u32 = 8;

/// A wired interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// What the device calls it, if it says.
    pub name: Option<String>,
    /// The phandle of the controller; none where ACPI tells of it, which knows one for all.
    pub controller: Option<u32>,
    /// Which of the controller's interrupts, in the controller's own words.
    pub cells: Vec<u32>,
}

/// Which kind of interrupt a GIC is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GicKind {
    /// Shared by all CPUs.
    Shared,
    /// Each CPU's own.
    Private,
}

/// An interrupt of a GICv2 or GICv3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicInterrupt {
    /// Shared or private.
    pub kind: GicKind,
    /// The interrupt id as the GIC counts: 16 to 31 private, 32 and on shared.
    pub intid: u32,
    /// Whether it is triggered by an edge, not a level.
    pub edge: bool,
}

impl Interrupt {
    /// The interrupt of a GIC that ACPI calls `gsiv`, which is the GIC's own number. None for 0, which ACPI writes where there is none, and for numbers beyond those of
    /// shared interrupts.
    pub(crate) fn of_gsiv(name: &str, gsiv: u32, edge: bool) -> Option<Self> {
        let (kind, number) = match gsiv {
            16..32 => (1, gsiv - 16),
            32..1020 => (0, gsiv - 32),
            _ => return None,
        };
        let trigger = if edge { 1 } else { 4 };
        Some(Self { name: Some(String::from(name)), controller: None, cells: [kind, number, trigger].into() })
    }

    /// The interrupt in a GIC's words; none if the cells are not a GIC's.
    ///
    /// Spec: binding interrupt-controller/arm,gic-v3.yaml, `#interrupt-cells`: 0 shared (id less 32) or 1 private (id less 16);
    /// the number; the trigger, 1 or 2 an edge, 4 or 8 a level.
    pub fn gic(&self) -> Option<GicInterrupt> {
        let [kind, number, flags, ..] = *self.cells else { return None };
        let (kind, intid) = match kind {
            0 => (GicKind::Shared, number.checked_add(32)?),
            1 if number < 16 => (GicKind::Private, number + 16),
            _ => return None,
        };
        Some(GicInterrupt { kind, intid, edge: flags & 0b11 != 0 })
    }
}

/// An interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptController {
    /// Where firmware says it is: `/intc@8000000`.
    pub path: String,
    /// Its number.
    pub phandle: Option<u32>,
    /// Which bindings it follows, the most specific first.
    pub compatible: Vec<String>,
    /// Its frames of registers. Of a GICv3: the distributor, then the regions of redistributors.
    pub registers: Vec<PaRange>,
}

impl InterruptController {
    /// Reads a GICv3; none if the node is something else.
    pub(crate) fn read(node: Node<'_, '_>) -> Result<Option<Self>, FirmwareError> {
        if !node.is_compatible(dt::ARM_GIC_V3)? || !node.is_enabled()? {
            return Ok(None);
        }
        Ok(Some(Self {
            path: node.path(),
            phandle: node.phandle(),
            compatible: node.texts(dt::COMPATIBLE)?.into_iter().map(String::from).collect(),
            registers: required_cpu_ranges(node)?,
        }))
    }
}

/// Cells of an interrupt at the controller with this phandle.
fn interrupt_cells(
    node: Node<'_, '_>,
    property: &'static str,
    controller: u32,
) -> Result<u32, FirmwareError> {
    let target = node.tree().by_phandle(controller);
    let target = target.ok_or_else(|| node.fault(property, PropertyFault::NoSuchPhandle(controller)))?;
    let cells = target.u32(dt::INTERRUPT_CELLS)?;
    let cells = cells.filter(|cells| (1..=MAX_INTERRUPT_CELLS).contains(cells));
    cells.ok_or_else(|| node.fault(property, PropertyFault::WrongNode(controller)))
}

/// A node's interrupts, in its order.
pub(crate) fn interrupts(node: Node<'_, '_>) -> Result<Vec<Interrupt>, FirmwareError> {
    let mut interrupts = match node.cells(dt::INTERRUPTS_EXTENDED)? {
        Some(cells) => extended(node, cells)?,
        None => plain(node)?,
    };
    let names = node.texts(dt::INTERRUPT_NAMES)?;
    if names.len() > interrupts.len() {
        let fault = PropertyFault::Length { len_bytes: names.len(), wanted_bytes: interrupts.len() };
        return Err(node.fault(dt::INTERRUPT_NAMES, fault));
    }
    for (interrupt, name) in interrupts.iter_mut().zip(names) {
        interrupt.name = Some(String::from(name));
    }
    Ok(interrupts)
}

fn extended(node: Node<'_, '_>, mut cells: Cells<'_, '_>) -> Result<Vec<Interrupt>, FirmwareError> {
    let mut interrupts = Vec::new();
    while !cells.is_empty() {
        let controller = cells.u32()?;
        let count = interrupt_cells(node, dt::INTERRUPTS_EXTENDED, controller)?;
        let cells = (0..count).map(|_| cells.u32()).collect::<Result<_, _>>()?;
        interrupts.push(Interrupt { name: None, controller: Some(controller), cells });
    }
    Ok(interrupts)
}

fn plain(node: Node<'_, '_>) -> Result<Vec<Interrupt>, FirmwareError> {
    let Some(mut cells) = node.cells(dt::INTERRUPTS)? else { return Ok(Vec::new()) };
    let mut controller = None;
    for node in core::iter::once(node).chain(node.ancestors()) {
        controller = node.u32(dt::INTERRUPT_PARENT)?;
        if controller.is_some() {
            break;
        }
    }
    let missing = || node.fault(dt::INTERRUPT_PARENT, PropertyFault::Missing);
    let controller = controller.ok_or_else(missing)?;
    let count = interrupt_cells(node, dt::INTERRUPTS, controller)?;
    cells.whole_entries(count as usize)?;
    let mut interrupts = Vec::new();
    while !cells.is_empty() {
        let cells = (0..count).map(|_| cells.u32()).collect::<Result<_, _>>()?;
        interrupts.push(Interrupt { name: None, controller: Some(controller), cells });
    }
    Ok(interrupts)
}
