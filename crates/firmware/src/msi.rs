//! Message-signalled interrupts: the controllers that take them, and who sends to which.
//!
//! Spec: binding interrupt-controller/msi.txt; binding interrupt-controller/arm,gic-v3.yaml; binding interrupt-controller/arm,gic.yaml.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;
use portcullis_types::{Pa, PaRange};

use crate::address::{cpu_ranges, required_cpu_ranges};
use crate::error::{FirmwareError, PropertyFault};
use crate::phb3;
use crate::tree::Node;

/// Offset of GITS_TRANSLATER in an ITS: the second 64 KiB frame, register 0x40.
///
/// Spec: GICv3 IHI 0069 H, 12.18 "The ITS register map" (translation registers follow the control registers).
const GITS_TRANSLATER: u64 = 0x1_0040;

/// Offset of MSI_SETSPI_NS in a GICv2m frame.
///
/// Spec: Server Base System Architecture 3.0, Appendix E "GICv2m Architecture".
const V2M_SETSPI: u64 = 0x40;

/// What kind of MSI controller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MsiControllerKind {
    /// The interrupt translation service of a GICv3: tells devices apart by their device ids.
    Its,
    /// A message frame of a GICv2m: any device that can write to it can raise any of its interrupts.
    V2mFrame,
    /// A PHB3, which takes messages inside: what they mean, and for which devices, is in a table of the kernel's.
    Phb3,
    /// The local APICs of a PC's CPUs, which a region of addresses stands for: any device can raise any of their interrupts, unless an IOMMU remaps them.
    LocalApics,
    /// By a binding that is not known here.
    Other,
}

/// An MSI controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsiController {
    /// Where firmware says it is: `/intc@8000000/its@8080000`.
    pub path: String,
    /// Its number.
    pub phandle: Option<u32>,
    /// What kind.
    pub kind: MsiControllerKind,
    /// Its registers.
    pub registers: Vec<PaRange>,
    /// How many cells say who sends: 1 for an ITS, the device id; 0 where senders are all the same.
    pub cells: u32,
    /// Whether it is there to be used.
    pub enabled: bool,
}

/// Where a device's messages go, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiTarget {
    /// Index into [`Machine::msi_controllers`](crate::Machine::msi_controllers).
    pub controller: usize,
    /// The device id there; none if the controller does not tell devices apart.
    pub device_id: Option<u32>,
}

impl MsiController {
    /// The address that messages are written to; none for a kind that is not known, or that has a whole region for them.
    pub fn doorbell(&self) -> Option<Pa> {
        let offset = match self.kind {
            MsiControllerKind::Its => GITS_TRANSLATER,
            MsiControllerKind::V2mFrame => V2M_SETSPI,
            MsiControllerKind::Phb3 | MsiControllerKind::LocalApics | MsiControllerKind::Other => {
                return None;
            }
        };
        let frame = *self.registers.first()?;
        let doorbell = frame.first().checked_add(offset)?;
        frame.contains(doorbell).then_some(doorbell)
    }

    /// Reads a controller; none if the node is something else.
    pub(crate) fn read(node: Node<'_, '_>) -> Result<Option<Self>, FirmwareError> {
        let kind = if phb3::is_one(node)? {
            MsiControllerKind::Phb3
        } else if node.is_compatible(dt::ARM_GIC_V3_ITS)? {
            MsiControllerKind::Its
        } else if node.is_compatible(dt::ARM_GIC_V2M_FRAME)? {
            MsiControllerKind::V2mFrame
        } else if node.flag(dt::MSI_CONTROLLER)? {
            MsiControllerKind::Other
        } else {
            return Ok(None);
        };
        let registers = match kind {
            MsiControllerKind::Other => cpu_ranges(node)?,
            _ => required_cpu_ranges(node)?,
        };
        Ok(Some(Self {
            path: node.path(),
            phandle: node.phandle(),
            kind,
            registers,
            cells: msi_cells(node, kind)?,
            enabled: node.is_enabled()?,
        }))
    }
}

fn msi_cells(node: Node<'_, '_>, kind: MsiControllerKind) -> Result<u32, FirmwareError> {
    if kind == MsiControllerKind::Phb3 {
        // The requester id, though no property says so.
        return Ok(1);
    }
    let cells = node.u32(dt::MSI_CELLS)?.unwrap_or(0);
    let possible = match kind {
        MsiControllerKind::Its => cells == 1,
        MsiControllerKind::V2mFrame => cells == 0,
        _ => cells <= 1,
    };
    if possible { Ok(cells) } else { Err(node.fault(dt::MSI_CELLS, PropertyFault::Value(cells.into()))) }
}

/// The controllers of a machine by phandle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MsiControllers<'m>(pub(crate) &'m [MsiController]);

impl MsiControllers<'_> {
    /// Finds a controller for an entry of a property of `node`.
    pub(crate) fn find(self, node: Node<'_, '_>, phandle: u32) -> Result<usize, PropertyFault> {
        let found = self.0.iter().position(|controller| controller.phandle == Some(phandle));
        found.ok_or(match node.tree().by_phandle(phandle) {
            Some(_) => PropertyFault::WrongNode(phandle),
            None => PropertyFault::NoSuchPhandle(phandle),
        })
    }

    /// The controller that is the node at this path.
    pub(crate) fn at(self, path: &str) -> Option<usize> {
        self.0.iter().position(|controller| controller.path == path)
    }

    /// Where the messages of a device that is not PCI's go: its `msi-parent`.
    pub(crate) fn parents_of(self, node: Node<'_, '_>) -> Result<Vec<MsiTarget>, FirmwareError> {
        let mut targets = Vec::new();
        let Some(mut cells) = node.cells(dt::MSI_PARENT)? else { return Ok(targets) };
        while !cells.is_empty() {
            let controller = self.find(node, cells.u32()?).map_err(|fault| cells.fault(fault))?;
            let device_id = if self.0[controller].cells == 1 { Some(cells.u32()?) } else { None };
            targets.push(MsiTarget { controller, device_id });
        }
        Ok(targets)
    }
}
