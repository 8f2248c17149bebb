//! The numbered parts of shared virtual addressing, and the tests that guard each: they are in the tree, and are tests.
//!
//! A part is guarded where it lives (with fakes) and here, by the shipped code on the models.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where tests are: a file, and the names of some of its tests.
type Guards = &'static [(&'static str, &'static [&'static str])];

const TABLES: &str = "checks/tests/sva_part_tables.rs";
const FAULTS: &str = "checks/tests/sva_part_faults.rs";
const STRESS: &str = "checks/tests/sva_stress.rs";
const THREADS: &str = "checks/tests/sva_threads.rs";
const WRONG: &str = "checks/tests/sva_wrong.rs";
const WRONG_X86: &str = "checks/tests/sva_wrong_x86.rs";

/// By number, 1 to 25: what the part is, and who guards it.
const PARTS: [(&str, Guards); 25] = [
    (
        "PASID on the address space",
        &[
            (TABLES, &["part_1_a_process_has_one_pasid_at_all_its_devices_and_never_0"]),
            (
                "crates/smmuv3/src/sharing/bonds.rs",
                &["part_1_a_process_has_one_pasid_one_domain_and_one_pin_for_all_its_devices"],
            ),
        ],
    ),
    (
        "PASID allocator with references",
        &[("crates/core/tests/pasid/states.rs", &["*"]), ("crates/core/tests/pasid/races.rs", &["*"])],
    ),
    ("PASID helpers", &[("crates/core/tests/pasid/process.rs", &["*"])]),
    (
        "I/O page fault queue",
        &[
            ("crates/core/tests/iopf/groups.rs", &["*"]),
            ("crates/core/tests/iopf/answers.rs", &["*"]),
            ("crates/core/tests/iopf/no_memory.rs", &["*"]),
            (FAULTS, &["part_4_a_flood_of_requests_is_borne"]),
        ],
    ),
    (
        "mm fault handling",
        &[
            ("crates/core/tests/iopf/process.rs", &["*"]),
            (TABLES, &["part_5_devices_have_files_read_stacks_grow_and_shared_pages_copied"]),
        ],
    ),
    ("ASID generations", &[("crates/core/tests/asid.rs", &["*"])]),
    (
        "pinned ASIDs",
        &[
            ("crates/core/tests/asid.rs", &["*"]),
            (TABLES, &["part_7_an_asid_that_is_pinned_survives_the_rollover_under_dma"]),
        ],
    ),
    ("shared Arm table definitions", &[("crates/pgtable/tests/golden.rs", &["part_08_"])]),
    ("ASIDs by id", &[("crates/smmuv3/src/asids.rs", &["part_9_"])]),
    (
        "sanitised CPU features",
        &[("crates/core/src/sva/facts.rs", &["part_10_"]), ("lab/src/boot/cpus.rs", &["part_10_"])],
    ),
    (
        "sharing process page tables",
        &[
            (TABLES, &["part_11_devices_walk_processes_tables_of_every_granule_and_52_bits"]),
            (STRESS, &["part_11_every_granule_52_bits_and_vhe_keep_every_promise"]),
            ("crates/smmuv3/src/process/tests.rs", &["part_11_"]),
        ],
    ),
    (
        "seizing a private ASID",
        &[(FAULTS, &["part_12_a_private_asid_gives_way_under_dma_and_loses_no_invalidation"])],
    ),
    (
        "VHE",
        &[
            (TABLES, &["part_13_under_vhe_entries_are_tagged_and_forgotten_as_those_of_el2"]),
            (WRONG, &["part_13_tlb_invalidations_of_the_wrong_regime_break_isolation"]),
        ],
    ),
    (
        "broadcast TLB maintenance",
        &[
            (TABLES, &["part_14_with_broadcasts_only_atcs_are_told_and_without_both"]),
            (STRESS, &["part_14_broadcasts_alone_keep_what_commands_kept"]),
            (WRONG, &["part_14_no_tlb_invalidation_where_nothing_is_broadcast_breaks_isolation"]),
        ],
    ),
    ("feature checking", &[("crates/smmuv3/src/sharing/tests.rs", &["part_15_"])]),
    (
        "enable and disable",
        &[
            (FAULTS, &["part_16_nothing_is_disabled_while_a_bond_lives_and_all_can_be_enabled_again"]),
            (THREADS, &["part_16_an_enable_that_runs_out_of_memory_leaves_no_trace"]),
        ],
    ),
    (
        "bind, unbind, get_pasid",
        &[
            (FAULTS, &["part_17_exit_and_unbind_in_every_order_and_in_mid_job"]),
            (
                THREADS,
                &[
                    "part_17_lives_on_several_cpus_end_with_everything_given_back",
                    "part_17_a_bind_that_runs_out_of_memory_leaves_no_trace",
                ],
            ),
            (WRONG, &["part_17_"]),
            (WRONG_X86, &["part_17_"]),
            ("crates/smmuv3/src/sharing/bonds.rs", &["part_17_"]),
        ],
    ),
    (
        "ATC invalidation from mm notifications",
        &[
            (TABLES, &["part_18_what_atcs_are_told_covers_what_went"]),
            (WRONG, &["part_18_"]),
            (WRONG_X86, &["part_18_"]),
            ("crates/smmuv3/src/atc.rs", &["part_18_"]),
        ],
    ),
    (
        "HTTU",
        &[
            (TABLES, &["part_19_a_device_s_write_marks_a_shared_page_dirty_without_a_fault"]),
            (STRESS, &["part_19_entries_that_hardware_marks_keep_every_promise"]),
        ],
    ),
    (
        "stream id to device map",
        &[
            (FAULTS, &["part_20_a_device_with_several_streams_is_one_device_and_no_stream_is_two_devices"]),
            ("crates/smmuv3/src/streams.rs", &["part_20_"]),
        ],
    ),
    ("device tree", &[("crates/firmware/tests/firmware/sharing.rs", &["part_21_"])]),
    (
        "stall for platform devices",
        &[
            (
                FAULTS,
                &[
                    "part_22_stalls_are_resumed_or_aborted_whether_they_are_chosen_or_forced",
                    "part_22_an_access_that_waits_when_its_process_is_unbound_ends_there",
                ],
            ),
            (STRESS, &["part_22_devices_that_always_stall_keep_every_promise"]),
            (WRONG, &["part_22_"]),
        ],
    ),
    (
        "PRI: the capability",
        &[
            ("crates/pci/src/tests/services.rs", &["part_23_"]),
            (WRONG, &["part_23_requests_that_are_dropped_leave_the_device_waiting"]),
        ],
    ),
    (
        "PRI: the queue",
        &[
            (FAULTS, &["part_24_an_overflow_is_acknowledged_and_everything_is_answered_once"]),
            ("crates/smmuv3/src/page_requests/tests.rs", &["part_24_"]),
            (WRONG_X86, &["part_24_"]),
        ],
    ),
    (
        "PRI: groups, markers, responses",
        &[
            (
                FAULTS,
                &[
                    "part_25_stop_markers_get_no_answer_and_late_answers_do_no_harm",
                    "part_25_each_request_is_answered_with_the_code_that_is_its_due",
                ],
            ),
            (WRONG, &["part_25_"]),
            (WRONG_X86, &["part_25_"]),
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The tests in a file.
fn tests_in(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let (true, Some(rest)) = (is_test, line.strip_prefix("fn ")) {
            tests.extend(rest.split('(').next().map(str::to_owned));
            is_test = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") && !line.is_empty() {
            is_test = false;
        }
    }
    tests
}

#[test]
fn every_part_has_tests_that_are_there() {
    for (number, (what, guards)) in (1..).zip(PARTS) {
        assert!(!guards.is_empty(), "part {number}, {what}, has no test");
        for (file, names) in guards {
            let tests = tests_in(&root().join(file));
            for name in *names {
                let found = match name.strip_suffix('_') {
                    _ if *name == "*" => !tests.is_empty(),
                    Some(_) => tests.iter().any(|test| test.starts_with(name)),
                    None => tests.iter().any(|test| test == name),
                };
                assert!(found, "part {number}, {what}: {file} has no test {name}");
            }
        }
    }
}

#[test]
fn names_with_a_part_name_a_part_that_there_is_and_are_tests() {
    let mut seen = BTreeSet::new();
    for room in ["crates", "models", "lab", "checks", "cli"] {
        let mut folders = vec![root().join(room)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
                let path = entry.path();
                if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    for test in tests_in(&path) {
                        let Some(rest) = test.strip_prefix("part_") else { continue };
                        let number = rest.split('_').next().and_then(|number| number.parse::<usize>().ok());
                        let known = number.filter(|number| (1..=PARTS.len()).contains(number));
                        let known =
                            known.unwrap_or_else(|| panic!("{}: there is no part of {test}", path.display()));
                        seen.insert(known);
                    }
                }
            }
        }
    }
    assert!(seen.len() >= 20, "{seen:?}");
}
