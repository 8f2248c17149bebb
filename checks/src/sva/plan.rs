//! Which machine: its CPUs, its IOMMU, its accelerators.

use model_cpu::{CpuFeatures, TlbPolicy, x86};
use model_devices::accelerator::AcceleratorOptions;
use model_devices::pcie::PortKind;
use model_smmuv3::{Config, HardwareUpdate, Policy, StallModel};
use model_vtd as vtd;
use portcullis::pgtable::arm;
use portcullis::types::{Pa, PaRange, SizeLg2};

/// A machine and its kernel.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Memory.
    pub ram: PaRange,
    /// The CPUs.
    pub cpus: Vec<CpuFeatures>,
    /// How their TLBs use their freedom.
    pub tlbs: fn(u64) -> TlbPolicy,
    /// The kernel's page size.
    pub page: SizeLg2,
    /// Which marks its entries have.
    pub marks: arm::HardwareUpdate,
    /// The SMMU.
    pub smmu: Config,
    /// Instead of Arm's CPUs and the SMMU, those of a PC.
    pub pc: Option<PcPlan>,
    /// Accelerators on PCIe.
    pub pcie: Vec<AcceleratorOptions>,
    /// Accelerators that are stalled.
    pub platform: Vec<AcceleratorOptions>,
    /// Whether the driver is to listen to broadcasts where it can.
    pub listen: bool,
    /// Whether the driver may invalidate by range.
    pub by_range: bool,
    /// Entries of the driver's queue of page requests, as log2.
    pub page_queue_lg2: u8,
    /// Entries of its event queue, as log2.
    pub event_queue_lg2: u8,
    /// The driver's longest wait, in nanoseconds of the bus.
    pub wait_limit_ns: u64,
    /// Decides what models are free to decide.
    pub seed: u64,
    /// Whether frames are held against the tables at each access: on one thread only.
    pub strict: bool,
}

/// What makes a machine a PC.
#[derive(Clone, Debug)]
pub struct PcPlan {
    /// The CPUs.
    pub cpus: Vec<x86::CpuFeatures>,
    /// The VT-d unit.
    pub unit: vtd::Config,
}

/// What an SMMU has that shares.
fn shares(config: Config) -> Config {
    Config {
        substream_id_bits: 20,
        ats: true,
        pri: true,
        page_queue_lg2: 7,
        stall: StallModel::Configurable,
        ..config
    }
}

/// An accelerator of a small machine: a few queues, little at a time, so that much happens in between.
pub fn accelerator(seed: u64) -> AcceleratorOptions {
    AcceleratorOptions {
        queues: 4,
        entries_lg2: 6,
        bytes_per_step: 4096,
        port: PortKind::IntegratedEndpoint,
        seed,
        ..AcceleratorOptions::default()
    }
}

impl Plan {
    /// 4 KiB pages, one accelerator of each form, nothing broadcast, hardware that keeps what it has.
    pub fn new(seed: u64) -> Self {
        Self {
            ram: PaRange::new(Pa::new(0x4000_0000), 0x0800_0000).expect("a range"),
            cpus: vec![CpuFeatures::COMMON; 2],
            tlbs: TlbPolicy::seeded,
            page: SizeLg2::KIB_4,
            marks: arm::HardwareUpdate::None,
            smmu: shares(Config::default()),
            pc: None,
            pcie: vec![accelerator(seed)],
            platform: vec![accelerator(seed ^ 1)],
            listen: true,
            by_range: true,
            page_queue_lg2: 7,
            event_queue_lg2: 7,
            wait_limit_ns: 1_000_000_000,
            seed,
            strict: true,
        }
    }

    /// A PC: one accelerator on PCIe behind a VT-d unit, hardware that keeps what it has.
    pub fn x86(seed: u64) -> Self {
        let unit = vtd::Config { policy: vtd::Policy::stale(), ..vtd::Config::default() };
        let pc = PcPlan { cpus: vec![x86::CpuFeatures::COMMON; 2], unit };
        Self { pc: Some(pc), ..Self::new(seed).pcie_only() }
    }

    /// With a VT-d unit that was changed like this, where there is one.
    #[must_use]
    pub fn unit(mut self, change: impl FnOnce(&mut vtd::Config)) -> Self {
        if let Some(pc) = &mut self.pc {
            change(&mut pc.unit);
        }
        self
    }

    /// With an SMMU that was changed like this.
    #[must_use]
    pub fn smmu(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.smmu);
        self
    }

    /// With an SMMU that uses its freedom like this.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        self.smmu(|config| config.policy = policy)
    }

    /// With PCIe accelerators only.
    #[must_use]
    pub fn pcie_only(mut self) -> Self {
        self.platform.clear();
        self
    }

    /// With stalled accelerators only.
    #[must_use]
    pub fn platform_only(mut self) -> Self {
        self.pcie.clear();
        self
    }

    /// With CPUs whose broadcasts the SMMU hears.
    #[must_use]
    pub fn broadcasting(self) -> Self {
        self.smmu(|config| config.broadcast = true)
    }

    /// With a kernel of this page size, and hardware that has no other.
    #[must_use]
    pub fn pages_of(mut self, page: SizeLg2) -> Self {
        self.page = page;
        self.smmu(|config| {
            config.granule_4k = page == SizeLg2::KIB_4;
            config.granule_16k = page == SizeLg2::KIB_16;
            config.granule_64k = page == SizeLg2::KIB_64;
        })
    }

    /// With 52-bit addresses on both sides, and memory above 48 bits.
    #[must_use]
    pub fn large(mut self) -> Self {
        self.ram = PaRange::new(Pa::new(0x9_0000_0000_0000), 0x0800_0000).expect("a range");
        self.cpus = vec![CpuFeatures { host_at_el2: false, ..CpuFeatures::LARGE }; 2];
        self.smmu(|config| {
            (config.output_bits, config.input_52_bits, config.large_descriptors) = (52, true, true)
        })
    }

    /// With a kernel at EL2.
    #[must_use]
    pub fn vhe(mut self) -> Self {
        self.cpus.iter_mut().for_each(|cpu| cpu.host_at_el2 = true);
        self.smmu(|config| config.hyp = true)
    }

    /// With an SMMU that marks entries as accessed and dirty, and a kernel that looks at the marks.
    #[must_use]
    pub fn marking(mut self) -> Self {
        self.marks = arm::HardwareUpdate::AccessAndDirty;
        self.smmu(|config| config.hardware_update = HardwareUpdate::AccessAndDirty)
    }
}
