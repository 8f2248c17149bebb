//! A process and an accelerator that share memory: every size, machine and form; what is refused; what is traced; a process that is killed.

mod wish;

use model_smmuv3::Policy;
use portcullis_lab::RunError;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::report::SvaCounters;
use portcullis_lab::workload::sva::{DeviceKind, Outcome};

use self::wish::{SIZES, Wish};

/// Machines on which nothing is missing.
const CAPABLE: [&str; 7] = ["arm", "arm-v31", "arm-16k", "arm-64k", "arm-52", "arm-vhe", "arm-stall-forced"];

fn counters(wish: &Wish) -> (Outcome, SvaCounters) {
    let (outcome, _) = wish.must();
    let counted = outcome.counters.sva.unwrap();
    (outcome, counted)
}

/// The lines of bonds, faults and answers, without who says them.
fn steps(lines: &[String]) -> Vec<&str> {
    let said = lines.iter().filter_map(|line| line.split_once(' ').map(|(_, said)| said));
    said.filter(|said| said.starts_with("smmu_") || said.starts_with("dev_")).collect()
}

/// A word of a line: what follows `key`, to the next space.
fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line}"));
    rest.split(' ').next().unwrap()
}

#[test]
fn every_size_arrives_on_every_capable_machine_with_both_devices_and_is_accounted_for_to_the_byte() {
    for machine in CAPABLE {
        for device in DeviceKind::ALL {
            for bytes in SIZES {
                let wish = Wish::new(machine, device, bytes);
                let (outcome, counted) = counters(&wish);
                let name = wish.name();
                assert_eq!(counted.pasid_read_bytes, bytes as u64 + 64, "{name}: the input and the job");
                assert_eq!(
                    counted.pasid_wrote_bytes,
                    counted.output_bytes + 24,
                    "{name}: the output and the status"
                );
                assert_eq!(outcome.counters.device_read_bytes, counted.pasid_read_bytes, "{name}");
                let page = wish.spec.page.bytes();
                let pages = (bytes as u64).div_ceil(page) + counted.output_bytes.div_ceil(page);
                assert_eq!(counted.page_requests, pages, "{name}: each page is asked for once");
                assert_eq!(counted.responses_success, pages, "{name}");
                assert_eq!((counted.responses_invalid, counted.responses_failure), (0, 0), "{name}");
                let Outcome { counters, .. } = outcome;
                assert!(counters.probes > 0 && counters.probes == counters.probes_blocked, "{name}");
            }
        }
    }
}

#[test]
fn twenty_seeds_bear_it_and_hardware_that_uses_all_its_freedom() {
    for device in DeviceKind::ALL {
        for seed in 1..=20 {
            Wish { seed, ..Wish::new("arm", device, 20_000) }.must();
        }
        for machine in CAPABLE {
            for (policy, seed) in [(Policy::eager(), 21), (Policy::hostile(), 22), (Policy::hostile(), 23)] {
                let mut wish = Wish { seed, ..Wish::new(machine, device, 30_000) };
                wish.spec.smmus[0].config.policy = policy;
                wish.must();
            }
        }
    }
}

#[test]
fn one_seed_is_one_trace_and_another_gives_other_addresses() {
    for device in DeviceKind::ALL {
        for kill in [false, true] {
            let trace = |seed| Wish { seed, kill, ..Wish::new("arm", device, 10_000) }.must().1;
            let first = trace(5);
            assert!(first.len() > 50);
            assert_eq!(first, trace(5), "{}, kill {kill}", device.name());
            assert_ne!(steps(&first), steps(&trace(6)), "the seed decides nothing");
        }
    }
}

#[test]
fn what_a_machine_lacks_is_said() {
    let refused = |spec: MachineSpec, device, words: &[&str]| {
        let wish = Wish { spec, device, bytes: 100, seed: 1, kill: false };
        let error = wish.go().unwrap_err();
        assert!(matches!(error, RunError::Refused(_)), "{}: {error:?}", wish.name());
        words
            .iter()
            .for_each(|word| assert!(error.to_string().contains(word), "`{word}` is not in: {error}"));
    };
    let machine = |name: &str| builtin::find(name).unwrap();
    let changed = |change: fn(&mut MachineSpec)| {
        let mut spec = machine("arm");
        change(&mut spec);
        spec
    };
    for device in DeviceKind::ALL {
        refused(machine("arm-stage2"), device, &["the IOMMU has no stage 1"]);
        refused(machine("arm-noncoherent"), device, &["not coherent"]);
        refused(machine("arm-small"), device, &["the IOMMU has no PASIDs"]);
        refused(changed(|spec| spec.smmus[0].config.asid_16_bits = false), device, &["16 bits", "8"]);
        refused(changed(|spec| spec.smmus[0].config.output_bits = 40), device, &["48 bits", "40"]);
        refused(changed(|spec| spec.smmus[0].config.granule_4k = false), device, &["4 KiB pages"]);
        refused(changed(|spec| spec.cpus.clear()), device, &["CPUs"]);
    }
    let (pcie, platform) = (DeviceKind::Pcie, DeviceKind::Platform);
    refused(
        changed(|spec| spec.smmus[0].config.ats = false),
        pcie,
        &["the IOMMU has no translation requests"],
    );
    refused(changed(|spec| spec.smmus[0].config.pri = false), pcie, &["the IOMMU has no page requests"]);
    refused(
        changed(|spec| spec.host_bridges[0].ats = false),
        pcie,
        &["the device has no", "ATS", "host bridge"],
    );
    refused(changed(|spec| spec.host_bridges[0].smmu = None), pcie, &["no IOMMU"]);
    refused(changed(|spec| spec.host_bridges[0].slots.truncate(2)), pcie, &["no accelerator on pcie"]);
    let none = model_smmuv3::StallModel::NotSupported;
    let mut spec = machine("arm");
    spec.smmus[0].config.stall = none;
    refused(spec, platform, &["cannot stall"]);
    refused(
        changed(|spec| spec.accelerators[0].can_stall = false),
        platform,
        &["the device has no translation requests"],
    );
    refused(changed(|spec| spec.accelerators[0].pasid_bits = 0), platform, &["the device has no PASIDs"]);
    refused(changed(|spec| spec.accelerators.clear()), platform, &["no accelerator on platform"]);
}

#[test]
fn a_file_that_machine_memory_cannot_hold_is_refused_before_anything_is_done() {
    let mut wish = Wish::new("arm", DeviceKind::Pcie, 3 << 20);
    let first = wish.spec.ram.first();
    wish.spec.ram = portcullis::types::PaRange::new(first, 16 << 20).unwrap();
    wish.spec.reserved.clear();
    let error = wish.go().unwrap_err();
    assert!(
        matches!(&error, RunError::Refused(trouble) if trouble.what.contains("MiB of memory")),
        "{error:?}"
    );
}

#[test]
fn the_steps_of_a_run_are_those_of_the_reference() {
    let (_, lines) = Wish::new("arm", DeviceKind::Pcie, 5000).must();
    let steps = steps(&lines);
    assert_eq!(steps.first(), Some(&"smmu_bind_alloc: dev=0000:00:03.0 pasid=1"));
    assert_eq!(steps.last(), Some(&"smmu_unbind_free: dev=0000:00:03.0 pasid=1"));
    let (faults, rest): (Vec<&str>, Vec<&str>) =
        steps[1..steps.len() - 1].iter().copied().partition(|step: &&str| step.starts_with("dev_"));
    for pair in faults.chunks(2) {
        let [fault, response] = pair else { panic!("{faults:?}") };
        let (addr, group) = (field(fault, "addr="), field(fault, "group="));
        let prot = field(fault, "prot=");
        assert!(addr.len() == 18 && addr.starts_with("0x0000") && addr.ends_with("000"), "{fault}");
        assert!(["1", "2"].contains(&prot), "{fault}");
        let wanted = format!(
            "dev_fault: IOMMU:0000:00:03.0 type=2 reason=0 addr={addr} pasid=1 group={group} flags=3 prot={prot}"
        );
        assert_eq!(*fault, wanted);
        assert_eq!(*response, format!("dev_page_response: IOMMU:0000:00:03.0 code=0 pasid=1 group={group}"));
    }
    assert_eq!(rest.len(), 2, "input and output: {rest:?}");
    for step in rest {
        let (start, end) = (field(step, "start="), field(step, "end="));
        assert_eq!(step, format!("smmu_mm_invalidate: pasid=1 start={start} end={end}"));
        assert!(start < end && end.ends_with("000"), "{step}");
    }
}

#[test]
fn a_killed_process_leaves_one_success_and_then_no_page() {
    let kill = |machine: &str, device| {
        let wish = Wish { kill: true, ..Wish::new(machine, device, 10_000) };
        let (outcome, lines) = wish.must();
        assert_eq!(outcome.digest, None);
        let steps: Vec<String> = steps(&lines).iter().map(|step| step.to_string()).collect();
        let name = |step: &String| match step.split_once(':') {
            Some((name, _)) if name == "dev_page_response" => format!("{name} {}", field(step, "code=")),
            Some((name, _)) => name.to_owned(),
            None => String::new(),
        };
        steps.iter().map(name).collect::<Vec<_>>()
    };
    let begin = ["smmu_bind_alloc", "dev_fault", "smmu_mm_release", "dev_page_response 0"];
    // The input, and the status of the job.
    let later = ["dev_fault", "dev_page_response 1", "dev_fault", "dev_page_response 1"];
    let end = ["smmu_unbind_free"];
    let loud = [&begin[..], &later, &end].concat();
    assert_eq!(kill("arm", DeviceKind::Pcie), loud, "a function asks");
    assert_eq!(kill("arm-stall-forced", DeviceKind::Platform), loud, "what always stalls asks");
    assert_eq!(kill("arm", DeviceKind::Platform), [&begin[..], &end].concat(), "what can be quiet is");
}

#[test]
fn a_killed_process_is_a_killed_process_on_every_capable_machine_with_every_seed_and_size() {
    for device in DeviceKind::ALL {
        for machine in CAPABLE {
            for (bytes, seed) in [(0, 1), (1, 2), (4097, 3), (100_000, 4)] {
                let wish = Wish { kill: true, seed, ..Wish::new(machine, device, bytes) };
                let (outcome, counted) = counters(&wish);
                assert!(counted.killed && counted.output_bytes == 0, "{}", wish.name());
                assert_eq!((outcome.digest, counted.pasid_wrote_bytes), (None, 0), "{}", wish.name());
            }
        }
    }
}

#[test]
fn part_14_an_smmu_that_hears_the_cpus_gets_commands_for_atcs_only() {
    let counted = |broadcast| {
        let mut wish = Wish::new("arm", DeviceKind::Pcie, 40_000);
        wish.spec.smmus[0].config.broadcast = broadcast;
        counters(&wish).1
    };
    let (hears, deaf) = (counted(true), counted(false));
    assert_eq!(hears.atc_invalidations, deaf.atc_invalidations, "ATCs hear nothing");
    // One for each buffer that is unmapped.
    assert_eq!(hears.tlb_invalidations + 2, deaf.tlb_invalidations);
}

#[test]
fn part_13_an_smmu_without_the_kernels_regime_does_not_rely_on_what_it_hears() {
    let mut wish = Wish::new("arm", DeviceKind::Pcie, 20_000);
    wish.spec.cpus.iter_mut().for_each(|cpu| cpu.host_at_el2 = true);
    let other = counters(&wish).1;
    let same = counters(&Wish::new("arm", DeviceKind::Pcie, 20_000)).1;
    assert_eq!(other.tlb_invalidations, same.tlb_invalidations + 2);
}

#[test]
fn a_large_job_asks_for_pages_in_groups() {
    let (_, counted) = counters(&Wish::new("arm", DeviceKind::Pcie, 3 << 20));
    assert!(counted.page_requests > 8 * counted.responses_success, "{counted:?}");
}
