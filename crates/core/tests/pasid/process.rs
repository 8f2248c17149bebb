//! Parts 1 and 3: one PASID for each process, within a device's limits.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::{pasid, range};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable,
};
use portcullis_core::pasid::{Dropped, HoldPasidError, MmPasids, PasidError};
use portcullis_types::{Pa, SizeLg2};

/// A process that can exit, and is otherwise empty.
#[derive(Default)]
pub(crate) struct Process {
    slot: PasidSlot,
    exited: AtomicBool,
    listeners: Mutex<Vec<Arc<dyn MmListener>>>,
}

impl core::fmt::Debug for Process {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Process")
    }
}

impl Process {
    pub(crate) fn exit(&self) {
        let listeners = {
            let mut listeners = self.listeners.lock().unwrap();
            self.exited.store(true, SeqCst);
            core::mem::take(&mut *listeners)
        };
        listeners.iter().for_each(|listener| listener.release().unwrap());
    }
}

impl ProcessMemory for Process {
    fn id(&self) -> MmId {
        MmId(1)
    }

    fn pasid_slot(&self) -> &PasidSlot {
        &self.slot
    }

    fn table(&self) -> ProcessTable {
        ProcessTable::Vmsa64 {
            root: Pa::new(0x1000),
            granule: SizeLg2::KIB_4,
            input_bits: 48,
            output_bits: 48,
            large_descriptors: false,
            mair: 0xff,
        }
    }

    fn pin_asid(&self) -> Result<u16, PinAsidError> {
        Err(PinAsidError::Unsupported)
    }

    fn unpin_asid(&self) {}

    fn handle_fault(&self, _: &MmFault) -> Result<(), MmFaultError> {
        Err(MmFaultError::NoArea)
    }

    fn add_listener(&self, listener: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        let mut listeners = self.listeners.lock().unwrap();
        if self.exited.load(SeqCst) {
            return Err(Exited);
        }
        listeners.push(listener);
        Ok(ListenerId(0))
    }

    fn remove_listener(&self, _: ListenerId) {}
}

type Space = Arc<MmPasids<spin::Mutex<()>>>;

fn space() -> Space {
    Arc::new(MmPasids::new())
}

/// A process, and the same as what binds it.
fn process() -> (Arc<Process>, Arc<dyn ProcessMemory>) {
    let process = Arc::<Process>::default();
    (process.clone(), process)
}

#[test]
fn a_process_has_one_pasid_for_all_its_devices() {
    let space = space();
    let ((_a, a), (_b, b)) = (process(), process());
    assert_eq!(a.pasid_slot().get(), None);
    assert_eq!(space.hold(&a, range(1, 255)), Ok(pasid(1)));
    assert_eq!(space.hold(&b, range(1, 255)), Ok(pasid(2)));
    assert_eq!(space.hold(&a, range(1, 0xf_ffff)), Ok(pasid(1)));
    assert_eq!((a.pasid_slot().get(), b.pasid_slot().get()), (Some(pasid(1)), Some(pasid(2))));
    assert!(Arc::ptr_eq(&space.find(pasid(2)).unwrap(), &b));
    assert_eq!(space.in_use(), 2);
}

#[test]
fn a_pasid_outside_a_devices_limits_is_an_error_and_takes_no_reference() {
    let space = space();
    let (process, mm) = process();
    assert_eq!(space.hold(&mm, range(64, 127)), Ok(pasid(64)));
    for (min, max) in [(1, 63), (65, 127)] {
        let error = HoldPasidError::OutsideLimits { pasid: pasid(64), min: pasid(min), max: pasid(max) };
        assert_eq!(space.hold(&mm, range(min, max)), Err(error));
    }
    assert_eq!(space.hold(&mm, range(1, 64)), Ok(pasid(64)));
    process.exit();
    assert_eq!(space.put(pasid(64)), Ok(Dropped::Held));
    assert_eq!(space.put(pasid(64)), Ok(Dropped::Reclaimed));
}

#[test]
fn none_left_within_the_limits_is_an_error_that_changes_nothing() {
    let space = space();
    let ((_a, a), (_b, b)) = (process(), process());
    assert_eq!(space.hold(&a, range(1, 1)), Ok(pasid(1)));
    assert_eq!(space.hold(&b, range(1, 1)), Err(HoldPasidError::NoneFree));
    assert_eq!(b.pasid_slot().get(), None);
    assert_eq!(space.hold(&b, range(1, 2)), Ok(pasid(2)));
}

#[test]
fn a_process_keeps_its_pasid_while_it_lives() {
    let space = space();
    let ((a_process, a), (_b, b)) = (process(), process());
    let id = space.hold(&a, range(1, 9)).unwrap();
    assert_eq!(space.put(id), Ok(Dropped::Held));
    assert_eq!(space.hold(&b, range(1, 9)), Ok(pasid(2)));
    assert_eq!(space.hold(&a, range(1, 9)), Ok(id));
    space.put(id).unwrap();
    a_process.exit();
    assert_eq!(space.put(id), Err(PasidError::NotInUse(id)));
    assert_eq!(space.in_use(), 1);
}

#[test]
fn the_pasid_of_a_process_that_exited_is_inactive_until_its_last_bond_goes() {
    let space = space();
    let ((a_process, a), (_b, b)) = (process(), process());
    let id = space.hold(&a, range(1, 9)).unwrap();
    a_process.exit();
    assert_eq!(a.pasid_slot().get(), None);
    assert!(space.find(id).is_none());
    assert_eq!(space.hold(&b, range(1, 9)), Ok(pasid(2)), "the other is not given out again yet");
    assert_eq!(space.put(id), Ok(Dropped::Reclaimed));
    assert_eq!(space.put(id), Err(PasidError::NotInUse(id)));
}

#[test]
fn a_process_that_has_exited_gets_none() {
    let space = space();
    let (process, mm) = process();
    process.exit();
    assert_eq!(space.hold(&mm, range(1, 9)), Err(HoldPasidError::Exited));
    assert_eq!((space.in_use(), mm.pasid_slot().get()), (0, None));
}

#[test]
fn nothing_keeps_a_process_that_has_a_pasid_alive() {
    let space = space();
    let (process, mm) = process();
    let id = space.hold(&mm, range(1, 9)).unwrap();
    let weak = Arc::downgrade(&process);
    process.exit();
    drop((process, mm));
    assert!(weak.upgrade().is_none());
    assert_eq!(space.put(id), Ok(Dropped::Reclaimed));
}
