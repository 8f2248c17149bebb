//! The controller's registers at work: disable, enable, shut down, ring doorbells. Every wait has the controller's own limit: for being ready or not `CAP.TO`, for
//! a shutdown what it says of itself.
//!
//! Spec: NVMe Base 2.0, 3.5.1 "Memory-based Controller Initialization (PCIe)", 3.6.1 "Memory-based Controller Shutdown (PCIe)".

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use portcullis_hal::{Platform, Registers, wait_for};

use crate::error::{NvmeError, Unsupported, Wait};
use crate::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_EN, CC_SHN, CC_SHN_NORMAL, CSTS, CSTS_CFS, CSTS_RDY, CSTS_SHST,
    CSTS_SHST_COMPLETE, Capabilities,
};

/// The highest queue id that we use.
const LAST_QUEUE: u16 = 1;

/// The least and the most that a shutdown may take, whatever the controller says.
///
/// Spec: NVMe Base 2.0, 3.6.1 "Memory-based Controller Shutdown (PCIe)": where it says nothing, a second at least.
/// Choice: a minute is enough for who may say anything.
const SHUTDOWN_NS: (u64, u64) = (1_000_000_000, 60_000_000_000);

/// A controller. While it is enabled it may reach whatever it was given; dropping it disables it.
pub(crate) struct Controller<P: Platform, R: Registers> {
    platform: Arc<P>,
    registers: R,
    capabilities: Capabilities,
    enabled: bool,
    stuck: Stuck,
}

/// Whether a controller was told to stop and did not: what it was given it may reach still, unless an IOMMU keeps it from that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stuck(Arc<AtomicBool>);

impl Stuck {
    /// Whether it is so now.
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Where the admin queues are for the device, and how many entries both have.
pub(crate) struct AdminQueues {
    pub(crate) submission: u64,
    pub(crate) completion: u64,
    pub(crate) entries: u16,
}

impl<P: Platform, R: Registers> Controller<P, R> {
    /// Reads what the controller can do, and disables it if somebody before us left it enabled.
    pub(crate) fn reset(platform: Arc<P>, registers: R, register_bytes: usize) -> Result<Self, NvmeError> {
        let capabilities = Capabilities::decode(registers.read64(CAP))?;
        let end = capabilities.head_doorbell(LAST_QUEUE) + 4;
        if end > register_bytes {
            return Err(Unsupported::Doorbells { end, register_bytes }.into());
        }
        let stuck = Stuck::default();
        let mut controller = Self { platform, registers, capabilities, enabled: false, stuck };
        controller.disable()?;
        Ok(controller)
    }

    /// What the controller can do.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether it was told to stop and did not, for whoever gives it memory.
    pub(crate) fn stuck(&self) -> &Stuck {
        &self.stuck
    }

    /// The platform: barriers and clock.
    pub(crate) fn platform(&self) -> &P {
        &self.platform
    }

    /// Tells the controller where its admin queues are, enables it, and waits until it is ready.
    pub(crate) fn enable(&mut self, queues: &AdminQueues) -> Result<(), NvmeError> {
        let last = u32::from(queues.entries - 1);
        self.registers.write32(AQA, last << 16 | last);
        self.registers.write64(ASQ, queues.submission);
        self.registers.write64(ACQ, queues.completion);
        // The completion queue must be seen zeroed: its phase bits tell entries from what lay there before.
        self.platform.write_barrier();
        self.enabled = true;
        self.registers.write32(CC, self.capabilities.configuration() | CC_EN);
        self.wait(Wait::Ready, |csts| csts & CSTS_RDY != 0)
    }

    /// Disables the controller and waits until it has stopped. It then holds no queue and does no DMA.
    ///
    /// Spec: NVMe Base 2.0, 3.7.2 "Controller Level Reset"; 3.1.3.5 "CC – Controller Configuration", EN: cleared while RDY is 0, what happens is undefined. So one that
    /// is on its way up, as firmware may leave it, is waited for first.
    pub(crate) fn disable(&mut self) -> Result<(), NvmeError> {
        let stopped = self.try_to_disable();
        // One that is gone reaches nothing.
        self.stuck.0.store(!matches!(stopped, Ok(()) | Err(NvmeError::Gone)), Relaxed);
        self.enabled &= stopped.is_err();
        stopped
    }

    fn try_to_disable(&self) -> Result<(), NvmeError> {
        let configuration = self.configuration()?;
        if configuration & CC_EN != 0 {
            // One that fails, or never gets ready, is disabled all the same: there is nothing else to be done with it. One that was shut down has been there.
            let _ = self.wait(Wait::Ready, |csts| csts & (CSTS_RDY | CSTS_SHST) != 0);
            self.registers.write32(CC, configuration & !(CC_EN | CC_SHN));
        }
        // One that failed may be reset, so CFS does not end this wait.
        self.wait_whatever_fails(Wait::NotReady, |csts| csts & CSTS_RDY == 0)
    }

    /// Tells the controller that we are done, and waits until it has put away what it had cached. `says_ns` is how long that takes by its own word, if it says.
    pub(crate) fn shut_down(&mut self, says_ns: Option<u64>) -> Result<(), NvmeError> {
        let configuration = self.configuration()? & !CC_SHN;
        self.registers.write32(CC, configuration | CC_SHN_NORMAL);
        let (least, most) = SHUTDOWN_NS;
        let limit_ns = says_ns.unwrap_or(0).clamp(least, most).max(self.capabilities.ready_limit_ns);
        let done = |csts: u32| csts & CSTS_SHST == CSTS_SHST_COMPLETE;
        self.poll(Wait::Shutdown, limit_ns, |csts| end_or_failure(csts, done))
    }

    /// `CC` as it is.
    fn configuration(&self) -> Result<u32, NvmeError> {
        match self.registers.read32(CC) {
            u32::MAX => Err(NvmeError::Gone),
            configuration => Ok(configuration),
        }
    }

    /// Tells the controller how far submission queue `queue` is filled. What was written before is visible to it first.
    pub(crate) fn ring_tail(&self, queue: u16, tail: u16) {
        self.platform.write_barrier();
        self.registers.write32(self.capabilities.tail_doorbell(queue), tail.into());
    }

    /// Tells the controller how far completion queue `queue` has been read.
    pub(crate) fn ring_head(&self, queue: u16, head: u16) {
        self.registers.write32(self.capabilities.head_doorbell(queue), head.into());
    }

    /// Why nothing came that was waited for: the controller is gone, has failed, or just did not answer.
    pub(crate) fn silence(&self, waiting_for: Wait) -> NvmeError {
        match self.registers.read32(CSTS) {
            u32::MAX => NvmeError::Gone,
            // Of one that was told to stop, that it did not says more.
            csts if csts & CSTS_CFS != 0 && waiting_for != Wait::NotReady => NvmeError::Fatal { csts },
            csts => NvmeError::Timeout { waiting_for, csts },
        }
    }

    fn wait(&self, waiting_for: Wait, done: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        self.poll(waiting_for, self.capabilities.ready_limit_ns, |csts| end_or_failure(csts, &done))
    }

    fn wait_whatever_fails(&self, waiting_for: Wait, done: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        self.poll(waiting_for, self.capabilities.ready_limit_ns, |csts| done(csts).then_some(Ok(())))
    }

    fn poll(
        &self,
        waiting_for: Wait,
        limit_ns: u64,
        judge: impl Fn(u32) -> Option<Result<(), NvmeError>>,
    ) -> Result<(), NvmeError> {
        let look = || match self.registers.read32(CSTS) {
            u32::MAX => Some(Err(NvmeError::Gone)),
            csts => judge(csts),
        };
        wait_for(&*self.platform, limit_ns, look).unwrap_or_else(|_| Err(self.silence(waiting_for)))
    }
}

/// The end of a wait: what is waited for, or that the controller failed.
fn end_or_failure(csts: u32, done: impl Fn(u32) -> bool) -> Option<Result<(), NvmeError>> {
    if csts & CSTS_CFS != 0 {
        return Some(Err(NvmeError::Fatal { csts }));
    }
    done(csts).then_some(Ok(()))
}

impl<P: Platform, R: Registers> Drop for Controller<P, R> {
    fn drop(&mut self) {
        if self.enabled {
            // On the way out of an error. A controller that does not stop is still behind its IOMMU, which
            // forgets its buffers next; where addresses are physical, they are kept.
            let _ = self.disable();
        }
    }
}
