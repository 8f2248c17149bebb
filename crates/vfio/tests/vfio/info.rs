//! IOMMU_GET_INFO: the fixed part, and the chain behind it.

use crate::support::{
    BUFFER, NOWHERE, PAGE, Process, World, bare, bytes, double, range, region, word, world,
};
use portcullis_core::iommu::ReservedKind;
use portcullis_types::{PageSizes, SizeLg2};
use portcullis_vfio::Errno;

const GET_INFO: u32 = 0x3b70;

fn user() -> (World, Process, i32) {
    let world = world();
    let (process, container, _) = world.user(3);
    (world, process, container)
}

fn ask(process: &Process, container: i32, argsz: u32, room: usize) -> Result<Vec<u8>, Errno> {
    let mut request = bytes(&[argsz, 0, 0, 0, 0xaaaa_aaaa, 0xbbbb_bbbb]);
    request.resize(room.max(24), 0xcc);
    process.ioctl_with(container, GET_INFO, &request)
}

#[test]
pub(crate) fn the_answer_of_two_ranges_is_120_bytes_as_they_were_observed() {
    let (_world, process, container) = user();
    let info = ask(&process, container, 120, 128).unwrap();
    let wanted = [
        // argsz, flags, page sizes, where the chain begins, padding that is left alone
        120,
        3,
        0x4020_1000,
        0,
        24,
        0xbbbb_bbbb,
        // 2: version 1, the next at 56; no flags; bitmaps for 4 KiB; 256 MiB at most
        0x1_0002,
        56,
        0,
        0,
        0x1000,
        0,
        0x1000_0000,
        0,
        // 3: version 1, the next at 72; 65,535 mappings
        0x1_0003,
        72,
        65_535,
        0,
        // 1: version 1, the last; two ranges, around the doorbells' window
        0x1_0001,
        0,
        2,
        0,
        0,
        0,
        0x07ff_ffff,
        0,
        0x0810_0000,
        0,
        0xffff_ffff,
        0xffff,
        // what lies behind
        0xcccc_cccc,
        0xcccc_cccc,
    ];
    assert_eq!(info, bytes(&wanted));
}

#[test]
fn without_room_for_the_chain_it_is_said_how_much_is_needed() {
    let (_world, process, container) = user();
    for argsz in [20, 24, 119] {
        let info = ask(&process, container, argsz, 128).unwrap();
        assert_eq!(info[..24], bytes(&[120, 3, 0x4020_1000, 0, 0, 0xbbbb_bbbb]));
        assert!(info[24..].iter().all(|&byte| byte == 0xcc), "nothing is written beyond");
    }
    for argsz in [16, 19] {
        let info = ask(&process, container, argsz, 24).unwrap();
        assert_eq!(
            info,
            bytes(&[120, 3, 0x4020_1000, 0, 0xaaaa_aaaa, 0xbbbb_bbbb]),
            "nor beyond what there is room for"
        );
    }
}

#[test]
pub(crate) fn without_room_for_the_fixed_part_it_is_refused() {
    let (_world, process, container) = user();
    for argsz in [0, 15] {
        assert_eq!(ask(&process, container, argsz, 24), Err(Errno::Einval));
    }
}

#[test]
pub(crate) fn an_info_that_is_nowhere_is_a_fault() {
    let (_world, process, container) = user();
    assert_eq!(process.ioctl(container, GET_INFO, NOWHERE), Err(Errno::Efault));
    // There is room for the fixed part before the page's end, and not for the chain.
    let at = crate::support::SCRATCH + PAGE - 64;
    portcullis_vfio::UserMemory::copy_out(&*process.memory, at, &bytes(&[4096])).unwrap();
    assert_eq!(process.ioctl(container, GET_INFO, at), Err(Errno::Efault));
}

#[test]
fn mappings_that_can_still_be_are_counted() {
    let (_world, process, container) = user();
    process.buffer(2);
    process.map(container, 0x10_0000, BUFFER, PAGE, 3).unwrap();
    process.map(container, 0x20_0000, BUFFER, PAGE, 3).unwrap();
    assert_eq!(word(&ask(&process, container, 120, 128).unwrap(), 64), 65_533);
    process.unmap_all(container).unwrap();
    assert_eq!(word(&ask(&process, container, 120, 128).unwrap(), 64), 65_535);
}

#[test]
fn ranges_are_what_is_not_reserved_and_direct_relaxable_ones_do_not_count() {
    // As of an x86 machine with 39 bits.
    let mut world = bare(range(0, (1 << 39) - 1), PageSizes::from_bits(0x1000));
    *world.iommu.regions.lock().unwrap() = vec![
        region(0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi),
        region(0x1000, 0x1fff, ReservedKind::DirectRelaxable),
        region(0x7f_ffff_f000, 0x7f_ffff_ffff, ReservedKind::Reserved),
    ];
    world.add(7, 1, |_| ()).unwrap();
    let (process, container, _) = world.user(3);
    assert_eq!(process.ranges(container), [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_efff)]);
}

#[test]
fn a_process_with_large_pages_is_told_of_no_smaller_ones() {
    let world = world();
    let process = Process::with_pages(&world.vfio, &world.hardware, SizeLg2::KIB_16);
    let (container, _) = process.join(7).unwrap();
    process.ioctl(container, 0x3b66, 3).unwrap();
    let info = ask(&process, container, 120, 128).unwrap();
    assert_eq!((double(&info, 8), double(&info, 40)), (0x4020_4000, 0x4000));
}
