//! Reads and writes: many requests, each mapped for its own time, each cut into commands, as many in flight as the queue holds.
//!
//! A request's buffers are mapped when its first command is made, and unmapped when its last has finished: what a
//! request was given, the device can reach for that time only. After an error no new command is made; those in flight are waited for,
//! or, if the controller's state is in doubt, it is stopped; then everything is unmapped.

use alloc::vec::Vec;

use portcullis_core::dma::{self, DmaHandle, SgMapping};
use portcullis_hal::{Platform, Registers};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{PaRange, mutant};

use crate::buffer::is_physical;
use crate::command::{Command, opcode};
use crate::controller::Controller;
use crate::error::NvmeError;
use crate::identify::NamespaceInfo;
use crate::prp::{Cutter, Limits, Lists};
use crate::queue::{Finished, Queue};

/// Which way a request's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the disk into memory.
    Read,
    /// From memory onto the disk.
    Write,
}

impl Direction {
    const fn opcode(self) -> u8 {
        match self {
            Self::Read => opcode::READ,
            Self::Write => opcode::WRITE,
        }
    }

    /// The word that traces use.
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    const fn dma(self) -> dma::Direction {
        match self {
            Self::Read => dma::Direction::FromDevice,
            Self::Write => dma::Direction::ToDevice,
        }
    }
}

/// A run of blocks and the buffers for it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which way.
    pub direction: Direction,
    /// The first block.
    pub lba: u64,
    /// The memory, in the order of the blocks: together a whole number of blocks.
    pub buffers: &'a [PaRange],
}

impl Request<'_> {
    /// How many blocks, if they are all there.
    pub(crate) fn block_count(&self, namespace: &NamespaceInfo) -> Result<u64, NvmeError> {
        let bad = |len_bytes| NvmeError::BadLength { len_bytes, block_bytes: namespace.block_bytes };
        let add = |sum: u64, buffer: &PaRange| sum.checked_add(buffer.len_bytes()?);
        let len_bytes = self.buffers.iter().try_fold(0, add).ok_or(bad(u64::MAX))?;
        if len_bytes == 0 || !len_bytes.is_multiple_of(namespace.block_bytes) {
            return Err(bad(len_bytes));
        }
        let block_count = len_bytes / namespace.block_bytes;
        let end = self.lba.checked_add(block_count);
        if end.is_none_or(|end| end > namespace.block_count) {
            let capacity_blocks = namespace.block_count;
            return Err(NvmeError::OutOfRange { lba: self.lba, block_count, capacity_blocks });
        }
        Ok(block_count)
    }
}

/// What a transfer works with.
pub(crate) struct Means<'a, P: Platform, R: Registers> {
    pub(crate) dma: &'a DmaHandle<P>,
    pub(crate) controller: &'a mut Controller<P, R>,
    pub(crate) queue: &'a mut Queue<P>,
    pub(crate) lists: &'a Lists<P>,
    pub(crate) limits: Limits,
    pub(crate) namespace: NamespaceInfo,
    pub(crate) limit_ns: u64,
}

/// A request under way.
struct Active {
    /// The receipt for its buffers; none before its first command and after its last.
    mapping: Option<SgMapping>,
    cutter: Cutter,
    /// The block at which the next command begins.
    next_lba: u64,
    in_flight: usize,
}

/// A transfer under way.
pub(crate) struct Transfer<'a, 'r, P: Platform, R: Registers> {
    means: Means<'a, P, R>,
    requests: &'r [Request<'r>],
    active: Vec<Active>,
    /// The request that the next command is for.
    current: usize,
    pages: Vec<u64>,
    error: Option<NvmeError>,
    commands: u64,
    stopped: bool,
}

/// How a transfer went.
pub(crate) struct Done {
    /// How many commands were submitted.
    pub(crate) commands: u64,
    /// Whether the controller was stopped, because its state was in doubt.
    pub(crate) stopped: bool,
    /// The first error.
    pub(crate) result: Result<(), NvmeError>,
}

impl<'a, 'r, P: Platform, R: Registers> Transfer<'a, 'r, P, R> {
    /// A transfer of `requests`, each of which was found to be in range.
    pub(crate) fn new(means: Means<'a, P, R>, requests: &'r [Request<'r>]) -> Self {
        let active = requests
            .iter()
            .map(|request| Active {
                mapping: None,
                cutter: Cutter::default(),
                next_lba: request.lba,
                in_flight: 0,
            })
            .collect();
        let pages = Vec::new();
        Self { means, requests, active, current: 0, pages, error: None, commands: 0, stopped: false }
    }

    /// Does it all. On return nothing is mapped and nothing in flight.
    pub(crate) fn run(mut self) -> Done {
        let mut finished = Vec::new();
        loop {
            self.fill();
            if self.means.queue.is_idle() {
                break;
            }
            self.means.queue.ring(self.means.controller);
            if let Err(error) =
                self.means.queue.wait(self.means.controller, self.means.limit_ns, &mut finished)
            {
                self.stop(error);
                break;
            }
            finished.drain(..).for_each(|one| self.finish(&one));
        }
        (0..self.active.len()).for_each(|at| self.unmap(at));
        if self.means.controller.stuck().is_so() {
            // Where a domain is lazy, it reaches what was unmapped until a flush. If hardware does not confirm, everything waits for a later one, and there is an error already.
            let _ = self.means.dma.flush();
        }
        let result = self.error.map_or(Ok(()), Err);
        Done { commands: self.commands, stopped: self.stopped, result }
    }

    /// Stops a controller whose state is in doubt. One that does not let itself be stopped is still behind its IOMMU, and what
    /// it was given is unmapped next; where addresses are physical, that it may write on is what the caller must know.
    fn stop(&mut self, error: NvmeError) {
        self.say_stopped(&error);
        self.fail(error);
        self.stopped = true;
        if !mutant!("buffers-unmapped-under-a-running-disk") {
            let stopped = self.means.controller.disable();
            if self.means.controller.stuck().is_so() && is_physical(self.means.dma) {
                self.error = stopped.err();
            }
        }
    }

    /// Makes commands until the queue is full or there are none left to make.
    fn fill(&mut self) {
        while self.error.is_none() && self.current < self.requests.len() {
            let Some(slot) = self.means.queue.next_slot() else { return };
            match self.make(slot) {
                Ok(true) => {}
                Ok(false) => self.leave_current(),
                Err(error) => self.fail(error),
            }
        }
    }

    /// Goes on to the next request. The current one may be finished already, if the queue was full when its last command was made.
    fn leave_current(&mut self) {
        if self.active[self.current].in_flight == 0 {
            self.unmap(self.current);
        }
        self.current += 1;
    }

    /// Makes the next command of the current request. Answers whether there was one.
    fn make(&mut self, slot: u16) -> Result<bool, NvmeError> {
        let request = &self.requests[self.current];
        let active = &mut self.active[self.current];
        if active.mapping.is_none() {
            active.mapping = Some(self.means.dma.map_sg(request.buffers, request.direction.dma())?);
        }
        let segments = active.mapping.as_ref().map_or(&[][..], SgMapping::segments);
        let Some(bytes) = active.cutter.next(segments, &self.means.limits, &mut self.pages)? else {
            return Ok(false);
        };
        let block_count = bytes / self.means.namespace.block_bytes;
        let prps = self.means.lists.describe(slot, &self.pages);
        let (opcode, id) = (request.direction.opcode(), self.means.namespace.id);
        // A command is at most 65,536 blocks long: `Limits::max_bytes` sees to it.
        let count = u32::try_from(block_count).unwrap_or(u32::MAX);
        self.means.queue.submit(&Command::blocks(opcode, id, active.next_lba, count, prps), self.current);
        say_command(&**self.means.dma.platform(), request.direction, active.next_lba, count);
        active.next_lba += block_count;
        active.in_flight += 1;
        self.commands += 1;
        Ok(true)
    }

    /// Notes the end of a command, and takes the buffers back if it was its request's last.
    fn finish(&mut self, finished: &Finished) {
        if let Err(error) = self.means.queue.accept(finished) {
            self.fail(error);
        }
        self.active[finished.mark].in_flight -= 1;
        let more_to_come = self.error.is_none() && self.current <= finished.mark;
        let done = self.active[finished.mark].in_flight == 0 && !more_to_come;
        if done && !mutant!("buffers-stay-mapped-till-the-end") || mutant!("buffers-unmapped-under-commands")
        {
            self.unmap(finished.mark);
        }
    }

    /// Takes a request's buffers back, if they are out.
    fn unmap(&mut self, at: usize) {
        let Some(mapping) = self.active[at].mapping.take() else { return };
        let Err(refused) = self.means.dma.unmap_sg(mapping) else { return };
        self.fail(NvmeError::Unmap(refused.error));
        if let Some(mapping) = refused.mapping {
            // Still mapped: once more, now that nothing else is wanted of the table. If that fails too, core has said so.
            let again = self.means.dma.unmap_sg(mapping);
            again.unwrap_or_else(|refused| self.fail(NvmeError::Unmap(refused.error)));
        }
    }

    fn say_stopped(&self, error: &NvmeError) {
        let platform = self.means.dma.platform();
        if platform.listening() {
            let why = alloc::format!("{error}");
            platform.event(&Event { source: "nvme", name: "stopped", fields: &[("why", Value::Str(&why))] });
        }
    }

    /// Keeps the first error.
    fn fail(&mut self, error: NvmeError) {
        self.error.get_or_insert(error);
    }
}

fn say_command(sink: &impl Sink, direction: Direction, lba: u64, block_count: u32) {
    if sink.listening() {
        sink.event(&Event {
            source: "nvme",
            name: direction.name(),
            fields: &[("lba", Value::Dec(lba)), ("blocks", Value::Dec(block_count.into()))],
        });
    }
}
