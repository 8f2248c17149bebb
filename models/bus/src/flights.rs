//! Accesses under way: let through, their bytes still moving, each with the thread that makes it.
//!
//! An access takes a number when it begins, with the model's lock held, and gives it back when its bytes have moved. What changes what accesses may do
//! notes the next number; whoever must not go on before that is so everywhere waits, without the model's lock, until all smaller ones are back. Any number of
//! threads may wait at once.
//!
//! A thread in the middle of an access cannot wait for itself, nor for another that does the same: both would wait for ever. It looks away from its own
//! accesses and from those of threads that wait in the middle of one. Threads that are in no access wait for all.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::guarded::mark;

#[derive(Debug, Default)]
struct Board {
    /// The thread of each access.
    under_way: BTreeMap<u64, usize>,
    /// Threads that wait in the middle of an access.
    waiting_inside: Vec<usize>,
}

/// Which accesses are under way.
#[derive(Debug, Default)]
pub struct Flights {
    /// The number of the next access. Changed with the board's lock held, so that an access whose number is taken is on the board when others look there.
    next: AtomicU64,
    board: Mutex<Board>,
    changed: Condvar,
}

impl Flights {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An access of this thread begins; it ends when the answer is dropped.
    pub fn begin(&self) -> Flight<'_> {
        let mut board = self.board();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        board.under_way.insert(number, mark());
        Flight { flights: self, number }
    }

    /// The number that the next access will have: all that began before are smaller.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether all accesses with smaller numbers are back.
    pub fn are_back(&self, before: u64) -> bool {
        self.board().under_way.range(..before).next().is_none()
    }

    /// Waits for accesses with smaller numbers.
    pub fn wait(&self, before: u64) {
        let own = mark();
        let mut board = self.board();
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
#[must_use = "dropped, the access has ended"]
#[derive(Debug)]
pub struct Flight<'a> {
    flights: &'a Flights,
    number: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.flights.board().under_way.remove(&self.number);
        self.flights.changed.notify_all();
    }
}
