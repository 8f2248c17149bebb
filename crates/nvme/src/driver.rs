//! The driver's face: transfers, flush, teardown.
//!
//! Not here: bring-up (`start`), how a transfer goes (`transfer`).

use alloc::vec::Vec;
use core::fmt;

use portcullis_core::dma::DmaHandle;
use portcullis_hal::{Platform, Registers};
use portcullis_types::PaRange;
use portcullis_types::trace::{Event, Value};

use crate::command::Command;
use crate::config::{Config, Interrupts};
use crate::controller::Controller;
use crate::error::NvmeError;
use crate::identify::{ControllerInfo, NamespaceInfo};
use crate::prp::{Limits, Lists};
use crate::queue::Queue;
use crate::start::{BringUp, IO_QUEUE};
use crate::transfer::{Direction, Means, Request, Transfer};

/// A controller at work, with one namespace and one pair of I/O queues.
///
/// Dropping it stops the controller and takes back all it was given; [`shutdown`](Self::shutdown) does so in good order, and says
/// what went wrong.
pub struct Nvme<P: Platform, R: Registers> {
    // Fields drop in this order: the controller stops before its memory goes.
    controller: Controller<P, R>,
    io: Queue<P>,
    lists: Lists<P>,
    admin: Queue<P>,
    dma: DmaHandle<P>,
    info: ControllerInfo,
    namespace: NamespaceInfo,
    limits: Limits,
    limit_ns: u64,
    stopped: bool,
    commands: u64,
}

impl<P: Platform, R: Registers> fmt::Debug for Nvme<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme")
            .field("model", &self.info.model)
            .field("namespace", &self.namespace)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

/// What the driver did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// I/O commands submitted.
    pub commands: u64,
    /// Interrupts taken, of both queues.
    pub interrupts: u64,
}

impl<P: Platform, R: Registers> Nvme<P, R> {
    /// Resets the controller behind `registers` (its BAR 0), enables it, and makes it ready for transfers.
    ///
    /// # Errors
    ///
    /// As [`NvmeError`] says. Then the controller is disabled, if it lets itself be, and everything it was given is taken back.
    pub fn start(
        dma: DmaHandle<P>,
        registers: R,
        interrupts: &Interrupts,
        config: &Config,
    ) -> Result<Self, NvmeError> {
        let mut bring_up = BringUp::enable(&dma, registers, interrupts, config)?;
        let (info, namespace) = bring_up.identify(config)?;
        let limits = bring_up.limits(&info, &namespace, config)?;
        let BringUp { controller, io, lists, admin, .. } = bring_up.create_io(limits, interrupts, config)?;
        let nvme = Self {
            controller,
            io,
            lists,
            admin,
            dma,
            info,
            namespace,
            limits,
            limit_ns: config.command_limit_ns,
            stopped: false,
            commands: 0,
        };
        nvme.say_ready();
        Ok(nvme)
    }

    /// What the controller says of itself.
    pub fn info(&self) -> &ControllerInfo {
        &self.info
    }

    /// The namespace.
    pub fn namespace(&self) -> &NamespaceInfo {
        &self.namespace
    }

    /// How many commands can be in flight.
    pub fn queue_depth(&self) -> u16 {
        self.io.slot_count()
    }

    /// The most bytes of one command.
    pub fn max_command_bytes(&self) -> u64 {
        self.limits.max_bytes
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        Stats { commands: self.commands, interrupts: self.admin.interrupts() + self.io.interrupts() }
    }

    /// Reads blocks from `lba` on into `buffers`, as many as fit in them.
    ///
    /// # Errors
    ///
    /// As [`transfer`](Self::transfer).
    pub fn read(&mut self, lba: u64, buffers: &[PaRange]) -> Result<(), NvmeError> {
        self.transfer(&[Request { direction: Direction::Read, lba, buffers }])
    }

    /// Writes `buffers` to the blocks from `lba` on. Durable only after a [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// As [`transfer`](Self::transfer).
    pub fn write(&mut self, lba: u64, buffers: &[PaRange]) -> Result<(), NvmeError> {
        self.transfer(&[Request { direction: Direction::Write, lba, buffers }])
    }

    /// Does all of `requests`, in any order, with as many commands in flight as the queue holds. A request's buffers are
    /// mapped for its own time only.
    ///
    /// # Errors
    ///
    /// The first error as [`NvmeError`] says; some blocks may have been transferred. Nothing is mapped or in flight on return. A range
    /// or a length that cannot be is found before anything is done. Where addresses are physical, a controller that was stopped for an error and does not stop may reach the buffers
    /// still: that is [`NvmeError::Timeout`] of [`Wait::NotReady`](crate::Wait::NotReady), whatever came before.
    pub fn transfer(&mut self, requests: &[Request<'_>]) -> Result<(), NvmeError> {
        self.check_running()?;
        requests.iter().try_for_each(|request| request.block_count(&self.namespace).map(drop))?;
        let means = Means {
            dma: &self.dma,
            controller: &mut self.controller,
            queue: &mut self.io,
            lists: &self.lists,
            limits: self.limits,
            namespace: self.namespace,
            limit_ns: self.limit_ns,
        };
        let done = Transfer::new(means, requests).run();
        self.commands += done.commands;
        self.stopped |= done.stopped;
        done.result
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// As [`NvmeError`] says.
    pub fn flush(&mut self) -> Result<(), NvmeError> {
        self.check_running()?;
        self.commands += 1;
        let flush = Command::flush(self.namespace.id);
        let done = self.io.execute(&self.controller, self.limit_ns, &flush);
        if done.as_ref().is_err_and(NvmeError::leaves_doubt) {
            self.stopped = true;
            // The error that led here says more than one that comes from stopping; `shutdown` tries again.
            let _ = self.controller.disable();
        }
        done.map(drop)
    }

    /// Stops the controller in good order and takes back everything it was given.
    ///
    /// # Errors
    ///
    /// The first that went wrong. All the rest was done in spite of it.
    pub fn shutdown(self) -> Result<(), NvmeError> {
        let Self { mut controller, io, lists, mut admin, info, limit_ns, stopped, .. } = self;
        let orderly = if stopped { Ok(()) } else { wind_down(&mut controller, &mut admin, &info, limit_ns) };
        let disabled = controller.disable();
        drop(controller);
        let freed = [io.free(), lists.free(), admin.free()].into_iter().collect::<Result<Vec<()>, _>>();
        orderly.and(disabled).and(freed.map(drop).map_err(NvmeError::Unmap))
    }

    fn check_running(&self) -> Result<(), NvmeError> {
        if self.stopped { Err(NvmeError::Stopped) } else { Ok(()) }
    }

    fn say_ready(&self) {
        let platform = self.dma.platform();
        if platform.listening() {
            platform.event(&Event {
                source: "nvme",
                name: "ready",
                fields: &[
                    ("model", Value::Str(&self.info.model)),
                    ("namespace", Value::Dec(self.namespace.id.into())),
                    ("blocks", Value::Dec(self.namespace.block_count)),
                    ("block_bytes", Value::Dec(self.namespace.block_bytes)),
                    ("depth", Value::Dec(self.queue_depth().into())),
                    ("max_bytes", Value::Dec(self.limits.max_bytes)),
                ],
            });
        }
    }
}

/// Deletes the I/O queues and lets the controller put its caches away, also one that did not delete them.
fn wind_down<P: Platform, R: Registers>(
    controller: &mut Controller<P, R>,
    admin: &mut Queue<P>,
    info: &ControllerInfo,
    limit_ns: u64,
) -> Result<(), NvmeError> {
    let deleted = [Command::delete_sq(IO_QUEUE), Command::delete_cq(IO_QUEUE)]
        .iter()
        .try_for_each(|delete| admin.execute(controller, limit_ns, delete).map(drop));
    let put_away = controller.shut_down(info.shutdown_ns);
    deleted.and(put_away)
}
