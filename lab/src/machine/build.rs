//! From a [`MachineSpec`] to models on a bus.
//!
//! Not here: anything that a driver does (`boot`).

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use model_bus::{Bus, BusOptions, Caches, Fabric, Stores, Translator, Untranslated, Width};
use model_cpu::{Cpus, TlbPolicy, x86};
use model_devices::accelerator::{AcceleratorOptions, PcieAccelerator, PlatformAccelerator};
use model_devices::apic::LocalApics;
use model_devices::its::Its;
use model_devices::nvme::{FileMedium, Medium, MemoryMedium, Nvme, NvmeOptions};
use model_devices::pcie::{
    Acs, BridgeOptions, Host, PciBus, PortKind, Rid, RidMap, RidRange, RootComplex, RootLayout, SlotTaken,
    Window,
};
use model_ioda2::{self as ioda2, ConfigTarget, Phb3};
use model_smmuv2 as smmuv2;
use model_smmuv3::Smmu;
use model_vtd::{Memory, Vtd};
use portcullis::types::{Pa, PaRange, SourceId};

use super::broadcast::Ear;
use super::fdt::{ACCELERATOR_BYTES, FRAME_BYTES};
use super::interrupts::{BehindUnit, Wire};
use super::qemu;
use super::spec::{
    AcceleratorSpec, BridgeKind, HostBridgeSpec, MachineSpec, PcSpec, Phb3Spec, Plugged, Slot, Smmuv2Spec,
    VtdSpec,
};
use crate::error::RunError;
use crate::input::Opened;
use crate::process::Cores;
use crate::trace::SharedSink;

/// A machine of models, switched on, with nothing driving it.
#[derive(Debug)]
pub struct Machine {
    /// What it was built from.
    pub spec: MachineSpec,
    /// Memory, addresses and time.
    pub bus: Arc<Bus>,
    /// The CPUs.
    pub cpus: Cores,
    /// The SMMUv3s, in the spec's order.
    pub smmus: Vec<Arc<Smmu>>,
    /// The SMMUv2s, in the spec's order.
    pub smmuv2s: Vec<Arc<smmuv2::Smmu>>,
    /// The ITSes, in the spec's order.
    pub itses: Vec<Arc<Its>>,
    /// The local APICs, of a PC.
    pub apics: Option<Arc<LocalApics>>,
    /// The VT-d units, in the spec's order.
    pub vtds: Vec<Arc<Vtd>>,
    /// The PHB3s, in the order of [`MachineSpec::phb3s`].
    pub phbs: Vec<Arc<Phb3>>,
    /// The disks, in the order of [`MachineSpec::disks`].
    pub disks: Vec<Arc<Nvme>>,
    /// The accelerators on PCIe, in the order of [`MachineSpec::pcie_accelerators`].
    pub pcie_accelerators: Vec<Arc<PcieAccelerator>>,
    /// The accelerators that are no PCI devices, in the spec's order.
    pub accelerators: Vec<Arc<PlatformAccelerator>>,
    /// Who is behind the bus instead of models.
    pub qemu: Option<qemu::Behind>,
    seed: u64,
}

/// How much a blank disk holds.
const BLANK_BYTES: usize = 1 << 16;

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub enum DiskContent {
    /// Some blocks of zeroes.
    #[default]
    Blank,
    /// These bytes, and zeroes to the end of the last block.
    Bytes(Vec<u8>),
    /// The bytes of a file, read when they are asked for.
    File(PathBuf),
}

impl DiskContent {
    /// What the input holds. A disk without blocks is none: an empty input is on a blank one.
    pub fn holding(input: &Opened) -> Self {
        match input {
            opened if opened.measure().bytes == 0 => Self::Blank,
            Opened::File(path, _) => Self::File(path.clone()),
            Opened::Sample(bytes, _) => Self::Bytes(bytes.clone()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Devices hold the bus, which holds devices.
        self.cpus.dismantle();
        self.bus.dismantle();
    }
}

impl Machine {
    /// Builds the models of `spec`. The first disk holds `content`, the others are blank. `seed` decides what models are free to decide.
    ///
    /// # Errors
    ///
    /// [`RunError::BadInput`]: parts of the spec overlap, or the file cannot be opened.
    pub fn build(
        spec: MachineSpec,
        content: DiskContent,
        seed: u64,
        sink: &SharedSink,
    ) -> Result<Self, RunError> {
        Self::with_disks(spec, vec![content], seed, sink)
    }

    /// The same, with the contents of disks in the order of [`MachineSpec::disks`]; those beyond are blank.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn with_disks(
        spec: MachineSpec,
        contents: Vec<DiskContent>,
        seed: u64,
        sink: &SharedSink,
    ) -> Result<Self, RunError> {
        let bus = Bus::new(&bus_options(&spec, seed));
        let mut machine = Self::without_devices(spec.clone(), bus, seed);
        for (index, smmu) in spec.smmus.iter().enumerate() {
            let fabric = machine.fabric(smmu.coherent);
            let model = Arc::new(Smmu::new(smmu.config.clone(), fabric, seed ^ index as u64, sink.clone()));
            let frame = PaRange::new(smmu.base, FRAME_BYTES)
                .ok_or_else(|| machine.trouble("an SMMU's registers wrap"))?;
            machine
                .bus
                .add_registers("smmu", frame, model.clone())
                .map_err(|error| machine.trouble(error))?;
            machine.bus.add_clocked(model.clone());
            if smmu.config.broadcast {
                let cpus = machine.cpus.arm().into_iter();
                cpus.for_each(|cpus| cpus.add_listener(Arc::new(Ear(model.clone()))));
            }
            machine.smmus.push(model);
        }
        for smmu in &spec.smmuv2s {
            machine.add_smmuv2(smmu, sink)?;
        }
        for its in &spec.itses {
            let model = Its::new(sink.clone());
            model.connect(&machine.bus, its.base).map_err(|error| machine.trouble(error))?;
            machine.itses.push(model);
        }
        if let Some(pc) = &spec.pc {
            machine.add_pc(pc, sink)?;
        }
        let mut contents = contents.into_iter();
        for (index, bridge) in spec.host_bridges.iter().enumerate() {
            machine.add_bridge(index, bridge, &mut contents, sink)?;
        }
        for accelerator in &spec.accelerators {
            machine.add_accelerator(accelerator, sink)?;
        }
        Ok(machine)
    }

    /// Starts QEMU with a disk that holds `content`. Answers the device tree, too. `seed` decides what the CPU's side is free to decide.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: it did not start, with its last words.
    pub fn on_qemu(
        qemu: &portcullis_qemu::Qemu,
        content: DiskContent,
        seed: u64,
    ) -> Result<(Self, Vec<u8>), RunError> {
        let qemu::Started { spec, bus, behind, device_tree } = qemu::start(qemu, content, seed)?;
        let mut machine = Self::without_devices(spec, bus, seed);
        machine.qemu = Some(behind);
        Ok((machine, device_tree))
    }

    /// The CPUs, and nothing else on the bus.
    fn without_devices(spec: MachineSpec, bus: Arc<Bus>, seed: u64) -> Self {
        let policy = TlbPolicy::seeded(seed);
        let cpus = match &spec.pc {
            Some(pc) => x86::Cpus::new(bus.clone(), &pc.cpus, policy).into(),
            None => Cpus::new(bus.clone(), &spec.cpus, policy).into(),
        };
        Self {
            bus,
            cpus,
            smmus: Vec::new(),
            smmuv2s: Vec::new(),
            itses: Vec::new(),
            apics: None,
            vtds: Vec::new(),
            phbs: Vec::new(),
            disks: Vec::new(),
            pcie_accelerators: Vec::new(),
            accelerators: Vec::new(),
            qemu: None,
            seed,
            spec,
        }
    }

    /// Local APICs, and the VT-d units that devices' messages to them pass.
    fn add_pc(&mut self, pc: &PcSpec, sink: &SharedSink) -> Result<(), RunError> {
        let cpus = u8::try_from(pc.cpus.len()).map_err(|_| self.trouble("more CPUs than APIC ids"))?;
        let apics = LocalApics::new(cpus, sink.clone());
        apics.connect(&self.bus).map_err(|error| self.trouble(error))?;
        for unit in &pc.units {
            let memory = Memory { snooped: self.bus.clone(), unsnooped: self.bus.non_snooping() };
            let wire = Arc::new(Wire(apics.clone()));
            // The first one's seed is the machine's.
            let seed = self.seed ^ self.vtds.len() as u64;
            let vtd = Arc::new(Vtd::new(unit.config, memory, wire, seed, sink.clone()));
            let registers = PaRange::new(unit.base, Vtd::REGISTER_BYTES);
            let registers = registers.ok_or_else(|| self.trouble("a unit's registers wrap"))?;
            let added = self.bus.add_registers("vtd", registers, vtd.clone());
            added.map_err(|error| self.trouble(error))?;
            self.bus.add_clocked(vtd.clone());
            self.vtds.push(vtd);
        }
        self.apics = Some(apics);
        Ok(())
    }

    fn add_accelerator(&mut self, spec: &AcceleratorSpec, sink: &SharedSink) -> Result<(), RunError> {
        let before = self.before(spec.smmu, spec.coherent);
        let (translator, fabric) = before.ok_or_else(|| self.trouble("an accelerator's IOMMU is missing"))?;
        let options = AcceleratorOptions {
            pasid_bits: spec.pasid_bits,
            seed: self.seed ^ spec.base.get(),
            ..AcceleratorOptions::default()
        };
        let model = PlatformAccelerator::new(&options, spec.sources, &translator, &fabric, sink.clone());
        PaRange::new(spec.base, ACCELERATOR_BYTES)
            .ok_or_else(|| self.trouble("an accelerator's registers wrap"))?;
        model.connect(&self.bus, spec.base).map_err(|error| self.trouble(error))?;
        self.bus.add_clocked(model.clone());
        self.accelerators.push(model);
        Ok(())
    }

    /// What a device that is no PCI function sends into.
    fn before(&self, index: usize, coherent: bool) -> Option<(Arc<dyn Translator>, Arc<dyn Fabric>)> {
        if self.spec.pc.is_some() {
            return self.behind_unit(index, coherent);
        }
        Some((self.smmus.get(index)?.clone(), self.fabric(coherent)))
    }

    /// What devices behind a VT-d unit send into: the unit, and what is behind it, where messages go to the unit again. None if there is no such unit.
    pub fn behind_unit(
        &self,
        index: usize,
        coherent: bool,
    ) -> Option<(Arc<dyn Translator>, Arc<dyn Fabric>)> {
        let unit = self.vtds.get(index)?.clone();
        let fabric = Arc::new(BehindUnit { unit: unit.clone(), fabric: self.fabric(coherent) });
        Some((unit, fabric))
    }

    fn add_pcie_accelerator(
        &mut self,
        bus: &PciBus,
        devfn: u8,
        port: PortKind,
        sink: &SharedSink,
    ) -> Result<(), RunError> {
        let seed = self.seed ^ u64::from(devfn);
        let options = AcceleratorOptions { port, seed, ..AcceleratorOptions::default() };
        let model = PcieAccelerator::new(&options, sink.clone());
        bus.plug(devfn, model.clone()).map_err(|error| self.trouble(error))?;
        self.bus.add_clocked(model.clone());
        self.pcie_accelerators.push(model);
        Ok(())
    }

    fn add_bridge(
        &mut self,
        index: usize,
        spec: &HostBridgeSpec,
        contents: &mut impl Iterator<Item = DiskContent>,
        sink: &SharedSink,
    ) -> Result<(), RunError> {
        let requester_ids = (u32::from(spec.last_bus) + 1) << 8;
        let ids = |base: Option<u32>| match base {
            Some(base) => {
                RidMap::new(vec![RidRange { first: Rid(0), count: requester_ids, to: SourceId(base) }])
            }
            None => RidMap::offset(0),
        };
        let phb = spec.phb3().map(|phb| self.add_phb3(phb, sink)).transpose()?;
        let coherent = self.fabric(spec.coherent);
        let (translator, fabric): (Arc<dyn Translator>, _) = match (&phb, spec.smmu) {
            (Some(phb), _) => (phb.clone(), coherent),
            (None, Some((smmu, _))) => {
                let smmu = self.smmu(smmu);
                (smmu.ok_or_else(|| self.trouble("a host bridge's SMMU is missing"))?, coherent)
            }
            // What is not led to a unit that names it is behind the one for all that is left.
            (None, None) => {
                let rest = self.spec.unit_of(index, &[]);
                let behind = rest.and_then(|unit| self.behind_unit(unit, spec.coherent));
                behind.unwrap_or_else(|| (Arc::new(Untranslated), coherent))
            }
        };
        let host = |translator, fabric| Host {
            translator,
            fabric,
            stream_ids: ids(spec.smmu.map(|(_, base)| base)),
            device_ids: ids(spec.its.map(|(_, base)| base)),
            sink: sink.clone(),
        };
        let first = host(translator, fabric);
        let window = |cpu: PaRange| Window { cpu, pci_first: cpu.first().get() };
        let windows = [Some(spec.window_32), spec.window_64].into_iter().flatten().map(window).collect();
        let root = match (&spec.kind, phb) {
            (BridgeKind::Phb3(own), Some(phb)) => self.root_of_phb3(spec, own, &phb, first)?,
            (BridgeKind::Ecam(ecam), _) => {
                let layout = RootLayout { ecam: ecam.first(), buses: 0..=spec.last_bus, windows };
                let root = RootComplex::new(layout, first);
                root.connect(&self.bus).map_err(|error| self.trouble(error))?;
                root
            }
            (BridgeKind::Phb3(_), None) => return Err(self.trouble("a PHB3 without its model")),
        };
        let mut ways = Vec::new();
        for (unit, vtd) in self.spec.pc.iter().flat_map(|pc| &pc.units).enumerate() {
            let named = vtd.ways.as_deref().filter(|_| vtd.bridge == index);
            let Some((named, (translator, fabric))) = named.zip(self.behind_unit(unit, spec.coherent)) else {
                continue;
            };
            let host = root.add_host(host(translator, fabric));
            ways.extend(named.iter().map(|way| (way.clone(), host.clone())));
        }
        for slot in &spec.slots {
            self.plug(&root, *slot, &ways, contents, sink)?;
        }
        Ok(())
    }

    /// Plugs in what a slot holds. `ways` lead to places that are behind units of their own.
    fn plug(
        &mut self,
        root: &Arc<RootComplex>,
        slot: Slot,
        ways: &[(Vec<u8>, Arc<Host>)],
        contents: &mut impl Iterator<Item = DiskContent>,
        sink: &SharedSink,
    ) -> Result<(), RunError> {
        // Who is plugged in at `way` is behind the unit that names it, and else behind that of the bridge above.
        let lead = |bus: &PciBus, way: &[u8]| {
            let (&device, _) = way.split_last().expect("a way leads somewhere");
            let named = ways.iter().find(|(named, _)| named == way);
            named.into_iter().for_each(|(_, host)| bus.lead(device << 3, host));
            device << 3
        };
        let devfn = lead(root.root_bus(), &[slot.device]);
        // A root port, and the slot behind it.
        let add_port = |acs: bool| {
            let options = BridgeOptions { acs: acs.then_some(Acs::ISOLATING), ..BridgeOptions::default() };
            let port = root.root_bus().add_bridge(devfn, options)?;
            let devfn = lead(port.secondary(), &[slot.device, 0]);
            Ok::<_, SlotTaken>((port, devfn))
        };
        match slot.what {
            Plugged::Accelerator => {
                let port = PortKind::IntegratedEndpoint;
                self.add_pcie_accelerator(root.root_bus(), devfn, port, sink)
            }
            Plugged::Disk => {
                let content = contents.next().unwrap_or_default();
                self.add_disk(root.root_bus(), devfn, PortKind::Endpoint, content, sink)
            }
            Plugged::PortWithDisk { acs } => {
                let (port, devfn) = add_port(acs).map_err(|error| self.trouble(error))?;
                let content = contents.next().unwrap_or_default();
                self.add_disk(port.secondary(), devfn, PortKind::Endpoint, content, sink)
            }
            Plugged::PortWithAccelerator => {
                let (port, devfn) = add_port(true).map_err(|error| self.trouble(error))?;
                self.add_pcie_accelerator(port.secondary(), devfn, PortKind::Endpoint, sink)
            }
            Plugged::PortWithPciBridge => {
                let (port, devfn) = add_port(true).map_err(|error| self.trouble(error))?;
                let down = port.secondary().add_bridge(devfn, BridgeOptions::to_pci());
                let down = down.map_err(|error| self.trouble(error))?;
                for device in [1, 2] {
                    let devfn = lead(down.secondary(), &[slot.device, 0, device]);
                    let content = contents.next().unwrap_or_default();
                    self.add_disk(down.secondary(), devfn, PortKind::Conventional, content, sink)?;
                }
                Ok(())
            }
        }
    }

    fn add_smmuv2(&mut self, spec: &Smmuv2Spec, sink: &SharedSink) -> Result<(), RunError> {
        if let Some(problem) = spec.config.problem() {
            return Err(self.trouble(problem));
        }
        let seed = self.seed ^ spec.base.get();
        let fabric = self.fabric(spec.coherent);
        let model = Arc::new(smmuv2::Smmu::new(spec.config.clone(), fabric, seed, sink.clone()));
        let frame = PaRange::new(spec.base, spec.config.size_bytes())
            .ok_or_else(|| self.trouble("an SMMU's registers wrap"))?;
        self.bus.add_registers("smmu", frame, model.clone()).map_err(|error| self.trouble(error))?;
        self.bus.add_clocked(model.clone());
        self.smmuv2s.push(model);
        Ok(())
    }

    /// An SMMU by its index, those of version 2 behind those of version 3.
    fn smmu(&self, index: usize) -> Option<Arc<dyn Translator>> {
        match index.checked_sub(self.smmus.len()) {
            None => Some(self.smmus[index].clone()),
            Some(index) => self.smmuv2s.get(index).cloned().map(|smmu| smmu as Arc<dyn Translator>),
        }
    }

    fn add_phb3(&mut self, spec: &Phb3Spec, sink: &SharedSink) -> Result<Arc<Phb3>, RunError> {
        let seed = self.seed ^ spec.base.get();
        let phb = Arc::new(Phb3::new(spec.config.clone(), self.fabric(true), seed, sink.clone()));
        let ends = [(spec.base, Phb3::REGISTER_BYTES), (spec.config.doorbell, ioda2::Config::DOORBELL_BYTES)];
        if ends.into_iter().any(|(first, bytes)| PaRange::new(first, bytes).is_none()) {
            return Err(self.trouble("a PHB3's registers wrap"));
        }
        phb.connect(&self.bus, spec.base).map_err(|error| self.trouble(error))?;
        self.phbs.push(phb.clone());
        Ok(phb)
    }

    /// The root complex of a PHB3: configuration space by the bridge's registers, windows through the bridge.
    fn root_of_phb3(
        &self,
        spec: &HostBridgeSpec,
        own: &Phb3Spec,
        phb: &Arc<Phb3>,
        host: Host,
    ) -> Result<Arc<RootComplex>, RunError> {
        let layout = RootLayout { ecam: Pa::new(0), buses: 0..=spec.last_bus, windows: Vec::new() };
        let root = RootComplex::new(layout, host);
        phb.set_config_target(Arc::new(Below(Arc::downgrade(&root))));
        let guarded = phb.guard(spec.window_32.first(), root.memory_from(own.pci_first));
        self.bus.add_registers("m32", spec.window_32, guarded).map_err(|error| self.trouble(error))?;
        Ok(root)
    }

    fn add_disk(
        &mut self,
        bus: &PciBus,
        devfn: u8,
        port: PortKind,
        content: DiskContent,
        sink: &SharedSink,
    ) -> Result<(), RunError> {
        let medium: Box<dyn Medium> = match content {
            DiskContent::Blank => Box::new(MemoryMedium::new(vec![0; BLANK_BYTES])),
            DiskContent::Bytes(bytes) => Box::new(MemoryMedium::new(bytes)),
            DiskContent::File(path) => Box::new(FileMedium::read_only(&path).map_err(|error| {
                let what = format!("cannot be read ({error})");
                RunError::bad_input(path.display(), what, "give the path of a regular file that you may read")
            })?),
        };
        let options = NvmeOptions { port, seed: self.seed ^ devfn as u64, ..NvmeOptions::default() };
        let disk = Nvme::new(options, medium, sink.clone());
        bus.plug(devfn, disk.clone()).map_err(|error| self.trouble(error))?;
        self.bus.add_clocked(disk.clone());
        self.disks.push(disk);
        Ok(())
    }

    /// The ITSes by the addresses of their registers, as boot takes them.
    pub fn interrupt_controllers(&self) -> Vec<(Pa, Arc<Its>)> {
        self.spec.itses.iter().map(|its| its.base).zip(self.itses.iter().cloned()).collect()
    }

    /// The PHB3s by the addresses of their registers, as boot takes them.
    pub fn bridges(&self) -> Vec<(Pa, Arc<Phb3>)> {
        self.spec.phb3s().map(|phb| phb.base).zip(self.phbs.iter().cloned()).collect()
    }

    /// Memory, for hardware that snoops the CPUs' caches or does not.
    fn fabric(&self, coherent: bool) -> Arc<dyn Fabric> {
        if coherent { self.bus.clone() } else { self.bus.non_snooping() }
    }

    fn trouble(&self, error: impl core::fmt::Display) -> RunError {
        RunError::bad_input(&self.spec.name, error, "its parts must not overlap: change the device tree")
    }
}

/// Configuration space below a PHB3. The root complex owns the bridge, not the other way round.
struct Below(Weak<RootComplex>);

impl ConfigTarget for Below {
    fn read(&self, rid: u16, offset: u16, width: Width) -> u64 {
        self.0.upgrade().map_or(u64::MAX, |root| root.read_config(Rid(rid), offset.into(), width))
    }

    fn write(&self, rid: u16, offset: u16, width: Width, value: u64) {
        if let Some(root) = self.0.upgrade() {
            root.write_config(Rid(rid), offset.into(), width, value);
        }
    }

    fn hold(&self, held: bool) {
        if let Some(root) = self.0.upgrade() {
            root.hold_slots(held);
        }
    }

    fn has_link(&self) -> bool {
        self.0.upgrade().is_some_and(|root| root.has_link())
    }
}

/// All memory but what firmware reserves is given out.
fn bus_options(spec: &MachineSpec, seed: u64) -> BusOptions {
    let coherent = spec.smmus.iter().all(|smmu| smmu.coherent)
        && spec.smmuv2s.iter().all(|smmu| smmu.coherent)
        && spec.pc.iter().flat_map(|pc| &pc.units).all(snoops)
        && spec.host_bridges.iter().all(|bridge| bridge.coherent);
    BusOptions {
        ram: vec![spec.ram],
        heap: spec.usable_memory(),
        seed,
        stores: Stores::Buffered,
        caches: if coherent { Caches::Snooped } else { Caches::WriteBack },
    }
}

/// Whether a unit reads all its tables through the caches.
fn snoops(unit: &VtdSpec) -> bool {
    unit.config.coherent && unit.config.scalable.is_none_or(|mode| mode.coherent_walks)
}
