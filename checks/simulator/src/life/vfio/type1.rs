//! Mapping by users: what both kinds of containers have in common, and what type 1 has of its own.

use portcullis::vfio::Errno;

use super::files::bytes;
use super::task::{PAGE, VA};
use super::world::{Container, MapState, Mapped, SECOND, UserWorld, Window};
use super::{Before, Done};
use crate::oracle::{Grant, Token};
use crate::promise::Promise;

const IOMMU_MAP_DMA: u32 = 0x3b71;
const IOMMU_UNMAP_DMA: u32 = 0x3b72;
const UNMAP_ALL: u32 = 2;

/// Where users of type 1 map: reserved regions of some devices lie among these.
const BASES: [u64; 4] = [0x000e_0000, 0xeffe_0000, 0xfffe_0000, 0x0008_0000];

/// What a user asks to be mapped.
pub(super) struct Wanted {
    pub(super) first: u64,
    pub(super) len: u64,
    pub(super) va: u64,
    pub(super) flags: u32,
}

impl Wanted {
    pub(super) fn last(&self) -> u64 {
        self.first + (self.len - 1)
    }

    pub(super) fn writes(&self) -> bool {
        self.flags & 2 != 0
    }
}

impl UserWorld {
    /// What a user's pages are, one by one as the device will see them; none if some are not there, or not for this.
    pub(super) fn grants(&self, user: usize, wanted: &Wanted) -> Option<Vec<Grant>> {
        let grants = self.grants_before(user, wanted);
        let complete = grants.last().is_some_and(|last| last.last == wanted.last());
        complete.then_some(grants)
    }

    /// The same, up to the first page that is not there, or not for this.
    pub(super) fn grants_before(&self, user: usize, wanted: &Wanted) -> Vec<Grant> {
        let mut grants: Vec<Grant> = Vec::new();
        let (owed_read, write) = (wanted.flags & 1 != 0, wanted.writes());
        for offset in (0..wanted.len).step_by(0x1000) {
            let page = self.users[user].memory.page(wanted.va + offset);
            let Some((pa, _)) = page.filter(|&(_, writable)| writable || !write) else { break };
            let first = wanted.first + offset;
            match grants.last_mut() {
                Some(last) if last.pa + (first - last.first) == pa => last.last = first + (PAGE - 1),
                _ => grants.push(Grant {
                    first,
                    last: first + (PAGE - 1),
                    pa,
                    read: true,
                    owed_read,
                    write,
                    owed_write: write,
                    since: self.step(),
                }),
            }
        }
        grants
    }

    pub(super) fn map_dma(
        &self,
        user: usize,
        container: u8,
        place: u16,
        (page, pages): (u8, u8),
        flags: u8,
    ) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind != 0) else { return Done::Skipped };
        let (place, mut page, mut pages) = (u64::from(place), u64::from(page), u64::from(pages));
        let first = if one.is_spapr() {
            // One window or the other, and now and then where none is.
            let window = usize::from(place & 3 == 3);
            let unit = one.windows[window].map_or(PAGE, |window| window.page);
            if unit > PAGE && unit <= 16 * PAGE {
                (page, pages) = (page & !15, pages.next_multiple_of(16));
            }
            [0, SECOND][window] + (place >> 2) * unit
        } else {
            BASES[usize::try_from(place >> 6 & 3).expect("two bits")] + (place & 0x3f) * PAGE
        };
        let wanted = Wanted { first, len: pages * PAGE, va: VA + page * PAGE, flags: u32::from(flags) };
        if one.is_spapr() {
            self.map_tce(id, &one, fd, &wanted)
        } else {
            self.map_type1(id, &one, fd, &wanted)
        }
    }

    /// Makes the call that maps.
    pub(super) fn ask_map(&self, user: usize, fd: i32, wanted: &Wanted) -> Result<(), Errno> {
        let all = bytes(&[32, wanted.flags], &[wanted.va, wanted.first, wanted.len]);
        self.users[user].ask(fd, IOMMU_MAP_DMA, &all).map(drop)
    }

    pub(super) fn runs(grants: &[Grant]) -> Vec<(u64, u64)> {
        grants.iter().map(|grant| (grant.pa, grant.last - grant.first + 1)).collect()
    }

    fn map_type1(&self, id: usize, one: &Container, fd: i32, wanted: &Wanted) -> Done {
        let before = self.before();
        let grants = self.grants(one.user, wanted);
        let runs = grants.as_deref().map(Self::runs).unwrap_or_default();
        let token = self.hub.shadow(|shadow| shadow.begin_map(one.space, &runs, true, wanted.writes()));
        let there = self.hub.shadow(|shadow| shadow.live_in(one.space, wanted.first, wanted.last()));
        let forbidden = self.forbidden(one, wanted);
        match self.ask_map(one.user, fd, wanted) {
            Ok(()) => {
                self.hub.hold(Promise::NoReuse, there.is_empty(), || {
                    format!("{:#x} was mapped over {there:x?}", wanted.first)
                });
                self.hub.hold(Promise::Reserved, forbidden.is_none(), || {
                    format!("{:#x} of {:#x} bytes was mapped over {forbidden:x?}", wanted.first, wanted.len)
                });
                self.mapped(id, one, token, grants, wanted);
                // What was there and had not been confirmed has been since, or it would be in the way.
                let gone = one.mapped_in(wanted.first, wanted.last());
                let unknown = gone.iter().all(|(_, mapped)| mapped.is_unknown());
                self.hub.hold(Promise::NoReuse, unknown || one.doubt, || {
                    format!("{:#x} was mapped, and {gone:x?} waits to be unmapped", wanted.first)
                });
                // In doubt it may be a shorter one that waits there, beside what is mapped now.
                self.noted_as_gone(id, &gone);
                if !one.doubt {
                    self.forgotten(one.space, &gone);
                }
                self.change(id, |one| one.maps.insert(wanted.first, Mapped::live(wanted.len)));
                Done::Succeeded
            }
            Err(errno) => {
                self.not_mapped(one, &before, token, grants.as_deref().unwrap_or_default());
                let pages = wanted.len / PAGE;
                let waits = one.mapped_in(wanted.first, wanted.last());
                let lawful = match errno {
                    Errno::Eexist => !there.is_empty() || !waits.is_empty() || one.doubt,
                    Errno::Efault => grants.is_none() || self.fired(&before),
                    Errno::Einval => forbidden.is_some() || one.groups.is_empty(),
                    Errno::Enomem => {
                        self.users[one.user].memory.is_over(pages) || self.fired(&before) || one.doubt
                    }
                    Errno::Eio => self.fired(&before) || one.doubt,
                    _ => false,
                };
                self.hub.hold(Promise::Service, lawful, || {
                    format!("{:#x} of {:#x} bytes: {errno:?}; there is {there:x?}", wanted.first, wanted.len)
                });
                let maybe = there.is_empty() && waits.iter().all(|(_, mapped)| mapped.is_unknown());
                if self.unconfirmed(&before) && maybe && errno != Errno::Eexist {
                    self.may_be_left(id, wanted);
                }
                let errno = if errno == Errno::Enomem && lawful { Errno::Enospc } else { errno };
                self.refused(&before, errno, "mapping")
            }
        }
    }

    /// A map was refused. Some of it may have been mapped for a moment: then it is left for its user to unmap, unless that is something else which was left there before.
    pub(super) fn may_be_left(&self, id: usize, wanted: &Wanted) {
        let left = Mapped { len: wanted.len, state: MapState::Unknown };
        self.change(id, |one| match one.maps.get(&wanted.first) {
            // Which of the two, nobody can say.
            Some(other) if other.len != left.len => one.doubt = true,
            _ => _ = one.maps.insert(wanted.first, left),
        });
    }

    /// What a member of a container forbids.
    fn forbidden(&self, one: &Container, wanted: &Wanted) -> Option<(u64, u64)> {
        let members = one.groups.iter().flat_map(|&group| &self.groups[group].members);
        members
            .filter_map(|&member| self.reserved(member))
            .find(|&(first, last)| first <= wanted.last() && last >= wanted.first)
    }

    /// A map has returned: from now on its pages may be reached.
    pub(super) fn mapped(
        &self,
        id: usize,
        one: &Container,
        token: Token,
        grants: Option<Vec<Grant>>,
        wanted: &Wanted,
    ) {
        self.hub.hold(Promise::Isolation, grants.is_some(), || {
            format!(
                "{:#x} of {:#x} bytes was mapped for container {id}, and is not its user's",
                wanted.va, wanted.len
            )
        });
        for grant in grants.into_iter().flatten() {
            self.hub.shadow(|shadow| shadow.grant_over(one.space, grant));
        }
        let ended = self.hub.shadow(|shadow| shadow.end_map(one.space, token, false));
        self.hub.judged(ended);
    }

    /// A map was refused. If hardware did not confirm that it forgot, the pages that were there for a moment (`grants`) may be reached for as long as they are pinned.
    pub(super) fn not_mapped(&self, one: &Container, before: &Before, token: Token, grants: &[Grant]) {
        let doubt = self.unconfirmed(before);
        let ended = self.hub.shadow(|shadow| {
            if doubt {
                shadow.doubt(one.space, token, grants);
            }
            shadow.end_map(one.space, token, false)
        });
        self.hub.judged(ended);
    }

    /// Some mappings of a container's are gone, and hardware has confirmed to have forgotten them.
    fn gone(&self, id: usize, space: crate::oracle::SpaceId, gone: &[(u64, Mapped)]) {
        self.noted_as_gone(id, gone);
        self.forgotten(space, gone);
    }

    fn noted_as_gone(&self, id: usize, gone: &[(u64, Mapped)]) {
        self.change(id, |one| one.maps.retain(|first, _| !gone.iter().any(|(at, _)| at == first)));
    }

    fn forgotten(&self, space: crate::oracle::SpaceId, gone: &[(u64, Mapped)]) {
        for &(first, mapped) in gone {
            self.hub.shadow(|shadow| shadow.forgotten(space, first, first + (mapped.len - 1)));
        }
    }

    /// A group has joined, or not: what hardware had not confirmed was tried again before.
    pub(super) fn tried_again(&self, id: usize, confirmed: bool) {
        let Some(one) = self.container(id) else { return };
        let waiting = one.mapped_in(0, u64::MAX).into_iter().filter(|(_, mapped)| mapped.waits());
        if confirmed {
            self.gone(id, one.space, &waiting.collect::<Vec<_>>());
            return;
        }
        self.change(id, |one| {
            let waiting = one.maps.values_mut().filter(|mapped| mapped.waits());
            waiting.for_each(|mapped| mapped.state = MapState::Unknown);
        });
    }

    pub(super) fn unmap_dma(&self, user: usize, container: u8, pick: u16, bits: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind != 0) else { return Done::Skipped };
        if one.is_spapr() {
            return self.unmap_tce(id, &one, fd, pick, bits);
        }
        let place = usize::from(pick) % one.maps.len().max(1);
        let Some((&first, mapped)) = one.maps.iter().nth(place) else { return Done::Skipped };
        // All of it; or a part, or more.
        let (first, len) = match bits & 7 {
            0 => (first, mapped.len + PAGE),
            1 if mapped.len > PAGE => (first + PAGE, mapped.len - PAGE),
            2 => (first.saturating_sub(16 * PAGE), mapped.len + 32 * PAGE),
            _ => (first, mapped.len),
        };
        self.unmap_range(id, &one, fd, (first, first + (len - 1)), &bytes(&[24, 0], &[first, len]))
    }

    pub(super) fn unmap_all(&self, user: usize, container: u8) -> Done {
        let Some((id, fd)) = self.container_of(user, container) else { return Done::Skipped };
        let Some(one) = self.container(id).filter(|one| one.kind != 0) else { return Done::Skipped };
        if one.is_spapr() {
            let before = self.before();
            let end = self.users[user].ask(fd, IOMMU_UNMAP_DMA, &bytes(&[24, UNMAP_ALL], &[0, 0]));
            let refused = end.err().unwrap_or(Errno::Eio);
            return self.refused(&before, refused, "unmapping all");
        }
        self.unmap_range(id, &one, fd, (0, u64::MAX), &bytes(&[24, UNMAP_ALL], &[0, 0]))
    }

    /// An unmap by type 1: of whole mappings, or (version 1) of those that begin inside.
    fn unmap_range(&self, id: usize, one: &Container, fd: i32, ends: (u64, u64), all: &[u8]) -> Done {
        let inside = |first: u64, mapped: &Mapped| first >= ends.0 && first + (mapped.len - 1) <= ends.1;
        let hit = one.mapped_in(ends.0, ends.1);
        let lowest = hit.first().filter(|(first, _)| *first < ends.0);
        if one.kind == 1 && lowest.is_some_and(|(_, mapped)| mapped.is_unknown()) {
            // What that does nobody could say.
            return Done::Skipped;
        }
        let cut = hit.iter().any(|(first, mapped)| !mapped.is_unknown() && !inside(*first, mapped));
        // Version 1 takes nothing where the lowest begins before, and else all of what it hits; version 2 nothing where one would be cut.
        let taken =
            if (one.kind == 1 && lowest.is_some()) || (one.kind == 3 && cut) { Vec::new() } else { hit };
        let range = |(first, mapped): &(u64, Mapped)| (*first, first + (mapped.len - 1));
        let ranges: Vec<(u64, u64)> = taken.iter().map(range).collect();
        let before = self.before();
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(one.space, &ranges));
        match self.users[one.user].ask(fd, IOMMU_UNMAP_DMA, all) {
            Ok(after) => {
                let sum = |sure: bool| -> u64 {
                    taken
                        .iter()
                        .filter(|(_, mapped)| !(sure && mapped.is_unknown()))
                        .map(|(_, mapped)| mapped.len)
                        .sum()
                };
                let (least, most) = (sum(true), sum(false));
                let said =
                    after.get(16..24).map_or(0, |word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
                self.hub.hold(Promise::Service, (least..=most).contains(&said) || one.doubt, || {
                    format!(
                        "{said:#x} bytes were unmapped, and {least:#x} to {most:#x} were mapped in {ends:x?}"
                    )
                });
                if said == 0 && least > 0 {
                    // In doubt something longer may begin before the range, and keep version 1 from taking anything.
                    self.hub.shadow(|shadow| shadow.undo_unmap(one.space, token));
                    return Done::Succeeded;
                }
                self.settle(one.space, token, true);
                self.gone(id, one.space, &taken);
                self.try_taken(one, &ranges);
                Done::Succeeded
            }
            Err(Errno::Eio) if self.unconfirmed(&before) || one.doubt => {
                self.settle(one.space, token, false);
                self.change(id, |one| {
                    let taken =
                        taken.iter().filter(|(first, mapped)| inside(*first, mapped) || one.kind == 1);
                    for (first, _) in taken {
                        if let Some(mapped) = one.maps.get_mut(first).filter(|mapped| !mapped.waits()) {
                            mapped.state = MapState::Stale;
                        }
                    }
                });
                Done::Refused
            }
            Err(errno) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(one.space, token));
                let cut = one.mapped_in(ends.0, ends.1).iter().any(|(first, mapped)| !inside(*first, mapped));
                let lawful = one.kind == 3 && cut && errno == Errno::Einval;
                self.hub.hold(Promise::Service, lawful || self.fired(&before) || one.doubt, || {
                    format!("an unmap of {ends:x?}: {errno:?}")
                });
                self.refused(&before, errno, "unmapping")
            }
        }
    }

    /// Hardware has not confirmed that it forgot what a call of a container's took away.
    pub(super) fn not_confirmed(&self, before: &Before, id: usize, one: &Container, token: Token) -> Done {
        self.settle(one.space, token, false);
        let (fired, unconfirmed) = (self.hub.faults.count(), self.hub.faults.unconfirmed());
        // Who lacks memory besides asks hardware in between, and stops there: what is behind that is mapped still, and nobody says where it begins.
        let whole = fired - before.fired == unconfirmed - before.unconfirmed;
        self.change(id, |one| {
            one.doubt = true;
            one.since = if whole { one.since } else { Token::MAX };
        });
        Done::Refused
    }

    /// Right after an unmap has returned: is it closed?
    pub(super) fn try_taken(&self, one: &Container, ranges: &[(u64, u64)]) {
        let member = one.groups.first().and_then(|&group| self.groups[group].members.first());
        if let (Some(&member), Some(&(first, _))) = (member, ranges.first()) {
            self.note_stale(member, first);
            if self.hub.below(2) == 0 {
                let _refused = self.access(member, 0, first, 8, true);
                self.thaw(member);
            }
        }
    }

    /// The window of a container that holds an address.
    pub(super) fn window_of(one: &Container, iova: u64) -> Option<Window> {
        one.windows
            .iter()
            .flatten()
            .copied()
            .find(|window| !window.closing && window.first <= iova && iova <= window.last)
    }
}
