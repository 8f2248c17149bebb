//! Messages: from an address and data to an interrupt of a server.
//!
//! The address and the low 5 bits of the data say which source; its entry in the IVT (an IVE) says for which PE it is, who serves it and how urgently, and remembers in P
//! and Q whether it is being served, and whether it came again meanwhile. The bridge keeps entries in its IVC: software that changes one in memory tells it
//! with IVC_UPDATE or IVC_INVALIDATE.
//!
//! | P, Q | a message |
//! |---|---|
//! | 0, 0 | is presented, P is set; if the priority is 0xff, Q is set instead |
//! | 1, 0 | sets Q |
//! | any, 1 | is dropped |
//!
//! Observed: QEMU 7.2, hw/pci-host/pnv_phb3_msi.c, pnv_phb3_msi_send, phb3_msi_try_send; skiboot hw/phb3.c, phb3_pci_msi_eoi, phb3_msi_set_xive.
//! Not here: how a message comes in (`phb`).

use std::collections::BTreeMap;

use model_bus::{Fabric, Notes, Write};
use portcullis_types::Pa;

use crate::bits::{Field, bit};
use crate::registers::{CONTROL, CONTROL_IVE_128, IVT_BAR, IVT_LENGTH, Registers};
use crate::strict::clause;

/// Sources of one bridge. Observed: skiboot include/phb3.h: 0 to 0x7f7 are messages, the last 8 LSIs.
pub(crate) const SOURCES: u32 = 0x800;
/// The priority of what is masked.
const MASKED: u8 = 0xff;

const SERVER: Field = Field::new(0, 23);
const PRIORITY: Field = Field::new(24, 31);
const GENERATION: Field = Field::new(37, 38);
const P: u64 = bit(39);
const Q: u64 = bit(47);
const PE: Field = Field::new(48, 63);

const UPDATE_P: u64 = bit(0);
const UPDATE_Q: u64 = bit(1);
const UPDATE_SERVER: u64 = bit(2);
const UPDATE_PRIORITY: u64 = bit(3);
const UPDATE_GENERATION: u64 = bit(4);
const UPDATE_CONDITION: u64 = bit(5);
const NEW_MATCH: Field = Field::new(6, 7);
const NEW_SERVER: Field = Field::new(8, 23);
const NEW_PRIORITY: Field = Field::new(24, 31);
const NEW_GENERATION: Field = Field::new(32, 33);
const NEW_P: u64 = bit(34);
const NEW_Q: u64 = bit(35);
const NEW_SOURCE: Field = Field::new(48, 63);
const INVALIDATE_ALL: u64 = bit(0);
const INVALIDATE_SOURCE: Field = Field::new(16, 31);

/// An interrupt that the bridge presents to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number in the machine: the bridge's base and the source.
    pub number: u32,
    /// Which of the bridge's sources.
    pub source: u16,
    /// Who serves it: the field without its two lowest bits, which link servers.
    pub server: u32,
    /// How urgently: 0 most.
    pub priority: u8,
}

/// An entry of the IVT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ive {
    server: u32,
    priority: u8,
    generation: u8,
    p: bool,
    q: bool,
    pub(crate) pe: u16,
}

impl Ive {
    fn decode(word: u64) -> Self {
        Self {
            server: SERVER.get(word) as u32,
            priority: PRIORITY.get(word) as u8,
            generation: GENERATION.get(word) as u8,
            p: word & P != 0,
            q: word & Q != 0,
            pe: PE.get(word) as u16,
        }
    }
}

/// What a message does to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Presented { server: u32, priority: u8 },
    Remembered,
    Dropped,
}

/// No entry: the IVT is off, too short, or not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoEntry;

/// The IVC, and through it the IVT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ivc(BTreeMap<u16, Ive>);

impl Ivc {
    /// The entry of a source: cached, or from memory.
    pub(crate) fn entry(
        &mut self,
        source: u32,
        registers: &Registers,
        fabric: &dyn Fabric,
        notes: &mut Notes,
    ) -> Result<Ive, NoEntry> {
        let number = u16::try_from(source).map_err(|_| NoEntry)?;
        if let Some(ive) = self.0.get(&number) {
            return Ok(*ive);
        }
        let at = address(source, registers, notes)?;
        let mut word = [0; 8];
        fabric.read(at, &mut word).map_err(|_| NoEntry)?;
        let ive = Ive::decode(u64::from_be_bytes(word));
        self.0.insert(number, ive);
        Ok(ive)
    }

    /// Sends a message to a source. `again`: it was rejected before, and P is set already.
    pub(crate) fn send(
        &mut self,
        source: u32,
        again: bool,
        registers: &Registers,
        fabric: &dyn Fabric,
        notes: &mut Notes,
    ) -> Result<Sent, NoEntry> {
        let ive = self.entry(source, registers, fabric, notes)?;
        let at = address(source, registers, notes)?;
        let (p, q) = if again { (false, false) } else { (ive.p, ive.q) };
        let (next, sent) = match (p, q) {
            (_, true) => return Ok(Sent::Dropped),
            (true, false) => (Ive { q: true, ..ive }, Sent::Remembered),
            (false, false) if ive.priority == MASKED => (Ive { q: true, ..ive }, Sent::Remembered),
            (false, false) => {
                let sent = Sent::Presented { server: ive.server >> 2, priority: ive.priority };
                (Ive { p: true, ..ive }, sent)
            }
        };
        // P with its generation is a byte of its own, and so is Q: software changes the others meanwhile.
        let (place, byte) = if next.q == ive.q { (4, 1 | next.generation << 1) } else { (5, 1) };
        let bytes = [byte];
        fabric
            .write(Write { at: Pa::new(at.get() + place), bytes: &bytes, source: None })
            .map_err(|_| NoEntry)?;
        self.0.insert(source as u16, next);
        Ok(sent)
    }

    /// A store to IVC_UPDATE: changes a cached entry; one that is not cached is fetched when it is needed.
    ///
    /// Choice: where the condition fails, nothing of the entry changes.
    pub(crate) fn update(&mut self, value: u64) {
        let Some(ive) = self.0.get_mut(&(NEW_SOURCE.get(value) as u16)) else { return };
        if value & UPDATE_CONDITION != 0 && NEW_MATCH.get(value) != u64::from(ive.generation) {
            return;
        }
        if value & UPDATE_P != 0 {
            ive.p = value & NEW_P != 0;
        }
        if value & UPDATE_Q != 0 {
            ive.q = value & NEW_Q != 0;
        }
        if value & UPDATE_SERVER != 0 {
            ive.server = NEW_SERVER.get(value) as u32;
        }
        if value & UPDATE_PRIORITY != 0 {
            ive.priority = NEW_PRIORITY.get(value) as u8;
        }
        if value & UPDATE_GENERATION != 0 {
            ive.generation = NEW_GENERATION.get(value) as u8;
        }
    }

    /// A store to IVC_INVALIDATE.
    pub(crate) fn invalidate(&mut self, value: u64) {
        if value & INVALIDATE_ALL != 0 {
            self.0.clear();
        } else {
            self.0.remove(&(INVALIDATE_SOURCE.get(value) as u16));
        }
    }
}

/// Where the entry of a source lies.
fn address(source: u32, registers: &Registers, notes: &mut Notes) -> Result<Pa, NoEntry> {
    let Some(table) = registers.table(IVT_BAR) else {
        notes.record(clause::IVT_DISABLED, format!("source {source:#x}"));
        return Err(NoEntry);
    };
    let entry_bytes = if registers.get(CONTROL) & CONTROL_IVE_128 != 0 { 128 } else { 16 };
    let within = u64::from(source) < IVT_LENGTH.get(registers.get(IVT_BAR)) && source < SOURCES;
    if within { Ok(Pa::new(table + entry_bytes * u64::from(source))) } else { Err(NoEntry) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ive_lies_where_skiboot_puts_it() {
        // Server 0x48 (0x12 with its link bits), priority 5, generation 2 and P, Q, PE 3.
        let ive = Ive::decode(0x0000_4805_0501_0003);
        assert_eq!(ive, Ive { server: 0x48, priority: 5, generation: 2, p: true, q: true, pe: 3 });
    }

    #[test]
    fn an_update_with_a_condition_leaves_another_generation_alone() {
        let mut ivc = Ivc::default();
        ivc.0.insert(7, Ive::decode(0x0000_4805_0301_0003));
        // As after an interrupt was served: P off, generation 1 to 2, source 7.
        let served = |generation: u64| 0x8c00_0000_8000_0007 | generation << 56;
        ivc.update(served(0));
        assert!(ivc.0[&7].p);
        ivc.update(served(1));
        assert_eq!((ivc.0[&7].p, ivc.0[&7].q, ivc.0[&7].generation), (false, true, 2));
    }
}
