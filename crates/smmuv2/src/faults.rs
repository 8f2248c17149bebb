//! Taking faults out of registers.
//!
//! The hardware has room for one fault in each bank, and for one global one. Of those that come while it is full it keeps nothing but that they
//! came. A fault is read whole first and cleared then, by writing what was read: what came in between stays, and is taken next.
//!
//! # Stalled transactions
//!
//! Where faults stall, the caller is told while the transaction waits, and may map what is missing. Then the fault is cleared, and only after that is the
//! transaction let go: the other way round its next fault would meet a register that is full. It is retried if it would not fault now, and
//! terminated if it would.
//!
//! One CPU at a time reads and clears; no lock is held while the caller is told, so that it may call back into the driver. A bank whose transaction
//! somebody is looking at is left out by others. A bank that is turned off ends what waits in it; who is looking at that then lets go of nothing, since the bank may be
//! another's by now ([`Looks`]).
//!
//! A stream that is led elsewhere leaves nothing behind that waits: retried later, it would go on by what the stream has left. So that is terminated, and who was not told of its fault is
//! when faults are next taken.
//!
//! Spec: SMMUv2 D.c, 3.7 "Context faults", 3.8 "Global faults", 16.5.28 "SMMU_CBn_RESUME, Transaction Resume register".
//! Not here: what registers say (`fault`).

use alloc::vec::Vec;

use portcullis_core::iommu::FaultRecord;
use portcullis_hal::{Platform, Registers};
use portcullis_spec::smmuv2::bank::{FAR, FSR, FSYNR0, Fsr, Fsynr0, RESUME, RESUME_RETRY, RESUME_TERMINATE};
use portcullis_spec::smmuv2::global::{FaultStream, GFAR, GFSR, GFSYNR0, GFSYNR1, Gfsr, Gfsynr0, cbfrsynra};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Access, AccessKind, Iova, Perms, SourceId, mutant};

use crate::counters::Operation;
use crate::fault;
use crate::hardware::Hardware;

/// How often one call takes a fault of the same bank: a device that faults without end cannot hold a CPU.
const MOST: usize = 4;

/// How many transactions that wait in a bank are ended in one go, and how many of their faults are kept until faults are next taken.
const MOST_ENDED: usize = 64;

/// The banks whose stalled transaction somebody is looking at, and which look it is.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    looks: Vec<(usize, u64)>,
    count: u64,
    /// Faults of transactions that were ended before anybody was told.
    untold: Vec<FaultRecord>,
}

impl Looks {
    fn is_looked_at(&self, bank: usize) -> bool {
        self.looks.iter().any(|&(looked_at, _)| looked_at == bank)
    }

    /// Somebody looks at what waits in a bank.
    fn begin(&mut self, bank: usize) -> u64 {
        self.count += 1;
        self.looks.push((bank, self.count));
        self.count
    }

    /// Whoever looks has looked. Answers whether what he looked at waits still.
    fn end(&mut self, bank: usize, look: u64) -> bool {
        let before = self.looks.len();
        self.looks.retain(|&held| held != (bank, look));
        self.looks.len() < before
    }

    /// What waited in a bank was ended.
    pub(crate) fn ended(&mut self, bank: usize) {
        self.looks.retain(|&(looked_at, _)| looked_at != bank);
    }
}

/// A context fault that was read.
struct Taken {
    fsr: Fsr,
    record: FaultRecord,
    /// If its transaction waits.
    look: Option<u64>,
}

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Takes the faults that are there and gives each to `to`. `source_of` says whose a StreamID is. Answers how many.
    pub(crate) fn drain_faults(
        &self,
        source_of: &dyn Fn(u16) -> SourceId,
        to: &mut dyn FnMut(&FaultRecord),
    ) -> usize {
        let untold = core::mem::take(&mut self.taking.lock().untold);
        let mut count = untold.len();
        untold.iter().for_each(|record| self.tell(record, to));
        let banks = self.banks.lock().in_use();
        for bank in banks {
            count += (0..MOST).take_while(|_| self.drain_bank(bank, source_of, to)).count();
        }
        count + (0..MOST).take_while(|_| self.drain_global(source_of, to)).count()
    }

    fn drain_bank(
        &self,
        bank: usize,
        source_of: &dyn Fn(u16) -> SourceId,
        to: &mut dyn FnMut(&FaultRecord),
    ) -> bool {
        let Some(Taken { fsr, record, look }) = self.take_context_fault(bank, source_of) else {
            return false;
        };
        if fsr.multi() {
            self.count(Operation::LostFaults);
        }
        self.tell(&record, to);
        if let Some(look) = look {
            self.let_go(bank, look, fsr, &record);
        }
        true
    }

    fn tell(&self, record: &FaultRecord, to: &mut dyn FnMut(&FaultRecord)) {
        self.count(Operation::ContextFault);
        self.say_fault(record);
        to(record);
    }

    /// Ends what waits in a bank and is of streams that leave it.
    pub(crate) fn end_stalled(
        &self,
        bank: usize,
        leaves: &dyn Fn(u16) -> bool,
        source_of: &dyn Fn(u16) -> SourceId,
    ) {
        for _ in 0..MOST_ENDED {
            let mut taking = self.taking.lock();
            let fsr = Fsr::from_bits(self.read_bank(bank, FSR));
            let stream = FaultStream::from_bits(self.read_global1(cbfrsynra(bank))).stream_id();
            if !fsr.ss() || !leaves(stream) {
                return;
            }
            let is_told = taking.is_looked_at(bank);
            let fits = taking.untold.len() < MOST_ENDED;
            if !is_told && fits {
                let record = self.context_fault(bank, fsr, source_of(stream));
                taking.untold.push(record);
            }
            if fsr.multi() || !is_told && !fits {
                self.count(Operation::LostFaults);
            }
            taking.ended(bank);
            self.write_bank(bank, FSR, fsr.into_bits());
            self.write_bank(bank, RESUME, RESUME_TERMINATE);
            drop(taking);
            self.count(Operation::Terminate);
        }
    }

    /// What the fault registers of a bank say.
    fn context_fault(&self, bank: usize, fsr: Fsr, source: SourceId) -> FaultRecord {
        let fsynr0 = Fsynr0::from_bits(self.read_bank(bank, FSYNR0));
        fault::context(fsr, fsynr0, self.read_bank64(bank, FAR), source)
    }

    fn take_context_fault(&self, bank: usize, source_of: &dyn Fn(u16) -> SourceId) -> Option<Taken> {
        let mut taking = self.taking.lock();
        if taking.is_looked_at(bank) {
            return None;
        }
        let fsr = Fsr::from_bits(self.read_bank(bank, FSR));
        if fsr.with_format(0).into_bits() == 0 {
            return None;
        }
        let fsynr0 = Fsynr0::from_bits(self.read_bank(bank, FSYNR0));
        let far = self.read_bank64(bank, FAR);
        let stream = FaultStream::from_bits(self.read_global1(cbfrsynra(bank)));
        let look = fsr.ss().then(|| taking.begin(bank));
        if look.is_none() {
            self.write_bank(bank, FSR, fsr.into_bits());
        }
        drop(taking);
        Some(Taken { fsr, record: fault::context(fsr, fsynr0, far, source_of(stream.stream_id())), look })
    }

    /// Clears the fault of a transaction that waits, and lets the transaction go.
    fn let_go(&self, bank: usize, look: u64, fsr: Fsr, record: &FaultRecord) {
        let asked = record.iova.zip(record.access);
        let mended = asked.is_some_and(|(iova, access)| self.allows(bank, iova, access));
        let (word, operation) =
            if mended { (RESUME_RETRY, Operation::Retry) } else { (RESUME_TERMINATE, Operation::Terminate) };
        let mut taking = self.taking.lock();
        if !taking.end(bank, look) {
            return;
        }
        if mutant!("smmuv2-resumed-before-its-fault-is-cleared") {
            self.write_bank(bank, RESUME, word);
        }
        self.write_bank(bank, FSR, fsr.into_bits());
        self.write_bank(bank, RESUME, word);
        drop(taking);
        self.count(operation);
    }

    /// Whether an access of this kind to `iova` by this bank would not fault now.
    fn allows(&self, bank: usize, iova: Iova, access: Access) -> bool {
        let wanted = match access.kind {
            AccessKind::Read => Perms::READ,
            AccessKind::Write => Perms::WRITE,
            AccessKind::Execute => Perms::EXECUTE,
        };
        // A statement of its own: a map of the domain that is under way holds up no other bank.
        let mappings = self.mapped.lock().get(&bank).cloned();
        let found = mappings.and_then(|mappings| mappings.lookup(&*self.platform, iova));
        found.is_some_and(|(_, prot)| prot.perms.contains(wanted))
    }

    fn drain_global(&self, source_of: &dyn Fn(u16) -> SourceId, to: &mut dyn FnMut(&FaultRecord)) -> bool {
        let taking = self.taking.lock();
        let gfsr = Gfsr::from_bits(self.registers.read32(GFSR));
        if gfsr.into_bits() == 0 {
            return false;
        }
        let gfsynr0 = Gfsynr0::from_bits(self.registers.read32(GFSYNR0));
        let stream = FaultStream::from_bits(self.registers.read32(GFSYNR1));
        let gfar = self.registers.read64(GFAR);
        self.registers.write32(GFSR, gfsr.into_bits());
        drop(taking);
        self.count(Operation::GlobalFault);
        if gfsr.multi() {
            self.count(Operation::LostFaults);
        }
        let record = fault::global(gfsr, gfsynr0, gfar, source_of(stream.stream_id()));
        self.say_fault(&record);
        to(&record);
        true
    }

    fn say_fault(&self, record: &FaultRecord) {
        self.platform.event(&Event {
            source: "smmuv2",
            name: "event_record",
            fields: &[
                ("name", Value::Str(record.name)),
                ("iova", record.iova.map_or(Value::Str("none"), |iova| Value::Addr(iova.get()))),
                ("word0", Value::Hex(record.raw[0])),
                ("word1", Value::Hex(record.raw[1])),
                ("word2", Value::Hex(record.raw[2])),
            ],
        });
    }
}
