//! A bit of a table in memory flips, that hardware reads.
//!
//! What is reached through that table is nobody's promise any more: its space, or its device, is *spoiled*. Accesses of spoiled devices are not judged, and their
//! bytes do not move, so that nobody else loses any by them. Everybody else is judged as before.
//!
//! # Which bits
//!
//! Validity, kind, rights and addresses. Not those by which others would be hit without a promise of theirs being broken by anybody: the tags of TLB entries (ASID,
//! VMID, nG, STRW), and low bits of pointers to tables, which would lead to other memory, where any tag can be found.

use model_bus::Bus;
use portcullis::types::Pa;

use super::world::World;
use crate::fault::FaultKind;
use crate::machine::Form;
use crate::oracle::Way;
use crate::oracle::tables::{Tables, Way as Found};

/// A bit of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bit {
    at: u64,
    bit: u32,
}

/// Bits of an address at which this machine has no memory.
const FAR: core::ops::Range<u32> = 36..48;

fn bits_of(at: u64, bits: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Bit> {
    bits.into_iter().map(move |bit| Bit { at, bit })
}

/// V and Config, pointers, S1DSS, EATS, S2T0SZ and S2SL0. Spec: SMMUv3 H.a, 5.2 "STE, Stream Table Entry".
fn of_entry(entry: u64, second: bool) -> Vec<Bit> {
    let both = bits_of(entry, 0..4).chain(bits_of(entry + 8, [0, 1, 28, 29]));
    match second {
        true => both.chain(bits_of(entry + 16, 32..40)).chain(bits_of(entry + 24, FAR)).collect(),
        false => both.chain(bits_of(entry, FAR)).collect(),
    }
}

/// EPD0, EPD1, V, AA64, R, and TTB0. Spec: SMMUv3 H.a, 5.4 "CD, Context Descriptor".
fn of_context(cd: u64) -> Vec<Bit> {
    bits_of(cd, [14, 30, 31, 41, 45]).chain(bits_of(cd + 8, FAR)).collect()
}

/// Valid, AP, AF, and the address. Spec: Arm ARM DDI 0487, D8.3.1 "VMSAv8-64 descriptor formats".
fn of_tables(tables: &Tables<'_>, found: &Found, iova: u64) -> Vec<Bit> {
    let Found::Through(root) = found else { return Vec::new() };
    let path = tables.path(root, iova);
    let bits = path.iter().flat_map(|word| {
        let low: &[u32] = if word.leaf { &[0, 6, 7, 10] } else { &[0] };
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
        let first = usize::try_from(bits >> 33 & 0xff).unwrap_or(0);
        // What devices reach that share processes' memory is judged elsewhere.
        let at_rest = |index: &usize| {
            self.devices[*index].engine.form == Form::Plain
                && self.hub.shadow(|shadow| shadow.at_rest(*index)).is_some()
        };
        let Some(index) = (0..count).map(|offset| (first + offset) % count).find(at_rest) else {
            return false;
        };
        let Some((bit, entry)) = self.some_bit(index, bits) else { return false };
        if !self.hub.faults.fires(FaultKind::BitFlip) {
            return true;
        }
        self.hub.flipped();
        self.hub.shadow(|shadow| shadow.spoil(index, entry));
        flip(&self.bus, bit);
        self.hub.trace(|trace| {
            trace.note(&[bit.at, bit.bit.into()]);
            trace.say(|| {
                format!("        bit {} of the word at {:#x} flips, of device {index}", bit.bit, bit.at)
            });
        });
        true
    }

    /// A bit that hardware reads for a device, and whether it is its entry's.
    fn some_bit(&self, index: usize, bits: u64) -> Option<(Bit, bool)> {
        let device = &self.devices[index];
        let entry = self.hub.entry_of(device.spec.unit, device.engine.sources[0].0)?;
        let way = self.hub.shadow(|shadow| shadow.way(index));
        let iova = self.hub.shadow(|shadow| shadow.an_address(way));
        self.reading(|tables| {
            let found = tables.stream(entry);
            let second = matches!(found, Found::Through(root) if root.second);
            let cd = tables.context_of(entry).filter(|_| !second && matches!(way, Way::Space(_)));
            let (choice, of_entry) = match (bits >> 8 & 3, cd, iova) {
                (2 | 3, _, Some(iova)) => (of_tables(tables, &found, iova), false),
                (1, Some(cd), _) => (of_context(cd), false),
                _ => (of_entry(entry.get(), second), true),
            };
            let pick = usize::try_from(bits >> 16 & 0xffff).unwrap_or(0);
            (!choice.is_empty()).then(|| (choice[pick % choice.len()], of_entry))
        })
    }
}
