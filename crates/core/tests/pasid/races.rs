//! Devices that bind a process while it exits, in every order that shuttle thinks of.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use crate::process::Process;
use crate::{pasid, range};
use portcullis_core::mm::ProcessMemory;
use portcullis_core::pasid::{Dropped, HoldPasidError, MmPasids};
use portcullis_hal::lock_api::{GuardNoSend, RawMutex};

/// A lock whose every step shuttle may interrupt. Shuttle runs one thread at a time, and switches only where it is asked.
struct Scheduled(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, because of the exchange.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for Scheduled {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        shuttle::thread::yield_now();
        while !self.try_lock() {
            shuttle::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, SeqCst);
    }
}

fn bind_while_exiting() {
    let space = Arc::new(MmPasids::<Scheduled>::new());
    let process = Arc::<Process>::default();
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (space, mm) = (space.clone(), process.clone() as Arc<dyn ProcessMemory>);
        threads.push(shuttle::thread::spawn(move || match space.hold(&mm, range(1, 9)) {
            Ok(id) => {
                shuttle::thread::yield_now();
                assert!(space.find(id).is_none_or(|found| Arc::ptr_eq(&found, &mm)));
                space.put(id).expect("it holds one");
            }
            Err(error) => assert_eq!(error, HoldPasidError::Exited),
        }));
    }
    // Another process: never has the same one as long as somebody holds it.
    let (elsewhere, other) = (space.clone(), Arc::<Process>::default());
    threads.push(shuttle::thread::spawn(move || {
        let mm = other.clone() as Arc<dyn ProcessMemory>;
        let id = elsewhere.hold(&mm, range(1, 9)).unwrap();
        shuttle::thread::yield_now();
        assert!(Arc::ptr_eq(&elsewhere.find(id).unwrap(), &mm));
        other.exit();
        assert_eq!(elsewhere.put(id), Ok(Dropped::Reclaimed));
    }));
    process.exit();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((space.in_use(), process.pasid_slot().get()), (0, None));
    assert_eq!(space.find(pasid(1)).map(|mm| mm.id()), None);
}

#[test]
fn a_process_that_exits_while_it_is_bound_leaves_no_pasid_behind() {
    shuttle::check_random(bind_while_exiting, 5000);
    shuttle::check_pct(bind_while_exiting, 5000, 3);
}
