//! Invalidation: what was taken away is closed when the sync has come back, and what was put there is seen.
//!
//! Spec: SMMUv3 H.a, 3.21.1 "Translation tables and TLB invalidation completion behavior", 4.4 "TLB invalidation".

use portcullis::core::iommu::{Gather, Target};
use portcullis::types::{Iova, IovaRange, Pa, Perms, SizeLg2};

use super::AT;
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Domain, Outcome, Rig, read, write};
use crate::conformance::needs::Need;
use crate::conformance::records::number;
use crate::conformance::suite::{Case, Over};
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("what was unmapped is closed when the sync is done", unmapped).over(Over::Tables),
        Case::new("what was unmapped in several ranges is closed in all of them", ranges).over(Over::Tables),
        Case::new("a block that was unmapped is closed everywhere", block).over(Over::Tables),
        Case::new("a page that is mapped to another is seen there", mapped_elsewhere).over(Over::Tables),
        Case::new("a page in place of a block, and a block in place of pages, is seen", other_size)
            .over(Over::Tables),
        Case::new("a table that was freed is not walked", table_freed).over(Over::Tables),
        Case::new("what was not mapped and is mapped now is seen at once", mapped_late).over(Over::Tables),
        Case::new("permissions that were taken away are gone", less_allowed).over(Over::Tables),
        Case::new("a flush of a domain closes what was unmapped of it, and nothing of another", flushed)
            .over(Over::Tables),
        Case::new("unmapping in one domain leaves another's mapping of the same address", other_domain)
            .over(Over::Tables),
        Case::new(
            "what is attached elsewhere reaches nothing of what it was attached to",
            attached_elsewhere,
        ),
        Case::new("a domain that has the number of one that is gone sees nothing of it", number_again)
            .needs(&[Need::ShortIds]),
        Case::new("a block that is cut stays mapped but for what was cut out", cut)
            .over(Over::Tables)
            .needs(&[Need::LiveSplits]),
    ]
}

fn mapped_page<B: Bed>(rig: &Rig<B>, domain: &Domain<B>, at: u64) -> Result<Pa, String> {
    let page = rig.page()?;
    rig.map(domain, at, page, rig.granule.bytes(), Perms::READ_WRITE)?;
    Ok(page)
}

fn unmapped<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let granule = rig.granule.bytes();
        let (page, kept) = (mapped_page(rig, &domain, AT)?, mapped_page(rig, &domain, AT + granule)?);
        rig.passes(write(AT), page)?;
        rig.passes(read(AT), page)?;
        rig.passes(write(AT + granule), kept)?;
        rig.unmap(&domain, AT, granule)?;
        rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
        rig.faults_with(number::F_TRANSLATION, read(AT), page)?;
        rig.passes(write(AT + granule), kept)
    })
}

fn ranges<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let granule = rig.granule.bytes();
        // Runs of pages that no single command need cover: lengths with few bits in common, on odd beginnings.
        let runs = [(AT + granule, 1), (AT + 5 * granule, 7), (AT + 0x0200_0000 + 3 * granule, 33)];
        let memory = rig.memory(rig.granule.get() + 3)?;
        let to = |index: u64| Pa::new(memory.get() + index % 8 * granule);
        let each = || runs.into_iter().flat_map(|(at, count)| (0..count).map(move |index| (at, index)));
        for (at, index) in each() {
            rig.map(&domain, at + index * granule, to(index), granule, Perms::READ_WRITE)?;
            rig.passes(write(at + index * granule), to(index))?;
        }
        let mut gather = Gather::new();
        for (at, count) in runs {
            let range = IovaRange::new(Iova::new(at), count * granule).ok_or("a range that wraps")?;
            domain.unmap(range, &mut gather).map_err(|error| format!("{error:?}"))?;
        }
        domain.sync(&mut gather).map(drop).map_err(|error| format!("{error:?}"))?;
        for (at, index) in each() {
            rig.faults_with(number::F_TRANSLATION, write(at + index * granule), to(index))?;
        }
        Ok(())
    })
}

/// The smallest block, and memory in it.
struct Block {
    at: u64,
    size: u64,
    to: Pa,
    memory: Pa,
    offset: u64,
}

fn a_block<B: Bed>(rig: &Rig<B>, domain: &Domain<B>) -> Result<Block, String> {
    let sizes: Vec<SizeLg2> = domain.page_sizes().iter().collect();
    let [_, block, ..] = sizes.as_slice() else { return Err(format!("no blocks: {sizes:?}")) };
    let memory = rig.memory(rig.granule.get() + 2)?;
    let (at, size) = (block.bytes(), block.bytes());
    let offset = memory.get() % size;
    Ok(Block { at, size, to: Pa::new(memory.get() - offset), memory, offset })
}

fn block<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let Block { at, size, to, memory, offset } = a_block(rig, &domain)?;
        let granule = rig.granule.bytes();
        rig.map(&domain, at, to, size, Perms::READ_WRITE)?;
        for page in 0..4 {
            rig.passes(write(at + offset + page * granule), Pa::new(memory.get() + page * granule))?;
        }
        rig.unmap(&domain, at, size)?;
        for page in 0..4 {
            let landing = Pa::new(memory.get() + page * granule);
            rig.faults_with(number::F_TRANSLATION, write(at + offset + page * granule), landing)?;
        }
        Ok(())
    })
}

fn mapped_elsewhere<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let old = mapped_page(rig, &domain, AT)?;
        rig.passes(write(AT), old)?;
        rig.unmap(&domain, AT, rig.granule.bytes())?;
        let new = mapped_page(rig, &domain, AT)?;
        rig.fill(old, &[0x55; 8]);
        rig.passes(write(AT), new)?;
        rig.passes(read(AT), new)?;
        ensure!(rig.bytes(old, 8) == [0x55; 8], "the page from before was written");
        Ok(())
    })
}

fn other_size<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let Block { at, size, to, memory, offset } = a_block(rig, &domain)?;
        let (granule, at_page) = (rig.granule.bytes(), at + offset);
        rig.map(&domain, at, to, size, Perms::READ_WRITE)?;
        rig.passes(write(at_page), memory)?;
        rig.unmap(&domain, at, size)?;
        let page = mapped_page(rig, &domain, at_page)?;
        rig.passes(write(at_page), page)?;
        rig.faults_with(number::F_TRANSLATION, write(at_page + granule), Pa::new(memory.get() + granule))?;
        rig.unmap(&domain, at_page, granule)?;
        rig.map(&domain, at, to, size, Perms::READ_WRITE)?;
        rig.passes(write(at_page), memory)?;
        rig.passes(write(at_page + granule), Pa::new(memory.get() + granule))
    })
}

/// The table pages that an unmap emptied go back to the heap, which gives them to somebody else at once.
fn table_freed<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let other = rig.domain()?;
        let mut before = Vec::new();
        for index in 0..4 {
            let at = AT + index * 0x0400_0000;
            let page = mapped_page(rig, &domain, at)?;
            rig.passes(write(at), page)?;
            rig.unmap(&domain, at, rig.granule.bytes())?;
            // What was a table of the first domain may be one of the second now, with something at the same index.
            mapped_page(rig, &other, at)?;
            before.push((at, page));
        }
        before.into_iter().try_for_each(|(at, page)| rig.faults_with(number::F_TRANSLATION, write(at), page))
    })
}

fn mapped_late<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, landing) = (rig.led()?, rig.page()?);
        let granule = rig.granule.bytes();
        rig.faults_with(number::F_TRANSLATION, write(AT), landing)?;
        let first = mapped_page(rig, &domain, AT)?;
        rig.passes(write(AT), first)?;
        rig.faults_with(number::F_TRANSLATION, write(AT + granule), landing)?;
        let second = mapped_page(rig, &domain, AT + granule)?;
        rig.passes(write(AT + granule), second)
    })
}

fn less_allowed<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let page = mapped_page(rig, &domain, AT)?;
        rig.passes(write(AT), page)?;
        rig.unmap(&domain, AT, rig.granule.bytes())?;
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ)?;
        rig.faults_with(number::F_PERMISSION, write(AT), page)?;
        rig.passes(read(AT), page)
    })
}

fn flushed<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let granule = rig.granule.bytes();
        rig.attach(rig.stream(0), &Target::Domain(one.clone()))?;
        rig.attach(rig.stream(1), &Target::Domain(two.clone()))?;
        let pages = [mapped_page(rig, &one, AT)?, mapped_page(rig, &one, AT + granule)?];
        let other = mapped_page(rig, &two, AT)?;
        rig.passes(write(AT).by(0), pages[0])?;
        rig.passes(write(AT + granule).by(0), pages[1])?;
        rig.passes(write(AT).by(1), other)?;
        let range = IovaRange::new(Iova::new(AT), 2 * granule).ok_or("a range that wraps")?;
        let mut gather = Gather::new();
        one.unmap(range, &mut gather).map_err(|error| format!("{error:?}"))?;
        rig.flush(&one)?;
        rig.faults_with(number::F_TRANSLATION, write(AT).by(0), pages[0])?;
        rig.faults_with(number::F_TRANSLATION, write(AT + granule).by(0), pages[1])?;
        rig.passes(write(AT).by(1), other)
    })
}

fn other_domain<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let (page_one, page_two) = (mapped_page(rig, &one, AT)?, mapped_page(rig, &two, AT)?);
        rig.attach(rig.stream(0), &Target::Domain(one.clone()))?;
        rig.attach(rig.stream(1), &Target::Domain(two.clone()))?;
        rig.passes(write(AT).by(0), page_one)?;
        rig.passes(write(AT).by(1), page_two)?;
        rig.unmap(&two, AT, rig.granule.bytes())?;
        rig.passes(write(AT).by(0), page_one)?;
        rig.faults_with(number::F_TRANSLATION, write(AT).by(1), page_two)
    })
}

fn attached_elsewhere<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let page = mapped_page(rig, &one, AT)?;
        let stream = rig.stream(0);
        rig.attach(stream, &Target::Domain(one.clone()))?;
        rig.passes(write(AT).by(0), page)?;
        rig.attach(stream, &Target::Domain(two))?;
        rig.faults_with(number::F_TRANSLATION, write(AT).by(0), page)?;
        rig.attach(stream, &Target::Domain(one.clone()))?;
        rig.passes(write(AT).by(0), page)?;
        rig.attach(stream, &Target::Blocked)?;
        rig.refuses_quietly(write(AT).by(0), page)?;
        rig.attach(stream, &Target::Identity)?;
        rig.passes(write(page.get()).by(0), page)
    })
}

fn number_again<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let stream = rig.stream(0);
        let first = rig.domain()?;
        let page = mapped_page(rig, &first, AT)?;
        rig.attach(stream, &Target::Domain(first.clone()))?;
        rig.passes(write(AT).by(0), page)?;
        rig.attach(stream, &Target::Blocked)?;
        drop(first);
        // Whichever of 255 numbers the first one had, one of these has it again.
        for _ in 0..256 {
            let domain = rig.domain()?;
            rig.attach(stream, &Target::Domain(domain))?;
            rig.faults_with(number::F_TRANSLATION, write(AT).by(0), page)?;
            rig.attach(stream, &Target::Blocked)?;
        }
        Ok(())
    })
}

fn cut<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let Block { at, size, to, memory, offset } = a_block(rig, &domain)?;
        let granule = rig.granule.bytes();
        rig.map(&domain, at, to, size, Perms::READ_WRITE)?;
        let page = |index: u64| Pa::new(memory.get() + index * granule);
        for index in 0..4 {
            rig.passes(write(at + offset + index * granule), page(index))?;
        }
        rig.unmap(&domain, at + offset + granule, granule)?;
        for index in [0, 2, 3] {
            rig.passes(write(at + offset + index * granule), page(index))?;
        }
        rig.faults_with(number::F_TRANSLATION, write(at + offset + granule), page(1))
    })
}
