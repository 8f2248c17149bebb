//! The shipped driver on a bed.
//!
//! A case gets a [`Bench`], and from it a [`Rig`]: a driver that was probed, with each of the bed's engines a device of its own, blocked. The
//! end of a rig blocks and removes the devices and turns the SMMU off; that too must succeed.
//!
//! Not here: what a case does with a rig (`rig`).

use std::sync::Arc;

use portcullis::core::iommu::{HwDomain, Target};
use portcullis::smmuv3::{Config, Smmu, Stage};
use portcullis::types::SizeLg2;

use super::bed::Bed;
pub use super::rig::{Access, Rig, Seen, fetch, read, write};
use super::sight::Ids;
use super::via::{Hand, Via, ViaRegisters, between};

/// What a case answers: what is wrong.
pub type Outcome = Result<(), String>;

/// The driver on a bed.
pub type Driver<B> = Smmu<Via<<B as Bed>::Platform>, ViaRegisters<<B as Bed>::Registers>>;
/// A domain of it.
pub type Domain<B> = Arc<dyn HwDomain<Via<<B as Bed>::Platform>>>;
/// What a stream is attached to.
pub type Aim<B> = Target<Via<<B as Bed>::Platform>>;
/// Makes a wrong driver's hand for each rig.
pub type MakeHand = dyn Fn() -> Arc<dyn Hand> + Send + Sync;

/// Which page tables domains have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Stage 2 rather than stage 1.
    pub stage_2: bool,
    /// The granule.
    pub granule: SizeLg2,
}

/// Answers an error unless something holds.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

/// Where one case happens.
pub struct Bench<B: Bed> {
    /// The bed.
    pub bed: Arc<B>,
    /// What its SMMU says of itself.
    pub ids: Ids,
    /// Which page tables; the driver's choice if none.
    pub setting: Option<Setting>,
    /// What makes the driver wrong.
    pub wrong: Option<Arc<MakeHand>>,
}

impl<B: Bed> Bench<B> {
    /// Runs `act` on a rig as [`Config::new`] has it.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn with(&self, act: impl FnOnce(&Rig<B>) -> Outcome) -> Outcome {
        self.with_config(|_| {}, act)
    }

    /// The same, with something changed in the configuration.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn with_config(
        &self,
        change: impl FnOnce(&mut Config),
        act: impl FnOnce(&Rig<B>) -> Outcome,
    ) -> Outcome {
        self.with_hand(None, change, act)
    }

    /// The same, with a hand in the driver's way from the beginning.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn with_hand(
        &self,
        hand: Option<Arc<dyn Hand>>,
        change: impl FnOnce(&mut Config),
        act: impl FnOnce(&Rig<B>) -> Outcome,
    ) -> Outcome {
        let rig = self.rig(hand, change)?;
        let outcome = rig.add_devices().and_then(|()| act(&rig));
        let ended = rig.end();
        outcome.and(ended)
    }

    /// Runs `act` on a rig whose driver knows no device.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn without_devices(
        &self,
        change: impl FnOnce(&mut Config),
        act: impl FnOnce(&Rig<B>) -> Outcome,
    ) -> Outcome {
        let rig = self.rig(None, change)?;
        let outcome = act(&rig);
        let ended = rig.end();
        outcome.and(ended)
    }

    /// Probes. No devices are known yet.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn rig(
        &self,
        hand: Option<Arc<dyn Hand>>,
        change: impl FnOnce(&mut Config),
    ) -> Result<Rig<B>, String> {
        let (via, registers, between) =
            between(self.bed.platform(), self.bed.registers(), self.bed.coherent());
        let hands = self.wrong.iter().map(|make| make()).chain(hand);
        hands.for_each(|hand| between.put(hand));
        let mut config = Config::new("smmu");
        config.coherent = self.bed.coherent();
        // Long enough for a machine that is kept from its CPU, short enough for a wrong driver.
        config.wait_limit_ns = 200_000_000;
        if let Some(Setting { stage_2, granule }) = self.setting {
            config.stage = if stage_2 { Stage::Two } else { Stage::One };
            config.granule = Some(granule);
        }
        change(&mut config);
        let driver =
            Smmu::probe(via.clone(), registers, config).map_err(|error| format!("probe: {error:?}"))?;
        Rig::new(self.bed.clone(), via, between, driver)
    }
}
