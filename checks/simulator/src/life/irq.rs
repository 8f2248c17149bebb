//! Interrupts that an IOMMU remaps: entries that drivers take, set, move and give back, and devices that raise what they were told to, and what they were not.
//!
//! Spec: VT-d 5.10, 5.1.2 "Interrupt Request Formats On Intel 64 Platforms".
//! Not here: who may raise what (`oracle::vectors`).

use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::sync::Arc;

use model_bus::{BusError, Doorbell, Outcome};
use portcullis::types::SourceId;
use portcullis::vtd::{Destination, Interrupt, InterruptBlock, InterruptError, InterruptMessage, Requester};

use super::Done;
use super::world::World;
use crate::fault::FaultKind;
use crate::hub::locked;
use crate::machine::Remapping;
use crate::oracle::{Ended, EntryKey, Meaning};
use crate::promise::Promise;

/// Places for blocks of entries.
pub(super) const BLOCKS: usize = 12;
/// The most entries of a block, as log2.
pub(super) const MOST_LG2: usize = 6;

/// A block of entries, as its owner and his device know it.
pub(super) struct Block {
    device: usize,
    unit: usize,
    first: u16,
    messages: Vec<InterruptMessage>,
    /// None while somebody is at it.
    block: Option<InterruptBlock>,
}

/// Brings each device's messages to the IOMMU that it is behind.
pub(super) struct Bells(pub(super) BTreeMap<SourceId, Arc<dyn Doorbell>>);

impl Doorbell for Bells {
    fn ring(&self, offset: u64, bytes: &[u8], source: Option<SourceId>) -> Result<(), BusError> {
        match source.and_then(|source| self.0.get(&source)) {
            Some(bell) => bell.ring(offset, bytes, source),
            None => Ok(()),
        }
    }
}

/// What a device writes that raises an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forge {
    /// What it was told.
    Nothing,
    /// What another device was told.
    Others,
    /// The number of an entry that is anybody's.
    Entry(u16),
    /// A message that names no entry, but an interrupt.
    Compatible(u16),
}

impl World {
    fn remapping(&self, unit: usize) -> Option<&Remapping> {
        self.units[unit].driver.remapping()
    }

    /// Takes a block out of its place, of which its device knows still.
    fn take_block(&self, place: u8) -> Option<(usize, usize, InterruptBlock)> {
        let mut places = locked(&self.blocks);
        let count = places.len();
        let found = places[usize::from(place) % count].as_mut()?;
        Some((found.device, found.unit, found.block.take()?))
    }

    fn put_block(&self, place: u8, block: Option<InterruptBlock>) {
        let mut places = locked(&self.blocks);
        let count = places.len();
        let found = &mut places[usize::from(place) % count];
        match block {
            Some(block) => {
                if let Some(found) = found {
                    found.block = Some(block);
                }
            }
            None => *found = None,
        }
    }

    /// A driver takes entries for its device, and says what each is.
    pub(super) fn take_irqs(&self, device: u8, place: u8, count_lg2: u8, bits: u16) -> Done {
        let device = self.device_index(device);
        let unit = self.devices[device].spec.unit;
        let Some(remapping) = self.remapping(unit) else { return Done::Skipped };
        let index = usize::from(place) % BLOCKS;
        if locked(&self.blocks)[index].is_some() {
            return Done::Skipped;
        }
        let block = match remapping.allocate(1 << count_lg2) {
            Ok(block) => block,
            Err(error) => {
                let lawful = matches!(error, InterruptError::NoEntries);
                self.hub.hold(Promise::Service, lawful, || format!("no entries: {error:?}"));
                return Done::Refused;
            }
        };
        let first = block.first();
        for entry in first..=first + (block.count() - 1) {
            let given = self.hub.vectors(|vectors| vectors.given((unit, entry)));
            self.hub.judged(given);
        }
        let messages = (0..block.count()).map(|index| remapping.message(&block, index)).collect();
        locked(&self.blocks)[index] = Some(Block { device, unit, first, messages, block: None });
        let mut done = Done::Succeeded;
        for (index, bits) in (0..block.count()).zip(u32::from(bits)..) {
            if self.set_entry(device, unit, &block, index, bits) != Done::Succeeded {
                done = Done::Refused;
            }
        }
        self.put_block(place, Some(block));
        done
    }

    /// Says what an entry is: an interrupt that none was before.
    fn set_entry(&self, device: usize, unit: usize, block: &InterruptBlock, index: u16, bits: u32) -> Done {
        let Some(remapping) = self.remapping(unit) else { return Done::Skipped };
        let sources = &self.devices[device].engine.sources;
        let one = sources[usize::try_from(bits & 1).unwrap_or(0) % sources.len()];
        // Those that have all bits of the function free are those of one device.
        let (requester, may) = match bits >> 1 & 3 {
            0 => (Requester::Functions(one, 3), sources.iter().map(|source| source.0).collect()),
            _ => (Requester::Source(one), vec![one.0]),
        };
        let logical = bits >> 3 & 1 == 1;
        let raised = self.hub.vectors(|vectors| vectors.fresh(logical));
        let id = raised.destination;
        let destination = if logical { Destination::Logical(id) } else { Destination::Physical(id) };
        let interrupt =
            Interrupt { vector: raised.vector, destination, level: bits >> 4 & 1 == 1, requester };
        let (key, meaning) = ((unit, block.first() + index), Meaning { sources: may, raised });
        self.change(key, Some(meaning), || remapping.set(block, index, &interrupt))
    }

    /// Changes an entry.
    fn change(
        &self,
        key: EntryKey,
        next: Option<Meaning>,
        change: impl FnOnce() -> Result<(), InterruptError>,
    ) -> Done {
        let before = self.before(None);
        self.hub.vectors(|vectors| vectors.begin(key, next.as_ref()));
        let end = change();
        let ended = match &end {
            Ok(()) => Ended::Confirmed,
            Err(InterruptError::Sync(_)) => Ended::Unconfirmed,
            Err(_) => Ended::Untouched,
        };
        self.hub.vectors(|vectors| vectors.end(key, next, ended));
        match end {
            Ok(()) => Done::Succeeded,
            Err(error) => {
                let lawful = matches!(error, InterruptError::Sync(_));
                self.hub.hold(Promise::Service, lawful, || format!("an entry cannot be so: {error:?}"));
                self.excuse(&before, &error);
                Done::Refused
            }
        }
    }

    /// An interrupt becomes another: its CPU changes, or who may raise it.
    pub(super) fn move_irq(&self, place: u8, index: u8, bits: u16) -> Done {
        let Some((device, unit, block)) = self.take_block(place) else { return Done::Skipped };
        let index = u16::from(index) % block.count();
        let done = self.set_entry(device, unit, &block, index, bits.into());
        self.put_block(place, Some(block));
        done
    }

    /// An interrupt is nothing any more, and its entry stays its owner's.
    pub(super) fn clear_irq(&self, place: u8, index: u8) -> Done {
        let Some((_, unit, block)) = self.take_block(place) else { return Done::Skipped };
        let index = u16::from(index) % block.count();
        let done = match self.remapping(unit) {
            Some(remapping) => {
                self.change((unit, block.first() + index), None, || remapping.clear(&block, index))
            }
            None => Done::Skipped,
        };
        self.put_block(place, Some(block));
        done
    }

    /// Entries are given back.
    pub(super) fn free_irqs(&self, place: u8) -> Done {
        let Some((_, unit, block)) = self.take_block(place) else { return Done::Skipped };
        let Some(remapping) = self.remapping(unit) else { return Done::Skipped };
        let keys: Vec<EntryKey> = (0..block.count()).map(|index| (unit, block.first() + index)).collect();
        let before = self.before(None);
        self.hub.vectors(|vectors| keys.iter().for_each(|&key| vectors.begin(key, None)));
        let end = remapping.free_block(block);
        let ended = if end.is_ok() { Ended::Confirmed } else { Ended::Unconfirmed };
        self.hub.vectors(|vectors| {
            keys.iter().for_each(|&key| vectors.end(key, None, ended));
            let left = keys.iter().filter(|_| ended == Ended::Unconfirmed);
            left.for_each(|&key| vectors.left(key));
        });
        self.put_block(place, None);
        match end {
            Ok(()) => Done::Succeeded,
            Err(error) => {
                self.excuse(&before, &error);
                Done::Refused
            }
        }
    }

    /// A device raises an interrupt. Answers whether it was let through; none if there was nothing to raise.
    fn raise(&self, device: usize, source: u8, place: u8, index: u8, forge: Forge) -> Option<bool> {
        let (owner, unit, first, message) = {
            let places = locked(&self.blocks);
            let found = places[usize::from(place) % BLOCKS].as_ref()?;
            let index = usize::from(index) % found.messages.len();
            let entry = found.first + u16::try_from(index).expect("few entries");
            (found.device, found.unit, entry, found.messages[index])
        };
        let (device, message) = match forge {
            Forge::Nothing => (owner, message),
            Forge::Others => (device, message),
            Forge::Entry(entry) => (device, of_entry(entry)),
            Forge::Compatible(bits) => (device, compatible(bits)),
        };
        // Where nothing says what messages mean, they mean what devices say.
        self.remapping(self.devices[device].spec.unit)?;
        if forge != Forge::Nothing {
            self.hub.faults.happened(FaultKind::ForgedInterrupt);
        }
        let engine = &self.devices[device].engine;
        let source = engine.sources[usize::from(source) % engine.sources.len()];
        let expected = match forge {
            // What a spoiled device sends goes nowhere.
            Forge::Nothing if !self.hub.is_spoiled(source.0) => {
                self.hub.vectors(|vectors| vectors.expects((unit, first), source.0))
            }
            _ => None,
        };
        self.hub.vectors(|vectors| vectors.take_last());
        let outcome = engine.message(source, message.address, message.data);
        let seen = self.hub.vectors(|vectors| vectors.take_last());
        if outcome != Outcome::Done {
            self.refused.fetch_add(1, Relaxed);
        }
        self.hub.trace(|trace| trace.note(&[message.address, u64::from(outcome == Outcome::Done)]));
        let fits = expected.is_none_or(|raised| seen == Some((source.0, raised)));
        self.hub.hold(Promise::Service, fits, || {
            format!("{source} was to raise {expected:x?} by entry {first:#x}, and got {outcome:?}: {seen:x?}")
        });
        Some(outcome == Outcome::Done)
    }

    /// The same as an operation of its own.
    pub(super) fn raise_irq(&self, device: u8, source: u8, place: u8, index: u8, forge: Forge) -> Done {
        match self.raise(self.device_index(device), source, place, index, forge) {
            Some(true) => Done::Succeeded,
            Some(false) => Done::Refused,
            None => Done::Skipped,
        }
    }

    /// A device raises something in the middle of an operation, now and then. Answers whether it did.
    pub(super) fn raise_in_turn(&self, device: usize, bits: u64) -> bool {
        if !self.spec.kind.is_pc() || bits >> 3 & 3 != 0 {
            return false;
        }
        let byte = |place: u32| u8::try_from(bits >> place & 0xff).expect("a byte");
        let entry = u16::try_from(bits >> 16 & 0xff).expect("16 bits");
        let forge = match bits >> 5 & 7 {
            0 => Forge::Entry(entry),
            1 => Forge::Compatible(entry),
            2 | 3 => Forge::Others,
            _ => Forge::Nothing,
        };
        self.raise(device, byte(8), byte(12), byte(20), forge).is_some()
    }

    /// Everybody gives his entries back.
    pub(super) fn end_irqs(&self) {
        for place in 0..u8::try_from(BLOCKS).expect("few blocks") {
            self.free_irqs(place);
        }
    }
}

/// A message of the remappable format: bit 4 says so; the handle is bits 19:5, and bit 2.
fn of_entry(entry: u16) -> InterruptMessage {
    let handle = u64::from(entry);
    InterruptMessage { address: 0xfee0_0010 | (handle & 0x7fff) << 5 | handle >> 15 << 2, data: 0 }
}

/// A message of the compatibility format: the CPU, and the vector.
fn compatible(bits: u16) -> InterruptMessage {
    let [vector, cpu] = bits.to_le_bytes();
    InterruptMessage { address: 0xfee0_0000 | u64::from(cpu) << 12, data: u32::from(vector | 0x20) }
}
