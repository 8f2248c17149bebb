//! Who asks for pages, and stalled transactions that wait for one.
//!
//! A stall comes as an event record. If its stream belongs to a device that shares processes' memory by stalling, and the transaction has a
//! SubstreamID, it becomes a page request; every other stall is answered by `event_queue` at once: it is to be aborted.
//!
//! The answer goes to the stream that stalled, which may be any of the device's, with the tag of the record: CMD_RESUME for another stream of the same
//! device would match nothing. There is one answer: a stall that was answered, or ended with all others of its stream (CMD_STALL_TERM),
//! is not answered again, since hardware may use its tag anew. So that an answer on its way cannot meet the next stall with its tag, each stall has a number
//! of the driver's own, and [`Stalls::end`] is followed by a wait for answers that are being sent ([`Stalls::is_answering`]).
//!
//! A transaction that is let go looks its address up once more, by what its PASID means then. So a PASID means nothing new while a stall of it waits for an answer, or for room for
//! one ([`Stalls::waits`]).
//!
//! Spec: SMMUv3 H.a, 3.12.2 "Stall model", 4.7.1 "CMD_RESUME", 4.7.2.1 "Notes and usage" (of CMD_STALL_TERM).
//! Not here: requests of devices with PRI (`page_requests`).

use alloc::collections::{BTreeMap, VecDeque};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Release};

use portcullis_core::iopf::{GroupTag, PageRequest, PageResponse, ResponseCode};
use portcullis_hal::{Lock, Platform};
use portcullis_spec::smmuv3::event::{EVENT_WORDS, EventId, EventWord0, EventWord1};
use portcullis_types::{Iova, Pasid, Perms, SourceId, mutant};

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
    waiting: Lock<P, Waiting>,
    /// Held by who tells of them, until the last is told: who drains next finds none on its way.
    telling: Lock<P, ()>,
    most: usize,
    /// Records may have been lost.
    lost: AtomicBool,
}

/// An answer that is being sent.
#[must_use]
pub(crate) struct Ticket<'a, P: Platform> {
    stalls: &'a Stalls<P>,
    /// Stream and tag of what it answers.
    stall: (u32, u16),
    open: Open,
}

impl<P: Platform> Ticket<'_, P> {
    /// It could not be sent: the stall waits as before, unless it was ended meanwhile.
    pub(crate) fn take_back(self) {
        let mut waiting = self.stalls.waiting.lock();
        if waiting.on_their_way.get(&self.open.nth).is_some_and(|due| matches!(due, Due::Yes(..))) {
            waiting.open.insert(self.stall, self.open);
        }
    }
}

impl<P: Platform> Drop for Ticket<'_, P> {
    fn drop(&mut self) {
        self.stalls.waiting.lock().on_their_way.remove(&self.open.nth);
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is a page request from now on.
    Kept,
    /// It is about a stall that has been ended since.
    Over,
    /// It is none of these. If a transaction waits, this is the answer to it, which is the caller's to send.
    Unwanted(Option<PageResponse>),
}

#[derive(Default)]
struct Waiting {
    /// To be told of, oldest first.
    untold: VecDeque<PageRequest>,
    /// Every stall that is to be answered, by stream and tag.
    open: BTreeMap<(u32, u16), Open>,
    /// How many stalls there were, wrapping: the number of the next.
    count: u32,
    /// For streams whose stalls were ended: the position in the event queue behind the last record of one of them.
    ended: BTreeMap<u32, u64>,
    /// Answers that were taken from `open` and are not yet with hardware, by the number of the stall.
    on_their_way: BTreeMap<u32, Due>,
}

/// A stall that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    nth: u32,
    pasid: Option<Pasid>,
}

/// Whether a stall whose answer is on its way waits for it still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// It does, and is of this stream and PASID.
    Yes(u32, Option<Pasid>),
    /// It was ended meanwhile.
    No,
}

impl Waiting {
    fn is_over(&self, stream_id: u32, position: u64) -> bool {
        self.ended.get(&stream_id).is_some_and(|&end| position < end)
    }
}

impl<P: Platform> Stalls<P> {
    /// Nobody asks. Of hardware that can stall `most` transactions at once, no more are kept.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            askers: Lock::<P, BTreeMap<u32, Asker>>::new(BTreeMap::new()),
            waiting: Lock::<P, Waiting>::new(Waiting::default()),
            telling: Lock::<P, ()>::new(()),
            most: most.max(1),
            lost: AtomicBool::new(false),
        }
    }

    /// Hardware could not write the queue in which records of stalls come.
    pub(crate) fn records_were_lost(&self) {
        self.lost.store(true, Release);
    }

    /// Whether transactions may be stalled of which nobody knows.
    pub(crate) fn may_be_unknown(&self) -> bool {
        self.lost.load(Acquire)
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

    /// Takes the record at `position` of the event queue if it is a stall to be resolved. Any stall is to be answered from now on.
    pub(crate) fn take(&self, raw: &[u64; EVENT_WORDS], position: u64) -> Taken {
        if !is_stall(raw) {
            return Taken::Unwanted(None);
        }
        let asks = |stream_id| self.asker(stream_id).is_some_and(|asker| asker.stalls);
        let request = request(raw).filter(|request| asks(request.source.0));
        let (stream_id, tag) =
            (EventWord0::from_bits(raw[0]).stream_id(), EventWord1::from_bits(raw[1]).stag());
        let mut waiting = self.waiting.lock();
        if waiting.is_over(stream_id, position) {
            return Taken::Over;
        }
        let nth = waiting.count;
        waiting.count = nth.wrapping_add(1);
        let pasid = request.and_then(|request| request.pasid);
        waiting.open.insert((stream_id, tag), Open { nth, pasid });
        let group = GroupTag::Stall { tag, nth };
        match request {
            Some(request) if waiting.untold.len() < self.most => {
                waiting.untold.push_back(PageRequest { group, ..request });
                Taken::Kept
            }
            _ => Taken::Unwanted(Some(refusal(stream_id, group))),
        }
    }

    /// Tells of the stalled transactions that wait for it, the oldest first, and answers how many. On return none is still being told of by somebody else:
    /// an unbind relies on it that whatever came before has reached its queue.
    pub(crate) fn tell(&self, to: &mut dyn FnMut(PageRequest)) -> usize {
        let _turn = self.telling.lock();
        core::iter::from_fn(|| self.next()).map(to).count()
    }

    /// The stalled transaction that has waited longest to be told of.
    fn next(&self) -> Option<PageRequest> {
        self.waiting.lock().untold.pop_front()
    }

    /// Takes the answer to the stall with this number. None if none is due: it was answered, or ended. The answer goes to hardware before the ticket is
    /// dropped.
    pub(crate) fn answer(&self, stream_id: u32, tag: u16, nth: u32) -> Option<Ticket<'_, P>> {
        let (mut waiting, stall) = (self.waiting.lock(), (stream_id, tag));
        let open = waiting.open.get(&stall).copied().filter(|open| open.nth == nth);
        let open = open.or_else(|| mutant!("stall-answered-twice").then_some(Open { nth, pasid: None }))?;
        waiting.open.remove(&stall);
        waiting.on_their_way.insert(nth, Due::Yes(stream_id, open.pasid));
        Some(Ticket { stalls: self, stall, open })
    }

    /// Whether a stall of this PASID of one of these streams waits for its answer, or that is on its way.
    pub(crate) fn waits(&self, streams: &[u32], pasid: Pasid) -> bool {
        let waiting = self.waiting.lock();
        let open = waiting.open.iter().map(|(&(stream_id, _), open)| (stream_id, open.pasid));
        let on_their_way = waiting.on_their_way.values().filter_map(|due| match *due {
            Due::Yes(stream_id, pasid) => Some((stream_id, pasid)),
            Due::No => None,
        });
        open.chain(on_their_way).any(|(stream_id, of)| of == Some(pasid) && streams.contains(&stream_id))
    }

    /// Whether an answer is on its way to hardware.
    pub(crate) fn is_answering(&self) -> bool {
        !self.waiting.lock().on_their_way.is_empty()
    }

    /// All stalls of these streams end, those included whose records lie before `end` in the event queue. Answers may be on their way: the
    /// caller waits for them before hardware may stall these streams again.
    pub(crate) fn end(&self, streams: &[u32], end: u64) {
        let mut waiting = self.waiting.lock();
        waiting.untold.retain(|request| !streams.contains(&request.source.0));
        waiting.open.retain(|(stream_id, _), _| !streams.contains(stream_id));
        let ended = |due: &&mut Due| matches!(due, Due::Yes(stream_id, _) if streams.contains(stream_id));
        waiting.on_their_way.values_mut().filter(ended).for_each(|due| *due = Due::No);
        waiting.ended.extend(streams.iter().map(|&stream_id| (stream_id, end)));
    }
}

/// Whether a record is that of a stalled transaction.
fn is_stall(raw: &[u64; EVENT_WORDS]) -> bool {
    EventId(EventWord0::from_bits(raw[0]).id()).is_translation_related()
        && EventWord1::from_bits(raw[1]).stall()
}

/// The answer to a stall that nobody can resolve.
///
/// Spec: SMMUv3 H.a, 3.12.2 "Stall model": every stall event has its CMD_RESUME.
/// Choice: abort, whatever the fault; the StreamID is the record's own, since another of the same device would not match.
fn refusal(stream_id: u32, group: GroupTag) -> PageResponse {
    PageResponse { source: SourceId(stream_id), pasid: None, group, code: ResponseCode::Invalid }
}

/// The record of a stalled transaction with a SubstreamID, as a page request.
fn request(raw: &[u64; EVENT_WORDS]) -> Option<PageRequest> {
    let word0 = EventWord0::from_bits(raw[0]);
    let word1 = EventWord1::from_bits(raw[1]);
    if !is_stall(raw) || !word0.ssv() {
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
        group: GroupTag::Stall { tag: word1.stag(), nth: 0 },
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
    fn part_22_a_stall_says_who_where_and_how() {
        let wanted = PageRequest {
            source: SourceId(0x1234),
            pasid: Pasid::new(5),
            group: GroupTag::Stall { tag: 0x42, nth: 0 },
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
    fn part_22_what_does_not_wait_or_has_no_substream_or_is_another_kind_is_no_request() {
        assert_eq!(request(&[STALL[0], 0x42, 0, 0]), None);
        assert_eq!(request(&[0x0000_1234_0000_0010, STALL[1], 0, 0]), None);
        assert_eq!(request(&[0x0000_1234_0000_580a, STALL[1], 0, 0]), None, "C_BAD_CD never stalls");
    }

    #[test]
    fn part_22_only_devices_that_stall_are_heard_and_only_so_many_at_once() {
        let stalls = Stalls::<Fake>::new(2);
        let take = |raw| stalls.take(raw, 7) == Taken::Kept;
        assert!(!take(&STALL), "nobody said that it asks");
        stalls.listen(&[0x1234], Asker { stalls: false, ..STALLING });
        assert!(!take(&STALL), "it asks by page requests");
        stalls.listen(&[0x1233, 0x1234], STALLING);
        assert!(take(&STALL) && take(&STALL) && !take(&STALL));
        assert!(stalls.next().is_some() && take(&STALL));
        stalls.ignore(&[0x1234]);
        assert!(stalls.next().is_some() && stalls.next().is_some() && stalls.next().is_none());
        assert!(!take(&STALL));
    }

    #[test]
    fn part_22_who_drains_waits_for_what_another_is_telling() {
        extern crate std;
        use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
        let stalls = Stalls::<Fake>::new(8);
        stalls.listen(&[0x1234], STALLING);
        assert_eq!(stalls.take(&STALL, 7), Taken::Kept);
        let (begun, told) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stalls.tell(&mut |_| {
                    begun.store(true, SeqCst);
                    std::thread::sleep(core::time::Duration::from_millis(50));
                    told.store(true, SeqCst);
                })
            });
            while !begun.load(SeqCst) {
                std::thread::yield_now();
            }
            assert_eq!(stalls.tell(&mut |_| ()), 0);
            assert!(told.load(SeqCst), "the other one's has arrived");
        });
    }

    #[test]
    fn part_22_a_stall_is_answered_once_and_never_after_it_was_ended() {
        let stalls = Stalls::<Fake>::new(8);
        stalls.listen(&[0x1233, 0x1234], STALLING);
        let due = |stream_id, tag, nth| stalls.answer(stream_id, tag, nth).is_some();
        assert_eq!(stalls.take(&STALL, 7), Taken::Kept);
        assert!(!due(0x1233, 0x42, 0) && !due(0x1234, 0x43, 0) && !due(0x1234, 0x42, 1));
        assert!(due(0x1234, 0x42, 0) && !due(0x1234, 0x42, 0));
        assert_eq!(stalls.take(&STALL, 8), Taken::Kept);
        stalls.end(&[0x1234], 10);
        assert!(!due(0x1234, 0x42, 1));
        assert!(stalls.next().is_none());
        let without_substream = [0x0000_1234_0000_0010, STALL[1], 0, 0];
        assert_eq!((stalls.take(&STALL, 9), stalls.take(&without_substream, 9)), (Taken::Over, Taken::Over));
        let fault = [STALL[0], 0x42, 0, 0];
        assert_eq!(stalls.take(&fault, 9), Taken::Unwanted(None), "what does not wait is told as a fault");
        assert_eq!(stalls.take(&STALL, 10), Taken::Kept, "a new one may have the same tag");
        assert!(!due(0x1234, 0x42, 1), "a late answer is not the new one's");
        assert!(due(0x1234, 0x42, 2));
    }

    #[test]
    fn part_22_the_answer_to_a_stall_that_nobody_wants_is_as_any_other_and_not_sent_after_its_end() {
        let stalls = Stalls::<Fake>::new(8);
        let without_substream = [0x0000_1234_0000_0010, STALL[1], 0, 0];
        let taken = |raw, position| match stalls.take(raw, position) {
            Taken::Unwanted(Some(answer)) => answer,
            other => panic!("{other:?}"),
        };
        for raw in [&STALL, &without_substream] {
            let PageResponse { source, group, code, .. } = taken(raw, 7);
            let GroupTag::Stall { tag, nth } = group else { panic!("{group:?}") };
            assert_eq!((source, tag, code), (SourceId(0x1234), 0x42, ResponseCode::Invalid));
            assert!(stalls.answer(0x1234, tag, nth).is_some() && stalls.answer(0x1234, tag, nth).is_none());
        }
        let late = taken(&STALL, 7).group;
        stalls.end(&[0x1234], 8);
        let next = taken(&STALL, 8).group;
        let due = |group| match group {
            GroupTag::Stall { tag, nth } => stalls.answer(0x1234, tag, nth).is_some(),
            GroupTag::Prg(_) => panic!("{group:?}"),
        };
        assert_eq!((due(late), due(next)), (false, true), "hardware may use the tag anew");
    }

    #[test]
    fn part_22_an_answer_that_could_not_be_sent_is_due_again_unless_its_stall_was_ended() {
        let stalls = Stalls::<Fake>::new(8);
        stalls.listen(&[0x1234], STALLING);
        assert_eq!(stalls.take(&STALL, 7), Taken::Kept);
        stalls.answer(0x1234, 0x42, 0).unwrap().take_back();
        assert!(!stalls.is_answering());
        let ticket = stalls.answer(0x1234, 0x42, 0).expect("it is due again");
        // Of another stream.
        stalls.end(&[0x1235], 10);
        ticket.take_back();
        let ticket = stalls.answer(0x1234, 0x42, 0).expect("it is due still");
        stalls.end(&[0x1234], 10);
        ticket.take_back();
        assert!(stalls.answer(0x1234, 0x42, 0).is_none());
    }

    #[test]
    fn part_22_an_answer_is_on_its_way_until_its_ticket_is_dropped() {
        let stalls = Stalls::<Fake>::new(8);
        stalls.listen(&[0x1234], STALLING);
        assert_eq!(stalls.take(&STALL, 7), Taken::Kept);
        let ticket = stalls.answer(0x1234, 0x42, 0).unwrap();
        stalls.end(&[0x1234], 10);
        assert!(stalls.is_answering());
        drop(ticket);
        assert!(!stalls.is_answering());
    }

    #[test]
    fn part_22_a_stall_of_a_pasid_waits_until_its_answer_is_sent_or_it_is_ended() {
        let stalls = Stalls::<Fake>::new(8);
        stalls.listen(&[0x1234], STALLING);
        let waits = |streams: &[u32], pasid| stalls.waits(streams, Pasid::new(pasid).unwrap());
        assert!(!waits(&[0x1234], 5));
        assert_eq!(stalls.take(&STALL, 7), Taken::Kept);
        assert!(waits(&[0x1233, 0x1234], 5) && !waits(&[0x1233], 5) && !waits(&[0x1234], 6));
        let ticket = stalls.answer(0x1234, 0x42, 0).unwrap();
        assert!(waits(&[0x1234], 5), "it is on its way");
        ticket.take_back();
        assert!(waits(&[0x1234], 5));
        drop(stalls.answer(0x1234, 0x42, 0).unwrap());
        assert!(!waits(&[0x1234], 5));
        assert_eq!(stalls.take(&STALL, 8), Taken::Kept);
        stalls.end(&[0x1234], 9);
        assert!(!waits(&[0x1234], 5));
    }
}
