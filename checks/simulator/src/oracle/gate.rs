//! Stands between devices and their SMMU: every access that is let through is held against the shadow while its bytes move.
//!
//! What carries a PASID is judged behind it (`checks::sva::judge`), against processes' own tables.

use std::sync::{Arc, Weak};

use model_bus::{
    BusError, Downstream, InvalidationDone, Outcome, PageRequest, Passage, Request, Stall, StallState,
    TranslatedRequest, TranslationAnswer, TranslationRequest, Translator,
};
use portcullis::types::AccessKind;

use super::shadow::Seen;
use crate::hub::Hub;

/// The gate.
pub(crate) struct Gate {
    hub: Arc<Hub>,
    behind: Arc<dyn Translator>,
    /// Addresses that are interrupts and no memory: who may write there what is judged where it is delivered.
    interrupts: Option<(u64, u64)>,
}

impl Gate {
    pub(crate) fn new(
        hub: Arc<Hub>,
        behind: Arc<dyn Translator>,
        interrupts: Option<(u64, u64)>,
    ) -> Arc<Self> {
        Arc::new(Self { hub, behind, interrupts })
    }

    /// Whether an access is a message that goes where the device said.
    fn is_message(&self, request: &Request, passage: Passage) -> bool {
        let at = request.iova.get();
        let inside = self.interrupts.is_some_and(|(first, last)| first <= at && at <= last);
        inside && request.access.kind == AccessKind::Write && passage.pa.get() == at
    }

    fn judge(&self, request: &Request, passage: Passage) {
        let write = request.access.kind == AccessKind::Write;
        let (iova, pa) = (request.iova.get(), passage.pa.get());
        if request.pasid.is_none() && !self.is_message(request, passage) {
            self.hub.judge(&Seen { source: request.source.0, iova, len: request.len_bytes, pa, write });
        }
        self.hub.let_through(request.source.0, iova, pa);
    }
}

impl Translator for Gate {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        self.behind.access(request, &mut |passage| {
            if self.hub.is_spoiled(request.source.0) {
                return Ok(());
            }
            self.judge(request, passage);
            commit(passage)
        })
    }

    fn stalled(&self, stall: Stall) -> StallState {
        self.behind.stalled(stall)
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        self.behind.translate(request)
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        self.behind.access_translated(request, &mut |passage| {
            if self.hub.is_spoiled(request.source.0) {
                return Ok(());
            }
            self.hub.translated(request, passage);
            commit(passage)
        })
    }

    fn request_page(&self, request: &PageRequest) {
        self.behind.request_page(request);
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        self.behind.invalidation_done(done);
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        self.behind.connect(downstream);
    }
}
