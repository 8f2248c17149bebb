//! Single and coherent buffers: what is mapped, how, for how long, and what is left when something fails.

use crate::support::{Call, GRANULE, LAZY, RAM, STRICT, bench, bench_with, pa_range, range};
use portcullis_core::device::DmaMask;
use portcullis_core::dma::{Direction, DmaMapError, DmaUnmapError};
use portcullis_core::group::{DefaultDomain, DefaultType};
use portcullis_core::iommu::{MapError, UnmapError};
use portcullis_types::{Cacheability, Iova, Pa, Perms};

#[test]
fn a_buffer_keeps_its_offset_and_its_pages_are_mapped_for_its_direction_only() {
    for (direction, perms) in [
        (Direction::ToDevice, Perms::READ),
        (Direction::FromDevice, Perms::WRITE),
        (Direction::Bidirectional, Perms::READ_WRITE),
    ] {
        let bench = bench(STRICT);
        let dma = bench.handle(|_| ());
        let mapping = dma.map_single(Pa::new(RAM + 0x234), 0x1000, direction).unwrap();
        let first = mapping.iova().get() - 0x234;
        assert_eq!(mapping.range().len_bytes(), Some(0x1000));
        assert_eq!(bench.iommu.domain(0).mapped(), [(first, RAM), (first + GRANULE, RAM + GRANULE)]);
        assert_eq!(bench.iommu.domain(0).prot(first).unwrap().perms, perms);
        assert_eq!(dma.domain().lookup(mapping.iova()), Some(Pa::new(RAM + 0x234)));
        dma.unmap_single(mapping).unwrap();
        assert_eq!(bench.iommu.domain(0).mapped(), []);
    }
}

#[test]
fn a_long_buffer_is_one_call_to_the_driver() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 0x40_0000, Direction::ToDevice).unwrap();
    assert_eq!(bench.iommu.domain(0).map_calls(), 1);
    assert!(mapping.iova().is_aligned(0x40_0000));
    dma.unmap_single(mapping).unwrap();
    assert_eq!(bench.iommu.domain(0).syncs(), 1);
}

#[test]
fn strict_mode_forgets_before_the_unmap_returns() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    dma.unmap_single(mapping).unwrap();
    assert_eq!((bench.iommu.domain(0).stale_count(), bench.iommu.domain(0).syncs()), (0, 1));
    assert_eq!((dma.stats().maps, dma.stats().unmaps, dma.stats().syncs, dma.stats().live), (1, 1, 1, 0));
}

/// The fake hardware fails the test if a page is mapped that it still remembers, so each of these turns would.
#[test]
fn no_address_is_reused_before_hardware_has_forgotten_it() {
    for default in [STRICT, LAZY] {
        let bench = bench_with(default, range(0, 0xffff));
        let dma = bench.handle(|_| ());
        for turn in 0..200 {
            let mapping =
                dma.map_single(Pa::new(RAM + turn * GRANULE), GRANULE, Direction::ToDevice).unwrap();
            dma.unmap_single(mapping).unwrap();
        }
        dma.flush().unwrap();
        assert_eq!((dma.stats().live, dma.stats().waiting), (0, 0));
    }
}

#[test]
fn lazy_mode_flushes_when_a_buffer_has_waited_ten_milliseconds() {
    let bench = bench(LAZY);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    let page = mapping.iova().get();
    dma.unmap_single(mapping).unwrap();
    assert!(bench.iommu.domain(0).is_stale(page));
    bench.machine.pass_ns(9_999_999);
    dma.poll().unwrap();
    assert_eq!((bench.iommu.domain(0).syncs(), dma.stats().waiting), (0, 1));
    bench.machine.pass_ns(1);
    dma.poll().unwrap();
    assert_eq!((bench.iommu.domain(0).syncs(), dma.stats().waiting), (1, 0));
    assert!(!bench.iommu.domain(0).is_stale(page));
}

#[test]
fn lazy_mode_flushes_once_for_many_unmaps() {
    let bench = bench(LAZY);
    let dma = bench.handle(|_| ());
    for turn in 0..1024 {
        let mapping = dma.map_single(Pa::new(RAM + turn * GRANULE), 8, Direction::ToDevice).unwrap();
        dma.unmap_single(mapping).unwrap();
    }
    assert_eq!(bench.iommu.domain(0).syncs(), 4);
}

#[test]
fn a_space_full_of_waiting_ranges_is_flushed_before_an_allocation_fails() {
    let bench = bench_with(LAZY, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    for _ in 0..3 {
        let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
        assert_eq!(mapping.iova(), Iova::new(0x1000));
        dma.unmap_single(mapping).unwrap();
    }
}

#[test]
fn the_page_at_zero_is_never_given_out() {
    let bench = bench_with(STRICT, range(0, 0x3fff));
    let dma = bench.handle(|_| ());
    let map = || dma.map_single(Pa::new(RAM), 8, Direction::ToDevice);
    let given: Vec<_> = (0..3).map(|_| map().unwrap().iova().get()).collect();
    assert_eq!(given, [0x3000, 0x2000, 0x1000]);
    assert_eq!(map(), Err(DmaMapError::NoIova { len_bytes: GRANULE, limit: Iova::new(u64::MAX) }));
}

#[test]
fn addresses_stay_within_mask_and_bus() {
    let bench = bench(STRICT);
    let dma = bench.handle(|info| info.bus_limit = Some(Iova::new(0x7fff_ffff)));
    let top = |bits| {
        dma.device().set_dma_mask(DmaMask::new(bits).unwrap());
        let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
        let top = mapping.iova().get() | 0xfff;
        dma.unmap_single(mapping).unwrap();
        top
    };
    assert_eq!(top(64), 0x7fff_ffff);
    assert_eq!(top(24), 0xff_ffff);
    dma.device().set_coherent_mask(DmaMask::new(20).unwrap());
    assert_eq!(dma.alloc_coherent(8).unwrap().iova(), Iova::new(0xf_f000));
}

#[test]
fn pci_devices_are_given_addresses_below_4_gib_first_and_others_the_highest() {
    for (pci, top) in [(true, 0xffff_ffffu64), (false, (1 << 40) - 1)] {
        let bench = bench(STRICT);
        let dma = bench.handle(|info| info.pci = pci);
        let mapping = dma.map_single(Pa::new(RAM), GRANULE, Direction::ToDevice).unwrap();
        assert_eq!(mapping.range().last(), Iova::new(top));
    }
}

#[test]
fn where_addresses_are_physical_a_buffer_the_device_cannot_reach_is_refused() {
    let bench = bench(DefaultDomain::Identity);
    let dma = bench.handle(|_| ());
    assert_eq!(bench.iommu.place(1).unwrap(), "identity");
    let mapping = dma.map_single(Pa::new(RAM + 5), 0x2000, Direction::ToDevice).unwrap();
    assert_eq!(mapping.iova(), Iova::new(RAM + 5));
    dma.unmap_single(mapping).unwrap();
    dma.device().set_dma_mask(DmaMask::BITS_32);
    let limit = Iova::new(0xffff_ffff);
    let refused = DmaMapError::Unreachable { pa: Pa::new(0x1_0000_0000), limit };
    assert_eq!(dma.map_single(Pa::new(0xffff_ffff), 2, Direction::ToDevice), Err(refused));
    assert!(dma.map_single(Pa::new(0xffff_ffff), 1, Direction::ToDevice).is_ok());
    dma.device().set_coherent_mask(DmaMask::BITS_32);
    assert!(matches!(dma.alloc_coherent(1), Err(DmaMapError::Unreachable { .. })));
    assert_eq!(bench.machine.live_buffers(), 0, "the memory went back");
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    for default in [STRICT, DefaultDomain::Identity] {
        let bench = bench(default);
        let dma = bench.handle(|_| ());
        assert_eq!(dma.map_single(Pa::new(RAM), 0, Direction::ToDevice), Err(DmaMapError::BadLength));
        assert_eq!(dma.map_single(Pa::new(u64::MAX), 2, Direction::ToDevice), Err(DmaMapError::BadLength));
        assert_eq!(dma.alloc_coherent(0), Err(DmaMapError::BadLength));
        assert_eq!(dma.alloc_coherent(u64::MAX), Err(DmaMapError::BadLength));
    }
}

#[test]
fn the_caches_of_a_device_that_does_not_snoop_are_kept_right() {
    let bench = bench(STRICT);
    let dma = bench.handle(|info| info.coherent = false);
    let to = dma.map_single(Pa::new(RAM + 4), 100, Direction::ToDevice).unwrap();
    assert_eq!(bench.machine.caches(), [("clean", RAM + 4, 100)]);
    let page = to.iova().align_down(GRANULE).get();
    assert_eq!(bench.iommu.domain(0).prot(page).unwrap().cacheability, Cacheability::Uncached);
    dma.sync_for_cpu(&to);
    dma.unmap_single(to).unwrap();
    assert_eq!(bench.machine.caches(), [], "the device wrote nothing");
    let from = dma.map_single(Pa::new(RAM), 64, Direction::FromDevice).unwrap();
    dma.sync_for_cpu(&from);
    dma.sync_for_device(&from);
    dma.unmap_single(from).unwrap();
    let line = |what| (what, RAM, 64);
    let wanted = ["clean", "invalidate", "clean", "invalidate"].map(line);
    assert_eq!(bench.machine.caches(), wanted);
}

#[test]
fn a_device_that_snoops_needs_no_cache_maintenance() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 64, Direction::Bidirectional).unwrap();
    dma.sync_for_cpu(&mapping);
    dma.sync_for_device(&mapping);
    dma.unmap_single(mapping).unwrap();
    assert_eq!(bench.machine.caches(), []);
}

#[test]
fn a_map_that_the_table_refuses_leaves_nothing() {
    let bench = bench_with(STRICT, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 0, 1);
    let refused = Err(DmaMapError::Map(MapError::NoTableMemory));
    assert_eq!(dma.map_single(Pa::new(RAM), 8, Direction::ToDevice), refused);
    assert_eq!((dma.stats().live, dma.stats().maps), (0, 0));
    dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).expect("the only page is free again").iova();
}

#[test]
fn an_address_that_was_mapped_for_a_moment_is_kept_until_hardware_has_forgotten_it() {
    let bench = bench_with(STRICT, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 0, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    let refused = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice);
    assert_eq!(refused, Err(DmaMapError::NotUndone(MapError::NoTableMemory)), "whose buffer it is is told");
    assert_eq!((dma.stats().quarantined, dma.stats().live), (1, 0));
    dma.flush().unwrap();
    dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).expect("the only page is free again").iova();
}

#[test]
fn an_unmap_that_the_table_refuses_leaves_the_mapping_to_be_tried_again() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    bench.iommu.fail(Call::Unmap, 0, 1);
    let refused = dma.unmap_single(mapping).unwrap_err();
    assert_eq!(refused.error, DmaUnmapError::Unmap(UnmapError::NoTableMemory));
    assert_eq!(dma.stats().live, 1);
    dma.unmap_single(refused.mapping.expect("it is mapped still")).unwrap();
    assert_eq!((dma.stats().live, bench.iommu.domain(0).mapped()), (0, vec![]));
}

#[test]
fn an_address_whose_invalidation_failed_is_kept_until_a_flush_succeeds() {
    let bench = bench_with(STRICT, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::FromDevice).unwrap();
    bench.iommu.fail(Call::Sync, 0, 1);
    let refused = dma.unmap_single(mapping).unwrap_err();
    assert!(matches!(refused.error, DmaUnmapError::NotFlushed(_)) && refused.mapping.is_none());
    assert_eq!((dma.stats().quarantined, dma.stats().failed_syncs), (1, 1));
    bench.iommu.fail(Call::FlushAll, 0, 2);
    assert!(dma.flush().is_err());
    assert!(dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).is_err(), "the only page is kept back");
    assert_eq!(dma.stats().quarantined, 1);
    dma.flush().unwrap();
    assert_eq!((dma.stats().quarantined, bench.iommu.domain(0).stale_count()), (0, 0));
    dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).expect("the page is free again").iova();
}

#[test]
fn quarantined_addresses_come_back_by_themselves_once_hardware_answers_again() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let map = || dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(dma.unmap_single(map()).is_err());
    bench.machine.pass_ns(10_000_000);
    dma.unmap_single(map()).unwrap();
    assert_eq!((dma.stats().quarantined, dma.stats().waiting), (0, 0));
}

#[test]
fn a_lazy_flush_that_fails_loses_nothing() {
    let bench = bench(LAZY);
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::FlushAll, 0, 3);
    for turn in 0..600 {
        let mapping = dma.map_single(Pa::new(RAM + turn * GRANULE), 8, Direction::ToDevice).unwrap();
        dma.unmap_single(mapping).unwrap();
        bench.machine.pass_ns(50_000);
    }
    assert!(dma.stats().failed_syncs > 0);
    bench.iommu.fail_no_more();
    dma.flush().unwrap();
    assert_eq!((dma.stats().waiting, dma.stats().live, bench.iommu.domain(0).stale_count()), (0, 0, 0));
}

#[test]
fn unmapping_twice_is_caught() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM + 16), 64, Direction::ToDevice).unwrap();
    let range = mapping.range();
    dma.unmap_range(range, Direction::ToDevice).unwrap();
    assert_eq!(dma.unmap_range(range, Direction::ToDevice), Err(DmaUnmapError::NotMapped(range)));
    let refused = dma.unmap_single(mapping).unwrap_err();
    assert!(matches!(refused.error, DmaUnmapError::NotMapped(_)) && refused.mapping.is_none());
    assert_eq!(dma.stats().unmaps, 1);
}

#[test]
fn a_part_of_a_mapping_is_not_a_mapping() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 4 * GRANULE, Direction::ToDevice).unwrap();
    let first = mapping.iova().get();
    for part in [range(first, first + GRANULE - 1), range(first + GRANULE, first + 2 * GRANULE - 1)] {
        assert_eq!(dma.unmap_range(part, Direction::ToDevice), Err(DmaUnmapError::NotMapped(part)));
    }
    assert_eq!(bench.iommu.domain(0).mapped().len(), 4);
    dma.unmap_single(mapping).unwrap();
}

#[test]
fn a_receipt_of_another_domain_is_refused_and_stays_good() {
    let (ours, theirs) = (bench(STRICT), bench(STRICT));
    let (dma, other) = (ours.handle(|_| ()), theirs.handle(|_| ()));
    let mapping = dma.map_single(Pa::new(RAM), 8, Direction::ToDevice).unwrap();
    let coherent = dma.alloc_coherent(8).unwrap();
    let refused = other.unmap_single(mapping).unwrap_err();
    assert_eq!(refused.error, DmaUnmapError::Foreign);
    dma.unmap_single(refused.mapping.unwrap()).unwrap();
    let refused = other.free_coherent(coherent).unwrap_err();
    assert_eq!(refused.error, DmaUnmapError::Foreign);
    dma.free_coherent(refused.mapping.unwrap()).unwrap();
}

#[test]
fn a_mapping_of_which_somebody_took_a_part_is_noticed() {
    use portcullis_core::iommu::{Gather, HwDomain};
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(RAM), 2 * GRANULE, Direction::ToDevice).unwrap();
    let first = mapping.iova().get();
    let mut gather = Gather::new();
    bench.iommu.domain(0).unmap(range(first, first + GRANULE - 1), &mut gather).unwrap();
    let _ = bench.iommu.domain(0).sync(&mut gather).unwrap();
    let torn = DmaUnmapError::Torn { found_bytes: GRANULE, mapped_bytes: 2 * GRANULE };
    assert_eq!(dma.unmap_single(mapping).unwrap_err().error, torn);
    assert_eq!(dma.stats().live, 0);
}

#[test]
fn what_a_torn_mapping_lacks_is_forgotten_before_its_addresses_are_free() {
    use portcullis_core::iommu::{Gather, HwDomain};
    for pages in [1, 2] {
        let bench = bench(STRICT);
        let dma = bench.handle(|_| ());
        let mapping = dma.map_single(Pa::new(RAM), 2 * GRANULE, Direction::ToDevice).unwrap();
        let first = mapping.iova().get();
        // As by a table that was corrupted: hardware is told nothing of it.
        let _ = bench.iommu.domain(0).unmap(range(first, first + pages * GRANULE - 1), &mut Gather::new());
        assert!(matches!(dma.unmap_single(mapping).unwrap_err().error, DmaUnmapError::Torn { .. }));
        assert_eq!((bench.iommu.domain(0).stale_count(), dma.stats().live), (0, 0));
    }
}

#[test]
fn coherent_buffers_are_whole_pages_that_both_may_write_and_come_back() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let queue = dma.alloc_coherent(0x1001).unwrap();
    let first = queue.iova().get();
    assert_eq!((queue.len_bytes(), queue.iova().is_aligned(0x2000)), (0x1001, true));
    let pa = queue.pa().get();
    assert_eq!(bench.iommu.domain(0).mapped(), [(first, pa), (first + GRANULE, pa + GRANULE)]);
    assert_eq!(bench.iommu.domain(0).prot(first).unwrap().perms, Perms::READ_WRITE);
    assert_eq!(bench.machine.live_buffers(), 1);
    dma.free_coherent(queue).unwrap();
    assert_eq!((bench.machine.live_buffers(), dma.stats().live), (0, 0));
    assert_eq!(bench.iommu.domain(0).stale_count(), 0);
}

#[test]
fn a_coherent_buffer_that_is_refused_leaves_neither_memory_nor_address() {
    let bench = bench_with(STRICT, range(0, 0x1fff));
    let dma = bench.handle(|_| ());
    *bench.machine.no_memory.lock().unwrap() = true;
    assert_eq!(dma.alloc_coherent(8), Err(DmaMapError::NoMemory));
    *bench.machine.no_memory.lock().unwrap() = false;
    assert!(matches!(dma.alloc_coherent(0x2000), Err(DmaMapError::NoIova { .. })));
    bench.iommu.fail(Call::Map, 0, 1);
    assert_eq!(dma.alloc_coherent(8), Err(DmaMapError::Map(MapError::NoTableMemory)));
    assert_eq!((bench.machine.live_buffers(), dma.stats().live), (0, 0));
}

#[test]
fn a_coherent_buffer_of_which_hardware_may_know_is_kept_though_it_was_refused() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 0, 1);
    bench.iommu.fail(Call::Sync, 0, 1);
    assert!(matches!(dma.alloc_coherent(0x2000), Err(DmaMapError::Map(_))));
    assert_eq!((bench.machine.live_buffers(), dma.stats().quarantined), (1, 1));
    bench.iommu.fail_no_more();
    dma.flush().unwrap();
    assert_eq!((bench.machine.live_buffers(), dma.stats().quarantined), (0, 0));
}

#[test]
fn coherent_memory_is_given_back_only_when_hardware_has_forgotten_it_even_in_lazy_mode() {
    for default in [STRICT, LAZY] {
        let bench = bench(default);
        let dma = bench.handle(|_| ());
        let queue = dma.alloc_coherent(8).unwrap();
        bench.iommu.fail(Call::Sync, 0, 1);
        let refused = dma.free_coherent(queue).unwrap_err();
        assert!(matches!(refused.error, DmaUnmapError::NotFlushed(_)) && refused.mapping.is_none());
        assert_eq!((bench.machine.live_buffers(), dma.stats().quarantined), (1, 1));
        dma.flush().unwrap();
        assert_eq!((bench.machine.live_buffers(), dma.stats().quarantined), (0, 0));
    }
}

#[test]
fn memory_that_waits_for_hardwares_word_comes_back_with_its_domain_if_hardware_gives_it() {
    for silent in [0, 1] {
        let bench = bench(STRICT);
        let dma = bench.handle(|_| ());
        let queue = dma.alloc_coherent(8).unwrap();
        bench.iommu.fail(Call::Sync, 0, 1);
        assert!(dma.free_coherent(queue).is_err());
        bench.group.set_default_type(DefaultType::This(DefaultDomain::Identity)).unwrap();
        assert_eq!(bench.machine.live_buffers(), 1);
        bench.iommu.fail(Call::FlushAll, 0, silent);
        drop(dma);
        assert_eq!(bench.machine.live_buffers(), silent);
        // Else the driver has it, with the tables that wait for the same.
        assert_eq!(bench.iommu.domain(0).kept().len(), silent);
    }
}

#[test]
fn a_buffer_that_a_table_does_not_let_go_of_is_told_of_as_one_that_no_flush_makes_safe() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 1, 1);
    bench.iommu.fail(Call::Unmap, 0, 1);
    let buffers = [pa_range(RAM, 8), pa_range(RAM + 0x4000, 8)];
    let refused = dma.map_sg(&buffers, Direction::ToDevice);
    assert_eq!(refused, Err(DmaMapError::StillMapped(MapError::NoTableMemory)));
    dma.flush().unwrap();
    assert_eq!(bench.iommu.domain(0).mapped().len(), 1, "the device reaches the first one");
    assert_eq!((dma.stats().live, dma.stats().quarantined), (1, 0), "at addresses that are nobody else's");
}

#[test]
fn a_coherent_buffer_that_a_table_does_not_let_go_of_goes_with_the_table() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    bench.iommu.fail(Call::Map, 0, 1);
    bench.iommu.fail(Call::Unmap, 0, 1);
    assert_eq!(dma.alloc_coherent(8), Err(DmaMapError::StillMapped(MapError::NoTableMemory)));
    let kept = bench.iommu.domain(0).kept();
    assert_eq!((bench.machine.live_buffers(), kept.len()), (1, 1));
    assert_eq!(kept[0].1.size_bytes(), GRANULE);
}

#[test]
fn a_coherent_buffer_that_the_table_will_not_let_go_stays_whole() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let queue = dma.alloc_coherent(8).unwrap();
    bench.iommu.fail(Call::Unmap, 0, 1);
    let refused = dma.free_coherent(queue).unwrap_err();
    assert_eq!(bench.machine.live_buffers(), 1);
    dma.free_coherent(refused.mapping.unwrap()).unwrap();
    assert_eq!(bench.machine.live_buffers(), 0);
}

#[test]
fn coherent_memory_for_a_device_that_does_not_snoop_is_cleaned_and_mapped_uncached() {
    let bench = bench(STRICT);
    let dma = bench.handle(|info| info.coherent = false);
    let queue = dma.alloc_coherent(8).unwrap();
    assert_eq!(bench.machine.caches(), [("clean", queue.pa().get(), GRANULE)]);
    let prot = bench.iommu.domain(0).prot(queue.iova().get()).unwrap();
    assert_eq!(prot.cacheability, Cacheability::Uncached);
    dma.free_coherent(queue).unwrap();
}

#[test]
fn coherent_memory_for_a_device_that_does_not_snoop_is_cleaned_where_addresses_are_physical_too() {
    let bench = bench(DefaultDomain::Identity);
    let dma = bench.handle(|info| info.coherent = false);
    let queue = dma.alloc_coherent(8).unwrap();
    assert_eq!(bench.machine.caches(), [("clean", queue.pa().get(), GRANULE)]);
    dma.free_coherent(queue).unwrap();
}

#[test]
fn every_step_says_what_it_did() {
    let bench = bench(STRICT);
    let dma = bench.handle(|_| ());
    let mapping = dma.map_single(Pa::new(0x1234), 16, Direction::ToDevice).unwrap();
    dma.sync_for_device(&mapping);
    let iova = format!("{:#018x}", mapping.iova().get());
    dma.unmap_single(mapping).unwrap();
    let events = bench.machine.events();
    assert_eq!(
        events,
        [
            "attach: dev=dev1 group=7 domain=dma result=ok".into(),
            format!("dma_map: dev=dev1 iova={iova} pa=0x0000000000001234 len=16 dir=to_device"),
            format!("dma_sync: dev=dev1 iova={iova} for=device"),
            format!("dma_unmap: dev=dev1 iova={iova} result=ok"),
        ]
    );
}
