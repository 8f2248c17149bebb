//! A machine of models with the judge in the middle, and on it the system: the shipped driver, core, PCI, accelerator drivers, and a kernel with processes.
//!
//! The kernel has a CPU of its own, so that a [`Tamper`] falsifies what the IOMMU's driver does and nothing else.

use core::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use model_bus::{Bus, PageRequest, Request, Unpredictable};
use model_devices::accelerator::PcieAccelerator;
use model_devices::pcie::RootComplex;
use portcullis::accel::{Accelerator, Form};
use portcullis::core::device::{Device, DeviceInfo};
use portcullis::core::domain::FlushMode;
use portcullis::core::group::{DefaultDomain, Group};
use portcullis::core::iopf::FaultQueue;
use portcullis::core::pasid::MmPasids;
use portcullis::core::sva::{
    DeviceSvaFacts, DeviceSwitches, DisableSvaError, EnableError, NoSwitches, SvaDevice, SvaUnit,
};
use portcullis::core::unit::IommuUnit;
use portcullis::hal::Platform;
use portcullis::pci::{self, Ecam, Space};
use portcullis::pci::{AddressServices, HostTrust, PasidPermissions};
use portcullis::spec::pcie::HostWindow;
use portcullis::types::{Access, Iova, Pa, PaRange, Pasid, SourceId};
use portcullis_lab::boot::CpuSet;
use portcullis_lab::platform::{LabPlatform, RegisterWindow};
use portcullis_lab::process::{Cores, Kernel};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace::{self, SharedSink};

use super::before::{Driver, Model};
use super::hardware::{ECAM, Hardware, LAST_BUS, WINDOW, WINDOW_BYTES, range, registers, streams};
use super::judge::Judge;
use super::plan::Plan;

pub use super::hardware::AccelModel;

/// An accelerator, from both sides.
pub struct Accel {
    /// Its name.
    pub name: String,
    /// What it is.
    pub model: AccelModel,
    /// What it can do.
    pub facts: DeviceSvaFacts,
    /// As core knows it.
    pub device: Arc<Device<LabPlatform>>,
    /// Its group.
    pub group: Arc<Group<LabPlatform>>,
    /// Its driver.
    pub driver: Arc<Accelerator<LabPlatform, RegisterWindow>>,
    switches: Arc<dyn DeviceSwitches>,
    shared: Mutex<Option<Arc<SvaDevice<LabPlatform>>>>,
}

/// A machine and its system.
pub struct Rig {
    /// What it was made from.
    pub plan: Plan,
    /// The bus.
    pub bus: Arc<Bus>,
    /// The CPUs.
    pub cpus: Cores,
    /// The IOMMU.
    pub iommu: Model,
    /// Who watches.
    pub judge: Arc<Judge>,
    /// The CPU that the drivers run on.
    pub platform: Arc<LabPlatform>,
    /// The IOMMU's driver.
    pub driver: Driver,
    /// The IOMMU, as core knows it.
    pub unit: Arc<IommuUnit<LabPlatform>>,
    /// Its devices that share.
    pub sva: Arc<SvaUnit<LabPlatform>>,
    /// The PASIDs.
    pub pasids: Arc<MmPasids<<LabPlatform as Platform>::Mutex>>,
    /// The processes' kernel.
    pub kernel: Arc<Kernel>,
    /// The accelerators: PCIe first.
    pub accels: Vec<Accel>,
    _root: Arc<RootComplex>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cpus.dismantle();
        self.bus.dismantle();
    }
}

impl Rig {
    /// The machine and its system, with every accelerator shared.
    ///
    /// # Errors
    ///
    /// Which step failed, and how.
    pub fn new(plan: Plan) -> Result<Self, String> {
        Self::with(plan, None, trace::shared(None))
    }

    /// The same, with somebody between the IOMMU's driver and the machine, and somebody who hears all events.
    ///
    /// # Errors
    ///
    /// Which step failed, and how.
    pub fn with(plan: Plan, tamper: Option<Arc<dyn Tamper>>, sink: SharedSink) -> Result<Self, String> {
        let hardware = Hardware::new(&plan, &sink)?;
        let Hardware { bus, cpus, iommu, judge, root, models } = hardware;
        if plan.strict {
            judge.one_at_a_time();
        }
        let set = CpuSet::new(cpus.clone(), plan.page);
        let mut options = set.kernel_options(plan.seed).ok_or("the CPUs do not have the page size")?;
        if plan.pc.is_none() {
            options.hardware_update = plan.marks;
        }
        let platform = Arc::new(LabPlatform::new(bus.clone(), sink.clone(), tamper.clone()));
        let own = Arc::new(LabPlatform::new(bus.clone(), sink.clone(), None));
        let kernel = Kernel::new(own.clone(), cpus.clone(), options).map_err(|error| format!("{error:?}"))?;
        let driver = Driver::probe(&plan, &platform, set.facts())?;
        let as_core = driver.as_core();
        let as_core = match &tamper {
            Some(tamper) => tamper.between_core_and(as_core),
            None => as_core,
        };
        let unit = Arc::new(IommuUnit::new(platform.clone(), as_core));
        let pasids = Arc::new(MmPasids::new());
        let sva = SvaUnit::new(unit.clone(), pasids.clone(), Arc::new(FaultQueue::new()));
        let mut rig = Self {
            plan,
            bus,
            cpus,
            iommu,
            judge,
            platform,
            driver,
            unit,
            sva,
            pasids,
            kernel,
            accels: Vec::new(),
            _root: root,
        };
        rig.add_accels(&models, &own)?;
        for index in 0..rig.accels.len() {
            rig.enable(index).map_err(|error| format!("enabling device {index}: {error:?}"))?;
        }
        Ok(rig)
    }

    fn add_accels(&mut self, models: &[AccelModel], own: &Arc<LabPlatform>) -> Result<(), String> {
        let ecam = range(ECAM, (u64::from(LAST_BUS) + 1) << 20);
        let config = Arc::new(Ecam::new(own.registers(ecam), 0..=LAST_BUS));
        let window = HostWindow {
            space: Space::Memory64,
            prefetchable: false,
            bus_first: WINDOW,
            cpu_first: Pa::new(WINDOW),
            size_bytes: WINDOW_BYTES,
        };
        let bridge =
            pci::HostBridge { segment: 0, buses: 0..=LAST_BUS, windows: vec![window], segment_bytes: 1 };
        let topology = pci::enumerate(&*config, &bridge);
        let trust = HostTrust { ats_supported: true, ..HostTrust::default() };
        for (function, model) in models.iter().enumerate().take(topology.functions.len()) {
            let at = topology.functions[function].at;
            let bar = topology.functions[function]
                .bar(0)
                .and_then(pci::Bar::cpu_range)
                .ok_or("a BAR is nowhere")?;
            let services = AddressServices::find(&*config, &topology, function, &trust);
            let ats = services.ats.map_err(|missing| format!("no ATS: {missing:?}"))?;
            let switch = ats.switch(config.clone(), self.plan.page).map_err(|error| format!("{error:?}"))?;
            let all = NonZeroU32::new(64).expect("not 0");
            services
                .enable(&*config, PasidPermissions::default(), all)
                .map_err(|error| format!("address services: {error:?}"))?;
            let mut info =
                DeviceInfo::new(&topology.name(at).to_string(), &[SourceId(u32::from(at.requester_id()))]);
            info.pci = true;
            let place =
                Place { info, facts: services.sva_facts(), switches: Arc::new(switch), registers: bar };
            self.add_accel(
                own,
                model.clone(),
                place,
                Form::Pcie,
                |rig_topology| {
                    rig_topology.enable_bus_master(&*config, function);
                },
                &topology,
            )?;
        }
        for index in 0..self.plan.platform.len() {
            let registers = registers(index);
            let info = DeviceInfo::new(&format!("/accelerator@{:x}", registers.first()), &streams(index));
            let facts = DeviceSvaFacts {
                can_stall: true,
                pasid_bits: self.plan.platform[index].pasid_bits,
                ..DeviceSvaFacts::default()
            };
            let place = Place { info, facts, switches: Arc::new(NoSwitches), registers };
            let model = models[self.plan.pcie.len() + index].clone();
            self.add_accel(own, model, place, Form::Platform, |_| {}, &topology)?;
        }
        Ok(())
    }

    fn add_accel(
        &mut self,
        own: &Arc<LabPlatform>,
        model: AccelModel,
        place: Place,
        form: Form,
        let_go: impl FnOnce(&pci::Topology),
        topology: &pci::Topology,
    ) -> Result<(), String> {
        let Place { info, facts, switches, registers } = place;
        let (name, sources) = (info.name.clone(), info.sources.clone());
        let device = self.unit.add_device(info).map_err(|error| format!("{name}: {error:?}"))?;
        let id = u32::try_from(self.accels.len()).expect("few devices");
        let iommu = self.unit.iommu().clone();
        let group = Group::new(self.platform.clone(), iommu, id, DefaultDomain::Dma(FlushMode::Strict))
            .map_err(|error| format!("{name}: {error:?}"))?;
        let group = Arc::new(group);
        group.add_device(&device).map_err(|error| format!("{name}: {error:?}"))?;
        let_go(topology);
        let driver = Accelerator::start(own.clone(), own.registers(registers), form)
            .map_err(|error| format!("{name} does not start: {error:?}"))?;
        self.judge.know(self.accels.len(), &sources);
        let shared = Mutex::default();
        self.accels.push(Accel { name, model, facts, device, group, driver, switches, shared });
        Ok(())
    }

    /// Shares device `index`.
    ///
    /// # Errors
    ///
    /// As [`SvaUnit::enable`].
    pub fn enable(&self, index: usize) -> Result<(), EnableError> {
        let accel = &self.accels[index];
        let shared = self.sva.enable(&accel.device, &accel.group, &accel.facts, accel.switches.clone())?;
        *accel.lock() = Some(shared);
        // What the device is, not what the driver has read of it.
        let wants = self.plan.pcie.get(index).is_some_and(|options| options.response_needs_pasid);
        self.judge.wants_pasid(index, wants);
        Ok(())
    }

    /// Shares it no more.
    ///
    /// # Errors
    ///
    /// As [`SvaDevice::disable`].
    pub fn disable(&self, index: usize) -> Result<(), DisableSvaError> {
        let shared = self.shared(index).ok_or(DisableSvaError::NotEnabled)?;
        shared.disable()?;
        // What its IOMMU answers by itself from now on may lack it.
        self.judge.wants_pasid(index, false);
        *self.accels[index].lock() = None;
        Ok(())
    }

    /// The device as one that shares; none if it does not.
    pub fn shared(&self, index: usize) -> Option<Arc<SvaDevice<LabPlatform>>> {
        self.accels[index].lock().clone()
    }

    /// Takes what hardware has queued, and has every group answered.
    pub fn serve(&self) {
        self.sva.service();
        while self.sva.queue().work() {}
    }

    /// Lets the machine go on for some steps.
    pub fn step(&self, steps: usize) {
        for _ in 0..steps {
            self.bus.step();
        }
    }

    /// Lets the machine go on and serves it, until `done` or after `most` turns. Answers whether it was done.
    pub fn run_until(&self, most: usize, mut done: impl FnMut() -> bool) -> bool {
        for _ in 0..most {
            if done() {
                return true;
            }
            self.step(1);
            self.serve();
        }
        done()
    }

    /// Detaches everything, and answers what is to be said against the run: the judge's list, what the models forbid, what was not given back.
    ///
    /// Processes, queues and bonds are gone before.
    #[must_use]
    pub fn finish(self) -> Vec<String> {
        let mut wrongs = self.check_others();
        for _ in 0..16 {
            self.step(64);
            self.serve();
        }
        self.step(64);
        for index in 0..self.accels.len() {
            wrongs.extend(
                self.judge
                    .pending(index, None)
                    .into_iter()
                    .map(|what| format!("one-answer: {}: no answer to {what}", self.accels[index].name)),
            );
            if let Some(shared) = self.shared(index) {
                if let Err(error) = shared.disable() {
                    wrongs.push(format!("disabling {}: {error:?}", self.accels[index].name));
                }
                *self.accels[index].lock() = None;
            }
        }
        wrongs.extend(self.check_counts());
        wrongs.extend(self.take_down());
        wrongs
    }

    /// What a device that shares does without a PASID is translated as before: by its group's domain, in which there is nothing.
    fn check_others(&self) -> Vec<String> {
        let sharing = self.accels.iter().filter(|accel| accel.lock().is_some());
        let sources =
            sharing.flat_map(|accel| accel.device.sources().iter().map(|source| (&accel.name, *source)));
        let wrong = sources.filter_map(|(name, source)| {
            let access = Access::READ;
            let request = Request { source, pasid: None, iova: Iova::new(0x1234_5000), len_bytes: 4, access };
            let found = self.iommu.finds_nothing(&request);
            found.err().map(|other| format!("isolation: {name} without a PASID: {other}"))
        });
        wrong.collect()
    }

    fn check_counts(&self) -> Vec<String> {
        let mut wrongs = self.judge.wrongs();
        // Accesses of a process that died end quietly, and those of one that lives find their configuration.
        wrongs.extend(self.iommu.loud().into_iter().map(|what| format!("quiet: {what}")));
        if self.pasids.in_use() != 0 {
            wrongs.push(format!("no-leak: {} PASIDs are in use", self.pasids.in_use()));
        }
        for frame in self.judge.shadow(|shadow| shadow.freed_in_doubt()) {
            wrongs.push(format!("reclaim: {frame} went to another use, and hardware never confirmed"));
        }
        wrongs
    }

    /// What remains to be said when everything is off.
    fn take_down(mut self) -> Vec<String> {
        let mut wrongs = Vec::new();
        for accel in core::mem::take(&mut self.accels) {
            if let AccelModel::Pcie(model) = &accel.model {
                let forbidden = model.take_unpredictable();
                let told = |one: &Unpredictable| {
                    format!("forbidden: {}: {} ({})", accel.name, one.clause, one.detail)
                };
                wrongs.extend(forbidden.iter().take(4).map(told));
            }
            if let Err(error) = accel.driver.shut_down() {
                wrongs.push(format!("{} does not shut down: {error:?}", accel.name));
            }
            if let Err(error) = accel.group.remove_device(&accel.device) {
                wrongs.push(format!("{} does not leave its group: {error:?}", accel.name));
            }
            if let Err(error) = self.unit.remove_device(&accel.device) {
                wrongs.push(format!("{} is not removed: {error:?}", accel.name));
            }
        }
        if let Err(error) = self.driver.teardown() {
            wrongs.push(format!("teardown: {error:?}"));
        }
        wrongs.extend(self.iommu.forbidden());
        let of_cpus = self.cpus.unpredictable();
        wrongs.extend(of_cpus.iter().take(4).map(|one| format!("forbidden to a CPU: {one:?}")));
        let freed = self.bus.cpu().ram().freed_uses();
        wrongs.extend(freed.iter().take(4).map(|one| format!("reclaim: freed memory was used: {one:?}")));
        let live = self.bus.cpu().heap().live();
        if live.len() > self.driver.keeps_blocks() && !self.judge.shadow(|shadow| shadow.in_doubt()) {
            wrongs.push(format!(
                "no-leak: {} blocks are still out: {:x?}",
                live.len(),
                &live[..live.len().min(4)]
            ));
        }
        wrongs
    }
}

/// Where a device is.
struct Place {
    info: DeviceInfo,
    facts: DeviceSvaFacts,
    switches: Arc<dyn DeviceSwitches>,
    registers: PaRange,
}

impl Accel {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<SvaDevice<LabPlatform>>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The PCIe form.
    pub fn pcie(&self) -> Option<&Arc<PcieAccelerator>> {
        match &self.model {
            AccelModel::Pcie(model) => Some(model),
            AccelModel::Platform(_) => None,
        }
    }

    /// Has it ask for a page to read, as a device that lies does: of whichever address space, without waiting for the answer.
    ///
    /// # Panics
    ///
    /// If it is not on PCIe: a slip in the test that asks.
    pub fn forge(&self, pasid: Option<Pasid>, iova: Iova, group: u16, last: bool) {
        let model = self.pcie().expect("it asks for pages");
        model.pages().forge(&PageRequest {
            source: self.device.sources()[0],
            pasid,
            privileged: false,
            execute: false,
            iova,
            group,
            last,
            read: true,
            write: false,
        });
    }

    /// Bytes that it has read and written in one address space.
    pub fn moved(&self, pasid: Pasid) -> model_bus::Moved {
        match &self.model {
            AccelModel::Pcie(model) => model.moved(pasid),
            AccelModel::Platform(model) => model.moved(pasid),
        }
    }
}
