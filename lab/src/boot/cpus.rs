//! The CPUs: what all of them can do, and what the kernel makes of it.
//!
//! A process may run on any CPU, and its tables are walked by all of them, and by IOMMUs: the lowest common denominator decides how they look.
//!
//! Spec: Arm ARM DDI 0487, D24.2 "ID_AA64MMFR0_EL1" to "ID_AA64MMFR2_EL1"; Intel SDM volume 3A, 4.1.4 "Enumeration of Paging Features by CPUID".
//! Not here: processes (`process`), what an IOMMU's driver makes of the facts.

use model_cpu::{CpuFeatures, x86};
use portcullis::core::sva::CpuFacts;
use portcullis::types::SizeLg2;

use super::{System, Unit};
use crate::process::{Cores, KernelOptions};

/// The CPUs of a machine, and the kernel's page size: what a kernel is built for before it looks at anything.
#[derive(Clone, Debug)]
pub struct CpuSet {
    /// The CPUs.
    pub cpus: Cores,
    /// The kernel's page size: 4, 16 or 64 KiB.
    pub page: SizeLg2,
}

impl CpuSet {
    /// These CPUs, of either kind, with a kernel of this page size.
    pub fn new(cpus: impl Into<Cores>, page: SizeLg2) -> Self {
        Self { cpus: cpus.into(), page }
    }

    /// What is true of every CPU; none if there is none, or one of them does not have the kernel's page size.
    pub fn facts(&self) -> Option<CpuFacts> {
        let indexes = 0..self.cpus.count();
        let each: Vec<CpuFacts> = match &self.cpus {
            Cores::Arm(cpus) => {
                let features = indexes.filter_map(|index| cpus.cpu(index)).map(|cpu| cpu.features());
                features.map(|features| facts(&features, self.page)).collect()
            }
            Cores::X86(cpus) => {
                let features = indexes.filter_map(|index| cpus.cpu(index)).map(|cpu| cpu.features());
                features.map(|features| x86_facts(&features, self.page)).collect()
            }
        };
        let common = each.into_iter().reduce(CpuFacts::common)?;
        common.granules.contains(self.page).then_some(common)
    }

    /// How a kernel sets processes up on these CPUs; none where there are no [`facts`](Self::facts). `seed` decides what does not matter.
    pub fn kernel_options(&self, seed: u64) -> Option<KernelOptions> {
        let facts = self.facts()?;
        if let Cores::X86(_) = self.cpus {
            let mut options = KernelOptions::x86(seed);
            // The upper half is the kernel's.
            options.input_bits = facts.input_bits - 1;
            options.output_bits = facts.output_bits;
            return Some(options);
        }
        let large = self.page != SizeLg2::KIB_64 && (facts.input_bits > 48 || facts.output_bits > 48);
        let mut options = KernelOptions::new(self.page, seed);
        options.input_bits = facts.input_bits;
        options.output_bits = facts.output_bits;
        options.large_descriptors = large;
        options.wide_asids = facts.asid_bits >= 16;
        options.hardware_update = self.cpus.marks();
        Some(options)
    }
}

impl System {
    /// How a kernel sets processes up on this machine; none where its CPUs have nothing in common. Entries have the marks that the CPUs set or some IOMMU
    /// that walks processes' tables: whoever cannot faults, and the kernel marks for it. `seed` decides what does not matter.
    pub fn kernel_options(&self, seed: u64) -> Option<KernelOptions> {
        let mut options = self.cpus.kernel_options(seed)?;
        let sharing = self.units.iter().filter(|unit| unit.unit.iommu().sva().is_some());
        let marks = sharing.map(Unit::marks).max().unwrap_or_default();
        options.hardware_update = options.hardware_update.max(marks);
        Some(options)
    }
}

/// What one CPU can do with tables of this page size. Their TLB maintenance always reaches whoever listens; whether an IOMMU does is the IOMMU's to
/// say. The kernel breaks before it makes.
fn facts(features: &CpuFeatures, page: SizeLg2) -> CpuFacts {
    let (there, wide_input, wide_output) = match page {
        SizeLg2::KIB_4 => (features.granule_4k, features.large_descriptors, features.large_descriptors),
        SizeLg2::KIB_16 => (features.granule_16k, features.large_descriptors, features.large_descriptors),
        _ => (features.granule_64k, features.large_va, true),
    };
    let mut facts = CpuFacts::new(page);
    if !there {
        facts.granules = Default::default();
    }
    facts.input_bits = if wide_input { 52 } else { 48 };
    facts.output_bits = if wide_output { features.pa_bits } else { features.pa_bits.min(48) };
    facts.asid_bits = features.asid_bits;
    facts.vhe = features.host_at_el2;
    facts.broadcast = true;
    facts
}

/// What one of x86's CPUs can do. Tables have 5 levels where all CPUs have them, and pages of 4 KiB; where a CPU cannot say that a page is not to be executed, there are no
/// processes.
fn x86_facts(features: &x86::CpuFeatures, page: SizeLg2) -> CpuFacts {
    let mut facts = CpuFacts::new(SizeLg2::KIB_4);
    if page != SizeLg2::KIB_4 || !features.execute_disable || !features.pcids {
        facts.granules = Default::default();
    }
    facts.input_bits = if features.five_levels { 57 } else { 48 };
    facts.output_bits = features.pa_bits;
    facts.asid_bits = X86_PCID_BITS;
    facts
}

/// Spec: Intel SDM volume 3A, 4.10.1 "Process-Context Identifiers (PCIDs)".
const X86_PCID_BITS: u8 = 12;

#[cfg(test)]
mod tests {
    use model_bus::{Bus, BusOptions};
    use model_cpu::{Cpus, TlbPolicy};
    use portcullis::pgtable::arm::HardwareUpdate;
    use portcullis::types::{Pa, PaRange};

    use super::*;
    use crate::boot::BootRequest;
    use crate::machine::{DiskContent, Machine, builtin, fdt};

    fn set(features: &[CpuFeatures], page: SizeLg2) -> CpuSet {
        let ram = PaRange::new(Pa::new(0), 1 << 20).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, 1));
        CpuSet::new(Cpus::new(bus, features, TlbPolicy::holding(1)), page)
    }

    fn x86_set(features: &[x86::CpuFeatures], page: SizeLg2) -> CpuSet {
        let ram = PaRange::new(Pa::new(0), 1 << 20).unwrap();
        let bus = Bus::new(&BusOptions::new(ram, 1));
        CpuSet::new(x86::Cpus::new(bus, features, TlbPolicy::holding(1)), page)
    }

    #[test]
    fn part_10_of_two_x86_cpus_the_lesser_decides_and_processes_have_the_lower_half() {
        use x86::CpuFeatures;
        let options = |features: &[CpuFeatures]| x86_set(features, SizeLg2::KIB_4).kernel_options(1);
        let large = options(&[CpuFeatures::LARGE; 2]).unwrap();
        assert_eq!((large.input_bits, large.output_bits), (56, 52));
        for features in [[CpuFeatures::LARGE, CpuFeatures::COMMON], [CpuFeatures::COMMON, CpuFeatures::LARGE]]
        {
            let mixed = options(&features).unwrap();
            assert_eq!((mixed.input_bits, mixed.output_bits), (47, 46));
            assert_eq!(mixed.hardware_update, HardwareUpdate::AccessAndDirty);
        }
        let old = CpuFeatures { execute_disable: false, ..CpuFeatures::COMMON };
        assert!(options(&[CpuFeatures::COMMON, old]).is_none());
        assert!(x86_set(&[CpuFeatures::COMMON], SizeLg2::KIB_64).kernel_options(1).is_none());
    }

    #[test]
    fn part_10_the_least_that_all_cpus_have_decides_how_tables_look() {
        let large = CpuFeatures { host_at_el2: false, ..CpuFeatures::LARGE };
        let alike = set(&[large, large], SizeLg2::KIB_4).kernel_options(1).unwrap();
        assert_eq!((alike.input_bits, alike.output_bits, alike.large_descriptors), (52, 52, true));
        let small = CpuFeatures { pa_bits: 40, asid_bits: 8, ..CpuFeatures::COMMON };
        for features in [[large, small], [small, large]] {
            let mixed = set(&features, SizeLg2::KIB_4).kernel_options(1).unwrap();
            assert_eq!((mixed.input_bits, mixed.output_bits, mixed.large_descriptors), (48, 40, false));
            assert!(!mixed.wide_asids);
        }
    }

    #[test]
    fn part_19_marks_that_one_cpu_cannot_set_are_set_by_none() {
        use model_cpu::HardwareUpdate::{Access, AccessAndDirty, None};
        let marks = |each: [model_cpu::HardwareUpdate; 2]| {
            let features = each.map(|hardware_update| CpuFeatures { hardware_update, ..CpuFeatures::COMMON });
            set(&features, SizeLg2::KIB_4).kernel_options(1).unwrap().hardware_update
        };
        assert_eq!(marks([AccessAndDirty, AccessAndDirty]), HardwareUpdate::AccessAndDirty);
        assert_eq!(marks([AccessAndDirty, Access]), HardwareUpdate::Access);
        assert_eq!(marks([None, AccessAndDirty]), HardwareUpdate::None);
    }

    #[test]
    fn part_19_a_kernel_asks_for_the_marks_of_its_cpus_or_of_an_smmu_that_shares() {
        use model_smmuv3::HardwareUpdate::{Access, AccessAndDirty, None};
        let marks = |smmu, cpu| {
            let mut spec = builtin::find("arm").unwrap();
            spec.smmus[0].config.hardware_update = smmu;
            spec.cpus.iter_mut().for_each(|features| features.hardware_update = cpu);
            let tree = fdt::emit(&spec).unwrap();
            let sink = crate::trace::shared(Option::None);
            let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
            let system = System::boot(BootRequest::new(&machine, &tree, sink)).unwrap();
            let marks = system.kernel_options(1).unwrap().hardware_update;
            system.shut_down().unwrap();
            marks
        };
        let no_cpu = model_cpu::HardwareUpdate::None;
        assert_eq!(marks(AccessAndDirty, no_cpu), HardwareUpdate::AccessAndDirty);
        assert_eq!(marks(Access, no_cpu), HardwareUpdate::Access);
        assert_eq!(marks(None, no_cpu), HardwareUpdate::None);
        let cpus = model_cpu::HardwareUpdate::AccessAndDirty;
        assert_eq!(marks(Access, cpus), HardwareUpdate::AccessAndDirty);
    }

    #[test]
    fn part_10_a_page_size_that_some_cpu_lacks_and_no_cpu_at_all_make_no_kernel() {
        let without = CpuFeatures { granule_64k: false, ..CpuFeatures::COMMON };
        assert!(set(&[CpuFeatures::COMMON, without], SizeLg2::KIB_64).facts().is_none());
        assert!(set(&[CpuFeatures::COMMON, without], SizeLg2::KIB_4).facts().is_some());
        assert!(set(&[], SizeLg2::KIB_4).facts().is_none());
    }

    #[test]
    fn part_13_a_kernel_at_el2_is_one_on_every_cpu_or_nothing_is_broadcast() {
        let host = CpuFeatures { host_at_el2: true, ..CpuFeatures::COMMON };
        let facts = |features: &[CpuFeatures]| set(features, SizeLg2::KIB_4).facts().unwrap();
        assert!(facts(&[host, host]).vhe && facts(&[host, host]).broadcast);
        assert!(!facts(&[host, CpuFeatures::COMMON]).vhe && !facts(&[host, CpuFeatures::COMMON]).broadcast);
    }
}
