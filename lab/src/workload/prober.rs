//! The disk itself, made to try addresses: for hardware whose IOMMU nobody but a device can ask.
//!
//! A second, tiny driver of the same NVMe controller, bound when the kernel's is not: one admin queue, one command at a time, no interrupts. A command
//! names the address that is tried as its data: *Get Features* of the timestamp makes the disk write 8 bytes there, *Set Features* makes it read
//! them. What became of a try the IOMMU says, by its record: a disk may pass over an access that was refused.
//!
//! Once the disk is detached no queue can be reached any more, which is what is tried then ([`Detached`]): the disk is told that its queue is at the
//! address, and fetches a command from there.
//!
//! That is also what is tried, at any time, where an IOMMU keeps no records: a disk that cannot fetch a command, or post a completion, gives up, and says so. And a page from which
//! it fetches one and into which it posts the completion is reached both ways ([`Detached::answers`]).
//!
//! Observed: QEMU 7.2 and 11.1, hw/nvme/ctrl.c, `nvme_process_sq`, `nvme_post_cqes`.
//!
//! Spec: NVMe Base 2.0, 3.1.3 "Controller Properties"; 5.15 "Get Features command"; 5.27 "Set Features command"; 5.27.1.10 "Timestamp (Feature
//! Identifier 0Eh)"; 3.3.3.1 "Submission Queue Entry".
//! Not here: judging (`proof`).

use std::sync::{Arc, Mutex, PoisonError};

use portcullis::core::bus::Driver;
use portcullis::core::dma::{Coherent, DmaHandle};
use portcullis::hal::{Barriers, DmaMemory, Registers, wait_for};
use portcullis::pci::{Bdf, ConfigAccess, set_bus_master};
use portcullis::types::{Access, Iova, Pa};

use super::TRY_VERBOSE;
use super::controller::{
    CSTS, DOORBELLS, ENTRIES, GET_FEATURES, LIMIT_NS, SET_FEATURES, TIMESTAMP, disable, enable, has_failed,
};
use super::disk::{find, not_bound};
use crate::boot::{self, Bound, System};
use crate::error::RunError;
use crate::platform::{LabPlatform, RegisterWindow};

const DRIVER: &str = "nvme-prober";
/// A limit for an answer, one way or the other.
const ANSWER_LIMIT_NS: u64 = 2_000_000_000;
/// How long something is waited for that is not to come.
const SILENCE_NS: u64 = 20_000_000;

/// The doorbells of queue 0 where the stride is 0.
const SUBMISSION_TAIL: usize = DOORBELLS;
const COMPLETION_HEAD: usize = DOORBELLS + 4;
/// Without data. Spec: NVMe Base 2.0, 5.27.1.5 "Number of Queues (Feature Identifier 07h)".
const QUEUE_COUNT: u32 = 0x07;

/// In the prober's memory: the submission queue, the completion queue, and a page for tries that must work.
const COMPLETIONS: u64 = 0x1000;
const SPARE: u64 = 0x2000;
const MEMORY_BYTES: u64 = 0x3000;

/// A disk that tries addresses.
pub(super) struct Prober {
    queue: Arc<Mutex<Option<Queue>>>,
    name: String,
    detached: Detached,
}

/// The controller, and its one queue.
struct Queue {
    platform: Arc<LabPlatform>,
    registers: RegisterWindow,
    dma: DmaHandle<LabPlatform>,
    memory: Option<Coherent>,
    tail: u32,
    head: u32,
    phase: u32,
}

/// The driver as the bus knows it.
struct Stop {
    queue: Arc<Mutex<Option<Queue>>>,
    detached: Detached,
}

impl Bound for Stop {
    fn stop(self: Box<Self>) -> Result<(), RunError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stopped = queue.map_or(Ok(()), Queue::stop);
        self.detached.bus_master(false);
        stopped.map_err(|what| RunError::wrong(DRIVER, what, TRY_VERBOSE))
    }
}

impl Prober {
    /// Binds the prober to the disk of this name.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: it is not bound, or the disk does not do what is asked where it may.
    pub(super) fn bind(system: &System, name: &str) -> Result<Self, RunError> {
        let (host, endpoint) = find(system, name)?;
        let wrong = |what: &str| RunError::wrong(name, format!("trying addresses: {what}"), TRY_VERBOSE);
        let function = &host.topology.functions[endpoint.function];
        let registers = function.bar(0).and_then(|bar| bar.cpu_range());
        let registers = system.platform.registers(registers.ok_or_else(|| wrong("it has no registers"))?);
        let detached = Detached {
            platform: system.platform.clone(),
            registers: registers.clone(),
            config: host.config.clone(),
            at: function.at,
        };
        let queue = Arc::new(Mutex::new(None));
        let probe = |dma: Option<DmaHandle<LabPlatform>>| -> Result<Box<dyn Bound>, RunError> {
            let dma = dma.ok_or_else(|| wrong("it is not in its group"))?;
            host.topology.enable_bus_master(&*host.config, endpoint.function);
            let started = Queue::start(system.platform.clone(), registers.clone(), dma);
            *queue.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(started.map_err(|what| wrong(&what))?);
            Ok(Box::new(Stop { queue: queue.clone(), detached: detached.clone() }))
        };
        let bound = endpoint.binding.bind(Driver::new(DRIVER), || Ok(()), probe);
        bound.map_err(|error| not_bound(name, DRIVER, error))?;
        let prober = Self { queue, name: name.into(), detached };
        prober.check_that_it_reaches()?;
        Ok(prober)
    }

    fn queue<T>(&self, act: impl FnOnce(&mut Queue) -> Result<T, String>) -> Result<T, RunError> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let acted = queue.as_mut().ok_or_else(|| "its driver is gone".to_owned()).and_then(act);
        acted.map_err(|what| RunError::wrong(&self.name, format!("trying addresses: {what}"), TRY_VERBOSE))
    }

    /// One access. Whether it was refused the IOMMU's records say.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: the disk did not answer.
    pub(super) fn access(&self, at: Iova, access: Access) -> Result<(), RunError> {
        // The 8 bytes that `at` is among.
        let at = at.align_down(8);
        self.queue(|queue| queue.command(access, at).map(drop))
    }

    /// One access, by the queues' own entries. Answers whether the disk says that it failed.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: the disk does not do what it is told.
    pub(super) fn is_refused(&self, at: Iova, access: Access) -> Result<bool, RunError> {
        if access != Access::WRITE {
            return self.detached.is_refused(at);
        }
        let base = self.queue(|queue| {
            let memory = queue.memory.as_ref().ok_or("it has no memory")?;
            queue.platform.write(memory.pa(), &command(0));
            queue.platform.write_barrier();
            Ok(memory.iova())
        })?;
        Ok(self.detached.one_command(base, at, ANSWER_LIMIT_NS, &mut || Ok(false))?.is_none())
    }

    /// A try of an address that is mapped moves bytes, both ways: without that, tries that are refused would say nothing.
    fn check_that_it_reaches(&self) -> Result<(), RunError> {
        self.queue(|queue| {
            let memory = queue.memory.as_ref().ok_or("it has no memory")?;
            let (at, spare) = (Pa::new(memory.pa().get() + SPARE), Iova::new(memory.iova().get() + SPARE));
            // Milliseconds, of 48 bits.
            let told = 0x0123_4567_89ab_u64;
            queue.platform.write(at, &told.to_le_bytes());
            queue.platform.write_barrier();
            queue.command(Access::READ, spare)?;
            queue.platform.write(at, &[0; 8]);
            queue.platform.write_barrier();
            queue.command(Access::WRITE, spare)?;
            let mut back = [0; 8];
            queue.platform.read_barrier();
            queue.platform.read(at, &mut back);
            let back = u64::from_le_bytes(back) & 0xffff_ffff_ffff;
            // It goes on counting.
            match back.checked_sub(told) {
                Some(0..600_000) => Ok(()),
                _ => Err(format!("it was told {told:#x}, and says {back:#x}")),
            }
        })
    }

    /// How to try addresses once the disk is detached.
    pub(super) fn detached(&self) -> Detached {
        self.detached.clone()
    }

    /// Lets go of the disk.
    ///
    /// # Errors
    ///
    /// [`RunError::Wrong`]: it did not stop.
    pub(super) fn unbind(self, system: &System) -> Result<(), RunError> {
        let (_, endpoint) = find(system, &self.name)?;
        boot::unbind(&endpoint.binding)
    }
}

impl Queue {
    fn start(
        platform: Arc<LabPlatform>,
        registers: RegisterWindow,
        dma: DmaHandle<LabPlatform>,
    ) -> Result<Self, String> {
        let memory = dma.alloc_coherent(MEMORY_BYTES).map_err(|error| format!("no memory: {error:?}"))?;
        let base = memory.iova().get();
        let queue = Self { platform, registers, dma, memory: Some(memory), tail: 0, head: 0, phase: 1 };
        let started = disable(&queue.platform, &queue.registers)
            .and_then(|()| enable(&queue.platform, &queue.registers, base, base + COMPLETIONS));
        match started {
            Ok(()) => Ok(queue),
            Err(what) => queue.stop().and(Err(what)),
        }
    }

    fn stop(mut self) -> Result<(), String> {
        let disabled = disable(&self.platform, &self.registers);
        let freed = match self.memory.take() {
            Some(memory) => {
                self.dma.free_coherent(memory).map_err(|_| "its memory was not unmapped".to_owned())
            }
            None => Ok(()),
        };
        disabled.and(freed)
    }

    /// One command, whose data are 8 bytes at `at`. Answers its status.
    fn command(&mut self, access: Access, at: Iova) -> Result<u32, String> {
        let opcode = if access == Access::WRITE { GET_FEATURES } else { SET_FEATURES };
        let base = self.memory.as_ref().ok_or("it has no memory")?.pa().get();
        let mut entry = [0; 64];
        entry[..4].copy_from_slice(&(u32::from(opcode) | self.tail << 16).to_le_bytes());
        entry[24..32].copy_from_slice(&at.get().to_le_bytes());
        entry[40..44].copy_from_slice(&TIMESTAMP.to_le_bytes());
        self.platform.write(Pa::new(base + 64 * u64::from(self.tail)), &entry);
        self.platform.write_barrier();
        self.tail = (self.tail + 1) % ENTRIES;
        self.registers.write32(SUBMISSION_TAIL, self.tail);
        let last = Pa::new(base + COMPLETIONS + 16 * u64::from(self.head) + 12);
        let phase = self.phase;
        let status = wait_for(&*self.platform, LIMIT_NS, || {
            let status = self.platform.read32(last) >> 16;
            (status & 1 == phase).then_some(status >> 1)
        });
        let status = status
            .map_err(|_| format!("the disk does not answer (CSTS {:#x})", self.registers.read32(CSTS)))?;
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= u32::from(self.head == 0);
        self.registers.write32(COMPLETION_HEAD, self.head);
        Ok(status)
    }
}

/// A command that changes nothing and has no data, as it lies in a submission queue.
pub(super) fn command(id: u16) -> [u8; 64] {
    let mut entry = [0; 64];
    entry[..4].copy_from_slice(&(u32::from(GET_FEATURES) | u32::from(id) << 16).to_le_bytes());
    entry[40..44].copy_from_slice(&QUEUE_COUNT.to_le_bytes());
    entry
}

/// Where the last word of a completion lies, in which the command's id is with its status, and what it is of the first command in a new queue.
pub(super) const ANSWER: u64 = 12;
pub(super) fn answer(id: u16) -> u32 {
    1 << 16 | u32::from(id)
}

/// A disk that no driver has any more, and that its IOMMU no longer knows.
#[derive(Clone)]
pub(super) struct Detached {
    platform: Arc<LabPlatform>,
    registers: RegisterWindow,
    config: Arc<dyn ConfigAccess + Send + Sync>,
    at: Bdf,
}

impl Detached {
    fn bus_master(&self, on: bool) {
        set_bus_master(&*self.config, self.at, on);
    }

    /// Whether the disk says that it cannot fetch a command from `at`.
    ///
    /// # Errors
    ///
    /// Here and below: [`RunError::Wrong`], the disk does not do what it is told.
    pub(super) fn is_refused(&self, at: Iova) -> Result<bool, RunError> {
        Ok(self.one_command(at, at, ANSWER_LIMIT_NS, &mut || Ok(false))?.is_none())
    }

    /// The disk takes a command from the page at `at` and posts its completion there. Answers whether it did, as `is_there` sees it.
    pub(super) fn answers(
        &self,
        at: Iova,
        is_there: &mut dyn FnMut() -> Result<bool, RunError>,
    ) -> Result<bool, RunError> {
        Ok(self.one_command(at, at, ANSWER_LIMIT_NS, is_there)? == Some(true))
    }

    /// The disk fetches a command from `at`. Answers whether it says, soon, that it failed.
    pub(super) fn fetch(&self, at: Iova) -> Result<bool, RunError> {
        Ok(self.one_command(at, at, SILENCE_NS, &mut || Ok(false))?.is_none())
    }

    /// The disk takes a command from one page and posts its completion to another. Answers whether it came, as `is_there` sees it; none if the disk says that it
    /// failed.
    fn one_command(
        &self,
        from: Iova,
        to: Iova,
        limit_ns: u64,
        is_there: &mut dyn FnMut() -> Result<bool, RunError>,
    ) -> Result<Option<bool>, RunError> {
        let wrong =
            |what: String| RunError::wrong("the disk", format!("trying addresses: {what}"), TRY_VERBOSE);
        let [from, to] = [from, to].map(|at| at.align_down(0x1000).get());
        self.bus_master(true);
        let begun = disable(&self.platform, &self.registers)
            .and_then(|()| enable(&self.platform, &self.registers, from, to));
        let ended = begun.map(|()| {
            self.registers.write32(SUBMISSION_TAIL, 1);
            wait_for(&*self.platform, limit_ns, || {
                if has_failed(&self.registers) {
                    return Some(Ok(None));
                }
                match is_there() {
                    Ok(false) => None,
                    Ok(true) => Some(Ok(Some(true))),
                    Err(error) => Some(Err(error)),
                }
            })
            .unwrap_or(Ok(Some(false)))
        });
        let stopped = disable(&self.platform, &self.registers);
        self.bus_master(false);
        let ended = ended.map_err(wrong)??;
        stopped.map_err(wrong).map(|()| ended)
    }
}
