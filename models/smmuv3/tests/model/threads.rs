//! Real threads: a completed sync means that no access is still under way.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model_bus::{Clocked, Fabric, Mmio, Outcome, Request, Translator, Width};
use portcullis_types::{Access, Iova, SourceId};

use crate::harness::{L3, Machine, PAGE, plain};

fn request(address: u64) -> Request {
    Request {
        source: SourceId(1),
        pasid: None,
        iova: Iova::new(address),
        len_bytes: 8,
        access: Access::WRITE,
    }
}

#[test]
fn a_sync_waits_for_accesses_that_began_before_it() {
    let machine = Machine::stage1(plain());
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.put(3, 0x46, 0);
        machine.w32(0x98, 4);
        machine.settle();
        assert_eq!(machine.r32(0x9c), 3, "the access is under way");
        // One that begins later is not waited for, but the first still is.
        let later = machine.smmu.access(&request(0x1008), &mut |_| Ok(()));
        assert_eq!(later, Outcome::Done);
        machine.settle();
        assert_eq!(machine.r32(0x9c), 3);
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    machine.settle();
    assert_eq!(machine.r32(0x9c), 4);
}

#[test]
fn a_sync_does_not_wait_for_accesses_that_begin_after_it() {
    let machine = Machine::stage1(plain());
    let mut consumed = 0;
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.put(3, 0x46, 0);
        machine.w32(0x98, 4);
        machine.settle();
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    // The sync has begun; this access is of the other half.
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.settle();
        consumed = machine.r32(0x9c);
        Ok(())
    });
    assert_eq!((outcome, consumed), (Outcome::Done, 4));
}

#[test]
fn a_sync_that_was_begun_is_forgotten_when_the_queue_is_switched_off() {
    let machine = Machine::stage1(plain());
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.put(3, 0x46, 0);
        machine.w32(0x98, 4);
        machine.settle();
        machine.w32(0x20, 0b0101);
        machine.settle();
        machine.put(3, 0x10, 0);
        machine.w32(0x20, 0b1101);
        machine.settle();
        assert_eq!(machine.r32(0x9c), 4, "the command that is there now");
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    let counters = machine.smmu.counters();
    assert_eq!((counters.command("CMD_TLBI_NH_ALL"), counters.command("CMD_SYNC")), (1, 1));
}

#[test]
fn a_sync_waits_for_what_one_waited_for_that_was_forgotten() {
    let machine = Machine::stage1(plain());
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.put(3, 0x46, 0);
        machine.w32(0x98, 4);
        machine.settle();
        machine.w32(0x20, 0b0101);
        machine.settle();
        machine.w32(0x20, 0b1101);
        machine.settle();
        assert_eq!(machine.r32(0x9c), 3, "the access is older than both");
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    machine.settle();
    assert_eq!(machine.r32(0x9c), 4);
}

#[test]
fn switching_off_waits_for_accesses_under_way() {
    let machine = Machine::stage1(plain());
    let outcome = machine.smmu.access(&request(0x1000), &mut |_| {
        machine.w32(0x20, 0b1100);
        machine.settle_some();
        assert_eq!(machine.r32(0x24), 0b1101);
        Ok(())
    });
    assert_eq!(outcome, Outcome::Done);
    machine.settle();
    assert_eq!(machine.r32(0x24), 0b1100);
}

#[test]
fn registers_that_tables_lie_on_do_not_stop_the_model() {
    // A fabric that leads back into the model: every read of a table is a read of a register.
    struct Mirror(std::sync::OnceLock<std::sync::Arc<model_smmuv3::Smmu>>);
    impl Fabric for Mirror {
        fn read(&self, at: portcullis_types::Pa, into: &mut [u8]) -> Result<(), model_bus::BusError> {
            let value = self.0.get().map_or(0, |smmu| smmu.read(at.get() & 0xff8, Width::Bits32));
            into.fill(value.to_le_bytes()[0]);
            Ok(())
        }
        fn write(&self, write: model_bus::Write<'_>) -> Result<(), model_bus::BusError> {
            if let Some(smmu) = self.0.get() {
                smmu.write(write.at.get() & 0xff8, Width::Bits32, 1);
            }
            Ok(())
        }
        fn compare_exchange(
            &self,
            at: portcullis_types::Pa,
            _: u64,
            _: u64,
        ) -> Result<u64, model_bus::BusError> {
            Err(model_bus::BusError { at })
        }
        fn now_ns(&self) -> u64 {
            0
        }
    }
    let mirror = std::sync::Arc::new(Mirror(std::sync::OnceLock::new()));
    let smmu = std::sync::Arc::new(model_smmuv3::Smmu::new(
        plain(),
        std::sync::Arc::clone(&mirror) as std::sync::Arc<dyn Fabric>,
        1,
        std::sync::Arc::new(portcullis_types::trace::Silence),
    ));
    assert!(mirror.0.set(std::sync::Arc::clone(&smmu)).is_ok());
    smmu.write(0x20, Width::Bits32, 0b1101);
    smmu.write(0x88, Width::Bits32, 6);
    smmu.write(0x98, Width::Bits32, 1);
    while smmu.step(0) {}
    assert_eq!(smmu.access(&request(0x1000), &mut |_| Ok(())), Outcome::Aborted);
}

#[test]
fn no_write_lands_on_a_page_after_the_sync_that_took_it_away() {
    const ROUNDS: u64 = 100;
    let machine = Machine::stage1(plain());
    // 0: nobody may write; else the page is mapped. Written by the driver only.
    let mapped = AtomicBool::new(true);
    let stop = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let _outcome = machine.smmu.access(&request(0x1000), &mut |_| {
                        std::thread::yield_now();
                        assert!(mapped.load(Ordering::Acquire), "a write after the sync");
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
            let prod = machine.r32(0x98);
            machine.put(prod.into(), 0x0001_0000_0000_0012, 0x1001);
            machine.put(u64::from(prod) + 1, 0x46, 0);
            machine.w32(0x98, (prod + 2) & 0x1f);
            while machine.r32(0x9c) != (prod + 2) & 0x1f {
                machine.smmu.step(0);
                std::thread::yield_now();
            }
            mapped.store(false, Ordering::Release);
            std::thread::yield_now();
            mapped.store(true, Ordering::Release);
            machine.words(L3 + 8, &[0x30_0000 | PAGE]);
        }
        stop.store(true, Ordering::Release);
    });
    machine.assert_clean();
}
