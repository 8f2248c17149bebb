//! The suite of core's seam over our models of VT-d and SMMUv2: each kind that drives its driver another way. And wrong drivers, which it must see.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use model_smmuv2::{Config as Smmu, Policy as SmmuPolicy};
use model_vtd::{Config as Unit, Policy as UnitPolicy, Scalable};
use portcullis::types::Pa;
use portcullis_checks::conformance::bed::Bed;
use portcullis_checks::conformance::beds::model::ModelBed;
use portcullis_checks::conformance::seam::Vendor;
use portcullis_checks::conformance::seam::nested::PARENTS_UNMAP;
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

/// A driver of VT-d that forgets what came from a guest's table and its parent's only where the guest asks for it, or leaves: IOTLB invalidations of second stages, and of all of a
/// domain, under a domain-id that a nested entry has do nothing.
#[derive(Default)]
struct Unnested {
    queue: AtomicU64,
    words: Mutex<BTreeMap<u64, u64>>,
    nested: Mutex<BTreeSet<u64>>,
}

impl Hand for Unnested {
    fn store(&self, machine: &dyn Machine, at: Pa, word: u64) {
        let at_bytes = at.get();
        // A PASID-table entry whose present bit goes in: PGTT 011 in its first word, DID in the second, which was stored before.
        if at_bytes.is_multiple_of(64) {
            let words = self.words.lock().unwrap();
            let is_nested = |word: u64| word & 0x1c1 == 0xc1;
            let did = words.get(&(at_bytes + 8)).map_or(0, |word| word & 0xffff);
            if is_nested(word) {
                self.nested.lock().unwrap().insert(did);
            } else if words.get(&at_bytes).copied().is_some_and(is_nested) {
                self.nested.lock().unwrap().remove(&did);
            }
        }
        let queue = self.queue.load(Relaxed);
        let of_queue = (queue..queue + 0x2000).contains(&at_bytes) && at_bytes.is_multiple_of(32);
        // Type 2, granularity 10 or 11, and the domain-id.
        let hit =
            of_queue && word & 0x2f == 0x22 && self.nested.lock().unwrap().contains(&(word >> 16 & 0xffff));
        self.words.lock().unwrap().insert(at_bytes, word);
        machine.store(at, if hit { 0x5 } else { word });
    }

    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        if offset == 0x90 {
            self.queue.store(value & !0xfff, Relaxed);
        }
        machine.write_register(offset, bytes, value);
    }
}

/// A driver of SMMUv2 that forgets nothing by VMID while a guest's table is before a domain's.
#[derive(Default)]
struct UnnestedBanks(Mutex<BTreeSet<usize>>);

impl Hand for UnnestedBanks {
    fn write_register(&self, machine: &dyn Machine, offset: usize, bytes: usize, value: u64) {
        // SMMU_CBARn, in the second page of either size: TYPE 3, or what it is when the bank is given back.
        if matches!(offset, 0x1000..0x1200 | 0x1_0000..0x1_0200) {
            let mut nested = self.0.lock().unwrap();
            if value >> 16 & 3 == 3 {
                nested.insert(offset)
            } else {
                nested.remove(&offset)
            };
        }
        // SMMU_TLBIVMID.
        if offset == 0x64 && !self.0.lock().unwrap().is_empty() {
            return;
        }
        machine.write_register(offset, bytes, value);
    }
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
fn drivers_that_forget_nothing_of_guests_tables_when_the_parent_unmaps_are_seen() {
    let unit = || Arc::new(ModelBed::vtd("x86-scalable", Unit::default()));
    let smmu = || Arc::new(ModelBed::smmuv2("smmuv2", Smmu::default()));
    let seen = [
        first_failure::<_, VtD>(&unit(), || Arc::new(Unnested::default())),
        first_failure::<_, Smmuv2>(&smmu(), || Arc::new(UnnestedBanks::default())),
    ];
    for seen in seen {
        println!("{seen:?}");
        let (title, _) = seen.expect("nobody saw such a driver");
        assert!(title.starts_with(PARENTS_UNMAP), "{title}");
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
