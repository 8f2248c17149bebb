//! The controller's registers at work: disable, enable, shut down, ring doorbells. Every wait has the controller's own limit.
//!
//! Spec: NVMe Base 2.0, 3.5.1 "Memory-based Controller Initialization (PCIe)", 3.6.1 "Memory-based Controller Shutdown (PCIe)".

use alloc::sync::Arc;

use portcullis_hal::{Platform, Registers, wait_for};

use crate::error::{NvmeError, Unsupported, Wait};
use crate::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_EN, CC_SHN, CC_SHN_NORMAL, CSTS, CSTS_CFS, CSTS_RDY, CSTS_SHST,
    CSTS_SHST_COMPLETE, Capabilities,
};

/// The highest queue id that we use.
const LAST_QUEUE: u16 = 1;

/// A controller. While it is enabled it may reach whatever it was given; dropping it disables it.
pub(crate) struct Controller<P: Platform, R: Registers> {
    platform: Arc<P>,
    registers: R,
    capabilities: Capabilities,
    enabled: bool,
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
        let mut controller = Self { platform, registers, capabilities, enabled: false };
        controller.disable()?;
        Ok(controller)
    }

    /// What the controller can do.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
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
    /// Spec: NVMe Base 2.0, 3.7.2 "Controller Level Reset".
    pub(crate) fn disable(&mut self) -> Result<(), NvmeError> {
        let configuration = self.registers.read32(CC);
        if configuration == u32::MAX {
            return Err(NvmeError::Gone);
        }
        if configuration & CC_EN != 0 {
            self.registers.write32(CC, configuration & !(CC_EN | CC_SHN));
        }
        // One that failed may be reset, so CFS does not end this wait.
        self.wait_whatever_fails(Wait::NotReady, |csts| csts & CSTS_RDY == 0)?;
        self.enabled = false;
        Ok(())
    }

    /// Tells the controller that we are done, and waits until it has put away what it had cached.
    pub(crate) fn shut_down(&mut self) -> Result<(), NvmeError> {
        let configuration = self.registers.read32(CC) & !CC_SHN;
        self.registers.write32(CC, configuration | CC_SHN_NORMAL);
        self.wait(Wait::Shutdown, |csts| csts & CSTS_SHST == CSTS_SHST_COMPLETE)
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
            csts if csts & CSTS_CFS != 0 => NvmeError::Fatal { csts },
            csts => NvmeError::Timeout { waiting_for, csts },
        }
    }

    fn wait(&self, waiting_for: Wait, done: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        let failed = |csts: u32| csts & CSTS_CFS != 0;
        self.poll(waiting_for, |csts| match csts {
            csts if failed(csts) => Some(Err(NvmeError::Fatal { csts })),
            csts => done(csts).then_some(Ok(())),
        })
    }

    fn wait_whatever_fails(&self, waiting_for: Wait, done: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        self.poll(waiting_for, |csts| done(csts).then_some(Ok(())))
    }

    fn poll(
        &self,
        waiting_for: Wait,
        judge: impl Fn(u32) -> Option<Result<(), NvmeError>>,
    ) -> Result<(), NvmeError> {
        let look = || match self.registers.read32(CSTS) {
            u32::MAX => Some(Err(NvmeError::Gone)),
            csts => judge(csts),
        };
        wait_for(&*self.platform, self.capabilities.ready_limit_ns, look)
            .unwrap_or_else(|_| Err(self.silence(waiting_for)))
    }
}

impl<P: Platform, R: Registers> Drop for Controller<P, R> {
    fn drop(&mut self) {
        if self.enabled {
            // On the way out of an error. A controller that does not stop is still behind its IOMMU, which
            // forgets its buffers next.
            let _ = self.disable();
        }
    }
}
