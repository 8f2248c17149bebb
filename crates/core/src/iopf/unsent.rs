//! Responses for which a driver's queue had no room, kept until it has some: a device waits for each, and asks for nothing meanwhile.
//!
//! A driver tries them again when requests are next drained and when errors are handled, which is where a queue that stood still begins to work. There are no more of
//! them than devices have requests under way; of devices that lie about that, no more than [`MOST`]. Long before, a driver leaves further requests to hardware, which
//! answers by itself when its queue is full ([`Unsent::is_crowded`]): none is lost.
//!
//! Not here: responses that hardware refused (a driver's).

use alloc::collections::VecDeque;
use core::fmt;

use lock_api::{Mutex, RawMutex};
use portcullis_hal::lock_api;

use super::PageResponse;

/// How many are kept: as many as there are tags for stalls, or groups of a device that keeps them all open many times over.
const MOST: usize = 1 << 16;

/// Responses that are still to be sent, the oldest first.
pub struct Unsent<M>(Mutex<M, VecDeque<PageResponse>>);

impl<M> fmt::Debug for Unsent<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").finish_non_exhaustive()
    }
}

impl<M: RawMutex> Default for Unsent<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: RawMutex> Unsent<M> {
    /// None.
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Whether so many wait that no more requests are to be taken from hardware: those that were taken are answered from the other half of the places.
    pub fn is_crowded(&self) -> bool {
        self.0.lock().len() > MOST / 2
    }

    /// Sends one by `send`, which says whether there was room for it, or keeps it while there may be some later. Behind others that wait for that, it waits without being
    /// tried: hardware that stands still keeps nobody for longer than one response takes. False if it is lost, which the driver says.
    pub fn send_or_keep(
        &self,
        response: &PageResponse,
        send: impl FnOnce() -> bool,
        may_be_sent: impl FnOnce() -> bool,
    ) -> bool {
        self.is_empty() && send() || may_be_sent() && self.keep(response)
    }

    /// Keeps one. Answers whether there was a place for it.
    fn keep(&self, response: &PageResponse) -> bool {
        let mut kept = self.0.lock();
        let fits = kept.len() < MOST && kept.try_reserve(1).is_ok();
        if fits {
            kept.push_back(*response);
        }
        fits
    }

    /// Sends those that are there now, until `send` says that there is no room.
    pub fn send(&self, mut send: impl FnMut(&PageResponse) -> bool) {
        let count = self.0.lock().len();
        for _ in 0..count {
            let Some(response) = self.0.lock().pop_front() else { return };
            if !send(&response) {
                // Nobody's turn is before its own: it waits longest.
                self.0.lock().push_front(response);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use portcullis_types::SourceId;

    use super::super::{GroupTag, ResponseCode};
    use super::*;

    fn response(group: u16) -> PageResponse {
        PageResponse {
            source: SourceId(9),
            pasid: None,
            group: GroupTag::Prg(group),
            code: ResponseCode::Success,
        }
    }

    /// Those that are sent while there is room for so many.
    fn sent(unsent: &Unsent<spin::Mutex<()>>, room: usize) -> Vec<u16> {
        let mut sent = Vec::new();
        unsent.send(|response| {
            let fits = sent.len() < room;
            sent.extend(Some(response.group.number()).filter(|_| fits));
            fits
        });
        sent
    }

    #[test]
    fn responses_that_find_no_room_keep_their_order_whenever_they_are_tried() {
        let unsent = Unsent::new();
        assert!((1..=5).all(|group| unsent.keep(&response(group))));
        assert_eq!(sent(&unsent, 0), []);
        assert_eq!(sent(&unsent, 2), [1, 2]);
        assert!(unsent.keep(&response(6)));
        assert_eq!(sent(&unsent, 9), [3, 4, 5, 6]);
        assert!(unsent.is_empty());
    }

    #[test]
    fn a_response_is_tried_only_when_none_waits_and_kept_only_while_it_may_be_sent() {
        let unsent = Unsent::<spin::Mutex<()>>::new();
        // Whether it is accepted, whether it was tried, and whether one is kept then.
        let hand_in = |room, later| {
            let mut tried = false;
            let send = || {
                tried = true;
                room
            };
            let accepted = unsent.send_or_keep(&response(1), send, || later);
            (accepted, tried, !unsent.is_empty())
        };
        assert_eq!(hand_in(true, true), (true, true, false));
        assert_eq!(hand_in(false, false), (false, true, false));
        assert_eq!(hand_in(false, true), (true, true, true));
        assert_eq!(hand_in(true, true), (true, false, true), "its turn is after that of who waits");
        assert_eq!(hand_in(true, false), (false, false, true));
        assert_eq!(sent(&unsent, 9), [1, 1]);
    }

    #[test]
    fn no_more_responses_are_kept_than_devices_can_wait_for() {
        let unsent = Unsent::new();
        assert!((0..=0x7fff).all(|group| unsent.keep(&response(group)) && !unsent.is_crowded()));
        assert!((0x8000..=u16::MAX).all(|group| unsent.keep(&response(group)) && unsent.is_crowded()));
        assert!(!unsent.keep(&response(0)));
        assert_eq!(sent(&unsent, 1), [0]);
        assert!(unsent.keep(&response(0)), "as many as there are");
    }
}
