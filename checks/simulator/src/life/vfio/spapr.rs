//! Containers that make their windows themselves: memory registered, windows made and removed, entries, endpoints frozen and reset.

use core::sync::atomic::Ordering::Relaxed;

use portcullis::vfio::Errno;

use super::Done;
use super::files::{bytes, words};
use super::task::{PAGE, VA};
use super::type1::Wanted;
use super::world::{Container, SECOND, UserWorld, Window};
use crate::promise::Promise;

const IOMMU_UNMAP_DMA: u32 = 0x3b72;
const ENABLE: u32 = 0x3b73;
const DISABLE: u32 = 0x3b74;
const REGISTER_MEMORY: u32 = 0x3b75;
const UNREGISTER_MEMORY: u32 = 0x3b76;
const CREATE: u32 = 0x3b77;
const REMOVE: u32 = 0x3b78;
const EEH_PE_OP: u32 = 0x3b79;

impl UserWorld {
    /// The window that a container has as long as nobody has asked for another.
    fn default_window(&self) -> Window {
        let aperture = self.units[0].iommu().capabilities().aperture;
        Window { first: 0, last: aperture.last().get(), page: PAGE, closing: false }
    }

    /// A call that needed a window has succeeded: the default one is there, if it was to be made.
    fn default_made(&self, one: &mut Container) {
        if core::mem::take(&mut one.pending) {
            one.windows[0] = Some(self.default_window());
        }
    }

    pub(super) fn map_tce(&self, id: usize, one: &Container, fd: i32, wanted: &Wanted) -> Done {
        let before = self.before();
        let grants = self.grants(one.user, wanted);
        // Page by page: those before the first that cannot be are there for a moment, and longer if hardware does not confirm that it forgot them.
        let there = self.grants_before(one.user, wanted);
        let runs = Self::runs(&there);
        let ends = [(wanted.first, wanted.last())];
        let old = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &ends));
        let token = self.hub.shadow(|shadow| shadow.begin_map(one.space, &runs, true, wanted.writes()));
        let after = {
            let mut after = one.clone();
            self.default_made(&mut after);
            after
        };
        match self.ask_map(one.user, fd, wanted) {
            Ok(()) => {
                let window = Self::window_of(&after, wanted.first);
                let inside = window.is_some_and(|window| wanted.last() <= window.last);
                self.hub.hold(Promise::Reserved, inside, || {
                    format!(
                        "{:#x} of {:#x} bytes was mapped, and lies in no window",
                        wanted.first, wanted.len
                    )
                });
                let may = if one.kind == 2 { one.enabled } else { self.is_registered(one, wanted) };
                self.hub.hold(Promise::Isolation, may, || {
                    format!("{:#x} of {:#x} bytes was mapped, and is not registered", wanted.va, wanted.len)
                });
                self.settle(one.space, old, true);
                if let Some(window) = window {
                    self.settled(one, (window.first, window.last));
                }
                self.mapped(id, one, token, grants, wanted);
                self.change(id, |one| self.default_made(one));
                Done::Succeeded
            }
            Err(errno) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(one.space, old));
                self.not_mapped(one, &before, token, &there);
                self.refused_tce(&before, (id, one), errno, wanted.len / PAGE, "mapping")
            }
        }
    }

    /// Hardware has confirmed what a call changed in a window, and with it all that it had not confirmed there before.
    fn settled(&self, one: &Container, window: (u64, u64)) {
        self.hub.shadow(|shadow| shadow.settled(one.space, window, one.since));
    }

    /// A call was refused; for want of memory also where its user may not lock so much.
    pub(super) fn refused_tce(
        &self,
        before: &super::Before,
        (id, one): (usize, &Container),
        errno: Errno,
        pages: u64,
        what: &str,
    ) -> Done {
        // A map may be there still; and a default window that was made for a call, and could not be taken back with it, waits for whoever makes the next.
        let doubt = self.unconfirmed(before);
        self.change(id, |one| one.doubt |= doubt);
        let table = 80;
        let over = self.users[one.user].memory.is_over(pages + table);
        let errno = if errno == Errno::Enomem && over { Errno::Enospc } else { errno };
        self.refused(before, errno, what)
    }

    fn is_registered(&self, one: &Container, wanted: &Wanted) -> bool {
        let covers = |at: u64| one.registered.iter().any(|(&va, &len)| va <= at && at + PAGE <= va + len);
        (wanted.va..wanted.va + wanted.len).step_by(0x1000).all(covers)
    }

    pub(super) fn unmap_tce(&self, id: usize, one: &Container, fd: i32, pick: u16, bits: u8) -> Done {
        let (place, second) = (u64::from(pick), bits & 3 == 3);
        let window = one.windows[usize::from(second)];
        let base = [0, SECOND][usize::from(second)];
        let unit = window.map_or(PAGE, |window| window.page);
        let live = self.hub.shadow(|shadow| shadow.some_live(one.space, base + (place & 0xff) * PAGE));
        let first = live.map_or(base, |grant| grant.first) & !(unit - 1);
        let len = unit * u64::from(1 + (bits >> 2 & 7));
        let ends = (first, first + (len - 1));
        let before = self.before();
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &[ends]));
        match self.users[one.user].ask(fd, IOMMU_UNMAP_DMA, &bytes(&[24, 0], &[first, len])) {
            Ok(_) => {
                self.settle(one.space, token, true);
                self.change(id, |one| self.default_made(one));
                // What was found to unmap may lie in the other window than was looked in.
                if let Some(window) = Self::window_of(one, first) {
                    self.settled(one, (window.first, window.last));
                }
                self.try_taken(one, &[ends]);
                Done::Succeeded
            }
            Err(Errno::Eio) if self.unconfirmed(&before) || one.doubt => {
                self.not_confirmed(&before, id, one, token)
            }
            Err(errno) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(one.space, token));
                self.refused_tce(&before, (id, one), errno, 0, "unmapping")
            }
        }
    }

    pub(super) fn register_memory(&self, user: usize, container: u8, page: u8, pages: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind == 7) else { return Done::Skipped };
        let (va, len) = (VA + u64::from(page) * PAGE, u64::from(pages) * PAGE);
        let wanted = Wanted { first: 0, len, va, flags: 1 };
        let before = self.before();
        let there = self.grants(user, &wanted).is_some();
        match self.users[user].ask(fd, REGISTER_MEMORY, &bytes(&[24, 0], &[va, len])) {
            Ok(_) => {
                let overlaps =
                    one.registered.iter().find(|&(&held, &bytes)| held < va + len && va < held + bytes);
                self.hub.hold(Promise::Isolation, there && overlaps.is_none(), || {
                    format!("{va:#x} of {len:#x} bytes was registered; there is {overlaps:x?}")
                });
                self.change(id, |one| one.registered.insert(va, len));
                Done::Succeeded
            }
            Err(errno) => self.refused_tce(&before, (id, &one), errno, len / PAGE, "registering"),
        }
    }

    pub(super) fn unregister_memory(&self, user: usize, container: u8, pick: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind == 7) else { return Done::Skipped };
        let place = usize::from(pick) % one.registered.len().max(1);
        let Some((&va, &len)) = one.registered.iter().nth(place) else { return Done::Skipped };
        let before = self.before();
        match self.users[user].ask(fd, UNREGISTER_MEMORY, &bytes(&[24, 0], &[va, len])) {
            Ok(_) => {
                let mapped = (va..va + len).step_by(0x1000).find_map(|at| {
                    let (pa, _) = self.users[user].memory.page(at)?;
                    self.hub.shadow(|shadow| shadow.granted_at(&[one.space], pa, pa + (PAGE - 1)))
                });
                self.hub.hold(Promise::Reclaim, mapped.is_none(), || {
                    format!("{va:#x} of {len:#x} bytes was let go while it is mapped: {mapped:x?}")
                });
                self.change(id, |one| one.registered.remove(&va));
                Done::Succeeded
            }
            Err(errno) => self.refused_tce(&before, (id, &one), errno, 0, "letting memory go"),
        }
    }

    pub(super) fn create_window(&self, user: usize, container: u8, bits: u16) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind == 7) else { return Done::Skipped };
        let place = usize::from(bits);
        let shift = [12u32, 12, 16, 16, 24, 13][place % 6];
        let size = [1u64 << 20, 1 << 22, 1 << 24, 1 << 28, 0x18_0000][place / 6 % 5];
        let levels = [1u32, 1, 2, 3, 5, 6][place / 30 % 6];
        let mut all = bytes(&[40, 0, shift, 0], &[size]);
        all.extend(words(&[levels, 0, 0, 0]));
        let before = self.before();
        match self.users[user].ask(fd, CREATE, &all) {
            Ok(after) => {
                let word = after.get(32..40).map(|word| word.try_into().expect("8 bytes"));
                let start = word.map_or(u64::MAX, u64::from_ne_bytes);
                let number = usize::from(start == SECOND);
                let mut now = one.clone();
                self.default_made(&mut now);
                let free = now.windows[number].is_none_or(|window| window.closing);
                let fits = (start == 0 || start == SECOND) && free && size.is_power_of_two() && shift != 13;
                self.hub.hold(Promise::Reserved, fits, || {
                    format!("a window of {size:#x} bytes at {start:#x} beside {:x?}", now.windows)
                });
                let (last, page) = (start.saturating_add(size - 1), 1 << shift);
                self.change(id, |one| {
                    self.default_made(one);
                    one.windows[number] = Some(Window { first: start, last, page, closing: false });
                });
                Done::Succeeded
            }
            Err(errno) => self.refused_tce(&before, (id, &one), errno, size >> 8, "making a window"),
        }
    }

    pub(super) fn remove_window(&self, user: usize, container: u8, which: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind == 7) else { return Done::Skipped };
        let number = usize::from(which) % 2;
        let start = [0, SECOND][number];
        let cancels = number == 0 && one.pending;
        let before = self.before();
        let ends = one.windows[number].filter(|_| !cancels).map(|window| (window.first, window.last));
        let ranges: Vec<(u64, u64)> = ends.into_iter().collect();
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &ranges));
        match self.users[user].ask(fd, REMOVE, &bytes(&[16, 0], &[start])) {
            Ok(_) => {
                self.hub.hold(Promise::Service, cancels || ends.is_some() || one.doubt, || {
                    format!("a window at {start:#x} was removed that there is not")
                });
                self.settle(one.space, token, true);
                ranges.iter().for_each(|&range| self.settled(&one, range));
                self.change(id, |one| if cancels { one.pending = false } else { one.windows[number] = None });
                self.try_taken(&one, &ranges);
                Done::Succeeded
            }
            Err(Errno::Eio) if self.unconfirmed(&before) || one.doubt => {
                self.change(id, |one| {
                    one.windows[number].iter_mut().for_each(|window| window.closing = true);
                });
                self.not_confirmed(&before, id, &one, token)
            }
            Err(errno) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(one.space, token));
                self.refused_tce(&before, (id, &one), errno, 0, "removing a window")
            }
        }
    }

    pub(super) fn tce_enable(&self, user: usize, container: u8, on: bool) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind == 2) else { return Done::Skipped };
        let before = self.before();
        // Whoever disables takes out what is mapped.
        let ranges = if on { Vec::new() } else { vec![(0, u64::MAX)] };
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &ranges));
        match self.users[user].ioctl(fd, if on { ENABLE } else { DISABLE }, 0) {
            Ok(_) => {
                self.settle(one.space, token, true);
                // Who is disabled already takes nothing out.
                if one.enabled {
                    ranges.iter().for_each(|&range| self.settled(&one, range));
                }
                self.change(id, |one| one.enabled = on);
                Done::Succeeded
            }
            Err(Errno::Eio) if self.unconfirmed(&before) || one.doubt => {
                self.not_confirmed(&before, id, &one, token)
            }
            Err(errno) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(one.space, token));
                self.refused_tce(&before, (id, &one), errno, 1 << 16, "enabling")
            }
        }
    }

    pub(super) fn eeh(&self, user: usize, container: u8, op: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(Container::is_spapr) else { return Done::Skipped };
        let before = self.before();
        let op = u32::from(op);
        let mut all = words(&[40, 0, op]);
        if op == 9 {
            // A read or a write of memory, at the addresses that users map.
            all.extend(words(&[0, 0, 14 + u32::from(self.hub.below(2) == 0)]));
            all.extend(bytes(&[], &[0x4000, 0xffff_f000]));
        }
        all.resize(40, 0);
        let end = self.users[user].ask(fd, EEH_PE_OP, &all);
        match end {
            Ok(_) => {
                self.hub.hold(Promise::Service, op <= 9, || format!("there is no operation {op}"));
                match op {
                    9 => self.injected.store(true, Relaxed),
                    // Others do nothing with a PE that goes on and is in no reset.
                    2 | 3 | 6..=8 if !one.groups.is_empty() => self.injected.store(false, Relaxed),
                    _ => {}
                }
                if matches!(op, 6 | 7) {
                    for &member in one.groups.iter().flat_map(|&group| &self.groups[group].members) {
                        self.reset(member);
                    }
                }
                Done::Succeeded
            }
            Err(errno) => self.refused(&before, errno, "an operation on endpoints"),
        }
    }
}
