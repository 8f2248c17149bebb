//! Permissions: what a mapping allows, and nothing else.
//!
//! Spec: SMMUv3 H.a, 7.3.16 "F_PERMISSION"; Arm ARM, D8.4 "Memory access control".

use portcullis::types::Perms;

use super::AT;
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, fetch, read, write};
use crate::conformance::needs::Need;
use crate::conformance::records::number;
use crate::conformance::suite::{Case, Over};

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("what may be read is read and not written", read_only).over(Over::Tables),
        Case::new("what may be written alone is not read", write_only).over(Over::Stage2),
        Case::new("what may be nothing is neither read nor written", nothing).over(Over::Stage2),
        Case::new("what is for the privileged is not for others", privileged_refused).over(Over::Stage1),
        Case::new("what is for the privileged is for them", privileged)
            .over(Over::Stage1)
            .needs(&[Need::Marks]),
        Case::new("what may be executed is, and what may not is not", execute)
            .over(Over::Tables)
            .needs(&[Need::Marks]),
        Case::new("a page is one thing and its neighbour another", neighbours).over(Over::Tables),
    ]
}

fn read_only<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ)?;
        rig.passes(read(AT), page)?;
        rig.faults_with(number::F_PERMISSION, write(AT), page)?;
        // The other way round, with whatever is cached.
        rig.passes(read(AT), page)
    })
}

fn write_only<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::WRITE)?;
        rig.passes(write(AT), page)?;
        rig.faults_with(number::F_PERMISSION, read(AT), page)
    })
}

/// S2AP is 0: a descriptor that is valid and allows nothing. The driver writes none, so that it is poked.
fn nothing<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        let leaf = rig.leaf(0, AT)?;
        rig.machine().poke(leaf.at, leaf.word & !0xc0);
        rig.flush(&domain)?;
        rig.faults_with(number::F_PERMISSION, write(AT), page)?;
        rig.faults_with(number::F_PERMISSION, read(AT), page)
    })
}

fn privileged_refused<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE | Perms::PRIVILEGED)?;
        rig.faults_with(number::F_PERMISSION, write(AT), page)?;
        rig.faults_with(number::F_PERMISSION, read(AT), page)
    })
}

fn privileged<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE | Perms::PRIVILEGED)?;
        rig.passes(write(AT).privileged(), page)?;
        rig.passes(read(AT).privileged(), page)?;
        rig.faults_with(number::F_PERMISSION, read(AT), page)
    })
}

fn execute<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, code, data) = (rig.led()?, rig.page()?, rig.page()?);
        let granule = rig.granule.bytes();
        rig.map(&domain, AT, code, granule, Perms::READ | Perms::EXECUTE)?;
        rig.map(&domain, AT + granule, data, granule, Perms::READ_WRITE)?;
        rig.passes(fetch(AT), code)?;
        rig.faults_with(number::F_PERMISSION, fetch(AT + granule), data)?;
        rig.passes(read(AT + granule), data)
    })
}

fn neighbours<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, one, two) = (rig.led()?, rig.page()?, rig.page()?);
        let granule = rig.granule.bytes();
        rig.map(&domain, AT, one, granule, Perms::READ)?;
        rig.map(&domain, AT + granule, two, granule, Perms::READ_WRITE)?;
        rig.faults_with(number::F_PERMISSION, write(AT + granule - 8), one)?;
        rig.passes(write(AT + granule), two)
    })
}
