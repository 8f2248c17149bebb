//! Groups that come and go.
//!
//! A group joins the domain of groups behind the same IOMMU whose devices snoop caches as its own do. If there is none, or it refuses, the group
//! gets a domain for itself, with every mapping in it before the group is attached.
//!
//! What can be mapped shrinks with a group, on a copy that takes effect last; it grows back when the group leaves.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use portcullis_core::device::Device;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::group::Group;
use portcullis_core::iommu::{ReservedKind, ReservedRegion};
use portcullis_hal::Platform;
use portcullis_iova::RangeSet;
use portcullis_types::trace::Value;
use portcullis_types::{IovaRange, PageSizes, mutant};

use super::forget::forget;
use super::{Translation, Type1};
use crate::Errno;
use crate::container::Member;
use crate::trace::say;

impl<P: Platform> Type1<P> {
    /// Takes a group in, which its user has claimed.
    pub(crate) fn attach(&mut self, member: &Member<P>) -> Result<(), Errno> {
        let done = self.try_attach(member);
        self.say("vfio_attach", member, if done.is_ok() { "ok" } else { "refused" });
        done
    }

    fn try_attach(&mut self, member: &Member<P>) -> Result<(), Errno> {
        let group = &member.group;
        if self.members().any(|held| Arc::ptr_eq(&held.group, group)) {
            return Err(Errno::Einval);
        }
        self.drop_stale()?;
        let forbidden = self.shrunk(group)?;
        let unsafe_interrupts = self.shared.unsafe_interrupts.load(Relaxed);
        let isolated = group.devices().iter().all(|device| device.has_isolated_interrupts());
        if !isolated && !mutant!("forgeable-interrupts-let-in") && !unsafe_interrupts {
            return Err(Errno::Eperm);
        }
        let member = &Member { unsafe_interrupts, ..member.clone() };
        if !self.join(member) {
            let translation = self.new_translation(member)?;
            self.translations.push(translation);
        }
        self.forbidden = forbidden;
        Ok(())
    }

    /// Whether a user of the group may have this device of it. What can be mapped is from then on what it can be for it as well, which may have come after the group was attached.
    pub(crate) fn may_open(&mut self, group: &Arc<Group<P>>, device: &Device<P>) -> Result<(), Errno> {
        let mut all = self
            .translations
            .iter()
            .flat_map(|translation| translation.members.iter().map(|member| (translation.coherent, member)));
        let (coherent, member) =
            all.find(|(_, held)| Arc::ptr_eq(&held.group, group)).ok_or(Errno::Einval)?;
        if !device.has_isolated_interrupts() && !member.unsafe_interrupts {
            return Err(Errno::Eperm);
        }
        // What is mapped is as those see it who look into caches.
        if coherent && !device.info().coherent {
            return Err(Errno::Einval);
        }
        self.forbid();
        Ok(())
    }

    /// Looks anew at what cannot be mapped for the groups that there are.
    fn forbid(&mut self) {
        let all: Vec<IovaRange> = self.members().flat_map(|member| forbidden_for(&member.group)).collect();
        self.forbidden = RangeSet::new();
        all.into_iter().for_each(|range| self.forbidden.insert(range));
    }

    /// What could not be mapped any more with this group. An error if something of it is.
    fn shrunk(&self, group: &Group<P>) -> Result<RangeSet, Errno> {
        let mut forbidden = self.forbidden.clone();
        let added = forbidden_for(group);
        if added.iter().any(|&range| self.mappings.overlapping(range).next().is_some()) {
            return Err(Errno::Einval);
        }
        added.into_iter().for_each(|range| forbidden.insert(range));
        Ok(forbidden)
    }

    /// Joins a domain that is there, if one takes the group.
    fn join(&mut self, member: &Member<P>) -> bool {
        let coherent = is_coherent(&member.group);
        let mut alike = self.translations.iter_mut().filter(|translation| {
            translation.coherent == coherent && Arc::ptr_eq(translation.domain.iommu(), member.group.iommu())
        });
        alike.any(|translation| {
            let joined = member.group.attach_as(member.owner, &translation.domain).is_ok();
            if joined {
                translation.members.push(member.clone());
            }
            joined
        })
    }

    /// A domain for a group, with everything mapped in it, and the group attached.
    fn new_translation(&mut self, member: &Member<P>) -> Result<Translation<P>, Errno> {
        let group = &member.group;
        let domain = Domain::new(self.shared.platform.clone(), group.iommu().clone(), DomainType::Unmanaged)
            .map_err(|error| error.errno())?;
        let sizes = domain.page_sizes().unwrap_or_default();
        let common = self.translations.iter().filter_map(|held| held.domain.page_sizes());
        if common.fold(sizes, PageSizes::intersection).is_empty() {
            return Err(Errno::Einval);
        }
        let granule = sizes.smallest().ok_or(Errno::Einval)?.bytes();
        if self.mappings.all().any(|mapping| !mapping.range.is_aligned(granule)) {
            return Err(Errno::Einval);
        }
        if let Some(window) = software_msi(&group.reserved_regions()) {
            domain.set_msi_window(window).map_err(|error| error.errno())?;
        }
        let translation =
            Translation { domain, coherent: is_coherent(group), members: alloc::vec![member.clone()] };
        if let Err(errno) = self.fill(&translation, member) {
            // A device that hardware did not take back may be attached even so: it must find nothing.
            if !mutant!("refused-domain-stays-filled") {
                self.empty(translation.domain);
            }
            return Err(errno);
        }
        Ok(translation)
    }

    /// Maps everything in a new domain, and then attaches the group.
    fn fill(&self, translation: &Translation<P>, member: &Member<P>) -> Result<(), Errno> {
        for mapping in self.mappings.all() {
            let platform = &*self.shared.platform;
            let mapped = translation.map(platform, mapping.range, &mapping.pages, mapping.perms);
            mapped.map_err(|error| error.errno())?;
        }
        member.group.attach_as(member.owner, &translation.domain).map_err(|error| error.errno())
    }

    /// Lets a group go: it is blocked then. With the last group of a domain the domain goes, with the last of all every mapping.
    pub(crate) fn detach(&mut self, member: &Member<P>) {
        let among = |translation: &Translation<P>| {
            translation.members.iter().any(|held| Arc::ptr_eq(&held.group, &member.group))
        };
        let Some(at) = self.translations.iter().position(among) else { return };
        // If hardware refuses to block it, releasing the group tries again; what it can reach is taken away below in any case.
        let blocked = member.group.detach_as(member.owner).is_ok();
        self.say("vfio_detach", member, if blocked { "ok" } else { "refused" });
        let members = &mut self.translations[at].members;
        members.retain(|held| !Arc::ptr_eq(&held.group, &member.group));
        if members.is_empty() {
            let Translation { domain, .. } = self.translations.remove(at);
            if self.translations.is_empty() {
                self.drop_everything(alloc::vec![domain]);
            } else {
                self.empty(domain);
            }
        }
        self.forbid();
    }

    /// Empties a domain that nobody is attached to. The pages stay, because other domains have them.
    fn empty(&mut self, domain: Arc<Domain<P>>) {
        let ranges: Vec<IovaRange> = self.mappings.all().map(|mapping| mapping.range).collect();
        if forget(core::slice::from_ref(&domain), &ranges).is_err() {
            self.lost.push(domain);
        }
    }

    /// Tries again to get rid of mappings that hardware may still know: a new domain must not map them.
    fn drop_stale(&mut self) -> Result<(), Errno> {
        let stale: Vec<IovaRange> =
            self.mappings.all().filter(|mapping| mapping.stale).map(|mapping| mapping.range).collect();
        if stale.is_empty() { Ok(()) } else { self.drop_mappings(&stale).map(drop) }
    }

    fn members(&self) -> impl Iterator<Item = &Member<P>> {
        self.translations.iter().flat_map(|translation| &translation.members)
    }

    fn say(&self, name: &'static str, member: &Member<P>, result: &'static str) {
        let fields = [
            ("group", Value::Dec(member.group.id().into())),
            ("domains", Value::Dec(self.translations.len() as u64)),
            ("result", Value::Str(result)),
        ];
        say(&*self.shared.platform, name, &fields);
    }
}

fn is_coherent<P: Platform>(group: &Group<P>) -> bool {
    group.devices().iter().all(|device| device.info().coherent)
}

/// What cannot be mapped for a group: what its IOMMU cannot, and what is reserved.
fn forbidden_for<P: Platform>(group: &Group<P>) -> Vec<IovaRange> {
    let mut can = RangeSet::new();
    can.insert(group.iommu().capabilities().aperture);
    let mut forbidden = can.gaps(IovaRange::all());
    let binding = group.reserved_regions().into_iter().filter(|region| region.kind.binds_users());
    forbidden.extend(binding.map(|region| region.range));
    forbidden
}

/// Where doorbells get mapped: nowhere, if hardware decodes some.
fn software_msi(regions: &[ReservedRegion]) -> Option<IovaRange> {
    if regions.iter().any(|region| region.kind == ReservedKind::Msi) {
        return None;
    }
    regions.iter().find(|region| region.kind == ReservedKind::SoftwareMsi).map(|region| region.range)
}
