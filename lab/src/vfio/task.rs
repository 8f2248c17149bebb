//! Processes with open files, and what a program in one can do.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis::types::{Iova, IovaRange};
use portcullis::vfio::{Caller, Errno, Fd, File, UserMemory, Vfio};

use super::files::{Files, OpenFile};
use super::memory::{Ledger, TaskMemory};
use super::{UserInterrupts, calls};
use crate::boot::{self, System};
use crate::platform::LabPlatform;
use crate::process::{self, KernelError, MmError, Process, UserError};

/// How much a process may lock (`ulimit -l`), if nothing else is said.
const LOCK_LIMIT_BYTES: u64 = 64 << 20;

/// What a program can do: the instructions of its CPU. There is no other way out of it.
pub trait Instructions {
    /// A system call (SVC): answers what is in the first register afterwards, an error number negated.
    fn svc(&self, number: u64, words: [u64; 6]) -> i64;

    /// Loads bytes, in one access if they are 1, 2, 4 or 8 and aligned.
    ///
    /// # Errors
    ///
    /// The process gets a signal.
    fn load(&self, at: u64, into: &mut [u8]) -> Result<(), Signal>;

    /// Stores bytes.
    ///
    /// # Errors
    ///
    /// The process gets a signal.
    fn store(&self, at: u64, from: &[u8]) -> Result<(), Signal>;

    /// DSB SY.
    fn barrier(&self);

    /// DC CIVAC for each line, and DSB SY.
    ///
    /// # Errors
    ///
    /// The process gets a signal.
    fn clean_and_invalidate(&self, at: u64, len_bytes: u64) -> Result<(), Signal>;
}

/// SIGSEGV or SIGBUS: where, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(UserError);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "killed by a signal: {:?}", self.0)
    }
}

/// What processes with open files have in common.
pub struct UserKernel {
    pub(super) platform: Arc<LabPlatform>,
    pub(super) vfio: Arc<Vfio<LabPlatform>>,
    pub(super) interrupts: Arc<boot::Interrupts>,
    user_interrupts: Arc<UserInterrupts>,
    processes: Arc<process::Kernel>,
    ledger: Arc<Ledger>,
    pub(super) ioctls: AtomicU64,
    pub(super) calls: AtomicU64,
}

/// Why there are no processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserKernelError {
    /// Not all CPUs can walk the same tables.
    Cpus,
    /// Tables or ASIDs.
    Kernel(KernelError),
}

impl fmt::Debug for UserKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserKernel").field("vfio", &self.vfio).finish_non_exhaustive()
    }
}

impl UserKernel {
    /// For a machine that has booted; no device can be had yet. `seed` decides what does not matter.
    ///
    /// # Errors
    ///
    /// As [`UserKernelError`] says.
    pub fn new(system: &System, seed: u64) -> Result<Arc<Self>, UserKernelError> {
        let options = system.cpus.kernel_options(seed).ok_or(UserKernelError::Cpus)?;
        let processes = process::Kernel::new(system.platform.clone(), system.cpus.cpus.clone(), options)
            .map_err(UserKernelError::Kernel)?;
        Ok(Arc::new(Self {
            platform: system.platform.clone(),
            vfio: Arc::new(Vfio::new(system.platform.clone())),
            interrupts: system.interrupts.clone(),
            user_interrupts: UserInterrupts::new(system),
            processes,
            ledger: Arc::default(),
            ioctls: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }))
    }

    /// VFIO.
    pub fn vfio(&self) -> &Arc<Vfio<LabPlatform>> {
        &self.vfio
    }

    /// Where interrupts of users' devices go.
    pub fn user_interrupts(&self) -> &Arc<UserInterrupts> {
        &self.user_interrupts
    }

    /// What is locked and pinned.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// How many system calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// How many of them were ioctls.
    pub fn ioctls(&self) -> u64 {
        self.ioctls.load(Relaxed)
    }

    /// A new process, with nothing mapped and nothing open.
    ///
    /// # Errors
    ///
    /// As for [`Process::new`].
    pub fn spawn(self: &Arc<Self>) -> Result<Task, MmError> {
        self.spawn_locking(LOCK_LIMIT_BYTES)
    }

    /// The same, of which so much may be locked.
    ///
    /// # Errors
    ///
    /// As for [`Process::new`].
    pub fn spawn_locking(self: &Arc<Self>, limit_bytes: u64) -> Result<Task, MmError> {
        let process = Process::new(&self.processes)?;
        let limit_pages = limit_bytes / self.processes.page_bytes();
        let memory = Arc::new(TaskMemory::new(process.clone(), self.ledger.clone(), limit_pages));
        Ok(Task {
            kernel: self.clone(),
            process,
            user_memory: memory.clone(),
            memory,
            files: Files::default(),
            registers: Mutex::default(),
        })
    }
}

/// A process with open files. Dropped, it has exited.
pub struct Task {
    pub(super) kernel: Arc<UserKernel>,
    pub(super) process: Arc<Process>,
    memory: Arc<TaskMemory>,
    /// The same, as VFIO knows it.
    user_memory: Arc<dyn UserMemory>,
    pub(super) files: Files,
    /// Areas of registers by where they begin: how long, and the file that keeps the device the process's.
    registers: Mutex<BTreeMap<Iova, (IovaRange, File<LabPlatform>)>>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Task {
    /// Its memory, as devices get it.
    pub fn memory(&self) -> &Arc<TaskMemory> {
        &self.memory
    }

    /// Ends the process wherever it is (SIGKILL): first its memory goes, then its files are closed. The second time does nothing.
    pub fn kill(&self) {
        self.process.exit();
        let areas = core::mem::take(&mut *self.registers());
        let files = self.files.take_all();
        drop(areas);
        drop(files);
    }

    pub(super) fn note_registers(&self, range: IovaRange, file: File<LabPlatform>) {
        self.registers().insert(range.first(), (range, file));
    }

    /// Lets go of the files behind areas that `gone` covers, which are unmapped.
    pub(super) fn forget_registers(&self, gone: IovaRange) {
        let mut registers = self.registers();
        let covered: Vec<Iova> =
            registers.iter().filter(|(_, (range, _))| gone.covers(*range)).map(|(&at, _)| at).collect();
        let files: Vec<_> = covered.iter().filter_map(|at| registers.remove(at)).collect();
        drop(registers);
        drop(files);
    }

    fn registers(&self) -> MutexGuard<'_, BTreeMap<Iova, (IovaRange, File<LabPlatform>)>> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Caller<LabPlatform> for Task {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.user_memory
    }

    fn fd(&self, fd: i32) -> Option<Fd<LabPlatform>> {
        self.files.get(fd).map(|file| file.as_fd())
    }

    fn install(&self, file: File<LabPlatform>) -> Result<i32, Errno> {
        self.files.add(OpenFile::Vfio(file))
    }
}

impl Instructions for Task {
    fn svc(&self, number: u64, words: [u64; 6]) -> i64 {
        self.kernel.calls.fetch_add(1, Relaxed);
        calls::call(self, number, words)
    }

    fn load(&self, at: u64, into: &mut [u8]) -> Result<(), Signal> {
        self.process.read(Iova::new(at), into).map_err(Signal)
    }

    fn store(&self, at: u64, from: &[u8]) -> Result<(), Signal> {
        self.process.write(Iova::new(at), from).map_err(Signal)
    }

    fn barrier(&self) {
        self.process.barrier();
    }

    fn clean_and_invalidate(&self, at: u64, len_bytes: u64) -> Result<(), Signal> {
        self.process.clean_and_invalidate(Iova::new(at), len_bytes).map_err(Signal)
    }
}
