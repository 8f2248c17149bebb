//! An SMMUv2's registers of TLB maintenance: whole flushes are counted, and syncs held back.
//!
//! A sync that is held back was begun, as far as its driver can see, and has not ended: its status says that it is active.
//!
//! Spec: SMMUv2 D.c, 9.6.24 "SMMU_sTLBGSTATUS", 9.6.25 "SMMU_sTLBGSYNC", 16.5.36 "SMMU_CBn_TLBSTATUS", 16.5.37 "SMMU_CBn_TLBSYNC".

use model_bus::{Bus, Width};
use portcullis::types::Pa;

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

/// What is held back of one SMMU: registers of syncs, by their offsets.
#[derive(Debug)]
pub(crate) struct SyncTap {
    registers: u64,
    page: u64,
    banks_at: u64,
    held: Hold<Vec<u64>>,
}

/// Where a register is: in the global space, or in some bank.
enum Register {
    Global(u64),
    Bank(u64),
}

impl SyncTap {
    /// Pages of registers have `page` bytes; context banks begin at `banks_at`.
    pub(crate) fn new(registers: u64, page: u64, banks_at: u64) -> Self {
        Self { registers, page, banks_at, held: Hold::default() }
    }

    fn register(&self, offset: usize) -> Register {
        let offset = offset as u64;
        if offset < self.banks_at { Register::Global(offset) } else { Register::Bank(offset % self.page) }
    }

    fn pass(&self, bus: &Bus, syncs: Option<Vec<u64>>) {
        for offset in syncs.into_iter().flatten() {
            let _there = bus.write_register(Pa::new(self.registers + offset), Width::Bits32, 0);
        }
    }
}

impl Tap for SyncTap {
    fn written(&self, _: &Bus, faults: &Faults, written: Written) -> Taken {
        let Written { offset, value } = written;
        let (flushes, syncs) = match self.register(offset) {
            Register::Global(at) => (GLOBAL_FLUSHES.contains(&at), at == GLOBAL_SYNC),
            Register::Bank(at) => (BANK_FLUSHES.contains(&at), at == BANK_SYNC),
        };
        if !syncs {
            return Taken { passes: Some(value), flushes };
        }
        let passes = self.held.hold(faults, vec![offset as u64], |held, more| held.extend(more));
        Taken { passes: passes.map(|_| value), flushes }
    }

    fn answered(&self, offset: usize, value: u64) -> u64 {
        let is_status = match self.register(offset) {
            Register::Global(at) => at == GLOBAL_STATUS,
            Register::Bank(at) => at == BANK_STATUS,
        };
        if is_status && self.is_held() { value | ACTIVE } else { value }
    }

    fn waited(&self, bus: &Bus) {
        let syncs = self.held.waited();
        self.pass(bus, syncs);
    }

    fn release(&self, bus: &Bus) {
        let syncs = self.held.release();
        self.pass(bus, syncs);
    }

    fn is_held(&self) -> bool {
        self.held.is_held()
    }
}
