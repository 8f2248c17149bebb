//! The conformance suite over our models: each machine that drives the driver another way.

use std::sync::Arc;

use portcullis_checks::conformance::beds::model::ModelBed;
use portcullis_checks::conformance::suite;

fn holds(bed: ModelBed) {
    use portcullis_checks::conformance::bed::Bed;
    let bed = Arc::new(bed);
    let report = suite::run(&bed, |_| true);
    println!("{}", report.said(bed.name()));
    report.hold(bed.name());
}

#[test]
fn the_default_machine_conforms() {
    holds(ModelBed::builtin("arm"));
}

#[test]
fn hardware_that_uses_every_freedom_conforms() {
    holds(ModelBed::hostile("arm"));
}

#[test]
fn hardware_without_range_invalidation_conforms() {
    holds(ModelBed::builtin("arm-v31"));
}

#[test]
fn hardware_without_stage_1_conforms() {
    holds(ModelBed::builtin("arm-stage2"));
}

#[test]
fn hardware_with_16_kib_pages_alone_conforms() {
    holds(ModelBed::builtin("arm-16k"));
}

#[test]
fn hardware_with_64_kib_pages_alone_conforms() {
    holds(ModelBed::builtin("arm-64k"));
}

#[test]
fn hardware_with_52_bit_addresses_conforms() {
    holds(ModelBed::builtin("arm-52"));
}

#[test]
fn hardware_that_snoops_nothing_conforms() {
    holds(ModelBed::builtin("arm-noncoherent"));
}

#[test]
fn small_hardware_conforms() {
    holds(ModelBed::builtin("arm-small"));
}
