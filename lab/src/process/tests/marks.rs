//! Part 19: what devices and CPUs mark in entries, and what becomes of it.

use std::sync::{Arc, Mutex};

use model_cpu::{Context, Cpu, CpuFeatures, Cpus, FaultKind, HardwareUpdate as Able, TlbPolicy, Tlbi};
use portcullis::core::iommu::SyncError;
use portcullis::core::mm::{MmListener, ProcessMemory};
use portcullis::pgtable::arm::HardwareUpdate;
use portcullis::types::{Iova, IovaRange, Pa, PaRange, Perms, SizeLg2};

use super::bench::{Bench, R, RW, at, mapping, part, read};
use super::maps::Scripted;
use super::pins::Latch;
use crate::process::{File, KernelOptions, MmError, Process, Source};

/// A device whose SMMU marks entries, whatever the CPUs can, and remembers them until it is told.
struct Marking {
    cpu: Cpu,
    asid: u16,
    failing: Mutex<Option<SyncError>>,
}

impl Marking {
    fn bind(bench: &Bench, process: &Arc<Process>) -> Arc<Self> {
        let features = CpuFeatures { hardware_update: Able::AccessAndDirty, ..CpuFeatures::COMMON };
        let cpus = Cpus::new(bench.bus.clone(), &[features], TlbPolicy::holding(1));
        let cpu = cpus.cpu(0).unwrap();
        let asid = process.pin_asid().unwrap();
        let context = bench.arm_context(process, asid);
        // HA 39, HD 40.
        cpu.switch_to(Some(Context { tcr: context.tcr | 0x180_0000_0000, ..context }));
        let device = Arc::new(Self { cpu, asid, failing: Mutex::default() });
        process.add_listener(device.clone()).unwrap();
        device
    }

    /// Without a fault.
    fn write(&self, to: Iova, byte: u8) {
        self.cpu.store(to.get(), &[byte]).unwrap();
        self.cpu.cpus().bus().cpu().write_barrier();
    }
}

impl MmListener for Marking {
    fn invalidate(&self, range: IovaRange) -> Result<(), SyncError> {
        self.failing.lock().unwrap().map_or(Ok(()), Err)?;
        let (first, last) = (range.first().get(), range.last().get());
        self.cpu.tlbi(Tlbi::Range { asid: self.asid, first, last, last_level_only: false });
        self.cpu.barrier();
        Ok(())
    }

    fn release(&self) -> Result<(), SyncError> {
        self.failing.lock().unwrap().map_or(Ok(()), Err)?;
        self.cpu.switch_to(None);
        self.cpu.tlbi(Tlbi::All);
        self.cpu.barrier();
        Ok(())
    }
}

fn bench(hardware_update: HardwareUpdate, able: Able, seed: u64) -> Bench {
    let options = KernelOptions { hardware_update, ..KernelOptions::new(SizeLg2::KIB_4, seed) };
    let features = CpuFeatures { hardware_update: able, ..CpuFeatures::COMMON };
    Bench::with(options, features, 0x4000_0000)
}

/// What was written back: where, and the first byte.
type Written = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A process with four pages of a file, all of them read and none written.
fn reader(bench: &Bench) -> (Arc<Process>, IovaRange, Arc<File>, Written) {
    let scripted = Scripted { bytes: vec![1; 0x4000], ..Scripted::default() };
    let written = scripted.written.clone();
    let file = bench.kernel.open(Box::new(scripted));
    let process = bench.process();
    let source = Source::Shared { file: file.clone(), offset_bytes: 0 };
    let range = process.map(&mapping(0x4000, RW, source)).unwrap();
    for page in 0..4 {
        assert_eq!(read(&process, at(range, page * 0x1000), 1), [1]);
    }
    (process, range, file, written)
}

fn take(written: &Written) -> Vec<(u64, u8)> {
    written.lock().unwrap().drain(..).map(|(at, bytes)| (at, bytes[0])).collect()
}

const ABLE: [Able; 3] = [Able::None, Able::Access, Able::AccessAndDirty];

#[test]
fn part_19_a_write_by_a_device_makes_a_file_page_dirty_without_a_fault_whatever_the_cpus_can() {
    for (seed, able) in (0..).zip(ABLE) {
        let bench = bench(HardwareUpdate::AccessAndDirty, able, seed);
        let (process, range, file, written) = reader(&bench);
        let device = Marking::bind(&bench, &process);
        let faults = process.usage().faults;
        assert_eq!(file.write_back().unwrap(), 0);
        for byte in 2..5 {
            device.write(at(range, 0x1000), byte);
            assert_eq!(file.write_back().unwrap(), 1, "also when it was written back before");
            assert_eq!(take(&written), [(0x1000, byte)]);
            assert_eq!(file.write_back().unwrap(), 0, "it is clean now");
        }
        assert_eq!(process.usage().faults, faults);
        process.exit();
        process.unpin_asid();
    }
}

#[test]
fn part_19_what_a_device_wrote_is_known_when_the_page_is_unmapped_protected_or_its_process_gone() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::None, 1);
    let (process, range, file, written) = reader(&bench);
    let device = Marking::bind(&bench, &process);
    for page in 0..3u8 {
        device.write(at(range, u64::from(page) * 0x1000), 10 + page);
    }
    process.unmap(part(range, 0, 0x1000)).unwrap();
    process.protect(part(range, 0x1000, 0x1000), R).unwrap();
    process.exit();
    drop(process);
    assert_eq!(file.write_back().unwrap(), 3);
    assert_eq!(take(&written), [(0, 10), (0x1000, 11), (0x2000, 12)]);
}

#[test]
fn part_19_cpus_that_cannot_mark_fault_and_the_kernel_marks_for_them() {
    for (seed, able) in (0..).zip(ABLE) {
        let bench = bench(HardwareUpdate::AccessAndDirty, able, 20 + seed);
        let (process, range, file, written) = reader(&bench);
        let other = bench.process();
        let source = Source::Shared { file: file.clone(), offset_bytes: 0x1000 };
        let seen = other.map(&mapping(0x1000, RW, source)).unwrap();
        for byte in 2..5 {
            process.write(at(range, 0x1000), &[byte]).unwrap();
            assert_eq!(read(&other, seen.first(), 1), [byte]);
            assert_eq!(file.write_back().unwrap(), 1, "{able:?}");
            other.write(seen.first(), &[byte + 100]).unwrap();
            assert_eq!(file.write_back().unwrap(), 1, "{able:?}");
            assert_eq!(take(&written), [(0x1000, byte), (0x1000, byte + 100)]);
            assert_eq!(file.write_back().unwrap(), 0);
        }
        drop((process, other, file));
        bench.assert_clean();
    }
}

#[test]
fn part_19_a_device_that_cannot_mark_is_served_like_a_cpu() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::AccessAndDirty, 30);
    let (process, range, file, written) = reader(&bench);
    let features = CpuFeatures::COMMON;
    let cpus = Cpus::new(bench.bus.clone(), &[features], TlbPolicy::holding(1));
    let cpu = cpus.cpu(0).unwrap();
    let asid = process.pin_asid().unwrap();
    cpu.switch_to(Some(bench.arm_context(&process, asid)));
    let device = Arc::new(Marking { cpu, asid, failing: Mutex::default() });
    process.add_listener(device.clone()).unwrap();
    let fault = device.cpu.store(range.first().get(), &[7]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Permission);
    let fault = portcullis::core::mm::MmFault { address: range.first(), wanted: Perms::WRITE };
    assert_eq!(process.handle_fault(&fault), Ok(()));
    device.write(range.first(), 7);
    assert_eq!(file.write_back().unwrap(), 1);
    assert_eq!(take(&written), [(0, 7)]);
    process.exit();
    process.unpin_asid();
}

#[test]
fn part_19_a_part_of_a_file_is_written_back_alone() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::AccessAndDirty, 40);
    let (process, range, file, written) = reader(&bench);
    process.write(range.first(), &[9; 0x4000]).unwrap();
    assert_eq!(process.write_back(part(range, 0x1000, 0x2000)), Ok(2));
    assert_eq!(take(&written), [(0x1000, 9), (0x2000, 9)]);
    process.unmap(part(range, 0x1000, 0x1000)).unwrap();
    assert_eq!(process.write_back(range), Err(MmError::NotMapped(at(range, 0x1000))));
    assert_eq!(file.write_back().unwrap(), 2);
    assert_eq!(take(&written), [(0, 9), (0x3000, 9)]);
}

#[test]
fn part_19_a_page_that_hardware_may_write_in_silence_stays_dirty() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::AccessAndDirty, 50);
    let (process, range, file, written) = reader(&bench);
    let device = Marking::bind(&bench, &process);
    device.write(range.first(), 3);
    *device.failing.lock().unwrap() = Some(SyncError::Failed { code: 1 });
    assert_eq!(file.write_back().unwrap(), 1);
    // It remembers the entry as dirty.
    device.write(range.first(), 4);
    *device.failing.lock().unwrap() = None;
    assert_eq!(file.write_back().unwrap(), 1);
    assert_eq!(take(&written), [(0, 3), (0, 4)]);
    process.exit();
    process.unpin_asid();
}

#[test]
fn part_19_a_scan_finds_what_was_touched_since_the_last_one_in_every_mode() {
    let modes = [HardwareUpdate::None, HardwareUpdate::Access, HardwareUpdate::AccessAndDirty];
    for (seed, (mode, able)) in (60..).zip(modes.into_iter().flat_map(|mode| ABLE.map(|able| (mode, able)))) {
        let bench = bench(mode, able, seed);
        let process = bench.process();
        let range = process.map(&mapping(0x8000, RW, Source::Anonymous)).unwrap();
        let device = Marking::bind(&bench, &process);
        process.write(range.first(), &[1; 0x8000]).unwrap();
        assert_eq!(process.scan_accessed(range).unwrap().len(), 8);
        process.write(at(range, 0x2000), &[2]).unwrap();
        let touched = process.scan_accessed(range).unwrap();
        assert!(touched.contains(&at(range, 0x2000)), "{mode:?} {able:?}");
        if mode != HardwareUpdate::None {
            device.cpu.load(at(range, 0x7000).get(), &mut [0]).unwrap();
            device.cpu.load(at(range, 0x7000).get(), &mut [0]).unwrap();
            let touched = process.scan_accessed(range).unwrap();
            assert!(touched.contains(&at(range, 0x7000)), "{mode:?} {able:?}");
        }
        assert_eq!(read(&process, at(range, 0x2000), 2), [2, 1], "nothing is lost");
        process.exit();
        process.unpin_asid();
        bench.assert_clean();
    }
}

#[test]
fn part_19_a_page_that_somebody_may_remember_as_writable_stays_dirty() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::AccessAndDirty, 70);
    let (process, range, file, written) = reader(&bench);
    let device = Marking::bind(&bench, &process);
    device.write(range.first(), 3);
    *device.failing.lock().unwrap() = Some(SyncError::Failed { code: 1 });
    assert!(matches!(process.protect(range, R), Err(MmError::Unconfirmed(_))));
    file.write_back().unwrap();
    // It remembers the entry as dirty, and there is none any more that would say so.
    device.write(range.first(), 4);
    file.write_back().unwrap();
    let first = take(&written).into_iter().filter(|(at, _)| *at == 0).map(|(_, byte)| byte);
    assert_eq!(first.collect::<Vec<_>>(), [3, 4]);
    *device.failing.lock().unwrap() = None;
    process.exit();
    process.unpin_asid();
}

#[test]
fn part_19_what_was_written_is_known_also_when_the_release_was_not_confirmed() {
    let bench = bench(HardwareUpdate::AccessAndDirty, Able::AccessAndDirty, 80);
    let (process, range, file, written) = reader(&bench);
    let device = Marking::bind(&bench, &process);
    device.write(at(range, 0x2000), 5);
    *device.failing.lock().unwrap() = Some(SyncError::Failed { code: 1 });
    process.exit();
    drop(process);
    assert_eq!(file.write_back().unwrap(), 1);
    assert_eq!(take(&written), [(0x2000, 5)]);
}

#[test]
fn part_19_registers_are_reached_after_a_scan_by_cpus_that_cannot_mark() {
    let modes = [HardwareUpdate::None, HardwareUpdate::Access, HardwareUpdate::AccessAndDirty];
    for (seed, mode) in (90..).zip(modes) {
        let bench = bench(mode, Able::None, seed);
        let first = Pa::new(0x0900_0000);
        let registers = PaRange::new(first, 0x1000).unwrap();
        bench.bus.add_registers("latch", registers, Arc::new(Latch::default())).unwrap();
        let process = bench.process();
        let range = process.map(&mapping(0x1000, RW, Source::Registers { first })).unwrap();
        process.write(range.first(), &7u32.to_le_bytes()).unwrap();
        process.scan_accessed(range).unwrap();
        assert_eq!(read(&process, range.first(), 4), 7u32.to_le_bytes(), "{mode:?}");
    }
}
