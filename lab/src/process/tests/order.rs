//! In which order entries, listeners and frames go, seen by a listener at each call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use model_bus::Bus;
use model_cpu::{Cpu, Cpus, FaultKind, TlbPolicy, Tlbi};
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{Exited, MmListener, ProcessMemory};
use portcullis::types::{AccessKind, Iova, IovaRange, Pa};

use super::bench::{Bench, R, RW, at, mapping, part, read};
use super::maps::Scripted;
use crate::platform::Tamper;
use crate::process::{Process, Source};
use crate::tamper::Hands;

/// Looks with the eyes of a walker that remembers nothing.
struct Watcher {
    bus: Arc<Bus>,
    walker: Cpu,
    /// The CPU that the process runs on.
    cpu: Cpu,
    /// Where each page of the watched range went before the call.
    known: Mutex<BTreeMap<u64, (Pa, bool)>>,
    told: Mutex<Vec<IovaRange>>,
    released: Mutex<u32>,
}

impl Watcher {
    fn on(bench: &Bench, process: &Arc<Process>) -> Arc<Self> {
        let cpu = bench.kernel.cpus().arm().unwrap().cpu(0).unwrap();
        process.run_on(0);
        let cpus = Cpus::new(bench.bus.clone(), &[cpu.features()], TlbPolicy::holding(0));
        let walker = cpus.cpu(0).unwrap();
        walker.switch_to(Some(bench.arm_context(process, 1)));
        let (known, told, released) = (Mutex::default(), Mutex::default(), Mutex::default());
        let watcher = Arc::new(Self { bus: bench.bus.clone(), walker, cpu, known, told, released });
        process.add_listener(watcher.clone()).unwrap();
        watcher
    }

    /// Where a page goes, and whether it can be written.
    fn look(&self, va: u64) -> Option<(Pa, bool)> {
        self.walker.tlbi(Tlbi::All);
        self.walker.barrier();
        let read = self.walker.translate(va, AccessKind::Read).ok()?;
        Some((read.pa, self.walker.translate(va, AccessKind::Write).is_ok()))
    }

    fn snapshot(&self, range: IovaRange) -> BTreeMap<u64, (Pa, bool)> {
        let pages = (range.first().get()..=range.last().get()).step_by(0x1000);
        pages.filter_map(|va| Some((va, self.look(va)?))).collect()
    }

    /// Does `work`, and checks that every entry of `range` that was there and is not there any more as it was, was announced.
    fn during(&self, range: IovaRange, work: impl FnOnce()) -> Vec<IovaRange> {
        let before = self.snapshot(range);
        *self.known.lock().unwrap() = before.clone();
        self.told.lock().unwrap().clear();
        work();
        let after = self.snapshot(range);
        let told = self.told.lock().unwrap().clone();
        for (va, was) in before {
            let announced = told.iter().any(|range| range.contains(Iova::new(va)));
            assert!(after.get(&va) == Some(&was) || announced, "{va:#x} changed in silence");
        }
        self.known.lock().unwrap().clear();
        told
    }
}

impl MmListener for Watcher {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.told.lock().unwrap().push(range);
        for (&va, &(pa, _)) in self.known.lock().unwrap().iter() {
            if range.contains(Iova::new(va)) {
                assert_eq!(self.look(va), None, "the entry of {va:#x} is cleared first");
                let kind = self.cpu.translate(va, AccessKind::Read).unwrap_err().kind;
                assert_eq!(kind, FaultKind::Translation, "and no CPU remembers it");
                assert!(self.bus.cpu().heap().is_live(pa, 0x1000), "its frame is still there");
            }
        }
        Ok(())
    }

    fn release(&self) -> Result<(), SyncError> {
        *self.released.lock().unwrap() += 1;
        for (&va, &entry) in self.known.lock().unwrap().iter() {
            assert_eq!(self.look(va), Some(entry), "the tables are there until all are released");
            assert!(self.bus.cpu().heap().is_live(entry.0, 0x1000));
        }
        self.walker.switch_to(None);
        Ok(())
    }
}

fn filled(bench: &Bench, len: u64) -> (Arc<Process>, IovaRange, Arc<Watcher>) {
    let process = bench.process();
    let range = process.map(&mapping(len, RW, Source::Anonymous)).unwrap();
    let watcher = Watcher::on(bench, &process);
    process.write(range.first(), &vec![7; len as usize]).unwrap();
    (process, range, watcher)
}

#[test]
fn unmapping_clears_then_tells_then_frees() {
    let bench = Bench::new(1);
    let (process, range, watcher) = filled(&bench, 0x8000);
    let live = bench.used().live_bytes;
    let gone = part(range, 0x2000, 0x3000);
    let told = watcher.during(range, || process.unmap(gone).unwrap());
    assert_eq!(told, [gone]);
    assert_eq!(bench.used().live_bytes, live - 0x3000);
    let told = watcher.during(range, || process.unmap(gone).unwrap());
    assert_eq!(told, [], "nothing was there any more");
    drop(process);
    bench.assert_clean();
}

#[test]
fn a_page_comes_back_with_nobody_told() {
    let bench = Bench::new(2);
    let process = bench.process();
    let range = process.map(&mapping(0x4000, RW, Source::Anonymous)).unwrap();
    let watcher = Watcher::on(&bench, &process);
    let told = watcher.during(range, || process.write(range.first(), &[1; 0x4000]).unwrap());
    assert_eq!(told, []);
}

#[test]
fn less_is_told_and_more_is_not() {
    let bench = Bench::new(3);
    let (process, range, watcher) = filled(&bench, 0x4000);
    let half = part(range, 0, 0x2000);
    assert_eq!(watcher.during(range, || process.protect(half, R).unwrap()), [half]);
    assert_eq!(read(&process, range.first(), 2), [7, 7]);
    assert_eq!(watcher.during(range, || process.protect(half, RW).unwrap()), []);
    // The write finds an entry that allows reading only: it goes through zero.
    let told = watcher.during(range, || process.write(range.first(), &[8]).unwrap());
    assert_eq!(told, [part(range, 0, 0x1000)]);
}

#[test]
fn a_fork_tells_what_was_writable_and_a_copy_tells_its_page() {
    let bench = Bench::new(4);
    let (process, range, watcher) = filled(&bench, 0x4000);
    process.protect(part(range, 0x1000, 0x1000), R).unwrap();
    assert_eq!(read(&process, at(range, 0x1000), 1), [7]);
    let mut child = None;
    let told = watcher.during(range, || child = Some(process.fork().unwrap()));
    assert_eq!(told, [part(range, 0, 0x1000), part(range, 0x2000, 0x2000)]);
    assert_eq!(read(&process, range.first(), 1), [7]);
    let told = watcher.during(range, || process.write(range.first(), &[9]).unwrap());
    assert_eq!(told, [part(range, 0, 0x1000)]);
    let child = child.unwrap();
    assert_eq!(read(&child, range.first(), 2), [7, 7]);
    assert_eq!(process.usage().copies, 1);
    child.write(range.first(), &[1]).unwrap();
    assert_eq!(child.usage().copies, 0, "the last who has a page need not copy it");
}

#[test]
fn release_comes_once_before_anything_goes_and_nothing_is_told_after_it() {
    let bench = Bench::new(5);
    let (process, range, watcher) = filled(&bench, 0x4000);
    *watcher.known.lock().unwrap() = watcher.snapshot(range);
    watcher.told.lock().unwrap().clear();
    process.exit();
    process.exit();
    assert_eq!((*watcher.released.lock().unwrap(), watcher.told.lock().unwrap().len()), (1, 0));
    bench.assert_clean();
    drop(process);
    assert_eq!(*watcher.released.lock().unwrap(), 1);
}

#[test]
fn a_listener_that_was_removed_hears_nothing_and_one_that_comes_late_is_refused() {
    let bench = Bench::new(6);
    let process = bench.process();
    let range = process.map(&mapping(0x1000, RW, Source::Anonymous)).unwrap();
    process.write(range.first(), &[1]).unwrap();
    let (device, id) = super::bench::Device::bind(&bench, &process, TlbPolicy::holding(1));
    *device.failing.lock().unwrap() = Some(SyncError::Failed { code: 1 });
    process.remove_listener(id);
    process.remove_listener(id);
    assert_eq!(process.unmap(range), Ok(()));
    process.exit();
    assert_eq!(process.add_listener(device), Err(Exited));
    process.unpin_asid();
    bench.assert_clean();
}

/// Looks at each entry that is stored, before it is.
struct Onlooker {
    bus: Arc<Bus>,
    entries: Arc<Mutex<u32>>,
}

impl Tamper for Onlooker {
    fn store(&self, hands: Hands<'_>, at: Pa, word: u64) {
        // Valid, a page, and the access flag, which entries that lead to tables do not have.
        if word & 0x403 == 0x403 {
            let page = Pa::new(word & 0xffff_ffff_f000);
            let (mut cpus, mut hardwares) = ([0; 0x1000], [0; 0x1000]);
            self.bus.cpu().read(page, &mut cpus).unwrap();
            self.bus.cpu().ram().read(page, &mut hardwares).unwrap();
            assert_eq!(cpus, hardwares, "hardware sees what the page holds before it can reach it");
            *self.entries.lock().unwrap() += 1;
        }
        hands.store(at, word);
    }
}

#[test]
fn what_a_page_holds_is_visible_before_its_entry_is() {
    let entries: Arc<Mutex<u32>> = Arc::default();
    let watch = entries.clone();
    let onlooker =
        move |bus: &Arc<Bus>| -> Arc<dyn Tamper> { Arc::new(Onlooker { bus: bus.clone(), entries: watch }) };
    let bench = Bench::watched_by(onlooker, 7);
    let process = bench.process();
    let file = bench.kernel.open(Box::new(Scripted { bytes: vec![3; 0x2000], ..Scripted::default() }));
    let anonymous = process.map(&mapping(0x2000, RW, Source::Anonymous)).unwrap();
    let private = process.map(&mapping(0x2000, RW, Source::Private { file, offset_bytes: 0 })).unwrap();
    assert_eq!(read(&process, anonymous.first(), 1), [0]);
    process.write(at(anonymous, 0x1000), &[1]).unwrap();
    assert_eq!(read(&process, private.first(), 1), [3]);
    process.write(at(private, 0x1000), &[1]).unwrap();
    process.write(private.first(), &[1]).unwrap();
    let child = process.fork().unwrap();
    child.write(anonymous.first(), &[2]).unwrap();
    assert_eq!(*entries.lock().unwrap(), 6);
}
