//! The SMMU's own interrupts: messages that the driver told it to send, and that arrive at the ITS.

use model_bus::{Outcome, Request, Translator};
use portcullis::types::{Access, Iova, SourceId};
use portcullis_lab::boot::{BootRequest, OwnLines, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::trace;

#[test]
fn a_fault_is_announced_by_a_message_of_the_smmu() {
    let sink = trace::shared(None);
    let spec = builtin::find(builtin::DEFAULT).unwrap();
    let device_tree = fdt::emit(&spec).unwrap();
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).unwrap();
    let system = System::boot(BootRequest::new(&machine, &device_tree, sink)).unwrap();
    let unit = &system.units[0];
    let OwnLines { events, errors, page_requests } =
        unit.lines.as_ref().expect("this machine's SMMU sends messages");
    assert!(!events.take() && !errors.take(), "nothing has happened yet");

    // Stream 8 is the first disk, to which nothing is mapped at this address.
    let source = SourceId(8);
    let request =
        Request { source, pasid: None, iova: Iova::new(0x5000), len_bytes: 4, access: Access::READ };
    assert_eq!(machine.smmus[0].access(&request, &mut |_| Ok(())), Outcome::Aborted);
    machine.bus.settle(1000);
    assert!(events.take(), "the event queue's message arrived");
    assert!(!errors.take() && !page_requests.take());
    assert_eq!(unit.service().faults, 1);
    assert!(!events.take(), "one fault, one message");
    system.shut_down().unwrap();
}
