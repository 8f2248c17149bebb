//! A process of x86 and an accelerator behind a VT-d unit that share memory: every size and policy, what is missing, the order of what the unit is told, a process
//! that is killed.

mod wish;

use model_cpu::x86::CpuFeatures;
use model_vtd::{Config, Policy, Scalable};
use portcullis_lab::RunError;
use portcullis_lab::machine::spec::PcSpec;
use portcullis_lab::workload::sva::DeviceKind;

use self::wish::{SIZES, Wish};

/// On a PC.
fn pc(bytes: usize) -> Wish {
    Wish::new("x86", DeviceKind::Pcie, bytes)
}

/// What is changed of a PC.
trait Changed: Sized {
    fn changed(self, change: impl FnOnce(&mut PcSpec)) -> Self;

    fn unit(self, change: impl FnOnce(&mut Config)) -> Self {
        self.changed(|pc| change(&mut pc.units[0].config))
    }
}

impl Changed for Wish {
    fn changed(mut self, change: impl FnOnce(&mut PcSpec)) -> Self {
        change(self.spec.pc.as_mut().unwrap());
        self
    }
}

fn scalable(config: &mut Config) -> &mut Scalable {
    config.scalable.as_mut().expect("the built-in machine's unit has scalable mode")
}

#[test]
fn every_size_arrives_and_is_accounted_for_to_the_byte() {
    for bytes in SIZES {
        let (outcome, _) = pc(bytes).must();
        let counted = outcome.counters.sva.unwrap();
        assert_eq!(counted.pasid_read_bytes, bytes as u64 + 64, "{bytes}: the input and the job");
        assert_eq!(counted.pasid_wrote_bytes, counted.output_bytes + 24, "{bytes}: output and status");
        assert_eq!(outcome.counters.device_read_bytes, counted.pasid_read_bytes, "{bytes}");
        let pages = (bytes as u64).div_ceil(4096) + counted.output_bytes.div_ceil(4096);
        assert_eq!(counted.page_requests, pages, "{bytes}: each page is asked for once");
        assert_eq!((counted.responses_invalid, counted.responses_failure), (0, 0), "{bytes}");
        let counters = outcome.counters;
        assert!(counters.probes > 0 && counters.probes == counters.probes_blocked, "{bytes}: {counters:?}");
    }
}

#[test]
fn twenty_seeds_bear_it_and_hardware_that_uses_all_its_freedom() {
    for seed in 1..=20 {
        Wish { seed, ..pc(20_000) }.must();
    }
    let policies =
        [(Policy::stale(), 21), (Policy::eager(), 22), (Policy::hostile(), 23), (Policy::hostile(), 24)];
    for (policy, seed) in policies {
        for kill in [false, true] {
            Wish { seed, kill, ..pc(30_000) }.unit(|config| config.policy = policy).must();
        }
    }
}

#[test]
fn tables_of_five_levels_are_shared_where_cpus_and_unit_have_them() {
    let five = CpuFeatures { five_levels: true, ..CpuFeatures::COMMON };
    let both = |levels| {
        pc(20_000)
            .unit(|config| scalable(config).first_stage_5_levels = levels)
            .changed(|pc| pc.cpus = vec![five; 2])
    };
    both(true).must();
    refused(&both(false), &["57 bits", "48"]);
    // Of two CPUs the lesser decides.
    pc(20_000)
        .unit(|config| scalable(config).first_stage_5_levels = false)
        .changed(|pc| pc.cpus = vec![five, CpuFeatures::COMMON])
        .must();
}

#[test]
fn a_unit_that_caches_what_is_not_there_is_told() {
    for kill in [false, true] {
        Wish { kill, ..pc(20_000) }.unit(|config| config.caching_mode = true).must();
    }
}

fn refused(wish: &Wish, words: &[&str]) {
    let Err(error) = wish.go() else { panic!("nothing was refused for {words:?}") };
    assert!(matches!(error, RunError::Refused(_)), "{error:?}");
    words.iter().for_each(|word| assert!(error.to_string().contains(word), "`{word}` is not in: {error}"));
}

#[test]
fn what_a_pc_lacks_is_said() {
    let unit = |change: fn(&mut Config)| pc(100).unit(change);
    refused(&unit(|config| *config = Config::legacy()), &["no stage 1", "scalable mode"]);
    refused(&unit(|config| scalable(config).first_stage = false), &["no stage 1"]);
    refused(&unit(|config| scalable(config).pasid_bits = None), &["the IOMMU has no PASIDs"]);
    refused(&unit(|config| scalable(config).page_requests = false), &["the IOMMU has no page requests"]);
    refused(&unit(|config| config.device_tlbs = false), &["the IOMMU has no translation requests"]);
    refused(&unit(|config| scalable(config).coherent_walks = false), &["not coherent"]);
    refused(&pc(100).changed(|pc| pc.cpus = vec![CpuFeatures::LARGE; 2]), &["bits"]);
    refused(&pc(100).changed(|pc| pc.cpus[1].execute_disable = false), &["CPUs"]);
    // ATSR speaks of root ports alone: an integrated endpoint may use ATS without one. Spec: VT-d 5.10, 8.5 "Root Port ATS Capability Reporting Structure".
    let mut wish = pc(100);
    wish.spec.host_bridges[0].ats = false;
    wish.must();
    let mut wish = pc(100);
    wish.spec.host_bridges[0].slots.truncate(2);
    refused(&wish, &["no accelerator on pcie"]);
}

/// The types of the descriptors after a line that contains `after`, in order, to the line that contains `before`.
fn descriptors(lines: &[String], after: &str, before: &str) -> Vec<String> {
    let start = lines.iter().position(|line| line.contains(after)).unwrap_or_else(|| panic!("no {after}"));
    let end = start + lines[start..].iter().position(|line| line.contains(before)).unwrap();
    let words = lines[start..end].iter().filter(|line| line.contains("vtd descriptor"));
    words.filter_map(|line| line.split_once("type=")?.1.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn on_exit_and_on_unbind_pasid_cache_iotlb_and_device_tlb_forget_in_this_order_and_then_requests_are_drained()
{
    let (outcome, lines) = Wish { kill: true, ..pc(10_000) }.must();
    assert_eq!(outcome.digest, None);
    // PASID cache, IOTLB by PASID, wait, device TLB by PASID, wait.
    let order = ["0x7", "0x6", "0x5", "0x8", "0x5"];
    assert_eq!(descriptors(&lines, "vtd mm_release", "dev_page_response"), order);
    assert_eq!(descriptors(&lines, "queue_failed", "vtd unbind"), order);
    let unbound = lines.iter().position(|line| line.contains("vtd unbind")).unwrap();
    let waits = lines[..unbound].iter().rfind(|line| line.contains("type=0x5")).unwrap();
    let word0 = waits.split_once("word0=0x").unwrap().1.split(' ').next().unwrap();
    let drains = u64::from_str_radix(word0, 16).unwrap() >> 7 & 1;
    assert_eq!(drains, 1, "the last wait drains page requests: {waits}");
}

#[test]
fn what_a_process_unmaps_is_forgotten_by_pasid_and_pages_and_then_by_the_device() {
    let (_, lines) = pc(5000).must();
    assert_eq!(descriptors(&lines, "vtd mm_invalidate", "vtd sync: outcome=complete"), ["0x6", "0x5"]);
    let at = lines.iter().position(|line| line.contains("vtd mm_invalidate")).unwrap();
    let iotlb = lines[at..].iter().find(|line| line.contains("type=0x6")).unwrap();
    let word0 = iotlb.split_once("word0=0x").unwrap().1.split(' ').next().unwrap();
    // Spec: VT-d 5.10, 6.5.2.4 "PASID-based-IOTLB Invalidate Descriptor", G: 3 is page-selective within a PASID.
    assert_eq!(u64::from_str_radix(word0, 16).unwrap() >> 4 & 3, 3, "{iotlb}");
    let device = lines[at..].iter().find(|line| line.contains("type=0x8"));
    assert!(device.is_some(), "the device has them too");
}

#[test]
fn nobody_answers_for_a_dead_process_but_the_unit() {
    let (outcome, lines) = Wish { kill: true, ..pc(10_000) }.must();
    let counted = outcome.counters.sva.unwrap();
    assert_eq!((counted.responses_success, counted.responses_invalid), (1, 0), "{counted:?}");
    assert_eq!(counted.pasid_wrote_bytes, 0);
    let asked = lines.iter().filter(|line| line.contains("page_request_sent")).count();
    let answered = lines.iter().filter(|line| line.contains("page_response_received")).count();
    assert!(asked > 1 && asked == answered, "{asked} asked, {answered} answered");
    assert!(!lines.iter().any(|line| line.contains("vtd fault")), "it is quiet");
}

#[test]
fn a_large_job_asks_for_pages_in_groups() {
    let (outcome, _) = pc(3 << 20).must();
    let counted = outcome.counters.sva.unwrap();
    assert!(counted.page_requests > 8 * counted.responses_success, "{counted:?}");
}
