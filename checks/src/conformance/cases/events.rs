//! Events: one record for each fault, its fields, and what becomes of those for which there is no room.
//!
//! Spec: SMMUv3 H.a, 7.3 "Event records", 7.4 "Event queue overflow".
//! Not here: records of streams (`streams`) and contexts (`contexts`).

use portcullis::hal::Registers;
use portcullis::types::Perms;

use super::AT;
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, Rig, read, write};
use crate::conformance::differences::unsaid;
use crate::conformance::hands::{attach_with_cd, attach_with_ste, change_word};
use crate::conformance::needs::Need;
use crate::conformance::records::{fault, number, shown};
use crate::conformance::sight::offset;
use crate::conformance::suite::{Case, Over};
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("F_TRANSLATION says who, where, and whether it was a read", translation).over(Over::Tables),
        Case::new("a walk that ends early is F_TRANSLATION on every level", every_level).over(Over::Tables),
        Case::new("F_ACCESS is recorded of a page whose access flag is clear", access_flag)
            .over(Over::Tables),
        Case::new("F_ADDR_SIZE is recorded of a page beyond the output size", address_size)
            .over(Over::Tables)
            .needs(&[Need::NarrowOutput]),
        Case::new("a fault of an input address says CLASS IN", class_in),
        Case::new("a fault of stage 2 says the page of its address, and nothing of the offset", ipa)
            .over(Over::Stage2),
        Case::new("each of many faults has its record, in order", many),
        Case::new("faults of several engines are told apart", engines),
        Case::new("an event queue that overflows says so, and goes on", overflow),
    ]
}

fn translation<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        for at in [AT, AT + 0x1238, 0x7fff_f000] {
            rig.faults_with(number::F_TRANSLATION, write(at), page)?;
            rig.faults_with(number::F_TRANSLATION, read(at), page)?;
        }
        Ok(())
    })
}

/// A descriptor of each level in turn is taken away, and put back.
fn every_level<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT), page)?;
        let path = rig.sight(|sight| sight.path(rig.stream(0), AT)).ok_or("no table")?;
        ensure!(path.len() >= 2, "a walk of {} steps", path.len());
        for descriptor in path.iter().rev() {
            rig.machine().poke(descriptor.at, 0);
            rig.flush(&domain)?;
            rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
            rig.machine().poke(descriptor.at, descriptor.word);
            rig.flush(&domain)?;
            rig.passes(write(AT), page)?;
        }
        Ok(())
    })
}

fn access_flag<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        let leaf = rig.leaf(0, AT)?;
        // AF, bit 10.
        rig.machine().poke(leaf.at, leaf.word & !(1 << 10));
        rig.flush(&domain)?;
        rig.faults_with(number::F_ACCESS, write(AT), page)?;
        rig.faults_with(number::F_ACCESS, read(AT), page)?;
        rig.machine().poke(leaf.at, leaf.word);
        rig.flush(&domain)?;
        rig.passes(write(AT), page)
    })
}

/// IPS (CD bits 34:32) and S2PS (STE bits 178:176) of 32 bits, and a page above. Where memory is above itself, the SMMU has 52 bits.
fn address_size<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        if rig.driver.uses_stage2() {
            attach_with_ste(
                rig,
                0,
                &domain,
                |_, index, word| {
                    if index == 2 { word & !(7 << 48) } else { word }
                },
            )?;
        } else {
            attach_with_cd(rig, 0, &domain, |machine, cd| {
                change_word(machine, cd, |word| word & !(7 << 32))
            })?;
        }
        rig.passes(write(AT).by(0), page)?;
        let leaf = rig.leaf(0, AT)?;
        rig.machine().poke(leaf.at, leaf.word | 1 << 32);
        rig.flush(&domain)?;
        rig.faults_with(number::F_ADDR_SIZE, write(AT).by(0), page)
    })
}

fn class_in<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        let wanted = fault(number::F_TRANSLATION, rig.what(write(AT)), rig.driver.uses_stage2());
        rig.faults_strictly(write(AT), page, wanted)
    })
}

fn ipa<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        let access = write(AT + 0x1238);
        rig.faults_strictly(access, page, fault(number::F_TRANSLATION, rig.what(access), true))
    })
}

fn many<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(
        |config| config.event_queue_lg2 = 3,
        |rig| {
            let (_domain, page) = (rig.led()?, rig.page()?);
            // More than three times around the queue, never more than it holds at once.
            for round in 0..5u64 {
                let at = |index: u64| AT + 0x1_0000 * (7 * round + index);
                for index in 0..7 {
                    rig.carry(write(at(index)), page)?;
                }
                let records = rig.events();
                ensure!(records.len() == 7, "round {round}: {} records of 7", records.len());
                for (index, record) in (0..).zip(&records) {
                    let what = rig.what(write(at(index)));
                    let wanted = fault(number::F_TRANSLATION, what, rig.driver.uses_stage2());
                    let wanted = wanted.without(unsaid(rig.bed.name()));
                    ensure!(wanted.is(record), "round {round}, {index}: {}", shown(record));
                }
            }
            Ok(())
        },
    )
}

fn engines<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        for engine in 0..rig.streams().len() {
            rig.faults_with(number::F_TRANSLATION, write(AT).by(engine), page)?;
        }
        Ok(())
    })
}

/// OVFLG is bit 31 of SMMU_EVENTQ_PROD, OVACKFLG of SMMU_EVENTQ_CONS.
fn overflowed<B: Bed>(rig: &Rig<B>) -> bool {
    let registers = rig.bed.registers();
    (registers.read32(offset::EVENTQ_PROD) ^ registers.read32(offset::EVENTQ_CONS)) >> 31 == 1
}

fn overflow<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with_config(
        |config| config.event_queue_lg2 = 2,
        |rig| {
            let (_domain, page) = (rig.led()?, rig.page()?);
            for round in 0..3 {
                for index in 0..4 {
                    rig.carry(write(AT + index * 0x1_0000), page)?;
                }
                settle(rig);
                ensure!(!overflowed(rig), "round {round}: four records in a queue of four overflow");
                for _ in 0..3 {
                    rig.carry(write(AT + 0x10_0000), page)?;
                }
                settle(rig);
                ensure!(overflowed(rig), "round {round}: seven records in a queue of four do not overflow");
                let records = rig.events();
                ensure!(records.len() == 4, "round {round}: {} records of four", records.len());
                for (index, record) in (0..).zip(&records) {
                    ensure!(record[2] == AT + index * 0x1_0000, "round {round}: {}", shown(record));
                }
                ensure!(!overflowed(rig), "round {round}: the overflow was not acknowledged");
                rig.faults_with(number::F_TRANSLATION, write(AT + 8), page)?;
            }
            Ok(())
        },
    )
}

/// Gives hardware time to write what it has to record.
fn settle<B: Bed>(rig: &Rig<B>) {
    use portcullis::hal::Clock;
    (0..24).for_each(|_| rig.bed.platform().relax());
}
