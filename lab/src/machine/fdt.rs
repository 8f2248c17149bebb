//! The device tree that a machine's firmware would hand over.
//!
//! Emitted from the same [`MachineSpec`] as the models, in the bindings' words; discovery reads nothing else.

use portcullis::types::{Pa, PaRange};
use vm_fdt::{Error, FdtWriter};

use super::spec::{
    AcceleratorSpec, BridgeKind, HostBridgeSpec, MachineSpec, Phb3Spec, Plugged, Slot, Smmuv2Spec,
};

const GIC: u32 = 1;
const FIRST_ITS: u32 = 0x10;
const FIRST_SMMU: u32 = 0x20;
const FIRST_SLOT: u32 = 0x100;

/// What an accelerator that is no PCI device is compatible with. Spec: docs/accelerator.md.
pub(crate) const ACCELERATOR: &str = "portcullis,accelerator";

/// Size of an accelerator's registers. Spec: docs/accelerator.md.
pub(crate) const ACCELERATOR_BYTES: u64 = 0x1_0000;

/// Size of the register frames of an SMMUv3 and of an ITS.
pub(crate) const FRAME_BYTES: u64 = 0x2_0000;

/// Size of the registers of a PHB3.
const PHB3_BYTES: u64 = 0x1000;

/// PCI `phys.hi` codes of 32-bit and 64-bit memory space. Spec: IEEE 1275 PCI bus binding, 2.2.1.1 "Numerical Representation".
const SPACE_32: u32 = 0x0200_0000;
const SPACE_64: u32 = 0x0300_0000;

/// The machine's flattened device tree.
///
/// # Errors
///
/// The writer's, for names or sizes that a device tree cannot hold.
pub fn emit(spec: &MachineSpec) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "portcullis,lab")?;
    fdt.property_string("model", &spec.name)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    let with_gic = spec.phb3s().next().is_none();
    if with_gic {
        fdt.property_u32("interrupt-parent", GIC)?;
    }

    let memory = fdt.begin_node(&format!("memory@{:x}", spec.ram.first()))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u32("reg", &reg(spec.ram))?;
    fdt.end_node(memory)?;

    reserved_memory(&mut fdt, spec)?;
    if with_gic {
        interrupt_controller(&mut fdt, spec)?;
    }
    for (index, smmu) in spec.smmus.iter().enumerate() {
        let node = fdt.begin_node(&format!("iommu@{:x}", smmu.base))?;
        fdt.property_string("compatible", "arm,smmu-v3")?;
        fdt.property_array_u32("reg", &reg(frame(smmu.base)))?;
        fdt.property_u32("#iommu-cells", 1)?;
        // Edge-triggered SPIs, as the binding wants when the SMMU does not send MSIs.
        let spi = 74 + 4 * index_u32(index);
        fdt.property_array_u32("interrupts", &[0, spi, 1, 0, spi + 1, 1, 0, spi + 2, 1, 0, spi + 3, 1])?;
        let names = ["eventq", "priq", "cmdq-sync", "gerror"].map(String::from);
        fdt.property_string_list("interrupt-names", names.to_vec())?;
        if smmu.coherent {
            fdt.property_null("dma-coherent")?;
        }
        if let Some(device_id) = smmu.config.msi_source.filter(|_| smmu.config.msi) {
            fdt.property_array_u32("msi-parent", &[FIRST_ITS, device_id.0])?;
        }
        fdt.property_phandle(FIRST_SMMU + index_u32(index))?;
        fdt.end_node(node)?;
    }
    for (index, smmu) in spec.smmuv2s.iter().enumerate() {
        smmuv2(&mut fdt, spec.smmus.len() + index, smmu)?;
    }
    for (index, bridge) in spec.host_bridges.iter().enumerate() {
        match &bridge.kind {
            BridgeKind::Ecam(ecam) => host_bridge(&mut fdt, spec, index, bridge, *ecam)?,
            BridgeKind::Phb3(phb) => phb3(&mut fdt, index, bridge, phb)?,
        }
    }
    spec.accelerators.iter().try_for_each(|device| accelerator(&mut fdt, device))?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn reserved_memory(fdt: &mut FdtWriter, spec: &MachineSpec) -> Result<(), Error> {
    if spec.reserved.is_empty() {
        return Ok(());
    }
    let node = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    for region in &spec.reserved {
        let name = match region.memory {
            Some(memory) => format!("region@{:x}", memory.first()),
            None => format!("hole-{:x}", region.iova.first()),
        };
        let child = fdt.begin_node(&name)?;
        if let Some(memory) = region.memory {
            fdt.property_array_u32("reg", &reg(memory))?;
        }
        let [base_hi, base_lo] = cells(region.iova.first().get());
        let [len_hi, len_lo] = cells(region.iova.len_bytes().unwrap_or(0));
        let device = slot_phandle(region.slot.0, region.slot.1);
        // Three cells of address: the device is on a PCI bus, and writes them as that bus does.
        let entry = [device, SPACE_64, base_hi, base_lo, len_hi, len_lo];
        fdt.property_array_u32("iommu-addresses", &entry)?;
        fdt.end_node(child)?;
    }
    fdt.end_node(node)
}

fn interrupt_controller(fdt: &mut FdtWriter, spec: &MachineSpec) -> Result<(), Error> {
    let gic = fdt.begin_node("interrupt-controller@8000000")?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let distributor = PaRange::new(Pa::new(0x0800_0000), 0x1_0000);
    let redistributors = PaRange::new(Pa::new(0x080a_0000), 0x2_0000);
    let frames = [distributor, redistributors].into_iter().flatten().flat_map(reg);
    fdt.property_array_u32("reg", &frames.collect::<Vec<_>>())?;
    fdt.property_phandle(GIC)?;
    for (index, its) in spec.itses.iter().enumerate() {
        let node = fdt.begin_node(&format!("msi-controller@{:x}", its.base))?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.property_null("msi-controller")?;
        fdt.property_u32("#msi-cells", 1)?;
        fdt.property_array_u32("reg", &reg(frame(its.base)))?;
        fdt.property_phandle(FIRST_ITS + index_u32(index))?;
        fdt.end_node(node)?;
    }
    fdt.end_node(gic)
}

fn host_bridge(
    fdt: &mut FdtWriter,
    spec: &MachineSpec,
    index: usize,
    bridge: &HostBridgeSpec,
    ecam: PaRange,
) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pcie@{:x}", ecam.first()))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_array_u32("reg", &reg(ecam))?;
    fdt.property_array_u32("bus-range", &[0, u32::from(bridge.last_bus)])?;
    fdt.property_u32("linux,pci-domain", index_u32(index))?;
    let mut ranges = window(SPACE_32, bridge.window_32).to_vec();
    ranges.extend(bridge.window_64.into_iter().flat_map(|range| window(SPACE_64, range)));
    fdt.property_array_u32("ranges", &ranges)?;
    if bridge.coherent {
        fdt.property_null("dma-coherent")?;
    }
    if bridge.ats {
        fdt.property_null("ats-supported")?;
    }
    let requester_ids = (u32::from(bridge.last_bus) + 1) << 8;
    if let Some((smmu, base)) = bridge.smmu {
        // A small SMMU cannot tell all of a bus apart; slots beyond are not covered. Nor are those whose ids are other devices'.
        let others = spec.accelerators.iter().filter(|device| device.smmu == smmu).flat_map(|d| d.sources);
        let first_other = others.map(|source| source.0).filter(|&source| source >= base).min();
        let streams = (1 << spec.stream_bits(smmu).min(16)).min(first_other.unwrap_or(u32::MAX));
        let map = [0, FIRST_SMMU + index_u32(smmu), base, requester_ids.min(streams - base)];
        fdt.property_array_u32("iommu-map", &map)?;
    }
    if let Some((its, base)) = bridge.its {
        fdt.property_array_u32("msi-map", &[0, FIRST_ITS + index_u32(its), base, requester_ids])?;
    }
    for slot in &bridge.slots {
        if spec.reserved.iter().any(|region| region.slot == (index, slot.device)) {
            function_node(fdt, index, *slot)?;
        }
    }
    fdt.end_node(node)
}

/// An SMMUv2, which is the SMMU of this index. One interrupt of global faults, and one for each context bank.
fn smmuv2(fdt: &mut FdtWriter, index: usize, smmu: &Smmuv2Spec) -> Result<(), Error> {
    let registers = PaRange::new(smmu.base, smmu.config.size_bytes()).into_iter().flat_map(reg);
    let node = fdt.begin_node(&format!("iommu@{:x}", smmu.base))?;
    fdt.property_string("compatible", "arm,smmu-v2")?;
    fdt.property_array_u32("reg", &registers.collect::<Vec<_>>())?;
    fdt.property_u32("#iommu-cells", 1)?;
    fdt.property_u32("#global-interrupts", 1)?;
    // Level-triggered SPIs, as the binding wants.
    let first = 74 + 4 * index_u32(index);
    let lines = (0..=u32::from(smmu.config.banks)).flat_map(|line| [0, first + line, 4]);
    fdt.property_array_u32("interrupts", &lines.collect::<Vec<_>>())?;
    if smmu.coherent {
        fdt.property_null("dma-coherent")?;
    }
    fdt.property_phandle(FIRST_SMMU + index_u32(index))?;
    fdt.end_node(node)
}

/// A PHB3. Observed: skiboot hw/phb3.c, `phb3_add_properties`, `phb3_probe_pbcq`; include/phb3.h, for the numbers.
fn phb3(fdt: &mut FdtWriter, index: usize, bridge: &HostBridgeSpec, phb: &Phb3Spec) -> Result<(), Error> {
    let registers = PaRange::new(phb.base, PHB3_BYTES).into_iter().flat_map(reg);
    let node = fdt.begin_node(&format!("pciex@{:x}", phb.base))?;
    fdt.property_string_list("compatible", ["ibm,power8-pciex", "ibm,ioda2-phb"].map(String::from).to_vec())?;
    fdt.property_string("device_type", "pciex")?;
    fdt.property_array_u32("reg", &registers.collect::<Vec<_>>())?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_array_u32("bus-range", &[0, u32::from(bridge.last_bus)])?;
    let [_, _, _, cpu_hi, cpu_lo, len_hi, len_lo] = window(SPACE_32, bridge.window_32);
    let [pci_hi, pci_lo] = cells(phb.pci_first);
    fdt.property_array_u32("ranges", &[SPACE_32, pci_hi, pci_lo, cpu_hi, cpu_lo, len_hi, len_lo])?;
    fdt.property_array_u32("ibm,opal-phbid", &[0, index_u32(index)])?;
    fdt.property_u32("ibm,opal-num-pes", 256)?;
    fdt.property_u32("ibm,opal-reserved-pe", 255)?;
    // The last 8 of its interrupts are lines.
    fdt.property_array_u32("ibm,opal-msi-ranges", &[0x1000, 0x7f8])?;
    fdt.property_array_u32("ibm,supported-tce-sizes", &[12, 16, 24, 28])?;
    fdt.end_node(node)
}

/// An accelerator that is no PCI device. Its first source is for reads, its second for writes.
fn accelerator(fdt: &mut FdtWriter, device: &AcceleratorSpec) -> Result<(), Error> {
    let registers = PaRange::new(device.base, ACCELERATOR_BYTES).into_iter().flat_map(reg);
    let smmu = FIRST_SMMU + index_u32(device.smmu);
    let node = fdt.begin_node(&device.node_name())?;
    fdt.property_string("compatible", ACCELERATOR)?;
    fdt.property_array_u32("reg", &registers.collect::<Vec<_>>())?;
    fdt.property_array_u32("iommus", &device.sources.map(|source| [smmu, source.0]).concat())?;
    fdt.property_u32("pasid-num-bits", device.pasid_bits.into())?;
    if device.can_stall {
        fdt.property_null("dma-can-stall")?;
    }
    if device.coherent {
        fdt.property_null("dma-coherent")?;
    }
    fdt.end_node(node)
}

/// The node of a function of the root bus, which `iommu-addresses` refers to.
fn function_node(fdt: &mut FdtWriter, bridge: usize, slot: Slot) -> Result<(), Error> {
    let kind = if slot.what == Plugged::Accelerator { "accelerator" } else { "nvme" };
    let node = fdt.begin_node(&format!("{kind}@{:x},0", slot.device))?;
    fdt.property_array_u32("reg", &[u32::from(slot.device) << 11, 0, 0, 0, 0])?;
    fdt.property_phandle(slot_phandle(bridge, slot.device))?;
    fdt.end_node(node)
}

fn slot_phandle(bridge: usize, device: u8) -> u32 {
    FIRST_SLOT + 32 * index_u32(bridge) + u32::from(device)
}

fn frame(base: Pa) -> PaRange {
    PaRange::new(base, FRAME_BYTES).expect("a register frame lies below the end of the address space")
}

fn reg(range: PaRange) -> [u32; 4] {
    let [first_hi, first_lo] = cells(range.first().get());
    let [len_hi, len_lo] = cells(range.len_bytes().unwrap_or(0));
    [first_hi, first_lo, len_hi, len_lo]
}

fn window(space: u32, range: PaRange) -> [u32; 7] {
    let [first_hi, first_lo, len_hi, len_lo] = reg(range);
    [space, first_hi, first_lo, first_hi, first_lo, len_hi, len_lo]
}

fn cells(number: u64) -> [u32; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    [(number >> 32) as u32, number as u32]
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a machine has few parts")
}
