//! Lives of machines from seeds that nobody has chosen, so that each run of the tests sees some that none has seen before.
//!
//! An objection is a failure, whatever the change at hand is: it prints the command that lives the life again. Not here: the lives themselves, and the seeds
//! that are lived every time (`checks/simulator`).

use crate::random::fresh_seed;
use crate::shell::{self, cargo};
use crate::stage::Passed;

/// The test, by its name. One that is not there would pass.
const TEST: &str = "fresh_lives_keep_every_promise";

/// Has the simulator's own test live them, on every machine that is drawn, and tells the seed that they begin with.
///
/// # Errors
///
/// That a promise was broken; which, and how to see it again, has been printed.
pub(crate) fn fresh() -> Result<Passed, String> {
    let seed = fresh_seed();
    // The whole workspace, so that crates have the features that they were built with for all other tests.
    let test = ["test", "--workspace", "--quiet", "--test", "lives", "--"];
    let chosen = ["--ignored", "--exact", TEST, "--nocapture"];
    shell::run(cargo().args(test).args(chosen).env("SIM_SEED", seed.to_string()))?;
    Ok(Passed::Done(format!("from seed {seed:#x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_is_there() {
        let lives = std::fs::read_to_string(shell::root().join("checks/simulator/tests/lives.rs")).unwrap();
        assert!(lives.contains(&format!("fn {TEST}()")));
    }
}
