//! Running the cases of core's seam on a bed, over every kind of table.
//!
//! Not here: what is demanded of a report, and the pinned files (`conformance::suite`).

use std::sync::Arc;

use super::Vendor;
use super::rig::Rig;
use crate::conformance::bed::Bed;
use crate::conformance::bench::Outcome;
use crate::conformance::suite::{Report, outcome};
use crate::conformance::via::{Hand, between};

/// Makes a wrong driver's hand for each rig.
pub type MakeHand = fn() -> Arc<dyn Hand>;

/// One thing that holds on every bed that has what it needs.
pub struct Case<B: Bed, V: Vendor> {
    /// A sentence that says what.
    pub name: &'static str,
    /// Why it cannot be asked of a bed and a kind of table; none if it can.
    pub missing: fn(&Bench<B, V>) -> Option<String>,
    /// Whether it has the hardware do what the book forbids software to ask for.
    pub rude: bool,
    /// It.
    pub run: fn(&Bench<B, V>) -> Outcome,
}

impl<B: Bed, V: Vendor> Case<B, V> {
    /// A case that needs nothing.
    pub const fn new(name: &'static str, run: fn(&Bench<B, V>) -> Outcome) -> Self {
        Self { name, missing: |_| None, rude: false, run }
    }

    /// The same case, left out where this answers a reason.
    #[must_use]
    pub const fn unless(self, missing: fn(&Bench<B, V>) -> Option<String>) -> Self {
        Self { missing, ..self }
    }

    /// The same case, of which a strict model may complain.
    #[must_use]
    pub const fn rude(self) -> Self {
        Self { rude: true, ..self }
    }
}

/// Where one case happens.
pub struct Bench<B: Bed, V: Vendor> {
    /// The bed.
    pub bed: Arc<B>,
    /// Which kind of table.
    pub setting: V::Setting,
    /// What makes the driver wrong.
    pub wrong: Option<MakeHand>,
}

impl<B: Bed, V: Vendor> Bench<B, V> {
    /// Runs `act` on a rig with the engines' devices, all blocked.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn with(&self, act: impl FnOnce(&Rig<B, V>) -> Outcome) -> Outcome {
        self.with_config(|_| {}, |rig| rig.add_devices().and_then(|()| act(rig)))
    }

    /// Runs `act` on a rig that knows no device, with something changed in the configuration.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn with_config(
        &self,
        change: impl FnOnce(&mut V::Config),
        act: impl FnOnce(&Rig<B, V>) -> Outcome,
    ) -> Outcome {
        let bed = &self.bed;
        let (via, registers, between) = between(bed.platform(), bed.registers(), bed.coherent());
        self.wrong.into_iter().for_each(|make| between.put(make()));
        let mut config = V::config(&**bed, self.setting);
        change(&mut config);
        let driver = V::probe::<B>(via.clone(), registers, config)?;
        let rig = Rig::new(bed.clone(), via, driver, self.setting)?;
        let outcome = act(&rig);
        let ended = rig.end();
        outcome.and(ended)
    }
}

/// Runs every case.
pub fn run<B: Bed, V: Vendor>(bed: &Arc<B>) -> Report {
    run_with::<B, V>(bed, None)
}

/// Runs cases with a wrong driver until one does not hold: its title, and what was seen. None if all hold.
pub fn first_failure<B: Bed, V: Vendor>(bed: &Arc<B>, wrong: MakeHand) -> Option<(String, String)> {
    run_with::<B, V>(bed, Some(wrong)).failed.into_iter().next()
}

fn run_with<B: Bed, V: Vendor>(bed: &Arc<B>, wrong: Option<MakeHand>) -> Report {
    let mut report = Report::default();
    let mut cases = super::cases::all::<B, V>();
    cases.extend(V::cases());
    cases.extend(super::nested::all::<B, V>());
    for case in &cases {
        for (kind, setting) in V::settings() {
            let title = format!("{} ({kind})", case.name);
            let bench = Bench { bed: bed.clone(), setting, wrong };
            let missing = V::missing(&**bed, setting).or_else(|| (case.missing)(&bench));
            if let Some(reason) = missing {
                report.skipped.push((title, reason));
                continue;
            }
            report.take(bed.name(), title, outcome(&**bed, case.rude, || (case.run)(&bench)));
            if wrong.is_some() && !report.failed.is_empty() {
                return report;
            }
        }
    }
    report
}
