//! What a device with translations of its own (an ATC) and its translator say to each other, and how an access is held back.
//!
//! Upstream, from a device: a [`TranslationRequest`], answered at once with a [`TranslationAnswer`]; accesses by translated
//! address ([`TranslatedRequest`]); a [`PageRequest`]; the completion of an invalidation ([`InvalidationDone`]). Downstream, from the translator: an
//! [`Invalidation`] and a [`PageResponse`], to whoever has the device ([`Downstream`]). All of them are messages: a translator sends
//! with no lock of its own held, and a device may answer from within.
//!
//! A device that has no ATC may be held back instead: its access is answered with a [`Stall`], and the device asks what became of it.
//!
//! Spec: PCIe 6.0, 10 "ATS Specification"; SMMUv3 H.a, 3.12.2 "Stall model".
//! Not here: an ATC (`model-devices`), what a translator answers (`model-smmuv3`).

use portcullis_types::{Access, Iova, Pa, Pasid, SourceId};

/// "Where is this page?" Spec: PCIe 6.0, 10.2.2 "Translation Requests".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationRequest {
    /// Who asks.
    pub source: SourceId,
    /// In which of its address spaces.
    pub pasid: Option<Pasid>,
    /// Which address: any in the page.
    pub iova: Iova,
    /// The device does not want to write: a permission to write need not be given, and a page need not be made dirty (No Write).
    pub no_write: bool,
    /// The device wants to fetch instructions (Execute Requested). Only with a PASID.
    pub execute: bool,
    /// The device is privileged (Privileged Mode Requested). Only with a PASID.
    pub privileged: bool,
}

/// A translation, for an ATC to keep. With neither read nor write it says that there is none, for the page of 4 KiB that was asked for.
///
/// Spec: PCIe 6.0, 10.2.3 "Translation Completion".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The first input address that it translates: a multiple of its size.
    pub first: Iova,
    /// Where that goes. Means nothing if neither read nor write is allowed.
    pub pa: Pa,
    /// log2 of how many bytes it translates, at least 12.
    pub size_lg2: u8,
    /// R: reading is allowed.
    pub read: bool,
    /// W: writing is allowed.
    pub write: bool,
    /// Exe: fetching instructions is allowed; only if it was asked for.
    pub execute: bool,
    /// Priv: R, W and Exe are those of a privileged access.
    pub privileged: bool,
    /// Global: the same in every PASID.
    pub global: bool,
    /// U: the range must be accessed untranslated.
    pub untranslated_only: bool,
}

/// What became of a [`TranslationRequest`]. Spec: PCIe 6.0, 10.2.3.1 "Translation Completion", status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TranslationAnswer {
    /// Success.
    Translated(Translation),
    /// Unsupported Request: there is no translating for this device; it is to stop asking.
    UnsupportedRequest,
    /// Completer Abort: this request went wrong.
    CompleterAbort,
}

/// An access by an address that the translator gave before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslatedRequest {
    /// Who.
    pub source: SourceId,
    /// In which of its address spaces, if the device says so.
    pub pasid: Option<Pasid>,
    /// At which translated address: physical, or intermediate where a second stage still follows.
    pub at: Pa,
    /// How many bytes, 1 to 4096, across no boundary of 4 KiB.
    pub len_bytes: u32,
    /// Doing what.
    pub access: Access,
}

/// "Make this page present." Spec: PCIe 6.0, 10.4.1 "Page Request Message".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Who asks.
    pub source: SourceId,
    /// In which of its address spaces.
    pub pasid: Option<Pasid>,
    /// Privileged Mode Requested.
    pub privileged: bool,
    /// Execute Requested.
    pub execute: bool,
    /// Which page: a multiple of 4 KiB.
    pub iova: Iova,
    /// Page Request Group Index, 9 bits.
    pub group: u16,
    /// L: the last of its group. With neither read nor write, and with a PASID, it is a stop marker.
    pub last: bool,
    /// R: the device wants to read.
    pub read: bool,
    /// W: the device wants to write.
    pub write: bool,
}

/// "Forget what you know of these addresses." Spec: PCIe 6.0, 10.3.1 "Invalidate Request".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// Whose ATC.
    pub source: SourceId,
    /// Of which address space; none for all of them.
    pub pasid: Option<Pasid>,
    /// G: also what is the same in every PASID. Only with a PASID.
    pub global: bool,
    /// The first address: a multiple of the size.
    pub first: Iova,
    /// log2 of how many bytes, 12 to 64.
    pub size_lg2: u8,
    /// ITag, 0 to 31: what the completion carries back.
    pub tag: u8,
}

/// What an ATC answers to an [`Invalidation`] when no access that uses what was to be forgotten is under way any more.
/// Spec: PCIe 6.0, 10.3.2 "Invalidate Completion".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidationDone {
    /// Whose ATC.
    pub source: SourceId,
    /// The ITags that are done, one bit each.
    pub tags: u32,
}

/// What became of a group of page requests. Spec: PCIe 6.0, 10.4.2 "Page Request Group Response Message".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageResponse {
    /// To whom.
    pub source: SourceId,
    /// In which address space, if the response says so.
    pub pasid: Option<Pasid>,
    /// Page Request Group Index.
    pub group: u16,
    /// Response Code as on the link: 0 Success, 1 Invalid Request, 15 Response Failure.
    pub code: u8,
}

/// Who takes messages to devices: a root complex. Called with no lock of the translator's held.
pub trait Downstream: Send + Sync {
    /// Takes an invalidation to its device, which answers with an [`InvalidationDone`], now or later, or never. False if no device with that id
    /// is there, or it has no ATC: then the message came back as an Unsupported Request.
    fn invalidate(&self, message: &Invalidation) -> bool;

    /// Takes a response to its device. False if no device with that id is there.
    fn page_response(&self, message: &PageResponse) -> bool;
}

/// An access that is held back, by a number that its translator gives out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stall(pub u64);

/// What became of an access that was held back. Everything but [`Waiting`](Self::Waiting) is said once: then the number means nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum StallState {
    /// Software has not answered.
    Waiting,
    /// The access is to be made again, as if it came for the first time.
    Retry,
    /// It was ended; the device sees an abort.
    Aborted,
    /// It was ended; the device sees zeroes, and what it wrote is gone.
    Ignored,
}
