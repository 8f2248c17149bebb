//! Core and driver: leaving out any one map, any one unmap, any one sync makes the run fail.

use portcullis_checks::wrong::Trial;
use portcullis_checks::wrong::seam::{Between, Request};

/// Leaves out each request of a kind in turn, on machines that differ in stage, granule and queues. Answers what was said.
fn each(request: Request, machines: &[&str], words: &[&str]) {
    for machine in machines {
        let trial = Trial::on(machine).bytes(150 << 10);
        let none = Between::leaving_out(request, usize::MAX);
        assert_eq!(trial.run(none.clone()), None, "{machine}: nothing was left out");
        assert!(none.seen() > 5, "{machine}: {} requests", none.seen());
        for nth in 0..none.seen() {
            let said = trial.run(Between::leaving_out(request, nth));
            let said =
                said.unwrap_or_else(|| panic!("{machine}: leaving out {request:?} {nth} went unnoticed"));
            let named = words.iter().any(|word| said.contains(word));
            assert!(named, "{machine}: leaving out {request:?} {nth}: none of {words:?} is in: {said}");
        }
    }
}

const MACHINES: [&str; 4] = ["arm", "arm-stage2", "arm-16k", "arm-small"];

#[test]
fn any_map_left_out_is_a_translation_fault_at_its_address() {
    each(Request::Map, &MACHINES, &["F_TRANSLATION at 0x"]);
}

#[test]
fn without_its_doorbell_mapped_a_device_signals_nothing() {
    // The doorbell is the first that is mapped for a disk without firmware's regions.
    let words = ["MSI-X vector 0 never signalled", "F_TRANSLATION at 0x"];
    Trial::on("arm-v31").bytes(5000).catches(Between::leaving_out(Request::Map, 0), &words);
}

#[test]
fn without_its_region_mapped_firmware_is_cut_off() {
    let words = ["reserved: 0x4fff0000 is firmware's"];
    Trial::on("arm").bytes(5000).catches(Between::leaving_out(Request::Map, 0), &words);
}

#[test]
fn any_unmap_left_out_breaks_isolation() {
    each(Request::Unmap, &MACHINES, &["isolation: "]);
}

#[test]
fn any_sync_left_out_breaks_isolation() {
    each(Request::Sync, &MACHINES, &["isolation: "]);
}

#[test]
fn any_attach_to_a_domain_left_out_is_noticed() {
    // The machine has five functions: a disk, two ports, two disks behind them. What follows are detaches, each of which is followed by the
    // removal of the device, which blocks it once more.
    for nth in 0..5 {
        Trial::on("arm").bytes(4096).catches(Between::leaving_out(Request::Attach, nth), &[]);
    }
}
