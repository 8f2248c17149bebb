//! The suite of core's seam over our models of VT-d and SMMUv2: each kind that drives its driver another way. And wrong drivers, which it must see.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use model_smmuv2::{Config as Smmu, Policy as SmmuPolicy};
use model_vtd::{Config as Unit, Policy as UnitPolicy, Scalable};
use portcullis::types::Pa;
use portcullis_checks::conformance::bed::Bed;
use portcullis_checks::conformance::beds::model::ModelBed;
use portcullis_checks::conformance::seam::Vendor;
use portcullis_checks::conformance::seam::smmuv2::Smmuv2;
use portcullis_checks::conformance::seam::suite::{first_failure, run};
use portcullis_checks::conformance::seam::vtd::VtD;
use portcullis_checks::conformance::via::{Hand, Machine};

fn holds<V: Vendor>(bed: ModelBed) {
    let bed = Arc::new(bed);
    let report = run::<_, V>(&bed);
    println!("{}", report.said(bed.name()));
    report.hold(bed.name());
}

#[test]
fn vtd_in_legacy_mode_conforms() {
    holds::<VtD>(ModelBed::vtd("x86-legacy", Unit::legacy()));
}

#[test]
fn vtd_in_scalable_mode_conforms() {
    holds::<VtD>(ModelBed::vtd("x86-scalable", Unit::default()));
}

#[test]
fn vtd_with_first_stages_alone_conforms() {
    let scalable = Scalable { second_stage: false, ..Scalable::full() };
    holds::<VtD>(ModelBed::vtd("x86-first-stage", Unit { scalable: Some(scalable), ..Unit::default() }));
}

#[test]
fn vtd_that_caches_what_is_not_present_conforms() {
    holds::<VtD>(ModelBed::vtd("x86-caching", Unit { caching_mode: true, ..Unit::default() }));
}

#[test]
fn vtd_that_snoops_nothing_and_has_a_write_buffer_conforms() {
    let unit = Unit { coherent: false, write_buffers: true, ..Unit::legacy() };
    holds::<VtD>(ModelBed::vtd("x86-noncoherent", unit));
}

#[test]
fn vtd_that_uses_every_freedom_conforms() {
    holds::<VtD>(ModelBed::vtd("x86-hostile", Unit { policy: UnitPolicy::hostile(), ..Unit::default() }));
}

#[test]
fn smmuv2_with_stream_matching_conforms() {
    holds::<Smmuv2>(ModelBed::smmuv2("smmuv2", Smmu::default()));
}

#[test]
fn smmuv2_with_stream_indexing_conforms() {
    holds::<Smmuv2>(ModelBed::smmuv2("smmuv2-indexed", Smmu::indexed()));
}

#[test]
fn smmuv2_without_stage_1_conforms() {
    holds::<Smmuv2>(ModelBed::smmuv2("smmuv2-stage2", Smmu::stage2_only()));
}

#[test]
fn smmuv2_that_snoops_nothing_conforms() {
    let smmu = Smmu { coherent_walks: false, ..Smmu::default() };
    holds::<Smmuv2>(ModelBed::smmuv2("smmuv2-noncoherent", smmu));
}

#[test]
fn smmuv2_that_uses_every_freedom_conforms() {
    let smmu = Smmu { policy: SmmuPolicy::hostile(), ..Smmu::default() };
    holds::<Smmuv2>(ModelBed::smmuv2("smmuv2-hostile", smmu));
}

/// A driver of VT-d whose descriptors of one type do nothing: each becomes a wait that tells nobody.
struct Without {
    kind: u64,
    queue: AtomicU64,
    /// Translation is on: what is invalidated before is nobody's.
    on: AtomicBool,
}

impl Hand for Without {
    fn store(&self, machine: &dyn Machine, at: Pa, word: u64) {
        let (queue, at_bytes) = (self.queue.load(Relaxed), at.get());
        let of_queue = self.on.load(Relaxed) && (queue..queue + 0x2000).contains(&at_bytes);
        // The type is in bits 3:0 of the first of two or four words: none of the others looks like these.
        let hit = of_queue && at_bytes % 16 == 0 && word & 0xf == self.kind && word != 0;
        machine.store(at, if hit { 0x5 } else { word });
    }

    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        match offset {
            // IQA_REG.
            0x90 => self.queue.store(value & !0xfff, Relaxed),
            // GCMD_REG.TE.
            0x18 if value >> 31 & 1 == 1 => self.on.store(true, Relaxed),
            _ => {}
        }
        machine.write_register(offset, bytes, value);
    }
}

fn without_iotlb() -> Arc<dyn Hand> {
    Arc::new(Without { kind: 2, queue: AtomicU64::default(), on: AtomicBool::default() })
}

fn without_context_cache() -> Arc<dyn Hand> {
    Arc::new(Without { kind: 1, queue: AtomicU64::default(), on: AtomicBool::default() })
}

/// Barriers that do nothing.
struct Unordered;

impl Hand for Unordered {
    fn orders(&self) -> bool {
        false
    }
}

/// Cleaning that does nothing.
struct Uncleaned;

impl Hand for Uncleaned {
    fn cleans(&self) -> bool {
        false
    }
}

/// A driver of SMMUv2 whose invalidations are not written.
struct Remembering;

impl Hand for Remembering {
    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        // SMMU_CBn_TLBIVA to TLBIIPAS2L, in each page of a context bank.
        let invalidates = offset >= 0x2_0000 && (0x600..0x640).contains(&(offset & 0xfff));
        if !invalidates {
            machine.write_register(offset, bytes, value);
        }
    }
}

#[test]
fn drivers_of_vtd_that_forget_to_invalidate_order_or_clean_are_seen() {
    let legacy = || Arc::new(ModelBed::vtd("x86-legacy", Unit::legacy()));
    let noncoherent =
        || Arc::new(ModelBed::vtd("x86-noncoherent", Unit { coherent: false, ..Unit::legacy() }));
    let seen = [
        ("no IOTLB invalidations", first_failure::<_, VtD>(&legacy(), without_iotlb)),
        ("no context-cache invalidations", first_failure::<_, VtD>(&legacy(), without_context_cache)),
        ("no barriers", first_failure::<_, VtD>(&legacy(), || Arc::new(Unordered))),
        ("no cleaning", first_failure::<_, VtD>(&noncoherent(), || Arc::new(Uncleaned))),
    ];
    for (what, seen) in seen {
        println!("{what}: {seen:?}");
        assert!(seen.is_some(), "nobody saw a driver with {what}");
    }
}

#[test]
fn drivers_of_smmuv2_that_forget_to_invalidate_or_clean_are_seen() {
    let bed = || Arc::new(ModelBed::smmuv2("smmuv2", Smmu::default()));
    let noncoherent = || {
        let smmu = Smmu { coherent_walks: false, ..Smmu::default() };
        Arc::new(ModelBed::smmuv2("smmuv2-noncoherent", smmu))
    };
    let seen = [
        ("no invalidations", first_failure::<_, Smmuv2>(&bed(), || Arc::new(Remembering))),
        ("no cleaning", first_failure::<_, Smmuv2>(&noncoherent(), || Arc::new(Uncleaned))),
    ];
    for (what, seen) in seen {
        println!("{what}: {seen:?}");
        assert!(seen.is_some(), "nobody saw a driver with {what}");
    }
}
