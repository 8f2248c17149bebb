//! Bringing up devices that firmware tells of: those that are no PCI functions.
//!
//! Each is in a group of its own, with all its stream ids: nothing says that two of them could reach each other but through memory.

use std::sync::Arc;

use portcullis::core::device::DeviceInfo;
use portcullis::core::domain::FlushMode;
use portcullis::core::group::Group;
use portcullis::core::iommu::AddDeviceError;
use portcullis::firmware::{DeviceRef, PlatformDevice, Stream};
use portcullis::types::SourceId;

use super::pci::{gaps, reserved};
use super::unit::Unit;
use super::{Standing, System, not_added};
use crate::error::RunError;
use crate::platform::LabPlatform;

/// A device that firmware tells of.
#[derive(Debug)]
pub struct FixedDevice {
    /// Its index in the firmware's list.
    pub index: usize,
    /// Its name: where firmware says it is.
    pub name: String,
    /// Whether it can do DMA, and through what.
    pub standing: Standing,
}

impl FixedDevice {
    pub(super) fn group(&self) -> Option<Arc<Group<LabPlatform>>> {
        match &self.standing {
            Standing::Behind { group, .. } => Some(group.clone()),
            Standing::Uncovered(_) => None,
        }
    }
}

/// Brings up device `index` of the firmware's list. None for one that is at no IOMMU: firmware does not say that it does DMA.
pub(super) fn bring_up(
    system: &System,
    index: usize,
    mode: FlushMode,
) -> Result<Option<FixedDevice>, RunError> {
    let node = &system.firmware.devices[index];
    if node.streams.is_empty() {
        return Ok(None);
    }
    let name = node.path.clone();
    let (unit, sources) = match covering(system, node) {
        Ok(covering) => covering,
        Err(why) => return Ok(Some(FixedDevice { index, name, standing: Standing::Uncovered(why) })),
    };
    let wrong = |error: String| RunError::wrong(&name, error, "run with -v to see the SMMU's commands");
    let info = info(system, index, &sources);
    let device = match unit.unit.add_device(info) {
        Ok(device) => device,
        // Firmware gives two devices one name: the first keeps it.
        Err(AddDeviceError::Taken { .. }) => {
            let standing = Standing::Uncovered("its id at the IOMMU is another device's");
            return Ok(Some(FixedDevice { index, name, standing }));
        }
        Err(error) => return Err(not_added(&name, &error)),
    };
    let group = system.new_group(unit, system.next_group_id(), mode)?;
    group.add_device(&device).map_err(|error| wrong(format!("it did not join its group: {error:?}")))?;
    Ok(Some(FixedDevice { index, name, standing: Standing::Behind { device, group } }))
}

/// The IOMMU that covers a device, and who the device is there.
fn covering<'a>(
    system: &'a System,
    node: &PlatformDevice,
) -> Result<(&'a Unit, Vec<SourceId>), &'static str> {
    let iommu = node.streams[0].iommu;
    if node.streams.iter().any(|stream| stream.iommu != iommu) {
        return Err("it is behind different IOMMUs");
    }
    let sources: Vec<SourceId> = node.streams.iter().filter_map(Stream::source).collect();
    if sources.len() < node.streams.len() {
        return Err("its iommus has more cells than a stream id");
    }
    let unit = system.unit(iommu).ok_or("its IOMMU is not enabled")?;
    Ok((unit, sources))
}

/// What firmware knows of a device.
fn info(system: &System, index: usize, sources: &[SourceId]) -> DeviceInfo {
    let node = &system.firmware.devices[index];
    let mut info = DeviceInfo::new(&node.path, sources);
    info.coherent = node.dma_coherent;
    if let Some(ranges) = &node.dma_ranges {
        info.bus_limit = ranges.iter().map(|range| range.bus.last()).max();
        info.bridge_windows.extend(gaps(ranges.iter().map(|range| range.bus)));
    }
    info.firmware_regions = reserved(&system.firmware, &DeviceRef::Platform(index));
    info
}
