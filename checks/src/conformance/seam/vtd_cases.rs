//! What VT-d's book promises besides what core asks of everybody: memory that firmware goes on using, interrupt remapping, fault records that run out, entries that are wrong, a
//! queue that wraps.

use portcullis::core::iommu::{Iommu, Target};
use portcullis::hal::{BlockLayout, DmaMemory, Registers};
use portcullis::types::{Iova, IovaRange, Pa, Perms, SourceId};
use portcullis::vtd::{BootRegion, Destination, Interrupt, InterruptMessage, Requester};

use super::cases::AT;
use super::guest::Guest;
use super::rig::Rig;
use super::suite::{Bench, Case};
use super::vtd::VtD;
use super::vtd_sight::Sight;
use super::{Refusal, Vendor};
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::floor::{read, write};
use crate::ensure;

/// Where nothing answers on any bed: above all memory and all windows, and below 46 bits.
const NOWHERE: u64 = 0x0000_000c_0000_0000;

pub(super) fn all<B: Bed>() -> Vec<Case<B, VtD>> {
    vec![
        Case::new(
            "memory that firmware goes on using is reached from the beginning, and nothing else is",
            boot,
        ),
        Case::new("a message arrives as what its entry says, and from whom it says", messages)
            .unless(no_messages),
        Case::new("a message without an entry of its own arrives nowhere", strangers).unless(no_messages),
        Case::new("faults without a record are lost, said to be, and recorded again after", overflow),
        Case::new("a table that cannot be read is told as that", unreadable).unless(first_stage),
        Case::new("a reserved bit in an entry of a page is told as that", reserved_in_page)
            .unless(first_stage),
        Case::new("an entry of a source that says what no unit can do is told as that", invalid),
        Case::new("a short invalidation queue wraps again and again", wraps),
        Case::new("the words of a nested entry and of its parent's are the book's", nested_words)
            .unless(no_nesting),
        Case::new(
            "entries of a guest's are marked in the guest's memory, where the parent lets them be",
            marked,
        )
        .unless(no_nesting),
    ]
}

fn no_messages<B: Bed>(bench: &Bench<B, VtD>) -> Option<String> {
    // ECAP_REG.IR.
    let remaps = bench.bed.registers().read64(0x10) >> 3 & 1 == 1;
    if !remaps {
        return Some("ECAP.IR is 0: no interrupt remapping".into());
    }
    let told = bench.bed.send_message(0, 0xfee0_0000, 0).is_some();
    (!told).then(|| "the engines write no messages, or nobody counts them".into())
}

fn first_stage<B: Bed>(bench: &Bench<B, VtD>) -> Option<String> {
    let second = bench.bed.registers().read64(0x10) >> 46 & 1 == 1;
    (bench.setting.scalable && !second).then(|| "the case knows second-stage tables only".into())
}

fn no_nesting<B: Bed>(bench: &Bench<B, VtD>) -> Option<String> {
    VtD::nests_nothing(&*bench.bed, bench.setting)
}

/// Spec: VT-d 5.10, 8.4 "Reserved Memory Region Reporting Structure".
fn boot<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    let platform = bench.bed.platform();
    let layout = BlockLayout::naturally_aligned(13);
    let memory = platform.alloc_buffer(layout).ok_or("no memory for data")?;
    let engine = bench.bed.engines()[0].stream;
    let region = BootRegion {
        range: IovaRange::new(Iova::new(memory.get()), 0x1000).ok_or("it wraps")?,
        sources: vec![engine],
        relaxable: false,
    };
    let outcome = bench.with_config(
        |config| config.boot_regions.push(region),
        |rig| {
            let (at, beside) = (memory.get(), memory.get() + 0x1000);
            rig.passes(write(at).by(0), memory)?;
            rig.faults(Refusal::NotMapped, write(beside).by(0), Pa::new(beside))?;
            rig.faults(Refusal::Unknown, write(at).by(1), memory)?;
            rig.add_devices()?;
            rig.passes(write(at).by(0), memory)?;
            let domain = rig.led()?;
            rig.faults(Refusal::NotMapped, write(at).by(0), memory)?;
            rig.map(&domain, at, memory, 0x1000, Perms::READ_WRITE)?;
            rig.passes(write(at).by(0), memory)
        },
    );
    platform.free_buffer(memory, layout);
    outcome
}

fn interrupt(vector: u8, source: SourceId) -> Interrupt {
    Interrupt {
        vector,
        destination: Destination::Physical(0),
        level: false,
        requester: Requester::Source(source),
    }
}

/// What CPUs got of a message.
fn got<B: Bed>(rig: &Rig<B, VtD>, engine: usize, message: InterruptMessage) -> Result<Vec<u8>, String> {
    rig.bed.send_message(engine, message.address, message.data).ok_or("nobody counts messages".into())
}

/// Demands one record of a refused message: why, and whose it was.
fn refused<B: Bed>(rig: &Rig<B, VtD>, name: &str, engine: usize) -> Outcome {
    let records = rig.events();
    let is = |record: &portcullis::core::iommu::FaultRecord| {
        record.name == name && record.source == Some(SourceId(rig.stream(engine)))
    };
    ensure!(matches!(&records[..], [record] if is(record)), "{name} wanted, {records:x?}");
    Ok(())
}

/// Spec: VT-d 5.10, 5.1.3 "Interrupt Remapping Table", 5.1.4.1 "Interrupt Remapping Fault Conditions", 26h and 22h.
fn messages<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        let remapping = rig.driver.interrupts().ok_or("interrupts are not remapped")?;
        let said = |error| format!("an interrupt: {error:?}");
        let source = |engine| SourceId(rig.stream(engine));
        let block = remapping.allocate(2).map_err(said)?;
        remapping.set(&block, 0, &interrupt(0x41, source(0))).map_err(said)?;
        remapping.set(&block, 1, &interrupt(0x42, source(1))).map_err(said)?;
        let (first, second) = (remapping.message(&block, 0), remapping.message(&block, 1));
        ensure!(got(rig, 0, first)? == [0x41], "the first did not arrive");
        ensure!(got(rig, 1, second)? == [0x42], "the second did not arrive");
        ensure!(got(rig, 1, first)?.is_empty(), "another's arrived");
        refused(rig, "26h", 1)?;
        // What an entry was is forgotten.
        remapping.set(&block, 0, &interrupt(0x43, source(1))).map_err(said)?;
        ensure!(got(rig, 1, first)? == [0x43], "what the entry is now did not arrive");
        ensure!(got(rig, 0, first)?.is_empty(), "what the entry was arrived");
        refused(rig, "26h", 0)?;
        remapping.free_block(block).map_err(said)?;
        ensure!(got(rig, 1, first)?.is_empty(), "an entry that is gone arrived");
        refused(rig, "22h", 1)
    })
}

/// Spec: VT-d 5.10, 5.1.4.1, 25h, 21h, 22h.
fn strangers<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        // Compatibility format: fixed, CPU 0, vector 45h.
        let compatible = InterruptMessage { address: 0xfee0_0000, data: 0x45 };
        ensure!(got(rig, 0, compatible)?.is_empty(), "what nobody remaps arrived");
        refused(rig, "25h", 0)?;
        // Remappable format (bit 4), handle in bits 19:5: one that nobody took, and one behind the table.
        let handle = |index: u64| InterruptMessage { address: 0xfee0_0010 | index << 5, data: 0 };
        ensure!(got(rig, 0, handle(0x80))?.is_empty(), "an entry that nobody took arrived");
        refused(rig, "22h", 0)?;
        ensure!(got(rig, 0, handle(0x100))?.is_empty(), "an entry behind the table arrived");
        refused(rig, "21h", 0)
    })
}

/// Spec: VT-d 5.10, 7.2.1 "Primary Fault Logging".
fn overflow<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        let (_domain, page) = (rig.led()?, rig.page()?);
        let room = VtD::records(&*bench.bed);
        for (index, engine) in (0..room as u64 + 2).zip([0, 1, 2].into_iter().cycle()) {
            // Of several sources: those of one may be told together.
            rig.carry(write(AT + index * 0x1000).by(engine), page)?;
        }
        let records = rig.events();
        ensure!((1..=room).contains(&records.len()), "{room} records, and {} were taken", records.len());
        let lost = rig.driver.counts().fault_overflows;
        ensure!(lost == 1, "{lost} overflows were counted");
        let first = core::slice::from_ref(&records[0]);
        rig.told(first, Refusal::NotMapped, write(AT).by(0))?;
        rig.faults(Refusal::NotMapped, write(AT + 0x9000).by(0), page)
    })
}

/// Changes a word that hardware has not read yet.
fn with_path<B: Bed>(
    bench: &Bench<B, VtD>,
    change: impl FnOnce(&Rig<B, VtD>, &[Pa]),
    names: &[&str],
) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, 0x1000, Perms::READ_WRITE)?;
        let target = Target::Domain(domain.clone());
        rig.attach(rig.stream(0), &target)?;
        let registers = rig.bed.registers();
        let sight = Sight { registers: &registers, machine: rig.machine() };
        let path = sight.path(rig.stream(0), AT).ok_or("no table leads there")?;
        let whole = path.iter().map(|&at| (at, rig.machine().load(at))).collect::<Vec<_>>();
        change(rig, &path);
        let outcome = rig.faults_as(names, write(AT).by(0), page);
        // The driver is to find its own words.
        whole.into_iter().for_each(|(at, word)| rig.machine().poke(at, word));
        outcome
    })
}

/// Spec: VT-d 5.10, Table 30, LSS.1 and SSS.1.
fn unreadable<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    let nowhere = |rig: &Rig<B, VtD>, path: &[Pa]| {
        let at = path[path.len() - 2];
        rig.machine().poke(at, rig.machine().load(at) & 0xfff | NOWHERE);
    };
    with_path(bench, nowhere, &[if bench.setting.scalable { "SSS.1" } else { "LSS.1" }])
}

/// Spec: VT-d 5.10, Table 30, LSS.2 and SSS.3; 9.8 "Second-Stage Paging Entries": bits 51:HAW are reserved.
fn reserved_in_page<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    let high = |rig: &Rig<B, VtD>, path: &[Pa]| {
        let at = path[path.len() - 1];
        rig.machine().poke(at, rig.machine().load(at) | 1 << 51);
    };
    with_path(bench, high, &[if bench.setting.scalable { "SSS.3" } else { "LSS.2" }])
}

/// AW 7 and PGTT 7 are reserved. Spec: VT-d 5.10, Table 30, LCT.4 and SPT.4.
fn invalid<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.domain()?, rig.page()?);
        rig.map(&domain, AT, page, 0x1000, Perms::READ_WRITE)?;
        rig.attach(rig.stream(0), &Target::Domain(domain.clone()))?;
        let registers = rig.bed.registers();
        let sight = Sight { registers: &registers, machine: rig.machine() };
        let entry = sight.entry(rig.stream(0)).ok_or("no entry")?;
        let (at, bits) = if bench.setting.scalable { (entry, 7 << 6) } else { (Pa::new(entry.get() + 8), 7) };
        let word = rig.machine().load(at);
        rig.machine().poke(at, word | bits);
        let name = if bench.setting.scalable { "SPT.4" } else { "LCT.4" };
        let outcome = rig.faults_as(&[name], write(AT).by(0), page);
        rig.machine().poke(at, word);
        outcome
    })
}

/// Spec: VT-d 5.10, 9.6 "Scalable-Mode PASID Table Entry"; 6.2.3 on entries with the same domain-id.
fn nested_words<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        for dialect in VtD::dialects(&rig.driver.guest_tables()) {
            let guest = Guest::new(rig, &dialect)?;
            let nested = guest.nested()?;
            rig.attach(rig.stream(0), &Target::Nested(nested))?;
            rig.attach(rig.stream(1), &Target::Domain(guest.parent.clone()))?;
            let registers = rig.bed.registers();
            let sight = Sight { registers: &registers, machine: rig.machine() };
            let words = |engine| {
                let at = sight.entry(rig.stream(engine)).ok_or("no entry")?.get();
                Ok::<_, String>(
                    [0, 1, 2, 3, 4, 5, 6, 7].map(|word| rig.machine().load(Pa::new(at + 8 * word))),
                )
            };
            let (nested, parent) = (words(0)?, words(1)?);
            let ecap = registers.read64(0x10);
            let aw = u64::from(bench.setting.bits - 39) / 9 + 1;
            let table = parent[0] & 0x000f_ffff_ffff_f000;
            // P, AW, PGTT 010 and 011 with the same SSPTPTR.
            ensure!(parent[0] == table | 0x81 | aw << 2, "of the parent: {parent:x?}");
            ensure!(nested[0] == table | 0xc1 | aw << 2, "nested: {nested:x?}, of the parent {parent:x?}");
            let (did, of_parent) = (nested[1] & 0xffff, parent[1] & 0xffff);
            ensure!(did != of_parent && did != 0, "domain-ids {did} and {of_parent}");
            // PWSNP, PGSNP and PAT where SMPWCS, SC and MTS let them be.
            let pwsnp = (ecap >> 48 & 1) << 23;
            let pgsnp = (ecap >> 7 & 1) << 24;
            let pat = (ecap >> 25 & 1) * 0x0746_0746_0000_0000;
            ensure!(nested[1] == did | pwsnp | pgsnp | pat, "nested: {nested:x?}");
            // WPE, FSPM, and the guest's own address.
            let fspm = u64::from(dialect.levels - 4) << 2;
            ensure!(nested[2] == guest.root | 0x10 | fspm, "nested: {nested:x?}");
            ensure!(nested[3..] == [0; 5] && parent[2..] == [0; 6], "the rest is reserved: {nested:x?}");
        }
        Ok(())
    })
}

/// Spec: VT-d 5.10, 3.6.2 "Accessed, Extended Accessed, and Dirty Flags", 3.8 "Nested Translation"; Table 30, SFS.8.
fn marked<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with(|rig| {
        let dialects = VtD::dialects(&rig.driver.guest_tables());
        let guest = Guest::new(rig, &dialects[0])?;
        let _nested = guest.led()?;
        let (gpa, page) = guest.page(Perms::READ_WRITE)?;
        let above = guest.entry(AT, 1)?;
        let entry = guest.entry(AT, 0)?;
        // P, R/W, U/S; neither A nor D.
        guest.write(above, guest.word(above) & !0x20);
        guest.write(entry, gpa | 0x7);
        rig.passes(read(AT), page)?;
        ensure!(guest.word(above) & 0x60 == 0x20, "a table that was used: {:#x}", guest.word(above));
        ensure!(guest.word(entry) & 0x60 == 0x20, "a page that was read: {:#x}", guest.word(entry));
        rig.passes(write(AT), page)?;
        ensure!(guest.word(entry) == gpa | 0x67, "a page that was written: {:#x}", guest.word(entry));
        // A guest whose tables the parent lets be read alone.
        let shut = Guest::new(rig, &dialects[0])?;
        let (gpa, page) = shut.page(Perms::READ_WRITE)?;
        shut.map(AT, gpa, true)?;
        shut.write(shut.entry(AT, 0)?, gpa | 0x7);
        shut.shut_tables()?;
        let _nested = shut.led()?;
        rig.faults_as(&["SFS.8"], read(AT), page)?;
        ensure!(shut.word(shut.entry(AT, 0)?) == gpa | 0x7, "marked all the same");
        Ok(())
    })
}

fn wraps<B: Bed>(bench: &Bench<B, VtD>) -> Outcome {
    bench.with_config(
        |config| config.queue_lg2 = 7,
        |rig| {
            rig.add_devices()?;
            let (domain, page) = (rig.led()?, rig.page()?);
            for _ in 0..150 {
                rig.map(&domain, AT, page, 0x1000, Perms::READ_WRITE)?;
                rig.unmap(&domain, AT, 0x1000)?;
            }
            rig.faults(Refusal::NotMapped, write(AT), page)?;
            rig.map(&domain, AT, page, 0x1000, Perms::READ_WRITE)?;
            rig.passes(write(AT), page)
        },
    )
}
