//! What a device asks, and what must come of it.
//!
//! Each scene runs under each policy that the model has: what the book leaves open must not change what comes of it.

use model_smmuv3::Policy;
use portcullis_checks::golden::scenes::{FAULTS, FIELDS, PASSES, Scene, WIDE};

use crate::stage::Stage;

fn play_all(scenes: &[Scene], policy: Policy) {
    for scene in scenes {
        let mut stage = Stage::set(scene, policy);
        for (index, ask) in scene.asks.iter().enumerate() {
            stage.play(ask, &format!("{}, ask {index}", scene.name));
        }
    }
}

fn play_under_every_policy(scenes: &[Scene]) {
    play_all(scenes, Policy::stale());
    play_all(scenes, Policy::eager());
    play_all(scenes, Policy::hostile());
}

#[test]
fn what_should_pass_passes_and_goes_where_the_tables_say() {
    play_under_every_policy(PASSES);
}

#[test]
fn what_should_fault_faults_with_the_record_of_the_book() {
    play_under_every_policy(FAULTS);
}

#[test]
fn each_field_is_looked_at_where_the_book_has_it() {
    play_under_every_policy(FIELDS);
}

#[test]
fn addresses_of_52_bits_are_put_together_as_the_book_says() {
    play_under_every_policy(WIDE);
}

#[test]
fn a_second_look_at_what_is_cached_finds_the_same() {
    for scene in [PASSES, FAULTS, FIELDS, WIDE].into_iter().flatten() {
        let mut stage = Stage::set(scene, Policy::stale());
        for (index, ask) in scene.asks.iter().chain(scene.asks).enumerate() {
            stage.play(ask, &format!("{}, ask {index}, again", scene.name));
        }
    }
}

#[test]
fn the_scenes_that_pass_break_no_rule() {
    for scene in PASSES.iter().chain(WIDE) {
        let stage = Stage::set(scene, Policy::eager());
        for ask in scene.asks {
            let _ = stage.ask(ask);
        }
        assert_eq!(stage.smmu.take_unpredictable(), [], "{}", scene.name);
    }
}
