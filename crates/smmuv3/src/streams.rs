//! Which streams are whose, and what they are attached to.
//!
//! Spec: SMMUv3 H.a, 3.2 "Stream numbering".
//! Not here: their table entries (`stream_table`), attaching (`attach`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AddDeviceError, HwDomain, Target};
use portcullis_core::sva::ProcessDomain;
use portcullis_hal::Platform;
use portcullis_types::{SourceId, mutant};

use crate::sharing::Sharing;
use crate::substreams::Contexts;

/// What a stream is attached to, and what that keeps alive.
pub(crate) enum Attachment<P: Platform> {
    /// Its traffic is aborted.
    Blocked,
    /// Its traffic passes. The table of contexts, if there is one, is for substreams.
    Identity {
        /// Dropped only after the hardware uses it no longer.
        contexts: Option<Arc<Contexts<P>>>,
    },
    /// Its traffic is translated. The table of contexts is stage 1's.
    Domain {
        /// Dropped only after the hardware uses it no longer.
        domain: Arc<dyn HwDomain<P>>,
        /// Dropped only after the hardware uses it no longer.
        contexts: Option<Arc<Contexts<P>>>,
    },
    /// Its traffic is translated by a process's own table. The process knows the device for as long as there are `contexts`.
    Process {
        /// Dropped only after the hardware uses it no longer.
        process: Arc<dyn ProcessDomain>,
        /// Dropped only after the hardware uses it no longer.
        contexts: Arc<Contexts<P>>,
    },
}

impl<P: Platform> Attachment<P> {
    /// What would lead here again.
    pub(crate) fn target(&self) -> Target<P> {
        match self {
            Self::Blocked => Target::Blocked,
            Self::Identity { .. } => Target::Identity,
            Self::Domain { domain, .. } => Target::Domain(domain.clone()),
            Self::Process { process, .. } => Target::Process(process.clone()),
        }
    }

    /// The table of contexts that the stream's entry points to.
    pub(crate) fn contexts(&self) -> Option<&Arc<Contexts<P>>> {
        match self {
            Self::Blocked => None,
            Self::Identity { contexts } | Self::Domain { contexts, .. } => contexts.as_ref(),
            Self::Process { contexts, .. } => Some(contexts),
        }
    }

    /// Whether two streams are attached to the same thing.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blocked, Self::Blocked) | (Self::Identity { .. }, Self::Identity { .. }) => true,
            (Self::Domain { domain: one, .. }, Self::Domain { domain: other, .. }) => Arc::ptr_eq(one, other),
            (Self::Process { process: one, .. }, Self::Process { process: other, .. }) => {
                Arc::ptr_eq(one, other)
            }
            _ => false,
        }
    }

    /// Nothing leads here any more, and the hardware has confirmed it.
    pub(crate) fn cut_off(&self) {
        if let Some(contexts) = self.contexts() {
            contexts.cut_off();
        }
    }
}

impl<P: Platform> Clone for Attachment<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity { contexts } => Self::Identity { contexts: contexts.clone() },
            Self::Domain { domain, contexts } => {
                Self::Domain { domain: domain.clone(), contexts: contexts.clone() }
            }
            Self::Process { process, contexts } => {
                Self::Process { process: process.clone(), contexts: contexts.clone() }
            }
        }
    }
}

/// A stream that belongs to a device.
pub(crate) struct Stream<P: Platform> {
    pub(crate) device: Arc<str>,
    pub(crate) attached: Attachment<P>,
}

/// All streams that belong to devices.
pub(crate) struct Streams<P: Platform> {
    by_id: BTreeMap<u32, Stream<P>>,
    /// Devices that share processes' memory, by their first stream.
    sharing: BTreeMap<u32, Sharing<P>>,
    /// What hardware may go on reading though its stream is blocked or gone, by stream.
    lost: Vec<(u32, Attachment<P>)>,
    /// Streams that are blocked, of which hardware has not confirmed that what waited behind stalls has ended.
    stalled: BTreeSet<u32>,
}

/// What streams were attached to, and what devices shared, once nobody uses the SMMU any more.
pub(crate) type Everything<P> =
    (BTreeMap<u32, Stream<P>>, BTreeMap<u32, Sharing<P>>, Vec<(u32, Attachment<P>)>);

impl<P: Platform> Streams<P> {
    pub(crate) fn new() -> Self {
        Self { by_id: BTreeMap::new(), sharing: BTreeMap::new(), lost: Vec::new(), stalled: BTreeSet::new() }
    }

    /// The StreamIDs of `sources`, each once, if a device of this name may have them all: they are below `1 << bits`, and nobody
    /// else's. A device may name one of its own twice.
    pub(crate) fn admit(
        &self,
        name: &str,
        sources: &[SourceId],
        bits: u8,
    ) -> Result<Vec<u32>, AddDeviceError> {
        for &source in sources {
            if u64::from(source.0) >> bits != 0 {
                return Err(AddDeviceError::OutOfRange { source, bits });
            }
            if let Some(stream) = self
                .by_id
                .get(&source.0)
                .filter(|stream| &*stream.device != name && !mutant!("stream-of-two-devices"))
            {
                return Err(AddDeviceError::Taken { source, by: stream.device.to_string() });
            }
        }
        Ok(distinct(sources))
    }

    pub(crate) fn insert(&mut self, name: &Arc<str>, stream_id: u32) {
        self.by_id.insert(stream_id, Stream { device: name.clone(), attached: Attachment::Blocked });
    }

    pub(crate) fn remove(&mut self, stream_id: u32) -> Option<Stream<P>> {
        self.by_id.remove(&stream_id)
    }

    pub(crate) fn contains(&self, stream_id: u32) -> bool {
        self.by_id.contains_key(&stream_id)
    }

    /// Notes what streams are attached to. Answers what they were attached to before.
    fn attach_all(&mut self, stream_ids: &[u32], attached: &Attachment<P>) -> Vec<Attachment<P>> {
        let mut old = Vec::new();
        for stream_id in stream_ids {
            if let Some(stream) = self.by_id.get_mut(stream_id) {
                old.push(core::mem::replace(&mut stream.attached, attached.clone()));
            }
        }
        old
    }

    /// As [`attach_all`](Self::attach_all), when hardware has confirmed it: what was kept for it is answered, too.
    pub(crate) fn replace(&mut self, stream_ids: &[u32], attached: &Attachment<P>) -> Vec<Attachment<P>> {
        let mut old = self.attach_all(stream_ids, attached);
        old.extend(self.find(|id| stream_ids.contains(&id)));
        old
    }

    /// Notes that streams are blocked, which hardware did not confirm: it may go on reading the tables that they led to, or those of `next`, and a process must
    /// go on telling it of changes. All of that is kept until it is found again.
    pub(crate) fn lose(&mut self, stream_ids: &[u32], next: &Attachment<P>) {
        let old = self.attach_all(stream_ids, &Attachment::Blocked);
        let both = stream_ids.iter().zip(old).flat_map(|(&id, old)| [(id, old), (id, next.clone())]);
        self.lost.extend(both.filter(|(_, attached)| !matches!(attached, Attachment::Blocked)));
    }

    /// What was kept for hardware, of streams of which it has confirmed that it uses nothing any more of what they had before.
    pub(crate) fn find(&mut self, is_settled: impl Fn(u32) -> bool) -> Vec<Attachment<P>> {
        let found = self.lost.extract_if(.., |(id, _)| is_settled(*id));
        found.map(|(_, attached)| attached).collect()
    }

    /// A stream.
    pub(crate) fn get(&self, stream_id: u32) -> Option<&Stream<P>> {
        self.by_id.get(&stream_id)
    }

    /// Whether these, distinct and in order, are all streams of one device, attached to the same thing.
    pub(crate) fn are_one_device(&self, stream_ids: &[u32]) -> bool {
        let Some(first) = stream_ids.first().and_then(|first| self.by_id.get(first)) else { return false };
        let of_device = self.by_id.iter().filter(|(_, stream)| stream.device == first.device);
        of_device.clone().map(|(id, _)| id).eq(stream_ids)
            && of_device.map(|(_, stream)| stream).all(|stream| stream.attached.is_like(&first.attached))
    }

    /// Notes that a device shares processes' memory.
    pub(crate) fn share(&mut self, sharing: Sharing<P>) {
        if let Some(&first) = sharing.streams.first() {
            self.sharing.insert(first, sharing);
        }
    }

    /// The device with exactly these streams, distinct and in order, if it shares.
    pub(crate) fn sharing(&mut self, stream_ids: &[u32]) -> Option<&mut Sharing<P>> {
        self.sharing.get_mut(stream_ids.first()?).filter(|sharing| sharing.streams == stream_ids)
    }

    /// All devices that share.
    pub(crate) fn all_sharing(&mut self) -> impl Iterator<Item = &mut Sharing<P>> {
        self.sharing.values_mut()
    }

    /// Whether any of these streams belongs to a device that shares.
    pub(crate) fn any_shares(&self, stream_ids: &[u32]) -> bool {
        !self.sharing.is_empty()
            && self.sharing.values().any(|sharing| sharing.streams.iter().any(|id| stream_ids.contains(id)))
    }

    /// Notes that the device with this first stream shares no more.
    pub(crate) fn unshare(&mut self, first: u32) -> Option<Sharing<P>> {
        self.sharing.remove(&first)
    }

    /// Notes whether hardware has confirmed that what waited behind stalls of these streams has ended, now that they are blocked.
    pub(crate) fn note_end_of_stalls(&mut self, stream_ids: &[u32], confirmed: bool) {
        if confirmed {
            self.stalled.retain(|id| !stream_ids.contains(id));
        } else {
            self.stalled.extend(stream_ids);
        }
    }

    /// Those of which it has not.
    pub(crate) fn all_stalled(&self) -> Vec<u32> {
        self.stalled.iter().copied().collect()
    }

    /// Takes all of them out.
    pub(crate) fn take_all(&mut self) -> Everything<P> {
        let Self { by_id, sharing, lost, stalled } = self;
        stalled.clear();
        (core::mem::take(by_id), core::mem::take(sharing), core::mem::take(lost))
    }
}

/// The numbers of `sources`, in order, each once.
pub(crate) fn distinct(sources: &[SourceId]) -> Vec<u32> {
    let mut ids: Vec<u32> = sources.iter().map(|source| source.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    //! Part 20: from StreamID to device, ordered, many for one device, none for two.
    use alloc::vec;

    use super::*;
    use crate::testing::Fake;

    fn sources(ids: &[u32]) -> Vec<SourceId> {
        ids.iter().map(|&id| SourceId(id)).collect()
    }

    #[test]
    fn part_20_a_device_has_many_streams_in_order_and_no_stream_has_two_devices() {
        let mut streams = Streams::<Fake>::new();
        assert_eq!(streams.admit("disk", &sources(&[9, 3, 9, 700]), 16), Ok(vec![3, 9, 700]));
        let disk = Arc::from("disk");
        [3, 9, 700].into_iter().for_each(|id| streams.insert(&disk, id));
        let taken = AddDeviceError::Taken { source: SourceId(9), by: "disk".into() };
        assert_eq!(streams.admit("net", &sources(&[4, 9]), 16), Err(taken));
        assert_eq!(streams.admit("disk", &sources(&[9]), 16), Ok(vec![9]), "one of its own may come again");
        let far = AddDeviceError::OutOfRange { source: SourceId(0x1_0000), bits: 16 };
        assert_eq!(streams.admit("net", &sources(&[4, 0x1_0000]), 16), Err(far));
        assert_eq!(streams.get(700).map(|stream| &*stream.device), Some("disk"));
        assert!(streams.get(4).is_none() && streams.remove(9).is_some() && !streams.contains(9));
        assert_eq!(streams.admit("net", &sources(&[9]), 16), Ok(vec![9]));
    }

    #[test]
    fn part_20_a_device_is_all_of_its_streams_attached_alike() {
        let mut streams = Streams::<Fake>::new();
        let (disk, net) = (Arc::from("disk"), Arc::from("net"));
        [3, 9].into_iter().for_each(|id| streams.insert(&disk, id));
        streams.insert(&net, 4);
        assert!(streams.are_one_device(&[3, 9]) && streams.are_one_device(&[4]));
        let others: [&[u32]; 4] = [&[3], &[3, 4, 9], &[5], &[]];
        assert!(others.into_iter().all(|ids| !streams.are_one_device(ids)));
        streams.attach_all(&[9], &Attachment::Identity { contexts: None });
        assert!(!streams.are_one_device(&[3, 9]));
    }
}
