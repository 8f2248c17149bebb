//! Accesses under way, as those see them who wait for a broadcast to be done: each with the thread that makes it.
//!
//! An access takes a number when it begins, with the model's lock held, and gives it back when its bytes have moved. Whoever waits notes the next
//! number, and waits until all smaller ones are back. Any number of threads may wait at once.
//!
//! A thread in the middle of an access cannot wait for itself, nor for another that does the same: both would wait for ever. It looks away from its own
//! accesses and from those of threads that wait in the middle of one. Threads that are in no access wait for all.
//!
//! Kept only where broadcasts are heard: a lock for each access has its price.
//!
//! Not here: what a CMD_SYNC waits for (`state::Traffic`).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::smmu::mark;

#[derive(Default)]
struct Board {
    next: u64,
    /// The thread of each access.
    under_way: BTreeMap<u64, usize>,
    /// Threads that wait in the middle of an access.
    waiting_inside: Vec<usize>,
}

pub(crate) struct Flights {
    kept: bool,
    board: Mutex<Board>,
    changed: Condvar,
}

impl Flights {
    /// Keeps account, or not.
    pub(crate) fn new(kept: bool) -> Self {
        Self { kept, board: Mutex::default(), changed: Condvar::new() }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An access of this thread begins; it ends when the answer is dropped.
    pub(crate) fn begin(&self) -> Option<Flight<'_>> {
        self.kept.then(|| {
            let mut board = self.board();
            let number = board.next;
            board.next += 1;
            board.under_way.insert(number, mark());
            Flight { flights: self, number }
        })
    }

    /// Waits for the accesses that have begun.
    pub(crate) fn wait(&self) {
        if !self.kept {
            return;
        }
        let own = mark();
        let mut board = self.board();
        let before = board.next;
        let inside = board.under_way.values().any(|&thread| thread == own);
        if inside {
            board.waiting_inside.push(own);
            // Others that wait inside may go on.
            self.changed.notify_all();
        }
        let waits_for = |board: &Board, thread: &usize| !(inside && board.waiting_inside.contains(thread));
        while board.under_way.range(..before).any(|(_, thread)| waits_for(&board, thread)) {
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        if inside && let Some(index) = board.waiting_inside.iter().position(|&thread| thread == own) {
            board.waiting_inside.swap_remove(index);
        }
    }
}

/// An access that is under way.
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    number: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.flights.board().under_way.remove(&self.number);
        self.flights.changed.notify_all();
    }
}
