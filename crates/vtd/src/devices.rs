//! Which sources are whose, and what they are attached to.
//!
//! Not here: their entries (`context`, `pasid`), attaching (`switch`, `vtd`).

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AddDeviceError, HwDomain, Target};
use portcullis_core::nested::NestedDomain;
use portcullis_core::sva::ProcessDomain;
use portcullis_hal::Platform;
use portcullis_spec::vtd::context::ScalableContextWord0;
use portcullis_types::SourceId;

use crate::lead::Lead;
use crate::pasid::Directory;
use crate::sharing::Sharing;

/// Bits of a source-id.
const SOURCE_BITS: u8 = 16;

/// The name of who has a source that firmware reserved memory for, before a device does.
pub(crate) const FIRMWARE: &str = "firmware";

/// What a source is attached to, and what that keeps alive.
pub(crate) enum Attachment<P: Platform> {
    /// Its requests are blocked.
    Blocked,
    /// Its requests pass, or go through a table that maps memory to itself.
    Identity(Option<Arc<dyn HwDomain<P>>>),
    /// Its requests are translated.
    Domain(Arc<dyn HwDomain<P>>),
    /// Its requests are translated by a process's own table.
    Process(Arc<dyn ProcessDomain>),
    /// Its requests are translated by a guest's table, and then by a domain's.
    Nested(Arc<dyn NestedDomain>),
}

impl<P: Platform> Attachment<P> {
    /// The domain whose table its entry leads to.
    pub(crate) fn domain(&self) -> Option<&Arc<dyn HwDomain<P>>> {
        match self {
            Self::Identity(domain) => domain.as_ref(),
            Self::Domain(domain) => Some(domain),
            Self::Blocked | Self::Process(_) | Self::Nested(_) => None,
        }
    }

    /// The process whose table its entry leads to.
    pub(crate) fn process(&self) -> Option<&Arc<dyn ProcessDomain>> {
        if let Self::Process(process) = self { Some(process) } else { None }
    }

    /// Whether both are the same thing.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blocked, Self::Blocked) | (Self::Identity(_), Self::Identity(_)) => true,
            (Self::Domain(one), Self::Domain(other)) => Arc::ptr_eq(one, other),
            (Self::Process(one), Self::Process(other)) => Arc::ptr_eq(one, other),
            (Self::Nested(one), Self::Nested(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<P: Platform> Clone for Attachment<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity(domain) => Self::Identity(domain.clone()),
            Self::Domain(domain) => Self::Domain(domain.clone()),
            Self::Process(process) => Self::Process(process.clone()),
            Self::Nested(nested) => Self::Nested(nested.clone()),
        }
    }
}

/// A source that belongs to a device.
pub(crate) struct Source<P: Platform> {
    pub(crate) device: Arc<str>,
    pub(crate) attached: Attachment<P>,
    /// Where its entry leads: in scalable mode that of requests without PASID.
    pub(crate) lead: Option<Lead>,
    /// Whether its context entry lets its device share: with PASIDs, translation requests and page requests.
    pub(crate) shares: bool,
    /// Hardware has not confirmed that it forgot what its entries were before: what is in memory now is not what hardware goes by.
    pub(crate) doubted: bool,
    /// In scalable mode.
    pub(crate) directory: Option<Directory>,
}

impl<P: Platform> Source<P> {
    /// The first word of its context entry in scalable mode; none without a directory.
    pub(crate) fn context_word(&self) -> Option<u64> {
        let flags = ScalableContextWord0::new().with_paside(self.shares).with_dte(self.shares);
        Some(self.directory.as_ref()?.context_word(flags.with_pre(self.shares)))
    }
}

/// All sources that belong to devices.
pub(crate) struct Devices<P: Platform> {
    by_id: BTreeMap<u16, Source<P>>,
    /// Devices that share processes' memory, by their first source.
    sharing: BTreeMap<u16, Sharing<P>>,
    /// What hardware may go on using though its source is blocked.
    lost: Vec<Lost<P>>,
}

/// What hardware may go on using for a source that is blocked.
struct Lost<P: Platform> {
    sid: u16,
    attached: Attachment<P>,
    /// Hardware has forgotten it since, whatever it may use for the source by now.
    forgotten: bool,
}

/// What sources were attached to, and what devices shared, once nobody uses the unit any more.
pub(crate) type Everything<P> =
    (BTreeMap<u16, Source<P>>, BTreeMap<u16, Sharing<P>>, Vec<(u16, Attachment<P>)>);

impl<P: Platform> Devices<P> {
    pub(crate) fn new() -> Self {
        Self { by_id: BTreeMap::new(), sharing: BTreeMap::new(), lost: Vec::new() }
    }

    /// The ids of `sources`, each once, if a device of this name may have them all: they exist, and are nobody else's. A device may name one of its own
    /// twice, and takes over what firmware had.
    pub(crate) fn admit(&self, name: &str, sources: &[SourceId]) -> Result<Vec<u16>, AddDeviceError> {
        for &source in sources {
            let out_of_range = AddDeviceError::OutOfRange { source, bits: SOURCE_BITS };
            let id = u16::try_from(source.0).map_err(|_| out_of_range)?;
            let other = self.by_id.get(&id).filter(|it| &*it.device != name && &*it.device != FIRMWARE);
            if let Some(other) = other {
                return Err(AddDeviceError::Taken { source, by: other.device.to_string() });
            }
        }
        Ok(distinct(sources))
    }

    /// Makes a source known. One that firmware had keeps what it is attached to: blocking it would stop what firmware does.
    pub(crate) fn insert(&mut self, name: &Arc<str>, id: u16) {
        let source = self.by_id.entry(id).or_insert_with(|| Source {
            device: name.clone(),
            attached: Attachment::Blocked,
            lead: None,
            shares: false,
            doubted: false,
            directory: None,
        });
        source.device = name.clone();
    }

    pub(crate) fn remove(&mut self, id: u16) -> Option<Source<P>> {
        self.by_id.remove(&id)
    }

    pub(crate) fn contains(&self, id: u16) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn get(&self, id: u16) -> Option<&Source<P>> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u16) -> Option<&mut Source<P>> {
        self.by_id.get_mut(&id)
    }

    /// Whether hardware may go by what some of these had before.
    pub(crate) fn any_doubted(&self, sids: &[u16]) -> bool {
        sids.iter().any(|sid| self.by_id.get(sid).is_some_and(|source| source.doubted))
    }

    /// All of which hardware may go by what they had before.
    pub(crate) fn all_doubted(&self) -> Vec<u16> {
        self.by_id.iter().filter(|(_, source)| source.doubted).map(|(&sid, _)| sid).collect()
    }

    /// Hardware may go by what these had before, from now on; or does no more.
    pub(crate) fn doubt(&mut self, sids: &[u16], doubted: bool) {
        let theirs = self.by_id.iter_mut().filter(|(sid, _)| sids.contains(sid));
        theirs.for_each(|(_, source)| source.doubted = doubted);
        if !doubted {
            let lost = self.lost.iter_mut().filter(|lost| sids.contains(&lost.sid));
            lost.for_each(|lost| lost.forgotten = true);
        }
    }

    /// Gives back the directories that were outgrown of sources that are not doubted: hardware knows those that took their place.
    pub(crate) fn settle(&mut self, platform: &P) {
        let sure = self.by_id.values_mut().filter(|source| !source.doubted);
        sure.filter_map(|source| source.directory.as_mut()).for_each(|directory| directory.settle(platform));
    }

    /// Notes that a source is blocked, which hardware did not confirm: it may go on using what the source was attached to, or `next`. Both must go on being told of
    /// changes, until they are found again.
    pub(crate) fn lose(&mut self, sid: u16, next: &Attachment<P>) {
        let Some(source) = self.by_id.get_mut(&sid) else { return };
        let old = core::mem::replace(&mut source.attached, Attachment::Blocked);
        for attached in [old, next.clone()] {
            if matches!(attached, Attachment::Blocked) {
                continue;
            }
            match self.lost.iter_mut().find(|lost| lost.sid == sid && lost.attached.is(&attached)) {
                Some(lost) => lost.forgotten = false,
                None => self.lost.push(Lost { sid, attached, forgotten: false }),
            }
        }
    }

    /// What was lost and has been forgotten, and is not what its source is attached to again.
    pub(crate) fn find(&mut self) -> Vec<(u16, Attachment<P>)> {
        let by_id = &self.by_id;
        let settled = |lost: &mut Lost<P>| lost.forgotten || !by_id.contains_key(&lost.sid);
        let found = self.lost.extract_if(.., settled);
        let mut found: Vec<_> = found.map(|lost| (lost.sid, lost.attached)).collect();
        found.retain(|(sid, attached)| !self.may_use(*sid, attached));
        found
    }

    /// Whether hardware may use this for a source: the source is attached to it, or was, and hardware has not confirmed that it is not any more.
    pub(crate) fn may_use(&self, sid: u16, it: &Attachment<P>) -> bool {
        self.by_id.get(&sid).is_some_and(|source| source.attached.is(it))
            || self.lost.iter().any(|lost| lost.sid == sid && lost.attached.is(it))
    }

    /// What hardware may use for these: what they are attached to, or were.
    pub(crate) fn used_by<'a>(&'a self, sids: &'a [u16]) -> impl Iterator<Item = &'a Attachment<P>> {
        let attached = sids.iter().filter_map(|sid| Some(&self.by_id.get(sid)?.attached));
        let lost = self.lost.iter().filter(|lost| sids.contains(&lost.sid));
        attached.chain(lost.map(|lost| &lost.attached))
    }

    /// All sources.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Source<P>)> {
        self.by_id.iter().map(|(&id, source)| (id, source))
    }

    /// Whether these, distinct and in order, are all sources of one device, attached to the same thing.
    pub(crate) fn are_one_device(&self, ids: &[u16]) -> bool {
        let Some(first) = ids.first().and_then(|first| self.by_id.get(first)) else { return false };
        let of_device = self.by_id.iter().filter(|(_, source)| source.device == first.device);
        of_device.clone().map(|(id, _)| id).eq(ids)
            && of_device.map(|(_, source)| source).all(|source| source.attached.is(&first.attached))
    }

    pub(crate) fn share(&mut self, sharing: Sharing<P>) {
        if let Some(&first) = sharing.sources.first() {
            self.sharing.insert(first, sharing);
        }
    }

    /// The device with exactly these sources, distinct and in order, if it shares.
    pub(crate) fn sharing(&mut self, ids: &[u16]) -> Option<&mut Sharing<P>> {
        self.sharing.get_mut(ids.first()?).filter(|sharing| sharing.sources == ids)
    }

    /// All devices that share.
    pub(crate) fn all_sharing(&mut self) -> impl Iterator<Item = &mut Sharing<P>> {
        self.sharing.values_mut()
    }

    /// Whether any of these sources belongs to a device that shares.
    pub(crate) fn any_shares(&self, ids: &[u16]) -> bool {
        self.sharing.values().any(|sharing| sharing.sources.iter().any(|id| ids.contains(id)))
    }

    pub(crate) fn unshare(&mut self, first: u16) -> Option<Sharing<P>> {
        self.sharing.remove(&first)
    }

    /// Takes all of them out.
    pub(crate) fn take_all(&mut self) -> Everything<P> {
        let Self { by_id, sharing, lost } = self;
        let lost = core::mem::take(lost).into_iter().map(|lost| (lost.sid, lost.attached)).collect();
        (core::mem::take(by_id), core::mem::take(sharing), lost)
    }
}

/// The ids of `sources`, in order, each once. What is no source-id is left out: no device has it.
pub(crate) fn distinct(sources: &[SourceId]) -> Vec<u16> {
    let mut ids: Vec<u16> = sources.iter().filter_map(|source| u16::try_from(source.0).ok()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What `target` is, apart from what a driver knows of it.
pub(crate) fn plain<P: Platform>(target: &Target<P>) -> Attachment<P> {
    match target {
        Target::Blocked => Attachment::Blocked,
        Target::Identity => Attachment::Identity(None),
        Target::Domain(domain) => Attachment::Domain(domain.clone()),
        Target::Process(process) => Attachment::Process(process.clone()),
        Target::Nested(nested) => Attachment::Nested(nested.clone()),
    }
}
