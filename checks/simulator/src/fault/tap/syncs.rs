//! An SMMUv2's registers of TLB maintenance: whole flushes are counted, and syncs held back.
//!
//! A sync that is held back was begun, as far as its driver can see, and has not ended: its status says that it is active.
//!
//! Spec: SMMUv2 D.c, 9.6.24 "SMMU_sTLBGSTATUS", 9.6.25 "SMMU_sTLBGSYNC", 16.5.36 "SMMU_CBn_TLBSTATUS", 16.5.37 "SMMU_CBn_TLBSYNC".

use model_bus::{Bus, Width};

use super::{Faults, Hold, Taken, Tap, Written};

/// SMMU_TLBIVMID, SMMU_TLBIALLNSNH, SMMU_TLBIALLH.
const GLOBAL_FLUSHES: [u64; 3] = [0x64, 0x68, 0x6c];
/// SMMU_sTLBGSYNC.
const GLOBAL_SYNC: u64 = 0x70;
/// SMMU_sTLBGSTATUS.
const GLOBAL_STATUS: u64 = 0x74;
/// SMMU_CBn_TLBIASID, SMMU_CBn_TLBIALL.
const BANK_FLUSHES: [u64; 2] = [0x610, 0x618];
/// SMMU_CBn_TLBSYNC.
const BANK_SYNC: u64 = 0x7f0;
/// SMMU_CBn_TLBSTATUS.
const BANK_STATUS: u64 = 0x7f4;
/// SACTIVE, GSACTIVE.
const ACTIVE: u64 = 1;

/// What is held back of one SMMU: writes of its registers of syncs.
#[derive(Debug)]
pub(crate) struct SyncTap {
    page: u64,
    banks_at: u64,
    held: Hold,
}

/// Where a register is: in the global space, or in some bank.
enum Register {
    Global(u64),
    Bank(u64),
}

impl SyncTap {
    /// Pages of registers have `page` bytes; context banks begin at `banks_at`.
    pub(crate) fn new(registers: u64, page: u64, banks_at: u64) -> Self {
        Self { page, banks_at, held: Hold::new(registers, Width::Bits32) }
    }

    fn register(&self, offset: usize) -> Register {
        let offset = offset as u64;
        if offset < self.banks_at { Register::Global(offset) } else { Register::Bank(offset % self.page) }
    }
}

impl Tap for SyncTap {
    fn written(&self, _: &Bus, faults: &Faults, written: Written) -> Taken {
        let Written { offset, value } = written;
        let (flushes, syncs) = match self.register(offset) {
            Register::Global(at) => (GLOBAL_FLUSHES.contains(&at), at == GLOBAL_SYNC),
            Register::Bank(at) => (BANK_FLUSHES.contains(&at), at == BANK_SYNC),
        };
        let passes = if syncs { self.held.hold(faults, written) } else { Some(value) };
        Taken { passes, flushes }
    }

    fn answered(&self, offset: usize, value: u64) -> u64 {
        let is_status = match self.register(offset) {
            Register::Global(at) => at == GLOBAL_STATUS,
            Register::Bank(at) => at == BANK_STATUS,
        };
        if is_status && self.held.is_held() { value | ACTIVE } else { value }
    }

    fn held(&self) -> &Hold {
        &self.held
    }
}
