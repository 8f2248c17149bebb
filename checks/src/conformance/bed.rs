//! A test bed: an IOMMU that something else than its driver can be asked about.
//!
//! A [`Bed`] has a machine behind it: ours, of models, or one of QEMU. It gives the driver a platform and registers, and the suite
//! DMA engines. What an engine did is judged by memory, not by what the engine says: some do not say.

use std::sync::Arc;

use portcullis::hal::{Platform, Registers};
use portcullis::types::{AccessKind, Pa, SourceId};

/// An IOMMU with DMA engines in front of it and memory behind it.
pub trait Bed: Send + Sync + 'static {
    /// The `hal` seams over its machine.
    type Platform: Platform;
    /// Its IOMMU's registers.
    type Registers: Registers + Clone + 'static;

    /// What it is called in the pinned files: `model-arm`, `qemu-7`.
    fn name(&self) -> &str;

    /// Its memory and its time.
    fn platform(&self) -> Arc<Self::Platform>;

    /// Its IOMMU's registers, from the first.
    fn registers(&self) -> Self::Registers;

    /// Its DMA engines: at least three, of three streams below 64.
    fn engines(&self) -> &[Engine];

    /// What it cannot be asked, although its SMMU may do it.
    fn limits(&self) -> Limits;

    /// Does these accesses, one after the other. Answers what became of each.
    ///
    /// `way_out` is an address at which each engine may write a page: for those whose buffer can be seen only so.
    fn carry_out(&self, asks: &[Ask], way_out: Option<WayOut>) -> Vec<Carried>;

    /// What was done since the last call that the book forbids. Empty where nobody looks.
    fn complaints(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the IOMMU reads memory through the CPU's caches, as firmware says.
    fn coherent(&self) -> bool {
        true
    }

    /// Bits of a physical address, as firmware says.
    fn host_address_bits(&self) -> u8 {
        48
    }

    /// Has an engine write a message: four bytes of its choice. Answers the vectors that CPUs got since the last call; none if nobody can be asked.
    fn send_message(&self, _engine: usize, _at: u64, _data: u32) -> Option<Vec<u8>> {
        None
    }
}

/// Somebody who does DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Who it is to the SMMU.
    pub stream: SourceId,
    /// Whether it reads memory as well as writing it.
    pub reads: bool,
}

/// What a bed cannot show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Engines can mark accesses as privileged, and as fetches of instructions.
    pub marks: bool,
    /// Engines can have PASIDs.
    pub pasids: bool,
}

/// What an engine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which engine.
    pub engine: usize,
    /// In which of its address spaces.
    pub pasid: Option<u32>,
    /// At which address.
    pub at: u64,
    /// How many bytes, at least 1 and at most [`MOST_BYTES`].
    pub len: usize,
    /// What.
    pub kind: AccessKind,
    /// Whether it is marked as privileged.
    pub privileged: bool,
}

/// The most bytes of an access.
pub const MOST_BYTES: usize = 256;

/// Where an engine may write what it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// As engines call it.
    pub iova: u64,
    /// Where it is in memory.
    pub pa: Pa,
}

/// What became of an access, as far as its engine can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Of a write, the bytes that were sent. Of a read, what is in the engine's buffer now: what was read, or what was there before.
    pub bytes: Vec<u8>,
    /// Whether it was refused; none if the engine is not told.
    pub refused: Option<bool>,
}
