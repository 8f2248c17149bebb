//! The flush queue: what a flush covers, when one is due, and that a failed one forgets nothing.

mod support;

use core::cell::RefCell;
use core::sync::atomic::Ordering::SeqCst;

use portcullis_iova::{FlushBounds, FlushQueue};
use support::{Machine, machine, run_on};

const BOUNDS: FlushBounds = FlushBounds { entries: 4, age_ns: 10_000_000 };

fn queue(machine: &Machine) -> FlushQueue<Machine, u32> {
    FlushQueue::new(machine, BOUNDS)
}

/// Runs a flush during which `meanwhile` happens, and answers what was reclaimed.
fn flush(machine: &Machine, queue: &FlushQueue<Machine, u32>, meanwhile: impl FnOnce()) -> Vec<u32> {
    let reclaimed = RefCell::new(Vec::new());
    let done = queue.flush(
        machine,
        || {
            assert!(reclaimed.borrow().is_empty(), "nothing comes back before the flush has completed");
            meanwhile();
            Ok::<_, ()>(())
        },
        |what, ()| reclaimed.borrow_mut().push(what),
    );
    assert_eq!(done, Ok(()));
    reclaimed.into_inner()
}

#[test]
fn a_flush_covers_what_was_pushed_before_it_began_and_nothing_later() {
    let machine = machine(2);
    let queue = queue(&machine);
    let _ = queue.push(&machine, 1);
    run_on(1);
    let _ = queue.push(&machine, 2);
    let during = || {
        let _ = queue.push(&machine, 3);
    };
    assert_eq!(flush(&machine, &queue, during), [1, 2]);
    assert_eq!(queue.len(), 1);
    assert_eq!(flush(&machine, &queue, || ()), [3]);
    assert!(queue.is_empty());
}

#[test]
fn what_waits_on_any_cpu_can_be_taken_out_without_a_flush() {
    let machine = machine(2);
    let mut queue = queue(&machine);
    let _ = queue.push(&machine, 1);
    run_on(1);
    let _ = queue.push(&machine, 2);
    let mut taken = Vec::new();
    queue.drain(|what| taken.push(what));
    taken.sort_unstable();
    assert_eq!((taken, queue.is_empty()), (vec![1, 2], true));
}

#[test]
fn a_flush_within_a_flush_covers_what_came_before_it_and_the_outer_one_no_more() {
    let machine = machine(1);
    let queue = queue(&machine);
    let _ = queue.push(&machine, 1);
    let outer = flush(&machine, &queue, || {
        let _ = queue.push(&machine, 2);
        assert_eq!(flush(&machine, &queue, || ()), [1, 2]);
        let _ = queue.push(&machine, 3);
    });
    assert_eq!(outer, []);
    assert_eq!(flush(&machine, &queue, || ()), [3]);
}

#[test]
fn a_failed_flush_keeps_everything_and_the_next_good_one_covers_it() {
    let machine = machine(1);
    let queue = queue(&machine);
    (0..3).for_each(|what| _ = queue.push(&machine, what));
    let failed = queue.flush(&machine, || Err::<(), _>("no answer"), |_, ()| panic!("nothing is proven"));
    assert_eq!((failed, queue.len(), queue.counters()), (Err("no answer"), 3, (1, 0)));
    let _ = queue.push(&machine, 3);
    assert_eq!(flush(&machine, &queue, || ()), [0, 1, 2, 3]);
    assert_eq!(queue.counters(), (2, 2));
}

#[test]
fn a_flush_is_due_when_enough_wait_or_when_one_waits_long_enough() {
    let machine = machine(2);
    let queue = queue(&machine);
    assert!(!queue.is_due(u64::MAX), "nothing waits");
    assert!(!queue.push(&machine, 0));
    assert!(!queue.is_due(BOUNDS.age_ns - 1));
    assert!(queue.is_due(BOUNDS.age_ns));
    let due: Vec<_> = (1..4).map(|what| queue.push(&machine, what)).collect();
    assert_eq!(due, [false, false, true]);
    run_on(1);
    assert!(!queue.push(&machine, 9), "each CPU counts its own");
}

#[test]
fn after_a_failure_the_next_flush_is_due_only_after_the_bound_on_age() {
    let machine = machine(1);
    let queue = queue(&machine);
    (0..4).for_each(|what| _ = queue.push(&machine, what));
    assert!(queue.is_due(0));
    let _ = queue.flush(&machine, || Err::<(), _>(()), |_, ()| ());
    assert!(!queue.push(&machine, 5) && !queue.is_due(BOUNDS.age_ns - 1));
    machine.now_ns.store(BOUNDS.age_ns, SeqCst);
    assert!(queue.push(&machine, 6));
    assert_eq!(queue.len(), 6, "more than the bound, because nothing may be forgotten");
}

#[test]
fn nothing_is_reclaimed_twice_or_lost_when_cpus_flush_side_by_side() {
    let machine = machine(3);
    let queue = queue(&machine);
    let reclaimed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for cpu in 0..3u32 {
            let (machine, queue, reclaimed) = (&machine, &queue, &reclaimed);
            scope.spawn(move || {
                run_on(cpu as usize);
                for turn in 0..3000 {
                    if queue.push(machine, cpu * 10_000 + turn) || turn % 7 == 0 {
                        let take = |what, (): &()| reclaimed.lock().unwrap().push(what);
                        queue.flush(machine, || Ok::<_, ()>(()), take).unwrap();
                    }
                }
            });
        }
    });
    reclaimed.lock().unwrap().extend(flush(&machine, &queue, || ()));
    let mut all = reclaimed.into_inner().unwrap();
    all.sort_unstable();
    let wanted: Vec<u32> = (0..3).flat_map(|cpu| cpu * 10_000..cpu * 10_000 + 3000).collect();
    assert_eq!(all, wanted);
}
