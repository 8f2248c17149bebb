//! Bring-up: from a controller in any state to one with queues, step by step.
//!
//! A [`BringUp`] owns what the steps so far have made. Leaving at any step drops it, and its fields drop in an order in which
//! the controller has stopped before the memory that it knows goes back.
//!
//! Spec: NVMe Base 2.0, 3.5.1 "Memory-based Controller Initialization (PCIe)".

use alloc::boxed::Box;

use portcullis_core::device::DmaMask;
use portcullis_core::dma::DmaHandle;
use portcullis_hal::{Platform, Registers};

use crate::buffer::Buffer;
use crate::command::{Command, Identify};
use crate::config::{Config, Interrupts, Vector};
use crate::controller::{AdminQueues, Controller};
use crate::error::{BadIdentity, NvmeError, Unsupported};
use crate::identify::{ControllerInfo, NamespaceInfo, STRUCTURE_BYTES};
use crate::prp::{Limits, Lists};
use crate::queue::{MAX_SLOTS, Queue};

/// The id of the one pair of I/O queues.
pub(crate) const IO_QUEUE: u16 = 1;

/// Entries of the admin queues. One command is in flight at a time.
const ADMIN_ENTRIES: u16 = 4;

/// The most blocks of a command.
const MAX_BLOCKS: u64 = 1 << 16;

/// A controller on its way up. `Io` and `L` are the I/O queues and the PRP lists, or nothing yet.
pub(crate) struct BringUp<P: Platform, R: Registers, Io, L> {
    // Fields drop in this order.
    pub(crate) controller: Controller<P, R>,
    pub(crate) io: Io,
    pub(crate) lists: L,
    pub(crate) admin: Queue<P>,
    page: Buffer<P>,
    dma: DmaHandle<P>,
    limit_ns: u64,
}

impl<P: Platform, R: Registers> BringUp<P, R, (), ()> {
    /// Stops whatever the controller was doing, and enables it with admin queues.
    pub(crate) fn enable(
        dma: &DmaHandle<P>,
        registers: R,
        interrupts: &Interrupts,
        config: &Config,
    ) -> Result<Self, NvmeError> {
        check(config)?;
        // Every address in a queue or a PRP has 64 bits.
        dma.device().set_dma_mask(DmaMask::BITS_64);
        dma.device().set_coherent_mask(DmaMask::BITS_64);
        let controller = Controller::reset(dma.platform().clone(), registers, config.register_bytes)?;
        let page_bytes = controller.capabilities().page_bytes();
        let vector = Vector { index: 0, interrupt: interrupts.admin.clone() };
        let stuck = controller.stuck();
        let admin = Queue::new(dma, stuck, 0, ADMIN_ENTRIES, page_bytes, vector)?;
        let page = Buffer::new(dma, stuck, STRUCTURE_BYTES as u64, page_bytes)?;
        let limit_ns = config.command_limit_ns;
        let mut up = Self { controller, io: (), lists: (), admin, page, dma: dma.clone(), limit_ns };
        up.controller.enable(&AdminQueues {
            submission: up.admin.submission_base(),
            completion: up.admin.completion_base(),
            entries: ADMIN_ENTRIES,
        })?;
        Ok(up)
    }

    /// Asks the controller what it is, and what the namespace is.
    pub(crate) fn identify(&mut self, config: &Config) -> Result<(ControllerInfo, NamespaceInfo), NvmeError> {
        let page_bytes = self.controller.capabilities().page_bytes();
        let info = ControllerInfo::decode(&*self.structure(Identify::Controller)?, page_bytes)?;
        let (namespace, count) = (config.namespace, info.namespace_count);
        if namespace > count {
            return Err(BadIdentity::NoNamespace { namespace, count }.into());
        }
        let found = NamespaceInfo::decode(&*self.structure(Identify::Namespace(namespace))?, namespace)?;
        Ok((info, found))
    }

    fn structure(&mut self, what: Identify) -> Result<Box<[u8; STRUCTURE_BYTES]>, NvmeError> {
        let command = Command::identify(what, self.page.iova(0));
        self.admin.execute(&self.controller, self.limit_ns, &command)?;
        let mut copy = Box::new([0; STRUCTURE_BYTES]);
        self.page.read(0, &mut copy[..]);
        Ok(copy)
    }

    /// How transfers may be cut: what the controller allows, and what the caller wants.
    pub(crate) fn limits(
        &self,
        info: &ControllerInfo,
        namespace: &NamespaceInfo,
        config: &Config,
    ) -> Result<Limits, NvmeError> {
        let block_bytes = namespace.block_bytes;
        let allowed = info.max_transfer_bytes.unwrap_or(u64::MAX).min(MAX_BLOCKS * block_bytes);
        let most = allowed.min(config.max_transfer_bytes.into());
        let max_bytes = most - most % block_bytes;
        if max_bytes == 0 {
            #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
            let lg2 = block_bytes.ilog2() as u8;
            return Err(Unsupported::BlockSize { lg2 }.into());
        }
        Ok(Limits { page_bytes: self.controller.capabilities().page_bytes(), block_bytes, max_bytes })
    }

    /// Creates the I/O queues, with memory for the lists of as many commands as they hold.
    pub(crate) fn create_io(
        self,
        limits: Limits,
        interrupts: &Interrupts,
        config: &Config,
    ) -> Result<BringUp<P, R, Queue<P>, Lists<P>>, NvmeError> {
        let most = self.controller.capabilities().max_entries;
        let entries = u16::try_from(most).unwrap_or(u16::MAX).min(config.queue_depth + 1);
        let stuck = self.controller.stuck();
        let (page_bytes, vector) = (limits.page_bytes, interrupts.io.clone());
        let io = Queue::new(&self.dma, stuck, IO_QUEUE, entries, page_bytes, vector)?;
        let lists = Lists::new(&self.dma, stuck, limits, io.slot_count())?;
        // From here on the controller may know the queues: they move in behind it, so that they drop after it.
        let Self { controller, admin, page, dma, limit_ns, .. } = self;
        let mut up = BringUp { controller, io, lists, admin, page, dma, limit_ns };
        up.tell_io_queues(interrupts.io.index)?;
        Ok(up)
    }
}

impl<P: Platform, R: Registers> BringUp<P, R, Queue<P>, Lists<P>> {
    fn tell_io_queues(&mut self, vector: u16) -> Result<(), NvmeError> {
        let entries = self.io.entries();
        let commands = [
            Command::one_queue_pair(),
            Command::create_cq(IO_QUEUE, entries, self.io.completion_base(), vector),
            Command::create_sq(IO_QUEUE, entries, self.io.submission_base()),
        ];
        commands
            .iter()
            .try_for_each(|command| self.admin.execute(&self.controller, self.limit_ns, command).map(drop))
    }
}

fn check(config: &Config) -> Result<(), NvmeError> {
    let bad = |field, value: u64| Err(NvmeError::BadConfig { field, value });
    if config.queue_depth == 0 || config.queue_depth > MAX_SLOTS {
        return bad("queue_depth", config.queue_depth.into());
    }
    // 0 and all ones are no namespace: the second means every one there is.
    if config.namespace == 0 || config.namespace == u32::MAX {
        return bad("namespace", config.namespace.into());
    }
    if config.max_transfer_bytes == 0 {
        return bad("max_transfer_bytes", 0);
    }
    Ok(())
}
