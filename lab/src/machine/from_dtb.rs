//! A machine from a device tree that somebody else wrote, such as QEMU's `virt`: models at the places that the tree names.
//!
//! The disk with the input is plugged into slot 1 of the first host bridge. What the lab has no models for is refused, if DMA depends on
//! it, and left out otherwise.

use std::path::Path;

use model_smmuv3::Config;
use portcullis::firmware::{
    IdMap, IommuKind, Machine, MsiControllerKind, PciConfig, PciHost, PciMsi, Phb3Host, PlatformDevice,
    Stream,
};
use portcullis::pci::Space;
use portcullis::types::{Pa, PaRange, SizeLg2, SourceId};

use super::builtin::shares;
use super::spec::{
    AcceleratorSpec, BridgeKind, HostBridgeSpec, ItsSpec, MachineSpec, Phb3Spec, Plugged, Slot, SmmuSpec,
    Smmuv2Spec,
};
use crate::error::RunError;

/// No device tree is larger. Spec: none; QEMU's are 1 MiB, most of it padding.
const LARGEST_BYTES: u64 = 64 << 20;

/// Reads a device tree file: the machine that it describes, and the tree itself.
///
/// # Errors
///
/// [`RunError::BadInput`]: the file is missing, unreadable or broken. [`RunError::Refused`]: the lab has no model for a part that matters.
pub fn read(path: &Path) -> Result<(MachineSpec, Vec<u8>), RunError> {
    let at = path.display();
    let unreadable = |error| {
        RunError::bad_input(
            at.to_string(),
            format!("cannot be read ({error})"),
            "give the path of a device tree",
        )
    };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > LARGEST_BYTES {
        return Err(RunError::bad_input(
            at,
            "is not a regular file of at most 64 MiB",
            "give the path of a device tree",
        ));
    }
    let tree = std::fs::read(path).map_err(unreadable)?;
    let machine = Machine::from_fdt(&tree).map_err(|error| {
        RunError::bad_input(
            path.display(),
            format!("is no usable device tree: {error}"),
            "correct the tree, or name a built-in machine",
        )
    })?;
    let name =
        path.file_name().map_or_else(|| "device tree".into(), |name| name.to_string_lossy().into_owned());
    Ok((Reader { machine: &machine, name }.spec()?, tree))
}

/// Bits of a physical address. Spec: Arm ARM DDI 0487 M.a, D8.1.7 "Output address size configuration": 52 without FEAT_D128.
const ADDRESS_BITS: u32 = 52;

/// Models' memory comes in pieces of this size.
const CHUNK_BYTES: u64 = 64 << 10;

/// Choice: so much of a machine's memory is used at most. The account of what is touched of it costs two thousandths.
const MOST_RAM_BYTES: u64 = 16 << 30;

/// The whole chunks of memory in a range, as many as are used; none if there is none.
fn whole_chunks(range: PaRange) -> Option<PaRange> {
    let first = range.first().get().checked_next_multiple_of(CHUNK_BYTES)?;
    let end = range.last().get().checked_add(1).unwrap_or(range.last().get()) & !(CHUNK_BYTES - 1);
    PaRange::new(Pa::new(first), end.checked_sub(first)?.min(MOST_RAM_BYTES))
}

/// The first part of a machine that lies where no address reaches.
fn beyond(spec: &MachineSpec) -> Option<Pa> {
    let bridges = spec.host_bridges.iter().flat_map(|bridge| {
        let ecam = match bridge.kind {
            BridgeKind::Ecam(ecam) => Some(ecam),
            BridgeKind::Phb3(_) => None,
        };
        [ecam, Some(bridge.window_32), bridge.window_64].into_iter().flatten()
    });
    let ranges = bridges.chain([spec.ram]).map(PaRange::last);
    let frames = spec.smmus.iter().map(|smmu| smmu.base).chain(spec.smmuv2s.iter().map(|smmu| smmu.base));
    let frames = frames.chain(spec.itses.iter().map(|its| its.base));
    let frames = frames.chain(spec.phb3s().map(|phb| phb.base));
    ranges.chain(frames).find(|at| at.get() >> ADDRESS_BITS != 0)
}

/// What the lab plugs into the first host bridge: trees do not list what can be found by looking.
const SLOTS: [Slot; 2] =
    [Slot { device: 1, what: Plugged::Disk }, Slot { device: 3, what: Plugged::Accelerator }];

/// Where a PHB3's messages go, from its registers.
const MESSAGES_OFFSET: u64 = 0x10_0000;

/// What platform accelerators are compatible with. Spec: docs/accelerator.md.
const ACCELERATOR: &str = "portcullis,accelerator";

struct Reader<'a> {
    machine: &'a Machine,
    name: String,
}

impl Reader<'_> {
    fn refused(&self, what: impl core::fmt::Display) -> RunError {
        RunError::refused(
            &self.name,
            what,
            "the lab models SMMUv3, SMMUv2, GICv3 ITS, pci-host-ecam-generic and PHB3",
        )
    }

    fn spec(&self) -> Result<MachineSpec, RunError> {
        let largest = self.machine.memory.iter().max_by_key(|range| range.len_bytes());
        let ram = *largest.ok_or_else(|| self.refused("it has no memory"))?;
        let ram = whole_chunks(ram).ok_or_else(|| self.refused(format!("too little memory at {ram}")))?;
        let smmus = self.smmus()?;
        let smmuv2s = self.smmuv2s();
        let itses = self.itses();
        let hosts = self.machine.pci_hosts.iter().enumerate();
        let host_bridges =
            hosts.map(|(index, host)| self.host_bridge(index, host)).collect::<Result<Vec<_>, _>>()?;
        if host_bridges.is_empty() {
            return Err(self.refused("it has no PCI host bridge for a disk"));
        }
        let model = if self.machine.model.is_empty() {
            &self.machine.compatible.join(", ")
        } else {
            &self.machine.model
        };
        let summary = format!("from a device tree: {model}");
        let spec = MachineSpec {
            smmus,
            smmuv2s,
            itses,
            host_bridges,
            accelerators: self.accelerators()?,
            // Observed: Linux on POWER8 is built for pages of 64 KiB.
            page: if self.has_phb3() { SizeLg2::KIB_64 } else { SizeLg2::KIB_4 },
            ..MachineSpec::bare(&self.name, summary, ram)
        };
        match beyond(&spec) {
            Some(at) => {
                let what = format!("{at} is beyond the {ADDRESS_BITS} bits of any machine's addresses");
                Err(RunError::bad_input(&self.name, what, "correct the tree, or name a built-in machine"))
            }
            None => Ok(spec),
        }
    }

    fn has_phb3(&self) -> bool {
        self.machine.iommus.iter().any(|node| node.kind == IommuKind::Phb3)
    }

    fn smmus(&self) -> Result<Vec<SmmuSpec>, RunError> {
        let iommu = |node: &portcullis::firmware::IommuNode| match (node.kind, node.registers.first()) {
            (IommuKind::SmmuV3, Some(frame)) => {
                let msi_source = node.msi.first().and_then(|target| target.device_id).map(SourceId);
                // What the hardware is like, no tree says: it has everything.
                let config = Config { coherent: node.dma_coherent, msi_source, ..shares(Config::default()) };
                Ok(SmmuSpec { base: frame.first(), coherent: node.dma_coherent, config })
            }
            _ => Err(self.refused(format!(
                "no model of the IOMMU {} ({})",
                node.path,
                node.compatible.join(", ")
            ))),
        };
        let others = |node: &&portcullis::firmware::IommuNode| {
            !matches!(node.kind, IommuKind::Phb3 | IommuKind::SmmuV2 | IommuKind::Mmu500)
        };
        self.machine.iommus.iter().filter(others).map(iommu).collect()
    }

    /// What the hardware is like, no tree says: it is the lab's.
    fn smmuv2s(&self) -> Vec<Smmuv2Spec> {
        let ones = self
            .machine
            .iommus
            .iter()
            .filter(|node| matches!(node.kind, IommuKind::SmmuV2 | IommuKind::Mmu500));
        ones.filter_map(|node| {
            let base = node.registers.first()?.first();
            let config =
                model_smmuv2::Config { coherent_walks: node.dma_coherent, ..model_smmuv2::Config::default() };
            Some(Smmuv2Spec { base, coherent: node.dma_coherent, config })
        })
        .collect()
    }

    /// The index by which a spec knows the SMMU that is IOMMU `iommu` of the tree: those of version 2 come behind.
    fn smmu_index(&self, iommu: usize) -> usize {
        let is_v2 = |at: usize| matches!(self.machine.iommus[at].kind, IommuKind::SmmuV2 | IommuKind::Mmu500);
        let before = (0..iommu).filter(|&at| is_v2(at) == is_v2(iommu)).count();
        let v3s = (0..self.machine.iommus.len()).filter(|&at| !is_v2(at)).count();
        if is_v2(iommu) { v3s + before } else { before }
    }

    fn itses(&self) -> Vec<ItsSpec> {
        let its = self
            .machine
            .msi_controllers
            .iter()
            .filter(|controller| controller.kind == MsiControllerKind::Its);
        its.filter_map(|its| its.registers.first()).map(|frame| ItsSpec { base: frame.first() }).collect()
    }

    fn host_bridge(&self, index: usize, host: &PciHost) -> Result<HostBridgeSpec, RunError> {
        let window = |wanted: Space| {
            let found = host.windows.iter().find(|window| window.space == wanted);
            found.and_then(|window| PaRange::new(window.cpu_first, window.size_bytes))
        };
        let window_32 = window(Space::Memory32)
            .ok_or_else(|| self.refused(format!("{} has no 32-bit window", host.path)))?;
        if *host.buses.start() != 0 {
            return Err(self.refused(format!("{}: its buses do not begin at 0", host.path)));
        }
        let kind = match &host.config {
            PciConfig::Ecam(all) => {
                let buses = u64::from(*host.buses.end()) + 1;
                let ecam = PaRange::new(all.first(), buses << 20).filter(|ecam| all.covers(*ecam));
                BridgeKind::Ecam(ecam.unwrap_or(*all))
            }
            PciConfig::Phb3(phb) => return self.phb3(index, host, phb, window_32),
        };
        let its = match &host.msi {
            PciMsi::None => None,
            PciMsi::Parent(controller) => Some((*controller, 0)),
            PciMsi::Map(map) => Some(self.single(host, map)?),
        };
        let its = its.map(|(controller, base)| (self.its_index(controller), base));
        Ok(HostBridgeSpec {
            kind,
            last_bus: *host.buses.end(),
            window_32,
            window_64: window(Space::Memory64),
            coherent: host.dma_coherent,
            ats: host.ats_supported,
            smmu: host
                .iommu_map
                .as_ref()
                .map(|map| self.single(host, map))
                .transpose()?
                .map(|(iommu, base)| (self.smmu_index(iommu), base)),
            its: its.and_then(|(its, base)| Some((its?, base))),
            slots: if index == 0 { SLOTS.to_vec() } else { Vec::new() },
        })
    }

    /// A PHB3. Its messages go somewhere behind its registers, where the model takes them: no tree says where inside the real one that is.
    fn phb3(
        &self,
        index: usize,
        host: &PciHost,
        phb: &Phb3Host,
        window_32: PaRange,
    ) -> Result<HostBridgeSpec, RunError> {
        let base = phb.registers.first();
        let doorbell = base.checked_add(MESSAGES_OFFSET);
        let doorbell = doorbell.ok_or_else(|| self.refused(format!("{}: no room behind it", host.path)))?;
        let of_window = host.windows.iter().find(|window| window.cpu_first == window_32.first());
        let pci_first = of_window.map_or(0, |window| window.bus_first);
        Ok(HostBridgeSpec {
            kind: BridgeKind::Phb3(Phb3Spec { base, pci_first, config: model_ioda2::Config::new(doorbell) }),
            last_bus: *host.buses.end(),
            window_32,
            window_64: None,
            coherent: true,
            ats: false,
            smmu: None,
            its: None,
            slots: if index == 0 { vec![SLOTS[0]] } else { Vec::new() },
        })
    }

    /// The devices that the lab has models of. Others are left out: nobody drives them.
    fn accelerators(&self) -> Result<Vec<AcceleratorSpec>, RunError> {
        let is_one = |device: &&PlatformDevice| device.compatible.iter().any(|name| name == ACCELERATOR);
        self.machine.devices.iter().filter(is_one).map(|device| self.accelerator(device)).collect()
    }

    fn accelerator(&self, device: &PlatformDevice) -> Result<AcceleratorSpec, RunError> {
        let wrong = |what: &str| self.refused(format!("{}: {what}", device.path));
        let registers = device.registers.first().ok_or_else(|| wrong("it has no registers"))?;
        let sources: Vec<SourceId> = device.streams.iter().filter_map(Stream::source).collect();
        let [reads, writes] = sources[..] else {
            return Err(wrong("an accelerator has two stream ids, for reads and for writes"));
        };
        let smmu = device.streams[0].iommu;
        if device.streams.iter().any(|stream| stream.iommu != smmu) {
            return Err(wrong("its stream ids are at different IOMMUs"));
        }
        Ok(AcceleratorSpec {
            base: registers.first(),
            smmu: self.smmu_index(smmu),
            sources: [reads, writes],
            pasid_bits: device.pasid_bits,
            can_stall: device.can_stall,
            coherent: device.dma_coherent,
        })
    }

    /// Where a map leads, if all of it adds the same number.
    fn single(&self, host: &PciHost, map: &IdMap) -> Result<(usize, u32), RunError> {
        let bases: Vec<_> = map
            .entries()
            .iter()
            .map(|entry| (entry.target, entry.base.wrapping_sub(u32::from(entry.first))))
            .collect();
        match bases.split_first() {
            Some((first, rest)) if map.mask() & 0xffff == 0xffff && rest.iter().all(|base| base == first) => {
                Ok(*first)
            }
            _ => Err(self
                .refused(format!("{}: a map of requester ids that does more than add a number", host.path))),
        }
    }

    /// The ITS among the ITSes that a controller of the firmware's list is.
    fn its_index(&self, controller: usize) -> Option<usize> {
        let before = self.machine.msi_controllers.get(..controller)?;
        let is_its = |kind| kind == MsiControllerKind::Its;
        let found = self.machine.msi_controllers.get(controller)?;
        is_its(found.kind).then(|| before.iter().filter(|controller| is_its(controller.kind)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{builtin, fdt};

    #[test]
    fn an_accelerator_is_behind_the_smmu_that_its_tree_says_also_where_one_of_another_version_comes_before() {
        let mut spec = builtin::find("arm").unwrap();
        let base = Pa::new(0x0907_0000);
        spec.smmuv2s = vec![Smmuv2Spec { base, ..builtin::find("smmuv2").unwrap().smmuv2s[0].clone() }];
        let mut machine = Machine::from_fdt(&fdt::emit(&spec).unwrap()).unwrap();
        assert!(matches!(machine.iommus[..], [ref first, _] if first.kind == IommuKind::SmmuV3));
        // As if the other one came first in the tree.
        machine.iommus.reverse();
        machine.devices.iter_mut().flat_map(|device| &mut device.streams).for_each(|one| one.iommu ^= 1);
        let read = Reader { machine: &machine, name: "reversed".into() }.accelerators().unwrap();
        assert_eq!(read.iter().map(|one| one.smmu).collect::<Vec<_>>(), [0]);
    }
}
