//! Streams: tables of every shape, and what is recorded of a stream that has no place in one.
//!
//! Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry", 7.3.3 "C_BAD_STREAMID" to 7.3.7 "F_STREAM_DISABLED".

use std::sync::Arc;

use portcullis::core::iommu::{Iommu, Target};
use portcullis::hal::{Barriers, DmaMemory, Registers};
use portcullis::smmuv3::{Config, TableShape};
use portcullis::types::{Perms, SourceId};

use super::{AT, NOWHERE};
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, Rig, write};
use crate::conformance::hands::{OnRegister, OnStore, attach_with_ste, with_hand};
use crate::conformance::needs::Need;
use crate::conformance::records::{configuration, fetch, number, stream_disabled};
use crate::conformance::sight::offset;
use crate::conformance::suite::{Case, Over};
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        // Those with a linear table first: see the last one.
        Case::new("a linear stream table leads each stream to its domain", linear),
        Case::new(
            "a stream that nobody added has an entry that is not valid in a linear table",
            unknown_linear,
        ),
        Case::new("a stream behind the end of the table is C_BAD_STREAMID", outside),
        Case::new(
            "a stream behind the end of the table is refused in silence if nobody asks",
            outside_quietly,
        ),
        Case::new("an entry that cannot be fetched is F_STE_FETCH", unreadable),
        Case::new("a stream table of two levels leads each stream to its domain", two_level)
            .needs(&[Need::TwoLevelStreams]),
        Case::new("a stream that nobody added is C_BAD_STREAMID in a table of two levels", unknown_two_level)
            .needs(&[Need::TwoLevelStreams]),
        Case::new("a linear table after one of two levels leads each stream to its domain", linear_again)
            .needs(&[Need::TwoLevelStreams]),
        Case::new("a device that was removed is refused, and others are not", removed),
        Case::new("an entry that is not valid is C_BAD_STE", invalid),
        Case::new("a reserved configuration aborts in silence", reserved),
        Case::new("substreams on, none given, and none allowed is F_STREAM_DISABLED", no_substream)
            .needs(&[Need::Stage1, Need::Substreams]),
        Case::new("while an entry changes every access goes where it went or where it will", hitless)
            .over(Over::Tables),
        Case::new("while an entry is blocked and let go every access is whole or refused", blocked_and_back),
    ]
}

fn shaped(shape: TableShape) -> impl FnOnce(&mut Config) {
    move |config| config.stream_table = shape
}

fn each_to_its_own<B: Bed>(rig: &Rig<B>) -> Outcome {
    let mut pages = Vec::new();
    for stream in rig.streams() {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.attach(stream, &Target::Domain(domain))?;
        pages.push(page);
    }
    pages.into_iter().enumerate().try_for_each(|(engine, page)| rig.passes(write(AT).by(engine), page))
}

fn linear<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(shaped(TableShape::Linear), |rig| {
        let config = rig.bed.registers().read32(offset::STRTAB_BASE_CFG);
        ensure!(config >> 16 & 3 == 0, "STRTAB_BASE_CFG is {config:#x}");
        each_to_its_own(rig)
    })
}

fn two_level<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(shaped(TableShape::TwoLevel), |rig| {
        let config = rig.bed.registers().read32(offset::STRTAB_BASE_CFG);
        ensure!(config >> 16 & 3 == 1, "STRTAB_BASE_CFG is {config:#x}");
        each_to_its_own(rig)
    })
}

/// Spec: SMMUv3 H.a, 6.3.25 "SMMU_STRTAB_BASE_CFG", FMT: what is written counts, not what was.
fn linear_again<B: Bed>(bench: &Bench<B>) -> Outcome {
    two_level(bench)?;
    linear(bench)
}

fn unknown_linear<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.without_devices(shaped(TableShape::Linear), |rig| {
        let page = rig.page()?;
        rig.faults(write(page.get()), page, configuration(number::C_BAD_STE, rig.stream(0)))
    })
}

fn unknown_two_level<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.without_devices(shaped(TableShape::TwoLevel), |rig| {
        let page = rig.page()?;
        // L1STD.Span is 0.
        rig.faults(write(page.get()), page, configuration(number::C_BAD_STREAMID, rig.stream(0)))
    })
}

/// A table that the SMMU is told to be of 16 entries. LOG2SIZE is bits 5:0.
fn of_16_entries() -> Arc<OnRegister<impl Fn(u64) -> u64 + Send + Sync>> {
    Arc::new(OnRegister { offset: offset::STRTAB_BASE_CFG, change: |value: u64| value & !0x3f | 4 })
}

fn outside<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_hand(Some(of_16_entries()), shaped(TableShape::Linear), |rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        ensure!(rig.stream(0) < 16 && rig.stream(1) >= 16, "streams: {:x?}", rig.streams());
        rig.passes(write(AT).by(0), page)?;
        rig.faults(write(AT).by(1), page, configuration(number::C_BAD_STREAMID, rig.stream(1)))
    })
}

/// Spec: SMMUv3 H.a, 6.3.12 "SMMU_CR2", RECINVSID, bit 1.
fn outside_quietly<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_hand(Some(of_16_entries()), shaped(TableShape::Linear), |rig| {
        let page = rig.page()?;
        let registers = rig.bed.registers();
        // CR2 may be written while SMMUEN is 0.
        let config = registers.read32(offset::CR0);
        let ack = |value: u32| {
            registers.write32(offset::CR0, value);
            (0..1000).any(|_| registers.read32(offset::CR0ACK) == value)
        };
        ensure!(ack(config & !1), "CR0 was not acknowledged");
        let cr2 = registers.read32(offset::CR2);
        registers.write32(offset::CR2, cr2 & !2);
        ensure!(ack(config), "CR0 was not acknowledged");
        rig.refuses_quietly(write(page.get()).by(1), page)
    })
}

fn removed<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT).by(0), page)?;
        rig.driver.remove_device(&[SourceId(rig.stream(0))]).map_err(|error| format!("{error:?}"))?;
        rig.faults(write(AT).by(0), page, configuration(number::C_BAD_STE, rig.stream(0)))?;
        rig.passes(write(AT).by(1), page)?;
        rig.add_device(0, rig.stream(0))?;
        rig.refuses_quietly(write(AT).by(0), page)?;
        rig.attach(rig.stream(0), &Target::Domain(domain))?;
        rig.passes(write(AT).by(0), page)
    })
}

fn invalid<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        // V, bit 0.
        attach_with_ste(rig, 0, &domain, |_, index, word| if index == 0 { word & !1 } else { word })?;
        rig.faults(write(AT).by(0), page, configuration(number::C_BAD_STE, rig.stream(0)))?;
        rig.attach(rig.stream(0), &Target::Blocked)?;
        rig.attach(rig.stream(0), &Target::Domain(domain))?;
        rig.passes(write(AT).by(0), page)
    })
}

/// Config 0b0xx: "Reserved (behaves as 0b000)". Config is bits 3:1.
fn reserved<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        for config in [0b001, 0b010, 0b011] {
            attach_with_ste(rig, 0, &domain, move |_, index, word| {
                if index == 0 && word & 1 == 1 { word & !0b1110 | config << 1 } else { word }
            })?;
            rig.refuses_quietly(write(AT).by(0), page)?;
            rig.attach(rig.stream(0), &Target::Blocked)?;
        }
        Ok(())
    })
}

fn unreadable<B: Bed>(bench: &Bench<B>) -> Outcome {
    let nowhere = Arc::new(OnRegister { offset: offset::STRTAB_BASE, change: |_| NOWHERE });
    bench.with_hand(Some(nowhere), shaped(TableShape::Linear), |rig| {
        let page = rig.page()?;
        let stream = rig.stream(0);
        let wanted = fetch(number::F_STE_FETCH, stream, NOWHERE + 64 * u64::from(stream));
        rig.faults(write(page.get()).by(0), page, wanted)
    })
}

/// S1DSS 0b00, bits 1:0 of the second word.
fn no_substream<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(
        |config| config.substream_bits = 2,
        |rig| {
            let (domain, page) = (rig.domain()?, rig.page()?);
            rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
            attach_with_ste(rig, 0, &domain, |_, index, word| if index == 1 { word & !3 } else { word })?;
            rig.faults(write(AT).by(0), page, stream_disabled(rig.stream(0)))
        },
    )
}

/// What an engine may see while its entry changes.
struct Watch<B: Bed> {
    bed: Arc<B>,
    engine: usize,
    at: u64,
    landings: [portcullis::types::Pa; 2],
    /// Whether a refusal is wrong.
    never_refused: bool,
    seen: std::sync::Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    looks: usize,
    wrong: Option<String>,
}

impl<B: Bed> Watch<B> {
    /// One write, of which only what it says is in doubt: which of two places it reached.
    fn look(&self, after: &str) {
        let platform = self.bed.platform();
        let clear = [0x77; 4];
        let bytes = |at| {
            let mut bytes = [0; 4];
            platform.invalidate(at, 4);
            platform.read(at, &mut bytes);
            bytes
        };
        for landing in self.landings {
            platform.write(landing, &clear);
            platform.clean(landing, 4);
        }
        platform.full_barrier();
        let ask = crate::conformance::bed::Ask {
            engine: self.engine,
            pasid: None,
            at: self.at,
            len: 4,
            kind: portcullis::types::AccessKind::Write,
            privileged: false,
        };
        self.bed.carry_out(&[ask], None);
        let reached = self.landings.map(|landing| bytes(landing) != clear);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.looks += 1;
        let wrong = match reached {
            [true, false] | [false, true] => false,
            [false, false] => self.never_refused,
            [true, true] => true,
        };
        if wrong && seen.wrong.is_none() {
            seen.wrong = Some(format!("after {after}: old and new place reached: {reached:?}"));
        }
    }

    fn verdict(&self) -> Outcome {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ensure!(seen.looks > 0, "nobody looked");
        seen.wrong.clone().map_or(Ok(()), Err)
    }
}

/// Attaches, with a look after every store to the entry.
fn attach_watched<B: Bed>(
    rig: &Rig<B>,
    watch: &Arc<Watch<B>>,
    target: &crate::conformance::bench::Aim<B>,
) -> Outcome {
    let stream = rig.stream(watch.engine);
    let first = rig.sight(|sight| sight.ste(stream)).ok_or("the stream has no entry")?;
    let looking = watch.clone();
    let hand = OnStore {
        first,
        words: 8,
        change: move |machine: &dyn crate::conformance::via::Machine, index, word| {
            machine.poke(portcullis::types::Pa::new(first.get() + 8 * index as u64), word);
            looking.look(&format!("a store of {word:#x} to word {index}"));
            word
        },
    };
    with_hand(rig, Arc::new(hand), || rig.attach(stream, target))?;
    watch.look("the attach");
    watch.verdict()
}

/// Spec: SMMUv3 H.a, 3.21.3.1 "Configuration structure update procedure": a change that one 64-bit store makes is seen whole.
fn hitless<B: Bed>(bench: &Bench<B>) -> Outcome {
    // The same address is used with and without translation: where memory is above 48 bits, so must be what a domain maps.
    let widest = |config: &mut Config| config.input_bits = Some(52);
    bench.with_config(widest, |rig| {
        let (domain, old, new) = (rig.domain()?, rig.page()?, rig.page()?);
        rig.map(&domain, old.get(), new, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.attach(rig.stream(0), &Target::Identity)?;
        let watch = Arc::new(Watch {
            bed: rig.bed.clone(),
            engine: 0,
            at: old.get(),
            landings: [old, new],
            never_refused: true,
            seen: std::sync::Mutex::default(),
        });
        watch.look("nothing");
        for _ in 0..2 {
            attach_watched(rig, &watch, &Target::Domain(domain.clone()))?;
            attach_watched(rig, &watch, &Target::Identity)?;
        }
        rig.events();
        Ok(())
    })
}

fn blocked_and_back<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, other, old, new) = (rig.domain()?, rig.domain()?, rig.page()?, rig.page()?);
        rig.map(&domain, AT, old, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.map(&other, AT, new, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
        let watch = Arc::new(Watch {
            bed: rig.bed.clone(),
            engine: 0,
            at: AT,
            landings: [old, new],
            never_refused: false,
            seen: std::sync::Mutex::default(),
        });
        watch.look("nothing");
        for target in [Target::Blocked, Target::Domain(other), Target::Domain(domain), Target::Blocked] {
            attach_watched(rig, &watch, &target)?;
        }
        rig.events();
        rig.refuses_quietly(write(AT).by(0), old)
    })
}
