//! Which streams are whose, and what they are attached to.
//!
//! Spec: SMMUv3 H.a, 3.2 "Stream numbering".
//! Not here: their table entries (`stream_table`), attaching (`attach`).

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_core::iommu::{AddDeviceError, HwDomain};
use portcullis_hal::Platform;
use portcullis_types::SourceId;

use crate::context::ContextTable;

/// What a stream is attached to, and what that keeps alive.
pub(crate) enum Attachment<P: Platform> {
    /// Its traffic is aborted.
    Blocked,
    /// Its traffic passes.
    Identity,
    /// Its traffic is translated. The table of contexts is stage 1's.
    Domain {
        /// Dropped only after the hardware uses it no longer.
        _domain: Arc<dyn HwDomain<P>>,
        /// Dropped only after the hardware uses it no longer.
        _contexts: Option<Arc<ContextTable<P>>>,
    },
}

impl<P: Platform> Attachment<P> {
    /// Keeps for good what the hardware may still read.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl<P: Platform> Clone for Attachment<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Blocked => Self::Blocked,
            Self::Identity => Self::Identity,
            Self::Domain { _domain, _contexts } => {
                Self::Domain { _domain: _domain.clone(), _contexts: _contexts.clone() }
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
}

impl<P: Platform> Streams<P> {
    pub(crate) fn new() -> Self {
        Self { by_id: BTreeMap::new() }
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
            if let Some(stream) = self.by_id.get(&source.0).filter(|stream| &*stream.device != name) {
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
    pub(crate) fn attach_all(&mut self, stream_ids: &[u32], attached: &Attachment<P>) -> Vec<Attachment<P>> {
        let mut old = Vec::new();
        for stream_id in stream_ids {
            if let Some(stream) = self.by_id.get_mut(stream_id) {
                old.push(core::mem::replace(&mut stream.attached, attached.clone()));
            }
        }
        old
    }

    /// Takes all of them out.
    pub(crate) fn take_all(&mut self) -> BTreeMap<u32, Stream<P>> {
        core::mem::take(&mut self.by_id)
    }
}

/// The numbers of `sources`, in order, each once.
pub(crate) fn distinct(sources: &[SourceId]) -> Vec<u32> {
    let mut ids: Vec<u32> = sources.iter().map(|source| source.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
