//! The PASID directory of one source: a table of tables, as large as the PASIDs in use ask for.
//!
//! A directory begins with 128 entries, for PASIDs below 8192, and doubles when a larger one is attached; each of its entries leads to a table of 64 PASIDs,
//! which is made when one of them is attached. A larger directory has the same tables, so that it can take the place of the smaller by one word of the context
//! entry. The smaller is kept until hardware has confirmed that it knows the larger. What a PASID needs is there ([`Room`]) before anything changes.
//!
//! Choice: tables stay until their device is removed, also those none of whose PASIDs means anything any more: the next that is attached lacks no memory, and the unit is not asked to forget
//! what leads to a table. PASIDs are given out lowest first (`portcullis_core::pasid`): so there is at most a page for every 64 that were in use at a time, whoever's, and never more for a source
//! than 64 MiB of tables and 128 KiB of directory, those of all 2^20.
//!
//! Spec: VT-d 5.10, 9.4 "Scalable-Mode Context-Entry", PDTS; 9.5 "Scalable-Mode PASID Directory Entry", 9.6 "Scalable-Mode PASID Table Entry".
//! Not here: what stands in a table (`lead`), the invalidations (`switch`).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_hal::{BlockLayout, Platform, Registers};
use portcullis_spec::vtd::context::ScalableContextWord0;
use portcullis_spec::vtd::pasid::{DIRECTORY_ENTRY_BYTES, PASID_ENTRY_BYTES, PasidDirectoryEntry};
use portcullis_types::Pa;

use crate::context::PAGE;
use crate::hardware::Hardware;

/// PASIDs of one table, as log2.
const TABLE_LG2: u8 = 6;
/// Entries of the smallest directory, as log2.
const SMALLEST_LG2: u8 = 7;

/// A PASID directory and its tables.
#[derive(Debug)]
pub(crate) struct Directory {
    at: Pa,
    pdts: u8,
    tables: BTreeMap<u32, Pa>,
    /// Smaller ones that hardware may know still: where they lie, and their PDTS.
    outgrown: Vec<(Pa, u8)>,
}

/// Memory that an entry needs and its directory has not.
#[derive(Debug)]
#[must_use = "it is memory: put it to use, or free it"]
pub(crate) struct Room {
    /// A larger directory, and its PDTS.
    directory: Option<(Pa, u8)>,
    table: Option<Pa>,
}

impl Room {
    /// Gives back what was not put to use.
    pub(crate) fn free<P: Platform>(self, platform: &P) {
        self.directory.into_iter().for_each(|(at, pdts)| platform.free(at, layout(pdts)));
        self.table.into_iter().for_each(|table| platform.free(table, PAGE));
    }
}

impl Directory {
    /// One of the smallest size, with a table for PASID 0, the PASID of requests without one. None if there is no memory.
    pub(crate) fn new<P: Platform, R: Registers>(hardware: &Hardware<P, R>) -> Option<Self> {
        let at = allocate(hardware, layout(0))?;
        let mut directory = Self { at, pdts: 0, tables: BTreeMap::new(), outgrown: Vec::new() };
        let Some(room) = directory.room(hardware, 0) else {
            hardware.platform.free(at, layout(0));
            return None;
        };
        directory.place(hardware, 0, room);
        Some(directory)
    }

    /// The memory that the entry of a PASID lacks. None if there is none to be had.
    pub(crate) fn room<P: Platform, R: Registers>(
        &self,
        hardware: &Hardware<P, R>,
        pasid: u32,
    ) -> Option<Room> {
        let mut pdts = self.pdts;
        while pasid >> (TABLE_LG2 + SMALLEST_LG2 + pdts) != 0 {
            pdts += 1;
        }
        let mut room = Room { directory: None, table: None };
        if pdts > self.pdts {
            room.directory = Some((allocate(hardware, layout(pdts))?, pdts));
        }
        if !self.tables.contains_key(&(pasid >> TABLE_LG2)) {
            room.table = allocate(hardware, PAGE);
            if room.table.is_none() {
                room.free(&*hardware.platform);
                return None;
            }
        }
        Some(room)
    }

    /// The word of the context entry that leads here, with the flags of `flags`.
    pub(crate) fn context_word(&self, flags: ScalableContextWord0) -> u64 {
        flags.with_p(true).with_pdts(self.pdts).with_pasiddirptr_address(self.at.get()).into_bits()
    }

    /// Where the entry of a PASID lies that the directory is large enough for. `room` is what it lacked.
    pub(crate) fn place<P: Platform, R: Registers>(
        &mut self,
        hardware: &Hardware<P, R>,
        pasid: u32,
        room: Room,
    ) -> Pa {
        let index = pasid >> TABLE_LG2;
        if let Some(table) = room.table {
            hardware.store_word(self.entry(index), directory_entry(table));
            self.tables.insert(index, table);
        }
        entry_in(self.tables[&index], pasid)
    }

    /// Where the entry of PASID 0 lies.
    pub(crate) fn whole(&self) -> Pa {
        entry_in(self.tables[&0], 0)
    }

    /// Makes it, if `room` has a larger one, that with the same tables. What it was before is kept until [`settle`](Self::settle). Answers whether it was.
    pub(crate) fn grow<P: Platform, R: Registers>(
        &mut self,
        hardware: &Hardware<P, R>,
        room: &mut Room,
    ) -> bool {
        let Some((at, pdts)) = room.directory.take() else { return false };
        self.outgrown.push((self.at, self.pdts));
        (self.at, self.pdts) = (at, pdts);
        for (&index, &table) in &self.tables {
            hardware.store_word(self.entry(index), directory_entry(table));
        }
        true
    }

    /// Gives back what it was before. Hardware has confirmed that it knows this one.
    pub(crate) fn settle<P: Platform>(&mut self, platform: &P) {
        self.outgrown.drain(..).for_each(|(at, pdts)| platform.free(at, layout(pdts)));
    }

    fn entry(&self, index: u32) -> Pa {
        Pa::new(self.at.get() + DIRECTORY_ENTRY_BYTES * u64::from(index))
    }

    /// How many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let directories = self.outgrown.iter().map(|&(_, pdts)| pdts).chain([self.pdts]);
        let directories: u64 = directories.map(|pdts| layout(pdts).size_bytes()).sum();
        directories + PAGE.size_bytes() * self.tables.len() as u64
    }

    /// Gives it back. No hardware knows it any more.
    pub(crate) fn free<P: Platform>(mut self, platform: &P) {
        self.settle(platform);
        platform.free(self.at, layout(self.pdts));
        self.tables.into_values().for_each(|table| platform.free(table, PAGE));
    }
}

/// A directory is a page at least, though the smallest needs less.
fn layout(pdts: u8) -> BlockLayout {
    let lg2 = SMALLEST_LG2 + pdts + 3;
    BlockLayout::naturally_aligned(if lg2 < 12 { 12 } else { lg2 })
}

fn allocate<P: Platform, R: Registers>(hardware: &Hardware<P, R>, layout: BlockLayout) -> Option<Pa> {
    let at = hardware.platform.alloc(layout)?;
    if !hardware.features.coherent {
        hardware.platform.clean_table(at, layout.size_bytes());
    }
    // Its zeroes are visible before a word that leads there.
    hardware.platform.write_barrier();
    Some(at)
}

fn directory_entry(table: Pa) -> u64 {
    PasidDirectoryEntry::new().with_p(true).with_smptblptr_address(table.get()).into_bits()
}

fn entry_in(table: Pa, pasid: u32) -> Pa {
    Pa::new(table.get() + PASID_ENTRY_BYTES * u64::from(pasid & 0x3f))
}
