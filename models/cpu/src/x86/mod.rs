//! x86-64 CPUs: user code's loads, stores and fetches by linear address, through 4- and 5-level tables that the CPU walks by itself.
//!
//! The shape is that of the Arm CPUs beside it, call for call, so that who runs processes can hold either:
//!
//! | what | here | Arm |
//! |---|---|---|
//! | the machine's CPUs, and one of them | [`Cpus`], [`Cpu`] | [`Cpus`](crate::Cpus), [`Cpu`](crate::Cpu) |
//! | what they can do | [`CpuFeatures`] | [`CpuFeatures`](crate::CpuFeatures) |
//! | by which table | [`Context`]: CR3 with PCID, CR4, EFER ([`Context::new`]) | TTBR0 with ASID, TCR, MAIR |
//! | run it | [`Cpu::switch_to`] | the same |
//! | user's accesses | [`Cpu::load`], [`Cpu::store`], [`Cpu::fetch`], [`Cpu::translate`] | the same |
//! | refused | [`Fault`] with [`Fault::error_code`] | fault with a status code |
//! | forget | [`Cpu::invalidate`] an [`Invalidation`]: this CPU alone, at once | `tlbi` to all, then `barrier` |
//! | forget everywhere | [`Cpus::shoot_down`]: an interrupt to each CPU named, done when it returns; [`Invalidation::of_range`] says what for (PCID, range) | `tlbi` |
//! | dirty and accessed | set by the CPU, always, with locked updates | if `HardwareUpdate` says so |
//! | broken rules | [`Cpus::unpredictable`] | the same |
//!
//! `switch_to` is MOV to CR3: without [`Context::KEEP`] the CPU forgets what it holds of that PCID; with it, it keeps all, and software answers for
//! it. A CPU that runs nothing (`None`) keeps what it holds too.
//!
//! The model is as unkind as the architecture allows, in ways that the seed of a [`TlbPolicy`](crate::TlbPolicy) decides: walkers read behind the store buffer,
//! TLBs and paging-structure caches keep what is stale until it is invalidated or a page fault throws it out, large pages are held in pieces, walks are
//! made for what nobody asked for, and more may be forgotten than was asked (`early_one_in`). What the book warns of is done in some way and remembered.
//!
//! Spec: Intel SDM volume 3A, chapter 4 "Paging", and volume 2A, "INVPCID"; "INVLPG". Written from the book alone.
//! Not here: supervisor accesses (hence CR0.WP, SMEP, SMAP), protection keys, memory types beyond their number, other paging modes, HLAT and nested paging.
//!
//! Locking: one lock stands around all TLBs. An access holds it from its translation until its last byte in a page has moved, and an invalidation takes
//! effect under it: hence a completed one has waited for every access that used what it made forgotten.

mod conflict;
mod context;
mod cpu;
mod cpus;
mod entry;
mod fault;
mod features;
mod invalidation;
mod tlb;
mod walk;

pub use context::Context;
pub use cpu::{Cpu, Translation};
pub use cpus::Cpus;
pub use fault::{Fault, FaultKind};
pub use features::CpuFeatures;
pub use invalidation::Invalidation;
