//! Pages that are zeroed ahead.

use portcullis::core::mm::{MmFault, MmFaultError, ProcessMemory};
use portcullis::types::Perms;

use super::bench::{Bench, RW, at, mapping, read};
use crate::process::Source;

#[test]
fn a_fault_takes_its_page_from_the_stock_and_hardware_sees_the_zeroes() {
    let bench = Bench::new(1);
    let process = bench.process();
    let range = process.map(&mapping(0x4000, RW, Source::Anonymous)).unwrap();
    process.write(range.first(), &[1]).unwrap();
    assert_eq!(bench.kernel.stock_pages(3), 3);
    assert_eq!(bench.kernel.stock_pages(2), 3, "there are enough");
    let mut bytes = [1; 0x1000];
    for (page, _) in bench.bus.cpu().heap().live().iter().filter(|(_, len)| *len == 0x1000) {
        bench.bus.cpu().ram().read(*page, &mut bytes).unwrap();
        assert_ne!(bytes[8..], [0xd5; 0xff8], "no page waits for its zeroes");
    }
    let requests = bench.used().requests;
    for page in 1..4 {
        let fault = MmFault { address: at(range, page * 0x1000), wanted: Perms::WRITE };
        assert_eq!(process.handle_fault(&fault), Ok(()));
        assert_eq!(read(&process, at(range, page * 0x1000), 8), [0; 8]);
    }
    assert_eq!(bench.used().requests, requests, "nothing was allocated");
    process.exit();
    bench.assert_clean();
}

#[test]
fn what_is_left_of_the_stock_goes_with_process_and_kernel() {
    let bench = Bench::new(2);
    let process = bench.process();
    let range = process.map(&mapping(0x4000, RW, Source::Anonymous)).unwrap();
    bench.kernel.stock_pages(100);
    process.write(range.first(), &[1]).unwrap();
    process.exit();
    assert_eq!(
        process.handle_fault(&MmFault { address: range.first(), wanted: RW }),
        Err(MmFaultError::Exited)
    );
    drop(process);
    let Bench { bus, kernel } = bench;
    drop(kernel);
    assert_eq!(bus.cpu().heap().live(), []);
}

#[test]
fn a_stock_without_memory_is_as_large_as_it_can_be() {
    let bench = Bench::new(3);
    bench.bus.cpu().heap().fail_after(5);
    assert_eq!(bench.kernel.stock_pages(20), 5);
    assert_eq!(bench.kernel.stock_pages(20), 20);
}
