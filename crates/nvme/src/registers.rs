//! Where the controller's registers lie, and what their bits say.
//!
//! Spec: NVMe Base 2.0, 3.1.3 "Controller Properties"; doorbells NVMe over PCIe Transport 1.0, 3.1.2 "Submission Queue y Tail
//! Doorbell" and its neighbour.

use crate::error::{BadIdentity, NvmeError, Unsupported};

/// Controller capabilities, 64 bits.
pub(crate) const CAP: usize = 0x00;
/// Controller configuration.
pub(crate) const CC: usize = 0x14;
/// Controller status.
pub(crate) const CSTS: usize = 0x1c;
/// Admin queue attributes: sizes, both counted from 0.
pub(crate) const AQA: usize = 0x24;
/// Admin submission queue base, 64 bits.
pub(crate) const ASQ: usize = 0x28;
/// Admin completion queue base, 64 bits.
pub(crate) const ACQ: usize = 0x30;
/// The first doorbell.
const DOORBELLS: usize = 0x1000;

/// `CC.EN`.
pub(crate) const CC_EN: u32 = 1 << 0;
/// `CC.SHN`: 01b asks for a normal shutdown.
pub(crate) const CC_SHN_NORMAL: u32 = 1 << 14;
/// `CC.SHN`, the field.
pub(crate) const CC_SHN: u32 = 3 << 14;
/// `CSTS.RDY`.
pub(crate) const CSTS_RDY: u32 = 1 << 0;
/// `CSTS.CFS`: the controller failed.
pub(crate) const CSTS_CFS: u32 = 1 << 1;
/// `CSTS.SHST`, the field.
pub(crate) const CSTS_SHST: u32 = 3 << 2;
/// `CSTS.SHST`: shutdown is complete.
pub(crate) const CSTS_SHST_COMPLETE: u32 = 2 << 2;

/// The smallest page that the specification knows, as a power of two: `MPSMIN`, `MPSMAX` and `MPS` count from here.
const SMALLEST_PAGE_LG2: u8 = 12;
/// The largest page that the driver allocates lists of.
const LARGEST_PAGE_LG2: u8 = 16;

/// What `CAP` says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// The most entries of an I/O queue, at least 2.
    pub(crate) max_entries: u32,
    /// How long enabling and disabling may take, in nanoseconds.
    pub(crate) ready_limit_ns: u64,
    /// The page size that we use, as a power of two: the controller's smallest.
    pub(crate) page_lg2: u8,
    /// Bytes from one doorbell to the next.
    doorbell_stride: usize,
}

impl Capabilities {
    /// Reads `CAP`.
    ///
    /// # Errors
    ///
    /// All ones, or what the driver cannot work with.
    pub(crate) fn decode(cap: u64) -> Result<Self, NvmeError> {
        if cap == u64::MAX {
            return Err(NvmeError::Gone);
        }
        let field = |low: u32, bits: u32| cap >> low & ((1 << bits) - 1);
        let page_lg2 = |low| SMALLEST_PAGE_LG2 + u8::try_from(field(low, 4)).unwrap_or(0xf);
        let (min, max) = (page_lg2(48), page_lg2(52));
        if field(37, 1) == 0 {
            return Err(Unsupported::NvmCommandSet { cap }.into());
        }
        if min > max {
            return Err(BadIdentity::PageSizes { cap }.into());
        }
        if min > LARGEST_PAGE_LG2 {
            return Err(Unsupported::PageSize { min_lg2: min }.into());
        }
        if field(0, 16) == 0 {
            return Err(BadIdentity::QueueEntries.into());
        }
        Ok(Self {
            max_entries: u32::try_from(field(0, 16)).unwrap_or(0xffff) + 1,
            // A field of 0 still means some time: the unit.
            ready_limit_ns: field(24, 8).max(1) * 500_000_000,
            page_lg2: min,
            doorbell_stride: 4 << field(32, 4),
        })
    }

    /// A page in bytes.
    pub(crate) const fn page_bytes(&self) -> u64 {
        1 << self.page_lg2
    }

    /// The value of `CC` for this driver, without `EN`: the NVM command set, round robin, our page, entries of 64 and 16 bytes.
    pub(crate) const fn configuration(&self) -> u32 {
        (4 << 20) | (6 << 16) | ((self.page_lg2 - SMALLEST_PAGE_LG2) as u32) << 7
    }

    /// Where the tail doorbell of submission queue `queue` is.
    pub(crate) const fn tail_doorbell(&self, queue: u16) -> usize {
        DOORBELLS + 2 * queue as usize * self.doorbell_stride
    }

    /// Where the head doorbell of completion queue `queue` is.
    pub(crate) const fn head_doorbell(&self, queue: u16) -> usize {
        self.tail_doorbell(queue) + self.doorbell_stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MQES 63, CQR, TO 15 (7.5 s), NVM command set, MPSMIN 0, MPSMAX 4: written by hand from the table of `CAP`.
    const USUAL: u64 = 0x0040_0020_0f01_003f;

    #[test]
    fn cap_says_queue_entries_time_and_pages() {
        let cap = Capabilities::decode(USUAL).unwrap();
        assert_eq!((cap.max_entries, cap.ready_limit_ns, cap.page_lg2), (64, 7_500_000_000, 12));
        assert_eq!((cap.tail_doorbell(1), cap.head_doorbell(1)), (0x1008, 0x100c));
        assert_eq!(cap.configuration(), 0x0046_0000);
    }

    #[test]
    fn a_doorbell_stride_spreads_the_doorbells() {
        let cap = Capabilities::decode(USUAL | 2 << 32).unwrap();
        assert_eq!(
            (cap.head_doorbell(0), cap.tail_doorbell(1), cap.head_doorbell(1)),
            (0x1010, 0x1020, 0x1030)
        );
    }

    #[test]
    fn a_larger_smallest_page_is_used_and_configured() {
        let cap = Capabilities::decode(USUAL | 4 << 48).unwrap();
        assert_eq!((cap.page_lg2, cap.configuration()), (16, 0x0046_0200));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |cap| Capabilities::decode(cap).unwrap_err();
        assert_eq!(refused(u64::MAX), NvmeError::Gone);
        assert_eq!(refused(USUAL & !0xffff), NvmeError::BadIdentity(BadIdentity::QueueEntries));
        let cap = USUAL | 5 << 48;
        assert_eq!(refused(cap), NvmeError::BadIdentity(BadIdentity::PageSizes { cap }));
        let cap = USUAL & !(1 << 37);
        assert_eq!(refused(cap), NvmeError::Unsupported(Unsupported::NvmCommandSet { cap }));
        let cap = USUAL | 5 << 48 | 1 << 52;
        assert_eq!(refused(cap), NvmeError::Unsupported(Unsupported::PageSize { min_lg2: 17 }));
    }
}
