//! A device with an ATC, as far as the SMMU sees one: it remembers what it was told, and answers as it is bid.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use model_bus::{
    Downstream, Invalidation, InvalidationDone, Mmio, Outcome, PageRequest, PageResponse, TranslatedRequest,
    Translation, TranslationAnswer, TranslationRequest, Translator, Width,
};
use model_smmuv3::{Config, Smmu};
use portcullis_types::{Access, Iova, Pa, Pasid, SourceId};

use crate::harness::{Got, Machine, plain};

/// What an endpoint does with an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Completes it within the call.
    Prompt,
    /// Remembers it, for the test to complete.
    Late,
    /// Has no ATC: Unsupported Request.
    Refuses,
}

pub(crate) struct Endpoint {
    stream: u32,
    manner: Manner,
    smmu: OnceLock<Arc<Smmu>>,
    pub(crate) invalidations: Mutex<Vec<Invalidation>>,
    pub(crate) responses: Mutex<Vec<PageResponse>>,
    /// Reads registers of the SMMU from within each call.
    pub(crate) curious: AtomicBool,
}

impl Endpoint {
    pub(crate) fn invalidations(&self) -> Vec<Invalidation> {
        core::mem::take(&mut self.invalidations.lock().unwrap())
    }

    pub(crate) fn responses(&self) -> Vec<PageResponse> {
        core::mem::take(&mut self.responses.lock().unwrap())
    }

    fn look(&self) {
        if self.curious.load(Ordering::Relaxed) {
            self.smmu.get().unwrap().read(0x9c, Width::Bits32);
        }
    }
}

impl Downstream for Endpoint {
    fn invalidate(&self, message: &Invalidation) -> bool {
        if message.source.0 != self.stream || self.manner == Manner::Refuses {
            return false;
        }
        self.look();
        self.invalidations.lock().unwrap().push(*message);
        if self.manner == Manner::Prompt {
            let done = InvalidationDone { source: message.source, tags: 1 << message.tag };
            self.smmu.get().unwrap().invalidation_done(&done);
        }
        true
    }

    fn page_response(&self, message: &PageResponse) -> bool {
        if message.source.0 != self.stream {
            return false;
        }
        self.look();
        self.responses.lock().unwrap().push(*message);
        true
    }
}

/// A part with ATS, PRI, and 8-bit substreams.
pub(crate) fn with_ats() -> Config {
    Config { ats: true, pri: true, page_queue_lg2: 3, substream_id_bits: 8, ..plain() }
}

/// The PRI queue, of 8 entries.
pub(crate) const PAGES: u64 = 0x3_0000;

/// Stream `stream`'s endpoint, plugged in.
pub(crate) fn plug(machine: &Machine, stream: u32, manner: Manner) -> Arc<Endpoint> {
    let endpoint = Arc::new(Endpoint {
        stream,
        manner,
        smmu: OnceLock::new(),
        invalidations: Mutex::default(),
        responses: Mutex::default(),
        curious: AtomicBool::new(false),
    });
    assert!(endpoint.smmu.set(Arc::clone(&machine.smmu)).is_ok());
    let way: Arc<dyn Downstream> = Arc::clone(&endpoint) as Arc<dyn Downstream>;
    machine.smmu.connect(Arc::downgrade(&way));
    endpoint
}

/// Sets the PRI queue up, and puts `cr0` into CR0.
pub(crate) fn enable(machine: &Machine, cr0: u32) {
    machine.w64(0xc0, PAGES | 3);
    machine.w32(0x20, cr0);
    machine.settle();
    assert_eq!(machine.r32(0x24), cr0);
}

/// A request of stream 1 for write, without a PASID.
pub(crate) fn wish(address: u64) -> TranslationRequest {
    TranslationRequest {
        source: SourceId(1),
        pasid: None,
        iova: Iova::new(address),
        no_write: false,
        execute: false,
        privileged: false,
    }
}

/// The translation that a request is answered with.
pub(crate) fn given(machine: &Machine, request: &TranslationRequest) -> Translation {
    match machine.smmu.translate(request) {
        TranslationAnswer::Translated(translation) => translation,
        other => panic!("{other:?}"),
    }
}

/// The permissions of an answer: R, W, Exe.
pub(crate) fn rwx(translation: &Translation) -> String {
    let letter = |set, letter| if set { letter } else { '-' };
    [letter(translation.read, 'r'), letter(translation.write, 'w'), letter(translation.execute, 'x')]
        .into_iter()
        .collect()
}

/// An access of `stream` by translated address.
pub(crate) fn translated(machine: &Machine, stream: u32, at: u64, access: Access) -> Got {
    let request = TranslatedRequest {
        source: SourceId(stream),
        pasid: Pasid::new(5),
        at: Pa::new(at),
        len_bytes: 4,
        access,
    };
    let mut went = None;
    let outcome = machine.smmu.access_translated(&request, &mut |passage| {
        assert!(went.is_none(), "let through twice");
        went = Some(passage.pa.get());
        Ok(())
    });
    match (outcome, went) {
        (Outcome::Done, Some(at)) => Got::At(at),
        (Outcome::Aborted, None) => Got::Abort,
        other => panic!("{other:?}"),
    }
}

/// A page request of stream 1 to read 0x7000: the last of its group.
pub(crate) fn last(group: u16, pasid: Option<u32>) -> PageRequest {
    PageRequest {
        source: SourceId(1),
        pasid: pasid.and_then(Pasid::new),
        privileged: false,
        execute: false,
        iova: Iova::new(0x7000),
        group,
        last: true,
        read: true,
        write: false,
    }
}
