//! A disk behind an SMMUv2, of whatever kind: by its stages, by how streams are told apart, by its caches, by its name, and by how much of it firmware tells.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_bus::Width;
use model_smmuv2::Config;
use portcullis::core::domain::FlushMode;
use portcullis::types::Pa;
use portcullis_lab::RunError;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{MachineSpec, builtin, fdt};
use portcullis_lab::tamper::{Hands, Tamper};
use portcullis_lab::trace;
use portcullis_lab::workload::{dma, vfio};

fn smmuv2(config: Config) -> MachineSpec {
    let mut spec = builtin::find("smmuv2").unwrap();
    spec.smmuv2s[0].config = config;
    spec
}

fn read(
    spec: MachineSpec,
    device_tree: Option<Vec<u8>>,
    tamper: Option<Arc<dyn Tamper>>,
) -> Result<dma::Outcome, RunError> {
    let input = Opened::beginning_of_sample(20_000);
    let (mode, sink) = (FlushMode::Strict, trace::shared(None));
    dma::run(&dma::Job { spec, device_tree, input: &input, seed: 3, mode, sink, tamper, progress: None })
}

/// Read by the kernel's driver, and handed to user space and back.
fn works(spec: &MachineSpec) {
    let counters = read(spec.clone(), None, None).unwrap().counters;
    assert!(counters.probes > 0 && counters.probes == counters.probes_blocked, "{counters:?}");
    let input = Opened::beginning_of_sample(20_000);
    let job = vfio::Job {
        spec: spec.clone(),
        device_tree: None,
        input: &input,
        seed: 3,
        unsafe_interrupts: false,
        kill: false,
        sink: trace::shared(None),
        tamper: None,
        progress: None,
    };
    let counters = vfio::run(&job).unwrap().counters;
    assert!(counters.probes > 100 && counters.probes == counters.probes_blocked, "{counters:?}");
}

#[test]
fn a_disk_is_read_and_handed_over_behind_every_kind_of_stage_and_stream_table() {
    for config in [Config::default(), Config::stage1_only(), Config::stage2_only()] {
        works(&smmuv2(config));
    }
    // A user's disk is behind a port, and has an id of more bits than an index: the kernel's is not.
    let counters = read(smmuv2(Config::indexed()), None, None).unwrap().counters;
    assert!(counters.probes > 0 && counters.probes == counters.probes_blocked, "{counters:?}");
}

#[test]
fn an_smmu_that_does_not_snoop_is_driven_as_firmware_says() {
    // Whatever its own registers say of that.
    for coherent_walks in [false, true] {
        let mut spec = smmuv2(Config { coherent_walks, ..Config::default() });
        spec.smmuv2s[0].coherent = false;
        spec.host_bridges[0].coherent = false;
        works(&spec);
    }
}

#[test]
fn registers_that_are_more_than_firmware_tells_of_are_refused() {
    let spec = smmuv2(Config::default());
    let small = smmuv2(Config { page_index_bits: 3, banks: 8, ..Config::default() });
    assert!(small.smmuv2s[0].config.size_bytes() < spec.smmuv2s[0].config.size_bytes());
    let refused = read(spec, Some(fdt::emit(&small).unwrap()), None);
    assert!(matches!(refused, Err(RunError::BadInput(_))), "{:?}", refused.err());
}

/// Counts writes of registers of context banks that are an implementation's own, SMMU_CBn_ACTLR.
struct OwnRegisters {
    banks: Pa,
    page_bytes: u64,
    written: AtomicU64,
}

impl Tamper for OwnRegisters {
    fn write_register(&self, hands: Hands<'_>, at: Pa, width: Width, value: u64) {
        let offset = at.get().checked_sub(self.banks.get()).filter(|&offset| offset < 16 * self.page_bytes);
        let is_own = offset.is_some_and(|offset| offset % self.page_bytes == 4);
        self.written.fetch_add(u64::from(is_own), Relaxed);
        hands.write_register(at, width, value);
    }
}

#[test]
fn an_mmu_500_is_known_by_its_name_and_its_own_registers_are_touched_there_alone() {
    let spec = smmuv2(Config::default());
    let tree = fdt::emit(&spec).unwrap();
    let (old, new) = (b"arm,smmu-v2", b"arm,mmu-500");
    let at = tree.windows(old.len()).position(|bytes| bytes == old).unwrap();
    let mut mmu_500 = tree.clone();
    mmu_500[at..][..new.len()].copy_from_slice(new);
    let written = |tree: Vec<u8>| {
        let smmu = &spec.smmuv2s[0];
        let banks = Pa::new(smmu.base.get() + smmu.config.banks_at());
        let (page_bytes, written) = (smmu.config.page_bytes(), AtomicU64::new(0));
        let own = Arc::new(OwnRegisters { banks, page_bytes, written });
        read(spec.clone(), Some(tree), Some(own.clone())).unwrap();
        own.written.load(Relaxed)
    };
    assert_eq!(written(tree), 0);
    assert!(written(mmu_500) > 0);
}
