//! A bit of a table in memory flips, that hardware reads.
//!
//! What is reached through that table is nobody's promise any more: its space, or its device, is *spoiled*. Accesses of spoiled devices are not judged, and their
//! bytes do not move, so that nobody else loses any by them. Everybody else is judged as before.
//!
//! # Which bits
//!
//! Validity, kind, rights and addresses. Not those by which others would be hit without a promise of theirs being broken by anybody: the tags of TLB entries (ASID,
//! VMID, nG, STRW), and low bits of pointers to tables, which would lead to other memory, where any tag can be found. Nor bits of tables to which an entry leads that has flipped.

use model_bus::Bus;
use portcullis::types::Pa;

use super::world::World;
use crate::fault::FaultKind;
use crate::machine::{Bit, FAR, Form, bits_of};
use crate::oracle::Way;
use crate::oracle::tables::{Tables, Way as Found};

/// What a bit is of, and so who is spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hit {
    /// What leads to the entries of a device and its neighbours.
    Descriptor,
    /// A device's entry.
    Entry,
    /// What every device of a space is translated by.
    Tables,
}

/// Valid, AP, AF, and the address; reading and writing. Spec: Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats"; VT-d 5.10, 9.8 "Second-Stage Paging Entries".
fn of_tables(tables: &Tables<'_>, found: &Found, iova: u64) -> Vec<Bit> {
    let Found::Through(root) = found else { return Vec::new() };
    let path = tables.path(root, iova);
    let bits = path.iter().flat_map(|word| {
        let low: &[u32] = match (root.is_of_arm(), word.leaf) {
            (true, true) => &[0, 6, 7, 10],
            (true, false) => &[0],
            (false, _) => &[0, 1],
        };
        let address = if word.leaf { 21..FAR.end } else { FAR };
        bits_of(word.at, low.iter().copied().chain(address).collect::<Vec<_>>())
    });
    bits.collect()
}

fn flip(bus: &Bus, bit: Bit) {
    let (ram, at) = (bus.cpu().ram(), Pa::new(bit.at));
    if let Ok(word) = ram.load(at) {
        let _in_ram = ram.store_masked(at, word ^ 1 << bit.bit, u64::MAX);
    }
}

impl World {
    /// Lets a bit flip if that is armed and some device is at rest. Answers whether one did.
    pub(super) fn flip(&self, bits: u64) -> bool {
        if !self.hub.faults.is_armed(FaultKind::BitFlip) {
            return false;
        }
        let count = self.devices.len();
        let first = usize::try_from(bits >> 24 & 0xff).unwrap_or(0);
        // What devices reach that share processes' memory is judged elsewhere.
        let at_rest = |index: &usize| {
            self.devices[*index].engine.form == Form::Plain
                && self.hub.shadow(|shadow| shadow.at_rest(*index)).is_some()
        };
        let Some(index) = (0..count).map(|offset| (first + offset) % count).find(at_rest) else {
            return false;
        };
        let Some((bit, hit)) = self.some_bit(index, bits) else { return false };
        if !self.hub.faults.fires(FaultKind::BitFlip) {
            return true;
        }
        self.hub.flipped();
        self.hub.shadow(|shadow| shadow.spoil(index, hit != Hit::Tables));
        if hit == Hit::Descriptor {
            for neighbour in self.neighbours(index) {
                self.hub.shadow(|shadow| shadow.spoil(neighbour, true));
            }
        }
        flip(&self.bus, bit);
        self.hub.trace(|trace| {
            trace.note(&[bit.at, bit.bit.into()]);
            trace.say(|| {
                format!("        bit {} of the word at {:#x} flips, of device {index}", bit.bit, bit.at)
            });
        });
        true
    }

    /// All devices whose entries are led to by a word that leads to an entry of this one.
    fn neighbours(&self, index: usize) -> Vec<usize> {
        let of = |index: usize| {
            let device = &self.devices[index];
            let words = device.engine.sources.iter();
            let words = words.filter_map(|source| self.hub.descriptor_of(device.spec.unit, source.0));
            words.map(|word| (device.spec.unit, word)).collect::<Vec<_>>()
        };
        let words = of(index);
        (0..self.devices.len()).filter(|&other| of(other).iter().any(|word| words.contains(word))).collect()
    }

    /// A bit that hardware reads for a device, and what it is of.
    fn some_bit(&self, index: usize, bits: u64) -> Option<(Bit, Hit)> {
        let device = &self.devices[index];
        let (unit, source) = (device.spec.unit, device.engine.sources[0]);
        let way = self.hub.shadow(|shadow| shadow.way(index));
        let iova = self.hub.shadow(|shadow| shadow.an_address(way));
        // An entry that has flipped may lead into other spaces' tables, beyond what is its own: where its walk begins is one of its bits.
        let strays = self.hub.shadow(|shadow| shadow.has_flipped_entry(index));
        let found = if strays { Found::Nowhere } else { self.found(unit, source) };
        let (iron, place) = (&self.units[unit].iron, self.place(unit));
        self.hub.reading(|tables| {
            let own = |own| if own { Hit::Entry } else { Hit::Tables };
            let (choice, hit) = match (bits >> 8 & 3, iova) {
                (2 | 3, Some(iova)) => (of_tables(tables, &found, iova), Hit::Tables),
                (1, _) if matches!(way, Way::Space(_)) => {
                    let (choice, of_entry) = iron.inner_bits(&place, source, tables);
                    (choice, own(of_entry))
                }
                _ if bits >> 10 & 3 == 0 => (iron.outer_bits(&place, source), Hit::Descriptor),
                _ => (iron.entry_bits(&place, source, tables), Hit::Entry),
            };
            // Where no word leads to entries they lie at once; where there is no entry in memory, tables are.
            let (choice, hit) = match (choice.is_empty(), hit) {
                (true, Hit::Descriptor) => (iron.entry_bits(&place, source, tables), Hit::Entry),
                _ => (choice, hit),
            };
            let (choice, hit) = match iova {
                Some(iova) if choice.is_empty() => (of_tables(tables, &found, iova), Hit::Tables),
                _ => (choice, hit),
            };
            let pick = usize::try_from(bits >> 16 & 0xffff).unwrap_or(0);
            (!choice.is_empty()).then(|| (choice[pick % choice.len()], hit))
        })
    }
}
