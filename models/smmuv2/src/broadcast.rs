//! TLB maintenance that CPUs broadcast, and that an SMMU with IDR0.BTM takes part in.
//!
//! [`Smmu::broadcast`] takes an operation in; it may take effect at once or later. When [`Smmu::broadcast_sync`] returns (the DSB of the CPU),
//! all that were taken in have taken effect, and no access is under way that began before. A synchronization by register completes no broadcast.
//!
//! It is heard only while CR0.PTM is 0; with CR0.VMIDPNE, not if it names a VMID. Choice: ASIDPNE is as if it were 0, which the book allows.
//!
//! Spec: SMMUv2 D.c, 5.3 "Broadcast TLB maintenance operations", 9.6.3 "SMMU_sCR0", PTM, VMIDPNE, 16.5.29 "SMMU_CBn_SCTLR", ASIDPNE.

use crate::maintenance::{Issuer, Scope};
use crate::registers::cr0;
use crate::smmu::Smmu;

/// One broadcast operation, of the Non-secure state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// Every VMID, both stages: ALLE1.
    EveryVmid,
    /// All of EL2: ALLE2.
    Hypervisor,
    /// Stages 1 and 2 of a VMID: VMALLS12E1.
    BothStages {
        /// The VMID.
        vmid: u16,
    },
    /// Stage 1 of a VMID: VMALLE1.
    All {
        /// The VMID; 0 where the CPU has no EL2, or uses no stage 2.
        vmid: u16,
    },
    /// One address space, without its global translations: ASIDE1.
    Asid {
        /// The VMID.
        vmid: u16,
        /// The ASID.
        asid: u16,
    },
    /// Addresses, of one address space (VAE1, VALE1) or of all (VAAE1, VAALE1).
    Address {
        /// The VMID.
        vmid: u16,
        /// The ASID; none for all.
        asid: Option<u16>,
        /// The first address.
        first: u64,
        /// The last, included.
        last: u64,
        /// Walk entries may stay.
        last_level_only: bool,
    },
    /// Intermediate addresses at stage 2: IPAS2E1, IPAS2LE1.
    Stage2Address {
        /// The VMID.
        vmid: u16,
        /// The first address.
        first: u64,
        /// The last, included.
        last: u64,
        /// Walk entries may stay.
        last_level_only: bool,
    },
}

impl Broadcast {
    fn scope(self) -> Scope {
        match self {
            Self::EveryVmid => Scope::AllNonHypervisor,
            Self::Hypervisor => Scope::AllHypervisor,
            Self::BothStages { vmid } => Scope::Vmid(vmid),
            Self::All { vmid } => Scope::VmidStage1(vmid),
            Self::Asid { vmid, asid } => Scope::Asid { vmid, asid },
            Self::Address { vmid, asid, first, last, last_level_only } => {
                Scope::Address { vmid, asid, first, last, leaf: last_level_only }
            }
            Self::Stage2Address { vmid, first, last, last_level_only } => {
                Scope::Ipa { vmid, first, last, leaf: last_level_only }
            }
        }
    }

    /// "A broadcast SMMU_TLBIALLNSNH must affect all TLB entries": it names none.
    fn names_vmid(self) -> bool {
        !matches!(self, Self::EveryVmid | Self::Hypervisor)
    }
}

impl Smmu {
    /// Takes a broadcast operation in. It takes effect at once or later, up to the next [`broadcast_sync`](Self::broadcast_sync).
    pub fn broadcast(&self, broadcast: &Broadcast) {
        let Some(mut state) = self.lock() else { return };
        let deaf = !self.config().broadcast
            || state.registers.is_on(cr0::PTM)
            || (broadcast.names_vmid() && state.registers.is_on(cr0::VMIDPNE));
        if !deaf {
            state.counters.broadcasts += 1;
            state.post("broadcast", broadcast.scope(), Issuer::Broadcast, self.around());
        }
    }

    /// On return, all operations taken in before have taken effect, and the accesses that began before are done, but for those that this very
    /// thread is in the middle of, and those of threads that are themselves in the middle of one and wait here.
    pub fn broadcast_sync(&self) {
        let Some(mut state) = self.lock() else { return };
        state.obey_broadcasts();
        let before = self.flights.next();
        drop(state);
        self.flights.wait(before);
    }
}
