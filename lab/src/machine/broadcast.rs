//! The wire on which an SMMU hears what the CPUs broadcast: from the CPUs' words to the SMMU's.
//!
//! Both models are written by people of their own; here is the one place that knows both. The machine's CPUs use no stage 2: what they say at EL1 is of
//! VMID 0.
//!
//! Spec: Arm ARM DDI 0487, D8.17 "TLB maintenance"; SMMUv3 H.a, 3.17 "TLB tagging, VMIDs, ASIDs and participation in broadcast TLB maintenance".

use std::sync::Arc;

use model_cpu::{BroadcastListener, Message, Regime, Tlbi};
use model_smmuv3::{Broadcast, BroadcastRegime, BroadcastScope, Smmu};

/// An SMMU that hears the CPUs.
pub(super) struct Ear(pub(super) Arc<Smmu>);

impl BroadcastListener for Ear {
    fn invalidate(&self, message: &Message) {
        if let Some(scope) = scope(message.operation) {
            let regime = match message.regime {
                Regime::El1 => BroadcastRegime::El1 { vmid: 0 },
                Regime::El2Host => BroadcastRegime::El2Host,
            };
            self.0.broadcast(&Broadcast { regime, scope });
        }
    }

    fn sync(&self) {
        self.0.broadcast_sync();
    }
}

/// What an operation means. None for one that this file does not know: the machine's kernel gives none like that.
fn scope(operation: Tlbi) -> Option<BroadcastScope> {
    let address =
        |asid, first, last, last_level_only| BroadcastScope::Address { asid, first, last, last_level_only };
    Some(match operation {
        Tlbi::All => BroadcastScope::All,
        Tlbi::Asid { asid } => BroadcastScope::Asid { asid },
        Tlbi::Va { asid, va, last_level_only } => address(Some(asid), va, va, last_level_only),
        Tlbi::VaOfAllAsids { va, last_level_only } => address(None, va, va, last_level_only),
        Tlbi::Range { asid, first, last, last_level_only } => {
            address(Some(asid), first, last, last_level_only)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_14_each_operation_of_a_cpu_keeps_its_asid_its_addresses_and_its_levels() {
        let page = Tlbi::Va { asid: 7, va: 0x5000, last_level_only: true };
        let wanted =
            BroadcastScope::Address { asid: Some(7), first: 0x5000, last: 0x5000, last_level_only: true };
        assert_eq!(scope(page), Some(wanted));
        let range = Tlbi::Range { asid: 7, first: 0x5000, last: 0x8fff, last_level_only: false };
        let wanted =
            BroadcastScope::Address { asid: Some(7), first: 0x5000, last: 0x8fff, last_level_only: false };
        assert_eq!(scope(range), Some(wanted));
        assert_eq!(scope(Tlbi::Asid { asid: 9 }), Some(BroadcastScope::Asid { asid: 9 }));
        assert_eq!(scope(Tlbi::All), Some(BroadcastScope::All));
    }
}
