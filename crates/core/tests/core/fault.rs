//! Faults: from hardware's record to the handler of the domain in which the device is.

use std::sync::{Arc, Mutex};

use crate::support::{Bench, Machine, STRICT, bench};
use portcullis_core::device::Device;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_types::{Access, Iova, SourceId};

fn record(source: Option<u32>, iova: u64) -> FaultRecord {
    FaultRecord {
        source: source.map(SourceId),
        pasid: None,
        iova: Some(Iova::new(iova)),
        access: Some(Access::READ),
        reason: FaultReason::NotMapped,
        name: "F_TRANSLATION",
        raw: [0x10, 0, 0, 0],
    }
}

fn happen(bench: &Bench, records: &[FaultRecord]) -> usize {
    bench.iommu.faults.lock().unwrap().extend_from_slice(records);
    bench.unit.dispatch_faults()
}

type Heard = Arc<Mutex<Vec<(String, u64)>>>;

fn listen(domain: &Domain<Machine>) -> Heard {
    let heard = Heard::default();
    let to = heard.clone();
    domain.set_fault_handler(Some(Arc::new(move |device: &Device<Machine>, record: &FaultRecord| {
        to.lock().unwrap().push((device.name().into(), record.iova.unwrap().get()));
    })));
    heard
}

#[test]
fn without_a_handler_faults_are_counted_and_said() {
    let bench = bench(STRICT);
    let device = bench.member(3, |_| ());
    bench.machine.events();
    assert_eq!(happen(&bench, &[record(Some(3), 0x1000), record(Some(3), 0x2000)]), 2);
    assert_eq!((device.fault_count(), device.domain().unwrap().fault_count()), (2, 2));
    let first = "fault: dev=dev3 source=0x3 iova=0x0000000000001000 name=F_TRANSLATION reason=not_mapped";
    assert_eq!(bench.machine.events()[0], first);
}

#[test]
fn a_handler_hears_of_its_own_domains_devices_only_and_until_it_is_taken_away() {
    let bench = bench(STRICT);
    bench.member(3, |_| ());
    let user = Domain::new(bench.machine.clone(), bench.iommu.clone(), DomainType::Unmanaged).unwrap();
    let (default_heard, user_heard) = (listen(&bench.group.default_domain()), listen(&user));
    happen(&bench, &[record(Some(3), 0x1000)]);
    bench.group.attach(&user).unwrap();
    happen(&bench, &[record(Some(3), 0x2000)]);
    user.set_fault_handler(None);
    happen(&bench, &[record(Some(3), 0x3000)]);
    assert_eq!(*default_heard.lock().unwrap(), [("dev3".into(), 0x1000)]);
    assert_eq!(*user_heard.lock().unwrap(), [("dev3".into(), 0x2000)]);
    assert_eq!(user.fault_count(), 2);
}

#[test]
fn faults_of_nobody_are_counted_apart() {
    let bench = bench(STRICT);
    let device = bench.member(3, |_| ());
    bench.machine.events();
    assert_eq!(happen(&bench, &[record(Some(9), 0), record(None, 0)]), 2);
    assert_eq!((bench.unit.unclaimed_faults(), device.fault_count()), (2, 0));
    assert!(bench.machine.events()[1].starts_with("fault: dev= source=none"));
}

#[test]
fn a_device_in_no_group_is_counted_and_nobody_is_told() {
    let bench = bench(STRICT);
    let device = bench.device(3, |_| ());
    let heard = listen(&bench.group.default_domain());
    happen(&bench, &[record(Some(3), 0)]);
    assert_eq!((device.fault_count(), heard.lock().unwrap().len()), (1, 0));
}
