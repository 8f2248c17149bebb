//! A witness of what the DMA API maps and unmaps: which addresses a device must not reach any more.
//!
//! It hears the same events as everybody, and tries the addresses at the IOMMU's model as the device would. It shares nothing with the
//! code it watches but the events' names: addresses that are unmapped without a word are found by the count of mappings at the end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model_bus::{Outcome, Request, Translator};
use portcullis::types::trace::{Event, Sink, Value};
use portcullis::types::{Access, Iova, SourceId};

use crate::trace::SharedSink;

/// A sink that passes everything on, and remembers what was mapped and unmapped for one device.
pub(super) struct Witness {
    device: String,
    next: SharedSink,
    seen: Mutex<Seen>,
}

/// Ranges by first address, with their lengths.
#[derive(Default)]
struct Seen {
    live: BTreeMap<u64, u64>,
    gone: BTreeMap<u64, u64>,
}

impl Seen {
    /// Events of core: `dma_alloc`, `dma_map`, `dma_map_sg` give a device addresses, `dma_free`, `dma_unmap`, `dma_unmap_sg` take them away.
    fn note(&mut self, name: &str, iova: u64, len: Option<u64>) {
        if name.starts_with("dma_map") || name == "dma_alloc" {
            if let Some(len) = len.filter(|&len| len > 0) {
                self.live.insert(iova, len);
            }
        } else if name.starts_with("dma_unmap") || name == "dma_free" {
            if let Some(len) = self.live.remove(&iova) {
                self.gone.insert(iova, len);
            }
        }
    }
}

/// What became of the tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probes {
    /// How many accesses were tried.
    pub(super) tried: u64,
    /// How many of them were aborted.
    pub(super) aborted: u64,
}

impl Witness {
    pub(super) fn new(device: &str, next: SharedSink) -> Self {
        Self { device: device.into(), next, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many ranges are mapped.
    pub(super) fn live(&self) -> usize {
        self.seen().live.len()
    }

    /// Tries the first and the last byte of everything that was unmapped since the last call and is not mapped again. `after_each` lets
    /// the IOMMU's events be read.
    pub(super) fn probe(
        &self,
        iommu: &dyn Translator,
        source: SourceId,
        mut after_each: impl FnMut(),
    ) -> Probes {
        let mut probes = Probes::default();
        for (first, last) in self.take_gone() {
            for at in [first, last] {
                for access in [Access::READ, Access::WRITE] {
                    let request = Request { source, pasid: None, iova: Iova::new(at), len_bytes: 1, access };
                    let outcome = iommu.access(&request, &mut |_| Ok(()));
                    probes.tried += 1;
                    probes.aborted += u64::from(outcome == Outcome::Aborted);
                    after_each();
                }
            }
        }
        probes
    }

    /// The ranges, first to last, that nothing mapped overlaps.
    fn take_gone(&self) -> Vec<(u64, u64)> {
        let mut seen = self.seen();
        let gone = core::mem::take(&mut seen.gone);
        let ranges = gone.into_iter().map(|(first, len)| (first, first + (len - 1)));
        let overlaps = |first: u64, last: u64| {
            let below = seen.live.range(..=last).next_back();
            below.is_some_and(|(&at, len)| at + (len - 1) >= first)
        };
        ranges.filter(|&(first, last)| !overlaps(first, last)).collect()
    }
}

/// The number in an event's field.
fn number(event: &Event<'_>, name: &str) -> Option<u64> {
    event.fields.iter().find(|(key, _)| *key == name).and_then(|(_, value)| match value {
        Value::Dec(number) | Value::Hex(number) | Value::Addr(number) => Some(*number),
        Value::Str(_) => None,
    })
}

impl Sink for Witness {
    fn listening(&self) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        if event.source == "core"
            && event.fields.first() == Some(&("dev", Value::Str(&self.device)))
            && let Some(iova) = number(event, "iova")
        {
            self.seen().note(event.name, iova, number(event, "len"));
        }
        if self.next.listening() {
            self.next.event(event);
        }
    }
}
