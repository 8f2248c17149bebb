//! A requester's DMA: how it is cut, judged and counted.

use std::sync::{Arc, Mutex};

use model_bus::{
    Bus, BusError, BusOptions, DmaError, Doorbell, Fabric, Outcome, Passage, Port, Request, Translator,
    Untranslated,
};
use portcullis_types::{Access, Iova, Pa, PaRange, Pasid, SourceId};

const RAM: u64 = 0x4000_0000;

/// Adds an offset, refuses a page, drops another, and remembers what it was asked.
#[derive(Default)]
struct Shift(Mutex<Vec<Request>>);

const REFUSED: u64 = 0x5000;
const DROPPED: u64 = 0x6000;

impl Translator for Shift {
    fn access(&self, request: &Request, commit: &mut dyn FnMut(Passage) -> Result<(), BusError>) -> Outcome {
        self.0.lock().unwrap().push(*request);
        match request.iova.align_down(0x1000).get() {
            REFUSED => Outcome::Aborted,
            DROPPED => Outcome::Ignored,
            _ => match commit(Passage { pa: Pa::new(request.iova.get().wrapping_add(RAM)) }) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::BusError(error),
            },
        }
    }
}

fn bus() -> Arc<Bus> {
    Bus::new(&BusOptions::new(PaRange::new(Pa::new(RAM), 0x10_0000).unwrap(), 1))
}

fn rig() -> (Arc<Bus>, Arc<Shift>, Port) {
    let (bus, shift) = (bus(), Arc::new(Shift::default()));
    let port = Port::new(SourceId(7), shift.clone(), bus.clone());
    (bus, shift, port)
}

#[test]
fn a_dma_is_cut_at_every_4_kib() {
    let (bus, shift, port) = rig();
    let bytes: Vec<u8> = (0..=255).cycle().take(0x2010).collect();
    port.write(Pasid::new(3), Iova::new(0xff8), &bytes).unwrap();
    let asked: Vec<(u64, u32)> =
        shift.0.lock().unwrap().iter().map(|request| (request.iova.get(), request.len_bytes)).collect();
    assert_eq!(asked, [(0xff8, 8), (0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 8)]);
    let first = shift.0.lock().unwrap()[0];
    assert_eq!((first.source, first.pasid, first.access), (SourceId(7), Pasid::new(3), Access::WRITE));
    let mut back = vec![0; bytes.len()];
    Fabric::read(&*bus, Pa::new(RAM + 0xff8), &mut back).unwrap();
    assert_eq!(back, bytes);
    back.fill(0);
    port.read(None, Iova::new(0xff8), &mut back).unwrap();
    assert_eq!(back, bytes);
    assert_eq!(shift.0.lock().unwrap()[4].access, Access::READ);
    let traffic = port.traffic();
    assert_eq!((traffic.written_bytes, traffic.read_bytes, traffic.failed), (0x2010, 0x2010, 0));
}

#[test]
fn only_what_was_let_through_counts() {
    let (_, _, port) = rig();
    let at = |address| Err(DmaError::Aborted { at: Iova::new(address) });
    assert_eq!(port.write(None, Iova::new(0x4ff0), &[1; 32]), at(0x5000));
    assert_eq!(port.read(None, Iova::new(0x5ff0), &mut [0; 32]), at(0x5ff0));
    let traffic = port.traffic();
    assert_eq!((traffic.written_bytes, traffic.read_bytes, traffic.failed), (16, 0, 2));
}

#[test]
fn what_is_dropped_in_silence_reads_as_zeroes_and_is_not_counted() {
    let (_, _, port) = rig();
    let mut bytes = [0xee; 16];
    port.read(None, Iova::new(0x6000), &mut bytes).unwrap();
    port.write(None, Iova::new(0x6000), &bytes).unwrap();
    assert_eq!(bytes, [0; 16]);
    let traffic = port.traffic();
    assert_eq!((traffic.ignored, traffic.written_bytes, traffic.read_bytes), (2, 0, 0));
}

#[test]
fn an_error_behind_the_translator_is_told() {
    let (_, _, port) = rig();
    let error = BusError { at: Pa::new(RAM + 0x10_0000) };
    let expected = DmaError::Bus { at: Iova::new(0x10_0000), error };
    assert_eq!(port.read(None, Iova::new(0xf_fffc), &mut [0; 8]), Err(expected));
    assert_eq!(port.traffic().failed, 1);
}

#[test]
fn a_dma_does_not_run_past_the_last_address() {
    let port = Port::new(SourceId(7), Arc::new(Untranslated), bus());
    let at = Iova::new(u64::MAX);
    assert_eq!(port.read(None, at, &mut [0; 2]), Err(DmaError::Wraps { at }));
    assert!(matches!(port.read(None, at, &mut [0; 1]), Err(DmaError::Bus { .. })));
    assert_eq!(port.write(None, at, &[]), Ok(()));
}

#[derive(Default)]
struct Bell(Mutex<Vec<(Vec<u8>, Option<SourceId>)>>);

impl Doorbell for Bell {
    fn ring(&self, _: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError> {
        self.0.lock().unwrap().push((bytes.to_vec(), source));
        Ok(())
    }
}

#[test]
fn a_message_is_translated_and_carries_the_name_the_interrupt_controller_knows() {
    let (bus, shift, port) = rig();
    let bell = Arc::new(Bell::default());
    let page = PaRange::new(Pa::new(RAM + 0x20_0000), 0x1000).unwrap();
    bus.add_doorbell("bell", page, bell.clone()).unwrap();
    port.rename(SourceId(8), SourceId(0x88));
    port.message(Iova::new(0x20_0040), 0x0102_0304).unwrap();
    assert_eq!(*bell.0.lock().unwrap(), [(vec![4, 3, 2, 1], Some(SourceId(0x88)))]);
    let asked = shift.0.lock().unwrap()[0];
    assert_eq!((asked.source, asked.len_bytes, asked.access), (SourceId(8), 4, Access::WRITE));
    assert_eq!(port.message(Iova::new(0x5040), 0), Err(DmaError::Aborted { at: Iova::new(0x5040) }));
    let traffic = port.traffic();
    assert_eq!((traffic.messages, traffic.written_bytes), (1, 0));
}
