//! Fault records: PEs that are frozen, each reported once until it is unfrozen.
//!
//! That a PE is frozen is on the chip; what was wrong the bridge writes to the PEST in memory. The two are put together.
//!
//! The PEs that are nobody's go on at once: no user would ever let them, and the next who is blocked and tries was not heard of. They have no windows, so that nothing
//! gets through.
//! Observed: Linux 6.x, `pnv_eeh_next_error`, which clears the freeze of a PE that it does not know.
//!
//! Observed: skiboot hw/phb3.c, `phb3_read_phb_status`: bit 0 of PESTA and PESTB is of the chip, the rest of memory.

use portcullis_core::iommu::{FaultReason, FaultRecord};
use portcullis_hal::{Platform, Registers};
use portcullis_spec::ioda2::tables::{
    PEEV_WORDS, PestA, PestB, TABLE_PEEV, TABLE_PESTA, TABLE_PESTB, TRANSACTION_DMA_READ,
    TRANSACTION_DMA_WRITE,
};
use portcullis_types::{Access, Iova, SourceId};

use crate::phb3::Phb3;
use crate::routes::{NOBODY, NOBODYS_MMIO};

const WORDS: usize = PEEV_WORDS as usize;

/// Which PEs were found frozen, by the bits of the PEEV.
#[derive(Debug, Default)]
pub(crate) struct Reported([u64; WORDS]);

impl Reported {
    /// The PE may freeze anew.
    pub(crate) fn forget(&mut self, pe: u8) {
        self.0[usize::from(pe / 64)] &= !bit(pe);
    }
}

/// A PE's bit in its word: PPC bit `pe % 64`.
pub(crate) fn bit(pe: u8) -> u64 {
    1 << (63 - pe % 64)
}

impl<P: Platform, R: Registers> Phb3<P, R> {
    /// Reports each PE that was not frozen at the last look.
    pub(crate) fn drain(&self, to: &mut dyn FnMut(&FaultRecord)) -> usize {
        if self.bridge.is_gone() {
            return 0;
        }
        // From before they are read: what goes on meanwhile is forgotten after this has noted it.
        let mut reported = self.reported.lock();
        let frozen: [u64; WORDS] = self.bridge.ioda_read_all(TABLE_PEEV);
        let before = core::mem::replace(&mut reported.0, frozen);
        drop(reported);
        let fresh = |&pe: &u8| frozen[usize::from(pe / 64)] & !before[usize::from(pe / 64)] & bit(pe) != 0;
        let mut count = 0;
        for pe in (0..=u8::MAX).filter(fresh) {
            let [a, b] = self.particulars(pe);
            let a = a | self.bridge.ioda_read(TABLE_PESTA, pe.into());
            let b = b | self.bridge.ioda_read(TABLE_PESTB, pe.into());
            to(&decode(pe, a, b));
            count += 1;
            if matches!(pe, NOBODY | NOBODYS_MMIO) {
                self.with_routes(|routes| self.wake(routes, pe));
            }
        }
        count
    }
}

impl<P: Platform, R: Registers> Phb3<P, R> {
    /// What memory says of a PE's first error.
    fn particulars(&self, pe: u8) -> [u64; 2] {
        let mem = &*self.bridge.platform;
        mem.read_barrier();
        self.with_routes(|routes| routes.state(mem, pe)).unwrap_or_default()
    }
}

/// What a PE's state says of the first error.
///
/// Observed: skiboot include/phb3-regs.h, `IODA2_PEST0_…`, `PEST_TTYPE_…`.
pub fn decode(pe: u8, a: u64, b: u64) -> FaultRecord {
    let (first, second) = (PestA::from_bits(a), PestB::from_bits(b));
    let reason = if first.access_fault() {
        FaultReason::Permission
    } else if first.page_fault() {
        FaultReason::NotMapped
    } else if first.ioda_error() {
        FaultReason::Configuration
    } else {
        FaultReason::Other(first.transaction().into())
    };
    let access = match first.transaction() {
        TRANSACTION_DMA_READ => Some(Access::READ),
        TRANSACTION_DMA_WRITE => Some(Access::WRITE),
        _ => None,
    };
    FaultRecord {
        source: Some(SourceId(first.rid().into())),
        pasid: None,
        iova: Some(Iova::new(second.address())),
        access,
        reason,
        name: "PE freeze",
        raw: [a, b, pe.into(), 0],
    }
}
