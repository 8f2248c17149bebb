//! Bytes by hand, from the comments of the interface's header, against the layouts. On a little-endian CPU.
#![cfg(target_endian = "little")]

use super::*;

/// Bytes from words of 32 bits, lowest first.
fn words<const N: usize, const B: usize>(words: [u32; N]) -> [u8; B] {
    assert_eq!(4 * N, B);
    core::array::from_fn(|at| words[at / 4].to_le_bytes()[at % 4])
}

#[test]
fn request_numbers_are_those_of_the_header() {
    let wanted =
        [0x3b64, 0x3b65, 0x3b66, 0x3b67, 0x3b68, 0x3b69, 0x3b6a, 0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f];
    let iommus = [On::Type1, On::Spapr];
    let general = REQUESTS.iter().filter(|(on, ..)| !iommus.contains(on)).map(|&(_, number, _)| number);
    assert!(general.eq(wanted));
    let type1 = REQUESTS.iter().filter(|(on, ..)| *on == On::Type1).map(|&(_, number, _)| number);
    assert!(type1.eq([0x3b70, 0x3b71, 0x3b72, 0x3b75]));
    let spapr = REQUESTS.iter().filter(|(on, ..)| *on == On::Spapr).map(|&(_, number, _)| number);
    assert!(spapr.eq(0x3b70..=0x3b79));
}

#[test]
fn no_request_is_listed_twice() {
    for (at, (on, number, _)) in REQUESTS.iter().enumerate() {
        assert!(REQUESTS[..at].iter().all(|(other, same, _)| (other, same) != (on, number)));
    }
}

#[test]
fn group_status_is_two_words() {
    let bytes: [u8; 8] = words([8, 3]);
    let status = GroupStatus { argsz: 8, flags: GroupStatusFlags::VIABLE | GroupStatusFlags::CONTAINER_SET };
    assert_eq!((GroupStatus::from_bytes(&bytes), status.to_bytes()), (status, bytes));
}

#[test]
fn device_info_has_its_counts_before_its_chain() {
    let bytes: [u8; 24] = words([24, 0x83, 9, 5, 24, 0]);
    let info = DeviceInfo { argsz: 24, flags: 0x83, num_regions: 9, num_irqs: 5, cap_offset: 24 };
    assert_eq!((DeviceInfo::from_bytes(&bytes), info.to_bytes()), (info, bytes));
    assert_eq!(DeviceInfoFlags::RESET | DeviceInfoFlags::PCI | DeviceInfoFlags::CAPS, 0x83);
}

#[test]
fn region_info_has_size_and_offset_as_double_words() {
    let bytes: [u8; 32] = words([80, 0xf, 7, 32, 0x1000, 0, 0, 0x700]);
    let info = RegionInfo { argsz: 80, flags: 0xf, index: 7, cap_offset: 32, size: 0x1000, offset: 7 << 40 };
    assert_eq!((RegionInfo::from_bytes(&bytes), info.to_bytes()), (info, bytes));
    assert_eq!(RegionInfoFlags::ALL_KNOWN, 0xf);
    let area: [u8; 16] = words([0x3000, 0, 0x1000, 0]);
    assert_eq!(SparseArea { offset: 0x3000, size: 0x1000 }.to_bytes(), area);
    assert_eq!(SparseMmap { nr_areas: 2 }.to_bytes(), words::<2, 8>([2, 0]));
}

#[test]
fn interrupt_structures_have_16_and_20_bytes() {
    let bytes: [u8; 16] = words([16, 9, 2, 0x11]);
    let info = IrqInfo { argsz: 16, flags: 9, index: 2, count: 0x11 };
    assert_eq!((IrqInfo::from_bytes(&bytes), info.to_bytes()), (info, bytes));
    assert_eq!(IrqInfoFlags::EVENTFD | IrqInfoFlags::NORESIZE, 9);
    let bytes: [u8; 20] = words([24, 0x24, 2, 1, 3]);
    let set = IrqSet { argsz: 24, flags: 0x24, index: 2, start: 1, count: 3 };
    assert_eq!((IrqSet::from_bytes(&bytes), set.to_bytes()), (set, bytes));
    assert_eq!(IrqSetFlags::DATA_EVENTFD | IrqSetFlags::ACTION_TRIGGER, 0x24);
    assert_eq!((IrqSetFlags::DATA, IrqSetFlags::ACTION), (0b111, 0b11_1000));
}

#[test]
fn iommu_info_and_its_capabilities_have_the_headers_sizes() {
    let bytes: [u8; 24] = words([120, 3, 0x4020_1000, 0, 24, 0]);
    let info = IommuInfo { argsz: 120, flags: 3, iova_pgsizes: 0x4020_1000, cap_offset: 24 };
    assert_eq!((IommuInfo::from_bytes(&bytes), info.to_bytes()), (info, bytes));
    let head = Capability { id: 2, version: 1, next: 0x38 };
    assert_eq!(head.to_bytes(), [2, 0, 1, 0, 0x38, 0, 0, 0]);
    assert_eq!(Capability::from_bytes(&[2, 0, 1, 0, 0x38, 0, 0, 0]), head);
    let migration = Migration { flags: 0, pgsize_bitmap: 0x1000, max_dirty_bitmap_size: 0x1000_0000 };
    assert_eq!(migration.to_bytes(), words::<6, 24>([0, 0, 0x1000, 0, 0x1000_0000, 0]));
    // With their heads: 16 and 16 for each range, 32, 12.
    assert_eq!((8 + IovaRanges::BYTES, IovaArea::BYTES), (16, 16));
    assert_eq!((8 + Migration::BYTES, 8 + AvailableDma::BYTES), (32, 12));
    assert_eq!((IovaRanges::ID, Migration::ID, AvailableDma::ID), (1, 2, 3));
    let area: [u8; 16] = words([0x810_0000, 0, u32::MAX, 0xffff]);
    assert_eq!(IovaArea { start: 0x810_0000, end: 0xffff_ffff_ffff }.to_bytes(), area);
}

#[test]
fn map_and_unmap_are_32_and_24_bytes() {
    let bytes: [u8; 32] = words([32, 3, 0x7f00_0000, 0x7f, 0x10_0000, 1, 0x2000, 0]);
    let map = MapDma { argsz: 32, flags: 3, vaddr: 0x7f_7f00_0000, iova: 0x1_0010_0000, size: 0x2000 };
    assert_eq!((MapDma::from_bytes(&bytes), map.to_bytes()), (map, bytes));
    let bytes: [u8; 24] = words([24, 2, 0x10_0000, 1, 0x2000, 0]);
    let unmap = UnmapDma { argsz: 24, flags: 2, iova: 0x1_0010_0000, size: 0x2000 };
    assert_eq!((UnmapDma::from_bytes(&bytes), unmap.to_bytes()), (unmap, bytes));
    assert_eq!((MapDmaFlags::ALL_KNOWN, UnmapDmaFlags::ALL_KNOWN, UnmapDmaFlags::ALL), (3, 3, 2));
}

#[test]
fn dirty_pages_are_8_bytes_and_40_more_to_get_the_bitmap() {
    assert_eq!((DirtyPages::BYTES, DirtyRange::BYTES, Bitmap::BYTES), (8, 40, 24));
    let bytes: [u8; 40] = words([0x1000, 0, 0x4000, 0, 0x1000, 0, 8, 0, 0xbeef_0000, 0x7f]);
    let range =
        DirtyRange { iova: 0x1000, size: 0x4000, pgsize: 0x1000, bitmap_size: 8, data: 0x7f_beef_0000 };
    assert_eq!((DirtyRange::from_bytes(&bytes), range.to_bytes()), (range, bytes));
    assert_eq!(range.bitmap(), Bitmap { pgsize: 0x1000, size: 8, data: 0x7f_beef_0000 });
    assert_eq!(DirtyPagesFlags::START | DirtyPagesFlags::GET_BITMAP, 5);
    assert_eq!((Bitmap::bytes_for(1), Bitmap::bytes_for(64), Bitmap::bytes_for(65)), (8, 8, 16));
    assert_eq!(Bitmap::MAX_BYTES, 256 << 20);
}

#[test]
fn windows_are_told_in_16_bytes_and_16_more() {
    let bytes: [u8; 32] = words([32, 1, 0, 0x8000_0000, 0x1101_1000, 0, 2, 5]);
    let info = SpaprInfo {
        argsz: 32,
        flags: SpaprInfoFlags::DDW,
        dma32_window_start: 0,
        dma32_window_size: 0x8000_0000,
        pgsizes: 0x1101_1000,
        max_windows: 2,
        levels: 5,
    };
    assert_eq!((SpaprInfo::from_bytes(&bytes), info.to_bytes()), (info, bytes));
    assert_eq!((SpaprInfo::MIN_BYTES, SpaprInfoFlags::ALL_KNOWN), (16, 1));
}

#[test]
fn memory_is_registered_by_24_bytes() {
    let bytes: [u8; 24] = words([24, 0, 0x7f00_0000, 0x7f, 0x10_0000, 1]);
    let memory = RegisterMemory { argsz: 24, flags: 0, vaddr: 0x7f_7f00_0000, size: 0x1_0010_0000 };
    assert_eq!((RegisterMemory::from_bytes(&bytes), memory.to_bytes()), (memory, bytes));
}

#[test]
fn windows_are_made_by_40_bytes_and_removed_by_16() {
    let bytes: [u8; 40] = words([40, 0, 16, 0, 0x4000_0000, 1, 3, 0, 0, 0x800_0000]);
    let window = CreateWindow {
        argsz: 40,
        flags: 0,
        page_shift: 16,
        window_size: 0x1_4000_0000,
        levels: 3,
        start_addr: 0x800_0000_0000_0000,
    };
    assert_eq!((CreateWindow::from_bytes(&bytes), window.to_bytes()), (window, bytes));
    let bytes: [u8; 16] = words([16, 0, 0, 0x800_0000]);
    let window = RemoveWindow { argsz: 16, flags: 0, start_addr: 0x800_0000_0000_0000 };
    assert_eq!((RemoveWindow::from_bytes(&bytes), window.to_bytes()), (window, bytes));
}

#[test]
fn what_is_done_with_a_pe_is_said_in_12_bytes_and_an_error_in_40() {
    let bytes: [u8; 40] = words([40, 0, 9, 0, 1, 18, 0x1000, 0x800_0000, 0xffff_f000, u32::MAX]);
    let op = EehPeOp {
        argsz: 40,
        flags: 0,
        op: eeh_op::INJECT_ERR,
        err_type: 1,
        err_func: 18,
        err_addr: 0x800_0000_0000_1000,
        err_mask: 0xffff_ffff_ffff_f000,
    };
    assert_eq!((EehPeOp::from_bytes(&bytes), op.to_bytes()), (op, bytes));
    assert_eq!(EehPeOp::MIN_BYTES, 12);
    use eeh_op::{CONFIGURE, DISABLE, ENABLE, GET_STATE, UNFREEZE_DMA, UNFREEZE_IO};
    use eeh_op::{RESET_DEACTIVATE, RESET_FUNDAMENTAL, RESET_HOT};
    assert_eq!([DISABLE, ENABLE, UNFREEZE_IO, UNFREEZE_DMA, GET_STATE], [0, 1, 2, 3, 4]);
    assert_eq!([RESET_DEACTIVATE, RESET_HOT, RESET_FUNDAMENTAL, CONFIGURE], [5, 6, 7, 8]);
}
