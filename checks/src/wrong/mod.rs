//! Wrong drivers: the right one, with something between it and the machine that makes one thing wrong.
//!
//! Not a line of the driver is changed, so that what is caught here is caught in whatever the driver becomes. A [`Trial`] runs the `dma`
//! workload with a [`Tamper`] and answers what caught it.
//!
//! | room | what it makes wrong |
//! |---|---|
//! | [`commands`] | commands: left out, changed, one batch late |
//! | [`descriptors`] | nothing by itself: the queue in which VT-d has its commands |
//! | [`entries`] | stream table entries: words exchanged, bits shifted, written too late or in the wrong order |
//! | [`memory`] | barriers, page tables, write-backs |
//! | [`registers`] | values in registers, and what is read from them |
//! | [`script`] | nothing by itself: every operation of the driver, with a look after each |
//! | [`seam`] | what core asks of the driver: maps, unmaps, syncs left out |
//!
//! [`view`] is what they share: where the hardware's structures lie, learnt from the registers.

pub mod commands;
pub mod descriptors;
pub mod entries;
pub mod memory;
pub mod registers;
pub mod script;
pub mod seam;
pub mod view;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use model_smmuv3::Policy;
use portcullis::core::domain::FlushMode;
use portcullis_lab::input::Opened;
use portcullis_lab::machine::{MachineSpec, builtin};
use portcullis_lab::tamper::Tamper;
use portcullis_lab::trace;
use portcullis_lab::workload::dma;

/// A run of the `dma` workload that is to fail.
#[derive(Clone, Debug)]
pub struct Trial {
    spec: MachineSpec,
    /// How many bytes are read.
    pub bytes: usize,
    /// What decides the models' dice.
    pub seed: u64,
}

impl Trial {
    /// A trial on a built-in machine, with hardware that keeps what it has cached, and 300 KiB.
    ///
    /// # Panics
    ///
    /// If there is no such machine.
    pub fn on(machine: &str) -> Self {
        let spec = builtin::find(machine).unwrap_or_else(|| panic!("there is no machine {machine}"));
        Self { spec, bytes: 300 << 10, seed: 1 }
    }

    /// With hardware that uses its freedom in this way.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.spec.smmus.iter_mut().for_each(|smmu| smmu.config.policy = policy);
        self
    }

    /// With no memory that firmware uses by DMA. A disk that firmware uses passes from the first store on, so that its entry is changed
    /// while it is in force, and is never made anew.
    #[must_use]
    pub fn unused_by_firmware(mut self) -> Self {
        self.spec.reserved.retain(|region| region.memory.is_none());
        self
    }

    /// With no device but the first disk: fewer commands than the shortest queue holds.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.spec.host_bridges.iter_mut().for_each(|bridge| bridge.slots.truncate(1));
        self.spec.accelerators.clear();
        self
    }

    /// With other dice.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With an input of another size.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Runs. Answers what caught the tamper; none if nothing did.
    pub fn run(&self, tamper: Arc<dyn Tamper>) -> Option<String> {
        let input = Opened::beginning_of_sample(self.bytes);
        let job = dma::Job {
            spec: self.spec.clone(),
            device_tree: None,
            input: &input,
            seed: self.seed,
            mode: FlushMode::Strict,
            sink: trace::shared(None),
            tamper: Some(tamper),
            progress: None,
        };
        // A panic is the lab's way to say that a CPU did what ends in an abort or in a broken heap.
        match catch_unwind(AssertUnwindSafe(|| dma::run(&job))) {
            Ok(run) => run.err().map(|error| error.to_string()),
            Err(panic) => Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
        }
    }

    /// Runs, and demands that the tamper is caught and that what caught it says each of `words`.
    ///
    /// # Panics
    ///
    /// If it is not caught, or for another reason.
    pub fn catches(&self, tamper: Arc<dyn Tamper>, words: &[&str]) {
        let Some(said) = self.run(tamper) else {
            panic!("nothing noticed it on {}, seed {}", self.spec.name, self.seed)
        };
        for word in words {
            assert!(said.contains(word), "on {}: `{word}` is not in: {said}", self.spec.name);
        }
    }
}

/// Hardware that fetches configuration ahead whenever it can, and forgets nothing unasked.
pub const fn fetching_ahead() -> Policy {
    Policy { prefetch_streams_one_in: 1, ..Policy::stale() }
}
