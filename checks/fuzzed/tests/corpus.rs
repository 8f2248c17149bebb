//! What fuzzing found before, and some drawn inputs, through every target.

use core::panic::AssertUnwindSafe;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use model_bus::Dice;
use portcullis_fuzzed::{TARGETS, Target, target};

fn corpus(target: &Target) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target.name].iter().collect()
}

/// Runs an input. If something does not hold, the input is printed in a form that a test can have.
fn run(target: &Target, input: &[u8], name: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(outcome.is_ok(), "{}: {name} does not pass: {input:?}", target.name);
}

/// An input that dice decide, of at most so many bytes.
fn drawn(dice: &mut Dice, most: usize) -> Vec<u8> {
    let len = usize::try_from(dice.next_bits() % (most as u64 + 1)).unwrap();
    (0..len).map(|_| dice.next_bits().to_le_bytes()[0]).collect()
}

fn check(name: &str) {
    let target = target(name).unwrap();
    run(target, &[], "nothing");
    let mut files: Vec<_> =
        fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!((1..=60).contains(&files.len()), "the corpus of {name} is {} files", files.len());
    for file in files {
        run(target, &fs::read(&file).unwrap(), &file.display().to_string());
    }
    let mut dice = Dice::new(name.bytes().fold(1, |seed, byte| seed * 31 + u64::from(byte)));
    for at in 0..target.drawn {
        run(target, &drawn(&mut dice, target.most_bytes), &format!("drawn input {at}"));
    }
}

#[test]
fn any_device_tree_is_a_machine_whose_parts_fit_or_an_error() {
    check("fdt");
}

#[test]
fn any_iort_leads_each_function_where_its_machine_says_and_no_other_is_translated() {
    check("iort");
}

#[test]
fn any_dmar_covers_no_function_by_a_unit_that_does_not_take_it() {
    check("dmar");
}

#[test]
fn any_configuration_space_comes_to_a_tree_of_functions_kept_apart() {
    check("pci");
}

#[test]
fn any_records_come_out_of_the_queues_once_and_are_answered_once() {
    check("queues");
}

#[test]
fn any_program_gets_its_own_pages_and_leaves_nothing_behind() {
    check("vfio");
}

#[test]
fn anything_done_to_an_smmuv2_leaves_it_sound() {
    check("smmuv2");
}

#[test]
fn anything_done_to_an_smmu_leaves_it_sound() {
    check("smmuv3");
}

#[test]
fn anything_done_to_a_vtd_unit_leaves_it_sound() {
    check("vtd");
}

#[test]
fn anything_done_to_a_phb3_leaves_it_sound() {
    check("phb3");
}

#[test]
fn every_target_has_a_wrapper_and_a_corpus() {
    let fuzz: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz"].iter().collect();
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let wrapper =
            fs::read_to_string(fuzz.join("fuzz_targets").join(format!("{}.rs", target.name))).unwrap();
        assert!(wrapper.contains(&format!("\"{}\"", target.name)));
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)));
        assert!(corpus(&target).is_dir());
    }
}
