//! The shadow: who may reach which byte, told by those who ask for it and by nothing that is under test.
//!
//! A [`Shadow`] has spaces (a domain's addresses) and devices (where each is attached). A space has *live* grants, grants that are *leaving* (an unmap
//! has begun, its invalidation has not completed), and pages that are *arriving* (a map has begun, and its address may not be known yet). An
//! access that was let through must be one of these.
//!
//! Not here: processes' memory (`checks::sva`), who asks (`oracle::gate`).

use std::collections::BTreeMap;

use super::wrong::Wrong;
use crate::promise::Promise;

/// A device, by its number in the machine.
pub(crate) type DeviceIndex = usize;
/// A space, by its number.
pub(crate) type SpaceId = usize;
/// What was begun and is to be ended.
pub(crate) type Token = u64;

/// A run of pages that somebody may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The first address.
    pub(crate) first: u64,
    /// The last one.
    pub(crate) last: u64,
    /// Where `first` goes.
    pub(crate) pa: u64,
    /// Reading is allowed: was asked for, or comes with writing, as a table of stage 1 cannot say it otherwise.
    pub(crate) read: bool,
    /// Reading was asked for.
    pub(crate) owed_read: bool,
    /// Writing is allowed.
    pub(crate) write: bool,
    /// Writing was asked for.
    pub(crate) owed_write: bool,
    /// Since which step.
    pub(crate) since: u64,
}

impl Grant {
    fn part(self, first: u64, last: u64) -> Self {
        Self { first, last, pa: self.pa + (first - self.first), ..self }
    }

    fn allows(&self, seen: &Seen) -> bool {
        let last = seen.iova + (u64::from(seen.len) - 1);
        self.first <= seen.iova
            && last <= self.last
            && self.pa + (seen.iova - self.first) == seen.pa
            && if seen.write { self.write } else { self.read }
    }

    fn last_pa(&self) -> u64 {
        self.pa + (self.last - self.first)
    }
}

/// An access that a model lets through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) source: u32,
    pub(crate) iova: u64,
    pub(crate) len: u32,
    pub(crate) pa: u64,
    pub(crate) write: bool,
}

/// Until when a grant that was taken away may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The operation returns.
    Return,
    /// A flush succeeds. `bound`: if somebody polls when it is due, it has to have by then.
    Flush { since_ns: u64, bound: bool },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    token: Token,
    pub(super) grant: Grant,
    until: Until,
    /// How often hardware had been told to forget everything when the unmap began.
    flushes: u64,
    /// How many syncs of the space had been confirmed then.
    syncs: u64,
    /// Its memory has gone to another use.
    dead: bool,
    /// Hardware has confirmed since that it forgot it.
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    token: Token,
    pub(super) pa: u64,
    pub(super) last_pa: u64,
    read: bool,
    pub(super) write: bool,
    /// The operation has ended without success, and hardware did not confirm that it forgot.
    kept: bool,
    /// How often hardware had been told to forget everything when it ended.
    flushes: u64,
    /// How many syncs of the space had been confirmed when it began.
    syncs: u64,
    /// Its memory has gone back to the heap.
    dead: bool,
}

impl Leaving {
    /// Whether hardware may go by it still.
    pub(super) fn may_be_there(&self) -> bool {
        !self.dead && !self.gone
    }

    /// Makes it as small as what it has of the memory `first..=last`. Answers what it had before and behind that.
    fn cut(&mut self, first: u64, last: u64) -> impl Iterator<Item = Self> + use<> {
        let whole = self.grant;
        let at = |pa: u64| whole.first + (pa - whole.pa);
        let part = |from: u64, to: u64| Self { grant: whole.part(from, to), ..*self };
        let before = (whole.pa < first).then(|| part(whole.first, at(first) - 1));
        let behind = (whole.last_pa() > last).then(|| part(at(last) + 1, whole.last));
        self.grant = whole.part(at(first.max(whole.pa)), at(last.min(whole.last_pa())));
        before.into_iter().chain(behind)
    }
}

impl Arriving {
    /// Whether somebody may reach it.
    pub(super) fn may_be_there(&self) -> bool {
        !self.dead
    }

    /// Makes it as small as what it has of `first..=last`. Answers what it had before and behind that.
    fn cut(&mut self, first: u64, last: u64) -> impl Iterator<Item = Self> + use<> {
        let before = (self.pa < first).then(|| Self { last_pa: first - 1, ..*self });
        let behind = (self.last_pa > last).then(|| Self { pa: last + 1, ..*self });
        (self.pa, self.last_pa) = (self.pa.max(first), self.last_pa.min(last));
        before.into_iter().chain(behind)
    }
}

/// A domain's addresses.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) live: BTreeMap<u64, Grant>,
    pub(super) leaving: Vec<Leaving>,
    pub(super) arriving: Vec<Arriving>,
    /// Whole flushes that hardware was told of.
    flushes: u64,
    /// Syncs of it that hardware has confirmed, as far as its domain says.
    syncs: u64,
    /// A bit of its tables has flipped: what is reached through them is nobody's promise.
    spoiled: bool,
}

/// Where a device is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nowhere.
    Blocked,
    /// To a space.
    Space(SpaceId),
}

/// Ways that may be open besides: no fewer than a machine has at a time, the spaces of all containers and one of the kernel's.
type Ways = [Option<Way>; 8];

#[derive(Clone, Copy, Debug)]
struct Attachment {
    now: Way,
    /// Where it is going, while an operation moves it.
    next: Option<Way>,
    /// Where it may be besides: moves that hardware did not confirm were to take it there, and another has begun.
    unsure: Ways,
    /// Where it was, or was going, before it was blocked: hardware that takes no commands may not know that yet.
    late: Ways,
    /// Core knows it.
    known: bool,
    /// A bit of its entry has flipped.
    spoiled: bool,
}

impl Attachment {
    /// Where it may be, as far as the operations say that moved it.
    fn ways(&self) -> impl Iterator<Item = Way> + use<> {
        [Some(self.now), self.next].into_iter().chain(self.unsure).flatten()
    }
}

/// Adds a way to those that are kept; one along which nothing is reached needs no place.
fn keep(kept: &mut Ways, way: Way) {
    let place = kept.iter_mut().find(|place| place.is_none_or(|held| held == way));
    if let Some(place) = place.filter(|_| way != Way::Blocked) {
        *place = Some(way);
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    devices: Vec<Attachment>,
    sources: BTreeMap<u32, DeviceIndex>,
    pub(super) spaces: Vec<Space>,
    free_spaces: Vec<SpaceId>,
    tokens: Token,
    /// How often somebody's rights changed.
    changes: u64,
    pub(crate) step: u64,
    pub(crate) checked: [u64; Promise::ALL.len()],
}

/// A lazy flush is due after so long.
const LAZY_NS: u64 = 10_000_000;

impl Shadow {
    pub(crate) fn add_device(&mut self, sources: &[u32]) -> DeviceIndex {
        self.devices.push(Attachment {
            now: Way::Blocked,
            next: None,
            unsure: Ways::default(),
            late: Ways::default(),
            known: false,
            spoiled: false,
        });
        let index = self.devices.len() - 1;
        self.sources.extend(sources.iter().map(|&source| (source, index)));
        index
    }

    pub(crate) fn add_space(&mut self) -> SpaceId {
        match self.free_spaces.pop() {
            Some(id) => {
                self.spaces[id] = Space::default();
                id
            }
            None => {
                self.spaces.push(Space::default());
                self.spaces.len() - 1
            }
        }
    }

    /// A domain is gone: nothing is attached to it, and its number may be another's.
    pub(crate) fn remove_space(&mut self, space: SpaceId) {
        self.spaces[space] = Space::default();
        // Who was in it, or may have gone there, reaches nothing of the next one's.
        let kept = self
            .devices
            .iter_mut()
            .flat_map(|device| device.late.iter_mut().chain(&mut device.unsure).chain([&mut device.next]));
        kept.filter(|kept| **kept == Some(Way::Space(space))).for_each(|kept| *kept = None);
        self.free_spaces.push(space);
    }

    pub(crate) fn check(&mut self, promise: Promise) {
        self.checked[promise as usize] += 1;
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    /// Where a device is attached, as far as its last operation said.
    pub(crate) fn way(&self, device: DeviceIndex) -> Way {
        self.devices[device].now
    }

    /// An operation begins that takes a device somewhere. If the last one was left open, as hardware did not confirm it, the device may be on either side until one returns.
    pub(crate) fn begin_move(&mut self, device: DeviceIndex, to: Way) {
        self.changes += 1;
        let one = &mut self.devices[device];
        if let Some(open) = one.next.replace(to) {
            keep(&mut one.unsure, open);
        }
    }

    /// It has returned: the device is there.
    pub(crate) fn end_move(&mut self, device: DeviceIndex, at: Way) {
        let one = &mut self.devices[device];
        if at == Way::Blocked {
            one.ways().for_each(|way| keep(&mut one.late, way));
        }
        (one.now, one.next, one.unsure) = (at, None, Ways::default());
        self.check(Promise::OneOwner);
    }

    /// Hardware has taken every command: who is blocked is.
    pub(crate) fn told(&mut self) {
        self.devices.iter_mut().for_each(|device| device.late = Ways::default());
    }

    /// Hardware has confirmed where a device is: it is where it was before no more, though that was blocked without a word.
    pub(crate) fn arrived(&mut self, device: DeviceIndex) {
        self.devices[device].late = Ways::default();
    }

    /// A space in which a device was as far as anybody said is about to go: the device is at `home`. Where else it may be has not changed.
    pub(crate) fn forsake(&mut self, device: DeviceIndex, space: SpaceId, home: Way) {
        let one = &mut self.devices[device];
        if one.now == Way::Space(space) {
            one.now = home;
            one.next = one.next.filter(|&next| next != home);
        }
    }

    /// Pages are about to be mapped, nobody knows where yet.
    pub(crate) fn begin_map(
        &mut self,
        space: SpaceId,
        pages: &[(u64, u64)],
        read: bool,
        write: bool,
    ) -> Token {
        let token = self.token();
        let syncs = self.spaces[space].syncs;
        let arriving = pages.iter().map(|&(pa, len)| Arriving {
            token,
            pa,
            last_pa: pa + (len - 1),
            read,
            write,
            kept: false,
            flushes: 0,
            syncs,
            dead: false,
        });
        self.spaces[space].arriving.extend(arriving);
        token
    }

    /// The map that was begun takes memory of its own.
    pub(crate) fn arrives(&mut self, space: SpaceId, token: Token, pa: u64, len: u64) {
        let one = Arriving {
            token,
            pa,
            last_pa: pa + (len - 1),
            read: true,
            write: true,
            kept: false,
            flushes: 0,
            syncs: self.spaces[space].syncs,
            dead: false,
        };
        self.spaces[space].arriving.push(one);
    }

    /// A domain says how many syncs of it hardware has confirmed so far. What one of these covered is forgotten, though the operation that asked for it may go on: it
    /// tries for what others left behind.
    pub(crate) fn confirmed(&mut self, space: SpaceId, syncs: u64) {
        let space = &mut self.spaces[space];
        space.syncs = space.syncs.max(syncs);
    }

    /// The map has returned. If it failed and hardware did not confirm that it forgot (`doubt`), the pages may be reached until a flush; not those whose memory has
    /// gone back behind a sync that was confirmed, whatever failed after that.
    ///
    /// # Errors
    ///
    /// Memory that may still be reached has gone back to the heap.
    pub(crate) fn end_map(&mut self, space: SpaceId, token: Token, doubt: bool) -> Result<(), Wrong> {
        self.check(Promise::Unwind);
        let Space { arriving, flushes, syncs, .. } = &mut self.spaces[space];
        if !doubt {
            arriving.retain(|one| one.token != token);
            return Ok(());
        }
        arriving.retain(|one| one.token != token || !one.dead || *syncs == one.syncs);
        arriving
            .iter_mut()
            .filter(|one| one.token == token)
            .for_each(|one| (one.kept, one.flushes) = (true, *flushes));
        match arriving.iter().find(|one| one.token == token && one.dead) {
            Some(one) => {
                let what =
                    format!("memory was freed that hardware did not confirm to have forgotten: {one:x?}");
                Err(Wrong::new(Promise::Reclaim, what))
            }
            None => Ok(()),
        }
    }

    /// Hardware has confirmed that it forgot all that a map which failed had left.
    pub(crate) fn nothing_arrives(&mut self, space: SpaceId, token: Token) {
        let its = self.spaces[space].arriving.iter_mut().filter(|one| one.token == token);
        its.for_each(|one| one.dead = true);
        self.check(Promise::Reclaim);
    }

    /// A range is mapped.
    ///
    /// # Errors
    ///
    /// Hardware may still use the addresses for something else.
    pub(crate) fn grant(&mut self, space: SpaceId, grant: Grant, several: bool) -> Result<(), Wrong> {
        self.check(Promise::NoReuse);
        let Space { live, leaving, flushes, syncs, .. } = &mut self.spaces[space];
        let overlaps = |held: &Grant| held.first <= grant.last && held.last >= grant.first;
        if let Some((_, held)) = live.range(..=grant.last).next_back().filter(|(_, held)| overlaps(held)) {
            let what = format!("{grant:x?} was handed out in space {space} over {held:x?}, which is in use");
            return Err(Wrong::new(Promise::NoReuse, what));
        }
        if !leaving.is_empty() {
            // What hardware was told to forget altogether since then is forgotten: an allocator may flush by itself.
            leaving.retain(|one| match one.until {
                Until::Flush { .. } => !(overlaps(&one.grant) && *flushes > one.flushes),
                // Its sync may be confirmed, and the operation go on; and on several threads it may have returned to its caller's caller, who is about to say so.
                Until::Return => !(overlaps(&one.grant) && (several || *syncs > one.syncs)),
            });
            if let Some(held) = leaving.iter().find(|one| overlaps(&one.grant)) {
                let what =
                    format!("{grant:x?} was handed out in space {space} before {held:x?} was forgotten");
                return Err(Wrong::new(Promise::NoReuse, what));
            }
        }
        live.insert(grant.first, grant);
        Ok(())
    }

    /// Puts a grant in, whatever is there: who maps by himself is told by the domain what is.
    pub(crate) fn grant_over(&mut self, space: SpaceId, grant: Grant) {
        self.spaces[space].live.insert(grant.first, grant);
    }

    /// What is live in `first..=last`.
    pub(crate) fn live_in(&self, space: SpaceId, first: u64, last: u64) -> Vec<Grant> {
        let live = &self.spaces[space].live;
        let before =
            live.range(..first).next_back().map(|(_, grant)| *grant).filter(|grant| grant.last >= first);
        before.into_iter().chain(live.range(first..=last).map(|(_, grant)| *grant)).collect()
    }

    /// Any grant of a space, for who looks for something to do.
    pub(crate) fn some_live(&self, space: SpaceId, pick: u64) -> Option<Grant> {
        let live = &self.spaces[space].live;
        live.range(pick..).next().or_else(|| live.iter().next()).map(|(_, grant)| *grant)
    }

    /// An unmap of ranges, by their first and last addresses, begins.
    pub(crate) fn begin_unmap(&mut self, space: SpaceId, ranges: &[(u64, u64)]) -> Token {
        let token = self.token();
        ranges.iter().for_each(|&(first, last)| self.leave(space, token, first, last));
        token
    }

    fn leave(&mut self, space: SpaceId, token: Token, first: u64, last: u64) {
        self.changes += 1;
        let hit = self.live_in(space, first, last);
        let Space { live, leaving, flushes, syncs, .. } = &mut self.spaces[space];
        let (flushes, syncs) = (*flushes, *syncs);
        for grant in hit {
            live.remove(&grant.first);
            if grant.first < first {
                live.insert(grant.first, grant.part(grant.first, first - 1));
            }
            if grant.last > last {
                live.insert(last + 1, grant.part(last + 1, grant.last));
            }
            let grant = grant.part(grant.first.max(first), grant.last.min(last));
            let until = Until::Return;
            leaving.push(Leaving { token, grant, until, flushes, syncs, dead: false, gone: false });
        }
    }

    /// The unmap has returned with success, and said that hardware has forgotten.
    pub(crate) fn end_unmap(&mut self, space: SpaceId, token: Token) {
        self.spaces[space].leaving.retain(|one| one.token != token);
        self.check(Promise::Reclaim);
    }

    /// The unmap has returned, and hardware may still remember: until a flush, which must come in time if `bound`.
    pub(crate) fn linger(&mut self, space: SpaceId, token: Token, now_ns: u64, bound: bool) {
        let until = Until::Flush { since_ns: now_ns, bound };
        self.spaces[space]
            .leaving
            .iter_mut()
            .filter(|one| one.token == token)
            .for_each(|one| one.until = until);
    }

    /// The unmap was refused: everything is as before.
    pub(crate) fn undo_unmap(&mut self, space: SpaceId, token: Token) {
        let Space { live, leaving, .. } = &mut self.spaces[space];
        leaving.retain(|one| {
            let back = one.token == token;
            if back {
                live.insert(one.grant.first, one.grant);
            }
            !back
        });
        self.check(Promise::Unwind);
    }

    /// A flush of the whole space has succeeded that began when the newest token was `before`.
    pub(crate) fn flushed(&mut self, space: SpaceId, before: Token) {
        let Space { leaving, arriving, .. } = &mut self.spaces[space];
        leaving.retain(|one| one.token > before || one.until == Until::Return);
        arriving.retain(|one| one.token > before || !one.kept);
        self.check(Promise::Reclaim);
    }

    /// Hardware has confirmed to have forgotten what was in `first..=last` and is mapped no more.
    pub(crate) fn forgotten(&mut self, space: SpaceId, first: u64, last: u64) {
        let inside = |one: &Leaving| one.grant.first >= first && one.grant.last <= last;
        self.spaces[space].leaving.retain(|one| one.until == Until::Return || !inside(one));
        self.check(Promise::Reclaim);
    }

    /// Hardware has confirmed to have forgotten whatever was changed in `first..=last` since the newest token was `since`. Who looks for something to try tries it still.
    pub(crate) fn settled(&mut self, space: SpaceId, (first, last): (u64, u64), since: Token) {
        let inside = |one: &&mut Leaving| one.grant.first >= first && one.grant.last <= last;
        let waits = |one: &&mut Leaving| one.until != Until::Return && one.token > since;
        self.spaces[space].leaving.iter_mut().filter(inside).filter(waits).for_each(|one| one.gone = true);
        self.check(Promise::Reclaim);
    }

    /// A sync of just these addresses has succeeded.
    pub(crate) fn synced(&mut self, space: SpaceId, tokens: &[Token]) {
        self.spaces[space].leaving.retain(|one| !tokens.contains(&one.token));
        self.check(Promise::Reclaim);
    }

    /// The newest token: what was begun until now.
    pub(crate) fn newest(&self) -> Token {
        self.tokens
    }

    /// Somebody has polled at `now_ns`: what waited too long has been flushed.
    pub(crate) fn polled(&mut self, space: SpaceId, now_ns: u64) {
        let leaving = &mut self.spaces[space].leaving;
        let late = |one: &Leaving| matches!(one.until, Until::Flush { since_ns, bound: true } if now_ns > since_ns + LAZY_NS);
        leaving.retain(|one| !late(one));
        self.check(Promise::Reclaim);
    }

    /// Hardware was told to forget everything of some domains: which, only their driver knows.
    pub(crate) fn told_to_flush(&mut self) {
        self.spaces.iter_mut().for_each(|space| space.flushes += 1);
    }

    /// Whether hardware may still remember something in `first..=last` that was taken away.
    pub(crate) fn leaves(&self, space: SpaceId, first: u64, last: u64) -> bool {
        self.spaces[space].leaving.iter().any(|one| one.grant.first <= last && one.grant.last >= first)
    }

    /// An address that is being taken away from some device.
    pub(crate) fn some_leaving(&self, pick: u64) -> Option<(DeviceIndex, u64)> {
        let device = usize::try_from(pick >> 3).unwrap_or(0) % self.devices.len().max(1);
        let order = (0..self.devices.len()).map(|offset| (device + offset) % self.devices.len());
        let mut found = order.filter_map(|index| {
            let Way::Space(space) = self.devices[index].now else { return None };
            let leaving = &self.spaces[space].leaving;
            let one = leaving.get(usize::try_from(pick >> 13).unwrap_or(0) % leaving.len().max(1))?;
            Some((index, one.grant.first))
        });
        found.next()
    }

    /// Where a device that is being moved comes from and goes to; none if it is not.
    pub(crate) fn moving(&self, device: DeviceIndex) -> Option<(Way, Way)> {
        let Attachment { now, next, .. } = self.devices[device];
        Some((now, next?))
    }

    /// An address that is granted in a space.
    pub(crate) fn an_address(&self, way: Way) -> Option<u64> {
        let Way::Space(space) = way else { return None };
        self.spaces[space].live.keys().next().copied()
    }

    /// Whether a source's device was attached somewhere, or blocked, before the move that is under way.
    pub(crate) fn was_attached(&self, source: u32) -> bool {
        self.sources.get(&source).is_some_and(|&device| self.devices[device].known)
    }

    /// Core knows a device; or no more.
    pub(crate) fn know(&mut self, device: DeviceIndex, known: bool) {
        self.devices[device].known = known;
    }

    /// A bit of a device's entry has flipped, or of its space's tables.
    pub(crate) fn spoil(&mut self, device: DeviceIndex, entry: bool) {
        self.devices[device].spoiled |= entry;
        for way in self.devices[device].ways() {
            if let Way::Space(space) = way {
                self.spaces[space].spoiled = true;
            }
        }
    }

    /// Whether a bit of a device's entry has flipped.
    pub(crate) fn has_flipped_entry(&self, device: DeviceIndex) -> bool {
        self.devices[device].spoiled
    }

    /// Whether what a device reaches is nobody's promise.
    pub(crate) fn is_spoiled(&self, device: DeviceIndex) -> bool {
        let one = &self.devices[device];
        let of = |way: Way| matches!(way, Way::Space(space) if self.spaces[space].spoiled);
        one.spoiled || one.ways().any(of)
    }

    /// Whether what an access of a device comes to is nobody's promise: also by a way that it has no more, and that hardware may not know to be closed.
    fn may_stray(&self, device: DeviceIndex) -> bool {
        let mut late = self.devices[device].late.into_iter().flatten();
        self.is_spoiled(device)
            || late.any(|way| matches!(way, Way::Space(space) if self.spaces[space].spoiled))
    }

    /// The same of the device that has a source.
    pub(crate) fn is_source_spoiled(&self, source: u32) -> bool {
        self.sources.get(&source).is_some_and(|&device| self.may_stray(device))
    }

    /// Whether a space's tables are.
    pub(crate) fn is_space_spoiled(&self, space: SpaceId) -> bool {
        self.spaces[space].spoiled
    }

    /// Whether a device was blocked without hardware's word, and has been nowhere else since: hardware may know its entry of before.
    pub(crate) fn is_late(&self, device: DeviceIndex) -> bool {
        self.devices[device].late.iter().any(Option::is_some)
    }

    /// Whether some device was blocked without hardware's word that may be in a space still.
    pub(crate) fn may_be_in(&self, space: SpaceId) -> bool {
        self.devices.iter().any(|device| device.late.contains(&Some(Way::Space(space))))
    }

    /// Where a device is, if it is at rest and core knows it.
    pub(crate) fn at_rest(&self, device: DeviceIndex) -> Option<Way> {
        match self.devices[device] {
            Attachment { now, next: None, known: true, .. } => Some(now),
            _ => None,
        }
    }

    /// A map was refused, and hardware did not confirm that it forgot: these may be reached for as long as nobody else has their memory.
    pub(crate) fn doubt(&mut self, space: SpaceId, token: Token, grants: &[Grant]) {
        let Space { leaving, flushes, syncs, .. } = &mut self.spaces[space];
        let (flushes, syncs) = (*flushes, *syncs);
        let until = Until::Flush { since_ns: 0, bound: false };
        let (dead, gone) = (false, false);
        let doubted = grants.iter().map(|&grant| Leaving { token, grant, until, flushes, syncs, dead, gone });
        leaving.extend(doubted);
    }

    /// What is granted, in one of these spaces, of memory.
    pub(crate) fn granted_at(&self, spaces: &[SpaceId], first: u64, last: u64) -> Option<(SpaceId, Grant)> {
        let hit = |grant: &&Grant| grant.pa <= last && grant.last_pa() >= first;
        spaces.iter().find_map(|&space| Some((space, *self.spaces[space].live.values().find(hit)?)))
    }

    /// The last pin of a page goes: it is another's from here on.
    ///
    /// # Errors
    ///
    /// Somebody is granted it, in one of these spaces.
    pub(crate) fn unpinned(&mut self, spaces: &[SpaceId], first: u64, last: u64) -> Result<(), Wrong> {
        if let Some((space, grant)) = self.granted_at(spaces, first, last) {
            let what =
                format!("memory {first:#x}..={last:#x} is let go, and granted in space {space}: {grant:x?}");
            return Err(Wrong::new(Promise::Reclaim, what));
        }
        self.goes(first, last, false)
    }

    /// The first pin of memory: who is about to map it may reach it from here on, though a map that is no more has let go of it since he began.
    pub(crate) fn pinned(&mut self, first: u64, last: u64) {
        for Space { arriving, .. } in &mut self.spaces {
            let comes = |one: &&mut Arriving| one.dead && !one.kept && one.pa <= last && one.last_pa >= first;
            let mut beside = Vec::new();
            for one in arriving.iter_mut().filter(comes) {
                beside.extend(one.cut(first, last));
                one.dead = false;
            }
            arriving.extend(beside);
        }
    }

    /// A buffer that was somebody's device's goes back to the heap.
    ///
    /// # Errors
    ///
    /// As [`freed`](Self::freed), and if some device is granted it.
    pub(crate) fn buffer_freed(&mut self, first: u64, last: u64) -> Result<(), Wrong> {
        let all: Vec<SpaceId> = (0..self.spaces.len()).collect();
        match self.granted_at(&all, first, last) {
            Some((space, grant)) => {
                let what = format!(
                    "a buffer {first:#x}..={last:#x} is freed, and granted in space {space}: {grant:x?}"
                );
                Err(Wrong::new(Promise::Reclaim, what))
            }
            None => self.freed(first, last),
        }
    }

    /// Whether something that was begun with a token may still be reached.
    pub(crate) fn waits(&self, space: SpaceId, token: Token) -> bool {
        let Space { leaving, arriving, .. } = &self.spaces[space];
        leaving.iter().any(|one| one.token == token) || arriving.iter().any(|one| one.token == token)
    }

    /// Memory goes back to the heap.
    ///
    /// # Errors
    ///
    /// Somebody may reach it, and not only because an unmap of it is under way.
    pub(crate) fn freed(&mut self, first: u64, last: u64) -> Result<(), Wrong> {
        self.goes(first, last, true)
    }

    /// Memory is another's from here on: the slack is over. `of_heap`: what an unmap left to a flush is held for that. (Users' pages are let go behind syncs that nobody counts.)
    fn goes(&mut self, first: u64, last: u64, of_heap: bool) -> Result<(), Wrong> {
        self.check(Promise::Reclaim);
        let mut whose: Option<String> = None;
        for (id, Space { leaving, arriving, flushes, .. }) in self.spaces.iter_mut().enumerate() {
            // A flush that began since may have succeeded, though it has not returned yet.
            let waits = |since: u64| *flushes <= since;
            let hit = leaving.iter_mut().filter(|one| one.grant.pa <= last && one.grant.last_pa() >= first);
            let mut beside = Vec::new();
            for one in hit {
                if of_heap && one.until != Until::Return && waits(one.flushes) {
                    whose.get_or_insert_with(|| format!("space {id} may reach it: {one:x?}"));
                }
                beside.extend(one.cut(first, last));
                one.dead = true;
            }
            leaving.extend(beside);
            let mut beside = Vec::new();
            for one in arriving.iter_mut().filter(|one| one.pa <= last && one.last_pa >= first) {
                if one.kept && waits(one.flushes) {
                    whose.get_or_insert_with(|| format!("space {id} may reach it: {one:x?}"));
                }
                beside.extend(one.cut(first, last));
                one.dead = true;
            }
            arriving.extend(beside);
        }
        match whose {
            Some(whose) => {
                let what = format!("memory {first:#x}..={last:#x} was freed, and {whose}");
                Err(Wrong::new(Promise::Reclaim, what))
            }
            None => Ok(()),
        }
    }

    /// Whether memory behind something that was begun with a token has gone to another use.
    pub(crate) fn is_dead(&self, space: SpaceId, token: Token) -> bool {
        self.spaces[space].leaving.iter().any(|one| one.token == token && one.dead)
    }

    /// How often somebody has lost something so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether an access must be let through: it is granted, and nothing changes at this moment.
    pub(crate) fn expects(&self, source: u32, iova: u64, len: u32, write: bool) -> bool {
        let Some(&device) = self.sources.get(&source) else { return false };
        let Attachment { now: Way::Space(space), next: None, known: true, spoiled: false, .. } =
            self.devices[device]
        else {
            return false;
        };
        let space = &self.spaces[space];
        if space.spoiled {
            return false;
        }
        let grant = space.live.range(..=iova).next_back().map(|(_, grant)| *grant);
        let last = iova + (u64::from(len) - 1);
        grant
            .is_some_and(|grant| grant.last >= last && if write { grant.owed_write } else { grant.owed_read })
    }

    /// Whether an access that a model lets through is one that somebody was granted.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn judge(&mut self, seen: &Seen) -> Result<(), Wrong> {
        self.check(Promise::Isolation);
        let Some(&device) = self.sources.get(&seen.source) else {
            return Err(Wrong::new(
                Promise::Isolation,
                format!("nobody has source {:#x}: {seen:x?}", seen.source),
            ));
        };
        if self.may_stray(device) {
            return Ok(());
        }
        let Attachment { now, late, .. } = self.devices[device];
        let mut ways = self.devices[device].ways().chain(late.into_iter().flatten());
        if ways.any(|way| self.grants(way, seen)) {
            return Ok(());
        }
        Err(self.objection(device, now, seen))
    }

    fn grants(&self, way: Way, seen: &Seen) -> bool {
        let Way::Space(space) = way else { return false };
        let Space { live, leaving, arriving, .. } = &self.spaces[space];
        let last_pa = seen.pa + (u64::from(seen.len) - 1);
        let lives = live.range(..=seen.iova).next_back().is_some_and(|(_, grant)| grant.allows(seen));
        lives
            || leaving.iter().any(|one| one.may_be_there() && one.grant.allows(seen))
            || arriving.iter().any(|one| {
                one.may_be_there()
                    && one.pa <= seen.pa
                    && last_pa <= one.last_pa
                    && if seen.write { one.write } else { one.read }
            })
    }

    fn objection(&self, device: DeviceIndex, now: Way, seen: &Seen) -> Wrong {
        let Way::Space(space) = now else {
            let what = format!("device {device} is blocked, and reached memory: {seen:x?}");
            return Wrong::new(Promise::Isolation, what);
        };
        let Space { live, leaving, .. } = &self.spaces[space];
        let there = live
            .range(..=seen.iova)
            .next_back()
            .map(|(_, grant)| *grant)
            .filter(|grant| grant.last >= seen.iova);
        let dead = leaving.iter().find(|one| one.dead && one.grant.allows(seen));
        match (there, dead) {
            (_, Some(dead)) => {
                let what = format!(
                    "device {device} reached memory that went to another use: {seen:x?}, {:x?}",
                    dead.grant
                );
                Wrong::new(Promise::Reclaim, what)
            }
            (Some(grant), None) => {
                let what = format!(
                    "device {device} reached what it was not granted: {seen:x?}; there is {grant:x?}"
                );
                Wrong::new(Promise::Isolation, what)
            }
            (None, None) => {
                let what = format!(
                    "device {device} reached an address that is not mapped in space {space}: {seen:x?}"
                );
                Wrong::new(Promise::Isolation, what)
            }
        }
    }
}
