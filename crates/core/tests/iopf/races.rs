//! Reporters, workers, flushes and removals at once: every order that shuttle thinks of, and real threads.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{Bench, Machine, Scheduled, Spin, TestMutex, last, partial, pasid};
use portcullis_core::iopf::{FaultQueue, Handled, Limits, PageRequest, RemoveRequesterError};

const ITERATIONS: usize = 3000;

/// Each of `groups` has exactly one answer.
fn assert_one_answer_each<M: TestMutex>(bench: &Bench<M>, groups: core::ops::Range<u16>) {
    let mut answers = BTreeMap::new();
    for (group, _) in bench.answers.codes() {
        *answers.entry(group).or_insert(0) += 1;
    }
    assert_eq!(answers, groups.map(|group| (group, 1)).collect());
}

fn scheduled() -> Arc<Bench<Scheduled>> {
    Arc::new(Bench::with(Limits::default()))
}

fn spawn(bench: &Arc<Bench<Scheduled>>, act: impl FnOnce(&Bench<Scheduled>) + Send + 'static) -> Thread {
    let bench = bench.clone();
    shuttle::thread::spawn(move || act(&bench))
}

type Thread = shuttle::thread::JoinHandle<()>;

fn join(threads: Vec<Thread>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn in_any_order(test: fn()) {
    shuttle::check_random(test, ITERATIONS);
    shuttle::check_pct(test, ITERATIONS, 3);
}

#[test]
fn a_device_that_is_removed_in_the_middle_of_anything_has_one_answer_for_each_group() {
    in_any_order(|| {
        let bench = scheduled();
        bench.handle(1, |request: &PageRequest| {
            shuttle::thread::yield_now();
            if request.group.number() == 2 { Handled::Invalid } else { Handled::Resolved }
        });
        let other = Arc::new(FaultQueue::<Machine<Scheduled>>::new());
        let mut threads = vec![
            spawn(&bench, |bench| bench.work_all()),
            spawn(&bench, |bench| while bench.queue.work_turn(2) {}),
        ];
        threads.push(spawn(&bench, |bench| {
            bench.report(partial(1, 0x1000));
            for group in 0..3 {
                bench.report(last(group, 0x2000));
            }
            bench.work_all();
        }));
        let to = other.clone();
        threads.push(spawn(&bench, move |bench| {
            bench.queue.remove_device(&bench.device).unwrap();
            to.add_device(&bench.device).unwrap();
            while to.work() {}
        }));
        join(threads);
        while other.work() {}
        assert!(!bench.queue.work());
        assert_one_answer_each(&bench, 0..3);
    });
}

#[test]
fn two_who_remove_a_device_do_it_once() {
    in_any_order(|| {
        let bench = scheduled();
        bench.handle(1, |_: &PageRequest| Handled::Resolved);
        for group in 0..2 {
            bench.report(last(group, 0));
        }
        let removed = Arc::new(AtomicUsize::new(0));
        let mut threads: Vec<_> = (0..2)
            .map(|_| {
                let removed = removed.clone();
                spawn(&bench, move |bench| match bench.queue.remove_device(&bench.device) {
                    Ok(()) => drop(removed.fetch_add(1, SeqCst)),
                    Err(error) => assert_eq!(error, RemoveRequesterError::NotInQueue),
                })
            })
            .collect();
        threads.push(spawn(&bench, |bench| bench.work_all()));
        join(threads);
        assert_eq!(removed.load(SeqCst), 1);
        assert_one_answer_each(&bench, 0..2);
        bench.queue.add_device(&bench.device).unwrap();
    });
}

#[test]
fn after_a_flush_nothing_of_the_pasid_is_handled_or_unanswered() {
    in_any_order(|| {
        let bench = scheduled();
        let gone = Arc::new(AtomicBool::new(false));
        let seen = gone.clone();
        let retries = AtomicUsize::new(1);
        bench.handle(1, move |_: &PageRequest| {
            assert!(!seen.load(SeqCst), "handled after the flush");
            shuttle::thread::yield_now();
            assert!(!seen.load(SeqCst), "still being handled after the flush");
            let retry = retries.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            if retry { Handled::Retry } else { Handled::Resolved }
        });
        bench.handle(2, |_: &PageRequest| {
            shuttle::thread::yield_now();
            Handled::Resolved
        });
        let of_2 = |group| PageRequest { pasid: pasid(2), ..last(group, 0) };
        bench.report(partial(0, 0));
        bench.report(last(0, 0));
        bench.report(of_2(1));
        bench.report(last(2, 0));
        let mut threads: Vec<_> = (0..2).map(|_| spawn(&bench, |bench| bench.work_all())).collect();
        threads.push(spawn(&bench, move |bench| {
            bench.device.flush(pasid(1), u64::MAX).unwrap();
            gone.store(true, SeqCst);
            bench.device.clear_handler(pasid(1)).unwrap();
            bench.report(of_2(3));
            bench.work_all();
        }));
        join(threads);
        bench.work_all();
        assert_one_answer_each(&bench, 0..4);
    });
}

#[test]
fn real_threads_answer_every_group_once() {
    const GROUPS: u16 = 500;
    let bench = Arc::new(Bench::<Spin>::with(Limits::default()));
    bench.handle(
        1,
        |request: &PageRequest| {
            if request.address.get() % 7 == 3 { Handled::Invalid } else { Handled::Resolved }
        },
    );
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bench = &*bench;
        for _ in 0..3 {
            scope.spawn(move || {
                while bench.queue.work() || !done.load(SeqCst) {
                    std::thread::yield_now();
                }
            });
        }
        for group in 0..GROUPS {
            bench.report(partial(group, u64::from(group)));
            bench.report(last(group, u64::from(group) + 1));
            match group % 100 {
                50 => bench.device.flush(pasid(1), u64::MAX).unwrap(),
                99 => {
                    bench.queue.remove_device(&bench.device).unwrap();
                    bench.queue.add_device(&bench.device).unwrap();
                }
                _ => {}
            }
        }
        done.store(true, SeqCst);
    });
    bench.work_all();
    assert_one_answer_each(&bench, 0..GROUPS);
}
