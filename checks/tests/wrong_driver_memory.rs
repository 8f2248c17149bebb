//! Barriers, write-backs, page tables, registers, in the `dma` workload.

use std::sync::Arc;

use portcullis_checks::wrong::Trial;
use portcullis_checks::wrong::memory::{Class, NoBarriers, NoWriteBacks, TableWords};
use portcullis_checks::wrong::registers::{MisalignedRing, SyncIgnored, Written};
use portcullis_checks::wrong::view::offset;

fn no_barriers(machine: &str, which: Option<Class>, words: &[&str]) {
    for seed in 1..4 {
        Trial::on(machine).seed(seed).catches(Arc::new(NoBarriers::new(which)), words);
    }
}

#[test]
fn without_barriers_hardware_reads_commands_that_are_not_there_yet() {
    for machine in ["arm", "arm-small"] {
        no_barriers(machine, None, &["probing the SMMU failed", "CERROR_ILL"]);
        no_barriers(machine, Some(Class::Commands), &["probing the SMMU failed", "CERROR_ILL"]);
    }
}

#[test]
fn without_barriers_behind_page_tables_a_mapping_is_not_there_when_the_device_comes() {
    for machine in ["arm", "arm-stage2"] {
        no_barriers(machine, Some(Class::Tables), &["F_TRANSLATION at 0x"]);
    }
}

#[test]
fn without_barriers_before_a_doorbell_the_device_reads_what_is_not_there_yet() {
    no_barriers("arm", Some(Class::Data), &["the disk's driver did not start"]);
}

#[test]
fn without_write_backs_a_walker_that_does_not_snoop_reads_stale_memory() {
    Trial::on("arm-noncoherent").catches(Arc::new(NoWriteBacks), &["probing the SMMU failed", "CERROR_ILL"]);
}

/// What is stored in a table: from what lies there and what was to be stored.
type Stored = fn(u64, u64) -> Option<u64>;

fn tables(change: Stored) -> Arc<TableWords<Stored>> {
    Arc::new(TableWords::new(change))
}

#[test]
fn an_unmap_that_clears_nothing_breaks_isolation() {
    for machine in ["arm", "arm-stage2"] {
        let kept = tables(|old, new| (new != 0 || old & 1 == 0).then_some(new));
        Trial::on(machine).catches(kept, &["isolation: "]);
    }
}

#[test]
fn a_leaf_without_its_access_flag_is_an_access_fault() {
    // Bits 1:0 and AF, bit 10: a page. A table descriptor has no AF.
    let no_flag = || tables(|_, new| Some(if new & 0x403 == 0x403 { new & !0x400 } else { new }));
    Trial::on("arm").catches(no_flag(), &["F_ACCESS at 0x"]);
    Trial::on("arm-stage2").catches(no_flag(), &["F_ACCESS at 0x"]);
}

#[test]
fn a_leaf_that_leads_to_the_next_page_is_noticed() {
    let next = tables(|_, new| Some(if new & 0x403 == 0x403 { new ^ 0x1000 } else { new }));
    Trial::on("arm").catches(next, &["the disk's driver did not start"]);
}

fn written(machine: &str, at: u64, change: fn(u64) -> Option<u64>, words: &[&str]) {
    Trial::on(machine).bytes(5000).catches(Arc::new(Written::new(at, change)), words);
}

#[test]
fn misaligned_bases_are_against_the_book() {
    for machine in ["arm", "arm-small"] {
        written(
            machine,
            offset::CMDQ_BASE,
            |base| Some(base + 0x40),
            &["queue base not aligned", "CMDQ_BASE 0x"],
        );
        written(
            machine,
            offset::EVENTQ_BASE,
            |base| Some(base + 0x40),
            &["queue base not aligned", "EVENTQ_BASE 0x"],
        );
        written(
            machine,
            offset::STRTAB_BASE,
            |base| Some(base + 0x40),
            &["stream table not aligned to its size"],
        );
    }
    // Even if the driver uses the queue where it believes it to be.
    let ring = Arc::new(MisalignedRing::default());
    Trial::on("arm").bytes(5000).catches(ring, &["probing the SMMU failed", "queue base not aligned"]);
}

#[test]
fn sizes_and_shapes_that_hardware_does_not_have_are_against_the_book() {
    written("arm", offset::CMDQ_BASE, |base| Some(base + 1), &["LOG2SIZE above what SMMU_IDR1 reports"]);
    written("arm", offset::STRTAB_BASE_CFG, |shape| Some(shape + 1), &["LOG2SIZE above SMMU_IDR1.SIDSIZE"]);
    written("arm", offset::STRTAB_BASE_CFG, |shape| Some(shape ^ 0x40), &["reserved FMT or SPLIT"]);
    written("arm", offset::STRTAB_BASE_CFG, |shape| Some(shape ^ 0x2_0000), &["reserved FMT or SPLIT"]);
}

#[test]
fn an_index_without_commands_makes_hardware_read_what_nobody_wrote() {
    let beyond = |prod| Some(if prod == 0 { 0 } else { prod + 1 });
    for machine in ["arm", "arm-small"] {
        written(machine, offset::CMDQ_PROD, beyond, &["4.1.3 \"Command errors\": CERROR_ILL"]);
    }
}

#[test]
fn commands_without_an_index_are_waited_for_in_vain() {
    written(
        "arm",
        offset::CMDQ_PROD,
        |_| None,
        &["probing the SMMU failed", "SMMU_CMDQ_CONS to pass a CMD_SYNC"],
    );
}

#[test]
fn events_that_nobody_takes_from_their_queue_are_missed() {
    let never = |cons| (cons == 0).then_some(cons);
    let words = ["faults were recorded where"];
    Trial::on("arm-small").catches(Arc::new(Written::new(offset::EVENTQ_CONS, never)), &words);
}

#[test]
fn everything_switched_on_at_once_is_against_the_book() {
    let at_once = |cr0| Some(if cr0 == 0 { 0 } else { cr0 | 0xd });
    written("arm", offset::CR0, at_once, &["3.11 \"", "enabled before all caches were invalidated"]);
    written("arm", offset::CR0, |_| None, &["SMMU_CR0ACK"]);
}

#[test]
fn a_driver_that_does_not_wait_for_its_syncs_changes_entries_under_the_hardware() {
    Trial::on("arm-small")
        .alone()
        .catches(Arc::new(SyncIgnored::default()), &["3.21.3 \"Configuration structures\""]);
}
