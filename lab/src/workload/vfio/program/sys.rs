//! What a C library is for others: system calls by number, and memory by address.
//!
//! Observed: Linux 7.3, include/uapi/asm-generic/unistd.h, mman-common.h, poll.h: as on arm64.

use core::fmt;

use crate::vfio::{Instructions, Signal};

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

const AT_FDCWD: u64 = 0xffff_ff9c;
const READ_WRITE: u64 = 3;
const READ_ONLY: u64 = 1;
const SHARED: u64 = 1;
const PRIVATE_ANONYMOUS: u64 = 0x22;
const HUGETLB: u64 = 0x4_0000;
/// log2 of a huge page's size lies here.
const HUGE_SHIFT: u32 = 26;
const NONBLOCK: u64 = 0o4000;
const POLLIN: u16 = 1;
const NS: u64 = 1_000_000_000;

/// Arguments lie here, one after the other never.
const SCRATCH_BYTES: u64 = 0x1_0000;

/// The program's last words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::workload) struct Failed(pub(in crate::workload) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Signal> for Failed {
    fn from(signal: Signal) -> Self {
        Self(signal.to_string())
    }
}

/// An error number, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) struct Errno(pub(in crate::workload) i64);

impl Errno {
    pub(in crate::workload) const EPERM: Self = Self(1);
    pub(in crate::workload) const EFAULT: Self = Self(14);
    pub(in crate::workload) const ENOMEM: Self = Self(12);
    pub(in crate::workload) const EBUSY: Self = Self(16);
    pub(in crate::workload) const EEXIST: Self = Self(17);
    pub(in crate::workload) const EINVAL: Self = Self(22);

    /// What went wrong, when what was asked for is not given.
    pub(in crate::workload) fn on(self, what: &str) -> Failed {
        Failed(format!("{what}: errno {}", self.0))
    }
}

/// The program's ways out.
pub(in crate::workload) struct Sys<'a> {
    cpu: &'a dyn Instructions,
    scratch: u64,
}

impl<'a> Sys<'a> {
    /// With some memory for arguments.
    pub(in crate::workload) fn new(cpu: &'a dyn Instructions) -> Result<Self, Failed> {
        let mut sys = Self { cpu, scratch: 0 };
        sys.scratch = sys.map_memory(SCRATCH_BYTES).map_err(|errno| errno.on("memory for arguments"))?;
        Ok(sys)
    }

    fn call(&self, number: u64, words: [u64; 6]) -> Result<u64, Errno> {
        let answer = self.cpu.svc(number, words);
        u64::try_from(answer).map_err(|_| Errno(-answer))
    }

    // --- memory -----------------------------------------------------------------------------------------------------------------

    pub(in crate::workload) fn map_memory(&self, len: u64) -> Result<u64, Errno> {
        self.call(MMAP, [0, len, READ_WRITE, PRIVATE_ANONYMOUS, u64::MAX, 0])
    }

    pub(in crate::workload) fn map_read_only(&self, len: u64) -> Result<u64, Errno> {
        self.call(MMAP, [0, len, READ_ONLY, PRIVATE_ANONYMOUS, u64::MAX, 0])
    }

    /// Memory in pages of 2^`page_shift` bytes, huge ones.
    pub(in crate::workload) fn map_huge(&self, len: u64, page_shift: u32) -> Result<u64, Errno> {
        let flags = PRIVATE_ANONYMOUS | HUGETLB | u64::from(page_shift) << HUGE_SHIFT;
        self.call(MMAP, [0, len, READ_WRITE, flags, u64::MAX, 0])
    }

    pub(in crate::workload) fn map_file(&self, fd: u64, offset: u64, len: u64) -> Result<u64, Errno> {
        self.call(MMAP, [0, len, READ_WRITE, SHARED, fd, offset])
    }

    pub(in crate::workload) fn unmap(&self, at: u64, len: u64) -> Result<(), Errno> {
        self.call(MUNMAP, [at, len, 0, 0, 0, 0]).map(drop)
    }

    pub(in crate::workload) fn load(&self, at: u64, into: &mut [u8]) -> Result<(), Failed> {
        Ok(self.cpu.load(at, into)?)
    }

    pub(in crate::workload) fn store(&self, at: u64, from: &[u8]) -> Result<(), Failed> {
        Ok(self.cpu.store(at, from)?)
    }

    pub(in crate::workload) fn load32(&self, at: u64) -> Result<u32, Failed> {
        let mut bytes = [0; 4];
        self.load(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(in crate::workload) fn store32(&self, at: u64, word: u32) -> Result<(), Failed> {
        self.store(at, &word.to_le_bytes())
    }

    /// Bytes that a device reads or writes, if it does not snoop caches.
    pub(in crate::workload) fn flush(&self, at: u64, len: u64) -> Result<(), Failed> {
        Ok(self.cpu.clean_and_invalidate(at, len)?)
    }

    pub(in crate::workload) fn barrier(&self) {
        self.cpu.barrier();
    }

    // --- files ------------------------------------------------------------------------------------------------------------------

    /// Puts bytes where arguments lie.
    pub(in crate::workload) fn put(&self, bytes: &[u8]) -> Result<u64, Failed> {
        if bytes.len() as u64 > SCRATCH_BYTES {
            return Err(Failed("an argument is too long".into()));
        }
        self.store(self.scratch, bytes)?;
        Ok(self.scratch)
    }

    pub(in crate::workload) fn open(&self, path: &str) -> Result<Result<u64, Errno>, Failed> {
        let at = self.put(format!("{path}\0").as_bytes())?;
        Ok(self.call(OPENAT, [AT_FDCWD, at, 2, 0, 0, 0]))
    }

    pub(in crate::workload) fn close(&self, fd: u64) -> Result<(), Errno> {
        self.call(CLOSE, [fd, 0, 0, 0, 0, 0]).map(drop)
    }

    pub(in crate::workload) fn ioctl(&self, fd: u64, request: u64, argument: u64) -> Result<u64, Errno> {
        self.call(IOCTL, [fd, request, argument, 0, 0, 0])
    }

    /// The same with bytes, which the kernel may change.
    pub(in crate::workload) fn ask(
        &self,
        fd: u64,
        request: u64,
        bytes: &mut [u8],
    ) -> Result<Result<u64, Errno>, Failed> {
        let at = self.put(bytes)?;
        let answer = self.ioctl(fd, request, at);
        self.load(at, bytes)?;
        Ok(answer)
    }

    pub(in crate::workload) fn read_file(&self, fd: u64, offset: u64, into: &mut [u8]) -> Result<(), Failed> {
        let len = into.len() as u64;
        match self.call(PREAD64, [fd, self.scratch, len, offset, 0, 0]) {
            Ok(done) if done == len => self.load(self.scratch, into),
            Ok(done) => Err(Failed(format!("{done} of {len} bytes were read at {offset:#x}"))),
            Err(errno) => Err(errno.on("reading a device's file")),
        }
    }

    pub(in crate::workload) fn write_file(&self, fd: u64, offset: u64, from: &[u8]) -> Result<(), Failed> {
        let at = self.put(from)?;
        match self.call(PWRITE64, [fd, at, from.len() as u64, offset, 0, 0]) {
            Ok(done) if done == from.len() as u64 => Ok(()),
            Ok(done) => Err(Failed(format!("{done} of {} bytes were written at {offset:#x}", from.len()))),
            Err(errno) => Err(errno.on("writing a device's file")),
        }
    }

    // --- events and time --------------------------------------------------------------------------------------------------------

    pub(in crate::workload) fn event_file(&self) -> Result<u64, Errno> {
        self.call(EVENTFD2, [0, NONBLOCK, 0, 0, 0, 0])
    }

    /// Waits until an event file has been signalled; answers how often, 0 if the time was over before.
    pub(in crate::workload) fn wait(&self, fd: u64, limit_ns: u64) -> Result<u64, Failed> {
        let number = u32::try_from(fd).map_err(|_| Failed("no number of a file".into()))?;
        let mut list = number.to_ne_bytes().to_vec();
        list.extend(POLLIN.to_ne_bytes());
        list.extend([0; 2]);
        list.extend(timespec(limit_ns));
        let at = self.put(&list)?;
        let ready = self.call(PPOLL, [at, 1, at + 8, 0, 0, 0]).map_err(|errno| errno.on("waiting"))?;
        if ready == 0 {
            return Ok(0);
        }
        let mut count = [0; 8];
        self.call(READ, [fd, self.scratch, 8, 0, 0, 0]).map_err(|errno| errno.on("reading an event file"))?;
        self.load(self.scratch, &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    pub(in crate::workload) fn now_ns(&self) -> Result<u64, Failed> {
        let clock = self.call(CLOCK_GETTIME, [1, self.scratch, 0, 0, 0, 0]);
        clock.map_err(|errno| errno.on("looking at the clock"))?;
        let mut bytes = [0; 16];
        self.load(self.scratch, &mut bytes)?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]));
        Ok(word(&bytes[..8]) * NS + word(&bytes[8..]))
    }

    pub(in crate::workload) fn sleep_ns(&self, ns: u64) -> Result<(), Failed> {
        let at = self.put(&timespec(ns))?;
        self.call(NANOSLEEP, [at, 0, 0, 0, 0, 0]).map(drop).map_err(|errno| errno.on("sleeping"))
    }
}

fn timespec(ns: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(ns / NS).to_ne_bytes());
    bytes[8..].copy_from_slice(&(ns % NS).to_ne_bytes());
    bytes
}
