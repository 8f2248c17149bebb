//! System calls: the few that a driver in user space makes.
//!
//! Observed: Linux 7.3, include/uapi/asm-generic/unistd.h, mman-common.h, poll.h and linux/eventfd.h: numbers, flags and layouts, as on arm64.
//! Choice: event files are read without waiting; who wants to wait asks [`PPOLL`]. A time limit is needed there, since nothing in the lab waits for
//! ever.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use portcullis::hal::Clock;
use portcullis::types::{Iova, IovaRange, Perms};
use portcullis::vfio::{Caller, Errno, File, UserMemory};

use super::files::{EventCount, OpenFile};
use super::task::Task;
use crate::platform::LabPlatform;
use crate::process::{HUGE_PAGE, Mapping, MmError, Source};

const EVENTFD2: u64 = 19;
const IOCTL: u64 = 29;
const OPENAT: u64 = 56;
const CLOSE: u64 = 57;
const READ: u64 = 63;
const PREAD64: u64 = 67;
const PWRITE64: u64 = 68;
const PPOLL: u64 = 73;
const NANOSLEEP: u64 = 101;
const CLOCK_GETTIME: u64 = 113;
const MUNMAP: u64 = 215;
const MMAP: u64 = 222;

const ENOSYS: i64 = -38;
const EAGAIN: i64 = -11;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_HUGETLB: u64 = 0x4_0000;
/// The size of huge pages lies here, as log2; 0 for the usual one, which is the only one.
const MAP_HUGE_SHIFT: u32 = 26;
const EFD_NONBLOCK: u64 = 0o4000;
const POLLIN: u16 = 1;
const POLLNVAL: u16 = 0x20;
const AT_FDCWD: i32 = -100;

/// A path has fewer bytes.
const PATH_BYTES: u64 = 256;
/// More files are not waited for at once.
const POLL_FILES: u64 = 64;
const NS: u64 = 1_000_000_000;

/// Makes a system call of `task`.
pub(super) fn call(task: &Task, number: u64, words: [u64; 6]) -> i64 {
    let [a, b, c, d, _, _] = words;
    let done = match number {
        EVENTFD2 => eventfd(task, a, b),
        IOCTL => ioctl(task, fd(a), low(b), c),
        OPENAT => openat(task, fd(a), b),
        CLOSE => close(task, fd(a)),
        READ => return read(task, fd(a), b, c),
        PREAD64 => vfio(task, fd(a)).and_then(|file| file.read(task, b, c, d)),
        PWRITE64 => vfio(task, fd(a)).and_then(|file| file.write(task, b, c, d)),
        PPOLL => ppoll(task, a, b, c),
        NANOSLEEP => nanosleep(task, a),
        CLOCK_GETTIME => clock_gettime(task, b),
        MUNMAP => munmap(task, a, b),
        MMAP => mmap(task, words),
        _ => return ENOSYS,
    };
    match done {
        Ok(value) => i64::try_from(value).unwrap_or(i64::MAX),
        Err(errno) => -i64::from(errno.code()),
    }
}

/// The lower half of a word, which is all that a 32-bit argument has.
fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)
}

fn fd(word: u64) -> i32 {
    low(word).cast_signed()
}

fn memory(task: &Task) -> &dyn UserMemory {
    &**Caller::memory(task)
}

fn vfio(task: &Task, number: i32) -> Result<File<LabPlatform>, Errno> {
    match task.files.get(number) {
        Some(OpenFile::Vfio(file)) => Ok(file),
        Some(OpenFile::Event(_)) => Err(Errno::Einval),
        None => Err(Errno::Ebadf),
    }
}

fn number(fd: i32) -> Result<u64, Errno> {
    u64::try_from(fd).map_err(|_| Errno::Emfile)
}

fn openat(task: &Task, directory: i32, at: u64) -> Result<u64, Errno> {
    let mut path = Vec::new();
    loop {
        let mut byte = [0];
        let next = at.checked_add(path.len() as u64).ok_or(Errno::Efault)?;
        memory(task).copy_in(next, &mut byte)?;
        if byte == [0] {
            break;
        }
        path.extend(byte);
        if path.len() as u64 == PATH_BYTES {
            return Err(Errno::Enoent);
        }
    }
    let path = String::from_utf8(path).map_err(|_| Errno::Enoent)?;
    if directory != AT_FDCWD && !path.starts_with('/') {
        return Err(Errno::Ebadf);
    }
    let file = task.kernel.vfio.open(&path)?;
    number(task.files.add(OpenFile::Vfio(file))?)
}

fn close(task: &Task, fd: i32) -> Result<u64, Errno> {
    // Dropped here, with no lock held.
    task.files.remove(fd).map(|_closed| 0).ok_or(Errno::Ebadf)
}

fn ioctl(task: &Task, fd: i32, request: u32, argument: u64) -> Result<u64, Errno> {
    task.kernel.ioctls.fetch_add(1, Relaxed);
    match task.files.get(fd) {
        Some(OpenFile::Vfio(file)) => file.ioctl(task, request, argument),
        Some(OpenFile::Event(_)) => Err(Errno::Enotty),
        None => Err(Errno::Ebadf),
    }
}

fn eventfd(task: &Task, initial: u64, flags: u64) -> Result<u64, Errno> {
    if flags != EFD_NONBLOCK || initial != 0 {
        return Err(Errno::Einval);
    }
    number(task.files.add(OpenFile::Event(Arc::new(EventCount::default())))?)
}

/// Reads an event file: its count, or that there is none yet.
fn read(task: &Task, fd: i32, at: u64, len_bytes: u64) -> i64 {
    let event = match task.files.get(fd) {
        Some(OpenFile::Event(event)) if len_bytes >= 8 => event,
        Some(_) => return -i64::from(Errno::Einval.code()),
        None => return -i64::from(Errno::Ebadf.code()),
    };
    task.kernel.interrupts.deliver();
    match event.take() {
        0 => EAGAIN,
        count => match memory(task).copy_out(at, &count.to_ne_bytes()) {
            Ok(()) => 8,
            Err(fault) => -i64::from(Errno::from(fault).code()),
        },
    }
}

/// A `struct timespec` in nanoseconds.
fn timespec(task: &Task, at: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 16];
    memory(task).copy_in(at, &mut bytes)?;
    let (seconds, rest) = bytes.split_at(8);
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]));
    let (seconds, rest) = (word(seconds), word(rest));
    if rest >= NS {
        return Err(Errno::Einval);
    }
    seconds.checked_mul(NS).and_then(|ns| ns.checked_add(rest)).ok_or(Errno::Einval)
}

/// Waits until an event file has a count, or the time is over. Answers how many have.
fn ppoll(task: &Task, at: u64, count: u64, limit: u64) -> Result<u64, Errno> {
    let limit_ns = timespec(task, limit)?;
    if count > POLL_FILES {
        return Err(Errno::Einval);
    }
    let mut list = vec![0; usize::try_from(count * 8).map_err(|_| Errno::Einval)?];
    memory(task).copy_in(at, &mut list)?;
    let platform = &*task.kernel.platform;
    let start_ns = platform.now_ns();
    loop {
        task.kernel.interrupts.deliver();
        let ready = list.as_chunks_mut::<8>().0.iter_mut().filter_map(|entry| look(task, entry)).count();
        if ready > 0 || platform.now_ns().saturating_sub(start_ns) >= limit_ns {
            memory(task).copy_out(at, &list)?;
            return Ok(ready as u64);
        }
        platform.relax();
    }
}

/// Looks at one file, and writes what was found. None if that is nothing.
fn look(task: &Task, entry: &mut [u8; 8]) -> Option<()> {
    let [a, b, c, d, wanted, wanted_high, ..] = *entry;
    let wanted = u16::from_ne_bytes([wanted, wanted_high]);
    let found = match task.files.get(i32::from_ne_bytes([a, b, c, d])) {
        Some(OpenFile::Event(event)) if event.is_ready() => wanted & POLLIN,
        Some(_) => 0,
        None => POLLNVAL,
    };
    entry[6..].copy_from_slice(&found.to_ne_bytes());
    (found != 0).then_some(())
}

fn nanosleep(task: &Task, at: u64) -> Result<u64, Errno> {
    let (platform, ns) = (&*task.kernel.platform, timespec(task, at)?);
    let start_ns = platform.now_ns();
    while platform.now_ns().saturating_sub(start_ns) < ns {
        platform.relax();
    }
    Ok(0)
}

fn clock_gettime(task: &Task, at: u64) -> Result<u64, Errno> {
    let now_ns = task.kernel.platform.now_ns();
    let mut bytes = (now_ns / NS).to_ne_bytes().to_vec();
    bytes.extend((now_ns % NS).to_ne_bytes());
    memory(task).copy_out(at, &bytes)?;
    Ok(0)
}

fn perms(prot: u64) -> Result<Perms, Errno> {
    if prot & !(PROT_READ | PROT_WRITE) != 0 {
        return Err(Errno::Einval);
    }
    let mut perms = Perms::empty();
    perms.set(Perms::READ, prot & PROT_READ != 0);
    perms.set(Perms::WRITE, prot & PROT_WRITE != 0);
    Ok(perms)
}

/// What memory of no file is meant; none if it is a file's.
fn anonymous(flags: u64) -> Result<Option<Source>, Errno> {
    let (kind, size) = (flags & ((1 << MAP_HUGE_SHIFT) - 1), flags >> MAP_HUGE_SHIFT);
    match (kind, size) {
        (_, 0) if kind == MAP_PRIVATE | MAP_ANONYMOUS => Ok(Some(Source::Anonymous)),
        _ if kind == MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB => {
            let known = size == 0 || size == u64::from(HUGE_PAGE.get());
            if known { Ok(Some(Source::Huge)) } else { Err(Errno::Einval) }
        }
        _ => Ok(None),
    }
}

fn mmap(task: &Task, [at, len_bytes, prot, flags, file, offset]: [u64; 6]) -> Result<u64, Errno> {
    let perms = perms(prot)?;
    if at != 0 || len_bytes == 0 {
        return Err(Errno::Einval);
    }
    if let Some(source) = anonymous(flags)? {
        let mapping = Mapping { at: None, len_bytes, perms, source };
        return task.process.map(&mapping).map(|range| range.first().get()).map_err(errno);
    }
    if flags != MAP_SHARED {
        return Err(Errno::Einval);
    }
    let file = vfio(task, fd(file))?;
    let registers = file.mmap(task, len_bytes, offset)?;
    let source = Source::Registers { first: registers.first() };
    let range = task.process.map(&Mapping { at: None, len_bytes, perms, source }).map_err(errno)?;
    task.note_registers(range, file);
    Ok(range.first().get())
}

fn munmap(task: &Task, at: u64, len_bytes: u64) -> Result<u64, Errno> {
    let range = IovaRange::new(Iova::new(at), len_bytes).ok_or(Errno::Einval)?;
    task.process.unmap(range).map_err(errno)?;
    task.forget_registers(range);
    Ok(0)
}

fn errno(error: MmError) -> Errno {
    match error {
        MmError::NoSpace | MmError::NoMemory | MmError::NotMapped(_) => Errno::Enomem,
        MmError::Occupied(_) => Errno::Eexist,
        MmError::ReadOnlyFile => Errno::Eacces,
        MmError::Io(_) | MmError::Unconfirmed(_) | MmError::NotForked(_) => Errno::Eio,
        _ => Errno::Einval,
    }
}
