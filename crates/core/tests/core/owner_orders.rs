//! Ownership in every order that shuttle thinks of: the group itself, on a lock whose every step may be interrupted.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis_core::bus::{BindError, Driver, DriverBinding, HotRemoveError};
use portcullis_core::device::DeviceInfo;
use portcullis_core::group::{DefaultDomain, Group};
use portcullis_core::iommu::{
    AddDeviceError, AttachError, Capabilities, DomainError, FaultRecord, GlobalError, HwDomain, Iommu,
    ReservedRegion, SyncError, Target,
};
use portcullis_core::owner::{Owner, Released};
use portcullis_core::unit::IommuUnit;
use portcullis_hal::lock_api::{GuardNoSend, RawMutex};
use portcullis_hal::{Barriers, BlockLayout, Clock, DmaMemory, Platform, TableMemory};
use portcullis_types::trace::{Event, Sink};
use portcullis_types::{Pa, PageSizes, SizeLg2, SourceId};

use crate::support::range;

/// A lock whose every step shuttle may interrupt. Shuttle runs one thread at a time, and switches only where it is asked.
struct Scheduled(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, because of the exchange.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl RawMutex for Scheduled {
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        shuttle::thread::yield_now();
        while !self.try_lock() {
            shuttle::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, SeqCst);
        shuttle::thread::yield_now();
    }
}

/// A platform that has nothing but the lock.
#[derive(Debug)]
struct Bare;

impl Platform for Bare {
    type Mutex = Scheduled;
}

impl Clock for Bare {
    fn now_ns(&self) -> u64 {
        0
    }

    fn relax(&self) {
        shuttle::thread::yield_now();
    }
}

impl Sink for Bare {
    fn listening(&self) -> bool {
        false
    }

    fn event(&self, _: &Event<'_>) {}
}

impl Barriers for Bare {
    fn write_barrier(&self) {}
    fn read_barrier(&self) {}
    fn full_barrier(&self) {}
}

const NO_MEMORY: &str = "ownership needs no memory";

impl DmaMemory for Bare {
    fn alloc_buffer(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_MEMORY}")
    }

    fn free_buffer(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_MEMORY}")
    }

    fn clean(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }

    fn invalidate(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }

    fn read(&self, _: Pa, _: &mut [u8]) {
        unreachable!("{NO_MEMORY}")
    }

    fn write(&self, _: Pa, _: &[u8]) {
        unreachable!("{NO_MEMORY}")
    }

    fn read32(&self, _: Pa) -> u32 {
        unreachable!("{NO_MEMORY}")
    }

    fn write32(&self, _: Pa, _: u32) {
        unreachable!("{NO_MEMORY}")
    }
}

impl TableMemory for Bare {
    fn alloc(&self, _: BlockLayout) -> Option<Pa> {
        unreachable!("{NO_MEMORY}")
    }

    fn free(&self, _: Pa, _: BlockLayout) {
        unreachable!("{NO_MEMORY}")
    }

    fn load(&self, _: Pa) -> u64 {
        unreachable!("{NO_MEMORY}")
    }

    fn store(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }

    fn compare_exchange(&self, _: Pa, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!("{NO_MEMORY}")
    }

    fn clean_table(&self, _: Pa, _: u64) {
        unreachable!("{NO_MEMORY}")
    }
}

/// An IOMMU that passes or blocks, and takes its time.
#[derive(Debug, Default)]
struct Gate {
    passes: Mutex<BTreeMap<u32, bool>>,
}

impl Gate {
    /// Whether every device is let through, or none.
    fn all(&self, open: bool) -> bool {
        self.passes.lock().unwrap().values().all(|&passes| passes == open)
    }
}

impl Iommu<Bare> for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(range(0, 0xffff_ffff), PageSizes::default().with(SizeLg2::KIB_4))
    }

    fn add_device(&self, _: &str, sources: &[SourceId]) -> Result<(), AddDeviceError> {
        self.passes.lock().unwrap().extend(sources.iter().map(|source| (source.0, false)));
        Ok(())
    }

    fn remove_device(&self, sources: &[SourceId]) -> Result<(), SyncError> {
        for source in sources {
            assert_eq!(self.passes.lock().unwrap().remove(&source.0), Some(false), "removed while it passes");
        }
        Ok(())
    }

    fn new_domain(&self) -> Result<Arc<dyn HwDomain<Bare>>, DomainError> {
        Err(DomainError::Unsupported)
    }

    fn attach(&self, sources: &[SourceId], target: &Target<Bare>) -> Result<(), AttachError> {
        for source in sources {
            shuttle::thread::yield_now();
            self.passes.lock().unwrap().insert(source.0, matches!(target, Target::Identity));
        }
        Ok(())
    }

    fn reserved_regions(&self, _: &[SourceId]) -> Vec<ReservedRegion> {
        Vec::new()
    }

    fn drain_events(&self, _: &mut dyn FnMut(&FaultRecord)) -> usize {
        0
    }

    fn handle_errors(&self) -> Vec<GlobalError> {
        Vec::new()
    }
}

type Binding = DriverBinding<Bare, ()>;

/// Who has the group, as those who have it see it.
struct Scene {
    gate: Arc<Gate>,
    unit: IommuUnit<Bare>,
    group: Arc<Group<Bare>>,
    drivers: AtomicUsize,
    users: AtomicUsize,
}

impl Scene {
    fn new() -> Arc<Self> {
        let (platform, gate) = (Arc::new(Bare), Arc::<Gate>::default());
        let unit = IommuUnit::new(platform.clone(), gate.clone());
        let group = Group::new(platform, gate.clone(), 1, DefaultDomain::Identity).unwrap();
        let (drivers, users) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { gate, unit, group: Arc::new(group), drivers, users })
    }

    fn plug(&self, source: u32) -> Binding {
        let info = DeviceInfo::new(&format!("dev{source}"), &[SourceId(source)]);
        Binding::hot_add(&self.unit, self.group.clone(), info).unwrap()
    }

    fn bind(&self, binding: &Binding) {
        let probe = |_| {
            self.drivers.fetch_add(1, SeqCst);
            self.kernels();
            Ok(())
        };
        match binding.bind::<()>(Driver::new("driver"), || Ok(()), probe) {
            Ok(())
            | Err(BindError::Bound(_) | BindError::Busy | BindError::Gone | BindError::Configure(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    fn stopped(&self) {
        self.kernels();
        self.drivers.fetch_sub(1, SeqCst);
    }

    /// For who uses the DMA API: nobody else has the group, and its devices get through.
    fn kernels(&self) {
        shuttle::thread::yield_now();
        assert_eq!(self.users.load(SeqCst), 0, "a driver and a user at once");
        let now = self.group.ownership();
        assert!(now.count >= 1 && now.owner.is_none(), "{now:?}");
    }

    /// Claims the group, or this device of it; and releases it.
    fn claim(&self, who: usize, binding: Option<&Binding>) {
        let owner = Owner::new(who).unwrap();
        let device = binding.map(|binding| binding.place().unwrap().device.clone());
        let claimed = match &device {
            None => self.group.claim_group(owner),
            Some(device) => self.group.claim_device(device, owner),
        };
        if claimed.is_err() {
            return;
        }
        assert_eq!(self.users.fetch_add(1, SeqCst), 0, "two users at once");
        shuttle::thread::yield_now();
        assert_eq!(self.drivers.load(SeqCst), 0, "a user and a driver at once");
        assert!(self.gate.all(false), "a device of a user's group gets through");
        let now = self.group.ownership();
        assert_eq!((now.count, now.owner), (1, Some(owner)));
        self.users.fetch_sub(1, SeqCst);
        let released = match &device {
            None => self.group.release_group(owner),
            Some(device) => self.group.release_device(device, owner),
        };
        assert_eq!(released, Ok(Released::Free));
    }

    fn is_at_rest(&self) {
        let now = self.group.ownership();
        assert_eq!((now.count, now.owner, self.drivers.load(SeqCst)), (0, None, 0));
        assert!(self.gate.all(true));
    }
}

fn everybody(acts: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = acts.into_iter().map(shuttle::thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn two_users_and_two_drivers() {
    let scene = Scene::new();
    let bindings = Arc::new([scene.plug(1), scene.plug(2)]);
    let mut acts: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for at in 0..2 {
        let (driving, driven) = (scene.clone(), bindings.clone());
        acts.push(Box::new(move || {
            driving.bind(&driven[at]);
            let _ = driven[at].unbind(|()| driving.stopped());
        }));
        let (claiming, claimed) = (scene.clone(), bindings.clone());
        acts.push(Box::new(move || claiming.claim(at + 1, (at == 0).then(|| &claimed[at]))));
    }
    everybody(acts);
    scene.is_at_rest();
}

fn one_is_plugged_and_unplugged_while_others_bind_and_claim() {
    let scene = Scene::new();
    let first = Arc::new(scene.plug(1));
    let mut acts: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let plugging = scene.clone();
    acts.push(Box::new(move || {
        let late = plugging.plug(2);
        plugging.bind(&late);
        late.hot_remove(&plugging.unit, |()| plugging.stopped()).unwrap();
    }));
    for _ in 0..2 {
        // Both at the same device.
        let (driving, driven) = (scene.clone(), first.clone());
        acts.push(Box::new(move || {
            driving.bind(&driven);
            let _ = driven.unbind(|()| driving.stopped());
        }));
    }
    let claiming = scene.clone();
    acts.push(Box::new(move || claiming.claim(1, None)));
    everybody(acts);
    // Who was refused because the other was busy may have left its driver to nobody.
    let _ = first.unbind(|()| scene.stopped());
    scene.is_at_rest();
}

fn a_device_is_removed_while_its_driver_is_bound() {
    let scene = Scene::new();
    let (kept, leaving) = (scene.plug(1), Arc::new(scene.plug(2)));
    let mut acts: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let (driving, driven) = (scene.clone(), leaving.clone());
    acts.push(Box::new(move || driving.bind(&driven)));
    for _ in 0..2 {
        let (removing, removed) = (scene.clone(), leaving.clone());
        acts.push(Box::new(move || {
            loop {
                match removed.hot_remove(&removing.unit, |()| removing.stopped()) {
                    Ok(()) | Err(HotRemoveError::Gone) => return,
                    Err(HotRemoveError::Busy) => shuttle::thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
    }
    everybody(acts);
    assert_eq!(scene.group.devices().len(), 1);
    scene.bind(&kept);
    kept.unbind(|()| scene.stopped()).unwrap();
    scene.is_at_rest();
}

const ORDERS: usize = 2000;

fn in_many_orders(test: fn()) {
    shuttle::check_random(test, ORDERS);
    shuttle::check_pct(test, ORDERS, 3);
}

#[test]
fn users_and_drivers_never_have_a_group_together_in_any_order() {
    in_many_orders(two_users_and_two_drivers);
}

#[test]
fn devices_come_and_go_in_any_order_and_no_count_is_lost() {
    in_many_orders(one_is_plugged_and_unplugged_while_others_bind_and_claim);
}

#[test]
fn a_device_is_removed_once_in_any_order() {
    in_many_orders(a_device_is_removed_while_its_driver_is_bound);
}
