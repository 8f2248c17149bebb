//! One translation by the SMMUv3 model that hits its TLB, against the `smmu` crate's `translate` and against `vm-memory`'s IOTLB in the same run.
//!
//! Our model is a machine that has booted: STE, CD and tables lie in its memory, put there by the driver, and the DMA API has mapped the pages. The
//! peers get as many mappings by call. Every look-up of a turn goes to another page.
//!
//! Bars: at least 2 times faster than `smmu`; faster than `vm-memory`.

use core::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use model_bus::{Outcome, Request, Translator};
use portcullis::core::device::DmaMask;
use portcullis::core::dma::Direction;
use portcullis::hal::{BlockLayout, DmaMemory};
use portcullis::types::{Access, Iova, Pa};
use portcullis_lab::boot::{BootRequest, Standing, System};
use portcullis_lab::machine::{DiskContent, Machine, builtin, fdt};
use portcullis_lab::trace;
use smmu::types::{AccessType, IOVA, PA, PASID, PagePermissions, SecurityState, StreamConfig, StreamID};
use vm_memory::GuestAddress;
use vm_memory::iommu::Iotlb;

const PAGE: u64 = 4096;
/// As many as a TLB of middling size holds.
const PAGES: u64 = 64;
const TURNS: usize = 2_000;
const ROUNDS: usize = 200;

fn main() -> ExitCode {
    let ours = ours();
    let smmu = smmu_crate();
    let iotlb = vm_memory_iotlb();
    println!("ns for one translation that hits, {PAGES} pages");
    println!("{:<28}{ours:>8.1}", "model-smmuv3");
    println!("{:<28}{smmu:>8.1}   {:.1} times ours (bar: 2)", "smmu 1.8, translate", smmu / ours);
    println!("{:<28}{iotlb:>8.1}   {:.1} times ours (bar: 1)", "vm-memory 0.18, Iotlb", iotlb / ours);
    if smmu >= 2.0 * ours && iotlb > ours { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Nanoseconds for one call: the best of many rounds, because the machine has other things to do.
fn best_ns(mut look_up: impl FnMut(u64)) -> f64 {
    let mut round = || {
        let start = Instant::now();
        (0..TURNS as u64).for_each(|turn| look_up(turn % PAGES));
        start.elapsed().as_nanos() as f64 / TURNS as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn ours() -> f64 {
    let sink = trace::shared(None);
    let spec = builtin::find(builtin::DEFAULT).expect("there is a default machine");
    let tree = fdt::emit(&spec).expect("the machine has a device tree");
    let machine = Machine::build(spec, DiskContent::Blank, 1, &sink).expect("the machine can be built");
    let system = System::boot(BootRequest::new(&machine, &tree, sink)).expect("the machine boots");
    let (device, group) = system
        .endpoints()
        .find_map(|(_, endpoint)| match &endpoint.standing {
            Standing::Behind { device, group } => Some((device.clone(), group.clone())),
            Standing::Uncovered(_) => None,
        })
        .expect("a device behind the SMMU");
    device.set_dma_mask(DmaMask::BITS_64);
    let dma = group.dma(&device).expect("the device is in its group");
    // Page by page with a hole between, so that nothing can be one block or one contiguous run.
    let map = |_| {
        let layout = BlockLayout::new(PAGE, 2 * PAGE).expect("a page");
        let buffer = system.platform.alloc_buffer(layout).expect("memory for a page");
        dma.map_single(buffer, PAGE, Direction::Bidirectional).expect("the page can be mapped")
    };
    let mappings: Vec<_> = (0..PAGES).map(map).collect();
    let source = device.sources()[0];
    let iovas: Vec<Iova> = mappings.iter().map(|mapping| mapping.iova()).collect();
    let outputs: Vec<Pa> = mappings.iter().map(|mapping| mapping.buffer().first()).collect();
    let smmu = &machine.smmus[0];
    let request = |&iova: &Iova| Request { source, pasid: None, iova, len_bytes: 64, access: Access::READ };
    let requests: Vec<Request> = iovas.iter().map(request).collect();
    for (request, output) in requests.iter().zip(&outputs) {
        let mut reached = None;
        let outcome = smmu.access(request, &mut |passage| {
            reached = Some(passage.pa);
            Ok(())
        });
        assert_eq!((outcome, reached), (Outcome::Done, Some(*output)));
    }
    let look_up = |page: u64| {
        let request = &requests[usize::try_from(page).expect("a small number")];
        let outcome = smmu.access(black_box(request), &mut |passage| {
            black_box(passage);
            Ok(())
        });
        assert_eq!(outcome, Outcome::Done);
    };
    let misses = smmu.counters().misses;
    let ns = best_ns(look_up);
    assert_eq!(smmu.counters().misses, misses, "every look-up was to hit");
    ns
}

fn smmu_crate() -> f64 {
    let smmu = smmu::SMMU::new();
    // Until then it lets everything through as it is.
    smmu.enable().expect("it can be enabled");
    let stream = StreamID::new(1).expect("a stream id");
    let pasid = PASID::new(0).expect("a PASID");
    let config = StreamConfig { translation_enabled: true, stage1_enabled: true, ..StreamConfig::default() };
    smmu.configure_stream(stream, config).expect("a stream");
    smmu.create_pasid(stream, pasid).expect("a PASID");
    let iova = |page: u64| IOVA::new(0x10_0000 + 2 * page * PAGE).expect("an address");
    for page in 0..PAGES {
        let pa = PA::new(0x4000_0000 + page * PAGE).expect("an address");
        smmu.map_page(stream, pasid, iova(page), pa, PagePermissions::read_write(), SecurityState::NonSecure)
            .expect("a page");
    }
    let look_up = |page| {
        let found =
            smmu.translate(stream, pasid, black_box(iova(page)), AccessType::Read, SecurityState::NonSecure);
        assert!(black_box(found).is_ok());
    };
    for page in 0..PAGES {
        let found = smmu.translate(stream, pasid, iova(page), AccessType::Read, SecurityState::NonSecure);
        let reached = found.expect("the page is mapped").physical_address().as_u64();
        assert_eq!(reached, 0x4000_0000 + page * PAGE);
    }
    best_ns(look_up)
}

fn vm_memory_iotlb() -> f64 {
    let mut iotlb = Iotlb::new();
    for page in 0..PAGES {
        let (from, to) = (GuestAddress(0x10_0000 + 2 * page * PAGE), GuestAddress(0x4000_0000 + page * PAGE));
        let len = usize::try_from(PAGE).expect("a page");
        iotlb.set_mapping(from, to, len, vm_memory::Permissions::ReadWrite).expect("a page");
    }
    best_ns(|page| {
        let at = GuestAddress(black_box(0x10_0000 + 2 * page * PAGE));
        let found = Iotlb::lookup(&iotlb, at, 64, vm_memory::Permissions::Read);
        let first = found.ok().and_then(|mut ranges| ranges.next());
        assert!(black_box(first).is_some());
    })
}
