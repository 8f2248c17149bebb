//! What the models counted, whatever the work was; for QEMU's hardware, which does not count, what the driver told it.

use super::witness::Witness;
use crate::boot::System;
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
    for smmu in &machine.smmuv2s {
        let counted = smmu.counters();
        let invalidations = counted.invalidations();
        let operations: u64 = counted.operations.values().sum();
        counters.commands += operations;
        counters.syncs += operations - invalidations;
        counters.invalidations += invalidations;
        stalls += counted.stalls;
    }
    for vtd in &machine.vtds {
        let counted = vtd.counters();
        let of_tables = counted.iotlb_invalidations + counted.pasid_iotlb_invalidations;
        let of_entries = counted.context_invalidations + counted.pasid_invalidations;
        counters.commands += counted.descriptors.values().sum::<u64>();
        counters.syncs += counted.waits;
        counters.invalidations += of_tables + of_entries + counted.interrupt_invalidations;
        translations += of_tables;
        devices += counted.device_invalidations;
    }
    for phb in &machine.phbs {
        let counted = phb.counters();
        counters.invalidations +=
            counted.kills_one + counted.kills_pe + counted.kills_all + counted.rtc_invalidations;
    }
    counters.register_accesses = platform.register_accesses();
    if let Some(sva) = &mut counters.sva {
        (sva.tlb_invalidations, sva.atc_invalidations, sva.stalls) = (translations, devices, stalls);
    }
    counters.table_bytes = platform.peak_table_bytes();
    if machine.qemu.is_none() {
        counters.memory_bytes = machine.bus.cpu().ram().storage_bytes();
    }
}

/// Where no model counts: the driver's commands, and messages as they were taken. Before the system shuts down.
pub(super) fn add_driver_counters(counters: &mut Counters, witness: &Witness, system: &System) {
    counters.commands = witness.commands("");
    counters.syncs = witness.commands("CMD_SYNC") + witness.commands("WAIT");
    counters.invalidations =
        witness.commands("TLBI") + witness.commands("CFGI") + witness.commands("INVALIDATE_");
    counters.interrupts = system.interrupts.taken();
}
