//! The accelerator: finding it, letting it share, starting its driver; and its model, which counts what it moves.

use std::sync::Arc;

use model_devices::accelerator::{PcieAccelerator, PlatformAccelerator};
use model_devices::pcie::Access;
use portcullis::accel::{Accelerator, Form};
use portcullis::types::{Iova, Pa, PaRange, Pasid, SourceId};

use super::super::TRY_VERBOSE;
use super::DeviceKind;
use super::before::Before;
use crate::boot::{Endpoint, FixedDevice, HostBridge, Sharer, Standing, System};
use crate::error::RunError;
use crate::machine::{Machine, MachineSpec};
use crate::platform::{LabPlatform, RegisterWindow};

/// Vendor and device of the function. Spec: docs/accelerator.md.
const IDENTITY: (u16, u16) = (0x1234, 0x5a1f);
/// What firmware calls the other form. Spec: docs/accelerator.md.
const COMPATIBLE: &str = "portcullis,accelerator";

/// A model of an accelerator, and that of the IOMMU before it.
pub(super) struct Model {
    which: Which,
    pub(super) before: Before,
}

enum Which {
    Pcie(Arc<PcieAccelerator>),
    Platform(Arc<PlatformAccelerator>),
}

/// What has moved between a device and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Model {
    /// The model of the first accelerator of this kind.
    pub(super) fn find(machine: &Machine, kind: DeviceKind) -> Result<Self, RunError> {
        let spec = &machine.spec;
        let (which, before) = match kind {
            DeviceKind::Pcie => {
                let place = spec.pcie_accelerators().next().ok_or_else(|| missing(spec, kind))?;
                let before = Before::of_place(machine, &place);
                (machine.pcie_accelerators.first().cloned().map(Which::Pcie), before)
            }
            DeviceKind::Platform => {
                let device = spec.accelerators.first().ok_or_else(|| missing(spec, kind))?;
                let before = Before::smmu(machine, device.smmu);
                (machine.accelerators.first().cloned().map(Which::Platform), before)
            }
        };
        let which = which.ok_or_else(|| missing(spec, kind))?;
        let before = before.ok_or_else(|| {
            let missing = "no IOMMU that shares processes' memory is before its accelerator";
            RunError::refused(&spec.name, missing, "choose another machine: see `portcullis machines`")
        })?;
        Ok(Self { which, before })
    }

    /// What it moved in one address space.
    pub(super) fn moved(&self, pasid: Pasid) -> Moved {
        let moved = match &self.which {
            Which::Pcie(model) => model.moved(pasid),
            Which::Platform(model) => model.moved(pasid),
        };
        Moved { read: moved.read_bytes, written: moved.written_bytes }
    }

    /// What it moved in all.
    pub(super) fn moved_in_all(&self) -> Moved {
        let traffic = match &self.which {
            Which::Pcie(model) => model.traffic(),
            Which::Platform(model) => model.traffic(),
        };
        Moved { read: traffic.read_bytes, written: traffic.written_bytes }
    }

    /// Page requests that had no response, and responses that answered nothing. None of either for a device that is stalled.
    pub(super) fn requests_in_doubt(&self) -> u64 {
        match &self.which {
            Which::Pcie(model) => u64::from(model.pages().outstanding()) + model.pages().counts().unexpected,
            Which::Platform(_) => 0,
        }
    }

    /// How often the device tried again after an answer.
    pub(super) fn retries(&self) -> u64 {
        match &self.which {
            Which::Pcie(model) => model.pages().retries(),
            Which::Platform(_) => self.before.resumed(),
        }
    }

    /// Tries an access through the device's own ATC. None if it has none.
    pub(super) fn try_through_atc(&self, pasid: Pasid, at: Iova, write: bool) -> Option<Access> {
        let Which::Pcie(model) = &self.which else { return None };
        let mut byte = [0];
        Some(match write {
            false => model.atc().read(Some(pasid), at, &mut byte),
            true => model.atc().write(Some(pasid), at, &byte),
        })
    }
}

fn missing(spec: &MachineSpec, kind: DeviceKind) -> RunError {
    let what = format!("it has no accelerator on {}", kind.name());
    RunError::refused(&spec.name, what, "choose another machine: see `portcullis machines`")
}

/// The accelerator as discovery found it.
pub(super) enum Found<'a> {
    Function(&'a HostBridge, &'a Endpoint),
    Fixed(&'a FixedDevice),
}

impl<'a> Found<'a> {
    /// Looks for one of this kind.
    pub(super) fn find(system: &'a System, spec: &MachineSpec, kind: DeviceKind) -> Result<Self, RunError> {
        let found = match kind {
            DeviceKind::Pcie => {
                let is_one = |(host, endpoint): &(&HostBridge, &Endpoint)| {
                    let function = &host.topology.functions[endpoint.function];
                    (function.vendor, function.device) == IDENTITY
                };
                system.endpoints().find(is_one).map(|(host, endpoint)| Self::Function(host, endpoint))
            }
            DeviceKind::Platform => {
                let is_one = |fixed: &&FixedDevice| {
                    let node = &system.firmware.devices[fixed.index];
                    node.compatible.iter().any(|name| name == COMPATIBLE)
                };
                system.fixed.iter().find(is_one).map(Self::Fixed)
            }
        };
        found.ok_or_else(|| missing(spec, kind))
    }

    pub(super) fn name(&self) -> &'a str {
        match self {
            Self::Function(_, endpoint) => &endpoint.name,
            Self::Fixed(fixed) => &fixed.name,
        }
    }

    pub(super) fn host(&self) -> Option<&'a HostBridge> {
        match self {
            Self::Function(host, _) => Some(host),
            Self::Fixed(_) => None,
        }
    }

    /// Who it is at the IOMMU when it reads, and when it writes.
    pub(super) fn sources(&self) -> Option<[SourceId; 2]> {
        let standing = match self {
            Self::Function(_, endpoint) => &endpoint.standing,
            Self::Fixed(fixed) => &fixed.standing,
        };
        let Standing::Behind { device, .. } = standing else { return None };
        let sources = device.sources();
        Some([*sources.first()?, *sources.last()?])
    }

    /// Lets it share.
    pub(super) fn share(&self, system: &System) -> Result<Sharer, RunError> {
        match self {
            Self::Function(host, endpoint) => system.share_function(host, endpoint),
            Self::Fixed(fixed) => system.share_fixed(fixed),
        }
    }

    /// Starts its driver. From then on a function may send requests.
    pub(super) fn start(&self, system: &System) -> Result<Arc<Driver>, RunError> {
        let wrong = |what: String| RunError::wrong(self.name(), what, TRY_VERBOSE);
        let registers = self.registers(system).ok_or_else(|| self.unplaced())?;
        let form = match self {
            Self::Function(host, endpoint) => {
                host.topology.enable_bus_master(&*host.config, endpoint.function);
                Form::Pcie
            }
            Self::Fixed(_) => Form::Platform,
        };
        Accelerator::start(system.platform.clone(), system.platform.registers(registers), form)
            .map_err(|error| wrong(format!("its driver did not start: {error}")))
    }

    /// Where its registers begin, as CPUs reach them.
    pub(super) fn registers_at(&self, system: &System) -> Result<Pa, RunError> {
        self.registers(system).map(PaRange::first).ok_or_else(|| self.unplaced())
    }

    fn unplaced(&self) -> RunError {
        RunError::refused(
            self.name(),
            "its registers have no place, or too little",
            "correct the device tree",
        )
    }

    fn registers(&self, system: &System) -> Option<PaRange> {
        match self {
            Self::Function(host, endpoint) => {
                host.topology.functions[endpoint.function].bar(0).and_then(|bar| bar.cpu_range())
            }
            Self::Fixed(fixed) => system.firmware.devices[fixed.index].registers.first().copied(),
        }
        .filter(|range| range.len_bytes().is_none_or(|len| len >= portcullis::accel::REGISTER_BYTES as u64))
    }
}

/// The driver, on this machine.
pub(super) type Driver = Accelerator<LabPlatform, RegisterWindow>;
