//! Orders in which one thread is away for long, as one whose CPU a hypervisor gave to somebody else.
//!
//! Wherever a thread can be stopped it yields, so that shuttle's own schedulers let all threads go on about equally fast: none comes back to what it looked at a
//! whole lap of the queue ago. Here all take turns, but one stands still at one of its steps until the others have had many; each step of each thread once.

extern crate std;

use std::vec::Vec;

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// For how many turns of the others a thread is away.
const TURNS: usize = 600;

/// The thread that is away in this run, and at which of its steps.
#[derive(Debug)]
pub(super) struct Away {
    /// So many threads, from the first that the test begins, are away in turn.
    threads: usize,
    thread: usize,
    at: usize,
    /// Steps that it has taken, and turns that others have had while it was away.
    steps: usize,
    turns: usize,
}

impl Away {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads, thread: 1, at: 0, steps: 0, turns: 0 }
    }
}

impl Scheduler for Away {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.steps < self.at {
            // It has no more steps than that.
            (self.thread, self.at) = (self.thread + 1, 0);
        }
        self.at += 1;
        (self.steps, self.turns) = (0, 0);
        (self.thread <= self.threads).then(|| Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, _: bool) -> Option<TaskId> {
        let is_away = self.steps == self.at && self.turns < TURNS;
        let ids: Vec<TaskId> = runnable.iter().map(|task| task.id()).collect();
        let there: Vec<TaskId> =
            ids.iter().copied().filter(|&id| !is_away || usize::from(id) != self.thread).collect();
        let ids = if there.is_empty() { ids } else { there };
        let next = ids.iter().copied().find(|&id| current.is_none_or(|current| id > current));
        let next = next.unwrap_or(ids[0]);
        if usize::from(next) == self.thread {
            self.steps += 1;
        } else if is_away {
            self.turns += 1;
        }
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
