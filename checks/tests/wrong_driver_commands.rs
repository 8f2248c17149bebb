//! Commands: kinds of them left out or changed, in the `dma` workload.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use portcullis_checks::wrong::commands::{
    Words, changing, is_by_address, is_invalidation, leaving_out, one_late, op, opcode,
};
use portcullis_checks::wrong::{Trial, fetching_ahead};

fn is_tlbi(words: Words) -> bool {
    is_invalidation(words) && opcode(words) >= 0x10
}

#[test]
fn any_one_invalidation_of_addresses_left_out_breaks_isolation() {
    for (machine, bytes) in
        [("arm", 300 << 10), ("arm-v31", 40_000), ("arm-stage2", 150_000), ("arm-small", 150_000)]
    {
        let trial = Trial::on(machine).bytes(bytes);
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let counting = changing(move |words| {
            counter.fetch_add(usize::from(is_by_address(words)), Relaxed);
            words
        });
        assert_eq!(trial.run(Arc::new(counting)), None, "{machine}: nothing was left out");
        assert!(count.load(Relaxed) > 5, "{machine}");
        for nth in 0..count.load(Relaxed) {
            let seen = AtomicUsize::new(0);
            let said = trial.run(Arc::new(leaving_out(move |words| {
                is_by_address(words) && seen.fetch_add(1, Relaxed) == nth
            })));
            let said =
                said.unwrap_or_else(|| panic!("{machine}: invalidation {nth} left out went unnoticed"));
            let named = said.contains("isolation: ") || said.contains("freed memory was used");
            assert!(named, "{machine}: invalidation {nth}: {said}");
        }
    }
}

#[test]
fn no_invalidation_on_unmap_breaks_isolation() {
    Trial::on("arm").catches(Arc::new(leaving_out(is_by_address)), &["isolation: "]);
    Trial::on("arm-stage2").catches(Arc::new(leaving_out(is_by_address)), &["isolation: "]);
}

#[test]
fn no_invalidation_before_the_first_use_is_against_the_book() {
    for opcode_left_out in [op::CFGI_ALL, op::TLBI_NSNH_ALL] {
        let tamper = leaving_out(move |words| opcode(words) == opcode_left_out);
        Trial::on("arm")
            .bytes(5000)
            .catches(Arc::new(tamper), &["3.11 \"", "enabled before all caches were invalidated"]);
    }
}

#[test]
fn no_invalidation_of_entries_leaves_the_device_blocked() {
    // The disk was known to hardware as a stream without an entry, and stays that.
    let tamper = || Arc::new(leaving_out(|words| opcode(words) == op::CFGI_STE));
    let arm = Trial::on("arm").unused_by_firmware().policy(fetching_ahead()).bytes(5000);
    arm.catches(tamper(), &["C_BAD_STREAMID"]);
    // Here only the last state was in force in time: the detached disk keeps its mappings.
    Trial::on("arm-small").policy(fetching_ahead()).bytes(5000).catches(tamper(), &["isolation: "]);
}

#[test]
fn no_invalidation_of_entries_when_a_device_is_detached_breaks_isolation() {
    // After the first unmap every device is where it is to be, and what follows are detaches.
    let unmapped = AtomicUsize::new(0);
    let tamper = leaving_out(move |words| {
        unmapped.fetch_add(usize::from(is_by_address(words)), Relaxed);
        opcode(words) == op::CFGI_STE && unmapped.load(Relaxed) > 0
    });
    Trial::on("arm").catches(Arc::new(tamper), &["isolation: ", "mapped when the device was detached"]);
}

#[test]
fn an_invalidation_of_another_id_is_none() {
    let another_asid =
        changing(|words| if is_by_address(words) { [words[0] ^ 1 << 60, words[1]] } else { words });
    Trial::on("arm").catches(Arc::new(another_asid), &["isolation: "]);
    let another_vmid =
        changing(|words| if is_by_address(words) { [words[0] ^ 1 << 40, words[1]] } else { words });
    Trial::on("arm-stage2").catches(Arc::new(another_vmid), &["isolation: "]);
}

#[test]
fn an_invalidation_that_ends_a_page_early_breaks_isolation() {
    // NUM is bits 16:12 of word 0, SCALE 24:20. Of a range of 32 pages the last is left.
    let short = changing(|words| {
        let long = is_by_address(words) && words[0] >> 20 & 0x1f == 5;
        if long { [words[0] & !(0x1f << 20 | 0x1f << 12) | 30 << 12, words[1]] } else { words }
    });
    Trial::on("arm").catches(Arc::new(short), &["isolation: "]);
}

#[test]
fn invalidations_that_come_one_batch_late_break_isolation() {
    for machine in ["arm", "arm-v31", "arm-stage2", "arm-small"] {
        Trial::on(machine).catches(Arc::new(one_late(is_tlbi)), &["isolation: "]);
    }
}

#[test]
fn a_command_that_does_not_exist_is_reported_with_its_words() {
    let once = Mutex::new(true);
    let unknown = changing(move |words| {
        let now = is_by_address(words) && core::mem::take(&mut *once.lock().unwrap());
        if now { [0xff, 0] } else { words }
    });
    Trial::on("arm").catches(Arc::new(unknown), &["4.1.3 \"Command errors\": CERROR_ILL"]);
}
