//! Domains whose user maps by himself.

use std::sync::Arc;

use portcullis::core::domain::{Domain, DomainMapError, DomainType};
use portcullis::core::iommu::MapError;
use portcullis::types::{Iova, IovaRange, Pa, Perms, Prot};

use super::world::{Ghost, UserDomain, UserInner, World};
use super::{Before, Done};
use crate::hub::locked;
use crate::oracle::{Grant, Token, Way};
use crate::promise::Promise;

/// Where users' addresses begin: a reserved region of some device lies among them.
const BASE: u64 = 0xeff0_0000;

impl World {
    pub(super) fn user_domain(&self, domain: u8) -> Option<Arc<UserDomain>> {
        let domains = locked(&self.domains);
        domains[usize::from(domain) % domains.len()].clone()
    }

    /// A new domain.
    pub(super) fn new_domain(&self, domain: u8, device: u8) -> Done {
        if self.user_domain(domain).is_some() {
            return Done::Skipped;
        }
        let unit = self.devices[self.device_index(device)].spec.unit;
        let before = self.before(None);
        let made =
            Domain::new(self.platform.clone(), self.units[unit].unit.iommu().clone(), DomainType::Unmanaged);
        match made {
            Ok(made) => {
                let space = self.hub.shadow(|shadow| shadow.add_space());
                let state = UserDomain { unit, space, domain: made, inner: Default::default() };
                let mut domains = locked(&self.domains);
                let count = domains.len();
                domains[usize::from(domain) % count] = Some(Arc::new(state));
                Done::Succeeded
            }
            Err(error) => {
                // There may be no more ids, or banks.
                self.excuse(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        }
    }

    /// It is dropped, if nobody is attached to it, nor may be: its memory goes to others with it, which whoever is told that hardware did not confirm does not do.
    pub(super) fn drop_domain(&self, domain: u8) -> Done {
        let Some(state) = self.user_domain(domain) else { return Done::Skipped };
        let attached = (0..self.devices.len())
            .any(|device| self.hub.shadow(|shadow| shadow.way(device)) == Way::Space(state.space));
        let held = self.groups.iter().any(|group| Arc::ptr_eq(&group.group.current_domain(), &state.domain));
        let stays = self.hub.is_held() && self.hub.shadow(|shadow| shadow.may_be_in(state.space));
        if attached || held || stays || locked(&state.inner).busy {
            return Done::Skipped;
        }
        {
            let mut domains = locked(&self.domains);
            let count = domains.len();
            domains[usize::from(domain) % count] = None;
        }
        let inner = core::mem::take(&mut *locked(&state.inner));
        let space = state.space;
        // The last that holds it lets it go: hardware forgets its tag before its tables are freed.
        drop(state);
        {
            let mut pool = locked(&self.pool);
            inner.pages.into_values().chain(inner.waiting).for_each(|page| pool.give(page, 1));
        }
        self.drop_space(space);
        Done::Succeeded
    }

    fn begin_user(&self, domain: u8) -> Option<(Arc<UserDomain>, UserInner)> {
        let state = self.user_domain(domain)?;
        let mut inner = locked(&state.inner);
        if inner.busy {
            return None;
        }
        let taken = core::mem::replace(&mut *inner, UserInner { busy: true, ..UserInner::default() });
        drop(inner);
        Some((state, taken))
    }

    fn end_user(&self, state: &UserDomain, inner: UserInner) {
        *locked(&state.inner) = inner;
    }

    /// The regions that devices attached to a domain forbid.
    fn forbidden(&self, state: &UserDomain) -> Vec<(u64, u64)> {
        let attached = self
            .devices
            .iter()
            .enumerate()
            .filter(|(index, _)| self.hub.shadow(|shadow| shadow.way(*index)) == Way::Space(state.space));
        let regions = attached.flat_map(|(_, device)| {
            let page = self.firmware_page(&device.spec).filter(|_| !device.spec.relaxable);
            device.spec.reserved.into_iter().chain(page.map(|page| (page, page + self.granule() - 1)))
        });
        regions.collect()
    }

    /// Its user maps pages.
    pub(super) fn user_map(&self, domain: u8, page: u16, pages: u8, perms: u8, runs: u8) -> Done {
        let Some((state, mut inner)) = self.begin_user(domain) else { return Done::Skipped };
        let granule = self.granule();
        let (page, count) = (u64::from(page), u64::from(pages));
        let (first, len) = (BASE + page * granule, count * granule);
        let perms = [Perms::READ, Perms::WRITE, Perms::READ_WRITE][usize::from(perms) % 3];
        // Where something was unmapped nothing else is mapped before the sync: break-before-make is the user's to keep. Also where that is what a failed map may have left.
        let fading = inner.fading.iter().any(|one| one.hits(first, first + (len - 1)));
        if fading || self.hub.shadow(|shadow| shadow.leaves(state.space, first, first + (len - 1))) {
            self.end_user(&state, inner);
            return Done::Skipped;
        }
        let Some(memory) = self.runs(count, u64::from(runs)) else {
            self.end_user(&state, inner);
            return Done::Skipped;
        };
        let before = self.before(None);
        let write = perms.contains(Perms::WRITE);
        let bytes: Vec<(u64, u64)> = memory.iter().map(|&(pa, count)| (pa, count * granule)).collect();
        let token = self.hub.shadow(|shadow| shadow.begin_map(state.space, &bytes, true, write));
        let range = IovaRange::new(Iova::new(first), len).expect("users' addresses do not wrap");
        let mut parts = bytes.iter().map(|&(pa, len)| (Pa::new(pa), len));
        let prot = Prot::cached(perms);
        let end = match *bytes {
            [(pa, len)] => state.domain.map(Iova::new(first), Pa::new(pa), len, prot),
            _ => state.domain.map_runs(range, &mut parts, prot),
        };
        let there = self.hub.shadow(|shadow| shadow.live_in(state.space, first, first + len - 1));
        let done = match end {
            Ok(()) => {
                let forbidden = self
                    .forbidden(&state)
                    .into_iter()
                    .find(|&(low, high)| low < first + len && high >= first);
                self.hub.hold(Promise::Reserved, forbidden.is_none(), || {
                    format!("{range} was mapped over {forbidden:x?}")
                });
                self.hub.hold(Promise::NoReuse, there.is_empty(), || {
                    format!("{range} was mapped over {there:x?}")
                });
                let mut at = first;
                for &(pa, len) in &bytes {
                    let (last, since) = (at + len - 1, self.step());
                    let owed_read = perms.contains(Perms::READ);
                    let grant =
                        Grant { first: at, last, pa, read: true, owed_read, write, owed_write: write, since };
                    self.hub.shadow(|shadow| shadow.grant_over(state.space, grant));
                    inner
                        .pages
                        .extend((0..len / granule).map(|n| ((at - BASE) / granule + n, pa + n * granule)));
                    at += len;
                }
                let ended = self.hub.shadow(|shadow| shadow.end_map(state.space, token, false));
                self.hub.judged(ended);
                Done::Succeeded
            }
            Err(error) => {
                self.user_not_mapped(&state, &mut inner, &before, token, (first, len), &memory, &error);
                Done::Refused
            }
        };
        self.end_user(&state, inner);
        done
    }

    fn user_not_mapped(
        &self,
        state: &UserDomain,
        inner: &mut UserInner,
        before: &Before,
        token: Token,
        (first, len): (u64, u64),
        memory: &[(u64, u64)],
        error: &DomainMapError,
    ) {
        // What has no place is not tried.
        let tried = !matches!(error, DomainMapError::Map(MapError::Mapped(_)) | DomainMapError::Reserved(_));
        let doubt = tried && self.unconfirmed(before);
        let ended = self.hub.shadow(|shadow| shadow.end_map(state.space, token, doubt));
        self.hub.judged(ended);
        if doubt {
            self.keep(state.space, token, memory.to_vec());
            inner.ghosts.push(Ghost { first, last: first + (len - 1), token });
        } else {
            let mut pool = locked(&self.pool);
            memory.iter().for_each(|&(first, count)| pool.give(first, count));
        }
        let hits = |low: u64, high: u64| low < first + len && high >= first;
        let there = self.hub.shadow(|shadow| shadow.live_in(state.space, first, first + len - 1));
        let fits = match error {
            DomainMapError::Map(MapError::Mapped(_)) => {
                !there.is_empty() || inner.ghosts.iter().any(|one| one.hits(first, first + (len - 1)))
            }
            DomainMapError::Reserved(_) => {
                self.forbidden(state).into_iter().any(|(low, high)| hits(low, high))
            }
            _ => {
                self.excuse_any(before, error);
                true
            }
        };
        let spoiled = self.hub.shadow(|shadow| shadow.is_space_spoiled(state.space));
        self.hub.hold(Promise::Service, fits || spoiled, || {
            format!("{first:#x} of {len:#x} bytes: {error:?}; there is {there:x?}")
        });
        self.unwound(before, doubt, error);
    }

    /// Memory for `count` pages in at most `runs` runs.
    fn runs(&self, count: u64, runs: u64) -> Option<Vec<(u64, u64)>> {
        let mut memory = Vec::new();
        let each = count.div_ceil(runs.max(1));
        let mut left = count;
        while left > 0 {
            let want = left.min(each);
            let mut pool = locked(&self.pool);
            match pool.take(want) {
                Some(first) => memory.push((first, want)),
                None => {
                    memory.iter().for_each(|&(first, count)| pool.give(first, count));
                    return None;
                }
            }
            left -= want;
        }
        Some(memory)
    }

    /// Its user unmaps pages, and perhaps waits until hardware has forgotten them.
    pub(super) fn user_unmap(&self, domain: u8, page: u16, pages: u8, sync: bool) -> Done {
        let Some((state, mut inner)) = self.begin_user(domain) else { return Done::Skipped };
        let granule = self.granule();
        let (page, count) = (u64::from(page), u64::from(pages));
        let first = BASE + page * granule;
        let range = IovaRange::new(Iova::new(first), count * granule).expect("users' addresses do not wrap");
        let ends = (first, range.last().get());
        let mapped: u64 = inner.pages.range(page..page + count).count() as u64 * granule;
        let before = self.before(None);
        let token = self.hub.shadow(|shadow| shadow.begin_unmap(state.space, &[ends]));
        let mut gather = core::mem::take(&mut inner.gather);
        let end = state.domain.unmap(range, &mut gather);
        inner.gather = gather;
        let done = match end {
            Ok(found) => {
                let spoiled = self.hub.shadow(|shadow| shadow.is_space_spoiled(state.space));
                self.hub.hold(Promise::Service, found == mapped || spoiled, || {
                    format!("{range}: {found:#x} bytes were taken out, and {mapped:#x} were mapped")
                });
                let gone: Vec<u64> = inner.pages.range(page..page + count).map(|(page, _)| *page).collect();
                for page in gone {
                    inner.waiting.extend(inner.pages.remove(&page));
                }
                inner.tokens.push(token);
                inner.unmap_ghosts(ends);
                self.hub.shadow(|shadow| shadow.linger(state.space, token, 0, false));
                if sync { self.sync_now(&state, &mut inner, Some(first)) } else { Done::Succeeded }
            }
            Err(error) => {
                self.hub.shadow(|shadow| shadow.undo_unmap(state.space, token));
                // No block was mapped that would have to be cut.
                self.excuse_any(&before, &error);
                self.unwound(&before, false, &error);
                Done::Refused
            }
        };
        self.end_user(&state, inner);
        if done == Done::Skipped { Done::Succeeded } else { done }
    }

    /// Its user has hardware forget.
    pub(super) fn user_sync(&self, domain: u8) -> Done {
        let Some((state, mut inner)) = self.begin_user(domain) else { return Done::Skipped };
        let done =
            if inner.tokens.is_empty() { Done::Skipped } else { self.sync_now(&state, &mut inner, None) };
        self.end_user(&state, inner);
        done
    }

    fn sync_now(&self, state: &UserDomain, inner: &mut UserInner, tried: Option<u64>) -> Done {
        let before = self.before(None);
        match state.domain.sync(&mut inner.gather) {
            Ok(_flushed) => {
                let tokens = core::mem::take(&mut inner.tokens);
                let faded = inner.ghosts_faded();
                self.hub.shadow(|shadow| {
                    shadow.synced(state.space, &tokens);
                    faded.into_iter().for_each(|token| shadow.nothing_arrives(state.space, token));
                });
                let waiting = core::mem::take(&mut inner.waiting);
                {
                    let mut pool = locked(&self.pool);
                    waiting.into_iter().for_each(|page| pool.give(page, 1));
                }
                let inside = (0..self.devices.len())
                    .find(|&device| self.hub.shadow(|shadow| shadow.way(device)) == Way::Space(state.space));
                if let (Some(device), Some(iova)) = (inside, tried) {
                    self.note_stale(device, iova, false);
                    self.try_stale(device, iova);
                }
                Done::Succeeded
            }
            Err(error) => {
                self.excuse_any(&before, &error);
                Done::Refused
            }
        }
    }
}
