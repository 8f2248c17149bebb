//! The local APICs of a PC's CPUs, as far as messages reach them: the end of every message-signalled interrupt.
//!
//! [`LocalApics`] takes writes to the interrupt address range. The address says which CPU, the data which vector; who writes, they do not ask: telling devices
//! apart is for an IOMMU that remaps interrupts. Vectors wait, each at most once for each CPU, until the machine takes them.
//!
//! Spec: Intel SDM volume 3A, 11.11 "Message Signalled Interrupts"; VT-d 5.10, 5.1.2.1 "Interrupt Requests in Intel 64 Compatibility Format".
//! Not here: priorities, interrupts between CPUs, wires; remapping.

use core::fmt;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model_bus::{Bus, BusError, Doorbell, Occupied};
use portcullis_types::trace::{Event, Sink, Value};
use portcullis_types::{Pa, PaRange, SourceId};

/// The interrupt address range.
const FIRST: u64 = 0xfee0_0000;
const RANGE_BYTES: u64 = 0x10_0000;

/// Fields of the address: the destination, the redirection hint, the destination mode, and where a request that is to be remapped has a 1.
const DESTINATION_SHIFT: u32 = 12;
const LOGICAL: u64 = 1 << 2;
const REMAPPABLE: u64 = 1 << 4;
/// Fields of the data: delivery mode (0 is fixed), and what is reserved.
const DELIVERY_MODE: u32 = 7 << 8;
const FIXED: u32 = 0;
const RESERVED: u32 = 0xffff_3800;
/// The lowest vector that a message may have.
const FIRST_VECTOR: u32 = 0x10;

/// The local APICs of a machine.
pub struct LocalApics {
    cpus: u8,
    state: Mutex<State>,
    sink: Arc<dyn Sink>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vector>,
    pending: HashSet<Vector>,
    counts: ApicCounts,
}

/// An interrupt of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vector {
    /// The id of the CPU's APIC.
    pub cpu: u8,
    /// The vector, 16 to 255.
    pub vector: u8,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ApicCounts {
    /// Messages that made a vector pending, or found it pending already.
    pub accepted: u64,
    /// Messages for a CPU that is not there.
    pub nobody: u64,
    /// Messages that mean nothing here: another delivery mode than fixed, a logical destination, a vector below 16, another width than 32 bits, or a request
    /// that somebody should have remapped.
    pub malformed: u64,
}

impl fmt::Debug for LocalApics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalApics").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl LocalApics {
    /// The APICs of so many CPUs, whose ids count from 0.
    pub fn new(cpus: u8, sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new(Self { cpus, state: Mutex::default(), sink })
    }

    /// Lets them answer on `bus`.
    ///
    /// # Errors
    ///
    /// Something else answers there.
    pub fn connect(self: &Arc<Self>, bus: &Bus) -> Result<(), Occupied> {
        bus.add_doorbell("local apics", Self::range(), self.clone())
    }

    /// Where messages are written to.
    pub fn range() -> PaRange {
        PaRange::new(Pa::new(FIRST), RANGE_BYTES).expect("the range lies in the address space")
    }

    /// Takes the vector that has waited longest.
    pub fn take_pending(&self) -> Option<Vector> {
        let mut state = self.state();
        let vector = state.queue.pop_front()?;
        state.pending.remove(&vector);
        Some(vector)
    }

    /// A vector does not wait any more.
    pub fn discard(&self, vector: Vector) {
        let mut state = self.state();
        if state.pending.remove(&vector) {
            state.queue.retain(|&waiting| waiting != vector);
        }
    }

    /// What became of the messages so far.
    pub fn counts(&self) -> ApicCounts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vector that a message means; none if it means nothing here.
    fn meant(offset: u64, bytes: &[u8]) -> Option<Vector> {
        let data = u32::from_le_bytes(bytes.try_into().ok()?);
        let understood = offset & (LOGICAL | REMAPPABLE | 0b11) == 0
            && data & DELIVERY_MODE == FIXED
            && data & RESERVED == 0
            && data & 0xff >= FIRST_VECTOR;
        understood.then_some(Vector { cpu: (offset >> DESTINATION_SHIFT) as u8, vector: data as u8 })
    }
}

impl Doorbell for LocalApics {
    /// Whatever is written is taken: a message is posted, and nobody could be told of an error.
    fn ring(&self, offset: u64, bytes: &[u8], _: Option<SourceId>) -> Result<(), BusError> {
        let meant = Self::meant(offset, bytes);
        let mut state = self.state();
        match meant {
            Some(vector) if vector.cpu < self.cpus => {
                state.counts.accepted += 1;
                if state.pending.insert(vector) {
                    state.queue.push_back(vector);
                }
            }
            Some(_) => state.counts.nobody += 1,
            None => state.counts.malformed += 1,
        }
        drop(state);
        let vector = meant.map_or(Value::Str("none"), |meant| Value::Hex(u64::from(meant.vector)));
        let fields = &[("address", Value::Hex(FIRST + offset)), ("vector", vector)];
        self.sink.event(&Event { source: "model.apic", name: "msi", fields });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model_bus::{BusOptions, Fabric, Write};
    use portcullis_types::trace::Silence;

    use super::*;

    const DEVICE: Option<SourceId> = Some(SourceId(8));

    fn apics() -> Arc<LocalApics> {
        LocalApics::new(2, Arc::new(Silence))
    }

    fn ring(apics: &LocalApics, offset: u64, data: u32) {
        apics.ring(offset, &data.to_le_bytes(), DEVICE).unwrap();
    }

    #[test]
    fn the_address_says_which_cpu_and_the_data_which_vector() {
        let ram = PaRange::new(Pa::new(0), 0x1_0000).unwrap();
        let (bus, apics) = (Bus::new(&BusOptions::new(ram, 1)), apics());
        apics.connect(&bus).unwrap();
        let write = |at, data: u32| {
            Fabric::write(&*bus, Write { at: Pa::new(at), bytes: &data.to_le_bytes(), source: DEVICE })
        };
        write(0xfee0_1000, 0x31).unwrap();
        write(0xfee0_0000, 0xfe).unwrap();
        write(0xfee0_2000, 0x31).unwrap();
        assert_eq!(apics.take_pending(), Some(Vector { cpu: 1, vector: 0x31 }));
        assert_eq!(apics.take_pending(), Some(Vector { cpu: 0, vector: 0xfe }));
        assert_eq!(apics.take_pending(), None);
        assert_eq!(apics.counts(), ApicCounts { accepted: 2, nobody: 1, malformed: 0 });
        assert_eq!(write(0xfef0_0000, 0x31), Err(BusError { at: Pa::new(0xfef0_0000) }));
    }

    #[test]
    fn a_vector_waits_once_and_not_any_more_once_it_is_discarded() {
        let apics = apics();
        [0x31, 0x32, 0x31].into_iter().for_each(|vector| ring(&apics, 0, vector));
        apics.discard(Vector { cpu: 0, vector: 0x32 });
        assert_eq!(apics.take_pending().map(|taken| taken.vector), Some(0x31));
        assert_eq!((apics.take_pending(), apics.counts().accepted), (None, 3));
    }

    #[test]
    fn what_is_to_be_remapped_and_what_no_message_says_means_nothing_here() {
        let apics = apics();
        // To be remapped; logical; a vector below 16; NMI; a reserved bit; not a word.
        ring(&apics, 0x10, 0x31);
        ring(&apics, 0x04, 0x31);
        ring(&apics, 0, 0x0f);
        ring(&apics, 0, 0x431);
        ring(&apics, 0, 0x1_0031);
        apics.ring(0, &[0x31], DEVICE).unwrap();
        assert_eq!((apics.take_pending(), apics.counts().malformed), (None, 6));
    }
}
