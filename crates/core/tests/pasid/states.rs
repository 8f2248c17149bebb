//! Part 2: active, inactive, free.

use std::sync::Arc;

use crate::{pasid, range};
use portcullis_core::pasid::{AllocPasidError, Dropped, PasidError, Pasids};
use proptest::prelude::*;

type Space<T> = Pasids<spin::Mutex<()>, T>;

#[test]
fn the_lowest_free_one_in_the_range_is_given_out_and_0_never() {
    let pasids = Space::new();
    assert_eq!(pasids.alloc(range(0, 3), 'a'), Ok(pasid(1)));
    assert_eq!(pasids.alloc(range(3, 3), 'b'), Ok(pasid(3)));
    assert_eq!(pasids.alloc(range(0, 3), 'c'), Ok(pasid(2)));
    assert_eq!(pasids.alloc(range(0, 3), 'd'), Err(AllocPasidError::NoneFree));
    assert_eq!(pasids.alloc(range(0, 0), 'd'), Err(AllocPasidError::NoneFree));
    assert_eq!(pasids.put(pasid(2)), Ok(Dropped::Reclaimed));
    assert_eq!(pasids.alloc(range(1, 0xf_ffff), 'e'), Ok(pasid(2)));
    assert_eq!(pasids.in_use(), 3);
}

#[test]
fn all_20_bits_can_be_in_use() {
    let pasids = Space::new();
    for id in 1..=0xf_ffff {
        assert_eq!(pasids.alloc(range(0, 0xf_ffff), ()), Ok(pasid(id)));
    }
    assert_eq!(pasids.alloc(range(0, 0xf_ffff), ()), Err(AllocPasidError::NoneFree));
    assert_eq!(pasids.free(pasid(0x8_0000)), Ok(Dropped::Reclaimed));
    assert_eq!(pasids.alloc(range(0, 0xf_ffff), ()), Ok(pasid(0x8_0000)));
}

#[test]
fn a_put_that_drops_the_last_reference_says_so_and_frees_the_value() {
    let (pasids, value) = (Space::new(), Arc::new(()));
    let id = pasids.alloc(range(1, 9), value.clone()).unwrap();
    assert_eq!(pasids.get(id), Ok(()));
    assert!(Arc::ptr_eq(&pasids.find(id).unwrap(), &value));
    assert_eq!(pasids.put(id), Ok(Dropped::Held));
    assert_eq!(pasids.put(id), Ok(Dropped::Reclaimed));
    assert_eq!(Arc::strong_count(&value), 1);
    assert_eq!(pasids.in_use(), 0);
}

#[test]
fn a_freed_pasid_is_inactive_until_its_last_reference_goes() {
    let pasids = Space::new();
    let id = pasids.alloc(range(1, 9), 'a').unwrap();
    pasids.get(id).unwrap();
    pasids.get(id).unwrap();
    assert_eq!(pasids.free(id), Ok(Dropped::Held));
    assert_eq!(pasids.get(id), Err(PasidError::Inactive(id)));
    assert_eq!(pasids.find(id), Err(PasidError::Inactive(id)));
    assert_eq!(pasids.free(id), Err(PasidError::Inactive(id)));
    assert_eq!(pasids.alloc(range(1, 1), 'b'), Err(AllocPasidError::NoneFree), "not given out again");
    assert_eq!(pasids.put(id), Ok(Dropped::Held));
    assert_eq!(pasids.put(id), Ok(Dropped::Reclaimed));
    assert_eq!(pasids.put(id), Err(PasidError::NotInUse(id)));
    assert_eq!(pasids.alloc(range(1, 1), 'b'), Ok(id));
}

#[test]
fn whoever_holds_nothing_is_told() {
    let pasids = Space::<()>::new();
    let id = pasid(5);
    assert_eq!(pasids.get(id), Err(PasidError::NotInUse(id)));
    assert_eq!(pasids.put(id), Err(PasidError::NotInUse(id)));
    assert_eq!(pasids.find(id), Err(PasidError::NotInUse(id)));
    assert_eq!(pasids.free(id), Err(PasidError::NotInUse(id)));
    assert_eq!(pasids.get(pasid(0)), Err(PasidError::NotInUse(pasid(0))));
}

proptest! {
    /// Against a table of references and states.
    #[test]
    fn any_history_follows_the_states(steps in proptest::collection::vec((0u8..5, 1u32..7), 1..300)) {
        let pasids = Space::new();
        // References and whether active, by id.
        let mut oracle = [None::<(u32, bool)>; 7];
        for (n, (what, id)) in steps.into_iter().enumerate() {
            let (at, from, id) = (id as usize, id, pasid(id));
            let state = oracle[at];
            let refused = match state {
                None => Some(PasidError::NotInUse(id)),
                Some((_, false)) => Some(PasidError::Inactive(id)),
                Some(_) => None,
            };
            let dropped = |references: u32| if references == 1 { Dropped::Reclaimed } else { Dropped::Held };
            match what {
                0 => {
                    let free = (from..7).find(|&id| oracle[id as usize].is_none());
                    let got = pasids.alloc(range(from, 6), n);
                    prop_assert_eq!(got.ok(), free.map(pasid));
                    if let Some(free) = free {
                        oracle[free as usize] = Some((1, true));
                    }
                }
                1 => {
                    prop_assert_eq!(pasids.get(id).err(), refused);
                    oracle[at] = state.map(|(references, active)| (references + u32::from(active), active));
                }
                2 => prop_assert_eq!(pasids.find(id).err(), refused),
                _ => {
                    let got = if what == 3 { pasids.put(id) } else { pasids.free(id) };
                    let refused = refused.filter(|error| what == 4 || *error == PasidError::NotInUse(id));
                    match (state, refused) {
                        (Some((references, active)), None) => {
                            prop_assert_eq!(got, Ok(dropped(references)));
                            oracle[at] = (references > 1).then_some((references - 1, active && what == 3));
                        }
                        (_, refused) => prop_assert_eq!(got.err(), refused),
                    }
                }
            }
        }
    }
}
