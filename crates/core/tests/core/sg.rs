//! Scatter lists: what becomes one segment, what does not, and what is left when one buffer of many is refused.

use crate::support::{Call, GRANULE, LAZY, Machine, RAM, STRICT, bench, bench_with, pa_range, range};
use portcullis_core::device::DeviceInfo;
use portcullis_core::dma::{Direction, DmaHandle, DmaMapError, DmaUnmapError, SgMapping};
use portcullis_core::group::DefaultDomain;
use portcullis_core::iommu::MapError;
use portcullis_types::{Iova, PaRange, SizeLg2};
use proptest::prelude::*;

/// Segments as offsets from the first one's page, with lengths.
fn shape(mapping: &SgMapping) -> Vec<(u64, u64)> {
    let base = mapping.segments()[0].iova.align_down(GRANULE).get();
    mapping.segments().iter().map(|segment| (segment.iova.get() - base, segment.len_bytes)).collect()
}

fn shape_of(buffers: &[PaRange], change: impl FnOnce(&mut DeviceInfo)) -> Vec<(u64, u64)> {
    let bench = bench(STRICT);
    let dma = bench.handle(change);
    let mapping = dma.map_sg(buffers, Direction::Bidirectional).unwrap();
    reaches_every_byte(&dma, buffers, &mapping);
    let shape = shape(&mapping);
    dma.unmap_sg(mapping).unwrap();
    assert_eq!((bench.iommu.domain(0).mapped(), dma.stats().live), (vec![], 0));
    shape
}

/// Following the segments leads through the buffers, in order, byte for byte at each page's ends.
fn reaches_every_byte(dma: &DmaHandle<Machine>, buffers: &[PaRange], mapping: &SgMapping) {
    let bytes = |first: u64, len: u64| {
        (0..len).filter(|at| at % 512 == 0 || at % 512 == 511).map(move |at| first + at)
    };
    let seen: Vec<_> = mapping
        .segments()
        .iter()
        .flat_map(|segment| (0..segment.len_bytes).map(|at| segment.iova.get() + at))
        .map(|iova| dma.domain().lookup(Iova::new(iova)).map(|pa| pa.get()))
        .collect();
    let mut at = 0;
    for buffer in buffers {
        let len = buffer.len_bytes().unwrap();
        for pa in bytes(buffer.first().get(), len) {
            assert_eq!(seen[at + (pa - buffer.first().get()) as usize], Some(pa));
        }
        at += len as usize;
    }
    assert_eq!(at, seen.len());
}

#[test]
fn buffers_that_fill_their_pages_become_one_segment_wherever_they_lie() {
    let buffers = [pa_range(RAM + 0x9000, 0x2000), pa_range(RAM, 0x1000), pa_range(RAM + 0x5000, 0x800)];
    assert_eq!(shape_of(&buffers, |_| ()), [(0, 0x3800)]);
}

#[test]
fn the_first_may_begin_and_the_last_may_end_within_a_page() {
    let buffers = [pa_range(RAM + 0xe00, 0x200), pa_range(RAM + 0x3000, 0x1000), pa_range(RAM + 0x8000, 4)];
    assert_eq!(shape_of(&buffers, |_| ()), [(0xe00, 0x1204)]);
}

#[test]
fn a_hole_within_a_page_ends_a_segment() {
    let buffers = [pa_range(RAM, 0x800), pa_range(RAM + 0x3000, 0x1000), pa_range(RAM + 0x5010, 0x20)];
    assert_eq!(shape_of(&buffers, |_| ()), [(0, 0x800), (0x1000, 0x1000), (0x2010, 0x20)]);
}

#[test]
fn no_segment_is_longer_than_the_device_takes() {
    let buffers: Vec<_> = (0..5).map(|at| pa_range(RAM + 0x4000 * at, 0x1000)).collect();
    let shape = shape_of(&buffers, |info| info.max_segment_bytes = 0x2000);
    assert_eq!(shape, [(0, 0x2000), (0x2000, 0x2000), (0x4000, 0x1000)]);
}

#[test]
fn no_segment_crosses_the_devices_boundary() {
    let boundary = |info: &mut DeviceInfo| info.segment_boundary = SizeLg2::new(14);
    let buffers = [pa_range(RAM, 0x3000), pa_range(RAM + 0x8000, 0x2000), pa_range(RAM + 0xc000, 0x2000)];
    // The second would cross at 0x4000 and is moved there; the third just fits behind it.
    assert_eq!(shape_of(&buffers, boundary), [(0, 0x3000), (0x4000, 0x4000)]);
    let full = [pa_range(RAM, 0x4000), pa_range(RAM + 0x8000, 0x1000)];
    assert_eq!(shape_of(&full, boundary), [(0, 0x4000), (0x4000, 0x1000)]);
}

#[test]
fn a_buffer_that_no_segment_can_hold_is_refused() {
    for default in [STRICT, DefaultDomain::Identity] {
        let bench = bench(default);
        let dma = bench.handle(|info| {
            info.max_segment_bytes = 0x5000;
            info.segment_boundary = SizeLg2::new(14);
        });
        for buffer in [pa_range(RAM, 0x5001), pa_range(RAM + 0x3000, 0x4800)] {
            let refused = dma.map_sg(&[buffer], Direction::ToDevice);
            assert_eq!(refused, Err(DmaMapError::Segment(buffer)));
        }
        assert_eq!(dma.map_sg(&[], Direction::ToDevice), Err(DmaMapError::BadLength));
        assert_eq!(dma.stats().live, 0);
    }
}

#[test]
fn pages_that_lie_together_are_mapped_in_one_call() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let buffers = [pa_range(RAM, 0x3000), pa_range(RAM + 0x3000, 0x1000), pa_range(RAM + 0x8000, 0x1000)];
    let mapping = dma.map_sg(&buffers, Direction::ToDevice).unwrap();
    assert_eq!(bench.iommu.domain(0).map_calls(), 2);
    dma.unmap_sg(mapping).unwrap();
    assert_eq!(bench.iommu.domain(0).syncs(), 1);
}

#[test]
fn a_list_is_shown_to_hardware_once_and_after_its_last_piece() {
    let bench = bench_with(STRICT, range(0, 0x7fff));
    let dma = bench.handle(|_| ());
    let buffers: Vec<_> = (0..4).map(|at| pa_range(RAM + 0x4000 * at, 0x1000)).collect();
    let mapping = dma.map_sg(&buffers, Direction::ToDevice).unwrap();
    let first = mapping.segments()[0].iova.get();
    assert_eq!(bench.iommu.domain(0).shown(), [(range(first, first + 0x3fff), 4)]);
    dma.unmap_sg(mapping).unwrap();
    // What hardware does not confirm to see is nobody's.
    bench.iommu.fail(Call::Show, 0, 1);
    let refused = dma.map_sg(&buffers, Direction::ToDevice);
    assert_eq!(refused, Err(DmaMapError::Map(MapError::Unconfirmed { waiting_for: "a look" })));
    let domain = bench.iommu.domain(0);
    assert_eq!((domain.mapped(), domain.stale_count(), dma.stats().live), (vec![], 0, 0));
    let mapping = dma.map_sg(&buffers, Direction::ToDevice).expect("its addresses are free again");
    dma.unmap_sg(mapping).unwrap();
}

#[test]
fn where_addresses_are_physical_a_list_stays_as_it_is() {
    let bench = bench(DefaultDomain::Identity);
    let dma = bench.handle(|_| ());
    let buffers = [pa_range(RAM, 0x1000), pa_range(RAM + 0x1000, 0x234)];
    let mapping = dma.map_sg(&buffers, Direction::ToDevice).unwrap();
    let wanted = buffers.map(|buffer| (buffer.first().get(), buffer.len_bytes().unwrap()));
    let got: Vec<_> =
        mapping.segments().iter().map(|segment| (segment.iova.get(), segment.len_bytes)).collect();
    assert_eq!(got, wanted);
    dma.unmap_sg(mapping).unwrap();
}

#[test]
fn whichever_buffer_is_refused_nothing_of_the_list_is_left() {
    let buffers: Vec<_> = (0..4).map(|at| pa_range(RAM + 0x4000 * at, 0x1000)).collect();
    for pass in 0..4 {
        let bench = bench_with(STRICT, range(0, 0x7fff));
        let dma = bench.handle(|_| ());
        bench.iommu.fail(Call::Map, pass, 1);
        let refused = dma.map_sg(&buffers, Direction::ToDevice);
        assert_eq!(refused, Err(DmaMapError::Map(MapError::NoTableMemory)));
        let domain = bench.iommu.domain(0);
        assert_eq!((domain.mapped(), domain.stale_count(), dma.stats().live), (vec![], 0, 0));
        let mapping = dma.map_sg(&buffers, Direction::ToDevice).expect("the only four pages are free again");
        dma.unmap_sg(mapping).unwrap();
    }
}

#[test]
fn a_list_that_could_not_be_unwound_keeps_its_addresses_until_a_flush() {
    let buffers: Vec<_> = (0..4).map(|at| pa_range(RAM + 0x4000 * at, 0x1000)).collect();
    let bench = bench_with(STRICT, range(0, 0x7fff));
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 2, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    let refused = dma.map_sg(&buffers, Direction::ToDevice);
    assert_eq!(
        refused,
        Err(DmaMapError::NotUndone(MapError::NoTableMemory)),
        "whose buffers they are is told"
    );
    // Two were mapped, and the third for a moment.
    assert_eq!((dma.stats().quarantined, bench.iommu.domain(0).stale_count()), (1, 3));
    dma.flush().unwrap();
    let mapping = dma.map_sg(&buffers, Direction::ToDevice).expect("hardware has forgotten");
    dma.unmap_sg(mapping).unwrap();
}

#[test]
fn an_unmap_that_is_refused_gives_the_list_back() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_sg(&[pa_range(RAM, 8)], Direction::ToDevice).unwrap();
    bench.iommu.fail(Call::Unmap, 0, 1);
    let refused = dma.unmap_sg(mapping).unwrap_err();
    assert!(matches!(refused.error, DmaUnmapError::Unmap(_)));
    dma.unmap_sg(refused.mapping.unwrap()).unwrap();
    assert_eq!(dma.stats().live, 0);
}

#[test]
fn lists_are_lazy_where_buffers_are_and_keep_caches_right() {
    let bench = bench(LAZY);
    let dma = bench.handle(|info| info.coherent = false);
    let mapping = dma.map_sg(&[pa_range(RAM, 8), pa_range(RAM + 0x40, 4)], Direction::FromDevice).unwrap();
    assert_eq!(bench.machine.caches(), [("clean", RAM, 8), ("clean", RAM + 0x40, 4)]);
    dma.sync_sg_for_cpu(&mapping);
    assert_eq!(bench.machine.caches(), [("invalidate", RAM, 8), ("invalidate", RAM + 0x40, 4)]);
    dma.sync_sg_for_device(&mapping);
    bench.machine.caches();
    dma.unmap_sg(mapping).unwrap();
    assert_eq!(bench.machine.caches(), [("invalidate", RAM, 8), ("invalidate", RAM + 0x40, 4)]);
    assert_eq!((dma.stats().waiting, bench.iommu.domain(0).syncs()), (1, 0));
}

proptest! {
    #[test]
    fn every_list_reaches_every_byte_within_the_devices_bounds(
        list in prop::collection::vec((0u64..64, 0u64..0x1000, 1u64..0x2800), 1..12),
        max in prop_oneof![Just(0x3000u64), Just(0x4000), Just(u64::MAX)],
        boundary in prop_oneof![Just(None), Just(SizeLg2::new(14)), Just(SizeLg2::new(16))],
    ) {
        let buffers: Vec<_> = list
            .iter()
            .enumerate()
            .map(|(at, &(gap, offset, len))| pa_range(RAM + 0x10_0000 * at as u64 + gap * GRANULE + offset, len))
            .collect();
        let bench = bench(STRICT);
        let dma = bench.handle(|info| {
            info.max_segment_bytes = max;
            info.segment_boundary = boundary;
        });
        let mapping = dma.map_sg(&buffers, Direction::Bidirectional).unwrap();
        reaches_every_byte(&dma, &buffers, &mapping);
        for segment in mapping.segments() {
            prop_assert!(segment.len_bytes <= max);
            if let Some(boundary) = boundary {
                let (first, last) = (segment.iova.get(), segment.iova.get() + segment.len_bytes - 1);
                prop_assert_eq!(first >> boundary.get(), last >> boundary.get());
            }
        }
        dma.unmap_sg(mapping).unwrap();
        prop_assert_eq!((bench.iommu.domain(0).mapped(), dma.stats().live), (vec![], 0));
    }
}
