//! What the benches share: nothing yet but this crate's place. Each bench is a program of its own in `benches/`, prints its figure beside its
//! peer's from the same run, and fails if the bar is missed.
