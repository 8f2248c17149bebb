//! Who asks for pages, and stalled transactions that wait for one.
//!
//! A stall comes as an event record. If its stream belongs to a device that shares processes' memory by stalling, and the transaction has a
//! SubstreamID, it becomes a page request; every other stall is aborted at once by `event_queue`.
//!
//! The answer goes to the stream that stalled, which may be any of the device's, with the tag of the record: CMD_RESUME for another stream of the same
//! device would match nothing.
//!
//! Spec: SMMUv3 H.a, 3.12.2 "Stall model", 4.7.1 "CMD_RESUME".
//! Not here: requests of devices with PRI (`page_requests`).

use alloc::collections::{BTreeMap, VecDeque};

use portcullis_core::iopf::{GroupTag, PageRequest};
use portcullis_hal::{Lock, Platform};
use portcullis_spec::smmuv3::event::{EVENT_WORDS, EventId, EventWord0, EventWord1};
use portcullis_types::{Iova, Pasid, Perms, SourceId};

/// A device that asks for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// By being stalled; otherwise by page requests.
    pub(crate) stalls: bool,
    /// It wants the PASID of its request on the response.
    pub(crate) response_pasid: bool,
}

/// Who asks, and which stalled transactions wait to be told of.
pub(crate) struct Stalls<P: Platform> {
    askers: Lock<P, BTreeMap<u32, Asker>>,
    waiting: Lock<P, VecDeque<PageRequest>>,
    most: usize,
}

impl<P: Platform> Stalls<P> {
    /// Nobody asks. Of hardware that can stall `most` transactions at once, no more are kept.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            askers: Lock::<P, BTreeMap<u32, Asker>>::new(BTreeMap::new()),
            waiting: Lock::<P, VecDeque<PageRequest>>::new(VecDeque::new()),
            most: most.max(1),
        }
    }

    /// These streams ask from now on.
    pub(crate) fn listen(&self, streams: &[u32], asker: Asker) {
        self.askers.lock().extend(streams.iter().map(|&stream_id| (stream_id, asker)));
    }

    /// These streams ask no more.
    pub(crate) fn ignore(&self, streams: &[u32]) {
        let mut askers = self.askers.lock();
        for stream_id in streams {
            askers.remove(stream_id);
        }
    }

    /// How a stream asks; none if it does not.
    pub(crate) fn asker(&self, stream_id: u32) -> Option<Asker> {
        self.askers.lock().get(&stream_id).copied()
    }

    /// Takes a record that is a stall to be resolved. Answers whether it is; if not, the transaction, if one waits, is the caller's to abort.
    pub(crate) fn take(&self, raw: &[u64; EVENT_WORDS]) -> bool {
        let Some(request) = request(raw) else { return false };
        if !self.asker(request.source.0).is_some_and(|asker| asker.stalls) {
            return false;
        }
        let mut waiting = self.waiting.lock();
        let room = waiting.len() < self.most;
        if room {
            waiting.push_back(request);
        }
        room
    }

    /// The stalled transaction that has waited longest to be told of.
    pub(crate) fn next(&self) -> Option<PageRequest> {
        self.waiting.lock().pop_front()
    }
}

/// The record of a stalled transaction with a SubstreamID, as a page request.
fn request(raw: &[u64; EVENT_WORDS]) -> Option<PageRequest> {
    let word0 = EventWord0::from_bits(raw[0]);
    let word1 = EventWord1::from_bits(raw[1]);
    if !EventId(word0.id()).is_translation_related() || !word1.stall() || !word0.ssv() {
        return None;
    }
    let kind = match (word1.rnw(), word1.ind()) {
        (true, true) => Perms::READ | Perms::EXECUTE,
        (true, false) => Perms::READ,
        (false, _) => Perms::WRITE,
    };
    let privilege = if word1.pnu() { Perms::PRIVILEGED } else { Perms::empty() };
    Some(PageRequest {
        source: SourceId(word0.stream_id()),
        pasid: Pasid::new(word0.substream_id()),
        group: GroupTag::Stall(word1.stag()),
        last: true,
        wanted: kind | privilege,
        address: Iova::new(raw[2]),
    })
}

#[cfg(test)]
mod tests {
    //! Part 22: stalls become page requests, with their own stream and tag.
    use super::*;
    use crate::testing::Fake;

    /// F_TRANSLATION of stream 0x1234, substream 5, a stalled privileged write with tag 0x42, at 0xdead_b040.
    const STALL: [u64; 4] = [0x0000_1234_0000_5810, 0x0000_0002_8000_0042, 0xdead_b040, 0];
    const STALLING: Asker = Asker { stalls: true, response_pasid: false };

    #[test]
    fn a_stall_says_who_where_and_how() {
        let wanted = PageRequest {
            source: SourceId(0x1234),
            pasid: Pasid::new(5),
            group: GroupTag::Stall(0x42),
            last: true,
            wanted: Perms::WRITE | Perms::PRIVILEGED,
            address: Iova::new(0xdead_b040),
        };
        assert_eq!(request(&STALL), Some(wanted));
        let with = |word1: u64| request(&[STALL[0], word1 | 1 << 31, 0, 0]).unwrap().wanted;
        assert_eq!(with(1 << 35), Perms::READ);
        assert_eq!(with(1 << 35 | 1 << 34), Perms::READ | Perms::EXECUTE);
    }

    #[test]
    fn what_does_not_wait_or_has_no_substream_or_is_another_kind_is_no_request() {
        assert_eq!(request(&[STALL[0], 0x42, 0, 0]), None);
        assert_eq!(request(&[0x0000_1234_0000_0010, STALL[1], 0, 0]), None);
        assert_eq!(request(&[0x0000_1234_0000_580a, STALL[1], 0, 0]), None, "C_BAD_CD never stalls");
    }

    #[test]
    fn only_devices_that_stall_are_heard_and_only_so_many_at_once() {
        let stalls = Stalls::<Fake>::new(2);
        assert!(!stalls.take(&STALL), "nobody said that it asks");
        stalls.listen(&[0x1234], Asker { stalls: false, ..STALLING });
        assert!(!stalls.take(&STALL), "it asks by page requests");
        stalls.listen(&[0x1233, 0x1234], STALLING);
        assert!(stalls.take(&STALL) && stalls.take(&STALL) && !stalls.take(&STALL));
        assert!(stalls.next().is_some() && stalls.take(&STALL));
        stalls.ignore(&[0x1234]);
        assert!(stalls.next().is_some() && stalls.next().is_some() && stalls.next().is_none());
        assert!(!stalls.take(&STALL));
    }
}
