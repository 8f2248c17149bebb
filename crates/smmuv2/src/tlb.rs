//! TLB maintenance: writing invalidations to registers, and waiting until they are done.
//!
//! An invalidation is *posted* by a write; it is done when a sync that was begun after it has ended. A bank's sync is about what was posted in that bank
//! alone, the global one about everything. The book gives each bank one place to sync from, so one CPU at a time posts and syncs there.
//!
//! A sync that does not end within the limit proves nothing: who waited is told, and whoever handles the SMMU's errors learns it once.
//!
//! Spec: SMMUv2 D.c, 5.4.2 "TLB maintenance operation processing", 5.4.3 "Thread safety".
//! Not here: which invalidations a range needs (`invalidate`).

use core::sync::atomic::Ordering;

use portcullis_core::iommu::SyncError;
use portcullis_hal::{Platform, Registers, wait_for};
use portcullis_spec::smmuv2::bank::{
    TLBIALL, TLBIASID, TLBIIPAS2, TLBIIPAS2L, TLBIVA, TLBIVAL, TLBSTATUS, TLBSYNC, TlbStatus, TlbiIpa, TlbiVa,
};
use portcullis_spec::smmuv2::global::{TLBGSTATUS, TLBGSYNC, TLBIALLH, TLBIALLNSNH, TLBIVMID, TlbGstatus};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Iova, mutant};

use crate::bank::{Role, asid};
use crate::counters::Operation;
use crate::hardware::Hardware;

impl<P: Platform, R: Registers> Hardware<P, R> {
    /// Posts what `post` posts in `bank`, and waits until it is done.
    pub(crate) fn sync_bank(&self, bank: usize, post: impl FnOnce()) -> Result<(), SyncError> {
        if self.is_off() {
            return Ok(());
        }
        let _one_at_a_time = self.bank_sync[bank].lock();
        post();
        self.count(Operation::BankSync);
        self.write_bank(bank, TLBSYNC, 0);
        self.wait_idle("SMMU_CBn_TLBSTATUS to be idle", || {
            let status = self.read_bank(bank, TLBSTATUS);
            (status, TlbStatus::from_bits(status).sactive())
        })
    }

    /// Posts what `post` posts anywhere, and waits until it is done.
    pub(crate) fn sync_global(&self, post: impl FnOnce()) -> Result<(), SyncError> {
        if self.is_off() {
            return Ok(());
        }
        let _one_at_a_time = self.global_sync.lock();
        post();
        self.count(Operation::GlobalSync);
        self.registers.write32(TLBGSYNC, 0);
        self.wait_idle("SMMU_TLBGSTATUS to be idle", || {
            let status = self.registers.read32(TLBGSTATUS);
            (status, TlbGstatus::from_bits(status).gsactive())
        })
    }

    fn wait_idle(
        &self,
        waiting_for: &'static str,
        status: impl Fn() -> (u32, bool),
    ) -> Result<(), SyncError> {
        if mutant!("smmuv2-sync-not-waited-for") {
            return Ok(());
        }
        let mut last = 0;
        let start_ns = self.platform.now_ns();
        let waited = wait_for(&*self.platform, self.config.wait_limit_ns, || {
            let (word, active) = status();
            last = word;
            (!active).then_some(())
        });
        self.platform.read_barrier();
        if self.platform.listening() {
            self.platform.event(&Event {
                source: "smmuv2",
                name: "sync",
                fields: &[
                    ("outcome", Value::Str(if waited.is_ok() { "complete" } else { "failed" })),
                    ("ns", Value::Dec(self.platform.now_ns().saturating_sub(start_ns))),
                ],
            });
        }
        match waited {
            Ok(()) => Ok(()),
            // Turned off while we waited: what was to be forgotten is.
            Err(_) if self.is_off() => Ok(()),
            Err(_) => {
                self.hung.store(true, Ordering::Release);
                Err(SyncError::Timeout { waiting_for, last: last.into() })
            }
        }
    }

    /// Makes the hardware forget everything that bank `bank` of a domain put into TLBs, and waits until it has. Of stage 2, that includes what came from it and from guests'
    /// tables before it.
    pub(crate) fn forget_bank(&self, bank: usize) -> Result<(), SyncError> {
        let Some(role) = self.banks.lock().role(bank) else { return self.forget_everything() };
        match role {
            Role::Stage1 => self.sync_bank(bank, || {
                self.count(Operation::TlbiAsid);
                self.write_bank(bank, TLBIASID, asid(bank).into());
            }),
            Role::Stage2 => {
                let vmid = self.vmid(bank, role);
                let post = || {
                    self.count(Operation::TlbiVmid);
                    self.registers.write32(TLBIVMID, vmid.into());
                };
                if mutant!("smmuv2-vmid-forgotten-by-the-wrong-sync") {
                    return self.sync_bank(bank, post);
                }
                // It is no operation of the bank's: the bank's sync would not wait for it.
                self.sync_global(post)
            }
            // Not by its ASID: a guest's entries may be global, and then they have none.
            Role::Nested { .. } => self.sync_bank(bank, || {
                self.count(Operation::TlbiStage1);
                self.write_bank(bank, TLBIALL, 0);
            }),
        }
    }

    /// Makes the hardware forget everything that anybody put into TLBs, and waits until it has.
    pub(crate) fn forget_everything(&self) -> Result<(), SyncError> {
        self.sync_global(|| {
            self.count(Operation::TlbiAll);
            self.registers.write32(TLBIALLH, 0);
            self.registers.write32(TLBIALLNSNH, 0);
        })
    }

    /// Posts the invalidation of one address of a domain.
    pub(crate) fn post_address(&self, bank: usize, stage2: bool, iova: Iova, leaf: bool) {
        let page = iova.get() >> 12;
        let (register, operation) = match (stage2, leaf) {
            (false, false) => (TLBIVA, Operation::TlbiVa),
            (false, true) => (TLBIVAL, Operation::TlbiVal),
            (true, false) => (TLBIIPAS2, Operation::TlbiIpas2),
            (true, true) => (TLBIIPAS2L, Operation::TlbiIpas2l),
        };
        let word = if stage2 {
            TlbiIpa::new().with_page(page).into_bits()
        } else {
            let asid = if mutant!("smmuv2-address-forgotten-of-asid-0") { 0 } else { asid(bank) };
            TlbiVa::new().with_page(page).with_asid(asid.into()).into_bits()
        };
        self.count(operation);
        self.write_bank64(bank, register, word);
    }
}
