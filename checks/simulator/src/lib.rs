//! Whole lives of a machine, drawn from a seed: the shipped drivers on the models, under every fault, before an oracle that holds every access, answer,
//! free, claim and release against the promises.
//!
//! ```no_run
//! let summary = portcullis_simulator::run(&portcullis_simulator::Options::new(7, 10_000))?;
//! println!("{} steps, {} checks", summary.steps, summary.checks());
//! # Ok::<(), portcullis_simulator::Objection>(())
//! ```
//!
//! A *life* is a machine and a plan, both drawn from one seed. The same seed is the same life, byte for byte ([`Summary::hash`]).
//!
//! | room | what |
//! |---|---|
//! | `life` | operations, plans, and what operations do |
//! | `machine` | models, devices, the CPU that drivers run on |
//! | `oracle` | who may reach what, and who says so |
//! | `fault` | what goes wrong |
//! | `hub` | where they meet, and who gets turns |
//! | `cover` | which operations met which faults |
//! | `shrink` | the shortest trace |
//!
//! Not here: the command (`cli`), mutants (`xtask`).

mod cover;
mod fault;
mod hub;
mod life;
mod machine;
mod options;
mod oracle;
mod promise;
mod run;
mod shrink;
mod trace;

pub use cover::{Coverage, impossible};
pub use fault::FaultKind;
pub use life::OpKind;
pub use options::{MachineKind, Objection, Options, Summary};
pub use promise::Promise;
pub use run::{run, run_while};
