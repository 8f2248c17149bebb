//! What holds of every vendor.

use portcullis::core::iommu::{Iommu, Target};
use portcullis::types::{AccessKind, Iova, Pa, Perms, SizeLg2};

use super::rig::Rig;
use super::suite::{Bench, Case};
use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::common;
pub(super) use crate::conformance::common::AT;
use crate::conformance::floor::{read, write};
use crate::ensure;

pub(super) fn all<B: Bed, V: Vendor>() -> Vec<Case<B, V>> {
    vec![
        Case::new("a mapped page is read and written where it leads", |bench| bench.with(common::page)),
        Case::new(
            "an address that is not mapped reaches nothing, nor do the neighbours of one that is",
            holes,
        ),
        Case::new("pages that lie apart in memory are reached as neighbours", |bench| {
            bench.with(common::scattered)
        }),
        Case::new("each size of page and block leads where it says", sizes),
        Case::new("the first and the last page of the aperture can be used", |bench| {
            bench.with(common::aperture)
        }),
        Case::new("an address above the aperture is refused", above_aperture)
            .unless(|bench| V::carries_no_more(&*bench.bed, bench.setting)),
        Case::new("a write that runs off a mapped page is refused from there on", crossing),
        Case::new("a whole table of pages leads to each", |bench| bench.with(common::many)),
        Case::new("what may be read alone is not written", read_only),
        Case::new("what may be written alone is not read", write_only).unless(|bench| {
            let alone = V::writes_alone(&*bench.bed, bench.setting);
            (!alone).then(|| "no entry of this kind of table allows writes alone".into())
        }),
        Case::new("what was unmapped is closed, and its neighbours are not", unmapped),
        Case::new("a page that is mapped to another place leads there", moved),
        Case::new("a block where a table of pages was leads where it says", block_after_pages),
        Case::new("a flush of a domain makes it forget everything", flushed),
        Case::new("what is blocked reaches nothing, and says so", blocked),
        Case::new("what is refused is told by the book's name for it", strictly),
        Case::new("what is blocked again reaches nothing, whatever is cached", blocked_again),
        Case::new("identity leads everything to itself, and a domain does so no more", identity),
        Case::new("two engines in two domains each reach their own memory", |bench| {
            bench.with(common::two_domains)
        }),
        Case::new("what is attached elsewhere is led there at once, whatever is cached", elsewhere),
        Case::new("a domain that has the number of one that is gone sees nothing of it", reused),
        Case::new("a device that was removed reaches nothing", removed),
        Case::new("each of some faults has its record, in order", in_order).unless(|bench| {
            let records = V::records(&*bench.bed);
            (records < 3).then(|| format!("the hardware keeps {records} fault of a source until it is taken"))
        }),
        Case::new("without errors there are none to tell", no_errors),
    ]
}

fn holes<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page, other) = (rig.led()?, rig.page()?, rig.page()?);
        rig.faults(Refusal::NotMapped, write(AT), page)?;
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.faults(Refusal::NotMapped, write(AT - 8), other)?;
        rig.faults(Refusal::NotMapped, read(AT + rig.granule.bytes()), other)?;
        rig.passes(write(AT), page)
    })
}

fn sizes<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        for size in domain.page_sizes().iter().filter(|size| size.get() <= 30) {
            size_leads(rig, &domain, size)?;
        }
        Ok(())
    })
}

/// Maps one page or block around some memory, which is all that is accessed of it.
fn size_leads<B: Bed, V: Vendor>(rig: &Rig<B, V>, domain: &super::rig::Domain<B>, size: SizeLg2) -> Outcome {
    let at = size.bytes();
    let chunk = size.get().min(21);
    let memory = rig.memory(chunk)?;
    let offset = memory.get() % size.bytes();
    rig.map(domain, at, Pa::new(memory.get() - offset), size.bytes(), Perms::READ_WRITE)?;
    for byte in [0, (1 << chunk) - 8] {
        rig.passes(write(at + offset + byte), Pa::new(memory.get() + byte))?;
        rig.passes(read(at + offset + byte), Pa::new(memory.get() + byte))?;
    }
    rig.unmap(domain, at, size.bytes())?;
    rig.faults(Refusal::NotMapped, write(at + offset), memory)
}

fn above_aperture<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, 0, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(0), page)?;
        let above = domain.aperture().last().get().checked_add(1).ok_or("an aperture without an end")?;
        // Where the page would be if the bit were not looked at.
        rig.faults(Refusal::TooHigh, write(above), page)
    })
}

fn crossing<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let behind = common::crossing(rig)?;
        rig.told(&rig.events(), Refusal::NotMapped, behind)
    })
}

fn read_only<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ)?;
        rig.passes(read(AT), page)?;
        rig.faults(Refusal::Forbidden, write(AT), page)?;
        // And with what is cached by now.
        rig.faults(Refusal::Forbidden, write(AT + 8), Pa::new(page.get() + 8))?;
        rig.passes(read(AT + 8), Pa::new(page.get() + 8))
    })
}

fn write_only<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::WRITE)?;
        rig.passes(write(AT), page)?;
        rig.faults(Refusal::Forbidden, read(AT), page)
    })
}

fn unmapped<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let granule = rig.granule.bytes();
        let memory = rig.memory(rig.granule.get() + 2)?;
        let page = |index: u64| Pa::new(memory.get() + index * granule);
        rig.map(&domain, AT, memory, 4 * granule, Perms::READ_WRITE)?;
        (0..4).try_for_each(|index| rig.passes(write(AT + index * granule), page(index)))?;
        rig.unmap(&domain, AT + granule, 2 * granule)?;
        rig.passes(write(AT), page(0))?;
        rig.faults(Refusal::NotMapped, write(AT + granule), page(1))?;
        rig.faults(Refusal::NotMapped, read(AT + 2 * granule), page(2))?;
        rig.passes(write(AT + 3 * granule), page(3))
    })
}

fn moved<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, one, two) = (rig.led()?, rig.page()?, rig.page()?);
        let granule = rig.granule.bytes();
        for to in [one, two, one] {
            rig.map(&domain, AT, to, granule, Perms::READ_WRITE)?;
            rig.passes(write(AT), to)?;
            rig.unmap(&domain, AT, granule)?;
        }
        rig.faults(Refusal::NotMapped, write(AT), one)
    })
}

fn block_after_pages<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let domain = rig.led()?;
        let granule = rig.granule.bytes();
        let Some(block) = domain.page_sizes().iter().find(|size| *size > rig.granule && size.get() <= 25)
        else {
            return Ok(());
        };
        let page = rig.page()?;
        let memory = rig.memory(block.get())?;
        let at = block.bytes();
        rig.map(&domain, at + granule, page, granule, Perms::READ_WRITE)?;
        rig.passes(write(at + granule), page)?;
        rig.unmap(&domain, at + granule, granule)?;
        // The table that pages had is gone: whoever still follows it reads what is not a table any more.
        rig.map(&domain, at, memory, block.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(at + granule), Pa::new(memory.get() + granule))?;
        rig.passes(write(at + 2 * granule), Pa::new(memory.get() + 2 * granule))
    })
}

fn flushed<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        let granule = rig.granule.bytes();
        rig.map(&domain, AT, page, granule, Perms::READ_WRITE)?;
        rig.passes(write(AT), page)?;
        let range = portcullis::types::IovaRange::new(Iova::new(AT), granule).ok_or("it wraps")?;
        let mut gather = portcullis::core::iommu::Gather::new();
        domain.unmap(range, &mut gather).map_err(|error| format!("unmap: {error:?}"))?;
        domain.flush_all().map(drop).map_err(|error| format!("flush: {error:?}"))?;
        rig.faults(Refusal::NotMapped, write(AT), page)
    })
}

fn blocked<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        (0..rig.streams().len())
            .try_for_each(|engine| rig.faults(Refusal::Unknown, write(page.get()).by(engine), page))
    })
}

fn strictly<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        for access in [write(AT), read(AT + rig.granule.bytes())] {
            let records = rig.refuses(access, page)?;
            let writes = access.kind == AccessKind::Write;
            rig.tells(&records, V::names(bench.setting, Refusal::NotMapped, writes), access)?;
        }
        Ok(())
    })
}

fn blocked_again<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        for _ in 0..2 {
            rig.passes(write(AT).by(0), page)?;
            rig.attach(rig.stream(0), &Target::Blocked)?;
            rig.faults(Refusal::Blocked, write(AT).by(0), page)?;
            rig.passes(write(AT).by(1), page)?;
            rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
        }
        Ok(())
    })
}

fn identity<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        for _ in 0..2 {
            rig.attach(rig.stream(0), &Target::Identity)?;
            rig.passes(write(page.get()).by(0), page)?;
            rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
            rig.faults(Refusal::NotMapped, write(page.get()).by(0), page)?;
        }
        Ok(())
    })
}

fn elsewhere<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let (page_one, page_two) = (rig.page()?, rig.page()?);
        rig.map(&one, AT, page_one, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.map(&two, AT, page_two, rig.granule.bytes(), Perms::READ_WRITE)?;
        for _ in 0..3 {
            for (domain, page) in [(&one, page_one), (&two, page_two)] {
                rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
                rig.passes(write(AT).by(0), page)?;
                rig.passes(write(AT).by(0), page)?;
            }
        }
        Ok(())
    })
}

fn reused<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        for _ in 0..3 {
            let domain = rig.led()?;
            rig.faults(Refusal::NotMapped, write(AT), page)?;
            rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
            rig.passes(write(AT), page)?;
            for stream in rig.streams() {
                rig.attach(stream, &Target::Blocked)?;
            }
        }
        Ok(())
    })
}

fn removed<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT).by(0), page)?;
        rig.remove(rig.stream(0))?;
        rig.refuses(write(AT).by(0), page)?;
        rig.passes(write(AT).by(1), page)
    })
}

fn in_order<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        let accesses = [write(AT).by(0), write(AT + 0x10_0000).by(1), write(AT + 0x2000).by(2)];
        for access in accesses {
            rig.carry(access, page)?;
        }
        let records = rig.events();
        ensure!(records.len() == 3, "three faults, and {records:x?}");
        for (record, access) in records.iter().zip(accesses) {
            rig.told(core::slice::from_ref(record), Refusal::NotMapped, access)?;
        }
        Ok(())
    })
}

fn no_errors<B: Bed, V: Vendor>(bench: &Bench<B, V>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.unmap(&domain, AT, rig.granule.bytes())?;
        rig.refuses(write(AT), page)?;
        let errors = rig.driver.handle_errors();
        ensure!(errors.is_empty(), "errors: {errors:x?}");
        Ok(())
    })
}
