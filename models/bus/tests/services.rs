//! What a port carries for a device that has translations of its own, or is held back.

use std::sync::{Arc, Mutex};

use model_bus::{
    Bus, BusError, BusOptions, DmaError, Fabric, InvalidationDone, Moved, Outcome, PageRequest, Passage,
    Port, Request, Stall, StallState, TranslatedRequest, Translation, TranslationAnswer, TranslationRequest,
    Translator, Untranslated,
};
use portcullis_types::{Access, Iova, Pa, PaRange, Pasid, SourceId};

const RAM: u64 = 0x4000_0000;
const REFUSED: u64 = RAM + 0x5000;
const DROPPED: u64 = RAM + 0x6000;
const STALLED: u64 = 0x7000;

/// What a translator was told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Access(Request),
    Translated(TranslatedRequest),
    Translate(TranslationRequest),
    Page(PageRequest),
    Done(InvalidationDone),
}

#[derive(Default)]
struct Listener(Mutex<Vec<Told>>);

impl Listener {
    fn note(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }

    fn told(&self) -> Vec<Told> {
        core::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn let_through(pa: Pa, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
    match commit(Passage { pa }) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::BusError(error),
    }
}

impl Translator for Listener {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        self.note(Told::Access(*request));
        if request.iova.align_down(4096).get() == STALLED {
            return Outcome::Stalled(Stall(41));
        }
        let_through(Pa::new(RAM + request.iova.get()), commit)
    }

    fn stalled(&self, stall: Stall) -> StallState {
        if stall == Stall(41) { StallState::Retry } else { StallState::Aborted }
    }

    fn translate(&self, request: &TranslationRequest) -> TranslationAnswer {
        self.note(Told::Translate(*request));
        TranslationAnswer::Translated(translation())
    }

    fn access_translated(
        &self,
        request: &TranslatedRequest,
        commit: &mut dyn FnMut(Passage) -> Result<(), BusError>,
    ) -> Outcome {
        self.note(Told::Translated(*request));
        match request.at.align_down(4096).get() {
            REFUSED => Outcome::Aborted,
            DROPPED => Outcome::Ignored,
            _ => let_through(request.at, commit),
        }
    }

    fn request_page(&self, request: &PageRequest) {
        self.note(Told::Page(*request));
    }

    fn invalidation_done(&self, done: &InvalidationDone) {
        self.note(Told::Done(*done));
    }
}

fn translation() -> Translation {
    Translation {
        first: Iova::new(0x20_0000),
        pa: Pa::new(RAM),
        size_lg2: 21,
        read: true,
        write: false,
        execute: false,
        privileged: false,
        global: false,
        untranslated_only: false,
    }
}

fn rig() -> (Arc<Bus>, Arc<Listener>, Port) {
    let bus = Bus::new(&BusOptions::new(PaRange::new(Pa::new(RAM), 0x10_0000).unwrap(), 1));
    let listener = Arc::new(Listener::default());
    let port = Port::new(SourceId(7), listener.clone(), bus.clone());
    (bus, listener, port)
}

fn page_request(source: u32) -> PageRequest {
    PageRequest {
        source: SourceId(source),
        pasid: Pasid::new(9),
        privileged: false,
        execute: false,
        iova: Iova::new(0x3000),
        group: 511,
        last: true,
        read: true,
        write: false,
    }
}

fn question(source: u32) -> TranslationRequest {
    TranslationRequest {
        source: SourceId(source),
        pasid: Pasid::new(9),
        iova: Iova::new(0x20_3000),
        no_write: true,
        execute: false,
        privileged: false,
    }
}

#[test]
fn messages_carry_the_ports_own_source_whatever_is_put_into_them() {
    let (_, listener, port) = rig();
    assert_eq!(port.translate(&question(99)), TranslationAnswer::Translated(translation()));
    port.request_page(&page_request(99));
    port.complete_invalidations(0x8000_0001);
    port.rename(SourceId(8), SourceId(0x88));
    port.complete_invalidations(2);
    let done = |source, tags| Told::Done(InvalidationDone { source: SourceId(source), tags });
    let expected =
        [Told::Translate(question(7)), Told::Page(page_request(7)), done(7, 0x8000_0001), done(8, 2)];
    assert_eq!(listener.told(), expected);
}

#[test]
fn a_translated_dma_is_cut_at_every_4_kib_and_counted_by_pasid() {
    let (bus, listener, port) = rig();
    let bytes: Vec<u8> = (0..=255).cycle().take(0x1010).collect();
    let pasid = Pasid::new(3);
    port.write_translated(pasid, Pa::new(RAM + 0xff8), &bytes).unwrap();
    let cut = |told: &Told| match told {
        Told::Translated(request) => {
            assert_eq!((request.source, request.pasid, request.access), (SourceId(7), pasid, Access::WRITE));
            (request.at.get() - RAM, request.len_bytes)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        listener.told().iter().map(cut).collect::<Vec<_>>(),
        [(0xff8, 8), (0x1000, 0x1000), (0x2000, 8)]
    );
    let mut back = vec![0; bytes.len()];
    Fabric::read(&*bus, Pa::new(RAM + 0xff8), &mut back).unwrap();
    assert_eq!(back, bytes);
    back.fill(0);
    port.read_translated(Pasid::new(4), Pa::new(RAM + 0xff8), &mut back).unwrap();
    assert_eq!(back, bytes);
    assert!(matches!(listener.told()[0], Told::Translated(request) if request.access == Access::READ));
    assert_eq!(port.moved(Pasid::new(3).unwrap()), Moved { read_bytes: 0, written_bytes: 0x1010 });
    assert_eq!(port.moved(Pasid::new(4).unwrap()), Moved { read_bytes: 0x1010, written_bytes: 0 });
    assert_eq!(port.moved(Pasid::new(5).unwrap()), Moved::default());
    assert_eq!((port.traffic().read_bytes, port.traffic().written_bytes), (0x1010, 0x1010));
}

#[test]
fn untranslated_bytes_count_for_their_pasid_and_those_without_for_none() {
    let (_, _, port) = rig();
    port.write(Pasid::new(3), Iova::new(0xffe), &[1; 4]).unwrap();
    port.read(Pasid::new(3), Iova::new(0), &mut [0; 5]).unwrap();
    port.read(None, Iova::new(0), &mut [0; 6]).unwrap();
    assert_eq!(port.moved(Pasid::new(3).unwrap()), Moved { read_bytes: 5, written_bytes: 4 });
    assert_eq!(port.moved(Pasid::new(0).unwrap()), Moved::default());
    assert_eq!(port.traffic().read_bytes, 11);
}

#[test]
fn a_translated_access_fails_where_it_is_refused_and_not_before() {
    let (_, _, port) = rig();
    let pasid = Pasid::new(1);
    let refused = Err(DmaError::Aborted { at: Iova::new(REFUSED) });
    assert_eq!(port.write_translated(pasid, Pa::new(REFUSED - 8), &[1; 16]), refused);
    assert_eq!(port.read_translated(pasid, Pa::new(REFUSED), &mut [0; 4]), refused);
    assert_eq!(port.moved(pasid.unwrap()), Moved { read_bytes: 0, written_bytes: 8 });
    let mut bytes = [0xee; 8];
    port.read_translated(pasid, Pa::new(DROPPED), &mut bytes).unwrap();
    port.write_translated(pasid, Pa::new(DROPPED), &bytes).unwrap();
    assert_eq!((bytes, port.traffic().failed, port.traffic().ignored), ([0; 8], 2, 2));
    assert_eq!(port.moved(pasid.unwrap()), Moved { read_bytes: 0, written_bytes: 8 });
    let end = Pa::new(u64::MAX);
    assert_eq!(
        port.read_translated(None, end, &mut [0; 2]),
        Err(DmaError::Wraps { at: Iova::new(u64::MAX) })
    );
    let error = BusError { at: Pa::new(RAM + 0x10_0000) };
    let bus = Err(DmaError::Bus { at: Iova::new(RAM + 0x10_0000), error });
    assert_eq!(port.write_translated(None, Pa::new(RAM + 0x10_0000), &[0; 4]), bus);
}

#[test]
fn a_stalled_access_moves_nothing_from_there_on_and_can_be_asked_about() {
    let (_, listener, port) = rig();
    let pasid = Pasid::new(1);
    let stalled = Err(DmaError::Stalled { at: Iova::new(STALLED), stall: Stall(41) });
    let mut bytes = [0xee; 16];
    assert_eq!(port.read(pasid, Iova::new(STALLED - 8), &mut bytes), stalled);
    assert_eq!((bytes, listener.told().len()), ([[0; 8], [0xee; 8]].concat().try_into().unwrap(), 2));
    assert_eq!(port.write(pasid, Iova::new(STALLED), &[0; 0x2000]), stalled);
    assert_eq!(listener.told().len(), 1);
    assert_eq!(port.moved(pasid.unwrap()), Moved { read_bytes: 8, written_bytes: 0 });
    assert_eq!(port.traffic().failed, 0);
    assert_eq!((port.stalled(Stall(41)), port.stalled(Stall(1))), (StallState::Retry, StallState::Aborted));
}

#[test]
fn without_an_iommu_there_is_no_translating() {
    let (bus, _, _) = rig();
    let port = Port::new(SourceId(7), Arc::new(Untranslated), bus);
    assert_eq!(port.translate(&question(7)), TranslationAnswer::UnsupportedRequest);
    let at = Pa::new(RAM);
    assert_eq!(port.read_translated(None, at, &mut [0; 4]), Err(DmaError::Aborted { at: Iova::new(RAM) }));
    assert_eq!(port.stalled(Stall(0)), StallState::Aborted);
    port.request_page(&page_request(7));
    port.complete_invalidations(1);
}
