//! Faults: taking the records, and what they say in core's words.
//!
//! # Order
//!
//! FSTS_REG.FRI names the oldest record. From there on of each F is read, then, if that is set, the rest, and then it is cleared by F, so that hardware can use it again; when all are
//! clear, PPF falls by itself. F is read by itself and first: hardware sets it when the rest is there, and a bus may split a read of 64 bits, so that half of what came with F was read before.
//! While PFO is set nothing new is recorded: it is cleared last, when there is room.
//!
//! Hardware interrupts only when neither was set before. So it is looked again until both are clear: what came meanwhile, or overflowed, interrupts nobody.
//!
//! Spec: VT-d 5.10, 7.2.1 "Primary Fault Logging", 11.4.7 "Fault Reporting Interface".
//! Not here: errors of the invalidation queue, which FSTS_REG tells as well (`queue`).

use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::vtd::fault::{
    FAULT_RECORD_BYTES, FaultReason as Reason, FaultStatus, FaultWord0, FaultWord1,
};
use portcullis_spec::vtd::registers::FSTS;
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Access, AccessKind, Iova, Pasid, SourceId};

use crate::counters::Counters;
use crate::hardware::Hardware;

/// The upper half of a record's second word, where F is.
const F_OFFSET: usize = 12;
const F: u32 = 1 << 31;
/// How often the records are looked through in one go.
const ROUNDS: usize = 16;

/// Keeps records for one taker at a time.
#[derive(Debug)]
pub(crate) struct Faults<P: Platform>(Lock<P, ()>);

impl<P: Platform> Faults<P> {
    pub(crate) fn new() -> Self {
        Self(Lock::<P, ()>::new(()))
    }

    /// Takes the records that are there, oldest first, and gives each to `to`. Answers how many.
    pub(crate) fn drain<R: Registers>(
        &self,
        hardware: &Hardware<P, R>,
        to: &mut dyn FnMut(&FaultRecord),
    ) -> usize {
        let _one_at_a_time = self.0.lock();
        let mut taken = 0;
        // So often: a device that faults without end cannot hold a CPU.
        for _ in 0..ROUNDS {
            let status = hardware.registers.read32(FSTS);
            let (gone, status) = (status == u32::MAX, FaultStatus::from_bits(status));
            if gone || !status.ppf() && !status.pfo() {
                break;
            }
            let found = if status.ppf() { take_all(hardware, status.fri(), to) } else { 0 };
            taken += found;
            if status.pfo() {
                clear_overflow(hardware, taken);
            } else if found == 0 {
                break;
            }
        }
        taken
    }
}

/// Takes the records once around from `first`, until after some there is one that says nothing. Answers how many.
///
/// Where hardware recorded more while others were taken, `first` may have been taken before: the oldest is the next that says something.
fn take_all<P: Platform, R: Registers>(
    hardware: &Hardware<P, R>,
    first: u8,
    to: &mut dyn FnMut(&FaultRecord),
) -> usize {
    let (registers, records) = (&*hardware.registers, hardware.features.fault_records);
    let mut taken = 0;
    for step in 0..records {
        let index = (usize::from(first) + step) % records;
        let at = hardware.features.fault_records_at + FAULT_RECORD_BYTES * index;
        let upper = registers.read32(at + F_OFFSET);
        if upper & F == 0 {
            if taken > 0 {
                break;
            }
            continue;
        }
        let lower = registers.read32(at + 8);
        let raw = [registers.read64(at), u64::from(upper) << 32 | u64::from(lower)];
        registers.write32(at + F_OFFSET, F);
        taken += 1;
        Counters::add(&hardware.queue.counters.faults);
        to(&decode(raw));
    }
    taken
}

fn clear_overflow<P: Platform, R: Registers>(hardware: &Hardware<P, R>, taken: usize) {
    Counters::add(&hardware.queue.counters.fault_overflows);
    hardware.registers.write32(FSTS, FaultStatus::new().with_pfo(true).into_bits());
    hardware.platform.event(&Event {
        source: "vtd",
        name: "fault_overflow",
        fields: &[("records", Value::Dec(taken as u64))],
    });
}

/// Forgets all records, and the overflow, of before.
pub(crate) fn clear(registers: &impl Registers, at: usize, records: usize) {
    for index in 0..records {
        registers.write32(at + FAULT_RECORD_BYTES * index + F_OFFSET, F);
    }
    let all = FaultStatus::new().with_pfo(true).with_iqe(true).with_ice(true).with_ite(true);
    registers.write32(FSTS, all.into_bits());
}

/// The meaning of a fault record. Total: of a reason that the book does not name, the number is kept.
pub fn decode(raw: [u64; 2]) -> FaultRecord {
    let word0 = FaultWord0::from_bits(raw[0]);
    let word1 = FaultWord1::from_bits(raw[1]);
    let reason = word1.reason();
    let of_interrupt = (0x20..=0x2f).contains(&reason.0);
    FaultRecord {
        source: Some(SourceId(word1.sid().into())),
        pasid: if word1.pp() { Pasid::new(word1.pv()) } else { None },
        iova: (!of_interrupt).then_some(Iova::new(word0.address())),
        access: (!of_interrupt).then_some(access(word1)),
        reason: meaning(reason),
        name: reason.code().unwrap_or("unknown"),
        raw: [raw[0], raw[1], 0, 0],
    }
}

/// Spec: VT-d 5.10, 11.4.7.6 "Fault Recording Registers \[n\]", T1, T2: write 00, page request 01 (T1 clear, T2 set), read 10, atomic operation 11.
fn access(word: FaultWord1) -> Access {
    let kind = match (word.t1(), word.t2()) {
        _ if word.pp() && word.exe() => AccessKind::Execute,
        (true, false) => AccessKind::Read,
        (false, true) => AccessKind::Read,
        // An atomic operation writes.
        (false, false) | (true, true) => AccessKind::Write,
    };
    Access { kind, privileged: word.pp() && word.privileged() }
}

fn meaning(reason: Reason) -> FaultReason {
    match reason {
        // Without permission is also what is not mapped: second-stage entries say nothing else.
        Reason::WRITE_DENIED
        | Reason::READ_DENIED
        | Reason::FIRST_STAGE_NOT_PRESENT
        | Reason::SECOND_STAGE_NOT_PRESENT => FaultReason::NotMapped,
        // A guest's table that lies, or says it lies, where its parent does not let it be read or marked.
        Reason::FIRST_STAGE_ROOT_DENIED
        | Reason::FIRST_STAGE_READ_DENIED
        | Reason::FIRST_STAGE_MARK_DENIED => FaultReason::Permission,
        Reason::PRIVILEGE | Reason::SCALABLE_WRITE_DENIED | Reason::SCALABLE_READ_DENIED => {
            FaultReason::Permission
        }
        Reason::ADDRESS_TOO_LARGE
        | Reason::NOT_CANONICAL
        | Reason::HOST_ADDRESS_TOO_LARGE
        | Reason::SECOND_STAGE_ADDRESS_TOO_LARGE
        | Reason::FIRST_STAGE_ADDRESS
        | Reason::OUTPUT_IN_INTERRUPT_WINDOW
        | Reason::SCALABLE_OUTPUT_IN_INTERRUPT_WINDOW => FaultReason::AddressSize,
        Reason::ROOT_ACCESS
        | Reason::CONTEXT_ACCESS
        | Reason::TABLE_ACCESS
        | Reason::SCALABLE_ROOT_ACCESS
        | Reason::SCALABLE_CONTEXT_ACCESS
        | Reason::PASID_DIRECTORY_ACCESS
        | Reason::PASID_TABLE_ACCESS
        | Reason::FIRST_STAGE_ACCESS
        | Reason::FIRST_STAGE_ROOT_ACCESS
        | Reason::SECOND_STAGE_ACCESS
        | Reason::SECOND_STAGE_ROOT_ACCESS
        | Reason::IRTE_ACCESS => FaultReason::Hardware,
        Reason(0x01..=0x03 | 0x0a..=0x0d | 0x30..=0x34 | 0x39..=0x3a | 0x41..=0x49 | 0x51..=0x52)
        | Reason(0x59..=0x5d | 0x89) => FaultReason::Configuration,
        other => FaultReason::Other(other.0.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_where_how_and_why() {
        // A read by 0x0108 at 0xdead_b000 without permission: F, T1, FR 6.
        let raw = [0xdead_b000, 1 << 63 | 1 << 62 | 6 << 32 | 0x108];
        let record = decode(raw);
        assert_eq!((record.name, record.reason), ("LGN.3", FaultReason::NotMapped));
        assert_eq!((record.source, record.pasid), (Some(SourceId(0x108)), None));
        assert_eq!((record.iova, record.access), (Some(Iova::new(0xdead_b000)), Some(Access::READ)));
        // A privileged write with PASID 5, through a PASID that means nothing.
        let record = decode([0x5000, 1 << 63 | 5 << 40 | 0x59 << 32 | 1 << 31 | 1 << 29 | 0x108]);
        assert_eq!((record.pasid, record.reason), (Pasid::new(5), FaultReason::Configuration));
        assert_eq!(record.access, Some(Access { kind: AccessKind::Write, privileged: true }));
        let interrupt = decode([7 << 48, 1 << 63 | 0x26 << 32 | 0x108]);
        assert_eq!((interrupt.name, interrupt.iova, interrupt.access), ("26h", None, None));
    }

    #[test]
    fn every_reason_decodes_and_unknown_ones_keep_their_number() {
        for reason in 0..=0xffu64 {
            let record = decode([u64::MAX, reason << 32]);
            assert_eq!(record.name == "unknown", Reason(u8::try_from(reason).unwrap()).code().is_none());
        }
        assert_eq!(decode([0, 0xee << 32]).reason, FaultReason::Other(0xee));
    }
}
