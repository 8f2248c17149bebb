//! A short run, with every other test. The long one is `cargo xtask differential`.

mod on_qemu {
    use portcullis_differential::phb3;
    use portcullis_differential::run::{self, Options};
    use portcullis_differential::theirs::Theirs;

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
}
