//! A requester's way out: a DMA of any length, cut, translated and carried out.
//!
//! A device without an ATC uses [`Port::read`] and [`Port::write`]; one with an ATC asks with [`Port::translate`], and uses
//! [`Port::read_translated`] and [`Port::write_translated`] for what it was answered.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_types::{Access, Iova, Pa, Pasid, SourceId};

use crate::{
    BusError, Fabric, InvalidationDone, Outcome, PageRequest, Passage, Request, Stall, StallState,
    TranslatedRequest, TranslationAnswer, TranslationRequest, Translator, Write,
};

/// What no request crosses. Spec: PCIe 6.0, 2.2.7 "Memory, I/O, and Configuration Request Rules": requests do not cross 4 KiB.
const BOUNDARY_BYTES: u64 = 4096;

/// Where one source's requests go out.
///
/// Each request is judged by the [`Translator`]; bytes move, and are counted, only inside what it lets through.
pub struct Port {
    /// Who the IOMMU takes the requester for.
    source: AtomicU32,
    /// Who an interrupt controller takes it for.
    device_id: AtomicU32,
    translator: Arc<dyn Translator>,
    fabric: Arc<dyn Fabric>,
    traffic: Counters,
    by_pasid: Mutex<BTreeMap<Pasid, Moved>>,
}

/// Bytes that went through in one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes that were read from memory.
    pub read_bytes: u64,
    /// Bytes that were written to memory.
    pub written_bytes: u64,
}

/// Why a DMA stopped. Requests before it were carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaError {
    /// The IOMMU refused a request.
    Aborted {
        /// The first address of the request.
        at: Iova,
    },
    /// It was let through, but nothing answered.
    Bus {
        /// The first address of the request.
        at: Iova,
        /// What went wrong behind the IOMMU.
        error: BusError,
    },
    /// A request is held back. The DMA is to be taken up again at `at`, when [`Port::stalled`] says so.
    Stalled {
        /// The first address of the request.
        at: Iova,
        /// By which to ask for it.
        stall: Stall,
    },
    /// The addresses run past the end of the address space.
    Wraps {
        /// Where the DMA begins.
        at: Iova,
    },
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted { at } => write!(f, "access to {at} aborted"),
            Self::Bus { at, error } => {
                write!(f, "access to {at} reached {}, where nothing answers", error.at)
            }
            Self::Stalled { at, .. } => write!(f, "access to {at} held back"),
            Self::Wraps { at } => write!(f, "an access at {at} runs past the last address"),
        }
    }
}

impl core::error::Error for DmaError {}

/// What a port has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes that were read from memory, each through an access that was let through.
    pub read_bytes: u64,
    /// Bytes that were written to memory, each through an access that was let through.
    pub written_bytes: u64,
    /// Messages (interrupts) that reached what they were sent to.
    pub messages: u64,
    /// Requests that were aborted, or met an error on the bus.
    pub failed: u64,
    /// Requests that were dropped in silence.
    pub ignored: u64,
}

#[derive(Default)]
struct Counters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    messages: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, traffic) = (self.source(), self.traffic());
        f.debug_struct("Port").field("source", &source).field("traffic", &traffic).finish_non_exhaustive()
    }
}

impl Port {
    /// A port of `source`, which is also its name at an interrupt controller.
    pub fn new(source: SourceId, translator: Arc<dyn Translator>, fabric: Arc<dyn Fabric>) -> Self {
        Self {
            source: AtomicU32::new(source.0),
            device_id: AtomicU32::new(source.0),
            translator,
            fabric,
            traffic: Counters::default(),
            by_pasid: Mutex::default(),
        }
    }

    /// Who the IOMMU takes the requester for.
    pub fn source(&self) -> SourceId {
        SourceId(self.source.load(Ordering::Relaxed))
    }

    /// Who an interrupt controller takes the requester for.
    pub fn device_id(&self) -> SourceId {
        SourceId(self.device_id.load(Ordering::Relaxed))
    }

    /// Changes who the requester is taken for: it got another bus number.
    pub fn rename(&self, source: SourceId, device_id: SourceId) {
        self.source.store(source.0, Ordering::Relaxed);
        self.device_id.store(device_id.0, Ordering::Relaxed);
    }

    /// What went through so far.
    pub fn traffic(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            read_bytes: get(&self.traffic.read_bytes),
            written_bytes: get(&self.traffic.written_bytes),
            messages: get(&self.traffic.messages),
            failed: get(&self.traffic.failed),
            ignored: get(&self.traffic.ignored),
        }
    }

    /// What went through so far in one address space: part of [`traffic`](Self::traffic).
    pub fn moved(&self, pasid: Pasid) -> Moved {
        let by_pasid = self.by_pasid.lock().unwrap_or_else(PoisonError::into_inner);
        by_pasid.get(&pasid).copied().unwrap_or_default()
    }

    /// Reads memory. What was refused in silence reads as zeroes.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says, for the first request that failed.
    pub fn read(&self, pasid: Option<Pasid>, iova: Iova, into: &mut [u8]) -> Result<(), DmaError> {
        for (at, run) in cut(iova, into.len())? {
            let bytes = &mut into[run];
            let request = self.request(pasid, at, bytes.len(), Access::READ);
            let outcome =
                self.translator.access(&request, &mut |Passage { pa }| self.fabric.read(pa, &mut *bytes));
            match self.judge(at, outcome)? {
                Carried::Out => self.count_read(pasid, bytes.len() as u64),
                Carried::Nowhere => bytes.fill(0),
            }
        }
        Ok(())
    }

    /// Reads memory at a translated address.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says, of addresses that are translated.
    pub fn read_translated(&self, pasid: Option<Pasid>, from: Pa, into: &mut [u8]) -> Result<(), DmaError> {
        for (at, run) in cut(Iova::new(from.get()), into.len())? {
            let bytes = &mut into[run];
            let request = self.translated(pasid, at, bytes.len(), Access::READ);
            let outcome = self
                .translator
                .access_translated(&request, &mut |Passage { pa }| self.fabric.read(pa, &mut *bytes));
            match self.judge(at, outcome)? {
                Carried::Out => self.count_read(pasid, bytes.len() as u64),
                Carried::Nowhere => bytes.fill(0),
            }
        }
        Ok(())
    }

    /// Writes memory at a translated address.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says, of addresses that are translated.
    pub fn write_translated(&self, pasid: Option<Pasid>, to: Pa, from: &[u8]) -> Result<(), DmaError> {
        for (at, run) in cut(Iova::new(to.get()), from.len())? {
            let bytes = &from[run];
            let request = self.translated(pasid, at, bytes.len(), Access::WRITE);
            let source = Some(self.device_id());
            let outcome = self.translator.access_translated(&request, &mut |Passage { pa }| {
                self.fabric.write(Write { at: pa, bytes, source })
            });
            if let Carried::Out = self.judge(at, outcome)? {
                self.count_written(pasid, bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// Asks for a translation, as this port's source.
    pub fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        self.translator.translate(&TranslationRequest { source: self.source(), ..*request })
    }

    /// Asks for a page, as this port's source.
    pub fn request_page(&self, request: &PageRequest) {
        self.translator.request_page(&PageRequest { source: self.source(), ..*request });
    }

    /// Completes invalidations, by their tags.
    pub fn complete_invalidations(&self, tags: u32) {
        self.translator.invalidation_done(&InvalidationDone { source: self.source(), tags });
    }

    /// What became of a request that was held back.
    pub fn stalled(&self, stall: Stall) -> StallState {
        self.translator.stalled(stall)
    }

    /// Writes memory.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says, for the first request that failed.
    pub fn write(&self, pasid: Option<Pasid>, iova: Iova, from: &[u8]) -> Result<(), DmaError> {
        for (at, run) in cut(iova, from.len())? {
            let bytes = &from[run];
            if let Carried::Out = self.send(pasid, at, bytes)? {
                self.count_written(pasid, bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// Sends an interrupt message: a write of 32 bits that carries who sends it.
    ///
    /// # Errors
    ///
    /// As [`DmaError`] says; [`DmaError::Bus`] also if the doorbell refuses.
    pub fn message(&self, to: Iova, data: u32) -> Result<(), DmaError> {
        if let Carried::Out = self.send(None, to, &data.to_le_bytes())? {
            count(&self.traffic.messages, 1);
        }
        Ok(())
    }

    fn send(&self, pasid: Option<Pasid>, at: Iova, bytes: &[u8]) -> Result<Carried, DmaError> {
        let request = self.request(pasid, at, bytes.len(), Access::WRITE);
        let source = Some(self.device_id());
        let outcome = self
            .translator
            .access(&request, &mut |Passage { pa }| self.fabric.write(Write { at: pa, bytes, source }));
        self.judge(at, outcome)
    }

    fn request(&self, pasid: Option<Pasid>, iova: Iova, len: usize, access: Access) -> Request {
        let len_bytes = u32::try_from(len).expect("requests end at 4 KiB");
        Request { source: self.source(), pasid, iova, len_bytes, access }
    }

    fn translated(&self, pasid: Option<Pasid>, at: Iova, len: usize, access: Access) -> TranslatedRequest {
        let Request { source, len_bytes, .. } = self.request(pasid, at, len, access);
        TranslatedRequest { source, pasid, at: Pa::new(at.get()), len_bytes, access }
    }

    fn count_read(&self, pasid: Option<Pasid>, bytes: u64) {
        count(&self.traffic.read_bytes, bytes);
        self.count_moved(pasid, |moved| moved.read_bytes += bytes);
    }

    fn count_written(&self, pasid: Option<Pasid>, bytes: u64) {
        count(&self.traffic.written_bytes, bytes);
        self.count_moved(pasid, |moved| moved.written_bytes += bytes);
    }

    fn count_moved(&self, pasid: Option<Pasid>, add: impl FnOnce(&mut Moved)) {
        let Some(pasid) = pasid else { return };
        add(self.by_pasid.lock().unwrap_or_else(PoisonError::into_inner).entry(pasid).or_default());
    }

    fn judge(&self, at: Iova, outcome: Outcome) -> Result<Carried, DmaError> {
        match outcome {
            Outcome::Done => return Ok(Carried::Out),
            Outcome::Ignored => {
                count(&self.traffic.ignored, 1);
                return Ok(Carried::Nowhere);
            }
            Outcome::Stalled(stall) => return Err(DmaError::Stalled { at, stall }),
            Outcome::Aborted | Outcome::BusError(_) => count(&self.traffic.failed, 1),
        }
        Err(match outcome {
            Outcome::BusError(error) => DmaError::Bus { at, error },
            _ => DmaError::Aborted { at },
        })
    }
}

enum Carried {
    Out,
    Nowhere,
}

/// Cuts a run at every 4 KiB boundary: where each piece begins, and which bytes of the run it is.
fn cut(iova: Iova, len: usize) -> Result<impl Iterator<Item = (Iova, core::ops::Range<usize>)>, DmaError> {
    if len > 0 && iova.checked_add(len as u64 - 1).is_none() {
        return Err(DmaError::Wraps { at: iova });
    }
    let mut done = 0;
    Ok(core::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = iova.checked_add(done as u64)?;
        let piece = (len - done).min((BOUNDARY_BYTES - at.offset_in(BOUNDARY_BYTES)) as usize);
        done += piece;
        Some((at, done - piece..done))
    }))
}

/// The translator of a machine without an IOMMU: every address passes as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untranslated;

impl Translator for Untranslated {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        match commit(Passage { pa: portcullis_types::Pa::new(request.iova.get()) }) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::BusError(error),
        }
    }
}
