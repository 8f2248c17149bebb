//! Leaving out any one invalidation of any operation of the driver shows in what hardware does afterwards.

use std::sync::Arc;

use portcullis_checks::wrong::commands::{Commands, Words, is_by_address, is_invalidation};
use portcullis_checks::wrong::script;

const MACHINES: [&str; 5] = ["arm", "arm-v31", "arm-stage2", "arm-small", "arm-noncoherent"];

#[test]
fn with_every_invalidation_hardware_does_what_the_tables_say_after_every_step() {
    for machine in MACHINES {
        let shown = script::run(machine, None).unwrap();
        assert_eq!(shown.wrong, None, "{machine}");
        assert!(shown.invalidations.len() > 30, "{machine}: {:x?}", shown.invalidations);
    }
}

/// The few that may be left out unnoticed follow the clean-up of bits that nobody looks at, or the preparation of such bits in the very word
/// that is the switch: the tables mean what they meant before, and no mixture of old and new means anything else.
#[test]
fn any_invalidation_that_means_something_is_missed_when_it_is_left_out() {
    for machine in MACHINES {
        let right = script::run(machine, None).unwrap();
        let (mut missed, mut idle) = (0, 0);
        for (nth, invalidation) in right.invalidations.iter().enumerate() {
            // A driver that gives up has noticed as well.
            let wrong = script::run(machine, Some(nth)).map_or_else(Some, |shown| shown.wrong);
            let named = |said: &String| {
                ["tables say", "3.21.3 \"", "3.11 \"", "freed memory"].iter().any(|word| said.contains(word))
            };
            match wrong {
                Some(said) => {
                    assert!(named(&said), "{machine}: {nth} {invalidation:x?}: {said}");
                    missed += 1;
                }
                None => {
                    assert!(!invalidation.changes, "{machine}: {nth} {invalidation:x?} went unnoticed");
                    idle += 1;
                }
            }
        }
        assert!(idle <= 5 && missed > 25, "{machine}: {missed} were missed, {idle} were not");
    }
}

#[test]
fn an_id_means_nothing_to_hardware_when_the_next_domain_gets_it() {
    for machine in ["arm", "arm-stage2"] {
        assert_eq!(script::reuse_id(machine, false).unwrap(), None, "{machine}");
        let said = script::reuse_id(machine, true).unwrap();
        let said = said.unwrap_or_else(|| panic!("{machine}: nobody missed it"));
        assert!(said.contains("Allowed(Pa(0x41000000)) where the tables say Refused"), "{machine}: {said}");
    }
}

fn caught(machine: &str, change: fn(&mut [Words]), words: &[&str]) {
    let said = script::caught(machine, |_| Arc::new(Commands::new(change)));
    let said = said.unwrap_or_else(|| panic!("{machine}: nobody missed it"));
    assert!(words.iter().any(|word| said.contains(word)), "{machine}: {said}");
}

#[test]
fn a_leaf_hint_where_a_table_went_leaves_hardware_a_walk_through_it() {
    // Leaf is bit 0 of word 1.
    let hint = |batch: &mut [Words]| {
        batch.iter_mut().filter(|words| is_by_address(**words)).for_each(|words| words[1] |= 1)
    };
    for machine in MACHINES {
        caught(machine, hint, &["tables say", "freed memory was used"]);
    }
}

#[test]
fn a_leaf_hint_where_a_second_level_table_appeared_leaves_the_stream_unknown() {
    let hint = |batch: &mut [Words]| {
        batch.iter_mut().filter(|words| words[0] & 0xff == 3).for_each(|words| words[1] |= 1)
    };
    caught("arm", hint, &["after adding 0x8: ", "BadStreamId"]);
}

#[test]
fn a_sync_before_what_it_is_to_confirm_confirms_nothing() {
    let swap = |batch: &mut [Words]| {
        if let [first, .., last] = batch
            && is_invalidation(*first)
        {
            core::mem::swap(first, last);
        }
    };
    for machine in MACHINES {
        caught(machine, swap, &["tables say", "3.21.3 \"", "enabled before all caches"]);
    }
}

#[test]
fn an_entry_of_another_stream_is_forgotten_in_vain() {
    let other = |batch: &mut [Words]| {
        batch.iter_mut().filter(|words| words[0] & 0xff == 3).for_each(|words| words[0] ^= 1 << 32)
    };
    for machine in MACHINES {
        caught(machine, other, &["tables say"]);
    }
}
