//! TLB maintenance that CPUs broadcast, and that an SMMU with IDR0.BTM takes part in.
//!
//! [`Smmu::broadcast`] takes an operation in; it may take effect at once or later. When [`Smmu::broadcast_sync`] returns (the DSB of the CPU),
//! all that were taken in have taken effect, and no access is under way that began before. A CMD_SYNC completes no broadcast.
//!
//! * It counts only while the SMMU participates: CR2.PTM was 0 when SMMUEN was last set. Before that, and with PTM 1, nothing is heard.
//! * Operations that name an ASID leave what was filled through a CD with ASET=1. Those of EL2, that has none, leave it if they name an address.
//! * An operation of EL2 leaves translations of EL2-E2H, and the other way round: the regime is the CPU's, whatever CR2.E2H says.
//! * ATCs hear nothing.
//!
//! Choice: as with commands, what may be left is left; only walk entries go whatever their ASET.
//!
//! Spec: SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance", 3.17.5 "EL2 ASIDs and TLB maintenance in EL2 Host
//! (E2H) mode", 6.3.12 "SMMU_CR2", PTM.
//! Not here: what a command removes (`scope`), waiting for accesses (`model_bus::Flights`).

use portcullis_types::trace::Value;

use crate::command::{Invalidate, Span};
use crate::scope::Targets;
use crate::smmu::Smmu;
use crate::state::{Around, State};

/// Whose translations a broadcast is about: the regime of the CPU that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BroadcastRegime {
    /// EL1 of the Non-secure state, of the virtual machine with this VMID; 0 where the CPU has no EL2, or uses no stage 2.
    El1 {
        /// The VMID.
        vmid: u16,
    },
    /// EL2 of the Non-secure state, without E2H: no ASIDs.
    El2,
    /// EL2 of the Non-secure state with E2H: a host kernel and its processes.
    El2Host,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BroadcastScope {
    /// All of stage 1: VMALLE1, ALLE2.
    All,
    /// Stages 1 and 2 of the VMID: VMALLS12E1. Only of EL1.
    BothStages,
    /// Stages 1 and 2 of every VMID: ALLE1. Only of EL1.
    EveryVmid,
    /// One address space, without its global translations: ASIDE1. Not of EL2.
    Asid {
        /// The ASID.
        asid: u16,
    },
    /// Addresses, of one address space (VAE1, VALE1, RVAE1, RVALE1) or of all (VAAE1 and so on). Of EL2 there is only one.
    Address {
        /// The ASID; none for all.
        asid: Option<u16>,
        /// The first address.
        first: u64,
        /// The last, included.
        last: u64,
        /// Walk entries may stay.
        last_level_only: bool,
    },
    /// Intermediate addresses at stage 2: IPAS2E1, IPAS2LE1, RIPAS2E1. Only of EL1.
    Stage2Address {
        /// The first address.
        first: u64,
        /// The last, included.
        last: u64,
        /// Walk entries may stay.
        last_level_only: bool,
    },
}

/// One broadcast operation, of the Non-secure state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// Whose translations.
    pub regime: BroadcastRegime,
    /// Which of them.
    pub scope: BroadcastScope,
}

impl Broadcast {
    /// The command with the same scope, and whether it means EL2-E2H. None if the regime has no such operation: "silently ignored".
    fn meaning(&self) -> Option<(Invalidate, bool)> {
        use BroadcastRegime::{El1, El2, El2Host};
        let span = |first: u64, last: u64, leaf| Span {
            first: first & !0xfff,
            last: last | 0xfff,
            leaf,
            granule: None,
            level: None,
            misaligned: false,
        };
        let what = match (self.scope, self.regime) {
            (BroadcastScope::All, El1 { vmid }) => Invalidate::Stage1All { vmid },
            (BroadcastScope::All, El2 | El2Host) => Invalidate::El2All,
            (BroadcastScope::BothStages, El1 { vmid }) => Invalidate::BothStages { vmid },
            (BroadcastScope::EveryVmid, El1 { .. }) => Invalidate::EverythingButEl2,
            (BroadcastScope::Asid { asid }, El1 { vmid }) => Invalidate::Asid { vmid, asid },
            (BroadcastScope::Asid { asid }, El2Host) => Invalidate::El2Asid { asid },
            (BroadcastScope::Address { first, last, .. }, _) if first > last => return None,
            (BroadcastScope::Address { asid, first, last, last_level_only }, El1 { vmid }) => {
                Invalidate::Address { vmid, asid, span: span(first, last, last_level_only) }
            }
            (BroadcastScope::Address { asid, first, last, last_level_only }, El2 | El2Host) => {
                Invalidate::El2Address { asid, span: span(first, last, last_level_only) }
            }
            (BroadcastScope::Stage2Address { first, last, last_level_only }, El1 { vmid })
                if first <= last =>
            {
                Invalidate::Stage2Address { vmid, span: span(first, last, last_level_only) }
            }
            _ => return None,
        };
        Some((what, self.regime == El2Host))
    }

    /// Whether what a CD with ASET=1 filled may stay: the operation names an ASID or, in a regime without ASIDs, an address.
    fn spares_private(&self) -> bool {
        match self.scope {
            BroadcastScope::Asid { .. } | BroadcastScope::Address { asid: Some(_), .. } => true,
            BroadcastScope::Address { asid: None, .. } => self.regime == BroadcastRegime::El2,
            _ => false,
        }
    }
}

impl State {
    /// Takes an operation in.
    fn hear(&mut self, broadcast: Broadcast, around: Around<'_>) {
        /// So many wait at most.
        const MOST: usize = 1024;
        if !self.participates {
            return;
        }
        self.counters.broadcasts += 1;
        around.trace("broadcast", &[("what", Value::Str(&format!("{broadcast:x?}")))]);
        self.broadcasts.push(broadcast);
        if !around.config.policy.lazy_invalidation || self.broadcasts.len() > MOST {
            self.obey_broadcasts(around);
        }
    }

    /// Does all operations that were taken in.
    pub(crate) fn obey_broadcasts(&mut self, around: Around<'_>) {
        for broadcast in core::mem::take(&mut self.broadcasts) {
            self.obey(&broadcast, around);
        }
    }

    /// Does one of them, the dice say which. Answers whether there was any.
    pub(crate) fn obey_some_broadcast(&mut self, around: Around<'_>) {
        if !self.broadcasts.is_empty() && self.dice.one_in(8) {
            let last = u32::try_from(self.broadcasts.len() - 1).unwrap_or(0);
            let index = self.dice.up_to(last) as usize;
            let broadcast = self.broadcasts.remove(index);
            self.obey(&broadcast, around);
        }
    }

    fn obey(&mut self, broadcast: &Broadcast, around: Around<'_>) {
        let Some((what, e2h)) = broadcast.meaning() else { return };
        self.micro.clear();
        let targets =
            Targets { what: &what, e2h, broadcast: true, spares_private: broadcast.spares_private() };
        let gone = self.caches.tlb.remove(&targets);
        self.account_for(&gone, around);
    }
}

impl Smmu {
    /// Takes a broadcast operation in. It takes effect at once or later, up to the next [`broadcast_sync`](Self::broadcast_sync).
    pub fn broadcast(&self, broadcast: &Broadcast) {
        let Some(mut state) = self.lock() else { return };
        let memory = self.accessing_memory();
        state.hear(*broadcast, self.around());
        drop(memory);
        self.release(state);
    }

    /// On return, all operations taken in before have taken effect, and the accesses that began before are done, but for those that this very
    /// thread is in the middle of, and those of threads that are themselves in the middle of one and wait here.
    pub fn broadcast_sync(&self) {
        let Some(mut state) = self.lock() else { return };
        let memory = self.accessing_memory();
        state.obey_broadcasts(self.around());
        drop(memory);
        self.release(state);
        if let Some(flights) = &self.flights {
            flights.wait(flights.next());
        }
    }
}
