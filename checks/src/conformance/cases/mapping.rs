//! Mapping: pages, blocks, edges of the address space.

use portcullis::types::{Pa, Perms, SizeLg2};

use super::AT;
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, Rig, read, write};
use crate::conformance::common;
use crate::conformance::differences::unsaid;
use crate::conformance::records::{fault, number};
use crate::conformance::suite::{Case, Over};
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("a mapped page is read and written where it leads", |bench| bench.with(common::page))
            .over(Over::Tables),
        Case::new(
            "an address that is not mapped reaches nothing, nor do the neighbours of one that is",
            holes,
        )
        .over(Over::Tables),
        Case::new("pages that lie apart in memory are reached as neighbours", |bench| {
            bench.with(common::scattered)
        })
        .over(Over::Tables),
        Case::new("each size of page and block has its leaf on its level, and leads where it says", sizes)
            .over(Over::Tables),
        Case::new("the first and the last page of the aperture can be used", |bench| {
            bench.with(common::aperture)
        })
        .over(Over::Tables),
        Case::new("the address above the aperture is F_TRANSLATION", above_aperture).over(Over::Tables),
        Case::new("an address of the upper half is F_TRANSLATION", upper_half).over(Over::Stage1),
        Case::new("a write that runs off a mapped page is refused from there on", crossing)
            .over(Over::Tables),
        Case::new("two engines in two domains each reach their own memory", |bench| {
            bench.with(common::two_domains)
        })
        .over(Over::Tables),
        Case::new("a whole table of pages leads to each", |bench| bench.with(common::many))
            .over(Over::Tables),
    ]
}

fn holes<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page, other) = (rig.led()?, rig.page()?, rig.page()?);
        rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.faults_with(number::F_TRANSLATION, write(AT - 8), other)?;
        rig.faults_with(number::F_TRANSLATION, read(AT + rig.granule.bytes()), other)?;
        rig.passes(write(AT), page)
    })
}

/// The sizes that a granule has without 52-bit addresses. Arm ARM, D8.3.1.
fn least_sizes(granule: SizeLg2) -> &'static [u8] {
    match granule {
        SizeLg2::KIB_16 => &[14, 25],
        SizeLg2::KIB_64 => &[16, 29],
        _ => &[12, 21, 30],
    }
}

fn sizes<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let granule = u64::from(rig.granule.get());
        for &least in least_sizes(rig.granule) {
            let there = SizeLg2::new(least).is_some_and(|size| domain.page_sizes().contains(size));
            ensure!(there, "no size of 2^{least} with a granule of 2^{granule}");
        }
        for size in domain.page_sizes().iter() {
            size_leads(rig, &domain, size, 3 - (u64::from(size.get()) - granule) / (granule - 3))?;
        }
        Ok(())
    })
}

/// Maps one page or block around some memory, which is all that is accessed of it.
fn size_leads<B: Bed>(
    rig: &Rig<B>,
    domain: &crate::conformance::bench::Domain<B>,
    size: SizeLg2,
    level: u64,
) -> Outcome {
    let at = size.bytes();
    let chunk = size.get().min(21);
    let memory = rig.memory(chunk)?;
    let offset = memory.get() % size.bytes();
    rig.map(domain, at, Pa::new(memory.get() - offset), size.bytes(), Perms::READ_WRITE)?;
    let leaf = rig.leaf(0, at + offset)?;
    ensure!(
        leaf.is_valid() && (leaf.level, leaf.size_lg2) == (level, size.get().into()),
        "{size} has {leaf:x?}, not a leaf on level {level}"
    );
    for byte in [0, (1 << chunk) - 8] {
        rig.passes(write(at + offset + byte), Pa::new(memory.get() + byte))?;
        rig.passes(read(at + offset + byte), Pa::new(memory.get() + byte))?;
    }
    rig.unmap(domain, at, size.bytes())?;
    rig.refuses(write(at + offset), memory).map(drop)
}

/// Spec: SMMUv3 H.a, 3.4 "Address sizes": beyond T0SZ or S2T0SZ, and within what the SMMU puts out.
fn above_aperture<B: Bed>(bench: &Bench<B>) -> Outcome {
    let bits = |config: &mut portcullis::smmuv3::Config| config.input_bits = Some(32);
    bench.with_config(bits, |rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        ensure!(domain.aperture().last().get() == 0xffff_ffff, "the aperture is {}", domain.aperture());
        let last = 0x1_0000_0000 - rig.granule.bytes();
        rig.map(&domain, last, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(last), page)?;
        rig.faults_with(number::F_TRANSLATION, write(0x1_0000_0000), page)?;
        // What it would be if the bit were not looked at.
        rig.faults_with(number::F_TRANSLATION, write(0x1_0000_0000 + last), page)
    })
}

fn upper_half<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        // Sign-extended, for the table that is switched off; and not, for none.
        rig.faults_with(number::F_TRANSLATION, write(0xffff_0000_0000_0000 | AT), page)?;
        rig.faults_with(number::F_TRANSLATION, write(0x0080_0000_0000_0000 | AT), page)?;
        rig.passes(write(AT), page)
    })
}

fn crossing<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let behind = common::crossing(rig)?;
        let records = rig.events();
        let wanted = fault(number::F_TRANSLATION, rig.what(behind), rig.driver.uses_stage2())
            .without(unsaid(rig.bed.name()));
        ensure!(records.len() == 1 && wanted.is(&records[0]), "recorded: {records:x?}");
        Ok(())
    })
}
