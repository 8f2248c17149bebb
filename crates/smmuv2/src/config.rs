//! What the embedder decides about one SMMU.

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_types::{SizeLg2, SourceId};

/// What firmware and embedder say about one SMMU. [`Config::new`] is right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// A name for people: where firmware says it is.
    pub name: String,
    /// Whether firmware says that the SMMU snoops the CPUs' caches (`dma-coherent`). Coherent walks are used where the hardware says so as well.
    pub coherent: bool,
    /// Whose design it is, which says what its own registers mean and which of its errata are worked around.
    pub implementation: Implementation,
    /// Which stage translates for domains.
    pub stage: Stage,
    /// The granule of page tables; the smallest that the hardware has if none, and also if it does not have this one.
    pub granule: Option<SizeLg2>,
    /// Bits of a domain's addresses, at most what hardware and granule can do; what they can do if none.
    pub input_bits: Option<u8>,
    /// Whether a faulting transaction waits until somebody has looked at its fault, where the hardware can do that. It is retried if the address is mapped
    /// by then, and terminated if not. A transaction that waits can hold up others, so this is off unless asked for.
    pub stall: bool,
    /// Streams that firmware uses while the machine boots, and that are to keep what they have until their device is first attached: what the
    /// hardware does with them when it is found, or a way around translation if it does nothing yet. Everybody else is blocked. Encoded
    /// as [`StreamMatch`](crate::StreamMatch) says.
    pub boot_streams: Vec<SourceId>,
    /// Whether a 64-bit write to a register reaches it as one.
    pub wide_writes: bool,
    /// Longest wait for the hardware, in nanoseconds.
    pub wait_limit_ns: u64,
}

impl Config {
    /// Coherent, of no known design, stage 1 where it is, everything else as the hardware can do it; faults terminate, nobody keeps anything from before;
    /// waits of at most one second.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            coherent: true,
            implementation: Implementation::Architecture,
            stage: Stage::Auto,
            granule: None,
            input_bits: None,
            stall: false,
            boot_streams: Vec::new(),
            wide_writes: true,
            wait_limit_ns: 1_000_000_000,
        }
    }
}

/// Whose design an SMMU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Implementation {
    /// Nothing is known beyond the architecture.
    #[default]
    Architecture,
    /// Arm's MMU-500.
    Mmu500,
}

/// Which stage translates for domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    /// Stage 1 if the hardware has it, else stage 2.
    #[default]
    Auto,
    /// Stage 1.
    One,
    /// Stage 2.
    Two,
}
