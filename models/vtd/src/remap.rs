//! Interrupt remapping: from a device's message to an interrupt, or a fault.
//!
//! Spec: VT-d 5.10, 5.1.2 "Interrupt Request Formats On Intel 64 Platforms", 5.1.3 "Interrupt Remapping Table", 5.1.4 "Interrupt-Remapping Hardware
//! Operation", 6.4 "Interrupt Entry Cache", 9.9 "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts".
//! Not here: posted interrupts, which the part does not have: IM is reserved.

use portcullis_types::SourceId;
use portcullis_types::trace::Value;

use crate::bits::{bit, byte, field, half, high, mask};
use crate::engine::Fault;
use crate::interrupt::Interrupt;
use crate::reason::Reason;
use crate::registers::{COMPATIBILITY, INTERRUPTS};
use crate::state::{Around, State};

/// What IRTA_REG was when the table pointer was last set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InterruptTable {
    pub(crate) at: u64,
    pub(crate) count: u32,
    /// EIME.
    pub(crate) wide: bool,
}

/// A refusal, and the interrupt_index as far as there is one.
type Refused = (Fault, u16);

impl State {
    /// Judges a message of a device: the offset from 0xfee0_0000, and its data.
    pub(crate) fn remap(
        &mut self,
        source: u16,
        offset: u32,
        data: u32,
        around: Around<'_>,
    ) -> Result<Interrupt, Refused> {
        let address = 0xfee0_0000 | offset & 0xf_ffff;
        let plain = Interrupt::from_message(Some(SourceId(source.into())), address, 0, data);
        if !self.registers.is_on(INTERRUPTS) {
            return Ok(plain);
        }
        // Interrupt Format.
        if address >> 4 & 1 == 0 {
            let blocked = self.interrupt_table.wide || !self.registers.is_on(COMPATIBILITY);
            return if blocked { Err((Fault::loud(Reason::InterruptCompatibility), 0)) } else { Ok(plain) };
        }
        let valid = address >> 3 & 1 == 1;
        if valid && data >> 16 != 0 {
            return Err((Fault::loud(Reason::InterruptReserved), 0));
        }
        let handle = address >> 5 & 0x7fff | (address >> 2 & 1) << 15;
        let index = if valid { handle + (data & 0xffff) } else { handle };
        let short = half(u64::from(index), 0);
        if index >= self.interrupt_table.count {
            return Err((Fault::loud(Reason::InterruptIndex), short));
        }
        let words = self.interrupt_entry(short, around)?;
        self.apply(source, short, words).map_err(|reason| (Fault { reason, silent: bit(words[0], 1) }, short))
    }

    /// The entry, cached or read.
    fn interrupt_entry(&mut self, index: u16, around: Around<'_>) -> Result<[u64; 2], Refused> {
        if let Some(&words) = self.caches.interrupts.get(&index) {
            return Ok(words);
        }
        let at = self.interrupt_table.at + 16 * u64::from(index);
        if at >> around.config.host_bits != 0 {
            return Err((Fault::loud(Reason::InterruptIndex), index));
        }
        let table = self.interrupt_table;
        let words = self
            .engine(around)
            .read_words(at, around.config.coherent)
            .map_err(|_| (Fault::loud(Reason::InterruptAccess), index))?;
        // Without caching mode, what is not present or wrong is not cached. That a source is refused is nothing wrong with the entry.
        let right = bit(words[0], 0) && !entry_reserved(words, table);
        if right || around.config.caching_mode {
            self.caches.interrupts.insert(index, words);
        }
        Ok(words)
    }

    fn apply(&self, source: u16, index: u16, words: [u64; 2]) -> Result<Interrupt, Reason> {
        if !bit(words[0], 0) {
            return Err(Reason::InterruptNotPresent);
        }
        // "Hardware performs verification of the interrupt requester": before anything else of the entry, if it says how.
        if field(words[1], 19, 18) != 3 && !verifies(words[1], source) {
            return Err(Reason::InterruptSource);
        }
        if entry_reserved(words, self.interrupt_table) {
            return Err(Reason::InterruptEntryReserved);
        }
        let destination = if self.interrupt_table.wide { high(words[0]) } else { byte(words[0], 40).into() };
        Ok(Interrupt {
            source: Some(SourceId(source.into())),
            destination,
            logical: bit(words[0], 2),
            redirected: bit(words[0], 3),
            delivery: byte(field(words[0], 7, 5), 0),
            level: bit(words[0], 4),
            vector: byte(words[0], 16),
            index: Some(index),
        })
    }

    /// A message, with what becomes of it. None if it was blocked.
    pub(crate) fn message(
        &mut self,
        source: u16,
        offset: u32,
        data: u32,
        around: Around<'_>,
    ) -> Option<Interrupt> {
        match self.remap(source, offset, data, around) {
            Ok(interrupt) => {
                self.counters.interrupts += 1;
                around.trace(
                    "interrupt",
                    &[
                        ("source", Value::Hex(source.into())),
                        ("destination", Value::Hex(interrupt.destination.into())),
                        ("vector", Value::Hex(interrupt.vector.into())),
                    ],
                );
                Some(interrupt)
            }
            Err((fault, index)) => {
                self.counters.interrupts_blocked += 1;
                self.record_interrupt_fault(source, fault, index, around);
                None
            }
        }
    }
}

/// SVT, SQ and SID, in the upper word.
fn verifies(word: u64, source: u16) -> bool {
    let sid = half(word, 0);
    match field(word, 19, 18) {
        1 => {
            let ignored: u16 = match field(word, 17, 16) {
                0 => 0,
                1 => 4,
                2 => 6,
                _ => 7,
            };
            sid & !ignored == source & !ignored
        }
        2 => (sid >> 8..=sid & 0xff).contains(&(source >> 8)),
        _ => true,
    }
}

/// Reserved fields of a present entry, those that depend on the mode included.
fn entry_reserved(words: [u64; 2], table: InterruptTable) -> bool {
    // IM is reserved where nothing is posted.
    let mut low = mask(31, 24) | mask(15, 12);
    if !table.wide {
        low |= mask(63, 48) | mask(39, 32);
    }
    let delivery = field(words[0], 7, 5);
    words[0] & low != 0
        || words[1] & mask(63, 20) != 0
        || field(words[1], 19, 18) == 3
        || matches!(delivery, 3 | 6)
}
