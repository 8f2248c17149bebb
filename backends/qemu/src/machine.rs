//! A running machine.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use portcullis_types::Pa;

use crate::QemuError;
use crate::find::{Qemu, Version};
use crate::options::MachineOptions;
use crate::process::Process;
use crate::qtest::{ByteOrder, Qtest, QtestError, Step, Width, load_line, port_line, store_line};
use crate::ram::Ram;
use crate::scratch::Scratch;

/// A machine that runs in a QEMU of its own.
pub struct Machine {
    qtest: Mutex<Qtest>,
    ram: Arc<Ram>,
    byte_order: ByteOrder,
    version: Version,
    limit: Duration,
    accesses: AtomicU64,
    failure: OnceLock<QemuError>,
    // Last: killed when all else is gone.
    process: Process,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("version", &self.version)
            .field("ram", &self.ram.range())
            .field("failure", &self.failure.get())
            .finish_non_exhaustive()
    }
}

impl Qemu {
    /// Starts a machine.
    ///
    /// # Errors
    ///
    /// [`QemuError`]; nothing of it is left then.
    pub fn start(&self, options: &MachineOptions) -> Result<Machine, QemuError> {
        let scratch = Scratch::new()?;
        let ram = new_ram(&scratch, options)?;
        let socket = scratch.at("qtest");
        let mut command = self.command();
        command.args(options.arguments(&scratch, "")?);
        command.args(["-qtest", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.args(["-qtest-log", "/dev/null"]);
        let process = Process::start(command)?;
        let limit = options.wait_limit();
        let mut qtest = Qtest::new(connect(&process, &socket, limit)?, limit);
        // QEMU answers nothing before it is up, so once it does, it has opened every file; they may go.
        let doing = "endianness";
        let byte_order = qtest.byte_order().map_err(|error| in_words(&process, doing, limit, error))?;
        Ok(Machine {
            qtest: Mutex::new(qtest),
            ram,
            byte_order,
            version: self.version(),
            limit,
            accesses: AtomicU64::new(0),
            failure: OnceLock::new(),
            process,
        })
    }

    /// The flattened device tree that the machine's guest would be given (`virt`).
    ///
    /// # Errors
    ///
    /// [`QemuError`], also for a machine that has none.
    pub fn device_tree(&self, options: &MachineOptions) -> Result<Vec<u8>, QemuError> {
        let scratch = Scratch::new()?;
        let ram = new_ram(&scratch, options)?;
        let tree = scratch.at("tree");
        let mut command = self.command();
        command.args(options.arguments(&scratch, &format!(",dumpdtb={}", tree.display()))?);
        let process = Process::start(command)?;
        let (doing, limit) = ("dumpdtb", options.wait_limit());
        let died = || QemuError::Died { doing: doing.into(), last_words: process.last_words() };
        match process.ending(limit) {
            Some(status) if status.success() => fs::read(&tree).map_err(|_| died()),
            Some(_) => Err(died()),
            None => Err(in_words(&process, doing, limit, QtestError::TimedOut)),
        }
        .inspect(|_| drop(ram))
    }
}

/// Makes the file that is the machine's RAM, and maps it.
fn new_ram(scratch: &Scratch, options: &MachineOptions) -> Result<Arc<Ram>, QemuError> {
    let refuse = |error| QemuError::host("making QEMU's memory", &error);
    let file = File::options().read(true).write(true).create_new(true).open(scratch.at("ram"));
    let file = file.map_err(refuse)?;
    file.set_len(options.ram_bytes()).map_err(refuse)?;
    Ok(Arc::new(Ram::map(&file, options.ram_base())?))
}

/// Connects to the socket that QEMU is about to make.
fn connect(process: &Process, socket: &Path, limit: Duration) -> Result<UnixStream, QemuError> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        let doing = "start";
        if process.ended().is_some() {
            return Err(in_words(process, doing, limit, QtestError::Closed));
        }
        if Instant::now() >= deadline {
            return Err(in_words(process, doing, limit, QtestError::TimedOut));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a failure on the socket means for the process behind it.
fn in_words(process: &Process, doing: &str, limit: Duration, error: QtestError) -> QemuError {
    let doing = doing.to_owned();
    match error {
        QtestError::Closed | QtestError::Io(_) => QemuError::Died { doing, last_words: process.last_words() },
        QtestError::TimedOut => QemuError::Hung { doing, limit, last_words: process.last_words() },
        QtestError::Nonsense(answer) => QemuError::Nonsense { doing, answer },
    }
}

impl Machine {
    /// Its RAM.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Its QEMU's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The byte order that its CPUs begin in, and that [`load`](Self::load) reads numbers in.
    pub fn byte_order(&self) -> ByteOrder {
        self.byte_order
    }

    /// A value of this width from the order in which [`load`](Self::load) reads numbers to `order`, or back.
    pub fn ordered(&self, order: ByteOrder, width: Width, value: u64) -> u64 {
        if order == self.byte_order {
            return value;
        }
        value.swap_bytes() >> (64 - 8 * width.bytes())
    }

    /// How many values were read and written over the socket.
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Relaxed)
    }

    /// The first thing that went wrong: from then on every access fails with it.
    pub fn failure(&self) -> Option<&QemuError> {
        self.failure.get()
    }

    /// Looks whether its QEMU still runs. If it has ended, that is its failure: for who waits for what shows in memory, and asks nothing.
    ///
    /// # Errors
    ///
    /// [`QemuError`], the machine's first one.
    pub fn check(&self) -> Result<(), QemuError> {
        if self.failure.get().is_none() && self.process.ended().is_some() {
            let died = in_words(&self.process, "wait", self.limit, QtestError::Closed);
            let _ = self.failure.set(died);
        }
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Reads a value at a physical address, in one access of this width. Its bytes are read in [`byte_order`](Self::byte_order).
    ///
    /// # Errors
    ///
    /// Here and below: [`QemuError`], the machine's first one if it already failed.
    pub fn load(&self, at: Pa, width: Width) -> Result<u64, QemuError> {
        self.accesses.fetch_add(1, Relaxed);
        self.ask(|| load_line(at, width), |qtest| qtest.load(at, width))
    }

    /// Writes a value at a physical address, in one access of this width, in [`byte_order`](Self::byte_order).
    pub fn store(&self, at: Pa, width: Width, value: u64) -> Result<(), QemuError> {
        self.accesses.fetch_add(1, Relaxed);
        self.ask(|| store_line(at, width, value), |qtest| qtest.store(at, width, value))
    }

    /// Writes a value to a port of a PC's. There is none of 64 bits.
    pub fn store_port(&self, port: u16, width: Width, value: u64) -> Result<(), QemuError> {
        self.accesses.fetch_add(1, Relaxed);
        self.ask(|| port_line(port, width, value), |qtest| qtest.store_port(port, width, value))
    }

    /// Writes many values in turn, faster than one by one.
    pub fn store_all(&self, stores: &[(Pa, Width, u64)]) -> Result<(), QemuError> {
        self.accesses.fetch_add(stores.len() as u64, Relaxed);
        self.ask(|| format!("{} writes", stores.len()), |qtest| qtest.store_all(stores))
    }

    /// Does many things in turn, faster than one by one. Answers what the loads read.
    pub fn batch(&self, steps: &[Step]) -> Result<Vec<u64>, QemuError> {
        self.accesses.fetch_add(steps.len() as u64, Relaxed);
        self.ask(|| format!("{} steps", steps.len()), |qtest| qtest.batch(steps))
    }

    /// Reads memory as the CPU would, RAM or not. For RAM, [`ram`](Self::ram) is faster.
    pub fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), QemuError> {
        self.ask(|| format!("read {:#x}", at.get()), |qtest| qtest.read(at, into))
    }

    /// Writes memory as the CPU would, RAM or not.
    pub fn write(&self, at: Pa, from: &[u8]) -> Result<(), QemuError> {
        self.ask(|| format!("write {:#x}", at.get()), |qtest| qtest.write(at, from))
    }

    /// Fills memory with a byte.
    pub fn fill(&self, at: Pa, len_bytes: u64, byte: u8) -> Result<(), QemuError> {
        self.ask(|| format!("memset {:#x}", at.get()), |qtest| qtest.fill(at, len_bytes, byte))
    }

    /// Has it fail as if it had answered nonsense.
    #[cfg(test)]
    pub(crate) fn fail_for_test(&self) {
        let _ = self.ask(|| "nothing".into(), |_| Err::<(), _>(QtestError::Nonsense("nothing".into())));
    }

    /// Asks over the socket. The first failure stays: an answer that comes late belongs to no question.
    fn ask<T>(
        &self,
        doing: impl FnOnce() -> String,
        question: impl FnOnce(&mut Qtest) -> Result<T, QtestError>,
    ) -> Result<T, QemuError> {
        let mut qtest = self.qtest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        question(&mut qtest).map_err(|error| {
            let error = in_words(&self.process, &doing(), self.limit, error);
            self.failure.get_or_init(|| error).clone()
        })
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
