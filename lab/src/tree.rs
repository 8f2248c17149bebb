//! A machine as a tree: what firmware says of it, and what discovery made of that.

use portcullis::core::iommu::ReservedRegion;
use portcullis::types::PaRange;

use crate::boot::{BootRequest, Endpoint, HostBridge, Standing, System, Unit};
use crate::error::RunError;
use crate::machine::{DiskContent, Machine, MachineSpec};
use crate::trace;

/// A part of a machine, and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTree {
    /// What it is.
    pub label: String,
    /// What there is to say of it.
    pub details: Vec<String>,
    /// What is below it.
    pub children: Vec<MachineTree>,
}

/// Boots a machine and draws it.
pub(crate) fn of(spec: MachineSpec, device_tree: &[u8]) -> Result<MachineTree, RunError> {
    let sink = trace::shared(None);
    let label = format!("{}: {}", spec.name, spec.summary);
    let ram = spec.ram;
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink)?;
    let system = System::boot(BootRequest::new(&machine, device_tree, sink))?;
    let memory = leaf(format!("memory {}", size(ram)), vec![ram.to_string()]);
    let mut children = vec![memory];
    children.extend(system.firmware.msi_controllers.iter().map(|controller| {
        let doorbell = controller.doorbell().map(|at| format!("doorbell {at}"));
        leaf(format!("interrupt controller {}", controller.path), doorbell.into_iter().collect())
    }));
    children.extend(system.units.iter().map(unit));
    children.extend(system.hosts.iter().map(|host| bridge(&system, host)));
    let unsupported = system.firmware.unsupported.iter();
    children.extend(
        unsupported.map(|part| leaf(format!("not known: {}", part.path), vec![part.compatible.join(", ")])),
    );
    system.shut_down()?;
    Ok(MachineTree { label, details: Vec::new(), children })
}

fn leaf(label: String, details: Vec<String>) -> MachineTree {
    MachineTree { label, details, children: Vec::new() }
}

fn unit(unit: &Unit) -> MachineTree {
    let iommu = unit.unit.iommu();
    let capabilities = iommu.capabilities();
    let sizes: Vec<String> = capabilities.page_sizes.iter().map(|size| size.to_string()).collect();
    let stage = if unit.smmu.uses_stage2() { "stage 2" } else { "stage 1" };
    let own = if unit.lines.is_some() { "messages" } else { "wires" };
    let details = vec![
        format!("SMMUv3, {stage}, addresses {}", capabilities.aperture),
        format!("pages {}", sizes.join(", ")),
        stream_table(unit),
        format!("interrupts by {own}"),
    ];
    leaf(format!("IOMMU {}", iommu.name()), details)
}

/// The stream table: its shape, and how much memory it takes by now.
fn stream_table(unit: &Unit) -> String {
    let shape = unit.smmu.stream_table_shape();
    let levels = if shape.split.is_some() { "two-level" } else { "linear" };
    let bytes = unit.smmu.table_bytes().stream_table;
    format!("{levels} stream table for {}-bit stream ids, {} KiB", shape.stream_bits, bytes.div_ceil(1024))
}

fn bridge(system: &System, host: &HostBridge) -> MachineTree {
    let firmware = &system.firmware.pci_hosts[host.index];
    let windows = firmware.windows.iter().map(|window| {
        let cpu = PaRange::new(window.cpu_first, window.size_bytes);
        format!("window {:?} {}", window.space, cpu.map_or_else(String::new, |cpu| cpu.to_string()))
    });
    let snoops =
        if firmware.dma_coherent { "devices snoop the CPU's caches" } else { "devices do not snoop" };
    let details = windows
        .chain([snoops.to_string()])
        .chain(host.topology.problems.iter().map(|problem| format!("problem: {problem:?}")));
    let below = below(host, None);
    MachineTree {
        label: format!("PCI host bridge {}", firmware.path),
        details: details.collect(),
        children: below,
    }
}

/// The functions right below a bridge, or right below the host bridge.
fn below(host: &HostBridge, above: Option<usize>) -> Vec<MachineTree> {
    let of = |endpoint: &&Endpoint| host.topology.functions[endpoint.function].above == above;
    host.endpoints.iter().filter(of).map(|endpoint| function(host, endpoint)).collect()
}

fn function(host: &HostBridge, endpoint: &Endpoint) -> MachineTree {
    let found = &host.topology.functions[endpoint.function];
    let what = match (found.bridge().is_some(), found.is_nvme()) {
        (true, _) => "bridge",
        (_, true) => "NVMe controller",
        _ => "device",
    };
    let label = format!("{} {what} {:04x}:{:04x}", endpoint.name, found.vendor, found.device);
    let mut details = match &endpoint.standing {
        Standing::Uncovered(why) => vec![format!("not used: {why}")],
        Standing::Behind { device, group } => {
            let sources: Vec<String> = device.sources().iter().map(|source| source.to_string()).collect();
            let mut details = vec![format!("stream {}, group {}", sources.join(", "), group.id())];
            details.extend(group.reserved_regions().iter().map(reserved));
            details
        }
    };
    details
        .extend(endpoint.msi.and_then(|msi| msi.device_id).map(|id| format!("messages as device {id:#x}")));
    MachineTree { label, details, children: below(host, Some(endpoint.function)) }
}

fn reserved(region: &ReservedRegion) -> String {
    format!("reserved {} {}", region.range, region.kind.sysfs_name())
}

fn size(range: PaRange) -> String {
    match range.len_bytes() {
        Some(bytes) if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        Some(bytes) => format!("{} MiB", bytes >> 20),
        None => "16 EiB".into(),
    }
}
