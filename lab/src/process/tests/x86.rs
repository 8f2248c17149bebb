//! Processes of x86, whose CPUs hear no broadcasts: each forgets what it is itself told to.

use std::sync::Arc;

use model_bus::{Bus, BusOptions};
use model_cpu::{TlbPolicy, x86};
use portcullis::core::mm::MmFaultError;
use portcullis::types::{Pa, PaRange};

use super::bench::{Bench, RW, mapping};
use crate::platform::LabPlatform;
use crate::process::{Kernel, KernelOptions, Source, UserError};

#[test]
fn every_cpu_that_has_run_a_process_forgets_what_it_unmaps_and_no_other_is_told() {
    let ram = PaRange::new(Pa::new(0x4000_0000), 0x0800_0000).unwrap();
    let bus = Bus::new(&BusOptions::new(ram, 1));
    // The third has no PCIDs yet, nor anything to forget.
    let cpus = x86::Cpus::new(bus.clone(), &[x86::CpuFeatures::COMMON; 3], TlbPolicy::holding(1));
    let platform = Arc::new(LabPlatform::new(bus.clone(), crate::trace::shared(None), None));
    let bench = Bench { bus, kernel: Kernel::new(platform, cpus, KernelOptions::x86(1)).unwrap() };
    let process = bench.process();
    let range = process.map(&mapping(0x1000, RW, Source::Anonymous)).unwrap();
    for cpu in 0..2 {
        process.run_on(cpu);
        process.write(range.first(), &[1]).unwrap();
    }
    process.unmap(range).unwrap();
    for cpu in 0..2 {
        process.run_on(cpu);
        let refused = UserError::Fault { at: range.first(), why: MmFaultError::NoArea };
        assert_eq!(process.read(range.first(), &mut [0]), Err(refused), "CPU {cpu} remembers it");
    }
    drop(process);
    bench.assert_clean();
}
