//! Context descriptors: one, several, and such as are wrong.
//!
//! Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor", 7.3.9 "C_BAD_SUBSTREAMID" to 7.3.12 "F_WALK_EABT".

use portcullis::core::iommu::Target;
use portcullis::smmuv3::{Config, TableShape};
use portcullis::types::{Pa, Perms};

use super::{AT, NOWHERE};
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, Rig, read, write};
use crate::conformance::hands::{attach_with_cd, attach_with_ste, change_word};
use crate::conformance::needs::Need;
use crate::conformance::records::{
    bad_substream, configuration, fetch, in_substream, number, stream_disabled, walk_abort,
};
use crate::conformance::suite::{Case, Over};
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    const SUBSTREAMS: &[Need] = &[Need::Stage1, Need::Substreams];
    const STAGE_1: &[Need] = &[Need::Stage1];
    vec![
        Case::new("a context descriptor that is not valid is C_BAD_CD", invalid).needs(STAGE_1),
        Case::new("a context descriptor that cannot be fetched is F_CD_FETCH", unreadable).needs(STAGE_1),
        Case::new("a context whose walks are switched off is F_TRANSLATION", no_walks).needs(STAGE_1),
        Case::new("a context that records nothing refuses in silence", unrecorded).needs(STAGE_1),
        Case::new("a table that cannot be fetched is F_WALK_EABT", no_table).over(Over::Stage1),
        Case::new("a context of another ASID is another one, whatever is cached", other_asid)
            .over(Over::Tables),
        Case::new("each substream has its context in a linear table", linear).needs(SUBSTREAMS),
        Case::new("each substream has its context in a table of two levels", two_level).needs(SUBSTREAMS),
        Case::new("a substream behind the end of the table is C_BAD_SUBSTREAMID", outside).needs(SUBSTREAMS),
        Case::new("a substream where there are none is C_BAD_SUBSTREAMID", none).needs(&[Need::Substreams]),
        Case::new("substream 0 is not for those who ask for it", zero).needs(SUBSTREAMS),
    ]
}

fn with_cd<B: Bed>(
    bench: &Bench<B>,
    bit_off: u64,
    bit_on: u64,
    act: impl FnOnce(&Rig<B>, Pa) -> Outcome,
) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        attach_with_cd(rig, 0, &domain, move |machine, cd| {
            change_word(machine, cd, |word| word & !bit_off | bit_on);
        })?;
        act(rig, page)
    })
}

fn invalid<B: Bed>(bench: &Bench<B>) -> Outcome {
    // V, bit 31.
    with_cd(bench, 1 << 31, 0, |rig, page| {
        rig.faults(write(AT).by(0), page, configuration(number::C_BAD_CD, rig.stream(0)))
    })
}

fn unreadable<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        attach_with_ste(rig, 0, &domain, |_, index, word| {
            // S1ContextPtr, bits 55:6.
            if index == 0 && word & 1 == 1 { word & !0x00ff_ffff_ffff_ffc0 | NOWHERE } else { word }
        })?;
        rig.faults(write(AT).by(0), page, fetch(number::F_CD_FETCH, rig.stream(0), NOWHERE))
    })
}

fn no_walks<B: Bed>(bench: &Bench<B>) -> Outcome {
    // EPD0, bit 14.
    with_cd(bench, 0, 1 << 14, |rig, page| rig.faults_with(number::F_TRANSLATION, write(AT).by(0), page))
}

fn unrecorded<B: Bed>(bench: &Bench<B>) -> Outcome {
    // R, bit 45.
    with_cd(bench, 1 << 45, 0, |rig, page| {
        rig.passes(write(AT).by(0), page)?;
        rig.refuses_quietly(write(AT + rig.granule.bytes()).by(0), page)
    })
}

fn no_table<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        attach_with_cd(rig, 0, &domain, |machine, cd| {
            // TTB0, bits 55:4 of the second word.
            change_word(machine, Pa::new(cd.get() + 8), |word| word & !0x00ff_ffff_ffff_fff0 | NOWHERE);
        })?;
        // With 48 bits the first table is indexed by bits 47:39, 47 alone, or 47:42.
        let at = 0x8000_0000_0000 | AT;
        let offset = match rig.granule.get() {
            12 => 0x800,
            14 => 8,
            _ => 0x100,
        };
        let wanted = walk_abort(rig.what(write(at).by(0)), NOWHERE + offset);
        rig.faults(write(at).by(0), page, wanted)
    })
}

fn other_asid<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let (page_one, page_two) = (rig.page()?, rig.page()?);
        rig.map(&one, AT, page_one, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.map(&two, AT, page_two, rig.granule.bytes(), Perms::READ_WRITE)?;
        for _ in 0..3 {
            for (domain, page, other) in [(&one, page_one, page_two), (&two, page_two, page_one)] {
                rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
                rig.passes(write(AT).by(0), page)?;
                // Not by what the other left in a cache: a second look would find it.
                rig.fill(other, &[0x55; 8]);
                rig.passes(write(AT).by(0), page)?;
                ensure!(rig.bytes(other, 8) == [0x55; 8], "the other domain's page was written");
            }
        }
        Ok(())
    })
}

/// A table of 16 contexts.
fn of_16(shape: TableShape) -> impl FnOnce(&mut Config) {
    move |config| {
        config.substream_bits = 4;
        config.context_table = shape;
    }
}

/// The third substream leads to a second domain; what hardware finds of it was written before the entry led there.
fn several<B: Bed>(bench: &Bench<B>, shape: TableShape) -> Outcome {
    bench.with_config(of_16(shape), |rig| {
        let (one, two) = (rig.domain()?, rig.domain()?);
        let (page_one, page_two) = (rig.page()?, rig.page()?);
        rig.map(&one, AT, page_one, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.map(&two, AT, page_two, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.attach(rig.stream(1), &Target::Domain(two))?;
        // S1Fmt, bits 5:4: the pointer is to CDs, or to pointers to them.
        let first_cd = |machine: &dyn crate::conformance::via::Machine, word: u64| {
            let table = word & 0x00ff_ffff_ffff_ffc0;
            let two_level = word >> 4 & 3 != 0;
            if two_level { machine.load(Pa::new(table)) & 0x000f_ffff_ffff_f000 } else { table }
        };
        let stream = rig.stream(1);
        let ste = rig.sight(|sight| sight.ste(stream)).ok_or("no entry")?;
        let source = first_cd(rig.machine(), rig.machine().load(ste));
        let words: Vec<u64> = (0..8).map(|index| rig.machine().load(Pa::new(source + 8 * index))).collect();
        attach_with_ste(rig, 0, &one, move |machine, index, word| {
            if index == 0 && word & 0b11 == 0b11 {
                let third = first_cd(machine, word) + 3 * 64;
                for (index, &word) in (0u64..).zip(&words) {
                    machine.poke(Pa::new(third + 8 * index), word);
                }
            }
            word
        })?;
        rig.passes(write(AT).by(0), page_one)?;
        rig.passes(write(AT).by(0).in_space(3), page_two)?;
        rig.passes(read(AT).by(0).in_space(3), page_two)?;
        let wanted = in_substream(configuration(number::C_BAD_CD, rig.stream(0)), 5);
        rig.faults(write(AT).by(0).in_space(5), page_two, wanted)
    })
}

fn linear<B: Bed>(bench: &Bench<B>) -> Outcome {
    several(bench, TableShape::Linear)
}

fn two_level<B: Bed>(bench: &Bench<B>) -> Outcome {
    several(bench, TableShape::TwoLevel)
}

fn outside<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(of_16(TableShape::Auto), |rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        for pasid in [16, 17, 0xf_ffff] {
            rig.faults(write(AT).by(0).in_space(pasid), page, bad_substream(rig.stream(0), pasid))?;
        }
        rig.passes(write(AT).by(0), page)
    })
}

fn none<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.faults(write(AT).by(0).in_space(1), page, bad_substream(rig.stream(0), 1))?;
        rig.attach(rig.stream(0), &Target::Identity)?;
        let at = page.get();
        rig.faults(write(at).by(0).in_space(0x42), page, bad_substream(rig.stream(0), 0x42))
    })
}

/// S1DSS 0b10: what comes without a substream uses the context of substream 0, and who says 0 is terminated.
fn zero<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(of_16(TableShape::Auto), |rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT).by(0), page)?;
        rig.faults(write(AT).by(0).in_space(0), page, stream_disabled(rig.stream(0)))
    })
}
