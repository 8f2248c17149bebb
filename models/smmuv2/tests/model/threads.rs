//! Real threads: a completed synchronization means that no access is still under way; and one that comes back to the model in the middle of a walk.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use model_bus::{BusError, Fabric, Mmio, Outcome, Request, SparseMemory, Translator, Width, Write};
use model_smmuv2::Smmu;
use portcullis_types::trace::Silence;
use portcullis_types::{Access, Iova, Pa, SourceId};

use crate::harness::{CBAR_S1, Got, L3, Machine, PAGE, Seen, TLBIVAL, TLBSTATUS, TLBSYNC, lazy, plain};

fn request(address: u64) -> Request {
    Request {
        source: SourceId(5),
        pasid: None,
        iova: Iova::new(address),
        len_bytes: 8,
        access: Access::WRITE,
    }
}

#[test]
fn a_synchronization_waits_for_accesses_that_began_before_it() {
    let machine = Machine::stage1(lazy());
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.cb64(0, TLBIVAL, 3 << 48 | 1);
        machine.cb(0, TLBSYNC, 0);
        machine.w32(0x70, 0);
        for _ in 0..100 {
            machine.step();
        }
        assert_eq!((machine.rcb(0, TLBSTATUS), machine.r32(0x74)), (1, 1), "the access is under way");
        // One that begins later is not waited for, but the first still is.
        assert_eq!(machine.smmu.access(&request(0x1008), &mut |_| Ok(())), Outcome::Done);
        assert_eq!(machine.rcb(0, TLBSTATUS), 1);
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    assert_eq!((machine.rcb(0, TLBSTATUS), machine.r32(0x74)), (0, 0));
}

#[test]
fn no_write_lands_on_a_page_after_the_synchronization_that_took_it_away() {
    const ROUNDS: u64 = 100;
    let machine = Machine::stage1(lazy());
    // HUPCF: one fault must not end the others.
    machine.cb(0, 0, 0x67 | 1 << 8);
    let mapped = AtomicBool::new(true);
    let stop = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    // Counted rather than asserted there: whoever waits for writes must not wait for ever.
    let late = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let _outcome = machine.smmu.access(&request(0x1000), &mut |_| {
                        std::thread::yield_now();
                        late.fetch_add(u64::from(!mapped.load(Ordering::Acquire)), Ordering::Relaxed);
                        writes.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    });
                }
            });
        }
        for _ in 0..ROUNDS {
            let before = writes.load(Ordering::Relaxed);
            while writes.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            machine.words(L3 + 8, &[0]);
            machine.cb64(0, TLBIVAL, 3 << 48 | 1);
            machine.cb(0, TLBSYNC, 0);
            while machine.rcb(0, TLBSTATUS) != 0 {
                std::thread::yield_now();
            }
            mapped.store(false, Ordering::Release);
            std::thread::yield_now();
            mapped.store(true, Ordering::Release);
            machine.words(L3 + 8, &[0x30_0000 | PAGE]);
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(late.into_inner(), 0, "writes after the synchronization");
    machine.assert_clean();
}

/// Every read of memory is a read of a register of the SMMU that asks.
struct Mirror(OnceLock<Weak<Smmu>>);

impl Fabric for Mirror {
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError> {
        let smmu = self.0.get().and_then(Weak::upgrade).unwrap();
        into.copy_from_slice(&smmu.read(at.get() & 0xff8, Width::Bits64).to_le_bytes()[..into.len()]);
        Ok(())
    }

    fn write(&self, write: Write<'_>) -> Result<(), BusError> {
        Err(BusError { at: write.at })
    }

    fn compare_exchange(&self, at: Pa, _: u64, _: u64) -> Result<u64, BusError> {
        Err(BusError { at })
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

#[test]
fn registers_that_tables_lie_on_do_not_stop_the_model() {
    let mirror = Arc::new(Mirror(OnceLock::new()));
    let smmu = Arc::new(Smmu::new(plain(), mirror.clone(), 1, Arc::new(Silence)));
    mirror.0.set(Arc::downgrade(&smmu)).unwrap();
    let machine = Machine { ram: Arc::new(SparseMemory::new(48)), smmu, lines: Arc::new(Seen::default()) };
    machine.bank1(0, CBAR_S1);
    machine.stream(0, 5, 0, 0);
    machine.w32(0x00, 0x0020_0406);
    assert_eq!(machine.access(5, 0x1000, Access::READ), Got::Abort, "registers in use read as 0");
}
