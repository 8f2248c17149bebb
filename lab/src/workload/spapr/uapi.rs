//! spapr_tce containers as a program sees them: request numbers and bytes, typed from the header by hand.
//!
//! Observed: Linux 7.3, include/uapi/linux/vfio.h.
//! Not here: what is the same for every kind of container, mapping too (`vfio::program::uapi`).

use super::super::vfio::program::sys::{Errno, Failed, Sys};
use super::super::vfio::program::uapi::{double, request, word, words32};

const GET_INFO: u64 = 0x3b70;
const UNMAP_DMA: u64 = 0x3b72;
const ENABLE: u64 = 0x3b73;
const DISABLE: u64 = 0x3b74;
const REGISTER_MEMORY: u64 = 0x3b75;
const UNREGISTER_MEMORY: u64 = 0x3b76;
const CREATE: u64 = 0x3b77;
const REMOVE: u64 = 0x3b78;
const EEH_PE_OP: u64 = 0x3b79;

/// Operations on an endpoint.
pub(super) mod eeh {
    pub(in super::super) const ENABLE: u32 = 1;
    pub(in super::super) const UNFREEZE_IO: u32 = 2;
    pub(in super::super) const UNFREEZE_DMA: u32 = 3;
    pub(in super::super) const GET_STATE: u32 = 4;
    pub(in super::super) const RESET_DEACTIVATE: u32 = 5;
    pub(in super::super) const RESET_HOT: u32 = 6;
    pub(in super::super) const RESET_FUNDAMENTAL: u32 = 7;
    pub(in super::super) const CONFIGURE: u32 = 8;
    pub(in super::super) const INJECT: u32 = 9;
}

/// What windows there can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// Flags: 1 for windows that can be made.
    pub(super) flags: u32,
    pub(super) first_32: u32,
    pub(super) bytes_32: u32,
    /// Bits of page sizes.
    pub(super) page_sizes: u64,
    pub(super) windows: u32,
    pub(super) levels: u32,
}

/// What a window is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) page_shift: u32,
    pub(super) bytes: u64,
    pub(super) levels: u32,
}

impl Sys<'_> {
    pub(super) fn window_info(&self, container: u64) -> Result<Info, Failed> {
        let mut bytes = request(&[32, 0, 0, 0], &[0, 0]);
        self.ask(container, GET_INFO, &mut bytes)?.map_err(|errno| errno.on("what windows there can be"))?;
        Ok(Info {
            flags: word(&bytes, 4),
            first_32: word(&bytes, 8),
            bytes_32: word(&bytes, 12),
            page_sizes: double(&bytes, 16),
            windows: word(&bytes, 24),
            levels: word(&bytes, 28),
        })
    }

    /// What version 1 has in place of registering.
    pub(super) fn enable_v1(&self, container: u64) -> Result<u64, Errno> {
        self.ioctl(container, ENABLE, 0)
    }

    /// Its contrary.
    pub(super) fn disable_v1(&self, container: u64) -> Result<u64, Errno> {
        self.ioctl(container, DISABLE, 0)
    }

    pub(super) fn register(&self, container: u64, va: u64, len: u64) -> Result<Result<(), Errno>, Failed> {
        Ok(self.ask(container, REGISTER_MEMORY, &mut request(&[24, 0], &[va, len]))?.map(drop))
    }

    pub(super) fn unregister(&self, container: u64, va: u64, len: u64) -> Result<Result<(), Errno>, Failed> {
        Ok(self.ask(container, UNREGISTER_MEMORY, &mut request(&[24, 0], &[va, len]))?.map(drop))
    }

    /// Makes a window. Answers where it begins.
    pub(super) fn create(&self, container: u64, shape: Shape) -> Result<Result<u64, Errno>, Failed> {
        let mut bytes = request(&[40, 0, shape.page_shift, 0], &[shape.bytes]);
        bytes.extend(words32(&[shape.levels, 0, 0, 0]));
        let made = self.ask(container, CREATE, &mut bytes)?;
        Ok(made.map(|_| double(&bytes, 32)))
    }

    pub(super) fn remove(&self, container: u64, start: u64) -> Result<Result<(), Errno>, Failed> {
        Ok(self.ask(container, REMOVE, &mut request(&[16, 0], &[start]))?.map(drop))
    }

    pub(super) fn unmap_tce(&self, container: u64, iova: u64, len: u64) -> Result<Result<(), Errno>, Failed> {
        Ok(self.ask(container, UNMAP_DMA, &mut request(&[24, 0], &[iova, len]))?.map(drop))
    }

    /// An operation on the endpoints of the container.
    pub(super) fn eeh(&self, container: u64, op: u32) -> Result<Result<u64, Errno>, Failed> {
        let mut bytes = words32(&[40, 0, op]);
        bytes.resize(40, 0);
        self.ask(container, EEH_PE_OP, &mut bytes)
    }

    /// Has an error made in what `function` says, in the window of 32 bits.
    pub(super) fn inject(
        &self,
        container: u64,
        function: u32,
        address: u64,
        mask: u64,
    ) -> Result<Result<u64, Errno>, Failed> {
        let mut bytes = request(&[40, 0, eeh::INJECT, 0, 0, function], &[address, mask]);
        self.ask(container, EEH_PE_OP, &mut bytes)
    }
}
