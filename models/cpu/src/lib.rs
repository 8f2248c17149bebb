//! A CPU's view of memory: user code's loads, stores and fetches by virtual address, through tables that the CPU walks by itself.
//!
//! [`Cpus`] are the CPUs of one machine; a [`Cpu`] is one of them, and runs what its [`Context`] says. An access walks the
//! VMSAv8-64 stage 1 table of the lower half (TTBR0) or is served by the TLB; what is refused is a [`Fault`] with the level of the walk.
//! Software keeps the TLBs honest with [`Tlbi`] operations, which reach every CPU and every [`BroadcastListener`].
//!
//! The model is as unkind as the architecture allows, in ways that a seed decides ([`TlbPolicy`]): walkers read behind the store buffer, TLBs
//! keep what is stale until a completed TLBI, also for parts of a walk, and fill by speculation; a TLBI takes effect at the barrier
//! after it, or earlier. What the architecture calls unpredictable is done in some way and remembered ([`Unpredictable`]).
//!
//! Spec: Arm ARM DDI 0487, D8 "The AArch64 Virtual Memory System Architecture". Written from the book alone: nothing here is
//! shared with another walker or with those who write tables.
//! CPUs of x86-64, with the same shape, are in [`x86`].
//! Not here: the upper half (TTBR1), privileged accesses, stage 2, memory types beyond whether they are a device's.
#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts have 64 bits, and offsets in a page fit anything"
)]

mod conflict;
mod context;
mod cpus;
mod descriptor;
mod fault;
mod features;
mod policy;
mod pool;
mod registers;
mod tlb;
mod tlbi;
mod walk;
pub mod x86;

pub use conflict::Unpredictable;
pub use context::{Context, Granule};
pub use cpus::{Cpu, Cpus, Translation};
pub use fault::{Fault, FaultKind};
pub use features::{CpuFeatures, HardwareUpdate};
pub use policy::TlbPolicy;
pub use tlbi::{BroadcastListener, Message, Regime, Tlbi};
