//! Any bytes, on any file, in any order: nothing panics, and what is mapped is what a plain list says.
//!
//! `PROPTEST_CASES` says how many histories; 256 if it does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::support::{BUFFER, Call, PAGE, Process, RAM, READ, SCRATCH, World, range, structure, world};
use portcullis_types::{Iova, Pa, PageSizes};
use portcullis_vfio::Errno;

/// Addresses around what matters: nothing, buffers, doorbells, ends.
fn number() -> impl Strategy<Value = u64> {
    let places =
        vec![0, 0x10_0000, 0x7ff_f000, 0x800_0000, 0x810_0000, BUFFER, SCRATCH, 1 << 48, u64::MAX - 0xfff];
    prop_oneof![
        4 => (prop::sample::select(places), 0..8u64).prop_map(|(place, pages)| place.wrapping_add(pages * PAGE)),
        2 => (0..8u64).prop_map(|pages| pages * PAGE),
        1 => 0..64u64,
        1 => any::<u64>(),
    ]
}

/// A structure of a request: plausible sizes and flags, any numbers.
fn argument() -> impl Strategy<Value = Vec<u8>> {
    let argsz =
        prop_oneof![6 => prop::sample::select(&[8u32, 16, 20, 24, 32, 48, 120, 4096][..]), 1 => any::<u32>()];
    let flags = prop_oneof![6 => 0..64u32, 1 => any::<u32>()];
    prop_oneof![
        8 => (argsz, flags, prop::collection::vec(number(), 5)).prop_map(|(argsz, flags, numbers)| structure(&[argsz, flags], &numbers)),
        // Interrupts: an index, a start, a count, and files.
        4 => (0..64u32, 0..6u32, 0..20u32, 0..20u32, prop::collection::vec(-1..12i32, 8)).prop_map(|(flags, index, start, count, fds)| {
            let mut bytes = crate::support::bytes(&[52, flags, index, start, count]);
            bytes.extend(fds.iter().flat_map(|fd| fd.to_le_bytes()));
            bytes
        }),
        1 => (0..12i32).prop_map(|fd| fd.to_le_bytes().to_vec()),
        1 => Just(b"0000:00:01.0\0".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..128),
    ]
}

fn request() -> impl Strategy<Value = u32> {
    prop_oneof![16 => 0x3b64..0x3b7au32, 1 => any::<u32>()]
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Ioctl { fd: i32, request: u32, bytes: Vec<u8>, nowhere: bool },
    Read { fd: i32, offset: u64, len: u64 },
    Write { fd: i32, offset: u64, bytes: Vec<u8> },
    Map { fd: i32, offset: u64, len: u64 },
    Close { fd: i32 },
    Open { group: bool },
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => (0..10u64, 0..0x5000u64).prop_map(|(index, offset)| index << 40 | offset), 1 => any::<u64>()]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let fd = || 3..10i32;
    prop_oneof![
        12 => (fd(), request(), argument(), prop::bool::weighted(0.05)).prop_map(|(fd, request, bytes, nowhere)| Step::Ioctl { fd, request, bytes, nowhere }),
        2 => (fd(), offset(), 0..300u64).prop_map(|(fd, offset, len)| Step::Read { fd, offset, len }),
        2 => (fd(), offset(), prop::collection::vec(any::<u8>(), 0..16)).prop_map(|(fd, offset, bytes)| Step::Write { fd, offset, bytes }),
        1 => (fd(), offset(), number()).prop_map(|(fd, offset, len)| Step::Map { fd, offset, len }),
        1 => fd().prop_map(|fd| Step::Close { fd }),
        1 => any::<bool>().prop_map(|group| Step::Open { group }),
    ]
}

pub(crate) fn take(process: &Process, step: Step) {
    match step {
        Step::Ioctl { fd, request, bytes, nowhere } => {
            let at = if nowhere { SCRATCH + PAGE - 4 } else { process.put(&bytes) };
            let _ = process.ioctl(fd, request, at);
        }
        Step::Read { fd, offset, len } => drop(process.pread(fd, offset, len as usize)),
        Step::Write { fd, offset, bytes } => drop(process.pwrite(fd, offset, &bytes)),
        Step::Map { fd, offset, len } => drop(process.mmap(fd, offset, len)),
        Step::Close { fd } => process.close_if_open(fd),
        Step::Open { group } => drop(process.open(if group { "/dev/vfio/8" } else { "/dev/vfio/vfio" })),
    }
}

fn nothing_is_left(world: &World, process: Process) -> Result<(), TestCaseError> {
    let memory = process.memory.clone();
    drop(process);
    prop_assert_eq!((memory.pinned(), memory.locked(), world.vfio.reclaim()), (0, 0, 0));
    prop_assert!(world.groups.values().all(|group| group.ownership().count == 0));
    prop_assert_eq!(world.iommu.place(1), "domain0");
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_on_no_file_break_anything(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = world();
        world.add(8, 2, |_| ()).unwrap();
        let (process, container, _) = world.driver();
        process.event();
        process.buffer(16);
        process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
        steps.into_iter().for_each(|step| take(&process, step));
        nothing_is_left(&world, process)?;
    }
}

/// What a container has, as a plain list: address, size, address of the process, flags.
#[derive(Debug, Default)]
struct Model(BTreeMap<u64, (u64, u64, u32)>);

impl Model {
    fn overlaps(&self, iova: u64, size: u64) -> bool {
        self.0.iter().any(|(&first, &(held, ..))| first < iova + size && iova < first + held)
    }

    fn map(&mut self, iova: u64, vaddr: u64, size: u64, flags: u32) -> Result<(), Errno> {
        if size == 0 || flags == 0 {
            return Err(Errno::Einval);
        }
        if self.overlaps(iova, size) {
            return Err(Errno::Eexist);
        }
        if iova < 0x810_0000 && iova + size > 0x800_0000 {
            return Err(Errno::Einval);
        }
        if vaddr < BUFFER || vaddr + size > BUFFER + 16 * PAGE {
            return Err(Errno::Efault);
        }
        self.0.insert(iova, (size, vaddr, flags));
        Ok(())
    }

    fn unmap(&mut self, iova: u64, size: u64, version: u64) -> Result<u64, Errno> {
        if size == 0 {
            return Err(Errno::Einval);
        }
        let within = |first: u64, held: u64| first < iova + size && iova < first + held;
        let hit: Vec<(u64, u64)> = self
            .0
            .iter()
            .map(|(&first, &(held, ..))| (first, held))
            .filter(|&(first, held)| within(first, held))
            .collect();
        if version == 1 && hit.first().is_some_and(|&(first, _)| first < iova) {
            return Ok(0);
        }
        let cut = |&(first, held): &(u64, u64)| first < iova || first + held > iova + size;
        if version == 3 && hit.iter().any(cut) {
            return Err(Errno::Einval);
        }
        self.0.retain(|first, _| !hit.iter().any(|(gone, _)| gone == first));
        Ok(hit.iter().map(|(_, held)| held).sum())
    }
}

proptest! {
    #[test]
    fn mappings_are_what_a_plain_list_says(
        version in prop::sample::select(&[1u64, 3][..]),
        steps in prop::collection::vec((0..10u32, 0..24u64, 0..6u64, 0..20u64, 0..4u32), 1..80),
    ) {
        let world = world();
        let (process, container, _) = world.user(version);
        process.buffer(16);
        let mut model = Model::default();
        for (kind, page, pages, from, flags) in steps {
            // Around the beginning of the doorbells' window.
            let (iova, size) = (0x7ff_0000 + page * PAGE, pages * PAGE);
            match kind {
                0..=4 => {
                    let vaddr = BUFFER + from * PAGE;
                    let wanted = model.map(iova, vaddr, size, flags);
                    prop_assert_eq!(process.map(container, iova, vaddr, size, flags), wanted);
                }
                5..=8 => prop_assert_eq!(process.unmap(container, iova, size), model.unmap(iova, size, version)),
                _ => prop_assert_eq!(process.unmap_all(container), Ok(core::mem::take(&mut model.0).values().map(|held| held.0).sum::<u64>())),
            }
            let domain = world.hardware.last_domain();
            let mapped: Vec<_> = domain.mapped().iter().map(|entry| {
                let readable = entry.prot.perms.contains(portcullis_types::Perms::READ);
                (entry.range.first().get(), entry.range.len_bytes().unwrap(), entry.pa.get(), readable)
            }).collect();
            let wanted: Vec<_> = model.0.iter().map(|(&iova, &(size, vaddr, flags))| {
                (iova, size, crate::support::RAM + (vaddr - BUFFER), flags & READ != 0)
            }).collect();
            prop_assert_eq!(mapped, wanted);
            let pages: u64 = model.0.values().map(|held| held.0 / PAGE).sum();
            prop_assert_eq!(process.memory.locked(), pages);
        }
        nothing_is_left(&world, process)?;
    }
}

fn calls() -> impl Strategy<Value = (Call, usize, usize)> {
    let kinds = [Call::Map, Call::Unmap, Call::Sync, Call::Attach, Call::NewDomain];
    (prop::sample::select(kinds.to_vec()), 0..6usize, 0..3usize)
}

proptest! {
    #[test]
    fn whatever_failed_a_container_is_as_good_as_new_when_hardware_answers(
        version in prop::sample::select(&[1u64, 3][..]),
        steps in prop::collection::vec((0..16u32, 0..3usize, 0..4u64, 0..3u64, calls()), 1..40),
    ) {
        let mut world = world();
        world.add(8, 2, |_| ()).unwrap();
        world.next_iommu("iommu1", range(0, (1 << 40) - 1), PageSizes::from_bits(0x1000));
        world.add(9, 3, |_| ()).unwrap();
        let (process, container, group) = world.user(version);
        process.buffer(16);
        let mut open = [Some(group), None, None];
        for (kind, number, page, pages, (call, pass, fail)) in steps {
            let (iova, size) = (0x10_0000 + page * PAGE, (pages + 1) * PAGE);
            match kind {
                0..=4 => drop(process.map(container, iova, BUFFER + 2 * page * PAGE, size, 3)),
                5..=7 => drop(process.unmap(container, iova, size)),
                8 => drop(process.unmap_all(container)),
                9 => drop(world.vfio.reclaim()),
                10..=12 => match open[number].take() {
                    // Without the last one the container would be without IOMMU.
                    Some(group) if open.iter().any(Option::is_some) => process.close(group),
                    Some(group) => open[number] = Some(group),
                    None => open[number] = process.join_to(container, 7 + number as u32).ok(),
                },
                _ => world.hardware.fail(call, pass, fail),
            }
        }
        world.hardware.fail_no_more();
        prop_assert!(process.unmap_all(container).is_ok());
        prop_assert_eq!((process.memory.pinned(), process.memory.locked()), (0, 0));
        for (number, group) in (7..).zip(open) {
            prop_assert!(group.is_some() || process.join_to(container, number).is_ok(), "{number}");
        }
        prop_assert_eq!(process.map(container, 0x10_0000, BUFFER, 16 * PAGE, 3), Ok(()));
        let places = [0, 1, 2].map(|at| world.devices[at].domain().unwrap());
        for place in &places {
            let last = place.lookup(Iova::new(0x10_ffff)).map(Pa::get);
            prop_assert_eq!(last, Some(RAM + 0xffff));
        }
        let memory = process.memory.clone();
        drop(process);
        prop_assert_eq!((memory.pinned(), memory.locked(), world.vfio.reclaim()), (0, 0, 0));
        for (number, device) in (7..).zip(&world.devices) {
            world.groups[&number].use_default_domain(device, "nvme").unwrap();
            prop_assert!(Arc::ptr_eq(&device.domain().unwrap(), &world.groups[&number].default_domain()));
        }
    }
}
