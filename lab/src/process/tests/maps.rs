//! What a process sees of what it mapped.

use std::io::Write;
use std::sync::Arc;

use model_cpu::CpuFeatures;
use portcullis::core::mm::{MmFault, MmFaultError, ProcessMemory};
use portcullis::types::{Iova, Perms, SizeLg2};

use super::bench::{Bench, R, RW, at, mapping, part, read};
use crate::process::{Backing, File, KernelOptions, Mapping, MmError, RealFile, Source, UserError};

/// What was written, and from where on.
type Written = Arc<std::sync::Mutex<Vec<(u64, Vec<u8>)>>>;

/// A file in memory that counts what was read of it.
#[derive(Debug, Default)]
pub(super) struct Scripted {
    pub(super) bytes: Vec<u8>,
    pub(super) reads: Arc<std::sync::Mutex<Vec<u64>>>,
    pub(super) written: Written,
}

impl Backing for Scripted {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.reads.lock().unwrap().push(offset);
        into.copy_from_slice(&self.bytes[offset as usize..offset as usize + into.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        self.written.lock().unwrap().push((offset, from.to_vec()));
        Ok(())
    }
}

fn refused(result: Result<(), UserError>) -> (u64, MmFaultError) {
    match result.unwrap_err() {
        UserError::Fault { at, why } => (at.get(), why),
        other @ UserError::Abort { .. } => panic!("{other:?}"),
    }
}

#[test]
fn anonymous_memory_is_zero_until_it_is_written_and_takes_no_page_until_it_is_touched() {
    let bench = Bench::new(1);
    let process = bench.process();
    let before = bench.used().live_bytes;
    let range = process.map(&mapping(1 << 40, RW, Source::Anonymous)).unwrap();
    assert_eq!(bench.used().live_bytes, before);
    assert_eq!(read(&process, at(range, 0x12_3456_7ffe), 4), [0; 4]);
    process.write(at(range, 0x12_3456_7fff), &[1, 2]).unwrap();
    assert_eq!(read(&process, at(range, 0x12_3456_7ffe), 4), [0, 1, 2, 0]);
    assert_eq!((process.usage().resident_pages, process.usage().areas), (2, 1));
    drop(process);
    bench.assert_clean();
}

#[test]
fn tables_of_every_shape_serve_the_process() {
    let k = |granule, seed| KernelOptions::new(granule, seed);
    let shapes = [
        k(SizeLg2::KIB_4, 1),
        k(SizeLg2::KIB_16, 2),
        k(SizeLg2::KIB_64, 3),
        KernelOptions { input_bits: 39, output_bits: 40, ..k(SizeLg2::KIB_4, 4) },
        KernelOptions { input_bits: 47, wide_asids: false, ..k(SizeLg2::KIB_16, 5) },
        KernelOptions { input_bits: 52, output_bits: 52, ..k(SizeLg2::KIB_64, 6) },
        KernelOptions { input_bits: 52, output_bits: 52, large_descriptors: true, ..k(SizeLg2::KIB_4, 7) },
        KernelOptions { input_bits: 52, output_bits: 52, large_descriptors: true, ..k(SizeLg2::KIB_16, 8) },
    ];
    for options in shapes {
        // With 52 bits, RAM lies above 48.
        let ram = if options.output_bits == 52 { 0xa_0000_0000_0000 } else { 0x4000_0000 };
        let bench = Bench::with(options, CpuFeatures::LARGE, ram);
        let process = bench.process();
        let range = process.map(&mapping(0x10_0000, RW, Source::Anonymous)).unwrap();
        assert!(range.last().get() >> (options.input_bits - 1) == 1, "in the upper half: {range}");
        let bytes: Vec<u8> = (0..0x2_0001u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        process.write(at(range, 0x7fff), &bytes).unwrap();
        let child = process.fork().unwrap();
        process.write(at(range, 0x8000), &[0; 16]).unwrap();
        assert_eq!(read(&child, at(range, 0x7fff), bytes.len()), bytes, "{options:?}");
        drop((process, child));
        bench.assert_clean();
    }
}

#[test]
fn where_nothing_is_mapped_and_where_permissions_lack_the_access_faults_at_its_byte() {
    let bench = Bench::new(2);
    let process = bench.process();
    let range = process.map(&mapping(0x3000, RW, Source::Anonymous)).unwrap();
    process.protect(part(range, 0x1000, 0x1000), R).unwrap();
    let middle = range.first().get() + 0x1000;
    assert_eq!(refused(process.write(at(range, 0xffe), &[7; 4])), (middle, MmFaultError::Permission));
    assert_eq!(read(&process, at(range, 0xffc), 6), [0, 0, 7, 7, 0, 0]);
    let above = range.last().get() + 1;
    let mut bytes = [0; 2];
    assert_eq!(refused(process.read(range.last(), &mut bytes)), (above, MmFaultError::NoArea));
    assert_eq!(refused(process.write(Iova::new(0), &[0])), (0, MmFaultError::NoArea));
    assert_eq!(refused(process.fetch(range.first()).map(|_| ())).1, MmFaultError::Permission);
    process.protect(part(range, 0x1000, 0x1000), RW).unwrap();
    process.write(at(range, 0x1000), &[8]).unwrap();
    assert_eq!(process.usage().areas, 1, "merged again");
    process.protect(range, Perms::empty()).unwrap();
    assert_eq!(refused(process.read(at(range, 0x1000), &mut [0])).1, MmFaultError::Permission);
    process.protect(range, R | Perms::EXECUTE).unwrap();
    assert_eq!(process.fetch(at(range, 0x1000)), Ok(8));
}

#[test]
fn a_file_is_read_page_by_page_as_it_is_touched_and_private_changes_stay_private() {
    let bench = Bench::new(3);
    let bytes: Vec<u8> = (0..0x2800u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
    let scripted = Scripted { bytes: bytes.clone(), ..Scripted::default() };
    let reads = scripted.reads.clone();
    let file = bench.kernel.open(Box::new(scripted));
    let (one, two) = (bench.process(), bench.process());
    let private = |file: &Arc<File>| Source::Private { file: file.clone(), offset_bytes: 0x1000 };
    let a = one.map(&mapping(0x3000, RW, private(&file))).unwrap();
    let b = two.map(&mapping(0x3000, RW, private(&file))).unwrap();
    assert_eq!(reads.lock().unwrap().len(), 0);
    assert_eq!(read(&one, at(a, 0x10), 16), bytes[0x1010..0x1020]);
    assert_eq!(*reads.lock().unwrap(), [0x1000]);
    one.write(at(a, 0x17ff), &[0xaa, 0xbb]).unwrap();
    assert_eq!(*reads.lock().unwrap(), [0x1000, 0x2000]);
    assert_eq!(read(&two, at(b, 0x7ff), 2), bytes[0x17ff..0x1801]);
    one.write(at(a, 0x7ff), &[0xcc]).unwrap();
    assert_eq!(read(&two, at(b, 0x7ff), 2), bytes[0x17ff..0x1801], "not the other's");
    assert_eq!(reads.lock().unwrap().len(), 2, "one page for both");
    assert_eq!(read(&one, at(a, 0x7fe), 2), [bytes[0x17fe], 0xcc]);
    // The rest of the last page is zero; beyond it there is nothing.
    assert_eq!(read(&two, at(b, 0x17fe), 4), [bytes[0x27fe], bytes[0x27ff], 0, 0]);
    assert_eq!(refused(two.read(at(b, 0x2000), &mut [0])).1, MmFaultError::Io);
    drop((one, two));
    assert_eq!(file.resident_pages(), 2);
    drop(file);
    bench.assert_clean();
}

#[test]
fn shared_changes_are_everybodys_and_reach_the_file() {
    let bench = Bench::new(4);
    let scripted = Scripted { bytes: vec![1; 0x1800], ..Scripted::default() };
    let written = scripted.written.clone();
    let file = bench.kernel.open(Box::new(scripted));
    let (one, two) = (bench.process(), bench.process());
    let shared = Source::Shared { file: file.clone(), offset_bytes: 0 };
    let a = one.map(&mapping(0x1800, RW, shared.clone())).unwrap();
    let b = two.map(&mapping(0x1800, R, shared)).unwrap();
    assert_eq!(read(&two, at(b, 0x1000), 2), [1, 1]);
    assert_eq!(read(&one, at(a, 0), 2), [1, 1]);
    assert_eq!(file.write_back().unwrap(), 0, "reading makes nothing dirty");
    one.write(at(a, 0x1001), &[2]).unwrap();
    assert_eq!(read(&two, at(b, 0x1000), 2), [1, 2]);
    assert_eq!(file.write_back().unwrap(), 1);
    let mut page = vec![1; 0x800];
    page[1] = 2;
    assert_eq!(*written.lock().unwrap(), [(0x1000, page)], "up to the end of the file");
}

#[test]
fn memory_that_is_shared_without_a_file_is_shared_with_children_only() {
    let bench = Bench::new(5);
    let parent = bench.process();
    let range = parent.map(&mapping(0x2000, RW, Source::SharedAnonymous)).unwrap();
    parent.write(range.first(), &[1]).unwrap();
    let child = parent.fork().unwrap();
    child.write(at(range, 1), &[2]).unwrap();
    child.write(at(range, 0x1000), &[3]).unwrap();
    assert_eq!(read(&parent, range.first(), 2), [1, 2]);
    assert_eq!(read(&parent, at(range, 0x1000), 1), [3]);
    drop((parent, child));
    bench.assert_clean();
}

#[test]
fn a_large_real_file_maps_without_being_read() {
    let path = std::env::temp_dir().join(format!("portcullis-lab-{}-lazy", std::process::id()));
    let mut host = std::fs::File::create(&path).unwrap();
    host.write_all(b"front").unwrap();
    host.set_len(100 << 20).unwrap();
    let bench = Bench::new(6);
    let file = bench.kernel.open(Box::new(RealFile::open(&path).unwrap()));
    assert!(!file.is_writable());
    let process = bench.process();
    let source = Source::Private { file: file.clone(), offset_bytes: 0 };
    let range = process.map(&mapping(file.len_bytes(), R, source)).unwrap();
    assert_eq!(file.resident_pages(), 0);
    assert_eq!(read(&process, range.first(), 6), b"front\0");
    assert_eq!(read(&process, at(range, (100 << 20) - 1), 1), [0]);
    assert_eq!(file.resident_pages(), 2);
    let shared = Source::Shared { file, offset_bytes: 0 };
    assert_eq!(process.map(&mapping(1, RW, shared.clone())), Err(MmError::ReadOnlyFile));
    let readable = process.map(&mapping(1, R, shared)).unwrap();
    assert_eq!(process.protect(readable, RW), Err(MmError::ReadOnlyFile));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_real_file_is_changed_by_writing_back() {
    let path = std::env::temp_dir().join(format!("portcullis-lab-{}-back", std::process::id()));
    std::fs::write(&path, b"hello").unwrap();
    let bench = Bench::new(7);
    let file = bench.kernel.open(Box::new(RealFile::open_writable(&path).unwrap()));
    let process = bench.process();
    let source = Source::Shared { file: file.clone(), offset_bytes: 0 };
    let range = process.map(&mapping(5, RW, source)).unwrap();
    process.write(at(range, 1), b"a").unwrap();
    process.exit();
    assert_eq!(file.write_back().unwrap(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"hallo");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_stack_grows_down_to_its_limit_and_never_into_the_gap_above_what_lies_below() {
    let bench = Bench::new(8);
    let process = bench.process();
    let gap = bench.kernel.options().stack_gap_pages * 0x1000;
    let top = 0x4000_0000u64;
    let stack = Mapping {
        at: Some(Iova::new(top - 0x1000)),
        len_bytes: 0x1000,
        perms: RW,
        source: Source::Stack { limit_bytes: 0x20_0000 },
    };
    process.map(&stack).unwrap();
    process.write(Iova::new(top - 0x5008), &[1]).unwrap();
    assert_eq!(read(&process, Iova::new(top - 0x4000), 1), [0], "all above is the stack's");
    let limit = top - 0x20_0000;
    assert_eq!(refused(process.write(Iova::new(limit - 1), &[1])), (limit - 1, MmFaultError::NoArea));
    let below = Mapping { at: Some(Iova::new(top - 0x10_0000 - gap)), len_bytes: 0x1000, ..stack.clone() };
    process.map(&Mapping { source: Source::Anonymous, ..below }).unwrap();
    let lowest = top - 0x10_0000 + 0x1000;
    process.write(Iova::new(lowest), &[2]).unwrap();
    assert_eq!(refused(process.write(Iova::new(lowest - 1), &[1])).1, MmFaultError::NoArea);
    assert_eq!(refused(process.fetch(Iova::new(lowest)).map(|_| ())).1, MmFaultError::Permission);
}

#[test]
fn a_stack_that_may_not_be_written_does_not_grow_for_a_write() {
    let bench = Bench::new(9);
    let process = bench.process();
    let range = process.map(&mapping(0x1000, R, Source::Stack { limit_bytes: 0x8000 })).unwrap();
    let below = Iova::new(range.first().get() - 8);
    assert_eq!(refused(process.write(below, &[1])).1, MmFaultError::Permission);
    assert_eq!(process.usage().resident_pages, 0);
    assert_eq!(read(&process, below, 1), [0]);
}

#[test]
fn what_cannot_be_mapped_is_refused_and_changes_nothing() {
    let bench = Bench::new(10);
    let process = bench.process();
    let range = process.map(&mapping(0x3000, RW, Source::Anonymous)).unwrap();
    let fixed = |at, len_bytes| Mapping { at: Some(at), len_bytes, perms: RW, source: Source::Anonymous };
    assert_eq!(process.map(&fixed(at(range, 0x2000), 1)), Err(MmError::Occupied(range.first())));
    assert_eq!(process.map(&fixed(at(range, 0x3001), 1)), Err(MmError::BadRange));
    assert_eq!(process.map(&fixed(Iova::new(0), 1)), Err(MmError::BadRange));
    assert_eq!(process.map(&fixed(Iova::new(0xffff_ffff_f000), 0x1001)), Err(MmError::BadRange));
    assert_eq!(process.map(&mapping(0, RW, Source::Anonymous)), Err(MmError::BadRange));
    assert_eq!(process.map(&mapping(u64::MAX, RW, Source::Anonymous)), Err(MmError::BadRange));
    assert_eq!(process.map(&mapping(1 << 48, RW, Source::Anonymous)), Err(MmError::NoSpace));
    for perms in [Perms::WRITE, Perms::EXECUTE, RW | Perms::PRIVILEGED] {
        assert_eq!(process.map(&mapping(1, perms, Source::Anonymous)), Err(MmError::Unsupported(perms)));
        assert_eq!(process.protect(range, perms), Err(MmError::Unsupported(perms)));
    }
    let beyond = part(range, 0, 0x4000);
    assert_eq!(process.protect(beyond, R), Err(MmError::NotMapped(at(range, 0x3000))));
    assert_eq!(process.unmap(part(range, 0, 0x800)), Err(MmError::BadRange));
    assert_eq!(process.usage().areas, 1);
    process.write(at(range, 0x2000), &[1]).unwrap();
}

#[test]
fn mappings_of_different_seeds_lie_elsewhere() {
    let place = |seed| {
        let process = Bench::new(seed).process();
        process.map(&mapping(1, R, Source::Anonymous)).unwrap().first()
    };
    assert_eq!(place(1), place(1));
    assert_ne!(place(1), place(2));
}

#[test]
fn a_fault_of_a_device_is_judged_by_the_area() {
    let bench = Bench::new(11);
    let process = bench.process();
    let range = process.map(&mapping(0x1000, R, Source::Anonymous)).unwrap();
    let fault = |address, wanted| process.handle_fault(&MmFault { address, wanted });
    assert_eq!(fault(range.first(), Perms::READ), Ok(()));
    assert_eq!(fault(range.first(), Perms::READ | Perms::PRIVILEGED), Ok(()));
    assert_eq!(fault(range.first(), RW), Err(MmFaultError::Permission));
    assert_eq!(fault(range.first(), Perms::EXECUTE), Err(MmFaultError::Permission));
    assert_eq!(fault(at(range, 0x1000), Perms::READ), Err(MmFaultError::NoArea));
    assert_eq!(fault(Iova::new(u64::MAX), Perms::READ), Err(MmFaultError::NoArea));
    process.exit();
    assert_eq!(fault(range.first(), Perms::READ), Err(MmFaultError::Exited));
}
