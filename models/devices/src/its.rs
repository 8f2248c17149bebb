//! An interrupt translation service: where the message-signalled interrupts of devices end.
//!
//! An [`Its`] takes writes to `GITS_TRANSLATER`. Who writes is the DeviceID, what is written is the EventID; the table that the machine
//! filled says which interrupt that is. Interrupts wait, each at most once, until the machine takes them.
//!
//! Spec: GIC IHI 0069H, 5.2 "The ITS" and 12.20 "ITS translation register descriptions", `GITS_TRANSLATER`.
//! Not here: the command queue and the tables in memory that fill the mapping on metal; priorities and CPUs.

use core::fmt;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Bus, BusError, Doorbell, Occupied};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{Pa, PaRange, SourceId};

/// Where the translation register frame begins, from the ITS's base.
const TRANSLATION_FRAME: u64 = 0x1_0000;
const FRAME_BYTES: u64 = 0x1_0000;
/// `GITS_TRANSLATER` in its frame.
const TRANSLATER: u64 = 0x40;
/// The lowest LPI. Spec: GIC IHI 0069H, 2.2 "INTIDs".
const FIRST_LPI: u32 = 8192;

/// An interrupt translation service.
pub struct Its {
    state: Mutex<State>,
    sink: Arc<dyn Sink>,
}

#[derive(Default)]
struct State {
    table: HashMap<(u32, u32), u32>,
    queue: VecDeque<u32>,
    pending: HashSet<u32>,
    counts: ItsCounts,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ItsCounts {
    /// Messages that made an interrupt pending, or found it pending already.
    pub translated: u64,
    /// Messages that no mapping was there for.
    pub unmapped: u64,
    /// Writes that were no message: another register, another width, or no device.
    pub malformed: u64,
}

/// The interrupt number is no LPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnLpi(pub u32);

impl fmt::Display for NotAnLpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupt {} is no LPI: those begin at {FIRST_LPI}", self.0)
    }
}

impl core::error::Error for NotAnLpi {}

impl fmt::Debug for Its {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Its").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Its {
    /// Where messages are written to, from the ITS's base.
    pub const TRANSLATER_OFFSET: u64 = TRANSLATION_FRAME + TRANSLATER;

    /// An ITS that translates nothing.
    pub fn new(sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), sink })
    }

    /// Lets the ITS whose registers begin at `base` answer on `bus`.
    ///
    /// # Errors
    ///
    /// Something else answers there.
    ///
    /// # Panics
    ///
    /// If the frames would pass the end of the address space.
    pub fn connect(self: &Arc<Self>, bus: &Bus, base: Pa) -> Result<(), Occupied> {
        let frame = base.checked_add(TRANSLATION_FRAME).and_then(|first| PaRange::new(first, FRAME_BYTES));
        bus.add_doorbell("its", frame.expect("the frame lies in the address space"), self.clone())
    }

    /// Lets `event` of `device` mean the interrupt `lpi`.
    ///
    /// # Errors
    ///
    /// The number is below 8192.
    pub fn map(&self, device: SourceId, event: u32, lpi: u32) -> Result<(), NotAnLpi> {
        if lpi < FIRST_LPI {
            return Err(NotAnLpi(lpi));
        }
        self.state().table.insert((device.0, event), lpi);
        Ok(())
    }

    /// Lets `event` of `device` mean nothing any more; if it is pending, it is not. Answers whether it meant something.
    pub fn discard(&self, device: SourceId, event: u32) -> bool {
        let mut state = self.state();
        let Some(lpi) = state.table.remove(&(device.0, event)) else { return false };
        if state.pending.remove(&lpi) {
            state.queue.retain(|&waiting| waiting != lpi);
        }
        true
    }

    /// Takes the interrupt that has waited longest.
    pub fn take_pending(&self) -> Option<u32> {
        let mut state = self.state();
        let lpi = state.queue.pop_front()?;
        state.pending.remove(&lpi);
        Some(lpi)
    }

    /// What became of the messages so far.
    pub fn counts(&self) -> ItsCounts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn translate(&self, device: SourceId, event: u32) {
        let mut state = self.state();
        let lpi = state.table.get(&(device.0, event)).copied();
        match lpi {
            Some(lpi) => {
                state.counts.translated += 1;
                if state.pending.insert(lpi) {
                    state.queue.push_back(lpi);
                }
            }
            None => state.counts.unmapped += 1,
        }
        drop(state);
        let said = lpi.map_or(Value::Str("unmapped"), |lpi| Value::Dec(u64::from(lpi)));
        self.sink.event(&Event {
            source: "model.its",
            name: "msi",
            fields: &[
                ("device", Value::Hex(u64::from(device.0))),
                ("event", Value::Dec(u64::from(event))),
                ("lpi", said),
            ],
        });
    }
}

impl Doorbell for Its {
    /// Writes to other registers of the frame, and of other widths than 16 and 32 bits, are ignored: they are reserved, and a
    /// device that makes them has been told a wrong address.
    fn ring(&self, offset: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError> {
        let event = match *bytes {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => {
                self.state().counts.malformed += 1;
                return Ok(());
            }
        };
        match source {
            Some(device) if offset == TRANSLATER => self.translate(device, event),
            _ => self.state().counts.malformed += 1,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model_bus::{BusOptions, Fabric, Write};
    use portcullis_types::trace::Silence;

    use super::*;

    const DEVICE: SourceId = SourceId(0x108);

    fn its() -> Arc<Its> {
        let its = Its::new(Arc::new(Silence));
        its.map(DEVICE, 3, 8195).unwrap();
        its
    }

    fn ring(its: &Its, device: SourceId, event: u32) {
        its.ring(0x40, &event.to_le_bytes(), Some(device)).unwrap();
    }

    #[test]
    fn the_doorbell_lies_at_0x10040_from_the_base() {
        let ram = PaRange::new(Pa::new(0x4000_0000), 0x1_0000).unwrap();
        let (bus, its) = (Bus::new(&BusOptions::new(ram, 1)), its());
        its.connect(&bus, Pa::new(0x0808_0000)).unwrap();
        let bytes = &[3, 0, 0, 0];
        let write = |at, source| Fabric::write(&*bus, Write { at: Pa::new(at), bytes, source });
        write(0x0809_0040, Some(DEVICE)).unwrap();
        assert_eq!(its.take_pending(), Some(8195));
        write(0x0809_0044, Some(DEVICE)).unwrap();
        write(0x0809_0040, None).unwrap();
        assert_eq!(its.take_pending(), None);
        assert_eq!(write(0x080a_0040, Some(DEVICE)), Err(BusError { at: Pa::new(0x080a_0040) }));
        assert_eq!(its.counts(), ItsCounts { translated: 1, unmapped: 0, malformed: 2 });
    }

    #[test]
    fn devices_cannot_forge_one_another() {
        let its = its();
        ring(&its, SourceId(0x109), 3);
        ring(&its, DEVICE, 4);
        assert_eq!((its.take_pending(), its.counts().unmapped), (None, 2));
    }

    #[test]
    fn an_interrupt_waits_once_and_in_order() {
        let its = its();
        its.map(DEVICE, 1, 8200).unwrap();
        [3, 1, 3].into_iter().for_each(|event| ring(&its, DEVICE, event));
        assert_eq!(
            [its.take_pending(), its.take_pending(), its.take_pending()],
            [Some(8195), Some(8200), None]
        );
        ring(&its, DEVICE, 3);
        assert_eq!(its.take_pending(), Some(8195));
    }

    #[test]
    fn a_message_has_16_or_32_bits() {
        let its = its();
        its.ring(0x40, &[3, 0], Some(DEVICE)).unwrap();
        assert_eq!(its.take_pending(), Some(8195));
        its.ring(0x40, &[3], Some(DEVICE)).unwrap();
        its.ring(0x40, &[3, 0, 0, 0, 0, 0, 0, 0], Some(DEVICE)).unwrap();
        assert_eq!((its.take_pending(), its.counts().malformed), (None, 2));
    }

    #[test]
    fn a_discarded_event_is_not_pending_any_more() {
        let its = its();
        ring(&its, DEVICE, 3);
        assert!(its.discard(DEVICE, 3) && !its.discard(DEVICE, 3));
        assert_eq!(its.take_pending(), None);
    }

    #[test]
    fn interrupts_below_8192_are_not_for_messages() {
        assert_eq!(its().map(DEVICE, 0, 8191), Err(NotAnLpi(8191)));
    }
}
