//! Several SMMUs as one: each source's requests go to the one that it is behind, so that one judge sees a process that devices behind both of them share.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use model_bus::{
    BusError, Downstream, InvalidationDone, Outcome, PageRequest, Passage, Request, Stall, StallState,
    TranslatedRequest, TranslationAnswer, TranslationRequest, Translator,
};
use portcullis::types::SourceId;

/// The SMMUs.
pub(crate) struct Fan {
    units: Vec<Arc<dyn Translator>>,
    of: BTreeMap<SourceId, usize>,
}

impl Fan {
    /// `of` says behind which of them a source is.
    pub(crate) fn new(units: Vec<Arc<dyn Translator>>, of: BTreeMap<SourceId, usize>) -> Arc<Self> {
        Arc::new(Self { units, of })
    }

    fn place(&self, source: SourceId) -> usize {
        self.of.get(&source).copied().unwrap_or(0)
    }

    fn of(&self, source: SourceId) -> &Arc<dyn Translator> {
        &self.units[self.place(source)]
    }
}

impl Translator for Fan {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        match self.of(request.source).access(request, commit) {
            // Each gives out numbers of its own.
            Outcome::Stalled(Stall(number)) => {
                let (count, place) = (self.units.len() as u64, self.place(request.source) as u64);
                Outcome::Stalled(Stall(number * count + place))
            }
            outcome => outcome,
        }
    }

    fn stalled(&self, stall: Stall) -> StallState {
        let count = self.units.len() as u64;
        let place = usize::try_from(stall.0 % count).unwrap_or(0);
        self.units[place].stalled(Stall(stall.0 / count))
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        self.of(request.source).translate(request)
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        self.of(request.source).access_translated(request, commit)
    }

    fn request_page(&self, request: &PageRequest) {
        self.of(request.source).request_page(request);
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        self.of(done.source).invalidation_done(done);
    }

    fn connect(&self, downstream: Weak<dyn Downstream>) {
        self.units.iter().for_each(|unit| unit.connect(downstream.clone()));
    }
}
