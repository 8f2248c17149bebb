//! A short run, with every other test. The long one is `cargo xtask differential`.

mod on_qemu {
    use portcullis_differential::run::{self, Options};
    use portcullis_differential::theirs::Theirs;
    use portcullis_differential::vtd::Stage;
    use portcullis_differential::{phb3, vtd};

    #[test]
    fn some_thousand_accesses_agree() {
        if Theirs::for_test().is_none() {
            return;
        }
        let tally =
            run::run(Options { seed: 0x5eed, accesses: 6_000 }).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{tally}");
        assert!(tally.same > 3_000 && tally.corrected > 500, "{tally}");
        assert!(tally.explained * 5 < tally.agreed(), "too much is explained: {tally}");
        assert_eq!(tally.short(1), [""; 0]);
    }

    #[test]
    fn some_accesses_through_tces_agree() {
        if phb3::Theirs::for_test().is_none() {
            return;
        }
        let tally =
            phb3::run(Options { seed: 0x5eed, accesses: 400 }).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{tally}");
        assert!(tally.through > 50 && tally.refused.len() > 5, "{tally}");
    }

    #[test]
    fn some_thousand_accesses_through_a_pcs_unit_agree_and_every_row_is_still_needed() {
        let mut needed = Vec::new();
        for stage in [Stage::Second, Stage::First] {
            if vtd::Theirs::for_test(stage).is_none() {
                return;
            }
            let options = Options { seed: 0x5eed, accesses: 2_000 };
            let tally = vtd::run(stage, options).unwrap_or_else(|failure| panic!("{failure}"));
            println!("{stage:?} stage\n{tally}");
            let modes = if stage == Stage::First { 2 } else { 4 };
            assert!(
                tally.through.len() == modes && tally.through.values().all(|count| *count > 5),
                "{tally}"
            );
            assert!(tally.refused.len() > 20, "{tally}");
            needed.extend(tally.corrected.into_keys());
        }
        let idle = vtd::ROWS.iter().filter(|row| !needed.contains(&row.what));
        assert_eq!(idle.map(|row| row.what).collect::<Vec<_>>(), [""; 0], "QEMU has learnt what a row says");
    }

    #[test]
    fn some_messages_through_a_pcs_unit_arrive_or_are_refused_alike_and_every_row_is_still_needed() {
        use vtd::interrupts::{ROWS, Theirs, run};
        if Theirs::for_test().is_none() {
            return;
        }
        let tally =
            run(Options { seed: 0x5eed, accesses: 1_200 }).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{tally}");
        assert!(tally.arrived > 150, "{tally}");
        // Not present, reserved, index, source, and silence.
        let reasons = [Some(0x21), Some(0x22), Some(0x24), Some(0x26), None];
        assert!(reasons.iter().all(|reason| tally.refused.contains_key(reason)), "{tally}");
        let idle = ROWS.iter().filter(|row| !tally.known.contains_key(row.what));
        assert_eq!(idle.map(|row| row.what).collect::<Vec<_>>(), [""; 0], "QEMU has learnt what a row says");
    }
}
