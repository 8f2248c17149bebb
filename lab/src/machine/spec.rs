//! What a machine consists of, as data: the one source of its models and of its device tree.
//!
//! Not here: the models (`build`), the device tree (`fdt`), the machines that come with the lab (`builtin`).

use model_cpu::{CpuFeatures, x86};
use model_ioda2 as ioda2;
use model_smmuv2 as smmuv2;
use model_smmuv3 as smmuv3;
use model_vtd as vtd;
use portcullis::types::{IovaRange, Pa, PaRange, SizeLg2, SourceId};

/// A machine.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The name by which `--machine` knows it.
    pub name: String,
    /// One line for a list of machines.
    pub summary: String,
    /// Memory.
    pub ram: PaRange,
    /// What each CPU can do. A PC's are x86's, and said with what makes it one.
    pub cpus: Vec<CpuFeatures>,
    /// The page size that the machine's kernel is made for: 4, 16 or 64 KiB.
    pub page: SizeLg2,
    /// SMMUv3s.
    pub smmus: Vec<SmmuSpec>,
    /// SMMUv2s. Where an SMMU is meant by its index, they come behind the SMMUv3s.
    pub smmuv2s: Vec<Smmuv2Spec>,
    /// GICv3 ITSes.
    pub itses: Vec<ItsSpec>,
    /// PCIe host bridges.
    pub host_bridges: Vec<HostBridgeSpec>,
    /// Accelerators that are no PCI devices.
    pub accelerators: Vec<AcceleratorSpec>,
    /// Memory that firmware reserves for devices.
    pub reserved: Vec<ReservedSpec>,
    /// Whether an Arm machine's firmware tells of it by ACPI's tables, IORT among them, and not by a device tree. A PC's always does.
    pub acpi: bool,
    /// What makes it a PC, if it is one.
    pub pc: Option<PcSpec>,
}

/// What makes a machine a PC: its CPUs are x86's, firmware tells of it by ACPI's tables, messages end at the CPUs' local APICs, and its IOMMUs are VT-d units.
#[derive(Clone, Debug, Default)]
pub struct PcSpec {
    /// What each CPU can do.
    pub cpus: Vec<x86::CpuFeatures>,
    /// VT-d units. Every host bridge's functions are behind the one that names them, or else behind the one for all that is left. Where an IOMMU is meant by its index, it is one
    /// of these.
    pub units: Vec<VtdSpec>,
    /// Which of the root ports of host bridges that pass on what devices with an ATC say do so, by host bridge and device number. None: all.
    pub ats_ports: Option<Vec<(usize, u8)>>,
    /// Devices on root buses whose ATC firmware says to be right. None: it says of nobody.
    pub satc: Option<Vec<(usize, u8)>>,
}

/// A VT-d unit.
#[derive(Clone, Debug)]
pub struct VtdSpec {
    /// Where its registers are (8 KiB).
    pub base: Pa,
    /// What the hardware can do.
    pub config: vtd::Config,
    /// The host bridge below which its devices are: a unit has one.
    pub bridge: usize,
    /// Whom it covers, and all that is below: the ways there, by device numbers from the root bus on. None: all that no other unit covers.
    pub ways: Option<Vec<Vec<u8>>>,
}

/// Where something is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Below which host bridge.
    pub bridge: usize,
    /// The device numbers on the way there from the root bus on. All are of function 0.
    pub way: Vec<u8>,
}

/// An SMMUv3.
#[derive(Clone, Debug)]
pub struct SmmuSpec {
    /// Where its registers are (128 KiB).
    pub base: Pa,
    /// Whether it reads tables through the CPU's caches, as firmware says.
    pub coherent: bool,
    /// What the hardware can do.
    pub config: smmuv3::Config,
}

/// An SMMUv2.
#[derive(Clone, Debug)]
pub struct Smmuv2Spec {
    /// Where its registers are; how many there are, its configuration says.
    pub base: Pa,
    /// Whether it reads tables through the CPU's caches, as firmware says.
    pub coherent: bool,
    /// What the hardware can do.
    pub config: smmuv2::Config,
}

/// A GICv3 ITS.
#[derive(Clone, Debug)]
pub struct ItsSpec {
    /// Where its registers are (128 KiB).
    pub base: Pa,
}

/// A PCIe host bridge.
#[derive(Clone, Debug)]
pub struct HostBridgeSpec {
    /// How configuration space is reached, and what else comes with that.
    pub kind: BridgeKind,
    /// The highest bus number.
    pub last_bus: u8,
    /// 32-bit memory window.
    pub window_32: PaRange,
    /// 64-bit memory window.
    pub window_64: Option<PaRange>,
    /// Whether its devices snoop the CPU's caches.
    pub coherent: bool,
    /// Whether it passes on what devices with an ATC say.
    pub ats: bool,
    /// The SMMU in front of memory, of either version, and the StreamID of requester id 0. None: its devices reach memory untranslated, or by the bridge itself.
    pub smmu: Option<(usize, u32)>,
    /// The ITS, and the DeviceID of requester id 0.
    pub its: Option<(usize, u32)>,
    /// What is plugged in.
    pub slots: Vec<Slot>,
}

/// What kind of host bridge it is.
#[derive(Clone, Debug)]
pub enum BridgeKind {
    /// One with an ECAM: 1 MiB of configuration space for each bus from 0 on.
    Ecam(PaRange),
    /// A PHB3, which is the IOMMU of its devices and takes their messages.
    Phb3(Phb3Spec),
}

/// A POWER8 PHB3.
#[derive(Clone, Debug)]
pub struct Phb3Spec {
    /// Where its registers are (4 KiB).
    pub base: Pa,
    /// What the first address of the bridge's 32-bit window is on the bus.
    pub pci_first: u64,
    /// What the hardware is like.
    pub config: ioda2::Config,
}

/// What sits at a device number of a host bridge's root bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Device number on bus 0, 0 to 31.
    pub device: u8,
    /// What it is.
    pub what: Plugged,
}

/// A device, or a port with a device behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugged {
    /// An NVMe disk: the workload's FILE.
    Disk,
    /// A root port, with or without ACS, and an NVMe disk behind it.
    PortWithDisk {
        /// Whether the port isolates what is behind it.
        acs: bool,
    },
    /// A compression accelerator that shares processes' memory by ATS, PASID and PRI.
    Accelerator,
    /// A root port with ACS, and such an accelerator behind it.
    PortWithAccelerator,
    /// A root port with ACS, behind it a bridge down to a conventional bus, and there two NVMe disks, which nobody above can tell apart.
    PortWithPciBridge,
}

/// A compression accelerator with registers at a fixed place, which waits for pages by being stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceleratorSpec {
    /// Where its registers are (64 KiB).
    pub base: Pa,
    /// The SMMU in front of memory, or a PC's VT-d unit.
    pub smmu: usize,
    /// Who it is there: when it reads, and when it writes.
    pub sources: [SourceId; 2],
    /// How many bits its PASIDs have, 0 to 20.
    pub pasid_bits: u8,
    /// Whether it can wait for a page (`dma-can-stall`).
    pub can_stall: bool,
    /// Whether it snoops the CPU's caches.
    pub coherent: bool,
}

/// Addresses that firmware keeps for one device.
#[derive(Clone, Debug)]
pub struct ReservedSpec {
    /// Which device: host bridge, and device number of a disk on its root bus itself.
    pub slot: (usize, u8),
    /// The device's addresses.
    pub iova: IovaRange,
    /// The memory behind them; the same number as `iova` makes a direct mapping. None: the addresses are never to be mapped.
    pub memory: Option<PaRange>,
}

impl Plugged {
    /// The ways to bridges in it, in the order in which they are found, from the slot on.
    pub(super) fn bridges(self) -> &'static [&'static [u8]] {
        match self {
            Self::Disk | Self::Accelerator => &[],
            Self::PortWithDisk { .. } | Self::PortWithAccelerator => &[&[]],
            Self::PortWithPciBridge => &[&[], &[0]],
        }
    }

    /// The ways to disks in it.
    fn disks(self) -> &'static [&'static [u8]] {
        match self {
            Self::Disk => &[&[]],
            Self::PortWithDisk { .. } => &[&[0]],
            Self::PortWithPciBridge => &[&[0, 1], &[0, 2]],
            Self::Accelerator | Self::PortWithAccelerator => &[],
        }
    }

    /// The ways to accelerators in it.
    fn accelerators(self) -> &'static [&'static [u8]] {
        match self {
            Self::Accelerator => &[&[]],
            Self::PortWithAccelerator => &[&[0]],
            Self::Disk | Self::PortWithDisk { .. } | Self::PortWithPciBridge => &[],
        }
    }
}

impl HostBridgeSpec {
    /// The PHB3 that it is, if it is one.
    pub fn phb3(&self) -> Option<&Phb3Spec> {
        match &self.kind {
            BridgeKind::Phb3(phb) => Some(phb),
            BridgeKind::Ecam(_) => None,
        }
    }
}

impl MachineSpec {
    /// A machine of memory and two CPUs of the common kind, with a kernel of 4 KiB pages: what others are made from.
    pub fn bare(name: impl Into<String>, summary: impl Into<String>, ram: PaRange) -> Self {
        Self {
            name: name.into(),
            summary: summary.into(),
            ram,
            cpus: vec![CpuFeatures::COMMON; 2],
            page: SizeLg2::KIB_4,
            smmus: Vec::new(),
            smmuv2s: Vec::new(),
            itses: Vec::new(),
            host_bridges: Vec::new(),
            accelerators: Vec::new(),
            reserved: Vec::new(),
            acpi: false,
            pc: None,
        }
    }

    /// Bits of a StreamID of an SMMU, those of version 2 behind those of version 3; 0 if there is none.
    pub fn stream_bits(&self, smmu: usize) -> u8 {
        match smmu.checked_sub(self.smmus.len()) {
            None => self.smmus[smmu].config.stream_id_bits,
            Some(smmu) => self.smmuv2s.get(smmu).map_or(0, |smmu| smmu.config.stream_id_bits),
        }
    }

    /// Its PHB3s, in the order of its host bridges.
    pub fn phb3s(&self) -> impl Iterator<Item = &Phb3Spec> {
        self.host_bridges.iter().filter_map(HostBridgeSpec::phb3)
    }

    /// All memory but what firmware reserves.
    pub fn usable_memory(&self) -> Vec<PaRange> {
        let mut memory = vec![self.ram];
        for taken in self.reserved.iter().filter_map(|region| region.memory) {
            memory = memory.into_iter().flat_map(|range| without(range, taken)).collect();
        }
        memory
    }

    /// Where the disks are.
    pub fn disks(&self) -> impl Iterator<Item = Place> + '_ {
        self.places(Plugged::disks)
    }

    /// Where the accelerators on PCIe are.
    pub fn pcie_accelerators(&self) -> impl Iterator<Item = Place> + '_ {
        self.places(Plugged::accelerators)
    }

    fn places<'a>(
        &'a self,
        ways: impl Fn(Plugged) -> &'static [&'static [u8]] + Copy + 'a,
    ) -> impl Iterator<Item = Place> + 'a {
        let slots = self.host_bridges.iter().enumerate();
        let slots = slots.flat_map(|(bridge, spec)| spec.slots.iter().map(move |&slot| (bridge, slot)));
        slots.flat_map(move |(bridge, slot)| {
            let place = move |rest: &&[u8]| Place { bridge, way: [&[slot.device], *rest].concat() };
            ways(slot.what).iter().map(place)
        })
    }

    /// The name that enumeration gives the device in a place: buses below bridges get their numbers in the order of the bridges.
    pub fn device_name(&self, place: &Place) -> String {
        let Place { bridge, way } = place;
        let (device, above) = way.split_last().expect("a way leads somewhere");
        let before = |other: &Place| other.bridge == *bridge && other.way[..] <= *above;
        let bus = if above.is_empty() { 0 } else { self.places(Plugged::bridges).filter(before).count() };
        format!("{bridge:04x}:{bus:02x}:{device:02x}.0")
    }

    /// The VT-d unit that a place is behind, as hardware is wired: the one that names the longest part of the way, or else the one for all that is left. None if there is none.
    pub fn unit_of(&self, bridge: usize, way: &[u8]) -> Option<usize> {
        let units = &self.pc.as_ref()?.units;
        let names = |unit: &VtdSpec| {
            let named = unit.ways.iter().flatten().filter(|named| way.starts_with(named));
            named.map(|named| named.len() + 1).max().or(unit.ways.is_none().then_some(0))
        };
        let here = units.iter().enumerate().filter(|(_, unit)| unit.bridge == bridge);
        let naming = here.filter_map(|(index, unit)| Some((names(unit)?, index)));
        naming.max_by_key(|&(length, _)| length).map(|(_, index)| index)
    }
}

impl AcceleratorSpec {
    /// The name that firmware gives it.
    pub fn name(&self) -> String {
        format!("/{}", self.node_name())
    }

    /// The name that ACPI's name space has for it.
    pub(crate) fn acpi_name(&self) -> String {
        format!("\\_SB.A{:03X}", self.base.get() >> 16 & 0xfff)
    }

    pub(super) fn node_name(&self) -> String {
        format!("accelerator@{:x}", self.base)
    }
}

/// What of `range` is not in `taken`: what is below it, and what is above.
fn without(range: PaRange, taken: PaRange) -> impl Iterator<Item = PaRange> {
    let below = taken
        .first()
        .checked_sub(1)
        .and_then(|last| PaRange::from_ends(range.first(), last.min(range.last())));
    let above = taken
        .last()
        .checked_add(1)
        .and_then(|first: Pa| PaRange::from_ends(first.max(range.first()), range.last()));
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> PaRange {
        PaRange::from_ends(Pa::new(first), Pa::new(last)).unwrap()
    }

    #[test]
    fn what_firmware_reserves_is_not_the_kernels_to_use() {
        let usable = |name| crate::machine::builtin::find(name).unwrap().usable_memory();
        assert_eq!(usable("x86"), [range(0x10_0000, 0x3ffe_ffff), range(0x4000_0000, 0x4000_ffff)]);
        assert_eq!(usable("arm"), [range(0x4000_0000, 0x4ffe_ffff), range(0x5000_0000, 0x7fff_ffff)]);
    }

    #[test]
    fn what_is_taken_out_leaves_what_is_around_it() {
        let left = |first, last| without(range(10, 20), range(first, last)).collect::<Vec<_>>();
        assert_eq!(left(12, 15), [range(10, 11), range(16, 20)]);
        assert_eq!(left(0, 12), [range(13, 20)]);
        assert_eq!(left(20, 30), [range(10, 19)]);
        assert_eq!(left(0, u64::MAX), []);
        assert_eq!(left(30, 40), [range(10, 20)]);
    }
}
