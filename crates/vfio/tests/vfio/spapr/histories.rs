//! Any bytes in any order, and any history of sensible calls against a plain list.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{nothing_is_left, ram};
use crate::fuzz;
use crate::support::{BUFFER, Call, FakeTableGroup, PAGE, Process, RAM, World, power};
use portcullis_vfio::Errno;
use std::sync::Arc;

const WINDOW_1: u64 = 0x0800_0000_0000_0000;

fn calls() -> impl Strategy<Value = (Call, usize, usize)> {
    let kinds = [
        Call::Take,
        Call::Release,
        Call::CreateTable,
        Call::SetWindow,
        Call::UnsetWindow,
        Call::Prepare,
        Call::Exchange,
        Call::Flush,
        Call::Eeh,
    ];
    (prop::sample::select(kinds.to_vec()), 0..6usize, 0..3usize)
}

fn all_gone(world: &World, process: Process, groups: &[Arc<FakeTableGroup>; 2]) {
    let memory = process.memory.clone();
    drop(process);
    world.hardware.fail_no_more();
    assert_eq!(world.vfio.reclaim(), 0);
    assert_eq!((memory.pinned(), memory.locked()), (0, 0));
    nothing_is_left(world, &world.process(), &[&groups[0], &groups[1]]);
}

proptest! {
    #[test]
    fn no_bytes_on_no_file_of_power_break_anything(
        version in prop::sample::select(&[2u64, 7][..]),
        steps in prop::collection::vec(fuzz::step(), 1..60),
        failures in prop::collection::vec(calls(), 0..4),
    ) {
        let (world, groups) = power();
        let (process, container, group) = world.tce_user(version);
        process.device(group, "0000:00:01.0").unwrap();
        process.event();
        process.buffer(64);
        if version == 7 {
            process.register(container, BUFFER, 16 * PAGE).unwrap();
        } else {
            process.enable(container).unwrap();
        }
        process.map(container, 0x10_0000, BUFFER, 4 * PAGE, 3).unwrap();
        failures.into_iter().for_each(|(call, pass, fail)| world.hardware.fail(call, pass, fail));
        steps.into_iter().for_each(|step| fuzz::take(&process, step));
        all_gone(&world, process, &groups);
    }
}

/// What a container of version 2 has, as plain lists.
#[derive(Default)]
struct Model {
    /// Begin of memory, in pages of the buffer, and how many.
    registered: BTreeMap<u64, u64>,
    windows: [Option<Window>; 2],
    pending: bool,
    owned: bool,
    /// Whether anything was ever registered.
    may_map: bool,
}

/// A window: log2 of its page, its bytes, and entries: where, to what.
#[derive(Clone, Default)]
struct Window {
    shift: u32,
    len: u64,
    entries: BTreeMap<u64, u64>,
}

impl Window {
    fn new(shift: u32, len: u64) -> Self {
        Self { shift, len, entries: BTreeMap::new() }
    }
}

const SIZE_LG2: u32 = 24;

impl Model {
    fn registers(&self, vaddr: u64, len: u64) -> bool {
        let (page, last) = ((vaddr - BUFFER) / PAGE, (vaddr - BUFFER + len - 1) / PAGE);
        self.registered.iter().any(|(&first, &pages)| first <= page && last < first + pages)
    }

    fn register(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        if pages == 0 {
            return Err(Errno::Einval);
        }
        if self.registered.get(&page) == Some(&pages) {
            return Err(Errno::Ebusy);
        }
        if self.registered.iter().any(|(&first, &held)| first < page + pages && page < first + held) {
            return Err(Errno::Einval);
        }
        self.registered.insert(page, pages);
        (self.owned, self.may_map) = (true, true);
        Ok(())
    }

    fn unregister(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        if !self.owned {
            return Err(Errno::Eperm);
        }
        if self.registered.get(&page) != Some(&pages) {
            return Err(Errno::Enoent);
        }
        let (first, last) = (ram(page), ram(page + pages) - 1);
        let maps = |window: &Window| {
            window.entries.values().any(|&pa| pa <= last && first < pa + (1 << window.shift))
        };
        if self.windows.iter().flatten().any(maps) {
            return Err(Errno::Ebusy);
        }
        self.registered.remove(&page);
        Ok(())
    }

    fn make_default(&mut self) {
        if core::mem::take(&mut self.pending) {
            self.windows[0] = Some(Window::new(12, 1 << 31));
        }
    }

    fn create(&mut self, shift: u32) -> Result<u64, Errno> {
        let free = self.windows.iter().position(Option::is_none).unwrap_or(2) + usize::from(self.pending);
        let free = if self.pending && self.windows[1].is_some() { 2 } else { free };
        if free > 1 {
            return Err(Errno::Enospc);
        }
        self.make_default();
        self.windows[free] = Some(Window::new(shift, 1 << SIZE_LG2));
        self.owned = true;
        Ok([0, WINDOW_1][free])
    }

    fn remove(&mut self, window: usize) -> Result<(), Errno> {
        let there =
            window == 0 && core::mem::take(&mut self.pending) || self.windows[window].take().is_some();
        self.owned |= there;
        there.then_some(()).ok_or(Errno::Einval)
    }

    /// A window and whether the range is right for it. The default window is made if so.
    fn within(&mut self, window: usize, begin: u64, size: u64, vaddr: u64) -> Result<&mut Window, Errno> {
        if !self.may_map {
            return Err(Errno::Eperm);
        }
        let default = Window::new(12, 1 << 31);
        let pending = window == 0 && self.pending;
        let held = if pending { Some(&default) } else { self.windows[window].as_ref() };
        let held = held.filter(|held| begin < held.len).ok_or(Errno::Enxio)?;
        let whole = (begin | size | vaddr).is_multiple_of(1 << held.shift);
        if !whole || begin + size > held.len {
            return Err(Errno::Einval);
        }
        if !self.all_registered(held.shift, vaddr, size) {
            return Err(Errno::Einval);
        }
        self.make_default();
        Ok(self.windows[window].as_mut().unwrap())
    }

    fn all_registered(&self, shift: u32, vaddr: u64, size: u64) -> bool {
        // An unmap has no memory.
        vaddr == 0
            || (0..size >> shift).all(|index| {
                let page = vaddr + (index << shift);
                self.registers(page, 1 << shift)
            })
    }

    fn map(&mut self, window: usize, begin: u64, page: u64, size: u64) -> Result<(), Errno> {
        let vaddr = BUFFER + page * PAGE;
        let window = self.within(window, begin, size, vaddr)?;
        for offset in (0..size).step_by(1 << window.shift) {
            window.entries.insert(begin + offset, RAM + page * PAGE + offset);
        }
        Ok(())
    }

    fn unmap(&mut self, window: usize, begin: u64, size: u64) -> Result<(), Errno> {
        let window = self.within(window, begin, size, 0)?;
        window.entries.retain(|&at, _| at < begin || at >= begin + size);
        Ok(())
    }
}

proptest! {
    #[test]
    fn windows_and_memory_are_what_plain_lists_say(
        steps in prop::collection::vec((0..14u32, 0..2usize, 0..40u64, 0..40u64, 0..40u64), 1..60),
    ) {
        let (world, groups) = power();
        let (process, container, _) = world.tce_user(7);
        process.buffer(64);
        let mut other = None;
        let mut model = Model { pending: true, ..Model::default() };
        for (kind, number, a, b, c) in steps {
            // Often whole pages of 64 KiB, and sizes of none.
            let coarse = |value: u64| if value.is_multiple_of(2) { value / 2 * 16 % 64 } else { value };
            let (a, b, c) = (coarse(a), coarse(b), coarse(c));
            let start = [0, WINDOW_1][number];
            match kind {
                0..=1 => {
                    let c = c.min(64 - b);
                    prop_assert_eq!(process.register(container, BUFFER + b * PAGE, c * PAGE), model.register(b, c));
                }
                2 => {
                    let c = c.min(64 - b);
                    let wanted = model.unregister(b, c);
                    prop_assert_eq!(process.unregister(container, BUFFER + b * PAGE, c * PAGE), wanted);
                }
                3 => {
                    let shift = [12, 16][usize::from(a > 8)];
                    prop_assert_eq!(process.create(container, shift, 1 << SIZE_LG2, 1), model.create(shift));
                }
                4 => prop_assert_eq!(process.remove(container, start), model.remove(number)),
                5..=8 => {
                    let wanted = model.map(number, a * PAGE, b, c * PAGE);
                    let vaddr = BUFFER + b * PAGE;
                    prop_assert_eq!(process.map(container, start + a * PAGE, vaddr, c * PAGE, 3), wanted);
                }
                9..=12 => {
                    let wanted = model.unmap(number, a * PAGE, c * PAGE);
                    prop_assert_eq!(process.unmap_tce(container, start + a * PAGE, c * PAGE), wanted);
                }
                _ => match other.take() {
                    Some(group) => process.close(group),
                    None => other = Some(process.join_to(container, 8).unwrap()),
                },
            }
            for (number, wanted) in model.windows.iter().enumerate() {
                let table = groups[0].table(number);
                let entries = |table: &crate::support::FakeTable| -> BTreeMap<u64, u64> {
                    let base = [0, WINDOW_1][number];
                    table.mapped().iter().map(|&(at, pa, _)| (at - base, pa)).collect()
                };
                let held = table.as_deref().map(entries);
                prop_assert_eq!(held.as_ref(), wanted.as_ref().map(|window| &window.entries));
                let shared = groups[1].table(number);
                prop_assert_eq!(shared.is_some(), other.is_some() && wanted.is_some());
            }
            let pages: u64 = model.registered.values().sum();
            prop_assert_eq!(process.memory.pinned() as u64, pages);
        }
        all_gone(&world, process, &groups);
    }
}

proptest! {
    #[test]
    fn whatever_failed_a_container_is_as_good_as_new_when_hardware_answers(
        steps in prop::collection::vec((0..16u32, 0..2usize, 0..4u64, 0..4u64, calls()), 1..40),
    ) {
        let (world, groups) = power();
        let (process, container, _) = world.tce_user(7);
        process.buffer(64);
        let mut other = None;
        for (kind, number, a, b, (call, pass, fail)) in steps {
            let start = [0, WINDOW_1][number];
            // Pieces of 64 KiB.
            let (vaddr, bytes) = (BUFFER + a * 16 * PAGE, (b + 1).min(4 - a) * 16 * PAGE);
            match kind {
                0 => drop(process.register(container, vaddr, bytes)),
                1 => drop(process.unregister(container, vaddr, bytes)),
                2 => drop(process.create(container, [12, 16][number], 1 << SIZE_LG2, 1)),
                3..=4 => drop(process.remove(container, start)),
                5..=7 => drop(process.map(container, start + b * 16 * PAGE, vaddr, bytes, 3)),
                8..=9 => drop(process.unmap_tce(container, start + b * 16 * PAGE, bytes)),
                10 => drop(world.vfio.reclaim()),
                11..=12 => match other.take() {
                    Some(group) => process.close(group),
                    None => other = process.join_to(container, 8).ok(),
                },
                _ => world.hardware.fail(call, pass, fail),
            }
        }
        world.hardware.fail_no_more();
        if other.is_none() {
            prop_assert!(process.join_to(container, 8).is_ok());
        }
        for start in [0, WINDOW_1] {
            // The second time for a window that is there beside a pending one.
            let gone = [(); 3].map(|()| process.remove(container, start)).contains(&Err(Errno::Einval));
            prop_assert!(gone, "{start:#x}");
        }
        prop_assert!(groups.iter().all(|group| group.table(0).is_none() && group.table(1).is_none()));
        prop_assert_eq!(process.memory.locked(), process.memory.pinned() as u64, "no table is paid for");
        for page in 0..4 {
            for pages in 1..5 {
                let bytes = pages * 16 * PAGE;
                let _ = process.unregister(container, BUFFER + page * 16 * PAGE, bytes);
            }
        }
        prop_assert_eq!(process.memory.pinned(), 0);
        process.register(container, BUFFER, 64 * PAGE).unwrap();
        for (shift, start) in [(12, 0), (16, WINDOW_1)] {
            prop_assert_eq!(process.create(container, shift, 1 << SIZE_LG2, 1), Ok(start));
            prop_assert_eq!(process.map(container, start, BUFFER, 64 * PAGE, 3), Ok(()));
        }
        prop_assert!(groups.iter().all(|group| group.table(1).unwrap().mapped().len() == 4));
        all_gone(&world, process, &groups);
    }
}
