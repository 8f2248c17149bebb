//! Accesses under way: let through, their bytes still moving, each with the thread that makes it.
//!
//! An access takes a number when it begins, with the model's lock held, and gives it back when its bytes have moved. What changes what accesses may do
//! notes the next number; whoever must not go on before that is so everywhere waits, without the model's lock, until all smaller ones are back. Any number of
//! threads may wait at once.
//!
//! A thread in the middle of an access cannot wait for itself, nor for another that does the same: both would wait for ever. It looks away from its own
//! accesses and from those of threads that wait in the middle of one. Threads that are in no access wait for all.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::guarded::mark;

#[derive(Debug, Default)]
struct Board {
    /// The number of each access and its thread, the oldest first: numbers grow.
    under_way: Vec<(u64, usize)>,
    /// Threads that wait in the middle of an access.
    waiting_inside: Vec<usize>,
    /// How many threads wait at all. Telling nobody would be a system call at the end of every access.
    waiting: usize,
}

impl Board {
    fn smaller(&self, before: u64) -> impl Iterator<Item = usize> {
        let smaller = self.under_way.iter().take_while(move |&&(number, _)| number < before);
        smaller.map(|&(_, thread)| thread)
    }
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
        board.under_way.push((number, mark()));
        Flight { flights: self, number }
    }

    /// The number that the next access will have: all that began before are smaller.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether all accesses with smaller numbers are back.
    pub fn are_back(&self, before: u64) -> bool {
        self.board().smaller(before).next().is_none()
    }

    /// Waits for accesses with smaller numbers.
    pub fn wait(&self, before: u64) {
        let own = mark();
        let mut board = self.board();
        let inside = board.under_way.iter().any(|&(_, thread)| thread == own);
        if inside {
            board.waiting_inside.push(own);
            // Others that wait inside may go on.
            if board.waiting != 0 {
                self.changed.notify_all();
            }
        }
        let waits_for = |board: &Board, thread: usize| !(inside && board.waiting_inside.contains(&thread));
        board.waiting += 1;
        while board.smaller(before).any(|thread| waits_for(&board, thread)) {
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        board.waiting -= 1;
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
        let mut board = self.flights.board();
        if let Some(place) = board.under_way.iter().rposition(|&(number, _)| number == self.number) {
            board.under_way.remove(place);
        }
        if board.waiting != 0 {
            self.flights.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicBool;
    use core::time::Duration;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_waits_goes_on_when_the_last_smaller_one_is_back_and_not_before() {
        let flights = Flights::default();
        let (first, second) = (flights.begin(), flights.begin());
        let (before, back) = (flights.next(), AtomicBool::new(false));
        let later = flights.begin();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                flights.wait(before);
                back.load(Ordering::SeqCst)
            });
            while flights.board().waiting == 0 {
                std::thread::yield_now();
            }
            // The later one of the two first: what is left is not the newest.
            drop(second);
            assert!(!flights.are_back(before));
            back.store(true, Ordering::SeqCst);
            drop(first);
            assert!(waiter.join().unwrap());
        });
        assert!(flights.are_back(before) && !flights.are_back(flights.next()));
        drop(later);
        assert!(flights.are_back(flights.next()));
    }

    #[test]
    fn who_waits_for_one_that_begins_to_wait_inside_goes_on_before_that_one_does() {
        let flights = Flights::default();
        let (begun, has_begun) = mpsc::channel();
        let (waits, may_wait) = mpsc::channel();
        let (back, is_back) = mpsc::channel();
        std::thread::scope(|scope| {
            let flights = &flights;
            scope.spawn(move || {
                let _first = flights.begin();
                begun.send(()).unwrap();
                may_wait.recv().unwrap();
                flights.wait(2);
            });
            has_begun.recv().unwrap();
            let between = flights.begin();
            scope.spawn(move || {
                let _third = flights.begin();
                flights.wait(1);
                back.send(()).unwrap();
            });
            while flights.board().waiting == 0 {
                std::thread::yield_now();
            }
            waits.send(()).unwrap();
            // The first one waits for the second, which is not back.
            assert!(is_back.recv_timeout(Duration::from_secs(20)).is_ok());
            drop(between);
        });
        assert!(flights.are_back(flights.next()));
    }
}
