//! The command as a script sees it: exit codes, one line for each failure, results on standard output alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn portcullis(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("all output is text")
}

/// Asserts that the command failed with `code`, said so in one line, and printed no result. Answers the line.
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = portcullis(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("portcullis: "), "{said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    said
}

/// Asserts that the command succeeded in silence but for its result, which it answers.
fn succeeds(arguments: &[&str]) -> String {
    let output = portcullis(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    assert_eq!(said, "", "{arguments:?}");
    text(&output.stdout)
}

/// A folder of the test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file for the test");
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is text").to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder is there");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn alone_it_does_the_main_job_and_verifies_it() {
    let table = succeeds(&[]);
    for word in [
        "machine", "workload", "dma", "bytes", "digest", "equal", "maps", "unmaps", "syncs", "faults", "time",
    ] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
}

#[test]
fn a_file_goes_through_and_is_counted() {
    let folder = Folder::new("counted");
    // Neither a whole number of blocks nor of pages.
    let file = folder.file("file", &(0..100_003u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["run", "dma", &file, "--json"])).expect("JSON");
    assert_eq!(json["bytes"], 100_003);
    assert_eq!(json["equal"], true);
    assert_eq!(json["workload"], "dma");
    let counters = &json["counters"];
    assert!(counters["device_wrote_bytes"].as_u64().expect("a count") >= 100_003, "{counters}");
    assert!(
        counters["maps"].as_u64() >= counters["unmaps"].as_u64() && counters["unmaps"].as_u64() > Some(0)
    );
    assert_eq!(counters["faults"], 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let counters = |seed: &str| {
        let line = succeeds(&["run", "dma", "--json", "--seed", seed]);
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["counters"].clone()
    };
    assert_eq!(counters("7"), counters("7"));
    assert_eq!(counters("0x7"), counters("7"));
}

#[test]
fn json_is_one_object_to_a_line_and_a_line_to_a_workload() {
    let lines = succeeds(&["--json"]);
    let mut workloads = Vec::new();
    for line in lines.lines() {
        let report: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(report["equal"], true);
        workloads.push(report["workload"].as_str().expect("a name").to_owned());
    }
    assert_eq!(workloads, ["dma", "sva", "vfio"]);
}

#[test]
fn a_file_goes_through_an_accelerator_by_the_pointers_of_a_process() {
    let folder = Folder::new("sva");
    let file = folder.file("file", &(0..70_003u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    for device in ["pcie", "platform"] {
        let line = succeeds(&["run", "sva", &file, "--json", "--device", device]);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&json["bytes"], &json["equal"]), (&70_003.into(), &true.into()));
        let sva = &json["counters"]["sva"];
        assert_eq!(sva["device"], device);
        assert_eq!(sva["pasid_read_bytes"], 70_003 + 64);
        assert!(sva["page_requests"].as_u64() > Some(17), "{sva}");
    }
    let table = succeeds(&["run", "sva", &file]);
    for word in ["accelerator", "pcie, PASID 1", "page requests", "answers", "success", "retries", "equal"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let killed = succeeds(&["run", "sva", &file, "--kill"]);
    assert!(killed.contains("the process was killed") && !killed.contains("equal"), "{killed}");
}

/// The lines of bonds, faults and answers on standard error.
fn steps(arguments: &[&str]) -> Vec<String> {
    let output = portcullis(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let step = |line: &&str| line.starts_with("smmu_") || line.starts_with("dev_");
    said.lines().filter(step).map(str::to_owned).collect()
}

/// The line with its numbers left out, those in hexadecimal as `X` and those in decimal as `N`.
fn form(line: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some((key, value)) if value.starts_with("0x") => format!("{key}=X{}", value.len()),
        Some((key @ ("pasid" | "group"), _)) => format!("{key}=N"),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn verbose_shows_the_steps_of_sharing_line_by_line_in_their_known_form() {
    let folder = Folder::new("steps");
    let file = folder.file("file", &[7; 5000]);
    let lines = steps(&["run", "sva", &file, "-v"]);
    let forms: Vec<String> = lines.iter().map(|line| form(line)).collect();
    let fault = |prot| {
        format!("dev_fault: IOMMU:0000:00:03.0 type=2 reason=0 addr=X18 pasid=N group=N flags=3 prot={prot}")
    };
    let answer = |code| format!("dev_page_response: IOMMU:0000:00:03.0 code={code} pasid=N group=N");
    let bind = "smmu_bind_alloc: dev=0000:00:03.0 pasid=N".to_owned();
    let unbind = "smmu_unbind_free: dev=0000:00:03.0 pasid=N".to_owned();
    let invalidate = "smmu_mm_invalidate: pasid=N start=X14 end=X14".to_owned();
    // Two pages of input, one of output.
    let mut wanted = vec![bind.clone(), fault(1), answer(0), fault(1), answer(0), fault(2), answer(0)];
    wanted.extend([invalidate.clone(), invalidate, unbind.clone()]);
    assert_eq!(forms, wanted);

    let killed = steps(&["run", "sva", &file, "-v", "--kill"]);
    let forms: Vec<String> = killed.iter().map(|line| form(line)).collect();
    let release = "smmu_mm_release: pasid=N".to_owned();
    let wanted = [bind, fault(1), release, answer(0), fault(1), answer(1), fault(2), answer(1), unbind];
    assert_eq!(forms, wanted);
    let groups =
        |line: &str| line.split("group=").nth(1).map(|rest| rest.split(' ').next().unwrap_or("").to_owned());
    assert_eq!(groups(&killed[1]), groups(&killed[3]), "the answer is to the fault that was under way");
}

#[test]
fn a_file_is_read_by_a_driver_in_user_space_and_the_disk_is_given_back() {
    let folder = Folder::new("vfio");
    let file = folder.file("file", &(0..70_003u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["run", "vfio", &file, "--json"])).expect("JSON");
    assert_eq!((&json["bytes"], &json["equal"]), (&70_003.into(), &true.into()));
    let vfio = &json["counters"]["vfio"];
    assert!(vfio["user_bytes"].as_u64() >= Some(70_003) && vfio["ioctls"].as_u64() > Some(20), "{vfio}");
    assert_eq!(vfio["maps"], vfio["unmaps"]);
    let table = succeeds(&["run", "vfio", &file]);
    for word in ["user space", "ioctls", "the user's maps", "pinned pages", "event files", "refused", "equal"]
    {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let killed = succeeds(&["run", "vfio", &file, "--kill"]);
    assert!(killed.contains("after the process was killed"), "{killed}");
}

#[test]
fn verbose_shows_each_change_of_ownership_and_who_stood_in_the_way() {
    let output = portcullis(&["run", "vfio", "-v"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let owns =
        |line: &&str| ["dma_use:", "dma_unuse:", "claim:", "release:"].iter().any(|name| line.contains(name));
    let lines: Vec<&str> = said.lines().filter(owns).collect();
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(&["claim", "by=0000:01:00.0", "driver=nvme", "refused"]), "{lines:#?}");
    assert!(has(&["claim", "table=", "refused"]), "{lines:#?}");
    assert!(
        has(&["claim", "group=2", "result=ok"]) && has(&["release", "group=2", "result=ok"]),
        "{lines:#?}"
    );
    assert!(has(&["dma_use", "driver=nvme", "refused"]), "{lines:#?}");
    let uses = lines.iter().filter(|line| line.contains("dma_use:") && line.contains("result=ok")).count();
    assert_eq!(uses, 2, "the kernel's driver is bound before and after: {lines:#?}");
}

#[test]
fn every_machine_hands_its_disk_to_user_space() {
    for line in succeeds(&["machines"]).lines() {
        let name = line.split_whitespace().next().expect("a name on each line");
        // There users make their own windows.
        if name != "power8" {
            succeeds(&["run", "vfio", "--machine", name]);
        }
    }
    let refused = portcullis(&["run", "vfio", "--machine", "power8"]);
    assert!(text(&refused.stderr).contains("run spapr"), "{}", text(&refused.stderr));
}

#[test]
fn a_file_is_read_by_a_driver_that_makes_its_own_windows() {
    let folder = Folder::new("spapr");
    let file = folder.file("file", &(0..70_003u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["run", "spapr", &file, "--json"])).expect("JSON");
    assert_eq!(
        (&json["machine"], &json["bytes"], &json["equal"]),
        (&"power8".into(), &70_003.into(), &true.into())
    );
    let spapr = &json["counters"]["spapr"];
    assert_eq!(
        (&spapr["shapes"], &spapr["levels_refused"], &spapr["groups"], &spapr["reads"]),
        (&7.into(), &3.into(), &2.into(), &3.into())
    );
    let table = succeeds(&["run", "spapr", &file]);
    for word in ["version 2", "pages of 4 KiB, 64 KiB and 16 MiB", "sharing", "freezes", "TCE kills", "equal"]
    {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    let one = succeeds(&["run", "spapr", &file, "--window", "16m", "--levels", "1"]);
    assert!(one.contains("pages of 16 MiB") && !one.contains("4 KiB"), "{one}");
    let old = succeeds(&["run", "spapr", &file, "--v1"]);
    assert!(old.contains("version 1") && old.contains("pages of 4 KiB"), "{old}");
    for arguments in [&["--kill"][..], &["--kill", "--v1"], &["--kill", "--window", "64k"]] {
        let killed = succeeds(&[&["run", "spapr", &file], arguments].concat());
        assert!(
            killed.contains("after the process was killed") && !killed.contains("read through"),
            "{killed}"
        );
    }
    let refused = fails(4, &["run", "spapr", &file, "--window", "64k", "--levels", "3"]);
    assert!(refused.contains("pages of 64 KiB by 3 levels") && refused.contains("EINVAL"), "{refused}");
    let refused = portcullis(&["run", "spapr", "--machine", "arm"]);
    assert!(text(&refused.stderr).contains("power8"), "{}", text(&refused.stderr));
}

#[test]
fn what_only_sva_understands_is_refused_elsewhere() {
    for arguments in [
        &["run", "dma", "--kill"][..],
        &["run", "dma", "--device", "platform"],
        &["run", "dma", "--device", "pcie"],
        &["run", "--kill"],
        &["run", "vfio", "--device", "pcie"],
        &["run", "--device", "platform"],
    ] {
        let said = fails(2, arguments);
        assert!(said.contains("portcullis run sva"), "{said}");
    }
    for arguments in
        [&["run", "vfio", "--window", "4k"][..], &["run", "dma", "--v1"], &["run", "--levels", "1"]]
    {
        assert!(fails(2, arguments).contains("portcullis run spapr"));
    }
    let both = fails(2, &["run", "spapr", "--v1", "--window", "4k"]);
    assert!(both.contains("--v1") && both.contains("--window"), "{both}");
    assert!(fails(2, &["run", "spapr", "--window", "2m"]).contains("16m"));
    for arguments in [&["run", "dma", "--unsafe-interrupts"][..], &["run", "--unsafe-interrupts"]] {
        assert!(fails(2, arguments).contains("portcullis run vfio"));
    }
    let unknown = fails(2, &["run", "sva", "--device", "nonesuch"]);
    assert!(unknown.contains("pcie") && unknown.contains("platform"), "{unknown}");
    fails(2, &["--kill"]);
}

#[test]
fn a_machine_that_cannot_share_says_what_is_missing_with_code_4() {
    let missing = [("arm-stage2", "stage 1"), ("arm-noncoherent", "coherent"), ("arm-small", "PASIDs")];
    for (machine, word) in missing {
        for device in ["pcie", "platform"] {
            let said = fails(4, &["run", "sva", "--machine", machine, "--device", device]);
            assert!(said.contains(word), "{said}");
            assert!(succeeds(&["machine", machine]).contains("does not share processes' memory"));
        }
    }
}

#[test]
fn a_device_tree_with_accelerators_is_drawn_and_run_from_a_file() {
    use portcullis_lab::machine::{builtin, fdt};
    let folder = Folder::new("accelerators");
    let spec = builtin::find("arm").expect("the default machine");
    let tree = folder.file("arm.dtb", &fdt::emit(&spec).expect("a device tree"));
    let drawn = succeeds(&["machine", &tree]);
    let shares = drawn.lines().filter(|line| line.contains("shares processes' memory: ")).count();
    assert!(shares == 2 && drawn.contains("/accelerator@c000000 portcullis,accelerator"), "{drawn}");
    let file = folder.file("file", &[1; 4097]);
    for device in ["pcie", "platform"] {
        let table = succeeds(&["run", "sva", &file, "--machine", &tree, "--device", device]);
        assert!(table.contains("equal"), "{table}");
    }
    let mut deaf = spec;
    deaf.host_bridges[0].ats = false;
    let tree = folder.file("deaf.dtb", &fdt::emit(&deaf).expect("a device tree"));
    assert!(fails(4, &["run", "sva", &file, "--machine", &tree]).contains("ATS"));
}

#[test]
fn files_of_awkward_sizes_go_through_both_accelerators() {
    let folder = Folder::new("sizes");
    for bytes in [0, 1, 4095, 4096, 4097] {
        let file = folder.file(&bytes.to_string(), &vec![0x5a; bytes]);
        for device in ["pcie", "platform"] {
            let line = succeeds(&["run", "sva", &file, "--json", "--device", device]);
            let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!((&json["bytes"], &json["equal"]), (&bytes.into(), &true.into()), "{device}");
        }
    }
}

#[test]
fn a_drawn_machine_says_what_its_accelerators_share() {
    let tree = succeeds(&["machine", "arm"]);
    for word in
        ["0000:00:03.0 accelerator", "/accelerator@c000000", "(ATS, PRI)", "stalled where a page is missing"]
    {
        assert!(tree.contains(word), "{word} is missing in\n{tree}");
    }
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let unknown = fails(2, &["run", "nonesuch"]);
    assert!(unknown.contains("nonesuch") && unknown.contains("dma"), "{unknown}");
    let machine = fails(2, &["run", "--machine", "nonesuch"]);
    assert!(machine.contains("nonesuch") && machine.contains("there are"), "{machine}");
    fails(2, &["machine", "nonesuch"]);
    fails(2, &["machine"]);
    fails(2, &["nonesuch"]);
    fails(2, &["run", "--nonesuch"]);
    fails(2, &["run", "--seed", "many"]);
    fails(2, &["run", "dma", "file", "file"]);
}

#[test]
fn numbers_that_are_none_are_code_2_and_what_is_wanted_is_said() {
    for wrong in ["-1", "99999999999999999999", "1.5"] {
        assert!(fails(2, &["run", "dma", "--seed", wrong]).contains("2^64"));
        assert!(fails(2, &["sim", "--seed", wrong]).contains("2^64"));
    }
    for wrong in ["-5", "+5", "1e6", "1,000"] {
        assert!(fails(2, &["sim", "--steps", wrong]).contains("a whole number is wanted"));
    }
    for wrong in ["-1", "nan", "99999999999999999999"] {
        assert!(fails(2, &["sim", "--minutes", wrong]).contains("a number of minutes is wanted"));
    }
    assert!(fails(2, &["sim", "--threads", "2", "--machine", "vfio"]).contains("vfio"));
    assert!(fails(2, &["sim", "--machine", "nonesuch"]).contains("x86-sva"));
}

#[test]
fn lives_from_a_seed_are_a_result_and_a_seed_of_nobodys_is_told_before_them() {
    let table = succeeds(&["sim", "--machine", "smmuv3", "--seed", "5", "--steps", "300"]);
    for words in ["seed", "0x5", "steps", "checked isolation", "checked no-leak", "allocation-fails"] {
        assert!(table.contains(words), "{words} is missing in\n{table}");
    }
    let line = succeeds(&["sim", "--machine", "smmuv3", "--seed", "5", "--steps", "300", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((line.lines().count(), &json["seed"]), (1, &5.into()));
    assert!(json["steps"].as_u64() >= Some(300) && json["checks"]["isolation"].as_u64() > Some(0), "{line}");
    let fresh = portcullis(&["sim", "--steps", "0", "--json"]);
    assert_eq!(fresh.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_str(&text(&fresh.stdout)).expect("JSON");
    let seed = format!("{:#x}", json["seed"].as_u64().expect("a seed"));
    let said = text(&fresh.stderr);
    assert!(said.lines().count() == 1 && said.trim_end().ends_with(&seed), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_code_3_and_is_named() {
    let folder = Folder::new("unreadable");
    let missing = folder.path("missing");
    assert!(fails(3, &["run", "dma", &missing]).contains(&missing));
    let directory = folder.path("");
    assert!(fails(3, &["run", "dma", &directory]).contains(directory.trim_end_matches('/')));
}

#[test]
fn a_broken_device_tree_is_code_3() {
    let folder = Folder::new("broken-tree");
    let broken = folder.file("broken.dtb", b"this is no device tree");
    assert!(fails(3, &["run", "--machine", &broken, "dma"]).contains("broken.dtb"));
    assert!(fails(3, &["machine", &broken]).contains("broken.dtb"));
    assert!(fails(3, &["machine", &folder.path("missing.dtb")]).contains("missing.dtb"));
}

#[test]
fn a_device_tree_with_a_stream_id_that_no_smmu_has_is_code_3() {
    use portcullis_lab::machine::{builtin, fdt};
    let folder = Folder::new("far-stream");
    let mut far = builtin::find("arm").expect("the default machine");
    far.accelerators[0].sources[1].0 = 0x1_0000;
    let tree = folder.file("far.dtb", &fdt::emit(&far).expect("a device tree"));
    let said = fails(3, &["run", "sva", "--device", "platform", "--machine", &tree]);
    assert!(said.contains("0x10000") && said.contains("accelerator@"), "{said}");
}

#[test]
fn a_trace_is_json_lines_in_order_and_changes_nothing() {
    let folder = Folder::new("trace");
    let trace = folder.path("trace.jsonl");
    succeeds(&["run", "dma", "--trace", &trace]);
    let lines = fs::read_to_string(&trace).expect("the trace is in its place");
    for (seq, line) in lines.lines().enumerate() {
        let event: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(event["seq"], seq);
        assert!(
            event["source"].is_string() && event["event"].is_string() && event["fields"].is_object(),
            "{line}"
        );
    }
    let says = |source: &str| lines.contains(&format!("\"source\":\"{source}\""));
    assert!(says("core") && says("nvme") && says("smmuv3"), "drivers and core speak");
    assert!(lines.lines().any(|line| line.contains("\"source\":\"model.")), "models speak");
    assert_eq!(folder.names(), ["trace.jsonl"], "nothing else is left");
}

#[test]
fn a_trace_that_cannot_be_written_is_code_3_before_anything_is_run() {
    let folder = Folder::new("no-trace");
    let nowhere = folder.path("missing/trace");
    assert!(fails(3, &["run", "dma", "--trace", &nowhere]).contains(&nowhere));
    let file = folder.file("file", b"data");
    fails(2, &["run", "dma", &file, "--trace", &file]);
    assert_eq!(fs::read(Path::new(&file)).expect("still there"), b"data");
    let tree = folder.file("tree.dtb", b"a tree");
    let said = fails(2, &["run", "dma", &file, "--machine", &tree, "--trace", &tree]);
    assert!(said.contains("a file to be read"), "{said}");
    assert_eq!(fs::read(Path::new(&tree)).expect("still there"), b"a tree");
}

#[test]
fn a_trace_does_not_replace_the_file_that_results_or_events_go_to() {
    let folder = Folder::new("same-place");
    let place = folder.path("results");
    for (arguments, to_error) in [(&["run", "dma"][..], false), (&["run", "dma", "-v"], true)] {
        let results = fs::File::create(&place).expect("a file for the results");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).args(["--trace", &place]).stdin(Stdio::null());
        let output = if to_error { command.stderr(results) } else { command.stdout(results) }.output();
        let output = output.expect("the command starts");
        assert_eq!(output.status.code(), Some(2));
        let said = if to_error { fs::read_to_string(&place).expect("text") } else { text(&output.stderr) };
        assert!(said.contains("is where results or events go"), "{said}");
        assert_eq!(folder.names(), ["results"]);
    }
}

#[test]
fn what_names_have_that_a_terminal_would_obey_is_written_out() {
    let folder = Folder::new("escapes");
    let file = folder.file("a\u{1b}[2J\nb", b"data");
    let table = succeeds(&["run", "dma", &file]);
    assert!(table.contains("a\\u{1b}[2J\\nb") && !table.contains('\u{1b}'), "{table}");
    let said = fails(3, &["run", "dma", &format!("{file}\u{7}")]);
    assert!(said.contains("\\u{7}") && !said.trim_end().contains(char::is_control), "{said}");
}

#[test]
fn results_that_nobody_takes_are_a_failure_and_the_reader_who_has_enough_is_none_to_speak_of() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else { return };
    let run = |out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let child = command.args(["machine", "arm"]).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        child.spawn().expect("the command starts")
    };
    let output = run(full.into()).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("portcullis: standard output: cannot be written"));
    // The reader is gone before the command starts: what it prints is less than a pipe holds, and would all fit.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = run(writer.into()).wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), String::new()));
}

#[test]
fn a_run_that_fails_leaves_no_half_trace() {
    let folder = Folder::new("half");
    let trace = folder.path("trace");
    fails(3, &["run", "dma", &folder.path("missing"), "--trace", &trace]);
    assert!(folder.names().iter().all(|name| name == "trace"), "{:?}", folder.names());
}

#[test]
fn verbose_shows_events_on_standard_error_and_the_result_on_standard_output() {
    let output = portcullis(&["run", "dma", "-v"]);
    assert_eq!(output.status.code(), Some(0));
    let events = text(&output.stderr);
    assert!(
        events.lines().any(|line| line.starts_with("nvme ready: ")),
        "{}",
        events.lines().next().unwrap_or("")
    );
    assert!(text(&output.stdout).starts_with("machine"));
}

#[test]
fn every_machine_that_is_listed_can_be_drawn_and_run() {
    let list = succeeds(&["machines"]);
    assert!(!list.is_empty());
    for line in list.lines() {
        let name = line.split_whitespace().next().expect("a name on each line");
        let tree = succeeds(&["machine", name]);
        assert!(tree.starts_with(name) && tree.contains("─"), "{tree}");
        succeeds(&["run", "dma", "--machine", name]);
    }
}

#[test]
fn help_version_completions_and_the_manual_are_results() {
    assert!(succeeds(&["--help"]).contains("Exit codes"));
    assert!(succeeds(&["--version"]).starts_with("portcullis "));
    assert!(succeeds(&["completions", "bash"]).contains("machines"));
    let manual = succeeds(&["man"]);
    for words in [".TH portcullis", ".SH OPTIONS OF RUN", "kill", "platform", "seed"] {
        assert!(manual.contains(words), "{words} is missing in\n{manual}");
    }
    for words in ["--kill", "--device", "pcie platform"] {
        assert!(succeeds(&["completions", "bash"]).contains(words), "{words}");
    }
}

#[test]
fn without_qemu_its_package_is_named_with_code_4() {
    for workload in ["dma", "sva", "vfio"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", workload, "--on", "qemu"]);
        let output = command.env("PATH", "/nowhere").env("PORTCULLIS_QEMU_TREE", "/nowhere").output();
        let output = output.expect("the command starts");
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(4), 1), "{said}");
        assert!(said.contains("qemu-system-arm") && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn what_qemu_cannot_do_is_refused_and_what_is_no_hardware_is_not_understood() {
    assert!(fails(4, &["run", "sva", "--kill", "--on", "qemu"]).contains("--kill"));
    for device in ["pcie", "platform"] {
        assert!(fails(4, &["run", "sva", "--device", device, "--on", "qemu"]).contains("--device"));
    }
    fails(4, &["run", "spapr", "--v1", "--on", "qemu"]);
    let said = fails(2, &["run", "dma", "--on", "paper"]);
    assert!(said.contains("qemu") && said.contains("models"), "{said}");
    fails(2, &["run", "dma", "--on", "qemu", "--machine", "arm"]);
    succeeds(&["run", "dma", "--on", "models"]);
}

mod on_qemu {
    use super::*;

    #[test]
    fn a_file_is_read_on_hardware_that_is_not_ours() {
        if let Err(why) = portcullis_lab::machine::qemu::find() {
            return eprintln!("skipped: {why}");
        }
        let folder = Folder::new("qemu");
        let file = folder.file("file", &[0xa5; 70_001]);
        for workload in ["dma", "sva", "vfio"] {
            let table = succeeds(&["run", workload, &file, "--on", "qemu"]);
            for word in ["QEMU", "equal", "registers", "not shown", "probes blocked"] {
                assert!(table.contains(word), "{word} is missing in\n{table}");
            }
        }
    }

    #[test]
    fn windows_are_made_on_a_bridge_that_is_not_ours() {
        if let Err(why) = portcullis_lab::machine::qemu::find_power8() {
            return eprintln!("skipped: {why}");
        }
        let folder = Folder::new("qemu-power8");
        let file = folder.file("file", &[0xa5; 70_001]);
        let table = succeeds(&["run", "spapr", &file, "--on", "qemu"]);
        for word in ["powernv8 of QEMU", "equal", "spapr_tce, version 2", "16 MiB", "freezes, their records"]
        {
            assert!(table.contains(word), "{word} is missing in\n{table}");
        }
        let said = fails(4, &["run", "spapr", &file, "--on", "qemu", "--v1"]);
        assert!(said.contains("--v1"), "{said}");
    }
}

#[test]
fn a_machine_with_an_smmu_boots_by_acpi_if_its_name_says_so_and_no_other_does() {
    let folder = Folder::new("acpi");
    let file = folder.0.join("input");
    fs::write(&file, [7; 5000]).expect("a file is written");
    let file = file.to_str().expect("the path is text");
    for machine in ["arm+acpi", "smmuv2+acpi"] {
        let said = succeeds(&["run", "dma", file, "--machine", machine]);
        assert!(said.contains("digest             equal"), "{said}");
    }
    let said = fails(2, &["run", "dma", file, "--machine", "power8+acpi"]);
    assert!(said.contains("no such machine"), "{said}");
}
