//! Ownership from many threads: never a mixture, never a lost count, and everybody gets to the end.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use core::time::Duration;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::support::{Bench, Machine, STRICT, bench};
use portcullis_core::bus::{BindError, Driver, DriverBinding, HotRemoveError, Place};
use portcullis_core::device::DeviceInfo;
use portcullis_core::domain::{Domain, DomainType};
use portcullis_core::group::{Group, GroupError};
use portcullis_core::owner::{Owner, Released};
use portcullis_types::SourceId;

type Binding = DriverBinding<Machine, InKernelHands>;

/// How many drivers use the DMA API, and how many users hold the group, as they themselves see it.
#[derive(Debug, Default)]
struct Seen {
    drivers: AtomicUsize,
    users: AtomicUsize,
    binds: AtomicUsize,
    claims: AtomicUsize,
}

/// A driver that is bound.
struct InKernelHands(Arc<Seen>);

impl InKernelHands {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.drivers.fetch_add(1, SeqCst);
        assert_eq!(seen.users.load(SeqCst), 0, "a driver was probed in a group that is a user's");
        seen.binds.fetch_add(1, SeqCst);
        Self(seen.clone())
    }
}

impl Drop for InKernelHands {
    fn drop(&mut self) {
        assert_eq!(self.0.users.load(SeqCst), 0, "a user got the group under a driver");
        self.0.drivers.fetch_sub(1, SeqCst);
    }
}

struct Scene {
    bench: Bench,
    group: Arc<Group<Machine>>,
    seen: Arc<Seen>,
    over: AtomicBool,
    start: Barrier,
}

/// How many claims end the test, and after how many tries it is given up.
const CLAIMS: usize = 500;
const TRIES: usize = 1_000_000;
/// For how long a driver stays away, so that users get a turn.
const AWAY: Duration = Duration::from_micros(50);
const USERS: usize = 2;
const BINDERS: usize = 3;
const PLUGGERS: usize = 2;

impl Scene {
    fn plug(&self, source: u32) -> Binding {
        let info = DeviceInfo::new(&format!("dev{source}"), &[SourceId(source)]);
        Binding::hot_add(&self.bench.unit, self.group.clone(), info).unwrap()
    }

    /// Claims, looks, attaches, looks, releases.
    fn user(&self, number: usize, devices: &[Place<Machine>]) {
        let owner = Owner::new(number + 1).unwrap();
        let domain =
            Domain::new(self.bench.machine.clone(), self.bench.iommu.clone(), DomainType::Unmanaged).unwrap();
        self.start.wait();
        for round in 0..TRIES {
            if self.seen.claims.load(SeqCst) >= CLAIMS {
                return;
            }
            let device = (round % 2 == 0).then(|| &devices[round / 2 % devices.len()].device);
            let claimed = match device {
                None => self.group.claim_group(owner),
                Some(device) => self.group.claim_device(device, owner),
            };
            if claimed.is_ok() {
                assert_eq!(self.seen.users.fetch_add(1, SeqCst), 0, "two users at once");
                assert_eq!(self.seen.drivers.load(SeqCst), 0, "a user got a group with drivers");
                self.seen.claims.fetch_add(1, SeqCst);
                assert_eq!(self.group.ownership().owner, Some(owner));
                self.group.attach_as(owner, &domain).unwrap();
                thread::yield_now();
                assert!(Arc::ptr_eq(&self.group.current_domain(), &domain));
                self.seen.users.fetch_sub(1, SeqCst);
                let released = match device {
                    None => self.group.release_group(owner),
                    Some(device) => self.group.release_device(device, owner),
                };
                assert_eq!(released, Ok(Released::Free));
            }
            thread::yield_now();
        }
    }

    /// Binds and unbinds.
    fn binder(&self, binding: &Binding) {
        self.start.wait();
        while !self.over.load(SeqCst) {
            let bound =
                binding.bind::<()>(Driver::new("driver"), || Ok(()), |_| Ok(InKernelHands::new(&self.seen)));
            match bound {
                Ok(()) | Err(BindError::Bound(_) | BindError::Busy | BindError::Configure(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            thread::yield_now();
            let _ = binding.unbind(drop);
            thread::sleep(AWAY);
        }
    }

    /// Plugs, binds, unplugs.
    fn plugger(&self, source: u32) {
        self.start.wait();
        while !self.over.load(SeqCst) {
            let binding = self.plug(source);
            let _ =
                binding.bind::<()>(Driver::new("driver"), || Ok(()), |_| Ok(InKernelHands::new(&self.seen)));
            thread::yield_now();
            binding.hot_remove(&self.bench.unit, drop).unwrap();
            thread::sleep(AWAY);
        }
    }
}

#[test]
fn whoever_comes_and_goes_a_group_is_the_kernels_or_one_users_and_no_count_is_lost() {
    let bench = bench(STRICT);
    let group = Arc::new(Group::new(bench.machine.clone(), bench.iommu.clone(), 8, STRICT).unwrap());
    let start = Barrier::new(USERS + BINDERS + PLUGGERS);
    let scene = Scene { bench, group, seen: Arc::default(), over: AtomicBool::new(false), start };
    let bindings = [scene.plug(1), scene.plug(2)];
    let places = [bindings[0].place().unwrap().clone(), bindings[1].place().unwrap().clone()];
    thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|number| {
                let (scene, places) = (&scene, &places);
                scope.spawn(move || scene.user(number, places))
            })
            .collect();
        for number in 0..BINDERS {
            // Two of them at the same device.
            let (scene, binding) = (&scene, &bindings[number % 2]);
            scope.spawn(move || scene.binder(binding));
        }
        for number in 0..PLUGGERS {
            let scene = &scene;
            scope.spawn(move || scene.plugger(10 + number as u32));
        }
        // A user who dies must not keep the others from the end.
        let ended: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
        scene.over.store(true, SeqCst);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    for binding in &bindings {
        let _ = binding.unbind(drop);
    }
    let now = scene.group.ownership();
    assert_eq!((now.count, now.owner), (0, None));
    assert_eq!((scene.seen.drivers.load(SeqCst), scene.seen.users.load(SeqCst)), (0, 0));
    assert_eq!(scene.group.devices().len(), 2);
    let default = scene.group.default_domain();
    assert!(scene.group.devices().iter().all(|device| Arc::ptr_eq(&device.domain().unwrap(), &default)));
    let (binds, claims) = (scene.seen.binds.load(SeqCst), scene.seen.claims.load(SeqCst));
    assert!(binds > 0 && claims >= CLAIMS, "{binds} binds and {claims} claims: they hardly met");
}

#[test]
fn a_device_is_removed_once_however_many_ask() {
    for _ in 0..200 {
        let bench = bench(STRICT);
        let group = Arc::new(Group::new(bench.machine.clone(), bench.iommu.clone(), 8, STRICT).unwrap());
        let info = DeviceInfo::new("dev1", &[SourceId(1)]);
        let binding =
            DriverBinding::<Machine, ()>::hot_add(&bench.unit, group.clone(), info).expect("a member");
        binding.bind::<()>(Driver::new("driver"), || Ok(()), |_| Ok(())).unwrap();
        let (stopped, removed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        match binding.hot_remove(&bench.unit, |()| {
                            stopped.fetch_add(1, SeqCst);
                        }) {
                            Ok(()) => {
                                removed.fetch_add(1, SeqCst);
                                break;
                            }
                            Err(HotRemoveError::Gone) => break,
                            Err(HotRemoveError::Busy) => thread::yield_now(),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                });
            }
        });
        assert_eq!((stopped.load(SeqCst), removed.load(SeqCst)), (1, 1));
        assert_eq!((group.ownership().count, group.devices().len()), (0, 0));
        let device = binding.place().unwrap().device.clone();
        assert_eq!(group.remove_device(&device), Err(GroupError::NotMember));
    }
}
