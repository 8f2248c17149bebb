//! The bus as CPUs and hardware see it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use model_bus::{
    Bus, BusError, BusOptions, Caches, Clocked, Doorbell, Fabric, FreedUse, Mmio, Stores, User, Width, Write,
};
use portcullis_types::{Pa, PaRange, SourceId};

fn range(first: u64, len_bytes: u64) -> PaRange {
    PaRange::new(Pa::new(first), len_bytes).unwrap()
}

fn options() -> BusOptions {
    BusOptions::new(range(0x4000_0000, 0x100_0000), 1)
}

/// Registers that remember the last write and read as its value.
#[derive(Default)]
struct Scratch(Mutex<Vec<(u64, Width, u64)>>);

impl Mmio for Scratch {
    fn read(&self, offset: u64, width: Width) -> u64 {
        0xf00d_0000_0000_0000 | offset << 8 | width.bytes()
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        self.0.lock().unwrap().push((offset, width, value));
    }
}

type Ring = (u64, Vec<u8>, Option<SourceId>);

#[derive(Default)]
struct Bell(Mutex<Vec<Ring>>);

impl Doorbell for Bell {
    fn ring(&self, offset: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError> {
        self.0.lock().unwrap().push((offset, bytes.to_vec(), source));
        if offset == 8 { Err(BusError { at: Pa::new(8) }) } else { Ok(()) }
    }
}

fn write(bus: &dyn Fabric, at: u64, bytes: &[u8]) -> Result<(), BusError> {
    bus.write(Write { at: Pa::new(at), bytes, source: Some(SourceId(9)) })
}

fn nobody(at: u64) -> Result<(), BusError> {
    Err(BusError { at: Pa::new(at) })
}

#[test]
fn registers_answer_cpus_and_hardware_at_aligned_widths_only() {
    let (bus, scratch) = (Bus::new(&options()), Arc::new(Scratch::default()));
    bus.add_registers("scratch", range(0x1000, 0x100), scratch.clone()).unwrap();
    assert_eq!(bus.read_register(Pa::new(0x1010), Width::Bits32), Ok(0xf00d_0000_0000_1004));
    bus.write_register(Pa::new(0x10f8), Width::Bits64, 7).unwrap();
    assert_eq!(bus.read_register(Pa::new(0x1012), Width::Bits32).map(drop), nobody(0x1012));
    assert_eq!(bus.write_register(Pa::new(0x1100), Width::Bits8, 0), nobody(0x1100));

    let mut word = [0; 2];
    Fabric::read(&*bus, Pa::new(0x1002), &mut word).unwrap();
    assert_eq!(word, [0x02, 0x02]);
    write(&*bus, 0x1004, &[1, 2, 3, 4]).unwrap();
    assert_eq!(Fabric::read(&*bus, Pa::new(0x1000), &mut [0; 16]), nobody(0x1000));
    assert_eq!(Fabric::read(&*bus, Pa::new(0x1001), &mut [0; 2]), nobody(0x1001));
    assert_eq!(write(&*bus, 0x1000, &[0; 3]), nobody(0x1000));
    let written = [(0xf8, Width::Bits64, 7), (4, Width::Bits32, 0x0403_0201)];
    assert_eq!(*scratch.0.lock().unwrap(), written);
}

#[test]
fn a_doorbell_learns_who_rings_and_may_refuse() {
    let (bus, bell) = (Bus::new(&options()), Arc::new(Bell::default()));
    bus.add_doorbell("bell", range(0x1000, 0x100), bell.clone()).unwrap();
    write(&*bus, 0x1040, &[1, 0, 0, 0]).unwrap();
    assert_eq!(write(&*bus, 0x1008, &[1, 0, 0, 0]), Err(BusError { at: Pa::new(8) }));
    bus.write_register(Pa::new(0x1040), Width::Bits16, 5).unwrap();
    assert_eq!(Fabric::read(&*bus, Pa::new(0x1040), &mut [0; 4]), nobody(0x1040));
    let expected: [Ring; 3] = [
        (0x40, vec![1, 0, 0, 0], Some(SourceId(9))),
        (8, vec![1, 0, 0, 0], Some(SourceId(9))),
        (0x40, vec![5, 0], None),
    ];
    assert_eq!(*bell.0.lock().unwrap(), expected);
}

#[test]
fn regions_do_not_overlap_one_another_or_ram() {
    let bus = Bus::new(&options());
    let add = |first, len| bus.add_registers("scratch", range(first, len), Arc::new(Scratch::default()));
    add(0x1000, 0x1000).unwrap();
    assert_eq!(add(0x1fff, 1).unwrap_err().by, "scratch");
    assert_eq!(add(0x40ff_ffff, 1).unwrap_err().by, "RAM");
    add(0x2000, 0x1000).unwrap();
    assert_eq!(bus.regions().len(), 2);
    assert!(bus.remove(Pa::new(0x1000)) && !bus.remove(Pa::new(0x1000)));
    assert_eq!(bus.read_register(Pa::new(0x1000), Width::Bits8).map(drop), nobody(0x1000));
    assert!(bus.read_register(Pa::new(0x2000), Width::Bits8).is_ok());
}

#[test]
fn nobody_answers_where_nothing_is() {
    let bus = Bus::new(&options());
    assert_eq!(Fabric::read(&*bus, Pa::new(0x10), &mut [0; 4]), Err(BusError { at: Pa::new(0x10) }));
    assert_eq!(write(&*bus, 0x40ff_fffc, &[0; 8]), nobody(0x40ff_fffc));
    assert_eq!(write(&*bus, u64::MAX, &[0; 2]), nobody(u64::MAX));
    assert_eq!(Fabric::compare_exchange(&*bus, Pa::new(0x10), 0, 0).map(drop), nobody(0x10));
}

#[test]
fn hardware_that_does_not_snoop_sees_what_was_cleaned() {
    let bus = Bus::new(&BusOptions { caches: Caches::WriteBack, ..options() });
    let at = bus.cpu().alloc(64, 64).unwrap();
    bus.cpu().clean(at, 64).unwrap();
    bus.cpu().store64(at, 7).unwrap();
    bus.cpu().write_barrier();
    let outside = bus.non_snooping();
    let see = |fabric: &dyn Fabric| {
        let mut bytes = [0xee; 8];
        fabric.read(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(see(&*outside), 0);
    bus.cpu().clean(at, 64).unwrap();
    assert_eq!((see(&*outside), see(&*bus)), (7, 7));

    outside.write(Write { at, bytes: &[9], source: None }).unwrap();
    assert_eq!(bus.cpu().load64(at), Ok(7));
    bus.cpu().invalidate(at, 64).unwrap();
    assert_eq!(bus.cpu().load64(at), Ok(9));
    assert_eq!(outside.compare_exchange(at, 9, 1), Ok(9));
}

#[test]
fn hardware_that_uses_freed_memory_is_caught() {
    let bus = Bus::new(&options());
    let at = bus.cpu().alloc(4096, 4096).unwrap();
    bus.cpu().free(at, 4096).unwrap();
    let mut bytes = [0; 8];
    Fabric::read(&*bus, at, &mut bytes).unwrap();
    assert_eq!(bytes, [model_bus::POISON; 8]);
    write(&*bus, at.get(), &[1]).unwrap();
    Fabric::compare_exchange(&*bus, at, 0, 1).unwrap();
    let seen: Vec<(u64, bool, User)> = bus
        .cpu()
        .ram()
        .freed_uses()
        .iter()
        .map(|&FreedUse { len_bytes, write, by, .. }| (len_bytes, write, by))
        .collect();
    assert_eq!(seen, [(8, false, User::Hardware), (1, true, User::Hardware), (8, true, User::Hardware)]);
}

struct Worker {
    left: AtomicU64,
    turns: Arc<Mutex<Vec<usize>>>,
    name: usize,
}

impl Clocked for Worker {
    fn step(&self, _: u64) -> bool {
        self.turns.lock().unwrap().push(self.name);
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn is_idle(&self) -> bool {
        self.left.load(Relaxed) == 0
    }
}

fn workers(seed: u64, left: u64) -> (Arc<Bus>, Arc<Mutex<Vec<usize>>>) {
    let bus = Bus::new(&BusOptions { seed, ..options() });
    let turns = Arc::new(Mutex::new(Vec::new()));
    for name in 0..4 {
        bus.add_clocked(Arc::new(Worker { left: AtomicU64::new(left), turns: turns.clone(), name }));
    }
    (bus, turns)
}

#[test]
fn steps_in_which_nobody_has_work_are_one_and_leave_everything_as_they_would() {
    for (limit, until_ns) in [(7, u64::MAX), (u64::MAX, 100), (u64::MAX, 5_000_000), (20, 300_000)] {
        let ((one, turns), (other, others)) = (workers(5, 3), workers(5, 3));
        assert_eq!(one.step_idly(limit, until_ns), 0, "there is work");
        [&one, &other].into_iter().for_each(|bus| assert!(!bus.settle(4)));
        let mut steps = 0usize;
        while (steps as u64) < limit && other.now_ns() <= until_ns {
            assert!(!other.step());
            steps += 1;
        }
        assert_eq!(one.step_idly(limit, until_ns), steps as u64);
        assert_eq!(one.now_ns(), other.now_ns());
        // What comes behind is as it would have been.
        [&one, &other].into_iter().for_each(|bus| assert!(!bus.step()));
        assert_eq!(one.now_ns(), other.now_ns());
        let newest = |turns: &Mutex<Vec<usize>>| turns.lock().unwrap().split_off(16);
        assert_eq!(newest(&turns), newest(&others)[4 * steps..]);
        one.cpu().store_run(Pa::new(0x4000_0000), 1, 1, 4).unwrap();
        assert_eq!(one.step_idly(limit, u64::MAX), 0, "a store may drain");
    }
}

#[test]
fn everybody_has_a_turn_in_each_step_in_an_order_of_the_seed() {
    let order = |seed| {
        let (bus, turns) = workers(seed, 10);
        (0..5).for_each(|_| assert!(bus.step()));
        let turns = turns.lock().unwrap().clone();
        for step in turns.chunks(4) {
            let mut sorted = step.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
        turns
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn time_goes_on_and_faster_when_nothing_happens() {
    let (bus, _) = workers(1, 3);
    assert!(bus.step());
    let busy_ns = bus.now_ns();
    assert!(bus.settle(100));
    assert!(!bus.step());
    let before_ns = bus.now_ns();
    (0..20).for_each(|_| assert!(!bus.step()));
    assert!(bus.now_ns() - before_ns > 20 * 10 * busy_ns);
    bus.advance_ns(5);
    assert_eq!(Fabric::now_ns(&*bus), bus.now_ns());
}

#[test]
fn work_without_end_does_not_settle() {
    let (bus, _) = workers(1, u64::MAX);
    assert!(!bus.settle(10));
}

#[test]
fn a_store_drains_as_time_passes() {
    let bus = Bus::new(&options());
    let at = bus.cpu().alloc(8, 8).unwrap();
    bus.cpu().write_barrier();
    bus.cpu().store64(at, 7).unwrap();
    let drained = (0..1000).any(|_| {
        bus.step();
        bus.cpu().ram().load(at) == Ok(7)
    });
    assert!(drained);
}

#[test]
fn stores_can_be_told_to_go_straight_to_memory() {
    let bus = Bus::new(&BusOptions { stores: Stores::Direct, ..options() });
    let at = bus.cpu().alloc(8, 8).unwrap();
    bus.cpu().store64(at, 7).unwrap();
    assert_eq!(bus.cpu().ram().load(at), Ok(7));
}

#[test]
fn a_dismantled_bus_lets_go_of_its_models() {
    let (bus, scratch) = (Bus::new(&options()), Arc::new(Scratch::default()));
    bus.add_registers("scratch", range(0x1000, 0x100), scratch.clone()).unwrap();
    bus.dismantle();
    assert_eq!(Arc::strong_count(&scratch), 1);
}

#[test]
fn cpus_and_hardware_on_threads_lose_no_store() {
    for caches in [Caches::Snooped, Caches::WriteBack] {
        let bus = Bus::new(&BusOptions { caches, ..options() });
        let shared = bus.cpu().alloc(4096, 4096).unwrap();
        bus.cpu().write_barrier();
        std::thread::scope(|scope| {
            for lane in 0..4u64 {
                let bus = &bus;
                scope.spawn(move || {
                    let own = Pa::new(shared.get() + 64 + 8 * lane);
                    for round in 1..=2000 {
                        bus.cpu().store64(own, round).unwrap();
                        assert_eq!(bus.cpu().load64(own), Ok(round));
                        count_up(bus, shared);
                    }
                    bus.cpu().write_barrier();
                });
            }
            scope.spawn(|| (0..2000).for_each(|_| _ = bus.step()));
        });
        bus.cpu().write_barrier();
        let mut words = [0; 96];
        Fabric::read(&*bus, shared, &mut words).unwrap();
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(64), word(88)), (8000, 2000, 2000));
    }
}

fn count_up(bus: &Bus, at: Pa) {
    let mut seen = bus.cpu().load64(at).unwrap();
    loop {
        match bus.cpu().compare_exchange(at, seen, seen + 1).unwrap() {
            found if found == seen => return,
            found => seen = found,
        }
    }
}
