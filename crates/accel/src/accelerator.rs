//! The accelerator as a whole: start, reset, shut down, and which queues are taken.

use alloc::sync::Arc;
use core::fmt;

use portcullis_hal::{Lock, Platform, Registers, wait_for};

use crate::error::AccelError;
use crate::registers::{CAP, CTRL, CTRL_ENABLE, Capabilities, ID, ID_VALUE, STATUS, STATUS_READY, State};

/// How long the device may take to do what `CTRL` asks for, and to start a queue.
pub(crate) const READY_LIMIT_NS: u64 = 1_000_000_000;

/// Which of its two forms an accelerator has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A PCIe function: it asks for pages.
    Pcie,
    /// A platform device: it is stalled where a page is not there.
    Platform,
}

/// An accelerator at work.
pub struct Accelerator<P: Platform, R: Registers> {
    platform: Arc<P>,
    registers: R,
    form: Form,
    capabilities: Capabilities,
    taken: Lock<P, Taken>,
}

/// Which queues have an owner.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Bit `n` stands for queue `n`.
    queues: u16,
    /// Those that nobody has, and of which the device has not said that they are off. Nobody gets one before it is reset.
    lost: u16,
    /// Whether more may be.
    open: bool,
}

impl<P: Platform, R: Registers> Accelerator<P, R> {
    /// Starts an accelerator, whatever somebody before us left it doing. `registers` are [`REGISTER_BYTES`](crate::REGISTER_BYTES) long.
    ///
    /// A PCIe function answers to memory requests and may send its own; PASIDs and page requests are on.
    ///
    /// # Errors
    ///
    /// As [`AccelError`] says. The device is off then, as far as it obeys.
    pub fn start(platform: Arc<P>, registers: R, form: Form) -> Result<Arc<Self>, AccelError> {
        match registers.read32(ID) {
            ID_VALUE => {}
            u32::MAX => return Err(AccelError::Gone),
            id => return Err(AccelError::NotAnAccelerator { id }),
        }
        let capabilities = Capabilities::decode(registers.read32(CAP), form)?;
        let taken = Lock::<P, _>::new(Taken { queues: 0, lost: 0, open: true });
        let accelerator = Self { platform, registers, form, capabilities, taken };
        accelerator.restart()?;
        Ok(Arc::new(accelerator))
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Which form it has.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Takes the device back to where [`start`](Self::start) left it: every queue is off, jobs under way are dropped. Queues that are open keep their owners,
    /// who close them; those that the device had not let go of when their owners were gone can be opened again.
    ///
    /// # Errors
    ///
    /// [`AccelError::NotReady`], [`AccelError::Gone`].
    pub fn reset(&self) -> Result<(), AccelError> {
        let lost = self.taken.lock().lost;
        self.restart()?;
        // Not those that were lost meanwhile: they may be on.
        self.taken.lock().lost &= !lost;
        Ok(())
    }

    /// Turns the device off. No queue can be opened afterwards.
    ///
    /// # Errors
    ///
    /// [`AccelError::QueuesOpen`]; then nothing has changed. [`AccelError::NotReady`], [`AccelError::Gone`]: it may be called again.
    pub fn shut_down(&self) -> Result<(), AccelError> {
        let mut taken = self.taken.lock();
        if taken.queues != 0 {
            return Err(AccelError::QueuesOpen { queues: taken.queues });
        }
        taken.open = false;
        drop(taken);
        self.control(0)
    }

    fn restart(&self) -> Result<(), AccelError> {
        self.control(0)?;
        let enabled = self.control(CTRL_ENABLE);
        if enabled.is_err() {
            self.registers.write32(CTRL, 0);
        }
        enabled
    }

    fn control(&self, ctrl: u32) -> Result<(), AccelError> {
        self.registers.write32(CTRL, ctrl);
        let look = || (self.registers.read32(CTRL), self.registers.read32(STATUS));
        let done = || match look() {
            (u32::MAX, _) | (_, u32::MAX) => Some(Err(AccelError::Gone)),
            (read, status) => (read & CTRL_ENABLE == ctrl && status & STATUS_READY != 0).then_some(Ok(())),
        };
        wait_for(&*self.platform, READY_LIMIT_NS, done).unwrap_or_else(|elapsed| {
            let (read, status) = look();
            Err(AccelError::NotReady { ctrl, read, status, waited_ns: elapsed.waited_ns })
        })
    }

    pub(crate) fn platform(&self) -> &P {
        &self.platform
    }

    pub(crate) fn registers(&self) -> &R {
        &self.registers
    }

    /// Takes the first queue that is free; an error if there is none, or if there are to be none.
    pub(crate) fn take_queue(&self) -> Result<u8, NoQueue> {
        let mut taken = self.taken.lock();
        if !taken.open {
            return Err(NoQueue::ShutDown);
        }
        let nobodys = |queue: &u8| (taken.queues | taken.lost) & 1 << queue == 0;
        let free = (0..self.capabilities.queue_count).find(nobodys);
        let queue = free.ok_or(NoQueue::AllTaken)?;
        taken.queues |= 1 << queue;
        Ok(queue)
    }

    /// Gives a queue back; if the device did not say that it is `off`, nobody gets it before the device is reset.
    pub(crate) fn give_queue(&self, queue: u8, off: bool) {
        let mut taken = self.taken.lock();
        taken.queues &= !(1 << queue);
        taken.lost |= u16::from(!off) << queue;
    }

    pub(crate) fn state(&self, queue: u8) -> State {
        let state = crate::registers::queue_register(queue, crate::registers::STATE);
        State::decode(self.registers.read32(state))
    }
}

/// Why no queue was taken.
pub(crate) enum NoQueue {
    ShutDown,
    AllTaken,
}

impl<P: Platform, R: Registers> fmt::Debug for Accelerator<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accelerator")
            .field("form", &self.form)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}
