//! On and off: bypass, abort, an SMMU that is disabled, and one that is brought up again.
//!
//! Spec: SMMUv3 H.a, 3.4 "Address sizes", 6.3.9.6 "SMMUEN", 6.3.14 "SMMU_GBPA".

use portcullis::core::iommu::Target;
use portcullis::hal::Registers;
use portcullis::types::{Pa, Perms};

use super::AT;
use crate::conformance::bed::Bed;
use crate::conformance::bench::{Bench, Outcome, Rig, Seen, read, write};
use crate::conformance::needs::Need;
use crate::conformance::records::{fault, number};
use crate::conformance::sight::offset;
use crate::conformance::suite::Case;
use crate::ensure;

pub(super) fn cases<B: Bed>() -> Vec<Case<B>> {
    vec![
        Case::new("identity passes addresses as they are", identity),
        Case::new("identity refuses an address beyond the output size with F_ADDR_SIZE", identity_beyond)
            .needs(&[Need::NarrowOutput]),
        Case::new("what is blocked is refused in silence", blocked),
        Case::new("an SMMU that was turned off aborts everything", off),
        Case::new("an SMMU that is disabled passes everything if it is told to", disabled),
        Case::new("a driver that comes after one that never left takes over", takes_over),
        Case::new("a driver that comes after one that left begins anew", comes_back),
    ]
}

fn identity<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        rig.attach(rig.stream(0), &Target::Identity)?;
        rig.passes(write(page.get()).by(0), page)?;
        rig.passes(write(page.get() + 0x38).by(0), Pa::new(page.get() + 0x38))
    })
}

fn identity_beyond<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        rig.attach(rig.stream(0), &Target::Identity)?;
        let access = write(1 << bench.ids.output_bits() | page.get()).by(0);
        // Of stage 1, which is bypassed: S2 is 0.
        rig.faults(access, page, fault(number::F_ADDR_SIZE, rig.what(access), false))
    })
}

fn blocked<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        // As probe and add leave it; and again after it was let go.
        rig.refuses_quietly(write(page.get()).by(0), page)?;
        rig.attach(rig.stream(0), &Target::Identity)?;
        rig.passes(write(page.get()).by(0), page)?;
        rig.attach(rig.stream(0), &Target::Blocked)?;
        rig.refuses_quietly(write(page.get()).by(0), page)
    })
}

fn off<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let (domain, page) = (rig.led()?, rig.page()?);
        rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT), page)?;
        rig.turn_off()?;
        let cr0ack = rig.bed.registers().read32(offset::CR0ACK);
        ensure!(cr0ack & 1 == 0, "SMMUEN is still on: {cr0ack:#x}");
        for at in [AT, page.get()] {
            ensure!(
                rig.carry(write(at), page)? == Seen::Refused,
                "a write to {at:#x} passed an SMMU that is off"
            );
        }
        Ok(())
    })
}

/// ABORT is bit 20, Update bit 31.
fn set_global_abort<B: Bed>(rig: &Rig<B>, abort: bool) -> Outcome {
    let registers = rig.bed.registers();
    let value = registers.read32(offset::GBPA) & !(1 << 20) | u32::from(abort) << 20;
    registers.write32(offset::GBPA, value | 1 << 31);
    let done = (0..1000).any(|_| registers.read32(offset::GBPA) >> 31 == 0);
    ensure!(done, "GBPA was not updated");
    Ok(())
}

fn disabled<B: Bed>(bench: &Bench<B>) -> Outcome {
    bench.with(|rig| {
        let page = rig.page()?;
        rig.turn_off()?;
        set_global_abort(rig, false)?;
        let passed = rig.carry(write(page.get()), page);
        set_global_abort(rig, true)?;
        ensure!(passed? == Seen::Moved, "a write did not pass an SMMU that is disabled");
        ensure!(rig.carry(write(page.get()), page)? == Seen::Refused, "GBPA.ABORT aborts nothing");
        Ok(())
    })
}

fn takes_over<B: Bed>(bench: &Bench<B>) -> Outcome {
    let before = bench.rig(None, |_| {})?;
    before.add_devices()?;
    let (domain, page) = (before.led()?, before.page()?);
    before.map(&domain, AT, page, before.granule.bytes(), Perms::READ_WRITE)?;
    before.passes(write(AT), page)?;
    let outcome = bench.with(|rig| {
        rig.refuses_quietly(write(AT), page)?;
        let (domain, other) = (rig.led()?, rig.page()?);
        rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
        rig.map(&domain, AT, other, rig.granule.bytes(), Perms::READ_WRITE)?;
        rig.passes(write(AT), other)?;
        rig.passes(read(AT), other)
    });
    // Off already; the memory of the first goes back only now.
    drop(before);
    outcome
}

fn comes_back<B: Bed>(bench: &Bench<B>) -> Outcome {
    for _ in 0..3 {
        bench.with(|rig| {
            let (domain, page) = (rig.led()?, rig.page()?);
            rig.faults_with(number::F_TRANSLATION, write(AT), page)?;
            rig.map(&domain, AT, page, rig.granule.bytes(), Perms::READ_WRITE)?;
            rig.passes(write(AT), page)
        })?;
    }
    Ok(())
}
