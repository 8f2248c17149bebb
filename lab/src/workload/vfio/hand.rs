//! Which disk is handed over, and why one cannot be.

use portcullis::core::bus::Place;
use portcullis::core::iommu::ReservedKind;

use super::super::disk::find;
use crate::boot::{Standing, System};
use crate::error::RunError;
use crate::machine::MachineSpec;
use crate::platform::LabPlatform;

const HINT: &str = "choose another machine: see `portcullis machines`";

/// The disk with the input, by its place among the machine's, and its name: the first of which firmware keeps nothing mapped, for no user gets another.
///
/// # Errors
///
/// [`RunError::Refused`]: there is no disk.
pub(super) fn choose(spec: &MachineSpec) -> Result<(usize, String), RunError> {
    let kept = |bridge: usize, device: u8| {
        spec.reserved.iter().any(|region| region.slot == (bridge, device) && region.memory.is_some())
    };
    let disks: Vec<_> = spec.disks().collect();
    let free = disks.iter().position(|disk| !kept(disk.bridge, disk.way[0]));
    let index = free.unwrap_or(0);
    let disk = disks.get(index).ok_or_else(|| RunError::refused(&spec.name, "it has no NVMe disk", HINT))?;
    Ok((index, spec.device_name(disk)))
}

/// The disk's place, if it can be handed over.
///
/// # Errors
///
/// [`RunError::Refused`] says why it cannot: no IOMMU, firmware that keeps something mapped, interrupts that are wires, or that others could raise.
pub(super) fn check(
    system: &System,
    name: &str,
    unsafe_interrupts: bool,
) -> Result<Place<LabPlatform>, RunError> {
    let (_, endpoint) = find(system, name)?;
    let refused = |what: String, hint: &str| Err(RunError::refused(name, what, hint));
    let (device, group) = match &endpoint.standing {
        Standing::Behind { device, group } => (device.clone(), group.clone()),
        Standing::Uncovered(why) => return refused(format!("no IOMMU covers it: {why}"), HINT),
    };
    let regions = device.reserved_regions();
    if let Some(direct) = regions.iter().find(|region| region.kind == ReservedKind::Direct) {
        let what = format!(
            "firmware keeps {} mapped for it ({}), so no user gets it",
            direct.range,
            direct.source.table()
        );
        return refused(what, HINT);
    }
    let Some(target) = endpoint.msi else {
        let what = "firmware does not say where its messages go, and a user gets no interrupts by wires";
        return refused(what.into(), HINT);
    };
    if !device.has_isolated_interrupts() && !unsafe_interrupts {
        let controller = system.firmware.msi_controllers.get(target.controller);
        let path = controller.map_or("an unknown controller", |controller| controller.path.as_str());
        let what = format!(
            "its interrupts are not isolated: {path} does not tell devices apart, so a user could raise others' interrupts"
        );
        return refused(what, "choose another machine, or allow it with --unsafe-interrupts");
    }
    Ok(Place { device, group })
}
