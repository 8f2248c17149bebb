//! Device trees from files: good ones run, bad ones are refused with the reason, and nobody gets untranslated DMA by omission.

use std::fs;
use std::path::PathBuf;

use portcullis::types::SourceId;
use portcullis_lab::machine::{MachineSpec, builtin, fdt};
use portcullis_lab::{DeviceKind, Input, MachineChoice, Report, RunError, RunRequest, SvaOptions, run};

/// A file that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

fn run_on(name: &str, tree: &[u8]) -> Result<Report, RunError> {
    work_on("dma", SvaOptions::default(), name, tree)
}

fn work_on(workload: &str, sva: SvaOptions, name: &str, tree: &[u8]) -> Result<Report, RunError> {
    let tree = Scratch::new(&format!("{name}.dtb"), tree);
    let file = Scratch::new(&format!("{name}.input"), &[0xa5; 5000]);
    run(RunRequest {
        workload: workload.into(),
        input: Input::File(file.0.clone()),
        machine: MachineChoice::Dtb(tree.0.clone()),
        sva,
        vfio: Default::default(),
        seed: 1,
        sink: None,
        progress: None,
    })
}

fn tree_of(change: impl FnOnce(&mut MachineSpec)) -> Vec<u8> {
    let mut spec = builtin::find("arm").unwrap();
    spec.reserved.clear();
    change(&mut spec);
    fdt::emit(&spec).unwrap()
}

/// The tree with one string in the place of another of the same length, everywhere.
fn with_word(mut tree: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> =
        (0..tree.len() - old.len()).filter(|&at| tree[at..].starts_with(old.as_bytes())).collect();
    assert!(!places.is_empty(), "{old} is not in the tree");
    places.iter().for_each(|&at| tree[at..at + new.len()].copy_from_slice(new.as_bytes()));
    tree
}

fn refused(result: Result<Report, RunError>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, RunError::Refused(_)), "{error:?}");
    words.iter().for_each(|word| assert!(error.to_string().contains(word), "`{word}` is not in: {error}"));
}

fn bad_input(result: Result<Report, RunError>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, RunError::BadInput(_)), "{error:?}");
    words.iter().for_each(|word| assert!(error.to_string().contains(word), "`{word}` is not in: {error}"));
}

#[test]
fn a_tree_that_the_lab_wrote_runs_when_it_comes_from_a_file() {
    let report = run_on("good", &tree_of(|_| ())).unwrap();
    assert!(report.equal && report.bytes == 5000, "{report:?}");
}

#[test]
fn an_accelerator_in_a_tree_shares_processes_memory_in_both_forms() {
    for device in DeviceKind::ALL {
        let sva = SvaOptions { device, kill: false };
        let name = format!("sva-{}", device.name());
        let report = work_on("sva", sva, &name, &tree_of(|_| ())).unwrap();
        assert!(report.equal && report.counters.sva.is_some(), "{report:?}");
        let words = ["no accelerator on platform"];
        let without = tree_of(|spec| spec.accelerators.clear());
        if device == DeviceKind::Platform {
            refused(work_on("sva", sva, &format!("{name}-none"), &without), &words);
        }
        let deaf = tree_of(|spec| {
            spec.host_bridges[0].ats = false;
            spec.accelerators[0].can_stall = false;
        });
        refused(
            work_on("sva", sva, &format!("{name}-deaf"), &deaf),
            &["the device has no translation requests"],
        );
    }
}

#[test]
fn an_accelerator_in_a_tree_that_says_nonsense_is_refused() {
    let platform = SvaOptions { device: DeviceKind::Platform, kill: false };
    let go = |name: &str, tree: &[u8]| work_on("sva", platform, name, tree);
    let twice = tree_of(|spec| spec.accelerators[0].base = spec.smmus[0].base);
    bad_input(go("overlap", &twice), &["is not free", "smmu"]);
    let many = tree_of(|spec| spec.accelerators[0].pasid_bits = 21);
    bad_input(go("pasids", &many), &["pasid-num-bits"]);
    let far = tree_of(|spec| spec.accelerators[0].sources[1] = SourceId(0x10_0000));
    bad_input(go("far", &far), &["accelerator@", "0x100000", "16 bits"]);
    // The ids of functions begin there.
    let (near, far) = ([0, 0, 0x5a, 0], [0, 0x10, 0x5a, 0]);
    let mut bridge = tree_of(|spec| spec.host_bridges[0].smmu = Some((0, u32::from_be_bytes(near))));
    let at = (0..bridge.len() - 4).step_by(4).find(|&at| bridge[at..at + 4] == near).unwrap();
    bridge[at..at + 4].copy_from_slice(&far);
    bad_input(go("far-bridge", &bridge), &["0000:00:", "0x105a", "16 bits"]);
}

#[test]
fn the_tree_of_qemus_virt_runs() {
    // Observed: QEMU 7.2, `-machine virt,iommu=smmuv3,gic-version=3`.
    let tree = include_bytes!("../../crates/firmware/tests/data/qemu-virt-7.2.dtb");
    let report = run_on("qemu", tree).unwrap();
    assert!(report.equal && report.counters.probes > 0, "{report:?}");
}

#[test]
fn a_tree_that_is_cut_off_is_bad_input_wherever_the_cut_is() {
    let tree = tree_of(|_| ());
    for len in [0, 1, 39, 40, 41, tree.len() / 2, tree.len() - 1] {
        bad_input(run_on(&format!("cut-{len}"), &tree[..len]), &[&format!("cut-{len}.dtb"), "device tree"]);
    }
}

#[test]
fn a_file_that_is_no_tree_and_one_that_is_not_there_are_bad_input() {
    bad_input(run_on("noise", &[0x5a; 4096]), &["noise.dtb"]);
    let missing = run(RunRequest {
        workload: "dma".into(),
        input: Input::Sample,
        machine: MachineChoice::Dtb("/nonexistent/machine.dtb".into()),
        sva: SvaOptions::default(),
        vfio: Default::default(),
        seed: 1,
        sink: None,
        progress: None,
    });
    bad_input(missing, &["/nonexistent/machine.dtb", "cannot be read"]);
}

#[test]
fn an_iommu_of_a_kind_that_nobody_drives_is_refused_by_its_name() {
    let tree = with_word(tree_of(|_| ()), "arm,smmu-v3", "acme,gate-7");
    refused(run_on("kind", &tree), &["acme,gate-7", "IOMMU"]);
}

#[test]
fn an_smmu_with_too_few_registers_is_bad_input() {
    let mut tree = tree_of(|_| ());
    let reg = [0u32, 0x0905_0000, 0, 0x2_0000].map(u32::to_be_bytes).concat();
    let at = (0..tree.len() - 16).find(|&at| tree[at..].starts_with(&reg)).unwrap();
    tree[at + 12..at + 16].copy_from_slice(&0x1_0000u32.to_be_bytes());
    bad_input(run_on("short", &tree), &["iommu@9050000", "128 KiB"]);
}

#[test]
fn a_disk_that_no_iommu_covers_is_refused() {
    let tree = tree_of(|spec| spec.host_bridges[0].smmu = None);
    refused(run_on("uncovered", &tree), &["0000:00:01.0", "no IOMMU covers it", "iommu-map"]);
}

#[test]
fn a_disk_whose_messages_go_nowhere_is_refused() {
    let tree = tree_of(|spec| spec.host_bridges[0].its = None);
    refused(run_on("silent", &tree), &["0000:00:01.0", "firmware does not say where its messages go"]);
}

#[test]
fn a_machine_without_a_host_bridge_is_refused() {
    refused(run_on("bridgeless", &tree_of(|spec| spec.host_bridges.clear())), &["no PCI host bridge"]);
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let request = |workload: &str, machine: &str| {
        run(RunRequest {
            workload: workload.into(),
            input: Input::Sample,
            machine: MachineChoice::Name(machine.into()),
            sva: SvaOptions::default(),
            vfio: Default::default(),
            seed: 1,
            sink: None,
            progress: None,
        })
    };
    refused(request("nothing", "arm"), &["there is no such workload", "dma"]);
    refused(request("dma", "leg"), &["there is no such machine", "portcullis machines"]);
}

/// A tree can be damaged into a lie that only the work shows, so what kind of error it is is left open.
#[test]
fn a_damaged_tree_is_an_error_or_runs_and_never_a_crash() {
    let tree = tree_of(|_| ());
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut refused = 0;
    for round in 0..1000 {
        let mut damaged = tree.clone();
        for _ in 0..1 + round % 4 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let at = usize::try_from(dice >> 8).unwrap() % damaged.len();
            damaged[at] ^= u8::try_from(dice & 0xff).unwrap() | 1;
        }
        match run_on(&format!("damaged-{round}"), &damaged) {
            Ok(report) => assert!(report.equal),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "only {refused} were refused");
}

#[test]
fn a_tree_with_a_phb3_runs_and_its_windows_are_users() {
    let tree = fdt::emit(&builtin::find("power8").unwrap()).unwrap();
    let report = run_on("power8-dma", &tree).unwrap();
    assert!(report.equal && report.counters.probes > 0);
    let report = work_on("spapr", SvaOptions::default(), "power8-spapr", &tree).unwrap();
    let spapr = report.counters.spapr.unwrap();
    assert_eq!((report.equal, spapr.shapes, spapr.levels_refused), (true, 7, 3));
}
