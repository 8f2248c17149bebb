//! Files of users: opened, joined, left, and closed in any order; users who die with whatever they have open.
//!
//! Request numbers and layouts are by hand. Observed: Linux 7.3, include/uapi/linux/vfio.h.

use core::sync::atomic::Ordering::Relaxed;

use portcullis::vfio::Errno;

use super::task::Of;
use super::world::{CONTAINERS, Container, Presence, UserWorld};
use super::{Before, Done};
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::BAR_BYTES;
use crate::oracle::Way;
use crate::promise::Promise;

const SET_IOMMU: u32 = 0x3b66;
const GROUP_GET_STATUS: u32 = 0x3b67;
const GROUP_SET_CONTAINER: u32 = 0x3b68;
const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
const GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
/// VFIO_PCI_MSIX_IRQ_INDEX, and where VFIO_PCI_CONFIG_REGION_INDEX begins in a device's file.
const MSIX: u32 = 2;
const CONFIG_REGION: u64 = 7 << 40;
const DEVICE_SET_IRQS: u32 = 0x3b6e;
const DEVICE_RESET: u32 = 0x3b6f;
/// Tables that are made at most for a page of a domain: one a level, but for the first.
const DOORBELL_TABLES: usize = 3;

/// Bytes of words of 32 bits.
pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Bytes of words of 32 bits, and of 64 behind them.
pub(super) fn bytes(head: &[u32], rest: &[u64]) -> Vec<u8> {
    let mut all = words(head);
    all.extend(rest.iter().flat_map(|word| word.to_ne_bytes()));
    all
}

impl UserWorld {
    pub(super) fn open_container(&self, user: usize) -> Done {
        let free = (0..CONTAINERS)
            .map(|place| user * CONTAINERS + place)
            .find(|&id| locked(&self.containers)[id].is_none());
        let (Some(id), Ok(file)) = (free, self.vfio.open("/dev/vfio/vfio")) else { return Done::Skipped };
        match self.users[user].opened(Of::Container(id), file) {
            Ok(_) => {
                let space = self.hub.shadow(|shadow| shadow.add_space());
                locked(&self.book.spaces).push(space);
                locked(&self.containers)[id] = Some(Container::new(user, space));
                Done::Succeeded
            }
            Err(_) => Done::Refused,
        }
    }

    pub(super) fn open_group(&self, user: usize, group: u8) -> Done {
        let group = usize::from(group) % self.groups.len();
        let held = locked(&self.groups[group].held).clone();
        match self.vfio.open(&format!("/dev/vfio/{group}")) {
            Ok(file) => {
                let alone = held.files == 0;
                self.hub.hold(Promise::OneOwner, alone, || {
                    format!("group {group} is user {:?}'s, and was opened by user {user}", held.opener)
                });
                match self.users[user].opened(Of::Group(group), file) {
                    Ok(_) => {
                        let mut held = locked(&self.groups[group].held);
                        (held.opener, held.files) = (Some(user), 1);
                        Done::Succeeded
                    }
                    Err(_) => Done::Refused,
                }
            }
            Err(errno) => {
                let fits = match errno {
                    Errno::Ebusy => held.files > 0,
                    Errno::Enoent => self.members(group).is_empty(),
                    _ => false,
                };
                self.hub.hold(Promise::Service, fits, || format!("group {group} does not open: {errno:?}"));
                Done::Refused
            }
        }
    }

    /// A group that a user has open.
    fn own_group(&self, user: usize, pick: u8) -> Option<(i32, usize)> {
        let files = self.users[user].open_files();
        let groups = files.into_iter().filter_map(|(fd, of)| match of {
            Of::Group(group) => Some((fd, group)),
            _ => None,
        });
        let groups: Vec<(i32, usize)> = groups.collect();
        groups.get(usize::from(pick) % groups.len().max(1)).copied()
    }

    /// A device that he has open.
    fn own_device(&self, user: usize, pick: u8) -> Option<(i32, usize)> {
        let files = self.users[user].open_files();
        let devices = files.into_iter().filter_map(|(fd, of)| match of {
            Of::Device(device) => Some((fd, device)),
            _ => None,
        });
        let devices: Vec<(i32, usize)> = devices.collect();
        devices.get(usize::from(pick) % devices.len().max(1)).copied()
    }

    /// A group joins a container, the first or one more.
    pub(super) fn set_container(&self, user: usize, group: u8, container: u8) -> Done {
        let Some((fd, group)) = self.own_group(user, group) else { return Done::Skipped };
        let Some((id, file)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(target) = self.container(id) else { return Done::Skipped };
        let before = self.before();
        let held = locked(&self.groups[group].held).clone();
        let to = if target.kind == 0 { Way::Blocked } else { Way::Space(target.space) };
        if held.container.is_none() {
            self.begin_move(group, to);
        }
        let viable = self.viable(user, fd);
        let end = self.users[user].ask(fd, GROUP_SET_CONTAINER, &file.to_ne_bytes());
        match end {
            Ok(_) => {
                let free = held.container.is_none() && held.drivers == 0;
                self.hub.hold(Promise::OneOwner, free && viable != Some(false), || {
                    format!("group {group} joined a container: {held:?}, viable: {viable:?}")
                });
                self.end_move(group, to);
                self.tried_again(id, true);
                self.nothing_reserved(group, &target);
                locked(&self.groups[group].held).container = Some(id);
                self.change(id, |one| {
                    one.pending |= one.is_spapr() && one.groups.is_empty();
                    one.groups.push(group);
                });
                Done::Succeeded
            }
            Err(errno) => {
                if held.container.is_none() {
                    self.back(group, &before);
                    self.tried_again(id, false);
                }
                if self.unconfirmed(&before) {
                    self.change(id, |one| one.doubt = true);
                }
                // The first of a container finds nothing that it could not be with.
                let first = held.container.is_none() && target.kind == 0 && target.groups.is_empty();
                let owed = first && held.drivers == 0 && viable == Some(true);
                self.was_owed(&before, owed, || format!("group {group} joins no container: {errno:?}"));
                let kernels = held.drivers > 0;
                let fits =
                    !kernels || matches!(errno, Errno::Ebusy | Errno::Eperm) || held.container.is_some();
                self.hub.hold(Promise::OneOwner, fits, || {
                    format!("group {group} has drivers of the kernel's, and does not join: {errno:?}")
                });
                self.refused(&before, errno, "joining")
            }
        }
    }

    /// Whether VFIO says that nobody stands in a user's way.
    fn viable(&self, user: usize, fd: i32) -> Option<bool> {
        let status = self.users[user].ask(fd, GROUP_GET_STATUS, &words(&[8, 0])).ok()?;
        Some(status.get(4).is_some_and(|flags| flags & 1 == 1))
    }

    /// Nothing is mapped where a group that joined must find nothing.
    fn nothing_reserved(&self, group: usize, container: &Container) {
        for &member in &self.groups[group].members {
            let Some((first, last)) = self.reserved(member) else { continue };
            let there = self.hub.shadow(|shadow| shadow.live_in(container.space, first, last));
            self.hub.hold(Promise::Reserved, there.is_empty(), || {
                format!(
                    "group {group} joined where its reserved {first:#x}..={last:#x} is mapped: {there:x?}"
                )
            });
        }
    }

    /// What nobody may map for a device.
    pub(super) fn reserved(&self, device: usize) -> Option<(u64, u64)> {
        self.devices[device].spec.reserved.filter(|_| !self.is_power())
    }

    /// A group that did not move, or went back to the kernel.
    fn back(&self, group: usize, before: &Before) {
        // What hardware did not confirm may be on either side.
        if !self.unconfirmed(before) {
            self.end_move(group, Way::Space(self.groups[group].space));
        }
        locked(&self.groups[group].held).stuck |= self.fired(before);
    }

    pub(super) fn unset_container(&self, user: usize, group: u8) -> Done {
        let Some((fd, group)) = self.own_group(user, group) else { return Done::Skipped };
        let held = locked(&self.groups[group].held).clone();
        if held.container.is_none() {
            return Done::Skipped;
        }
        if held.files > 1 {
            // Its devices are open: it must not leave.
            let before = self.before();
            let end = self.users[user].ioctl(fd, GROUP_UNSET_CONTAINER, 0);
            self.hub.hold(Promise::OneOwner, end == Err(Errno::Ebusy), || {
                format!("group {group} left while its devices are open: {end:?}")
            });
            return self.refused(&before, Errno::Ebusy, "leaving");
        }
        let end = self.leave(&[group], || self.users[user].ioctl(fd, GROUP_UNSET_CONTAINER, 0));
        self.hub.hold(Promise::Service, end.is_ok(), || format!("group {group} does not leave: {end:?}"));
        Done::Succeeded
    }

    /// Groups leave their containers.
    fn leave<T>(&self, groups: &[usize], act: impl FnOnce() -> T) -> T {
        let before = self.before();
        let leaving: Vec<(usize, usize)> = groups
            .iter()
            .filter_map(|&group| Some((group, locked(&self.groups[group].held).container?)))
            .collect();
        let mut emptied = Vec::new();
        for id in 0..self.users.len() * CONTAINERS {
            let empties = |one: &&Container| {
                let mut groups = one.groups.iter();
                !one.groups.is_empty() && groups.all(|group| leaving.contains(&(*group, id)))
            };
            let emptied_now = locked(&self.containers)[id].as_ref().filter(empties).cloned();
            if let Some(one) = emptied_now {
                let token = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &[(0, u64::MAX)]));
                emptied.push((id, one, token));
            }
        }
        for &(group, _) in &leaving {
            self.begin_move(group, Way::Space(self.groups[group].space));
        }
        let end = act();
        let confirmed = !self.unconfirmed(&before);
        for &(group, id) in &leaving {
            self.back(group, &before);
            let mut held = locked(&self.groups[group].held);
            (held.container, held.doorbell) = (None, false);
            drop(held);
            self.change(id, |one| {
                one.groups.retain(|held| *held != group);
                one.doubt |= !confirmed;
            });
        }
        for (id, one, token) in emptied {
            self.settle(one.space, token, confirmed && !one.doubt);
            if confirmed {
                // What waited was tried again with the rest.
                self.hub.shadow(|shadow| shadow.forgotten(one.space, 0, u64::MAX));
            }
            self.change(id, Container::strip);
        }
        end
    }

    pub(super) fn set_iommu(&self, user: usize, container: u8, kind: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id) else { return Done::Skipped };
        let (usual, others) =
            if self.is_power() { ([7, 7, 7, 2], [1, 3, 5]) } else { ([3, 3, 3, 1], [2, 7, 9]) };
        let place = usize::from(kind);
        let kind = if place < 14 { usual[place % 4] } else { others[place % 3] };
        let before = self.before();
        let fresh = one.kind == 0 && !one.groups.is_empty();
        // What must be refused is tried now and then.
        if !fresh && place & 7 != 0 {
            return Done::Skipped;
        }
        if fresh {
            one.groups.iter().for_each(|&group| self.begin_move(group, Way::Space(one.space)));
        }
        match self.users[user].ioctl(fd, SET_IOMMU, kind) {
            Ok(_) => {
                let usable = fresh && usual.contains(&kind);
                self.hub.hold(Promise::Service, usable, || format!("a container became {kind}: {one:?}"));
                one.groups.iter().for_each(|&group| self.end_move(group, Way::Space(one.space)));
                let since = self.hub.shadow(|shadow| shadow.newest());
                self.change(id, |one| {
                    (one.kind, one.pending, one.since) = (kind, matches!(kind, 2 | 7), since);
                });
                Done::Succeeded
            }
            Err(errno) => {
                let doubt = self.unconfirmed(&before);
                if fresh && !doubt {
                    one.groups.iter().for_each(|&group| self.end_move(group, Way::Blocked));
                }
                self.change(id, |one| one.doubt |= doubt);
                // Version 1 of POWER's has one window, of one group.
                let owed = fresh && usual.contains(&kind) && (kind != 2 || one.groups.len() == 1);
                self.was_owed(&before, owed, || format!("a container does not become {kind}: {errno:?}"));
                self.refused(&before, errno, "setting the IOMMU")
            }
        }
    }

    /// A call was refused: was it owed to whoever made it, if nothing is in its way?
    fn was_owed(&self, before: &Before, owed: bool, what: impl FnOnce() -> String) {
        let excused = self.fired(before) || self.doubted();
        self.hub.hold(Promise::Service, !owed || excused, what);
    }

    pub(super) fn open_device(&self, user: usize, device: u8) -> Done {
        let Some((fd, group)) = self.own_group(user, device) else { return Done::Skipped };
        let members = &self.groups[group].members;
        let index = members[usize::from(device) % members.len()];
        let held = locked(&self.groups[group].held).clone();
        let before = self.before();
        let name = format!("device{index}\0").into_bytes();
        let kind = held.container.and_then(|id| self.container(id)).map_or(0, |one| one.kind);
        match self.users[user].ask_file(fd, GROUP_GET_DEVICE_FD, &name, Of::Device(index)) {
            Ok(_) => {
                self.function_is_sound(index);
                self.hub.hold(Promise::OneOwner, kind != 0 && held.drivers == 0, || {
                    format!("device {index} was opened, and its group is nobody's: {held:?}")
                });
                locked(&self.groups[group].held).files += 1;
                Done::Succeeded
            }
            Err(errno) => {
                let there = self.devices[index].presence() == Presence::In;
                let owed = there && kind != 0 && held.drivers == 0 && errno != Errno::Emfile;
                self.was_owed(&before, owed, || format!("device {index} is not opened: {errno:?}"));
                self.refused(&before, errno, "opening a device")
            }
        }
    }

    pub(super) fn device_reset(&self, user: usize, device: u8) -> Done {
        let Some((fd, index)) = self.own_device(user, device) else { return Done::Skipped };
        let resets = self.devices[index].function().resets();
        let end = self.users[user].ioctl(fd, DEVICE_RESET, 0);
        let now = self.devices[index].function().resets();
        self.hub.hold(Promise::Service, now == resets + 1, || {
            format!("device {index} was reset {} times", now - resets)
        });
        self.function_is_sound(index);
        self.hub.hold(Promise::Service, end.is_ok(), || format!("device {index} is not reset: {end:?}"));
        self.reset(index)
    }

    pub(super) fn set_irqs(&self, user: usize, device: u8, bits: u8) -> Done {
        let task = &self.users[user];
        let Some((fd, index)) = self.own_device(user, device) else { return Done::Skipped };
        let (start, count) = (u32::from(bits & 3), u32::from(bits >> 2 & 3));
        let mut all = match bits >> 4 & 3 {
            // None at all; a signal; event files.
            0 => words(&[20, 0b10_0001, MSIX, 0, 0]),
            1 => words(&[20, 0b10_0001, MSIX, start, 1]),
            _ => words(&[20 + 4 * count, 0b10_0100, MSIX, start, count]),
        };
        let mut events = Vec::new();
        if bits >> 4 & 3 > 1 {
            for _ in 0..count {
                let event = task.event();
                all.extend(event.unwrap_or(-1).to_ne_bytes());
                events.extend(event);
            }
        }
        let mut before = self.before();
        let group = self.devices[index].spec.group;
        // The place for a domain's doorbell stays when it was made, whatever becomes of the call.
        let first = !events.is_empty() && !locked(&self.groups[group].held).doorbell;
        before.may_add = if first { DOORBELL_TABLES } else { 0 };
        let end = task.ask(fd, DEVICE_SET_IRQS, &all);
        let made = !events.is_empty() && end.is_ok() || self.before().blocks > before.blocks;
        locked(&self.groups[group].held).doorbell |= made;
        // The device keeps what it was given.
        events.into_iter().for_each(|event| task.close(event));
        self.devices[index].function().raise(usize::from(bits));
        self.function_is_sound(index);
        match end {
            Ok(_) => Done::Succeeded,
            Err(errno) => self.refused(&before, errno, "setting interrupts"),
        }
    }

    /// Nobody has a function do what it must not.
    fn function_is_sound(&self, index: usize) {
        let wrong = self.devices[index].function().what_is_wrong();
        self.hub.hold(Promise::Isolation, wrong.is_none(), || {
            format!("device {index}: {}", wrong.unwrap_or_default())
        });
    }

    /// A user reads or writes words of a device: its registers, or its configuration space.
    pub(super) fn region(&self, user: usize, device: u8, bits: u64) -> Done {
        let Some((fd, index)) = self.own_device(user, device) else { return Done::Skipped };
        let place = bits >> 8 & 0x3ffc;
        let (write, at) = match bits & 7 {
            0 | 1 => (false, place),
            2 | 3 => (true, place),
            4 => (false, CONFIG_REGION | place & 0xffc),
            5 => (true, CONFIG_REGION | place & 0xffc),
            // Its command, its base address register, the control of its express and MSI-X capabilities.
            6 => {
                (true, CONFIG_REGION | [0x04, 0x10, 0x48, 0x80][usize::try_from(bits >> 8 & 3).unwrap_or(0)])
            }
            _ => (true, u64::from(BAR_BYTES) + place),
        };
        let word = u32::try_from(bits >> 32).expect("32 bits");
        let resets = self.devices[index].function().resets();
        let end = self.users[user].transfer(fd, write, at, &word.to_ne_bytes());
        self.function_is_sound(index);
        let in_table = (0x2000..0x2040).contains(&at);
        let told = end.as_ref().is_ok_and(|read| *read == [0xff; 4]);
        self.hub.hold(Promise::Isolation, write || !in_table || end.is_err() || told, || {
            format!("device {index} shows a word of its message table: {end:x?}")
        });
        // Memory that he has turned off, or that is not there.
        let lawful = matches!(end, Ok(_) | Err(Errno::Eio | Errno::Einval));
        self.hub.hold(Promise::Service, lawful, || format!("device {index} at {at:#x}: {end:?}"));
        // What he wrote may have been its reset.
        if self.devices[index].function().resets() > resets {
            self.reset(index);
        }
        if end.is_ok() { Done::Succeeded } else { Done::Refused }
    }

    /// A user closes some file.
    pub(super) fn close(&self, user: usize, pick: u8) -> Done {
        let files = self.users[user].open_files();
        let Some(&(fd, of)) = files.get(usize::from(pick) % files.len().max(1)) else { return Done::Skipped };
        self.close_file(user, fd, of);
        Done::Succeeded
    }

    fn close_file(&self, user: usize, fd: i32, of: Of) {
        let task = &self.users[user];
        match of {
            Of::Event => task.close(fd),
            Of::Container(id) => {
                task.close(fd);
                self.change(id, |one| one.open = false);
            }
            Of::Group(group) => self.one_file_less(group, || task.close(fd)),
            Of::Device(device) => {
                self.one_file_less(self.devices[device].spec.group, || task.close(fd));
                let state = &self.devices[device];
                if task.find(of).is_none() {
                    self.hub.hold(
                        Promise::OneOwner,
                        !state.function().is_open() && state.function().connected() == 0,
                        || format!("device {device} was closed, and goes on"),
                    );
                    self.function_is_sound(device);
                }
            }
        }
        self.forget_containers();
    }

    fn one_file_less(&self, group: usize, act: impl FnOnce()) {
        let files = locked(&self.groups[group].held).files;
        if files > 1 {
            act();
            locked(&self.groups[group].held).files = files - 1;
            return;
        }
        self.leave(&[group], act);
        let mut held = locked(&self.groups[group].held);
        (held.opener, held.files) = (None, 0);
    }

    /// Containers that nobody has are gone, and so is what they let reach.
    fn forget_containers(&self) {
        for one in locked(&self.containers).iter_mut() {
            let Some(gone) = one.take_if(|one| !one.open && one.groups.is_empty()) else { continue };
            if gone.doubt {
                locked(&self.left).push(gone.space);
            } else {
                self.forget_space(gone.space);
            }
        }
    }

    fn forget_space(&self, space: usize) {
        locked(&self.book.spaces).retain(|held| *held != space);
        for device in 0..self.devices.len() {
            // Where it is, nobody could say; nothing is left of where it was.
            let kernel = Way::Space(self.group_of(device).space);
            self.hub.shadow(|shadow| shadow.forsake(device, space, kernel));
        }
        self.hub.shadow(|shadow| shadow.remove_space(space));
    }

    /// A user dies: his files are closed, in the order of their numbers or in the contrary one.
    pub(super) fn die(&self, user: usize) -> Done {
        let mut files = self.users[user].open_files();
        if files.is_empty() {
            return Done::Skipped;
        }
        self.hub.faults.happened(FaultKind::UserDies);
        if self.hub.below(2) == 0 {
            files.reverse();
        }
        for (fd, of) in files {
            self.close_file(user, fd, of);
        }
        if !self.doubted() {
            let memory = &self.users[user].memory;
            let (pinned, charged) = (memory.pinned.load(Relaxed), memory.locked.load(Relaxed));
            self.hub.hold(Promise::NoLeak, pinned == 0 && charged == 0, || {
                format!("user {user} is dead, {pinned} pages stay pinned, and {charged} charged")
            });
        }
        Done::Succeeded
    }

    /// What containers left behind is tried again.
    pub(super) fn reclaim(&self) -> Done {
        let before = self.before();
        let left = self.vfio.reclaim();
        let gone = core::mem::take(&mut *locked(&self.left));
        if left > 0 || self.unconfirmed(&before) {
            let doubted = !gone.is_empty() || self.doubted() || self.fired(&before);
            self.hub.hold(Promise::NoLeak, doubted, || {
                format!("{left} pages are kept, and hardware has confirmed everything")
            });
            locked(&self.left).extend(gone);
            return Done::Refused;
        }
        gone.into_iter().for_each(|space| self.forget_space(space));
        Done::Succeeded
    }

    /// Any bytes as the argument of any request on any file: it must be refused, or be harmless.
    pub(super) fn bad_bytes(&self, user: usize, pick: u8, request: u8, bits: u64) -> Done {
        let task = &self.users[user];
        let files = task.open_files();
        let Some(&(fd, of)) = files.get(usize::from(pick) % files.len().max(1)) else { return Done::Skipped };
        let request = 0x3b64 + u32::from(request);
        let before = self.before();
        // What could succeed with some bytes is asked for with an argument that leads nowhere, or too short a size.
        let nowhere = 0xdead_0000 | bits & 0xfff8;
        let end = match (of, request) {
            (Of::Event, _) => return Done::Skipped,
            // These take no pointer.
            (Of::Container(_), 0x3b64 | 0x3b65) => task.ioctl(fd, request, bits),
            (Of::Container(_), 0x3b66 | 0x3b73 | 0x3b74) => return Done::Skipped,
            (Of::Group(_), 0x3b69) | (Of::Device(_), 0x3b6f) => return Done::Skipped,
            (Of::Group(_), 0x3b68) => task.ask(fd, request, &(1000 + pick as i32).to_ne_bytes()).map(|_| 0),
            _ if bits & 1 == 0 => task.ioctl(fd, request, nowhere),
            _ => {
                let short = u32::try_from(bits >> 8 & 7).expect("3 bits");
                let all = bytes(&[short, 0], &[bits, bits.rotate_left(17), bits.rotate_left(31)]);
                task.ask(fd, request, &all).map(|_| 0)
            }
        };
        let asks = matches!(request, 0x3b64 | 0x3b65) && matches!(of, Of::Container(_));
        self.hub.hold(Promise::Service, asks || end.is_err(), || {
            format!("{of:?} took nonsense for request {request:#x}: {end:?}")
        });
        match end {
            Ok(_) => Done::Succeeded,
            Err(errno) => self.refused(&before, errno, "nonsense"),
        }
    }
}
