//! The lab: machines of strict models, the drivers at work on them, and proof of what they did.
//!
//! A library that never prints. [`run()`] builds a machine, boots it from its firmware tables as a kernel would, does a workload on an
//! input, and answers a [`Report`] if everything could be verified, else a [`RunError`] that says what went wrong, where, and what to try.
//!
//! | room | what |
//! |---|---|
//! | [`machine`] | what machines consist of; their models; their device trees |
//! | [`platform`] | the `hal` seams over the models' bus |
//! | [`boot`] | discovery: what an operating system that embeds Portcullis does at start |
//! | [`process`] | the memory of processes, which devices may share |
//! | [`vfio`] | what a kernel puts around VFIO: drivers, open files, system calls |
//! | [`workload`] | the work |
//! | [`tamper`], [`seam`] | where `checks` makes right drivers wrong |
//!
//! Not here: the models themselves, and everything that prints (`cli`).
#![forbid(unsafe_code)]

pub mod boot;
pub mod error;
pub mod input;
pub mod machine;
pub mod machines;
pub mod platform;
pub mod process;
pub mod report;
mod run;
pub mod seam;
pub mod tamper;
pub mod trace;
mod tree;
pub mod vfio;
pub mod workload;

pub use error::RunError;
pub use input::Input;
pub use machines::MachineChoice;
pub use report::Report;
pub use run::{RunRequest, SvaOptions, VfioOptions, run};
pub use workload::spapr::Windows;
pub use workload::sva::DeviceKind;
