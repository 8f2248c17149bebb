//! Entries of the stream table: words in another order, fields a bit too high, written at the wrong moment.

use std::sync::Arc;

use portcullis_checks::wrong::entries::{Entries, Mistake};
use portcullis_checks::wrong::{Trial, script};

fn with(mistake: Mistake) -> Arc<Entries> {
    Arc::new(Entries::new(mistake))
}

fn exchanged(machine: &str, a: usize, b: usize, words: &[&str]) {
    Trial::on(machine).unused_by_firmware().bytes(5000).catches(with(Mistake::Exchanged(a, b)), words);
}

#[test]
fn words_in_another_order_are_a_bad_entry() {
    for machine in ["arm", "arm-stage2"] {
        exchanged(machine, 0, 1, &["C_BAD_STE at 0x"]);
        exchanged(machine, 0, 7, &["C_BAD_STE at 0x"]);
    }
    exchanged("arm-stage2", 1, 2, &["C_BAD_STE at 0x", "reserved bits set in an STE"]);
    exchanged("arm-stage2", 2, 3, &["C_BAD_STE at 0x", "reserved bits set in an STE"]);
}

#[test]
fn attributes_in_the_word_of_the_vmid_make_every_invalidation_miss() {
    exchanged("arm", 1, 2, &["isolation: "]);
}

fn shifted(machine: &str, word: usize, field: u64, words: &[&str]) {
    Trial::on(machine)
        .unused_by_firmware()
        .bytes(5000)
        .catches(with(Mistake::Shifted { word, field }), words);
}

#[test]
fn fields_a_bit_too_high_are_noticed() {
    // Config, S1ContextPtr.
    shifted("arm", 0, 0b1110, &["the disk's driver did not start"]);
    shifted("arm", 0, 0x000f_ffff_ffff_ffc0, &["F_CD_FETCH at 0x"]);
    // S2VMID, S2T0SZ, S2SL0, S2AA64, S2R, S2TTB.
    shifted("arm-stage2", 2, 0xffff, &["isolation: "]);
    shifted("arm-stage2", 2, 0x3f << 32, &["C_BAD_STE", "S2SL0, S2T0SZ and S2TG contradict each other"]);
    shifted("arm-stage2", 2, 3 << 38, &["C_BAD_STE", "S2SL0, S2T0SZ and S2TG contradict each other"]);
    shifted("arm-stage2", 2, 1 << 51, &["C_BAD_STE", "S2AA64 selects a table format that is not there"]);
    shifted("arm-stage2", 2, 1 << 58, &["C_BAD_STE", "reserved bits set in an STE"]);
    shifted("arm-stage2", 3, 0x000f_ffff_ffff_fff0, &["F_WALK_EABT at 0x"]);
}

/// In the script, where devices access everything in the moment in which the entry is not yet what it is to be.
fn scripted(mistake: Mistake, words: &[&str]) {
    for machine in ["arm", "arm-stage2", "arm-small"] {
        let said = script::caught(machine, |model| {
            let model = model.clone();
            Arc::new(Entries::new(mistake).meanwhile(move || script::warm(&model)))
        });
        let said = said.unwrap_or_else(|| panic!("{machine}: nobody missed it"));
        assert!(words.iter().any(|word| said.contains(word)), "{machine}: {said}");
    }
}

#[test]
fn entries_written_after_their_invalidation_are_not_what_hardware_uses() {
    scripted(Mistake::Late, &["where the tables say"]);
}

#[test]
fn the_first_word_before_the_others_is_a_mixture_of_two_entries() {
    scripted(Mistake::FirstWordFirst, &["where the tables say", "3.21.3 \"", "5.2.2 \""]);
}
