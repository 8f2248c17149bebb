//! A machine as a tree: what firmware says of it, and what discovery made of that.

use portcullis::core::iommu::ReservedRegion;
use portcullis::core::sva::DeviceSvaFacts;
use portcullis::smmuv3::Smmu;
use portcullis::types::PaRange;

use crate::boot::{BootRequest, Endpoint, FixedDevice, Hardware, HostBridge, Standing, System, Unit};
use crate::error::RunError;
use crate::machine::{DiskContent, Machine, MachineSpec};
use crate::platform::{LabPlatform, RegisterWindow};
use crate::process::Cores;
use crate::trace;

/// An SMMUv3 that is up.
type Driven = Smmu<LabPlatform, RegisterWindow>;

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
    let cpus = cpus(&system);
    let memory = leaf(format!("memory {}", size(ram)), vec![ram.to_string()]);
    let mut children = vec![cpus, memory];
    children.extend(system.firmware.msi_controllers.iter().map(|controller| {
        let doorbell = controller.doorbell().map(|at| format!("doorbell {at}"));
        leaf(format!("interrupt controller {}", controller.path), doorbell.into_iter().collect())
    }));
    children.extend(system.units.iter().map(unit));
    children.extend(system.hosts.iter().map(|host| bridge(&system, host)));
    children.extend(system.fixed.iter().map(|device| fixed(&system, device)));
    let unsupported = system.firmware.unsupported.iter();
    children.extend(
        unsupported.map(|part| leaf(format!("not known: {}", part.path), vec![part.compatible.join(", ")])),
    );
    let meaningless = system.firmware.meaningless.iter();
    children.extend(meaningless.map(|part| leaf(format!("not heeded: {part}"), Vec::new())));
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
    let pages = format!("pages {}", sizes.join(", "));
    let details = match &unit.driver {
        Hardware::Smmu(smmu) => {
            let stage = if smmu.uses_stage2() { "stage 2" } else { "stage 1" };
            let own = if unit.lines.is_some() { "messages" } else { "wires" };
            let what = format!("SMMUv3, {stage}, addresses {}", capabilities.aperture);
            let mut details = vec![what, pages, stream_table(smmu), format!("interrupts by {own}")];
            details.extend(services(smmu));
            details
        }
        Hardware::Smmuv2(smmu) => {
            let stage = if smmu.uses_stage2() { "stage 2" } else { "stage 1" };
            let features = smmu.features();
            let what = format!("SMMUv2, {stage}, addresses {}", capabilities.aperture);
            let streams = if features.matching { "matched" } else { "indexed" };
            let room = format!(
                "{} groups, streams are {streams}; {} context banks",
                features.groups, features.banks
            );
            vec![what, pages, room, "interrupts by wires".to_string()]
        }
        Hardware::Vtd(vtd) => {
            let features = vtd.features();
            let mode = if features.scalable { "scalable mode" } else { "legacy mode" };
            let remaps = if vtd.interrupts().is_some() { "remapped" } else { "not remapped" };
            let what = format!("VT-d, {mode}, addresses {}", capabilities.aperture);
            let mut details = vec![what, pages, format!("interrupts of devices are {remaps}")];
            details.extend(vtd_services(vtd));
            details
        }
        Hardware::Phb3(..) => {
            vec![format!("PHB3, IODA2, the kernel's window {}", capabilities.aperture), pages]
        }
    };
    leaf(format!("IOMMU {}", iommu.name()), details)
}

/// What it has of what sharing processes' memory takes.
fn services(smmu: &Driven) -> Option<String> {
    let features = smmu.features();
    let pasids = (features.substream_bits > 0).then(|| format!("{}-bit PASIDs", features.substream_bits));
    let named = [
        (features.ats, "ATS"),
        (features.page_requests, "PRI"),
        (features.stall_configurable, "stalls"),
        (features.stall_forced, "stalls whatever faults"),
        (features.dirty_state, "updates of access and dirty state"),
        (features.broadcast, "hears the CPUs' broadcasts"),
    ];
    let words = named.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_string());
    let words: Vec<String> = pasids.into_iter().chain(words).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The same of a VT-d unit.
fn vtd_services(vtd: &portcullis::vtd::Vtd<LabPlatform, RegisterWindow>) -> Option<String> {
    let features = vtd.features();
    let pasids = (features.pasid_bits > 0).then(|| format!("{}-bit PASIDs", features.pasid_bits));
    let named = [
        (features.scalable && features.extended.fsts(), "first stage"),
        (features.extended.dt(), "ATS"),
        (features.extended.prs(), "PRI"),
    ];
    let words = named.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_string());
    let words: Vec<String> = pasids.into_iter().chain(words).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The stream table: its shape, and how much memory it takes by now.
fn stream_table(smmu: &Driven) -> String {
    let shape = smmu.stream_table_shape();
    let levels = if shape.split.is_some() { "two-level" } else { "linear" };
    let bytes = smmu.table_bytes().stream_table;
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
    let passes = firmware.ats_supported.then(|| "passes translation requests (ATS)".to_string());
    let details = windows
        .chain([snoops.to_string()])
        .chain(passes)
        .chain(host.topology.problems.iter().map(|problem| format!("problem: {problem:?}")));
    let below = below(system, host, None);
    MachineTree {
        label: format!("PCI host bridge {}", firmware.path),
        details: details.collect(),
        children: below,
    }
}

/// The functions right below a bridge, or right below the host bridge.
fn below(system: &System, host: &HostBridge, above: Option<usize>) -> Vec<MachineTree> {
    let of = |endpoint: &&Endpoint| host.topology.functions[endpoint.function].above == above;
    host.endpoints.iter().filter(of).map(|endpoint| function(system, host, endpoint)).collect()
}

fn function(system: &System, host: &HostBridge, endpoint: &Endpoint) -> MachineTree {
    let found = &host.topology.functions[endpoint.function];
    let what = match (found.bridge().is_some(), found.is_nvme(), found.class.base_class()) {
        (true, ..) => "bridge",
        (_, true, _) => "NVMe controller",
        (.., PROCESSING_ACCELERATOR) => "accelerator",
        _ => "device",
    };
    let label = format!("{} {what} {:04x}:{:04x}", endpoint.name, found.vendor, found.device);
    let mut details = standing(&endpoint.standing);
    details
        .extend(endpoint.msi.and_then(|msi| msi.device_id).map(|id| format!("messages as device {id:#x}")));
    let services = system.services(host, endpoint);
    let facts = system.function_facts(host, &services);
    // Of what does not even say that it has address spaces, nobody asks whether it shares them.
    if services.pasids.is_ok() {
        details.push(shares(system, &endpoint.name, &endpoint.standing, &facts));
    }
    MachineTree { label, details, children: below(system, host, Some(endpoint.function)) }
}

/// Base class of processing accelerators. Spec: PCI Code and ID Assignment 1.15, 1.19 "Base Class 12h".
const PROCESSING_ACCELERATOR: u8 = 0x12;

/// A device that firmware tells of.
fn fixed(system: &System, device: &FixedDevice) -> MachineTree {
    let node = &system.firmware.devices[device.index];
    let mut details: Vec<String> =
        node.registers.iter().map(|registers| format!("registers {registers}")).collect();
    details.extend(standing(&device.standing));
    let facts = system.fixed_facts(device);
    if facts.can_stall || facts.pasid_bits > 0 {
        details.push(shares(system, &device.name, &device.standing, &facts));
    }
    leaf(format!("{} {}", device.name, node.compatible.join(", ")), details)
}

fn standing(standing: &Standing) -> Vec<String> {
    let (device, group) = match standing {
        Standing::Uncovered(why) => return vec![format!("not used: {why}")],
        Standing::Behind { device, group } => (device, group),
    };
    let sources: Vec<String> = device.sources().iter().map(|source| source.to_string()).collect();
    let word = if sources.len() == 1 { "stream" } else { "streams" };
    let mut details = vec![format!("{word} {}, group {}", sources.join(", "), group.id())];
    details.extend(group.reserved_regions().iter().map(reserved));
    details
}

/// What a device can do with processes' memory, and what it lacks for that.
fn shares(system: &System, name: &str, standing: &Standing, facts: &DeviceSvaFacts) -> String {
    let way = if facts.can_stall { "stalled where a page is missing" } else { "asks for pages (ATS, PRI)" };
    match system.check(name, standing, facts) {
        Ok(limits) => format!("shares processes' memory: {way}, PASIDs 0x1-{:#x}", limits.last_pasid.get()),
        Err(why) => format!("does not share processes' memory: {why}"),
    }
}

/// What the CPUs have in common.
fn cpus(system: &System) -> MachineTree {
    let count = system.cpus.cpus.count();
    let details = match system.cpus.facts() {
        None => vec!["no page size in common".to_string()],
        Some(facts) => {
            let common = format!(
                "{} pages, {} bits to {} bits, {}-bit",
                system.cpus.page, facts.input_bits, facts.output_bits, facts.asid_bits
            );
            vec![match (&system.cpus.cpus, facts.vhe) {
                (Cores::X86(_), _) => format!("x86-64: {common} PCIDs"),
                (Cores::Arm(_), true) => format!("{common} ASIDs, kernel at EL2"),
                (Cores::Arm(_), false) => format!("{common} ASIDs, kernel at EL1"),
            }]
        }
    };
    leaf(format!("{count} CPUs"), details)
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
