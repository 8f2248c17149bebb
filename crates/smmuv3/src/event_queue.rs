//! The event queue: taking records out, and telling the hardware that there is room again.
//!
//! Records are copied out under the lock, a few at a time, and given to the caller under no lock, so that the caller may call back
//! into the driver. A call takes no more records than twice the queue's length: a device that faults without end cannot
//! hold a CPU.
//!
//! Hardware interrupts when the queue is not empty any more, and not again before it was: a record that comes while others are taken interrupts nobody. So
//! it is looked until there is none; whoever takes as many as a call takes, calls again.
//!
//! A stalled transaction of a device that shares processes' memory becomes a page request (`stalls`), under the same lock: who finds the queue empty finds the request, though who took
//! the record is busy with those before it. An unbind relies on that. Any other is answered at once, to be aborted: nobody can
//! resolve its fault, and one that is never answered blocks its device for ever. If there is no room for the answer now, it is sent later, as all are.
//!
//! Spec: SMMUv3 H.a, 7.2 "Event queue recorded faults and events", 7.4 "Event queue overflow", 3.18.2 "Interrupt sources".
//! Not here: what a record says (`event`).

use core::sync::atomic::Ordering::Relaxed;

use portcullis_core::iommu::FaultRecord;
use portcullis_core::iopf::PageResponse;
use portcullis_hal::{Lock, Platform, Registers};
use portcullis_spec::smmuv3::event::EVENT_WORDS;
use portcullis_spec::smmuv3::registers::{EVENTQ_CONS, EVENTQ_PROD, QueueIndex};
use portcullis_types::trace::{Event, Value};
use portcullis_types::{Pa, mutant};

use crate::command_queue::CommandQueue;
use crate::event;
use crate::ring::Ring;
use crate::stalls::{Stalls, Taken};

/// Records that are copied out under the lock at once.
const COPY: usize = 16;

const ENTRY_LG2: u8 = 5;

/// The event queue.
#[derive(Debug)]
pub(crate) struct EventQueue<P: Platform> {
    pub(crate) ring: Ring,
    consumer: Lock<P, Consumer>,
}

#[derive(Debug)]
struct Consumer {
    /// The position of the next record to take.
    next: u64,
    /// The last OVFLG that was seen, which is also what OVACKFLG says.
    overflow: bool,
    /// The memory is gone.
    closed: bool,
}

/// Records copied out of the queue, and what became of each.
struct Copied {
    records: [([u64; EVENT_WORDS], Taken); COPY],
    count: usize,
}

impl<P: Platform> EventQueue<P> {
    /// A queue of `1 << size_lg2` records, not yet told to the hardware. None if there is no memory below `1 << output_bits`.
    pub(crate) fn new(platform: &P, output_bits: u8, size_lg2: u8) -> Option<Self> {
        let ring = Ring::alloc(platform, output_bits, size_lg2, ENTRY_LG2)?;
        Some(Self {
            ring,
            consumer: Lock::<P, Consumer>::new(Consumer { next: 0, overflow: false, closed: false }),
        })
    }

    /// Gives the memory back. The hardware has been turned off.
    pub(crate) fn free(&self, platform: &P) {
        let mut consumer = self.consumer.lock();
        if !consumer.closed {
            consumer.closed = true;
            self.ring.free(platform);
        }
    }

    /// Takes the records that are there, oldest first, and gives each to `to`, after `respond` has the answer to a stall that nobody wants. Answers how many.
    pub(crate) fn drain<R: Registers>(
        &self,
        commands: &CommandQueue<P, R>,
        stalls: &Stalls<P>,
        respond: &dyn Fn(&PageResponse),
        to: &mut dyn FnMut(&FaultRecord),
    ) -> usize {
        let most = 2 * self.ring.slots();
        let mut taken = 0;
        while taken < most {
            let copied = self.copy(commands, stalls);
            for (raw, became) in &copied.records[..copied.count] {
                let Taken::Unwanted(answer) = became else { continue };
                if !mutant!("stall-that-nobody-wants-dropped") {
                    answer.iter().for_each(respond);
                }
                let record = event::decode(raw);
                trace(commands, &record);
                to(&record);
            }
            taken += copied.count;
            if copied.count == 0 {
                break;
            }
        }
        taken
    }

    fn copy<R: Registers>(&self, commands: &CommandQueue<P, R>, stalls: &Stalls<P>) -> Copied {
        let platform = &*commands.platform;
        let mut consumer = self.consumer.lock();
        let mut copied = Copied { records: [([0; EVENT_WORDS], Taken::Over); COPY], count: 0 };
        if consumer.closed {
            return copied;
        }
        let prod = QueueIndex::from_bits(commands.registers.read32(EVENTQ_PROD));
        // Records are read only after the index that says they are there.
        platform.read_barrier();
        let end = self.ring.position(consumer.next, prod.index());
        if end - consumer.next > self.ring.len() {
            // No producer that keeps to the book writes such an index; nothing in the queue can be trusted until it does again.
            return copied;
        }
        let overflowed = prod.overflow() != consumer.overflow;
        while copied.count < COPY && consumer.next < end {
            let raw = self.load(platform, commands.coherent, consumer.next);
            copied.records[copied.count] = (raw, stalls.take(&raw, consumer.next));
            copied.count += 1;
            consumer.next += 1;
        }
        if overflowed {
            consumer.overflow = prod.overflow();
            commands.counters.event_overflows.fetch_add(1, Relaxed);
            platform.event(&Event { source: "smmuv3", name: "event_overflow", fields: &[] });
        }
        if copied.count > 0 || overflowed {
            let cons =
                QueueIndex::new().with_index(self.ring.index(consumer.next)).with_overflow(consumer.overflow);
            // The slots are handed back only after they were read.
            platform.full_barrier();
            commands.registers.write32(EVENTQ_CONS, cons.into_bits());
        }
        commands.counters.events.fetch_add(copied.count as u64, Relaxed);
        copied
    }

    /// The position behind all records that hardware has written.
    pub(crate) fn end<R: Registers>(&self, commands: &CommandQueue<P, R>) -> u64 {
        let consumer = self.consumer.lock();
        let prod = QueueIndex::from_bits(commands.registers.read32(EVENTQ_PROD));
        let end = self.ring.position(consumer.next, prod.index());
        if end - consumer.next > self.ring.len() { consumer.next } else { end }
    }

    fn load(&self, platform: &P, coherent: bool, position: u64) -> [u64; EVENT_WORDS] {
        let at = self.ring.address(position);
        if !coherent {
            platform.invalidate(at, 1 << ENTRY_LG2);
        }
        core::array::from_fn(|index| platform.load(Pa::new(at.get() + 8 * index as u64)))
    }
}

fn trace<P: Platform, R: Registers>(commands: &CommandQueue<P, R>, record: &FaultRecord) {
    if !commands.platform.listening() {
        return;
    }
    commands.platform.event(&Event {
        source: "smmuv3",
        name: "event_record",
        fields: &[
            ("name", Value::Str(record.name)),
            ("sid", Value::Hex(record.source.map_or(0, |source| source.0).into())),
            ("iova", Value::Addr(record.iova.map_or(0, |iova| iova.get()))),
            ("word0", Value::Hex(record.raw[0])),
            ("word1", Value::Hex(record.raw[1])),
        ],
    });
}
