//! Part 5: page requests as faults of a process.

use std::sync::{Arc, Mutex};

use crate::support::{bench, last, pasid};
use portcullis_core::iopf::{MmHandler, PageRequest, Reported, ResponseCode};
use portcullis_core::mm::{
    Exited, ListenerId, MmFault, MmFaultError, MmId, MmListener, PasidSlot, PinAsidError, ProcessMemory,
    ProcessTable, check_area,
};
use portcullis_types::{Iova, IovaRange, Pa, Perms, SizeLg2};

use ResponseCode::{Invalid, Success};

/// A process with areas but no pages; it asks for as many retries as are set.
#[derive(Debug, Default)]
struct Process {
    areas: Vec<(IovaRange, Perms)>,
    slot: PasidSlot,
    retries: Mutex<u32>,
    /// What handling a fault in an area comes to.
    trouble: Mutex<Option<MmFaultError>>,
    faults: Mutex<Vec<MmFault>>,
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

    fn handle_fault(&self, fault: &MmFault) -> Result<(), MmFaultError> {
        self.faults.lock().unwrap().push(*fault);
        let area = self.areas.iter().find(|(range, _)| range.contains(fault.address));
        check_area(area.ok_or(MmFaultError::NoArea)?.1, fault.wanted)?;
        let mut retries = self.retries.lock().unwrap();
        if *retries > 0 {
            *retries -= 1;
            return Err(MmFaultError::Retry);
        }
        self.trouble.lock().unwrap().map_or(Ok(()), Err)
    }

    fn add_listener(&self, _: Arc<dyn MmListener>) -> Result<ListenerId, Exited> {
        Err(Exited)
    }

    fn remove_listener(&self, _: ListenerId) {}
}

fn process() -> Arc<Process> {
    let area = |first, perms| (IovaRange::new(Iova::new(first), 0x1000).unwrap(), perms);
    let areas = vec![
        area(0x1000, Perms::READ),
        area(0x2000, Perms::READ_WRITE),
        area(0x3000, Perms::READ | Perms::EXECUTE),
        area(0x4000, Perms::READ_WRITE | Perms::PRIVILEGED),
    ];
    Arc::new(Process { areas, ..Process::default() })
}

fn answer(process: &Arc<Process>, request: PageRequest) -> ResponseCode {
    let bench = bench();
    bench.device.set_handler(request.pasid, Arc::new(MmHandler::new(process.clone()))).unwrap();
    assert_eq!(bench.report(request), Reported::Ready);
    bench.work_all();
    let codes = bench.answers.codes();
    assert_eq!(codes.len(), 1);
    codes[0].1
}

#[test]
fn a_request_is_checked_against_the_area_and_its_privilege() {
    let process = process();
    let cases = [
        (0x1000, Perms::READ, Success),
        (0x1000, Perms::WRITE, Invalid),
        (0x2000, Perms::READ_WRITE, Success),
        (0x2000, Perms::READ | Perms::EXECUTE, Invalid),
        (0x3000, Perms::READ | Perms::EXECUTE, Success),
        (0x3000, Perms::READ_WRITE, Invalid),
        (0x4000, Perms::WRITE, Invalid),
        (0x4000, Perms::WRITE | Perms::PRIVILEGED, Success),
        (0x1000, Perms::WRITE | Perms::PRIVILEGED, Invalid),
        (0x5000, Perms::READ, Invalid),
    ];
    for (address, wanted, code) in cases {
        let request = PageRequest { wanted, ..last(1, address + 0x123) };
        assert_eq!(answer(&process, request), code, "{address:#x} {wanted:?}");
        let fault = MmFault { address: Iova::new(address + 0x123), wanted };
        assert_eq!(process.faults.lock().unwrap().last(), Some(&fault));
    }
}

#[test]
fn a_process_is_only_reached_by_pasid() {
    let process = process();
    assert_eq!(answer(&process, PageRequest { pasid: None, ..last(1, 0x2000) }), Invalid);
    assert!(process.faults.lock().unwrap().is_empty());
}

#[test]
fn whatever_goes_wrong_in_the_process_is_invalid_and_stops_nothing_else() {
    let process = process();
    for trouble in [MmFaultError::Exited, MmFaultError::NoMemory, MmFaultError::Io] {
        *process.trouble.lock().unwrap() = Some(trouble);
        assert_eq!(answer(&process, last(1, 0x2000)), Invalid, "{trouble:?}");
    }
    *process.trouble.lock().unwrap() = None;
    assert_eq!(answer(&process, last(1, 0x2000)), Success);
}

#[test]
fn a_fault_is_tried_again_when_the_process_asks() {
    let process = process();
    *process.retries.lock().unwrap() = 3;
    assert_eq!(answer(&process, last(1, 0x2000)), Success);
    assert_eq!(process.faults.lock().unwrap().len(), 4);
}

#[test]
fn one_handler_serves_every_device_of_a_process() {
    let (process, bench) = (process(), bench());
    let (second, second_answers) = bench.another("second");
    let handler = Arc::new(MmHandler::new(process));
    bench.device.set_handler(pasid(1), handler.clone()).unwrap();
    second.set_handler(pasid(1), handler).unwrap();
    bench.report(last(1, 0x2000));
    second.report(&last(1, 0x5000));
    bench.work_all();
    assert_eq!((bench.answers.codes(), second_answers.codes()), (vec![(1, Success)], vec![(1, Invalid)]));
}
