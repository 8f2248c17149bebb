//! The seams between models.
//!
//! Not here: what devices with an ATC say, and stalls (`services`).

use std::sync::Weak;

use portcullis_types::{Access, Iova, Pa, Pasid, SourceId};

use crate::{
    Downstream, InvalidationDone, PageRequest, Stall, StallState, TranslatedRequest, TranslationAnswer,
    TranslationRequest,
};

/// Width of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    Bits8,
    /// Two bytes.
    Bits16,
    /// Four bytes.
    Bits32,
    /// Eight bytes.
    Bits64,
}

impl Width {
    /// The width in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Bits8 => 1,
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// Registers of a model, as the CPU sees them. Offsets are from the region's base, naturally aligned.
pub trait Mmio: Send + Sync {
    /// Reads a register. Unimplemented ones read as the model's book says, usually 0.
    fn read(&self, offset: u64, width: Width) -> u64;
    /// Writes a register.
    fn write(&self, offset: u64, width: Width, value: u64);
}

/// A model that goes on by itself as time passes.
pub trait Clocked: Send + Sync {
    /// Does some of the work that is waiting, up to the model's own idea of a step, at time `now_ns`. Answers whether there was any.
    fn step(&self, now_ns: u64) -> bool;

    /// Whether steps do nothing, draw nothing and answer that there was no work, however late it becomes, until somebody reaches the model from outside.
    fn is_idle(&self) -> bool {
        false
    }
}

/// Nothing answered at an address, or what answered refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError {
    /// Where.
    pub at: Pa,
}

/// A write on the system side of the IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where to.
    pub at: Pa,
    /// The bytes.
    pub bytes: &'a [u8],
    /// Who writes, for an interrupt controller that tells devices apart (the DeviceID of an ITS). None for the IOMMU's walker.
    pub source: Option<SourceId>,
}

/// The system side: physical addresses, as hardware sees them (not through the CPU's store buffer).
///
/// Words are little-endian. An aligned access of up to 8 bytes that does not cross an 8-byte boundary is single-copy atomic.
pub trait Fabric: Send + Sync {
    /// Reads bytes. Anything but RAM is an error for reads longer than 8 bytes.
    ///
    /// # Errors
    ///
    /// Nothing answered at some byte; then `into` holds nothing of worth.
    fn read(&self, at: Pa, into: &mut [u8]) -> Result<(), BusError>;

    /// Writes bytes to RAM, a register, or a doorbell.
    ///
    /// # Errors
    ///
    /// Nothing answered at some byte, or a doorbell refused; bytes before it may have been written.
    fn write(&self, write: Write<'_>) -> Result<(), BusError>;

    /// Stores `new` at `at`, a multiple of 8, if `current` is there. Answers what was there.
    ///
    /// # Errors
    ///
    /// No RAM there.
    fn compare_exchange(&self, at: Pa, current: u64, new: u64) -> Result<u64, BusError>;

    /// Time on the bus, in nanoseconds.
    fn now_ns(&self) -> u64;
}

/// What a requester asks of a translator: an access of `len_bytes` bytes at `iova`, which the requester has cut so that it crosses no 4 KiB boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who.
    pub source: SourceId,
    /// In which of its address spaces.
    pub pasid: Option<Pasid>,
    /// At which address.
    pub iova: Iova,
    /// How many bytes, 1 to 4096.
    pub len_bytes: u32,
    /// Doing what.
    pub access: Access,
}

/// Where a request was let through to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The physical address of the first byte. All `len_bytes` bytes follow it.
    pub pa: Pa,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was let through, and `commit` was called.
    Done,
    /// It was let through, but what it reached did not answer. `commit` was called.
    BusError(BusError),
    /// It was refused; the device sees an abort.
    Aborted,
    /// It was refused in silence: the device sees zeroes, and its writes are gone. `commit` was not called.
    Ignored,
    /// It is held back: the device is to ask [`Translator::stalled`] what becomes of it. `commit` was not called.
    Stalled(Stall),
}

/// What stands between a requester and memory.
pub trait Translator: Send + Sync {
    /// Judges a request, and, if it is let through, calls `commit` once with where it goes.
    ///
    /// The translation stays in force while `commit` runs: an invalidation that completes afterwards has waited for it. That
    /// is how "a completed sync means that no access is still under way" is kept on real threads.
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome;

    /// What became of an access that was held back. A number that this translator did not give out, or has answered before, is
    /// [`StallState::Aborted`].
    fn stalled(&self, stall: Stall) -> StallState {
        let _ = stall;
        StallState::Aborted
    }

    /// Answers a translation request.
    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        let _ = request;
        TranslationAnswer::UnsupportedRequest
    }

    /// Judges an access by a translated address. `commit` as for [`access`](Self::access).
    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        let _ = (request, commit);
        Outcome::Aborted
    }

    /// Takes a page request, which is answered downstream, or never.
    fn request_page(&self, request: &PageRequest) {
        let _ = request;
    }

    /// Takes the completion of invalidations.
    fn invalidation_done(&self, done: &InvalidationDone) {
        let _ = done;
    }

    /// Makes a way down known, for messages to devices. There may be several: each knows its own.
    fn connect(&self, downstream: Weak<dyn Downstream>) {
        let _ = downstream;
    }
}
