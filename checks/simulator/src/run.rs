//! Lives, one after the other, until enough steps are done or somebody objects.

use crate::cover::Coverage;
use crate::life::{self, Manner};
use crate::options::{Objection, Options, Summary};
use crate::oracle::Wrong;
use crate::shrink;

/// The most operations of a life's plan. Some lives are shorter.
const LIFE: usize = 6000;

/// Runs lives until `options.steps` operations are done.
///
/// # Errors
///
/// A promise was broken.
pub fn run(options: &Options) -> Result<Summary, Objection> {
    run_while(options, &mut |_| true)
}

/// The same, and asks after every life whether to go on.
///
/// # Errors
///
/// A promise was broken.
pub fn run_while(options: &Options, go_on: &mut dyn FnMut(&Summary) -> bool) -> Result<Summary, Objection> {
    let mut sum = Summary { coverage: Coverage::on(options.machine), ..Summary::default() };
    let mut seed = options.seed;
    while sum.steps < options.steps {
        let manner = Manner { seed, machine: options.machine, lines: false };
        let options = &Options { faults: options.faults && options.threads == 1, ..*options };
        let plan = life::draw(seed, life::kind_of(seed, options.machine), options, LIFE);
        let most = usize::try_from(options.steps - sum.steps).unwrap_or(LIFE);
        let plan = &plan[..plan.len().min(most.max(1))];
        if options.threads > 1 {
            let report = life::crowd(manner, plan, options.threads);
            if let Some((wrong, at)) = report.wrong {
                return Err(told_of_many(options, seed, wrong, at));
            }
            sum.add(&report.summary);
            seed = seed.wrapping_add(1);
            if !go_on(&sum) {
                break;
            }
            continue;
        }
        let report = life::live(manner, plan);
        if let Some((wrong, at)) = report.wrong {
            return Err(shrink::told(options, manner, plan, wrong, at));
        }
        sum.add(&report.summary);
        seed = life::next_seed(seed, options.machine, &sum.coverage, options.spared);
        if !go_on(&sum) {
            break;
        }
    }
    Ok(sum)
}

/// An objection to what several threads did: there is no trace that would come again.
fn told_of_many(options: &Options, seed: u64, wrong: Wrong, step: u64) -> Objection {
    let Wrong { promise, what } = wrong;
    let replay = format!(
        "portcullis sim --seed {seed:#x} --machine {} --threads {}, as often as it takes",
        options.machine.name(),
        options.threads
    );
    Objection { promise, step, what, seed, trace: Vec::new(), replay }
}
