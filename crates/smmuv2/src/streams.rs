//! Whose streams are whose, in which groups, and what they are attached to.
//!
//! A device's sources become groups: fewer than sources where masks can join them, never matching a stream that the device does not have. Two groups that
//! match the same stream are what the hardware must not be given: a device whose streams are also another's is refused, and said whose they are.
//!
//! Streams that keep what firmware gave them (`Config::boot_streams`) are in groups of nobody's device. A device that has exactly the
//! streams of such a group takes it over as it is, and leaves it when it is first attached; from one whose group is cut differently the group is
//! taken, and its streams are blocked as everybody's are.
//!
//! Choice: two devices never share a group, though the hardware could let them. What one is attached to would be attached to the other, behind
//! core's back.
//!
//! Spec: SMMUv2 D.c, 2.3.7 "StreamID matching", 2.3.8 "StreamID indexing".
//! Not here: writing registers (`groups`), attaching (`smmu`).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AddDeviceError, HwDomain};
use portcullis_core::nested::NestedDomain;
use portcullis_hal::Platform;
use portcullis_types::{SourceId, mutant};

use crate::groups::{Mapping, Path};
use crate::matching::{StreamMatch, merged};

/// What a group is attached to, and what that keeps alive.
pub(crate) enum Attachment<P: Platform> {
    /// Its traffic faults.
    Blocked,
    /// Its traffic passes.
    Identity,
    /// What firmware left, a bank of firmware's or a way around.
    Boot(Path),
    /// Its traffic is translated.
    Domain {
        /// Dropped only after the hardware uses it no longer.
        domain: Arc<dyn HwDomain<P>>,
        /// Its bank.
        bank: u8,
    },
    /// Its traffic is translated by a guest's table, and then by a domain's.
    Nested {
        /// Dropped only after the hardware uses it no longer.
        domain: Arc<dyn NestedDomain>,
        /// The bank of the guest's table.
        bank: u8,
    },
    /// Its traffic faults, and the hardware has not confirmed that nothing of what it was attached to before is under way.
    Unconfirmed(Box<Self>),
}

impl<P: Platform> Attachment<P> {
    pub(crate) fn path(&self) -> Path {
        match self {
            Self::Blocked | Self::Unconfirmed(_) => Path::Fault,
            Self::Identity => Path::Bypass,
            Self::Boot(path) => *path,
            Self::Domain { bank, .. } | Self::Nested { bank, .. } => Path::Bank(*bank),
        }
    }

    /// Where its traffic goes, or may be under way still.
    pub(crate) fn under_way(&self) -> Path {
        if let Self::Unconfirmed(before) = self { before.path() } else { self.path() }
    }

    /// Blocked instead, without the hardware's word: what it may still use is kept until that comes.
    pub(crate) fn unconfirmed(self) -> Self {
        match self {
            Self::Blocked | Self::Unconfirmed(_) => self,
            _ => Self::Unconfirmed(Box::new(self)),
        }
    }
}

impl<P: Platform> Clone for Attachment<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity => Self::Identity,
            Self::Boot(path) => Self::Boot(*path),
            Self::Domain { domain, bank } => Self::Domain { domain: domain.clone(), bank: *bank },
            Self::Nested { domain, bank } => Self::Nested { domain: domain.clone(), bank: *bank },
            Self::Unconfirmed(before) => Self::Unconfirmed(before.clone()),
        }
    }
}

/// A group that is valid.
pub(crate) struct Group<P: Platform> {
    pub(crate) streams: StreamMatch,
    /// Whose; nobody's if firmware left it.
    pub(crate) device: Option<Arc<str>>,
    pub(crate) attached: Attachment<P>,
}

/// All streams.
pub(crate) struct Streams<P: Platform> {
    pub(crate) mapping: Mapping,
    /// Which bits a StreamID, and a mask, can have.
    pub(crate) id_bits: u16,
    pub(crate) mask_bits: u16,
    pub(crate) groups: Vec<Option<Group<P>>>,
    /// The sources of devices as core knows them, and whose they are.
    sources: BTreeMap<u32, Arc<str>>,
}

/// How a device's new streams are to be placed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Groups of firmware's that the device takes over as they are.
    pub(crate) adopted: Vec<usize>,
    /// Groups of firmware's that give way.
    pub(crate) evicted: Vec<usize>,
    /// Groups that are opened, and for which streams.
    pub(crate) opened: Vec<(usize, StreamMatch)>,
}

impl<P: Platform> Streams<P> {
    pub(crate) fn new(groups: usize) -> Self {
        Self {
            mapping: Mapping::Indexing,
            id_bits: 0,
            mask_bits: 0,
            groups: (0..groups).map(|_| None).collect(),
            sources: BTreeMap::new(),
        }
    }

    /// Bits of a StreamID.
    fn bits(&self) -> u8 {
        match self.mapping {
            Mapping::Indexing => {
                u8::try_from(usize::BITS - (self.groups.len() - 1).leading_zeros()).unwrap_or(u8::MAX)
            }
            Mapping::Matching { .. } => {
                u8::try_from(u16::BITS - self.id_bits.leading_zeros()).unwrap_or(u8::MAX)
            }
        }
    }

    /// Whether the hardware can tell these streams from others.
    pub(crate) fn sayable(&self, streams: StreamMatch) -> bool {
        match self.mapping {
            Mapping::Indexing => usize::from(streams.id() | streams.mask()) < self.groups.len(),
            Mapping::Matching { .. } => {
                (streams.id() | streams.mask()) & !self.id_bits == 0 && streams.mask() & !self.mask_bits == 0
            }
        }
    }

    /// What the hardware is told of these streams: as few entries as masks allow, or one for each where streams index.
    pub(crate) fn entries(&self, streams: &[StreamMatch]) -> Vec<StreamMatch> {
        match self.mapping {
            Mapping::Indexing => {
                let each = streams.iter().flat_map(|streams| streams.each());
                merged(each.map(|id| StreamMatch::new(id, 0)), 0)
            }
            Mapping::Matching { .. } => merged(streams.iter().copied(), self.mask_bits),
        }
    }

    /// How a device of this name may have `sources`: they can be told apart, and are nobody else's. A device may name one of its own twice.
    pub(crate) fn place(&self, name: &str, sources: &[SourceId]) -> Result<Placement, AddDeviceError> {
        for &source in sources {
            let streams = StreamMatch::of(source);
            if !self.sayable(streams) {
                return Err(AddDeviceError::OutOfRange { source, bits: self.bits() });
            }
            if let Some(by) = self.owner_of(streams, |by| by != name) {
                return Err(AddDeviceError::Taken { source, by: by.to_string() });
            }
        }
        let mut fresh: Vec<StreamMatch> = sources.iter().map(|&source| StreamMatch::of(source)).collect();
        fresh.retain(|streams| !self.own_groups(name).any(|(_, group)| group.streams.covers(*streams)));
        let entries = self.entries(&fresh);
        // Two of one device that overlap without one covering the other cannot be put into words.
        let clash = |at: usize| {
            let later = entries[at + 1..].iter().any(|other| other.overlaps(entries[at]));
            later || self.own_groups(name).any(|(_, group)| group.streams.overlaps(entries[at]))
        };
        if let Some(at) = (0..entries.len()).find(|&at| clash(at)) {
            let source = SourceId(u32::from(entries[at].id()) | u32::from(entries[at].mask()) << 16);
            return Err(AddDeviceError::Taken { source, by: name.to_string() });
        }
        self.find_room(entries)
    }

    fn find_room(&self, entries: Vec<StreamMatch>) -> Result<Placement, AddDeviceError> {
        let mut placement = Placement { adopted: Vec::new(), evicted: Vec::new(), opened: Vec::new() };
        let mut left = Vec::new();
        for entry in entries {
            match self.boot_groups().find(|(_, group)| group.streams == entry) {
                Some((at, _)) => placement.adopted.push(at),
                None => left.push(entry),
            }
        }
        let gives_way = |group: &Group<P>| left.iter().any(|entry| entry.overlaps(group.streams));
        placement.evicted =
            self.boot_groups().filter(|(_, group)| gives_way(group)).map(|(at, _)| at).collect();
        let free = |at: &usize| self.groups[*at].is_none() || placement.evicted.contains(at);
        let mut room = (0..self.groups.len()).filter(free);
        for entry in left {
            let at = match self.mapping {
                Mapping::Indexing => Some(usize::from(entry.id())),
                Mapping::Matching { .. } => room.next(),
            };
            placement.opened.push((at.ok_or(AddDeviceError::NoMemory)?, entry));
        }
        Ok(placement)
    }

    /// Whose of those that `who` picks some of these streams are.
    fn owner_of(&self, streams: StreamMatch, who: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        let overlaps = |group: &&Group<P>| {
            let shared = group.streams.overlaps(streams) && !mutant!("smmuv2-stream-of-two-devices");
            shared && group.device.as_ref().is_some_and(|by| who(by))
        };
        self.groups.iter().flatten().find(overlaps).and_then(|group| group.device.as_ref())
    }

    fn own_groups<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a Group<P>)> {
        self.valid().filter(move |(_, group)| group.device.as_deref() == Some(name))
    }

    fn boot_groups(&self) -> impl Iterator<Item = (usize, &Group<P>)> {
        self.valid().filter(|(_, group)| group.device.is_none())
    }

    /// All groups that are valid.
    pub(crate) fn valid(&self) -> impl Iterator<Item = (usize, &Group<P>)> {
        self.groups.iter().enumerate().filter_map(|(at, group)| Some((at, group.as_ref()?)))
    }

    /// Notes that a device has these sources.
    pub(crate) fn own(&mut self, name: &Arc<str>, sources: &[SourceId]) {
        self.sources.extend(sources.iter().map(|source| (source.0, name.clone())));
    }

    /// Forgets that anybody has these sources.
    pub(crate) fn disown(&mut self, sources: &[SourceId]) {
        sources.iter().for_each(|source| drop(self.sources.remove(&source.0)));
    }

    /// The groups of the device that has exactly these sources; the source that nobody has, or none if they are not all of one device's.
    pub(crate) fn groups_of(&self, sources: &[SourceId]) -> Result<Vec<usize>, Option<SourceId>> {
        let unknown = sources.iter().find(|source| !self.sources.contains_key(&source.0));
        if let Some(&unknown) = unknown {
            return Err(Some(unknown));
        }
        let name = sources.first().and_then(|first| self.sources.get(&first.0)).ok_or(None)?;
        let named = |id: &u32| sources.iter().any(|source| source.0 == *id);
        let whole = self.sources.iter().all(|(id, by)| (by == name) == named(id));
        if whole { Ok(self.own_groups(name).map(|(at, _)| at).collect()) } else { Err(None) }
    }

    /// The source, as core knows it, whose stream this is.
    pub(crate) fn source_of(&self, stream_id: u16) -> Option<SourceId> {
        let sources = self.sources.keys().map(|&source| SourceId(source));
        sources.into_iter().find(|&source| StreamMatch::of(source).matches(stream_id))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::testing::Fake;

    fn streams(mapping: Mapping) -> Streams<Fake> {
        Streams { mapping, id_bits: 0x7fff, mask_bits: 0x7fff, ..Streams::new(8) }
    }

    fn matching() -> Streams<Fake> {
        streams(Mapping::Matching { extended: false })
    }

    fn sources(ids: &[u32]) -> Vec<SourceId> {
        ids.iter().map(|&id| SourceId(id)).collect()
    }

    /// Places a device, and notes it.
    fn add(streams: &mut Streams<Fake>, name: &str, ids: &[u32]) -> Result<Placement, AddDeviceError> {
        let placement = streams.place(name, &sources(ids))?;
        let name: Arc<str> = Arc::from(name);
        for &(at, entry) in &placement.opened {
            streams.groups[at] =
                Some(Group { streams: entry, device: Some(name.clone()), attached: Attachment::Blocked });
        }
        streams.own(&name, &sources(ids));
        Ok(placement)
    }

    fn boot(streams: &mut Streams<Fake>, at: usize, of: StreamMatch) {
        streams.groups[at] =
            Some(Group { streams: of, device: None, attached: Attachment::Boot(Path::Bypass) });
    }

    #[test]
    fn a_stream_that_is_somebody_elses_is_refused_and_said_whose_it_is() {
        let mut streams = matching();
        add(&mut streams, "gpu", &[0x003f_0400]).unwrap();
        for id in [0x405, 0x0001_043e, 0x00ff_0400, 0x7fff_0000] {
            let taken = AddDeviceError::Taken { source: SourceId(id), by: "gpu".to_string() };
            assert_eq!(add(&mut streams, "net", &[9, id]), Err(taken), "{id:#x}");
        }
        assert_eq!(streams.valid().count(), 1);
        add(&mut streams, "net", &[0x440]).unwrap();
        assert!(add(&mut streams, "gpu", &[0x405]).unwrap().opened.is_empty(), "its own may come again");
    }

    #[test]
    fn a_devices_streams_take_as_few_groups_as_masks_allow() {
        let mut streams = matching();
        let placement = add(&mut streams, "gpu", &[0x10, 0x11, 0x12, 0x13, 0x20]).unwrap();
        let wanted = vec![(0, StreamMatch::new(0x10, 3)), (1, StreamMatch::new(0x20, 0))];
        assert_eq!(placement.opened, wanted);
        streams.mask_bits = 0;
        assert_eq!(add(&mut streams, "net", &[0x30, 0x31]).unwrap().opened.len(), 2);
    }

    #[test]
    fn what_the_hardware_cannot_say_is_out_of_range() {
        let mut streams = matching();
        let far = |bits| Err(AddDeviceError::OutOfRange { source: SourceId(0x8000), bits });
        assert_eq!(add(&mut streams, "gpu", &[0x8000]), far(15));
        streams.mask_bits = 0xff;
        let masked = SourceId(0x0100_0000);
        assert_eq!(
            add(&mut streams, "gpu", &[masked.0]),
            Err(AddDeviceError::OutOfRange { source: masked, bits: 15 })
        );
        let mut indexed = super::tests::streams(Mapping::Indexing);
        assert_eq!(add(&mut indexed, "gpu", &[0x8000]), far(3));
        let placement = add(&mut indexed, "gpu", &[0x0001_0006, 2]).unwrap();
        let at: Vec<usize> = placement.opened.iter().map(|&(at, _)| at).collect();
        assert_eq!(at, [2, 6, 7], "a StreamID is the number of its group");
    }

    #[test]
    fn too_many_streams_are_refused_whole() {
        let mut streams = matching();
        let apart: Vec<u32> = (0..9).map(|at| 0x31 * at).collect();
        streams.mask_bits = 0;
        assert_eq!(add(&mut streams, "gpu", &apart), Err(AddDeviceError::NoMemory));
        assert_eq!(streams.valid().count(), 0);
        add(&mut streams, "gpu", &apart[..8]).unwrap();
    }

    #[test]
    fn entries_of_one_device_that_overlap_halfway_are_refused() {
        let overlap = add(&mut matching(), "gpu", &[0x0003_0000, 0x0006_0000]);
        assert!(matches!(overlap, Err(AddDeviceError::Taken { by, .. }) if by == "gpu"));
    }

    #[test]
    fn firmwares_group_is_taken_over_as_it_is_or_gives_way() {
        let mut streams = matching();
        boot(&mut streams, 0, StreamMatch::new(5, 0));
        boot(&mut streams, 1, StreamMatch::new(0x40, 0xf));
        let display = streams.place("display", &sources(&[5])).unwrap();
        assert_eq!(display, Placement { adopted: vec![0], evicted: vec![], opened: vec![] });
        let disk = streams.place("disk", &sources(&[0x41])).unwrap();
        assert_eq!((disk.adopted, disk.evicted), (vec![], vec![1]));
        assert_eq!(disk.opened, [(1, StreamMatch::new(0x41, 0))]);
    }

    #[test]
    fn a_device_is_all_of_its_sources() {
        let mut streams = matching();
        add(&mut streams, "gpu", &[3, 0x000f_0010]).unwrap();
        add(&mut streams, "net", &[4]).unwrap();
        assert_eq!(streams.groups_of(&sources(&[0x000f_0010, 3])).unwrap(), [0, 1]);
        assert_eq!(streams.groups_of(&sources(&[3])), Err(None));
        assert_eq!(streams.groups_of(&sources(&[3, 4, 0x000f_0010])), Err(None));
        assert_eq!(streams.groups_of(&sources(&[9])), Err(Some(SourceId(9))));
        assert_eq!(streams.source_of(0x1b), Some(SourceId(0x000f_0010)));
        assert_eq!(streams.source_of(0x20), None);
    }
}
