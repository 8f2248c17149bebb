//! What the models counted, whatever the work was.

use crate::machine::Machine;
use crate::platform::LabPlatform;
use crate::report::Counters;

/// Adds what the SMMUs consumed, and the memory that was taken.
pub(super) fn add_smmu_counters(counters: &mut Counters, machine: &Machine, platform: &LabPlatform) {
    let (mut translations, mut devices, mut stalls) = (0, 0, 0);
    for smmu in &machine.smmus {
        let counted = smmu.counters();
        let named = |part: &str| {
            counted
                .commands
                .iter()
                .filter(|(name, _)| name.contains(part))
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        counters.commands += counted.commands_total();
        counters.syncs += counted.command("CMD_SYNC");
        counters.invalidations += named("TLBI") + named("CFGI");
        translations += named("TLBI");
        devices += named("ATC_INV");
        stalls += counted.stalls;
    }
    for phb in &machine.phbs {
        let counted = phb.counters();
        counters.invalidations +=
            counted.kills_one + counted.kills_pe + counted.kills_all + counted.rtc_invalidations;
    }
    if let Some(sva) = &mut counters.sva {
        (sva.tlb_invalidations, sva.atc_invalidations, sva.stalls) = (translations, devices, stalls);
    }
    counters.table_bytes = platform.peak_table_bytes();
    counters.memory_bytes = machine.bus.cpu().ram().storage_bytes();
}
